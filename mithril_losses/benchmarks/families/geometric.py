"""Losses between sets of points."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape
from mithril_losses.benchmarks.targets import BEST, PEERS, Target, large, memory_below, on_many_points, speed_up


def _two_point_sets(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return random.random((1, *shape), dtype=np.float32), random.random((1, *shape), dtype=np.float32)


def _chamfer_torch(torch: Any, x: Any, y: Any) -> Any:
    # the default, by products, is faster, but about one nearest neighbour in a hundred is wrong
    squared = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return (squared.min(2).values.mean(1) + squared.min(1).values.mean(1)).mean()


def _chamfer_torch_compile(torch: Any, x: Any, y: Any) -> Any:
    squared = ((x[:, :, None] - y[:, None, :]) ** 2).sum(-1)
    return (squared.amin(2).mean(1) + squared.amin(1).mean(1)).mean()


def _chamfer_jax(jax: Any, x: Any, y: Any) -> Any:
    squared = ((x[:, :, None] - y[:, None, :]) ** 2).sum(-1)
    return (squared.min(2).mean(1) + squared.min(1).mean(1)).mean()


def _hausdorff_torch(torch: Any, x: Any, y: Any) -> Any:
    distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.maximum(distances.amin(2).amax(1), distances.amin(1).amax(1)).mean()


def _hausdorff_jax(jax: Any, x: Any, y: Any) -> Any:
    squared = ((x[:, :, None] - y[:, None, :]) ** 2).sum(-1)
    return jax.numpy.sqrt(jax.numpy.maximum(squared.min(2).max(1), squared.min(1).max(1))).mean()


PROBLEMS = [
    Problem(
        loss="chamfer_distance",
        draw=_two_point_sets,
        shapes={"large": ((8_000, 3),)},
        torch=_chamfer_torch,
        torch_compile=_chamfer_torch_compile,
        jax=_chamfer_jax,
        streams=False,
        ours_alone=((20_000, 3),),
    ),
    Problem(
        loss="hausdorff_distance",
        draw=_two_point_sets,
        shapes={"large": ((8_000, 3),)},
        torch=_hausdorff_torch,
        jax=_hausdorff_jax,
        streams=False,
    ),
]

_CHAMFER = large("chamfer 8,000 × 8,000 × 3", "chamfer_distance")

TARGETS = [
    Target(
        _CHAMFER,
        "best of ours: times as fast as the best peer",
        speed_up(BEST, PEERS),
        least=20.0,
        why_missed="Two trees and two neighbours of every point, so that ties are seen, take most of the call: "
        "[where the time goes](profiles.md#chamfer-distance).",
    ),
    memory_below(_CHAMFER, PEERS, "the best peer", times=100.0),
    on_many_points("chamfer_distance"),
]
