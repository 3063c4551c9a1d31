"""JAX as an array API namespace: JAX's own, with replacements for functions that lose NaN in XLA.

If XLA for the CPU fuses a minimum or maximum of two arrays with a reduction, a NaN is lost; so it is in a reduction by
minimum or maximum. The result is then the other operand, and a diverged model has a small loss. Comparisons and
selections keep a NaN, at the same speed.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mithril_losses.backends.named import NamedArrays


def _children(named: NamedArrays[Any]) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    """Return the arrays in the order of their names, as JAX does for a dict, and the names in their own order."""
    return [(jax.tree_util.DictKey(name), named[name]) for name in sorted(named)], tuple(named)


def _named(names: tuple[str, ...], arrays: Any) -> NamedArrays[Any]:
    found = dict(zip(sorted(names), arrays, strict=True))
    return NamedArrays((name, found[name]) for name in names)


jax.tree_util.register_pytree_with_keys(NamedArrays, _children, _named)


def __getattr__(name: str) -> Any:
    """Return the attribute of JAX's namespace, looked up once."""
    if name.startswith("_"):
        raise AttributeError(name)
    found = globals()[name] = getattr(jnp, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(jnp)})


def maximum(x: Any, y: Any) -> Any:
    """Return the larger of two arrays, or of an array and a number; at a tie, the second."""
    return _maximum(y, x) if isinstance(x, float | int) else _maximum(x, y)


def minimum(x: Any, y: Any) -> Any:
    """Return the smaller of two arrays, or of an array and a number; at a tie, the second."""
    return _minimum(y, x) if isinstance(x, float | int) else _minimum(x, y)


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """Return `x`, or the nearer bound where `x` lies outside the bounds."""
    x = x if min is None else maximum(x, min)
    return x if max is None else minimum(x, max)


def written_out(x: Any) -> Any:
    """Return the same values, which a compiled program writes out before it adds them up.

    XLA for the CPU makes a product part of the sum over it, and writes out every factor in place of the product. A
    selection it leaves outside.
    """
    # −NaN is NaN, and so is its derivative, which a constant in its place would lose
    return jnp.where(x == x, x, -x) if isinstance(x, jax.core.Tracer) else x


def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the largest element over the axes, or NaN where one of them is NaN."""
    return _reduced(jnp.max, x, axis, keepdims)


def min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the smallest element over the axes, or NaN where one of them is NaN."""
    return _reduced(jnp.min, x, axis, keepdims)


# compiled, so that a call outside a trace is one operation for JAX; inside a trace they are inlined


@functools.partial(jax.jit, inline=True)
def _maximum(x: Any, y: Any) -> Any:
    return jnp.where((x <= y) | (y != y), y, x)


@functools.partial(jax.jit, inline=True)
def _minimum(x: Any, y: Any) -> Any:
    return jnp.where((x >= y) | (y != y), y, x)


@functools.partial(jax.jit, inline=True, static_argnums=(0, 2, 3))
def _reduced(reduction: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    found = reduction(x, axis=axis, keepdims=keepdims)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return found
    return jnp.where(jnp.any(x != x, axis=axis, keepdims=keepdims), math.nan, found)
