"""Reductions against numbers worked out by hand, and the gradient's map against the transpose of the value's."""

from __future__ import annotations

import math
import unittest
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from parameterized import parameterized

from mithril_losses import (
    binary_cross_entropy_with_logits,
    mse_loss,
    mse_loss_gradient,
    reduce_loss,
    value_and_gradient,
)
from mithril_losses.numerics.reduction import plan

LOSSES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]])
WEIGHTS = np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 1.0]])
ROW_WEIGHTS = np.array([[3.0], [1.0]])
LIBRARIES = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.tensor}


def converted(convert: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: convert(x) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}


def collect(values: Any, **reduction: Any) -> Any:
    return plan(np, values.shape, values.dtype, **reduction).collect(np, values, values)


def spread(slope: Any, summed: tuple[int, ...] = (), **reduction: Any) -> Any:
    shape = tuple(n for i, n in enumerate(slope.shape) if i not in summed)
    return plan(np, shape, slope.dtype, **reduction).spread(np, slope, slope, summed)


class LiteralNumbers(unittest.TestCase):
    """Every reduction of [[1, 2, 3], [4, 5, 9]], whose sum is 24."""

    @parameterized.expand(
        [
            ("mean", {}, 4.0),
            ("sum", {"reduction": "sum"}, 24.0),
            ("none", {"reduction": "none"}, [[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]),
            ("weighted mean without weights", {"reduction": "weighted_mean"}, 4.0),
            ("batch sum", {"reduction": "batch_sum"}, 12.0),
            # Σ w ℓ = 1 + 0 + 6 + 12 + 5 + 9 = 33, Σ w = 8, 6 elements in 2 rows
            ("mean, weighted", {"weights": WEIGHTS}, 5.5),
            ("sum, weighted", {"reduction": "sum", "weights": WEIGHTS}, 33.0),
            ("none, weighted", {"reduction": "none", "weights": WEIGHTS}, [[1.0, 0.0, 6.0], [12.0, 5.0, 9.0]]),
            ("weighted mean", {"reduction": "weighted_mean", "weights": WEIGHTS}, 4.125),
            ("batch sum, weighted", {"reduction": "batch_sum", "weights": WEIGHTS}, 16.5),
            # Σ w ℓ = 3 · 6 + 18 = 36, where the 2 weights count for 3 elements each: Σ w = 12
            ("mean, weighted rows", {"weights": ROW_WEIGHTS}, 6.0),
            ("weighted mean, weighted rows", {"reduction": "weighted_mean", "weights": ROW_WEIGHTS}, 3.0),
            ("weights of lower rank", {"weights": np.array([0.0, 0.0, 1.0]), "reduction": "weighted_mean"}, 6.0),
            ("one weight", {"weights": np.array(2.0)}, 8.0),
            ("axis 0", {"axis": 0}, [2.5, 3.5, 6.0]),
            ("axis 1", {"axis": 1}, [2.0, 6.0]),
            ("last axis", {"axis": -1}, [2.0, 6.0]),
            ("both axes", {"axis": (0, -1)}, 4.0),
            ("no axis", {"axis": ()}, [[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]),
            ("sum over an axis", {"axis": (1,), "reduction": "sum"}, [6.0, 18.0]),
            ("mean over an axis, weighted", {"axis": 1, "weights": WEIGHTS}, [7.0 / 3.0, 26.0 / 3.0]),
            ("weighted over an axis", {"axis": 1, "weights": WEIGHTS, "reduction": "weighted_mean"}, [7 / 3, 26 / 5]),
            ("row weights", {"axis": 0, "weights": ROW_WEIGHTS, "reduction": "weighted_mean"}, [1.75, 2.75, 4.5]),
            ("a number to divide by", {"normalizer": 8.0}, 3.0),
            ("an integer to divide by", {"normalizer": 8}, 3.0),
            ("an array to divide by", {"normalizer": np.array(8.0)}, 3.0),
            ("one number per row", {"axis": 1, "normalizer": np.array([2.0, 9.0])}, [3.0, 2.0]),
            ("one number per row, none in one", {"axis": 1, "normalizer": np.array([0.0, 9.0])}, [0.0, 2.0]),
            ("instead of Σ w", {"reduction": "weighted_mean", "weights": WEIGHTS, "normalizer": 3.0}, 11.0),
            ("instead of the batch size", {"reduction": "batch_sum", "normalizer": 4.0}, 6.0),
            ("nothing to divide by", {"normalizer": 0.0}, 0.0),
        ]
    )  # fmt: skip
    def test_reductions(self, name: str, keywords: dict[str, Any], expected: Any) -> None:
        for library, convert in LIBRARIES.items():
            with self.subTest(library):
                found = reduce_loss(convert(LOSSES), **converted(convert, keywords))
                self.assertEqual(tuple(found.shape), np.shape(expected))
                np.testing.assert_allclose(found, expected, rtol=1e-6 if library == "jax" else 1e-15)

    @parameterized.expand([("mean", 3.0), ("sum", 9.0), ("batch_sum", 3.0), ("weighted_mean", 3.0)])
    def test_one_axis(self, reduction: str, expected: float) -> None:
        self.assertEqual(float(reduce_loss(np.array([1.0, 2.0, 6.0]), reduction=reduction)), expected)

    @parameterized.expand([("mean",), ("sum",), ("batch_sum",), ("weighted_mean",), ("none",)])
    def test_no_axis(self, reduction: str) -> None:
        for value in (np.array(7.0), np.float64(7.0), torch.tensor(7.0), jnp.array(7.0)):
            self.assertEqual(float(reduce_loss(value, reduction=reduction)), 7.0)
        gradient = mse_loss_gradient(np.array(7.0), np.array(4.0), reduction=reduction)
        self.assertEqual(float(gradient), 6.0)
        gradient[...] = 1.0  # an array that can be written into, no NumPy scalar

    def test_batch_sum_of_three_axes(self) -> None:
        self.assertEqual(float(reduce_loss(np.ones((2, 3, 5)), reduction="batch_sum")), 15.0)

    def test_two_of_three_axes(self) -> None:
        losses = np.arange(24.0).reshape(2, 3, 4)  # 12 i + 4 j + k, over i and k: 60 + 32 j
        for library, convert in LIBRARIES.items():
            with self.subTest(library):
                total = reduce_loss(convert(losses), axis=(0, 2), reduction="sum")
                np.testing.assert_array_equal(total, [60.0, 92.0, 124.0])
                np.testing.assert_array_equal(reduce_loss(convert(losses), axis=(2, 0)), [7.5, 11.5, 15.5])

    def test_nothing_to_divide_by_removes_infinity(self) -> None:
        infinite = np.array([np.inf, 1.0])
        self.assertEqual(float(reduce_loss(infinite, normalizer=0)), 0.0)
        np.testing.assert_array_equal(spread(infinite, normalizer=0), [0.0, 0.0])

    def test_weights_do_not_enlarge_an_axis_of_one(self) -> None:
        with self.assertRaisesRegex(ValueError, r"weights of shape \(2, 3\) do not broadcast .* of shape \(2, 1\)"):
            reduce_loss(np.ones((2, 1)), weights=np.ones((2, 3)))

    def test_empty_along_one_axis(self) -> None:
        empty = np.ones((3, 0))
        np.testing.assert_array_equal(reduce_loss(empty, axis=1), np.zeros(3))
        self.assertEqual(reduce_loss(empty, axis=0).shape, (0,))
        self.assertEqual(float(reduce_loss(empty, reduction="batch_sum")), 0.0)

    def test_weights_of_zero_in_one_row(self) -> None:
        weights = np.array([[0.0], [2.0]])
        found = reduce_loss(LOSSES, axis=1, weights=weights, reduction="weighted_mean")
        np.testing.assert_array_equal(found, [0.0, 6.0])
        gradient = mse_loss_gradient(LOSSES, 0.0 * LOSSES, axis=1, weights=weights, reduction="weighted_mean")
        np.testing.assert_allclose(gradient, [[0.0, 0.0, 0.0], [8 / 3, 10 / 3, 6.0]])

    def test_weight_zero_removes_infinity(self) -> None:
        losses, weights = np.array([np.inf, np.nan, 3.0]), np.array([0.0, 0.0, 2.0])
        self.assertEqual(float(reduce_loss(losses, weights=weights)), 2.0)
        self.assertEqual(float(reduce_loss(losses, weights=weights, reduction="weighted_mean")), 3.0)
        np.testing.assert_array_equal(reduce_loss(losses, weights=weights, reduction="none"), [0.0, 0.0, 6.0])

    def test_negative_weights_are_weights(self) -> None:
        self.assertEqual(float(reduce_loss(np.array([1.0, 4.0]), weights=np.array([1.0, -1.0]))), -1.5)

    def test_boolean_mask_as_weights(self) -> None:
        for convert in LIBRARIES.values():
            mask = convert(np.array([True, False, True]))
            found = reduce_loss(convert(np.array([1.0, 2.0, 6.0])), weights=mask, reduction="weighted_mean")
            self.assertEqual(float(found), 3.5)

    @parameterized.expand(
        [("numpy", np.ones(100_000, dtype=np.float16)), ("torch", torch.ones(100_000, dtype=torch.float16))]
    )
    def test_half_precision_is_summed_in_single(self, name: str, losses: Any) -> None:
        mean = reduce_loss(losses)
        self.assertEqual(float(mean), 1.0)
        self.assertEqual(mean.dtype, losses.dtype)
        self.assertEqual(float(mse_loss(2.0 * losses, losses)), 1.0)

    def test_upstream_of_every_shape(self) -> None:
        zeros = np.zeros_like(LOSSES)
        np.testing.assert_allclose(mse_loss_gradient(LOSSES, zeros, upstream=3.0), LOSSES)
        np.testing.assert_allclose(mse_loss_gradient(LOSSES, zeros, upstream=np.array(3.0)), LOSSES)
        by_row = mse_loss_gradient(LOSSES, zeros, axis=1, reduction="sum", upstream=np.array([0.5, -1.0]))
        np.testing.assert_allclose(by_row, [[1.0, 2.0, 3.0], [-8.0, -10.0, -18.0]])
        each = mse_loss_gradient(LOSSES, zeros, reduction="none", upstream=WEIGHTS)
        np.testing.assert_allclose(each, [[2.0, 0.0, 12.0], [24.0, 10.0, 18.0]])

    def test_no_broadcast_of_what_a_loss_keeps(self) -> None:
        # one loss per row for a loss that sums over the last axis, one per element for one that does not
        logits = np.zeros((2, 3))
        self.assertEqual(binary_cross_entropy_with_logits(logits, logits, reduction="none").shape, (2, 3))
        self.assertAlmostEqual(float(binary_cross_entropy_with_logits(logits, logits)), math.log(2.0))


# rows, columns and the whole sum to powers of two, so that every quotient is exact
INTEGER_WEIGHTS = np.array([[0.0, 1.0, 2.0, 1.0], [1.0, 0.0, 1.0, 2.0], [2.0, 1.0, 0.0, 1.0], [1.0, 2.0, 1.0, 0.0]])


class Transpose(unittest.TestCase):
    """⟨u, A ℓ⟩ = ⟨Aᵀ u, ℓ⟩, exactly: integers, and divisors that are powers of two."""

    @parameterized.expand(
        [
            ("none", {"reduction": "none"}),
            ("sum", {"reduction": "sum"}),
            ("mean", {}),
            ("batch sum", {"reduction": "batch_sum"}),
            ("mean over rows", {"axis": 0}),
            ("sum over columns", {"axis": -1, "reduction": "sum"}),
            ("weighted", {"weights": INTEGER_WEIGHTS}),
            ("weights of one row", {"weights": INTEGER_WEIGHTS[:1], "axis": 1}),
            ("weights without the batch axis", {"weights": INTEGER_WEIGHTS[2], "reduction": "none"}),
            ("weights of one column", {"weights": INTEGER_WEIGHTS[:, :1], "reduction": "batch_sum"}),
            ("weighted mean", {"weights": INTEGER_WEIGHTS, "reduction": "weighted_mean"}),
            ("weighted mean over rows", {"weights": INTEGER_WEIGHTS, "reduction": "weighted_mean", "axis": (0,)}),
            ("weighted mean, one row", {"weights": INTEGER_WEIGHTS[:1], "reduction": "weighted_mean", "axis": 1}),
            ("normalized", {"weights": INTEGER_WEIGHTS, "normalizer": 32}),
            ("normalized by row", {"axis": 1, "normalizer": np.array([1.0, 2.0, 0.0, 8.0])}),
            ("counted in part", {"mass": INTEGER_WEIGHTS}),
            ("counted in part, over columns", {"mass": INTEGER_WEIGHTS, "axis": 1}),
        ]
    )
    def test_spread_is_the_transpose_of_collect(self, name: str, keywords: dict[str, Any]) -> None:
        generator = np.random.default_rng(0)
        losses = generator.integers(-9, 10, (4, 4)).astype(float)
        reduced = collect(losses, **keywords)
        upstream = generator.integers(-9, 10, np.shape(reduced)).astype(float)
        ones = np.ones_like(losses)
        spread_upstream = spread(ones, upstream=upstream, **keywords)
        self.assertEqual(np.sum(upstream * reduced), np.sum(spread_upstream * losses))
        # a slope is scaled element by element, along a class axis too
        slope = generator.integers(-9, 10, (4, 4)).astype(float)
        gradient = spread(slope, upstream=upstream, **keywords)
        np.testing.assert_array_equal(gradient, spread_upstream * slope)
        classes = generator.integers(-9, 10, (4, 3, 4)).astype(float)
        gradient = spread(classes, summed=(1,), upstream=upstream, **keywords)
        np.testing.assert_array_equal(gradient, spread_upstream[:, None, :] * classes)


class Messages(unittest.TestCase):
    """What is wrong is said in one line."""

    @parameterized.expand(
        [
            ({"reduction": "means"}, ValueError, "'none', 'sum', 'mean', .* got 'means'; did you mean 'mean'"),
            ({"reduction": None}, ValueError, "reduction must be one of .*, got None"),
            ({"weights": np.ones(2)}, ValueError, r"weights of shape \(2,\) do not broadcast .* of shape \(2, 3\)"),
            ({"weights": np.ones((1, 2, 3))}, ValueError, r"weights of shape \(1, 2, 3\)"),
            ({"weights": np.ones((4, 3))}, ValueError, r"weights of shape \(4, 3\)"),
            ({"weights": 2.0}, TypeError, "weights must be an array .* got float"),
            ({"weights": torch.ones(3)}, TypeError, "one library: weights is from torch, those before it from numpy"),
            (
                {"weights": np.array([2.0, -0.5, 1.0]), "reduction": "weighted_mean"},
                ValueError,
                "weights of reduction='weighted_mean' must not be negative, got -0.5",
            ),
            ({"axis": 2}, ValueError, "axis 2 is out of range for an array of 2 dimensions"),
            ({"axis": (0, -3)}, ValueError, "axis -3 is out of range"),
            ({"axis": (1, -1)}, ValueError, r"axis names a dimension twice: \(1, -1\)"),
            ({"axis": 1.0}, TypeError, "axis must be an integer, got 1.0"),
            ({"axis": True}, TypeError, "axis must be an integer, got True"),
            ({"axis": 0, "reduction": "none"}, ValueError, "reduction='none' takes no axis, got axis=0"),
            ({"axis": 0, "reduction": "batch_sum"}, ValueError, "reduction='batch_sum' takes no axis"),
            ({"normalizer": 2.0, "reduction": "sum"}, ValueError, "reduction='sum' has none"),
            ({"normalizer": 2.0, "reduction": "none"}, ValueError, "reduction='none' has none"),
            ({"normalizer": -1.0}, ValueError, "normalizer must not be negative, got -1.0"),
            ({"normalizer": math.nan}, ValueError, "normalizer must not be NaN"),
            ({"normalizer": np.ones(2)}, ValueError, r"reduced loss's shape \(\), got \(2,\)"),
            ({"normalizer": np.ones(2), "axis": 0}, ValueError, r"reduced loss's shape \(3,\), got \(2,\)"),
            ({"normalizer": "2"}, TypeError, "normalizer must be a number or an array, got '2'"),
        ]
    )
    def test_value_and_gradient_refuse_alike(
        self, keywords: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        for function in (
            lambda: reduce_loss(LOSSES, **keywords),
            lambda: mse_loss(LOSSES, LOSSES, **keywords),
            lambda: mse_loss_gradient(LOSSES, LOSSES, **keywords),
        ):
            self.assertRaisesRegex(error, message, function)

    @parameterized.expand([(library, size) for library in LIBRARIES for size in (3, 40_000)])
    def test_negative_shares_are_refused_wherever_they_are_seen(self, library: str, size: int) -> None:
        ones, weights = np.ones(size, np.float32), np.ones(size, np.float32)
        weights[1] = -1.0
        x, keywords = LIBRARIES[library](ones), {"weights": LIBRARIES[library](weights), "reduction": "weighted_mean"}
        for function in (mse_loss, mse_loss_gradient, value_and_gradient(mse_loss)):
            with self.assertRaisesRegex(ValueError, "must not be negative, got -1"):
                function(x, x, **keywords)
        # a difference of sums is one: signs are only wrong where they make shares
        self.assertEqual(float(mse_loss(x, 0.0 * x, **{**keywords, "reduction": "sum"})), size - 2.0)

    @parameterized.expand(
        [
            ({"upstream": np.ones(2)}, ValueError, r"upstream must be a scalar or .* \(\), got \(2,\)"),
            ({"upstream": np.ones(2), "axis": 0}, ValueError, r"the loss's shape \(3,\), got \(2,\)"),
            ({"upstream": np.ones((1, 3)), "reduction": "none"}, ValueError, r"shape \(2, 3\), got \(1, 3\)"),
            ({"upstream": torch.tensor(1.0)}, TypeError, "upstream is from torch"),
            ({"upstream": None}, TypeError, "upstream must be a number or an array"),
        ]
    )
    def test_upstream(self, keywords: dict[str, Any], error: type[Exception], message: str) -> None:
        with self.assertRaisesRegex(error, message):
            mse_loss_gradient(LOSSES, LOSSES, **keywords)

    def test_losses_that_are_no_floating_point_numbers(self) -> None:
        with self.assertRaisesRegex(TypeError, "values must have a real floating dtype, got int64"):
            reduce_loss(np.array([1, 2]))
        with self.assertRaisesRegex(TypeError, "values must be an array .* got list"):
            reduce_loss([1.0, 2.0])

    def test_upstream_belongs_to_the_gradient(self) -> None:
        with self.assertRaisesRegex(TypeError, "upstream"):
            reduce_loss(LOSSES, upstream=2.0)
