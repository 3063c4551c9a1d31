"""A training run from a configuration: `fit`, with the model, the data and the folder that the configuration names."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from mithril_losses.backends import Backend, get_backend
from mithril_losses.backends.namespaces import Array
from mithril_losses.domains import ClassTargets
from mithril_losses.models import compile_model
from mithril_losses.objectives import Objective, Term
from mithril_losses.objectives.objective import ObjectiveResult
from mithril_losses.training.arrays import open_arrays
from mithril_losses.training.checkpoints import Checkpoint, CheckpointFile
from mithril_losses.training.config import TrainingConfig, fingerprint, to_toml
from mithril_losses.training.data import (
    DIGITS,
    DIGITS_SHAPE,
    Arrays,
    Dataset,
    Preparation,
    load_dataset,
    load_examples,
)
from mithril_losses.training.errors import UserError, user_error
from mithril_losses.training.files import Write, owned, write_atomically
from mithril_losses.training.fit import fit
from mithril_losses.training.loop import Metric, Progress, Record, evaluated, inputs_of, mode
from mithril_losses.training.plotting import Examples, draw_training
from mithril_losses.training.programs import Guarded, Program, load_program
from mithril_losses.training.sources import PARAMETERS, Order, Source, generator
from mithril_losses.training.tables import Rows, changed
from mithril_losses.training.trees import Tree, like_array

# The files that a run writes into its folder.
CHECKPOINT, WEIGHTS, HISTORY, CONFIG = "checkpoint.npz", "parameters.npz", "history.csv", "config.toml"
PREPARATION, PICTURE = "preparation.json", "training.png"
FILES = (CHECKPOINT, WEIGHTS, HISTORY, CONFIG, PREPARATION, PICTURE)

LAZY_BATCH = 1024  # the examples that are evaluated at once, if they are read as they are needed


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        params: the parameters that the run keeps, arrays of its backend: those of its last epoch, or of its best.
        history: one record per epoch. Training losses are means over the examples, computed during the epoch; losses
            and accuracies on held-out examples are computed at its end.
        test: the losses on the test set, and the fraction that is classified correctly (`accuracy_<output>`), for each
            output with class labels.
        files: the files that were written.
        stopped: why the run ended: "epochs" or "patience".
    """

    params: Any
    history: list[Record]
    test: dict[str, float]
    files: list[Path]
    stopped: str

    @property
    def accuracy(self) -> dict[str, float]:
        """The accuracies on the test set, by output."""
        return accuracies(self.test)


def accuracies(found: Mapping[str, float]) -> dict[str, float]:
    """Return the accuracies among losses and metrics, by output."""
    return {name.removeprefix("accuracy_"): value for name, value in found.items() if name.startswith("accuracy_")}


@np.errstate(all="ignore")  # if a run diverges, one line says so, without warnings
def train(
    config: TrainingConfig,
    *,
    model: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_batch: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Record], None] | None = None,
) -> TrainingResult:
    """Train the model of a configuration, and write parameters, history, configuration, picture and checkpoint.

    No file of an earlier run is changed before the first epoch is complete. After each epoch `checkpoint.npz`,
    `parameters.npz`, `history.csv` and `config.toml` are replaced, so that an interrupted run leaves the files of its
    last complete epoch. The files beside a checkpoint always belong to the same epoch. If the process is killed, some
    may be missing; then `resume` writes them first. One run at a time owns the folder.

    Args:
        config: see `read_config`.
        model: a model from elsewhere; see `load_program`.
        resume: continue from the checkpoint in the output folder.
        overwrite: replace a run in the output folder.
        on_batch: called after each batch.
        on_epoch: called after each epoch, when its files are written. If a run is resumed, it is also called for each
            epoch in the checkpoint.

    Raises:
        UserError: something in the configuration, the data, the checkpoint or the output folder is wrong, or another
            run is or was there.
        DivergedError: a loss is no longer finite, or out of all proportion.
        FitInterrupted: Ctrl-C.
    """
    folder = Path(config.run.output)
    has_run = os.path.lexists(folder / CHECKPOINT)
    if resume and not has_run:
        raise UserError(
            f"{folder / CHECKPOINT}: there is no checkpoint to resume from; leave out --resume to start a new run"
        )
    if has_run and not resume and not overwrite:
        raise UserError(
            f"run.output: {folder} holds a run already: --resume continues it, --overwrite replaces it, "
            "--set run.output=FOLDER keeps it"
        )
    trainer = Trainer(config, model)

    def on_resume(history: list[Record]) -> None:
        for record in history:
            _tell(on_epoch, record)

    with owned(folder, FILES, key="run.output: "):
        result = fit(
            **trainer.arguments(), checkpoint=RunFolder(folder, trainer), resume=resume, overwrite=overwrite,
            on_batch=on_batch, on_resume=on_resume, callbacks=[lambda epoch: _tell(on_epoch, epoch.record)],
        )  # fmt: skip
        params = result.best_params if config.run.keep == "best" else result.params
        if config.run.picture:
            trainer.draw(result.history, params, folder)
    written = [folder / name for name in FILES if (folder / name).exists()]
    test = trainer.evaluate(params, trainer.sets["test"], result.steps)
    return TrainingResult(params, result.history, test, written, result.stopped)


def _tell(callback: Callable[[Record], None] | None, record: Record) -> None:
    if callback is not None:
        callback(record)


class RunFolder(CheckpointFile):
    """The folder of a run, which it owns already: parameters, history and configuration beside the checkpoint."""

    def __init__(self, folder: Path, trainer: Trainer) -> None:
        super().__init__(folder / CHECKPOINT)
        self._trainer = trainer

    def owned(self) -> AbstractContextManager[None]:
        """Do nothing: the run owns the folder."""
        return nullcontext()

    def others(self, checkpoint: Checkpoint, best: Mapping[str, Array]) -> dict[Path, Write]:
        """Return the files beside the checkpoint."""
        last = {
            name.removeprefix("parameters/"): array
            for name, array in checkpoint.arrays.items()
            if name.startswith("parameters/")
        }
        kept = best if self._trainer.config.run.keep == "best" else last
        folder = self.path.parent
        files: dict[Path, Write] = {
            folder / WEIGHTS: lambda file: np.savez(file, **kept),
            folder / HISTORY: lambda file: file.write(to_csv(checkpoint.history).encode()),
            folder / CONFIG: lambda file: file.write(self._trainer.description().encode()),
        }
        if self._trainer.preparation != Preparation():
            files[folder / PREPARATION] = lambda file: file.write(self._trainer.preparation.to_json().encode())
        return files

    @property
    def outdated(self) -> list[Path]:
        """The picture, which shows an earlier state, and the preparation of an earlier run."""
        return [self.path.parent / name for name in (PICTURE, PREPARATION)]


class Trainer:
    """Everything that a configuration describes, built and tested on the data once.

    Args:
        config: see `read_config`.
        model: a model from elsewhere; see `load_program`.

    Raises:
        UserError: the parts do not fit together, or the data do not fit the losses.
    """

    def __init__(self, config: TrainingConfig, model: str | None = None) -> None:
        self.config = config
        self.objective = _UsersObjective(*config.objective.build())
        program = None if model is None else self._from_elsewhere(model)
        if program is None:
            with user_error("backend"):
                self.backend = get_backend(config.backend, dtype=config.dtype)
        else:
            self.backend = Tree(program.params).backend
        self.inputs = self._entries_of_inputs(program)
        dtype = str(self.backend.zeros(()).dtype).removeprefix("torch.")
        self.dtype = dtype if dtype in ("float32", "float64") else "float32"  # in which data must be finite
        dataset = self._load()
        self.preparation = dataset.preparation
        self.program = program or self._perceptron(dataset.sets["train"][config.data.input_name].shape[1])
        self.model = Guarded(self.program.model, model or "model")
        self.sets = {name: self.fitted(self._on_backend(examples)) for name, examples in dataset.sets.items()}
        self.metrics = {f"accuracy_{output}": _accuracy(*each) for each in self._classifiers() for output in each[1:2]}
        described = config.model_copy(update={"backend": self.backend.name})
        facts = {"data (sha256)": dataset.digest}
        if model is not None:
            facts |= {"--model": model, "--model (sha256)": self.program.digest}
        self.fingerprint = fingerprint(described.model_dump(), facts)
        self._model_name = model
        for examples in self.sets.values():
            self.evaluate(self.program.params, examples, check_finite=True)

    # --- the parts ---------------------------------------------------------------------------------------------------

    def _from_elsewhere(self, model: str) -> Program:
        return load_program(model, self.config.model, self.config.backend, self.config.dtype)

    def _perceptron(self, features: int) -> Program:
        network = self.config.model.build()
        with user_error("model"):
            initial = network.initial_parameters(features, generator(self.config.seed, PARAMETERS))
            params = {name: self.backend.array(array) for name, array in initial.items()}
            model = compile_model(lambda xp, params, data: network(xp, params, data["input"]), self.backend.name)
        return Program(model, params)

    def _entries_of_inputs(self, program: Program | None) -> dict[str, str] | None:
        """Return the entry of the data for each input of the model, or None if the model takes what it likes."""
        known = self.config.data.input_name
        if program is None:
            return {"input": known}
        if self.config.model.inputs is not None:
            return self.config.model.inputs
        if program.inputs is None:
            return None
        return {name: name for name in program.inputs} if len(program.inputs) > 1 else {program.inputs[0]: known}

    @property
    def entries(self) -> set[str]:
        """The entries of the data that the run uses."""
        targets = {entry for term in self.objective.terms for entry in term.entry_of.values()}
        return targets | set((self.inputs or {}).values())

    def _load(self) -> Dataset:
        targets = self.entries - {self.config.data.input_name}
        return load_dataset(self.config.data, targets, self.config.seed, self.dtype)

    def _on_backend(self, examples: Arrays) -> Arrays:
        """Return examples in memory as arrays of the backend, so that batches need no conversion."""
        if any(isinstance(array, Rows) for array in examples.values()):
            return examples
        with user_error(f"{self.config.data.file or DIGITS} on {self.backend.name}"):
            return {name: self.backend.array(array) for name, array in examples.items()}

    def fitted(self, examples: Arrays) -> Arrays:
        """Return examples whose targets have the shape (n, 1) and the dtype of an output of size 1, where it is one.

        A column of a table is (n,); what a table gives as whole numbers may be meant as real ones.
        """
        two = {name: self.backend.array(np.asarray(_rows(array, 2, self.backend))) for name, array in examples.items()}
        outputs = self.model.evaluate(self.program.params, inputs_of(two, self.inputs))
        fitted = dict(examples)
        for term in self.objective.terms:
            output = outputs.get(next(iter(term.output_of.values())))
            for argument, entry in term.entry_of.items():
                if output is None or entry not in fitted or isinstance(term.pair.domain.get(argument), ClassTargets):
                    continue
                array = fitted[entry]
                if len(array.shape) == 1 and tuple(output.shape) == (len(next(iter(two.values()))), 1):
                    array = changed(array, lambda x: x.reshape(-1, 1))
                if self.config.data.is_table and "int" in str(array.dtype):
                    array = changed(array, self._real)
                fitted[entry] = array
        return fitted

    def _real(self, array: Array) -> Array:
        return self.backend.array(np.asarray(self.backend.to_numpy(array), dtype=np.float64))

    def _classifiers(self) -> list[tuple[Term, str, str, Backend]]:
        """Return term, output, target and backend for each loss that compares rows of scores with class labels."""
        train = self.sets["train"]
        return [
            (term, term.output_of[term.pair.wrt[0]], target, self.backend)
            for term in self.objective.terms
            for argument, target in term.entry_of.items()
            if isinstance(term.pair.domain.get(argument), ClassTargets)
            and len(train[target].shape) == 1
            and "int" in str(train[target].dtype)
        ]

    # --- what is made of them ----------------------------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `fit`."""
        run, optimizer = self.config.run, self.config.optimizer
        held_out = ["validation"] if "validation" in self.sets else ["test"]
        return {
            "model": self.model,
            "objective": self.objective,
            "params": self.program.params,
            "data": self.sets["train"],
            "optimizer": optimizer.build(),
            "epochs": run.epochs,
            "batch_size": run.batch_size,
            "evaluation_batch_size": self._evaluated_at_once,
            "seed": self.config.seed,
            "inputs": self.inputs,
            "evaluate_on": {name: self.sets[name] for name in held_out},
            "metrics": self.metrics,
            "schedule": None if optimizer.schedule is None else optimizer.schedule.build(),
            "clip_norm": optimizer.clip_norm,
            "monitor": run.monitor,
            "maximize": run.maximize,
            "patience": run.patience,
            "fingerprint": self.fingerprint,
        }

    @property
    def _evaluated_at_once(self) -> int | None:
        lazy = any(isinstance(array, Rows) for examples in self.sets.values() for array in examples.values())
        return self.config.run.evaluation_batch_size or (LAZY_BATCH if lazy else None)

    def description(self) -> str:
        """Return the configuration as it was resolved, which repeats the run."""
        described = self.config.model_copy(update={"backend": self.backend.name})
        table = described.model_dump(exclude_unset=True)
        used = f"--model {self._model_name!r}" if self._model_name else ""
        return (
            f"# written by mithril-losses train {used}".rstrip()
            + "\n"
            + to_toml({**table, "backend": self.backend.name})
        )

    def evaluate(
        self, params: Any, examples: Arrays, step: int = 0, check_finite: bool = False
    ) -> dict[str, float]:
        """Return losses and metrics on a set, with weights as at `step`."""
        source = Source(examples, self.backend, Order(self._evaluated_at_once, shuffle=False))
        return evaluated(
            self.model, self.objective, params, source, step, self.inputs, self.metrics, check_finite=check_finite
        )

    def predict(self, params: Any, examples: Arrays) -> dict[str, Array]:
        """Return the outputs for all examples, as NumPy arrays by name."""
        found: dict[str, list[Array]] = {}
        source = Source(examples, self.backend, Order(self._evaluated_at_once, shuffle=False))
        with mode(self.model, training=False):
            for batch in source.epoch(1):
                for name, output in self.model.evaluate(params, inputs_of(batch, self.inputs)).items():
                    found.setdefault(name, []).append(self.backend.to_numpy(output))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def draw(self, history: Sequence[Record], params: Any, folder: Path) -> None:
        """Write the picture of the run."""
        figure = draw_training(history, self._pictures(params))
        with user_error(f"cannot write into {folder}", OSError):
            write_atomically({folder / PICTURE: lambda file: figure.savefig(file, format="png")})

    def _pictures(self, params: Any) -> Examples | None:
        """Return the test examples of the picture, or None if the inputs are not images."""
        data = self.config.data
        shape = data.image_shape or (DIGITS_SHAPE if data.file is None and data.input_name == "image" else None)
        if shape is None or "test" not in self.sets:
            return None
        test = self.sets["test"]
        predictions = self.predict(params, test)
        labels = classes = reconstructions = None
        for _, output, target, _ in self._classifiers():
            labels, classes = _in_memory(test[target], self.backend), predictions[output].argmax(axis=-1)
        for term in self.objective.terms:
            if data.input_name in term.entry_of.values():
                reconstructions = predictions[next(iter(term.output_of.values()))]
                if term.pair.name.endswith("_with_logits"):
                    reconstructions = expit(reconstructions)
        return Examples(
            images=_in_memory(test[data.input_name], self.backend).reshape(-1, *shape),
            labels=labels,
            predictions=classes,
            reconstructions=None if reconstructions is None else reconstructions.reshape(-1, *shape),
        )


class _UsersObjective(Objective):
    """An objective whose errors are those of the user's file: a loss may ask for more examples than a batch has."""

    def evaluate(self, *arguments: Any, **keywords: Any) -> ObjectiveResult:
        with user_error("objective"):
            return super().evaluate(*arguments, **keywords)


def _accuracy(term: Term, output: str, target: str, backend: Backend) -> Metric:
    """Return the metric: the fraction of the examples, other than ignored ones, whose largest score has the label."""

    def metric(outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> float:
        scores, labels = backend.to_numpy(outputs[output]), backend.to_numpy(batch[target])
        counted = labels != term.options.get("ignore_index")  # all labels if this is None
        return float(np.mean(scores.argmax(axis=-1)[counted] == labels[counted]))

    return metric


def _rows(array: Any, count: int, backend: Backend) -> Array:
    found = array[:count]
    return found if isinstance(found, np.ndarray) else backend.to_numpy(found)


def _in_memory(array: Any, backend: Backend) -> Array:
    return _rows(array, len(array), backend)


def to_csv(history: Sequence[Record]) -> str:
    """Return the records as text: a header, then one line per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


# --- a run that is done ---------------------------------------------------------------------------------------------


def load_parameters(folder: Path, trainer: Trainer) -> Any:
    """Return the parameters in the folder of a run, as the trainer's model takes them.

    Raises:
        UserError: there are none, or they belong to another model.
    """
    path = folder / WEIGHTS
    tree = Tree(trainer.program.params)
    like = tree.named(trainer.program.params)
    with open_arrays(path) as found:
        if found.keys() != like.keys():
            raise UserError(f"{path}: it holds {', '.join(sorted(found))}, and the model has {', '.join(sorted(like))}")
        arrays = {name: found[name] for name in like}
    for name, x in like.items():
        if arrays[name].shape != tuple(x.shape):
            raise UserError(f"{path}: {name} has the shape {arrays[name].shape}, and {tuple(x.shape)} in the model")
    return tree.nested({name: like_array(arrays[name], x, tree.backend) for name, x in like.items()})


def load_other_examples(folder: Path, trainer: Trainer, path: str, with_targets: bool) -> Arrays:
    """Return the examples of another file, prepared as the run prepared its own.

    Raises:
        UserError: the file cannot be read or lacks a column or array.
    """
    known = folder / PREPARATION
    preparation = Preparation.from_json(known) if known.exists() else Preparation()
    entries = trainer.entries if with_targets else set((trainer.inputs or {}).values())
    config = trainer.config.data
    examples = load_examples(config, path, entries - {config.input_name}, preparation, trainer.dtype)
    return trainer.fitted(examples)
