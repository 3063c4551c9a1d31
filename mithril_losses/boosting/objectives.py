"""Objectives and metrics, in the form that each library calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from mithril_losses.boosting.catboost import CatBoostClasses, CatBoostMetric, CatBoostObjective
from mithril_losses.boosting.scored import Numbers, ScoredLoss
from mithril_losses.domains import Choice
from mithril_losses.templates.second_order import Kind

Library = Literal["xgboost", "lightgbm", "catboost", "scikit-learn"]
_LIBRARIES = Choice(get_args(Library))
_WITH_METRICS = Choice(get_args(Library)[:3])


def objective(loss: str | Callable[..., Any], *, library: Library, curvature: Kind = "bound", **options: Any) -> Any:
    """Return ∂L/∂z and ∂²L/∂z² of a loss L of raw scores z, as an objective of a library for gradient boosting.

    The gradients are those of the weighted sum over samples: each weight counts once. Scores are raw, before any link.

    Args:
        loss: a registered loss of one array of scores and one of labels, its name or its gradient.
        library: "xgboost", for `xgboost.train(…, obj=…)`; "lightgbm", for `lightgbm.train({"objective": …}, …)`;
            "catboost", for `CatBoost({"loss_function": …})`; or "scikit-learn", for
            `HistGradientBoostingRegressor(loss=…)`, whose interface of losses is private there and may change.
        curvature: "bound", second derivatives that are never negative, as trees need them; "exact" or "fisher", see
            `hessian_diagonal`. CatBoost takes the whole matrix of several scores, of which there is no bound: "exact"
            is used for it.
        **options: the options of the loss, and `upstream`, which multiplies the loss.

    Raises:
        ValueError: the library is unknown; the loss has no curvature, or not one array of scores; or, from the
            objective, labels, weights and scores do not fit.

    Example:
        >>> import numpy as np
        >>> class Data:
        ...     def get_label(self): return np.array([1.0, 2.0])
        ...     def get_weight(self): return np.array([1.0, 3.0])
        >>> gradient, hessian = objective("mse_loss", library="lightgbm", upstream=0.5)(np.array([0.0, 0.0]), Data())
        >>> gradient.tolist(), hessian.tolist()
        ([-1.0, -6.0], [1.0, 3.0])
    """
    scored = ScoredLoss(loss, curvature, options)
    if _LIBRARIES.check("library", library) == "scikit-learn":
        from mithril_losses.boosting.scikit_learn import ScikitLearnLoss

        return ScikitLearnLoss(scored)
    if library == "catboost":
        return CatBoostClasses(ScoredLoss(loss, "exact", options)) if scored.has_classes else CatBoostObjective(scored)

    def of_scores(scores: Any, data: Any) -> tuple[Numbers, Numbers]:
        return scored.derivatives(np.asarray(scores), *_labels_and_weights(data))

    return of_scores


def metric(loss: str | Callable[..., Any], *, library: Library, name: str | None = None, **options: Any) -> Any:
    """Return the weighted mean of a loss of raw scores, as a metric of a library for gradient boosting.

    Args:
        loss: as in `objective`.
        library: "xgboost", for `custom_metric=`; "lightgbm", for `feval=`; or "catboost", for `eval_metric`.
        name: what the library calls the metric; the name of the loss by default.
        **options: as in `objective`.

    Example:
        (1² + 3 · 2²) / 4 = 3.25.

        >>> import numpy as np
        >>> class Data:
        ...     def get_label(self): return np.array([1.0, 2.0])
        ...     def get_weight(self): return np.array([1.0, 3.0])
        >>> metric("mse_loss", library="xgboost")(np.array([0.0, 0.0]), Data())
        ('mse_loss', 3.25)
    """
    scored = ScoredLoss(loss, "bound", options)
    called = name or scored.name
    if _WITH_METRICS.check("library", library) == "catboost":
        return CatBoostMetric(scored)

    def mean(scores: Any, data: Any) -> float:
        total, mass = scored.total(np.asarray(scores), *_labels_and_weights(data))
        return total / mass if mass else 0.0

    if library == "xgboost":
        return lambda scores, data: (called, mean(scores, data))
    return lambda scores, data: (called, mean(scores, data), False)  # lower is better


def _labels_and_weights(data: Any) -> tuple[Any, Any]:
    if not hasattr(data, "get_label"):
        raise TypeError(
            f"train() of XGBoost and LightGBM passes scores and a data set, got {type(data).__name__}: estimators with "
            "the interface of scikit-learn pass labels and scores, and take no objective of this form"
        )
    return data.get_label(), data.get_weight()
