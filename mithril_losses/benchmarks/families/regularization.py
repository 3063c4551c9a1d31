"""Regularization."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import ELEMENTS, Problem, Shape, normal


def _matrix(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return (normal(random, *shape) / np.float32(shape[-1] ** 0.5),)


def _orthogonality(xp: Any, w: Any) -> Any:
    return 0.01 * ((w @ w.T - xp.eye(w.shape[0])) ** 2).sum()


def _spectral_norm(norm: Any, w: Any) -> Any:
    return 0.005 * norm(w, ord=2) ** 2


def _array(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return (normal(random, *shape),)


PROBLEMS = [
    Problem(
        loss="l1_regularization",
        draw=_array,
        shapes=ELEMENTS,
        torch=lambda torch, w: 0.01 * w.abs().sum(),
        jax=lambda jax, w: 0.01 * abs(w).sum(),
        streams=False,  # a loop that has no other form in blocks
    ),
    Problem(
        loss="l2_regularization",
        draw=_array,
        shapes=ELEMENTS,
        torch=lambda torch, w: 0.005 * (w * w).sum(),
        jax=lambda jax, w: 0.005 * (w * w).sum(),
        streams=False,
    ),
    Problem(
        loss="orthogonal_regularization",
        draw=_matrix,
        shapes={"small": ((10, 32),), "large": ((1_000, 4_000),)},
        torch=_orthogonality,
        jax=lambda jax, w: _orthogonality(jax.numpy, w),
        streams=False,
    ),
    Problem(
        loss="spectral_norm_regularization",
        draw=_matrix,
        shapes={"small": ((32, 10),), "large": ((500, 2_000),)},
        torch=lambda torch, w: _spectral_norm(torch.linalg.matrix_norm, w),
        jax=lambda jax, w: _spectral_norm(jax.numpy.linalg.norm, w),
        streams=False,
    ),
]
