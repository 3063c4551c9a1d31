"""Losses in processes that fork, end, are interrupted, share a cold cache or find a damaged one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="these scenes fork")


def run(tmp_path: Path, *scene: str) -> None:
    """Run a scene of `processes.py` in a process of its own, with an empty cache."""
    found = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "processes.py"), *scene],
        env={**os.environ, "MITHRIL_LOSSES_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Traceback" not in found.stderr


def test_a_loss_answers_after_the_main_thread_has_ended(tmp_path: Path) -> None:
    run(tmp_path, "after_the_main_thread")


def test_losses_that_are_redefined_are_forgotten(tmp_path: Path) -> None:
    run(tmp_path, "redefined", "200")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "scene",
    [
        ("race", "5"),
        ("fork_while_compiling", "5"),
        ("damage",),
        ("flips", "20"),
        ("interrupted_import", "5"),
        ("redefined", "1000"),
        ("edited_terms", "1000"),
        ("redefined_for_jax", "150"),
    ],
    ids=" ".join,
)
def test_again_and_again(tmp_path: Path, scene: tuple[str, ...]) -> None:
    run(tmp_path, *scene)
