"""Sums of very many equal or slowly changing terms in the compiled loops: as exact as the plain functions' sums.

Random terms round up as often as down, so that their sum hides what a float32 sum of equal ones loses.
"""

import unittest
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import value_and_gradient
from mithril_losses.domains import unenforced

pytest.importorskip("numba")

# one loss of each kind of loop, and of each function that a loop may call for the values
N = 1 << 19
EQUAL = [0.1, 0.7, 1.3]
# a loss of float32 numbers is itself off by a few roundings of 6e-8, and so is the sum of a strip: by how many depends
# on the width of the processor's vectors. A float32 sum of all was off by up to 2e-5
ROUNDING = 1e-6


def constant(value: float, *shape: int) -> Any:
    return np.full(shape, value, np.float32)


def slow(value: float, *shape: int) -> Any:
    """Numbers that change by less than their rounding from one to the next."""
    return np.linspace(value, value + 0.01, np.prod(shape, dtype=int)).astype(np.float32).reshape(shape)


Problem = tuple[Any, tuple[Any, ...], dict[str, Any]]


def element_wise(loss: Any, fill: Any, x: float) -> Problem:
    return loss, (fill(x, N), fill(0.3, N)), {}


def labels(fill: Any, classes: int, **options: Any) -> Problem:
    if options:
        options["class_weights"] = constant(0.7, classes)
    return ml.cross_entropy_with_logits, (fill(0.25, N // classes, classes), np.zeros(N // classes, int)), options


def probabilities(fill: Any, classes: int) -> Problem:
    logits = fill(0.25, N // classes, classes)
    return ml.cross_entropy_with_logits, (logits, constant(1 / classes, *logits.shape)), {}


def distances(fill: Any, features: int) -> Problem:
    a, b, c = (fill(x, N // features, features) for x in (0.3, -0.7, 1.9))
    return ml.triplet_loss, (a, b, c), {"margin": 3.0 * features}


def cosines(fill: Any, features: int) -> Problem:
    a, b = (fill(x, N // features, features) for x in (0.3, 1.9))
    b[:, 0] = -3.0
    return ml.cosine_embedding_loss, (a, b, np.ones(len(a), int)), {}


def stencil(fill: Any) -> Problem:
    stripes = fill(0.3, 4000) * (np.arange(4000) % 2).astype(np.float32)
    return ml.total_variation_loss, (np.tile(stripes[:, None], (2, 130, 1, 1)),), {}


def columns() -> Problem:
    corners = np.tile(np.float32([0.0, 0.0, 1.0, 1.0]), (N // 4, 1))
    return ml.iou_loss, (corners, corners + np.float32(0.3)), {}


def pairs() -> Problem:
    x = np.tile(np.float32([0.6, 0.8]), (6000, 1))
    return ml.info_nce_loss, (x, x), {}


def rounded_down() -> Problem:
    """Terms of which a float32 sum beyond 64 of them loses the last five bits, each time."""
    return ml.mae_loss, (constant(1.0 + 31.0 * 2.0**-23, N), constant(0.0, N)), {}


def problems() -> Iterator[tuple[str, Callable[[], Problem]]]:
    for fill in (constant, slow):
        for x in EQUAL:
            for loss in (ml.mse_loss, ml.mae_loss, ml.charbonnier_loss, ml.binary_cross_entropy_with_logits):
                yield f"{loss.__name__}_{fill.__name__}_{x}", partial(element_wise, loss, fill, x)
        for classes in (2, 3, 10, 100, 3000):
            yield f"labels_{fill.__name__}_{classes}", partial(labels, fill, classes)
            yield f"smoothed_labels_{fill.__name__}_{classes}", partial(labels, fill, classes, label_smoothing=0.1)
            yield f"probabilities_{fill.__name__}_{classes}", partial(probabilities, fill, classes)
        for features in (16, 5000):
            yield f"distances_{fill.__name__}_{features}", partial(distances, fill, features)
            yield f"cosines_{fill.__name__}_{features}", partial(cosines, fill, features)
        rows = fill(0.1, N // 8, 8), constant(0.125, N // 8, 8)
        yield f"rows_{fill.__name__}", lambda rows=rows: (ml.kl_divergence, rows, {})
        yield f"stencil_{fill.__name__}", partial(stencil, fill)
    scores = constant(0.2, N), constant(0.7, N // 2)
    yield "two_arrays", lambda: (ml.vanilla_discriminator_loss, scores, {})
    yield "columns", columns
    yield "pairs", pairs
    yield "rounded_down", rounded_down


class Sums(unittest.TestCase):
    @parameterized.expand(problems)
    def test_a_loop_adds_as_exactly_as_float64(self, name: str, problem: Callable[[], Problem]) -> None:
        loss, arrays, options = problem()
        with unenforced():  # rows of equal numbers that do not sum to 1
            value, _ = value_and_gradient(loss, threads=2)(*arrays, **options)
            exact = loss(*(x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays), **options)
        self.assertEqual(value.dtype, np.float32)
        np.testing.assert_allclose(value, exact, rtol=ROUNDING)

    @parameterized.expand([(x,) for x in EQUAL])
    @pytest.mark.exhaustive
    def test_a_hundred_million_equal_terms(self, x: float) -> None:
        p = constant(x, 100_000_000)
        for loss, y in ((ml.mse_loss, 0.3), (ml.huber_loss, -4.0)):
            value, _ = value_and_gradient(loss)(p, constant(y, p.size))
            exact = loss(p[:1].astype(np.float64), np.float64([np.float32(y)]))
            np.testing.assert_allclose(value, exact, rtol=ROUNDING)
        value, _ = value_and_gradient(ml.cross_entropy_with_logits)(p.reshape(-1, 2), np.zeros(p.size // 2, int))
        np.testing.assert_allclose(value, np.log(2.0), rtol=ROUNDING)
