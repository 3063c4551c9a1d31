"""The benchmark compares like with like, measures what it says, and writes what it measured."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from parameterized import parameterized
from typer.testing import CliRunner

from mithril_losses import find_loss
from mithril_losses.benchmarks import curvature, families, plan, profile, worker
from mithril_losses.benchmarks.candidates import CANDIDATES, Candidate, Setting, candidates_for, to_numpy
from mithril_losses.benchmarks.families import PROBLEMS, TARGETS, all_cases
from mithril_losses.benchmarks.measuring import Timing, agree, memory_of, time_candidates
from mithril_losses.benchmarks.page import markdown
from mithril_losses.benchmarks.plan import Plan
from mithril_losses.benchmarks.problems import Case, Problem
from mithril_losses.benchmarks.results import Results, Row
from mithril_losses.benchmarks.tables import tables
from mithril_losses.cli.commands import app

SETTING = Setting(threads=1)
BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
MSE = next(problem for problem in PROBLEMS if problem.loss == "mse_loss")


def little(case: Case, most: int = 40) -> Case:
    return dataclasses.replace(case, shape=tuple(min(n, most) for n in case.shape))


def comparisons() -> list[tuple[str, Candidate, Case]]:
    """Every candidate of every problem, once."""
    found = {}
    for case in map(little, all_cases()):
        for candidate in candidates_for(case, "cpu"):
            if candidate.kind != "bound" and not case.problem.drawn:  # whose peers are ours
                found.setdefault((case.problem.loss, candidate.name), (candidate, case))
    return [("_".join(key).replace("-", "_"), *rest) for key, rest in found.items()]


COMPILED = ("mse_loss", "cross_entropy_with_logits")


def tier(candidate: Candidate, case: Case) -> list[pytest.MarkDecorator]:
    """Leave to the exhaustive tier what is compiled of our own functions: other tests compare that with NumPy, too."""
    is_compiled = candidate.name in ("ours-jax", "ours-jax-grad", "jax-jit", "ours-numpy-fused", "torch-compile")
    return compiles(case.problem.loss) if is_compiled else []


def compiles(loss: str) -> list[pytest.MarkDecorator]:
    return [] if loss in COMPILED else [pytest.mark.exhaustive]


class TestCandidates:
    @pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # by the import of a compiler
    @pytest.mark.parametrize(
        ("candidate", "case"),
        [pytest.param(*rest, id=name, marks=tier(*rest)) for name, *rest in comparisons()],
    )
    def test_computes_the_loss_and_its_gradient(self, candidate: Candidate, case: Case) -> None:
        if candidate.missing:
            pytest.skip(f"{candidate.missing} is not installed")
        pair, arrays = find_loss(case.problem.loss), case.draw()
        exact = [x.astype(np.float64) if x.dtype == np.float32 else x for x in arrays]
        keywords = case.problem.options
        expected = to_numpy((pair.value(*exact, **keywords), pair.gradient(*exact, **keywords)))
        found = to_numpy(self.call(candidate, case, arrays))
        assert [gradient.dtype for gradient in found[1]] == [np.float32] * len(expected[1])
        assert agree(found, expected, tolerance=1e-4)
        assert expected[0] > 1e-3  # an underflow would agree with everything
        assert all(np.abs(gradient).max() > 1e-6 for gradient in expected[1])

    @staticmethod
    def call(candidate: Candidate, case: Case, arrays: Any) -> Any:
        if candidate.name != "torch-compile":
            return candidate.prepare(case, arrays, SETTING)()
        import torch

        with torch.compiler.set_stance("force_eager"):  # the same expressions, without a minute of compiling
            return candidate.prepare(case, arrays, SETTING)()

    def test_a_framework_differentiates_ours_by_hand_and_the_plain_function_of_a_drawn_problem_by_itself(self) -> None:
        case = next(case for case in all_cases() if case.problem.loss == "log_cosh_loss")
        assert case.problem.drawn
        arrays, pair = case.draw(), find_loss("log_cosh_loss")
        never = {"side_effect": AssertionError("by hand")}
        by_hand = [mock.patch.object(pair.terms, name, **never) for name in ("gradient", "both")]
        by_hand += [
            mock.patch(f"mithril_losses.autodiff.{framework}.fastest", **never) for framework in ("torch", "jax")
        ]
        with contextlib.ExitStack() as patches:
            for patch in by_hand:
                patches.enter_context(patch)
            for peer in ("torch-eager", "jax-jit"):
                BY_NAME[peer].prepare(case, arrays, SETTING)()
            for ours in ("ours-backward", "ours-jax-grad"):
                call = BY_NAME[ours].prepare(case, arrays, SETTING)
                with pytest.raises(AssertionError, match="by hand"):
                    call()

    @pytest.mark.parametrize("name", ["ours-backward", "torch-eager"])
    def test_backward_finds_no_gradient_of_the_call_before(self, name: str) -> None:
        case = Case(MSE, "small", (6, 4))
        call = BY_NAME[name].prepare(case, case.draw(), SETTING)
        _, (first,) = to_numpy(call())
        _, (second,) = to_numpy(call())
        np.testing.assert_array_equal(second, first)

    @pytest.mark.parametrize(
        "problem",
        [pytest.param(p, id=p.loss, marks=compiles(p.loss)) for p in PROBLEMS if p.streams],
    )
    @pytest.mark.parametrize("name", ["ours-numpy-fused", "ours-numpy-blocked"])
    def test_tiers_are_the_ones_asked_for(self, name: str, problem: Problem) -> None:
        if BY_NAME[name].missing:
            pytest.skip(f"{BY_NAME[name].missing} is not installed")
        large = Case(problem, "large", problem.shapes["large"][0])
        case = dataclasses.replace(large, shape=(4_000, 10)) if len(large.shape) < 3 else little(large, 100)
        call = BY_NAME[name].prepare(case, case.draw(), SETTING)
        blocks = {"side_effect": AssertionError("in blocks")}
        with (
            mock.patch("mithril_losses.execution.host.over_blocks", **blocks),
            mock.patch("mithril_losses.templates.elements.over_blocks", **blocks),
            mock.patch("mithril_losses.templates.stencil._plain_band", **blocks),
        ):
            if name == "ours-numpy-blocked":
                with pytest.raises(AssertionError, match="in blocks"):
                    call()
            else:
                call()

    @pytest.mark.parametrize("loss", ["mse_loss", "cross_entropy_with_logits", "gaussian_negative_log_likelihood"])
    def test_copy_reads_all_and_writes_as_much_as_the_gradient(self, loss: str) -> None:
        case = next(case for case in all_cases() if case.problem.loss == loss and case.size == "medium")
        case = dataclasses.replace(case, shape=(33, 7))
        arrays = case.draw()
        _, outputs = to_numpy(BY_NAME["copy"].prepare(case, arrays, Setting(threads=2))())
        reads_two = arrays[1].shape == arrays[0].shape
        np.testing.assert_array_equal(outputs[0], arrays[0] + arrays[1] if reads_two else arrays[0])
        assert [out.shape for out in outputs] == [arrays[i].shape for i in case.wrt]

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_every_case_has_ours_and_a_peer(self, device: Any) -> None:
        for case in all_cases():
            kinds = {candidate.kind for candidate in candidates_for(case, device)}
            assert "ours" in kinds
            assert ("peer" in kinds) != case.ours_alone


def fake(name: str, prepare: Any, kind: Any = "peer", needs: tuple[str, ...] = ()) -> Candidate:
    return Candidate(name, kind, prepare, needs=needs)


def wrong(case: Case, arrays: Any, setting: Setting) -> Any:
    return lambda: (0.0, arrays[0])


def failing(case: Case, arrays: Any, setting: Setting) -> Any:
    raise RuntimeError("no compiler\nand a long story")


class TestTimes(unittest.TestCase):
    case = Case(MSE, "small", (6, 4))

    def time(self, *candidates: Candidate) -> dict[str, Timing | str]:
        return time_candidates(self.case, candidates, SETTING, seconds=0.01)

    def test_times_are_in_seconds(self) -> None:
        import time

        pair = find_loss("mse_loss")

        def slow(case: Case, arrays: Any, setting: Setting) -> Any:
            return lambda: (time.sleep(0.005), pair.value(*arrays), pair.gradient(*arrays))[1:]

        found = self.time(BY_NAME["ours-numpy"], fake("slow", slow))
        timing, ours = found["slow"], found["ours-numpy"]
        assert isinstance(timing, Timing)
        assert isinstance(ours, Timing)
        self.assertGreaterEqual(timing.tenth, 0.005)
        self.assertLess(timing.median, 0.1)
        self.assertLess(ours.median, 0.005)
        self.assertGreaterEqual(timing.calls, 5)
        self.assertEqual(timing.gradient_bytes, 6 * 4 * 4)

    def test_what_computes_something_else_is_left_out(self) -> None:
        found = self.time(BY_NAME["ours-numpy"], fake("wrong", wrong))
        self.assertRegex(str(found["wrong"]), r"computes something else: 0, not 1\.\d+")
        self.assertIsInstance(found["ours-numpy"], Timing)

    def test_what_fails_is_left_out(self) -> None:
        found = self.time(fake("failing", failing), BY_NAME["numpy-plain"])
        self.assertEqual(found["failing"], "RuntimeError: no compiler")
        self.assertIsInstance(found["numpy-plain"], Timing)

    @parameterized.expand(
        [
            ("value", (1.1, [np.ones(3)]), False),
            ("gradient", (1.0, [np.array([1.0, 1.0, 1.1])]), False),
            ("shape", (1.0, [np.ones((3, 1))]), False),
            ("nan", (1.0, [np.array([1.0, 1.0, np.nan])]), False),
            ("close", (1.001, [np.array([1.0, 1.0, 1.001])]), True),
        ]
    )
    def test_agreement(self, case: str, result: Any, expected: bool) -> None:
        self.assertEqual(agree(result, (1.0, [np.ones(3)])), expected)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is only seen on Linux")
class TestMemory(unittest.TestCase):
    def test_sees_what_a_call_takes_and_frees(self) -> None:
        # in a process of its own, as the benchmark does: what other tests have left in this one takes and frees, too
        script = """
import json
import numpy as np
from mithril_losses.benchmarks.measuring import extra_memory

def taking(mebibytes):
    return lambda: (0.0, np.ones(mebibytes * 2**20, dtype=np.uint8)[:1].copy())

print(json.dumps([extra_memory(taking(mebibytes)) for mebibytes in (64, 8, 2)] + [extra_memory(lambda: (0.0, 0.0))]))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        *found, nothing = json.loads(done.stdout)
        for extra, mebibytes in zip(found, (64, 8, 2), strict=True):
            self.assertAlmostEqual(extra / 2**20, mebibytes, delta=0.05 * mebibytes + 0.5)
        self.assertLess(nothing, 2**19)

    def test_what_fails_says_why(self) -> None:
        candidates = [fake("failing", failing), BY_NAME["numpy-plain"]]
        found = memory_of(Case(MSE, "medium", (600, 400)), candidates, SETTING)
        self.assertEqual(found["failing"], "RuntimeError: no compiler")
        extra = found["numpy-plain"]
        assert isinstance(extra, int)
        self.assertGreater(extra, 600 * 400 * 4)


class TestTargets(unittest.TestCase):
    """Targets are evaluated on made-up measurements whose ratios can be seen."""

    def results(self, loss: str, size: str, **seconds: float) -> Results:
        case = next(c for c in all_cases() if c.problem.loss == loss and c.size == size)
        found = Results()
        for name, median in seconds.items():
            timing = Timing(median, median, 5, gradient_bytes=100)
            found.rows.append(Row(case, BY_NAME[name.replace("_", "-")], timing=timing, extra_bytes=int(1e3 * median)))
        return found

    def outcome(self, found: Results, label: str, what: str) -> tuple[float | None, bool | None]:
        (target,) = [t for t in TARGETS if t.where.label.startswith(label) and t.what.startswith(what)]
        (outcome,) = target.outcomes(found)
        return outcome.number, None if outcome.number is None else target.is_met(outcome.number)

    def test_speed_and_copy(self) -> None:
        found = self.results("mse_loss", "large", copy=1.0, ours_numpy_fused=1.25, torch_eager=10.0, torch_compile=2.5)
        self.assertEqual(self.outcome(found, "mse", "fused: times as fast as torch-eager"), (8.0, True))
        self.assertEqual(self.outcome(found, "mse", "fused: times as fast as torch-compile"), (2.0, False))
        self.assertEqual(self.outcome(found, "mse", "fused: times as fast as jax-jit"), (None, None))
        self.assertEqual(self.outcome(found, "mse", "fused: time over that of the copy"), (1.25, True))

    def test_warm_memory_is_compared_with_a_warm_copy(self) -> None:
        found = self.results("mse_loss", "large", copy=3.0, ours_numpy_fused=3.0, torch_eager=10.0)
        rows = self.results("mse_loss", "large", copy=1.0, ours_numpy_fused=1.25, torch_eager=25.0).rows
        found.rows += [dataclasses.replace(row, memory="warm") for row in rows]
        self.assertEqual(self.outcome(found, "mse", "warm, fused: time over that of the copy"), (1.25, False))
        self.assertEqual(self.outcome(found, "mse", "warm, fused: times as fast as torch-eager"), (20.0, True))
        self.assertEqual(self.outcome(found, "mse", "fused: time over that of the copy"), (1.0, True))

    def test_the_faster_of_two_jax_expressions_counts(self) -> None:
        found = self.results("huber_loss", "large", ours_numpy_fused=1.0, jax_jit=8.0, jax_jit_optax=3.0)
        self.assertEqual(self.outcome(found, "mse", "fused: times as fast as jax-jit"), (3.0, False))

    def test_memory(self) -> None:
        found = self.results("mse_loss", "large", ours_numpy_fused=0.11, ours_torch=0.12)
        self.assertEqual(self.outcome(found, "every separable", "NumPy and torch: extra memory"), (1.2, False))
        found = self.results("linear_cross_entropy", "large", ours_numpy=0.2, torch_eager=1.0)
        self.assertEqual(self.outcome(found, "linear", "best of ours: times less memory beyond"), (9.0, True))
        self.assertEqual(self.outcome(found, "linear", "best of ours: time over"), (0.2, True))
        found = self.results(
            "chamfer_distance", "large", ours_numpy=0.001, ours_jax=2.0, torch_eager=0.05, jax_jit=0.02
        )
        self.assertEqual(self.outcome(found, "chamfer 8,000", "best of ours: times as fast"), (20.0, True))
        self.assertEqual(self.outcome(found, "chamfer 8,000", "best of ours: times less memory"), (20.0, False))

    def test_backward_and_jax_grad(self) -> None:
        found = self.results("mse_loss", "medium", ours_backward=1.4, ours_torch=1.0, torch_eager=2.8)
        label = "every loss with a fused loop"
        self.assertEqual(self.outcome(found, label, "backward: times as fast as torch-eager"), (2.0, False))
        self.assertEqual(self.outcome(found, label, "backward: time over that of ours-torch"), (1.4, False))
        number, is_met = self.outcome(found, "every loss, medium and large", "backward: time over that of torch-eager")
        self.assertEqual((round(number or 0.0, 9), is_met), (0.5, True))
        found = self.results("huber_loss", "small", ours_jax_grad=1.2, jax_jit=1.5, jax_jit_optax=1.0)
        (target,) = [t for t in TARGETS if t.what.startswith("jax.grad")]
        (outcome,) = target.outcomes(found)
        self.assertEqual((outcome.number, target.is_met(1.2)), (1.2, False))
        found = self.results("mse_loss", "large", ours_backward=0.12, ours_torch=0.1)
        self.assertEqual(self.outcome(found, "every separable", "backward: extra memory"), (1.2, False))

    def test_every_target_has_cases_and_the_page_shows_it(self) -> None:
        for target in TARGETS:
            self.assertTrue(any(map(target.where.contains, all_cases())), target.where.label)
        found = self.results("mse_loss", "large", ours_numpy_fused=1.0, torch_eager=7.0, torch_compile=3.0)
        lines = [line for line in markdown(found, SETTING, 1.0).splitlines() if "16,000,000: " in line]
        self.assertTrue(lines[0].endswith("| ≥ 6 | mse_loss 16,000,000: 7.00 | yes |"), lines[0])
        self.assertTrue(lines[1].endswith("| ≥ 3.5 | **mse_loss 16,000,000: 3.00** | **0 of 1** |"), lines[1])

    def test_of_many_cases_the_page_shows_those_that_matter(self) -> None:
        def cell(slow: float) -> str:
            found = Results()
            for case in (case for case in all_cases() if case.size == "large" and not case.ours_alone):
                times = {"ours-numpy": 1.0, "ours-torch": slow if case.problem.loss == "dice_loss" else 1.01}
                found.rows += [Row(case, BY_NAME[name], timing=Timing(t, t, 1, 1)) for name, t in times.items()]
            (line,) = [x for x in markdown(found, SETTING, 1.0).splitlines() if x.startswith("| every loss, large")]
            return line.split("cases, ")[1]

        self.assertEqual(cell(1.1), "nearest to the bound:<br>dice_loss 16×1,000,000: 1.10 | yes |")
        self.assertTrue(cell(1.3).startswith("beyond the bound:<br>**dice_loss 16×1,000,000: 1.30** |"))

    def test_the_page_describes_every_candidate_that_ran(self) -> None:
        found = self.results("mse_loss", "large", **{name.replace("-", "_"): 1.0 for name in BY_NAME})
        described = [
            line.partition(": ")[0] for line in markdown(found, SETTING, 1.0).splitlines() if line[:3] == "* `"
        ]
        self.assertEqual({name for line in described for name in line.split("`")[1::2]}, set(BY_NAME))
        only = markdown(self.results("mse_loss", "large", ours_torch=1.0), SETTING, 1.0)
        self.assertNotIn("scikit-learn`", only)

    def test_the_page_says_why_a_target_is_missed_where_it_is(self) -> None:
        (target,) = [t for t in TARGETS if t.where.label.startswith("mse") and t.what.endswith("as torch-compile")]
        known = dataclasses.replace(target, why_missed="Memory is no faster.")
        said = (
            "* mse_loss 16,000,000, fused: times as fast as torch-compile: 3.00 of ≥ 3.5. "
            "A copy of the same bytes would be 4.00 times as fast. Memory is no faster."
        )
        with mock.patch("mithril_losses.benchmarks.page.TARGETS", [known]):
            for theirs, missed in ((3.0, True), (4.0, False)):
                found = self.results("mse_loss", "large", ours_numpy_fused=1.0, torch_compile=theirs, copy=0.75)
                self.assertEqual(said in markdown(found, SETTING, 1.0).splitlines(), missed)


def in_this_process(case: Case, candidates: list[Candidate], setting: Setting, seconds: float) -> Any:
    return time_candidates(case, candidates, setting, seconds)


class TestProfile(unittest.TestCase):
    def test_operations_of_terms_are_counted_and_timed(self) -> None:
        x = np.linspace(-1.0, 1.0, 5000, dtype=np.float32)
        found, whole = profile.operations("mse_loss", (x, x[::-1].copy()))
        # e = p − t, e², 2 e, the slope over the number of elements, and the sum
        expected = {"subtract": 1.0, "multiply": 1.0, "multiply with a number": 2.0, "sum": 1.0}
        self.assertEqual({name: count for name, count, _ in found}, expected)
        self.assertTrue(all(0.0 < each < whole for _, _, each in found))

    def test_the_page_has_every_section(self) -> None:
        def small(losses: Any) -> list[Case]:
            cases = [case for case in all_cases() if case.size == "large" and case.problem.loss in losses]
            return [
                dataclasses.replace(case, shape=(100, case.shape[-1] if len(case.shape) > 1 else 40)) for case in cases
            ]

        with mock.patch.object(profile, "_cases", lambda losses: [c for c in small(losses) if not c.ours_alone]):
            text = profile.page()
        rows = [line.partition(" |")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
        for loss in ("mse_loss", "kl_divergence", "cross_entropy_with_logits"):
            self.assertTrue(any(row.startswith(f"{loss} 100×") for row in rows), rows)
        self.assertIn("a tree, of which there are two", rows)


class TestCommand(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def bench(self, *arguments: Any) -> Any:
        return CliRunner().invoke(app, ["bench", *map(str, arguments)], prog_name="mithril-losses")

    def replace(self, **attributes: Any) -> None:
        for name, x in attributes.items():
            patch = mock.patch.object(plan, name, x)
            patch.start()
            self.addCleanup(patch.stop)

    def test_dry_run_lists_and_measures_nothing(self) -> None:
        self.replace(time_apart=mock.Mock(side_effect=AssertionError))
        result = self.bench("--dry-run", "--size", "large", "--threads", "2", "--time", "3")
        self.assertEqual(result.exit_code, 0, result.output)
        for case in all_cases():
            self.assertEqual(f"\n{case.name}  " in result.stdout, case.size == "large", case.name)
        self.assertIn("2 threads, 3 s per case, cpu", result.stdout)

    def test_runs_in_processes_of_their_own_and_writes(self) -> None:
        files = [self.folder / name for name in ("bench.csv", "bench.png", "bench.md")]
        options = [part for pair in zip(("--csv", "--chart", "--report"), files, strict=True) for part in pair]
        only = ("--loss", "mse_loss", "--size", "small", "--candidate", "ours-numpy", "--candidate", "numpy-plain")
        result = self.bench(*only, "--time", "0", *options)
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("mse_loss 32×10", result.stdout)
        with files[0].open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["candidate"] for row in rows], ["ours-numpy", "numpy-plain"])
        for row in rows:
            self.assertGreater(float(row["median_seconds"]), 0.0)
        self.assertEqual(files[1].read_bytes()[:4], b"\x89PNG")
        page = files[2].read_text(encoding="utf-8")
        self.assertIn("](bench.png)", page)
        self.assertIn(f"numpy {np.__version__}", page)
        self.assertRegex(page, r"\| mse_loss 32×10 \| [\d.]+ µs \| [\d.]+ µs \|")

    def test_a_missing_library_is_said(self) -> None:
        absent = fake("absent", failing, needs=("no_such_library",))
        self.replace(time_apart=in_this_process)
        with mock.patch("mithril_losses.benchmarks.candidates.CANDIDATES", (BY_NAME["ours-numpy"], absent)):
            listed = self.bench("--dry-run", "--loss", "mse_loss", "--size", "small")
            result = self.bench(
                "--loss", "mse_loss", "--size", "small", "--time", "0", "--report", self.folder / "b.md"
            )
        self.assertIn("absent (no_such_library is not installed)", listed.stdout)
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("no_such_library is not installed", result.stdout)
        self.assertIn(
            "* `absent`: no_such_library is not installed (mse_loss 32×10)", (self.folder / "b.md").read_text()
        )

    def test_an_interruption_keeps_what_was_measured(self) -> None:
        def second_is_interrupted(case: Case, *arguments: Any) -> Any:
            if case.problem.loss == "mae_loss":
                raise KeyboardInterrupt
            return in_this_process(case, *arguments)

        self.replace(time_apart=second_is_interrupted)
        path = self.folder / "bench.csv"
        options = (
            "--loss",
            "mse_loss",
            "--loss",
            "mae_loss",
            "--size",
            "small",
            "--candidate",
            "ours-numpy",
            "--time",
            "0",
        )
        result = self.bench(*options, "--csv", path, "--report", self.folder / "b.md")
        self.assertEqual(result.exit_code, 130, result.output)
        self.assertIn(str(path), result.stderr)
        self.assertIn("mse_loss 32×10", result.stdout)
        self.assertEqual([line.split(",")[0] for line in path.read_text().splitlines()], ["loss", "mse_loss"])
        self.assertFalse((self.folder / "b.md").exists())

    def test_an_update_keeps_all_other_cases(self) -> None:
        asked: list[str] = []

        def measured(case: Case, candidates: list[Candidate], *_: Any) -> dict[str, Timing | str]:
            asked.append(case.problem.loss)
            first, second = (candidate.name for candidate in candidates)
            return {first: Timing(len(asked) / 64, 1 / 256, 7, 24), second: "is broken"}

        self.replace(time_apart=measured, memory_apart=lambda case, candidates, _: {x.name: 48 for x in candidates})
        path, page = self.folder / "bench.csv", self.folder / "bench.md"
        options = ("--size", "medium", "--candidate", "ours-jax", "--candidate", "jax-jit", "--csv", path)
        self.bench("--loss", "mae_loss", "--loss", "mse_loss", *options)
        before = path.read_text(encoding="utf-8").splitlines()
        result = self.bench("--loss", "mse_loss", *options, "--update", path, "--report", page)
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(asked, ["mse_loss", "mae_loss", "mse_loss"])
        after = path.read_text(encoding="utf-8").splitlines()
        self.assertEqual(after[0], before[0])
        self.assertEqual(after[1:], [before[1].replace("0.015625,", "0.046875,", 1), *before[2:]])
        self.assertNotIn("mae_loss", result.stdout)
        text = page.read_text(encoding="utf-8")
        self.assertIn("The last run measured cases of: mse_loss.", text)
        self.assertIn("| mae_loss 1,000,000 | 31.2 ms |", text)
        self.assertIn("is broken (mse_loss 1,000,000, mae_loss 1,000,000)", text)
        self.assertIn("| mae_loss 1,000,000 | 4.58e-05 (2.00) |", text)

    def test_an_update_needs_the_file_of_a_benchmark(self) -> None:
        path = self.folder / "other.csv"
        path.write_text("loss,size\n", encoding="utf-8")
        result = self.bench("--loss", "mse_loss", "--update", path)
        self.assertEqual(result.exit_code, 2, result.output)
        self.assertIn("it has other columns than the file of a benchmark", result.stderr)
        self.assertEqual(self.bench("--loss", "mse_loss", "--update", self.folder / "none.csv").exit_code, 2)

    def test_memory_is_measured_where_arrays_are_not_small(self) -> None:
        tiny = dataclasses.replace(MSE, shapes={"small": ((3, 2),), "medium": ((6, 4),)})
        asked = []

        def memory(case: Case, candidates: list[Candidate], setting: Setting) -> dict[str, int]:
            asked.append((case.name, [candidate.name for candidate in candidates]))
            return {candidate.name: 2 * 6 * 4 * 4 for candidate in candidates}

        self.replace(time_apart=in_this_process, memory_apart=memory)
        found = Results()
        with mock.patch.object(families, "PROBLEMS", (tiny,)):
            run = Plan(list(all_cases()), SETTING, 0.0, ("copy", "ours-numpy", "numpy-plain"))
            steps = list(run.measure(found))
        self.assertEqual(asked, [("mse_loss 6×4", ["numpy-plain"])])
        self.assertEqual(len(steps), run.steps)
        self.assertEqual([row.extra_gradients for row in found.rows], [None, None, None, 2.0])

    def test_warm_memory_and_huge_pages_are_measured_beside_fresh_memory(self) -> None:
        asked = []

        def apart(case: Case, candidates: Any, setting: Setting, seconds: float) -> Any:
            asked.append(setting.memory)
            return in_this_process(case, candidates, setting, seconds)

        self.replace(time_apart=apart, memory_apart=lambda case, candidates, setting: {"numpy-plain": 1})
        for huge_pages, expected in ((False, ["fresh", "fresh", "warm"]), (True, ["fresh", "fresh", "warm", "huge"])):
            asked.clear()
            found = Results()
            cases = [Case(MSE, "small", (3, 2)), Case(MSE, "large", (6, 4))]
            run = Plan(cases, SETTING, 0.0, ("numpy-plain", "copy"), huge_pages=huge_pages)
            self.assertEqual(len(list(run.measure(found))), run.steps)
            self.assertEqual(asked, expected)
            page = markdown(found, SETTING, 0.0)
            self.assertIn("into warm memory\n", page)
            self.assertEqual("with huge pages\n" in page, huge_pages)
            _, warm, *_ = page.split("\n## Time per call")[1:]
            self.assertIn("mse_loss 6×4", warm)
            self.assertNotIn("mse_loss 3×2", warm)
            headers = [str(column.header) for table in tables(found) for column in table.columns]
            self.assertIn("warm memory", headers)
            self.assertEqual("huge pages" in headers, huge_pages)

    def test_the_environment_of_a_measurement(self) -> None:
        with mock.patch.dict(worker.os.environ, MITHRIL_LOSSES_KEPT_MEMORY="1K"):
            fresh, warm, huge = (worker._environment(Setting(3, memory=m)) for m in ("fresh", "warm", "huge"))
        self.assertEqual({fresh[name] for name in ("OMP_NUM_THREADS", "NPROC")}, {"3"})
        self.assertIn("glibc.malloc.hugetlb=1", huge["GLIBC_TUNABLES"])
        self.assertNotIn("hugetlb", fresh.get("GLIBC_TUNABLES", ""))
        self.assertEqual(fresh["MITHRIL_LOSSES_KEPT_MEMORY"], "0")
        self.assertNotIn("MITHRIL_LOSSES_KEPT_MEMORY", warm)

    def test_warm_results_use_the_memory_of_earlier_ones(self) -> None:
        case = Case(MSE, "large", (400_000,))
        arrays = case.draw()
        for name in ("copy", "ours-numpy-fused", "ours-torch", "scikit-learn"):
            if BY_NAME[name].missing:
                continue
            call = BY_NAME[name].prepare(case, arrays, Setting(threads=1, memory="warm"))
            places = {to_numpy(call())[1][0].ctypes.data for _ in range(5)}
            self.assertEqual(len(places), 1, name)

    def test_a_process_that_dies_is_a_reason(self) -> None:
        with mock.patch.object(worker.sys, "executable", "false"):
            found = worker.time_apart(Case(MSE, "small", (32, 10)), [BY_NAME["ours-numpy"]], SETTING, 0.0)
        self.assertEqual(found, {"ours-numpy": "the process ended with code 1"})

    @parameterized.expand(
        [
            ("loss", ["--loss", "mse"], ["unknown loss 'mse'", "mse_loss"]),
            ("size", ["--size", "larg"], ["did you mean 'large'?"]),
            ("candidate", ["--candidate", "torch"], ["unknown candidate 'torch'", "ours-torch"]),
            ("device", ["--device", "gpu"], ["unknown device 'gpu'"]),
            ("threads", ["--threads", "0"], ["--threads"]),
            ("nothing left", ["--loss", "chamfer_distance", "--size", "small"], ["no loss"]),
            ("nowhere", ["--csv", "no/such/folder/b.csv"], ["no/such/folder/b.csv"]),
        ]
    )
    def test_bad_options(self, case: str, arguments: list[str], words: list[str]) -> None:
        self.replace(time_apart=mock.Mock(side_effect=AssertionError))
        result = self.bench(*arguments)
        self.assertEqual((result.exit_code, result.stdout), (2, ""), result.output)
        self.assertRegex(result.stderr, r"\Aerror: [^\n]+\n\Z")
        for word in words:
            self.assertIn(word, result.stderr)


class Curvature(unittest.TestCase):
    def test_products_are_timed_and_written(self) -> None:
        [case] = [case for case in all_cases() if case.name == "mse_loss 32×10"]
        with mock.patch("mithril_losses.benchmarks.curvature.cases", return_value=[case]):
            found = list(curvature.measure(Setting(1), 0.0))
        [(_, times)] = found
        self.assertEqual(list(times), [candidate.name for candidate in curvature.CANDIDATES])
        self.assertTrue(all(isinstance(time, Timing) for time in times.values()), times)
        [row] = [line for line in curvature.page(found, Setting(1)).splitlines() if line.startswith("| mse_loss")]
        self.assertEqual(row.count("("), len(times) - 1)  # a ratio for each but the gradient itself

    def test_cases_are_of_losses_with_curvature(self) -> None:
        names = [case.name for case in curvature.cases()]
        for name in ("huber_loss 1,000,000", "cross_entropy_with_logits 512×32,000", "logistic_loss 1,000,000"):
            self.assertIn(name, names)
        for name in ("wasserstein_distance 10,000×100", "gaussian_negative_log_likelihood 1,000,000"):
            self.assertNotIn(name, names)  # without curvature; of two arrays
