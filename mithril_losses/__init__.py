"""Losses with hand-derived gradients, for models that were compiled elsewhere.

Every loss comes as two functions, `name` and `name_gradient`; `value_and_gradient` gives both in one call.
"""

import types
import typing

__version__ = "0.1.0"

from mithril_losses.backends import get_backend as get_backend
from mithril_losses.backends.named import NamedArrays as NamedArrays
from mithril_losses.catalogue import both_of as both_of
from mithril_losses.catalogue import catalogue as catalogue
from mithril_losses.catalogue import find_loss as find_loss
from mithril_losses.catalogue import given as given
from mithril_losses.catalogue import gradient_of as gradient_of
from mithril_losses.catalogue import unregister as unregister
from mithril_losses.catalogue import value_and_gradient_of as value_and_gradient_of
from mithril_losses.checking import check_gradient as check_gradient
from mithril_losses.elsewhere import no_such_name as _no_such_name
from mithril_losses.execution import value_and_gradient as value_and_gradient
from mithril_losses.execution.curvature import has_curvature as has_curvature
from mithril_losses.execution.curvature import hessian_diagonal as hessian_diagonal
from mithril_losses.execution.curvature import hessian_factor_product as hessian_factor_product
from mithril_losses.execution.curvature import hessian_factor_transpose_product as hessian_factor_transpose_product
from mithril_losses.execution.curvature import hessian_vector_product as hessian_vector_product
from mithril_losses.execution.curvature import sample_gradient as sample_gradient
from mithril_losses.execution.curvature import value_gradient_and_hessian as value_gradient_and_hessian
from mithril_losses.losses import *
from mithril_losses.models import CompiledModel as CompiledModel
from mithril_losses.numerics.reduction import reduce_loss as reduce_loss
from mithril_losses.objectives import CompositeLoss as CompositeLoss
from mithril_losses.objectives import Objective as Objective
from mithril_losses.objectives import Regularizer as Regularizer
from mithril_losses.objectives import ScheduledLoss as ScheduledLoss
from mithril_losses.objectives import Term as Term
from mithril_losses.objectives import WeightedLoss as WeightedLoss
from mithril_losses.objectives.schedules import cyclical_kl_weight as cyclical_kl_weight
from mithril_losses.objectives.schedules import get_kl_weight as get_kl_weight
from mithril_losses.shards import Split as Split
from mithril_losses.templates.base import Functions as Functions
from mithril_losses.templates.composed import Composed as Composed
from mithril_losses.templates.elements import elementwise as elementwise
from mithril_losses.templates.unreduced import Losses as Losses
from mithril_losses.templates.unreduced import unreduced as unreduced
from mithril_losses.training.fit import fit as fit

if not typing.TYPE_CHECKING:  # `as` and star imports tell type checkers what is public
    __all__ = [name for name, x in globals().items() if name[0] != "_" and not isinstance(x, types.ModuleType)]

    def __getattr__(name: str) -> typing.NoReturn:
        """Say what a loss of another library is called here; type checkers should find no such attribute."""
        told = "" if name.startswith("_") else _no_such_name(name, __all__)
        raise AttributeError(f"mithril_losses has no {name!r}{told}")
