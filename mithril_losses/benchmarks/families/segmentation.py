"""Losses on masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends._namespace import Array
from mithril_losses.benchmarks.problems import Problem, Shape


def _masks(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return random.random(shape, dtype=np.float32), (random.random(shape) < 0.3).astype(np.float32)


def _classes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    masses = random.standard_exponential(shape, dtype=np.float32)
    return masses / masses.sum(axis=-1, keepdims=True), random.integers(0, shape[-1], shape[:-1])


def _dice(p: Any, t: Any) -> Any:
    return (1.0 - (2.0 * (p * t).sum(1) + 1.0) / (p.sum(1) + t.sum(1) + 1.0)).mean()


def _lovasz_torch(torch: Any, p: Any, labels: Any, classes: str) -> Any:
    foreground = torch.nn.functional.one_hot(labels, p.shape[-1]).to(p.dtype)
    errors, order = torch.sort((foreground - p).abs(), dim=1, descending=True)
    found = foreground.gather(1, order)
    return _lovasz(torch.cat, errors, found, found.cumsum(1), (1.0 - found).cumsum(1))


def _lovasz_jax(jax: Any, p: Any, labels: Any, classes: str) -> Any:
    jnp = jax.numpy
    foreground = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
    errors = jnp.abs(foreground - p)
    order = jnp.argsort(errors, axis=1, descending=True)
    errors, found = (jnp.take_along_axis(x, order, axis=1) for x in (errors, foreground))
    return _lovasz(
        lambda parts, axis: jnp.concatenate(parts, axis), errors, found, found.cumsum(1), (1.0 - found).cumsum(1)
    )


def _lovasz(join: Any, errors: Any, found: Any, hits: Any, others: Any) -> Any:
    total = hits[:, -1:]
    jaccard = 1.0 - (total - hits) / (total + others)
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
        loss="lovasz_softmax_loss",
        draw=_classes,
        shapes={"large": ((4, 65_536, 8),)},
        torch=_lovasz_torch,
        jax=_lovasz_jax,
        options={"classes": "all"},
        streams=False,
    ),
]
