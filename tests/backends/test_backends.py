"""The backends: one spelling, the same numbers, and nothing shared with the caller."""

from __future__ import annotations

import copy
import importlib.metadata
import math
import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from parameterized import parameterized, parameterized_class

from mithril_losses import backends
from mithril_losses.backends import (
    Backend,
    BackendNotInstalledError,
    JaxBackend,
    NumpyBackend,
    TorchBackend,
    get_backend,
)

LIBRARIES = [("numpy",), ("jax",), ("torch",)]
ARRAY_TYPES = {"numpy": np.ndarray, "jax": jax.Array, "torch": torch.Tensor}
NAN, INFINITY = math.nan, math.inf


class BackendTest(unittest.TestCase):
    """JAX as it is without float64, whatever other tests have switched on."""

    name: str

    def setUp(self) -> None:
        self.addCleanup(jax.config.update, "jax_enable_x64", jax.config.jax_enable_x64)
        jax.config.update("jax_enable_x64", False)
        self.backend = get_backend(getattr(self, "name", "numpy"))

    def check(self, actual: Any, expected: Any, dtype: str | None = None) -> None:
        """Compare values, shape and, on request, dtype."""
        actual = np.asarray(self.backend.to_numpy(actual))
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
        self.assertEqual(actual.shape, np.shape(expected))
        if dtype is not None:
            self.assertEqual(actual.dtype.name, dtype)


def of_library(name: str, values: Any) -> Any:
    """Return an array without the help of the backends."""
    return {"numpy": np.array, "jax": jnp.array, "torch": torch.tensor}[name](values)


@parameterized_class(("name",), LIBRARIES)
class TestCreation(BackendTest):
    def test_array_takes_lists_numbers_and_arrays_of_every_library(self) -> None:
        for data in ([[1.0, 2.0]], np.array([[1.0, 2.0]]), jnp.array([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])):
            made = self.backend.array(data)
            self.assertIsInstance(made, ARRAY_TYPES[self.name])
            self.assertEqual(made.dtype, self.backend.dtype)
            self.check(made, [[1.0, 2.0]], "float32")
        self.check(self.backend.array(3.0), 3.0, "float32")

    def test_array_keeps_integers_and_booleans(self) -> None:
        integer = "int32" if self.name == "jax" else "int64"
        self.check(self.backend.array([1, 2]), [1, 2], integer)
        self.check(self.backend.array(np.array([1, 2], dtype=np.int8)), [1, 2], "int8")
        self.check(self.backend.array([True, False]), [True, False], "bool")

    def test_array_never_shares_memory(self) -> None:
        for name in ("numpy", "torch"):
            for dtype in (None, "float32", "int32"):
                source = of_library(name, np.array([1.0, 2.0, 3.0], dtype=np.float32))
                made = self.backend.array(source, dtype=dtype)
                source[:] = 7.0
                self.check(made, [1.0, 2.0, 3.0])

    def test_dtypes_are_named_or_given(self) -> None:
        for dtype in ("float16", np.float16, np.dtype("float16"), jnp.float16, torch.float16):
            self.check(self.backend.array([1.0], dtype=dtype), [1.0], "float16")
        self.check(self.backend.array([0.0, 2.0], dtype="bool"), [False, True], "bool")
        with self.assertRaisesRegex(ValueError, "unknown dtype 'float31' for .*: choose from float16"):
            self.backend.array([1.0], dtype="float31")

    def test_creators(self) -> None:
        b = self.backend
        integer = "int32" if self.name == "jax" else "int64"
        self.check(b.zeros(2, 1), [[0.0], [0.0]], "float32")
        self.check(b.zeros((2, 1), dtype="int32"), [[0], [0]], "int32")
        self.check(b.ones(2), [1.0, 1.0], "float32")
        self.check(b.ones(()), 1.0, "float32")
        self.check(b.full((1, 2), 2.5), [[2.5, 2.5]], "float32")
        self.check(b.full(2, 3), [3, 3], integer)
        self.check(b.full((2,), True), [True, True], "bool")
        self.check(b.full(2, 3, dtype="float32"), [3.0, 3.0], "float32")
        self.check(b.arange(3), [0, 1, 2], integer)
        self.check(b.arange(1, 7, 2), [1, 3, 5], integer)
        self.check(b.arange(0.0, 1.0, 0.5), [0.0, 0.5], "float32")
        self.check(b.linspace(0, 1, 5), [0.0, 0.25, 0.5, 0.75, 1.0], "float32")
        self.check(b.eye(2), [[1.0, 0.0], [0.0, 1.0]], "float32")
        self.check(b.eye(1, 2), [[1.0, 0.0]], "float32")
        self.check(b.zeros_like(b.array([3, 4])), [0, 0], integer)
        self.check(b.ones_like(b.array([3, 4]), dtype="float32"), [1.0, 1.0], "float32")

    def test_dtype_of_the_backend(self) -> None:
        for dtype in self.backend.floating_dtypes:
            backend = get_backend(self.name, dtype=dtype)
            for made in (backend.array([1.5]), backend.zeros(1), backend.full(1, 1.5), backend.randn(1)):
                self.assertEqual(made.dtype, backend.dtype)
            self.assertIn(dtype, str(backend.dtype))
            self.assertIn(dtype, repr(backend))

    def test_unknown_dtype_and_device(self) -> None:
        with self.assertRaisesRegex(ValueError, r"unknown dtype 'int32' for \w+Backend: choose from float16"):
            get_backend(self.name, dtype="int32")
        with self.assertRaisesRegex(ValueError, r"no device 'abacus' for \w+Backend: choose from cpu"):
            get_backend(self.name, device="abacus")

    def test_device(self) -> None:
        backend = get_backend(self.name, device="cpu")
        self.check(backend.array([1.0, 2.0]) + backend.ones(2) + backend.arange(2), [2.0, 4.0])


class TestSecondDevice(unittest.TestCase):
    def test_jax_puts_everything_on_the_device_that_was_named(self) -> None:
        script = """
import torch
from mithril_losses.backends import JaxBackend
backend = JaxBackend(device="cpu:1")
made = [backend.zeros(2), backend.full(2, 1), backend.array([1.0]), backend.randn(2), backend.from_torch(torch.ones(2))]
print({device.id for array in made for device in array.devices()})
"""
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        self.assertEqual(done.stdout, "{1}\n")


@parameterized_class(("name",), LIBRARIES)
class TestRandomNumbers(BackendTest):
    def test_shapes_and_ranges(self) -> None:
        b = self.backend
        self.assertEqual(b.shape(b.randn(2, 3)), (2, 3))
        self.assertEqual(b.shape(b.randn((2, 3))), (2, 3))
        self.assertEqual(b.shape(b.rand()), ())
        normal, uniform = b.to_numpy(b.randn(10_000)), b.to_numpy(b.rand(10_000))
        self.assertLess(abs(normal.mean()), 0.05)
        self.assertLess(abs(normal.std() - 1), 0.05)
        self.assertTrue(((uniform >= 0) & (uniform < 1)).all())
        self.assertLess(abs(uniform.mean() - 0.5), 0.02)
        self.assertEqual(set(b.to_numpy(b.randint(-1, 2, (100,))).tolist()), {-1, 0, 1})
        self.assertEqual(sorted(b.to_numpy(b.permutation(5)).tolist()), [0, 1, 2, 3, 4])

    def test_seed(self) -> None:
        draw = [self.backend.to_numpy(get_backend(self.name, seed=seed).randn(4)).tolist() for seed in (1, 1, 2)]
        self.assertEqual(draw[0], draw[1])
        self.assertNotEqual(draw[0], draw[2])
        self.assertNotEqual(self.backend.randn(1)[0].item(), self.backend.randn(1)[0].item())

    def test_state_can_be_kept_and_restored(self) -> None:
        state = self.backend.generator.bit_generator.state
        first = self.backend.to_numpy(self.backend.randn(3))
        self.backend.generator.bit_generator.state = state
        np.testing.assert_array_equal(self.backend.to_numpy(self.backend.randn(3)), first)

    def test_the_same_numbers_as_numpy(self) -> None:
        for dtype in ("float16", "float32", "float64"):
            mine, numpys = get_backend(self.name, dtype=dtype, seed=5), NumpyBackend(dtype, seed=5)
            for draw in DRAWS:
                np.testing.assert_array_equal(mine.to_numpy(draw(mine)), draw(numpys))

    def test_the_same_numbers_in_bfloat16(self) -> None:
        drawn = [get_backend(name, dtype="bfloat16").randn(3000) for name in ("jax", "torch")]
        np.testing.assert_array_equal(NumpyBackend().to_numpy(drawn[0]), NumpyBackend().to_numpy(drawn[1]))

    def test_the_generator_is_pcg64(self) -> None:
        expected = np.random.Generator(np.random.PCG64(3)).standard_normal(4)
        self.check(get_backend(self.name, dtype="float64", seed=3).randn(4), expected, "float64")


DRAWS: list[Callable[[Backend], Any]] = [
    lambda backend: backend.randn(3000, 7),
    lambda backend: backend.rand(3000),
    lambda backend: backend.randint(0, 10, (5, 5)),
    lambda backend: backend.permutation(20),
]


X = [[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]]
UP = [[0.0, 1.0], [4.0, 9.0]]

# function of (backend, x) and its value at X, worked out by hand
AT_X: list[tuple[str, Callable[[Any, Any], Any], Any]] = [
    ("mean", lambda b, x: b.mean(x), -0.5),
    ("mean_axis", lambda b, x: b.mean(x, axis=0), [-1.5, 1.5, -1.5]),
    ("mean_axes", lambda b, x: b.mean(x, axis=(0, 1), keepdims=True), [[-0.5]]),
    ("mean_booleans", lambda b, x: b.mean(x > 0), 0.5),
    ("mean_integers", lambda b, x: b.mean(b.array([1, 2])), 1.5),
    ("sum", lambda b, x: b.sum(x), -3.0),
    ("sum_axis", lambda b, x: b.sum(x, axis=-1, keepdims=True), [[2.0], [-5.0]]),
    ("sum_axes", lambda b, x: b.sum(x, axis=(0, 1)), -3.0),
    ("sum_booleans", lambda b, x: b.sum(x > 0), 3),
    ("max", lambda b, x: b.max(x), 5.0),
    ("max_axis", lambda b, x: b.max(x, axis=-1, keepdims=True), [[3.0], [5.0]]),
    ("max_axes", lambda b, x: b.max(x, axis=(0, 1), keepdims=True), [[5.0]]),
    ("min", lambda b, x: b.min(x, axis=0), [-4.0, -2.0, -6.0]),
    ("min_axes", lambda b, x: b.min(x, axis=(0, 1)), -6.0),
    ("prod", lambda b, x: b.prod(x), -720.0),
    ("prod_axes", lambda b, x: b.prod(x, axis=(0, 1), keepdims=True), [[-720.0]]),
    ("prod_axis", lambda b, x: b.prod(x, axis=1), [-6.0, 120.0]),
    ("var", lambda b, x: b.var(x, axis=1), [38 / 9, 206 / 9]),
    ("var_axes", lambda b, x: b.var(x, axis=(0, 1), keepdims=True), [[179 / 12]]),
    ("var_integers", lambda b, x: b.var(b.array([1, 3])), 1.0),
    ("var_correction", lambda b, x: b.var(x, correction=1), 17.9),
    ("std", lambda b, x: b.std(x), math.sqrt(179 / 12)),
    ("std_axis", lambda b, x: b.std(x, axis=0, keepdims=True), [[2.5, 3.5, 4.5]]),
    ("std_integers", lambda b, x: b.std(b.array([1, 5])), 2.0),
    ("argmax", lambda b, x: b.argmax(x), 4),
    ("argmax_axis", lambda b, x: b.argmax(x, axis=1, keepdims=True), [[2], [1]]),
    ("argmin_axis", lambda b, x: b.argmin(x, axis=0), [1, 0, 1]),
    ("abs", lambda b, x: b.abs(x), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    ("sign", lambda b, x: b.sign(x - 1), [[0.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]),
    ("square", lambda b, x: b.square(x), [[1.0, 4.0, 9.0], [16.0, 25.0, 36.0]]),
    ("clip", lambda b, x: b.clip(x, -2, 3.5), [[1.0, -2.0, 3.0], [-2.0, 3.5, -2.0]]),
    ("clip_below", lambda b, x: b.clip(x, 0.0, None), [[1.0, 0.0, 3.0], [0.0, 5.0, 0.0]]),
    ("clip_array", lambda b, x: b.clip(x, -b.ones_like(x), 2.0), [[1.0, -1.0, 2.0], [-1.0, 2.0, -1.0]]),
    ("maximum", lambda b, x: b.maximum(x, 0.0), [[1.0, 0.0, 3.0], [0.0, 5.0, 0.0]]),
    ("maximum_left", lambda b, x: b.maximum(0.0, x), [[1.0, 0.0, 3.0], [0.0, 5.0, 0.0]]),
    ("minimum", lambda b, x: b.minimum(x, -x), [[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]),
    ("where", lambda b, x: b.where(x > 0, x, 0.5), [[1.0, 0.5, 3.0], [0.5, 5.0, 0.5]]),
    ("matmul", lambda b, x: b.matmul(x, b.permute_dims(x, (1, 0))), [[14.0, -32.0], [-32.0, 77.0]]),
    ("reshape", lambda b, x: b.reshape(x, (3, 2)), [[1.0, -2.0], [3.0, -4.0], [5.0, -6.0]]),
    ("flatten", lambda b, x: b.reshape(x, -1), [1.0, -2.0, 3.0, -4.0, 5.0, -6.0]),
    ("concat", lambda b, x: b.concat([x, x], axis=1)[0], [1.0, -2.0, 3.0, 1.0, -2.0, 3.0]),
    ("stack", lambda b, x: b.stack([x[0], x[1]], axis=1), [[1.0, -4.0], [-2.0, 5.0], [3.0, -6.0]]),
    ("expand_dims", lambda b, x: b.expand_dims(x[0], axis=1), [[1.0], [-2.0], [3.0]]),
    ("squeeze", lambda b, x: b.squeeze(b.reshape(x, (1, 6, 1)), axis=2), [[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]]),
    ("squeeze_all", lambda b, x: b.squeeze(b.reshape(x, (1, 6, 1))), [1.0, -2.0, 3.0, -4.0, 5.0, -6.0]),
    ("take_along_axis", lambda b, x: b.take_along_axis(x, b.array([[2], [0]]), axis=1), [[3.0], [-4.0]]),
    ("all", lambda b, x: b.all(x > -5, axis=1), [True, False]),
    ("any", lambda b, x: b.any(x > 4, axis=(0, 1), keepdims=True), [[True]]),
    ("isnan", lambda b, x: b.isnan(b.array([1.0, NAN, INFINITY])), [False, True, False]),
    ("isfinite", lambda b, x: b.isfinite(b.array([1.0, NAN, INFINITY])), [True, False, False]),
    ("sqrt", lambda b, x: b.sqrt(b.array(UP)), [[0.0, 1.0], [2.0, 3.0]]),
    ("exp", lambda b, x: b.exp(b.array([0.0, 1.0])), [1.0, math.e]),
    ("log", lambda b, x: b.log(b.array([1.0, math.e])), [0.0, 1.0]),
    ("log1p", lambda b, x: b.log1p(b.array([0.0, 1e-6])), [0.0, 9.999995e-7]),
    ("expm1", lambda b, x: b.expm1(b.array([0.0, 1e-6])), [0.0, 1.0000005e-6]),
    ("tanh", lambda b, x: b.tanh(b.array([0.0, math.log(2.0), 50.0])), [0.0, 0.6, 1.0]),
    ("vector_norm", lambda b, x: b.linalg.vector_norm(b.array([3.0, 4.0])), 5.0),
]


class TestFunctions(BackendTest):
    @parameterized.expand([(f"{name}_{case[0]}", name, *case[1:]) for (name,) in LIBRARIES for case in AT_X])
    def test_value(self, label: str, name: str, function: Callable[[Any, Any], Any], expected: Any) -> None:
        self.backend = get_backend(name)
        self.check(function(self.backend, self.backend.array(X)), expected)

    @parameterized.expand(LIBRARIES)
    def test_shape_and_size_are_plain_integers(self, name: str) -> None:
        backend = get_backend(name)
        x = backend.zeros(2, 0, 3)
        self.assertIs(type(backend.shape(x)), tuple)
        self.assertEqual(backend.shape(x), (2, 0, 3))
        self.assertEqual(backend.size(x), 0)
        self.assertIs(type(backend.size(backend.array(X))), int)
        self.assertEqual(backend.size(backend.array(X)), 6)
        self.assertEqual(backend.size(backend.array(1.0)), 1)

    @parameterized.expand(LIBRARIES)
    def test_listed_and_unknown_attributes(self, name: str) -> None:
        backend = get_backend(name)
        self.assertLessEqual({"mean", "clip", "size", "to_torch", "logaddexp"}, set(dir(backend)))
        with self.assertRaisesRegex(AttributeError, f"{type(backend).__name__} has no attribute 'meen'"):
            _ = backend.meen

    @parameterized.expand(LIBRARIES)
    def test_a_copy_goes_on_as_the_original_does(self, name: str) -> None:
        backend = get_backend(name, seed=4)
        twin = copy.deepcopy(backend)
        np.testing.assert_array_equal(backend.to_numpy(backend.randn(3)), twin.to_numpy(twin.randn(3)))


AWKWARD_ARRAYS = [
    np.float32(2.5),
    np.ones((0, 3), np.float32),
    np.arange(6, dtype=np.int32).reshape(2, 3).T,
    np.array([True, False]),
    np.array([1.5], np.float16),
    np.arange(6, dtype=np.float32)[::-2],
    np.arange(3, dtype=">f4"),
]


@parameterized_class(("name",), LIBRARIES)
class TestConversions(BackendTest):
    def convert(self, direction: str, library: str, x: Any) -> Any:
        return getattr(self.backend, f"{direction}_{library}")(x)

    @parameterized.expand(LIBRARIES)
    def test_values_dtypes_and_types(self, library: str) -> None:
        for values in AWKWARD_ARRAYS:
            mine = self.backend.from_numpy(values)
            theirs = self.convert("to", library, mine)
            back = self.convert("from", library, theirs)
            self.assertIsInstance(mine, ARRAY_TYPES[self.name])
            self.assertIsInstance(theirs, ARRAY_TYPES[library])
            self.assertIsInstance(back, ARRAY_TYPES[self.name])
            self.check(back, values, values.dtype.name)

    @parameterized.expand(LIBRARIES)
    def test_results_and_sources_are_written_apart(self, library: str) -> None:
        theirs = of_library(library, np.array(X, dtype=np.float32))
        mine = self.convert("from", library, theirs)
        result = self.convert("to", library, mine)
        for array, others in ((theirs, [mine]), (mine, [theirs, result]), (result, [mine])):
            before = [NumpyBackend().array(other) for other in others]
            if not isinstance(array, jax.Array):
                array[0, 0] += 7.0
            for other, values in zip(others, before, strict=True):
                np.testing.assert_array_equal(NumpyBackend().array(other), values)

    def test_large_sources_are_not_shared_either(self) -> None:
        # JAX keeps aligned memory that it is handed, and small arrays are rarely aligned
        for source in (np.zeros(1_000_000, np.float32), torch.zeros(1_000_000)):
            made = self.backend.array(source)
            source[:] = 1.0
            self.assertEqual(float(self.backend.max(made)), 0.0)

    def test_integers_that_32_bits_do_not_hold(self) -> None:
        with jax.enable_x64(False):
            backend = JaxBackend()
            self.assertEqual(backend.array([2**31 - 1, -(2**31)]).tolist(), [2**31 - 1, -(2**31)])
            for x in (np.array([0, 2**32]), np.array([2**63], np.uint64), torch.tensor([-(2**31) - 1])):
                with self.assertRaisesRegex(ValueError, "needs 64 bits"):
                    backend.array(x)
        with jax.enable_x64(True):
            self.assertEqual(JaxBackend().array([2**32]).tolist(), [2**32])

    def test_to_torch_gives_a_leaf(self) -> None:
        x = self.backend.to_torch(self.backend.array([1.0, 2.0]))
        x.requires_grad_(True)
        (x * x).sum().backward()
        self.assertEqual(x.grad.tolist(), [2.0, 4.0])

    def test_from_torch_detaches(self) -> None:
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        self.check(self.backend.from_torch(x), [1.0, 2.0])
        self.check(self.backend.from_torch(2 * x), [2.0, 4.0])
        self.assertFalse(getattr(self.backend.from_torch(2 * x), "requires_grad", False))
        self.check(self.backend.from_torch(torch.ones(2).expand(3, 2)[:, ::2]), [[1.0], [1.0], [1.0]])

    def test_read_only_sources(self) -> None:
        x = np.array([1.0, 2.0])
        x.flags.writeable = False
        self.check(self.backend.to_torch(self.backend.from_numpy(x)), [1.0, 2.0])
        self.backend.to_numpy(self.backend.from_numpy(x))[0] = 5.0

    def test_bfloat16(self) -> None:
        values = [1.0, -0.0078125, 3.3895e38, 1e-40]
        wanted = torch.tensor(values, dtype=torch.bfloat16).float().numpy()
        for source in (torch.tensor(values, dtype=torch.bfloat16), jnp.array(values, dtype=jnp.bfloat16)):
            library = "torch" if isinstance(source, torch.Tensor) else "jax"
            mine = self.convert("from", library, source)
            self.assertIn("float32" if self.name == "numpy" else "bfloat16", str(mine.dtype))
            self.check(mine, wanted, "float32")
            there = self.backend.to_torch(mine)
            np.testing.assert_array_equal(there.float().numpy(), wanted)

    def test_the_wrong_library_is_named(self) -> None:
        with self.assertRaisesRegex(TypeError, "from_jax takes a jax array, got numpy.ndarray"):
            self.backend.from_jax(np.ones(2))
        with self.assertRaisesRegex(TypeError, "from_torch takes a torch array, got builtins.list"):
            self.backend.from_torch([1.0])
        with self.assertRaisesRegex(TypeError, "from_numpy takes a numpy array, got torch.Tensor"):
            self.backend.from_numpy(torch.ones(2))


class TestFloat64(BackendTest):
    def test_numpy_and_torch_keep_it(self) -> None:
        for backend in (NumpyBackend("float64"), TorchBackend("float64")):
            self.assertEqual(float(backend.array([0.1])[0]), 0.1)

    def test_conversions_keep_it_and_array_does_not(self) -> None:
        x = np.array([0.1])
        self.assertEqual(TorchBackend().from_numpy(x).dtype, torch.float64)
        self.assertEqual(TorchBackend().array(x).dtype, torch.float32)
        self.assertEqual(NumpyBackend().from_torch(torch.tensor([0.1], dtype=torch.float64)).dtype, np.float64)

    def test_jax_switches_it_on_only_when_asked(self) -> None:
        backend = JaxBackend()
        self.assertFalse(jax.config.jax_enable_x64)
        self.assertEqual(backend.from_numpy(np.array([0.1])).dtype, np.float32)
        self.assertEqual(backend.from_torch(torch.tensor([0.1], dtype=torch.float64)).dtype, np.float32)
        self.assertEqual(backend.array([1], dtype="int64").dtype, np.int32)
        with self.assertRaisesRegex(ValueError, 'float64 needs JaxBackend\\(dtype="float64"\\)'):
            backend.zeros(1, dtype="float64")

        backend = JaxBackend("float64")
        self.assertTrue(jax.config.jax_enable_x64)
        self.assertEqual(float(backend.array([0.1])[0]), 0.1)
        self.assertEqual(float(backend.from_torch(torch.tensor([0.1], dtype=torch.float64))[0]), 0.1)
        self.assertEqual(backend.array([1], dtype="int64").dtype, np.int64)
        self.assertEqual(JaxBackend().array([0.1]).dtype, np.float32)


@parameterized_class(("name",), LIBRARIES)
class TestGradient(BackendTest):
    def test_polynomial(self) -> None:
        b = self.backend
        x, y = b.array(X), b.array(X) + 2.0
        # d/dx Σ x²y = 2xy, d/dy Σ x²y = x²
        self.check_close(b.gradient(lambda x, y: b.sum(x * x * y), x, y), 2 * np.array(X) * (np.array(X) + 2))
        self.check_close(b.gradient(lambda x, y: b.sum(x * x * y), x, y, argnum=1), np.square(X))
        self.check(x, X)
        self.check(b.gradient(lambda x: b.exp(x), b.array(0.0)), 1.0)

    def test_argument_without_influence(self) -> None:
        b = self.backend
        x = b.array([1.0, 2.0])
        self.check(b.gradient(lambda x, y: b.sum(y), x, x), [0.0, 0.0])

    def test_the_function_must_return_one_number(self) -> None:
        with self.assertRaisesRegex(ValueError, r"returns one number, got an array of shape \(2,\)"):
            self.backend.gradient(lambda x: x * x, self.backend.array([1.0, 2.0]))

    def check_close(self, actual: Any, expected: Any) -> None:
        np.testing.assert_allclose(self.backend.to_numpy(actual), expected, rtol=1e-6, atol=1e-7)


class TestGradientOfOneLibrary(BackendTest):
    def test_numpy_differences_are_in_float64_and_write_nowhere(self) -> None:
        x = np.array([0.5, 2.0], dtype=np.float32)
        x.flags.writeable = False
        gradient = NumpyBackend().gradient(lambda x: np.sum(np.log(x)), x)
        self.assertEqual(gradient.dtype, np.float64)
        np.testing.assert_allclose(gradient, [2.0, 0.5], rtol=1e-9)

    def test_torch_leaves_the_arguments_alone(self) -> None:
        x = torch.tensor([3.0], requires_grad=True)
        with torch.no_grad():
            gradient = TorchBackend().gradient(lambda x: (x * x).sum(), x)
        self.assertEqual(gradient.tolist(), [6.0])
        self.assertIsNone(x.grad)


@parameterized_class(("name",), LIBRARIES)
class TestGuide(BackendTest):
    """The functions that the guide to custom losses calls on `backend`."""

    def setUp(self) -> None:
        super().setUp()
        self.predictions, self.targets = self.backend.randn(6, 4), self.backend.rand(6, 4)

    def reference(self, *arrays: Any) -> list[torch.Tensor]:
        return [torch.tensor(np.asarray(self.backend.to_numpy(x))) for x in arrays]

    def test_mean_squared_error(self) -> None:
        backend, predictions, targets = self.backend, self.predictions, self.targets
        loss = backend.mean(backend.square(predictions - targets))
        gradient = 2 * (predictions - targets) / backend.size(predictions)
        p, t = self.reference(predictions, targets)
        p.requires_grad_(True)
        expected = F.mse_loss(p, t)
        expected.backward()
        self.assertAlmostEqual(float(loss), expected.item(), places=6)
        np.testing.assert_allclose(backend.to_numpy(gradient), p.grad.numpy(), rtol=1e-5, atol=1e-7)

    def test_absolute_error_and_regularization(self) -> None:
        backend = self.backend
        params = {"weight": backend.array([[1.0, -2.0]]), "bias": backend.array([3.0])}
        l1 = l2 = 0
        for param in params.values():
            l1 += backend.sum(backend.abs(param))
            l2 += backend.sum(backend.square(param))
        self.check(l1, 6.0)
        self.check(l2, 14.0)
        self.check(0.5 * backend.sign(params["weight"]), [[0.5, -0.5]])

    def test_stable_cross_entropy(self) -> None:
        backend, logits = self.backend, 100 * self.predictions
        targets = self.targets / backend.sum(self.targets, axis=-1, keepdims=True)
        shifted = logits - backend.max(logits, axis=-1, keepdims=True)
        exp_logits = backend.exp(shifted)
        sum_exp_logits = backend.sum(exp_logits, axis=-1, keepdims=True)
        loss = -backend.mean(backend.sum(targets * (shifted - backend.log(sum_exp_logits)), axis=-1))
        gradient = (exp_logits / sum_exp_logits - targets) / backend.shape(logits)[0]
        z, t = self.reference(logits, targets)
        z.requires_grad_(True)
        expected = F.cross_entropy(z, t)
        expected.backward()
        np.testing.assert_allclose(float(loss), expected.item(), rtol=1e-5)
        np.testing.assert_allclose(backend.to_numpy(gradient), z.grad.numpy(), rtol=1e-4, atol=1e-6)

    def test_clipped_binary_cross_entropy(self) -> None:
        backend = self.backend
        targets = backend.array([1.0, 0.0, 0.0])
        clipped = backend.clip(backend.array([1.0, 0.0, 0.5]), 1e-7, 1.0 - 1e-7)
        loss = -backend.mean(targets * backend.log(clipped) + (1 - targets) * backend.log(1 - clipped))
        self.assertAlmostEqual(float(loss), math.log(2) / 3, places=6)

    def test_native_loss_of_torch(self) -> None:
        backend = self.backend
        predictions = backend.to_torch(self.predictions)
        predictions.requires_grad_(True)
        F.mse_loss(predictions, backend.to_torch(self.targets)).backward()
        gradient = backend.from_torch(predictions.grad)
        np.testing.assert_allclose(
            backend.to_numpy(gradient),
            backend.to_numpy(2 * (self.predictions - self.targets) / 24),
            rtol=1e-5,
            atol=1e-7,
        )

    def test_native_loss_of_jax(self) -> None:
        backend = self.backend
        gradient = jax.grad(lambda p, t: jnp.mean((p - t) ** 2))(
            backend.to_jax(self.predictions), backend.to_jax(self.targets)
        )
        np.testing.assert_allclose(
            backend.to_numpy(backend.from_jax(gradient)),
            backend.to_numpy(2 * (self.predictions - self.targets) / 24),
            rtol=1e-5,
            atol=1e-7,
        )


class TestGetBackend(BackendTest):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(folder.name)
        self.file = Path("mithril_losses.toml")
        environment = mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("MITHRIL_LOSSES_BACKEND", None)

    def test_argument_then_environment_then_file_then_numpy(self) -> None:
        self.assertIsInstance(get_backend(), NumpyBackend)
        self.file.write_text('backend = "jax"\n[training]\nepochs = 3\n')
        self.assertIsInstance(get_backend(), JaxBackend)
        os.environ["MITHRIL_LOSSES_BACKEND"] = "torch"
        self.assertIsInstance(get_backend(), TorchBackend)
        self.assertIsInstance(get_backend("numpy"), NumpyBackend)
        os.environ["MITHRIL_LOSSES_BACKEND"] = ""
        self.assertIsInstance(get_backend(), JaxBackend)
        self.file.write_text("[training]\nepochs = 3\n")
        self.assertIsInstance(get_backend(), NumpyBackend)

    def test_options_reach_the_backend(self) -> None:
        backend = get_backend("torch", dtype="float64", device="cpu", seed=9)
        self.assertEqual((backend.dtype, backend.device), (torch.float64, torch.device("cpu")))
        np.testing.assert_array_equal(backend.to_numpy(backend.randn(2)), NumpyBackend("float64", seed=9).randn(2))

    def test_a_backend_is_returned_as_it_is(self) -> None:
        backend = NumpyBackend(seed=3)
        self.assertIs(get_backend(backend), backend)
        with self.assertRaisesRegex(ValueError, "dtype and device of NumpyBackend.* are settled"):
            get_backend(backend, dtype="float64")

    @parameterized.expand([("jaxx", "jax"), ("Torch", "torch"), ("pytorch", "torch"), ("nunpy", "numpy")])
    def test_unknown_name(self, name: str, nearest: str) -> None:
        message = f"unknown backend '{name}': did you mean '{nearest}'\\? available: .*jax, numpy, torch"
        with self.assertRaisesRegex(ValueError, message):
            get_backend(name)

    def test_unknown_configured_name_says_where_it_stands(self) -> None:
        self.file.write_text('backend = "zzz"')
        with self.assertRaisesRegex(ValueError, r"'zzz' \(from mithril_losses.toml\): available: jax"):
            get_backend()
        os.environ["MITHRIL_LOSSES_BACKEND"] = "jaxx"
        with self.assertRaisesRegex(ValueError, "from the environment variable MITHRIL_LOSSES_BACKEND.*'jax'"):
            get_backend()

    @parameterized.expand([("syntax", b"backend = numpy"), ("encoding", b'backend = "\xff"'), ("type", b"backend = 3")])
    def test_malformed_file_is_named(self, label: str, content: bytes) -> None:
        self.file.write_bytes(content)
        with self.assertRaisesRegex(ValueError, "^mithril_losses.toml: "):
            get_backend()
        self.assertIsInstance(get_backend("numpy"), NumpyBackend)  # an argument needs no file

    @parameterized.expand([("jax",), ("torch",)])
    def test_missing_library(self, library: str) -> None:
        module = f"mithril_losses.backends.{library}"
        with mock.patch.dict(sys.modules, {library: None}):
            del sys.modules[module]
            for use in (
                lambda: get_backend(library),
                lambda: getattr(backends, f"{library.capitalize()}Backend"),
                lambda: getattr(NumpyBackend(), f"to_{library}")(np.ones(2)),
            ):
                with self.assertRaisesRegex(BackendNotInstalledError, rf"pip install '\.\[{library}\]'"):
                    use()
            self.assertIsInstance(get_backend("numpy"), NumpyBackend)
        self.assertTrue(issubclass(BackendNotInstalledError, ImportError))

    def test_third_party(self) -> None:
        entry = importlib.metadata.EntryPoint("mirror", f"{__name__}:MirrorBackend", "mithril_losses.backends")
        with mock.patch(
            "importlib.metadata.entry_points", lambda *, group: {"mithril_losses.backends": [entry]}[group]
        ):
            backend = get_backend("mirror", seed=2)
            self.assertIsInstance(backend, MirrorBackend)
            np.testing.assert_array_equal(backend.array([1.0, 2.0]), [2.0, 1.0])
            with self.assertRaisesRegex(ValueError, "did you mean 'mirror'"):
                get_backend("miror")

    def test_the_three_are_registered(self) -> None:
        names = {entry.name for entry in importlib.metadata.entry_points(group="mithril_losses.backends")}
        self.assertLessEqual({"numpy", "jax", "torch"}, names)

    def test_unknown_attribute_of_the_package(self) -> None:
        with self.assertRaisesRegex(AttributeError, "has no attribute 'CupyBackend'"):
            _ = backends.CupyBackend


class MirrorBackend(Backend):
    """The least that another package has to write: here, an array library in which everything is reversed."""

    name = "mirror"
    namespace = np

    def _adopt(self, data: Any) -> Any:
        return np.array(data)[::-1]

    def gradient(self, function: Callable[..., Any], *arguments: Any, argnum: int = 0) -> Any:
        raise NotImplementedError
