"""Where boosting starts: the best constant score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from mithril_losses.boosting.scored import Numbers, ScoredLoss

_DOUBLINGS = 64
_NEWTON_STEPS = 100


def initial_score(
    loss: str | Callable[..., Any], targets: Any, weights: Any = None, *, outputs: int | None = None, **options: Any
) -> Any:
    """Return the constant raw score of least weighted loss: where Σ w ∂ℓ/∂z changes its sign.

    Give it to a booster as the score that it starts from: `base_margin` of XGBoost, `init_score` of LightGBM,
    `baseline` of CatBoost.

    Args:
        loss: a registered loss of one array of scores and one of labels, its name or its gradient. If the loss is not
            convex, the optimum is a local one, near the median of the targets where the loss is one of the error.
        targets: the labels of the samples.
        weights: a weight ≥ 0 for each sample, or None.
        outputs: the number of scores of a sample, if there are several for one label: of classes, or of quantiles.
        **options: the options of the loss.

    Returns:
        A float, or an array with a score for each output.

    Raises:
        ValueError: there is no finite optimum, as for labels that are all of one class; or the arguments do not fit.

    Example:
        >>> import numpy as np
        >>> round(np.exp(initial_score("poisson_negative_log_likelihood", np.array([1.0, 5.0]))).item(), 12)
        3.0
        >>> initial_score("cross_entropy_with_logits", np.array([0, 1, 1, 1]), outputs=2).round(6).tolist()
        [-0.549306, 0.549306]
    """
    scored = ScoredLoss(loss, "bound", options)
    labels = np.asarray(targets)
    if scored.has_classes:
        return _best_row(scored, labels, weights, outputs or int(labels.max()) + 1)
    if labels.ndim == 2 or outputs is not None:
        count = labels.shape[1] if labels.ndim == 2 else int(outputs or 1)
        return np.array([best_score(scored, labels, weights, count, i) for i in range(count)])
    return best_score(scored, labels, weights)


def best_score(scored: ScoredLoss, labels: Numbers, weights: Any, outputs: int = 0, output: int = 0) -> float:
    """Return the best constant for one output; the others do not matter to it."""
    shape = (len(labels), outputs) if outputs else labels.shape

    def slopes(score: float) -> tuple[float, float]:
        found = scored.derivatives(np.full(shape, score), labels, weights)
        first, second = (float(np.sum(x[:, output] if outputs else x)) for x in found)
        return first, second

    def slope(score: float) -> float:
        return slopes(score)[0]

    own = labels[:, output] if labels.ndim == 2 else labels
    start = float(np.median(own)) if "translation_invariant" in scored.pair.properties else 0.0
    first = slope(start)
    if first == 0.0:
        return start
    step = 1.0 if first < 0.0 else -1.0
    for _ in range(_DOUBLINGS):
        last, bound = slopes(start + step)
        if last == bound == 0.0:  # the loss is level: the slope has vanished, but not at an optimum
            break
        if last * first <= 0.0:
            return float(brentq(slope, start, start + step, xtol=1e-14 * max(1.0, abs(start + step)), rtol=1e-14))
        step *= 2.0
    raise ValueError(f"no constant score is the best one for {scored.name}: its loss falls without end")


def _best_row(scored: ScoredLoss, labels: Numbers, weights: Any, outputs: int) -> Numbers:
    """Return the best constant row of class scores, of mean 0, by Newton's method; the loss is convex."""
    scores = np.zeros(outputs)
    for _ in range(_NEWTON_STEPS):
        rows = np.tile(scores, (len(labels), 1))
        gradient, bound = (x.sum(axis=0) for x in scored.derivatives(rows, labels, weights))
        step = gradient / np.maximum(bound, np.finfo(float).tiny)
        scores = scores - step
        if np.abs(step).max() <= 1e-14 * max(1.0, np.abs(scores).max()):
            best: Numbers = scores - scores.mean()
            return best
    raise ValueError(f"no constant row of scores is the best one for {scored.name}: some class may have no sample")
