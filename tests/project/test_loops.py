"""The training loops on the pages of the frameworks do what they do with the framework's own loss."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from cases import double_precision

import mithril_losses as ml
from mithril_losses.autodiff import plain_functions
from mithril_losses.numerics.trees import leaves

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: str, without: str = "value_and_gradient") -> dict[str, Any]:
    """Return what the Python of a page defines, without the blocks in which a text occurs."""
    namespace: dict[str, Any] = {}
    for block in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if without not in block:
            exec(compile(block, page, "exec"), namespace)
    return namespace


def numbers(namespace: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in namespace.items():
        for path, leaf in leaves(value, name):
            if isinstance(leaf, (float, np.ndarray, jax.Array, torch.Tensor)):
                yield path, np.asarray(leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf)


def of_torch(logits: Any, labels: Any, ignore_index: int = -100, normalizer: float | None = None) -> Any:
    cross_entropy = functools.partial(torch.nn.functional.cross_entropy, logits, labels, ignore_index=ignore_index)
    return cross_entropy() if normalizer is None else cross_entropy(reduction="sum") / normalizer


def of_optax(logits: Any, labels: Any, ignore_index: int = -100, normalizer: Any = None) -> Any:
    kept = labels != ignore_index
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(kept, labels, 0))
    return jnp.sum(losses * kept) / (jnp.sum(kept) if normalizer is None else normalizer)


@pytest.mark.exhaustive  # both pages run their loops, one of them compiled by PyTorch
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by PyTorch's compiler itself
@pytest.mark.parametrize(("page", "own"), [("pytorch.md", of_torch), ("jax.md", of_optax)])
def test_every_number_on_the_page_is_that_of_the_framework_s_own_loss(
    page: str, own: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    ours = dict(numbers(run(page)))
    monkeypatch.setattr(ml, "cross_entropy_with_logits", own)
    theirs = dict(numbers(run(page)))
    assert ours.keys() == theirs.keys()
    assert {"losses[19]", "hessian"} <= ours.keys()
    for path, found in ours.items():
        np.testing.assert_allclose(found, theirs[path], rtol=1e-5, atol=3e-6, err_msg=path)  # float32


def test_numpy_s_loop_learns_what_pytorch_does() -> None:
    """The only loop whose derivative of the model is written by hand."""
    page = run("numpy.md", without="-100")
    start = np.random.default_rng(0)
    inputs, labels = (torch.tensor(x) for x in (start.standard_normal((64, 8)), start.integers(0, 3, 64)))
    hidden, out = (
        (torch.tensor(start.standard_normal(shape)) / scale).requires_grad_()
        for shape, scale in (((8, 16), 3.0), ((16, 3), 4.0))
    )
    optimizer = torch.optim.SGD([hidden, out], lr=0.5)
    for loss in page["losses"]:
        optimizer.zero_grad()
        own = torch.nn.functional.cross_entropy(torch.tanh(inputs @ hidden) @ out, labels)
        own.backward()
        optimizer.step()
        assert loss == pytest.approx(own.item(), rel=1e-12)
    np.testing.assert_allclose(page["params"]["out"], out.detach(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["info_nce_loss", "clip_loss"])
class TestContrastiveLossesInParts:
    """The parts give the loss and the gradient of the whole batch, of which autodiff knows the plain function alone."""

    random = np.random.default_rng(5)
    inputs = random.standard_normal((24, 7)), random.standard_normal((24, 5))
    params = (random.standard_normal((7, 4)), random.standard_normal((5, 4)), np.array(1.5))

    def loss(self, name: str, logit_scale: Any) -> Callable[..., Any]:
        if name == "clip_loss":
            return lambda u, v: ml.clip_loss(u, v, logit_scale)
        return functools.partial(ml.info_nce_loss, temperature=0.3)

    @pytest.mark.parametrize("size", [5, 24])  # the last part is smaller; one part
    def test_in_pytorch(self, name: str, size: int) -> None:
        see, read, logit_scale = params = [torch.tensor(x, requires_grad=True) for x in self.params]
        encoders = [lambda x: torch.tanh(x @ see), lambda x: torch.tanh(x @ read)]
        inputs, loss = [torch.tensor(x) for x in self.inputs], self.loss(name, logit_scale)

        value = run("micro-batches.md", without="allclose")["add_gradients"](encoders, inputs, loss, size)

        with plain_functions():
            whole = loss(*(encode(x) for encode, x in zip(encoders, inputs, strict=True)))
        np.testing.assert_allclose(value, whole.detach(), rtol=1e-12)
        for param, expected in zip(params, torch.autograd.grad(whole, params, allow_unused=True), strict=True):
            torch.testing.assert_close(param.grad, expected, rtol=1e-12, atol=1e-15)

    def test_in_jax(self, name: str) -> None:
        def encode(params: Any, *inputs: Any) -> list[Any]:
            return [jnp.tanh(x @ weight) for x, weight in zip(inputs, params[:2], strict=True)]

        def loss(params: Any, *embeddings: Any) -> Any:
            return self.loss(name, params[2])(*embeddings)

        with double_precision("jax"):
            params, inputs = [jnp.asarray(x) for x in self.params], [jnp.asarray(x) for x in self.inputs]
            in_parts = run("micro-batches.md", without="allclose")["value_and_grad_in_parts"](encode, loss, size=6)
            value, found = jax.jit(in_parts)(params, *inputs)
            with plain_functions():
                at_once = jax.jit(jax.value_and_grad(lambda params: loss(params, *encode(params, *inputs))))
                whole, gradients = at_once(params)
            np.testing.assert_allclose(value, whole, rtol=1e-12)
            for one, other in zip(found, gradients, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)
