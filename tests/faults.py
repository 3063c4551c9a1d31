"""Break what the package stands on, at random, and see that it holds.

    .venv/bin/python tests/faults.py [TEXT] [--seconds 15] [--seed N] [--report FILE]

What is done stands in `trials.py`. Each fault is tried again and again until its time is up, in a process of its own,
which may hang or die. A try holds, or says what broke: a wrong number, an exception where a line of text or a number
belongs, a hung or killed process. What this machine cannot do (arrays of more than its memory) is skipped, with a line
that says so.
"""

from __future__ import annotations

import json
import os
import pkgutil
import platform
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from trials import CACHE, FAULTS, SILENCE, THREADS, Fault, Skipped, Tries

HERE = Path(__file__).parent


@dataclass
class Outcome:
    """What became of the tries of a fault."""

    fault: Fault
    tried: int = 0
    broken: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def held(self) -> int:
        """How many tries held."""
        return self.tried - len(self.broken)


def run_here(place: str, seconds: float, seed: int) -> None:
    """Try the fault at `place` until the time is up, and print a line of JSON for each try."""
    tries: Callable[[Path, random.Random], Tries] = pkgutil.resolve_name(place)
    until = float("inf")
    owner = os.getpid()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for broken in tries(Path(folder), random.Random(seed)):
                print(json.dumps({"broken": broken}), flush=True)
                until = min(
                    until, time.monotonic() + seconds
                )  # from the first try on: what comes before is preparation
                if time.monotonic() >= until:
                    break
        except Skipped as reason:
            print(json.dumps({"skipped": str(reason)}), flush=True)
        finally:
            assert os.getpid() == owner, "a fork must not come back here"


def run(each: Fault, seconds: float, seed: int, silence: float = SILENCE) -> Outcome:
    """Try a fault in a process of its own until the time is up."""
    outcome, start = Outcome(each), time.monotonic()
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as errors:
        folders = [str(folder) for folder in (HERE.parent, HERE, HERE / "execution")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), CACHE: cache}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment.pop(THREADS, None)
        code = f"import faults; faults.run_here({each.place!r}, {seconds!r}, {seed!r})"
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        silent = False
        try:
            for line in lines_of(process, silence):
                said = json.loads(line)
                outcome.skipped = said.get("skipped", outcome.skipped)
                if "broken" in said:
                    outcome.tried += 1
                    outcome.broken += [said["broken"]] if said["broken"] else []
            status = process.wait(silence)
        except (TimeoutError, subprocess.TimeoutExpired):
            silent = True
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if status:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            why = f"hung for {silence:g} s" if silent else f"exit status {status}"
            outcome.tried += 1
            outcome.broken.append(": ".join([f"the process that tries it: {why}", *last]))
    outcome.seconds = time.monotonic() - start
    return outcome


def lines_of(process: subprocess.Popen[bytes], silence: float) -> Iterator[bytes]:
    """Yield the lines that a process prints.

    Raises:
        TimeoutError: it has printed nothing for so many seconds.
    """
    assert process.stdout is not None
    text = b""
    with process.stdout, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(silence):
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return
            *whole, text = (text + part).split(b"\n")
            yield from whole
    raise TimeoutError


def page(outcomes: list[Outcome]) -> str:
    """Return a page in Markdown with what became of every fault."""
    rows = []
    for outcome in outcomes:
        tried = "not tried" if outcome.skipped and not outcome.tried else f"{outcome.tried:,}"
        held = outcome.skipped if outcome.skipped else f"{outcome.held:,}" if outcome.tried else ""
        held = f"**{held}**" if outcome.broken else held
        rows.append(f"| {outcome.fault.what} | {outcome.fault.holds} | {tried} | {held} | {outcome.seconds:.0f} |")
    known = [outcome for outcome in outcomes if outcome.tried]
    held = sum(not outcome.broken for outcome in known)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "scipy"))
    return f"""\
# Faults

What the package stands on is broken on purpose: processes are killed, files are damaged, disks are full, threads and
processes meet at the worst moment, arrays lie in memory in unusual ways. `make faults` does this at random, each fault
again and again in a process of its own, and writes this page. The seconds are those of all tries of a fault together.

Of {len(known)} faults that were tried, {held} held every time, on Python {platform.python_version()} with {libraries},
on {platform.system()}, {platform.machine()}, with {os.cpu_count()} cores.

| fault | what must hold | tried | held | seconds |
|---|---|---:|---:|---:|
{chr(10).join(rows)}
"""


def main(
    text: Annotated[str, typer.Argument(help="Only faults whose description contains this.")] = "",
    seconds: Annotated[float, typer.Option(min=0.0, help="How long each fault is tried again; once at least.")] = 15.0,
    seed: Annotated[int | None, typer.Option(help="Of what is drawn; by default one that the clock gives.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with what became of each fault here.")] = None,
) -> None:
    """Break what the package stands on, at random, and see that it holds."""
    console = Console(highlight=False)
    seed = time.time_ns() % 1_000_000 if seed is None else seed
    table = Table("fault", "tried", "held", "seconds", title=f"seed {seed}")
    outcomes = []
    for each in (each for each in FAULTS if text in each.what):
        with console.status(each.what):
            outcome = run(each, seconds, seed)
        outcomes.append(outcome)
        style = "bold red" if outcome.broken else "yellow" if outcome.skipped else ""
        note = f"{each.what}\n  skipped: {outcome.skipped}" if outcome.skipped else each.what
        table.add_row(note, f"{outcome.tried:,}", f"{outcome.held:,}", f"{outcome.seconds:.0f}", style=style)
        for broken in outcome.broken[:3]:
            console.print(f"{each.what}: {broken}", style="bold red", markup=False)
    console.print(table)
    if report is not None:
        report.write_text(page(outcomes), "utf-8")
    raise typer.Exit(1 if any(outcome.broken for outcome in outcomes) else 0)


if __name__ == "__main__":
    typer.run(main)
