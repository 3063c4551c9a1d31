"""Every fast path against the plain functions, which are the definition."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import unittest
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
import scipy.spatial
import torch
from cases import REDUCED, REDUCED_DRAWN, Case, convert, double_precision, label, matched, to_numpy
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import catalogue, limits, value_and_gradient
from mithril_losses.autodiff import plain_functions
from mithril_losses.backends import threads
from mithril_losses.backends.namespaces import namespace_of
from mithril_losses.backends.namespaces import numpy as numpy_namespace
from mithril_losses.checking import draw_arguments
from mithril_losses.domains import REAL, Elements, Labels, unenforced
from mithril_losses.execution import host
from mithril_losses.execution import jax as on_jax
from mithril_losses.loops import elements as element_loops
from mithril_losses.loops import rows as fused_softmax
from mithril_losses.loops.compiling import NotFusable
from mithril_losses.templates import elements
from mithril_losses.templates.columns import ByColumn
from mithril_losses.templates.elements import Elementwise
from mithril_losses.terms.reading import UnreadableTerms, read_terms

SPECIAL = {
    "real": [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.3,
        1e-30,
        -1e-30,
        1e-42,
        17.0,
        -88.0,
        1e4,
        -1e4,
        3e38,
        -3e38,
        np.inf,
        -np.inf,
        np.nan,
    ],
    "probability": [0.0, 1e-45, 1e-30, 1e-8, 0.25, 0.5, 0.9999999, 1.0, np.nan],
}
TIERS = (("fused", True), ("blocked", False))
ELEMENTWISE = [pair.name for pair in catalogue().values() if isinstance(pair.terms, Elementwise)]


@pytest.fixture(autouse=True)
def functions_called_by_name_are_plain() -> Iterator[None]:
    """What `value_and_gradient` returns is compared with them."""
    with plain_functions():
        yield


def small_limits() -> Any:
    """Let small arrays count as large, and several blocks and threads have a part in them."""
    return limits.changed(
        large=1,
        by_numpy=1,
        block=64,
        shared_blocks=1,
        group=1,
        shared=1,
        row_group=1,
        shared_rows=1,
        vector_group=1,
        shared_vectors=1,
    )


def loop_over(terms: Any, arrays: list[Any], options: list[Any], factor: float, values: Any, gradient: Any) -> float:
    """Fill the gradient by the compiled loop over terms, and return the sum of the values."""
    legal, how = [None] * len(arrays), {"threads": 2, "group": 1}
    total, _ = element_loops.run(
        terms, arrays, legal, options, None, factor, values=values, gradients=[gradient], **how
    )
    return total


# every mechanism once; the other losses go through the same ones with other terms, and each compiles for a second
THOROUGH = ("huber_loss", "kl_divergence", "cross_entropy_with_logits", "triplet_loss")
# one of each kind of loop
IN_LOOPS = (
    "huber_loss",
    "kl_divergence",
    "cross_entropy_with_logits",
    "vanilla_discriminator_loss",
    "total_variation_loss",
    "ssim_loss",
    "triplet_loss",
)
DRAWN_IN_LOOPS = [x for x in REDUCED_DRAWN if x.pair.name in IN_LOOPS]
OTHERS_DRAWN = [x for x in REDUCED_DRAWN if x.pair.name not in IN_LOOPS]


def variations(case: Case) -> list[dict[str, Any]]:
    """Every reduction; weights of every pattern that broadcasts; upstream gradients of both kinds."""
    if case.pair.name not in THOROUGH or case.name != "drawn":
        return [{}, {"weights": np.random.default_rng(2).integers(0, 3, case.rows).astype(float)}]
    generator = np.random.default_rng(2)
    rows = case.rows
    patterns = {rows, (*rows[:-1], 1), rows[-1:], (1,) * len(rows)}
    found: list[dict[str, Any]] = [{"reduction": r} for r in ("mean", "sum", "none", "weighted_mean", "batch_sum")]
    for pattern in sorted(patterns):
        weights = generator.integers(0, 3, pattern).astype(float)
        found += [{"weights": weights, "reduction": r} for r in ("mean", "weighted_mean", "none")]
    found.append({"reduction": "none", "upstream": generator.standard_normal(rows)})
    found.append({"upstream": -0.5, "normalizer": 3.0})
    found.append({"axis": 0, "upstream": generator.standard_normal(rows[1:])})
    return found


def _exponential_of_test(xp: Any, x: Any) -> Any:
    return xp.exp(x)


def _nested_of_test(xp: Any, x: Any) -> Any:
    slope = _exponential_of_test(xp, x)
    return slope + 1.0, slope


class AgainstThePlainFunctions(unittest.TestCase):
    @parameterized.expand(
        [
            (case, tier, library)
            for case in REDUCED
            for tier in TIERS
            for library in ("numpy", *(["torch"] if case in DRAWN_IN_LOOPS else []))  # in the memory of tensors
        ],
        name_func=label,
    )
    def test_every_loss_and_reduction(self, case: Case, tier: tuple[str, bool], library: str) -> None:
        variants = variations(case)  # the last one with weights; each is a loop of its own, which compiles for a second
        in_single = variants[:1] if case in DRAWN_IN_LOOPS else []
        for dtype, tolerance, chosen in (("float64", 1e-12, variants[-1:]), ("float32", 3e-6, in_single)):
            for keywords in variants if case.pair.name in THOROUGH and dtype == "float64" else chosen:
                with self.subTest(keywords={k: np.shape(v) or v for k, v in keywords.items()}), small_limits():
                    own = {k: v for k, v in keywords.items() if k != "upstream"}
                    both = value_and_gradient(case.pair.value, threads=2, compile=tier[1])
                    value, gradient = both(*case.arguments(library, dtype), **case.keywords(library, dtype, **keywords))
                    expected = case.value(library, dtype, **own)
                    self.assertEqual((value.dtype, value.shape), (expected.dtype, expected.shape))
                    # a mean of both signs can be no more exact than that of the magnitudes
                    each = np.abs(to_numpy(case.value(library, dtype, reduction="none"))).mean()
                    np.testing.assert_allclose(
                        to_numpy(value), to_numpy(expected), rtol=tolerance, atol=tolerance * each
                    )
                    for path, a, b in matched(gradient, case.gradient(library, dtype, **keywords)):
                        self.assertEqual((type(a), a.dtype, a.shape), (type(b), b.dtype, b.shape))
                        scale = np.abs(to_numpy(b)).max()
                        np.testing.assert_allclose(
                            to_numpy(a), to_numpy(b), rtol=tolerance, atol=tolerance * scale, err_msg=path
                        )

    @parameterized.expand(
        [
            ("positions", "cross_entropy_with_logits", (2, 30, 7), {}),
            ("classes in the middle", "cross_entropy_with_logits", (2, 7, 7), {"class_axis": 1}),
            ("a batch of one", "cross_entropy_with_logits", (1, 30, 7), {"label_smoothing": 0.1}),
            ("features", "triplet_loss", (2, 3, 10, 7), {}),
        ]
    )
    def test_rows_in_batch_elements_that_are_more_than_a_block(
        self, kind: str, loss: str, shape: tuple[int, ...], options: dict[str, Any]
    ) -> None:
        random = np.random.default_rng(0)
        first = random.standard_normal(shape)
        rest = [random.integers(0, 7, shape[:-1])]
        if loss == "triplet_loss":
            rest = [random.standard_normal(shape) for _ in range(2)]
        pair, rows = catalogue()[loss], shape[:-1]
        for more in (
            {"weights": random.uniform(0.0, 1.0, rows)},
            {"weights": random.uniform(0.0, 1.0, (rows[0], *(1 for _ in rows[1:])))},
            {"weights": np.full((1,) * len(rows), 0.5), "reduction": "weighted_mean"},
            {"upstream": random.standard_normal(rows), "reduction": "none"},
            {"upstream": np.array(0.5), "normalizer": np.array(3.0)},
            {"reduction": "batch_sum"},
        ):
            with self.subTest(more=more), limits.changed(large=1, block=21):
                value, gradient = value_and_gradient(pair.value, compile=False)(first, *rest, **options, **more)
                own = {name: x for name, x in more.items() if name != "upstream"}
                np.testing.assert_allclose(value, pair.value(first, *rest, **options, **own), rtol=1e-12)
                for path, a, b in matched(gradient, pair.gradient(first, *rest, **options, **more)):
                    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15, err_msg=path)

    def test_blocks_stay_small_where_a_batch_element_is_large(self) -> None:
        logits, labels = np.zeros((2, 20_000, 100), np.float32), np.zeros((2, 20_000), np.int64)
        both = value_and_gradient(ml.cross_entropy_with_logits, threads=1, compile=False)
        tracemalloc.start()
        try:
            _, gradient = both(logits, labels)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak - gradient.nbytes, logits[0].nbytes / 2)

    @parameterized.expand([("huber_loss",), ("cross_entropy_with_logits",)])
    def test_dtypes_that_no_loop_is_compiled_for(self, loss: str) -> None:
        pair = catalogue()[loss]
        arrays = list(draw_arguments(pair, np.random.default_rng(0))[0].values())
        plain = pair.gradient(*arrays)
        with small_limits():
            both = value_and_gradient(pair.value)
            for arguments in (
                [x.astype(x.dtype.newbyteorder("S")) for x in arrays],
                [arrays[0].astype(">f8"), arrays[1]],
            ):
                value, gradient = both(*arguments)
                np.testing.assert_allclose(value, pair.value(*arrays), rtol=1e-12)
                np.testing.assert_allclose(gradient, plain, rtol=1e-12, atol=1e-16)
                self.assertEqual(gradient.dtype, arguments[0].dtype)
            with self.assertRaisesRegex(TypeError, "targets must hold real numbers|class indices must be integers"):
                both(arrays[0], arrays[1] + 1j)

    def test_derivatives_that_torch_takes_of_the_value(self) -> None:
        both = value_and_gradient(ml.mse_loss)
        x, y = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])
        self.assertEqual(torch.func.grad(lambda x: both(x, y)[0])(x).tolist(), [1.0, 3.0])
        self.assertEqual(float(torch.func.grad(lambda w: both(x, y, weights=w)[0])(torch.ones(2))[1]), 4.5)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.tensor([1.0, 0.0]))
            self.assertEqual(float(torch.autograd.forward_ad.unpack_dual(both(dual, y)[0]).tangent), 1.0)

    def test_a_tensor_with_its_sign_to_come(self) -> None:
        x = torch.tensor([1.0 + 2.0j, 3.0j]).conj().imag  # a view that PyTorch negates when it is read
        value, gradient = value_and_gradient(ml.mse_loss)(x, torch.zeros(2))
        self.assertEqual((float(value), gradient.tolist()), (6.5, [-2.0, -3.0]))
        self.assertEqual(float(ml.hinge_loss(torch.zeros(2), torch.tensor([1.0 - 1.0j, 1.0j]).conj().imag)), 1.0)

    @parameterized.expand([(loss, "float32", *tier) for loss in ELEMENTWISE for tier in TIERS])
    def test_special_values(self, loss: str, dtype: str, tier: str, may_fuse: bool) -> None:
        self._compare_special_values(loss, np.dtype(dtype), may_fuse)

    @parameterized.expand([(loss, "float64", *tier) for loss in ELEMENTWISE for tier in TIERS])
    @pytest.mark.exhaustive  # the same loops, compiled again for other numbers
    def test_special_values_in_double_precision(self, loss: str, dtype: str, tier: str, may_fuse: bool) -> None:
        self._compare_special_values(loss, np.dtype(dtype), may_fuse)

    def _compare_special_values(self, loss: str, dtype: Any, may_fuse: bool) -> None:
        pair = catalogue()[loss]
        axes = []
        for name in pair.array_arguments:
            domain = pair.domain[name]
            if isinstance(domain, Labels):
                axes.append(list(domain.values))
            elif isinstance(domain, Elements) and domain.low == -np.inf:
                axes.append(SPECIAL["real"])
            else:
                axes.append(SPECIAL["probability"])
        table = np.array(list(itertools.product(*axes)), dtype=dtype)
        arrays = [np.ascontiguousarray(table[:, i, None]) for i in range(len(axes))]
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        for reduction in ("none",) if pair.terms.rows is None else ("none", "sum"):  # rows are only fused in sums
            with unenforced(), small_limits():  # rows of one number, which is not 1
                both = value_and_gradient(pair.value, compile=may_fuse)
                value, gradient = both(*arrays, reduction=reduction)
                expected, slope = pair.value(*arrays, reduction=reduction), pair.gradient(*arrays, reduction=reduction)
            np.testing.assert_allclose(value, expected, rtol=tolerance, atol=1e-44)
            for path, a, b in matched(gradient, slope):
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-44, err_msg=path)

    @parameterized.expand(
        [
            (loss, json.dumps(options), *tier)
            for loss, options in (
                ("triplet_loss", {"margin": 0.0}),
                ("triplet_loss", {"swap": True}),
                ("triplet_loss", {"squared": True, "swap": True}),
                ("contrastive_loss", {"margin": 1e3}),
                ("cosine_embedding_loss", {"margin": -0.5}),
            )
            for tier in TIERS
        ]
    )
    def test_special_vectors(self, loss: str, options: str, tier: str, may_fuse: bool) -> None:
        pair = catalogue()[loss]
        numbers = (0.0, 1.0, -0.7, 1e-30, 1e-42, -1e-320, 1e20, -3e38, 1e200, np.inf, -np.inf, np.nan)
        table = np.array(list(itertools.product(numbers, repeat=len(pair.wrt))))
        legal = [domain.values for domain in pair.domain.values() if isinstance(domain, Labels)]
        for dtype in (np.float32, np.float64):
            rows = np.random.default_rng(0).standard_normal((len(table), len(pair.wrt), 9))
            rows[::2] = 0.0  # every other row is its first number alone
            with np.errstate(over="ignore"):
                rows[:, :, 0] = table
                arrays = [np.ascontiguousarray(x.astype(dtype)) for x in np.moveaxis(rows, 1, 0)]
            labels = [np.resize(values, len(table)) for values in legal]
            keywords: Any = {
                **json.loads(options),
                "reduction": "none",
                "weights": np.resize((1.0, 2.0, 0.0), len(table)),
            }
            with small_limits():
                value, gradient = value_and_gradient(pair.value, compile=may_fuse)(*arrays, *labels, **keywords)
            tolerance = 1e-5 if dtype == np.float32 else 1e-12
            expected = pair.value(*arrays, *labels, **keywords)
            # one square less another is computed at once, so that ∞ − ∞ need not come up
            some = ~np.isnan(expected) if "squared" in keywords else slice(None)
            np.testing.assert_allclose(value[some], expected[some], rtol=tolerance, atol=tolerance)
            finite = np.isfinite(value) & ~np.isnan(table).any(axis=1)  # an infinite loss has an infinite gradient
            slopes = pair.gradient(*arrays, *labels, **keywords)
            for vectors, (name, a) in zip(arrays, gradient.items(), strict=True):
                self.assertTrue(np.isfinite(a[finite]).all())
                b = slopes[name]
                largest = 1.0 + np.abs(b[finite]).max(axis=1, keepdims=True)  # unit vectors may cancel
                if "cosine" in loss:  # what cancels there is as large as the turn of a unit vector
                    with np.errstate(divide="ignore", over="ignore"):
                        largest += 1.0 / np.linalg.norm(vectors[finite], axis=1, keepdims=True)
                difference = np.abs(a[finite] - b[finite]).max(axis=1, keepdims=True)
                np.testing.assert_array_less(difference, tolerance * largest, err_msg=name)

    @parameterized.expand(
        [(loss.name, *tier) for loss in catalogue().values() if isinstance(loss.terms, ByColumn) for tier in TIERS]
    )
    def test_special_columns(self, loss: str, tier: str, may_fuse: bool) -> None:
        pair = catalogue()[loss]
        numbers = np.array([0.0, 1.0, -1.0, 0.3, 1e-30, 1e-42, 1e4, 3e38, -3e38, np.inf, -np.inf, np.nan])
        drawn = np.random.default_rng(0).choice(numbers, (2, 5000, 4))
        drawn[:, ::2] = np.random.default_rng(1).choice(numbers[:6], (2, 2500, 4))
        drawn = np.sort(drawn.reshape(2, -1, 2, 2), axis=2).reshape(2, -1, 4)  # the lower corner first
        for dtype in (np.float32, np.float64):
            boxes, targets = drawn.astype(dtype)
            weights = np.resize((1.0, 2.0, 0.0), len(boxes))
            for reduction in ("none",) if dtype == np.float32 else ("sum",):  # each is a loop of its own
                keywords: Any = {"weights": weights, "reduction": reduction}
                with small_limits(), limits.changed(block=1 << 12):
                    value, gradient = value_and_gradient(pair.value, compile=may_fuse)(boxes, targets, **keywords)
                tolerance = 1e-5 if dtype == np.float32 else 1e-12
                expected, slope = pair.value(boxes, targets, **keywords), pair.gradient(boxes, targets, **keywords)
                np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
                np.testing.assert_array_equal(np.isnan(gradient), np.isnan(slope))
                if reduction == "none":
                    self.assertTrue(np.isfinite(gradient[np.isfinite(value)]).all())
                # sides of very different lengths leave nothing but rounding of a slope along the longer one
                even = np.isin(drawn, numbers[:4]).all(axis=(0, 2))
                self.assertGreater(even.sum(), 50)
                np.testing.assert_allclose(gradient[even], slope[even], rtol=10 * tolerance, atol=10 * tolerance)

    @parameterized.expand([(classes, *tier) for classes in (9, 700) for tier in TIERS])  # a row is done in two ways
    def test_special_scores(self, classes: int, tier: str, may_fuse: bool) -> None:
        rows = [*itertools.product((0.0, -np.inf, np.inf, np.nan, 3e38, -3e38, 1e-42, 90.0), repeat=2)]
        rows += [(-np.inf,) * classes, (np.inf,) * classes, (np.nan,) * classes]
        labels = np.arange(len(rows)) % 3
        weights = np.arange(classes) % 4 * 0.5
        for dtype in (np.float32, np.float64):
            scores = np.random.default_rng(0).standard_normal((len(rows), classes)).astype(dtype)
            for row, special in zip(scores, rows, strict=True):
                row[: len(special)] = special
            for targets in (labels, np.eye(classes, dtype=dtype)[labels]):
                for options in ({}, {"label_smoothing": 0.1}, {"class_weights": weights}):
                    keywords = {**options, "reduction": "none"}
                    with small_limits():
                        value, gradient = value_and_gradient(ml.cross_entropy_with_logits, compile=may_fuse)(
                            scores, targets, **keywords
                        )
                    rtol = 1e-5 if dtype == np.float32 else 1e-12
                    tolerance = {"rtol": rtol, "atol": 1e-4 * rtol}  # p and q nearly cancel
                    expected = ml.cross_entropy_with_logits(scores, targets, **keywords)
                    np.testing.assert_allclose(value, expected, **tolerance)
                    expected = ml.cross_entropy_with_logits_gradient(scores, targets, **keywords)
                    np.testing.assert_allclose(gradient, expected, **tolerance)

    @parameterized.expand([(x, tier) for x in DRAWN_IN_LOOPS for tier in TIERS], name_func=label)
    def test_thread_count_does_not_matter(self, case: Case, tier: tuple[str, bool]) -> None:
        self._compare_thread_counts(case, tier)

    @parameterized.expand([(x, tier) for x in OTHERS_DRAWN for tier in TIERS], name_func=label)
    @pytest.mark.exhaustive  # other terms in the same loops
    def test_thread_count_does_not_matter_to_other_losses(self, case: Case, tier: tuple[str, bool]) -> None:
        self._compare_thread_counts(case, tier)

    def _compare_thread_counts(self, case: Case, tier: tuple[str, bool]) -> None:
        arrays, options = draw_arguments(case.pair, np.random.default_rng(0), (3000, 9))
        arrays = {name: convert(x, "numpy", "float32") for name, x in arrays.items()}
        weights = np.random.default_rng(1).uniform(
            0.5, 1.0, np.shape(Case(case.pair, "", arrays, options).value(reduction="none"))
        )
        results = []
        for count in (1, 2, 4):
            with small_limits(), limits.changed(block=4096):
                both = value_and_gradient(case.pair.value, threads=count, compile=tier[1])
                results.append(both(*arrays.values(), **options, weights=weights))
        for value, gradient in results[1:]:
            self.assertEqual(value, results[0][0])
            for path, a, b in matched(gradient, results[0][1]):
                np.testing.assert_array_equal(a, b, err_msg=path)

    @parameterized.expand([(pair.name,) for pair in catalogue().values() if pair.takes_reduction])
    def test_only_separable_losses_are_blocked(self, loss: str) -> None:
        pair = catalogue()[loss]
        arrays, options = draw_arguments(pair, np.random.default_rng(4))
        whole = pair.value(*arrays.values(), **options, reduction="none")
        if pair.terms.separable:
            parts = [
                pair.value(*(x[i : i + 1] for x in arrays.values()), **options, reduction="none")
                for i in range(len(whole))
            ]
            np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-12)
        else:
            with small_limits(), mock.patch.object(host, "over_blocks") as blocks:
                value_and_gradient(pair.value)(*arrays.values(), **options)
            blocks.assert_not_called()

    def test_awkward_layouts(self) -> None:
        generator = np.random.default_rng(0)
        p, t = generator.standard_normal((2, 200, 300))
        for view in (lambda x: x.T, lambda x: x[:, ::2], lambda x: np.asfortranarray(x), lambda x: x[None, :, 5:9]):
            for may_fuse in (True, False):
                with small_limits():
                    value, gradient = value_and_gradient(ml.huber_loss, compile=may_fuse)(view(p), view(t))
                np.testing.assert_allclose(value, ml.huber_loss(view(p), view(t)), rtol=1e-12)
                np.testing.assert_allclose(gradient, ml.huber_loss_gradient(view(p), view(t)), rtol=1e-12)
                self.assertTrue(gradient.flags.writeable)

    def test_mixed_dtypes(self) -> None:
        generator = np.random.default_rng(0)
        p = generator.standard_normal((64, 700)).astype(np.float32)
        t = generator.standard_normal((64, 700))
        labels = (t > 0).astype(np.uint8)
        half = p.astype(np.float16)
        for loss, arguments in (
            (ml.mse_loss, (p, t)),
            (ml.binary_cross_entropy_with_logits, (p, labels)),
            (ml.binary_cross_entropy_with_logits, (p, labels.astype(bool))),
            (ml.mse_loss, (half, t)),
            (ml.cross_entropy_with_logits, (half, labels[:, 0])),
            (ml.cross_entropy_with_logits, (p.T.copy().T, labels[:, 0].astype(np.uint64))),
        ):
            value, gradient = value_and_gradient(loss)(*arguments)
            expected = catalogue()[loss.__name__].gradient(*arguments)
            self.assertEqual((value.dtype, gradient.dtype), (arguments[0].dtype, arguments[0].dtype))
            np.testing.assert_allclose(
                float(value), float(loss(*arguments)), rtol=1e-3 if value.dtype == np.float16 else 2e-6
            )
            np.testing.assert_allclose(gradient, expected, rtol=1e-2 if value.dtype == np.float16 else 1e-5, atol=1e-9)

    def test_users_own_terms(self) -> None:
        from mithril_losses.domains import POSITIVE

        @ml.elementwise(predictions=REAL, targets=REAL, scale=POSITIVE)
        def _log_cosh(xp: Any, predictions: Any, targets: Any, scale: float) -> Any:
            """log cosh(e / s)."""
            error = (predictions - targets) / scale
            tail = xp.log1p(xp.exp(-2 * xp.abs(error)))
            return xp.abs(error) + tail - 0.6931471805599453, xp.tanh(error) / scale

        def log_cosh_of_test(predictions: Any, targets: Any, *, scale: float = 1.0, **reduction: Any) -> Any:
            return _log_cosh.value(predictions, targets, scale, **reduction)

        @ml.gradient_of(log_cosh_of_test, terms=_log_cosh)
        def log_cosh_of_test_gradient(predictions: Any, targets: Any, *, scale: float = 1.0, **reduction: Any) -> Any:
            return _log_cosh.gradient(predictions, targets, scale, **reduction)

        self.addCleanup(ml.unregister, "log_cosh_of_test")
        ml.check_gradient(log_cosh_of_test, np.array([0.3, -1.0]), np.array([0.0, 2.0]), scale=0.7)
        p, t = np.random.default_rng(0).standard_normal((2, 100_000)).astype(np.float32)
        with mock.patch.object(elements, "over_blocks", side_effect=AssertionError("not fused")):
            value, gradient = value_and_gradient(log_cosh_of_test)(p, t, scale=0.7)
        np.testing.assert_allclose(value, log_cosh_of_test(p, t, scale=0.7), rtol=1e-5)
        np.testing.assert_allclose(gradient, log_cosh_of_test_gradient(p, t, scale=0.7), rtol=1e-5, atol=1e-10)

    @parameterized.expand(TIERS)
    def test_several_slopes_summed_over_all_but_the_first_axis(self, tier: str, may_fuse: bool) -> None:
        @ml.elementwise(center=REAL, spread=REAL, truth=REAL, slopes=2, rows=1)
        def _squares(xp: Any, center: Any, spread: Any, truth: Any) -> Any:
            error = center - truth
            return error * error + spread * spread * spread, (2.0 * error, 3.0 * spread * spread)

        def squares_of_test(center: Any, spread: Any, truth: Any, **reduction: Any) -> Any:
            return _squares.value(center, spread, truth, **reduction)

        @ml.gradient_of(squares_of_test, terms=_squares)
        def squares_of_test_gradient(center: Any, spread: Any, truth: Any, **reduction: Any) -> Any:
            return _squares.gradient(center, spread, truth, **reduction)

        self.addCleanup(ml.unregister, "squares_of_test")
        self.assertEqual(catalogue()["squares_of_test"].wrt, ("center", "spread"))
        generator = np.random.default_rng(0)
        center, spread, truth = generator.standard_normal((3, 50, 40, 30))
        weights = generator.integers(0, 3, 50).astype(float)
        losses = ((center - truth) ** 2 + spread**3).sum((1, 2))
        both = value_and_gradient(squares_of_test, compile=may_fuse)
        loop, way = elements._ElementLoop, "compiled" if may_fuse else "blocked"
        for keywords, factor, expected in (
            ({}, 1 / 50, losses.mean()),
            ({"reduction": "sum", "weights": weights, "upstream": 0.5}, 0.5, (weights * losses).sum()),
            ({"reduction": "batch_sum"}, 1 / 50, losses.mean()),
            (
                {"reduction": "weighted_mean", "weights": weights},
                1 / weights.sum(),
                np.average(losses, weights=weights),
            ),
        ):
            scale = factor * keywords.get("weights", np.ones(50))[:, None, None]
            with mock.patch.object(loop, way, autospec=True, side_effect=getattr(loop, way)) as ran:
                value, gradient = both(center, spread, truth, **keywords)
            ran.assert_called_once()
            np.testing.assert_allclose(value, expected, rtol=1e-12)
            np.testing.assert_allclose(gradient["center"], scale * 2.0 * (center - truth), rtol=1e-12, atol=1e-16)
            np.testing.assert_allclose(gradient["spread"], scale * 3.0 * spread**2, rtol=1e-12, atol=1e-16)
        value, gradient = both(center, spread, truth, reduction="none")
        np.testing.assert_allclose(value, losses, rtol=1e-12)
        self.assertEqual(set(gradient), {"center", "spread"})
        # each gradient in the dtype of its argument, computed in the widest of them
        value, gradient = both(center.astype(np.float32), spread, truth)
        self.assertEqual((value.dtype, gradient["center"].dtype, gradient["spread"].dtype), ("f4", "f4", "f8"))
        np.testing.assert_allclose(gradient["spread"], 3.0 * spread**2 / 50, rtol=1e-12)
        small = np.ones(4), np.ones(4), np.zeros(4)  # nothing left to sum over
        np.testing.assert_array_equal(squares_of_test(*small, reduction="none"), [2.0] * 4)
        np.testing.assert_array_equal(squares_of_test_gradient(*small)["spread"], [0.75] * 4)

    def test_functions_that_are_handed_the_namespace_are_compiled_with_the_terms(self) -> None:
        @ml.elementwise(predictions=REAL, targets=REAL)
        def _terms(xp: Any, predictions: Any, targets: Any) -> Any:
            value, slope = _nested_of_test(xp, predictions - targets)
            return value, slope

        p, t = np.random.default_rng(0).standard_normal((2, 1000))
        gradient = np.empty(1000)
        total = loop_over(_terms.terms, [p, t], [], 2.0, None, gradient)
        np.testing.assert_allclose(total, np.sum(np.exp(p - t) + 1.0), rtol=1e-13)
        np.testing.assert_allclose(gradient, 2.0 * np.exp(p - t), rtol=1e-13)

        def _without_namespace(xp: Any, predictions: Any, targets: Any) -> Any:
            return _exponential_of_test(predictions, targets), targets

        with self.assertRaisesRegex(UnreadableTerms, "not take the array namespace"):
            read_terms(_without_namespace)

    def test_terms_are_cut_where_an_expensive_function_needs_another(self) -> None:
        def _terms(xp: Any, predictions: Any, targets: Any, rate: float) -> Any:
            error = predictions - targets
            side = error > 0.0
            error = xp.exp(rate * error)
            error = xp.where(side & (error > 1.0), xp.log(error), error)
            value, slope = _nested_of_test(xp, -error)
            return value + xp.tanh(value), slope * xp.log(rate + 0.0 * error)

        p, t = np.random.default_rng(0).standard_normal((2, 20_000))  # more than a chunk, and no whole number of strips
        self.assertEqual(len(read_terms(_terms).stages), 4)
        gradient, value = np.empty((2, p.size))
        total = loop_over(_terms, [p, t], [1.5], 2.0, value, gradient)
        expected, slope = _terms(np, p, t, 1.5)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, 2.0 * slope, rtol=1e-12)
        np.testing.assert_allclose(total, expected.sum(), rtol=1e-12)

    def test_terms_beyond_the_vocabulary_are_refused(self) -> None:
        def _floor(xp: Any, predictions: Any, targets: Any) -> Any:
            error = xp.floor(predictions - targets)
            return error, error

        def _method(xp: Any, predictions: Any, targets: Any) -> Any:
            return predictions.conj() * targets, targets

        def _attribute(xp: Any, predictions: Any, targets: Any) -> Any:
            return predictions.size * targets, targets

        p, gradient = np.zeros((2, 10))
        for terms, word in ((_floor, "floor"), (_method, "conj"), (_attribute, "size"), (_method, "conj")):
            with self.assertRaisesRegex(NotFusable, word):
                loop_over(terms, [p, p], [], 1.0, None, gradient)

    def test_terms_out_of_reach_are_blocked(self) -> None:
        factor = 2.0

        @ml.elementwise(predictions=REAL, targets=REAL)
        def _closure(xp: Any, predictions: Any, targets: Any) -> Any:
            error = predictions - targets
            return factor * error * error, 2.0 * factor * error

        with self.assertRaises(UnreadableTerms):
            read_terms(_closure.terms)

        def loss_of_closure(predictions: Any, targets: Any, **reduction: Any) -> Any:
            return _closure.value(predictions, targets, **reduction)

        @ml.gradient_of(loss_of_closure, terms=_closure)
        def loss_of_closure_gradient(predictions: Any, targets: Any, **reduction: Any) -> Any:
            return _closure.gradient(predictions, targets, **reduction)

        self.addCleanup(ml.unregister, "loss_of_closure")
        p, t = np.random.default_rng(0).standard_normal((2, 50_000))
        value, gradient = value_and_gradient(loss_of_closure)(p, t)
        np.testing.assert_allclose(value, loss_of_closure(p, t), rtol=1e-12)
        np.testing.assert_allclose(gradient, loss_of_closure_gradient(p, t), rtol=1e-12)


class Failures(unittest.TestCase):
    """An error reaches the caller with its own message, and the pool keeps working."""

    def test_options_are_looked_at_in_every_call(self) -> None:
        both = partial(value_and_gradient(ml.binary_cross_entropy_with_logits), np.zeros(2), np.ones(2))
        both(pos_weight=1.0)
        for _ in range(2):
            self.assertRaises(ValueError, both, pos_weight=-1.0)
            self.assertRaises(TypeError, both, pos_weight=True)
            self.assertRaises(ValueError, both, pos_weight=np.ones((2, 2)))

    @parameterized.expand([(library,) for library in ("numpy", "torch", "jax")])
    def test_an_argument_given_twice(self, library: str) -> None:
        x = convert(np.zeros((200, 200)), library, "float32")
        for loss in (ml.mse_loss, ml.kl_divergence, ml.psnr_loss, ml.wasserstein_distance):
            for few in (x, x[:2, :2]):
                with self.subTest(loss=loss, size=len(few)), self.assertRaises(TypeError):
                    value_and_gradient(loss)(few, few, targets=few)

    @parameterized.expand([(library, *tier) for library in ("numpy", "torch", "jax") for tier in TIERS])
    def test_illegal_labels(self, library: str, tier: str, may_fuse: bool) -> None:
        scores = np.random.default_rng(0).standard_normal((400_000, 3)).astype(np.float32)
        labels = np.zeros(len(scores), dtype=np.int32)
        labels[-1] = 3
        signs = np.ones((400_000, 3), dtype=np.float32)
        signs[-1, -1] = 0.0
        for loss, targets in ((ml.cross_entropy_with_logits, labels), (ml.hinge_loss, signs)):
            arguments = [convert(x, library, "float32") for x in (scores, targets)]
            with self.assertRaises(ValueError) as plain:
                loss(*arguments)
            with self.assertRaises(ValueError) as fast:
                value_and_gradient(loss, threads=2, compile=may_fuse)(*arguments)
            self.assertEqual(str(plain.exception), str(fast.exception))
        value, _ = value_and_gradient(ml.mse_loss, threads=2, compile=may_fuse)(scores, scores)
        self.assertEqual(value, 0.0)

    def test_errors_are_those_of_the_plain_functions(self) -> None:
        p = np.zeros((200, 200))
        for arguments, keywords, error in (
            ((p, p[:1]), {}, ValueError),
            ((p, p), {"delta": -1.0}, ValueError),
            ((p, p), {"reduction": "average"}, ValueError),
            ((p, p), {"weights": np.ones((3, 3))}, ValueError),
            ((p, p), {"upstream": np.ones((3, 3))}, ValueError),
            ((p, torch.zeros(200, 200)), {}, TypeError),
            ((p, p, 1.0), {}, TypeError),
            ((p,), {}, TypeError),
            ((p.astype(np.int64), p), {}, TypeError),
        ):
            for convert_first in (False, True):
                if convert_first and all(isinstance(x, np.ndarray) for x in arguments):
                    arguments = tuple(torch.from_numpy(x) for x in arguments)
                    keywords = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in keywords.items()}
                with self.assertRaises(error) as plain:
                    ml.huber_loss_gradient(*arguments, **keywords)
                with self.assertRaises(error) as fast:
                    value_and_gradient(ml.huber_loss)(*arguments, **keywords)
                if error is ValueError:
                    self.assertEqual(str(plain.exception), str(fast.exception))

    def test_exceptions_of_a_worker(self) -> None:
        def work(part: int) -> None:
            if part == 7:
                raise RuntimeError("part 7")

        for _ in range(3):
            with self.assertRaisesRegex(RuntimeError, "part 7"):
                threads.share(50, work, 4)
        done: list[int] = []
        threads.share(50, done.append, 4)
        self.assertEqual(sorted(done), list(range(50)))


class Threads(unittest.TestCase):
    def test_thread_count(self) -> None:
        with mock.patch.dict(os.environ, {threads.VARIABLE: "3"}):
            self.assertEqual(threads.thread_count(), 3)
            self.assertEqual(threads.thread_count(2), 2)
        for bad in ("0", "-1", "two"):
            with (
                mock.patch.dict(os.environ, {threads.VARIABLE: bad}),
                self.assertRaisesRegex(ValueError, threads.VARIABLE),
            ):
                threads.thread_count()
        with self.assertRaisesRegex(ValueError, "threads"):
            value_and_gradient(ml.mse_loss, threads=0)

    def test_nested_shares_run_on_their_own_thread(self) -> None:
        seen: list[tuple[str, str]] = []

        def outer(part: int) -> None:
            name = threading.current_thread().name
            threads.share(4, lambda _: seen.append((name, threading.current_thread().name)), 4)

        threads.share(8, outer, 4)
        self.assertEqual(len(seen), 32)
        self.assertTrue(all(a == b for a, b in seen))

    def test_calls_from_many_threads(self) -> None:
        p, t = np.random.default_rng(0).standard_normal((2, 300_000)).astype(np.float32)
        expected = value_and_gradient(ml.huber_loss, threads=1)(p, t)
        results: list[Any] = []

        def call() -> None:
            results.extend(value_and_gradient(ml.huber_loss, threads=3)(p, t) for _ in range(5))

        workers = [threading.Thread(target=call) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(len(results), 40)
        for value, gradient in results:
            self.assertEqual(value, expected[0])
            np.testing.assert_array_equal(gradient, expected[1])

    def test_fork_and_exit(self) -> None:
        script = """
            import os
            import numpy as np
            from mithril_losses import huber_loss, value_and_gradient
            p = np.linspace(-3, 3, 600_000, dtype=np.float32)
            both = value_and_gradient(huber_loss, threads=4)
            value, gradient = both(p, 0 * p)
            child = os.fork()
            if child == 0:
                again, same = both(p, 0 * p)
                os._exit(0 if again == value and np.array_equal(same, gradient) else 1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
        )
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "0\n", ""))


class NumpyNamespace(unittest.TestCase):
    """What replaces NumPy's functions returns what they return, bit by bit."""

    @parameterized.expand(["float16", "float32", "float64"])
    def test_bits(self, dtype: str) -> None:
        generator = np.random.default_rng(2)
        with np.errstate(over="ignore"):
            x, y = (generator.choice(np.array(SPECIAL["real"]), 5000).astype(dtype) for _ in range(2))
        mask = generator.random(5000) < 0.5
        square, branches = (50, 100), ((x, y), (x, 0.0), (0.0, x), (x, -0.0), (np.nan, x), (1, x))
        for name, arguments in (
            *(("where", (mask, *pair)) for pair in branches),
            ("where", (mask.reshape(square)[:, :1], x.reshape(square), y.reshape(square))),
            ("where", (mask, x, y[:1])),
            ("where", (mask[::2], x[::2], y[1::2])),
            ("where", (mask[:10], x[:10], y[:10])),
            ("where", (mask.reshape(square).T, x.reshape(square).T, y.reshape(square).T)),
            ("where", (mask, x, y.astype("float64" if dtype == "float32" else "float32"))),
            ("where", (mask, mask, ~mask)),
            *((name, (x, bound)) for name in ("maximum", "minimum") for bound in (0.0, -0.0, 1.0, -1e4, y)),
            ("maximum", (0.0, x)),
            ("minimum", (x[:10], 0.5)),
        ):
            with self.subTest(name, arguments=arguments), np.errstate(all="ignore"):
                kept = [np.array(a) for a in arguments]
                found, expected = (getattr(xp, name)(*arguments) for xp in (numpy_namespace, np))
                self.assertEqual((found.dtype, found.shape), (expected.dtype, expected.shape))
                self.assertEqual(np.ascontiguousarray(found).tobytes(), np.ascontiguousarray(expected).tobytes())
                self.assertTrue(found.flags.writeable and not any(np.shares_memory(found, a) for a in arguments))
                for before, after in zip(kept, arguments, strict=True):
                    np.testing.assert_array_equal(before, after)

    def test_only_small_arrays_go_to_numpy(self) -> None:
        x = np.ones(1 << 13, np.float32)
        with mock.patch.object(np, "where", side_effect=AssertionError):
            numpy_namespace.where(x > 0, x, 0.0)
            with self.assertRaises(AssertionError):
                numpy_namespace.where(x[:8] > 0, x[:8], 0.0)

    def test_a_choice_between_two_numbers_is_refused(self) -> None:
        x = np.array([1.0, -1.0])
        for xp, array in ((numpy_namespace, x), (namespace_of(torch.tensor(x)), torch.tensor(x))):
            for choices in ((1.0, 0.0), (1, 0), (0.5, 2)):
                with self.assertRaisesRegex(TypeError, r"such as xp\.where\(condition, xp\.ones_like\(x\), 0\.0\)"):
                    xp.where(array > 0.0, *choices)
            np.testing.assert_array_equal(xp.where(array > 0.0, xp.ones_like(array), 0.0), [1.0, 0.0])


class OtherLibraries(unittest.TestCase):
    def test_jax_compiles_once_per_set_of_options(self) -> None:
        p = jax.numpy.arange(6.0).reshape(2, 3)
        both = value_and_gradient(ml.huber_loss)
        jitted = on_jax.jitted(catalogue()["huber_loss"])((), False)
        before = jitted._cache_size()
        for weight in (1.0, 2.0, 3.0):
            _, gradient = both(p, 0 * p, delta=weight, upstream=weight)
            np.testing.assert_allclose(gradient, weight * np.clip(np.asarray(p), -weight, weight) / 6, rtol=1e-6)
        self.assertLessEqual(jitted._cache_size() - before, 1)

    def test_a_first_call_within_a_trace(self) -> None:
        x = jax.numpy.ones(3)
        for trace in (jax.jit, jax.vmap, jax.grad):
            on_jax.concrete_array.cache_clear()
            trace(lambda p: value_and_gradient(ml.mse_loss)(p, p)[0])(x if trace is not jax.vmap else x[None])
            self.assertIs(on_jax.concrete_array(), type(x))

    def test_jax_refuses_an_equal_option_of_another_type(self) -> None:
        counts = jax.numpy.ones(3)
        for legal, illegal in (({"full": True}, {"full": 1}), ({"axis": 0}, {"axis": False})):
            with self.subTest(illegal):
                both = value_and_gradient(ml.poisson_negative_log_likelihood)
                both(counts, counts, **legal)
                with self.assertRaises(TypeError):
                    both(counts, counts, **illegal)

    @parameterized.expand([(x,) for x in DRAWN_IN_LOOPS], name_func=label)
    @pytest.mark.optimized_xla  # as users compile them
    def test_jax_pairs_inside_a_trace(self, case: Case) -> None:
        more = {"weights": case.weights, "normalizer": 3.0}
        with double_precision("jax"):
            both = partial(value_and_gradient(case.pair.value), **case.keywords("jax", upstream=0.25, **more))
            value, gradient = jax.jit(both)(*case.arguments("jax"))
        np.testing.assert_allclose(value, case.value(**more), rtol=1e-12)
        for path, a, b in matched(gradient, case.gradient(upstream=0.25, **more)):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14, err_msg=path)

    def test_a_nan_stays_in_the_derivative_by_an_option(self) -> None:
        x = jax.numpy.zeros(10_000).at[7].set(np.nan)
        by_level = jax.jit(jax.jacfwd(lambda level: ml.expectile_loss(x, 0.0 * x, expectile=level)))
        self.assertTrue(np.isnan(by_level(0.3)))

    @parameterized.expand(
        [(x,) for x in REDUCED_DRAWN if (x.pair.name in IN_LOOPS or x.pair.terms.by_numpy)], name_func=label
    )
    def test_large_jax_arrays_on_the_cpu_are_computed_as_those_of_numpy(self, case: Case) -> None:
        chosen = [more for more in variations(case) if "axis" not in more]  # no loop reduces along some axes only
        for more in chosen if len(chosen) == 2 else chosen[::5]:  # all of them are NumPy's, above
            with self.subTest(more=more), small_limits(), double_precision("jax"):
                own = {k: v for k, v in more.items() if k != "upstream"}
                arguments, keywords = case.arguments("jax"), case.keywords("jax", **more)
                kept = [np.array(x) for x in arguments]
                with mock.patch.object(on_jax.OnJax, "__call__", side_effect=AssertionError("by JAX")):
                    value, gradient = value_and_gradient(case.pair.value, threads=2)(*arguments, **keywords)
                expected = case.value(**own)
                self.assertEqual((value.dtype, value.shape), (expected.dtype, np.shape(expected)))
                np.testing.assert_allclose(value, expected, rtol=1e-12)
                for path, a, b in matched(gradient, case.gradient(**more)):
                    self.assertIsInstance(a, jax.Array)
                    self.assertEqual((a.dtype, a.shape), (b.dtype, b.shape))
                    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14, err_msg=path)
                for before, after in zip(kept, arguments, strict=True):
                    np.testing.assert_array_equal(before, after)

    def test_jax_takes_the_gradient_over_without_a_copy(self) -> None:
        made: list[np.ndarray] = []

        def empty(*arguments: Any) -> np.ndarray:
            made.append(empty_of_host(*arguments))
            return made[-1]

        empty_of_host, p = host.empty, jax.numpy.ones((300, 300))
        with mock.patch.object(host, "empty", empty):
            _, gradient = value_and_gradient(ml.mse_loss)(p, 0 * p)
        self.assertEqual([x.ctypes.data for x in made], [gradient.unsafe_buffer_pointer()])

    def test_results_stay_on_the_device_of_the_jax_arrays(self) -> None:
        script = """
            import jax
            from unittest import mock
            from mithril_losses import mse_loss, value_and_gradient
            from mithril_losses.execution import jax as on_jax

            one, two = jax.devices()
            both = value_and_gradient(mse_loss)
            with mock.patch.object(on_jax.OnJax, "__call__", side_effect=AssertionError("by JAX")):
                for device in (one, two):
                    p = jax.device_put(jax.numpy.ones((300, 300)), device)
                    value, gradient = both(p, 0 * p)
                    assert value.devices() == gradient.devices() == {device}, device
            free = jax.numpy.ones((300, 300))
            _, gradient = both(free, 0 * free)
            gradient + jax.device_put(free, two)  # what was not bound to a device still is not

            mesh = jax.sharding.Mesh(jax.devices(), ("rows",))
            shared = jax.device_put(free, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows")))
            value, gradient = both(shared, 0 * shared)
            assert float(value) == 1.0 and gradient.sharding == shared.sharding
        """
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=True, timeout=120)

    def test_jax_refuses_what_the_plain_functions_refuse(self) -> None:
        p = jax.numpy.zeros((2, 3))
        for keywords in ({"delta": -1.0}, {"normalizer": -1.0}, {"reduction": "average"}, {"axis": 5}):
            with self.assertRaises(ValueError) as plain:
                ml.huber_loss(p, p, **keywords)
            with self.assertRaises(ValueError) as fast:
                value_and_gradient(ml.huber_loss)(p, p, **keywords)
            self.assertEqual(str(plain.exception), str(fast.exception))

    def test_jax_donation(self) -> None:
        p = jax.numpy.ones((8, 8))
        value, gradient = value_and_gradient(ml.mse_loss, donate=True)(p, jax.numpy.zeros((8, 8)))
        self.assertEqual(float(value), 1.0)
        self.assertEqual(gradient.shape, (8, 8))
        self.assertTrue(p.is_deleted())

    def test_a_wrong_label_does_not_cost_what_was_donated(self) -> None:
        logits = jax.numpy.ones((8, 3))
        with self.assertRaisesRegex(ValueError, "label 3 is outside the 3 classes"):
            value_and_gradient(ml.cross_entropy_with_logits, donate=True)(logits, jax.numpy.full(8, 3))
        self.assertFalse(logits.is_deleted())

    def test_values_are_looked_at_in_every_call(self) -> None:
        both = value_and_gradient(ml.cross_entropy_with_logits)
        logits = jax.numpy.zeros((2, 3))
        both(logits, jax.numpy.array([0, 2]))
        for illegal in (-1, 3):
            with self.assertRaisesRegex(ValueError, f"label {illegal} is outside the 3 classes"):
                both(logits, jax.numpy.array([0, illegal]))
        weighted = value_and_gradient(ml.mse_loss)
        with self.assertRaisesRegex(ValueError, "must not be negative"):
            weighted(logits, logits, reduction="weighted_mean", weights=jax.numpy.array([[1.0], [-1.0]]))

    def test_torch_compile(self) -> None:
        torch._dynamo.reset()
        with mock.patch.object(torch, "compile", wraps=partial(torch.compile, backend="eager")) as compiled:
            catalogue()["mse_loss"].prepared.clear()
            for height in (4.0, 2.0):
                p = torch.full((4, 5), height, dtype=torch.bfloat16)  # so NumPy cannot stand in
                value, gradient = value_and_gradient(ml.mse_loss, compile=True)(p, torch.zeros(4, 5))
                self.assertEqual(float(value), height**2)
                np.testing.assert_allclose(gradient.float(), 2 * p.float() / 20, rtol=4e-3)
            compiled.assert_called_once()
        catalogue()["mse_loss"].prepared.clear()

    def test_nothing_is_compiled_for_small_calls(self) -> None:
        with (
            mock.patch.object(element_loops.Prepared, "run", side_effect=AssertionError),
            mock.patch.object(fused_softmax, "run", side_effect=AssertionError),
        ):
            value_and_gradient(ml.huber_loss)(np.zeros((32, 10)), np.ones((32, 10)))
            value_and_gradient(ml.cross_entropy_with_logits)(np.zeros((32, 10)), np.zeros(32, dtype=int))


class AskedThreads(unittest.TestCase):
    """Losses that are no loop over rows use as many threads as are asked for."""

    def test_a_search_uses_them(self) -> None:
        x = np.random.default_rng(0).standard_normal((1, 2000, 3))
        seen = []

        class Tree(scipy.spatial.cKDTree):
            def query(self, *arguments: Any, workers: int = -1, **keywords: Any) -> Any:
                seen.append(workers)
                return super().query(*arguments, workers=workers, **keywords)

        with mock.patch("scipy.spatial.cKDTree", Tree):
            value_and_gradient(ml.chamfer_distance, threads=1)(x, x + 0.1)
        self.assertEqual(set(seen), {1})

    def test_what_was_asked_for_ends_with_the_call(self) -> None:
        with threads.asked(3):
            self.assertEqual((threads.thread_count(), threads.thread_count(2)), (3, 2))
        with mock.patch.dict(os.environ, {threads.VARIABLE: "5"}):
            self.assertEqual(threads.thread_count(), 5)
