"""JAX: shards along axes of a mesh, inside `jax.shard_map`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from mithril_losses.backends.namespaces import Array


class MeshAxes(NamedTuple):
    """The shards along one or several axes of the mesh. All shards have the same shape and dtype."""

    names: tuple[str, ...]

    @staticmethod
    def of(across: str | tuple[str, ...]) -> MeshAxes:
        """Return the shards along the named axes.

        Raises:
            ValueError: there is no such axis here.
        """
        names = (across,) if isinstance(across, str) else across
        for name in names:
            try:
                jax.lax.axis_size(name)
            except NameError:
                raise ValueError(
                    f"across names the axis {name!r}, but no such axis is mapped here: call the loss inside "
                    "jax.shard_map over a mesh that has this axis, and not for arrays outside of it"
                ) from None
        return MeshAxes(names)

    @property
    def size(self) -> int:
        """The number of shards."""
        return int(jax.lax.axis_size(self.names))

    def rank(self) -> Any:
        """As in `Shards`."""
        return jax.lax.axis_index(self.names)

    def sum(self, x: Array) -> Array:
        """As in `Shards`."""
        return jax.lax.psum(x, self.names)

    def apart(self, x: Array) -> Array:
        """As in `Shards`."""
        return x

    def largest(self, x: Array) -> Array:
        """As in `Shards`."""
        return jax.lax.pmax(jax.lax.stop_gradient(x), self.names)

    def shift(self, blocks: Sequence[Array], length: int | None = None) -> list[Array]:
        """As in `Shards`."""
        around = [(i, (i + 1) % self.size) for i in range(self.size)]
        return [jax.lax.ppermute(x, self.names, around) for x in blocks]

    def gather(self, x: Array, lengths: Sequence[int]) -> Array:
        """As in `Shards`."""
        return jax.lax.all_gather(x, self.names, tiled=True)

    def scatter(self, x: Array, lengths: Sequence[int]) -> Array:
        """As in `Shards`."""
        return jax.lax.psum_scatter(x, self.names, tiled=True)

    def lengths(self, length: int, facts: str) -> tuple[int, ...]:
        """As in `Shards`."""
        return (length,) * self.size


def varying(x: Any) -> frozenset[str]:
    """Return the axes of the mesh along which a traced array differs between shards, as its type says."""
    kind = jax.typeof(x)
    found = kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
    return frozenset(found)


def knows_what_varies(names: tuple[str, ...]) -> bool:
    """Whether types tell along which axes arrays differ between shards: not with `check_vma=False`."""
    return bool(varying(jax.lax.axis_index(names)))


def varying_as(carry: Any, *others: Any) -> Any:
    """Return the arrays of a carry with the types that a loop gives them that computes with the others, too.

    `lax.scan` demands the same type before and after, and types say along which axes of the mesh shards differ.
    """
    axes = frozenset[str]().union(*(varying(x) for x in jax.tree.leaves((carry, others))))
    if not axes:
        return carry
    return jax.tree.map(lambda x: _pvary(x, tuple(axes - varying(x))), carry)


def _pvary(x: Any, names: tuple[str, ...]) -> Any:
    if not names:
        return x
    return jax.lax.pcast(x, names, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(x, names)
