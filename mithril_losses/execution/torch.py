"""PyTorch: views of tensors for NumPy, and `torch.compile`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import namespace_of
from mithril_losses.catalogue import Pair
from mithril_losses.numerics.trees import map_leaves


def numpy_views(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments with NumPy views of the tensors, or None if one is in a graph, traced or not on the host."""
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling():
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0:
        return None  # torch.func differentiates, or PyTorch in forward mode
    views, named = list(arguments), dict(keywords)
    for values, items in ((views, enumerate(arguments)), (named, keywords.items())):
        for key, x in items:
            if type(x) is torch.Tensor:
                if x.requires_grad or not x.is_cpu or x.dtype is torch.bfloat16:
                    return None
                values[key] = x.numpy(force=True)  # type: ignore[index]
            elif isinstance(x, Mapping) or (namespace_of(x) is not None and not isinstance(x, np.generic)):
                return None  # of another library or kind: the plain functions have the word
    return views, named


def as_tensors(found: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return NumPy's value and gradient as tensors that share their memory."""
    from_numpy = sys.modules["torch"].from_numpy
    value, gradient = found
    if type(gradient) is np.ndarray and not isinstance(value, tuple):  # the usual case, at half the cost
        return from_numpy(np.asarray(value)), from_numpy(gradient)
    value, gradient = (map_leaves(lambda _, x: from_numpy(np.asarray(x)), part) for part in found)
    return value, gradient


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
