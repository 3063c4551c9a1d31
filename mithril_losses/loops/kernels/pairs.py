"""Losses and slopes of rows of logits; slopes overwrite logits."""

import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept
from mithril_losses.loops.scalar import float32 as xp
from mithril_losses.loops.scalar.common import larger

T = np.float32
LARGEST = T(np.finfo(T).max)
STRIP = 1024  # columns: few enough for a float32 sum of equal terms to keep its digits
FAST = {"contract", "reassoc", "nsz", "arcp"}  # infinities and NaNs keep their meaning
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": FAST}


@njit(**OPTIONS)
def largest_of(z, largest):
    for c in range(z.size):
        largest = larger(largest, z[c])  # any logit if the row has a NaN: the whole row becomes NaN
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
            z[i] = T(0) * factor  # NaN if the row is NaN


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
