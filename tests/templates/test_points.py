"""Losses between sets: against explicit loops, closed forms and other libraries; exact zeros, ties, masks, memory."""

from __future__ import annotations

import itertools
import math
import tracemalloc
import unittest
from functools import partial
from typing import Any
from unittest import mock

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from cases import convert, to_numpy
from parameterized import parameterized

from mithril_losses import (
    chamfer_distance,
    chamfer_distance_gradient,
    check_gradient,
    energy_distance,
    energy_distance_gradient,
    hausdorff_distance,
    limits,
    maximum_mean_discrepancy,
    maximum_mean_discrepancy_gradient,
    sinkhorn_divergence,
    sliced_wasserstein_distance,
    value_and_gradient,
)
from mithril_losses.execution import host
from mithril_losses.templates.points import compiled_scan, nearest

LIBRARIES = ("numpy", "jax", "torch", "array_api_strict")
# the laws draw small sets of few coordinates: these cross every boundary between two ways of computing
SHAPES = [(1, 1, 3), (1, 7, 1), (40, 30, 2), (33, 57, 20)]


def points(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def squares(x: Any, y: Any) -> float:
    return math.fsum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))


def mean_over_pairs(function: Any, x: Any, y: Any, without_diagonal: bool = False) -> float:
    values = [
        function(a, b)
        for (i, a), (j, b) in itertools.product(enumerate(x), enumerate(y))
        if not without_diagonal or i != j
    ]
    return math.fsum(values) / len(values)


def expected_mmd(x: Any, y: Any, kernel: Any, unbiased: bool) -> float:
    own = mean_over_pairs(kernel, x, x, unbiased) + mean_over_pairs(kernel, y, y, unbiased)
    return own - 2.0 * mean_over_pairs(kernel, x, y)


def expected_energy(x: Any, y: Any, beta: float) -> float:
    def power(a: Any, b: Any) -> float:
        return squares(a, b) ** (beta / 2)

    return 2.0 * mean_over_pairs(power, x, y) - mean_over_pairs(power, x, x) - mean_over_pairs(power, y, y)


def expected_chamfer(x: Any, y: Any, root: bool = False) -> float:
    def one_way(x: Any, y: Any) -> float:
        nearest = [min(squares(a, b) for b in y) for a in x]
        return math.fsum(math.sqrt(d) if root else d for d in nearest) / len(nearest)

    return one_way(x, y) + one_way(y, x)


KERNELS = {
    "rbf": ({"kernel_bandwidth": 1.7}, lambda a, b: math.exp(-squares(a, b) / (2 * 1.7**2))),
    "linear": ({}, lambda a, b: float(a @ b)),
    "polynomial": ({"degree": 3, "coef0": 0.5}, lambda a, b: (float(a @ b) + 0.5) ** 3),
}


class Values(unittest.TestCase):
    """Values by explicit loops over pairs."""

    @parameterized.expand(
        [(k, u, s) for k in KERNELS for u in (False, True) for s in SHAPES if not u or min(s[:2]) > 1]
    )
    def test_discrepancy(self, kernel_type: str, unbiased: bool, shape: tuple[int, int, int]) -> None:
        n, m, d = shape
        x, y = points(2, n, d), points(2, m, d, seed=1) + 0.3
        options, kernel = KERNELS[kernel_type]
        found = maximum_mean_discrepancy(
            x,
            y,
            kernel_type=kernel_type,
            unbiased=unbiased,
            reduction="none",
            **options,  # type: ignore[arg-type]
        )
        expected = [expected_mmd(a, b, kernel, unbiased) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)

    @parameterized.expand([(b, s) for b in (0.5, 1.0, 1.5, 2.0) for s in SHAPES])
    def test_energy(self, beta: float, shape: tuple[int, int, int]) -> None:
        n, m, d = shape
        x, y = points(2, n, d), points(2, m, d, seed=1) + 0.3
        found = energy_distance(x, y, beta=beta, reduction="none")
        np.testing.assert_allclose(found, [expected_energy(a, b, beta) for a, b in zip(x, y, strict=True)], rtol=1e-10)

    @parameterized.expand([(root, s) for root in (False, True) for s in SHAPES])
    def test_chamfer(self, root: bool, shape: tuple[int, int, int]) -> None:
        n, m, d = shape
        x, y = points(2, n, d), points(2, m, d, seed=1)
        found = chamfer_distance(x, y, squared=not root, reduction="none")
        np.testing.assert_allclose(found, [expected_chamfer(a, b, root) for a, b in zip(x, y, strict=True)], rtol=1e-12)

    def test_linear_kernel_compares_means_and_energy_two_does_so_twice(self) -> None:
        x, y = points(1, 9, 4), points(1, 5, 4, seed=1)
        means = float(np.sum((x.mean(axis=1) - y.mean(axis=1)) ** 2))
        self.assertAlmostEqual(float(maximum_mean_discrepancy(x, y, kernel_type="linear")), means, 14)
        self.assertAlmostEqual(float(energy_distance(x, y, beta=2.0)), 2.0 * means, 13)
        polynomial = maximum_mean_discrepancy(x, y, kernel_type="polynomial", degree=1, coef0=3.0)
        self.assertAlmostEqual(float(polynomial), means, 13)

    def test_energy_is_the_square_of_scipys_in_one_dimension(self) -> None:
        # scipy: √(2 E|x − y| − E|x − x′| − E|y − y′|)
        x, y = points(50), points(31, seed=1) ** 2
        found = float(energy_distance(x[:, None], y[:, None]))
        self.assertAlmostEqual(found, scipy.stats.energy_distance(x, y) ** 2, 13)

    def test_means_of_far_off_samples_keep_their_digits(self) -> None:
        offset = np.float32(4096.0)
        x, y = points(1, 60, 12).astype(np.float32), points(1, 50, 12, seed=1).astype(np.float32)
        x, y = np.round(x * 1024) / 1024, np.round(y * 1024) / 1024  # so that the offset is added exactly
        for loss, options in (
            (maximum_mean_discrepancy, {"kernel_type": "linear"}),
            (maximum_mean_discrepancy, {"kernel_bandwidth": 3.0}),
            (energy_distance, {}),
            (chamfer_distance, {}),
        ):
            near, gradient = value_and_gradient(loss)(x, y, **options)
            far, far_gradient = value_and_gradient(loss)(x + offset, y + offset, **options)
            np.testing.assert_allclose(far, near, rtol=2e-5)
            np.testing.assert_allclose(far_gradient, gradient, rtol=1e-3, atol=2e-5 * np.abs(gradient).max())


class Gradients(unittest.TestCase):
    """Gradients where the laws do not look: many coordinates, several tiles, masks and weights."""

    @parameterized.expand(list(itertools.product(LIBRARIES, (1 << 6, 1 << 9, 1 << 20))))
    def test_tiles_of_any_size_agree(self, library: str, tile: int) -> None:
        x, y = points(3, 23, 6), points(3, 17, 6, seed=1)
        cases: list[tuple[Any, dict[str, Any]]] = [
            (maximum_mean_discrepancy, {}),
            (maximum_mean_discrepancy, {"kernel_type": "polynomial", "unbiased": True}),
            (energy_distance, {"beta": 1.5}),
            (chamfer_distance, {"squared": False}),
        ]
        with limits.changed(tile=tile, wide_tile=tile), jax.enable_x64(True):
            compiled_scan.cache_clear()
            for loss, options in cases:
                names = tuple(loss.__annotations__)[:2]
                both = value_and_gradient(loss)
                value, gradients = both(convert(x, library), convert(y, library), wrt=names, **options)
                expected = _check_by_differences(loss, x, y, names, options)
                np.testing.assert_allclose(to_numpy(value), float(loss(x, y, **options)), rtol=1e-12)
                for name in names:
                    np.testing.assert_allclose(to_numpy(gradients[name]), expected[name], rtol=1e-11, atol=1e-15)
            compiled_scan.cache_clear()

    @parameterized.expand(
        itertools.product((maximum_mean_discrepancy, energy_distance), ("float32", "float64"), (3, 12))
    )
    def test_compiled_kernels_agree_with_plain_ones(self, loss: Any, dtype: str, d: int) -> None:
        x, y = points(1, 300, d).astype(dtype), points(1, 280, d, seed=1).astype(dtype)
        found = {}
        for compiled in (True, False):
            with limits.changed(compiled=compiled):
                found[compiled] = value_and_gradient(loss)(x, y)
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(found[True][0], found[False][0], rtol=tolerance)
        scale = np.abs(found[False][1]).max()
        np.testing.assert_allclose(found[True][1], found[False][1], atol=tolerance * scale, rtol=0)
        with jax.enable_x64(True):
            value, gradient = value_and_gradient(loss)(jnp.array(x), jnp.array(y))
        np.testing.assert_allclose(value, found[True][0], rtol=10 * tolerance)
        np.testing.assert_allclose(gradient, found[True][1], atol=10 * tolerance * scale, rtol=0)

    @parameterized.expand(["numpy", "jax", "torch", "array_api_strict"])
    def test_close_pairs_are_as_exact_as_others(self, library: str) -> None:
        # two tight clusters: ‖x‖² + ‖y‖² − 2 x·y keeps no digit of the distances inside of them
        x = points(1, 30, 16) * 1e-4
        y = points(1, 30, 16, seed=1) * 1e-4
        x[:, ::2] += 1.0
        y[:, ::3] += 1.0
        x32, y32 = x.astype(np.float32), y.astype(np.float32)
        found = energy_distance(convert(x32, library, "float32"), convert(y32, library, "float32"), beta=0.5)
        expected = expected_energy(x32[0], y32[0], 0.5)
        np.testing.assert_allclose(to_numpy(found), expected, rtol=3e-5)

    @parameterized.expand(itertools.product(LIBRARIES, (True, False)))
    def test_masks_and_weights(self, library: str, squared: bool) -> None:
        x, y = points(3, 6, 3), points(3, 5, 3, seed=1)
        x_mask = np.array([[True] * 6, [True, False, True, True, False, False], [True] * 5 + [False]])
        y_mask = np.array([[True, True, False, True, False], [True] * 5, [False, False, True, False, False]])
        weights = np.random.default_rng(2).uniform(0.5, 2.0, (3, 6))
        expected, gradient = [], np.zeros_like(x)
        for b in range(3):
            kept, others, w = x[b][x_mask[b]], y[b][y_mask[b]], weights[b][x_mask[b]]
            forward = [min(squares(p, q) for q in others) for p in kept]
            backward = [min(squares(p, q) for p in kept) for q in others]
            if not squared:
                forward, backward = list(map(math.sqrt, forward)), list(map(math.sqrt, backward))
            mean = math.fsum(a * d for a, d in zip(w, forward, strict=True)) / math.fsum(w)
            expected.append(mean + math.fsum(backward) / len(backward))
            gradient[b][x_mask[b]] = chamfer_distance_gradient(kept, others, squared=squared, pred_weights=w)
        # padding may hold anything
        padded_x = np.where(x_mask[..., None], x, np.nan)
        padded_y = np.where(y_mask[..., None], y, np.nan)
        with jax.enable_x64(True):
            options = {
                name: convert(option, library)
                for name, option in {"pred_mask": x_mask, "target_mask": y_mask, "pred_weights": weights}.items()
            }
            value, found = value_and_gradient(chamfer_distance)(
                convert(padded_x, library), convert(padded_y, library), squared=squared, reduction="none", **options
            )
        np.testing.assert_allclose(to_numpy(value), expected, rtol=1e-12)
        np.testing.assert_allclose(to_numpy(found), gradient, rtol=1e-12, atol=1e-15)
        check_gradient(
            chamfer_distance, x, y, squared=squared, pred_mask=x_mask, target_mask=y_mask, pred_weights=weights
        )

    def test_a_point_of_weight_zero_is_still_found(self) -> None:
        x, y = np.array([[0.0], [5.0]]), np.array([[1.0]])
        self.assertEqual(float(chamfer_distance(x, y, pred_weights=np.array([0.0, 1.0]))), 16.0 + 1.0)

    @parameterized.expand(LIBRARIES)
    @pytest.mark.exhaustive_for(named="jax")  # `test_tiles_of_any_size_agree` has what JAX does of its own
    def test_an_empty_set_counts_nothing(self, library: str) -> None:
        x, y = (convert(points(2, n, 3, seed=n), library, "float32") for n in (4, 3))
        mask = convert(np.array([[True, False, True], [False, False, False]]), library)
        values = to_numpy(chamfer_distance(x, y, target_mask=mask, reduction="none"))
        self.assertGreater(values[0], 0.0)
        self.assertEqual(values[1], 0.0)
        gradients = chamfer_distance_gradient(x, y, target_mask=mask, wrt=("pred_points", "target_points"))
        for gradient in gradients.values():
            self.assertTrue(np.any(to_numpy(gradient)[0]))
            self.assertFalse(np.any(to_numpy(gradient)[1]))
        value, gradient = value_and_gradient(chamfer_distance)(x, y[:, :0, :])
        self.assertEqual(float(value), 0.0)
        self.assertEqual(tuple(gradient.shape), (2, 4, 3))
        self.assertFalse(np.any(to_numpy(gradient)))


def _check_by_differences(loss: Any, x: Any, y: Any, names: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Return the gradient of untiled NumPy arrays, once it has passed central differences."""
    with limits.changed(tile=1 << 20):
        gradients: dict[str, Any] = value_and_gradient(loss)(x, y, wrt=names, **options)[1]
    generator, step = np.random.default_rng(5), 1e-6
    for name in names:
        direction = generator.standard_normal(gradients[name].shape)
        sides = []
        for sign in (1.0, -1.0):
            moved = dict(zip(names, (x, y), strict=True))
            moved[name] = moved[name] + sign * step * direction
            sides.append(float(loss(**moved, **options)))
        np.testing.assert_allclose(
            np.sum(gradients[name] * direction), (sides[0] - sides[1]) / (2 * step), rtol=1e-6, atol=1e-9
        )
    return gradients


class Exactness(unittest.TestCase):
    """Exact zeros, first indices at ties, and no NaN where points coincide."""

    @parameterized.expand([(lib, *case) for lib in LIBRARIES for case in (("float32", 20), ("float64", 3))])
    @pytest.mark.exhaustive_for(named="jax")  # `test_tiles_of_any_size_agree` has what JAX does of its own
    def test_equal_sets(self, library: str, dtype: str, d: int) -> None:
        x = points(2, 40, d)
        x[:, 5] = x[:, 9]
        cases: list[tuple[Any, dict[str, Any]]] = [
            (maximum_mean_discrepancy, {}),
            (maximum_mean_discrepancy, {"kernel_type": "linear"}),
            (maximum_mean_discrepancy, {"kernel_type": "polynomial"}),
            (energy_distance, {}),
            (energy_distance, {"beta": 0.5}),
            (chamfer_distance, {}),
            (chamfer_distance, {"squared": False}),
        ]
        with jax.enable_x64(True):
            for loss, options in cases:
                with self.subTest(f"{loss.__name__} {options}"):
                    first, second = convert(x, library, dtype), convert(x, library, dtype)
                    value, gradient = value_and_gradient(loss)(first, second, **options)
                    self.assertEqual(float(value), 0.0)
                    self.assertEqual(float(loss(first, second, **options)), 0.0)
                    size = 1e-6 if dtype == "float32" else 1e-14
                    self.assertLess(np.abs(to_numpy(gradient)).max(), size * (1e3 if "kernel_type" in options else 1.0))

    @parameterized.expand(itertools.product(LIBRARIES, (3, 20)))
    def test_rounding_never_makes_them_negative(self, library: str, d: int) -> None:
        generator = np.random.default_rng(0)
        for _ in range(10):
            x = generator.standard_normal((4, 30, d))
            y = generator.permuted(x, axis=1) if d == 1 else x[:, generator.permutation(30)]
            arguments = convert(x, library, "float32"), convert(y, library, "float32")
            for loss in (maximum_mean_discrepancy, energy_distance):
                values = to_numpy(loss(*arguments, reduction="none"))
                self.assertTrue(np.all(values >= 0.0))
                self.assertTrue(np.all(values < 1e-5))

    @parameterized.expand(itertools.product(LIBRARIES, (0.5, 1.0, 1.5)))
    def test_coincident_points_do_not_push_each_other(self, library: str, beta: float) -> None:
        x, y = np.zeros((1, 2, 6)), np.zeros((1, 1, 6))
        x[0, 1, 0] = 1.0
        gradient = to_numpy(
            energy_distance_gradient(convert(x, library, "float32"), convert(y, library, "float32"), beta=beta)
        )
        # point 0 feels y not at all, and point 1 at distance 1 by 2/4 β; likewise point 1, which also feels y by 2/2 β
        np.testing.assert_allclose(gradient[0, :, 0], [beta / 2, beta / 2], rtol=1e-6)
        self.assertFalse(np.any(gradient[0, :, 1:]))

    @parameterized.expand(LIBRARIES)
    @pytest.mark.exhaustive_for(named="jax")  # `test_tiles_of_any_size_agree` has what JAX does of its own
    def test_first_of_several_nearest_points(self, library: str) -> None:
        # both y are at distance 1 from x, both x at distance 1 from y
        x = convert(np.array([[[0.0]]]), library, "float32")
        y = convert(np.array([[[1.0], [-1.0]]]), library, "float32")
        both = chamfer_distance_gradient(x, y, wrt=("pred_points", "target_points"), reduction="sum")
        # forward: y₀ is found, slopes −2 and 2; backward: each y pulls by half of 2
        np.testing.assert_array_equal(to_numpy(both["pred_points"]), [[[-2.0]]])
        np.testing.assert_array_equal(to_numpy(both["target_points"]), [[[3.0], [-1.0]]])

    @parameterized.expand(
        [("random", 3), ("grid", 1), ("grid", 2), ("grid", 3), ("grid", 8), ("equal", 3), ("masked", 2)]
    )
    def test_tree_finds_what_the_tiles_find(self, kind: str, d: int) -> None:
        generator = np.random.default_rng(d)
        for dtype in (np.float32, np.float64):
            if kind == "random":
                x, y = generator.standard_normal((2, 1, 300, d)).astype(dtype)
            elif kind == "equal":
                x, y = generator.standard_normal((1, 200, d)).astype(dtype), np.ones((1, 400, d), dtype)
            else:
                x = generator.integers(0, 5, (1, 400, d)).astype(dtype)
                y = generator.integers(0, 5, (1, 300, d)).astype(dtype)
            mask = generator.uniform(size=(1, y.shape[1])) < 0.5 if kind == "masked" else None
            by_tree, by_tiles = (self._nearest(x, y, mask, trees) for trees in (True, False))
            np.testing.assert_array_equal(by_tree, by_tiles)
            distances = np.array([[squares(a, b) for b in y[0]] for a in x[0, :50]])
            if mask is not None:
                distances[:, ~mask[0]] = math.inf
            if kind != "random":  # integers: exact in any order, so that the ties are the same
                np.testing.assert_array_equal(by_tree[0, :50], distances.argmin(axis=1))
            np.testing.assert_allclose(
                np.take_along_axis(distances, by_tree[0, :50, None], 1)[:, 0], distances.min(axis=1), rtol=1e-6
            )

    def _nearest(self, x: Any, y: Any, mask: Any, trees: bool) -> Any:
        with limits.changed(tree=0 if trees else 1 << 60):
            return nearest(np, x, y, mask)

    def test_large_sets_go_through_the_tree_and_agree_with_the_other_libraries(self) -> None:
        generator = np.random.default_rng(0)
        x, y = (generator.integers(0, 12, (1, n, 3)).astype(np.float32) for n in (1500, 1200))
        with mock.patch("scipy.spatial.cKDTree", wraps=__import__("scipy.spatial").spatial.cKDTree) as tree:
            expected = value_and_gradient(chamfer_distance)(x, y)
            in_torch = value_and_gradient(chamfer_distance)(torch.tensor(x), torch.tensor(y))
            self.assertEqual(tree.call_count, 4)
            in_jax = value_and_gradient(chamfer_distance)(jnp.array(x), jnp.array(y))
            self.assertEqual(tree.call_count, 4)
        for value, gradient in (in_torch, in_jax):
            np.testing.assert_allclose(to_numpy(value), expected[0], rtol=1e-6)
            np.testing.assert_allclose(to_numpy(gradient), expected[1], rtol=1e-5, atol=1e-9)

    def test_nan_reaches_its_own_element_only(self) -> None:
        x, y = points(2, 1500, 3), points(2, 1400, 3, seed=1)
        clean = chamfer_distance(x, y, reduction="none")
        y[1, 700] = np.nan
        values = chamfer_distance(x, y, reduction="none")
        self.assertEqual(values[0], clean[0])
        self.assertTrue(np.isnan(values[1]))


class Graphs(unittest.TestCase):
    """PyTorch's autograd and JAX's transforms see the values."""

    @parameterized.expand([(maximum_mean_discrepancy,), (energy_distance,), (chamfer_distance,)])
    def test_autograd_gives_the_gradient_that_is_in_no_graph(self, loss: Any) -> None:
        x = torch.tensor(points(2, 30, 8), requires_grad=True)
        y = torch.tensor(points(2, 20, 8, seed=1))
        loss(x, y).backward()
        value, gradient = value_and_gradient(loss)(x, y)
        self.assertFalse(value.requires_grad or gradient.requires_grad)
        np.testing.assert_allclose(to_numpy(gradient), to_numpy(x.grad), rtol=1e-10, atol=1e-15)

    @parameterized.expand([(maximum_mean_discrepancy,), (energy_distance,), (chamfer_distance,)])
    def test_second_derivatives(self, loss: Any) -> None:
        x, y = points(1, 5, 3), points(1, 4, 3, seed=1)

        def gradient(x: Any, library: str = "numpy") -> Any:
            return value_and_gradient(loss)(x, convert(y, library))[1]

        expected = np.zeros((*x.shape, *x.shape))
        for index in np.ndindex(*x.shape):
            step = np.zeros(x.shape)
            step[index] = 1e-6
            expected[(..., *index)] = (gradient(x + step) - gradient(x - step)) / 2e-6
        by_torch = torch.func.jacrev(lambda x: gradient(x, "torch"))(torch.tensor(x))
        np.testing.assert_allclose(by_torch, expected, atol=1e-8)
        per_sample = torch.func.vmap(torch.func.grad(loss))(torch.tensor(x), torch.tensor(y))
        np.testing.assert_allclose(per_sample, gradient(x), atol=1e-12)
        with jax.enable_x64(True):
            by_jax = jax.jacobian(lambda x: gradient(x, "jax"))(jnp.array(x))
        np.testing.assert_allclose(by_jax, expected, atol=1e-8)

    def test_a_bandwidth_can_be_learnt(self) -> None:
        x, y = torch.tensor(points(1, 9, 3)), torch.tensor(points(1, 8, 3, seed=1))
        bandwidth = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        maximum_mean_discrepancy(x, y, kernel_bandwidth=bandwidth).backward()  # type: ignore[arg-type]
        sides = [float(maximum_mean_discrepancy(x, y, kernel_bandwidth=1.3 + h)) for h in (1e-6, -1e-6)]
        self.assertAlmostEqual(float(bandwidth.grad), (sides[0] - sides[1]) / 2e-6, 7)  # type: ignore[arg-type]

    def test_reverse_mode_keeps_no_tiles(self) -> None:
        x, y = jnp.array(points(1, 3000, 4), jnp.float32), jnp.array(points(1, 2500, 4, seed=1), jnp.float32)
        compiled = jax.jit(jax.value_and_grad(energy_distance)).lower(x, y).compile()
        analysis = compiled.memory_analysis()
        self.assertLess(analysis.temp_size_in_bytes, 3000 * 2500 * 4 * 2)


class Memory(unittest.TestCase):
    """N × M numbers are never held."""

    @parameterized.expand(
        [
            (maximum_mean_discrepancy, 16),
            (energy_distance, 3),
            (energy_distance, 40),
            (chamfer_distance, 3),
            (chamfer_distance, 12),
            (hausdorff_distance, 12),
            (partial(sinkhorn_divergence, mass_tolerance=0.9, max_iterations=1), 3),
            (sliced_wasserstein_distance, 3),
        ],
    )
    @pytest.mark.filterwarnings("ignore::mithril_losses.SinkhornWarning")  # one iteration takes as much memory as many
    @pytest.mark.exhaustive  # nine million pairs, eight times; by default, `test_clustered_points_take_no_more`
    def test_peak_at_three_thousand_points(self, loss: Any, d: int) -> None:
        x, y = points(1, 3000, d), points(1, 3000, d, seed=1)
        both = value_and_gradient(loss)
        both(x[:, :1000], y[:, :1000])  # imports and compiles
        host.keep_freed_memory()  # reserves once, and touches nothing
        tracemalloc.start()
        try:
            both(x, y)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 3000 * 3000 * 8 / 4)

    def test_clustered_points_take_no_more(self) -> None:
        # every second pair is too close for the product
        x = points(1, 2000, 20) * 1e-4
        x[:, ::2] += 1.0
        energy_distance(x[:, :300], x[:, :300])  # imports and compiles
        tracemalloc.start()
        try:
            energy_distance(x, x + 1e-5)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 2000 * 2000 * 8 / 2)


class Refusals(unittest.TestCase):
    """What the shared laws do not try."""

    def test_shapes_are_named(self) -> None:
        x, y = points(2, 4, 3), points(3, 4, 3)
        for loss in (maximum_mean_discrepancy, energy_distance, chamfer_distance):
            with self.assertRaisesRegex(ValueError, r"\(2, 4, 3\) and \(3, 4, 3\)"):
                loss(x, y)
            with self.assertRaisesRegex(ValueError, r"\(3,\) and \(3,\)"):
                loss(x[0, 0], y[0, 0])

    def test_points_have_coordinates(self) -> None:
        nowhere = points(2, 3, 0)
        for loss in (chamfer_distance, hausdorff_distance, sinkhorn_divergence, energy_distance):
            for function in (loss, value_and_gradient(loss)):
                with self.assertRaisesRegex(ValueError, r"at least one coordinate, got .* of shape \(2, 3, 0\)"):
                    function(nowhere, nowhere)

    def test_too_few_samples(self) -> None:
        one, none = points(2, 1, 3), points(2, 0, 3)
        for function in (maximum_mean_discrepancy, maximum_mean_discrepancy_gradient):
            with self.assertRaisesRegex(ValueError, "at least 2 samples"):
                function(one, one, unbiased=True)
            with self.assertRaisesRegex(ValueError, "at least 1 samples"):
                function(one, none)
        with self.assertRaisesRegex(ValueError, "at least 1 samples"):
            energy_distance(none, one)

    @parameterized.expand([({"beta": 0.0},), ({"beta": 2.1},), ({"beta": float("nan")},)])
    def test_order_of_the_energy(self, options: dict[str, Any]) -> None:
        with self.assertRaisesRegex(ValueError, r"beta must be in \(0, 2\]"):
            energy_distance(points(1, 3, 2), points(1, 3, 2), **options)

    def test_options_of_the_discrepancy(self) -> None:
        x = points(1, 3, 2)
        for options, message in (
            ({"kernel_type": "gaussian"}, "'rbf', 'linear', 'polynomial'"),
            ({"degree": 2.5}, "degree must be a whole number ≥ 1"),
            ({"kernel_bandwidth": np.ones(3)}, "one number"),
            ({"coef0": -1.0}, "coef0"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                maximum_mean_discrepancy(x, x, **options)  # type: ignore[arg-type]

    def test_masks_and_weights_of_chamfer(self) -> None:
        x, y = points(2, 4, 3), points(2, 5, 3)
        for options, error, message in (
            ({"pred_mask": np.ones((2, 5), bool)}, ValueError, r"pred_mask .* \(2, 4\), got \(2, 5\)"),
            ({"pred_mask": np.ones((2, 4))}, TypeError, "pred_mask must be of type bool"),
            ({"target_weights": np.ones((2, 5), int)}, TypeError, "target_weights must be of type real floating"),
            ({"target_weights": torch.ones(2, 5)}, TypeError, "one library"),
            ({"wrt": "points"}, ValueError, "wrt must be one of"),
        ):
            with self.assertRaisesRegex(error, message):
                chamfer_distance_gradient(x, y, **options)  # type: ignore[arg-type]

    def test_strict_arrays_stay_strict(self) -> None:
        x = array_api_strict.asarray(points(1, 4, 3))
        self.assertIsInstance(chamfer_distance_gradient(x, x), type(x))
