"""What no law says about the divergences: other people's numbers, zeros, and sums that must not turn negative."""

from __future__ import annotations

import math
import unittest
from itertools import permutations, product
from typing import Any

import mpmath
import numpy as np
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from modes import EAGER, MODES, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    gaussian_kl_divergence,
    gaussian_kl_divergence_between,
    gaussian_kl_divergence_between_gradient,
    gaussian_kl_divergence_gradient,
    js_divergence,
    js_divergence_gradient,
    kl_divergence,
    kl_divergence_gradient,
    reverse_kl_divergence,
    reverse_kl_divergence_gradient,
    value_and_gradient,
    wasserstein_distance,
    wasserstein_distance_gradient,
)
from mithril_losses.domains import unenforced

INF = math.inf
GENERATOR = np.random.default_rng(8)
P, Q = GENERATOR.dirichlet(np.ones(4), 6), GENERATOR.dirichlet(np.ones(4), 6)
TINY = {"float64": 2.0**-1022, "float32": 2.0**-126}


class References(unittest.TestCase):
    """mpmath, SciPy and PyTorch."""

    def test_mpmath(self) -> None:
        rows = list(zip(P, Q, strict=True))
        rows.append((np.array([1e-300, 0.5, 0.5]), np.array([0.25, 0.75, 1e-200])))
        for p, q in rows:
            with mpmath.workdps(50):
                logarithms = [mpmath.log(mpmath.mpf(a) / mpmath.mpf(b)) for a, b in zip(p, q, strict=True)]
                expected = float(mpmath.fsum(mpmath.mpf(a) * x for a, x in zip(p, logarithms, strict=True)))
                slopes = [float(x + 1) for x in logarithms]
            np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-14)
            np.testing.assert_allclose(kl_divergence_gradient(p, q), slopes, rtol=1e-14, atol=1e-15)
            np.testing.assert_allclose(reverse_kl_divergence(q, p), expected, rtol=1e-14)

    def test_scipy(self) -> None:
        # rel_entr is the same term, element by element: p log(p/q), with 0 log 0 = 0 and +inf for p > 0 = q
        p, q = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]), np.array([[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]])
        for first, second in ((P, Q), (p, q), (q, p)):
            expected = scipy.special.rel_entr(first, second).sum(axis=-1)
            np.testing.assert_allclose(kl_divergence(first, second, reduction="none"), expected, rtol=1e-14)

    def test_torch(self) -> None:
        # torch's kl_div takes log p first and has the reverse direction; "batchmean" is our "mean" over rows
        p, q = torch.tensor(P, requires_grad=True), torch.tensor(Q)
        expected = F.kl_div(torch.log(p), q, reduction="batchmean")
        value, gradient = value_and_gradient(reverse_kl_divergence)(p, q)
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0.0)
        torch.testing.assert_close(gradient.detach(), *torch.autograd.grad(expected, p), rtol=1e-13, atol=0.0)

    def test_the_two_directions(self) -> None:
        np.testing.assert_array_equal(kl_divergence(P, Q), reverse_kl_divergence(Q, P))
        np.testing.assert_array_equal(kl_divergence_gradient(P, Q), reverse_kl_divergence_gradient(Q, P, wrt="targets"))
        np.testing.assert_array_equal(kl_divergence_gradient(P, Q, wrt="targets"), reverse_kl_divergence_gradient(Q, P))


class Zeros(unittest.TestCase):
    """p = 0, q = 0, and both."""

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in TINY])
    def test_kinks(self, mode: str, dtype: str) -> None:
        p, q = np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])
        value, gradient = evaluate_pair(mode, kl_divergence, p, q, dtype=dtype)
        np.testing.assert_allclose(value, math.log(2.0), rtol=1e-6)
        expected = [[math.log(TINY[dtype]) - math.log(0.5) + 1.0, math.log(2.0) + 1.0]]
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)
        at_targets = evaluate(mode, kl_divergence_gradient, p, q, dtype=dtype, wrt="targets")
        np.testing.assert_array_equal(at_targets, [[0.0, -2.0]])

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in TINY])
    def test_mass_where_there_is_none(self, mode: str, dtype: str) -> None:
        p, q = np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 0.0, 0.0]])
        for loss, first, second in ((kl_divergence, p, q), (reverse_kl_divergence, q, p)):
            value, gradient = evaluate_pair(mode, loss, first, second, dtype=dtype)
            self.assertEqual(float(value), INF)
            self.assertTrue(np.all(np.isfinite(gradient)))
        both = evaluate(mode, kl_divergence_gradient, p, q, dtype=dtype, wrt=("predictions", "targets"))
        self.assertTrue(np.all(np.isfinite(both["predictions"])) and np.all(np.isfinite(both["targets"])))
        self.assertLess(both["targets"][0, 1], -1e37)
        self.assertEqual(both["targets"][0, 2], 0.0)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_a_class_without_mass_counts_nothing(self, mode: str) -> None:
        wider = [np.insert(x, 1, 0.0, axis=1) for x in (P, Q)]
        for loss in (kl_divergence, reverse_kl_divergence):
            value, gradient = evaluate_pair(mode, loss, P, Q, reduction="none")
            found, slopes = evaluate_pair(mode, loss, *wider, reduction="none")
            np.testing.assert_allclose(found, value, rtol=0.0 if mode == "numpy" else 1e-14)
            np.testing.assert_array_equal(np.delete(slopes, 1, axis=1), gradient)

    @parameterized.expand([(mode, dtype) for mode in ("numpy", "torch", "jax") for dtype in ("float16", "bfloat16")
                           if (mode, dtype) != ("numpy", "bfloat16")])  # fmt: skip
    def test_finite_in_half_precision(self, mode: str, dtype: str) -> None:
        # 6e-8, the least float16 above 0: 1 / 6e-8 is more than float16 can hold
        p, q = np.array([[6e-8, 1.0], [0.0, 1.0], [1e-4, 1.0]]), np.array([[0.5, 0.5], [0.0, 1.0], [0.5, 0.5]])
        for loss, first, second in ((kl_divergence, p, q), (reverse_kl_divergence, p, q)):
            value, gradient = evaluate_pair(mode, loss, first, second, dtype=dtype, reduction="none")
            self.assertTrue(np.all(np.isfinite(value) & (value >= 0.0)))
            self.assertTrue(np.all(np.isfinite(gradient)))
        slope = evaluate(mode, reverse_kl_divergence_gradient, p[2:], q[2:], dtype=dtype)
        np.testing.assert_allclose(slope, [[-5000.0, -0.5]], rtol=1e-2)
        slope = evaluate(mode, kl_divergence_gradient, q, p, dtype=dtype, wrt="targets")
        self.assertTrue(np.all(np.isfinite(slope)))

    def test_a_slope_at_every_zero_points_into_the_simplex(self) -> None:
        gradient = kl_divergence_gradient(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
        self.assertLess(gradient[0], 0.0)
        self.assertEqual(float(kl_divergence_gradient(np.zeros(2), np.zeros(2))[0]), 1.0)


class Sign(unittest.TestCase):
    """A divergence is never negative: rows that are nearly or exactly equal."""

    @parameterized.expand([*product(("numpy", "torch"), ("float64", "float32")), ("jax.jit", "float32")])
    def test_nearly_equal_rows(self, mode: str, dtype: str) -> None:
        generator = np.random.default_rng(1)
        resolution = np.finfo(dtype).eps
        for classes in (2, 10, 300):
            p = generator.dirichlet(np.full(classes, 0.3), 2000).astype(dtype)
            noise = resolution * generator.integers(-4, 5, p.shape)
            q = (p * (1.0 + noise)).astype(dtype)
            for first, second in ((p, q), (q, p), (p, p)):
                value, _ = evaluate_pair(mode, kl_divergence, first, second, dtype=dtype, reduction="none")
                self.assertGreaterEqual(value.min(), 0.0)
                self.assertLess(value.max(), 1e3 * resolution)
            np.testing.assert_array_equal(value, np.zeros(2000))

    def test_rows_normalized_in_single_precision(self) -> None:
        generator = np.random.default_rng(2)
        for classes in (2, 7, 100):
            logits = generator.standard_normal((5000, classes))
            rows = []
            for shift in (0.0, 1e-4 * generator.standard_normal(logits.shape)):
                exponentials = np.exp(logits + shift).astype(np.float32)
                rows.append(exponentials / exponentials.sum(axis=1, keepdims=True))
            self.assertGreaterEqual(kl_divergence(*rows, reduction="none").min(), 0.0)
            self.assertGreaterEqual(reverse_kl_divergence(*rows, reduction="none").min(), 0.0)

    def test_a_true_negative_is_not_hidden(self) -> None:
        # rows that are no distributions: log ½ < 0
        with unenforced():
            self.assertAlmostEqual(float(kl_divergence(np.array([0.5, 0.5]), np.array([1.0, 1.0]))), math.log(0.5), 15)


class Arguments(unittest.TestCase):
    def test_one_distribution(self) -> None:
        self.assertEqual(kl_divergence(P[0], Q[0]).shape, ())
        np.testing.assert_allclose(kl_divergence(P[0], Q[0]), kl_divergence(P[:1], Q[:1]), rtol=1e-15)

    def test_one_large_distribution(self) -> None:
        p, q = np.random.default_rng(4).dirichlet(np.ones(40_000), 2)
        for loss in (kl_divergence, reverse_kl_divergence):
            for reduction in ("mean", "none"):
                value, _ = evaluate_pair("numpy", loss, p, q, reduction=reduction)
                self.assertEqual(value.shape, ())

    def test_scalars_are_no_distributions(self) -> None:
        with self.assertRaisesRegex(ValueError, "needs at least one axis, got a scalar"):
            kl_divergence(np.array(1.0), np.array(1.0))

    @parameterized.expand([(kl_divergence_gradient,), (reverse_kl_divergence_gradient,)])
    def test_wrt(self, gradient: Any) -> None:
        both = gradient(P, Q, wrt=("targets", "predictions"))
        self.assertEqual(list(both), ["predictions", "targets"])
        self.assertEqual(list(gradient(P, Q, wrt=("targets",))), ["targets"])
        with self.assertRaisesRegex(ValueError, "wrt must be one of .*, got 'target'; did you mean 'targets'"):
            gradient(P, Q, wrt="target")

    def test_mixed_types(self) -> None:
        p, q = (P / P.sum(axis=1, keepdims=True)).astype(np.float16), Q.astype(np.float64)
        both = kl_divergence_gradient(p, q, wrt=("predictions", "targets"))
        self.assertEqual((both["predictions"].dtype, both["targets"].dtype), (np.float16, np.float64))
        np.testing.assert_allclose(kl_divergence(p, q), kl_divergence(p.astype(np.float64), q), rtol=1e-3)
        one_hot = np.eye(4, dtype=int)[[0, 1, 2, 3, 0, 1]]
        expected = reverse_kl_divergence(P, one_hot.astype(float))
        np.testing.assert_array_equal(reverse_kl_divergence(P, one_hot), expected)
        for function in (kl_divergence, kl_divergence_gradient, value_and_gradient(kl_divergence)):
            with self.assertRaisesRegex(TypeError, "predictions must have a real floating dtype, got int64"):
                function(one_hot, P)

    def test_torch_distributions(self) -> None:
        p = torch.distributions.Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
        q = torch.distributions.Normal(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))
        # ½ (μ_p − μ_q)² = ½, and log ½ + (4 − 1) / 2
        value = kl_divergence(p, q, reduction="none")
        torch.testing.assert_close(value, torch.tensor([0.5, math.log(0.5) + 1.5]))
        torch.testing.assert_close(kl_divergence(p, q, reduction="sum"), value.sum())

    def test_distributions_with_a_method(self) -> None:
        class Bernoulli:  # as in distrax
            def __init__(self, p: float) -> None:
                self.p = np.array([p, 1.0 - p])

            def kl_divergence(self, other: Bernoulli) -> np.ndarray:
                return scipy.special.rel_entr(self.p, other.p).sum()

        self.assertAlmostEqual(float(kl_divergence(Bernoulli(0.5), Bernoulli(0.25))), 0.5 * math.log(4 / 3), 15)
        with self.assertRaisesRegex(TypeError, "predictions must be an array .* got Bernoulli"):
            kl_divergence_gradient(Bernoulli(0.5), Bernoulli(0.25))
        with self.assertRaisesRegex(TypeError, "predictions must be an array .* got list"):
            kl_divergence([0.5, 0.5], [0.5, 0.5])


def standard_normal_kl(mean: float, logvar: float) -> mpmath.mpf:
    """Return KL(N(mean, e^logvar) ‖ N(0, 1)) in 50 digits."""
    with mpmath.workdps(50):
        m, s = mpmath.mpf(mean), mpmath.mpf(logvar)
        return (m * m + mpmath.expm1(s) - s) / 2


class Gaussians(unittest.TestCase):
    """Closed forms, torch.distributions, precision near the standard normal, free bits."""

    @parameterized.expand(list(product(MODES, ("float64", "float32"))))
    def test_every_dimension_keeps_its_digits(self, mode: str, dtype: str) -> None:
        magnitudes = np.concatenate([10.0 ** -np.arange(0.0, 7.0), [0.79, 0.81, 3.0, 40.0]])
        logvar = np.concatenate([magnitudes, -magnitudes]).astype(dtype).astype(float)
        for mean in (0.0, 1e-6, 0.5):
            means = np.full(logvar.shape, mean).astype(dtype).astype(float)
            found = evaluate(mode, gaussian_kl_divergence, means, logvar, dtype=dtype, reduction="none")
            expected = [float(standard_normal_kl(m, s)) for m, s in zip(means, logvar, strict=True)]
            # a few roundings; XLA's expm1 in float32 is off by more than one of them
            np.testing.assert_allclose(found, expected, rtol=6 * np.finfo(dtype).eps)

    def test_the_compiled_loop_keeps_the_digits(self) -> None:
        logvar = np.geomspace(1e-6, 1e-3, 60_000, dtype=np.float32)
        value, gradient = value_and_gradient(gaussian_kl_divergence)(0.0 * logvar, logvar, reduction="sum")
        exact = logvar.astype(float)
        # x²/4 (1 + x/3 + x²/12) for ½(eˣ − 1 − x)
        np.testing.assert_allclose(value, np.sum(exact**2 / 4 * (1 + exact / 3 + exact**2 / 12)), rtol=3e-7)
        np.testing.assert_allclose(gradient["logvar"], np.expm1(exact) / 2, rtol=3e-7)

    def test_torch_distributions(self) -> None:
        mean, logvar, other_mean, other_logvar = torch.tensor(GENERATOR.standard_normal((4, 6, 5)))
        p = torch.distributions.Normal(mean, torch.exp(0.5 * logvar))
        standard = torch.distributions.Normal(torch.zeros(6, 5, dtype=torch.float64), 1.0)
        expected = torch.distributions.kl_divergence(p, standard).sum(1)
        torch.testing.assert_close(gaussian_kl_divergence(mean, logvar, reduction="none"), expected, rtol=1e-12, atol=0)
        q = torch.distributions.Normal(other_mean, torch.exp(0.5 * other_logvar))
        expected = torch.distributions.kl_divergence(p, q).sum(1)
        arguments = (mean, logvar, other_mean, other_logvar)
        found = gaussian_kl_divergence_between(*arguments, reduction="none")
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)

    def test_the_standard_normal_is_one_of_two(self) -> None:
        mean, logvar = GENERATOR.standard_normal((2, 6, 5))
        zeros = np.zeros((6, 5))
        found = gaussian_kl_divergence_between(mean, logvar, zeros, zeros)
        np.testing.assert_allclose(found, gaussian_kl_divergence(mean, logvar), rtol=1e-14)
        gradients = gaussian_kl_divergence_between_gradient(mean, logvar, zeros, zeros)
        for name, expected in gaussian_kl_divergence_gradient(mean, logvar).items():
            np.testing.assert_allclose(gradients[name], expected, rtol=1e-13)

    @parameterized.expand(list(product(MODES, ("float64", "float32", "float16"))))
    def test_nothing_at_all(self, mode: str, dtype: str) -> None:
        same = np.array([[0.5, -2.0], [0.0, 3.0]])
        value, gradient = evaluate_pair(mode, gaussian_kl_divergence_between, same, same, same, same, dtype=dtype)
        self.assertEqual(value, 0.0)
        for slopes in gradient.values():
            self.assertFalse(np.any(slopes))

    def test_samples_of_any_shape(self) -> None:
        # one loss per entry of the first axis: Σ over the others
        mean = GENERATOR.standard_normal((3, 2, 4))
        found = gaussian_kl_divergence(mean, np.zeros((3, 2, 4)), reduction="none")
        np.testing.assert_allclose(found, 0.5 * (mean**2).sum((1, 2)), rtol=1e-14)
        np.testing.assert_allclose(gaussian_kl_divergence(mean[0, 0], np.zeros(4)), 0.5 * np.mean(mean[0, 0] ** 2))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_free_bits(self, mode: str) -> None:
        # divergences ½·0.25 = 0.125, ½·1 = 0.5 and ½·4 = 2; the tie at 0.5 has the slope of the divergence
        mean, logvar = np.array([[0.5, 1.0, 2.0]]), np.zeros((1, 3))
        value, gradient = evaluate_pair(mode, gaussian_kl_divergence, mean, logvar, free_bits=0.5)
        self.assertEqual(float(value), 3.0)
        np.testing.assert_array_equal(gradient["mean"], [[0.0, 1.0, 2.0]])
        np.testing.assert_array_equal(gradient["logvar"], [[0.0, 0.0, 0.0]])

    @parameterized.expand([(mode,) for mode in MODES])
    def test_ends(self, mode: str) -> None:
        logvar = np.array([-INF, -1e4, 1e4, INF])
        value, gradient = evaluate_pair(mode, gaussian_kl_divergence, 0.0 * np.ones(4), logvar, reduction="none")
        np.testing.assert_allclose(value, [INF, 4999.5, INF, INF], rtol=1e-14)
        np.testing.assert_allclose(gradient["logvar"], [-0.5, -0.5, INF, INF], rtol=1e-14)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_slopes_beyond_the_range_are_the_largest_number(self, mode: str) -> None:
        # ½ (10⁻³ e⁵⁰)² = 1.3e37 is a number of float32, and 10⁻³ e¹⁰⁰ = 2.7e40 is none
        arguments = (np.array([1e-3]), np.array([-100.0]), np.array([0.0]), np.array([-100.0]))
        value, gradient = evaluate_pair(mode, gaussian_kl_divergence_between, *arguments, dtype="float32")
        self.assertTrue(np.isfinite(value))
        largest = float(np.finfo(np.float32).max)
        np.testing.assert_array_equal(gradient["mean"], [largest])
        by_other = evaluate(
            mode, gaussian_kl_divergence_between_gradient, *arguments, dtype="float32", wrt="other_mean"
        )
        np.testing.assert_array_equal(by_other, [-largest])

    def test_requests(self) -> None:
        gaussians = GENERATOR.standard_normal((4, 3, 2))
        names = ("mean", "logvar", "other_mean", "other_logvar")
        every = gaussian_kl_divergence_between_gradient(*gaussians, wrt=names)
        self.assertEqual(tuple(every), names)
        np.testing.assert_allclose(every["other_mean"], -every["mean"], rtol=1e-15)
        with self.assertRaisesRegex(ValueError, "wrt must be one of 'mean'.*did you mean 'other_mean'"):
            gaussian_kl_divergence_between_gradient(*gaussians, wrt="othermean")


class JensenShannon(unittest.TestCase):
    """mpmath near and far, SciPy, disjoint supports, zeros."""

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in TINY])
    def test_mpmath(self, mode: str, dtype: str) -> None:
        # from one part in a million apart to nothing in common
        p = np.array([0.25, 0.3, 0.6, 0.5, 0.25, 1e-30, 1e-12, 0.999]).astype(dtype)
        q = np.array([0.25 * (1 + 1e-6), 0.3001, 0.5, 0.9, 0.9, 0.5, 1e-6, 1e-20]).astype(dtype)
        p, q = (np.stack([x, np.maximum(1 - x, x.dtype.type(1e-9))], axis=1) for x in (p, q))
        with mpmath.workdps(50):
            values, slopes = [], []
            for a, b in zip(p.ravel().tolist(), q.ravel().tolist(), strict=True):
                m = (mpmath.mpf(a) + mpmath.mpf(b)) / 2
                values.append(float((a * mpmath.log(a / m) + b * mpmath.log(b / m)) / 2))
                slopes.append(float(mpmath.log(a / m) / 2))
        values, slopes = np.reshape(values, p.shape).sum(axis=1), np.reshape(slopes, p.shape)
        value, slope = evaluate_pair(mode, js_divergence, p, q, dtype=dtype, reduction="none")
        rounding = 12.0 * np.finfo(dtype).eps
        np.testing.assert_allclose(value, values, rtol=rounding)
        np.testing.assert_allclose(slope, slopes, rtol=rounding)

    def test_scipy(self) -> None:
        expected = scipy.spatial.distance.jensenshannon(P, Q, axis=1) ** 2
        np.testing.assert_allclose(js_divergence(P, Q, reduction="none"), expected, rtol=1e-12)
        np.testing.assert_allclose(js_divergence(Q, P, reduction="none"), expected, rtol=1e-12)
        by_q = js_divergence_gradient(P, Q, wrt="targets")
        np.testing.assert_array_equal(by_q, js_divergence_gradient(Q, P))

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in TINY])
    def test_disjoint_supports_and_zeros(self, mode: str, dtype: str) -> None:
        p, q = np.array([[0.5, 0.5, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0, 0.0]] * 2)
        value, slope = evaluate_pair(mode, js_divergence, p, q, dtype=dtype, reduction="none")
        np.testing.assert_allclose(value, math.log(2.0), rtol=1e-6)
        # log p at the smallest normal number, over m = ½; nothing where neither has mass
        at_zero = 0.5 * (math.log(TINY[dtype]) - math.log(0.5))
        half = 0.5 * math.log(2.0)
        np.testing.assert_allclose(slope, [[half, half, at_zero, 0.0]] * 2, rtol=1e-6)
        value, slope = evaluate_pair(mode, js_divergence, p, p, dtype=dtype, reduction="none")
        np.testing.assert_array_equal(value, [0.0, 0.0])
        np.testing.assert_array_equal(slope, np.zeros((2, 4)))

    def test_bounds_and_the_triangle_inequality_of_the_root(self) -> None:
        generator = np.random.default_rng(5)
        x, y, z = generator.dirichlet(np.full(5, 0.05), (3, 2000)).astype(np.float32)
        xy, yz, xz = (js_divergence(a, b, reduction="none") for a, b in ((x, y), (y, z), (x, z)))
        self.assertTrue(np.all(xy >= 0.0) and np.all(xy <= math.log(2.0) * (1.0 + 1e-6)))
        self.assertTrue(np.all(np.sqrt(xz) <= np.sqrt(xy) + np.sqrt(yz) + 1e-6))

    @parameterized.expand([("numpy", "float16"), ("torch", "bfloat16"), ("jax", "float16")])
    def test_finite_in_half_precision(self, mode: str, dtype: str) -> None:
        p, q = np.array([[6e-8, 1.0], [0.0, 1.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
        value, slope = evaluate_pair(mode, js_divergence, p, q, dtype=dtype, reduction="none")
        self.assertTrue(np.isfinite(value).all() and np.isfinite(slope).all())

    def test_masses_that_are_no_probabilities(self) -> None:
        p, q = np.array([40.0, 0.0, 1e-300]), np.array([0.0, 40.0, 1e300])
        with unenforced():
            value, slope = value_and_gradient(js_divergence)(p, q, reduction="none")
        self.assertTrue(np.isfinite(value) and np.isfinite(slope).all())


class Wasserstein(unittest.TestCase):
    """SciPy, shifted samples, samples repeated up to one number, and assignments tried out one by one."""

    @parameterized.expand([(mode, n, m) for mode in MODES for n, m in ((5, 5), (3, 7), (8, 6), (1, 4))])
    def test_scipy(self, mode: str, n: int, m: int) -> None:
        generator = np.random.default_rng(n)
        x, y = generator.standard_normal((2, n)), generator.standard_normal((2, m)) + 0.5
        value, _ = evaluate_pair(mode, wasserstein_distance, x, y, reduction="none")
        expected = [scipy.stats.wasserstein_distance(a, b) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(value, expected, rtol=1e-12)

    @parameterized.expand([(n, m, p) for n, m in ((3, 7), (8, 6), (4, 4), (2, 9)) for p in (1.0, 1.5, 2.0, 4.0)])
    def test_repeated_up_to_one_number(self, n: int, m: int, p: float) -> None:
        generator = np.random.default_rng(n)
        x, y = generator.standard_normal(n), 2.0 * generator.standard_normal(m)
        # every sample as often as makes both sets of one size: the same distributions
        order = np.argsort(x)
        d = np.repeat(x[order], m) - np.repeat(np.sort(y), n)
        expected = np.mean(np.abs(d) ** p) ** (1.0 / p)
        value, slope = value_and_gradient(wasserstein_distance)(x, y, p=p)
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        each = np.abs(d) ** (p - 1.0) * np.sign(d) * expected ** (1.0 - p) / d.size
        np.testing.assert_allclose(slope[order], each.reshape(n, m).sum(axis=1), rtol=1e-12, atol=1e-15)

    def test_no_assignment_is_cheaper(self) -> None:
        x, y = np.random.default_rng(0).standard_normal((2, 5))
        for p in (1.0, 2.0, 3.0):
            cheapest = min(np.mean(np.abs(x - y[list(order)]) ** p) for order in permutations(range(5)))
            np.testing.assert_allclose(wasserstein_distance(x, y, p=p), cheapest ** (1.0 / p), rtol=1e-13)

    @parameterized.expand([(mode, p) for mode in MODES for p in (1.0, 2.0, 3.5)])
    def test_shifted_samples(self, mode: str, p: float) -> None:
        x = np.random.default_rng(1).standard_normal((3, 6))
        value, slope = evaluate_pair(mode, wasserstein_distance, x + 0.75, x[:, ::-1].copy(), p=p)
        np.testing.assert_allclose(value, 0.75, rtol=1e-12)
        np.testing.assert_allclose(slope, np.full((3, 6), 1.0 / 18.0), rtol=1e-11)

    @parameterized.expand([(mode, p) for mode in MODES for p in (1.0, 2.0)])
    def test_equal_sets(self, mode: str, p: float) -> None:
        x = np.array([[3.0, 1.0, 1.0, 2.0]])
        value, slope = evaluate_pair(mode, wasserstein_distance, x, x[:, ::-1].copy(), p=p)
        self.assertEqual(float(value), 0.0)
        np.testing.assert_array_equal(slope, np.zeros((1, 4)))

    @parameterized.expand([(mode, dtype) for mode in MODES for dtype in ("float64", "float32")])
    def test_extremes(self, mode: str, dtype: str) -> None:
        large, small = {"float64": (1e300, 1e-300), "float32": (1e37, 1e-37)}[dtype]
        x, y = np.array([[large, -large], [small, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])
        keywords = {"p": 3.0, "reduction": "none", "dtype": dtype}
        value, slope = evaluate_pair(mode, wasserstein_distance, x, y, **keywords)
        np.testing.assert_allclose(value, [large, small * 0.5 ** (1.0 / 3.0)], rtol=1e-5)
        np.testing.assert_allclose(slope, [[0.5, -0.5], [0.5 ** (1.0 / 3.0), 0.0]], rtol=1e-5)

    @parameterized.expand([(mode, axis) for mode in EAGER for axis in (0, 1, -1)])
    def test_any_axis(self, mode: str, axis: int) -> None:
        generator = np.random.default_rng(2)
        x, y = generator.standard_normal((2, 3, 4, 5))
        y = np.delete(y, 0, axis=axis)
        value, slope = evaluate_pair(mode, wasserstein_distance, x, y, p=2.0, axis=axis, reduction="none")
        moved = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
        expected, slopes = value_and_gradient(wasserstein_distance)(*moved, p=2.0, reduction="none")
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(slope, np.moveaxis(slopes, -1, axis), rtol=1e-12)

    def test_weights_weigh_rows(self) -> None:
        x, y = np.array([[0.0, 2.0], [5.0, 5.0]]), np.zeros((2, 2))
        value, slope = value_and_gradient(wasserstein_distance)(x, y, weights=np.array([3.0, 0.0]))
        self.assertEqual((float(value), slope.tolist()), (1.5, [[0.0, 0.75], [0.0, 0.0]]))

    @parameterized.expand(
        [
            ((2, 3), (2, 3), {"p": 0.5}, ValueError, "p must be ≥ 1, got 0.5"),
            ((2, 3), (2, 3), {"p": INF}, ValueError, "p must be ≥ 1, and finite, got inf"),
            ((2, 3), (2, 3), {"p": "2"}, TypeError, "p must be a number ≥ 1"),
            ((2, 3), (2, 3), {"axis": 2}, ValueError, "axis 2 is out of range for an array of 2 dimensions"),
            ((2, 3), (2, 3), {"axis": None}, TypeError, "axis must be an integer"),
            ((2, 3), (4, 3), {}, ValueError, r"same shape but along axis 1, got \(2, 3\) and \(4, 3\)"),
            ((2, 3), (3,), {}, ValueError, r"same shape but along axis 1, got \(2, 3\) and \(3,\)"),
            ((2, 3), (2,), {}, ValueError, r"same shape but along axis 1, got \(2, 3\) and \(2,\)"),
            ((2, 3), (2, 0), {}, ValueError, "at least one sample on either side, got 3 and 0"),
            ((), (), {}, ValueError, "axis -1 is out of range"),
            ((2, 3), (2, 3), {"reduction": "average"}, ValueError, "reduction must be one of"),
        ]
    )
    def test_refused(self, x: Any, y: Any, options: Any, error: type[Exception], message: str) -> None:
        both = value_and_gradient(wasserstein_distance)
        for function in (wasserstein_distance, wasserstein_distance_gradient, both):
            with self.assertRaisesRegex(error, message):
                function(np.ones(x), np.ones(y), **options)


class OfDistributions(unittest.TestCase):
    """The reverse divergence of distribution objects is the other one with its arguments exchanged."""

    def test_of_torch(self) -> None:
        p = torch.distributions.Categorical(probs=torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
        q = torch.distributions.Categorical(probs=torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
        expected = reverse_kl_divergence(p.probs, q.probs, reduction="none")
        torch.testing.assert_close(reverse_kl_divergence(p, q, reduction="none"), expected)
        self.assertEqual(reverse_kl_divergence(p, q), kl_divergence(q, p))

    def test_of_another_package(self) -> None:
        class Distribution:
            def __init__(self, name: str) -> None:
                self.name = name

            def kl_divergence(self, other: Distribution) -> np.ndarray:
                return np.array([1.0 if (self.name, other.name) == ("q", "p") else 0.0])

        self.assertEqual(reverse_kl_divergence(Distribution("p"), Distribution("q")), 1.0)
