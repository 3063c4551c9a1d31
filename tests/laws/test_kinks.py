"""Every loss exactly at its kinks: bit by bit the documented value, on every library, eager and jitted."""

from __future__ import annotations

import math
import unittest
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from modes import EAGER, MODES, evaluate
from parameterized import parameterized

from mithril_losses import catalogue
from mithril_losses.autodiff import plain_functions
from mithril_losses.templates.apart import Apart

ONE_POINT = np.array([[[1.0, -2.0]]])
SAME = np.array([[1.0, 2.0], [-3.0, 0.5]])
CORNERS = np.array([1.0, -1.0])
TRIANGLE = np.array([[0, 1], [1, 2], [0, 2]])
LEVEL = np.full((1, 3, 3, 1), 0.7)
FAR = np.array([[0.0, 0.0], [3.0, 4.0]])
BOX, HALF = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[0.0, 0.0, 1.0, 1.0]])
LARGEST = float(np.finfo(np.float64).max)
LOG_SMALLEST = float(np.log(np.finfo(np.float64).smallest_normal))
CHECKERS = np.indices((8, 8)).sum(axis=0).reshape(1, 8, 8, 1) % 2 - 0.5

ONE = np.array([[1.0, 0.0]])


class Near(NamedTuple):
    """A documented gradient that takes a logarithm or an exponential, and so some rounding."""

    gradient: Any


# a share of G = softmax(cos ½, 0) pulls at the other class, across x; the own class, at the tip of its cusp, does not
SHARE = 1.0 / (1.0 + np.exp(np.cos(0.5)))
NO_ANGLE, NO_ANGLE_WEIGHT = Near([[0.0, SHARE]]), Near([[0.0, 0.0], [SHARE, 0.0]])

# loss, what is special about the point, arrays, options, the documented gradient (0 for zeros everywhere)
KINKS: list[tuple[str, str, tuple[Any, ...], dict[str, Any], Any]] = [
    ("mae_loss", "no error", (SAME, SAME), {}, 0.0),
    ("huber_loss", "|e| = δ", (0.5 * CORNERS, 0.0 * CORNERS), {"delta": 0.5}, 0.5 * CORNERS),
    ("smooth_l1_loss", "|e| = β", (0.5 * CORNERS, 0.0 * CORNERS), {"beta": 0.5}, CORNERS),
    ("pinball_loss", "no error", (SAME, SAME), {"quantile": 0.25}, 0.0),
    ("expectile_loss", "no error", (SAME, SAME), {"expectile": 0.25}, 0.0),
    ("mape_loss", "no error", (SAME, SAME), {}, 0.0),
    ("smape_loss", "no error", (SAME, SAME), {}, 0.0),
    ("smape_loss", "a prediction of 0", (np.zeros(2), 4.0 * CORNERS), {}, -0.5 * CORNERS),
    ("smape_loss", "|p| + |t| = ε", (0.5 * CORNERS, 0.25 * CORNERS), {"epsilon": 0.75}, CORNERS / 0.375),
    ("hinge_loss", "the corner", (CORNERS, CORNERS), {}, 0.0),
    ("squared_hinge_loss", "the corner", (CORNERS, CORNERS), {}, 0.0),
    ("modified_huber_loss", "the corner", (CORNERS, CORNERS), {}, 0.0),
    ("modified_huber_loss", "t p = −1", (CORNERS, -CORNERS), {}, 4.0 * CORNERS),
    ("hinge_discriminator_loss", "both corners", (CORNERS[:1], CORNERS[1:]), {}, 0.0),
    ("laplace_negative_log_likelihood", "no error", (CORNERS, 0.0 * CORNERS, CORNERS), {}, [0.0 * CORNERS, CORNERS**2]),
    ("psnr_loss", "no error", (SAME, SAME), {}, 0.0),
    ("gradient_penalty", "no gradient", (np.zeros((2, 3)),), {}, 0.0),
    (
        "poisson_negative_log_likelihood",
        "a slope beyond the range",
        (np.array([1e-300]), np.array([1e10])),
        {"log_input": False},
        -LARGEST,
    ),
    ("binary_cross_entropy", "a clipped probability", (np.zeros(1), np.ones(1)), {"epsilon": 0.25}, -4.0),
    (
        "cross_entropy_loss",
        "a clipped probability",
        (np.array([[0.0, 1.0]]), np.array([0])),
        {"epsilon": 0.25},
        np.array([[-4.0, 0.0]]),
    ),
    (
        "focal_loss",
        "a clipped probability",
        (np.zeros(1), np.ones(1)),
        {"epsilon": 0.25, "gamma": 0.0, "alpha": 1.0},
        -4.0,
    ),
    ("vanilla_generator_loss", "a clipped probability", (np.zeros(1),), {"epsilon": 0.25}, -4.0),
    (
        "kl_divergence",
        "p = 0",
        (np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])),
        {},
        Near([[LOG_SMALLEST - np.log(0.5) + 1.0, np.log(2.0) + 1.0]]),
    ),
    (
        "js_divergence",
        "p = 0",
        (np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])),
        {},
        Near([[0.5 * (LOG_SMALLEST - np.log(0.25)), 0.5 * np.log(4.0 / 3.0)]]),
    ),
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
    ("modified_hausdorff_distance", "coincident points", (ONE_POINT, ONE_POINT), {}, [0.0 * ONE_POINT] * 2),
    (
        "modified_hausdorff_distance",
        "equal means",
        (np.array([[0.0], [4.0]]), np.array([[1.0], [5.0]])),
        {},
        [np.array([[-0.5], [-0.5]]), np.array([[0.5], [0.5]])],  # the distance of x to y
    ),
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
    ("iou_loss", "equal boxes", (BOX, BOX), {}, 0.0),
    ("generalized_iou_loss", "equal boxes", (BOX, BOX), {}, 0.0),
    ("distance_iou_loss", "equal boxes", (BOX, BOX), {}, 0.0),
    ("complete_iou_loss", "equal boxes", (BOX, BOX), {}, 0.0),
    # q = ¼ and |A ∪ B| = 4; by x₁ half of the slope of the overlap: −(5/4 · −½ − ¼ · −2) / 4
    ("iou_loss", "sides on one line", (BOX, HALF), {}, np.array([[0.03125, 0.03125, 0.125, 0.125]])),
    ("chamfer_distance", "two nearest points", (np.zeros((1, 1)), np.array([[1.0], [-1.0]])), {}, -2.0),
    (
        "hausdorff_distance",
        "four farthest points",
        (np.array([[0.0], [4.0]]), np.array([[1.0], [5.0]])),
        {},
        np.array([[-1.0], [0.0]]),
    ),
    (
        "triplet_loss",
        "two largest components",
        (np.zeros((1, 2)), np.ones((1, 2)), np.array([[0.5, 0.0]])),
        {"p": np.inf},
        [np.array([[0.0, 0.0]]), np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]])],
    ),
    (
        "triplet_loss",
        "two negatives at one distance",
        (np.zeros((1, 1)), np.array([[2.0]]), np.array([[1.0]])),
        {"swap": True},
        [np.array([[0.0]]), np.array([[1.0]]), np.array([[-1.0]])],
    ),
    (
        "wasserstein_distance",
        "two equal samples",
        (np.ones((1, 2)), np.array([[0.0, 3.0]])),
        {},
        np.array([[0.5, -0.5]]),
    ),
    (
        "sliced_wasserstein_distance",
        "two equal samples",
        (np.ones((2, 1)), np.array([[0.0], [3.0]])),
        {"p": 1.0, "projections": np.ones((1, 1))},
        np.array([[0.5], [-0.5]]),
    ),
    ("lovasz_hinge_loss", "two equal errors", (np.zeros((1, 2)), np.array([[1.0, 0.0]])), {}, np.array([[-1.0, 0.0]])),
    (
        "lovasz_softmax_loss",
        "two equal errors",
        (np.full((1, 2, 2), 0.5), np.array([[0, 1]])),
        {},
        np.array([[[-0.5, 0.25], [0.0, -0.25]]]),
    ),
    (
        "lovasz_softmax_loss_with_logits",
        "two equal errors",
        (np.zeros((1, 2, 2)), np.array([[0, 1]])),
        {},
        np.array([[[-0.1875, 0.1875], [0.0625, -0.0625]]]),  # of the probabilities (½, ½), pulled back by ¼ (1, −1)
    ),
    (
        "multi_scale_ssim_loss",
        "a mean below 0",
        (CHECKERS, -CHECKERS),
        {"scale_weights": (0.5, 0.5), "window_size": 3},
        0.0,
    ),
    ("arcface_loss", "no angle", (ONE, np.eye(2), np.array([0])), {"scale": 1.0}, [NO_ANGLE, NO_ANGLE_WEIGHT]),
    ("iou_loss", "boxes that touch", (np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[1.0, 0.0, 2.0, 1.0]])), {}, 0.0),
    ("l1_regularization", "parameters of 0", (np.zeros(3),), {}, 0.0),
    ("spectral_norm_regularization", "a matrix of zeros", (np.zeros((2, 3)),), {}, 0.0),
    ("focal_tversky_loss", "a perfect fit", (np.eye(2), np.eye(2)), {"smooth": 0.0}, 0.0),
]

# each row of the table "Where the derivative does not exist" in docs/conventions.md, and the points above that hold it
TABLE: dict[str, list[tuple[str, str]]] = {
    r"$\lvert x \rvert$ and $\lVert x \rVert$ at 0": [
        ("mae_loss", "no error"),
        ("pinball_loss", "no error"),
        ("gradient_penalty", "no gradient"),
        ("triplet_loss", "coincident points"),
        ("wasserstein_distance", "equal samples"),
        ("focal_tversky_loss", "a perfect fit"),
        ("total_variation_loss", "a level image, isotropic"),
    ],
    "the direction of a vector of length 0": [
        ("mesh_normal_loss", "a normal of no length"),
        ("cosine_embedding_loss", "zero vectors"),
        ("arcface_loss", "zero vectors"),
    ],
    r"$\max(0, x)$ at its corner": [("hinge_loss", "the corner"), ("triplet_loss", "the corner")],
    r"$\max(\lambda, \text{KL})$": [
        ("gaussian_kl_divergence", "the tie of free bits"),
        ("vae_loss_free_bits", "the tie of free bits"),
    ],
    "a side of a box": [("iou_loss", "boxes that touch")],
    "the larger, or the smaller, of two corners": [
        ("iou_loss", "sides on one line"),
        ("complete_iou_loss", "equal boxes"),
    ],
    "ties of the nearest or farthest point": [
        ("chamfer_distance", "two nearest points"),
        ("hausdorff_distance", "four farthest points"),
        ("triplet_loss", "two largest components"),
        ("triplet_loss", "two negatives at one distance"),
    ],
    "ties of sorted samples, projected points or errors": [
        ("wasserstein_distance", "two equal samples"),
        ("sliced_wasserstein_distance", "two equal samples"),
        ("lovasz_hinge_loss", "two equal errors"),
        ("lovasz_softmax_loss", "two equal errors"),
    ],
    "several best permutations": [],  # one of several: below
    r"ArcFace, own class at $\theta = 0$": [("arcface_loss", "no angle")],
    r"ArcFace, own class at $\theta = \pi - m$": [],  # below
    r"a mean $r_j \le 0$": [("multi_scale_ssim_loss", "a mean below 0")],
    "PSNR of equal images": [("psnr_loss", "no error")],
    "Huber": [("huber_loss", "|e| = δ"), ("smooth_l1_loss", "|e| = β"), ("modified_huber_loss", "t p = −1")],
    "the symmetric percentage error": [("smape_loss", "a prediction of 0"), ("smape_loss", "|p| + |t| = ε")],
    "Kullback–Leibler and Jensen–Shannon": [("kl_divergence", "p = 0"), ("js_divergence", "p = 0")],
    "a slope that overflows although the loss is finite": [
        ("poisson_negative_log_likelihood", "a slope beyond the range")
    ],
    "probabilities outside": [
        ("binary_cross_entropy", "a clipped probability"),
        ("cross_entropy_loss", "a clipped probability"),
        ("focal_loss", "a clipped probability"),
        ("vanilla_generator_loss", "a clipped probability"),
    ],
}

SLOW = tuple(mode for mode in MODES if mode.startswith("jax"))  # compile every operation, or the loss
QUICK = tuple(mode for mode in MODES if mode not in SLOW)

# whose kinks are ties or sides that meet, not points with a value of their own: what is taken there is said elsewhere
ELSEWHERE = {
    "contextual_loss": "ties of the nearest: the first index, in test_perceptual.py",
}


# rows of the table whose point is not among the declared kinks
NO_KINK = {
    "a mean below 0": "a whole region, not a point",
    "a slope beyond the range": "the derivative exists, but is too large for the dtype",
    "two largest components": "a tie of components is not declared: drawn points have none",
}


def _declares_kinks(pair: Any) -> bool:
    if isinstance(pair.terms, Apart):
        return any(part.kinks is not None for part in pair.terms.elements.values())
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
        for i, gradient in enumerate(gradients):
            documented = expected[i] if isinstance(expected, list) else expected
            if isinstance(documented, Near):
                np.testing.assert_allclose(gradient, documented.gradient, rtol=1e-14, atol=1e-16, err_msg=at)
                continue
            np.testing.assert_array_equal(gradient, np.broadcast_to(documented, gradient.shape), err_msg=at)

    @parameterized.expand([(kink[0], kink[1], kink) for kink in KINKS])
    def test_point_is_a_declared_kink(self, loss: str, at: str, kink: Any) -> None:
        pair = catalogue()[loss]
        _, _, arrays, options, _ = kink
        if at in NO_KINK:
            self.skipTest(NO_KINK[at])
        if not _declares_kinks(pair):
            self.skipTest("the loss declares none: its derivative is continued")
        distances = pair.kinks_at(arrays, options)
        self.assertTrue(any(np.any(np.abs(np.asarray(d)) < 1e-6) for d in distances), at)

    def test_every_loss_with_kinks_is_here(self) -> None:
        declared = {pair.name for pair in catalogue().values() if _declares_kinks(pair)}
        self.assertEqual(declared - {kink[0] for kink in KINKS}, set(ELSEWHERE))

    def test_each_row_of_the_table_is_held_by_a_point(self) -> None:
        page = (Path(__file__).parents[2] / "docs/conventions.md").read_text()
        table = page.partition("## Where the derivative does not exist")[2].partition("\n## ")[0]
        rows = [line.strip("| ").partition(" | ")[0] for line in table.splitlines() if line.startswith("|")][2:]
        self.assertEqual([row for row in rows if not any(row.startswith(key) for key in TABLE)], [])
        self.assertEqual([key for key in TABLE if not any(row.startswith(key) for row in rows)], [])
        points = {(kink[0], kink[1]) for kink in KINKS}
        self.assertEqual([point for held in TABLE.values() for point in held if point not in points], [])

    @parameterized.expand(QUICK)
    def test_several_best_permutations_give_the_slope_of_one(self, mode: str) -> None:
        x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])  # all distances are 1
        gradient = evaluate(mode, catalogue()["earth_mover_distance"].gradient, x, y)
        one = np.array([[-0.5, 0.0], [0.5, 0.0]])  # the first x to the first y, the second to the second
        self.assertTrue(any(np.array_equal(gradient, slopes) for slopes in (one, one[:, ::-1])), gradient)

    @parameterized.expand(QUICK)
    def test_several_largest_singular_values_give_the_slope_of_one(self, mode: str) -> None:
        gradient = evaluate(mode, catalogue()["spectral_norm_regularization"].gradient, np.eye(3), lambda_reg=2.0)
        np.testing.assert_allclose(np.linalg.svd(gradient)[1], [2.0, 0.0, 0.0], atol=1e-14)  # λ σ u vᵀ
        np.testing.assert_allclose(gradient, gradient.T, atol=1e-14)  # u = v, as W is the identity

    @parameterized.expand(QUICK)
    def test_arcface_at_its_step_is_on_the_side_of_larger_angles(self, mode: str) -> None:
        loss = catalogue()["arcface_loss"].value
        found = evaluate(mode, loss, ONE, np.eye(2), np.array([0]), margin=np.pi, scale=1.0)  # θ = 0 = π − m
        np.testing.assert_allclose(found, np.log1p(np.exp(-1.0)), rtol=1e-14)  # cos θ − m sin m = 1, not cos π

    def test_autodiff_follows_the_table(self) -> None:
        with jax.enable_x64(True):
            mae, kl = (catalogue()[name].value for name in ("mae_loss", "kl_divergence"))
            self.assertEqual(jax.grad(lambda x: mae(x, jnp.zeros(1)))(jnp.zeros(1)), 0.0)
            at_zero = jax.grad(lambda p: kl(p, jnp.array([0.5, 0.5])))(jnp.array([0.0, 1.0]))
            np.testing.assert_allclose(at_zero[0], 1.0 + math.log(np.finfo(np.float64).tiny / 0.5), rtol=1e-14)
        clipped = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        catalogue()["binary_cross_entropy"].value(clipped, torch.ones(1, dtype=torch.float64)).backward()
        np.testing.assert_allclose(clipped.grad, -1e7, rtol=1e-9)

    def test_autodiff_of_plain_functions_is_the_library_s_own(self) -> None:
        with jax.enable_x64(True), plain_functions():
            mae, kl = (catalogue()[name].value for name in ("mae_loss", "kl_divergence"))
            self.assertEqual(jax.grad(lambda x: mae(x, jnp.zeros(1)))(jnp.zeros(1)), 1.0)
            slopes = jax.grad(lambda p: kl(p, jnp.array([0.5, 0.5])))(jnp.array([0.0, 1.0]))
            self.assertTrue(np.isnan(slopes[0]))
        clipped = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        with plain_functions():
            loss = catalogue()["binary_cross_entropy"].value(clipped, torch.ones(1, dtype=torch.float64))
        loss.backward()
        self.assertEqual(clipped.grad, 0.0)

    @parameterized.expand(EAGER)
    def test_half_precision_beyond_its_range(self, library: str) -> None:
        mse = catalogue()["mse_loss"]
        zero, error, large = (np.array([x]) for x in (0.0, 300.0, 60000.0))
        self.assertEqual(evaluate(library, mse.value, error, zero, dtype="float16"), np.inf)
        self.assertEqual(evaluate(library, mse.gradient, large, zero, dtype="float16"), 65504.0)
        self.assertEqual(evaluate(library, mse.gradient, large, zero, dtype="float16", upstream=2.0), np.inf)
