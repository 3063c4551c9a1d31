"""What no law says about angular margins: arc cosines by autograd and mpmath, parallel and zero vectors, labels."""

from __future__ import annotations

import math
import tracemalloc
import unittest
from itertools import product
from typing import Any

import mpmath
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from cases import convert, matched
from modes import TRACED, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import arcface_loss, cosface_loss, cross_entropy_with_logits, find_loss, value_and_gradient

GENERATOR = np.random.default_rng(31)
EMBEDDINGS, WEIGHT = GENERATOR.standard_normal((9, 4)), GENERATOR.standard_normal((6, 4))
TARGETS = np.array([0, 5, 2, 2, 1, 4, 3, 0, 5])
BOTH = (arcface_loss, cosface_loss)
MODES = ("numpy", "jax.jit", "torch")


def by_arc_cosine(name: str, embeddings: Any, weight: Any, targets: Any, margin: float, scale: float) -> Any:
    """The formula of the docstring, with the angle itself."""
    cosines = F.normalize(embeddings, dim=-1) @ F.normalize(weight, dim=-1).T
    own = cosines.gather(1, targets[:, None])
    if name == "cosface_loss":
        moved = own - margin
    else:
        angle = torch.arccos(own)
        moved = torch.where(
            angle + margin < math.pi, torch.cos(angle + margin), torch.cos(angle) - margin * math.sin(margin)
        )
    return F.cross_entropy(scale * cosines.scatter(1, targets[:, None], moved), targets)


class References(unittest.TestCase):
    """torch's autograd through an arc cosine, fifty digits, and what the losses are without a margin."""

    @parameterized.expand(list(product(BOTH, (0.0, 0.35, 0.5, 1.9), (1.0, 30.0))))
    def test_autograd_through_the_angle(self, loss: Any, margin: float, scale: float) -> None:
        x, w = (torch.tensor(a, requires_grad=True) for a in (EMBEDDINGS, WEIGHT))
        targets = torch.tensor(TARGETS)
        expected = by_arc_cosine(loss.__name__, x, w, targets, margin, scale)
        derivatives = dict(zip(("embeddings", "weight"), torch.autograd.grad(expected, (x, w)), strict=True))
        value, gradients = value_and_gradient(loss)(EMBEDDINGS, WEIGHT, TARGETS, margin=margin, scale=scale)
        np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
        for path, found, derivative in matched(gradients, derivatives):
            np.testing.assert_allclose(found, derivative, rtol=1e-10, atol=1e-13, err_msg=path)

    def test_both_branches_are_compared(self) -> None:
        u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (EMBEDDINGS, WEIGHT))
        angles = np.arccos((u * v[TARGETS]).sum(axis=1))
        self.assertGreater((angles > math.pi - 1.9).sum(), 1)
        self.assertGreater((angles < math.pi - 1.9).sum(), 1)

    @parameterized.expand([(1e-3,), (1e-7,), (math.pi - 1e-7,)])
    def test_fifty_digits_at_small_and_flat_angles(self, angle: float) -> None:
        with mpmath.workdps(50):
            t, other = mpmath.cos(mpmath.mpf(angle) + mpmath.mpf("0.5")), mpmath.cos(mpmath.pi / 2 - angle)
            if angle > 2.0:
                t = mpmath.cos(angle) - mpmath.mpf("0.5") * mpmath.sin(mpmath.mpf("0.5"))
            expected = mpmath.log(1 + mpmath.exp(2 * (other - t)))
            share = 1 - mpmath.exp(-expected)
            # the two classes are at a right angle: the own one pulls at speed −t′, the other one at cos θ
            speed = mpmath.sin(angle + mpmath.mpf("0.5")) if angle < 2.0 else mpmath.sin(angle)
            turned = 2 * share * (speed + mpmath.cos(angle))
        embeddings, weight = np.array([[math.cos(angle), math.sin(angle)]]), np.eye(2)
        value, gradients = value_and_gradient(arcface_loss)(embeddings, weight, np.array([0]), scale=2.0)
        np.testing.assert_allclose(value, float(expected), rtol=1e-14)
        tangent = np.array([-math.sin(angle), math.cos(angle)])
        np.testing.assert_allclose(gradients["embeddings"] @ tangent, float(turned), rtol=1e-8)

    @parameterized.expand(list(product(BOTH, MODES)))
    def test_without_a_margin_it_is_cross_entropy_of_cosines(self, loss: Any, mode: str) -> None:
        u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (EMBEDDINGS, WEIGHT))
        found = evaluate(mode, loss, EMBEDDINGS, WEIGHT, TARGETS, margin=0.0, scale=5.0, reduction="none")
        expected = cross_entropy_with_logits(5.0 * u @ v.T, TARGETS, reduction="none")
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_the_own_logit_falls_with_the_angle_all_the_way(self) -> None:
        angles = np.linspace(0.0, math.pi, 200)
        embeddings, weight = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1), np.eye(3)[[0, 2]]
        for loss in BOTH:
            losses = loss(embeddings, weight, np.zeros(200, dtype=int), margin=0.7, scale=4.0, reduction="none")
            self.assertTrue((np.diff(losses) > 0).all(), loss.__name__)


class Kinks(unittest.TestCase):
    """Vectors that are parallel, opposite or zero."""

    @parameterized.expand(list(product(BOTH, MODES, (1.0, -1.0))))
    def test_parallel_and_opposite_vectors(self, loss: Any, mode: str, sign: float) -> None:
        dtype = "float32" if loss is arcface_loss else "float64"
        weight = WEIGHT.astype(dtype).astype(float)
        value, gradients = evaluate_pair(mode, loss, sign * 3.0 * weight, weight, np.arange(6), dtype=dtype)
        self.assertTrue(np.isfinite(value))
        for path, gradient, _ in matched(gradients, gradients):
            self.assertTrue(np.isfinite(gradient).all(), path)
        # of one class alone, nothing but the own angle is left: p = 1, and no pull at all
        alone, pulls = evaluate_pair(mode, loss, sign * 3.0 * weight[:1], weight[:1], np.array([0]), dtype=dtype)
        self.assertEqual(float(alone), 0.0)
        for path, pull, _ in matched(pulls, pulls):
            np.testing.assert_array_equal(pull, np.zeros((1, 4)), err_msg=path)

    @parameterized.expand(list(product(MODES, ("float32", "float64"))))
    def test_the_cusp_pulls_nowhere(self, mode: str, dtype: str) -> None:
        # at θ = 0, where rounding has parallel vectors differ, what is left is the push away from the other classes
        weight = WEIGHT.astype(dtype).astype(float)
        lengths = np.linalg.norm(weight, axis=1, keepdims=True)
        u, own = weight / lengths, np.eye(6) > 0.0
        exponentials = np.exp(2.0 * np.where(own, math.cos(0.5), u @ u.T))
        shares = exponentials / exponentials.sum(axis=1, keepdims=True)
        value, gradients = evaluate_pair(
            mode, arcface_loss, 3.0 * weight, weight, np.arange(6), margin=0.5, scale=2.0, dtype=dtype
        )
        tolerance = 1e-14 if dtype == "float64" else 1e-6
        np.testing.assert_allclose(value, -np.log(shares[own]).mean(), rtol=tolerance)
        push = np.where(own, 0.0, shares) / 3.0  # 2 shares / 6 rows
        for path, of_others, length in (("embeddings", push, 3.0 * lengths), ("weight", push.T, lengths)):
            pulled = of_others @ u
            expected = (pulled - np.sum(pulled * u, axis=1, keepdims=True) * u) / length
            np.testing.assert_allclose(gradients[path], expected, atol=tolerance, err_msg=path)

    @parameterized.expand(list(product(BOTH, MODES)))
    def test_zero_vectors(self, loss: Any, mode: str) -> None:
        dtype = "float32" if loss is arcface_loss else "float64"
        embeddings, weight = EMBEDDINGS.copy(), WEIGHT.copy()
        embeddings[2] = weight[5] = 0.0
        losses, gradients = evaluate_pair(
            mode, loss, embeddings, weight, TARGETS, margin=0.5, scale=3.0, reduction="none", dtype=dtype
        )
        np.testing.assert_array_equal(gradients["embeddings"][2], np.zeros(4))
        np.testing.assert_array_equal(gradients["weight"][5], np.zeros(4))
        self.assertTrue(all(np.isfinite(g).all() for g in gradients.values()))
        # all cosines are 0, and the own logit is −s sin m or −s m
        own = -3.0 * (math.sin(0.5) if loss is arcface_loss else 0.5)
        expected = math.log(math.exp(own) + 5.0) - own
        np.testing.assert_allclose(losses[2], expected, rtol=1e-12 if dtype == "float64" else 1e-5)

    @parameterized.expand(list(product(BOTH, (1e-30, 1e30))))
    def test_length_does_not_count(self, loss: Any, factor: float) -> None:
        x, w = EMBEDDINGS.astype(np.float32), WEIGHT.astype(np.float32)
        value, gradients = value_and_gradient(loss)(np.float32(factor) * x, w / np.float32(factor), TARGETS)
        np.testing.assert_allclose(value, loss(x, w, TARGETS), rtol=1e-5)
        self.assertTrue(all(np.isfinite(g).all() for g in gradients.values()))

    @parameterized.expand([(loss,) for loss in BOTH])
    def test_never_negative(self, loss: Any) -> None:
        for dtype in (np.float32, np.float16):
            weight = GENERATOR.standard_normal((50, 8)).astype(dtype)
            self.assertGreaterEqual(loss(weight, weight, np.arange(50), margin=0.0, reduction="none").min(), 0.0)

    def test_autodiff_of_the_value_is_finite_at_parallel_vectors(self) -> None:
        x, w = torch.tensor(3.0 * WEIGHT, requires_grad=True), torch.tensor(WEIGHT, requires_grad=True)
        for loss in BOTH:
            for derivative in torch.autograd.grad(loss(x, w, torch.arange(6)), (x, w)):
                self.assertTrue(torch.isfinite(derivative).all())


class Labels(unittest.TestCase):
    """A label outside the classes is refused, or NaN for its row where it cannot be seen."""

    @parameterized.expand(list(product(BOTH, ("numpy", "jax", "torch"), (-1, 6))))
    def test_refused_where_it_is_seen(self, loss: Any, library: str, bad: int) -> None:
        arguments = [
            convert(x, library, "float32") for x in (EMBEDDINGS, WEIGHT, np.array([0, bad] + 7 * [1], np.int32))
        ]
        for function in (loss, find_loss(loss).gradient, value_and_gradient(loss)):
            with self.assertRaisesRegex(ValueError, f"label {bad} is outside the 6 classes 0 … 5"):
                function(*arguments)

    @parameterized.expand([(TRACED[0], arcface_loss, -1), (TRACED[1], cosface_loss, 6), (TRACED[1], arcface_loss, -1)])
    def test_nan_where_it_is_not(self, mode: str, loss: Any, bad: int) -> None:
        targets = TARGETS.copy()
        targets[1] = bad
        losses = evaluate(mode, loss, EMBEDDINGS, WEIGHT, targets, reduction="none")
        gradients = evaluate(mode, find_loss(loss).gradient, EMBEDDINGS, WEIGHT, targets, reduction="none")
        np.testing.assert_array_equal(np.isnan(losses), np.arange(9) == 1)
        np.testing.assert_array_equal(np.isnan(gradients["embeddings"]).any(axis=1), np.arange(9) == 1)

    def test_a_label_without_weight_may_be_anything(self) -> None:
        targets, weights = TARGETS.copy(), np.ones(9)
        targets[1], weights[1] = 99, 0.0
        found = evaluate_pair("jax.jit", arcface_loss, EMBEDDINGS, WEIGHT, targets, weights=weights)
        value, gradients = evaluate_pair("numpy", arcface_loss, EMBEDDINGS, WEIGHT, TARGETS, weights=weights)
        np.testing.assert_allclose(found[0], value, rtol=1e-12)
        for path, gradient, expected in matched(found[1], gradients):
            np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-14, err_msg=path)

    def test_shapes_that_do_not_fit(self) -> None:
        for arguments in (
            (EMBEDDINGS, WEIGHT[:, :3], TARGETS),
            (EMBEDDINGS, WEIGHT, TARGETS[:, None]),
            (EMBEDDINGS, WEIGHT[0], TARGETS),
        ):
            for function in (arcface_loss, find_loss(cosface_loss).gradient):
                with self.assertRaisesRegex(ValueError, r"embeddings must have shape \(…, features\)"):
                    function(*arguments)

    def test_rows_of_any_shape(self) -> None:
        for loss in BOTH:
            folded = value_and_gradient(loss)(EMBEDDINGS.reshape(3, 3, 4), WEIGHT, TARGETS.reshape(3, 3))
            value, gradients = value_and_gradient(loss)(EMBEDDINGS, WEIGHT, TARGETS)
            np.testing.assert_allclose(folded[0], value, rtol=1e-14)
            np.testing.assert_allclose(folded[1]["embeddings"].reshape(9, 4), gradients["embeddings"], rtol=1e-12)


class Memory(unittest.TestCase):
    @parameterized.expand(list(product(BOTH, ("numpy", "torch"))))
    def test_memory_grows_with_rows_and_classes(self, loss: Any, library: str) -> None:
        x, w = GENERATOR.standard_normal((2, 3000, 8)).astype(np.float32)
        arguments = [convert(a, library, "float32") for a in (x, w, np.arange(3000))]
        value_and_gradient(loss)(*arguments)  # which may compile
        tracemalloc.start()
        value_and_gradient(loss)(*arguments)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(peak, 3000 * 3000 * 4 / 2)
