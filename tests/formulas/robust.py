"""Robust losses."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def pseudo_huber_loss(predictions: Array, targets: Array, delta: float) -> Array:
    e = predictions - targets
    return delta**2 * (np.sqrt(1.0 + (e / delta) ** 2) - 1.0)


def pseudo_huber_loss_gradient(predictions: Array, targets: Array, delta: float, s: Array) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": e / np.sqrt(1.0 + (e / delta) ** 2) * s}


def fair_loss(predictions: Array, targets: Array, scale: float) -> Array:
    u = np.abs(predictions - targets) / scale
    return scale**2 * (u - np.log(1.0 + u))


def fair_loss_gradient(predictions: Array, targets: Array, scale: float, s: Array) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": e / (1.0 + np.abs(e) / scale) * s}


def cauchy_loss(predictions: Array, targets: Array, scale: float) -> Array:
    e = predictions - targets
    return 0.5 * scale**2 * np.log(1.0 + (e / scale) ** 2)


def cauchy_loss_gradient(predictions: Array, targets: Array, scale: float, s: Array) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": e / (1.0 + (e / scale) ** 2) * s}


def tukey_biweight_loss(predictions: Array, targets: Array, scale: float) -> Array:
    e = predictions - targets
    inside = scale**2 / 6.0 * (1.0 - (1.0 - (e / scale) ** 2) ** 3)
    return np.where(np.abs(e) <= scale, inside, scale**2 / 6.0)


def tukey_biweight_loss_gradient(predictions: Array, targets: Array, scale: float, s: Array) -> dict[str, Array]:
    e = predictions - targets
    return {"predictions": np.where(np.abs(e) <= scale, e * (1.0 - (e / scale) ** 2) ** 2, 0.0) * s}


def general_robust_loss(predictions: Array, targets: Array, alpha: float, scale: float) -> Array:
    u, b = (predictions - targets) / scale, abs(alpha - 2.0)
    return b / alpha * ((u**2 / b + 1.0) ** (alpha / 2.0) - 1.0)


def general_robust_loss_gradient(
    predictions: Array, targets: Array, alpha: float, scale: float, s: Array
) -> dict[str, Array]:
    e, b = predictions - targets, abs(alpha - 2.0)
    return {"predictions": e / scale**2 * ((e / scale) ** 2 / b + 1.0) ** (alpha / 2.0 - 1.0) * s}
