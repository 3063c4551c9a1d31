"""PyTorch: value and gradient in no graph, and `torch.compile`."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from mithril_losses.catalogue import Pair


def in_no_graph() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which PyTorch records no graph; inside its transforms, which differentiate, one that does."""
    torch = sys.modules["torch"]
    is_transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext() if is_transformed else torch.no_grad()
    return context


def compiled_by_torch(pair: Pair) -> Any:
    """Return the plain functions of a loss compiled by `torch.compile`, once for as long as the loss is registered."""
    found = pair.prepared.get("torch")
    if found is None:
        import torch

        found = pair.prepared.setdefault("torch", torch.compile(pair.plain, fullgraph=True))
    return found
