"""A run: which cases, which candidates, and one step after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mithril_losses.benchmarks.candidates import Candidate, Memory, Setting, candidates_for
from mithril_losses.benchmarks.measuring import Timing
from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results, Row
from mithril_losses.benchmarks.worker import memory_apart, time_apart

_IN_WORDS: dict[Memory, str] = {"fresh": "", "warm": ", warm memory", "huge": ", huge pages"}


@dataclass(frozen=True)
class Plan:
    """What a run measures: the cases, the candidates (all if there are no names), and how."""

    cases: list[Case]
    setting: Setting
    seconds: float
    names: tuple[str, ...] = ()
    huge_pages: bool = False

    def candidates(self, case: Case) -> list[Candidate]:
        """Return the candidates of a case, installed or not."""
        found = candidates_for(case, self.setting.device)
        return [candidate for candidate in found if not self.names or candidate.name in self.names]

    def installed(self, case: Case) -> list[Candidate]:
        """Return the candidates of a case that can run."""
        return [candidate for candidate in self.candidates(case) if not candidate.missing]

    def memory(self, case: Case) -> tuple[Memory, ...]:
        """What results are written into when times are measured: fresh memory alone where that takes little time."""
        if case.size != "large" or not case.problem.streams or self.setting.device != "cpu":
            return ("fresh",)
        return ("fresh", "warm", "huge") if self.huge_pages else ("fresh", "warm")

    @property
    def steps(self) -> int:
        """How many steps `measure` takes."""
        return sum(len(self.memory(case)) + (case.size != "small") for case in self.cases)

    def measure(self, results: Results) -> Iterator[str]:
        """Add to the results step by step, and yield before each step what it is."""
        for case in self.cases:
            for memory in self.memory(case):
                yield f"{case.name}: time" + _IN_WORDS[memory]
                setting = self.setting._replace(memory=memory)
                found = time_apart(case, self.installed(case), setting, self.seconds)
                for candidate in self.candidates(case):
                    results.rows.append(_row(case, candidate, memory, found.get(candidate.name)))
            if case.size != "small":
                yield f"{case.name}: memory"
                self._measure_memory(case, results)

    def _measure_memory(self, case: Case, results: Results) -> None:
        rows = [row for row in results.of(case) if row.timing is not None and row.candidate.kind != "bound"]
        found = memory_apart(case, [row.candidate for row in rows], self.setting)
        for row in rows:
            extra = found[row.candidate.name]
            row.extra_bytes, row.note = (None, extra) if isinstance(extra, str) else (extra, "")


def _row(case: Case, candidate: Candidate, memory: Memory, found: Timing | str | None) -> Row:
    row = Row(case, candidate, memory)
    if isinstance(found, Timing):
        row.timing = found
    else:
        row.note = found or f"{candidate.missing} is not installed"
    return row
