"""Segmentation from logits: the formulas of masks at p = σ(z) or softmax(z), and the chain rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import sigmoid
from formulas.segmentation import Pixels, dice, focal_tversky, generalized_dice, jaccard, lovasz, tversky

Array = Any


class Logits(Pixels):
    """Pixels whose predictions are logits."""

    def __init__(self, z: Array, targets: Array, class_axis: Any, multilabel: bool = False, **options: Any) -> None:
        super().__init__(z, targets, class_axis, **options)
        self.has_softmax = class_axis is not None and not multilabel
        exponentials = np.exp(self.x)
        self.p = exponentials / exponentials.sum(axis=1, keepdims=True) if self.has_softmax else sigmoid(self.x)

    def pulled(self, g: Array) -> Array:
        """The slopes wrt the logits, of slopes wrt p."""
        if self.has_softmax:
            return self.p * (g - (self.p * g).sum(axis=1, keepdims=True))
        return self.p * (1.0 - self.p) * g

    def of_masks(self, of: Any) -> Any:
        return self.losses(self.p, of)

    def gradient_of_masks(self, of: Any, s: Array) -> dict[str, Array]:
        return {"logits": self.back(self.pulled(self.slopes(self.p, of, s)))}

    def of_samples(self, of: Any) -> Array:
        return np.reshape([of(self, self.p, i)[0] for i in range(len(self.x))], self.samples)

    def gradient_of_samples(self, of: Any, s: Array) -> dict[str, Array]:
        s = np.reshape(s, len(self.x))
        return {"logits": self.back(self.pulled(np.stack([s[i] * of(self, self.p, i)[1] for i in range(len(self.x))])))}


def dice_loss_with_logits(logits: Array, targets: Array, smooth: float, **options: Any) -> Any:
    return Logits(logits, targets, **options).of_masks(lambda p, t: dice(p, t, smooth))


def dice_loss_with_logits_gradient(
    logits: Array, targets: Array, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    return Logits(logits, targets, **options).gradient_of_masks(lambda p, t: dice(p, t, smooth), s)


def jaccard_loss_with_logits(logits: Array, targets: Array, smooth: float, **options: Any) -> Any:
    return Logits(logits, targets, **options).of_masks(lambda p, t: jaccard(p, t, smooth))


def jaccard_loss_with_logits_gradient(
    logits: Array, targets: Array, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    return Logits(logits, targets, **options).gradient_of_masks(lambda p, t: jaccard(p, t, smooth), s)


def tversky_loss_with_logits(
    logits: Array, targets: Array, alpha: float, beta: float, smooth: float, **options: Any
) -> Any:
    return Logits(logits, targets, **options).of_masks(lambda p, t: tversky(p, t, alpha, beta, smooth))


def tversky_loss_with_logits_gradient(
    logits: Array, targets: Array, alpha: float, beta: float, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    return Logits(logits, targets, **options).gradient_of_masks(lambda p, t: tversky(p, t, alpha, beta, smooth), s)


def focal_tversky_loss_with_logits(
    logits: Array, targets: Array, gamma: float, alpha: float, beta: float, smooth: float, **options: Any
) -> Any:
    costs = {"alpha": alpha, "beta": beta, "smooth": smooth}
    return Logits(logits, targets, **options).of_masks(lambda p, t: focal_tversky(p, t, gamma, **costs))


def focal_tversky_loss_with_logits_gradient(
    logits: Array, targets: Array, gamma: float, alpha: float, beta: float, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    costs = {"alpha": alpha, "beta": beta, "smooth": smooth}
    return Logits(logits, targets, **options).gradient_of_masks(lambda p, t: focal_tversky(p, t, gamma, **costs), s)


def generalized_dice_loss_with_logits(logits: Array, targets: Array, smooth: float, **options: Any) -> Array:
    return Logits(logits, targets, **options).of_samples(lambda x, p, i: generalized_dice(x, p, i, smooth))


def generalized_dice_loss_with_logits_gradient(
    logits: Array, targets: Array, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    return Logits(logits, targets, **options).gradient_of_samples(lambda x, p, i: generalized_dice(x, p, i, smooth), s)


def lovasz_softmax_loss_with_logits(logits: Array, targets: Array, classes: str, **options: Any) -> Array:
    return Logits(logits, targets, **options).of_samples(lambda x, p, i: lovasz(x, p, i, classes))


def lovasz_softmax_loss_with_logits_gradient(
    logits: Array, targets: Array, classes: str, s: Array, **options: Any
) -> dict[str, Array]:
    return Logits(logits, targets, **options).gradient_of_samples(lambda x, p, i: lovasz(x, p, i, classes), s)


# --- compound losses --------------------------------------------------------------------------------------------------


def _compound(logits: Array, targets: Array, a: float, b: float, gamma: float, smooth: float, options: Any) -> Any:
    """The losses of the samples, and their slopes wrt the logits."""
    x = Logits(logits, targets, **options)
    p, t, kept = x.p, x.t, x.kept
    w = np.broadcast_to(x.weights[:, None], t[0].shape)
    losses, g = np.zeros(len(t)), np.zeros(t.shape)
    for i in range(len(t)):
        total = sum(x.weights)
        for c, w_c in enumerate(x.weights):
            value, slope = dice(p[i, c][kept[i, c]], t[i, c][kept[i, c]], smooth)
            losses[i] += a * w_c * value / total
            g[i, c][kept[i, c]] = a * w_c * slope / total
    g = x.pulled(g)
    for i in range(len(t)):
        k = kept[i]
        pixel, slope = _pixels(p[i], t[i], gamma, x.has_softmax)
        counted = w if not x.has_softmax else w * t[i] if x.is_weighted else w / len(w)
        mass = (counted * k).sum()
        if mass > 0.0:
            losses[i] += b * (w * pixel)[k].sum() / mass
            slope = np.where(k, w * slope, 0.0)
            g[i] += b * (slope - p[i] * slope.sum(axis=0) if x.has_softmax else slope) / mass
    return x, losses, g


def _pixels(p: Array, t: Array, gamma: float, has_softmax: bool) -> tuple[Array, Array]:
    """The term of each element, and its slope: wrt log p of the softmax, wrt z of σ."""
    q = 1.0 - p
    if has_softmax:
        return -t * q**gamma * np.log(p), t * q**gamma * (gamma * p * np.log(p) / q - 1.0)
    value = -t * q**gamma * np.log(p) - (1.0 - t) * p**gamma * np.log(q)
    upper, lower = p**gamma * (p - gamma * q * np.log(q)), q**gamma * (q - gamma * p * np.log(p))
    return value, (1.0 - t) * upper - t * lower


def _compound_value(*arguments: Any) -> Array:
    x, losses, _ = _compound(*arguments)
    return np.reshape(losses, x.samples)


def _compound_gradient(s: Array, *arguments: Any) -> dict[str, Array]:
    x, _, g = _compound(*arguments)
    return {"logits": x.back(g * np.reshape(s, (-1, 1, 1)))}


def dice_cross_entropy_with_logits(
    logits: Array, targets: Array, dice_weight: float, pixel_weight: float, smooth: float, **options: Any
) -> Array:
    return _compound_value(logits, targets, dice_weight, pixel_weight, 0.0, smooth, options)


def dice_cross_entropy_with_logits_gradient(
    logits: Array, targets: Array, dice_weight: float, pixel_weight: float, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    return _compound_gradient(s, logits, targets, dice_weight, pixel_weight, 0.0, smooth, options)


def dice_focal_loss_with_logits(
    logits: Array, targets: Array, dice_weight: float, pixel_weight: float, gamma: float, smooth: float, **options: Any
) -> Array:
    return _compound_value(logits, targets, dice_weight, pixel_weight, gamma, smooth, options)


def dice_focal_loss_with_logits_gradient(
    logits: Array,
    targets: Array,
    dice_weight: float,
    pixel_weight: float,
    gamma: float,
    smooth: float,
    s: Array,
    **options: Any,
) -> dict[str, Array]:
    return _compound_gradient(s, logits, targets, dice_weight, pixel_weight, gamma, smooth, options)
