"""Optimal transport between sets of points: exact, entropic, and along random directions."""

from __future__ import annotations

from typing import Any, Literal, Unpack

import numpy as np

from mithril_losses._pairs import gradient_of, value_and_gradient_of
from mithril_losses._pairwise import Sets, add_at, requested, squared_distances, take
from mithril_losses._reduction import GradientReduction, Reduction, collect
from mithril_losses._stable import norm_and_unit
from mithril_losses._transport import assignment
from mithril_losses._validation import quiet
from mithril_losses.backends._namespace import Array, array_namespace, host_values
from mithril_losses.domains import Choice, PointSets

__all__ = [
    "earth_mover_distance",
    "earth_mover_distance_gradient",
    "earth_mover_distance_value_and_gradient",
]

Argument = Literal["pred_points", "target_points"]
_ARGUMENT = Choice(("pred_points", "target_points"))


# --- exact ----------------------------------------------------------------------------------------------------------


def _earth_mover(
    pred_points: Array, target_points: Array, wrt: tuple[str, ...] = ()
) -> tuple[Sets, Array, dict[str, Array]]:
    """Return the sets, the distances per batch element and their slopes wrt the arguments in `wrt`."""
    sets = Sets.of(keep_graph=not wrt, pred_points=pred_points, target_points=target_points)
    xp, x, y = sets.xp, sets.x, sets.y
    n = x.shape[-2]
    if n != y.shape[-2]:
        raise ValueError(f"the earth mover's distance needs as many points on either side, got {n} and {y.shape[-2]}")
    partners = assignment(xp, x, y)
    distances, unit = norm_and_unit(xp, x - take(xp, y, partners), 2.0)
    share = 1.0 / max(n, 1)
    slopes = {}
    if "pred_points" in wrt:
        slopes["pred_points"] = share * unit
    if "target_points" in wrt:
        slopes["target_points"] = add_at(xp, partners, -share * unit, n)
    return sets, sets.values(share * xp.sum(distances, axis=-1), pred_points), slopes


def earth_mover_distance(pred_points: Array, target_points: Array, **reduction: Unpack[Reduction]) -> Array:
    """Mean over the batch of min_π meanᵢ ‖xᵢ − y_π(i)‖ over all permutations π, x = pred_points, y = target_points.

    The exact optimum, by an assignment on the host (scipy): the time grows with about the cube of the number of points,
    and all distances between two sets are held at once. Under `jax.jit` and `torch.compile` the assignment is one
    step that the compiler does not look into, and on an accelerator it waits for the host.

    Args:
        pred_points: x, (…, n, d); any leading axes are the batch.
        target_points: y, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one distance per batch element for reduction="none"), in the unit of the points. 0 for empty sets.

    Raises:
        ValueError: the shapes do not fit, or a reduction keyword does not fit.
        TypeError: an argument is no array, or not floating point.

    Example:
        The nearest y of both points is the first, but only one of them gets it: (1 + 3) / 2.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0], [2.0, 0.0]]]), np.array([[[1.0, 0.0], [5.0, 0.0]]])
        >>> float(earth_mover_distance(x, y))
        2.0

    Source:
        Y. Rubner et al., The Earth Mover's Distance as a Metric for Image Retrieval, 2000.
        https://doi.org/10.1023/A:1026543900054. For point clouds: H. Fan et al., A Point Set Generation Network for 3D
        Object Reconstruction, 2017. https://doi.org/10.1109/CVPR.2017.264
    """
    with quiet(array_namespace(pred_points=pred_points)):
        _, values, _ = _earth_mover(pred_points, target_points)
        return collect(values, like=pred_points, **reduction)


@gradient_of(
    earth_mover_distance,
    on_request=("target_points",),
    domain={"pred_points": PointSets(4, 3), "target_points": PointSets(4, 3)},
    separable=False,  # batch elements share nothing, but each is a problem of its own already
    kinks=lambda pred_points, target_points: _earth_mover_kinks(pred_points, target_points),
)
def earth_mover_distance_gradient(
    pred_points: Array,
    target_points: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "pred_points",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(xᵢ − y_π(i)) / ‖xᵢ − y_π(i)‖ / n / B with the best permutation π; 0 where the two coincide.

    Where several permutations are best, one of them is taken. Computed outside PyTorch's autograd graph.

    Args:
        pred_points: x, as in `earth_mover_distance`.
        target_points: y.
        wrt: "pred_points", "target_points", or a tuple of both.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        A new array with the shape and dtype of the argument, or a dict of them by name if `wrt` is a tuple.

    Raises:
        ValueError: as in `earth_mover_distance`, or `wrt` names something else.
        TypeError: as in `earth_mover_distance`.

    Example:
        Both points are drawn to the right, by a half each.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0], [2.0, 0.0]]]), np.array([[[1.0, 0.0], [5.0, 0.0]]])
        >>> earth_mover_distance_gradient(x, y).tolist()
        [[[-0.5, 0.0], [-0.5, 0.0]]]
    """
    with quiet(array_namespace(pred_points=pred_points)):
        sets, _, slopes = _earth_mover(pred_points, target_points, requested(wrt, _ARGUMENT))
        return sets.spread(wrt, slopes, {"pred_points": pred_points, "target_points": target_points}, **reduction)


@value_and_gradient_of(earth_mover_distance)
def earth_mover_distance_value_and_gradient(
    pred_points: Array,
    target_points: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "pred_points",
    upstream: float | Array = 1.0,
    **reduction: Unpack[Reduction],
) -> tuple[Array, Any]:
    """`earth_mover_distance` and `earth_mover_distance_gradient`, whose assignment is found once.

    Args:
        pred_points: x, as in `earth_mover_distance`.
        target_points: y.
        wrt: "pred_points", "target_points", or a tuple of both.
        upstream: the gradient that flows into the loss.
        **reduction: see `reduce_loss`.

    Returns:
        The value and the gradient, an array or a dict of them by name if `wrt` is a tuple.

    Example:
        >>> import numpy as np
        >>> x, y = np.array([[[0.0, 0.0], [2.0, 0.0]]]), np.array([[[1.0, 0.0], [5.0, 0.0]]])
        >>> value, gradient = earth_mover_distance_value_and_gradient(x, y)
        >>> float(value), gradient.tolist()
        (2.0, [[[-0.5, 0.0], [-0.5, 0.0]]])
    """
    with quiet(array_namespace(pred_points=pred_points)):
        sets, values, slopes = _earth_mover(pred_points, target_points, requested(wrt, _ARGUMENT))
        value = collect(values, like=pred_points, **reduction)
        like = {"pred_points": pred_points, "target_points": target_points}
        return value, sets.spread(wrt, slopes, like, upstream=upstream, **reduction)


def _earth_mover_kinks(pred_points: Array, target_points: Array) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the distances of partners, and how much more the best assignment costs without one of its pairs."""
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
