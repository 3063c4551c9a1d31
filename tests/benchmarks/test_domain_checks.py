"""The times of checks of domains: every loss with bounds is in the table, and loops check by themselves."""

from __future__ import annotations

import re
from pathlib import Path

from mithril_losses import catalogue
from mithril_losses.benchmarks.domains import LARGE, SMALL, cost, losses, page

PAGE = Path(__file__).parents[2] / "docs/domain-checks.md"


def test_every_loss_with_bounds_is_on_the_page() -> None:
    rows = re.findall(r"^\| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows[1:] == [pair.name for pair in losses()]
    assert {"dice_loss", "iou_loss", "kl_divergence", "hinge_loss", "cross_entropy_loss"} < {*rows}
    assert "mse_loss" not in rows


def test_a_check_is_a_small_part_of_a_call() -> None:
    for name in ("dice_loss", "binary_cross_entropy", "iou_loss"):
        assert 0.0 < cost(catalogue()[name], SMALL, rounds=3).share < 0.5


def test_a_loop_checks_elements_and_rows_itself() -> None:
    assert cost(catalogue()["binary_cross_entropy"], LARGE, rounds=1).check == 0.0
    assert cost(catalogue()["kl_divergence"], LARGE, rounds=1).check == 0.0  # sums of rows included
    assert cost(catalogue()["vae_loss"], LARGE, rounds=1).check == 0.0  # of two losses, each with its loop
    assert cost(catalogue()["iou_loss"], LARGE, rounds=1).check > 0.0


def test_the_page_is_a_table() -> None:
    text = page([catalogue()["hinge_loss"]], rounds=1)
    assert text.startswith(PAGE.read_text(encoding="utf-8").partition("\n| ---")[0])
    assert re.search(r"(?m)^\| hinge_loss \| [\d.]+ \| [\d.]+ \| \d+% \| [\d.]+ \| in the loop \| 0% \|$", text)
