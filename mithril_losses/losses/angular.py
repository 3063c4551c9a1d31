"""Angular margins: softmax over the angles between an embedding and the weights of all classes.

The logits of all rows and classes are computed one tile (a block of the matrix) at a time, in `templates.pairs`. The
logit of a row's own class is computed separately: its angle comes from the difference of the two unit vectors, which
loses no digits where they nearly coincide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import gradient_of
from mithril_losses.domains import POSITIVE, REAL, ClassIndices, Interval, PerClass
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import norm_and_unit
from mithril_losses.numerics.validation import as_dtype, require_one_number, widest_dtype
from mithril_losses.shards import resolve
from mithril_losses.templates.classes import Columns, read_labels
from mithril_losses.templates.pairs import PairRows, embeddings_of, row_losses, softmax_apart
from mithril_losses.templates.points import add_at, take
from mithril_losses.templates.split_rows import softmax_apart_of_part
from mithril_losses.templates.unreduced import Closed, Wanted, reduced

__all__ = ["arcface_loss", "arcface_loss_gradient", "cosface_loss", "cosface_loss_gradient"]

_ANGLE = Interval(0.0, math.pi, closed=True)
_COSINE = Interval(0.0, 2.0, closed=True)
_ROUNDING = 8.0  # unit vectors that differ by up to so many times the resolution count as parallel


class _Angle(NamedTuple):
    """The angle θ between unit vectors u and w, each (…, d). The angle of a zero vector to any other is π/2.

    Attributes:
        cosine: u · w.
        sine: sin θ ≥ 0.
        along_u: the unit vector −∂θ/∂u on the sphere; 0 where u and w are parallel up to rounding, or one of them is 0.
        along_w: −∂θ/∂w, likewise.
    """

    cosine: Array
    sine: Array
    along_u: Array
    along_w: Array

    @staticmethod
    def between(xp: Any, u: Array, w: Array) -> _Angle:
        apart = w - u  # exact where they nearly coincide
        sine, along_u = norm_and_unit(xp, apart - xp.sum(apart * u, axis=-1, keepdims=True) * u, 2.0)
        _, along_w = norm_and_unit(xp, xp.sum(apart * w, axis=-1, keepdims=True) * w - apart, 2.0)
        nothing = xp.all(u == 0.0, axis=-1) | xp.all(w == 0.0, axis=-1)
        parallel = nothing | (sine < _ROUNDING * float(xp.finfo(u.dtype).eps))
        along_u, along_w = (xp.where(xp.expand_dims(parallel, axis=-1), 0.0, x) for x in (along_u, along_w))
        return _Angle(xp.sum(u * w, axis=-1), xp.where(nothing, 1.0, sine), along_u, along_w)


# (namespace, angle, margin) → t, and −dt/dθ
Margin = Callable[[Any, _Angle, Any], tuple[Array, Array]]


def _additive_angle(xp: Any, angle: _Angle, margin: Any) -> tuple[Array, Array]:
    """t = cos(θ + m), and sin(θ + m), where θ < π − m; cos θ − m sin m, and sin θ, beyond."""
    cos_m, sin_m = (
        (math.cos(margin), math.sin(margin)) if isinstance(margin, float) else (xp.cos(margin), xp.sin(margin))
    )
    within = angle.cosine > -cos_m
    value = xp.where(within, angle.cosine * cos_m - angle.sine * sin_m, angle.cosine - margin * sin_m)
    return value, xp.where(within, angle.sine * cos_m + angle.cosine * sin_m, angle.sine)


def _additive_cosine(xp: Any, angle: _Angle, margin: Any) -> tuple[Array, Array]:
    """t = cos θ − m, and sin θ."""
    return angle.cosine - margin, angle.sine


def _checked(embeddings: Array, weight: Array, targets: Array) -> Any:
    """Check libraries, types and shapes, and return the namespace."""
    xp = array_namespace(embeddings=embeddings, weight=weight, targets=targets)
    widest_dtype(xp, embeddings=embeddings, weight=weight)
    shape = tuple(targets.shape)
    if len(weight.shape) != 2 or 0 in weight.shape or tuple(embeddings.shape) != (*shape, weight.shape[1]):
        raise ValueError(
            f"embeddings must have shape (…, features), weight (classes, features) and targets (…), got "
            f"{tuple(embeddings.shape)}, {tuple(weight.shape)} and {shape}"
        )
    return xp


def _check_values(embeddings: Array, weight: Array, targets: Array, **_: Any) -> None:
    """Raise for illegal labels, where their values can be read."""
    read_labels(_checked(embeddings, weight, targets), targets, weight.shape[0], None, may_ignore=False)


def _angular(
    embeddings: Array,
    weight: Array,
    targets: Array,
    margin: Any,
    scale: float,
    rule: Margin,
    reduction: Any,
    wanted: Wanted,
) -> Closed:
    """Return the reduced softmax cross-entropy of s t for the own class and s cos θ for the others, and gradients."""
    own = _checked(embeddings, weight, targets)
    dtype, shape, classes = (
        widest_dtype(own, embeddings=embeddings, weight=weight),
        tuple(targets.shape),
        weight.shape[0],
    )
    margin = require_one_number(own, "margin", margin, dtype)
    scale = require_one_number(own, "scale", scale, dtype)
    split, columns, mine = resolve(own, reduction.get("across")), None, None
    if split.classes is not None:
        facts = f"embeddings of {str(dtype).split('.')[-1]} in {shape} rows of {weight.shape[1]} features"
        columns = Columns.of(split.classes, classes, facts)
        reduction = {**reduction, "across": split.rows}
    total_classes = classes if columns is None else columns.total
    labels, _, illegal = read_labels(own, targets, total_classes, None, may_ignore=False)
    labels = as_dtype(own, own.minimum(own.maximum(labels, 0), total_classes - 1), own.arange(1).dtype)
    count = math.prod(shape)
    if columns is not None:
        labels, mine = columns.local(own, labels)
    given = {"embeddings": own.reshape(embeddings, (count, weight.shape[1])), "weight": weight}
    p = embeddings_of(
        reduction, bool(wanted), True, apart=True, shape=shape, numbers=(margin, scale, labels), dtype=dtype, **given
    )
    xp, margin, scale = p.xp, p.sets.bring(margin), p.sets.bring(scale)
    target = p.sets.bring(own.reshape(labels, (1, count)))
    angle = _Angle.between(xp, p.x, take(xp, p.y, target))
    value, speed = rule(xp, angle, margin)
    if illegal is not None:
        if p.plan.weights is not None:
            illegal = illegal & (p.plan.weights != 0)
        value = xp.where(p.sets.bring(own.reshape(illegal, (1, count))), math.nan, value)
    rows = PairRows(target=target, own=scale * value, scale=p.scale)
    if columns is None:
        found = row_losses(xp, scale * p.x, p.y, softmax_apart, rows)
    else:
        is_mine = p.sets.bring(own.reshape(mine, (1, count)))
        found = softmax_apart_of_part(xp, columns, scale * p.x, p.y, rows, is_mine)
    total = p.value(found.losses, embeddings)
    if not wanted:
        return total, {}
    speed = scale * xp.expand_dims(found.extra * speed, axis=-1)
    by_x = scale * found.by_x + speed * angle.along_u
    by_y = p.shared(found.by_y + add_at(xp, target, speed * angle.along_w, classes))
    by_x = by_x if split.classes is None else split.classes.sum(by_x)
    back = dict(zip(given, p.back(by_x, by_y), strict=True))
    return total, p.sets.gradients(back, {"embeddings": embeddings, "weight": weight})


def _kinks(embeddings: Array, weight: Array, targets: Array, margin: Any = None) -> tuple[Array, ...]:
    """Return what vanishes at zero vectors and, for an additive angle, at θ = π − m of the own class."""
    xp = _checked(embeddings, weight, targets)
    dtype = widest_dtype(xp, embeddings=embeddings, weight=weight)
    norms, units = zip(*(norm_and_unit(xp, as_dtype(xp, x, dtype), 2.0) for x in (embeddings, weight)), strict=True)
    if margin is None:
        return norms
    own = xp.take(units[1], xp.reshape(targets, (math.prod(targets.shape),)), axis=0)
    angle = _Angle.between(xp, units[0], xp.reshape(own, tuple(embeddings.shape)))
    return (*norms, angle.sine, angle.cosine + math.cos(margin))


# --- ArcFace ----------------------------------------------------------------------------------------------------------


@reduced(
    splits=("rows", "classes"),
    check=_check_values,
    wrt=("embeddings", "weight"),
    kinks=lambda embeddings, weight, targets, margin, scale: _kinks(embeddings, weight, targets, margin),
    pairwise=True,
    embeddings=REAL,
    weight=PerClass(),
    targets=ClassIndices(),
    margin=_ANGLE,
    scale=POSITIVE,
)
def _arcface(
    embeddings: Array,
    weight: Array,
    targets: Array,
    margin: float,
    scale: float,
    reduction: Any,
    wanted: Wanted,
) -> Closed:
    return _angular(embeddings, weight, targets, margin, scale, _additive_angle, reduction, wanted)


def arcface_loss(
    embeddings: ArrayT,
    weight: ArrayT,
    targets: Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of −log softmax(z)_y, z_y = s cos(θ_y + m) and z_c = s cos θ_c, θ_c = ∠(x, w_c), x = embeddings.

    If θ_y ≥ π − m, the angle with the margin would exceed π and the logit would rise again. There the logit is
    s (cos θ_y − m sin m) instead, as in the authors' code, so that it falls on both sides of π − m. At that angle the
    logit jumps down for m < 2.33, up for larger margins. Logits are computed in tiles: memory grows with the number of
    rows and of classes, not with their product.

    Args:
        embeddings: x, any shape with the D features last; rows are the other axes. Only their direction counts.
        weight: w, shape (C, D): one row per class. Only its direction counts. The angle of a zero vector to any other
            is π/2.
        targets: y, class indices (integers, the shape of `embeddings` without its last axis).
        margin: m in [0, π], in radians.
        scale: s > 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or an option outside its domain. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the row of such a label becomes NaN instead.
        TypeError: embeddings or weight are not floating point, or targets are not integers.

    Example:
        θ = 0 for the own class and π/2 for the other; cos(0 + π/3) = ½ against 0, s = 2 log 3: −log ¾.

        >>> import numpy as np
        >>> x, w = np.array([[2.0, 0.0]]), np.eye(2)
        >>> round(float(arcface_loss(x, w, np.array([0]), margin=np.pi / 3, scale=2 * np.log(3.0))), 6)
        0.287682

    Source:
        J. Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, 2019.
        https://doi.org/10.1109/CVPR.2019.00482
    """
    return _arcface.value(embeddings, weight, targets, margin, scale, **reduction)


@gradient_of(
    arcface_loss,
    terms=_arcface,
    properties=("non_negative", "scale_invariant"),
)
def arcface_loss_gradient(
    embeddings: ArrayT,
    weight: ArrayT,
    targets: Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """s J Σ_c G_c k_c ŵ_c and s J Σ G_c k_c x̂ over rows, G = (softmax(z) − [c = y]) / n, k_y = sin(θ_y + m) / sin θ_y.

    k_c = 1 for the other classes, and k_y = 1 if θ_y ≥ π − m. J = (I − x̂ x̂ᵀ) / ‖x‖, and likewise for w. If θ_y = 0 up
    to rounding, the own class contributes 0. Zero vectors have the gradient 0.

    Example:
        θ = π/2 for the own class, 0 for the other, m = 0: softmax(0, log 3) = (¼, ¾), so −¾ s towards w_y, across x.

        >>> import numpy as np
        >>> x, w = np.array([[0.0, 2.0]]), np.eye(2)
        >>> gradients = arcface_loss_gradient(x, w, np.array([0]), margin=0.0, scale=np.log(3.0))
        >>> (gradients["embeddings"] / np.log(3.0)).round(12).tolist()
        [[-0.375, 0.0]]
    """
    return _arcface.gradient(embeddings, weight, targets, margin, scale, **reduction)


# --- CosFace ----------------------------------------------------------------------------------------------------------


@reduced(
    splits=("rows", "classes"),
    check=_check_values,
    wrt=("embeddings", "weight"),
    kinks=lambda embeddings, weight, targets, margin, scale: _kinks(embeddings, weight, targets),
    pairwise=True,
    embeddings=REAL,
    weight=PerClass(),
    targets=ClassIndices(),
    margin=_COSINE,
    scale=POSITIVE,
)
def _cosface(
    embeddings: Array,
    weight: Array,
    targets: Array,
    margin: float,
    scale: float,
    reduction: Any,
    wanted: Wanted,
) -> Closed:
    return _angular(embeddings, weight, targets, margin, scale, _additive_cosine, reduction, wanted)


def cosface_loss(
    embeddings: ArrayT,
    weight: ArrayT,
    targets: Array,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of −log softmax(z)_y, z_y = s (cos θ_y − m) and z_c = s cos θ_c, θ_c = ∠(x, w_c), x = embeddings.

    Logits are computed in tiles: memory grows with the number of rows and of classes, not with their product.

    Args:
        embeddings: x, any shape with the D features last; rows are the other axes. Only their direction counts.
        weight: w, shape (C, D): one row per class. Only its direction counts. The angle of a zero vector to any other
            is π/2.
        targets: y, class indices (integers, the shape of `embeddings` without its last axis).
        margin: m in [0, 2], in units of the cosine.
        scale: s > 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a label lies outside the classes, or an option outside its domain. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the row of such a label becomes NaN instead.
        TypeError: embeddings or weight are not floating point, or targets are not integers.

    Example:
        cos θ = 1 for the own class and 0 for the other; 1 − ½ against 0, s = 2 log 3: −log ¾.

        >>> import numpy as np
        >>> x, w = np.array([[2.0, 0.0]]), np.eye(2)
        >>> round(float(cosface_loss(x, w, np.array([0]), margin=0.5, scale=2 * np.log(3.0))), 6)
        0.287682

    Source:
        H. Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, 2018.
        https://doi.org/10.1109/CVPR.2018.00552
    """
    return _cosface.value(embeddings, weight, targets, margin, scale, **reduction)


@gradient_of(
    cosface_loss,
    terms=_cosface,
    properties=("non_negative", "scale_invariant"),
)
def cosface_loss_gradient(
    embeddings: ArrayT,
    weight: ArrayT,
    targets: Array,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """s J Σ_c G_c ŵ_c and s J Σ G_c x̂ over rows, with G = (softmax(z) − [c = y]) / n.

    J = (I − x̂ x̂ᵀ) / ‖x‖, and likewise for w. Zero vectors have the gradient 0.

    Example:
        Cosines 1 and 0, s = 2 log 3: softmax = (¾, ¼), so ¼ s towards the other class, across x.

        >>> import numpy as np
        >>> x, w = np.array([[2.0, 0.0]]), np.eye(2)
        >>> gradients = cosface_loss_gradient(x, w, np.array([0]), margin=0.5, scale=2 * np.log(3.0))
        >>> (gradients["embeddings"] / np.log(3.0)).round(12).tolist()
        [[0.0, 0.25]]
    """
    return _cosface.gradient(embeddings, weight, targets, margin, scale, **reduction)
