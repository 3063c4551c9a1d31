"""Arrays of JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from mithril_losses.backends.base import Backend, one_number
from mithril_losses.backends.conversion import BackendNotInstalledError, jax_array
from mithril_losses.backends.namespaces import Array

try:
    import jax

    from mithril_losses.backends.namespaces import jax as xp
except ModuleNotFoundError as error:
    raise BackendNotInstalledError("jax") from error


class JaxBackend(Backend):
    """JAX, on its default device unless another is given.

    JAX computes in 32 bits by default. `dtype="float64"` switches `jax_enable_x64` on, **for the whole process**. While
    `jax_enable_x64` is off, conversions into JAX turn 64-bit numbers into 32-bit numbers; a float64 array, or an
    integer that does not fit into 32 bits, raises.

    Example:
        >>> backend = JaxBackend()
        >>> backend.mean(backend.square(backend.array([1.0, 3.0])))
        Array(5., dtype=float32)
        >>> backend.gradient(lambda x: backend.sum(x * x), backend.array([1.0, -2.0]))
        Array([ 2., -4.], dtype=float32)
    """

    name: ClassVar[str] = "jax"
    namespace: ClassVar[Any] = xp
    floating_dtypes: ClassVar[tuple[str, ...]] = ("float16", "bfloat16", "float32", "float64")

    def __init__(self, dtype: str = "float32", device: str | None = None, seed: int = 0) -> None:
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        super().__init__(dtype, device, seed)

    def gradient(self, function: Callable[..., Any], *arguments: Any, argnum: int = 0) -> Array:
        """Return the derivative by `jax.grad`; see `Backend.gradient`."""
        return jax.grad(one_number(function), argnums=argnum)(*arguments)

    def _adopt(self, data: Any) -> Array:
        x = jax_array(data)
        return x if self.device is None else jax.device_put(x, self.device)

    def _native_dtype(self, name: str) -> Any:
        if name == "float64" and not jax.config.jax_enable_x64:
            raise ValueError('float64 needs JaxBackend(dtype="float64"), which switches on jax_enable_x64')
        return jax.dtypes.canonicalize_dtype(name)

    def _devices(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for kind in ("cpu", "gpu", "cuda", "rocm", "tpu"):
            try:
                devices = jax.devices(kind)
            except RuntimeError:  # JAX has no device of this kind here
                continue
            found |= {kind: devices[0]} | {f"{kind}:{i}": device for i, device in enumerate(devices)}
        return found
