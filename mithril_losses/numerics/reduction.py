"""Reduction of unreduced losses to a number, and its transpose: a linear map in two neighbouring functions of a `Plan`.

    collect:  L = Σᵢ wᵢ ℓᵢ / D        spread:  ∂L/∂ℓᵢ = wᵢ u / D,  times the slope ∂ℓᵢ/∂x

This is the only place that knows about means, weights, normalizers, empty sets and upstream gradients. If the losses
are split over shards, the sums Σ and D go over all of them.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import numpy as np

from mithril_losses.backends.namespaces import (
    Array,
    array_namespace,
    host_values,
    in_c_order,
    namespace_of,
    require_library,
)
from mithril_losses.numerics.stable import bounded
from mithril_losses.numerics.validation import as_dtype, compute_dtype, did_you_mean, is_number, normalize_axis, quiet
from mithril_losses.shards import Shards, Split, joined, resolve

ReductionName = Literal["none", "sum", "mean", "weighted_mean", "batch_sum"]
REDUCTIONS: tuple[str, ...] = get_args(ReductionName)

# what other libraries call them
_ELSEWHERE = {"batchmean": "batch_sum", "sum_over_batch_size": "mean", "elementwise_mean": "mean"}

EMPTY = math.inf  # the divisor for a normalizer of 0, which is that of an empty set: its loss is 0


class RowReduction(TypedDict, total=False):
    """The common keywords of all losses. If `axis` is an option of a loss itself, the loss takes only these.

    Attributes:
        reduction: "mean" (default), "sum", "none", "weighted_mean" or "batch_sum".
        weights: multiply the unreduced losses; must broadcast to them without enlarging them.
        normalizer: replaces the divisor of "mean", "weighted_mean" and "batch_sum".
        across: if the arguments are the local parts of larger arrays, the devices or processes that hold the parts: the
            name of an axis of a mesh inside `jax.shard_map`, a process group of PyTorch, or `Split`. Sums and divisors
            are then those of all parts.
    """

    reduction: ReductionName
    weights: Array | None
    normalizer: float | Array | None
    across: Any


class Reduction(RowReduction, total=False):
    """The keywords that all other losses take.

    Attributes:
        axis: the axes of the unreduced loss to reduce over; all by default.
    """

    axis: int | tuple[int, ...] | None


class GradientRowReduction(RowReduction, total=False):
    """The common keywords of the gradient of a loss whose `axis` is its own option: those of the loss, and `upstream`.

    Attributes:
        upstream: the gradient that flows into the loss: a number, or an array of the shape of the result of the loss; 1
            by default.
    """

    upstream: float | Array


class GradientReduction(Reduction, GradientRowReduction, total=False):
    """The keywords that all other gradients take."""


class NoOthers(TypedDict):
    """No keywords at all: what a loss without a reduction takes, so that the message about any is its own."""


def reduce_loss(
    values: Array,
    *,
    reduction: ReductionName = "mean",
    weights: Array | None = None,
    axis: int | tuple[int, ...] | None = None,
    normalizer: float | Array | None = None,
    across: Any = None,
) -> Array:
    """L = Σᵢ wᵢ ℓᵢ / D over `axis`; D is 1, the number of elements, Σᵢ wᵢ or the batch size.

    Args:
        values: unreduced losses, any shape.
        reduction: "none" (wᵢ ℓᵢ, not summed), "sum" (D = 1), "mean" (D = number of elements, not Σ w),
            "weighted_mean" (D = Σ w) or "batch_sum" (the mean over axis 0 of the sum over all other axes).
        weights: wᵢ, must broadcast to `values` without enlarging them. A weight of exactly 0 removes its element,
            NaN and infinity included.
        axis: the axes to reduce over; all by default.
        normalizer: D, a number or an array of the shape of the result, in place of the usual divisor.
        across: if `values` are the local part of a larger array, the devices or processes that hold the parts: the name
            of an axis of a mesh inside `jax.shard_map`, a process group of PyTorch, or `Split`. Σ and D are then those
            of all parts.

    Returns:
        A scalar, or an array with the axes that remain. If nothing remains to average, the loss is 0.

    Raises:
        ValueError: unknown reduction, weights that do not fit, negative weights of "weighted_mean", an axis out of
            range or given twice, or an `axis` or `normalizer` that the reduction does not use.
        TypeError: `values` are not floating point, or an array is of another library.

    Example:
        >>> import numpy as np
        >>> per_pixel = np.array([[1.0, 2.0], [3.0, 6.0]])
        >>> float(reduce_loss(per_pixel))
        3.0
        >>> float(reduce_loss(per_pixel, reduction="batch_sum"))
        6.0
        >>> float(reduce_loss(per_pixel, weights=np.array([[1.0], [0.0]])))
        0.75
    """
    xp = array_namespace(values=values)
    wide = as_dtype(xp, values, compute_dtype(xp, values.dtype, "values"))
    with quiet(xp):
        keywords: Reduction = {
            "reduction": reduction,
            "weights": weights,
            "axis": axis,
            "normalizer": normalizer,
            "across": across,
        }
        return plan(xp, tuple(values.shape), wide.dtype, **keywords).collect(xp, wide, values)


class Plan(NamedTuple):
    """The linear map L = Σ w ℓ / D over `axes` and its transpose, for unreduced losses of one shape.

    `divisor` is D and `factor` is u / D: plain floats, or arrays (`factor` has length 1 along each reduced axis).
    `scaled` says whether u may differ from 1, and `over` lists the shards over which sums are completed. `is_usual`
    says that the plan is for the mean of all losses of NumPy arrays.
    """

    axes: tuple[int, ...]
    weights: Array | None
    divisor: Any
    factor: Any
    scaled: bool = False
    over: tuple[Shards, ...] = ()
    is_usual: bool = False

    @property
    def is_a_number(self) -> bool:
        """Whether all slopes are multiplied by the same plain number."""
        return self.weights is None and type(self.factor) is float and self.divisor is not EMPTY

    def root(self, xp: Any) -> Plan:
        """Return the map with √w and √(u / D), by which a factor of a Hessian is multiplied.

        Raises:
            ValueError: a weight, or u, is negative, and its value can be read.
        """
        for name, x in (("weights", self.weights), ("upstream", self.factor)):
            seen = np.asarray(x) if type(x) is float else None if x is None else host_values(x)
            if seen is not None and (seen < 0).any():
                raise ValueError(f"a factor of a Hessian needs {name} that are not negative, got {seen.min()}")
        root = math.sqrt(self.factor) if type(self.factor) is float else xp.sqrt(self.factor)
        return self._replace(weights=None if self.weights is None else xp.sqrt(self.weights), factor=root)

    def shape(self, unreduced: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the reduced losses."""
        return tuple(n for i, n in enumerate(unreduced) if i not in self.axes)

    def collect(self, xp: Any, values: Array, like: Array) -> Array:
        """Return Σ w ℓ / D; a weight of 0 removes its loss, NaN and infinity included."""
        if self.is_usual and values.dtype == like.dtype:
            return np.add.reduce(values, axis=None) / self.divisor
        if self.weights is not None:
            values = xp.where(self.weights == 0, 0.0, values * self.weights)
        return self.divide(xp, _sum(xp, values, self.axes), like)

    def close(self, values: Array, slope: Array, like: Array) -> tuple[Array, Array]:
        """Return the results of `collect` and `spread` for NumPy arrays, in fewer steps for the usual mean."""
        if self.is_usual and values.dtype == slope.dtype == like.dtype:
            return np.add.reduce(values, axis=None) / self.divisor, in_c_order(slope * self.factor)
        return self.collect(np, values, like), self.spread(np, slope, like)

    def divide(self, xp: Any, total: Array, like: Array) -> Array:
        """Return Σ / D in the dtype of `like`, from the total of this shard if there are several."""
        for shards in self.over:
            total = shards.sum(total)
        if self.divisor is EMPTY:
            total = xp.zeros_like(total)
        elif type(self.divisor) is float:
            total = total if self.divisor == 1.0 else total / self.divisor
        else:
            total = _divide(xp, total, xp.reshape(self.divisor, tuple(total.shape)))
        if total.dtype == like.dtype:
            return total
        with quiet(xp):  # a sum may overflow half precision
            return as_dtype(xp, total, like.dtype)

    def spread(self, xp: Any, slope: Array, like: Array, summed: tuple[int, ...] = (), steep: bool = False) -> Array:
        """Return slope · w · u / D; for u = 1 it is bounded by the largest number of a narrower dtype of `like`.

        `steep` slopes may overflow where the loss is finite, and are bounded in any dtype. An overflow caused only by
        `upstream` is left as infinity, because mixed-precision training tests for it.
        """
        factor, weights = self.factor, self.weights
        is_plain = weights is None and type(factor) is float and self.divisor is not EMPTY and not steep
        if is_plain and slope.dtype == like.dtype:
            return self._in_memory(xp, slope * factor, like)
        if steep:
            slope = bounded(xp, slope, slope.dtype)
        if summed:
            if weights is not None:
                rank = len(slope.shape) - len(summed)
                weights = _broadcast_rank(xp, weights, rank)
            for axis in summed:
                factor = factor if type(factor) is float else xp.expand_dims(factor, axis=axis)
                weights = None if weights is None else xp.expand_dims(weights, axis=axis)
        gradient = xp.zeros_like(slope) if self.divisor is EMPTY else slope * factor
        if weights is not None:
            gradient = xp.where(weights == 0, 0.0, gradient * weights)
        return self.finish(xp, gradient, like, steep)

    def finish(self, xp: Any, gradient: Array, like: Array, steep: bool = False) -> Array:
        """Return the gradient in the dtype of `like` and in C order, bounded as described in `spread`."""
        if gradient.dtype == like.dtype and not steep:
            return self._in_memory(xp, gradient, like)
        if not self.scaled:
            gradient = bounded(xp, gradient, like.dtype)
        return self._in_memory(xp, as_dtype(xp, gradient, like.dtype), like)

    def _in_memory(self, xp: Any, gradient: Array, like: Array) -> Array:
        if xp is np and not like.shape:
            return np.asarray(gradient)  # NumPy's scalars are not writable
        return in_c_order(gradient)


def plan(
    xp: Any,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    mass: Array | None = None,
    reduction: ReductionName = "mean",
    weights: Array | None = None,
    axis: int | tuple[int, ...] | None = None,
    normalizer: float | Array | None = None,
    across: Any = None,
    upstream: float | Array = 1.0,
) -> Plan:
    """Return the reduction of unreduced losses of `shape` and `dtype`, with all its keywords checked.

    If the losses are split, they are so along their first axis for `rows`, and along their last for `classes`.
    """
    if reduction == "mean" and weights is axis is normalizer is mass is across is None and type(upstream) is float:
        if xp is np and upstream == 1.0:
            return _mean(shape)
        count = float(max(math.prod(shape), 1))
        return Plan(tuple(range(len(shape))), None, count, upstream / count, upstream != 1.0)
    axes = reduced_axes(len(shape), reduction, axis, normalizer)
    weights = fit_weights(xp, weights, shape, dtype)
    over, count = _over(xp, shape, axes, dtype, reduction, weights, mass, across)
    divisor = _divisor(xp, shape, axes, dtype, reduction, weights, normalizer, mass, over, count)
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    factor = _fit_upstream(xp, upstream, shape, axes, kept, dtype)
    factor = factor / divisor if type(divisor) is float else _divide(xp, factor, xp.reshape(divisor, kept))
    for shards in over:
        factor = factor if type(factor) is float else shards.apart(factor)
    return Plan(axes, weights, divisor, factor, not (is_number(upstream) and upstream == 1.0), over)


@functools.lru_cache(maxsize=256)
def _mean(shape: tuple[int, ...]) -> Plan:
    """Return the plan of the mean of all losses: the usual one, remembered because small calls notice its cost."""
    count = float(max(math.prod(shape), 1))
    return Plan(tuple(range(len(shape))), None, count, 1.0 / count, is_usual=len(shape) > 0)


# --- the parts they share ---------------------------------------------------------------------------------------


def reduced_axes(ndim: int, reduction: str, axis: Any, normalizer: Any) -> tuple[int, ...]:
    """Return the axes of the unreduced losses that a reduction sums over."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}"
            f"{did_you_mean(_ELSEWHERE.get(str(reduction), str(reduction)), REDUCTIONS)}"
        )
    if normalizer is not None and reduction in ("none", "sum"):
        raise ValueError(f"normalizer replaces a divisor, and reduction={reduction!r} has none")
    if axis is None:
        return () if reduction == "none" else tuple(range(ndim))
    if reduction in ("none", "batch_sum"):
        raise ValueError(f"reduction={reduction!r} takes no axis, got axis={axis!r}")
    axes = tuple(normalize_axis("axis", a, ndim) for a in (axis if isinstance(axis, tuple) else (axis,)))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis names a dimension twice: {axis!r}")
    return axes


def fit_weights(xp: Any, weights: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return the weights of losses of a shape in a dtype, or raise a ValueError if they do not broadcast to it."""
    if weights is None:
        return None
    weights = _same_library(xp, "weights", weights, dtype)
    fits = len(weights.shape) <= len(shape) and all(
        w in (1, n) for w, n in zip(reversed(weights.shape), reversed(shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} do not broadcast to the unreduced loss of shape {shape}"
        )
    return weights


def _divisor(
    xp: Any,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    dtype: Any,
    reduction: str,
    weights: Any,
    normalizer: Any,
    mass: Any,
    over: tuple[Shards, ...],
    count: int,
) -> Any:
    """Return D: a plain float, or an array (NumPy's float64 scalars too) with as many elements as the result."""
    if reduction in ("none", "sum"):
        return 1.0
    if reduction == "weighted_mean":
        require_shares(weights)
    if normalizer is not None:
        return _fit_normalizer(xp, normalizer, [n for i, n in enumerate(shape) if i not in axes], dtype)
    if reduction == "batch_sum":
        return max(float(count), 1.0)
    share = mass
    if reduction == "weighted_mean" and weights is not None:
        share = weights if mass is None else weights * mass
    if share is None:
        return float(max(count, 1))
    divisor = _sum(xp, xp.broadcast_to(share, shape), axes)
    for shards in over:
        divisor = shards.sum(divisor)
    return divisor


def _over(
    xp: Any,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    dtype: Any,
    reduction: str,
    weights: Any,
    mass: Any,
    across: Any,
) -> tuple[tuple[Shards, ...], int]:
    """Return the shards over which the losses are summed, after a comparison, and the number of losses on all of them.

    There are none if each shard keeps its own losses.

    Raises:
        ValueError: there are no rows to split.
    """
    count = _count(shape, axes, reduction)
    if across is None or reduction == "none":
        return (), count
    split: Split = resolve(xp, across)
    rows, classes = split.rows, split.classes
    if rows is not None and not shape:
        raise ValueError(
            "these arguments have one loss in all, which cannot be split by rows; with rows, axis 0 is theirs"
        )
    rows = rows if 0 in axes else None
    classes = classes if len(shape) - 1 in axes else None
    left = tuple(n for i, n in enumerate(shape) if i not in axes)
    facts = f"reduction={reduction!r} of {_name_of(dtype)} to the shape {left}"
    facts += " with weights" * (weights is not None) + " with masses" * (mass is not None)
    for shards in (classes, rows):
        if shards is not None:
            counts = shards.lengths(count, facts)
            count = count if shards is classes and reduction == "batch_sum" else sum(counts)
    return joined(rows, classes), count


def _name_of(dtype: Any) -> str:
    """Return the name of a dtype of any library."""
    return str(dtype).split(".")[-1].rstrip("'>")


def _count(shape: tuple[int, ...], axes: tuple[int, ...], reduction: str) -> int:
    """Return how many losses a mean divides by."""
    return math.prod(shape[:1] if reduction == "batch_sum" else [shape[a] for a in axes])


def require_shares(weights: Any) -> None:
    """Raise a ValueError if a weight of a weighted mean is negative, where its value can be read."""
    seen = None if weights is None else host_values(weights)
    if seen is not None and (seen < 0).any():
        raise ValueError(
            f"weights of reduction='weighted_mean' must not be negative, got {float(seen[seen < 0].flat[0]):g}"
        )


def require_divisor(normalizer: Any) -> None:
    """Raise a ValueError if an array of normalizers is seen to hold a negative number or NaN."""
    seen = host_values(normalizer)
    if seen is not None and not (legal := seen >= 0).all():
        wrong = seen[~legal].flat[0]
        raise ValueError(f"normalizer must not be {'NaN' if wrong != wrong else f'negative, got {wrong}'}")


def _fit_normalizer(xp: Any, normalizer: Any, shape: list[int], dtype: Any) -> Any:
    if is_number(normalizer):
        if not normalizer >= 0:
            require_divisor(np.asarray(normalizer))
        return float(normalizer) or EMPTY
    normalizer = _same_library(xp, "normalizer", normalizer, dtype, or_number=True)
    require_divisor(normalizer)
    if tuple(normalizer.shape) not in ((), tuple(shape)):
        raise ValueError(
            f"normalizer must be a number or have the reduced loss's shape {tuple(shape)}, "
            f"got {tuple(normalizer.shape)}"
        )
    return xp.broadcast_to(normalizer, tuple(shape))


def _fit_upstream(
    xp: Any, upstream: Any, shape: tuple[int, ...], axes: tuple[int, ...], kept: tuple[int, ...], dtype: Any
) -> Any:
    if is_number(upstream):
        return float(upstream)
    upstream = _same_library(xp, "upstream", upstream, dtype, or_number=True)
    reduced = tuple(n for i, n in enumerate(shape) if i not in axes)
    if tuple(upstream.shape) == ():
        return xp.reshape(upstream, (1,) * len(kept))
    if tuple(upstream.shape) != reduced:
        raise ValueError(f"upstream must be a scalar or have the loss's shape {reduced}, got {tuple(upstream.shape)}")
    return xp.reshape(upstream, kept)


def _same_library(xp: Any, name: str, x: Any, dtype: Any, or_number: bool = False) -> Any:
    if or_number and namespace_of(x) is None:
        raise TypeError(f"{name} must be a number or an array, got {x!r}")
    require_library(xp, name, x)
    return as_dtype(xp, x, dtype, name)


def _sum(xp: Any, x: Any, axes: tuple[int, ...]) -> Any:
    if not axes:
        return x
    if xp is np:
        return np.add.reduce(x, axis=None if len(axes) == x.ndim else axes)  # np.sum, at half the cost of a small call
    return xp.sum(x, axis=None if len(axes) == len(x.shape) else axes)


def _broadcast_rank(xp: Any, x: Any, ndim: int) -> Any:
    return xp.reshape(x, (1,) * (ndim - len(x.shape)) + tuple(x.shape))


def _divide(xp: Any, total: Any, divisor: Any) -> Any:
    """Return total / divisor, and 0 where nothing remains to average."""
    empty = divisor == 0
    return xp.where(empty, 0.0, total / xp.where(empty, 1.0, divisor))
