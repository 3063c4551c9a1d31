"""Classification losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import ELEMENTS, ROWS, Problem, Shape, normal
from mithril_losses.benchmarks.targets import (
    BEST,
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


def logits_and_classes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    """Return scores and one class per row."""
    return 3.0 * normal(random, *shape), random.integers(0, shape[-1], shape[:-1])


def _logits_and_binary_labels(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return 3.0 * normal(random, *shape), random.integers(0, 2, shape).astype(np.float32)


def _scores_and_signs(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return 3.0 * normal(random, *shape), (2 * random.integers(0, 2, shape) - 1).astype(np.float32)


def _binary_cross_entropy_jax(jax: Any, logits: Any, targets: Any) -> Any:
    jnp = jax.numpy
    return jnp.mean(jnp.maximum(logits, 0.0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits))))


def _focal_torch(torch: Any, logits: Any, targets: Any) -> Any:
    p = torch.sigmoid(logits)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = 0.25 * targets + 0.75 * (1 - targets)
    return (alpha_t * (1 - p_t) ** 2.0 * cross_entropy).mean()


def _focal_jax(jax: Any, logits: Any, targets: Any) -> Any:
    p = jax.nn.sigmoid(logits)
    cross_entropy = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = 0.25 * targets + 0.75 * (1 - targets)
    return jax.numpy.mean(alpha_t * (1 - p_t) ** 2 * cross_entropy)


def cross_entropy_jax(jax: Any, logits: Any, targets: Any) -> Any:
    """Return the mean cross-entropy of scores and classes."""
    jnp = jax.numpy
    own = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - own)


def cross_entropy_optax(optax: Any, logits: Any, targets: Any) -> Any:
    """Return the mean cross-entropy of scores and classes."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


PROBLEMS = [
    Problem(
        loss="binary_cross_entropy_with_logits",
        draw=_logits_and_binary_labels,
        shapes=ELEMENTS,
        torch=lambda torch, z, t: torch.nn.functional.binary_cross_entropy_with_logits(z, t),
        jax=_binary_cross_entropy_jax,
        optax=lambda optax, z, t: optax.sigmoid_binary_cross_entropy(z, t).mean(),
        scikit_learn=lambda loss, z, t: (loss.HalfBinomialLoss(), 1.0),
    ),
    Problem(
        loss="squared_hinge_loss",
        draw=_scores_and_signs,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: ((1.0 - t * p).clamp(min=0.0) ** 2).mean(),
        jax=lambda jax, p, t: (jax.numpy.maximum(1.0 - t * p, 0.0) ** 2).mean(),
    ),
    Problem(
        loss="logistic_loss",
        draw=_scores_and_signs,
        shapes=ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.soft_margin_loss(p, t),
        jax=lambda jax, p, t: jax.nn.softplus(-t * p).mean(),
    ),
    Problem(
        loss="focal_loss_with_logits",
        draw=_logits_and_binary_labels,
        shapes=ELEMENTS,
        torch=_focal_torch,
        jax=_focal_jax,
        optax=lambda optax, z, t: optax.sigmoid_focal_loss(z, t, alpha=0.25, gamma=2.0).mean(),
    ),
    Problem(
        loss="cross_entropy_with_logits",
        draw=logits_and_classes,
        shapes={**ROWS, "large": ((512, 32_000), (65_536, 100))},
        torch=lambda torch, z, labels: torch.nn.functional.cross_entropy(z, labels),
        jax=cross_entropy_jax,
        optax=cross_entropy_optax,
        scikit_learn=lambda loss, z, labels: (loss.HalfMultinomialLoss(n_classes=z.shape[1]), 1.0),
    ),
]

_LARGE = large("bce with logits, focal with logits, 16e6", "binary_cross_entropy_with_logits", "focal_loss_with_logits")
_WIDE = large("cross-entropy 512×32,000", "cross_entropy_with_logits", last=32_000)
_NARROW = large("cross-entropy 65,536×100", "cross_entropy_with_logits", last=100)

TARGETS = [
    *faster(_LARGE, "fused", FUSED, {EAGER: 12.0, COMPILE: 3.5, JAX: 6.0, SCIKIT: 15.0}),
    time_over(_LARGE, "fused", FUSED, COPY, most=1.6),
    *blocked(_LARGE),
    *warm(_LARGE, {EAGER: 12.0, JAX: 6.0, SCIKIT: 1.8, COPY: 1.6}),
    *faster(_WIDE, "best of ours", BEST, {EAGER: 5.0, COMPILE: 2.2, JAX: 2.0, SCIKIT: 3.5}),
    *faster(_NARROW, "best of ours", BEST, {EAGER: 6.0, JAX: 1.5, SCIKIT: 3.0}),
]
