"""`make bench-device`: says what there is, keeps its time limit, and writes what it found and what it did not."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from mithril_losses import catalogue
from mithril_losses.benchmarks import device
from mithril_losses.benchmarks.candidates import CANDIDATES, Setting
from mithril_losses.benchmarks.device import Accelerator
from mithril_losses.benchmarks.device_checks import Checked, check, finish_checks, start_checks
from mithril_losses.benchmarks.measuring import Timing
from mithril_losses.benchmarks.plan import Plan
from mithril_losses.benchmarks.results import Results, Row
from mithril_losses.benchmarks.targets import is_large

BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}


def speaking(text: str, then: str = "") -> subprocess.Popen[str]:
    script = f"import sys, time; sys.stdout.write({text!r}); sys.stdout.flush(); {then}"
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, encoding="utf-8")


class TestChecks(unittest.TestCase):
    def test_a_right_gradient_and_a_wrong_one(self) -> None:
        right, failed = check("torch", "cpu", ["mae_loss"]), check("numpy", "cpu", ["mse_loss"])
        (found,) = right
        self.assertEqual((found.loss, found.wrong), ("mae_loss", ""))
        self.assertLess(found.error, 1e-6)
        self.assertIn(found.method, ("torch.autograd", "central differences"))
        with mock.patch("mithril_losses.checking.gradients._central_differences", side_effect=ValueError("no\nmore")):
            (found,) = failed
        self.assertEqual((found.loss, found.wrong), ("mse_loss", "ValueError: no"))

    def test_losses_are_divided_among_processes(self) -> None:
        names = ["mse_loss", "mae_loss", "huber_loss"]
        with mock.patch("mithril_losses.benchmarks.device_checks.os.cpu_count", return_value=4):
            processes = start_checks("numpy", "cpu", names)
        found = finish_checks(processes, time.monotonic() + 100.0)
        self.assertEqual(len(processes), 2)
        self.assertEqual(sorted(x.loss for x in found), sorted(names))
        self.assertFalse(any(x.wrong for x in found))

    def test_what_was_found_when_the_time_is_up_is_kept(self) -> None:
        one, other = (json.dumps(Checked(loss, 1e-9, "jax.grad")) + "\n" for loss in ("mse_loss", "mae_loss"))
        ended = speaking(other)
        ended.wait()
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder, "said")
            processes = [speaking(one, f"open({str(said)!r}, 'w').close(); time.sleep(600)"), ended]
            while not said.exists():
                time.sleep(0.01)
        start = time.monotonic()
        found = finish_checks(processes, start)
        self.assertLess(time.monotonic() - start, 300.0)
        self.assertEqual([x.loss for x in found], ["mse_loss", "mae_loss"])
        self.assertEqual([process.returncode for process in processes], [-9, 0])


class TestPage(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "page.md")
        self.said: list[str] = []
        self.replace(_say=self.said.append)

    def replace(self, **attributes: Any) -> None:
        for name, x in attributes.items():
            patch = mock.patch.object(device, name, x)
            patch.start()
            self.addCleanup(patch.stop)

    def test_without_an_accelerator_one_line_says_so_and_nothing_is_written(self) -> None:
        self.replace(accelerators=dict, start_checks=mock.Mock(side_effect=AssertionError))
        self.assertEqual(device.main(self.path), 0)
        self.assertEqual(len(self.said), 1)
        self.assertIn("Neither PyTorch nor JAX sees an accelerator", self.said[0])
        self.assertFalse(self.path.exists())

    def test_the_page_has_gradients_and_what_was_not_reached(self) -> None:
        names = list(catalogue())
        checked = [Checked(name, 1e-9, "torch.autograd") for name in names[2:]]
        checked += [Checked(names[0], float("inf"), "", "GradientMismatchError: gradient wrt predictions")]
        checked[3] = checked[3]._replace(error=2e-8, method="central differences")
        self.replace(
            accelerators=lambda: {"jax": Accelerator("gpu", "H200")},
            start_checks=lambda library, kind: [],
            finish_checks=lambda processes, end: checked,
        )
        self.assertEqual(device.main(self.path), 1)
        text = self.path.read_text("utf-8")
        row = f"| jax | H200 | {len(names) - 2} of {len(names)} | 2.0e-08 ({names[5]}, central differences) |"
        self.assertIn(row, text.splitlines())
        self.assertIn(f"* jax: {names[0]}: GradientMismatchError: gradient wrt predictions", text)
        self.assertIn(f"* jax: the time was up for {names[1]}.", text)
        self.assertIn("PyTorch sees none", text)

    def test_no_case_is_started_that_may_not_be_ready_in_time(self) -> None:
        measured = []

        def apart(case: Any, candidates: Any, setting: Setting, *_: Any) -> dict[str, Timing]:
            measured.append(case.name)
            return {candidate.name: Timing(1e-3, 1e-3, 5, 4) for candidate in candidates}

        plan = Plan(device.cases()[:2], Setting(1, "cuda"), 1.0, ("ours-backward",))
        kept = mock.patch.multiple(
            "mithril_losses.benchmarks.plan", time_apart=apart, memory_apart=lambda *_: {"ours-backward": 4}
        )
        with kept:
            self.assertEqual(device.measure(plan, time.monotonic() + 10.0).rows, [])
            self.assertEqual(measured, [])
            found = device.measure(plan, time.monotonic() + 1e6)
        self.assertEqual([row.case.name for row in found.rows], [case.name for case in plan.cases])

    def test_the_page_has_times_and_names_the_cases_that_were_not_reached(self) -> None:
        cases = device.cases()
        self.assertTrue(all(map(is_large, cases)))
        self.assertEqual([case.problem.loss for case in cases[:2]], list(device._FIRST[:2]))
        timing = Timing(1e-3, 1e-3, 5, 100)
        results = Results([Row(cases[0], BY_NAME["ours-backward"], timing=timing)])
        plan = Plan(cases[:3], Setting(1, "cuda"), 1.0)
        found = {"torch": Accelerator("cuda", "H200")}
        with mock.patch("torch.cuda.get_device_name", return_value="H200"):
            text = device.page(found, {"torch": []}, plan, results)
        self.assertIn("| mse_loss 16,000,000 | 1.00 ms |", text)
        self.assertIn(f"The time was up for: {cases[1].name}, {cases[2].name}.", text)
        self.assertEqual([line for line in text.splitlines() if line.startswith("# ")], ["# Benchmarks on a GPU"])
