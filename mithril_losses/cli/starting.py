"""The command `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mithril_losses.training.errors import UserError, printable, user_error


def init(
    data: Annotated[
        str, typer.Argument(help="a .csv, .parquet or .npz file, or a folder of .npy files", show_default=False)
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", help="the column or array to predict; by default the last", show_default=False),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="the file to write, - for stdout; by default NAME.toml", show_default=False),
    ] = None,
) -> None:
    """Write a starting configuration for a file of your own; no file is replaced."""
    from mithril_losses.training.starting import starting_configuration

    path = to or Path(f"{Path(data).stem}.toml")
    if path != Path("-") and path.exists():
        raise UserError(f"{path} is there already; name another file with --to")
    text = starting_configuration(data, target)
    if path == Path("-"):
        typer.echo(text, nl=False)
        return
    with user_error(f"--to {path}", OSError), path.open("x", encoding="utf-8") as file:
        file.write(text)
    typer.echo(f"written: {printable(path)}; train with: mithril-losses train {printable(path)}")
