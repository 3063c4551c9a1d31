"""An assignment, and Sinkhorn's iterations in the log domain: loops in Python, and the parts common to all drivers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends.namespaces import Array, library_name, placement
from mithril_losses.templates.points import (
    Points,
    framed,
    measure_distances,
    pieces,
    row_blocks,
    squared_distances,
)

# --- assignment -------------------------------------------------------------------------------------------------------


def assignment_on_host(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the partners (…, n) for NumPy arrays (…, n, d)."""
    from scipy.optimize import linear_sum_assignment

    *batch, count, d = x.shape
    flat = (math.prod(batch), count, d)
    found = np.empty(flat[:2], dtype=np.int64)
    for partners, points, others in zip(found, x.reshape(flat), y.reshape(flat), strict=True):
        scale = np.maximum(np.abs(points).max(initial=0.0), np.abs(others).max(initial=0.0)) or 1.0
        if not np.isfinite(scale):
            partners[:] = np.arange(count)
            continue
        squared = squared_distances(np, (points / scale).astype(np.float64), (others / scale).astype(np.float64))
        partners[:] = linear_sum_assignment(np.sqrt(squared, out=squared))[1]
    return found.reshape(x.shape[:-1])


# --- Sinkhorn ---------------------------------------------------------------------------------------------------------
#
# The dual of entropic transport between Σ aᵢ δ(xᵢ) and Σ bⱼ δ(yⱼ) with the costs C is solved by potentials f and g with
#     fᵢ = −ε log Σⱼ bⱼ exp((gⱼ − Cᵢⱼ)/ε),   gⱼ = −ε log Σᵢ aᵢ exp((fᵢ − Cᵢⱼ)/ε).
# Each iteration makes first the rows of the plan aᵢ bⱼ exp((fᵢ + gⱼ − Cᵢⱼ)/ε), then its columns, sum to their masses.
# The width, which takes the place of ε, starts at the largest cost and is halved down to ε. For a set with itself
# f = g, and the mean of a potential and its update converges much faster.

Minima = Callable[[Any, float], Any]


class Settings(NamedTuple):
    """The parameters of the problem, and the accuracy."""

    epsilon: float
    power: float
    tolerance: float
    max_iterations: int


class Solution(NamedTuple):
    """The solution for each element of a batch.

    Attributes:
        values: (batch,), OT(x, y) − ½ OT(x, x) − ½ OT(y, y).
        across_x: f of OT(x, y), (batch, n).
        across_y: g of OT(x, y), (batch, m).
        own_x: the potential of OT(x, x), (batch, n).
        own_y: the potential of OT(y, y), (batch, m).
        error: the largest error of the logarithm of a mass.
        limit: the largest accepted error.
        iterations: the number of iterations of the longest of the three problems.
    """

    values: Array
    across_x: Array
    across_y: Array
    own_x: Array
    own_y: Array
    error: Array
    limit: Array
    iterations: Array

    @property
    def potentials(self) -> tuple[Array, Array, Array]:
        """The potentials that give the plans: of y in OT(x, y), and of each set with itself."""
        return self.across_y, self.own_x, self.own_y


def solve_eagerly(xp: Any, x: Array, y: Array, a: Array, b: Array, settings: Settings) -> Solution:
    """`solve` with loops in Python, one element of the batch after the other."""
    elements = [_solve_one(xp, _element(k, x, y, a, b), settings) for k in range(x.shape[0])]
    if not elements:
        nothing = xp.sum(x, axis=(1, 2))
        return Solution(nothing, a, b, a, b, nothing, nothing, xp.astype(nothing, xp.int64))
    return Solution(*(xp.stack(parts) for parts in zip(*elements, strict=True)))


def slopes_eagerly(
    xp: Any, x: Array, y: Array, a: Array, b: Array, potentials: tuple[Array, Array, Array], settings: Settings
) -> tuple[Array, Array]:
    """`slopes` with loops in Python."""
    by_x, by_y = [xp.zeros_like(x[:0, ...])], [xp.zeros_like(y[:0, ...])]
    for k in range(x.shape[0]):
        points, others, masses, other_masses, *own = _element(k, x, y, a, b, *potentials)
        sets = _both_framed(xp, points, others)
        found = slopes_of(
            xp, partial(_pull, xp, settings=settings), sets, (masses, other_masses), own, settings.epsilon
        )
        differs = 1.0 - equal(xp, points, others, masses, other_masses)
        by_x.append((differs * found[0])[None, ...])
        by_y.append((differs * found[1])[None, ...])
    return xp.concat(by_x), xp.concat(by_y)


def _element(k: int, *arrays: Array) -> list[Array]:
    return [array[k, ...] for array in arrays]


def _both_framed(xp: Any, x: Array, y: Array) -> tuple[Points, Points]:
    """Return two sets (n, d) as points (1, n, d) in one frame."""
    xs, ys = framed(xp, x[None, ...], y[None, ...])
    return xs, ys


def _solve_one(xp: Any, element: list[Array], settings: Settings) -> tuple[Array, ...]:
    x, y, a, b = element
    xs, ys = _both_framed(xp, x, y)
    minima = [_Costs(xp, *sets, settings.power).minima for sets in ((xs, ys), (ys, xs), (xs, xs), (ys, ys))]
    width, limit = (float(number) for number in start(xp, x, y, settings))
    (across, _), *own = steps(xp, minima, a, b)
    found = [_iterate(step, xp.zeros_like(masses), width, limit, settings) for step, masses in own]
    state, first_width = head_start(xp, across, found[0][0], width, settings.epsilon)
    found = [_iterate(across, state, float(first_width), limit, settings), *found]
    potentials, errors, counts = zip(*found, strict=True)
    values, *rest = finish(xp, minima, a, b, potentials, settings)
    error = math.nan if any(map(math.isnan, errors)) else max(errors)
    report = (xp.asarray(number, dtype=x.dtype, **placement(x)) for number in (error, limit))
    count = xp.asarray(max(counts), dtype=xp.int64, **placement(x))
    return xp.where(equal(xp, x, y, a, b) == 1.0, 0.0, values), *rest, *report, count


def _iterate(
    step: Callable[[Any, float], tuple[Any, Any]], state: Any, width: float, limit: float, settings: Settings
) -> tuple[Any, float, int]:
    """Repeat a step until, at the width ε, its error is within the limit, or NaN, which would never converge."""
    error, last, count = math.inf, math.inf, 0
    while count < settings.max_iterations and not (last == settings.epsilon and not error > limit):
        state, found = step(state, width)
        # an error is valid only if the previous step was also at ε
        error = float(found) if last == settings.epsilon else math.inf
        last, width, count = width, max(settings.epsilon, 0.5 * width), count + 1
    return state, error, count


# --- common to all drivers --------------------------------------------------------------------------------------------


def log_masses(xp: Any, masses: Array) -> Array:
    """Return the logarithms of masses, −∞ for a mass of 0."""
    return xp.where(masses > 0.0, xp.log(xp.where(masses > 0.0, masses, 1.0)), -math.inf)


def equal(xp: Any, x: Array, y: Array, a: Array, b: Array) -> Array:
    """Return 1 for two equal sets (n, d) with equal masses, whose divergence is 0 with the gradient 0; else 0."""
    if tuple(x.shape) != tuple(y.shape):
        return xp.zeros_like(x[0, 0])
    return xp.astype(xp.all(x == y) & xp.all(a == b), x.dtype)


def start(xp: Any, x: Array, y: Array, settings: Settings) -> tuple[Array, Array]:
    """Return the width to start with, at least as large as any cost, and the smallest error that rounding allows.

    An infinite width could not be halved. Infinite costs have no solution, so any finite width will do for them.
    """
    high = xp.maximum(xp.max(x, axis=0), xp.max(y, axis=0))
    low = xp.minimum(xp.min(x, axis=0), xp.min(y, axis=0))
    side = xp.max(high - low)
    spread = (side * math.sqrt(x.shape[-1])) ** settings.power
    rounding = 8.0 * float(xp.finfo(x.dtype).eps) * (1.0 + spread / settings.epsilon)
    width = xp.where(xp.isfinite(spread), xp.maximum(spread, settings.epsilon), settings.epsilon)
    return width, xp.maximum(rounding, settings.tolerance)


def steps(xp: Any, minima: Sequence[Minima], a: Array, b: Array) -> list[tuple[Any, Array]]:
    """Return a step (potential, width) ↦ (potential, error) for OT(x, y), OT(x, x) and OT(y, y), and its masses.

    The error is the largest error of the logarithm of the mass of a row.
    """
    log_a, log_b = log_masses(xp, a), log_masses(xp, b)

    def error(masses: Array, new: Array, old: Array, width: Any) -> Array:
        return xp.max(xp.where(masses > 0.0, xp.abs(new - old), 0.0)) / width

    def across(f: Array, width: Any) -> tuple[Array, Array]:
        g = minima[1](log_a + f / width, width)
        new = minima[0](log_b + g / width, width)
        return new, error(a, new, f, width)

    def own(to_itself: Minima, masses: Array, log: Array) -> Any:
        def step(f: Array, width: Any) -> tuple[Array, Array]:
            new = to_itself(log + f / width, width)
            return 0.5 * (f + new), error(masses, new, f, width)

        return step

    return [(across, a), (own(minima[2], a, log_a), a), (own(minima[3], b, log_b), b)]


def head_start(xp: Any, across: Any, own: Array, width: Any, epsilon: float) -> tuple[Array, Array]:
    """Return the potential and the width that OT(x, y) starts with, given the potential of OT(x, x).

    If x and y are nearly the same set, that potential is nearly the solution. Starting from 0, the two problems would
    converge at different speeds, and their errors would not cancel in the divergence.
    """
    _, error = across(own, epsilon)
    is_near = error < _NEAR
    return xp.where(is_near, own, xp.zeros_like(own)), xp.where(is_near, xp.full_like(error, epsilon), width)


_NEAR = 1.0  # masses wrong by less than a factor e: nearer than after halving the width


def finish(
    xp: Any, minima: Sequence[Minima], a: Array, b: Array, potentials: tuple[Array, ...], settings: Settings
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the divergence, and f, g and the two potentials of the sets with themselves.

    Each dual is evaluated at a potential and its own update, for which the plan's mass is exactly 1.
    """
    log_a, log_b, epsilon = log_masses(xp, a), log_masses(xp, b), settings.epsilon
    f, own_x, own_y = potentials
    g = minima[1](log_a + f / epsilon, epsilon)
    f = minima[0](log_b + g / epsilon, epsilon)
    by_x = f - 0.5 * (own_x + minima[2](log_a + own_x / epsilon, epsilon))
    by_y = g - 0.5 * (own_y + minima[3](log_b + own_y / epsilon, epsilon))
    value = xp.sum(a * by_x) + xp.sum(b * by_y)
    # a dual that has not converged is too small by at most its error
    return xp.maximum(value, 0.0), f, g, own_x, own_y


def slopes_of(
    xp: Any, pull: Any, sets: tuple[Any, Any], masses: tuple[Array, Array], potentials: Any, epsilon: float
) -> tuple[Array, Array]:
    """Return the derivatives of the divergence wrt x and y.

    The plan of a set with itself is symmetric: half of its derivative by both arguments is that by one of them.
    """
    (x, y), (a, b), (across_y, own_x, own_y) = sets, masses, potentials
    log_a, log_b = log_masses(xp, a), log_masses(xp, b)
    across = pull(x, y, a, log_b + across_y / epsilon)
    by_x = across[0] - pull(x, x, a, log_a + own_x / epsilon)[0]
    return by_x, across[1] - pull(y, y, b, log_b + own_y / epsilon)[0]


def cost(xp: Any, squared: Array, power: float) -> Array:
    """Return C = ‖x − y‖^p from squared distances; its traced derivative at coincident points is 0."""
    if power == 2.0:
        return squared
    apart = None if xp is np else squared != 0.0
    positive = squared if apart is None else xp.where(apart, squared, 1.0)
    found = xp.sqrt(positive) if power == 1.0 else positive ** (0.5 * power)
    return found if apart is None else xp.where(apart, found, 0.0)


def cost_slope(xp: Any, squared: Array, power: float) -> Array:
    """Return ∂C/∂‖x − y‖², 0 at coincident points (for p < 2, where it is infinite)."""
    if power == 2.0:
        return xp.ones_like(squared)
    apart = squared != 0.0
    return xp.where(apart, 0.5 * power * xp.where(apart, squared, 1.0) ** (0.5 * power - 1.0), 0.0)


def soft_minimum(xp: Any, costs: Array, h: Array, width: Any) -> Array:
    """−w log Σⱼ exp(hⱼ − Cᵢⱼ/w), with w the width, for rows of costs."""
    scores = h - costs / width
    largest = xp.max(scores, axis=-1, keepdims=True)
    return -width * (largest[:, 0] + xp.log(xp.sum(xp.exp(scores - largest), axis=-1)))


def pulling(xp: Any, squared: Array, masses: Array, h: Array, settings: Settings) -> Array:
    """Return 2 P ∂C/∂‖x − y‖², the factor of the difference of two points in the gradient, for rows of a plan.

    Each row of P is distributed like exp(hⱼ − Cᵢⱼ/ε) and sums to its mass.
    """
    scores = h - cost(xp, squared, settings.power) / settings.epsilon
    shares = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    plan = shares * (masses / xp.sum(shares, axis=-1))[:, None]
    return 2.0 * plan * cost_slope(xp, squared, settings.power)


class _Costs:
    """The costs of all pairs, one tile of rows at a time; kept if all of them fit into one tile."""

    def __init__(self, xp: Any, x: Points, y: Points, power: float) -> None:
        self._xp, self._x, self._y, self._power = xp, x, y, power
        self._blocks = list(row_blocks(xp, x.at, y.at.shape[-2]))
        self._held = self._tile(*self._blocks[0]) if len(self._blocks) == 1 else None

    def _tile(self, start: int, stop: int) -> Array:
        squared = measure_distances(self._xp, self._x.rows(start, stop), self._y, None)
        return cost(self._xp, squared, self._power)[0, ...]

    def _tiles(self) -> Iterator[Array]:
        for block in self._blocks:
            yield self._tile(*block) if self._held is None else self._held

    def minima(self, h: Array, width: float) -> Array:
        """Return the soft minimum of every row."""
        xp, found = self._xp, []
        for tile in self._tiles():
            parts = pieces(tile) if xp is np else [(0, tile.shape[0])]
            found += [soft_minimum(xp, tile[start:stop, :], h, width) for start, stop in parts]
        return xp.concat(found)


def _pull(xp: Any, x: Points, y: Points, masses: Array, h: Array, settings: Settings) -> tuple[Array, Array]:
    """Return the derivatives of Σᵢⱼ Pᵢⱼ C(xᵢ, yⱼ) wrt x and y, with the plan P held fixed.

    They come from the differences of each coordinate: a product of slopes and points would cancel for close points.
    """
    by_x, by_y = [], xp.zeros_like(y.at[0, ...])
    for start, stop in row_blocks(xp, x.at, y.at.shape[-2]):
        rows, own = x.rows(start, stop), masses[start:stop]
        squared = measure_distances(xp, rows, y, None)[0, ...]
        for first, last in pieces(squared) if xp is np else [(0, stop - start)]:
            weights = pulling(xp, squared[first:last, :], own[first:last], h, settings)
            sums = []
            for k in range(y.at.shape[-1]):
                column = weights * (rows.at[0, first:last, k][:, None] - y.at[0, :, k][None, :])
                sums.append((xp.sum(column, axis=1), xp.sum(column, axis=0)))
            by_x.append(xp.stack([at_x for at_x, _ in sums], axis=-1))
            by_y = by_y - xp.stack([at_y for _, at_y in sums], axis=-1)
    return xp.concat(by_x), by_y


# --- along directions -------------------------------------------------------------------------------------------------


def drawn_directions(count: int, dimensions: int, seed: int) -> np.ndarray[Any, Any]:
    """Return unit vectors (count, dimensions), spread evenly."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors


def matching(xp: Any, n: int, m: int, like: Array) -> tuple[Array, Array]:
    """Return which of m sorted points share quantiles with each of n sorted points, and how many: two arrays (n, k).

    Point i of n covers the quantiles from i/n to (i + 1)/n: in units of 1/nm all bounds are integers. Rows are padded
    with points that share none.
    """
    whole = np if library_name(xp) == "jax" else xp  # JAX's integers may have 32 bits
    place = {} if whole is np else placement(like)
    i = whole.reshape(whole.arange(n, **place), (n, 1))
    most = -(-(m + n - math.gcd(n, m)) // n)
    j = i * m // n + whole.arange(most, **place)
    # from the larger of i m and j n to the smaller of (i + 1) m and (j + 1) n
    above, below = (i + 1) * m - (j + 1) * n, i * m - j * n
    shared = n + whole.where(above < 0, above, 0) - whole.where(below > 0, below, 0)
    shared = xp.asarray(whole.where(shared > 0, shared, 0), dtype=like.dtype, **placement(like))
    return xp.asarray(whole.where(j < m, j, m - 1)), shared / float(n * m)
