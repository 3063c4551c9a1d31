"""Every loss exactly at its kinks: bit by bit the documented value, on every library, eager and jitted."""

from __future__ import annotations

import unittest
from itertools import product
from typing import Any

import numpy as np
import pytest
from modes import MODES, evaluate
from parameterized import parameterized

from mithril_losses import catalogue

ONE_POINT = np.array([[[1.0, -2.0]]])
SAME = np.array([[1.0, 2.0], [-3.0, 0.5]])
CORNERS = np.array([1.0, -1.0])
TRIANGLE = np.array([[0, 1], [1, 2], [0, 2]])
LEVEL = np.full((1, 3, 3, 1), 0.7)
FAR = np.array([[0.0, 0.0], [3.0, 4.0]])

# loss, what is special about the point, arrays, options, the documented gradient (0 for zeros everywhere)
KINKS: list[tuple[str, str, tuple[Any, ...], dict[str, Any], Any]] = [
    ("mae_loss", "no error", (SAME, SAME), {}, 0.0),
    ("huber_loss", "|e| = δ", (0.5 * CORNERS, 0.0 * CORNERS), {"delta": 0.5}, 0.5 * CORNERS),
    ("hinge_loss", "the corner", (CORNERS, CORNERS), {}, 0.0),
    ("hinge_discriminator_loss", "both corners", (CORNERS[:1], CORNERS[1:]), {}, 0.0),
    ("laplace_negative_log_likelihood", "no error", (CORNERS, 0.0 * CORNERS, CORNERS), {}, [0.0 * CORNERS, CORNERS**2]),
    ("psnr_loss", "no error", (SAME, SAME), {}, 0.0),
    ("gradient_penalty", "no gradient", (np.zeros((2, 3)),), {}, 0.0),
    ("kl_divergence", "p = 0", (np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])), {}, None),
    (
        "gaussian_kl_divergence",
        "the tie of free bits",
        (np.ones((1, 1)), np.zeros((1, 1))),
        {"free_bits": 0.5},
        [np.ones((1, 1)), np.zeros((1, 1))],
    ),
    (
        "vae_loss_free_bits",
        "the tie of free bits",
        (np.full((1, 2), 0.5), np.full((1, 2), 0.5), np.ones((1, 1)), np.zeros((1, 1))),
        {"free_bits": 0.5},
        [np.zeros((1, 2)), np.ones((1, 1)), np.zeros((1, 1))],
    ),
    ("wasserstein_distance", "equal samples", (SAME, SAME), {"p": 2.0}, 0.0),
    ("energy_distance", "coincident points", (ONE_POINT, ONE_POINT), {}, 0.0),
    ("chamfer_distance", "coincident points", (ONE_POINT, ONE_POINT), {"squared": False}, 0.0),
    ("hausdorff_distance", "coincident points", (ONE_POINT, ONE_POINT), {}, 0.0),
    ("earth_mover_distance", "coincident points", (ONE_POINT, ONE_POINT), {}, 0.0),
    ("sinkhorn_divergence", "coincident points", (ONE_POINT, ONE_POINT), {"p": 1}, 0.0),
    (
        "sliced_wasserstein_distance",
        "coincident points",
        (ONE_POINT, ONE_POINT),
        {"p": 1.0, "projection_count": 3},
        0.0,
    ),
    ("total_variation_loss", "a level image", (LEVEL,), {"norm_type": "l1"}, 0.0),
    ("total_variation_loss", "a level image, isotropic", (LEVEL,), {"norm_type": "isotropic"}, 0.0),
    ("mesh_normal_loss", "a normal of no length", (np.zeros((1, 3)), np.array([[0.0, 0.0, 1.0]])), {}, 0.0),
    ("mesh_edge_loss", "edges of no length", (np.ones((3, 3)), np.eye(3), TRIANGLE), {}, 0.0),
    ("triplet_loss", "the corner", (np.zeros((1, 2)), np.array([[0.0, 1.0]]), np.array([[2.0, 0.0]])), {}, 0.0),
    ("triplet_loss", "coincident points", (SAME, SAME, SAME), {}, 0.0),
    ("contrastive_loss", "coincident points", (SAME, SAME, np.zeros(2)), {}, 0.0),
    ("contrastive_loss", "the corner", (FAR, np.zeros((2, 2)), np.array([1.0, 0.0])), {"margin": 5.0}, 0.0),
    ("cosine_embedding_loss", "the corner", (np.eye(2), np.eye(2)[::-1].copy(), -np.ones(2)), {"margin": 0.0}, 0.0),
    ("cosine_embedding_loss", "zero vectors", (np.zeros((2, 2)), np.zeros((2, 2)), np.array([1.0, -1.0])), {}, 0.0),
    ("arcface_loss", "zero vectors", (np.zeros((2, 2)), np.eye(2), np.array([0, 1])), {}, 0.0),
    ("cosface_loss", "zero vectors", (np.zeros((2, 2)), np.eye(2), np.array([0, 1])), {}, 0.0),
    ("iou_loss", "boxes that touch", (np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[1.0, 0.0, 2.0, 1.0]])), {}, 0.0),
    ("l1_regularization", "parameters of 0", (np.zeros(3),), {}, 0.0),
    ("spectral_norm_regularization", "a matrix of zeros", (np.zeros((2, 3)),), {}, 0.0),
    ("focal_tversky_loss", "a perfect fit", (np.eye(2), np.eye(2)), {"smooth": 0.0}, 0.0),
]

SLOW = tuple(mode for mode in MODES if mode.startswith("jax"))  # compile every operation, or the loss
QUICK = tuple(mode for mode in MODES if mode not in SLOW)

# whose kinks are ties or sides that meet, not points with a value of their own: what is taken there is said elsewhere
ELSEWHERE = {
    "generalized_iou_loss": "sides on one line: either one-sided derivative; the touch is that of iou_loss",
    "distance_iou_loss": "as generalized_iou_loss",
    "complete_iou_loss": "as generalized_iou_loss",
    "contextual_loss": "ties of the nearest: the first index, in test_perceptual.py",
    "multi_scale_ssim_loss": "a scale that is 0 makes the product 0, in test_image.py",
    "lovasz_softmax_loss": "ties of the sorted errors: their own order, in test_segmentation.py",
    "lovasz_hinge_loss": "as lovasz_softmax_loss",
}


def _declares_kinks(pair: Any) -> bool:
    if pair.apart is not None:
        return any(part.kinks is not None for part in pair.apart.parts.values())
    return pair.kinks is not None


class Kinks(unittest.TestCase):
    @parameterized.expand([(*kink, mode) for kink, mode in product(KINKS, QUICK)])
    def test_gradient_is_bitwise_the_documented_one(self, *kink: Any) -> None:
        self._compare(*kink)

    @parameterized.expand([(*kink, mode) for kink, mode in product(KINKS, SLOW)])
    @pytest.mark.exhaustive
    def test_gradient_is_bitwise_the_documented_one_on_jax(self, *kink: Any) -> None:
        self._compare(*kink)

    def _compare(
        self, loss: str, at: str, arrays: tuple[Any, ...], options: dict[str, Any], expected: Any, mode: str
    ) -> None:
        pair = catalogue()[loss]
        summed = {"reduction": "sum"} if pair.takes_reduction or "reduction" in pair.options else {}
        found = evaluate(mode, pair.gradient, *arrays, **options, **summed)
        gradients = [found[name] for name in pair.wrt if name in found] if isinstance(found, dict) else [found]
        if expected is None:  # log p at the smallest normal number
            smallest = float(np.log(np.finfo(np.float64).smallest_normal))
            np.testing.assert_allclose(gradients[0], [[smallest - np.log(0.5) + 1.0, np.log(2.0) + 1.0]], rtol=1e-15)
            return
        for i, gradient in enumerate(gradients):
            documented = expected[i] if isinstance(expected, list) else expected
            np.testing.assert_array_equal(gradient, np.broadcast_to(documented, gradient.shape), err_msg=at)

    @parameterized.expand([(kink[0], kink[1], kink) for kink in KINKS if kink[4] is not None])
    def test_point_is_a_declared_kink(self, loss: str, at: str, kink: Any) -> None:
        pair = catalogue()[loss]
        _, _, arrays, options, _ = kink
        if not _declares_kinks(pair):
            self.skipTest("the loss declares none: its derivative is continued")
        distances = pair.kinks_at(arrays, options)
        self.assertTrue(any(np.any(np.abs(np.asarray(d)) < 1e-6) for d in distances), at)

    def test_every_loss_with_kinks_is_here(self) -> None:
        declared = {pair.name for pair in catalogue().values() if _declares_kinks(pair)}
        self.assertEqual(declared - {kink[0] for kink in KINKS}, set(ELSEWHERE))
