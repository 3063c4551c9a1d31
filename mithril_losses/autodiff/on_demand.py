"""Gradients in PyTorch's autograd graph that do not keep their intermediate results there."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def differentiable_on_demand(gradient: F) -> F:
    """Compute a gradient outside the graph, and once more inside it if its own derivative is wanted.

    This is for gradients over all pairs, because the graph would keep every pair. Other libraries and the transforms of
    PyTorch use the function unchanged.
    """

    @functools.wraps(gradient)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or not any(isinstance(x, torch.Tensor) for x in (*arguments, *keywords.values())):
            return gradient(*arguments, **keywords)
        from mithril_losses.autodiff.on_demand_torch import on_demand

        return on_demand(gradient, arguments, keywords)

    return cast(F, wrapped)
