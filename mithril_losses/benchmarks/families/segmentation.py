"""Losses on masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape, normal


def _masks(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return random.random(shape, dtype=np.float32), (random.random(shape) < 0.3).astype(np.float32)


def _classes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    masses = random.standard_exponential(shape, dtype=np.float32)
    return masses / masses.sum(axis=-1, keepdims=True), random.integers(0, shape[-1], shape[:-1])


def _dice(p: Any, t: Any) -> Any:
    return (1.0 - (2.0 * (p * t).sum(1) + 1.0) / (p.sum(1) + t.sum(1) + 1.0)).mean()


def _tversky(p: Any, t: Any, fp: float = 0.3, fn: float = 0.7) -> Any:
    both = (p * t).sum(1)
    return 1.0 - (both + 1.0) / (both + fp * (p * (1.0 - t)).sum(1) + fn * ((1.0 - p) * t).sum(1) + 1.0)


def _generalized_dice(where: Any, least: Any, p: Any, t: Any) -> Any:
    sizes = t.sum(1)
    there = least(where(sizes > 0.0, sizes, math.inf))[:, None]
    shares = (there / where(sizes > 0.0, sizes, there)) ** 2
    both = (shares * (p * t).sum(1)).sum(-1)
    return (1.0 - (2.0 * both + 1.0) / ((shares * (p.sum(1) + sizes)).sum(-1) + 1.0)).mean()


def _maps(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    masses, labels = _classes(random, shape)
    return masses, np.eye(shape[-1], dtype=np.float32)[labels]


def _scores(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, *shape), (random.random(shape) < 0.3).astype(np.float32)


def _hinge_torch(torch: Any, z: Any, t: Any) -> Any:
    errors, order = torch.sort(1.0 - (2.0 * t - 1.0) * z, dim=1, descending=True)
    found = t.gather(1, order)
    return _lovasz(torch.cat, torch.relu(errors), found)


def _hinge_jax(jax: Any, z: Any, t: Any) -> Any:
    jnp = jax.numpy
    errors = 1.0 - (2.0 * t - 1.0) * z
    order = jnp.argsort(errors, axis=1, descending=True)
    errors, found = (jnp.take_along_axis(x, order, axis=1) for x in (errors, t))
    return _lovasz(jnp.concatenate, jax.nn.relu(errors), found)


def _lovasz_torch(torch: Any, p: Any, labels: Any, classes: str) -> Any:
    foreground = torch.nn.functional.one_hot(labels, p.shape[-1]).to(p.dtype)
    errors, order = torch.sort((foreground - p).abs(), dim=1, descending=True)
    found = foreground.gather(1, order)
    return _lovasz(torch.cat, errors, found)


def _lovasz_jax(jax: Any, p: Any, labels: Any, classes: str) -> Any:
    jnp = jax.numpy
    foreground = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
    errors = jnp.abs(foreground - p)
    order = jnp.argsort(errors, axis=1, descending=True)
    errors, found = (jnp.take_along_axis(x, order, axis=1) for x in (errors, foreground))
    return _lovasz(jnp.concatenate, errors, found)


def _lovasz(join: Any, errors: Any, found: Any) -> Any:
    hits = found.cumsum(1)
    total = hits[:, -1:]
    jaccard = 1.0 - (total - hits) / (total + (1.0 - found).cumsum(1))
    return (errors * join([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], 1)).sum(1).mean()


PROBLEMS = [
    Problem(
        loss="dice_loss",
        draw=_masks,
        shapes={"small": ((4, 64),), "large": ((16, 1_000_000),)},
        torch=lambda torch, p, t: _dice(p, t),
        jax=lambda jax, p, t: _dice(p, t),
        streams=False,
    ),
    Problem(
        loss="jaccard_loss",
        draw=_masks,
        shapes={"large": ((16, 1_000_000),)},
        torch=lambda torch, p, t: _tversky(p, t, 1.0, 1.0).mean(),
        jax=lambda jax, p, t: _tversky(p, t, 1.0, 1.0).mean(),
        streams=False,
    ),
    Problem(
        loss="tversky_loss",
        draw=_masks,
        shapes={"large": ((16, 1_000_000),)},
        torch=lambda torch, p, t: _tversky(p, t).mean(),
        jax=lambda jax, p, t: _tversky(p, t).mean(),
        streams=False,
    ),
    Problem(
        loss="focal_tversky_loss",
        draw=_masks,
        shapes={"large": ((16, 1_000_000),)},
        torch=lambda torch, p, t: (_tversky(p, t) ** 0.75).mean(),
        jax=lambda jax, p, t: (_tversky(p, t) ** 0.75).mean(),
        streams=False,
    ),
    Problem(
        loss="generalized_dice_loss",
        draw=_maps,
        shapes={"large": ((16, 65_536, 8),)},
        torch=lambda torch, p, t: _generalized_dice(torch.where, lambda x: x.amin(-1), p, t),
        jax=lambda jax, p, t: _generalized_dice(jax.numpy.where, lambda x: x.min(-1), p, t),
        streams=False,
    ),
    Problem(
        loss="lovasz_hinge_loss",
        draw=_scores,
        shapes={"large": ((16, 65_536),)},
        torch=_hinge_torch,
        jax=_hinge_jax,
        streams=False,
    ),
    Problem(
        loss="lovasz_softmax_loss",
        draw=_classes,
        shapes={"large": ((4, 65_536, 8),)},
        torch=_lovasz_torch,
        jax=_lovasz_jax,
        options={"classes": "all"},
        streams=False,
    ),
]
