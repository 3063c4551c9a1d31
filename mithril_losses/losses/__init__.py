"""The mathematics: a module per family of losses, and in it each loss beside its gradient."""

import types
import typing

from mithril_losses.losses.adversarial import *
from mithril_losses.losses.angular import *
from mithril_losses.losses.boxes import *
from mithril_losses.losses.classification import *
from mithril_losses.losses.contrastive import *
from mithril_losses.losses.divergence import *
from mithril_losses.losses.geometric import *
from mithril_losses.losses.image import *
from mithril_losses.losses.language import *
from mithril_losses.losses.likelihood import *
from mithril_losses.losses.mesh import *
from mithril_losses.losses.metric_learning import *
from mithril_losses.losses.perceptual import *
from mithril_losses.losses.regression import *
from mithril_losses.losses.regularization import *
from mithril_losses.losses.robust import *
from mithril_losses.losses.segmentation import *
from mithril_losses.losses.segmentation_logits import *
from mithril_losses.losses.transport import *
from mithril_losses.losses.variational import *

if not typing.TYPE_CHECKING:  # type checkers take all of a star import as public, unless there is a list
    __all__ = [name for name, x in globals().items() if name[0] != "_" and not isinstance(x, types.ModuleType)]
