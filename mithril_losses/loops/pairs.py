"""Rows of logits turned into losses and slopes in place, in one loop over each row, compiled by numba.

A row stays in the first-level cache while its largest logit, its exponentials and its slopes are found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mithril_losses.loops.compiling import CompiledOnce, types_of

Floats = np.ndarray[Any, Any]
Integers = np.ndarray[Any, Any]


def softmax(
    logits: Floats, targets: Integers, scale: Floats | None, columns: tuple[Floats, Floats] | None = None
) -> tuple[Floats, Floats]:
    """Return ℓ = log Σ_c e^z_c − z_t and log Σ_c e^z_c of each row, and leave scale · ∂ℓ/∂z in the place of z.

    Args:
        logits: z, rows × columns, C-contiguous; destroyed.
        targets: t, an index per row.
        scale: one per row; without it no derivative is computed.
        columns: λ and σ, one of each per column: σ_c e^(z_c − λ_c), less scale at the target, is added to the slopes.
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

    Where there are none, ℓ and its slopes are 0.

    Args:
        logits: z, rows × columns, C-contiguous; scale · ∂ℓ/∂z in the end.
        itself: i, an index per row.
        row_labels: of the rows, int64.
        labels: of the columns, int64.
        scale: one per row; without it no derivative is computed.
    """
    losses, counts = np.empty((2, len(logits)), logits.dtype)
    factors = _or_nothing(scale, logits)
    _call(softmax_by_label, logits, itself, row_labels, labels, factors, losses, counts)
    return losses, counts


def sigmoid(logits: Floats, targets: Integers, scale: Floats | None) -> Floats:
    """Return ℓ = softplus(−z_t) + Σ_{c≠t} softplus(z_c) of each row, and leave scale · ∂ℓ/∂z in the place of z.

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
    """Call the loop of the function's own name."""
    types, name = types_of(logits, *rest), function.__name__
    _kernels(function, (logits.dtype.name,), types, lambda loop: loop(logits[:0], *rest), name)(logits, *rest)


_kernels = CompiledOnce(lambda _, dtype: _SOURCE.replace("DTYPE", dtype))

_SOURCE = '''
import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept
from mithril_losses.loops.scalar import DTYPE as xp
from mithril_losses.loops.scalar.common import larger

T = np.DTYPE
LARGEST = T(np.finfo(T).max)
STRIP = 1024  # columns: few enough for a float32 sum of equal terms to keep its digits
FAST = {'contract', 'reassoc', 'nsz', 'arcp'}  # infinities and NaNs keep their meaning
OPTIONS = {'nogil': True, 'error_model': 'numpy', 'fastmath': FAST}


@njit(**OPTIONS)
def largest_of(z, largest):
    for c in range(z.size):
        largest = larger(largest, z[c])  # any logit in a row with a NaN, all of which is NaN in the end
    return largest


@njit(**OPTIONS)
def exponentials(z, largest):
    """z = e^(z - largest), and their sum."""
    total = 0.0
    for c in range(0, z.size, STRIP):
        total += few_exponentials(z[c : c + STRIP], largest)
    return T(total)


@njit(**OPTIONS)
def few_exponentials(z, largest):
    total = T(0)
    for c in range(z.size):
        e = xp.exp(z[c] - largest)
        z[c] = e
        total += e
    return total


@njit(**OPTIONS)
def by_columns(z, log_sums, scale, out):
    for c in range(z.size):
        out[c] = xp.exp(z[c] - log_sums[c]) * scale[c]


@kept
@njit(**OPTIONS)
def softmax(every_z, targets, scale, log_sums_of_columns, scale_of_columns, losses, log_sums):
    beside = np.zeros(log_sums_of_columns.size, T)
    for r in range(len(every_z)):
        z, t = every_z[r], targets[r]
        largest = largest_of(z, -LARGEST)
        own = z[t] - largest
        if beside.size:
            by_columns(z, log_sums_of_columns, scale_of_columns, beside)
        total = exponentials(z, largest)
        log_total = xp.log(total)
        losses[r], log_sums[r] = log_total - own, largest + log_total
        if scale.size:
            factor = scale[r] / total
            for c in range(z.size):
                z[c] *= factor
            z[t] -= scale[r]
        if beside.size:
            for c in range(z.size):
                z[c] += beside[c]
            z[t] -= scale[r]


@njit(**OPTIONS)
def partners(z, largest, label, labels):
    """How many columns have the label, and the sum of their z - largest."""
    count, total = 0, 0.0
    for c in range(0, z.size, STRIP):
        few, part = few_partners(z[c : c + STRIP], largest, label, labels[c : c + STRIP])
        count, total = count + few, total + part
    return count, T(total)


@njit(**OPTIONS)
def few_partners(z, largest, label, labels):
    count, total = 0, T(0)
    for c in range(z.size):
        same = labels[c] == label
        count += same
        total += z[c] - largest if same else T(0)
    return count, total


@njit(**OPTIONS)
def pull(z, factor, label, labels, share):
    for c in range(z.size):
        z[c] = z[c] * factor - (share if labels[c] == label else T(0))


@kept
@njit(**OPTIONS)
def softmax_by_label(every_z, itself, row_labels, labels, scale, losses, counts):
    for r in range(len(every_z)):
        z, i, label = every_z[r], itself[r], row_labels[r]
        before, after, labels_before, labels_after = z[:i], z[i + 1 :], labels[:i], labels[i + 1 :]
        largest = largest_of(after, largest_of(before, -LARGEST))
        count, own = partners(before, largest, label, labels_before)
        count_after, own_after = partners(after, largest, label, labels_after)
        count, own = count + count_after, own + own_after
        counts[r] = count
        if not count:
            losses[r] = T(0)
            z[:] = T(0)
            continue
        total = exponentials(before, largest) + exponentials(after, largest)
        losses[r] = xp.log(total) - own / T(count)
        if scale.size:
            factor, share = scale[r] / total, scale[r] / T(count)
            pull(before, factor, label, labels_before, share)
            pull(after, factor, label, labels_after, share)
            z[i] = T(0) * factor  # NaN in a row that is


@njit(**OPTIONS)
def softplus(z, factor):
    """z = factor / (1 + e^-z), and the sum of log(1 + e^z)."""
    total = T(0)
    for c in range(z.size):
        x = z[c]
        tail = xp.exp(-xp.abs(x))
        total += xp.maximum(x, T(0)) + xp.log1p(tail)
        z[c] = xp.where(x >= T(0), T(1), tail) / (T(1) + tail) * factor
    return total


@kept
@njit(**OPTIONS)
def sigmoid(every_z, targets, scale, losses):
    for r in range(len(every_z)):
        z, t, total = every_z[r], targets[r], 0.0
        z[t] = -z[t]
        factor = scale[r] if scale.size else T(1)
        for c in range(0, z.size, STRIP):
            total += softplus(z[c : c + STRIP], factor)
        losses[r] = total
        z[t] = -z[t]
'''
