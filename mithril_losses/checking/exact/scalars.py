"""Real functions to sixty digits, each beside its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np

DIGITS = 60

Number = Any  # mpmath has no types

# a separate context, whose precision is independent of all others
CONTEXT = mpmath.mp.clone()
CONTEXT.dps = DIGITS
number: Callable[[Any], Number] = CONTEXT.mpf

ZERO, ONE, NAN, INFINITY = number(0), number(1), CONTEXT.nan, CONTEXT.inf


class Function(NamedTuple):
    """A function y = f(x) of a number, and its derivative as a function of x and y."""

    value: Callable[[Number], Number]
    slope: Callable[[Number, Number], Number]


def quotient(x: Number, y: Number) -> Number:
    """Return x / y; division by 0 gives infinity or NaN, as in floating-point arithmetic."""
    if y == 0:
        return NAN if x == 0 or x != x else CONTEXT.sign(x) * INFINITY
    return x / y


def raised(x: Number, y: Number) -> Number:
    """Return xʸ; NaN where that is complex, infinity for 0 to a negative power."""
    if x == 0 and y < 0:
        return INFINITY
    if x < 0 and y != CONTEXT.floor(y):
        return NAN
    return x**y


def scaled(slope: Number, rate: Number) -> Number:
    """Return slope · rate, and 0 for the rate 0, even if the slope is infinite."""
    return ZERO if rate == 0 else slope * rate


def _log(x: Number) -> Number:
    return CONTEXT.log(x) if x > 0 else -INFINITY if x == 0 else NAN


FUNCTIONS = {
    "exp": Function(CONTEXT.exp, lambda x, y: y),
    "expm1": Function(CONTEXT.expm1, lambda x, y: y + 1),
    "log": Function(_log, lambda x, y: quotient(ONE, x)),
    "log1p": Function(lambda x: CONTEXT.log1p(x) if x > -1 else _log(1 + x), lambda x, y: quotient(ONE, 1 + x)),
    "sqrt": Function(lambda x: CONTEXT.sqrt(x) if x >= 0 else NAN, lambda x, y: quotient(ONE, 2 * y)),
    "sin": Function(CONTEXT.sin, lambda x, y: CONTEXT.cos(x)),
    "cos": Function(CONTEXT.cos, lambda x, y: -CONTEXT.sin(x)),
    "tanh": Function(CONTEXT.tanh, lambda x, y: 1 - y * y),
    "atan": Function(CONTEXT.atan, lambda x, y: 1 / (1 + x * x)),
    "log_gamma": Function(CONTEXT.loggamma, lambda x, y: CONTEXT.digamma(x)),
}


def on_arrays(function: Callable[..., Number], arguments: int) -> Callable[..., np.ndarray[Any, Any]]:
    """Return a function of numbers as a function of arrays, element by element."""
    elementwise = np.frompyfunc(function, arguments, 1)

    def of_arrays(*arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with np.errstate(all="ignore"):  # NaN is an ordinary result here
            return boxed(elementwise(*arrays))

    return of_arrays


def boxed(x: Any) -> np.ndarray[Any, Any]:
    """Return an array: for an array without axes, NumPy returns its element instead."""
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, np.generic):
        return np.asarray(x)
    box = np.empty((), dtype=object)
    box[()] = x
    return box
