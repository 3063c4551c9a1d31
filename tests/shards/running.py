"""Checks that run in processes of their own: on eight devices of XLA, or on the processes of a group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
Checks = Mapping[str, Callable[[], None]]


def results(script: str, names: Iterable[str], ranks: int = 1, timeout: float = 600.0) -> dict[str, str]:
    """Return what each check failed with on the first rank where it did, "" where it held on all."""
    names = list(names)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1])]),
            "OMP_NUM_THREADS": "1",
        }
        processes = [
            subprocess.Popen(
                [sys.executable, str(HERE / script), json.dumps(names), f"{folder}/{rank}"],
                env=environment | {"STORE": f"{folder}/store", "RANK": str(rank), "RANKS": str(ranks)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            said = [process.communicate(timeout=timeout)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        found: dict[str, str] = {}
        for rank, errors in enumerate(said):
            file = Path(f"{folder}/{rank}")
            own = json.loads(file.read_text()) if file.exists() else dict.fromkeys(names, f"rank {rank}: {errors}")
            found = {name: found.get(name) or own[name] for name in names}
    return found


def require(script: str, names: Iterable[str], ranks: int = 1) -> None:
    """Raise an AssertionError with everything that failed. The checks share a process, whose start takes seconds."""
    failed = {name: error for name, error in results(script, names, ranks).items() if error}
    assert not failed, "\n\n".join(f"{name}\n{error}" for name, error in failed.items())


class Gone(BaseException):
    """Raised by a check to end its process at once, as a crash does; the results are written before."""


def run(checks: Checks) -> None:
    """Run the checks that the command line names, and write what they failed with."""
    names, file = json.loads(sys.argv[1]), Path(sys.argv[2])
    found = {}
    for name in names:
        try:
            checks[name]()
            found[name] = ""
        except Gone:
            found[name] = ""
            file.write_text(json.dumps(found))
            os._exit(1)
        except BaseException:
            found[name] = f"rank {os.environ['RANK']}: {traceback.format_exc()}"
    file.write_text(json.dumps(found))
