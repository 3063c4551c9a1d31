"""Solvers of transport problems between sets of points: an assignment, and Sinkhorn's iterations in the log domain.

Points are arrays (batch, n, d). Pairs are computed one tile of rows at a time; only the assignment needs all at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array, host_values, library_name, placement
from mithril_losses.templates.transport.solver import (
    Settings,
    Solution,
    assignment_on_host,
    drawn_directions,
    matching,
    slopes_eagerly,
    solve_eagerly,
)

__all__ = [
    "Settings",
    "Solution",
    "assignment",
    "assignment_on_host",
    "directions",
    "divergence",
    "drawn_directions",
    "matching",
    "slopes",
    "solve",
]


def assignment(xp: Any, x: Array, y: Array) -> Array:
    """Return for every point of x its partner among as many points of y, with the least sum of Euclidean distances.

    The assignment is found on the host, by scipy: under `jax.jit` through a callback, in PyTorch through an operator
    that `torch.compile` and `vmap` support. A point that is not finite gets an arbitrary partner.
    """
    match library_name(xp):
        case "jax" if host_values(x) is None or host_values(y) is None:
            from mithril_losses.templates.transport.jax import assignment as callback

            return callback(x, y)
        case "torch":
            from mithril_losses.templates.transport.torch import assignment as operator

            return operator(x.detach(), y.detach())
    found = assignment_on_host(*(np.asarray(host_values(points)) for points in (x, y)))
    return xp.asarray(found, **placement(x))


def _driver(xp: Any) -> Any:
    """Return the module of solvers for a library with its own traces or graphs, or None."""
    match library_name(xp):
        case "jax":
            from mithril_losses.templates.transport import jax as jax_transport

            return jax_transport
        case "torch":
            from mithril_losses.templates.transport import torch as torch_transport

            return torch_transport
    return None


def solve(xp: Any, x: Array, y: Array, a: Array, b: Array, settings: Settings) -> Solution:
    """Return the potentials of sets x and y with masses a and b, (batch, n) and (batch, m), which sum to one."""
    driver = _driver(xp)
    if driver is None:
        return solve_eagerly(xp, x, y, a, b, settings)
    found: Solution = driver.solve(x, y, a, b, settings)
    return found


def divergence(xp: Any, x: Array, y: Array, a: Array, b: Array, settings: Settings) -> tuple[Array, Array, Array]:
    """Return values, error and limit of the solution, differentiable by JAX and PyTorch."""
    driver = _driver(xp)
    if driver is None:
        solution = solve_eagerly(xp, x, y, a, b, settings)
        return solution.values, solution.error, solution.limit
    found: tuple[Array, Array, Array] = driver.divergence(x, y, a, b, settings)
    return found


def slopes(
    xp: Any, x: Array, y: Array, a: Array, b: Array, potentials: tuple[Array, Array, Array], settings: Settings
) -> tuple[Array, Array]:
    """Return the derivatives of the values wrt x and y."""
    driver = _driver(xp)
    if driver is None:
        return slopes_eagerly(xp, x, y, a, b, potentials, settings)
    found: tuple[Array, Array] = driver.slopes(x, y, a, b, potentials, settings)
    return found


def directions(xp: Any, like: Array, count: int, seed: int) -> Array:
    """Return unit vectors (count, d) for points (…, d); the same seed gives the same vectors in every library."""
    if library_name(xp) == "torch":
        from mithril_losses.templates.transport.torch import (
            directions as operator,  # a constant that `torch.compile` can trace
        )

        return operator(like.detach(), count, seed)
    return xp.asarray(drawn_directions(count, like.shape[-1], seed), dtype=like.dtype, **placement(like))
