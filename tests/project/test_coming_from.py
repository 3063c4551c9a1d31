"""The page for people who come from other libraries: both sides of every row are equal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.spatial
import scipy.special
import scipy.stats
import skimage.metrics
import sklearn.metrics
import torch
from cases import double_precision

import mithril_losses as ml
from mithril_losses.elsewhere import KEYWORDS, LOSSES

PAGE = Path(__file__).parents[2] / "docs/coming-from.md"
CALL = re.compile(r"^\| `(.*?)` \| `(.*?)` \|.*\|$", re.MULTILINE)
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
ROWS = [(section.partition("\n")[0], *row) for section in SECTIONS for row in CALL.findall(section)]


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    p, q, r = random.dirichlet(np.ones(3), (3, 4))
    real = {name: random.standard_normal((4, 3)) for name in ("x", "t", "z", "u", "v", "a")}
    signs = np.where(random.random((4, 3)) < 0.5, -1.0, 1.0)
    return real | {
        "p": p,
        "q": q,
        "r": r,
        "y": np.array([0, 1, 2, 0]),
        "s": signs,
        "b": (signs + 1.0) / 2.0,
        "w": np.array([0.5, 1.0, 2.0]),
        "k": random.poisson(2.0, (4, 3)).astype(np.float64),
        "var": random.uniform(0.5, 2.0, (4, 3)),
        "image": random.random((24, 32)),
        "other": random.random((24, 32)),
    }


@pytest.mark.parametrize(("section", "there", "here"), ROWS, ids=[f"{there} · {here}" for _, there, here in ROWS])
def test_both_sides_are_equal(section: str, there: str, here: str) -> None:
    convert: Any = {"PyTorch": torch.from_numpy, "optax": jnp.asarray}.get(section, np.asarray)
    libraries = {
        "F": torch.nn.functional,
        "jnp": jnp,
        "ml": ml,
        "np": np,
        "optax": optax,
        "scipy": scipy,
        "skimage": skimage,
        "sklearn": sklearn,
    }
    with double_precision("jax"):
        given = libraries | {name: convert(x) for name, x in arrays().items()}
        expected, found = (np.asarray(eval(call, given)) for call in (there, here))
    assert found.shape == expected.shape
    # the triplets there have 1e-6 added to every difference
    np.testing.assert_allclose(found, expected, rtol=1e-5 if "triplet" in there else 1e-6)


def test_every_row_is_read() -> None:
    tables = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(ROWS) == len(tables) > 30


def table(section: str) -> list[tuple[str, str]]:
    (text,) = (each for each in SECTIONS if each.startswith(section + "\n"))
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", text, re.MULTILINE)[1:]
    return [(name, here) for names, here in rows for name in names.split(", ")]


def test_the_names_are_those_that_messages_know() -> None:
    assert table("Names") == sorted(LOSSES.items(), key=lambda row: list(LOSSES.values()).index(row[1]))
    assert table("Options") == [(name, ", ".join(here)) for name, here in KEYWORDS.items()]


@pytest.mark.parametrize("name", LOSSES)
def test_a_name_elsewhere_is_answered_with_ours(name: str) -> None:
    assert not hasattr(ml, name)
    with pytest.raises(AttributeError, match=f"^mithril_losses has no '{name}': here it is {re.escape(LOSSES[name])}$"):
        getattr(ml, name)
    for loss in re.findall(r"\w+_(?:loss|entropy|divergence|distance|logits|likelihood)\b", LOSSES[name]):
        assert loss in ml.catalogue()


@pytest.mark.parametrize(("section", "there", "here"), ROWS, ids=[f"{there} · {here}" for _, there, here in ROWS])
def test_every_row_is_among_the_names(section: str, there: str, here: str) -> None:
    name, loss = (
        re.findall(r"(?:F|optax|metrics|stats|distance|special|ml)\.(\w+)\(", call)[0] for call in (there, here)
    )
    if name not in ml.catalogue():
        assert loss in LOSSES[name]
