"""Arrays of one library as arrays of another."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

import numpy as np

from mithril_losses.backends.extras import missing
from mithril_losses.backends.namespaces import library_name, namespace_of


class BackendNotInstalledError(ImportError):
    """The library of a backend is not installed."""

    def __init__(self, library: str) -> None:
        super().__init__(missing(f"the {library} backend", library, library), name=library)


def library_of(x: Any) -> str | None:
    """Return the name of the library of the array `x`, or None if `x` is not an array."""
    xp = namespace_of(x)
    return None if xp is None else library_name(xp)


def host_array(data: Any) -> Any:
    """Return `data`, an array of any library or nested lists, as a NumPy array, which may share memory with `data`."""
    if library_of(data) == "torch":
        data = data.detach().cpu()
        data = (data.float() if str(data.dtype) == "torch.bfloat16" else data).numpy()
    x = np.asarray(data)
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    return x.astype(np.float32) if x.dtype.name == "bfloat16" else x


def jax_array(data: Any) -> Any:
    """Return `data`, an array of any library or nested lists, as a JAX array that shares no memory with `data`.

    Raises:
        BackendNotInstalledError: JAX is not installed.
    """
    jax = _required("jax")
    if isinstance(data, jax.Array):
        return data
    if library_of(data) != "torch":
        data = np.array(host_array(data))
        _require_room(data)
        return jax.numpy.asarray(data)
    # JAX may keep the memory that it gets, or copy it later: so it gets a clone that nothing else uses.
    data = data.detach().clone()
    _require_room(data)
    reachable = data.device.type == "cpu" or jax.default_backend() != "cpu"
    return jax.dlpack.from_dlpack(data if reachable else data.cpu())


def _require_room(x: Any) -> None:
    """Raise a ValueError for integers that overflow in JAX's 32 bits."""
    kind = str(x.dtype).removeprefix("torch.")
    if kind in ("int64", "uint64") and math.prod(x.shape) and not sys.modules["jax"].config.jax_enable_x64:
        limits = np.iinfo(kind.replace("64", "32"))
        for extreme in (int(x.min()), int(x.max())):
            if not limits.min <= extreme <= limits.max:
                raise ValueError(f'{extreme} needs 64 bits: JaxBackend(dtype="float64") switches on jax_enable_x64')


def torch_tensor(data: Any) -> Any:
    """Return `data`, an array of any library or nested lists, as a tensor that shares no memory with `data`.

    Raises:
        BackendNotInstalledError: PyTorch is not installed.
    """
    torch = _required("torch")
    library = library_of(data)
    if library == "torch":
        return data.detach().clone()
    if library == "jax" and (torch.cuda.is_available() or next(iter(data.devices())).platform == "cpu"):
        return torch.from_dlpack(data).clone()
    return torch.from_numpy(np.array(host_array(data)))


def _required(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(library) from error
