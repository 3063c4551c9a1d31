"""The value alone, and the gradient alone: those of large arrays come from the loop that computes both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import REDUCED_DRAWN, matched

import mithril_losses as ml
from mithril_losses import limits, value_and_gradient
from mithril_losses.autodiff import plain_functions
from mithril_losses.catalogue import Pair
from mithril_losses.checking import draw_arguments

LARGE = 40_000
# numba compiles each for half a second; the losses of one template are computed by one loop, with other terms
ONE_OF_EACH_LOOP = ("huber_loss", "iou_loss", "hinge_discriminator_loss", "triplet_loss", "next_token_cross_entropy")
WITH_A_LOOP = [
    pytest.param(pair, id=pair.name, marks=[] if pair.name in ONE_OF_EACH_LOOP else pytest.mark.exhaustive)
    for pair in (case.pair for case in REDUCED_DRAWN)
    if pair.terms.has_loop
]
X, Y = np.random.default_rng(2).standard_normal((2, LARGE)).astype(np.float32)


@pytest.mark.parametrize("pair", WITH_A_LOOP)
def test_of_large_arrays_they_are_those_of_value_and_gradient(pair: Pair) -> None:
    arrays, options = draw_arguments(pair, np.random.default_rng(0), (6, 5))
    with plain_functions():
        plain, plain_gradient = pair.value(*arrays.values(), **options), pair.gradient(*arrays.values(), **options)
    with limits.changed(large=1):
        value, gradient = pair.value(*arrays.values(), **options), pair.gradient(*arrays.values(), **options)
        both = value_and_gradient(pair)(*arrays.values(), **options)
    assert value == both[0]
    assert type(value) is type(plain)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    for (path, found, expected), (_, _, slope) in zip(
        matched(gradient, plain_gradient), matched(both[1], gradient), strict=True
    ):
        np.testing.assert_array_equal(found, slope, err_msg=path)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=path)


@pytest.mark.parametrize(
    "keywords",
    [{}, {"reduction": "sum"}, {"weights": np.abs(Y)}, {"weights": np.abs(Y), "normalizer": 7.0}, {"axis": 0}],
    ids=str,
)
def test_under_every_reduction(keywords: dict[str, Any]) -> None:
    with plain_functions():
        plain = ml.huber_loss(X, Y, delta=0.5, **keywords)
        slope = ml.huber_loss_gradient(X, Y, delta=0.5, **keywords, upstream=-2.0)
    np.testing.assert_allclose(ml.huber_loss(X, Y, delta=0.5, **keywords), plain, rtol=1e-5)
    found = ml.huber_loss_gradient(X, Y, delta=0.5, **keywords, upstream=-2.0)
    np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-12)


def test_unreduced_they_are_arrays() -> None:
    np.testing.assert_array_equal(ml.mse_loss(X, Y, reduction="none"), (X - Y) ** 2)
    np.testing.assert_array_equal(ml.mse_loss_gradient(X, Y, reduction="none", upstream=Y), Y * (2 * (X - Y)))


def test_the_gradient_with_respect_to_another_argument() -> None:
    p = np.full((LARGE // 4, 4), 0.25, np.float32)
    found = ml.kl_divergence_gradient(p, p, wrt=("predictions", "targets"))
    assert [*found] == ["predictions", "targets"]


def test_the_gradient_of_tensors_in_a_graph_stays_in_it() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    detached = ml.log_cosh_loss_gradient(x, y, reduction="sum")
    assert not detached.requires_grad
    np.testing.assert_array_equal(detached.numpy(), ml.log_cosh_loss_gradient(X, Y, reduction="sum"))
    in_graph = ml.log_cosh_loss_gradient(x.requires_grad_(), y, reduction="sum")
    (second,) = torch.autograd.grad(in_graph.sum(), x)
    np.testing.assert_allclose(second.numpy(), np.cosh(X - Y) ** -2.0, atol=1e-6)
    scale = torch.tensor(2.0, requires_grad=True)
    scaled = ml.log_cosh_loss_gradient(x.detach(), y, reduction="sum", upstream=scale)
    (by_scale,) = torch.autograd.grad(scaled[0], scale)
    np.testing.assert_allclose(by_scale.item(), detached[0].item(), rtol=1e-5)


@pytest.mark.parametrize("count", [50, LARGE])
@pytest.mark.parametrize("in_a_graph", [False, True])
def test_tensors_without_a_gradient_take_the_way_of_numpy(count: int, in_a_graph: bool) -> None:
    x, y = torch.from_numpy(X[:count]).requires_grad_(in_a_graph), torch.from_numpy(Y[:count])
    with torch.no_grad():
        value = ml.huber_loss(x, y)
    assert type(value) is torch.Tensor
    assert (value.dtype, value.shape, value.requires_grad) == (torch.float32, (), False)
    assert value.item() == ml.huber_loss(X[:count], Y[:count])
    if in_a_graph:
        assert ml.huber_loss(x, y).item() == value.item()  # training and validation see the same number
    else:
        assert not ml.huber_loss(x, y).requires_grad


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("count", [50, LARGE])
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: ml.huber_loss(x, y, upstream=2.0), TypeError, "^huber_loss takes no upstream"),
        (lambda x, y: ml.huber_loss(x, y, beta=2.0), TypeError, "^huber_loss has no option 'beta'"),
        (lambda x, y: ml.huber_loss_gradient(x, y, beta=2.0), TypeError, "^huber_loss has no option 'beta'"),
        (lambda x, y: ml.huber_loss_gradient(x, y[:-1]), ValueError, "shape"),
        (lambda x, y: ml.binary_cross_entropy_with_logits_gradient(x, y), ValueError, r"^targets must be in \[0, 1\]"),
        (lambda x, y: ml.huber_loss(x, y[:-1]), ValueError, "shape"),
        (lambda x, y: ml.huber_loss(x, y, reduction="average"), ValueError, "reduction"),
        (lambda x, y: ml.binary_cross_entropy_with_logits(x, y), ValueError, r"^targets must be in \[0, 1\], got"),
    ],
    ids=[
        "upstream",
        "unknown",
        "of gradient",
        "shapes of gradient",
        "domain of gradient",
        "shapes",
        "reduction",
        "domain",
    ],
)
def test_errors_are_those_of_the_loss(
    library: Callable[..., Any], count: int, call: Callable[..., Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(library(X[:count]), library(Y[:count]))
