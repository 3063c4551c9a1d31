"""What `faults.py` breaks: each function does it again and again, and says of each try what broke.

Everything is done through what users have: the functions of the package, the command line, and the folder that
`MITHRIL_LOSSES_CACHE` names.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Tries = Iterator[str]  # of each try: nothing where it held, otherwise what broke

SILENCE = 150.0  # seconds without a word after which a process counts as hung; one kernel takes seconds to compile
CACHE = "MITHRIL_LOSSES_CACHE"
THREADS = "MITHRIL_LOSSES_THREADS"


class Skipped(Exception):  # noqa: N818  (no error)
    """This machine cannot do what the fault needs."""


@dataclass(frozen=True)
class Fault:
    """What is done, what must hold, and the function that does it until its caller has had enough."""

    what: str
    holds: str
    tries: Callable[[Path, random.Random], Tries]

    @property
    def place(self) -> str:
        """Where another process finds the function."""
        return f"{self.tries.__module__}:{self.tries.__name__}"


FAULTS: list[Fault] = []


def fault(what: str, holds: str) -> Callable[[Callable[[Path, random.Random], Tries]], Any]:
    """Enter a function among the faults."""

    def enter(tries: Callable[[Path, random.Random], Tries]) -> Any:
        FAULTS.append(Fault(what, holds, tries))
        return tries

    return enter


# --- processes ------------------------------------------------------------------------------------------------------


class Fork:
    """A function in a forked process: what it returns says what broke."""

    def __init__(self, function: Callable[[], str]) -> None:
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            return
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(SILENCE * 0.8))  # a hung process ends, and is told from others by the signal
            try:
                broken = function()
            except BaseException:
                broken = traceback.format_exc(limit=-3)
            os.write(writer, broken[-4000:].encode())
        finally:
            os._exit(0)

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        os.kill(self.pid, signal.SIGKILL)

    def result(self) -> str:
        """Wait for the end, and return what broke."""
        with os.fdopen(self._reader, "rb") as pipe:
            broken = pipe.read().decode(errors="replace")
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status == -signal.SIGALRM:
            return "hung"
        return broken or (f"ended by signal {-status}" if status else "")


def in_fork(function: Callable[[], str]) -> str:
    """Call a function in a forked process, and return what broke."""
    return Fork(function).result()


def load_libraries() -> None:
    """Import what takes long, once for all forks of a process; the package itself reads its environment later."""
    import numba  # noqa: F401
    import scipy.special  # noqa: F401


def use_cache(folder: Path) -> None:
    """Keep compiled kernels in this folder."""
    os.environ[CACHE] = str(folder)


# --- numbers --------------------------------------------------------------------------------------------------------

SIZE = 1 << 17  # large enough for a compiled loop
MANY = 1 << 21  # large enough for several threads to share it


@functools.cache
def numbers(kind: str = "f4", size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Return numbers around 0; whole ones from 0 to 3 for a type of integers."""
    generator = np.random.default_rng(seed)
    if np.dtype(kind).kind in "iub":
        return generator.integers(0, 2 if kind == "?" else 4, size).astype(kind)
    return (1.5 * generator.standard_normal(size)).astype(kind)


def huber(p: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean Huber loss and its gradient, written out in double precision."""
    e = p.astype(np.float64) - t.astype(np.float64)
    values = np.where(np.abs(e) <= 1.0, 0.5 * e**2, np.abs(e) - 0.5)
    return float(values.mean()), np.clip(e, -1.0, 1.0) / e.size


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean cross-entropy of rows of logits and its gradient, written out in double precision."""
    z = z.astype(np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(z))
    value = -float(np.log(p[rows, labels.astype(int)]).mean())
    p[rows, labels.astype(int)] -= 1.0
    return value, p / len(z)


def difference(found: Any, expected: Any, tolerance: float = 2e-6) -> str:
    """Say what is wrong with a loss and its gradient, which may be off by `tolerance` of their largest number."""
    for name, a, b in zip(("loss", "gradient"), found, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return f"{name} of shape {a.shape} for {b.shape}"
        if not np.all(np.abs(a - b) <= tolerance * np.max(np.abs(b), initial=1e-300)):
            return f"{name} is off by {np.max(np.abs(a - b)):.3g}, of at most {np.max(np.abs(b)):.3g}"
    return ""


def differs(found: Any, expected: Any) -> str:
    """Say where a loss or its gradient differs in any bit."""
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))
    return "" if same else f"not the same bits: loss {found[0]!r} for {expected[0]!r}"


def compiled_calls() -> dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...], Any]]:
    """Return losses whose loops are compiled, and shared by three threads, with arguments and what they must give."""
    import mithril_losses as ml

    p, t, z = numbers("f4", MANY), numbers("f4", MANY, 1), numbers("f4", MANY, 2).reshape(-1, 4)
    labels = numbers("i8", len(z), 3)
    return {
        "huber_loss": (ml.value_and_gradient(ml.huber_loss, threads=3), (p, t), huber(p, t)),
        "cross_entropy_with_logits": (
            ml.value_and_gradient(ml.cross_entropy_with_logits, threads=3),
            (z, labels),
            cross_entropy(z, labels),
        ),
    }


def all_right() -> str:
    """Call the compiled losses, and say what is wrong."""
    for name, (both, arguments, expected) in compiled_calls().items():
        if broken := difference(both(*arguments), expected):
            return f"{name}: {broken}"
    return ""


# --- training runs --------------------------------------------------------------------------------------------------

CONFIGURATION = """
dtype = "float64"
data = {{ file = {data}, input = "x", test_fraction = 0.25 }}
model = {{ hidden = [8], outputs = {{ class = {{ size = 4 }}, again = {{ size = 6 }} }} }}
optimizer = {{ kind = "adam", learning_rate = 0.01 }}
run = {{ epochs = {epochs}, batch_size = 8, picture = false, output = "run" }}

[objective]
terms = [
  {{ name = "a", loss = "cross_entropy_with_logits", output = "class", target = "label" }},
  {{ name = "b", loss = "huber_loss", output = "again", target = "x" }},
]
"""


class Runs:
    """Training runs of one small configuration, each into a folder of its own, by the command line in a fork."""

    def __init__(self, folder: Path, epochs: int) -> None:
        import mithril_losses.cli
        import mithril_losses.cli.commands
        import mithril_losses.training.run  # once for all forks

        self._main = mithril_losses.cli.main
        self.folder, self._config = folder, folder / "run.toml"
        generator = np.random.default_rng(0)
        data = folder / "data.npz"
        np.savez(data, x=generator.standard_normal((48, 6)), label=generator.integers(0, 4, 48))
        self._config.write_text(CONFIGURATION.format(data=json.dumps(str(data)), epochs=epochs))
        start = time.monotonic()
        self.must_run(self.output("whole"))
        self.seconds = time.monotonic() - start
        self.whole = self.contents(self.output("whole"))

    def output(self, name: object) -> Path:
        """Return a folder for the files of a run."""
        return self.folder / str(name)

    def start(self, output: Path, *options: str, setup: Callable[[], object] = lambda: None) -> Fork:
        """Start a run whose result is its exit code and what it says."""

        def command() -> str:
            messages = os.memfd_create("messages")
            os.dup2(messages, sys.stderr.fileno())
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.argv = ["mithril-losses", "train", str(self._config), "--set", f"run.output={output}", *options]
            code: Any = 0
            try:
                setup()
                self._main()
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                traceback.print_exc(limit=-3)
                code = 70
            sys.stderr.flush()
            return f"{code or 0} {os.pread(messages, 4000, 0).decode(errors='replace')}"

        return Fork(command)

    def run(self, output: Path, *options: str, setup: Callable[[], object] = lambda: None) -> tuple[int, str]:
        """Run to the end, and return the exit code and what broke: the message, unless it is one line that is due."""
        return self.judged(self.start(output, *options, setup=setup).result())

    @staticmethod
    def judged(result: str) -> tuple[int, str]:
        """Return exit code and what broke of the result of a run."""
        code, _, message = result.partition(" ")
        if code == "0" or (code == "2" and re.fullmatch(r"(error: [^\n]+\n)+", message)):
            return int(code), ""
        return -1, f"exit code {result}"

    def must_run(self, output: Path, *options: str) -> str:
        """Run to the end, and say what broke where that is not what became of it."""
        result = self.start(output, *options).result()
        return "" if result.startswith("0 ") else f"exit code {result}"

    def contents(self, output: Path) -> dict[str, Any]:
        """Return the history, and every array of a finished run."""
        found: dict[str, Any] = {"history": (output / "history.csv").read_bytes()}
        for name in ("parameters.npz", "checkpoint.npz"):
            with np.load(output / name) as arrays:
                found |= {f"{name}/{key}": arrays[key].tobytes() for key in arrays.files if key != "about"}
        return found

    def differs(self, output: Path) -> str:
        """Say what differs in any bit from a run that nothing happened to."""
        found = self.contents(output)
        wrong = [key for key in {**found, **self.whole} if found.get(key) != self.whole.get(key)]
        return f"differs from an undisturbed run: {', '.join(wrong)}" if wrong else ""


@fault("`kill -9` at a random moment of a training run, then `--resume`", "ends bitwise as a run that was not killed")
def killed_runs(folder: Path, draw: random.Random) -> Tries:
    runs = Runs(folder, epochs=20)
    for number in itertools.count():
        output = runs.output(number)
        run = runs.start(output)
        time.sleep(draw.uniform(0.0, 1.1 * runs.seconds))
        run.kill()
        run.result()
        resume = ["--resume"] if (output / "checkpoint.npz").exists() else []
        yield runs.must_run(output, *resume) or runs.differs(output)
        shutil.rmtree(output)


@fault("a checkpoint that is cut, or has one bit flipped", "one line says so, or the run ends as if it were whole")
def damaged_checkpoints(folder: Path, draw: random.Random) -> Tries:
    runs = Runs(folder, epochs=3)
    output = runs.output("damaged")
    runs.must_run(output, "--set", "run.epochs=2")
    whole = (output / "checkpoint.npz").read_bytes()
    for cut in itertools.cycle((True, False, False, False)):
        content = bytearray(whole[: draw.randrange(len(whole))] if cut else whole)
        if not cut:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (output / "checkpoint.npz").write_bytes(content)
        code, broken = runs.run(output, "--resume")
        yield broken or ("" if code == 2 else runs.differs(output))


@fault("no room for the files of a run", "one line says so, the old checkpoint is kept and can be resumed")
def full_disks(folder: Path, draw: random.Random) -> Tries:
    runs = Runs(folder, epochs=4)
    begun = runs.output("begun")
    runs.must_run(begun, "--set", "run.epochs=2")
    size = (begun / "checkpoint.npz").stat().st_size
    for number in itertools.count():
        output = runs.output(number)
        shutil.copytree(begun, output)
        room = draw.randrange(size + 2000)  # a limit of the size of a file stands in for a disk
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
        _, broken = runs.run(output, "--resume", setup=limit)
        yield broken or runs.must_run(output, "--resume") or runs.differs(output)
        shutil.rmtree(output)


@fault(
    "the folder of a run removed, swapped for a link, or replaced by a file while it runs",
    "the run goes on or ends with one line, and the next one is right",
)
def vanished_folders(folder: Path, draw: random.Random) -> Tries:
    runs = Runs(folder, epochs=20)
    for number, kind in enumerate(itertools.cycle(("removed", "linked", "a file"))):
        output, elsewhere = runs.output(number), runs.output(f"{number} moved")
        run = runs.start(output)
        time.sleep(draw.uniform(0.2, 1.0) * runs.seconds)
        if output.exists():
            output.rename(elsewhere)
            if kind == "linked":
                output.symlink_to(elsewhere)
            elif kind == "a file":
                output.touch()
        _, broken = runs.judged(run.result())
        if output.is_file() or output.is_symlink():
            output.unlink()
        yield broken or runs.must_run(output) or runs.differs(output)
        for each in (output, elsewhere):
            shutil.rmtree(each, ignore_errors=True)


# --- threads, forks, signals ----------------------------------------------------------------------------------------


@fault("16 threads call losses that are not compiled yet", "all get the right numbers, with the same bits")
def first_calls_of_threads(folder: Path, draw: random.Random) -> Tries:
    load_libraries()

    def together() -> str:
        calls = compiled_calls()
        names = [name for name in calls for _ in range(8)]
        draw.shuffle(names)
        barrier = threading.Barrier(len(names))

        def call(name: str) -> Any:
            both, arguments, _ = calls[name]
            barrier.wait()
            return both(*arguments)

        with ThreadPoolExecutor(len(names)) as pool:
            results = list(pool.map(call, names))
        for name, result in zip(names, results, strict=True):
            both, arguments, expected = calls[name]
            if broken := difference(result, expected) or differs(result, both(*arguments)):
                return f"{name}: {broken}"
        return ""

    for number in itertools.count():
        use_cache(folder / str(number))
        yield in_fork(together)


@fault(
    "four processes start at once on an empty cache, each with another dtype of targets",
    "no wrong number in any of them, nor in a later process",
)
def cold_starts(folder: Path, draw: random.Random) -> Tries:
    load_libraries()
    kinds = ["f4", "i4", "u4", "i8"]

    def call(kind: str) -> str:
        import mithril_losses as ml

        p, t = numbers("f4"), numbers(kind, seed=1)
        broken = difference(ml.value_and_gradient(ml.huber_loss)(p, t), huber(p, t))
        return broken and f"targets of type {kind}: {broken}"

    for number in itertools.count():
        use_cache(folder / str(number))
        draw.shuffle(kinds)
        forks = [Fork(functools.partial(call, kind)) for kind in kinds]
        broken = [fork.result() for fork in forks]
        broken += [in_fork(functools.partial(call, kind)) for kind in kinds]
        yield "; ".join(filter(None, broken))


@fault("`kill -9` while a kernel is compiled and written to the cache", "later processes get the right numbers")
def killed_compilations(folder: Path, draw: random.Random) -> Tries:
    load_libraries()
    use_cache(folder / "warm")
    start = time.monotonic()
    broken = in_fork(all_right)
    seconds = time.monotonic() - start
    yield broken
    for number in itertools.count():
        use_cache(folder / str(number))
        fork = Fork(all_right)
        time.sleep(draw.uniform(0.1, 1.1) * seconds)
        fork.kill()
        fork.result()
        yield in_fork(all_right)


@fault("forks while three threads call losses", "every child computes the same bits, and the parent goes on")
def forks_among_threads(folder: Path, draw: random.Random) -> Tries:
    use_cache(folder)
    calls = compiled_calls()
    first = {name: both(*arguments) for name, (both, arguments, _) in calls.items()}
    stop = threading.Event()

    def check() -> str:
        for name, (both, arguments, expected) in calls.items():
            result = both(*arguments)
            if broken := difference(result, expected) or differs(result, first[name]):
                return f"{name}: {broken}"
        return ""

    def keep_calling() -> None:
        while not stop.is_set():
            if broken := check():
                raise AssertionError(broken)

    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(keep_calling) for _ in range(3)]
        try:
            while True:
                time.sleep(draw.uniform(0.0, 0.02))
                broken = in_fork(check)
                failed = [str(caller.exception()) for caller in callers if caller.done()]
                yield "; ".join(filter(None, [broken, *failed]))
        finally:
            stop.set()


@fault("Ctrl-C during compiled calls", "the next call computes the same bits, on all threads")
def interrupts(folder: Path, draw: random.Random) -> Tries:
    use_cache(folder)
    calls = list(compiled_calls().values())
    first = [both(*arguments) for both, arguments, _ in calls]
    start = time.monotonic()
    for both, arguments, _ in calls:
        both(*arguments)
    seconds = (time.monotonic() - start) / len(calls)
    calling = False

    def interrupt(*_: object) -> None:
        if calling:  # elsewhere it would interrupt these lines, not the package
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    send = functools.partial(os.kill, os.getpid(), signal.SIGINT)
    for (both, arguments, _), before in itertools.cycle(list(zip(calls, first, strict=True))):
        timer = threading.Timer(draw.uniform(0.0, seconds), send)
        interrupted = False
        try:
            calling = True
            timer.start()
            both(*arguments)
            calling = False
        except KeyboardInterrupt:
            interrupted = True
        calling = False
        timer.join()
        broken = differs(both(*arguments), before)
        if interrupted or broken:
            yield broken


@fault("1 to 1000 threads, one core, and nonsense for their number", "the same bits, or one clear error")
def thread_counts(folder: Path, draw: random.Random) -> Tries:
    import mithril_losses as ml

    use_cache(folder)
    p, t = numbers("f4", MANY), numbers("f4", MANY, 1)
    first = ml.value_and_gradient(ml.huber_loss, threads=1)(p, t)
    cores = os.sched_getaffinity(0)

    def with_threads(count: Any) -> str:
        return differs(ml.value_and_gradient(ml.huber_loss, threads=count)(p, t), first)

    def refused(source: str, count: Any) -> str:
        try:
            ml.value_and_gradient(ml.huber_loss, threads=count)(p, t)
        except ValueError as error:
            return "" if str(error).startswith(f"{source} must be a positive integer, got ") else f"says {error}"
        return f"{source} takes {count or os.environ[THREADS]!r}"

    while True:
        for count in (1, 2, 3, draw.randrange(4, 64), 1000, np.int64(2)):
            yield with_threads(count)
        for count in (0, -1, 2.0, "2", True, float("nan")):
            yield refused("threads", count)
        for text in ("0", "-1", "two", "2.0", " 2", "1e3", "٣"):
            os.environ[THREADS] = text
            yield refused(THREADS, None)
        for text in ("1", "7", ""):
            os.environ[THREADS] = text
            yield with_threads(None)
        os.sched_setaffinity(0, {draw.choice(sorted(cores))})
        yield with_threads(None)
        os.sched_setaffinity(0, cores)


# --- memory ---------------------------------------------------------------------------------------------------------


def layouts(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the numbers of an array in ways that memory may hold them."""
    count = len(x)
    yield "backwards", np.ascontiguousarray(x[::-1])[::-1]
    yield "every third", np.repeat(x, 3, axis=0)[::3]
    misaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    misaligned[...] = x
    yield "misaligned", misaligned
    yield "other byte order", x.astype(x.dtype.newbyteorder("S"))
    records = np.empty(x.shape, {"names": ["x"], "formats": [x.dtype], "offsets": [2]})
    records["x"] = x
    yield "part of a record", records["x"]
    with tempfile.TemporaryFile() as file:
        x.tofile(file)
        file.flush()
        yield "memory-mapped", np.memmap(file, x.dtype, "r", shape=x.shape)
        shared = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    yield "read-only", np.frombuffer(shared, x.dtype).reshape(x.shape)
    if x.ndim == 1:
        powers = (2,) * (count.bit_length() - 1)
        yield "32 dimensions", x.reshape((1,) * (32 - len(powers)) + powers)
        yield "64 dimensions", x.reshape(powers + (1,) * (64 - len(powers)))
        yield "Fortran order", np.asfortranarray(x.reshape(-1, 8))
        yield "axes in another order", x.reshape(8, 16, -1).transpose(2, 0, 1)
        yield "0 dimensions", x[:1].reshape(())
        yield "empty", x[:0]
    else:
        yield "Fortran order", np.asfortranarray(x)
        yield "part of a larger array", np.pad(x, [(1, 2), (3, 4)])[1:-2, 3:-4]
        yield "no rows", x[:0]


@fault(
    "arrays strided, misaligned, big-endian, memory-mapped, read-only, empty, of 0 to 64 dimensions, of integers",
    "the numbers of a plain copy",
)
def odd_memory(folder: Path, draw: random.Random) -> Tries:
    import mithril_losses as ml

    use_cache(folder)
    losses = [ml.huber_loss, ml.charbonnier_loss, ml.binary_cross_entropy_with_logits]
    rows = [ml.cross_entropy_with_logits, ml.kl_divergence]

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)

    def judged(loss: Any, how: str, p: np.ndarray, t: np.ndarray) -> str:
        before = p.tobytes(), t.tobytes()
        plain = p.astype(p.dtype.newbyteorder("="), "C").copy(), t.astype(t.dtype.newbyteorder("="), "C").copy()
        expected, found = loss_and_gradient(loss, *plain), ml.value_and_gradient(loss)(p, t)
        broken = difference(found, expected)
        if before != (p.tobytes(), t.tobytes()):
            broken = "an argument was written to"
        elif not found[1].flags.writeable:
            broken = "the gradient cannot be written to"
        return broken and f"{loss.__name__}, {how}: {broken}"

    def loss_and_gradient(loss: Any, *arguments: np.ndarray) -> tuple[Any, Any]:
        return loss(*arguments), getattr(ml, f"{loss.__name__}_gradient")(*arguments)

    while True:
        kind = draw.choice(["f4", "f8"])
        p, t = numbers(kind), numbers(draw.choice([kind, "f4", "i1", "u4", "i8", "?"]), seed=1)
        if draw.random() < 0.6:
            loss = draw.choice(losses)
            t = np.clip(t, 0, 1) if loss is ml.binary_cross_entropy_with_logits else t
            both = zip(layouts(p), [*layouts(t)], strict=True)
        else:
            loss, p = draw.choice(rows), p.reshape(-1, 4)
            t = numbers("i4", len(p), 3) if loss is ml.cross_entropy_with_logits else softmax(p[::-1])
            p = softmax(p) if loss is ml.kl_divergence else p
            both = zip(layouts(p), itertools.repeat(("", t)))
        for (how, a), (_, b) in both:
            if len(b.shape) < len(a.shape) or a.shape == b.shape:
                yield judged(loss, how, a, b[: len(a)] if a.shape[:1] != b.shape[:1] else b)


def require_memory(gibibytes: float) -> None:
    """Raise `Skipped` where less memory than this, and one gibibyte, is free.

    Raises:
        Skipped: there is less.
    """
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    free = int(found[1]) / 2**20 if found else 0.0
    if free < gibibytes + 1.0:
        raise Skipped(f"{gibibytes + 1.0:g} GiB of free memory are needed, {free:.1f} are there")


@fault("more than 2³¹ elements", "gradients stand at their places, beyond 2³¹ too")
def huge_arrays(folder: Path, draw: random.Random) -> Tries:
    import mithril_losses as ml

    use_cache(folder)
    count = 2**31 + 12_345
    require_memory(4.1)
    places = [0, 2**31 - 1, 2**31, count - 1, *(draw.randrange(count) for _ in range(20))]
    p = np.zeros(count, np.float16)  # of which only the pages that are written to take memory
    p[places] = 3.0
    _, gradient = ml.value_and_gradient(ml.huber_loss)(p, np.broadcast_to(np.int8(0), p.shape), reduction="sum")
    yield "" if (gradient[places] == 1.0).all() else "huber_loss: a gradient is wrong"
    yield "" if np.count_nonzero(gradient) == len(set(places)) else "huber_loss: gradients stand at other places"
    del p, gradient
    rows = 2**30 + 12_345
    require_memory(4.1)
    places = [0, 2**30 - 1, 2**30, rows - 1, *(draw.randrange(rows) for _ in range(20))]
    labels = np.zeros(rows, np.int8)
    labels[places] = 1
    z = np.broadcast_to(np.float16(0), (rows, 2))
    _, gradient = ml.value_and_gradient(ml.cross_entropy_with_logits)(z, labels, reduction="sum")
    yield "" if (gradient[places] == [0.5, -0.5]).all() else "cross_entropy_with_logits: a gradient is wrong"
    wrong = np.count_nonzero(gradient[:, 0] == 0.5) - len(set(places))
    yield "" if wrong == 0 else "cross_entropy_with_logits: gradients stand at other places"


@fault("thousands of calls of changing shapes, dtypes and options", "memory does not grow")
def changing_calls(folder: Path, draw: random.Random) -> Tries:
    import mithril_losses as ml

    use_cache(folder)
    losses = [(ml.huber_loss, "delta"), (ml.charbonnier_loss, "epsilon"), (ml.mae_loss, None)]

    def call_often() -> None:
        for _ in range(1500):
            loss, option = draw.choice(losses)
            shape = draw.choice([(draw.randrange(1, 400),), (draw.randrange(1, 40), draw.randrange(1, 40))])
            if draw.random() < 0.01:
                shape = (SIZE + draw.randrange(1000),)
            p = np.ones(shape, draw.choice(["f4", "f8"]))
            ml.value_and_gradient(loss)(p, 0 * p, **({option: draw.uniform(0.1, 2.0)} if option else {}))

    call_often()
    before = resident_memory()
    while True:
        call_often()
        grown = (resident_memory() - before) / 2**20
        yield "" if grown < 16.0 else f"{grown:.0f} MiB more than after the first 1,500 calls"


def resident_memory() -> int:
    """Return how many bytes of memory this process holds, once what is free has been given back."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@fault(
    "matrices, masked and sparse arrays, lists, text, dates, objects, complex or extended numbers for an array",
    "a TypeError that names the argument",
)
def odd_arguments(folder: Path, draw: random.Random) -> Tries:
    import scipy.sparse

    import mithril_losses as ml

    warnings.simplefilter("ignore", PendingDeprecationWarning)  # of np.matrix
    good = numbers("f4", 12).reshape(3, 4)
    odd: dict[str, Any] = {
        "matrix": np.asmatrix(good),
        "masked": np.ma.masked_array(good, good > 0),
        "sparse": scipy.sparse.csr_array(good),
        "list": good.tolist(),
        "number": 1.0,
        "None": None,
        "text": "abc",
        "bytes": b"abc",
        "array of text": good.astype(str),
        "array of bytes": good.astype("S"),
        "array of StringDType": good.astype(np.dtypes.StringDType()),
        "array of objects": good.astype(object),
        "array of dates": good.astype("M8[s]"),
        "record array": np.rec.fromarrays([good, good]),
        "complex": good.astype(complex),
        "extended": good.astype(np.longdouble),
        "generator": (x for x in good),
        "memoryview": memoryview(good),
    }
    functions = [ml.huber_loss, ml.huber_loss_gradient, ml.value_and_gradient(ml.huber_loss)]
    for (kind, x), place in itertools.product(odd.items(), (0, 1)):
        if kind == "extended" and place == 1:
            continue  # targets may be wider than predictions
        name = ("predictions", "targets")[place]
        for function in functions:
            try:
                function(*((x, good), (good, x))[place])
            except TypeError as error:
                yield "" if name in str(error) else f"{kind} as {name}: the message is {error}"
            except Exception as error:
                yield f"{kind} as {name}: {error!r}"
            else:
                yield f"{kind} as {name} was taken"
