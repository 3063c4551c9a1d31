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
