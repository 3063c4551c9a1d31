"""Rows of logits x · y of embeddings and a part of the classes, with a logit of its own for the label.

The logits of the own classes are computed one tile of rows at a time. Two collectives complete the statistics of each.
"""

from __future__ import annotations

from typing import Any

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.stable import put_at, take_at
from mithril_losses.templates.classes import ONE, AtLabel, Columns
from mithril_losses.templates.pairs import Found, PairRows
from mithril_losses.templates.points import over_tiles
from mithril_losses.templates.rows import finish, slopes, statistics


def softmax_apart_of_part(xp: Any, columns: Columns, x: Array, y: Array, rows: PairRows, mine: Array) -> Found:
    """Return what the rule `softmax_apart` of `pairs` does for whole rows, for the own part of the classes.

    Args:
        xp: the namespace of the arrays.
        columns: the own classes.
        x: (1, n, d).
        y: the own classes, (1, m, d).
        rows: (1, n): the target among the own classes, and its logit, which is used where the class is `mine`.
        mine: whether the class of a row is one of the own ones, (1, n).

    Returns:
        The losses of whole rows, and of this part: the derivatives by the logit of the target, by x and by y.
    """

    def step(by_y: Array | None, tile: tuple[Any, ...]) -> tuple[Array | None, tuple[Array, ...]]:
        points, target, logit, is_mine, scale = tile
        logits = points @ y[0].T
        logits = put_at(xp, logits, target, xp.where(is_mine, logit, take_at(xp, logits, target, 1)))
        shares = AtLabel(target, xp.astype(is_mine, points.dtype))
        whole, exponentials = statistics(xp, logits, shares, capped=False, across=columns.shards, mass=ONE)
        finished = finish(xp, whole)
        if by_y is None:
            return None, (finished.losses,)
        found = slopes(xp, exponentials, finished, shares, scale=scale)
        taken = take_at(xp, found, target, 1)
        found = put_at(xp, found, target, xp.where(is_mine, 0.0, taken))
        return by_y + found.T @ points, (finished.losses, xp.where(is_mine, taken, 0.0), found @ y[0])

    given = (x[0], rows.target[0], rows.own[0], mine[0], None if rows.scale is None else rows.scale[0])  # type: ignore[index]
    nothing = xp.zeros_like(x[0, :, 0])
    empty = (nothing,) if rows.scale is None else (nothing, nothing, xp.zeros_like(x[0]))
    start = None if rows.scale is None else xp.zeros_like(y[0])
    by_y, found = over_tiles(xp, step, start, given, y[0], empty, columns.most)
    if by_y is None:
        return Found(found[0][None], found[0][None], None, None)
    return Found(found[0][None], found[1][None], found[2][None], by_y[None])
