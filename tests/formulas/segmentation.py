"""Segmentation, one mask at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any


def _masks(x: Array, class_axis: int | None) -> Array:
    """(…, pixels): a mask for each sample, or for each sample and class; one axis beside the classes is one sample."""
    if class_axis is not None:
        x = np.moveaxis(x, class_axis, min(1, x.ndim - 2))
        return x.reshape(*x.shape[:2], -1) if x.ndim > 2 else x
    return x.reshape(len(x), -1) if x.ndim > 1 else x[None]


def _values(of: Callable[..., float], p: Array, t: Array, class_axis: int | None) -> Array:
    p, t = _masks(p, class_axis), _masks(t, class_axis)
    return np.array([of(p[i], t[i]) for i in np.ndindex(p.shape[:-1])]).reshape(p.shape[:-1])


def _gradient(of: Callable[..., Array], p: Array, t: Array, class_axis: int | None, s: Array) -> dict[str, Array]:
    masks, targets = _masks(p, class_axis), _masks(t, class_axis)
    g = np.stack([of(masks[i], targets[i]) * s[i] for i in np.ndindex(masks.shape[:-1])])
    if class_axis is None:
        return {"predictions": g.reshape(p.shape)}
    first = min(1, p.ndim - 2)
    return {"predictions": np.moveaxis(g.reshape(np.moveaxis(p, class_axis, first).shape), first, class_axis)}


def dice_loss(predictions: Array, targets: Array, smooth: float, class_axis: int | None) -> Array:
    def loss(p: Array, t: Array) -> float:
        return 1.0 - (2.0 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)

    return _values(loss, predictions, targets, class_axis)


def dice_loss_gradient(
    predictions: Array, targets: Array, smooth: float, class_axis: int | None, s: Array
) -> dict[str, Array]:
    def slope(p: Array, t: Array) -> Array:
        d = p.sum() + t.sum() + smooth
        return -(2.0 * t * d - (2.0 * (p * t).sum() + smooth)) / d**2

    return _gradient(slope, predictions, targets, class_axis, s)


def jaccard_loss(predictions: Array, targets: Array, smooth: float, class_axis: int | None) -> Array:
    def loss(p: Array, t: Array) -> float:
        both = (p * t).sum()
        return 1.0 - (both + smooth) / (p.sum() + t.sum() - both + smooth)

    return _values(loss, predictions, targets, class_axis)


def jaccard_loss_gradient(
    predictions: Array, targets: Array, smooth: float, class_axis: int | None, s: Array
) -> dict[str, Array]:
    def slope(p: Array, t: Array) -> Array:
        i = (p * t).sum()
        u = p.sum() + t.sum() - i
        return -(t * (u + i + 2.0 * smooth) - (i + smooth)) / (u + smooth) ** 2

    return _gradient(slope, predictions, targets, class_axis, s)


def _tversky(p: Array, t: Array, alpha: float, beta: float, smooth: float) -> tuple[float, Array]:
    """The loss of a mask, and its gradient."""
    i, fp, fn = (p * t).sum(), (p * (1.0 - t)).sum(), ((1.0 - p) * t).sum()
    e = alpha * fp + beta * fn
    loss = 1.0 - (i + smooth) / (i + alpha * fp + beta * fn + smooth)
    return loss, ((i + smooth) * (alpha * (1.0 - t) - beta * t) - e * t) / (i + e + smooth) ** 2


def tversky_loss(predictions: Array, targets: Array, class_axis: int | None, **options: float) -> Array:
    return _values(lambda p, t: _tversky(p, t, **options)[0], predictions, targets, class_axis)


def tversky_loss_gradient(
    predictions: Array, targets: Array, class_axis: int | None, s: Array, **options: float
) -> dict[str, Array]:
    return _gradient(lambda p, t: _tversky(p, t, **options)[1], predictions, targets, class_axis, s)


def focal_tversky_loss(
    predictions: Array, targets: Array, gamma: float, class_axis: int | None, **options: float
) -> Array:
    return _values(lambda p, t: _tversky(p, t, **options)[0] ** gamma, predictions, targets, class_axis)


def focal_tversky_loss_gradient(
    predictions: Array, targets: Array, gamma: float, class_axis: int | None, s: Array, **options: float
) -> dict[str, Array]:
    def slope(p: Array, t: Array) -> Array:
        loss, gradient = _tversky(p, t, **options)
        return gamma * loss ** (gamma - 1.0) * gradient

    return _gradient(slope, predictions, targets, class_axis, s)


def _classes(x: Array, class_axis: int) -> Array:
    """(samples, classes, pixels)."""
    x = np.moveaxis(x, class_axis, -1)
    x = x[None] if x.ndim == 2 else x
    return np.moveaxis(x.reshape(len(x), -1, x.shape[-1]), -1, 1)


def _from_classes(g: Array, like: Array, class_axis: int) -> Array:
    shape = np.moveaxis(like, class_axis, -1).shape
    return np.moveaxis(np.moveaxis(g, 1, -1).reshape(shape), -1, class_axis)


def _class_weights(t: Array) -> Array:
    """w_c = (min_k n_k / n_c)²; a class that is not there counts like the smallest one that is."""
    sizes = t.sum(axis=-1)
    smallest = min(n for n in sizes if n > 0.0)
    return np.array([(smallest / n) ** 2 if n > 0.0 else 1.0 for n in sizes])


def generalized_dice_loss(predictions: Array, targets: Array, smooth: float, class_axis: int) -> Array:
    losses = []
    for p, t in zip(_classes(predictions, class_axis), _classes(targets, class_axis), strict=True):
        w = _class_weights(t)
        above = 2.0 * (w * (p * t).sum(axis=-1)).sum() + smooth
        losses.append(1.0 - above / ((w * (p.sum(axis=-1) + t.sum(axis=-1))).sum() + smooth))
    return np.array(losses)


def generalized_dice_loss_gradient(
    predictions: Array, targets: Array, smooth: float, class_axis: int, s: Array
) -> dict[str, Array]:
    ps, ts = _classes(predictions, class_axis), _classes(targets, class_axis)
    g = np.zeros_like(ps)
    for i, (p, t) in enumerate(zip(ps, ts, strict=True)):
        w = _class_weights(t)
        d = (w * (p.sum(axis=-1) + t.sum(axis=-1))).sum() + smooth
        above = 2.0 * (w * (p * t).sum(axis=-1)).sum() + smooth
        g[i] = -w[:, None] * (2.0 * t * d - above) / d**2 * s[i]
    return {"predictions": _from_classes(g, predictions, class_axis)}


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


def _lovasz_classes(p: Array, y: Array, classes: str, ignore_index: Any) -> Any:
    """Yield class, the pixels that count, their errors, steps and labels, for each class that is averaged over."""
    counts = np.flatnonzero(np.ones(len(y), bool) if ignore_index is None else y != ignore_index)
    for c in range(len(p)):
        foreground = y[counts] == c
        if classes == "all" or foreground.any():
            errors = np.abs(foreground - p[c, counts])
            yield c, counts, errors, _steps(errors, foreground), foreground


def lovasz_softmax_loss(predictions: Array, targets: Array, class_axis: int, classes: str, ignore_index: Any) -> Array:
    p = _classes(predictions, class_axis)
    losses = []
    for one, y in zip(p, targets.reshape(len(p), -1), strict=True):
        each = [(errors * steps).sum() for _, _, errors, steps, _ in _lovasz_classes(one, y, classes, ignore_index)]
        losses.append(np.mean(each) if each else 0.0)
    return np.array(losses)


def lovasz_softmax_loss_gradient(
    predictions: Array, targets: Array, class_axis: int, classes: str, ignore_index: Any, s: Array
) -> dict[str, Array]:
    p = _classes(predictions, class_axis)
    g = np.zeros_like(p)
    for i, y in enumerate(targets.reshape(len(p), -1)):
        found = list(_lovasz_classes(p[i], y, classes, ignore_index))
        for c, counts, _, steps, foreground in found:
            g[i, c, counts] = steps * np.sign(p[i, c, counts] - foreground) / len(found) * s[i]
    return {"predictions": _from_classes(g, predictions, class_axis)}


def lovasz_hinge_loss(logits: Array, targets: Array) -> Array:
    def loss(z: Array, t: Array) -> float:
        errors = np.maximum(0.0, 1.0 - (2.0 * t - 1.0) * z)
        return float((errors * _steps(errors, t == 1.0)).sum())

    return _values(loss, logits, targets, None)


def lovasz_hinge_loss_gradient(logits: Array, targets: Array, s: Array) -> dict[str, Array]:
    def slope(z: Array, t: Array) -> Array:
        sign = 2.0 * t - 1.0
        errors = np.maximum(0.0, 1.0 - sign * z)
        return np.where(errors > 0.0, -sign * _steps(errors, t == 1.0), 0.0)

    return {"logits": _gradient(slope, logits, targets, None, s)["predictions"]}
