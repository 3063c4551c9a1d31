"""The memory of an array is used again once nothing refers to the array, never before, and never for long."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
import torch

import mithril_losses as ml
from mithril_losses import value_and_gradient
from mithril_losses.backends import memory
from mithril_losses.backends.memory import VARIABLE, empty, kept_memory, release_kept_memory

MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool for each test, whose blocks also outlast a pause of a machine that is busy."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(memory, "_PERIOD", 5.0)
    monkeypatch.setattr(memory, "_pool", memory._Pool())
    gc.collect()
    yield
    release_kept_memory()


def array(mebibytes: float = 2, value: int = 1) -> np.ndarray[Any, Any]:
    found = empty((int(mebibytes * MEBIBYTE),), np.uint8)
    found[...] = value
    return found


def address(x: Any) -> int:
    return int(x.ctypes.data)


def address_of_a_dropped_array(mebibytes: float = 2) -> int:
    return address(array(mebibytes))


class Cycle:
    def __init__(self, held: Any) -> None:
        self.held, self.itself = held, self


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "the array": lambda x: x,
    "a view": lambda x: x[5:-5],
    "a view of another dtype": lambda x: x.view(np.float32)[::3],
    "a memoryview": memoryview,
    "an array over a memoryview": lambda x: np.frombuffer(memoryview(x), np.uint8),
    "an array over its description": lambda x: np.asarray(Described(x)),
    "a tensor": torch.from_numpy,
    "a view of a tensor": lambda x: torch.from_numpy(x)[7:].view(-1)[::2],
    "the storage of a tensor": lambda x: torch.from_numpy(x).untyped_storage(),
    "a tensor by dlpack": torch.from_dlpack,
    "an array by dlpack": np.from_dlpack,
    "a JAX array": lambda x: jax.device_put(x, may_alias=True),
    "a JAX array by dlpack": lambda x: jax.dlpack.from_dlpack(x, copy=False),
    "a cycle": Cycle,
}


class Described:
    """An array of another library that describes its memory, and keeps it."""

    def __init__(self, x: Any) -> None:
        self._x, self.__array_interface__ = x, x.__array_interface__


def values(holder: Any) -> np.ndarray[Any, Any]:
    if isinstance(holder, Cycle):
        holder = holder.held
    if isinstance(holder, torch.UntypedStorage):
        holder = torch.empty(0, dtype=torch.uint8).set_(holder)
    if isinstance(holder, torch.Tensor):
        holder = holder.numpy()
    return np.array(holder).view(np.uint8)


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS.keys())
def test_what_refers_to_an_array_keeps_its_memory(hold: Callable[[Any], Any]) -> None:
    holder = hold(array(value=7))
    for value in range(20):  # of which each would take the memory
        array(value=value)
    others = [array(value=value) for value in range(3)]
    assert (values(holder) == 7).all()
    assert all((other == value).all() for value, other in enumerate(others))


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS.keys())
def test_memory_is_used_again_after_the_end_of_what_referred_to_it(hold: Callable[[Any], Any]) -> None:
    x = array()
    place, holder = address(x), hold(x)
    del x
    assert address_of_a_dropped_array() != place
    release_kept_memory()
    del holder
    gc.collect()  # ends cycles, and what JAX has put aside
    assert address_of_a_dropped_array() == place


def test_arrays_are_as_those_of_numpy() -> None:
    for shape, dtype in (((3, 100_000), "float32"), ((1_000, 1_000), "float16"), ((2**20,), "bool"), ((7,), "float64")):
        for _ in range(2):  # new memory, then used memory
            x = empty(shape, dtype)
            assert (x.shape, x.dtype) == (shape, np.dtype(dtype))
            assert x.flags.c_contiguous
            assert x.flags.writeable
            assert x.flags.aligned
            assert address(x) % 64 == 0
            x[...] = 1
            assert (x == 1).all()


def test_which_sizes_share_memory() -> None:
    place = address_of_a_dropped_array(4)
    assert address_of_a_dropped_array(2) == place
    assert address_of_a_dropped_array(3.9) == place
    assert address_of_a_dropped_array(4) == place
    held = array(1.9)  # less than half
    assert address(held) != place
    assert address_of_a_dropped_array(4) == place


def traced() -> float:
    """The mebibytes that NumPy has allocated since `tracemalloc` started."""
    return tracemalloc.get_traced_memory()[0] / MEBIBYTE


@pytest.fixture
def _tracing() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("_tracing")
def test_a_larger_array_replaces_the_memory_that_was_too_small() -> None:
    for mebibytes in (4, 5, 6, 7, 8):
        array(mebibytes)
    assert traced() == pytest.approx(8, abs=0.1)


@pytest.mark.usefixtures("_tracing")
def test_changing_sizes_take_twice_the_largest() -> None:
    random = np.random.default_rng(0)
    for mebibytes in random.uniform(1, 8, 300):
        empty((int(mebibytes * MEBIBYTE),), np.uint8)
    assert 8 < traced() + 0.5 < 16


@pytest.mark.usefixtures("_tracing")
def test_the_limit_holds_for_what_is_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "5M")
    arrays = [array(2) for _ in range(10)]
    assert traced() == pytest.approx(20, abs=0.1)
    newest = address(arrays[0])
    while arrays:
        arrays.pop()
    assert traced() == pytest.approx(4, abs=0.1)
    array(6)  # is not kept, and drives out nothing
    assert traced() == pytest.approx(4, abs=0.1)
    kept = [address(x) for x in (array(2), array(2))]
    assert newest in kept
    monkeypatch.setenv(VARIABLE, "0")
    release_kept_memory()
    array(2)
    assert traced() == pytest.approx(0, abs=0.1)


def test_many_small_blocks_are_not_all_kept() -> None:
    arrays = [array(1) for _ in range(100)]
    places = {address(x) for x in arrays}
    del arrays
    again = [array(1) for _ in range(100)]
    assert len(places & {address(x) for x in again}) > 0
    assert len(memory._pool._kept) == 0
    del again
    assert len(memory._pool._kept) == memory._BLOCKS


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("123456", 123456), ("256K", 2**18), ("256M", 2**28), ("3g", 3 * 2**30), ("1T", 2**40)],
)
def test_the_limit(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert kept_memory() == expected


def test_the_default_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < kept_memory() <= 2**30
    monkeypatch.setenv(VARIABLE, "")  # as if unset
    assert 0 < kept_memory() <= 2**30


@pytest.mark.parametrize("text", ["-1", "1.5G", "256MB", "many", "1 G", "٣", " "])
def test_a_wrong_limit_is_refused_by_the_first_large_call(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    x = np.zeros(300_000, np.float32)
    with pytest.raises(ValueError, match=rf"^{VARIABLE} must be a number of bytes such as 256M, .*, got {text!r}$"):
        value_and_gradient(ml.mse_loss)(x, x)
    value_and_gradient(ml.mse_loss)(x[:100], x[:100])


@pytest.mark.usefixtures("_tracing")
def test_unused_memory_goes_back() -> None:
    threads = set(threading.enumerate())

    def ended() -> bool:
        return threads.issuperset(threading.enumerate())

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)

    with mock.patch.object(memory, "_PERIOD", 0.2):
        held = array(3)
        array(8)
        assert traced() == pytest.approx(11, abs=0.1)

        def unused() -> bool:
            array(2)  # is used all the time
            return traced() < 6

        wait(unused)
        assert not ended()
        wait(ended)
        assert traced() == pytest.approx(3, abs=0.1)
        del held  # nobody is there to drop it later
        assert traced() == pytest.approx(0, abs=0.1)
        place = address_of_a_dropped_array(2)
        assert address_of_a_dropped_array(2) == place  # it begins again
        wait(ended)


@pytest.mark.usefixtures("_tracing")
def test_nothing_is_kept_if_no_thread_can_be_started() -> None:
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError):
        for value in (1, 2):
            assert (array(2, value) == value).all()
    assert traced() == pytest.approx(0, abs=0.1)


@pytest.mark.usefixtures("_tracing")
def test_what_is_kept_is_freed_where_memory_is_short() -> None:
    array(4)
    new, failed = np.empty, []

    def short(shape: Any, *more: Any) -> Any:
        if traced() > 3:
            failed.append(shape)
            raise MemoryError
        return new(shape, *more)

    with mock.patch.object(memory.np, "empty", short):
        assert array(9).size == 9 * MEBIBYTE
    assert len(failed) == 1


def test_the_garbage_collector_ends_arrays_at_any_allocation() -> None:
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for value in range(60):
            cycles = [Cycle(array(1 + value % 3, value)) for _ in range(3)]
            assert all((cycle.held == value).all() for cycle in cycles)
    finally:
        gc.set_threshold(*before)


def test_threads_never_share_memory() -> None:
    wrong = []
    shared: list[Any] = []

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        mine: list[tuple[Any, int]] = []
        for step in range(60):
            value = (number * 60 + step) % 251
            mine.append((array(1 + step % 4, value), value))
            shared.append(mine[-1])  # which another thread may end
            for x, expected in [mine[random.integers(len(mine))], shared[-1]]:
                if (x != expected).any():
                    wrong.append(number)
            if random.random() < 0.8:
                mine.pop(int(random.integers(len(mine))))
            if len(shared) > 8:
                shared.pop(0)

    running = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong


def test_a_block_that_another_thread_takes_first() -> None:
    place = address_of_a_dropped_array()
    (block,) = memory._pool._kept

    class Late(deque[Any]):
        def copy(self) -> Any:  # what this thread saw before the other thread took the block
            return deque([block])

    taken = array()
    assert address(taken) == place
    with mock.patch.object(memory._pool, "_kept", Late()):
        assert address(array()) != place


def converted(library: str, x: Any) -> Any:
    return {"numpy": np.asarray, "torch": torch.from_numpy, "jax": jax.numpy.asarray}[library](x)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_later_calls_leave_a_gradient_alone(library: str) -> None:
    random = np.random.default_rng(0)
    p, t = random.standard_normal((2, 300_000), dtype=np.float32)
    both = value_and_gradient(ml.mse_loss)
    expected = ml.mse_loss_gradient(p, t)
    kept = [both(converted(library, p), converted(library, t))[1] for _ in range(3)]
    views = [both(converted(library, p), converted(library, t))[1][1000:2000] for _ in range(3)]
    for scale in range(1, 10):
        both(converted(library, scale * t), converted(library, p))
    for gradient in kept:
        np.testing.assert_array_equal(np.asarray(gradient), expected)
    for view in views:
        np.testing.assert_array_equal(np.asarray(view), expected[1000:2000])


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_loop_that_drops_its_gradients_uses_their_memory_again(library: str) -> None:
    p, t = (converted(library, np.full(300_000, value, np.float32)) for value in (1.0, 2.0))
    both = value_and_gradient(ml.mse_loss)
    places = set()
    for _ in range(20):
        _, gradient = both(p, t)
        places.add(address(np.asarray(gradient)))
        del gradient
    assert len(places) <= (3 if library == "jax" else 1)


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_at_the_end_of_the_interpreter() -> None:
    run(
        """
        import atexit, gc, threading
        import numpy as np
        from mithril_losses.backends.memory import empty

        def take():
            x = empty((2**21,), np.uint8)
            x[...] = 1
            return x

        class Late:
            def __init__(self): self.held = take()
            def __del__(self): self.other = self.held[5:]

        def forever():
            while True:
                take()

        kept = [take() for _ in range(3)]
        take()
        late, cycle = Late(), Late()
        cycle.itself = cycle
        np.late = Late()  # a module that ends after this one
        atexit.register(take)
        threading.Thread(target=forever, daemon=True).start()
        """
    )


@pytest.mark.skipif(not hasattr(memory.os, "fork"), reason="needs a fork")
def test_a_forked_child_begins_anew() -> None:
    run(
        """
        import os, threading, time
        import numpy as np
        from mithril_losses.backends import memory
        from mithril_losses.backends.memory import empty

        def take(value):
            x = empty((2**21,), np.uint8)
            x[...] = value
            return x

        held = take(1)
        busy = threading.Thread(target=lambda: [take(2) for _ in range(300)])
        busy.start()
        take(3)
        pids = []
        for value in range(5):
            pid = os.fork()
            if not pid:
                mine = take(10 + value)
                place = take(4).ctypes.data
                reused = take(5).ctypes.data == place
                watched = any(t.name == "mithril_losses_memory" for t in threading.enumerate())
                right = (held == 1).all() and (mine == 10 + value).all()
                os._exit(0 if reused and watched and right else 1)
            pids.append(pid)
        assert not any(os.waitpid(pid, 0)[1] for pid in pids)
        assert (held == 1).all()
        busy.join()
        """
    )


@pytest.mark.parametrize("calls", [300, pytest.param(10_000, marks=pytest.mark.exhaustive)])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_over_calls_of_changing_sizes(calls: int) -> None:
    run(
        f"""
        import numpy as np
        import mithril_losses as ml

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096 / 2**20

        random = np.random.default_rng(0)
        p, t = random.standard_normal((2, 4_000_000), dtype=np.float32)
        both = ml.value_and_gradient(ml.mse_loss)
        both(p, t)
        before, peak = resident(), 0.0
        for n in random.integers(1_000, 4_000_000, {calls}):
            value, gradient = both(p[:n], t[:n])
            peak = max(peak, resident())
        # two gradients at a time, of at most 15 MiB, for each of them blocks of halving sizes, and the allocator's own
        assert peak - before < 4 * 15 + 32, (before, peak)
        """
    )
