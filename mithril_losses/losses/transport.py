"""Optimal transport between sets of points: exact, entropic, and along random directions."""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace, host_values, is_dtype, require_library
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import Count, Directions, Interval, PointSets, PointWeights
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import norm_and_unit, put_back, stable_order, take_in_order
from mithril_losses.numerics.validation import as_dtype, quiet
from mithril_losses.templates import transport
from mithril_losses.templates.points import Sets, add_at, blanked, per_point, shares, squared_distances, take
from mithril_losses.templates.transport import Settings
from mithril_losses.templates.unreduced import Losses, Wanted, unreduced

__all__ = [
    "SinkhornConvergence",
    "SinkhornWarning",
    "earth_mover_distance",
    "earth_mover_distance_gradient",
    "earth_mover_distance_value_and_gradient",
    "sinkhorn_convergence",
    "sinkhorn_divergence",
    "sinkhorn_divergence_gradient",
    "sinkhorn_divergence_value_and_gradient",
    "sliced_wasserstein_distance",
    "sliced_wasserstein_distance_gradient",
    "sliced_wasserstein_distance_value_and_gradient",
]

Argument = Literal["pred_points", "target_points"]


# --- exact ----------------------------------------------------------------------------------------------------------


def _earth_mover_kinks(pred_points: Array, target_points: Array) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the distances of the matched pairs, and how much the cost rises if one of these pairs is forbidden."""
    from scipy.optimize import linear_sum_assignment

    x, y = (np.asarray(host_values(points)) for points in (pred_points, target_points))
    costs = np.sqrt(squared_distances(np, x, y))
    apart, gaps = np.zeros(costs.shape[:-1]), np.zeros(costs.shape[:-2])
    for b in np.ndindex(gaps.shape):
        rows, columns = linear_sum_assignment(costs[b])
        apart[b] = costs[b][rows, columns]
        others = []
        for pair in zip(rows, columns, strict=True):
            without = costs[b].copy()
            without[pair] = 1e6 * (1.0 + costs[b].max())
            others.append(without[linear_sum_assignment(without)].sum())
        gaps[b] = min(others, default=np.inf) - apart[b].sum()
    return apart, gaps


@unreduced(
    separable=False,  # batch elements are independent, but each is already solved by itself
    on_request=("target_points",),
    kinks=_earth_mover_kinks,
    pairwise=True,
    pred_points=PointSets(4, 3),
    target_points=PointSets(4, 3),
)
def _earth_mover(pred_points: Array, target_points: Array, wanted: Wanted) -> Losses:
    sets = Sets.of(pred_points=pred_points, target_points=target_points)
    xp, x, y = sets.xp, sets.x, sets.y
    n = x.shape[-2]
    if n != y.shape[-2]:
        raise ValueError(
            f"the earth mover's distance needs as many points on either side, got {n} and {y.shape[-2]}; "
            "sinkhorn_divergence takes sets of different sizes"
        )
    partners = transport.assignment(xp, x, y)
    distances, unit = norm_and_unit(xp, x - take(xp, y, partners), 2.0)
    share = 1.0 / max(n, 1)
    slopes = {}
    if "pred_points" in wanted:
        slopes["pred_points"] = share * unit
    if "target_points" in wanted:
        slopes["target_points"] = add_at(xp, partners, -share * unit, n)
    return sets.losses(share * xp.sum(distances, axis=-1), slopes)


def earth_mover_distance(pred_points: ArrayT, target_points: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over the batch of min_π meanᵢ ‖xᵢ − y_π(i)‖ over all permutations π, x = pred_points, y = target_points.

    The optimum is exact. It is found by an assignment on the host (scipy): the time grows with about the cube of the
    number of points, and all distances between two sets are in memory at once. Under `jax.jit` and `torch.compile` the
    assignment is one opaque step, and an accelerator waits for the host.

    Args:
        pred_points: x, (…, n, d); any leading axes are the batch.
        target_points: y, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one distance per batch element for reduction="none"), in the unit of the points. 0 for empty sets.

    Raises:
        ValueError: the shapes do not fit, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        Both points are nearest to the first y, but only one of them is assigned to it: (1 + 3) / 2.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0], [2.0, 0.0]]]), np.array([[[1.0, 0.0], [5.0, 0.0]]])
        >>> float(earth_mover_distance(x, y))
        2.0

    Source:
        Y. Rubner et al., The Earth Mover's Distance as a Metric for Image Retrieval, 2000.
        https://doi.org/10.1023/A:1026543900054. For point clouds: H. Fan et al., A Point Set Generation Network for 3D
        Object Reconstruction, 2017. https://doi.org/10.1109/CVPR.2017.264
    """
    return _earth_mover.value(pred_points, target_points, **reduction)


@gradient_of(
    earth_mover_distance,
    terms=_earth_mover,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def earth_mover_distance_gradient(
    pred_points: Array,
    target_points: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "pred_points",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(xᵢ − y_π(i)) / ‖xᵢ − y_π(i)‖ / n / B with the best permutation π; 0 where the two coincide.

    If several permutations are best, one of them is used.

    Args:
        wrt: "pred_points", "target_points", or a tuple of both.

    Example:
        Descent moves both points to the right, by a half each.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0], [2.0, 0.0]]]), np.array([[[1.0, 0.0], [5.0, 0.0]]])
        >>> earth_mover_distance_gradient(x, y).tolist()
        [[[-0.5, 0.0], [-0.5, 0.0]]]
    """
    return _earth_mover.gradient(pred_points, target_points, wrt=wrt, **reduction)


earth_mover_distance_value_and_gradient = both_of(earth_mover_distance_gradient)


# --- entropic -------------------------------------------------------------------------------------------------------

_EPSILON = Interval(0.0, static=True, drawn_from=(1.0, 3.0))
_POWER = Interval(1.0, 2.0, closed=True, static=True)
_TOLERANCE = Interval(0.0, 1.0, static=True, drawn_from=(1e-9, 1e-8))
_ITERATIONS = Count(drawn_from=(5000, 6000))


class SinkhornWarning(UserWarning):
    """Sinkhorn's iterations stopped before they had converged."""


class SinkhornConvergence(NamedTuple):
    """How far Sinkhorn's iterations converged, for each batch element.

    Attributes:
        converged: whether the error fell to the limit.
        error: the largest error of the logarithm of a point's mass.
        limit: the `mass_tolerance`, or what rounding allows if that is larger.
        iterations: the number of iterations of the longest of the three problems.
    """

    converged: Array
    error: Array
    limit: Array
    iterations: Array


class _Measures(NamedTuple):
    """Two batches of sets of points with masses that sum to one, and the settings of the solver."""

    sets: Sets
    x: Array
    y: Array
    a: Array
    b: Array
    is_empty: Array  # (batch,), whether there is no mass on one side
    settings: Settings

    @property
    def arrays(self) -> tuple[Any, Array, Array, Array, Array]:
        return self.sets.xp, self.x, self.y, self.a, self.b


def _measures(
    pred_points: Array,
    target_points: Array,
    epsilon: float,
    p: float,
    pred_weights: Array | None,
    target_weights: Array | None,
    mass_tolerance: float,
    max_iterations: int,
) -> _Measures:
    weights = (pred_weights, target_weights)
    sets = Sets.of(numbers=weights, pred_points=pred_points, target_points=target_points)
    x, a, no_x = _masses(sets, "pred_weights", pred_weights, sets.x, pred_points)
    y, b, no_y = _masses(sets, "target_weights", target_weights, sets.y, target_points)
    return _Measures(sets, x, y, a, b, no_x | no_y, Settings(epsilon, p, mass_tolerance, max_iterations))


def _masses(sets: Sets, name: str, weights: Array | None, points: Array, given: Array) -> tuple[Array, Array, Array]:
    """Return points (0 where they have no mass, whatever they hold), masses, and whether all masses are 0."""
    xp = sets.xp
    own = per_point(sets, name, weights, given, "real floating")
    points = blanked(xp, points, None if own is None else own > 0)
    masses = shares(xp, points, own, None, None)
    is_empty = xp.sum(masses, axis=-1) == 0
    uniform = 1.0 / max(points.shape[-2], 1)
    return points, xp.where(xp.expand_dims(is_empty, axis=-1), uniform, masses), is_empty


def _warn_unless_converged(error: Array, limit: Array, settings: Settings) -> None:
    seen, allowed = host_values(error), host_values(limit)
    if seen is None or allowed is None or not (seen > allowed).any():
        return
    worst = int(np.argmax(seen - allowed))
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "mithril_losses":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(
        f"Sinkhorn's iterations stopped after {settings.max_iterations} with masses off by a factor of up to "
        f"exp({seen.flat[worst]:.2g}), where exp({allowed.flat[worst]:.2g}) was asked for: "
        "raise max_iterations, mass_tolerance or epsilon",
        SinkhornWarning,
        stacklevel=depth,  # the line that called the package
    )


def _closest(pred_points: Array, target_points: Array, **_: Any) -> tuple[Array, ...]:
    """Return the least distances between two points. At 0 the cost has no derivative (for p > 1 no second one)."""
    x, y = (np.asarray(host_values(points)) for points in (pred_points, target_points))
    kinks = []
    for first, second, is_one_set in ((x, y, False), (x, x, True), (y, y, True)):
        distances = np.sqrt(squared_distances(np, first, second))
        if is_one_set:
            distances = distances + np.where(np.eye(first.shape[-2]) == 1.0, np.inf, 0.0)
        kinks.append(np.min(distances, axis=(-2, -1), initial=np.inf))
    return tuple(kinks)


@unreduced(
    separable=False,  # batch elements are independent, but each is already solved by itself
    jitted=False,  # only the iterations are jitted: a warning about convergence must come from outside a trace
    on_request=("target_points",),
    kinks=_closest,
    pairwise=True,
    pred_points=PointSets(2, 2),
    target_points=PointSets(3, 2),
    epsilon=_EPSILON,
    p=_POWER,
    pred_weights=PointWeights("pred_points"),
    target_weights=PointWeights("target_points"),
    mass_tolerance=_TOLERANCE,
    max_iterations=_ITERATIONS,
)
def _sinkhorn(
    pred_points: Array,
    target_points: Array,
    epsilon: float,
    p: float,
    pred_weights: Array | None,
    target_weights: Array | None,
    mass_tolerance: float,
    max_iterations: int,
    wanted: Wanted,
) -> Losses:
    options = (epsilon, p, pred_weights, target_weights, mass_tolerance, max_iterations)
    measures = _measures(pred_points, target_points, *options)
    sets, (xp, x, y, a, b), settings = measures.sets, measures.arrays, measures.settings
    if 0 in (x.shape[-2], y.shape[-2]):
        return replace(sets, x=x, y=y).nothing(wanted)  # with the points without mass set to 0
    slopes = {}
    if wanted:
        solution = transport.solve(xp, x, y, a, b, settings)
        values, error, limit = solution.values, solution.error, solution.limit
        by_points = transport.slopes(xp, x, y, a, b, solution.potentials, settings)
        is_empty = measures.is_empty[:, None, None]
        found = zip(sets.given, by_points, strict=True)
        slopes = {name: xp.where(is_empty, 0.0, slope) for name, slope in found if name in wanted}
    else:
        values, error, limit = transport.divergence(xp, x, y, a, b, settings)
    _warn_unless_converged(error, limit, settings)
    return sets.losses(xp.where(measures.is_empty, 0.0, values), slopes)


def sinkhorn_divergence(
    pred_points: ArrayT,
    target_points: Array,
    *,
    epsilon: float = 0.1,
    p: float = 1.0,
    pred_weights: Array | None = None,
    target_weights: Array | None = None,
    mass_tolerance: float = 1e-6,
    max_iterations: int = 1000,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over the batch of S = OT(x, y) − ½ OT(x, x) − ½ OT(y, y), OT = min_P Σ Pᵢⱼ ‖xᵢ − yⱼ‖^p + ε KL(P ‖ a ⊗ b).

    P runs over all plans that take the masses a of x = pred_points to the masses b of y = target_points. For ε → 0 this
    is exact transport (for p = 1 the `earth_mover_distance`), for ε → ∞ half the `energy_distance` with β = p. OT(x, x)
    is not 0; because of the last two terms S is 0 for equal sets and positive for others.

    Sinkhorn's iterations run on logarithms, so that a small ε does not underflow. But the smaller ε, the slower they
    converge. With C the largest cost, their number grows like e^(C/ε) at worst; from ε = C/20 to C/50 it often exceeds
    the default of `max_iterations`. Pairs are computed in tiles: memory grows with the number of points. If the
    iterations do not converge, there is a `SinkhornWarning`, except inside `jax.jit` and `torch.compile` and on an
    accelerator, where values cannot be read: call `sinkhorn_convergence` there.

    Args:
        pred_points: x, (…, n, d); any leading axes are the batch.
        target_points: y, (…, m, d) with the same leading axes; m may differ from n.
        epsilon: ε > 0, in the unit of the cost.
        p: 1 ≤ p ≤ 2, the power of the distance.
        pred_weights: (…, n), ≥ 0: a is these weights divided by their sum; 1/n by default. A point of weight 0 is
            ignored, whatever its coordinates.
        target_weights: (…, m), likewise for b.
        mass_tolerance: the largest accepted error of the logarithm of a mass; raised to what rounding allows.
        max_iterations: the largest number of iterations.
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one divergence per batch element for reduction="none"). If a set is empty, S is 0.

    Raises:
        ValueError: the shapes do not fit, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        Between one point and one point there is only one plan.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0]]]), np.array([[[3.0, 4.0]]])
        >>> float(sinkhorn_divergence(x, y)), float(sinkhorn_divergence(x, y, p=2.0))
        (5.0, 25.0)

    Source:
        J. Feydy et al., Interpolating between Optimal Transport and MMD Using Sinkhorn Divergences, 2019.
        https://proceedings.mlr.press/v89/feydy19a.html. The iterations: M. Cuturi, Sinkhorn Distances: Lightspeed
        Computation of Optimal Transport, 2013. https://arxiv.org/abs/1306.0895
    """
    options = (epsilon, p, pred_weights, target_weights, mass_tolerance, max_iterations)
    return _sinkhorn.value(pred_points, target_points, *options, **reduction)


_CONVERGED = "the iterations have converged"


@gradient_of(
    sinkhorn_divergence,
    terms=_sinkhorn,
    properties=(
        given("non_negative", _CONVERGED),
        given("symmetric", _CONVERGED, pred_weights=None, target_weights=None),
        "translation_invariant",
        given("zero_at_equality", _CONVERGED, pred_weights=None, target_weights=None),
    ),
)
def sinkhorn_divergence_gradient(
    pred_points: Array,
    target_points: Array,
    *,
    epsilon: float = 0.1,
    p: float = 1.0,
    pred_weights: Array | None = None,
    target_weights: Array | None = None,
    mass_tolerance: float = 1e-6,
    max_iterations: int = 1000,
    wrt: Argument | tuple[Argument, ...] = "pred_points",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(Σⱼ Pᵢⱼ ∂‖xᵢ − yⱼ‖^p/∂xᵢ − Σⱼ Qᵢⱼ ∂‖xᵢ − xⱼ‖^p/∂xᵢ) / B, P and Q the best plans from x to y and to itself.

    ∂‖e‖^p/∂e = p ‖e‖^(p−2) e, and 0 at e = 0. To first order a change of the best plans does not change the value, so
    the gradient is exact once the iterations have converged. In PyTorch, a derivative of the gradient itself raises.

    Args:
        wrt: "pred_points", "target_points", or a tuple of both.

    Example:
        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0]]]), np.array([[[3.0, 4.0]]])
        >>> sinkhorn_divergence_gradient(x, y, p=2.0).tolist()
        [[[-6.0, -8.0]]]
    """
    options = (epsilon, p, pred_weights, target_weights, mass_tolerance, max_iterations)
    return _sinkhorn.gradient(pred_points, target_points, *options, wrt=wrt, **reduction)


sinkhorn_divergence_value_and_gradient = both_of(sinkhorn_divergence_gradient)


def sinkhorn_convergence(
    pred_points: Array,
    target_points: Array,
    *,
    epsilon: float = 0.1,
    p: float = 1.0,
    pred_weights: Array | None = None,
    target_weights: Array | None = None,
    mass_tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> SinkhornConvergence:
    """Return how far the iterations of `sinkhorn_divergence` converge with these arguments.

    Args:
        pred_points: x, as in `sinkhorn_divergence`; likewise all other arguments.
        target_points: y.
        epsilon: ε.
        p: the power of the distance.
        pred_weights: the masses of x.
        target_weights: the masses of y.
        mass_tolerance: the largest accepted error of the logarithm of a mass.
        max_iterations: where to stop.

    Raises:
        ValueError: as in `sinkhorn_divergence`.
        TypeError: as in `sinkhorn_divergence`.

    Example:
        >>> import numpy as np
        >>> x, y = np.array([[0.0], [1.0]]), np.array([[0.5], [2.0]])
        >>> bool(sinkhorn_convergence(x, y).converged), bool(sinkhorn_convergence(x, y, max_iterations=2).converged)
        (True, False)
    """
    with quiet(array_namespace(pred_points=pred_points)):
        options = (epsilon, p, pred_weights, target_weights, mass_tolerance, max_iterations)
        measures = _measures(*_sinkhorn.checked((pred_points, target_points, *options)))
        sets, (xp, x, y, a, b) = measures.sets, measures.arrays
        if 0 in (x.shape[-2], y.shape[-2]):
            zeros = xp.sum(x, axis=(1, 2)) * 0.0
            report = (zeros == 0.0, zeros, zeros, xp.astype(zeros, xp.int64))
        else:
            found = transport.solve(xp, x, y, a, b, measures.settings)
            report = (found.error <= found.limit, found.error, found.limit, found.iterations)
        return SinkhornConvergence(*(sets.values(part, pred_points) for part in report))


# --- along random directions ----------------------------------------------------------------------------------------

_ORDER = Interval(1.0, closed=True, static=True)
_COUNT = Count()
_SEED = Count(low=0.0)


def _directions(sets: Sets, projections: Array | None, count: int, seed: int, given: Array) -> Array:
    if projections is None:
        return transport.directions(sets.xp, sets.x, count, seed)
    own = array_namespace(pred_points=given)
    require_library(own, "projections", projections)
    d = sets.x.shape[-1]
    if len(projections.shape) != 2 or projections.shape[0] == 0 or projections.shape[1] != d:
        raise ValueError(f"projections must be unit vectors of shape (count, {d}), got {tuple(projections.shape)}")
    if not is_dtype(own, projections.dtype, "real floating"):
        raise TypeError(f"projections must be floating point, got {projections.dtype}")
    return sets.bring(as_dtype(own, projections, getattr(own, str(sets.x.dtype).rpartition(".")[2])))


def _slices(xp: Any, x: Array, y: Array, directions: Array, p: float, slope: bool) -> tuple[Array, Array | None]:
    """Return the distances per batch element and, where asked for, their slopes wrt x."""
    batch, n, m, count = x.shape[0], x.shape[-2], y.shape[-2], directions.shape[0]
    origin = x[:, :1, :]  # a common offset would cost the projections digits
    x, y = x - origin, y - origin
    along_x, along_y = (xp.matmul(directions, xp.matrix_transpose(points)) for points in (x, y))
    order = stable_order(xp, along_x)
    along_x, along_y = take_in_order(xp, along_x, order), xp.sort(along_y, axis=-1)
    if n == m:
        shares: Any = (n * count) ** (-1.0 / p)
        steps = xp.expand_dims(along_x - along_y, axis=-1)
    else:
        partners, quantiles = transport.matching(xp, n, m, x)
        shares = (quantiles / count) ** (1.0 / p)
        matched = xp.take(along_y, xp.reshape(partners, (-1,)), axis=-1)
        steps = xp.expand_dims(along_x, axis=-1) - xp.reshape(matched, (batch, count, *partners.shape))
    values, unit = norm_and_unit(xp, xp.reshape(shares * steps, (batch, math.prod(steps.shape[1:]))), p)
    if not slope:
        return values, None
    pulled = put_back(xp, xp.sum(shares * xp.reshape(unit, tuple(steps.shape)), axis=-1), order)
    return values, xp.matmul(xp.matrix_transpose(pulled), directions)


def _sliced_kinks(
    pred_points: Array,
    target_points: Array,
    p: float,
    projections: Array | None,
    projection_count: int,
    projection_seed: int,
) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the least distances along a direction between two points of one set, and for p < 2 also of both sets."""
    x, y = (np.asarray(host_values(points)) for points in (pred_points, target_points))
    drawn = (
        transport.drawn_directions(projection_count, x.shape[-1], projection_seed)
        if projections is None
        else host_values(projections)
    )
    along = [np.asarray(drawn) @ np.matrix_transpose(points) for points in (x, y)]
    compared = [*along, *([np.concatenate(along, axis=-1)] if p < 2.0 else [])]
    return tuple(np.min(np.diff(np.sort(z, axis=-1), axis=-1), axis=(-2, -1), initial=np.inf) for z in compared)


@unreduced(
    separable=False,  # the directions are shared by all sets of a batch
    by_numpy=True,
    on_request=("target_points",),
    kinks=_sliced_kinks,
    pairwise=True,
    pred_points=PointSets(3, 2),
    target_points=PointSets(2, 2),
    p=_ORDER,
    projections=Directions(),
    projection_count=_COUNT,
    projection_seed=_SEED,
)
def _sliced(
    pred_points: Array,
    target_points: Array,
    p: float,
    projections: Array | None,
    projection_count: int,
    projection_seed: int,
    wanted: Wanted,
) -> Losses:
    numbers = () if projections is None else (projections,)
    sets = Sets.of(numbers=numbers, pred_points=pred_points, target_points=target_points)
    xp, x, y = sets.xp, sets.x, sets.y
    directions = _directions(sets, projections, projection_count, projection_seed, pred_points)
    if 0 in (x.shape[-2], y.shape[-2]):
        return sets.nothing(wanted)
    values, by_x = _slices(xp, x, y, directions, p, "pred_points" in wanted)
    slopes = {} if by_x is None else {"pred_points": by_x}
    if "target_points" in wanted:
        slopes["target_points"] = _slices(xp, y, x, directions, p, True)[1]
    return sets.losses(values, slopes)


def sliced_wasserstein_distance(
    pred_points: ArrayT,
    target_points: Array,
    *,
    p: float = 2.0,
    projections: Array | None = None,
    projection_count: int = 64,
    projection_seed: int = 0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over the batch of (mean_θ W_p(θ·x, θ·y)^p)^(1/p), W_p in one dimension, x = pred_points, y = target_points.

    Along one direction the best transport keeps the order of the points, so sorting is enough; no pairs are needed. If
    the sets differ in size, the mass of a point is divided among the points of the other set at the same quantiles.

    Args:
        pred_points: x, (…, n, d); any leading axes are the batch.
        target_points: y, (…, m, d) with the same leading axes; m may differ from n.
        p: p ≥ 1, the power of the distance by which a point is moved.
        projections: the directions θ, unit vectors (count, d), the same for the whole batch. By default they are drawn.
        projection_count: how many directions are drawn.
        projection_seed: the seed of the drawn directions, which are the same in every library. In training, change the
            seed (or `projections`) in every step.
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one distance per batch element for reduction="none"), in the unit of the points. Where a set is empty,
        it is 0.

    Raises:
        ValueError: the shapes do not fit, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        Along the first axis the points move by 1 and 3, along the second by 0: √((1² + 3² + 0 + 0) / 4).

        >>> import numpy as np
        >>> x, y = np.array([[0.0, 5.0], [2.0, 6.0]]), np.array([[5.0, 6.0], [1.0, 5.0]])
        >>> round(float(sliced_wasserstein_distance(x, y, projections=np.eye(2))), 6)
        1.581139

    Source:
        N. Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures, 2015.
        https://doi.org/10.1007/s10851-014-0506-3
    """
    options = (p, projections, projection_count, projection_seed)
    return _sliced.value(pred_points, target_points, *options, **reduction)


@gradient_of(
    sliced_wasserstein_distance,
    terms=_sliced,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def sliced_wasserstein_distance_gradient(
    pred_points: Array,
    target_points: Array,
    *,
    p: float = 2.0,
    projections: Array | None = None,
    projection_count: int = 64,
    projection_seed: int = 0,
    wrt: Argument | tuple[Argument, ...] = "pred_points",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """mean_θ |e|^(p−1) sign(e) θ / n / S^(p−1) / B, e = θ·xᵢ − θ·y of the same rank; 0 where the distance S is 0.

    If the mass of a point is divided, its slope is the mean over the parts. Points with the same θ·x keep their order.

    Args:
        wrt: "pred_points", "target_points", or a tuple of both.

    Example:
        For p = 1 every point has the slope 1 / (2 directions · 2 points) along each direction in which it has to move.
        Here it is the first direction alone, because e = 0 along the second.

        >>> import numpy as np
        >>> x, y = np.array([[0.0, 5.0], [2.0, 6.0]]), np.array([[5.0, 6.0], [1.0, 5.0]])
        >>> sliced_wasserstein_distance_gradient(x, y, p=1.0, projections=np.eye(2)).tolist()
        [[-0.25, 0.0], [-0.25, 0.0]]
    """
    options = (p, projections, projection_count, projection_seed)
    return _sliced.gradient(pred_points, target_points, *options, wrt=wrt, **reduction)


sliced_wasserstein_distance_value_and_gradient = both_of(sliced_wasserstein_distance_gradient)
