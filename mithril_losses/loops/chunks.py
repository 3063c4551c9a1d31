"""A long range is cut into chunks that fit the first-level cache, and divided among threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends.threads import share

CHUNK = 8192  # elements: as many as fit the first-level cache


class Chunks(NamedTuple):
    """Rows in chunks.

    The results of the chunks are kept separately until all are done, and are then added in the order of the chunks. So
    no sum depends on the number of threads.

    Attributes:
        number: the number of chunks.
        size: the number of rows of a chunk.
        group: the number of chunks that a thread takes at a time.
    """

    number: int
    size: int
    group: int

    @classmethod
    def of(cls, rows: int, width: int, group: int) -> Chunks:
        """Return the chunks of rows of a width; a thread takes about `group` elements at a time.

        Example:
            >>> Chunks.of(rows=100, width=1024, group=1 << 16)
            Chunks(number=13, size=8, group=8)
        """
        size = max(1, CHUNK // width)
        return cls(-(-rows // size), size, max(1, group // (size * width)))

    def share(self, work: Callable[[int, int], None], threads: int) -> None:
        """Call `work(first, last)` for groups of chunks in several threads."""
        parts = -(-self.number // self.group)
        if threads == 1 or parts == 1:
            work(0, self.number)
            return
        share(
            parts,
            lambda part: work(part * self.group, min((part + 1) * self.group, self.number)),
            threads,
        )


def number_or_rows(x: Any, rows: int, dtype: Any) -> tuple[Any, np.ndarray[Any, Any]]:
    """Return a number and an empty array, or 0 and one entry per row."""
    if x is None or np.size(x) == 1:
        return dtype.type(0.0 if x is None else np.reshape(x, ())), np.zeros(0, dtype)
    return dtype.type(0.0), np.ascontiguousarray(np.broadcast_to(np.asarray(x, dtype), (rows,)))
