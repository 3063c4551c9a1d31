"""Robust losses."""

from __future__ import annotations

from typing import Any

from mithril_losses.benchmarks.problems import ELEMENTS, Problem, two_normals
from mithril_losses.benchmarks.targets import COPY, EAGER, FUSED, JAX, faster, large, time_over


def _pseudo_huber(xp: Any, predictions: Any, targets: Any) -> Any:
    return (xp.sqrt(1.0 + (predictions - targets) ** 2) - 1.0).mean()


def _fair(xp: Any, predictions: Any, targets: Any) -> Any:
    error = abs(predictions - targets)
    return (error - xp.log1p(error)).mean()


def _cauchy(xp: Any, predictions: Any, targets: Any) -> Any:
    return (0.5 * xp.log1p((predictions - targets) ** 2)).mean()


def _tukey(xp: Any, predictions: Any, targets: Any) -> Any:
    scale = 4.685
    square = ((predictions - targets) / scale) ** 2
    return (scale**2 / 6.0 * xp.where(square < 1.0, 1.0 - (1.0 - square) ** 3, 1.0)).mean()


def _general(xp: Any, predictions: Any, targets: Any) -> Any:
    return (-2.0 * ((0.25 * (predictions - targets) ** 2 + 1.0) ** -1.0 - 1.0)).mean()


PROBLEMS = [
    Problem(
        loss="pseudo_huber_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=_pseudo_huber,
        jax=lambda jax, p, t: _pseudo_huber(jax.numpy, p, t),
    ),
    Problem(
        loss="fair_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=_fair,
        jax=lambda jax, p, t: _fair(jax.numpy, p, t),
    ),
    Problem(
        loss="cauchy_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=_cauchy,
        jax=lambda jax, p, t: _cauchy(jax.numpy, p, t),
    ),
    Problem(
        loss="tukey_biweight_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=_tukey,
        jax=lambda jax, p, t: _tukey(jax.numpy, p, t),
    ),
    Problem(
        loss="general_robust_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        options={"alpha": -2.0},
        torch=lambda torch, p, t, alpha: _general(torch, p, t),
        jax=lambda jax, p, t, alpha: _general(jax.numpy, p, t),
    ),
]

_LARGE = large("pseudo-Huber, Cauchy, Tukey, 16e6", "pseudo_huber_loss", "cauchy_loss", "tukey_biweight_loss")
_ROOTS = large("pseudo-Huber, Tukey, 16e6", "pseudo_huber_loss", "tukey_biweight_loss")

TARGETS = [
    *faster(_LARGE, "fused", FUSED, {EAGER: 6.0, JAX: 2.0}),
    time_over(_ROOTS, "fused", FUSED, COPY, most=1.6),
]
