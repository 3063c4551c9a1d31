"""The command `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mithril_losses.training.errors import UserError, printable, user_error


def init(
    data: Annotated[
        str | None,
        typer.Argument(
            help="a .csv, .parquet or .npz file, or a folder of .npy files; by default handwritten digits",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="the column or array to predict; by default the last", show_default=False),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="the file to write, - for stdout; by default NAME.toml", show_default=False),
    ] = None,
) -> None:
    """Write a starting configuration for a file of your own, or the one of the demonstration; no file is replaced."""
    from mithril_losses.training.starting import DIGITS, starting_configuration

    path = to or Path(f"{'digits' if data is None else Path(data).stem}.toml")
    if path != Path("-") and path.exists():
        raise UserError(f"{path} is there already; name another file with --to")
    if data is None and target is not None:
        raise UserError("--target: name the file that it is in, too")
    text = DIGITS.read_text(encoding="utf-8") if data is None else starting_configuration(data, target)
    if path == Path("-"):
        typer.echo(text, nl=False)
        return
    with user_error(f"--to {path}", OSError), path.open("x", encoding="utf-8") as file:
        file.write(text)
    typer.echo(f"written: {printable(path)}; train with: mithril-losses train {printable(path)}")
