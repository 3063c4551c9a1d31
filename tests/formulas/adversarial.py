"""Adversarial: losses of two batches return one array of losses for each, and take one s for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import sigmoid, softplus

Array = Any
Losses = dict[str, Array]


def vanilla_generator_loss(fake_scores: Array, epsilon: float) -> Array:
    return -np.log(np.clip(fake_scores, epsilon, 1.0 - epsilon))


def vanilla_generator_loss_gradient(fake_scores: Array, epsilon: float, s: Array) -> dict[str, Array]:
    return {"fake_scores": -1.0 / np.clip(fake_scores, epsilon, 1.0 - epsilon) * s}


def vanilla_discriminator_loss(
    real_scores: Array, fake_scores: Array, epsilon: float, label_smoothing: float
) -> Losses:
    p, q = np.clip(real_scores, epsilon, 1.0 - epsilon), np.clip(fake_scores, epsilon, 1.0 - epsilon)
    real = -(1.0 - label_smoothing) * np.log(p) - label_smoothing * np.log(1.0 - p)
    return {"real_scores": real, "fake_scores": -np.log(1.0 - q)}


def vanilla_discriminator_loss_gradient(
    real_scores: Array, fake_scores: Array, epsilon: float, label_smoothing: float, s: Losses
) -> dict[str, Array]:
    p, q = np.clip(real_scores, epsilon, 1.0 - epsilon), np.clip(fake_scores, epsilon, 1.0 - epsilon)
    real = -(1.0 - label_smoothing) / p + label_smoothing / (1.0 - p)
    return {"real_scores": real * s["real_scores"], "fake_scores": 1.0 / (1.0 - q) * s["fake_scores"]}


def non_saturating_generator_loss(fake_scores: Array) -> Array:
    return -np.log(sigmoid(fake_scores))


def non_saturating_generator_loss_gradient(fake_scores: Array, s: Array) -> dict[str, Array]:
    return {"fake_scores": -sigmoid(-fake_scores) * s}


def non_saturating_discriminator_loss(real_scores: Array, fake_scores: Array, label_smoothing: float) -> Losses:
    x, y = real_scores, fake_scores
    return {"real_scores": softplus(-x) + label_smoothing * x, "fake_scores": softplus(y)}


def non_saturating_discriminator_loss_gradient(
    real_scores: Array, fake_scores: Array, label_smoothing: float, s: Losses
) -> dict[str, Array]:
    x, y = real_scores, fake_scores
    return {
        "real_scores": (label_smoothing - sigmoid(-x)) * s["real_scores"],
        "fake_scores": sigmoid(y) * s["fake_scores"],
    }


def least_squares_generator_loss(fake_scores: Array, target_real: float, scale: float) -> Array:
    return scale * (fake_scores - target_real) ** 2


def least_squares_generator_loss_gradient(
    fake_scores: Array, target_real: float, scale: float, s: Array
) -> dict[str, Array]:
    return {"fake_scores": 2.0 * scale * (fake_scores - target_real) * s}


def least_squares_discriminator_loss(
    real_scores: Array, fake_scores: Array, target_real: float, target_fake: float, scale: float
) -> Losses:
    return {
        "real_scores": scale * (real_scores - target_real) ** 2,
        "fake_scores": scale * (fake_scores - target_fake) ** 2,
    }


def least_squares_discriminator_loss_gradient(
    real_scores: Array, fake_scores: Array, target_real: float, target_fake: float, scale: float, s: Losses
) -> dict[str, Array]:
    return {
        "real_scores": 2.0 * scale * (real_scores - target_real) * s["real_scores"],
        "fake_scores": 2.0 * scale * (fake_scores - target_fake) * s["fake_scores"],
    }


def wasserstein_generator_loss(fake_scores: Array) -> Array:
    return -fake_scores


def wasserstein_generator_loss_gradient(fake_scores: Array, s: Array) -> dict[str, Array]:
    return {"fake_scores": -1.0 * s}


def wasserstein_discriminator_loss(real_scores: Array, fake_scores: Array) -> Losses:
    return {"real_scores": -real_scores, "fake_scores": fake_scores}


def wasserstein_discriminator_loss_gradient(real_scores: Array, fake_scores: Array, s: Losses) -> dict[str, Array]:
    return {"real_scores": -1.0 * s["real_scores"], "fake_scores": 1.0 * s["fake_scores"]}


def hinge_generator_loss(fake_scores: Array) -> Array:
    return -fake_scores


def hinge_generator_loss_gradient(fake_scores: Array, s: Array) -> dict[str, Array]:
    return {"fake_scores": -1.0 * s}


def hinge_discriminator_loss(real_scores: Array, fake_scores: Array) -> Losses:
    return {"real_scores": np.maximum(0.0, 1.0 - real_scores), "fake_scores": np.maximum(0.0, 1.0 + fake_scores)}


def hinge_discriminator_loss_gradient(real_scores: Array, fake_scores: Array, s: Losses) -> dict[str, Array]:
    return {
        "real_scores": np.where(real_scores < 1.0, -1.0, 0.0) * s["real_scores"],
        "fake_scores": np.where(fake_scores > -1.0, 1.0, 0.0) * s["fake_scores"],
    }


def relativistic_average_discriminator_loss(real_scores: Array, fake_scores: Array) -> float:
    x, y = real_scores, fake_scores
    return softplus(-(x - y.mean())).mean() + softplus(y - x.mean()).mean()


def relativistic_average_discriminator_loss_gradient(real_scores: Array, fake_scores: Array) -> dict[str, Array]:
    x, y = real_scores, fake_scores
    return {
        "real_scores": -(sigmoid(y.mean() - x) + sigmoid(y - x.mean()).mean()) / x.size,
        "fake_scores": (sigmoid(y - x.mean()) + sigmoid(y.mean() - x).mean()) / y.size,
    }


def relativistic_average_generator_loss(fake_scores: Array, real_scores: Array) -> float:
    x, y = real_scores, fake_scores
    return softplus(-(y - x.mean())).mean() + softplus(x - y.mean()).mean()


def relativistic_average_generator_loss_gradient(fake_scores: Array, real_scores: Array) -> dict[str, Array]:
    x, y = real_scores, fake_scores
    return {
        "fake_scores": -(sigmoid(x.mean() - y) + sigmoid(x - y.mean()).mean()) / y.size,
        "real_scores": (sigmoid(x - y.mean()) + sigmoid(x.mean() - y).mean()) / x.size,
    }


def relativistic_average_least_squares_discriminator_loss(real_scores: Array, fake_scores: Array) -> float:
    x, y = real_scores, fake_scores
    return ((x - y.mean() - 1.0) ** 2).mean() + ((y - x.mean() + 1.0) ** 2).mean()


def relativistic_average_least_squares_discriminator_loss_gradient(
    real_scores: Array, fake_scores: Array
) -> dict[str, Array]:
    x, y = real_scores, fake_scores
    apart = x.mean() - y.mean()
    return {
        "real_scores": 2.0 * (x - x.mean() - 2.0 + 2.0 * apart) / x.size,
        "fake_scores": 2.0 * (y - y.mean() + 2.0 - 2.0 * apart) / y.size,
    }


def relativistic_average_least_squares_generator_loss(fake_scores: Array, real_scores: Array) -> float:
    x, y = real_scores, fake_scores
    return ((y - x.mean() - 1.0) ** 2).mean() + ((x - y.mean() + 1.0) ** 2).mean()


def relativistic_average_least_squares_generator_loss_gradient(
    fake_scores: Array, real_scores: Array
) -> dict[str, Array]:
    x, y = real_scores, fake_scores
    apart = x.mean() - y.mean()
    return {
        "fake_scores": 2.0 * (y - y.mean() - 2.0 - 2.0 * apart) / y.size,
        "real_scores": 2.0 * (x - x.mean() + 2.0 + 2.0 * apart) / x.size,
    }


def _norms(g: Array) -> Array:
    return np.sqrt((g.reshape(len(g), -1) ** 2).sum(axis=1)).reshape(-1, *(1,) * (g.ndim - 1))


def gradient_penalty(input_gradients: Array, target_norm: float) -> Array:
    return ((_norms(input_gradients) - target_norm) ** 2).reshape(-1)


def gradient_penalty_gradient(input_gradients: Array, target_norm: float, s: Array) -> dict[str, Array]:
    g, length = input_gradients, _norms(input_gradients)
    return {"input_gradients": 2.0 * (length - target_norm) * g / length * s.reshape(length.shape)}
