"""Likelihoods."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import ELEMENTS, ROWS, Problem, Shape, normal


def _three_normals(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, *shape), normal(random, *shape), normal(random, *shape)


def _log_rates_and_counts(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    log_rates = normal(random, *shape) - np.float32(0.5)  # at 0 the mean would vanish
    return log_rates, np.asarray(random.poisson(np.exp(log_rates)), np.float32)


def _log_means_and_sizes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, *shape), np.float32(2.0) * random.standard_exponential(shape, dtype=np.float32)


def _samples_of_a_flow(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, *shape), normal(random, shape[0])


def _gaussian(xp: Any, mean: Any, logvar: Any, targets: Any) -> Any:
    return (0.5 * ((targets - mean) ** 2 * xp.exp(-logvar) + logvar)).mean()


def _laplace(xp: Any, location: Any, log_scale: Any, targets: Any) -> Any:
    return (xp.abs(targets - location) * xp.exp(-log_scale) + log_scale).mean()


def _gamma(xp: Any, log_mean: Any, targets: Any) -> Any:
    return (log_mean + targets * xp.exp(-log_mean)).mean()


def _tweedie(xp: Any, log_mean: Any, targets: Any) -> Any:
    return (2.0 * (targets * xp.exp(-0.5 * log_mean) + xp.exp(0.5 * log_mean))).mean()


def _flow(z: Any, log_det: Any) -> Any:
    return (0.5 * (z * z).sum(1) - log_det).mean() + 0.9189385332046727 * z.shape[1]


PROBLEMS = [
    Problem(
        loss="gaussian_negative_log_likelihood",
        draw=_three_normals,
        shapes=ELEMENTS,
        torch=_gaussian,
        jax=lambda jax, *arrays: _gaussian(jax.numpy, *arrays),
    ),
    Problem(
        loss="laplace_negative_log_likelihood",
        draw=_three_normals,
        shapes=ELEMENTS,
        torch=_laplace,
        jax=lambda jax, *arrays: _laplace(jax.numpy, *arrays),
    ),
    Problem(
        loss="poisson_negative_log_likelihood",
        draw=_log_rates_and_counts,
        shapes=ELEMENTS,
        torch=lambda torch, z, x: torch.nn.functional.poisson_nll_loss(z, x),
        jax=lambda jax, z, x: (jax.numpy.exp(z) - x * z).mean(),
    ),
    Problem(
        loss="gamma_negative_log_likelihood",
        draw=_log_means_and_sizes,
        shapes=ELEMENTS,
        torch=_gamma,
        jax=lambda jax, *arrays: _gamma(jax.numpy, *arrays),
    ),
    Problem(
        loss="tweedie_negative_log_likelihood",
        draw=_log_means_and_sizes,
        shapes=ELEMENTS,
        torch=_tweedie,
        jax=lambda jax, *arrays: _tweedie(jax.numpy, *arrays),
    ),
    Problem(
        loss="flow_negative_log_likelihood",
        draw=_samples_of_a_flow,
        shapes=ROWS,
        torch=lambda torch, z, log_det: _flow(z, log_det),
        jax=lambda jax, z, log_det: _flow(z, log_det),
        streams=False,  # two gradients of different shapes, which blocks compute, and no loop
    ),
]
