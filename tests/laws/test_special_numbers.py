"""NaN, infinities and illegal labels, in any argument of any loss, are seen in value and gradient, compiled or not."""

from __future__ import annotations

import math
import unittest
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kinds import (
    SHAPES,
    check_illegal_label,
    check_infinity,
    check_nan,
    drawn,
    evaluate,
    illegal_labels,
    poisoned,
    real_arguments,
)
from parameterized import parameterized

from mithril_losses import (
    catalogue,
    cross_entropy_with_logits,
    earth_mover_distance,
    linear_cross_entropy,
    value_and_gradient,
)
from mithril_losses.backends.namespaces import jax as jax_namespace

pytestmark = pytest.mark.optimized_xla

LOSSES = list(catalogue())
EAGER = ("numpy", "torch")


class SpecialNumbers(unittest.TestCase):
    """Every loss; the first and some later element, as a fused loop may treat its ends differently."""

    @parameterized.expand(
        [*product(LOSSES, ["small"], EAGER), *product(LOSSES, ["large"], ["numpy in blocks", "jax.jit"])]
    )
    def test_are_seen(self, loss: str, size: str, way: str) -> None:
        case = drawn(loss, size)
        for argument in real_arguments(case.pair):
            for at in (0, 7):
                with self.subTest(argument=argument, number="nan", at=at):
                    check_nan(case, argument, at, way)
            for number in (math.inf, -math.inf):
                with self.subTest(argument=argument, number=number):
                    check_infinity(case, argument, number, 7, way)

    @parameterized.expand(
        [
            *product(LOSSES, ["large"], ["numpy", "torch"]),
            *product(LOSSES, ["small"], ["numpy in blocks", "jax.jit", "jax", "jax compiled"]),
            *product(LOSSES, ["large"], ["jax compiled"]),  # eager JAX takes the operations of small arrays
        ]
    )
    @pytest.mark.exhaustive
    def test_are_seen_on_other_ways(self, loss: str, size: str, way: str) -> None:
        case = drawn(loss, size)
        for argument in real_arguments(case.pair):
            with self.subTest(argument=argument):
                check_nan(case, argument, 7, way)
                check_infinity(case, argument, math.inf, 7, way)

    @parameterized.expand([(n, size) for n in LOSSES if list(illegal_labels(catalogue()[n])) for size in SHAPES])
    def test_illegal_labels_are_seen_where_their_values_are_not(self, loss: str, size: str) -> None:
        case = drawn(loss, size)
        for argument, label in illegal_labels(case.pair):
            with self.subTest(argument=argument, label=label):
                check_illegal_label(case, argument, label, 7)

    def test_check_sees_a_lost_nan(self) -> None:
        """A minimum of JAX's own, compiled beside a reduction, is what it is there for."""

        def largest(x: jax.Array) -> jax.Array:
            return jnp.max(jnp.minimum(x, 1e30), axis=1)

        x = jnp.full((5000, 9), jnp.nan)
        self.assertTrue(np.isnan(jax_namespace.max(jax_namespace.minimum(x, 1e30), axis=1)).all())
        self.assertFalse(np.isnan(jax.jit(largest)(x)).any(), "XLA keeps NaN by now: the namespace may go")

    def test_diverged_model_shows_it(self) -> None:
        generator = np.random.default_rng(0)
        logits, labels = generator.standard_normal((500, 9)).astype("f4"), generator.integers(0, 9, 500)
        for rows in (slice(0, 1), slice(None)):
            logits[rows] = np.nan
            value, gradient = value_and_gradient(cross_entropy_with_logits)(jnp.asarray(logits), jnp.asarray(labels))
            self.assertTrue(np.isnan(value))
            np.testing.assert_array_equal(np.isnan(gradient).any(axis=1), np.isnan(logits).any(axis=1))

    def test_row_of_nan_in_front_of_a_linear_layer(self) -> None:
        generator = np.random.default_rng(0)
        hidden, weight = generator.standard_normal((300, 8)).astype("f4"), generator.standard_normal((40, 8))
        hidden[3] = np.nan
        arguments = jnp.asarray(hidden), jnp.asarray(weight, jnp.float32), jnp.asarray(generator.integers(0, 40, 300))
        losses = linear_cross_entropy(*arguments, reduction="none", chunk_rows=64)
        np.testing.assert_array_equal(np.isnan(losses), np.arange(300) == 3)

    @parameterized.expand([("pred_points",), ("target_points",)])
    def test_of_points_without_an_assignment(self, argument: str) -> None:
        case = drawn("earth_mover_distance", "small")
        arguments = poisoned(case, argument, math.nan, 5).arguments("numpy")
        losses = earth_mover_distance(*arguments, reduction="none")
        np.testing.assert_array_equal(np.isnan(losses), np.arange(len(losses)) == 0)


class Namespace(unittest.TestCase):
    """Minima and maxima of JAX's arrays are NumPy's, special numbers included."""

    NUMBERS = np.array([math.nan, -math.inf, -1.0, -0.0, 0.0, 2.0, math.inf], np.float32)

    @parameterized.expand([("minimum",), ("maximum",)])
    def test_of_two(self, name: str) -> None:
        ours, numpy = getattr(jax_namespace, name), getattr(np, name)
        first, second = np.meshgrid(self.NUMBERS, self.NUMBERS)
        for compiled in (ours, jax.jit(ours)):
            np.testing.assert_array_equal(compiled(jnp.asarray(first), jnp.asarray(second)), numpy(first, second))
        for number in (-1.5, 0.0, 3):
            np.testing.assert_array_equal(ours(jnp.asarray(first), number), numpy(first, np.float32(number)))
            np.testing.assert_array_equal(ours(number, jnp.asarray(first)), numpy(np.float32(number), first))
        whole = jnp.arange(-2, 3)
        self.assertEqual(ours(whole, 0).dtype, whole.dtype)
        np.testing.assert_array_equal(ours(whole, 0), numpy(np.arange(-2, 3), 0))

    @parameterized.expand([("min",), ("max",)])
    def test_over_axes(self, name: str) -> None:
        ours, numpy = getattr(jax_namespace, name), getattr(np, name)
        x = np.random.default_rng(0).standard_normal((6, 5, 4)).astype("f4")
        x[2, 3, 1] = np.nan
        for axis in (None, 0, -1, (0, 2)):
            for keepdims in (False, True):
                np.testing.assert_array_equal(
                    ours(jnp.asarray(x), axis=axis, keepdims=keepdims), numpy(x, axis=axis, keepdims=keepdims)
                )
        np.testing.assert_array_equal(ours(jnp.arange(6), axis=0), numpy(np.arange(6)))

    def test_clip(self) -> None:
        x = jnp.asarray(self.NUMBERS)
        np.testing.assert_array_equal(jax_namespace.clip(x, -1.0, 1.0), np.clip(self.NUMBERS, -1.0, 1.0))
        np.testing.assert_array_equal(jax_namespace.clip(x, None, 1.0), np.clip(self.NUMBERS, None, 1.0))

    def test_everything_else_is_of_jax(self) -> None:
        self.assertIs(jax_namespace.exp, jnp.exp)
        with self.assertRaises(AttributeError):
            _ = jax_namespace.no_such_function

    def test_corner_of_a_value_has_the_slope_of_the_table(self) -> None:
        self.assertEqual(jax.grad(lambda x: jax_namespace.maximum(x, 0.0))(0.0), 0.0)


def test_evaluate_is_what_the_checks_compare() -> None:
    value, gradient = evaluate(drawn("huber_loss", "small"), "jax.jit")
    expected, slopes = evaluate(drawn("huber_loss", "small"), "numpy")
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient["gradient"], slopes["gradient"], rtol=1e-6)
