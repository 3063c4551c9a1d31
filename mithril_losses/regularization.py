"""Regularization of parameters: an array, or any nesting of dicts and lists of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mithril_losses._pairs import gradient_of
from mithril_losses._reduction import spread
from mithril_losses._tree import leaves, map_leaves
from mithril_losses._validation import as_dtype, compute_dtype, quiet
from mithril_losses.backends._namespace import Array, array_namespace
from mithril_losses.domains import NON_NEGATIVE, Parameters

__all__ = [
    "l1_regularization",
    "l1_regularization_gradient",
    "l2_regularization",
    "l2_regularization_gradient",
]

_DOMAIN = {"params": Parameters(), "lambda_reg": NON_NEGATIVE}


def _strength(lambda_reg: Any) -> Any:
    if shape := tuple(getattr(lambda_reg, "shape", ())):
        raise ValueError(f"lambda_reg must be one number for all parameters, got an array of shape {shape}")
    return NON_NEGATIVE.check("lambda_reg", lambda_reg)


def _sum_over_leaves(penalty: Callable[[Any, Array], Array], params: Any, lambda_reg: float) -> Array:
    """Return λ Σ penalty(w) over all arrays of the nesting, in the dtype of the first."""
    strength = _strength(lambda_reg)
    arrays = dict(leaves(params))
    if not arrays:
        raise ValueError("params holds no array to regularize")
    xp = array_namespace(**arrays)
    with quiet(xp):
        sums = [xp.sum(penalty(xp, as_dtype(xp, w, compute_dtype(xp, w.dtype, path)))) for path, w in arrays.items()]
        total = sums[0]
        for other in sums[1:]:
            total = total + other
        return as_dtype(xp, strength * total, next(iter(arrays.values())).dtype)


def _spread_over_leaves(
    slope: Callable[[Any, Array], Array], params: Any, lambda_reg: float, upstream: float | Array
) -> Any:
    """Return λ u slope(w) in the structure of `params`."""
    strength = _strength(lambda_reg)
    arrays = dict(leaves(params))
    if not arrays:
        raise ValueError("params holds no array to regularize")
    xp = array_namespace(**arrays)

    def gradient(path: str, w: Array) -> Array:
        wide = as_dtype(xp, w, compute_dtype(xp, w.dtype, path))
        return spread(slope(xp, wide), like=w, reduction="sum", upstream=strength * upstream)

    with quiet(xp):
        return map_leaves(gradient, params)


def l1_regularization(params: Any, *, lambda_reg: float = 0.01) -> Array:
    """λ Σ |w|.

    Args:
        params: w, an array, or a dict, list or nesting of arrays of any shapes.
        lambda_reg: λ ≥ 0.

    Returns:
        A scalar: the sum over all elements of all arrays.

    Raises:
        ValueError: lambda_reg is negative, or there is no array in `params`.
        TypeError: something in `params` is no array, or not floating point.

    Example:
        ½ (1 + 2 + 3) = 3.

        >>> import numpy as np
        >>> float(l1_regularization({"w": np.array([1.0, -2.0]), "b": np.array([3.0])}, lambda_reg=0.5))
        3.0

    Source:
        R. Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996.
        https://doi.org/10.1111/j.2517-6161.1996.tb02080.x
    """
    return _sum_over_leaves(lambda xp, w: xp.abs(w), params, lambda_reg)


@gradient_of(l1_regularization, domain=_DOMAIN, kinks=lambda params, lambda_reg: tuple(w for _, w in leaves(params)))
def l1_regularization_gradient(params: Any, *, lambda_reg: float = 0.01, upstream: float | Array = 1.0) -> Any:
    """λ sign(w), with sign(0) = 0.

    Args:
        params: as in `l1_regularization`.
        lambda_reg: λ ≥ 0.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Raises:
        ValueError: as in `l1_regularization`.
        TypeError: as in `l1_regularization`.

    Example:
        >>> import numpy as np
        >>> l1_regularization_gradient([np.array([1.0, -2.0, 0.0])], lambda_reg=0.5)
        [array([ 0.5, -0.5,  0. ])]
    """
    return _spread_over_leaves(lambda xp, w: xp.sign(w), params, lambda_reg, upstream)


def l2_regularization(params: Any, *, lambda_reg: float = 0.01) -> Array:
    """½ λ Σ w².

    Args:
        params: w, an array, or a dict, list or nesting of arrays of any shapes.
        lambda_reg: λ ≥ 0.

    Returns:
        A scalar: the sum over all elements of all arrays.

    Raises:
        ValueError: lambda_reg is negative, or there is no array in `params`.
        TypeError: something in `params` is no array, or not floating point.

    Example:
        ½ · ½ (1 + 4 + 9) = 3.5.

        >>> import numpy as np
        >>> float(l2_regularization({"w": np.array([1.0, -2.0]), "b": np.array([3.0])}, lambda_reg=0.5))
        3.5

    Source:
        A. E. Hoerl and R. W. Kennard, Ridge Regression, 1970. https://doi.org/10.1080/00401706.1970.10488634
    """
    return _sum_over_leaves(lambda xp, w: 0.5 * w * w, params, lambda_reg)


@gradient_of(l2_regularization, domain=_DOMAIN)
def l2_regularization_gradient(params: Any, *, lambda_reg: float = 0.01, upstream: float | Array = 1.0) -> Any:
    """λ w.

    Args:
        params: as in `l2_regularization`.
        lambda_reg: λ ≥ 0.
        upstream: the gradient that flows into the loss, a scalar.

    Returns:
        New arrays in the structure of `params`, each with its array's shape and dtype.

    Raises:
        ValueError: as in `l2_regularization`.
        TypeError: as in `l2_regularization`.

    Example:
        >>> import numpy as np
        >>> l2_regularization_gradient({"w": np.array([1.0, -2.0])}, lambda_reg=0.5)
        {'w': array([ 0.5, -1. ])}
    """
    return _spread_over_leaves(lambda xp, w: w, params, lambda_reg, upstream)
