"""Regression losses: the error e = predictions − targets, element by element."""

from __future__ import annotations

import math
from typing import Any, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import POSITIVE, REAL, Axes, Interval, SmallestNormal
from mithril_losses.numerics.flattening import Flattening
from mithril_losses.numerics.reduction import GradientReduction, GradientRowReduction, Reduction, RowReduction
from mithril_losses.numerics.stable import norm_and_unit
from mithril_losses.numerics.validation import as_dtype, compute_dtype, require_one_number, require_same_shape
from mithril_losses.templates.elements import elementwise
from mithril_losses.templates.unreduced import Losses, Wanted, unreduced

__all__ = [
    "charbonnier_loss",
    "charbonnier_loss_gradient",
    "huber_loss",
    "huber_loss_gradient",
    "log_cosh_loss",
    "log_cosh_loss_gradient",
    "mae_loss",
    "mae_loss_gradient",
    "mse_loss",
    "mse_loss_gradient",
    "psnr_loss",
    "psnr_loss_gradient",
    "psnr_loss_value_and_gradient",
]


@elementwise(predictions=REAL, targets=REAL)
def _squared_error(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    error = predictions - targets
    return error * error, 2.0 * error


def mse_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of e², e = predictions − targets.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        The mean squared error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (−0.1, 0.1, −0.2): (0.01 + 0.01 + 0.04) / 3 = 0.02.

        >>> import numpy as np
        >>> loss = mse_loss(np.array([1.0, 2.0, 3.0]), np.array([1.1, 1.9, 3.2]))
        >>> round(float(loss), 12)
        0.02

    Source:
        C. F. Gauss, Theoria combinationis observationum erroribus minimis obnoxiae, 1823.
    """
    return _squared_error.value(predictions, targets, **reduction)


@gradient_of(
    mse_loss,
    terms=_squared_error,
    properties=("convex", "non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def mse_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """2e / n.

    Example:
        >>> import numpy as np
        >>> mse_loss_gradient(np.array([1.0, 5.0]), np.array([1.0, 2.0])).tolist()
        [0.0, 3.0]
    """
    return _squared_error.gradient(predictions, targets, **reduction)


@elementwise(predictions=REAL, targets=REAL, kinks=lambda predictions, targets: (predictions - targets,))
def _absolute_error(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    error = predictions - targets
    return xp.abs(error), xp.sign(error)


def mae_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of |e|, e = predictions − targets.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        The mean absolute error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (−1, 2, 0): (1 + 2 + 0) / 3 = 1.

        >>> import numpy as np
        >>> float(mae_loss(np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, 3.0])))
        1.0

    Source:
        P.-S. Laplace, Mémoire sur la probabilité des causes par les évènements, 1774.
    """
    return _absolute_error.value(predictions, targets, **reduction)


@gradient_of(
    mae_loss,
    terms=_absolute_error,
    properties=("convex", "non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def mae_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """sign(e) / n, with sign(0) = 0.

    Example:
        >>> import numpy as np
        >>> mae_loss_gradient(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 0.0, 3.0, 1.0])).tolist()
        [-0.25, 0.25, 0.0, 0.25]
    """
    return _absolute_error.gradient(predictions, targets, **reduction)


@elementwise(
    predictions=REAL,
    targets=REAL,
    delta=POSITIVE,
    kinks=lambda predictions, targets, delta: (abs(predictions - targets) - delta,),  # the second derivative jumps
)
def _huber(xp: Any, predictions: Array, targets: Array, delta: float) -> tuple[Array, Array]:
    error = predictions - targets
    slope = xp.minimum(xp.maximum(error, -delta), delta)
    return slope * (error - 0.5 * slope), slope


def huber_loss(predictions: ArrayT, targets: Array, *, delta: float = 1.0, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of ½e² where |e| ≤ δ and δ(|e| − ½δ) elsewhere, e = predictions − targets.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        delta: δ > 0, the size of the error at which the loss turns from quadratic to linear.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, delta is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (0.5, −3): (½·0.25 + 1·(3 − ½)) / 2 = 1.3125.

        >>> import numpy as np
        >>> float(huber_loss(np.array([0.5, -3.0]), np.array([0.0, 0.0])))
        1.3125

    Source:
        P. J. Huber, Robust Estimation of a Location Parameter, 1964. https://doi.org/10.1214/aoms/1177703732
    """
    return _huber.value(predictions, targets, delta, **reduction)


@gradient_of(
    huber_loss,
    terms=_huber,
    properties=("convex", "non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def huber_loss_gradient(
    predictions: ArrayT, targets: Array, *, delta: float = 1.0, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """clip(e, −δ, δ) / n.

    Example:
        >>> import numpy as np
        >>> huber_loss_gradient(np.array([0.5, -3.0]), np.array([0.0, 0.0])).tolist()
        [0.25, -0.5]
    """
    return _huber.gradient(predictions, targets, delta, **reduction)


@elementwise(predictions=REAL, targets=REAL)
def _log_cosh(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    error = predictions - targets
    magnitude = xp.abs(error)
    u = xp.expm1(-xp.minimum(magnitude, 1.0))
    near = xp.log1p(0.5 * u * u / (1.0 + u))  # cosh e − 1 = u² / (2 (1 + u)), which does not cancel
    far = magnitude + xp.log1p(xp.exp(-2.0 * magnitude)) - 0.6931471805599453  # log 2
    return xp.where(magnitude < 1.0, near, far), xp.tanh(error)


def log_cosh_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of log cosh e, e = predictions − targets.

    The loss is about e² / 2 for small errors and |e| − log 2 for large ones, and has derivatives of every order.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape. The loss has no scale of its own: scale both so that errors are about 1.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        cosh log 3 = (3 + 1/3) / 2 = 5/3, and log 5/3 = 0.510825…

        >>> import numpy as np
        >>> round(float(log_cosh_loss(np.array([np.log(3.0)]), np.array([0.0]))), 6)
        0.510826

    Source:
        R. A. Saleh and A. K. Md. E. Saleh, Statistical Properties of the log-cosh Loss Function Used in Machine
        Learning, 2022. https://arxiv.org/abs/2208.04564
    """
    return _log_cosh.value(predictions, targets, **reduction)


@gradient_of(
    log_cosh_loss,
    terms=_log_cosh,
    properties=("convex", "non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def log_cosh_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """tanh(e) / n.

    Example:
        tanh log 3 = (3 − 1/3) / (3 + 1/3) = 0.8.

        >>> import numpy as np
        >>> log_cosh_loss_gradient(np.array([np.log(3.0)]), np.array([0.0])).round(12).tolist()
        [0.8]
    """
    return _log_cosh.gradient(predictions, targets, **reduction)


@elementwise(predictions=REAL, targets=REAL, epsilon=POSITIVE, alpha=POSITIVE, smallest=SmallestNormal(computed=True))
def _charbonnier(
    xp: Any, predictions: Array, targets: Array, epsilon: float, alpha: float, smallest: float
) -> tuple[Array, Array]:
    error = predictions - targets
    magnitude = xp.abs(error)
    larger = xp.maximum(xp.maximum(magnitude, epsilon), smallest)  # ε itself may round to 0
    ratio = xp.minimum(magnitude, epsilon) / larger  # squares of the errors themselves could overflow
    root = larger * xp.sqrt(1.0 + ratio * ratio)
    power = xp.exp((alpha - 1.0) * xp.log(root))  # root^(α − 1), exactly 1 for α = 1
    return xp.where(root == 2.0 * root, root, root * power), alpha * power * (error / root)  # ∞ stays ∞


def charbonnier_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    epsilon: float = 1e-3,
    alpha: float = 1.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of (e² + ε²)^(α/2), e = predictions − targets.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        epsilon: ε > 0, in the unit of the error. For errors far below ε the loss is quadratic. A perfect fit costs ε^α.
        alpha: α > 0. A large error costs about |e|^α.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, epsilon or alpha is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (3, 0) and ε = 4: (√(9 + 16) + √16) / 2 = 4.5.

        >>> import numpy as np
        >>> float(charbonnier_loss(np.array([3.0, 0.0]), np.array([0.0, 0.0]), epsilon=4.0))
        4.5

    Source:
        P. Charbonnier et al., Two Deterministic Half-Quadratic Regularization Algorithms for Computed Imaging, 1994.
        https://doi.org/10.1109/ICIP.1994.413553. With a power: D. Sun, S. Roth and M. J. Black, Secrets of Optical Flow
        Estimation and Their Principles, 2010. https://doi.org/10.1109/CVPR.2010.5539939
    """
    return _charbonnier.value(predictions, targets, epsilon, alpha, **reduction)


@gradient_of(
    charbonnier_loss,
    terms=_charbonnier,
    properties=(
        given("convex", alpha=Interval(1.0, closed=True)),
        "non_negative",
        "symmetric",
        "translation_invariant",
    ),
)
def charbonnier_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    epsilon: float = 1e-3,
    alpha: float = 1.0,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """α e (e² + ε²)^(α/2 − 1) / n.

    Example:
        3 / √(9 + 16) / 2 = 0.3.

        >>> import numpy as np
        >>> charbonnier_loss_gradient(np.array([3.0, 0.0]), np.array([0.0, 0.0]), epsilon=4.0).round(12).tolist()
        [0.3, 0.0]
    """
    return _charbonnier.gradient(predictions, targets, epsilon, alpha, **reduction)


_DECIBEL = 20.0 / math.log(10.0)


def _psnr_kinks(
    predictions: Array, targets: Array, max_value: float, axis: int | tuple[int, ...] | None
) -> tuple[Array, ...]:
    xp = array_namespace(predictions=predictions)
    images = Flattening.along(axis, tuple(predictions.shape))
    return (xp.max(images.of(xp, abs(predictions - targets)), axis=-1),)


@unreduced(kinks=_psnr_kinks, predictions=REAL, targets=REAL, max_value=POSITIVE, axis=Axes())
def _psnr(
    predictions: Array, targets: Array, max_value: float, axis: int | tuple[int, ...] | None, wanted: Wanted
) -> Losses:
    xp = array_namespace(predictions=predictions, targets=targets)
    require_same_shape(predictions=predictions, targets=targets)
    dtype = compute_dtype(xp, predictions.dtype)
    max_value = require_one_number(xp, "max_value", max_value, dtype)
    images = Flattening.along(axis, tuple(predictions.shape))
    errors = images.of(xp, as_dtype(xp, predictions, dtype) - as_dtype(xp, targets, dtype))
    if images.length == 0:
        nothing = images.back(xp, errors)
        return Losses(xp.sum(errors, axis=-1), lambda: {"predictions": nothing}, images.flattened)
    norm, unit = norm_and_unit(xp, errors, 2.0)
    values = _DECIBEL * (xp.log(norm / max_value) - 0.5 * math.log(images.length)) if wanted.value else norm

    def slopes() -> dict[str, Array]:
        # below this norm the gradient would overflow
        least = 10.0 / float(xp.finfo(predictions.dtype).max)
        by_error = _DECIBEL * unit / xp.expand_dims(xp.maximum(norm, least), axis=-1)
        return {"predictions": images.back(xp, by_error)}

    return Losses(values, slopes, images.flattened)


def psnr_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    max_value: float = 1.0,
    axis: int | tuple[int, ...] | None = None,
    **reduction: Unpack[RowReduction],
) -> ArrayT:
    """Negative peak signal-to-noise ratio, −20 log₁₀(max / √MSE), in decibels.

    Args:
        predictions: images, any shape.
        targets: ground truth, the same shape.
        max_value: the largest possible value of a pixel: 1, or 255 for images of bytes.
        axis: the axes of one image, over which its mean squared error is taken: (1, 2, 3) gives one loss per image.
            By default the mean runs over all elements, as if the batch were one image.
        **reduction: see `reduce_loss`; the unreduced losses are one per image, so `weights` weigh images, not pixels.

    Returns:
        A scalar (one loss per image for reduction="none"); −inf where an image is reproduced exactly.

    Raises:
        ValueError: the shapes differ, max_value is not positive, an axis is out of range or given twice, or a
            reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        MSE = (0.1² + 0.1²) / 2 = 0.01: −20 log₁₀(1 / 0.1) = −20.

        >>> import numpy as np
        >>> round(float(psnr_loss(np.array([0.6, 0.4]), np.array([0.5, 0.5]))), 12)
        -20.0

    Source:
        Q. Huynh-Thu and M. Ghanbari, Scope of Validity of PSNR in Image/Video Quality Assessment, 2008.
        https://doi.org/10.1049/el:20080522
    """
    return _psnr.value(predictions, targets, max_value, axis, **reduction)


@gradient_of(psnr_loss, terms=_psnr, properties=("symmetric", "translation_invariant"))
def psnr_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    max_value: float = 1.0,
    axis: int | tuple[int, ...] | None = None,
    **reduction: Unpack[GradientRowReduction],
) -> ArrayT:
    """20 / ln 10 · e / Σ e² / B, with the sum over the image's own errors e; 0 for a perfect fit.

    The gradient does not depend on `max_value`. If a fit is so close that the gradient would overflow, the gradient is
    near the largest number of its dtype instead.

    Example:
        20 / ln 10 · 1 / (1 + 1) = 4.342945…

        >>> import numpy as np
        >>> psnr_loss_gradient(np.array([1.0, -1.0]), np.array([0.0, 0.0])).round(6).tolist()
        [4.342945, -4.342945]
    """
    return _psnr.gradient(predictions, targets, max_value, axis, **reduction)


psnr_loss_value_and_gradient = both_of(psnr_loss_gradient)
