"""`value_and_gradient`: the loss and its gradient in one call, as fast as the given arrays allow.

The plain functions, a loss and its gradient as written, are the definition. The arrays decide what runs instead: one
fused loop (value and gradient in one pass), or blocks of the size of the cache, for large arrays in the memory of the
host; a compiled pair for JAX; the plain functions for everything else. The template of a loss (`Pair.terms`) says how
it is computed; nothing here knows a loss, or a template, by name.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import numpy as np

from mithril_losses import limits
from mithril_losses.autodiff import compute_by, compute_chunks_by
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import ArrayT, library_name, namespace_of
from mithril_losses.backends.threads import asked, thread_count
from mithril_losses.catalogue import Pair, catalogue, find_loss, require_call
from mithril_losses.execution.host import OnHost
from mithril_losses.execution.jax import OnJax, as_jax, jax_views
from mithril_losses.execution.output import Both, copy_into, require_buffers
from mithril_losses.execution.torch import can_compile, compiled_by_torch, in_no_graph, mark_written
from mithril_losses.numerics.signatures import show_signature
from mithril_losses.numerics.torch_views import as_tensors, numpy_views

P = ParamSpec("P")
N = TypeVar("N", bound=NamedArrays[Any])  # what gradients of several arguments return
V = TypeVar("V", bound=float | np.floating[Any] | tuple[Any, ...])  # no gradient is a number or a tuple
T = TypeVar("T")


class _GradientOfNesting(Protocol):
    """The gradient of a regularization has the type of its parameters."""

    def __call__(self, params: T) -> T: ...


@overload
def value_and_gradient(
    loss: _GradientOfNesting, *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Both[..., Any, Any]: ...
@overload
def value_and_gradient(
    loss: Callable[P, N], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Both[P, Any, N]: ...
@overload
def value_and_gradient(
    loss: Callable[P, V], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Both[P, V, Any]: ...
@overload
def value_and_gradient(
    loss: Callable[P, ArrayT], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Both[P, ArrayT, Any]: ...
def value_and_gradient(
    loss: Callable[..., Any], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Both[..., Any, Any]:
    """Return a function with the arguments of the loss that returns its value and its gradient in one call.

    The function takes all arguments of the gradient: also `upstream`, which scales the gradient but not the value, and
    `wrt` if the loss has it. The gradient is an array, or `NamedArrays` by argument if the loss has several
    differentiable arguments.

    The function also takes `out`: an array of NumPy or PyTorch for the gradient, or a nesting of arrays with the
    structure of the gradient. It is filled and returned. It must be C-contiguous, have the shape and dtype of the
    gradient, and share no memory with an argument. A fused loop writes into it; other ways copy their gradient into it.
    After an error it may hold anything.

    Large gradients that nobody refers to any more leave their memory to the next ones, for one or two seconds: the
    environment variable MITHRIL_LOSSES_KEPT_MEMORY bounds its size.

    Either half of a pair may be given. A type checker learns from the loss what type its value has, and from the
    gradient which keywords there are, such as `upstream`.

    With the extra `fast`, large arrays on the CPU, of any of the three libraries, are computed in one fused loop.
    Without it, arrays of NumPy and PyTorch are computed in blocks that fit the cache. Threads share the work; their
    number does not change the result. If a loss sorts, searches or sums over pairs, NumPy may compute it for JAX, too.
    All other JAX arrays go through one compiled function per loss and set of options; inside a trace of the caller, the
    plain functions are inlined.

    The results are in no graph of PyTorch, even if the arguments are. To have PyTorch or JAX differentiate a loss, call
    the loss itself: its derivative is the same gradient.

    Args:
        loss: a registered loss or its gradient, or any function with a method `gradient`.
        threads: how many threads share a large call on the CPU; by default the environment variable
            MITHRIL_LOSSES_THREADS, or else the number of available cores.
        compile: None compiles what is large or on an accelerator: loops on the CPU, with the extra `fast`, and the
            functions of tensors on an accelerator, by `torch.compile` where that finds a compiler. False compiles
            neither: blocks are computed instead, and JAX compiles for its own arrays. Losses over pairs of points
            and the L1 and L2 regularization compile their loops in any case. True has `torch.compile` compile also
            for the CPU what NumPy cannot compute: tensors in bfloat16.
        donate: whether JAX may reuse the memory of the differentiable arguments, which must not be used after the call.
            JAX then always computes the call itself.

    Raises:
        ValueError: `loss` has no registered gradient, or `threads` is not a positive integer.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import mse_loss
        >>> value, gradient = value_and_gradient(mse_loss)(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        >>> float(value), gradient.tolist()
        (2.0, [0.0, -2.0])
        >>> buffer = np.empty(2)
        >>> value, gradient = value_and_gradient(mse_loss)(np.array([1.0, 2.0]), np.array([1.0, 4.0]), out=buffer)
        >>> gradient is buffer, buffer.tolist()
        (True, [0.0, -2.0])
    """
    pair = find_loss(loss)
    thread_count(threads)
    if pair.terms.compose is not None:  # each of its losses takes its own fast path
        fast = functools.partial(value_and_gradient, threads=threads, compile=compile, donate=donate)
        composed: Both[..., Any, Any] = pair.terms.compose(fast)
        return _as_both(pair, _told(pair, composed if pair.terms.takes_out else _with_out(pair, composed)))
    plain = pair.plain if threads is None else _with_threads(pair.plain, threads)
    on_host = OnHost(pair, threads, compile, plain)
    on_jax = OnJax(pair, donate)

    def both(*arguments: Any, out: Any = None, **keywords: Any) -> tuple[Any, Any]:
        if out is not None:
            return _into(out, pair, both, on_host, arguments, keywords)
        first: Any = arguments[0] if arguments else keywords.get(pair.wrt[0])
        if type(first) is np.ndarray:
            is_small = first.size < limits.current.large
            return plain(*arguments, **keywords) if is_small else on_host(*arguments, **keywords)
        xp = namespace_of(first)
        library = None if xp is None else library_name(xp)
        if library == "jax":
            views = jax_views(arguments, keywords) if not donate and first.size >= on_host.jax_from else None
            found = None if views is None else on_host.for_jax(*views[0], **views[1])
            return on_jax(*arguments, **keywords) if found is None else as_jax(found, first)
        if library == "torch":
            views = numpy_views(arguments, keywords)
            if views is not None:  # NumPy's calls are cheaper, and so is its memory
                return as_tensors((plain if first.numel() < limits.current.large else on_host)(*views[0], **views[1]))
            is_compiled = can_compile(first) if compile is None else compile
            if is_compiled:  # an error would come with the trace of the compiler
                require_call(pair.gradient, pair.terms, arguments, keywords)
            with in_no_graph():
                return (compiled_by_torch(pair) if is_compiled else plain)(*arguments, **keywords)
        if xp is None and "torch" in sys.modules:  # a nesting, perhaps of tensors
            with in_no_graph():
                return plain(*arguments, **keywords)
        return plain(*arguments, **keywords)

    return _as_both(pair, both)


def _as_both(pair: Pair, both: Both[..., Any, Any]) -> Both[..., Any, Any]:
    """Give a function the documentation of the loss, and the signature of value and gradient with `out`."""
    found = pair.signature_of_both
    *known, last = found.parameters.values()
    by_name = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Any")
    after = (by_name, last) if last.kind is last.VAR_KEYWORD else (last, by_name)
    functools.update_wrapper(both, pair.value)
    both.__qualname__ = f"value_and_gradient({pair.name})"  # type: ignore[attr-defined]  # `Both` is a function here
    show_signature(both, found.replace(parameters=[*known, *after]))
    return both


def _told(pair: Pair, composed: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Return a composed function that takes what the gradient takes; its messages name the loss, not its parts."""
    parameters = pair.signature_of_both.parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = {*parameters, "out"}

    def require(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        require_call(pair.gradient, pair.terms, arguments, {n: x for n, x in keywords.items() if n != "out"})

    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        if not (takes_any or known >= keywords.keys()):
            require(arguments, keywords)  # a part may take what the loss does not
        try:
            return composed(*arguments, **keywords)
        except TypeError:
            require(arguments, keywords)
            raise

    return both


def _with_out(pair: Pair, composed: Callable[..., tuple[Any, Any]]) -> Both[..., Any, Any]:
    """Return the function of value and gradient of a composed loss, which also takes `out`."""

    def both(*arguments: Any, out: Any = None, **keywords: Any) -> tuple[Any, Any]:
        found = composed(*arguments, **keywords)
        if out is None:
            return found
        return _copied(out, found, _by_name(pair, arguments, keywords))

    return both


def _into(
    out: Any,
    pair: Pair,
    both: Callable[..., tuple[Any, Any]],
    on_host: OnHost,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
) -> tuple[Any, Any]:
    """Return the value, and `out` filled with the gradient: by the loop for large arrays on the host, or by a copy."""
    given = _by_name(pair, arguments, keywords)
    like = {name: given.get(name) for name in pair.wrt}
    first: Any = like[pair.wrt[0]]
    are_arrays = all(namespace_of(x) is not None for x in like.values())
    if are_arrays and "wrt" not in keywords and math.prod(first.shape) >= limits.current.large:
        require_buffers(out, like if len(like) > 1 else first, given)
        buffers = out if len(like) > 1 else {pair.wrt[0]: out}
        if type(first) is np.ndarray:
            views = {name: np.asarray(x) for name, x in buffers.items()}
            found = on_host.attempt(*arguments, buffers=views, **keywords)
        else:
            found = _tensors_into(buffers, on_host, arguments, keywords)
        if found is not None:
            return found[0], out
    return _copied(out, both(*arguments, **keywords), given)


def _tensors_into(
    buffers: Mapping[str, Any], on_host: OnHost, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, Any] | None:
    """Return value and gradient of tensors on the host, written into the buffers; None if no loop takes the tensors."""
    views, views_of_buffers = numpy_views(arguments, keywords), numpy_views((), buffers)
    if views is None or views_of_buffers is None:
        return None
    found = on_host.attempt(*views[0], buffers=views_of_buffers[1], **views[1])
    mark_written(buffers.values())
    return None if found is None else as_tensors(found)


def _copied(out: Any, found: tuple[Any, Any], given: Mapping[str, Any]) -> tuple[Any, Any]:
    value, gradient = found
    require_buffers(out, gradient, given)
    copy_into(out, gradient)
    return value, out


def _by_name(pair: Pair, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(pair.parameters, arguments, strict=False)), **keywords}


def _with_threads(plain: Callable[..., tuple[Any, Any]], threads: int) -> Callable[..., tuple[Any, Any]]:
    """Return the plain functions, in which trees, sorts and tiles use as many threads."""

    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        with asked(threads):
            return plain(*arguments, **keywords)

    return both


def _fastest(template: Any) -> Callable[..., tuple[Any, Any]]:
    """Return `value_and_gradient` of a registered template; all its arguments go by position."""
    pair = catalogue().get(template.name)
    found: Callable[..., tuple[Any, Any]] = template.both
    if pair is not None and pair.terms is template:
        prepared = pair.prepared.get("by position")
        found = pair.prepared.setdefault("by position", _by_position(pair)) if prepared is None else prepared
    return found


def _by_position(pair: Pair) -> Callable[..., tuple[Any, Any]]:
    fast, arrays = value_and_gradient(pair), len(pair.array_arguments)
    options = [name for name in pair.terms.domain if name not in pair.array_arguments]

    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        return fast(*arguments[:arrays], **dict(zip(options, arguments[arrays:], strict=True)), **keywords)

    return both


def _by_dask(*call: Any) -> Any:
    from mithril_losses.execution.dask import by_dask  # when the first array of Dask has come

    return by_dask(*call)


compute_by(_fastest)
compute_chunks_by(_by_dask)
