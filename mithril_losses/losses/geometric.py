"""Geometric losses: distances between sets of points."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Unpack

import numpy as np

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace, host_values
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import FLAG, PointMask, PointSets, PointWeights
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import floored, norm_and_unit, product
from mithril_losses.numerics.validation import quiet
from mithril_losses.templates.points import Sets, add_at, blanked, nearest, per_point, shares, take
from mithril_losses.templates.unreduced import Curvature, Losses, Named, Wanted, no_curvature, unreduced

__all__ = [
    "chamfer_distance",
    "chamfer_distance_gradient",
    "chamfer_distance_value_and_gradient",
    "hausdorff_distance",
    "hausdorff_distance_gradient",
    "hausdorff_distance_value_and_gradient",
    "modified_hausdorff_distance",
    "modified_hausdorff_distance_gradient",
]

Argument = Literal["pred_points", "target_points"]


# --- Chamfer ------------------------------------------------------------------------------------------------------


def _to_nearest(
    xp: Any, x: Array, y: Array, share: Array, candidates: Array | None, squared: bool
) -> tuple[Array, Array, Array]:
    """Return Σᵢ shareᵢ d(xᵢ, nearest y), its derivative wrt xᵢ − y, and the index of that y."""
    found = nearest(xp, x, y, candidates)
    difference = x - take(xp, y, found)
    if squared:
        distance, slope = xp.sum(difference * difference, axis=-1), 2.0 * difference
    else:
        distance, slope = norm_and_unit(xp, difference, 2.0)
    total = xp.sum(product(xp, share, distance), axis=-1)
    return total, product(xp, xp.expand_dims(share, axis=-1), slope), found


class _Approach(NamedTuple):
    """The second derivatives of Σᵢ shareᵢ d(xᵢ, nearest y) wrt xᵢ − y: ρᵢ (I − uᵢ uᵢᵀ), with u = 0 for squares."""

    rate: Array  # ρ, (batch, n, 1)
    unit: Array  # u, (batch, n, d)

    @staticmethod
    def of(xp: Any, difference: Array, share: Array, squared: bool) -> _Approach:
        share = xp.expand_dims(share, axis=-1)
        if squared:
            return _Approach(2.0 * share, 0.0 * difference)
        length, unit = norm_and_unit(xp, difference, 2.0)
        length = xp.expand_dims(length, axis=-1)
        return _Approach(xp.where(length == 0, 0.0, share / floored(xp, length, length.dtype)), unit)

    def times(self, xp: Any, v: Array) -> Array:
        return self.rate * (v - xp.sum(self.unit * v, axis=-1, keepdims=True) * self.unit)

    def diagonal(self) -> Array:
        return self.rate * (1.0 - self.unit * self.unit)


def _chamfer_curvature(
    sets: Sets, forward: tuple[Array, Array], backward: tuple[Array, Array], found_x: Array, squared: bool
) -> Curvature:
    """Return the second derivatives wrt x, from the differences x − y and y − x with their shares."""
    xp, n = sets.xp, sets.x.shape[-2]
    own, others = (_Approach.of(xp, *each, squared) for each in (forward, backward))

    def named(of_x: Array, of_y: Array) -> Named:
        return {"pred_points": sets.back("pred_points", of_x + add_at(xp, found_x, of_y, n))}

    def times(vectors: Named) -> Named:
        v = Sets.of(vector=vectors["pred_points"]).x
        return named(own.times(xp, v), others.times(xp, take(xp, v, found_x)))

    def bound() -> Named:  # I − u uᵀ is at most I
        return named(own.rate + 0.0 * own.unit, others.rate + 0.0 * others.unit)

    return Curvature(times, lambda: named(own.diagonal(), others.diagonal()), bound)


def _chamfer_kinks(
    pred_points: Array,
    target_points: Array,
    squared: bool,
    pred_mask: Array | None,
    target_mask: Array | None,
    **_: Any,
) -> tuple[Array, ...]:
    """Return what vanishes where a point has two nearest neighbours, or, for unsquared distances, one at distance 0."""
    xp = array_namespace(pred_points=pred_points, target_points=target_points)
    distances = _all_pairs(pred_points, target_points, pred_mask, target_mask)
    kinks: tuple[Array, ...] = () if squared else (xp.min(distances, axis=(-2, -1)),)
    for axis in (-2, -1):
        if distances.shape[axis] < 2:  # a single point is always the nearest
            continue
        nearest_two = xp.sort(distances, axis=axis)
        first, second = (xp.take(nearest_two, xp.asarray([i]), axis=axis) for i in (0, 1))
        with quiet(xp):  # if all other points are padding, the gap is ∞ − ∞
            kinks += (xp.min(second - first, axis=(-2, -1)),)
    return kinks


def _all_pairs(pred_points: Array, target_points: Array, pred_mask: Array | None, target_mask: Array | None) -> Array:
    """Return the squared distances of all pairs, infinite where one of the two points is padding."""
    xp = array_namespace(pred_points=pred_points, target_points=target_points)
    differences = xp.expand_dims(pred_points, axis=-2) - xp.expand_dims(target_points, axis=-3)
    distances = xp.sum(differences * differences, axis=-1)
    if pred_mask is not None:
        distances = xp.where(xp.expand_dims(pred_mask, axis=-1), distances, float("inf"))
    if target_mask is not None:
        distances = xp.where(xp.expand_dims(target_mask, axis=-2), distances, float("inf"))
    return distances


def _means_apart(x: Array, y: Array) -> Array:
    """Return the mean distance of x to the nearest y, minus the mean distance of y to the nearest x."""
    xp = array_namespace(pred_points=x, target_points=y)
    forward, backward = (xp.mean(xp.sqrt(xp.min(_all_pairs(x, y, None, None), axis=k)), axis=-1) for k in (-1, -2))
    return forward - backward


@unreduced(
    separable=False,  # batch elements are independent, but the search is already divided into tiles that fit the cache
    by_numpy=True,
    on_request=("target_points",),
    curved=True,
    kinks=_chamfer_kinks,
    pairwise=True,
    pred_points=PointSets(3, 3),
    target_points=PointSets(5, 3),
    squared=FLAG,
    pred_weights=PointWeights("pred_points"),
    target_weights=PointWeights("target_points"),
    pred_mask=PointMask("pred_points"),
    target_mask=PointMask("target_points"),
)
def _chamfer(
    pred_points: Array,
    target_points: Array,
    squared: bool,
    pred_weights: Array | None,
    target_weights: Array | None,
    pred_mask: Array | None,
    target_mask: Array | None,
    wanted: Wanted,
) -> Losses:
    sets = Sets.of(pred_points=pred_points, target_points=target_points)
    xp, x, y = sets.xp, sets.x, sets.y
    x_mask = per_point(sets, "pred_mask", pred_mask, pred_points, "bool")
    y_mask = per_point(sets, "target_mask", target_mask, target_points, "bool")
    x_weights = per_point(sets, "pred_weights", pred_weights, pred_points, "real floating")
    y_weights = per_point(sets, "target_weights", target_weights, target_points, "real floating")
    if 0 in (x.shape[-2], y.shape[-2]):
        return sets.nothing(wanted)._replace(curvature=lambda: no_curvature(xp, {"pred_points": pred_points}))
    x, y = blanked(xp, x, x_mask), blanked(xp, y, y_mask)
    x_share, y_share = shares(xp, x, x_weights, x_mask, y_mask), shares(xp, y, y_weights, y_mask, x_mask)
    forward, forward_slope, found_y = _to_nearest(xp, x, y, x_share, y_mask, squared)
    backward, backward_slope, found_x = _to_nearest(xp, y, x, y_share, x_mask, squared)
    slopes = {}
    if "pred_points" in wanted:
        slopes["pred_points"] = forward_slope - add_at(xp, found_x, backward_slope, x.shape[-2])
    if "target_points" in wanted:
        slopes["target_points"] = backward_slope - add_at(xp, found_y, forward_slope, y.shape[-2])

    def curvature() -> Curvature:
        ahead, back = (x - take(xp, y, found_y), x_share), (y - take(xp, x, found_x), y_share)
        return _chamfer_curvature(sets, ahead, back, found_x, squared)

    return sets.losses(forward + backward, slopes)._replace(curvature=curvature)


def chamfer_distance(
    pred_points: ArrayT,
    target_points: Array,
    *,
    squared: bool = True,
    pred_weights: Array | None = None,
    target_weights: Array | None = None,
    pred_mask: Array | None = None,
    target_mask: Array | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over the batch of meanᵢ minⱼ ‖xᵢ − yⱼ‖² + meanⱼ minᵢ ‖xᵢ − yⱼ‖², x = pred_points, y = target_points.

    Nearest neighbours are found in tiles of pairs, or by a k-d tree (on the CPU, up to eight dimensions): memory grows
    with the number of points, not with its square. If several points are nearest, the first of them is used.

    Args:
        pred_points: x, (…, n, d); any leading axes are the batch.
        target_points: y, (…, m, d) with the same leading axes; m may differ from n.
        squared: take ‖xᵢ − yⱼ‖² (the default) or ‖xᵢ − yⱼ‖.
        pred_weights: (…, n), turns the mean over i into Σᵢ wᵢ dᵢ / Σᵢ wᵢ. A point of weight 0 may still be the nearest.
        target_weights: (…, m), likewise for the mean over j.
        pred_mask: (…, n), boolean: False for padding, which is ignored, whatever its coordinates.
        target_mask: (…, m), likewise.
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one distance per batch element for reduction="none"). If a set is empty, the loss is 0.

    Raises:
        ValueError: the shapes do not fit, or a reduction keyword does not fit.
        TypeError: an argument is not an array, the points or weights are not floating point, or a mask is not boolean.

    Example:
        From x: (1 + 4) / 2 to the nearest y; from y: 1 to the nearest x.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0], [1.0, 2.0]]]), np.array([[[1.0, 0.0]]])
        >>> float(chamfer_distance(x, y))
        3.5

    Source:
        H. Fan et al., A Point Set Generation Network for 3D Object Reconstruction, 2017,
        which has sums in place of means. https://arxiv.org/abs/1612.00603
    """
    options = (squared, pred_weights, target_weights, pred_mask, target_mask)
    return _chamfer.value(pred_points, target_points, *options, **reduction)


_EVERY_POINT: dict[str, Any] = {"pred_weights": None, "target_weights": None, "pred_mask": None, "target_mask": None}


@gradient_of(
    chamfer_distance,
    terms=_chamfer,
    properties=(
        "non_negative",
        given("symmetric", **_EVERY_POINT),
        "translation_invariant",
        given("zero_at_equality", **_EVERY_POINT),
        "psd",
    ),
)
def chamfer_distance_gradient(
    pred_points: Array,
    target_points: Array,
    *,
    squared: bool = True,
    pred_weights: Array | None = None,
    target_weights: Array | None = None,
    pred_mask: Array | None = None,
    target_mask: Array | None = None,
    wrt: Argument | tuple[Argument, ...] = "pred_points",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(2 (xᵢ − y_near(i)) / n + Σⱼ 2 (xᵢ − yⱼ) / m over the j whose nearest is i) / B.

    For unsquared distances, unit vectors take the place of twice the differences; they are 0 at coincident points.

    Args:
        wrt: "pred_points", "target_points", or a tuple of both.

    Example:
        The only y is nearest to both points; the first x is nearest to y: 2 (−1, 0) / 2 + 2 (−1, 0) and 2 (0, 2) / 2.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0], [1.0, 2.0]]]), np.array([[[1.0, 0.0]]])
        >>> chamfer_distance_gradient(x, y).tolist()
        [[[-3.0, 0.0], [0.0, 2.0]]]
    """
    options = (squared, pred_weights, target_weights, pred_mask, target_mask)
    return _chamfer.gradient(pred_points, target_points, *options, wrt=wrt, **reduction)


chamfer_distance_value_and_gradient = both_of(chamfer_distance_gradient)


# --- Hausdorff ----------------------------------------------------------------------------------------------------


def _furthest(
    xp: Any, x: Array, y: Array, x_mask: Array | None, candidates: Array | None
) -> tuple[Array, Array, Array]:
    """Return, as (batch, 1), the largest distance from a point of x to its nearest y, and the indices of the two."""
    found = nearest(xp, x, y, candidates)
    distances, _ = norm_and_unit(xp, x - take(xp, y, found), 2.0)
    if x_mask is not None:
        distances = xp.where(x_mask, distances, -1.0)
    furthest = xp.argmax(distances, axis=-1, keepdims=True)
    at = [xp.take_along_axis(values, furthest, axis=-1) for values in (distances, found)]
    return at[0], furthest, at[1]


def _any(xp: Any, points: Array, mask: Array | None) -> Array:
    """Return, as (batch, 1), whether there is a point at all."""
    return xp.any(xp.ones_like(points[..., 0]) > 0 if mask is None else mask, axis=-1, keepdims=True)


def _hausdorff_kinks(
    pred_points: Array, target_points: Array, pred_mask: Array | None, target_mask: Array | None
) -> tuple[Array, ...]:
    """Return the distance, and how much it differs from the distance of the second largest pair."""
    distances = np.sqrt(np.asarray(host_values(_all_pairs(pred_points, target_points, pred_mask, target_mask))))
    flat = distances.reshape(-1, *distances.shape[-2:])
    kinks = np.zeros((2, len(flat)))
    for b, pairs in enumerate(flat):
        forward, backward = np.min(pairs, axis=1), np.min(pairs, axis=0)
        forward, backward = (np.where(np.isinf(x), 0.0, x) for x in (forward, backward))  # padding
        by_x = forward.max() >= backward.max()
        pairs = pairs if by_x else pairs.T
        own, other = (forward, backward) if by_x else (backward, forward)
        i = int(np.argmax(own))
        j = int(np.argmin(pairs[i]))
        rivals = [*np.delete(own, i), *np.delete(other, j), 2.0 * own[i] - np.delete(pairs[i], j).min(initial=np.inf)]
        kinks[:, b] = own[i], own[i] - max(rivals, default=0.0)
    return tuple(kink.reshape(distances.shape[:-2]) for kink in kinks)


@unreduced(
    separable=False,  # batch elements are independent, but the search is already divided into tiles that fit the cache
    by_numpy=True,
    on_request=("target_points",),
    kinks=_hausdorff_kinks,
    pairwise=True,
    pred_points=PointSets(3, 3),
    target_points=PointSets(5, 3),
    pred_mask=PointMask("pred_points"),
    target_mask=PointMask("target_points"),
)
def _hausdorff(
    pred_points: Array,
    target_points: Array,
    pred_mask: Array | None,
    target_mask: Array | None,
    wanted: Wanted,
) -> Losses:
    sets = Sets.of(pred_points=pred_points, target_points=target_points)
    xp, x, y = sets.xp, sets.x, sets.y
    x_mask = per_point(sets, "pred_mask", pred_mask, pred_points, "bool")
    y_mask = per_point(sets, "target_mask", target_mask, target_points, "bool")
    if 0 in (x.shape[-2], y.shape[-2]):
        return sets.nothing(wanted)
    x, y = blanked(xp, x, x_mask), blanked(xp, y, y_mask)
    # one pair decides: the point that is furthest from the other set, and its nearest point in that set
    forward, i, nearest_to_i = _furthest(xp, x, y, x_mask, y_mask)
    backward, j, nearest_to_j = _furthest(xp, y, x, y_mask, x_mask)
    by_x = forward >= backward
    i, j = xp.where(by_x, i, nearest_to_j), xp.where(by_x, nearest_to_i, j)
    distance, unit = norm_and_unit(xp, take(xp, x, i) - take(xp, y, j), 2.0)
    if not (x_mask is None and y_mask is None):
        is_pair = _any(xp, x, x_mask) & _any(xp, y, y_mask)
        distance, unit = xp.where(is_pair, distance, 0.0), xp.where(xp.expand_dims(is_pair, axis=-1), unit, 0.0)
    slopes = {}
    if "pred_points" in wanted:
        slopes["pred_points"] = add_at(xp, i, unit, x.shape[-2])
    if "target_points" in wanted:
        slopes["target_points"] = add_at(xp, j, -unit, y.shape[-2])
    return sets.losses(distance[:, 0], slopes)


def hausdorff_distance(
    pred_points: ArrayT,
    target_points: Array,
    *,
    pred_mask: Array | None = None,
    target_mask: Array | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over the batch of max(maxᵢ minⱼ ‖xᵢ − yⱼ‖, maxⱼ minᵢ ‖xᵢ − yⱼ‖), x = pred_points, y = target_points.

    This is the largest distance from a point of either set to the other set. One pair of points decides, and only this
    pair has a gradient. Memory grows with the number of points, as for `chamfer_distance`.

    Args:
        pred_points: x, (…, n, d); any leading axes are the batch.
        target_points: y, (…, m, d) with the same leading axes; m may differ from n.
        pred_mask: (…, n), boolean: False for padding, which is ignored, whatever its coordinates.
        target_mask: (…, m), likewise.
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one distance per batch element for reduction="none"), in the unit of the points. If a set is
        empty, the distance is 0.

    Raises:
        ValueError: the shapes do not fit, or a reduction keyword does not fit.
        TypeError: an argument is not an array, the points are not floating point, or a mask is not boolean.

    Example:
        Every x has a y at most 1 away, but the y at 7 is 5 away from all of x.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0], [2.0]]]), np.array([[[1.0], [7.0]]])
        >>> float(hausdorff_distance(x, y))
        5.0

    Source:
        D. P. Huttenlocher et al., Comparing Images Using the Hausdorff Distance, 1993.
        https://doi.org/10.1109/34.232073
    """
    return _hausdorff.value(pred_points, target_points, pred_mask, target_mask, **reduction)


@gradient_of(
    hausdorff_distance,
    terms=_hausdorff,
    properties=(
        "non_negative",
        given("symmetric", pred_mask=None, target_mask=None),
        "translation_invariant",
        given("zero_at_equality", pred_mask=None, target_mask=None),
    ),
)
def hausdorff_distance_gradient(
    pred_points: Array,
    target_points: Array,
    *,
    pred_mask: Array | None = None,
    target_mask: Array | None = None,
    wrt: Argument | tuple[Argument, ...] = "pred_points",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(xᵢ − yⱼ) / ‖xᵢ − yⱼ‖ / B for the pair (i, j) that decides, 0 for all other points and where the two coincide.

    If several pairs are equally far apart, the first one decides, and a point of x comes before a point of y.

    Args:
        wrt: "pred_points", "target_points", or a tuple of both.

    Example:
        The y at 7 decides, and its nearest x is the second one.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0], [2.0]]]), np.array([[[1.0], [7.0]]])
        >>> hausdorff_distance_gradient(x, y).tolist()
        [[[0.0], [-1.0]]]
    """
    return _hausdorff.gradient(pred_points, target_points, pred_mask, target_mask, wrt=wrt, **reduction)


hausdorff_distance_value_and_gradient = both_of(hausdorff_distance_gradient)


@unreduced(
    separable=False,
    by_numpy=True,
    wrt=("pred_points", "target_points"),
    kinks=lambda x, y: (*_chamfer_kinks(x, y, False, None, None), _means_apart(x, y)),
    pairwise=True,
    pred_points=PointSets(3, 3),
    target_points=PointSets(5, 3),
)
def _modified_hausdorff(pred_points: Array, target_points: Array, wanted: Wanted) -> Losses:
    sets = Sets.of(pred_points=pred_points, target_points=target_points)
    xp, x, y = sets.xp, sets.x, sets.y
    if 0 in (x.shape[-2], y.shape[-2]):
        return sets.nothing(wanted)
    forward, by_x, found_y = _to_nearest(xp, x, y, shares(xp, x, None, None, None), None, False)
    backward, by_y, found_x = _to_nearest(xp, y, x, shares(xp, y, None, None, None), None, False)
    larger = (forward >= backward)[:, None, None]
    by_x, by_y = xp.where(larger, by_x, 0.0), xp.where(larger, 0.0, by_y)
    of_x, of_y = (add_at(xp, found_x, by_y, x.shape[-2]), add_at(xp, found_y, by_x, y.shape[-2]))
    return sets.losses(xp.maximum(forward, backward), {"pred_points": by_x - of_x, "target_points": by_y - of_y})


def modified_hausdorff_distance(pred_points: ArrayT, target_points: ArrayT, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over the batch of max(meanᵢ minⱼ ‖xᵢ − yⱼ‖, meanⱼ minᵢ ‖xᵢ − yⱼ‖), x = pred_points, y = target_points.

    Args:
        pred_points: x, (…, n, d); any leading axes are the batch.
        target_points: y, (…, m, d) with the same leading axes; m may differ from n.
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one distance per batch element for reduction="none"), 0 if a set is empty.

    Raises:
        ValueError: the shapes or a reduction keyword do not fit.
        TypeError: an argument is not an array, or the points are not floating point.

    Example:
        Each x has a y 1 away; the y at 1 has an x 1 away, and the y at 7 one 5 away: (1 + 5) / 2.

        >>> import numpy as np
        >>> float(modified_hausdorff_distance(np.array([[[0.0], [2.0]]]), np.array([[[1.0], [7.0]]])))
        3.0

    Source:
        M.-P. Dubuisson and A. K. Jain, A Modified Hausdorff Distance for Object Matching, 1994.
        https://doi.org/10.1109/ICPR.1994.576361
    """
    return _modified_hausdorff.value(pred_points, target_points, **reduction)


@gradient_of(
    modified_hausdorff_distance,
    terms=_modified_hausdorff,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def modified_hausdorff_distance_gradient(
    pred_points: ArrayT, target_points: ArrayT, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """Σ (xᵢ − yⱼ) / ‖xᵢ − yⱼ‖ / (n B), over the pairs (i, j) of nearest points of the larger mean; −1 times that for y.

    Example:
        >>> import numpy as np
        >>> x, y = np.array([[[0.0], [2.0]]]), np.array([[[1.0], [7.0]]])
        >>> modified_hausdorff_distance_gradient(x, y)["pred_points"].tolist()
        [[[-0.5], [-0.5]]]
    """
    return _modified_hausdorff.gradient(pred_points, target_points, **reduction)
