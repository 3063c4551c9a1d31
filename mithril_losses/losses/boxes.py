"""Losses between boxes: (x₁, y₁, x₂, y₂) on the last axis, the lower corner first."""

from __future__ import annotations

from typing import Any, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import given, gradient_of
from mithril_losses.domains import REAL, Boxes, SmallestNormal
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.templates.columns import ByColumn
from mithril_losses.templates.elements import elementwise

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


_BOXES = Boxes("the second corner of (x, y, width, height) is (x + width, y + height)")
_DOMAIN = {"predictions": _BOXES, "targets": _BOXES}


# --- sides in the unit in which the box around both has sides of at most 1 ----------------------------------------
# The losses do not depend on the unit, so it is treated as a constant. In this unit areas neither overflow nor vanish.


def _unit(
    xp: Any,
    x1: Array,
    y1: Array,
    x2: Array,
    y2: Array,
    u1: Array,
    v1: Array,
    u2: Array,
    v2: Array,
    least: Array,
) -> Array:
    wide, tall = xp.maximum(x2, u2) - xp.minimum(x1, u1), xp.maximum(y2, v2) - xp.minimum(y1, v1)
    extent = xp.maximum(wide, tall)
    return xp.where(extent > 0.0, xp.maximum(extent, least), 1.0)  # a unit whose reciprocal is finite


def _sides(xp: Any, low: Array, high: Array, target_low: Array, target_high: Array, unit: Array) -> tuple[Array, ...]:
    """Return the sides of A, B, their overlap and the box around both, and the offset of the centres."""
    return (
        xp.maximum((high - low) / unit, 0.0),
        xp.maximum((target_high - target_low) / unit, 0.0),
        xp.maximum((xp.minimum(high, target_high) - xp.maximum(low, target_low)) / unit, 0.0),
        xp.maximum((xp.maximum(high, target_high) - xp.minimum(low, target_low)) / unit, 0.0),
        0.5 * ((low - target_low) + (high - target_high)) / unit,
    )


def _at_corners(
    xp: Any,
    low: Array,
    high: Array,
    target_low: Array,
    target_high: Array,
    sides: tuple[Array, ...],
    slopes: tuple[Array, ...],
) -> tuple[Array, Array]:
    """Return the slopes wrt the corners of A, given those wrt its side, the overlap, the outer box and the offset.

    The slope of a side of length 0 is 0.
    """
    own, _, overlap, around, _ = sides
    by_own, by_overlap, by_around, by_offset = slopes
    # whether the corners of A bound the overlap: 1 or 0, and ½ where the corners of A and B agree
    inner_low, inner_high = 0.5 + 0.5 * xp.sign(low - target_low), 0.5 - 0.5 * xp.sign(high - target_high)
    by_own = xp.where(own > 0.0, by_own, 0.0)
    return (
        0.5 * by_offset
        - by_own
        - xp.where(overlap > 0.0, inner_low * by_overlap, 0.0)
        - xp.where(around > 0.0, (1.0 - inner_low) * by_around, 0.0),
        0.5 * by_offset
        + by_own
        + xp.where(overlap > 0.0, inner_high * by_overlap, 0.0)
        + xp.where(around > 0.0, (1.0 - inner_high) * by_around, 0.0),
    )


def _quotient(xp: Any, part: Array, whole: Array, least: Array) -> Array:
    """Return part / whole, and 0 where the whole is 0."""
    nothing = whole < least
    return xp.where(nothing, 0.0, part / xp.where(nothing, 1.0, whole))


def _shared(xp: Any, x: tuple[Array, ...], y: tuple[Array, ...], least: Array) -> tuple[Array, ...]:
    """Return q = |A ∩ B| / |A ∪ B|, 0 where neither box has an area; |A ∪ B|; and q's slopes wrt the sides.

    The slopes are those wrt the sides of A along x and y, and of A ∩ B.
    """
    union = x[0] * y[0] + x[1] * y[1] - x[2] * y[2]
    q = _quotient(xp, x[2] * y[2], union, least)
    own, overlap = _quotient(xp, -q, union, least), _quotient(xp, 1.0 + q, union, least)
    return q, union, own * y[0], own * x[0], overlap * y[2], overlap * x[2]


def _apart(xp: Any, x: tuple[Array, ...], y: tuple[Array, ...], least: Array) -> tuple[Array, ...]:
    """Return r = ρ² / c², ρ between the centres, c the diagonal of the box around both; and its slopes.

    The slopes are those wrt the sides of the box around both along x and y, and wrt the offset of the centres.
    """
    squared, diagonal = x[4] * x[4] + y[4] * y[4], x[3] * x[3] + y[3] * y[3]
    r = _quotient(xp, squared, diagonal, least)
    return (
        r,
        _quotient(xp, -2.0 * r * x[3], diagonal, least),
        _quotient(xp, -2.0 * r * y[3], diagonal, least),
        _quotient(xp, 2.0 * x[4], diagonal, least),
        _quotient(xp, 2.0 * y[4], diagonal, least),
    )


_FOUR: dict[str, Any] = dict.fromkeys(("x1", "y1", "x2", "y2"), REAL) | dict.fromkeys(("u1", "v1", "u2", "v2"), REAL)
_FOUR |= {"least": SmallestNormal(computed=True), "smallest": SmallestNormal()}


def _by_corner(terms: Any) -> ByColumn:
    """Return the loss of boxes with these terms of their corners; those of the predicted box come first."""
    return ByColumn(elementwise(slopes=4, steep=True, **_FOUR)(terms), "boxes need 4 corner coordinates", **_DOMAIN)


# --- intersection over union ------------------------------------------------------------------------------------


@_by_corner
def _iou(
    xp: Any,
    x1: Array,
    y1: Array,
    x2: Array,
    y2: Array,
    u1: Array,
    v1: Array,
    u2: Array,
    v2: Array,
    least: Array,
    smallest: Array,
) -> tuple[Array, tuple[Array, ...]]:
    unit = _unit(xp, x1, y1, x2, y2, u1, v1, u2, v2, least)
    x, y = _sides(xp, x1, x2, u1, u2, unit), _sides(xp, y1, y2, v1, v2, unit)
    q, _, own_x, own_y, overlap_x, overlap_y = _shared(xp, x, y, least)
    low_x, high_x = _at_corners(xp, x1, x2, u1, u2, x, (-own_x, -overlap_x, 0.0 * q, 0.0 * q))
    low_y, high_y = _at_corners(xp, y1, y2, v1, v2, y, (-own_y, -overlap_y, 0.0 * q, 0.0 * q))
    unit = xp.maximum(unit, smallest)
    return 1.0 - q, (low_x / unit, low_y / unit, high_x / unit, high_y / unit)


def iou_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over boxes of 1 − |A ∩ B| / |A ∪ B|, A = predictions, B = targets.

    Boxes that do not overlap have the loss 1 and the gradient 0, so nothing pulls them together. With the other losses
    of this module they have a gradient.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side of
            negative length counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 1 (one loss per box for reduction="none"). 1 where neither box has an area.

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        Areas 4 and 4 with 2 in common: 1 − 2 / 6.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])
        >>> round(float(iou_loss(a, b)), 6)
        0.666667

    Source:
        H. Rezatofighi et al., Generalized Intersection over Union: A Metric and a Loss for Bounding Box Regression,
        2019. https://doi.org/10.1109/CVPR.2019.00075. Its logarithm: J. Yu et al., UnitBox: An Advanced Object
        Detection Network, 2016. https://doi.org/10.1145/2964284.2967274
    """
    return _iou.value(predictions, targets, **reduction)


def _kinks(predictions: Array, targets: Array) -> tuple[Array, ...]:
    """Return what vanishes where two sides lie on one line, where a box has no area, and where two boxes touch."""
    xp = array_namespace(predictions=predictions, targets=targets)
    low, high = predictions[..., :2], predictions[..., 2:]
    touching = xp.minimum(high, targets[..., 2:]) - xp.maximum(low, targets[..., :2])
    return predictions - targets, xp.min(xp.abs(touching), axis=-1), xp.min(high - low, axis=-1)


@gradient_of(
    iou_loss,
    terms=_iou,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=(
        "non_negative",
        "scale_invariant",
        "symmetric",
        "translation_invariant",
        given("zero_at_equality", "the boxes have an area"),
    ),
)
def iou_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−((1 + q) ∂|A ∩ B| − q ∂|A|) / |A ∪ B| / n, q = |A ∩ B| / |A ∪ B|.

    Wrt x₁ and x₂, ∂|A| is minus and plus the height of A, and ∂|A ∩ B| is minus and plus the height of the overlap for
    a coordinate that bounds the overlap, else 0. Wrt y₁ and y₂ the widths take the place of the heights. n counts the
    boxes.

    If a side lies on one line with the target's, the mean of the two one-sided slopes is taken, so that a perfect box
    has the gradient 0. The gradient is also 0 for boxes that do not overlap or have no area.

    Example:
        Areas 4 and 8 with 2 in common: q = 0.2. Moving x₂ changes |A ∩ B| and |A| by 2: −(1.2 · 2 − 0.2 · 2) / 10.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, -1.0, 3.0, 3.0]])
        >>> iou_loss_gradient(a, b).round(12).tolist()
        [[-0.04, 0.08, -0.2, -0.08]]
    """
    return _iou.gradient(predictions, targets, **reduction)


# --- generalized ------------------------------------------------------------------------------------------------


@_by_corner
def _generalized(
    xp: Any,
    x1: Array,
    y1: Array,
    x2: Array,
    y2: Array,
    u1: Array,
    v1: Array,
    u2: Array,
    v2: Array,
    least: Array,
    smallest: Array,
) -> tuple[Array, tuple[Array, ...]]:
    unit = _unit(xp, x1, y1, x2, y2, u1, v1, u2, v2, least)
    x, y = _sides(xp, x1, x2, u1, u2, unit), _sides(xp, y1, y2, v1, v2, unit)
    q, union, own_x, own_y, overlap_x, overlap_y = _shared(xp, x, y, least)
    whole = x[3] * y[3]
    empty = _quotient(xp, whole - union, whole, least)
    covered, share = _quotient(xp, union, whole, least), _quotient(xp, 1.0 + 0.0 * union, whole, least)
    # slopes of 1 − |A ∪ B| / |C|: |A ∪ B| grows with A and shrinks with A ∩ B
    own_x, own_y = own_x + share * y[0], own_y + share * x[0]
    overlap_x, overlap_y = overlap_x - share * y[2], overlap_y - share * x[2]
    around_x, around_y = covered * share * y[3], covered * share * x[3]
    low_x, high_x = _at_corners(xp, x1, x2, u1, u2, x, (-own_x, -overlap_x, around_x, 0.0 * q))
    low_y, high_y = _at_corners(xp, y1, y2, v1, v2, y, (-own_y, -overlap_y, around_y, 0.0 * q))
    unit = xp.maximum(unit, smallest)
    return 1.0 - q + empty, (low_x / unit, low_y / unit, high_x / unit, high_y / unit)


def generalized_iou_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over boxes of 1 − |A ∩ B| / |A ∪ B| + (|C| − |A ∪ B|) / |C|, C = the smallest box around A and B.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side of
            negative length counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 2 (one loss per box for reduction="none"). 1 where C has no area.

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        Two unit squares with a gap of the same size between them: 1 − 0 + (3 − 2) / 3.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> round(float(generalized_iou_loss(a, b)), 6)
        1.333333

    Source:
        H. Rezatofighi et al., Generalized Intersection over Union: A Metric and a Loss for Bounding Box Regression,
        2019. https://doi.org/10.1109/CVPR.2019.00075
    """
    return _generalized.value(predictions, targets, **reduction)


@gradient_of(
    generalized_iou_loss,
    terms=_generalized,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=(
        "non_negative",
        "scale_invariant",
        "symmetric",
        "translation_invariant",
        given("zero_at_equality", "the boxes have an area"),
    ),
)
def generalized_iou_loss_gradient(
    predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(∂(1 − |A ∩ B| / |A ∪ B|) − (∂|A ∪ B| − r ∂|C|) / |C|) / n, r = |A ∪ B| / |C|.

    The first term is that of `iou_loss_gradient`, and ∂|A ∪ B| = ∂|A| − ∂|A ∩ B|. Wrt x₁ and x₂, ∂|C| is minus and plus
    the height of C for a coordinate that bounds C, else 0; wrt y₁ and y₂ the width of C takes the place of the height.

    If a side lies on one line with the target's, the mean of the two one-sided slopes is taken, so that a perfect box
    has the gradient 0. The gradient is also 0 where C has no area.

    Example:
        The boxes cover r = ⅔ of |C| = 3 · 2. Moving x₁ by 1 reduces |A| and |C| by 2: −(−2 + ⅔ · 2) / 6 = 1/9.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, -1.0, 1.0, 1.0]]), np.array([[2.0, -1.0, 3.0, 1.0]])
        >>> generalized_iou_loss_gradient(a, b).round(6).tolist()
        [[0.111111, 0.0, -0.333333, 0.0]]
    """
    return _generalized.gradient(predictions, targets, **reduction)


# --- distance ---------------------------------------------------------------------------------------------------


@_by_corner
def _distance(
    xp: Any,
    x1: Array,
    y1: Array,
    x2: Array,
    y2: Array,
    u1: Array,
    v1: Array,
    u2: Array,
    v2: Array,
    least: Array,
    smallest: Array,
) -> tuple[Array, tuple[Array, ...]]:
    unit = _unit(xp, x1, y1, x2, y2, u1, v1, u2, v2, least)
    x, y = _sides(xp, x1, x2, u1, u2, unit), _sides(xp, y1, y2, v1, v2, unit)
    q, _, own_x, own_y, overlap_x, overlap_y = _shared(xp, x, y, least)
    r, around_x, around_y, offset_x, offset_y = _apart(xp, x, y, least)
    low_x, high_x = _at_corners(xp, x1, x2, u1, u2, x, (-own_x, -overlap_x, around_x, offset_x))
    low_y, high_y = _at_corners(xp, y1, y2, v1, v2, y, (-own_y, -overlap_y, around_y, offset_y))
    unit = xp.maximum(unit, smallest)
    return 1.0 - q + r, (low_x / unit, low_y / unit, high_x / unit, high_y / unit)


def distance_iou_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over boxes of 1 − |A ∩ B| / |A ∪ B| + ρ² / c², ρ between the centres, c the diagonal of the box around both.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side of
            negative length counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 2 (one loss per box for reduction="none").

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        The centres are 2 apart, the box around both is 3 × 1: 1 − 0 + 4 / 10.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> round(float(distance_iou_loss(a, b)), 6)
        1.4

    Source:
        Z. Zheng et al., Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression, 2020.
        https://doi.org/10.1609/aaai.v34i07.6999
    """
    return _distance.value(predictions, targets, **reduction)


@gradient_of(
    distance_iou_loss,
    terms=_distance,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=(
        "non_negative",
        "scale_invariant",
        "symmetric",
        "translation_invariant",
        given("zero_at_equality", "the boxes have an area"),
    ),
)
def distance_iou_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """(∂(1 − |A ∩ B| / |A ∪ B|) + (∂ρ² − r ∂c²) / c²) / n, r = ρ² / c².

    The first term is that of `iou_loss_gradient`. Wrt x₁ and wrt x₂, ∂ρ² is the difference of the centres along x, and
    ∂c² is minus and plus twice the width of the box around both for a coordinate that bounds this box, else 0. Wrt y₁
    and y₂ the same holds along y.

    If a side lies on one line with the target's, the mean of the two one-sided slopes is taken, so that a perfect box
    has the gradient 0. The gradient is also 0 where all corners coincide.

    Example:
        ρ² = 4 and c² = 9 + 1. Moving x₂ moves the centre by half: ∂ρ² = 2 (−2) ½ = −2, and c stays: −2 / 10. Moving x₁
        also reduces c² by 2 · 3: (−2 + 0.4 · 6) / 10.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> distance_iou_loss_gradient(a, b)[0, ::2].round(12).tolist()
        [0.04, -0.2]
    """
    return _distance.gradient(predictions, targets, **reduction)


# --- complete ---------------------------------------------------------------------------------------------------


@_by_corner
def _complete(
    xp: Any,
    x1: Array,
    y1: Array,
    x2: Array,
    y2: Array,
    u1: Array,
    v1: Array,
    u2: Array,
    v2: Array,
    least: Array,
    smallest: Array,
) -> tuple[Array, tuple[Array, ...]]:
    unit = _unit(xp, x1, y1, x2, y2, u1, v1, u2, v2, least)
    x, y = _sides(xp, x1, x2, u1, u2, unit), _sides(xp, y1, y2, v1, v2, unit)
    q, _, own_x, own_y, overlap_x, overlap_y = _shared(xp, x, y, least)
    r, around_x, around_y, offset_x, offset_y = _apart(xp, x, y, least)
    # v from the angle between the two diagonals, times 4/π²; the diagonal of a box of size 0 counts as upright
    squared = x[0] * x[0] + y[0] * y[0]
    height = xp.where(squared == 0.0, 1.0, y[0])
    turn = xp.atan2(x[1] * height - y[1] * x[0], y[1] * height + x[1] * x[0])
    v, by_turn = 0.4052847345693511 * turn * turn, _quotient(xp, -0.8105694691387022 * turn, squared, least)
    alpha = _quotient(xp, v, 1.0 - q + v, least)
    # α v = v² / (1 − q + v) has the slope 2α − α² wrt v, and −α² wrt 1 − q
    by_q, by_v = alpha * alpha - 1.0, (2.0 * alpha - alpha * alpha) * by_turn
    shape_x, shape_y = by_v * y[0], -by_v * x[0]
    low_x, high_x = _at_corners(xp, x1, x2, u1, u2, x, (by_q * own_x + shape_x, by_q * overlap_x, around_x, offset_x))
    low_y, high_y = _at_corners(xp, y1, y2, v1, v2, y, (by_q * own_y + shape_y, by_q * overlap_y, around_y, offset_y))
    unit = xp.maximum(unit, smallest)
    return 1.0 - q + r + alpha * v, (low_x / unit, low_y / unit, high_x / unit, high_y / unit)


def complete_iou_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over boxes of 1 − q + ρ² / c² + α v, v = 4/π² (arctan(w*/h*) − arctan(w/h))², α = v / (1 − q + v).

    q = |A ∩ B| / |A ∪ B|; ρ is the distance of the centres, c the diagonal of the box around both; w and h are the
    sides of A, w* and h* those of B.

    Args:
        predictions: boxes A, (…, 4): x₁, y₁, x₂, y₂ with x₁ ≤ x₂ and y₁ ≤ y₂, in any unit. A side of
            negative length counts as 0.
        targets: boxes B, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per box.

    Returns:
        A scalar between 0 and 2.5 (one loss per box for reduction="none").

    Raises:
        ValueError: the shapes differ, the last axis is not 4 long, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        A line across the middle of a square, which counts as arctan(w/h) = π/2: q = 0, ρ = 0, v = 4/π² (π/4)² = ¼ and
        α = ¼ / (1 + ¼), so 1 + 0.2 · ¼.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 1.0, 2.0, 1.0]]), np.array([[0.0, 0.0, 2.0, 2.0]])
        >>> round(float(complete_iou_loss(a, b)), 6)
        1.05

    Source:
        Z. Zheng et al., Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression, 2020.
        https://doi.org/10.1609/aaai.v34i07.6999
    """
    return _complete.value(predictions, targets, **reduction)


@gradient_of(
    complete_iou_loss,
    terms=_complete,
    domain=_DOMAIN,
    kinks=_kinks,
    properties=(
        "non_negative",
        "scale_invariant",
        "symmetric",
        "translation_invariant",
        given("zero_at_equality", "the boxes have an area"),
    ),
)
def complete_iou_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """(−(1 − α²) ∂q + ∂(ρ² / c²) + (2α − α²) ∂v) / n, ∂v = 8/π² (θ − θ*) (h ∂w − w ∂h) / (w² + h²), θ = arctan(w/h).

    −∂q and ∂(ρ² / c²) are the terms of `distance_iou_loss_gradient`; ∂w is −1 and 1 wrt x₁ and x₂, ∂h wrt y₁ and y₂.

    This is the exact derivative of the value. The paper's implementation holds α fixed, and takes 1 for w² + h² in ∂v.
    If a side lies on one line with the target's, the mean of the two one-sided slopes is taken, so that a perfect box
    has the gradient 0.

    Example:
        Two squares have v = 0, whose slope is 0, too: the gradient is that of `distance_iou_loss`.

        >>> import numpy as np
        >>> a, b = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
        >>> complete_iou_loss_gradient(a, b)[0, ::2].round(12).tolist()
        [0.04, -0.2]
    """
    return _complete.gradient(predictions, targets, **reduction)
