"""A long range cut into chunks that fit the first-level cache, and shared by threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends.threads import share

CHUNK = 8192  # elements: in the first-level cache


class Chunks(NamedTuple):
    """Rows in chunks.

    What a loop finds in a chunk stays apart until all are done, and is then added in the order of the chunks: so no sum
    depends on the number of threads.

    Attributes:
        number: how many chunks there are.
        size: the rows of a chunk.
        group: the chunks that a thread takes at a time.
    """

    number: int
    size: int
    group: int

    @classmethod
    def of(cls, rows: int, width: int, group: int) -> Chunks:
        """Return the chunks of rows of a width, where a thread takes some `group` elements at a time.

        Example:
            >>> Chunks.of(rows=100, width=1024, group=1 << 16)
            Chunks(number=13, size=8, group=8)
        """
        size = max(1, CHUNK // width)
        return cls(-(-rows // size), size, max(1, group // (size * width)))

    def share(self, work: Callable[[int, int], None], threads: int) -> None:
        """Call `work(first, last)` for groups of chunks in several threads."""
        share(
            -(-self.number // self.group),
            lambda part: work(part * self.group, min((part + 1) * self.group, self.number)),
            threads,
        )


def number_or_rows(x: Any, rows: int, dtype: Any) -> tuple[Any, np.ndarray[Any, Any]]:
    """Return a number and no rows, or 0 and one entry per row."""
    if x is None or np.size(x) == 1:
        return dtype.type(0.0 if x is None else np.reshape(x, ())), np.zeros(0, dtype)
    return dtype.type(0.0), np.ascontiguousarray(np.broadcast_to(np.asarray(x, dtype), (rows,)))
