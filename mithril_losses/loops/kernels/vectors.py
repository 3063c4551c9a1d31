"""Distances and cosines of two vectors, and their derivatives by the elements of the vectors.

Only vectors whose squares would overflow or vanish are scaled first; all others are called safe.
"""

import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept  # noqa: F401  (for the loop over rows, which follows in the text)
from mithril_losses.loops.scalar import float32 as xp

T = np.float32
LARGEST = T(np.finfo(T).max)
SMALLEST = T(np.finfo(T).smallest_normal)
SAFE = SMALLEST / T(np.finfo(T).eps)  # if squares are at least this, their sum has all its digits
INFINITY = T(np.inf)
STRIP = 1024  # features: few enough for a float32 sum of equal terms to keep its digits
EXACT = {"contract", "nsz"}  # infinities and NaNs keep their meaning
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": EXACT | {"arcp", "reassoc"}}
RARE = {"forceinline": True, "error_model": "numpy", "fastmath": EXACT}  # 1 / norm may be infinite


@njit(forceinline=True, error_model="numpy", fastmath=EXACT)
def terms(measure):
    """Take the place of the terms of a loss."""
    return measure, (T(1),)


@njit(**RARE)
def bounded(x):
    return xp.minimum(xp.maximum(x, -LARGEST), LARGEST)


@njit(forceinline=True, **OPTIONS)
def difference(x, y):
    return x - y


@njit(forceinline=True, **OPTIONS)
def first_of(x, y):
    return x


def length_of(element):
    # inlined for each element: as an argument, the element would make the loops slower
    @njit(**OPTIONS)
    def few_squares(x, y):
        squares = T(0)
        for c in range(x.size):
            squares += element(x[c], y[c]) * element(x[c], y[c])
        return squares

    @njit(**OPTIONS)
    def length(x, y):
        # the norm, whether its square is safe, and the two numbers that a vector is divided by to have the length 1
        total = 0.0
        for c in range(0, x.size, STRIP):
            total += few_squares(x[c : c + STRIP], y[c : c + STRIP])
        squares = T(total)
        if SAFE <= squares <= LARGEST:
            norm = xp.sqrt(squares)
            return norm, True, T(1), norm
        largest = T(0)
        for c in range(x.size):
            largest = xp.maximum(largest, xp.abs(element(x[c], y[c])))
        divisor = xp.minimum(xp.maximum(largest, SMALLEST), T(1) / SMALLEST)  # the reciprocal is a normal number, too
        squares = T(0)
        for c in range(x.size):
            scaled = bounded(element(x[c], y[c])) / divisor
            squares += scaled * scaled
        root = xp.sqrt(squares)
        return INFINITY if largest == INFINITY else divisor * root, False, divisor, T(1) if root == T(0) else root

    return length


length_of_difference, length_of_first = length_of(difference), length_of(first_of)


# --- the distance: the norm of the difference ---


@njit(**OPTIONS)
def distance(x, y):
    norm, safe, divisor, root = length_of_difference(x, y)
    return norm, safe, (norm, divisor, root)


@njit(forceinline=True, **OPTIONS)
def distance_safe_x(x, y, slope, state):
    return (x - y) * (slope / state[0])


@njit(forceinline=True, **OPTIONS)
def distance_safe_y(x, y, slope, state):
    return (y - x) * (slope / state[0])


@njit(**RARE)
def distance_scaled_x(x, y, slope, state):
    return slope * (bounded(x - y) / state[1] / state[2])


@njit(**RARE)
def distance_scaled_y(x, y, slope, state):
    return -slope * (bounded(x - y) / state[1] / state[2])


# --- the cosine distance: half the square of the difference of the unit vectors ---


@njit(**RARE)
def unit(x, divisor, root):
    return bounded(x) / divisor / root


@njit(**OPTIONS)
def sums_of_safe(x, y, norm_x, norm_y):
    squares, by_u, by_v = 0.0, 0.0, 0.0
    for c in range(0, x.size, STRIP):
        few = few_sums_of_safe(x[c : c + STRIP], y[c : c + STRIP], norm_x, norm_y)
        squares, by_u, by_v = squares + few[0], by_u + few[1], by_v + few[2]
    return T(squares), T(by_u), T(by_v)


@njit(**OPTIONS)
def few_sums_of_safe(x, y, norm_x, norm_y):
    squares, by_u, by_v = T(0), T(0), T(0)
    for c in range(x.size):
        u, v = x[c] / norm_x, y[c] / norm_y
        squares += (u - v) * (u - v)
        by_u += (u - v) * u
        by_v += (u - v) * v
    return squares, by_u, by_v


@njit(**OPTIONS)
def sums(x, y, divisor_x, root_x, divisor_y, root_y):
    squares, by_u, by_v = T(0), T(0), T(0)
    for c in range(x.size):
        u, v = unit(x[c], divisor_x, root_x), unit(y[c], divisor_y, root_y)
        squares += (u - v) * (u - v)
        by_u += (u - v) * u
        by_v += (u - v) * v
    return squares, by_u, by_v


@njit(**OPTIONS)
def cosine_distance(x, y):
    norm_x, safe_x, divisor_x, root_x = length_of_first(x, x)
    norm_y, safe_y, divisor_y, root_y = length_of_first(y, y)
    safe = safe_x and safe_y
    if safe:
        squares, by_u, by_v = sums_of_safe(x, y, norm_x, norm_y)
    else:
        squares, by_u, by_v = sums(x, y, divisor_x, root_x, divisor_y, root_y)
    some = norm_x != T(0) and norm_y != T(0)
    norm_x, norm_y = INFINITY if norm_x == T(0) else norm_x, INFINITY if norm_y == T(0) else norm_y
    state = (norm_x, divisor_x, root_x, norm_y, divisor_y, root_y, by_u, by_v, T(1) if some else T(0))
    return T(0.5) * squares if some else T(1), safe, state


@njit(forceinline=True, **OPTIONS)
def cosine_distance_safe_x(x, y, slope, state):
    u = x / state[0]
    return (u - y / state[3] - state[6] * u) * (slope / state[0])


@njit(forceinline=True, **OPTIONS)
def cosine_distance_safe_y(x, y, slope, state):
    v = y / state[3]
    return (v - x / state[0] + state[7] * v) * (slope / state[3])


@njit(**RARE)
def cosine_distance_scaled_x(x, y, slope, state):
    u, v = unit(x, state[1], state[2]), unit(y, state[4], state[5])
    return bounded((u - v - state[6] * u) * (slope * state[8]) / state[0])


@njit(**RARE)
def cosine_distance_scaled_y(x, y, slope, state):
    u, v = unit(x, state[1], state[2]), unit(y, state[4], state[5])
    return bounded((v - u + state[7] * v) * (slope * state[8]) / state[3])
