"""Gradients in the hands of those who take them: vector-Jacobian products, autograd, models that write, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import pytest
import torch
from cases import DRAWN, Case, double_precision, flat, matched, to_numpy

from mithril_losses import value_and_gradient
from mithril_losses.numerics.trees import map_leaves

FACTOR = 3.0  # the model multiplies its parameters by it

# one loss of each structure, since eager JAX compiles every operation of each
ON_JAX = (
    "cross_entropy_with_logits",
    "feature_reconstruction_loss",
    "huber_loss",
    "kl_divergence",
    "l2_regularization",
    "triplet_loss",
    "vae_loss",
    "vanilla_discriminator_loss",
)


def model(params: Any) -> Any:
    return map_leaves(lambda _, x: FACTOR * x, params)


def split(case: Case, library: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the model's parameters (its outputs are what the loss is differentiated by), the data and all names."""
    given = dict(zip(case.arrays, case.arguments(library), strict=True))
    wrt = [name for name in case.pair.wrt if name in given]
    params = {name: map_leaves(lambda _, x: x / FACTOR, given[name]) for name in wrt}
    return params, {name: x for name, x in given.items() if name not in wrt}, list(given)


def by_argument(case: Case, gradient: Any) -> dict[str, Any]:
    return gradient if len(case.pair.wrt) > 1 else {case.pair.wrt[0]: gradient}


def loss_and_gradients(case: Case, outputs: Any, data: Any, names: list[str], library: str) -> tuple[Any, Any]:
    arguments = [{**outputs, **data}[name] for name in names]
    value, gradient = value_and_gradient(case.pair.value)(*arguments, **case.keywords(library))
    return case.pair.total_of(value), {name: g for name, g in by_argument(case, gradient).items() if name in outputs}


@pytest.mark.parametrize("case", [case for case in DRAWN if case.pair.name in ON_JAX], ids=str)
def test_a_pullback_of_jax(case: Case) -> None:
    with double_precision("jax"):
        params, data, names = split(case, "jax")
        outputs, pullback = jax.vjp(model, params)
        _, gradients = loss_and_gradients(case, outputs, data, names, "jax")
        (first,), (second,) = pullback(gradients), pullback(gradients)

        def whole(params: Any) -> Any:
            arguments = [{**model(params), **data}[name] for name in names]
            return case.pair.total_of(case.pair.value(*arguments, **case.keywords("jax")))

        for path, found, expected in matched(first, jax.grad(whole)(params)):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13, err_msg=path)
        for _, one, other in matched(first, second):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_outputs_in_a_graph_of_torch(case: Case) -> None:
    params, data, names = split(case, "torch")
    params = map_leaves(lambda _, x: x.detach().requires_grad_(), params)
    leaves = [x for _, x in flat(params)]
    outputs = model(params)
    detached = map_leaves(lambda _, x: x.detach(), outputs)
    _, gradients = loss_and_gradients(case, detached, data, names, "torch")
    handed = {
        "outputs": [x for _, x in flat(outputs)],
        "inputs": leaves,
        "grad_outputs": [dict(flat(gradients))[path] for path, _ in flat(outputs)],
    }
    first, second = (torch.autograd.grad(**handed, retain_graph=True) for _ in range(2))
    arguments = [{**outputs, **data}[name] for name in names]
    value = case.pair.total_of(case.pair.value(*arguments, **case.keywords("torch")))
    expected = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    for found, again, derivative in zip(first, second, expected, strict=True):
        np.testing.assert_allclose(to_numpy(found), to_numpy(derivative), rtol=1e-10, atol=1e-13)
        np.testing.assert_array_equal(to_numpy(found), to_numpy(again))


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_a_model_that_adds_into_what_it_is_given(case: Case) -> None:
    def greedy(gradients: Any) -> Any:
        for _, g in flat(gradients):
            g += 1.0
        return map_leaves(lambda _, g: FACTOR * g, gradients)

    params, data, names = split(case, "numpy")
    outputs = model(params)
    first, second = (greedy(loss_and_gradients(case, outputs, data, names, "numpy")[1]) for _ in range(2))
    for path, one, other in matched(first, second):
        np.testing.assert_array_equal(one, other, err_msg=path)
    for path, one, plain in matched(first, loss_and_gradients(case, outputs, data, names, "numpy")[1]):
        np.testing.assert_allclose(one, FACTOR * (plain + 1.0), rtol=1e-12, err_msg=path)


def test_eight_threads_at_once() -> None:
    """Every loss by every thread, in another order: what they find is what one thread finds, bit by bit."""

    def find(case: Case) -> list[np.ndarray]:
        value, gradient = value_and_gradient(case.pair.value)(*case.arguments("numpy"), **case.keywords("numpy"))
        return [to_numpy(x) for _, x in flat([value, gradient])]

    def work(seed: int) -> dict[str, list[np.ndarray]]:
        order = np.random.default_rng(seed).permutation(len(DRAWN))
        return {DRAWN[i].pair.name: find(DRAWN[i]) for i in order}

    serial = work(0)
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(work, range(8)):
            for name, arrays in serial.items():
                for one, other in zip(found[name], arrays, strict=True):
                    np.testing.assert_array_equal(one, other, err_msg=name)


def test_eight_threads_share_the_loops() -> None:
    generator = np.random.default_rng(0)
    p, t = (generator.normal(size=1 << 16).astype(np.float32) for _ in range(2))
    cases = [case for case in DRAWN if case.pair.name in ("huber_loss", "mse_loss", "mae_loss")]

    def work(_: int) -> list[Any]:
        return [value_and_gradient(case.pair.value, threads=2)(p, t) for case in cases]

    serial = work(0)
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(work, range(8)):
            for (value, gradient), (other, expected) in zip(found, serial, strict=True):
                assert value == other
                np.testing.assert_array_equal(gradient, expected)
