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


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by PyTorch's compiler itself
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")  # by PyTorch's forward mode itself
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


class TestContrastiveLossesInParts:
    """The whole batch at once, differentiated as one function, is what the parts must give."""

    generator = np.random.default_rng(5)
    images, texts = generator.standard_normal((24, 7)), generator.standard_normal((24, 5))
    see, read = generator.standard_normal((7, 4)), generator.standard_normal((5, 4))

    @pytest.mark.parametrize("size", [5, 24])  # the last part is smaller; one part
    @pytest.mark.parametrize("name", ["info_nce_loss", "clip_loss"])
    def test_in_pytorch(self, name: str, size: int) -> None:
        see, read, scale = (torch.tensor(x, requires_grad=True) for x in (self.see, self.read, np.array(1.5)))
        inputs = [torch.tensor(self.images), torch.tensor(self.texts)]
        parameters = [see, read, scale]

        def loss(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return ml.clip_loss(u, v, scale) if name == "clip_loss" else ml.info_nce_loss(u, v, temperature=1.0 / scale)

        def look(x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x @ see)

        def learn(x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x @ read)

        value = run("micro-batches.md", without="torch.manual_seed")["add_gradients"]([look, learn], inputs, loss, size)
        whole = loss(look(inputs[0]), learn(inputs[1]))
        assert value.item() == pytest.approx(whole.item(), rel=1e-13)
        for parameter, expected in zip(parameters, torch.autograd.grad(whole, parameters), strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-15)
