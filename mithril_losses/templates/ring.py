"""Losses of rows of pairs whose points are split over shards: blocks of columns travel around a ring.

Each shard keeps its rows, and sees the columns of all shards one block after the other. In a first round it completes
the statistics of its rows, block by block. In a second round it computes the slopes. The derivative wrt the columns of
a block travels with the block, and arrives at home when all shards have added their part. So no shard ever holds the
points of all others, and only the logits of some of its rows with one block are in memory.

For small batches, each shard may gather the columns of all others instead: that is one step in place of many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mithril_losses.backends.namespaces import Array, library_name, placement
from mithril_losses.numerics.stable import put_at, subtract_at, take_at
from mithril_losses.shards import Shards
from mithril_losses.templates.classes import AtLabel, Given
from mithril_losses.templates.pairs import (
    Embeddings,
    Found,
    PairColumns,
    PairRows,
    Rule,
    row_losses,
    sigmoid,
    softmax_both_ways,
    softmax_by_label,
)
from mithril_losses.templates.points import over_tiles
from mithril_losses.templates.rows import Statistics, combine, finish, log_sum, statistics

_NO_COLUMNS = PairColumns()


class Ring(NamedTuple):
    """The shards of the columns, and how many columns each has.

    Attributes:
        shards: all shards.
        lengths: the number of columns of each, in the order of the ranks.
    """

    shards: Shards
    lengths: tuple[int, ...]

    @staticmethod
    def of(shards: Shards, columns: Array, gathers: bool = False) -> Ring:
        """Return the ring of the shards of columns (m, d).

        Raises:
            ValueError: columns of different shards differ in their dtype or in d, or one shard alone gathers them.
        """
        m, d = columns.shape
        facts = f"{d} coordinates of {str(columns.dtype).split('.')[-1]}" + ", gathered" * gathers
        return Ring(shards, shards.lengths(m, facts))

    def shifted(self, blocks: Sequence[Array], steps: int) -> list[Array]:
        """Return the blocks of the shard before this one, which have then made so many steps."""
        rank = self.shards.rank()
        length = self.lengths[(rank - steps) % self.shards.size] if isinstance(rank, int) else None
        return self.shards.shift(blocks, length)


class _Rows(NamedTuple):
    """Rows with what a rule needs for each: a tile takes the same rows of every array."""

    x: Array
    given: PairRows
    whole: Any = None


# (namespace, logits, rows, columns, whether the columns are the shard's own) → statistics, or slopes · scale
_Statistics = Callable[[Any, Array, PairRows, PairColumns, bool], Statistics]
_Slopes = Callable[[Any, Array, _Rows, PairColumns, bool], Array]


def pair_losses(
    p: Embeddings, x: Array, y: Array, rule: Rule, rows: PairRows, columns: PairColumns = _NO_COLUMNS
) -> Found:
    """Return the results of a rule for embeddings: of one device, or of all shards."""
    if p.ring is None:
        return row_losses(p.xp, x, y, rule, rows, columns)
    return ring_losses(p.xp, p.ring, x, y, rule, rows, columns, p.gathers)


def ring_losses(
    xp: Any,
    shards: Shards,
    x: Array,
    y: Array,
    rule: Rule,
    rows: PairRows,
    columns: PairColumns = _NO_COLUMNS,
    gathers: bool = False,
) -> Found:
    """Return what `pairs.row_losses` does for the points of all shards: the results for the own rows and columns.

    Args:
        xp: the namespace of the arrays.
        shards: the shards over which rows and columns are split.
        x: the own rows, (1, n, d).
        y: the own columns, (1, m, d), among which are the targets of the own rows.
        rule: one of the rules of `pairs`.
        rows: what the rule needs for each row, (1, n).
        columns: what the rule needs for each column, (1, m).
        gathers: whether each shard gathers the columns of all shards, instead of a ring.

    Raises:
        ValueError: PyTorch would differentiate the loss through the ring.
    """
    if library_name(xp) == "torch" and xp.is_grad_enabled() and any(t.requires_grad for t in (x, y)):
        raise ValueError(
            "a loss over pairs of shards can be differentiated once, with respect to its embeddings and their scale: "
            "neither the gradient nor weights nor the temperature may be differentiated"
        )
    ring = Ring.of(shards, y[0], gathers)
    if gathers:
        return _gathered(xp, ring, x, y, rule, rows, columns)
    own, others = PairRows(*map(_first, rows)), PairColumns(*map(_first, columns))
    if rule is sigmoid:
        found = _sigmoid(xp, ring, x[0], y[0], own)
    else:
        found = _softmax(xp, ring, x[0], y[0], rule, own, others)
    return Found(*(None if part is None else part[None] for part in found))


def _gathered(xp: Any, ring: Ring, x: Array, y: Array, rule: Rule, rows: PairRows, columns: PairColumns) -> Found:
    """Return the results from the columns of all shards, which each shard holds for a while."""
    shards, lengths = ring
    rank = shards.rank()
    before = sum(lengths[:rank]) if isinstance(rank, int) else rank * lengths[0]

    def every(part: Array | None) -> Array | None:
        return None if part is None else shards.gather(part[0], lengths)[None]

    def placed(columns: Array | None) -> Array | None:
        return None if columns is None else columns + before

    rows = rows._replace(target=placed(rows.target), itself=placed(rows.itself))
    found = row_losses(xp, x, every(y), rule, rows, PairColumns(*map(every, columns)))
    return found if found.by_y is None else found._replace(by_y=shards.scatter(found.by_y[0], lengths)[None])


def _first(x: Array | None) -> Array | None:
    return None if x is None else x[0]


# --- softmax ----------------------------------------------------------------------------------------------------------


def _softmax(xp: Any, ring: Ring, x: Array, y: Array, rule: Rule, rows: PairRows, columns: PairColumns) -> Found:
    by_label = rule is softmax_by_label
    part = _parts_by_label if by_label else _parts_by_target
    whole = _statistics(xp, ring, x, y, part, rows, columns)
    count = whole.mass
    if by_label:  # the mean over those that have the label of a row; a row without them counts nothing
        alone = count == 0
        shared = xp.maximum(count, 1.0)
        whole = Statistics(
            whole.largest,
            xp.where(alone, 1.0, whole.total),
            whole.match / shared,
            xp.where(alone, xp.zeros_like(count), 1.0),
        )
    finished = finish(xp, whole)
    losses = xp.where(count == 0, 0.0, finished.losses) if by_label else finished.losses
    extra = count if by_label else log_sum(xp, whole)
    if rows.scale is None:
        return Found(losses, extra, None, None)
    scale = xp.where(count == 0, 0.0, rows.scale) if by_label else rows.scale
    pull = scale * finished.mass / finished.total
    slopes = _by_label if by_label else _both_ways if rule is softmax_both_ways else _by_target
    kept = _Rows(x, rows._replace(scale=scale), (whole.largest, pull, count))
    return Found(losses, extra, *_derivatives(xp, ring, kept, y, slopes, columns))


def _parts_by_target(xp: Any, logits: Array, rows: PairRows, columns: PairColumns, own: bool) -> Statistics:
    if own and rows.itself is not None:
        logits = put_at(xp, logits, rows.itself, -math.inf)
    if own:
        found, _ = statistics(xp, logits, AtLabel(rows.target), capped=False)
        return found._replace(mass=xp.ones_like(found.total))
    found, _ = statistics(xp, logits, AtLabel(xp.zeros_like(rows.target), own=0.0), capped=False)
    return found._replace(mass=xp.zeros_like(found.total))


def _parts_by_label(xp: Any, logits: Array, rows: PairRows, columns: PairColumns, own: bool) -> Statistics:
    same = _same(xp, logits, rows, columns, own)
    if own:
        logits = put_at(xp, logits, rows.itself, -math.inf)
    return statistics(xp, logits, Given(same), capped=False)[0]


def _same(xp: Any, logits: Array, rows: PairRows, columns: PairColumns, own: bool) -> Array:
    """Return 1 for the columns that have the label of a row, and 0 for the others and for the row itself."""
    same = xp.expand_dims(rows.label, axis=-1) == xp.expand_dims(columns.label, axis=-2)
    same = xp.astype(same, logits.dtype)
    return put_at(xp, same, rows.itself, 0.0) if own else same


def _by_target(xp: Any, logits: Array, rows: _Rows, columns: PairColumns, own: bool) -> Array:
    """The slopes softmax(z) − e_t, times the scale of each row."""
    if own and rows.given.itself is not None:
        logits = put_at(xp, logits, rows.given.itself, -math.inf)
    largest, pull, _ = rows.whole
    slopes = xp.exp(logits - largest[..., None]) * pull[..., None]
    return subtract_at(xp, slopes, rows.given.target, rows.given.scale, len(slopes.shape) - 1) if own else slopes


def _both_ways(xp: Any, logits: Array, rows: _Rows, columns: PairColumns, own: bool) -> Array:
    """`_by_target`, plus the slopes of the losses of columns, e^(z − log_sum) − e_t."""
    height, scale = (xp.expand_dims(x, axis=-2) for x in (columns.log_sum, columns.scale))
    by_column = xp.exp(logits - height) * scale
    if own:
        by_column = subtract_at(xp, by_column, rows.given.target, rows.given.scale, len(by_column.shape) - 1)
    return _by_target(xp, logits, rows, columns, own) + by_column


def _by_label(xp: Any, logits: Array, rows: _Rows, columns: PairColumns, own: bool) -> Array:
    """The slopes softmax(z) − [same label] / count, times the scale of each row."""
    largest, pull, count = rows.whole
    same = _same(xp, logits, rows.given, columns, own)
    if own:
        logits = put_at(xp, logits, rows.given.itself, -math.inf)
    share = xp.expand_dims(rows.given.scale / xp.maximum(count, 1.0), axis=-1)
    return xp.exp(logits - largest[..., None]) * pull[..., None] - same * share


# --- sigmoid ----------------------------------------------------------------------------------------------------------


def _sigmoid(xp: Any, ring: Ring, x: Array, y: Array, rows: PairRows) -> Found:
    """The losses are the sums of those with each block, and the slopes need nothing else."""

    def part(xp: Any, logits: Array, rows: PairRows, columns: PairColumns, own: bool) -> Statistics:
        signed = _signed(xp, logits, rows, own)
        loss = xp.sum(xp.maximum(signed, 0.0) + xp.log1p(xp.exp(-xp.abs(signed))), axis=-1)
        nothing = xp.zeros_like(loss)
        return Statistics(nothing, loss, nothing, nothing)

    def slopes(xp: Any, logits: Array, rows: _Rows, columns: PairColumns, own: bool) -> Array:
        scale: Any = rows.given.scale
        signed = _signed(xp, logits, rows.given, own)
        tail = xp.exp(-xp.abs(signed))
        found = xp.where(signed >= 0.0, 1.0, tail) / (1.0 + tail)
        if own:
            found = put_at(xp, found, rows.given.target, -take_at(xp, found, rows.given.target, len(found.shape) - 1))
        return found * scale[..., None]

    losses = _statistics(xp, ring, x, y, part, rows, PairColumns()).total
    if rows.scale is None:
        return Found(losses, losses, None, None)
    return Found(losses, losses, *_derivatives(xp, ring, _Rows(x, rows), y, slopes, PairColumns()))


def _signed(xp: Any, logits: Array, rows: PairRows, own: bool) -> Array:
    """Return the logits, negated where row and column belong together."""
    if not own:
        return logits
    return put_at(xp, logits, rows.target, -take_at(xp, logits, rows.target, len(logits.shape) - 1))


# --- rounds -----------------------------------------------------------------------------------------------------------


def _statistics(
    xp: Any, ring: Ring, x: Array, y: Array, part: _Statistics, rows: PairRows, columns: PairColumns
) -> Statistics:
    """Return the statistics of the own rows over the columns of all shards, after one round."""
    nothing = xp.zeros(x.shape[:1], dtype=x.dtype, **placement(x))
    start = Statistics(nothing + float(xp.finfo(x.dtype).min), nothing, nothing, nothing)

    def visit(whole: Statistics, _: Any, block: tuple[Array, PairColumns], own: bool) -> tuple[Statistics, None]:
        points, others = block

        def step(_: None, tile: _Rows) -> tuple[None, Statistics]:
            found = part(xp, tile.x @ points.T, tile.given, others, own)
            return None, combine(xp, tile.whole, found)

        return over_tiles(xp, step, None, _Rows(x, rows, whole), points, whole)[1], None

    return _around(ring, visit, start, None, (y, columns))[0]  # type: ignore[no-any-return]


def _derivatives(
    xp: Any, ring: Ring, rows: _Rows, y: Array, slopes: _Slopes, columns: PairColumns
) -> tuple[Array, Array]:
    """Return the derivatives of Σ scale · ℓ wrt the own rows and the own columns, after one round."""

    def visit(by_x: Array, by_y: Array, block: tuple[Array, PairColumns], own: bool) -> tuple[Array, Array]:
        points, others = block

        def step(by_y: Array, tile: _Rows) -> tuple[Array, Array]:
            found = slopes(xp, tile.x @ points.T, tile._replace(whole=tile.whole[:-1]), others, own)
            return by_y + found.T @ tile.x, tile.whole[-1] + found @ points

        kept = rows._replace(whole=(*(rows.whole or ()), by_x))
        by_y, by_x = over_tiles(xp, step, by_y, kept, points, by_x)
        return by_x, by_y

    return _around(ring, visit, xp.zeros_like(rows.x), xp.zeros_like(y), (y, columns))


def _around(ring: Ring, visit: Any, carry: Any, guest: Any, block: tuple[Array, PairColumns]) -> tuple[Any, Any]:
    """Let a block of columns visit all shards, and return what the own rows carry, and the guest at home again.

    `visit(carry, guest, block, own)` returns the carry and the guest, which travels with the block.
    """
    carry, guest = visit(carry, guest, block, True)
    points, columns = block
    names = [name for name, x in zip(columns._fields, columns, strict=True) if x is not None]
    travelling = [points, *(getattr(columns, name) for name in names)]
    guests = [] if guest is None else [guest]

    def move(carry: Any, arrays: list[Array], steps: int) -> tuple[Any, list[Array]]:
        points, *others = arrays = ring.shifted(arrays, steps)
        parts = dict(zip(names, others, strict=False))
        own_guest = arrays[-1] if guests else None
        carry, own_guest = visit(carry, own_guest, (points, PairColumns(**parts)), False)
        return carry, [*arrays[:-1], own_guest] if guests else arrays

    arrays = [*travelling, *guests]
    if hasattr(ring.shards, "names"):  # of a mesh: one step, compiled once
        import jax

        from mithril_losses.shards.axes import varying_as

        state = varying_as((carry, arrays), arrays)
        (carry, arrays), _ = jax.lax.scan(
            lambda x, _: (move(x[0], x[1], 0), None), state, None, length=ring.shards.size - 1
        )
    else:
        for steps in range(1, ring.shards.size):
            carry, arrays = move(carry, arrays, steps)
    home = ring.shifted(arrays[-1:], ring.shards.size)[0] if guests else None
    return carry, home
