"""Softmax over the angles between embeddings and the weights of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.families.classification import cross_entropy_jax
from mithril_losses.benchmarks.problems import Problem, Shape, Size, normal

_SIZES: Mapping[Size, tuple[Shape, ...]] = {"small": ((32, 16, 10),), "large": ((1_024, 128, 8_192),)}


def _layer(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    rows, features, classes = shape
    return normal(random, rows, features), normal(random, classes, features), random.integers(0, classes, rows)


def _cosines(x: Any, w: Any) -> Any:
    x, w = (z / (z * z).sum(-1)[:, None] ** 0.5 for z in (x, w))
    return x @ w.T


def _with_angle(sqrt: Any, where: Any, cosine: Any, margin: float) -> Any:
    moved = cosine * math.cos(margin) - sqrt(1.0 - cosine * cosine) * math.sin(margin)
    return where(cosine > -math.cos(margin), moved, cosine - margin * math.sin(margin))


def _torch(torch: Any, move: Any, x: Any, w: Any, targets: Any, scale: float) -> Any:
    cosines = _cosines(x, w)
    own = move(cosines.gather(1, targets[:, None]))
    return torch.nn.functional.cross_entropy(scale * cosines.scatter(1, targets[:, None], own), targets)


def _jax(jax: Any, move: Any, x: Any, w: Any, targets: Any, scale: float) -> Any:
    cosines, rows = _cosines(x, w), jax.numpy.arange(len(targets))
    moved = cosines.at[rows, targets].set(move(cosines[rows, targets]))
    return cross_entropy_jax(jax, scale * moved, targets)


PROBLEMS = [
    Problem(
        loss="arcface_loss",
        draw=_layer,
        shapes=_SIZES,
        torch=lambda torch, x, w, y, margin, scale: _torch(
            torch, lambda c: _with_angle(torch.sqrt, torch.where, c, margin), x, w, y, scale
        ),
        jax=lambda jax, x, w, y, margin, scale: _jax(
            jax, lambda c: _with_angle(jax.numpy.sqrt, jax.numpy.where, c, margin), x, w, y, scale
        ),
        options={"margin": 0.5, "scale": 64.0},
        streams=False,
    ),
    Problem(
        loss="cosface_loss",
        draw=_layer,
        shapes=_SIZES,
        torch=lambda torch, x, w, y, margin, scale: _torch(torch, lambda c: c - margin, x, w, y, scale),
        jax=lambda jax, x, w, y, margin, scale: _jax(jax, lambda c: c - margin, x, w, y, scale),
        options={"margin": 0.35, "scale": 64.0},
        streams=False,
    ),
]
