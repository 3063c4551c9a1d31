"""The documentation is true: its Python runs and prints what it says, and its formulas can be rendered."""

from __future__ import annotations

import contextlib
import doctest
import functools
import importlib.util
import io
import math
import re
from pathlib import Path

import pytest
import torch

import mithril_losses
from mithril_losses import catalogue, unregister

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSUMERS = {"catboost", "curvlinops", "kfac_jax", "lightgbm", "xgboost"}
PROMISE = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)


@pytest.fixture
def own_catalogue(monkeypatch, tmp_path):
    """What a page registers or writes is gone when it ends."""
    known = set(catalogue())
    monkeypatch.chdir(tmp_path)
    yield
    for name in set(catalogue()) - known:
        unregister(name)


@pytest.fixture
def quick_compiler(monkeypatch):
    """PyTorch's compiler traces, but does not call a compiler of C++, which takes ten seconds."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.usefixtures("own_catalogue", "quick_compiler")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by PyTorch's compiler itself
@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name)
def test_python_on_page_runs_and_prints_what_it_says(page: Path) -> None:
    text = page.read_text()
    namespace = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        printed = io.StringIO()
        for library in CONSUMERS & set(re.findall(r"^(?:import|from) (\w+)", block[1], re.MULTILINE)):
            pytest.importorskip(library, reason="the extra of this page is not installed")
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block[1], page, "exec"), namespace)
        promised = PROMISE.findall(block[1])
        if promised:
            assert printed.getvalue().splitlines() == promised


def test_pages_are_found() -> None:
    assert {"README.md", "quickstart.md", "conventions.md"} <= {page.name for page in PAGES}


def hook(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/hooks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def to_mathml():
    pytest.importorskip("latex2mathml", reason="the extra docs is not installed")
    return hook("mathml").to_mathml


class TestPieces:
    """The pages of families print what their element-wise losses compute."""

    def test_every_family_with_elementwise_losses_has_a_mark(self) -> None:
        families = {pair.family for pair in catalogue().values() if pair.terms.elements}
        marked = {page.stem for page in (ROOT / "docs/losses").glob("*.md") if hook("pieces").MARK in page.read_text()}
        assert families == marked

    @pytest.mark.exhaustive  # SymPy simplifies the terms of each loss
    def test_formulas_are_those_of_the_code(self, to_mathml) -> None:
        text = hook("pieces").pieces_of("regression")
        formulas = re.findall(r"\$\$\n(.*?)\n\$\$", text)
        assert r"\ell = p - t, \qquad \frac{\partial \ell}{\partial p} = 1 \qquad (p - t > 0)" in formulas
        assert r"\ell = \left(p - t\right)^{2}, \qquad \frac{\partial \ell}{\partial p} = 2 p - 2 t" in formulas
        for formula in formulas:
            assert "<math" in to_mathml(formula, "block")


class TestFormulas:
    @pytest.mark.parametrize(
        "latex", [r"\unknown{x}", r"\frac{1}{2", "x}", "a^{", r"\begin{aligned} a &= b \end{aligned}", r"\mathbf{1}"]
    )
    def test_what_cannot_be_rendered_fails_the_build(self, to_mathml, latex: str) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(latex))):
            to_mathml(latex, "inline")

    def test_sign_after_an_opening_bracket_takes_no_space(self, to_mathml) -> None:
        assert '<mo form="prefix">−</mo>' in to_mathml("[-1, 1]", "inline")
        assert "form" not in to_mathml("a - 1", "inline")
        assert "form" not in to_mathml("(a) - 1", "inline")


class TestProperties:
    """The pages print what a loss declares of itself, and under which condition."""

    def test_a_loss_has_a_section_of_its_properties(self) -> None:
        text = hook("docstrings").with_properties(
            "Formula.\n\nSource:\n    A book.", ["convex", "symmetric (swap=False)"]
        )
        assert text == "Formula.\n\nProperties:\n    * convex\n    * symmetric (swap=False)\n\nSource:\n    A book."

    def test_a_loss_without_properties_has_none(self) -> None:
        assert (
            hook("docstrings").with_properties("Formula.\n\nSource:\n    A book.", [])
            == "Formula.\n\nSource:\n    A book."
        )


ROUNDED = re.compile(r"round\((float\(.*\)), (\d+)\)$")
TRUNCATED = re.compile(r"([−-]?\d+\.\d+)…")


def computed(docstring: str) -> list[float]:
    """The numbers that the examples of a docstring print rounded, before they are rounded."""
    names: dict[str, object] = {}
    numbers = []
    for example in doctest.DocTestParser().get_examples(docstring):
        match = ROUNDED.match(example.source.strip())
        if match:
            numbers.append(eval(match[1], {**vars(mithril_losses), **names}))
        else:
            exec(example.source, {**vars(mithril_losses)}, names)
    return numbers


EXAMPLES = {
    f"{function.__name__}": function.__doc__
    for pair in catalogue().values()
    for function in (pair.value, pair.gradient)
    if TRUNCATED.search(function.__doc__ or "")
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_ellipsis_follows_digits_that_were_cut_and_not_rounded(name: str) -> None:
    for text in TRUNCATED.findall(EXAMPLES[name]):
        decimals = len(text.partition(".")[2])
        number = float(text.replace("−", "-"))
        for value in computed(EXAMPLES[name]):
            if abs(value - number) < 1.5 * 10.0**-decimals:
                assert number == math.trunc(value * 10**decimals) / 10**decimals
