"""What no law says about the classification losses: other people's numbers, labels, infinities and clipped ends."""

from __future__ import annotations

import math
import re
import tracemalloc
import unittest
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import sklearn.metrics
import torch
import torch.nn.functional as F  # noqa: N812
from modes import EAGER, MODES, TRACED, evaluate, evaluate_pair
from parameterized import parameterized
from sklearn._loss.loss import ExponentialLoss, HalfBinomialLoss
from sklearn.linear_model._sgd_fast import ModifiedHuber

from mithril_losses import (
    binary_cross_entropy,
    binary_cross_entropy_gradient,
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_gradient,
    cross_entropy_loss,
    cross_entropy_loss_gradient,
    cross_entropy_with_logits,
    cross_entropy_with_logits_gradient,
    exponential_loss,
    find_loss,
    focal_loss,
    focal_loss_gradient,
    focal_loss_with_logits,
    focal_loss_with_logits_gradient,
    hinge_loss,
    hinge_loss_gradient,
    logistic_loss,
    modified_huber_loss,
    squared_hinge_loss,
    value_and_gradient,
)
from mithril_losses.domains import SIGN
from mithril_losses.limits import current

INF, NAN = math.inf, math.nan
GENERATOR = np.random.default_rng(11)
LOGITS = 2.0 * GENERATOR.standard_normal((7, 5))
LABELS = np.array([0, 3, 1, 4, 4, 2, 0])
MASSES = GENERATOR.dirichlet(np.ones(5), 7)
CLASS_WEIGHTS = np.array([0.5, 1.0, 2.0, 0.25, 1.5])
TYPES = [  # what the laws, which see every type, do not push to the ends
    *(("numpy", dtype) for dtype in ("float64", "float32", "float16")),
    *(("torch", dtype) for dtype in ("float64", "float32", "float16", "bfloat16")),
    *(("jax", dtype) for dtype in ("float32", "bfloat16")),
    ("jax.jit", "float32"),
]


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


class References(unittest.TestCase):
    """mpmath at 50 digits, straight from the definitions; PyTorch and scikit-learn where theirs are the same."""

    SCORES = (-300.0, -40.0, -1.5, -1e-9, 0.0, 1e-9, 0.3, 7.0, 40.0, 300.0)

    @parameterized.expand(list(product((0.0, 0.3, 1.0), (1.0, 2.5))))
    def test_binary_cross_entropy_with_logits(self, target: float, pos_weight: float) -> None:
        for score in self.SCORES:
            with mpmath.workdps(200):  # 1 − σ(300) is 1e-130
                z, t, w = mpmath.mpf(score), mpmath.mpf(target), mpmath.mpf(pos_weight)
                p = 1 / (1 + mpmath.exp(-z))
                expected = -w * t * mpmath.log(p) - (1 - t) * mpmath.log(1 - p)
                slope = (1 - t) * p - w * t * (1 - p)
            arguments, keywords = (np.array([score]), np.array([target])), {"pos_weight": pos_weight}
            np.testing.assert_allclose(
                binary_cross_entropy_with_logits(*arguments, **keywords), float(expected), rtol=4e-15
            )
            # with a soft target the slope is a difference, exact to the rounding of its terms
            atol = 1e-15 if 0.0 < target < 1.0 else 0.0
            np.testing.assert_allclose(
                binary_cross_entropy_with_logits_gradient(*arguments, **keywords), [float(slope)], rtol=4e-15, atol=atol
            )

    @parameterized.expand(list(product((0, 1), (0.0, 0.5, 1.0, 2.0, 5.0))))
    def test_focal_loss_with_logits(self, target: int, gamma: float) -> None:
        def definition(z: Any) -> Any:
            p_t = 1 / (1 + mpmath.exp(-(2 * target - 1) * z))
            alpha_t = mpmath.mpf("0.25") if target else mpmath.mpf("0.75")
            return -alpha_t * (1 - p_t) ** gamma * mpmath.log(p_t)

        for score in (-40.0, -1.5, 0.0, 0.3, 7.0, 40.0):
            with mpmath.workdps(50):
                expected, slope = definition(mpmath.mpf(score)), mpmath.diff(definition, score)
            value, gradient = value_and_gradient(focal_loss_with_logits)(
                np.array([score]), np.array([target]), gamma=gamma
            )
            np.testing.assert_allclose(value, float(expected), rtol=1e-13)
            np.testing.assert_allclose(gradient, [float(slope)], rtol=1e-13)

    @parameterized.expand(list(product((0, 1), (0.0, 0.5, 1.0, 2.0, 5.0))))
    def test_focal_loss(self, target: int, gamma: float) -> None:
        def definition(p: Any) -> Any:
            p_t = p if target else 1 - p
            alpha_t = mpmath.mpf("0.25") if target else mpmath.mpf("0.75")
            return -alpha_t * (1 - p_t) ** gamma * mpmath.log(p_t)

        for p in (1e-6, 0.125, 0.5, 0.9, 0.9375):
            with mpmath.workdps(50):
                expected, slope = (
                    definition(mpmath.mpf(p)),
                    mpmath.diff(definition, mpmath.mpf(p), h=mpmath.mpf("1e-20")),
                )
            value, gradient = value_and_gradient(focal_loss)(np.array([p]), np.array([target]), gamma=gamma)
            np.testing.assert_allclose(value, float(expected), rtol=1e-12)
            np.testing.assert_allclose(gradient, [float(slope)], rtol=1e-12)

    def test_cross_entropy_with_logits(self) -> None:
        for scale in (0.1, 1.0, 50.0):
            for logits, masses in zip(scale * LOGITS, MASSES, strict=True):
                with mpmath.workdps(50):
                    exponentials = [mpmath.exp(mpmath.mpf(z)) for z in logits]
                    p = [x / mpmath.fsum(exponentials) for x in exponentials]
                    expected = -mpmath.fsum(t * mpmath.log(q) for t, q in zip(masses, p, strict=True))
                    slopes = [float(q * mpmath.fsum(masses) - t) for q, t in zip(p, masses, strict=True)]
                value, gradient = value_and_gradient(cross_entropy_with_logits)(logits, masses)
                np.testing.assert_allclose(value, float(expected), rtol=1e-14)
                np.testing.assert_allclose(gradient, slopes, rtol=1e-13, atol=1e-16)

    @parameterized.expand(
        list(product((None, CLASS_WEIGHTS), (0.0, 0.2), (-100, 4), ("mean", "sum", "none"))),
    )
    def test_torch_cross_entropy_of_indices(
        self, class_weights: np.ndarray | None, smoothing: float, ignored: int, reduction: str
    ) -> None:
        logits, labels = torch.tensor(LOGITS, requires_grad=True), torch.tensor(LABELS)
        weights = None if class_weights is None else torch.tensor(class_weights)
        expected = F.cross_entropy(
            logits, labels, weight=weights, label_smoothing=smoothing, ignore_index=ignored, reduction=reduction
        )
        value, gradient = value_and_gradient(cross_entropy_with_logits)(
            logits,
            labels,
            class_weights=weights,
            label_smoothing=smoothing,
            ignore_index=ignored,
            reduction=reduction,
        )
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-15)
        (derivative,) = torch.autograd.grad(expected.sum(), logits)
        torch.testing.assert_close(gradient.detach(), derivative, rtol=1e-12, atol=1e-15)

    @parameterized.expand(list(product((None, CLASS_WEIGHTS), (0.0, 0.2))))
    def test_torch_cross_entropy_of_masses(self, class_weights: np.ndarray | None, smoothing: float) -> None:
        # "sum": under class weights, torch's "mean" of masses divides by the rows and ours by Σ w y, as for indices
        logits, masses = torch.tensor(LOGITS, requires_grad=True), torch.tensor(MASSES)
        weights = None if class_weights is None else torch.tensor(class_weights)
        expected = F.cross_entropy(logits, masses, weight=weights, label_smoothing=smoothing, reduction="sum")
        value, gradient = value_and_gradient(cross_entropy_with_logits)(
            logits, masses, class_weights=weights, label_smoothing=smoothing, reduction="sum"
        )
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-15)
        (derivative,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(gradient.detach(), derivative, rtol=1e-12, atol=1e-15)

    @parameterized.expand([(None,), (CLASS_WEIGHTS[:3],)])
    def test_torch_cross_entropy_of_images(self, class_weights: np.ndarray | None) -> None:
        logits = torch.tensor(GENERATOR.standard_normal((2, 3, 4, 5)), requires_grad=True)
        labels = torch.tensor(GENERATOR.integers(0, 3, (2, 4, 5)))
        labels[0, 1, 2] = -100
        weights = None if class_weights is None else torch.tensor(class_weights)
        expected = F.cross_entropy(logits, labels, weight=weights)
        value, gradient = value_and_gradient(cross_entropy_with_logits)(
            logits, labels, class_axis=1, class_weights=weights, ignore_index=-100
        )
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0.0)
        (derivative,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(gradient.detach(), derivative, rtol=1e-12, atol=1e-16)

    def test_torch_negative_log_likelihood(self) -> None:
        probabilities = torch.tensor(softmax(LOGITS))
        expected = F.nll_loss(torch.log(probabilities), torch.tensor(LABELS), weight=torch.tensor(CLASS_WEIGHTS))
        value = cross_entropy_loss(probabilities, torch.tensor(LABELS), class_weights=torch.tensor(CLASS_WEIGHTS))
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0.0)

    def test_torch_binary_cross_entropy(self) -> None:
        # away from the ends, where torch clamps the logarithm to −100 and ours clips the probability
        p, t = torch.tensor(GENERATOR.uniform(0.01, 0.99, 20)), torch.tensor(GENERATOR.uniform(0.0, 1.0, 20))
        torch.testing.assert_close(binary_cross_entropy(p, t), F.binary_cross_entropy(p, t), rtol=1e-13, atol=0.0)
        pos_weight = torch.tensor([0.5, 3.0, 1.0, 0.0])
        z, t = torch.tensor(LOGITS[:, :4]), torch.tensor(MASSES[:, :4])
        expected = F.binary_cross_entropy_with_logits(z, t, pos_weight=pos_weight)
        torch.testing.assert_close(binary_cross_entropy_with_logits(z, t, pos_weight=pos_weight), expected)

    def test_sklearn(self) -> None:
        probabilities, signs = softmax(LOGITS), np.where(LABELS > 1, 1, -1)
        expected = sklearn.metrics.log_loss(LABELS, probabilities)
        self.assertAlmostEqual(float(cross_entropy_loss(probabilities, LABELS)), expected, 14)
        expected = sklearn.metrics.hinge_loss(signs, LOGITS[:, 0])
        self.assertAlmostEqual(float(hinge_loss(LOGITS[:, 0], signs)), expected, 14)


class Margins(unittest.TestCase):
    """Losses of t p for labels −1 and +1: other libraries' numbers, and their ends."""

    SCORES = np.array([-40.0, -1.0, -0.3, 0.0, 0.5, 1.0, 7.0])

    @parameterized.expand([(label,) for label in (-1.0, 1.0)])
    def test_references(self, label: float) -> None:
        labels = np.full_like(self.SCORES, label)
        margins = label * self.SCORES
        modified = ModifiedHuber()
        half = HalfBinomialLoss().loss(0.5 * (labels + 1.0), self.SCORES)
        exponential = ExponentialLoss().loss(0.5 * (labels + 1.0), self.SCORES)
        for loss, expected in (
            (squared_hinge_loss, hinge_loss(self.SCORES, labels, reduction="none") ** 2),
            (modified_huber_loss, [modified.py_loss(p, label) for p in self.SCORES]),
            (logistic_loss, half),
            (exponential_loss, exponential),
        ):
            found = loss(self.SCORES, labels, reduction="none")
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16)  # theirs subtract logits
        exact = logistic_loss(self.SCORES, labels, reduction="none")
        np.testing.assert_allclose(exact, np.logaddexp(0.0, -margins), rtol=1e-14)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_at_infinity(self, mode: str) -> None:
        scores, labels = np.array([INF, -INF, INF, -INF]), np.array([1.0, -1.0, -1.0, 1.0])
        for loss, wrong in (
            (squared_hinge_loss, INF),
            (modified_huber_loss, 4.0),
            (logistic_loss, 1.0),
            (exponential_loss, INF),
        ):
            value, slope = evaluate_pair(mode, loss, scores, labels, reduction="none")
            np.testing.assert_array_equal(value, [0.0, 0.0, INF, INF])
            np.testing.assert_array_equal(slope, [0.0, 0.0, wrong, -wrong])


class Identities(unittest.TestCase):
    """What the losses are to one another."""

    def test_two_classes_are_a_binary_problem(self) -> None:
        scores, targets = LOGITS[:, 0], (LABELS > 1).astype(float)
        logits = np.stack([np.zeros_like(scores), scores], axis=1)
        binary, slopes = value_and_gradient(binary_cross_entropy_with_logits)(scores, targets)
        value, gradient = value_and_gradient(cross_entropy_with_logits)(logits, targets.astype(int))
        np.testing.assert_allclose(value, binary, rtol=1e-14)
        np.testing.assert_allclose(gradient, np.stack([-slopes, slopes], axis=1), rtol=1e-14, atol=1e-17)

    def test_logits_and_their_probabilities(self) -> None:
        p, t = 1.0 / (1.0 + np.exp(-LOGITS)), np.round(MASSES)
        for with_logits, on_probabilities in (
            (binary_cross_entropy_with_logits, binary_cross_entropy),
            (focal_loss_with_logits, focal_loss),
        ):
            value, gradient = value_and_gradient(with_logits)(LOGITS, t)
            expected, slopes = value_and_gradient(on_probabilities)(p, t)
            np.testing.assert_allclose(value, expected, rtol=1e-13)
            np.testing.assert_allclose(gradient, slopes * p * (1.0 - p), rtol=1e-10)
        value, gradient = value_and_gradient(cross_entropy_with_logits)(LOGITS, MASSES)
        expected, slopes = value_and_gradient(cross_entropy_loss)(softmax(LOGITS), MASSES)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        through_softmax = softmax(LOGITS) * (slopes - np.sum(softmax(LOGITS) * slopes, axis=1, keepdims=True))
        np.testing.assert_allclose(gradient, through_softmax, rtol=1e-12, atol=1e-15)

    def test_shifted_logits_change_nothing(self) -> None:
        shifts = np.array([[0.0], [1e3], [-1e3], [1e5], [-1e5], [7.0], [1e6]])
        np.testing.assert_allclose(
            cross_entropy_with_logits(LOGITS + shifts, LABELS, reduction="none"),
            cross_entropy_with_logits(LOGITS, LABELS, reduction="none"),
            atol=1e-9,
        )

    @parameterized.expand(
        list(
            product(
                (None, CLASS_WEIGHTS),
                (0.0, 0.3, 1.0),
                ({}, {"reduction": "sum"}, {"reduction": "none"}, {"reduction": "weighted_mean"}, {"axis": 0}),
                (None, np.array([1.0, 0.0, 2.0, 0.5, 1.0, 1.0, 3.0])),
            )
        )
    )
    def test_indices_are_one_hot_rows(
        self,
        class_weights: np.ndarray | None,
        smoothing: float,
        reduction: dict[str, Any],
        weights: np.ndarray | None,
    ) -> None:
        keywords = {"class_weights": class_weights, "label_smoothing": smoothing, "weights": weights, **reduction}
        rows = np.eye(5)[LABELS]
        for loss, predictions in ((cross_entropy_with_logits, LOGITS), (cross_entropy_loss, softmax(LOGITS))):
            value, gradient = evaluate_pair("numpy", loss, predictions, LABELS, **keywords)
            expected, slopes = evaluate_pair("numpy", loss, predictions, rows, **keywords)
            # the same sums, in another order where all classes have a share
            np.testing.assert_allclose(value, expected, rtol=1e-14)
            np.testing.assert_allclose(gradient, slopes, rtol=1e-14, atol=1e-16)
            as_image = {**keywords, "class_axis": 1, "axis": -1 if "axis" in reduction else None}
            images = evaluate_pair("numpy", loss, predictions.T[None], LABELS[None], **as_image)
            np.testing.assert_allclose(np.squeeze(images[0]), value, rtol=1e-14)
            np.testing.assert_allclose(images[1][0].T, gradient, rtol=1e-13, atol=1e-17)

    @parameterized.expand(list(product((None, CLASS_WEIGHTS), (0.0, 0.3))))
    def test_ignored_rows_are_absent_rows(self, class_weights: np.ndarray | None, smoothing: float) -> None:
        keywords = {"class_weights": class_weights, "label_smoothing": smoothing}
        kept = LABELS != 4
        poisoned = np.where(kept[:, None], LOGITS, np.nan)
        for loss, predictions in ((cross_entropy_with_logits, LOGITS), (cross_entropy_loss, softmax(LOGITS))):
            expected, slopes = value_and_gradient(loss)(predictions[kept], LABELS[kept], **keywords)
            for ignored in (4, -100, 99):
                labels = np.where(kept, LABELS, ignored)
                for scores in (predictions, np.where(kept[:, None], predictions, poisoned)):
                    value, gradient = evaluate_pair("numpy", loss, scores, labels, ignore_index=ignored, **keywords)
                    np.testing.assert_allclose(value, expected, rtol=1e-14)
                    np.testing.assert_allclose(gradient[kept], slopes, rtol=1e-14)
                    self.assertFalse(np.any(gradient[~kept]))
            nothing = np.full_like(LABELS, -100)
            value, gradient = evaluate_pair("numpy", loss, predictions, nothing, ignore_index=-100, **keywords)
            self.assertEqual(float(value), 0.0)
            self.assertFalse(np.any(gradient))

    def test_large_problems_whose_first_axis_is_no_batch(self) -> None:
        # large enough for `value_and_gradient` to split them among blocks of rows
        generator = np.random.default_rng(9)
        logits, label = generator.standard_normal(40_000), np.array(7)
        evaluate_pair("numpy", cross_entropy_with_logits, logits, label)
        evaluate_pair("numpy", cross_entropy_with_logits, logits, generator.dirichlet(np.ones(40_000)))
        logits, labels = generator.standard_normal((200, 200)), generator.integers(0, 200, 200)
        for loss, predictions in ((cross_entropy_with_logits, logits), (cross_entropy_loss, softmax(logits.T).T)):
            for targets in (labels, np.eye(200)[:, labels]):
                found = evaluate_pair("numpy", loss, predictions, targets, class_axis=0)
                expected = evaluate_pair("numpy", loss, np.ascontiguousarray(predictions.T), labels)
                np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
                np.testing.assert_allclose(found[1].T, expected[1], rtol=1e-12, atol=1e-18)

    def test_classes_without_weight_count_nowhere(self) -> None:
        weights = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
        kept = LABELS != 4
        value = cross_entropy_with_logits(LOGITS, LABELS, class_weights=weights)
        np.testing.assert_allclose(value, cross_entropy_with_logits(LOGITS[kept], LABELS[kept]), rtol=1e-15)
        self.assertEqual(float(cross_entropy_with_logits(LOGITS, LABELS, class_weights=[0.0] * 5)), 0.0)

    def test_a_row_of_weight_two_is_two_rows(self) -> None:
        twice = [0, 1, 1, 2, 3, 4, 5, 6]
        weights = np.array([1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        for loss, predictions in ((cross_entropy_with_logits, LOGITS), (cross_entropy_loss, softmax(LOGITS))):
            value = loss(predictions, LABELS, class_weights=CLASS_WEIGHTS, reduction="weighted_mean", weights=weights)
            expected = loss(predictions[twice], LABELS[twice], class_weights=CLASS_WEIGHTS)
            np.testing.assert_allclose(value, expected, rtol=1e-14)

    def test_weights_as_a_list(self) -> None:
        for convert in (np.asarray, jnp.asarray, torch.tensor):
            value = cross_entropy_with_logits(convert(LOGITS), convert(LABELS), class_weights=CLASS_WEIGHTS.tolist())
            expected = cross_entropy_with_logits(LOGITS, LABELS, class_weights=CLASS_WEIGHTS)
            np.testing.assert_allclose(float(value), expected, rtol=1e-6)


class MinusInfinity(unittest.TestCase):
    """A class whose logit is −∞ and whose target mass is 0 contributes exactly nothing."""

    @parameterized.expand([*product(["numpy"], (0, 2, 5)), ("jax.jit", 2), ("torch", 2)])
    def test_indices(self, mode: str, position: int) -> None:
        logits = np.insert(LOGITS, position, -INF, axis=1)
        labels = np.where(position <= LABELS, LABELS + 1, LABELS)
        self._assert_inert(mode, position, (LOGITS, LABELS, {}), (logits, labels, {}))
        weights = {"class_weights": CLASS_WEIGHTS}
        wider = {"class_weights": np.insert(CLASS_WEIGHTS, position, 3.0)}
        self._assert_inert(mode, position, (LOGITS, LABELS, weights), (logits, labels, wider))

    @parameterized.expand([*product(["numpy"], (1, 5)), ("jax.jit", 1), ("torch", 1)])
    def test_masses_and_smoothing(self, mode: str, position: int) -> None:
        logits, masses = np.insert(LOGITS, position, -INF, axis=1), np.insert(MASSES, position, 0.0, axis=1)
        self._assert_inert(mode, position, (LOGITS, MASSES, {}), (logits, masses, {}))
        # smoothing gives every class a mass, except one without a weight
        weights = np.insert(CLASS_WEIGHTS, position, 0.0)
        smoothed = (1.0 - 0.3) * MASSES + 0.3 / 6
        without = (LOGITS, smoothed, {"class_weights": CLASS_WEIGHTS})
        self._assert_inert(
            mode, position, without, (logits, masses, {"class_weights": weights, "label_smoothing": 0.3})
        )

    def _assert_inert(self, mode: str, position: int, without: Any, given: Any) -> None:
        values, slopes = [], []
        for logits, targets, keywords in (without, given):
            value, gradient = evaluate_pair(
                mode, cross_entropy_with_logits, logits, targets, reduction="none", **keywords
            )
            values.append(value)
            slopes.append(gradient)
        np.testing.assert_array_equal(slopes[1][:, position], np.zeros(7))
        # to the last bit; other libraries add up a row of another length in another order
        rounding = 0.0 if mode == "numpy" else 4e-15
        np.testing.assert_allclose(values[1], values[0], rtol=rounding, atol=0.0)
        np.testing.assert_allclose(np.delete(slopes[1], position, axis=1), slopes[0], rtol=rounding, atol=rounding)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_a_target_at_minus_infinity(self, mode: str) -> None:
        logits, labels = np.array([[-INF, 0.0, 0.0], [0.0, -INF, 0.0]]), np.array([0, 0])
        value, gradient = evaluate_pair(mode, cross_entropy_with_logits, logits, labels, reduction="none")
        np.testing.assert_allclose(value, [INF, math.log(2.0)], rtol=1e-15)
        np.testing.assert_array_equal(gradient, [[-1.0, 0.5, 0.5], [-0.5, 0.0, 0.5]])
        smoothed, gradient = evaluate_pair(mode, cross_entropy_with_logits, logits[1:], labels[1:], label_smoothing=0.3)
        self.assertEqual(float(smoothed), INF)
        np.testing.assert_allclose(gradient, [[-0.3, -0.1, 0.4]], rtol=1e-14)

    def test_nothing_but_minus_infinity_is_no_distribution(self) -> None:
        self.assertTrue(np.isnan(cross_entropy_with_logits(np.full((1, 3), -INF), np.array([0]))))


class Extremes(unittest.TestCase):
    """Logits at ±1e4, at the ends of the type and beyond; probabilities of exactly 0 and 1."""

    @parameterized.expand(TYPES)
    def test_binary_logits(self, mode: str, dtype: str) -> None:
        largest = float(torch.finfo(getattr(torch, dtype)).max)
        agreeing = np.array([1e4, -1e4, INF, -INF, largest, -largest])
        targets = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
        for loss, factor in (
            (binary_cross_entropy_with_logits, np.ones(6)),
            (focal_loss_with_logits, 0.25 * targets + 0.75 * (1.0 - targets)),
        ):
            keywords = {"dtype": dtype, "reduction": "none"}
            value, slopes = evaluate_pair(mode, loss, agreeing, targets, **keywords)
            np.testing.assert_array_equal(value, np.zeros(6))
            np.testing.assert_array_equal(slopes, np.zeros(6))
            value, slopes = evaluate_pair(mode, loss, -agreeing, targets, **keywords)
            np.testing.assert_allclose(value, factor * np.abs(agreeing), rtol=1e-2 if "16" in dtype else 1e-6)
            np.testing.assert_array_equal(slopes, factor * (1.0 - 2.0 * targets))

    @parameterized.expand(TYPES)
    def test_rows_of_logits(self, mode: str, dtype: str) -> None:
        largest = float(torch.finfo(getattr(torch, dtype)).max)
        rows = np.array(
            [
                [1e4, -1e4, 0.0],
                [INF, 0.0, 0.0],
                [INF, INF, 0.0],
                [-INF, 0.0, -INF],
                [largest, -largest, 0.0],
                [largest, largest, largest],
                [0.0, 0.0, 0.0],
            ]
        )
        every, labels = np.repeat(rows, 3, axis=0), np.tile(np.arange(3), len(rows))
        keywords = {"dtype": dtype, "reduction": "none"}
        value, gradient = evaluate_pair(mode, cross_entropy_with_logits, every, labels, **keywords)
        self.assertTrue(np.all(value >= 0.0))
        self.assertTrue(np.all(np.isfinite(gradient)))
        np.testing.assert_allclose(gradient.sum(axis=1), np.zeros(len(every)), atol=1e-2 if "16" in dtype else 1e-6)
        winners = evaluate(mode, cross_entropy_with_logits, rows[[0, 1, 3, 4]], np.array([0, 0, 1, 0]), dtype=dtype)
        self.assertEqual(float(winners), 0.0)

    @parameterized.expand(list(product(TYPES, (0.0, 0.5, 1.0, 2.0))))
    def test_probabilities_at_the_ends(self, where: tuple[str, str], gamma: float) -> None:
        mode, dtype = where
        p, t = np.array([0.0, 1.0, 0.0, 1.0, 1e-30, 1.0]), np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
        for loss, options in ((binary_cross_entropy, {}), (focal_loss, {"gamma": gamma})):
            value, slopes = evaluate_pair(mode, loss, p, t, dtype=dtype, reduction="none", **options)
            self.assertTrue(np.all(np.isfinite(value)))
            self.assertTrue(np.all(value >= 0.0))
            self.assertTrue(np.all(np.isfinite(slopes)))
            # where the clip would let nothing through, the gradient points at the target, steeply
            np.testing.assert_array_equal(np.sign(slopes[[0, 1, 4]]), [-1.0, 1.0, -1.0])
            self.assertGreater(np.abs(slopes[[0, 1, 4]]).min(), 30.0)
            self.assertGreater(value[[0, 1, 4]].min(), 1.0)
            self.assertTrue(np.all(slopes[[3, 5]] <= 0.0))
            self.assertGreaterEqual(slopes[2], 0.0)

    @parameterized.expand(TYPES)
    def test_one_hot_predictions(self, mode: str, dtype: str) -> None:
        predictions, labels = np.eye(3), np.array([0, 2, 2])
        value, gradient = evaluate_pair(mode, cross_entropy_loss, predictions, labels, dtype=dtype, reduction="none")
        self.assertTrue(np.all(np.isfinite(value) & (value >= 0.0)))
        self.assertGreater(value[1], 4.0)
        self.assertTrue(np.all(np.isfinite(gradient)))
        self.assertLess(gradient[1, 2], -100.0)
        self.assertEqual(np.count_nonzero(gradient), 3)

    @parameterized.expand(
        [(mode, dtype) for mode, dtype in TYPES if mode != "jax.jit" and dtype in ("float64", "float32")]
    )
    def test_focal_for_every_gamma(self, mode: str, dtype: str) -> None:
        scores = np.array([0.0, 1e-3, 5.0, 40.0, 120.0, 800.0, 1e4])
        scores = np.tile(np.concatenate([scores, -scores]), 2)
        targets = np.repeat([0, 1], 14)
        for gamma in (0.0, 1e-3, 0.5, 1.0, 2.0, 50.0, 1e4, 1e30):
            keywords = {"dtype": dtype, "reduction": "none", "gamma": gamma}
            value, slopes = evaluate_pair(mode, focal_loss_with_logits, scores, targets, **keywords)
            self.assertTrue(np.all(np.isfinite(value) & (value >= 0.0)))
            self.assertTrue(np.all(np.isfinite(slopes)))
            self.assertTrue(np.all(slopes[targets == 0] >= 0.0) and np.all(slopes[targets == 1] <= 0.0))
            # a lost cause pays its weighted cross-entropy, whatever γ: z = 1e4 against 0, −1e4 against 1
            np.testing.assert_allclose(value[[6, 27]], [0.75e4, 0.25e4], rtol=1e-5)

    @parameterized.expand(list(product(("float64", "float32"), (0.0, 0.5, 1.0, 2.0, 3.0))))
    def test_focal_on_probabilities_near_its_target(self, dtype: str, gamma: float) -> None:
        for p in (1.0 - 1e-3, 1.0 - 1e-6, 1.0):
            slope = focal_loss_gradient(np.array([p], dtype=dtype), np.array([1]), gamma=gamma)
            self.assertTrue(np.isfinite(slope).all())
            self.assertLessEqual(float(slope[0]), 0.0)

    def test_never_negative(self) -> None:
        generator = np.random.default_rng(5)
        for dtype in (np.float32, np.float16):
            logits = (10.0 ** generator.uniform(-4, 4, (2000, 1)) * generator.standard_normal((2000, 4))).astype(dtype)
            labels = generator.integers(0, 4, 2000)
            self.assertGreaterEqual(cross_entropy_with_logits(logits, labels, reduction="none").min(), 0.0)
            targets = generator.uniform(0.0, 1.0, logits.shape).astype(dtype)
            self.assertGreaterEqual(binary_cross_entropy_with_logits(logits, targets, reduction="none").min(), 0.0)
            p = generator.beta(0.1, 0.1, (2000, 4)).astype(dtype)
            self.assertGreaterEqual(binary_cross_entropy(p, targets, reduction="none").min(), 0.0)
            self.assertGreaterEqual(focal_loss(p, np.round(targets), reduction="none").min(), 0.0)

    def test_hinge_at_infinity(self) -> None:
        scores, targets = np.array([INF, -INF, -INF, INF]), np.array([1.0, -1.0, 1.0, -1.0])
        np.testing.assert_array_equal(hinge_loss(scores, targets, reduction="none"), [0.0, 0.0, INF, INF])
        np.testing.assert_array_equal(hinge_loss_gradient(scores, targets, reduction="none"), [0.0, 0.0, -1.0, 1.0])


class Clip(unittest.TestCase):
    """ε, the dtype's own resolution, and the gradient at the clipped point."""

    @parameterized.expand(
        [
            ("float64", 1e-7, 1e7),
            ("float32", 1e-7, 1e7),
            ("float16", 2.0**-10, 1024.0),  # where 1 − 1e-7 would round to 1
            ("bfloat16", 2.0**-7, 128.0),
        ]
    )
    def test_width(self, dtype: str, width: float, slope: float) -> None:
        for mode in (mode for mode, of in TYPES if of == dtype):
            value, gradient = evaluate_pair(mode, binary_cross_entropy, np.zeros(1), np.ones(1), dtype=dtype)
            np.testing.assert_allclose(gradient, [-slope], rtol=1e-5)
            np.testing.assert_allclose(value, -math.log(width), rtol=1e-2 if "16" in dtype else 1e-6)
            _, gradient = evaluate_pair(mode, cross_entropy_loss, np.eye(2)[:1], np.array([1]), dtype=dtype)
            np.testing.assert_allclose(gradient, [[0.0, -slope]], rtol=1e-5)

    def test_a_traced_width_is_the_same_width(self) -> None:
        p, t = np.zeros(1), np.ones(1)
        for epsilon in (1e-7, 1e-9, 1e-3):
            traced = evaluate("jax.jit", binary_cross_entropy, p, t, dtype="float32", epsilon=epsilon)
            array = evaluate("jax.jit", binary_cross_entropy, p, t, dtype="float32", epsilon=np.array(epsilon))
            self.assertEqual(float(traced), float(array))

    def test_a_width_of_ones_own(self) -> None:
        # −log 0.1 and −1 / 0.1
        value, gradient = value_and_gradient(binary_cross_entropy)(np.array([0.01]), np.array([1.0]), epsilon=0.1)
        self.assertAlmostEqual(float(value), math.log(10.0), 14)
        np.testing.assert_allclose(gradient, [-10.0], rtol=1e-14)
        for epsilon in (0.0, 0.5, -1e-7, NAN):
            with self.assertRaisesRegex(ValueError, r"epsilon must be in \(0, 0.5\)"):
                binary_cross_entropy(np.array([0.01]), np.array([1.0]), epsilon=epsilon)

    def test_out_of_range_probabilities_are_clipped(self) -> None:
        p, t = np.array([-9e-7, 1.0 + 9e-7]), np.array([1.0, 0.0])  # out of range by rounding
        np.testing.assert_allclose(
            binary_cross_entropy_gradient(p, t, reduction="none"),
            binary_cross_entropy_gradient(1.0 - t, t, reduction="none"),
        )


class ClassLabels(unittest.TestCase):
    """Labels by index: every integer type, every wrong value."""

    @parameterized.expand(
        list(product(EAGER, ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")))
    )
    def test_integer_types(self, library: str, dtype: str) -> None:
        # 300 classes, more than eight bits can count
        logits = np.random.default_rng(2).standard_normal((3, 300))
        labels = np.array([5, 100, 127])
        expected = evaluate("torch", F.cross_entropy, logits, labels)
        for options in ({}, {"ignore_index": -1}, {"ignore_index": 255}, {"ignore_index": 2**40}):
            value, _ = evaluate_pair(library, cross_entropy_with_logits, logits, labels.astype(dtype), **options)
            np.testing.assert_allclose(value, expected, rtol=1e-14)

    @parameterized.expand(list(product(TRACED, ("int8", "uint8", "uint32"))))
    def test_integer_types_that_cannot_be_seen(self, mode: str, dtype: str) -> None:
        logits = np.random.default_rng(2).standard_normal((3, 300))
        labels = np.array([5, 100, 127])
        value, _ = evaluate_pair(mode, cross_entropy_with_logits, logits, labels.astype(dtype), ignore_index=-1)
        np.testing.assert_allclose(value, evaluate("torch", F.cross_entropy, logits, labels), rtol=1e-14)

    @parameterized.expand(list(product(EAGER, (-1, -100, 3, 2**31 - 1, 2**31, -(2**40)))))
    def test_labels_outside_the_classes(self, library: str, wrong: int) -> None:
        labels = np.array([0, wrong])
        for loss, gradient in (
            (cross_entropy_with_logits, cross_entropy_with_logits_gradient),
            (cross_entropy_loss, cross_entropy_loss_gradient),
        ):
            for function in (loss, gradient, value_and_gradient(loss)):
                for options in ({}, {"ignore_index": -7}, {"class_weights": np.ones(3)}):
                    with self.assertRaisesRegex(ValueError, f"label {wrong} is outside the 3 classes 0 … 2"):
                        evaluate(library, function, np.full((2, 3), 0.3), labels, **options)

    @parameterized.expand([("numpy", "uint64"), ("numpy", "uint8"), ("torch", "uint64"), ("jax", "uint32")])
    def test_the_largest_label_is_not_minus_one(self, library: str, dtype: str) -> None:
        largest = int(np.iinfo(dtype).max)
        labels = np.array([0, largest], dtype=dtype)
        with self.assertRaisesRegex(ValueError, f"label {largest} is outside"):
            evaluate(library, cross_entropy_with_logits, np.zeros((2, 3)), labels, ignore_index=-1)

    @parameterized.expand(
        list(product(TRACED, ({}, {"ignore_index": -7, "class_weights": np.ones(3), "label_smoothing": 0.1})))
    )
    def test_labels_that_cannot_be_seen(self, mode: str, options: dict[str, Any]) -> None:
        labels, logits = np.array([0, -1, -100, 3, 2**31 - 1, 2]), np.log(np.full((6, 3), 1 / 3))
        wrong = [False, True, True, True, True, False]
        for loss, predictions in ((cross_entropy_with_logits, logits), (cross_entropy_loss, np.exp(logits))):
            value, slopes = evaluate_pair(mode, loss, predictions, labels, reduction="none", **options)
            np.testing.assert_allclose(value, np.where(wrong, NAN, math.log(3.0)), rtol=1e-14)
            np.testing.assert_array_equal(np.isnan(slopes).all(axis=1), wrong)
            np.testing.assert_array_equal(np.isnan(slopes).any(axis=1), wrong)

    def test_unsigned_labels_that_cannot_be_seen(self) -> None:
        labels = np.array([0, 2**32 - 1], dtype=np.uint32)
        for mode in TRACED:
            value = evaluate(
                mode, cross_entropy_with_logits, np.zeros((2, 3)), labels, reduction="none", ignore_index=-1
            )
            np.testing.assert_array_equal(np.isnan(value), [False, True])

    @parameterized.expand([("int8", 2048), ("int64", 2049), ("int64", 4095), ("uint16", 3001)])
    def test_many_classes_in_half_precision(self, dtype: str, label: int) -> None:
        # float16 counts to 2,048 and bfloat16 to 256: labels must not become floating-point numbers
        label = min(label, np.iinfo(dtype).max)
        logits = np.zeros((1, 4096))
        logits[0, label] = 8.0
        for mode, floating in (("numpy", "float16"), ("jax", "bfloat16"), ("torch", "float16"), ("jax.jit", "float16")):
            keywords = {"dtype": floating, "reduction": "none"}
            labels = np.array([label], dtype=dtype)
            value, gradient = evaluate_pair(mode, cross_entropy_with_logits, logits, labels, **keywords)
            np.testing.assert_allclose(value, [math.log(math.exp(8.0) + 4095.0) - 8.0], rtol=1e-2)
            self.assertEqual(int(np.argmin(gradient)), label)
            self.assertEqual(np.count_nonzero(gradient < 0.0), 1)

    @parameterized.expand(
        [
            ("bool", np.array([True, False]), TypeError, "class indices must be integers, got .*bool"),
            ("float", np.array([0.0, 1.0]), TypeError, "class indices must be integers, got .*float64"),
            (
                "too few",
                np.array([0]),
                ValueError,
                r"shape \(2,\) or class probabilities of shape \(2, 3\), got \(1,\)",
            ),
            ("column", np.array([[0], [1]]), ValueError, r"got \(2, 1\) for logits of shape \(2, 3\)"),
        ]
    )
    def test_what_is_no_index(self, name: str, targets: np.ndarray, error: type[Exception], message: str) -> None:
        both = value_and_gradient(cross_entropy_with_logits)
        for library, function in product(EAGER, (cross_entropy_with_logits, cross_entropy_with_logits_gradient, both)):
            with self.assertRaisesRegex(error, message):
                evaluate(library, function, np.zeros((2, 3)), targets)

    @parameterized.expand(
        [
            ({"class_weights": np.ones(2)}, ValueError, r"class_weights must have shape \(3,\), got \(2,\)"),
            ({"class_weights": [1.0, -1.0, 1.0]}, ValueError, "class_weights must be ≥ 0"),
            ({"class_weights": torch.ones(3)}, TypeError, "class_weights is from torch"),
            ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\], got 1.5"),
            ({"label_smoothing": "a"}, TypeError, "label_smoothing must be a number"),
            ({"ignore_index": 1.0}, TypeError, "ignore_index must be an integer, got 1.0"),
            ({"class_axis": 2}, ValueError, "class_axis 2 is out of range for an array of 2 dimensions"),
            ({"class_axis": None}, TypeError, "class_axis must be an integer, got None"),
        ]
    )
    def test_options(self, options: dict[str, Any], error: type[Exception], message: str) -> None:
        for function in (
            cross_entropy_with_logits,
            cross_entropy_loss_gradient,
            value_and_gradient(cross_entropy_with_logits),
        ):
            with self.assertRaisesRegex(error, message):
                function(np.full((2, 3), 0.3), np.array([0, 1]), **options)

    def test_pos_weight_does_not_enlarge_an_axis_of_one(self) -> None:
        for function in (binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_gradient):
            with self.assertRaisesRegex(ValueError, r"pos_weight of shape \(3,\) does not broadcast"):
                function(np.zeros((2, 1)), np.ones((2, 1)), pos_weight=np.ones(3))

    def test_ignore_index_needs_indices(self) -> None:
        with self.assertRaisesRegex(ValueError, "ignore_index needs class indices"):
            cross_entropy_with_logits(LOGITS, MASSES, ignore_index=0)

    def test_ranks_are_never_promoted(self) -> None:
        with jax.numpy_rank_promotion("raise"):
            evaluate_pair("jax", cross_entropy_with_logits, LOGITS, np.arange(7) % 5, label_smoothing=0.1)

    def test_there_is_a_class(self) -> None:
        for targets in (np.zeros((2, 0)), np.zeros(2, dtype=int)):
            with self.assertRaisesRegex(ValueError, r"class_axis -1 of logits of shape \(2, 0\) holds no class"):
                cross_entropy_with_logits(np.zeros((2, 0)), targets)

    def test_one_row_without_a_batch(self) -> None:
        value, gradient = value_and_gradient(cross_entropy_with_logits)(np.zeros(4), np.array(2))
        self.assertAlmostEqual(float(value), math.log(4.0), 15)
        np.testing.assert_allclose(gradient, [0.25, 0.25, -0.75, 0.25])


class BinaryLabels(unittest.TestCase):
    """{0, 1} and {−1, +1} are never taken for one another."""

    CASES = (
        ("hinge", hinge_loss, hinge_loss_gradient, r"targets must be in \{-1, \+1\}", (1.0, -1.0), (0.0, 2.0, NAN)),
        *(
            (loss.__name__, loss, find_loss(loss).gradient, r"targets must be in \{-1, \+1\}", (1.0, -1.0), (0.0, NAN))
            for loss in (squared_hinge_loss, modified_huber_loss, logistic_loss, exponential_loss)
        ),
        ("focal", focal_loss, focal_loss_gradient, r"targets must be in \{0, 1\}", (1.0, 0.0), (-1.0, 0.5, NAN)),
        (
            "focal with logits",
            focal_loss_with_logits,
            focal_loss_with_logits_gradient,
            r"targets must be in \{0, 1\}",
            (1.0, 0.0),
            (-1.0, 0.5, NAN),
        ),
    )

    @parameterized.expand(CASES)
    def test_seen(self, name: str, loss: Any, gradient: Any, message: str, right: Any, wrong: Any) -> None:
        for library, function, label in product(EAGER, (loss, gradient, value_and_gradient(loss)), wrong):
            with self.assertRaisesRegex(ValueError, f"{message}, got {label}.*; for labels "):
                evaluate(library, function, np.array([0.3, 0.6]), np.array([right[0], label]))

    @parameterized.expand([(mode, loss, *labels) for (_, loss, _, _, *labels), mode in product(CASES, TRACED)])
    def test_not_seen(self, mode: str, loss: Any, right: Any, wrong: Any) -> None:
        targets = np.array([right[0], *wrong, right[1]])
        for found in evaluate_pair(mode, loss, np.full(targets.size, 0.3), targets, reduction="none"):
            np.testing.assert_array_equal(np.isnan(found), [False, *(True for _ in wrong), False])

    @parameterized.expand(CASES)
    def test_integer_and_boolean_labels(
        self, name: str, loss: Any, gradient: Any, message: str, right: Any, wrong: Any
    ) -> None:
        scores = np.array([0.3, 0.6])
        for mode, function in product(EAGER, (loss, gradient)):
            expected = function(scores, np.array(right))
            for dtype in ("int8", "int64") + (("uint8", "bool") if min(right) == 0.0 else ()):
                found = evaluate(mode, function, scores, np.array(right).astype(dtype))
                np.testing.assert_allclose(found, expected, rtol=1e-14)

    @parameterized.expand([(size, dtype) for size in (2, 3000) for dtype in ("float16", "float32", "float64")])
    def test_near_a_label_is_no_label(self, size: int, dtype: str) -> None:
        one = np.ones((), dtype)
        beside = (np.nextafter(one, 2 * one), np.nextafter(one, 0 * one), np.inf, -np.inf)
        tiny = np.nextafter(0 * one, one)
        for loss, wrong in ((hinge_loss, (*beside, tiny, 0.0)), (focal_loss, (*beside, tiny, -tiny, -1.0))):
            predictions, targets = np.full(size, 0.3, dtype), np.ones(size, dtype)
            for label in wrong:
                targets[1] = label
                with self.assertRaisesRegex(ValueError, r"at index \(1,\)"):
                    value_and_gradient(loss)(predictions, targets)

    def test_one_illegal_label_among_many(self) -> None:
        rows = 2 * current.block // 100 + 1  # the last block is not full
        for library, last in product(EAGER, ((0, 3), (rows - 1, 99))):
            targets = np.ones((rows, 100))
            targets[last] = 0.5
            for given, where in ((targets, last), (np.asfortranarray(targets), last), (targets.reshape(-1), None)):
                index = where or (100 * last[0] + last[1],)
                with self.assertRaisesRegex(ValueError, re.escape(f"got 0.5 at index {index}")):
                    evaluate(library, hinge_loss, np.zeros(given.shape), given)

    def test_many_labels_are_checked_in_little_memory(self) -> None:
        labels = np.ones(1_000_000, np.float32)
        tracemalloc.start()
        SIGN.check("targets", labels)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(peak, labels.nbytes / 5)

    def test_a_negative_zero_is_the_label_zero(self) -> None:
        predictions = np.array([0.3, 0.6], np.float32)
        expected = focal_loss_gradient(predictions, np.array([0.0, 1.0], np.float32))
        found = focal_loss_gradient(predictions, np.array([-0.0, 1.0], np.float32))
        np.testing.assert_array_equal(found, expected)

    def test_unsigned_labels_are_no_signs(self) -> None:
        for library, label in product(EAGER, (0, 255)):  # 255 is −1 in eight bits
            with self.assertRaisesRegex(ValueError, f"got {label}"):
                evaluate(library, hinge_loss, np.array([0.3, 0.6]), np.array([1, label], dtype=np.uint8))


class Kinks(unittest.TestCase):
    @parameterized.expand([(mode,) for mode in MODES])
    def test_hinge_at_the_corner(self, mode: str) -> None:
        scores, targets = np.array([1.0, -1.0, 0.5, 2.0]), np.array([1.0, -1.0, 1.0, 1.0])
        value, gradient = evaluate_pair(mode, hinge_loss, scores, targets, reduction="none")
        np.testing.assert_array_equal(value, [0.0, 0.0, 0.5, 0.0])
        np.testing.assert_array_equal(gradient, [0.0, 0.0, -1.0, 0.0])
