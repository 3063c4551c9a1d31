"""Losses of how far masks overlap, made of one ratio.

With I = Σ p t, FP = Σ p (1 − t) and FN = Σ (1 − p) t,
    r = E / (c I + E + s),   E = a FP + b FN:
Dice has c = 2 and a = b = 1, Jaccard c = a = b = 1, Tversky c = 1. The form 1 − … is avoided because it cancels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.stable import product
from mithril_losses.numerics.validation import as_dtype, require_one_number
from mithril_losses.templates.masks import Masks, OfProbabilities, SecondOfRatio, Softmax
from mithril_losses.templates.unreduced import Curvature, Losses, Named


def _ratio(
    xp: Any, sums: tuple[Array, Array, Array], share: float, alpha: Any, beta: Any, smooth: Any
) -> tuple[Array, Array, Array, Array]:
    """Return r, its derivative wrt p where t = 0, what t = 1 adds to it, and E + c I + s; empty masks: 0, 0, 0, ∞."""
    hits, false_positives, false_negatives = sums
    errors, agreement = alpha * false_positives + beta * false_negatives, share * hits + smooth
    whole = errors + agreement
    divisor = xp.where(whole == 0, math.inf, whole)
    ratio, rest = errors / divisor, agreement / divisor
    return ratio, alpha * rest / divisor, -(share * ratio + (alpha + beta) * rest) / divisor, divisor


def overlap_losses(
    masks: Masks,
    smooth: float,
    alpha: float = 1.0,
    beta: float = 1.0,
    share: float = 1.0,
    gamma: float | None = None,
) -> Losses:
    """r, or r^γ."""
    xp, dtype = masks.xp, masks.targets.dtype
    smooth = require_one_number(xp, "smooth", smooth, dtype)
    alpha, beta = require_one_number(xp, "alpha", alpha, dtype), require_one_number(xp, "beta", beta, dtype)
    ratio, at_zero, at_one, whole = _ratio(xp, masks.sums(), share, alpha, beta, smooth)
    second = SecondOfRatio((at_zero, at_one), (alpha / whole, (share - alpha - beta) / whole))
    if gamma is None:
        return masks.losses(ratio, at_zero, at_one, second)
    gamma = require_one_number(xp, "gamma", gamma, dtype)
    perfect = ratio == 0
    positive = xp.where(perfect, 1.0, ratio)
    power = xp.where(perfect, 0.0, positive**gamma)
    # γ T^(γ−1) at T = 0 is 1 for γ = 1 and 0 for γ > 1; for γ < 1 there is no derivative, and 0 is used
    at_perfect = float(gamma == 1.0) if isinstance(gamma, float) else as_dtype(xp, gamma == 1.0, dtype)
    factor = xp.where(perfect, at_perfect, gamma * power / positive)
    # f″ = γ (γ − 1) T^(γ−2), which at T = 0 is taken as 0
    second = second._replace(first=factor, second=xp.where(perfect, 0.0, (gamma - 1.0) * factor / positive))
    return masks.losses(power, factor * at_zero, factor * at_one, second)


def pooled_losses(masks: Masks, smooth: float) -> Losses:
    """r of the sums of all classes, each with the weight of its class."""
    xp, axis, dtype = masks.xp, masks.layout.classes, masks.targets.dtype
    assert axis is not None
    smooth = require_one_number(xp, "smooth", smooth, dtype)
    sums = masks.sums()
    size = sums[0] + sums[2]
    present = size > 0
    smallest = xp.min(xp.where(present, size, float("inf")), axis=axis, keepdims=True)
    weights = xp.where(present, smallest / xp.where(present, size, 1.0), 1.0) ** 2

    def weighted(x: Array) -> Array:  # a class of infinite size has the weight 0, and its sums must not vanish
        return weights * x if masks.weights is None else product(xp, masks.weights, weights * x)

    hits, false_positives, false_negatives = (xp.sum(weighted(x), axis=axis, keepdims=True) for x in sums)
    ratio, at_zero, at_one, whole = _ratio(xp, (hits, false_positives, false_negatives), 2.0, 1.0, 1.0, smooth)
    at_zero, at_one = weighted(at_zero), weighted(at_one)
    second = SecondOfRatio((at_zero, at_one), (weighted(1.0 / whole), weighted(0.0 / whole)))
    return masks.of_samples(ratio, at_zero, at_one, second)


# --- with the cross-entropy of the pixels ---------------------------------------------------------------------------


class _PixelTerm(NamedTuple):
    """The cross-entropy of all elements, with slopes and second derivatives wrt log p of the softmax or logits of σ."""

    values: Array
    slopes: Array
    seconds: Array
    mass: Array  # what each element contributes to the divisor


def _cross_entropy_of(masks: Masks, gamma: Any) -> _PixelTerm:
    """−w t (1 − p)^γ log p, and with σ the same of 1 − t and 1 − p; γ = None stands for 0."""
    xp, t = masks.xp, masks.targets
    w = xp.ones_like(t) if masks.weights is None else xp.broadcast_to(masks.weights, tuple(t.shape))
    if isinstance(masks.predicted, Softmax):
        values, slopes, seconds = _damped(xp, masks.predicted.p, masks.predicted.q, masks.predicted.minus_log(), gamma)
        axis, mass = masks.layout.classes, w * t
        if masks.weights is None:  # a pixel counts 1, whatever its masses are
            mass = xp.ones_like(t) / float(t.shape[axis]) + 0.0 * t
        return _PixelTerm._make((*(product(xp, w * t, x) for x in (values, slopes, seconds)), mass))
    p, q = masks.predicted.p, masks.predicted.q
    minus_log_p, minus_log_q = masks.predicted.minus_logs()
    values, slopes, seconds = _damped(xp, p, q, minus_log_p, gamma)
    others, other_slopes, other_seconds = _damped(xp, q, p, minus_log_q, gamma)
    pixels = product(xp, t, values) + product(xp, 1.0 - t, others)
    bends = t * (q * q * seconds - p * q * slopes) + (1.0 - t) * (p * p * other_seconds - p * q * other_slopes)
    by_logits = t * q * slopes - (1.0 - t) * p * other_slopes
    return _PixelTerm._make((*(product(xp, w, x) for x in (pixels, by_logits, bends)), w + 0.0 * t))


def _damped(xp: Any, p: Array, q: Array, minus_log: Array, gamma: Any) -> tuple[Array, Array, Array]:
    """Return −q^γ log p and its two derivatives wrt log p.

    They are −q^γ (1 − γ p log p / q) and γ p q^(γ − 1) (2 + (1 − γ p) log p / q).
    """
    if gamma is None:
        return minus_log, -xp.ones_like(p), xp.zeros_like(p)
    power = q**gamma
    certain = q == 0
    divisor = xp.where(certain, 1.0, q)
    # −log p / q goes to 1; beyond 1000, p has underflowed to 0
    ratio = xp.where(certain, 1.0, xp.minimum(minus_log, 1000.0) / divisor)
    second = gamma * p * xp.where(certain, 0.0, power / divisor) * (2.0 - (1.0 - gamma * p) * ratio)
    return power * minus_log, -power * (1.0 + gamma * p * ratio), second


def _compound_curvature(
    masks: Masks, dice: SecondOfRatio, weights: Array, pixels: _PixelTerm, share: Array
) -> Curvature:
    """Return the second derivatives of the sum of Dice and the pixels' terms of a whole sample."""
    xp, predicted, name = masks.xp, masks.predicted, masks.name
    overlap = OfProbabilities.of(masks, dice, weights, masks.layout.mask)
    slopes, seconds = (masks.only_kept(share * x) for x in (pixels.slopes, pixels.seconds))

    def times(vectors: Named) -> Named:
        v = vectors[name]
        found = overlap.of_logits(predicted, v)
        if not isinstance(predicted, Softmax):
            return {name: found + product(xp, seconds, v)}
        moved = product(xp, seconds, v - predicted.total(predicted.p * v))
        return {name: found + predicted.pull_logs(moved) - product(xp, predicted.total(slopes), predicted.pull(v))}

    def diagonal() -> Named:
        found = predicted.pull_diagonal(overlap.diagonal()) + predicted.turn_diagonal(overlap.slope())
        if not isinstance(predicted, Softmax):
            return {name: found + seconds}
        p, q = predicted.p, predicted.q
        whole = product(xp, predicted.total(seconds), p * p) - product(xp, predicted.total(slopes), p * q)
        return {name: found + product(xp, seconds, q - p) + whole}

    return Curvature(times, diagonal)


def compound_losses(masks: Masks, smooth: Any, dice_weight: Any, pixel_weight: Any, gamma: Any = None) -> Losses:
    """The weighted sum of Dice and of the cross-entropy of the pixels of each sample."""
    xp, layout, dtype = masks.xp, masks.layout, masks.targets.dtype
    smooth = require_one_number(xp, "smooth", smooth, dtype)
    a, b = (
        require_one_number(xp, name, x, dtype)
        for name, x in (("dice_weight", dice_weight), ("pixel_weight", pixel_weight))
    )
    gamma = None if gamma is None else require_one_number(xp, "gamma", gamma, dtype)
    ratio, at_zero, at_one, whole = _ratio(xp, masks.sums(), 2.0, 1.0, 1.0, smooth)
    second = SecondOfRatio((at_zero, at_one), (1.0 / whole, 0.0 / whole))
    pixels = _cross_entropy_of(masks, gamma)
    axes = layout.mask if layout.classes is None else tuple(sorted((*layout.mask, layout.classes)))
    mass = xp.sum(masks.only_kept(pixels.mass), axis=axes, keepdims=True)
    share = b / xp.where(mass == 0, math.inf, mass)
    values = xp.sum(masks.only_kept(pixels.values), axis=axes, keepdims=True) * share
    if layout.classes is None:
        w = a * xp.ones_like(ratio)
    else:
        w = xp.ones_like(ratio) if masks.weights is None else masks.weights + 0.0 * ratio
        total = xp.sum(w, axis=layout.classes, keepdims=True)
        w = a * w / xp.where(total == 0, math.inf, total)
    ratio, at_zero, at_one = (product(xp, w, x) for x in (ratio, at_zero, at_one))
    dice = ratio if layout.classes is None else xp.sum(ratio, axis=layout.classes, keepdims=True)

    def slopes() -> dict[str, Array]:
        overlap, pointwise = masks.slopes(at_zero, at_one), masks.only_kept(share * pixels.slopes)
        if isinstance(masks.predicted, Softmax):
            return {masks.name: masks.predicted.pull_logs(product(xp, overlap, masks.predicted.p) + pointwise)}
        return {masks.name: masks.predicted.pull(overlap) + pointwise}

    def curvature() -> Curvature:
        return _compound_curvature(masks, second, w, pixels, share)

    return Losses(xp.squeeze(dice + values, axis=axes), slopes, axes, curvature=curvature)
