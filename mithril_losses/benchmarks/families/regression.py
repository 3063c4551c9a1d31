"""Regression losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import ELEMENTS, Problem, Shape, normal, two_normals
from mithril_losses.benchmarks.targets import (
    COMPILE,
    COPY,
    EAGER,
    FUSED,
    JAX,
    SCIKIT,
    blocked,
    faster,
    large,
    time_over,
    warm,
)


def _huber_jax(jax: Any, predictions: Any, targets: Any) -> Any:
    jnp = jax.numpy
    error = jnp.abs(predictions - targets)
    return jnp.mean(jnp.where(error <= 1.0, 0.5 * error * error, error - 0.5))


def _pinball(xp: Any, predictions: Any, targets: Any) -> Any:
    error = predictions - targets
    return xp.where(error > 0.0, 0.1 * error, -0.9 * error).mean()


def _expectile(xp: Any, predictions: Any, targets: Any) -> Any:
    error = predictions - targets
    return (xp.where(error > 0.0, 0.1, 0.9) * error**2).mean()


def _mape(predictions: Any, targets: Any) -> Any:
    return (abs(predictions - targets) / abs(targets)).mean()


def _normals_and_sizes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, *shape), abs(normal(random, *shape)) + np.float32(0.5)


PROBLEMS = [
    Problem(
        loss="mse_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.mse_loss(p, t),
        jax=lambda jax, p, t: jax.numpy.mean((p - t) ** 2),
        optax=lambda optax, p, t: optax.squared_error(p, t).mean(),
        scikit_learn=lambda loss, p, t: (loss.HalfSquaredError(), 2.0),
    ),
    Problem(
        loss="mae_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.l1_loss(p, t),
        jax=lambda jax, p, t: jax.numpy.mean(jax.numpy.abs(p - t)),
        scikit_learn=lambda loss, p, t: (loss.AbsoluteError(), 1.0),
    ),
    Problem(
        loss="huber_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.huber_loss(p, t),
        jax=_huber_jax,
        optax=lambda optax, p, t: optax.huber_loss(p, t).mean(),
        scikit_learn=lambda loss, p, t: (loss.HuberLoss(delta=1.0), 1.0),
    ),
    Problem(
        loss="charbonnier_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: ((p - t) ** 2 + 1e-6).sqrt().mean(),
        jax=lambda jax, p, t: jax.numpy.sqrt((p - t) ** 2 + 1e-6).mean(),
    ),
    Problem(
        loss="smooth_l1_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.smooth_l1_loss(p, t),
        jax=_huber_jax,
    ),
    Problem(
        loss="pinball_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        options={"quantile": 0.9},
        torch=lambda torch, p, t, quantile: _pinball(torch, p, t),
        jax=lambda jax, p, t, quantile: _pinball(jax.numpy, p, t),
        scikit_learn=lambda loss, p, t: (loss.PinballLoss(quantile=0.9), 1.0),
    ),
    Problem(
        loss="expectile_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        options={"expectile": 0.9},
        torch=lambda torch, p, t, expectile: _expectile(torch, p, t),
        jax=lambda jax, p, t, expectile: _expectile(jax.numpy, p, t),
    ),
    Problem(
        loss="mape_loss",
        draw=_normals_and_sizes,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: _mape(p, t),
        jax=lambda jax, p, t: _mape(p, t),
    ),
]

_LARGE = large("mse, mae, huber, 16e6", "mse_loss", "mae_loss", "huber_loss")
_OTHERS = large(
    "smooth L1, pinball, expectile, mape, 16e6", "smooth_l1_loss", "pinball_loss", "expectile_loss", "mape_loss"
)

TARGETS = [
    *faster(_LARGE, "fused", FUSED, {EAGER: 6.0, COMPILE: 3.5, JAX: 3.5, SCIKIT: 2.5}),
    time_over(_LARGE, "fused", FUSED, COPY, most=1.5),
    *blocked(_LARGE),
    *warm(_LARGE, {EAGER: 12.0, JAX: 6.0, SCIKIT: 1.8, COPY: 1.2}),
    *faster(_OTHERS, "fused", FUSED, {EAGER: 6.0, JAX: 2.0}),
    time_over(_OTHERS, "fused", FUSED, COPY, most=1.6),
]
