"""Classification."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import Massed, sigmoid, softmax, softplus

Array = Any


def masses(scores: Array, targets: Array, class_weights: Any, label_smoothing: float, ignore_index: Any) -> Any:
    """q_c = w_c y′_c with y′ = (1 − a) y + a / C, and what each row counts in the divisor; classes are last."""
    classes = scores.shape[-1]
    y = np.array(targets, dtype=float)
    kept = np.ones(scores.shape[:-1])
    if targets.ndim < scores.ndim:
        kept = np.ones(targets.shape) if ignore_index is None else (targets != ignore_index).astype(float)
        y = np.stack([targets == c for c in range(classes)], axis=-1).astype(float)
    w = np.ones(classes) if class_weights is None else np.asarray(class_weights)
    q = w * ((1.0 - label_smoothing) * y + label_smoothing / classes)
    mass = kept if class_weights is None else kept * (w * y).sum(axis=-1)
    return q * kept[..., None], mass


def _rows(scores: Array, targets: Array, class_axis: int) -> tuple[Array, Array]:
    same = targets.ndim == scores.ndim
    return np.moveaxis(scores, class_axis, -1), np.moveaxis(targets, class_axis, -1) if same else targets


def cross_entropy_with_logits(logits: Array, targets: Array, class_axis: int, **options: Any) -> Massed:
    z, y = _rows(logits, targets, class_axis)
    q, mass = masses(z, y, **options)
    return Massed(-(q * np.log(softmax(z))).sum(axis=-1), mass)


def cross_entropy_with_logits_gradient(
    logits: Array, targets: Array, class_axis: int, s: Array, **options: Any
) -> dict[str, Array]:
    z, y = _rows(logits, targets, class_axis)
    q, _ = masses(z, y, **options)
    slope = softmax(z) * q.sum(axis=-1, keepdims=True) - q
    return {"logits": np.moveaxis(slope * s[..., None], -1, class_axis)}


def cross_entropy_loss(predictions: Array, targets: Array, class_axis: int, epsilon: float, **options: Any) -> Massed:
    p, y = _rows(predictions, targets, class_axis)
    q, mass = masses(p, y, **options)
    return Massed(-(q * np.log(np.clip(p, epsilon, 1.0 - epsilon))).sum(axis=-1), mass)


def cross_entropy_loss_gradient(
    predictions: Array, targets: Array, class_axis: int, epsilon: float, s: Array, **options: Any
) -> dict[str, Array]:
    p, y = _rows(predictions, targets, class_axis)
    q, _ = masses(p, y, **options)
    slope = -q / np.clip(p, epsilon, 1.0 - epsilon)
    return {"predictions": np.moveaxis(slope * s[..., None], -1, class_axis)}


def binary_cross_entropy(predictions: Array, targets: Array, epsilon: float) -> Array:
    p, t = np.clip(predictions, epsilon, 1.0 - epsilon), targets
    return -t * np.log(p) - (1.0 - t) * np.log(1.0 - p)


def binary_cross_entropy_gradient(predictions: Array, targets: Array, epsilon: float, s: Array) -> dict[str, Array]:
    p = np.clip(predictions, epsilon, 1.0 - epsilon)
    return {"predictions": (p - targets) / (p * (1.0 - p)) * s}


def binary_cross_entropy_with_logits(logits: Array, targets: Array, pos_weight: Any) -> Array:
    w = 1.0 if pos_weight is None else pos_weight
    return w * targets * softplus(-logits) + (1.0 - targets) * softplus(logits)


def binary_cross_entropy_with_logits_gradient(
    logits: Array, targets: Array, pos_weight: Any, s: Array
) -> dict[str, Array]:
    w = 1.0 if pos_weight is None else pos_weight
    return {"logits": ((1.0 - targets) * sigmoid(logits) - w * targets * sigmoid(-logits)) * s}


def hinge_loss(predictions: Array, targets: Array) -> Array:
    return np.maximum(0.0, 1.0 - targets * predictions)


def hinge_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"predictions": np.where(targets * predictions < 1.0, -targets, 0.0) * s}


def focal_loss(predictions: Array, targets: Array, gamma: float, alpha: float, epsilon: float) -> Array:
    p = np.clip(predictions, epsilon, 1.0 - epsilon)
    p_t = np.where(targets == 1.0, p, 1.0 - p)
    alpha_t = np.where(targets == 1.0, alpha, 1.0 - alpha)
    return -alpha_t * (1.0 - p_t) ** gamma * np.log(p_t)


def focal_loss_gradient(
    predictions: Array, targets: Array, gamma: float, alpha: float, epsilon: float, s: Array
) -> dict[str, Array]:
    p = np.clip(predictions, epsilon, 1.0 - epsilon)
    p_t = np.where(targets == 1.0, p, 1.0 - p)
    alpha_t = np.where(targets == 1.0, alpha, 1.0 - alpha)
    slope = gamma * (1.0 - p_t) ** (gamma - 1.0) * np.log(p_t) - (1.0 - p_t) ** gamma / p_t
    return {"predictions": (2.0 * targets - 1.0) * alpha_t * slope * s}


def focal_loss_with_logits(logits: Array, targets: Array, gamma: float, alpha: float) -> Array:
    p_t = sigmoid((2.0 * targets - 1.0) * logits)
    alpha_t = np.where(targets == 1.0, alpha, 1.0 - alpha)
    return -alpha_t * (1.0 - p_t) ** gamma * np.log(p_t)


def focal_loss_with_logits_gradient(
    logits: Array, targets: Array, gamma: float, alpha: float, s: Array
) -> dict[str, Array]:
    p_t = sigmoid((2.0 * targets - 1.0) * logits)
    q = 1.0 - p_t
    alpha_t = np.where(targets == 1.0, alpha, 1.0 - alpha)
    return {"logits": (2.0 * targets - 1.0) * alpha_t * q**gamma * (gamma * p_t * np.log(p_t) - q) * s}


def _softmax(x: Array) -> Array:
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def list_net_loss(scores: Array, relevance: Array) -> Array:
    return -(_softmax(relevance) * np.log(_softmax(scores))).sum(axis=-1)


def list_net_loss_gradient(scores: Array, relevance: Array, s: Array) -> dict[str, Array]:
    return {"scores": (_softmax(scores) - _softmax(relevance)) * s[..., None]}


def squared_hinge_loss(predictions: Array, targets: Array) -> Array:
    return np.maximum(0.0, 1.0 - targets * predictions) ** 2


def squared_hinge_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"predictions": -2.0 * targets * np.maximum(0.0, 1.0 - targets * predictions) * s}


def modified_huber_loss(predictions: Array, targets: Array) -> Array:
    z = targets * predictions
    return np.where(z >= -1.0, np.maximum(0.0, 1.0 - z) ** 2, -4.0 * z)


def modified_huber_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"predictions": -2.0 * targets * np.minimum(np.maximum(0.0, 1.0 - targets * predictions), 2.0) * s}


def logistic_loss(predictions: Array, targets: Array) -> Array:
    return np.log(1.0 + np.exp(-targets * predictions))


def logistic_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"predictions": -targets * sigmoid(-targets * predictions) * s}


def exponential_loss(predictions: Array, targets: Array) -> Array:
    return np.exp(-targets * predictions)


def exponential_loss_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    return {"predictions": -targets * np.exp(-targets * predictions) * s}
