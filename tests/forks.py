"""Runs pytest in forks of a process that has imported the large libraries, so that a run starts without waiting.

Each line of standard input is a request in JSON, {"tree", "arguments", "environment", "seconds"}: pytest runs with its
arguments in the folder `tree`, where Python finds its packages before any installed ones. Each line of standard output
is the answer, {"code", "failed", "output"}: pytest's exit code (that of a process killed by a signal is negative, that
of a run over its time None), the ids of the tests that failed, and the end of what it printed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
from typing import Any

import pytest

LIBRARIES = ("jax", "jax.numpy", "numba", "scipy.special", "scipy.spatial", "scipy.optimize", "sympy", "torch._dynamo")

ENDING = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}


class Failures:
    """A plugin that writes down which tests failed."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.ids:
            self.ids.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.ids.append(report.nodeid)


def run(tree: str, arguments: list[str], environment: dict[str, str], answer: int, output: int) -> None:
    """Run pytest in this process, write exit code and failures into the file `answer`, and end the process."""
    os.setsid()  # so that processes that tests start can be ended with this one
    for number, handler in ENDING.items():
        signal.signal(number, handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = tree
    sys.path[0] = tree  # in place of the folder of this file
    failures = Failures()
    code = pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[failures])
    os.write(answer, json.dumps([int(code), failures.ids]).encode())
    sys.stdout.flush()
    os._exit(0)


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    """Run pytest in a fork and return what became of it."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            try:
                run(request["tree"], request["arguments"], request["environment"], writing, output.fileno())
            finally:
                os._exit(1)
        os.close(writing)
        in_time = False
        try:  # standard input ends when the process that asks has gone
            in_time = reading in select.select([reading, sys.stdin], [], [], request["seconds"])[0]
        finally:
            if not in_time:
                os.killpg(child, signal.SIGKILL)
        with os.fdopen(reading) as answer:
            found = answer.read()  # nothing from a process that has crashed
        _, status = os.waitpid(child, 0)
        output.seek(0)
        text = output.read().decode(errors="replace")[-4000:]
    code, failed = json.loads(found) if found else [os.waitstatus_to_exitcode(status) if in_time else None, []]
    return {"code": code, "failed": failed, "output": text}


def main() -> None:
    for library in LIBRARIES:
        __import__(library)
    for number in ENDING:
        signal.signal(number, lambda *_: sys.exit(1))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        print(json.dumps(answer_to(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
