"""The gradient checks of the whole catalogue on an accelerator, in several processes at once, within a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mithril_losses.catalogue import catalogue
from mithril_losses.checking import GradientCheck, check_catalogue


class Checked(NamedTuple):
    """One checked loss: its largest relative error and by which evidence, or what is wrong."""

    loss: str
    error: float
    method: str
    wrong: str = ""


def start_checks(library: str, device: str, names: Iterable[str] = ()) -> list[subprocess.Popen[str]]:
    """Start the processes among which the losses, all by default, are divided."""
    names = list(names) or list(catalogue())
    count = min(len(names), max((os.cpu_count() or 1) // 2, 1))
    command = [sys.executable, "-m", "mithril_losses.benchmarks.device_checks", library, device]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return [
        subprocess.Popen([*command, *names[i::count]], stdout=subprocess.PIPE, encoding="utf-8", env=environment)
        for i in range(count)
    ]


def finish_checks(processes: Iterable[subprocess.Popen[str]], end: float) -> list[Checked]:
    """Return what the processes have found until `end`, a time of `time.monotonic`; those that still run are ended."""
    return [Checked(*json.loads(line)) for process in processes for line in _lines(process, end)]


def _lines(process: subprocess.Popen[str], end: float) -> list[str]:
    try:
        text, _ = process.communicate(timeout=max(end - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
    return text.splitlines()


def check(library: str, device: str, names: list[str]) -> Iterator[Checked]:
    """Yield the result of each loss as soon as it is known."""
    for name, found in zip(names, check_catalogue(names, backend=library, device=device), strict=True):
        if isinstance(found, GradientCheck):
            yield Checked(name, found.worst, max(found.errors, key=lambda method: found.errors[method]))
        else:
            yield Checked(name, float("inf"), "", f"{type(found).__name__}: {found}".partition("\n")[0])


if __name__ == "__main__":
    for checked in check(sys.argv[1], sys.argv[2], sys.argv[3:]):
        sys.stdout.write(json.dumps(checked) + "\n")
        sys.stdout.flush()
