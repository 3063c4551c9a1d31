"""The report of all evidence on each gradient: proofs, rounding and edge cases, on every backend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mithril_losses.catalogue import catalogue, find_loss
from mithril_losses.checking import check_catalogue
from mithril_losses.checking.edges import failures
from mithril_losses.checking.exact import check_exact, check_exact_curvature
from mithril_losses.checking.exact.precision import DTYPES, MOST, Rounding, Truth, first_points
from mithril_losses.checking.proof import KINDS, Piece, prove, prove_curvature
from mithril_losses.execution.curvature import has_curvature

__all__ = ["BACKENDS", "Evidence", "examine", "page", "row", "structure"]

BACKENDS = ("numpy", "jax", "torch")

_POINTS = 2  # the number of points at which the rounding of a loss is measured

_PAGE = r"""# Trust

What is known of every gradient, as `make trust` (`mithril-losses check --all --report docs/trust.md`) wrote it here.

* **Exact numbers.** Value and gradient are computed with dual numbers of sixty digits, by the lines that compute with
  NumPy, JAX and PyTorch: at points with every option, weight, reduction and argument on request, the derivative of the
  value along a direction is gradient · direction, to so many digits. Comparisons, maxima, orders and nearest neighbours
  are decided by the point; points for which all of them fall alike lie on one *piece* of the domain, on which the loss
  is one smooth expression. Where fewer digits agree than the arithmetic has, the cell says what limits them.
* **Symbols.** The terms of an element-wise loss are evaluated on symbols. *Identity*: on each of so many pieces of its
  domain the derivative of the value minus the slope is 0 identically; outside $[\varepsilon, 1 - \varepsilon]$ the
  slope is, by [definition](conventions.md#where-the-derivative-does-not-exist), that of the nearest end. *Exact
  points*: it is 0 in exact arithmetic at rational points of each piece.
* **Curvature**: the second derivatives, of losses that [have them](curvature.md). In exact numbers, the derivative of
  the gradient along a direction is the Hessian-vector product, element by element; on symbols, the derivative of each
  slope minus the second derivative is 0, with the kinds of proof above.
* **Rounding**, in float32 / float64: the largest error of value and gradient, in units in the last place. The true
  result is computed in exact numbers. A unit is the machine epsilon times the largest element of the true result plus
  that of its change when each argument moves by its own size, one way or the other.
* **Edge cases**, made from the declared domain of each argument: 0, ±tiny, ±10⁻³⁰, ±10⁴ and the largest number in
  every array, one-hot rows, each option tiny, huge and at the ends of its interval, coincident arguments, weights of 0
  over NaN and infinities, nothing left, empty batches, labels outside the classes and of every integer type. A finite
  loss has a finite gradient, a loss that cannot be negative is not, nothing warns, value and gradient refuse alike.

On every backend the gradient also agrees with the library's autodiff of the plain function where it has one, with
central differences, and with a Taylor remainder along a random direction. [Mutants](mutants.md) are the mistakes that
are put into the library on purpose, and the test that noticed each. [Faults](faults.md) are what is broken around it on
purpose (processes, files, disks, threads, memory), and how often the numbers and the runs held.

{summary}

| loss | exact numbers | symbols | curvature | {rounding} | {edges} |
|---|---|---|---|{right}|
{rows}
"""


@dataclass
class Evidence:
    """The evidence on one loss.

    Attributes:
        loss: the name of the loss.
        exact: to how many digits the gradient is right in exact numbers, and on how many pieces.
        symbols: the kind of proof on symbols; empty for a loss that is not element-wise.
        curvature: the same evidence on the second derivatives; empty for a loss without curvature.
        roundings: the errors of the results of each backend.
        run: the number of edge cases by backend.
        passed: the number of edge cases that hold, by backend.
        failed: the failures, by backend.
    """

    loss: str
    exact: str
    symbols: str
    curvature: str = ""
    roundings: list[Rounding] = field(default_factory=list)
    run: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether nothing failed."""
        return not any(self.failed.values())

    def units(self, backend: str, dtype: str) -> float:
        """Return the largest error of a backend's results, in units in the last place."""
        return max(found.units for found in self.roundings if (found.library, found.dtype) == (backend, dtype))


def examine(names: Iterable[str] = ()) -> Iterator[Evidence]:
    """Yield the evidence for losses by name, all of them by default.

    Raises:
        ValueError: there is no such loss.
    """
    from mithril_losses.backends import get_backend

    libraries = {name: {dtype: get_backend(name, dtype=dtype) for dtype in DTYPES} for name in BACKENDS}
    for pair in [find_loss(name) for name in names] or list(catalogue().values()):
        check = check_exact(pair)
        evidence = Evidence(pair.name, check.summary, _on_symbols(prove(pair)))
        evidence.failed["exact numbers"] = check.failures
        if has_curvature(pair):
            of_curvature = check_exact_curvature(pair)
            kinds = (of_curvature.summary, _on_symbols(prove_curvature(pair)))
            evidence.curvature = "; ".join(kind for kind in kinds if kind)
            evidence.failed["curvature"] = of_curvature.failures
        truths = [Truth(point, dtype) for point in first_points(pair, _POINTS) for dtype in DTYPES]
        for name, by_dtype in libraries.items():
            [autodiff] = check_catalogue([pair.name], backend=name)
            roundings = [found for truth in truths for found in truth.roundings(name, by_dtype[truth.dtype].from_numpy)]
            outcomes = list(failures(pair, by_dtype["float64"]))
            evidence.roundings += roundings
            evidence.run[name] = len(outcomes)
            evidence.passed[name] = sum(not failure for _, failure in outcomes)
            evidence.failed[name] = [
                *([str(autodiff)] if isinstance(autodiff, Exception) else []),
                *(f"rounding: {found}" for found in roundings if not found.units <= MOST),
                *(f"{edge}: {failure}" for edge, failure in outcomes if failure),
            ]
        yield evidence


def _on_symbols(pieces: list[Piece]) -> str:
    """Return the weakest kind of proof of any piece; a slope that is given by definition needs no proof."""
    kinds = [piece.kind for piece in pieces]
    if not kinds:
        return ""
    kind = "exact points" if KINDS[2] in kinds else "identity"
    return f"{kind}, {len(kinds)} piece{'s' * (len(kinds) > 1)}"


def row(evidence: Evidence) -> str:
    """Return the row of one loss in the report."""
    units = [" / ".join(f"{evidence.units(name, dtype):.1f}" for dtype in DTYPES) for name in evidence.run]
    edges = [f"{evidence.passed[name]} / {run}" for name, run in evidence.run.items()]
    kinds = [evidence.exact, evidence.symbols or "–", evidence.curvature or "–"]
    return " | ".join([f"| `{evidence.loss}`", *kinds, *units, *edges]) + " |"


def page(found: list[Evidence]) -> str:
    """Return the report in Markdown."""
    backends = list(found[0].run)
    proved = sum(evidence.symbols.startswith("identity") for evidence in found)
    run = sum(sum(evidence.run.values()) for evidence in found)
    passed = sum(sum(evidence.passed.values()) for evidence in found)
    worst = max((rounding for evidence in found for rounding in evidence.roundings), key=lambda found: found.units)
    summary = (
        f"{len(found)} losses on {len(backends)} backends: all of them checked in exact numbers, {proved} proved "
        f"identically on symbols, the second derivatives of {sum(map(bool, (e.curvature for e in found)))} checked in "
        f"exact numbers, {passed} of {run} edge cases passed, "
        f"{sum(evidence.is_right for evidence in found)} without a fault. The worst rounding is that of the {worst}."
    )
    return _PAGE.format(
        summary=summary,
        rounding=" | ".join(f"rounding, {name}" for name in backends),
        edges=" | ".join(f"edge cases, {name}" for name in backends),
        right="|".join(["---:"] * 2 * len(backends)),
        rows="\n".join(map(row, found)),
    )


def structure(text: str) -> str:
    """Return a report without the rounding, which depends on the machine."""
    return re.sub(r"The worst rounding .*|\b\d+\.\d / \d+\.\d\b", "…", text)
