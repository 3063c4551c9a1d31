"""Which library an array belongs to, and the facts about arrays that the array API standard leaves open.

Nothing here imports jax or torch: an array of one of them can only exist if its library is loaded already.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np

Array = Any  # arrays of four libraries share no base class; the name says what is meant


class _Array(Protocol):
    """What type checkers know all arrays by. NumPy's numbers have a shape, but no length."""

    @property
    def shape(self) -> tuple[Any, ...]: ...

    def __len__(self) -> int: ...


ArrayT = TypeVar("ArrayT", bound=_Array)  # of the arguments that a gradient has the type of

_NUMPY_TYPES = (np.ndarray, np.generic)
_KINDS = "fiub"  # kinds of real numbers; NumPy has others: text, objects, dates, records, types of other packages
_NAMESPACES: dict[type, Any] = {np.ndarray: np}


def namespace_of(x: Any) -> Any | None:
    """Return the array namespace of `x`, or None if `x` is not an array."""
    return _NAMESPACES.get(type(x)) or _find_namespace(x)


def _find_namespace(x: Any) -> Any | None:
    if isinstance(x, _NUMPY_TYPES):
        if _is_no_plain_array(x):
            return None
        namespace: Any = np
    elif _is_torch(x):  # before jax.Array, whose instance check torch.compile cannot trace
        from mithril_losses.backends.namespaces import torch as namespace
    elif _is_jax(x):
        from mithril_losses.backends.namespaces import jax as namespace
    elif is_dask(x):
        from array_api_compat.dask import array as namespace  # type: ignore[no-redef]  # one of several modules
    elif hasattr(x, "__array_namespace__"):
        namespace = x.__array_namespace__()
    else:
        return None
    _NAMESPACES[type(x)] = namespace
    return namespace


def array_namespace(**arrays: Any) -> Any:
    """Return the one namespace that all the named arrays share.

    Raises:
        TypeError: an argument is not an array of numbers, or two of them belong to different libraries.
    """
    shared = None
    for name, x in arrays.items():
        found = namespace_of(x)
        if shared is None:
            shared = found
        if found is None or found is not shared:
            require_library(shared, name, x)
        if shared is np and x.dtype.kind not in _KINDS:
            raise TypeError(_says_no_numbers(name, x.dtype))
    return shared


def _says_no_numbers(name: str, dtype: Any) -> str:
    if dtype.kind == "V" and dtype.names is None:  # a type of another package
        return (
            f"{name} must hold numbers of a type that numpy has itself, got {dtype}: pass them as float32, or as an "
            "array of a library that has this type"
        )
    return f"{name} must hold real numbers, got {dtype}"


def require_library(xp: Any, name: str, x: Any) -> None:
    """Raise a TypeError unless the argument called `name` is an array of the library behind `xp`."""
    found = namespace_of(x)
    if found is None:
        raise TypeError(f"{name} must be an array (NumPy, JAX, PyTorch, …), got {type(x).__name__}")
    if found is not xp:
        raise TypeError(
            f"all arrays must come from one library: {name} is from {library_name(found)}, "
            f"those before it from {library_name(xp)}"
        )


def library_name(xp: Any) -> str:
    """Return the name of the library behind a namespace: "numpy", "jax", "torch", …"""
    name: str = xp.__name__
    return _LIBRARIES.get(name) or name.partition(".")[0]


_LIBRARIES = {  # namespaces that do not have the name of their library
    "array_api_compat.dask.array": "dask",
    "array_api_compat.numpy": "numpy",
    "array_api_compat.torch": "torch",
    "mithril_losses.backends.namespaces.jax": "jax",
    "mithril_losses.backends.namespaces.numpy": "numpy",
    "mithril_losses.backends.namespaces.torch": "torch",
}


def is_dtype(xp: Any, dtype: Any, kind: str | tuple[str, ...]) -> bool:
    """Return whether a dtype is of a kind of the array API standard, such as "integral" or "real floating".

    NumPy's own `isdtype` raises for dtypes without a kind: records, text of any length, types of other packages.
    """
    return _is_numpys(dtype, kind) if library_name(xp) == "numpy" else bool(xp.isdtype(dtype, kind))


@functools.lru_cache(maxsize=256)
def _is_numpys(dtype: np.dtype[Any], kind: str | tuple[str, ...]) -> bool:
    return issubclass(dtype.type, (np.number, np.bool_)) and np.isdtype(dtype, kind)


def host_values(x: Any) -> np.ndarray[Any, Any] | None:
    """Return the values of `x` as a NumPy view, or None if reading them is impossible or would stall an accelerator.

    The result is None for a tracer (`jax.jit`, `torch.compile`, `vmap`), for an array on an accelerator, and for an
    array of Dask, which has no values yet.
    """
    if type(x) is np.ndarray:  # the usual case
        return x
    library = library_name(namespace_of(x))
    if library == "numpy":
        return np.asarray(x)
    if library == "jax":
        traced = isinstance(x, sys.modules["jax"].core.Tracer)
        return None if traced or any(d.platform != "cpu" for d in x.devices()) else np.asarray(x)
    if library == "torch":
        torch = sys.modules["torch"]
        hidden = (
            torch.compiler.is_compiling()
            or x.device.type != "cpu"
            or type(x) not in (torch.Tensor, torch.nn.Parameter)  # fake tensors have no values
            or torch._C._functorch.is_functorch_wrapped_tensor(x)
        )
        if hidden:
            return None
        with torch._C._DisableFuncTorch():  # inside torch.func.grad, even the view of a constant would be wrapped
            values: np.ndarray[Any, Any] = (x.float() if x.dtype == torch.bfloat16 else x).numpy(force=True)
        return values
    if library == "dask":
        return None
    return np.from_dlpack(x)


def placement(x: Any) -> dict[str, Any]:
    """Return the keyword arguments that create an array on the device of `x`; Dask has none.

    JAX places uncommitted arrays itself.
    """
    return {} if library_name(namespace_of(x)) in ("numpy", "jax", "dask") else {"device": x.device}


def in_c_order(x: Any) -> Any:
    """Return `x` C-contiguous in memory; `x` itself if it already is."""
    if isinstance(x, np.ndarray):
        return x if x.flags.c_contiguous else np.ascontiguousarray(x)
    return x.contiguous() if _is_torch(x) else x


def fresh(array: Array) -> Array:
    """Return a writable copy of `array` that shares memory with nothing and hangs on no autodiff graph."""
    xp: Any = namespace_of(array)
    return array.detach().clone() if library_name(xp) == "torch" else xp.asarray(array, copy=True)


def is_dask(x: Any) -> bool:
    """Whether `x` is an array of Dask."""
    dask = sys.modules.get("dask.array")
    return dask is not None and isinstance(x, getattr(dask, "Array", ()))


def beside(like: Any, x: Any) -> Any:
    """Return an array of NumPy as one of Dask if `like` is one; everything else as it is."""
    xp: Any = namespace_of(like)
    return xp.asarray(x) if is_dask(like) and isinstance(x, np.ndarray) else x


def _is_no_plain_array(x: Any) -> bool:
    """Whether `x` is a NumPy matrix, whose product is not element-wise, or a masked array."""
    masked = sys.modules.get("numpy.ma")
    return isinstance(x, np.matrix) or (masked is not None and isinstance(x, masked.MaskedArray))


def _is_jax(x: Any) -> bool:
    jax = _loaded("jax")
    return jax is not None and isinstance(x, jax.Array)


def _is_torch(x: Any) -> bool:
    torch = _loaded("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _loaded(name: str) -> ModuleType | None:
    # a submodule must be loaded, too: a library in the middle of its own import is not usable yet
    return sys.modules.get(name) if f"{name}.{'numpy' if name == 'jax' else 'nn'}" in sys.modules else None
