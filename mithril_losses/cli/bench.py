"""The command `bench`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mithril_losses.backends.threads import thread_count
from mithril_losses.benchmarks.candidates import CANDIDATES, Device, Setting
from mithril_losses.benchmarks.families import all_cases
from mithril_losses.benchmarks.page import markdown
from mithril_losses.benchmarks.plan import Plan
from mithril_losses.benchmarks.results import Results
from mithril_losses.benchmarks.tables import tables
from mithril_losses.cli.console import Interrupted, Json, new_console, print_json, print_table
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.errors import UserError, printable, require_writable, user_error

_SIZES = ("small", "medium", "large")
_DEVICES: tuple[Device, ...] = ("cpu", "cuda")


def bench(
    losses: Annotated[list[str] | None, typer.Option("--loss", help="only this loss (repeatable)")] = None,
    sizes: Annotated[list[str] | None, typer.Option("--size", help="only small, medium or large (repeatable)")] = None,
    candidates: Annotated[
        list[str] | None, typer.Option("--candidate", help="only this candidate (repeatable); --dry-run lists them")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="threads of every candidate; all cores by default")
    ] = None,
    seconds: Annotated[float, typer.Option("--time", min=0.0, help="seconds per case")] = 4.0,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda")] = "cpu",
    huge_pages: Annotated[
        bool,
        typer.Option(
            "--huge-pages", help="time large losses that stream memory again with huge pages (Linux with glibc)"
        ),
    ] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="write every number here, as they come")] = None,
    chart: Annotated[Path | None, typer.Option("--chart", help="draw the times into this PNG file")] = None,
    page: Annotated[Path | None, typer.Option("--report", help="write a page of Markdown here")] = None,
    update: Annotated[
        Path | None,
        typer.Option("--update", help="take all cases that are not asked for from this file, which --csv wrote"),
    ] = None,
    curvature: Annotated[bool, typer.Option("--curvature", help="time Hessian-vector products instead")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be measured")] = False,
    as_json: Json = False,
) -> None:
    """Time values and gradients against what other libraries offer, and measure their memory."""
    plan = _plan(losses, sizes, candidates, threads, seconds, device, huge_pages)
    console = new_console()
    if curvature:
        _time_products(plan, page, console)
        return
    if dry_run:
        _print_plan(plan, as_json)
        return
    for path in filter(None, (csv, chart, page)):
        require_writable(path)
    kept = _kept(update, plan)
    results = Results(list(kept.rows))
    interrupted = _measure(plan, results, csv, console)
    measured = Results(results.rows[len(kept.rows) :])
    results = results.in_order(all_cases())
    if csv is not None:
        results.write_csv(csv)
    if as_json:
        print_json(measured.records())
    else:
        for table in tables(measured):
            print_table(table)
    if interrupted:
        raise Interrupted(f"what was measured is kept in {printable(csv)}" if csv else "nothing is kept without --csv")
    if chart is not None:
        from mithril_losses.benchmarks.chart import draw_chart  # matplotlib takes a second to import

        draw_chart(results).savefig(chart)
    if page is not None:
        place = None if chart is None else Path(os.path.relpath(chart, page.parent)).as_posix()
        last = measured.cases if kept.rows else ()
        page.write_text(markdown(results, plan.setting, plan.seconds, place, last), encoding="utf-8")
    written = ", ".join(printable(path) for path in (csv, chart, page) if path is not None)
    if written and not as_json:
        typer.echo(f"written: {written}")


def _kept(path: Path | None, plan: Plan) -> Results:
    """Return what an earlier run measured of the cases that this plan does not measure."""
    if path is None:
        return Results()
    asked = {case.name for case in plan.cases}
    with user_error(f"--update {printable(path)}"):
        return Results.read_csv(path, [case for case in all_cases() if case.name not in asked])


def _time_products(plan: Plan, page: Path | None, console: Console) -> None:
    """Time Hessian-vector products, print them, and write a page about them."""
    from mithril_losses.benchmarks import curvature

    if page is not None:
        require_writable(page)
    found = []
    for case, times in curvature.measure(plan.setting, plan.seconds):
        found.append((case, times))
        shown = (f"{name} {x if isinstance(x, str) else f'{1e3 * x.median:.3g} ms'}" for name, x in times.items())
        console.print(Text(f"{case.name}: {', '.join(shown)}"), soft_wrap=True)
    if page is not None:
        page.write_text(curvature.page(found, plan.setting), encoding="utf-8")
        console.print(Text(f"written: {printable(page)}"), soft_wrap=True)


def _plan(
    losses: list[str] | None,
    sizes: list[str] | None,
    candidates: list[str] | None,
    threads: int | None,
    seconds: float,
    device: str,
    huge_pages: bool,
) -> Plan:
    _require("loss", losses, dict.fromkeys(case.problem.loss for case in all_cases()))
    _require("size", sizes, _SIZES)
    _require("candidate", candidates, [candidate.name for candidate in CANDIDATES])
    _require("device", [device], _DEVICES)
    with user_error():
        count = thread_count(threads)
    if huge_pages and platform.libc_ver()[0] != "glibc":
        raise UserError("--huge-pages needs Linux with glibc")
    if device == "cuda":
        with user_error("--device cuda"):
            import torch

            if not torch.cuda.is_available():
                raise UserError("--device cuda: PyTorch sees no such device")
    cases = [
        case
        for case in all_cases()
        if (not losses or case.problem.loss in losses) and (not sizes or case.size in sizes)
    ]
    if not cases:
        raise UserError("no loss that was asked for has a case of that size")
    setting = Setting(count, "cuda" if device == "cuda" else "cpu")
    return Plan(cases, setting, seconds, tuple(candidates or ()), huge_pages)


def _require(what: str, asked: Sequence[str] | None, known: Iterable[str]) -> None:
    known = list(known)
    for name in asked or ():
        if name not in known:
            raise UserError(unknown(what, name, known))


def _measure(plan: Plan, results: Results, csv: Path | None, console: Console) -> bool:
    """Measure everything, and write the results after each step; return whether the user interrupted it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=plan.steps)
        try:
            for done, step in enumerate(plan.measure(results)):
                bar.update(task, completed=done, description=step)
                if csv is not None:
                    results.write_csv(csv)
        except KeyboardInterrupt:
            return True
        finally:
            if csv is not None:
                results.write_csv(csv)
    return False


def _print_plan(plan: Plan, as_json: bool) -> None:
    """Print the candidates of each case, and those that are left out."""
    cases = [
        {
            "case": case.name,
            "size": case.size,
            "candidates": [candidate.name for candidate in plan.installed(case)],
            "left out": [f"{c.name} ({c.missing} is not installed)" for c in plan.candidates(case) if c.missing],
        }
        for case in plan.cases
    ]
    if as_json:
        print_json(cases)
        return
    table = Table(*cases[0])
    for case in cases:
        table.add_row(*(Text(", ".join(cell) if isinstance(cell, list) else str(cell)) for cell in case.values()))
    print_table(table)
    setting = f"{plan.setting.threads} threads, {plan.seconds:g} s per case, {plan.setting.device}"
    typer.echo(f"{len(plan.cases)} cases, {plan.steps} measurements, {setting}")
