"""What commands print: tables, which are plain text in a pipe, and JSON."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

WIDEST = 100_000  # columns of a pipe, which has no width

Json = Annotated[bool, typer.Option("--json", help="print one JSON document in place of text")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="print less")]


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """Ctrl-C during a command that says what is kept."""


def new_console() -> Console:
    """Return a console for stdout. A pipe is as wide as the environment variable `COLUMNS` says, or as is needed."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=_columns())


def _columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and 0 < int(columns) < WIDEST else WIDEST


def print_table(table: Table) -> None:
    """Print a table: with lines on a terminal, as aligned text in a pipe."""
    console = new_console()
    if console.is_terminal:
        console.print(table)
        return
    table.box, table.pad_edge, table.padding = None, False, (0, 2, 0, 0)
    text = io.StringIO()
    Console(file=text, highlight=False, width=console.width).print(table)
    for line in text.getvalue().splitlines():
        typer.echo(line.rstrip())


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that JSON lacks (NaN, infinity) are null."""
    typer.echo(json.dumps(_finite(value), indent=2, ensure_ascii=True))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
