"""Gradients that stay in PyTorch's autograd graph without keeping there what they are computed from."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def differentiable_on_demand(gradient: F) -> F:
    """Have a gradient computed outside of the graph, and once more within it where its own derivative is wanted.

    For gradients over all pairs, of which the graph would keep each one. Every other library sees the function as it
    is, and so do the transforms of PyTorch.
    """

    @functools.wraps(gradient)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or not any(isinstance(x, torch.Tensor) for x in (*arguments, *keywords.values())):
            return gradient(*arguments, **keywords)
        from mithril_losses.numerics.torch_graph import on_demand

        return on_demand(gradient, arguments, keywords)

    return cast(F, wrapped)
