"""Metric learning: losses on distances between embeddings, features on the last axis."""

from __future__ import annotations

from typing import Any, Unpack

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import both_of, gradient_of
from mithril_losses.domains import FLAG, NON_NEGATIVE, POSITIVE, REAL, Interval, Labels
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import norm_and_unit, product, unit_and_norm
from mithril_losses.numerics.validation import as_dtype, require_same_shape, widest_dtype
from mithril_losses.templates.loop import Loop
from mithril_losses.templates.unreduced import Losses, Wanted, unreduced
from mithril_losses.templates.vectors import VectorTerms, cosine_distance

__all__ = [
    "contrastive_loss",
    "contrastive_loss_gradient",
    "contrastive_loss_value_and_gradient",
    "cosine_embedding_loss",
    "cosine_embedding_loss_gradient",
    "triplet_loss",
    "triplet_loss_gradient",
    "triplet_loss_value_and_gradient",
]

_NORM_ORDER = Interval(1.0, closed=True, infinite=True, static=True)
_SAME = Labels((0, 1), per_row=True, instead="for labels −1 and +1, pass (labels + 1) / 2")
_SIGN = Labels((-1, 1), per_row=True, instead="for labels 0 and 1, pass 2 * labels - 1")
_COSINE = Interval(-1.0, 1.0, closed=True)


def _checked(**embeddings: Array) -> tuple[Any, dict[str, Array]]:
    """Check libraries, types and shapes; return the namespace, and the embeddings in the dtype to compute in."""
    xp = array_namespace(**embeddings)
    require_same_shape(**embeddings)
    if len(next(iter(embeddings.values())).shape) == 0:
        raise ValueError("embeddings need a feature axis, got scalars")
    dtype = widest_dtype(xp, **embeddings)
    return xp, {name: as_dtype(xp, x, dtype) for name, x in embeddings.items()}


def _checked_pair(
    embedding1: Array, embedding2: Array, labels: Array, domain: Labels
) -> tuple[Any, dict[str, Array], Array]:
    """Return the result of `_checked`, and the labels of the rows in the dtype of the embeddings: NaN if illegal."""
    xp, embeddings = _checked(embedding1=embedding1, embedding2=embedding2)
    array_namespace(embedding1=embedding1, labels=labels)
    shape, dtype = tuple(embedding1.shape[:-1]), embeddings["embedding1"].dtype
    if tuple(labels.shape) != shape:
        raise ValueError(f"labels must have one entry per row, shape {shape}, got {tuple(labels.shape)}")
    domain.check("labels", labels)
    return xp, embeddings, domain.or_nan(xp, as_dtype(xp, labels, dtype, "labels"))


# --- triplet ----------------------------------------------------------------------------------------------------


def _triplet_terms(xp: Any, near: Array, far: Array, margin: Array, squared: bool) -> tuple[Array, tuple[Array, Array]]:
    """max(0, d(a, p) − d(a, n) + m) of the two distances."""
    near_slope, far_slope = 0.0 * near + 1.0, 0.0 * far + 1.0
    if squared:
        near_slope, far_slope = 2.0 * near, 2.0 * far
        near, far = near * near, far * far
    violation = near - far + margin
    active = violation > 0.0
    return xp.maximum(violation, 0.0), (xp.where(active, near_slope, 0.0), xp.where(active, -far_slope, 0.0))


def _swapped_terms(
    xp: Any, near: Array, far: Array, other: Array, margin: Array, squared: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The same with the smaller of the two far distances, which is d(p, n) where d(p, n) < d(a, n)."""
    swapped = other < far
    value, (near_slope, far_slope) = _triplet_terms(xp, near, xp.where(swapped, other, far), margin, squared)
    return value, (near_slope, xp.where(swapped, 0.0, far_slope), xp.where(swapped, far_slope, 0.0))


def _triplet_curvature(xp: Any, near: Array, far: Array, margin: Array, squared: bool) -> tuple[Array, Array]:
    value, _ = _triplet_terms(xp, near, far, margin, squared)
    second = xp.where(value > 0.0, 2.0 if squared else 0.0, 0.0 * value)
    return second, -second


def _swapped_curvature(
    xp: Any, near: Array, far: Array, other: Array, margin: Array, squared: bool
) -> tuple[Array, Array, Array]:
    is_other = far > other
    of_near, of_far = _triplet_curvature(xp, near, xp.where(is_other, other, far), margin, squared)
    return of_near, xp.where(is_other, 0.0, of_far), xp.where(is_other, of_far, 0.0)


_TRIPLET = VectorTerms(_triplet_terms, pairs=((0, 1), (0, 2)), curvature=_triplet_curvature)
_SWAPPED = VectorTerms(_swapped_terms, pairs=((0, 1), (0, 2), (1, 2)), curvature=_swapped_curvature)


def _triplet_kinks(
    anchor: Array, positive: Array, negative: Array, margin: float, p: float, squared: bool, swap: bool
) -> tuple[Array, ...]:
    """Return what vanishes at the corner, at coincident points and at a tie of the two far distances."""
    xp, embeddings = _checked(anchor=anchor, positive=positive, negative=negative)
    a, b, c = embeddings.values()
    near, far, other = (norm_and_unit(xp, x, p)[0] ** (2 if squared else 1) for x in (a - b, a - c, b - c))
    violation = near - (xp.minimum(far, other) if swap else far) + margin
    ties = (other - far,) if swap else ()
    # for p = 1 there is a kink wherever two embeddings agree in one coordinate
    coordinates = (a - b, a - c, b - c) if p == 1 else ()
    return (violation, near, far, other, *ties, *coordinates)


def _triplet_rows(
    anchor: Any, positive: Any, negative: Any, margin: float, p: float, squared: bool, swap: bool
) -> Loop | None:
    """Check the arguments and return the loop over rows of NumPy arrays; None for other norms."""
    _checked(anchor=anchor, positive=positive, negative=negative)
    terms = _SWAPPED if swap else _TRIPLET
    return terms.fused((anchor, positive, negative), (), (margin, squared)) if p == 2.0 else None


@unreduced(
    curved=True,
    loop=_triplet_rows,
    wrt=("anchor", "positive", "negative"),
    kinks=_triplet_kinks,
    anchor=REAL,
    positive=REAL,
    negative=REAL,
    margin=NON_NEGATIVE,
    p=_NORM_ORDER,
    squared=FLAG,
    swap=FLAG,
)
def _triplet(
    anchor: Array,
    positive: Array,
    negative: Array,
    margin: float,
    p: float,
    squared: bool,
    swap: bool,
    wanted: Wanted,
) -> Losses:
    xp, embeddings = _checked(anchor=anchor, positive=positive, negative=negative)
    return (_SWAPPED if swap else _TRIPLET).losses(xp, embeddings, margin, squared, p=p)


def triplet_loss(
    anchor: ArrayT,
    positive: ArrayT,
    negative: ArrayT,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    squared: bool = False,
    swap: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of max(0, d(a, p) − d(a, n) + m), with d(x, y) = ‖x − y‖ₚ.

    Args:
        anchor: a, embeddings of any shape with the features last; rows are the other axes.
        positive: embeddings of the same classes as the anchors, the same shape.
        negative: embeddings of other classes, the same shape.
        margin: m ≥ 0, in the unit of the distance.
        p: order of the norm, ≥ 1; for infinity the norm is the largest absolute value.
        squared: use d² in place of d.
        swap: use the smaller of d(a, n) and d(p, n) in place of d(a, n).
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes differ, an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        d(a, p) = 5 and d(a, n) = 1: max(0, 5 − 1 + 1) = 5.

        >>> import numpy as np
        >>> a, p, n = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])
        >>> float(triplet_loss(a, p, n))
        5.0

    Source:
        F. Schroff et al., FaceNet: A Unified Embedding for Face Recognition and Clustering, 2015, which has embeddings
        of length 1 and squared distances. https://doi.org/10.1109/CVPR.2015.7298682. Swap: V. Balntas et al., Learning
        Local Feature Descriptors with Triplets and Shallow Convolutional Neural Networks, 2016.
        https://doi.org/10.5244/C.30.119
    """
    return _triplet.value(anchor, positive, negative, margin, p, squared, swap, **reduction)


@gradient_of(triplet_loss, terms=_triplet, properties=("non_negative", "translation_invariant"))
def triplet_loss_gradient(
    anchor: ArrayT,
    positive: ArrayT,
    negative: ArrayT,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    squared: bool = False,
    swap: bool = False,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """anchor: (u⁺ − u⁻) / B, positive: −u⁺ / B, negative: u⁻ / B, with u = ∂d/∂(x − y), where the loss is positive.

    The gradient is 0 where the loss is 0, the corner included; u is 0 at coincident points. With `swap`, d(a, n) is
    used if it equals d(p, n).

    Example:
        u⁺ = (−3, −4) / 5 and u⁻ = (0, −1).

        >>> import numpy as np
        >>> a, p, n = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])
        >>> gradients = triplet_loss_gradient(a, p, n)
        >>> {name: gradient.round(12).tolist() for name, gradient in gradients.items()}
        {'anchor': [[-0.6, 0.2]], 'positive': [[0.6, 0.8]], 'negative': [[0.0, -1.0]]}
    """
    return _triplet.gradient(anchor, positive, negative, margin, p, squared, swap, **reduction)


triplet_loss_value_and_gradient = both_of(triplet_loss_gradient)


# --- contrastive ------------------------------------------------------------------------------------------------


def _contrastive_terms(xp: Any, distance: Array, same: Array, margin: Array) -> tuple[Array, tuple[Array]]:
    """y d² + (1 − y) max(0, m − d)²."""
    short = xp.maximum(margin - distance, 0.0)
    value = product(xp, same, distance * distance) + product(xp, 1.0 - same, short * short)
    return value, (2.0 * (product(xp, same, distance) - (1.0 - same) * short),)


def _contrastive_curvature(xp: Any, distance: Array, same: Array, margin: Array) -> tuple[Array]:
    return (2.0 * (same + xp.where(distance < margin, 1.0 - same, 0.0)),)


_CONTRASTIVE = VectorTerms(_contrastive_terms, pairs=((0, 1),), curvature=_contrastive_curvature)


def _contrastive_kinks(embedding1: Array, embedding2: Array, labels: Array, margin: float) -> tuple[Array, ...]:
    """Return what vanishes at the corner and at coincident points."""
    xp, embeddings = _checked(embedding1=embedding1, embedding2=embedding2)
    a, b = embeddings.values()
    distance, _ = norm_and_unit(xp, a - b, 2.0)
    return margin - distance, distance


def _contrastive_rows(embedding1: Any, embedding2: Any, labels: Any, margin: float) -> Loop | None:
    _checked_pair(embedding1, embedding2, labels, _SAME)
    return _CONTRASTIVE.fused((embedding1, embedding2), (labels,), (margin,))


@unreduced(
    curved=True,
    loop=_contrastive_rows,
    wrt=("embedding1", "embedding2"),
    kinks=_contrastive_kinks,
    embedding1=REAL,
    embedding2=REAL,
    labels=_SAME,
    margin=POSITIVE,
)
def _contrastive(embedding1: Array, embedding2: Array, labels: Array, margin: float, wanted: Wanted) -> Losses:
    xp, embeddings, labels = _checked_pair(embedding1, embedding2, labels, _SAME)
    return _CONTRASTIVE.losses(xp, embeddings, labels, margin)


def contrastive_loss(
    embedding1: ArrayT,
    embedding2: ArrayT,
    labels: Array,
    *,
    margin: float = 1.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of y d² + (1 − y) max(0, m − d)², with d = ‖x₁ − x₂‖₂ and y = 1 for the same class.

    Args:
        embedding1: x₁, embeddings of any shape with the features last; rows are the other axes.
        embedding2: x₂, the same shape.
        labels: y, one per row: 1 for a pair of the same class, 0 for different ones.
        margin: m > 0, in the unit of the distance.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a label is neither 0 nor 1, or margin is not positive. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the row of such a label becomes NaN instead.
        TypeError: an argument is not an array, or the embeddings are not floating point.

    Example:
        d = 5 for the same class: 25; d = ½ for different ones: (1 − ½)² = ¼; their mean is 12.625.

        >>> import numpy as np
        >>> x1, x2 = np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.5]])
        >>> float(contrastive_loss(x1, x2, np.array([1, 0])))
        12.625

    Source:
        R. Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, 2006, which has half of each term
        and y = 0 for the same class. https://doi.org/10.1109/CVPR.2006.100
    """
    return _contrastive.value(embedding1, embedding2, labels, margin, **reduction)


@gradient_of(
    contrastive_loss,
    terms=_contrastive,
    properties=("non_negative", "symmetric", "translation_invariant"),
)
def contrastive_loss_gradient(
    embedding1: ArrayT,
    embedding2: ArrayT,
    labels: Array,
    *,
    margin: float = 1.0,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """embedding1: (2 y (x₁ − x₂) − 2 (1 − y) max(0, m − d) u) / B, embedding2: its negative; u = (x₁ − x₂) / d.

    u is 0 at coincident points.

    Example:
        >>> import numpy as np
        >>> x1, x2 = np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.5]])
        >>> (contrastive_loss_gradient(x1, x2, np.array([1, 0]))["embedding1"] + 0.0).tolist()
        [[-3.0, -4.0], [0.0, 0.5]]
    """
    return _contrastive.gradient(embedding1, embedding2, labels, margin, **reduction)


contrastive_loss_value_and_gradient = both_of(contrastive_loss_gradient)


# --- cosine embedding -------------------------------------------------------------------------------------------


def _cosine_terms(xp: Any, far: Array, same: Array, margin: Array) -> tuple[Array, tuple[Array]]:
    """1 − c for the label 1, max(0, c − m) for −1, and NaN for an illegal label, which is NaN; c = 1 − far."""
    near = 1.0 - far - margin
    value = xp.where(same > 0.0, far, xp.maximum(near, 0.0))
    slope = xp.where(same > 0.0, 1.0, xp.where(near > 0.0, -1.0, 0.0 * far))
    return xp.where(same == same, value, same), (xp.where(same == same, slope, same),)


def _cosine_curvature(xp: Any, far: Array, same: Array, margin: Array) -> tuple[Array]:
    return (0.0 * far,)


_COSINE_EMBEDDING = VectorTerms(_cosine_terms, pairs=((0, 1),), measure=cosine_distance, curvature=_cosine_curvature)


def _cosine_kinks(embedding1: Array, embedding2: Array, labels: Array, margin: float) -> tuple[Array, ...]:
    """Return what vanishes at the corner and at zero vectors."""
    xp, embeddings = _checked(embedding1=embedding1, embedding2=embedding2)
    a, b = embeddings.values()
    (u, u_norm), (v, v_norm) = unit_and_norm(xp, a), unit_and_norm(xp, b)
    return xp.sum(u * v, axis=-1) - margin, xp.squeeze(u_norm, axis=-1), xp.squeeze(v_norm, axis=-1)


def _cosine_rows(embedding1: Any, embedding2: Any, labels: Any, margin: float) -> Loop | None:
    _checked_pair(embedding1, embedding2, labels, _SIGN)
    return _COSINE_EMBEDDING.fused((embedding1, embedding2), (labels,), (margin,))


@unreduced(
    curved=True,
    loop=_cosine_rows,
    wrt=("embedding1", "embedding2"),
    kinks=_cosine_kinks,
    embedding1=REAL,
    embedding2=REAL,
    labels=_SIGN,
    margin=_COSINE,
)
def _cosine_embedding(embedding1: Array, embedding2: Array, labels: Array, margin: float, wanted: Wanted) -> Losses:
    xp, embeddings, labels = _checked_pair(embedding1, embedding2, labels, _SIGN)
    return _COSINE_EMBEDDING.losses(xp, embeddings, labels, margin)


def cosine_embedding_loss(
    embedding1: ArrayT,
    embedding2: ArrayT,
    labels: Array,
    *,
    margin: float = 0.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of 1 − c for the label 1 and max(0, c − m) for −1, with c = x₁·x₂ / (‖x₁‖ ‖x₂‖).

    Args:
        embedding1: x₁, embeddings of any shape with the features last; rows are the other axes.
        embedding2: x₂, the same shape.
        labels: one per row: 1 for a pair that belongs together, −1 for one that does not.
        margin: m in [−1, 1], the cosine up to which a pair that does not belong together costs nothing.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one loss per row for reduction="none"). A zero vector has the cosine 0 with everything.

    Raises:
        ValueError: the shapes do not fit, a label is neither 1 nor −1, or margin lies outside [−1, 1]. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, the row of such a label becomes NaN instead.
        TypeError: an argument is not an array, or the embeddings are not floating point.

    Example:
        c = 3/5 twice: 1 − 3/5 = 0.4 and 3/5 − 0.1 = 0.5.

        >>> import numpy as np
        >>> x1, x2 = np.array([[3.0, 4.0], [3.0, 4.0]]), np.array([[2.0, 0.0], [2.0, 0.0]])
        >>> losses = cosine_embedding_loss(x1, x2, np.array([1, -1]), margin=0.1, reduction="none")
        >>> losses.round(12).tolist()
        [0.4, 0.5]

    Source:
        As defined by PyTorch's CosineEmbeddingLoss, 2017,
        https://docs.pytorch.org/docs/stable/generated/torch.nn.CosineEmbeddingLoss.html; the idea: J. Bromley et al.,
        Signature Verification Using a Siamese Time Delay Neural Network, 1993.
        https://doi.org/10.1142/S0218001493000339
    """
    return _cosine_embedding.value(embedding1, embedding2, labels, margin, **reduction)


@gradient_of(
    cosine_embedding_loss,
    terms=_cosine_embedding,
    properties=("non_negative", "scale_invariant", "symmetric"),
)
def cosine_embedding_loss_gradient(
    embedding1: ArrayT,
    embedding2: ArrayT,
    labels: Array,
    *,
    margin: float = 0.0,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """embedding1: k (x̂₂ − c x̂₁) / (‖x₁‖ B), embedding2: k (x̂₁ − c x̂₂) / (‖x₂‖ B), k = −1 for y = 1, [c > m] for −1.

    y is the label. If a vector of a pair is zero, both gradients of the pair are 0.

    Example:
        x̂₁ = (3/5, 4/5) and x̂₂ = (1, 0): −(1 − 9/25, −12/25) / 5.

        >>> import numpy as np
        >>> x1, x2 = np.array([[3.0, 4.0]]), np.array([[2.0, 0.0]])
        >>> gradients = cosine_embedding_loss_gradient(x1, x2, np.array([1]))
        >>> {name: (gradient.round(12) + 0.0).tolist() for name, gradient in gradients.items()}
        {'embedding1': [[-0.128, 0.096]], 'embedding2': [[0.0, -0.4]]}
    """
    return _cosine_embedding.gradient(embedding1, embedding2, labels, margin, **reduction)
