"""Contrastive losses, one set of embeddings at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import sigmoid, softmax, softplus, tangent, unit

Array = Any


def _embedded(x: Array, normalize: bool) -> Array:
    return unit(x) if normalize else x


def _back(x: Array, g: Array, normalize: bool) -> Array:
    """J g."""
    return tangent(x, g) if normalize else g


def _spread(matrix: Array) -> Array:
    return np.swapaxes(matrix, -1, -2)


def info_nce_loss(queries: Array, keys: Array, temperature: float, normalize: bool) -> Array:
    q, k = _embedded(queries, normalize), _embedded(keys, normalize)
    p = softmax(q @ _spread(k) / temperature)
    return -np.log(np.stack([p[..., i, i] for i in range(q.shape[-2])], axis=-1))


def info_nce_loss_gradient(
    queries: Array, keys: Array, temperature: float, normalize: bool, s: Array
) -> dict[str, Array]:
    q, k = _embedded(queries, normalize), _embedded(keys, normalize)
    g = (softmax(q @ _spread(k) / temperature) - np.eye(q.shape[-2], k.shape[-2])) * s[..., None]
    return {
        "queries": _back(queries, g @ k / temperature, normalize),
        "keys": _back(keys, _spread(g) @ q / temperature, normalize),
    }


def n_pair_loss(anchor: Array, positive: Array) -> Array:
    products = anchor @ _spread(positive)
    rows = range(anchor.shape[-2])
    losses = [
        np.log(1.0 + sum(np.exp(products[..., i, j] - products[..., i, i]) for j in rows if j != i)) for i in rows
    ]
    return np.stack(losses, axis=-1)


def n_pair_loss_gradient(anchor: Array, positive: Array, s: Array) -> dict[str, Array]:
    g = (softmax(anchor @ _spread(positive)) - np.eye(anchor.shape[-2])) * s[..., None]
    return {"anchor": g @ positive, "positive": _spread(g) @ anchor}


def _others(z: Array, temperature: float) -> Array:
    """softmax over all but the row itself."""
    n = z.shape[-2]
    e = np.exp(z @ _spread(z) / temperature) * (1.0 - np.eye(n))
    return e / e.sum(axis=-1, keepdims=True)


def nt_xent_loss(embedding1: Array, embedding2: Array, temperature: float, normalize: bool) -> Array:
    n = embedding1.shape[-2]
    z = _embedded(np.concatenate([embedding1, embedding2], axis=-2), normalize)
    p = _others(z, temperature)
    return np.stack([-0.5 * (np.log(p[..., i, n + i]) + np.log(p[..., n + i, i])) for i in range(n)], axis=-1)


def nt_xent_loss_gradient(
    embedding1: Array, embedding2: Array, temperature: float, normalize: bool, s: Array
) -> dict[str, Array]:
    n = embedding1.shape[-2]
    both = np.concatenate([embedding1, embedding2], axis=-2)
    z = _embedded(both, normalize)
    partner = np.roll(np.eye(2 * n), n, axis=1)
    g = (_others(z, temperature) - partner) * np.concatenate([s, s], axis=-1)[..., None] / 2.0
    gradient = _back(both, (g + _spread(g)) @ z / temperature, normalize)
    return {"embedding1": gradient[..., :n, :], "embedding2": gradient[..., n:, :]}


def _partners(labels: Array) -> Array:
    """[a ∈ P(i)]."""
    return (labels[..., :, None] == labels[..., None, :]) * (1.0 - np.eye(labels.shape[-1]))


def supervised_contrastive_loss(embeddings: Array, labels: Array, temperature: float, normalize: bool) -> Array:
    partners = _partners(labels)
    n = labels.shape[-1]
    logs = np.log(_others(_embedded(embeddings, normalize), temperature) + np.eye(n))
    counts = partners.sum(axis=-1)
    return np.where(counts > 0.0, -(partners * logs).sum(axis=-1) / np.maximum(counts, 1.0), 0.0)


def supervised_contrastive_loss_gradient(
    embeddings: Array, labels: Array, temperature: float, normalize: bool, s: Array
) -> dict[str, Array]:
    z, partners = _embedded(embeddings, normalize), _partners(labels)
    counts = partners.sum(axis=-1, keepdims=True)
    g = np.where(counts > 0.0, _others(z, temperature) - partners / np.maximum(counts, 1.0), 0.0) * s[..., None]
    return {"embeddings": _back(embeddings, (g + _spread(g)) @ z / temperature, normalize)}


def clip_loss(image_embeddings: Array, text_embeddings: Array, logit_scale: Array, normalize: bool) -> Array:
    u, v = _embedded(image_embeddings, normalize), _embedded(text_embeddings, normalize)
    z = np.exp(logit_scale) * u @ _spread(v)
    rows, columns = np.log(softmax(z)), np.log(softmax(_spread(z)))
    return np.stack([-0.5 * (rows[..., i, i] + columns[..., i, i]) for i in range(u.shape[-2])], axis=-1)


def clip_loss_gradient(
    image_embeddings: Array, text_embeddings: Array, logit_scale: Array, normalize: bool, s: Array
) -> dict[str, Array]:
    u, v = _embedded(image_embeddings, normalize), _embedded(text_embeddings, normalize)
    z = np.exp(logit_scale) * u @ _spread(v)
    one = np.eye(u.shape[-2])
    g = (softmax(z) - one) * s[..., :, None] / 2.0 + (_spread(softmax(_spread(z))) - one) * s[..., None, :] / 2.0
    return {
        "image_embeddings": np.exp(logit_scale) * _back(image_embeddings, g @ v, normalize),
        "text_embeddings": np.exp(logit_scale) * _back(text_embeddings, _spread(g) @ u, normalize),
        "logit_scale": (g * z).sum(),
    }


def siglip_loss(
    image_embeddings: Array, text_embeddings: Array, logit_scale: Array, logit_bias: Array, normalize: bool
) -> Array:
    u, v = _embedded(image_embeddings, normalize), _embedded(text_embeddings, normalize)
    z = np.exp(logit_scale) * u @ _spread(v) + logit_bias
    signs = np.where(np.eye(u.shape[-2]) == 1.0, -1.0, 1.0)
    return softplus(signs * z).sum(axis=-1)


def siglip_loss_gradient(
    image_embeddings: Array, text_embeddings: Array, logit_scale: Array, logit_bias: Array, normalize: bool, s: Array
) -> dict[str, Array]:
    u, v = _embedded(image_embeddings, normalize), _embedded(text_embeddings, normalize)
    z = np.exp(logit_scale) * u @ _spread(v) + logit_bias
    g = (sigmoid(z) - np.eye(u.shape[-2])) * s[..., None]
    return {
        "image_embeddings": np.exp(logit_scale) * _back(image_embeddings, g @ v, normalize),
        "text_embeddings": np.exp(logit_scale) * _back(text_embeddings, _spread(g) @ u, normalize),
        "logit_scale": (g * (z - logit_bias)).sum(),
        "logit_bias": g.sum(),
    }
