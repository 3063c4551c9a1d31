"""Variational: the total, the reconstruction and the KL, each over a divisor of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
EPSILON = 1e-7


def _divisors(x: Array, reduction: str) -> tuple[int, int]:
    return {"sum": (1, 1), "mean": (x.size, len(x)), "batch_sum": (len(x), len(x))}[reduction]


def _bce(recon_x: Array, x: Array) -> float:
    p = np.clip(recon_x, EPSILON, 1.0 - EPSILON)
    return float((-x * np.log(p) - (1.0 - x) * np.log(1.0 - p)).sum())


def _by_reconstruction(recon_x: Array, x: Array) -> Array:
    p = np.clip(recon_x, EPSILON, 1.0 - EPSILON)
    return (p - x) / (p * (1.0 - p))


def _kl(mu: Array, logvar: Array) -> Array:
    return 0.5 * (mu**2 + np.exp(logvar) - 1.0 - logvar)


def vae_loss(recon_x: Array, x: Array, mu: Array, logvar: Array, reduction: str) -> tuple[float, float, float]:
    return beta_vae_loss(recon_x, x, mu, logvar, 1.0, reduction)


def vae_loss_gradient(recon_x: Array, x: Array, mu: Array, logvar: Array, reduction: str) -> dict[str, Array]:
    n, m = _divisors(x, reduction)
    by_logvar = 0.5 * (np.exp(logvar) - 1.0)
    return {"recon_x": _by_reconstruction(recon_x, x) / n, "mu": mu / m, "logvar": by_logvar / m}


def beta_vae_loss(
    recon_x: Array, x: Array, mu: Array, logvar: Array, beta: float, reduction: str
) -> tuple[float, float, float]:
    n, m = _divisors(x, reduction)
    reconstruction, kl = _bce(recon_x, x) / n, _kl(mu, logvar).sum() / m
    return reconstruction + beta * kl, reconstruction, kl


def beta_vae_loss_gradient(
    recon_x: Array, x: Array, mu: Array, logvar: Array, beta: float, reduction: str
) -> dict[str, Array]:
    n, m = _divisors(x, reduction)
    by_logvar = 0.5 * beta * (np.exp(logvar) - 1.0)
    return {"recon_x": _by_reconstruction(recon_x, x) / n, "mu": beta * mu / m, "logvar": by_logvar / m}


def vae_loss_free_bits(
    recon_x: Array, x: Array, mu: Array, logvar: Array, free_bits: float, reduction: str
) -> tuple[float, float, float]:
    n, m = _divisors(x, reduction)
    reconstruction, kl = _bce(recon_x, x) / n, np.maximum(free_bits, _kl(mu, logvar)).sum() / m
    return reconstruction + kl, reconstruction, kl


def vae_loss_free_bits_gradient(
    recon_x: Array, x: Array, mu: Array, logvar: Array, free_bits: float, reduction: str
) -> dict[str, Array]:
    n, m = _divisors(x, reduction)
    counts = _kl(mu, logvar) >= free_bits
    by_logvar = 0.5 * (np.exp(logvar) - 1.0)
    return {
        "recon_x": _by_reconstruction(recon_x, x) / n,
        "mu": np.where(counts, mu, 0.0) / m,
        "logvar": np.where(counts, by_logvar, 0.0) / m,
    }
