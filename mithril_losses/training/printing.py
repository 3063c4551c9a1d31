"""The progress of `fit` as text: a table with a line for each epoch, and a counter of batches on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from mithril_losses.training.errors import printable

if TYPE_CHECKING:
    from mithril_losses.training.loop import Progress

_PAUSE = 0.1  # seconds between two counters
_NUMBER = 10  # the width of most numbers, such as 1.2346e-05


class PrintedProgress:
    """Prints what `fit` tells it.

    Args:
        table: where the table is printed, by default `sys.stderr`. A terminal, or the environment variable `COLUMNS`,
            limits its width: then components that do not fit are left out, and "…" ends the header. A number is never
            cut or wrapped.
        counter: where batches are counted if it is a terminal, by default `sys.stderr`.
    """

    def __init__(self, table: TextIO | None = None, counter: TextIO | None = None) -> None:
        self._table = table or sys.stderr
        self._counter = counter or sys.stderr
        self._counts = self._counter.isatty()
        self._start = self._last = time.monotonic()
        self._first = 0
        self._written = 0
        self._columns: dict[str, int] = {}

    def batch(self, progress: Progress) -> None:
        """Replace the counter of batches on a terminal."""
        now = time.monotonic()
        if not self._first:
            self._start, self._first = now, progress.done
        elif self._counts and now - self._last > _PAUSE:
            self._last = now
            text = f"batch {progress.done}"
            if progress.total:
                pace = (now - self._start) / (progress.done - self._first)
                text += f" of {progress.total}, {pace * (progress.total - progress.done):.0f} s left"
            self._replace(text)

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None:
        """Print the lines of epochs that are done."""
        for record in history:
            self.record(record)

    def record(self, record: Mapping[str, float]) -> None:
        """Print the line of a record; the first one has a header."""
        self._replace("")
        if not self._columns:
            shown = _shown(record, _width(self._table))
            self._columns = {key: _column(key) for key in shown}
            more = "  …" if len(shown) < len(_ordered(record)) else ""
            print("  ".join(_header(key).rjust(width) for key, width in self._columns.items()) + more, file=self._table)
        cells = [f"{record[key]:.5g}".rjust(width) for key, width in self._columns.items()]
        print("  ".join(cells), file=self._table, flush=True)

    def _replace(self, text: str) -> None:
        """Put a text in place of the counter."""
        if self._written or text:
            print("\r" + text.ljust(self._written) + ("" if text else "\r"), end="", file=self._counter, flush=True)
        self._written = len(text)


def _header(key: str) -> str:
    """Return the words above a column: `loss` for `train_loss`, `test loss` for `test_loss`."""
    if key.startswith("train_"):
        return printable(key.removeprefix("train_"))
    return printable(key.replace("_", " ", 1))


def _column(key: str) -> int:
    """Return the width of a column."""
    return max(len(_header(key)), 0 if key == "epoch" else _NUMBER)


def _ordered(record: Mapping[str, float]) -> list[str]:
    """Return the keys of the table: those of training, then losses and metrics of other sets without the components."""
    components = [key.removeprefix("train_") for key in record if key.startswith("train_") and key != "train_loss"]
    sets = [key.removesuffix("_loss") for key in record if key.endswith("_loss") and key != "train_loss"]
    hidden = {f"{name}_{component}" for name in sets for component in components}
    return [key for key in record if key not in hidden]


def _shown(record: Mapping[str, float], limit: int | None) -> list[str]:
    """Return the keys that fit into a line: the components of training are the first to go, from the last on."""
    keys = _ordered(record)
    spare = [key for key in reversed(keys) if key.startswith("train_") and key != "train_loss"]
    spare += [key for key in reversed(keys) if key not in (*spare, "epoch", "train_loss")]
    while limit is not None and spare and sum(map(_column, keys)) + 2 * len(keys) + 1 > limit:
        keys.remove(spare.pop(0))
    return keys


def _width(stream: TextIO) -> int | None:
    """Return the columns of a terminal, or those that the environment asks for; None is any number."""
    if stream.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return None
