"""Losses of rows: terms of the distances between the vectors of a row, with features on the last axis.

A loss says which of its arrays are compared. Its terms are a function of the distances (or other measures),
`(xp, *measures, *labels, *options) → (value, slopes)`, with one slope per measure. This module computes the measures,
and turns their slopes into slopes of the vectors: here in array notation, and in `loops.vectors` as a loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.stable import bounded, dot, norm_and_unit, unit_and_norm
from mithril_losses.templates.loop import Loop
from mithril_losses.templates.unreduced import Curvature, Losses, Named

Two = tuple[Array, Array]  # of x and of y


class SecondOfMeasure(NamedTuple):
    """The derivatives of a measure wrt x and y: the gradient, products with the Hessian, and its diagonal."""

    gradient: Two
    times: Callable[[Array, Array], Two]
    diagonal: Two


class Measure(NamedTuple):
    """The distance of x and y, row by row, and a function that turns its slope (…, 1) into slopes of x and y."""

    value: Array
    pull_x: Callable[[Array], Array]
    pull_y: Callable[[Array], Array]
    second: Callable[[], SecondOfMeasure]


def distance(xp: Any, x: Array, y: Array, p: float = 2.0) -> Measure:
    """‖x − y‖ₚ."""
    value, unit = norm_and_unit(xp, x - y, p)

    def second() -> SecondOfMeasure:
        """(p − 1) (diag |e / d|^(p − 2) − u uᵀ) / d, with e = x − y, d = ‖e‖ₚ and the gradient u."""
        length = xp.expand_dims(value, axis=-1)
        share, rate = xp.ones_like(unit), 0.0 * length
        if 1.0 < p < math.inf:
            nowhere = length == 0.0
            length = xp.where(nowhere, 1.0, length)
            rate = xp.where(nowhere, 0.0, (p - 1.0) / length)
            size = xp.abs(x - y) / length
            share = share if p == 2.0 else xp.where(size == 0.0, 0.0, xp.where(size == 0.0, 1.0, size) ** (p - 2.0))

        def times(of_x: Array, of_y: Array) -> Two:
            v = of_x - of_y
            found = rate * (share * v - xp.sum(unit * v, axis=-1, keepdims=True) * unit)
            return found, -found

        diagonal = rate * (share - unit * unit)
        return SecondOfMeasure((unit, -unit), times, (diagonal, diagonal))

    return Measure(value, lambda slope: slope * unit, lambda slope: -slope * unit, second)


def cosine_distance(xp: Any, x: Array, y: Array, p: float = 2.0) -> Measure:
    """1 − cos(x, y) = ½ ‖x/‖x‖ − y/‖y‖‖², which keeps its digits if the two nearly coincide; 1 for a zero vector."""
    (u, u_norm), (v, v_norm) = unit_and_norm(xp, x), unit_and_norm(xp, y)
    apart = u - v
    nothing = (u_norm == 0.0) | (v_norm == 0.0)
    value = xp.where(nothing, 1.0, 0.5 * xp.expand_dims(dot(xp, apart, apart), axis=-1))

    def along(slope: Array, share: Array, unit: Array, norm: Array) -> Array:
        # the part of ±(u − v) that is normal to the unit vector: (u − v)·u = 1 − u·v = (v − u)·v
        slope = xp.where(nothing, 0.0, slope)
        norm = xp.where(norm == 0.0, math.inf, norm)
        if xp is not np:
            return bounded(xp, slope * (apart - share * unit) / norm, unit.dtype)
        tangent = share * unit
        np.subtract(apart, tangent, out=tangent)
        scaled = tangent * (slope / norm)
        short = np.squeeze(~(norm > _TINY), axis=-1)
        scaled[short] = bounded(np, slope[short] * tangent[short] / norm[short], unit.dtype)
        return scaled

    def second() -> SecondOfMeasure:
        """(v uᵀ + u vᵀ + c (I − 3 u uᵀ)) / ‖x‖² wrt x, and −(I − u uᵀ) (I − v vᵀ) / (‖x‖ ‖y‖) wrt x and y."""
        cosine = 1.0 - value
        by_x, by_y = (xp.where(nothing | (norm == 0.0), 0.0, 1.0 / norm) for norm in (u_norm, v_norm))

        def sum_of(a: Array, b: Array) -> Array:
            return xp.sum(a * b, axis=-1, keepdims=True)

        def own(a: Array, b: Array, by: Array, moved: Array) -> Array:
            along_a, along_b = sum_of(a, moved), sum_of(b, moved)
            return by * by * (b * along_a + a * along_b + cosine * (moved - 3.0 * along_a * a))

        def mixed(a: Array, b: Array, moved: Array) -> Array:
            across = moved - sum_of(b, moved) * b
            return by_x * by_y * (across - sum_of(a, across) * a)

        def times(of_x: Array, of_y: Array) -> Two:
            return own(u, v, by_x, of_x) - mixed(u, v, of_y), own(v, u, by_y, of_y) - mixed(v, u, of_x)

        def diagonal(a: Array, b: Array, by: Array) -> Array:
            return by * by * (2.0 * a * b + cosine * (1.0 - 3.0 * a * a))

        gradient = by_x * (cosine * u - v), by_y * (cosine * v - u)
        return SecondOfMeasure(gradient, times, (diagonal(u, v, by_x), diagonal(v, u, by_y)))

    return Measure(
        xp.squeeze(value, axis=-1),
        lambda slope: along(slope, value, u, u_norm),
        lambda slope: along(-slope, -value, v, v_norm),
        second,
    )


_TINY = 1e-30  # above this length a number divided by it is finite, and one division per row is enough


@dataclass(frozen=True, eq=False)
class VectorTerms:
    """The terms of a loss of rows.

    Attributes:
        terms: `(xp, *measures, *labels, *options) → (value, slopes)`.
        pairs: the positions of the arrays that each measure compares.
        measure: `distance` or `cosine_distance`.
        curvature: a function of the arguments of the terms that returns the second derivative by each measure; those by
            two of them must be 0.
    """

    terms: Callable[..., Any]
    pairs: tuple[tuple[int, int], ...]
    measure: Callable[..., Measure] = distance
    curvature: Callable[..., Any] | None = None

    def losses(self, xp: Any, vectors: Mapping[str, Array], *others: Any, p: float = 2.0) -> Losses:
        """Return the loss of each row of vectors, which are given by name, and a function that returns its slopes."""
        rows = list(vectors.values())
        measures = [self.measure(xp, rows[i], rows[j], p) for i, j in self.pairs]
        value, slopes = self.terms(xp, *(measure.value for measure in measures), *others)

        def scaled(factor: float = 1.0) -> dict[str, Array]:
            found: dict[int, Array] = {}
            for pair, measure, slope in zip(self.pairs, measures, slopes, strict=True):
                pulling = xp.expand_dims(slope * factor, axis=-1)
                for k, pull in zip(pair, (measure.pull_x, measure.pull_y), strict=True):
                    part = pull(pulling)
                    found[k] = found[k] + part if k in found else part
            return {name: found[k] for k, name in enumerate(vectors)}

        def curvature() -> Curvature:
            assert self.curvature is not None
            second = self.curvature(xp, *(measure.value for measure in measures), *others)
            return self._curvature(xp, list(vectors), [measure.second() for measure in measures], slopes, second)

        return Losses(value, scaled, scaled=scaled, curvature=None if self.curvature is None else curvature)

    def _curvature(
        self,
        xp: Any,
        names: list[str],
        measures: list[SecondOfMeasure],
        slopes: Sequence[Array],
        second: Sequence[Array],
    ) -> Curvature:
        """Return Σ f″ ∇d ∇dᵀ + f′ ∇²d over the measures d."""
        f_1, f_2 = ([xp.expand_dims(x, axis=-1) for x in each] for each in (slopes, second))

        def added(parts: list[Two]) -> Named:
            found: dict[str, Array] = {}
            for pair, of_pair in zip(self.pairs, parts, strict=True):
                for k, x in zip(pair, of_pair, strict=True):
                    found[names[k]] = found[names[k]] + x if names[k] in found else x
            return {name: found[name] for name in names}

        def times(vectors: Named) -> Named:
            parts = []
            for (i, j), measure, a, b in zip(self.pairs, measures, f_1, f_2, strict=True):
                moved = vectors[names[i]], vectors[names[j]]
                along = sum(xp.sum(g * v, axis=-1, keepdims=True) for g, v in zip(measure.gradient, moved, strict=True))
                turned = measure.times(*moved)
                x, y = (b * along * g + a * t for g, t in zip(measure.gradient, turned, strict=True))
                parts.append((x, y))
            return added(parts)

        def diagonal() -> Named:
            parts = []
            for measure, a, b in zip(measures, f_1, f_2, strict=True):
                x, y = (b * g * g + a * d for g, d in zip(measure.gradient, measure.diagonal, strict=True))
                parts.append((x, y))
            return added(parts)

        return Curvature(times, diagonal)

    def fused(self, vectors: Sequence[Any], labels: Sequence[Any], options: Sequence[Any]) -> Loop | None:
        """Return the loop over rows of NumPy arrays, or None if it does not fit their layout, dtype or options."""
        first = vectors[0]
        fits = all(x.dtype == first.dtype and x.flags.c_contiguous for x in vectors) and first.shape[-1] > 0
        if not fits or first.dtype not in (np.float32, np.float64) or not all(x.flags.c_contiguous for x in labels):
            return None
        if not all(isinstance(option, (float, bool)) for option in options):
            return None
        shape, rows = first.shape[:-1], (-1, first.shape[-1])

        def run(weights: Any, factor: Any, values: Any, gradients: Sequence[Any], threads: int) -> float:
            from mithril_losses.loops import vectors as loops

            now = limits.current
            return loops.run(
                self.terms,
                self.pairs,
                self.measure.__name__,
                [x.reshape(rows) for x in vectors],
                [x.reshape(-1) for x in labels],
                options,
                by_row(weights, shape),
                by_row(factor, shape),
                values=None if values is None else values.reshape(-1),
                gradients=[x.reshape(rows) for x in gradients],
                threads=threads if first.size >= now.shared_vectors else 1,
                group=now.vector_group,
            )

        return Loop(shape, None, run)


def by_row(x: Any, shape: tuple[int, ...]) -> Any:
    """Return a number unchanged, or an array with one entry per row."""
    return x if not isinstance(x, np.ndarray) or x.size == 1 else np.broadcast_to(x, shape).reshape(-1)
