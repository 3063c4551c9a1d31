"""Arrays of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from mithril_losses.backends.base import Backend, one_number
from mithril_losses.backends.conversion import BackendNotInstalledError, torch_tensor
from mithril_losses.backends.namespaces import Array

try:
    import torch

    from mithril_losses.backends.namespaces import torch as xp
except ModuleNotFoundError as error:
    raise BackendNotInstalledError("torch") from error


class TorchBackend(Backend):
    """PyTorch, on `torch.get_default_device()` unless another device is named.

    Conversions into PyTorch give tensors outside the autograd graph.

    Example:
        >>> backend = TorchBackend()
        >>> backend.mean(backend.square(backend.array([1.0, 3.0])))
        tensor(5.)
        >>> backend.gradient(lambda x: backend.sum(x * x), backend.array([1.0, -2.0]))
        tensor([ 2., -4.])
    """

    name: ClassVar[str] = "torch"
    namespace: ClassVar[Any] = xp
    floating_dtypes: ClassVar[tuple[str, ...]] = ("float16", "bfloat16", "float32", "float64")

    # Calls that PyTorch refuses and the other libraries accept: means of integers and booleans, and two short forms

    def mean(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        """Return the mean; for integers and booleans, in the backend's dtype."""
        return xp.mean(self._floating(x), axis=axis, keepdims=keepdims)

    def var(self, x: Array, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Array:
        """Return the variance; for integers and booleans, in the backend's dtype."""
        return xp.var(self._floating(x), axis=axis, correction=correction, keepdims=keepdims)

    def std(self, x: Array, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Array:
        """Return the standard deviation; for integers and booleans, in the backend's dtype."""
        return xp.std(self._floating(x), axis=axis, correction=correction, keepdims=keepdims)

    def reshape(self, x: Array, shape: int | tuple[int, ...]) -> Array:
        """Return `x` in another shape; `reshape(x, -1)` flattens."""
        return xp.reshape(x, (shape,) if isinstance(shape, int) else shape)

    def squeeze(self, x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
        """Return `x` without the named axes of length one, or without any of them."""
        return torch.squeeze(x) if axis is None else xp.squeeze(x, axis=axis)

    def gradient(self, function: Callable[..., Any], *arguments: Any, argnum: int = 0) -> Array:
        """Return the derivative by torch autograd; see `Backend.gradient`."""
        shifted = list(arguments)
        shifted[argnum] = point = torch_tensor(arguments[argnum]).requires_grad_(True)
        with torch.enable_grad():
            value = one_number(function)(*shifted)
        if not value.requires_grad:  # the value does not depend on the argument
            return torch.zeros_like(arguments[argnum])
        return torch.autograd.grad(value, point, allow_unused=True, materialize_grads=True)[0]

    def _adopt(self, data: Any) -> Array:
        return torch_tensor(data).to(self.device)

    def _cast(self, x: Array, dtype: Any) -> Array:
        return x.to(dtype)

    def _floating(self, x: Array) -> Array:
        return x if x.is_floating_point() or x.is_complex() else x.to(self.dtype)

    def _devices(self) -> Mapping[str, Any]:
        found = {"cpu": torch.device("cpu")}
        for kind in ("cuda", "xpu", "mps"):
            names = [f"{kind}:{i}" for i in range(getattr(torch, kind).device_count())]
            found |= {name: torch.device(name) for name in [kind, *names] if names}
        return found

    def _default_device(self) -> Any:
        return torch.get_default_device()
