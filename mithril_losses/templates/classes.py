"""The targets of rows: one class, given by its index, or shares of all classes, given by probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends.namespaces import Array, array_namespace, host_values, is_dtype, namespace_of, placement
from mithril_losses.domains import NON_NEGATIVE, NON_NEGATIVE_REAL
from mithril_losses.numerics.stable import one_hot, product, subtract_at, take_at, with_axis
from mithril_losses.numerics.validation import (
    as_dtype,
    compute_dtype,
    normalize_axis,
    require_integer,
    require_one_number,
)
from mithril_losses.shards import Shards

# --- labels and weights of classes ----------------------------------------------------------------------------------

_UNSIGNED = {np.dtype(np.int32): np.uint32, np.dtype(np.int64): np.uint64}  # a negative label becomes large


def read_labels(
    xp: Any, labels: Array, classes: int, ignore_index: int | None, *, may_ignore: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """Return the labels, which of them are not ignored, and, if values cannot be read, which of them are illegal.

    Raises:
        ValueError: a label lies outside the classes, and its value can be read.
        TypeError: labels are not integers, or are distributed over devices.
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
    seen = host_values(labels)  # before the cast below, in which the largest unsigned integers overflow
    kept, limits = None, xp.iinfo(labels.dtype)
    if ignore_index is not None and limits.min <= require_integer("ignore_index", ignore_index) <= limits.max:
        kept = labels != xp.asarray(ignore_index, dtype=labels.dtype, **placement(labels))
    # convert to a type that holds every class and that every library can compare
    if limits.bits < 32:
        labels = xp.astype(labels, xp.int32)
    elif not is_dtype(xp, labels.dtype, "signed integer"):
        labels = xp.astype(labels, xp.arange(1).dtype)
    if seen is None:
        illegal = (labels < 0) | (labels >= classes)
        return labels, kept, illegal if kept is None else illegal & kept
    wrong = (seen < 0) | (seen >= classes)
    if wrong.any() and (wrong := wrong & (seen != ignore_index)).any():
        index = tuple(map(int, np.unravel_index(int(wrong.argmax()), wrong.shape)))
        raise ValueError(_says_no_class(seen[index], index, classes, may_ignore))
    return labels, kept, None


def _says_no_class(label: Any, index: tuple[int, ...], classes: int, may_ignore: bool) -> str:
    where = f" (index {index})" if index else ""
    told = f"label {label} is outside the {classes} classes 0 … {classes - 1}{where}"
    if may_ignore and (label < 0 or label == 255):
        return f"{told}; to ignore it, pass ignore_index={label}"
    return f"{told}; labels count from 0" if label == classes else told


def read_class_weights(xp: Any, weights: Any, classes: int, rank: int, like: Array) -> Array | None:
    """Return the class weights in a shape of this rank that broadcasts along the class axis, which comes first.

    Raises:
        ValueError: there is not one weight per class, or a weight is negative.
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
        wrong = f"class_weights must have shape ({classes},), got {tuple(weights.shape)}"
        axes = range(
            1, len(like.shape) if len(like.shape) > 2 else 0
        )  # logits of rows alone, or a layer, have no others
        fitting = [axis for axis in axes if (like.shape[axis],) == tuple(weights.shape)]
        raise ValueError(f"{wrong}{_on_axis(fitting, like)}")
    NON_NEGATIVE.check("class_weights", weights)
    return xp.reshape(as_dtype(xp, weights, like.dtype, "class_weights"), (classes,) + (1,) * (rank - 1))


# --- shares of the classes: q, never negative -----------------------------------------------------------------------


ONE = 1.0


class AtLabel(NamedTuple):
    """The shares q of the C classes, given by the label of each row: q_c = [c = label] own + even / C + each_c.

    Attributes:
        label: the class of each row.
        own: the additional share of the row's class: a number, or one per row. `ONE` stands for 1 if `even` is 0 and
            `each` is None.
        even: the share that is divided evenly among all classes: a number.
        each: a share for each class, in a shape that broadcasts along the class axis; None for 0.
    """

    label: Array
    own: Any = ONE
    even: Any = 0.0
    each: Array | None = None

    def dot(self, xp: Any, x: Array, axis: int) -> Array:
        """Return Σ q x over the class axis, which is removed, with 0 · ∞ = 0."""
        found = take_at(xp, x, self.label, axis)
        if self.own is ONE:
            return found
        found = times(xp, self.own, found)
        if not is_exactly(self.even, 0.0):
            # multiplied element by element, because the sum of x may overflow
            found = found + xp.sum(times(xp, self.even / float(x.shape[axis]), x), axis=axis)
        return found if self.each is None else found + xp.sum(product(xp, self.each, x), axis=axis)

    def mass(self, xp: Any, x: Array, axis: int) -> Any:
        """Return Σ q: one number if it is the same for all rows, or one per row."""
        mass = self.own
        if mass is ONE:
            return mass
        if not is_exactly(self.even, 0.0):  # exactly the sum of what `taken_from` subtracts
            classes = x.shape[axis]
            mass = mass + xp.sum(self.even / float(classes) * xp.ones(classes, dtype=x.dtype, **placement(x)))
        return mass if self.each is None else mass + xp.sum(self.each)

    def taken_from(self, xp: Any, x: Array, axis: int, scale: Any = 1.0, in_place: bool = False) -> Array:
        """Return x − scale · q, where the scale is one number, or one per row.

        x may be overwritten: NumPy does so, and PyTorch if `in_place` is set.
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
        mass: Σ q of each row if it is known; None if it must be summed.
        classes: C, if the probabilities are those of a part of the classes.
    """

    def __init__(
        self,
        probabilities: Array,
        smoothing: Any = 0.0,
        weights: Array | None = None,
        mass: Array | None = None,
        classes: int | None = None,
    ) -> None:
        self._probabilities, self._smoothing, self._weights, self._mass = probabilities, smoothing, weights, mass
        self._classes = classes
        self._q: Array | None = None

    def dense(self, xp: Any, x: Array, axis: int) -> Array:
        """As in `AtLabel`."""
        if self._q is None:
            q, a = self._probabilities, self._smoothing
            q = q if is_exactly(a, 0.0) else (1.0 - a) * q + a / float(self._classes or x.shape[axis])
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
        """Return the arguments of `loops.rows` for NumPy logits: probabilities, 1 − a, a / C, w or None."""
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
    """Return whether a value is a plain number equal to `number`; an array never is."""
    return type(value) is float and value == number


def _along(xp: Any, rows: Any, axis: int) -> Any:
    """Return a number unchanged, or an array with one number per row with the class axis inserted."""
    return rows if type(rows) is float else with_axis(xp, rows, axis)


# the sum of a row may be any mass
CLASS_MASSES = NON_NEGATIVE_REAL.suggesting("take the softmax of logits, and the exponential of log-probabilities")


# --- a part of the classes --------------------------------------------------------------------------------------------


class Columns(NamedTuple):
    """The classes that this shard has.

    Attributes:
        shards: all shards that the classes are split over.
        first: the number of the first own class: a traced number for JAX.
        own: how many classes this shard has.
        total: how many all shards have.
        most: how many that shard has which has most.
    """

    shards: Shards
    first: Any
    own: int
    total: int
    most: int

    @staticmethod
    def of(shards: Shards, own: int, facts: str) -> Columns:
        """Return the part of `own` classes of this shard, after all shards have compared their facts.

        Raises:
            ValueError: a shard has no class, or the shards do not fit together.
        """
        lengths = shards.lengths(own, facts)
        if 0 in lengths:
            raise ValueError(f"each shard must have a class, but they have {', '.join(map(str, lengths))}")
        rank = shards.rank()
        first = sum(lengths[:rank]) if isinstance(rank, int) else rank * own
        return Columns(shards, first, own, sum(lengths), max(lengths))

    def local(self, xp: Any, labels: Array) -> tuple[Array, Array]:
        """Return the numbers of labels among the own classes, 0 if a label is another's, and which are own."""
        labels = labels - self.first
        mine = (labels >= 0) & (labels < self.own)
        return xp.where(mine, labels, xp.zeros_like(labels)), mine

    def sums(self, xp: Any, *parts: Array) -> list[Array]:
        """Return the sums of arrays of any shapes over all shards, by one collective."""
        flat = self.shards.sum(xp.concat([xp.reshape(x, (-1,)) for x in parts], axis=0))
        found, at = [], 0
        for x in parts:
            size = math.prod(x.shape)
            found.append(xp.reshape(flat[at : at + size], tuple(x.shape)))
            at += size
        return found


# --- the targets of a classification --------------------------------------------------------------------------------


class Classes(NamedTuple):
    """The checked targets of scores.

    Attributes:
        scores: the predictions in the dtype to compute in.
        axis: the axis of the classes.
        shares: q_c = w_c y′_c, y′ = (1 − a) y + a / C.
        mass: what each row contributes to the divisor: Σ w_c y_c, 0 if it is ignored; None for 1.
        kept: the rows that are not ignored; None for all.
        illegal: the rows with an illegal label, if values cannot be read; None if they can.
        across: the shards over which the classes are split, so that scores and shares are those of a part of them.
        whole: Σ q of whole rows, if the classes are split.
    """

    scores: Array
    axis: int
    shares: Shares
    mass: Array | None
    kept: Array | None = None
    illegal: Array | None = None
    across: Shards | None = None
    whole: Any = None

    def legal(self, xp: Any, x: Array) -> Array:
        """Return losses or slopes of the rows: 0 if a row is ignored, NaN if its label is illegal."""
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
    trusted: bool = False,
    shards: Shards | None = None,
) -> Classes:
    """Return the targets of predictions, checked; messages call them by their `name`.

    Target probabilities are not checked if they are `trusted`, because a loop checks them. If the classes are split
    over shards, predictions, class weights and probabilities are the own part of them. Labels are those of whole rows,
    and count the classes of all shards.

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, a target probability is negative, or an
            option lies outside its domain.
        TypeError: predictions are not floating point, or class indices not integers.
    """
    xp = array_namespace(**{name: predictions, "targets": targets})
    scores = as_dtype(xp, predictions, compute_dtype(xp, predictions.dtype, name))
    shape = tuple(scores.shape)
    axis = normalize_axis("class_axis", class_axis, len(shape))
    classes = shape[axis]
    if shards is not None:
        return _classes_of_part(xp, scores, targets, axis, class_weights, label_smoothing, ignore_index, name, shards)
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
        if not trusted:
            CLASS_MASSES.check("targets", targets)
            probabilities = CLASS_MASSES.or_nan(xp, probabilities, targets)
        mass = None if weights is None else xp.sum(weights * probabilities, axis=axis)
        return Classes(scores, axis, Given(probabilities, smoothing, weights), mass)
    if given == shape[:axis] + shape[axis + 1 :]:
        labels, kept, illegal = read_labels(xp, targets, classes, ignore_index)
        if is_usual and kept is illegal:
            return Classes(scores, axis, AtLabel(labels), None)
        shares, mass = by_label(xp, scores, classes, labels, kept, illegal, weights, smoothing)
        return Classes(scores, axis, shares, mass, kept, illegal)
    raise _no_targets(given, axis, scores, name)


def _no_targets(given: tuple[int, ...], axis: int, scores: Array, name: str) -> ValueError:
    shape = tuple(scores.shape)
    fitting = [other for other in range(len(shape)) if given == shape[:other] + shape[other + 1 :]]
    return ValueError(
        f"targets must be class indices of shape {shape[:axis] + shape[axis + 1 :]} or class probabilities of "
        f"shape {shape}, got {given} for {name} of shape {shape}{_on_axis(fitting, scores)}"
    )


def _classes_of_part(
    xp: Any,
    scores: Array,
    targets: Array,
    axis: int,
    class_weights: Any,
    label_smoothing: Any,
    ignore_index: int | None,
    name: str,
    shards: Shards,
) -> Classes:
    """`classes_of` for the own part of classes that are split over shards."""
    shape = tuple(scores.shape)
    given, rows = tuple(targets.shape), shape[:axis] + shape[axis + 1 :]
    if given not in (shape, rows):
        raise _no_targets(given, axis, scores, name)
    a = require_one_number(xp, "label_smoothing", label_smoothing, scores.dtype)
    weights = read_class_weights(xp, class_weights, shape[axis], len(shape) - axis, scores)
    facts = f"{name} of {str(scores.dtype).split('.')[-1]} in {rows} rows, targets of {len(given)} dimensions"
    columns = Columns.of(shards, shape[axis], facts + " with class_weights" * (weights is not None))
    if given == rows:
        labels, kept, illegal = read_labels(xp, targets, columns.total, ignore_index)
        shares, mass, whole = by_label_of_part(xp, scores, columns, labels, kept, illegal, weights, a)
        return Classes(scores, axis, shares, mass, kept, illegal, shards, whole)
    if ignore_index is not None:
        raise ValueError(f"ignore_index needs class indices, but the targets have the shape of the {name}")
    CLASS_MASSES.check("targets", targets)
    probabilities = CLASS_MASSES.or_nan(xp, as_dtype(xp, targets, scores.dtype, "targets"), targets)
    parts = [xp.sum(probabilities if weights is None else weights * probabilities, axis=axis)]
    mass, *rest = columns.sums(xp, *parts, *([] if weights is None else [xp.sum(weights)]))
    whole = (1.0 - a) * mass + a * (rest[0] / columns.total if rest else 1.0)
    given_shares = Given(probabilities, a, weights, classes=columns.total)
    return Classes(scores, axis, given_shares, None if weights is None else mass, across=shards, whole=whole)


def _on_axis(fitting: Sequence[int], scores: Array) -> str:
    """Return the hint that the classes may be on another axis of the scores, on which everything would fit."""
    if not fitting:
        return ""
    axis = 1 if 1 in fitting else fitting[0]
    return f"; for {scores.shape[axis]} classes on axis {axis}, pass class_axis={axis}"


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
    """Return the shares for labels from `read_labels`, and what each row contributes to the divisor: None for 1.

    Args:
        xp: the namespace of the arrays.
        like: an array with the dtype and the device to compute with.
        classes: the number of classes.
        labels: the labels of the rows; an illegal label gets the shares of any class.
        kept: the rows that are not ignored; None for all.
        illegal: the rows whose label is outside the classes; None if there is no such row.
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
    return AtLabel(labels, own, even, each), _counted(xp, mass, kept, illegal, like)


def _counted(xp: Any, mass: Array | None, kept: Array | None, illegal: Array | None, like: Array) -> Array | None:
    """Return what each row contributes to the divisor, None for 1: nothing if it is ignored or illegal."""
    if illegal is not None and mass is not None:
        mass = xp.where(illegal, 0.0, mass)
    if kept is not None:
        mass = as_dtype(xp, kept, like.dtype) if mass is None else xp.where(kept, mass, 0.0)
    return mass


def by_label_of_part(
    xp: Any,
    like: Array,
    columns: Columns,
    labels: Array,
    kept: Array | None,
    illegal: Array | None,
    weights: Array | None,
    smoothing: Any,
) -> tuple[AtLabel, Array | None, Any]:
    """Return the shares of the own classes, what each row contributes to the divisor, and Σ q of whole rows.

    The arguments are those of `by_label`, but for the number of classes; the weights are those of the own classes.
    """
    usual = (labels >= 0) & (labels < columns.total)
    labels = xp.where(usual, labels, xp.zeros_like(labels))
    label, mine = columns.local(xp, labels)
    mass, each, even, whole = None, None, smoothing * (columns.own / columns.total), ONE
    own = (1.0 - smoothing) * as_dtype(xp, mine, like.dtype)
    if weights is not None:
        taken = xp.reshape(xp.take(xp.reshape(weights, (-1,)), xp.reshape(label, (-1,))), label.shape)
        mass, total = columns.sums(xp, xp.where(mine, taken, 0.0), xp.sum(weights))
        own, even = own * taken, 0.0
        each = None if is_exactly(smoothing, 0.0) else smoothing / columns.total * weights
        whole = (1.0 - smoothing) * mass + smoothing / columns.total * total
    return AtLabel(label, own, even, each), _counted(xp, mass, kept, illegal, like), whole
