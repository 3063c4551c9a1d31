"""PyTorch: tensors that say themselves how they are sharded over a mesh of devices (`DTensor`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch.distributed.tensor import DTensor, Replicate, Shard

from mithril_losses.shards import Split


def on_local_parts(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    keywords: Mapping[str, Any],
    per_class: Collection[str],
    class_axis: int,
    returns: str,
) -> Any:
    """Return the result of a function of a loss for the local parts of tensors, as tensors that are sharded alike.

    Args:
        function: a function of the arguments, by position, and of the keywords.
        arguments: of the loss, by name.
        keywords: of the reduction.
        per_class: the arguments whose first axis is that of the classes.
        class_axis: the axis of the classes in the other arguments.
        returns: what the function returns: "value", "gradient" or "both".

    Raises:
        ValueError: a tensor is split along an axis that is neither that of the rows nor that of the classes, or holds a
            sum that is still to be made; or `across` is given, too.
    """
    if keywords.get("across") is not None:
        raise ValueError("a DTensor knows how it is split: leave across out")
    distributed = {n: x for n, x in {**arguments, **keywords}.items() if isinstance(x, DTensor)}
    mesh = next(iter(distributed.values())).device_mesh
    roles: dict[int, str] = {}
    for name, x in distributed.items():
        for dimension, placement in enumerate(x.placements):
            role = _role(name, x, placement, per_class, class_axis)
            if role is not None and roles.setdefault(dimension, role) != role:
                raise ValueError(f"{name} splits {role} over a dimension of the mesh that splits {roles[dimension]}")
    groups: dict[str, Any] = {}
    for dimension, role in roles.items():
        if role in groups:
            raise ValueError(f"{role} may be split over one dimension of the mesh, not over several")
        groups[role] = mesh.get_group(dimension)

    def local(x: Any) -> Any:
        return x.to_local() if isinstance(x, DTensor) else x

    own = {name: local(x) for name, x in keywords.items()}
    found = function(*map(local, arguments.values()), **own, across=Split(**groups))
    keeps_rows = keywords.get("reduction") == "none" or keywords.get("axis") is not None

    def spread(x: Any) -> Any:
        """A loss: split like the rows if each row keeps its own, and otherwise the same on all shards."""
        kept = [Shard(0) if keeps_rows and roles.get(k) == "rows" else Replicate() for k in range(mesh.ndim)]
        return DTensor.from_local(x, mesh, kept, run_check=False)

    def alike(x: Any, name: str) -> Any:
        like = distributed.get(name)
        if like is None:
            return x
        return DTensor.from_local(
            x, mesh, like.placements, run_check=False, shape=like.shape, stride=_contiguous(like.shape)
        )

    first = next(iter(distributed))

    def gradient(x: Any) -> Any:
        return {name: alike(part, name) for name, part in x.items()} if isinstance(x, dict) else alike(x, first)

    if returns == "both":
        return spread(found[0]), gradient(found[1])
    return spread(found) if returns == "value" else gradient(found)


def _role(name: str, x: DTensor, placement: Any, per_class: Collection[str], class_axis: int) -> str | None:
    if placement.is_replicate():
        return None
    if placement.is_partial():
        raise ValueError(f"{name} holds sums that are still to be made over the mesh: redistribute it first")
    axis = placement.dim % x.ndim
    if name in per_class:
        role = "classes" if axis == 0 else None
    else:
        role = "rows" if axis == 0 else "classes" if axis == class_axis % x.ndim else None
    if role is None:
        raise ValueError(f"{name} is sharded along axis {axis}, which is neither that of the rows nor of the classes")
    return role


def _contiguous(shape: Any) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))
