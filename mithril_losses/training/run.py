"""Training a compiled model by handing it the gradients of an objective on its outputs."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from mithril_losses.backends import get_backend
from mithril_losses.backends.namespaces import Array
from mithril_losses.domains import ClassTargets
from mithril_losses.models import compile_model
from mithril_losses.objectives import Objective, Term
from mithril_losses.training.checkpoints import Checkpoint, fingerprint, join, load_checkpoint, split
from mithril_losses.training.config import TrainingConfig
from mithril_losses.training.data import DIGITS, DIGITS_SHAPE, PARAMETERS, batches, generator, load_dataset
from mithril_losses.training.errors import UserError, user_error
from mithril_losses.training.files import Write, owned, write_atomically
from mithril_losses.training.optimizers import State
from mithril_losses.training.plotting import Examples, draw_training

Record = dict[str, float]  # one epoch: "epoch", "train_loss", "train_<component>", …, "accuracy_<output>"

# The files that a run writes into its folder.
FILES = WEIGHTS, HISTORY, CHECKPOINT, PICTURE = "parameters.npz", "history.csv", "checkpoint.npz", "training.png"


class Progress(NamedTuple):
    """The progress of a run, counted in batches."""

    done: int
    total: int


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        params: the trained parameters, arrays of the run's backend.
        history: one record per epoch. Training losses are means over the examples, computed during the epoch; test
            losses and accuracies are computed at its end.
        accuracy: the fraction of the test examples that is classified correctly, for each output with class labels.
        files: the files that were written.
    """

    params: dict[str, Array]
    history: list[Record]
    accuracy: dict[str, float]
    files: list[Path]


@np.errstate(all="ignore")  # if a run diverges, one line says so, without warnings
def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    on_batch: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Record], None] | None = None,
) -> TrainingResult:
    """Train the model of a configuration, and write parameters, history, picture and checkpoint.

    No file of an earlier run is changed before the first epoch is complete. After each epoch `checkpoint.npz`,
    `parameters.npz` and `history.csv` are replaced, so that an interrupted run (`KeyboardInterrupt` is not caught)
    leaves the files of its last complete epoch. The files beside a checkpoint always belong to the same epoch. If the
    process is killed, some may be missing; then `resume` writes them first. One run at a time owns the folder.

    Args:
        config: see `read_config`.
        resume: continue from the checkpoint in the output folder.
        on_batch: called after each batch.
        on_epoch: called after each epoch, when its files are written. If a run is resumed, it is also called for each
            epoch in the checkpoint.

    Raises:
        UserError: something in the configuration, the data, the checkpoint or the output folder is wrong, another run
            owns the folder, or a loss is no longer finite.
    """
    trainer = Trainer(config)
    folder = Path(config.run.output)
    epochs = config.run.epochs
    if resume and not os.path.exists(folder / CHECKPOINT):
        raise UserError(
            f"{folder / CHECKPOINT}: there is no checkpoint to resume from; leave out --resume to start a new run"
        )
    with owned(folder, FILES):
        done = trainer.resume(folder / CHECKPOINT, epochs) if resume else trainer.start()
        if resume:
            trainer.save(done, folder)
        for record in done.history:
            report(on_epoch, record)
        while done.epoch < epochs:
            done = trainer.run_epoch(done, epochs, on_batch)
            trainer.save(done, folder)
            report(on_epoch, done.history[-1])
        if config.run.picture:
            trainer.draw(done, folder)
    written = [folder / name for name in FILES[: 3 + config.run.picture]]
    return TrainingResult(done.params, done.history, trainer.accuracy(done.params), written)


def report(callback: Callable[[Any], None] | None, event: Any) -> None:
    """Call `callback` if there is one."""
    if callback is not None:
        callback(event)


class RunState(NamedTuple):
    """The state of a run after an epoch."""

    epoch: int
    params: dict[str, Array]
    optimizer_state: State
    history: list[Record]


class Trainer:
    """Everything that a configuration describes, built and tested on the data once.

    Raises:
        UserError: the parts do not fit together, or the data do not fit the losses.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.objective = Objective(*config.objective.build())
        self.optimizer = config.optimizer.build()
        with user_error("backend"):
            self.backend = get_backend(config.backend, dtype=config.dtype)
        self.update = compiled(self.optimizer.update, self.backend.name)
        entries = {entry for term in self.objective.terms for entry in term.entry_of.values()}
        dataset = load_dataset(config.data, entries, config.seed, config.dtype)
        with user_error(f"{config.data.file or DIGITS} on {self.backend.name}"):
            self.train_data, self.test_data = (
                {name: self.backend.array(array) for name, array in arrays.items()}
                for arrays in (dataset.train, dataset.test)
            )
        self.train_count, inputs = dataset.train[config.data.input].shape
        self.test_arrays = dataset.test
        self.network = config.model.build()
        with user_error("model"):
            initial = self.network.initial_parameters(inputs, generator(config.seed, PARAMETERS))
            self.initial_parameters = {name: self.backend.array(array) for name, array in initial.items()}
            self.model = compile_model(
                lambda xp, params, data: self.network(xp, params, data["input"]), self.backend.name
            )
        described = config.model_copy(update={"backend": self.backend.name})
        self.fingerprint = fingerprint(described.model_dump(), dataset.digest)
        with user_error("objective"):  # shapes, labels and domains are checked when the losses first get the data
            for data in (self.train_data, self.test_data):
                values = self._values(self.initial_parameters, data, step=0, check_finite=True)
        losses = [f"{part}_{name}" for part in ("train", "test") for name in values]
        accuracies = [f"accuracy_{output}" for _, output, _ in self._classifiers()]
        self.columns = list(dict.fromkeys(["epoch", *losses, *accuracies]))

    # --- the course of a run -----------------------------------------------------------------------------------------

    def start(self) -> RunState:
        """Return the state before the first epoch."""
        params = self.initial_parameters
        return RunState(0, params, self.optimizer.initial_state(params), [])

    def resume(self, path: Path, epochs: int) -> RunState:
        """Return the state in a checkpoint."""
        slots = self.optimizer.initial_state(self.initial_parameters)
        like = self._to_numpy(join({"parameters": self.initial_parameters} | slots))
        checkpoint = load_checkpoint(path, self.fingerprint, like, self.columns)
        if checkpoint.epoch > epochs:
            raise UserError(f"{path}: {checkpoint.epoch} epochs are done already, run.epochs asks for {epochs}")
        trees = split(checkpoint.arrays, ["parameters", *slots])
        state = {
            outer: {name: self.backend.array(array) for name, array in tree.items()} for outer, tree in trees.items()
        }
        return RunState(checkpoint.epoch, state.pop("parameters"), state, checkpoint.history)

    def run_epoch(self, state: RunState, epochs: int, on_batch: Callable[[Progress], None] | None = None) -> RunState:
        """Return the state after one more epoch."""
        epoch, params, optimizer_state = state.epoch + 1, state.params, state.optimizer_state
        rows = batches(self.train_count, self.config.run.batch_size, self.config.seed, epoch)
        step = state.epoch * len(rows)
        values, sizes = [], []
        for batch in rows:
            batch_values, gradients = self._gradients(params, self._rows(batch), step)
            step += 1
            params, optimizer_state = self.update(params, gradients, optimizer_state, step)
            values.append(batch_values)
            sizes.append(len(batch))
            report(on_batch, Progress(step, epochs * len(rows)))
        test = self._values(params, self.test_data, step)
        record: Record = {"epoch": epoch}
        record |= {f"train_{name}": value for name, value in weighted_means(values, sizes).items()}
        record |= {f"test_{name}": float(value) for name, value in test.items()}
        record |= {f"accuracy_{output}": value for output, value in self.accuracy(params).items()}
        for name, value in record.items():
            if not math.isfinite(value):
                raise UserError(
                    f"training diverged: {name} is {value} in epoch {epoch}; try a smaller optimizer.learning_rate"
                )
        return RunState(epoch, params, optimizer_state, [*state.history, record])

    def _rows(self, rows: Array) -> dict[str, Array]:
        index = self.backend.array(rows)
        return {name: array[index] for name, array in self.train_data.items()}

    def _gradients(
        self, params: dict[str, Array], data: dict[str, Array], step: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the losses on a batch, and the gradients: through the model's outputs, and of the regularizers."""
        inputs = {"input": data[self.config.data.input]}
        outputs = self.model.evaluate(params, inputs)
        with user_error("objective"):  # a loss may ask for more examples than the last batch has
            result = self.objective.evaluate(outputs, data, params, step)
        _, gradients = self.model.evaluate(params, inputs, output_gradients=result.output_gradients)
        for name, gradient in result.parameter_gradients.items():
            gradients[name] = gradients[name] + gradient
        return {"loss": result.loss} | result.components, gradients

    def _values(
        self, params: dict[str, Array], data: dict[str, Array], step: int, check_finite: bool = False
    ) -> dict[str, Array]:
        """Return the losses on all examples of a set."""
        outputs = self.model.evaluate(params, {"input": data[self.config.data.input]})
        result = self.objective.evaluate(outputs, data, params, step, gradients=False, check_finite=check_finite)
        return {"loss": result.loss} | result.components

    # --- the results -------------------------------------------------------------------------------------------------

    def save(self, state: RunState, folder: Path) -> None:
        """Replace the files of the run by those of `state`, and remove the picture, which shows an earlier state."""
        params = self._to_numpy(state.params)
        slots = {slot: self._to_numpy(tree) for slot, tree in state.optimizer_state.items()}
        checkpoint = Checkpoint(state.epoch, join({"parameters": params} | slots), state.history, self.fingerprint)
        files: dict[Path, Write] = {
            folder / CHECKPOINT: checkpoint.write,
            folder / WEIGHTS: lambda file: np.savez(file, **params),
            folder / HISTORY: lambda file: file.write(to_csv(state.history).encode()),
        }
        with user_error(f"cannot write into {folder}", OSError):
            write_atomically(files, outdated=[folder / PICTURE])

    def accuracy(self, params: dict[str, Array]) -> dict[str, float]:
        """Return the test accuracy of each output whose targets are class labels."""
        predictions = self._predictions(params)
        accuracy = {}
        for term, output, target in self._classifiers():
            labels = self.test_arrays[target]
            counted = labels != term.options.get("ignore_index")  # all labels if this is None
            accuracy[output] = float(np.mean(predictions[output].argmax(axis=-1)[counted] == labels[counted]))
        return accuracy

    def draw(self, state: RunState, folder: Path) -> None:
        """Write the picture of the run."""
        figure = draw_training(state.history, self._examples(state.params))
        with user_error(f"cannot write into {folder}", OSError):
            write_atomically({folder / PICTURE: lambda file: figure.savefig(file, format="png")})

    def _examples(self, params: dict[str, Array]) -> Examples | None:
        """Return the test examples of the picture, or None if the inputs are not images."""
        data = self.config.data
        shape = data.image_shape or (DIGITS_SHAPE if data.file is None and data.input == "image" else None)
        if shape is None:
            return None
        predictions = self._predictions(params)
        labels = classes = reconstructions = None
        for _, output, target in self._classifiers():
            labels, classes = self.test_arrays[target], predictions[output].argmax(axis=-1)
        for term in self.objective.terms:
            if data.input in term.entry_of.values():
                reconstructions = predictions[next(iter(term.output_of.values()))]
                if term.pair.name.endswith("_with_logits"):
                    reconstructions = expit(reconstructions)
        return Examples(
            images=self.test_arrays[data.input].reshape(-1, *shape),
            labels=labels,
            predictions=classes,
            reconstructions=None if reconstructions is None else reconstructions.reshape(-1, *shape),
        )

    def _classifiers(self) -> list[tuple[Term, str, str]]:
        """Return term, output and target of each loss that compares rows of scores with class labels."""
        return [
            (term, term.output_of[term.pair.wrt[0]], target)
            for term in self.objective.terms
            for argument, target in term.entry_of.items()
            if isinstance(term.pair.domain.get(argument), ClassTargets)
            and self.test_arrays[target].ndim == 1
            and self.test_arrays[target].dtype.kind in "iu"
        ]

    def _predictions(self, params: dict[str, Array]) -> dict[str, Array]:
        outputs = self.model.evaluate(params, {"input": self.test_data[self.config.data.input]})
        return self._to_numpy(outputs)

    def _to_numpy(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: self.backend.to_numpy(array) for name, array in arrays.items()}


def compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """Return `function` compiled as one program for JAX, which would otherwise run its operations one by one."""
    if backend != "jax":
        return function
    import jax

    program: Callable[..., Any] = jax.jit(function)
    return program


def weighted_means(values: Sequence[Mapping[str, Array]], sizes: Sequence[int]) -> dict[str, float]:
    """Return the mean of each value over batches of these sizes."""
    return {
        name: math.fsum(float(batch[name]) * size for batch, size in zip(values, sizes, strict=True)) / sum(sizes)
        for name in values[0]
    }


def to_csv(history: Sequence[Record]) -> str:
    """Return the records as text: a header, then one line per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
