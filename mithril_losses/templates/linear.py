"""Rows of logits of a linear layer, z = W h + b, computed for one chunk of rows at a time.

Each chunk needs one product for its logits and two for the gradients; then its logits are discarded.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

from mithril_losses.backends.namespaces import Array, host_values, library_name, namespace_of, placement
from mithril_losses.shards import Shards
from mithril_losses.templates.classes import AtLabel
from mithril_losses.templates.rows import finish, slopes, statistics

# the logits of a chunk take this many bytes, or this fraction of the weight's bytes, whichever is larger
_CHUNK_BYTES = 20 * 2**20
_CHUNK_SHARE = 1 / 8
# matrix products work on tiles of so many rows: a few more rows cost as much as a tile
_TILE = 32
# logits that are turned into slopes at a time: for NumPy as many as fit the second-level cache; for torch more, so that
# its threads synchronize less often
_BLOCK = {"numpy": 1 << 17, "torch": 1 << 22}
# bytes of the weight's gradient that NumPy adds at a time, because its products cannot accumulate
_SUM_BYTES = 8 * 2**20


class LayerRows(NamedTuple):
    """What the loss needs for each row; a chunk takes the same rows of every array.

    Attributes:
        hidden: h, (rows, features).
        label: the class of each row.
        own: the additional share of the row's class, as in `AtLabel`.
        live: the rows that are not ignored; None for all.
        scale: ∂L/∂ℓ; None if no gradient is wanted.
        mass: Σ q of whole rows, if the classes are split over shards.
    """

    hidden: Array
    label: Array
    own: Array
    live: Array | None
    scale: Array | None
    mass: Array | None = None


class Layer(NamedTuple):
    """What is common to all rows: the layer, the shares as in `AtLabel`, ζ and the cap; None if not given."""

    weight: Array
    bias: Array | None
    even: Any
    each: Array | None
    z_loss: Any
    soft_cap: Any


class Results(NamedTuple):
    """ℓ of each row, and the gradients wrt hidden, weight and bias if they are wanted."""

    losses: Array
    hidden: Array | None
    weight: Array | None
    bias: Array | None

    def summed(self, classes: Shards | None, rows: Shards | None) -> Results:
        """Return the gradients wrt hidden summed over the shards of classes, those wrt the layer over those of rows."""
        pairs = zip(self[1:], (classes, rows, rows), strict=True)
        return Results(self.losses, *(x if x is None or over is None else over.sum(x) for x, over in pairs))


def linear_rows(xp: Any, rows: LayerRows, layer: Layer, size: int, across: Shards | None = None) -> Results:
    """Return the losses of rows, and their gradients, with the logits of `size` rows in memory at a time.

    If the classes are split across shards, the layer is the part of one of them, and the gradient wrt the hidden layer
    is what this part contributes.
    """
    if library_name(xp) == "jax":
        return Results(*_jitted_scan()(rows, layer, size, across))
    if _may_overwrite(xp, rows, layer):
        return _overwriting(xp, rows, layer, size, across)
    return _looped(xp, rows, layer, size, across)


def chunk_size(classes: int, features: int, itemsize: int) -> int:
    """Return how many rows have their logits in memory at a time."""
    rows = int(max(_CHUNK_BYTES // (classes * itemsize), features * _CHUNK_SHARE, 1))
    return rows - rows % _TILE if rows > _TILE else rows


def _from_logits(
    xp: Any, logits: Array, rows: LayerRows, layer: Layer, across: Shards | None, in_place: bool
) -> tuple[Array, Array | None]:
    """Return ℓ of each row and scale · ∂ℓ/∂z, in the memory of the logits if `in_place` is set."""

    def over(x: Array) -> dict[str, Array]:
        return {"out": x} if in_place else {}

    bend = None
    if layer.soft_cap is not None:
        logits = xp.divide(logits, layer.soft_cap, **over(logits))
        logits = xp.tanh(logits, **over(logits))
        bend = 1.0 - logits * logits
        logits = xp.multiply(logits, layer.soft_cap, **over(logits))
    shares = AtLabel(rows.label, rows.own, 0.0 if layer.even is None else layer.even, layer.each)
    found, exponentials = statistics(xp, logits, shares, in_place=in_place, across=across, mass=rows.mass)
    finished = finish(xp, found, layer.z_loss)
    if rows.scale is None:
        return finished.losses, None
    by_logits = slopes(xp, exponentials, finished.apart(across), shares, scale=rows.scale, in_place=in_place)
    return finished.losses, by_logits if bend is None else xp.multiply(by_logits, bend, **over(by_logits))


# --- over chunks of rows --------------------------------------------------------------------------------------------


def _may_overwrite(xp: Any, rows: LayerRows, layer: Layer) -> bool:
    """Return whether values can be read, and no graph needs the memory that would be overwritten."""
    library = library_name(xp)
    arrays: list[Any] = [x for x in (*rows, *layer) if hasattr(x, "shape")]
    if library not in ("numpy", "torch") or any(host_values(x) is None for x in arrays):
        return False
    return library == "numpy" or not (sys.modules["torch"].is_grad_enabled() and any(x.requires_grad for x in arrays))


def _overwriting(xp: Any, rows: LayerRows, layer: Layer, size: int, across: Shards | None) -> Results:
    """Compute every chunk in one buffer, without the ignored rows."""
    count, classes, like = rows.hidden.shape[0], layer.weight.shape[0], placement(layer.weight)
    dtype = layer.weight.dtype
    live = None if rows.live is None else xp.nonzero(rows.live)[0]
    left = count if live is None else live.shape[0]
    logits = xp.empty((min(size, left), classes), dtype=dtype, **like)
    losses = xp.zeros(count, dtype=dtype, **like)
    block = max(_BLOCK[library_name(xp)] // classes, 1) if across is None else size  # whose sums are one collective
    wrt = (rows.hidden, layer.weight, layer.bias)
    gradients = [None if x is None or rows.scale is None else xp.zeros(x.shape, dtype=dtype, **like) for x in wrt]
    for start in range(0, left, size):
        at = slice(start, min(start + size, left))
        at = at if live is None else live[at]
        chunk = _cut(rows._replace(live=None), at)
        z = logits[: chunk.hidden.shape[0]]
        xp.matmul(chunk.hidden, layer.weight.T, out=z)
        if layer.bias is not None:
            z += layer.bias
        found = []
        for first in range(0, z.shape[0], block):
            part = slice(first, first + block)
            found.append(_from_logits(xp, z[part], _cut(chunk, part), layer, across, in_place=True)[0])
        losses[at] = xp.concat(found)
        if rows.scale is not None:
            _add_gradients(xp, gradients, at, z, chunk.hidden, layer)
    return Results(losses, *gradients)


def _add_gradients(xp: Any, gradients: list[Any], at: Any, slopes: Array, hidden: Array, layer: Layer) -> None:
    of_hidden, of_weight, of_bias = gradients
    of_hidden[at] = xp.matmul(slopes, layer.weight)
    if library_name(xp) == "torch":
        of_weight.addmm_(slopes.T, hidden)
    else:
        step = max(_SUM_BYTES // of_weight[0].nbytes, 1)
        for first in range(0, of_weight.shape[0], step):
            part = slice(first, first + step)
            of_weight[part] += xp.matmul(slopes[:, part].T, hidden)
    if of_bias is not None:
        of_bias += xp.sum(slopes, axis=0)


def _chunk(xp: Any, rows: LayerRows, layer: Layer, across: Shards | None) -> Results:
    """Compute one chunk without writing to any array; ignored rows are masked."""
    hidden, live = rows.hidden, None
    if rows.live is not None:
        live = xp.expand_dims(rows.live, axis=1)
        hidden = xp.where(live, hidden, 0.0)
    logits = xp.matmul(hidden, layer.weight.T)
    if layer.bias is not None:
        logits = logits + layer.bias
    losses, slopes = _from_logits(xp, logits, rows, layer, across, in_place=False)
    if rows.live is not None:
        losses = xp.where(rows.live, losses, 0.0)
    if slopes is None:
        return Results(losses, None, None, None)
    slopes = slopes if live is None else xp.where(live, slopes, 0.0)
    of_hidden = xp.matmul(slopes, layer.weight)
    return Results(
        losses,
        of_hidden if live is None else xp.where(live, of_hidden, 0.0),
        xp.matmul(slopes.T, hidden),
        None if layer.bias is None else xp.sum(slopes, axis=0),
    )


def _looped(xp: Any, rows: LayerRows, layer: Layer, size: int, across: Shards | None) -> Results:
    count = rows.hidden.shape[0]
    results = _chunk(xp, _cut(rows, slice(0, min(size, count))), layer, across)
    losses, of_hidden, of_weight, of_bias = [results.losses], [results.hidden], results.weight, results.bias
    for start in range(size, count, size):
        results = _chunk(xp, _cut(rows, slice(start, min(start + size, count))), layer, across)
        losses.append(results.losses)
        of_hidden.append(results.hidden)
        of_weight = None if of_weight is None else of_weight + results.weight
        of_bias = None if of_bias is None else of_bias + results.bias
    return Results(xp.concat(losses), None if rows.scale is None else xp.concat(of_hidden), of_weight, of_bias)


def _cut(rows: LayerRows, at: Any) -> LayerRows:
    return LayerRows(*(None if x is None else x[at, ...] for x in rows))


@functools.cache
def _jitted_scan() -> Any:
    return sys.modules["jax"].jit(_scan, static_argnums=(2, 3))


def _scan(rows: LayerRows, layer: Layer, size: int, across: Shards | None) -> Results:
    import jax

    from mithril_losses.shards.axes import varying_as

    xp: Any = namespace_of(rows.hidden)
    count = rows.hidden.shape[0]
    if count <= size:
        return _chunk(xp, rows, layer, across)
    chunks = -(-count // size)
    padding = chunks * size - count
    if padding:
        rows = rows._replace(live=xp.ones(count, dtype=bool) if rows.live is None else rows.live)

    def chunked(x: Array) -> Array:
        filled = xp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        return xp.reshape(filled, (chunks, size, *x.shape[1:]))

    def joined(x: Array) -> Array:
        return xp.reshape(x, (chunks * size, *x.shape[2:]))[:count]

    def step(sums: Any, part: LayerRows) -> tuple[Any, Any]:
        results = _chunk(xp, part, layer, across)
        return jax.tree.map(xp.add, sums, results[2:]), results[:2]

    shared = (layer.weight, layer.bias)
    zeros = tuple(None if x is None or rows.scale is None else xp.zeros_like(x) for x in shared)
    # autodiff of the value computes the logits of a chunk again instead of keeping all logits
    sums, own = jax.lax.scan(jax.checkpoint(step), varying_as(zeros, rows, layer), jax.tree.map(chunked, rows))
    return Results(*jax.tree.map(joined, own), *sums)
