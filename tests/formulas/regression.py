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
