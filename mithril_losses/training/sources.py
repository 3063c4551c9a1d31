"""Where `fit` gets its batches from: arrays by name, an iterable of batches, or a function of the epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends import Backend
from mithril_losses.backends.conversion import library_of
from mithril_losses.backends.namespaces import Array, namespace_of

Data = Mapping[str, Array] | Iterable[Any] | Callable[[int], Iterable[Any]]
Batch = dict[str, Array]

# The streams of random numbers of a run. Each has its own generator, so that they do not influence each other.
SPLIT, PARAMETERS, BATCHES = range(3)


class Order(NamedTuple):
    """How arrays are cut into batches.

    Attributes:
        batch_size: the examples of a batch; None makes one batch of all of them.
        shuffle: whether each epoch has an order of its own.
        seed: decides these orders.
    """

    batch_size: int | None = 32
    shuffle: bool = True
    seed: int = 0


class Source:
    """The batches of each epoch, as dicts of arrays of one library.

    Args:
        data: see `fit`.
        backend: makes the arrays: what is in another library is converted, and floating-point values get its dtype.
        order: how arrays are cut into batches.
        names: the names of the entries of batches that are tuples or lists.
        steps: the number of batches in an epoch, for an iterator that goes on in the next epoch.

    Raises:
        ValueError: arrays of different lengths or without examples.
        TypeError: `data` is nothing of which batches can be made.
    """

    def __init__(
        self, data: Data, backend: Backend, order: Order, names: Sequence[str] = (), steps: int | None = None
    ) -> None:
        self._data = data
        self._backend = backend
        self._order = order
        self._names = tuple(names)
        self._steps = steps
        self._going: Iterator[Any] | None = None
        if isinstance(data, Mapping):
            self._count = _common_length(data)
        elif not callable(data) and not isinstance(data, Iterable):
            raise TypeError(f"data must be a dict of arrays, an iterable of batches or a function, got {data!r}")

    @property
    def origin(self) -> Any:
        """What the batches come from."""
        return self._data

    @property
    def batches_per_epoch(self) -> int | None:
        """The number of batches of an epoch, or None if it is known at its end only."""
        if self._steps is not None:
            return self._steps
        if isinstance(self._data, Mapping):
            return -(-self._count // (self._order.batch_size or self._count))
        try:
            return len(self._data)  # type: ignore[arg-type]
        except TypeError:
            return None

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 1.

        Raises:
            ValueError: the iterator is used up.
        """
        if isinstance(self._data, Mapping):
            yield from self._of_arrays(self._data, epoch)
            return
        found = self._data(epoch) if callable(self._data) else self._data
        if self._steps is None:
            count = 0
            for count, batch in enumerate(found, start=1):  # noqa: B007
                yield self.batch(batch)
            if not count:
                used = "an iterator is used up after one epoch: pass a list, or steps_per_epoch"
                raise ValueError(f"there is no batch in epoch {epoch}; {used}")
            return
        batches = iter(found) if callable(self._data) else self._continued(found)
        count = 0
        for batch in itertools.islice(batches, self._steps):
            count += 1
            yield self.batch(batch)
        if count < self._steps:
            raise ValueError(f"steps_per_epoch asks for {self._steps} batches, but epoch {epoch} has {count}")

    def skip(self, epochs: int) -> None:
        """Pass over the batches of epochs that are done, where an iterator goes on in the next epoch."""
        if self._steps is not None and not isinstance(self._data, Mapping) and not callable(self._data):
            for _ in itertools.islice(self._continued(self._data), epochs * self._steps):
                pass

    def _continued(self, data: Iterable[Any]) -> Iterator[Any]:
        if self._going is None:
            self._going = iter(data)
        return self._going

    def _of_arrays(self, arrays: Mapping[str, Array], epoch: int) -> Iterator[Batch]:
        order = self._order
        size = order.batch_size or self._count
        if not order.shuffle:
            for start in range(0, self._count, size):
                yield self.batch({name: array[start : start + size] for name, array in arrays.items()})
            return
        for rows in batches(self._count, size, order.seed, epoch):
            yield self.batch({name: _take(array, rows, self._backend) for name, array in arrays.items()})

    def batch(self, found: Any) -> Batch:
        """Return a batch as a dict of arrays of the library.

        Raises:
            ValueError: the names do not fit a batch that is a tuple or list.
            TypeError: an entry is not an array.
        """
        if isinstance(found, (tuple, list)):
            if len(found) != len(self._names):
                raise ValueError(f"a batch has {len(found)} entries, and batch_names names {list(self._names)}")
            found = dict(zip(self._names, found, strict=True))
        if not isinstance(found, Mapping):
            raise TypeError(f"a batch must be a dict of arrays, or a tuple, got {type(found).__name__}")
        return {name: self._array(name, array) for name, array in found.items()}

    def _array(self, name: str, array: Any) -> Array:
        library = library_of(array)
        if library is None:
            raise TypeError(f"entry {name!r} of a batch must be an array, got {type(array).__name__}")
        if library != self._backend.name or library == "numpy":
            return self._backend.array(array)
        return array.to(self._backend.device) if library == "torch" else array


def size_of(batch: Batch) -> int:
    """Return the number of examples of a batch: the length of its first array, or 1."""
    first = next(iter(batch.values()))
    return int(first.shape[0]) if len(first.shape) else 1


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Return the generator of one stream of random numbers: the same arguments give the same numbers everywhere."""
    return np.random.default_rng([seed, *stream])


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Array]:
    """Return the row numbers of each batch of an epoch: every row once, in an order that epoch and seed decide.

    Example:
        >>> [batch.tolist() for batch in batches(count=5, batch_size=2, seed=0, epoch=1)]
        [[1, 4], [2, 0], [3]]
    """
    order = generator(seed, BATCHES, epoch).permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def _take(array: Array, rows: Array, backend: Backend) -> Array:
    return array[backend.array(rows) if library_of(array) == backend.name else rows]


def _common_length(arrays: Mapping[str, Array]) -> int:
    lengths = {}
    for name, array in arrays.items():
        if (namespace_of(array) is None and not hasattr(array, "__getitem__")) or not getattr(array, "shape", ()):
            raise TypeError(f"data: {name!r} must be an array with a row for each example, got {type(array).__name__}")
        lengths[name] = int(array.shape[0])
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"data: all arrays must have the same number of rows, got {lengths or 'no array'}")
    return next(iter(lengths.values()))
