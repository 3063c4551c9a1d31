"""Softmax cross-entropy of rows of logits, one chunk of rows at a time."""

import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept
from mithril_losses.loops.scalar import float32 as xp
from mithril_losses.loops.scalar.common import larger
from mithril_losses.loops.scalar.prefetch import prefetch_to_read, prefetch_to_write

T = np.float32
LARGEST = T(np.finfo(T).max)
LINE = 64 // T().itemsize  # of the cache
STRIP = 1024  # classes: few enough for a float32 sum of equal terms to keep its digits
STEP = 128  # elements between two prefetches
WIDE = 256  # from so many classes on, the scalar remainder of a row costs less than another pass over the row
FAST = {"contract", "reassoc", "nsz", "arcp"}  # infinities and NaNs keep their meaning
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": FAST}


@njit(**OPTIONS)
def softmax_terms(start, stop, every_z, every_out, maxima, totals, logs):
    """For each row: its largest score m, out = e^(z - m), its sum S, and log S.

    Each step runs over all rows: a row waits for the result of its previous step, other rows do not.
    """
    z, out = every_z[start:stop], every_out[start:stop]
    rows, classes = z.shape
    largest_scores(z, maxima)
    if classes < WIDE:
        next_rows = slice(stop, min(stop + rows, len(every_z)))
        next_z = every_z[next_rows].reshape(-1)
        narrow_exponentials(z, maxima, out, next_z, every_out[next_rows].reshape(-1), next_z[:0])
        for r in range(rows):
            totals[r] = total_of(out[r])
    else:
        for r in range(rows):
            row, exponential, total = z[r], out[r], 0.0
            for c in range(0, classes, STRIP):
                total += shifted_exponentials(row[c : c + STRIP], maxima[r], exponential[c : c + STRIP])
            totals[r] = total
    for r in range(rows):
        logs[r] = xp.log(totals[r])


@njit(**OPTIONS)
def largest_scores(z, maxima):
    for r in range(z.shape[0]):
        row, largest = z[r], T(-np.inf)
        for c in range(row.size):
            largest = larger(largest, row[c])  # any score if the row has a NaN: the whole row becomes NaN
        maxima[r] = xp.minimum(largest, LARGEST)


@njit(**OPTIONS)
def narrow_exponentials(z, maxima, out, next_z, next_out, next_v):
    """Out = e^(z - m) of short rows, in one loop over all of them."""
    for r in range(z.shape[0]):
        row, shifted, m = z[r], out[r], maxima[r]
        for c in range(row.size):
            shifted[c] = xp.minimum(row[c], LARGEST) - m
    exponentials(out.reshape(-1), next_z, next_out, next_v)


@njit(**OPTIONS)
def shifted_exponentials(z, m, out):
    """out = e^(z - m), and their sum."""
    total = T(0)
    for c in range(z.size):
        e = xp.exp(xp.minimum(z[c], LARGEST) - m)
        out[c] = e
        total += e
    return total


@njit(**OPTIONS)
def exponentials(x, next_z, next_out, next_v):
    """x = e^x, while the memory of the next rows is prefetched."""
    for start in range(0, x.size, STEP):
        for i in range(start, min(start + STEP, next_z.size), LINE):
            prefetch_to_read(next_z, i)
            prefetch_to_write(next_out, i)
        for i in range(start, min(start + STEP, next_v.size), LINE):
            prefetch_to_read(next_v, i)
        part = x[start : start + STEP]
        for i in range(part.size):
            part[i] = xp.exp(part[i])


@njit(**OPTIONS)
def total_of(x):
    total = T(0)
    for i in range(x.size):
        total += x[i]
    return total


@njit(**OPTIONS)
def total_of_many(x):
    total = 0.0
    for i in range(0, x.size, STRIP):
        total += total_of(x[i : i + STRIP])
    return total


@njit(forceinline=True, error_model="numpy", fastmath={"contract"})
def minus_log_p(z, m, log_total):
    """log S - (z - m), in this order: for large scores, log S - z would lose all digits of log S."""
    return log_total - (xp.minimum(z, LARGEST) - m)


@njit(**OPTIONS)
def smoothed_total(share, w, z, m, log_total):
    """-Σ q log p with q = share w, and 0 times infinity = 0."""
    total = T(0)
    for c in range(z.size):
        q = share * w[c]
        total += T(0) if q == T(0) else q * minus_log_p(z[c], m, log_total)
    return total


@njit(**OPTIONS)
def scale(g, by, uniform, w, base):
    """Each row of g times `by`, minus w `base`; both differ from row to row."""
    for r in range(g.shape[0]):
        row, factor, share = g[r], by[r], base[r]
        if uniform:
            for c in range(row.size):
                row[c] = row[c] * factor - share
        else:
            for c in range(row.size):
                row[c] = row[c] * factor - share * w[c]


@kept
@njit(**OPTIONS)
def by_index(
    first,
    last,
    per_chunk,
    z,
    labels,
    own,
    owns,
    share,
    w,
    uniform,
    weights,
    factors,
    factor,
    values,
    gradient,
    partials,
):
    rows, classes = z.shape
    W = T(total_of_many(w))
    room = np.empty((6, per_chunk), T)
    maxima, totals, logs, by, base, taken = room[0], room[1], room[2], room[3], room[4], room[5]
    for chunk in range(first, last):
        start, stop = chunk * per_chunk, min((chunk + 1) * per_chunk, rows)
        g = gradient[start:stop]
        softmax_terms(start, stop, z, gradient, maxima, totals, logs)
        total = 0.0
        for r in range(start, stop):
            i, y = r - start, labels[r]
            omega = weights[r] if weights.size else T(1)
            value = by[i] = base[i] = taken[i] = T(0)
            if omega != T(0):
                q = owns[r] if owns.size else own
                if q != T(0):
                    value = q * minus_log_p(z[r, y], maxima[i], logs[i])
                if share != T(0):
                    smoothed = 0.0
                    for c in range(0, classes, STRIP):
                        part = slice(c, c + STRIP)
                        smoothed += smoothed_total(share, w[part], z[r, part], maxima[i], logs[i])
                    value += T(smoothed)
                value *= omega
                f = (factors[r] if factors.size else factor) * omega
                by[i], base[i], taken[i] = f * (q + share * W) / totals[i], f * share, f * q
            total += value
            if values.size:
                values[r] = value
        partials[chunk] = total
        scale(g, by, uniform, w, base)
        for r in range(start, stop):
            if weights.size and weights[r] == T(0):
                g[r - start, :] = T(0)
            else:
                g[r - start, labels[r]] -= taken[r - start]


@njit(**OPTIONS)
def mass_of(t, w, own, share):
    total = T(0)
    for c in range(t.size):
        total += w[c] * (own * T(t[c]) + share)
    return total


@njit(**OPTIONS)
def count_below(t, least):
    """How many probabilities are smaller, in a number of their width, so that the loop is vectorized."""
    count = T(0)
    for c in range(t.size):
        count += T(1) if T(t[c]) < least else T(0)
    return count


@njit(**OPTIONS)
def cross_total(t, w, own, share, z, m, log_total):
    """-Σ q log p with 0 times infinity = 0."""
    total = T(0)
    for c in range(t.size):
        q = w[c] * (own * T(t[c]) + share)
        total += T(0) if q == T(0) else q * minus_log_p(z[c], m, log_total)
    return total


@njit(**OPTIONS)
def subtract(g, by, f, t, w, own, share):
    for c in range(g.size):
        g[c] = g[c] * by - f * (w[c] * (own * T(t[c]) + share))


@kept
@njit(**OPTIONS)
def by_probability(
    first,
    last,
    per_chunk,
    z,
    t,
    own,
    share,
    w,
    uniform,
    weights,
    factors,
    factor,
    values,
    gradient,
    least,
    partials,
    illegal,
):
    rows, classes = z.shape
    room = np.empty((3, per_chunk), T)
    maxima, totals, logs = room[0], room[1], room[2]
    for chunk in range(first, last):
        start, stop = chunk * per_chunk, min((chunk + 1) * per_chunk, rows)
        softmax_terms(start, stop, z, gradient, maxima, totals, logs)
        total = 0.0
        for r in range(start, stop):
            i = r - start
            illegal[chunk] += count_below(t[r], least)
            omega = weights[r] if weights.size else T(1)
            f = factors[r] if factors.size else factor
            if omega == T(0):
                gradient[r, :] = T(0)
                if values.size:
                    values[r] = T(0)
                continue
            crossed, mass = 0.0, 0.0
            for c in range(0, classes, STRIP):
                part = slice(c, c + STRIP)
                crossed += cross_total(t[r, part], w[part], own, share, z[r, part], maxima[i], logs[i])
                mass += mass_of(t[r, part], w[part], own, share)
            value = T(crossed) * omega
            f *= omega
            total += value
            if values.size:
                values[r] = value
            subtract(gradient[r], f * T(mass) / totals[i], f, t[r], w, own, share)
        partials[chunk] = total


@njit(**OPTIONS)
def sums_of(e, v):
    """Σ e and Σ e v."""
    total, dot = T(0), T(0)
    for c in range(e.size):
        total += e[c]
        dot += e[c] * v[c]
    return total, dot


@njit(**OPTIONS)
def shifted_sums(z, m, v, out):
    """out = e^(z - m), its sum, and that of its products with v."""
    total, dot = T(0), T(0)
    for c in range(z.size):
        e = xp.exp(xp.minimum(z[c], LARGEST) - m)
        out[c] = e
        total += e
        dot += e * v[c]
    return total, dot


@njit(**OPTIONS)
def softmax_means(start, stop, every_z, every_v, every_out, maxima, totals, means):
    """For each row: out = e^(z - m), its sum S, and the mean of v with the probabilities e^(z - m) / S."""
    z, v, out = every_z[start:stop], every_v[start:stop], every_out[start:stop]
    rows, classes = z.shape
    largest_scores(z, maxima)
    if classes < WIDE:
        next_rows = slice(stop, min(stop + rows, len(every_z)))
        next_arrays = every_z[next_rows], every_out[next_rows], every_v[next_rows]
        narrow_exponentials(
            z, maxima, out, next_arrays[0].reshape(-1), next_arrays[1].reshape(-1), next_arrays[2].reshape(-1)
        )
        for r in range(rows):
            total, dot = sums_of(out[r], v[r])
            totals[r], means[r] = total, dot / total
        return
    for r in range(rows):
        total, dot = 0.0, 0.0
        for c in range(0, classes, STRIP):
            part = slice(c, c + STRIP)
            found = shifted_sums(z[r, part], maxima[r], v[r, part], out[r, part])
            total, dot = total + found[0], dot + found[1]
        totals[r], means[r] = total, dot / total


@njit(**OPTIONS)
def times_centred(every_e, every_v, scales, means):
    """e = scale e (v - mean) in each row."""
    for r in range(every_e.shape[0]):
        e, v, scale, mean = every_e[r], every_v[r], scales[r], means[r]
        for c in range(e.size):
            e[c] = scale * e[c] * (v[c] - mean)


@njit(**OPTIONS)
def variances(e, scale, total):
    """e = scale p (1 - p), p = e / total."""
    for c in range(e.size):
        e[c] = scale * (e[c] / total) * (T(1) - e[c] / total)


@kept
@njit(**OPTIONS)
def second_order(first, last, per_chunk, z, vectors, masses, mass, weights, factors, factor, out):
    """Q (p v - p (p . v)) of each row with its vector, or, without vectors, the diagonal Q p (1 - p)."""
    rows = z.shape[0]
    room = np.empty((4, per_chunk), T)
    maxima, totals, means, scales = room[0], room[1], room[2], room[3]
    for chunk in range(first, last):
        start, stop = chunk * per_chunk, min((chunk + 1) * per_chunk, rows)
        if len(vectors):
            softmax_means(start, stop, z, vectors, out, maxima, totals, means)
        else:
            softmax_terms(start, stop, z, out, maxima, totals, means)  # the logarithms are not used
        for r in range(start, stop):
            omega = weights[r] if weights.size else T(1)
            scales[r - start] = (factors[r] if factors.size else factor) * (masses[r] if masses.size else mass) * omega
        if len(vectors):
            for i in range(stop - start):
                scales[i] /= totals[i]
            times_centred(out[start:stop], vectors[start:stop], scales, means)
        else:
            for r in range(start, stop):
                variances(out[r], scales[r - start], totals[r - start])
        if weights.size:
            for r in range(start, stop):
                if weights[r] == T(0):
                    out[r, :] = T(0)
