"""Losses of rows of pairs: row i has the logits x_i · y_j of a point with all points of a set, one tile at a time.

A rule takes the logits of some rows, and returns the loss of each row and its derivative by each logit. This module
computes from them the losses of all rows and, by two products, the derivatives wrt x and y. There are three drivers, as
in `points`: tiles in NumPy, `lax.scan` for JAX, and loops over the array's own library for all others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import Array, array_namespace, library_name, placement
from mithril_losses.backends.threads import share, thread_count
from mithril_losses.numerics.reduction import Plan, plan
from mithril_losses.numerics.stable import along_sphere, put_at, subtract_at, take_at, unit_and_norm
from mithril_losses.numerics.validation import as_dtype, widest_dtype
from mithril_losses.shards import Shards, resolve
from mithril_losses.templates.classes import AtLabel, Given
from mithril_losses.templates.points import (
    Sets,
    batches,
    joined,
    map_batch,
    may_be_compiled,
    row_blocks,
    scan_rows,
)
from mithril_losses.templates.rows import Statistics, combine, finish, log_sum, slopes, statistics


class PairRows(NamedTuple):
    """What a rule needs for each row: arrays (batch, n), cut like the rows.

    Attributes:
        target: the column that the row must find.
        own: the logit of that column, in place of the product.
        itself: the column of the row's own point, which is not a pair.
        label: the class of the row.
        scale: ∂L/∂ℓ, None if no derivative is wanted.
    """

    target: Array | None = None
    own: Array | None = None
    itself: Array | None = None
    label: Array | None = None
    scale: Array | None = None


class PairColumns(NamedTuple):
    """What a rule needs for each column: arrays (batch, m).

    Attributes:
        label: the class of the column.
        log_sum: log Σᵢ e^z of the column.
        scale: the derivative of L by the loss of the column.
    """

    label: Array | None = None
    log_sum: Array | None = None
    scale: Array | None = None


_NO_COLUMNS = PairColumns()


class Found(NamedTuple):
    """The losses of the rows (batch, n), a second number per row, and the derivatives of Σ scale · ℓ wrt x and y."""

    losses: Array
    extra: Array
    by_x: Any
    by_y: Any


Applied = tuple[Array, Array, Array | None]
Rule = Callable[[Any, Array, PairRows, PairColumns], Applied]


# --- rules: (losses, a second number per row, slopes · scale); a rule may overwrite NumPy's logits --------------------


def softmax(xp: Any, logits: Array, rows: PairRows, columns: PairColumns) -> Applied:
    """ℓ = log Σ_j e^z_j − z_t, and softmax(z) − e_t; the second number is log Σ_j e^z_j."""
    if rows.itself is not None:
        logits = put_at(xp, logits, rows.itself, -math.inf)
    if xp is np and (fused := _fused(logits)) is not None:
        found = fused.softmax(logits.reshape(-1, logits.shape[-1]), *_flat(rows.target, rows.scale))
        losses, log_sums = (x.reshape(logits.shape[:-1]) for x in found)
        return losses, log_sums, None if rows.scale is None else logits
    shares = AtLabel(rows.target)
    found, exponentials = statistics(xp, logits, shares, capped=False, in_place=xp is np)
    finished = finish(xp, found)
    if rows.scale is None:
        return finished.losses, log_sum(xp, found), None
    return finished.losses, log_sum(xp, found), slopes(xp, exponentials, finished, shares, scale=rows.scale)


def _fused(logits: Array) -> Any:
    """Return the compiled rules if they are faster. For float64 they are not: no loop has its exponential."""
    if logits.dtype != np.float32 or not may_be_compiled(logits.size):
        return None
    from mithril_losses.loops import pairs

    return pairs


def _flat(*arrays: Any) -> list[Any]:
    """Return arrays (batch, r), or None, flattened into one axis of rows."""
    return [None if x is None else np.ascontiguousarray(x).reshape(-1) for x in arrays]


def softmax_apart(xp: Any, logits: Array, rows: PairRows, columns: PairColumns) -> Applied:
    """`softmax` with `own` in place of z_t. The slope of z_t is the second number, and is 0 in the other slopes."""
    if xp is np and _fused(logits) is not None:
        losses, _, found = softmax(np, put_at(np, logits, rows.target, rows.own), rows, columns)
        if found is None:
            return losses, losses, None
        of_own = take_at(np, found, rows.target, found.ndim - 1)
        return losses, of_own, put_at(np, found, rows.target, 0.0 * of_own)  # NaN if the row is NaN
    nothing = AtLabel(rows.target, own=0.0)
    others, exponentials = statistics(
        xp, put_at(xp, logits, rows.target, -math.inf), nothing, capped=False, in_place=xp is np
    )
    own = Statistics(rows.own, xp.ones_like(rows.own), xp.zeros_like(rows.own), 1.0)
    whole = combine(xp, others, own)
    finished = finish(xp, whole)
    if rows.scale is None:
        return finished.losses, finished.losses, None
    of_own = rows.scale * (finished.mass * xp.exp(rows.own - whole.largest) / finished.total - 1.0)
    part = finished._replace(mass=finished.mass * xp.exp(others.largest - whole.largest))
    return finished.losses, of_own, slopes(xp, exponentials, part, nothing, scale=rows.scale)


def softmax_both_ways(xp: Any, logits: Array, rows: PairRows, columns: PairColumns) -> Applied:
    """`softmax`, plus the slopes of the losses of columns, e^(z − log_sum) − e_t, for square logits."""
    if rows.scale is None:
        return softmax(xp, logits, rows, columns)
    if xp is np and len(logits) == 1 and (fused := _fused(logits)) is not None:
        beside = _flat(columns.log_sum, columns.scale)
        losses, log_sums = fused.softmax(logits[0], *_flat(rows.target, rows.scale), beside)
        return losses[None], log_sums[None], logits
    by_column = xp.exp(logits - xp.expand_dims(columns.log_sum, axis=-2)) * xp.expand_dims(columns.scale, axis=-2)
    losses, log_sums, by_row = softmax(xp, logits, rows, columns)
    by_column = subtract_at(xp, by_column, rows.target, rows.scale, len(by_column.shape) - 1)
    return losses, log_sums, xp.add(by_row, by_column, **_into(xp, by_row))


def softmax_by_label(xp: Any, logits: Array, rows: PairRows, columns: PairColumns) -> Applied:
    """ℓ = log Σ_{j≠i} e^z_j − mean z_p over the p with i's label, and softmax(z) − 1/count; 0 if there is no p."""
    if xp is np and len(logits) == 1 and (fused := _fused(logits)) is not None:
        # int64 distinguishes all labels that narrower integers do
        labels = [x.astype(np.int64) for x in _flat(rows.label, columns.label)]
        losses, count = fused.softmax_by_label(logits[0], *_flat(rows.itself), *labels, *_flat(rows.scale))
        return losses[None], count[None], None if rows.scale is None else logits
    same = xp.astype(xp.expand_dims(rows.label, axis=-1) == xp.expand_dims(columns.label, axis=-2), logits.dtype)
    same = put_at(xp, same, rows.itself, 0.0)
    count = xp.sum(same, axis=-1)
    alone = count == 0
    shares = Given(_scaled(xp, same, 1.0 / xp.maximum(count, 1.0)), mass=xp.where(alone, xp.zeros_like(count), 1.0))
    found, exponentials = statistics(
        xp, put_at(xp, logits, rows.itself, -math.inf), shares, capped=False, in_place=xp is np
    )
    finished = finish(xp, found._replace(total=xp.where(alone, 1.0, found.total)))
    losses = xp.where(alone, 0.0, finished.losses)
    if rows.scale is None:
        return losses, count, None
    scale = xp.where(alone, 0.0, rows.scale)
    return losses, count, slopes(xp, exponentials, finished, shares, scale=scale)


def sigmoid(xp: Any, logits: Array, rows: PairRows, columns: PairColumns) -> Applied:
    """ℓ = softplus(−z_t) + Σ_{j≠t} softplus(z_j), with the slopes −σ(−z_t) and σ(z_j)."""
    if xp is np and (fused := _fused(logits)) is not None:
        found = fused.sigmoid(logits.reshape(-1, logits.shape[-1]), *_flat(rows.target, rows.scale))
        losses = found.reshape(logits.shape[:-1])
        return losses, losses, None if rows.scale is None else logits
    axis = len(logits.shape) - 1
    logits = put_at(xp, logits, rows.target, -take_at(xp, logits, rows.target, axis))
    tail = xp.exp(-xp.abs(logits))
    losses = xp.sum(xp.maximum(logits, 0.0) + xp.log1p(tail), axis=-1)
    if rows.scale is None:
        return losses, losses, None
    slopes = xp.where(logits >= 0.0, 1.0, tail) / (1.0 + tail)
    slopes = put_at(xp, slopes, rows.target, -take_at(xp, slopes, rows.target, axis))
    return losses, losses, _scaled(xp, slopes, rows.scale)


def _into(xp: Any, x: Array) -> dict[str, Array]:
    return {"out": x} if xp is np else {}


def _scaled(xp: Any, x: Array, by: Array) -> Array:
    return xp.multiply(x, xp.expand_dims(by, axis=-1), **_into(xp, x))


# --- drivers --------------------------------------------------------------------------------------------------------


def row_losses(xp: Any, x: Array, y: Array, rule: Rule, rows: PairRows, columns: PairColumns = _NO_COLUMNS) -> Found:
    """Return the results of a rule for the logits of every row, and the derivatives if the rows have a scale.

    Args:
        xp: the namespace of the arrays.
        x: (batch, n, d).
        y: (batch, m, d).
        rule: one of the functions above.
        rows: what the rule needs for each row.
        columns: what the rule needs for each column.
    """
    if 0 in (x.shape[0], x.shape[1], y.shape[1]):
        nothing = xp.sum(x, axis=-1) * 0.0
        return Found(nothing, nothing, *((None, None) if rows.scale is None else (xp.zeros_like(x), xp.zeros_like(y))))
    if library_name(xp) == "jax":
        return _compiled()(x, y, rows, columns, rule=rule)  # type: ignore[no-any-return]
    if xp is np:
        return _on_host(x, y, rule, rows, columns)
    parts = []
    for part in batches(xp, x.shape[0], x.shape[-2] * y.shape[-2]):
        by_column = _cut(columns, part)
        parts.append(_looped(xp, x[part, ...], y[part, ...], rule, _cut(rows, part), by_column))
    return Found(*(joined(xp, found) for found in zip(*parts, strict=True)))


def _cut(arrays: Any, *at: Any) -> Any:
    return type(arrays)(*(None if a is None else a[(*at, ...)] for a in arrays))


def _looped(xp: Any, x: Array, y: Array, rule: Rule, rows: PairRows, columns: PairColumns) -> Found:
    losses, extra, by_x, by_y = [], [], [], None
    for start, stop in row_blocks(xp, x, y.shape[-2]):
        points = x[:, start:stop, :]
        logits = points @ xp.matrix_transpose(y)
        found, more, slopes = rule(xp, logits, _cut(rows, slice(None), slice(start, stop)), columns)
        losses.append(found)
        extra.append(more)
        if slopes is not None:
            by_x.append(slopes @ y)
            pulled = xp.matrix_transpose(slopes) @ points
            by_y = pulled if by_y is None else by_y + pulled
    return Found(
        joined(xp, losses, axis=-1), joined(xp, extra, axis=-1), joined(xp, by_x, axis=-2) if by_x else None, by_y
    )


def _on_host(x: Array, y: Array, rule: Rule, rows: PairRows, columns: PairColumns) -> Found:
    """Compute every tile in one buffer, in which slopes overwrite logits."""
    batch, n, m = x.shape[0], x.shape[-2], y.shape[-2]
    losses, extra = np.empty((batch, n), x.dtype), np.empty((batch, n), x.dtype)
    by_x: Any = None if rows.scale is None else np.empty_like(x)
    by_y: Any = None if rows.scale is None else np.empty_like(y)
    buffer, pulled = np.empty(0, x.dtype), np.empty(0, x.dtype)
    for part in batches(np, batch, n * m):
        points, others = x[part], y[part]
        for start, stop in row_blocks(np, points, m):
            at = (part, slice(start, stop))
            size = len(points) * (stop - start) * m
            if buffer.size < size:
                buffer = np.empty(size, x.dtype)
            tile = buffer[:size].reshape(len(points), stop - start, m)
            np.matmul(points[:, start:stop], others.mT, out=tile)
            losses[at], extra[at] = _apply(tile, rule, _cut(rows, *at), _cut(columns, part))
            if by_x is None:
                continue
            by_x[at] = np.matmul(tile, others)
            if start == 0:
                np.matmul(tile.mT, points[:, start:stop], out=by_y[part])
            else:
                pulled = pulled if pulled.size else np.empty_like(others)
                by_y[part] += np.matmul(tile.mT, points[:, start:stop], out=pulled)
    return Found(losses, extra, by_x, by_y)


def _apply(tile: Array, rule: Rule, rows: PairRows, columns: PairColumns) -> tuple[Array, Array]:
    """Turn the logits of a tile into slopes, and return the losses and the second numbers."""
    threads = thread_count() if tile.size >= limits.current.shared_pairs else 1
    losses, extra = np.empty(tile.shape[:-1], tile.dtype), np.empty(tile.shape[:-1], tile.dtype)
    pieces = list(_pieces(tile))

    def work(piece: int) -> None:
        at = (slice(None), slice(*pieces[piece]))
        with np.errstate(all="ignore"):  # threads do not inherit this
            losses[at], extra[at], slopes = rule(np, tile[at], _cut(rows, *at), columns)
        if slopes is not None and not np.shares_memory(slopes, tile):
            tile[at] = slopes

    share(len(pieces), work, threads)
    return losses, extra


def _pieces(tile: Array) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows of a tile (batch, r, m), one range per piece; a piece may span elements of the batch."""
    count = tile.shape[1]
    step = count if len(tile) > 1 else max(1, limits.current.piece // tile.shape[2])
    for start in range(0, count, step):
        yield start, min(start + step, count)


@functools.cache
def _compiled() -> Any:
    """Return the scan jitted once, so that a second call with arrays of the same shapes compiles nothing."""
    import jax

    return jax.jit(_scanned, static_argnames="rule")


def _scanned(x: Array, y: Array, rows: PairRows, columns: PairColumns, rule: Rule) -> Found:
    from mithril_losses.backends.namespaces import jax as jnp

    def one(element: tuple[Array, Array, PairRows, PairColumns]) -> Found:
        x, y, rows, columns = element

        def step(by_y: Array | None, part: tuple[Array, PairRows]) -> tuple[Array | None, tuple[Array, Array, Any]]:
            points, own = part
            losses, extra, slopes = rule(jnp, points @ y.T, own, columns)
            if slopes is None:
                return None, (losses, extra, None)
            return by_y + slopes.T @ points, (losses, extra, slopes @ y)

        by_y = None if rows.scale is None else jnp.zeros_like(y)
        by_y, (losses, extra, by_x) = scan_rows(step, by_y, (x, rows), y)
        return Found(losses, extra, by_x, by_y)

    return map_batch(one, (x, y, rows, columns), x.shape[-2] * y.shape[-2])  # type: ignore[no-any-return]


# --- embeddings and their losses --------------------------------------------------------------------------------------


class Embeddings(NamedTuple):
    """The checked arguments, ready to compute with; `xp` is the namespace of x and y.

    Attributes:
        sets: the original embeddings.
        x: the rows, (batch, n, d), normalized if wanted.
        y: the columns, among which each row must find its own, (batch, m, d).
        norms: the norms of the embeddings, None if they are not normalized.
        shape: the shape of the unreduced losses, one per row.
        plan: the reduction of the losses.
        scale: ∂L/∂ℓ of each row, (batch, n), None if no gradient is wanted.
        split: the shards over which the first axis of the embeddings is split; None if it is not.
        gathers: whether each shard gathers the columns of all others.
    """

    xp: Any
    sets: Sets
    x: Array
    y: Array
    norms: tuple[Array, Array] | None
    shape: tuple[int, ...]
    plan: Plan
    scale: Array | None
    split: Shards | None = None
    gathers: bool = False

    @property
    def ring(self) -> Shards | None:
        """The shards of the points of one set; None if there is one shard, or if whole sets are split."""
        return None if self.sets.shape else self.split

    def shared(self, derivative: Array) -> Array:
        """Return the derivative by a number that all shards share, from that of this shard."""
        return derivative if self.split is None else self.split.sum(derivative)

    def places(self, count: int) -> Array:
        """Return 0, 1, …, count − 1 for each element of the batch."""
        return self.xp.broadcast_to(self.xp.arange(count, **placement(self.x)), (self.x.shape[0], count))

    def value(self, losses: Array, like: Array) -> Array:
        """Return the reduced loss of one loss per row, (batch, n)."""
        values = self.sets.values(losses, like, self.shape)
        return self.plan.collect(array_namespace(like=like), values, like)

    def back(self, by_x: Array, by_y: Array) -> tuple[Array, Array]:
        """Turn derivatives wrt x and y into derivatives wrt the embeddings before normalization."""
        if self.norms is None:
            return by_x, by_y
        by_x = along_sphere(self.xp, by_x, self.x, self.norms[0])
        return by_x, along_sphere(self.xp, by_y, self.y, self.norms[1])


def embeddings_of(
    reduction: Any,
    wants_gradient: bool,
    normalize: bool,
    *,
    apart: bool = False,
    shape: tuple[int, ...] | None = None,
    numbers: tuple[Any, ...] = (),
    dtype: Any = None,
    **embeddings: Array,
) -> Embeddings:
    """Check the arguments; `apart` says that no row depends on another x, `shape` is the original shape of the rows."""
    first, own = next(iter(embeddings.values())), array_namespace(**embeddings)
    dtype = widest_dtype(own, **embeddings) if dtype is None else dtype
    seen = (*numbers, *(reduction.get(name) for name in ("weights", "normalizer", "upstream")))
    sets = Sets.of(numbers=seen, dtype=dtype, **embeddings)
    xp, x, y = sets.xp, sets.x, sets.y
    shape, flat = tuple(first.shape[:-1]) if shape is None else shape, tuple(x.shape[:2])
    reducing = plan(own, shape, dtype, **reduction)
    norms = scale = None
    over = resolve(own, reduction.get("across"))
    split: Shards | None = over.rows
    if reducing.weights is not None:  # embeddings on which only losses of weight 0 depend may hold anything
        alive = sets.bring(own.reshape(own.broadcast_to(reducing.weights != 0, shape), (*flat, 1)))
        some = xp.any(alive, axis=1, keepdims=True)
        if split is not None and not sets.shape:  # other shards may have rows of this set
            some = split.largest(as_dtype(xp, some, x.dtype)) > 0.0
        x, y = xp.where(alive if apart else some, x, 0.0), xp.where(some, y, 0.0)
    if wants_gradient:
        ones = own.ones(shape, dtype=dtype, **placement(first))
        scale = sets.bring(own.reshape(reducing.spread(own, ones, ones, ()), flat))
    if normalize:
        (x, x_norm), (y, y_norm) = unit_and_norm(xp, x), unit_and_norm(xp, y)
        norms = x_norm, y_norm
    return Embeddings(xp, sets, x, y, norms, shape, reducing, scale, split, over.gather)
