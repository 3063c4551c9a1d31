"""Results as a page of Markdown, with the targets and whether they were met."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mithril_losses.benchmarks.candidates import Memory, Setting
from mithril_losses.benchmarks.families import TARGETS
from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results, Row, ratio
from mithril_losses.benchmarks.tables import groups, mebibytes, number, time
from mithril_losses.benchmarks.targets import Outcome, Target

_LIBRARIES = ("numpy", "scipy", "numba", "torch", "jax", "jaxlib", "optax", "scikit-learn")

_HOW = """\
The times of a case are taken in a process of its own, and so is its memory. Arrays are float32. A call gives the mean
loss and its gradient, and counts only where both agree with ours. Candidates take turns: in each turn, one call that
does not count, then several that do. Times are medians. Preparation (tensors, compilation) is outside of them, and so
is the freeing of results; the allocation of results is inside.

The results of a call are dropped before the next one. Their memory is not kept (`MITHRIL_LOSSES_KEPT_MEMORY=0`), so
results are written into fresh pages, and so is the copy. Large losses that stream are measured once more, into warm
memory: ours keep that of the dropped results, as they do by default, and the copy and scikit-learn write into arrays
that exist before the call. The other libraries allocate as always."""

_CANDIDATES = {
    ("copy",): "reads the same inputs once and writes as many bytes as the gradient has: the bound that memory sets.",
    ("ours-numpy-fused", "ours-numpy-blocked", "ours-numpy"): (
        "`value_and_gradient` with the extra `fast`, without it, and where there is no difference."
    ),
    ("ours-torch", "ours-jax"): "the same function on tensors, and on JAX arrays.",
    ("ours-torch-eager",): "the same on tensors with `compile=False`.",
    ("ours-backward",): (
        "what a training loop of PyTorch calls: `loss(z).backward()` with a loss of this package. `z` is a leaf of the "
        "graph whose gradient was dropped before. Autograd gets the hand-derived gradient from the loss."
    ),
    ("ours-jax-grad",): (
        "`jax.jit(jax.value_and_grad(loss))` with a loss of this package. JAX gets the hand-derived gradient from it."
    ),
    ("numpy-plain",): "the plain loss and its plain gradient, one after the other.",
    ("torch-eager",): (
        "`loss(z).backward()` with the loss in `torch.nn.functional`, or the textbook expression where it has none."
    ),
    ("torch-compile",): "`torch.compile` of value and gradient in one graph.",
    (
        "jax-jit",
        "jax-jit-optax",
    ): "`jax.jit(jax.value_and_grad(…))` of the textbook expression, and of the loss in optax.",
    ("scikit-learn",): "`loss_gradient` of its private losses, then the mean.",
}

_OWN = """\
Small losses without such an expression are compared with the automatic differentiation of their own plain functions."""

_MEMORY = {
    "cpu": """\
Extra memory is the peak of the resident set above its level before the call, results included, after an earlier call
has loaded and compiled everything, with an allocator that returns to the system what is freed.""",
    "cuda": """\
Times are those of the device, from event to event on its stream. Extra memory is the peak of what PyTorch has allocated
above its level before the call, results included.""",
}


def markdown(
    results: Results, setting: Setting, seconds: float, chart: str | None = None, last: Sequence[Case] = ()
) -> str:
    """Return the page; `chart` is the path of the picture, `last` what the last of several runs measured."""
    on_cpu = setting.device == "cpu"
    sections = [
        "# Benchmarks" if on_cpu else "# Benchmarks on a GPU",
        "Written by `mithril-losses bench`.",
        "\n".join(f"* {line}" for line in [*_machine(setting), f"{seconds:g} s per case"]),
        *_of_last_run(last),
        *_left_out(results),
        "## How it is measured",
        _HOW,
        _candidates(results),
        *([_OWN] if any(case.problem.drawn for case in results.cases) else []),
        _MEMORY[setting.device],
    ]
    if on_cpu:  # the targets speak of CPU arrays
        sections += ["## Targets", _targets(results), *_missed(results)]
    if chart is not None:
        sections += ["## Chart", f"![Time per call of each candidate at each case]({chart})"]
    sections += ["## Time per call", *_times(results, "fresh")]
    if results.has("warm"):
        sections += ["## Time per call, into warm memory", *_times(results, "warm")]
    if results.has("huge"):
        sections += ["## Time per call, with huge pages", *_times(results, "huge")]
    sections += _memory(results)
    return "\n\n".join(sections) + "\n"


def _machine(setting: Setting) -> Iterator[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
    yield f"every candidate with {setting.threads} threads"
    if setting.device == "cuda":
        import torch

        yield torch.cuda.get_device_name()
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if huge.exists():
        yield f"transparent huge pages: {huge.read_text().strip()}"
    libraries = ((library, _version(library)) for library in _LIBRARIES)
    yield ", ".join([f"Python {platform.python_version()}", *(f"{name} {found}" for name, found in libraries if found)])


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _candidates(results: Results) -> str:
    measured = {row.candidate.name for row in results.rows}
    kept = {tuple(name for name in names if name in measured): what for names, what in _CANDIDATES.items()}
    return "\n".join(f"* {', '.join(f'`{name}`' for name in names)}: {what}" for names, what in kept.items() if names)


def _of_last_run(cases: Sequence[Case]) -> Iterator[str]:
    if cases:
        losses = ", ".join(dict.fromkeys(case.problem.loss for case in cases))
        yield f"The cases come from more than one run. The last run measured cases of: {losses}."


def _left_out(results: Results) -> Iterator[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in results.rows:
        if row.note:
            reasons.setdefault((row.candidate.name, row.note), []).append(row.case.name)
    if reasons:
        yield "Left out:"
        yield "\n".join(
            f"* `{candidate}`: {note} ({', '.join(dict.fromkeys(cases))})"
            for (candidate, note), cases in reasons.items()
        )


# --- targets ----------------------------------------------------------------------------------------------------------


def _targets(results: Results) -> str:
    headers = ["case", "", "must be", "measured", *(["with huge pages"] if results.has("huge") else []), "met"]
    lines, label = [], ""
    for target in TARGETS:
        outcomes = [outcome for outcome in target.outcomes(results) if outcome.number is not None]
        cells = ["" if target.where.label == label else target.where.label, target.what, _bound(target)]
        cells.append(_outcomes(target, outcomes))
        if results.has("huge"):
            cells.append("<br>".join(number(outcome.huge) for outcome in outcomes if len(outcomes) <= _MANY))
        lines.append([*cells, _verdict(target, outcomes)])
        label = target.where.label
    return table(headers, lines, right=("must be",))


def _outcomes(target: Target, outcomes: list[Outcome]) -> str:
    """Return every outcome; if there are very many, those that miss the bound, or the one that is nearest to it."""
    if len(outcomes) <= _MANY:
        return "<br>".join(_outcome(target, outcome) for outcome in outcomes)
    nearest = (min if target.least is not None else max)(outcomes, key=lambda outcome: outcome.number or 0.0)
    missed = [outcome for outcome in outcomes if not target.is_met(outcome.number or 0.0)]
    shown = "<br>".join(_outcome(target, outcome) for outcome in missed or [nearest])
    return f"{len(outcomes)} cases, {'beyond the bound' if missed else 'nearest to the bound'}:<br>{shown}"


_MANY = 8


def _outcome(target: Target, outcome: Outcome) -> str:
    assert outcome.number is not None
    text = f"{outcome.case.name}: {number(outcome.number)}"
    return text if target.is_met(outcome.number) else f"**{text}**"


def _verdict(target: Target, outcomes: list[Outcome]) -> str:
    met = [target.is_met(outcome.number) for outcome in outcomes if outcome.number is not None]
    if not met:
        return "not measured"
    return "yes" if all(met) else f"**{sum(met)} of {len(met)}**"


def _missed(results: Results) -> Iterator[str]:
    lines = []
    for target in TARGETS:
        for outcome in target.outcomes(results):
            if outcome.number is not None and not target.is_met(outcome.number):
                what = f"{outcome.case.name}, {target.what}: {number(outcome.number)} of {_bound(target)}."
                lines.append(f"* {what}{_why(results, target, outcome)}")
    if lines:
        yield "### What is missed, and why"
        yield "\n".join(lines)


def _bound(target: Target) -> str:
    return f"≥ {target.least:g}" if target.least is not None else f"≤ {target.most:g}"


def _why(results: Results, target: Target, outcome: Outcome) -> str:
    memory = target.memory
    copy = ratio(results.fastest(outcome.case, target.over, memory), results.row(outcome.case, "copy", memory))
    beside = "" if copy is None else f" A copy of the same bytes would be {number(copy)} times as fast."
    return beside + (f" {target.why_missed}" if target.why_missed else "")


# --- tables -----------------------------------------------------------------------------------------------------------


def _times(results: Results, memory: Memory) -> Iterator[str]:
    yield (
        "The last two columns are for the fastest of ours: how many times as fast as the best peer, and how many\n"
        "times as long as the copy."
    )
    if memory == "huge":
        yield "The allocator asks the system for huge pages: `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`."
    if memory == "warm":
        yield "Results use the memory of earlier ones; so does the copy."
    for title, cases in groups(results, memory):
        names = results.candidates(cases, memory)
        lines = []
        for case in cases:
            ours = [row.candidate.name for row in results.of(case) if row.candidate.kind == "ours"]
            best = results.fastest(case, ours, memory)
            comparison = [None, None] if best is None else [results.speed_up(best), results.over_copy(best)]
            cells = [_median(results.row(case, name, memory)) for name in names]
            lines.append([case.name, *cells, *map(number, comparison)])
        yield f"### {title.capitalize()}"
        yield table(["case", *names, "× best peer", "× copy"], lines)


def _median(row: Row | None) -> str:
    return time(None if row is None else row.median)


def _memory(results: Results) -> Iterator[str]:
    def peak(case: Case, name: str) -> str:
        row = results.row(case, name)
        return f"{mebibytes(row)} ({number(row.extra_gradients)})" if row is not None and row.extra_bytes else ""

    cases = [case for case in results.cases if any(row.extra_bytes is not None for row in results.of(case))]
    if cases:
        names = [name for name in results.candidates(cases) if name != "copy"]
        yield "## Peak extra memory"
        yield "In MiB, and in parentheses in units of the gradients returned."
        yield table(["case", *names], ([case.name, *(peak(case, name) for name in names)] for case in cases))


def table(headers: list[str], lines: Iterable[list[str]], right: Sequence[str] | None = None) -> str:
    """Return a table with some columns aligned to the right: all but the first by default."""
    right = headers[1:] if right is None else right
    rows = [headers, ["---:" if header in right else "---" for header in headers], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
