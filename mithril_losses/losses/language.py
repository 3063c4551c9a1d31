"""Losses of language models: of the next token, and cross-entropy fused with the linear layer that computes the logits.

The logits of a large vocabulary are the largest array of a training step. `linear_cross_entropy` computes them for one
chunk of rows at a time: a chunk needs one product for its logits and two for the gradients, and is then discarded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import (
    Array,
    ArrayT,
    array_namespace,
    beside,
    is_dtype,
    placement,
    require_library,
)
from mithril_losses.catalogue import gradient_of
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
from mithril_losses.losses.classification import cross_entropy_with_logits, cross_entropy_with_logits_gradient
from mithril_losses.numerics.reduction import GradientReduction, Reduction, plan, reduced_axes
from mithril_losses.numerics.sampling import Draw
from mithril_losses.numerics.validation import as_dtype, require_integer, require_one_number, widest_dtype
from mithril_losses.shards import Split, resolve
from mithril_losses.templates.classes import (
    Columns,
    by_label,
    by_label_of_part,
    is_exactly,
    read_class_weights,
    read_labels,
)
from mithril_losses.templates.composed import Composed
from mithril_losses.templates.linear import Layer, LayerRows, chunk_size, linear_rows
from mithril_losses.templates.unreduced import Closed, Wanted, reduced

__all__ = [
    "linear_cross_entropy",
    "linear_cross_entropy_gradient",
    "next_token_cross_entropy",
    "next_token_cross_entropy_gradient",
]

_SOFT_CAP = Interval(0.0, for_none=math.inf)
_CHUNK_ROWS = Integer(1, example=2)


# --- cross-entropy of a linear layer ----------------------------------------------------------------------------------


def _checked(hidden: Array, weight: Array, targets: Array, bias: Array | None) -> tuple[Any, Any]:
    """Check libraries, types and shapes, and return the namespace and the dtype of computation."""
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
    """Raise for illegal labels and class weights, where their values can be read."""
    xp = _checked(hidden, weight, targets, bias)[0]
    read_labels(xp, targets, weight.shape[0], ignore_index)
    read_class_weights(xp, class_weights, weight.shape[0], 1, weight)


def _mass(
    hidden: Array,
    weight: Array,
    targets: Array,
    *,
    class_weights: Array | Sequence[float] | None,
    ignore_index: int | None,
    **_: Any,
) -> Array | None:
    xp, classes = array_namespace(weight=weight), weight.shape[0]
    per_class = read_class_weights(xp, class_weights, classes, 1, weight)
    return by_label(xp, weight, classes, *read_labels(xp, targets, classes, ignore_index), per_class, 0.0)[1]


@reduced(
    splits=("rows", "classes"),
    wrt=("hidden", "weight", "bias"),
    pairwise=True,
    check=_check_values,
    mass=_mass,
    hidden=REAL,
    weight=PerClass(),
    targets=ClassIndices(),
    bias=ClassNumbers(),
    class_weights=ClassNumbers(0.0),
    ignore_index=Integer(),
    label_smoothing=FRACTION,
    z_loss=NON_NEGATIVE,
    soft_cap=_SOFT_CAP,
    chunk_rows=_CHUNK_ROWS,
)
def _linear_cross_entropy(
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
    wanted: Wanted,
) -> Closed:
    xp, dtype = _checked(hidden, weight, targets, bias)
    shape, count, (classes, features) = tuple(targets.shape), math.prod(targets.shape), weight.shape
    a = require_one_number(xp, "label_smoothing", label_smoothing, dtype)
    z_loss = require_one_number(xp, "z_loss", z_loss, dtype)
    cap = require_one_number(xp, "soft_cap", soft_cap, dtype)
    split = resolve(xp, reduction.get("across"))
    columns = None
    if split.classes is not None:
        facts = f"{str(dtype).split('.')[-1]} in {shape} rows of {features} features, bias {bias is not None}"
        columns = Columns.of(split.classes, classes, facts + " with class_weights" * (class_weights is not None))
    most = classes if columns is None else columns.most
    size = chunk_rows or chunk_size(most, features, xp.finfo(dtype).bits // 8)
    given, like = {"hidden": hidden, "weight": weight, "bias": bias}, as_dtype(xp, weight, dtype)

    per_class = read_class_weights(xp, class_weights, classes, 1, like)
    labels, live, illegal = read_labels(xp, targets, classes if columns is None else columns.total, ignore_index)
    whole = None
    if columns is None:
        shares, mass = by_label(xp, like, classes, labels, live, illegal, per_class, a)
    else:
        shares, mass, whole = by_label_of_part(xp, like, columns, labels, live, illegal, per_class, a)
    of_rows = reduction if split.classes is None else {**reduction, "across": split.rows}
    closing, ones = plan(xp, shape, dtype, mass=mass, **of_rows), xp.ones(shape, dtype=dtype, **placement(like))
    own = shares.own * ones
    if illegal is not None:
        own = xp.where(illegal, math.nan, own)
    if closing.weights is not None:
        weighted = xp.broadcast_to(closing.weights != 0, shape)
        live = weighted if live is None else live & weighted
    if split.classes is not None:
        hidden = split.classes.apart(hidden)
    if split.rows is not None:
        like, bias = split.rows.apart(like), None if bias is None else split.rows.apart(bias)
    flat = LayerRows(
        xp.reshape(as_dtype(xp, hidden, dtype), (count, features)),
        xp.reshape(shares.label, (count,)),
        xp.reshape(own, (count,)),
        None if live is None else xp.reshape(live, (count,)),
        xp.reshape(closing.spread(xp, ones, ones), (count,)) if wanted else None,
        None if whole is None else xp.reshape(whole * ones, (count,)),
    )
    layer = Layer(
        like,
        None if bias is None else as_dtype(xp, bias, dtype),
        None if is_exactly(shares.even, 0.0) else shares.even,
        shares.each,
        None if is_exactly(z_loss, 0.0) else z_loss,
        None if is_exactly(cap, math.inf) else cap,
    )
    found = linear_rows(xp, flat, layer, size, split.classes)
    value = closing.collect(xp, xp.reshape(found.losses, shape), hidden)
    if wanted:  # each part of the classes contributes to the hidden layer, and each part of the rows to the layer
        found = found.summed(split.classes, split.rows)
    return value, {
        name: as_dtype(xp, xp.reshape(gradient, tuple(given[name].shape)), given[name].dtype)
        for name, gradient in zip(given, found[1:], strict=True)
        if wanted and gradient is not None
    }


def linear_cross_entropy(
    hidden: ArrayT,
    weight: ArrayT,
    targets: Array,
    bias: ArrayT | None = None,
    *,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk_rows: int | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of −Σ_c w_c y′_c log softmax(z)_c + ζ (log Σ_c e^{z_c})², with z = W h + b.

    For ζ = 0 and without a soft cap this is the value of `cross_entropy_with_logits` at these logits, but the logits of
    all rows are never in memory at once.

    Args:
        hidden: h, the last layer's activations: any shape with the D features last; rows are the other axes.
        weight: W, shape (V, D): one row per class.
        targets: class indices (integers, the shape of `hidden` without its last axis).
        bias: b, shape (V,).
        class_weights: w, shape (V,). The divisor of "mean" is then Σ w_y over the rows.
        ignore_index: rows with this label are ignored; they do not count in the divisor either. Inside `jax.jit` and
            `torch.compile` they are masked; elsewhere they are dropped before the product.
        label_smoothing: a in [0, 1]: y′ = (1 − a) y + a / V.
        z_loss: ζ ≥ 0, keeps the normalizers Σ_c e^{z_c} near 1. Class weights do not apply to this part.
        soft_cap: c > 0: the logits are c tanh(z / c) in place of z, so that no logit exceeds c.
        chunk_rows: how many rows have their logits in memory at a time. By default as many as fit into 20 MiB, or into
            an eighth of the size of `weight` if that is larger. It changes the result only by rounding.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or an option outside its domain. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the row of such a label becomes NaN instead.
        TypeError: hidden, weight or bias are not floating point, or targets are not integers.

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
    return _linear_cross_entropy.value(
        hidden,
        weight,
        targets,
        bias,
        class_weights,
        ignore_index,
        label_smoothing,
        z_loss,
        soft_cap,
        chunk_rows,
        **reduction,
    )


@gradient_of(
    linear_cross_entropy,
    terms=_linear_cross_entropy,
    properties=("non_negative",),
)
def linear_cross_entropy_gradient(
    hidden: ArrayT,
    weight: ArrayT,
    targets: Array,
    bias: ArrayT | None = None,
    *,
    class_weights: Array | Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk_rows: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """G W, Gᵀ h and Σ G over rows, with G = (softmax(z) (Σ_c q_c + 2 ζ log Σ_c e^{z_c}) − q) / M, q_c = w_c y′_c.

    M is the number of rows that are not ignored, or, with class weights, the sum of w_y over these rows. With a soft
    cap, z are the capped logits, and G has the additional factor 1 − (z / c)².

    Example:
        G = softmax(0, log 3) − (0, 1) = (¼, −¼), and Gᵀ h for h = (1, 0).

        >>> import numpy as np
        >>> hidden, weight = np.array([[1.0, 0.0]]), np.array([[0.0, 5.0], [np.log(3.0), 7.0]])
        >>> linear_cross_entropy_gradient(hidden, weight, np.array([1]))["weight"].round(12).tolist()
        [[0.25, 0.0], [-0.25, 0.0]]
    """
    return _linear_cross_entropy.gradient(
        hidden,
        weight,
        targets,
        bias,
        class_weights,
        ignore_index,
        label_smoothing,
        z_loss,
        soft_cap,
        chunk_rows,
        **reduction,
    )


# --- the next token ---------------------------------------------------------------------------------------------------


class _NextTokens(NamedTuple):
    """Next-token loss as cross-entropy over all positions, where the last one is ignored, so that no logits are copied.

    Attributes:
        options: of `cross_entropy_with_logits`; options with an entry per position have one more for the last position.
        has_positions: whether the reduced loss still has an entry for each position.
    """

    targets: Array
    options: dict[str, Any]
    has_positions: bool

    @staticmethod
    def of(logits: Array, tokens: Array, ignore_index: int | None, reduction: Any) -> _NextTokens:
        tokens = beside(logits, tokens)
        xp = array_namespace(logits=logits, tokens=tokens)
        shape = tuple(tokens.shape)
        if not shape or shape[-1] == 0 or tuple(logits.shape)[:-1] != shape:
            raise ValueError(
                f"logits must have shape (…, tokens, classes) and tokens (…, tokens), of one token at least, got "
                f"{tuple(logits.shape)} and {shape}"
            )
        if not is_dtype(xp, tokens.dtype, "integral"):
            raise TypeError(f"tokens must be integers, got {tokens.dtype}")
        across = reduction.get("across")
        if len(shape) == 1 and across is not None and not (isinstance(across, Split) and across.rows is None):
            raise ValueError(
                "the tokens of one sequence cannot be split: only a batch of them may be, by its first axis"
            )
        tokens = as_dtype(xp, tokens, xp.arange(1).dtype)
        limits = xp.iinfo(tokens.dtype)
        ignored = limits.min if ignore_index is None else require_integer("ignore_index", ignore_index)
        if not limits.min <= ignored <= limits.max:
            ignored = limits.min  # no token has this value
        nothing = xp.full((*shape[:-1], 1), ignored, dtype=tokens.dtype, **placement(tokens))
        options = {name: beside(logits, x) for name, x in reduction.items()}
        name, axis, normalizer = options.get("reduction", "mean"), options.get("axis"), options.get("normalizer")
        axes = reduced_axes(len(shape), name, axis, normalizer)
        has_positions = len(shape) - 1 not in axes
        if name == "batch_sum" and normalizer is None and len(shape) == 1:
            options["normalizer"] = float(max(shape[0] - 1, 1))  # here the positions are the batch axis
        for key in ("weights", *(("normalizer", "upstream") if has_positions else ())):
            if len(getattr(options.get(key), "shape", ())) > 0:
                options[key] = _with_last(xp, key, options[key], shape[-1] - 1)
        targets = xp.concat([tokens[..., 1:], nothing], axis=-1)
        return _NextTokens(targets, options | {"ignore_index": ignored}, has_positions)

    def value(self, of_all: Any) -> Any:
        return of_all[..., :-1] if self.has_positions and hasattr(of_all, "shape") else of_all  # 0 if none is wanted


def _with_last(xp: Any, name: str, x: Array, positions: int) -> Array:
    """Append an entry to an array with an entry per position; return an array that broadcasts unchanged."""
    require_library(xp, name, x)
    if x.shape[-1] == positions:
        return xp.concat([x, xp.full((*x.shape[:-1], 1), 1.0, dtype=x.dtype, **placement(x))], axis=-1)
    if x.shape[-1] != 1:
        raise ValueError(f"{name} of shape {tuple(x.shape)} does not fit the losses of {positions} positions")
    return x


def next_token_cross_entropy(
    logits: ArrayT, tokens: Array, ignore_index: int | None = None, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of −log softmax(z_t)_(x_(t+1)): how well the logits z at each position predict the next token x.

    Args:
        logits: z, (…, tokens, classes): the model's output at each position. The last position has no next token.
        tokens: x, integers (…, tokens): the model's input. The first token is not predicted.
        ignore_index: positions whose next token has this value (padding, a prompt) do not count in the mean.
        **reduction: see `reduce_loss`; the unreduced losses are one per token but the first, (…, tokens − 1).

    Returns:
        A scalar ((…, tokens − 1) for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a token is outside the classes, or a reduction keyword does not fit. A
            token whose value cannot be read (inside `jax.jit` and `torch.compile`) gives NaN instead.
        TypeError: an argument is not an array, logits are not floating point, or tokens are not integers.

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
    _NEXT_TOKEN.require_known(reduction, gradient=False)
    shifted = _NextTokens.of(logits, tokens, ignore_index, reduction)
    return shifted.value(cross_entropy_with_logits(logits, shifted.targets, **shifted.options))


def _compose_next_tokens(fast: Callable[..., Any]) -> Callable[..., tuple[Array, Array]]:
    of_all = fast(cross_entropy_with_logits)

    def both(logits: Array, tokens: Array, ignore_index: int | None = None, **reduction: Any) -> tuple[Array, Array]:
        shifted = _NextTokens.of(logits, tokens, ignore_index, reduction)
        value, gradient = of_all(logits, shifted.targets, **shifted.options)
        return shifted.value(value), gradient

    return both


_NEXT_TOKEN = Composed(_compose_next_tokens, curved=True)


@_NEXT_TOKEN.likelihood
def _next_tokens(draw: Draw, logits: Array, tokens: Array, ignore_index: int | None = None, **others: Any) -> Array:
    """Return the next tokens at all positions, each drawn by the given logits; those that are ignored stay."""
    following = as_dtype(draw.xp, draw.classes(logits, -1)[..., :-1], tokens.dtype)
    found = draw.xp.concat([tokens[..., :1], following], axis=-1)
    return found if ignore_index is None else draw.xp.where(tokens == ignore_index, tokens, found)


@gradient_of(
    next_token_cross_entropy,
    domain={
        "logits": Elements(per_sample=(4, 5)),
        "tokens": ClassIndices(per_sample=(4,), classes=5),
        "ignore_index": Integer(),
    },
    terms=_NEXT_TOKEN,
    properties=("convex", "non_negative", "translation_invariant"),
)
def next_token_cross_entropy_gradient(
    logits: ArrayT, tokens: Array, ignore_index: int | None = None, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(softmax(z_t) − one-hot(x_(t+1))) / M, M = predicted tokens; 0 at the last position.

    Example:
        The next tokens are 1 and 0: (¼, ¾ − 1) / 2 and (½ − 1, ½) / 2, and nothing at the end.

        >>> import numpy as np
        >>> logits = np.array([[0.0, np.log(3.0)], [5.0, 5.0], [9.0, 0.0]])
        >>> next_token_cross_entropy_gradient(logits, np.array([0, 1, 0])).round(12).tolist()
        [[0.125, -0.125], [-0.25, 0.25], [0.0, 0.0]]
    """
    _NEXT_TOKEN.require_known(reduction)
    shifted = _NextTokens.of(logits, tokens, ignore_index, reduction)
    return cross_entropy_with_logits_gradient(logits, shifted.targets, **shifted.options)
