"""Divergences and distances between distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import norm, per_set

Array = Any


def kl_divergence(predictions: Array, targets: Array) -> Array:
    return (predictions * np.log(predictions / targets)).sum(axis=-1)


def kl_divergence_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    p, q, s = predictions, targets, s[..., None]
    return {"predictions": (np.log(p / q) + 1.0) * s, "targets": -(p / q) * s}


def reverse_kl_divergence(predictions: Array, targets: Array) -> Array:
    return (targets * np.log(targets / predictions)).sum(axis=-1)


def reverse_kl_divergence_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    p, q, s = predictions, targets, s[..., None]
    return {"predictions": -(q / p) * s, "targets": (np.log(q / p) + 1.0) * s}


def js_divergence(predictions: Array, targets: Array) -> Array:
    m = 0.5 * (predictions + targets)
    return 0.5 * kl_divergence(predictions, m) + 0.5 * kl_divergence(targets, m)


def js_divergence_gradient(predictions: Array, targets: Array, s: Array) -> dict[str, Array]:
    m, s = 0.5 * (predictions + targets), s[..., None]
    return {"predictions": 0.5 * np.log(predictions / m) * s, "targets": 0.5 * np.log(targets / m) * s}


def _over_samples(s: Array, like: Array) -> Array:
    return s.reshape(-1, *(1,) * (like.ndim - 1))


def _sum_of_sample(x: Array) -> Array:
    return x.reshape(len(x), -1).sum(axis=1)


def gaussian_kl_divergence(mean: Array, logvar: Array, free_bits: float) -> Array:
    return _sum_of_sample(np.maximum(free_bits, 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar)))


def gaussian_kl_divergence_gradient(mean: Array, logvar: Array, free_bits: float, s: Array) -> dict[str, Array]:
    counts = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar) >= free_bits
    s = _over_samples(s, mean) * counts
    return {"mean": mean * s, "logvar": 0.5 * (np.exp(logvar) - 1.0) * s}


def gaussian_kl_divergence_between(mean: Array, logvar: Array, other_mean: Array, other_logvar: Array) -> Array:
    r = logvar - other_logvar
    return _sum_of_sample(0.5 * ((mean - other_mean) ** 2 * np.exp(-other_logvar) + np.exp(r) - 1.0 - r))


def gaussian_kl_divergence_between_gradient(
    mean: Array, logvar: Array, other_mean: Array, other_logvar: Array, s: Array
) -> dict[str, Array]:
    s, e = _over_samples(s, mean), mean - other_mean
    by_mean = e * np.exp(-other_logvar) * s
    by_logvar = 0.5 * (np.exp(logvar - other_logvar) - 1.0) * s
    return {
        "mean": by_mean,
        "logvar": by_logvar,
        "other_mean": -by_mean,
        "other_logvar": -by_logvar - 0.5 * e**2 * np.exp(-other_logvar) * s,
    }


def _quantiles(x: Array, others: int) -> tuple[Array, Array]:
    """F⁻¹ on n · m equal steps from 0 to 1, and which sample each value is, for n samples and m others."""
    order = np.argsort(x, axis=-1, kind="stable")
    return np.repeat(np.take_along_axis(x, order, axis=-1), others, axis=-1), np.repeat(order, others, axis=-1)


def wasserstein_distance(predictions: Array, targets: Array, p: float, axis: int) -> Array:
    x, y = np.moveaxis(predictions, axis, -1), np.moveaxis(targets, axis, -1)
    d = np.abs(_quantiles(x, y.shape[-1])[0] - _quantiles(y, x.shape[-1])[0])
    return (d**p).mean(axis=-1) ** (1.0 / p)


def wasserstein_distance_gradient(
    predictions: Array, targets: Array, p: float, axis: int, s: Array
) -> dict[str, Array]:
    x, y = np.moveaxis(predictions, axis, -1), np.moveaxis(targets, axis, -1)
    (u, of_x), (v, of_y) = _quantiles(x, y.shape[-1]), _quantiles(y, x.shape[-1])
    d = u - v
    w = (np.abs(d) ** p).mean(axis=-1, keepdims=True) ** (1.0 / p)
    slopes = np.abs(d) ** (p - 1.0) * np.sign(d) * w ** (1.0 - p) / d.shape[-1] * s[..., None]
    by_x, by_y = np.zeros_like(x), np.zeros_like(y)
    for row in np.ndindex(x.shape[:-1]):
        np.add.at(by_x[row], of_x[row], slopes[row])
        np.add.at(by_y[row], of_y[row], -slopes[row])
    return {"predictions": np.moveaxis(by_x, -1, axis), "targets": np.moveaxis(by_y, -1, axis)}


def _kernel(x: Array, y: Array, kernel_type: str, kernel_bandwidth: float, degree: int, coef0: float) -> Any:
    """k(x, y) of two points, and its slope by the first."""
    if kernel_type == "rbf":
        k = np.exp(-((x - y) ** 2).sum() / (2.0 * kernel_bandwidth**2))
        return k, -k * (x - y) / kernel_bandwidth**2
    if kernel_type == "linear":
        return x @ y, y
    return (x @ y + coef0) ** degree, degree * (x @ y + coef0) ** (degree - 1) * y


def maximum_mean_discrepancy(predictions: Array, targets: Array, unbiased: bool, **kernel: Any) -> Array:
    def expectation(x: Array, y: Array, same: bool) -> float:
        pairs = [
            _kernel(x[i], y[j], **kernel)[0]
            for i in range(len(x))
            for j in range(len(y))
            if not (same and unbiased and i == j)
        ]
        return float(np.mean(pairs))

    return per_set(
        lambda x, y: np.asarray(expectation(x, x, True) + expectation(y, y, True) - 2.0 * expectation(x, y, False)),
        predictions,
        targets,
    )


def maximum_mean_discrepancy_gradient(
    predictions: Array, targets: Array, unbiased: bool, s: Array, **kernel: Any
) -> dict[str, Array]:
    def slopes(x: Array, y: Array) -> Array:
        n, m = len(x), len(y)
        g = np.zeros_like(x)
        for i in range(n):
            for j in range(n):
                if not (unbiased and i == j):
                    g[i] += 2.0 / (n * (n - 1) if unbiased else n * n) * _kernel(x[i], x[j], **kernel)[1]
            for j in range(m):
                g[i] -= 2.0 / (n * m) * _kernel(x[i], y[j], **kernel)[1]
        return g

    s = s[..., None, None]
    return {
        "predictions": per_set(slopes, predictions, targets) * s,
        "targets": per_set(slopes, targets, predictions) * s,
    }


def energy_distance(predictions: Array, targets: Array, beta: float) -> Array:
    def expectation(x: Array, y: Array) -> Array:
        return (norm(x[:, None] - y[None])[..., 0] ** beta).mean()

    return per_set(lambda x, y: 2.0 * expectation(x, y) - expectation(x, x) - expectation(y, y), predictions, targets)


def energy_distance_gradient(predictions: Array, targets: Array, beta: float, s: Array) -> dict[str, Array]:
    def u(e: Array) -> Array:
        length = norm(e)
        return np.where(length > 0.0, beta * np.where(length > 0.0, length, 1.0) ** (beta - 2.0) * e, 0.0)

    def slopes(x: Array, y: Array) -> Array:
        n, m = len(x), len(y)
        across, own = u(x[:, None] - y[None]).sum(axis=1), u(x[:, None] - x[None]).sum(axis=1)
        return 2.0 / (n * m) * across - 2.0 / n**2 * own

    s = s[..., None, None]
    return {
        "predictions": per_set(slopes, predictions, targets) * s,
        "targets": per_set(slopes, targets, predictions) * s,
    }
