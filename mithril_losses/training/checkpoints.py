"""Checkpoints: everything that a run needs to continue, in one file that is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.training.arrays import open_arrays
from mithril_losses.training.errors import UserError, user_error
from mithril_losses.training.files import Write, owned, write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """A run after a completed epoch, in NumPy arrays.

    Attributes:
        epoch: the number of complete epochs.
        arrays: parameters, optimizer state and all else that changes, by path.
        history: one record per epoch.
        fingerprint: what must be equal in all parts of the run, by name.
        steps: the number of complete steps.
    """

    epoch: int
    arrays: Mapping[str, Array]
    history: list[dict[str, float]]
    fingerprint: Mapping[str, Any]
    steps: int = 0

    def write(self, file: BinaryIO) -> None:
        """Write the checkpoint into an open file."""
        about = {
            "epoch": self.epoch,
            "steps": self.steps,
            "history": self.history,
            "fingerprint": dict(self.fingerprint),
        }
        np.savez(file, about=np.array(json.dumps(about)), **self.arrays)


def load_checkpoint(
    path: Path,
    fingerprint: Mapping[str, Any],
    like: Mapping[str, Array],
    columns: Sequence[str],
    optional: Mapping[str, Array] | None = None,
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the file.
        fingerprint: what must be equal in the resumed run and in the run that wrote the checkpoint.
        like: arrays of the names, shapes and dtypes that the checkpoint must hold.
        columns: the keys of each record of its history.
        optional: arrays like those that it holds either all of or none.

    Raises:
        UserError: the file is damaged, or it belongs to a run with another configuration or other data.
    """
    with open_arrays(path) as found:
        if "about" not in found:
            raise UserError(f"{path}: this is not a checkpoint of a training run")
        try:
            epoch, steps, history, before = _read_about(str(found["about"]), columns)
        except (KeyError, TypeError, ValueError, RecursionError, SystemError) as error:  # NumPy, broken characters
            raise UserError(f"{path}: this is not a checkpoint of a training run") from error
        for key in sorted({*before, *fingerprint}):
            then, now = before.get(key, "not set"), fingerprint.get(key, "not set")
            if then != now:
                raise UserError(f"{path}: the run was started with {key} = {then!r}, and cannot continue with {now!r}")
        if optional and not found.keys().isdisjoint(optional):
            like = {**like, **optional}
        for name in sorted({*found, *like} - {"about"}):
            if name not in found or name not in like:
                raise UserError(f"{path}: {name} is only {'in this run' if name in like else 'in the checkpoint'}")
        arrays = {name: found[name] for name in like}
        for name, expected in like.items():
            there, here = (f"{array.dtype.name} of shape {array.shape}" for array in (arrays[name], expected))
            if there != here:
                raise UserError(f"{path}: {name} is {there} there, but {here} in this run")
    return Checkpoint(epoch, arrays, history, before, steps)


def _read_about(text: str, columns: Sequence[str]) -> tuple[int, int, list[dict[str, float]], dict[str, Any]]:
    """Return epoch, steps, history and fingerprint, with the types that `Checkpoint.write` got."""
    about = json.loads(text)
    epoch, steps, history, before = (about[key] for key in ("epoch", "steps", "history", "fingerprint"))
    if type(steps) is not int or steps < 0:
        raise ValueError("the number of steps must be a count")
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
    return epoch, steps, history, before


class CheckpointFile:
    """The file of a run's checkpoint; a subclass may keep other files beside it, which always belong to the same epoch.

    Args:
        path: the file, which ends in `.npz`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files that a run writes into the folder, the checkpoint first."""
        return (self.path.name,)

    def owned(self) -> AbstractContextManager[None]:
        """Keep other runs away inside the block; see `files.owned`."""
        return owned(self.path.parent, self.names, lock=f".{self.path.name}.lock")

    def save(self, checkpoint: Checkpoint, best: Mapping[str, Array]) -> None:
        """Replace the files by those of this checkpoint. `best` are the parameters of the best epoch by name.

        Raises:
            UserError: a file cannot be written; the old files are still there.
        """
        with user_error(f"cannot write into {self.path.parent}", OSError):
            write_atomically({self.path: checkpoint.write} | self.others(checkpoint, best), self.outdated)

    def others(self, checkpoint: Checkpoint, best: Mapping[str, Array]) -> dict[Path, Write]:
        """Return the other files that belong to a checkpoint, each with the function that fills it."""
        return {}

    @property
    def outdated(self) -> list[Path]:
        """The files of an earlier epoch that a new checkpoint removes."""
        return []
