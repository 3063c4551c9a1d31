"""Losses for the gradient boosting of scikit-learn, whose interface of losses is private and may change."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn._loss.link import IdentityLink, LogitLink, LogLink
from sklearn._loss.loss import BaseLoss

from mithril_losses.boosting.links import LOG_MEANS, LOGITS
from mithril_losses.boosting.scored import Numbers, ScoredLoss
from mithril_losses.boosting.start import best_score


class ScikitLearnLoss(BaseLoss):  # type: ignore[misc]  # scikit-learn has no types
    """A loss of one score per sample, for `HistGradientBoostingRegressor(loss=…)`.

    Losses of the error that are linear around almost every point, such as the absolute error and the pinball loss, get
    the values of their leaves as scikit-learn's own losses do: the best constant of each leaf.

    Args:
        scored: the loss.

    Raises:
        ValueError: the loss takes several scores per sample.
    """

    def __init__(self, scored: ScoredLoss) -> None:
        if scored.has_classes:
            raise ValueError(f"scikit-learn takes losses of one score per sample, but {scored.name} takes a row")
        logarithmic = scored.name in LOG_MEANS and scored.options.get("log_input", True)
        link = LogLink if logarithmic else LogitLink if scored.name in LOGITS else IdentityLink
        super().__init__(_Compiled(scored), link())
        self._scored = scored
        # it shifts the scores of a leaf by the best constant for what is left of its targets
        self.differentiable = not {"zero_curvature", "translation_invariant"} <= scored.pair.properties.keys()
        self.approx_hessian = not self.differentiable

    def fit_intercept_only(self, y_true: Any, sample_weight: Any = None) -> Numbers:
        """Return the best constant score."""
        return np.asarray(best_score(self._scored, np.asarray(y_true, dtype=np.float64), sample_weight))


class _Compiled:
    """What scikit-learn expects of its compiled losses: results are written into arrays."""

    def __init__(self, scored: ScoredLoss) -> None:
        self._scored = scored

    def loss(self, y_true: Any, raw_prediction: Any, sample_weight: Any, loss_out: Any, n_threads: int) -> None:
        """Write the weighted losses."""
        loss_out[...] = self._scored.losses(raw_prediction, y_true, sample_weight)

    def gradient(self, y_true: Any, raw_prediction: Any, sample_weight: Any, gradient_out: Any, n_threads: int) -> None:
        """Write the gradient."""
        gradient_out[...] = self._scored.derivatives(raw_prediction, y_true, sample_weight)[0]

    def loss_gradient(
        self, y_true: Any, raw_prediction: Any, sample_weight: Any, loss_out: Any, gradient_out: Any, n_threads: int
    ) -> None:
        """Write the weighted losses and the gradient."""
        self.loss(y_true, raw_prediction, sample_weight, loss_out, n_threads)
        self.gradient(y_true, raw_prediction, sample_weight, gradient_out, n_threads)

    def gradient_hessian(
        self, y_true: Any, raw_prediction: Any, sample_weight: Any, gradient_out: Any, hessian_out: Any, n_threads: int
    ) -> None:
        """Write the gradient and the diagonal of the Hessian."""
        gradient_out[...], hessian_out[...] = self._scored.derivatives(raw_prediction, y_true, sample_weight)
