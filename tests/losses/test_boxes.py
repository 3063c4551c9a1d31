"""What no law says about losses between boxes: counted cells, perfect and empty boxes, any unit, and what pulls."""

from __future__ import annotations

import math
import unittest
from itertools import product
from typing import Any

import numpy as np
from modes import EAGER, MODES, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    complete_iou_loss,
    distance_iou_loss,
    find_loss,
    generalized_iou_loss,
    iou_loss,
    iou_loss_gradient,
    value_and_gradient,
)

LOSSES = (iou_loss, generalized_iou_loss, distance_iou_loss, complete_iou_loss)


def counted(a: list[int], b: list[int]) -> dict[str, float]:
    """The four losses of two boxes with integer corners, by counting the unit cells that they cover."""

    def cells(box: list[int]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    corners = [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]
    both, either, around = len(cells(a) & cells(b)), len(cells(a) | cells(b)), len(cells(corners))
    q = both / either
    centre = math.dist(((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2))
    apart = centre**2 / math.dist(corners[:2], corners[2:]) ** 2
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    alpha = v / (1 - q + v) if v else 0.0
    return {
        "iou_loss": 1 - q,
        "generalized_iou_loss": 1 - (q - (around - either) / around),
        "distance_iou_loss": 1 - q + apart,
        "complete_iou_loss": 1 - q + apart + alpha * v,
    }


class References(unittest.TestCase):
    @parameterized.expand(list(product(LOSSES, EAGER)))
    def test_counted_cells(self, loss: Any, library: str) -> None:
        corners = np.sort(np.random.default_rng(4).integers(0, 7, (2, 60, 2, 2)), axis=-2)  # some boxes touch or agree
        corners[..., 1, :] += 1
        a, b = corners.reshape(2, 60, 4)
        expected = [counted(p.tolist(), t.tolist())[loss.__name__] for p, t in zip(a, b, strict=True)]
        value, _ = evaluate_pair(library, loss, a.astype(float), b.astype(float), reduction="none")
        np.testing.assert_allclose(value, expected, rtol=1e-14, atol=1e-15)

    def test_gradient_of_a_box_around_its_target(self) -> None:
        # 1 − 1 / 16, and the area 16 grows by a side of 4
        gradient = iou_loss_gradient(np.array([0.0, 0.0, 4.0, 4.0]), np.array([1.0, 2.0, 2.0, 3.0]))
        np.testing.assert_allclose(gradient, [-4 / 256, -4 / 256, 4 / 256, 4 / 256], rtol=1e-14)

    def test_alpha_is_differentiated_too(self) -> None:
        # one centre and one area, so that only v and the overlap change with the aspect: sides e^s and e^−s
        def loss(s: float) -> float:
            half = np.array([math.exp(s), math.exp(-s)]) / 2
            return float(complete_iou_loss(np.concatenate([-half, half]), np.array([-0.5, -0.5, 0.5, 0.5])))

        s, step = 0.3, 1e-6
        half = np.array([math.exp(s), math.exp(-s)]) / 2
        box, target = np.concatenate([-half, half]), np.array([-0.5, -0.5, 0.5, 0.5])
        _, gradient = value_and_gradient(complete_iou_loss)(box, target)
        slope = gradient @ np.concatenate([-half * [1, -1], half * [1, -1]])
        self.assertAlmostEqual(slope, (loss(s + step) - loss(s - step)) / (2 * step), 8)


class Kinks(unittest.TestCase):
    @parameterized.expand(list(product(LOSSES, MODES)))
    def test_perfect_box(self, loss: Any, mode: str) -> None:
        boxes = np.array([[0.0, 0.0, 2.0, 3.0], [-1.5, 0.25, 7.125, 1e-3]])
        boxes[1, 3] = 4.0
        value, gradient = evaluate_pair(mode, loss, boxes, boxes.copy(), reduction="none")
        np.testing.assert_allclose(value, 0.0, atol=1e-15)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-15)
        self.assertTrue(np.all(value >= 0.0))

    @parameterized.expand([(loss,) for loss in LOSSES])
    def test_side_on_one_line_with_the_target(self, loss: Any) -> None:
        box, target, step = np.array([0.0, 0.5, 2.0, 3.0]), np.array([1.0, 1.0, 2.0, 2.5]), 1e-7
        slopes = []
        for side in (-step, step):
            moved = box.copy()
            moved[2] += side
            slopes.append((float(loss(moved, target)) - float(loss(box, target))) / side)
        self.assertGreater(abs(slopes[0] - slopes[1]), 0.05)
        _, gradient = value_and_gradient(loss)(box, target)
        self.assertAlmostEqual(gradient[2], sum(slopes) / 2, 6)

    @parameterized.expand(list(product(LOSSES, EAGER, ("float64", "float16"))))
    def test_boxes_without_an_area(self, loss: Any, library: str, dtype: str) -> None:
        proper = [0.0, 0.0, 2.0, 1.0]
        point, line, far = [1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 1.5, 0.5], [9.0, 9.0, 9.0, 9.0]
        pairs = [*product([point, line, far], [proper, point, line]), *((proper, x) for x in (point, line))]
        a, b = (np.array(boxes) for boxes in zip(*pairs, strict=True))
        value, gradient = evaluate_pair(library, loss, a, b, dtype=dtype, reduction="none")
        self.assertTrue(np.all(np.isfinite(value)) and np.all(np.isfinite(gradient)))
        self.assertTrue(np.all(value >= 0.0))
        nothing = [p == t == point for p, t in pairs]
        self.assertFalse(np.any(gradient[nothing]))
        if loss is iou_loss:
            np.testing.assert_array_equal(value, 1.0)
            self.assertFalse(np.any(gradient))


class Units(unittest.TestCase):
    @parameterized.expand(list(product(LOSSES, (1e-200, 1e-30, 1e30, 1e200))))
    def test_any_unit(self, loss: Any, unit: float) -> None:
        a, b = np.array([0.0, 0.5, 2.0, 3.0]), np.array([1.0, -1.0, 4.0, 2.5])
        value, gradient = value_and_gradient(loss)(a, b)
        found, slopes = value_and_gradient(loss)(unit * a, unit * b)
        np.testing.assert_allclose(found, value, rtol=1e-13)
        np.testing.assert_allclose(slopes * unit, gradient, rtol=1e-13)

    @parameterized.expand([(loss,) for loss in LOSSES])
    def test_flipped_and_turned_images(self, loss: Any) -> None:
        a, b = np.array([0.0, 0.5, 2.0, 3.0]), np.array([1.0, -1.0, 4.0, 2.5])
        value, gradient = value_and_gradient(loss)(a, b)
        mirrored, slopes = value_and_gradient(loss)(
            -a[[2, 1, 0, 3]] * [1, -1, 1, -1], -b[[2, 1, 0, 3]] * [1, -1, 1, -1]
        )
        np.testing.assert_allclose(mirrored, value, rtol=1e-14)
        np.testing.assert_allclose(slopes, -gradient[[2, 1, 0, 3]] * [1, -1, 1, -1], rtol=1e-13, atol=1e-16)
        turned, slopes = value_and_gradient(loss)(a[[1, 0, 3, 2]], b[[1, 0, 3, 2]])
        np.testing.assert_allclose(turned, value, rtol=1e-14)
        np.testing.assert_allclose(slopes, gradient[[1, 0, 3, 2]], rtol=1e-13, atol=1e-16)


class Pull(unittest.TestCase):
    def test_only_the_plain_loss_leaves_separate_boxes_alone(self) -> None:
        a, b = np.array([0.0, 0.0, 1.0, 1.0]), np.array([3.0, 4.0, 5.0, 6.0])
        self.assertFalse(np.any(iou_loss_gradient(a, b)))
        for loss in LOSSES[1:]:
            gradient = find_loss(loss).gradient(a, b)
            self.assertLess(gradient[:2].sum() + gradient[2:].sum(), 0.0, loss.__name__)

    @parameterized.expand([(loss,) for loss in LOSSES[1:]])
    def test_descent_finds_the_target(self, loss: Any) -> None:
        box, target, step = np.array([0.0, 0.0, 1.0, 1.0]), np.array([3.0, 4.0, 5.0, 6.0]), 0.2
        for _ in range(600):
            box = box - step * np.sign(value_and_gradient(loss)(box, target)[1])
            step *= 0.99
        self.assertLess(float(loss(box, target)), 0.05)


class Errors(unittest.TestCase):
    @parameterized.expand([(loss,) for loss in LOSSES])
    def test_boxes_have_four_coordinates(self, loss: Any) -> None:
        for shape in ((3, 5), (4, 3), ()):
            with self.assertRaisesRegex(ValueError, "4 corner coordinates"):
                loss(np.zeros(shape), np.zeros(shape))
