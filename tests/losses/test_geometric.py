"""What no law says about the Hausdorff distance: scipy's, ties, masks, empty sets, many points."""

from __future__ import annotations

import unittest
from itertools import product
from typing import Any

import numpy as np
from modes import EAGER, MODES, evaluate, evaluate_pair
from parameterized import parameterized
from scipy.spatial.distance import directed_hausdorff

from mithril_losses import hausdorff_distance, hausdorff_distance_gradient, value_and_gradient

BOTH = ("pred_points", "target_points")


class Hausdorff(unittest.TestCase):
    @parameterized.expand([(library,) for library in EAGER])
    def test_scipy(self, library: str) -> None:
        generator = np.random.default_rng(0)
        x, y = generator.standard_normal((8, 6, 3)), 1.5 * generator.standard_normal((8, 9, 3))
        value, gradient = evaluate_pair(library, hausdorff_distance, x, y, reduction="none")
        for b in range(8):
            (forward, i, j), (backward, k, m) = directed_hausdorff(x[b], y[b]), directed_hausdorff(y[b], x[b])
            self.assertAlmostEqual(value[b], max(forward, backward), 14)
            own, other = (i, j) if forward >= backward else (m, k)
            expected = np.zeros((6, 3))
            expected[own] = (x[b, own] - y[b, other]) / max(forward, backward)
            np.testing.assert_allclose(gradient[b], expected, rtol=1e-13, atol=1e-15)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_first_point_at_a_tie(self, mode: str) -> None:
        # all four points are at 1 from their two nearest
        x, y = np.array([[[0.0], [2.0]]]), np.array([[[1.0], [3.0]]])
        gradients = evaluate(mode, hausdorff_distance_gradient, x, y, wrt=BOTH)
        np.testing.assert_array_equal(gradients["pred_points"], [[[-1.0], [0.0]]])
        np.testing.assert_array_equal(gradients["target_points"], [[[1.0], [0.0]]])

    @parameterized.expand([(mode,) for mode in MODES])
    def test_equal_sets(self, mode: str) -> None:
        x = np.random.default_rng(1).standard_normal((2, 5, 3))
        value, gradients = evaluate_pair(mode, hausdorff_distance, x, x[:, ::-1].copy())
        self.assertEqual(float(value), 0.0)
        self.assertFalse(np.any(gradients))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_padding_may_hold_anything(self, mode: str) -> None:
        generator = np.random.default_rng(2)
        x, y = generator.standard_normal((3, 4, 2)), generator.standard_normal((3, 5, 2))
        x_mask, y_mask = np.ones((3, 4), dtype=bool), np.ones((3, 5), dtype=bool)
        x_mask[0, [0, 2]], y_mask[1, 3:], x_mask[2] = False, False, False
        padded_x, padded_y = np.where(x_mask[..., None], x, np.nan), np.where(y_mask[..., None], y, 1e9)
        masks = {"pred_mask": x_mask, "target_mask": y_mask}
        value, gradient = evaluate_pair(mode, hausdorff_distance, padded_x, padded_y, **masks, reduction="none")
        for b in range(2):
            expected, slopes = value_and_gradient(hausdorff_distance)(x[b][x_mask[b]], y[b][y_mask[b]])
            self.assertAlmostEqual(value[b], float(expected), 14)
            np.testing.assert_allclose(gradient[b][x_mask[b]], slopes, rtol=1e-13, atol=1e-15)
        self.assertFalse(np.any(gradient[~x_mask]))
        self.assertEqual(value[2], 0.0)

    @parameterized.expand(list(product(EAGER, ((0, 3), (3, 0), (0, 0)))))
    def test_empty_sets(self, library: str, sizes: Any) -> None:
        x, y = (np.ones((2, n, 3)) for n in sizes)
        value, gradient = evaluate_pair(library, hausdorff_distance, x, y)
        self.assertEqual(float(value), 0.0)
        self.assertEqual(gradient.shape, x.shape)
        self.assertFalse(np.any(gradient))

    def test_many_points_are_found_by_a_tree_and_by_tiles_alike(self) -> None:
        generator = np.random.default_rng(3)
        x, y = generator.random((1, 1200, 3)), generator.random((1, 1100, 3))
        expected = max(directed_hausdorff(x[0], y[0])[0], directed_hausdorff(y[0], x[0])[0])
        for library in EAGER:
            self.assertAlmostEqual(float(evaluate(library, hausdorff_distance, x, y)), expected, 14)

    def test_no_square_overflows(self) -> None:
        x, y = np.array([[0.0, 0.0], [3e200, 4e200]]), np.array([[0.0, 0.0]])
        value, gradient = value_and_gradient(hausdorff_distance)(x, y)
        np.testing.assert_allclose(value, 5e200, rtol=1e-14)
        np.testing.assert_allclose(gradient, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-14)
