"""Transport: all permutations, and Sinkhorn's iterations until nothing moves any more."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from formulas.divergence import wasserstein_distance

Array = Any


def _best(x: Array, y: Array) -> tuple[int, ...]:
    costs = np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=-1))
    return min(itertools.permutations(range(len(x))), key=lambda order: sum(costs[i, j] for i, j in enumerate(order)))


def earth_mover_distance(pred_points: Array, target_points: Array) -> Array:
    loss = np.zeros(pred_points.shape[:-2])
    for index in np.ndindex(loss.shape):
        x, y = pred_points[index], target_points[index]
        moved = x - y[list(_best(x, y))]
        loss[index] = np.sqrt((moved**2).sum(axis=-1)).mean()
    return loss


def earth_mover_distance_gradient(pred_points: Array, target_points: Array, s: Array) -> dict[str, Array]:
    by_x, by_y = np.zeros_like(pred_points), np.zeros_like(target_points)
    for index in np.ndindex(pred_points.shape[:-2]):
        x, y = pred_points[index], target_points[index]
        for i, j in enumerate(_best(x, y)):
            e = x[i] - y[j]
            by_x[index][i] = e / np.sqrt((e**2).sum()) / len(x) * s[index]
            by_y[index][j] = -by_x[index][i]
    return {"pred_points": by_x, "target_points": by_y}


def _masses(weights: Any, points: Array) -> Array:
    if weights is None:
        return np.full(points.shape[:-1], 1.0 / points.shape[-2])
    return weights / weights.sum(axis=-1, keepdims=True)


def _plan(x: Array, y: Array, a: Array, b: Array, epsilon: float, p: float) -> tuple[Array, Array]:
    """The best plan from a to b, and the costs."""
    costs = np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=-1)) ** p
    kernel = np.exp(-costs / epsilon)
    f, g = np.ones(len(x)), np.ones(len(y))  # e^(potential / ε)
    for _ in range(2000):
        last, f = f, 1.0 / (kernel @ (b * g))
        g = 1.0 / (kernel.T @ (a * f))
        if np.max(np.abs(f / last - 1.0)) < 1e-14:
            break
    return (a * f)[:, None] * kernel * (b * g)[None], costs


def _transport(x: Array, y: Array, a: Array, b: Array, epsilon: float, p: float) -> float:
    plan, costs = _plan(x, y, a, b, epsilon, p)
    product = a[:, None] * b[None]
    there = plan > 0.0
    divergence = np.where(there, plan * np.log(np.where(there, plan, 1.0) / np.where(there, product, 1.0)), 0.0).sum()
    return float((plan * costs).sum() + epsilon * divergence)


def sinkhorn_divergence(
    pred_points: Array,
    target_points: Array,
    epsilon: float,
    p: float,
    pred_weights: Any,
    target_weights: Any,
    **_: Any,
) -> Array:
    a, b = _masses(pred_weights, pred_points), _masses(target_weights, target_points)
    loss = np.zeros(pred_points.shape[:-2])
    for i in np.ndindex(loss.shape):
        x, y = pred_points[i], target_points[i]
        loss[i] = _transport(x, y, a[i], b[i], epsilon, p)
        loss[i] -= 0.5 * _transport(x, x, a[i], a[i], epsilon, p) + 0.5 * _transport(y, y, b[i], b[i], epsilon, p)
    return loss


def _pull(x: Array, y: Array, a: Array, b: Array, epsilon: float, p: float) -> Array:
    """Σⱼ Pᵢⱼ ∂‖xᵢ − yⱼ‖^p/∂xᵢ."""
    plan, _ = _plan(x, y, a, b, epsilon, p)
    e = x[:, None] - y[None]
    length = np.sqrt((e**2).sum(axis=-1, keepdims=True))
    slopes = np.where(length > 0.0, p * np.where(length > 0.0, length, 1.0) ** (p - 2.0) * e, 0.0)
    return (plan[..., None] * slopes).sum(axis=1)


def sinkhorn_divergence_gradient(
    pred_points: Array,
    target_points: Array,
    epsilon: float,
    p: float,
    pred_weights: Any,
    target_weights: Any,
    s: Array,
    **_: Any,
) -> dict[str, Array]:
    a, b = _masses(pred_weights, pred_points), _masses(target_weights, target_points)
    by_x, by_y = np.zeros_like(pred_points), np.zeros_like(target_points)
    for i in np.ndindex(pred_points.shape[:-2]):
        x, y, options = pred_points[i], target_points[i], (epsilon, p)
        by_x[i] = (_pull(x, y, a[i], b[i], *options) - _pull(x, x, a[i], a[i], *options)) * s[i]
        by_y[i] = (_pull(y, x, b[i], a[i], *options) - _pull(y, y, b[i], b[i], *options)) * s[i]
    return {"pred_points": by_x, "target_points": by_y}


def _directions(points: Array, projections: Any, count: int, seed: int) -> Array:
    if projections is not None:
        return projections
    drawn = np.random.default_rng(seed).standard_normal((count, points.shape[-1]))
    return drawn / np.sqrt((drawn**2).sum(axis=-1, keepdims=True))


def sliced_wasserstein_distance(
    pred_points: Array, target_points: Array, p: float, projections: Any, projection_count: int, projection_seed: int
) -> Array:
    directions = _directions(pred_points, projections, projection_count, projection_seed)
    each = [wasserstein_distance(pred_points @ theta, target_points @ theta, p, -1) ** p for theta in directions]
    return np.mean(each, axis=0) ** (1.0 / p)


def sliced_wasserstein_distance_gradient(
    pred_points: Array,
    target_points: Array,
    p: float,
    projections: Any,
    projection_count: int,
    projection_seed: int,
    s: Array,
) -> dict[str, Array]:
    directions = _directions(pred_points, projections, projection_count, projection_seed)
    value = sliced_wasserstein_distance(pred_points, target_points, p, directions, 0, 0)
    by_x, by_y = np.zeros_like(pred_points), np.zeros_like(target_points)
    n, m = pred_points.shape[-2], target_points.shape[-2]
    for index in np.ndindex(value.shape):
        x, y = pred_points[index], target_points[index]
        for theta in directions:
            i, j = np.argsort(x @ theta, kind="stable"), np.argsort(y @ theta, kind="stable")
            for step in range(n * m):  # equal shares of the quantiles: the mean of the shares of each point
                a, b = i[step // m], j[step // n]
                e = theta @ x[a] - theta @ y[b]
                pull = np.abs(e) ** (p - 1.0) * np.sign(e) * theta / (len(directions) * n * m)
                by_x[index][a] += pull / value[index] ** (p - 1.0) * s[index]
                by_y[index][b] -= pull / value[index] ** (p - 1.0) * s[index]
    return {"pred_points": by_x, "target_points": by_y}
