"""Losses of images: how much neighbouring pixels differ, and how alike two images look."""

from __future__ import annotations

import math
from typing import Any, Literal, Unpack

from mithril_losses._pairs import FusedRows, gradient_of, value_and_gradient_of
from mithril_losses._reduction import GradientReduction, Reduction, collect, spread
from mithril_losses._stencil import apply_stencil, cut, differences, stencil_rows
from mithril_losses._validation import as_dtype, compute_dtype, quiet
from mithril_losses.backends._namespace import Array, array_namespace
from mithril_losses.domains import Choice, Images

__all__ = [
    "total_variation_loss",
    "total_variation_loss_gradient",
    "total_variation_loss_value_and_gradient",
]

# --- images and their layout ------------------------------------------------------------------------------------------


def _axes(channels_first: bool) -> tuple[int, int, int]:
    """Return the axes of rows, columns and channels, counted from the end."""
    return (-2, -1, -3) if channels_first else (-3, -2, -1)


def _require_images(name: str, x: Array, channels_first: bool) -> None:
    if len(x.shape) < 3:
        layout = "(…, channels, rows, columns)" if channels_first else "(…, rows, columns, channels)"
        raise ValueError(f"{name} must have shape {layout}, got {tuple(x.shape)}")


def _by_image(xp: Any, x: Array) -> Array:
    """Return images with their three axes made one."""
    return xp.reshape(x, (*x.shape[:-3], math.prod(x.shape[-3:])))


def _spread_over_images(slope: Array, like: Array, **reduction: Unpack[GradientReduction]) -> Array:
    """`spread` for losses that were summed over whole images."""
    rank = len(slope.shape)
    return spread(slope, like=like, summed=(rank - 3, rank - 2, rank - 1), **reduction)


# --- total variation --------------------------------------------------------------------------------------------------

Norm = Literal["l1", "isotropic", "l2_squared"]


def _l1(xp: Any, across: Array, down: Array) -> tuple[Array, Array, Array]:
    return xp.abs(across) + xp.abs(down), xp.sign(across), xp.sign(down)


def _isotropic(xp: Any, across: Array, down: Array) -> tuple[Array, Array, Array]:
    # scaled by the larger difference, so that squares neither overflow nor vanish
    scale = xp.maximum(xp.abs(across), xp.abs(down))
    positive = xp.where(scale == 0.0, 1.0, scale)
    x, y = across / positive, down / positive
    length = xp.sqrt(xp.where(scale == 0.0, 1.0, x * x + y * y))
    return scale * length, x / length, y / length


def _l2_squared(xp: Any, across: Array, down: Array) -> tuple[Array, Array, Array]:
    return across * across + down * down, 2.0 * across, 2.0 * down


_NORMS = {"l1": _l1, "isotropic": _isotropic, "l2_squared": _l2_squared}
_NORM = Choice(tuple(_NORMS))


def _variation(images: Array, norm_type: str, channels_first: bool) -> tuple[Array, Array]:
    """Return the total variation of each image and its derivative wrt each pixel."""
    xp = array_namespace(images=images)
    dtype = compute_dtype(xp, images.dtype, "images")
    _require_images("images", images, channels_first)
    rows, columns, _ = _axes(channels_first)
    terms = _NORMS[_NORM.check("norm_type", norm_type)]
    values, slope = apply_stencil(xp, terms, as_dtype(xp, images, dtype), rows, columns)
    return xp.sum(_by_image(xp, values), axis=-1), slope


def total_variation_loss(
    images: Array, *, norm_type: Norm = "l1", channels_first: bool = False, **reduction: Unpack[Reduction]
) -> Array:
    """Mean over images of Σ |∂x| + |∂y|, with ∂x and ∂y the differences to the right and to the lower neighbour.

    The sum runs over all pixels and channels. A pixel without a right (lower) neighbour has ∂x = 0 (∂y = 0).

    Args:
        images: (…, rows, columns, channels); any leading axes are the batch.
        norm_type: "l1" for |∂x| + |∂y|, "isotropic" for √(∂x² + ∂y²), "l2_squared" for ∂x² + ∂y².
        channels_first: whether the layout is (…, channels, rows, columns) instead.
        **reduction: see `reduce_loss`; the unreduced losses are one per image.

    Returns:
        A scalar (one loss per image for reduction="none").

    Raises:
        ValueError: fewer than three axes, an unknown norm, or a reduction keyword does not fit.
        TypeError: images is no array, or not floating point.

    Example:
        One image of two rows, (0, 3) and (4, 3): |3| + |4| + |0| + |−1| = 8. Isotropic: √(9 + 16) + 0 + 1 = 6.

        >>> import numpy as np
        >>> images = np.array([[[[0.0], [3.0]], [[4.0], [3.0]]]])
        >>> float(total_variation_loss(images)), float(total_variation_loss(images, norm_type="isotropic"))
        (8.0, 6.0)

    Source:
        L. I. Rudin, S. Osher and E. Fatemi, Nonlinear total variation based noise removal algorithms, 1992.
        https://doi.org/10.1016/0167-2789(92)90242-F
    """
    with quiet(array_namespace(images=images)):
        values, _ = _variation(images, norm_type, channels_first)
        return collect(values, like=images, **reduction)


def _variation_kinks(images: Array, norm_type: str, channels_first: bool) -> tuple[Array, ...]:
    """Return, for each pixel, what vanishes where a term that it takes part in has no derivative."""
    xp = array_namespace(images=images)
    rows, columns, _ = _axes(channels_first)
    if norm_type == "l2_squared":
        return ()
    if norm_type == "l1":
        edges = [(xp.abs(differences(xp, images, axis)) + _last(xp, images, axis), axis) for axis in (rows, columns)]
        return tuple(xp.minimum(edge, _shifted(xp, edge, axis)) for edge, axis in edges)
    length, *_ = _isotropic(xp, differences(xp, images, columns), differences(xp, images, rows))
    length = length + _last(xp, images, rows) * _last(xp, images, columns)
    return length, _shifted(xp, length, rows), _shifted(xp, length, columns)


def _last(xp: Any, x: Array, axis: int) -> Array:
    """Return ones where a pixel has no neighbour along an axis, and zeros elsewhere."""
    others, last = cut(x, axis, slice(None, -1)), cut(x, axis, slice(-1, None))
    return xp.concat([xp.zeros_like(others), xp.ones_like(last)], axis=axis)


def _shifted(xp: Any, x: Array, axis: int) -> Array:
    """Return what the neighbour before has, and ones where there is none."""
    return xp.concat([xp.ones_like(cut(x, axis, slice(-1, None))), cut(x, axis, slice(None, -1))], axis=axis)


@gradient_of(
    total_variation_loss,
    domain={"images": Images(4, 3, 2), "norm_type": _NORM, "channels_first": "boolean"},
    kinks=_variation_kinks,
    fused_rows=lambda images, norm_type, channels_first: _variation_rows(images, norm_type, channels_first),
)
def total_variation_loss_gradient(
    images: Array, *, norm_type: Norm = "l1", channels_first: bool = False, **reduction: Unpack[GradientReduction]
) -> Array:
    """(s(x − left) − s(right − x) + s(x − upper) − s(lower − x)) / B, with s = sign for "l1"; no neighbour, no term.

    s(d) = 2 d for "l2_squared". "isotropic": s = ∂x / √(∂x² + ∂y²) and ∂y / √(∂x² + ∂y²) at the pixel that the two
    differences start from. 0 where a difference is 0, or both.

    Args:
        images: as in `total_variation_loss`; likewise all other arguments.
        norm_type: "l1", "isotropic" or "l2_squared".
        channels_first: whether the layout is (…, channels, rows, columns).
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        A new array with the shape and dtype of the images.

    Raises:
        ValueError: as in `total_variation_loss`.
        TypeError: as in `total_variation_loss`.

    Example:
        Both differences of the first pixel are positive, the second row falls: −1 − 1, 1 − 0, 1 + 1, −1 + 0.

        >>> import numpy as np
        >>> images = np.array([[[[0.0], [3.0]], [[4.0], [3.0]]]])
        >>> total_variation_loss_gradient(images)[0, :, :, 0].tolist()
        [[-2.0, 1.0], [2.0, -1.0]]
    """
    with quiet(array_namespace(images=images)):
        _, slope = _variation(images, norm_type, channels_first)
        return _spread_over_images(slope, images, **reduction)


@value_and_gradient_of(total_variation_loss)
def total_variation_loss_value_and_gradient(
    images: Array,
    *,
    norm_type: Norm = "l1",
    channels_first: bool = False,
    upstream: float | Array = 1.0,
    **reduction: Unpack[Reduction],
) -> tuple[Array, Array]:
    """`total_variation_loss` and `total_variation_loss_gradient`, whose differences are taken once.

    Args:
        images: as in `total_variation_loss`; likewise all other arguments.
        norm_type: "l1", "isotropic" or "l2_squared".
        channels_first: whether the layout is (…, channels, rows, columns).
        upstream: the gradient that flows into the loss.
        **reduction: see `reduce_loss`.

    Returns:
        The value and the gradient.

    Example:
        >>> import numpy as np
        >>> value, gradient = total_variation_loss_value_and_gradient(np.array([[[[0.0], [3.0]]]]))
        >>> float(value), gradient.tolist()
        (3.0, [[[[-1.0], [1.0]]]])
    """
    with quiet(array_namespace(images=images)):
        values, slope = _variation(images, norm_type, channels_first)
        gradient = _spread_over_images(slope, images, upstream=upstream, **reduction)
        return collect(values, like=images, **reduction), gradient


def _variation_rows(images: Any, norm_type: str, channels_first: bool) -> FusedRows | None:
    """Return the loops over NumPy images, having checked the arguments."""
    _require_images("images", images, channels_first)
    return stencil_rows(_NORMS[_NORM.check("norm_type", norm_type)], images, channels_first=channels_first)
