"""What a type checker knows of the public functions, in code that mypy checks with --strict."""

from pathlib import Path

import pytest

import mithril_losses

CODE = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from mithril_losses import gaussian_kl_divergence_gradient, huber_loss, huber_loss_gradient, value_and_gradient

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
    assert_type(gaussian_kl_divergence_gradient(x, x), dict[str, Tensor])
    assert_type(value_and_gradient(huber_loss)(p, t, delta=2.0), tuple[Any, Any])
    assert_type(value_and_gradient(huber_loss_gradient)(p, t, delta=2.0, upstream=0.5), tuple[Any, Floats])
    assert_type(value_and_gradient(gaussian_kl_divergence_gradient, threads=1)(x, x), tuple[Any, dict[str, Tensor]])
    assert_type(value_and_gradient(own_loss)(p), tuple[float, Any])
    assert_type(value_and_gradient(huber_loss_gradient)(p, t, delta=2.0, out=p), tuple[Any, Floats])
    both = value_and_gradient(gaussian_kl_divergence_gradient)
    assert_type(both(x, x, out={"mean": x, "logvar": x}), tuple[Any, dict[str, Tensor]])
    assert_type(value_and_gradient(huber_loss_gradient)(p, t, out=None), tuple[Any, Any])
    huber_loss_gradient(p, t, upstrem=0.5)  # type: ignore[call-arg]
    huber_loss_gradient([1.0], p)  # type: ignore[type-var]
    value_and_gradient(huber_loss_gradient)(p, t, wrt="targets")  # type: ignore[call-overload]
"""


@pytest.mark.exhaustive
def test_gradients_have_the_type_of_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.setenv("MYPYPATH", str(Path(mithril_losses.__file__).parents[1]))
    code = tmp_path / "user_code.py"
    code.write_text(CODE)
    told, problem, _ = api.run(["--strict", "--config-file=", f"--cache-dir={tmp_path}", str(code)])
    errors = [line for line in told.splitlines() if line.startswith(str(code))]
    assert not errors, told
    assert not problem
