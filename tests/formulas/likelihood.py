"""Likelihoods."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from formulas.notation import sigmoid, softplus

Array = Any


def gaussian_negative_log_likelihood(mean: Array, logvar: Array, targets: Array, full: bool) -> Array:
    loss = 0.5 * ((targets - mean) ** 2 * np.exp(-logvar) + logvar)
    return loss + 0.5 * math.log(2.0 * math.pi) if full else loss


def gaussian_negative_log_likelihood_gradient(
    mean: Array, logvar: Array, targets: Array, full: bool, s: Array
) -> dict[str, Array]:
    return {
        "mean": (mean - targets) * np.exp(-logvar) * s,
        "logvar": 0.5 * (1.0 - (targets - mean) ** 2 * np.exp(-logvar)) * s,
    }


def laplace_negative_log_likelihood(location: Array, log_scale: Array, targets: Array, full: bool) -> Array:
    loss = np.abs(targets - location) * np.exp(-log_scale) + log_scale
    return loss + math.log(2.0) if full else loss


def laplace_negative_log_likelihood_gradient(
    location: Array, log_scale: Array, targets: Array, full: bool, s: Array
) -> dict[str, Array]:
    return {
        "location": np.sign(location - targets) * np.exp(-log_scale) * s,
        "log_scale": (1.0 - np.abs(targets - location) * np.exp(-log_scale)) * s,
    }


def poisson_negative_log_likelihood(predictions: Array, targets: Array, log_input: bool, full: bool) -> Array:
    rate = np.exp(predictions) if log_input else predictions
    loss = rate - targets * np.log(rate)
    return loss + np.vectorize(math.lgamma)(targets + 1.0) if full else loss


def poisson_negative_log_likelihood_gradient(
    predictions: Array, targets: Array, log_input: bool, full: bool, s: Array
) -> dict[str, Array]:
    slope = np.exp(predictions) - targets if log_input else 1.0 - targets / predictions
    return {"predictions": slope * s}


def bernoulli_negative_log_likelihood(logits: Array, targets: Array) -> Array:
    return softplus(logits) - targets * logits


def bernoulli_negative_log_likelihood_gradient(logits: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"logits": (sigmoid(logits) - targets) * s}


def flow_negative_log_likelihood(z: Array, log_det: Array, prior: str) -> Array:
    minus_log_p = (
        0.5 * z**2 + 0.5 * math.log(2.0 * math.pi)
        if prior == "normal"
        else -np.log(np.exp(-z) / (1.0 + np.exp(-z)) ** 2)  # the density of the standard logistic distribution
    )
    return minus_log_p.sum(axis=tuple(range(log_det.ndim, z.ndim))) - log_det


def flow_negative_log_likelihood_gradient(z: Array, log_det: Array, prior: str, s: Array) -> dict[str, Array]:
    each = s.reshape(*s.shape, *(1,) * (z.ndim - s.ndim))
    return {"z": (z if prior == "normal" else np.tanh(0.5 * z)) * each, "log_det": -1.0 * s}


def gamma_negative_log_likelihood(log_mean: Array, targets: Array) -> Array:
    return log_mean + targets / np.exp(log_mean)


def gamma_negative_log_likelihood_gradient(log_mean: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"log_mean": (1.0 - targets / np.exp(log_mean)) * s}


def inverse_gaussian_negative_log_likelihood(log_mean: Array, targets: Array) -> Array:
    mu = np.exp(log_mean)
    return targets / (2.0 * mu**2) - 1.0 / mu


def inverse_gaussian_negative_log_likelihood_gradient(log_mean: Array, targets: Array, s: Array) -> dict[str, Array]:
    mu = np.exp(log_mean)
    return {"log_mean": (1.0 / mu - targets / mu**2) * s}


def tweedie_negative_log_likelihood(log_mean: Array, targets: Array, power: float) -> Array:
    mu = np.exp(log_mean)
    return targets * mu ** (1.0 - power) / (power - 1.0) + mu ** (2.0 - power) / (2.0 - power)


def tweedie_negative_log_likelihood_gradient(
    log_mean: Array, targets: Array, power: float, s: Array
) -> dict[str, Array]:
    mu = np.exp(log_mean)
    return {"log_mean": (mu ** (2.0 - power) - targets * mu ** (1.0 - power)) * s}
