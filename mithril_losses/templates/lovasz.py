"""Lovász extensions of the Jaccard loss.

The Jaccard loss is a function of the set of wrong pixels. Lovász's extension also takes real errors: pixels join the
set in descending order of their errors, and each error is weighted by what its pixel adds to the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mithril_losses.backends.namespaces import Array, array_namespace, placement
from mithril_losses.numerics.stable import one_hot, put_back, stable_order, take_in_order
from mithril_losses.numerics.validation import as_dtype, compute_dtype, normalize_axis, quiet
from mithril_losses.templates.classes import read_class_weights, read_labels
from mithril_losses.templates.masks import Layout, Probabilities
from mithril_losses.templates.unreduced import Curvature, Losses, no_curvature


def jaccard_steps(xp: Any, errors: Array, foreground: Array) -> Array:
    """Return what each pixel (on the last axis) adds to the Jaccard loss; equal errors keep the order of the pixels."""
    order = stable_order(xp, -errors)
    foreground = take_in_order(xp, xp.astype(foreground, xp.int32), order)
    found = xp.cumulative_sum(foreground, axis=-1)
    joined = xp.arange(1, errors.shape[-1] + 1, dtype=found.dtype, **placement(errors))
    total = found[..., -1:]
    union = as_dtype(xp, total + joined - found, errors.dtype)
    left = as_dtype(xp, total - found, errors.dtype)
    # a foreground pixel removes 1 from the intersection, a background pixel adds 1 to the union
    before = xp.where(union == 1, 1.0, union - 1.0)
    by_background = xp.where(union == 1, 1.0, left / (before * union))
    return put_back(xp, xp.where(foreground == 1, 1.0 / union, by_background), order)


class Pixels(NamedTuple):
    """Class probabilities with their class indices, as (samples, classes, pixels) and (samples, pixels)."""

    xp: Any
    layout: Layout
    shape: tuple[int, ...]  # of the predictions, with the class axis moved behind the sample axis
    predicted: Any  # Probabilities or Softmax, in the layout of the predictions
    weights: Array | None  # of the classes: (classes, 1)
    labels: Array
    kept: Array | None
    illegal: Array | None

    @staticmethod
    def of(
        predictions: Array,
        targets: Array,
        class_axis: int,
        class_weights: Array | Sequence[float] | None,
        ignore_index: int | None,
        pool_batch: bool,
        activation: type[Probabilities] = Probabilities,
        name: str = "predictions",
    ) -> Pixels:
        """Return the pixels of predictions, which are probabilities or what `activation` makes into them.

        Raises:
            ValueError: the shapes do not fit, or a label is illegal.
            TypeError: predictions are not floating point, or class indices are not integers.
        """
        xp = array_namespace(**{name: predictions, "targets": targets})
        x = as_dtype(xp, predictions, compute_dtype(xp, predictions.dtype, name))
        layout = Layout.of(len(x.shape), class_axis, pool_batch)
        assert layout.classes is not None
        classes = x.shape[layout.classes]
        labels, kept, illegal = _read_label_maps(xp, tuple(x.shape), targets, layout.classes, ignore_index, name)
        weights = read_class_weights(xp, class_weights, classes, 2, x)
        without = tuple(labels.shape)
        samples = 1 if layout.batch is None else without[0]
        pixels = math.prod(without if layout.batch is None else without[1:])
        rows = (None if r is None else xp.reshape(r, (samples, pixels)) for r in (labels, kept, illegal))
        shape = (classes, *without) if layout.batch is None else (samples, classes, *without[1:])
        return Pixels(xp, layout, shape, activation(xp, x, layout.classes), weights, *rows)

    def flat(self, x: Array) -> Array:
        """Return an array in the layout of the predictions as (samples, classes, pixels)."""
        assert self.layout.classes is not None
        moved = self.xp.moveaxis(x, self.layout.classes, 0 if self.layout.batch is None else 1)
        samples, pixels = self.labels.shape
        return self.xp.reshape(moved, (samples, x.shape[self.layout.classes], pixels))

    def back(self, x: Array) -> Array:
        """Return an array (samples, classes, pixels) in the layout of the predictions."""
        return self.xp.moveaxis(
            self.xp.reshape(x, self.shape), 0 if self.layout.batch is None else 1, self.layout.classes
        )

    def errors(self) -> tuple[Array, Array]:
        """Return |[label = c] − p_c| and [label = c]; both are 0 at ignored pixels."""
        xp, p = self.xp, self.flat(self.predicted.p)
        foreground = one_hot(xp, self.labels, p.shape[1], 1, p)
        if self.predicted.q is None:
            errors = xp.abs(foreground - p)
        else:
            errors = xp.where(foreground > 0, self.flat(self.predicted.q), p)
        if self.kept is None:
            return errors, foreground
        kept = xp.expand_dims(self.kept, axis=1)
        return xp.where(kept, errors, 0.0), xp.where(kept, foreground, 0.0)


def _read_label_maps(
    xp: Any, shape: tuple[int, ...], targets: Array, axis: int, ignore_index: int | None, name: str
) -> tuple[Array, Array | None, Array | None]:
    """Return what `read_labels` does, for class indices that fit predictions of this shape."""
    without = shape[:axis] + shape[axis + 1 :]
    if tuple(targets.shape) != without:
        raise ValueError(
            f"targets must be class indices of shape {without} for {name} of shape {shape}, got {tuple(targets.shape)}"
        )
    return read_labels(xp, targets, shape[axis], ignore_index)


def check_label_maps(predictions: Array, targets: Array, class_axis: int, ignore_index: int | None, **_: Any) -> None:
    """Raise for an illegal label, which a trace cannot see."""
    xp = array_namespace(predictions=predictions, targets=targets)
    shape = tuple(predictions.shape)
    _read_label_maps(xp, shape, targets, normalize_axis("class_axis", class_axis, len(shape)), ignore_index, "scores")


def tied_errors(pixels: Pixels) -> tuple[Array, ...]:
    """Return what vanishes where a pixel's error is 0 or equals the error of another pixel."""
    errors, _ = pixels.errors()
    if pixels.kept is not None:
        errors = pixels.xp.where(pixels.xp.expand_dims(pixels.kept, axis=1), errors, float("inf"))
    with quiet(pixels.xp):  # ∞ − ∞ at ignored pixels
        return pixels.back(errors), pixels.back(error_gaps(pixels.xp, errors))


def error_gaps(xp: Any, errors: Array) -> Array:
    """Return the distance of each error to the nearest error of another pixel."""
    gaps = xp.abs(xp.expand_dims(errors, axis=-1) - xp.expand_dims(errors, axis=-2))
    own = xp.eye(errors.shape[-1], dtype=errors.dtype, **placement(errors)) > 0
    return xp.min(xp.where(own | xp.isnan(gaps), float("inf"), gaps), axis=-1)


def lovasz_losses(pixels: Pixels, classes: str, name: str) -> Losses:
    """Return the extension of each sample, averaged over its "present" classes or over "all" classes."""
    xp, layout = pixels.xp, pixels.layout
    errors, foreground = pixels.errors()
    steps = jaccard_steps(xp, errors, foreground)
    counted = xp.ones_like(errors[..., :1])
    if classes == "present":
        counted = as_dtype(xp, xp.any(foreground > 0, axis=-1, keepdims=True), errors.dtype)
    if pixels.weights is not None:
        counted = counted * pixels.weights
    total = xp.sum(counted, axis=1, keepdims=True)
    steps = steps * counted / xp.where(total == 0, 1.0, total)
    if pixels.illegal is not None:
        steps = xp.where(xp.any(pixels.illegal, axis=-1)[:, None, None], float("nan"), steps)
    values = xp.sum(xp.sum(steps * errors, axis=-1), axis=-1)

    def of_probabilities() -> Array:
        # an error of 0 has the slope 0; so do ignored pixels, whose errors are 0
        signs = xp.where(errors == 0, 0.0, 1.0 - 2.0 * foreground) + 0.0 * errors  # a NaN stays
        return pixels.back(steps * signs)

    def curvature() -> Curvature:
        predicted = pixels.predicted
        if type(predicted) is Probabilities:
            return no_curvature(xp, {name: predicted.p})
        return Curvature(  # only that of the probabilities
            lambda vectors: {name: predicted.turn(of_probabilities(), predicted.pull(vectors[name]))},
            lambda: {name: predicted.turn_diagonal(of_probabilities())},
        )

    summed = tuple(axis for axis in range(len(pixels.shape)) if axis != layout.batch)
    values = xp.reshape(values, () if layout.batch is None else (values.shape[0],))
    return Losses(values, lambda: {name: pixels.predicted.pull(of_probabilities())}, summed, curvature=curvature)
