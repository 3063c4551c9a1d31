"""Rows of logits turned into losses and slopes in place, in one loop over each row, compiled by numba.

A row stays in the first-level cache while its largest logit, its exponentials and its slopes are found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mithril_losses.loops.compiling import CompiledOnce, kernel_text, types_of

Floats = np.ndarray[Any, Any]
Integers = np.ndarray[Any, Any]


def softmax(
    logits: Floats, targets: Integers, scale: Floats | None, columns: tuple[Floats, Floats] | None = None
) -> tuple[Floats, Floats]:
    """Return ℓ = log Σ_c e^z_c − z_t and log Σ_c e^z_c of each row, and write scale · ∂ℓ/∂z over z.

    Args:
        logits: z, rows × columns, C-contiguous; they are overwritten.
        targets: t, an index per row.
        scale: one per row; without it no derivative is computed.
        columns: λ and σ, one of each per column: σ_c e^(z_c − λ_c), minus scale at the target, is added to the slopes.
    """
    losses, log_sums = np.empty((2, len(logits)), logits.dtype)
    factors, nothing = _or_nothing(scale, logits), _or_nothing(None, logits)
    of_columns, of_scales = (nothing, nothing) if columns is None else columns
    _call(softmax, logits, targets, factors, of_columns, of_scales, losses, log_sums)
    return losses, log_sums


def softmax_by_label(
    logits: Floats, itself: Integers, row_labels: Integers, labels: Integers, scale: Floats | None
) -> tuple[Floats, Floats]:
    """Return ℓ = log Σ_{c≠i} e^z_c − mean z_p over the columns p ≠ i of the row's label, and their number.

    If there are no such columns, ℓ and its slopes are 0.

    Args:
        logits: z, rows × columns, C-contiguous; overwritten by scale · ∂ℓ/∂z.
        itself: i, an index per row.
        row_labels: the labels of the rows, int64.
        labels: the labels of the columns, int64.
        scale: one per row; without it no derivative is computed.
    """
    losses, counts = np.empty((2, len(logits)), logits.dtype)
    factors = _or_nothing(scale, logits)
    _call(softmax_by_label, logits, itself, row_labels, labels, factors, losses, counts)
    return losses, counts


def sigmoid(logits: Floats, targets: Integers, scale: Floats | None) -> Floats:
    """Return ℓ = softplus(−z_t) + Σ_{c≠t} softplus(z_c) of each row, and write scale · ∂ℓ/∂z over z.

    Args:
        logits: z, rows × columns, C-contiguous.
        targets: t, an index per row.
        scale: one per row; without it no derivative is computed.
    """
    losses = np.empty(len(logits), logits.dtype)
    _call(sigmoid, logits, targets, _or_nothing(scale, logits), losses)
    return losses


def _or_nothing(x: Floats | None, like: Floats) -> Floats:
    return np.zeros(0, like.dtype) if x is None else x


def _call(function: Callable[..., Any], logits: Floats, *rest: np.ndarray[Any, Any]) -> None:
    """Call the loop with the name of the function."""
    types, name = types_of(logits, *rest), function.__name__
    _kernels(function, (logits.dtype.name,), types, lambda loop: loop(logits[:0], *rest), name)(logits, *rest)


_kernels = CompiledOnce(lambda _, dtype: kernel_text("pairs", dtype))
