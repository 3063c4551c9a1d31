"""A law at the ends of the domain, where the laws over drawn arguments do not come."""

from __future__ import annotations

import unittest
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import REDUCED_DRAWN, Case, convert, double_precision, flat, label, to_numpy
from parameterized import parameterized

from mithril_losses import (
    gaussian_negative_log_likelihood,
    gaussian_negative_log_likelihood_gradient,
    mse_loss_gradient,
    value_and_gradient,
)
from mithril_losses.domains import Distributions, Elements

# losses that are infinite in mathematics: at p > 0 against q = 0, and at a perfect fit; or that take exponentials, such
# as those that are handed logarithms, and these overflow
INFINITE = (
    "exponential_loss",
    "gamma_negative_log_likelihood",
    "gaussian_kl_divergence",
    "gaussian_kl_divergence_between",
    "gaussian_negative_log_likelihood",
    "inverse_gaussian_negative_log_likelihood",
    "kl_divergence",
    "laplace_negative_log_likelihood",
    "poisson_negative_log_likelihood",
    "psnr_loss",
    "reverse_kl_divergence",
    "tweedie_negative_log_likelihood",
)


# with exponents at which e^x leaves a type's range, and e^(x/2) does not
NARROW = (("numpy", "float16", 12.0, 26.0), ("numpy", "float32", 80.0, 104.0), ("torch", "bfloat16", 80.0, 104.0))


class Extremes(unittest.TestCase):
    """Legal arguments never give NaN; a finite loss has a finite gradient; and no loss overflows at a thousand."""

    @parameterized.expand([(case, *narrow) for case in REDUCED_DRAWN for narrow in NARROW], name_func=label)
    def test_finite_in_narrow_types(self, case: Case, library: str, dtype: str, low: float, high: float) -> None:
        generator = np.random.default_rng(12)
        weights = np.full(case.rows, 2.0)  # a finite loss times a weight is one, too
        for draw in range(8):
            huge = generator.uniform(low, high)
            ends = [0.0, -1.0, 1.0, 1e-3, -huge, huge]
            arrays = {name: _extreme(case.pair.domain[name], x, ends, generator) for name, x in case.arrays.items()}
            extreme = Case(case.pair, "extreme", arrays, case.options)
            with self.subTest(draw=draw, huge=huge):
                keywords = {"reduction": "none", "weights": weights}
                self._assert_finite(
                    extreme, library, to_numpy(extreme.value(library, dtype, **keywords)), dtype, keywords
                )

    @parameterized.expand(list(product(REDUCED_DRAWN, ("numpy", "jax", "torch"))), name_func=label)
    @pytest.mark.exhaustive_for(named="jax")  # narrow types, above, see most of what is JAX's own at the ends
    def test_ends_of_the_domain(self, case: Case, library: str) -> None:
        generator = np.random.default_rng(11)
        # what compares whole sets of points may subtract one overflow from another
        for huge in (1e3, 1e200) if case.pair.terms.separable else (1e3,):
            for draw in range(8):
                ends = [0.0, -1.0, 1.0, 1e-300, -huge, huge]
                arrays = {name: _extreme(case.pair.domain[name], x, ends, generator) for name, x in case.arrays.items()}
                extreme = Case(case.pair, "extreme", arrays, case.options)
                with self.subTest(huge=huge, draw=draw), double_precision(library):
                    values = to_numpy(extreme.value(library, reduction="none"))
                    finite = np.isfinite(values)
                    self.assertFalse(np.isnan(values).any())
                    if huge == 1e3 and case.pair.name not in INFINITE:
                        self.assertTrue(finite.all())
                    self._assert_finite(extreme, library, values, "float64", {"reduction": "none"})

    @parameterized.expand(["numpy", "jax", "torch"])
    def test_overflow_by_a_scaled_loss_is_seen(self, library: str) -> None:
        """Whoever multiplies a loss for half precision skips the step in which a gradient is infinite."""
        p, t = convert(np.array([300.0, 1.0]), library, "float16"), convert(np.zeros(2), library, "float16")
        gradient = to_numpy(mse_loss_gradient(p, t, reduction="sum", upstream=1024.0))
        np.testing.assert_array_equal(gradient, [np.inf, 2048.0])

    @parameterized.expand([(size, scale) for size in (2, 1 << 16) for scale in (1.0, 2.0)])
    def test_steep_slopes_on_every_path(self, size: int, scale: float) -> None:
        mean, logvar, targets = (np.full(size, x, np.float32) for x in (1e-13, -120.0, 0.0))
        options = {"reduction": "sum", "upstream": scale}
        plain = gaussian_negative_log_likelihood_gradient(mean, logvar, targets, **options)
        for compile in (None, False):
            both = value_and_gradient(gaussian_negative_log_likelihood, compile=compile)
            value, gradient = both(mean, logvar, targets, **options)
            self.assertTrue(np.isfinite(value))
            for name, g in gradient.items():
                np.testing.assert_allclose(g, plain[name], rtol=1e-6)  # NumPy's exponential and ours differ
        self.assertEqual(plain["mean"][0], np.finfo(np.float32).max if scale == 1.0 else np.inf)

    def _assert_finite(self, case: Case, library: str, values: Any, dtype: str, keywords: dict[str, Any]) -> None:
        finite = np.isfinite(values)
        for path, gradient in flat(case.gradient(library, dtype, **keywords)):
            by_row = gradient.shape[: finite.ndim] == finite.shape
            known = finite if by_row else np.full(gradient.shape, finite.all())
            self.assertTrue(np.isfinite(to_numpy(gradient)[known]).all(), path)


def _extreme(domain: Any, x: np.ndarray, ends: list[float], generator: np.random.Generator) -> np.ndarray:
    """Return ends, or those of the domain, in place of the elements; the first row is the same in every argument."""
    if isinstance(domain, Elements):
        ends = [domain.low, domain.high] if domain.high < np.inf else [end for end in ends if end >= domain.low]
        extreme = generator.choice(ends, x.shape)
        extreme[0] = ends[0]
        return extreme
    if isinstance(domain, Distributions):
        return np.eye(x.shape[-1])[generator.integers(0, x.shape[-1], x.shape[:-1])]
    return x
