"""Losses between boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mithril_losses.backends._namespace import Array
from mithril_losses.benchmarks.problems import Problem, Shape


def _boxes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    low = random.random((2, *shape[:-1], 2), dtype=np.float32)
    boxes = np.concatenate([low, low + 0.4 + random.random(low.shape, dtype=np.float32)], axis=-1)
    return boxes[0], boxes[1]


def _generalized(minimum: Any, maximum: Any, a: Any, b: Any) -> Any:
    def area(low: Any, high: Any) -> Any:
        sides = maximum(high - low, 0.0 * low)
        return sides[..., 0] * sides[..., 1]

    low, high, other_low, other_high = a[..., :2], a[..., 2:], b[..., :2], b[..., 2:]
    overlap = area(maximum(low, other_low), minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - overlap
    around = area(minimum(low, other_low), maximum(high, other_high))
    return (1.0 - overlap / union + (around - union) / around).mean()


def _complete(m: Any, a: Any, b: Any, distance: bool = True, shapes: bool = True) -> Any:
    low, high, other_low, other_high = a[..., :2], a[..., 2:], b[..., :2], b[..., 2:]

    def area(sides: Any) -> Any:
        sides = m.maximum(sides, 0.0 * sides)
        return sides[..., 0] * sides[..., 1]

    overlap = area(m.minimum(high, other_high) - m.maximum(low, other_low))
    shared = overlap / (area(high - low) + area(other_high - other_low) - overlap)
    if not distance:
        return (1.0 - shared).mean()
    around = m.maximum(high, other_high) - m.minimum(low, other_low)
    apart = 0.5 * (low + high - other_low - other_high)
    far = (apart * apart).sum(-1) / (around * around).sum(-1)
    if not shapes:
        return (1.0 - shared + far).mean()
    width, height = (high - low)[..., 0], (high - low)[..., 1]
    other_width, other_height = (other_high - other_low)[..., 0], (other_high - other_low)[..., 1]
    shape = 4.0 / math.pi**2 * (m.arctan(other_width / other_height) - m.arctan(width / height)) ** 2
    return (1.0 - shared + far + shape * shape / (1.0 - shared + shape)).mean()


PROBLEMS = [
    Problem(
        loss="iou_loss",
        draw=_boxes,
        shapes={"large": ((100_000, 4),)},
        torch=lambda torch, a, b: _complete(torch, a, b, distance=False),
        jax=lambda jax, a, b: _complete(jax.numpy, a, b, distance=False),
        streams=False,
    ),
    Problem(
        loss="distance_iou_loss",
        draw=_boxes,
        shapes={"large": ((100_000, 4),)},
        torch=lambda torch, a, b: _complete(torch, a, b, shapes=False),
        jax=lambda jax, a, b: _complete(jax.numpy, a, b, shapes=False),
        streams=False,
    ),
    Problem(
        loss="generalized_iou_loss",
        draw=_boxes,
        shapes={"small": ((100, 4),), "large": ((100_000, 4),)},
        torch=lambda torch, a, b: _generalized(torch.minimum, torch.maximum, a, b),
        jax=lambda jax, a, b: _generalized(jax.numpy.minimum, jax.numpy.maximum, a, b),
        streams=False,
    ),
    Problem(
        loss="complete_iou_loss",
        draw=_boxes,
        shapes={"large": ((100_000, 4),)},
        torch=lambda torch, a, b: _complete(torch, a, b),
        jax=lambda jax, a, b: _complete(jax.numpy, a, b),
        streams=False,
    ),
]
