"""What a type checker knows of the public functions, in code that mypy checks with --strict."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import mithril_losses

CODE = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from mithril_losses import (
    NamedArrays,
    gaussian_kl_divergence,
    gaussian_kl_divergence_gradient,
    huber_loss,
    huber_loss_gradient,
    kl_divergence,
    l1_regularization,
    vae_loss,
    value_and_gradient,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Tensor:
    shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 0


def own_loss(predictions: Floats) -> float:
    return float(predictions.sum())


def check(p: Floats, t: Ints, x: Tensor) -> None:
    assert_type(huber_loss_gradient(p, t, delta=2.0), Floats)
    assert_type(huber_loss_gradient(x, x), Tensor)
    assert_type(huber_loss(p, t, delta=2.0), Floats)
    assert_type(huber_loss(x, x, reduction="sum"), Tensor)
    assert_type(kl_divergence(p, p), Floats)
    assert_type(vae_loss(p, p, p, p), tuple[Floats, Floats, Floats])
    assert_type(gaussian_kl_divergence_gradient(x, x), NamedArrays[Tensor])
    assert_type(gaussian_kl_divergence_gradient(x, x).mean, Tensor)
    assert_type(value_and_gradient(huber_loss)(p, t, delta=2.0), tuple[Floats, Any])
    assert_type(value_and_gradient(huber_loss_gradient)(p, t, delta=2.0, upstream=0.5), tuple[Floats, Any])
    assert_type(value_and_gradient(gaussian_kl_divergence)(p, p), tuple[Floats, Any])
    assert_type(value_and_gradient(gaussian_kl_divergence_gradient, threads=1)(x, x), tuple[Any, NamedArrays[Tensor]])
    assert_type(value_and_gradient(l1_regularization)(p), tuple[Any, Any])
    assert_type(value_and_gradient(own_loss)(p), tuple[float, Any])
    huber_loss(p, t, beta=0.5)  # type: ignore[call-arg]
    assert_type(value_and_gradient(huber_loss_gradient)(p, t, delta=2.0, out=p), tuple[Any, Floats])
    both = value_and_gradient(gaussian_kl_divergence_gradient)
    assert_type(both(x, x, out={"mean": x, "logvar": x}), tuple[Any, dict[str, Tensor]])
    assert_type(value_and_gradient(huber_loss_gradient)(p, t, out=None), tuple[Any, Any])
    huber_loss_gradient(p, t, upstrem=0.5)  # type: ignore[call-arg]
    huber_loss_gradient([1.0], p)  # type: ignore[type-var]
    value_and_gradient(huber_loss_gradient)(p, t, wrt="targets")  # type: ignore[call-overload]
"""


ROOT = Path(__file__).parents[2]
# PyTorch does not export the name HashStore for type checkers, which the page on sharding uses
PAGES = (ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "sharding.md"))


def _user_code(folder: Path) -> Iterator[Path]:
    """Write the Python of each page into a module of its own, as a user would, and copy the examples."""
    for page in PAGES:
        if blocks := re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            found = folder / f"page_{page.stem.replace('-', '_')}.py"
            found.write_text("\n".join(blocks), "utf-8")
            yield found
    for script in (ROOT / "docs/examples").glob("*.py"):
        yield Path(shutil.copy(script, folder))


@pytest.mark.exhaustive
def test_types_of_gradients_and_of_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.setenv("MYPYPATH", str(Path(mithril_losses.__file__).parents[1]))
    code = tmp_path / "user_code.py"
    code.write_text(CODE)
    files = [code, *_user_code(tmp_path)]
    # functions without annotations are a matter of style; what they do is checked all the same
    lenient = [f"--allow-{what}" for what in ("untyped-defs", "untyped-calls", "incomplete-defs")]
    told, problem, _ = api.run(["--strict", *lenient, "--config-file=", f"--cache-dir={tmp_path}", *map(str, files)])
    own = tuple(map(str, files))
    lines = [line for line in told.splitlines() if line.startswith(own)]
    assert not [line for line in lines if ": error:" in line and "[import-untyped]" not in line], told
    assert not problem
