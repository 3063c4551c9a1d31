"""Segmentation from logits: the losses on masks of a sigmoid or a softmax, and their sums with a cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import (
    FLAG,
    MASK_TARGETS,
    NON_NEGATIVE,
    POSITIVE,
    REAL,
    Choice,
    ClassAxis,
    LabelMaps,
    ScoreMaps,
)
from mithril_losses.losses.segmentation import Classes
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.templates.lovasz import Pixels, check_label_maps, lovasz_losses, tied_errors
from mithril_losses.templates.masks import COSTS, MASK_OPTIONS, OF_CLASSES, Masks, Softmax, check_targets, mask_masses
from mithril_losses.templates.overlap import compound_losses, overlap_losses, pooled_losses
from mithril_losses.templates.unreduced import Losses, Wanted, unreduced

__all__ = [
    "dice_cross_entropy_with_logits",
    "dice_cross_entropy_with_logits_gradient",
    "dice_cross_entropy_with_logits_value_and_gradient",
    "dice_focal_loss_with_logits",
    "dice_focal_loss_with_logits_gradient",
    "dice_focal_loss_with_logits_value_and_gradient",
    "dice_loss_with_logits",
    "dice_loss_with_logits_gradient",
    "dice_loss_with_logits_value_and_gradient",
    "focal_tversky_loss_with_logits",
    "focal_tversky_loss_with_logits_gradient",
    "focal_tversky_loss_with_logits_value_and_gradient",
    "generalized_dice_loss_with_logits",
    "generalized_dice_loss_with_logits_gradient",
    "generalized_dice_loss_with_logits_value_and_gradient",
    "jaccard_loss_with_logits",
    "jaccard_loss_with_logits_gradient",
    "jaccard_loss_with_logits_value_and_gradient",
    "lovasz_softmax_loss_with_logits",
    "lovasz_softmax_loss_with_logits_gradient",
    "lovasz_softmax_loss_with_logits_value_and_gradient",
    "tversky_loss_with_logits",
    "tversky_loss_with_logits_gradient",
    "tversky_loss_with_logits_value_and_gradient",
]


_LOGITS: dict[str, Any] = {"logits": REAL, "targets": MASK_TARGETS}


def _check(logits: Array, targets: Array, **options: Any) -> None:
    axis, ignored = options["class_axis"], options["ignore_index"]
    exclusive = axis is not None and not options["multilabel"]
    check_targets(logits, targets, axis, ignored, exclusive=exclusive, name="logits")


# --- overlap, from logits -----------------------------------------------------------------------------------------

_SHIFTED = given("translation_invariant", class_axis=(-1, 1), multilabel=False)


@unreduced(curved=True, check=_check, mass=mask_masses, **_LOGITS, **MASK_OPTIONS, multilabel=FLAG)
def _dice_with_logits(
    logits: Array,
    targets: Array,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    multilabel: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of_logits(logits, targets, class_axis, class_weights, ignore_index, pool_batch, multilabel)
    return overlap_losses(masks, smooth, share=2.0)


def dice_loss_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (2 Σ p t + s) / (Σ p + Σ t + s).

    With p = σ(z), or softmax(z) over the classes, this is `dice_loss`; small losses and slopes keep their digits.

    Args:
        logits: z, scores (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the shape of `logits`, of any real type; integers are 0 or 1. Or class indices (integers,
            the shape without the class axis).
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes, None for one foreground. With classes, p is their softmax, and there is one
            mask, and one loss, for each sample and class. An array with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        multilabel: whether a pixel may belong to several classes: p = σ(z), as for one foreground.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        σ(log 3) = ¾ and σ(0) = ½: Σ p t = ¾, Σ p = 1.25 and Σ t = 1, so 1 − (1.5 + 1) / (2.25 + 1).

        >>> import numpy as np
        >>> round(float(dice_loss_with_logits(np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]]))), 6)
        0.230769

    Source:
        F. Milletari et al., V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, 2016,
        which has Σ p² + Σ t² in place of Σ p + Σ t. https://doi.org/10.1109/3DV.2016.79
    """
    return _dice_with_logits.value(
        logits, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, multilabel, **reduction
    )


@gradient_of(dice_loss_with_logits, terms=_dice_with_logits, properties=("non_negative", _SHIFTED))
def dice_loss_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """p (g − Σ_c p_c g_c) with softmax, p (1 − p) g with σ; g is the gradient of `dice_loss` at p.

    Example:
        3/16 · −(2 · 3.25 − 2.5) / 3.25² and ¼ · 2.5 / 3.25².

        >>> import numpy as np
        >>> dice_loss_with_logits_gradient(np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]])).round(6).tolist()
        [[-0.071006, 0.059172]]
    """
    return _dice_with_logits.gradient(
        logits, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, multilabel, **reduction
    )


dice_loss_with_logits_value_and_gradient = both_of(dice_loss_with_logits_gradient)


@unreduced(curved=True, check=_check, mass=mask_masses, **_LOGITS, **MASK_OPTIONS, multilabel=FLAG)
def _jaccard_with_logits(
    logits: Array,
    targets: Array,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    multilabel: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of_logits(logits, targets, class_axis, class_weights, ignore_index, pool_batch, multilabel)
    return overlap_losses(masks, smooth)


def jaccard_loss_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (Σ p t + s) / (Σ p + Σ t − Σ p t + s).

    With p = σ(z), or softmax(z) over the classes, this is `jaccard_loss`; small losses and slopes keep their digits.

    Args:
        logits: z, scores (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the shape of `logits`, of any real type; integers are 0 or 1. Or class indices (integers,
            the shape without the class axis).
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes, None for one foreground. With classes, p is their softmax, and there is one
            mask, and one loss, for each sample and class. An array with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        multilabel: whether a pixel may belong to several classes: p = σ(z), as for one foreground.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        σ(log 3) = ¾ and σ(0) = ½: I = ¾ and U = 1.5, so 1 − (0.75 + 1) / (1.5 + 1).

        >>> import numpy as np
        >>> round(float(jaccard_loss_with_logits(np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]]))), 6)
        0.3

    Source:
        M. A. Rahman and Y. Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation,
        2016. https://doi.org/10.1007/978-3-319-50835-1_22
    """
    return _jaccard_with_logits.value(
        logits, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, multilabel, **reduction
    )


@gradient_of(jaccard_loss_with_logits, terms=_jaccard_with_logits, properties=("non_negative", _SHIFTED))
def jaccard_loss_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """p (g − Σ_c p_c g_c) with softmax, p (1 − p) g with σ; g is the gradient of `jaccard_loss` at p.

    Example:
        3/16 · −(4.25 − 1.75) / 2.5² and ¼ · 1.75 / 2.5².

        >>> import numpy as np
        >>> jaccard_loss_with_logits_gradient(np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]])).round(6).tolist()
        [[-0.075, 0.07]]
    """
    return _jaccard_with_logits.gradient(
        logits, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, multilabel, **reduction
    )


jaccard_loss_with_logits_value_and_gradient = both_of(jaccard_loss_with_logits_gradient)


@unreduced(curved=True, check=_check, mass=mask_masses, **_LOGITS, **COSTS, **MASK_OPTIONS, multilabel=FLAG)
def _tversky_with_logits(
    logits: Array,
    targets: Array,
    alpha: float,
    beta: float,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    multilabel: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of_logits(logits, targets, class_axis, class_weights, ignore_index, pool_batch, multilabel)
    return overlap_losses(masks, smooth, alpha, beta)


def tversky_loss_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of 1 − (I + s) / (I + a FP + b FN + s), I = Σ p t, FP = Σ p (1 − t), FN = Σ (1 − p) t.

    With p = σ(z), or softmax(z) over the classes, this is `tversky_loss`; small losses and slopes keep their digits.

    Args:
        logits: z, scores (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the shape of `logits`, of any real type; integers are 0 or 1. Or class indices (integers,
            the shape without the class axis).
        alpha: a ≥ 0, what a false positive costs.
        beta: b ≥ 0, what a false negative costs.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes, None for one foreground. With classes, p is their softmax, and there is one
            mask, and one loss, for each sample and class. An array with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        multilabel: whether a pixel may belong to several classes: p = σ(z), as for one foreground.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        σ(log 3) = ¾ and σ(0) = ½: I = ¾, FP = ½ and FN = ¼, so 0.325 / (0.75 + 0.325 + 1).

        >>> import numpy as np
        >>> round(float(tversky_loss_with_logits(np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]]))), 6)
        0.156627

    Source:
        S. S. M. Salehi et al., Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks,
        2017. https://doi.org/10.1007/978-3-319-67389-9_44
    """
    return _tversky_with_logits.value(
        logits,
        targets,
        alpha,
        beta,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


@gradient_of(tversky_loss_with_logits, terms=_tversky_with_logits, properties=("non_negative", _SHIFTED))
def tversky_loss_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_axis: int | None = None,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """p (g − Σ_c p_c g_c) with softmax, p (1 − p) g with σ; g is the gradient of `tversky_loss` at p.

    Example:
        3/16 · (1.75 · −0.7 − 0.325) / 2.075² and ¼ · 1.75 · 0.3 / 2.075².

        >>> import numpy as np
        >>> tversky_loss_with_logits_gradient(np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]])).round(6).tolist()
        [[-0.067499, 0.030483]]
    """
    return _tversky_with_logits.gradient(
        logits,
        targets,
        alpha,
        beta,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


tversky_loss_with_logits_value_and_gradient = both_of(tversky_loss_with_logits_gradient)


@unreduced(
    curved=True, check=_check, mass=mask_masses, **_LOGITS, gamma=POSITIVE, **COSTS, **MASK_OPTIONS, multilabel=FLAG
)
def _focal_tversky_with_logits(
    logits: Array,
    targets: Array,
    gamma: float,
    alpha: float,
    beta: float,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    multilabel: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of_logits(logits, targets, class_axis, class_weights, ignore_index, pool_batch, multilabel)
    return overlap_losses(masks, smooth, alpha, beta, gamma=gamma)


def focal_tversky_loss_with_logits(
    logits: ArrayT,
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
    multilabel: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over masks of (1 − (I + s) / (I + a FP + b FN + s))^γ, I = Σ p t, FP = Σ p (1 − t), FN = Σ (1 − p) t.

    With p = σ(z), or softmax(z) over the classes, this is `focal_tversky_loss`; small losses keep their digits.

    Args:
        logits: z, scores (batch, …), samples on the first axis. An array of one axis is one mask.
        targets: t in [0, 1], the shape of `logits`, of any real type; integers are 0 or 1. Or class indices (integers,
            the shape without the class axis).
        gamma: γ > 0. A γ below 1 gives more weight to masks that are nearly right.
        alpha: a ≥ 0, what a false positive costs.
        beta: b ≥ 0, what a false negative costs.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes, None for one foreground. With classes, p is their softmax, and there is one
            mask, and one loss, for each sample and class. An array with only one other axis is one sample.
        class_weights: w, shape (C,): the losses of a class count w times, also in the divisor of "mean".
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss for each class.
        multilabel: whether a pixel may belong to several classes: p = σ(z), as for one foreground.
        **reduction: see `reduce_loss`; the unreduced losses are one per mask.

    Returns:
        A scalar between 0 and 1 (one loss per mask for reduction="none"). Two empty masks have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, the masks of a sample with
            an illegal label become NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        The square of the loss of `tversky_loss_with_logits`, 0.156627.

        >>> import numpy as np
        >>> z, t = np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]])
        >>> round(float(focal_tversky_loss_with_logits(z, t, gamma=2.0)), 6)
        0.024532

    Source:
        N. Abraham and N. M. Khan, A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion
        Segmentation, 2019. https://doi.org/10.1109/ISBI.2019.8759329
    """
    return _focal_tversky_with_logits.value(
        logits,
        targets,
        gamma,
        alpha,
        beta,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


@gradient_of(focal_tversky_loss_with_logits, terms=_focal_tversky_with_logits, properties=("non_negative", _SHIFTED))
def focal_tversky_loss_with_logits_gradient(
    logits: ArrayT,
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
    multilabel: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """p (g − Σ_c p_c g_c) with softmax, p (1 − p) g with σ; g is the gradient of `focal_tversky_loss` at p.

    Example:
        2 · 0.156627 times the gradient of `tversky_loss_with_logits`.

        >>> import numpy as np
        >>> z, t = np.array([[np.log(3.0), 0.0]]), np.array([[1, 0]])
        >>> focal_tversky_loss_with_logits_gradient(z, t, gamma=2.0).round(6).tolist()
        [[-0.021144, 0.009549]]
    """
    return _focal_tversky_with_logits.gradient(
        logits,
        targets,
        gamma,
        alpha,
        beta,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


focal_tversky_loss_with_logits_value_and_gradient = both_of(focal_tversky_loss_with_logits_gradient)


@unreduced(
    curved=True,
    check=_check,
    logits=ScoreMaps(),
    targets=LabelMaps(),
    smooth=NON_NEGATIVE,
    class_axis=ClassAxis(),
    **OF_CLASSES,
    multilabel=FLAG,
)
def _generalized_dice_with_logits(
    logits: Array,
    targets: Array,
    smooth: float,
    class_axis: int,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    multilabel: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of_logits(logits, targets, class_axis, class_weights, ignore_index, pool_batch, multilabel)
    return pooled_losses(masks, smooth)


def generalized_dice_loss_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over samples of 1 − (2 Σ_c w_c Σ p t + s) / (Σ_c w_c (Σ p + Σ t) + s), w_c = (min_k n_k / n_c)², n_c = Σ t.

    With p = softmax(z), or σ(z), this is `generalized_dice_loss`; small losses and slopes keep all their digits.

    Args:
        logits: z, scores (batch, …, classes), samples on the first axis. An array of one axis beside the classes is one
            sample.
        targets: class indices (integers, the shape without the class axis), or t in [0, 1], the shape of `logits`.
        smooth: s ≥ 0, in elements.
        class_axis: the axis of the classes.
        class_weights: a further factor of w_c, shape (C,).
        ignore_index: pixels with this label are ignored.
        pool_batch: whether each mask is that of all samples, so that there is one loss.
        multilabel: whether a pixel may belong to several classes: p = σ(z).
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar between 0 and 1 (one loss per sample for reduction="none"). Masks that are all empty
        have the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, a sample with an illegal
            label becomes NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        p = (¾, ¼), (¾, ¼), (½, ½). Sizes 2 and 1 give the weights ¼ and 1: 1 − 2 (1.5 / 4 + ½) / (4 / 4 + 2).

        >>> import numpy as np
        >>> z = np.log(np.array([[[3.0, 1.0], [3.0, 1.0], [1.0, 1.0]]]))
        >>> round(float(generalized_dice_loss_with_logits(z, np.array([[0, 0, 1]]), smooth=0.0)), 6)
        0.416667

    Source:
        C. H. Sudre et al., Generalised Dice Overlap as a Deep Learning Loss Function for Highly Unbalanced
        Segmentations, 2017. https://doi.org/10.1007/978-3-319-67558-9_28
    """
    return _generalized_dice_with_logits.value(
        logits, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, multilabel, **reduction
    )


@gradient_of(
    generalized_dice_loss_with_logits,
    terms=_generalized_dice_with_logits,
    properties=("non_negative", given("translation_invariant", multilabel=False)),
)
def generalized_dice_loss_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    smooth: float = 1.0,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """p (g − Σ_c p_c g_c) with softmax, p (1 − p) g with σ; g is the gradient of `generalized_dice_loss` at p.

    Example:
        D = 3: g = −¼ (2 t D − 1.75) / D² for the first class, four times as much for the second. At the third pixel,
        g = (0.048611, −0.472222), and ½ (g − their mean) = ±0.130208.

        >>> import numpy as np
        >>> z = np.log(np.array([[[3.0, 1.0], [3.0, 1.0], [1.0, 1.0]]]))
        >>> g = generalized_dice_loss_with_logits_gradient(z, np.array([[0, 0, 1]]), smooth=0.0)
        >>> g[0, 2].round(6).tolist()
        [0.130208, -0.130208]
    """
    return _generalized_dice_with_logits.gradient(
        logits, targets, smooth, class_axis, class_weights, ignore_index, pool_batch, multilabel, **reduction
    )


generalized_dice_loss_with_logits_value_and_gradient = both_of(generalized_dice_loss_with_logits_gradient)


def _lovasz_softmax_with_logits_kinks(
    logits: Array, targets: Array, classes: Classes, **options: Any
) -> tuple[Array, ...]:
    return tied_errors(Pixels.of(logits, targets, **options, activation=Softmax, name="logits"))


@unreduced(
    curved=True,
    by_numpy=True,
    check=check_label_maps,
    kinks=_lovasz_softmax_with_logits_kinks,
    logits=ScoreMaps(),
    targets=LabelMaps(),
    class_axis=ClassAxis(),
    classes=Choice(("present", "all")),
    **OF_CLASSES,
)
def _lovasz_softmax_with_logits(
    logits: Array,
    targets: Array,
    class_axis: int,
    classes: Classes,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    wanted: Wanted,
) -> Losses:
    pixels = Pixels.of(logits, targets, class_axis, class_weights, ignore_index, pool_batch, Softmax, "logits")
    return lovasz_losses(pixels, classes, "logits")


def lovasz_softmax_loss_with_logits(
    logits: ArrayT,
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

    With p = softmax(z), this is `lovasz_softmax_loss`; small errors keep all their digits.

    Args:
        logits: z, scores (batch, …, classes). An array of one axis beside the classes is one sample.
        targets: y, class indices (integers, the shape of `logits` without the class axis).
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
        TypeError: logits are not floating point, or class indices are not integers.

    Example:
        Both classes have the errors 0.5 at the second pixel, which is class 1, and 0 at the first. For class 1 a missed
        pixel is its whole mask, J₁ = 1, for class 0 it makes a mask twice too large, J₁ = ½: ½ (0.5 · ½ + 0.5 · 1).

        >>> import numpy as np
        >>> z = np.array([[[1e3, 0.0], [0.0, 0.0]]])
        >>> float(lovasz_softmax_loss_with_logits(z, np.array([[0, 1]])))
        0.375

    Source:
        M. Berman et al., The Lovász-Softmax Loss: A Tractable Surrogate for the Optimization of the
        Intersection-Over-Union Measure in Neural Networks, 2018. https://doi.org/10.1109/CVPR.2018.00464
    """
    return _lovasz_softmax_with_logits.value(
        logits, targets, class_axis, classes, class_weights, ignore_index, pool_batch, **reduction
    )


@gradient_of(
    lovasz_softmax_loss_with_logits,
    terms=_lovasz_softmax_with_logits,
    properties=("non_negative", "translation_invariant"),
)
def lovasz_softmax_loss_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    classes: Classes = "present",
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """p_c (g_c − Σ_k p_k g_k) / B, g the gradient of `lovasz_softmax_loss` at p = softmax(z).

    Example:
        The second pixel has p = (½, ½) and g = (¼, −½): ½ (g + ⅛).

        >>> import numpy as np
        >>> z = np.array([[[1e3, 0.0], [0.0, 0.0]]])
        >>> lovasz_softmax_loss_with_logits_gradient(z, np.array([[0, 1]])).tolist()
        [[[0.0, 0.0], [0.1875, -0.1875]]]
    """
    return _lovasz_softmax_with_logits.gradient(
        logits, targets, class_axis, classes, class_weights, ignore_index, pool_batch, **reduction
    )


lovasz_softmax_loss_with_logits_value_and_gradient = both_of(lovasz_softmax_loss_with_logits_gradient)


# --- compound losses --------------------------------------------------------------------------------------------


_COMPOUND: dict[str, Any] = {
    "logits": ScoreMaps(),
    "targets": LabelMaps(),
    "dice_weight": NON_NEGATIVE,
    "pixel_weight": NON_NEGATIVE,
}


@unreduced(curved=True, check=_check, **_COMPOUND, **MASK_OPTIONS, multilabel=FLAG)
def _dice_cross_entropy_with_logits(
    logits: Array,
    targets: Array,
    dice_weight: float,
    pixel_weight: float,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    multilabel: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of_logits(logits, targets, class_axis, class_weights, ignore_index, pool_batch, multilabel)
    return compound_losses(masks, smooth, dice_weight, pixel_weight)


def dice_cross_entropy_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    dice_weight: float = 1.0,
    pixel_weight: float = 1.0,
    smooth: float = 1.0,
    class_axis: int | None = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over samples of a Dice + b CE, Dice = Σ_c w_c D_c / Σ_c w_c and CE = −Σ w_c t log p / M.

    One softmax serves both terms. D_c is the `dice_loss` of class c.

    M is the number of pixels of a sample that are not ignored, or, with class weights, the sum of w_c t over them.
    With p = σ(z), the second term also has this sum of 1 − t and 1 − p. M is then the number of elements, or their
    weight.

    Args:
        logits: z, scores (batch, …, classes), samples on the first axis. An array of one axis beside the classes is one
            sample.
        targets: class indices (integers, the shape without the class axis), or t in [0, 1], the shape of `logits`.
        dice_weight: a ≥ 0.
        pixel_weight: b ≥ 0.
        smooth: s ≥ 0 of the Dice loss, in elements.
        class_axis: the axis of the classes, None for one foreground. With classes, p is their softmax.
        class_weights: w, shape (C,), in both terms; 1 by default.
        ignore_index: pixels with this label are ignored.
        pool_batch: whether the pixels of all samples are those of one.
        multilabel: whether a pixel may belong to several classes: p = σ(z), as for one foreground.
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar (one loss per sample for reduction="none"). A sample of ignored pixels has the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, a sample with an illegal
            label becomes NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        p = (½, ½) at both pixels: D = 1 − (1 + 1) / (2 + 1) twice, and CE = log 2 = 0.693147…

        >>> import numpy as np
        >>> round(float(dice_cross_entropy_with_logits(np.zeros((1, 2, 2)), np.array([[0, 1]]))), 6)
        1.026481

    Source:
        F. Isensee et al., nnU-Net: A Self-Configuring Method for Deep Learning-Based Biomedical Image Segmentation,
        2021. https://doi.org/10.1038/s41592-020-01008-z
    """
    return _dice_cross_entropy_with_logits.value(
        logits,
        targets,
        dice_weight,
        pixel_weight,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


@gradient_of(
    dice_cross_entropy_with_logits, terms=_dice_cross_entropy_with_logits, properties=("non_negative", _SHIFTED)
)
def dice_cross_entropy_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    dice_weight: float = 1.0,
    pixel_weight: float = 1.0,
    smooth: float = 1.0,
    class_axis: int | None = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(h − p Σ_c h_c) / B, h = a p g − b w t / M, g the slope of Dice wrt p.

    With p = σ(z): (a p (1 − p) g + b w (p − t) / M) / B.

    Example:
        D = 3 in both classes: g = ½ · −(2 t · 3 − 2) / 9, so h = (−⅑ − ½, 1/18) at the first pixel, whose class is 0.

        >>> import numpy as np
        >>> dice_cross_entropy_with_logits_gradient(np.zeros((1, 2, 2)), np.array([[0, 1]])).round(6).tolist()
        [[[-0.333333, 0.333333], [0.333333, -0.333333]]]
    """
    return _dice_cross_entropy_with_logits.gradient(
        logits,
        targets,
        dice_weight,
        pixel_weight,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


dice_cross_entropy_with_logits_value_and_gradient = both_of(dice_cross_entropy_with_logits_gradient)


@unreduced(curved=True, check=_check, **_COMPOUND, gamma=NON_NEGATIVE, **MASK_OPTIONS, multilabel=FLAG)
def _dice_focal_with_logits(
    logits: Array,
    targets: Array,
    dice_weight: float,
    pixel_weight: float,
    gamma: float,
    smooth: float,
    class_axis: int | None,
    class_weights: Any,
    ignore_index: int | None,
    pool_batch: bool,
    multilabel: bool,
    wanted: Wanted,
) -> Losses:
    masks = Masks.of_logits(logits, targets, class_axis, class_weights, ignore_index, pool_batch, multilabel)
    return compound_losses(masks, smooth, dice_weight, pixel_weight, gamma)


def dice_focal_loss_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    dice_weight: float = 1.0,
    pixel_weight: float = 1.0,
    gamma: float = 2.0,
    smooth: float = 1.0,
    class_axis: int | None = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over samples of a Dice + b focal, Dice = Σ_c w_c D_c / Σ_c w_c, focal = −Σ w_c t (1 − p)^γ log p / M.

    One softmax serves both terms. D_c is the `dice_loss` of class c. With γ = 0 the second term is a cross-entropy, as
    in `dice_cross_entropy_with_logits`.

    M is the number of pixels of a sample that are not ignored, or, with class weights, the sum of w_c t over them.
    With p = σ(z), the second term also has this sum of 1 − t and 1 − p. M is then the number of elements, or their
    weight.

    Args:
        logits: z, scores (batch, …, classes), samples on the first axis. An array of one axis beside the classes is one
            sample.
        targets: class indices (integers, the shape without the class axis), or t in [0, 1], the shape of `logits`.
        dice_weight: a ≥ 0.
        pixel_weight: b ≥ 0.
        gamma: γ ≥ 0, how strongly easy pixels are damped.
        smooth: s ≥ 0 of the Dice loss, in elements.
        class_axis: the axis of the classes, None for one foreground. With classes, p is their softmax.
        class_weights: w, shape (C,), in both terms; 1 by default.
        ignore_index: pixels with this label are ignored.
        pool_batch: whether the pixels of all samples are those of one.
        multilabel: whether a pixel may belong to several classes: p = σ(z), as for one foreground.
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar (one loss per sample for reduction="none"). A sample of ignored pixels has the loss 0.

    Raises:
        ValueError: the shapes do not fit, a label is illegal, an option lies outside its domain, or a reduction keyword
            does not fit. Inside `jax.jit` and `torch.compile`, where values cannot be read, a sample with an illegal
            label becomes NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        p = (½, ½) at both pixels: D = 1 − (1 + 1) / (2 + 1) twice, and focal = ¼ log 2 = 0.173286…

        >>> import numpy as np
        >>> round(float(dice_focal_loss_with_logits(np.zeros((1, 2, 2)), np.array([[0, 1]]))), 6)
        0.50662

    Source:
        W. Zhu et al., AnatomyNet: Deep Learning for Fast and Fully Automated Whole-Volume Segmentation of Head and Neck
        Anatomy, 2019. https://doi.org/10.1002/mp.13300
    """
    return _dice_focal_with_logits.value(
        logits,
        targets,
        dice_weight,
        pixel_weight,
        gamma,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


@gradient_of(dice_focal_loss_with_logits, terms=_dice_focal_with_logits, properties=("non_negative", _SHIFTED))
def dice_focal_loss_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    dice_weight: float = 1.0,
    pixel_weight: float = 1.0,
    gamma: float = 2.0,
    smooth: float = 1.0,
    class_axis: int | None = -1,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    pool_batch: bool = False,
    multilabel: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(h − p Σ_c h_c) / B, h = a p g + b w t (1 − p)^γ (γ p log p / (1 − p) − 1) / M, g the slope of Dice wrt p.

    With p = σ(z) and q = 1 − p: (a p q g + b w ((1 − t) p^γ (p − γ q log q) − t q^γ (q − γ p log p)) / M) / B.

    Example:
        The Dice part of h is (−⅑, 1/18) at the first pixel, the other ¼ (2 · log ½ − 1) / 2 for its class 0.

        >>> import numpy as np
        >>> dice_focal_loss_with_logits_gradient(np.zeros((1, 2, 2)), np.array([[0, 1]])).round(6).tolist()
        [[[-0.232477, 0.232477], [0.232477, -0.232477]]]
    """
    return _dice_focal_with_logits.gradient(
        logits,
        targets,
        dice_weight,
        pixel_weight,
        gamma,
        smooth,
        class_axis,
        class_weights,
        ignore_index,
        pool_batch,
        multilabel,
        **reduction,
    )


dice_focal_loss_with_logits_value_and_gradient = both_of(dice_focal_loss_with_logits_gradient)
