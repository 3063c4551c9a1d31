"""Files of a run: each is replaced in one step, so that whatever happens an old or a new one is there, whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mithril_losses.backends._namespace import Array
from mithril_losses.config import UserError, flatten, user_error
from mithril_losses.data import read_arrays

# Keys that may change when a run is resumed: none of them changes what a finished epoch computed.
FREE_KEYS = ("run.epochs", "run.output", "run.picture")


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a new file beside `path`, then put it in the place of `path`.

    Raises:
        OSError: the file cannot be written; what stood at `path` is still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Create the output folder and see that files can be written into it.

    Raises:
        UserError: they cannot.
    """
    with user_error(f"run.output: cannot write into {folder}", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()


@dataclass(frozen=True)
class Checkpoint:
    """A run after a completed epoch, in NumPy arrays.

    Attributes:
        epoch: how many epochs are complete.
        arrays: parameters and optimizer state by path.
        history: one record per epoch.
        fingerprint: the configuration by dotted key, and a digest of the data.
    """

    epoch: int
    arrays: Mapping[str, Array]
    history: list[dict[str, float]]
    fingerprint: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        about = {"epoch": self.epoch, "history": self.history, "fingerprint": dict(self.fingerprint)}
        write_atomically(path, lambda file: np.savez(file, about=np.array(json.dumps(about)), **self.arrays))


def load_checkpoint(path: Path, fingerprint: Mapping[str, Any], like: Mapping[str, Array]) -> Checkpoint:
    """Read a checkpoint of a run with this fingerprint, whose arrays have the names and shapes of `like`.

    Raises:
        UserError: there is none, it is damaged, or it belongs to a run with another configuration or other data.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no checkpoint to resume from; leave out --resume to start a new run")
    arrays = read_arrays(path)
    try:
        about = json.loads(str(arrays.pop("about")))
        epoch, history, before = (about[key] for key in ("epoch", "history", "fingerprint"))
        if not isinstance(before, dict) or len(history) != epoch:
            raise ValueError("a record for each epoch, and a fingerprint, are missing")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: this is no checkpoint of a training run") from error
    for key in sorted({*before, *fingerprint}):
        then, now = before.get(key, "not set"), fingerprint.get(key, "not set")
        if then != now:
            raise UserError(f"{path}: the run was started with {key} = {then!r}, and cannot go on with {now!r}")
    for name in sorted({*arrays, *like}):
        found, expected = (tuple(tree[name].shape) if name in tree else None for tree in (arrays, like))
        if found != expected:
            raise UserError(f"{path}: {name} has the shape {found} there, but {expected} in this run")
    return Checkpoint(epoch, arrays, history, before)


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
