"""Solvers of transport problems between sets of points: what they find is a constant to whoever differentiates.

Points are arrays (batch, n, d).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mithril_losses._pairwise import squared_distances
from mithril_losses.backends._namespace import Array, host_values, library_name, placement


def assignment(xp: Any, x: Array, y: Array) -> Array:
    """Return for every point of x its partner among as many points of y, for the least sum of Euclidean distances.

    Found on the host, by scipy: under `jax.jit` through a callback, in PyTorch through an operator that
    `torch.compile` and `vmap` know. Points that are not finite have any partner.
    """
    match library_name(xp):
        case "jax" if host_values(x) is None or host_values(y) is None:
            return _assignment_by_callback(x, y)
        case "torch":
            from mithril_losses._torch_transport import assignment as operator

            return operator(x.detach(), y.detach())
    found = assignment_on_host(*(np.asarray(host_values(points)) for points in (x, y)))
    return xp.asarray(found, **placement(x))


def assignment_on_host(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the partners (…, n) for NumPy arrays (…, n, d)."""
    from scipy.optimize import linear_sum_assignment

    *batch, count, d = x.shape
    shape = (math.prod(batch), count, d)
    found = np.empty(shape[:2], dtype=np.int64)
    for partners, points, others in zip(found, x.reshape(shape), y.reshape(shape), strict=True):
        scale = max(np.abs(points).max(initial=0.0), np.abs(others).max(initial=0.0)) or 1.0
        if not np.isfinite(scale):
            partners[:] = np.arange(count)
            continue
        squared = squared_distances(np, (points / scale).astype(np.float64), (others / scale).astype(np.float64))
        partners[:] = linear_sum_assignment(np.sqrt(squared, out=squared))[1]
    return found.reshape(x.shape[:-1])


def _assignment_by_callback(x: Array, y: Array) -> Array:
    import jax

    shape = jax.ShapeDtypeStruct(x.shape[:-1], jax.numpy.int32)

    def on_host(x: Array, y: Array) -> np.ndarray[Any, Any]:
        return assignment_on_host(np.asarray(x), np.asarray(y)).astype(np.int32)

    points = jax.lax.stop_gradient((x, y))
    return jax.pure_callback(on_host, shape, *points, vmap_method="broadcast_all")
