"""Tuned numbers: from which size on another method is faster, and how much is computed at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that decide between methods for the same result. They differ in speed, memory, and at most the last digits.

    Attributes:
        large: elements below which the plain functions are as fast, so that nothing is compiled.
        by_numpy: elements from which NumPy's trees, sorts and tiles are faster than XLA's.
        shared: elements from which a second thread gains more in a loop over elements than waking it costs.
        group: elements that a thread takes at a time in such a loop.
        shared_rows: logits from which a second thread gains more in a loop over their rows than waking it costs.
        row_group: logits that a thread takes at a time in such a loop.
        shared_vectors: elements of vectors from which a second thread gains more than waking it costs.
        vector_group: elements of vectors that a thread takes at a time.
        block: elements of a block. So many that threads seldom exchange the interpreter lock; so few that a block fits
            into the second-level cache, and that the temporary arrays of two threads stay below a seventh of a gradient
            of sixteen million elements.
        shared_blocks: elements from which threads over blocks gain more than they cost.
        tile: pairs in a tile on the host: enough rows for a fast matrix product.
        wide_tile: pairs in a tile on an accelerator, where every tile costs a launch.
        compiled_pairs: pairs in a tile from which a compiled loop is faster.
        tree: pairs from which a k-d tree is faster than tiles.
        piece: logits of pairs that a thread works on at a time; they fit into the second-level cache.
        shared_pairs: logits of a tile from which a second thread gains more than waking it costs.
        plain_band: elements of a band of image rows, so that the band and its temporaries fit the second-level cache.
        compiled_band: elements of a band in a compiled loop, which needs no temporaries.
        shared_bands: elements of images from which a second thread gains more than waking it costs.
        sparse_edges: edges from which one sparse product is faster than taking and adding at indices.
        positions: pairs of positions of feature maps that are computed at a time.
        compiled: whether the loops that plain functions use are compiled, if numba is installed.
    """

    large: int = 1 << 15
    by_numpy: int = 1 << 14
    shared: int = 1 << 18
    group: int = 1 << 19
    shared_rows: int = 1 << 17
    row_group: int = 1 << 19
    shared_vectors: int = 1 << 17
    vector_group: int = 1 << 17
    block: int = 3 << 15
    shared_blocks: int = 1 << 20
    tile: int = 1 << 19
    wide_tile: int = 1 << 20
    compiled_pairs: int = 1 << 16
    tree: int = 1 << 19
    piece: int = 1 << 17
    shared_pairs: int = 1 << 18
    plain_band: int = 1 << 16
    compiled_band: int = 1 << 18
    shared_bands: int = 1 << 18
    sparse_edges: int = 1 << 11
    positions: int = 1 << 20
    compiled: bool = True


current = Limits()


@contextlib.contextmanager
def changed(**changes: Any) -> Iterator[None]:
    """Use other limits, in all threads, inside a `with` block: tests send small arrays through the code of large ones.

    Example:
        >>> from mithril_losses import limits
        >>> with limits.changed(large=1):
        ...     limits.current.large
        1
        >>> limits.current.large
        32768
    """
    global current
    before, current = current, replace(current, **changes)
    try:
        yield
    finally:
        current = before
