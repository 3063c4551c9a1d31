"""The command `check`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mithril_losses.backends.extras import missing
from mithril_losses.catalogue import Pair, catalogue, find_loss
from mithril_losses.cli.catalogue import require_family
from mithril_losses.cli.completion import backends, families, losses
from mithril_losses.cli.console import Json, Quiet, print_json, print_table
from mithril_losses.training.errors import UserError, printable, require_writable, user_error


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="which losses; all by default", show_default=False, autocompletion=losses),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", help="the losses of a family", show_default=False, autocompletion=families),
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="numpy, jax or torch", show_default=False, autocompletion=backends)
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, …", show_default=False)] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="proofs and edge cases too, on every backend: minutes")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="in numbers of sixty digits, whatever the backend")] = False,
    report: Annotated[Path | None, typer.Option(help="with --all: write a page about it", show_default=False)] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check gradients against automatic and numerical differentiation; exit code 1 if one is wrong."""
    _require_fitting(backend, device, everything, exact, report)
    chosen = _chosen(names or [], family)
    if everything:
        checks = _with_all(chosen, report, tell=not (as_json or quiet))
    elif exact:
        checks = _exactly(chosen)
    else:
        checks = _numerically(chosen, backend, device)
    wrong = [record for record in checks.records if not record["right"]]
    if as_json:
        print_json(checks.records)
    else:
        if checks.columns and not quiet:
            _print(checks, checks.records)
        elif quiet and wrong:
            _print(checks, wrong)
        right = len(checks.records) - len(wrong)
        typer.echo(f"{right} of {len(checks.records)} {checks.what} are right ({checks.where})")
    raise typer.Exit(1 if wrong else 0)


def _require_fitting(
    backend: str | None, device: str | None, everything: bool, exact: bool, report: Path | None
) -> None:
    if everything and (backend or device or exact):
        raise UserError("--all is about every backend, on the host; leave --backend, --device and --exact out")
    if report is not None and not everything:
        raise UserError("--report needs --all")
    if exact and (backend or device):
        raise UserError("--exact computes with arrays of its own; leave --backend and --device out")


def _chosen(names: list[str], family: str | None) -> list[Pair]:
    """Return the losses that are named, and those of the family: all, if nothing is named."""
    require_family(family)
    with user_error():
        named = [find_loss(name) for name in names]
    of_family = [pair for pair in catalogue().values() if pair.family == family]
    return list(dict.fromkeys([*named, *of_family])) or list(catalogue().values())


@dataclass
class Checks:
    """What was found.

    Attributes:
        what: what was checked, in the plural.
        where: on which backends.
        columns: the header of each column of the table, and the key of a record in it.
        records: what was found of each loss: "loss", "right", "failures", …
    """

    what: str
    where: str
    columns: dict[str, str]
    records: list[dict[str, Any]]


def _print(checks: Checks, records: list[dict[str, Any]]) -> None:
    table = Table()
    for header in checks.columns:
        number = header in ("worst relative error", "Taylor order", "points", "pieces", "digits")
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    table.add_column("result", overflow="fold")
    for record in records:
        result = Text("right", style="green")
        if not record["right"]:
            result = Text("\n".join(printable(each) for each in record["failures"]), style="red")
        table.add_row(*(Text(_cell(record[key])) for key in checks.columns.values()), result)
    print_table(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return "" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)


def _numerically(pairs: list[Pair], backend: str | None, device: str | None) -> Checks:
    from mithril_losses.backends import get_backend
    from mithril_losses.checking import GradientCheck, check_catalogue

    with user_error():
        library = get_backend(backend, device=device).name
    records = []
    for pair, found in zip(
        pairs, check_catalogue([pair.name for pair in pairs], backend=library, device=device), strict=True
    ):
        record: dict[str, Any] = {"loss": pair.name, "right": isinstance(found, GradientCheck)}
        if isinstance(found, GradientCheck):
            method = max(found.errors, key=lambda method: found.errors[method])
            record |= {"worst": found.worst, "by": method, "order": found.order, "failures": []}
        else:
            record |= {"worst": None, "by": None, "order": None, "failures": [str(found)]}
        records.append(record)
    columns = {"loss": "loss", "worst relative error": "worst", "by": "by", "Taylor order": "order"}
    return Checks("gradients", library, columns, records)


def _exactly(pairs: list[Pair]) -> Checks:
    with _needs_proof():
        from mithril_losses.checking.exact import check_catalogue_exactly
    records = [
        {
            "loss": found.loss,
            "right": found.is_right,
            "points": found.points,
            "pieces": found.pieces,
            "digits": list(found.digits.values()),
            "limited by": list(found.digits),
            "failures": list(found.failures),
        }
        for found in check_catalogue_exactly([pair.name for pair in pairs])
    ]
    columns = {key: key for key in ("loss", "points", "pieces", "digits", "limited by")}
    return Checks("gradients", "exact numbers", columns, records)


@contextmanager
def _needs_proof() -> Iterator[None]:
    """Say what to install if an import inside the block needs the extra `proof`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(missing("this check", error.name, "proof")) from error


def _with_all(pairs: list[Pair], report: Path | None, tell: bool) -> Checks:
    """Examine losses, and print a line about each as it comes, because all of them take minutes."""
    with _needs_proof():
        from mithril_losses.checking import trust
    if report is not None:
        require_writable(report)
    found, records = [], []
    for evidence in trust.examine([pair.name for pair in pairs]):
        found.append(evidence)
        run, passed = sum(evidence.run.values()), sum(evidence.passed.values())
        worst = max(evidence.roundings, key=lambda rounding: rounding.units, default=None)
        facts = [evidence.symbols, evidence.exact, f"{passed} of {run} edge cases"]
        if worst is not None:
            facts.append(f"{worst.units:.1f} units in the last place ({worst.dtype}, {worst.library})")
        facts = list(filter(None, facts))
        failures = [f"{name}: {fault}" for name, faults in evidence.failed.items() for fault in faults]
        right = evidence.is_right
        records.append({"loss": evidence.loss, "right": right, "facts": facts, "failures": failures})
        if tell:
            typer.echo(f"{evidence.loss}: " + "; ".join(facts))
            for failure in failures:
                typer.echo(f"    {printable(failure)}")
    if report is not None:
        report.write_text(trust.page(found), encoding="utf-8")
    columns = {} if tell else {"loss": "loss"}
    return Checks("losses", ", ".join(trust.BACKENDS), columns, records)
