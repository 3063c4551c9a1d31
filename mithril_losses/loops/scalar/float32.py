"""Scalar functions for float32 that LLVM vectorises: no calls, no branches, nothing wider than 32 bits.

Each is within 2 units in the last place of the true value for every float32, subnormal arguments and results
included, with and without fused multiply-adds; infinities, NaN and overflow are NumPy's. `log1p(-0.0)` is 0.0.

Polynomials are minimax in the relative error of the function they serve (their own error is below ½ unit) and are
evaluated in pairs (Estrin), because a loop of such functions is bound by the length of their dependency chains.
Every number at module level has 32 bits: with a Python number, numba would compute in 64 bits.
"""

from __future__ import annotations

import math

import numpy as np

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

_ZERO, _HALF, _ONE, _TWO = (np.float32(x) for x in (0.0, 0.5, 1.0, 2.0))
_INFINITY, _NAN = np.float32(np.inf), np.float32(np.nan)


@inlined
def zeros_like(x: Scalar) -> Scalar:
    """0."""
    return _ZERO


@inlined
def ones_like(x: Scalar) -> Scalar:
    """1."""
    return _ONE


@inlined
def sign(x: Scalar) -> Scalar:
    """−1, 0 or 1, and NaN for NaN."""
    return _ONE if x > _ZERO else -_ONE if x < _ZERO else x


@inlined
def _bits(x: Scalar) -> Scalar:
    return np.float32(x).view(np.int32)


@inlined
def _from_bits(bits: Scalar) -> Scalar:
    return np.int32(bits).view(np.float32)


# --- exponentials: x = n log 2 + r, |r| ≤ ½ log 2 ------------------------------------------------------------------

_LOG2_E = np.float32(1.4426950408889634)
# Cody and Waite: log 2 in two parts, the first with zeros in its low bits so that its product with n is exact
_LOG_2_HIGH, _LOG_2_LOW = np.float32(0.693145751953125), np.float32(1.428606765330187e-06)
# Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits, where `<< 23` moves it into the exponent;
# a further 127, the bias of the exponent, makes 2ⁿ of it
_ROUND = 1.5 * 2**23
_ROUND_TO_POWER = np.float32(_ROUND + 127)
_ROUND_TO_HALF_POWER = np.float32(_ROUND + 126)  # 2ⁿ⁻¹
_ROUND_TO_TWO_POWERS = np.float32(_ROUND + 254)  # the bias of two factors
_EXPONENT = 23

_E2, _E3, _E4, _E5, _E6 = (
    np.float32(c) for c in (0.49999997, 0.16666546, 0.041667435, 0.008366273, 0.0013870709)
)  # (eʳ − 1 − r) / r²


@inlined
def _reduce_exponential(x: Scalar, rounding: Scalar) -> Scalar:
    """Return eʳ − 1 and the bits of n + rounding."""
    rounded = x * _LOG2_E + rounding
    n = rounded - rounding
    r = (x - n * _LOG_2_HIGH) - n * _LOG_2_LOW
    r2 = r * r
    p = (_E2 + _E3 * r) + r2 * ((_E4 + _E5 * r) + r2 * _E6)
    return r + r2 * p, _bits(rounded)


_EXP_UNDERFLOWS, _EXP_OVERFLOWS = np.float32(-104.0), np.float32(89.0)


@inlined
def exp(x: Scalar) -> Scalar:
    """eˣ = 2ⁿ eʳ."""
    q, n = _reduce_exponential(minimum(maximum(x, _EXP_UNDERFLOWS), _EXP_OVERFLOWS), _ROUND_TO_TWO_POWERS)
    half = n >> 1  # 2ⁿ in two factors: 2ⁿ itself may overflow or be subnormal although the result is not
    scale = _from_bits(half << _EXPONENT)
    return (scale + scale * q) * _from_bits((n - half) << _EXPONENT)


_EXPM1_IS_MINUS_ONE = np.float32(-30.0)
_EXPM1_IS_LINEAR = np.float32(2.0**-25)


@inlined
def expm1(x: Scalar) -> Scalar:
    """eˣ − 1 = 2 (2ⁿ⁻¹ (eʳ − 1) + 2ⁿ⁻¹ − ½)."""
    q, n = _reduce_exponential(minimum(maximum(x, _EXPM1_IS_MINUS_ONE), _EXP_OVERFLOWS), _ROUND_TO_HALF_POWER)
    scale = _from_bits(n << _EXPONENT)
    half = (scale - _HALF) + scale * q
    return x if math.fabs(x) < _EXPM1_IS_LINEAR else half + half


_TANH_IS_ODD_POLYNOMIAL, _TANH_IS_ONE = np.float32(0.55), np.float32(9.1)
_T1, _T2, _T3, _T4, _T5 = (
    np.float32(c) for c in (-0.33333316, 0.13332544, -0.053847548, 0.021050714, -0.006242849)
)  # (tanh x / x − 1) / x² in powers of x²


@inlined
def tanh(x: Scalar) -> Scalar:
    """Tanh x = 1 − 2 / (e²ˣ + 1), and a polynomial near 0, where this form would cancel."""
    a = minimum(math.fabs(x), _TANH_IS_ONE)
    q, n = _reduce_exponential(a + a, _ROUND_TO_POWER)
    scale = _from_bits(n << _EXPONENT)
    large = _ONE - _TWO / ((scale + _ONE) + scale * q)
    x2 = a * a
    p = (_T1 + _T2 * x2) + (x2 * x2) * ((_T3 + _T4 * x2) + (x2 * x2) * _T5)
    return math.copysign(large if a > _TANH_IS_ODD_POLYNOMIAL else a + (a * x2) * p, x)


# --- logarithms: x = 2ᵉ (1 + f), √½ ≤ 1 + f < √2 ---------------------------------------------------------------------

_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_TWO_BITS = np.int32(0x40000000)
_EXPONENT_MASK = np.int32(-(1 << 23))
_LOG_2_PER_BIT = np.float32(math.log(2.0) * 2.0**-23)
_SMALLEST_NORMAL = np.float32(2.0**-126)
_SUBNORMAL_SCALE, _SUBNORMAL_EXPONENT = np.float32(2.0**23), np.int32(23 << 23)

_L2, _L3, _L4, _L5, _L6, _L7, _L8, _L9 = (
    np.float32(c)
    for c in (-0.4999999, 0.33333945, -0.25001773, 0.19962235, -0.16570395, 0.149165, -0.14307174, 0.08737681)
)  # (log(1 + f) − f) / f²


@inlined
def _exponent(x: Scalar) -> Scalar:
    """Return e, in place: still in the bits of the exponent."""
    return np.int32((_bits(x) - _SQRT_HALF_BITS) & _EXPONENT_MASK)


@inlined
def _logarithm(f: Scalar, exponent: Scalar) -> Scalar:
    """Return log(1 + f) + e log 2."""
    f2 = f * f
    low = (_L2 + _L3 * f) + f2 * (_L4 + _L5 * f)
    high = (_L6 + _L7 * f) + f2 * (_L8 + _L9 * f)
    return (f + np.float32(exponent) * _LOG_2_PER_BIT) + f2 * (low + (f2 * f2) * high)


@inlined
def _at_the_ends(x: Scalar, pole: Scalar, logarithm: Scalar) -> Scalar:
    """Return the logarithm between its pole and infinity, its limits there, NaN below the pole and for NaN."""
    inside = logarithm if x < _INFINITY else x
    above = _NAN if x < pole else inside
    return -_INFINITY if x == pole else above


@inlined
def log(x: Scalar) -> Scalar:
    """Log x = e log 2 + log(1 + f)."""
    subnormal = x < _SMALLEST_NORMAL
    normal = x * _SUBNORMAL_SCALE if subnormal else x
    exponent = _exponent(normal)
    f = _from_bits(_bits(normal) - exponent) - _ONE
    return _at_the_ends(x, _ZERO, _logarithm(f, np.int32(exponent - _SUBNORMAL_EXPONENT) if subnormal else exponent))


@inlined
def log1p(x: Scalar) -> Scalar:
    """log(1 + x), with e the exponent of 1 + x: f = 2⁻ᵉ x + (2⁻ᵉ − 1) keeps all digits of a small x."""
    exponent = _exponent(x + _ONE)
    power = _HALF * _from_bits(_TWO_BITS - exponent)  # 2⁻ᵉ; halved here because 2⁻¹²⁸ is no normal number
    return _at_the_ends(x, -_ONE, _logarithm(_from_bits(_bits(x) - exponent) + (power - _ONE), exponent))


@inlined
def positive_power(base: Scalar, exponent: Scalar) -> Scalar:
    """Base^exponent of a positive finite number."""
    return exp(exponent * log(base))
