"""Segmentation: how far a predicted mask and its target overlap, for each sample separately."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import (
    BINARY,
    FLAG,
    MASK_TARGETS,
    NON_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    REAL,
    Choice,
    ClassAxis,
    Integer,
    LabelMaps,
    ProbabilityMaps,
    TargetMaps,
)
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.validation import as_dtype, compute_dtype, quiet, require_same_shape
from mithril_losses.templates.lovasz import (
    Pixels,
    check_label_maps,
    error_gaps,
    jaccard_steps,
    lovasz_losses,
    tied_errors,
)
from mithril_losses.templates.masks import (
    COSTS,
    MASK_OPTIONS,
    OF_CLASSES,
    Layout,
    Masks,
    check_targets,
    mask_masses,
    read_targets,
)
from mithril_losses.templates.overlap import overlap_losses, pooled_losses
from mithril_losses.templates.unreduced import Losses, Wanted, no_curvature, unreduced

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


Classes = Literal["present", "all"]


def _masks(on_logits: str) -> dict[str, Any]:
    """Return the domains of masks, with the name of the loss on logits."""
    return {"predictions": PROBABILITY.suggesting(f"for logits there is {on_logits}"), "targets": MASK_TARGETS}


def _check(predictions: Array, targets: Array, **options: Any) -> None:
    """Raise for an illegal label, which a trace cannot see."""
    axis, ignored = options["class_axis"], options["ignore_index"]
    check_targets(predictions, targets, axis, ignored, exclusive=False, name="predictions")


@unreduced(curved=True, check=_check, mass=mask_masses, **_masks("dice_loss_with_logits"), **MASK_OPTIONS)
def _dice(
    predictions: Array,
    targets: Array,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of(predictions, targets, class_axis, class_weights, ignore_index, pool_batch)
    return overlap_losses(masks, smooth, share=2.0)


def dice_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (2 Σ p t + s) / (Σ p + Σ t + s).

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type; integers are 0 or 1. Or class indices (integers, the
            shape without the class axis).
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
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
    return _dice.value(predictions, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction)


@gradient_of(dice_loss, terms=_dice, properties=("non_negative", given("symmetric", ignore_index=None)))
def dice_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−(2 t (Σ p + Σ t + s) − (2 Σ p t + s)) / (Σ p + Σ t + s)² / B.

    Example:
        −(2 t · 4 − 3) / 16: −5/16 where t = 1, else 3/16.

        >>> import numpy as np
        >>> dice_loss_gradient(np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 0]])).tolist()
        [[-0.3125, 0.1875, 0.1875, 0.1875]]
    """
    return _dice.gradient(
        predictions, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction
    )


dice_loss_value_and_gradient = both_of(dice_loss_gradient)


@unreduced(curved=True, check=_check, mass=mask_masses, **_masks("jaccard_loss_with_logits"), **MASK_OPTIONS)
def _jaccard(
    predictions: Array,
    targets: Array,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of(predictions, targets, class_axis, class_weights, ignore_index, pool_batch)
    return overlap_losses(masks, smooth)


def jaccard_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (Σ p t + s) / (Σ p + Σ t − Σ p t + s).

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type; integers are 0 or 1. Or class indices (integers, the
            shape without the class axis).
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
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
    return _jaccard.value(
        predictions, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction
    )


@gradient_of(jaccard_loss, terms=_jaccard, properties=("non_negative", given("symmetric", ignore_index=None)))
def jaccard_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−(t (U + I + 2 s) − (I + s)) / (U + s)² / B, I = Σ p t, U = Σ p + Σ t − I.

    Example:
        I = 1 and U = 2 without smoothing: −(3 t − 1) / 4.

        >>> import numpy as np
        >>> jaccard_loss_gradient(np.array([[1.0, 0.5, 0.5]]), np.array([[1, 0, 0]]), smooth=0.0).tolist()
        [[-0.5, 0.25, 0.25]]
    """
    return _jaccard.gradient(
        predictions, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction
    )


jaccard_loss_value_and_gradient = both_of(jaccard_loss_gradient)


@unreduced(curved=True, check=_check, mass=mask_masses, **_masks("tversky_loss_with_logits"), **COSTS, **MASK_OPTIONS)
def _tversky(
    predictions: Array,
    targets: Array,
    alpha: float,
    beta: float,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of(predictions, targets, class_axis, class_weights, ignore_index, pool_batch)
    return overlap_losses(masks, smooth, alpha, beta)


def tversky_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (I + s) / (I + a FP + b FN + s), I = Σ p t, FP = Σ p (1 − t), FN = Σ (1 − p) t.

    a = b = ½ is Dice (with 2 s for s), a = b = 1 Jaccard.

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type; integers are 0 or 1. Or class indices (integers, the
            shape without the class axis).
        alpha: a ≥ 0, what a false positive costs.
        beta: b ≥ 0, what a false negative costs.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
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
    return _tversky.value(
        predictions, targets, alpha, beta, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction
    )


@gradient_of(tversky_loss, terms=_tversky, properties=("non_negative",))
def tversky_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """((I + s) (a (1 − t) − b t) − E t) / (I + E + s)² / B, E = a FP + b FN.

    Example:
        I + s = 2 and E = 1: (2 (0.3 (1 − t) − 0.7 t) − t) / 9.

        >>> import numpy as np
        >>> tversky_loss_gradient(np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 1]])).round(6).tolist()
        [[-0.266667, 0.066667, 0.066667, -0.266667]]
    """
    return _tversky.gradient(
        predictions, targets, alpha, beta, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction
    )


tversky_loss_value_and_gradient = both_of(tversky_loss_gradient)


def _focal_tversky_kinks(predictions: Array, targets: Array, **options: Any) -> tuple[Array, ...]:
    """Return the loss of each mask, repeated for each of its elements: the power γ < 1 has no derivative at 0."""
    losses = _focal_tversky.losses(predictions, targets, **options, wanted=Wanted())
    xp, values = array_namespace(predictions=predictions), losses.values
    for axis in losses.summed or ():
        values = xp.expand_dims(values, axis=axis)
    return (xp.broadcast_to(values, tuple(predictions.shape)),)


@unreduced(
    curved=True,
    kinks=_focal_tversky_kinks,
    check=_check,
    mass=mask_masses,
    **_masks("focal_tversky_loss_with_logits"),
    gamma=POSITIVE,
    **COSTS,
    **MASK_OPTIONS,
)
def _focal_tversky(
    predictions: Array,
    targets: Array,
    gamma: float,
    alpha: float,
    beta: float,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of(predictions, targets, class_axis, class_weights, ignore_index, pool_batch)
    return overlap_losses(masks, smooth, alpha, beta, gamma=gamma)


def focal_tversky_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    gamma: float = 0.75,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of (1 − (I + s) / (I + a FP + b FN + s))^γ, I = Σ p t, FP = Σ p (1 − t), FN = Σ (1 − p) t.

    The paper writes 1/γ for γ, and recommends ¾.

    Args:
        predictions: p in [0, 1], masks (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the same shape, of any real type; integers are 0 or 1. Or class indices (integers, the
            shape without the class axis).
        gamma: γ > 0. A γ below 1 gives more weight to masks that are nearly right.
        alpha: a ≥ 0, what a false positive costs.
        beta: b ≥ 0, what a false negative costs.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes. There is then one mask, and one loss, for each sample and class. An array
            with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        The Tversky loss of the mask is ⅓, as in the example of `tversky_loss`; its square is 1/9.

        >>> import numpy as np
        >>> p, t = np.array([[1.0, 0.5, 0.5, 0.0]]), np.array([[1, 0, 0, 1]])
        >>> round(float(focal_tversky_loss(p, t, gamma=2.0)), 6)
        0.111111

    Source:
        N. Abraham and N. M. Khan, A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion
        Segmentation, 2019. https://doi.org/10.1109/ISBI.2019.8759329
    """
    return _focal_tversky.value(
        predictions,
        targets,
        gamma,
        alpha,
        beta,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        **reduction,
    )


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
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
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
    return _focal_tversky.gradient(
        predictions,
        targets,
        gamma,
        alpha,
        beta,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        **reduction,
    )


focal_tversky_loss_value_and_gradient = both_of(focal_tversky_loss_gradient)


# --- generalized Dice -------------------------------------------------------------------------------------------


@unreduced(
    curved=True,
    check=_check,
    predictions=ProbabilityMaps(instead="for logits there is generalized_dice_loss_with_logits"),
    targets=TargetMaps(),
    smooth=NON_NEGATIVE,
    class_axis=ClassAxis(),
    **OF_CLASSES,
)
def _generalized_dice(
    predictions: Array,
    targets: Array,
    smooth: float,
    class_axis: int,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of(predictions, targets, class_axis, class_weights, ignore_index, pool_batch)
    return pooled_losses(masks, smooth)


def generalized_dice_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over samples of 1 − (2 Σ_c w_c Σ p t + s) / (Σ_c w_c (Σ p + Σ t) + s), w_c = (min_k n_k / n_c)², n_c = Σ t.

    The weight of a class is the inverse square of its size, as in the paper. Sizes are relative to the smallest class
    that is present, so s is a number of elements of that class. An absent class has the weight of the smallest one.

    Args:
        predictions: p in [0, 1], masks (batch, …, classes), samples on the first axis. An array of one axis
            beside the classes is one sample.
        targets: t in [0, 1], the same shape, of any real type; integers are 0 or 1. Or class indices (integers, the
            shape without the class axis).
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes.
        class_weights: a further factor of w_c, shape (C,).
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss.
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar between 0 and 1 (one loss per sample for reduction="none"). Masks that are all empty
        have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, a sample with an illegal
            label becomes NaN instead.
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
    return _generalized_dice.value(
        predictions, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction
    )


@gradient_of(generalized_dice_loss, terms=_generalized_dice, properties=("non_negative",))
def generalized_dice_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
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
    return _generalized_dice.gradient(
        predictions, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, **reduction
    )


generalized_dice_loss_value_and_gradient = both_of(generalized_dice_loss_gradient)


def _lovasz_softmax_kinks(predictions: Array, targets: Array, classes: Classes, **options: Any) -> tuple[Array, ...]:
    return tied_errors(Pixels.of(predictions, targets, **options))


@unreduced(
    curved=True,
    by_numpy=True,
    check=check_label_maps,
    kinks=_lovasz_softmax_kinks,
    predictions=ProbabilityMaps(instead="for logits there is lovasz_softmax_loss_with_logits"),
    targets=LabelMaps(),
    class_axis=ClassAxis(),
    classes=Choice(("present", "all")),
    **OF_CLASSES,
)
def _lovasz_softmax(
    predictions: Array,
    targets: Array,
    class_axis: int,
    classes: Classes,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    wanted: Wanted,
) -> Losses:
    pixels = Pixels.of(predictions, targets, class_axis, class_weights, ignore_index, pool_batch)
    return lovasz_losses(pixels, classes, "predictions")


def lovasz_softmax_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    classes: Classes = "present",
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
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
        class_weights: w, shape (C,): the weights of the classes in this average.
        ignore_index: pixels with this label are ignored.
        pool_batch: whether the pixels of all samples are those of one.
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
    return _lovasz_softmax.value(
        predictions, targets, class_axis, classes, class_weights, ignore_index, pool_batch, **reduction
    )


@gradient_of(
    lovasz_softmax_loss,
    terms=_lovasz_softmax,
    properties=("convex", "non_negative", "constant_curvature", "zero_curvature"),
)
def lovasz_softmax_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    classes: Classes = "present",
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(J_k − J_{k−1}) sign(p_c − [y = c]) w_c / (C B) at the pixel with the k-th largest error of class c.

    C is the number, or the weight, of the classes in the average: those present in the targets of the sample, or all.
    Pixels with the same error keep their order in the array.

    Example:
        The first pixel is right, so only the second one has slopes: ½ · ½ for class 0 and ½ · 1 for class 1.

        >>> import numpy as np
        >>> p = np.array([[[1.0, 0.0], [0.5, 0.5]]])
        >>> lovasz_softmax_loss_gradient(p, np.array([[0, 1]])).tolist()
        [[[0.0, 0.0], [0.25, -0.5]]]
    """
    return _lovasz_softmax.gradient(
        predictions, targets, class_axis, classes, class_weights, ignore_index, pool_batch, **reduction
    )


lovasz_softmax_loss_value_and_gradient = both_of(lovasz_softmax_loss_gradient)


def _hinge_errors(logits: Array, targets: Array, ignore_index: int | None) -> tuple[Array, Array, Array | None]:
    """Return 1 − s z, s = ±1, NaN for a label that is neither 0 nor 1, and which pixels are not ignored."""
    xp = array_namespace(logits=logits, targets=targets)
    z = as_dtype(xp, logits, compute_dtype(xp, logits.dtype, "logits"))
    t, kept = _read_binary(xp, z, targets, ignore_index)
    signs = 2.0 * t - 1.0
    errors = 1.0 - signs * z
    return errors if kept is None else xp.where(kept, errors, -math.inf), signs, kept


def _read_binary(xp: Any, like: Array, targets: Array, ignore_index: int | None) -> tuple[Array, Array | None]:
    """Return targets that are 0 or 1, NaN where they are not and this cannot be seen, and which are not ignored."""
    return read_targets(xp, like, targets, None, ignore_index, exclusive=False, name="logits", domain=BINARY)


def _check_binary(logits: Array, targets: Array, ignore_index: int | None, **_: Any) -> None:
    """Raise for an illegal label, which a trace cannot see."""
    _read_binary(array_namespace(logits=logits, targets=targets), logits, targets, ignore_index)


def _lovasz_hinge_kinks(logits: Array, targets: Array, ignore_index: int | None, pool_batch: bool) -> tuple[Array, ...]:
    """Return what vanishes where a pixel's error is 0 or equals the error of another pixel of its mask."""
    xp = array_namespace(logits=logits, targets=targets)
    errors, _, _ = _hinge_errors(logits, targets, ignore_index)
    is_one = pool_batch or len(errors.shape) == 1
    with quiet(xp):  # ∞ − ∞ at ignored pixels
        gaps = error_gaps(xp, xp.reshape(errors, (1, -1) if is_one else (errors.shape[0], -1)))
    return errors, xp.reshape(gaps, tuple(errors.shape))


@unreduced(
    curved=True,
    by_numpy=True,
    check=_check_binary,
    kinks=_lovasz_hinge_kinks,
    logits=REAL,
    targets=BINARY,
    ignore_index=Integer(),
    pool_batch=FLAG,
)
def _lovasz_hinge(logits: Array, targets: Array, ignore_index: int | None, pool_batch: bool, wanted: Wanted) -> Losses:
    xp = array_namespace(logits=logits, targets=targets)
    require_same_shape(logits=logits, targets=targets)
    layout = Layout.of(len(logits.shape), None, pool_batch)
    errors, signs, kept = _hinge_errors(logits, targets, ignore_index)
    shape = tuple(logits.shape)
    flat = (1, math.prod(shape)) if layout.batch is None else (shape[0], math.prod(shape[1:]))
    foreground = signs > 0 if kept is None else kept & (signs > 0)
    steps = jaccard_steps(xp, xp.reshape(errors, flat), xp.reshape(foreground, flat))
    # a sample with a label that is neither 0 nor 1 has no valid step
    unknown = xp.any(xp.isnan(xp.reshape(signs, flat)), axis=-1, keepdims=True)
    steps = xp.reshape(xp.where(unknown, float("nan"), steps), shape)
    values = xp.sum(steps * xp.maximum(errors, 0.0), axis=layout.mask)
    return Losses(
        values,
        lambda: {"logits": xp.where(errors > 0, -signs * steps, 0.0 * steps)},
        layout.mask,
        curvature=lambda: no_curvature(xp, {"logits": errors}),
    )


def lovasz_hinge_loss(
    logits: ArrayT,
    targets: Array,
    *,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of Σ_k max(0, 1 − s z)₍ₖ₎ (J_k − J_{k−1}), s = 2 t − 1, errors in descending order.

    J_k is the Jaccard loss of a mask that is wrong at the k pixels with the largest errors.

    Args:
        logits: z, scores of the foreground (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t, 0 or 1, the same shape.
        ignore_index: pixels with this label are ignored.
        pool_batch: whether the mask is that of all samples.
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
    return _lovasz_hinge.value(logits, targets, ignore_index, pool_batch, **reduction)


@gradient_of(
    lovasz_hinge_loss,
    terms=_lovasz_hinge,
    properties=("convex", "non_negative", "constant_curvature", "zero_curvature"),
)
def lovasz_hinge_loss_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−s (J_k − J_{k−1}) / B at the pixel with the k-th largest error, where that is positive; 0 elsewhere.

    Pixels with the same error keep their order in the array.

    Example:
        >>> import numpy as np
        >>> lovasz_hinge_loss_gradient(np.array([[0.0, 1.0]]), np.array([[1, 0]])).tolist()
        [[-0.5, 0.5]]
    """
    return _lovasz_hinge.gradient(logits, targets, ignore_index, pool_batch, **reduction)


lovasz_hinge_loss_value_and_gradient = both_of(lovasz_hinge_loss_gradient)
