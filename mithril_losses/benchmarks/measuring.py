"""Time and memory of calls, measured in the process that makes them."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends.memory import release_kept_memory
from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.candidates import Call, Candidate, Device, Setting, to_numpy
from mithril_losses.benchmarks.problems import Case

_ROUNDS = 10  # the number of rounds into which the time of a case is divided
_LEAST_CALLS, _LEAST_SLOW_CALLS = 5, 3
_SLOW = 0.1  # seconds from which a call needs no earlier call that wakes its threads
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Stopwatch = Callable[[Call], float]


class Timing(NamedTuple):
    """Seconds per call of one candidate, and the bytes of the gradients it returns."""

    median: float
    tenth: float
    calls: int
    gradient_bytes: int


def time_candidates(
    case: Case, candidates: Iterable[Candidate], setting: Setting, seconds: float
) -> dict[str, Timing | str]:
    """Return the timing of each candidate by name, or the reason why there is none.

    Every candidate is first compared with the first of ours. Then the candidates take turns: in each round, a candidate
    makes one call that does not count, which wakes its threads, and then several calls that count. A slow candidate
    makes only one call, which counts.
    """
    arrays = case.draw()
    calls: dict[str, Call] = {}
    found: dict[str, Timing | str] = {}
    gradient_bytes, reference = 0, None
    for candidate in candidates:
        try:
            call = candidate.prepare(case, arrays, setting)
            result = to_numpy(call())
            call()
        except Exception as error:  # after any exception of a library, the others continue
            found[candidate.name] = _reason(error)
            continue
        if candidate.kind == "ours" and reference is None:
            reference = result
        if candidate.kind != "bound":
            gradient_bytes = sum(gradient.nbytes for gradient in result[1])
            if reference is not None and not agree(result, reference):
                found[candidate.name] = f"computes something else: {result[0]:g}, not {reference[0]:g}"
                continue
        calls[candidate.name] = call
    del reference
    for name, samples in _take_turns(calls, seconds, _stopwatch(setting.device)).items():
        median, tenth = np.median(samples), np.percentile(samples, 10)
        found[name] = Timing(float(median), float(tenth), len(samples), gradient_bytes)
    return found


def agree(result: tuple[float, list[Array]], reference: tuple[float, list[Array]], tolerance: float = 1e-2) -> bool:
    """Whether two values, and the gradients as a whole, differ by no more than a fraction of the reference.

    The default is loose enough for sums of millions of numbers in single precision.
    """
    value, gradients = result
    expected_value, expected_gradients = reference
    pairs = list(zip(gradients, expected_gradients, strict=True))
    return abs(value - expected_value) <= tolerance * abs(expected_value) and all(
        found.shape == expected.shape and _norm(found - expected) <= tolerance * _norm(expected)
        for found, expected in pairs
    )


def _norm(x: Array) -> float:
    """Return the norm, from partial sums that keep float32 accurate."""
    return float(np.sqrt(np.sum(np.square(x), dtype=np.float64)))


def _take_turns(calls: Mapping[str, Call], seconds: float, stopwatch: Stopwatch) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in calls}
    turn = seconds / (_ROUNDS * max(len(calls), 1))
    end = time.perf_counter() + seconds
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        while calls and (time.perf_counter() < end or any(map(_too_few, samples.values()))):
            for name, call in calls.items():
                turn_end = time.perf_counter() + turn
                if not samples[name] or samples[name][-1] < _SLOW:
                    call()
                samples[name].append(stopwatch(call))
                while time.perf_counter() < turn_end:
                    samples[name].append(stopwatch(call))
    finally:
        if was_enabled:
            gc.enable()
    return samples


def _too_few(samples: list[float]) -> bool:
    return len(samples) < (_LEAST_CALLS if not samples or samples[-1] < _SLOW else _LEAST_SLOW_CALLS)


def _stopwatch(device: Device) -> Stopwatch:
    if device == "cpu":
        return _seconds
    import torch

    def seconds_on_device(call: Call) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(stop)) / 1e3

    return seconds_on_device


def _seconds(call: Call) -> float:
    """Return the time of a call; its results are freed afterwards, which is not measured."""
    start = time.perf_counter()
    result = call()
    stop = time.perf_counter()
    del result
    return stop - start


# --- memory -----------------------------------------------------------------------------------------------------------


def extra_memory(call: Call, device: Device = "cpu") -> int | None:
    """Return the peak of a call's memory above the level before the call, in bytes; None if it cannot be measured.

    The results of the call are included. An earlier call has loaded and compiled everything.
    """
    call()
    gc.collect()
    if device == "cuda":
        return _extra_device_memory(call)
    if not _CLEAR.exists():
        return None
    _return_freed_memory()
    before = _status("VmRSS")
    _CLEAR.write_text("5")  # resets the peak
    result = call()
    peak = _status("VmHWM")
    del result
    return peak - before


def _extra_device_memory(call: Call) -> int:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return int(peak - before)


def _return_freed_memory() -> None:
    """Return the memory that is kept to the system; otherwise the next call would use it unmeasured."""
    release_kept_memory()
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # a function of glibc
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def memory_of(case: Case, candidates: Iterable[Candidate], setting: Setting) -> dict[str, int | str | None]:
    """Return the peak extra memory of each candidate by name, or the reason why there is none."""
    arrays = case.draw()
    found: dict[str, int | str | None] = {}
    for candidate in candidates:
        try:
            found[candidate.name] = extra_memory(candidate.prepare(case, arrays, setting), setting.device)
        except Exception as error:  # after any exception of a library, the others continue
            found[candidate.name] = _reason(error)
    return found


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
