"""The solvers of `transport` for JAX: loops that are compiled, and a derivative by the envelope theorem."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from mithril_losses.backends.namespaces import jax as jnp
from mithril_losses.shards.axes import varying_as
from mithril_losses.templates.points import Points, framed, map_batch, measure_distances, scan_rows
from mithril_losses.templates.transport.solver import (
    Minima,
    Settings,
    Solution,
    assignment_on_host,
    cost,
    equal,
    finish,
    head_start,
    pulling,
    slopes_of,
    soft_minimum,
    start,
    steps,
)

Array = Any


def assignment(x: Array, y: Array) -> Array:
    """Return the partners of the points of x among those of y, by a callback."""
    shape = jax.ShapeDtypeStruct(x.shape[:-1], jnp.int32)

    def on_host(x: Array, y: Array) -> np.ndarray[Any, Any]:
        return assignment_on_host(np.asarray(x), np.asarray(y)).astype(np.int32)

    return jax.pure_callback(on_host, shape, *jax.lax.stop_gradient((x, y)), vmap_method="broadcast_all")


@functools.partial(jax.jit, static_argnames="settings")
def solve(x: Array, y: Array, a: Array, b: Array, settings: Settings) -> Solution:
    """`transport.solve`."""

    def one(element: tuple[Array, Array, Array, Array]) -> Solution:
        x, y, a, b = element
        xs, ys = _both_framed(x, y)
        minima = [_minima(*sets, settings.power) for sets in ((xs, ys), (ys, xs), (xs, xs), (ys, ys))]
        width, limit = start(jnp, x, y, settings)
        (across, _), *own = steps(jnp, minima, a, b)
        found = [_iterate(step, jnp.zeros_like(masses), width, limit, settings) for step, masses in own]
        state, first_width = head_start(jnp, across, found[0][0], width, settings.epsilon)
        found = [_iterate(across, state, first_width, limit, settings), *found]
        potentials, errors, counts = zip(*found, strict=True)
        value, *rest = finish(jnp, minima, a, b, potentials, settings)
        value = jnp.where(equal(jnp, x, y, a, b) == 1.0, 0.0, value)
        error, count = functools.reduce(jnp.maximum, errors), functools.reduce(jnp.maximum, counts)
        return Solution._make((value, *rest, error, limit, count))

    found: Solution = map_batch(one, (x, y, a, b), _pairs(x, y))
    return found


@functools.partial(jax.jit, static_argnames="settings")
def slopes(
    x: Array, y: Array, a: Array, b: Array, potentials: tuple[Array, Array, Array], settings: Settings
) -> tuple[Array, Array]:
    """`transport.slopes`."""

    def one(element: tuple[Array, ...]) -> tuple[Array, Array]:
        x, y, a, b, *own = element
        pull = functools.partial(_pull, settings=settings)
        by_x, by_y = slopes_of(jnp, pull, _both_framed(x, y), (a, b), own, settings.epsilon)
        differs = 1.0 - equal(jnp, x, y, a, b)
        return differs * by_x, differs * by_y

    found: tuple[Array, Array] = map_batch(one, (x, y, a, b, *potentials), _pairs(x, y))
    return found


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def divergence(x: Array, y: Array, a: Array, b: Array, settings: Settings) -> tuple[Array, Array, Array]:
    """`transport.divergence`."""
    found = solve(x, y, a, b, settings)
    return found.values, found.error, found.limit


@divergence.defjvp  # type: ignore[untyped-decorator]  # of JAX, which has no types here
def _derivative(settings: Settings, primals: Any, tangents: Any) -> Any:
    (x, y, a, b), (x_dot, y_dot, a_dot, b_dot) = primals, tangents
    found = solve(x, y, a, b, settings)
    by_x, by_y = slopes(x, y, a, b, found.potentials, settings)
    moved = jnp.sum(by_x * x_dot, axis=(1, 2)) + jnp.sum(by_y * y_dot, axis=(1, 2))
    by_a, by_b = found.across_x - found.own_x, found.across_y - found.own_y
    moved = moved + jnp.sum(by_a * a_dot, axis=1) + jnp.sum(by_b * b_dot, axis=1)
    report = found.error, found.limit
    return (found.values, *report), (moved, *(jnp.zeros_like(number) for number in report))


def _pairs(x: Array, y: Array) -> int:
    return int(max(x.shape[-2], y.shape[-2])) ** 2


def _both_framed(x: Array, y: Array) -> tuple[Points, Points]:
    xs, ys = framed(jnp, x, y)
    return xs, ys


def _minima(x: Points, y: Points, power: float) -> Minima:
    def minima(h: Array, width: Any) -> Array:
        def step(_: None, rows: Points) -> tuple[None, Array]:
            squared = measure_distances(jnp, rows, y, None)
            return None, soft_minimum(jnp, cost(jnp, squared, power), h, width)

        return scan_rows(step, None, x, y.at)[1]

    return minima


def _iterate(step: Any, state: Array, width: Array, limit: Array, settings: Settings) -> tuple[Array, Array, Array]:
    """`transport._iterate`."""
    epsilon = settings.epsilon

    def goes_on(carry: Any) -> Any:
        _, error, last, _, count = carry
        return (count < settings.max_iterations) & ~((last == epsilon) & ~(error > limit))

    def body(carry: Any) -> Any:
        state, _, last, width, count = carry
        state, found = step(state, width)
        error = jnp.where(last == epsilon, found, jnp.inf)
        return state, error, width, jnp.where(0.5 * width > epsilon, 0.5 * width, epsilon), count + 1

    infinite = jnp.full_like(width, jnp.inf)
    state, error, _, _, count = jax.lax.while_loop(
        goes_on, body, varying_as((state, infinite, infinite, width, jnp.asarray(0)), limit)
    )
    return state, error, count


def _pull(x: Points, y: Points, masses: Array, h: Array, settings: Settings) -> tuple[Array, Array]:
    """`transport._pull`."""

    def step(by_y: Array, block: tuple[Points, Array]) -> tuple[Array, Array]:
        rows, own = block
        weights = pulling(jnp, measure_distances(jnp, rows, y, None), own, h, settings)

        def coordinate(_: None, pair: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
            column = weights * (pair[0][:, None] - pair[1][None, :])
            return None, (jnp.sum(column, axis=1), jnp.sum(column, axis=0))

        _, (at_x, at_y) = jax.lax.scan(coordinate, None, (rows.at.T, y.at.T), unroll=8)
        return by_y - at_y.T, at_x.T

    by_y, by_x = scan_rows(step, jnp.zeros_like(y.at), (x, masses), y.at)
    return by_x, by_y
