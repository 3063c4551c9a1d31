"""Rows of softmax cross-entropy in one loop over cache-sized groups of rows, compiled by numba.

For each row, ℓ = Q log S − Σ_c q_c (z_c − m) and ∂ℓ/∂z_c = Q e^(z_c − m) / S − q_c, with m = max z, S = Σ e^(z − m)
and Q = Σ q. The target mass q_c is w_c ((1 − a) y_c + a / C), y given by an index or by probabilities.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from mithril_losses.backends.fused import CHUNK, load_module
from mithril_losses.backends.threads import share

_GROUP_ELEMENTS = 1 << 19  # that a thread takes at a time
_SHARED_FROM = 1 << 17


def run(
    scores: np.ndarray[Any, Any],
    targets: np.ndarray[Any, Any],
    class_weights: np.ndarray[Any, Any] | None,
    smoothing: float,
    ignore_index: int | None,
    weights: np.ndarray[Any, Any] | None,
    factor: Any,
    *,
    values: np.ndarray[Any, Any] | None,
    gradient: np.ndarray[Any, Any],
    threads: int,
) -> tuple[float, bool]:
    """Fill `gradient` with slope · weight · factor, and return Σ weight · ℓ and whether all labels were legal.

    Args:
        scores: z, rows × classes, C-contiguous.
        targets: one index per row, or probabilities of the shape of `scores`.
        class_weights: w, one per class; 1 by default.
        smoothing: a.
        ignore_index: rows with this index are 0.
        weights: one per row; 1 by default.
        factor: a number, or one per row.
        values: where to write weight · ℓ, if at all.
        gradient: where to write the gradient, like `scores`.
        threads: how many threads share the work.
    """
    rows, classes = scores.shape
    dtype = scores.dtype
    per_chunk = max(1, CHUNK // classes)
    chunks = -(-rows // per_chunk)
    group = max(1, _GROUP_ELEMENTS // (per_chunk * classes))
    partials, illegal = np.zeros(chunks), np.zeros(chunks, dtype=np.int64)
    uniform = class_weights is None
    w = np.ones(classes, dtype) if class_weights is None else np.ascontiguousarray(class_weights, dtype)
    one_factor, factors = _number_or_rows(factor, rows, dtype)
    _, by_row = _number_or_rows(weights, rows, dtype)
    if weights is not None and not by_row.size:
        by_row = np.full(rows, weights, dtype)
    kept = np.zeros(0, dtype) if values is None else values
    kernel = _kernels(dtype.name)
    function = kernel.by_index if targets.ndim == 1 else kernel.by_probability
    ignored = () if targets.ndim > 1 else (ignore_index is not None, np.int64(ignore_index or 0))
    fixed = (scores, targets, w, uniform, dtype.type(smoothing), *ignored, by_row, factors, one_factor)
    share(
        -(-chunks // group),
        lambda g: function(
            g * group, min((g + 1) * group, chunks), per_chunk, *fixed, kept, gradient, partials, illegal
        ),
        threads if scores.size >= _SHARED_FROM else 1,
    )
    return float(partials.sum()), not illegal.any()


def _number_or_rows(x: Any, rows: int, dtype: Any) -> tuple[Any, np.ndarray[Any, Any]]:
    """Return a number and no rows, or 0 and one entry per row."""
    if x is None or np.size(x) == 1:
        return dtype.type(0.0 if x is None else np.reshape(x, ())), np.zeros(0, dtype)
    return dtype.type(0.0), np.ascontiguousarray(np.broadcast_to(np.asarray(x, dtype), (rows,)))


@cache
def _kernels(dtype: str) -> Any:
    return load_module(_SOURCE.replace("DTYPE", dtype))


_SOURCE = '''
import numpy as np
from numba import njit

from mithril_losses.backends.scalar import DTYPE as xp

T = np.DTYPE
LARGEST = T(np.finfo(T).max)
FAST = {'contract', 'reassoc', 'nsz', 'arcp'}  # infinities and NaNs keep their meaning
OPTIONS = {'nogil': True, 'error_model': 'numpy', 'fastmath': FAST}


@njit(**OPTIONS)
def shift(z, out):
    """out = z - max z, with infinite scores brought into range; NaN everywhere if one is."""
    largest, nans = T(-np.inf), T(0)
    for c in range(z.size):
        largest = max(largest, z[c])
        nans += T(0) if z[c] == z[c] else T(1)
    largest = T(np.nan) if nans > T(0) else min(largest, LARGEST)
    for c in range(z.size):
        out[c] = min(z[c], LARGEST) - largest


@njit(**OPTIONS)
def exponentials(x):
    for i in range(x.size):
        x[i] = xp.exp(x[i])


@njit(**OPTIONS)
def total_of(x):
    total = T(0)
    for i in range(x.size):
        total += x[i]
    return total


@njit(**OPTIONS)
def weighted_total(w, x):
    """The sum of w x with 0 times infinity = 0."""
    total = T(0)
    for c in range(x.size):
        total += T(0) if w[c] == T(0) else w[c] * x[c]
    return total


@njit(**OPTIONS)
def scale(g, by, w, base):
    for c in range(g.size):
        g[c] = g[c] * by - base * w[c]


@njit(**OPTIONS)
def scale_uniform(g, by, base):
    for c in range(g.size):
        g[c] = g[c] * by - base


@njit(cache=True, **OPTIONS)
def by_index(first, last, per_chunk, z, labels, w, uniform, a, ignores, ignored, weights, factors, factor, values,
             gradient, partials, illegal):
    rows, classes = z.shape
    share = a / T(classes)
    W = total_of(w)
    shifted = np.empty(per_chunk, T)  # z_y - m
    spread = np.zeros(per_chunk, T)  # the sum of w (z - m), needed for smoothing alone
    for chunk in range(first, last):
        start, stop = chunk * per_chunk, min((chunk + 1) * per_chunk, rows)
        for r in range(start, stop):
            shift(z[r], gradient[r])
            y = labels[r]
            if ignores and y == ignored:
                continue
            if y < 0 or y >= classes:
                illegal[chunk] += 1
                continue
            shifted[r - start] = gradient[r, y]
            if a != T(0):
                spread[r - start] = weighted_total(w, gradient[r])
        exponentials(gradient[start:stop].reshape(-1))
        total = T(0)
        for r in range(start, stop):
            y = labels[r]
            omega = weights[r] if weights.size else T(1)
            f = factors[r] if factors.size else factor
            if omega == T(0) or y < 0 or y >= classes or (ignores and y == ignored):
                gradient[r, :] = T(0)
                if values.size:
                    values[r] = T(0)
                continue
            own = (T(1) - a) * w[y]
            S = total_of(gradient[r])
            Q = own + share * W
            value = Q * xp.log(S) - (T(0) if own == T(0) else own * shifted[r - start])
            if a != T(0):
                value -= share * spread[r - start]
            value *= omega
            f *= omega
            total += value
            if values.size:
                values[r] = value
            if uniform:
                scale_uniform(gradient[r], f * Q / S, f * share)
            else:
                scale(gradient[r], f * Q / S, w, f * share)
            gradient[r, y] -= f * own
        partials[chunk] = total


@njit(**OPTIONS)
def mass_of(t, w, a, share):
    total = T(0)
    for c in range(t.size):
        total += w[c] * ((T(1) - a) * T(t[c]) + share)
    return total


@njit(**OPTIONS)
def cross_total(t, w, a, share, x):
    total = T(0)
    for c in range(t.size):
        q = w[c] * ((T(1) - a) * T(t[c]) + share)
        total += T(0) if q == T(0) else q * x[c]
    return total


@njit(**OPTIONS)
def subtract(g, by, f, t, w, a, share):
    for c in range(g.size):
        g[c] = g[c] * by - f * (w[c] * ((T(1) - a) * T(t[c]) + share))


@njit(cache=True, **OPTIONS)
def by_probability(first, last, per_chunk, z, t, w, uniform, a, weights, factors, factor, values, gradient, partials,
                   illegal):
    rows, classes = z.shape
    share = a / T(classes)
    cross = np.empty(per_chunk, T)  # the sum of q (z - m)
    for chunk in range(first, last):
        start, stop = chunk * per_chunk, min((chunk + 1) * per_chunk, rows)
        for r in range(start, stop):
            shift(z[r], gradient[r])
            cross[r - start] = cross_total(t[r], w, a, share, gradient[r])
        exponentials(gradient[start:stop].reshape(-1))
        total = T(0)
        for r in range(start, stop):
            omega = weights[r] if weights.size else T(1)
            f = factors[r] if factors.size else factor
            if omega == T(0):
                gradient[r, :] = T(0)
                if values.size:
                    values[r] = T(0)
                continue
            S = total_of(gradient[r])
            Q = mass_of(t[r], w, a, share)
            value = (Q * xp.log(S) - cross[r - start]) * omega
            f *= omega
            total += value
            if values.size:
                values[r] = value
            subtract(gradient[r], f * Q / S, f, t[r], w, a, share)
        partials[chunk] = total
'''
