"""The report on what is known of each gradient: proof, worst error and edge cases, on every backend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mithril_losses._pairs import Pair, catalogue, find_loss
from mithril_losses.checking import check_catalogue
from mithril_losses.edges import failures
from mithril_losses.proof import KINDS, prove

__all__ = ["BACKENDS", "Evidence", "examine", "page", "structure"]

BACKENDS = ("numpy", "jax", "torch")

_PAGE = r"""# Trust

What is known of every gradient, as `make trust` (`mithril-losses check --all --report docs/trust.md`) wrote it here.

* **Proof.** The terms of an element-wise loss are evaluated on symbols. *Identity*: on each of so many pieces of its
  domain the derivative of the value minus the slope is 0 identically; outside $[\varepsilon, 1 - \varepsilon]$ the
  slope is, by [definition](conventions.md#where-the-derivative-does-not-exist), that of the nearest end. *Exact
  points*: it is 0 in exact arithmetic at rational points of each piece. *Numerical*: the loss is not element-wise;
  autodiff, central differences and a Taylor remainder agree with the gradient.
* **Error.** A bound on the worst relative error of any element, in float64: against central differences, and against
  the library's autodiff where it has one.
* **Edge cases**, made from the declared domain of each argument: 0, ±tiny, ±10⁻³⁰, ±10⁴ and the largest number in
  every array, one-hot rows, each option tiny, huge and at the ends of its interval, coincident arguments, weights of 0
  over NaN and infinities, nothing left, empty batches, labels outside the classes and of every integer type. A finite
  loss has a finite gradient, a loss that cannot be negative is not, nothing warns, value and gradient refuse alike.

[Mutants](mutants.md) are the mistakes that are put into the library on purpose, and the test that noticed each.
[Faults](faults.md) are what is broken around it on purpose (processes, files, disks, threads, memory), and how often
the numbers and the runs held.

{summary}

| loss | proof | {errors} | {edges} |
|---|---|{right}|
{rows}
"""


@dataclass
class Evidence:
    """What was found out about one loss.

    Attributes:
        loss: its name.
        proof: the kind of proof.
        errors: the worst relative error by backend.
        run: the number of edge cases by backend.
        passed: how many of them hold.
        failed: what failed, by backend.
    """

    loss: str
    proof: str
    errors: dict[str, float] = field(default_factory=dict)
    run: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether nothing failed."""
        return not any(self.failed.values())


def examine(names: Iterable[str] = (), backends: Iterable[str] = BACKENDS) -> Iterator[Evidence]:
    """Yield the evidence for losses by name, all of them by default.

    Raises:
        ValueError: there is no such loss or backend.
    """
    from mithril_losses.backends import get_backend

    libraries = {name: get_backend(name, dtype="float64") for name in backends}
    for pair in [find_loss(name) for name in names] or list(catalogue().values()):
        evidence = Evidence(pair.name, _proof(pair))
        for name, library in libraries.items():
            evidence.failed[name] = []
            [check] = check_catalogue([pair.name], backend=name)
            if isinstance(check, Exception):
                evidence.failed[name].append(str(check))
            else:
                evidence.errors[name] = check.worst
            outcomes = list(failures(pair, library))
            evidence.run[name] = len(outcomes)
            evidence.passed[name] = sum(not failure for _, failure in outcomes)
            evidence.failed[name] += [f"{edge}: {failure}" for edge, failure in outcomes if failure]
        yield evidence


def _proof(pair: Pair) -> str:
    """Return the weakest kind of proof of any piece; what a slope is by definition needs none."""
    kinds = [piece.kind for piece in prove(pair)]
    if not kinds:
        return "numerical"
    kind = "exact points" if KINDS[2] in kinds else "identity"
    return f"{kind}, {len(kinds)} piece{'s' * (len(kinds) > 1)}"


def page(found: list[Evidence]) -> str:
    """Return the report in Markdown."""
    backends = list(found[0].run)
    proved = sum(evidence.proof.startswith("identity") for evidence in found)
    run = sum(sum(evidence.run.values()) for evidence in found)
    passed = sum(sum(evidence.passed.values()) for evidence in found)
    summary = (
        f"{len(found)} losses on {len(backends)} backends: {proved} proved identically, {passed} of {run} edge "
        f"cases passed, {sum(evidence.is_right for evidence in found)} without a fault."
    )
    rows = []
    for evidence in found:
        errors = [_bound(evidence.errors.get(name)) for name in backends]
        edges = [f"{evidence.passed[name]} / {evidence.run[name]}" for name in backends]
        rows.append(" | ".join([f"| `{evidence.loss}`", evidence.proof, *errors, *edges]) + " |")
    return _PAGE.format(
        summary=summary,
        errors=" | ".join(f"error, {name}" for name in backends),
        edges=" | ".join(f"edge cases, {name}" for name in backends),
        right="|".join(["---:"] * 2 * len(backends)),
        rows="\n".join(rows),
    )


def _bound(error: float | None) -> str:
    """Return the power of ten above an error: what lies below depends on the machine."""
    if error is None:
        return "wrong"
    exponent = next((e for e in range(-15, 0) if error < 10.0**e), 0)
    return f"< 1e{exponent:03d}"


def structure(text: str) -> str:
    """Return a report without the errors, which differ from machine to machine in their last digits."""
    return re.sub(r"< 1e-\d\d", "< …", text)
