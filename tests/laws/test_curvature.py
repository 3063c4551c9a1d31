"""Second derivatives of every loss that has them: whole matrices on NumPy, products against JAX's, every path alike."""

from __future__ import annotations

import unittest
from typing import Any

import jax
import numpy as np
import torch
from cases import Case, convert, double_precision, flat, label, to_numpy, with_every_option
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import catalogue, limits
from mithril_losses.autodiff import plain_functions
from mithril_losses.catalogue import Pair
from mithril_losses.checking import draw_arguments
from mithril_losses.checking.exact import check_exact_curvature
from mithril_losses.numerics.trees import map_leaves

CURVED = [pair for pair in catalogue().values() if ml.has_curvature(pair)]
SEEDS = (0, 1, 2)


def case_of(pair: Pair, seed: int, shape: tuple[int, ...] = (4, 3)) -> Case:
    return with_every_option(pair, seed, shape)


def along(pair: Pair, arrays: dict[str, Any], make: Any) -> Any:
    """Return `make(x)` for each array that the loss is differentiated by, as `vector=` takes it."""
    made = {name: map_leaves(lambda _, x: make(x), arrays[name]) for name in pair.wrt}
    return made if len(pair.wrt) > 1 else made[pair.wrt[0]]


def vector_of(pair: Pair, arrays: dict[str, Any], seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    return along(pair, arrays, lambda x: generator.standard_normal(np.shape(x)))


def joined(result: Any) -> np.ndarray:
    """Return all arrays of a gradient as one vector."""
    return np.concatenate([to_numpy(x).reshape(-1) for _, x in flat(result)])


def parted(vector: np.ndarray, like: Any) -> Any:
    """Return the inverse of `joined`."""
    rest = vector

    def part(x: Any) -> np.ndarray:
        nonlocal rest
        own, rest = rest[: x.size], rest[x.size :]
        return own.reshape(x.shape)

    return map_leaves(lambda _, x: part(x), like)


def matrix_of(product: Any, case: Case) -> np.ndarray:
    """Return the matrix of a linear function of `vector=`, column by column."""
    like = along(case.pair, case.arrays, lambda x: x)
    size = joined(like).size
    columns = []
    for unit in np.eye(size):
        columns.append(joined(product(*case.arguments("numpy"), **case.keywords("numpy"), vector=parted(unit, like))))
    return np.stack(columns, axis=-1)


def is_positive(matrix: np.ndarray) -> bool:
    size = max(1.0, float(np.abs(matrix).max(initial=0.0)))
    return bool(np.linalg.eigvalsh((matrix + matrix.T) / 2.0).min(initial=0.0) >= -1e-9 * size)


class Matrices(unittest.TestCase):
    """All that is returned belongs to one symmetric matrix."""

    @parameterized.expand([(pair.name, seed) for pair in CURVED for seed in SEEDS], name_func=label)
    def test_of(self, name: str, seed: int) -> None:
        pair = catalogue()[name]
        case = case_of(pair, seed)
        arguments, options = case.arguments("numpy"), case.keywords("numpy")
        hessian = matrix_of(ml.hessian_vector_product(pair), case)
        close = {"rtol": 1e-9, "atol": 1e-12 * max(1.0, float(np.abs(hessian).max()))}
        np.testing.assert_allclose(hessian, hessian.T, **close)
        diagonal = ml.hessian_diagonal(pair)(*arguments, **options)
        np.testing.assert_allclose(joined(diagonal), np.diag(hessian), **close)
        value, gradient, again = ml.value_gradient_and_hessian(pair)(*arguments, **options)
        np.testing.assert_allclose(joined(again), np.diag(hessian), **close)
        np.testing.assert_allclose(joined(gradient), joined(case.gradient()), **close)
        np.testing.assert_allclose(pair.total_of(value), pair.total_of(case.value()), **close)
        self._check_bound(pair, case, hessian)
        self._check_factor(pair, case, hessian, close)

    def _check_bound(self, pair: Pair, case: Case, hessian: np.ndarray) -> None:
        try:
            bound = ml.hessian_diagonal(pair, curvature="bound")
            found = joined(bound(*case.arguments("numpy"), **case.keywords("numpy")))
        except ValueError as error:
            self.assertIn("no bound", str(error))
            return
        assert (found >= 0.0).all()
        assert is_positive(np.diag(found) - hessian)
        by_product = matrix_of(ml.hessian_vector_product(pair, curvature="bound"), case)
        np.testing.assert_allclose(by_product, np.diag(found), rtol=1e-12)

    def _check_factor(self, pair: Pair, case: Case, hessian: np.ndarray, close: Any) -> None:
        try:
            fisher = matrix_of(ml.hessian_vector_product(pair, curvature="fisher"), case)
            factor = matrix_of(ml.hessian_factor_product(pair), case)
        except ValueError as error:
            self.assertRegex(str(error), "no Fisher information|no factor")
            return
        transposed = matrix_of(ml.hessian_factor_transpose_product(pair), case)
        np.testing.assert_allclose(transposed, factor.T, **close)
        np.testing.assert_allclose(factor @ factor.T, fisher, **close)


class Libraries(unittest.TestCase):
    """Products on three libraries, against JAX's derivative of the gradient of the plain functions."""

    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    def test_products(self, name: str) -> None:
        pair = catalogue()[name]
        for seed in SEEDS[:2]:
            case = case_of(pair, seed)
            vector = vector_of(pair, case.arrays)
            product = ml.hessian_vector_product(pair)
            found = product(*case.arguments("numpy"), **case.keywords("numpy"), vector=vector)
            scale = max(1.0, float(np.abs(joined(found)).max()))
            with double_precision("jax"):
                expected, by_jax = self._by_jax(case, vector)
            np.testing.assert_allclose(joined(found), joined(expected), rtol=1e-9, atol=1e-12 * scale)
            np.testing.assert_allclose(joined(by_jax), joined(found), rtol=1e-9, atol=1e-12 * scale)
            by_torch = product(
                *case.arguments("torch"), **case.keywords("torch"), vector=convert(vector, "torch", "float64")
            )
            for (path, x), (_, y) in zip(flat(by_torch), flat(found), strict=True):
                self.assertIsInstance(x, torch.Tensor, path)
                np.testing.assert_allclose(to_numpy(x), y, rtol=1e-9, atol=1e-12 * scale)

    def _by_jax(self, case: Case, vector: Any) -> tuple[Any, Any]:
        pair, arguments, options = case.pair, case.arguments("jax"), case.keywords("jax")
        at = [list(case.arrays).index(name) for name in pair.wrt]
        vectors = convert(vector, "jax", "float64")

        def gradient(*moved: Any) -> Any:
            own = list(arguments)
            for i, x in zip(at, moved, strict=True):
                own[i] = x
            return pair.gradient(*own, **options)

        tangents = tuple(vectors[name] for name in pair.wrt) if len(pair.wrt) > 1 else (vectors,)
        with plain_functions():
            _, expected = jax.jvp(gradient, tuple(arguments[i] for i in at), tangents)
        return expected, ml.hessian_vector_product(pair)(*arguments, **options, vector=vectors)


LARGE = {"float32": 2e-4, "float64": 1e-9}  # relative to the largest element


class LargeArrays(unittest.TestCase):
    """Loops, blocks and compiled functions against the plain functions."""

    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    def test_every_path(self, name: str) -> None:
        pair = catalogue()[name]
        arrays, options = draw_arguments(pair, np.random.default_rng(0), (40, 7))
        case = Case(pair, "large", arrays, options)
        for dtype in LARGE:
            vector = vector_of(pair, arrays)
            for reduction in ({}, {"reduction": "none", "weights": np.arange(3.0)}) if pair.takes_reduction else ({},):
                if reduction:
                    reduction = {**reduction, "weights": case.weights}
                self._compare(case, dtype, vector, reduction)

    def _compare(self, case: Case, dtype: str, vector: Any, reduction: dict[str, Any]) -> None:
        pair = case.pair
        moved = {"vector": convert(vector, "numpy", dtype)}
        functions = {
            "product": (ml.hessian_vector_product, moved),
            "diagonal": (ml.hessian_diagonal, {}),
            "all": (ml.value_gradient_and_hessian, {}),
        }
        for order, (transform, more) in functions.items():
            with self.subTest(order=order, dtype=dtype, reduction=list(reduction)):
                arguments, keywords = case.arguments("numpy", dtype), case.keywords("numpy", dtype, **reduction)
                plain = transform(pair)(*arguments, **keywords, **more)
                with limits.changed(large=1, block=16, shared_blocks=1):
                    compiled = transform(pair)(*arguments, **keywords, **more)
                    blocked = transform(pair, compile=False)(*arguments, **keywords, **more)
                for found in (compiled, blocked):
                    for (path, x), (_, y) in zip(flat(found), flat(plain), strict=True):
                        self.assertEqual(x.dtype, y.dtype, path)
                        size = float(np.abs(y).max(initial=0.0))
                        np.testing.assert_allclose(x, y, rtol=LARGE[dtype], atol=LARGE[dtype] * size, err_msg=path)


class ExactNumbers(unittest.TestCase):
    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    def test_agree(self, name: str) -> None:
        check = check_exact_curvature(name)
        self.assertEqual(check.failures, [])


class Masks(unittest.TestCase):
    @parameterized.expand([(pair.name,) for pair in CURVED if pair.takes_reduction], name_func=label)
    def test_a_weight_of_0_removes_nan(self, name: str) -> None:
        pair = catalogue()[name]
        arrays, options = draw_arguments(pair, np.random.default_rng(0), (4, 3))
        case = Case(pair, "masked", arrays, options)
        if not pair.terms.separable or not case.rows:
            self.skipTest("rows depend on each other")
        weights, vector = case.weights, vector_of(pair, arrays)
        product = ml.hessian_vector_product(pair)
        clean = product(*case.arguments("numpy"), **options, vector=vector, weights=weights)
        for wrt in pair.wrt:
            if wrt in case.batch:
                arrays[wrt][0] = np.nan
        found = product(*case.arguments("numpy"), **options, vector=vector, weights=weights)
        for (_, x), (_, y) in zip(flat(found), flat(clean), strict=True):
            np.testing.assert_array_equal(x, y)
            self.assertFalse(x[0].any())
