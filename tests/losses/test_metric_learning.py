"""What no law says about losses on distances: PyTorch's numbers, closed forms, kinks and extreme distances."""

from __future__ import annotations

import math
import unittest
from itertools import product
from typing import Any

import mpmath
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from modes import EAGER, MODES, TRACED, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    contrastive_loss,
    contrastive_loss_gradient,
    cosine_embedding_loss,
    cosine_embedding_loss_gradient,
    triplet_loss,
    triplet_loss_gradient,
    value_and_gradient,
)

INF, NAN = math.inf, math.nan
ORDERS = (1.0, 1.5, 2.0, 3.0, INF)
ANCHOR, POSITIVE, NEGATIVE = np.random.default_rng(6).standard_normal((3, 8, 4))
NAMES = ("anchor", "positive", "negative")


class References(unittest.TestCase):
    """torch.nn.functional, whose distance has an epsilon that must be switched off, and mpmath."""

    @parameterized.expand(list(product(ORDERS, (0.25, 1.0), (False, True))))
    def test_torch_triplet_margin_loss(self, p: float, margin: float, swap: bool) -> None:
        embeddings = [torch.tensor(x, requires_grad=True) for x in (ANCHOR, POSITIVE, NEGATIVE)]
        expected = F.triplet_margin_loss(*embeddings, margin=margin, p=p, eps=0.0, swap=swap)
        value, gradients = value_and_gradient(triplet_loss)(*embeddings, margin=margin, p=p, swap=swap)
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0.0)
        derivatives = torch.autograd.grad(expected, embeddings)
        for name, derivative in zip(NAMES, derivatives, strict=True):
            torch.testing.assert_close(gradients[name].detach(), derivative, rtol=1e-12, atol=1e-15)

    def test_squared_distances(self) -> None:
        d = [torch.tensor(x, requires_grad=True) for x in (ANCHOR, POSITIVE, NEGATIVE)]
        expected = F.triplet_margin_with_distance_loss(
            *d, distance_function=lambda x, y: ((x - y) ** 2).sum(dim=-1), margin=0.5, swap=True
        )
        value, gradients = value_and_gradient(triplet_loss)(*d, margin=0.5, squared=True, swap=True)
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0.0)
        for name, derivative in zip(NAMES, torch.autograd.grad(expected, d), strict=True):
            torch.testing.assert_close(gradients[name].detach(), derivative, rtol=1e-12, atol=1e-15)

    @parameterized.expand([(p,) for p in ORDERS])
    def test_distance_at_fifty_digits(self, p: float) -> None:
        # with the negative on the anchor and no margin, the loss is the distance to the positive
        for x, y in zip(ANCHOR, POSITIVE, strict=True):
            with mpmath.workdps(50):
                magnitudes = [abs(mpmath.mpf(a) - mpmath.mpf(b)) for a, b in zip(x, y, strict=True)]
                power = mpmath.fsum(a**p for a in magnitudes) if p < INF else None
                expected = max(magnitudes) if power is None else power ** (1 / mpmath.mpf(p))
            np.testing.assert_allclose(triplet_loss(x, y, x, margin=0.0, p=p), float(expected), rtol=1e-14)

    def test_contrastive_closed_form(self) -> None:
        # d = 5, 0.3, 0.5, 2 against a margin of 1
        first = np.array([[3.0, 4.0], [0.3, 0.0], [0.3, 0.4], [0.0, -2.0]])
        zeros, labels = np.zeros_like(first), np.array([1, 1, 0, 0])
        value, gradients = value_and_gradient(contrastive_loss)(first, zeros, labels, reduction="none")
        np.testing.assert_allclose(value, [25.0, 0.09, 0.25, 0.0], rtol=1e-14)
        expected = [[6.0, 8.0], [0.6, 0.0], [-0.6, -0.8], [0.0, 0.0]]
        np.testing.assert_allclose(gradients["embedding1"], expected, rtol=1e-14)
        np.testing.assert_allclose(gradients["embedding2"], -np.array(expected), rtol=1e-14)
        wide = contrastive_loss(first, zeros, labels, margin=3.0, reduction="none")
        np.testing.assert_allclose(wide, [25.0, 0.09, 6.25, 1.0], rtol=1e-14)

    @parameterized.expand([(0.0,), (0.3,), (-0.5,)])
    def test_torch_cosine_embedding_loss(self, margin: float) -> None:
        pair = [torch.tensor(x, requires_grad=True) for x in (ANCHOR, POSITIVE)]
        labels = torch.tensor([1, -1, -1, 1, -1, 1, -1, -1])
        expected = F.cosine_embedding_loss(*pair, labels, margin=margin)
        value, gradients = value_and_gradient(cosine_embedding_loss)(*pair, labels, margin=margin)
        # torch adds 1e-12 to the squares of the norms
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=0.0)
        for found, derivative in zip(gradients.values(), torch.autograd.grad(expected, pair), strict=True):
            torch.testing.assert_close(found.detach(), derivative, rtol=1e-10, atol=1e-13)

    def test_small_angles_at_fifty_digits(self) -> None:
        # 1 − cos θ = 5e-13 would be 4.9993e-13 as a difference of two numbers near 1
        with mpmath.workdps(50):
            expected, sine = float(1 - mpmath.cos(mpmath.mpf(1e-6))), float(mpmath.sin(mpmath.mpf(1e-6)))
        first, second = np.array([[3.0, 0.0]]), np.array([[math.cos(1e-6), math.sin(1e-6)]])
        value, gradients = value_and_gradient(cosine_embedding_loss)(first, second, np.array([1]))
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        np.testing.assert_allclose(gradients["embedding1"][0, 1], -sine / 3.0, rtol=1e-9)


class Kinks(unittest.TestCase):
    """Coincident points, the corner, and ties."""

    @parameterized.expand(list(product(MODES, (1.0, 2.0, 3.0, INF))))
    def test_coincident_points(self, mode: str, p: float) -> None:
        x, far = np.ones((1, 3)), np.array([[1.0, 1.0, 1.5]])
        value, gradients = evaluate_pair(mode, triplet_loss, x, x, x, p=p)
        self.assertEqual(float(value), 1.0)
        for gradient in gradients.values():
            np.testing.assert_array_equal(gradient, np.zeros((1, 3)))
        value, gradients = evaluate_pair(mode, triplet_loss, x, x, far, p=p)
        self.assertEqual(float(value), 0.5)
        np.testing.assert_array_equal(gradients["positive"], np.zeros((1, 3)))
        np.testing.assert_allclose(gradients["anchor"], [[0.0, 0.0, 1.0]], rtol=1e-15)
        np.testing.assert_allclose(gradients["negative"], [[0.0, 0.0, -1.0]], rtol=1e-15)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_the_corner(self, mode: str) -> None:
        # d(a, p) = 1, d(a, n) = 2, margin 1
        anchor, positive, negative = np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
        value, gradients = evaluate_pair(mode, triplet_loss, anchor, positive, negative)
        self.assertEqual(float(value), 0.0)
        for gradient in gradients.values():
            np.testing.assert_array_equal(gradient, np.zeros((1, 2)))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_the_first_of_equal_magnitudes(self, mode: str) -> None:
        anchor, positive = np.zeros((1, 3)), np.array([[0.5, -2.0, 2.0]])
        _, gradients = evaluate_pair(mode, triplet_loss, anchor, positive, anchor, p=INF)
        np.testing.assert_array_equal(gradients["positive"], [[0.0, -1.0, 0.0]])

    @parameterized.expand([(mode,) for mode in MODES])
    def test_a_tie_is_not_swapped(self, mode: str) -> None:
        # the negative is as far from the anchor as from the positive
        anchor, positive, negative = np.array([[0.0, 0.0]]), np.array([[2.0, 0.0]]), np.array([[1.0, 1.0]])
        plain = evaluate_pair(mode, triplet_loss, anchor, positive, negative)
        swapped = evaluate_pair(mode, triplet_loss, anchor, positive, negative, swap=True)
        self.assertEqual(float(plain[0]), float(swapped[0]))
        for name in NAMES:
            np.testing.assert_array_equal(swapped[1][name], plain[1][name])

    @parameterized.expand([(mode,) for mode in MODES])
    def test_contrastive(self, mode: str) -> None:
        # coincident, and different ones at exactly the margin
        first, second = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
        value, gradients = evaluate_pair(
            mode, contrastive_loss, first, second, np.array([1, 0, 0]), margin=5.0, reduction="none"
        )
        np.testing.assert_array_equal(value, [0.0, 25.0, 0.0])
        for gradient in gradients.values():
            np.testing.assert_array_equal(gradient, np.zeros((3, 2)))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_cosine_embedding(self, mode: str) -> None:
        # a zero vector either way, the same direction, the opposite one, and exactly the margin
        first = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
        second = np.array([[1.0, 2.0], [1.0, 2.0], [6.0, 8.0], [-6.0, -8.0], [0.0, 2.0]])
        labels = np.array([1, -1, 1, 1, -1])
        value, gradients = evaluate_pair(
            mode, cosine_embedding_loss, first, second, labels, margin=0.8, reduction="none"
        )
        np.testing.assert_allclose(value, [1.0, 0.0, 0.0, 2.0, 0.0], atol=1e-15)
        for gradient in gradients.values():
            np.testing.assert_allclose(gradient, np.zeros((5, 2)), atol=1e-15)
        # a zero vector meets a margin that it does not keep
        value, gradients = evaluate_pair(
            mode, cosine_embedding_loss, first[:1], second[:1], labels[1:2], margin=-0.5, dtype="float32"
        )
        self.assertEqual(float(value), 0.5)
        for gradient in gradients.values():
            np.testing.assert_array_equal(gradient, np.zeros((1, 2)))


class KnownMistakes(unittest.TestCase):
    """Where other implementations are known to be wrong."""

    @parameterized.expand([(1.0, 7.0), (3.0, 91.0 ** (1 / 3))])
    def test_powers_of_negative_differences(self, p: float, distance: float) -> None:
        # (−3)¹ + 4¹ = 1 is no distance, and the cube root of (−3)³ − 4³ is no number
        anchor, positive = np.zeros((1, 2)), np.array([[3.0, -4.0 if p == 3.0 else 4.0]])
        for sign in (1.0, -1.0):
            value = triplet_loss(anchor, sign * positive, anchor, margin=0.0, p=p)
            np.testing.assert_allclose(value, distance, rtol=1e-14)

    def test_an_epsilon_inside_the_distance(self) -> None:
        x = np.ones((2, 3), dtype=np.float32)
        self.assertEqual(float(triplet_loss(x, x, x, margin=0.0)), 0.0)
        self.assertEqual(float(contrastive_loss(x, x, np.array([1, 1]))), 0.0)

    def test_losses_of_zero_count_in_the_mean(self) -> None:
        # one of four triplets violates the margin, by 1
        anchor, positive, negative = np.zeros((4, 1)), np.array([[1.0], [0.0], [0.0], [0.0]]), np.ones((4, 1))
        value, gradients = value_and_gradient(triplet_loss)(anchor, positive, negative)
        self.assertEqual(float(value), 0.25)
        np.testing.assert_array_equal(gradients["positive"], [[0.25], [0.0], [0.0], [0.0]])

    def test_distances_of_equal_pairs_are_squared(self) -> None:
        self.assertEqual(float(contrastive_loss(np.zeros((1, 1)), np.full((1, 1), 3.0), np.array([1]))), 9.0)

    @parameterized.expand([(mode,) for mode in ("numpy", "jax.jit", "torch")])
    def test_the_cosine_of_a_zero_vector(self, mode: str) -> None:
        # NaN, or millions, where a small number is added to a norm of 0
        zeros, x = np.zeros((2, 3)), np.ones((2, 3))
        for first, second in ((zeros, x), (x, zeros), (zeros, zeros)):
            value, gradients = evaluate_pair(
                mode, cosine_embedding_loss, first, second, np.array([1, -1]), dtype="float32", reduction="none"
            )
            np.testing.assert_array_equal(value, [1.0, 0.0])
            for gradient in gradients.values():
                np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


class Extremes(unittest.TestCase):
    """Distances whose squares leave the floating type."""

    @parameterized.expand(
        [*product(("numpy", "torch"), ("float64", "float32"), (1.0, 1.5, 2.0, 3.0, 50.0, INF)), ("jax", "float32", 2.0)]
    )
    def test_tiny_and_huge_distances(self, mode: str, dtype: str, p: float) -> None:
        directions = np.array([[3.0, -4.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, -1.0]])
        zeros = np.zeros_like(directions)
        length = np.linalg.norm(directions, ord=p, axis=1)
        for exponent in (-300, 300) if dtype == "float64" else (-35, 35):
            scaled = directions * 10.0**exponent
            value, gradients = evaluate_pair(
                mode, triplet_loss, scaled, zeros, scaled, margin=0.0, p=p, dtype=dtype, reduction="none"
            )
            np.testing.assert_allclose(value, length * 10.0**exponent, rtol=1e-5)
            # the unit vector of the direction, whatever its length
            _, units = evaluate_pair(
                mode, triplet_loss, directions, zeros, directions, margin=0.0, p=p, dtype=dtype, reduction="none"
            )
            np.testing.assert_allclose(gradients["positive"], units["positive"], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(np.sum(-gradients["positive"] * directions, axis=1), length, rtol=1e-5)

    def test_squares_overflow_only_where_they_are_asked_for(self) -> None:
        far, zeros = np.full((1, 2), 1e25, dtype=np.float32), np.zeros((1, 2), dtype=np.float32)
        self.assertTrue(np.isfinite(triplet_loss(far, zeros, far)))
        self.assertEqual(float(triplet_loss(far, zeros, far, squared=True)), INF)
        self.assertEqual(float(contrastive_loss(far, zeros, np.array([1]))), INF)
        # different ones far apart: nothing, not 0 · ∞
        value, gradients = value_and_gradient(contrastive_loss)(far, zeros, np.array([0]))
        self.assertEqual(float(value), 0.0)
        np.testing.assert_array_equal(gradients["embedding1"], zeros)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_the_largest_numbers(self, mode: str) -> None:
        # the reciprocal of the norm is no normal number; the difference of two largest numbers is infinite
        half, zeros = np.array([[0.0, 2e38]]), np.zeros((1, 2))
        value, gradients = evaluate_pair(mode, triplet_loss, half, zeros, half, margin=0.0, dtype="float32")
        np.testing.assert_allclose(value, 2e38, rtol=1e-6)
        np.testing.assert_allclose(gradients["positive"], [[0.0, -1.0]], rtol=1e-6)
        value, gradients = evaluate_pair(
            mode, contrastive_loss, 1.5 * half, -1.5 * half, np.array([0]), reduction="none", dtype="float32"
        )
        np.testing.assert_array_equal(value, [0.0])
        np.testing.assert_array_equal(gradients["embedding1"], zeros)
        value, _ = evaluate_pair(mode, triplet_loss, 1.5 * half, -1.5 * half, 1.5 * half, dtype="float32")
        self.assertEqual(float(value), INF)

    def test_no_features(self) -> None:
        nothing = np.zeros((2, 0))
        self.assertEqual(float(triplet_loss(nothing, nothing, nothing)), 1.0)
        self.assertEqual(float(contrastive_loss(nothing, nothing, np.array([0, 1]))), 0.5)
        self.assertEqual(triplet_loss_gradient(nothing, nothing, nothing)["anchor"].shape, (2, 0))

    def test_one_large_triplet(self) -> None:
        # large enough for `value_and_gradient` to split a batch of them into blocks
        embeddings = np.random.default_rng(2).standard_normal((3, 40_000))
        value, _ = evaluate_pair("numpy", triplet_loss, *embeddings, margin=5.0)
        a, p, n = embeddings
        expected = np.linalg.norm(a - p) - np.linalg.norm(a - n) + 5.0
        np.testing.assert_allclose(value, expected, rtol=1e-12)

    def test_half_precision(self) -> None:
        far = np.full((1, 4), 300.0, dtype=np.float16)  # whose squares float16 cannot hold
        value, gradients = value_and_gradient(triplet_loss)(far, -far, far)
        self.assertEqual(float(value), 1201.0 if value.dtype != np.float16 else float(np.float16(1201.0)))
        np.testing.assert_array_equal(gradients["positive"], np.full((1, 4), -0.5, dtype=np.float16))

    def test_never_negative(self) -> None:
        generator = np.random.default_rng(3)
        for dtype in (np.float32, np.float16):
            a, b, c = (generator.standard_normal((3, 3000, 3)) * 10.0 ** generator.uniform(-3, 3, (3, 3000, 1))).astype(
                dtype
            )
            for p, squared in ((1.0, False), (2.0, True), (INF, False)):
                self.assertGreaterEqual(triplet_loss(a, b, c, p=p, squared=squared, reduction="none").min(), 0.0)
            labels = generator.integers(0, 2, 3000)
            self.assertGreaterEqual(contrastive_loss(a, b, labels, reduction="none").min(), 0.0)
            for other in (a, 2 * a, b):
                self.assertGreaterEqual(cosine_embedding_loss(a, other, 2 * labels - 1, reduction="none").min(), 0.0)


class Arguments(unittest.TestCase):
    """Shapes, labels and options."""

    def test_rows_of_several_axes(self) -> None:
        shape = (2, 4, 4)
        value, gradients = value_and_gradient(triplet_loss)(*(x.reshape(shape) for x in (ANCHOR, POSITIVE, NEGATIVE)))
        expected, flat = value_and_gradient(triplet_loss)(ANCHOR, POSITIVE, NEGATIVE)
        np.testing.assert_allclose(value, expected, rtol=1e-15)
        for name in NAMES:
            np.testing.assert_array_equal(gradients[name].reshape(8, 4), flat[name])

    @parameterized.expand(
        [
            ({"p": 0.5}, ValueError, "p must be ≥ 1, got 0.5"),
            ({"p": np.array(2.0)}, TypeError, "p must be a number ≥ 1"),
            ({"p": NAN}, ValueError, "p must be ≥ 1, got nan"),
            ({"margin": -1.0}, ValueError, "margin must be ≥ 0, got -1.0"),
            ({"margin": INF}, ValueError, "margin must be ≥ 0, and finite, got inf"),
        ]
    )
    def test_options(self, options: dict[str, Any], error: type[Exception], message: str) -> None:
        for function in (triplet_loss, triplet_loss_gradient, value_and_gradient(triplet_loss)):
            with self.assertRaisesRegex(error, message):
                function(ANCHOR, POSITIVE, NEGATIVE, **options)

    def test_shapes(self) -> None:
        with self.assertRaisesRegex(
            ValueError, r"anchor and negative must have the same shape, got \(8, 4\) and \(8,\)"
        ):
            triplet_loss(ANCHOR, POSITIVE, NEGATIVE[:, 0])
        with self.assertRaisesRegex(ValueError, "embeddings need a feature axis, got scalars"):
            triplet_loss(*map(np.array, (1.0, 2.0, 3.0)))
        with self.assertRaisesRegex(ValueError, r"one entry per row, shape \(8,\), got \(8, 1\)"):
            contrastive_loss(ANCHOR, POSITIVE, np.ones((8, 1)))

    def test_mixed_types(self) -> None:
        embeddings = ANCHOR.astype(np.float16), POSITIVE.astype(np.float32), NEGATIVE
        value, gradients = value_and_gradient(triplet_loss)(*embeddings)
        self.assertEqual([gradients[name].dtype for name in NAMES], [np.float16, np.float32, np.float64])
        np.testing.assert_allclose(value, triplet_loss(ANCHOR, POSITIVE, NEGATIVE), rtol=1e-2)

    @parameterized.expand([("int64",), ("uint8",), ("bool",), ("float32",)])
    def test_labels_of_every_type(self, dtype: str) -> None:
        labels = np.array([0, 1, 1, 0, 0, 1, 0, 1])
        expected = contrastive_loss(ANCHOR, POSITIVE, labels.astype(float))
        for mode in EAGER:
            value, _ = evaluate_pair(mode, contrastive_loss, ANCHOR, POSITIVE, labels.astype(dtype))
            np.testing.assert_allclose(value, expected, rtol=1e-14)

    @parameterized.expand([(-1,), (2,), (0.5,), (NAN,)])
    def test_labels_that_are_none(self, wrong: float) -> None:
        labels = np.array([1, 0, wrong])
        for library, function in product(EAGER, (contrastive_loss, contrastive_loss_gradient)):
            with self.assertRaisesRegex(ValueError, rf"labels must be in \{{0, 1\}}, got {wrong}.*; for labels −1 "):
                evaluate(library, function, ANCHOR[:3], POSITIVE[:3], labels)

    def test_zero_is_no_label_of_a_cosine(self) -> None:
        for function in (cosine_embedding_loss, cosine_embedding_loss_gradient):
            with self.assertRaisesRegex(ValueError, r"labels must be in \{-1, \+1\}, got 0.*; for labels 0 "):
                function(ANCHOR[:2], POSITIVE[:2], np.array([1, 0]))

    @parameterized.expand([(mode,) for mode in TRACED])
    def test_labels_of_a_cosine_that_cannot_be_seen(self, mode: str) -> None:
        labels, wrong = np.array([1.0, 0.0, -1.0, NAN]), np.array([False, True, False, True])
        value, gradients = evaluate_pair(
            mode, cosine_embedding_loss, ANCHOR[:4], POSITIVE[:4], labels, reduction="none"
        )
        np.testing.assert_array_equal(np.isnan(value), wrong)
        for gradient in gradients.values():
            np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), wrong)

    @parameterized.expand([(mode,) for mode in TRACED])
    def test_labels_that_cannot_be_seen(self, mode: str) -> None:
        labels = np.array([1.0, -1.0, 0.0, 2.0, 0.5, NAN, 0.0, 1.0])
        wrong = np.array([False, True, False, True, True, True, False, False])
        value, gradients = evaluate_pair(mode, contrastive_loss, ANCHOR, POSITIVE, labels, reduction="none")
        np.testing.assert_array_equal(np.isnan(value), wrong)
        for gradient in gradients.values():
            np.testing.assert_array_equal(np.isnan(gradient), np.repeat(wrong[:, None], 4, axis=1))
