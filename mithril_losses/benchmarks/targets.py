"""What the benchmark must show, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results, Row, ratio
from mithril_losses.benchmarks.worker import Pages

Names = tuple[str, ...]
Measure = Callable[[Results, Case, Pages], float | None]

_FUSED, _BLOCKED = ("ours-numpy-fused",), ("ours-numpy-blocked",)
_NUMPY: Names = ("ours-numpy-fused", "ours-numpy-blocked", "ours-numpy")
_TORCH = ("ours-torch",)
_BEST: Names = (*_NUMPY, *_TORCH, "ours-jax")
_EAGER, _COMPILE, _SCIKIT = ("torch-eager",), ("torch-compile",), ("scikit-learn",)
_JAX = ("jax-jit", "jax-jit-optax")  # whichever is faster
_PEERS: Names = (*_EAGER, *_COMPILE, *_JAX, *_SCIKIT)


class Where(NamedTuple):
    """Some cases, in words and as a test."""

    label: str
    contains: Callable[[Case], bool]


@dataclass(frozen=True)
class Target:
    """A bound on something that is measured at some cases.

    Attributes:
        where: the cases.
        what: what is measured, in words.
        measure: the number, or None where it was not measured.
        least: the least that it may be, or None.
        most: the most that it may be, or None.
    """

    where: Where
    what: str
    measure: Measure
    least: float | None = None
    most: float | None = None

    def is_met(self, number: float) -> bool:
        """Whether the number lies within the bounds."""
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)

    def outcomes(self, results: Results) -> Iterator[Outcome]:
        """Yield what was measured at each of the cases that were run."""
        for case in filter(self.where.contains, results.cases):
            yield Outcome(case, self.measure(results, case, "default"), self.measure(results, case, "huge"))


class Outcome(NamedTuple):
    """The number at a case, and the same with huge pages; None where it was not measured."""

    case: Case
    number: float | None
    huge: float | None


# --- what is measured -------------------------------------------------------------------------------------------------


def _speed_up(ours: Names, over: Names) -> Measure:
    """How many times as fast the fastest of ours is as the fastest of the others."""

    def measure(results: Results, case: Case, pages: Pages) -> float | None:
        return ratio(results.fastest(case, over, pages), results.fastest(case, ours, pages))

    return measure


def _slow_down(ours: Names, over: Names) -> Measure:
    """How many times as long the fastest of ours takes as the fastest of the others."""
    return _speed_up(over, ours)


def _saving(ours: Names, over: Names, *, beyond_gradients: bool = False) -> Measure:
    """How many times as much extra memory the leanest of the others takes as the fastest of ours."""

    def measure(results: Results, case: Case, pages: Pages) -> float | None:
        mine = results.fastest(case, ours)
        others = [row.extra_bytes for row in _rows(results, case, over) if row.extra_bytes is not None]
        if pages == "huge" or not others or mine is None or mine.timing is None or mine.extra_bytes is None:
            return None
        unavoidable = mine.timing.gradient_bytes if beyond_gradients else 0
        return (min(others) - unavoidable) / max(mine.extra_bytes - unavoidable, 1)

    return measure


def _most_memory(ours: Names, unit: Callable[[Row], float | None]) -> Measure:
    """The most extra memory that one of ours takes."""

    def measure(results: Results, case: Case, pages: Pages) -> float | None:
        amounts = [amount for amount in map(unit, _rows(results, case, ours)) if amount is not None]
        return max(amounts) if amounts and pages == "default" else None

    return measure


def _rows(results: Results, case: Case, names: Names) -> list[Row]:
    return [row for row in results.of(case) if row.candidate.name in names]


def _megabytes(row: Row) -> float | None:
    return None if row.extra_bytes is None else row.extra_bytes / 1e6


# --- where ------------------------------------------------------------------------------------------------------------


def _large(label: str, *losses: str, classes: int | None = None) -> Where:
    def contains(case: Case) -> bool:
        return _every_large(case) and case.problem.loss in losses and classes in (None, case.shape[-1])

    return Where(label, contains)


def _every_large(case: Case) -> bool:
    return case.size == "large" and not case.ours_alone


_ARITHMETIC = _large("mse, mae, huber, 16e6", "mse_loss", "mae_loss", "huber_loss")
_TRANSCENDENTAL = _large(
    "bce with logits, focal with logits, kl, 16e6",
    "binary_cross_entropy_with_logits",
    "focal_loss_with_logits",
    "kl_divergence",
)
_SIX = Where("these six", lambda case: _ARITHMETIC.contains(case) or _TRANSCENDENTAL.contains(case))
_WIDE = _large("cross-entropy 512×32,000", "cross_entropy_with_logits", classes=32_000)
_NARROW = _large("cross-entropy 65,536×100", "cross_entropy_with_logits", classes=100)
_CHAMFER = _large("chamfer 8,000 × 8,000 × 3", "chamfer_distance")
_SAMPLES = _large("MMD 2,000 × 64, energy 2,000 × 16", "maximum_mean_discrepancy", "energy_distance")
_POINTS = Where("chamfer, MMD, energy on 20,000 points", lambda case: case.ours_alone)
_STREAMS = Where("every separable loss, large", lambda case: _every_large(case) and case.problem.streams)
_LINEAR = _large("linear cross-entropy 2,048×512 · 512×32,000", "linear_cross_entropy")
_LARGE = Where("every loss, large", _every_large)
_CALLS = Where(
    "mse, bce, cross-entropy 32×10",
    lambda case: (
        case.size == "small"
        and case.problem.loss in ("mse_loss", "binary_cross_entropy_with_logits", "cross_entropy_with_logits")
    ),
)

# --- the targets ------------------------------------------------------------------------------------------------------


def _faster(where: Where, label: str, ours: Names, bounds: dict[Names, float]) -> list[Target]:
    return [
        Target(where, f"{label}: times as fast as {over[0]}", _speed_up(ours, over), least=bound)
        for over, bound in bounds.items()
    ]


TARGETS = [
    *_faster(_ARITHMETIC, "fused", _FUSED, {_EAGER: 6.0, _COMPILE: 3.5, _JAX: 3.5, _SCIKIT: 2.5}),
    Target(_ARITHMETIC, "fused: time over that of the copy", _slow_down(_FUSED, ("copy",)), most=1.5),
    *_faster(_TRANSCENDENTAL, "fused", _FUSED, {_EAGER: 12.0, _COMPILE: 3.5, _JAX: 6.0, _SCIKIT: 15.0}),
    Target(_TRANSCENDENTAL, "fused: time over that of the copy", _slow_down(_FUSED, ("copy",)), most=1.6),
    *_faster(_SIX, "blocked", _BLOCKED, {_EAGER: 3.0, _JAX: 2.0}),
    *_faster(_WIDE, "best of ours", _BEST, {_EAGER: 5.0, _COMPILE: 2.2, _JAX: 2.0, _SCIKIT: 3.5}),
    *_faster(_NARROW, "best of ours", _BEST, {_EAGER: 6.0, _JAX: 1.5, _SCIKIT: 3.0}),
    Target(_CHAMFER, "best of ours: times as fast as the best peer", _speed_up(_BEST, _PEERS), least=20.0),
    Target(_CHAMFER, "best of ours: times less memory than the best peer", _saving(_BEST, _PEERS), least=100.0),
    *_faster(_SAMPLES, "best of ours", _BEST, {_EAGER: 2.0, _JAX: 2.0}),
    Target(
        _SAMPLES, "best of ours: times less memory than torch-eager and jax-jit", _saving(_BEST, (*_EAGER, *_JAX)), 5.0
    ),
    Target(_POINTS, "NumPy and torch: extra memory in MB", _most_memory((*_NUMPY, *_TORCH), _megabytes), most=200.0),
    Target(
        _STREAMS,
        "NumPy and torch: extra memory in gradients",
        _most_memory((*_NUMPY, *_TORCH), lambda row: row.extra_gradients),
        most=1.15,
    ),
    Target(_LINEAR, "best of ours: time over that of torch-eager", _slow_down(_BEST, _EAGER), most=1.1),
    Target(
        _LINEAR,
        "best of ours: times less memory beyond the gradients than torch-eager",
        _saving(_BEST, _EAGER, beyond_gradients=True),
        least=8.0,
    ),
    Target(_CALLS, "torch tensors: time over that of torch-eager", _slow_down(_TORCH, _EAGER), most=1.0),
    Target(_LARGE, "torch tensors: time over that of NumPy arrays", _slow_down(_TORCH, _NUMPY), most=1.2),
]
