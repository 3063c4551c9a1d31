"""Divergences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import ROWS, Problem, Shape, normal, squared_distances, two_normals
from mithril_losses.benchmarks.targets import (
    BEST,
    COMPILE,
    COPY,
    EAGER,
    FUSED,
    JAX,
    blocked,
    faster,
    large,
    memory_below,
    on_many_points,
    time_over,
)


def _two_distributions(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    masses = [random.standard_exponential(shape, dtype=np.float32) + np.float32(1e-3) for _ in range(2)]
    return tuple(mass / mass.sum(axis=-1, keepdims=True) for mass in masses)


def _two_samples(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, 1, *shape), normal(random, 1, *shape) + np.float32(0.5)


def _kl_optax(optax: Any, p: Any, q: Any) -> Any:
    import jax.numpy as jnp

    return optax.kl_divergence(jnp.log(q), p).mean()


def _jensen_shannon(log: Any, p: Any, q: Any) -> Any:
    m = 0.5 * (p + q)
    return 0.5 * (p * log(p / m) + q * log(q / m)).sum(-1).mean()


def _gaussian(exp: Any, mean: Any, logvar: Any) -> Any:
    return 0.5 * (mean * mean + exp(logvar) - 1.0 - logvar).sum(-1).mean()


def _discrepancy(exp: Any, x: Any, y: Any, kernel_bandwidth: float) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        return exp(squared_distances(a, b) / (-2.0 * kernel_bandwidth**2)).mean((1, 2))

    return (kernel(x, x) + kernel(y, y) - 2.0 * kernel(x, y)).mean()


def _energy_torch(torch: Any, x: Any, y: Any) -> Any:
    return _energy(lambda a, b: torch.cdist(a, b).mean((1, 2)), x, y)


def _energy_compiled(xp: Any, x: Any, y: Any) -> Any:
    def mean_distance(a: Any, b: Any) -> Any:
        squared = squared_distances(a, b)
        apart = squared > 0.0  # the derivative of a root at 0 is infinite
        return xp.where(apart, xp.sqrt(xp.where(apart, squared, 1.0)), 0.0).mean((1, 2))

    return _energy(mean_distance, x, y)


def _energy(mean_distance: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    return (2.0 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)).mean()


PROBLEMS = [
    Problem(
        loss="kl_divergence",
        draw=_two_distributions,
        shapes=ROWS,
        torch=lambda torch, p, q: torch.nn.functional.kl_div(q.log(), p, reduction="batchmean"),
        jax=lambda jax, p, q: jax.numpy.mean((p * (jax.numpy.log(p) - jax.numpy.log(q))).sum(-1)),
        optax=_kl_optax,
    ),
    Problem(
        loss="js_divergence",
        draw=_two_distributions,
        shapes=ROWS,
        torch=lambda torch, p, q: _jensen_shannon(torch.log, p, q),
        jax=lambda jax, p, q: _jensen_shannon(jax.numpy.log, p, q),
    ),
    Problem(
        loss="gaussian_kl_divergence",
        draw=two_normals,
        shapes=ROWS,
        torch=lambda torch, mean, logvar: _gaussian(torch.exp, mean, logvar),
        jax=lambda jax, mean, logvar: _gaussian(jax.numpy.exp, mean, logvar),
    ),
    Problem(
        loss="wasserstein_distance",
        draw=two_normals,
        shapes=ROWS,
        torch=lambda torch, x, y: (x.sort(-1).values - y.sort(-1).values).abs().mean(),
        jax=lambda jax, x, y: abs(jax.numpy.sort(x) - jax.numpy.sort(y)).mean(),
        streams=False,  # sorts
    ),
    Problem(
        loss="maximum_mean_discrepancy",
        draw=_two_samples,
        shapes={"large": ((2_000, 64),)},
        torch=lambda torch, x, y, **bandwidth: _discrepancy(torch.exp, x, y, **bandwidth),
        jax=lambda jax, x, y, **bandwidth: _discrepancy(jax.numpy.exp, x, y, **bandwidth),
        options={"kernel_bandwidth": 8.0},  # about the distance of two samples
        streams=False,
        ours_alone=((20_000, 64),),
    ),
    Problem(
        loss="energy_distance",
        draw=_two_samples,
        shapes={"large": ((2_000, 16),)},
        torch=_energy_torch,
        torch_compile=_energy_compiled,
        jax=lambda jax, x, y: _energy_compiled(jax.numpy, x, y),
        streams=False,
        ours_alone=((20_000, 16),),
    ),
]

_KL = large("kl, 160,000×100", "kl_divergence")
_SAMPLES = large("MMD 2,000×64, energy 2,000×16", "maximum_mean_discrepancy", "energy_distance")

TARGETS = [
    *faster(_KL, "fused", FUSED, {EAGER: 12.0, COMPILE: 3.5, JAX: 6.0}),
    time_over(_KL, "fused", FUSED, COPY, most=1.6),
    *blocked(_KL),
    *faster(_SAMPLES, "best of ours", BEST, {EAGER: 2.0, JAX: 2.0}),
    memory_below(_SAMPLES, (*EAGER, *JAX), "torch-eager and jax-jit", times=5.0),
    on_many_points("maximum_mean_discrepancy", "energy_distance"),
]
