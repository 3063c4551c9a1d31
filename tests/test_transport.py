"""What no law says about optimal transport: every permutation, closed forms, limits, and what converged."""

from __future__ import annotations

import itertools
import unittest

import jax
import numpy as np
import torch
from cases import convert, double_precision, to_numpy
from modes import EAGER, MODES, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    earth_mover_distance,
    earth_mover_distance_gradient,
    value_and_gradient,
)

BOTH = ("pred_points", "target_points")
X, Y = np.random.default_rng(0).standard_normal((2, 3, 7, 3))


class EarthMover(unittest.TestCase):
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """The distances of X and Y and their gradients, by trying every permutation of seven points."""
        permutations = np.array(list(itertools.permutations(range(7))))
        values, gradients = [], []
        for x, y in zip(X, Y, strict=True):
            costs = np.linalg.norm(x[:, None] - y[None], axis=-1)
            totals = costs[np.arange(7), permutations].sum(axis=1)
            best = permutations[np.argmin(totals)]
            values.append(totals.min() / 7)
            gradients.append((x - y[best]) / np.linalg.norm(x - y[best], axis=-1, keepdims=True) / 7)
        return np.array(values), np.array(gradients)

    @parameterized.expand([(mode,) for mode in (*MODES, "torch.compile", "array_api_strict")])
    def test_every_permutation_of_seven_points(self, mode: str) -> None:
        values, gradients = self.expected()
        value, gradient = evaluate_pair(mode, earth_mover_distance, X, Y, reduction="none")
        np.testing.assert_allclose(value, values, rtol=1e-13)
        np.testing.assert_allclose(gradient, gradients, rtol=1e-12)

    def test_it_is_no_sorting_of_coordinates(self) -> None:
        x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
        self.assertEqual(float(earth_mover_distance(x, y)), 1.0)

    @parameterized.expand([(library,) for library in EAGER])
    def test_shift_and_permutation(self, library: str) -> None:
        shift = np.array([0.3, -2.0, 1.0])
        shuffled = X[:, np.random.default_rng(1).permutation(7)]
        gradients = evaluate(library, earth_mover_distance_gradient, X + shift, shuffled, wrt=BOTH, reduction="none")
        value = evaluate(library, earth_mover_distance, X + shift, shuffled, reduction="none")
        np.testing.assert_allclose(value, np.linalg.norm(shift), rtol=1e-13)
        direction = np.broadcast_to(shift / np.linalg.norm(shift) / 7, X.shape)
        # other permutations may be as good, but all of them together pull along the shift
        np.testing.assert_allclose(gradients["pred_points"].sum(axis=1), direction.sum(axis=1), rtol=1e-12)
        np.testing.assert_allclose(gradients["target_points"].sum(axis=1), -direction.sum(axis=1), rtol=1e-12)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_equal_sets(self, mode: str) -> None:
        value, gradient = evaluate_pair(mode, earth_mover_distance, X, X[:, ::-1].copy())
        self.assertEqual(float(value), 0.0)
        self.assertFalse(np.any(gradient))

    @parameterized.expand([(library,) for library in EAGER])
    def test_points_that_are_not_finite_spoil_only_their_own_set(self, library: str) -> None:
        x = X.copy()
        x[1, 2, 0] = np.nan
        value, _ = evaluate_pair(library, earth_mover_distance, x, Y, reduction="none")
        np.testing.assert_allclose(value[[0, 2]], self.expected()[0][[0, 2]], rtol=1e-13)
        self.assertTrue(np.isnan(value[1]))

    def test_no_square_overflows(self) -> None:
        for unit in (1e200, 1e-200):
            value, gradient = value_and_gradient(earth_mover_distance)(unit * X, unit * Y, reduction="none")
            np.testing.assert_allclose(value, unit * self.expected()[0], rtol=1e-13)
            np.testing.assert_allclose(gradient, self.expected()[1], rtol=1e-12)

    def test_sets_of_different_sizes(self) -> None:
        for function in (earth_mover_distance, earth_mover_distance_gradient, value_and_gradient(earth_mover_distance)):
            with self.assertRaisesRegex(ValueError, "as many points on either side, got 7 and 6"):
                function(X, Y[:, :6])
        self.assertEqual(float(earth_mover_distance(X[:, :0], Y[:, :0])), 0.0)

    def test_mapped_over_one_set(self) -> None:
        expected = [[float(earth_mover_distance(x, y)) for x in X] for y in Y]
        with double_precision("jax"):
            mapped = jax.vmap(lambda y: jax.vmap(lambda x: earth_mover_distance(x, y))(convert(X, "jax")))
            np.testing.assert_allclose(mapped(convert(Y, "jax")), expected, rtol=1e-13)
        over = torch.func.vmap(lambda y: torch.func.vmap(lambda x: earth_mover_distance(x, y))(convert(X, "torch")))
        np.testing.assert_allclose(to_numpy(over(convert(Y, "torch"))), expected, rtol=1e-13)
