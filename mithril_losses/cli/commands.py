"""The commands of the command line, and how each of them ends."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mithril_losses.cli.bench import bench
from mithril_losses.cli.catalogue import list_losses, show
from mithril_losses.cli.checking import check
from mithril_losses.cli.console import Interrupted
from mithril_losses.cli.starting import init
from mithril_losses.cli.training import evaluate, predict, train
from mithril_losses.training.errors import DivergedError, UserError

UsageError: Any = typer.BadParameter.__base__  # typer exports only this one of its usage errors


class Group(TyperGroup):
    """The commands. This class handles all expected errors: with one line on stderr and an exit code.

    The code is 1 for a run that diverged, 130 for an interruption, 2 for all else.
    """

    def main(self, *args: Any, **keywords: Any) -> Any:
        """Run a command line. An error that is neither a `UserError` nor a usage error is a defect with traceback."""
        try:
            code = super().main(*args, **keywords | {"standalone_mode": False})
        except DivergedError as error:
            _fail(error, 1)
        except UserError as error:
            _fail(error)
        except MemoryError as error:
            _fail(UserError(f"not enough memory: {error}"))
        except UsageError as error:
            command = error.ctx.command_path if error.ctx else "mithril-losses"
            _fail(UserError(f"{' '.join(error.format_message().split()).rstrip('.')}; see {command} --help"))
        except Interrupted as interruption:
            typer.echo(f"interrupted: {interruption}", err=True)
            sys.exit(130)
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        if code == 130:  # Typer turns an interruption that no command handled into this code
            typer.echo("interrupted", err=True)
        sys.exit(code)


def _fail(error: UserError, code: int = 2) -> NoReturn:
    for line in error.args:
        typer.echo(f"error: {line}", err=True)
    sys.exit(code)


app = typer.Typer(
    cls=Group,
    help="Losses with hand-derived gradients: train a model with them, look them up, check them.",
    invoke_without_command=True,
    rich_markup_mode=None,  # plain help, readable in a pipe
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mithril-losses {version('mithril-losses')}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(init)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command("list")(list_losses)
app.command()(show)
app.command()(check)
app.command()(bench)
