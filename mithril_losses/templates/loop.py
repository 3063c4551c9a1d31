"""The loop that a template returns for large arrays on the host: ready to run, compiled or in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.threads import share


class Call(NamedTuple):
    """One call with NumPy arrays: its arguments by name, the arrays in the order of the loss."""

    arrays: dict[str, np.ndarray[Any, Any]]
    options: dict[str, Any]
    reduction: dict[str, Any]


Arrays = Sequence[np.ndarray[Any, Any]]
Repeated = Callable[[Arrays, Arrays, int], float]


class Loop(NamedTuple):
    """A loop over large NumPy arrays that computes value and gradient.

    Attributes:
        shape: the shape of the unreduced losses.
        mass: what each unreduced loss contributes to the divisor, None for 1.
        compiled: `compiled(weights, factor, values, gradients, threads)` fills the gradients (and the values, if they
            are not None) and returns the sum of the weighted losses. It may compile, and raises `NotFusable` if that is
            not possible. None if there is nothing to compile.
        blocked: the same without compiling; by default the plain functions compute blocks of rows.
        repeated: `repeated(factor)` returns a function `(arrays, gradients, threads)` that does the same as `compiled`
            without weights and values, for other arrays of the same shapes, dtypes and layouts. It keeps no array. None
            if calls are not repeated.
        dtype: the dtype to compute in, if gradients may have a narrower dtype. By default the dtype of all
            differentiable arguments, which must be the same.
    """

    shape: tuple[int, ...]
    mass: Any
    compiled: Callable[..., float] | None = None
    blocked: Callable[..., float] | None = None
    dtype: Any = None
    repeated: Callable[[float], Repeated] | None = None


def over_blocks(shape: tuple[int, ...], work: Callable[[slice], float], threads: int) -> float:
    """Return the sum of `work` over blocks of rows, added in the order of the rows, whichever thread computed them."""
    size = int(np.prod(shape))
    step = max(1, limits.current.block * shape[0] // max(size, 1))
    blocks = -(-shape[0] // step)
    partials = [0.0] * blocks

    def one(block: int) -> None:
        partials[block] = work(slice(block * step, min((block + 1) * step, shape[0])))

    share(blocks, one, threads if size >= limits.current.shared_blocks else 1)
    return sum(partials)


def rows_of(x: Any, shape: tuple[int, ...], rows: slice) -> Any:
    """Return the part of an operand that broadcasts to `shape` which belongs to some rows."""
    if isinstance(x, np.ndarray) and x.ndim == len(shape) and x.shape[0] > 1:
        return x[rows]
    return x
