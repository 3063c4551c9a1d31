"""What no law says about the losses of features: definitions, layers, sampling, and gradients through an extractor."""

from __future__ import annotations

import math
import unittest
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import convert, to_numpy
from modes import EAGER, MODES, evaluate, evaluate_pair
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import PerceptualLoss, ScheduledLoss, limits, value_and_gradient
from mithril_losses.models import JaxModel, TorchModel


def features(seed: int = 0, batch: int = 2) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"conv1": generator.standard_normal((batch, 4, 3, 5)), "conv2": generator.standard_normal((batch, 2, 2, 3))}


def other_layout(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.moveaxis(x, -1, -3) for name, x in maps.items()}


class Layers(unittest.TestCase):
    """What the three losses have in common."""

    losses = (ml.feature_reconstruction_loss, ml.style_loss, ml.contextual_loss)

    @parameterized.expand(product(losses, MODES), name_func=lambda f, i, p: f"{f.__name__}_{i}_{p.args[0].__name__}")
    @pytest.mark.exhaustive_for(named="contextual_loss")  # the sum is that of the other two
    def test_a_sum_over_layers_in_every_structure(self, loss: Any, mode: str) -> None:
        x, y = features(0), features(1)
        one_by_one = {name: evaluate_pair("numpy", loss, x[name], y[name]) for name in x}
        weights = {"conv1": 0.5, "conv2": 2.0}
        value, gradient = evaluate_pair(mode, loss, x, y, weights=weights)
        self.assertAlmostEqual(float(value), sum(weights[name] * float(one_by_one[name][0]) for name in x), 12)
        for name in x:
            np.testing.assert_allclose(gradient[name], weights[name] * one_by_one[name][1], rtol=1e-9, atol=1e-14)
        in_a_list = evaluate(mode, partial(loss, weights=[0.5, 2.0]), list(x.values()), list(y.values()))
        self.assertAlmostEqual(float(in_a_list), float(value), 13)

    @parameterized.expand([(loss,) for loss in losses], name_func=lambda f, i, p: f"{f.__name__}_{i}")
    def test_layers_that_are_missing(self, loss: Any) -> None:
        x, y = features(0), features(1)
        gradient = ml.find_loss(loss).gradient
        for function in (loss, gradient, value_and_gradient(loss)):
            with self.assertRaisesRegex(KeyError, "targets lack the layer 'conv2', which predictions have"):
                function(x, {"conv1": y["conv1"]})
            with self.assertRaisesRegex(KeyError, "predictions lack the layer 'conv2', which targets have"):
                function({"conv1": x["conv1"]}, y)
            with self.assertRaisesRegex(KeyError, "weights lack the layer 'conv2'"):
                function(x, y, weights={"conv1": 1.0})
            with self.assertRaisesRegex(KeyError, r"predictions lack the layer 'conv3', .* did you mean 'conv"):
                function(x, y, weights={"conv1": 1.0, "conv2": 1.0, "conv3": 1.0})
            with self.assertRaisesRegex(KeyError, "weights lack the layer 1"):
                function(list(x.values()), list(y.values()), weights=[1.0])
            with self.assertRaisesRegex(TypeError, "of one structure, got a dict and a list"):
                function(x, list(y.values()))
            with self.assertRaisesRegex(ValueError, r"weights\['conv1'\] must be ≥ 0, got -1"):
                function(x, y, weights={"conv1": -1.0, "conv2": 1.0})
            with self.assertRaisesRegex(ValueError, "no feature map"):
                function({}, {})
            with self.assertRaisesRegex(ValueError, "same shape|agree in all axes but rows and columns"):
                function(x["conv1"], y["conv1"][:1])
            with self.assertRaisesRegex(TypeError, "one library"):
                function(x["conv1"], torch.tensor(y["conv1"]))

    @parameterized.expand([(loss,) for loss in losses], name_func=lambda f, i, p: f"{f.__name__}_{i}")
    def test_a_layer_of_weight_zero_is_not_looked_at(self, loss: Any) -> None:
        x, y = features(0), features(1)
        expected = loss(x["conv1"], y["conv1"])
        x["conv2"] = np.full((7,), np.nan)
        value, gradient = value_and_gradient(loss)(x, y, weights={"conv1": 1.0, "conv2": 0.0})
        self.assertEqual(value, expected)
        np.testing.assert_array_equal(gradient["conv2"], np.zeros(7))
        self.assertEqual(loss(x, y, weights={"conv1": 0.0, "conv2": 0.0}), 0.0)

    @parameterized.expand(product(losses, EAGER), name_func=lambda f, i, p: f"{f.__name__}_{i}_{p.args[0].__name__}")
    def test_no_images(self, loss: Any, mode: str) -> None:
        nothing = features(batch=0)
        value, gradient = evaluate_pair(mode, loss, nothing, nothing)
        self.assertEqual(float(value), 0.0)
        self.assertEqual(gradient["conv1"].shape, (0, 4, 3, 5))

    def test_layers_of_different_dtypes(self) -> None:
        x, y = features(0), features(1)
        x["conv2"], y["conv2"] = x["conv2"].astype(np.float32), y["conv2"].astype(np.float32)
        value, gradient = value_and_gradient(ml.style_loss)(x, y)
        self.assertEqual((value.dtype, gradient["conv1"].dtype, gradient["conv2"].dtype), (float, float, np.float32))

    def test_structures_are_given_back(self) -> None:
        x, y = features(0), features(1)
        self.assertIsInstance(ml.style_loss_gradient(tuple(x.values()), list(y.values())), tuple)
        both = ml.style_loss_gradient(x, y, wrt=("predictions", "targets"))
        self.assertEqual([list(maps) for maps in both.values()], 2 * [["conv1", "conv2"]])
        for name, gradient in ml.style_loss_gradient(y, x, wrt="targets").items():
            np.testing.assert_allclose(gradient, both["predictions"][name], rtol=1e-12)


class Style(unittest.TestCase):
    def test_shuffled_pixels_do_not_count(self) -> None:
        generator = np.random.default_rng(2)
        x, y = features(0)["conv1"], features(1)["conv1"]
        shuffled = generator.permutation(x.reshape(2, 12, 5), axis=1).reshape(2, 6, 2, 5)
        self.assertAlmostEqual(ml.style_loss(shuffled, x), 0.0, 28)
        self.assertAlmostEqual(ml.style_loss(shuffled, y), ml.style_loss(x, y), 15)

    def test_permuted_channels_do(self) -> None:
        x = features(0)["conv1"]
        self.assertGreater(ml.style_loss(x[..., ::-1], x), 1e-3)

    def test_gram_matrices_by_loops(self) -> None:
        x, y = features(0)["conv1"], features(1)["conv1"][:, :3, :2]
        total = 0.0
        for image in range(2):
            for a, b in product(range(5), range(5)):
                grams = [
                    sum(z[image, r, c, a] * z[image, r, c, b] for r, c in np.ndindex(z.shape[1:3])) / z[image].size
                    for z in (x, y)
                ]
                total += (grams[0] - grams[1]) ** 2
        self.assertAlmostEqual(ml.style_loss(x, y), total / (2 * 5 * 5), 15)

    @parameterized.expand(MODES)
    def test_layouts_agree(self, mode: str) -> None:
        x, y = features(0), features(1)
        last = evaluate_pair(mode, ml.style_loss, x, y)
        first = evaluate_pair(mode, ml.style_loss, other_layout(x), other_layout(y), channels_first=True)
        self.assertAlmostEqual(float(first[0]), float(last[0]), 14)
        for name, gradient in other_layout(last[1]).items():
            np.testing.assert_allclose(first[1][name], gradient, rtol=1e-11, atol=1e-16)

    def test_other_sizes_but_not_other_channels(self) -> None:
        x = features(0)["conv1"]
        with self.assertRaisesRegex(ValueError, r"agree in all axes but rows and columns, got \(2, 4, 3, 5\)"):
            ml.style_loss(x, x[..., :4])
        with self.assertRaisesRegex(ValueError, r"must have shape \(…, channels, rows, columns\)"):
            ml.style_loss(x[0, 0], x[0, 0], channels_first=True)


def contextual_by_loops(x: np.ndarray, y: np.ndarray, h: float, epsilon: float = 1e-5) -> float:
    """Equations (2) to (4) and (6) of the paper for one image: x and y are positions × channels."""
    centre = sum(y) / len(y)
    d = np.empty((len(x), len(y)))
    for i, j in np.ndindex(*d.shape):
        a, b = x[i] - centre, y[j] - centre
        lengths = math.sqrt(a @ a) * math.sqrt(b @ b)
        d[i, j] = 1.0 - (a @ b) / lengths if lengths > 0.0 else 1.0
    w = np.empty_like(d)
    for i, j in np.ndindex(*d.shape):
        w[i, j] = math.exp((1.0 - d[i, j] / (min(d[i]) + epsilon)) / h)
    total = 0.0
    for j in range(len(y)):
        total += max(w[i, j] / sum(w[i]) for i in range(len(x)))
    return -math.log(total / len(y))


class Contextual(unittest.TestCase):
    @parameterized.expand(product(MODES, (0.1, 1.0)))
    def test_the_paper_in_loops(self, mode: str, band_width: float) -> None:
        x, y = features(0)["conv1"], features(1)["conv1"][:, :3, :2]
        expected = [
            contextual_by_loops(a.reshape(-1, 5), b.reshape(-1, 5), band_width) for a, b in zip(x, y, strict=True)
        ]
        value = evaluate(mode, partial(ml.contextual_loss, band_width=band_width), x, y)
        self.assertAlmostEqual(float(value), sum(expected) / 2, 11)

    def test_place_does_not_count(self) -> None:
        x = features(0)["conv1"]
        moved = np.random.default_rng(2).permutation(x.reshape(2, 12, 5), axis=1).reshape(2, 2, 6, 5)
        self.assertAlmostEqual(ml.contextual_loss(moved, x), 0.0, 12)
        self.assertLess(np.abs(ml.contextual_loss_gradient(moved, x)).max(), 1e-6)
        self.assertGreater(ml.contextual_loss(features(1)["conv1"], x), 0.1)

    @parameterized.expand(product(MODES, ("float64", "float32")))
    def test_features_of_nothing_but_zeros(self, mode: str, dtype: str) -> None:
        ones, zeros = np.ones((2, 5, 4, 3)), np.zeros((2, 5, 4, 3))
        for x, y in ((ones, zeros), (zeros, ones), (zeros, zeros), (ones, ones)):
            value, gradient = evaluate_pair(mode, ml.contextual_loss, x, y, dtype=dtype)
            # everything is as far as everything else: each target is met with a share of one in twenty
            self.assertAlmostEqual(float(value), math.log(20.0), 5)
            self.assertTrue(np.isfinite(gradient).all())

    def test_vectors_too_short_for_a_derivative(self) -> None:
        x, y = (1e-30 * features(seed)["conv1"].astype(np.float32) for seed in range(2))
        value, gradient = value_and_gradient(ml.contextual_loss)(x, y)
        self.assertAlmostEqual(value, math.log(12.0), 5)
        self.assertFalse(gradient.any())

    @parameterized.expand(MODES)
    def test_samples_are_even_steps(self, mode: str) -> None:
        x, y = features(0)["conv1"], features(1)["conv1"]
        places = [0, 2, 4, 7, 9]  # ⌊k 12 / 5⌋
        few = [z.reshape(2, 12, 5)[:, places, None] for z in (x, y)]
        expected, slope = evaluate_pair("numpy", ml.contextual_loss, *few)
        value, gradient = evaluate_pair(mode, ml.contextual_loss, x, y, max_samples=5)
        self.assertAlmostEqual(float(value), float(expected), 11)
        np.testing.assert_allclose(gradient.reshape(2, 12, 5)[:, places], slope[:, :, 0], rtol=1e-8, atol=1e-12)
        others = np.delete(gradient.reshape(2, 12, 5), places, axis=1)
        self.assertFalse(others.any())

    @parameterized.expand(MODES)
    def test_some_images_at_a_time(self, mode: str) -> None:
        x, y = features(0, batch=5)["conv1"], features(1, batch=5)["conv1"]
        expected = evaluate_pair("numpy", ml.contextual_loss, x, y)
        with limits.changed(positions=300):  # two images of 12 × 12
            value, gradient = evaluate_pair(mode, ml.contextual_loss, x, y)
        self.assertAlmostEqual(float(value), float(expected[0]), 12)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-8, atol=1e-12)

    def test_options_out_of_their_domain(self) -> None:
        x = features(0)["conv1"]
        for options in ({"band_width": 0.0}, {"band_width": np.ones(2)}, {"max_samples": 0}, {"max_samples": 1.5}):
            with self.assertRaisesRegex(ValueError, next(iter(options))):
                ml.contextual_loss(x, x, **options)


def network(xp: Any, params: Any, images: Any) -> dict[str, Any]:
    """Two layers of 2 × 2 convolutions, written with slices, with the same names in every library."""

    def convolve(x: Any, kernel: Any) -> Any:
        parts = [
            xp.matmul(x[:, i : x.shape[1] - 1 + i, j : x.shape[2] - 1 + j], kernel[i, j])
            for i, j in product(range(2), range(2))
        ]
        return xp.tanh(sum(parts[1:], parts[0]))

    first = convolve(images, params["first"])
    return {"conv1": first, "conv2": convolve(first, params["second"]), "unused": xp.sum(first)}


class Convolutions(torch.nn.Module):
    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        for name, value in params.items():
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, images: Any) -> dict[str, Any]:
        return network(torch, {"first": self.first, "second": self.second}, images)


PARAMS = {
    "first": np.random.default_rng(3).standard_normal((2, 2, 3, 4)),
    "second": np.random.default_rng(4).standard_normal((2, 2, 4, 5)),
}
LAYERS = {"conv1": 0.5, "conv2": 2.0}
WEIGHTS = {"content_weight": 1.0, "style_weight": 3.0, "contextual_weight": 0.7}


class Perceptual(unittest.TestCase):
    @parameterized.expand(EAGER)
    def test_the_sum_of_the_three(self, mode: str) -> None:
        x, y = features(0), features(1)
        value = evaluate(mode, lambda p, t: PerceptualLoss(**WEIGHTS)(features_pred=p, features_target=t), x, y)
        expected = ml.feature_reconstruction_loss(x, y) + 3.0 * ml.style_loss(x, y) + 0.7 * ml.contextual_loss(x, y)
        self.assertAlmostEqual(float(value), expected, 11)
        gradient = evaluate(
            mode,
            lambda p, t: PerceptualLoss(**WEIGHTS).gradient(features_pred=p, features_target=t, upstream=2.0),
            x,
            y,
        )
        for name in x:
            parts = [
                getattr(ml, f"{loss}_gradient")(x, y)[name]
                for loss in ("feature_reconstruction_loss", "style_loss", "contextual_loss")
            ]
            np.testing.assert_allclose(
                gradient[name], 2.0 * (parts[0] + 3.0 * parts[1] + 0.7 * parts[2]), rtol=1e-8, atol=1e-12
            )

    def test_layer_weights_choose_layers(self) -> None:
        x, y = features(0), features(1)
        loss = PerceptualLoss(layer_weights={"conv2": 4.0}, style_weight=1.0)
        value, gradient = loss.value_and_gradient(features_pred=x, features_target=y)
        alone = PerceptualLoss(style_weight=1.0)
        only = {"features_pred": x["conv2"], "features_target": y["conv2"]}
        self.assertAlmostEqual(value, 4.0 * alone(**only), 12)
        np.testing.assert_allclose(gradient["conv2"], 4.0 * alone.gradient(**only), rtol=1e-12)
        np.testing.assert_array_equal(gradient["conv1"], np.zeros_like(x["conv1"]))
        for function in (
            PerceptualLoss(layer_weights={"conv3": 1.0}),
            PerceptualLoss(layer_weights={"conv3": 1.0}).gradient,
        ):
            with self.assertRaisesRegex(KeyError, "predictions lack the layer 'conv3', which layer_weights have"):
                function(features_pred=x, features_target=y)

    @parameterized.expand(["jax", "torch"])
    def test_gradient_through_a_compiled_extractor(self, library: str) -> None:
        generator = np.random.default_rng(5)
        images, targets = generator.standard_normal((2, 2, 6, 7, 3))
        with jax.enable_x64(True):
            params = {name: convert(x, library) for name, x in PARAMS.items()}
            x, y = convert(images, library), convert(targets, library)
            if library == "jax":
                model: Any = JaxModel(lambda params, data: network(jnp, params, data["images"]))
            else:
                model = TorchModel(Convolutions(params))
            loss = PerceptualLoss(model, LAYERS, **WEIGHTS, max_contextual_samples=20, extractor_params=params)
            value, gradient = loss.value_and_gradient(x, y)
            self.assertAlmostEqual(float(loss(x, y)), float(value), 13)

            def whole(images: Any) -> Any:
                xp = jnp if library == "jax" else torch
                extractor = partial(network, xp, params)
                return PerceptualLoss(extractor, LAYERS, **WEIGHTS, max_contextual_samples=20)(images, y)

            if library == "jax":
                expected_value, expected = jax.jit(jax.value_and_grad(whole))(x)
            else:
                x.requires_grad_(True)
                expected_value = whole(x)
                (expected,) = torch.autograd.grad(expected_value, x)
            self.assertAlmostEqual(float(value), float(to_numpy(expected_value)), 12)
            expected = to_numpy(expected)
            self.assertGreater(np.abs(expected).max(), 1e-3)
            np.testing.assert_allclose(to_numpy(gradient), expected, rtol=1e-9, atol=1e-11)
            half = loss.gradient(convert(images, library), y, upstream=0.5)
            np.testing.assert_allclose(to_numpy(half), 0.5 * expected, rtol=1e-9, atol=1e-11)

    def test_a_model_whose_evaluate_takes_no_wrt_gets_images_as_a_parameter(self) -> None:
        class Compiled:
            def evaluate(self, params: Any, data: Any, output_gradients: Any = None) -> Any:
                outputs = {"scaled": params["picture"] * data["scale"]}
                if output_gradients is None:
                    return outputs
                return outputs, {"picture": output_gradients["scaled"] * data["scale"]}

        loss = PerceptualLoss(Compiled(), extractor_params={"scale": np.array(3.0)}, image_name="picture")
        value, gradient = loss.value_and_gradient(np.full((1, 1, 1, 1), 2.0), np.ones((1, 1, 1, 1)))
        self.assertEqual((float(value), gradient.item()), (9.0, 18.0))

    def test_a_plain_function_gives_values_only(self) -> None:
        images, targets = np.random.default_rng(6).standard_normal((2, 1, 4, 4, 2))
        loss = PerceptualLoss(lambda images: [images, images[:, 1:]], style_weight=1.0)
        self.assertGreater(loss(images, targets), 0.0)
        with self.assertRaisesRegex(TypeError, "needs an extractor that is a compiled model"):
            loss.gradient(images, targets)

    def test_what_is_not_given(self) -> None:
        x, images = features(0), np.ones((1, 4, 4, 3))
        for function in (PerceptualLoss(), PerceptualLoss().gradient):
            with self.assertRaisesRegex(ValueError, "needs pred_images or features_pred"):
                function()
            with self.assertRaisesRegex(ValueError, "needs target_images or features_target"):
                function(features_pred=x)
            with self.assertRaisesRegex(ValueError, "without a feature_extractor needs features_pred"):
                function(images, images)
        for options in ({"content_weight": -1.0}, {"style_weight": -0.1}, {"max_contextual_samples": 0}):
            with self.assertRaisesRegex(ValueError, next(iter(options)).removeprefix("max_contextual_").split("_")[0]):
                PerceptualLoss(**options)
        with self.assertRaisesRegex(TypeError, "style_weight"):
            PerceptualLoss(style_weight="1")

    def test_scheduled(self) -> None:
        model = JaxModel(lambda params, data: network(jnp, params, data["images"]))
        params = {name: jnp.asarray(x) for name, x in PARAMS.items()}
        loss = PerceptualLoss(model, LAYERS, extractor_params=params)
        images, targets = jnp.asarray(np.random.default_rng(7).standard_normal((2, 1, 5, 5, 3)))
        scheduled = ScheduledLoss(loss_fn=loss, schedule_fn=lambda step: min(1.0, step / 1000.0))
        self.assertAlmostEqual(float(scheduled(images, targets, step=500)), 0.5 * float(loss(images, targets)), 6)
        np.testing.assert_allclose(
            scheduled.gradient(images, targets, step=500), 0.5 * loss.gradient(images, targets), rtol=1e-5
        )
        x, y = features(0), features(1)
        given = {"features_pred": x, "features_target": y}
        gradient = ScheduledLoss(PerceptualLoss(), lambda step: 0.25).gradient(**given, step=1)
        np.testing.assert_allclose(gradient["conv2"], 0.25 * PerceptualLoss().gradient(**given)["conv2"], rtol=1e-12)
