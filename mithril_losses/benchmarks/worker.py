"""A fresh process for the times and one for the memory of each case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from mithril_losses.backends.memory import VARIABLE as KEPT_MEMORY
from mithril_losses.backends.threads import VARIABLE
from mithril_losses.benchmarks import families, measuring
from mithril_losses.benchmarks.candidates import CANDIDATES, Candidate, Setting
from mithril_losses.benchmarks.measuring import Timing
from mithril_losses.benchmarks.problems import Case

# the last two are read by XLA
_THREAD_VARIABLES = (VARIABLE, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC", "PJRT_NPROC")
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_MAPPED_FROM = str(1 << 16)  # bytes from which glibc returns freed memory to the system, when memory is measured


def time_apart(case: Case, candidates: list[Candidate], setting: Setting, seconds: float) -> dict[str, Timing | str]:
    """Return the result of `time_candidates` in a separate process."""
    names = [candidate.name for candidate in candidates]
    found = _run({"case": case.name, "candidates": names, "setting": setting, "seconds": seconds}, setting)
    if isinstance(found, str):
        return dict.fromkeys(names, found)
    return {name: x if isinstance(x, str) else Timing(*x) for name, x in found.items()}


def memory_apart(case: Case, candidates: list[Candidate], setting: Setting) -> dict[str, int | str | None]:
    """Return the result of `memory_of` in a separate process."""
    names = [candidate.name for candidate in candidates]
    found: Any = _run({"case": case.name, "candidates": names, "setting": setting}, setting, memory=True)
    return dict.fromkeys(names, found) if isinstance(found, str) else found


def _run(request: dict[str, Any], setting: Setting, *, memory: bool = False) -> Any:
    """Return the answer of the process, or the reason why there is none."""
    done = subprocess.run(
        [sys.executable, "-m", "mithril_losses.benchmarks.worker", json.dumps(request)],
        env=_environment(setting, memory=memory),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode == 0:
        return json.loads(done.stdout)
    if done.returncode < 0:
        return f"the process was ended by signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]


def _environment(setting: Setting, *, memory: bool = False) -> dict[str, str]:
    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(setting.threads))}
    if setting.device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    if setting.memory == "warm":
        environment.pop(KEPT_MEMORY, None)
    else:
        environment[KEPT_MEMORY] = "0"
    if setting.memory == "huge":
        known = environment.get("GLIBC_TUNABLES")
        environment["GLIBC_TUNABLES"] = f"{known}:{_HUGE_PAGES}" if known else _HUGE_PAGES
    if memory:
        environment["MALLOC_MMAP_THRESHOLD_"] = _MAPPED_FROM
    return environment


def answer(request: dict[str, Any]) -> Any:
    """Measure what the request names: times if it has seconds, otherwise memory."""
    case = next(case for case in families.all_cases() if case.name == request["case"])
    candidates = [candidate for candidate in CANDIDATES if candidate.name in request["candidates"]]
    setting = Setting(*request["setting"])
    if "seconds" in request:
        return measuring.time_candidates(case, candidates, setting, request["seconds"])
    return measuring.memory_of(case, candidates, setting)


def _main() -> None:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)  # output of libraries must not get into the answer
        json.dump(answer(json.loads(sys.argv[1])), stdout)


if __name__ == "__main__":
    _main()
