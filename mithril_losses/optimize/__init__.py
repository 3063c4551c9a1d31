"""A model and an objective as functions of one vector, for `scipy.optimize`."""

from __future__ import annotations

from mithril_losses.optimize.scipy import ScipyObjective, scipy_objective

__all__ = ["ScipyObjective", "scipy_objective"]
