"""Losses of tensors and NumPy arrays on the processes of a group."""

from __future__ import annotations

import pytest
from group_checks import CHECKS, USUAL
from running import require


def test_on_two_processes() -> None:
    require("group_checks.py", USUAL, ranks=2)


@pytest.mark.exhaustive
def test_a_process_that_dies() -> None:
    require("group_checks.py", ["a process that dies"], ranks=2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_loss_on_processes(ranks: int) -> None:
    require("group_checks.py", [name for name in CHECKS if name not in (*USUAL, "a process that dies")], ranks=ranks)
