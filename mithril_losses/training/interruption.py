"""A Ctrl-C that waits for the end of the batch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """A Ctrl-C that waits for the end of the batch, when no file is half written and no library can lose it.

    Python drops a `KeyboardInterrupt` that arrives while a finalizer or a callback of another library runs. If it came
    between a checkpoint and the line that reports it, the report would be wrong. A second Ctrl-C does not wait, nor
    does a Ctrl-C before the first batch is done; if that one is dropped, the end of the first batch raises it.
    """

    def __init__(self) -> None:
        self._waits = False
        self._pending = False

    def arrive(self) -> None:
        """Raise an interruption that has waited; from now on a first Ctrl-C waits for the next call."""
        self._waits = True
        if self._pending:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Let no Ctrl-C wait any more."""
        self._waits = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal."""
        urgent = self._pending or not self._waits
        self._pending = True
        if urgent:
            raise KeyboardInterrupt


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Handle Ctrl-C inside the block, unless the process ignores it or the caller has its own handler.

    A block within such a block has the interruption of the outer one.
    """
    handler = signal.getsignal(signal.SIGINT)
    outer = getattr(handler, "__self__", None)
    is_main = threading.current_thread() is threading.main_thread()  # only this thread may handle signals
    if is_main and isinstance(outer, Interruption):
        try:
            yield outer
        finally:
            outer.end()
        return
    found = Interruption()
    if not is_main or handler is not signal.default_int_handler:
        yield found
        return
    signal.signal(signal.SIGINT, found.handle)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
