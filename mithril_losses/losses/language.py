"""Losses of language models: of the next token, and cross-entropy fused with the linear layer that makes the logits.

The logits of a large vocabulary are the largest array of a training step. In `linear_cross_entropy` they exist for a
few rows at a time: each chunk of rows takes one product to its logits and two back to the gradients, and is then
forgotten.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

from mithril_losses.backends.namespaces import (
    Array,
    array_namespace,
    host_values,
    is_dtype,
    library_name,
    namespace_of,
    placement,
    require_library,
)
from mithril_losses.catalogue import gradient_of, value_and_gradient_of
from mithril_losses.domains import (
    FRACTION,
    NON_NEGATIVE,
    REAL,
    ClassIndices,
    ClassNumbers,
    Elements,
    Integer,
    Interval,
    PerClass,
)
from mithril_losses.losses.classification import (
    _class_weights,
    _labels,
    cross_entropy_with_logits,
    cross_entropy_with_logits_gradient,
)
from mithril_losses.numerics.graph import differentiable_on_demand
from mithril_losses.numerics.reduction import GradientReduction, Plan, Reduction, plan, reduced_axes, refuse_upstream
from mithril_losses.numerics.stable import largest_number, product
from mithril_losses.numerics.validation import as_dtype, quiet, require_integer, require_one_number, widest_dtype
from mithril_losses.templates.base import Functions
from mithril_losses.templates.composed import Composed

__all__ = [
    "linear_cross_entropy",
    "linear_cross_entropy_gradient",
    "next_token_cross_entropy",
    "next_token_cross_entropy_gradient",
]

_SOFT_CAP = Interval(0.0, for_none=math.inf)
_CHUNK_ROWS = Integer(1, example=2)

# the logits of a chunk take this many bytes, or this share of the weight's own, whichever is more
_CHUNK_BYTES = 20 * 2**20
_CHUNK_SHARE = 1 / 8
# rows by which matrix products are tiled: a few rows more cost as much as a tile
_TILE = 32
# logits that are turned into slopes at a time: what fits the second-level cache of NumPy's one thread; torch's own
# threads rather meet less often
_BLOCK = {"numpy": 1 << 17, "torch": 1 << 22}
# bytes of the weight's gradient that NumPy adds at a time, as its products cannot add to what is there
_SUM_BYTES = 8 * 2**20


class _Rows(NamedTuple):
    """What the loss needs of each row; chunks are cut from all of them alike.

    `label_mass` is q_y less the smoothing's share. `live` are the rows that count (None: all). `scale` is ∂L/∂ℓ, None
    where no gradient is wanted.
    """

    hidden: Array
    labels: Array
    label_mass: Array
    live: Array | None
    scale: Array | None


class _Layer(NamedTuple):
    """What all rows share.

    `smooth` is the mass that smoothing gives: one number to all classes together, or an array with that of each class.
    """

    weight: Array
    bias: Array | None
    smooth: Any
    z_loss: Any
    soft_cap: Any


class _Results(NamedTuple):
    """ℓ of each row, and ∂L/∂ of hidden, weight and bias where they are wanted."""

    losses: Array
    hidden: Array | None
    weight: Array | None
    bias: Array | None


class _Problem(NamedTuple):
    """The checked arguments: rows and layer in the dtype of computation, the reduction, the rows of one chunk."""

    xp: Any
    rows: _Rows
    layer: _Layer
    plan: Plan
    chunk: int


def _problem(
    hidden: Array,
    weight: Array,
    targets: Array,
    bias: Array | None,
    class_weights: Array | Sequence[float] | None,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    soft_cap: float | None,
    chunk_rows: int | None,
    reduction: Any,
    wants_gradient: bool,
) -> _Problem:
    if not wants_gradient:
        refuse_upstream(reduction)
    xp, dtype = _door(hidden, weight, targets, bias)
    shape, (classes, features) = tuple(targets.shape), weight.shape
    count = math.prod(shape)
    smoothing = require_one_number(xp, "label_smoothing", FRACTION.check("label_smoothing", label_smoothing), dtype)
    z_loss = require_one_number(xp, "z_loss", NON_NEGATIVE.check("z_loss", z_loss), dtype)
    cap = require_one_number(xp, "soft_cap", _SOFT_CAP.check("soft_cap", soft_cap), dtype)
    size = _chunk_size(chunk_rows, classes, features, xp.finfo(dtype).bits // 8)

    weight = as_dtype(xp, weight, dtype)
    per_class = _class_weights(xp, class_weights, classes, 1, weight)
    labels, live, illegal = _labels(xp, targets, classes, ignore_index)
    labels = as_dtype(xp, xp.minimum(xp.maximum(labels, 0), classes - 1), xp.arange(1).dtype)  # an index for certain
    ones = xp.ones(shape, dtype=dtype, **placement(weight))
    weight_of_label, mass = ones, None
    if per_class is not None:
        weight_of_label = mass = xp.reshape(xp.take(per_class, xp.reshape(labels, (count,)), axis=0), shape)
    if illegal is not None:
        mass = None if mass is None else xp.where(illegal, 0.0, mass)
        weight_of_label = xp.where(illegal, math.nan, weight_of_label)
    if live is not None:
        mass = as_dtype(xp, live, dtype) if mass is None else xp.where(live, mass, 0.0)

    reducing = plan(xp, shape, dtype, mass=mass, **reduction)
    if reducing.weights is not None:
        weighted = xp.broadcast_to(reducing.weights != 0, shape)
        live = weighted if live is None else live & weighted
    smooth = None
    if not _is(smoothing, 0.0):
        smooth = smoothing if per_class is None else smoothing / classes * per_class
    flat = _Rows(
        xp.reshape(as_dtype(xp, hidden, dtype), (count, features)),
        xp.reshape(labels, (count,)),
        xp.reshape((1.0 - smoothing) * weight_of_label, (count,)),
        None if live is None else xp.reshape(live, (count,)),
        xp.reshape(reducing.spread(xp, ones, ones), (count,)) if wants_gradient else None,
    )
    layer = _Layer(
        weight,
        None if bias is None else as_dtype(xp, bias, dtype),
        smooth,
        None if _is(z_loss, 0.0) else z_loss,
        None if _is(cap, math.inf) else cap,
    )
    return _Problem(xp, flat, layer, reducing, size)


def _door(hidden: Array, weight: Array, targets: Array, bias: Array | None) -> tuple[Any, Any]:
    """Return the namespace and the dtype of computation, having checked libraries, types and shapes."""
    given = {"hidden": hidden, "weight": weight} | ({} if bias is None else {"bias": bias})
    xp = array_namespace(**given, targets=targets)
    dtype = widest_dtype(xp, **given)
    shape = tuple(targets.shape)
    if len(weight.shape) != 2 or 0 in weight.shape or tuple(hidden.shape) != (*shape, weight.shape[1]):
        raise ValueError(
            f"hidden must have shape (…, features), weight (classes, features) and targets (…), got "
            f"{tuple(hidden.shape)}, {tuple(weight.shape)} and {shape}"
        )
    if bias is not None and tuple(bias.shape) != weight.shape[:1]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}")
    return xp, dtype


def _check_values(
    hidden: Array,
    weight: Array,
    targets: Array,
    bias: Array | None,
    class_weights: Array | Sequence[float] | None,
    ignore_index: int | None,
    **_: Any,
) -> None:
    """Raise for labels and class weights that a trace would not see."""
    xp = _door(hidden, weight, targets, bias)[0]
    _labels(xp, targets, weight.shape[0], ignore_index)
    _class_weights(xp, class_weights, weight.shape[0], 1, weight)


def _is(value: Any, number: float) -> bool:
    """Return whether an option is the plain number that switches it off; an array never is."""
    return isinstance(value, float) and value == number


def _chunk_size(chunk_rows: int | None, classes: int, features: int, itemsize: int) -> int:
    chunk_rows = _CHUNK_ROWS.check("chunk_rows", chunk_rows)
    if chunk_rows is None:
        rows = int(max(_CHUNK_BYTES // (classes * itemsize), features * _CHUNK_SHARE, 1))
        return rows - rows % _TILE if rows > _TILE else rows
    return chunk_rows


# --- the mathematics ------------------------------------------------------------------------------------------------


def _from_logits(xp: Any, logits: Array, rows: _Rows, layer: _Layer, in_place: bool) -> tuple[Array, Array | None]:
    """ℓ = Q (lse − max) − Σ_c q_c (z_c − max) + ζ lse² of each row, and f (p (Q + 2 ζ lse) − q), with Q = Σ_c q_c.

    The slopes take the place of the logits where `in_place` says so.
    """

    def over(x: Array) -> dict[str, Array]:
        return {"out": x} if in_place else {}

    bend = None
    if layer.soft_cap is not None:
        logits = xp.divide(logits, layer.soft_cap, **over(logits))
        logits = xp.tanh(logits, **over(logits))
        bend = 1.0 - logits * logits
        logits = xp.multiply(logits, layer.soft_cap, **over(logits))
    logits = xp.minimum(logits, float(xp.finfo(logits.dtype).max), **over(logits))  # +∞ takes all the mass
    largest = largest_number(xp, logits, 1)
    logits = xp.subtract(logits, largest, **over(logits))
    label_mass = xp.expand_dims(rows.label_mass, axis=1)
    losses = -product(xp, label_mass, xp.take_along_axis(logits, xp.expand_dims(rows.labels, axis=1), axis=1))
    mass = label_mass
    smooths_each = len(getattr(layer.smooth, "shape", ())) > 0
    if smooths_each:
        losses = losses - xp.sum(product(xp, layer.smooth, logits), axis=1, keepdims=True)
        mass = mass + xp.sum(layer.smooth)
    elif layer.smooth is not None:
        mean = xp.mean(logits, axis=1, keepdims=True)
        smoothed = layer.smooth * mean
        losses = losses - (smoothed if isinstance(layer.smooth, float) else xp.where(layer.smooth == 0, 0.0, smoothed))
        mass = mass + layer.smooth
    exponentials = xp.exp(logits, **over(logits))
    total = xp.sum(exponentials, axis=1, keepdims=True)
    losses = losses + product(xp, mass, xp.log(total))
    if layer.z_loss is not None:
        lse = largest + xp.log(total)
        losses = losses + layer.z_loss * lse * lse
        mass = mass + 2.0 * layer.z_loss * lse
    losses = xp.squeeze(losses, axis=1)
    if rows.scale is None:
        return losses, None

    scale = xp.expand_dims(rows.scale, axis=1)
    slopes = xp.multiply(exponentials, scale * mass / total, **over(exponentials))
    if layer.smooth is not None:
        smoothed = scale * layer.smooth
        smoothed = smoothed if smooths_each else smoothed / float(logits.shape[1])
        slopes = xp.subtract(slopes, smoothed, **over(slopes))
    if in_place:
        slopes[xp.arange(len(slopes)), rows.labels] -= rows.scale * rows.label_mass
    else:
        classes = xp.arange(slopes.shape[1], dtype=rows.labels.dtype, **placement(slopes))
        slopes = slopes - xp.where(xp.expand_dims(rows.labels, axis=1) == classes, scale * label_mass, 0.0)
    return losses, slopes if bend is None else xp.multiply(slopes, bend, **over(slopes))


# --- over chunks of rows --------------------------------------------------------------------------------------------


def _run(problem: _Problem) -> _Results:
    xp, rows, layer, size = problem.xp, problem.rows, problem.layer, problem.chunk
    if library_name(xp) == "jax":
        return _Results(*_jitted_scan()(rows, layer, size))
    if _may_overwrite(xp, rows, layer):
        return _overwriting(xp, rows, layer, size)
    return _looped(xp, rows, layer, size)


def _may_overwrite(xp: Any, rows: _Rows, layer: _Layer) -> bool:
    """Return whether the arrays are in plain sight, and no graph needs what would be overwritten."""
    library = library_name(xp)
    arrays: list[Any] = [x for x in (*rows, *layer) if hasattr(x, "shape")]
    if library not in ("numpy", "torch") or any(host_values(x) is None for x in arrays):
        return False
    return library == "numpy" or not (sys.modules["torch"].is_grad_enabled() and any(x.requires_grad for x in arrays))


def _overwriting(xp: Any, rows: _Rows, layer: _Layer, size: int) -> _Results:
    """Every chunk in one buffer, and rows that do not count left out."""
    count, classes, like = rows.hidden.shape[0], layer.weight.shape[0], placement(layer.weight)
    dtype = layer.weight.dtype
    live = None if rows.live is None else xp.nonzero(rows.live)[0]
    left = count if live is None else live.shape[0]
    logits = xp.empty((min(size, left), classes), dtype=dtype, **like)
    losses = xp.zeros(count, dtype=dtype, **like)
    block = max(_BLOCK[library_name(xp)] // classes, 1)
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
            found.append(_from_logits(xp, z[part], _cut(chunk, part), layer, in_place=True)[0])
        losses[at] = xp.concat(found)
        if rows.scale is not None:
            _add_gradients(xp, gradients, at, z, chunk.hidden, layer)
    return _Results(losses, *gradients)


def _add_gradients(xp: Any, gradients: list[Any], at: Any, slopes: Array, hidden: Array, layer: _Layer) -> None:
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


def _chunk(xp: Any, rows: _Rows, layer: _Layer) -> _Results:
    """One chunk without writing to any array; rows that do not count are masked."""
    hidden, live = rows.hidden, None
    if rows.live is not None:
        live = xp.expand_dims(rows.live, axis=1)
        hidden = xp.where(live, hidden, 0.0)
    logits = xp.matmul(hidden, layer.weight.T)
    if layer.bias is not None:
        logits = logits + layer.bias
    losses, slopes = _from_logits(xp, logits, rows, layer, in_place=False)
    if rows.live is not None:
        losses = xp.where(rows.live, losses, 0.0)
    if slopes is None:
        return _Results(losses, None, None, None)
    slopes = slopes if live is None else xp.where(live, slopes, 0.0)
    of_hidden = xp.matmul(slopes, layer.weight)
    return _Results(
        losses,
        of_hidden if live is None else xp.where(live, of_hidden, 0.0),
        xp.matmul(slopes.T, hidden),
        None if layer.bias is None else xp.sum(slopes, axis=0),
    )


def _looped(xp: Any, rows: _Rows, layer: _Layer, size: int) -> _Results:
    count = rows.hidden.shape[0]
    results = _chunk(xp, _cut(rows, slice(0, min(size, count))), layer)
    losses, of_hidden, of_weight, of_bias = [results.losses], [results.hidden], results.weight, results.bias
    for start in range(size, count, size):
        results = _chunk(xp, _cut(rows, slice(start, min(start + size, count))), layer)
        losses.append(results.losses)
        of_hidden.append(results.hidden)
        of_weight = None if of_weight is None else of_weight + results.weight
        of_bias = None if of_bias is None else of_bias + results.bias
    return _Results(xp.concat(losses), None if rows.scale is None else xp.concat(of_hidden), of_weight, of_bias)


def _cut(rows: _Rows, at: Any) -> _Rows:
    return _Rows(*(None if x is None else x[at, ...] for x in rows))


@functools.cache
def _jitted_scan() -> Any:
    return sys.modules["jax"].jit(_scan, static_argnums=2)


def _scan(rows: _Rows, layer: _Layer, size: int) -> _Results:
    jax = sys.modules["jax"]
    xp: Any = namespace_of(rows.hidden)
    count = rows.hidden.shape[0]
    if count <= size:
        return _chunk(xp, rows, layer)
    chunks = -(-count // size)
    padding = chunks * size - count
    if padding:
        rows = rows._replace(live=xp.ones(count, dtype=bool) if rows.live is None else rows.live)

    def chunked(x: Array) -> Array:
        filled = xp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        return xp.reshape(filled, (chunks, size, *x.shape[1:]))

    def joined(x: Array) -> Array:
        return xp.reshape(x, (chunks * size, *x.shape[2:]))[:count]

    def step(sums: Any, part: _Rows) -> tuple[Any, Any]:
        results = _chunk(xp, part, layer)
        return jax.tree.map(xp.add, sums, results[2:]), results[:2]

    shared = (layer.weight, layer.bias)
    zeros = tuple(None if x is None or rows.scale is None else xp.zeros_like(x) for x in shared)
    # autodiff of the value recomputes a chunk's logits instead of keeping them all
    sums, own = jax.lax.scan(jax.checkpoint(step), zeros, jax.tree.map(chunked, rows))
    return _Results(*jax.tree.map(joined, own), *sums)


# --- the loss -------------------------------------------------------------------------------------------------------


def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    targets: Array,
    bias: Array | None = None,
    *,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk_rows: int | None = None,
    **reduction: Unpack[Reduction],
) -> Array:
    """Mean over rows of −Σ_c w_c y′_c log softmax(z)_c + ζ (log Σ_c e^{z_c})², with z = W h + b.

    For ζ = 0 and without a soft cap this is the value of `cross_entropy_with_logits` at those logits, but the logits of
    all rows are never held at once.

    Args:
        hidden: h, the last layer's activations: any shape with the D features last; rows are the other axes.
        weight: W, shape (V, D): one row per class.
        targets: class indices (integers, the shape of `hidden` without its last axis).
        bias: b, shape (V,).
        class_weights: w, shape (V,). The divisor of "mean" is then Σ w_y over the rows.
        ignore_index: rows with this label count nowhere. They are dropped before the product where the labels can be
            seen, and masked inside `jax.jit` and `torch.compile`.
        label_smoothing: a in [0, 1]: y′ = (1 − a) y + a / V.
        z_loss: ζ ≥ 0, keeps the normalisers near 1; class weights do not apply to this part.
        soft_cap: c > 0, takes c tanh(z / c) for z, so that no logit exceeds c.
        chunk_rows: how many rows have their logits in memory at a time. By default as many as fit 20 MiB, or an
            eighth of the weight's own size where that is more. The result depends on it by rounding alone.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or an option outside its domain. A label
            that cannot be seen (inside `jax.jit`, `torch.compile`) gives NaN for its row instead.
        TypeError: hidden, weight or bias are not floating point, or targets not integers.

    Example:
        W h = (0, log 3), and softmax(0, log 3) = (¼, ¾): −log ¾ = 0.287682…

        >>> import numpy as np
        >>> hidden, weight = np.array([[1.0, 0.0]]), np.array([[0.0, 5.0], [np.log(3.0), 7.0]])
        >>> round(float(linear_cross_entropy(hidden, weight, np.array([1]))), 6)
        0.287682

    Source:
        E. Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, 2024. https://arxiv.org/abs/2411.09009.
        z-loss: A. Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022.
        https://arxiv.org/abs/2204.02311. Soft cap: Gemma Team, Gemma 2: Improving Open Language Models at a Practical
        Size, 2024. https://arxiv.org/abs/2408.00118
    """
    options = (bias, class_weights, ignore_index, label_smoothing, z_loss, soft_cap, chunk_rows, reduction)
    with quiet(array_namespace(hidden=hidden)):
        problem = _problem(hidden, weight, targets, *options, wants_gradient=False)
        return _collect(problem, _run(problem), hidden, targets)


@gradient_of(
    linear_cross_entropy,
    wrt=("hidden", "weight", "bias"),
    terms=Functions(separable=False, check=_check_values),
    domain={
        "hidden": REAL,
        "weight": PerClass(),
        "targets": ClassIndices(),
        "bias": ClassNumbers(),
        "class_weights": ClassNumbers(0.0),
        "ignore_index": Integer(),
        "label_smoothing": FRACTION,
        "z_loss": NON_NEGATIVE,
        "soft_cap": _SOFT_CAP,
        "chunk_rows": _CHUNK_ROWS,
    },
    properties=("non_negative",),
)
@differentiable_on_demand
def linear_cross_entropy_gradient(
    hidden: Array,
    weight: Array,
    targets: Array,
    bias: Array | None = None,
    *,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk_rows: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> dict[str, Array]:
    """G W, Gᵀ h and Σ G over rows, with G = (softmax(z) (Σ_c q_c + 2 ζ log Σ_c e^{z_c}) − q) / M, q_c = w_c y′_c.

    M is the number of rows that are left by `ignore_index`; with class weights the sum of w_y over these rows. With a
    soft cap, z are the capped logits, and G has the further factor 1 − (z / c)². On torch it is no part of the autograd
    graph, whatever the arguments require.

    Args:
        hidden: as in `linear_cross_entropy`; likewise all other arguments.
        weight: W, shape (V, D).
        targets: class indices.
        bias: b, shape (V,).
        class_weights: w, shape (V,).
        ignore_index: rows with this label have gradient 0.
        label_smoothing: a in [0, 1].
        z_loss: ζ ≥ 0.
        soft_cap: c > 0.
        chunk_rows: how many rows have their logits in memory at a time.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        A dict of the gradients wrt `hidden`, `weight` and, where it is given, `bias`: new arrays of their shapes and
        dtypes.

    Raises:
        ValueError: as in `linear_cross_entropy`.
        TypeError: as in `linear_cross_entropy`.

    Example:
        G = softmax(0, log 3) − (0, 1) = (¼, −¼), and Gᵀ h for h = (1, 0).

        >>> import numpy as np
        >>> hidden, weight = np.array([[1.0, 0.0]]), np.array([[0.0, 5.0], [np.log(3.0), 7.0]])
        >>> linear_cross_entropy_gradient(hidden, weight, np.array([1]))["weight"].round(12).tolist()
        [[0.25, 0.0], [-0.25, 0.0]]
    """
    options = (bias, class_weights, ignore_index, label_smoothing, z_loss, soft_cap, chunk_rows, reduction)
    xp = array_namespace(hidden=hidden)
    with quiet(xp):
        problem = _problem(hidden, weight, targets, *options, wants_gradient=True)
        return _gradients(problem, _run(problem), hidden, weight, bias)


@value_and_gradient_of(linear_cross_entropy)
@differentiable_on_demand
def _linear_cross_entropy_value_and_gradient(
    hidden: Array,
    weight: Array,
    targets: Array,
    bias: Array | None = None,
    *,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk_rows: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> tuple[Array, dict[str, Array]]:
    """Both of one product forward and two back per chunk."""
    options = (bias, class_weights, ignore_index, label_smoothing, z_loss, soft_cap, chunk_rows, reduction)
    xp = array_namespace(hidden=hidden)
    with quiet(xp):
        problem = _problem(hidden, weight, targets, *options, wants_gradient=True)
        results = _run(problem)
        return _collect(problem, results, hidden, targets), _gradients(problem, results, hidden, weight, bias)


def _collect(problem: _Problem, results: _Results, hidden: Array, targets: Array) -> Array:
    losses = problem.xp.reshape(results.losses, tuple(targets.shape))
    return problem.plan.collect(problem.xp, losses, hidden)


def _gradients(
    problem: _Problem, results: _Results, hidden: Array, weight: Array, bias: Array | None
) -> dict[str, Array]:
    xp = problem.xp
    gradients = {
        "hidden": as_dtype(xp, xp.reshape(results.hidden, tuple(hidden.shape)), hidden.dtype),
        "weight": as_dtype(xp, results.weight, weight.dtype),
    }
    return gradients if bias is None else gradients | {"bias": as_dtype(xp, results.bias, bias.dtype)}


# --- the next token ---------------------------------------------------------------------------------------------------


class _NextTokens(NamedTuple):
    """Cross-entropy of the next tokens as one over all positions, whose last one is ignored: no logits are copied.

    Attributes:
        options: of `cross_entropy_with_logits`; what they have for each position has one more for the last.
        has_positions: whether the reduced loss still has an entry for each position.
    """

    targets: Array
    options: dict[str, Any]
    has_positions: bool

    @staticmethod
    def of(logits: Array, tokens: Array, ignore_index: int | None, reduction: Any) -> _NextTokens:
        xp = array_namespace(logits=logits, tokens=tokens)
        shape = tuple(tokens.shape)
        if not shape or shape[-1] == 0 or tuple(logits.shape)[:-1] != shape:
            raise ValueError(
                f"logits must have shape (…, tokens, classes) and tokens (…, tokens), of one token at least, got "
                f"{tuple(logits.shape)} and {shape}"
            )
        if not is_dtype(xp, tokens.dtype, "integral"):
            raise TypeError(f"tokens must be integers, got {tokens.dtype}")
        tokens = as_dtype(xp, tokens, xp.arange(1).dtype)
        limits = xp.iinfo(tokens.dtype)
        ignored = limits.min if ignore_index is None else require_integer("ignore_index", ignore_index)
        if not limits.min <= ignored <= limits.max:
            ignored = limits.min  # no token has it
        nothing = xp.full((*shape[:-1], 1), ignored, dtype=tokens.dtype, **placement(tokens))
        options = dict(reduction)
        name, axis, normalizer = options.get("reduction", "mean"), options.get("axis"), options.get("normalizer")
        axes = reduced_axes(len(shape), name, axis, normalizer)
        has_positions = len(shape) - 1 not in axes
        if name == "batch_sum" and normalizer is None and len(shape) == 1:
            options["normalizer"] = float(max(shape[0] - 1, 1))  # here the positions are the batch
        for key in ("weights", *(("normalizer", "upstream") if has_positions else ())):
            if len(getattr(options.get(key), "shape", ())) > 0:
                options[key] = _with_last(xp, key, options[key], shape[-1] - 1)
        targets = xp.concat([tokens[..., 1:], nothing], axis=-1)
        return _NextTokens(targets, options | {"ignore_index": ignored}, has_positions)

    def value(self, of_all: Array) -> Array:
        return of_all[..., :-1] if self.has_positions else of_all


def _with_last(xp: Any, name: str, x: Array, positions: int) -> Array:
    """Return an array with an entry for each position with one more; one that broadcasts as it is."""
    require_library(xp, name, x)
    if x.shape[-1] == positions:
        return xp.concat([x, xp.full((*x.shape[:-1], 1), 1.0, dtype=x.dtype, **placement(x))], axis=-1)
    if x.shape[-1] != 1:
        raise ValueError(f"{name} of shape {tuple(x.shape)} does not fit the losses of {positions} positions")
    return x


def next_token_cross_entropy(
    logits: Array, tokens: Array, ignore_index: int | None = None, **reduction: Unpack[Reduction]
) -> Array:
    """Mean of −log softmax(z_t)_(x_(t+1)): how well the logits z at each position predict the next token x.

    Args:
        logits: z, (…, tokens, classes): the model's output at each position. The last has nothing left to predict.
        tokens: x, integers (…, tokens): what the model read. The first is predicted by nothing.
        ignore_index: a token that is not to be predicted (padding, a prompt); it does not count in the mean.
        **reduction: see `reduce_loss`; the unreduced losses are one per token but the first, (…, tokens − 1).

    Returns:
        A scalar ((…, tokens − 1) for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a token is outside the classes, or a reduction keyword does not fit. A
            token that cannot be seen (inside `jax.jit`, `torch.compile`) gives NaN instead.
        TypeError: an argument is no array, logits are not floating point, or tokens are no integers.

    Example:
        The first logits give the second token the probability ¾, the second ones the third token ½:
        −(log ¾ + log ½) / 2 = 0.490414…

        >>> import numpy as np
        >>> logits = np.array([[0.0, np.log(3.0)], [5.0, 5.0], [9.0, 0.0]])
        >>> round(float(next_token_cross_entropy(logits, np.array([0, 1, 0]))), 6)
        0.490415

    Source:
        Y. Bengio et al., A Neural Probabilistic Language Model, 2003. https://www.jmlr.org/papers/v3/bengio03a.html
    """
    shifted = _NextTokens.of(logits, tokens, ignore_index, reduction)
    return shifted.value(cross_entropy_with_logits(logits, shifted.targets, **shifted.options))


def _fast_next_tokens(both_of: Callable[..., Any]) -> Callable[..., tuple[Array, Array]]:
    of_all = both_of(cross_entropy_with_logits)

    def both(logits: Array, tokens: Array, ignore_index: int | None = None, **reduction: Any) -> tuple[Array, Array]:
        shifted = _NextTokens.of(logits, tokens, ignore_index, reduction)
        value, gradient = of_all(logits, shifted.targets, **shifted.options)
        return shifted.value(value), gradient

    return both


@gradient_of(
    next_token_cross_entropy,
    domain={
        "logits": Elements(per_sample=(4, 5)),
        "tokens": ClassIndices(per_sample=(4,), classes=5),
        "ignore_index": Integer(),
    },
    terms=Composed(_fast_next_tokens),
    properties=("convex", "non_negative", "translation_invariant"),
)
def next_token_cross_entropy_gradient(
    logits: Array, tokens: Array, ignore_index: int | None = None, **reduction: Unpack[GradientReduction]
) -> Array:
    """(softmax(z_t) − one-hot(x_(t+1))) / M, M = predicted tokens; 0 at the last position.

    Args:
        logits: as in `next_token_cross_entropy`; likewise all other arguments.
        tokens: x.
        ignore_index: a token that is not to be predicted.
        **reduction: see `reduce_loss`; `upstream` is the gradient that flows into the loss.

    Returns:
        The gradient wrt the logits, a new array of their shape and dtype.

    Raises:
        ValueError: as in `next_token_cross_entropy`.
        TypeError: as in `next_token_cross_entropy`.

    Example:
        The next tokens are 1 and 0: (¼, ¾ − 1) / 2 and (½ − 1, ½) / 2, and nothing at the end.

        >>> import numpy as np
        >>> logits = np.array([[0.0, np.log(3.0)], [5.0, 5.0], [9.0, 0.0]])
        >>> next_token_cross_entropy_gradient(logits, np.array([0, 1, 0])).round(12).tolist()
        [[0.125, -0.125], [-0.25, 0.25], [0.0, 0.0]]
    """
    shifted = _NextTokens.of(logits, tokens, ignore_index, reduction)
    return cross_entropy_with_logits_gradient(logits, shifted.targets, **shifted.options)
