"""What no law says about regularization: nestings of every kind, mixed types, and which leaf is wrong."""

from __future__ import annotations

import math
import unittest
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from modes import MODES, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    l1_regularization,
    l1_regularization_gradient,
    l2_regularization,
    l2_regularization_gradient,
    value_and_gradient,
)

BOTH = [(l1_regularization, l1_regularization_gradient), (l2_regularization, l2_regularization_gradient)]


class Layer(NamedTuple):
    weight: Any
    bias: Any


class Nestings(unittest.TestCase):
    """Σ |w| = 10 and Σ w² = 30, however the arrays are nested."""

    ARRAYS = (np.array([[1.0, -2.0]]), np.array([3.0]), np.array(-4.0))

    @parameterized.expand(
        [
            ("list", lambda a, b, c: [a, b, c]),
            ("tuple", lambda a, b, c: (a, b, c)),
            ("dict", lambda a, b, c: {"a": a, "b": b, "c": c}),
            ("named tuple", lambda a, b, c: [Layer(a, b), {"c": c}]),
            ("deep", lambda a, b, c: {"net": [{"w": a}, ({"b": b, "none": []},)], "c": c}),
            ("empty branches", lambda a, b, c: [[], {}, a, (), [b, [c]]]),
        ]
    )
    def test_structure_is_kept(self, name: str, nest: Any) -> None:
        for convert in (np.asarray, jnp.asarray, torch.tensor):
            params = nest(*map(convert, self.ARRAYS))
            value, gradient = value_and_gradient(l1_regularization)(params, lambda_reg=0.5)
            self.assertEqual(float(value), 5.0)
            self._assert_equal(gradient, nest(*(convert(0.5 * np.sign(x)) for x in self.ARRAYS)))
            value, gradient = value_and_gradient(l2_regularization)(params, lambda_reg=0.5, upstream=4.0)
            self.assertEqual(float(value), 7.5)
            self._assert_equal(gradient, nest(*(convert(2.0 * x) for x in self.ARRAYS)))

    def _assert_equal(self, found: Any, expected: Any) -> None:
        self.assertEqual(jax.tree.structure(found), jax.tree.structure(expected))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(x, y)

    def test_an_ordered_dict_keeps_its_order(self) -> None:
        gradient = l2_regularization_gradient(OrderedDict(z=np.ones(1), a=np.ones(2)))
        self.assertEqual(list(gradient), ["z", "a"])

    def test_one_array_under_two_keys(self) -> None:
        w = np.array([1.0, -2.0])
        value, gradient = value_and_gradient(l2_regularization)({"tied": w, "also": w}, lambda_reg=1.0)
        self.assertEqual(float(value), 5.0)
        self.assertFalse(np.shares_memory(gradient["tied"], gradient["also"]))

    def test_parameters_of_a_module(self) -> None:
        module = torch.nn.Linear(3, 2)
        params = dict(module.named_parameters())
        (l1_regularization(params, lambda_reg=0.5) + l2_regularization(params, lambda_reg=0.5)).backward()
        for name, gradient in l1_regularization_gradient(params, lambda_reg=0.5).items():
            expected = gradient + l2_regularization_gradient(params, lambda_reg=0.5)[name]
            torch.testing.assert_close(params[name].grad, expected.detach())


class Numbers(unittest.TestCase):
    """The kink, the ends of the floating types, and mixed types."""

    @parameterized.expand([(mode,) for mode in MODES])
    def test_zero(self, mode: str) -> None:
        value, gradient = evaluate_pair(mode, l1_regularization, np.array([0.0, -0.0]))
        self.assertEqual(float(value), 0.0)
        np.testing.assert_array_equal(gradient, [0.0, 0.0])

    @parameterized.expand([(mode,) for mode in MODES])
    def test_infinite_parameters(self, mode: str) -> None:
        w = np.array([math.inf, -math.inf, 1.0])
        value, gradient = evaluate_pair(mode, l1_regularization, w, lambda_reg=0.5)
        self.assertEqual(float(value), math.inf)
        np.testing.assert_array_equal(gradient, [0.5, -0.5, 0.5])

    @parameterized.expand([("numpy", np.ones(4096, np.float16)), ("torch", torch.ones(4096, dtype=torch.bfloat16))])
    def test_half_precision_is_summed_in_single(self, name: str, w: Any) -> None:
        self.assertEqual(float(l1_regularization([w, w], lambda_reg=1.0)), 8192.0)
        self.assertEqual(l1_regularization_gradient([w])[0].dtype, w.dtype)

    def test_mixed_types(self) -> None:
        params = {"half": np.array([1.0], np.float16), "single": np.array([2.0], np.float32), "double": np.array([3.0])}
        for (loss, gradient), expected in zip(BOTH, (6.0, 7.0), strict=True):
            self.assertEqual(float(loss(params, lambda_reg=1.0)), expected)
            for name, slope in gradient(params).items():
                self.assertEqual(slope.dtype, params[name].dtype)

    def test_lambda_of_zero(self) -> None:
        for loss, gradient in BOTH:
            self.assertEqual(float(loss([np.ones(3)], lambda_reg=0.0)), 0.0)
            self.assertFalse(np.any(gradient([np.ones(3)], lambda_reg=0.0)[0]))

    def test_traced_lambda(self) -> None:
        found = jax.jit(lambda strength: l2_regularization([jnp.ones(3)], lambda_reg=strength))(2.0)
        self.assertEqual(float(found), 3.0)


class Messages(unittest.TestCase):
    """What is wrong, and where."""

    @parameterized.expand(
        [
            ("a list of numbers", {"w": [1.0]}, TypeError, r"params\['w'\]\[0\] must be an array .* got float"),
            ("None", {"w": np.ones(1), "b": None}, TypeError, r"params\['b'\] must be an array .* got NoneType"),
            ("integers", [np.ones(1), np.array([1])], TypeError, r"params\[1\] must have a real .* got int64"),
            ("complex", {"a": {"b": np.array([1j])}}, TypeError, r"params\['a'\]\['b'\] must have a real floating"),
            ("two libraries", {"a": np.ones(1), "b": torch.ones(1)}, TypeError, r"params\['b'\] is from torch"),
            ("no array", {"a": [], "b": {}}, ValueError, "params holds no array to regularize"),
            ("nothing", {}, ValueError, "params holds no array to regularize"),
            ("a string", "weights", TypeError, "params must be an array .* got str"),
        ]
    )
    def test_params(self, name: str, params: Any, error: type[Exception], message: str) -> None:
        for loss, gradient in BOTH:
            for function in (loss, gradient, value_and_gradient(loss)):
                with self.assertRaisesRegex(error, message):
                    function(params)

    @parameterized.expand(
        [
            (-0.1, ValueError, "lambda_reg must be ≥ 0, got -0.1"),
            (math.nan, ValueError, "lambda_reg must be ≥ 0, got nan"),
            ("0.1", TypeError, "lambda_reg must be a number ≥ 0, got '0.1'"),
            (np.ones(3), ValueError, r"lambda_reg must be one number for all parameters, got an array of shape \(3,\)"),
        ]
    )
    def test_lambda(self, strength: Any, error: type[Exception], message: str) -> None:
        for function in (*BOTH[0], *BOTH[1]):
            with self.assertRaisesRegex(error, message):
                function([np.ones(3)], lambda_reg=strength)

    def test_upstream(self) -> None:
        with self.assertRaisesRegex(ValueError, r"upstream must be a scalar .* got \(2,\)"):
            l1_regularization_gradient([np.ones(2)], upstream=np.ones(2))
