"""Classification losses, on probabilities and on logits; classes by index or by probability."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace, namespace_of
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import (
    BINARY,
    CLASS_DISTRIBUTION,
    CLIP_WIDTH,
    FRACTION,
    NON_NEGATIVE,
    PROBABILITY,
    REAL,
    SIGN,
    ClassAxis,
    ClassNumbers,
    ClassTargets,
    Integer,
    Interval,
)
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.sampling import Draw
from mithril_losses.numerics.stable import largest_number, log_softmax, logistic_density, one_hot
from mithril_losses.numerics.validation import as_dtype, compute_dtype, normalize_axis, require_same_shape
from mithril_losses.shards import Shards
from mithril_losses.templates.classes import ONE, Classes, Columns, Given, classes_of
from mithril_losses.templates.elements import elementwise
from mithril_losses.templates.loop import Loop
from mithril_losses.templates.rows import (
    has_second_rows_loop,
    second_rows_loop,
    softmax_loop,
    softmax_losses,
    softmax_second_loop,
    whole_rows_loop,
)
from mithril_losses.templates.unreduced import Curvature, Losses, Wanted, diagonal_curvature, unreduced

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_gradient",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_gradient",
    "cross_entropy_loss",
    "cross_entropy_loss_gradient",
    "cross_entropy_with_logits",
    "cross_entropy_with_logits_gradient",
    "cross_entropy_with_logits_value_and_gradient",
    "exponential_loss",
    "exponential_loss_gradient",
    "focal_loss",
    "focal_loss_gradient",
    "focal_loss_with_logits",
    "focal_loss_with_logits_gradient",
    "hinge_loss",
    "hinge_loss_gradient",
    "list_net_loss",
    "list_net_loss_gradient",
    "logistic_loss",
    "logistic_loss_gradient",
    "modified_huber_loss",
    "modified_huber_loss_gradient",
    "squared_hinge_loss",
    "squared_hinge_loss_gradient",
]


# --- cross-entropy ----------------------------------------------------------------------------------------------


_CLASS_OPTIONS: dict[str, Any] = {
    "class_axis": ClassAxis(),
    "class_weights": ClassNumbers(0.0),
    "label_smoothing": FRACTION,
    "ignore_index": Integer(),
}


def _mass(scores: Array, targets: Array, **options: Any) -> Any:
    return classes_of(scores, targets, **options, trusted=True).mass


@unreduced(
    loop=softmax_loop,
    second_loop=softmax_second_loop,
    curved=True,
    check=functools.partial(classes_of, name="logits"),
    mass=_mass,
    logits=REAL,
    targets=ClassTargets(),
    **_CLASS_OPTIONS,
)
def _cross_entropy_with_logits(
    logits: Array,
    targets: Array,
    class_axis: int,
    class_weights: Any,
    label_smoothing: float,
    ignore_index: int | None,
    wanted: Wanted,
    shards: Any = None,
) -> Losses:
    classes = classes_of(
        logits, targets, class_axis, class_weights, label_smoothing, ignore_index, "logits", shards=shards
    )
    return softmax_losses(classes, "logits")


@_cross_entropy_with_logits.likelihood
def _classes_of_logits(draw: Draw, logits: Array, targets: Array, **options: Any) -> Array:
    axis = _class_axis(logits, options)
    return _as_given(draw, draw.classes(logits, axis), targets, logits, axis)


def _class_axis(scores: Array, options: Mapping[str, Any]) -> int:
    """Return the axis of the classes; raise for options with which cross-entropy is no likelihood."""
    for name in ("class_weights", "label_smoothing"):
        if options.get(name) not in (None, 0.0):
            raise ValueError(f"cross-entropy is a likelihood only without {name}")
    return normalize_axis("class_axis", options.get("class_axis", -1), len(scores.shape))


def _as_given(draw: Draw, labels: Array, targets: Array, scores: Array, axis: int) -> Array:
    """Return labels as class indices, or as rows of 0 and 1 where the targets have the shape of the scores."""
    if tuple(targets.shape) == tuple(scores.shape):
        return one_hot(draw.xp, labels, scores.shape[axis], axis, scores)
    return as_dtype(draw.xp, labels, targets.dtype)


def cross_entropy_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of −Σ_c w_c y′_c log softmax(z)_c, with y′ = (1 − a) y + a / C.

    Args:
        logits: scores z, any shape with the C classes along `class_axis`.
        targets: class indices (integers, the shape of `logits` without the class axis) or class probabilities
            (the shape of `logits`). Indices and the equal one-hot rows give the same number.
        class_axis: the axis of the classes.
        class_weights: w, shape (C,). The divisor of "mean" is then the sum of Σ_c w_c y_c over the rows.
        label_smoothing: a in [0, 1].
        ignore_index: rows with this label are ignored; they do not count in the divisor either.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or an option outside its domain. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the row of such a label becomes NaN instead.
        TypeError: logits are not floating point, or class indices are not integers.

    Example:
        softmax(0, log 3) = (¼, ¾): −log ¾ = 0.287682…

        >>> import numpy as np
        >>> logits = np.array([[0.0, np.log(3.0)]])
        >>> round(float(cross_entropy_with_logits(logits, np.array([1]))), 6)
        0.287682

    Source:
        C. M. Bishop, Pattern Recognition and Machine Learning, 2006, §4.3.4. Label smoothing: C. Szegedy et al.,
        Rethinking the Inception Architecture for Computer Vision, 2016. https://doi.org/10.1109/CVPR.2016.308
    """
    return _cross_entropy_with_logits.value(
        logits, targets, class_axis, class_weights, label_smoothing, ignore_index, **reduction
    )


@gradient_of(
    cross_entropy_with_logits,
    terms=_cross_entropy_with_logits,
    properties=("convex", "non_negative", "translation_invariant"),
)
def cross_entropy_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(softmax(z)_c Σ_k q_k − q_c) / M, with q_c = w_c y′_c.

    M is the number of rows that are not ignored, or, with class weights, the sum of Σ_c w_c y_c over these rows.

    Example:
        softmax(0, log 3) − (0, 1) = (¼, −¼).

        >>> import numpy as np
        >>> logits = np.array([[0.0, np.log(3.0)]])
        >>> cross_entropy_with_logits_gradient(logits, np.array([1])).round(12).tolist()
        [[0.25, -0.25]]
    """
    return _cross_entropy_with_logits.gradient(
        logits, targets, class_axis, class_weights, label_smoothing, ignore_index, **reduction
    )


cross_entropy_with_logits_value_and_gradient = both_of(cross_entropy_with_logits_gradient)


_OF_CLASSES = CLASS_DISTRIBUTION.suggesting("for logits there is cross_entropy_with_logits")


def _check_cross_entropy(predictions: Array, targets: Array, epsilon: Any, **options: Any) -> None:
    axis = classes_of(predictions, targets, **options).axis
    _OF_CLASSES.check_along("predictions", predictions, axis)


@unreduced(
    curved=True,
    check=_check_cross_entropy,
    mass=lambda *arguments, epsilon, **options: _mass(*arguments, **options),
    predictions=_OF_CLASSES,
    targets=ClassTargets(),
    **_CLASS_OPTIONS,
    epsilon=CLIP_WIDTH,
)
def _cross_entropy(
    predictions: Array,
    targets: Array,
    class_axis: int,
    class_weights: Any,
    label_smoothing: float,
    ignore_index: int | None,
    epsilon: float,
    wanted: Wanted,
    shards: Any = None,
) -> Losses:
    classes = classes_of(predictions, targets, class_axis, class_weights, label_smoothing, ignore_index, shards=shards)
    xp: Any = namespace_of(predictions)
    shares, axis = classes.shares, classes.axis
    width = CLIP_WIDTH.for_dtype(epsilon, xp, predictions.dtype)
    if shards is None:
        _OF_CLASSES.check_along("predictions", predictions, axis)
        scores = _OF_CLASSES.or_nan_along(xp, classes.scores, predictions, axis)
    else:  # the sums of whole rows are not checked
        PROBABILITY.check("predictions", predictions)
        scores = PROBABILITY.or_nan(xp, classes.scores, predictions)
    p = xp.minimum(xp.maximum(scores, width), 1.0 - width)
    values = -shares.dot(xp, xp.log(p), axis)
    values = values if shards is None else shards.sum(values)

    def slopes() -> dict[str, Array]:
        return {"predictions": classes.legal(xp, -shares.dense(xp, p, axis) / p)}

    def curvature() -> Curvature:
        return diagonal_curvature(xp, lambda: {"predictions": classes.legal(xp, shares.dense(xp, p, axis) / (p * p))})

    return Losses(classes.legal(xp, values), slopes, (axis,), classes.mass, curvature=curvature)


def cross_entropy_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    epsilon: float = 1e-7,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of −Σ_c w_c y′_c log p̂_c, with p̂ = clip(p, ε, 1 − ε) and y′ = (1 − a) y + a / C.

    Prefer `cross_entropy_with_logits` where the model can return logits: it needs no clipping.

    Args:
        predictions: probabilities p, any shape with the C classes along `class_axis`. They are used as they are,
            without normalisation.
        targets: class indices (integers, the shape of `predictions` without the class axis) or class probabilities
            (the shape of `predictions`). Indices and the equal one-hot rows give the same number.
        class_axis: the axis of the classes.
        class_weights: w, shape (C,). The divisor of "mean" is then the sum of Σ_c w_c y_c over the rows.
        label_smoothing: a in [0, 1].
        ignore_index: rows with this label are ignored; they do not count in the divisor either.
        epsilon: ε in (0, 0.5). If 1 − ε rounds to 1 in the predictions' dtype, ε is raised to its resolution.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or an option outside its domain. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the row of such a label becomes NaN instead.
        TypeError: predictions are not floating point, or class indices are not integers.

    Example:
        −(log ½ + log ¼) / 2 = 1.5 log 2 = 1.039720…

        >>> import numpy as np
        >>> probabilities = np.array([[0.5, 0.5], [0.75, 0.25]])
        >>> round(float(cross_entropy_loss(probabilities, np.array([0, 1]))), 6)
        1.039721

    Source:
        C. M. Bishop, Pattern Recognition and Machine Learning, 2006, §4.3.4.
    """
    return _cross_entropy.value(
        predictions, targets, class_axis, class_weights, label_smoothing, ignore_index, epsilon, **reduction
    )


@gradient_of(
    cross_entropy_loss,
    terms=_cross_entropy,
    properties=(given("convex", "no probability is clipped"), "non_negative", "psd"),
)
def cross_entropy_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    class_axis: int = -1,
    class_weights: Array | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    epsilon: float = 1e-7,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """−(q_c / p̂_c) / M, with q_c = w_c y′_c; taken at p̂ also where p was clipped.

    M is the number of rows that are not ignored, or, with class weights, the sum of Σ_c w_c y_c over these rows.

    Example:
        >>> import numpy as np
        >>> probabilities = np.array([[0.5, 0.5], [0.75, 0.25]])
        >>> cross_entropy_loss_gradient(probabilities, np.array([0, 1])).tolist()
        [[-1.0, -0.0], [-0.0, -2.0]]
    """
    return _cross_entropy.gradient(
        predictions, targets, class_axis, class_weights, label_smoothing, ignore_index, epsilon, **reduction
    )


# --- scores of a list ---------------------------------------------------------------------------------------------


def _list_net_second_loop(order: Any, kind: str) -> Callable[..., Loop | None] | None:
    if not has_second_rows_loop(order, kind):
        return None
    return lambda scores, relevance, vector=None: second_rows_loop(scores, _list_net_rows(scores, relevance), vector)


@unreduced(
    curved=True,
    second_loop=_list_net_second_loop,
    loop=lambda scores, relevance: whole_rows_loop(scores, _list_net_rows(scores, relevance)),
    scores=REAL,
    relevance=REAL,
)
def _list_net(scores: Array, relevance: Array, wanted: Wanted, shards: Shards | None = None) -> Losses:
    return softmax_losses(_list_net_rows(scores, relevance, shards), "scores")


def _list_net_rows(scores: Array, relevance: Array, shards: Shards | None = None) -> Classes:
    xp = array_namespace(scores=scores, relevance=relevance)
    require_same_shape(scores=scores, relevance=relevance)
    z = as_dtype(xp, scores, compute_dtype(xp, scores.dtype, "scores"))
    if len(z.shape) == 0 or z.shape[-1] == 0:
        raise ValueError(f"scores need a last axis of one item at least, got shape {tuple(z.shape)}")
    r, axis = as_dtype(xp, relevance, z.dtype, "relevance"), len(z.shape) - 1
    if shards is None:
        return Classes(z, axis, Given(log_softmax(xp, r, axis)[1]), None)
    Columns.of(shards, z.shape[axis], f"scores of {str(z.dtype).split('.')[-1]} in {tuple(z.shape[:-1])} lists")
    exponentials = xp.exp(r - shards.largest(largest_number(xp, r, axis)))
    q = exponentials / shards.sum(xp.sum(exponentials, axis=axis, keepdims=True))
    return Classes(z, axis, Given(q), None, across=shards, whole=ONE)


def list_net_loss(scores: ArrayT, relevance: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over lists of −Σ_i q_i log p_i, q = softmax(y), p = softmax(z), z = scores and y = relevance.

    The cross-entropy of two distributions: the probabilities of each item to be ranked first, by the relevance and by
    the scores. An item whose score and relevance are both −∞, such as padding, is ignored.

    Args:
        scores: z, (…, items), real numbers.
        relevance: y, real numbers of the same shape, on the scale of the scores: q is proportional to e^y.
        **reduction: see `reduce_loss`; the unreduced losses are one per list.

    Returns:
        A scalar (one loss per list for reduction="none").

    Raises:
        ValueError: the shapes differ, a list is empty, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or scores are not floating point.

    Example:
        softmax(0, log 3) = (¼, ¾) for the relevance, and (½, ½) for the scores: log 2.

        >>> import numpy as np
        >>> round(float(list_net_loss(np.array([[5.0, 5.0]]), np.array([[0.0, np.log(3.0)]]))), 6)
        0.693147

    Source:
        Z. Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach, 2007.
        https://doi.org/10.1145/1273496.1273513
    """
    return _list_net.value(scores, relevance, **reduction)


@gradient_of(list_net_loss, terms=_list_net, properties=("convex", "non_negative", "translation_invariant"))
def list_net_loss_gradient(scores: ArrayT, relevance: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """(softmax(z)_i − softmax(y)_i) / B, with B lists.

    Example:
        (½, ½) − (¼, ¾).

        >>> import numpy as np
        >>> list_net_loss_gradient(np.array([[5.0, 5.0]]), np.array([[0.0, np.log(3.0)]])).round(12).tolist()
        [[0.25, -0.25]]
    """
    return _list_net.gradient(scores, relevance, **reduction)


# --- binary cross-entropy ---------------------------------------------------------------------------------------


_OF_LOGITS = "for logits there is binary_cross_entropy_with_logits"
_SIGNS = "for labels −1 and +1, pass (targets + 1) / 2; for class indices there is cross_entropy_with_logits"


@elementwise(predictions=PROBABILITY.suggesting(_OF_LOGITS), targets=PROBABILITY.suggesting(_SIGNS), epsilon=CLIP_WIDTH)
def _binary_cross_entropy(xp: Any, predictions: Array, targets: Array, epsilon: float) -> tuple[Array, Array]:
    p = xp.minimum(xp.maximum(predictions, epsilon), 1.0 - epsilon)
    value = -targets * xp.log(p) - (1.0 - targets) * xp.log1p(-p)
    return value, (p - targets) / (p * (1.0 - p))


def _bernoulli_information(xp: Any, predictions: Array, targets: Array, epsilon: float) -> Array:
    p = xp.minimum(xp.maximum(predictions, epsilon), 1.0 - epsilon)
    return 1.0 / (p * (1.0 - p))


@_binary_cross_entropy.curvature(fisher=_bernoulli_information)
def _binary_cross_entropy_curvature(xp: Any, predictions: Array, targets: Array, epsilon: float) -> Array:
    p = xp.minimum(xp.maximum(predictions, epsilon), 1.0 - epsilon)
    q = 1.0 - p
    return targets / (p * p) + (1.0 - targets) / (q * q)


@_binary_cross_entropy.likelihood
def _binary_targets(draw: Draw, predictions: Array, **others: Any) -> Array:
    return draw.bernoulli(predictions)


def binary_cross_entropy(
    predictions: ArrayT, targets: Array, *, epsilon: float = 1e-7, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of −t log p̂ − (1 − t) log(1 − p̂), with p̂ = clip(p, ε, 1 − ε).

    Prefer `binary_cross_entropy_with_logits` where the model can return logits: it needs no clipping.

    Args:
        predictions: probabilities p, any shape.
        targets: t in [0, 1], the same shape.
        epsilon: ε in (0, 0.5). If 1 − ε rounds to 1 in the predictions' dtype, ε is raised to its resolution.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, epsilon lies outside (0, 0.5), or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        −(log ½ + log(1 − ¾)) / 2 = 1.5 log 2 = 1.039720…

        >>> import numpy as np
        >>> round(float(binary_cross_entropy(np.array([0.5, 0.75]), np.array([1.0, 0.0]))), 6)
        1.039721

    Source:
        C. M. Bishop, Pattern Recognition and Machine Learning, 2006, §4.3.2.
    """
    return _binary_cross_entropy.value(predictions, targets, epsilon, **reduction)


@gradient_of(
    binary_cross_entropy,
    terms=_binary_cross_entropy,
    properties=(given("convex", "no probability is clipped"), "non_negative", "psd"),
)
def binary_cross_entropy_gradient(
    predictions: ArrayT, targets: Array, *, epsilon: float = 1e-7, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(p̂ − t) / (p̂ (1 − p̂)) / n; taken at p̂ also where p was clipped.

    So a confidently wrong prediction keeps a finite gradient of the right sign. The derivative of the clip would be 0.

    Example:
        −½ / ¼ / 2 = −1 and ¾ / (3/16) / 2 = 2.

        >>> import numpy as np
        >>> binary_cross_entropy_gradient(np.array([0.5, 0.75]), np.array([1.0, 0.0])).tolist()
        [-1.0, 2.0]
    """
    return _binary_cross_entropy.gradient(predictions, targets, epsilon, **reduction)


@elementwise(
    logits=REAL,
    targets=PROBABILITY.suggesting(_SIGNS),
    pos_weight=Interval(0.0, closed=True, for_none=1.0),
    written_out=True,
)
def _binary_cross_entropy_with_logits(xp: Any, logits: Array, targets: Array, pos_weight: float) -> tuple[Array, Array]:
    magnitude = xp.abs(logits)
    tail = xp.exp(-magnitude)
    positive, negative = pos_weight * targets, 1.0 - targets
    total, upper = positive + negative, logits >= 0.0
    against = xp.where(upper, negative, positive)  # the weight of the target that the logit disagrees with
    linear = against * magnitude
    linear = xp.where(linear == linear, linear, 0.0)  # 0 · ∞ = 0; the other terms carry the NaNs of the arguments
    slope = against - total * (tail / (1.0 + tail))
    return total * xp.log1p(tail) + linear, xp.where(upper, slope, -slope)


@_binary_cross_entropy_with_logits.curvature
def _binary_cross_entropy_with_logits_curvature(xp: Any, logits: Array, targets: Array, pos_weight: float) -> Array:
    return (pos_weight * targets + (1.0 - targets)) * logistic_density(xp, logits)


@_binary_cross_entropy_with_logits.likelihood
def _binary_targets_of_logits(draw: Draw, logits: Array, pos_weight: Any = None, **others: Any) -> Array:
    if pos_weight is not None:
        raise ValueError("binary_cross_entropy_with_logits is a likelihood only without pos_weight")
    return draw.bernoulli(1.0 / (1.0 + draw.xp.exp(-logits)))


def binary_cross_entropy_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    pos_weight: float | Array | None = None,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of w t softplus(−z) + (1 − t) softplus(z), which is max(z, 0) − z t + log1p(e^(−|z|)) for w = 1.

    An infinite logit that agrees with its target contributes exactly 0.

    Args:
        logits: scores z, any shape.
        targets: t in [0, 1], the same shape.
        pos_weight: w ≥ 0, the weight of the positive class: a number or an array that broadcasts to the logits
            (one per class, say); 1 by default.
        **reduction: see `reduce_loss`. "mean" divides by the number of elements, whatever `pos_weight` is.

    Returns:
        A scalar (the shape of `logits` for reduction="none").

    Raises:
        ValueError: the shapes differ, pos_weight is negative, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        σ(log 3) = ¾: −log ¾ = 0.287682…

        >>> import numpy as np
        >>> round(float(binary_cross_entropy_with_logits(np.log(np.array([3.0])), np.array([1.0]))), 6)
        0.287682

    Source:
        C. M. Bishop, Pattern Recognition and Machine Learning, 2006, §4.3.2.
    """
    return _binary_cross_entropy_with_logits.value(logits, targets, pos_weight, **reduction)


@gradient_of(
    binary_cross_entropy_with_logits, terms=_binary_cross_entropy_with_logits, properties=("convex", "non_negative")
)
def binary_cross_entropy_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    pos_weight: float | Array | None = None,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """((1 − t) σ(z) − w t σ(−z)) / n, which is (σ(z) − t) / n for w = 1.

    Example:
        (½ − 1) / 2 = −¼ and (½ − 0) / 2 = ¼.

        >>> import numpy as np
        >>> binary_cross_entropy_with_logits_gradient(np.array([0.0, 0.0]), np.array([1.0, 0.0])).tolist()
        [-0.25, 0.25]
    """
    return _binary_cross_entropy_with_logits.gradient(logits, targets, pos_weight, **reduction)


# --- hinge ------------------------------------------------------------------------------------------------------


_SIGN = SIGN.suggesting("for labels 0 and 1, pass 2 * targets - 1")


@elementwise(predictions=REAL, targets=_SIGN, kinks=lambda predictions, targets: (1.0 - targets * predictions,))
def _hinge(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    violation = 1.0 - targets * predictions
    # t − t is 0, or NaN where t marks an illegal label
    return xp.maximum(violation, 0.0), xp.where(violation > 0.0, -targets, targets - targets)


@_hinge.curvature(bound=1.0)
def _hinge_curvature(xp: Any, predictions: Array, targets: Array) -> float:
    return 0.0


def hinge_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of max(0, 1 − t p), t ∈ {−1, +1}.

    Args:
        predictions: scores p, any shape.
        targets: t, −1 or +1, the same shape. Labels 0 and 1 raise; they are not converted.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither −1 nor +1, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such a target gives NaN instead.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        max(0, 1 − 0.5) + max(0, 1 + 2) + max(0, 1 − 3) = 3.5, over 3 elements.

        >>> import numpy as np
        >>> round(float(hinge_loss(np.array([0.5, 2.0, -3.0]), np.array([1.0, -1.0, -1.0]))), 6)
        1.166667

    Source:
        C. Cortes and V. Vapnik, Support-Vector Networks, 1995. https://doi.org/10.1007/BF00994018
    """
    return _hinge.value(predictions, targets, **reduction)


@gradient_of(hinge_loss, terms=_hinge, properties=("convex", "non_negative", "constant_curvature", "zero_curvature"))
def hinge_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−t / n where t p < 1, and 0 elsewhere, the corner included.

    Example:
        >>> import numpy as np
        >>> hinge_loss_gradient(np.array([0.5, 2.0, -3.0, 1.0]), np.array([1.0, -1.0, -1.0, 1.0])).tolist()
        [-0.25, 0.25, 0.0, 0.0]
    """
    return _hinge.gradient(predictions, targets, **reduction)


@elementwise(predictions=REAL, targets=_SIGN, kinks=lambda predictions, targets: (1.0 - targets * predictions,))
def _squared_hinge(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    violation = xp.maximum(1.0 - targets * predictions, 0.0)
    return violation * violation, -2.0 * targets * violation


@_squared_hinge.curvature(bound=2.0)
def _squared_hinge_curvature(xp: Any, predictions: Array, targets: Array) -> Array:
    return xp.where(1.0 - targets * predictions > 0.0, 2.0, xp.zeros_like(predictions))


def squared_hinge_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of max(0, 1 − t p)², t ∈ {−1, +1}.

    Args:
        predictions: scores p, any shape.
        targets: t, −1 or +1, the same shape. Labels 0 and 1 raise; they are not converted.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither −1 nor +1, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such a target gives NaN instead.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        ((1 − 0.5)² + (1 + 2)²) / 2 = 4.625.

        >>> import numpy as np
        >>> float(squared_hinge_loss(np.array([0.5, 2.0]), np.array([1.0, -1.0])))
        4.625

    Source:
        K.-W. Chang, C.-J. Hsieh and C.-J. Lin, Coordinate Descent Method for Large-Scale L2-Loss Linear Support Vector
        Machines, 2008. https://www.jmlr.org/papers/v9/chang08a.html
    """
    return _squared_hinge.value(predictions, targets, **reduction)


@gradient_of(squared_hinge_loss, terms=_squared_hinge, properties=("convex", "non_negative"))
def squared_hinge_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−2t max(0, 1 − t p) / n.

    Example:
        >>> import numpy as np
        >>> squared_hinge_loss_gradient(np.array([0.5, 2.0]), np.array([1.0, -1.0])).tolist()
        [-0.5, 3.0]
    """
    return _squared_hinge.gradient(predictions, targets, **reduction)


@elementwise(
    predictions=REAL,
    targets=_SIGN,
    kinks=lambda predictions, targets: (1.0 - targets * predictions, 1.0 + targets * predictions),
    written_out=True,
)
def _modified_huber(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    violation = xp.maximum(1.0 - targets * predictions, 0.0)
    bounded = xp.minimum(violation, 2.0)
    return bounded * (2.0 * violation - bounded), -2.0 * targets * bounded


@_modified_huber.curvature(bound=2.0)
def _modified_huber_curvature(xp: Any, predictions: Array, targets: Array) -> Array:
    margin = targets * predictions
    return xp.where((margin > -1.0) & (margin < 1.0), 2.0, xp.zeros_like(predictions))


def modified_huber_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of max(0, 1 − t p)² where t p ≥ −1 and −4t p elsewhere, t ∈ {−1, +1}.

    Args:
        predictions: scores p, any shape.
        targets: t, −1 or +1, the same shape. Labels 0 and 1 raise; they are not converted.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither −1 nor +1, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such a target gives NaN instead.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        ((1 − 0.5)² + 4 · 2) / 2 = 4.125.

        >>> import numpy as np
        >>> float(modified_huber_loss(np.array([0.5, 2.0]), np.array([1.0, -1.0])))
        4.125

    Source:
        T. Zhang, Solving Large Scale Linear Prediction Problems Using Stochastic Gradient Descent Algorithms, 2004.
        https://doi.org/10.1145/1015330.1015332
    """
    return _modified_huber.value(predictions, targets, **reduction)


@gradient_of(modified_huber_loss, terms=_modified_huber, properties=("convex", "non_negative"))
def modified_huber_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−2t min(max(0, 1 − t p), 2) / n.

    Example:
        >>> import numpy as np
        >>> modified_huber_loss_gradient(np.array([0.5, 2.0]), np.array([1.0, -1.0])).tolist()
        [-0.5, 2.0]
    """
    return _modified_huber.gradient(predictions, targets, **reduction)


# --- margins without a corner -----------------------------------------------------------------------------------


@elementwise(predictions=REAL, targets=_SIGN, written_out=True)
def _logistic(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    margin = targets * predictions
    tail = xp.exp(-xp.abs(margin))
    wrong = xp.where(margin >= 0.0, tail, 1.0) / (1.0 + tail)  # σ(−t p), the probability of the other class
    return xp.maximum(-margin, 0.0) + xp.log1p(tail), -targets * wrong


@_logistic.curvature
def _logistic_curvature(xp: Any, predictions: Array, targets: Array) -> Array:
    return logistic_density(xp, targets * predictions)


@_logistic.likelihood
def _signs(draw: Draw, predictions: Array, **others: Any) -> Array:
    return 2.0 * draw.bernoulli(1.0 / (1.0 + draw.xp.exp(-predictions))) - 1.0


def logistic_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of log(1 + e^(−t p)), t ∈ {−1, +1}.

    The loss is the binary cross-entropy with logits, for labels −1 and +1.

    Args:
        predictions: scores p, the logits of the class +1, any shape.
        targets: t, −1 or +1, the same shape. Labels 0 and 1 raise; they are not converted.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither −1 nor +1, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such a target gives NaN instead.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        log(1 + ⅓) = log 4/3 = 0.287682…

        >>> import numpy as np
        >>> round(float(logistic_loss(np.log(np.array([3.0])), np.array([1.0]))), 6)
        0.287682

    Source:
        J. Friedman, T. Hastie and R. Tibshirani, Additive Logistic Regression: A Statistical View of Boosting, 2000.
        https://doi.org/10.1214/aos/1016218223
    """
    return _logistic.value(predictions, targets, **reduction)


@gradient_of(logistic_loss, terms=_logistic, properties=("convex", "non_negative"))
def logistic_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−t σ(−t p) / n, σ(x) = 1 / (1 + e^(−x)).

    Example:
        σ(−log 3) = ¼.

        >>> import numpy as np
        >>> logistic_loss_gradient(np.log(np.array([3.0])), np.array([1.0])).round(12).tolist()
        [-0.25]
    """
    return _logistic.gradient(predictions, targets, **reduction)


@elementwise(predictions=REAL, targets=_SIGN)
def _exponential(xp: Any, predictions: Array, targets: Array) -> tuple[Array, Array]:
    value = xp.exp(-targets * predictions)
    return value, -targets * value


@_exponential.curvature
def _exponential_curvature(xp: Any, predictions: Array, targets: Array) -> Array:
    return xp.exp(-targets * predictions)


def exponential_loss(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of e^(−t p), t ∈ {−1, +1}: the loss of AdaBoost.

    The best score is half of the logit, so that 1 / (1 + e^(−2p)) is the probability of the class +1.

    Args:
        predictions: scores p, any shape.
        targets: t, −1 or +1, the same shape. Labels 0 and 1 raise; they are not converted.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither −1 nor +1, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such a target gives NaN instead.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        (e^(−log 2) + e^(log 4)) / 2 = 2.25.

        >>> import numpy as np
        >>> round(float(exponential_loss(np.log(np.array([2.0, 4.0])), np.array([1.0, -1.0]))), 12)
        2.25

    Source:
        Y. Freund and R. E. Schapire, A Decision-Theoretic Generalization of On-Line Learning and an Application to
        Boosting, 1997. https://doi.org/10.1006/jcss.1997.1504
    """
    return _exponential.value(predictions, targets, **reduction)


@gradient_of(exponential_loss, terms=_exponential, properties=("convex", "non_negative"))
def exponential_loss_gradient(predictions: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−t e^(−t p) / n.

    Example:
        >>> import numpy as np
        >>> exponential_loss_gradient(np.log(np.array([2.0, 4.0])), np.array([1.0, -1.0])).round(12).tolist()
        [-0.25, 2.0]
    """
    return _exponential.gradient(predictions, targets, **reduction)


# --- focal ------------------------------------------------------------------------------------------------------


_OF_FOCAL = PROBABILITY.suggesting("for logits there is focal_loss_with_logits")
_HARD = BINARY.suggesting("for labels −1 and +1, pass (targets + 1) / 2")


@elementwise(predictions=_OF_FOCAL, targets=_HARD, gamma=NON_NEGATIVE, alpha=FRACTION, epsilon=CLIP_WIDTH)
def _focal(
    xp: Any, predictions: Array, targets: Array, gamma: float, alpha: float, epsilon: float
) -> tuple[Array, Array]:
    p = xp.minimum(xp.maximum(predictions, epsilon), 1.0 - epsilon)
    p_t = targets * p + (1.0 - targets) * (1.0 - p)
    q_t = targets * (1.0 - p) + (1.0 - targets) * p
    weight = (alpha * targets + (1.0 - alpha) * (1.0 - targets)) * xp.exp(gamma * xp.log(q_t))  # α_t (1 − p_t)^γ
    log_p = targets * xp.log(p) + (1.0 - targets) * xp.log1p(-p)  # log p_t, exact also near p_t = 1 for t = 0
    return -weight * log_p, (2.0 * targets - 1.0) * weight * (gamma * log_p / q_t - 1.0 / p_t)


@_focal.curvature
def _focal_curvature(xp: Any, predictions: Array, targets: Array, gamma: float, alpha: float, epsilon: float) -> Array:
    p = xp.minimum(xp.maximum(predictions, epsilon), 1.0 - epsilon)
    p_t = targets * p + (1.0 - targets) * (1.0 - p)
    q_t = targets * (1.0 - p) + (1.0 - targets) * p
    weight = (alpha * targets + (1.0 - alpha) * (1.0 - targets)) * xp.exp(gamma * xp.log(q_t))
    log_p = targets * xp.log(p) + (1.0 - targets) * xp.log1p(-p)
    return weight * (1.0 / (p_t * p_t) + gamma / q_t * (2.0 / p_t - (gamma - 1.0) * log_p / q_t))


def focal_loss(
    predictions: ArrayT,
    targets: Array,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    epsilon: float = 1e-7,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of −α_t (1 − p_t)^γ log p_t, with p_t = p̂ for t = 1 and 1 − p̂ for t = 0, p̂ = clip(p, ε, 1 − ε).

    Prefer `focal_loss_with_logits` where the model can return logits: it needs no clipping.

    Args:
        predictions: probabilities p, any shape.
        targets: t, 0 or 1, the same shape.
        gamma: γ ≥ 0, how strongly easy examples are damped; 0 is weighted binary cross-entropy.
        alpha: α_t = alpha for t = 1 and 1 − alpha for t = 0, in [0, 1].
        epsilon: ε in (0, 0.5). If 1 − ε rounds to 1 in the predictions' dtype, ε is raised to its resolution.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither 0 nor 1, or an option lies outside its domain. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such a target gives NaN instead.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        ¼ (1 − ½)² log 2 = log 2 / 16 = 0.043321…

        >>> import numpy as np
        >>> round(float(focal_loss(np.array([0.5]), np.array([1]))), 6)
        0.043322

    Source:
        T.-Y. Lin et al., Focal Loss for Dense Object Detection, 2017. https://doi.org/10.1109/ICCV.2017.324
    """
    return _focal.value(predictions, targets, gamma, alpha, epsilon, **reduction)


@gradient_of(focal_loss, terms=_focal, properties=(given("convex", "no probability is clipped"), "non_negative", "psd"))
def focal_loss_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    epsilon: float = 1e-7,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(2t − 1) α_t (γ (1 − p_t)^(γ−1) log p_t − (1 − p_t)^γ / p_t) / n; taken at p̂ also where p was clipped.

    Example:
        With γ = 0 and α = ½ it is half the gradient of the binary cross-entropy: −½ / ½ = −1.

        >>> import numpy as np
        >>> round(float(focal_loss_gradient(np.array([0.5]), np.array([1]), gamma=0.0, alpha=0.5)[0]), 12)
        -1.0
    """
    return _focal.gradient(predictions, targets, gamma, alpha, epsilon, **reduction)


@elementwise(logits=REAL, targets=_HARD, gamma=NON_NEGATIVE, alpha=FRACTION)
def _focal_with_logits(xp: Any, logits: Array, targets: Array, gamma: float, alpha: float) -> tuple[Array, Array]:
    sign = 2.0 * targets - 1.0
    score = sign * logits
    tail = xp.exp(-xp.abs(score))
    log_tail = xp.log1p(tail)
    p = xp.where(score >= 0.0, 1.0, tail) / (1.0 + tail)
    q = xp.where(score >= 0.0, tail, 1.0) / (1.0 + tail)
    minus_log_p = xp.maximum(-score, 0.0) + log_tail
    minus_log_q = xp.maximum(score, 0.0) + log_tail
    # beyond 1000 the other factor has underflowed to 0; the bound avoids 0 · ∞ for infinite logits
    weight = (alpha * targets + (1.0 - alpha) * (1.0 - targets)) * xp.exp(-gamma * xp.minimum(minus_log_q, 1000.0))
    return weight * minus_log_p, -sign * weight * (gamma * p * xp.minimum(minus_log_p, 1000.0) + q)


@_focal_with_logits.curvature
def _focal_with_logits_curvature(xp: Any, logits: Array, targets: Array, gamma: float, alpha: float) -> Array:
    score = (2.0 * targets - 1.0) * logits
    tail = xp.exp(-xp.abs(score))
    log_tail = xp.log1p(tail)
    p = xp.where(score >= 0.0, 1.0, tail) / (1.0 + tail)
    q = xp.where(score >= 0.0, tail, 1.0) / (1.0 + tail)
    minus_log_p = xp.minimum(xp.maximum(-score, 0.0) + log_tail, 1000.0)
    minus_log_q = xp.minimum(xp.maximum(score, 0.0) + log_tail, 1000.0)
    weight = (alpha * targets + (1.0 - alpha) * (1.0 - targets)) * xp.exp(-gamma * minus_log_q)
    return weight * p * (q * (1.0 + 2.0 * gamma) - gamma * minus_log_p * (q - gamma * p))


def focal_loss_with_logits(
    logits: ArrayT,
    targets: Array,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of −α_t (1 − p_t)^γ log p_t, with p_t = σ(s), s = (2t − 1) z.

    Args:
        logits: scores z, any shape.
        targets: t, 0 or 1, the same shape.
        gamma: γ ≥ 0, how strongly easy examples are damped; 0 is weighted binary cross-entropy.
        alpha: α_t = alpha for t = 1 and 1 − alpha for t = 0, in [0, 1].
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `logits` for reduction="none").

    Raises:
        ValueError: the shapes differ, a target is neither 0 nor 1, or an option lies outside its domain. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such a target gives NaN instead.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        σ(0) = ½: ¼ (1 − ½)² log 2 = log 2 / 16 = 0.043321…

        >>> import numpy as np
        >>> round(float(focal_loss_with_logits(np.array([0.0]), np.array([1]))), 6)
        0.043322

    Source:
        T.-Y. Lin et al., Focal Loss for Dense Object Detection, 2017. https://doi.org/10.1109/ICCV.2017.324
    """
    return _focal_with_logits.value(logits, targets, gamma, alpha, **reduction)


@gradient_of(focal_loss_with_logits, terms=_focal_with_logits, properties=("non_negative",))
def focal_loss_with_logits_gradient(
    logits: ArrayT,
    targets: Array,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(2t − 1) α_t q^γ (γ p_t log p_t − q) / n, with q = 1 − p_t = σ(−s): finite for every γ ≥ 0.

    Example:
        With γ = 0 and α = ½ it is half the gradient of the binary cross-entropy: ½ (½ − 1) = −¼.

        >>> import numpy as np
        >>> focal_loss_with_logits_gradient(np.array([0.0]), np.array([1]), gamma=0.0, alpha=0.5).tolist()
        [-0.25]
    """
    return _focal_with_logits.gradient(logits, targets, gamma, alpha, **reduction)
