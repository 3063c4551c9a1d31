"""The page of natural mistakes: every call is refused with the message that the page shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import double_precision
from scipy.special import softmax

import mithril_losses as ml

PAGE = Path(__file__).parents[2] / "docs/mistakes.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
ROWS = [
    (section.partition("\n")[0], *row)
    for section in SECTIONS
    for row in re.findall(r"(?m)^\| `(.*)` \| (.*) \|$", section)
]
CONVERT: dict[str, Any] = {
    "PyTorch": lambda x: torch.from_numpy(np.array(x)),
    "JAX": jnp.asarray,
    "NumPy": np.asarray,
}


def arrays() -> dict[str, np.ndarray]:
    x = np.array([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5], [-2.0, 1.0, 0.25], [3.0, -1.5, 1.0]])
    z = np.array([[6.0, -2.0, 0.5], [1.0, 3.0, -4.0], [0.25, 0.5, 0.75], [-1.0, 2.0, 8.0]])
    t = x[::-1] / 2.0
    return {
        "x": x,
        "t": t,
        "z": z,
        "p": softmax(z, axis=1),
        "q": softmax(x, axis=1),
        "y": np.array([0, 1, 2, 0]),
        "b": (t > 0.0).astype(float),
        "s": np.where(t > 0.0, 1.0, -1.0),
        "w": np.array([0.5, 1.0, 2.0]),
        "mask": np.ones(4),
        "images": np.zeros((2, 3, 4, 4)),
        "labels": np.zeros((2, 4, 4), int),
        "boxes": np.array([[3.0, 4.0, 2.0, 1.0]]),
    }


@pytest.mark.parametrize(("section", "call", "told"), ROWS, ids=[f"{section} {call}" for section, call, _ in ROWS])
def test_is_told(section: str, call: str, told: str) -> None:
    names = {"ml": ml, "np": np, "jax": jax, "jnp": jnp, "value_and_gradient": ml.value_and_gradient}
    with double_precision("jax"):
        given = names | {name: CONVERT[section](x) for name, x in arrays().items()}
        with pytest.raises((AttributeError, TypeError, ValueError)) as caught:
            eval(call, given)
    assert f"{type(caught.value).__name__}: {caught.value}" == told


def test_there_are_ten_of_each_library() -> None:
    for section in CONVERT:
        assert sum(row[0] == section for row in ROWS) >= 10


def test_inside_a_trace_it_is_nan() -> None:
    given = arrays()
    assert "`jax.jit(ml.cross_entropy_loss)(z, y)` is NaN" in PAGE.read_text(encoding="utf-8")
    assert jnp.isnan(jax.jit(ml.cross_entropy_loss)(jnp.asarray(given["z"]), jnp.asarray(given["y"])))
