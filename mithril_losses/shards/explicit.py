"""JAX: arrays whose types say how they are sharded, over a mesh with explicit axes.

Each operation on such arrays must say how its result is sharded, unless this is clear: a gather along a sharded axis
raises, and so does a product of two arrays that are sharded over the same axis. The compiler knows how to divide these.
So they run on automatic axes, and only arguments and results have explicit types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def are_explicit(given: Any) -> bool:
    """Whether an array in a nesting is sharded over an explicit axis."""
    return any(_is_explicit(x) for x in jax.tree.leaves(given) if isinstance(x, jax.Array))


def _is_explicit(x: Any) -> bool:
    sharding = jax.typeof(x).sharding
    return any(spec is not None for spec in sharding.spec) and AxisType.Explicit in sharding.mesh.axis_types


def on_automatic_axes(
    function: Callable[..., Any], names: tuple[str, ...], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Any:
    """Return the result of a function of a loss; its gradients are sharded like their arguments, which have names.

    Losses are sharded like the first array, as far as they have its axes.
    """
    given, structure = jax.tree.flatten((arguments, dict(keywords)))
    places = [i for i, x in enumerate(given) if isinstance(x, jax.Array)]
    arrays = [given[i] for i in places]
    mesh = next(jax.typeof(x).sharding.mesh for x in arrays if _is_explicit(x))

    def call(*arrays: Any) -> Any:
        called = list(given)
        for i, x in zip(places, arrays, strict=True):
            called[i] = x
        own, named = jax.tree.unflatten(structure, called)
        return function(*own, **named)

    by_name = dict(zip(names, arguments, strict=False))

    def sharding(path: tuple[Any, ...], result: Any) -> NamedSharding:
        keys = [step.key for step in path if isinstance(step, jax.tree_util.DictKey) and step.key in by_name]
        alike = [x for x in jax.tree.leaves(by_name[keys[0]] if keys else None) + arrays if x.shape == result.shape]
        spec = jax.typeof(alike[0]).sharding.spec if alike else _of_rows(arrays[0], result.shape)
        return NamedSharding(mesh, spec)

    shapes = jax.eval_shape(call, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays))
    shardings = jax.tree_util.tree_map_with_path(sharding, shapes)
    return jax.sharding.auto_axes(call, out_sharding=shardings)(*arrays)


def _of_rows(first: Any, shape: tuple[int, ...]) -> PartitionSpec:
    kept: list[Any] = []
    for own, length, spec in zip(shape, first.shape, jax.typeof(first).sharding.spec, strict=False):
        if own != length:
            break
        kept.append(spec)
    return PartitionSpec(*kept)
