"""PyTorch as an array API namespace: array-api-compat's, with replacements for what PyTorch's transforms cannot trace.

In array-api-compat, minimum and maximum first turn a Python scalar into a tensor (5 µs a call, untraceable), sign
writes NaNs through a mask, and the cumulative sum looks up its namespace. Its vecdot uses PyTorch's moveaxis, which
`vmap` does not support.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree  # PyTorch has no public name for it
from array_api_compat.torch import *  # noqa: F403
from array_api_compat.torch import where as _where

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces.numpy import TWO_NUMBERS

del classes, ops  # type: ignore[name-defined]  # noqa: F821  (objects of TorchScript that have every attribute)

torch.utils._pytree.register_pytree_node(
    NamedArrays,
    lambda named: (list(named.values()), tuple(named)),
    lambda arrays, names: NamedArrays(zip(names, arrays, strict=True)),
    serialized_type_name="mithril_losses.NamedArrays",
)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


def maximum(x: Any, y: Any) -> Any:
    """Return the larger of two tensors, or of a tensor and a number."""
    if not isinstance(x, torch.Tensor):
        x, y = y, x
    return torch.maximum(x, y) if isinstance(y, torch.Tensor) else torch.clamp(x, min=y)


def minimum(x: Any, y: Any, out: Any = None) -> Any:
    """Return the smaller of two tensors, or of a tensor and a number."""
    if not isinstance(x, torch.Tensor):
        x, y = y, x
    return torch.minimum(x, y, out=out) if isinstance(y, torch.Tensor) else torch.clamp(x, max=y, out=out)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return `x` where the condition holds and `y` elsewhere; one of both may be a number."""
    if not (isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor)):
        raise TypeError(TWO_NUMBERS)
    return _where(condition, x, y)


def sign(x: Any) -> Any:
    """Return −1, 0 or 1, and NaN for NaN."""
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


def take_along_axis(x: Any, indices: Any, *, axis: int = -1) -> Any:
    """Return the entries of `x` at the indices, of any integer type, along an axis."""
    return torch.take_along_dim(x, indices.to(torch.int64), dim=axis)


def cumulative_sum(x: Any, *, axis: int) -> Any:
    """Return the cumulative sums along an axis, each element included in its sum."""
    return torch.cumsum(x, dim=axis)


def moveaxis(x: Any, source: int, destination: int) -> Any:
    """Return `x` with one axis moved to another position."""
    return torch.movedim(x, source, destination)


def vecdot(x: Any, y: Any, *, axis: int = -1) -> Any:
    """Return the sums of products along an axis."""
    return torch.linalg.vecdot(x, y, dim=axis)
