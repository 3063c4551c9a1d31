"""Checkpoints: everything that a run needs to continue, in one file that is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.training.config import UserError, flatten
from mithril_losses.training.data import open_arrays

# Keys that may change when a run is resumed: none of them changes what a finished epoch computed.
FREE_KEYS = ("run.epochs", "run.output", "run.picture")


@dataclass(frozen=True)
class Checkpoint:
    """A run after a completed epoch, in NumPy arrays.

    Attributes:
        epoch: the number of complete epochs.
        arrays: parameters and optimizer state by path.
        history: one record per epoch.
        fingerprint: the configuration by dotted key, and a digest of the data.
    """

    epoch: int
    arrays: Mapping[str, Array]
    history: list[dict[str, float]]
    fingerprint: Mapping[str, Any]

    def write(self, file: BinaryIO) -> None:
        """Write the checkpoint into an open file."""
        about = {"epoch": self.epoch, "history": self.history, "fingerprint": dict(self.fingerprint)}
        np.savez(file, about=np.array(json.dumps(about)), **self.arrays)


def load_checkpoint(
    path: Path, fingerprint: Mapping[str, Any], like: Mapping[str, Array], columns: Sequence[str]
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the file.
        fingerprint: what must be equal in the resumed run and in the run that wrote the checkpoint.
        like: arrays of the names, shapes and dtypes that the checkpoint must hold.
        columns: the keys of each record of its history.

    Raises:
        UserError: the file is damaged, or it belongs to a run with another configuration or other data.
    """
    with open_arrays(path) as found:
        if "about" not in found:
            raise UserError(f"{path}: this is not a checkpoint of a training run")
        try:
            epoch, history, before = _read_about(str(found["about"]), columns)
        except (KeyError, TypeError, ValueError, RecursionError, SystemError) as error:  # NumPy, broken characters
            raise UserError(f"{path}: this is not a checkpoint of a training run") from error
        for key in sorted({*before, *fingerprint}):
            then, now = before.get(key, "not set"), fingerprint.get(key, "not set")
            if then != now:
                raise UserError(f"{path}: the run was started with {key} = {then!r}, and cannot continue with {now!r}")
        for name in sorted({*found, *like} - {"about"}):
            if name not in found or name not in like:
                raise UserError(f"{path}: {name} is only {'in this run' if name in like else 'in the checkpoint'}")
        arrays = {name: found[name] for name in like}
        for name, expected in like.items():
            there, here = (f"{array.dtype.name} of shape {array.shape}" for array in (arrays[name], expected))
            if there != here:
                raise UserError(f"{path}: {name} is {there} there, but {here} in this run")
    return Checkpoint(epoch, arrays, history, before)


def _read_about(text: str, columns: Sequence[str]) -> tuple[int, list[dict[str, float]], dict[str, Any]]:
    """Return epoch, history and fingerprint, with the types that `Checkpoint.write` got."""
    about = json.loads(text)
    epoch, history, before = (about[key] for key in ("epoch", "history", "fingerprint"))
    if type(epoch) is not int or epoch < 1 or not isinstance(history, list) or len(history) != epoch:
        raise ValueError("the history must have a record for each epoch")
    for number, record in enumerate(history, start=1):
        if not isinstance(record, dict) or list(record) != list(columns):
            raise ValueError(f"a record must have the keys {columns}")
        first, *values = record.values()
        if type(first) is not int or first != number:
            raise ValueError("the records must be in the order of the epochs")
        if not all(type(value) is float and math.isfinite(value) for value in values):
            raise ValueError("the values of a record must be finite numbers")
    if not isinstance(before, dict) or any(isinstance(value, (dict, list)) for value in before.values()):
        raise ValueError("a fingerprint must have one value for each key")
    return epoch, history, before


def fingerprint(config: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """Return what must not change between the parts of one run: the configuration by dotted key, and the data."""
    return {key: value for key, value in flatten(config).items() if key not in FREE_KEYS} | {"data (sha256)": digest}


def join(trees: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Return arrays of two levels under the joined names `outer/inner`."""
    return {f"{outer}/{inner}": array for outer, tree in trees.items() for inner, array in tree.items()}


def split(arrays: Mapping[str, Array], names: Iterable[str]) -> dict[str, dict[str, Array]]:
    """Undo `join` for the outer names given."""
    return {
        outer: {path.removeprefix(f"{outer}/"): array for path, array in arrays.items() if path.startswith(f"{outer}/")}
        for outer in names
    }
