"""Stencil terms compiled into one loop over rows: each pixel read once, its gradient written once, the rest in cache.

The derivative of a pixel depends on its own slopes and on those of its upper and left neighbours. So the slopes of a
row are kept for the row below; the first row of a band computes the slopes of the row above again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mithril_losses.loops.compiling import CompiledOnce, filled, kernel_text, types_of
from mithril_losses.loops.printing import scalar_source


def run(
    terms: Callable[..., Any],
    planes: np.ndarray[Any, Any],
    step: int,
    start: int,
    stop: int,
    scales: np.ndarray[Any, Any],
    gradient: np.ndarray[Any, Any],
    sums: np.ndarray[Any, Any],
) -> None:
    """Fill rows of the gradient, times the scale of their plane, and the sum of the values of each plane.

    Args:
        terms: `(xp, across, down) → (value, slope across, slope down)` of the differences to the right and the lower
            neighbour.
        planes: planes × rows × elements, C-contiguous.
        step: the distance in elements from an element to its right neighbour.
        start: the first row to compute.
        stop: the row after the last one.
        scales: one per plane.
        gradient: where to write the gradient, like `planes`.
        sums: where to write the sums, in float64.
    """
    rest = (step, start, stop, scales, gradient, sums)
    types = types_of(planes, scales, gradient)
    kernel = _kernels(terms, (planes.dtype.name,), types, lambda kernel: kernel(planes[:0], *rest))
    kernel(planes, *rest)


def _source(terms: Callable[..., Any], dtype: str) -> str:
    return filled(kernel_text("stencil", dtype), "terms", scalar_source(terms))


_kernels = CompiledOnce(_source)
