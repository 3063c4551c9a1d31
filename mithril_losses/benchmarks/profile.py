"""Where the time of a call goes: operation by operation, with one thread and with two.

Run it as `python -m mithril_losses.benchmarks.profile [PAGE]`.
"""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.candidates import Setting, candidates_for
from mithril_losses.benchmarks.families import all_cases
from mithril_losses.benchmarks.page import table
from mithril_losses.benchmarks.problems import Case
from mithril_losses.catalogue import find_loss
from mithril_losses.execution import value_and_gradient
from mithril_losses.execution.host import keep_freed_memory
from mithril_losses.limits import Limits
from mithril_losses.numerics.validation import quiet

_BLOCKED = (
    "mse_loss",
    "mae_loss",
    "huber_loss",
    "binary_cross_entropy_with_logits",
    "focal_loss_with_logits",
    "kl_divergence",
)
_FUSED = (*_BLOCKED, "cross_entropy_with_logits")
_ROUNDS, _FEW_ROUNDS = 40, 9


_SECONDS: dict[str, list[float]] = {}


class _Timed(np.ndarray[Any, Any]):
    """An array that notes how long each NumPy operation on it takes."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        if out is not None:
            keywords["out"] = tuple(map(_untimed, out))
        numbers = "" if all(isinstance(x, np.ndarray) and x.size > 1 for x in inputs) else " with a number"
        name = ufunc.__name__ + ("" if method == "__call__" else f".{method}") + numbers
        found = _measured(name, getattr(ufunc, method), tuple(map(_untimed, inputs)), keywords)
        return found if out is None else out[0]

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        return _measured(function.__name__, function, tuple(map(_untimed, arguments)), keywords)


def _measured(name: str, function: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
    start = time.perf_counter()
    found = function(*arguments, **keywords)
    _SECONDS.setdefault(name, []).append(time.perf_counter() - start)
    return found.view(_Timed) if isinstance(found, np.ndarray) else found


def _untimed(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, _Timed) else x


def _median(call: Callable[[], Any], rounds: int = _ROUNDS) -> float:
    call()
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return float(np.median(samples))


def operations(loss: str, arrays: Iterable[Array]) -> tuple[list[tuple[str, float, float]], float]:
    """Return (operation, times per block, ns per element) of a block of element-wise terms, and the ns of the whole.

    The whole is timed separately from its operations: the difference to their sum is the time of the allocator and of
    the interpreter.
    """
    pair = find_loss(loss)
    terms = pair.terms.elements[pair.wrt[0]]
    block = [x.reshape(-1)[: Limits().block] for x in arrays]
    keep_freed_memory()
    _, options = terms.dtype_and_options(
        dict(zip(terms.array_names, block, strict=True)), {n: pair.parameters[n].default for n in terms.option_names}
    )

    def evaluate(arrays: list[Any]) -> None:
        with quiet(np):
            values, slope = terms.evaluate(np, *arrays, *options)
            np.multiply(slope, 1e-6)
            np.sum(values)

    timed = [x.view(_Timed) for x in block]
    evaluate(timed)
    _SECONDS.clear()
    for _ in range(_ROUNDS):
        evaluate(timed)
    found = [
        (name, len(samples) / _ROUNDS, float(np.median(samples)) / block[0].size * 1e9)
        for name, samples in _SECONDS.items()
    ]
    whole = _median(lambda: evaluate(block)) / block[0].size * 1e9
    return sorted(found, key=lambda row: -row[1] * row[2]), whole


def _cases(losses: Iterable[str]) -> Iterator[Case]:
    for case in all_cases():
        if case.size == "large" and not case.ours_alone and case.problem.loss in losses:
            yield case


def _faults(call: Callable[[], Any]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _whole_calls(case: Case, arrays: list[Array], compile: bool | None) -> list[str]:
    """Return the ns per element of whole calls with one thread and with two, and the page faults of one."""
    loss, size = find_loss(case.problem.loss), max(x.size for x in arrays)
    one, two = (
        functools.partial(value_and_gradient(loss, threads=count, compile=compile), *arrays) for count in (1, 2)
    )
    return [*(f"{_median(call, _FEW_ROUNDS) / size * 1e9:.2f}" for call in (one, two)), f"{_faults(one):,}"]


def blocks() -> Iterator[str]:
    """Yield the sections on blocks: a summary, then the operations of each loss."""
    summary, details = [], []
    for case in _cases(_BLOCKED):
        arrays = list(case.draw())
        found, whole = operations(case.problem.loss, arrays)
        total = sum(count * each for _, count, each in found)
        calls = sum(count for _, count, _ in found)
        summary.append(
            [case.name, f"{calls:.0f}", f"{total:.2f}", f"{whole:.2f}", *_whole_calls(case, arrays, compile=False)]
        )
        lines = [[name, f"{count:g}", f"{each:.3f}", f"{count * each:.3f}"] for name, count, each in found]
        details += [f"### {case.problem.loss}", table(["operation", "times", "ns each", "ns together"], lines)]
    yield "## Blocks"
    yield (
        f"Nanoseconds per element of a block of {Limits().block:,} elements in the cache: the sum of its NumPy\n"
        "operations, and the block as a whole; then of a call on all elements, memory included, with one thread and\n"
        "with two, and its page faults."
    )
    headers = ["case", "operations", "their sum", "a block", "one thread", "two threads", "page faults"]
    yield table(headers, summary)
    yield from details


def loops() -> Iterator[str]:
    """Yield the section on compiled loops, compared with a copy of the same bytes."""
    lines = []
    for case in _cases(_FUSED):
        arrays = list(case.draw())
        (copy,) = (candidate for candidate in candidates_for(case, "cpu") if candidate.name == "copy")
        calls = (copy.prepare(case, arrays, Setting(threads, memory="warm")) for threads in (1, 2))
        copies = [f"{_median(call, _FEW_ROUNDS) / max(x.size for x in arrays) * 1e9:.2f}" for call in calls]
        one, two, faults = _whole_calls(case, arrays, compile=None)
        lines.append([case.name, one, copies[0], two, copies[1], faults])
    yield "## Compiled loops"
    yield (
        "Nanoseconds per element of a call, beside a copy that reads and writes the same bytes; both into\n"
        "warm memory, which an earlier result had."
    )
    headers = ["case", "one thread", "copy, one thread", "two threads", "copy, two threads", "page faults"]
    yield table(headers, lines)


def chamfer() -> Iterator[str]:
    """Yield the section on the nearest neighbours of the chamfer distance."""
    from scipy.spatial import cKDTree

    (case,) = _cases(["chamfer_distance"])
    x, y = (points[0] for points in case.draw())
    tree = cKDTree(y, balanced_tree=False)
    parts: dict[str, Callable[[], Any]] = {
        "a tree, of which there are two": lambda: cKDTree(y, balanced_tree=False),
        "two neighbours of each point, one thread, once per direction": lambda: tree.query(x, k=[1, 2]),
        "the same with two threads": lambda: tree.query(x, k=[1, 2], workers=2),
        "the whole call": lambda: value_and_gradient(find_loss("chamfer_distance"))(x[None], y[None]),
    }
    yield "## Chamfer distance"
    yield f"{case.name}, in milliseconds. Two neighbours are asked for so that ties are seen."
    yield table(["part", "ms"], [[name, f"{_median(call) * 1e3:.2f}"] for name, call in parts.items()])


def page() -> str:
    """Return the page."""
    opening = (
        "# Where the time goes",
        "Written by `python -m mithril_losses.benchmarks.profile`, on the machine of the [benchmarks](benchmarks.md):\n"
        "medians, float32.",
    )
    return "\n\n".join([*opening, *blocks(), *loops(), *chamfer()]) + "\n"


if __name__ == "__main__":
    text = page()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
