"""Losses between boxes: (x₁, y₁, x₂, y₂) on the last axis, the lower corner first."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Unpack

from mithril_losses._pairs import gradient_of, value_and_gradient_of
from mithril_losses._reduction import GradientReduction, Reduction, collect, plan
from mithril_losses._stable import first_axis, floored, last_axis
from mithril_losses._validation import as_dtype, compute_dtype, quiet, require_same_shape
from mithril_losses.backends._namespace import Array, array_namespace
from mithril_losses.backends._numpy_namespace import for_elements
from mithril_losses.domains import Boxes

__all__ = [
    "complete_iou_loss",
    "complete_iou_loss_gradient",
    "distance_iou_loss",
    "distance_iou_loss_gradient",
    "generalized_iou_loss",
    "generalized_iou_loss_gradient",
    "iou_loss",
    "iou_loss_gradient",
]

_DOMAIN = {"predictions": Boxes(), "targets": Boxes()}


class _Sides(NamedTuple):
    """The two sides of a rectangle, and the derivative of each wrt the predicted corners that bound it."""

    length: Array  # (2, …)
    slope: Array  # (4, …)

    @property
    def area(self) -> Array:
        return self.length[0, ...] * self.length[1, ...]

    def area_slope(self, xp: Any) -> Array:
        other = xp.flip(self.length, axis=0)
        return self.slope * xp.concat([other, other], axis=0)


class _Pair(NamedTuple):
    """A predicted box and its target in the unit in which the box around both has sides of at most 1.

    Nothing here changes with the unit, so it counts as a constant; areas then neither overflow nor vanish. Coordinates
    are on the first axis: steps of four numbers would cost NumPy ten times as much.
    """

    predicted: _Sides
    target: Array  # (2, …)
    overlap: _Sides
    around: _Sides
    offset: Array  # (2, …), between the centres
    unit: Array

    def iou(self, xp: Any) -> tuple[Array, Array]:
        """Return |A ∩ B| / |A ∪ B|, 0 where neither box has an area, and its derivative."""
        overlap, union = self.overlap.area, self.union
        value = _quotient(xp, overlap, union)
        grown = (1.0 + value) * self.overlap.area_slope(xp)
        return value, _quotient(xp, grown - value * self.predicted.area_slope(xp), union)

    @property
    def union(self) -> Array:
        return self.predicted.area + self.target[0, ...] * self.target[1, ...] - self.overlap.area

    def centre_distance(self, xp: Any) -> tuple[Array, Array]:
        """Return ρ² / c², the squared distance of the centres in diagonals of the box around both."""
        squared = xp.sum(self.offset * self.offset, axis=0)
        diagonal = xp.sum(self.around.length * self.around.length, axis=0)
        value = _quotient(xp, squared, diagonal)
        both = xp.concat([self.offset, self.offset], axis=0)
        sides = xp.concat([self.around.length, self.around.length], axis=0)
        return value, _quotient(xp, both - 2.0 * value * sides * self.around.slope, diagonal)

    def shape_difference(self, xp: Any) -> tuple[Array, Array]:
        """Return v = 4/π² (arctan(w*/h*) − arctan(w/h))² and its derivative."""
        width, height = self.predicted.length[0, ...], self.predicted.length[1, ...]
        difference = xp.atan2(self.target[0, ...], self.target[1, ...]) - xp.atan2(width, height)
        squared = width * width + height * height
        turned = xp.stack([height, -width], axis=0)  # of the angle, times its squared length
        by_corner = xp.concat([turned, turned], axis=0) * self.predicted.slope
        share = 4.0 / math.pi**2
        return share * difference * difference, -2.0 * share * difference * _quotient(xp, by_corner, squared)


def _open(predictions: Array, targets: Array) -> tuple[Any, _Pair]:
    xp = array_namespace(predictions=predictions, targets=targets)
    require_same_shape(predictions=predictions, targets=targets)
    if len(predictions.shape) == 0 or predictions.shape[-1] != 4:
        raise ValueError(f"boxes need 4 corner coordinates on the last axis, got shape {tuple(predictions.shape)}")
    dtype = compute_dtype(xp, predictions.dtype)
    xp = for_elements(xp)
    p, t = (first_axis(xp, as_dtype(xp, x, dtype)) for x in (predictions, targets))
    low, high, target_low, target_high = p[:2, ...], p[2:, ...], t[:2, ...], t[2:, ...]
    # of max(low, target low) and min(high, target high) wrt the predicted corner; half where the two agree
    inner_low, inner_high = 0.5 + 0.5 * xp.sign(low - target_low), 0.5 - 0.5 * xp.sign(high - target_high)
    least, most = xp.minimum(low, target_low), xp.maximum(high, target_high)
    unit = xp.max(most - least, axis=0)
    positive = xp.where(unit > 0.0, unit, 1.0)

    def sides(low: Array, high: Array, low_slope: Array, high_slope: Array) -> _Sides:
        length = (high - low) / positive
        proper = xp.concat([length, length], axis=0) > 0.0
        slope = xp.concat([-low_slope, high_slope], axis=0)
        return _Sides(xp.maximum(length, 0.0), xp.where(proper, slope, 0.0))

    one = xp.ones_like(low)
    pair = _Pair(
        predicted=sides(low, high, one, one),
        target=xp.maximum((target_high - target_low) / positive, 0.0),
        overlap=sides(xp.maximum(low, target_low), xp.minimum(high, target_high), inner_low, inner_high),
        around=sides(least, most, 1.0 - inner_low, 1.0 - inner_high),
        offset=0.5 * ((low - target_low) + (high - target_high)) / positive,
        unit=unit,
    )
    return xp, pair


def _quotient(xp: Any, part: Array, whole: Array) -> Array:
    """Return part / whole, and 0 where the whole is nothing."""
    nothing = whole < float(xp.finfo(whole.dtype).smallest_normal)
    quotient = part / xp.where(nothing, 1.0, whole)
    return xp.where(xp.broadcast_to(nothing, quotient.shape), 0.0, quotient)


def _value(terms: Any, predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    with quiet(array_namespace(predictions=predictions)):
        xp, pair = _open(predictions, targets)
        values, _ = terms(xp, pair)
        return collect(values, like=predictions, **reduction)


def _gradient(terms: Any, predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> Array:
    return _value_and_gradient(terms, predictions, targets, **reduction)[1]


def _value_and_gradient(
    terms: Any, predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]
) -> tuple[Array, Array]:
    xp = array_namespace(predictions=predictions)
    with quiet(xp):
        elements, pair = _open(predictions, targets)
        values, slope = terms(elements, pair)
        slope = last_axis(xp, slope / floored(elements, pair.unit, predictions.dtype))
        closing = plan(xp, tuple(values.shape), values.dtype, **reduction)
        summed = (len(slope.shape) - 1,)
        return closing.collect(xp, values, predictions), closing.spread(xp, slope, predictions, summed)


def _both(terms: Any) -> Any:
    def both(predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> tuple[Array, Array]:
        return _value_and_gradient(terms, predictions, targets, **reduction)

    return both


# --- intersection over union ------------------------------------------------------------------------------------


def _iou(xp: Any, pair: _Pair) -> tuple[Array, Array]:
    value, slope = pair.iou(xp)
    return 1.0 - value, -slope


def iou_loss(predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean over boxes of 1 − |A ∩ B| / |A ∪ B|, A = predictions, B = targets.

    Boxes that do not overlap have the loss 1 and nothing that would pull them together; the other losses of this
    module do.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side that is turned
            round counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 1 (one loss per box for reduction="none"). 1 where neither box has an area.

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is no array, or predictions are not floating point.

    Example:
        Areas 4 and 4 with 2 in common: 1 − 2 / 6.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])
        >>> round(float(iou_loss(a, b)), 6)
        0.666667

    Source:
        M. A. Rahman and Y. Wang, Optimizing Intersection-Over-Union in Deep Neural Networks, 2016.
        https://doi.org/10.1007/978-3-319-50835-1_22
    """
    return _value(_iou, predictions, targets, **reduction)


def _kinks(predictions: Array, targets: Array) -> tuple[Array, ...]:
    """Return what vanishes where two sides lie on one line, where a box has no area, and where two boxes touch."""
    xp = array_namespace(predictions=predictions, targets=targets)
    low, high = predictions[..., :2], predictions[..., 2:]
    touching = xp.minimum(high, targets[..., 2:]) - xp.maximum(low, targets[..., :2])
    return predictions - targets, xp.min(xp.abs(touching), axis=-1), xp.min(high - low, axis=-1)


@gradient_of(
    iou_loss,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=("non_negative", "scale_invariant", "symmetric", "translation_invariant", "zero_at_equality"),
)
def iou_loss_gradient(predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> Array:
    """−((1 + q) ∂|A ∩ B| − q ∂|A|) / |A ∪ B| / n, q = |A ∩ B| / |A ∪ B|.

    Where a side lies on one line with the target's, the mean of the slopes on its two sides, so that a perfect box has
    the gradient 0; 0 also for boxes that do not overlap or have no area.

    Args:
        predictions: boxes A, as in `iou_loss`.
        targets: boxes B.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt the predictions, a new array of their shape and dtype.

    Raises:
        ValueError: as in `iou_loss`.
        TypeError: as in `iou_loss`.

    Example:
        Areas 4 and 8 with 2 in common: q = 0.2. Moving x₂ changes |A ∩ B| and |A| by 2: −(1.2 · 2 − 0.2 · 2) / 10.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, -1.0, 3.0, 3.0]])
        >>> iou_loss_gradient(a, b).round(12).tolist()
        [[-0.04, 0.08, -0.2, -0.08]]
    """
    return _gradient(_iou, predictions, targets, **reduction)


# --- generalized ------------------------------------------------------------------------------------------------


def _generalized(xp: Any, pair: _Pair) -> tuple[Array, Array]:
    iou, iou_slope = pair.iou(xp)
    around, union = pair.around.area, pair.union
    covered = _quotient(xp, union, around)
    union_slope = pair.predicted.area_slope(xp) - pair.overlap.area_slope(xp)
    less = covered * pair.around.area_slope(xp) - union_slope
    empty = _quotient(xp, around - union, around)
    return 1.0 - iou + empty, _quotient(xp, less, around) - iou_slope


def generalized_iou_loss(predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean over boxes of 1 − |A ∩ B| / |A ∪ B| + (|C| − |A ∪ B|) / |C|, C = the smallest box around A and B.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side that is turned
            round counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 2 (one loss per box for reduction="none"). 1 where C has no area.

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is no array, or predictions are not floating point.

    Example:
        Two unit squares with a gap of the same size between them: 1 − 0 + (3 − 2) / 3.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> round(float(generalized_iou_loss(a, b)), 6)
        1.333333

    Source:
        H. Rezatofighi et al., Generalized Intersection over Union, 2019. https://doi.org/10.1109/CVPR.2019.00075
    """
    return _value(_generalized, predictions, targets, **reduction)


@gradient_of(
    generalized_iou_loss,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=("non_negative", "scale_invariant", "symmetric", "translation_invariant", "zero_at_equality"),
)
def generalized_iou_loss_gradient(predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> Array:
    """(∂(1 − |A ∩ B| / |A ∪ B|) − (∂|A ∪ B| − r ∂|C|) / |C|) / n, r = |A ∪ B| / |C|.

    Where a side lies on one line with the target's, the mean of the slopes on its two sides, so that a perfect box has
    the gradient 0; 0 also where C has no area.

    Args:
        predictions: boxes A, as in `generalized_iou_loss`.
        targets: boxes B.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt the predictions, a new array of their shape and dtype.

    Raises:
        ValueError: as in `generalized_iou_loss`.
        TypeError: as in `generalized_iou_loss`.

    Example:
        Of |C| = 3 · 1 the boxes cover r = ⅔. Moving x₁ by 1 takes 1 off |A| and |C| alike: −(−1 + ⅔) / 3 = 1/9.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, -1.0, 1.0, 1.0]]), np.array([[2.0, -1.0, 3.0, 1.0]])
        >>> generalized_iou_loss_gradient(a, b).round(6).tolist()
        [[0.111111, 0.0, -0.333333, 0.0]]
    """
    return _gradient(_generalized, predictions, targets, **reduction)


# --- distance ---------------------------------------------------------------------------------------------------


def _distance(xp: Any, pair: _Pair) -> tuple[Array, Array]:
    iou, iou_slope = pair.iou(xp)
    apart, apart_slope = pair.centre_distance(xp)
    return 1.0 - iou + apart, apart_slope - iou_slope


def distance_iou_loss(predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean over boxes of 1 − |A ∩ B| / |A ∪ B| + ρ² / c², ρ between the centres, c the diagonal of the box around both.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side that is turned
            round counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 2 (one loss per box for reduction="none").

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is no array, or predictions are not floating point.

    Example:
        The centres are 2 apart, the box around both is 3 × 1: 1 − 0 + 4 / 10.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> round(float(distance_iou_loss(a, b)), 6)
        1.4

    Source:
        Z. Zheng et al., Distance-IoU Loss, 2020. https://doi.org/10.1609/aaai.v34i07.6999
    """
    return _value(_distance, predictions, targets, **reduction)


@gradient_of(
    distance_iou_loss,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=("non_negative", "scale_invariant", "symmetric", "translation_invariant", "zero_at_equality"),
)
def distance_iou_loss_gradient(predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> Array:
    """(∂(1 − |A ∩ B| / |A ∪ B|) + (∂ρ² − r ∂c²) / c²) / n, r = ρ² / c².

    Where a side lies on one line with the target's, the mean of the slopes on its two sides, so that a perfect box has
    the gradient 0; 0 also where all corners coincide.

    Args:
        predictions: boxes A, as in `distance_iou_loss`.
        targets: boxes B.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt the predictions, a new array of their shape and dtype.

    Raises:
        ValueError: as in `distance_iou_loss`.
        TypeError: as in `distance_iou_loss`.

    Example:
        ρ² = 4 and c² = 9 + 1. Moving x₂ moves the centre by half: ∂ρ² = 2 (−2) ½ = −2, and c stays: −2 / 10. Moving x₁
        also takes 2 · 3 off c²: (−2 + 0.4 · 6) / 10.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> distance_iou_loss_gradient(a, b)[0, ::2].round(12).tolist()
        [0.04, -0.2]
    """
    return _gradient(_distance, predictions, targets, **reduction)


# --- complete ---------------------------------------------------------------------------------------------------


def _complete(xp: Any, pair: _Pair) -> tuple[Array, Array]:
    iou, iou_slope = pair.iou(xp)
    apart, apart_slope = pair.centre_distance(xp)
    v, v_slope = pair.shape_difference(xp)
    alpha = _quotient(xp, v, 1.0 - iou + v)
    # α v = v² / (1 − q + v): by v it has the slope 2α − α², by 1 − q the slope −α²
    squared = alpha * alpha
    slope = apart_slope - (1.0 - squared) * iou_slope + (2.0 * alpha - squared) * v_slope
    return 1.0 - iou + apart + alpha * v, slope


def complete_iou_loss(predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean over boxes of 1 − q + ρ² / c² + α v, v = 4/π² (arctan(w*/h*) − arctan(w/h))², α = v / (1 − q + v).

    With q = |A ∩ B| / |A ∪ B|, ρ between the centres, c the diagonal of the box around both, and the sides w and h of
    A, w* and h* of B.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side that is turned
            round counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 3 (one loss per box for reduction="none").

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is no array, or predictions are not floating point.

    Example:
        A line across the middle of a square, which counts as arctan(w/h) = π/2: q = 0, ρ = 0, v = 4/π² (π/4)² = ¼ and
        α = ¼ / (1 + ¼), so 1 + 0.2 · ¼.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 1.0, 2.0, 1.0]]), np.array([[0.0, 0.0, 2.0, 2.0]])
        >>> round(float(complete_iou_loss(a, b)), 6)
        1.05

    Source:
        Z. Zheng et al., Distance-IoU Loss, 2020. https://doi.org/10.1609/aaai.v34i07.6999
    """
    return _value(_complete, predictions, targets, **reduction)


@gradient_of(
    complete_iou_loss,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=("non_negative", "scale_invariant", "symmetric", "translation_invariant", "zero_at_equality"),
)
def complete_iou_loss_gradient(predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> Array:
    """(−(1 − α²) ∂q + ∂(ρ² / c²) + (2α − α²) ∂v) / n.

    The derivative of the value as it is, α included; the paper's implementation holds α fixed, and takes w² + h² for 1
    in ∂v. Where a side lies on one line with the target's, the mean of the slopes on its two sides, so that a perfect
    box has the gradient 0.

    Args:
        predictions: boxes A, as in `complete_iou_loss`.
        targets: boxes B.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt the predictions, a new array of their shape and dtype.

    Raises:
        ValueError: as in `complete_iou_loss`.
        TypeError: as in `complete_iou_loss`.

    Example:
        Two squares have v = 0, whose slope is 0 too: what is left is the gradient of `distance_iou_loss`.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> complete_iou_loss_gradient(a, b)[0, ::2].round(12).tolist()
        [0.04, -0.2]
    """
    return _gradient(_complete, predictions, targets, **reduction)


for _loss, _terms in (
    (iou_loss, _iou),
    (generalized_iou_loss, _generalized),
    (distance_iou_loss, _distance),
    (complete_iou_loss, _complete),
):
    value_and_gradient_of(_loss)(_both(_terms))
