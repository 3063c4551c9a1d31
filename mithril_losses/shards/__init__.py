"""Arrays that are split over devices or processes: one protocol for JAX's mesh axes and PyTorch's process groups.

A *shard* is the part of an array that one device or process holds. A loss needs little from the other shards: sums and
largest numbers of a few values, and, for losses over pairs, blocks that travel around a ring.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mithril_losses.backends.namespaces import Array, library_name


@dataclass(frozen=True)
class Split:
    """What splits the arrays of a call: the names of mesh axes (JAX), or process groups (PyTorch).

    The arguments of the call are the local parts. What is given as `across=` without `Split` splits the rows.

    Attributes:
        rows: what splits the first axis, the batch. JAX takes one name, or a tuple of names; PyTorch takes a
            `ProcessGroup` or a `DeviceMesh` of one dimension. None if each shard holds all rows.
        classes: likewise, what splits the axis of the classes. The parts follow each other in the order of the ranks,
            so rank 0 holds the first classes.
        gather: whether contrastive losses gather the embeddings of all shards in each of them, which takes fewer steps
            than a ring, and more memory. Other losses have nothing to gather.

    Raises:
        ValueError: `gather` without rows that are split.

    Example:
        >>> Split(rows="data", classes="model")
        Split(rows='data', classes='model', gather=False)
    """

    rows: Any = None
    classes: Any = None
    gather: bool = False

    def __post_init__(self) -> None:
        if self.gather and self.rows is None:
            raise ValueError("gather is about rows that are split: name them, Split(rows=…, gather=True)")


class Shards(Protocol):
    """All shards along one axis, as one of them sees them.

    All shards must make the same calls in the same order. What decides which calls are made must thus be equal on all
    of them; `lengths` checks it.

    Attributes:
        size: the number of shards.
    """

    @property
    def size(self) -> int:
        """The number of shards."""

    def rank(self) -> Any:
        """Return the place of this shard, from 0 on: a number, or a traced array."""

    def sum(self, x: Array) -> Array:
        """Return the sum of the arrays of all shards. The result is the same array on each of them."""

    def apart(self, x: Array) -> Array:
        """Return an array that is the same on all shards, and of which each goes on to compute something of its own.

        Its derivative is the sum of what the shards contribute. JAX knows this from types.
        """

    def largest(self, x: Array) -> Array:
        """Return the largest elements over all shards. The derivative is 0, because no result depends on it."""

    def shift(self, blocks: Sequence[Array], length: int | None = None) -> list[Array]:
        """Return the blocks of the shard before this one, and give it own ones to the shard after it, in a ring.

        Args:
            blocks: the arrays that travel.
            length: how long the first axis of each block is that arrives; by default as long as what leaves.
        """

    def gather(self, x: Array, lengths: Sequence[int]) -> Array:
        """Return the arrays of all shards along one first axis, of which each shard has the given length."""

    def scatter(self, x: Array, lengths: Sequence[int]) -> Array:
        """Return the own part of the sum of the arrays of all shards: what belongs to the own array in `gather`."""

    def lengths(self, length: int, facts: str) -> tuple[int, ...]:
        """Return the given length of each shard, in the order of the ranks.

        Raises:
            ValueError: the facts, which must be equal on all shards, are not. It is raised on each of them.
        """


def resolve(xp: Any, across: Any) -> Split:
    """Return a split whose rows and classes are `Shards`, or None.

    Raises:
        TypeError: `across` is not for arrays of this library, or a group is not one.
        ValueError: there is no such axis or group here.
    """
    if across is None:
        return Split()
    if isinstance(across, Split):
        return Split(_shards(xp, across.rows), _shards(xp, across.classes), across.gather)
    return Split(_shards(xp, across))


def splits_classes(keywords: Mapping[str, Any]) -> bool:
    """Whether the keywords of a reduction say that the classes are split."""
    across = keywords.get("across")
    return isinstance(across, Split) and across.classes is not None


def joined(*shards: Shards | None) -> tuple[Shards, ...]:
    """Return what to sum over, one after the other: one collective for all mesh axes."""
    given = [x for x in shards if x is not None]
    if len(given) < 2 or not all(hasattr(x, "names") for x in given):
        return tuple(given)
    from mithril_losses.shards.axes import MeshAxes

    return (MeshAxes(tuple(name for x in given for name in x.names)),)  # type: ignore[attr-defined]  # asked above


def _shards(xp: Any, across: Any) -> Shards | None:
    if across is None or type(across).__name__ in ("Group", "MeshAxes"):  # which is resolved
        shards: Shards | None = across
        return shards
    library = library_name(xp)
    if _are_names(across):
        if library != "jax":
            raise TypeError(
                f"across={across!r} names an axis of a mesh of JAX, but the arrays are from {library}: "
                "pass a process group of PyTorch, such as torch.distributed.group.WORLD"
            )
        from mithril_losses.shards.axes import MeshAxes

        return MeshAxes.of(across)
    if library not in ("torch", "numpy"):
        raise TypeError(
            f"across must be the name of an axis of a mesh, or a tuple of names, for arrays from {library}; "
            f"got {across!r}"
        )
    if "torch.distributed" not in sys.modules:
        raise TypeError(f"across must be a process group of torch.distributed, got {across!r}")
    from mithril_losses.shards.groups import Group

    return Group.of(across)


def _are_names(across: Any) -> bool:
    return isinstance(across, str) or (isinstance(across, tuple) and all(isinstance(name, str) for name in across))
