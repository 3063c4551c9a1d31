"""Boxes, one at a time; derivatives by each coordinate in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any


class _Pair:
    """Box A, box B, their overlap and the smallest box around both: sides along x and y, and slopes of the sides."""

    def __init__(self, a: Array, b: Array):
        self.a, self.b = a, b
        self.sides_a = [max(0.0, a[2 + k] - a[k]) for k in (0, 1)]
        self.sides_b = [max(0.0, b[2 + k] - b[k]) for k in (0, 1)]
        self.overlap = [max(0.0, min(a[2 + k], b[2 + k]) - max(a[k], b[k])) for k in (0, 1)]
        self.around = [max(a[2 + k], b[2 + k]) - min(a[k], b[k]) for k in (0, 1)]
        self.area_a, self.area_b = np.prod(self.sides_a), np.prod(self.sides_b)
        self.inner, self.outer = np.prod(self.overlap), np.prod(self.around)
        self.union = self.area_a + self.area_b - self.inner
        self.q = self.inner / self.union

    def side_slopes(self, coordinate: int) -> tuple[float, float, float]:
        """∂ of the sides of A, of the overlap and of the box around both by x₁, y₁, x₂ or y₂, along its own axis."""
        k, upper = coordinate % 2, coordinate >= 2
        sign = 1.0 if upper else -1.0
        inside = self.a[coordinate] < self.b[coordinate] if upper else self.a[coordinate] > self.b[coordinate]
        bounds_overlap = inside and self.overlap[k] > 0.0
        return sign, sign * bounds_overlap, sign * (not inside)

    def slopes(self, coordinate: int) -> tuple[float, float, float]:
        """∂|A|, ∂|A ∩ B| and ∂|C|: the slope of one side times the other side."""
        other = 1 - coordinate % 2
        of_a, of_overlap, of_around = self.side_slopes(coordinate)
        return of_a * self.sides_a[other], of_overlap * self.overlap[other], of_around * self.around[other]

    def iou_slope(self, coordinate: int) -> float:
        area, inner, _ = self.slopes(coordinate)
        return -((1.0 + self.q) * inner - self.q * area) / self.union

    def centres(self) -> list[float]:
        """Difference of the centres along x and y."""
        return [0.5 * (self.a[k] + self.a[2 + k] - self.b[k] - self.b[2 + k]) for k in (0, 1)]

    @property
    def distance(self) -> float:
        """ρ² / c²."""
        return sum(d**2 for d in self.centres()) / sum(side**2 for side in self.around)

    def distance_slope(self, coordinate: int) -> float:
        k = coordinate % 2
        c2 = sum(side**2 for side in self.around)
        by_c2 = 2.0 * self.around[k] * self.side_slopes(coordinate)[2]
        return (self.centres()[k] - self.distance * by_c2) / c2

    @property
    def ratio(self) -> float:
        """v = 4/π² (arctan(w*/h*) − arctan(w/h))²."""
        angles = [np.arctan(w / h) for w, h in (self.sides_b, self.sides_a)]
        return 4.0 / np.pi**2 * (angles[0] - angles[1]) ** 2

    def ratio_slope(self, coordinate: int) -> float:
        (w, h), (w1, h1) = self.sides_a, self.sides_b
        sign = self.side_slopes(coordinate)[0]
        by_w, by_h = (sign, 0.0) if coordinate % 2 == 0 else (0.0, sign)
        angle = (h * by_w - w * by_h) / (w**2 + h**2)
        return 8.0 / np.pi**2 * (np.arctan(w / h) - np.arctan(w1 / h1)) * angle

    @property
    def alpha(self) -> float:
        return self.ratio / (1.0 - self.q + self.ratio)


def _values(of: Callable[[_Pair], float], predictions: Array, targets: Array) -> Array:
    rows = predictions.shape[:-1]
    return np.array([of(_Pair(predictions[i], targets[i])) for i in np.ndindex(rows)]).reshape(rows)


def _gradient(of: Callable[[_Pair, int], float], predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    g = np.zeros_like(predictions)
    for i in np.ndindex(predictions.shape[:-1]):
        pair = _Pair(predictions[i], targets[i])
        g[i] = [of(pair, coordinate) * s[i] for coordinate in range(4)]
    return {"predictions": g}


def iou_loss(predictions: Array, targets: Array) -> Array:
    return _values(lambda pair: 1.0 - pair.inner / pair.union, predictions, targets)


def iou_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return _gradient(_Pair.iou_slope, predictions, targets, s)


def generalized_iou_loss(predictions: Array, targets: Array) -> Array:
    return _values(
        lambda pair: 1.0 - pair.inner / pair.union + (pair.outer - pair.union) / pair.outer, predictions, targets
    )


def generalized_iou_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    def slope(pair: _Pair, coordinate: int) -> float:
        area, inner, outer = pair.slopes(coordinate)
        r = pair.union / pair.outer
        return pair.iou_slope(coordinate) - (area - inner - r * outer) / pair.outer

    return _gradient(slope, predictions, targets, s)


def distance_iou_loss(predictions: Array, targets: Array) -> Array:
    return _values(lambda pair: 1.0 - pair.q + pair.distance, predictions, targets)


def distance_iou_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return _gradient(lambda pair, c: pair.iou_slope(c) + pair.distance_slope(c), predictions, targets, s)


def complete_iou_loss(predictions: Array, targets: Array) -> Array:
    return _values(lambda pair: 1.0 - pair.q + pair.distance + pair.alpha * pair.ratio, predictions, targets)


def complete_iou_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    def slope(pair: _Pair, c: int) -> float:
        alpha = pair.alpha
        by_ratio = (2.0 * alpha - alpha**2) * pair.ratio_slope(c)
        return (1.0 - alpha**2) * pair.iou_slope(c) + pair.distance_slope(c) + by_ratio

    return _gradient(slope, predictions, targets, s)
