"""Numerically stable primitives that the array standard lacks, each beside its derivative."""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array, library_name, placement
from mithril_losses.backends.threads import share, thread_count

_SHARED_FROM = 1 << 18  # how many numbers to sort before a second thread gains more than waking it costs
_PARTS = 8  # the number of parts that threads share


def product(xp: Any, mass: Array, x: Array) -> Array:
    """Return mass · x with 0 · ∞ = 0: an element without mass contributes nothing. The derivative wrt x is mass."""
    return xp.where(mass == 0, 0.0, mass * x)


def logistic_density(xp: Any, x: Array) -> Array:
    """Return σ(x) σ(−x), the derivative of σ, to full relative precision."""
    tail = xp.exp(-xp.abs(x))
    return tail / ((1.0 + tail) * (1.0 + tail))


def floored(xp: Any, x: Array, dtype: Any) -> Array:
    """Return x, or the smallest normal number of `dtype` where x is smaller than that."""
    return xp.maximum(x, float(xp.finfo(dtype).smallest_normal))


def exponential_remainder(xp: Any, x: Array) -> Array:
    """Return eˣ − 1 − x, never negative, to full relative precision also near 0. The derivative is eˣ − 1."""
    near = small_exponential_remainder(xp, x)
    return xp.where(xp.abs(x) < 0.8, near, xp.expm1(x) - xp.minimum(x, 1000.0))  # ∞ − ∞ is NaN


def small_exponential_remainder(xp: Any, x: Array) -> Array:
    """Return `exponential_remainder` of the number nearest to x in [−0.8, 0.8], without an exponential."""
    near = xp.minimum(xp.maximum(x, -0.8), 0.8)
    half = 0.5 * near
    square = half * half
    # ½x coth ½x = 1 + n/d, from Lambert's continued fraction; eˣ − 1 − x = x (½x d − n) / (d + n − ½x d)
    n = square * (45045.0 + square * (2772.0 + 27.0 * square))
    d = 135135.0 + square * (17325.0 + square * (378.0 + square))
    rest = half * d - n
    return near * rest / (d - rest)


def log_gamma(xp: Any, x: Array) -> Array:
    """Return log |Γ(x)|, which the array standard lacks and every library has."""
    if hasattr(xp, "log_gamma"):  # a namespace of this package
        return xp.log_gamma(x)
    library = library_name(xp)
    if library == "jax":
        import jax

        return jax.scipy.special.gammaln(x)
    if library == "torch":
        import torch

        return torch.lgamma(x)
    from scipy.special import gammaln

    return xp.asarray(gammaln(np.asarray(x)), dtype=x.dtype)


def positive_power(xp: Any, base: Array, exponent: Any) -> Array:
    """Return base^exponent of positive finite numbers, at no cost if the exponent is the number 0."""
    return base**exponent


def bounded(xp: Any, x: Array, dtype: Any) -> Array:
    """Return x, clipped to the finite numbers of `dtype`."""
    largest = float(xp.finfo(dtype).max)
    if xp is np:
        return np.clip(x, -largest, largest)  # a sixth of the cost of minimum and maximum
    return xp.minimum(xp.maximum(x, -largest), largest)


def never_negative(xp: Any, values: Array, terms: int, scale: Array) -> Array:
    """Return values, with 0 in place of negative ones that the rounding of `terms` terms of size `scale` explains."""
    rounding = 4.0 * (terms + 1.0) * float(xp.finfo(values.dtype).eps) * scale
    return xp.where((values < 0.0) & (values >= -rounding), 0.0, values)


def largest_number(xp: Any, x: Array, axis: int) -> Array:
    """Return the maximum over an axis, which is kept. If an element is NaN, the result may or may not be NaN.

    The maximum is meant to be subtracted from x, whose NaN remains. NumPy's own function costs half as much in a small
    call, and JAX would need a second pass to keep a NaN.
    """
    if xp is np:
        return np.maximum.reduce(x, axis=axis, keepdims=True)
    if library_name(xp) == "jax":
        import jax

        return jax.numpy.max(x, axis=axis, keepdims=True)
    return xp.max(x, axis=axis, keepdims=True)


def smallest_number(xp: Any, x: Array, axis: int) -> Array:
    """Return the minimum over an axis, which is kept. If an element is NaN, the result may or may not be NaN."""
    if library_name(xp) == "jax":  # see `largest_number`
        import jax

        return jax.numpy.min(x, axis=axis, keepdims=True)
    return xp.min(x, axis=axis, keepdims=True)


def log_softmax(xp: Any, logits: Array, axis: int) -> tuple[Array, Array]:
    """Return log p and p = softmax(logits) over `axis`. A row with +∞, or with −∞ only, is NaN."""
    shifted = logits - largest_number(xp, logits, axis)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=axis, keepdims=True)
    return shifted - xp.log(total), exponentials / total


def norm_and_unit(xp: Any, x: Array, p: float, axis: int = -1) -> tuple[Array, Array]:
    """Return ‖x‖ₚ over an axis, the first or the last, and its derivative, the dual unit vector; 0 for the zero vector.

    If an element is infinite, so is the norm; the derivative is the one with the largest finite number in its place.
    """
    if xp is np and p == 2.0 and 0 < x.shape[axis] <= _EXACT_SUM:
        return _euclidean(x, axis)
    return _norm_and_unit(xp, x, p, axis % len(x.shape))


# so many squares can be summed one after the other without a loss of accuracy
_EXACT_SUM = 1 << 12


def _euclidean(x: np.ndarray[Any, Any], axis: int) -> tuple[Any, Any]:
    """Return ‖x‖₂ and x / ‖x‖₂ in a third of the passes, unless squares overflow or vanish."""
    if axis == -1 and x.ndim > 1 and x.shape[-1] <= _FEW:  # loops of a few numbers would take ten times as long
        norm, unit = _euclidean(first_axis(np, x), 0)
        return norm, last_axis(np, unit)
    limits = np.finfo(x.dtype)
    with np.errstate(all="ignore"):
        power = np.einsum("...i,...i->..." if axis == -1 else "i...,i...->...", x, x)
        norm = np.sqrt(power)
        unit = x / np.expand_dims(norm, axis)
    usual = (power > limits.smallest_normal / limits.eps**2) & (power < limits.max * limits.eps)
    if not usual.all():
        others = np.moveaxis(x, axis, -1)[~usual]
        norm, moved = np.asarray(norm), np.moveaxis(unit, axis, -1)
        norm[~usual], moved[~usual] = _norm_and_unit(np, others, 2.0, 1)
    return norm, unit


_FEW = 8


def first_axis(xp: Any, x: Array) -> Array:
    """Return x with its last axis in front; in NumPy, each entry along this axis is contiguous."""
    moved = xp.moveaxis(x, -1, 0)
    return np.ascontiguousarray(moved) if isinstance(moved, np.ndarray) else moved


def last_axis(xp: Any, x: Array) -> Array:
    """Return x with its first axis at the end: the inverse of `first_axis`."""
    moved = xp.moveaxis(x, 0, -1)
    return np.ascontiguousarray(moved) if isinstance(moved, np.ndarray) else moved


def _norm_and_unit(xp: Any, x: Array, p: float, axis: int) -> tuple[Array, Array]:
    """`norm_and_unit` with x scaled by its largest magnitude, so that squares neither overflow nor vanish."""
    limits, magnitude = xp.finfo(x.dtype), xp.abs(x)
    if p == 1 or x.shape[axis] == 0:
        return xp.sum(magnitude, axis=axis), xp.sign(x)
    if p == math.inf:
        scale = xp.max(magnitude, axis=axis, keepdims=True)
        first = one_hot(xp, xp.argmax(magnitude, axis=axis), x.shape[axis], axis, x)
        return xp.squeeze(scale, axis=axis), first * xp.sign(x)
    # neither result depends on the scale
    scale = _undifferentiated(xp, _over_few(xp, largest_number, xp.maximum, magnitude, axis))
    # XLA multiplies by the reciprocal, and replaces it by 0 if it is subnormal
    divisor = xp.where(scale == 0, 1.0, xp.minimum(scale, 1.0 / float(limits.smallest_normal)))
    largest = float(limits.max)
    # squares need no absolute values, whose derivative at 0 JAX takes as 0
    finite = xp.minimum(xp.maximum(x, -largest), largest) if p == 2 else xp.minimum(magnitude, largest)
    scaled = finite / divisor
    power = sum_of_few(xp, scaled * scaled if p == 2 else scaled**p, axis)
    positive = xp.where(power == 0, 1.0, power)
    root = xp.sqrt(positive) if p == 2 else positive ** (1.0 / p)
    is_infinite = (scale == math.inf) & (power == power)  # beside NaN, the norm is NaN
    norm = xp.where(power == 0, 0.0, xp.where(is_infinite, math.inf, divisor * root))
    unit = scaled / root if p == 2 else xp.sign(x) * (scaled / root) ** (p - 1.0)
    return xp.squeeze(norm, axis=axis), xp.where(power == 0, 0.0, unit)


def _undifferentiated(xp: Any, largest: Array) -> Array:
    """Return largest numbers without their derivative, which is 0 / 0 where XLA finds no equal element."""
    found: Array = sys.modules["jax"].lax.stop_gradient(largest) if library_name(xp) == "jax" else largest
    return found


def sum_of_few(xp: Any, x: Array, axis: int) -> Array:
    """Return the sum over an axis, which is kept and which is meant to be short, such as that of coordinates."""
    return _over_few(xp, lambda xp, x, axis: xp.sum(x, axis=axis, keepdims=True), operator.add, x, axis)


def _over_few(
    xp: Any, reduction: Callable[..., Array], combine: Callable[[Array, Array], Array], x: Array, axis: int
) -> Array:
    """Return a reduction over an axis, which is kept; inside a trace of XLA, few entries are combined one by one.

    XLA for the CPU takes several times as long to reduce them.
    """
    is_traced = library_name(xp) == "jax" and isinstance(x, sys.modules["jax"].core.Tracer)
    if not is_traced or not 0 < x.shape[axis] <= _FEW:
        return reduction(xp, x, axis)
    before = (slice(None),) * (axis % len(x.shape))
    return functools.reduce(combine, (x[(*before, slice(i, i + 1))] for i in range(x.shape[axis])))


def dot(xp: Any, x: Array, y: Array) -> Array:
    """Return Σ x y over the last axis."""
    return np.vecdot(x, y) if xp is np else xp.sum(x * y, axis=-1)


def unit_and_norm(xp: Any, x: Array) -> tuple[Array, Array]:
    """Return x / ‖x‖₂ and ‖x‖₂ over the last axis, which is kept; a zero vector stays 0. See `along_sphere`."""
    norm, unit = norm_and_unit(xp, x, 2.0)
    return unit, xp.expand_dims(norm, axis=-1)


def along_sphere(xp: Any, slope: Array, unit: Array, norm: Array) -> Array:
    """Return (g − (g·u) u) / ‖x‖, the derivative wrt x if g is the derivative wrt u = x / ‖x‖; 0 for a zero vector.

    If the derivative overflows, for vectors near 0, it is the largest finite number.
    """
    tangent = slope - xp.expand_dims(dot(xp, slope, unit), axis=-1) * unit
    # a zero vector, whose unit is 0, gets an infinite norm and so the derivative 0
    return bounded(xp, tangent / xp.where(norm == 0, math.inf, norm), slope.dtype)


def with_axis(xp: Any, x: Array, axis: int) -> Array:
    """Return x with an axis of length 1 inserted at `axis`."""
    return x[..., None] if xp is np and axis == x.ndim else xp.expand_dims(x, axis=axis)  # at a tenth of the cost


def without_axis(xp: Any, x: Array, axis: int) -> Array:
    """Return x without `axis`, whose length is 1."""
    return x[..., 0] if xp is np and axis == x.ndim - 1 else xp.squeeze(x, axis=axis)


def one_hot(xp: Any, labels: Array, classes: int, axis: int, like: Array) -> Array:
    """Return ones at the labels and zeros elsewhere along a new `axis`; a label outside the classes has only zeros."""
    indices = xp.arange(classes, dtype=labels.dtype, **placement(like))
    indices = xp.reshape(indices, (1,) * axis + (classes,) + (1,) * (len(labels.shape) - axis))
    return xp.astype(xp.expand_dims(labels, axis=axis) == indices, like.dtype)


def take_at(xp: Any, x: Array, labels: Array, axis: int) -> Array:
    """Return the entries of x at the labels along `axis`."""
    if xp is np and axis == x.ndim - 1 and x.flags.c_contiguous:
        return x.reshape(-1)[_flat(x, labels)].reshape(labels.shape)
    return xp.squeeze(xp.take_along_axis(x, xp.expand_dims(labels, axis=axis), axis=axis), axis=axis)


def subtract_at(xp: Any, x: Array, labels: Array, amount: Any, axis: int, in_place: bool = False) -> Array:
    """Return x with `amount` subtracted at the labels along `axis`.

    x may be overwritten: NumPy does so, and PyTorch if `in_place` is set and x is a matrix.
    """
    if in_place:
        x[xp.arange(len(x)), labels] -= amount
        return x
    if xp is np and axis == x.ndim - 1 and x.flags.c_contiguous:
        x.reshape(-1)[_flat(x, labels)] -= amount if type(amount) is float else amount.reshape(-1)
        return x
    labels = xp.expand_dims(labels, axis=axis)
    if type(amount) is not float:
        amount = xp.expand_dims(amount, axis=axis)
    indices = xp.arange(x.shape[axis], **placement(x))
    indices = xp.reshape(indices, (1,) * axis + (-1,) + (1,) * (len(x.shape) - 1 - axis))
    return x - amount * xp.astype(labels == indices, x.dtype)


def put_at(xp: Any, x: Array, labels: Array, values: Any) -> Array:
    """Return x with `values` at the labels along the last axis; x may be overwritten."""
    if xp is np and x.flags.c_contiguous:
        x.reshape(-1)[_flat(x, labels)] = values if type(values) is float else values.reshape(-1)
        return x
    places = xp.arange(x.shape[-1], dtype=labels.dtype, **placement(x))
    values = values if type(values) is float else xp.expand_dims(values, axis=-1)
    return xp.where(xp.expand_dims(labels, axis=-1) == places, values, x)


def stable_order(xp: Any, x: Array) -> Array:
    """Return the indices that sort x along its last axis; equal numbers keep their order.

    In NumPy, numbers of 32 bits and their indices are sorted together as integers of 64 bits, ten times as fast.
    """
    if xp is not np or x.dtype != np.float32 or not x.size or np.isnan(np.min(x)):
        return xp.argsort(x, axis=-1, stable=True)
    bits = (x + np.float32(0.0)).view(np.int32)  # −0 becomes 0: the two are equal
    # integers in the order of the numbers, of either sign; contiguous, because parts are sorted in place
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64, order="C")
    keys <<= 32
    keys |= np.arange(x.shape[-1])
    parts = np.array_split(keys.reshape(-1, x.shape[-1]), _PARTS)
    share(_PARTS, lambda part: parts[part].sort(axis=-1), thread_count() if x.size >= _SHARED_FROM else 1)
    keys &= 0xFFFFFFFF
    return keys


def take_in_order(xp: Any, x: Array, order: Array) -> Array:
    """Return x reordered along the last axis; `order` has the shape of x."""
    if xp is np and x.size:
        return np.take(x, _flat_order(order)).reshape(x.shape)
    return xp.take_along_axis(x, order, axis=-1)


def put_back(xp: Any, sorted_values: Array, order: Array) -> Array:
    """Return values at their places before `order` sorted them along the last axis: transposes `take_in_order`."""
    match library_name(xp):
        case "numpy":
            values = np.empty(sorted_values.size, sorted_values.dtype)
            if values.size:
                values[_flat_order(order)] = sorted_values.reshape(-1)
            return values.reshape(sorted_values.shape)
        case "jax":
            return xp.put_along_axis(xp.zeros_like(sorted_values), order, sorted_values, axis=-1, inplace=False)
        case "torch":
            return xp.zeros_like(sorted_values).scatter(-1, order, sorted_values)
    return xp.take_along_axis(sorted_values, xp.argsort(order, axis=-1), axis=-1)


def _flat(x: Any, labels: Any) -> Any:
    """Return the indices of the labels in the flattened x, for labels along the last axis."""
    starts = _row_starts if x.size < 1 << 12 else np.arange
    return labels.reshape(-1) + starts(0, x.size, x.shape[-1])


_row_starts = functools.lru_cache(maxsize=64)(np.arange)  # cached: a twentieth of a small call


def _flat_order(order: Any) -> Any:
    """Return `order`, which sorts along the last axis, as indices of the flattened array."""
    rows = order.reshape(-1, order.shape[-1])
    return (rows + np.arange(0, rows.size, rows.shape[-1])[:, None]).reshape(-1)
