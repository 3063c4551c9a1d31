"""What the formulas have in common: functions that docstrings name without writing them down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Massed(NamedTuple):
    """Unreduced losses that do not count alike in the divisor of a mean."""

    losses: Array
    mass: Array


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.log(1.0 + np.exp(x))


def softmax(z: Array) -> Array:
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def norm(x: Array) -> Array:
    """‖x‖ of the vectors along the last axis, which stays."""
    return np.sqrt((x * x).sum(axis=-1, keepdims=True))


def unit(x: Array) -> Array:
    """x / ‖x‖, and 0 for 0."""
    length = norm(x)
    return np.where(length > 0.0, x / np.where(length > 0.0, length, 1.0), 0.0)


def tangent(x: Array, g: Array) -> Array:
    """J g with J = (I − x̂ x̂ᵀ) / ‖x‖, and 0 for x = 0."""
    length = norm(x)
    part = g - unit(x) * (unit(x) * g).sum(axis=-1, keepdims=True)
    return np.where(length > 0.0, part / np.where(length > 0.0, length, 1.0), 0.0)


def per_set(function: Callable[..., Array], *sets: Array) -> Array:
    """Apply a function of single sets (n, d) to each of a batch (…, n, d)."""
    batch = sets[0].shape[:-2]
    flat = [x.reshape(-1, *x.shape[len(batch) :]) for x in sets]
    results = np.stack([function(*one) for one in zip(*flat, strict=True)])
    return results.reshape(*batch, *results.shape[1:])
