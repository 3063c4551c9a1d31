"""What no law says about contrastive losses: PyTorch's numbers, explicit loops, tiles, kinks and coupled rows."""

from __future__ import annotations

import math
import tracemalloc
import unittest
from itertools import product
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from cases import convert, flat, matched
from modes import evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    catalogue,
    clip_loss,
    find_loss,
    info_nce_loss,
    limits,
    n_pair_loss,
    nt_xent_loss,
    siglip_loss,
    supervised_contrastive_loss,
    value_and_gradient,
)
from mithril_losses.templates import pairs

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

    def test_n_pair(self) -> None:
        arrays = {"anchor": QUERIES, "positive": KEYS}
        self.compare(
            n_pair_loss, arrays, lambda anchor, positive: F.cross_entropy(anchor @ positive.T, torch.arange(7))
        )

    @parameterized.expand([(0.5, True), (2.0, False)])
    def test_nt_xent(self, temperature: float, normalize: bool) -> None:
        def expression(embedding1: Any, embedding2: Any) -> Any:
            z = torch.cat([embedding1, embedding2])
            z = unit(z) if normalize else z
            logits = (z @ z.T / temperature).masked_fill(torch.eye(14, dtype=torch.bool), -math.inf)
            return F.cross_entropy(logits, torch.arange(14).roll(7))

        arrays = {"embedding1": QUERIES, "embedding2": KEYS}
        self.compare(nt_xent_loss, arrays, expression, temperature=temperature, normalize=normalize)

    @parameterized.expand([(0.1, True), (1.0, False)])
    def test_supervised(self, temperature: float, normalize: bool) -> None:
        labels = [4, -1, 4, 2**40, -1, 4, -100]  # the last one and 2⁴⁰ are alone

        def expression(embeddings: Any) -> Any:
            z, total = unit(embeddings) if normalize else embeddings, 0.0
            for i in range(7):
                others = [a for a in range(7) if a != i]
                logits = {a: z[i] @ z[a] / temperature for a in others}
                log_sum = torch.logsumexp(torch.stack(list(logits.values())), dim=0)
                partners = [a for a in others if labels[a] == labels[i]]
                total = total + sum((log_sum - logits[p]) / len(partners) for p in partners)
            return total / 7

        # the gradient of one argument is no dict
        value, gradient = value_and_gradient(supervised_contrastive_loss)(
            QUERIES, np.array(labels), temperature=temperature, normalize=normalize
        )
        expected, derivatives = autograd(expression, {"embeddings": QUERIES})
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(gradient, derivatives["embeddings"], rtol=1e-11, atol=1e-15)

    @parameterized.expand([(math.log(1 / 0.07), True), (0.0, False)])
    def test_clip(self, scale: float, normalize: bool) -> None:
        def expression(image_embeddings: Any, text_embeddings: Any, logit_scale: Any) -> Any:
            u, v = (unit(image_embeddings), unit(text_embeddings)) if normalize else (image_embeddings, text_embeddings)
            logits = logit_scale.exp() * u @ v.T
            return 0.5 * (F.cross_entropy(logits, torch.arange(7)) + F.cross_entropy(logits.T, torch.arange(7)))

        arrays = {"image_embeddings": QUERIES, "text_embeddings": KEYS, "logit_scale": np.array(scale)}
        self.compare(clip_loss, arrays, expression, normalize=normalize)

    @parameterized.expand([(math.log(10.0), -10.0, True), (0.3, 0.5, False)])
    def test_siglip(self, scale: float, bias: float, normalize: bool) -> None:
        def expression(image_embeddings: Any, text_embeddings: Any, logit_scale: Any, logit_bias: Any) -> Any:
            u, v = (unit(image_embeddings), unit(text_embeddings)) if normalize else (image_embeddings, text_embeddings)
            logits = logit_scale.exp() * u @ v.T + logit_bias
            return -F.logsigmoid((2.0 * torch.eye(7) - 1.0) * logits).sum() / 7

        numbers = {"logit_scale": np.array(scale), "logit_bias": np.array(bias)}
        arrays = {"image_embeddings": QUERIES, "text_embeddings": KEYS, **numbers}
        self.compare(siglip_loss, arrays, expression, normalize=normalize)

    def test_unreduced_losses(self) -> None:
        # a row's loss is its own share: the sum over the two views, over both directions, over all texts
        both = nt_xent_loss(QUERIES, KEYS, reduction="none")
        np.testing.assert_allclose(both, nt_xent_loss(KEYS, QUERIES, reduction="none"), rtol=1e-13)
        u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (QUERIES, KEYS))
        logits, scale = math.e * u @ v.T, np.array(1.0)
        log_rows, log_columns = (np.log(np.exp(logits).sum(axis=axis)) for axis in (1, 0))
        expected = 0.5 * (log_rows + log_columns) - np.diagonal(logits)
        np.testing.assert_allclose(clip_loss(QUERIES, KEYS, scale, reduction="none"), expected, rtol=1e-13)
        yes, no = np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))
        expected = np.where(np.eye(7, dtype=bool), yes, no).sum(axis=1)
        np.testing.assert_allclose(
            siglip_loss(QUERIES, KEYS, scale, np.array(0.0), reduction="none"), expected, rtol=1e-13
        )


MODES = ("numpy", "jax.jit", "torch")
CONTRASTIVE = [pair.name for pair in catalogue().values() if pair.family == "contrastive"]


def arguments_of(name: str, *embeddings: Any) -> list[Any]:
    """Return the arguments of a loss for one or two sets of embeddings."""
    numbers = {"logit_scale": np.array(1.5), "logit_bias": np.array(-2.0), "labels": np.arange(len(embeddings[0])) // 2}
    names = find_loss(name).array_arguments
    count = sum(argument not in numbers for argument in names)
    return [*embeddings[:count], *(numbers[argument] for argument in names[count:])]


class Tiles(unittest.TestCase):
    """However the rows are cut, the result is the same."""

    @parameterized.expand(list(product(CONTRASTIVE, MODES)))
    def test_any_tile(self, name: str, mode: str) -> None:
        pairs = 30
        pair = find_loss(name)
        sets = np.random.default_rng(3).standard_normal((2, 3, 9, 5))
        alone = [arguments_of(name, *embeddings) for embeddings in sets.swapaxes(0, 1)]
        batched = [x if x.ndim == 0 else np.stack(rows) for x, *rows in zip(alone[0], *alone, strict=True)]
        weights = np.random.default_rng(4).uniform(0.0, 1.0, (3, 9))
        weights[1, 4] = 0.0
        options = [{"weights": w, "reduction": "sum"} for w in weights]
        expected = [pair.value(*arguments, **more) for arguments, more in zip(alone, options, strict=True)]
        # the pieces that threads work on, too
        with limits.changed(tile=pairs, wide_tile=pairs, piece=pairs, shared_pairs=pairs):
            value, gradients = evaluate_pair(mode, pair.value, *batched, weights=weights, reduction="sum")
        np.testing.assert_allclose(value, sum(expected), rtol=1e-13)
        apart = [pair.gradient(*arguments, **more) for arguments, more in zip(alone, options, strict=True)]
        parts = [dict(flat(gradient)) for gradient in apart]
        for path, found in flat(gradients):
            shares = [part[path] for part in parts]
            derivative = np.stack(shares) if found.ndim else sum(shares)
            np.testing.assert_allclose(found, derivative, rtol=1e-10, atol=1e-13, err_msg=path)

    @parameterized.expand(list(product(CONTRASTIVE, ("numpy", "torch"))))
    def test_memory_grows_with_the_number_of_embeddings(self, name: str, library: str) -> None:
        embeddings = np.random.default_rng(1).standard_normal((2, 3000, 8)).astype(np.float32)
        arguments = [convert(x, library, "float32") for x in arguments_of(name, *embeddings)]
        value_and_gradient(find_loss(name).value)(*arguments)  # which may compile
        tracemalloc.start()
        value_and_gradient(find_loss(name).value)(*arguments)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(peak, 3000 * 3000 * 4 / 2)


NO_COLUMNS = pairs.PairColumns()


class CompiledRows(unittest.TestCase):
    """The compiled rules and those in plain NumPy are the same functions."""

    def compare(self, rule: Any, logits: Any, rows: Any, columns: Any = NO_COLUMNS) -> None:
        results = []
        for available in (True, False):
            with (
                limits.changed(compiled_pairs=1, compiled=available),
                mock.patch.object(pairs, "_fused", wraps=pairs._fused) as fused,
                np.errstate(all="ignore"),
            ):
                results.append(rule(np, logits.copy(), rows, columns))
                self.assertGreater(fused.call_count, 0)
        for compiled, plain in zip(*results, strict=True):
            if plain is None:
                self.assertIsNone(compiled)
            else:
                self.assertEqual(compiled.dtype, plain.dtype)
                np.testing.assert_allclose(compiled, plain, rtol=3e-6, atol=1e-6)

    def test_rows_of_every_kind(self) -> None:
        generator = np.random.default_rng(8)
        logits = 5.0 * generator.standard_normal((1, 18, 301)).astype(np.float32)
        logits[0, 1] = -math.inf
        logits[0, 2, 7], logits[0, 3, 7], logits[0, 4, 9] = math.inf, math.nan, -math.inf
        logits[0, 9], logits[0, 10], logits[0, 11] = 3e38, -3e38, 0.0
        target, own = generator.integers(0, 301, (1, 18)), np.linspace(-3.0, 3.0, 18, dtype=np.float32)[None]
        itself, scale = (target + 1) % 301, generator.uniform(-1.0, 1.0, (1, 18)).astype(np.float32)
        of_columns = pairs.PairColumns(
            log_sum=generator.uniform(5.0, 20.0, (1, 301)).astype(np.float32),
            scale=generator.uniform(-1.0, 1.0, (1, 301)).astype(np.float32),
        )
        # the label 77 is of two rows and no column but their own, if any
        labels, of_rows = generator.integers(0, 4, (1, 301)), generator.integers(0, 4, (1, 18))
        of_rows[0, [5, 6]] = labels[0, itself[0, 5]] = 77
        by_label = pairs.PairColumns(label=labels)
        for factors in (None, scale):
            found = pairs.PairRows(target=target, scale=factors)
            self.compare(pairs.softmax, logits, found)
            self.compare(pairs.softmax, logits, found._replace(itself=itself))
            self.compare(pairs.softmax_apart, logits, found._replace(own=own))
            self.compare(pairs.softmax_both_ways, logits, found, of_columns)
            self.compare(pairs.sigmoid, logits, found)
            rows = pairs.PairRows(itself=itself, label=of_rows, scale=factors)
            # without −∞, which is 0 · ∞ in a sum over partners that NumPy takes over all
            self.compare(pairs.softmax_by_label, np.maximum(logits, -100.0), rows, by_label)

    def test_sets_of_a_batch(self) -> None:
        logits = np.random.default_rng(8).standard_normal((3, 4, 50)).astype(np.float32)
        target, scale = np.arange(12).reshape(3, 4), np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)
        for rule in (pairs.softmax, pairs.sigmoid):
            self.compare(rule, logits, pairs.PairRows(target=target, scale=scale))

    @parameterized.expand([(name,) for name in CONTRASTIVE])
    def test_losses_of_large_sets(self, name: str) -> None:
        embeddings = np.random.default_rng(1).standard_normal((2, 300, 8)).astype(np.float32)
        arguments = arguments_of(name, *embeddings)
        value, gradients = value_and_gradient(find_loss(name).value)(
            *(x.astype(np.float32) if x.ndim == 0 else x for x in arguments)
        )
        exact = [x if x.dtype.kind == "i" else x.astype(np.float64) for x in arguments]
        expected, derivatives = value_and_gradient(find_loss(name).value)(*exact)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        for path, found, derivative in matched(gradients, derivatives):
            np.testing.assert_allclose(found, derivative, rtol=1e-4, atol=1e-6 * np.abs(derivative).max(), err_msg=path)


class PairRows(unittest.TestCase):
    """Rows of a set are coupled; a row or a set that does not count is out."""

    @parameterized.expand([(name,) for name in CONTRASTIVE])
    def test_micro_batches_do_not_add_up(self, name: str) -> None:
        pair = find_loss(name)
        self.assertFalse(pair.terms.separable)
        whole = float(pair.value(*arguments_of(name, QUERIES, KEYS), normalizer=7.0))
        halves = [arguments_of(name, QUERIES[at], KEYS[at]) for at in (slice(0, 4), slice(4, 7))]
        self.assertGreater(whole, sum(float(pair.value(*half, normalizer=7.0)) for half in halves) + 0.1)

    @parameterized.expand(list(product(CONTRASTIVE, ("numpy", "torch"))))
    def test_rows_in_another_order(self, name: str, mode: str) -> None:
        order = np.random.default_rng(2).permutation(7)
        arguments = arguments_of(name, QUERIES, KEYS)
        value, gradients = evaluate_pair(mode, find_loss(name).value, *arguments)
        shuffled = [x[order] if x.ndim else x for x in arguments]
        other_value, others = evaluate_pair(mode, find_loss(name).value, *shuffled)
        np.testing.assert_allclose(other_value, value, rtol=1e-13)
        for path, found, expected in matched(others, gradients):
            expected = expected[order] if found.ndim else expected
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14, err_msg=path)

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

    @parameterized.expand([(mode,) for mode in MODES])
    def test_row_without_a_partner(self, mode: str) -> None:
        labels = np.array([5, 5, 8])
        value, gradient = evaluate_pair(mode, supervised_contrastive_loss, QUERIES[:3], labels, reduction="none")
        self.assertGreater(value[0], 0.0)
        self.assertEqual(value[2], 0.0)
        _, own = evaluate_pair(
            mode, supervised_contrastive_loss, QUERIES[:3], labels, reduction="none", upstream=np.array([0.0, 0.0, 1.0])
        )
        np.testing.assert_array_equal(own, np.zeros((3, 4)))
        self.assertTrue(np.any(gradient[2]))  # it is a negative of the others
        # nobody has a partner, and nobody else is there
        for rows in (3, 1):
            value, gradient = evaluate_pair(mode, supervised_contrastive_loss, QUERIES[:rows], np.arange(rows))
            self.assertEqual(float(value), 0.0)
            np.testing.assert_array_equal(gradient, np.zeros((rows, 4)))

    @parameterized.expand([("int64",), ("int32",), ("uint8",), ("int8",), ("uint64",)])
    def test_labels_of_every_type(self, dtype: str) -> None:
        labels = np.array([1, 0, 1, 1, 127, 0, 127])
        expected = supervised_contrastive_loss(QUERIES, labels)
        np.testing.assert_array_equal(supervised_contrastive_loss(QUERIES, labels.astype(dtype)), expected)
        tensors = torch.tensor(QUERIES), torch.tensor(labels.astype(dtype))
        np.testing.assert_allclose(supervised_contrastive_loss(*tensors), expected, rtol=1e-14)

    def test_large_labels_are_told_apart(self) -> None:
        # 2²⁴ and 2²⁴ + 1 are one number in float32, 2,048 and 2,049 in float16
        for dtype, label in ((np.float32, 2**24), (np.float16, 2048)):
            labels = np.array([label, label + 1, label, label + 1])
            found = supervised_contrastive_loss(QUERIES[:4].astype(dtype), labels)
            self.assertEqual(found, supervised_contrastive_loss(QUERIES[:4].astype(dtype), np.array([0, 1, 0, 1])))

    def test_labels_that_are_none(self) -> None:
        for function in (supervised_contrastive_loss, find_loss("supervised_contrastive_loss").gradient):
            with self.assertRaisesRegex(TypeError, "labels must be integers, got float64"):
                function(QUERIES, np.zeros(7))
            with self.assertRaisesRegex(ValueError, r"one integer per row, shape \(7,\), got \(7, 1\)"):
                function(QUERIES, np.zeros((7, 1), dtype=int))

    def test_numbers_are_arrays_of_one(self) -> None:
        for scale, error in ((np.ones(2), ValueError), (1.0, TypeError), (np.array(1), TypeError)):
            with self.assertRaisesRegex(error, "logit_scale"):
                clip_loss(QUERIES, KEYS, scale)

    def test_scale_of_another_type(self) -> None:
        arguments = QUERIES.astype(np.float16), KEYS.astype(np.float32), np.array(1.0)
        gradients = find_loss(clip_loss).gradient(*arguments)
        self.assertEqual([g.dtype for g in gradients.values()], [np.float16, np.float32, np.float64])

    def test_one_pair_has_no_negatives(self) -> None:
        for name in ("info_nce_loss", "n_pair_loss", "nt_xent_loss", "clip_loss"):
            value, gradients = value_and_gradient(find_loss(name).value)(*arguments_of(name, QUERIES[:1], KEYS[:1]))
            self.assertEqual(float(value), 0.0)
            for _, gradient in flat(gradients):
                np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


class Extremes(unittest.TestCase):
    """Zero vectors, identical ones, tiny and huge ones, sharp temperatures."""

    @parameterized.expand(list(product([name for name in CONTRASTIVE if name != "n_pair_loss"], MODES)))
    def test_zero_vectors(self, name: str, mode: str) -> None:
        first, second = QUERIES.copy(), KEYS.copy()
        first[1] = second[3] = 0.0
        pair = find_loss(name)
        value, gradients = evaluate_pair(mode, pair.value, *arguments_of(name, first, second), dtype="float32")
        self.assertTrue(np.isfinite(value))
        by_name = gradients if isinstance(gradients, dict) else {pair.wrt[0]: gradients}
        for argument, zero in zip(pair.wrt, (1, 3), strict=False):
            if by_name[argument].ndim:
                self.assertTrue(np.isfinite(by_name[argument]).all(), argument)
                np.testing.assert_array_equal(by_name[argument][zero], np.zeros(4), err_msg=argument)

    @parameterized.expand([("float64", 1e-320), ("float64", 1e300), ("float32", 1e-42), ("float32", 1e37)])
    def test_length_does_not_count(self, dtype: str, scale: float) -> None:
        arrays = [np.asarray(x, dtype) for x in (QUERIES, KEYS)]
        scaled = [np.asarray(x * scale, dtype) for x in (QUERIES, KEYS)]
        value, gradients = value_and_gradient(info_nce_loss)(*scaled)
        # subnormal numbers have few digits
        np.testing.assert_allclose(value, info_nce_loss(*arrays), rtol=0.2 if scale < 1 else 1e-5)
        self.assertTrue(all(np.isfinite(g).all() for g in gradients.values()))

    @parameterized.expand([("numpy",), ("torch",)])
    def test_identical_embeddings(self, mode: str) -> None:
        same = np.tile(QUERIES[:1], (5, 1))
        for loss, expected in ((info_nce_loss, 5), (nt_xent_loss, 9)):
            value, gradients = evaluate_pair(mode, loss, same, same)
            np.testing.assert_allclose(value, math.log(expected), rtol=1e-14)
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

    @parameterized.expand([(name,) for name in CONTRASTIVE])
    def test_never_negative(self, name: str) -> None:
        generator = np.random.default_rng(5)
        for dtype in (np.float32, np.float16):
            same = 3.0 * generator.standard_normal((300, 16)).astype(dtype)
            for scale in (4.0, -4.0):
                arguments = [np.asarray(scale, dtype) if x.ndim == 0 else x for x in arguments_of(name, same, same)]
                self.assertGreaterEqual(find_loss(name).value(*arguments, reduction="none").min(), 0.0)

    def test_logits_that_no_exponential_holds(self) -> None:
        scale, bias = np.array(8.0), np.array(-300.0)  # logits between −3,281 and 2,681
        value, gradients = value_and_gradient(siglip_loss)(QUERIES, KEYS, scale, bias)
        u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (QUERIES, KEYS))
        logits = math.exp(8.0) * u @ v.T - 300.0
        expected = np.maximum(np.where(np.eye(7, dtype=bool), -logits, logits), 0.0).sum() / 7
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        self.assertTrue(all(np.isfinite(g).all() for g in gradients.values()))


class KnownMistakes(unittest.TestCase):
    """Where other implementations are known to be wrong."""

    @parameterized.expand(list(product(MODES, ("float32", "float64"))))
    def test_a_constant_inside_the_logarithm(self, mode: str, dtype: str) -> None:
        # four embeddings at right angles: a partner among three that are as near as it, at any temperature; a constant
        # of 1e-8 beside exponentials that were shifted by the diagonal's makes 81.6 of it
        eye = np.eye(4)
        value, gradients = evaluate_pair(mode, nt_xent_loss, eye[:2], eye[2:], temperature=0.01, dtype=dtype)
        np.testing.assert_allclose(value, math.log(3.0), rtol=1e-6)
        # (⅓ − 1) / 2n τ and its mirror image across the partner, and ⅓ / 2n τ and its mirror across each other one
        expected = np.array([[0.0, 1.0, -2.0, 1.0], [1.0, 0.0, 1.0, -2.0]]) / 3.0 / 4.0 * 2.0 / 0.01
        np.testing.assert_allclose(gradients["embedding1"], expected, rtol=1e-5, atol=1e-5)

    @parameterized.expand(list(product(MODES, ("float32", "float16"))))
    def test_a_probability_that_underflows(self, mode: str, dtype: str) -> None:
        # the partner opposite, a stranger at the same place: 100 − (−100), where log(p + tiny) ends at 87
        queries, keys = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.0], [1.0, 0.0]])
        losses, gradients = evaluate_pair(
            mode, info_nce_loss, queries, keys, temperature=0.01, dtype=dtype, reduction="none"
        )
        np.testing.assert_allclose(losses[0], 200.0, rtol=2e-3 if dtype == "float16" else 1e-6)
        self.assertTrue(all(np.isfinite(g).all() for g in gradients.values()))

    def test_sum_adds_up(self) -> None:
        for name in CONTRASTIVE:
            loss, arguments = find_loss(name).value, arguments_of(name, QUERIES, KEYS)
            np.testing.assert_allclose(loss(*arguments, reduction="sum"), 7.0 * loss(*arguments), rtol=1e-13)

    def test_nobody_has_a_partner(self) -> None:
        # 0 / 0, or the logarithm of nothing
        labels = np.arange(7)
        value, gradient = value_and_gradient(supervised_contrastive_loss)(QUERIES, labels)
        self.assertEqual(float(value), 0.0)
        np.testing.assert_array_equal(gradient, np.zeros((7, 4)))
        self.assertGreaterEqual(supervised_contrastive_loss(QUERIES, labels // 2, reduction="none").min(), 0.0)

    @parameterized.expand([("info_nce_loss",), ("supervised_contrastive_loss",), ("siglip_loss",)])
    def test_jax_holds_no_array_of_all_pairs(self, name: str) -> None:
        embeddings = np.random.default_rng(1).standard_normal((2, 4000, 64)).astype(np.float32)
        arguments = [convert(x, "jax", "float32") for x in arguments_of(name, *embeddings) if x.dtype != np.int64]
        if name == "supervised_contrastive_loss":
            arguments.append(jnp.arange(4000) // 2)
        both = jax.jit(lambda *a: value_and_gradient(find_loss(name).value)(*a))
        memory = both.lower(*arguments).compile().memory_analysis()
        self.assertLess(memory.temp_size_in_bytes, 4000 * 4000 * 4 / 2)
