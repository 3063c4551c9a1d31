"""`out=`: the gradient in arrays of the caller."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import numpy as np

from mithril_losses.backends.namespaces import Array, library_name, namespace_of
from mithril_losses.numerics.trees import leaves

P = ParamSpec("P")
V_co = TypeVar("V_co", covariant=True)
G_co = TypeVar("G_co", covariant=True)
Out = TypeVar("Out")


class Both(Protocol[P, V_co, G_co]):
    """What `value_and_gradient` returns: a function with the arguments of the gradient, and `out`.

    With `out`, a type checker knows the gradient, but neither the arguments nor the value: nothing can be added to a
    `ParamSpec`.
    """

    @overload
    def __call__(self, *arguments: P.args, **keywords: P.kwargs) -> tuple[V_co, G_co]: ...
    @overload
    def __call__(self, *arguments: Any, out: None, **keywords: Any) -> tuple[Any, Any]: ...
    @overload
    def __call__(self, *arguments: Any, out: Out, **keywords: Any) -> tuple[Any, Out]: ...


def require_buffers(out: Any, like: Any, given: Mapping[str, Any]) -> None:
    """Raise unless `out` can hold the gradient.

    Args:
        out: an array, or a nesting of arrays.
        like: a nesting of arrays of the library, shape and dtype of the gradient.
        given: all arguments of the call, which must not be overwritten.

    Raises:
        TypeError: a part of `out` is no array of that library and dtype, or cannot be written to.
        ValueError: a part has another shape or other keys, lies on another device, is not C-contiguous, or shares
            memory with an argument or another part.
    """
    buffers = [(path, buffer) for path, buffer, x in _pairs(out, like, "out") if _require_fit(path, buffer, x)]
    arrays = [(name, x) for argument, tree in given.items() for name, x in leaves(tree, argument)]
    others = itertools.combinations(buffers, 2)
    for (path, buffer), (name, x) in itertools.chain(itertools.product(buffers, arrays), others):
        if namespace_of(x) is namespace_of(buffer) and _share_memory(buffer, x):
            raise ValueError(f"{path} shares memory with {name}")


def copy_into(out: Any, gradient: Any) -> None:
    """Copy the gradient into `out`, which `require_buffers` has checked."""
    for _, buffer, x in _pairs(out, gradient, "out"):
        if isinstance(buffer, np.ndarray):
            np.copyto(buffer, x)
        else:
            with sys.modules["torch"].no_grad():
                buffer.copy_(x)


def _pairs(out: Any, like: Any, path: str) -> Iterator[tuple[str, Any, Array]]:
    """Yield each array of `like` with the part of `out` for it, and its path."""
    if isinstance(like, Mapping):
        wanted = ", ".join(map(repr, like))
        if not isinstance(out, Mapping):
            raise TypeError(f"{path} must be a dict of arrays with the keys {wanted}, got {type(out).__name__}")
        if out.keys() != like.keys():
            raise ValueError(f"{path} must have the keys {wanted}, got {', '.join(map(repr, out)) or 'none'}")
        for key, branch in like.items():
            yield from _pairs(out[key], branch, f"{path}[{key!r}]")
    elif isinstance(like, (list, tuple)):
        if not isinstance(out, (list, tuple)) or len(out) != len(like):
            raise TypeError(f"{path} must be a list or tuple of {len(like)}, got {type(out).__name__}")
        for i, branch in enumerate(like):
            yield from _pairs(out[i], branch, f"{path}[{i}]")
    else:
        yield path, out, like


def _require_fit(path: str, buffer: Any, like: Array) -> bool:
    """Raise unless one array can hold an array of the gradient."""
    xp = namespace_of(like)
    library = library_name(xp)
    if library not in ("numpy", "torch"):
        hint = ": value_and_gradient(loss, donate=True) lets it reuse the memory of arguments" * (library == "jax")
        raise TypeError(f"{path}: nothing can be written into an array of {library}{hint}")
    if namespace_of(buffer) is not xp or isinstance(buffer, np.generic):
        raise TypeError(f"{path} must be an array of {library}, as the gradient is, got {type(buffer).__name__}")
    if tuple(buffer.shape) != tuple(like.shape):
        raise ValueError(f"{path} must have the shape {tuple(like.shape)} of the gradient, got {tuple(buffer.shape)}")
    if buffer.dtype != like.dtype:
        raise TypeError(f"{path} must have the dtype {like.dtype} of the gradient, got {buffer.dtype}")
    if library == "torch":
        if buffer.device != like.device:
            raise ValueError(f"{path} must be on the device {like.device} of the gradient, got {buffer.device}")
        if buffer.requires_grad:
            raise TypeError(f"{path} requires a gradient itself, so it cannot be written to: pass {path}.detach()")
    elif not buffer.flags.writeable:
        raise TypeError(f"{path} is read-only")
    if not (buffer.is_contiguous() if library == "torch" else buffer.flags.c_contiguous):
        raise ValueError(f"{path} must be C-contiguous")
    return True


def _share_memory(x: Array, y: Array) -> bool:
    if isinstance(x, np.ndarray):
        return np.shares_memory(x, y)
    if x.device != y.device or not x.numel() or not y.numel():
        return False
    (first, end), (other_first, other_end) = map(_extent, (x, y))
    return first < other_end and other_first < end


def _extent(x: Any) -> tuple[int, int]:
    """Return the addresses of a tensor's first byte and of the one after its last."""
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()
