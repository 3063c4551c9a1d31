"""JAX: the hand-derived gradient as the derivative of a loss, in forward and in reverse mode."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from mithril_losses.autodiff.call import Call, Differentiable, fastest, is_plain, is_reduced_to_a_number
from mithril_losses.shards import resolve
from mithril_losses.shards.axes import knows_what_varies, varying


def value(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    """Return the loss of JAX arrays, with its own rule of differentiation inside a trace."""
    call = Call(template, arguments, reduction, jax.Array)
    if is_plain.get() or not any(isinstance(x, jax.core.Tracer) for x in call.arrays):
        return template.plain_value(*arguments, **reduction)

    def plain(*arrays: Any) -> Any:
        own, keywords = call.put(map(_as_array, arrays))
        return template.plain_value(*own, **keywords)

    loss = jax.custom_jvp(plain)

    @functools.partial(loss.defjvp, symbolic_zeros=True)
    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moved = {i: t for i, t in enumerate(tangents) if not _is_zero(t)}
        names = [call.names[i] for i in moved]
        if call.covers(names):
            return _by_hand(call, primals, moved)

        def of_moved(*arrays: Any) -> Any:
            all_arrays = list(primals)
            for i, x in zip(moved, arrays, strict=True):
                all_arrays[i] = x
            return plain(*all_arrays)

        found: tuple[Any, Any] = jax.jvp(of_moved, tuple(primals[i] for i in moved), tuple(moved.values()))
        return found

    return loss(*call.arrays)


def _as_array(x: Any) -> jax.Array:
    """Return an array, for which JAX may put a number that it knows."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0


def _along(gradient: Any, tangent: Any, loss: Any) -> Any:
    """Return the derivative of a loss along the tangent of one array.

    If the array is split over shards and the loss is one number for all of them, their derivatives are summed.
    """
    own = jnp.sum(gradient * tangent)
    among = varying(own) - varying(loss)
    if not among:
        return own
    copies = varying(tangent) - varying(gradient)  # each shard has one copy of an array, and the gradient of them all
    return jax.lax.psum(own, tuple(among)) / math.prod(jax.lax.axis_size(name) for name in copies & among)


def _require_types(across: Any) -> None:
    """Raise where types do not tell which arrays differ between shards: JAX would transpose their sums wrongly."""
    split = resolve(jnp, across)
    if any(x is not None and not knows_what_varies(x.names) for x in (split.rows, split.classes)):
        raise ValueError(
            "a loss with across= cannot be differentiated under shard_map(check_vma=False): JAX would multiply or "
            "divide its gradient by the number of shards. Leave check_vma at True, or call value_and_gradient"
        )


def _by_hand(call: Call, primals: Sequence[Any], moved: Mapping[int, Any]) -> tuple[Any, Any]:
    """Return the loss and its derivative along the tangents of some arrays."""
    arguments, reduction = call.put(map(_as_array, primals))
    if reduction.get("across") is not None:
        _require_types(reduction["across"])
    wrt = call.wrt(call.names[i] for i in moved)
    both = functools.partial(fastest(call.template), *arguments, **reduction, **wrt)
    is_wide = all(t.dtype.itemsize > 2 for t in moved.values())
    if is_wide and call.has_products(call.names[i] for i in moved) and is_reduced_to_a_number(reduction):
        found, gradients = _with_second_order(call)(*primals)
        return found, sum(jnp.sum(gradients[i] * t) for i, t in moved.items()).astype(found.dtype)
    found, gradient = both()
    if found.ndim == 0 and is_wide:
        gradients = call.by_array(gradient, wrt)
        return found, sum(_along(gradients[i], t, found) for i, t in moved.items()).astype(found.dtype)

    # a gradient is linear in `upstream`; the transpose of this map takes tangents to the derivative of every loss
    def pull(upstream: Any) -> tuple[Any, ...]:
        gradients = call.by_array(both(upstream=upstream)[1], wrt)
        return tuple(gradients[i] for i in moved)

    (tangent,) = jax.vjp(pull, jnp.ones_like(found))[1](tuple(moved.values()))
    return found, tangent


def _with_second_order(call: Call) -> Any:
    """Return the function of the arrays that returns the loss and its gradients, whose derivative is H v by hand."""

    def evaluate(*arrays: Any) -> tuple[Any, list[Any]]:
        arrays = tuple(x if isinstance(x, jax.Array) else jnp.asarray(x) for x in arrays)  # JAX hands numbers on
        arguments, reduction = call.put(arrays)
        found, gradient = fastest(call.template)(*arguments, **reduction)
        gradients = call.by_array(gradient, {})
        return found, [jnp.zeros_like(x) if g is None else g for g, x in zip(gradients, arrays, strict=True)]

    by_hand = jax.custom_jvp(evaluate)

    @functools.partial(by_hand.defjvp, symbolic_zeros=True)
    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moved = {i: t for i, t in enumerate(tangents) if not _is_zero(t)}
        if not call.has_products(call.names[i] for i in moved):  # by another argument, such as weights
            full = tuple(_zero_like(x) if _is_zero(t) else t for x, t in zip(primals, tangents, strict=True))
            by_jax: tuple[Any, Any] = jax.jvp(evaluate, primals, full)
            return by_jax
        found, gradients = by_hand(*primals)
        vectors = [moved.get(i, jnp.zeros_like(x)) for i, x in enumerate(primals)]
        products = call.times_hessian(primals, vectors, 1.0, recorded=True)
        along = sum(jnp.sum(gradients[i] * t) for i, t in moved.items()).astype(found.dtype)
        second = [_zero_like(g) if h is None else h for g, h in zip(gradients, products, strict=True)]
        return (found, gradients), (along, second)

    return by_hand


def _zero_like(x: Any) -> Any:
    """Return the tangent 0, which for integers has a type of its own."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
