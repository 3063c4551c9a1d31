"""Regression losses: the error e = predictions − targets, element by element."""

from __future__ import annotations

from typing import Any, Unpack

from mithril_losses._elementwise import elementwise
from mithril_losses._pairs import gradient_of
from mithril_losses._reduction import GradientReduction, Reduction
from mithril_losses.backends._namespace import Array
from mithril_losses.domains import POSITIVE, REAL

__all__ = [
    "huber_loss",
    "huber_loss_gradient",
    "mae_loss",
    "mae_loss_gradient",
    "mse_loss",
    "mse_loss_gradient",
]


@elementwise(predictions=REAL, targets=REAL)
def _squared_error(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    error = predictions - targets
    return error * error, 2.0 * error


def mse_loss(predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean of e², e = predictions − targets.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        The mean squared error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is no array, or predictions are not floating point.

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


@gradient_of(mse_loss, terms=_squared_error)
def mse_loss_gradient(predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> Array:
    """2e / n.

    Args:
        predictions: as in `mse_loss`; likewise `targets`.
        targets: ground truth.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt predictions, a new array of their shape and dtype.

    Raises:
        ValueError: as in `mse_loss`.
        TypeError: as in `mse_loss`.

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


def mae_loss(predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean of |e|, e = predictions − targets.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        The mean absolute error, a scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is no array, or predictions are not floating point.

    Example:
        e = (−1, 2, 0): (1 + 2 + 0) / 3 = 1.

        >>> import numpy as np
        >>> float(mae_loss(np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, 3.0])))
        1.0

    Source:
        P.-S. Laplace, Mémoire sur la probabilité des causes par les évènements, 1774.
    """
    return _absolute_error.value(predictions, targets, **reduction)


@gradient_of(mae_loss, terms=_absolute_error)
def mae_loss_gradient(predictions: Array, targets: Array, **reduction: Unpack[GradientReduction]) -> Array:
    """sign(e) / n, with sign(0) = 0.

    Args:
        predictions: as in `mae_loss`; likewise `targets`.
        targets: ground truth.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt predictions, a new array of their shape and dtype.

    Raises:
        ValueError: as in `mae_loss`.
        TypeError: as in `mae_loss`.

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


def huber_loss(predictions: Array, targets: Array, *, delta: float = 1.0, **reduction: Unpack[Reduction]) -> Array:
    """Mean of ½e² where |e| ≤ δ and δ(|e| − ½δ) elsewhere, e = predictions − targets.

    Args:
        predictions: model outputs, any shape.
        targets: ground truth, the same shape.
        delta: δ > 0, where the loss turns from quadratic to linear, in the unit of the error.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, delta is not positive, or a reduction keyword does not fit.
        TypeError: an argument is no array, or predictions are not floating point.

    Example:
        e = (0.5, −3): (½·0.25 + 1·(3 − ½)) / 2 = 1.3125.

        >>> import numpy as np
        >>> float(huber_loss(np.array([0.5, -3.0]), np.array([0.0, 0.0])))
        1.3125

    Source:
        P. J. Huber, Robust Estimation of a Location Parameter, 1964. https://doi.org/10.1214/aoms/1177703732
    """
    return _huber.value(predictions, targets, delta, **reduction)


@gradient_of(huber_loss, terms=_huber)
def huber_loss_gradient(
    predictions: Array, targets: Array, *, delta: float = 1.0, **reduction: Unpack[GradientReduction]
) -> Array:
    """clip(e, −δ, δ) / n.

    Args:
        predictions: as in `huber_loss`; likewise `targets` and `delta`.
        targets: ground truth.
        delta: δ > 0.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt predictions, a new array of their shape and dtype.

    Raises:
        ValueError: as in `huber_loss`.
        TypeError: as in `huber_loss`.

    Example:
        >>> import numpy as np
        >>> huber_loss_gradient(np.array([0.5, -3.0]), np.array([0.0, 0.0])).tolist()
        [0.25, -0.5]
    """
    return _huber.gradient(predictions, targets, delta, **reduction)
