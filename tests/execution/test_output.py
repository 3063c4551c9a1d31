"""`out=`: the gradient in arrays of the caller, on every path, and what is refused."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import scipy.special
import torch

import mithril_losses as ml
from mithril_losses import value_and_gradient

SIZES = (12, 40_000)  # the plain functions, and a loop or blocks
N = 40_000


def numbers(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def boxes(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([x[:, :2], x[:, :2] + np.abs(x[:, 2:]) + np.float32(0.1)], axis=1)


def calls(n: int) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    p, t = numbers(2, n // 4, 4)
    labels = np.arange(n // 4) % 4
    return {
        "a loop": (ml.mse_loss, (p, t), {}),
        "a loop, unreduced": (ml.huber_loss, (p, t), {"reduction": "none", "upstream": 2.0}),
        "arguments by name": (ml.mse_loss, (), {"predictions": p, "targets": t}),
        "rows": (ml.cross_entropy_with_logits, (p, labels), {}),
        "columns": (ml.generalized_iou_loss, (boxes(p), boxes(t)), {}),
        "several gradients": (ml.gaussian_kl_divergence, (p, t), {}),
        "losses apart": (ml.hinge_discriminator_loss, (p, t), {}),
        "on request": (
            ml.kl_divergence,
            (scipy.special.softmax(p, -1), scipy.special.softmax(t, -1)),
            {"wrt": ("targets", "predictions")},
        ),
        "without a loop": (ml.dice_loss, (scipy.special.expit(p), scipy.special.expit(t)), {}),
        "without a bias": (ml.linear_cross_entropy, (p, numbers(4, 4), labels), {}),
        "a partial": (partial(ml.mse_loss, reduction="sum"), (p, t), {}),
        "composed": (ml.CompositeLoss([ml.mse_loss, ml.WeightedLoss(ml.huber_loss, 2.0)]), (p, t), {}),
        "nested": (ml.l2_regularization, ({"w": p, "layers": [t, p[:3]]},), {}),
    }


def mapped(function: Any, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: mapped(function, x) for name, x in tree.items()}
    return type(tree)(mapped(function, x) for x in tree) if isinstance(tree, (list, tuple)) else function(tree)


def flat(tree: Any) -> list[Any]:
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else None
    return [tree] if branches is None else [x for branch in branches for x in flat(branch)]


def as_tensor(x: Any) -> Any:
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize("compile", [None, False])
@pytest.mark.parametrize(("n", "name"), [*itertools.product(SIZES, calls(12))])
def test_holds_the_gradient_and_is_returned(n: int, name: str, compile: bool | None) -> None:
    loss, arrays, options = calls(n)[name]
    both: Any = value_and_gradient(loss, compile=compile)
    value, gradient = both(*arrays, **options)
    out = mapped(lambda x: np.full_like(x, np.nan), gradient)
    kept = flat(out)
    again, found = both(*arrays, **options, out=out)
    assert found is out
    assert all(x is y for x, y in zip(kept, flat(out), strict=True))
    np.testing.assert_array_equal(again, value)
    for x, expected in zip(kept, flat(gradient), strict=True):
        np.testing.assert_array_equal(x, expected)

    arrays, options = mapped(as_tensor, arrays), mapped(as_tensor, options)
    tensors = mapped(lambda x: torch.full_like(as_tensor(x), torch.nan), gradient)
    again, found = both(*arrays, **options, out=tensors)
    assert found is tensors
    assert isinstance(again, torch.Tensor)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    for x, expected in zip(flat(tensors), flat(gradient), strict=True):
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_memory_of_several_kinds(n: int) -> None:
    p, t = numbers(2, n)
    both = value_and_gradient(ml.mse_loss)
    expected = both(p, t)[1]
    rows = np.full((3, n), 7.0, np.float32)
    both(p, t, out=rows[1])
    np.testing.assert_array_equal(rows, [np.full(n, 7.0), expected, np.full(n, 7.0)])
    unaligned = np.zeros(4 * n + 1, np.uint8)[1:].view(np.float32)
    np.testing.assert_array_equal(both(p, t, out=unaligned)[1], expected)
    parameter = torch.nn.Parameter(torch.zeros(n))
    parameter.grad = torch.zeros(n)
    both(torch.from_numpy(p), torch.from_numpy(t), out=parameter.grad)
    np.testing.assert_array_equal(parameter.grad.numpy(), expected)


def test_a_loop_writes_once() -> None:
    p, t = numbers(2, 500_000)
    out = np.empty_like(p)
    both = value_and_gradient(ml.mse_loss)
    both(p, t, out=out)
    tracemalloc.start()
    try:
        both(p, t, out=out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < out.nbytes / 50


def test_a_graph_that_needs_the_old_values_raises() -> None:
    p, t = map(torch.from_numpy, numbers(2, N))
    out, scale = torch.zeros(N), torch.ones(N, requires_grad=True)
    product = (scale * out).sum()
    value_and_gradient(ml.mse_loss)(p, t, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def refusals(n: int) -> dict[str, tuple[Any, Any, type[Exception], str]]:
    """What is passed as `out` for which arguments (p, t), and what is said."""
    p, t = numbers(2, n)
    good, wide = np.zeros_like(p), np.zeros(2 * n, np.float32)
    read_only = np.zeros_like(p)
    read_only.flags.writeable = False
    tensors, jax_arrays = (torch.from_numpy(p), torch.from_numpy(t)), (jax.numpy.asarray(p), jax.numpy.asarray(t))
    return {
        "a shape": ((p, t), wide, ValueError, rf"out must have the shape ({n},) of the gradient, got ({2 * n},)"),
        "a dtype": (
            (p, t),
            good.astype("f8"),
            TypeError,
            "out must have the dtype float32 of the gradient, got float64",
        ),
        "gaps": ((p, t), wide[::2], ValueError, "out must be C-contiguous"),
        "read-only": ((p, t), read_only, TypeError, "out is read-only"),
        "an argument": ((p, t), t, ValueError, "out shares memory with targets"),
        "a part": ((wide[:n], t), wide[1 : n + 1], ValueError, "out shares memory with predictions"),
        "a number": ((p, t), 1.0, TypeError, "out must be an array of numpy, as the gradient is, got float"),
        "a tensor": ((p, t), tensors[0], TypeError, "out must be an array of numpy, as the gradient is, got Tensor"),
        "an array": (tensors, good, TypeError, "out must be an array of torch, as the gradient is, got ndarray"),
        "an argument, torch": (tensors, tensors[0], ValueError, "out shares memory with predictions"),
        "gaps, torch": (tensors, torch.zeros(2 * n)[::2], ValueError, "out must be C-contiguous"),
        "a leaf": (
            tensors,
            torch.zeros(n, requires_grad=True),
            TypeError,
            "out requires a gradient itself, so it cannot be written to: pass out.detach()",
        ),
        "a device": (
            tensors,
            torch.empty(n, device="meta"),
            ValueError,
            "out must be on the device cpu of the gradient, got meta",
        ),
        "JAX": (
            jax_arrays,
            jax_arrays[0],
            TypeError,
            "out: nothing can be written into an array of jax: value_and_gradient(loss, donate=True) lets it reuse the "
            "memory of arguments",
        ),
    }


def contents(x: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = x.detach().numpy() if isinstance(x, torch.Tensor) else x
    return found


@pytest.mark.parametrize(("n", "name"), [*itertools.product(SIZES, refusals(12))])
def test_refuses(n: int, name: str) -> None:
    arrays, out, kind, message = refusals(n)[name]
    before = None if name in ("a number", "a device", "JAX") else contents(out).copy()
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        value_and_gradient(ml.mse_loss)(*arrays, out=out)
    if before is not None:
        np.testing.assert_array_equal(contents(out), before)


@pytest.mark.parametrize("n", SIZES)
def test_refuses_another_structure(n: int) -> None:
    p, t = numbers(2, n)
    both: Any = value_and_gradient(ml.gaussian_kl_divergence)
    good = np.empty_like(p)
    for out, kind, message in (
        (good, TypeError, "out must be a dict of arrays with the keys 'mean', 'logvar', got ndarray"),
        ({"mean": good}, ValueError, "out must have the keys 'mean', 'logvar', got 'mean'"),
        ({}, ValueError, "out must have the keys 'mean', 'logvar', got none"),
        ({"mean": good, "logvar": good}, ValueError, "out['mean'] shares memory with out['logvar']"),
        (
            {"mean": good, "logvar": good[1:]},
            ValueError,
            f"out['logvar'] must have the shape ({n},) of the gradient, got",
        ),
    ):
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            both(p, t, out=out)
    with pytest.raises(TypeError, match=r"^out\['layers'\] must be a list or tuple of 2, got list$"):
        value_and_gradient(ml.l2_regularization)({"layers": [p, t]}, out={"layers": [good]})  # type: ignore[arg-type]


def test_an_error_of_the_loss_is_that_without_a_buffer() -> None:
    p, t = numbers(2, N)
    both: Any = value_and_gradient(ml.mse_loss)
    for arrays, options in (((p, t[1:]), {}), ((p,), {}), ((p, t), {"deltas": 1.0}), ((p, t), {"wrt": "targets"})):
        errors = []
        for more in ({}, {"out": np.empty_like(p)}):
            with pytest.raises((TypeError, ValueError)) as caught:
                both(*arrays, **options, **more)
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]
