"""What belongs to which run of the tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_no_mark_stands_where_it_marks_nothing() -> None:
    """`parameterized.expand` makes its tests of what is below it."""
    for file in (ROOT / "tests").rglob("test_*.py"):
        found = re.findall(r"^ *@pytest\.mark\..*\n *@parameterized\.expand", file.read_text("utf-8"), re.MULTILINE)
        assert not found, file.name


@pytest.mark.exhaustive  # collects files of the whole catalogue
def test_a_loss_is_tested_by_its_laws_its_family_and_its_doctests() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--loss", "iou_loss"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tests = [line for line in finished.stdout.splitlines() if "::" in line]
    laws = [test for test in tests if test.startswith("tests/laws/test_laws.py")]
    assert any("test_jax_vmap_iou_loss-drawn" in test for test in laws)
    assert not any("distance_iou_loss" in test for test in laws)  # whose name ends alike
    assert "mithril_losses/losses/boxes.py::mithril_losses.losses.boxes.iou_loss" in tests
    files = {test.partition("::")[0] for test in tests if test not in laws}
    assert {"tests/losses/test_boxes.py", "tests/laws/test_extremes.py", "mithril_losses/losses/boxes.py"} <= files
    assert not any("regression" in file for file in files)


@pytest.mark.exhaustive
def test_a_name_that_nothing_has_is_refused() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--loss", "huber"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert "'huber' is neither a loss nor a family" in finished.stderr
