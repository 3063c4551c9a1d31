"""Differences between neighbouring elements of rows, made into values and slopes by the terms of a loss."""

import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept
from mithril_losses.loops.scalar import float32 as xp

T = np.float32
# infinities and NaNs keep their meaning; only sums may be computed in another order
EXACT = {"contract", "nsz", "arcp"}
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": EXACT | {"reassoc"}}


@njit(forceinline=True, error_model="numpy", fastmath=EXACT)
def terms(across, down):
    """Stand here for the terms of a loss."""
    return xp.abs(across) + xp.abs(down), xp.sign(across), xp.sign(down)


# Every index is unsigned: one that may be negative would count from the end, and the loops would stay scalar.
U = np.uintp
ZERO, ONE = U(0), U(1)
STRIP = U(1024)  # elements: few enough for a float32 sum of equal terms to keep its digits


@njit(forceinline=True, **OPTIONS)
def terms_at(x, p, r, i, step, right, below):
    """The terms of an element, with slopes of 0 towards a missing neighbour."""
    own = x[p, r, i]
    value, across, down = terms(x[p, r, i + step] - own if right else T(0), x[p, r + ONE, i] - own if below else T(0))
    return value, across if right else T(0), down if below else T(0)


@njit(forceinline=True, **OPTIONS)
def part_of_row(x, p, r, first, last, step, left, right, below, above, gradient, scale):
    """Fill the gradient, and return the sum of the values. The slopes of this row overwrite those of the row above.

    The slopes of the left neighbours are computed a second time, which is cheaper than keeping them.
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
