"""Decompositions of symmetric matrices of sixty digits, with the rates of change of eigenvalues and eigenvectors.

For A v = λ v with ‖v‖ = 1, and λ different from all other eigenvalues λ_k, λ′ = vᵀ A′ v and
v′ = Σ_k v_k (v_kᵀ A′ v) / (λ − λ_k).

Source:
    J. R. Magnus, On Differentiating Eigenvalues and Eigenvectors, 1985. https://doi.org/10.1017/S0266466600011129
"""

from __future__ import annotations

import numpy as np

from mithril_losses.checking.exact.arrays import ExactArray, sum
from mithril_losses.checking.exact.scalars import CONTEXT, ZERO, quotient

__all__ = ["eigh", "eigvalsh", "trace"]


def trace(x: ExactArray, /) -> ExactArray:
    """The sum of the diagonal of a matrix."""
    places = np.arange(min(x.shape[-2:]))
    return sum(x[..., places, places], axis=-1)


def eigh(x: ExactArray, /) -> tuple[ExactArray, ExactArray]:
    """The eigenvalues of a symmetric matrix (n, n) in ascending order, and its eigenvectors in columns."""
    count = x.shape[-1]
    found, columns = CONTEXT.eigsy(CONTEXT.matrix(x.values.tolist()))
    values = np.array([found[i] for i in range(count)], dtype=object)
    vectors = np.array([[columns[i, k] for k in range(count)] for i in range(count)], dtype=object)
    order = np.argsort(values, kind="stable")
    values, vectors = values[order], vectors[:, order]
    if x.rates is None:
        return ExactArray(values), ExactArray(vectors)
    turned = np.matmul(np.matmul(vectors.T, x.rates), vectors)  # A′ in the frame of the eigenvectors
    shares = np.full((count, count), ZERO)
    for i in range(count):
        for k in range(count):
            if i != k:
                shares[k, i] = quotient(turned[k, i], values[i] - values[k])
    return ExactArray(values, np.diagonal(turned)), ExactArray(vectors, np.matmul(vectors, shares))


def eigvalsh(x: ExactArray, /) -> ExactArray:
    """The eigenvalues of a symmetric matrix (n, n) in ascending order."""
    return eigh(x)[0]
