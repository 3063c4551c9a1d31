"""What no law says about losses on masks: literal sums, identities, empty masks, absent classes, Lovász extensions."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from modes import EAGER, MODES, TRACED, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    dice_loss,
    dice_loss_gradient,
    find_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    generalized_dice_loss_gradient,
    jaccard_loss,
    lovasz_hinge_loss,
    lovasz_softmax_loss,
    tversky_loss,
    value_and_gradient,
)
from mithril_losses.numerics.stable import put_back, stable_order, take_in_order

OVERLAPS = (dice_loss, jaccard_loss, tversky_loss, focal_tversky_loss)
GENERATOR = np.random.default_rng(8)
P, T = GENERATOR.uniform(0.0, 1.0, (3, 4, 5)), GENERATOR.integers(0, 2, (3, 4, 5)).astype(float)


def literal(loss: Any, p: np.ndarray, t: np.ndarray, smooth: float) -> float:
    """The loss of one mask, summed pixel by pixel."""
    pairs = list(zip(p.ravel().tolist(), t.ravel().tolist(), strict=True))
    both, p_sum, t_sum = sum(a * b for a, b in pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs)
    if loss is dice_loss:
        return 1 - (2 * both + smooth) / (p_sum + t_sum + smooth)
    if loss is jaccard_loss:
        return 1 - (both + smooth) / (p_sum + t_sum - both + smooth)
    tversky = 1 - (both + smooth) / (both + 0.3 * (p_sum - both) + 0.7 * (t_sum - both) + smooth)
    return tversky if loss is tversky_loss else tversky**0.75


class Overlap(unittest.TestCase):
    @parameterized.expand(list(product(OVERLAPS, EAGER, (0.0, 2.0))))
    def test_literal_sums(self, loss: Any, library: str, smooth: float) -> None:
        value, _ = evaluate_pair(library, loss, P, T, smooth=smooth, reduction="none")
        np.testing.assert_allclose(value, [literal(loss, p, t, smooth) for p, t in zip(P, T, strict=True)], rtol=1e-13)
        classes = [[literal(loss, P[b, c], T[b, c], smooth) for c in range(4)] for b in range(3)]
        by_class, _ = evaluate_pair(library, loss, P, T, smooth=smooth, reduction="none", class_axis=1)
        np.testing.assert_allclose(by_class, classes, rtol=1e-13)
        last = [np.moveaxis(x, 1, -1) for x in (P, T)]
        by_last = loss(*last, smooth=smooth, reduction="none", class_axis=-1)
        np.testing.assert_allclose(by_last, classes, rtol=1e-13)

    def test_one_family(self) -> None:
        np.testing.assert_allclose(tversky_loss(P, T, alpha=0.5, beta=0.5), dice_loss(P, T, smooth=2.0), rtol=1e-14)
        np.testing.assert_allclose(tversky_loss(P, T, alpha=1.0, beta=1.0), jaccard_loss(P, T), rtol=1e-14)
        jaccard = jaccard_loss(P, T, smooth=0.0, reduction="none")
        np.testing.assert_allclose(dice_loss(P, T, smooth=0.0, reduction="none"), jaccard / (2 - jaccard), rtol=1e-14)
        np.testing.assert_allclose(focal_tversky_loss(P, T, gamma=1.0), tversky_loss(P, T), rtol=1e-14)

    @parameterized.expand(list(product(OVERLAPS, MODES, (0.0, 1.0))))
    def test_perfect_masks(self, loss: Any, mode: str, smooth: float) -> None:
        masks = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
        value, gradient = evaluate_pair(mode, loss, masks, masks.copy(), smooth=smooth, reduction="none")
        np.testing.assert_array_equal(value, 0.0)
        self.assertTrue(np.all(np.isfinite(gradient)))
        if smooth == 0.0:
            self.assertFalse(np.any(gradient[0]))

    def test_nothing_cancels(self) -> None:
        p = np.full((1, 1000), 1.0, dtype=np.float32)
        p[0, 0] -= np.float32(2.0**-20)
        exact = 2.0**-20 / (2000.0 - 2.0**-20)
        np.testing.assert_allclose(dice_loss(p, np.ones_like(p), smooth=0.0), exact, rtol=1e-6)

    def test_samples_are_apart_and_one_axis_is_one_mask(self) -> None:
        for loss in OVERLAPS:
            alone = [float(loss(P[i].ravel(), T[i].ravel())) for i in range(3)]
            np.testing.assert_allclose(loss(P, T, reduction="none"), alone, rtol=1e-14)
            self.assertEqual(loss(P[0].ravel(), T[0].ravel(), reduction="none").shape, ())
        for shape, class_axis in (((), None), ((3,), 0)):
            with self.assertRaisesRegex(ValueError, "at least one axis"):
                dice_loss(np.zeros(shape), np.zeros(shape), class_axis=class_axis)

    @parameterized.expand(list(product(EAGER, (bool, np.uint8, np.int64, np.float32))))
    def test_targets_of_any_type(self, library: str, dtype: Any) -> None:
        value, gradient = evaluate_pair(library, dice_loss, P, T.astype(dtype))
        np.testing.assert_allclose(value, dice_loss(P, T), rtol=1e-14)
        np.testing.assert_allclose(gradient, dice_loss_gradient(P, T), rtol=1e-13)

    @parameterized.expand(
        [(loss,) for loss in (*OVERLAPS, generalized_dice_loss, lovasz_softmax_loss, lovasz_hinge_loss)]
    )
    def test_blocks_of_large_arrays(self, loss: Any) -> None:
        generator = np.random.default_rng(2)
        p = generator.uniform(0.0, 1.0, (3, 150, 50, 2))
        t = generator.integers(0, 2, p.shape[:-1] if loss is lovasz_softmax_loss else p.shape)
        for reduction in ("mean", "none"):
            value, gradient = value_and_gradient(loss)(p, t, reduction=reduction)
            np.testing.assert_allclose(value, loss(p, t, reduction=reduction), rtol=1e-13)
            np.testing.assert_allclose(gradient, find_loss(loss).gradient(p, t, reduction=reduction), rtol=1e-12)


class GeneralizedDice(unittest.TestCase):
    @parameterized.expand([(library,) for library in EAGER])
    def test_formula_of_the_paper(self, library: str) -> None:
        p = GENERATOR.dirichlet(np.ones(3), (2, 20))
        t = np.eye(3)[GENERATOR.choice(3, (2, 20), p=[0.7, 0.2, 0.1])]
        expected = []
        for b in range(2):
            weights = [1.0 / t[b, :, c].sum() ** 2 for c in range(3)]
            part = sum(w * (p[b, :, c] * t[b, :, c]).sum() for c, w in enumerate(weights))
            whole = sum(w * (p[b, :, c] + t[b, :, c]).sum() for c, w in enumerate(weights))
            expected.append(1 - 2 * part / whole)
        value, _ = evaluate_pair(library, generalized_dice_loss, p, t, smooth=0.0, reduction="none")
        np.testing.assert_allclose(value, expected, rtol=1e-13)

    def test_one_class_and_classes_of_one_size(self) -> None:
        one = [x.reshape(3, 20, 1) for x in (P, T)]
        np.testing.assert_allclose(generalized_dice_loss(*one, smooth=3.0), dice_loss(P, T, smooth=3.0), rtol=1e-14)
        t = np.eye(4)[np.arange(20) % 4][None]
        p = GENERATOR.dirichlet(np.ones(4), (1, 20))
        np.testing.assert_allclose(generalized_dice_loss(p, t), dice_loss(p, t), rtol=1e-14)

    def test_class_that_is_not_there_does_not_take_over(self) -> None:
        t = np.zeros((1, 100, 3))
        t[0, :90, 0], t[0, 90:, 1] = 1.0, 1.0
        p = np.clip(t, 0.0, 0.98) + 0.01 * (t == 0)  # 98 % right everywhere, 1 % for the class that is not there
        with_it = float(generalized_dice_loss(p, t))
        without = float(generalized_dice_loss(p[..., :2], t[..., :2]))
        self.assertLess(with_it, without + 0.05)
        self.assertGreater(with_it, without)  # false positives count, as in the smaller class
        gradient = generalized_dice_loss_gradient(p, t)
        self.assertTrue(np.all(gradient[..., 2] > 0.0))
        np.testing.assert_allclose(gradient[0, 0, 2], gradient[0, 0, 1], rtol=1e-14)

    @parameterized.expand(list(product(MODES, (0.0, 1.0))))
    def test_nothing_there(self, mode: str, smooth: float) -> None:
        empty = np.zeros((2, 4, 3))
        value, gradient = evaluate_pair(mode, generalized_dice_loss, empty, empty.copy(), smooth=smooth)
        self.assertEqual(value, 0.0)
        self.assertTrue(np.all(np.isfinite(gradient)))


def extension(errors: list[float], foreground: list[bool]) -> float:
    """∫ J({k : error k ≥ θ}) dθ over θ ≥ 0, J(wrong) the Jaccard loss of a mask that is wrong there: by sets."""
    truth = {k for k, f in enumerate(foreground) if f}
    total, last = 0.0, 0.0
    for theta in sorted({e for e in errors if e > 0}):
        predicted = truth ^ {k for k, error in enumerate(errors) if error >= theta}
        union = truth | predicted
        total += (theta - last) * (1 - len(truth & predicted) / len(union) if union else 0.0)
        last = theta
    return total


class Lovasz(unittest.TestCase):
    @parameterized.expand(list(product(EAGER, ("present", "all"))))
    def test_integral_over_thresholds(self, library: str, classes: str) -> None:
        p = GENERATOR.dirichlet(np.ones(4), (3, 2, 6))
        labels = GENERATOR.integers(0, 3, (3, 2, 6))  # class 3 is nowhere
        expected = []
        for b in range(3):
            seen = sorted(set(labels[b].ravel().tolist())) if classes == "present" else range(4)
            losses = []
            for c in seen:
                truth = (labels[b] == c).ravel()
                losses.append(extension(np.abs(truth - p[b, ..., c].ravel()).tolist(), truth.tolist()))
            expected.append(sum(losses) / len(losses))
        value, _ = evaluate_pair(library, lovasz_softmax_loss, p, labels, classes=classes, reduction="none")
        np.testing.assert_allclose(value, expected, rtol=1e-13)

    @parameterized.expand([(library,) for library in EAGER])
    def test_hinge_is_an_integral_too(self, library: str) -> None:
        z, t = 2.0 * GENERATOR.standard_normal((5, 3, 4)), GENERATOR.integers(0, 2, (5, 3, 4))
        t[0] = 0
        errors = 1 - (2 * t - 1) * z
        expected = [extension(e.ravel().tolist(), (m == 1).ravel().tolist()) for e, m in zip(errors, t, strict=True)]
        value, _ = evaluate_pair(library, lovasz_hinge_loss, z, t, reduction="none")
        np.testing.assert_allclose(value, expected, rtol=1e-13)

    def test_hard_predictions_give_the_jaccard_loss(self) -> None:
        labels, found = GENERATOR.integers(0, 3, (4, 50)), GENERATOR.integers(0, 3, (4, 50))
        p, t = np.eye(3)[found], np.eye(3)[labels]
        expected = jaccard_loss(p, t, smooth=0.0, class_axis=-1)
        np.testing.assert_allclose(lovasz_softmax_loss(p, labels, classes="all"), expected, rtol=1e-13)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_ignored_pixels_are_not_there(self, mode: str) -> None:
        p, labels = GENERATOR.dirichlet(np.ones(3), (2, 8)), GENERATOR.integers(0, 3, (2, 8))
        labels[0, 2:5], labels[1, :] = 255, 255
        value, gradient = evaluate_pair(mode, lovasz_softmax_loss, p, labels, ignore_index=255, reduction="none")
        kept = labels[0] != 255
        expected, slopes = value_and_gradient(lovasz_softmax_loss)(p[0][kept], labels[0][kept])
        np.testing.assert_allclose(value, [expected, 0.0], rtol=1e-13)
        np.testing.assert_allclose(gradient[0][kept], slopes, rtol=1e-13, atol=1e-16)
        self.assertFalse(np.any(gradient[0][~kept]))
        self.assertFalse(np.any(gradient[1]))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_pixels_join_in_their_own_order_at_ties(self, mode: str) -> None:
        # errors of 1 everywhere: the foreground first takes J to 1/3, 2/3, 1 if it comes first
        steps = evaluate(mode, find_loss(lovasz_hinge_loss).gradient, np.zeros(4), np.array([1, 1, 1, 0]))
        np.testing.assert_allclose(steps, [-1 / 3, -1 / 3, -1 / 3, 0.0], rtol=1e-14, atol=1e-16)
        steps = evaluate(mode, find_loss(lovasz_hinge_loss).gradient, np.zeros(4), np.array([0, 1, 1, 1]))
        np.testing.assert_allclose(steps, [1 / 4, -1 / 4, -1 / 4, -1 / 4], rtol=1e-14)

    @parameterized.expand(list(product(TRACED, (lovasz_softmax_loss, lovasz_hinge_loss))))
    def test_illegal_labels_out_of_sight(self, mode: str, loss: Callable[..., Any]) -> None:
        p = GENERATOR.dirichlet(np.ones(3), (2, 4)) if loss is lovasz_softmax_loss else np.zeros((2, 4))
        labels = np.array([[0, 1, 0, 1], [1, -1, 0, 1]])
        for function in (loss, find_loss(loss).gradient):
            found = evaluate(mode, function, p, labels, reduction="none")
            self.assertTrue(np.all(np.isfinite(found[0])))
            self.assertTrue(np.all(np.isnan(found[1])))
        for function in (loss, find_loss(loss).gradient, value_and_gradient(loss)):
            with self.assertRaisesRegex(ValueError, "-1"):
                function(p, labels)

    def test_small_steps_of_a_large_mask_keep_their_digits(self) -> None:
        generator = np.random.default_rng(3)
        t = generator.integers(0, 2, 40_000)
        z = (1 - 2 * t) * generator.permutation(40_000) / 65_536  # errors that float32 holds and tells apart
        exact = value_and_gradient(lovasz_hinge_loss)(z, t)[1]
        found = value_and_gradient(lovasz_hinge_loss)(z.astype(np.float32), t)[1]
        np.testing.assert_allclose(found, exact, rtol=1e-6)

    def test_the_order_of_float32_is_that_of_a_stable_sort(self) -> None:
        generator = np.random.default_rng(5)
        awkward = [0.0, -0.0, np.inf, -np.inf, 1.0, -1.0, 1e-45, -1e-45]
        columns = np.swapaxes(generator.standard_normal((2, 9, 4)), 1, 2)  # whose rows are not in one piece
        choice = generator.choice(awkward, (2, 3, 50))
        for values in (generator.standard_normal(70_000), columns, choice, [[0.0, np.nan, -1.0]]):
            x = np.asarray(values, np.float32)
            order = stable_order(np, x)
            np.testing.assert_array_equal(order, np.argsort(x, axis=-1, stable=True))
            ordered = take_in_order(np, x, order)
            np.testing.assert_array_equal(ordered, np.sort(x, axis=-1))
            np.testing.assert_array_equal(put_back(np, ordered, order), x)
