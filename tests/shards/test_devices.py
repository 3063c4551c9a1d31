"""Losses of arrays on eight devices: `shard_map`, and arrays that are sharded over a mesh."""

from __future__ import annotations

import pytest
from mesh_checks import CHECKS, USUAL
from running import require

PARTS = 4  # which the workers of a test run share


def test_on_a_mesh() -> None:
    require("mesh_checks.py", USUAL)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
def test_every_loss_on_a_mesh(part: int) -> None:
    require("mesh_checks.py", [name for name in CHECKS if name not in USUAL][part::PARTS])
