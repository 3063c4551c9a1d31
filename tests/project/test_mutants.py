"""The mutation run itself: that it tests the copy, sees a mistake, and lets what is no mistake survive."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from mutants import (
    ROOT,
    Mutant,
    Outcome,
    Workshop,
    all_mutants,
    by_hand,
    confirmed,
    digest,
    keep,
    known_outcomes,
    main,
    not_on,
    page,
    require_copy_is_tested,
)
from substitutions import Substitution

FILE = "mithril_losses/losses/regression.py"
NO_MISTAKE = Mutant("no mistake", FILE, lambda source: source, [[FILE]])


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop(ROOT) as workshop:
        yield workshop


@pytest.mark.exhaustive
def test_tests_import_the_copy(workshop: Workshop) -> None:
    require_copy_is_tested(workshop)


@pytest.mark.exhaustive  # runs the tests of a copy, several times
def test_mistakes_are_noticed(workshop: Workshop) -> None:
    mistakes = ["huber_loss: gradient wrt predictions × 1.001", "numerics/reduction.py: the mean is doubled"]
    mutants = {mutant.description: mutant for mutant in all_mutants()}
    outcomes = confirmed([workshop.kill(mutants[mistake]) for mistake in mistakes], workshop)
    assert [outcome.mutant.description for outcome in outcomes if outcome.killer] == mistakes
    assert workshop.kill(NO_MISTAKE) == Outcome(NO_MISTAKE)  # nothing is left of them


@pytest.mark.exhaustive
def test_failure_without_the_mutant_kills_nothing(workshop: Workshop) -> None:
    source = workshop.tree / FILE
    right = source.read_text()
    source.write_text(right.replace("1.3125", "1.5"))
    try:
        outcome = workshop.kill(NO_MISTAKE)
        assert outcome.killer == f"{FILE}::mithril_losses.losses.regression.huber_loss"
        [outcome] = confirmed([outcome], workshop)
    finally:
        source.write_text(right)
    assert not outcome.killer
    assert "without the mutant" in outcome.error


@pytest.mark.exhaustive  # runs the tests of a copy
def test_a_process_that_ends_is_no_killer(workshop: Workshop) -> None:
    crash = Mutant("a crash", FILE, lambda source: source + "import os\nos.abort()\n", [[FILE]])
    outcome = workshop.kill(crash)
    assert not outcome.killer
    assert "exit code -6" in outcome.error


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    first, second, third = all_mutants()[:3]
    results, killer = tmp_path / "results", "tests/test_a.py::test_a"
    assert known_outcomes([first], "now", results) == []
    keep(Outcome(first, killer=killer), "now", results)
    keep(Outcome(second, error="no memory"), "now", results)
    keep(Outcome(third, killer=killer), "before", results)
    assert known_outcomes([first, second, third], "now", results) == [Outcome(first, killer=killer)]


def test_results_hold_until_a_file_changes(tmp_path: Path) -> None:
    for file in ("conftest.py", "mithril_losses/a.py", "tests/test_a.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    before = digest(tmp_path)
    (tmp_path / "tests/test_a.py").write_text("assert True\n")
    assert digest(tmp_path) != before


def test_every_mutant_can_be_made() -> None:
    sources = {mutant.file: (ROOT / mutant.file).read_text() for mutant in all_mutants()}
    for mutant in all_mutants():
        assert mutant.mutate(sources[mutant.file]) != sources[mutant.file], mutant.description


@pytest.mark.exhaustive  # parses the same large files again and again
def test_every_mutant_is_another_program() -> None:
    @functools.cache
    def program(source: str) -> str:
        return ast.dump(ast.parse(source))

    for mutant in all_mutants():
        source = (ROOT / mutant.file).read_text()
        assert program(mutant.mutate(source)) != program(source), mutant.description


def test_text_that_is_gone_is_an_error() -> None:
    mutant = by_hand(Substitution("regression.py", "a relic", {"text that nobody wrote": ""}))
    with pytest.raises(LookupError, match=r"regression.py, a relic: found 0 times"):
        mutant.mutate((ROOT / FILE).read_text())


@pytest.mark.exhaustive
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


def test_new_mutants_are_those_that_the_page_does_not_have() -> None:
    piped = Mutant("a | b", FILE, lambda source: source, [[FILE]])
    first, second = all_mutants()[:2]
    before = page([Outcome(first, killer="tests/test_a.py::test_a")]) + "| a &#124; b | **nothing: it survived** |\n"
    assert not_on(before, [first, second, piped]) == [second]
    assert not_on("", [first, piped]) == [first, piped]
    with pytest.raises(typer.BadParameter, match="--new needs --report"):
        main(new=True)


def test_none_in_the_list_survived() -> None:
    text = (ROOT / "docs/mutants.md").read_text()
    assert text.count("::") >= 40
    assert "**nothing" not in text
