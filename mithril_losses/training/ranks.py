"""The processes of a group that train one model together: each on its own batches, all with the same parameters."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from mithril_losses.backends.namespaces import Array, namespace_of
from mithril_losses.shards import resolve
from mithril_losses.training.errors import UserError
from mithril_losses.training.sources import Batch, size_of

T = TypeVar("T")


class Ranks:
    """The processes over which the batches of a run are split; this process alone if there is no group.

    Attributes:
        across: what the losses are told, see `reduce_loss`.
        size: the number of processes.
        rank: the place of this one, from 0 on.
    """

    def __init__(self, across: Any = None) -> None:
        if isinstance(across, str | tuple):
            raise ValueError(
                f"across={across!r} would name axes inside jax.shard_map, and fit runs outside: arrays that are "
                "sharded over a mesh say so themselves, so leave across out; PyTorch and NumPy take a process group"
            )
        split = resolve(np, across)
        if split.classes is not None:
            raise ValueError(
                "fit splits batches, and not classes: across takes a process group, or Split(rows=…). For a vocabulary "
                "that is split, write the steps yourself"
            )
        self.across = across
        self._group: Any = split.rows
        self.size: int = 1 if self._group is None else self._group.size
        self.rank: int = 0 if self._group is None else self._group.rank()

    def require(self, library: str) -> None:
        """Raise a ValueError unless groups pass arrays of this library on."""
        if self._group is not None and library == "jax":
            raise ValueError(
                "across is for parameters of PyTorch and NumPy; arrays of JAX that are sharded over a mesh say so "
                "themselves: leave across out"
            )

    def gathered(self, x: T) -> list[T]:
        """Return the objects of all ranks."""
        return [x] if self._group is None else self._group.gathered(x)

    def agreed(self, action: Callable[[], T]) -> T:
        """Return the result of what each rank does by itself; if it fails on one of them, raise on all.

        Raises:
            UserError: it failed on another rank.
        """
        if self._group is None:
            return action()
        result, error = None, None
        try:
            result = action()
        except Exception as found:
            error = found
        every = self.gathered(None if error is None else f"{type(error).__name__}: {' '.join(str(error).split())}")
        if error is not None:
            raise error
        for rank, text in enumerate(every):
            if text is not None:
                raise UserError(f"rank {rank} cannot go on: {text}")
        return result  # type: ignore[return-value]  # which is of this type if there is no error

    def compare(self, facts: str, params: Mapping[str, Array]) -> None:
        """Raise a ValueError on all ranks unless they agree on the facts and have the same parameters, in NumPy."""
        code = 0
        for name, x in params.items():
            code = zlib.crc32(
                np.ascontiguousarray(x).tobytes(), zlib.crc32(f"{name} {x.dtype} {x.shape}".encode(), code)
            )
        self._counted(0, f"{facts}, parameters with the checksum {code:08x}")

    def batches(self, own: Iterator[Batch], what: str) -> Iterator[tuple[Batch, int]]:
        """Yield the own batches, and the number of examples that all ranks have in theirs.

        Raises:
            ValueError: another rank has more batches, or fewer. It is raised on all of them.
        """
        count = 0
        for batch in own:
            yield batch, self._counted(size_of(batch), f"more than {count} batches in {what}")
            count += 1
        self._counted(0, f"{count} batches in {what}")

    def _counted(self, length: int, facts: str) -> int:
        return length if self._group is None else sum(self._group.lengths(length, facts))

    def summed(self, gradients: dict[str, Array]) -> dict[str, Array]:
        """Return the sums of gradients over the ranks: one collective for all arrays of a dtype."""
        if self._group is None:
            return gradients
        found: dict[str, Array] = {}
        kinds: dict[Any, list[str]] = {}
        for name, x in gradients.items():
            kinds.setdefault(x.dtype, []).append(name)
        for names in kinds.values():
            xp: Any = namespace_of(gradients[names[0]])
            flat = self._group.sum(xp.concat([xp.reshape(gradients[name], (-1,)) for name in names], axis=0))
            at = 0
            for name in names:
                x = gradients[name]
                size = int(np.prod(x.shape))
                found[name] = xp.reshape(flat[at : at + size], tuple(x.shape))
                at += size
        return {name: found[name] for name in gradients}
