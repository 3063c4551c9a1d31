"""PyTorch: value and gradient in no graph, and `torch.compile`."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from mithril_losses.catalogue import Pair


def in_no_graph() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which PyTorch records no graph; inside its transforms, which differentiate, one that does."""
    torch = sys.modules["torch"]
    is_transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext() if is_transformed else torch.no_grad()
    return context


def can_compile(x: Any) -> bool:
    """Whether a tensor is on an accelerator for which `torch.compile` finds a compiler."""
    return not x.is_cpu and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def mark_written(tensors: Iterable[Any]) -> None:
    """Tell autograd that tensors were written through NumPy views: a graph that needs their old values then raises."""
    torch = sys.modules["torch"]
    torch.autograd.graph.increment_version([x for x in tensors if not x.is_inference()])


def compiled_by_torch(pair: Pair) -> Any:
    """Return the plain functions of a loss compiled by `torch.compile`, once for as long as the loss is registered."""
    found = pair.prepared.get("torch")
    if found is None:
        import torch

        found = pair.prepared.setdefault("torch", torch.compile(pair.plain, fullgraph=True))
    return found
