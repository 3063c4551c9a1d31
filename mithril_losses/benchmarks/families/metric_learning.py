"""Losses of distances between a few embeddings at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape, Size, normal, two_normals

_SIZES: Mapping[Size, tuple[Shape, ...]] = {"small": ((32, 16),), "large": ((50_000, 128),)}


def _triplets(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, *shape), *two_normals(random, shape)


def _pairs(random: np.random.Generator, shape: Shape, *labels: int) -> tuple[Array, ...]:
    x, step = two_normals(random, shape)
    # half a margin apart, and at an angle
    y = x + np.float32(0.5 / shape[1] ** 0.5) * step
    return x, y, random.choice(labels, shape[0]).astype(np.float32)


def _distance(x: Any, y: Any) -> Any:
    return ((x - y) ** 2).sum(-1) ** 0.5


def _contrastive(maximum: Any, x: Any, y: Any, same: Any) -> Any:
    d = _distance(x, y)
    return (same * d * d + (1.0 - same) * maximum(1.0 - d) ** 2).mean()


def _cosine_jax(jax: Any, x: Any, y: Any, labels: Any) -> Any:
    x, y = (z / jax.numpy.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
    cosine = (x * y).sum(-1)
    return jax.numpy.where(labels > 0, 1.0 - cosine, jax.numpy.maximum(cosine, 0.0)).mean()


PROBLEMS = [
    Problem(
        loss="triplet_loss",
        draw=_triplets,
        shapes=_SIZES,
        torch=lambda torch, *a: torch.nn.functional.triplet_margin_loss(*a, eps=0.0),
        jax=lambda jax, a, p, n: jax.numpy.maximum(_distance(a, p) - _distance(a, n) + 1.0, 0.0).mean(),
        streams=False,
    ),
    Problem(
        loss="contrastive_loss",
        draw=lambda random, shape: _pairs(random, shape, 0, 1),
        shapes=_SIZES,
        torch=lambda torch, *a: _contrastive(torch.relu, *a),
        jax=lambda jax, *a: _contrastive(jax.nn.relu, *a),
        streams=False,
    ),
    Problem(
        loss="cosine_embedding_loss",
        draw=lambda random, shape: _pairs(random, shape, -1, 1),
        shapes=_SIZES,
        torch=lambda torch, *a: torch.nn.functional.cosine_embedding_loss(*a),
        jax=_cosine_jax,
        streams=False,
    ),
]
