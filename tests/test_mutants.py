"""The mutation run itself: that it tests the copy, sees a mistake, and lets what is no mistake survive."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from mutants import (
    ROOT,
    Mutant,
    Outcome,
    all_mutants,
    by_hand,
    confirmed,
    copy_repository,
    kill,
    page,
    require_copy_is_tested,
)
from substitutions import Substitution

FILE = "mithril_losses/regression.py"
NO_MISTAKE = Mutant("no mistake", FILE, lambda source: source, [[FILE]])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_repository(ROOT, tmp_path_factory.mktemp("mutants") / "original")


def test_tests_import_the_copy(original: Path) -> None:
    require_copy_is_tested(original)


def test_mistakes_are_noticed(original: Path) -> None:
    mistakes = {"huber_loss: gradient wrt predictions × 1.001", "_reduction.py: the mean is doubled"}
    mutants = [mutant for mutant in all_mutants() if mutant.description in mistakes]
    with ThreadPoolExecutor() as workers:
        outcomes = confirmed(list(workers.map(partial(kill, original=original), mutants)), original)
    assert {outcome.mutant.description for outcome in outcomes if outcome.killer} == mistakes


def test_no_mistake_survives(original: Path) -> None:
    assert kill(NO_MISTAKE, original) == Outcome(NO_MISTAKE)


def test_failure_without_the_mutant_kills_nothing(original: Path, tmp_path: Path) -> None:
    broken = copy_repository(original, tmp_path / "broken")
    source = broken / FILE
    source.write_text(source.read_text().replace("1.3125", "1.5"))
    outcome = kill(NO_MISTAKE, broken)
    assert outcome.killer == f"{FILE}::mithril_losses.regression.huber_loss"
    [outcome] = confirmed([outcome], broken)
    assert not outcome.killer
    assert "without the mutant" in outcome.error


def test_every_mutant_is_another_program() -> None:
    sources = {mutant.file: (ROOT / mutant.file).read_text() for mutant in all_mutants()}
    for mutant in all_mutants():
        source = sources[mutant.file]
        assert ast.dump(ast.parse(mutant.mutate(source))) != ast.dump(ast.parse(source)), mutant.description


def test_text_that_is_gone_is_an_error() -> None:
    mutant = by_hand(Substitution("regression.py", "a relic", {"text that nobody wrote": ""}))
    with pytest.raises(LookupError, match=r"regression.py, a relic: found 0 times"):
        mutant.mutate((ROOT / FILE).read_text())


def test_page_keeps_what_was_found_before() -> None:
    first, second, third = all_mutants()[:3]
    before = page([Outcome(first, killer="tests/test_a.py::test_a"), Outcome(second)])
    assert f"| {first.description} | `tests/test_a.py::test_a` |" in before
    assert f"| {second.description} | **nothing: it survived** |" in before
    assert "2 were run, and 1 of these were killed" in before
    after = page([Outcome(second, killer="tests/test_b.py::test_b"), Outcome(third, error="no memory")], before)
    assert f"| {first.description} | `tests/test_a.py::test_a` |" in after
    assert f"| {second.description} | `tests/test_b.py::test_b` |" in after
    assert "3 were run, and 2 of these were killed" in after
    assert "test_relic" not in page([], before.replace(first.description, "a relic"))


def test_none_in_the_list_survived() -> None:
    text = (ROOT / "docs/mutants.md").read_text()
    assert text.count("::") >= 40
    assert "**nothing" not in text
