"""Angular margins."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import softmax, tangent, unit

Array = Any


def _arcface(theta: Array, margin: float) -> tuple[Array, Array]:
    """The own class's logit over s, and k_y."""
    beyond = theta >= np.pi - margin
    logit = np.where(beyond, np.cos(theta) - margin * np.sin(margin), np.cos(theta + margin))
    return logit, np.where(beyond, 1.0, np.sin(theta + margin) / np.sin(theta))


def _cosface(theta: Array, margin: float) -> tuple[Array, Array]:
    return np.cos(theta) - margin, np.ones_like(theta)


def _logits(rule: Any, embeddings: Array, weight: Array, targets: Array, margin: float, scale: float) -> Any:
    """z, [c = y], and k_c."""
    cosines = unit(embeddings) @ unit(weight).T
    own = np.arange(len(weight)) == targets[..., None]
    logit, k = rule(np.arccos(cosines), margin)
    return scale * np.where(own, logit, cosines), own, np.where(own, k, 1.0)


def _losses(rule: Any, *arguments: Any) -> Array:
    z, own, _ = _logits(rule, *arguments)
    return -np.log((softmax(z) * own).sum(axis=-1))


def _gradient(
    rule: Any, embeddings: Array, weight: Array, targets: Array, margin: float, scale: float, s: Array
) -> dict[str, Array]:
    z, own, k = _logits(rule, embeddings, weight, targets, margin, scale)
    g = (softmax(z) - own) * s[..., None] * k
    rows, classes = embeddings.shape[-1], len(weight)
    to_weight = g.reshape(-1, classes).T @ unit(embeddings).reshape(-1, rows)
    return {
        "embeddings": scale * tangent(embeddings, g @ unit(weight)),
        "weight": scale * tangent(weight, to_weight),
    }


def arcface_loss(embeddings: Array, weight: Array, targets: Array, margin: float, scale: float) -> Array:
    return _losses(_arcface, embeddings, weight, targets, margin, scale)


def arcface_loss_gradient(
    embeddings: Array, weight: Array, targets: Array, margin: float, scale: float, s: Array
) -> dict[str, Array]:
    return _gradient(_arcface, embeddings, weight, targets, margin, scale, s)


def cosface_loss(embeddings: Array, weight: Array, targets: Array, margin: float, scale: float) -> Array:
    return _losses(_cosface, embeddings, weight, targets, margin, scale)


def cosface_loss_gradient(
    embeddings: Array, weight: Array, targets: Array, margin: float, scale: float, s: Array
) -> dict[str, Array]:
    return _gradient(_cosface, embeddings, weight, targets, margin, scale, s)
