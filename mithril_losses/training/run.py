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

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.checkpoints import Checkpoint, CheckpointFile
from mithril_losses.training.config import TrainingConfig, fingerprint, resolved, to_toml
from mithril_losses.training.data import DIGITS_SHAPE, load_dataset, require_rows
from mithril_losses.training.errors import UserError, printable, user_error
from mithril_losses.training.experiment import Experiment
from mithril_losses.training.files import Write, owned, write_atomically
from mithril_losses.training.fit import fit
from mithril_losses.training.loop import Progress, Record, columns_of
from mithril_losses.training.plotting import Examples, draw_training

# The files that a run writes into its folder.
CHECKPOINT, WEIGHTS, HISTORY, CONFIG = "checkpoint.npz", "parameters.npz", "history.csv", "config.toml"
PREPARATION, PICTURE = "preparation.json", "training.png"
FILES = (CHECKPOINT, WEIGHTS, HISTORY, CONFIG, PREPARATION, PICTURE)


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
    on_start: Callable[[Trainer], None] | None = None,
) -> TrainingResult:
    """Train the model of a configuration, and write parameters, history, configuration, picture and checkpoint.

    No file of an earlier run is changed before the first epoch is complete. After each epoch `checkpoint.npz`,
    `parameters.npz`, `history.csv`, `config.toml` and `preparation.json` are replaced, so that an interrupted run
    leaves the files of its last complete epoch. The files beside a checkpoint always belong to the same epoch. If the
    process is killed, some may be missing; then `resume` writes them first. One run at a time owns the folder.

    Args:
        config: see `read_config`.
        model: a model from elsewhere; see `load_program`.
        resume: continue from the checkpoint in the output folder.
        overwrite: replace a run in the output folder.
        on_batch: called after each batch.
        on_epoch: called after each epoch, when its files are written. If a run is resumed, it is also called for each
            epoch in the checkpoint.
        on_start: called before the first epoch.

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
        with owned(folder, FILES, key="run.output: "):  # if that run is not over, this is the error
            raise UserError(
                f"run.output: {folder} holds a run already: --resume continues it, --overwrite replaces it, "
                "--set run.output=FOLDER keeps it"
            )
    trainer = Trainer(config, model)
    if on_start is not None:
        on_start(trainer)

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
        return {
            folder / WEIGHTS: lambda file: np.savez(file, **kept),
            folder / HISTORY: lambda file: file.write(to_csv(checkpoint.history).encode()),
            folder / CONFIG: lambda file: file.write(self._trainer.description().encode()),
            folder / PREPARATION: lambda file: file.write(self._trainer.preparation.to_json().encode()),
        }

    @property
    def outdated(self) -> list[Path]:
        """The picture, which shows an earlier state."""
        return [self.path.parent / PICTURE]


class Trainer(Experiment):
    """Everything that a configuration describes, built and tested on the data once.

    Args:
        config: see `read_config`.
        model: a model from elsewhere; see `load_program`.

    Attributes:
        sets: the examples by the name of the set and of the array.
        preparation: how columns became arrays.
        fingerprint: what must not change between the parts of the run.

    Raises:
        UserError: the parts do not fit together, or the data do not fit the losses.
    """

    def __init__(self, config: TrainingConfig, model: str | None = None) -> None:
        super().__init__(config, model)
        dataset = load_dataset(config.data, self.entries(), config.seed, self.dtype)
        if model is None:
            require_rows(config.data, dataset.sets["train"][config.data.input_name])
        self.preparation = dataset.preparation
        self.build(self.preparation.width)
        self.sets = {name: self.fitted(self.on_backend(examples)) for name, examples in dataset.sets.items()}
        described = config.model_copy(update={"backend": self.backend.name})
        facts = {"data (sha256)": self.preparation.digest}
        if model is not None:
            facts["--model"] = self.program.identity
        self.fingerprint = fingerprint(described.model_dump(), facts)
        self._check_columns()
        for examples in self.sets.values():
            self.evaluate(self.program.params, examples, check_finite=True)

    def _check_columns(self) -> None:
        held_out, monitor = self.held_out, self.config.run.monitor
        with user_error("objective"):
            columns = columns_of(self.objective, [held_out], self.metrics(self.sets[held_out]))
        if monitor is not None and monitor not in columns[1:]:
            raise UserError(f"run.monitor: {unknown('column of the history', monitor, columns[1:])}")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `fit`."""
        run, optimizer = self.config.run, self.config.optimizer
        held_out = self.held_out
        return {
            "model": self.model,
            "objective": self.objective,
            "params": self.program.params,
            "data": self.sets["train"],
            "optimizer": optimizer.build(),
            "epochs": run.epochs,
            "batch_size": run.batch_size,
            "evaluation_batch_size": self.evaluation_batch_size(self.sets[held_out]),
            "seed": self.config.seed,
            "inputs": self.inputs,
            "evaluate_on": {held_out: self.sets[held_out]},
            "metrics": self.metrics(self.sets[held_out]),
            "schedule": None if optimizer.schedule is None else optimizer.schedule.build(),
            "clip_norm": optimizer.clip_norm,
            "monitor": run.monitor,
            "maximize": run.maximize,
            "patience": run.patience,
            "fingerprint": self.fingerprint,
        }

    @property
    def held_out(self) -> str:
        """The set on which each epoch is evaluated."""
        return "validation" if "validation" in self.sets else "test"

    def facts(self) -> list[str]:
        """Return lines that say what the run consists of."""
        counts = ", ".join(f"{len(next(iter(arrays.values())))} {name}" for name, arrays in self.sets.items())
        params = self.tree.named(self.program.params)
        size = sum(int(np.prod(tuple(x.shape))) for x in params.values())
        shapes = [f"{name} {tuple(array.shape)[1:]}" for name, array in self.sets["train"].items()]
        return [
            f"backend: {self.backend.name}, {self.backend.zeros(()).dtype}",
            f"examples: {counts}",
            f"arrays of an example: {', '.join(shapes)}",
            f"model: {self.name or 'perceptron'}, {size:,} parameters in {len(params)} arrays",
        ]

    def description(self) -> str:
        """Return the configuration as it was resolved, which repeats the run."""
        used = f" --model {self.name}" if self.name else ""
        text = to_toml(resolved(self.config.model_copy(update={"backend": self.backend.name})))
        return f"# written by mithril-losses train{printable(used)}\n{text}"

    def draw(self, history: Sequence[Record], params: Any, folder: Path) -> None:
        """Write the picture of the run."""
        figure = draw_training(history, self._pictures(params))
        with user_error(f"cannot write into {folder}", OSError):
            write_atomically({folder / PICTURE: lambda file: figure.savefig(file, format="png")})

    def _pictures(self, params: Any) -> Examples | None:
        """Return the test examples of the picture, or None if the inputs are not images."""
        data, test = self.config.data, self.sets["test"]
        shape = data.image_shape or (DIGITS_SHAPE if data.file is None and data.input_name == "image" else None)
        if shape is None or data.input_name not in test:
            return None
        predictions = self.predict(params, test)
        labels = classes = reconstructions = None
        for _, output, target in self.classifiers():
            if f"accuracy_{output}" in self.metrics(test):
                labels, classes = self.in_memory(test[target]), predictions[output].argmax(axis=-1)
        for term in self.objective.terms:
            if data.input_name in term.entry_of.values():
                reconstructions = predictions[next(iter(term.output_of.values()))]
                if term.pair.name.endswith("_with_logits"):
                    reconstructions = expit(reconstructions)
        return Examples(
            images=self.in_memory(test[data.input_name]).reshape(-1, *shape),
            labels=labels,
            predictions=classes,
            reconstructions=None if reconstructions is None else reconstructions.reshape(-1, *shape),
        )


def to_csv(history: Sequence[Record]) -> str:
    """Return the records as text: a header, then one line per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
