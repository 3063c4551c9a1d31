"""The measurements, and comparisons of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mithril_losses.benchmarks.candidates import CANDIDATES, Candidate, Memory
from mithril_losses.benchmarks.measuring import Timing
from mithril_losses.benchmarks.problems import Case


@dataclass
class Row:
    """One candidate at one case.

    Attributes:
        case: the loss and the shape.
        candidate: the name of the candidate.
        memory: what results were written into, as in `Setting`.
        timing: the time per call, if it was measured.
        extra_bytes: the peak of the extra memory of a call, its results included, if it was measured.
        note: why something is missing.
    """

    case: Case
    candidate: Candidate
    memory: Memory = "fresh"
    timing: Timing | None = None
    extra_bytes: int | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        """The median of the time per call, in seconds."""
        return None if self.timing is None else self.timing.median

    @property
    def extra_gradients(self) -> float | None:
        """The extra memory in units of the gradients returned."""
        if self.extra_bytes is None or self.timing is None or self.timing.gradient_bytes == 0:
            return None
        return self.extra_bytes / self.timing.gradient_bytes


@dataclass
class Results:
    """All rows so far, with the comparisons that tables and targets need. Rows are added at the end."""

    rows: list[Row] = field(default_factory=list)
    _by_case: dict[tuple[str, Memory], list[Row]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _sorted: int = field(default=0, init=False, repr=False, compare=False)  # how many of the rows are in there

    @property
    def cases(self) -> list[Case]:
        """The cases that have rows, in order."""
        return list({row.case.name: row.case for row in self.rows}.values())

    def has(self, memory: Memory) -> bool:
        """Whether times were taken with this kind of memory."""
        return any(row.memory == memory for row in self.rows)

    def candidates(self, cases: Iterable[Case], memory: Memory = "fresh") -> list[str]:
        """Return the names of the candidates that have a time at one of the cases, in the order of `CANDIDATES`."""
        timed = {row.candidate.name for case in cases for row in self.of(case, memory) if row.timing}
        return [candidate.name for candidate in CANDIDATES if candidate.name in timed]

    def of(self, case: Case, memory: Memory = "fresh") -> list[Row]:
        """Return the rows of a case."""
        for row in self.rows[self._sorted :]:
            self._by_case.setdefault((row.case.name, row.memory), []).append(row)
        self._sorted = len(self.rows)
        return self._by_case.get((case.name, memory), [])

    def row(self, case: Case, candidate: str, memory: Memory = "fresh") -> Row | None:
        """Return the row of a candidate by name."""
        return next((row for row in self.of(case, memory) if row.candidate.name == candidate), None)

    def fastest(self, case: Case, candidates: Iterable[str], memory: Memory = "fresh") -> Row | None:
        """Return the fastest of some candidates."""
        timed = [row for row in self.of(case, memory) if row.median is not None and row.candidate.name in candidates]
        return min(timed, key=lambda row: row.median or 0.0, default=None)

    def best_peer(self, case: Case, memory: Memory = "fresh") -> Row | None:
        """Return the fastest peer."""
        return self.fastest(case, {row.candidate.name for row in self.of(case) if row.candidate.kind == "peer"}, memory)

    def speed_up(self, row: Row) -> float | None:
        """Return the speed of a candidate divided by the speed of the best peer."""
        return ratio(self.best_peer(row.case, row.memory), row)

    def over_copy(self, row: Row) -> float | None:
        """Return the time of a candidate divided by the time of a copy of the same bytes."""
        return ratio(row, self.row(row.case, "copy", row.memory))

    @staticmethod
    def read_csv(path: Path, cases: Iterable[Case]) -> Results:
        """Return the rows of these cases that `write_csv` wrote, in its order.

        Raises:
            ValueError: the file is no such table.
        """
        known: dict[tuple[str, ...], Case] = {(case.problem.loss, case.size, _shape(case)): case for case in cases}
        candidates = {candidate.name: candidate for candidate in CANDIDATES}
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError("it has other columns than the file of a benchmark")
            records = list(reader)
        results = Results()
        for record in records:
            case = known.get((record["loss"], record["size"], record["shape"]))
            candidate = candidates.get(record["candidate"])
            if case is not None and candidate is not None:
                results.rows.append(_read(case, candidate, record))
        return results

    def in_order(self, cases: Iterable[Case]) -> Results:
        """Return the same rows in the order of these cases."""
        return Results([row for case in cases for row in self.rows if row.case.name == case.name])

    def write_csv(self, path: Path) -> None:
        """Write all rows, with full precision."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self.records())

    def records(self) -> list[Mapping[str, Any]]:
        """Return the numbers of each row by name."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: Row) -> Mapping[str, Any]:
        timing = row.timing
        cells = (
            row.case.problem.loss,
            row.case.size,
            _shape(row.case),
            row.candidate.name,
            row.candidate.kind,
            row.memory,
            timing and timing.median,
            timing and timing.tenth,
            timing and timing.calls,
            self.speed_up(row),
            self.over_copy(row),
            row.extra_bytes,
            row.extra_gradients,
            row.note,
        )
        return dict(zip(_COLUMNS, cells, strict=True))


_COLUMNS = (
    "loss",
    "size",
    "shape",
    "candidate",
    "kind",
    "memory",
    "median_seconds",
    "tenth_percentile_seconds",
    "calls",
    "speed_up_over_best_peer",
    "times_copy",
    "extra_bytes",
    "extra_gradients",
    "note",
)


def _shape(case: Case) -> str:
    return "x".join(map(str, case.shape))


def _read(case: Case, candidate: Candidate, record: Mapping[str, str]) -> Row:
    """Return a row from what was written of it."""
    memory: Any = record["memory"]
    row = Row(case, candidate, memory, note=record["note"])
    if record["extra_bytes"]:
        row.extra_bytes = int(record["extra_bytes"])
    if record["median_seconds"]:
        seconds = float(record["median_seconds"]), float(record["tenth_percentile_seconds"])
        gradients = float(record["extra_gradients"] or 0.0)
        size = round(row.extra_bytes / gradients) if row.extra_bytes and gradients else 0
        row.timing = Timing(*seconds, int(record["calls"]), size)
    return row


def ratio(row: Row | None, other: Row | None) -> float | None:
    """Return the time of one row divided by that of another, or None if one was not measured."""
    if row is None or row.median is None or other is None or other.median is None:
        return None
    return row.median / other.median
