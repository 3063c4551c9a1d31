"""Masks of samples and classes: where their axes are, what targets say of each pixel, and probabilities of logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mithril_losses.backends.namespaces import Array, array_namespace, is_dtype
from mithril_losses.domains import FLAG, MASK_TARGETS, NON_NEGATIVE, ClassAxis, ClassNumbers, Elements, Integer, Labels
from mithril_losses.numerics.stable import bounded, largest_number, one_hot, product
from mithril_losses.numerics.validation import as_dtype, compute_dtype, normalize_axis, require_same_shape
from mithril_losses.templates.classes import read_class_weights, read_labels
from mithril_losses.templates.unreduced import Curvature, Losses, Named

# the domains of options that the losses on masks share
COSTS: dict[str, Any] = {"alpha": NON_NEGATIVE, "beta": NON_NEGATIVE}
OF_CLASSES: dict[str, Any] = {"class_weights": ClassNumbers(0.0), "ignore_index": Integer(), "pool_batch": FLAG}
MASK_OPTIONS: dict[str, Any] = {"smooth": NON_NEGATIVE, "class_axis": ClassAxis(or_none=True), **OF_CLASSES}


class Layout(NamedTuple):
    """Where the axes of masks are."""

    classes: int | None
    batch: int | None  # the first axis beside that of the classes; None if a mask is that of all samples, or of one
    mask: tuple[int, ...]

    @staticmethod
    def of(ndim: int, class_axis: int | None, pool_batch: bool = False) -> Layout:
        """Return the layout of an array; if it has only one axis beside that of the classes, it is one sample."""
        classes = None if class_axis is None else normalize_axis("class_axis", class_axis, ndim)
        others = tuple(axis for axis in range(ndim) if axis != classes)
        if not others:
            raise ValueError("masks need at least one axis beside that of the classes")
        one_mask = pool_batch or len(others) == 1
        return Layout(classes, None if one_mask else others[0], others if one_mask else others[1:])

    def weights(self, xp: Any, like: Array, class_weights: Array | Sequence[float] | None) -> Array | None:
        """Return the weights of the classes of `like`, in a shape that broadcasts along their axis.

        Raises:
            ValueError: there is no axis of classes, there is not one weight per class, or a weight is negative.
            TypeError: they are neither an array nor a sequence.
        """
        if class_weights is None:
            return None
        if self.classes is None:
            raise ValueError("class_weights need a class_axis")
        return read_class_weights(xp, class_weights, like.shape[self.classes], len(like.shape) - self.classes, like)

    def masses(self, xp: Any, weights: Array, shape: tuple[int, ...]) -> Array:
        """Return what the loss of each mask of an array of this shape contributes to the divisor of a mean."""
        kept = tuple(1 if axis in self.mask else size for axis, size in enumerate(shape))
        return xp.squeeze(xp.broadcast_to(weights, kept), axis=self.mask)


def mask_masses(
    predictions: Array,
    targets: Array,
    *,
    class_axis: int | None,
    class_weights: Array | Sequence[float] | None,
    pool_batch: bool,
    **_: Any,
) -> Array | None:
    """Return what the loss of each mask contributes to the divisor of a mean: the weight of its class; None for 1."""
    if class_weights is None:
        return None
    xp, shape = array_namespace(predictions=predictions), tuple(predictions.shape)
    layout = Layout.of(len(shape), class_axis, pool_batch)
    weights = layout.weights(xp, as_dtype(xp, predictions, compute_dtype(xp, predictions.dtype)), class_weights)
    return None if weights is None else layout.masses(xp, weights, shape)


# --- targets ----------------------------------------------------------------------------------------------------


def read_targets(
    xp: Any,
    like: Array,
    targets: Array,
    classes: int | None,
    ignore_index: int | None,
    *,
    exclusive: bool,
    name: str,
    domain: Elements | Labels = MASK_TARGETS,
) -> tuple[Array, Array | None]:
    """Return the targets in the shape and dtype of `like`, and which pixels are not ignored; None for all.

    An ignored pixel has the target 0, and an illegal label, where its value cannot be read, NaN.

    Args:
        xp: the namespace of the arrays.
        like: the predictions in the dtype to compute in.
        targets: masks in the shape of the predictions, or class indices in this shape without the class axis.
        classes: the axis of the classes, None if there is none.
        ignore_index: the label of ignored pixels.
        exclusive: whether the classes of a pixel share one mass, so that a pixel is ignored as a whole.
        name: of the predictions.
        domain: what masks may hold.

    Raises:
        ValueError: the shapes do not fit, or a label or a value of a mask is illegal.
        TypeError: class indices are not integers.
    """
    shape, given = tuple(like.shape), tuple(targets.shape)
    if given == shape:
        if exclusive and ignore_index is not None:
            raise ValueError(f"ignore_index needs class indices, but the targets have the shape of the {name}")
        if is_dtype(xp, targets.dtype, "integral"):
            labels, kept, illegal = read_labels(xp, targets, 2, ignore_index)
            t = as_dtype(xp, labels, like.dtype)
        else:
            t, illegal = as_dtype(xp, targets, like.dtype, "targets"), None
            kept = None if ignore_index is None else t != float(ignore_index)
            t = t if kept is None else xp.where(kept, t, 0.0)
            domain.check("targets", t)
            t = domain.or_nan(xp, t, t)
    elif classes is None:
        require_same_shape(**{name: like, "targets": targets})
    else:
        without = shape[:classes] + shape[classes + 1 :]
        if given != without:
            raise ValueError(
                f"targets must be class indices of shape {without} or masks of shape {shape}, got {given} for {name} "
                f"of shape {shape}"
            )
        labels, kept, illegal = read_labels(xp, targets, shape[classes], ignore_index)
        t = one_hot(xp, labels, shape[classes], classes, like)
        kept, illegal = (None if x is None else xp.expand_dims(x, axis=classes) for x in (kept, illegal))
    t = t if kept is None else xp.where(kept, t, 0.0)
    return (t if illegal is None else xp.where(illegal, math.nan, t)), kept


def check_targets(
    predictions: Array, targets: Array, class_axis: int | None, ignore_index: int | None, *, exclusive: bool, name: str
) -> None:
    """Raise as `read_targets` does."""
    xp = array_namespace(**{name: predictions, "targets": targets})
    like = as_dtype(xp, predictions, compute_dtype(xp, predictions.dtype, name))
    axis = Layout.of(len(like.shape), class_axis).classes
    read_targets(xp, like, targets, axis, ignore_index, exclusive=exclusive, name=name)


# --- probabilities ----------------------------------------------------------------------------------------------


class Probabilities:
    """Probabilities p that are the predictions themselves.

    Where all slopes of a pixel are 0, so is what they are pulled back to, even if the predictions are NaN.

    Attributes:
        xp: the namespace of the arrays.
        p: the probabilities.
        q: 1 − p, to its last digits; None if it is not known better than by subtraction.
    """

    exclusive = False  # whether the probabilities of the classes of a pixel sum to one

    def __init__(self, xp: Any, predictions: Array, axis: int | None) -> None:
        self.xp, self.axis = xp, axis
        self.p: Array = predictions
        self.q: Array | None = None

    def pull(self, slopes: Array) -> Array:
        """Return slopes wrt the predictions from slopes wrt p: J g, with the symmetric Jacobian J of p."""
        return slopes

    def turn(self, slopes: Array, moved: Array) -> Array:
        """Return the change of J g when p moves by J v, for given slopes g: of a linear function of p, this is H v."""
        return 0.0 * slopes

    def turn_diagonal(self, slopes: Array) -> Array:
        """Return the diagonal of that H."""
        return 0.0 * slopes

    def pull_diagonal(self, diagonal: Array) -> Array:
        """Return the diagonal of J D J for a diagonal matrix D."""
        return diagonal


class Sigmoid(Probabilities):
    """p = σ(z), with pull g p q."""

    def __init__(self, xp: Any, logits: Array, axis: int | None) -> None:
        self.xp, self.axis = xp, axis
        self._magnitude = xp.abs(logits)
        tail = xp.exp(-self._magnitude)
        total, self._upper = 1.0 + tail, logits >= 0.0
        high, low = 1.0 / total, tail / total
        self.p, self.q = xp.where(self._upper, high, low), xp.where(self._upper, low, high)
        self._tail = tail

    def pull(self, slopes: Array) -> Array:
        """As in `Probabilities`."""
        return product(self.xp, slopes, self.p * self.q)

    def turn(self, slopes: Array, moved: Array) -> Array:
        """As in `Probabilities`."""
        return product(self.xp, slopes, (self.q - self.p) * moved)

    def turn_diagonal(self, slopes: Array) -> Array:
        """As in `Probabilities`."""
        return product(self.xp, slopes, (self.q - self.p) * (self.p * self.q))

    def pull_diagonal(self, diagonal: Array) -> Array:
        """As in `Probabilities`."""
        return product(self.xp, diagonal, (self.p * self.q) ** 2)

    def minus_logs(self) -> tuple[Array, Array]:
        """Return −log p and −log q."""
        near = self.xp.log1p(self._tail)
        far = near + self._magnitude
        return self.xp.where(self._upper, near, far), self.xp.where(self._upper, far, near)


class Softmax(Probabilities):
    """p = softmax(z) over the classes, with pull p_c (g_c − Σ p g).

    With the largest logit subtracted, its exponential is 1. So 1 − p of this class is a sum of the others, and all
    digits of it are right.
    """

    exclusive = True

    def __init__(self, xp: Any, logits: Array, axis: int | None) -> None:
        assert axis is not None
        self.xp, self.axis = xp, axis
        largest = xp.minimum(largest_number(xp, logits, axis), float(xp.finfo(logits.dtype).max))
        self._shifted = xp.minimum(logits - largest, 0.0)
        exponentials = xp.exp(self._shifted)
        labels = xp.argmax(logits, axis=axis)
        self._top = one_hot(xp, labels, logits.shape[axis], axis, logits) > 0
        self._others = xp.sum(xp.where(self._top, 0.0, exponentials), axis=axis, keepdims=True)
        total = 1.0 + self._others
        self.p = exponentials / total
        self.q = xp.where(self._top, self._others, total - exponentials) / total

    def pull(self, slopes: Array) -> Array:
        """As in `Probabilities`."""
        return self.pull_logs(product(self.xp, slopes, self.p))

    def pull_logs(self, slopes: Array) -> Array:
        """Return b_c − p_c Σ b from slopes b wrt log p.

        For the class of the largest logit, p_c is near 1 and b_c near Σ b: there the difference is q_c b_c − p_c times
        the sum of the others.
        """
        xp = self.xp
        others = xp.sum(xp.where(self._top, 0.0, slopes), axis=self.axis, keepdims=True)
        own = xp.sum(xp.where(self._top, slopes, 0.0), axis=self.axis, keepdims=True)
        rest = product(xp, own + others, self.p)
        return xp.where(self._top, product(xp, slopes, self.q) - product(xp, others, self.p), slopes - rest)

    def turn(self, slopes: Array, moved: Array) -> Array:
        """As in `Probabilities`: with d = J v, d_c (g_c − Σ p g) − p_c Σ d g."""
        xp = self.xp
        along, mean = product(xp, slopes, moved), self.total(product(xp, slopes, self.p))
        return along - product(xp, mean, moved) - product(xp, self.total(along), self.p)

    def turn_diagonal(self, slopes: Array) -> Array:
        """As in `Probabilities`."""
        return product(self.xp, self.pull(slopes), self.q - self.p)

    def pull_diagonal(self, diagonal: Array) -> Array:
        """As in `Probabilities`: Σ_c D_c p_c² p_k² + D_k p_k² ((1 − p_k)² − p_k²)."""
        xp, squares = self.xp, self.p * self.p
        whole = self.total(product(xp, diagonal, squares))
        return product(xp, whole, squares) + product(xp, diagonal, squares * (self.q - self.p))

    def total(self, x: Array) -> Array:
        """Return the sums over the classes, whose axis stays with length 1."""
        return self.xp.sum(x, axis=self.axis, keepdims=True)

    def minus_log(self) -> Array:
        """Return −log p."""
        return self.xp.log1p(self._others) - self._shifted


# --- masks ------------------------------------------------------------------------------------------------------


class SecondOfRatio(NamedTuple):
    """What the Hessian of a function f of a ratio r = E / W is made of, where E and W are linear in the probabilities.

    H = −f′ (s gᵀ + g sᵀ) + f″ s sᵀ, with s = ∂r/∂p and g = (∂W/∂p) / W, because d²r = −2 dr dW / W.

    Attributes:
        slope: s where t = 0, and what t = 1 adds to it.
        by_whole: the same of g.
        first: f′, at least 0.
        second: f″.
    """

    slope: tuple[Array, Array]
    by_whole: tuple[Array, Array]
    first: Any = 1.0
    second: Any = 0.0


class Masks(NamedTuple):
    """Predicted masks and their targets."""

    xp: Any
    name: str  # of the predictions
    layout: Layout
    predicted: Any  # Probabilities, Sigmoid or Softmax
    targets: Array
    kept: Array | None
    weights: Array | None  # of the classes, in a shape that broadcasts along their axis

    @staticmethod
    def of(
        predictions: Array,
        targets: Array,
        class_axis: int | None,
        class_weights: Array | Sequence[float] | None = None,
        ignore_index: int | None = None,
        pool_batch: bool = False,
        *,
        activation: type[Probabilities] = Probabilities,
        name: str = "predictions",
    ) -> Masks:
        """Return the masks of predictions, which are probabilities or what `activation` makes into them.

        Raises:
            ValueError: the shapes do not fit, a label is illegal, or there are class weights without classes.
            TypeError: predictions are not floating point, or class indices are not integers.
        """
        xp = array_namespace(**{name: predictions, "targets": targets})
        x = as_dtype(xp, predictions, compute_dtype(xp, predictions.dtype, name))
        layout = Layout.of(len(x.shape), class_axis, pool_batch)
        axis = layout.classes
        t, kept = read_targets(xp, x, targets, axis, ignore_index, exclusive=activation.exclusive, name=name)
        weights = layout.weights(xp, x, class_weights)
        return Masks(xp, name, layout, activation(xp, x, axis), t, kept, weights)

    @staticmethod
    def of_logits(
        logits: Array,
        targets: Array,
        class_axis: int | None,
        class_weights: Array | Sequence[float] | None,
        ignore_index: int | None,
        pool_batch: bool,
        multilabel: bool,
    ) -> Masks:
        """Return the masks of the sigmoid or the softmax of logits."""
        activation = Sigmoid if multilabel or class_axis is None else Softmax
        options = class_axis, class_weights, ignore_index, pool_batch
        return Masks.of(logits, targets, *options, activation=activation, name="logits")

    def only_kept(self, x: Array) -> Array:
        """Return x with 0 at ignored pixels."""
        return x if self.kept is None else self.xp.where(self.kept, x, 0.0)

    def sums(self) -> tuple[Array, Array, Array]:
        """Return Σ p t, Σ p (1 − t) and Σ (1 − p) t of each mask; the axes of the mask stay, with length 1."""
        xp, p, q, t = self.xp, self.predicted.p, self.predicted.q, self.targets
        hits = p * t
        pixels = (hits, p - hits, t - hits if q is None else q * t)
        found, false_positives, false_negatives = (
            xp.sum(self.only_kept(x), axis=self.layout.mask, keepdims=True) for x in pixels
        )
        return found, false_positives, false_negatives

    def slopes(self, at_zero: Array, at_one: Array) -> Array:
        """Return the slopes wrt p of losses whose slope is `at_zero` + t · `at_one`."""
        xp = self.xp
        zero, one = (bounded(xp, x, x.dtype) for x in (at_zero, at_one))  # masks of subnormal numbers overflow
        return self.only_kept(zero + one * self.targets)

    def losses(self, values: Array, at_zero: Array, at_one: Array, second: SecondOfRatio | None = None) -> Losses:
        """Return one loss for each mask, times the weight of its class."""
        xp, w, summed = self.xp, self.weights, self.layout.mask
        mass = None
        curvature = None if second is None else functools.partial(self._curvature, second, w, summed, False)
        if w is not None:
            values, at_zero, at_one = (product(xp, w, x) for x in (values, at_zero, at_one))
            mass = self.layout.masses(xp, w, tuple(values.shape))
        # a logit belongs to the losses of all classes, so slopes are weighted before they are pulled back
        pull = None if type(self.predicted) is Probabilities else self.predicted.pull
        values = xp.squeeze(values, axis=summed)
        return Losses(
            values, lambda: {self.name: self.slopes(at_zero, at_one)}, summed, mass, pull=pull, curvature=curvature
        )

    def _curvature(
        self, of: SecondOfRatio, weights: Array | None, summed: tuple[int, ...], whole_rows: bool
    ) -> Curvature:
        """Return the second derivatives wrt the predictions; see `SecondOfRatio`.

        The slopes of a loss of a whole sample are pulled back by themselves. A logit belongs to the losses of all
        classes, if there are such: what is pulled back is stacked, and weighted before.
        """
        second = OfProbabilities.of(self, of, weights, summed)
        predicted, name = self.predicted, self.name
        if type(predicted) is Probabilities:
            return Curvature(
                lambda vectors: {name: second.times(vectors[name])},
                lambda: {name: second.diagonal()},
                lambda: {name: second.bound()},
            )
        if whole_rows:
            return Curvature(
                lambda vectors: {name: second.of_logits(predicted, vectors[name])},
                lambda: {name: second.diagonal_of_logits(predicted)},
            )
        xp = self.xp

        def times(vectors: Named) -> Named:
            moved = self.only_kept(predicted.pull(vectors[name]))
            return {name: xp.stack([second.times(moved), second.slope()], axis=-1)}

        def pull(vectors: Named, x: Array) -> Array:
            return predicted.pull(x[..., 0]) + predicted.turn(x[..., 1], predicted.pull(vectors[name]))

        return Curvature(
            times,
            lambda: {name: xp.stack([second.diagonal(), second.slope()], axis=-1)},
            pull=pull,
            diagonal_pull=lambda x: predicted.pull_diagonal(x[..., 0]) + predicted.turn_diagonal(x[..., 1]),
            stacked=True,
        )

    def of_samples(self, values: Array, at_zero: Array, at_one: Array, second: SecondOfRatio | None = None) -> Losses:
        """Return one loss for each sample, from values whose axis of the classes has length 1."""
        classes = self.layout.classes
        summed = tuple(sorted((*self.layout.mask, *(() if classes is None else (classes,)))))
        values = self.xp.squeeze(values, axis=summed)
        curvature = None if second is None else functools.partial(self._curvature, second, None, summed, True)
        return Losses(
            values,
            lambda: {self.name: self.predicted.pull(self.slopes(at_zero, at_one))},
            summed,
            curvature=curvature,
        )


class OfProbabilities(NamedTuple):
    """The Hessian of `SecondOfRatio` wrt the probabilities of masks."""

    xp: Any
    s: Array
    g: Array
    first: Any
    second: Any
    summed: tuple[int, ...]

    @staticmethod
    def of(masks: Masks, of: SecondOfRatio, weights: Array | None, summed: tuple[int, ...]) -> OfProbabilities:
        """Return the Hessian, times the weights of the losses."""
        first, second = of.first, of.second
        if weights is not None:
            first, second = (product(masks.xp, weights, x + 0.0 * weights) for x in (first, second))
        return OfProbabilities(masks.xp, masks.slopes(*of.slope), masks.slopes(*of.by_whole), first, second, summed)

    def total(self, x: Array) -> Array:
        """Return the sums of each loss; the axes stay with length 1."""
        return self.xp.sum(x, axis=self.summed, keepdims=True)

    def slope(self) -> Array:
        """Return the slope of each loss wrt the probabilities."""
        return self.first * self.s

    def times(self, v: Array) -> Array:
        """Return H v."""
        along = self.total(self.s * v)
        return self.second * (self.s * along) - self.first * (self.s * self.total(self.g * v) + self.g * along)

    def diagonal(self) -> Array:
        """Return the diagonal of H."""
        return self.second * self.s * self.s - 2.0 * self.first * self.s * self.g

    def bound(self) -> Array:
        """The sums of the rows of |H|, or more."""
        s, g = self.xp.abs(self.s), self.xp.abs(self.g)
        whole = self.total(s)
        return abs(self.second) * s * whole + self.first * (s * self.total(g) + g * whole)

    def of_logits(self, predicted: Probabilities, v: Array) -> Array:
        """Return J H J v and what the change of J adds: the product wrt the logits."""
        moved = predicted.pull(v)
        return predicted.pull(self.times(moved)) + predicted.turn(self.slope(), moved)

    def diagonal_of_logits(self, predicted: Probabilities) -> Array:
        """Return the diagonal of that matrix."""
        pulled = self._replace(s=predicted.pull(self.s), g=predicted.pull(self.g))
        return pulled.diagonal() + predicted.turn_diagonal(self.slope())
