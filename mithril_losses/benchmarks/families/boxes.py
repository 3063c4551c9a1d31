"""Losses between boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape


def _boxes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    low = random.random((2, *shape[:-1], 2), dtype=np.float32)
    boxes = np.concatenate([low, low + 0.4 + random.random(low.shape, dtype=np.float32)], axis=-1)
    return boxes[0], boxes[1]


def _area(m: Any, sides: Any) -> Any:
    sides = m.maximum(sides, 0.0 * sides)
    return sides[..., 0] * sides[..., 1]


def _parts(m: Any, a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Return the intersection over the union, the union, and the sides of the box around both."""
    low, high, other_low, other_high = a[..., :2], a[..., 2:], b[..., :2], b[..., 2:]
    overlap = _area(m, m.minimum(high, other_high) - m.maximum(low, other_low))
    union = _area(m, high - low) + _area(m, other_high - other_low) - overlap
    return overlap / union, union, m.maximum(high, other_high) - m.minimum(low, other_low)


def _plain(m: Any, a: Any, b: Any) -> Any:
    return (1.0 - _parts(m, a, b)[0]).mean()


def _generalized(m: Any, a: Any, b: Any) -> Any:
    shared, union, sides = _parts(m, a, b)
    around = _area(m, sides)
    return (1.0 - shared + (around - union) / around).mean()


def _losses_by_distance(m: Any, a: Any, b: Any) -> tuple[Any, Any]:
    shared, _, sides = _parts(m, a, b)
    apart = 0.5 * (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:])
    return 1.0 - shared + (apart * apart).sum(-1) / (sides * sides).sum(-1), shared


def _distance(m: Any, a: Any, b: Any) -> Any:
    return _losses_by_distance(m, a, b)[0].mean()


def _complete(m: Any, a: Any, b: Any) -> Any:
    losses, shared = _losses_by_distance(m, a, b)
    angle, other_angle = (m.arctan((x[..., 2] - x[..., 0]) / (x[..., 3] - x[..., 1])) for x in (a, b))
    shape = 4.0 / math.pi**2 * (other_angle - angle) ** 2
    return (losses + shape * shape / (1.0 - shared + shape)).mean()


def _problem(loss: str, expression: Any, small: tuple[Shape, ...] = ()) -> Problem:
    return Problem(
        loss=loss,
        draw=_boxes,
        shapes={"small": small, "large": ((100_000, 4),)},
        torch=expression,
        jax=lambda jax, a, b: expression(jax.numpy, a, b),
        streams=False,
    )


PROBLEMS = [
    _problem("iou_loss", _plain),
    _problem("generalized_iou_loss", _generalized, small=((100, 4),)),
    _problem("distance_iou_loss", _distance),
    _problem("complete_iou_loss", _complete),
]
