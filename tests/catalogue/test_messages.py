"""What a caller is told about arrays that hold no numbers, numbers of threads, backends; and what causes no warning."""

import importlib.metadata
import os
import unittest
import warnings
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
from cases import DRAWN, Case, label
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import value_and_gradient
from mithril_losses.backends import get_backend, threads
from mithril_losses.backends.numpy import NumpyBackend

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
                # cross-entropy calls its first argument by what all of its targets must fit
                named = "predictions" if case.pair.name == "cross_entropy_with_logits" and name == "logits" else name
                for function in functions:
                    with self.subTest(name=name, kind=kind), self.assertRaisesRegex(TypeError, f"^{named} must "):
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
