"""Training of a compiled model with the gradients of an objective on its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mithril_losses.training.run import Progress, TrainingResult, train

__all__ = ["Progress", "TrainingResult", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mithril_losses.training import run  # here, because its libraries take a second to import

    return getattr(run, name)
