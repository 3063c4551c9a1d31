"""What a caller is told about arrays that hold no numbers, numbers of threads, backends; and what causes no warning."""

import functools
import importlib.metadata
import math
import os
import unittest
import warnings
from typing import Any
from unittest import mock

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from cases import DRAWN, Case, label
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import value_and_gradient
from mithril_losses.backends import get_backend, threads
from mithril_losses.backends.numpy import NumpyBackend
from mithril_losses.domains import FLAG, NON_NEGATIVE, REAL

RECORD = [("a", np.float32), ("b", np.int32)]
NOT_NUMBERS = {
    "text of any length": lambda x: np.full(x.shape, "1", np.dtypes.StringDType()),
    "text": lambda x: np.full(x.shape, "1"),
    "bytes": lambda x: np.full(x.shape, b"1"),
    "records": lambda x: np.rec.array(np.zeros(x.shape, RECORD)),
    "structures": lambda x: np.zeros(x.shape, RECORD),
    "dates": lambda x: np.zeros(x.shape, "M8[s]"),
    "objects": lambda x: x.astype(object),
    "complex": lambda x: x.astype(complex),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),  # which JAX and PyTorch have and NumPy has not
}


class ArraysWithoutNumbers(unittest.TestCase):
    @parameterized.expand([(case,) for case in DRAWN], name_func=label)
    def test_the_argument_is_named(self, case: Case) -> None:
        functions = case.pair.value, case.pair.gradient, value_and_gradient(case.pair.value)
        for name, x in case.arrays.items():
            if not isinstance(x, np.ndarray):
                continue  # maps of features: each has its own test
            for kind, make in NOT_NUMBERS.items():
                arguments: dict[str, Any] = {**case.arrays, name: make(x)}
                for function in functions:
                    with self.subTest(name=name, kind=kind), self.assertRaisesRegex(TypeError, f"^{name} must "):
                        function(*arguments.values(), **case.options)

    @parameterized.expand([("weights",), ("normalizer",), ("delta",)])
    def test_an_option_is_named(self, name: str) -> None:
        p = np.ones((2, 3))
        for kind, make in NOT_NUMBERS.items():
            option = make(p if name == "weights" else np.ones(()))
            for function in (ml.huber_loss, ml.huber_loss_gradient, value_and_gradient(ml.huber_loss)):
                with self.subTest(kind=kind), self.assertRaisesRegex(TypeError, f"^{name} must "):
                    function(p, p, **{name: option})

    def test_a_backend_takes_them_as_they_are(self) -> None:
        text = np.array(["a", "b"], np.dtypes.StringDType())
        np.testing.assert_array_equal(NumpyBackend().array(text), text)

    def test_a_field_of_records_is_an_array(self) -> None:
        records = np.rec.array(np.ones((2, 3), RECORD))
        self.assertEqual(float(ml.mse_loss(records["a"], np.zeros((2, 3), np.float32))), 1.0)


class UnknownKeywords(unittest.TestCase):
    @parameterized.expand(
        [
            (ml.huber_loss, {"detla": 1.0}, "^huber_loss has no option 'detla'; did you mean 'delta'"),
            (ml.huber_loss, {"redcution": "sum"}, "^huber_loss has .*; did you mean 'reduction'"),
            (ml.dice_loss, {"smoth": 1.0}, "^dice_loss has .* 'smoth'; did you mean 'smooth'"),
            (ml.huber_loss, {"targets": np.ones(2)}, "^huber_loss.* got multiple values for argument 'targets'"),
            (ml.vanilla_discriminator_loss, {"epslion": 1e-3}, "^vanilla_discriminator_loss has .*'epsilon'"),
            (ml.info_nce_loss, {"temprature": 1.0}, "^info_nce_loss has .* did you mean 'temperature'"),
        ]
    )
    def test_the_loss_and_the_nearest_name_are_named(self, loss: Any, keywords: dict[str, Any], message: str) -> None:
        x = np.ones(2)
        for function in (loss, ml.find_loss(loss).gradient, value_and_gradient(loss)):
            with self.assertRaisesRegex(TypeError, message):
                function(x, x, **keywords)

    def test_in_a_row_of_boxes(self) -> None:
        boxes = np.ones((2, 4))
        for function in (ml.iou_loss, ml.iou_loss_gradient, value_and_gradient(ml.iou_loss)):
            with self.assertRaisesRegex(TypeError, "^iou_loss has .* 'wights'; did you mean 'weights'"):
                function(boxes, boxes, wights=1.0)

    @parameterized.expand([(np.asarray,), (jnp.asarray,), (torch.tensor,)])
    def test_of_large_arrays_and_other_libraries(self, convert: Any) -> None:
        for x in (convert(np.ones(3)), convert(np.ones(1 << 17))):
            with self.assertRaisesRegex(TypeError, "^mse_loss has no option 'wights'; did you mean 'weights'"):
                value_and_gradient(ml.mse_loss)(x, x, wights=1.0)
            for function in (ml.mse_loss_gradient, value_and_gradient(ml.mse_loss)):
                with self.assertRaisesRegex(
                    TypeError, "^mse_loss has no option 'wrt': the gradient is wrt predictions"
                ):
                    function(x, x, wrt="predictions")

    def test_a_loss_takes_no_upstream(self) -> None:
        for loss in (ml.mse_loss, ml.dice_loss):
            with self.assertRaisesRegex(TypeError, f"^{loss.__name__} takes no upstream"):
                loss(np.ones(2), np.ones(2), upstream=1.0)


class DeclaredOptions(unittest.TestCase):
    @parameterized.expand(
        [
            (ml.huber_loss, {"delta": -1.0}),
            (ml.binary_cross_entropy_with_logits, {"pos_weight": -1.0}),
            (ml.focal_loss_with_logits, {"alpha": 2.0}),
            (ml.psnr_loss, {"max_value": 0.0}),
            (ml.binary_cross_entropy, {"epsilon": 0.0}),
            (ml.dice_loss, {"smooth": -1.0}),
        ]
    )
    def test_an_array_is_checked_by_jax(self, loss: Any, options: dict[str, float]) -> None:
        ((name, value),) = options.items()
        x = jnp.asarray([0.0, 1.0])
        for function in (loss, ml.find_loss(loss).gradient, value_and_gradient(loss)):
            with self.assertRaisesRegex(ValueError, f"^{name} must be "):
                function(x, x, **{name: jnp.asarray(value)})

    @parameterized.expand([(np.asarray,), (jnp.asarray,), (torch.tensor,)])
    def test_weights_of_points_are_not_negative(self, convert: Any) -> None:
        points, weights = convert(np.ones((1, 3, 2))), convert(-np.ones((1, 3)))
        for loss in (ml.chamfer_distance, ml.sinkhorn_divergence):
            for function in (loss, ml.find_loss(loss).gradient, value_and_gradient(loss)):
                with self.assertRaisesRegex(ValueError, "^pred_weights must be ≥ 0"):
                    function(points, points, pred_weights=weights)
        with self.assertRaisesRegex(TypeError, "^pred_weights must be an array, one number ≥ 0 per point"):
            ml.chamfer_distance(points, points, pred_weights=[1.0, 1.0, 1.0])

    def test_of_a_loss_of_ones_own(self) -> None:
        given = []

        @ml.unreduced(x=REAL, shift=NON_NEGATIVE, doubled=FLAG)
        def _shifted(x: Any, shift: float, doubled: bool, wanted: Any) -> ml.Losses:
            given.append(shift)
            return ml.Losses(x + shift, lambda: {"x": np.ones_like(x)})

        x = np.ones(2)
        for function in (_shifted.value, _shifted.gradient, _shifted.both):
            function(x, 1.0, False)
            function(x, 1, False)
            for shift in (-1.0, True, math.nan, np.array(-1.0)):
                with self.subTest(shift=shift), self.assertRaisesRegex((TypeError, ValueError), "^shift must be "):
                    function(x, shift, False)
            for doubled in (0, 0.0, None):
                with self.subTest(doubled=doubled), self.assertRaisesRegex(TypeError, "^doubled must be True or False"):
                    function(x, 1.0, doubled)
        self.assertEqual([*map(type, given)], [float] * 6)


class Declarations(unittest.TestCase):
    @parameterized.expand([(1, 2), (2, 1), (2, 3), (3, 2)])
    def test_slopes_are_as_many_as_declared(self, declared: int, returned: int) -> None:
        @ml.elementwise(x=REAL, y=REAL, z=REAL, slopes=declared)
        def _terms(xp: Any, x: Any, y: Any, z: Any) -> Any:
            return x * y * z, (y, x, z)[:returned] if returned > 1 else y

        def sums(x: Any, y: Any, z: Any, **reduction: Any) -> Any:
            return _terms.value(x, y, z, **reduction)

        @ml.gradient_of(sums, terms=_terms)
        def sums_gradient(x: Any, y: Any, z: Any, **reduction: Any) -> Any:
            return _terms.gradient(x, y, z, **reduction)

        self.addCleanup(ml.unregister, "sums")
        wanted = "one slope" if declared == 1 else f"a tuple of {declared} slopes"
        for rows in (2, 1 << 16):
            x = np.ones((rows, 2))
            for function in (sums_gradient, value_and_gradient(sums)):
                with self.assertRaisesRegex(TypeError, f"^_terms must return {wanted} .wrt x"):
                    function(x, x, x)

    def test_arrays_come_before_options(self) -> None:
        def _terms(xp: Any, x: Any, scale: float, y: Any) -> Any:
            return scale * x * y, scale * y

        def _losses(x: Any, scale: float, y: Any, wanted: Any) -> Any:
            return ml.Losses(scale * x * y, lambda: {"x": scale * y})

        for template, function in ((ml.elementwise, _terms), (ml.unreduced, _losses)):
            with self.assertRaisesRegex(TypeError, r"must take its arrays \(x, y\) before its options"):
                template(x=REAL, scale=NON_NEGATIVE, y=REAL)(function)

    def test_a_loss_has_a_name(self) -> None:
        with self.assertRaisesRegex(TypeError, "^a loss is a function with a name of its own, .* functools.partial"):
            ml.gradient_of(functools.partial(ml.huber_loss, delta=2.0))


class WhatIsLegal(unittest.TestCase):
    @parameterized.expand(
        [
            ({"normalizer": np.array(-12.0)}, "normalizer must not be negative, got -12.0"),
            ({"normalizer": np.array(math.nan)}, "normalizer must not be NaN"),
            ({"normalizer": math.nan}, "normalizer must not be NaN"),
            ({"normalizer": True}, "normalizer must be a number or an array, got True"),
            ({"weights": 2.0}, "weights must be an array .*, got float"),
            ({"delta": math.inf}, "delta must be > 0, and finite, got inf"),
            ({"delta": np.array(math.inf)}, "delta must be > 0, and finite, got array"),
            ({"delta": math.nan}, "delta must be > 0, got nan"),
        ]
    )
    def test_is_said(self, keywords: dict[str, Any], message: str) -> None:
        p = np.ones(2)
        for convert in (np.asarray, jnp.asarray, torch.tensor):
            own = {name: convert(x) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
            for function in (ml.huber_loss, ml.huber_loss_gradient, value_and_gradient(ml.huber_loss)):
                with self.assertRaisesRegex((TypeError, ValueError), f"^{message.removesuffix('array')}"):
                    function(convert(p), convert(p), **own)

    def test_of_an_upstream(self) -> None:
        for function in (ml.huber_loss_gradient, value_and_gradient(ml.huber_loss)):
            for upstream in (None, [1.0], True):
                with self.assertRaisesRegex(TypeError, "^upstream must be a number or an array, got "):
                    function(np.ones(2), np.ones(2), upstream=upstream)

    def test_of_classes(self) -> None:
        logits, weights = np.ones((2, 2)), {0: 1.0, 1: 2.0}
        loss = ml.cross_entropy_with_logits
        for targets in (np.array([0, 1]), np.eye(2)):
            for function in (loss, ml.cross_entropy_with_logits_gradient, value_and_gradient(loss)):
                for class_weights in (weights, 2.0, iter([1.0, 2.0]), weights.values(), "12"):
                    with self.assertRaisesRegex(TypeError, "^class_weights must be an array or a sequence of numbers"):
                        function(logits, targets, class_weights=class_weights)
                with self.assertRaisesRegex(ValueError, r"^label_smoothing must be one number, .* shape \(2,\)"):
                    function(logits, targets, label_smoothing=np.array([0.1, 0.2]))
                function(logits, targets, class_weights=(1.0, 2.0), label_smoothing=np.array(0.1))

    def test_an_argument_is_called_by_its_name(self) -> None:
        with self.assertRaisesRegex(ValueError, "^pos_weight of shape .* does not broadcast to logits of shape"):
            ml.binary_cross_entropy_with_logits(np.ones(2), np.ones(2), pos_weight=np.ones(7))
        loss = ml.cross_entropy_with_logits
        for function in (loss, ml.cross_entropy_with_logits_gradient, value_and_gradient(loss)):
            for rows in (2, 1 << 16):
                with self.assertRaisesRegex(TypeError, "^logits must have a real floating dtype"):
                    function(np.ones((rows, 3), np.int64), np.zeros(rows, np.int64))
                with self.assertRaisesRegex(ValueError, "for logits of shape"):
                    function(np.ones((rows, 3)), np.zeros((rows, 1), np.int64))


class SumsBeyondHalfPrecision(unittest.TestCase):
    @parameterized.expand([("small", 8), ("large", 1 << 18)])
    def test_are_infinite_without_a_warning(self, size: str, rows: int) -> None:
        far = np.full((rows, 2), 6e4, np.float16)
        logits = far * np.array([1.0, 0.0], np.float16)
        for loss, arguments in (
            (ml.mae_loss, (far, 0 * far)),
            (ml.huber_loss, (far, 0 * far)),
            (ml.cross_entropy_with_logits, (logits, np.ones(rows, np.int64))),
        ):
            for options in ({"reduction": "sum"}, {"normalizer": 0.5}):
                with self.subTest(loss=loss.__name__, **options), warnings.catch_warnings():
                    warnings.simplefilter("error")
                    value, gradient = value_and_gradient(loss)(*arguments, **options)
                    self.assertEqual((value.dtype, float(value)), (np.float16, np.inf))
                    self.assertTrue(np.isfinite(gradient).all())


class ThreadCounts(unittest.TestCase):
    @parameterized.expand([(np.int64(2),), (np.uint8(2),), (2,)])
    def test_an_integer_of_any_type(self, count: Any) -> None:
        self.assertIs(type(threads.thread_count(count)), int)
        value, _ = value_and_gradient(ml.mae_loss, threads=count)(np.ones(3), np.zeros(3))
        self.assertEqual(float(value), 1.0)

    @parameterized.expand([(True,), (np.True_,), (0,), (np.int64(-1),), (2.0,), (np.float32(2),), ("2",), ([2],)])
    def test_anything_else_is_refused(self, count: Any) -> None:
        with self.assertRaisesRegex(ValueError, "^threads must be a positive integer, got "):
            value_and_gradient(ml.mae_loss, threads=count)

    @parameterized.expand(
        [
            ("arabic", "\N{ARABIC-INDIC DIGIT ONE}"),
            ("wide", "\N{FULLWIDTH DIGIT THREE}"),
            ("superscript", "\N{SUPERSCRIPT TWO}"),
            ("sign", "+2"),
            ("space", " 2"),
            ("gap", "1_0"),
            ("nothing", "0"),
            ("endless", "9" * 5000),
        ]
    )
    def test_the_variable_takes_plain_digits(self, case: str, text: str) -> None:
        with (
            mock.patch.dict(os.environ, {threads.VARIABLE: text}),
            self.assertRaisesRegex(ValueError, f"^{threads.VARIABLE} must be a positive integer, got '"),
        ):
            threads.thread_count()


class BackendsWithoutMetadata(unittest.TestCase):
    """A copy of the package inside another project has no entry points."""

    @parameterized.expand([("numpy",), ("jax",), ("torch",)])
    def test_the_three_are_found(self, name: str) -> None:
        with mock.patch("importlib.metadata.entry_points", return_value=()):
            self.assertEqual(get_backend(name).name, name)
            with self.assertRaisesRegex(ValueError, "available: jax, numpy, torch$"):
                get_backend("none of these")

    def test_what_is_registered_is_what_is_found_without(self) -> None:
        registered = importlib.metadata.entry_points(group="mithril_losses.backends")
        for name in ("numpy", "jax", "torch"):
            (entry,) = (each for each in registered if each.name == name)
            with mock.patch("importlib.metadata.entry_points", return_value=()):
                self.assertIs(type(get_backend(name)), entry.load())
