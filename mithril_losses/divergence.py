"""Divergences between probability distributions over the last axis, in nats."""

from __future__ import annotations

import sys
from typing import Any, Literal, Unpack

from mithril_losses._pairs import gradient_of
from mithril_losses._reduction import GradientReduction, Reduction, collect, reduce_loss, spread_each
from mithril_losses._stable import floored, log_floored, never_negative, product
from mithril_losses._validation import as_dtype, quiet, require_same_shape, widest_dtype
from mithril_losses.backends._namespace import Array, array_namespace, namespace_of
from mithril_losses.domains import Choice, Distributions

__all__ = [
    "kl_divergence",
    "kl_divergence_gradient",
    "reverse_kl_divergence",
    "reverse_kl_divergence_gradient",
]

Argument = Literal["predictions", "targets"]
_ARGUMENT = Choice(("predictions", "targets"))
_DOMAIN = {"predictions": Distributions(), "targets": Distributions()}


def _open(predictions: Array, targets: Array) -> tuple[Any, Array, Array]:
    xp = array_namespace(predictions=predictions, targets=targets)
    require_same_shape(predictions=predictions, targets=targets)
    if len(predictions.shape) == 0:
        raise ValueError("a distribution needs at least one axis, got a scalar")
    dtype = widest_dtype(xp, predictions=predictions, targets=targets)
    return xp, as_dtype(xp, predictions, dtype), as_dtype(xp, targets, dtype)


def _kl(xp: Any, p: Array, q: Array) -> Array:
    """Σ p log(p/q) over the last axis: 0 · log 0 = 0, and +inf where p > 0 = q."""
    rows = xp.sum(product(xp, p, xp.log(p) - xp.log(q)), axis=-1)
    return never_negative(xp, rows, terms=p.shape[-1], scale=xp.sum(p, axis=-1))


def _kl_slope_p(xp: Any, p: Array, q: Array) -> Array:
    """∂/∂p = log(p/q) + 1, finite also at p = 0."""
    return log_floored(xp, p) - log_floored(xp, q) + 1.0


def _kl_slope_q(xp: Any, p: Array, q: Array, dtype: Any) -> Array:
    """∂/∂q = −p/q, and 0 where p = q = 0; with q floored so that `dtype`, that of the gradient, holds it."""
    return -p / floored(xp, q, dtype)


def kl_divergence(predictions: Any, targets: Any, **reduction: Unpack[Reduction]) -> Array:
    """Mean over rows of KL(p‖q) = Σ p log(p/q), p = predictions, q = targets.

    Args:
        predictions: p, probabilities over the last axis; or a distribution object with a method `kl_divergence`
            (distrax), or a torch distribution.
        targets: q, the same shape; or a distribution of the same kind.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one divergence per row for reduction="none"). 0 log 0 counts as 0; p > 0 against q = 0 is +inf.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is no array, or not floating point.

    Example:
        ½ log(½ / ¼) + ½ log(½ / ¾) = ½ log(4/3) = 0.143841…

        >>> import numpy as np
        >>> round(float(kl_divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75]))), 6)
        0.143841

    Source:
        S. Kullback and R. A. Leibler, On Information and Sufficiency, 1951. https://doi.org/10.1214/aoms/1177729694
    """
    if namespace_of(predictions) is None and (values := _between_distributions(predictions, targets)) is not None:
        return reduce_loss(values, **reduction)
    xp, p, q = _open(predictions, targets)
    with quiet(xp):
        return collect(_kl(xp, p, q), like=predictions, **reduction)


def _between_distributions(p: Any, q: Any) -> Array | None:
    """Return KL(p‖q) of two distribution objects, None for anything else."""
    if callable(getattr(p, "kl_divergence", None)):
        return p.kl_divergence(q)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(p, torch.distributions.Distribution):
        return torch.distributions.kl_divergence(p, q)
    return None


@gradient_of(kl_divergence, on_request=("targets",), domain=_DOMAIN)
def kl_divergence_gradient(
    predictions: Array,
    targets: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(log(p/q) + 1) / B; wrt targets −(p/q) / B.

    At p = 0, where the one-sided derivative is −inf, log p is taken at the dtype's smallest normal number; so is q.

    Args:
        predictions: p, an array; distribution objects have a value only.
        targets: q.
        wrt: "predictions", "targets", or a tuple of both.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        A new array with the shape and dtype of the argument, or a dict of them by name if `wrt` is a tuple.

    Raises:
        ValueError: as in `kl_divergence`, or `wrt` names something else.
        TypeError: as in `kl_divergence`.

    Example:
        >>> import numpy as np
        >>> kl_divergence_gradient(np.array([0.5, 0.5]), np.array([0.5, 0.5])).tolist()
        [1.0, 1.0]
        >>> kl_divergence_gradient(np.array([0.5, 0.5]), np.array([0.25, 0.5]), wrt="targets").tolist()
        [-2.0, -1.0]
    """
    xp, p, q = _open(predictions, targets)
    with quiet(xp):
        slopes = {
            name: _kl_slope_p(xp, p, q) if name == "predictions" else _kl_slope_q(xp, p, q, targets.dtype)
            for name in _wanted(wrt)
        }
        gradients = spread_each(slopes, {"predictions": predictions, "targets": targets}, **reduction)
    return gradients if isinstance(wrt, tuple) else gradients[wrt]


def reverse_kl_divergence(predictions: Array, targets: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean over rows of KL(q‖p) = Σ q log(q/p), p = predictions, q = targets.

    This is the direction of `torch.nn.functional.kl_div`, keras and optax.

    Args:
        predictions: p, probabilities over the last axis.
        targets: q, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one divergence per row for reduction="none"). 0 log 0 counts as 0; q > 0 against p = 0 is +inf.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is no array, or not floating point.

    Example:
        ½ log(½ / ¼) + ½ log(½ / ¾) = ½ log(4/3) = 0.143841…

        >>> import numpy as np
        >>> round(float(reverse_kl_divergence(np.array([0.25, 0.75]), np.array([0.5, 0.5]))), 6)
        0.143841

    Source:
        S. Kullback and R. A. Leibler, On Information and Sufficiency, 1951. https://doi.org/10.1214/aoms/1177729694
    """
    xp, p, q = _open(predictions, targets)
    with quiet(xp):
        return collect(_kl(xp, q, p), like=predictions, **reduction)


@gradient_of(reverse_kl_divergence, on_request=("targets",), domain=_DOMAIN)
def reverse_kl_divergence_gradient(
    predictions: Array,
    targets: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """−(q/p) / B; wrt targets (log(q/p) + 1) / B.

    At q = 0, where the one-sided derivative wrt targets is −inf, log q is taken at the dtype's smallest normal number.

    Args:
        predictions: p.
        targets: q.
        wrt: "predictions", "targets", or a tuple of both.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        A new array with the shape and dtype of the argument, or a dict of them by name if `wrt` is a tuple.

    Raises:
        ValueError: as in `reverse_kl_divergence`, or `wrt` names something else.
        TypeError: as in `reverse_kl_divergence`.

    Example:
        >>> import numpy as np
        >>> reverse_kl_divergence_gradient(np.array([0.25, 0.5]), np.array([0.5, 0.5])).tolist()
        [-2.0, -1.0]
    """
    xp, p, q = _open(predictions, targets)
    with quiet(xp):
        slopes = {
            name: _kl_slope_q(xp, q, p, predictions.dtype) if name == "predictions" else _kl_slope_p(xp, q, p)
            for name in _wanted(wrt)
        }
        gradients = spread_each(slopes, {"predictions": predictions, "targets": targets}, **reduction)
    return gradients if isinstance(wrt, tuple) else gradients[wrt]


def _wanted(wrt: Any) -> tuple[str, ...]:
    return tuple(_ARGUMENT.check("wrt", name) for name in (wrt if isinstance(wrt, tuple) else (wrt,)))
