"""What no law says about optimal transport: every permutation, closed forms, limits, and what converged."""

from __future__ import annotations

import itertools
import unittest
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
import torch
from cases import convert, double_precision, to_numpy
from modes import EAGER, MODES, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    SinkhornWarning,
    earth_mover_distance,
    earth_mover_distance_gradient,
    energy_distance,
    limits,
    sinkhorn_convergence,
    sinkhorn_divergence,
    sinkhorn_divergence_gradient,
    sliced_wasserstein_distance,
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
            with self.assertRaisesRegex(ValueError, "as many points on either side, got 7 and 6; sinkhorn_divergence"):
                function(X, Y[:, :6])
        self.assertEqual(float(earth_mover_distance(X[:, :0], Y[:, :0])), 0.0)

    def test_mapped_over_one_set(self) -> None:
        expected = [[float(earth_mover_distance(x, y)) for x in X] for y in Y]
        with double_precision("jax"):
            mapped = jax.vmap(lambda y: jax.vmap(lambda x: earth_mover_distance(x, y))(convert(X, "jax")))
            np.testing.assert_allclose(mapped(convert(Y, "jax")), expected, rtol=1e-13)
        over = torch.func.vmap(lambda y: torch.func.vmap(lambda x: earth_mover_distance(x, y))(convert(X, "torch")))
        np.testing.assert_allclose(to_numpy(over(convert(Y, "torch"))), expected, rtol=1e-13)


def entropic(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, p: float) -> float:
    """Σ P C + ε KL(P ‖ a ⊗ b) of the best plan, by scaling its rows and columns without a logarithm."""
    costs = np.linalg.norm(x[:, None] - y[None], axis=-1) ** p
    kernel = np.exp(-costs / epsilon) * a[:, None] * b[None]
    u, v = np.ones(len(a)), np.ones(len(b))
    for _ in range(5000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    plan = u[:, None] * kernel * v[None]
    return float(np.sum(plan * costs) + epsilon * np.sum(plan * np.log(plan / (a[:, None] * b[None]))))


def expected_divergence(x: Any, y: Any, epsilon: float, p: float, a: Any = None, b: Any = None) -> float:
    a = np.full(len(x), 1 / len(x)) if a is None else a / a.sum()
    b = np.full(len(y), 1 / len(y)) if b is None else b / b.sum()
    across = entropic(x, y, a, b, epsilon, p)
    return across - 0.5 * entropic(x, x, a, a, epsilon, p) - 0.5 * entropic(y, y, b, b, epsilon, p)


EXACTLY = {"mass_tolerance": 1e-11, "max_iterations": 20_000}


class Sinkhorn(unittest.TestCase):
    @parameterized.expand([*itertools.product(("numpy", "torch"), (1.0, 1.5, 2.0)), ("jax", 1.5)])
    def test_best_plans_without_logarithms(self, library: str, p: float) -> None:
        epsilon = 0.7 * 3.0 ** (p - 1.0)  # a few hundred iterations suffice for the reference, too
        value, _ = evaluate_pair(
            library, sinkhorn_divergence, X, Y[:, :5], epsilon=epsilon, p=p, reduction="none", **EXACTLY
        )
        expected = [expected_divergence(x, y, epsilon, p) for x, y in zip(X, Y[:, :5], strict=True)]
        np.testing.assert_allclose(value, expected, rtol=1e-11)

    def test_it_approaches_exact_transport(self) -> None:
        exact = earth_mover_distance(X, Y, reduction="none")
        errors = []
        for epsilon in (0.4, 0.1, 0.025):
            value = sinkhorn_divergence(
                X, Y, epsilon=epsilon, mass_tolerance=1e-2, max_iterations=20_000, reduction="none"
            )
            errors.append(np.abs(value - exact))
        self.assertTrue(np.all(errors[0] > 2.0 * errors[1]) and np.all(errors[1] > 2.0 * errors[2]))
        self.assertLess(np.max(errors[2] / exact), 0.01)

    @parameterized.expand([(1.0,), (1.5,)])
    def test_it_approaches_half_the_energy_distance(self, p: float) -> None:
        value = sinkhorn_divergence(X, Y, epsilon=1e6, p=p)
        np.testing.assert_allclose(value, 0.5 * energy_distance(X, Y, beta=p), rtol=1e-5)

    @parameterized.expand([*itertools.product(("numpy", "torch"), ("float64", "float32")), ("jax", "float32")])
    def test_shifted_set_with_squared_costs(self, library: str, dtype: str) -> None:
        shift = np.array([0.5, -1.0, 2.0])
        options = {"p": 2.0, "epsilon": 4.0, "reduction": "none"}
        value, gradient = evaluate_pair(library, sinkhorn_divergence, X, X + shift, dtype=dtype, **options)
        np.testing.assert_allclose(value, shift @ shift, rtol=1e-9 if dtype == "float64" else 1e-5)
        # what moves all points alike moves the mean; everything else is at its minimum
        expected = np.broadcast_to(-2.0 * shift / 7, X.shape)
        np.testing.assert_allclose(gradient, expected, atol=1e-5 if dtype == "float64" else 1e-3)

    @parameterized.expand([("numpy", 1.0), ("numpy", 2.0), *((mode, 1.0) for mode in MODES if mode != "numpy")])
    def test_equal_sets(self, mode: str, p: float) -> None:
        value, gradient = evaluate_pair(mode, sinkhorn_divergence, X, X.copy(), p=p, epsilon=2.0)
        self.assertEqual(float(value), 0.0)
        self.assertFalse(np.any(gradient))
        value, gradient = evaluate_pair(mode, sinkhorn_divergence, X, X[:, ::-1].copy(), p=p, epsilon=2.0)
        self.assertLess(abs(float(value)), 1e-10)
        self.assertLess(np.abs(gradient).max(), 1e-5)

    @parameterized.expand([("numpy", 1.0), ("numpy", 2.0), ("torch", 1.0), ("jax", 1.0)])
    def test_derivative_of_what_converged(self, library: str, p: float) -> None:
        options = {"epsilon": 0.1, "p": p, "mass_tolerance": 1e-10, "max_iterations": 50_000, "reduction": "sum"}
        x, y = 0.3 * X[:1], 0.3 * Y[:1, :4]
        gradients = evaluate(library, sinkhorn_divergence_gradient, x, y, wrt=BOTH, **options)
        generator, step = np.random.default_rng(3), 1e-5
        for name, points in zip(BOTH, (x, y), strict=True):
            direction = generator.standard_normal(points.shape)
            sides = []
            for sign in (1.0, -1.0):
                moved = dict(zip(BOTH, (x, y), strict=True)) | {name: points + sign * step * direction}
                sides.append(float(sinkhorn_divergence(**moved, **options)))
            found = np.sum(gradients[name] * direction)
            np.testing.assert_allclose(found, (sides[0] - sides[1]) / (2 * step), rtol=1e-6)

    @parameterized.expand([(1.0,), (1.5,), (2.0,)])
    def test_envelope_theorem(self, p: float) -> None:
        """Autograd through every iteration gives the same gradient as with the converged potentials held fixed."""
        epsilon = 1.0 if p < 2.0 else 3.0

        def dual(x: torch.Tensor, y: torch.Tensor, through: bool) -> torch.Tensor:
            apart = x[:, None] - y[None]
            costs = torch.sum(apart * apart + 1e-300, -1) ** (0.5 * p)
            f, g = torch.zeros(len(x), dtype=x.dtype), torch.zeros(len(y), dtype=x.dtype)
            for _ in range(300):
                scores = (costs if through else costs.detach()) / -epsilon
                f = -epsilon * torch.logsumexp(scores + g / epsilon - np.log(len(y)), 1)
                g = -epsilon * torch.logsumexp(scores + f[:, None] / epsilon - np.log(len(x)), 0)
            mass = torch.mean(torch.exp((f[:, None] + g[None] - costs) / epsilon))
            return f.mean() + g.mean() - epsilon * (mass - 1.0)

        x, y = (torch.tensor(points) for points in (X[0], Y[0, :5]))
        x.requires_grad_(True)
        for through in (True, False):
            value = dual(x, y, through) - 0.5 * dual(x, x, through) - 0.5 * dual(y, y, through)
            (expected,) = torch.autograd.grad(value, x)
            found = value_and_gradient(sinkhorn_divergence)(X[0], Y[0, :5], epsilon=epsilon, p=p, **EXACTLY)
            np.testing.assert_allclose(found[0], value.item(), rtol=1e-11)
            np.testing.assert_allclose(found[1], expected, rtol=1e-8, atol=1e-11)

    @parameterized.expand([("numpy", 1.0), ("numpy", 1.5), ("numpy", 2.0), ("torch", 1.0), ("jax", 1.0)])
    def test_coincident_points_move_as_one(self, library: str, p: float) -> None:
        x = X.copy()
        x[:, 3] = x[:, 5] = Y[:, 0]  # in one set, and with a point of the other
        value, gradient = evaluate_pair(library, sinkhorn_divergence, x, Y, p=p, epsilon=1.0)
        self.assertTrue(np.isfinite(value) and np.all(np.isfinite(gradient)))
        np.testing.assert_allclose(gradient[:, 3], gradient[:, 5], rtol=1e-12)
        one_place = np.broadcast_to(X[:, :1], X.shape).copy()
        value, gradient = evaluate_pair(library, sinkhorn_divergence, one_place, one_place[:, :4].copy(), p=p)
        self.assertTrue(0.0 <= float(value) < 1e-15)
        self.assertFalse(np.any(gradient))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_masses(self, mode: str) -> None:
        a = np.array([2.0, 0.0, 1.0, 1.0, 3.0, 0.0, 1.0])
        x = np.where(a[:, None] > 0, X, np.nan)  # a point without a mass may hold anything
        options = {"epsilon": 0.7, **EXACTLY, "reduction": "none"}
        weights = np.broadcast_to(a, X.shape[:2]).copy()
        weights[2] = 0.0
        value, gradient = evaluate_pair(mode, sinkhorn_divergence, x, Y, pred_weights=weights, **options)
        expected = [expected_divergence(x[k][a > 0], Y[k], 0.7, 1.0, a=a[a > 0]) for k in range(2)]
        np.testing.assert_allclose(value, [*expected, 0.0], rtol=1e-10)
        self.assertTrue(np.all(gradient[:2][:, a > 0] != 0.0))
        self.assertFalse(np.any(gradient[:2][:, a == 0]))
        self.assertFalse(np.any(gradient[2]))

    @parameterized.expand([("jax",), ("torch",)])
    def test_derivative_by_masses_through_autodiff(self, library: str) -> None:
        a, step = np.random.default_rng(5).uniform(0.5, 2.0, (1, 7)), 1e-6
        options = {"epsilon": 0.7, **EXACTLY}
        moved = np.zeros_like(a)
        moved[0, 2] = step
        sides = [float(sinkhorn_divergence(X[:1], Y[:1], pred_weights=a + s * moved, **options)) for s in (1, -1)]
        with double_precision(library):
            x, y, weights = (convert(array, library) for array in (X[:1], Y[:1], a))
            if library == "jax":
                found = jax.grad(lambda w: sinkhorn_divergence(x, y, pred_weights=w, **options))(weights)
            else:
                weights.requires_grad_(True)
                (found,) = torch.autograd.grad(sinkhorn_divergence(x, y, pred_weights=weights, **options), weights)
        np.testing.assert_allclose(to_numpy(found)[0, 2], (sides[0] - sides[1]) / (2 * step), rtol=1e-6)

    @pytest.mark.exhaustive  # compiles for long
    @pytest.mark.optimized_xla  # without its optimisations, what XLA makes of this derivative is NaN
    def test_second_derivatives_are_right_or_refused(self) -> None:
        options = {"epsilon": 0.7, **EXACTLY}
        x, y = X[:1, :3], Y[:1, :3]
        with double_precision("jax"):
            arrays = convert(x, "jax"), convert(y, "jax")
            direction = np.random.default_rng(6).standard_normal(x.shape)
            slope = jax.grad(lambda x: sinkhorn_divergence(x, arrays[1], **options))
            _, found = jax.jvp(slope, arrays[:1], (convert(direction, "jax"),))
            with self.assertRaisesRegex(ValueError, "Reverse-mode"):
                jax.grad(lambda x: jax.numpy.sum(slope(x) ** 2))(arrays[0])
        step = 1e-5
        sides = [sinkhorn_divergence_gradient(x + s * step * direction, y, **options) for s in (1, -1)]
        np.testing.assert_allclose(found, (sides[0] - sides[1]) / (2 * step), rtol=1e-5, atol=1e-8)
        points = convert(x, "torch").requires_grad_(True)
        value = sinkhorn_divergence(points, convert(y, "torch"), **options)
        (slopes,) = torch.autograd.grad(value, points, create_graph=True)
        with self.assertRaisesRegex(RuntimeError, "no second derivative"):
            torch.autograd.grad(slopes.sum(), points)

    @parameterized.expand([(library,) for library in EAGER])
    def test_what_did_not_converge_is_said(self, library: str) -> None:
        with double_precision(library):
            x, y = convert(X, library), convert(Y, library)
            for function in (
                sinkhorn_divergence,
                sinkhorn_divergence_gradient,
                value_and_gradient(sinkhorn_divergence),
            ):
                with self.assertWarnsRegex(SinkhornWarning, "stopped after 3 with masses off") as caught:
                    function(x, y, max_iterations=3)
                self.assertEqual(caught.filename, __file__)
            report = sinkhorn_convergence(x, y, max_iterations=3)
        self.assertFalse(np.any(to_numpy(report.converged)))
        np.testing.assert_array_equal(to_numpy(report.iterations), 3)
        report = sinkhorn_convergence(X, Y, epsilon=1.0)
        self.assertTrue(np.all(report.converged) and np.all(report.error <= 1e-6) and np.all(report.iterations < 100))

    def test_what_did_not_converge_can_be_asked_in_a_trace(self) -> None:
        x, y = jax.numpy.asarray(X), jax.numpy.asarray(Y)
        report = jax.jit(lambda x, y: sinkhorn_convergence(x, y, max_iterations=3))(x, y)
        self.assertFalse(np.any(report.converged))
        self.assertGreater(float(report.error.min()), float(report.limit.max()))
        jax.jit(lambda x, y: sinkhorn_divergence(x, y, max_iterations=3))(x, y)  # no warning: nobody can look

    @parameterized.expand(
        [("numpy", 3, 8), ("numpy", 6, 40), ("torch", 3, 40), ("jax", 3, 8), ("array_api_strict", 3, 40)]
    )
    @pytest.mark.exhaustive_for(named="jax")  # eager JAX iterates for seconds; test_points.py has its tiles
    def test_tiles_of_any_size_agree(self, library: str, d: int, tile: int) -> None:
        generator = np.random.default_rng(7)
        x, y = generator.standard_normal((2, 11, d)), generator.standard_normal((2, 9, d))
        options = {"epsilon": 0.5, "mass_tolerance": 1e-9, "p": 1.5, "wrt": BOTH}
        expected = value_and_gradient(sinkhorn_divergence)(x, y, **options)
        if library == "jax":
            jax.clear_caches()
        with limits.changed(tile=tile, wide_tile=tile), double_precision(library):
            both = value_and_gradient(sinkhorn_divergence)
            value, gradients = both(convert(x, library), convert(y, library), **options)
        np.testing.assert_allclose(to_numpy(value), expected[0], rtol=1e-12)
        for name in BOTH:
            np.testing.assert_allclose(to_numpy(gradients[name]), expected[1][name], rtol=1e-10, atol=1e-13)
        if library == "jax":
            jax.clear_caches()

    @parameterized.expand([(library,) for library in EAGER])
    def test_points_that_are_not_finite_and_empty_sets(self, library: str) -> None:
        x = X.copy()
        x[1, 2, 0] = np.nan
        value, _ = evaluate_pair(library, sinkhorn_divergence, x, Y, epsilon=1.0, reduction="none")
        np.testing.assert_allclose(
            value[[0, 2]], sinkhorn_divergence(X, Y, epsilon=1.0, reduction="none")[[0, 2]], 1e-12
        )
        self.assertTrue(np.isnan(value[1]))
        report = sinkhorn_convergence(x, Y, epsilon=1.0)
        np.testing.assert_array_equal(report.converged, [True, False, True])
        for n, m in ((0, 3), (3, 0), (0, 0)):
            value, gradient = evaluate_pair(library, sinkhorn_divergence, X[:, :n], Y[:, :m])
            self.assertEqual(float(value), 0.0)
            self.assertFalse(np.any(gradient))
        massless = {"pred_weights": np.asarray(~np.isnan(x[..., 0]), float)}
        value, gradient = evaluate_pair(library, sinkhorn_divergence, x, Y[:, :0], **massless)
        self.assertEqual(float(value), 0.0)
        self.assertFalse(np.any(gradient))

    @parameterized.expand([("numpy",), ("torch",)])
    def test_never_negative(self, library: str) -> None:
        for scale in (1e-3, 1e-5, 1e-7):
            moved = X + scale * np.random.default_rng(8).standard_normal(X.shape)
            for p in (1.0, 2.0):
                value = evaluate(
                    library, sinkhorn_divergence, X, moved, dtype="float32", p=p, epsilon=1.0, reduction="none"
                )
                self.assertTrue(np.all(value >= 0.0))


class SlicedWasserstein(unittest.TestCase):
    @parameterized.expand(list(itertools.product(EAGER, ((7, 7), (7, 5), (3, 8)))))
    def test_one_dimension(self, library: str, sizes: Any) -> None:
        x, y = X[:, : sizes[0], :1], np.concatenate([Y, Y + 1.0], axis=1)[:, : sizes[1], :1]
        value, _ = evaluate_pair(library, sliced_wasserstein_distance, x, y, p=1.0, reduction="none")
        expected = [scipy.stats.wasserstein_distance(a[:, 0], b[:, 0]) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(value, expected, rtol=1e-13)

    @parameterized.expand(list(itertools.product(EAGER, (1.0, 2.0, 3.0))))
    def test_explicit_loop_over_directions(self, library: str, p: float) -> None:
        directions = np.random.default_rng(9).standard_normal((5, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        expected = []
        for x, y in zip(X, Y, strict=True):
            powers = [
                abs(a - b) ** p
                for theta in directions
                for a, b in zip(sorted((x @ theta).tolist()), sorted((y @ theta).tolist()), strict=True)
            ]
            expected.append((sum(powers) / len(powers)) ** (1 / p))
        options = {"p": p, "projections": directions, "reduction": "none"}
        value, _ = evaluate_pair(library, sliced_wasserstein_distance, X, Y, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-13)

    @parameterized.expand([(library,) for library in EAGER])
    def test_shift(self, library: str) -> None:
        shift, directions = np.array([1.0, 2.0, -0.5]), np.random.default_rng(10).standard_normal((4, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        along = directions @ shift
        options = {"projections": directions, "reduction": "sum"}
        value, gradient = evaluate_pair(library, sliced_wasserstein_distance, X[0], X[0] - shift, **options)
        np.testing.assert_allclose(value, np.sqrt(np.mean(along**2)), rtol=1e-13)
        expected = along @ directions / 4 / 7 / value
        np.testing.assert_allclose(gradient, np.broadcast_to(expected, (7, 3)), rtol=1e-12)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_equal_sets_and_empty_ones(self, mode: str) -> None:
        value, gradient = evaluate_pair(mode, sliced_wasserstein_distance, X, X[:, ::-1].copy())
        self.assertEqual(float(value), 0.0)
        self.assertFalse(np.any(gradient))
        value, gradient = evaluate_pair(mode, sliced_wasserstein_distance, X, Y[:, :0])
        self.assertEqual(float(value), 0.0)
        self.assertFalse(np.any(gradient))

    def test_directions_come_from_the_seed(self) -> None:
        values = [float(sliced_wasserstein_distance(X, Y, projection_seed=seed)) for seed in (0, 0, 1)]
        self.assertEqual(values[0], values[1])
        self.assertNotEqual(values[0], values[2])
        for library in ("jax", "torch"):
            np.testing.assert_allclose(evaluate(library, sliced_wasserstein_distance, X, Y), values[0], rtol=1e-13)
        # E (θ·t)² = ‖t‖² / d over all directions
        many = float(sliced_wasserstein_distance(X[0], X[0] + 1.0, projection_count=20_000))
        self.assertAlmostEqual(many, 1.0, 2)

    @parameterized.expand([(library,) for library in ("jax", "torch")])
    def test_directions_may_be_traced(self, library: str) -> None:
        directions = np.random.default_rng(11).standard_normal((4, 3))
        expected = sliced_wasserstein_distance(X, Y, projections=directions)
        mode = {"jax": "jax.jit", "torch": "torch.compile"}[library]
        found = evaluate(mode, lambda x, y, d: sliced_wasserstein_distance(x, y, projections=d), X, Y, directions)
        np.testing.assert_allclose(found, expected, rtol=1e-13)

    def test_what_does_not_fit(self) -> None:
        for projections in (np.ones((4, 2)), np.ones(3), np.ones((0, 3))):
            with self.assertRaisesRegex(ValueError, r"unit vectors of shape \(count, 3\)"):
                sliced_wasserstein_distance(X, Y, projections=projections)
        with self.assertRaisesRegex(TypeError, "one library"):
            sliced_wasserstein_distance(X, Y, projections=torch.ones(4, 3))


class TestIterations(unittest.TestCase):
    @parameterized.expand([("a twentieth", 20.0, True), ("a fiftieth", 50.0, False)])
    def test_default_of_iterations_lasts_down_to_about_a_twentieth_of_the_largest_cost(
        self, name: str, parts: float, converges: bool
    ) -> None:
        x, y = np.random.default_rng(0).random((2, 8, 2))
        largest = float(np.linalg.norm(x[:, None] - y, axis=-1).max())
        found = sinkhorn_convergence(x, y, epsilon=largest / parts)
        self.assertEqual(bool(found.converged), converges)
