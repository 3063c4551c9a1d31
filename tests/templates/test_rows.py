"""The pure functions of rows: parts combine into wholes, slopes are derivatives, whatever makes up a row."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithril_losses.templates.classes import AtLabel, Given
from mithril_losses.templates.rows import combine, finish, slopes, statistics

PROBABILITIES = np.array([[0.5, 0.0, 0.25, 0.25], [0.0, 2.0, 0.5, 0.0]])
SHARES = {
    "labels": AtLabel(np.array([2, 0])),
    "labels with a number of their own": AtLabel(np.array([2, 0]), own=0.75, even=0.25),
    "labels with one number per row": AtLabel(np.array([2, 0]), own=np.array([0.5, 0.0])),
    "labels and shares of classes": AtLabel(np.array([2, 0]), own=np.array([0.5, 2.0]), each=np.arange(4.0)),
    "probabilities": Given(PROBABILITIES),
    "smoothed, weighted probabilities": Given(PROBABILITIES, 0.3, np.arange(4.0)),
}
LOGITS = np.array([[1.0, -2.0, 0.5, 3.0], [-1.0, 0.0, 7.0, 2.0]])


def definition(z: list[float], q: list[float], zeta: float) -> Any:
    """−Σ q log softmax(z) + ζ L²."""
    log_sum = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in z))
    return mpmath.fsum(a * (log_sum - b) for a, b in zip(q, z, strict=True)) + zeta * log_sum**2


@pytest.mark.parametrize("zeta", [None, 0.5])
@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_losses_and_slopes_are_those_of_the_definition(shares: Any, zeta: float | None) -> None:
    found, exponentials = statistics(np, LOGITS, shares)
    finished = finish(np, found, zeta)
    scale = np.array([2.0, -1.0])
    slope = slopes(np, exponentials, finished, shares, scale=scale)
    q = np.broadcast_to(shares.dense(np, LOGITS, 1), LOGITS.shape).tolist()
    for row, z in enumerate(LOGITS.tolist()):
        with mpmath.workdps(50):
            expected = float(definition(z, q[row], zeta or 0.0))
        assert finished.losses[row] == pytest.approx(expected, rel=1e-14)
        for column in range(4):

            def along(x: Any, z: list[float] = z, row: int = row, column: int = column) -> Any:
                return definition([*z[:column], x, *z[column + 1 :]], q[row], zeta or 0.0)

            with mpmath.workdps(50):
                derivative = float(scale[row] * mpmath.diff(along, z[column]))
            assert slope[row, column] == pytest.approx(derivative, rel=1e-13, abs=1e-14)


@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 30.0, -700.0]))
def test_parts_of_rows_combine_into_the_whole(cut: int, seed: int, offset: float) -> None:
    random = np.random.default_rng(seed)
    z, q = random.standard_normal((2, 5, 4)) * 10.0
    z, q = z + offset, np.abs(q)
    z[:, :cut] -= offset / 2.0
    whole, _ = statistics(np, z, Given(q))
    parts = [statistics(np, z[:, part], Given(q[:, part]))[0] for part in (slice(0, cut), slice(cut, 4))]
    for one, other in (parts, parts[::-1]):
        for found, expected in zip(combine(np, one, other), whole, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_an_empty_part_changes_nothing() -> None:
    whole, _ = statistics(np, LOGITS, SHARES["probabilities"])
    with np.errstate(invalid="ignore"):  # 0 · ∞, which is 0
        nothing, _ = statistics(np, np.full((2, 3), -np.inf), Given(np.zeros((2, 3))), capped=False)
    for found, expected in zip(combine(np, nothing, whole), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("capped", [True, False])
def test_an_infinite_logit(capped: bool) -> None:
    z = np.array([[1.0, np.inf, 2.0]])
    with np.errstate(all="ignore"):
        found, exponentials = statistics(np, z, AtLabel(np.array([1])), capped=capped)
        finished = finish(np, found)
        slope = slopes(np, exponentials, finished, AtLabel(np.array([1])))
    if capped:
        assert finished.losses.tolist() == [0.0]
        assert slope.tolist() == [[0.0, 0.0, 0.0]]
    else:
        assert np.isnan(finished.losses).all()
        assert np.isnan(slope).all()
