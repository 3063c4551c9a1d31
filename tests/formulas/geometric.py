"""Sets of points: loops over points."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def _sets(x: Array, *rest: Any) -> Any:
    """Yield index, and the sets, weights and masks of every element of a batch."""
    for index in np.ndindex(x.shape[:-2]):
        yield index, x[index], *(None if r is None else r[index] for r in rest)


def _present(points: Array, mask: Any) -> list[int]:
    return [i for i in range(len(points)) if mask is None or mask[i]]


def _nearest(point: Array, others: Array, present: list[int]) -> int:
    return min(present, key=lambda j: ((point - others[j]) ** 2).sum())  # the first at a tie


def _shares(weights: Any, present: list[int]) -> dict[int, float]:
    """What each point counts: its weight over the sum of weights."""
    given = {i: 1.0 if weights is None else float(weights[i]) for i in present}
    total = sum(given.values())
    return {i: w / total if total > 0.0 else 0.0 for i, w in given.items()}


def _distance(e: Array, squared: bool) -> float:
    return float((e**2).sum()) if squared else float(np.sqrt((e**2).sum()))


def _slope(e: Array, squared: bool) -> Array:
    length = np.sqrt((e**2).sum())
    return 2.0 * e if squared else (e / length if length > 0.0 else 0.0 * e)


def chamfer_distance(
    pred_points: Array,
    target_points: Array,
    squared: bool,
    pred_weights: Any,
    target_weights: Any,
    pred_mask: Any,
    target_mask: Any,
) -> Array:
    loss = np.zeros(pred_points.shape[:-2])
    given = (target_points, pred_weights, target_weights, pred_mask, target_mask)
    for index, x, y, v, w, in_x, in_y in _sets(pred_points, *given):
        xs, ys = _present(x, in_x), _present(y, in_y)
        if xs and ys:
            loss[index] = sum(
                c * _distance(x[i] - y[_nearest(x[i], y, ys)], squared) for i, c in _shares(v, xs).items()
            )
            loss[index] += sum(
                c * _distance(x[_nearest(y[j], x, xs)] - y[j], squared) for j, c in _shares(w, ys).items()
            )
    return loss


def chamfer_distance_gradient(
    pred_points: Array,
    target_points: Array,
    squared: bool,
    pred_weights: Any,
    target_weights: Any,
    pred_mask: Any,
    target_mask: Any,
    s: Array,
) -> dict[str, Array]:
    by_x, by_y = np.zeros_like(pred_points), np.zeros_like(target_points)
    given = (target_points, pred_weights, target_weights, pred_mask, target_mask)
    for index, x, y, v, w, in_x, in_y in _sets(pred_points, *given):
        xs, ys = _present(x, in_x), _present(y, in_y)
        if not (xs and ys):
            continue
        pairs = [(i, _nearest(x[i], y, ys), c) for i, c in _shares(v, xs).items()]
        pairs += [(_nearest(y[j], x, xs), j, c) for j, c in _shares(w, ys).items()]
        for i, j, share in pairs:
            by_x[index][i] += share * _slope(x[i] - y[j], squared) * s[index]
            by_y[index][j] -= share * _slope(x[i] - y[j], squared) * s[index]
    return {"pred_points": by_x, "target_points": by_y}


def _deciding(x: Array, y: Array, xs: list[int], ys: list[int]) -> tuple[int, int]:
    """The farthest point of either set from the other, and its nearest: the first of x before one of y at a tie."""
    pairs = [(i, _nearest(x[i], y, ys)) for i in xs] + [(_nearest(y[j], x, xs), j) for j in ys]
    return max(pairs, key=lambda pair: ((x[pair[0]] - y[pair[1]]) ** 2).sum())


def hausdorff_distance(pred_points: Array, target_points: Array, pred_mask: Any, target_mask: Any) -> Array:
    loss = np.zeros(pred_points.shape[:-2])
    for index, x, y, in_x, in_y in _sets(pred_points, target_points, pred_mask, target_mask):
        xs, ys = _present(x, in_x), _present(y, in_y)
        if xs and ys:
            from_x = max(min(_distance(x[i] - y[j], False) for j in ys) for i in xs)
            from_y = max(min(_distance(x[i] - y[j], False) for i in xs) for j in ys)
            loss[index] = max(from_x, from_y)
    return loss


def hausdorff_distance_gradient(
    pred_points: Array, target_points: Array, pred_mask: Any, target_mask: Any, s: Array
) -> dict[str, Array]:
    by_x, by_y = np.zeros_like(pred_points), np.zeros_like(target_points)
    for index, x, y, in_x, in_y in _sets(pred_points, target_points, pred_mask, target_mask):
        xs, ys = _present(x, in_x), _present(y, in_y)
        if xs and ys:
            i, j = _deciding(x, y, xs, ys)
            by_x[index][i] = _slope(x[i] - y[j], False) * s[index]
            by_y[index][j] = -by_x[index][i]
    return {"pred_points": by_x, "target_points": by_y}


def _to_nearest(x: Array, y: Array) -> list[Array]:
    return [p - y[_nearest(p, y, [*range(len(y))])] for p in x]


def modified_hausdorff_distance(pred_points: Array, target_points: Array) -> Array:
    loss = np.zeros(pred_points.shape[:-2])
    for index, x, y in _sets(pred_points, target_points):
        if len(x) and len(y):
            loss[index] = max(np.mean([_distance(e, False) for e in _to_nearest(*sets)]) for sets in ((x, y), (y, x)))
    return loss


def modified_hausdorff_distance_gradient(pred_points: Array, target_points: Array, s: Array) -> dict[str, Array]:
    found = {"pred_points": np.zeros_like(pred_points), "target_points": np.zeros_like(target_points)}
    for index, x, y in _sets(pred_points, target_points):
        if not (len(x) and len(y)):
            continue
        forward, backward = (np.mean([_distance(e, False) for e in _to_nearest(*sets)]) for sets in ((x, y), (y, x)))
        own, other = ("pred_points", "target_points") if forward >= backward else ("target_points", "pred_points")
        points, others = (x, y) if forward >= backward else (y, x)
        for i, point in enumerate(points):
            j = _nearest(point, others, [*range(len(others))])
            slope = _slope(point - others[j], False) / len(points) * s[index]
            found[own][index][i] += slope
            found[other][index][j] -= slope
    return found
