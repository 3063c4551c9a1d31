"""Training of a compiled model with the gradients of an objective on its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mithril_losses.training.errors import DivergedError, UserError
from mithril_losses.training.fit import Epoch, FitInterrupted, FitResult, fit
from mithril_losses.training.loop import Progress
from mithril_losses.training.optimizers import Adam, AdamW, Sgd

if TYPE_CHECKING:
    from mithril_losses.training.run import TrainingResult, train

__all__ = [
    "Adam",
    "AdamW",
    "DivergedError",
    "Epoch",
    "FitInterrupted",
    "FitResult",
    "Progress",
    "Sgd",
    "TrainingResult",
    "UserError",
    "fit",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in ("TrainingResult", "train"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mithril_losses.training import run  # here, because it needs the extra `cli`

    return getattr(run, name)
