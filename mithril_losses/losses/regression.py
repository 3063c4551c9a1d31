"""Regression losses: the error e = predictions − targets, element by element."""

from __future__ import annotations

import math
from typing import Any, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import NON_NEGATIVE_REAL, POSITIVE, REAL, SCALE, Axes, Interval, SmallestNormal
from mithril_losses.numerics.flattening import Flattening
from mithril_losses.numerics.reduction import GradientReduction, GradientRowReduction, Reduction, RowReduction
from mithril_losses.numerics.sampling import Draw
from mithril_losses.numerics.stable import bounded, logistic_density, norm_and_unit, positive_power
from mithril_losses.numerics.validation import as_dtype, compute_dtype, require_one_number, require_same_shape
from mithril_losses.templates.elements import elementwise
from mithril_losses.templates.unreduced import Curvature, Losses, Named, Wanted, diagonal_curvature, unreduced

__all__ = [
    "charbonnier_loss",
    "charbonnier_loss_gradient",
    "expectile_loss",
    "expectile_loss_gradient",
    "huber_loss",
    "huber_loss_gradient",
    "log_cosh_loss",
    "log_cosh_loss_gradient",
    "mae_loss",
    "mae_loss_gradient",
    "mape_loss",
    "mape_loss_gradient",
    "mse_loss",
    "mse_loss_gradient",
    "msle_loss",
    "msle_loss_gradient",
    "mspe_loss",
    "mspe_loss_gradient",
    "pinball_loss",
    "pinball_loss_gradient",
    "psnr_loss",
    "psnr_loss_gradient",
    "psnr_loss_value_and_gradient",
    "smape_loss",
    "smape_loss_gradient",
    "smooth_l1_loss",
    "smooth_l1_loss_gradient",
]

_LEVEL = Interval(0.0, 1.0)  # of a quantile, or of an expectile


@elementwise(predictions=REAL, targets=REAL)
def _squared_error(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    error = predictions - targets
    return error * error, 2.0 * error


@_squared_error.curvature
def _squared_error_curvature(xp: Any, predictions: Array, targets: Array) -> float:
    return 2.0


@_squared_error.likelihood
def _normal_targets(draw: Draw, predictions: Array, **others: Any) -> Array:
    return predictions + math.sqrt(0.5) * draw.normal(predictions)  # e² is −log of a normal density of variance ½


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
    properties=(
        "convex",
        "non_negative",
        "symmetric",
        "translation_invariant",
        "zero_at_equality",
        "constant_curvature",
    ),
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


@_absolute_error.curvature(bound=1.0)
def _absolute_error_curvature(xp: Any, predictions: Array, targets: Array) -> float:
    return 0.0


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
    properties=(
        "convex",
        "non_negative",
        "symmetric",
        "translation_invariant",
        "zero_at_equality",
        "constant_curvature",
        "zero_curvature",
    ),
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
    written_out=True,
)
def _huber(xp: Any, predictions: Array, targets: Array, delta: float) -> tuple[Array, Array]:
    error = predictions - targets
    slope = xp.minimum(xp.maximum(error, -delta), delta)
    return slope * (error - 0.5 * slope), slope


@_huber.curvature(bound=1.0)
def _huber_curvature(xp: Any, predictions: Array, targets: Array, delta: float) -> Array:
    error = predictions - targets
    return xp.where(xp.abs(error) < delta, xp.ones_like(error), 0.0)


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


@_log_cosh.curvature
def _log_cosh_curvature(xp: Any, predictions: Array, targets: Array) -> Array:
    return 4.0 * logistic_density(xp, 2.0 * (predictions - targets))  # sech² e


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
    power = positive_power(xp, root, alpha - 1.0)
    return xp.where(root == 2.0 * root, root, root * power), alpha * power * (error / root)  # ∞ stays ∞


@_charbonnier.curvature
def _charbonnier_curvature(
    xp: Any, predictions: Array, targets: Array, epsilon: float, alpha: float, smallest: float
) -> Array:
    magnitude = xp.abs(predictions - targets)
    larger = xp.maximum(xp.maximum(magnitude, epsilon), smallest)
    ratio = xp.minimum(magnitude, epsilon) / larger
    root = larger * xp.sqrt(1.0 + ratio * ratio)
    power = positive_power(xp, root, alpha - 1.0)
    near = epsilon / root  # 1 − (e / root)² is its square
    return alpha * (power / root) * ((2.0 - alpha) * near * near + (alpha - 1.0))


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
        given("constant_curvature", alpha=2.0),
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


@elementwise(
    predictions=REAL,
    targets=REAL,
    beta=SCALE,
    kinks=lambda predictions, targets, beta: (abs(predictions - targets) - beta,),  # the second derivative jumps
    written_out=True,
)
def _smooth_l1(xp: Any, predictions: Array, targets: Array, beta: float) -> tuple[Array, Array]:
    error = predictions - targets
    slope = xp.minimum(xp.maximum(error / beta, -1.0), 1.0)
    return slope * (error - 0.5 * (beta * slope)), slope


def _smooth_l1_bound(xp: Any, predictions: Array, targets: Array, beta: float) -> Array:
    return xp.ones_like(predictions) / beta


@_smooth_l1.curvature(bound=_smooth_l1_bound)
def _smooth_l1_curvature(xp: Any, predictions: Array, targets: Array, beta: float) -> Array:
    return xp.where(xp.abs(predictions - targets) < beta, xp.ones_like(predictions) / beta, 0.0)


def smooth_l1_loss(predictions: ArrayT, targets: Array, *, beta: float = 1.0, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of ½e²/β where |e| ≤ β and |e| − ½β elsewhere, e = predictions − targets: the Huber loss, divided by β.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        beta: β > 0, the size of the error at which the loss turns from quadratic to linear.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, beta is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (1, −3) and β = 2: (½·1/2 + 3 − 1) / 2 = 1.125.

        >>> import numpy as np
        >>> float(smooth_l1_loss(np.array([1.0, -3.0]), np.array([0.0, 0.0]), beta=2.0))
        1.125

    Source:
        R. Girshick, Fast R-CNN, 2015. https://doi.org/10.1109/ICCV.2015.169
    """
    return _smooth_l1.value(predictions, targets, beta, **reduction)


@gradient_of(
    smooth_l1_loss,
    terms=_smooth_l1,
    properties=("convex", "non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def smooth_l1_loss_gradient(
    predictions: ArrayT, targets: Array, *, beta: float = 1.0, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """clip(e/β, −1, 1) / n.

    Example:
        >>> import numpy as np
        >>> smooth_l1_loss_gradient(np.array([1.0, -3.0]), np.array([0.0, 0.0]), beta=2.0).tolist()
        [0.25, -0.5]
    """
    return _smooth_l1.gradient(predictions, targets, beta, **reduction)


@elementwise(
    predictions=REAL,
    targets=REAL,
    quantile=_LEVEL,
    kinks=lambda predictions, targets, quantile: (predictions - targets,),
    written_out=True,
)
def _pinball(xp: Any, predictions: Array, targets: Array, quantile: float) -> tuple[Array, Array]:
    error = predictions - targets
    side = xp.sign(error)
    slope = (1.0 - quantile) * xp.maximum(side, 0.0) + quantile * xp.minimum(side, 0.0)
    return slope * error, slope


@_pinball.curvature(bound=1.0)
def _pinball_curvature(xp: Any, predictions: Array, targets: Array, quantile: float) -> float:
    return 0.0


def pinball_loss(
    predictions: ArrayT, targets: Array, *, quantile: float | Array = 0.5, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of max((1 − q) e, −q e), e = predictions − targets, q = quantile.

    The constant of least mean loss is the q-quantile of the targets. For q = ½ the loss is half of the absolute error.

    Args:
        predictions: estimates of the quantile, any shape.
        targets: ground truth, the same shape.
        quantile: q in (0, 1), or an array of such numbers that broadcasts to the predictions. So for several quantiles
            the predictions have a last axis with an entry for each, and the targets are repeated along it.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, quantile lies outside (0, 1), or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (2, −4) and q = ¼: (¾ · 2 + ¼ · 4) / 2 = 1.25. With q = ¾ for the second, (¾ · 2 + ¾ · 4) / 2 = 2.25.

        >>> import numpy as np
        >>> predictions, targets = np.array([[12.0, 6.0]]), np.full((1, 2), 10.0)
        >>> float(pinball_loss(predictions, targets, quantile=0.25))
        1.25
        >>> float(pinball_loss(predictions, targets, quantile=np.array([0.25, 0.75])))
        2.25

    Source:
        R. Koenker and G. Bassett, Regression Quantiles, 1978. https://doi.org/10.2307/1913643
    """
    return _pinball.value(predictions, targets, quantile, **reduction)


@gradient_of(
    pinball_loss,
    terms=_pinball,
    properties=(
        "convex",
        "non_negative",
        "translation_invariant",
        "zero_at_equality",
        "constant_curvature",
        "zero_curvature",
    ),
)
def pinball_loss_gradient(
    predictions: ArrayT, targets: Array, *, quantile: float | Array = 0.5, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(1 − q) / n where e > 0, −q / n where e < 0, and 0 where e = 0.

    Example:
        >>> import numpy as np
        >>> pinball_loss_gradient(np.array([2.0, -4.0, 0.0, -1.0]), np.zeros(4), quantile=0.25).tolist()
        [0.1875, -0.0625, 0.0, -0.0625]
    """
    return _pinball.gradient(predictions, targets, quantile, **reduction)


@elementwise(
    predictions=REAL,
    targets=REAL,
    expectile=_LEVEL,
    kinks=lambda predictions, targets, expectile: (predictions - targets,),  # the second derivative jumps
    written_out=True,
)
def _expectile(xp: Any, predictions: Array, targets: Array, expectile: float) -> tuple[Array, Array]:
    error = predictions - targets
    weighted = (1.0 - expectile) * xp.maximum(error, 0.0) + expectile * xp.minimum(error, 0.0)
    return weighted * error, 2.0 * weighted


@_expectile.curvature
def _expectile_curvature(xp: Any, predictions: Array, targets: Array, expectile: float) -> Array:
    above = xp.where(predictions > targets, xp.ones_like(predictions), 0.0)
    return 2.0 * (expectile + (1.0 - 2.0 * expectile) * above)


def expectile_loss(
    predictions: ArrayT, targets: Array, *, expectile: float | Array = 0.5, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of (1 − τ) e² where e > 0 and τ e² elsewhere, e = predictions − targets, τ = expectile.

    The constant of least mean loss is the τ-expectile of the targets. For τ = ½ it is their mean, and the loss is half
    of the squared error.

    Args:
        predictions: estimates of the expectile, any shape.
        targets: ground truth, the same shape.
        expectile: τ in (0, 1), or an array of such numbers that broadcasts to the predictions.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, expectile lies outside (0, 1), or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (2, −4) and τ = ¼: (¾ · 4 + ¼ · 16) / 2 = 3.5.

        >>> import numpy as np
        >>> float(expectile_loss(np.array([2.0, -4.0]), np.array([0.0, 0.0]), expectile=0.25))
        3.5

    Source:
        W. K. Newey and J. L. Powell, Asymmetric Least Squares Estimation and Testing, 1987.
        https://doi.org/10.2307/1911031
    """
    return _expectile.value(predictions, targets, expectile, **reduction)


@gradient_of(
    expectile_loss,
    terms=_expectile,
    properties=("convex", "non_negative", "translation_invariant", "zero_at_equality"),
)
def expectile_loss_gradient(
    predictions: ArrayT, targets: Array, *, expectile: float | Array = 0.5, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """2 (1 − τ) e / n where e > 0, and 2τe / n elsewhere.

    Example:
        >>> import numpy as np
        >>> expectile_loss_gradient(np.array([2.0, -4.0]), np.array([0.0, 0.0]), expectile=0.25).tolist()
        [1.5, -1.0]
    """
    return _expectile.gradient(predictions, targets, expectile, **reduction)


@elementwise(predictions=NON_NEGATIVE_REAL, targets=NON_NEGATIVE_REAL)
def _squared_logarithmic(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    difference = xp.log1p(predictions) - xp.log1p(targets)
    return difference * difference, 2.0 * difference / (1.0 + predictions)


def _squared_logarithmic_gauss_newton(xp: Any, predictions: Array, targets: Array) -> Array:
    return 2.0 / ((1.0 + predictions) * (1.0 + predictions))


@_squared_logarithmic.curvature(fisher=_squared_logarithmic_gauss_newton)
def _squared_logarithmic_curvature(xp: Any, predictions: Array, targets: Array) -> Array:
    difference = xp.log1p(predictions) - xp.log1p(targets)
    return 2.0 * (1.0 - difference) / ((1.0 + predictions) * (1.0 + predictions))


def msle_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of d², d = log(1 + p) − log(1 + t), p = predictions and t = targets.

    Args:
        predictions: model outputs p ≥ 0 (at least above −1), any shape.
        targets: t ≥ 0 (at least above −1), the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        The mean squared logarithmic error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        (log 4 − log 2)² = (log 2)² = 0.480453…

        >>> import numpy as np
        >>> round(float(msle_loss(np.array([3.0]), np.array([1.0]))), 6)
        0.480453

    Source:
        L. Törnqvist, P. Vartia and Y. O. Vartia, How Should Relative Changes Be Measured?, 1985.
        https://doi.org/10.1080/00031305.1985.10479385
    """
    return _squared_logarithmic.value(predictions, targets, **reduction)


@gradient_of(msle_loss, terms=_squared_logarithmic, properties=("non_negative", "symmetric", "zero_at_equality"))
def msle_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """2d / (1 + p) / n.

    Example:
        2 log 2 / 4 = 0.346573…

        >>> import numpy as np
        >>> msle_loss_gradient(np.array([3.0]), np.array([1.0])).round(6).tolist()
        [0.346574]
    """
    return _squared_logarithmic.gradient(predictions, targets, **reduction)


@elementwise(
    predictions=REAL,
    targets=REAL,
    epsilon=SCALE,
    kinks=lambda predictions, targets, epsilon: (predictions - targets,),
    written_out=True,
)
def _absolute_percentage(xp: Any, predictions: Array, targets: Array, epsilon: float) -> tuple[Array, Array]:
    error, size = predictions - targets, xp.maximum(xp.abs(targets), epsilon)
    return xp.abs(error) / size, xp.sign(error) / size


def _absolute_percentage_bound(xp: Any, predictions: Array, targets: Array, epsilon: float) -> Array:
    return 1.0 / xp.maximum(xp.abs(targets), epsilon)


@_absolute_percentage.curvature(bound=_absolute_percentage_bound)
def _absolute_percentage_curvature(xp: Any, predictions: Array, targets: Array, epsilon: float) -> float:
    return 0.0


def mape_loss(predictions: ArrayT, targets: Array, *, epsilon: float = 1e-8, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of |e| / max(|t|, ε), e = predictions − targets, t = targets: as a fraction, not in percent.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth t, the same shape.
        epsilon: ε > 0, in the unit of the targets. A target of smaller size counts as one of this size.
        **reduction: see `reduce_loss`.

    Returns:
        The mean absolute percentage error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, epsilon is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        (|3 − 2| / 2 + |3 − 4| / 4) / 2 = 0.375.

        >>> import numpy as np
        >>> float(mape_loss(np.array([3.0, 3.0]), np.array([2.0, 4.0])))
        0.375

    Source:
        A. de Myttenaere et al., Mean Absolute Percentage Error for Regression Models, 2016.
        https://doi.org/10.1016/j.neucom.2015.12.114
    """
    return _absolute_percentage.value(predictions, targets, epsilon, **reduction)


@gradient_of(
    mape_loss,
    terms=_absolute_percentage,
    properties=("convex", "non_negative", "zero_at_equality", "constant_curvature", "zero_curvature"),
)
def mape_loss_gradient(
    predictions: ArrayT, targets: Array, *, epsilon: float = 1e-8, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """sign(e) / max(|t|, ε) / n, with sign(0) = 0.

    Example:
        >>> import numpy as np
        >>> mape_loss_gradient(np.array([3.0, 3.0]), np.array([2.0, 4.0])).tolist()
        [0.25, -0.125]
    """
    return _absolute_percentage.gradient(predictions, targets, epsilon, **reduction)


@elementwise(predictions=REAL, targets=REAL, epsilon=SCALE, steep=True)
def _squared_percentage(xp: Any, predictions: Array, targets: Array, epsilon: float) -> tuple[Array, Array]:
    size = xp.maximum(xp.abs(targets), epsilon)
    ratio = (predictions - targets) / size
    return ratio * ratio, 2.0 * ratio / size


@_squared_percentage.curvature
def _squared_percentage_curvature(xp: Any, predictions: Array, targets: Array, epsilon: float) -> Array:
    size = xp.maximum(xp.abs(targets), epsilon)
    return 2.0 / size / size


def mspe_loss(predictions: ArrayT, targets: Array, *, epsilon: float = 1e-8, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of (e / max(|t|, ε))², e = predictions − targets, t = targets: as a fraction, not in percent.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth t, the same shape.
        epsilon: ε > 0, in the unit of the targets. A target of smaller size counts as one of this size.
        **reduction: see `reduce_loss`.

    Returns:
        The mean squared percentage error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, epsilon is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        ((1 / 2)² + (1 / 4)²) / 2 = 5/32.

        >>> import numpy as np
        >>> float(mspe_loss(np.array([3.0, 3.0]), np.array([2.0, 4.0])))
        0.15625

    Source:
        H. Park and L. A. Stefanski, Relative-Error Prediction, 1998. https://doi.org/10.1016/S0167-7152(98)00088-1
    """
    return _squared_percentage.value(predictions, targets, epsilon, **reduction)


@gradient_of(
    mspe_loss,
    terms=_squared_percentage,
    properties=("convex", "non_negative", "zero_at_equality", "constant_curvature"),
)
def mspe_loss_gradient(
    predictions: ArrayT, targets: Array, *, epsilon: float = 1e-8, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """2e / max(|t|, ε)² / n.

    Example:
        >>> import numpy as np
        >>> mspe_loss_gradient(np.array([3.0, 3.0]), np.array([2.0, 4.0])).tolist()
        [0.25, -0.0625]
    """
    return _squared_percentage.gradient(predictions, targets, epsilon, **reduction)


@elementwise(
    predictions=REAL,
    targets=REAL,
    epsilon=SCALE,
    kinks=lambda predictions, targets, epsilon: (
        predictions - targets,
        predictions,
        abs(predictions) + abs(targets) - epsilon,
    ),
    written_out=True,
)
def _symmetric_percentage(xp: Any, predictions: Array, targets: Array, epsilon: float) -> tuple[Array, Array]:
    error, magnitude = predictions - targets, xp.abs(targets)
    total = xp.abs(predictions) + magnitude
    size = xp.maximum(total, epsilon)
    # if p and t have one sign, p grows in the error and in the size; else the ratio of the two is constant
    share = xp.where(total > epsilon, (1.0 + xp.sign(predictions) * xp.sign(targets)) * (magnitude / size), 1.0)
    return 2.0 * (xp.abs(error) / size), 2.0 * share * (xp.sign(error) / size)


@_symmetric_percentage.curvature(steep=True)
def _symmetric_percentage_curvature(xp: Any, predictions: Array, targets: Array, epsilon: float) -> Array:
    sign, magnitude = xp.sign(predictions), xp.abs(targets)
    total = xp.abs(predictions) + magnitude
    size = xp.maximum(total, epsilon)
    share = (1.0 + sign * xp.sign(targets)) * (magnitude / size)
    # inside ε the size does not depend on p
    return xp.where(total > epsilon, -4.0 * share * sign * xp.sign(predictions - targets) / size / size, 0.0)


def smape_loss(predictions: ArrayT, targets: Array, *, epsilon: float = 1e-8, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of 2|e| / max(|p| + |t|, ε), e = p − t, p = predictions and t = targets: in [0, 2], not in percent.

    A prediction whose sign differs from that of the target costs 2, whatever its size, and has no gradient.

    Args:
        predictions: model outputs p, any shape.
        targets: ground truth t, the same shape.
        epsilon: ε > 0, in the unit of the targets. A sum |p| + |t| below ε counts as ε.
        **reduction: see `reduce_loss`.

    Returns:
        The symmetric mean absolute percentage error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, epsilon is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        (2 · 2 / (3 + 1) + 2 · 4 / (1 + 3)) / 2 = 1.5.

        >>> import numpy as np
        >>> float(smape_loss(np.array([3.0, -1.0]), np.array([1.0, 3.0])))
        1.5

    Source:
        S. Makridakis, Accuracy Measures: Theoretical and Practical Concerns, 1993.
        https://doi.org/10.1016/0169-2070(93)90079-3
    """
    return _symmetric_percentage.value(predictions, targets, epsilon, **reduction)


@gradient_of(smape_loss, terms=_symmetric_percentage, properties=("non_negative", "symmetric", "zero_at_equality"))
def smape_loss_gradient(
    predictions: ArrayT, targets: Array, *, epsilon: float = 1e-8, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """2 sign(e) (1 + sign(p t)) |t| / (|p| + |t|)² / n; below ε, 2 sign(e) / ε / n; with sign(0) = 0.

    At p = 0, where the derivative jumps, this is the mean of both sides: a model that predicts 0 can still move.

    Example:
        4 · 1 / 4² / 2 = ⅛.

        >>> import numpy as np
        >>> smape_loss_gradient(np.array([3.0, -1.0]), np.array([1.0, 3.0])).tolist()
        [0.125, -0.0]
    """
    return _symmetric_percentage.gradient(predictions, targets, epsilon, **reduction)


_DECIBEL = 20.0 / math.log(10.0)


def _psnr_kinks(
    predictions: Array, targets: Array, max_value: float, axis: int | tuple[int, ...] | None
) -> tuple[Array, ...]:
    xp = array_namespace(predictions=predictions)
    images = Flattening.along(axis, tuple(predictions.shape))
    return (xp.max(images.of(xp, abs(predictions - targets)), axis=-1),)


@unreduced(curved=True, kinks=_psnr_kinks, predictions=REAL, targets=REAL, max_value=POSITIVE, axis=Axes())
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
        nothing = {"predictions": images.back(xp, errors)}
        return Losses(
            xp.sum(errors, axis=-1),
            lambda: nothing,
            images.flattened,
            curvature=lambda: diagonal_curvature(xp, lambda: nothing),
        )
    norm, unit = norm_and_unit(xp, errors, 2.0)
    values = _DECIBEL * (xp.log(norm / max_value) - 0.5 * math.log(images.length)) if wanted.value else norm

    least = 10.0 / float(xp.finfo(predictions.dtype).max)  # below this norm the gradient would overflow

    def slopes() -> dict[str, Array]:
        by_error = _DECIBEL * unit / xp.expand_dims(xp.maximum(norm, least), axis=-1)
        return {"predictions": images.back(xp, by_error)}

    def curvature() -> Curvature:
        """H = c (I − 2 u uᵀ) / ‖e‖², with u = e / ‖e‖."""
        length = xp.expand_dims(xp.maximum(norm, least), axis=-1)
        largest = bounded(xp, _DECIBEL / length / length, errors.dtype)

        def back(x: Array) -> dict[str, Array]:
            return {"predictions": images.back(xp, x)}

        def product(vectors: Named) -> dict[str, Array]:
            v = images.of(xp, vectors["predictions"])
            return back(largest * (v - 2.0 * unit * xp.sum(unit * v, axis=-1, keepdims=True)))

        return Curvature(
            product,
            lambda: back(largest * (1.0 - 2.0 * unit * unit)),
            lambda: back(largest * xp.ones_like(unit)),
        )

    return Losses(values, slopes, images.flattened, curvature=curvature)


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
