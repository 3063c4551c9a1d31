"""Gradients and times on the accelerator of this machine, on one page, in less than six minutes.

Run it as `python -m mithril_losses.benchmarks.device PAGE`. The page also names what there was no time for. Without an
accelerator it is left as it is. The exit code is 1 if a gradient is wrong.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mithril_losses.backends.threads import thread_count
from mithril_losses.benchmarks.candidates import Setting
from mithril_losses.benchmarks.device_checks import Checked, finish_checks, start_checks
from mithril_losses.benchmarks.families import all_cases
from mithril_losses.benchmarks.page import markdown, table
from mithril_losses.benchmarks.plan import Plan
from mithril_losses.benchmarks.problems import Case
from mithril_losses.benchmarks.results import Results
from mithril_losses.benchmarks.targets import is_large
from mithril_losses.catalogue import catalogue

_CHECKS, _ALL = 120.0, 350.0  # seconds from the start until which there is time
_LONGEST_STEP = 60.0  # seconds that one case may take: mostly those of compilers
_PER_CASE = 1.0
# what is measured first, as long as there is time for more
_FIRST = (
    "mse_loss",
    "binary_cross_entropy_with_logits",
    "cross_entropy_with_logits",
    "focal_loss_with_logits",
    "info_nce_loss",
    "huber_loss",
    "kl_divergence",
)


class Accelerator(NamedTuple):
    """An accelerator: what its library calls the kind of device, and its name."""

    device: str
    name: str


def accelerators() -> dict[str, Accelerator]:
    """Return the accelerator that each library sees, if any."""
    found = {}
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            found["torch"] = Accelerator("cuda", torch.cuda.get_device_name())
    if find_spec("jax") is not None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the memory is shared with other processes
        import jax

        if jax.default_backend() != "cpu":
            found["jax"] = Accelerator(jax.default_backend(), jax.devices()[0].device_kind)
    return found


def cases() -> list[Case]:
    """Return the large cases, in the order in which they are measured."""
    place = {loss: i for i, loss in enumerate(_FIRST)}
    return sorted(filter(is_large, all_cases()), key=lambda case: place.get(case.problem.loss, len(place)))


def measure(plan: Plan, end: float) -> Results:
    """Measure one case after the other, and start none that might not be ready at `end`, a time of `time.monotonic`."""
    results = Results()
    for step in plan.measure(results):
        if time.monotonic() + _LONGEST_STEP > end:
            break
        _say(step)
    return results


def gradients(found: Mapping[str, Accelerator], checked: Mapping[str, list[Checked]]) -> Iterator[str]:
    """Yield the section of the page about the gradients."""
    yield "## Gradients"
    yield (
        "Each gradient is compared in float64 with autodiff on the device, with central differences, and with a\n"
        "Taylor remainder, as `mithril-losses check` does everywhere."
    )
    lines = []
    for library, accelerator in found.items():
        right = [x for x in checked[library] if not x.wrong]
        worst = max(right, key=lambda x: x.error, default=None)
        error = "" if worst is None else f"{worst.error:.1e} ({worst.loss}, {worst.method})"
        lines.append([library, accelerator.name, f"{len(right)} of {len(catalogue())}", error])
    yield table(["library", "device", "right", "largest relative error"], lines, right=("right",))
    notes = [f"* {library}: {x.loss}: {x.wrong}" for library in found for x in checked[library] if x.wrong]
    for library in found:
        names = {x.loss for x in checked[library]}
        missed = [name for name in catalogue() if name not in names]
        notes += [f"* {library}: the time was up for {', '.join(missed)}."] if missed else []
    if notes:
        yield "\n".join(notes)


def page(found: Mapping[str, Accelerator], checked: Mapping[str, list[Checked]], plan: Plan, results: Results) -> str:
    """Return the page."""
    sections = ["# Benchmarks on a GPU", "PyTorch sees none, so nothing is timed."]
    if "torch" in found:
        sections = [markdown(results, plan.setting, plan.seconds).rstrip()]
        missed = [case.name for case in plan.cases if case.name not in {case.name for case in results.cases}]
        sections += [f"The time was up for: {', '.join(missed)}."] if missed else []
    sections += gradients(found, checked)
    sections.append("`make bench-device` writes this page. It takes less than six minutes, whatever the device.")
    return "\n\n".join(sections) + "\n"


def main(path: Path) -> int:
    """Write the page, if there is an accelerator; return the exit code."""
    start = time.monotonic()
    found = accelerators()
    if not found:
        _say(f"Neither PyTorch nor JAX sees an accelerator: nothing is measured, and {path} is left as it is.")
        return 0
    _say(f"gradients: {', '.join(found)}")
    running = {library: start_checks(library, accelerator.device) for library, accelerator in found.items()}
    checked = {library: finish_checks(processes, start + _CHECKS) for library, processes in running.items()}
    plan = Plan(cases(), Setting(thread_count(None), "cuda"), _PER_CASE)
    results = measure(plan, start + _ALL) if "torch" in found else Results()
    path.write_text(page(found, checked, plan, results), encoding="utf-8")
    _say(f"written: {path}")
    return 1 if any(x.wrong for some in checked.values() for x in some) else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
