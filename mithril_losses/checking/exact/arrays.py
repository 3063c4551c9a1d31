"""An array library of dual numbers of sixty digits, in the vocabulary of the array API standard.

Each element is a number and its rate of change along one direction, so every result that is computed from such arrays
has its directional derivative. The numbers decide conditions, maxima, orders and nearest neighbours; the rates follow
the decision. Integers and booleans are NumPy's, and have no rates.

This module is the array namespace of `ExactArray`: the losses of this package run on it unchanged.
"""

from __future__ import annotations

import builtins
import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from mithril_losses.checking.exact.scalars import (
    CONTEXT,
    DIGITS,
    FUNCTIONS,
    ONE,
    ZERO,
    Number,
    boxed,
    number,
    on_arrays,
    quotient,
    raised,
    scaled,
)

Values = np.ndarray[Any, Any]


# --- types of elements ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RealType:
    """The type of the elements of sixty digits. It has the names of both floating types that losses use."""

    name: str = "float64"
    itemsize: int = 8

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Limits:
    """The limits of the elements: their own resolution, and the range of float64, to which losses clip."""

    bits: int = 64
    eps: float = 10.0 ** (1 - DIGITS)
    max: float = float(np.finfo(np.float64).max)
    min: float = float(np.finfo(np.float64).min)
    smallest_normal: float = float(np.finfo(np.float64).smallest_normal)


float64 = float32 = RealType()
int32, int64, bool_ = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.bool_)
pi, e, inf, nan = math.pi, math.e, math.inf, math.nan


def isdtype(dtype: Any, kind: Any) -> bool:
    """Return whether a type is one of the kinds."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(dtype, RealType):
        return builtins.any(k in ("real floating", "numeric", dtype) for k in kinds)
    return builtins.any(np.isdtype(dtype, k) for k in kinds if not isinstance(k, RealType))


def finfo(dtype: Any) -> Limits:
    """Return the limits of the real type."""
    return Limits()


iinfo = np.iinfo


def result_type(*arrays_and_types: Any) -> Any:
    """Return the real type if one of the types is real, or else NumPy's result type of integers."""
    dtypes = [x.dtype if isinstance(x, ExactArray) else x for x in arrays_and_types]
    return float64 if builtins.any(isinstance(x, RealType) for x in dtypes) else np.result_type(*dtypes)


# --- the array --------------------------------------------------------------------------------------------------------


class ExactArray:
    """An array of numbers and their rates of change along one direction.

    Attributes:
        values: mpmath numbers (dtype object), or NumPy's integers or booleans.
        rates: the rates of change, in the shape of the values; None for constants.
    """

    __slots__ = ("rates", "values")
    __hash__ = None  # type: ignore[assignment]  # arrays compare element by element
    __array_ufunc__ = None  # NumPy's scalars leave the arithmetic to this class

    def __init__(self, values: Values, rates: Values | None = None) -> None:
        self.values = values
        self.rates = rates

    def __array_namespace__(self, api_version: str | None = None) -> ModuleType:
        return sys.modules[__name__]

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("an exact array is not a NumPy array: conversion would silently lose digits and derivatives")

    def __dlpack__(self, **keywords: Any) -> Any:
        return host(self).__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        return f"ExactArray({host(self).tolist()})"

    @property
    def is_real(self) -> bool:
        """Whether the elements are real numbers, and not integers or booleans."""
        return bool(self.values.dtype == object)

    @property
    def dtype(self) -> Any:
        """The type of the elements."""
        return float64 if self.is_real else self.values.dtype

    @property
    def device(self) -> str:
        """Where the array lives: in the memory of the host."""
        return "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return tuple(self.values.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.values.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.values.size

    @property
    def mT(self) -> ExactArray:  # noqa: N802  (the standard's own name)
        """The last two axes exchanged."""
        return matrix_transpose(self)

    @property
    def T(self) -> ExactArray:  # noqa: N802  (likewise)
        """The two axes of a matrix exchanged."""
        return matrix_transpose(self)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[ExactArray]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.values)

    def __int__(self) -> int:
        return int(self.values)

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.values.item())

    def __getitem__(self, at: Any) -> ExactArray:
        at = _host_index(at)
        return _each(lambda x: boxed(x[at]), self)

    def __setitem__(self, at: Any, new: Any) -> None:
        at, (values, rates) = _host_index(at), _parts(new, real=self.is_real)
        self.values[at] = values
        if rates is not None and self.rates is None:
            self.rates = np.full(self.shape, ZERO)
        if self.rates is not None:
            self.rates[at] = ZERO if rates is None else rates

    def __add__(self, other: Any) -> ExactArray:
        return add(self, other)

    def __radd__(self, other: Any) -> ExactArray:
        return add(other, self)

    def __sub__(self, other: Any) -> ExactArray:
        return subtract(self, other)

    def __rsub__(self, other: Any) -> ExactArray:
        return subtract(other, self)

    def __mul__(self, other: Any) -> ExactArray:
        return multiply(self, other)

    def __rmul__(self, other: Any) -> ExactArray:
        return multiply(other, self)

    def __truediv__(self, other: Any) -> ExactArray:
        return divide(self, other)

    def __rtruediv__(self, other: Any) -> ExactArray:
        return divide(other, self)

    def __pow__(self, other: Any) -> ExactArray:
        return pow(self, other)

    def __rpow__(self, other: Any) -> ExactArray:
        return pow(other, self)

    def __matmul__(self, other: Any) -> ExactArray:
        return matmul(self, other)

    def __floordiv__(self, other: Any) -> ExactArray:
        return _of_integers(np.floor_divide, self, other)

    def __mod__(self, other: Any) -> ExactArray:
        return _of_integers(np.remainder, self, other)

    def __neg__(self) -> ExactArray:
        return _each(lambda x: boxed(-x), self)

    def __pos__(self) -> ExactArray:
        return self

    def __abs__(self) -> ExactArray:
        return abs(self)

    def __invert__(self) -> ExactArray:
        return _of_integers(np.invert, self)

    def __and__(self, other: Any) -> ExactArray:
        return _of_integers(np.bitwise_and, self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> ExactArray:
        return _of_integers(np.bitwise_or, self, other)

    __ror__ = __or__

    def __xor__(self, other: Any) -> ExactArray:
        return _of_integers(np.bitwise_xor, self, other)

    def __lt__(self, other: Any) -> ExactArray:
        return less(self, other)

    def __le__(self, other: Any) -> ExactArray:
        return less_equal(self, other)

    def __gt__(self, other: Any) -> ExactArray:
        return greater(self, other)

    def __ge__(self, other: Any) -> ExactArray:
        return greater_equal(self, other)

    def __eq__(self, other: object) -> ExactArray:  # type: ignore[override]  # element by element
        return equal(self, other)

    def __ne__(self, other: object) -> ExactArray:  # type: ignore[override]  # likewise
        return not_equal(self, other)


def exact(x: Any, rates: Any = None) -> ExactArray:
    """Return an array of numbers as an exact array, with rates of change if they are given.

    Floating-point numbers are converted exactly.

    Example:
        >>> x = exact(np.array([2.0, 3.0]), rates=np.array([1.0, 0.0]))
        >>> y = sum(x * x)
        >>> float(y), float(rate(y))
        (13.0, 4.0)
    """
    values = np.asarray(x)
    if values.dtype.kind in "iub" and rates is None:
        return ExactArray(values)
    return ExactArray(_numbers(values), None if rates is None else _numbers(np.asarray(rates)))


def rate(x: ExactArray) -> ExactArray:
    """Return the rates of change of an array: its derivative along the direction."""
    return ExactArray(np.full(x.shape, ZERO) if x.rates is None else x.rates)


def constant(x: ExactArray) -> ExactArray:
    """Return an array of the same values without rates of change."""
    return ExactArray(x.values)


def host(x: ExactArray) -> Values:
    """Return the values in a new NumPy array: rounded to float64, or, for integers and booleans, unchanged."""
    return x.values.astype(np.float64) if x.is_real else x.values.copy()


# --- decisions --------------------------------------------------------------------------------------------------------


class Trail:
    """The decisions of an evaluation: comparisons, signs, maxima and orders, in sequence.

    Two evaluations with the same trail are on the same piece of the domain, on which the loss is a smooth expression.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, outcome: Values) -> None:
        """Append a decision."""
        self._digest.update(repr(outcome.shape).encode() + outcome.tobytes())

    @property
    def piece(self) -> str:
        """A name of the piece."""
        return self._digest.hexdigest()


_trails: list[Trail] = []


@contextmanager
def following() -> Iterator[Trail]:
    """Record the decisions that are made inside the block."""
    trail = Trail()
    _trails.append(trail)
    try:
        yield trail
    finally:
        _trails.remove(trail)


def _decided(outcome: Any) -> Values:
    found: Values = np.asarray(outcome)
    for trail in _trails:
        trail.add(found)
    return found


# --- helpers ----------------------------------------------------------------------------------------------------------


def _as_number(x: Any) -> Number:
    return number(int(x) if isinstance(x, np.integer | np.bool_ | bool) else x)


def _numbers(values: Values) -> Values:
    """Return values as mpmath numbers, exactly."""
    return values if values.dtype == object else _to_numbers(values.tolist() if values.ndim == 0 else values)


_to_numbers = on_arrays(_as_number, 1)


def _parts(x: Any, real: bool = True) -> tuple[Values, Values | None]:
    """Return values and rates of an array or a number; if `real` is set, the values are mpmath numbers."""
    if real and type(x) is float:  # the usual number, in a tenth of the time
        return boxed(number(x)), None
    values, rates = (x.values, x.rates) if isinstance(x, ExactArray) else (np.asarray(x), None)
    return (_numbers(values) if real else values), rates


def _is_real(x: Any) -> bool:
    return x.is_real if isinstance(x, ExactArray) else isinstance(x, float)


def _host_index(at: Any) -> Any:
    if isinstance(at, tuple):
        return tuple(_host_index(part) for part in at)
    return at.values if isinstance(at, ExactArray) else at


def _each(function: Callable[[Values], Values], x: Any) -> ExactArray:
    """Return an array with the same rearrangement or linear map applied to values and rates."""
    return ExactArray(function(x.values), None if x.rates is None else function(x.rates))


def _of_integers(function: Any, *arrays: Any) -> ExactArray:
    """Return NumPy's result for integers or booleans."""
    return ExactArray(np.asarray(function(*(_parts(x, real=False)[0] for x in arrays))))


def _moved(shape: tuple[int, ...], *effects: tuple[Any, Values | None]) -> Values | None:
    """Return the sum of slope · rate over all operands with rates; a slope of None is 1."""
    total: Any = None
    for slope, rates in effects:
        if rates is not None:
            effect = rates if slope is None else _scaled(slope, rates)
            total = effect if total is None else total + effect
    return None if total is None else np.broadcast_to(boxed(total), shape)


_scaled, _divided, _raised = on_arrays(scaled, 2), on_arrays(quotient, 2), on_arrays(raised, 2)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _is_exact(*operands: Any) -> bool:
    return builtins.any(_is_real(x) for x in operands)


def add(x: Any, y: Any, /) -> ExactArray:
    """x + y."""
    if not _is_exact(x, y):
        return _of_integers(np.add, x, y)
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    total = boxed(a + b)
    return ExactArray(total, _moved(total.shape, (None, a_rates), (None, b_rates)))


def subtract(x: Any, y: Any, /) -> ExactArray:
    """x − y."""
    if not _is_exact(x, y):
        return _of_integers(np.subtract, x, y)
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    difference = boxed(a - b)
    return ExactArray(
        difference, _moved(difference.shape, (None, a_rates), (None, None if b_rates is None else -b_rates))
    )


def multiply(x: Any, y: Any, /) -> ExactArray:
    """x · y."""
    if not _is_exact(x, y):
        return _of_integers(np.multiply, x, y)
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    product = boxed(a * b)
    return ExactArray(product, _moved(product.shape, (b, a_rates), (a, b_rates)))


def divide(x: Any, y: Any, /) -> ExactArray:
    """x / y."""
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    ratio = _divided(a, b)
    by_a = None if a_rates is None else _divided(np.full(b.shape, ONE), b)
    by_b = None if b_rates is None else _divided(-ratio, b)
    return ExactArray(ratio, _moved(ratio.shape, (by_a, a_rates), (by_b, b_rates)))


def pow(x: Any, y: Any, /) -> ExactArray:
    """x to the power y."""
    if not _is_exact(x, y):
        return _of_integers(np.power, x, y)
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    value = _raised(a, b)
    by_a = None if a_rates is None else boxed(b * _raised(a, b - ONE))
    by_b = None if b_rates is None else boxed(value * log(ExactArray(a)).values)
    return ExactArray(value, _moved(value.shape, (by_a, a_rates), (by_b, b_rates)))


def negative(x: ExactArray, /) -> ExactArray:
    """−x."""
    return -x


def positive(x: ExactArray, /) -> ExactArray:
    """x."""
    return x


def square(x: ExactArray, /) -> ExactArray:
    """x²."""
    return x * x


def sign(x: ExactArray, /) -> ExactArray:
    """−1, 0 or 1."""
    if not x.is_real:
        return _of_integers(np.sign, x)
    return ExactArray(_numbers(_sign(x)))


def _sign(x: ExactArray) -> Values:
    return _decided((x.values > 0).astype(np.int64) - (x.values < 0))


def abs(x: ExactArray, /) -> ExactArray:
    """|x|, with the rate 0 at 0."""
    if not x.is_real:
        return _of_integers(np.abs, x)
    signs = _sign(x)
    return ExactArray(boxed(np.abs(x.values)), _moved(x.shape, (signs, x.rates)))


def floor(x: ExactArray, /) -> ExactArray:
    """The largest integer ≤ x."""
    return ExactArray(_floor(x.values)) if x.is_real else x


_floor = on_arrays(CONTEXT.floor, 1)


def _function(name: str) -> Callable[[ExactArray], ExactArray]:
    value, slope = on_arrays(FUNCTIONS[name].value, 1), on_arrays(FUNCTIONS[name].slope, 2)

    def function(x: ExactArray, /) -> ExactArray:
        a, rates = _parts(x)
        b = value(a)
        return ExactArray(b, None if rates is None else _scaled(slope(a, b), rates))

    function.__name__ = name
    return function


exp, expm1, log, log1p = map(_function, ("exp", "expm1", "log", "log1p"))
sqrt, sin, cos, tanh, atan = map(_function, ("sqrt", "sin", "cos", "tanh", "atan"))
log_gamma = _function("log_gamma")  # beyond the standard, which has no such function


def atan2(y: ExactArray, x: ExactArray, /) -> ExactArray:
    """The angle of the point (x, y)."""
    (b, b_rates), (a, a_rates) = _parts(y), _parts(x)
    angle, power = _atan2(b, a), boxed(a * a + b * b)
    return ExactArray(angle, _moved(angle.shape, (_divided(a, power), b_rates), (_divided(-b, power), a_rates)))


_atan2 = on_arrays(CONTEXT.atan2, 2)


# --- comparisons and choices ------------------------------------------------------------------------------------------


def _comparison(compare: Any) -> Callable[[Any, Any], ExactArray]:
    def function(x: Any, y: Any, /) -> ExactArray:
        real = _is_exact(x, y)
        return ExactArray(_decided(compare(_parts(x, real)[0], _parts(y, real)[0]).astype(bool)))

    function.__name__ = compare.__name__
    return function


less, less_equal = _comparison(np.less), _comparison(np.less_equal)
greater, greater_equal = _comparison(np.greater), _comparison(np.greater_equal)
equal, not_equal = _comparison(np.equal), _comparison(np.not_equal)


logical_and, logical_or = partial(_of_integers, np.logical_and), partial(_of_integers, np.logical_or)
logical_not = partial(_of_integers, np.logical_not)


def isnan(x: ExactArray, /) -> ExactArray:
    """Whether an element is NaN."""
    return ExactArray(np.asarray(x.values != x.values).astype(bool))


def isinf(x: ExactArray, /) -> ExactArray:
    """Whether an element is infinite."""
    return ~(isfinite(x) | isnan(x))


def isfinite(x: ExactArray, /) -> ExactArray:
    """Whether an element is a finite number."""
    return ExactArray(_is_finite(x.values).astype(bool) if x.is_real else np.ones(x.shape, dtype=bool))


_is_finite = on_arrays(CONTEXT.isfinite, 1)


def where(condition: ExactArray, x: Any, y: Any, /) -> ExactArray:
    """x where the condition holds, and y elsewhere."""
    chosen = condition.values
    if not _is_exact(x, y):
        return _of_integers(lambda a, b: np.where(chosen, a, b), x, y)
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    values = boxed(np.where(chosen, a, b))
    if a_rates is None and b_rates is None:
        return ExactArray(values)
    still = boxed(ZERO)
    rates = np.where(chosen, still if a_rates is None else a_rates, still if b_rates is None else b_rates)
    return ExactArray(values, np.broadcast_to(rates, values.shape))


def maximum(x: Any, y: Any, /) -> ExactArray:
    """The larger number, x at a tie; NaN if one of them is NaN."""
    return _outer(np.greater_equal, np.maximum, x, y)


def minimum(x: Any, y: Any, /) -> ExactArray:
    """The smaller number, x at a tie; NaN if one of them is NaN."""
    return _outer(np.less_equal, np.minimum, x, y)


def _outer(is_first: Any, of_integers: Any, x: Any, y: Any) -> ExactArray:
    if not _is_exact(x, y):
        return _of_integers(of_integers, x, y)
    a, b = _parts(x)[0], _parts(y)[0]
    return where(ExactArray(_decided(is_first(a, b).astype(bool) | (a != a).astype(bool))), x, y)


def clip(x: ExactArray, /, low: Any = None, high: Any = None) -> ExactArray:
    """X between two bounds."""
    x = x if low is None else maximum(x, low)
    return x if high is None else minimum(x, high)


# --- sums and other reductions ----------------------------------------------------------------------------------------


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(a % ndim for a in axes)


def sum(x: ExactArray, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> ExactArray:
    """The sum over axes."""
    axes = _axes(axis, x.ndim)
    if not x.is_real:
        return _of_integers(lambda a: np.sum(a, axis=axes, keepdims=keepdims), x)
    return _each(lambda a: boxed(np.sum(a, axis=axes, keepdims=keepdims, initial=ZERO)), x)


def mean(x: ExactArray, /, *, axis: Any = None, keepdims: bool = False) -> ExactArray:
    """The mean over axes."""
    count = math.prod(x.shape[a] for a in _axes(axis, x.ndim))
    return sum(x, axis=axis, keepdims=keepdims) / float(count)


def prod(x: ExactArray, /, *, axis: Any = None, keepdims: bool = False) -> ExactArray:
    """The product over axes."""
    flat, kept = _flattened(x, axis)
    product = asarray(np.ones(flat.shape[:-1]) if x.is_real else np.ones(flat.shape[:-1], np.int64))
    for i in range(flat.shape[-1]):
        product = product * flat[..., i]
    return reshape(product, kept) if keepdims else product


def _flattened(x: ExactArray, axis: Any) -> tuple[ExactArray, tuple[int, ...]]:
    """Return an array with the reduced axes flattened into the last, and the shape of a reduction that keeps them."""
    axes = _axes(axis, x.ndim)
    kept = [a for a in range(x.ndim) if a not in axes]
    rows, count = permute_dims(x, (*kept, *axes)), math.prod(x.shape[a] for a in axes)
    ones = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    return reshape(rows, (*(x.shape[a] for a in kept), count)), ones


def max(x: ExactArray, /, *, axis: Any = None, keepdims: bool = False) -> ExactArray:
    """The largest element over axes, the first of equal ones."""
    return _extreme(argmax, x, axis, keepdims)


def min(x: ExactArray, /, *, axis: Any = None, keepdims: bool = False) -> ExactArray:
    """The smallest element over axes, the first of equal ones."""
    return _extreme(argmin, x, axis, keepdims)


def _extreme(place: Any, x: ExactArray, axis: Any, keepdims: bool) -> ExactArray:
    flat, kept = _flattened(x, axis)
    found = take_along_axis(flat, place(flat, axis=-1, keepdims=True), axis=-1)[..., 0]
    return reshape(found, kept) if keepdims else found


def argmax(x: ExactArray, /, *, axis: int | None = None, keepdims: bool = False) -> ExactArray:
    """The index of the largest element, the first of equal ones."""
    return ExactArray(_decided(np.argmax(x.values, axis=axis, keepdims=keepdims)))


def argmin(x: ExactArray, /, *, axis: int | None = None, keepdims: bool = False) -> ExactArray:
    """The index of the smallest element, the first of equal ones."""
    return ExactArray(_decided(np.argmin(x.values, axis=axis, keepdims=keepdims)))


def any(x: ExactArray, /, *, axis: Any = None, keepdims: bool = False) -> ExactArray:
    """Whether some element is not 0."""
    return _of_integers(lambda a: np.any(a, axis=axis, keepdims=keepdims), x)


def all(x: ExactArray, /, *, axis: Any = None, keepdims: bool = False) -> ExactArray:
    """Whether no element is 0."""
    return _of_integers(lambda a: np.all(a, axis=axis, keepdims=keepdims), x)


def cumulative_sum(x: ExactArray, /, *, axis: int = -1, dtype: Any = None) -> ExactArray:
    """The cumulative sums along an axis, each element included in its sum."""
    if not x.is_real:
        return _of_integers(lambda a: np.cumsum(a, axis=axis), x)
    return _each(lambda a: np.add.accumulate(a, axis=axis), x)


def argsort(x: ExactArray, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> ExactArray:
    """The indices that sort along an axis; equal elements keep their order."""
    return ExactArray(_decided(np.argsort(-x.values if descending else x.values, axis=axis, kind="stable")))


def sort(x: ExactArray, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> ExactArray:
    """The elements sorted along an axis."""
    return take_along_axis(x, argsort(x, axis=axis, descending=descending), axis=axis)


def nonzero(x: ExactArray, /) -> tuple[ExactArray, ...]:
    """The indices of the elements that are not 0."""
    return tuple(map(ExactArray, np.nonzero(x.values)))


# --- products ---------------------------------------------------------------------------------------------------------


def matmul(x: ExactArray, y: ExactArray, /) -> ExactArray:
    """The product of matrices."""
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    effects = [None if a_rates is None else np.matmul(a_rates, b), None if b_rates is None else np.matmul(a, b_rates)]
    product = boxed(np.matmul(a, b))
    return ExactArray(product, _moved(product.shape, *((None, effect) for effect in effects)))


def vecdot(x: ExactArray, y: ExactArray, /, *, axis: int = -1) -> ExactArray:
    """The inner product of vectors along an axis."""
    return sum(x * y, axis=axis)


def tensordot(x: ExactArray, y: ExactArray, /, *, axes: Any = 2) -> ExactArray:
    """The sum of products over axes of both."""
    (a, a_rates), (b, b_rates) = _parts(x), _parts(y)
    effects = [
        None if a_rates is None else np.tensordot(a_rates, b, axes),
        None if b_rates is None else np.tensordot(a, b_rates, axes),
    ]
    product = boxed(np.tensordot(a, b, axes))
    return ExactArray(product, _moved(product.shape, *((None, effect) for effect in effects)))


# --- shapes and places ------------------------------------------------------------------------------------------------


def reshape(x: ExactArray, /, shape: Any, *, copy: bool | None = None) -> ExactArray:
    """The elements in another shape."""
    return _each(lambda a: a.reshape(shape), x)


def _rearrangement(function: Any) -> Callable[..., ExactArray]:
    """Return NumPy's function, with its own arguments, of values and rates: it is linear in them."""
    return lambda x, /, *arguments, **keywords: _each(lambda a: boxed(function(a, *arguments, **keywords)), x)


permute_dims, matrix_transpose = _rearrangement(np.transpose), _rearrangement(np.matrix_transpose)
moveaxis, squeeze, broadcast_to = map(_rearrangement, (np.moveaxis, np.squeeze, np.broadcast_to))
roll, flip, repeat, tile, diff = map(_rearrangement, (np.roll, np.flip, np.repeat, np.tile, np.diff))


def expand_dims(x: ExactArray, /, *, axis: int = 0) -> ExactArray:
    """A new axis of length 1."""
    return _each(lambda a: np.expand_dims(a, axis), x)


def tril(x: ExactArray, /, *, k: int = 0) -> ExactArray:
    """The lower triangles of matrices, with zeros above them."""
    return where(ExactArray(np.tri(x.shape[-2], x.shape[-1], k, dtype=bool)), x, 0.0)


def triu(x: ExactArray, /, *, k: int = 0) -> ExactArray:
    """The upper triangles of matrices, with zeros below them."""
    return where(ExactArray(~np.tri(x.shape[-2], x.shape[-1], k - 1, dtype=bool)), x, 0.0)


def take(x: ExactArray, indices: ExactArray, /, *, axis: int | None = None) -> ExactArray:
    """The elements at indices along an axis."""
    return _each(lambda a: np.take(a, indices.values, axis=axis), x)


def take_along_axis(x: ExactArray, indices: ExactArray, /, *, axis: int = -1) -> ExactArray:
    """The elements at indices of their own row."""
    return _each(lambda a: np.take_along_axis(a, indices.values, axis), x)


def concat(arrays: Sequence[ExactArray], /, *, axis: int | None = 0) -> ExactArray:
    """Arrays one after the other along an axis."""
    return _joined(lambda parts: np.concatenate(parts, axis=axis), arrays)


def stack(arrays: Sequence[ExactArray], /, *, axis: int = 0) -> ExactArray:
    """Arrays one after the other along a new axis."""
    return _joined(lambda parts: np.stack(parts, axis=axis), arrays)


def _joined(join: Callable[[list[Values]], Values], arrays: Sequence[ExactArray]) -> ExactArray:
    values = join([_parts(x, real=_is_exact(*arrays))[0] for x in arrays])
    if builtins.all(x.rates is None for x in arrays):
        return ExactArray(values)
    return ExactArray(values, join([np.full(x.shape, ZERO) if x.rates is None else x.rates for x in arrays]))


# --- creation ---------------------------------------------------------------------------------------------------------


def asarray(x: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> ExactArray:
    """An array of numbers, of the given type."""
    array = x if isinstance(x, ExactArray) else exact(x)
    array = array if dtype is None else astype(array, dtype, copy=False)
    return _each(np.copy, array) if copy else array


def astype(x: ExactArray, dtype: Any, /, *, copy: bool = True, device: Any = None) -> ExactArray:
    """The array with elements of another type."""
    if isinstance(dtype, RealType):
        values = _numbers(x.values)
        return ExactArray(values.copy() if copy else values, x.rates)
    return ExactArray(x.values.astype(dtype))


def full(shape: Any, fill: Any, *, dtype: Any = None, device: Any = None) -> ExactArray:
    """An array of one number."""
    return asarray(np.full(shape, fill), dtype=dtype)


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> ExactArray:
    """An array of zeros."""
    return full(shape, 0.0, dtype=dtype)


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> ExactArray:
    """An array of ones."""
    return full(shape, 1.0, dtype=dtype)


empty = zeros


def full_like(x: ExactArray, /, fill: Any, *, dtype: Any = None, device: Any = None) -> ExactArray:
    """An array of one number, of the shape and type of another."""
    return full(x.shape, fill, dtype=x.dtype if dtype is None else dtype)


def zeros_like(x: ExactArray, /, *, dtype: Any = None, device: Any = None) -> ExactArray:
    """An array of zeros, of the shape and type of another."""
    return full_like(x, 0.0, dtype=dtype)


def ones_like(x: ExactArray, /, *, dtype: Any = None, device: Any = None) -> ExactArray:
    """An array of ones, of the shape and type of another."""
    return full_like(x, 1.0, dtype=dtype)


def eye(rows: int, columns: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> ExactArray:
    """Ones on a diagonal, and zeros elsewhere."""
    return asarray(np.eye(rows, columns, k), dtype=dtype)


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> ExactArray:
    """Numbers at a distance of `step`."""
    return asarray(np.arange(start, step=step) if stop is None else np.arange(start, stop, step), dtype=dtype)


linalg: Any  # part of this namespace; the package sets it, because it uses the functions above
