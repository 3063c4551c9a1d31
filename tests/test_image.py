"""What no law says about the losses of images: definitions by loops and by other libraries, borders, layouts, paths."""

from __future__ import annotations

import unittest
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch
from cases import label
from modes import EAGER, MODES, evaluate_pair
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import _execution, _stencil, value_and_gradient

NORMS = ("l1", "isotropic", "l2_squared")


def _variation_by_loops(image: np.ndarray, norm: str) -> float:
    """One image (rows, columns, channels)."""
    total = 0.0
    for r, c, k in np.ndindex(*image.shape):
        across = image[r, c + 1, k] - image[r, c, k] if c + 1 < image.shape[1] else 0.0
        down = image[r + 1, c, k] - image[r, c, k] if r + 1 < image.shape[0] else 0.0
        total += {
            "l1": abs(across) + abs(down),
            "isotropic": (across**2 + down**2) ** 0.5,
            "l2_squared": across**2 + down**2,
        }[norm]
    return total


class TotalVariation(unittest.TestCase):
    @parameterized.expand(NORMS)
    def test_explicit_loops(self, norm: str) -> None:
        images = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
        expected = [_variation_by_loops(image, norm) for image in images]
        np.testing.assert_allclose(
            ml.total_variation_loss(images, norm_type=norm, reduction="none"), expected, rtol=1e-13
        )

    @parameterized.expand(product(MODES, NORMS))
    def test_layouts_agree(self, mode: str, norm: str) -> None:
        images = np.random.default_rng(1).standard_normal((2, 4, 5, 3))
        last = evaluate_pair(mode, ml.total_variation_loss, images, norm_type=norm)
        first = evaluate_pair(
            mode, ml.total_variation_loss, np.moveaxis(images, -1, -3), norm_type=norm, channels_first=True
        )
        np.testing.assert_allclose(first[0], last[0], rtol=1e-13)
        np.testing.assert_allclose(np.moveaxis(first[1], -3, -1), last[1], rtol=1e-13, atol=1e-16)

    @parameterized.expand(product(EAGER, NORMS))
    def test_kinks(self, mode: str, norm: str) -> None:
        flat = np.full((1, 3, 4, 2), 0.3)
        value, gradient = evaluate_pair(mode, ml.total_variation_loss, flat, norm_type=norm)
        self.assertEqual(value, 0.0)
        self.assertFalse(gradient.any())
        # an edge between two flat halves pulls at the pixels beside it alone
        edge = np.repeat([0.0, 5.0], 2)[None, None, :, None] * np.ones((1, 1, 1, 1))
        _, gradient = evaluate_pair(mode, ml.total_variation_loss, edge, norm_type=norm)
        strength = 10.0 if norm == "l2_squared" else 1.0
        np.testing.assert_array_equal(gradient.ravel(), [0.0, -strength, strength, 0.0])

    @parameterized.expand(NORMS)
    def test_an_image_without_neighbours(self, norm: str) -> None:
        for shape in ((2, 1, 1, 3), (2, 0, 4, 3), (2, 3, 4, 0), (0, 3, 4, 1)):
            images = np.ones(shape)
            self.assertEqual(ml.total_variation_loss(images, norm_type=norm), 0.0)
            self.assertFalse(ml.total_variation_loss_gradient(images, norm_type=norm).any())

    def test_lengths_neither_overflow_nor_vanish(self) -> None:
        for size in (1e-42, 1e38):
            images = np.array([[0.0, 1.0], [1.0, 1.0]], np.float32)[None, :, :, None] * np.float32(size)
            value, gradient = value_and_gradient(ml.total_variation_loss)(images, norm_type="isotropic")
            self.assertAlmostEqual(value / size, 2**0.5, delta=2e-3)  # subnormal numbers have few digits
            np.testing.assert_allclose(gradient.ravel(), np.array([-2.0, 1.0, 1.0, 0.0]) / 2**0.5, rtol=1e-3)

    def test_what_is_no_image(self) -> None:
        for function in (ml.total_variation_loss, ml.total_variation_loss_gradient):
            with self.assertRaisesRegex(ValueError, r"\(…, rows, columns, channels\), got \(3, 4\)"):
                function(np.ones((3, 4)))
            with self.assertRaisesRegex(ValueError, r"\(…, channels, rows, columns\)"):
                function(np.ones(4), channels_first=True)
            with self.assertRaisesRegex(ValueError, "did you mean 'isotropic'"):
                function(np.ones((3, 4, 1)), norm_type="isotropc")


class TotalVariationOfLargeImages(unittest.TestCase):
    """Compiled loops and bands of rows give what the plain functions give."""

    @parameterized.expand(product(NORMS, (True, False), (None, False)), name_func=label)
    def test_equals_the_plain_functions(self, norm: str, channels_first: bool, compile: bool | None) -> None:
        generator = np.random.default_rng(2)
        for shape, dtype in (((3, 2, 41, 37), "float32"), ((2, 1, 70, 300), "float64"), ((5, 3, 1, 9), "float32")):
            planes = generator.standard_normal(shape).astype(dtype)
            images = planes if channels_first else np.ascontiguousarray(np.moveaxis(planes, 1, -1))
            images.reshape(-1)[generator.integers(0, images.size, images.size // 8)] = 0.5  # kinks
            weights = np.ones(shape[0], dtype)
            weights[0] = 0.0
            for reduction in (
                {},
                {"reduction": "none", "upstream": generator.standard_normal(shape[0]).astype(dtype)},
                {"reduction": "sum", "weights": weights, "upstream": -2.0},
                {"reduction": "weighted_mean", "weights": weights * weights.dtype.type(0.3)},
            ):
                self._compare(images, compile, norm_type=norm, channels_first=channels_first, **reduction)

    @parameterized.expand(product(NORMS, (None, False)), name_func=label)
    def test_infinities_and_nan_stay_where_they_are(self, norm: str, compile: bool | None) -> None:
        generator = np.random.default_rng(3)
        images = generator.standard_normal((4, 30, 20, 3)).astype(np.float32)
        images[0, 7, 5, 1], images[1, 29, 19, 2], images[2, 9, 9, 0], images[2, 9, 10, 0] = (
            np.nan,
            np.inf,
            -np.inf,
            np.inf,
        )
        self._compare(images, compile, norm_type=norm, reduction="none")
        weights = np.array([0.0, 0.0, 0.0, 1.0], np.float32)
        value, gradient = self._compare(images, compile, norm_type=norm, weights=weights)
        self.assertTrue(np.isfinite(value))
        self.assertFalse(gradient[:3].any())

    @parameterized.expand(product((None, False)), name_func=label)
    def test_thread_count_changes_no_bit(self, compile: bool | None) -> None:
        images = np.random.default_rng(4).standard_normal((3, 400, 257, 1)).astype(np.float32)
        for norm in NORMS:
            both = [
                value_and_gradient(ml.total_variation_loss, threads=n, compile=compile)(images, norm_type=norm)
                for n in (1, 2, 5)
            ]
            for value, gradient in both[1:]:
                self.assertEqual(value, both[0][0])
                np.testing.assert_array_equal(gradient, both[0][1])

    def test_tensors_and_strided_arrays(self) -> None:
        images = np.random.default_rng(5).standard_normal((2, 60, 180, 3)).astype(np.float32)
        expected = ml.total_variation_loss_gradient(images)
        for given in (torch.from_numpy(images), np.asfortranarray(images)):
            _, gradient = value_and_gradient(ml.total_variation_loss)(given)
            self.assertIs(type(gradient), type(given))
            np.testing.assert_allclose(np.asarray(gradient), expected, rtol=1e-6, atol=1e-9)

    def _compare(self, images: np.ndarray, compile: bool | None, **keywords: Any) -> tuple[Any, Any]:
        own = {name: option for name, option in keywords.items() if name != "upstream"}
        expected = ml.total_variation_loss(images, **own), ml.total_variation_loss_gradient(images, **keywords)
        both = value_and_gradient(ml.total_variation_loss, threads=2, compile=compile)
        with (
            mock.patch.object(_execution, "LARGE", 1),
            mock.patch.multiple(_stencil, _BAND=1000, _SHARED_FROM=1),
        ):
            found = both(images, **keywords)
        rounding = {"float32": 2e-6, "float64": 1e-13}[images.dtype.name]
        np.testing.assert_allclose(found[0], expected[0], rtol=rounding)
        np.testing.assert_allclose(found[1], expected[1], rtol=rounding, atol=rounding)
        self.assertEqual((found[0].dtype, found[1].dtype), (images.dtype, images.dtype))
        return found
