"""What no law says about the losses of images: definitions by loops and by other libraries, borders, layouts, paths."""

from __future__ import annotations

import unittest
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from cases import label
from modes import EAGER, MODES, evaluate, evaluate_pair
from parameterized import parameterized
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

import mithril_losses as ml
from mithril_losses import limits, value_and_gradient
from mithril_losses.autodiff import plain_functions

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
                function(np.ones((2, 3, 4, 1)), norm_type="isotropc")

    def test_three_axes_are_one_image_or_many(self) -> None:
        """Neither is guessed: the message says how to write both."""
        for function in (
            ml.total_variation_loss,
            ml.total_variation_loss_gradient,
            value_and_gradient(ml.total_variation_loss),
        ):
            with self.assertRaisesRegex(ValueError, r"images\[None\] if it is one image, images\[..., None\] if"):
                function(np.ones((8, 28, 28)))
            with self.assertRaisesRegex(ValueError, r"images\[None\] if it is one image, images\[:, None\] if"):
                function(np.ones((8, 28, 28)), channels_first=True)


def _pictures(channels: int, side: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth images in [0, 1], the second one the first with noise and less contrast."""
    generator = np.random.default_rng(seed)
    x = gaussian_filter(generator.standard_normal((side, side + 3, channels)), (2.0, 2.0, 0.0))
    x = (x - x.min()) / (x.max() - x.min())
    return x, np.clip(0.2 + 0.7 * x + 0.05 * generator.standard_normal(x.shape), 0.0, 1.0)


def _factors(x: np.ndarray, y: np.ndarray, c1: float, c2: float) -> tuple[np.ndarray, np.ndarray]:
    """The means over positions of l c s and of c s for each channel, as the papers write them."""

    def mean(z: np.ndarray) -> np.ndarray:
        return gaussian_filter(z, (1.5, 1.5, 0.0), truncate=3.5)[5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    contrast_and_structure = (2 * xy + c2) / (xx + yy + c2)
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    return (luminance * contrast_and_structure).mean((0, 1)), contrast_and_structure.mean((0, 1))


class StructuralSimilarity(unittest.TestCase):
    @parameterized.expand(product(MODES, (1, 3), (1.0, 255.0)))
    def test_scikit_image(self, mode: str, channels: int, max_value: float) -> None:
        x, y = (max_value * z for z in _pictures(channels))
        expected = structural_similarity(
            x, y, data_range=max_value, channel_axis=-1, gaussian_weights=True, use_sample_covariance=False
        )
        value = evaluate(mode, partial(ml.ssim_loss, max_value=max_value), x[None], y[None])
        self.assertAlmostEqual(float(value), 1.0 - expected, 12)

    def test_gradient_of_scikit_image(self) -> None:
        options = {"data_range": 2.0, "gaussian_weights": True, "use_sample_covariance": False, "channel_axis": -1}
        x, y = _pictures(2)
        gradient = ml.ssim_loss_gradient(x, y, max_value=2.0)
        for place in ((0, 0, 0), (11, 13, 1), (23, 26, 0)):
            step = np.zeros_like(x)
            step[place] = 1e-5
            ahead, behind = (structural_similarity(x + sign * step, y, **options) for sign in (1.0, -1.0))
            self.assertAlmostEqual(gradient[place], -(ahead - behind) / 2e-5, 9)

    @parameterized.expand(MODES)
    def test_layouts_agree(self, mode: str) -> None:
        pairs = [_pictures(3, seed=seed) for seed in range(2)]
        x, y = (np.stack(images) for images in zip(*pairs, strict=True))
        last = evaluate_pair(mode, ml.ssim_loss, x, y)
        first = evaluate_pair(mode, ml.ssim_loss, *(np.moveaxis(z, -1, 1) for z in (x, y)), channels_first=True)
        np.testing.assert_allclose(first[0], last[0], rtol=1e-12)
        np.testing.assert_allclose(np.moveaxis(first[1], 1, -1), last[1], rtol=1e-10, atol=1e-16)

    def test_symmetric(self) -> None:
        x, y = _pictures(1)
        self.assertAlmostEqual(ml.ssim_loss(x, y), ml.ssim_loss(y, x), 14)

    def test_nearly_equal_images_in_single_precision(self) -> None:
        # 1 − SSIM would be rounding, or negative; a common level far above the contrast would drown the variances
        x, _ = _pictures(1)
        x = 1000.0 + x
        y = x + 1e-3 * np.random.default_rng(5).standard_normal(x.shape)
        x, y = (z.astype(np.float32).astype(np.float64) for z in (x, y))
        exact = ml.ssim_loss(x, y, k2=1e-4)
        found, gradient = ml.losses.image.ssim_loss_value_and_gradient(
            x.astype(np.float32), y.astype(np.float32), k2=1e-4
        )
        self.assertLess(exact, 1e-3)
        self.assertAlmostEqual(found / exact, 1.0, 2)
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(gradient, ml.ssim_loss_gradient(x, y, k2=1e-4), atol=0.01 * scale)

    @parameterized.expand([(False,), (True,)])
    def test_many_small_images(self, channels_first: bool) -> None:
        """Several are compared at a time; each has the loss and the gradient that it has alone, NaN or not."""
        generator = np.random.default_rng(6)
        x, y = generator.random((2, 500, 2, 13, 12) if channels_first else (2, 500, 13, 12, 2))
        weights = generator.random(len(x))
        x[3].flat[7], weights[5] = np.nan, 0.0
        options = {"channels_first": channels_first, "window_size": 5}
        value, gradient = value_and_gradient(ml.ssim_loss, compile=False)(
            x, y, weights=weights, reduction="none", **options
        )
        with plain_functions():
            alone = np.array([ml.ssim_loss(x[i], y[i], **options) for i in range(len(x))])
            slopes = np.stack([ml.ssim_loss_gradient(x[i], y[i], **options) for i in range(len(x))])
        np.testing.assert_allclose(value, np.where(weights == 0, 0.0, weights * alone), rtol=1e-12)
        factors = weights.reshape(-1, 1, 1, 1)
        np.testing.assert_allclose(gradient, np.where(factors == 0, 0.0, factors * slopes), rtol=1e-10, atol=1e-16)
        self.assertEqual(np.flatnonzero(np.isnan(value)).tolist(), [3])

    def test_equal_and_flat_images(self) -> None:
        x, _ = _pictures(3)
        for image in (x, np.zeros_like(x), np.full_like(x, 0.7), 255.0 * x.astype(np.float32)):
            for loss in (ml.ssim_loss, partial(ml.multi_scale_ssim_loss, scale_weights=(0.4, 0.6))):
                self.assertEqual(loss(image, image.copy()), 0.0)
            self.assertFalse(ml.ssim_loss_gradient(image, image.copy()).any())

    def test_opposite_contrast_is_worse_than_none(self) -> None:
        x, _ = _pictures(1)
        flat, opposite = np.full_like(x, x.mean()), 2.0 * x.mean() - x
        self.assertLess(1.0, ml.ssim_loss(x, opposite))
        self.assertLess(ml.ssim_loss(x, flat), 1.0)

    def test_what_does_not_fit(self) -> None:
        x = np.ones((2, 12, 10, 1))
        for function in (ml.ssim_loss, ml.ssim_loss_gradient):
            with self.assertRaisesRegex(ValueError, "a window of 11 pixels needs images of at least 11×11, got 12×10"):
                function(x, x)
            with self.assertRaisesRegex(ValueError, "window_size must be an odd number ≥ 1, got 4"):
                function(x, x, window_size=4)
            with self.assertRaisesRegex(ValueError, "max_value must be one number"):
                function(x, x, window_size=5, max_value=np.ones(2))
            with self.assertRaisesRegex(ValueError, "at least one channel"):
                function(x[..., :0], x[..., :0], window_size=5)
        with self.assertRaisesRegex(ValueError, "at 5 scales needs images of at least 176×176"):
            ml.multi_scale_ssim_loss(x, x)
        with self.assertRaisesRegex(TypeError, "scale_weights must be positive numbers, one per scale"):
            ml.multi_scale_ssim_loss(x, x, scale_weights=3)
        with self.assertRaisesRegex(ValueError, "scale_weights"):
            ml.multi_scale_ssim_loss(x, x, scale_weights=())


class MultiScaleSimilarity(unittest.TestCase):
    @parameterized.expand(product(MODES, (2, 4)))
    def test_the_paper_in_loops(self, mode: str, scales: int) -> None:
        weights = (0.1, 0.4, 0.3, 0.2)[:scales]
        x, y = _pictures(3, side=89)  # odd, so that a last row has no part in the next scale
        product = np.ones(3)
        for scale, weight in enumerate(weights):
            if scale > 0:
                rows, columns = (2 * (n // 2) for n in x.shape[:2])
                x, y = (z[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2, 3).mean((1, 3)) for z in (x, y))
            whole, part = _factors(x, y, 0.01**2, 0.03**2)
            product *= (whole if scale == scales - 1 else part) ** weight
        value = evaluate(mode, partial(ml.multi_scale_ssim_loss, scale_weights=weights), *_pictures(3, side=89))
        self.assertAlmostEqual(float(value), 1.0 - product.mean(), 12)

    def test_one_scale_with_weight_one_is_ssim(self) -> None:
        x, y = _pictures(1)
        options = {"scale_weights": (1.0,)}
        self.assertAlmostEqual(ml.multi_scale_ssim_loss(x, y, **options), ml.ssim_loss(x, y), 14)
        np.testing.assert_allclose(
            ml.multi_scale_ssim_loss_gradient(x, y, **options), ml.ssim_loss_gradient(x, y), rtol=1e-11, atol=1e-16
        )

    def test_the_five_scales_of_the_paper(self) -> None:
        x, y = _pictures(1, side=176)
        value, gradient = value_and_gradient(ml.multi_scale_ssim_loss)(x, y)
        direction = np.random.default_rng(6).standard_normal(x.shape)
        ahead, behind = (ml.multi_scale_ssim_loss(x + step * direction, y) for step in (1e-6, -1e-6))
        self.assertAlmostEqual(np.vdot(gradient, direction) / ((ahead - behind) / 2e-6), 1.0, 6)
        self.assertTrue(0.0 < value < ml.ssim_loss(x, y))  # the noise is at the finest scale

    @parameterized.expand(EAGER)
    def test_a_channel_of_opposite_contrast_is_lost(self, mode: str) -> None:
        x, y = _pictures(2, side=22)
        opposite = y.copy()
        opposite[..., 0] = 2.0 * x[..., 0].mean() - x[..., 0]
        loss = partial(ml.multi_scale_ssim_loss, scale_weights=(0.5, 0.5))
        value = evaluate(mode, loss, x, opposite)
        self.assertAlmostEqual(float(value), 0.5 + 0.5 * loss(x[..., 1:], y[..., 1:]), 13)
        gradient = evaluate(mode, partial(ml.multi_scale_ssim_loss_gradient, scale_weights=(0.5, 0.5)), x, opposite)
        self.assertFalse(gradient[..., 0].any())
        self.assertTrue(gradient[..., 1].any())

    def test_nan_is_not_lost(self) -> None:
        x, y = _pictures(1, side=22)
        x[3, 3] = np.nan
        self.assertTrue(np.isnan(ml.multi_scale_ssim_loss(x, y, scale_weights=(0.5, 0.5))))


class TotalVariationOfLargeImages(unittest.TestCase):
    """Compiled loops and bands of rows give what the plain functions give."""

    @parameterized.expand(product(NORMS, (True, False), (None, False)), name_func=label)
    @pytest.mark.exhaustive_for(named="True_None")  # the loops have one order of axes, and compile for some seconds
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
        with plain_functions():
            expected = ml.total_variation_loss_gradient(images)
        for given in (torch.from_numpy(images), np.asfortranarray(images)):
            _, gradient = value_and_gradient(ml.total_variation_loss)(given)
            self.assertIs(type(gradient), type(given))
            np.testing.assert_allclose(np.asarray(gradient), expected, rtol=1e-6, atol=1e-9)

    def _compare(self, images: np.ndarray, compile: bool | None, **keywords: Any) -> tuple[Any, Any]:
        own = {name: option for name, option in keywords.items() if name != "upstream"}
        with plain_functions():
            expected = ml.total_variation_loss(images, **own), ml.total_variation_loss_gradient(images, **keywords)
        both = value_and_gradient(ml.total_variation_loss, threads=2, compile=compile)
        with limits.changed(large=1, plain_band=1000, compiled_band=1000, shared_bands=1):
            found = both(images, **keywords)
        rounding = {"float32": 2e-6, "float64": 1e-13}[images.dtype.name]
        np.testing.assert_allclose(found[0], expected[0], rtol=rounding)
        np.testing.assert_allclose(found[1], expected[1], rtol=rounding, atol=rounding)
        self.assertEqual((found[0].dtype, found[1].dtype), (images.dtype, images.dtype))
        return found
