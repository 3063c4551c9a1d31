"""Losses of images: how much neighbouring pixels differ, and how similar two images look."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace, placement
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import FLAG, POSITIVE, Choice, Images, Interval, Odd, ScaleWeights
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.validation import as_dtype, compute_dtype, quiet, require_one_number, require_same_shape
from mithril_losses.templates.images import image_axes, require_images, require_maps
from mithril_losses.templates.loop import Loop
from mithril_losses.templates.stencil import (
    apply_stencil,
    cut,
    differences,
    each_group,
    over_planes,
    second_of_stencil,
    stencil_rows,
)
from mithril_losses.templates.unreduced import Curvature, Losses, Wanted, unreduced

__all__ = [
    "multi_scale_ssim_loss",
    "multi_scale_ssim_loss_gradient",
    "multi_scale_ssim_loss_value_and_gradient",
    "ssim_loss",
    "ssim_loss_gradient",
    "ssim_loss_value_and_gradient",
    "total_variation_loss",
    "total_variation_loss_gradient",
    "total_variation_loss_value_and_gradient",
]


def _by_image(xp: Any, x: Array) -> Array:
    """Return images with their three axes flattened into one."""
    return xp.reshape(x, (*x.shape[:-3], math.prod(x.shape[-3:])))


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


def _isotropic_second(xp: Any, across: Array, down: Array) -> tuple[Array, Array, Array]:
    """(I − u uᵀ) / r of u = (∂x, ∂y) / r, and 0 where both differences are 0."""
    length, x, y = _isotropic(xp, across, down)
    inverse = xp.where(length == 0.0, 0.0, 1.0 / xp.where(length == 0.0, 1.0, length))
    return inverse * y * y, -inverse * x * y, inverse * x * x


# the second derivatives of a pixel's term by its two differences: ∂²/∂x², ∂²/∂x∂y, ∂²/∂y²
_SECONDS = {
    "l1": lambda xp, across, down: (xp.zeros_like(across), xp.zeros_like(across), xp.zeros_like(down)),
    "isotropic": _isotropic_second,
    "l2_squared": lambda xp, across, down: (
        2.0 * xp.ones_like(across),
        xp.zeros_like(across),
        2.0 * xp.ones_like(down),
    ),
}
_NORMS = {"l1": _l1, "isotropic": _isotropic, "l2_squared": _l2_squared}
_NORM = Choice(tuple(_NORMS))


def _variation_kinks(images: Array, norm_type: str, channels_first: bool) -> tuple[Array, ...]:
    """Return, for each pixel, what vanishes where a term that contains this pixel has no derivative."""
    xp = array_namespace(images=images)
    rows, columns, _ = image_axes(channels_first)
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
    """Return the values of the previous neighbours along an axis, and ones where there is none."""
    return xp.concat([xp.ones_like(cut(x, axis, slice(-1, None))), cut(x, axis, slice(None, -1))], axis=axis)


def _variation_rows(images: Any, norm_type: str, channels_first: bool) -> Loop | None:
    """Check the arguments, and return the loops over NumPy images."""
    require_images("images", images, channels_first)
    return stencil_rows(_NORMS[norm_type], images, channels_first=channels_first)


@unreduced(
    curved=True,
    loop=_variation_rows,
    kinks=_variation_kinks,
    images=Images(4, 3, 2),
    norm_type=_NORM,
    channels_first=FLAG,
)
def _variation(images: Array, norm_type: str, channels_first: bool, wanted: Wanted) -> Losses:
    xp = array_namespace(images=images)
    dtype = compute_dtype(xp, images.dtype, "images")
    require_images("images", images, channels_first)
    rows, columns, _ = image_axes(channels_first)
    values, slope = apply_stencil(xp, _NORMS[norm_type], as_dtype(xp, images, dtype), rows, columns)

    def curvature() -> Curvature:
        x = as_dtype(xp, images, dtype)
        second = second_of_stencil(xp, _SECONDS[norm_type], x, rows, columns)
        return Curvature(
            lambda vectors: {"images": second.product(vectors["images"])},
            lambda: {"images": second.diagonal()},
            lambda: {"images": second.bound()},
        )

    return Losses(xp.sum(_by_image(xp, values), axis=-1), lambda: {"images": slope}, curvature=curvature)


def total_variation_loss(
    images: ArrayT, *, norm_type: Norm = "l1", channels_first: bool = False, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean over images of Σ |∂x| + |∂y|, with ∂x and ∂y the differences to the right and to the lower neighbour.

    The sum runs over all pixels and channels. A pixel without a right (lower) neighbour has ∂x = 0 (∂y = 0).

    Args:
        images: (batch, …, rows, columns, channels). Three axes raise, because they could be one image or a batch of
            images of one channel.
        norm_type: "l1" for |∂x| + |∂y|, "isotropic" for √(∂x² + ∂y²), "l2_squared" for ∂x² + ∂y².
        channels_first: whether the layout is (batch, …, channels, rows, columns) instead.
        **reduction: see `reduce_loss`; the unreduced losses are one per image.

    Returns:
        A scalar (one loss per image for reduction="none").

    Raises:
        ValueError: fewer than four axes, an unknown norm, or a reduction keyword does not fit.
        TypeError: images is not an array, or not floating point.

    Example:
        One image of two rows, (0, 3) and (4, 3): |3| + |4| + |0| + |−1| = 8. Isotropic: √(9 + 16) + 0 + 1 = 6.

        >>> import numpy as np
        >>> images = np.array([[[[0.0], [3.0]], [[4.0], [3.0]]]])
        >>> float(total_variation_loss(images)), float(total_variation_loss(images, norm_type="isotropic"))
        (8.0, 6.0)

    Source:
        L. I. Rudin, S. Osher and E. Fatemi, Nonlinear total variation based noise removal algorithms, 1992, which is
        "isotropic"; the default is its anisotropic form. https://doi.org/10.1016/0167-2789(92)90242-F
    """
    return _variation.value(images, norm_type, channels_first, **reduction)


@gradient_of(
    total_variation_loss,
    terms=_variation,
    properties=(
        "convex",
        "non_negative",
        "translation_invariant",
        given("constant_curvature", norm_type=("l1", "l2_squared")),
        given("zero_curvature", norm_type="l1"),
    ),
)
def total_variation_loss_gradient(
    images: ArrayT, *, norm_type: Norm = "l1", channels_first: bool = False, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(s(x − left) − s(right − x) + s(x − upper) − s(lower − x)) / B, with s = sign for "l1"; no neighbour, no term.

    s(d) = 2 d for "l2_squared". For "isotropic", s is ∂x / √(∂x² + ∂y²) and ∂y / √(∂x² + ∂y²) at the pixel where both
    differences start. The slope is 0 where the difference ("isotropic": both differences) is 0.

    Example:
        Both differences of the first pixel are positive; the second row decreases: −1 − 1, 1 − 0, 1 + 1, −1 + 0.

        >>> import numpy as np
        >>> images = np.array([[[[0.0], [3.0]], [[4.0], [3.0]]]])
        >>> total_variation_loss_gradient(images)[0, :, :, 0].tolist()
        [[-2.0, 1.0], [2.0, -1.0]]
    """
    return _variation.gradient(images, norm_type, channels_first, **reduction)


total_variation_loss_value_and_gradient = both_of(total_variation_loss_gradient)


# --- structural similarity --------------------------------------------------------------------------------------------

_WINDOW_SIZE, _SIGMA = Odd(), Interval(0.0, static=True)


class _Similarity(NamedTuple):
    """The dissimilarity of two images around each position, and the quantities that its derivatives need.

    All are Gaussian means: μ of each image, δ of their difference, and second moments. Both images are first shifted by
    a constant near their mean. No variance changes by that, and the second moments no longer cancel.
    """

    luminance: Array  # a = δ² / m, that is 1 − l
    structure: Array  # b = σ²_(x−y) / v, that is 1 − c s
    x: Array  # the first image, shifted
    difference: Array  # x − y
    delta: Array
    mean: Array  # μ_x
    moved_mean: Array  # the mean of the shifted image
    means: Array  # m = μ_x² + μ_y² + c₁
    variances: Array  # v = σ_x² + σ_y² + c₂

    @property
    def distance(self) -> Array:
        """1 − l c s = 1 − (1 − a)(1 − b)."""
        return self.luminance + self.structure - self.luminance * self.structure

    @property
    def slopes(self) -> tuple[Array, Array]:
        """The derivatives of `distance` wrt a and b."""
        return 1.0 - self.structure, 1.0 - self.luminance


class _Comparison(NamedTuple):
    """The window and the constants with which two images are compared."""

    window: tuple[float, ...]
    axes: tuple[int, int]
    c1: Any
    c2: Any

    def similarity(self, xp: Any, x: Array, y: Array) -> _Similarity:
        level = 0.5 * xp.mean(x + y, axis=self.axes, keepdims=True)
        x, y, difference = x - level, y - level, x - y
        maps = [x, difference, difference * difference, x * x + y * y]
        moved, delta, square, moment = _each(xp, _filtered, maps, self.window, self.axes)
        moved_y, mean = moved - delta, moved + level
        means = mean * mean + (mean - delta) ** 2 + self.c1
        variances = xp.maximum(moment - moved * moved - moved_y * moved_y, 0.0) + self.c2
        luminance, structure = delta * delta / means, xp.maximum(square - delta * delta, 0.0) / variances
        return _Similarity(luminance, structure, x, difference, delta, mean, moved, means, variances)

    def pull(self, xp: Any, at: _Similarity, by_luminance: Any, by_structure: Any) -> Array:
        """Return the derivative wrt x of a function with these derivatives wrt a and b."""
        by_moment = by_structure / at.variances
        by_mean = by_luminance * 2.0 * (at.delta - at.luminance * at.mean) / at.means
        by_mean = by_mean + by_moment * 2.0 * (at.structure * at.moved_mean - at.delta)
        maps = [by_mean, by_moment, by_moment * at.structure]
        by_mean, by_square, by_moment = _each(xp, _spread_by_filter, maps, self.window, self.axes)
        return by_mean + 2.0 * (at.difference * by_square - at.x * by_moment)


def _gaussian(size: int, sigma: float) -> tuple[float, ...]:
    """Return a Gaussian window that sums to 1 exactly, so that no variance depends on the shift of the images."""
    heights = [math.exp(-0.5 * ((i - size // 2) / sigma) ** 2) for i in range(size)]
    unit = 2.0**-52  # sums of integer multiples of the unit are not rounded
    side = [round(height / sum(heights) / unit) * unit for height in heights[: size // 2]]
    return (*side, 1.0 - 2.0 * sum(side), *reversed(side))


def _each(xp: Any, function: Callable[..., Array], maps: list[Array], *arguments: Any) -> list[Array]:
    """Return each map filtered: in NumPy one by one, so that they stay in the cache, elsewhere all at once."""
    if xp is np:
        return [function(xp, x, *arguments) for x in maps]
    found = function(xp, xp.stack(maps), *arguments)
    return [found[i, ...] for i in range(len(maps))]


def _filtered(xp: Any, x: Array, window: tuple[float, ...], axes: tuple[int, int]) -> Array:
    """Return the mean of x in a symmetric window around each position where the window fits."""
    if xp is np and x.size:
        return _filtered_on_host(x, window, axes)
    size, middle = len(window), len(window) // 2
    for axis in axes:
        room = x.shape[axis] - size + 1
        parts = [cut(x, axis, slice(k, k + room)) for k in range(size)]
        x = window[middle] * parts[middle]
        for k in range(middle):
            x = x + window[k] * (parts[k] + parts[size - 1 - k])
    return x


_PIECE = 1 << 16  # elements that are filtered at a time, so that they fit into the second-level cache


def _filtered_on_host(x: Any, window: tuple[float, ...], axes: tuple[int, int]) -> Any:
    """`_filtered` of x as one row: neighbours along an axis are a fixed step apart; the borders are cut off."""
    shape, size, middle = x.shape, len(window), len(window) // 2
    buffer = np.empty(min(x.size, _PIECE), x.dtype)
    for axis in axes:
        apart = math.prod(shape[axis + 1 :]) if axis < -1 else 1
        line, found = x.reshape(-1), np.zeros(x.size, x.dtype)
        end = x.size - (size - 1) * apart
        for start in range(0, end, _PIECE):
            out = found[start : min(start + _PIECE, end)]
            pair = buffer[: out.size]
            at = [line[start + k * apart :][: out.size] for k in range(size)]
            np.multiply(at[middle], window[middle], out=out)
            for k in range(middle):
                np.add(at[k], at[size - 1 - k], out=pair)
                pair *= window[k]
                out += pair
        x = found.reshape(shape)
    for axis in axes:
        x = cut(x, axis, slice(None, shape[axis] - size + 1))
    return x


def _spread_by_filter(xp: Any, slope: Array, window: tuple[float, ...], axes: tuple[int, int]) -> Array:
    """Return for each pixel the slopes of all windows that contain it, filtered: the same filter, padded with zeros."""
    for axis in axes:
        shape = list(slope.shape)
        shape[axis] = len(window) - 1
        around = xp.zeros(tuple(shape), dtype=slope.dtype, **placement(slope))
        slope = xp.concat([around, slope, around], axis=axis)
    return _filtered(xp, slope, window, axes)


def _compare(
    predictions: Array,
    targets: Array,
    scales: int,
    max_value: Any,
    window_size: int,
    sigma: float,
    k1: Any,
    k2: Any,
    channels_first: bool,
) -> tuple[Any, Array, Array, _Comparison]:
    """Check all arguments; return the namespace, both images in the dtype to compute in, and the comparison."""
    xp = array_namespace(predictions=predictions, targets=targets)
    require_same_shape(predictions=predictions, targets=targets)
    dtype = compute_dtype(xp, predictions.dtype)
    require_maps("predictions", predictions, channels_first)
    rows, columns, _ = image_axes(channels_first)
    least = window_size * 2 ** (scales - 1)
    if min(predictions.shape[rows], predictions.shape[columns]) < least:
        at = f" at {scales} scales" if scales > 1 else ""
        raise ValueError(
            f"a window of {window_size} pixels{at} needs images of at least {least}×{least}, got "
            f"{predictions.shape[rows]}×{predictions.shape[columns]}"
        )
    if predictions.shape[image_axes(channels_first)[2]] == 0:
        raise ValueError("predictions need at least one channel")
    scale = require_one_number(xp, "max_value", max_value, dtype)
    c1, c2 = ((require_one_number(xp, name, k, dtype) * scale) ** 2 for name, k in (("k1", k1), ("k2", k2)))
    window = _gaussian(window_size, sigma)
    x, y = as_dtype(xp, predictions, dtype), as_dtype(xp, targets, dtype)
    return xp, x, y, _Comparison(window, (rows, columns), c1, c2)


_COMPARED = 1 << 15  # elements that are compared at a time: with fewer, NumPy's calls take longer than their arithmetic


def _similarity_rows(predictions: Any, targets: Any, **options: Any) -> Loop | None:
    """Check the arguments; return the loop over the planes of NumPy images, or None where it does not apply."""
    channels_first = options["channels_first"]
    _, x, y, comparison = _compare(predictions, targets, 1, **options)
    if x.dtype != predictions.dtype or x.size == 0 or not (x.flags.c_contiguous and y.flags.c_contiguous):
        return None
    per_image = x.shape[-3] if channels_first else 1
    plane = x.shape[-2:] if channels_first else x.shape[-3:]
    planes, others = x.reshape(-1, *plane), y.reshape(-1, *plane)
    inside = tuple(range(1, planes.ndim))

    def losses_of(scales: Any, gradient: Any, threads: int) -> Any:
        out, losses = gradient.reshape(planes.shape), np.empty(len(planes))

        def work(group: slice) -> None:
            with quiet(np):
                at = comparison.similarity(np, planes[group], others[group])
                losses[group] = np.mean(at.distance, axis=inside) / per_image
                count = float(math.prod(at.luminance.shape[1:]) * per_image)
                by_plane = scales[group].reshape(-1, *(1 for _ in plane))
                np.multiply(comparison.pull(np, at, *(by / count for by in at.slopes)), by_plane, out=out[group])

        each_group(work, planes, _COMPARED, threads)
        return losses

    batch = tuple(x.shape[:-3])
    run = over_planes(losses_of, batch, per_image)
    return Loop(batch, None, run, run)


_COMPARED_BY: dict[str, Any] = {
    "max_value": POSITIVE,
    "window_size": _WINDOW_SIZE,
    "sigma": _SIGMA,
    "k1": POSITIVE,
    "k2": POSITIVE,
    "channels_first": FLAG,
}


@unreduced(loop=_similarity_rows, predictions=Images(4, 5, 2), targets=Images(4, 5, 2), **_COMPARED_BY)
def _ssim(
    predictions: Array,
    targets: Array,
    max_value: float,
    window_size: int,
    sigma: float,
    k1: float,
    k2: float,
    channels_first: bool,
    wanted: Wanted,
) -> Losses:
    xp, x, y, comparison = _compare(predictions, targets, 1, max_value, window_size, sigma, k1, k2, channels_first)
    at = comparison.similarity(xp, x, y)

    def slopes() -> dict[str, Array]:
        count = float(math.prod(at.luminance.shape[-3:]))
        return {"predictions": comparison.pull(xp, at, *(by / count for by in at.slopes))}

    return Losses(xp.mean(at.distance, axis=(-3, -2, -1)), slopes)


def ssim_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    max_value: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    channels_first: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over images of 1 − mean of (2 μ_x μ_y + c₁)(2 σ_xy + c₂) / ((μ_x² + μ_y² + c₁)(σ_x² + σ_y² + c₂)).

    The means μ, variances σ² and the covariance are those in a Gaussian window around a position. The outer mean runs
    over the channels and all positions whose window lies within the image. The loss is symmetric in the two images.

    Args:
        predictions: x, (…, rows, columns, channels); any leading axes are the batch.
        targets: y, the same shape.
        max_value: the dynamic range L: 1 for images in [0, 1], 255 for bytes. c₁ = (k₁ L)² and c₂ = (k₂ L)².
        window_size: pixels along a side of the window, an odd number.
        sigma: standard deviation of the window, in pixels.
        k1: k₁ > 0.
        k2: k₂ > 0.
        channels_first: whether the layout is (…, channels, rows, columns) instead.
        **reduction: see `reduce_loss`; the unreduced losses are one per image.

    Returns:
        A scalar (one loss per image for reduction="none"), 0 for equal images, at most 2.

    Raises:
        ValueError: the shapes differ, an image is smaller than the window, an option lies outside its domain, or a
            reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        Flat images of 3 and 1 have no variance: l = (2 · 3 · 1 + 2) / (9 + 1 + 2) = 2/3 with c₁ = 2, and c s = 1.

        >>> import numpy as np
        >>> x, y = np.full((1, 11, 11, 1), 3.0), np.full((1, 11, 11, 1), 1.0)
        >>> round(float(ssim_loss(x, y, k1=2**0.5)), 12)
        0.333333333333

    Source:
        Z. Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004.
        https://doi.org/10.1109/TIP.2003.819861
    """
    return _ssim.value(predictions, targets, max_value, window_size, sigma, k1, k2, channels_first, **reduction)


@gradient_of(
    ssim_loss,
    terms=_ssim,
    properties=("non_negative", "symmetric", "zero_at_equality"),
)
def ssim_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    max_value: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    channels_first: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """Gᵀ((1 − b) a′ + (1 − a) b′) + 2 (x − y) Gᵀ((1 − a) / v) − 2 x Gᵀ((1 − a) b / v), over N B, G the filter.

    A position has the loss 1 − (1 − a) (1 − b) with a = (μ_x − μ_y)² / m and b = (σ_x² + σ_y² − 2 σ_xy) / v, where
    m = μ_x² + μ_y² + c₁ and v = σ_x² + σ_y² + c₂; a′ = 2 (μ_x − μ_y − a μ_x) / m and b′ = 2 (b μ_x − μ_x + μ_y) / v. Gᵀ
    adds to each pixel the slopes of all positions whose window contains it; N counts positions and channels. The
    derivation is in the documentation.

    Example:
        One position and a window of one pixel: ℓ = 1 − (2 x y + c₁) / (x² + y² + c₁), with derivative
        (2 (x − y) − ℓ · 2 x) / (x² + y² + c₁) = (4 − 2) / 12.

        >>> import numpy as np
        >>> x, y = np.array([[[[3.0]]]]), np.array([[[[1.0]]]])
        >>> round(float(ssim_loss_gradient(x, y, window_size=1, k1=2**0.5)[0, 0, 0, 0]), 12)
        0.166666666667
    """
    return _ssim.gradient(predictions, targets, max_value, window_size, sigma, k1, k2, channels_first, **reduction)


ssim_loss_value_and_gradient = both_of(ssim_loss_gradient)


# --- structural similarity at several scales --------------------------------------------------------------------------

WANG_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SCALE_WEIGHTS = ScaleWeights()


class _Scale(NamedTuple):
    """Two images at one scale."""

    x: Array
    at: _Similarity
    distance: Array  # 1 − r for each channel


def _scales(xp: Any, x: Array, y: Array, comparison: _Comparison, count: int) -> list[_Scale]:
    found = []
    for scale in range(count):
        if scale > 0:
            x, y = _halved(x, comparison.axes), _halved(y, comparison.axes)
        at = comparison.similarity(xp, x, y)
        distance = at.structure if scale < count - 1 else at.distance
        found.append(_Scale(x, at, xp.mean(distance, axis=comparison.axes, keepdims=True)))
    return found


def _halved(x: Array, axes: tuple[int, int]) -> Array:
    """Return the means of two by two pixels; an odd last row or column is left out."""
    for axis in axes:
        even = 2 * (x.shape[axis] // 2)
        x = 0.5 * (cut(x, axis, slice(0, even, 2)) + cut(x, axis, slice(1, even, 2)))
    return x


def _doubled(xp: Any, slope: Array, like: Array, axes: tuple[int, int]) -> Array:
    """Return the slope of each pixel of `like`, given the slopes of the means: the transpose of `_halved`."""
    for axis in axes:
        shape = list(slope.shape)
        shape[axis] *= 2
        # axis counts from the end, and so do the axes before it
        pairs = xp.stack([slope, slope], axis=len(shape) + axis + 1)
        slope = 0.5 * xp.reshape(pairs, tuple(shape))
        shape[axis] = like.shape[axis] - shape[axis]
        rest = xp.zeros(tuple(shape), dtype=slope.dtype, **placement(slope))
        slope = xp.concat([slope, rest], axis=axis)
    return slope


def _multi_scale_kinks(predictions: Array, targets: Array, scale_weights: Any, **options: Any) -> tuple[Array, ...]:
    """Return, for each image, what vanishes where a factor of a channel vanishes."""
    xp, x, y, comparison = _compare(predictions, targets, len(scale_weights), **options)
    scales = _scales(xp, x, y, comparison, len(scale_weights))
    return tuple(xp.min(xp.abs(1.0 - scale.distance), axis=(-3, -2, -1)) for scale in scales)


@unreduced(
    kinks=_multi_scale_kinks,
    predictions=Images(6, 7, 1),
    targets=Images(6, 7, 1),
    scale_weights=_SCALE_WEIGHTS,
    **_COMPARED_BY,
)
def _multi_scale(
    predictions: Array,
    targets: Array,
    scale_weights: Any,
    max_value: float,
    window_size: int,
    sigma: float,
    k1: float,
    k2: float,
    channels_first: bool,
    wanted: Wanted,
) -> Losses:
    options = (max_value, window_size, sigma, k1, k2, channels_first)
    xp, x, y, comparison = _compare(predictions, targets, len(scale_weights), *options)
    scales = _scales(xp, x, y, comparison, len(scale_weights))
    lost = xp.any(xp.stack([scale.distance for scale in scales]) >= 1.0, axis=0)
    distances = [xp.where(lost, 0.0, scale.distance) for scale in scales]
    logarithm = scale_weights[0] * xp.log1p(-distances[0])
    for weight, distance in zip(scale_weights[1:], distances[1:], strict=True):
        logarithm = logarithm + weight * xp.log1p(-distance)

    def slopes() -> dict[str, Array]:
        product = xp.where(lost, 0.0, xp.exp(logarithm)) / math.prod(logarithm.shape[-3:])
        slope = None
        for weight, distance, scale in reversed(list(zip(scale_weights, distances, scales, strict=True))):
            structure = scale.at.structure
            count = float(math.prod([structure.shape[axis] for axis in comparison.axes]))
            factor = weight * product / (count * (1.0 - distance))
            if slope is None:
                slope = comparison.pull(xp, scale.at, *(factor * by for by in scale.at.slopes))
            else:
                own = comparison.pull(xp, scale.at, 0.0, factor * xp.ones_like(structure))
                slope = own + _doubled(xp, slope, scale.x, comparison.axes)
        return {"predictions": slope}

    return Losses(xp.mean(xp.where(lost, 1.0, -xp.expm1(logarithm)), axis=(-3, -2, -1)), slopes)


def multi_scale_ssim_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    scale_weights: tuple[float, ...] = WANG_WEIGHTS,
    max_value: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    channels_first: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over images and channels of 1 − Π_j r_j^w_j, with r_j the mean of c s at scale j, at the last one of l c s.

    From scale to scale, both images are halved: each new pixel is the mean of two by two. An odd last row or column is
    left out. If a mean r_j ≤ 0, the loss of its channel is 1.

    Args:
        predictions: x, (…, rows, columns, channels); any leading axes are the batch.
        targets: y, the same shape.
        scale_weights: w_j > 0, from the finest scale on. The default is the five weights of the paper, which sum to
            1.0001 and are not normalized. They need images of 176 pixels along a side.
        max_value: as in `ssim_loss`; likewise all other arguments.
        window_size: pixels along a side of the window, odd.
        sigma: standard deviation of the window, in pixels.
        k1: k₁ > 0.
        k2: k₂ > 0.
        channels_first: whether the layout is (…, channels, rows, columns) instead.
        **reduction: see `reduce_loss`; the unreduced losses are one per image.

    Returns:
        A scalar (one loss per image for reduction="none"), between 0 and 1.

    Raises:
        ValueError: the shapes differ, an image is smaller than the window at the last scale, an option lies outside its
            domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        Flat images of 3 and 1 have c s = 1, and l = 2/3 at the last scale with c₁ = 2: 1 − √(2/3) with the weight ½.

        >>> import numpy as np
        >>> x, y = np.full((1, 22, 22, 1), 3.0), np.full((1, 22, 22, 1), 1.0)
        >>> round(float(multi_scale_ssim_loss(x, y, scale_weights=(0.5, 0.5), k1=2**0.5)), 12)
        0.183503419072

    Source:
        Z. Wang, E. P. Simoncelli and A. C. Bovik, Multiscale structural similarity for image quality assessment, 2003.
        https://doi.org/10.1109/ACSSC.2003.1292216
    """
    return _multi_scale.value(
        predictions, targets, scale_weights, max_value, window_size, sigma, k1, k2, channels_first, **reduction
    )


@gradient_of(
    multi_scale_ssim_loss,
    terms=_multi_scale,
    properties=("non_negative", "symmetric", "zero_at_equality"),
)
def multi_scale_ssim_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    scale_weights: tuple[float, ...] = WANG_WEIGHTS,
    max_value: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    channels_first: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−Σ_j (w_j / r_j) Π_i r_i^w_i (Hᵀ)^(j−1) ∂r_j/∂x_j / (B C), H the halving; 0 for a channel with a mean r_j ≤ 0.

    −∂r_j/∂x_j is the gradient in `ssim_loss_gradient` for one channel at scale j, with a = a′ = 0 except at the last
    scale. Hᵀ gives a quarter of the slope of a halved pixel to each of the four pixels it came from.

    Example:
        Two by two equal pixels and a window of one, c₂ = 1: no variance, c s = 1 at both scales. At the last,
        r = (2 · 3 · 1 + 2) / 12 = 2/3 with derivative (2 − (2/3) · 6) / 12 = −1/6 wrt the mean, so the loss 1 − √r has
        −½ (2/3)^(−1/2) · (−1/6) = 0.102 wrt the mean, and a quarter of it wrt each pixel.

        >>> import numpy as np
        >>> x, y = np.full((1, 2, 2, 1), 3.0), np.full((1, 2, 2, 1), 1.0)
        >>> options = {"scale_weights": (0.5, 0.5), "window_size": 1, "k1": 2**0.5, "k2": 1.0}
        >>> multi_scale_ssim_loss_gradient(x, y, **options).ravel().round(9).tolist()
        [0.025515518, 0.025515518, 0.025515518, 0.025515518]
    """
    return _multi_scale.gradient(
        predictions, targets, scale_weights, max_value, window_size, sigma, k1, k2, channels_first, **reduction
    )


multi_scale_ssim_loss_value_and_gradient = both_of(multi_scale_ssim_loss_gradient)
