"""What a template hands over for large arrays on the host: a loop that is ready to run, in one piece or in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.threads import share

# bytes of a cache line
_LINE = 64


class Call(NamedTuple):
    """One call with NumPy arrays: its arguments by name, the arrays in the order of the loss."""

    arrays: dict[str, np.ndarray[Any, Any]]
    options: dict[str, Any]
    reduction: dict[str, Any]


class Loop(NamedTuple):
    """A loop over large NumPy arrays that gives value and gradient.

    Attributes:
        shape: of the unreduced losses.
        mass: what each of them counts in the divisor, None for 1.
        compiled: `compiled(weights, factor, values, gradients, threads)` fills the gradients (and the values, where
            they are not None) and returns the sum of the weighted losses. It may compile, and raises `NotFusable` where
            that cannot be done. None where there is nothing to compile.
        blocked: the same without compiling; by default blocks of rows go through the plain functions.
        dtype: the one to compute in, where gradients may be of a narrower one. By default that of all differentiable
            arguments, which have to be of one type.
    """

    shape: tuple[int, ...]
    mass: Any
    compiled: Callable[..., float] | None = None
    blocked: Callable[..., float] | None = None
    dtype: Any = None


def over_blocks(shape: tuple[int, ...], work: Callable[[slice], float], threads: int) -> float:
    """Return the sum of `work` over blocks of rows, in the order of the rows whichever thread did them."""
    size = int(np.prod(shape))
    step = max(1, limits.current.block * shape[0] // max(size, 1))
    blocks = -(-shape[0] // step)
    partials = [0.0] * blocks

    def one(block: int) -> None:
        partials[block] = work(slice(block * step, min((block + 1) * step, shape[0])))

    share(blocks, one, threads if size >= limits.current.shared_blocks else 1)
    return sum(partials)


def rows_of(x: Any, shape: tuple[int, ...], rows: slice) -> Any:
    """Return what belongs to some rows of an operand that broadcasts to `shape`."""
    if isinstance(x, np.ndarray) and x.ndim == len(shape) and x.shape[0] > 1:
        return x[rows]
    return x


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array without values that begins on a cache line, for loops, and for JAX to take it over."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    array: np.ndarray[Any, Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array
