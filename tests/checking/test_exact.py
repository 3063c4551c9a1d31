"""Every gradient is right to tens of digits, every result to a few units in the last place; mistakes are found."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from itertools import product
from typing import Any

import mpmath
import numpy as np
import pytest
from cases import convert
from parameterized import parameterized

from mithril_losses import catalogue
from mithril_losses.backends.namespaces import array_namespace
from mithril_losses.catalogue import Pair
from mithril_losses.checking.exact import LIMITS, check_exact, exact, points, rate
from mithril_losses.checking.exact import arrays as xp
from mithril_losses.checking.exact.arrays import ExactArray, following, host
from mithril_losses.checking.exact.check import ARITHMETIC, PROVED, compare
from mithril_losses.checking.exact.precision import DTYPES, MOST, Truth, first_points
from mithril_losses.checking.exact.scalars import CONTEXT, FUNCTIONS, ONE
from mithril_losses.numerics.reduction import REDUCTIONS
from mithril_losses.numerics.trees import map_leaves
from mithril_losses.templates.base import Functions

LOSSES = [(name,) for name in catalogue()]


class Catalogue(unittest.TestCase):
    @parameterized.expand(LOSSES)
    @pytest.mark.exhaustive_for(named="sinkhorn_divergence")  # solved to fifty digits, in as long as half of the others
    def test_gradients_are_derivatives(self, loss: str) -> None:
        check = check_exact(loss)
        self.assertEqual(check.failures, [])
        self.assertGreaterEqual(check.digits.get(ARITHMETIC, PROVED), PROVED)
        for limit in LIMITS:
            if loss in limit.losses:
                # a limit that is not reached, or that is beaten by far, is not what the table says it is
                self.assertIn(check.digits[limit.reason] - limit.digits, range(4))

    @parameterized.expand(LOSSES)
    def test_points_take_every_option_reduction_and_request(self, loss: str) -> None:
        pair, given = catalogue()[loss], list(points(catalogue()[loss]))
        for name in pair.options:
            values = {repr(point.options.get(name, pair.parameters[name].default)) for point in given}
            if name not in ("mass_tolerance", "max_iterations"):  # how exactly a loss is solved
                self.assertGreater(len(values), 1, name)
        requests = {point.wrt for point in given}
        self.assertIn((), requests)
        for name in pair.on_request:
            self.assertIn((name,), requests)
            self.assertIn({*pair.wrt, *pair.on_request}, list(map(set, requests)))
        if pair.takes_reduction:
            self.assertEqual({point.options.get("reduction", "mean") for point in given}, set(REDUCTIONS))
            for name in ("weights", "normalizer", *(["axis"] if pair.takes_axis else [])):
                self.assertTrue(any(point.options.get(name) is not None for point in given), name)


# --- mistakes ---------------------------------------------------------------------------------------------------------

FACTOR = 1.0 + 1e-12


def everywhere(gradient: Any) -> Any:
    return map_leaves(lambda _, x: x * FACTOR, gradient)


def in_one_element(gradient: Any) -> Any:
    def plant(_: str, x: Any) -> Any:
        place = int(np.argmax(np.abs(host(x))))
        factors = np.ones(x.size)
        factors[place] = FACTOR
        return x * exact(factors.reshape(x.shape))

    return map_leaves(plant, gradient)


def in_one_argument(name: str) -> Callable[[Any], Any]:
    return lambda gradient: {**gradient, name: everywhere(gradient[name])}


MISTAKES = [
    ("mse_loss", everywhere),  # element by element
    ("cross_entropy_with_logits", in_one_element),  # rows of logits
    ("triplet_loss", in_one_argument("negative")),  # distances of rows
    ("info_nce_loss", in_one_argument("keys")),  # all pairs of rows
    ("maximum_mean_discrepancy", in_one_element),  # sums over pairs of points
    ("chamfer_distance", everywhere),  # nearest neighbours
    ("earth_mover_distance", in_one_element),  # an assignment
    ("ssim_loss", everywhere),  # windows of images
    ("spectral_norm_regularization", in_one_element),  # an eigenvector
    ("lovasz_softmax_loss", in_one_element),  # an order
    ("linear_cross_entropy", in_one_argument("weight")),  # a layer
    ("vae_loss", in_one_argument("logvar")),  # a sum of two losses, one of them to fewer digits
]


def with_mistake(pair: Pair, plant: Callable[[Any], Any]) -> Pair:
    return replace(pair, gradient=lambda *arrays, **options: plant(pair.gradient(*arrays, **options)))


class Mistakes(unittest.TestCase):
    """A factor 1 + 1e-12 in a gradient, in all of it or in one place alone."""

    @parameterized.expand([(loss, plant) for loss, plant in MISTAKES])
    def test_is_found(self, loss: str, plant: Callable[[Any], Any]) -> None:
        pair = catalogue()[loss]
        point = next(iter(points(pair)))
        for right in compare(point):
            self.assertGreaterEqual(right.digits, 15)
        wrong = compare(replace(point, pair=with_mistake(pair, plant)))[0]
        self.assertLess(wrong.digits, 15)
        self.assertIn(f"{float(wrong.derivative):.8f}"[:6], str(wrong))

    def test_check_fails(self) -> None:
        for loss, plant in (("huber_loss", everywhere), ("gaussian_kl_divergence", in_one_argument("mean"))):
            pair = catalogue()[loss]
            check = check_exact(replace(with_mistake(pair, plant), both=None))
            self.assertFalse(check.is_right)
            message = r"^drawn \d+, .*: by gradient, gradient · direction = .*, but the derivative is "
            self.assertRegex(check.failures[0], message)

    def test_value_and_gradient_has_its_own(self) -> None:
        pair = catalogue()["total_variation_loss"]

        def plant(*arrays: Any, **options: Any) -> Any:
            value, gradient = pair.both(*arrays, **options)
            return value, everywhere(gradient)

        check = check_exact(replace(pair, both=plant))
        self.assertTrue(check.failures)
        self.assertTrue(all("by value_and_gradient" in failure for failure in check.failures))

    def test_another_value(self) -> None:
        pair = catalogue()["total_variation_loss"]

        def plant(*arrays: Any, **options: Any) -> Any:
            value, gradient = pair.both(*arrays, **options)
            return value * FACTOR, gradient

        self.assertRegex(
            check_exact(replace(pair, both=plant)).failures[0], "another value than the loss, from digit 1"
        )

    def test_shape_and_structure(self) -> None:
        pair = catalogue()["mse_loss"]
        check = check_exact(with_mistake(pair, lambda gradient: gradient[:1, ...]))
        self.assertRegex(
            check.failures[0],
            r"predictions \(1, 4\) are not of the structure and shape of the arguments predictions \(3, 4\)",
        )

    def test_a_gradient_of_nothing(self) -> None:
        pair = catalogue()["mse_loss"]

        @wraps(pair.value)
        def nothing(*arrays: Any, **options: Any) -> Any:
            return pair.value(*arrays, **options) * 0.0

        idle = replace(with_mistake(pair, lambda gradient: gradient * 0.0), value=nothing, both=None, terms=Functions())
        self.assertEqual(check_exact(idle).failures, ["the gradient wrt predictions is 0 at every point"])


# --- rounding ---------------------------------------------------------------------------------------------------------


class Rounding(unittest.TestCase):
    """Results in float32 and float64 lie within a few units in the last place of the true ones."""

    @parameterized.expand(LOSSES)
    def test_eager(self, loss: str) -> None:
        for point, dtype in product(first_points(catalogue()[loss], 1), DTYPES):
            truth = Truth(point, dtype)
            for library in ("numpy", "torch", "array_api_strict"):
                for found in truth.roundings(library, lambda x, library=library: convert(x, library, str(x.dtype))):
                    self.assertLessEqual(found.units, MOST, str(found))

    def test_a_rounded_result_is_told_from_a_wrong_one(self) -> None:
        pair = catalogue()["mse_loss"]
        [point] = first_points(with_mistake(pair, lambda gradient: gradient * (1.0 + 2e-6)), 1)
        right = Truth(replace(point, pair=pair), "float32")
        right.point = point
        units = {found.result: found.units for found in right.roundings("numpy", np.array)}
        self.assertLess(units["value"], MOST)
        self.assertGreater(units["predictions"], MOST)


# --- the array library ------------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.uniform(0.2, 2.0, (3, 4)), GENERATOR.uniform(0.2, 2.0, (3, 4))
M, V = GENERATOR.standard_normal((4, 2)), GENERATOR.standard_normal((3, 2, 4))

FUNCTIONS_OF_ARRAYS: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("arithmetic", lambda xp, x, y: (x + 2.0) * y - x / (3.0 - y) + 1.0 / x - (-y), (X, Y)),
    ("numbers on the left", lambda xp, x: 2.0 - x + 3.0 * x + 2.0**x, (X,)),
    ("powers", lambda xp, x, y: x**y + x**2 + y**-1.5, (X, Y)),
    ("broadcasting", lambda xp, x, y: x[:, None, :] * y[None, :, :] + x[:1, None, :], (X, Y)),
    ("abs, sign", lambda xp, x: xp.abs(x - 1.0) * xp.sign(x - 1.0) + abs(x), (X,)),
    ("where", lambda xp, x, y: xp.where(x > y, x * x, 3.0) + xp.where(x > 1.0, 0.0, y), (X, Y)),
    ("maximum, minimum", lambda xp, x, y: xp.maximum(x, y) * xp.minimum(x, 1.0), (X, Y)),
    ("sum, mean, prod", lambda xp, x: xp.sum(x, axis=0) * xp.mean(x) + xp.prod(x, axis=0), (X,)),
    ("kept axes", lambda xp, x: x / xp.sum(x, axis=(0, 1), keepdims=True) + xp.max(x, axis=1, keepdims=True), (X,)),
    ("max, min", lambda xp, x: xp.max(x, axis=(0, 1)) * xp.min(x, axis=0) + xp.max(x), (X,)),
    ("sort", lambda xp, x: xp.sort(x, axis=-1) * xp.sort(x, axis=0), (X,)),
    ("order", lambda xp, x: xp.take_along_axis(x, xp.argsort(x, axis=-1), axis=-1), (X,)),
    ("cumulative sum", lambda xp, x: xp.cumulative_sum(x, axis=-1), (X,)),
    ("products", lambda xp, x, m: xp.matmul(x, m) + x @ m, (X, M)),
    ("batched products", lambda xp, v, m: xp.matmul(v, m) @ xp.matrix_transpose(m), (V, M)),
    ("inner products", lambda xp, x, y: xp.vecdot(x, y) + xp.tensordot(x, y, axes=2), (X, Y)),
    ("shapes", lambda xp, v: xp.reshape(xp.moveaxis(v, 0, -1), (8, 3)) @ xp.permute_dims(v, (0, 2, 1))[:, 0, :1], (V,)),
    ("joined", lambda xp, x, y: xp.concat([x, y], axis=1) * xp.stack([x, y])[0, :, :1], (X, Y)),
    ("placed", lambda xp, x: xp.roll(x, 1, axis=1) + xp.flip(x, axis=0) * xp.take(x, xp.arange(4), axis=1), (X,)),
    ("repeated", lambda xp, x: xp.repeat(x, 2, axis=1) * xp.tile(x, (1, 2)), (X,)),
    ("triangles", lambda xp, x: xp.tril(x) - 2.0 * xp.triu(x, k=1) + xp.triu(x[:2, :])[:1, :], (X,)),
    ("differences", lambda xp, x: xp.diff(x, axis=-1) * xp.diff(x, axis=0)[:1, :1], (X,)),
    ("axes", lambda xp, x: xp.squeeze(xp.expand_dims(x, axis=0), axis=0) + xp.broadcast_to(x[:1, :], (3, 4)), (X,)),
    ("trace", lambda xp, m: xp.linalg.trace(xp.matrix_transpose(m) @ m), (M,)),
    ("eigenvalues", lambda xp, m: xp.linalg.eigvalsh(xp.matrix_transpose(m) @ m), (M,)),
    ("eigenvectors", lambda xp, m: xp.abs(xp.linalg.eigh(xp.matrix_transpose(m) @ m)[1]), (M,)),
    ("functions", lambda xp, x: xp.exp(xp.sin(x)) * xp.log(xp.cos(x) + 2.0) + xp.sqrt(xp.atan(x)), (X,)),
    ("small functions", lambda xp, x: xp.expm1(x) * xp.log1p(x) - xp.tanh(x), (X,)),
    ("angles", lambda xp, x, y: xp.atan2(x - 1.0, y - 1.0), (X, Y)),
]


class Arrays(unittest.TestCase):
    """The array library computes what NumPy computes, and rates of change as differences have them."""

    @parameterized.expand(FUNCTIONS_OF_ARRAYS)
    def test_values_and_rates(self, name: str, function: Callable[..., Any], arrays: tuple[Any, ...]) -> None:
        directions = [GENERATOR.standard_normal(x.shape) for x in arrays]
        found = function(xp, *(exact(x, d) for x, d in zip(arrays, directions, strict=True)))
        np.testing.assert_allclose(host(found), function(np, *arrays), rtol=1e-13)
        step = mpmath.mpf(10) ** -25  # far below any distance to another decision, far above the digits
        ahead, behind = (
            function(xp, *(exact(x) + h * exact(d) for x, d in zip(arrays, directions, strict=True)))
            for h in (ExactArray(xp._numbers(np.array(CONTEXT.mpf(sign * step)))) for sign in (1, -1))
        )
        slope = (ahead.values - behind.values) / CONTEXT.mpf(2 * step)
        for rate_, expected in zip(rate(found).values.flat, np.ravel(slope), strict=True):
            self.assertLess(abs(rate_ - expected), 1e-30 * (1 + abs(expected)))

    @parameterized.expand(sorted(FUNCTIONS))
    def test_slopes_of_functions(self, name: str) -> None:
        for x in map(CONTEXT.mpf, ("0.3", "1.7", "4")):
            y = FUNCTIONS[name].value(x)
            expected = CONTEXT.diff(FUNCTIONS[name].value, x)
            self.assertLess(abs(FUNCTIONS[name].slope(x, y) - expected), CONTEXT.mpf(10) ** -40 * abs(expected))

    def test_integers_and_booleans_are_numpy_s(self) -> None:
        i = exact(np.array([3, 1, 2]))
        self.assertEqual((i.dtype, (i * 2).dtype, (i > 1).dtype), (np.int64, np.int64, np.bool_))
        self.assertEqual(host(i // 2 + i % 2).tolist(), [2, 1, 1])
        self.assertEqual(host((i > 1) & ~(i > 2) | (i == 1)).tolist(), [False, True, True])
        self.assertEqual(host(xp.where(i > 1, i, 0)).tolist(), [3, 0, 2])
        self.assertEqual(str(xp.where(i > 1, 0.5, i).dtype), "float64")
        self.assertEqual(str(xp.astype(i > 1, xp.float64).dtype), "float64")
        self.assertEqual(host(xp.cumulative_sum(i)).tolist(), [3, 4, 6])

    def test_ends_of_the_numbers(self) -> None:
        x = exact(np.array([0.0, -1.0, np.inf]))
        np.testing.assert_array_equal(host(xp.log(x)), [-np.inf, np.nan, np.inf])
        np.testing.assert_array_equal(host(1.0 / x), [np.inf, -1.0, 0.0])
        np.testing.assert_array_equal(host(xp.sqrt(x)), [0.0, np.nan, np.inf])
        np.testing.assert_array_equal(host(x**-0.5), [np.inf, np.nan, 0.0])
        np.testing.assert_array_equal(host(xp.maximum(exact(np.array(np.nan)), x)), [np.nan] * 3)
        np.testing.assert_array_equal(host(xp.isfinite(x)), [True, True, False])
        np.testing.assert_array_equal(host(xp.isinf(x)), [False, False, True])
        self.assertEqual(host(xp.sum(x[:0])).item(), 0.0)

    def test_what_stands_still_stays_out_of_a_steep_slope(self) -> None:
        x = exact(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
        self.assertEqual(host(rate(xp.sqrt(x))).tolist(), [0.0, 0.5])

    def test_writing(self) -> None:
        x = exact(np.zeros((2, 3)))
        x[0, 1:] = exact(np.array([2.0, 3.0]), np.array([1.0, 0.5]))
        x[0, 1:] += 1.0
        self.assertEqual((host(x).tolist(), host(rate(x)).tolist()), ([[0, 3, 4], [0] * 3], [[0, 1, 0.5], [0] * 3]))
        x[:, 1] = 7.0
        self.assertEqual(host(rate(x)).tolist(), [[0, 0, 0.5], [0] * 3])

    def test_no_digit_is_lost_without_a_word(self) -> None:
        third = exact(np.array(1.0)) / 3.0
        self.assertEqual(third.values.item(), ONE / 3)
        with self.assertRaisesRegex(TypeError, "would silently lose digits and derivatives"):
            np.asarray(third)
        self.assertEqual(float(np.float64(2.0) * third), 2.0 / 3.0)  # NumPy's numbers leave it to the array
        self.assertIs(array_namespace(x=third), xp)

    def test_pieces(self) -> None:
        def piece(x: float) -> str:
            with following() as trail:
                xp.sum(xp.maximum(exact(np.array([x, 1.0])), 0.0))
            return trail.piece

        self.assertEqual(piece(1.0), piece(2.0))
        self.assertNotEqual(piece(1.0), piece(-1.0))

    def test_nobody_s_precision_is_changed(self) -> None:
        digits = mpmath.mp.dps
        check_exact("mse_loss")
        self.assertEqual(mpmath.mp.dps, digits)
