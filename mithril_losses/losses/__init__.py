"""The mathematics: a module per family of losses, and in it each loss beside its gradient."""

from mithril_losses.losses import (
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
from mithril_losses.losses.segmentation import *
from mithril_losses.losses.transport import *
from mithril_losses.losses.variational import *

__all__: list[str] = []
__all__ += adversarial.__all__
__all__ += angular.__all__
__all__ += boxes.__all__
__all__ += classification.__all__
__all__ += contrastive.__all__
__all__ += divergence.__all__
__all__ += geometric.__all__
__all__ += image.__all__
__all__ += language.__all__
__all__ += likelihood.__all__
__all__ += mesh.__all__
__all__ += metric_learning.__all__
__all__ += perceptual.__all__
__all__ += regression.__all__
__all__ += regularization.__all__
__all__ += segmentation.__all__
__all__ += transport.__all__
__all__ += variational.__all__
