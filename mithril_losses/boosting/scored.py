"""A loss as boosters take it: of raw scores, with a label and a weight for each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mithril_losses.catalogue import Pair, find_loss
from mithril_losses.domains import ClassTargets
from mithril_losses.execution.curvature import hessian_vector_product, value_gradient_and_hessian
from mithril_losses.templates.second_order import Kind

_OWN = ("reduction", "weights", "normalizer", "axis")  # of a booster, which adds up samples by itself

Numbers = np.ndarray[Any, Any]


class ScoredLoss:
    """The sum of a loss over samples: scores are (samples,), or (samples, outputs) for several outputs.

    Args:
        loss: a registered loss, its name or its gradient.
        curvature: see `hessian_diagonal`.
        options: the options of the loss, and `upstream`, which multiplies the loss.

    Raises:
        ValueError: the loss has no curvature, or not one array of scores, or an option belongs to the booster.
    """

    def __init__(self, loss: str | Callable[..., Any], curvature: Kind, options: Mapping[str, Any]) -> None:
        self.pair: Pair = find_loss(loss)
        self.name = self.pair.name
        if len(self.pair.wrt) != 1 or len(self.pair.array_arguments) != 2 or not self.pair.takes_reduction:
            raise ValueError(
                f"a booster has one array of scores and one of labels, but {self.name} takes "
                f"{', '.join(self.pair.array_arguments)}"
            )
        self.has_classes = isinstance(self.pair.domain.get(self.pair.array_arguments[1]), ClassTargets)
        if not self.has_classes and not self._is_of_single_scores():
            raise ValueError(
                f"a booster takes losses of single scores, or of a row of class scores: {self.name} is neither"
            )
        for name in _OWN:
            if name in options:
                raise ValueError(f"{name} is no option of an objective: the booster has the samples and their weights")
        self.options = dict(options)
        self._both = value_gradient_and_hessian(self.pair.value, curvature=curvature)
        self._product = hessian_vector_product(self.pair.value, curvature=curvature)

    def derivatives(self, scores: Numbers, labels: Any, weights: Any) -> tuple[Numbers, Numbers]:
        """Return the gradient and the diagonal of the Hessian, each in the shape of the scores."""
        targets, given = self._given(scores, labels, weights)
        _, gradient, hessian = self._both(scores, targets, reduction="sum", **given, **self.options)
        return gradient, hessian

    def of_a_row(self, scores: Numbers, label: Any, weight: float) -> tuple[Numbers, Numbers]:
        """Return the gradient and the whole Hessian of one sample with several scores."""
        outputs = len(scores)
        rows, labels = np.tile(scores, (outputs, 1)), np.full(outputs, label)
        targets, given = self._given(rows, labels, np.full(outputs, weight))
        hessian = self._product(rows, targets, vector=np.eye(outputs), reduction="sum", **given, **self.options)
        gradient, _ = self.derivatives(rows[:1], labels[:1], np.full(1, weight))
        return gradient[0], hessian

    def losses(self, scores: Numbers, labels: Any, weights: Any) -> Numbers:
        """Return the weighted loss of each score, or of each row of class scores."""
        targets, given = self._given(scores, labels, weights)
        own = {name: x for name, x in self.options.items() if name != "upstream"}
        found: Numbers = self.pair.value(scores, targets, reduction="none", **given, **own)
        return float(self.options.get("upstream", 1.0)) * found

    def total(self, scores: Numbers, labels: Any, weights: Any) -> tuple[float, float]:
        """Return the sum of weighted losses, and the sum of the weights that a mean divides by."""
        losses = self.losses(scores, labels, weights)
        _, given = self._given(scores, labels, weights)
        shares = np.broadcast_to(given.get("weights", np.ones(())), losses.shape)
        return float(np.sum(losses, dtype=np.float64)), float(np.sum(shares, dtype=np.float64))

    def _is_of_single_scores(self) -> bool:
        terms = self.pair.terms
        return terms.compose is not None or (bool(terms.elements) and getattr(terms, "rows", None) is None)

    def _given(self, scores: Numbers, labels: Any, weights: Any) -> tuple[Numbers, dict[str, Numbers]]:
        """Return the labels as the loss takes them, and the weights as an argument of it.

        Raises:
            ValueError: scores, labels and weights do not fit, or a weight is negative.
        """
        targets = self._targets(scores, np.asarray(labels))
        if weights is None or np.size(weights) == 0:
            return targets, {}
        found = np.asarray(weights, dtype=scores.dtype)
        if found.shape != scores.shape[:1]:
            raise ValueError(f"weights must have one number per sample, {scores.shape[:1]}, got {found.shape}")
        if not (found >= 0.0).all():
            raise ValueError(f"weights must not be negative, got {found[~(found >= 0.0)][0]}")
        return targets, {"weights": found if self.has_classes or scores.ndim == 1 else found[:, None]}

    def _targets(self, scores: Numbers, labels: Numbers) -> Numbers:
        if self.has_classes:
            if scores.ndim != 2:
                raise ValueError(
                    f"{self.name} takes a row of scores, one per class: tell the booster how many there are"
                )
            if labels.ndim == 2:
                return labels.astype(scores.dtype)
            if (labels != np.floor(labels)).any():
                raise ValueError(f"labels must be class indices, got {labels[labels != np.floor(labels)][0]}")
            return labels.astype(np.int64)
        if labels.size == scores.size:
            return labels.reshape(scores.shape).astype(scores.dtype)
        if scores.ndim == 2 and labels.shape == scores.shape[:1] and self._has_an_option_for_each(scores.shape[1]):
            return np.repeat(labels[:, None], scores.shape[1], axis=1).astype(scores.dtype)
        raise ValueError(
            f"{self.name} takes a label for each score, got scores of shape {scores.shape} and labels of shape "
            f"{labels.shape}"
        )

    def _has_an_option_for_each(self, outputs: int) -> bool:
        return any(np.shape(option)[-1:] == (outputs,) for option in self.options.values())
