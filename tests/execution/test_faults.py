"""Every fault holds when it is tried for a second; and the script sees what it is there to see."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import faults
import numpy as np
import pytest
import trials
import typer
from parameterized import parameterized
from typer.testing import CliRunner

Function = Callable[[Path, random.Random], trials.Tries]


def holds(folder: Path, draw: random.Random) -> trials.Tries:
    while True:
        time.sleep(0.01)
        yield ""


def breaks(folder: Path, draw: random.Random) -> trials.Tries:
    yield ""
    yield "a wrong number"
    yield ""


def raises(folder: Path, draw: random.Random) -> trials.Tries:
    yield ""
    raise IndexError("out of range")


def dies(folder: Path, draw: random.Random) -> trials.Tries:
    yield ""
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(folder: Path, draw: random.Random) -> trials.Tries:
    yield ""
    time.sleep(600.0)


def cannot(folder: Path, draw: random.Random) -> trials.Tries:
    raise trials.Skipped("no memory")
    yield ""


def own(function: Function) -> trials.Fault:
    return trials.Fault("of a test", "nothing", function)


class TestFaults(unittest.TestCase):
    @parameterized.expand([(each.tries.__name__, each) for each in trials.FAULTS])
    @pytest.mark.exhaustive
    def test_holds(self, name: str, fault: trials.Fault) -> None:
        outcome = faults.run(fault, seconds=1.0, seed=0)
        self.assertEqual(outcome.broken, [])
        self.assertTrue(outcome.tried or outcome.skipped)


class TestScript(unittest.TestCase):
    def test_goes_on_until_the_time_is_up(self) -> None:
        outcome = faults.run(own(holds), seconds=0.3, seed=0)
        self.assertEqual((outcome.broken, outcome.skipped), ([], ""))
        self.assertGreater(outcome.tried, 1)

    def test_counts_what_broke(self) -> None:
        outcome = faults.run(own(breaks), seconds=60.0, seed=0)
        self.assertEqual((outcome.tried, outcome.held, outcome.broken), (3, 2, ["a wrong number"]))

    @parameterized.expand([(raises, "IndexError: out of range"), (dies, "exit status -9"), (hangs, "hung for 2 s")])
    def test_a_process_that_does_not_end_well_is_a_failure(self, function: Function, why: str) -> None:
        silence = 2.0 if function is hangs else trials.SILENCE
        outcome = faults.run(own(function), seconds=60.0, seed=0, silence=silence)
        self.assertEqual((outcome.tried, outcome.held), (2, 1))
        self.assertIn(why, outcome.broken[0])

    def test_says_what_this_machine_cannot_do(self) -> None:
        outcome = faults.run(own(cannot), seconds=60.0, seed=0)
        self.assertEqual((outcome.tried, outcome.broken, outcome.skipped), (0, [], "no memory"))
        self.assertIn("| not tried | no memory |", faults.page([outcome]))

    @parameterized.expand(
        [
            (holds, 0.0, 0, "| 1 | 1 |", "Of 1 faults that were tried, 1 held"),
            (breaks, 60.0, 1, "| 3 | **2** |", "Of 1 faults that were tried, 0 held"),
        ]
    )
    def test_the_exit_code_and_the_page_say_what_held(
        self, function: Function, seconds: float, code: int, cell: str, summary: str
    ) -> None:
        with mock.patch.object(faults, "FAULTS", [own(function)]), tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "faults.md"
            app = typer.Typer()
            app.command()(faults.main)
            result = CliRunner().invoke(app, ["--seconds", str(seconds), "--seed", "1", "--report", str(page)])
            self.assertEqual(result.exit_code, code, result.output)
            self.assertIn(cell, page.read_text("utf-8"))
            self.assertIn(summary, page.read_text("utf-8"))

    def test_a_fork_says_how_it_ended(self) -> None:
        # in a process of its own: this one has threads
        script = (
            "import trials, os, signal, time\n"
            "print([trials.in_fork(lambda: 'wrong'), trials.in_fork(lambda: '')])\n"
            "print(trials.in_fork(lambda: os.kill(os.getpid(), signal.SIGSEGV)))\n"
            "print('ZeroDivisionError' in trials.in_fork(lambda: 1 / 0))\n"
            "print(trials.in_fork(lambda: (signal.alarm(1), time.sleep(60.0))))\n"
        )
        found = subprocess.run([sys.executable, "-c", script], cwd=faults.HERE, capture_output=True, text=True)
        self.assertEqual(
            found.stdout.splitlines(), ["['wrong', '']", "ended by signal 11", "True", "hung"], found.stderr
        )

    def test_a_wrong_number_is_seen(self) -> None:
        p, t = trials.numbers(size=100), trials.numbers(size=100, seed=1)
        value, gradient = trials.huber(p, t)
        self.assertEqual(trials.difference((value, gradient), (value, gradient)), "")
        self.assertIn("loss", trials.difference((value * 1.001, gradient), (value, gradient)))
        self.assertIn("gradient", trials.difference((value, gradient[::-1]), (value, gradient)))
        self.assertIn("gradient", trials.difference((value, gradient * np.nan), (value, gradient)))
        self.assertIn("shape", trials.difference((value, gradient[1:]), (value, gradient)))
        self.assertIn("bits", trials.differs((value, gradient), (value, np.nextafter(gradient, 1.0))))

    def test_the_page_has_every_fault(self) -> None:
        text = (faults.HERE.parent / "docs/faults.md").read_text("utf-8")
        for fault in trials.FAULTS:
            self.assertIn(f"\n| {fault.what} | {fault.holds} | ", text)
