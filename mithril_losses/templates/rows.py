"""Rows of logits z and shares q of their columns: the cross-entropy of softmax(z), in all its forms.

    ℓ = Σ_c q_c (L − z_c) + ζ L²,    L = log Σ_c e^z_c,    ∂ℓ/∂z_c = (Q + 2 ζ L) e^(z_c − L) − q_c,    Q = Σ_c q_c

A part of a row (all its columns, a tile of them, or one) has *statistics*. The statistics of two parts *combine* into
those of both. The statistics of the whole row *finish* as its loss, with numbers from which the *slopes* of each part
follow. These functions are the only implementation of this loss; whole arrays, tiles and chunks call them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import Array, namespace_of
from mithril_losses.numerics.stable import dot, largest_number, with_axis, without_axis
from mithril_losses.numerics.validation import require_same_shape
from mithril_losses.shards import Shards
from mithril_losses.templates.classes import CLASS_MASSES, ONE, Classes, Shares, classes_of, times
from mithril_losses.templates.loop import Arrays, Loop, Repeated
from mithril_losses.templates.unreduced import Curvature, Losses, Named
from mithril_losses.templates.vectors import by_row
from mithril_losses.terms.second_order import Order


class Statistics(NamedTuple):
    """The statistics of a part of each row: arrays with one entry per row.

    Attributes:
        largest: m = max z.
        total: Σ e^(z − m).
        match: Σ q (z − m), never positive.
        mass: Σ q: one number if it is the same for all rows.
    """

    largest: Array
    total: Array
    match: Array
    mass: Any


class Finished(NamedTuple):
    """The results for each row.

    Attributes:
        losses: ℓ.
        mass: Q + 2 ζ L, the factor of softmax(z) in the slopes.
        total: Σ e^(z − m).
    """

    losses: Array
    mass: Any
    total: Array

    def apart(self, across: Shards | None) -> Finished:
        """Return the same results for slopes of the columns of this shard alone."""
        if across is None:
            return self
        mass = self.mass if type(self.mass) is float else across.apart(self.mass)
        return Finished(self.losses, mass, across.apart(self.total))


def statistics(
    xp: Any,
    logits: Array,
    shares: Shares,
    axis: int = -1,
    *,
    capped: bool = True,
    in_place: bool = False,
    across: Shards | None = None,
    mass: Any = None,
) -> tuple[Statistics, Array]:
    """Return the statistics of logits along an axis, and e^(z − m), in the memory of the logits if wanted.

    If the logits are the part of whole rows that one of several shards holds, the statistics are those of whole rows,
    with the given mass. Two collectives complete them: the largest logits, and both sums at once.

    If logits are capped, a logit of +∞ has all the mass, and a row with only −∞ is NaN. If they are not capped, a row
    with +∞ is NaN, and a row with only −∞ has the total 0.
    """
    axis = axis % len(logits.shape)
    info = xp.finfo(logits.dtype)
    largest = largest_number(xp, logits, axis)
    largest = largest if across is None else across.largest(largest)
    largest = xp.minimum(largest, float(info.max)) if capped else xp.maximum(largest, float(info.min))
    shifted = xp.subtract(logits, largest, **({"out": logits} if in_place else {}))
    over = {"out": shifted} if in_place or xp is np else {}
    if capped:  # +∞ is as far above the largest number as this is
        shifted = xp.minimum(shifted, 0.0, **over)
    match, mass = shares.dot(xp, shifted, axis), shares.mass(xp, shifted, axis) if across is None else mass
    exponentials = xp.exp(shifted, **over)
    total = np.add.reduce(exponentials, axis=axis) if xp is np else xp.sum(exponentials, axis=axis)
    if across is not None:
        sums = across.sum(xp.stack([total, match]))
        total, match = sums[0, ...], sums[1, ...]
    return Statistics(without_axis(xp, largest, axis), total, match, mass), exponentials


def combine(xp: Any, one: Statistics, other: Statistics) -> Statistics:
    """Return the statistics of two parts of rows combined; the order of the parts does not matter."""
    largest = xp.maximum(one.largest, other.largest)
    total, match = 0.0, 0.0
    for part in (one, other):
        lower = part.largest - largest
        total = total + part.total * xp.exp(lower)
        match = match + part.match + times(xp, part.mass, lower)
    return Statistics(largest, total, match, one.mass + other.mass)


def log_sum(xp: Any, whole: Statistics) -> Array:
    """Return L of whole rows."""
    return whole.largest + xp.log(whole.total)


def finish(xp: Any, whole: Statistics, z_loss: Any = None) -> Finished:
    """Return the results for whole rows, with ζ if it is given."""
    log_total = xp.log(whole.total)
    losses = (log_total if whole.mass is ONE else times(xp, whole.mass, log_total)) - whole.match
    if z_loss is None:
        return Finished(losses, whole.mass, whole.total)
    height = log_sum(xp, whole)
    return Finished(losses + z_loss * height * height, whole.mass + 2.0 * z_loss * height, whole.total)


def slopes(
    xp: Any,
    exponentials: Array,
    finished: Finished,
    shares: Shares,
    axis: int = -1,
    *,
    scale: Any = 1.0,
    in_place: bool = False,
) -> Array:
    """Return scale · ∂ℓ/∂z of whole rows, from e^(z − m), which may be overwritten.

    Args:
        xp: the namespace of the arrays.
        exponentials: e^(z − m).
        finished: the results for the whole row. For a part of it, multiply the mass by e^(m − M), with M the largest
            logit of the whole row.
        shares: q.
        axis: the axis of the columns.
        scale: one number, or one per row.
        in_place: whether tensors may be overwritten, too.
    """
    axis = axis % len(exponentials.shape)
    pull = with_axis(xp, scale * finished.mass / finished.total, axis)
    found = xp.multiply(exponentials, pull, **({"out": exponentials} if in_place or xp is np else {}))
    return shares.taken_from(xp, found, axis, scale, in_place)


# --- whole arrays of logits -----------------------------------------------------------------------------------------


def softmax_losses(classes: Classes, name: str) -> Losses:
    """Return the cross-entropy of each row of scores, and its slopes wrt the argument `name`."""
    xp: Any = namespace_of(classes.scores)
    shares, axis = classes.shares, classes.axis
    found, exponentials = statistics(xp, classes.scores, shares, axis, across=classes.across, mass=classes.whole)
    finished = finish(xp, found)

    def scaled(factor: float = 1.0) -> Mapping[str, Array]:
        of_rows = slopes(xp, exponentials, finished.apart(classes.across), shares, axis, scale=factor)
        return {name: classes.legal(xp, of_rows)}

    def curvature() -> Curvature:
        return _curvature(xp, classes, exponentials, finished, name)

    return Losses(classes.legal(xp, finished.losses), scaled, (axis,), classes.mass, scaled, curvature=curvature)


def _curvature(xp: Any, classes: Classes, exponentials: Array, finished: Finished, name: str) -> Curvature:
    """Return H = Q (diag p − p pᵀ) of each row, with p = softmax(z), as products with one pass over the row.

    With Bᵀ B in place of B Bᵀ it would have another factor; this one is √Q (diag √p − p √pᵀ), because Σ p = 1.
    """
    axis = classes.axis
    p = exponentials / with_axis(xp, finished.total, axis)
    mass = finished.mass
    if type(mass) is not float:
        mass = with_axis(xp, xp.broadcast_to(mass, finished.total.shape), axis)
    root_mass = math.sqrt(mass) if type(mass) is float else xp.sqrt(mass)

    def along(weights: Array, x: Array) -> Array:
        is_last = axis == len(p.shape) - 1
        return with_axis(xp, dot(xp, weights, x) if is_last else xp.sum(weights * x, axis=axis), axis)

    def named(x: Array) -> Named:
        return {name: classes.legal(xp, x)}

    def product(vectors: Named) -> Named:
        v = vectors[name]
        centred = p * (v - along(p, v))
        return named(centred if mass is ONE else mass * centred)

    def factor(vectors: Named) -> Named:
        root, w = xp.sqrt(p), vectors[name]
        return named(root_mass * (root * w - p * along(root, w)))

    def transposed(vectors: Named) -> Named:
        v = vectors[name]
        return named(root_mass * (xp.sqrt(p) * (v - along(p, v))))

    return Curvature(
        product,
        lambda: named(mass * (p * (1.0 - p))),
        lambda: named(2.0 * mass * (p * (1.0 - p))),  # of each row of H, the diagonal plus the sum of the others
        factor,
        transposed,
    )


def softmax_loop(logits: Any, targets: Any, **options: Any) -> Loop | None:
    """Return the loop over NumPy logits for the targets of a classification; see `whole_rows_loop`."""
    classes = classes_of(logits, targets, **options, name="logits", trusted=True)
    loop = whole_rows_loop(logits, classes, lambda: CLASS_MASSES.check("targets", targets))
    return None if loop is None else loop._replace(repeated=functools.partial(_repeated, options))


def _repeated(options: Mapping[str, Any], factor: float) -> Repeated:
    """Return what `Loop.repeated` returns, with a check of the labels of each call."""

    def run(arrays: Arrays, gradients: Arrays, threads: int) -> float:
        loop = softmax_loop(*arrays, **options)
        if loop is None or loop.compiled is None:
            raise RuntimeError("arrays of the same layout have no loop")
        return loop.compiled(None, factor, None, gradients, threads)

    return run


def whole_rows_loop(logits: Any, classes: Classes, check: Callable[[], None] = lambda: None) -> Loop | None:
    """Return the fused loop over the rows of NumPy logits, or None if it does not fit their layout or dtype.

    The function `check` is called if the loop finds that a target probability is negative.
    """
    last = logits.ndim - 1
    if classes.axis != last or classes.scores is not logits or not logits.flags.c_contiguous:
        return None
    arguments = classes.shares.for_loop(logits)
    if arguments is None:
        return None
    shape, rows = logits.shape[:-1], (-1, logits.shape[-1])
    least = CLASS_MASSES.bounds(arguments[0].dtype)[0]

    def run(weights: Any, factor: Any, values: Any, gradients: Sequence[Any], threads: int) -> float:
        from mithril_losses.loops import rows as loops

        if classes.kept is not None:
            weights = classes.kept.astype(logits.dtype) if weights is None else weights * classes.kept
        total, legal = loops.run(
            logits.reshape(rows),
            arguments,
            by_row(weights, shape),
            by_row(factor, shape),
            values=None if values is None else values.reshape(-1),
            gradient=gradients[0].reshape(rows),
            threads=threads if logits.size >= limits.current.shared_rows else 1,
            group=limits.current.row_group,
            least=least,
        )
        if not legal:
            check()
        return total

    return Loop(shape, classes.mass, run)


def softmax_second_loop(order: Order, kind: str) -> Callable[..., Loop | None] | None:
    """Return what `softmax_loop` is for the second derivatives of a classification; see `second_rows_loop`."""
    if not has_second_rows_loop(order, kind):
        return None

    def loop(logits: Any, targets: Any, vector: Any = None, **options: Any) -> Loop | None:
        return second_rows_loop(logits, classes_of(logits, targets, **options, name="logits"), vector)

    return loop


def has_second_rows_loop(order: Order, kind: str) -> bool:
    """Whether there is a fused loop for these second derivatives; others are computed in blocks."""
    return order in ("product", "diagonal") and kind != "bound"


def second_rows_loop(logits: Any, classes: Classes, vector: Any) -> Loop | None:
    """Return the fused loop over H v of NumPy logits, or without a vector over the diagonal of H; None as above."""
    last = logits.ndim - 1
    if classes.axis != last or classes.scores is not logits or not logits.flags.c_contiguous:
        return None
    if vector is not None:
        require_same_shape(logits=logits, vector=vector)
        vector = np.ascontiguousarray(vector, logits.dtype).reshape(-1, logits.shape[-1])
    shape, rows = logits.shape[:-1], (-1, logits.shape[-1])

    def run(weights: Any, factor: Any, values: Any, gradients: Sequence[Any], threads: int) -> float:
        from mithril_losses.loops import rows as loops

        if values is not None:
            values[...] = 0.0
        if classes.kept is not None:
            weights = classes.kept.astype(logits.dtype) if weights is None else weights * classes.kept
        loops.run_second_order(
            logits.reshape(rows),
            vector,
            by_row(classes.shares.mass(np, logits, last), shape),
            by_row(weights, shape),
            by_row(factor, shape),
            out=gradients[0].reshape(rows),
            threads=threads if logits.size >= limits.current.shared_rows else 1,
            group=limits.current.row_group,
        )
        return 0.0

    return Loop(shape, classes.mass, run)
