"""Contrastive losses: each embedding is to find its own partner among all those of a batch.

The logits of a batch are all its pairs, n × m numbers. They exist a tile at a time (`_pair_rows`); every row of a loss
hangs on the embeddings of all others, so the gradients of micro-batches do not add up to that of the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

from mithril_losses._pair_rows import (
    Rows,
    row_losses,
    softmax,
)
from mithril_losses._pairs import gradient_of, value_and_gradient_of
from mithril_losses._pairwise import Sets
from mithril_losses._reduction import GradientReduction, Plan, Reduction, plan
from mithril_losses._stable import along_sphere, unit_and_norm
from mithril_losses._validation import quiet, require_one_number, widest_dtype
from mithril_losses.backends._namespace import Array, array_namespace, placement, require_library
from mithril_losses.domains import POSITIVE, OneNumber, PointSets

__all__ = [
    "info_nce_loss",
    "info_nce_loss_gradient",
]

_SET = PointSets(4, 5)
_NUMBER = OneNumber()

Results = tuple[Array, dict[str, Array]]


class _Problem(NamedTuple):
    """The checked arguments, ready to compute with; `xp` is the namespace of x and y.

    Attributes:
        sets: the embeddings as they came.
        x: the rows, (batch, n, d), on the unit sphere if asked for.
        y: the points that the rows look for theirs among, (batch, m, d).
        norms: of the embeddings, None where they were left as they are.
        plan: the reduction of one loss per row.
        scale: ∂L/∂ℓ of each row, (batch, n), None where no gradient is wanted.
    """

    xp: Any
    sets: Sets
    x: Array
    y: Array
    norms: tuple[Array, Array] | None
    plan: Plan
    scale: Array | None

    def places(self, count: int) -> Array:
        """Return 0, 1, …, count − 1 for each element of the batch."""
        return self.xp.broadcast_to(self.xp.arange(count, **placement(self.x)), (self.x.shape[0], count))

    def value(self, losses: Array, like: Array) -> Array:
        """Return the reduced loss of one loss per row, (batch, n)."""
        return self.plan.collect(array_namespace(like=like), self.sets.values(losses, like), like)

    def back(self, by_x: Array, by_y: Array) -> tuple[Array, Array]:
        """Take derivatives wrt x and y back through the normalisation."""
        if self.norms is None:
            return by_x, by_y
        by_x = along_sphere(self.xp, by_x, self.x, self.norms[0])
        return by_x, along_sphere(self.xp, by_y, self.y, self.norms[1])


def _problem(
    reduction: Any,
    wants_gradient: bool,
    normalize: bool,
    *,
    apart: bool = False,
    numbers: tuple[Any, ...] = (),
    dtype: Any = None,
    **embeddings: Array,
) -> _Problem:
    """Check the arguments; `apart` says that no row sees the x of another."""
    first, own = next(iter(embeddings.values())), array_namespace(**embeddings)
    dtype = widest_dtype(own, **embeddings) if dtype is None else dtype
    seen = (*numbers, *(reduction.get(name) for name in ("weights", "normalizer", "upstream")))
    sets = Sets.of(keep_graph=not wants_gradient, numbers=seen, dtype=dtype, **embeddings)
    xp, x, y = sets.xp, sets.x, sets.y
    shape, flat = tuple(first.shape[:-1]), tuple(x.shape[:2])
    reducing = plan(own, shape, dtype, **reduction)
    norms = scale = None
    if reducing.weights is not None:  # what no loss with a weight hangs on may hold anything
        alive = sets.bring(own.reshape(own.broadcast_to(reducing.weights != 0, shape), (*flat, 1)))
        some = xp.any(alive, axis=1, keepdims=True)
        x, y = xp.where(alive if apart else some, x, 0.0), xp.where(some, y, 0.0)
    if wants_gradient:
        ones = own.ones(shape, dtype=dtype, **placement(first))
        scale = sets.bring(own.reshape(reducing.spread(own, ones, ones, ()), flat))
    if normalize:
        (x, x_norm), (y, y_norm) = unit_and_norm(xp, x), unit_and_norm(xp, y)
        norms = x_norm, y_norm
    return _Problem(xp, sets, x, y, norms, reducing, scale)


def _inverse_temperature(temperature: Any, **embeddings: Array) -> Any:
    xp = array_namespace(**embeddings)
    checked = POSITIVE.check("temperature", temperature)
    if not isinstance(checked, float):
        require_library(xp, "temperature", checked)
    return 1.0 / require_one_number(xp, "temperature", checked, widest_dtype(xp, **embeddings))


# --- one of many: InfoNCE and N-pair ----------------------------------------------------------------------------------


def _one_of_many(
    names: tuple[str, str],
    rows: Array,
    points: Array,
    sharpness: Any,
    normalize: bool,
    reduction: Any,
    wants_gradient: bool = True,
) -> Results:
    """Return the reduced softmax cross-entropy of sharpness · x_i · y_j, and its gradients by name."""
    given = dict(zip(names, (rows, points), strict=True))
    p = _problem(reduction, wants_gradient, normalize, apart=True, numbers=(sharpness,), **given)
    xp, sharpness = p.xp, p.sets.bring(sharpness)
    n, m = p.x.shape[1], p.y.shape[1]
    if m < n:
        raise ValueError(f"{names[1]} must hold a partner for each of the {n} rows of {names[0]}, got {m}")
    found = row_losses(xp, sharpness * p.x, p.y, softmax, Rows(target=p.places(n), scale=p.scale))
    value = p.value(found.losses, rows)
    if not wants_gradient:
        return value, {}
    back = p.back(sharpness * found.by_x, found.by_y)
    return value, p.sets.gradients(dict(zip(names, back, strict=True)), given)


def info_nce_loss(
    queries: Array,
    keys: Array,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    **reduction: Unpack[Reduction],
) -> Array:
    """Mean over rows of −log (e^(q_i·k_i/τ) / Σ_j e^(q_i·k_j/τ)), q and k divided by their norms.

    Key i belongs to query i; all others are its negatives. Pairs are computed in tiles: memory grows with the number of
    embeddings, not with its square.

    Args:
        queries: q, (…, n, d); any leading axes are a batch of sets that know nothing of each other.
        keys: k, (…, m, d) with m ≥ n: those from n on are negatives for every query (a memory bank).
        temperature: τ > 0.
        normalize: divide each embedding by its Euclidean norm, so that products are cosines. A zero vector stays 0 and
            gets the gradient 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per query, (…, n).

    Returns:
        A scalar (one loss per query for reduction="none").

    Raises:
        ValueError: the shapes do not fit, there are fewer keys than queries, τ is not positive, or a reduction keyword
            does not fit.
        TypeError: an argument is no array, or not floating point.

    Example:
        The products of the first query are 1 and 0, those of the second 0 and 1: log(1 + e^(−1/τ)), τ = 1 / log 3.

        >>> import numpy as np
        >>> q, k = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 5.0]])
        >>> loss = info_nce_loss(q, k, temperature=1 / np.log(3.0))
        >>> round(float(loss), 6), round(float(np.log(4 / 3)), 6)
        (0.287682, 0.287682)

    Source:
        A. van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018.
        https://arxiv.org/abs/1807.03748. With keys of a memory bank: K. He et al., Momentum Contrast, 2020.
        https://doi.org/10.1109/CVPR42600.2020.00975
    """
    with quiet(array_namespace(queries=queries)):
        return _info_nce(queries, keys, temperature, normalize, reduction, wants_gradient=False)[0]


@gradient_of(
    info_nce_loss,
    wrt=("queries", "keys"),
    domain={
        "queries": PointSets(3, 5),
        "keys": PointSets(4, 5),
        "temperature": POSITIVE,
        "normalize": "boolean",
    },
    separable=False,
)
def info_nce_loss_gradient(
    queries: Array,
    keys: Array,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    **reduction: Unpack[GradientReduction],
) -> dict[str, Array]:
    """queries: J G k̂ / τ, keys: J Gᵀ q̂ / τ, with G_ij = (softmax_j(q̂_i·k̂_j/τ) − [i = j]) / n, J = (1 − x̂ x̂ᵀ) / ‖x‖.

    Computed outside PyTorch's autograd graph.

    Args:
        queries: as in `info_nce_loss`; likewise all other arguments.
        keys: k.
        temperature: τ > 0.
        normalize: divide each embedding by its norm; without, J is 1.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        New arrays under "queries" and "keys", each with its argument's shape and dtype.

    Raises:
        ValueError: as in `info_nce_loss`.
        TypeError: as in `info_nce_loss`.

    Example:
        softmax(0, log 3) = (¼, ¾), so G = ((−¾, ¾), (¼, −¼)) / 2.

        >>> import numpy as np
        >>> q, k = np.array([[0.0, np.log(3.0)], [0.0, np.log(3.0)]]), np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> info_nce_loss_gradient(q, k, temperature=1.0, normalize=False)["queries"].round(12).tolist()
        [[-0.375, 0.375], [0.125, -0.125]]
    """
    with quiet(array_namespace(queries=queries)):
        return _info_nce(queries, keys, temperature, normalize, reduction)[1]


@value_and_gradient_of(info_nce_loss)
def _info_nce_value_and_gradient(
    queries: Array,
    keys: Array,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    **reduction: Unpack[GradientReduction],
) -> Results:
    """Both of the same tiles."""
    with quiet(array_namespace(queries=queries)):
        return _info_nce(queries, keys, temperature, normalize, reduction)


def _info_nce(
    queries: Array, keys: Array, temperature: float, normalize: bool, reduction: Any, wants_gradient: bool = True
) -> Results:
    sharpness = _inverse_temperature(temperature, queries=queries, keys=keys)
    return _one_of_many(("queries", "keys"), queries, keys, sharpness, normalize, reduction, wants_gradient)
