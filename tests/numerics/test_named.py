"""Gradients of several arguments by name: as a dict, as attributes, and to JAX and PyTorch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import DRAWN, Case, convert

import mithril_losses as ml
from mithril_losses import NamedArrays, value_and_gradient

SEVERAL = [case for case in DRAWN if len(case.pair.wrt) > 1]
ROWS = np.random.default_rng(0).normal(size=(3, 4, 2))


# one loss of each kind of template for the libraries that compile every operation
FEW = [x for x in SEVERAL if x.pair.name in ("gaussian_kl_divergence", "hinge_discriminator_loss", "contrastive_loss")]


@pytest.mark.parametrize(
    ("case", "library"),
    [(case, "numpy") for case in SEVERAL] + [(case, library) for case in FEW for library in ("jax", "torch")],
    ids=str,
)
def test_every_gradient_of_several_arguments_has_them_as_attributes(case: Case, library: str) -> None:
    arrays = {n: x.astype(np.int32) if x.dtype == np.int64 else x for n, x in case.arrays.items()}
    arguments = Case(case.pair, case.name, arrays).arguments(library, "float32")
    for gradient in (
        case.pair.gradient(*arguments, **case.keywords(library, "float32")),
        value_and_gradient(case.pair.value)(*arguments, **case.keywords(library, "float32"))[1],
    ):
        assert type(gradient) is NamedArrays
        assert list(gradient) == [name for name in case.pair.wrt if name in gradient]
        for name in gradient:
            assert name == "keys" or getattr(gradient, name) is gradient[name]


def test_on_the_fast_path_in_blocks_and_for_asked_arguments() -> None:
    large = np.random.default_rng(0).normal(size=(3, 20000, 4))
    for compile in (None, False):
        for library in ("numpy", "jax", "torch"):
            arguments = [convert(x, library, "float32") for x in large]
            _, gradient = value_and_gradient(ml.triplet_loss, compile=compile)(*arguments)
            assert gradient.anchor is gradient["anchor"]
    asked = ml.kl_divergence_gradient(*np.full((2, 3, 2), 0.5), wrt=("predictions", "targets"))
    assert asked.targets is asked["targets"]


def test_it_is_a_dict() -> None:
    gradients = ml.triplet_loss_gradient(*ROWS)
    assert isinstance(gradients, dict)
    assert gradients == dict(gradients)
    assert (gradients | {"more": 1}).keys() == {*gradients, "more"}
    assert {*gradients} <= {*dir(gradients)}
    with pytest.raises(AttributeError, match=r"^there is no 'ancor' among anchor, positive, negative$"):
        _ = gradients.ancor
    for again in (pickle.loads(pickle.dumps(gradients)), copy.copy(gradients), copy.deepcopy(gradients)):
        assert type(again) is NamedArrays
        assert again.keys() == gradients.keys()
        np.testing.assert_array_equal(again.anchor, gradients.anchor)


def test_jax_takes_it_for_a_nesting() -> None:
    arguments = [jnp.asarray(x) for x in ROWS]
    gradients = ml.triplet_loss_gradient(*arguments)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(gradients)]
    assert paths == ["['anchor']", "['negative']", "['positive']"]  # in the order of a dict's
    assert all(map(np.array_equal, jax.tree.leaves(gradients), jax.tree.leaves(dict(gradients))))
    doubled: Any = jax.jit(lambda x: jax.tree.map(lambda leaf: 2.0 * leaf, x))(gradients)
    assert type(doubled) is NamedArrays
    assert list(doubled) == list(gradients)
    np.testing.assert_array_equal(doubled.negative, 2.0 * gradients.negative)
    _, traced = jax.jit(value_and_gradient(ml.triplet_loss))(*arguments)
    np.testing.assert_allclose(traced.anchor, gradients.anchor, rtol=1e-5)
    _, pull = jax.vjp(lambda x: {"anchor": x, "positive": 2.0 * x, "negative": 3.0 * x}, arguments[0])
    pull(dict(gradients))


def test_pytorch_takes_it_for_a_nesting() -> None:
    arguments = [torch.from_numpy(x) for x in ROWS]
    gradients = torch.func.vmap(ml.triplet_loss_gradient)(*(x[:, None] for x in arguments))
    assert type(gradients) is NamedArrays
    assert gradients.anchor.shape == (4, 1, 2)
