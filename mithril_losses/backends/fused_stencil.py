"""Stencil terms compiled into one loop over rows: each pixel read once, its gradient written once, the rest in cache.

A pixel's derivative is made of its own slopes and of those of its upper and left neighbour, so those of two rows are
kept. The first row of a band computes those of the row above it anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mithril_losses.backends.fused import load_module, scalar_source

_kernels: dict[Any, Any] = {}
_compiling = threading.Lock()


def run(
    terms: Callable[..., Any],
    planes: np.ndarray[Any, Any],
    step: int,
    start: int,
    stop: int,
    scales: np.ndarray[Any, Any],
    gradient: np.ndarray[Any, Any],
    sums: np.ndarray[Any, Any],
) -> None:
    """Fill rows of the gradient, times the scale of their plane, and the sum of their values for each plane.

    Args:
        terms: `(xp, across, down) → (value, slope across, slope down)` of the differences to the right and the lower
            neighbour.
        planes: planes × rows × elements, C-contiguous.
        step: how many elements further in its row the right neighbour of an element is.
        start: the first row to compute.
        stop: the row after the last one.
        scales: one per plane.
        gradient: where to write the gradient, like `planes`.
        sums: where to write the sums, in float64.
    """
    kernel = _kernels.get((terms, planes.dtype)) or _compile(terms, planes.dtype)
    kernel(planes, step, start, stop, scales, gradient, sums)


def _compile(terms: Callable[..., Any], dtype: Any) -> Any:
    with _compiling:
        if (terms, dtype) not in _kernels:
            source = _SOURCE.replace("DTYPE", dtype.name).replace("TERMS", scalar_source(terms))
            _kernels[terms, dtype] = load_module(source).kernel
        return _kernels[terms, dtype]


_SOURCE = '''
import numpy as np
from numba import njit

from mithril_losses.backends.scalar import DTYPE as xp

T = np.DTYPE
# infinities and NaNs keep their meaning; only the sums may be taken in another order
EXACT = {'contract', 'nsz', 'arcp'}
OPTIONS = {'nogil': True, 'error_model': 'numpy', 'fastmath': EXACT | {'reassoc'}}


TERMS


# a neighbour is reached through a slice: an index with an offset may be negative, and the loop would stay scalar


@njit(**OPTIONS)
def inner_slopes(row, right, below, across, down):
    total = T(0)
    for i in range(right.size):
        value, slope_across, slope_down = terms(right[i] - row[i], below[i] - row[i])
        across[i], down[i] = slope_across, slope_down
        total += value
    return total


@njit(**OPTIONS)
def right_slopes(row, below, down):
    total = T(0)
    for i in range(row.size):
        value, _, slope_down = terms(T(0), below[i] - row[i])
        down[i] = slope_down
        total += value
    return total


@njit(**OPTIONS)
def lower_slopes(row, right, across):
    total = T(0)
    for i in range(right.size):
        value, slope_across, _ = terms(right[i] - row[i], T(0))
        across[i] = slope_across
        total += value
    return total


@njit(**OPTIONS)
def slopes(row, below, step, across, down):
    """Fill the slopes of a row with another one below it, and return the sum of its values."""
    end = row.size - step
    return inner_slopes(row, row[step:], below, across, down) + right_slopes(row[end:], below[end:], down[end:])


@njit(**OPTIONS)
def gather(gradient, above, across, left, down, scale):
    for i in range(gradient.size):
        gradient[i] = scale * (above[i] - down[i] + (left[i] - across[i]))


@njit(cache=True, **OPTIONS)
def kernel(planes, step, start, stop, scales, gradient, sums):
    count, height, row = planes.shape
    above, down = np.empty(row, T), np.empty(row, T)
    slopes_across = np.zeros(row + step, T)
    across, left = slopes_across[step:], slopes_across[:row]  # those of the left neighbours are the same, a step before
    for p in range(count):
        total = 0.0
        above[:] = T(0)
        if start > 0:
            slopes(planes[p, start - 1], planes[p, start], step, across, above)
        for r in range(start, stop):
            if r + 1 < height:
                total += slopes(planes[p, r], planes[p, r + 1], step, across, down)
            else:
                total += lower_slopes(planes[p, r], planes[p, r, step:], across)
                down[:] = T(0)
            gather(gradient[p, r], above, across, left, down, scales[p])
            above, down = down, above
        sums[p] = total
'''
