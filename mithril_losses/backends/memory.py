"""Uninitialized arrays in warm memory: once nothing refers to a large array, the next one of its size gets its memory.

The system hands out memory in zeroed pages, each at its first touch. For a large array this takes longer than a loop
that fills it, and in a training loop, the last gradient has just been dropped. So its memory is kept for a moment.

Arrays may end in any thread, and inside the garbage collector, which runs at any allocation. So what happens at an end
takes no lock, waits for nothing, and starts no thread: the operations of a deque are atomic.
"""

from __future__ import annotations

import functools
import math
import os
import re
import threading
import time
from collections import deque
from typing import Any

import numpy as np

VARIABLE = "MITHRIL_LOSSES_KEPT_MEMORY"

_LINE = 64  # bytes of a cache line
_LARGE = 1 << 20  # bytes from which memory is kept: a shorter loop would notice the 3 µs that it takes
_MOST = 1 << 30  # bytes that are kept by default at most, and an eighth of the machine's memory
_BLOCKS = 64  # the number of blocks that are kept at most
_PERIOD = 1.0  # seconds: memory that is unused for one or two periods goes back to the system
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return an uninitialized array that begins on a cache line, so that loops are fast and JAX need not copy it.

    Raises:
        ValueError: the array is large, and the environment variable is no number of bytes.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size >= _LARGE and (limit := kept_memory()):
        memory = np.asarray(_Lease(_pool, _pool.take(size, limit)))
        start = 0
    else:
        memory = np.empty(size + _LINE, np.uint8)
        start = -memory.ctypes.data % _LINE
    array: np.ndarray[Any, Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array


def kept_memory() -> int:
    """Return how many bytes of unused memory may be kept: the environment variable, or else a default.

    The default is 1 GiB, or an eighth of the machine's memory if that is less.

    Raises:
        ValueError: the variable is no number of bytes.
    """
    given = os.environ.get(VARIABLE)
    return _bytes(given) if given else _default()


def release_kept_memory() -> None:
    """Give all memory that is kept and unused back to the system now, instead of one or two seconds later."""
    _pool.clear()


@functools.lru_cache(maxsize=8)
def _bytes(text: str) -> int:
    found = re.fullmatch("([0-9]{1,15})([KMGT]?)", text.upper(), re.ASCII)
    if found is None:
        raise ValueError(f"{VARIABLE} must be a number of bytes such as 256M, or 0 to keep none, got {text!r}")
    return int(found[1]) * _UNITS[found[2]]


@functools.cache
def _default() -> int:
    try:
        return min(_MOST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
    except (AttributeError, OSError, ValueError):  # a system that does not tell
        return _MOST


class _Block:
    """Memory for one array at a time.

    Attributes:
        memory: the bytes, which end with the block.
        address: where they begin on a cache line.
        size: how many there are from the address on.
        since: the period in which the block was given back last.
    """

    __slots__ = ("address", "memory", "since", "size")

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size + _LINE, np.uint8)
        self.address = self.memory.ctypes.data + -self.memory.ctypes.data % _LINE
        self.size = size
        self.since = 0


class _Lease:
    """The use of a block by one array. It ends when nothing refers to the array any more.

    The lease is the base of the array, and so of its views. Whatever shares the memory (a view, a memoryview, a tensor,
    a JAX array) holds a reference to one of these arrays. NumPy's arrays are invisible to the garbage collector, so it
    can never take the lease for garbage while an array exists.
    """

    __slots__ = ("__array_interface__", "_block", "_pool")

    def __init__(self, pool: _Pool, block: _Block) -> None:
        self._pool, self._block = pool, block
        self.__array_interface__ = {
            "version": 3,
            "shape": (block.size,),
            "typestr": "|u1",
            "data": (block.address, False),
        }

    def __del__(self) -> None:
        self._pool.give(self._block)


class _Pool:
    """Blocks without an array, the one that was given back last at the end, and a thread that drops unused ones.

    The thread starts at a call, and ends when there was no call for one or two periods. While it does not run, no block
    is kept, so an array that lives on for long is freed at its end. A process in which no thread can be started keeps
    nothing.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything, in a forked child, too: there is no thread, and to reuse a page would copy it first."""
        self._kept: deque[_Block] = deque(maxlen=_BLOCKS)
        self._limit = 0
        self._period = self._last_call = 0
        self._is_watched = False
        self._starting = threading.Lock()

    def clear(self) -> None:
        """Drop all blocks."""
        self._kept.clear()

    def take(self, size: int, limit: int) -> _Block:
        """Return a block of at least this size and at most twice of it: a kept one, or else a new one.

        If none fits, a new block replaces kept ones of at least half its size, because it will serve their arrays, too.
        So the sizes of blocks that take turns differ by a factor of two, and together they have twice the largest size.
        """
        self._limit, self._last_call = limit, self._period
        if not self._is_watched:
            self._start()
        found = self._find(size)
        if found is not None:
            return found
        try:
            return _Block(size)
        except MemoryError:
            self.clear()
            return _Block(size)

    def _find(self, size: int) -> _Block | None:
        kept = sorted(self._kept.copy(), key=lambda block: block.size)
        for block in kept:
            if size <= block.size <= 2 * size and self._remove(block):
                return block
        for block in kept:
            if size <= 2 * block.size < 2 * size:
                self._remove(block)
        return None

    def give(self, block: _Block) -> None:
        """Keep a block whose array has ended, in place of the oldest ones if there are more bytes than the limit."""
        if block.size > self._limit:
            return
        block.since = self._period
        self._kept.append(block)
        excess = sum([block.size for block in self._kept.copy()]) - self._limit
        while excess > 0:
            try:
                excess -= self._kept.popleft().size
            except IndexError:  # other threads dropped them
                break
        if not self._is_watched:  # the thread has ended, perhaps before it could see this block
            self._kept.clear()

    def _remove(self, block: _Block) -> bool:
        """Take a block out, and return whether it was still there."""
        try:
            self._kept.remove(block)
        except ValueError:  # another thread was faster
            return False
        return True

    def _start(self) -> None:
        if not self._starting.acquire(blocking=False):
            return  # another thread starts it
        try:
            self._is_watched = True
            threading.Thread(target=self._watch, name="mithril_losses_memory", daemon=True).start()
        except BaseException as error:
            self._is_watched = False
            self._kept.clear()
            if not isinstance(error, RuntimeError):  # no thread can be started
                raise
        finally:
            self._starting.release()

    def _watch(self) -> None:
        """Drop blocks that are unused for one or two periods."""
        while self._period - self._last_call <= 1:
            time.sleep(_PERIOD)
            self._period += 1
            for block in self._kept.copy():
                if self._period - block.since > 1:
                    self._remove(block)
        self._is_watched = False
        self._kept.clear()


_pool = _Pool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset)
