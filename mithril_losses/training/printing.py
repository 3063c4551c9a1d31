"""The progress of `fit` as text: a line for each epoch, and a counter of batches on a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from mithril_losses.training.errors import printable

if TYPE_CHECKING:
    from mithril_losses.training.fit import Epoch
    from mithril_losses.training.loop import Progress

_PAUSE = 0.1  # seconds between two counters


class PrintedProgress:
    """Prints what `fit` tells it.

    Args:
        stream: where to print, by default `sys.stderr`.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._last = 0.0
        self._width = 0

    def batch(self, progress: Progress) -> None:
        """Replace the counter of batches on a terminal."""
        if self._is_terminal and time.monotonic() - self._last > _PAUSE:
            self._last = time.monotonic()
            text = f"batch {progress.done}" + (f" of {progress.total}" if progress.total else "")
            self._write(text)

    def resumed(self, history: list[dict[str, float]]) -> None:
        """Say how many epochs are done."""
        self._stream.write(f"resumed after epoch {len(history)}\n")

    def epoch(self, epoch: Epoch) -> None:
        """Print the line of an epoch."""
        if self._width:
            self._write("")
            self._stream.write("\r")
        cells = [f"{printable(name)} {value:.5g}" for name, value in epoch.record.items()]
        self._stream.write("  ".join(cells) + ("  (best)" if epoch.is_best else "") + "\n")
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)
