"""Segmentation: how far a predicted mask and its target overlap, for each sample separately."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace, placement
from mithril_losses.catalogue import both_of, gradient_of
from mithril_losses.domains import (
    BINARY,
    NON_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    REAL,
    Choice,
    ClassAxis,
    Integer,
    LabelMaps,
    ProbabilityMaps,
)
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import bounded, one_hot, put_back, stable_order, take_in_order
from mithril_losses.numerics.validation import (
    as_dtype,
    compute_dtype,
    normalize_axis,
    quiet,
    require_one_number,
    require_same_shape,
)
from mithril_losses.templates.classes import read_labels
from mithril_losses.templates.unreduced import Losses, Wanted, unreduced

__all__ = [
    "dice_loss",
    "dice_loss_gradient",
    "dice_loss_value_and_gradient",
    "focal_tversky_loss",
    "focal_tversky_loss_gradient",
    "focal_tversky_loss_value_and_gradient",
    "generalized_dice_loss",
    "generalized_dice_loss_gradient",
    "generalized_dice_loss_value_and_gradient",
    "jaccard_loss",
    "jaccard_loss_gradient",
    "jaccard_loss_value_and_gradient",
    "lovasz_hinge_loss",
    "lovasz_hinge_loss_gradient",
    "lovasz_hinge_loss_value_and_gradient",
    "lovasz_softmax_loss",
    "lovasz_softmax_loss_gradient",
    "lovasz_softmax_loss_value_and_gradient",
    "tversky_loss",
    "tversky_loss_gradient",
    "tversky_loss_value_and_gradient",
]


class _Layout(NamedTuple):
    """Where the axes of masks are."""

    classes: int | None
    batch: int | None  # the first axis beside that of the classes; None if it is the only one: there is one mask
    mask: tuple[int, ...]

    @staticmethod
    def of(ndim: int, class_axis: int | None) -> _Layout:
        classes = None if class_axis is None else normalize_axis("class_axis", class_axis, ndim)
        others = tuple(axis for axis in range(ndim) if axis != classes)
        if not others:
            raise ValueError("masks need at least one axis beside that of the classes")
        return _Layout(classes, others[0] if len(others) > 1 else None, others[1:] or others)


# --- overlap ----------------------------------------------------------------------------------------------------
#
# With I = Σ p t, FP = Σ p (1 − t) and FN = Σ (1 − p) t, all losses of this section are made of one ratio,
#     r = E / (c I + E + s),   E = a FP + b FN:
# Dice has c = 2 and a = b = 1, Jaccard c = a = b = 1, Tversky c = 1. The form 1 − … is avoided because it cancels.


class _Overlap(NamedTuple):
    """Masks and their sums; the axes that were summed over are kept with length 1."""

    xp: Any
    layout: _Layout
    targets: Array
    hits: Array
    false_positives: Array
    false_negatives: Array

    @staticmethod
    def of(predictions: Array, targets: Array, class_axis: int | None) -> _Overlap:
        xp = array_namespace(predictions=predictions, targets=targets)
        require_same_shape(predictions=predictions, targets=targets)
        dtype = compute_dtype(xp, predictions.dtype)
        layout = _Layout.of(len(predictions.shape), class_axis)
        p, t = as_dtype(xp, predictions, dtype), as_dtype(xp, targets, dtype)
        hits = p * t
        sums = (xp.sum(x, axis=layout.mask, keepdims=True) for x in (hits, p - hits, t - hits))
        return _Overlap(xp, layout, t, *sums)

    def pooled(self, weights: Array, axis: int) -> tuple[Array, Array, Array]:
        """Return weighted sums over an axis of hits, false positives and false negatives."""
        sums = (self.hits, self.false_positives, self.false_negatives)
        hits, false_positives, false_negatives = (self.xp.sum(weights * x, axis=axis, keepdims=True) for x in sums)
        return hits, false_positives, false_negatives

    def losses(self, values: Array, at_zero: Array, at_one: Array, pooled: tuple[int, ...] = ()) -> Losses:
        """Return losses whose slope, the derivative wrt a prediction, is `at_zero` + t · `at_one`."""
        summed = tuple(sorted(self.layout.mask + pooled))

        def slopes() -> dict[str, Array]:
            zero, one = (bounded(self.xp, x, x.dtype) for x in (at_zero, at_one))  # masks of subnormal numbers overflow
            return {"predictions": zero + one * self.targets}

        return Losses(self.xp.squeeze(values, axis=summed), slopes, summed)


def _ratio(
    xp: Any, sums: tuple[Array, Array, Array], share: float, alpha: Any, beta: Any, smooth: Any
) -> tuple[Array, Array, Array]:
    """Return r, its derivative wrt p where t = 0, and what t = 1 adds to that derivative; all 0 for empty masks."""
    hits, false_positives, false_negatives = sums
    errors, agreement = alpha * false_positives + beta * false_negatives, share * hits + smooth
    whole = errors + agreement
    divisor = xp.where(whole == 0, math.inf, whole)
    ratio, rest = errors / divisor, agreement / divisor
    return ratio, alpha * rest / divisor, -(share * ratio + (alpha + beta) * rest) / divisor


def _overlap_losses(
    predictions: Array,
    targets: Array,
    class_axis: int | None,
    smooth: float,
    alpha: float = 1.0,
    beta: float = 1.0,
    share: float = 1.0,
    gamma: float | None = None,
) -> Losses:
    """r, or r^γ."""
    overlap = _Overlap.of(predictions, targets, class_axis)
    xp, dtype = overlap.xp, overlap.targets.dtype
    smooth = require_one_number(xp, "smooth", smooth, dtype)
    alpha, beta = require_one_number(xp, "alpha", alpha, dtype), require_one_number(xp, "beta", beta, dtype)
    sums = (overlap.hits, overlap.false_positives, overlap.false_negatives)
    ratio, at_zero, at_one = _ratio(xp, sums, share, alpha, beta, smooth)
    if gamma is None:
        return overlap.losses(ratio, at_zero, at_one)
    gamma = require_one_number(xp, "gamma", gamma, dtype)
    perfect = ratio == 0
    positive = xp.where(perfect, 1.0, ratio)
    power = xp.where(perfect, 0.0, positive**gamma)
    # γ T^(γ−1) at T = 0 is 1 for γ = 1 and 0 for γ > 1; for γ < 1 there is no derivative, and 0 is used
    at_perfect = float(gamma == 1.0) if isinstance(gamma, float) else as_dtype(xp, gamma == 1.0, dtype)
    factor = xp.where(perfect, at_perfect, gamma * power / positive)
    return overlap.losses(power, factor * at_zero, factor * at_one)


_OF_LOGITS = "take the sigmoid of logits, or lovasz_hinge_loss, which takes logits"
_MASKS: dict[str, Any] = {
    "predictions": PROBABILITY.suggesting(_OF_LOGITS),
    "targets": PROBABILITY.suggesting("masks hold 0 and 1; of labels from 0 on, take the one-hot masks"),
}
_MAPS = ProbabilityMaps(instead="take the softmax of logits")
_TARGET_MAPS = ProbabilityMaps(instead="of labels, take the one-hot maps")
_SMOOTH: dict[str, Any] = {"smooth": NON_NEGATIVE, "class_axis": ClassAxis(or_none=True)}


@unreduced(**_MASKS, **_SMOOTH)
def _dice(predictions: Array, targets: Array, smooth: float, class_axis: int | None, wanted: Wanted) -> Losses:
    return _overlap_losses(predictions, targets, class_axis, smooth, share=2.0)


def dice_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (2 Σ p t + s) / (Σ p + Σ t + s).

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the
            loss 0.

    Raises:
        ValueError: the shapes differ, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        Σ p t = 1, Σ p = 2 and Σ t = 1: 1 − (2 + 1) / (3 + 1).

        >>> import numpy as np
        >>> float(dice_loss(np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 0]])))
        0.25

    Source:
        F. Milletari et al., V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, 2016,
        which has Σ p² + Σ t² in place of Σ p + Σ t. https://doi.org/10.1109/3DV.2016.79
    """
    return _dice.value(predictions, targets, smooth, class_axis, **reduction)


@gradient_of(dice_loss, terms=_dice, properties=("non_negative", "symmetric"))
def dice_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−(2 t (Σ p + Σ t + s) − (2 Σ p t + s)) / (Σ p + Σ t + s)² / B.

    Example:
        −(2 t · 4 − 3) / 16: −5/16 where t = 1, else 3/16.

        >>> import numpy as np
        >>> dice_loss_gradient(np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 0]])).tolist()
        [[-0.3125, 0.1875, 0.1875, 0.1875]]
    """
    return _dice.gradient(predictions, targets, smooth, class_axis, **reduction)


dice_loss_value_and_gradient = both_of(dice_loss_gradient)


@unreduced(**_MASKS, **_SMOOTH)
def _jaccard(predictions: Array, targets: Array, smooth: float, class_axis: int | None, wanted: Wanted) -> Losses:
    return _overlap_losses(predictions, targets, class_axis, smooth)


def jaccard_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (Σ p t + s) / (Σ p + Σ t − Σ p t + s).

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the
            loss 0.

    Raises:
        ValueError: the shapes differ, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        Σ p t = 1 and Σ p + Σ t − Σ p t = 2: 1 − (1 + 1) / (2 + 1).

        >>> import numpy as np
        >>> round(float(jaccard_loss(np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 0]]))), 6)
        0.333333

    Source:
        M. A. Rahman and Y. Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation,
        2016. https://doi.org/10.1007/978-3-319-50835-1_22
    """
    return _jaccard.value(predictions, targets, smooth, class_axis, **reduction)


@gradient_of(jaccard_loss, terms=_jaccard, properties=("non_negative", "symmetric"))
def jaccard_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−(t (U + I + 2 s) − (I + s)) / (U + s)² / B, I = Σ p t, U = Σ p + Σ t − I.

    Example:
        I = 1 and U = 2 without smoothing: −(3 t − 1) / 4.

        >>> import numpy as np
        >>> jaccard_loss_gradient(np.array([[1.0, 0.5, 0.5]]), np.array([[1, 0, 0]]), smooth=0.0).tolist()
        [[-0.5, 0.25, 0.25]]
    """
    return _jaccard.gradient(predictions, targets, smooth, class_axis, **reduction)


jaccard_loss_value_and_gradient = both_of(jaccard_loss_gradient)


@unreduced(**_MASKS, alpha=NON_NEGATIVE, beta=NON_NEGATIVE, **_SMOOTH)
def _tversky(
    predictions: Array,
    targets: Array,
    alpha: float,
    beta: float,
    smooth: float,
    class_axis: int | None,
    wanted: Wanted,
) -> Losses:
    return _overlap_losses(predictions, targets, class_axis, smooth, alpha, beta)


def tversky_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (I + s) / (I + a FP + b FN + s), I = Σ p t, FP = Σ p (1 − t), FN = Σ (1 − p) t.

    a = b = ½ is Dice (with 2 s for s), a = b = 1 Jaccard.

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type.
        alpha: a ≥ 0, what a false positive costs.
        beta: b ≥ 0, what a false negative costs.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the
            loss 0.

    Raises:
        ValueError: the shapes differ, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        I = 1, FP = 1 and FN = 1: 1 − (1 + 1) / (1 + 0.3 + 0.7 + 1).

        >>> import numpy as np
        >>> round(float(tversky_loss(np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 1]]))), 6)
        0.333333

    Source:
        S. S. M. Salehi et al., Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks,
        2017. https://doi.org/10.1007/978-3-319-67389-9_44
    """
    return _tversky.value(predictions, targets, alpha, beta, smooth, class_axis, **reduction)


@gradient_of(tversky_loss, terms=_tversky, properties=("non_negative",))
def tversky_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """((I + s) (a (1 − t) − b t) − E t) / (I + E + s)² / B, E = a FP + b FN.

    Example:
        I + s = 2 and E = 1: (2 (0.3 (1 − t) − 0.7 t) − t) / 9.

        >>> import numpy as np
        >>> tversky_loss_gradient(np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 1]])).round(6).tolist()
        [[-0.266667, 0.066667, 0.066667, -0.266667]]
    """
    return _tversky.gradient(predictions, targets, alpha, beta, smooth, class_axis, **reduction)


tversky_loss_value_and_gradient = both_of(tversky_loss_gradient)


def _focal_tversky_kinks(
    predictions: Array, targets: Array, class_axis: int | None, **options: Any
) -> tuple[Array, ...]:
    """Return the loss of each mask, repeated for each of its elements: the power γ < 1 has no derivative at 0."""
    losses = _overlap_losses(predictions, targets, class_axis, **options)
    xp, values = array_namespace(predictions=predictions), losses.values
    for axis in losses.summed or ():
        values = xp.expand_dims(values, axis=axis)
    return (xp.broadcast_to(values, tuple(predictions.shape)),)


@unreduced(kinks=_focal_tversky_kinks, **_MASKS, gamma=POSITIVE, alpha=NON_NEGATIVE, beta=NON_NEGATIVE, **_SMOOTH)
def _focal_tversky(
    predictions: Array,
    targets: Array,
    gamma: float,
    alpha: float,
    beta: float,
    smooth: float,
    class_axis: int | None,
    wanted: Wanted,
) -> Losses:
    return _overlap_losses(predictions, targets, class_axis, smooth, alpha, beta, gamma=gamma)


def focal_tversky_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    gamma: float = 0.75,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of (1 − (I + s) / (I + a FP + b FN + s))^γ, I = Σ p t, FP = Σ p (1 − t), FN = Σ (1 − p) t.

    The paper writes 1/γ for γ, and recommends ¾.

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type.
        gamma: γ > 0. A γ below 1 gives more weight to masks that are nearly right.
        alpha: a ≥ 0, what a false positive costs.
        beta: b ≥ 0, what a false negative costs.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the
            loss 0.

    Raises:
        ValueError: the shapes differ, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        The Tversky loss of one mask is ⅓, as there.

        >>> import numpy as np
        >>> p, t = np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 1]])
        >>> round(float(focal_tversky_loss(p, t, gamma=2.0)), 6)
        0.111111

    Source:
        N. Abraham and N. M. Khan, A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion
        Segmentation, 2019. https://doi.org/10.1109/ISBI.2019.8759329
    """
    return _focal_tversky.value(predictions, targets, gamma, alpha, beta, smooth, class_axis, **reduction)


@gradient_of(focal_tversky_loss, terms=_focal_tversky, properties=("non_negative",))
def focal_tversky_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    gamma: float = 0.75,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """γ T^(γ−1) ∂T / B, T the `tversky_loss` of a mask; for γ < 1, 0 at T = 0.

    Example:
        2 · ⅓ times the gradient of `tversky_loss`.

        >>> import numpy as np
        >>> p, t = np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 1]])
        >>> focal_tversky_loss_gradient(p, t, gamma=2.0).round(6).tolist()
        [[-0.177778, 0.044444, 0.044444, -0.177778]]
    """
    return _focal_tversky.gradient(predictions, targets, gamma, alpha, beta, smooth, class_axis, **reduction)


focal_tversky_loss_value_and_gradient = both_of(focal_tversky_loss_gradient)


# --- generalized Dice -------------------------------------------------------------------------------------------


@unreduced(
    predictions=_MAPS,
    targets=_TARGET_MAPS,
    smooth=NON_NEGATIVE,
    class_axis=ClassAxis(),
)
def _generalized_dice(predictions: Array, targets: Array, smooth: float, class_axis: int, wanted: Wanted) -> Losses:
    overlap = _Overlap.of(predictions, targets, class_axis)
    xp, axis = overlap.xp, overlap.layout.classes
    assert axis is not None
    smooth = require_one_number(xp, "smooth", smooth, overlap.targets.dtype)
    size = overlap.hits + overlap.false_negatives
    present = size > 0
    smallest = xp.min(xp.where(present, size, float("inf")), axis=axis, keepdims=True)
    weights = xp.where(present, smallest / xp.where(present, size, 1.0), 1.0) ** 2
    ratio, at_zero, at_one = _ratio(xp, overlap.pooled(weights, axis), 2.0, 1.0, 1.0, smooth)
    return overlap.losses(ratio, weights * at_zero, weights * at_one, pooled=(axis,))


def generalized_dice_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int = -1,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over samples of 1 − (2 Σ_c w_c Σ p t + s) / (Σ_c w_c (Σ p + Σ t) + s), w_c = (min_k n_k / n_c)², n_c = Σ t.

    The weight of a class is the inverse square of its size, as in the paper. Sizes are relative to the smallest class
    that is present, so s is a number of elements of that class. An absent class has the weight of the smallest one.

    Args:
        predictions: p in [0, 1], masks (batch, …, classes), samples on the first axis. An array of one axis
            beside the classes is one sample.
        targets: t in [0, 1], the same shape, of any real type.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes.
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar between 0 and 1 (one loss per sample for reduction="none"). Masks that are all empty
            have the loss 0.

    Raises:
        ValueError: the shapes differ, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        Sizes 2 and 1 give the weights ¼ and 1; Σ p t = 2 and ½, Σ p + Σ t = 4.5 and 1.5:
        1 − (2 (½ + ½) + 0) / (1.125 + 1.5).

        >>> import numpy as np
        >>> p = np.array([[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]])
        >>> t = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> round(float(generalized_dice_loss(p, t, smooth=0.0)), 6)
        0.238095

    Source:
        C. H. Sudre et al., Generalised Dice Overlap as a Deep Learning Loss Function for Highly Unbalanced
        Segmentations, 2017. https://doi.org/10.1007/978-3-319-67558-9_28
    """
    return _generalized_dice.value(predictions, targets, smooth, class_axis, **reduction)


@gradient_of(generalized_dice_loss, terms=_generalized_dice, properties=("non_negative",))
def generalized_dice_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int = -1,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−w_c (2 t D − (2 Σ_c w_c Σ p t + s)) / D² / B, D = Σ_c w_c (Σ p + Σ t) + s.

    Example:
        D = 2.625: −¼ (2 t D − 2) / D² for the first class, four times as much for the second.

        >>> import numpy as np
        >>> p = np.array([[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]])
        >>> t = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> generalized_dice_loss_gradient(p, t, smooth=0.0)[0, 2].round(6).tolist()
        [0.072562, -0.471655]
    """
    return _generalized_dice.gradient(predictions, targets, smooth, class_axis, **reduction)


generalized_dice_loss_value_and_gradient = both_of(generalized_dice_loss_gradient)


# --- Lovász -----------------------------------------------------------------------------------------------------
#
# The Jaccard loss is a function of the set of wrong pixels. Lovász's extension also takes real errors: pixels join the
# set in descending order of their errors, and each error is weighted by what its pixel adds to the loss.


def _jaccard_steps(xp: Any, errors: Array, foreground: Array) -> Array:
    """Return what each pixel (on the last axis) adds to the Jaccard loss; equal errors keep the order of the pixels."""
    order = stable_order(xp, -errors)
    foreground = take_in_order(xp, xp.astype(foreground, xp.int32), order)
    found = xp.cumulative_sum(foreground, axis=-1)
    joined = xp.arange(1, errors.shape[-1] + 1, dtype=found.dtype, **placement(errors))
    total = found[..., -1:]
    union = as_dtype(xp, total + joined - found, errors.dtype)
    left = as_dtype(xp, total - found, errors.dtype)
    # a foreground pixel removes 1 from the intersection, a background pixel adds 1 to the union
    before = xp.where(union == 1, 1.0, union - 1.0)
    by_background = xp.where(union == 1, 1.0, left / (before * union))
    return put_back(xp, xp.where(foreground == 1, 1.0 / union, by_background), order)


Classes = Literal["present", "all"]
_CLASSES = Choice(("present", "all"))


class _Pixels(NamedTuple):
    """Class probabilities (samples, classes, pixels) with their class indices (samples, pixels)."""

    xp: Any
    layout: _Layout
    shape: tuple[int, ...]  # of the predictions, with the class axis moved behind the sample axis
    predictions: Array
    labels: Array
    kept: Array | None
    illegal: Array | None

    @staticmethod
    def of(predictions: Array, targets: Array, class_axis: int, ignore_index: int | None) -> _Pixels:
        xp = array_namespace(predictions=predictions, targets=targets)
        p = as_dtype(xp, predictions, compute_dtype(xp, predictions.dtype))
        layout = _Layout.of(len(p.shape), class_axis)
        assert layout.classes is not None
        without = tuple(n for axis, n in enumerate(p.shape) if axis != layout.classes)
        if tuple(targets.shape) != without:
            raise ValueError(
                f"targets must be class indices of shape {without} for predictions of shape {tuple(p.shape)}, "
                f"got {tuple(targets.shape)}"
            )
        labels, kept, illegal = read_labels(xp, targets, p.shape[layout.classes], ignore_index)
        moved = xp.moveaxis(p, layout.classes, 0 if layout.batch is None else 1)
        samples, pixels = (1, without[0]) if layout.batch is None else (without[0], math.prod(without[1:]))
        rows = (None if x is None else xp.reshape(x, (samples, pixels)) for x in (labels, kept, illegal))
        flat = xp.reshape(moved, (samples, p.shape[layout.classes], pixels))
        return _Pixels(xp, layout, tuple(moved.shape), flat, *rows)

    def back(self, x: Array) -> Array:
        """Return an array (samples, classes, pixels) in the layout of the predictions."""
        return self.xp.moveaxis(
            self.xp.reshape(x, self.shape), 0 if self.layout.batch is None else 1, self.layout.classes
        )

    def errors(self) -> tuple[Array, Array]:
        """Return |[label = c] − p_c| and [label = c]; both are 0 at ignored pixels."""
        xp, classes = self.xp, self.predictions.shape[1]
        foreground = one_hot(xp, self.labels, classes, 1, self.predictions)
        errors = xp.abs(foreground - self.predictions)
        if self.kept is None:
            return errors, foreground
        kept = xp.expand_dims(self.kept, axis=1)
        return xp.where(kept, errors, 0.0), xp.where(kept, foreground, 0.0)


def _lovasz_softmax_kinks(
    predictions: Array, targets: Array, class_axis: int, ignore_index: int | None, **_: Any
) -> tuple[Array, ...]:
    """Return what vanishes where a pixel's error is 0 or equals the error of another pixel."""
    pixels = _Pixels.of(predictions, targets, class_axis, ignore_index)
    errors, _ = pixels.errors()
    if pixels.kept is not None:
        errors = pixels.xp.where(pixels.xp.expand_dims(pixels.kept, axis=1), errors, float("inf"))
    with quiet(pixels.xp):  # ∞ − ∞ at ignored pixels
        return pixels.back(errors), pixels.back(_gap(pixels.xp, errors))


def _gap(xp: Any, errors: Array) -> Array:
    """Return the distance of each error to the nearest error of another pixel."""
    gaps = xp.abs(xp.expand_dims(errors, axis=-1) - xp.expand_dims(errors, axis=-2))
    own = xp.eye(errors.shape[-1], dtype=errors.dtype, **placement(errors)) > 0
    return xp.min(xp.where(own | xp.isnan(gaps), float("inf"), gaps), axis=-1)


@unreduced(
    by_numpy=True,
    check=lambda predictions, targets, class_axis, classes, ignore_index: _Pixels.of(
        predictions, targets, class_axis, ignore_index
    ),
    kinks=_lovasz_softmax_kinks,
    predictions=_MAPS,
    targets=LabelMaps(),
    class_axis=ClassAxis(),
    classes=_CLASSES,
    ignore_index=Integer(),
)
def _lovasz_softmax(
    predictions: Array,
    targets: Array,
    class_axis: int,
    classes: Classes,
    ignore_index: int | None,
    wanted: Wanted,
) -> Losses:
    pixels = _Pixels.of(predictions, targets, class_axis, ignore_index)
    xp, layout = pixels.xp, pixels.layout
    errors, foreground = pixels.errors()
    steps = _jaccard_steps(xp, errors, foreground)
    counted = xp.ones_like(errors[..., :1])
    if classes == "present":
        counted = as_dtype(xp, xp.any(foreground > 0, axis=-1, keepdims=True), errors.dtype)
    total = xp.sum(counted, axis=1, keepdims=True)
    steps = steps * counted / xp.where(total == 0, 1.0, total)
    if pixels.illegal is not None:
        steps = xp.where(xp.any(pixels.illegal, axis=-1)[:, None, None], float("nan"), steps)
    values = xp.sum(xp.sum(steps * errors, axis=-1), axis=-1)

    def slopes() -> dict[str, Array]:
        # an error of 0 has the slope 0; so do ignored pixels, whose errors are 0
        signs = xp.sign(xp.where(errors == 0, 0.0, pixels.predictions - foreground))
        return {"predictions": pixels.back(steps * signs)}

    summed = tuple(axis for axis in range(len(predictions.shape)) if axis != layout.batch)
    return Losses(xp.reshape(values, () if layout.batch is None else (values.shape[0],)), slopes, summed)


def lovasz_softmax_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    classes: Classes = "present",
    ignore_index: int | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over samples and their classes of Σ_k |[y = c] − p_c|₍ₖ₎ (J_k − J_{k−1}), errors in descending order.

    J_k is the Jaccard loss of a mask that is wrong at exactly the k pixels with the largest errors. If all predictions
    are 0 or 1, this is the Jaccard loss itself.

    Args:
        predictions: p in [0, 1], class probabilities (batch, …, classes). An array of one axis beside the classes is
            one sample.
        targets: y, class indices (integers, the predictions' shape without the class axis).
        class_axis: the axis of the classes.
        classes: average over the classes that are "present" in a sample's targets, or over "all".
        ignore_index: pixels with this label are ignored.
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar between 0 and 1 (one loss per sample for reduction="none"). A sample without a class has loss 0.

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or a keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the sample of such a label becomes NaN instead.
        TypeError: predictions are not floating point, or class indices are not integers.

    Example:
        Both classes have the errors 0.5 at the second pixel, which is class 1, and 0 at the first. For class 1 a missed
        pixel is its whole mask, J₁ = 1, for class 0 it makes a mask twice too large, J₁ = ½: ½ (0.5 · ½ + 0.5 · 1).

        >>> import numpy as np
        >>> p = np.array([[[1.0, 0.0], [0.5, 0.5]]])
        >>> float(lovasz_softmax_loss(p, np.array([[0, 1]])))
        0.375

    Source:
        M. Berman et al., The Lovász-Softmax Loss: A Tractable Surrogate for the Optimization of the
        Intersection-Over-Union Measure in Neural Networks, 2018. https://doi.org/10.1109/CVPR.2018.00464
    """
    return _lovasz_softmax.value(predictions, targets, class_axis, classes, ignore_index, **reduction)


@gradient_of(
    lovasz_softmax_loss,
    terms=_lovasz_softmax,
    properties=("convex", "non_negative"),
)
def lovasz_softmax_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    classes: Classes = "present",
    ignore_index: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(J_k − J_{k−1}) sign(p_c − [y = c]) / (C B) at the pixel with the k-th largest error of class c.

    C is the number of classes in the average: those present in the targets of the sample, or all. Pixels with the same
    error keep their order in the array.

    Example:
        The first pixel is right, so only the second one has slopes: ½ · ½ for class 0 and ½ · 1 for class 1.

        >>> import numpy as np
        >>> p = np.array([[[1.0, 0.0], [0.5, 0.5]]])
        >>> lovasz_softmax_loss_gradient(p, np.array([[0, 1]])).tolist()
        [[[0.0, 0.0], [0.25, -0.5]]]
    """
    return _lovasz_softmax.gradient(predictions, targets, class_axis, classes, ignore_index, **reduction)


lovasz_softmax_loss_value_and_gradient = both_of(lovasz_softmax_loss_gradient)


def _hinge_errors(xp: Any, logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return 1 − s z and s = ±1, NaN for a label that is neither 0 nor 1."""
    z = as_dtype(xp, logits, compute_dtype(xp, logits.dtype, "logits"))
    BINARY.check("targets", targets)
    signs = 2.0 * BINARY.or_nan(xp, as_dtype(xp, targets, z.dtype)) - 1.0
    return 1.0 - signs * z, signs


def _lovasz_hinge_kinks(logits: Array, targets: Array) -> tuple[Array, ...]:
    """Return what vanishes where a pixel's error is 0 or equals the error of another pixel of its mask."""
    xp = array_namespace(logits=logits, targets=targets)
    errors, _ = _hinge_errors(xp, logits, targets)
    rows = xp.reshape(errors, (1, -1) if len(errors.shape) == 1 else (errors.shape[0], -1))
    return errors, xp.reshape(_gap(xp, rows), tuple(errors.shape))


@unreduced(by_numpy=True, kinks=_lovasz_hinge_kinks, logits=REAL, targets=BINARY)
def _lovasz_hinge(logits: Array, targets: Array, wanted: Wanted) -> Losses:
    xp = array_namespace(logits=logits, targets=targets)
    require_same_shape(logits=logits, targets=targets)
    layout = _Layout.of(len(logits.shape), None)
    errors, signs = _hinge_errors(xp, logits, targets)
    flat = (1, logits.shape[0]) if layout.batch is None else (logits.shape[0], math.prod(logits.shape[1:]))
    steps = _jaccard_steps(xp, xp.reshape(errors, flat), xp.reshape(signs, flat) > 0)
    # a sample with a label that is neither 0 nor 1 has no valid step
    unknown = xp.any(xp.isnan(xp.reshape(signs, flat)), axis=-1, keepdims=True)
    steps = xp.reshape(xp.where(unknown, float("nan"), steps), tuple(logits.shape))
    values = xp.sum(steps * xp.maximum(errors, 0.0), axis=layout.mask)
    return Losses(values, lambda: {"logits": xp.where(errors > 0, -signs * steps, 0.0 * steps)}, layout.mask)


def lovasz_hinge_loss(logits: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over masks of Σ_k max(0, 1 − s z)₍ₖ₎ (J_k − J_{k−1}), s = 2 t − 1, errors in descending order.

    J_k is the Jaccard loss of a mask that is wrong at the k pixels with the largest errors.

    Args:
        logits: z, scores of the foreground (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t, 0 or 1, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar (one loss per mask for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither 0 nor 1, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the mask of such a target becomes NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        Errors 2 (background, J₁ = ½) and 1 (foreground, J₂ = 1): 2 · ½ + 1 · ½.

        >>> import numpy as np
        >>> float(lovasz_hinge_loss(np.array([[0.0, 1.0]]), np.array([[1, 0]])))
        1.5

    Source:
        J. Yu and M. Blaschko, The Lovász Hinge: A Novel Convex Surrogate for Submodular Losses, 2015.
        https://arxiv.org/abs/1512.07797
    """
    return _lovasz_hinge.value(logits, targets, **reduction)


@gradient_of(lovasz_hinge_loss, terms=_lovasz_hinge, properties=("convex", "non_negative"))
def lovasz_hinge_loss_gradient(logits: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−s (J_k − J_{k−1}) / B at the pixel with the k-th largest error, where that is positive; 0 elsewhere.

    Pixels with the same error keep their order in the array.

    Example:
        >>> import numpy as np
        >>> lovasz_hinge_loss_gradient(np.array([[0.0, 1.0]]), np.array([[1, 0]])).tolist()
        [[-0.5, 0.5]]
    """
    return _lovasz_hinge.gradient(logits, targets, **reduction)


lovasz_hinge_loss_value_and_gradient = both_of(lovasz_hinge_loss_gradient)
