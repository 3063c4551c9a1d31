"""Losses of the differences between neighbouring pixels: terms written once, for arrays, for bands, for compiled loops.

The terms are a function `(xp, across, down) → (value, slope across, slope down)` of a pixel's differences to its right
and its lower neighbour, element-wise and in the vocabulary of element-wise terms. If a pixel has no such neighbour, the
difference is 0. If both differences are 0, the terms must be 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import Array
from mithril_losses.backends.threads import share
from mithril_losses.numerics.validation import quiet
from mithril_losses.templates.loop import Loop

Terms = Callable[[Any, Array, Array], tuple[Array, Array, Array]]
Band = Callable[[Any, int, int, Any, Any], Any]
PlaneLosses = Callable[[Any, Any, int], Any]


def apply_stencil(xp: Any, terms: Terms, images: Array, rows: int, columns: int) -> tuple[Array, Array]:
    """Return each pixel's value, and the derivative of the sum of all of them wrt each pixel.

    Args:
        xp: the namespace of the images.
        terms: the function of the differences.
        images: the images, in the dtype to compute in.
        rows: the axis of rows, along which the lower neighbour of a pixel follows.
        columns: the axis of columns, along which the right neighbour follows.
    """
    across, down = differences(xp, images, columns), differences(xp, images, rows)
    value, slope_across, slope_down = terms(xp, across, down)
    return value, _transposed(xp, slope_across, columns) + _transposed(xp, slope_down, rows)


class SecondOfStencil(NamedTuple):
    """The second derivatives of the sum of all values by each pixel: products with a vector, the diagonal, a bound."""

    product: Callable[[Array], Array]
    diagonal: Callable[[], Array]
    bound: Callable[[], Array]


def second_of_stencil(xp: Any, second: Terms, images: Array, rows: int, columns: int) -> SecondOfStencil:
    """Return the second derivatives, from those of a pixel's term by its two differences; see `apply_stencil`."""
    across, down = differences(xp, images, columns), differences(xp, images, rows)
    h_across, h_both, h_down = second(xp, across, down)
    # a difference that is always 0 has no derivative
    h_across, h_down = _without_last(xp, h_across, columns), _without_last(xp, h_down, rows)
    h_both = _without_last(xp, _without_last(xp, h_both, columns), rows)

    def product(v: Array) -> Array:
        across, down = differences(xp, v, columns), differences(xp, v, rows)
        found = _transposed(xp, h_across * across + h_both * down, columns)
        return found + _transposed(xp, h_both * across + h_down * down, rows)

    def at_both_ends(by_across: Array, by_down: Array) -> Array:
        """Return, for each pixel, the sum over the differences that it is part of."""
        return by_across + _later(xp, by_across, columns) + by_down + _later(xp, by_down, rows)

    def bound() -> Array:
        """(x − y)² ≤ 2 x² + 2 y², after the sums of the rows of |h| have replaced h."""
        size = xp.abs(h_both)
        return 2.0 * at_both_ends(h_across + size, h_down + size)

    return SecondOfStencil(product, lambda: at_both_ends(h_across, h_down) + 2.0 * h_both, bound)


def _without_last(xp: Any, x: Array, axis: int) -> Array:
    """Return x with 0 in place of its last entry along an axis."""
    return xp.concat([cut(x, axis, slice(None, -1)), xp.zeros_like(cut(x, axis, slice(-1, None)))], axis=axis)


def _later(xp: Any, x: Array, axis: int) -> Array:
    """Return xᵢ₋₁, and 0 for the first i."""
    return xp.concat([xp.zeros_like(cut(x, axis, slice(-1, None))), cut(x, axis, slice(None, -1))], axis=axis)


def differences(xp: Any, x: Array, axis: int) -> Array:
    """Return xᵢ₊₁ − xᵢ, and 0 for the last i."""
    later, earlier = cut(x, axis, slice(1, None)), cut(x, axis, slice(None, -1))
    return xp.concat([later - earlier, xp.zeros_like(cut(x, axis, slice(-1, None)))], axis=axis)


def _transposed(xp: Any, slope: Array, axis: int) -> Array:
    """Return slopeᵢ₋₁ − slopeᵢ, with 0 in place of the slope before the first one and of the last one."""
    within = cut(slope, axis, slice(None, -1))
    nothing = xp.zeros_like(cut(slope, axis, slice(-1, None)))
    return xp.concat([nothing, within], axis=axis) - xp.concat([within, nothing], axis=axis)


def cut(x: Array, axis: int, part: slice) -> Array:
    """Return a part of an array along an axis that is counted from the end."""
    return x[(..., part, *(slice(None),) * (-1 - axis))]


# --- large arrays in the memory of the host ---------------------------------------------------------------------------


def stencil_rows(terms: Terms, images: Any, *, channels_first: bool) -> Loop | None:
    """Return the loops over NumPy images, whose losses are sums over whole images; None if they do not fit the layout.

    An image is one plane in which the channels of a pixel are next to each other, or one plane for each channel.
    """
    if not images.flags.c_contiguous or images.size == 0:
        return None
    *batch, first, second, third = images.shape
    plane = (first, second, third, 1) if channels_first else (1, first, second, third)
    planes, now = images.reshape(-1, *plane[1:]), limits.current

    def over_bands(loop: Band, most: int) -> PlaneLosses:
        return lambda scales, gradient, threads: _over_bands(
            loop, most, planes, scales, gradient.reshape(planes.shape), threads
        )

    return Loop(
        tuple(batch),
        None,
        over_planes(over_bands(functools.partial(_compiled_band, terms), now.compiled_band), tuple(batch), plane[0]),
        over_planes(over_bands(functools.partial(_plain_band, terms), now.plain_band), tuple(batch), plane[0]),
    )


def over_planes(losses_of: PlaneLosses, batch: tuple[int, ...], per_image: int) -> Callable[..., float]:
    """Return the loop over images, each with some planes, whose losses are the sums of the losses of their planes.

    Args:
        losses_of: `(scales, gradient, threads) → losses` fills the gradient, times one scale per plane, and returns
            the losses of all planes, or of parts of them, plane after plane.
        batch: the shape of the batch of images.
        per_image: the number of planes of an image.
    """

    def run(weights: Any, factor: Any, values: Any, gradients: Any, threads: int) -> float:
        (gradient,) = gradients
        with quiet(np):
            factors = np.broadcast_to(np.asarray(factor, gradient.dtype), batch).reshape(-1)
            by_image = None if weights is None else np.broadcast_to(weights, batch).reshape(-1)
            scales = factors if by_image is None else np.where(by_image == 0, 0.0, factors * by_image)
            sums = losses_of(np.repeat(scales, per_image), gradient, threads)
            losses = sums.reshape(len(factors), -1).sum(axis=1)
            if by_image is not None:
                losses = np.where(by_image == 0, 0.0, losses * by_image)
                gradient.reshape(len(factors), -1)[by_image == 0] = 0.0  # even if it is NaN
            if values is not None:
                values[...] = losses.reshape(values.shape)
            return float(losses.sum())

    return run


def _over_bands(loop: Band, most: int, planes: Any, scales: Any, gradient: Any, threads: int) -> Any:
    """Fill the gradient, times one scale per plane, and return the sums of the values: planes × bands of rows."""
    count, height, row = len(planes), planes.shape[1], math.prod(planes.shape[2:])
    band = min(height, max(1, most // row))
    bands = -(-height // band)
    step = max(1, most // (height * row))  # planes at a time, if a plane is small
    sums = np.zeros((count, bands))

    def work(part: int) -> None:
        i, j = divmod(part, bands)
        some = slice(i * step, (i + 1) * step)
        sums[some, j] = loop(planes[some], j * band, min((j + 1) * band, height), scales[some], gradient[some])

    # added in the order of the parts, whichever thread computed them: the thread count does not change the sums
    share(-(-count // step) * bands, work, threads if planes.size >= limits.current.shared_bands else 1)
    return sums


def _plain_band(terms: Terms, planes: Any, start: int, stop: int, scales: Any, gradient: Any) -> Any:
    """Compute the rows from `start` to `stop` of some planes, which also depend on one row above and one below."""
    top = max(start - 1, 0)
    with quiet(np):
        value, slope = apply_stencil(np, terms, planes[:, top : stop + 1], rows=-3, columns=-2)
        own = slice(start - top, stop - top)
        np.multiply(slope[:, own], scales[:, None, None, None], out=gradient[:, start:stop])
        return value[:, own].reshape(len(planes), -1).sum(axis=1)


def _compiled_band(terms: Terms, planes: Any, start: int, stop: int, scales: Any, gradient: Any) -> Any:
    from mithril_losses.loops import stencil as loops

    *_, width, step = planes.shape
    sums = np.empty(len(planes))
    rows = (*planes.shape[:2], width * step)
    loops.run(terms, planes.reshape(rows), step, start, stop, scales, gradient.reshape(rows), sums)
    return sums


def each_group(work: Callable[[slice], None], planes: Any, most: int, threads: int) -> None:
    """Call `work` for each group of planes, of at most so many elements, in several threads if there are many."""
    step = max(1, most * len(planes) // planes.size)
    shared = threads if planes.size >= limits.current.shared_bands else 1
    share(-(-len(planes) // step), lambda i: work(slice(i * step, (i + 1) * step)), shared)
