"""Scalar functions for float64: those of the C library, with its accuracy, but not vectorized."""

from __future__ import annotations

import math

from mithril_losses.loops.scalar.common import abs, atan2, log_gamma, maximum, minimum, sqrt, where
from mithril_losses.loops.scalar.compile import Scalar, inlined

__all__ = [
    "abs",
    "atan2",
    "exp",
    "expm1",
    "log",
    "log1p",
    "log_gamma",
    "maximum",
    "minimum",
    "ones_like",
    "positive_power",
    "sign",
    "sqrt",
    "tanh",
    "where",
    "zeros_like",
]


@inlined
def zeros_like(x: Scalar) -> Scalar:
    """0."""
    return 0.0


@inlined
def ones_like(x: Scalar) -> Scalar:
    """1."""
    return 1.0


@inlined
def sign(x: Scalar) -> Scalar:
    """−1, 0 or 1, and NaN for NaN."""
    return 1.0 if x > 0.0 else -1.0 if x < 0.0 else x


@inlined
def exp(x: Scalar) -> Scalar:
    """eˣ."""
    return math.exp(x)


@inlined
def expm1(x: Scalar) -> Scalar:
    """eˣ − 1."""
    return math.expm1(x)


@inlined
def log(x: Scalar) -> Scalar:
    """log x."""
    return math.log(x)


@inlined
def log1p(x: Scalar) -> Scalar:
    """log(1 + x)."""
    return math.log1p(x)


@inlined
def tanh(x: Scalar) -> Scalar:
    """tanh x."""
    return math.tanh(x)


@inlined
def positive_power(base: Scalar, exponent: Scalar) -> Scalar:
    """Base^exponent of a positive finite number."""
    return math.pow(base, exponent)
