"""A loss that does not change with an offset or a scale keeps its digits at large ones, in float32, compiled or not."""

from __future__ import annotations

import unittest
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import convert, flat, to_numpy
from kinds import INVARIANT, check_digits, drawn, moved
from parameterized import parameterized

from mithril_losses import (
    energy_distance,
    find_loss,
    maximum_mean_discrepancy,
    sliced_wasserstein_distance,
    sliced_wasserstein_distance_gradient,
    value_and_gradient,
)

pytestmark = pytest.mark.optimized_xla

AMOUNTS = {"translation_invariant": (1e3, -1e5), "scale_invariant": (1e-5, 1e5)}
CASES = [(pair.name, invariance) for pair, invariance in INVARIANT]


class Invariance(unittest.TestCase):
    @parameterized.expand([(*case, way) for case, way in product(CASES, ("numpy", "torch", "jax.jit"))])
    def test_keeps_digits(self, loss: str, invariance: str, way: str) -> None:
        for amount in AMOUNTS[invariance]:
            with self.subTest(amount=amount):
                check_digits(drawn(loss, "small"), invariance, amount, way)

    @parameterized.expand([(*case, way) for case, way in product(CASES, ("numpy in blocks", "jax", "jax compiled"))])
    @pytest.mark.exhaustive
    def test_keeps_digits_on_other_ways(self, loss: str, invariance: str, way: str) -> None:
        for amount in AMOUNTS[invariance]:
            with self.subTest(amount=amount):
                check_digits(drawn(loss, "small"), invariance, amount, way)

    @parameterized.expand(
        list(product((maximum_mean_discrepancy, energy_distance), ((700, 500, 2), (60, 50, 8)), (1e5,)))
    )
    def test_of_far_off_sets_of_points(self, loss: Any, sizes: tuple[int, int, int], offset: float) -> None:
        """The frames of two sets must be one to the last digit, however often XLA computes their centre."""
        generator, (n, m, d) = np.random.default_rng(0), sizes
        x = (offset + generator.standard_normal((n, d))).astype("f4")
        y = (offset + 0.1 + generator.standard_normal((m, d))).astype("f4")
        pair = find_loss(loss)
        right = pair.gradient(x.astype("f8"), y.astype("f8"))
        for both in (value_and_gradient(loss, compile=False), jax.jit(value_and_gradient(loss))):
            _, found = both(jnp.asarray(x), jnp.asarray(y))
            self.assertLess(np.abs(found - right).max(), 5e-5 * np.abs(right).max())

    @parameterized.expand([("numpy",), ("torch",), ("jax",)])
    def test_of_slices_of_far_off_points(self, library: str) -> None:
        generator = np.random.default_rng(0)
        x, y = ((1e4 + generator.standard_normal((1, 40, 3))).astype("f4").astype("f8") for _ in range(2))
        for p in (1.0, 2.0):
            value = sliced_wasserstein_distance(convert(x, library, "float32"), convert(y, library, "float32"), p=p)
            np.testing.assert_allclose(to_numpy(value), sliced_wasserstein_distance(x, y, p=p), rtol=1e-5)
            found = sliced_wasserstein_distance_gradient(
                *(convert(points, library, "float32") for points in (x, y)), p=p
            )
            expected = sliced_wasserstein_distance_gradient(x, y, p=p)
            np.testing.assert_allclose(to_numpy(found), expected, atol=1e-5 * np.abs(expected).max())


def test_case_of_a_kind_moves_all_arrays_of_it() -> None:
    at = moved(drawn("triplet_loss", "small"), "translation_invariant", 8.0)
    for (_, x), (_, y) in zip(flat(at.arrays), flat(drawn("triplet_loss", "small").arrays), strict=True):
        np.testing.assert_allclose(x - y, 8.0, atol=1e-6)
