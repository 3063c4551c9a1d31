"""Losses with hand-derived gradients, for models that were compiled elsewhere.

Every loss comes as two functions, `name` and `name_gradient`; `value_and_gradient` gives both in one call.
"""

from mithril_losses import losses
from mithril_losses.backends import get_backend
from mithril_losses.catalogue import (
    both_of,
    catalogue,
    find_loss,
    given,
    gradient_of,
    unregister,
    value_and_gradient_of,
)
from mithril_losses.checking import check_gradient
from mithril_losses.execution import value_and_gradient
from mithril_losses.losses import *
from mithril_losses.models import CompiledModel
from mithril_losses.numerics.reduction import reduce_loss
from mithril_losses.objectives import CompositeLoss, Objective, Regularizer, ScheduledLoss, Term, WeightedLoss
from mithril_losses.objectives.schedules import cyclical_kl_weight, get_kl_weight
from mithril_losses.templates.base import Functions
from mithril_losses.templates.composed import Composed
from mithril_losses.templates.elements import elementwise
from mithril_losses.templates.unreduced import Losses, unreduced

__all__ = [
    "CompiledModel",
    "Composed",
    "CompositeLoss",
    "Functions",
    "Losses",
    "Objective",
    "Regularizer",
    "ScheduledLoss",
    "Term",
    "WeightedLoss",
    "both_of",
    "catalogue",
    "check_gradient",
    "cyclical_kl_weight",
    "elementwise",
    "find_loss",
    "get_backend",
    "get_kl_weight",
    "given",
    "gradient_of",
    "reduce_loss",
    "unreduced",
    "unregister",
    "value_and_gradient",
    "value_and_gradient_of",
]
__all__ += losses.__all__
