"""Terms of the distances or cosines of rows, compiled by numba into one loop over the rows.

A row stays in the first-level cache while its distances are summed, and while their slopes are turned into slopes of
its vectors. Only rows whose squares would overflow or vanish are scaled first, as in `numerics.stable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Template
from typing import Any

import numpy as np

from mithril_losses.loops.chunks import Chunks, number_or_rows
from mithril_losses.loops.compiling import CompiledOnce, filled, kernel_text, types_of
from mithril_losses.loops.printing import scalar_source

Floats = np.ndarray[Any, Any]


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
    group: int,
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
        values: where to write weight · value, if given.
        gradients: where to write the gradients wrt the first of the vectors.
        threads: how many threads share the work.
        group: how many elements of a vector array a thread takes at a time.
    """
    rows, features = vectors[0].shape
    dtype = vectors[0].dtype
    flags = tuple(option if isinstance(option, bool) else None for option in options)
    key = (pairs, measure, len(vectors), len(labels), flags, len(gradients), dtype.type.__name__)
    chunks = Chunks.of(rows, features, group)
    partials = np.zeros(chunks.number)
    one_factor, factors = number_or_rows(factor, rows, dtype)
    one_weight, by_row = number_or_rows(1.0 if weights is None else weights, rows, dtype)
    kept = np.zeros(0, dtype) if values is None else values
    numbers = (dtype.type(option) for option in options if not isinstance(option, bool))
    fixed = (*vectors, *labels, *numbers, by_row, one_weight, factors, one_factor, kept, *gradients, partials)
    types = types_of(*vectors, *labels, by_row, factors)
    kernel = _kernels(terms, key, types, lambda kernel: kernel(0, 0, chunks.size, *fixed))
    chunks.share(lambda first, last: kernel(first, last, chunks.size, *fixed), threads)
    return float(partials.sum())


_KERNEL = Template("""
@kept
@njit(**OPTIONS)
def kernel(first, last, per_chunk, $given, weights, weight, factors, factor, values, $gradients, partials):
    rows, features = x0.shape
    for chunk in range(first, last):
        total = 0.0
        for r in range(chunk * per_chunk, min((chunk + 1) * per_chunk, rows)):
            w = weights[r] if weights.size else weight
            f = (factors[r] if factors.size else factor) * w
            $row
            value, ($slopes,) = terms($inputs)
            $scaled
            if w == T(0):
                $nothing
            elif $safe:
                for c in range(features):
                    $pulls_of_safe
            else:
                for c in range(features):
                    $pulls_of_scaled
            value = T(0) if w == T(0) else value * w
            total += value
            if values.size:
                values[r] = value
        partials[chunk] = total
""")


def _source(
    terms: Callable[..., Any],
    pairs: tuple[tuple[int, int], ...],
    measure: str,
    vectors: int,
    labels: int,
    flags: tuple[bool | None, ...],
    slopes: int,
    dtype: str,
) -> str:
    """Return the module that computes these terms, one function per step of a row."""
    first_flag = len(pairs) + labels
    settled = {first_flag + k: flag for k, flag in enumerate(flags) if flag is not None}
    numbers = [f"o{k}" for k, flag in enumerate(flags) if flag is None]
    gradients = [f"g{k}" for k in range(slopes)]
    row = [f"r{k} = x{k}[r]" for k in range(vectors)] + [f"h{k} = {g}[r]" for k, g in enumerate(gradients)]
    row += [f"m{k}, safe{k}, state{k} = {measure}(r{i}, r{j})" for k, (i, j) in enumerate(pairs)]
    kernel = _KERNEL.substitute(
        given=", ".join([*(f"x{k}" for k in range(vectors)), *(f"y{k}" for k in range(labels)), *numbers]),
        gradients=", ".join(gradients),
        row="; ".join(row),
        slopes=", ".join(f"s{k}" for k in range(len(pairs))),
        inputs=", ".join([*(f"m{k}" for k in range(len(pairs))), *(f"T(y{k}[r])" for k in range(labels)), *numbers]),
        scaled="; ".join(f"s{k} *= f" for k in range(len(pairs))),
        nothing="; ".join(f"h{k}[:] = T(0)" for k in range(slopes)),
        safe=" and ".join(f"safe{k}" for k in range(len(pairs))),
        pulls_of_safe="; ".join(f"h{k}[c] = {_pulls(pairs, k, f'{measure}_safe')}" for k in range(slopes)),
        pulls_of_scaled="; ".join(f"h{k}[c] = {_pulls(pairs, k, f'{measure}_scaled')}" for k in range(slopes)),
    )
    return filled(kernel_text("vectors", dtype), "terms", scalar_source(terms, settled)) + kernel


def _pulls(pairs: tuple[tuple[int, int], ...], which: int, pull: str) -> str:
    """Return the sum over the measures in the gradient wrt one of the vectors.

    Example:
        >>> _pulls(((0, 1), (2, 0)), 0, "pull")
        'pull_x(r0[c], r1[c], s0, state0) + pull_y(r2[c], r0[c], s1, state1)'
    """
    return " + ".join(
        f"{pull}_{side}(r{i}[c], r{j}[c], s{k}, state{k})"
        for k, (i, j) in enumerate(pairs)
        for side, position in (("x", i), ("y", j))
        if position == which
    )


_kernels = CompiledOnce(_source)
