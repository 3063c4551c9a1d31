"""Stencil terms compiled into one loop over rows: each pixel read once, its gradient written once, the rest in cache.

A pixel's derivative is made of its own slopes and of those of its upper and left neighbour. So the slopes of a row are
kept for the row below it; the first row of a band computes those of the row above anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mithril_losses.loops.compiling import CompiledOnce, types_of
from mithril_losses.loops.elements import scalar_source


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
    rest = (step, start, stop, scales, gradient, sums)
    types = types_of(planes, scales, gradient)
    kernel = _kernels(terms, (planes.dtype.name,), types, lambda kernel: kernel(planes[:0], *rest))
    kernel(planes, *rest)


def _source(terms: Callable[..., Any], dtype: str) -> str:
    return _SOURCE.replace("DTYPE", dtype).replace("TERMS", scalar_source(terms))


_kernels = CompiledOnce(_source)

_SOURCE = '''
import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept
from mithril_losses.loops.scalar import DTYPE as xp

T = np.DTYPE
# infinities and NaNs keep their meaning; only the sums may be taken in another order
EXACT = {'contract', 'nsz', 'arcp'}
OPTIONS = {'nogil': True, 'error_model': 'numpy', 'fastmath': EXACT | {'reassoc'}}


TERMS


# Every index is unsigned: one that may be negative would count from the end, and the loops would stay scalar.
U = np.uintp
ZERO, ONE = U(0), U(1)
STRIP = U(1024)  # elements: few enough for a float32 sum of equal terms to keep its digits


@njit(forceinline=True, **OPTIONS)
def terms_at(x, p, r, i, step, right, below):
    """The terms of an element, with slopes of 0 towards a neighbour that is not there."""
    own = x[p, r, i]
    value, across, down = terms(
        x[p, r, i + step] - own if right else T(0), x[p, r + ONE, i] - own if below else T(0)
    )
    return value, across if right else T(0), down if below else T(0)


@njit(forceinline=True, **OPTIONS)
def part_of_row(x, p, r, first, last, step, left, right, below, above, gradient, scale):
    """Fill the gradient, and return the sum of the values. The slopes of the row above give way to this row's own.

    Those of the left neighbours are computed a second time, which costs less than to keep them.
    """
    total = T(0)
    for i in range(first, last):
        value, across, down = terms_at(x, p, r, i, step, right, below)
        before = terms_at(x, p, r, i - step, step, True, below)[1] if left else T(0)
        gradient[p, r, i] = scale * (above[i] - down + (before - across))
        above[i] = down
        total += value
    return total


@njit(forceinline=True, **OPTIONS)
def row_of(x, p, r, step, below, above, gradient, scale):
    end = U(x.shape[2])
    if end == step:
        return 0.0 + part_of_row(x, p, r, ZERO, end, step, False, False, below, above, gradient, scale)
    total = 0.0
    total += part_of_row(x, p, r, ZERO, step, step, False, True, below, above, gradient, scale)
    start, inner = step, end - step
    while start < inner:
        stop = min(start + STRIP, inner)
        total += part_of_row(x, p, r, start, stop, step, True, True, below, above, gradient, scale)
        start = stop
    total += part_of_row(x, p, r, inner, end, step, True, False, below, above, gradient, scale)
    return total


@kept
@njit(**OPTIONS)
def kernel(x, step, start, stop, scales, gradient, sums):
    height, row = U(x.shape[1]), U(x.shape[2])
    step, start, stop = U(step), U(start), U(stop)
    above = np.empty(row, T)
    for p in range(U(x.shape[0])):
        for i in range(row):
            above[i] = terms_at(x, p, start - ONE, i, step, i + step < row, True)[2] if start > ZERO else T(0)
        total = 0.0
        for r in range(start, stop):
            if r + ONE < height:
                total += row_of(x, p, r, step, True, above, gradient, scales[p])
            else:
                total += row_of(x, p, r, step, False, above, gradient, scales[p])
        sums[p] = total
'''
