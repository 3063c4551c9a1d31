"""Rows of softmax cross-entropy in one loop over cache-sized groups of rows, compiled by numba.

For each row, ℓ = Σ_c q_c (log S − (z_c − m)) and ∂ℓ/∂z_c = Q e^(z_c − m) / S − q_c, with m = max z, S = Σ e^(z − m)
and Q = Σ q, as in `templates.rows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.loops.chunks import Chunks, number_or_rows
from mithril_losses.loops.compiling import CompiledOnce, kernel_text, types_of


def run(
    scores: np.ndarray[Any, Any],
    shares: tuple[np.ndarray[Any, Any], Any, float, np.ndarray[Any, Any] | None],
    weights: np.ndarray[Any, Any] | None,
    factor: Any,
    *,
    values: np.ndarray[Any, Any] | None,
    gradient: np.ndarray[Any, Any],
    threads: int,
    group: int,
    least: float = 0.0,
) -> tuple[float, bool]:
    """Fill `gradient` with slope · weight · factor, and return Σ weight · ℓ and whether all probabilities are legal.

    Args:
        scores: z, rows × classes, C-contiguous.
        shares: q, in four parts, either (label, own, base, w) with q_c = [c = label] own + base w_c, where own is one
            number or one per row; or (t, part, base, w) with q_c = (part t_c + base) w_c, where probabilities t have
            the shape of `scores`. w is one number per class; None is 1.
        weights: one per row; 1 by default. Rows of weight 0 may hold anything.
        factor: a number, or one per row.
        values: where to write weight · ℓ, if given.
        gradient: where to write the gradient, like `scores`.
        threads: how many threads share the work.
        group: how many scores a thread takes at a time.
        least: the smallest legal probability: 0, or a little less, which rounding explains.
    """
    targets, own, share, each = shares
    rows, classes = scores.shape
    dtype = scores.dtype
    chunks = Chunks.of(rows, classes, group)
    partials, illegal = np.zeros(chunks.number), np.zeros(chunks.number)
    w = np.ones(classes, dtype) if each is None else np.ascontiguousarray(each, dtype)
    one_factor, factors = number_or_rows(factor, rows, dtype)
    one_own, owns = number_or_rows(own, rows, dtype)
    _, by_row = number_or_rows(weights, rows, dtype)
    if weights is not None and not by_row.size:
        by_row = np.full(rows, weights, dtype)
    kept = np.zeros(0, dtype) if values is None else values
    q = (one_own, *((owns,) if targets.ndim == 1 else ()), dtype.type(share), w, each is None)
    found = (partials,) if targets.ndim == 1 else (dtype.type(least), partials, illegal)
    fixed = (scores, targets, *q, by_row, factors, one_factor, kept, gradient, *found)
    function = _kernels(
        run,
        (dtype.name,),
        types_of(scores, targets, owns, w, by_row, factors),
        lambda function: function(0, 0, chunks.size, *fixed),
        entry="by_index" if targets.ndim == 1 else "by_probability",
    )
    chunks.share(lambda first, last: function(first, last, chunks.size, *fixed), threads)
    return float(partials.sum()), not illegal.any()


def run_second_order(
    scores: np.ndarray[Any, Any],
    vectors: np.ndarray[Any, Any] | None,
    mass: Any,
    weights: np.ndarray[Any, Any] | None,
    factor: Any,
    *,
    out: np.ndarray[Any, Any],
    threads: int,
    group: int,
) -> None:
    """Fill `out` with H v · weight · factor, or without vectors with the diagonal of H, H = Q (diag p − p pᵀ).

    Args:
        scores: z, rows × classes, C-contiguous.
        vectors: v, in the shape and the dtype of the scores, C-contiguous; None for the diagonal.
        mass: Q, one number, or one per row.
        weights: one per row; 1 by default. Rows of weight 0 may hold anything.
        factor: a number, or one per row.
        out: where to write, like `scores`.
        threads: how many threads share the work.
        group: how many scores a thread takes at a time.
    """
    rows, classes = scores.shape
    dtype = scores.dtype
    chunks = Chunks.of(rows, 2 * classes, group)  # two arrays of a chunk stay in the first-level cache
    one_mass, masses = number_or_rows(mass, rows, dtype)
    one_factor, factors = number_or_rows(factor, rows, dtype)
    _, by_row = number_or_rows(weights, rows, dtype)
    if weights is not None and not by_row.size:
        by_row = np.full(rows, weights, dtype)
    given = np.zeros((0, classes), dtype) if vectors is None else vectors
    fixed = (scores, given, masses, one_mass, by_row, factors, one_factor, out)
    function = _kernels(
        run_second_order,
        (dtype.name,),
        types_of(scores, given, masses, by_row, factors),
        lambda function: function(0, 0, chunks.size, *fixed),
        entry="second_order",
    )
    chunks.share(lambda first, last: function(first, last, chunks.size, *fixed), threads)


_kernels = CompiledOnce(lambda _, dtype: kernel_text("rows", dtype))
