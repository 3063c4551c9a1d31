"""What rows are to be: one of several classes, given by its index, or shares of all of them, given by probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends.namespaces import Array, array_namespace, host_values, is_dtype, namespace_of, placement
from mithril_losses.domains import NON_NEGATIVE
from mithril_losses.numerics.stable import one_hot, product, subtract_at, take_at, with_axis
from mithril_losses.numerics.validation import (
    as_dtype,
    compute_dtype,
    normalize_axis,
    require_integer,
    require_one_number,
)

# --- labels and weights of classes ----------------------------------------------------------------------------------

_UNSIGNED = {np.dtype(np.int32): np.uint32, np.dtype(np.int64): np.uint64}  # a negative label is a large number there


def read_labels(
    xp: Any, labels: Array, classes: int, ignore_index: int | None
) -> tuple[Array, Array | None, Array | None]:
    """Return the labels, which of them are not ignored, and which are illegal where that cannot be seen.

    Raises:
        ValueError: a label that can be seen lies outside the classes.
        TypeError: labels are not integers, or are spread over devices.
    """
    if ignore_index is None and labels.dtype in (xp.int64, xp.int32):  # the usual case, at a third of the cost
        seen = host_values(labels)
        if seen is not None and np.maximum.reduce(seen.view(_UNSIGNED[seen.dtype]), axis=None, initial=0) < classes:
            return labels, None, None
    if not is_dtype(xp, labels.dtype, "integral"):
        raise TypeError(f"class indices must be integers, got {labels.dtype}")
    if type(labels).__name__ == "DTensor":
        raise TypeError(
            "class indices cannot be a DTensor: hand over the local parts, `predictions.to_local()` and "
            "`targets.to_local()`, with the normalizer of the whole batch; or class probabilities"
        )
    seen = host_values(labels)  # before the cast below, which wraps the largest unsigned integers round
    kept, limits = None, xp.iinfo(labels.dtype)
    if ignore_index is not None and limits.min <= require_integer("ignore_index", ignore_index) <= limits.max:
        kept = labels != xp.asarray(ignore_index, dtype=labels.dtype, **placement(labels))
    # to a type that holds every class and that every library compares
    if limits.bits < 32:
        labels = xp.astype(labels, xp.int32)
    elif not is_dtype(xp, labels.dtype, "signed integer"):
        labels = xp.astype(labels, xp.arange(1).dtype)
    if seen is None:
        illegal = (labels < 0) | (labels >= classes)
        return labels, kept, illegal if kept is None else illegal & kept
    wrong = (seen < 0) | (seen >= classes)
    if wrong.any() and (wrong := wrong & (seen != ignore_index)).any():
        raise ValueError(f"label {seen[wrong][0]} is outside the {classes} classes 0 … {classes - 1}")
    return labels, kept, None


def read_class_weights(xp: Any, weights: Any, classes: int, rank: int, like: Array) -> Array | None:
    """Return the class weights in a shape of this rank that broadcasts along the class axis, which comes first.

    Raises:
        ValueError: they are not one per class, or one is negative.
        TypeError: they are neither an array nor a sequence.
    """
    if weights is None:
        return None
    if namespace_of(weights) is None:
        if not isinstance(weights, Sequence) or isinstance(weights, str):
            raise TypeError(f"class_weights must be an array or a sequence of numbers, one per class, got {weights!r}")
        weights = xp.asarray(list(weights), dtype=like.dtype, **placement(like))
    array_namespace(predictions=like, class_weights=weights)
    if tuple(weights.shape) != (classes,):
        raise ValueError(f"class_weights must have shape ({classes},), got {tuple(weights.shape)}")
    NON_NEGATIVE.check("class_weights", weights)
    return xp.reshape(as_dtype(xp, weights, like.dtype, "class_weights"), (classes,) + (1,) * (rank - 1))


# --- shares of the classes: q, never negative -----------------------------------------------------------------------


ONE = 1.0


class AtLabel(NamedTuple):
    """q = own at the label of a row, and what all classes have beside it.

    Attributes:
        label: the class of each row.
        own: what its class has alone: a number, or one per row. `ONE` stands for 1 where nothing else has a share.
        even: what all classes share evenly: a number.
        each: what each class has, in a shape that broadcasts along the class axis; None for nothing.
    """

    label: Array
    own: Any = ONE
    even: Any = 0.0
    each: Array | None = None

    def dot(self, xp: Any, x: Array, axis: int) -> Array:
        """Return Σ q x, with 0 · ∞ = 0; the class axis goes."""
        found = take_at(xp, x, self.label, axis)
        if self.own is ONE:
            return found
        found = times(xp, self.own, found)
        if not is_exactly(self.even, 0.0):
            # of each, because the sum of all may overflow
            found = found + xp.sum(times(xp, self.even / float(x.shape[axis]), x), axis=axis)
        return found if self.each is None else found + xp.sum(product(xp, self.each, x), axis=axis)

    def mass(self, xp: Any, x: Array, axis: int) -> Any:
        """Return Σ q: a number where it is the same for all rows, or one per row."""
        mass = self.own
        if mass is ONE:
            return mass
        if not is_exactly(self.even, 0.0):  # the sum of what is taken from each, to all digits
            classes = x.shape[axis]
            mass = mass + xp.sum(self.even / float(classes) * xp.ones(classes, dtype=x.dtype, **placement(x)))
        return mass if self.each is None else mass + xp.sum(self.each)

    def taken_from(self, xp: Any, x: Array, axis: int, scale: Any = 1.0, in_place: bool = False) -> Array:
        """Return x − scale · q, with a number for the scale, or one per row.

        x is the caller's own. NumPy writes to it, and PyTorch where `in_place` says so.
        """
        if self.own is ONE:
            return subtract_at(xp, x, self.label, scale, axis, in_place)
        rest = None if is_exactly(self.even, 0.0) else self.even / float(x.shape[axis])
        if self.each is not None:
            rest = self.each if rest is None else rest + self.each
        if rest is not None:
            x = xp.subtract(x, _along(xp, scale, axis) * rest, **({"out": x} if in_place or xp is np else {}))
        return subtract_at(xp, x, self.label, scale * self.own, axis, in_place)

    def dense(self, xp: Any, x: Array, axis: int) -> Array:
        """Return q, in the shape of x."""
        q = _along(xp, self.own, axis) * one_hot(xp, self.label, x.shape[axis], axis, x)
        q = q + self.even / float(x.shape[axis])
        return q if self.each is None else q + self.each

    def for_loop(self, like: Any) -> tuple[Any, ...] | None:
        """Return what `loops.rows` needs for NumPy logits: labels, own, the share of a class, class weights or None."""
        if type(self.even) is not float or not self.label.flags.c_contiguous:
            return None
        each = None if self.each is None else self.each.reshape(-1)
        own = self.own if type(self.own) is float else self.own.reshape(-1)
        return self.label.reshape(-1), own, 1.0 if each is not None else self.even / like.shape[-1], each


class Given:
    """q = w ((1 − a) t + a / C) with the probabilities t, smoothing a and class weights w.

    Args:
        probabilities: t, in the shape of the logits.
        smoothing: a.
        weights: w, in a shape that broadcasts along the class axis; None for 1.
        mass: Σ q of each row, where it is known; None where it is to be summed up.
    """

    def __init__(
        self, probabilities: Array, smoothing: Any = 0.0, weights: Array | None = None, mass: Array | None = None
    ) -> None:
        self._probabilities, self._smoothing, self._weights, self._mass = probabilities, smoothing, weights, mass
        self._q: Array | None = None

    def dense(self, xp: Any, x: Array, axis: int) -> Array:
        """As in `AtLabel`."""
        if self._q is None:
            q, a = self._probabilities, self._smoothing
            q = q if is_exactly(a, 0.0) else (1.0 - a) * q + a / float(x.shape[axis])
            self._q = q if self._weights is None else self._weights * q
        return self._q

    def dot(self, xp: Any, x: Array, axis: int) -> Array:
        """As in `AtLabel`."""
        return xp.sum(product(xp, self.dense(xp, x, axis), x), axis=axis)

    def mass(self, xp: Any, x: Array, axis: int) -> Any:
        """As in `AtLabel`."""
        return xp.sum(self.dense(xp, x, axis), axis=axis) if self._mass is None else self._mass

    def taken_from(self, xp: Any, x: Array, axis: int, scale: Any = 1.0, in_place: bool = False) -> Array:
        """As in `AtLabel`."""
        taken = self.dense(xp, x, axis)
        taken = taken if is_exactly(scale, 1.0) else _along(xp, scale, axis) * taken
        return xp.subtract(x, taken, **({"out": x} if in_place or xp is np else {}))

    def for_loop(self, like: Any) -> tuple[Any, ...] | None:
        """Return what `loops.rows` needs for NumPy logits: probabilities, a, a / C, w or None."""
        t, a, w = self._probabilities, self._smoothing, self._weights
        if type(a) is not float or not t.flags.c_contiguous:
            return None
        return t.reshape(-1, like.shape[-1]), 1.0 - a, a / like.shape[-1], None if w is None else w.reshape(-1)


Shares = AtLabel | Given


def times(xp: Any, mass: Any, x: Array) -> Array:
    """Return mass · x with 0 · ∞ = 0, for a number or an array."""
    if type(mass) is not float:
        return product(xp, mass, x)
    return x if mass == 1.0 else mass * x if mass != 0.0 else xp.zeros_like(x)


def is_exactly(value: Any, number: float) -> bool:
    """Return whether a value is this very number; an array never is."""
    return type(value) is float and value == number


def _along(xp: Any, rows: Any, axis: int) -> Any:
    """Return a number as it is, and one per row with the class axis in its place."""
    return rows if type(rows) is float else with_axis(xp, rows, axis)


# --- the targets of a classification --------------------------------------------------------------------------------


class Classes(NamedTuple):
    """The checked targets of scores.

    Attributes:
        scores: the predictions in the dtype to compute in.
        axis: of the classes.
        shares: q_c = w_c y′_c, y′ = (1 − a) y + a / C.
        mass: what each row counts in the divisor: Σ w_c y_c, 0 where it is ignored; None for 1.
        kept: the rows that are not ignored; None for all.
        illegal: the rows whose label is, where that could not be seen; None where it could.
    """

    scores: Array
    axis: int
    shares: Shares
    mass: Array | None
    kept: Array | None = None
    illegal: Array | None = None

    def legal(self, xp: Any, x: Array) -> Array:
        """Return losses of the rows, or their slopes: 0 where a row is ignored, NaN where its label is illegal."""
        kept, illegal = self.kept, self.illegal
        if kept is illegal:  # None, the usual case
            return x
        if len(x.shape) == len(self.scores.shape):
            kept, illegal = (None if rows is None else xp.expand_dims(rows, axis=self.axis) for rows in (kept, illegal))
        x = x if kept is None else xp.where(kept, x, 0.0)
        return x if illegal is None else xp.where(illegal, float("nan"), x)


def classes_of(
    predictions: Array,
    targets: Array,
    class_axis: int,
    class_weights: Array | Sequence[float] | None,
    label_smoothing: float,
    ignore_index: int | None,
    name: str = "predictions",
) -> Classes:
    """Return the targets of predictions, checked; messages call them by their `name`.

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or an option outside its domain.
        TypeError: predictions are not floating point, or class indices not integers.
    """
    xp = array_namespace(**{name: predictions, "targets": targets})
    scores = as_dtype(xp, predictions, compute_dtype(xp, predictions.dtype, name))
    shape = tuple(scores.shape)
    axis = normalize_axis("class_axis", class_axis, len(shape))
    classes = shape[axis]
    if classes == 0:
        raise ValueError(f"class_axis {class_axis} of {name} of shape {shape} holds no class")
    is_usual = class_weights is None and type(label_smoothing) is float and label_smoothing == 0.0
    smoothing, weights = label_smoothing, None
    if not is_usual:
        smoothing = require_one_number(xp, "label_smoothing", label_smoothing, scores.dtype)
        weights = read_class_weights(xp, class_weights, classes, len(shape) - axis, scores)
    given = tuple(targets.shape)
    if given == shape:
        if ignore_index is not None:
            raise ValueError(f"ignore_index needs class indices, but the targets have the shape of the {name}")
        probabilities = as_dtype(xp, targets, scores.dtype, "targets")
        mass = None if weights is None else xp.sum(weights * probabilities, axis=axis)
        return Classes(scores, axis, Given(probabilities, smoothing, weights), mass)
    if given == shape[:axis] + shape[axis + 1 :]:
        labels, kept, illegal = read_labels(xp, targets, classes, ignore_index)
        if is_usual and kept is illegal:
            return Classes(scores, axis, AtLabel(labels), None)
        shares, mass = by_label(xp, scores, classes, labels, kept, illegal, weights, smoothing)
        return Classes(scores, axis, shares, mass, kept, illegal)
    raise ValueError(
        f"targets must be class indices of shape {shape[:axis] + shape[axis + 1 :]} or class probabilities of "
        f"shape {shape}, got {given} for {name} of shape {shape}"
    )


def by_label(
    xp: Any,
    like: Array,
    classes: int,
    labels: Array,
    kept: Array | None,
    illegal: Array | None,
    weights: Array | None,
    smoothing: Any,
) -> tuple[AtLabel, Array | None]:
    """Return the shares of labels as `read_labels` returns them, and what each row counts in the divisor: None for 1.

    Args:
        xp: the namespace of the arrays.
        like: an array of the dtype to compute in, where that is done.
        classes: how many there are.
        labels: of the rows, whose shares are those of any class where the label is none.
        kept: the rows that are not ignored; None for all.
        illegal: the rows whose label is none of the classes; None where there is no such row.
        weights: w, in a shape that broadcasts along the class axis; None for 1.
        smoothing: a.
    """
    if kept is not None or illegal is not None:
        labels = xp.where((labels >= 0) & (labels < classes), labels, xp.zeros_like(labels))
    own, mass, each, even = 1.0 - smoothing, None, None, smoothing
    if weights is not None:
        mass = xp.reshape(xp.take(xp.reshape(weights, (-1,)), xp.reshape(labels, (-1,))), labels.shape)
        own, even = own * mass, 0.0
        each = None if is_exactly(smoothing, 0.0) else smoothing / classes * weights
    if type(own) is not float:
        own = own * xp.ones(labels.shape, dtype=like.dtype, **placement(like))  # one per row
    if illegal is not None and mass is not None:
        mass = xp.where(illegal, 0.0, mass)
    if kept is not None:
        mass = as_dtype(xp, kept, like.dtype) if mass is None else xp.where(kept, mass, 0.0)
    return AtLabel(labels, own, even, each), mass
