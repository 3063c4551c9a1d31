"""What no law says about adversarial losses: references, batches of two sizes, dead ends of the scores, suites."""

from __future__ import annotations

import math
import unittest
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from modes import EAGER, MODES, evaluate_pair
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import Objective, Term, WeightedLoss, check_gradient, limits, value_and_gradient
from mithril_losses.templates.elements import Elementwise

DISCRIMINATORS = ("vanilla", "non_saturating", "least_squares", "wasserstein", "hinge")


def loss_of(kind: str, player: str) -> Any:
    return getattr(ml, f"{kind}_{player}_loss")


def scores(seed: int, *shape: int) -> np.ndarray:
    """Numbers in (0, 1), so that they are scores of every kind."""
    return np.random.default_rng(seed).uniform(0.05, 0.95, shape)


class References(unittest.TestCase):
    """PyTorch's cross-entropies of the two batches, and the paper's formulas written out."""

    def _assert_equal(self, loss: Any, expected: Any, *arrays: np.ndarray, **options: Any) -> None:
        inputs = [torch.tensor(x, requires_grad=True) for x in arrays]
        reference = expected(*inputs)
        value, gradients = value_and_gradient(loss)(*inputs, **options)
        torch.testing.assert_close(value, reference, rtol=1e-13, atol=0.0)
        derivatives = torch.autograd.grad(reference, inputs, materialize_grads=True, allow_unused=True)
        found = gradients.values() if isinstance(gradients, dict) else [gradients]
        for gradient, derivative in zip(found, derivatives, strict=False):
            torch.testing.assert_close(gradient.detach(), derivative, rtol=1e-12, atol=1e-16)

    def test_vanilla(self) -> None:
        real, fake = scores(0, 5), scores(1, 3, 2)
        bce = F.binary_cross_entropy
        self._assert_equal(ml.vanilla_generator_loss, lambda x: bce(x, torch.ones_like(x)), fake)
        for smoothing in (0.0, 0.1):
            self._assert_equal(
                ml.vanilla_discriminator_loss,
                lambda x, y, s=smoothing: bce(x, torch.full_like(x, 1 - s)) + bce(y, torch.zeros_like(y)),
                real,
                fake,
                label_smoothing=smoothing,
            )

    def test_non_saturating(self) -> None:
        real, fake = 8.0 * scores(0, 5) - 4.0, 8.0 * scores(1, 3, 2) - 4.0
        bce = F.binary_cross_entropy_with_logits
        self._assert_equal(ml.non_saturating_generator_loss, lambda x: bce(x, torch.ones_like(x)), fake)
        for smoothing in (0.0, 0.1):
            self._assert_equal(
                ml.non_saturating_discriminator_loss,
                lambda x, y, s=smoothing: bce(x, torch.full_like(x, 1 - s)) + bce(y, torch.zeros_like(y)),
                real,
                fake,
                label_smoothing=smoothing,
            )

    def test_one_sided_smoothing_by_hand(self) -> None:
        # 0.9 softplus(−2) + 0.1 softplus(2) = 0.9 · 0.126928… + 0.1 · 2.126928…
        value = ml.non_saturating_discriminator_loss(np.array([2.0]), np.array([-np.inf]), label_smoothing=0.1)
        self.assertAlmostEqual(float(value), 0.9 * 0.126928011042972 + 0.1 * 2.126928011042972, 14)

    @parameterized.expand([("generator",), ("discriminator",)])
    def test_vanilla_is_non_saturating_of_a_sigmoid(self, player: str) -> None:
        logits = [6.0 * scores(seed, n) - 3.0 for seed, n in ((0, 4), (1, 7))][: 1 if player == "generator" else 2]
        probabilities = [1.0 / (1.0 + np.exp(-x)) for x in logits]
        expected = loss_of("non_saturating", player)(*logits)
        np.testing.assert_allclose(loss_of("vanilla", player)(*probabilities), expected, rtol=1e-13)

    @parameterized.expand([("generator",), ("discriminator",)])
    def test_relativistic(self, player: str) -> None:
        real, fake = 6.0 * scores(0, 5) - 3.0, 6.0 * scores(1, 3, 2) - 2.0
        bce = F.binary_cross_entropy_with_logits

        def standard(first: Any, second: Any) -> Any:
            upper, lower = first - second.mean(), second - first.mean()
            return bce(upper, torch.ones_like(upper)) + bce(lower, torch.zeros_like(lower))

        def squares(first: Any, second: Any) -> Any:
            return ((first - second.mean() - 1) ** 2).mean() + ((second - first.mean() + 1) ** 2).mean()

        arrays = (fake, real) if player == "generator" else (real, fake)
        self._assert_equal(loss_of("relativistic_average", player), standard, *arrays)
        self._assert_equal(loss_of("relativistic_average_least_squares", player), squares, *arrays)

    def test_relativistic_losses_see_no_common_offset(self) -> None:
        real, fake = scores(0, 5), scores(1, 3)
        for loss in (ml.relativistic_average_discriminator_loss, ml.relativistic_average_generator_loss):
            np.testing.assert_allclose(loss(real + 100.0, fake + 100.0), loss(real, fake), rtol=1e-12)
            with self.assertRaisesRegex(ValueError, "at least one real and one fake score"):
                loss(real, np.ones((0, 2)))


class DeadEnds(unittest.TestCase):
    """Probabilities of exactly 0 and 1, logits of ±10⁴: finite, and whoever is losing knows where to go."""

    ENDS = {"vanilla": (0.0, 1.0)} | dict.fromkeys(DISCRIMINATORS[1:], (-1e4, 1e4))

    @parameterized.expand(list(product(DISCRIMINATORS, MODES, ("float64", "float32"))))
    def test_finite_live_and_of_the_right_sign(self, kind: str, mode: str, dtype: str) -> None:
        ends = np.array(self.ENDS[kind])
        keywords = {"reduction": "none", "dtype": dtype}
        value, slope = evaluate_pair(mode, loss_of(kind, "generator"), ends, **keywords)
        self.assertTrue(np.isfinite(value).all() and np.isfinite(slope).all())
        self.assertLess(slope[0], -0.5)
        # past its target, least squares comes back
        self.assertTrue(slope[1] > 0.0 if kind == "least_squares" else slope[1] <= 0.0)
        value, slopes = evaluate_pair(mode, loss_of(kind, "discriminator"), ends, ends[::-1].copy(), **keywords)
        real, fake = slopes["real_scores"], slopes["fake_scores"]
        self.assertTrue(all(np.isfinite(x).all() for x in (value, real, fake)))
        self.assertLess(real[0], -0.5)
        self.assertGreater(fake[0], 0.5)
        if kind != "least_squares":
            self.assertLessEqual(real[1], 0.0)
            self.assertGreaterEqual(fake[1], 0.0)

    @parameterized.expand([("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16"), ("jax", "bfloat16")])
    def test_half_precision(self, mode: str, dtype: str) -> None:
        ends = np.array([0.0, 1.0])
        for kind, player in (("vanilla", "generator"), ("vanilla", "discriminator"), ("non_saturating", "generator")):
            arrays = [ends] if player == "generator" else [ends, ends]
            value, slopes = evaluate_pair(mode, loss_of(kind, player), *arrays, reduction="none", dtype=dtype)
            self.assertTrue(np.isfinite(value).all())
            for slope in slopes.values() if isinstance(slopes, dict) else [slopes]:
                self.assertTrue(np.isfinite(slope).all() and np.any(slope != 0.0))

    @parameterized.expand(list(product(("relativistic_average", "relativistic_average_least_squares"), EAGER)))
    def test_relativistic(self, kind: str, mode: str) -> None:
        low, high = np.array([-1e4, -1e4, -1e4]), np.array([1e4, 1e4])
        value, slopes = evaluate_pair(mode, loss_of(kind, "discriminator"), low, high, dtype="float32")
        self.assertTrue(np.isfinite(value))
        self.assertTrue(np.all(slopes["real_scores"] < -0.1) and np.all(slopes["fake_scores"] > 0.1))
        value, slope = evaluate_pair(mode, loss_of(kind, "generator"), low, high, dtype="float32")
        self.assertTrue(np.isfinite(value) and np.all(slope < -0.1))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_hinge_at_the_corners(self, mode: str) -> None:
        x = np.array([1.0, 1.0 - 1e-6, 1.0 + 1e-6])
        value, slopes = evaluate_pair(mode, ml.hinge_discriminator_loss, x, -x, reduction="none")
        np.testing.assert_allclose(value, [0.0, 2e-6, 0.0], atol=1e-15)
        np.testing.assert_array_equal(slopes["real_scores"], [0.0, -1.0, 0.0])
        np.testing.assert_array_equal(slopes["fake_scores"], [0.0, 1.0, 0.0])

    def test_infinite_logits(self) -> None:
        x = np.array([math.inf, -math.inf])
        value, slopes = value_and_gradient(ml.non_saturating_discriminator_loss)(x, x, reduction="none")
        np.testing.assert_array_equal(value, [math.inf, math.inf])
        np.testing.assert_array_equal(slopes["real_scores"], [0.0, -1.0])
        np.testing.assert_array_equal(slopes["fake_scores"], [1.0, 0.0])


class TwoBatches(unittest.TestCase):
    """Each batch is reduced by itself, in any size and shape; what is left must be addable as it is."""

    @parameterized.expand(
        [(kind, "mean", mode) for kind in DISCRIMINATORS for mode in EAGER]
        + [("hinge", reduction, mode) for reduction in ("sum", "batch_sum") for mode in EAGER]
    )
    def test_of_any_shape(self, kind: str, reduction: str, mode: str) -> None:
        real, fake = scores(0, 3, 4), scores(1, 5)
        value, slopes = evaluate_pair(mode, loss_of(kind, "discriminator"), real, fake, reduction=reduction)
        # one batch at a time, the other weighing nothing
        loss = partial(loss_of(kind, "discriminator"), real, fake, reduction=reduction)
        alone = [loss(weights={name: np.zeros(1)}) for name in slopes]
        self.assertAlmostEqual(float(value), float(sum(alone)), 12)
        counts = {"mean": (12, 5), "sum": (1, 1), "batch_sum": (3, 5)}[reduction]
        for (name, slope), x, count in zip(slopes.items(), (real, fake), counts, strict=True):
            self.assertEqual(slope.shape, x.shape)
            unreduced = evaluate_pair(mode, loss_of(kind, "discriminator"), x, x, reduction="none")[1]
            np.testing.assert_allclose(slope, unreduced[name] / count, rtol=1e-12)

    def test_weights_for_each(self) -> None:
        real, fake = np.array([3.0, 5.0]), np.array([1.0, 2.0, 6.0])
        weights = {"real_scores": np.array([1.0, 0.0]), "fake_scores": np.array([0.0, 1.0, 1.0])}
        value, slopes = value_and_gradient(ml.wasserstein_discriminator_loss)(
            real, fake, weights=weights, reduction="weighted_mean"
        )
        self.assertEqual(float(value), 4.0 - 3.0)
        np.testing.assert_array_equal(slopes["real_scores"], [-1.0, 0.0])
        np.testing.assert_array_equal(slopes["fake_scores"], [0.0, 0.5, 0.5])
        value = ml.wasserstein_discriminator_loss(real, fake, weights={"fake_scores": np.array([0.0, 0.0, 1.0])})
        self.assertEqual(float(value), 2.0 - 4.0)

    def test_micro_batches_of_two_sizes_add_up(self) -> None:
        real, fake = scores(0, 4), scores(1, 6)
        counts = {"real_scores": 4.0, "fake_scores": 6.0}
        for kind in DISCRIMINATORS:
            loss = loss_of(kind, "discriminator")
            whole, slopes = value_and_gradient(loss)(real, fake)
            parts = [
                value_and_gradient(loss)(real[a], fake[b], normalizer=counts)
                for a, b in ((slice(1), slice(4)), (slice(1, 4), slice(4, 6)))
            ]
            self.assertAlmostEqual(float(whole), sum(float(value) for value, _ in parts), 14)
            for name, slope in slopes.items():
                np.testing.assert_allclose(slope, np.concatenate([p[name] for _, p in parts]), rtol=1e-14)

    def test_over_an_axis(self) -> None:
        real, fake = scores(0, 3, 4), scores(1, 5, 4)
        loss, upstream = ml.least_squares_discriminator_loss, np.array([1.0, 0.0, -2.0, 0.5])
        value, slopes = value_and_gradient(loss)(real, fake, axis=0, upstream=upstream)
        np.testing.assert_allclose(value, np.mean((real - 1.0) ** 2, axis=0) + np.mean(fake**2, axis=0), rtol=1e-13)
        np.testing.assert_allclose(slopes["fake_scores"], 2.0 * fake / 5.0 * upstream, rtol=1e-13)
        check_gradient(loss, real, fake, axis=0)

    @parameterized.expand(
        [
            (
                {"reduction": "none"},
                ValueError,
                r"leaves real_scores of shape \(4, 1\) and fake_scores of shape \(4,\)",
            ),
            ({"axis": 0}, ValueError, r"leaves real_scores of shape \(1,\) and fake_scores of shape \(\)"),
            ({"weights": np.ones((4, 1))}, ValueError, r"weights of shape \(4, 1\) do not broadcast"),
            ({"weights": {"fake_score": np.ones(4)}}, ValueError, "did you mean 'fake_scores'"),
            ({"weights": {"fake_scores": np.ones(3)}}, ValueError, r"weights of shape \(3,\)"),
            ({"weights": {"fake_scores": torch.ones(4)}}, TypeError, "weights is from torch"),
            ({"normalizer": {"real": 1.0}}, ValueError, "normalizer has the key 'real'"),
            ({"normalizer": {"real_scores": -1.0}}, ValueError, "normalizer must not be negative"),
        ]
    )
    def test_refused(self, keywords: Any, error: type[Exception], message: str) -> None:
        real, fake = scores(0, 4, 1), scores(1, 4)
        for kind in ("hinge", "least_squares"):
            loss = loss_of(kind, "discriminator")
            functions = [loss, getattr(ml, f"{loss.__name__}_gradient"), value_and_gradient(loss)]
            for function in functions:
                with self.assertRaisesRegex(error, message):
                    function(real, fake, **keywords)
            with limits.changed(large=1), self.assertRaisesRegex(error, message):
                value_and_gradient(loss)(real, fake, **keywords)

    @parameterized.expand(list(product(("hinge", "least_squares"), (True, False))))  # each compiles for seconds
    def test_large_batches(self, kind: str, fuse: bool) -> None:
        real, fake = scores(0, 50, 7), scores(1, 40, 3)
        loss = loss_of(kind, "discriminator")
        weights = {"real_scores": scores(2, 7), "fake_scores": np.arange(3.0)}
        for keywords in ({}, {"weights": weights, "normalizer": {"fake_scores": 2.0}, "upstream": -3.0}):
            own = {name: x for name, x in keywords.items() if name != "upstream"}
            with (
                limits.changed(large=1, block=64),
                mock.patch.object(Elementwise, "loop", autospec=True, side_effect=Elementwise.loop) as fast,
            ):
                value, slopes = value_and_gradient(loss, compile=fuse)(real, fake, **keywords)
            self.assertEqual(fast.call_count, 2)
            np.testing.assert_allclose(value, loss(real, fake, **own), rtol=1e-13)
            expected = getattr(ml, f"{loss.__name__}_gradient")(real, fake, **keywords)
            for name, slope in slopes.items():
                np.testing.assert_allclose(slope, expected[name], rtol=1e-13)

    def test_mixed_types(self) -> None:
        real, fake = scores(0, 3).astype(np.float32), scores(1, 5)
        value, slopes = value_and_gradient(ml.hinge_discriminator_loss)(real, fake)
        self.assertEqual((value.dtype, slopes["real_scores"].dtype), (np.float32, np.float32))
        self.assertEqual(slopes["fake_scores"].dtype, np.float64)

    def test_halves_are_added_before_they_are_rounded(self) -> None:
        # the mean of the fakes is 1 + 2⁻¹¹, which half precision rounds to 1; with another 2⁻¹¹ it is 1 + 2⁻¹⁰
        real, fake = np.array([-(2.0**-11)], np.float16), np.array([1.0, 1.0 + 2.0**-10], np.float16)
        self.assertEqual(float(ml.wasserstein_discriminator_loss(real, fake)), 1.0 + 2.0**-10)

    def test_weights_of_tensors_and_of_traced_arrays(self) -> None:
        real, fake = scores(0, 3), scores(1, 5)
        weights = {"real_scores": np.array([1.0, 0.0, 2.0])}
        expected = ml.hinge_discriminator_loss(real, fake, weights=weights)
        found, _ = value_and_gradient(ml.hinge_discriminator_loss)(
            torch.tensor(real), torch.tensor(fake), weights={"real_scores": torch.tensor(weights["real_scores"])}
        )
        np.testing.assert_allclose(found, expected, rtol=1e-14)
        with jax.enable_x64(True):
            both = value_and_gradient(ml.hinge_discriminator_loss)
            on_jax = {name: jnp.asarray(x) for name, x in weights.items()}
            for function in (both, jax.jit(both)):
                found, _ = function(jnp.asarray(real), jnp.asarray(fake), weights=on_jax)
                np.testing.assert_allclose(found, expected, rtol=1e-14)

    def test_backward_through_the_value(self) -> None:
        real, fake = (torch.tensor(scores(seed, n), requires_grad=True) for seed, n in ((0, 3), (1, 5)))
        ml.least_squares_discriminator_loss(real, fake).backward()
        expected = ml.least_squares_discriminator_loss_gradient(real.detach(), fake.detach())
        torch.testing.assert_close(real.grad, expected["real_scores"])
        torch.testing.assert_close(fake.grad, expected["fake_scores"])


class Targets(unittest.TestCase):
    """Least squares with other scores than 1 and 0."""

    def test_paper_scale_and_targets(self) -> None:
        real, fake = np.array([2.0]), np.array([0.5, -0.5])
        options = {"target_real": 0.9, "target_fake": -1.0, "scale": 0.5}
        value, slopes = value_and_gradient(ml.least_squares_discriminator_loss)(real, fake, **options)
        self.assertAlmostEqual(float(value), 0.5 * 1.1**2 + 0.25 * (1.5**2 + 0.5**2), 14)
        np.testing.assert_allclose(slopes["fake_scores"], [0.75, 0.25])
        value, slope = value_and_gradient(ml.least_squares_generator_loss)(fake, target_real=0.5, scale=0.5)
        self.assertEqual((float(value), slope.tolist()), (0.25, [0.0, -0.5]))

    def test_one_target_per_score(self) -> None:
        x = np.array([[1.0, 2.0], [3.0, 4.0]])
        self.assertEqual(float(ml.least_squares_generator_loss(x, target_real=x)), 0.0)
        self.assertEqual(float(ml.least_squares_generator_loss(x, target_real=np.array([1.0, 4.0]))), 2.0)

    @parameterized.expand([("target_real", math.inf), ("target_fake", math.nan), ("scale", 0.0), ("scale", -1.0)])
    def test_refused(self, option: str, value: float) -> None:
        for function in (ml.least_squares_discriminator_loss, ml.least_squares_discriminator_loss_gradient):
            with self.assertRaisesRegex(ValueError, f"{option} must be"):
                function(np.ones(2), np.ones(2), **{option: value})


class Penalty(unittest.TestCase):
    """The critic's gradient: norms over whole examples, zero norms, and the way on to the critic's parameters."""

    @parameterized.expand([(mode,) for mode in MODES])
    def test_images(self, mode: str) -> None:
        g = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
        norms = np.sqrt(np.sum(g**2, axis=(1, 2, 3), keepdims=True))
        value, slope = evaluate_pair(mode, ml.gradient_penalty, g, target_norm=2.0)
        np.testing.assert_allclose(value, np.mean((norms - 2.0) ** 2), rtol=1e-13)
        np.testing.assert_allclose(slope, 2.0 * (norms - 2.0) * g / norms / 3.0, rtol=1e-12)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_zero_norm(self, mode: str) -> None:
        g = np.array([[0.0, 0.0], [3.0, 4.0]])
        value, slope = evaluate_pair(mode, ml.gradient_penalty, g, reduction="none")
        np.testing.assert_allclose(value, [1.0, 16.0])
        np.testing.assert_allclose(slope, [[0.0, 0.0], [4.8, 6.4]], rtol=1e-14)

    def test_centred_at_zero_it_is_the_mean_square(self) -> None:
        g = np.random.default_rng(0).standard_normal((4, 3))
        value, slope = value_and_gradient(ml.gradient_penalty)(g, target_norm=0.0)
        np.testing.assert_allclose(value, np.sum(g**2) / 4.0, rtol=1e-14)
        np.testing.assert_allclose(slope, 2.0 * g / 4.0, rtol=1e-14)

    def test_extremes(self) -> None:
        g = np.array([[1e30, 1e30], [1e-30, 1e-30]], np.float32)
        value, slope = value_and_gradient(ml.gradient_penalty)(g, reduction="none")
        self.assertEqual((float(value[0]), float(value[1])), (math.inf, 1.0))
        np.testing.assert_allclose(slope[1], -(2.0**0.5) * np.ones(2), rtol=1e-6)

    def test_one_number_per_example(self) -> None:
        value, slope = value_and_gradient(ml.gradient_penalty)(np.array([3.0, -1.0, 0.0]))
        self.assertAlmostEqual(float(value), 5.0 / 3.0, 14)
        np.testing.assert_allclose(slope, np.array([4.0, 0.0, 0.0]) / 3.0)
        value, slope = value_and_gradient(ml.gradient_penalty)(np.ones((2, 0)), target_norm=3.0)
        self.assertEqual((float(value), slope.shape), (9.0, (2, 0)))
        self.assertEqual(float(ml.gradient_penalty(np.ones((2, 0)), target_norm=1e200)), math.inf)

    @parameterized.expand(
        [
            (np.array(1.0), {}, "need a batch axis"),
            (np.ones((2, 2)), {"target_norm": -1.0}, "target_norm must be ≥ 0"),
            (np.ones((2, 2)), {"target_norm": np.ones(2)}, "target_norm must be one number"),
            (np.ones((2, 2)), {"target_norm": torch.tensor(1.0)}, "target_norm is from torch"),
            (torch.ones(2, 2), {"target_norm": np.array(1.0)}, "target_norm is from numpy"),
        ]
    )
    def test_refused(self, g: Any, options: Any, message: str) -> None:
        for function in (ml.gradient_penalty, ml.gradient_penalty_gradient, value_and_gradient(ml.gradient_penalty)):
            with self.assertRaisesRegex((TypeError, ValueError), message):
                function(g, **options)

    def test_on_to_the_critics_parameters(self) -> None:
        torch.manual_seed(0)
        critic = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
        inputs = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(critic(inputs).sum(), inputs, create_graph=True)
        weights = [critic[0].weight, critic[2].weight]
        reference = ((g.norm(dim=1) - 1.0) ** 2).mean()
        expected = torch.autograd.grad(reference, weights, retain_graph=True)
        upstream = ml.gradient_penalty_gradient(g.detach())
        for found, derivative in zip(torch.autograd.grad(g, weights, grad_outputs=upstream), expected, strict=True):
            torch.testing.assert_close(found, derivative, rtol=1e-12, atol=1e-15)


class Suites(unittest.TestCase):
    """Both losses by name, as losses that go everywhere."""

    @parameterized.expand(
        [
            ("standard", "vanilla"),
            ("vanilla", "vanilla"),
            ("non_saturating", "non_saturating"),
            ("lsgan", "least_squares"),
            ("wgan", "wasserstein"),
            ("hinge", "hinge"),
        ]
    )
    def test_types(self, name: str, kind: str) -> None:
        generator, discriminator = ml.create_gan_loss_suite(name, name)
        real, fake = scores(0, 3), scores(1, 5)
        self.assertEqual(float(generator(fake)), float(loss_of(kind, "generator")(fake)))
        self.assertEqual(float(discriminator(real, fake)), float(loss_of(kind, "discriminator")(real, fake)))
        np.testing.assert_array_equal(generator.gradient(fake), getattr(ml, f"{kind}_generator_loss_gradient")(fake))
        self.assertEqual(set(discriminator.gradient(real, fake)), {"real_scores", "fake_scores"})

    def test_the_two_may_differ(self) -> None:
        generator, discriminator = ml.create_gan_loss_suite("wgan", "hinge")
        self.assertEqual(
            (generator.name, discriminator.name), ("wasserstein_generator_loss", "hinge_discriminator_loss")
        )

    @parameterized.expand(
        [
            ("ls-gan", "hinge", "generator_loss_type must be one of .*; did you mean 'lsgan'"),
            ("hinge", "wgan-gp", "discriminator_loss_type must be one of .*; did you mean 'wgan'"),
            ("hinge", None, "discriminator_loss_type must be one of 'standard', 'vanilla', 'non_saturating'"),
        ]
    )
    def test_unknown_types(self, generator: Any, discriminator: Any, message: str) -> None:
        with self.assertRaisesRegex(ValueError, message):
            ml.create_gan_loss_suite(generator, discriminator)

    def test_go_everywhere(self) -> None:
        generator_loss, discriminator_loss = ml.create_gan_loss_suite("hinge", "hinge")
        real, fake = np.array([0.5, 2.0]), np.array([0.25, -3.0, 1.0])
        value, slopes = value_and_gradient(discriminator_loss)(real, fake)
        self.assertAlmostEqual(float(value), 0.25 + 3.25 / 3.0, 14)
        check_gradient(discriminator_loss, real, fake)
        check_gradient(generator_loss, fake)
        outputs = {"real": "real_scores", "fake": "fake_scores"}
        term = Term(
            "critic", discriminator_loss, outputs={name: output for output, name in outputs.items()}, weight=2.0
        )
        result = Objective([term]).evaluate({"real": real, "fake": fake}, {})
        self.assertEqual(float(result.loss), 2.0 * float(value))
        for output, name in outputs.items():
            np.testing.assert_allclose(result.output_gradients[output], 2.0 * slopes[name], rtol=1e-15)
        weighted = WeightedLoss(discriminator_loss, weight=2.0)
        np.testing.assert_allclose(weighted(real, fake), 2.0 * value)
        np.testing.assert_allclose(weighted.gradient(real, fake)["fake_scores"], 2.0 * slopes["fake_scores"])
        settled = partial(ml.create_gan_loss_suite("lsgan", "lsgan")[0], target_real=0.9)
        self.assertAlmostEqual(float(value_and_gradient(settled)(np.array([1.9]))[0]), 1.0, 14)
