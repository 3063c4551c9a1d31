"""Losses with hand-derived gradients, for models that were compiled elsewhere.

Every loss comes as two functions, `name` and `name_gradient`; `value_and_gradient` gives both in one call.
"""

from mithril_losses import (
    adversarial,
    angular,
    boxes,
    classification,
    contrastive,
    divergence,
    geometric,
    image,
    language,
    likelihood,
    mesh,
    metric_learning,
    perceptual,
    regression,
    regularization,
    segmentation,
    transport,
    variational,
)
from mithril_losses._elementwise import elementwise
from mithril_losses._execution import value_and_gradient
from mithril_losses._pairs import (
    both_of,
    catalogue,
    find_loss,
    given,
    gradient_of,
    unregister,
    value_and_gradient_of,
)
from mithril_losses._reduction import reduce_loss
from mithril_losses._unreduced import Losses, unreduced
from mithril_losses.adversarial import *
from mithril_losses.angular import *
from mithril_losses.backends import get_backend
from mithril_losses.boxes import *
from mithril_losses.checking import check_gradient
from mithril_losses.classification import *
from mithril_losses.contrastive import *
from mithril_losses.divergence import *
from mithril_losses.geometric import *
from mithril_losses.image import *
from mithril_losses.language import *
from mithril_losses.likelihood import *
from mithril_losses.mesh import *
from mithril_losses.metric_learning import *
from mithril_losses.models import CompiledModel
from mithril_losses.objectives import CompositeLoss, Objective, Regularizer, ScheduledLoss, Term, WeightedLoss
from mithril_losses.objectives.schedules import cyclical_kl_weight, get_kl_weight
from mithril_losses.perceptual import *
from mithril_losses.regression import *
from mithril_losses.regularization import *
from mithril_losses.segmentation import *
from mithril_losses.transport import *
from mithril_losses.variational import *

__all__ = [
    "CompiledModel",
    "CompositeLoss",
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
__all__ += adversarial.__all__
__all__ += angular.__all__
__all__ += boxes.__all__
__all__ += classification.__all__
__all__ += contrastive.__all__
__all__ += divergence.__all__
__all__ += geometric.__all__
__all__ += image.__all__
__all__ += language.__all__
__all__ += mesh.__all__
__all__ += likelihood.__all__
__all__ += metric_learning.__all__
__all__ += perceptual.__all__
__all__ += regression.__all__
__all__ += regularization.__all__
__all__ += segmentation.__all__
__all__ += transport.__all__
__all__ += variational.__all__
