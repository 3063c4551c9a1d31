"""`value_and_gradient`: the loss and its gradient in one call, as fast as the given arrays allow.

The plain functions, a loss and its gradient as written, are the definition. The arrays decide what runs instead: one
fused loop (value and gradient in one pass), or blocks of the size of the cache, for large arrays in the memory of the
host; a compiled pair for JAX; the plain functions for everything else. The template of a loss (`Pair.terms`) says how
it is computed; nothing here knows a loss, or a template, by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import ArrayT, library_name, namespace_of
from mithril_losses.backends.threads import asked, thread_count
from mithril_losses.catalogue import Pair, find_loss, require_call
from mithril_losses.execution.host import OnHost
from mithril_losses.execution.jax import OnJax, as_jax, jax_views
from mithril_losses.execution.torch import as_tensors, compiled_by_torch, numpy_views

P = ParamSpec("P")
N = TypeVar("N", bound=NamedArrays[Any])  # what gradients of several arguments return
V = TypeVar("V", bound=float | np.floating[Any] | tuple[Any, ...])  # no gradient is a number or a tuple


@overload
def value_and_gradient(
    loss: Callable[P, N], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Callable[P, tuple[Any, N]]: ...
@overload
def value_and_gradient(
    loss: Callable[P, V], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Callable[P, tuple[V, Any]]: ...
@overload
def value_and_gradient(
    loss: Callable[P, ArrayT], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Callable[P, tuple[ArrayT, Any]]: ...
def value_and_gradient(
    loss: Callable[..., Any], *, threads: int | None = None, compile: bool | None = None, donate: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return a function with the arguments of the loss that returns its value and its gradient in one call.

    The function takes all arguments of the gradient: also `upstream`, which scales the gradient but not the value, and
    `wrt` if the loss has it. The gradient is an array, or `NamedArrays` by argument if the loss has several
    differentiable arguments.

    Either half of a pair may be given. A type checker learns from the loss what type its value has, and from the
    gradient which keywords there are, such as `upstream`.

    With the extra `fast`, large arrays on the CPU, of any of the three libraries, are computed in one fused loop.
    Without it, arrays of NumPy and PyTorch are computed in blocks that fit the cache. Threads share the work; their
    number does not change the result. If a loss sorts, searches or sums over pairs, NumPy may compute it for JAX, too.
    All other JAX arrays go through one compiled function per loss and set of options; inside a trace of the caller, the
    plain functions are inlined.

    Args:
        loss: a registered loss or its gradient, or any function with a method `gradient`.
        threads: how many threads share a large call on the CPU; by default the environment variable
            MITHRIL_LOSSES_THREADS, or else the number of available cores.
        compile: None compiles loops for large arrays on the CPU, with the extra `fast`. False compiles none: blocks are
            computed instead, and JAX compiles for its own arrays. Losses over pairs of points compile their tiles in
            any case. True also sends tensors on an accelerator, or in a graph, through `torch.compile`.
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
    """
    pair = find_loss(loss)
    thread_count(threads)
    if pair.terms.compose is not None:  # each of its losses takes its own fast path
        fast = functools.partial(value_and_gradient, threads=threads, compile=compile, donate=donate)
        return _as_both(pair, _told(pair, pair.terms.compose(fast)))
    plain = pair.plain if threads is None else _with_threads(pair.plain, threads)
    on_host = OnHost(pair, threads, compile, plain)
    on_jax = OnJax(pair, donate)

    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
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
            if compile:
                require_call(
                    pair.gradient, pair.terms, arguments, keywords
                )  # an error would come with the trace of the compiler
                compiled: tuple[Any, Any] = compiled_by_torch(pair)(*arguments, **keywords)
                return compiled
        return plain(*arguments, **keywords)

    return _as_both(pair, both)


def _as_both(pair: Pair, both: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Give a function the documentation and the signature of value and gradient."""
    functools.update_wrapper(both, pair.value)
    both.__qualname__ = f"value_and_gradient({pair.name})"
    both.__signature__ = pair.signature_of_both  # type: ignore[attr-defined]
    return both


def _told(pair: Pair, composed: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Return a composed function that takes what the gradient takes; its messages name the loss, not its parts."""
    known = pair.signature_of_both.parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())

    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        if not (takes_any or known.keys() >= keywords.keys()):
            require_call(pair.gradient, pair.terms, arguments, keywords)  # a part may take what the loss does not
        try:
            return composed(*arguments, **keywords)
        except TypeError:
            require_call(pair.gradient, pair.terms, arguments, keywords)
            raise

    return both


def _with_threads(plain: Callable[..., tuple[Any, Any]], threads: int) -> Callable[..., tuple[Any, Any]]:
    """Return the plain functions, in which trees, sorts and tiles use as many threads."""

    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        with asked(threads):
            return plain(*arguments, **keywords)

    return both
