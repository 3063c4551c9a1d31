"""What a configuration describes apart from its data: backend, model, objective, and how batches reach them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mithril_losses.backends import get_backend
from mithril_losses.backends.namespaces import Array
from mithril_losses.domains import ClassTargets
from mithril_losses.models import compile_model
from mithril_losses.objectives import Objective, Term
from mithril_losses.objectives.objective import ObjectiveResult
from mithril_losses.training.config import TrainingConfig
from mithril_losses.training.data import DIGITS, Arrays
from mithril_losses.training.errors import user_error
from mithril_losses.training.loop import Metric, evaluated, inputs_of, mode
from mithril_losses.training.programs import Guarded, Program, load_program
from mithril_losses.training.sources import PARAMETERS, Order, Source, generator
from mithril_losses.training.tables import Rows, changed
from mithril_losses.training.trees import Tree

LAZY_BATCH = 1024  # the examples that are evaluated at once, if they are read as they are needed


class Experiment:
    """The parts of a run. `build` must follow, once the width of the input is known.

    Args:
        config: see `read_config`.
        model: a model from elsewhere; see `load_program`.

    Attributes:
        name: what `--model` names.
        objective: the objective, whose errors are the user's to see.
        backend: makes the arrays of the run.
        dtype: the dtype in which data must be finite.
        inputs: the entry of the data for each input of the model, or None if the model takes what it likes.
        tree: (after `build`) the structure of the parameters.
        program: (after `build`) the model with its starting parameters.
        model: (after `build`) the model, whose errors are the user's to see.

    Raises:
        UserError: the parts do not fit together.
    """

    tree: Tree
    program: Program
    model: Guarded

    def __init__(self, config: TrainingConfig, model: str | None = None) -> None:
        self.config = config
        self.objective = _UsersObjective(*config.objective.build())
        self.name = model
        self._own = None if model is None else load_program(model, config)
        if self._own is None:
            with user_error("backend"):
                self.backend = get_backend(config.backend, dtype=config.dtype)
        else:
            self.backend = self._own.tree.backend
        self.inputs = self._entries_of_inputs()
        dtype = str(self.backend.zeros(()).dtype).removeprefix("torch.")
        self.dtype = dtype if dtype in ("float32", "float64") else "float32"

    def build(self, width: int) -> None:
        """Make the model for inputs of so many columns, unless it came from elsewhere."""
        self.program = self._own or self._perceptron(width)
        self.tree = self.program.tree
        self.model = Guarded(self.program.model, self.name or "model")

    def _perceptron(self, width: int) -> Program:
        network = self.config.model.build()
        with user_error("model"):
            initial = network.initial_parameters(width, generator(self.config.seed, PARAMETERS))
            params = {name: self.backend.array(array) for name, array in initial.items()}
            model = compile_model(lambda xp, params, data: network(xp, params, data["input"]), self.backend.name)
        return Program(model, params)

    # --- the data of the run -----------------------------------------------------------------------------------------

    def _entries_of_inputs(self) -> dict[str, str] | None:
        known = self.config.data.input_name
        if self._own is None:
            return {"input": known}
        if self.config.model.inputs is not None:
            return self.config.model.inputs
        names = self._own.inputs
        if names is None:
            return None
        return {name: name for name in names} if len(names) > 1 else dict.fromkeys(names, known)

    def entries(self, with_targets: bool = True) -> set[str] | None:
        """Return the entries of the data that the run uses, or None for all that are there."""
        targets = (
            {entry for term in self.objective.terms for entry in term.entry_of.values()} if with_targets else set()
        )
        if self.inputs is not None:
            return targets | set(self.inputs.values())
        data = self.config.data
        return targets | {data.input_name} if data.is_table or data.input is not None or data.file is None else None

    def on_backend(self, examples: Arrays) -> Arrays:
        """Return examples in memory as arrays of the backend, so that batches need no conversion."""
        if any(isinstance(array, Rows) for array in examples.values()):
            return examples
        with user_error(f"{self.config.data.file or DIGITS} on {self.backend.name}"):
            return {name: self.backend.array(array) for name, array in examples.items()}

    def fitted(self, examples: Arrays) -> Arrays:
        """Return examples whose targets have the shape (n, 1) and the dtype of an output of size 1, where it is one.

        A column of a table is (n,); what a table gives as whole numbers may be meant as real ones.
        """
        two = {name: self.backend.array(self.in_memory(array[:2])) for name, array in examples.items()}
        with mode(self.model, training=False):
            outputs = self.model.evaluate(self.program.params, inputs_of(two, self.inputs))
        labels = {entry for term, argument, entry in self._wiring() if _are_labels(term, argument)}
        fitted = dict(examples)
        for term, _, entry in self._wiring():
            output = outputs.get(next(iter(term.output_of.values())))
            if output is None or entry in labels or entry not in fitted:
                continue
            if len(fitted[entry].shape) == 1 and len(output.shape) == 2 and output.shape[1] == 1:
                fitted[entry] = changed(fitted[entry], lambda x: x.reshape(-1, 1))
            if self.config.data.is_table and _are_integers(fitted[entry]):
                fitted[entry] = changed(fitted[entry], self._real)
        return fitted

    def _wiring(self) -> list[tuple[Term, str, str]]:
        return [(term, argument, entry) for term in self.objective.terms for argument, entry in term.entry_of.items()]

    def _real(self, array: Array) -> Array:
        return self.backend.array(np.asarray(self.backend.to_numpy(array), dtype=np.float64))

    def in_memory(self, array: Any) -> Array:
        """Return an array of the backend, or rows of a file, as an array of NumPy."""
        found = array[:]
        return found if isinstance(found, np.ndarray) else self.backend.to_numpy(found)

    # --- losses and predictions --------------------------------------------------------------------------------------

    def classifiers(self) -> list[tuple[Term, str, str]]:
        """Return term, output and target for each loss that compares rows of scores with class labels."""
        return [
            (term, term.output_of[term.pair.wrt[0]], entry)
            for term, argument, entry in self._wiring()
            if _are_labels(term, argument) and term.pair.wrt[0] in term.output_of
        ]

    def metrics(self, examples: Arrays) -> dict[str, Metric]:
        """Return the accuracies that can be computed on a set, by name."""
        return {
            f"accuracy_{output}": self._accuracy(term, output, target)
            for term, output, target in self.classifiers()
            if len(examples[target].shape) == 1 and _are_integers(examples[target])
        }

    def _accuracy(self, term: Term, output: str, target: str) -> Metric:
        """Return the metric: the fraction of examples, ignored ones left out, whose largest score has the label."""

        def metric(outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> float:
            scores, labels = self.backend.to_numpy(outputs[output]), self.backend.to_numpy(batch[target])
            counted = labels != term.options.get("ignore_index")  # all labels if this is None
            return float(np.mean(scores.argmax(axis=-1)[counted] == labels[counted]))

        return metric

    def evaluation_batch_size(self, examples: Arrays) -> int | None:
        """Return how many examples of a set are evaluated at once; None is all."""
        lazy = any(isinstance(array, Rows) for array in examples.values())
        return self.config.run.evaluation_batch_size or (LAZY_BATCH if lazy else None)

    def _source(self, examples: Arrays) -> Source:
        return Source(examples, self.backend, Order(self.evaluation_batch_size(examples), shuffle=False))

    def evaluate(self, params: Any, examples: Arrays, step: int = 0, check_finite: bool = False) -> dict[str, float]:
        """Return losses and metrics on a set, with weights as at `step`."""
        return evaluated(
            self.model, self.objective, params, self._source(examples), step, self.inputs, self.metrics(examples),
            check_finite=check_finite,
        )  # fmt: skip

    def predict(self, params: Any, examples: Arrays) -> dict[str, Array]:
        """Return the outputs for all examples, as NumPy arrays by name."""
        found: dict[str, list[Array]] = {}
        with mode(self.model, training=False):
            for batch in self._source(examples).epoch(1):
                for name, output in self.model.evaluate(params, inputs_of(batch, self.inputs)).items():
                    found.setdefault(name, []).append(self.backend.to_numpy(output))
        return {name: np.concatenate(parts) for name, parts in found.items()}


class _UsersObjective(Objective):
    """An objective whose errors are those of the user's file: a loss may ask for more examples than a batch has."""

    def evaluate(self, *arguments: Any, **keywords: Any) -> ObjectiveResult:
        with user_error("objective"):
            return super().evaluate(*arguments, **keywords)


def _are_integers(array: Any) -> bool:
    return getattr(array.dtype, "kind", "") in ("i", "u") or "int" in str(array.dtype)


def _are_labels(term: Term, argument: str) -> bool:
    return isinstance(term.pair.domain.get(argument), ClassTargets)
