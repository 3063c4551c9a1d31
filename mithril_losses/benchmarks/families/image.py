"""Losses of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends._namespace import Array
from mithril_losses.benchmarks.problems import Problem, Shape
from mithril_losses.benchmarks.targets import BEST, BLOCKED, COMPILE, EAGER, faster, large


def _one_batch(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return (random.random(shape, dtype=np.float32),)


def _variation(x: Any, channels_first: bool) -> Any:
    """Differences by slices, for torch and JAX alike."""
    rows, columns = (2, 3) if channels_first else (1, 2)
    later = [x[(slice(None),) * axis + (slice(1, None),)] for axis in (rows, columns)]
    earlier = [x[(slice(None),) * axis + (slice(None, -1),)] for axis in (rows, columns)]
    return sum(abs(b - a).sum() for a, b in zip(earlier, later, strict=True)) / x.shape[0]


PROBLEMS = [
    Problem(
        loss="total_variation_loss",
        draw=_one_batch,
        shapes={"small": (shape[0],), "large": (shape[1],)},
        torch=lambda torch, x, **layout: _variation(x, **layout),
        jax=lambda jax, x, **layout: _variation(x, **layout),
        options={"channels_first": channels_first},
    )
    for channels_first, shape in (
        (True, ((4, 3, 32, 32), (8, 3, 1024, 1024))),
        (False, ((4, 32, 32, 3), (8, 1024, 1024, 3))),
    )
]

_VARIATION = large("total variation, 8×3×1,024×1,024, channels first and last", "total_variation_loss")

TARGETS = [
    *faster(_VARIATION, "best of ours", BEST, {EAGER: 15.0, COMPILE: 4.0}),
    *faster(_VARIATION, "blocked", BLOCKED, {EAGER: 3.0}),
]
