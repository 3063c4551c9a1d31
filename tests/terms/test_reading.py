"""The language of terms: what is read from a function, and what is refused."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from mithril_losses.terms.reading import UnreadableTerms, read_terms


def _scaled(xp: Any, x: Any, squared: bool, scale: float = 2.0) -> Any:
    if squared:
        return scale * x * x
    return scale * xp.abs(x)


def text(function: Any, flags: dict[int, bool]) -> str:
    terms = read_terms(function, flags)
    return "\n".join(map(ast.unparse, (*terms.helpers, terms.definition)))


def test_flags_are_settled_and_calls_are_by_position() -> None:
    def _terms(xp: Any, x: Any, y: Any, squared: bool, negative: bool) -> Any:
        value = _scaled(xp, x, squared) + _scaled(xp, y, False, scale=y)
        value += _scaled(xp, x, False, scale=3)
        if not negative and squared:
            value = value + 1.0
        return value, (-value if negative else value**2)

    assert text(_terms, {2: True, 3: False}).splitlines() == [
        "def terms__scaled_1_True(x, scale):",
        "    return scale * x * x",
        "def terms__scaled_1_False(x, scale):",
        "    return scale * xp.abs(x)",
        "def terms(x, y):",
        "    value = terms__scaled_1_True(x, 2.0) + terms__scaled_1_False(y, y)",
        "    value = value + terms__scaled_1_False(x, 3)",
        "    value = value + 1.0",
        "    return (value, value ** 2)",
    ]
    assert text(_terms, {2: True, 3: True}).endswith("    return (value, -value)")


def _branch(xp: Any, x: Any) -> Any:
    if x > 0.0:
        return x, 1.0
    return -x, -1.0


def _loop(xp: Any, x: Any) -> Any:
    for _ in range(3):
        x = x * x
    return x, x


def _word(xp: Any, x: Any) -> Any:
    return xp.where(x > "0", x, x), x


def _global(xp: Any, x: Any) -> Any:
    return x * pytest, x


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (_branch, "a branch on x > 0.0"),
        (_loop, "for _ in range"),
        (_word, "'0'"),
        (_global, "'pytest'"),
        (abs, "source"),
    ],
)
def test_what_is_not_in_the_language_is_named(function: Any, what: str) -> None:
    with pytest.raises(UnreadableTerms, match=what):
        read_terms(function)


def test_a_tree_stays_as_it_is_when_it_is_cut() -> None:
    def _terms(xp: Any, x: Any) -> Any:
        value = xp.exp(x)
        return xp.log(value + xp.exp(value)), value

    terms = read_terms(_terms)
    before = ast.dump(terms.definition)
    assert [stage.definition.name for stage in terms.stages] == ["terms_0", "terms_1", "terms_2"]
    assert ast.dump(terms.definition) == before
