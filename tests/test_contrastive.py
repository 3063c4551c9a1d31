"""What no law says about contrastive losses: PyTorch's numbers, explicit loops, tiles, kinks and coupled rows."""

from __future__ import annotations

import math
import unittest
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from cases import matched
from modes import EAGER, MODES, evaluate_pair
from parameterized import parameterized

from mithril_losses import _pairwise, find_loss, info_nce_loss, value_and_gradient

GENERATOR = np.random.default_rng(21)
QUERIES, KEYS = GENERATOR.standard_normal((2, 7, 4))
MORE_KEYS = GENERATOR.standard_normal((11, 4))


def autograd(function: Any, arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the value of a torch expression and its derivatives wrt all arrays, in float64."""
    leaves = {name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in arrays.items()}
    value = function(**leaves)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.item(), {name: g.numpy() for name, g in zip(leaves, gradients, strict=True)}


def unit(x: Any) -> Any:
    return x / x.norm(dim=-1, keepdim=True)


class References(unittest.TestCase):
    """torch's cross_entropy on explicit logits, and loops that are written out."""

    def compare(self, loss: Any, arrays: dict[str, Any], expression: Any, *others: Any, **options: Any) -> None:
        value, gradients = value_and_gradient(loss)(*arrays.values(), *others, **options)
        expected, derivatives = autograd(expression, arrays)
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        for path, found, derivative in matched(gradients, derivatives):
            np.testing.assert_allclose(found, derivative, rtol=1e-11, atol=1e-15, err_msg=path)

    @parameterized.expand(list(product((KEYS, MORE_KEYS), (0.07, 1.0), (True, False))))
    def test_info_nce(self, keys: Any, temperature: float, normalize: bool) -> None:
        def expression(queries: Any, keys: Any) -> Any:
            q, k = (unit(queries), unit(keys)) if normalize else (queries, keys)
            return F.cross_entropy(q @ k.T / temperature, torch.arange(7))

        arrays = {"queries": QUERIES, "keys": keys}
        self.compare(info_nce_loss, arrays, expression, temperature=temperature, normalize=normalize)


class Tiles(unittest.TestCase):
    """However the rows are cut, the result is the same; and no array of all pairs is ever held."""

    @parameterized.expand(list(product(EAGER, (1, 3 * 11, 10**6))))
    def test_any_tile(self, mode: str, pairs: int) -> None:
        queries, keys = np.random.default_rng(3).standard_normal((2, 3, 9, 5))
        weights = np.random.default_rng(4).uniform(0.0, 1.0, (3, 9))
        expected = [
            info_nce_loss(q, k, weights=w, reduction="sum") for q, k, w in zip(queries, keys, weights, strict=True)
        ]
        with mock.patch.multiple(_pairwise, _TILE=pairs, _WIDE_TILE=pairs):
            value, gradients = evaluate_pair(mode, info_nce_loss, queries, keys, weights=weights, reduction="sum")
        np.testing.assert_allclose(value, sum(expected), rtol=1e-13)
        for i in range(3):
            alone = find_loss(info_nce_loss).gradient(queries[i], keys[i], weights=weights[i], reduction="sum")
            for path, found, derivative in matched({name: g[i] for name, g in gradients.items()}, alone):
                np.testing.assert_allclose(found, derivative, rtol=1e-10, atol=1e-14, err_msg=path)


class Rows(unittest.TestCase):
    """Rows of a set are coupled; a row or a set that does not count is out."""

    def test_micro_batches_do_not_add_up(self) -> None:
        whole = info_nce_loss(QUERIES, KEYS, normalizer=7.0)
        parts = [info_nce_loss(QUERIES[at], KEYS[at], normalizer=7.0) for at in (slice(0, 3), slice(3, 7))]
        self.assertGreater(float(whole), float(sum(parts)) + 0.1)
        self.assertFalse(find_loss(info_nce_loss).separable)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_query_without_weight_may_hold_anything(self, mode: str) -> None:
        queries, weights = QUERIES.copy(), np.ones(7)
        queries[2], weights[2] = math.nan, 0.0
        value, gradients = evaluate_pair(mode, info_nce_loss, queries, KEYS, weights=weights)
        expected, clean = evaluate_pair(mode, info_nce_loss, QUERIES, KEYS, weights=weights)
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        for path, found, derivative in matched(gradients, clean):
            np.testing.assert_allclose(found, derivative, rtol=1e-13, atol=1e-16, err_msg=path)

    def test_too_few_keys(self) -> None:
        with self.assertRaisesRegex(ValueError, "keys must hold a partner for each of the 7 rows of queries, got 6"):
            info_nce_loss(QUERIES, KEYS[:6])


class Extremes(unittest.TestCase):
    """Zero vectors, identical ones, tiny and huge ones, sharp temperatures."""

    @parameterized.expand(list(product(MODES, ("float64", "float32"))))
    def test_zero_vectors(self, mode: str, dtype: str) -> None:
        queries, keys = QUERIES.copy(), KEYS.copy()
        queries[1] = keys[3] = 0.0
        value, gradients = evaluate_pair(mode, info_nce_loss, queries, keys, dtype=dtype)
        self.assertTrue(np.isfinite(value))
        np.testing.assert_array_equal(gradients["queries"][1], np.zeros(4))
        np.testing.assert_array_equal(gradients["keys"][3], np.zeros(4))
        self.assertTrue(all(np.isfinite(g).all() for g in gradients.values()))

    @parameterized.expand([("float64", 1e-320), ("float64", 1e300), ("float32", 1e-42), ("float32", 1e37)])
    def test_length_does_not_count(self, dtype: str, scale: float) -> None:
        arrays = [np.asarray(x, dtype) for x in (QUERIES, KEYS)]
        scaled = [np.asarray(x * scale, dtype) for x in (QUERIES, KEYS)]
        value, gradients = value_and_gradient(info_nce_loss)(*scaled)
        # subnormal numbers have few digits
        np.testing.assert_allclose(value, info_nce_loss(*arrays), rtol=0.2 if scale < 1 else 1e-5)
        self.assertTrue(all(np.isfinite(g).all() for g in gradients.values()))

    @parameterized.expand([(mode,) for mode in EAGER])
    def test_identical_embeddings(self, mode: str) -> None:
        same = np.tile(QUERIES[:1], (5, 1))
        value, gradients = evaluate_pair(mode, info_nce_loss, same, same)
        np.testing.assert_allclose(value, math.log(5), rtol=1e-14)
        for gradient in gradients.values():
            np.testing.assert_allclose(gradient, np.zeros((5, 4)), atol=1e-15)

    @parameterized.expand([("float32",), ("float16",)])
    def test_sharp_temperatures(self, dtype: str) -> None:
        # orthogonal embeddings: log(1 + (n − 1) e^(−1/τ)), which is 0 for τ = 0.01
        eye = np.eye(6, dtype=dtype)
        value, gradients = value_and_gradient(info_nce_loss)(eye, eye, temperature=0.01)
        self.assertEqual(float(value), 0.0)
        self.assertFalse(any(np.isnan(g).any() for g in gradients.values()))
        swapped = info_nce_loss(eye, np.roll(eye, 1, axis=0), temperature=0.01)
        np.testing.assert_allclose(float(swapped), 100.0, rtol=1e-6 if dtype == "float32" else 1e-3)

    def test_never_negative(self) -> None:
        generator = np.random.default_rng(5)
        for dtype in (np.float32, np.float16):
            keys = generator.standard_normal((300, 16)).astype(dtype)
            self.assertGreaterEqual(info_nce_loss(keys, keys, temperature=0.02, reduction="none").min(), 0.0)
