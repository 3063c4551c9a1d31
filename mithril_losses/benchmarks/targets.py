"""What measurements must show: bounds on ratios, which the families state for their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from mithril_losses.benchmarks.candidates import Memory
from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results, Row, ratio

Names = tuple[str, ...]
Measure = Callable[[Results, Case, Memory], float | None]

FUSED: Names = ("ours-numpy-fused",)
BLOCKED: Names = ("ours-numpy-blocked",)
NUMPY: Names = (*FUSED, *BLOCKED, "ours-numpy")
TORCH: Names = ("ours-torch",)
BACKWARD: Names = ("ours-backward",)
JAX_GRAD: Names = ("ours-jax-grad",)
BEST: Names = (*NUMPY, *TORCH, "ours-jax")
EAGER: Names = ("torch-eager",)
COMPILE: Names = ("torch-compile",)
JAX: Names = ("jax-jit", "jax-jit-optax")  # whichever is faster
SCIKIT: Names = ("scikit-learn",)
PEERS: Names = (*EAGER, *COMPILE, *JAX, *SCIKIT)
COPY: Names = ("copy",)

_IN_BLOCKS = (
    "Every operation passes over its block once more, and two threads hand the interpreter to each other between "
    "operations: [where the time goes](profiles.md#blocks) has what each of them takes."
)


class Where(NamedTuple):
    """Some cases, in words and as a test."""

    label: str
    contains: Callable[[Case], bool]


@dataclass(frozen=True)
class Target:
    """A bound on a number that is measured at some cases.

    Attributes:
        where: the cases.
        what: what is measured, in words.
        measure: returns the number, or None if it was not measured.
        least: the smallest accepted number, or None.
        most: the largest accepted number, or None.
        why_missed: the reason, if the bound is known to be out of reach; shown if it is missed.
        over: the candidates that ours must be faster than; if they are faster, the page also shows a copy of the bytes.
        memory: what results are written into, as in `Setting`.
    """

    where: Where
    what: str
    measure: Measure
    least: float | None = None
    most: float | None = None
    why_missed: str = ""
    over: Names = ()
    memory: Memory = "fresh"

    def is_met(self, number: float) -> bool:
        """Whether the number lies within the bounds."""
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)

    def outcomes(self, results: Results) -> Iterator[Outcome]:
        """Yield the outcome at each of the cases that were measured."""
        for case in filter(self.where.contains, results.cases):
            huge = self.measure(results, case, "huge") if self.memory == "fresh" else None
            yield Outcome(case, self.measure(results, case, self.memory), huge)


class Outcome(NamedTuple):
    """The number at a case, and the same with huge pages; None if it was not measured."""

    case: Case
    number: float | None
    huge: float | None


# --- where ------------------------------------------------------------------------------------------------------------


def large(label: str, *losses: str, last: int | None = None) -> Where:
    """Return the large cases of some losses; with `last`, those whose shape ends with it."""

    def contains(case: Case) -> bool:
        return is_large(case) and case.problem.loss in losses and last in (None, case.shape[-1])

    return Where(label, contains)


def is_large(case: Case) -> bool:
    """Whether a case is large, and other libraries take part in it."""
    return case.size == "large" and not case.ours_alone


# --- what is measured -------------------------------------------------------------------------------------------------


def speed_up(ours: Names, over: Names) -> Measure:
    """The speed of the fastest of ours divided by the speed of the fastest of the others."""

    def measure(results: Results, case: Case, memory: Memory) -> float | None:
        return ratio(results.fastest(case, over, memory), results.fastest(case, ours, memory))

    return measure


def saving(ours: Names, over: Names, *, beyond_gradients: bool = False) -> Measure:
    """The least extra memory of the others divided by the extra memory of the fastest of ours."""

    def measure(results: Results, case: Case, memory: Memory) -> float | None:
        mine = results.fastest(case, ours)
        others = [row.extra_bytes for row in _rows(results, case, over) if row.extra_bytes is not None]
        if memory != "fresh" or not others or mine is None or mine.timing is None or mine.extra_bytes is None:
            return None
        unavoidable = mine.timing.gradient_bytes if beyond_gradients else 0
        return (min(others) - unavoidable) / max(mine.extra_bytes - unavoidable, 1)

    return measure


def most_memory(ours: Names, unit: Callable[[Row], float | None]) -> Measure:
    """The most extra memory that one of ours takes."""

    def measure(results: Results, case: Case, memory: Memory) -> float | None:
        amounts = [amount for amount in map(unit, _rows(results, case, ours)) if amount is not None]
        return max(amounts) if amounts and memory == "fresh" else None

    return measure


def _rows(results: Results, case: Case, names: Names) -> list[Row]:
    return [row for row in results.of(case) if row.candidate.name in names]


# --- targets in one line ----------------------------------------------------------------------------------------------


def faster(where: Where, label: str, ours: Names, bounds: Mapping[Names, float], why_missed: str = "") -> list[Target]:
    """Return targets for how many times as fast as each of the others ours must be."""
    return [
        Target(
            where,
            f"{label}: times as fast as {over[0]}",
            speed_up(ours, over),
            least=bound,
            why_missed=why_missed,
            over=over,
        )
        for over, bound in bounds.items()
    ]


def warm(where: Where, bounds: Mapping[Names, float]) -> list[Target]:
    """Return targets for times into warm memory: over that of a warm copy, and as a fraction of those of others."""
    targets = faster(where, "warm, fused", FUSED, {over: bound for over, bound in bounds.items() if over != COPY})
    targets.append(time_over(where, "warm, fused", FUSED, COPY, most=bounds[COPY]))
    return [replace(target, memory="warm") for target in targets]


def blocked(where: Where) -> list[Target]:
    """Return targets for how many times as fast blocks must be, for losses that also have fused loops."""
    return faster(where, "blocked", BLOCKED, {EAGER: 3.0, JAX: 2.0}, _IN_BLOCKS)


def time_over(where: Where, label: str, ours: Names, over: Names, *, most: float, why_missed: str = "") -> Target:
    """Return a target for how many times as long as another candidate ours may take."""
    names = {COPY: "the copy", NUMPY: "NumPy arrays"}
    what = f"{label}: time over that of {names.get(over, over[0])}"
    return Target(where, what, speed_up(over, ours), most=most, why_missed=why_missed)


def memory_below(where: Where, over: Names, others: str, *, times: float, beyond_gradients: bool = False) -> Target:
    """Return a target for how many times less extra memory than others the fastest of ours must take."""
    what = f"best of ours: times less memory{' beyond the gradients' if beyond_gradients else ''} than {others}"
    measure = saving(BEST, over, beyond_gradients=beyond_gradients)
    return Target(where, what, measure, least=times)


def on_many_points(*losses: str) -> Target:
    """Return a target for the extra memory of ours at sizes at which holding all pairs runs out of memory."""
    where = Where("on 20,000 points", lambda case: case.ours_alone and case.problem.loss in losses)
    measure = most_memory((*NUMPY, *TORCH), lambda row: None if row.extra_bytes is None else row.extra_bytes / 1e6)
    return Target(where, "NumPy and torch: extra memory in MB", measure, most=200.0)


_LOOPS = Where(
    "every loss with a fused loop, medium and large", lambda case: case.size != "small" and case.problem.streams
)
_SEPARABLE = Where("every separable loss, large", lambda case: is_large(case) and case.problem.streams)
_CALLS = Where(
    "mse, bce, cross-entropy 32×10",
    lambda case: (
        case.size == "small"
        and case.problem.loss in ("mse_loss", "binary_cross_entropy_with_logits", "cross_entropy_with_logits")
    ),
)

OF_ALL_LOSSES = [
    *(
        Target(
            _SEPARABLE,
            f"{label}: extra memory in gradients",
            most_memory(names, lambda row: row.extra_gradients),
            most=1.15,
        )
        for label, names in {"NumPy and torch": (*NUMPY, *TORCH), "backward": BACKWARD}.items()
    ),
    time_over(
        _CALLS,
        "torch tensors",
        TORCH,
        EAGER,
        most=1.0,
        why_missed="Of every call, 3 µs turn tensors into NumPy's views and back.",
    ),
    time_over(_CALLS, "backward", BACKWARD, EAGER, most=1.0),
    time_over(Where("every loss, large", is_large), "torch tensors", TORCH, NUMPY, most=1.2),
    *faster(_LOOPS, "backward", BACKWARD, {EAGER: 2.5}),
    time_over(_LOOPS, "backward", BACKWARD, TORCH, most=1.3),
    time_over(
        Where("every loss, medium and large", lambda case: case.size != "small"), "backward", BACKWARD, EAGER, most=1.0
    ),
    time_over(Where("every loss", lambda case: True), "jax.grad", JAX_GRAD, JAX, most=1.1),
]
