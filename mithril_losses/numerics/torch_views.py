"""Views of tensors for NumPy, and NumPy's results for PyTorch. PyTorch is not imported before there is a tensor."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import namespace_of
from mithril_losses.numerics.trees import map_leaves


def numpy_views(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments with NumPy views of the tensors, or None if one is traced or not on the host."""
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling():
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0:
        return None  # torch.func differentiates, or PyTorch in forward mode
    views, named = list(arguments), dict(keywords)
    for values, items in ((views, enumerate(arguments)), (named, keywords.items())):
        for key, x in items:
            if type(x) is torch.Tensor or type(x) is torch.nn.Parameter:
                if not x.is_cpu or x.dtype is torch.bfloat16:
                    return None
                values[key] = x.numpy(force=True)  # type: ignore[index]
            elif isinstance(x, Mapping) or (namespace_of(x) is not None and not isinstance(x, np.generic)):
                return None  # of another library or kind: the plain functions have the word
    return views, named


def as_tensor(x: Any) -> Any:
    """Return an array or a number of NumPy as a tensor that shares its memory."""
    return sys.modules["torch"].from_numpy(np.asarray(x))


def as_tensors(found: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return NumPy's value and gradient as tensors that share their memory."""
    from_numpy = sys.modules["torch"].from_numpy
    value, gradient = found
    if type(gradient) is np.ndarray and not isinstance(value, tuple):  # the usual case, at half the cost
        return from_numpy(np.asarray(value)), from_numpy(gradient)
    value, gradient = (map_leaves(lambda _, x: from_numpy(np.asarray(x)), part) for part in found)
    return value, gradient
