"""Metric learning: the features are last."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import norm, unit

Array = Any


def _distance(x: Array, p: float, squared: bool) -> Array:
    d = np.abs(x).max(axis=-1) if p == np.inf else (np.abs(x) ** p).sum(axis=-1) ** (1.0 / p)
    return d**2 if squared else d


def _slope(x: Array, p: float, squared: bool) -> Array:
    """u = ∂d/∂x."""
    d = _distance(x, p, False)[..., None]
    if p == np.inf:
        largest = np.arange(x.shape[-1]) == np.abs(x).argmax(axis=-1)[..., None]
        u = np.where(largest, np.sign(x), 0.0)
    else:
        u = np.sign(x) * (np.abs(x) / d) ** (p - 1.0)
    return 2.0 * d * u if squared else u


def triplet_loss(
    anchor: Array, positive: Array, negative: Array, margin: float, p: float, squared: bool, swap: bool
) -> Array:
    near, far = _distance(anchor - positive, p, squared), _distance(anchor - negative, p, squared)
    if swap:
        far = np.minimum(far, _distance(positive - negative, p, squared))
    return np.maximum(0.0, near - far + margin)


def triplet_loss_gradient(
    anchor: Array, positive: Array, negative: Array, margin: float, p: float, squared: bool, swap: bool, s: Array
) -> dict[str, Array]:
    s = np.where(triplet_loss(anchor, positive, negative, margin, p, squared, swap) > 0.0, s, 0.0)[..., None]
    near, far = _slope(anchor - positive, p, squared), _slope(anchor - negative, p, squared)
    other = _slope(positive - negative, p, squared)
    closer = _distance(positive - negative, p, squared) < _distance(anchor - negative, p, squared)
    swapped = (closer & swap)[..., None]
    return {
        "anchor": (near - np.where(swapped, 0.0, far)) * s,
        "positive": (-near - np.where(swapped, other, 0.0)) * s,
        "negative": np.where(swapped, other, far) * s,
    }


def contrastive_loss(embedding1: Array, embedding2: Array, labels: Array, margin: float) -> Array:
    d = norm(embedding1 - embedding2)[..., 0]
    return labels * d**2 + (1.0 - labels) * np.maximum(0.0, margin - d) ** 2


def contrastive_loss_gradient(
    embedding1: Array, embedding2: Array, labels: Array, margin: float, s: Array
) -> dict[str, Array]:
    e, y = embedding1 - embedding2, labels[..., None]
    d = norm(e)
    g = (2.0 * y * e - 2.0 * (1.0 - y) * np.maximum(0.0, margin - d) * e / d) * s[..., None]
    return {"embedding1": g, "embedding2": -g}


def _cosine(x: Array, y: Array) -> Array:
    return (unit(x) * unit(y)).sum(axis=-1)


def cosine_embedding_loss(embedding1: Array, embedding2: Array, labels: Array, margin: float) -> Array:
    c = _cosine(embedding1, embedding2)
    return np.where(labels == 1.0, 1.0 - c, np.maximum(0.0, c - margin))


def cosine_embedding_loss_gradient(
    embedding1: Array, embedding2: Array, labels: Array, margin: float, s: Array
) -> dict[str, Array]:
    x, y, c = unit(embedding1), unit(embedding2), _cosine(embedding1, embedding2)
    k = (np.where(labels == 1.0, -1.0, c > margin) * s)[..., None]
    c = c[..., None]
    return {"embedding1": k * (y - c * x) / norm(embedding1), "embedding2": k * (x - c * y) / norm(embedding2)}
