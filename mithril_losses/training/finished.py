"""Saved runs: their parameters, put to use on the examples of the run or on others."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.training.config import read_config
from mithril_losses.training.data import Arrays, Preparation, load_dataset, load_examples
from mithril_losses.training.errors import UserError
from mithril_losses.training.experiment import Experiment
from mithril_losses.training.programs import read_parameters
from mithril_losses.training.run import CONFIG, PREPARATION, WEIGHTS


class FinishedRun:
    """A run that is saved in a folder; that its last epoch is done is not required.

    Args:
        folder: the folder.
        model: what `--model` named when the run was trained.
        backend: the name of a backend, by default that of the run.

    Raises:
        UserError: there is no run, it belongs to another model, or its files are damaged.
    """

    def __init__(self, folder: Path, model: str | None = None, backend: str | None = None) -> None:
        self._config = read_config(folder / CONFIG, backend=backend, own_model=model is not None)
        self._preparation = Preparation.from_json(folder / PREPARATION)
        self.experiment = Experiment(self._config, model)
        self.experiment.build(self._preparation.width)
        self._params = read_parameters(folder / WEIGHTS, self.experiment.program.params)

    def evaluate(self, path: str | None = None) -> dict[str, float]:
        """Return losses and accuracies on a file, or on the test set of the run.

        Raises:
            UserError: the file does not fit the run, or the data of the run have changed, so that its test set is lost.
        """
        examples = self._test_set() if path is None else self._examples(path, with_targets=True)
        return self.experiment.evaluate(self._params, self.experiment.fitted(self.experiment.on_backend(examples)))

    def _test_set(self) -> Arrays:
        config = self._config
        dataset = load_dataset(config.data, self.experiment.entries(), config.seed, self.experiment.dtype)
        if dataset.preparation.digest != self._preparation.digest:
            raise UserError(
                f"{config.data.file}: the data have changed since the run, so its test set cannot be found again; "
                "name a file to evaluate"
            )
        return dataset.sets["test"]

    def _examples(self, path: str, with_targets: bool) -> Arrays:
        entries = self.experiment.entries(with_targets)
        return load_examples(self._config.data, path, entries, self._preparation, self.experiment.dtype)

    def predict(self, path: str) -> dict[str, Array]:
        """Return the outputs for the examples of a file, which need no targets, as NumPy arrays by name.

        Raises:
            UserError: the file does not fit the run.
        """
        return self.experiment.predict(self._params, self._examples(path, with_targets=False))

    def columns(self, outputs: Mapping[str, Array]) -> dict[str, Sequence[Any]]:
        """Return outputs as the columns of a table: the class where the output has scores of classes, or its numbers.

        A column of classes has the name of the target, and holds their names if the run knows them. The columns of an
        output of several numbers have the name of the output and a number, counted from 0.

        Raises:
            UserError: an output has more axes than a table.
        """
        targets = {output: target for _, output, target in self.experiment.classifiers()}
        found: dict[str, Sequence[Any]] = {}
        for name, output in outputs.items():
            if name in targets and output.ndim == 2:
                labels = output.argmax(axis=1)
                classes = self._preparation.classes.get(targets[name])
                found[targets[name]] = labels if classes is None else [classes[label] for label in labels]
            elif output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
                found[name] = output.ravel()
            elif output.ndim == 2:
                found |= {f"{name}_{index}": column for index, column in enumerate(output.T)}
            else:
                raise UserError(
                    f"the output {name!r} has the shape {output.shape}, which is no table; write an .npz file"
                )
        return found


def write_columns(columns: Mapping[str, Sequence[Any]], file: TextIO) -> None:
    """Write columns as CSV: a header, then a line for each row."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))


def write_outputs(outputs: Mapping[str, Array], path: Path) -> None:
    """Write outputs into an `.npz` file."""
    np.savez(path, **outputs)
