"""The commands `list` and `show`, which look losses up."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mithril_losses.catalogue import Pair, catalogue, find_loss
from mithril_losses.cli.completion import all_families, families, losses
from mithril_losses.cli.console import Json, print_json, print_table
from mithril_losses.numerics.reduction import REDUCTIONS
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.errors import UserError, user_error


def list_losses(
    family: Annotated[
        str | None,
        typer.Option("--family", help="show one family only", show_default=False, autocompletion=families),
    ] = None,
    as_json: Json = False,
) -> None:
    """List every loss with its formula and its domain."""
    require_family(family)
    pairs = [pair for pair in catalogue().values() if family in (None, pair.family)]
    if as_json:
        print_json([_record(pair) for pair in pairs])
        return
    table = Table(show_lines=False)
    table.add_column("family", no_wrap=True)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("formula", overflow="fold")
    table.add_column("domain", overflow="fold")
    for each in all_families():
        for pair in (pair for pair in pairs if pair.family == each):
            domain = "; ".join(f"{name} {kind}" for name, kind in _domains(pair).items())
            table.add_row(*map(Text, (each, pair.name, pair.formula, domain)))
        table.add_section()
    print_table(table)


def require_family(family: str | None) -> None:
    """Raise a `UserError` unless the family exists, or None is asked for."""
    if family is not None and family not in all_families():
        raise UserError(unknown("family", family, all_families()))


def _domains(pair: Pair) -> dict[str, str]:
    return {name: str(pair.domain[name]) for name in pair.array_arguments if name in pair.domain}


def _record(pair: Pair) -> dict[str, Any]:
    return {"name": pair.name, "family": pair.family, "formula": pair.formula, "domain": _domains(pair)}


_ONE_NUMBER = "none: the loss is one number"


def show(
    name: Annotated[str, typer.Argument(help="the name of a loss", show_default=False, autocompletion=losses)],
    as_json: Json = False,
) -> None:
    """Show one loss: formula, gradient, arguments, source and a worked example."""
    with user_error():
        pair = find_loss(name)
    reductions = list(REDUCTIONS) if pair.takes_reduction else [str(pair.domain.get("reduction", _ONE_NUMBER))]
    lists = {
        "with respect to": list(pair.wrt),
        "on request": list(pair.on_request),
        "returns": list(pair.returns or ("the loss",)),
        "properties": [str(each) for each in pair.properties.values()],
        "reductions": reductions,
    }
    if as_json:
        facts = _record(pair) | {"gradient": pair.gradient_formula, "source": pair.source}
        print_json(facts | lists | {"arguments": _arguments(pair), "example": _example(pair)})
        return
    rows = {
        "loss": f"{pair.name} ({pair.family})",
        "formula": pair.formula,
        "gradient": pair.gradient_formula,
        "with respect to": ", ".join(pair.wrt) + (f"; on request {', '.join(pair.on_request)}" * bool(pair.on_request)),
        "returns": ", ".join(lists["returns"]) + "; the gradient is of the first" * bool(pair.returns),
        "properties": "; ".join(lists["properties"]) or "none declared",
        "reductions": ", ".join(reductions),
        "source": pair.source,
    }
    summary = Table(box=None, show_header=False, padding=(0, 2), pad_edge=False)
    for key, fact in rows.items():
        summary.add_row(Text(key, style="bold"), Text(fact))
    table = Table("argument", "domain", "default")
    for each in _arguments(pair):
        table.add_row(*map(Text, each.values()))
    print_table(summary)
    typer.echo()
    print_table(table)
    typer.echo()
    typer.echo(_example(pair))


def _arguments(pair: Pair) -> list[dict[str, str]]:
    """Return name, domain and default of each argument; those without a default must be given."""
    return [
        {
            "argument": name,
            "domain": str(pair.domain.get(name, "")),
            "default": "" if parameter.default is parameter.empty else repr(parameter.default),
        }
        for name, parameter in pair.parameters.items()
    ]


def _example(pair: Pair) -> str:
    """Return the section "Example" of the loss's docstring."""
    _, _, after = (inspect.getdoc(pair.value) or "").partition("\nExample:\n")
    lines = []
    for line in after.splitlines():
        if line and not line.startswith(" "):  # the next section
            break
        lines.append(line)
    return inspect.cleandoc("\n" + "\n".join(lines))
