"""From raw scores to predictions: the inverse of the link of a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from mithril_losses.catalogue import find_loss

LOGITS = (
    "binary_cross_entropy_with_logits",
    "bernoulli_negative_log_likelihood",
    "focal_loss_with_logits",
    "logistic_loss",
)
LOG_MEANS = (
    "gamma_negative_log_likelihood",
    "inverse_gaussian_negative_log_likelihood",
    "poisson_negative_log_likelihood",
    "tweedie_negative_log_likelihood",
)
_CLASSES = ("cross_entropy_with_logits",)


def inverse_link(loss: str | Callable[..., Any], **options: Any) -> Callable[[Any], Any]:
    """Return the function that turns raw scores z into predictions: the mean, or probabilities.

    It is σ(z) for logits, σ(2z) for the exponential loss, eᶻ for logarithms of a mean, the softmax of rows of class
    scores, and z itself for every other loss.

    Args:
        loss: a registered loss, its name or its gradient.
        **options: the options of the objective.

    Example:
        >>> import numpy as np
        >>> inverse_link("poisson_negative_log_likelihood")(np.log(np.array([3.0]))).round(12).tolist()
        [3.0]
        >>> inverse_link("huber_loss")(np.array([3.0])).tolist()
        [3.0]
    """
    name = find_loss(loss).name
    if name in LOGITS:
        return lambda scores: expit(np.asarray(scores))
    if name == "exponential_loss":
        return lambda scores: expit(2.0 * np.asarray(scores))
    if name in LOG_MEANS and options.get("log_input", True):
        return lambda scores: np.exp(np.asarray(scores))
    if name in _CLASSES:
        return lambda scores: softmax(np.asarray(scores), axis=-1)
    return lambda scores: np.asarray(scores)
