"""Objectives: weighted and scheduled losses on the outputs of one model, and the `output_gradients` they send back."""

from mithril_losses.objectives.composition import CompositeLoss, ScheduledLoss, WeightedLoss
from mithril_losses.objectives.objective import Objective, ObjectiveResult
from mithril_losses.objectives.schedules import (
    Schedule,
    constant,
    cosine,
    cyclical,
    cyclical_kl_weight,
    exponential_warmup,
    get_kl_weight,
    linear_warmup,
)
from mithril_losses.objectives.terms import Regularizer, Term

__all__ = [
    "CompositeLoss",
    "Objective",
    "ObjectiveResult",
    "Regularizer",
    "Schedule",
    "ScheduledLoss",
    "Term",
    "WeightedLoss",
    "constant",
    "cosine",
    "cyclical",
    "cyclical_kl_weight",
    "exponential_warmup",
    "get_kl_weight",
    "linear_warmup",
]
