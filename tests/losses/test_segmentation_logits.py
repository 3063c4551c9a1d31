"""What no law says about losses on masks from logits: other libraries, ignored pixels, parts of a sum, hard masks."""

from __future__ import annotations

import re
import unittest
from itertools import product
from typing import Any

import jax
import numpy as np
from modes import TRACED, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    binary_cross_entropy_with_logits,
    both_of,
    cross_entropy_with_logits,
    dice_cross_entropy_with_logits,
    dice_focal_loss_with_logits,
    dice_loss,
    dice_loss_with_logits,
    find_loss,
    focal_loss_with_logits,
    focal_tversky_loss_with_logits,
    generalized_dice_loss_with_logits,
    jaccard_loss_with_logits,
    lovasz_hinge_loss,
    lovasz_softmax_loss_with_logits,
    tversky_loss_with_logits,
    value_and_gradient,
)

OVERLAPS = (dice_loss_with_logits, jaccard_loss_with_logits, tversky_loss_with_logits, focal_tversky_loss_with_logits)
COMPOUNDS = (dice_cross_entropy_with_logits, dice_focal_loss_with_logits)
BY_SAMPLE = (generalized_dice_loss_with_logits, lovasz_softmax_loss_with_logits, *COMPOUNDS)
ALL = (*OVERLAPS, *BY_SAMPLE)
# one loss for each way to read targets and to reduce; the laws evaluate the others in all modes
SOME = (dice_loss_with_logits, lovasz_softmax_loss_with_logits, dice_cross_entropy_with_logits)
EVERYWHERE = [*product(ALL, ("numpy",)), *product(SOME, ("jax.jit", "torch"))]

# two images of 4 × 5 pixels in three classes, on axis 1; some of the pixels are void
Z = 2.0 * np.sin(np.arange(120.0)).reshape(2, 3, 4, 5)
Y = (np.arange(40) * 7 // 5 % 3).reshape(2, 4, 5)
VOID = Y.copy()
VOID[:, 1, 2:] = 255
SEVERAL = np.stack([Y == 0, Y == 2, Y > 0], 1).astype(float)  # a pixel has several labels
Z_ONE, ONE = Z[:, :1], (Y == 1).astype(float)[:, None]  # one foreground
WEIGHTS = np.array([0.5, 1.0, 3.0])

# What MONAI 1.6.1 and segmentation-models-pytorch 0.6.0 ("sm") gave with PyTorch 2.13.0: the value, the sum of the
# absolute gradient, and the gradient of the first logit. `OPTIONS` of MONAI are to_onehot_y=True, softmax=True,
# smooth_nr=1.0, smooth_dr=1.0; with `SIGMOID`, sigmoid=True in place of the first two.
PEERS: list[tuple[str, Any, Any, Any, dict[str, Any], tuple[float, float, float]]] = [
    (
        "DiceLoss(OPTIONS)",
        dice_loss_with_logits, Z, Y, {"class_axis": 1},
        (0.6211004875158999, 0.26825553423106224, -0.00181229140075116),
    ),
    (
        "DiceLoss(OPTIONS, batch=True)",
        dice_loss_with_logits, Z, Y, {"class_axis": 1, "pool_batch": True},
        (0.6437030568738817, 0.2795520183681188, -0.0017750458328483379),
    ),
    (
        "DiceLoss(OPTIONS, include_background=False)",
        dice_loss_with_logits, Z, Y, {"class_axis": 1, "class_weights": [0.0, 1.0, 1.0]},
        (0.6396864055508618, 0.2836981621040724, -0.0005099407611628837),
    ),
    (
        "DiceLoss(OPTIONS, weight=WEIGHTS)",
        dice_loss_with_logits, Z, Y, {"class_axis": 1, "class_weights": WEIGHTS, "normalizer": 6.0},
        (0.9194526379476039, 0.3925816040172789, -0.0013953401138678172),
    ),
    (
        "DiceLoss(OPTIONS, jaccard=True)",
        jaccard_loss_with_logits, Z, Y, {"class_axis": 1, "smooth": 0.5},
        (0.7648774364693062, 0.20375411046102168, -0.0014101364233853983),
    ),
    (
        "DiceLoss(SIGMOID), several labels",
        dice_loss_with_logits, Z, SEVERAL, {"class_axis": 1, "multilabel": True},
        (0.5035406401985892, 0.1557546862265887, -0.0037173155599231266),
    ),
    (
        "DiceLoss(SIGMOID), one foreground",
        dice_loss_with_logits, Z_ONE, ONE, {},
        (0.6250059121831135, 0.15452890933924557, 0.0028550738848259305),
    ),
    (
        "TverskyLoss(OPTIONS, alpha=0.3, beta=0.7)",
        tversky_loss_with_logits, Z, Y, {"class_axis": 1},
        (0.5793816172144761, 0.24926365741604906, -0.0017388392225514584),
    ),
    (
        "GeneralizedDiceLoss(softmax=True, to_onehot_y=True, smooth_nr=0.0, smooth_dr=0.0)",
        generalized_dice_loss_with_logits, Z, Y, {"class_axis": 1, "smooth": 0.0},
        (0.6660924346757893, 0.28692417670773807, -0.0022759687362441643),
    ),
    (
        "DiceCELoss(OPTIONS, lambda_dice=0.7, lambda_ce=1.3)",
        dice_cross_entropy_with_logits, Z, Y, {"class_axis": 1, "dice_weight": 0.7, "pixel_weight": 1.3},
        (2.5242565401420896, 1.9118111154728077, -0.030978047102149377),
    ),
    (
        "DiceCELoss(OPTIONS, batch=True, weight=WEIGHTS)",
        dice_cross_entropy_with_logits, Z, Y,
        {"class_axis": 1, "pool_batch": True, "class_weights": WEIGHTS, "dice_weight": 1.5},
        (2.597838896708075, 1.6968296110770797, -0.008760426609191541),
    ),
    (
        "DiceCELoss(SIGMOID), one foreground",
        dice_cross_entropy_with_logits, Z_ONE, ONE, {"class_axis": None},
        (1.621219716314246, 0.6978002599219933, 0.015355073884825932),
    ),
    (
        "DiceFocalLoss(SIGMOID, gamma=2.0, lambda_focal=1.5), several labels",
        dice_focal_loss_with_logits, Z, SEVERAL, {"class_axis": 1, "multilabel": True, "pixel_weight": 1.5},
        (1.247051363312603, 0.8106717242069287, -0.007445900411992743),
    ),
    (
        "FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)",
        dice_focal_loss_with_logits, Z, Y, {"class_axis": 1, "dice_weight": 0.0, "pixel_weight": 1.0 / 3.0},
        (0.40119218826293945, 0.4493098533639568, -0.00930161215364933),
    ),
    (
        "sm.DiceLoss('multiclass', smooth=1.0)",
        dice_loss_with_logits, Z, Y, {"class_axis": 1, "pool_batch": True, "smooth": 2.0},
        (0.6208845265699985, 0.26962418242084335, -0.001721198857338821),
    ),
    (
        "sm.DiceLoss('multiclass', smooth=1.0, ignore_index=255)",
        dice_loss_with_logits, Z, VOID, {"class_axis": 1, "pool_batch": True, "smooth": 2.0, "ignore_index": 255},
        (0.6094446028586055, 0.2719641058734112, -0.0020844410002075105),
    ),
    (
        "sm.DiceLoss('multilabel', smooth=1.0)",
        dice_loss_with_logits, Z, SEVERAL,
        {"class_axis": 1, "multilabel": True, "pool_batch": True, "smooth": 2.0},
        (0.5034869338509554, 0.15567021952767912, -0.0036492303359154732),
    ),
    (
        "sm.DiceLoss('binary', smooth=1.0)",
        dice_loss_with_logits, Z_ONE, ONE, {"pool_batch": True, "smooth": 2.0},
        (0.6236865571180781, 0.1547231333120343, 0.002700096776414313),
    ),
    (
        "sm.JaccardLoss('multiclass', smooth=1.0)",
        jaccard_loss_with_logits, Z, Y, {"class_axis": 1, "pool_batch": True},
        (0.7651230481967289, 0.20406314918755114, -0.001353934455759885),
    ),
    (
        "sm.TverskyLoss('multiclass', smooth=1.0, alpha=0.3, beta=0.7)",
        tversky_loss_with_logits, Z, Y, {"class_axis": 1, "pool_batch": True},
        (0.620117687913509, 0.26789340723672717, -0.001759504209056468),
    ),
    (
        "sm.TverskyLoss('binary', smooth=1.0, alpha=0.3, beta=0.7, gamma=0.75)",
        focal_tversky_loss_with_logits, Z_ONE, ONE, {"pool_batch": True},
        (0.674565457647712, 0.1355233072197728, 0.0016317150606203366),
    ),
    (
        "sm.LovaszLoss('multiclass')",
        lovasz_softmax_loss_with_logits, Z, Y, {"class_axis": 1, "pool_batch": True},
        (0.7352361679077148, 0.26321256160736084, -0.0021243132650852203),
    ),
    (
        "sm.LovaszLoss('multiclass', per_image=True, ignore_index=255)",
        lovasz_softmax_loss_with_logits, Z, VOID, {"class_axis": 1, "ignore_index": 255},
        (0.7361977100372314, 0.2669774293899536, -0.003369600512087345),
    ),
    (
        "sm.LovaszLoss('binary', per_image=True)",
        lovasz_hinge_loss, Z_ONE, ONE, {},
        (2.0816049575805664, 0.90625, 0.007142871618270874),
    ),
]  # fmt: skip


class Peers(unittest.TestCase):
    @parameterized.expand(PEERS)
    def test_other_libraries(
        self, name: str, loss: Any, z: Any, t: Any, options: dict[str, Any], expected: tuple[float, float, float]
    ) -> None:
        value, gradient = value_and_gradient(loss)(z, t, **options)
        found = float(value), float(np.abs(gradient).sum()), float(gradient[0, 0, 0, 0])
        single = any(part in name for part in ("Focal", "Lovasz"))  # computed in float32 there
        tolerance = 5e-6 if single else 5e-8 if "Generalized" in name else 1e-13  # 1 / n² is in float32 there
        np.testing.assert_allclose(found, expected, rtol=tolerance)


class Pixels(unittest.TestCase):
    @parameterized.expand(EVERYWHERE)
    def test_ignored_pixels_are_not_there(self, loss: Any, mode: str) -> None:
        options = {"class_axis": 1, "class_weights": WEIGHTS, "pool_batch": True}
        value, gradient = evaluate_pair(mode, loss, Z, VOID, ignore_index=255, **options)
        kept = VOID != 255
        pixels, labels = np.moveaxis(Z, 1, -1)[kept], VOID[kept]
        expected, slopes = value_and_gradient(loss)(pixels, labels, **{**options, "class_axis": -1})
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(np.moveaxis(gradient, 1, -1)[kept], slopes, rtol=1e-12, atol=1e-16)
        self.assertFalse(np.any(np.moveaxis(gradient, 1, -1)[~kept]))

    @parameterized.expand(list(product(("numpy", "jax"), (np.int64, np.float64))))
    def test_ignored_pixels_of_one_foreground(self, mode: str, dtype: Any) -> None:
        z, t = Z[0, 0], (Y[0] % 2).astype(dtype)
        t[1, 2:] = 255
        kept = t[None] != 255
        for loss in (lovasz_hinge_loss, dice_loss_with_logits):
            value, gradient = evaluate_pair(mode, loss, z[None], t[None], ignore_index=255)
            expected, slopes = value_and_gradient(loss)(z[kept[0]], t[kept[0]])
            np.testing.assert_allclose(value, expected, rtol=1e-13)
            np.testing.assert_allclose(gradient[kept], slopes, rtol=1e-12)
            self.assertFalse(np.any(gradient[~kept]))

    @parameterized.expand([(loss,) for loss in (*OVERLAPS, generalized_dice_loss_with_logits, *COMPOUNDS)])
    def test_class_indices_are_one_hot_masks(self, loss: Any) -> None:
        one_hot = np.stack([c == Y for c in range(3)], 1)
        for options in ({}, {"class_weights": WEIGHTS, "multilabel": True}):
            found, expected = (value_and_gradient(loss)(Z, t, class_axis=1, **options) for t in (Y, one_hot))
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])

    @parameterized.expand(EVERYWHERE)
    def test_a_void_image_counts_nothing(self, loss: Any, mode: str) -> None:
        z, void = Z.copy(), VOID.copy()
        z[0], void[0] = np.nan, 255
        value, gradient = evaluate_pair(mode, loss, z, void, class_axis=1, ignore_index=255, reduction="none")
        self.assertFalse(np.any(value[0]))
        self.assertFalse(np.any(gradient[0]))
        self.assertTrue(np.all(value[1] > 0.0))

    @parameterized.expand(list(product(TRACED, SOME)))
    def test_illegal_labels_out_of_sight(self, mode: str, loss: Any) -> None:
        labels = Y.copy()
        labels[1, 2, 3] = 3
        options = {"class_axis": 1, "reduction": "none"}
        for function in (loss, find_loss(loss).gradient):
            found = evaluate(mode, function, Z, labels, **options)
            self.assertTrue(np.all(np.isfinite(found[0])))
            self.assertTrue(np.any(np.isnan(found[1])))
        for function in (loss, find_loss(loss).gradient, value_and_gradient(loss)):
            with self.assertRaisesRegex(ValueError, "3"):
                function(Z, labels, **options)

    def test_class_weights_of_lovasz_losses_average_the_classes(self) -> None:
        options = {"class_axis": 1, "classes": "all", "reduction": "none"}
        by_class = [
            lovasz_softmax_loss_with_logits(Z, Y, class_weights=weights, **options) for weights in np.eye(3).tolist()
        ]
        value = lovasz_softmax_loss_with_logits(Z, Y, class_weights=WEIGHTS, **options)
        np.testing.assert_allclose(value, np.average(by_class, axis=0, weights=WEIGHTS), rtol=1e-14)
        self.assertTrue(np.ptp(by_class) > 0.05)

    @parameterized.expand([(loss,) for loss in ALL])
    def test_blocks_of_large_arrays(self, loss: Any) -> None:
        generator = np.random.default_rng(2)
        z, labels = generator.standard_normal((6, 3, 80, 90)), generator.integers(0, 4, (6, 80, 90))
        options = {"class_axis": 1, "class_weights": WEIGHTS, "ignore_index": 3}
        for reduction, pool_batch in product(("mean", "none"), (False, True)):
            both = {**options, "reduction": reduction, "pool_batch": pool_batch}
            value, gradient = value_and_gradient(loss)(z, labels, **both)
            np.testing.assert_allclose(value, loss(z, labels, **both), rtol=1e-13)
            np.testing.assert_allclose(gradient, find_loss(loss).gradient(z, labels, **both), rtol=1e-12, atol=1e-20)

    def test_messages(self) -> None:
        soft = np.full(Z.shape, 1.0 / 3.0)
        with self.assertRaisesRegex(ValueError, "class_weights need a class_axis"):
            dice_loss_with_logits(Z, soft, class_weights=WEIGHTS)
        with self.assertRaisesRegex(ValueError, "ignore_index needs class indices"):
            dice_loss_with_logits(Z, soft, class_axis=1, ignore_index=255)
        with self.assertRaisesRegex(ValueError, r"class indices of shape \(2, 4, 5\) or masks of shape \(2, 3, 4, 5\)"):
            dice_loss_with_logits(Z, Y[:1], class_axis=1)
        with self.assertRaisesRegex(ValueError, r"class_weights must have shape \(3,\), got \(2,\)"):
            dice_cross_entropy_with_logits(Z, Y, class_axis=1, class_weights=[1.0, 2.0])
        with self.assertRaisesRegex(ValueError, "same shape"):
            dice_loss_with_logits(Z, Y)


class Compounds(unittest.TestCase):
    @parameterized.expand(list(product(("numpy", "torch"), (None, WEIGHTS))))
    def test_parts(self, library: str, weights: Any) -> None:
        options = {"class_axis": 1, "class_weights": weights, "ignore_index": 255, "pool_batch": True}
        dice, dice_slopes = value_and_gradient(dice_loss_with_logits)(Z, VOID, **options)
        del options["pool_batch"]
        pixels, pixel_slopes = value_and_gradient(cross_entropy_with_logits)(Z, VOID, **options)
        value, gradient = evaluate_pair(
            library, dice_cross_entropy_with_logits, Z, VOID, **options, pool_batch=True, dice_weight=0.4
        )
        np.testing.assert_allclose(value, 0.4 * dice + pixels, rtol=1e-14)
        np.testing.assert_allclose(gradient, 0.4 * dice_slopes + pixel_slopes, rtol=1e-12, atol=1e-16)

    def test_parts_of_one_foreground(self) -> None:
        for compound, weight, part, options in (
            (dice_cross_entropy_with_logits, 2.0, binary_cross_entropy_with_logits, {}),
            (dice_focal_loss_with_logits, 1.0, focal_loss_with_logits, {"alpha": 0.5}),  # which halves
        ):
            dice = value_and_gradient(dice_loss_with_logits)(Z_ONE, ONE)
            pixels = value_and_gradient(part)(Z_ONE, ONE, **options)
            value, gradient = value_and_gradient(compound)(Z_ONE, ONE, class_axis=None, pixel_weight=weight)
            np.testing.assert_allclose(value, dice[0] + 2.0 * pixels[0], rtol=1e-14)
            np.testing.assert_allclose(gradient, dice[1] + 2.0 * pixels[1], rtol=1e-12, atol=1e-17)

    @parameterized.expand([(loss,) for loss in COMPOUNDS])
    def test_one_softmax(self, loss: Any) -> None:
        def exponentials(function: Any) -> int:
            program = jax.make_jaxpr(lambda z: function(z, jax.numpy.asarray(Y), class_axis=1))(jax.numpy.asarray(Z))
            return len(re.findall(r"\bexp\b", str(program)))

        self.assertEqual(exponentials(dice_loss_with_logits), 1)
        self.assertEqual(exponentials(both_of(find_loss(loss).gradient)), 1)


class HardMasks(unittest.TestCase):
    @parameterized.expand(list(product(("numpy", "jax.jit", "torch"), ("float32", "float64"))))
    def test_small_losses_keep_their_digits(self, mode: str, dtype: str) -> None:
        tail, rounding = np.exp(-40.0), {"float32": 1e-5, "float64": 1e-13}[dtype]
        z, t = np.array([[40.0, -40.0, 40.0, -40.0]]), np.array([[1, 0, 1, 0]])
        value, gradient = evaluate_pair(mode, dice_loss_with_logits, z, t, smooth=0.0, dtype=dtype)
        np.testing.assert_allclose(value, 4.0 * tail / 4.0, rtol=rounding)
        np.testing.assert_allclose(gradient, [[-0.25 * tail, 0.25 * tail] * 2], rtol=rounding)
        classes, labels = np.array([[[40.0, 0.0], [0.0, 40.0]]]), np.array([[0, 1]])
        value, gradient = evaluate_pair(mode, dice_loss_with_logits, classes, labels, class_axis=-1, dtype=dtype)
        np.testing.assert_allclose(value, 2.0 * tail / 3.0, rtol=rounding)

    @parameterized.expand(EVERYWHERE)
    def test_huge_logits(self, loss: Any, mode: str) -> None:
        z = 1e38 * np.where(np.arange(3)[:, None, None] == Y[:, None], 1.0, -1.0)
        for labels, perfect in ((Y, True), ((Y + 1) % 3, False)):
            value, gradient = evaluate_pair(mode, loss, z, labels, class_axis=1, dtype="float32")
            self.assertTrue(np.all(np.isfinite(gradient)))
            self.assertEqual(value == 0.0, perfect)

    def test_soft_targets_of_a_confident_mask(self) -> None:
        z, t = np.array([[800.0, -800.0]]), np.array([[0.3, 0.6]])
        p = np.array([[1.0, 0.0]])
        np.testing.assert_allclose(dice_loss_with_logits(z, t), dice_loss(p, t), rtol=1e-15)
