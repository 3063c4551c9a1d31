"""A large call is computed as an earlier one of its kind was; only the values of its arrays are new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import REDUCED_DRAWN, matched

import mithril_losses as ml
from mithril_losses import limits, value_and_gradient
from mithril_losses.catalogue import Pair
from mithril_losses.checking import draw_arguments

GENERATOR = np.random.default_rng(3)
SHAPE = (6, 7)


def rows(dtype: Any = np.float32) -> Any:
    x = GENERATOR.random(SHAPE)
    return (x / x.sum(axis=-1, keepdims=True)).astype(dtype)


def numbers(dtype: Any = np.float32) -> Any:
    return GENERATOR.standard_normal(SHAPE).astype(dtype)


def labels() -> Any:
    return GENERATOR.integers(0, 7, SHAPE[0])


KINDS: dict[str, tuple[Callable[..., Any], Callable[[], list[Any]]]] = {
    "huber": (ml.huber_loss, lambda: [numbers(), numbers()]),
    "two slopes": (ml.gaussian_negative_log_likelihood, lambda: [numbers(), numbers(), numbers()]),
    "rows": (ml.kl_divergence, lambda: [rows(), rows()]),
    "labels": (ml.cross_entropy_with_logits, lambda: [numbers(), labels()]),
    "read-only": (ml.huber_loss, lambda: [np.broadcast_to(numbers(), SHAPE), numbers()]),
    "two dtypes": (ml.huber_loss, lambda: [numbers(), numbers(np.float64)]),
    "columns first": (ml.huber_loss, lambda: [np.asfortranarray(numbers()), numbers()]),
}


@pytest.fixture(autouse=True)
def small_is_large() -> Iterator[None]:
    with limits.changed(large=1):
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_each_call_is_of_its_own_values(kind: str) -> None:
    loss, draw = KINDS[kind]
    both, pair = value_and_gradient(loss), ml.find_loss(loss)
    option = {"delta": 0.3} if loss is ml.huber_loss else {"label_smoothing": 0.2} if kind == "labels" else {}
    weights = np.linspace(0.0, 1.0, 6 if kind in ("rows", "labels") else 42)
    weights = weights.reshape((6,) if weights.size == 6 else SHAPE).astype(np.float32)
    kept = []
    for keywords in ({}, {}, option, option, {"weights": weights}, {"reduction": "sum"}, {"reduction": "sum"}, {}):
        arrays = draw()
        value, gradient = both(*arrays, **keywords)
        expected, slopes = pair.plain(*arrays, **keywords)
        np.testing.assert_allclose(value, expected, rtol=2e-5)
        parts = (gradient, slopes) if len(pair.wrt) == 1 else (gradient["mean"], slopes["mean"])
        np.testing.assert_allclose(*parts, atol=2e-5)
        kept.append((parts[0], parts[0].copy()))
    for found, copy in kept:  # no call writes into the result of another
        np.testing.assert_array_equal(found, copy)


@pytest.mark.parametrize(
    ("kind", "position", "wrong", "message"),
    [
        ("rows", 1, 0.9, r"targets must be distributions over the last axis, got a row with the sum"),
        ("rows", 1, -0.5, r"targets must be distributions over the last axis, got -0.5 at index \(4, 2\)"),
        ("labels", 1, 7, r"label 7 is outside the 7 classes"),
    ],
)
def test_values_of_a_later_call_are_checked(kind: str, position: int, wrong: float, message: str) -> None:
    loss, draw = KINDS[kind]
    both = value_and_gradient(loss)
    both(*draw())
    arrays = draw()
    arrays[position][(4, 2)[: arrays[position].ndim]] = wrong
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            both(*arrays)
    assert np.isfinite(both(*draw())[0])


# the losses of one template are computed by one loop, with other terms
ONE_OF_EACH_LOOP = (
    "iou_loss",
    "hinge_discriminator_loss",
    "triplet_loss",
    "total_variation_loss",
    "next_token_cross_entropy",
)


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(
            case.pair, id=case.pair.name, marks=[] if case.pair.name in ONE_OF_EACH_LOOP else pytest.mark.exhaustive
        )
        for case in REDUCED_DRAWN
    ],
)
def test_each_call_of_every_loss_is_of_its_own_values(pair: Pair) -> None:
    both = value_and_gradient(pair)
    for seed in range(3):
        arrays, options = draw_arguments(pair, np.random.default_rng(seed), (6, 5))
        value, gradient = both(*arrays.values(), **options)
        expected, slopes = pair.plain(*arrays.values(), **options)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for path, found, slope in matched(gradient, slopes):
            np.testing.assert_allclose(found, slope, rtol=1e-12, atol=1e-12, err_msg=path)


def test_rows_that_were_rounded_or_are_padding_or_nan_are_not_refused() -> None:
    both = value_and_gradient(ml.kl_divergence)
    p, q = rows(), rows()
    rounded = np.round(q * 512.0) / np.float32(512.0)  # each sum is off by up to 0.007
    close = abs(rounded.sum(axis=-1) - 1.0) < 0.0039
    q[close] = rounded[close]
    q[1], p[1] = 0.0, 0.0
    assert np.isfinite(both(p, q)[0])
    q[2, 3] = np.nan
    assert np.isnan(both(p, q)[0])


def test_the_threads_are_not_remembered() -> None:
    arrays = [numbers(), numbers()]
    with limits.changed(large=1, shared=1, group=1):
        one, two = (value_and_gradient(ml.huber_loss, threads=n) for n in (1, 2))
        results = [both(*arrays) for both in (one, two, one, two)]
    for value, gradient in results:
        assert value == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])
