"""Options whose exponential, reciprocal or square overflows, and arguments at the ends of what a dtype holds."""

from __future__ import annotations

import math
import unittest
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import convert, double_precision, flat, to_numpy
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import find_loss, value_and_gradient

pytestmark = pytest.mark.optimized_xla

LIBRARIES = ("numpy", "jax", "torch")


def evaluated(loss: Any, library: str, dtype: str, *arrays: Any, **options: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the value, and the arrays of the gradient, of float64 arrays rounded to a dtype."""
    with double_precision(library):
        arguments = [convert(np.asarray(x), library, dtype) for x in arrays]
        value, gradient = value_and_gradient(loss)(*arguments, **options)
        return to_numpy(value), [to_numpy(x) for _, x in flat(gradient)]


class Scales(unittest.TestCase):
    """The scale of cosines, e^s or 1/τ, beyond what the dtype holds."""

    EYE = np.eye(4)

    @parameterized.expand(list(product(LIBRARIES, (("float32", 88.8), ("float32", 100.0), ("float64", 710.0)))))
    def test_of_perfect_pairs(self, library: str, case: tuple[str, float]) -> None:
        dtype, s = case
        value, _ = evaluated(ml.clip_loss, library, dtype, self.EYE, self.EYE, s)
        self.assertEqual(value, 0.0)
        value, _ = evaluated(ml.siglip_loss, library, dtype, self.EYE, self.EYE, s, -10.0)
        np.testing.assert_allclose(value, 3.0 * math.log1p(math.exp(-10.0)), rtol=1e-6)  # the other three of each row

    @parameterized.expand(list(product(LIBRARIES, (84.0, 86.5, 87.5))))
    def test_of_imperfect_pairs(self, library: str, s: float) -> None:
        """Near the limit, where the factor is split, the loss and its gradient are those of float64."""
        generator = np.random.default_rng(0)
        u, v = (generator.standard_normal((3, 2)).astype("f4").astype("f8") for _ in range(2))
        for loss, rest in ((ml.clip_loss, (s,)), (ml.siglip_loss, (s, -10.0))):
            value, gradients = evaluated(loss, library, "float32", u, v, *rest)
            expected, slopes = evaluated(loss, "numpy", "float64", u, v, *rest)
            np.testing.assert_allclose(value, expected, rtol=1e-5)
            for found, slope in zip(gradients, slopes, strict=True):
                np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max())

    @parameterized.expand(list(product(LIBRARIES, (88.8, 100.0, 1e3, 1e30, -1e3, -1e30))))
    def test_is_never_nan(self, library: str, s: float) -> None:
        generator = np.random.default_rng(0)
        u, v = (generator.standard_normal((5, 3)) for _ in range(2))
        for loss, rest in ((ml.clip_loss, (s,)), (ml.siglip_loss, (s, -10.0))):
            value, gradients = evaluated(loss, library, "float32", u, v, *rest)
            self.assertFalse(np.isnan(value))
            for gradient in gradients:
                self.assertTrue(np.isfinite(gradient).all())

    @parameterized.expand(list(product(LIBRARIES, (1e-39, 1e-45, 1e-300))))
    def test_of_small_temperatures(self, library: str, temperature: float) -> None:
        generator = np.random.default_rng(0)
        u, v = (generator.standard_normal((5, 3)) for _ in range(2))
        for loss, arrays in (
            (ml.info_nce_loss, (u, v)),
            (ml.nt_xent_loss, (u, v)),
            (ml.supervised_contrastive_loss, (u, np.array([0, 0, 1, 1, 2]))),
        ):
            value, gradients = evaluated(loss, library, "float32", *arrays, temperature=temperature)
            self.assertEqual(value, math.inf)
            for gradient in gradients:
                self.assertTrue(np.isfinite(gradient).all())
            perfect, _ = evaluated(ml.info_nce_loss, library, "float32", self.EYE, self.EYE, temperature=temperature)
            self.assertEqual(perfect, 0.0)

    @parameterized.expand([(library,) for library in LIBRARIES])
    def test_as_an_array_of_one_number(self, library: str) -> None:
        generator = np.random.default_rng(0)
        u, v = (generator.standard_normal((4, 3)) for _ in range(2))
        for loss, rest in ((ml.clip_loss, (np.array([2.0]),)), (ml.siglip_loss, (np.array([2.0]), np.array([-3.0])))):
            value, gradients = evaluated(loss, library, "float64", u, v, *rest)
            expected, slopes = evaluated(loss, "numpy", "float64", u, v, *(x[0] for x in rest))
            np.testing.assert_allclose(value, expected, rtol=1e-12)
            for gradient in gradients[2:]:
                self.assertEqual(gradient.shape, (1,))
            for found, slope in zip(gradients, slopes, strict=True):
                np.testing.assert_allclose(found.reshape(slope.shape), slope, rtol=1e-10, atol=1e-15)


class Bandwidths(unittest.TestCase):
    @parameterized.expand(
        list(product(LIBRARIES, (("float32", 1e-20), ("float32", 1e-45), ("float64", 1e-160), ("float64", 1e-320))))
    )
    def test_that_keep_all_samples_apart(self, library: str, case: tuple[str, float]) -> None:
        """k is 1 of a sample and itself, and 0 of two: MMD² = 1/n + 1/m."""
        dtype, bandwidth = case
        generator = np.random.default_rng(0)
        x, y = generator.standard_normal((4, 2)), generator.standard_normal((5, 2))
        value, (gradient,) = evaluated(ml.maximum_mean_discrepancy, library, dtype, x, y, kernel_bandwidth=bandwidth)
        np.testing.assert_allclose(value, 1.0 / 4.0 + 1.0 / 5.0, rtol=1e-6)
        np.testing.assert_array_equal(gradient, 0.0)


class EqualSets(unittest.TestCase):
    @parameterized.expand(list(product(LIBRARIES, (1e19, 1.8e38, 3e38))))
    def test_have_no_gradient(self, library: str, scale: float) -> None:
        points = np.array([[1.0, -1.0], [0.5, 1.0]]) * scale
        for loss, options in (
            (ml.maximum_mean_discrepancy, {}),
            (ml.maximum_mean_discrepancy, {"kernel_type": "polynomial"}),
            (ml.maximum_mean_discrepancy, {"kernel_type": "linear"}),
            (ml.energy_distance, {}),
        ):
            value, (gradient,) = evaluated(loss, library, "float32", points, points, **options)
            self.assertEqual(value, 0.0)
            np.testing.assert_array_equal(gradient, 0.0)

    @parameterized.expand([("numpy",), ("torch",)])
    def test_that_nearly_are_never_have_a_negative_divergence(self, library: str) -> None:
        generator = np.random.default_rng(0)
        x = generator.standard_normal((49, 2))
        y = x + 1e-6 * generator.standard_normal(x.shape)
        value, (gradient,) = evaluated(ml.sinkhorn_divergence, library, "float64", x, y, epsilon=0.05, p=2.0)
        self.assertTrue(0.0 <= value < 5e-12, value)
        self.assertLess(np.abs(gradient).max(), 2e-7)


class Masks(unittest.TestCase):
    def test_perfect_one_has_the_slope_of_tversky_at_gamma_one(self) -> None:
        p = np.array([[1.0, 0.0, 0.0]])
        for library in LIBRARIES:
            arrays = convert(p, library, "float32"), convert(p, library, "float32")
            expected = to_numpy(ml.tversky_loss_gradient(*arrays))
            np.testing.assert_allclose(expected, [[-0.35, 0.15, 0.15]], rtol=1e-6)
            np.testing.assert_array_equal(to_numpy(ml.focal_tversky_loss_gradient(*arrays, gamma=1.0)), expected)
            for gamma in (0.5, 2.0):
                self.assertFalse(to_numpy(ml.focal_tversky_loss_gradient(*arrays, gamma=gamma)).any())

    @parameterized.expand(list(product(("numpy", "torch"), (5e-39, 1e-42, 1e-45))))
    def test_of_subnormal_numbers(self, library: str, number: float) -> None:
        p, t = np.zeros((1, 3)), np.array([[number, 0.0, 0.0]])
        for loss in (ml.dice_loss, ml.jaccard_loss, ml.tversky_loss, ml.focal_tversky_loss):
            options = {"gamma": 0.1} if loss is ml.focal_tversky_loss else {}
            value, (gradient,) = evaluated(loss, library, "float32", p, t, smooth=0.0, **options)
            np.testing.assert_allclose(value, 1.0, rtol=1e-6)  # nothing of the target is found
            self.assertTrue(np.isfinite(gradient).all())


class Matrices(unittest.TestCase):
    @parameterized.expand(list(product(LIBRARIES, (1e25, 1e-25, 3e37))))
    def test_slope_of_the_spectral_norm(self, library: str, scale: float) -> None:
        w = (np.random.default_rng(0).standard_normal((4, 3)) * scale).astype("f4").astype("f8")
        value, (gradient,) = evaluated(ml.spectral_norm_regularization, library, "float32", w)
        expected = find_loss("spectral_norm_regularization").gradient(w)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        self.assertEqual(value, 0.0 if scale < 1.0 else math.inf)  # of its square


class Dtypes(unittest.TestCase):
    @parameterized.expand(
        [("huber_loss",), ("cross_entropy_with_logits",), ("energy_distance",), ("l2_regularization",)]
    )
    def test_that_numpy_only_has_from_elsewhere_are_refused_in_words(self, loss: str) -> None:
        x = np.ones((4, 3)).astype(ml_dtypes.bfloat16)
        targets = np.zeros(4, int) if loss.startswith("cross") else np.zeros((4, 3), np.float32)
        arguments = (x,) if loss == "l2_regularization" else (x, targets)
        pair = find_loss(loss)
        for function in (pair.value, pair.gradient, value_and_gradient(pair.value)):
            with self.assertRaisesRegex(TypeError, "numpy has itself, got bfloat16: pass them as float32"):
                function(*arguments)
        with self.assertRaisesRegex(TypeError, "targets must hold numbers of a type that numpy has itself"):
            ml.huber_loss(np.ones((4, 3)), x)

    @parameterized.expand([("numpy", "float16"), ("torch", "bfloat16"), ("jax", "float16")])
    def test_of_half_precision_cap_gradients_and_not_values(self, library: str, dtype: str) -> None:
        largest = {"float16": 65504.0, "bfloat16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)}[dtype]
        p, t = convert(np.array([0.9 * largest]), library, dtype), convert(np.zeros(1), library, dtype)
        self.assertEqual(to_numpy(ml.mse_loss(p, t)), math.inf)
        self.assertEqual(to_numpy(ml.mse_loss_gradient(p, t)), largest)
        self.assertEqual(to_numpy(ml.mse_loss_gradient(p, t, upstream=2.0)), math.inf)
