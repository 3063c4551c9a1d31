"""Perceptual: features are an array, or a dict or list of arrays, one per layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from formulas.notation import tangent, unit

Array = Any
Features = Any


def _layers(features: Features, weights: Any) -> list[tuple[Any, Array, float]]:
    """The layers with their names and weights."""
    if isinstance(features, dict):
        return [(name, x, 1.0 if weights is None else weights[name]) for name, x in features.items()]
    if isinstance(features, list):
        return [(i, x, 1.0 if weights is None else weights[i]) for i, x in enumerate(features)]
    return [(None, features, 1.0 if weights is None else weights)]


def _layer(features: Features, name: Any) -> Array:
    return features if name is None else features[name]


def _like(features: Features, arrays: list[Array]) -> Features:
    if isinstance(features, dict):
        return dict(zip(features, arrays, strict=True))
    return arrays if isinstance(features, list) else arrays[0]


def _sum_of_layers(loss: Callable[..., float], predictions: Features, targets: Features, weights: Any) -> float:
    return sum(w * loss(x, _layer(targets, name)) for name, x, w in _layers(predictions, weights))


def _gradients(
    slopes: Callable[..., tuple[Array, Array]], predictions: Features, targets: Features, weights: Any
) -> dict[str, Features]:
    found = [[w * g for g in slopes(x, _layer(targets, name))] for name, x, w in _layers(predictions, weights)]
    return {
        "predictions": _like(predictions, [by_prediction for by_prediction, _ in found]),
        "targets": _like(predictions, [by_target for _, by_target in found]),
    }


def feature_reconstruction_loss(predictions: Features, targets: Features, weights: Any) -> float:
    return _sum_of_layers(lambda f, t: ((f - t) ** 2).mean(), predictions, targets, weights)


def feature_reconstruction_loss_gradient(predictions: Features, targets: Features, weights: Any) -> dict[str, Features]:
    return _gradients(lambda f, t: (2.0 * (f - t) / f.size, -2.0 * (f - t) / f.size), predictions, targets, weights)


def _positions(x: Array, channels_first: bool) -> Array:
    """(batch, rows · columns, channels)."""
    x = np.moveaxis(x, -3, -1) if channels_first else x
    return x.reshape(-1, x.shape[-3] * x.shape[-2], x.shape[-1])


def _back(g: Array, like: Array, channels_first: bool) -> Array:
    if not channels_first:
        return g.reshape(like.shape)
    shape = (*like.shape[:-3], *like.shape[-2:], like.shape[-3])
    return np.moveaxis(g.reshape(shape), -1, -3)


def _gram(f: Array) -> Array:
    return f.T @ f / f.size


def style_loss(predictions: Features, targets: Features, weights: Any, channels_first: bool) -> float:
    def of_layer(x: Array, y: Array) -> float:
        pairs = zip(_positions(x, channels_first), _positions(y, channels_first), strict=True)
        return float(np.mean([(_gram(f) - _gram(t)) ** 2 for f, t in pairs]))

    return _sum_of_layers(of_layer, predictions, targets, weights)


def style_loss_gradient(
    predictions: Features, targets: Features, weights: Any, channels_first: bool
) -> dict[str, Features]:
    def slopes(x: Array, y: Array) -> tuple[Array, Array]:
        fs, ts = _positions(x, channels_first), _positions(y, channels_first)
        batch, channels = len(fs), fs.shape[-1]
        by_f = [4.0 * f @ (_gram(f) - _gram(t)) / (batch * channels**2 * f.size) for f, t in zip(fs, ts, strict=True)]
        by_t = [4.0 * t @ (_gram(t) - _gram(f)) / (batch * channels**2 * t.size) for f, t in zip(fs, ts, strict=True)]
        return _back(np.stack(by_f), x, channels_first), _back(np.stack(by_t), y, channels_first)

    return _gradients(slopes, predictions, targets, weights)


def _cosines(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """d_ij, and the unit vectors of x_i − ȳ and y_j − ȳ."""
    middle = y.mean(axis=0)
    a, b = unit(x - middle), unit(y - middle)
    return 1.0 - a @ b.T, a, b


def _affinities(d: Array, h: float) -> Array:
    """CX_ij."""
    d = d / (d.min(axis=1, keepdims=True) + 1e-5)
    e = np.exp((1.0 - d) / h)
    return e / e.sum(axis=1, keepdims=True)


def _sampled(x: Array, most: int) -> Array:
    """Which of the positions count."""
    n = x.shape[1]
    return np.arange(n) if n <= most else np.array([k * n // most for k in range(most)])


def contextual_loss(
    predictions: Features, targets: Features, weights: Any, band_width: float, max_samples: int, channels_first: bool
) -> float:
    def of_layer(x: Array, y: Array) -> float:
        xs, ys = _positions(x, channels_first), _positions(y, channels_first)
        xs, ys = xs[:, _sampled(xs, max_samples)], ys[:, _sampled(ys, max_samples)]
        affinities = [_affinities(_cosines(a, b)[0], band_width) for a, b in zip(xs, ys, strict=True)]
        return float(np.mean([-np.log(cx.max(axis=0).mean()) for cx in affinities]))

    return _sum_of_layers(of_layer, predictions, targets, weights)


def _contextual_slopes(x: Array, y: Array, h: float) -> tuple[Array, Array]:
    d, a, b = _cosines(x, y)
    cx = _affinities(d, h)
    n, m = d.shape
    best, nearest = cx.argmax(axis=0), d.argmin(axis=1)
    total = cx.max(axis=0).sum()
    by_d = np.zeros_like(d)
    for i in range(n):
        c = np.array([-1.0 / total if best[j] == i else 0.0 for j in range(m)])
        g = cx[i] * (c - (cx[i] * c).sum())
        si = d[i].min() + 1e-5
        for j in range(m):
            by_d[i, j] = -g[j] / (h * si) + (j == nearest[i]) * (d[i] * g).sum() / (h * si**2)
    middle = y.mean(axis=0)
    by_x, by_y = -tangent(x - middle, by_d @ b), -tangent(y - middle, by_d.T @ a)
    return by_x, by_y - (by_y.sum(axis=0) + by_x.sum(axis=0)) / m  # a target also moves the mean


def contextual_loss_gradient(
    predictions: Features, targets: Features, weights: Any, band_width: float, max_samples: int, channels_first: bool
) -> dict[str, Features]:
    def slopes(x: Array, y: Array) -> tuple[Array, Array]:
        xs, ys = _positions(x, channels_first), _positions(y, channels_first)
        i, j = _sampled(xs, max_samples), _sampled(ys, max_samples)
        by_x, by_y = np.zeros_like(xs), np.zeros_like(ys)
        for k in range(len(xs)):
            one, other = _contextual_slopes(xs[k, i], ys[k, j], band_width)
            by_x[k, i], by_y[k, j] = one / len(xs), other / len(xs)
        return _back(by_x, x, channels_first), _back(by_y, y, channels_first)

    return _gradients(slopes, predictions, targets, weights)
