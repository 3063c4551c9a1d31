"""Results as tables for the terminal, and the format of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.table import Table
from rich.text import Text

from mithril_losses.benchmarks.candidates import Memory
from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results, Row
from mithril_losses.training.errors import printable

_GROUPS: dict[str, Callable[[Case], bool]] = {
    "small": lambda case: case.size == "small",
    "medium": lambda case: case.size == "medium",
    "large": lambda case: case.size == "large" and not case.ours_alone,
    "large, ours alone": lambda case: case.ours_alone,
}

_OTHERS: dict[Memory, str] = {"warm": "warm memory", "huge": "huge pages"}


def tables(results: Results) -> Iterator[Table]:
    """Yield one table for each group of cases that has rows."""
    others = [(memory, title) for memory, title in _OTHERS.items() if results.has(memory)]
    headers = ["median", "10 %", "× best peer", "× copy"]
    for memory, title in others:
        headers += [title, "× best peer"] + ["× copy"] * (memory == "warm")
    for title, cases in groups(results):
        table = Table(title=title, title_justify="left")
        table.add_column("case", no_wrap=True)
        table.add_column("candidate", no_wrap=True)
        for header in (*headers, "extra MiB", "in gradients"):
            table.add_column(header, justify="right")
        table.add_column("note", overflow="fold")
        for case in cases:
            for i, row in enumerate(results.of(case)):
                cells = (case.name if i == 0 else "", row.candidate.name, *_cells(results, row), printable(row.note))
                table.add_row(*map(Text, cells), style="bold" if row.candidate.kind == "ours" else "")
            table.add_section()
        yield table


def _cells(results: Results, row: Row) -> Iterator[str]:
    yield time(row.median)
    yield time(row.timing and row.timing.tenth)
    yield number(results.speed_up(row))
    yield number(results.over_copy(row))
    for memory in filter(results.has, _OTHERS):
        other = results.row(row.case, row.candidate.name, memory)
        yield time(None if other is None else other.median)
        yield number(None if other is None else results.speed_up(other))
        if memory == "warm":
            yield number(None if other is None else results.over_copy(other))
    yield mebibytes(row)
    yield number(row.extra_gradients)


def groups(results: Results, memory: Memory = "fresh") -> Iterator[tuple[str, list[Case]]]:
    """Yield the title and the cases of each group that has any with this kind of memory."""
    for title, contains in _GROUPS.items():
        cases = [case for case in results.cases if contains(case) and results.of(case, memory)]
        if cases:
            yield title, cases


def number(x: float | None) -> str:
    """Return three digits, or nothing for None."""
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) >= 99.95 else f"{x:#.3g}"


def time(seconds: float | None) -> str:
    """Return three digits and a unit, or nothing for None."""
    if seconds is None:
        return ""
    factor, unit = (1e6, "µs") if seconds < 1e-3 else (1e3, "ms") if seconds < 1.0 else (1.0, "s")
    return f"{number(factor * seconds)} {unit}"


def mebibytes(row: Row) -> str:
    """Return the extra memory of a candidate in MiB, or nothing if it was not measured."""
    return number(None if row.extra_bytes is None else row.extra_bytes / 2**20)
