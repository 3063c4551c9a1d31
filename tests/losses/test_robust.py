"""What no law says about the robust losses: other libraries' numbers, limits, and the ends of the floating types."""

from __future__ import annotations

import unittest
from typing import Any

import mpmath
import numpy as np
import scipy.optimize
import scipy.special
from modes import MODES, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    cauchy_loss,
    charbonnier_loss,
    fair_loss,
    find_loss,
    general_robust_loss,
    huber_loss,
    mse_loss,
    pseudo_huber_loss,
    tukey_biweight_loss,
)

ERRORS = np.array([-7.0, -1.0, -0.3, 0.0, 1e-3, 0.7, 1.0, 2.5, 40.0])
ZEROS = np.zeros_like(ERRORS)
WITH_SCALE = [
    (fair_loss, "scale"),
    (cauchy_loss, "scale"),
    (tukey_biweight_loss, "scale"),
    (pseudo_huber_loss, "delta"),
]


def losses(loss: Any, errors: np.ndarray = ERRORS, **options: Any) -> np.ndarray:
    return loss(errors, np.zeros_like(errors), reduction="none", **options)


class References(unittest.TestCase):
    @parameterized.expand([(delta,) for delta in (0.25, 1.0, 3.0)])
    def test_scipy_has_the_pseudo_huber_loss(self, delta: float) -> None:
        np.testing.assert_allclose(
            losses(pseudo_huber_loss, delta=delta), scipy.special.pseudo_huber(delta, ERRORS), rtol=1e-13
        )

    @parameterized.expand([(scale,) for scale in (0.5, 1.0, 2.0)])
    def test_scipy_fits_with_the_cauchy_loss(self, scale: float) -> None:
        """`least_squares` reports the cost ½ Σ c² log(1 + (e/c)²)."""
        fit = scipy.optimize.least_squares(lambda x: ERRORS - x, 0.0, loss="cauchy", f_scale=scale)
        total = cauchy_loss(np.full_like(ERRORS, fit.x[0]), ERRORS, scale=scale, reduction="sum")
        np.testing.assert_allclose(total, fit.cost, rtol=1e-12)

    @parameterized.expand(
        [
            # the named losses of table 1 of Barron's paper
            ("L2", 2.0, lambda u: 0.5 * u**2),
            ("Charbonnier", 1.0, lambda u: np.sqrt(u**2 + 1.0) - 1.0),
            ("Cauchy", 0.0, lambda u: np.log(0.5 * u**2 + 1.0)),
            ("Geman-McClure", -2.0, lambda u: 2.0 * u**2 / (u**2 + 4.0)),
        ]
    )
    def test_names_of_the_general_loss(self, name: str, alpha: float, expected: Any) -> None:
        for scale in (0.5, 1.0, 3.0):
            np.testing.assert_allclose(
                losses(general_robust_loss, alpha=alpha, scale=scale), expected(ERRORS / scale), rtol=1e-13, atol=1e-15
            )

    def test_general_loss_of_a_very_negative_alpha_is_that_of_welsch(self) -> None:
        np.testing.assert_allclose(
            losses(general_robust_loss, alpha=-1e9), 1.0 - np.exp(-0.5 * ERRORS**2), rtol=1e-6, atol=1e-12
        )

    @parameterized.expand([(mode, alpha) for mode in MODES for alpha in (2.0, 0.0)])
    def test_alpha_where_the_formula_is_not_defined(self, mode: str, alpha: float) -> None:
        value, slope = evaluate_pair(mode, general_robust_loss, ERRORS, ZEROS, alpha=alpha, reduction="none")
        near, slopes = (f(ERRORS, ZEROS, alpha=alpha - 1e-7, reduction="none") for f in _pair(general_robust_loss))
        np.testing.assert_allclose(value, near, rtol=1e-5)
        np.testing.assert_allclose(slope, slopes, rtol=1e-5)

    def test_a_shape_for_each_column(self) -> None:
        errors, alphas = np.array([[0.5, 3.0, -2.0], [4.0, -0.1, 1.0]]), np.array([2.0, 0.0, -1.5])
        found = losses(general_robust_loss, errors, alpha=alphas)
        for i, alpha in enumerate(alphas):
            np.testing.assert_allclose(found[:, i], losses(general_robust_loss, errors[:, i], alpha=alpha), rtol=1e-14)

    def test_pseudo_huber_is_charbonnier_times_its_width(self) -> None:
        shifted = charbonnier_loss(ERRORS, ZEROS, epsilon=0.5, reduction="none") - 0.5
        np.testing.assert_allclose(losses(pseudo_huber_loss, delta=0.5), 0.5 * shifted, rtol=1e-9, atol=1e-15)


def _pair(loss: Any) -> tuple[Any, Any]:
    return loss, find_loss(loss).gradient


class Limits(unittest.TestCase):
    """A wide scale leaves half of the squared error; a narrow one what is left for large errors."""

    @parameterized.expand([(loss.__name__, loss, option) for loss, option in WITH_SCALE])
    def test_wide(self, name: str, loss: Any, option: str) -> None:
        np.testing.assert_allclose(
            losses(loss, **{option: 1e9}), 0.5 * mse_loss(ERRORS, ZEROS, reduction="none"), rtol=1e-6
        )

    @parameterized.expand(
        [
            ("pseudo_huber_loss", pseudo_huber_loss, "delta", lambda e, c: c * np.abs(e)),
            ("fair_loss", fair_loss, "scale", lambda e, c: c * (np.abs(e) - c * np.log(np.abs(e) / c))),
            ("cauchy_loss", cauchy_loss, "scale", lambda e, c: c**2 * np.log(np.abs(e) / c)),
            ("tukey_biweight_loss", tukey_biweight_loss, "scale", lambda e, c: c**2 / 6.0 + 0.0 * e),
        ]
    )
    def test_narrow(self, name: str, loss: Any, option: str, expected: Any) -> None:
        errors = ERRORS[np.abs(ERRORS) > 0.1]
        np.testing.assert_allclose(losses(loss, errors, **{option: 1e-9}), expected(errors, 1e-9), rtol=1e-6)

    def test_huber_bounds_its_smooth_relative(self) -> None:
        self.assertTrue(np.all(losses(pseudo_huber_loss, delta=0.5) <= losses(huber_loss, delta=0.5)))

    def test_no_error_beyond_the_scale_moves_a_fit_by_tukey(self) -> None:
        gradient = find_loss(tukey_biweight_loss).gradient(ERRORS, ZEROS, scale=1.0)
        np.testing.assert_array_equal(gradient[np.abs(ERRORS) >= 1.0], 0.0)


class Digits(unittest.TestCase):
    """mpmath at 50 digits, straight from the definition, at errors that are far smaller and larger than the scale."""

    ERRORS = np.array([1e-12, -1e-6, 1e-3, -0.4, 0.999, 1.0, 1.5, -30.0, 1e6, -1e12])

    @parameterized.expand([(dtype, scale) for dtype in ("float64", "float32") for scale in (1.0, 0.03, 20.0)])
    def test_mpmath(self, dtype: str, scale: float) -> None:
        def of_fair(e: Any, c: Any) -> Any:
            return c**2 * (abs(e) / c - mpmath.log(1 + abs(e) / c)), e / (1 + abs(e) / c)

        def of_cauchy(e: Any, c: Any) -> Any:
            return c**2 / 2 * mpmath.log(1 + (e / c) ** 2), e / (1 + (e / c) ** 2)

        def of_pseudo_huber(e: Any, c: Any) -> Any:
            root = mpmath.sqrt(1 + (e / c) ** 2)
            return c**2 * (root - 1), e / root

        def of_tukey(e: Any, c: Any) -> Any:
            rest = max(1 - (e / c) ** 2, 0)
            return c**2 / 6 * (1 - rest**3), e * rest**2

        errors = self.ERRORS.astype(dtype)
        pairs = zip(WITH_SCALE, (of_fair, of_cauchy, of_tukey, of_pseudo_huber), strict=True)
        for (loss, option), definition in pairs:
            with mpmath.workdps(50), self.subTest(loss.__name__):
                exact = [
                    definition(mpmath.mpf(float(e)), mpmath.mpf(float(np.dtype(dtype).type(scale)))) for e in errors
                ]
                keywords = {option: scale, "reduction": "none", "dtype": dtype}
                found = evaluate_pair("numpy", loss, errors, np.zeros_like(errors), **keywords)
                for computed, expected in zip(found, zip(*exact, strict=True), strict=True):
                    # near c, 1 − (e/c)² of Tukey's slope is known as well as e is
                    np.testing.assert_allclose(
                        computed,
                        [float(x) for x in expected],
                        rtol=30 * np.finfo(dtype).eps,
                        atol=3 * np.finfo(dtype).eps,
                    )

    @parameterized.expand([(mode, loss.__name__, loss, option) for mode in MODES for loss, option in WITH_SCALE])
    def test_a_scale_below_the_range_of_the_dtype(self, mode: str, name: str, loss: Any, option: str) -> None:
        for scale in (1e-42, 1e-300):
            keywords = {option: scale, "dtype": "float32", "reduction": "none"}
            value, slope = evaluate_pair(mode, loss, np.array([0.0, 2.0, -2.0]), np.zeros(3), **keywords)
            np.testing.assert_allclose(value, np.zeros(3), atol=1e-30)
            np.testing.assert_allclose(slope, np.zeros(3), atol=1e-30)

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in ("float64", "float32")])
    def test_largest_errors(self, mode: str, dtype: str) -> None:
        largest = {"float64": 1e300, "float32": 1e38}[dtype]
        errors = np.array([largest, -largest])
        keywords = {"dtype": dtype, "reduction": "none"}
        rounding = {"float64": 1e-12, "float32": 1e-5}[dtype]
        for loss, value, slope in (
            (pseudo_huber_loss, largest, 1.0),
            (fair_loss, largest, 1.0),
            (cauchy_loss, np.log(largest), 0.0),
            (tukey_biweight_loss, 4.685**2 / 6.0, 0.0),
            (general_robust_loss, largest, 1.0),
        ):
            with self.subTest(loss.__name__):
                found, slopes = evaluate_pair(mode, loss, errors, np.zeros(2), **keywords)
                np.testing.assert_allclose(found, value, rtol=rounding)
                np.testing.assert_allclose(slopes, [slope, -slope], rtol=rounding, atol=1e-30)


class Refused(unittest.TestCase):
    @parameterized.expand(
        [
            ("scale", fair_loss, {"scale": 0.0}, "scale must be > 0, got 0"),
            ("scale", cauchy_loss, {"scale": -1.0}, "scale must be > 0, got -1"),
            ("delta", pseudo_huber_loss, {"delta": np.inf}, "delta must be > 0, and finite"),
            ("alpha", general_robust_loss, {"alpha": 2.5}, "alpha must be .* got 2.5"),
            ("one alpha", general_robust_loss, {"alpha": np.array([1.0, 3.0])}, "alpha must be"),
        ]
    )
    def test_options(self, name: str, loss: Any, options: Any, message: str) -> None:
        for function in _pair(loss):
            with self.assertRaisesRegex(ValueError, message):
                function(np.ones(2), np.zeros(2), **options)
