"""Arrays as rows: some of their axes are flattened into one, the last."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.validation import normalize_axis


class Flattening(NamedTuple):
    """How arrays of one shape are reshaped to rows (…, n).

    Attributes:
        kept: the axes that count rows.
        flattened: the axes that make up a row.
        shape: the shape of the arrays.
    """

    kept: tuple[int, ...]
    flattened: tuple[int, ...]
    shape: tuple[int, ...]

    @staticmethod
    def along(axis: int | tuple[int, ...] | None, shape: tuple[int, ...]) -> Flattening:
        """Return the flattening of arrays of `shape` in which `axis` (None: all axes) makes up a row.

        Raises:
            TypeError: an axis is not an integer.
            ValueError: an axis is out of range or given twice.
        """
        ndim = len(shape)
        if axis is None:
            return Flattening((), tuple(range(ndim)), tuple(shape))
        axes = tuple(normalize_axis("axis", a, ndim) for a in (axis if isinstance(axis, tuple) else (axis,)))
        if len(set(axes)) < len(axes):
            raise ValueError(f"axis names a dimension twice: {axis!r}")
        return Flattening(tuple(i for i in range(ndim) if i not in axes), tuple(sorted(axes)), tuple(shape))

    @property
    def length(self) -> int:
        """The number of elements of a row."""
        return math.prod(self.shape[i] for i in self.flattened)

    def of(self, xp: Any, x: Array) -> Array:
        """Return x as rows."""
        order = self.kept + self.flattened
        return xp.reshape(_permuted(xp, x, order), (*(self.shape[i] for i in self.kept), self.length))

    def back(self, xp: Any, rows: Array) -> Array:
        """Return rows as an array of the original shape: the inverse, and the transpose, of `of`."""
        order = self.kept + self.flattened
        x = xp.reshape(rows, tuple(self.shape[i] for i in order))
        return _permuted(xp, x, tuple(order.index(i) for i in range(len(order))))


def _permuted(xp: Any, x: Array, order: tuple[int, ...]) -> Array:
    return x if order == tuple(range(len(order))) else xp.permute_dims(x, order)
