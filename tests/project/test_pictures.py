"""The scripts that draw the pictures of the pages run, and find what the pages say."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PICTURES = Path(__file__).parents[2] / "docs/pictures"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PICTURES)
    return importlib.import_module(name)


def test_quantiles_of_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xgboost")
    boosting = load("boosting", monkeypatch)
    shares = boosting.main(tmp_path / "picture.png")
    np.testing.assert_allclose(shares, boosting.LEVELS, atol=0.02)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_robust_fit_by_levenberg_and_marquardt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load("optimize", monkeypatch).main(tmp_path / "picture.png")
    true = np.array([2.0, 1.3, 0.5])
    assert np.abs(found["cauchy_loss"] - true).max() < 0.05 < np.abs(found["mse_loss"] - true).max()
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_gauss_newton_matrix_and_its_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("curvlinops")
    exact, factors = load("gauss_newton", monkeypatch).main(tmp_path / "picture.png")
    assert np.abs(factors).max() > 0.01
    np.testing.assert_allclose(
        factors[-2:, -2:], exact[-2:, -2:], rtol=1e-4, atol=1e-6
    )  # of the last bias they are equal
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_every_picture_is_on_a_page_and_has_its_script() -> None:
    pages = {"boosting": "boosting", "gauss_newton": "curvlinops", "optimize": "optimize"}
    assert {path.stem for path in PICTURES.glob("*.py")} == {path.stem for path in PICTURES.glob("*.png")} == set(pages)
    for name, page in pages.items():
        text = (PICTURES.parent / f"{page}.md").read_text("utf-8")
        assert f"](pictures/{name}.png)" in text
        assert f"](pictures/{name}.py)" in text
