"""Regression."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def mse_loss(predictions: Array, targets: Array) -> Array:
    e = predictions - targets
    return e**2


def mse_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": 2.0 * e * s}


def mae_loss(predictions: Array, targets: Array) -> Array:
    return np.abs(predictions - targets)


def mae_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"predictions": np.sign(predictions - targets) * s}


def huber_loss(predictions: Array, targets: Array, delta: float) -> Array:
    e = predictions - targets
    return np.where(np.abs(e) <= delta, 0.5 * e**2, delta * (np.abs(e) - 0.5 * delta))


def huber_loss_gradient(predictions: Array, targets: Array, delta: float, s: Array) -> dict[str, Array]:
    return {"predictions": np.clip(predictions - targets, -delta, delta) * s}


def charbonnier_loss(predictions: Array, targets: Array, epsilon: float, alpha: float) -> Array:
    e = predictions - targets
    return (e**2 + epsilon**2) ** (alpha / 2.0)


def charbonnier_loss_gradient(
    predictions: Array, targets: Array, epsilon: float, alpha: float, s: Array
) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": alpha * e * (e**2 + epsilon**2) ** (alpha / 2.0 - 1.0) * s}


def psnr_loss(predictions: Array, targets: Array, max_value: float, axis: Any) -> Array:
    mse = ((predictions - targets) ** 2).mean(axis=axis)
    return -20.0 * np.log10(max_value / np.sqrt(mse))


def psnr_loss_gradient(predictions: Array, targets: Array, max_value: float, axis: Any, s: Array) -> dict[str, Array]:
    e = predictions - targets
    s = s if axis is None else np.expand_dims(s, axis)
    return {"predictions": 20.0 / np.log(10.0) * e / (e**2).sum(axis=axis, keepdims=True) * s}


def log_cosh_loss(predictions: Array, targets: Array) -> Array:
    return np.log(np.cosh(predictions - targets))


def log_cosh_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"predictions": np.tanh(predictions - targets) * s}


def smooth_l1_loss(predictions: Array, targets: Array, beta: float) -> Array:
    e = predictions - targets
    return np.where(np.abs(e) <= beta, 0.5 * e**2 / beta, np.abs(e) - 0.5 * beta)


def smooth_l1_loss_gradient(predictions: Array, targets: Array, beta: float, s: Array) -> dict[str, Array]:
    return {"predictions": np.clip((predictions - targets) / beta, -1.0, 1.0) * s}


def pinball_loss(predictions: Array, targets: Array, quantile: float) -> Array:
    e = predictions - targets
    return np.maximum((1.0 - quantile) * e, -quantile * e)


def pinball_loss_gradient(predictions: Array, targets: Array, quantile: float, s: Array) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": np.where(e > 0.0, 1.0 - quantile, np.where(e < 0.0, -quantile, 0.0)) * s}


def expectile_loss(predictions: Array, targets: Array, expectile: float) -> Array:
    e = predictions - targets
    return np.where(e > 0.0, (1.0 - expectile) * e**2, expectile * e**2)


def expectile_loss_gradient(predictions: Array, targets: Array, expectile: float, s: Array) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": np.where(e > 0.0, 2.0 * (1.0 - expectile) * e, 2.0 * expectile * e) * s}


def msle_loss(predictions: Array, targets: Array) -> Array:
    return (np.log(1.0 + predictions) - np.log(1.0 + targets)) ** 2


def msle_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    d = np.log(1.0 + predictions) - np.log(1.0 + targets)
    return {"predictions": 2.0 * d / (1.0 + predictions) * s}


def mape_loss(predictions: Array, targets: Array, epsilon: float) -> Array:
    return np.abs(predictions - targets) / np.maximum(np.abs(targets), epsilon)


def mape_loss_gradient(predictions: Array, targets: Array, epsilon: float, s: Array) -> dict[str, Array]:
    return {"predictions": np.sign(predictions - targets) / np.maximum(np.abs(targets), epsilon) * s}


def mspe_loss(predictions: Array, targets: Array, epsilon: float) -> Array:
    return ((predictions - targets) / np.maximum(np.abs(targets), epsilon)) ** 2


def mspe_loss_gradient(predictions: Array, targets: Array, epsilon: float, s: Array) -> dict[str, Array]:
    return {"predictions": 2.0 * (predictions - targets) / np.maximum(np.abs(targets), epsilon) ** 2 * s}


def smape_loss(predictions: Array, targets: Array, epsilon: float) -> Array:
    return 2.0 * np.abs(predictions - targets) / np.maximum(np.abs(predictions) + np.abs(targets), epsilon)


def smape_loss_gradient(predictions: Array, targets: Array, epsilon: float, s: Array) -> dict[str, Array]:
    p, t = predictions, targets
    total = np.abs(p) + np.abs(t)
    above = 2.0 * np.sign(p - t) * (1.0 + np.sign(p * t)) * np.abs(t) / total**2
    return {"predictions": np.where(total > epsilon, above, 2.0 * np.sign(p - t) / epsilon) * s}
