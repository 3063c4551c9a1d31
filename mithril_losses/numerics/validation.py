"""Checks of arguments: one library, real floating types, exact shapes, valid axes."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any, TypeGuard

import numpy as np

from mithril_losses.backends.namespaces import Array, is_dtype, library_name, require_library
from mithril_losses.backends.namespaces.numpy import quiet as without_warnings


def compute_dtype(xp: Any, dtype: Any, name: str = "predictions") -> Any:
    """Return the dtype that arguments of floating type `dtype` are computed in: half precision widens to float32.

    Raises:
        TypeError: `dtype` is not a real floating type, so that no gradient of that type exists; or it is wider than
            float64, while constants and options are float64.
    """
    if dtype == xp.float32 or dtype == xp.float64:  # the usual case, at a tenth of the cost of isdtype
        return dtype
    if not is_dtype(xp, dtype, "real floating"):
        raise TypeError(f"{name} must have a real floating dtype, got {dtype}")
    if dtype.itemsize > 8:
        raise TypeError(f"{name} must have at most 64 bits per number, got {dtype}")
    return xp.float32 if dtype.itemsize <= 2 else dtype


def widest_dtype(xp: Any, **arrays: Array) -> Any:
    """Return the dtype in which a loss of these differentiable arguments is computed."""
    dtypes = [compute_dtype(xp, x.dtype, name) for name, x in arrays.items()]
    widest = dtypes[0]
    for dtype in dtypes[1:]:
        if dtype != widest:
            widest = xp.result_type(dtype, widest)
    return widest


def as_dtype(xp: Any, x: Array, dtype: Any, name: str = "an argument") -> Array:
    """Return `x` in `dtype`; `x` itself if it already has this dtype.

    Raises:
        TypeError: the elements of `x` are not real numbers.
    """
    if x.dtype == dtype:
        return x
    if not is_dtype(xp, x.dtype, ("real floating", "integral", "bool")):
        raise TypeError(f"{name} must hold real numbers, got {x.dtype}")
    return xp.astype(x, dtype)


def require_same_shape(**arrays: Array) -> None:
    """Raise a ValueError that names all shapes unless they are equal: nothing is broadcast silently."""
    (first_name, first), *others = arrays.items()
    for name, x in others:
        if x.shape != first.shape and tuple(x.shape) != tuple(first.shape):
            raise ValueError(
                f"{first_name} and {name} must have the same shape, got {tuple(first.shape)} and {tuple(x.shape)}"
            )


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether `value` is a plain real number: no array, and no bool."""
    return type(value) is float or (not isinstance(value, bool) and isinstance(value, numbers.Real))


def require_one_number(xp: Any, name: str, value: Any, dtype: Any) -> Any:
    """Return a checked option: a float, or an array of `xp` of one number in `dtype`.

    Raises:
        TypeError: the option is an array of another library.
        ValueError: the option is an array of several numbers.
    """
    if isinstance(value, float):
        return value
    require_library(xp, name, value)
    if tuple(value.shape) != ():
        raise ValueError(f"{name} must be one number, got an array of shape {tuple(value.shape)}")
    return as_dtype(xp, value, dtype, name)


def require_integer(name: str, value: Any) -> int:
    """Return `value` as an int, or raise a TypeError."""
    if type(value) is int:  # the usual case, at a fifth of the cost
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(value)


def normalize_axis(name: str, axis: Any, ndim: int) -> int:
    """Return `axis` counted from the front.

    Raises:
        TypeError: `axis` is not an integer.
        ValueError: `axis` lies outside the array's dimensions.
    """
    if type(axis) is int and -ndim <= axis < ndim:  # the usual case
        return axis % ndim
    index = require_integer(name, axis)
    if not -ndim <= index < ndim:
        raise ValueError(f"{name} {index} is out of range for an array of {ndim} dimensions")
    return index % ndim


def quiet(xp: Any) -> Any:
    """Return a context without NumPy's floating-point warnings: infinities and NaNs are ordinary results here.

    NumPy also computes for tensors in main memory.
    """
    if xp is np:
        return without_warnings()
    library = library_name(xp)
    if library == "torch":
        import torch

        if not torch.compiler.is_compiling():
            return np.errstate(all="ignore")
    return contextlib.nullcontext() if library in ("jax", "torch") else np.errstate(all="ignore")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the nearest known name, or the shortest that contains `name`, or None."""
    known = list(known)
    nearest = get_close_matches(name, known, n=1) or sorted((x for x in known if name and name in x), key=len)
    return nearest[0] if nearest else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or ""."""
    nearest = nearest_name(name, known)
    return f"; did you mean {nearest!r}?" if nearest else ""


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """Return the message that says `name` is unknown, which name is nearest, and which are known."""
    return f"unknown {kind} {name!r}{did_you_mean(name, known)} (known: {', '.join(sorted(known))})"
