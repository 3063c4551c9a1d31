"""Robust losses: of the error e = predictions − targets, with a scale beyond which an error counts less and less."""

from __future__ import annotations

import math
from typing import Any, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT
from mithril_losses.catalogue import given, gradient_of
from mithril_losses.domains import REAL, SCALE, Interval
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import product, small_exponential_remainder
from mithril_losses.templates.elements import elementwise

__all__ = [
    "cauchy_loss",
    "cauchy_loss_gradient",
    "fair_loss",
    "fair_loss_gradient",
    "general_robust_loss",
    "general_robust_loss_gradient",
    "pseudo_huber_loss",
    "pseudo_huber_loss_gradient",
    "tukey_biweight_loss",
    "tukey_biweight_loss_gradient",
]


@elementwise(predictions=REAL, targets=REAL, delta=SCALE)
def _pseudo_huber(xp: Any, predictions: Array, targets: Array, delta: float) -> tuple[Array, Array]:
    error = predictions - targets
    magnitude, clipped = xp.abs(error), xp.minimum(xp.maximum(error, -delta), delta)
    ratio = xp.minimum(magnitude, delta) / xp.maximum(magnitude, delta)  # squares of the errors could overflow
    root = xp.sqrt(1.0 + ratio * ratio)
    near = clipped * (clipped / (1.0 + root))  # δ²(r − 1) = e² / (1 + r), which does not cancel
    return xp.where(magnitude < delta, near, delta * (magnitude * root - delta)), clipped / root


@_pseudo_huber.curvature
def _pseudo_huber_curvature(xp: Any, predictions: Array, targets: Array, delta: float) -> Array:
    magnitude = xp.abs(predictions - targets)
    ratio = xp.minimum(magnitude, delta) / xp.maximum(magnitude, delta)
    inverse = xp.where(magnitude < delta, xp.ones_like(ratio), ratio) / xp.sqrt(1.0 + ratio * ratio)  # δ / √(δ² + e²)
    return inverse * inverse * inverse


def pseudo_huber_loss(
    predictions: ArrayT, targets: Array, *, delta: float = 1.0, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of δ² (√(1 + (e/δ)²) − 1), e = predictions − targets.

    The loss is about e² / 2 for errors below δ and δ|e| − δ² for those far above, and has derivatives of every order.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        delta: δ > 0, the size of the error around which the loss turns from quadratic to linear.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, delta is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (3, 0) and δ = 4: 16 (√(1 + 9/16) − 1) = 16 / 4 = 4, over 2 elements.

        >>> import numpy as np
        >>> float(pseudo_huber_loss(np.array([3.0, 0.0]), np.array([0.0, 0.0]), delta=4.0))
        2.0

    Source:
        R. Hartley and A. Zisserman, Multiple View Geometry in Computer Vision, 2003, §A6.8.
    """
    return _pseudo_huber.value(predictions, targets, delta, **reduction)


@gradient_of(
    pseudo_huber_loss,
    terms=_pseudo_huber,
    properties=("convex", "non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def pseudo_huber_loss_gradient(
    predictions: ArrayT, targets: Array, *, delta: float = 1.0, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """e / √(1 + (e/δ)²) / n.

    Example:
        3 / √(1 + 9/16) / 2 = 1.2.

        >>> import numpy as np
        >>> pseudo_huber_loss_gradient(np.array([3.0, 0.0]), np.array([0.0, 0.0]), delta=4.0).round(12).tolist()
        [1.2, 0.0]
    """
    return _pseudo_huber.gradient(predictions, targets, delta, **reduction)


@elementwise(predictions=REAL, targets=REAL, scale=SCALE)
def _fair(xp: Any, predictions: Array, targets: Array, scale: float) -> tuple[Array, Array]:
    error = predictions - targets
    magnitude = xp.abs(error)
    log = xp.minimum(xp.log1p(magnitude / scale), 1000.0)  # ∞ − ∞ is NaN
    near = scale * small_exponential_remainder(xp, log)  # x − log(1 + x) = e^y − 1 − y, y = log(1 + x)
    value = scale * xp.where(magnitude < scale, near, magnitude - scale * log)
    ratio = xp.minimum(magnitude, scale) / xp.maximum(magnitude, scale)
    return value, xp.minimum(xp.maximum(error, -scale), scale) / (1.0 + ratio)


@_fair.curvature
def _fair_curvature(xp: Any, predictions: Array, targets: Array, scale: float) -> Array:
    inverse = 1.0 / (1.0 + xp.abs(predictions - targets) / scale)
    return inverse * inverse


def fair_loss(predictions: ArrayT, targets: Array, *, scale: float = 1.0, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of c² (|e|/c − log(1 + |e|/c)), e = predictions − targets, c = scale.

    The loss is about e² / 2 for errors far below c, and c|e| for those far above.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        scale: c > 0, in the unit of the error. With c = 1.3998 an estimate from Gaussian errors is 95 % efficient.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, scale is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = 2 and c = 2: 4 (1 − log 2) = 1.227411…

        >>> import numpy as np
        >>> round(float(fair_loss(np.array([2.0]), np.array([0.0]), scale=2.0)), 6)
        1.227411

    Source:
        R. C. Fair, On the Robust Estimation of Econometric Models, 1974.
    """
    return _fair.value(predictions, targets, scale, **reduction)


@gradient_of(
    fair_loss,
    terms=_fair,
    properties=("convex", "non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def fair_loss_gradient(
    predictions: ArrayT, targets: Array, *, scale: float = 1.0, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """e / (1 + |e|/c) / n.

    Example:
        2 / (1 + 1) / 2 = ½.

        >>> import numpy as np
        >>> fair_loss_gradient(np.array([2.0, 0.0]), np.array([0.0, 0.0]), scale=2.0).tolist()
        [0.5, 0.0]
    """
    return _fair.gradient(predictions, targets, scale, **reduction)


@elementwise(predictions=REAL, targets=REAL, scale=SCALE)
def _cauchy(xp: Any, predictions: Array, targets: Array, scale: float) -> tuple[Array, Array]:
    error = predictions - targets
    ratio = xp.abs(error) / scale
    is_far = ratio >= 1e18  # where squares could overflow, and 1 + r² = r² but for rounding
    near = xp.where(is_far, 1.0, ratio)
    square = near * near
    log = xp.log1p(xp.where(is_far, ratio - 1.0, square))
    clipped = xp.where(is_far, xp.minimum(xp.maximum(error, -scale), scale), error)
    slope = clipped / xp.where(is_far, ratio, 1.0 + square)
    return 0.5 * scale * (scale * xp.where(is_far, 2.0 * log, log)), slope


def _cauchy_weight(xp: Any, predictions: Array, targets: Array, scale: float) -> Array:
    """ψ / e = 1 / (1 + (e / c)²): the tangent quadratic with this curvature is never below the loss."""
    magnitude = xp.abs(predictions - targets)
    ratio = xp.minimum(magnitude, scale) / xp.maximum(magnitude, scale)
    square = ratio * ratio
    return xp.where(magnitude < scale, xp.ones_like(square), square) / (1.0 + square)


@_cauchy.curvature(bound=_cauchy_weight)
def _cauchy_curvature(xp: Any, predictions: Array, targets: Array, scale: float) -> Array:
    magnitude = xp.abs(predictions - targets)
    ratio = xp.minimum(magnitude, scale) / xp.maximum(magnitude, scale)
    square = ratio * ratio
    signed = xp.where(magnitude < scale, xp.ones_like(square), -square)
    return signed * (1.0 - square) / ((1.0 + square) * (1.0 + square))


def cauchy_loss(predictions: ArrayT, targets: Array, *, scale: float = 1.0, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of ½c² log(1 + (e/c)²), e = predictions − targets, c = scale.

    Up to a factor and a constant, the loss is −log of the density of a Cauchy distribution of scale c. The gradient of
    an error e far above c falls as c²/e.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        scale: c > 0, in the unit of the error. With c = 2.3849 an estimate from Gaussian errors is 95 % efficient.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, scale is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = 2 and c = 2: ½ · 4 log 2 = 1.386294…

        >>> import numpy as np
        >>> round(float(cauchy_loss(np.array([2.0]), np.array([0.0]), scale=2.0)), 6)
        1.386294

    Source:
        P. W. Holland and R. E. Welsch, Robust Regression Using Iteratively Reweighted Least-Squares, 1977.
        https://doi.org/10.1080/03610927708827533
    """
    return _cauchy.value(predictions, targets, scale, **reduction)


@gradient_of(
    cauchy_loss,
    terms=_cauchy,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def cauchy_loss_gradient(
    predictions: ArrayT, targets: Array, *, scale: float = 1.0, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """e / (1 + (e/c)²) / n.

    Example:
        2 / (1 + 1) / 2 = ½.

        >>> import numpy as np
        >>> cauchy_loss_gradient(np.array([2.0, 0.0]), np.array([0.0, 0.0]), scale=2.0).tolist()
        [0.5, 0.0]
    """
    return _cauchy.gradient(predictions, targets, scale, **reduction)


@elementwise(predictions=REAL, targets=REAL, scale=SCALE, written_out=True)
def _tukey_biweight(xp: Any, predictions: Array, targets: Array, scale: float) -> tuple[Array, Array]:
    clipped = xp.minimum(xp.maximum(predictions - targets, -scale), scale)
    ratio = clipped / scale
    square = ratio * ratio
    rest = 1.0 - square
    # 1 − (1 − s)³ = s (3 − s (3 − s)), which does not cancel
    return clipped * clipped * (3.0 - square * (3.0 - square)) / 6, clipped * (rest * rest)


def _tukey_biweight_weight(xp: Any, predictions: Array, targets: Array, scale: float) -> Array:
    """ψ / e = (1 − (e / c)²)²."""
    ratio = xp.minimum(xp.abs(predictions - targets), scale) / scale
    rest = 1.0 - ratio * ratio
    return rest * rest


@_tukey_biweight.curvature(bound=_tukey_biweight_weight)
def _tukey_biweight_curvature(xp: Any, predictions: Array, targets: Array, scale: float) -> Array:
    ratio = xp.minimum(xp.abs(predictions - targets), scale) / scale
    square = ratio * ratio
    return (1.0 - square) * (1.0 - 5.0 * square)


def tukey_biweight_loss(
    predictions: ArrayT, targets: Array, *, scale: float = 4.685, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of c²/6 (1 − (1 − (e/c)²)³) where |e| ≤ c and c²/6 elsewhere, e = predictions − targets, c = scale.

    An error beyond c has no influence: its gradient is 0. So start from a fit with most errors below c.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        scale: c > 0, in the unit of the error. By default an estimate from Gaussian errors of variance 1 is 95 %
            efficient.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, scale is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        e = (1, 9) and c = 2: 4/6 (1 − (3/4)³) = 37/96, and 4/6; their mean is 101/192 = 0.526041…

        >>> import numpy as np
        >>> round(float(tukey_biweight_loss(np.array([1.0, 9.0]), np.array([0.0, 0.0]), scale=2.0)), 6)
        0.526042

    Source:
        A. E. Beaton and J. W. Tukey, The Fitting of Power Series, Meaning Polynomials, Illustrated on
        Band-Spectroscopic Data, 1974. https://doi.org/10.1080/00401706.1974.10489171
    """
    return _tukey_biweight.value(predictions, targets, scale, **reduction)


@gradient_of(
    tukey_biweight_loss,
    terms=_tukey_biweight,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def tukey_biweight_loss_gradient(
    predictions: ArrayT, targets: Array, *, scale: float = 4.685, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """e (1 − (e/c)²)² / n where |e| ≤ c, and 0 elsewhere.

    Example:
        (1 − ¼)² / 2 = 9/32.

        >>> import numpy as np
        >>> tukey_biweight_loss_gradient(np.array([1.0, 9.0]), np.array([0.0, 0.0]), scale=2.0).tolist()
        [0.28125, 0.0]
    """
    return _tukey_biweight.gradient(predictions, targets, scale, **reduction)


@elementwise(predictions=REAL, targets=REAL, alpha=Interval(-math.inf, 2.0, closed_above=True), scale=SCALE, steep=True)
def _general_robust(xp: Any, predictions: Array, targets: Array, alpha: float, scale: float) -> tuple[Array, Array]:
    ratio = (predictions - targets) / scale
    distance = xp.where(ratio != ratio, ratio, 2.0 - alpha)  # b = 2 − α, as an array
    divisor = xp.where(distance > 0.0, distance, 1.0)
    x = xp.abs(ratio) / xp.sqrt(divisor)
    larger = xp.maximum(x, 1.0)
    log = 2.0 * xp.log(larger) + xp.log1p((xp.minimum(x, 1.0) / larger) ** 2)  # log(1 + x²), where x² could overflow
    exponent = 0.5 * alpha * log
    # for α = 2 the divisor 1 gives the limit, too
    value = xp.where(exponent == 0.0, 0.5 * divisor * log, divisor / alpha * xp.expm1(exponent))
    half = xp.exp(-0.25 * distance * log)  # the root of (1 + x²)^(−b/2), which could vanish where the slope does not
    return value, half * product(xp, half, ratio) / scale


def _general_robust_weight(xp: Any, predictions: Array, targets: Array, alpha: float, scale: float) -> Array:
    """ψ / e = (1 + u)^(−b/2) / c², u = (e / c)² / b, b = 2 − α."""
    return _general_robust_parts(xp, predictions, targets, alpha, scale)[0]


def _general_robust_parts(xp: Any, predictions: Array, targets: Array, alpha: float, scale: float) -> tuple[Any, Any]:
    """Return ψ / e, and b u / (1 + u)."""
    ratio = (predictions - targets) / scale
    distance = xp.where(ratio != ratio, ratio, 2.0 - alpha)
    x = xp.abs(ratio / xp.sqrt(xp.where(distance > 0.0, distance, 1.0)))
    smaller, larger = xp.minimum(x, 1.0), xp.maximum(x, 1.0)
    square = (smaller / larger) ** 2
    log = 2.0 * xp.log(larger) + xp.log1p(square)  # log(1 + u), where u could overflow
    part = xp.where(x < 1.0, square, 1.0) / (1.0 + square)
    return xp.exp(-0.5 * distance * log) / scale / scale, distance * part


@_general_robust.curvature(bound=_general_robust_weight)
def _general_robust_curvature(xp: Any, predictions: Array, targets: Array, alpha: float, scale: float) -> Array:
    weight, share = _general_robust_parts(xp, predictions, targets, alpha, scale)
    return weight * (1.0 - share)


def general_robust_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    alpha: float = 1.0,
    scale: float = 1.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of |α − 2|/α ((u²/|α − 2| + 1)^(α/2) − 1), u = e/c, e = predictions − targets, c = scale, α = alpha.

    The limits are taken where the formula is not defined: ½u² for α = 2 and log(½u² + 1) for α = 0. The loss is that of
    Charbonnier for α = 1, of Geman and McClure for α = −2, and near that of Welsch, 1 − e^(−½u²), for large negative α.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        alpha: α ≤ 2, the shape: the smaller α is, the less large errors count.
        scale: c > 0, in the unit of the error. Errors below c count quadratically.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, alpha is above 2, scale is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        u = √8: √(8 + 1) − 1 = 2 for α = 1, and −2 ((8/4 + 1)^(−1) − 1) = 4/3 for α = −2.

        >>> import numpy as np
        >>> error, nothing = np.sqrt(np.array([8.0])), np.array([0.0])
        >>> [round(float(general_robust_loss(error, nothing, alpha=alpha)), 6) for alpha in (1.0, -2.0)]
        [2.0, 1.333333]

    Source:
        J. T. Barron, A General and Adaptive Robust Loss Function, 2019. https://doi.org/10.1109/CVPR.2019.00446
    """
    return _general_robust.value(predictions, targets, alpha, scale, **reduction)


@gradient_of(
    general_robust_loss,
    terms=_general_robust,
    properties=(
        given("convex", alpha=Interval(1.0, 2.0, closed=True)),
        "non_negative",
        "symmetric",
        "translation_invariant",
        "zero_at_equality",
        given("constant_curvature", alpha=2.0),
    ),
)
def general_robust_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    alpha: float = 1.0,
    scale: float = 1.0,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """e/c² (u²/|α − 2| + 1)^(α/2 − 1) / n, u = e/c.

    Example:
        √8 / √(8 + 1) = 0.942809…

        >>> import numpy as np
        >>> general_robust_loss_gradient(np.sqrt(np.array([8.0])), np.array([0.0])).round(6).tolist()
        [0.942809]
    """
    return _general_robust.gradient(predictions, targets, alpha, scale, **reduction)
