"""What can befall a process, each in one of its own: `python tests/processes.py NAME` ends with exit code 0 if it held.

These import no JAX and no PyTorch, so that they may fork, and so that a process starts quickly.
"""

import atexit
import gc
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mithril_losses as ml
from mithril_losses import gradient_of, unregister, value_and_gradient

N = 50_000
LABELS = ("f4", "i4", "u4", "f8")  # the targets that one loop is compiled for, two of them of one width


def problem(dtype: str = "f4") -> tuple[Any, Any]:
    r = np.random.default_rng(0)
    return r.standard_normal(N).astype("f4"), np.abs(3 * r.standard_normal(N)).astype(dtype)


def huber(dtype: str = "f4") -> tuple[float, Any]:
    p, t = problem(dtype)
    value, gradient = value_and_gradient(ml.huber_loss)(p, t)
    return float(value), gradient


def require_right(dtype: str = "f4") -> None:
    """Compare a large call, by a compiled loop, with the formula."""
    p, t = problem(dtype)
    error = p.astype("f8") - t
    value, gradient = huber(dtype)
    expected = np.where(np.abs(error) <= 1, error**2 / 2, np.abs(error) - 0.5).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.clip(error, -1, 1) / N, rtol=1e-5, atol=1e-11)


def in_child(work: Callable[[], object], seconds: int = 120) -> int:
    """Return the child's handle; it ends with 0 if `work` does not raise, and dies if it takes too long."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(seconds)
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def outcome(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def require_success(*pids: int) -> None:
    codes = [outcome(pid) for pid in pids]
    if any(codes):
        raise AssertionError(f"exit codes {codes}")


def cache() -> Path:
    return Path(os.environ["MITHRIL_LOSSES_CACHE"])


def entries() -> list[Path]:
    return sorted(cache().glob("*/*.code"))


def import_numba() -> None:
    """Have what is imported in the parent, where a child finds it; nothing is compiled yet."""
    import numba.core.caching  # noqa: F401

    from mithril_losses.loops import elements  # noqa: F401


# --- processes that compile at the same time ------------------------------------------------------------------------


def race(starts: int = 3) -> None:
    """Cold starts of four processes with four signatures on one empty folder: no later process has a wrong number."""
    import_numba()
    for start in range(starts):
        shutil.rmtree(cache(), ignore_errors=True)
        ready = time.time() + 0.05

        def together(dtype: str, ready: float = ready) -> None:
            time.sleep(max(ready - time.time(), 0.0))
            require_right(dtype)

        require_success(*[in_child(lambda dtype=dtype: together(dtype)) for dtype in LABELS])
        if len(entries()) != len(LABELS):
            raise AssertionError(f"{len(entries())} entries after start {start}")
        require_success(*[in_child(lambda dtype=dtype: require_right(dtype)) for dtype in LABELS])


def fork_while_compiling(forks: int = 3) -> None:
    """Fork while another thread compiles, at several moments: the child answers, and so does the parent."""
    import_numba()
    for delay in np.linspace(0.02, 0.5, forks):
        shutil.rmtree(cache(), ignore_errors=True)

        def scene(delay: float = float(delay)) -> None:
            thread = threading.Thread(target=huber)
            thread.start()
            time.sleep(delay)
            child = in_child(lambda: require_right("i4"), seconds=60)
            require_success(child)
            thread.join()
            require_right()

        require_success(in_child(scene))


# --- damage -----------------------------------------------------------------------------------------------------------


def _rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": _rewrite(lambda _: b""),
    "cut after the digest": _rewrite(lambda content: content[:32]),
    "cut at 200 bytes": _rewrite(lambda content: content[:200]),
    "cut in the middle": _rewrite(lambda content: content[: len(content) // 2]),
    "random": _rewrite(lambda content: np.random.default_rng(0).bytes(len(content))),
    "zeros": _rewrite(lambda content: bytes(len(content))),
    "a folder": _as_folder,
    "a dangling link": _as_link,
    "from the future": lambda path: os.utime(path, (2e9, 2e9)),
    "unreadable": lambda path: path.chmod(0),
    "writable by others": lambda path: path.chmod(0o666),
}


def damage() -> None:
    """Every state of the folder's file: two processes each answer right, and nothing of it is run."""
    import_numba()
    for name, damaged in DAMAGE.items():
        shutil.rmtree(cache(), ignore_errors=True)
        require_success(in_child(require_right))
        [entry] = entries()
        damaged(entry)
        for _ in range(2):
            try:
                require_success(in_child(require_right))
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


def flips(count: int = 20) -> None:
    """Flip random bits of an entry, one at a time: every process answers right."""
    import_numba()
    require_success(in_child(require_right))
    [entry] = entries()
    whole = entry.read_bytes()
    draw = random.Random(0)
    right = 0
    for _ in range(count):
        changed = bytearray(whole)
        place = draw.randrange(8 * len(whole))
        changed[place // 8] ^= 1 << place % 8
        entry.write_bytes(changed)
        right += outcome(in_child(require_right)) == 0
    print(f"{right} of {count} flips gave a right answer")
    if right < count:
        raise AssertionError("a flip was run")


# --- the ends of a process ------------------------------------------------------------------------------------------


def after_the_main_thread() -> None:
    """A loss in a thread after the main thread has ended, and in `atexit`; wrong numbers end with exit code 1."""
    p = np.linspace(-2, 2, 3_000_000).astype("f4")
    both = value_and_gradient(ml.huber_loss, threads=2)
    expected = float(both(p, 0 * p)[0])

    def compare(delay: float) -> None:
        try:
            time.sleep(delay)
            if float(both(p, 0 * p)[0]) != expected:
                raise AssertionError("another number")
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    atexit.register(compare, 0.0)
    threading.Thread(target=compare, args=(0.3,)).start()


def interrupted_import(moments: int = 1) -> None:
    """Ctrl-C while numba is imported for the first time: the next call answers."""

    def scene(moment: float) -> None:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, moment)
        try:
            huber()
        except KeyboardInterrupt:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        require_right()

    if "numba" in sys.modules:
        raise AssertionError("numba is imported already")
    for moment in np.linspace(0.05, 0.8, moments):
        require_success(in_child(lambda moment=moment: scene(float(moment))))


# --- memory -----------------------------------------------------------------------------------------------------------


def resident() -> float:
    """Return the megabytes of the process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def require_bounded(redefine: Callable[[int], None], count: int, megabytes: float = 50.0) -> None:
    for i in range(10):
        redefine(i)
    before = resident()
    for i in range(count):
        redefine(10 + i)
    grown = resident() - before
    print(f"{redefine.__name__}: {count} times, {grown:.1f} MB")
    if grown > megabytes:
        raise AssertionError(f"{grown:.1f} MB left by {count} redefinitions")


def redefined(count: int = 1000) -> None:
    """Losses that are defined again and again, as in a notebook cell, each holding a megabyte."""

    def any_loss(i: int) -> None:
        held = np.full(1 << 17, float(i))

        def mine(predictions: Any, targets: Any) -> Any:
            return np.sum((predictions - targets) ** 2) + 0 * held[0]

        @gradient_of(mine)
        def mine_gradient(predictions: Any, targets: Any) -> Any:
            return 2 * (predictions - targets)

        value_and_gradient(mine)(np.ones(3), np.zeros(3))
        unregister("mine")

    class Mine:
        """A loss that is an object."""

        def __init__(self, i: int) -> None:
            self.held = np.full(1 << 17, float(i))

        def __call__(self, predictions: Any, targets: Any) -> Any:
            return np.sum(predictions - targets)

        def gradient(self, predictions: Any, targets: Any) -> Any:
            return np.ones_like(predictions)

    def an_object(i: int) -> None:
        value_and_gradient(Mine(i))(np.ones(3), np.zeros(3))

    require_bounded(any_loss, count)
    require_bounded(an_object, count)


CELL = """
from mithril_losses import value_and_gradient, gradient_of
from mithril_losses.templates.elements import elementwise
from mithril_losses.domains import REAL

@elementwise(predictions=REAL, targets=REAL)
def _edited(xp, predictions, targets):
    error = predictions - targets
    return FACTOR * error * error, 2 * FACTOR * error

def edited_loss(predictions, targets, **reduction):
    return _edited.value(predictions, targets, **reduction)

@gradient_of(edited_loss, terms=_edited)
def edited_loss_gradient(predictions, targets, **reduction):
    return _edited.gradient(predictions, targets, **reduction)

value, gradient = value_and_gradient(edited_loss)(p, t)
"""


def edited_terms(count: int = 1000) -> None:
    """Element-wise terms that are edited again and again, and called with large arrays each time."""
    import linecache

    p, t = problem()
    names: dict[str, Any] = {"p": p, "t": t, "__name__": "__main__"}

    def edited(i: int) -> None:
        text, file = CELL.replace("FACTOR", f"{i}.5"), f"<cell {i}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec"), names)
        np.testing.assert_allclose(names["value"], (i + 0.5) * np.mean((p.astype("f8") - t) ** 2), rtol=1e-6)
        del linecache.cache[file]

    require_bounded(edited, count)


def redefined_for_jax(count: int = 150) -> None:
    """Losses that are defined again and again, and compiled by JAX each time."""
    import jax.numpy as jnp

    x = jnp.ones(3)

    def compiled(i: int) -> None:
        def mine(predictions: Any, targets: Any) -> Any:
            return jnp.sum((predictions - targets) ** 2)

        @gradient_of(mine)
        def mine_gradient(predictions: Any, targets: Any) -> Any:
            return 2 * (predictions - targets)

        value_and_gradient(mine)(x, x)
        unregister("mine")

    require_bounded(compiled, count)


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    globals()[name](*map(int, numbers))
