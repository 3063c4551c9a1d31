"""Losses that look for an embedding's partner among all those of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Case, Problem, Shape, Size, normal, two_normals
from mithril_losses.benchmarks.targets import (
    BEST,
    EAGER,
    JAX,
    NUMPY,
    TORCH,
    Target,
    Where,
    faster,
    large,
    memory_below,
    most_memory,
)

_SIZES: Mapping[Size, tuple[Shape, ...]] = {"small": ((32, 16),), "large": ((4_096, 128),)}


def _labelled(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return normal(random, *shape), random.integers(0, max(shape[0] // 8, 2), shape[0])


def _short(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    x, y = two_normals(random, shape)  # whose products are of the size of one
    return x / np.float32(shape[1] ** 0.25), y / np.float32(shape[1] ** 0.25)


def _scaled(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return *two_normals(random, shape), np.array(np.log(10.0), np.float32)


def _scaled_and_moved(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return *_scaled(random, shape), np.array(-10.0, np.float32)


# --- expressions for torch and JAX alike ------------------------------------------------------------------------------


def _unit(x: Any) -> Any:
    return x / (x * x).sum(-1)[:, None] ** 0.5


def _cosines(x: Any, y: Any) -> Any:
    return _unit(x) @ _unit(y).T


def _one_of_many_torch(torch: Any, logits: Any) -> Any:
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _one_of_many_jax(jax: Any, logits: Any) -> Any:
    return jax.numpy.mean(jax.nn.logsumexp(logits, axis=1) - jax.numpy.diagonal(logits))


def _nt_xent_torch(torch: Any, x: Any, y: Any) -> Any:
    z, n = torch.cat([x, y]), len(x)
    logits = _cosines(z, z) / 0.5
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), float("-inf"))
    return torch.nn.functional.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


def _nt_xent_jax(jax: Any, x: Any, y: Any) -> Any:
    jnp, n = jax.numpy, len(x)
    z = jnp.concatenate([x, y])
    logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, _cosines(z, z) / 0.5)
    own = jnp.take_along_axis(logits, jnp.roll(jnp.arange(2 * n), n)[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)


def _supervised(xp: Any, logsumexp: Any, z: Any, labels: Any, eye: Any) -> Any:
    logits = _cosines(z, z) / 0.1
    partners = (labels[:, None] == labels[None, :]) & ~eye
    count = partners.sum(1)
    log_sums = logsumexp(xp.where(eye, -float("inf"), logits), 1)
    own = xp.where(partners, logits, 0.0).sum(1) / xp.where(count > 0, count, 1)
    return xp.where(count > 0, log_sums - own, 0.0).mean()


def _supervised_torch(torch: Any, z: Any, labels: Any) -> Any:
    return _supervised(torch, torch.logsumexp, z, labels, torch.eye(len(z), dtype=torch.bool, device=z.device))


def _supervised_jax(jax: Any, z: Any, labels: Any) -> Any:
    return _supervised(jax.numpy, jax.nn.logsumexp, z, labels, jax.numpy.eye(len(z), dtype=bool))


def _clip_torch(torch: Any, u: Any, v: Any, scale: Any) -> Any:
    logits = scale.exp() * _cosines(u, v)
    return 0.5 * (_one_of_many_torch(torch, logits) + _one_of_many_torch(torch, logits.T))


def _clip_jax(jax: Any, u: Any, v: Any, scale: Any) -> Any:
    logits = jax.numpy.exp(scale) * _cosines(u, v)
    return 0.5 * (_one_of_many_jax(jax, logits) + _one_of_many_jax(jax, logits.T))


def _siglip_torch(torch: Any, u: Any, v: Any, scale: Any, bias: Any) -> Any:
    logits = scale.exp() * _cosines(u, v) + bias
    signs = 2.0 * torch.eye(len(u), device=u.device) - 1.0
    return -torch.nn.functional.logsigmoid(signs * logits).sum() / len(u)


def _siglip_jax(jax: Any, u: Any, v: Any, scale: Any, bias: Any) -> Any:
    logits = jax.numpy.exp(scale) * _cosines(u, v) + bias
    return -jax.nn.log_sigmoid((2.0 * jax.numpy.eye(len(u)) - 1.0) * logits).sum() / len(u)


PROBLEMS = [
    Problem(
        loss="info_nce_loss",
        draw=two_normals,
        shapes={**_SIZES, "large": ((4_096, 128), (8_192, 128))},
        torch=lambda torch, q, k: _one_of_many_torch(torch, _cosines(q, k) / 0.1),
        jax=lambda jax, q, k: _one_of_many_jax(jax, _cosines(q, k) / 0.1),
        streams=False,
    ),
    Problem(
        loss="n_pair_loss",
        draw=_short,
        shapes=_SIZES,
        torch=lambda torch, a, p: _one_of_many_torch(torch, a @ p.T),
        jax=lambda jax, a, p: _one_of_many_jax(jax, a @ p.T),
        streams=False,
    ),
    Problem(
        loss="nt_xent_loss",
        draw=two_normals,
        shapes={**_SIZES, "large": ((2_048, 128),)},
        torch=_nt_xent_torch,
        jax=_nt_xent_jax,
        streams=False,
    ),
    Problem(
        loss="supervised_contrastive_loss",
        draw=_labelled,
        shapes=_SIZES,
        torch=_supervised_torch,
        jax=_supervised_jax,
        streams=False,
    ),
    Problem(loss="clip_loss", draw=_scaled, shapes=_SIZES, torch=_clip_torch, jax=_clip_jax, streams=False),
    Problem(
        loss="siglip_loss", draw=_scaled_and_moved, shapes=_SIZES, torch=_siglip_torch, jax=_siglip_jax, streams=False
    ),
]


def _is_info_nce(case: Case, count: int) -> bool:
    return case.problem.loss == "info_nce_loss" and case.shape == (count, 128)


TARGETS = [
    *faster(
        Where("InfoNCE 4,096×128", lambda case: _is_info_nce(case, 4_096)),
        "best of ours",
        BEST,
        {EAGER: 2.5, JAX: 1.3},
    ),
    Target(
        Where("InfoNCE 8,192×128", lambda case: _is_info_nce(case, 8_192)),
        "NumPy and torch: extra memory in MB",
        most_memory((*NUMPY, *TORCH), lambda row: None if row.extra_bytes is None else row.extra_bytes / 1e6),
        most=200.0,
    ),
    memory_below(
        large("contrastive", *(problem.loss for problem in PROBLEMS)),
        (*EAGER, *JAX),
        "torch-eager and jax-jit",
        times=5.0,
    ),
]
