"""Terms of the distances or cosines of rows, compiled by numba into one loop over the rows.

A row stays in the first-level cache while what it is measured by is summed up, and while the slopes of that are taken
back to its vectors. Only rows whose squares would overflow or vanish are scaled first, as in `_stable.norm_and_unit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mithril_losses.backends.threads import share
from mithril_losses.loops.compiling import CompiledOnce, types_of
from mithril_losses.loops.elements import CHUNK, scalar_source
from mithril_losses.loops.rows import number_or_rows

Floats = np.ndarray[Any, Any]

_GROUP_ELEMENTS = 1 << 17  # that a thread takes at a time
_SHARED_FROM = 1 << 17


def run(
    terms: Callable[..., Any],
    pairs: tuple[tuple[int, int], ...],
    measure: str,
    vectors: Sequence[Floats],
    labels: Sequence[np.ndarray[Any, Any]],
    options: Sequence[float | bool],
    weights: Any,
    factor: Any,
    *,
    values: Floats | None,
    gradients: Sequence[Floats],
    threads: int,
) -> float:
    """Fill `gradients` with slope · weight · factor, and return Σ weight · value.

    Args:
        terms: `(xp, *measures, *labels, *options) → (value, slopes)`.
        pairs: the positions of the vectors that each measure compares.
        measure: "distance" or "cosine_distance".
        vectors: rows × features, C-contiguous, at least one feature.
        labels: one per row each.
        options: numbers, or booleans: a loop is compiled for each.
        weights: one per row, or a number; 1 by default.
        factor: a number, or one per row.
        values: where to write weight · value, if at all.
        gradients: where to write the gradients wrt the first of the vectors.
        threads: how many threads share the work.
    """
    rows, features = vectors[0].shape
    dtype = vectors[0].dtype
    flags = tuple(option if isinstance(option, bool) else None for option in options)
    key = (pairs, measure, len(vectors), len(labels), flags, len(gradients), dtype.type.__name__)
    per_chunk = max(1, CHUNK // features)
    chunks = -(-rows // per_chunk)
    group = max(1, _GROUP_ELEMENTS // (per_chunk * features))
    partials = np.zeros(chunks)
    one_factor, factors = number_or_rows(factor, rows, dtype)
    one_weight, by_row = number_or_rows(1.0 if weights is None else weights, rows, dtype)
    kept = np.zeros(0, dtype) if values is None else values
    numbers = (dtype.type(option) for option in options if not isinstance(option, bool))
    fixed = (*vectors, *labels, *numbers, by_row, one_weight, factors, one_factor, kept, *gradients, partials)
    types = types_of(*vectors, *labels, by_row, factors)
    kernel = _kernels(terms, key, types, lambda kernel: kernel(0, 0, per_chunk, *fixed))
    share(
        -(-chunks // group),
        lambda g: kernel(g * group, min((g + 1) * group, chunks), per_chunk, *fixed),
        threads if vectors[0].size >= _SHARED_FROM else 1,
    )
    return float(partials.sum())


def _source(
    terms: Callable[..., Any],
    pairs: tuple[tuple[int, int], ...],
    measure: str,
    count: int,
    label_count: int,
    flags: tuple[bool | None, ...],
    slopes: int,
    dtype: str,
) -> str:
    """Return the module that computes these terms, one function per step of a row."""
    xs, gs = [f"x{k}" for k in range(count)], [f"g{k}" for k in range(slopes)]
    labels = [f"y{k}" for k in range(label_count)]
    numbers = [f"o{k}" for k, flag in enumerate(flags) if flag is None]
    first_flag = len(pairs) + label_count
    settled = {first_flag + k: flag for k, flag in enumerate(flags) if flag is not None}
    measured = [f"m{k}" for k in range(len(pairs))]
    found = [f"s{k}" for k in range(len(pairs))]
    pulls = {k: _pulls(pairs, k) for k in range(slopes)}
    lines = [
        _HEAD.replace("DTYPE", dtype),
        scalar_source(terms, settled),
        _MEASURES[measure],
        "@kept",
        "@njit(**OPTIONS)",
        f"def kernel(first, last, per_chunk, {', '.join(xs + labels + numbers)}, weights, weight, factors, factor, "
        f"values, {', '.join(gs)}, partials):",
        f"    rows, features = {xs[0]}.shape",
        "    for chunk in range(first, last):",
        "        total = 0.0",
        "        for r in range(chunk * per_chunk, min((chunk + 1) * per_chunk, rows)):",
        "            w = weights[r] if weights.size else weight",
        "            f = (factors[r] if factors.size else factor) * w",
    ]
    row = [f"r{k} = {x}[r]" for k, x in enumerate(xs)] + [f"h{k} = {g}[r]" for k, g in enumerate(gs)]
    row += [f"m{k}, safe{k}, state{k} = measure(r{i}, r{j})" for k, (i, j) in enumerate(pairs)]
    inputs = [*measured, *(f"T({label}[r])" for label in labels), *numbers]
    row += [f"value, ({', '.join(found)},) = terms({', '.join(inputs)})"]
    row += [f"{s} *= f" for s in found]
    row += [
        "if w == T(0):",
        *(f"    h{k}[:] = T(0)" for k in range(slopes)),
        f"elif {' and '.join(f'safe{k}' for k in range(len(pairs)))}:",
        "    for c in range(features):",
        *(f"        h{k}[c] = {pull.replace('KIND', 'safe')}" for k, pull in pulls.items()),
        "else:",
        "    for c in range(features):",
        *(f"        h{k}[c] = {pull.replace('KIND', 'scaled')}" for k, pull in pulls.items()),
        "value = T(0) if w == T(0) else value * w",
        "total += value",
        "if values.size:",
        "    values[r] = value",
    ]
    return "\n".join([*lines, *(" " * 12 + line for line in row), "        partials[chunk] = total", ""])


_kernels = CompiledOnce(_source)


def _pulls(pairs: tuple[tuple[int, int], ...], which: int) -> str:
    """Return what the measures add up to in the gradient wrt one of the vectors."""
    return " + ".join(
        f"KIND_{side}(r{i}[c], r{j}[c], s{k}, state{k})"
        for k, (i, j) in enumerate(pairs)
        for side, position in (("x", i), ("y", j))
        if position == which
    )


_HEAD = """
import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept
from mithril_losses.loops.scalar import DTYPE as xp

T = np.DTYPE
LARGEST = T(np.finfo(T).max)
SMALLEST = T(np.finfo(T).smallest_normal)
SAFE = SMALLEST / T(np.finfo(T).eps)  # squares from which the sum has all its digits
INFINITY = T(np.inf)
STRIP = 1024  # features: few enough for a float32 sum of equal terms to keep its digits
EXACT = {'contract', 'nsz'}  # infinities and NaNs keep their meaning
OPTIONS = {'nogil': True, 'error_model': 'numpy', 'fastmath': EXACT | {'arcp', 'reassoc'}}
RARE = {'forceinline': True, 'error_model': 'numpy', 'fastmath': EXACT}  # 1 / norm may be infinite


@njit(**RARE)
def bounded(x):
    return xp.minimum(xp.maximum(x, -LARGEST), LARGEST)


"""

_LENGTH = """
@njit(**OPTIONS)
def few_squares(x, y):
    squares = T(0)
    for c in range(x.size):
        squares += (ELEMENT) * (ELEMENT)
    return squares


@njit(**OPTIONS)
def length(x, y):
    # the norm, whether its square is safe, and the two numbers that a vector is divided by to have the length 1
    total = 0.0
    for c in range(0, x.size, STRIP):
        total += few_squares(x[c : c + STRIP], y[c : c + STRIP])
    squares = T(total)
    if SAFE <= squares and squares <= LARGEST:
        norm = xp.sqrt(squares)
        return norm, True, T(1), norm
    largest = T(0)
    for c in range(x.size):
        largest = xp.maximum(largest, xp.abs(ELEMENT))
    divisor = xp.minimum(xp.maximum(largest, SMALLEST), T(1) / SMALLEST)  # whose reciprocal is a normal number, too
    squares = T(0)
    for c in range(x.size):
        scaled = bounded(ELEMENT) / divisor
        squares += scaled * scaled
    root = xp.sqrt(squares)
    return INFINITY if largest == INFINITY else divisor * root, False, divisor, T(1) if root == T(0) else root


"""

_MEASURES = {
    "distance": _LENGTH.replace("ELEMENT", "x[c] - y[c]")
    + """
@njit(**OPTIONS)
def measure(x, y):
    norm, safe, divisor, root = length(x, y)
    return norm, safe, (norm, divisor, root)


@njit(forceinline=True, **OPTIONS)
def safe_x(x, y, slope, state):
    return (x - y) * (slope / state[0])


@njit(forceinline=True, **OPTIONS)
def safe_y(x, y, slope, state):
    return (y - x) * (slope / state[0])


@njit(**RARE)
def scaled_x(x, y, slope, state):
    return slope * (bounded(x - y) / state[1] / state[2])


@njit(**RARE)
def scaled_y(x, y, slope, state):
    return -slope * (bounded(x - y) / state[1] / state[2])


""",
    "cosine_distance": _LENGTH.replace("ELEMENT", "x[c]")
    + """
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
def measure(x, y):
    norm_x, safe_x, divisor_x, root_x = length(x, x)
    norm_y, safe_y, divisor_y, root_y = length(y, y)
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
def safe_x(x, y, slope, state):
    u = x / state[0]
    return (u - y / state[3] - state[6] * u) * (slope / state[0])


@njit(forceinline=True, **OPTIONS)
def safe_y(x, y, slope, state):
    v = y / state[3]
    return (v - x / state[0] + state[7] * v) * (slope / state[3])


@njit(**RARE)
def scaled_x(x, y, slope, state):
    u, v = unit(x, state[1], state[2]), unit(y, state[4], state[5])
    return bounded((u - v - state[6] * u) * (slope * state[8]) / state[0])


@njit(**RARE)
def scaled_y(x, y, slope, state):
    u, v = unit(x, state[1], state[2]), unit(y, state[4], state[5])
    return bounded((v - u + state[7] * v) * (slope * state[8]) / state[3])


""",
}
