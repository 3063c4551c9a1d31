"""Objectives and metrics of CatBoost, which maximises: its derivatives are those of −L."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mithril_losses.boosting.scored import ScoredLoss


class _OfALoss:
    no_jit = True  # or CatBoost tries to compile the methods with numba, and warns that it cannot

    def __init__(self, scored: ScoredLoss) -> None:
        self._scored = scored


class CatBoostObjective(_OfALoss):
    """An objective of one score per sample."""

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> list[tuple[float, float]]:
        """Return −∂L/∂z and −∂²L/∂z² of each sample."""
        scores = np.asarray(approxes, dtype=np.float64)
        gradient, hessian = self._scored.derivatives(scores, np.asarray(targets), weights)
        return list(zip((-gradient).tolist(), (-hessian).tolist(), strict=True))


class CatBoostClasses(_OfALoss):
    """An objective of a row of class scores per sample."""

    def calc_ders_multi(
        self, approxes: Sequence[float], target: float, weight: float | None
    ) -> tuple[list[float], list[list[float]]]:
        """Return −∂L/∂z, and the matrix −∂²L/∂z∂zᵀ, of one sample."""
        scores = np.asarray(approxes, dtype=np.float64)
        gradient, hessian = self._scored.of_a_row(scores, target, 1.0 if weight is None else weight)
        return (-gradient).tolist(), (-hessian).tolist()


class CatBoostMetric(_OfALoss):
    """The weighted mean of a loss."""

    def is_max_optimal(self) -> bool:
        """A loss is better if it is smaller."""
        return False

    def evaluate(self, approxes: Any, targets: Any, weights: Any) -> tuple[float, float]:
        """Return the sum of weighted losses and the sum of weights."""
        rows = np.asarray(approxes, dtype=np.float64)
        return self._scored.total(rows.T if self._scored.has_classes else rows[0], np.asarray(targets), weights)

    def get_final_error(self, error: float, weight: float) -> float:
        """Return the mean."""
        return error / weight if weight else 0.0
