"""What no law says about regularization: nestings, mixed types, matrices of known penalty, and which leaf is wrong."""

from __future__ import annotations

import math
import tracemalloc
import unittest
from collections import OrderedDict
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from cases import convert as convert_to
from cases import to_numpy
from modes import EAGER, MODES, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    Objective,
    find_loss,
    l1_regularization,
    l1_regularization_gradient,
    l2_regularization,
    l2_regularization_gradient,
    limits,
    orthogonal_regularization,
    orthogonal_regularization_gradient,
    spectral_norm_regularization,
    spectral_norm_regularization_gradient,
    value_and_gradient,
)

MATRICES = [
    (orthogonal_regularization, orthogonal_regularization_gradient),
    (spectral_norm_regularization, spectral_norm_regularization_gradient),
]
BOTH = [(l1_regularization, l1_regularization_gradient), (l2_regularization, l2_regularization_gradient)]


class Layer(NamedTuple):
    weight: Any
    bias: Any


class LargeArrays(unittest.TestCase):
    """Large arrays go through a loop of their own, compiled or in blocks."""

    @parameterized.expand(
        [
            (loss.__name__, loss, compiled, dtype)
            for loss, _ in BOTH
            for compiled in (True, False)
            for dtype in ("float64", "float32", "float16")
        ]
    )
    def test_agree_with_small_ones(self, name: str, loss: Any, compiled: bool, dtype: str) -> None:
        large = np.random.default_rng(5).standard_normal((3, 100_003)).astype(dtype)
        large[0, 0], large[2, -1] = 0.0, -0.0
        params = {"large": large, "others": [large[:, :10].copy(), large[:, ::2]]}
        options: dict[str, Any] = {"lambda_reg": 0.3, "select": lambda path, w: w.shape[1] != 10}
        both = value_and_gradient(loss)
        with limits.changed(large=1 << 30):
            small, slopes = both(params, **options, upstream=-2.0)
        with limits.changed(compiled=compiled):
            value, gradient = both(params, **options, upstream=-2.0)
            alone = find_loss(loss).gradient(params, **options, upstream=-2.0)
            unscaled = both(params, **options)[1]
        np.testing.assert_allclose(value, small, rtol=1e-3 if dtype == "float16" else 1e-6)
        self.assertEqual(loss(params, **options), value)
        for found, other, half, expected in zip(
            *(jax.tree.leaves(x) for x in (gradient, alone, unscaled, slopes)), strict=True
        ):
            self.assertEqual(found.dtype, dtype)
            np.testing.assert_array_equal(found, other)
            np.testing.assert_allclose(found, expected, rtol=np.finfo(dtype).eps)
            # in half precision, twice a rounded number is rounded to another subnormal one
            unit = float(np.finfo(dtype).smallest_subnormal)
            np.testing.assert_allclose(-2.0 * half, found, rtol=1e-15, atol=2.0 * unit if dtype == "float16" else 0.0)

    @parameterized.expand([(loss.__name__, loss, compiled) for loss, _ in BOTH for compiled in (True, False)])
    def test_nan_and_infinity(self, name: str, loss: Any, compiled: bool) -> None:
        for wrong, total in ((math.nan, math.nan), (-math.inf, math.inf)):
            w = np.ones(200_000, np.float32)
            w[123_456] = wrong
            with limits.changed(compiled=compiled):
                value, gradient = value_and_gradient(loss)(w, lambda_reg=0.5)
            np.testing.assert_equal(float(value), total)
            slope = np.sign(wrong) if loss is l1_regularization else wrong
            np.testing.assert_array_equal(np.unique(gradient), sorted({0.5, 0.5 * slope}))

    @parameterized.expand([(loss.__name__, loss, size) for loss, _ in BOTH for size in (10, 100_000)])
    def test_what_flows_in_may_be_as_large_as_lambda_is_small(self, name: str, loss: Any, size: int) -> None:
        w = np.full(size, 0.5, np.float32)
        gradient = find_loss(loss).gradient(w, lambda_reg=1e-46, upstream=1e30)
        slope = 1.0 if loss is l1_regularization else 0.5
        np.testing.assert_allclose(gradient, 1e-16 * slope, rtol=1e-6)

    def test_in_the_graph(self) -> None:
        w = torch.linspace(-3.0, 2.0, 100_000, requires_grad=True)
        for loss, slope in ((l1_regularization, torch.sign), (l2_regularization, lambda x: x)):
            w.grad = None
            (3.0 * loss({"w": w}, lambda_reg=0.5)).backward()
            torch.testing.assert_close(w.grad, 1.5 * slope(w.detach()), rtol=1e-6, atol=0.0)

    def test_in_little_memory(self) -> None:
        w = np.ones(4_000_000, np.float32)
        both = value_and_gradient(l2_regularization)
        both(w)
        tracemalloc.start()
        both(w)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(peak, 1.05 * w.nbytes)


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


SHAPES = ((3, 5), (5, 3), (4, 4), (1, 6), (6, 1))


class Matrices(unittest.TestCase):
    """Singular values, PyTorch's norms, matrices whose penalty is known, and arrays of more axes."""

    @parameterized.expand([(mode, shape) for mode in MODES for shape in SHAPES])
    def test_singular_values(self, mode: str, shape: tuple[int, int]) -> None:
        w = np.random.default_rng(sum(shape)).standard_normal(shape)
        u, s, v = np.linalg.svd(w, full_matrices=False)
        value, gradient = evaluate_pair(mode, orthogonal_regularization, w, lambda_reg=0.25)
        np.testing.assert_allclose(value, 0.25 * np.sum((s**2 - 1.0) ** 2), rtol=1e-12)
        np.testing.assert_allclose(gradient, u * (s * (s**2 - 1.0)) @ v, rtol=1e-10, atol=1e-12)
        value, gradient = evaluate_pair(mode, spectral_norm_regularization, w, lambda_reg=0.25)
        np.testing.assert_allclose(value, 0.125 * s[0] ** 2, rtol=1e-12)
        np.testing.assert_allclose(gradient, 0.25 * s[0] * np.outer(u[:, 0], v[0]), rtol=1e-10, atol=1e-12)

    def test_torch(self) -> None:
        w = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        matrix = w.flatten(1)
        (0.5 * torch.linalg.matrix_norm(matrix, ord=2) ** 2).backward()
        torch.testing.assert_close(spectral_norm_regularization_gradient(w.detach(), lambda_reg=1.0), w.grad)
        gram = matrix @ matrix.T - torch.eye(4, dtype=torch.float64)
        (expected,) = torch.autograd.grad(torch.linalg.matrix_norm(gram) ** 2, w)
        torch.testing.assert_close(orthogonal_regularization_gradient(w.detach(), lambda_reg=1.0), expected)

    @parameterized.expand([(mode, shape) for mode in MODES for shape in SHAPES])
    def test_orthonormal(self, mode: str, shape: tuple[int, int]) -> None:
        high = np.linalg.qr(np.random.default_rng(2).standard_normal((max(shape), min(shape))))[0]
        w = high if shape[0] >= shape[1] else high.T
        value, gradient = evaluate_pair(mode, orthogonal_regularization, w, lambda_reg=1.0)
        self.assertLess(float(value), 1e-28)
        np.testing.assert_allclose(gradient, np.zeros(shape), atol=1e-14)
        # all singular values are 1, so that there is no derivative: what stands for it has the norm of one all the same
        gradient = evaluate(mode, spectral_norm_regularization_gradient, w, lambda_reg=1.0)
        self.assertAlmostEqual(float(evaluate(mode, spectral_norm_regularization, w, lambda_reg=1.0)), 0.5, 12)
        self.assertAlmostEqual(float(np.linalg.norm(gradient)), 1.0, 12)

    @parameterized.expand([(mode,) for mode in EAGER])
    def test_kernels_of_convolutions(self, mode: str) -> None:
        kernel = np.random.default_rng(3).standard_normal((2, 2, 3, 4))
        outputs_first = np.moveaxis(kernel, -1, 0)
        for loss in (orthogonal_regularization, spectral_norm_regularization):
            value, gradient = evaluate_pair(mode, loss, kernel, output_axis=-1)
            expected, slopes = value_and_gradient(loss)(outputs_first)
            matrix, slope = value_and_gradient(loss)(outputs_first.reshape(4, 12))
            np.testing.assert_allclose([value, expected], matrix, rtol=1e-12)
            np.testing.assert_allclose(np.moveaxis(gradient, -1, 0), slopes, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(slopes.reshape(4, 12), slope, rtol=1e-12, atol=1e-15)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_zero_and_nothing(self, mode: str) -> None:
        for shape, orthogonal in (((2, 3), 2.0), ((0, 3), 0.0), ((3, 0), 0.0)):
            for loss, expected in ((orthogonal_regularization, orthogonal), (spectral_norm_regularization, 0.0)):
                value, gradient = evaluate_pair(mode, loss, np.zeros(shape), lambda_reg=1.0)
                self.assertEqual(float(value), expected)
                np.testing.assert_array_equal(gradient, np.zeros(shape))

    @parameterized.expand([(mode,) for mode in EAGER])
    def test_what_is_not_finite(self, mode: str) -> None:
        for bad, expected in ((math.inf, math.inf), (math.nan, math.nan)):
            for loss in (orthogonal_regularization, spectral_norm_regularization):
                value, _ = evaluate_pair(mode, loss, np.array([[bad, 1.0], [0.0, 2.0]]))
                # ∞ · 0 off the diagonal is NaN in the one that adds up all elements
                self.assertTrue(np.isnan(value) if loss is orthogonal_regularization else str(value) == str(expected))

    def test_half_precision(self) -> None:
        w = torch.full((64, 64), 0.5, dtype=torch.bfloat16)
        # σ = 32: ½ · 32²; its square, 1024, is no sum of bfloat16 numbers that round
        value, gradient = value_and_gradient(spectral_norm_regularization)({"w": w}, lambda_reg=1.0)
        self.assertEqual(float(value), 512.0)
        self.assertEqual(gradient["w"].dtype, torch.bfloat16)
        np.testing.assert_allclose(to_numpy(gradient["w"]), 0.5, rtol=1e-2)

    def test_a_step_makes_a_layer_contract(self) -> None:
        w = np.diag([4.0, 1.0, 0.5])
        for _ in range(200):
            w = w - 0.1 * spectral_norm_regularization_gradient(w, lambda_reg=1.0)
        self.assertLess(np.linalg.norm(w, 2), 0.5)

    def test_in_an_objective(self) -> None:
        objective = Objective.from_toml("""
[[terms]]
name = "size"
loss = "mse_loss"
output = "size"
target = "size"

[[regularizers]]
loss = "spectral_norm_regularization"
parameters = ["*.weight"]
weight = 0.5
options = { lambda_reg = 1.0, output_axis = -1 }
""")
        size = {"size": np.zeros(2)}
        params = {"out.weight": np.diag([3.0, 1.0]), "out.bias": np.ones(2)}
        result = objective.evaluate(size, size, params)
        # ½ · ½ · 3²
        self.assertAlmostEqual(float(result.loss), 2.25, 12)
        self.assertEqual(list(result.parameter_gradients), ["out.weight"])
        np.testing.assert_allclose(result.parameter_gradients["out.weight"], np.diag([1.5, 0.0]), rtol=1e-12)

    @parameterized.expand(
        [
            ("a vector", {"b": np.ones(3)}, {}, ValueError, r"params\['b'\] must be a matrix, .* got shape \(3,\)"),
            ("a number", np.array(1.0), {}, ValueError, r"params must be a matrix, .* got shape \(\)"),
            ("axis", np.ones((2, 3)), {"output_axis": 2}, ValueError, "output_axis 2 is out of range .* 2 dimensions"),
            ("no axis", np.ones((2, 3)), {"output_axis": None}, TypeError, "output_axis must be an integer, got None"),
            ("negative", np.ones((2, 3)), {"lambda_reg": -1.0}, ValueError, "lambda_reg must be ≥ 0, got -1.0"),
            ("nothing", {}, {}, ValueError, "params holds no array to regularize"),
            ("upstream", np.ones((2, 3)), {}, ValueError, r"upstream must be a scalar .* got \(2,\)"),
        ]
    )
    def test_refused(self, name: str, params: Any, options: Any, error: type[Exception], message: str) -> None:
        for loss, gradient in MATRICES:
            functions = [gradient, value_and_gradient(loss)]
            more = {"upstream": np.ones(2)} if name == "upstream" else {}
            for function in functions if more else [loss, *functions]:
                with self.assertRaisesRegex(error, message):
                    function(params, **options, **more)


class Messages(unittest.TestCase):
    """What is wrong, and where."""

    @parameterized.expand(
        [
            ("a list of numbers", {"w": [1.0]}, TypeError, r"params\['w'\]\[0\] must be an array .* got float"),
            ("None", {"w": np.ones(1), "b": None}, TypeError, r"params\['b'\] must be an array .* got NoneType"),
            ("integers", [np.ones(1), np.array([1])], TypeError, r"params\[1\] must have a real .* got int64"),
            ("complex", {"a": {"b": np.array([1j])}}, TypeError, r"params\['a'\]\['b'\] must hold .* got complex128"),
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
            (np.ones(3), ValueError, r"lambda_reg must be one number, got an array of shape \(3,\)"),
            (torch.tensor(0.1), TypeError, "all arrays must come from one library: lambda_reg is from torch"),
        ]
    )
    def test_lambda(self, strength: Any, error: type[Exception], message: str) -> None:
        for function in (*BOTH[0], *BOTH[1]):
            with self.assertRaisesRegex(error, message):
                function([np.ones(3)], lambda_reg=strength)

    def test_upstream(self) -> None:
        with self.assertRaisesRegex(ValueError, r"upstream must be a scalar .* got \(2,\)"):
            l1_regularization_gradient([np.ones(2)], upstream=np.ones(2))


class Select(unittest.TestCase):
    """Which arrays are regularised."""

    PARAMS: ClassVar[dict[str, Any]] = {
        "layer": {"weight": np.array([[1.0, -2.0]]), "bias": np.array([3.0])},
        "scale": np.array(4.0),
    }

    @parameterized.expand([("l1_regularization", 3.0, [[1.0, -1.0]]), ("l2_regularization", 2.5, [[1.0, -2.0]])])
    def test_by_shape_and_by_path(self, name: str, value: float, slope: list[list[float]]) -> None:
        pair = find_loss(name)
        for library in ("numpy", "jax", "torch"):
            params = convert_to(self.PARAMS, library, "float32")
            for select in (lambda path, w: len(w.shape) == 2, lambda path, w: path == "params['layer']['weight']"):
                found, gradient = value_and_gradient(pair.value)(params, lambda_reg=1.0, select=select)
                self.assertEqual(float(found), value)
                self.assertEqual(float(pair.value(params, lambda_reg=1.0, select=select)), value)
                self.assertEqual(to_numpy(gradient["layer"]["weight"]).tolist(), slope)
                self.assertEqual(to_numpy(gradient["layer"]["bias"]).tolist(), [0.0])
                self.assertEqual(float(gradient["scale"]), 0.0)

    def test_nothing(self) -> None:
        for name in ("l1_regularization", "l2_regularization"):
            pair = find_loss(name)
            self.assertEqual(pair.value(self.PARAMS, select=lambda path, w: False), 0.0)
            self.assertFalse(pair.gradient(self.PARAMS, select=lambda path, w: False)["layer"]["weight"].any())
