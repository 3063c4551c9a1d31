"""Losses of language models."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.families.classification import cross_entropy_jax, cross_entropy_optax
from mithril_losses.benchmarks.problems import Problem, Shape, normal
from mithril_losses.benchmarks.targets import BEST, EAGER, large, memory_below, time_over


def _layer(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    rows, features, classes = shape
    weight = normal(random, classes, features) / np.float32(features**0.5)
    return normal(random, rows, features), weight, random.integers(0, classes, rows)


def _linear_cross_entropy_torch(torch: Any, hidden: Any, weight: Any, targets: Any) -> Any:
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight), targets)


def _sequences(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return 3.0 * normal(random, *shape), random.integers(0, shape[-1], shape[:-1])


def _next_token_torch(torch: Any, logits: Any, tokens: Any) -> Any:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _next_token_jax(jax: Any, logits: Any, tokens: Any) -> Any:
    classes = logits.shape[-1]
    return cross_entropy_jax(jax, logits[:, :-1].reshape(-1, classes), tokens[:, 1:].reshape(-1))


PROBLEMS = [
    Problem(
        loss="next_token_cross_entropy",
        draw=_sequences,
        shapes={"small": ((4, 8, 10),), "medium": ((8, 128, 1_000),), "large": ((4, 512, 8_000),)},
        torch=_next_token_torch,
        jax=_next_token_jax,
    ),
    Problem(
        loss="linear_cross_entropy",
        draw=_layer,
        shapes={"large": ((2_048, 512, 32_000),)},
        torch=_linear_cross_entropy_torch,
        jax=lambda jax, hidden, weight, labels: cross_entropy_jax(jax, hidden @ weight.T, labels),
        optax=lambda optax, hidden, weight, labels: cross_entropy_optax(optax, hidden @ weight.T, labels),
        streams=False,
    ),
]

_LINEAR = large("linear cross-entropy 2,048×512 · 512×32,000", "linear_cross_entropy")

TARGETS = [
    time_over(_LINEAR, "best of ours", BEST, EAGER, most=1.1),
    memory_below(_LINEAR, EAGER, "torch-eager", times=8.0, beyond_gradients=True),
]
