"""Contrastive losses: each embedding must find its own partner among all the embeddings of a batch.

A batch has one logit for each pair, n × m numbers. They are computed one tile (a block of the n × m matrix) at a time,
in `templates.pairs`. Every row of a loss depends on the embeddings of all other rows, so the gradients of micro-batches
do not add up to the gradient of the batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Unpack

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace, is_dtype
from mithril_losses.catalogue import given, gradient_of
from mithril_losses.domains import FLAG, POSITIVE, OneNumber, PointLabels, PointSets
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import bounded
from mithril_losses.numerics.validation import require_one_number, require_same_shape, widest_dtype
from mithril_losses.templates.pairs import (
    Embeddings,
    PairColumns,
    PairRows,
    embeddings_of,
    sigmoid,
    softmax,
    softmax_both_ways,
    softmax_by_label,
)
from mithril_losses.templates.ring import pair_losses
from mithril_losses.templates.unreduced import Closed, Wanted, reduced

__all__ = [
    "clip_loss",
    "clip_loss_gradient",
    "info_nce_loss",
    "info_nce_loss_gradient",
    "n_pair_loss",
    "n_pair_loss_gradient",
    "nt_xent_loss",
    "nt_xent_loss_gradient",
    "siglip_loss",
    "siglip_loss_gradient",
    "supervised_contrastive_loss",
    "supervised_contrastive_loss_gradient",
]

_SET = PointSets(4, 5)
_NUMBER = OneNumber()


def _inverse_temperature(temperature: Any, **embeddings: Array) -> Any:
    xp = array_namespace(**embeddings)
    return 1.0 / require_one_number(xp, "temperature", temperature, widest_dtype(xp, **embeddings))


class _Scale(NamedTuple):
    """The factor of the cosines, split into a part whose products stay finite, and the rest of the factor.

    Where the factor is so large that it must be split, a loss is 0 or proportional to it. The rest is None if nothing
    had to be split off, and otherwise at most the largest number of the dtype.
    """

    used: Any
    rest: Any = None

    @staticmethod
    def of(xp: Any, factor: Any, like: Array) -> _Scale:
        """Return the scale for a factor: a number, or an array of one number."""
        limit = float(xp.finfo(like.dtype).max) / 8.0
        if isinstance(factor, float):
            return _Scale(factor) if not factor > limit else _Scale(limit, min(factor / limit, limit))
        return _Scale(xp.minimum(factor, limit), xp.minimum(xp.maximum(factor, limit) / limit, limit))

    @staticmethod
    def of_logarithm(xp: Any, s: Any, like: Array) -> _Scale:
        """Return the scale e^s for a number, or for an array of one number, wrt which it can be differentiated."""
        limit = math.log(float(xp.finfo(like.dtype).max) / 8.0)
        if isinstance(s, float):
            return _Scale(math.exp(s)) if not s > limit else _Scale(math.exp(limit), math.exp(min(s - limit, limit)))
        rest = xp.minimum(xp.maximum(s, limit) - limit, limit)
        return _Scale(xp.exp(xp.minimum(s, limit)), xp.exp(rest))

    def losses(self, xp: Any, losses: Array) -> Array:
        """Return the losses for the whole factor, given those for the part that is used."""
        return losses if self.rest is None else xp.where(losses > _PROPORTIONAL, losses * self.rest, losses)

    def slopes(self, xp: Any, slopes: Array) -> Array:
        """Return the derivatives for the whole factor, given those for the part that is used."""
        return slopes if self.rest is None else bounded(xp, slopes * self.rest, slopes.dtype)


_PROPORTIONAL = 1e20  # a loss above this equals a difference of cosines times the factor, to all digits


# --- one of many: InfoNCE and N-pair ----------------------------------------------------------------------------------


def _one_of_many(
    names: tuple[str, str],
    rows: Array,
    points: Array,
    sharpness: Any,
    normalize: bool,
    reduction: Any,
    wanted: Wanted,
) -> Closed:
    """Return the reduced softmax cross-entropy of sharpness · x_i · y_j, and its gradients by name."""
    given = dict(zip(names, (rows, points), strict=True))
    p = embeddings_of(reduction, bool(wanted), normalize, apart=True, numbers=(sharpness,), **given)
    xp, scale = p.xp, _Scale.of(p.xp, p.sets.bring(sharpness), p.x)
    n, m = p.x.shape[1], p.y.shape[1]
    if m < n:
        raise ValueError(f"{names[1]} must hold a partner for each of the {n} rows of {names[0]}, got {m}")
    found = pair_losses(p, scale.used * p.x, p.y, softmax, PairRows(target=p.places(n), scale=p.scale))
    value = p.value(scale.losses(xp, found.losses), rows)
    if not wanted:
        return value, {}
    back = [scale.slopes(xp, x) for x in p.back(scale.used * found.by_x, found.by_y)]
    return value, p.sets.gradients(dict(zip(names, back, strict=True)), given)


@reduced(
    splits=("rows",),
    wrt=("queries", "keys"),
    pairwise=True,
    queries=PointSets(3, 5),
    keys=PointSets(4, 5),
    temperature=POSITIVE,
    normalize=FLAG,
)
def _info_nce(
    queries: Array, keys: Array, temperature: float, normalize: bool, reduction: Any, wanted: Wanted
) -> Closed:
    sharpness = _inverse_temperature(temperature, queries=queries, keys=keys)
    return _one_of_many(("queries", "keys"), queries, keys, sharpness, normalize, reduction, wanted)


def info_nce_loss(
    queries: ArrayT,
    keys: ArrayT,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of −log (e^(q_i·k_i/τ) / Σ_j e^(q_i·k_j/τ)), q and k divided by their norms.

    Key i belongs to query i; the other keys are negatives. Pairs are computed in tiles: memory grows with the number of
    embeddings, not with its square.

    Args:
        queries: q, (…, n, d); any leading axes are a batch of independent sets.
        keys: k, (…, m, d) with m ≥ n: the keys from index n on are negatives for every query (a memory bank).
        temperature: τ > 0.
        normalize: divide each embedding by its Euclidean norm, so that products are cosines. A zero vector stays 0 and
            gets the gradient 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per query, (…, n).

    Returns:
        A scalar (one loss per query for reduction="none").

    Raises:
        ValueError: the shapes do not fit, there are fewer keys than queries, τ is not positive, or a reduction keyword
            does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        The products of the first query are 1 and 0, those of the second 0 and 1: log(1 + e^(−1/τ)), τ = 1 / log 3.

        >>> import numpy as np
        >>> q, k = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 5.0]])
        >>> loss = info_nce_loss(q, k, temperature=1 / np.log(3.0))
        >>> round(float(loss), 6), round(float(np.log(4 / 3)), 6)
        (0.287682, 0.287682)

    Source:
        A. van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018.
        https://arxiv.org/abs/1807.03748. With keys of a memory bank: K. He et al., Momentum Contrast for
        Unsupervised Visual Representation Learning, 2020. https://doi.org/10.1109/CVPR42600.2020.00975
    """
    return _info_nce.value(queries, keys, temperature, normalize, **reduction)


@gradient_of(
    info_nce_loss,
    terms=_info_nce,
    properties=("non_negative", given("scale_invariant", normalize=True)),
)
def info_nce_loss_gradient(
    queries: ArrayT,
    keys: ArrayT,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """queries: J G k̂ / τ, keys: J Gᵀ q̂ / τ, with G_ij = (softmax_j(q̂_i·k̂_j/τ) − [i = j]) / n, J = (I − x̂ x̂ᵀ) / ‖x‖.

    n counts the queries of all sets.

    Example:
        softmax(0, log 3) = (¼, ¾), so G = ((−¾, ¾), (¼, −¼)) / 2.

        >>> import numpy as np
        >>> q, k = np.array([[0.0, np.log(3.0)], [0.0, np.log(3.0)]]), np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> info_nce_loss_gradient(q, k, temperature=1.0, normalize=False)["queries"].round(12).tolist()
        [[-0.375, 0.375], [0.125, -0.125]]
    """
    return _info_nce.gradient(queries, keys, temperature, normalize, **reduction)


@reduced(splits=("rows",), wrt=("anchor", "positive"), pairwise=True, anchor=_SET, positive=_SET)
def _n_pair(anchor: Array, positive: Array, reduction: Any, wanted: Wanted) -> Closed:
    array_namespace(anchor=anchor, positive=positive)
    require_same_shape(anchor=anchor, positive=positive)
    return _one_of_many(("anchor", "positive"), anchor, positive, 1.0, False, reduction, wanted)


def n_pair_loss(anchor: ArrayT, positive: ArrayT, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over rows of log(1 + Σ_{j≠i} e^(a_i·p_j − a_i·p_i)), a = anchor, p = positive.

    The embeddings are not normalized: keep them short by an L2 regularization, as the paper does. Pairs are computed in
    tiles.

    Args:
        anchor: a, (…, n, d); any leading axes are a batch of independent sets.
        positive: p, the same shape: p_i belongs to a_i, and is a negative for every other anchor.
        **reduction: see `reduce_loss`; the unreduced losses are one per anchor, (…, n).

    Returns:
        A scalar (one loss per anchor for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        a_i·p_i = log 3 and a_i·p_j = 0: log(1 + 1/3).

        >>> import numpy as np
        >>> a, p = np.log(3.0) * np.eye(2), np.eye(2)
        >>> round(float(n_pair_loss(a, p)), 6)
        0.287682

    Source:
        K. Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, 2016.
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
    """
    return _n_pair.value(anchor, positive, **reduction)


@gradient_of(
    n_pair_loss,
    terms=_n_pair,
    properties=("non_negative",),
)
def n_pair_loss_gradient(
    anchor: ArrayT, positive: ArrayT, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """anchor: G p, positive: Gᵀ a, with G_ij = (softmax_j(a_i·p_j) − [i = j]) / n.

    n counts the anchors of all sets.

    Example:
        softmax(log 3, 0) = (¾, ¼), so G = ((−¼, ¼), (¼, −¼)) / 2.

        >>> import numpy as np
        >>> a, p = np.log(3.0) * np.eye(2), np.eye(2)
        >>> n_pair_loss_gradient(a, p)["anchor"].round(12).tolist()
        [[-0.125, 0.125], [0.125, -0.125]]
    """
    return _n_pair.gradient(anchor, positive, **reduction)


# --- NT-Xent ----------------------------------------------------------------------------------------------------------


@reduced(
    splits=("rows",),
    wrt=("embedding1", "embedding2"),
    pairwise=True,
    embedding1=_SET,
    embedding2=_SET,
    temperature=POSITIVE,
    normalize=FLAG,
)
def _nt_xent(
    embedding1: Array, embedding2: Array, temperature: float, normalize: bool, reduction: Any, wanted: Wanted
) -> Closed:
    given = {"embedding1": embedding1, "embedding2": embedding2}
    sharpness = _inverse_temperature(temperature, **given)
    require_same_shape(**given)
    p = embeddings_of(reduction, bool(wanted), normalize, numbers=(sharpness,), **given)
    xp, n = p.xp, p.x.shape[1]
    scale = _Scale.of(xp, p.sets.bring(sharpness), p.x)
    z, places = xp.concat([p.x, p.y], axis=1), p.places(2 * n)
    rows = PairRows(
        target=xp.concat([places[:, n:], places[:, :n]], axis=1),
        itself=places,
        scale=None if p.scale is None else 0.5 * xp.concat([p.scale, p.scale], axis=1),
    )
    found = pair_losses(p, scale.used * z, z, softmax, rows)
    losses = scale.losses(xp, found.losses)
    value = p.value(0.5 * (losses[:, :n] + losses[:, n:]), embedding1)
    if not wanted:
        return value, {}
    by_z = scale.used * found.by_x + found.by_y
    back = [scale.slopes(xp, x) for x in p.back(by_z[:, :n, :], by_z[:, n:, :])]
    return value, p.sets.gradients(dict(zip(given, back, strict=True)), given)


def nt_xent_loss(
    embedding1: ArrayT,
    embedding2: ArrayT,
    *,
    temperature: float = 0.5,
    normalize: bool = True,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over pairs of ½ (ℓ(x_i, y_i) + ℓ(y_i, x_i)), ℓ(a, b) = −log (e^(a·b/τ) / Σ_{c≠a} e^(a·c/τ)).

    x = embedding1 and y = embedding2 are two views of the same n objects, divided by their norms; c runs over all 2n
    embeddings. Pairs are computed in tiles: memory grows with the number of embeddings, not with its square.

    Args:
        embedding1: x, (…, n, d); any leading axes are a batch of independent sets.
        embedding2: y, the same shape: y_i belongs to x_i.
        temperature: τ > 0.
        normalize: divide each embedding by its Euclidean norm. A zero vector stays 0 and gets the gradient 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per pair, (…, n).

    Returns:
        A scalar (one loss per pair for reduction="none").

    Raises:
        ValueError: the shapes differ, τ is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        For each of the four embeddings e^(1/τ) = 2 of its partner stands against 2 + 1 + 1: log 2.

        >>> import numpy as np
        >>> x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 3.0]])
        >>> round(float(nt_xent_loss(x, y, temperature=1 / np.log(2.0))), 6)
        0.693147

    Source:
        T. Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020.
        https://arxiv.org/abs/2002.05709
    """
    return _nt_xent.value(embedding1, embedding2, temperature, normalize, **reduction)


@gradient_of(
    nt_xent_loss,
    terms=_nt_xent,
    properties=("non_negative", given("scale_invariant", normalize=True), "symmetric"),
)
def nt_xent_loss_gradient(
    embedding1: ArrayT,
    embedding2: ArrayT,
    *,
    temperature: float = 0.5,
    normalize: bool = True,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """J (G + Gᵀ) ẑ / τ, the rows of z = (x, y), with G_ab = (softmax_{b≠a}(ẑ_a·ẑ_b/τ) − [b belongs to a]) / 2n.

    J = (I − ẑ ẑᵀ) / ‖z‖; n counts the pairs of all sets.

    Example:
        The two negatives of x_1 have ¼ each, and so has x_1 for them: (¼ + ¼ + ¼ + ¼) / 2n · log 2, across x_1.

        >>> import numpy as np
        >>> x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 3.0]])
        >>> gradients = nt_xent_loss_gradient(x, y, temperature=1 / np.log(2.0))
        >>> (gradients["embedding1"] / np.log(2.0)).round(12).tolist()
        [[0.0, 0.25], [0.25, 0.0]]
    """
    return _nt_xent.gradient(embedding1, embedding2, temperature, normalize, **reduction)


# --- supervised -------------------------------------------------------------------------------------------------------


@reduced(
    splits=("rows",),
    by_numpy=True,
    pairwise=True,
    embeddings=_SET,
    labels=PointLabels(4),
    temperature=POSITIVE,
    normalize=FLAG,
)
def _supervised(
    embeddings: Array, labels: Array, temperature: float, normalize: bool, reduction: Any, wanted: Wanted
) -> Closed:
    own, given = array_namespace(embeddings=embeddings, labels=labels), {"embeddings": embeddings}
    sharpness = _inverse_temperature(temperature, **given)
    p = embeddings_of(reduction, bool(wanted), normalize, numbers=(sharpness, labels), **given)
    if tuple(labels.shape) != tuple(embeddings.shape[:-1]):
        raise ValueError(
            f"labels must have one integer per row, shape {tuple(embeddings.shape[:-1])}, got {tuple(labels.shape)}"
        )
    if not is_dtype(own, labels.dtype, "integral"):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    xp, places = p.xp, p.places(p.x.shape[1])
    scale = _Scale.of(xp, p.sets.bring(sharpness), p.x)
    label = p.sets.bring(own.reshape(labels, tuple(places.shape)))
    rows = PairRows(itself=places, label=label, scale=p.scale)
    found = pair_losses(p, scale.used * p.x, p.x, softmax_by_label, rows, PairColumns(label=label))
    value = p.value(scale.losses(xp, found.losses), embeddings)
    if not wanted:
        return value, {}
    back, _ = p.back(scale.used * found.by_x + found.by_y, found.by_y)
    return value, p.sets.gradients({"embeddings": scale.slopes(xp, back)}, given)


def supervised_contrastive_loss(
    embeddings: ArrayT,
    labels: Array,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of −1/|P(i)| Σ_{p∈P(i)} log(e^(z_i·z_p/τ) / Σ_{a≠i} e^(z_i·z_a/τ)), P(i): the others of i's label.

    z are the embeddings divided by their norms. If no other row has the label of a row, that row contributes 0, but it
    counts in the divisor of "mean", and is a negative for the other rows. Several views of one object are rows with the
    same label. Pairs are computed in tiles: memory grows with the number of embeddings, not with its square.

    Args:
        embeddings: (…, n, d); any leading axes are a batch of independent sets.
        labels: integers (…, n), which are only compared with each other: any integer is a label.
        temperature: τ > 0.
        normalize: divide each embedding by its Euclidean norm. A zero vector stays 0 and gets the gradient 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per row, (…, n).

    Returns:
        A scalar (one loss per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, τ is not positive, or a reduction keyword does not fit.
        TypeError: an argument is not an array, the embeddings are not floating point, or the labels are not integers.

    Example:
        For the first two rows e^(1/τ) = 3 stands against 3 + 1: log(4/3); the third is alone: 2 log(4/3) / 3.

        >>> import numpy as np
        >>> embeddings, labels = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), np.array([7, 7, 3])
        >>> round(float(supervised_contrastive_loss(embeddings, labels, temperature=1 / np.log(3.0))), 6)
        0.191788

    Source:
        P. Khosla et al., Supervised Contrastive Learning, 2020, eq. 2 (L_out). https://arxiv.org/abs/2004.11362
    """
    return _supervised.value(embeddings, labels, temperature, normalize, **reduction)


@gradient_of(
    supervised_contrastive_loss,
    terms=_supervised,
    properties=("non_negative", given("scale_invariant", normalize=True)),
)
def supervised_contrastive_loss_gradient(
    embeddings: ArrayT,
    labels: Array,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """J (G + Gᵀ) z / τ, with G_ia = (softmax_{a≠i}(z_i·z_a/τ) − [a ∈ P(i)] / |P(i)|) / n, 0 where P(i) is empty.

    J = (I − z zᵀ) / ‖x‖ for the embedding x of z; n counts the rows of all sets.

    Example:
        The third row has ¼ of the first and of the second: (¼ + ¼) / 3 · log 3, across it.

        >>> import numpy as np
        >>> embeddings, labels = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), np.array([7, 7, 3])
        >>> gradient = supervised_contrastive_loss_gradient(embeddings, labels, temperature=1 / np.log(3.0))
        >>> (6 * gradient / np.log(3.0)).round(12).tolist()
        [[0.0, 0.5], [0.0, 0.25], [1.0, 0.0]]
    """
    return _supervised.gradient(embeddings, labels, temperature, normalize, **reduction)


# --- two kinds of embeddings: CLIP and SigLIP -------------------------------------------------------------------------


@reduced(
    splits=("rows",),
    wrt=("image_embeddings", "text_embeddings", "logit_scale"),
    pairwise=True,
    image_embeddings=_SET,
    text_embeddings=_SET,
    logit_scale=OneNumber(),
    normalize=FLAG,
)
def _clip(
    image_embeddings: Array, text_embeddings: Array, logit_scale: Array, normalize: bool, reduction: Any, wanted: Wanted
) -> Closed:
    given = {"image_embeddings": image_embeddings, "text_embeddings": text_embeddings}
    p, (s,) = _scaled_problem(reduction, bool(wanted), normalize, given, logit_scale=logit_scale)
    xp, places = p.xp, p.places(p.x.shape[1])
    scale = _Scale.of_logarithm(xp, s, p.x)
    x, half = scale.used * p.x, None if p.scale is None else 0.5 * p.scale
    # the slopes of a row need the losses of the columns, so these are completed first
    by_column = pair_losses(p, p.y, x, softmax, PairRows(target=places))
    columns = PairColumns(log_sum=by_column.extra, scale=half)
    found = pair_losses(p, x, p.y, softmax_both_ways, PairRows(target=places, scale=half), columns)
    losses = 0.5 * (scale.losses(xp, found.losses) + scale.losses(xp, by_column.losses))
    value = p.value(losses, image_embeddings)
    if not wanted:
        return value, {}
    back = p.back(scale.used * found.by_x, found.by_y)
    gradients = dict(zip(given, back, strict=True)) | {"logit_scale": p.shared(xp.sum(x * found.by_x))}
    gradients = {name: scale.slopes(xp, slope) for name, slope in gradients.items()}
    return value, p.sets.gradients(gradients, given | {"logit_scale": logit_scale})


def clip_loss(
    image_embeddings: ArrayT,
    text_embeddings: ArrayT,
    logit_scale: Array,
    *,
    normalize: bool = True,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over pairs of −½ (log softmax_j(z_ij)_i + log softmax_j(z_ji)_i), z_ij = e^s u_i·v_j, s = logit_scale.

    u and v are the embeddings of images and texts, divided by their norms: each image must find its text, and each text
    its image. Pairs are computed in tiles: memory grows with the number of embeddings, not with its square.

    Args:
        image_embeddings: u, (…, n, d); any leading axes are a batch of independent sets.
        text_embeddings: v, the same shape: v_i belongs to u_i.
        logit_scale: s, the logarithm of the scale, which is the trained parameter: an array of one number, of shape ()
            or (1,). CLIP starts at s = log(1/0.07) and keeps s ≤ log 100.
        normalize: divide each embedding by its Euclidean norm. A zero vector stays 0 and gets the gradient 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per pair, (…, n).

    Returns:
        A scalar (one loss per pair for reduction="none").

    Raises:
        ValueError: the shapes differ, logit_scale is more than one number, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        z_ii = log 3 and z_ij = 0: −log ¾ both ways.

        >>> import numpy as np
        >>> u, v, s = np.eye(2), np.eye(2), np.array(np.log(np.log(3.0)))
        >>> round(float(clip_loss(u, v, s)), 6)
        0.287682

    Source:
        A. Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, fig. 3.
        https://arxiv.org/abs/2103.00020
    """
    return _clip.value(image_embeddings, text_embeddings, logit_scale, normalize, **reduction)


@gradient_of(
    clip_loss,
    terms=_clip,
    properties=("non_negative", given("scale_invariant", normalize=True), "symmetric"),
)
def clip_loss_gradient(
    image_embeddings: ArrayT,
    text_embeddings: ArrayT,
    logit_scale: Array,
    *,
    normalize: bool = True,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """e^s J G v, e^s J Gᵀ u and Σ_ij G_ij z_ij, with G = (softmax of rows + softmax of columns − 2 I) / 2n.

    J = (I − u uᵀ) / ‖x‖ for the embedding x of u, and likewise for v; n counts the pairs of all sets.

    Example:
        softmax(log 3, 0) = (¾, ¼) along rows and columns: Σ G z = −¼ log 3.

        >>> import numpy as np
        >>> u, v, s = np.eye(2), np.eye(2), np.array(np.log(np.log(3.0)))
        >>> gradients = clip_loss_gradient(u, v, s)
        >>> float((gradients["logit_scale"] / np.log(3.0)).round(12))
        -0.25
    """
    return _clip.gradient(image_embeddings, text_embeddings, logit_scale, normalize, **reduction)


def _scaled_problem(
    reduction: Any, wants_gradient: bool, normalize: bool, given: dict[str, Array], **numbers: Array
) -> tuple[Embeddings, list[Any]]:
    """Return the problem for embeddings of one shape, and the differentiable numbers it is computed with."""
    own = array_namespace(**given, **numbers)
    require_same_shape(**given)
    dtype = widest_dtype(own, **given, **numbers)
    single = {name: own.reshape(x, ()) if tuple(x.shape) == (1,) else x for name, x in numbers.items()}
    values = [require_one_number(own, name, x, dtype) for name, x in single.items()]
    p = embeddings_of(reduction, wants_gradient, normalize, numbers=tuple(values), dtype=dtype, **given)
    return p, [p.sets.bring(x) for x in values]


@reduced(
    splits=("rows",),
    wrt=("image_embeddings", "text_embeddings", "logit_scale", "logit_bias"),
    pairwise=True,
    image_embeddings=_SET,
    text_embeddings=_SET,
    logit_scale=OneNumber(),
    logit_bias=OneNumber(),
    normalize=FLAG,
)
def _siglip(
    image_embeddings: Array,
    text_embeddings: Array,
    logit_scale: Array,
    logit_bias: Array,
    normalize: bool,
    reduction: Any,
    wanted: Wanted,
) -> Closed:
    given, numbers = (
        {"image_embeddings": image_embeddings, "text_embeddings": text_embeddings},
        {"logit_scale": logit_scale, "logit_bias": logit_bias},
    )
    p, (s, b) = _scaled_problem(reduction, bool(wanted), normalize, given, **numbers)
    xp, d = p.xp, p.x.shape[-1]
    scale = _Scale.of_logarithm(xp, s, p.x)
    x, ones = scale.used * p.x, xp.ones_like(p.y[..., :1])
    # the bias is one more feature, whose partner is 1
    rows = PairRows(target=p.places(p.x.shape[1]), scale=p.scale)
    found = pair_losses(p, xp.concat([x, b * ones], axis=-1), xp.concat([p.y, ones], axis=-1), sigmoid, rows)
    value = p.value(scale.losses(xp, found.losses), image_embeddings)
    if not wanted:
        return value, {}
    by_x, by_bias = found.by_x[..., :d], p.shared(xp.sum(found.by_x[..., d]))
    back = p.back(scale.used * by_x, found.by_y[..., :d])
    gradients = dict(zip(given, back, strict=True)) | {"logit_scale": p.shared(xp.sum(x * by_x))}
    gradients = {name: scale.slopes(xp, slope) for name, slope in gradients.items()} | {"logit_bias": by_bias}
    return value, p.sets.gradients(gradients, given | numbers)


def siglip_loss(
    image_embeddings: ArrayT,
    text_embeddings: ArrayT,
    logit_scale: Array,
    logit_bias: Array,
    *,
    normalize: bool = True,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over rows of Σ_j softplus(∓z_ij), − for j = i and + for j ≠ i, with z_ij = e^s u_i·v_j + b.

    u and v are the embeddings of images and texts, divided by their norms: every pair is a binary classification of its
    own. Pairs are computed in tiles: memory grows with the number of embeddings, not with its square.

    Args:
        image_embeddings: u, (…, n, d); any leading axes are a batch of independent sets.
        text_embeddings: v, the same shape: v_i belongs to u_i.
        logit_scale: s, an array of one number, of shape () or (1,), the logarithm of the scale; the paper starts at
            log 10.
        logit_bias: b, an array of one number, of shape () or (1,); the paper starts at −10, because nearly all pairs
            are negative.
        normalize: divide each embedding by its Euclidean norm. A zero vector stays 0 and gets the gradient 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per image, (…, n): the sum over all texts.

    Returns:
        A scalar (one loss per image for reduction="none").

    Raises:
        ValueError: the shapes differ, scale or bias is more than one number, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        z_11 = log 3 + 0: softplus(−log 3) = log(4/3).

        >>> import numpy as np
        >>> u, v, s, b = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), np.array(np.log(np.log(3.0))), np.array(0.0)
        >>> round(float(siglip_loss(u, v, s, b)), 6)
        0.287682

    Source:
        X. Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023. https://doi.org/10.1109/ICCV51070.2023.01100
    """
    return _siglip.value(image_embeddings, text_embeddings, logit_scale, logit_bias, normalize, **reduction)


@gradient_of(
    siglip_loss,
    terms=_siglip,
    properties=("non_negative", given("scale_invariant", normalize=True), given("symmetric", weights=None)),
)
def siglip_loss_gradient(
    image_embeddings: ArrayT,
    text_embeddings: ArrayT,
    logit_scale: Array,
    logit_bias: Array,
    *,
    normalize: bool = True,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """e^s J G v, e^s J Gᵀ u, Σ_ij G_ij (z_ij − b) and Σ_ij G_ij, with G_ij = (σ(z_ij) − [i = j]) / n.

    J = (I − u uᵀ) / ‖x‖ for the embedding x of u, and likewise for v; n counts the pairs of all sets.

    Example:
        σ(log 3) − 1 = −¼.

        >>> import numpy as np
        >>> u, v, s, b = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), np.array(np.log(np.log(3.0))), np.array(0.0)
        >>> gradients = siglip_loss_gradient(u, v, s, b)
        >>> float(gradients["logit_bias"].round(12)), float((gradients["logit_scale"] / np.log(3.0)).round(12))
        (-0.25, -0.25)
    """
    return _siglip.gradient(image_embeddings, text_embeddings, logit_scale, logit_bias, normalize, **reduction)
