"""What no law says about the regression losses: PyTorch's numbers, the kinks, and the ends of the floating types."""

from __future__ import annotations

import math
import unittest
from typing import Any

import mpmath
import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from modes import MODES, evaluate, evaluate_pair
from parameterized import parameterized
from sklearn.metrics import mean_absolute_percentage_error, mean_squared_log_error

from mithril_losses import (
    charbonnier_loss,
    charbonnier_loss_gradient,
    expectile_loss,
    find_loss,
    huber_loss,
    huber_loss_gradient,
    mae_loss,
    mape_loss,
    mse_loss,
    mse_loss_gradient,
    msle_loss,
    mspe_loss,
    pinball_loss,
    psnr_loss,
    psnr_loss_gradient,
    smape_loss,
    smooth_l1_loss,
    value_and_gradient,
)

INF, NAN = math.inf, math.nan
ERRORS = np.array([-7.0, -1.0, -0.3, 0.0, 1e-3, 0.7, 1.0, 2.5, 40.0])


class References(unittest.TestCase):
    """The same functions as in torch.nn.functional."""

    @parameterized.expand(
        [
            ("mse", mse_loss, F.mse_loss, {}),
            ("mae", mae_loss, F.l1_loss, {}),
            ("huber", huber_loss, F.huber_loss, {}),
            ("huber 0.25", huber_loss, F.huber_loss, {"delta": 0.25}),
            ("huber 3", huber_loss, F.huber_loss, {"delta": 3.0}),
            ("smooth l1", smooth_l1_loss, F.smooth_l1_loss, {}),
            ("smooth l1 0.25", smooth_l1_loss, F.smooth_l1_loss, {"beta": 0.25}),
        ]
    )
    def test_torch(self, name: str, loss: Any, reference: Any, options: dict[str, float]) -> None:
        generator = np.random.default_rng(0)
        targets = torch.tensor(generator.standard_normal((4, ERRORS.size)))
        predictions = (targets + torch.tensor(ERRORS)).requires_grad_(True)
        for reduction in ("mean", "sum", "none"):
            expected = reference(predictions, targets, reduction=reduction, **options)
            value, gradient = value_and_gradient(loss)(predictions, targets, reduction=reduction, **options)
            torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-15)
            if reduction != "none":
                (derivative,) = torch.autograd.grad(expected, predictions)
                torch.testing.assert_close(gradient.detach(), derivative, rtol=1e-12, atol=1e-15)

    def test_huber_lies_between_its_two_limits(self) -> None:
        zeros = np.zeros_like(ERRORS)
        wide = huber_loss(ERRORS, zeros, delta=100.0, reduction="none")
        np.testing.assert_allclose(wide, 0.5 * ERRORS**2, rtol=1e-15)
        narrow = huber_loss(ERRORS, zeros, delta=1e-9, reduction="none") / 1e-9
        np.testing.assert_allclose(narrow, np.abs(ERRORS), rtol=1e-6)


class Charbonnier(unittest.TestCase):
    """mpmath at 50 digits, straight from the definition; the limits; nothing overflows before the loss itself."""

    @parameterized.expand(
        [(dtype, *options) for dtype in ("float64", "float32") for options in ((1e-3, 1.0), (0.5, 0.45), (2.0, 1.7))]
    )
    def test_mpmath(self, dtype: str, epsilon: float, alpha: float) -> None:
        errors = np.array([0.0, 1e-12, 3e-4, -1e-3, 0.02, -1.0, 7.5, -3e3, 1e18]).astype(dtype)
        with mpmath.workdps(50):
            e, squared = [mpmath.mpf(float(x)) for x in errors], mpmath.mpf(epsilon) ** 2
            half = mpmath.mpf(alpha) / 2
            values = [float((x * x + squared) ** half) for x in e]
            slopes = [float(2 * half * x * (x * x + squared) ** (half - 1)) for x in e]
        keywords = {"epsilon": epsilon, "alpha": alpha, "reduction": "none", "dtype": dtype}
        value, slope = evaluate_pair("numpy", charbonnier_loss, errors, np.zeros_like(errors), **keywords)
        # a power costs the logarithm's digits, 1e18^0.7 = e^29; a root costs none
        rounding = (1.0 if alpha == 1.0 else 10.0) * 3.0 * np.finfo(dtype).eps
        np.testing.assert_allclose(value, values, rtol=rounding)
        np.testing.assert_allclose(slope, slopes, rtol=rounding)

    def test_lies_between_its_two_limits(self) -> None:
        zeros = np.zeros_like(ERRORS)
        narrow = charbonnier_loss(ERRORS, zeros, epsilon=1e-12, reduction="none")
        np.testing.assert_allclose(narrow, np.abs(ERRORS), atol=1e-12)
        wide = charbonnier_loss(ERRORS, zeros, epsilon=1e3, alpha=2.0, reduction="none")
        np.testing.assert_allclose(wide, ERRORS**2 + 1e6, rtol=1e-15)

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in ("float64", "float32")])
    def test_extremes(self, mode: str, dtype: str) -> None:
        largest = {"float64": 1e300, "float32": 1e38}[dtype]
        errors = np.array([largest, -largest, 0.0, 1.0 / largest])
        for alpha in (0.5, 1.0):
            keywords = {"alpha": alpha, "dtype": dtype, "reduction": "none"}
            value, slope = evaluate_pair(mode, charbonnier_loss, errors, np.zeros(4), **keywords)
            rounding = {"float64": 1e-12, "float32": 1e-4}[dtype]  # e^690 and e^87
            np.testing.assert_allclose(value, [largest**alpha] * 2 + [1e-3**alpha] * 2, rtol=rounding)
            far = alpha * largest ** (alpha - 1.0)
            np.testing.assert_allclose(slope[:3], [far, -far, 0.0], rtol=rounding)

    @parameterized.expand([(mode, epsilon) for mode in MODES for epsilon in (1e-42, 1e-300)])
    def test_a_width_below_the_range_of_the_dtype(self, mode: str, epsilon: float) -> None:
        keywords = {"epsilon": epsilon, "alpha": 0.5, "dtype": "float32", "reduction": "none"}
        value, slope = evaluate_pair(mode, charbonnier_loss, np.array([0.0, 4.0]), np.zeros(2), **keywords)
        np.testing.assert_allclose(value, [0.0, 2.0], rtol=1e-6, atol=1e-18)
        np.testing.assert_allclose(slope, [0.0, 0.25], rtol=1e-6)

    @parameterized.expand([("epsilon", 0.0), ("epsilon", -1.0), ("alpha", 0.0), ("alpha", INF)])
    def test_refused(self, option: str, value: float) -> None:
        for function in (charbonnier_loss, charbonnier_loss_gradient):
            with self.assertRaisesRegex(ValueError, f"{option} must be > 0"):
                function(np.ones(2), np.ones(2), **{option: value})


class PeakSignalToNoise(unittest.TestCase):
    """The textbook's 10 log₁₀(MSE / max²), image by image; perfect, far and close fits."""

    @parameterized.expand([(mode, axis) for mode in MODES for axis in (None, (1, 2, 3), (-1,), (3, 1), 0)])
    def test_textbook(self, mode: str, axis: Any) -> None:
        generator = np.random.default_rng(0)
        predictions, targets = 255.0 * generator.random((2, 3, 4, 5, 2))
        mse = np.mean((predictions - targets) ** 2, axis=axis)
        value, slope = evaluate_pair(
            mode, psnr_loss, predictions, targets, max_value=255.0, axis=axis, reduction="none"
        )
        np.testing.assert_allclose(value, 10.0 * np.log10(mse / 255.0**2), rtol=1e-12)
        # d(10 log₁₀ m) = 10 / (m ln 10) dm
        each = np.mean((predictions - targets) ** 2, axis=axis, keepdims=True)
        expected = 10.0 / (np.log(10.0) * each) * 2.0 * (predictions - targets) * each.size / predictions.size
        np.testing.assert_allclose(slope, expected, rtol=1e-12)

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in ("float64", "float32", "float16")])
    def test_perfect_fit(self, mode: str, dtype: str) -> None:
        predictions = np.array([[0.25, 0.5], [0.25, 0.75], [0.0, 1.0]])
        targets = np.array([[0.25, 0.5], [0.25, 0.5], [0.0, 1.0]])
        value, slope = evaluate_pair(mode, psnr_loss, predictions, targets, axis=1, reduction="none", dtype=dtype)
        np.testing.assert_array_equal(value[[0, 2]], [-INF, -INF])
        np.testing.assert_array_equal(slope[[0, 2]], np.zeros((2, 2)))
        np.testing.assert_allclose(
            slope[1], [0.0, 20.0 / np.log(10.0) / 0.25], rtol=1e-3 if dtype == "float16" else 1e-6
        )
        weights = np.array([0.0, 1.0, 0.0])
        value, slope = evaluate_pair(mode, psnr_loss, predictions, targets, axis=1, weights=weights, dtype=dtype)
        self.assertTrue(np.isfinite(value))
        self.assertFalse(np.any(slope[[0, 2]]))

    @parameterized.expand(
        [(mode, dtype) for mode in MODES for dtype in ("float64", "float32", "float16", "bfloat16")
         if (mode, dtype) != ("numpy", "bfloat16")]
    )  # fmt: skip
    def test_finite_losses_have_finite_gradients(self, mode: str, dtype: str) -> None:
        exponents = {"float64": 307, "float32": 37, "float16": 4, "bfloat16": 37}[dtype]  # XLA has no subnormals
        errors = 10.0 ** np.linspace(-exponents, exponents, 23)[:, None] * np.array([1.0, -0.5])
        value, slope = evaluate_pair(
            mode, psnr_loss, errors, np.zeros_like(errors), axis=1, reduction="none", dtype=dtype
        )
        self.assertTrue(np.isfinite(value[np.any(errors != 0.0, axis=1)]).all())
        self.assertTrue(np.isfinite(slope).all())
        self.assertTrue(np.all(slope[:, 0] >= 0.0) and np.all(slope[:, 1] <= 0.0))

    def test_weights_weigh_images(self) -> None:
        generator = np.random.default_rng(1)
        predictions, targets = generator.random((2, 4, 3))
        weights = np.array([1.0, 0.0, 2.0, 1.0])
        each = psnr_loss(predictions, targets, axis=1, reduction="none")
        found = psnr_loss(predictions, targets, axis=1, weights=weights, reduction="weighted_mean")
        self.assertAlmostEqual(float(found), float(np.sum(weights * each) / 4.0), 12)
        with self.assertRaisesRegex(ValueError, r"weights of shape \(4, 3\) do not broadcast"):
            psnr_loss(predictions, targets, axis=1, weights=np.ones((4, 3)))

    @parameterized.expand(
        [
            ({"axis": 4}, ValueError, "axis 4 is out of range for an array of 2 dimensions"),
            ({"axis": (0, -2)}, ValueError, "axis names a dimension twice"),
            ({"axis": 1.0}, TypeError, "axis must be an integer"),
            ({"max_value": 0.0}, ValueError, "max_value must be > 0"),
            ({"max_value": np.ones(2)}, ValueError, "max_value must be one number"),
        ]
    )
    def test_refused(self, options: Any, error: type[Exception], message: str) -> None:
        for function in (psnr_loss, psnr_loss_gradient, value_and_gradient(psnr_loss)):
            with self.assertRaisesRegex(error, message):
                function(np.ones((2, 2)), np.zeros((2, 2)), **options)

    def test_no_pixels(self) -> None:
        value, slope = value_and_gradient(psnr_loss)(np.ones((3, 0)), np.ones((3, 0)), axis=1)
        self.assertEqual((float(value), slope.shape), (0.0, (3, 0)))


class Levels(unittest.TestCase):
    """The best constants are the quantiles and expectiles that others compute; several levels are one each."""

    SAMPLE = np.random.default_rng(4).gamma(2.0, size=501)

    def best(self, loss: Any, **options: float) -> float:
        """Return where the gradient of all targets together changes its sign."""
        low, high = float(self.SAMPLE.min()), float(self.SAMPLE.max())
        for _ in range(60):
            middle = 0.5 * (low + high)
            gradient = find_loss(loss).gradient(np.full_like(self.SAMPLE, middle), self.SAMPLE, **options)
            low, high = (middle, high) if gradient.sum() < 0.0 else (low, middle)
        return high

    @parameterized.expand([(level,) for level in (0.1, 0.5, 0.9)])
    def test_best_constant(self, level: float) -> None:
        at = np.sort(self.SAMPLE)[int(np.ceil(level * self.SAMPLE.size)) - 1]
        self.assertAlmostEqual(self.best(pinball_loss, quantile=level), at, 12)
        self.assertAlmostEqual(
            self.best(expectile_loss, expectile=level), scipy.stats.expectile(self.SAMPLE, level), 12
        )

    def test_halves_of_the_absolute_and_the_squared_error(self) -> None:
        zeros = np.zeros_like(ERRORS)
        np.testing.assert_array_equal(pinball_loss(ERRORS, zeros), 0.5 * mae_loss(ERRORS, zeros))
        np.testing.assert_array_equal(expectile_loss(ERRORS, zeros), 0.5 * mse_loss(ERRORS, zeros))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_a_last_axis_of_levels(self, mode: str) -> None:
        levels = np.array([0.1, 0.5, 0.95])
        predictions, targets = np.random.default_rng(0).standard_normal((2, 5, 3))
        for loss, name in ((pinball_loss, "quantile"), (expectile_loss, "expectile")):
            value, slope = evaluate_pair(mode, loss, predictions, targets, reduction="none", **{name: levels})
            for i, level in enumerate(levels):
                alone = {name: float(level), "reduction": "none"}
                expected, slopes = evaluate_pair(mode, loss, predictions[:, i], targets[:, i], **alone)
                np.testing.assert_allclose(value[:, i], expected, rtol=1e-14)
                np.testing.assert_allclose(slope[:, i], slopes, rtol=1e-14)

    @parameterized.expand([(0.0,), (1.0,), (-0.5,), (np.array([0.5, 1.0]),)])
    def test_refused(self, level: Any) -> None:
        for loss, name in ((pinball_loss, "quantile"), (expectile_loss, "expectile")):
            for function in (loss, find_loss(loss).gradient):
                with self.assertRaisesRegex(ValueError, rf"{name} must be in \(0, 1\)"):
                    function(np.ones(2), np.ones(2), **{name: level})


class Percentages(unittest.TestCase):
    P, T = np.array([1.5, -2.0, 3.0, 0.5]), np.array([1.0, -4.0, -3.0, 2.0])

    def test_scikit_learn(self) -> None:
        self.assertAlmostEqual(float(mape_loss(self.P, self.T)), mean_absolute_percentage_error(self.T, self.P), 14)
        p, t = abs(self.P), abs(self.T)
        self.assertAlmostEqual(float(msle_loss(p, t)), mean_squared_log_error(t, p), 14)

    def test_by_hand(self) -> None:
        np.testing.assert_allclose(mspe_loss(self.P, self.T, reduction="none"), [0.25, 0.25, 4.0, 0.5625], rtol=1e-15)
        np.testing.assert_allclose(smape_loss(self.P, self.T, reduction="none"), [0.4, 2.0 / 3.0, 2.0, 1.2], rtol=1e-15)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_targets_of_0_count_as_epsilon(self, mode: str) -> None:
        p, t = np.array([3.0, -1.0]), np.zeros(2)
        for loss, values, slopes in ((mape_loss, [6.0, 2.0], [2.0, -2.0]), (mspe_loss, [36.0, 4.0], [24.0, -8.0])):
            value, slope = evaluate_pair(mode, loss, p, t, epsilon=0.5, reduction="none")
            np.testing.assert_array_equal(value, values)
            np.testing.assert_array_equal(slope, slopes)
        value, slope = evaluate_pair(mode, smape_loss, p, t, epsilon=2.0, reduction="none")
        np.testing.assert_array_equal(value, [2.0, 1.0])
        np.testing.assert_array_equal(slope, [0.0, -1.0])

    def test_shares_do_not_change_with_the_unit(self) -> None:
        for loss in (mape_loss, mspe_loss, smape_loss):
            self.assertEqual(loss(self.P, self.T), loss(1024.0 * self.P, 1024.0 * self.T))


class Kinks(unittest.TestCase):
    """What stands where the derivative does not exist."""

    @parameterized.expand([(mode,) for mode in MODES])
    def test_mae_at_zero(self, mode: str) -> None:
        x = np.array([0.0, -0.0, 3.0])
        _, gradient = evaluate_pair(mode, mae_loss, x, np.array([-0.0, 0.0, 3.0]), reduction="sum")
        np.testing.assert_array_equal(gradient, [0.0, 0.0, 0.0])

    @parameterized.expand([(mode, delta) for mode in MODES for delta in (0.5, 1.0, 3.0)])
    def test_huber_at_delta(self, mode: str, delta: float) -> None:
        predictions, targets = np.array([1.0 + delta, 1.0 - delta]), np.ones(2)
        value, gradient = evaluate_pair(mode, huber_loss, predictions, targets, delta=delta, reduction="none")
        np.testing.assert_array_equal(gradient, [delta, -delta])
        np.testing.assert_array_equal(value, [0.5 * delta**2, 0.5 * delta**2])


class Extremes(unittest.TestCase):
    """Infinite, largest and smallest errors, and widths."""

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in ("float64", "float32")])
    def test_infinite_errors(self, mode: str, dtype: str) -> None:
        errors, targets = np.array([INF, -INF, NAN]), np.zeros(3)
        for loss, slopes in (
            (mse_loss, [INF, -INF, NAN]),
            (mae_loss, [1.0, -1.0, NAN]),
            (huber_loss, [1.0, -1.0, NAN]),
        ):
            keywords = {"dtype": dtype, "reduction": "none"}
            value, gradient = evaluate_pair(mode, loss, errors, targets, **keywords)
            np.testing.assert_array_equal(value, [INF, INF, NAN])
            np.testing.assert_array_equal(gradient, slopes)
            # the difference of two equal infinities is no number
            self.assertTrue(np.isnan(evaluate(mode, loss, errors[:1], errors[:1], **keywords)).all())

    @parameterized.expand(
        [(mode, dtype) for mode in MODES for dtype in ("float64", "float32", "float16", "bfloat16")
         if (mode, dtype) != ("numpy", "bfloat16")]
    )  # fmt: skip
    def test_finite_losses_have_finite_gradients(self, mode: str, dtype: str) -> None:
        exponents = {"float64": 308, "float32": 38, "float16": 4, "bfloat16": 38}[dtype]
        magnitudes = 10.0 ** np.linspace(-exponents, exponents, 23)
        predictions = np.concatenate([magnitudes, -magnitudes])
        for loss in (mse_loss, mae_loss, huber_loss):
            keywords = {"dtype": dtype, "reduction": "none"}
            value, slope = evaluate_pair(mode, loss, predictions, np.zeros_like(predictions), **keywords)
            self.assertTrue(np.all(value >= 0.0))
            self.assertTrue(np.all(np.isfinite(slope[np.isfinite(value)])))
            self.assertTrue(
                np.all(np.sign(slope) * np.sign(predictions) >= 0.0), "a gradient points away from its target"
            )

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in ("float64", "float32")])
    def test_huber_of_extreme_width(self, mode: str, dtype: str) -> None:
        errors = np.array([-3.0, 0.25, 1e6])
        for delta in (1e-30, 1e30):
            keywords = {"delta": delta, "dtype": dtype, "reduction": "none"}
            expected = delta * np.abs(errors) if delta < 1.0 else 0.5 * errors**2
            value, slopes = evaluate_pair(mode, huber_loss, errors, np.zeros(3), **keywords)
            np.testing.assert_allclose(value, expected, rtol=1e-6)
            np.testing.assert_allclose(slopes, np.clip(errors, -delta, delta), rtol=1e-6)

    def test_the_square_overflows_but_its_slope_does_not(self) -> None:
        predictions = np.array([1e30], dtype=np.float32)
        value, gradient = value_and_gradient(mse_loss)(predictions, np.zeros_like(predictions))
        self.assertEqual(float(value), INF)
        np.testing.assert_allclose(gradient, [2e30], rtol=1e-6)

    def test_mean_of_half_precision_squares_does_not_overflow(self) -> None:
        predictions = np.full(10_000, 100.0, dtype=np.float16)
        self.assertEqual(float(mse_loss(predictions, np.zeros_like(predictions))), 10_000.0)
        gradient = mse_loss_gradient(predictions, np.zeros_like(predictions))
        np.testing.assert_array_equal(gradient, np.full(10_000, 0.02, dtype=np.float16))


class Width(unittest.TestCase):
    """δ is a number, or one per column."""

    def test_one_per_column(self) -> None:
        predictions, targets = np.array([[2.0, 2.0], [-1.0, 4.0]]), np.zeros((2, 2))
        deltas = np.array([1.0, 3.0])
        columns = [
            huber_loss(predictions[:, i], targets[:, i], delta=delta, reduction="sum") for i, delta in enumerate(deltas)
        ]
        self.assertEqual(float(huber_loss(predictions, targets, delta=deltas, reduction="sum")), sum(columns))

    @parameterized.expand(
        [
            (np.ones(3), ValueError, r"delta of shape \(3,\) does not broadcast to predictions of shape \(2, 2\)"),
            (np.ones((1, 2, 2)), ValueError, r"delta of shape \(1, 2, 2\)"),
            (np.array([1.0, 0.0]), ValueError, "delta must be > 0"),
            (torch.ones(2), TypeError, "delta is from torch"),
            (INF, ValueError, "delta must be > 0, and finite, got inf"),
            (-1, ValueError, "delta must be > 0, got -1.0"),
        ]
    )
    def test_refused(self, delta: Any, error: type[Exception], message: str) -> None:
        for function in (huber_loss, huber_loss_gradient):
            with self.assertRaisesRegex(error, message):
                function(np.ones((2, 2)), np.ones((2, 2)), delta=delta)


class Dtypes(unittest.TestCase):
    """Targets may be of another type: the predictions decide."""

    @parameterized.expand([(mode,) for mode in MODES])
    def test_integer_targets(self, mode: str) -> None:
        value = evaluate(mode, mse_loss, np.array([1.5, 2.0]), np.array([1, 4]), dtype="float32")
        self.assertEqual(float(value), 2.125)

    def test_wider_targets(self) -> None:
        predictions, targets = np.array([1.5, 2.0], dtype=np.float32), np.array([1.0, 4.0])
        self.assertEqual(mse_loss(predictions, targets).dtype, np.float32)
        self.assertEqual(mse_loss_gradient(predictions, targets).dtype, np.float32)

    def test_torch_graph(self) -> None:
        predictions = torch.tensor([1.0, 5.0], requires_grad=True)
        mse_loss(predictions, torch.zeros(2)).backward()
        torch.testing.assert_close(predictions.grad, torch.tensor([1.0, 5.0]))
