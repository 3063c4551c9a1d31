"""Language."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.classification import masses
from formulas.notation import Massed, softmax

Array = Any


def _logits(hidden: Array, weight: Array, bias: Any, soft_cap: Any) -> Array:
    z = hidden @ weight.T + (0.0 if bias is None else bias)
    return z if soft_cap is None else soft_cap * np.tanh(z / soft_cap)


def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    targets: Array,
    bias: Any,
    class_weights: Any,
    ignore_index: Any,
    label_smoothing: float,
    z_loss: float,
    soft_cap: Any,
    chunk_rows: Any,
) -> Massed:
    z = _logits(hidden, weight, bias, soft_cap)
    q, mass = masses(z, targets, class_weights, label_smoothing, ignore_index)
    kept = np.ones(targets.shape) if ignore_index is None else targets != ignore_index
    normalizer = np.log(np.exp(z).sum(axis=-1))
    return Massed(-(q * np.log(softmax(z))).sum(axis=-1) + kept * z_loss * normalizer**2, mass)


def linear_cross_entropy_gradient(
    hidden: Array,
    weight: Array,
    targets: Array,
    bias: Any,
    class_weights: Any,
    ignore_index: Any,
    label_smoothing: float,
    z_loss: float,
    soft_cap: Any,
    chunk_rows: Any,
    s: Array,
) -> dict[str, Array]:
    z = _logits(hidden, weight, bias, soft_cap)
    q, _ = masses(z, targets, class_weights, label_smoothing, ignore_index)
    kept = np.ones(targets.shape) if ignore_index is None else targets != ignore_index
    total = q.sum(axis=-1) + 2.0 * z_loss * kept * np.log(np.exp(z).sum(axis=-1))
    g = (softmax(z) * total[..., None] - q) * s[..., None]
    if soft_cap is not None:
        g = g * (1.0 - (z / soft_cap) ** 2)
    rows = g.reshape(-1, len(weight))
    found = {"hidden": g @ weight, "weight": rows.T @ hidden.reshape(-1, hidden.shape[-1])}
    return found if bias is None else {**found, "bias": rows.sum(axis=0)}


def next_token_cross_entropy(logits: Array, tokens: Array, ignore_index: Any) -> Massed:
    q, mass = masses(logits[..., :-1, :], tokens[..., 1:], None, 0.0, ignore_index)
    return Massed(-(q * np.log(softmax(logits[..., :-1, :]))).sum(axis=-1), mass)


def next_token_cross_entropy_gradient(logits: Array, tokens: Array, ignore_index: Any, s: Array) -> dict[str, Array]:
    z = logits[..., :-1, :]
    q, mass = masses(z, tokens[..., 1:], None, 0.0, ignore_index)
    slope = (softmax(z) * mass[..., None] - q) * s[..., None]
    return {"logits": np.concatenate([slope, 0.0 * logits[..., -1:, :]], axis=-2)}
