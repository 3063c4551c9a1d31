"""Segmentation, one mask at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from formulas.notation import Massed

Array = Any


class Pixels:
    """Predictions and targets as (samples, classes, pixels), one class if there is no axis of classes.

    An array with one axis beside the classes is one sample, and `pool_batch` makes one of all.
    """

    def __init__(
        self, x: Array, targets: Array, class_axis: Any, class_weights: Any, ignore_index: Any, pool_batch: bool
    ) -> None:
        self.like, self.class_axis = x, class_axis
        self.is_one = pool_batch or x.ndim == (1 if class_axis is None else 2)
        self.x = self.arranged(x)
        classes = self.x.shape[1]
        labels = targets.ndim < x.ndim
        self.t = self.arranged(_one_hot(targets, classes, class_axis) if labels else targets)
        void = np.zeros(targets.shape, bool) if ignore_index is None else targets == ignore_index
        self.kept = ~self.arranged(np.stack([void] * classes, class_axis) if labels else void)
        self.weights = np.ones(classes) if class_weights is None else np.asarray(class_weights)
        self.is_weighted = class_weights is not None
        self.samples = () if self.is_one else (len(self.x),)
        self.masks = self.samples if class_axis is None else (*self.samples, classes)

    def arranged(self, x: Array) -> Array:
        x = x[..., None] if self.class_axis is None else np.moveaxis(x, self.class_axis, -1)
        return np.moveaxis(x.reshape(1 if self.is_one else len(x), -1, x.shape[-1]), -1, 1)

    def back(self, g: Array) -> Array:
        last = self.like[..., None] if self.class_axis is None else np.moveaxis(self.like, self.class_axis, -1)
        g = np.moveaxis(g, 1, -1).reshape(last.shape)
        return g[..., 0] if self.class_axis is None else np.moveaxis(g, -1, self.class_axis)

    def losses(self, p: Array, of: Callable[[Array, Array], tuple[float, Array]]) -> Any:
        """One loss for each mask, of the pixels that are not ignored."""
        values = np.zeros(self.x.shape[:2])
        for i in np.ndindex(values.shape):
            values[i] = self.weights[i[1]] * of(p[i][self.kept[i]], self.t[i][self.kept[i]])[0]
        mass = np.broadcast_to(self.weights, values.shape)
        return Massed(values.reshape(self.masks), mass.reshape(self.masks))

    def slopes(self, p: Array, of: Callable[[Array, Array], tuple[float, Array]], s: Array) -> Array:
        """The derivatives wrt p of the same."""
        g, s = np.zeros(self.x.shape), np.reshape(s, self.x.shape[:2])
        for i in np.ndindex(s.shape):
            g[i][self.kept[i]] = self.weights[i[1]] * s[i] * of(p[i][self.kept[i]], self.t[i][self.kept[i]])[1]
        return g


def _one_hot(labels: Array, classes: int, class_axis: int) -> Array:
    return np.stack([(labels == c).astype(float) for c in range(classes)], class_axis)


# --- one mask: value and slope ----------------------------------------------------------------------------------------


def dice(p: Array, t: Array, smooth: float) -> tuple[float, Array]:
    d = p.sum() + t.sum() + smooth
    return 1.0 - (2.0 * (p * t).sum() + smooth) / d, -(2.0 * t * d - (2.0 * (p * t).sum() + smooth)) / d**2


def jaccard(p: Array, t: Array, smooth: float) -> tuple[float, Array]:
    i = (p * t).sum()
    u = p.sum() + t.sum() - i
    return 1.0 - (i + smooth) / (u + smooth), -(t * (u + i + 2.0 * smooth) - (i + smooth)) / (u + smooth) ** 2


def tversky(p: Array, t: Array, alpha: float, beta: float, smooth: float) -> tuple[float, Array]:
    i, fp, fn = (p * t).sum(), (p * (1.0 - t)).sum(), ((1.0 - p) * t).sum()
    e = alpha * fp + beta * fn
    loss = 1.0 - (i + smooth) / (i + alpha * fp + beta * fn + smooth)
    return loss, ((i + smooth) * (alpha * (1.0 - t) - beta * t) - e * t) / (i + e + smooth) ** 2


def focal_tversky(p: Array, t: Array, gamma: float, **options: float) -> tuple[float, Array]:
    loss, slope = tversky(p, t, **options)
    if loss < 1e-15:  # nothing was predicted where nothing counts
        return 0.0, 0.0 * slope
    return loss**gamma, gamma * loss ** (gamma - 1.0) * slope


def generalized_dice(pixels: Pixels, p: Array, sample: int, smooth: float) -> tuple[float, Array]:
    """The loss of one sample, and its slope wrt p: (classes, pixels)."""
    p, t, kept = p[sample], pixels.t[sample], pixels.kept[sample]
    sizes = [t[c][kept[c]].sum() for c in range(len(t))]
    smallest = min((n for n in sizes if n > 0.0), default=1.0)
    w = pixels.weights * [(smallest / n) ** 2 if n > 0.0 else 1.0 for n in sizes]
    above = 2.0 * sum(w[c] * (p[c] * t[c])[kept[c]].sum() for c in range(len(t))) + smooth
    d = sum(w[c] * (p[c] + t[c])[kept[c]].sum() for c in range(len(t))) + smooth
    return 1.0 - above / d, np.where(kept, -w[:, None] * (2.0 * t * d - above) / d**2, 0.0)


# --- the losses -------------------------------------------------------------------------------------------------------


def dice_loss(predictions: Array, targets: Array, smooth: float, **options: Any) -> Any:
    pixels = Pixels(predictions, targets, **options)
    return pixels.losses(pixels.x, lambda p, t: dice(p, t, smooth))


def dice_loss_gradient(predictions: Array, targets: Array, smooth: float, s: Array, **options: Any) -> dict[str, Array]:
    pixels = Pixels(predictions, targets, **options)
    return {"predictions": pixels.back(pixels.slopes(pixels.x, lambda p, t: dice(p, t, smooth), s))}


def jaccard_loss(predictions: Array, targets: Array, smooth: float, **options: Any) -> Any:
    pixels = Pixels(predictions, targets, **options)
    return pixels.losses(pixels.x, lambda p, t: jaccard(p, t, smooth))


def jaccard_loss_gradient(
    predictions: Array, targets: Array, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    pixels = Pixels(predictions, targets, **options)
    return {"predictions": pixels.back(pixels.slopes(pixels.x, lambda p, t: jaccard(p, t, smooth), s))}


def tversky_loss(predictions: Array, targets: Array, alpha: float, beta: float, smooth: float, **options: Any) -> Any:
    pixels = Pixels(predictions, targets, **options)
    return pixels.losses(pixels.x, lambda p, t: tversky(p, t, alpha, beta, smooth))


def tversky_loss_gradient(
    predictions: Array, targets: Array, alpha: float, beta: float, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    pixels = Pixels(predictions, targets, **options)
    return {"predictions": pixels.back(pixels.slopes(pixels.x, lambda p, t: tversky(p, t, alpha, beta, smooth), s))}


def focal_tversky_loss(
    predictions: Array, targets: Array, gamma: float, alpha: float, beta: float, smooth: float, **options: Any
) -> Any:
    pixels, costs = Pixels(predictions, targets, **options), {"alpha": alpha, "beta": beta, "smooth": smooth}
    return pixels.losses(pixels.x, lambda p, t: focal_tversky(p, t, gamma, **costs))


def focal_tversky_loss_gradient(
    predictions: Array, targets: Array, gamma: float, alpha: float, beta: float, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    pixels, costs = Pixels(predictions, targets, **options), {"alpha": alpha, "beta": beta, "smooth": smooth}
    return {"predictions": pixels.back(pixels.slopes(pixels.x, lambda p, t: focal_tversky(p, t, gamma, **costs), s))}


def generalized_dice_loss(predictions: Array, targets: Array, smooth: float, **options: Any) -> Array:
    pixels = Pixels(predictions, targets, **options)
    losses = [generalized_dice(pixels, pixels.x, i, smooth)[0] for i in range(len(pixels.x))]
    return np.reshape(losses, pixels.samples)


def generalized_dice_loss_gradient(
    predictions: Array, targets: Array, smooth: float, s: Array, **options: Any
) -> dict[str, Array]:
    pixels = Pixels(predictions, targets, **options)
    s = np.reshape(s, len(pixels.x))
    slopes = [s[i] * generalized_dice(pixels, pixels.x, i, smooth)[1] for i in range(len(pixels.x))]
    return {"predictions": pixels.back(np.stack(slopes))}


# --- Lovász -----------------------------------------------------------------------------------------------------------


def _jaccard(wrong: set[int], foreground: Array) -> float:
    """The Jaccard loss of a mask that is wrong at some pixels: right foreground over foreground and false alarms."""
    inside = [i for i in range(len(foreground)) if foreground[i]]
    intersection = [i for i in inside if i not in wrong]
    union = set(inside) | {i for i in wrong if not foreground[i]}
    return 1.0 - len(intersection) / len(union) if union else 0.0


def _steps(errors: Array, foreground: Array) -> Array:
    """J_k − J_{k−1} at each pixel, errors in descending order, equal ones in their own."""
    steps, wrong, last = np.zeros(len(errors)), set[int](), 0.0
    for i in np.argsort(-errors, kind="stable"):
        wrong.add(int(i))
        now = _jaccard(wrong, foreground)
        steps[i], last = now - last, now
    return steps


def lovasz(pixels: Pixels, p: Array, sample: int, classes: str) -> tuple[float, Array]:
    """The loss of one sample, and its slope wrt p: (classes, pixels)."""
    value, total, g = 0.0, 0.0, np.zeros(p[sample].shape)
    for c, w in enumerate(pixels.weights):
        kept = pixels.kept[sample, c]
        foreground, p_c = pixels.t[sample, c][kept] == 1.0, p[sample, c][kept]
        if classes == "all" or foreground.any():
            errors = np.abs(foreground - p_c)
            steps = _steps(errors, foreground)
            value, total = value + w * (errors * steps).sum(), total + w
            g[c, kept] = w * steps * np.sign(p_c - foreground)
    return (value / total, g / total) if total > 0.0 else (0.0, g)


def lovasz_softmax_loss(predictions: Array, targets: Array, classes: str, **options: Any) -> Array:
    pixels = Pixels(predictions, targets, **options)
    return np.reshape([lovasz(pixels, pixels.x, i, classes)[0] for i in range(len(pixels.x))], pixels.samples)


def lovasz_softmax_loss_gradient(
    predictions: Array, targets: Array, classes: str, s: Array, **options: Any
) -> dict[str, Array]:
    pixels = Pixels(predictions, targets, **options)
    s = np.reshape(s, len(pixels.x))
    slopes = [s[i] * lovasz(pixels, pixels.x, i, classes)[1] for i in range(len(pixels.x))]
    return {"predictions": pixels.back(np.stack(slopes))}


def _hinge(z: Array, t: Array) -> tuple[float, Array]:
    sign = 2.0 * t - 1.0
    errors = np.maximum(0.0, 1.0 - sign * z)
    steps = _steps(errors, t == 1.0)
    return float((errors * steps).sum()), np.where(errors > 0.0, -sign * steps, 0.0)


def lovasz_hinge_loss(logits: Array, targets: Array, ignore_index: Any, pool_batch: bool) -> Array:
    pixels = Pixels(logits, targets, None, None, ignore_index, pool_batch)
    return pixels.losses(pixels.x, _hinge)


def lovasz_hinge_loss_gradient(
    logits: Array, targets: Array, ignore_index: Any, pool_batch: bool, s: Array
) -> dict[str, Array]:
    pixels = Pixels(logits, targets, None, None, ignore_index, pool_batch)
    return {"logits": pixels.back(pixels.slopes(pixels.x, _hinge, s))}
