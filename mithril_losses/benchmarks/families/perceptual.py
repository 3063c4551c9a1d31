"""Losses of feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape, normal


def _two_layers(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    # of a size at which no Gram matrix vanishes
    return np.float32(64) * normal(random, *shape), np.float32(64) * (normal(random, *shape) + np.float32(0.3))


def _style(x: Any, y: Any) -> Any:
    """The difference of Gram matrices, for torch and JAX alike."""

    def gram(z: Any) -> Any:
        positions = z.reshape(z.shape[0], -1, z.shape[-1])
        return positions.swapaxes(1, 2) @ positions / (positions.shape[1] * positions.shape[2])

    return ((gram(x) - gram(y)) ** 2).mean()


def _contextual(exp: Any, log: Any, x: Any, y: Any) -> Any:
    """The paper's steps one after the other, for torch and JAX alike."""
    x, y = (z.reshape(z.shape[0], -1, z.shape[-1]) for z in (x, y))
    centre = y.mean(1)[:, None]
    x, y = ((z - centre) / ((z - centre) ** 2).sum(-1)[..., None] ** 0.5 for z in (x, y))
    distances = 1 - x @ y.swapaxes(1, 2)
    weights = exp((1 - distances / (_least(distances) + 1e-5)) / 0.1)
    shares = weights / weights.sum(2)[:, :, None]
    return -log(_most(shares).mean(1)).mean()


def _least(distances: Any) -> Any:
    """The smallest of each row, as a column."""
    return (distances.amin(2) if hasattr(distances, "amin") else distances.min(2))[:, :, None]


def _most(shares: Any) -> Any:
    """The largest of each column."""
    return shares.amax(1) if hasattr(shares, "amax") else shares.max(1)


PROBLEMS = [
    Problem(
        loss="feature_reconstruction_loss",
        draw=_two_layers,
        shapes={"large": ((8, 64, 64, 256),)},
        torch=lambda torch, x, y: torch.nn.functional.mse_loss(x, y),
        jax=lambda jax, x, y: jax.numpy.mean((x - y) ** 2),
        streams=False,
    ),
    Problem(
        loss="style_loss",
        draw=_two_layers,
        shapes={"large": ((8, 64, 64, 256),)},
        torch=lambda torch, x, y: _style(x, y),
        jax=lambda jax, x, y: _style(x, y),
        streams=False,
    ),
    Problem(
        loss="contextual_loss",
        draw=_two_layers,
        shapes={"large": ((4, 32, 32, 128),)},
        torch=lambda torch, x, y: _contextual(torch.exp, torch.log, x, y),
        jax=lambda jax, x, y: _contextual(jax.numpy.exp, jax.numpy.log, x, y),
        streams=False,
    ),
]
