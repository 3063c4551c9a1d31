"""Losses as objectives and metrics of gradient boosting: XGBoost, LightGBM and CatBoost.

These libraries have no automatic differentiation: they take the gradient and the second derivatives of a loss. Every
loss of the catalogue with one array of scores and with curvature is an objective.
"""

from __future__ import annotations

from mithril_losses.boosting.links import inverse_link
from mithril_losses.boosting.objectives import metric, objective
from mithril_losses.boosting.start import initial_score

__all__ = ["initial_score", "inverse_link", "metric", "objective"]
