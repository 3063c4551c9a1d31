"""The commands of the command line: train, list, show, check and bench."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from mithril_losses.catalogue import Pair, catalogue, find_loss
from mithril_losses.cli.bench import bench
from mithril_losses.cli.console import new_console
from mithril_losses.numerics.reduction import REDUCTIONS
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.config import read_config
from mithril_losses.training.errors import UserError, printable, require_writable, user_error

UsageError: Any = typer.BadParameter.__base__  # typer exports only this one of its usage errors


class Group(TyperGroup):
    """The commands. This class handles all expected errors: with one line on stderr and exit code 2."""

    def main(self, *args: Any, **keywords: Any) -> Any:
        """Run a command line. An error that is neither a `UserError` nor a usage error is a defect with traceback."""
        try:
            code = super().main(*args, **keywords | {"standalone_mode": False})
        except UserError as error:
            _fail(error)
        except MemoryError as error:
            _fail(UserError(f"not enough memory: {error}"))
        except UsageError as error:
            command = error.ctx.command_path if error.ctx else "mithril-losses"
            _fail(UserError(f"{' '.join(error.format_message().split()).rstrip('.')}; see {command} --help"))
        sys.exit(code)


def _fail(error: UserError) -> NoReturn:
    for line in error.args:
        typer.echo(f"error: {line}", err=True)
    sys.exit(2)


app = typer.Typer(
    cls=Group,
    help="Losses with hand-derived gradients: train a model with them, look them up, check them.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help, readable in a pipe
    pretty_exceptions_enable=False,
)

Backend = Annotated[str | None, typer.Option("--backend", help="numpy, jax or torch", show_default=False)]


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


# --- train ----------------------------------------------------------------------------------------------------------


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="the TOML file of the run", show_default=False)],
    backend: Backend = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change a key of the file, e.g. optimizer.learning_rate=0.01"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the checkpoint in the output folder")] = False,
) -> None:
    """Train a compiled model by feeding the gradients of an objective to its outputs."""
    settings = read_config(config, changes or [], backend)
    from mithril_losses import training  # its libraries take a second to import

    console = new_console()
    table = EpochTable(console)
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("batches"), TimeRemainingColumn())
    bar = ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("training", total=None)
    interruption = Interruption()

    def on_batch(progress: training.Progress) -> None:
        bar.update(task, completed=progress.done, total=progress.total)
        interruption.arrive()

    try:
        # some versions of rich end even a disabled bar with an empty line
        with interruption.handled(), bar if console.is_terminal else nullcontext():
            result = training.train(settings, resume=resume, on_batch=on_batch, on_epoch=table.add)
    except KeyboardInterrupt as error:
        kept = f"epoch {table.epoch} is kept in {printable(settings.run.output)}; --resume continues from there"
        typer.echo(f"interrupted: {kept if table.epoch else 'no epoch was complete'}", err=True)
        raise typer.Exit(130) from error
    for output, accuracy in result.accuracy.items():
        console.print(Text(f"test accuracy ({printable(output)}): {100.0 * accuracy:.2f} %"))
    console.print(Text("written: " + ", ".join(map(printable, result.files))), soft_wrap=True)


class EpochTable:
    """A table that grows by one line per epoch: training components, test loss, test accuracies."""

    def __init__(self, console: Console) -> None:
        self.epoch = 0
        self._console = console

    def add(self, record: dict[str, float]) -> None:
        """Print the line of one epoch; the first line has a header."""
        cells = {"epoch": f"{int(record['epoch'])}"}
        cells |= {
            key.removeprefix("train_"): f"{value:.5g}" for key, value in record.items() if key.startswith("train_")
        }
        cells["test loss"] = f"{record['test_loss']:.5g}"
        cells |= {
            f"{key.removeprefix('accuracy_')} accuracy": f"{100.0 * value:.2f} %"
            for key, value in record.items()
            if key.startswith("accuracy_")
        }
        table = Table(box=None, show_header=self.epoch == 0, pad_edge=False)
        self.epoch = int(record["epoch"])
        for name in map(printable, cells):
            table.add_column(Text(name), justify="right", width=max(len(name), 9), overflow="fold")
        table.add_row(*cells.values())
        self._console.print(table)


# --- the catalogue --------------------------------------------------------------------------------------------------


@app.command("list")
def list_losses(
    family: Annotated[str | None, typer.Option("--family", help="show one family only", show_default=False)] = None,
) -> None:
    """List every loss with its formula and its domain."""
    families = list(dict.fromkeys(pair.family for pair in catalogue().values()))
    if family is not None and family not in families:
        raise UserError(unknown("family", family, families))
    table = Table(show_lines=False)
    table.add_column("family", no_wrap=True)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("formula", overflow="fold")
    table.add_column("domain", overflow="fold")
    for each in families:
        pairs = [pair for pair in catalogue().values() if pair.family == each and family in (None, each)]
        for pair in pairs:
            arrays = [f"{name} {pair.domain[name]}" for name in pair.array_arguments if name in pair.domain]
            table.add_row(*map(Text, (each, pair.name, pair.formula, "; ".join(arrays))))
        table.add_section()
    new_console().print(table)


_ONE_NUMBER = "none: the loss is one number"


@app.command()
def show(name: Annotated[str, typer.Argument(help="the name of a loss", show_default=False)]) -> None:
    """Show one loss: formula, gradient, arguments, source and a worked example."""
    with user_error():
        pair = find_loss(name)
    facts = {
        "loss": f"{pair.name} ({pair.family})",
        "formula": pair.formula,
        "gradient": pair.gradient_formula,
        "with respect to": ", ".join(pair.wrt) + (f"; on request {', '.join(pair.on_request)}" * bool(pair.on_request)),
        "returns": ", ".join(pair.returns or ("the loss",)) + "; the gradient is of the first" * bool(pair.returns),
        "properties": "; ".join(map(str, pair.properties.values())) or "none declared",
        "reductions": ", ".join(REDUCTIONS) if pair.takes_reduction else str(pair.domain.get("reduction", _ONE_NUMBER)),
        "source": pair.source,
    }
    summary = Table.grid(padding=(0, 2))
    for key, fact in facts.items():
        summary.add_row(Text(key, style="bold"), Text(fact))
    console = new_console()
    console.print(summary)
    console.print()
    console.print(_arguments(pair))
    console.print()
    console.print(Text(_example(pair)))


def _arguments(pair: Pair) -> Table:
    table = Table("argument", "domain", "default")
    for name, parameter in pair.parameters.items():
        default = "" if parameter.default is parameter.empty else repr(parameter.default)
        table.add_row(*map(Text, (name, str(pair.domain.get(name, "")), default)))
    return table


def _example(pair: Pair) -> str:
    """Return the section "Example" of the loss's docstring."""
    _, _, after = (inspect.getdoc(pair.value) or "").partition("\nExample:\n")
    lines = []
    for line in after.splitlines():
        if line and not line.startswith(" "):  # the next section
            break
        lines.append(line)
    return inspect.cleandoc("\n" + "\n".join(lines))


# --- check ----------------------------------------------------------------------------------------------------------


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="which losses; all by default", show_default=False)] = None,
    backend: Backend = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, …", show_default=False)] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="proofs and edge cases too, on every backend: minutes")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="in numbers of sixty digits, whatever the backend")] = False,
    report: Annotated[Path | None, typer.Option(help="with --all: write a page about it", show_default=False)] = None,
) -> None:
    """Check gradients against automatic and numerical differentiation; exit code 1 if one is wrong."""
    if everything:
        if backend or device or exact:
            raise UserError("--all is about every backend, on the host; leave --backend, --device and --exact out")
        _check_all(names or [], report)
    if report is not None:
        raise UserError("--report needs --all")
    if exact:
        if backend or device:
            raise UserError("--exact computes with arrays of its own; leave --backend and --device out")
        _check_exact(names or [])
    from mithril_losses.backends import get_backend
    from mithril_losses.checking import GradientCheck, check_catalogue

    with user_error():
        pairs = [find_loss(name) for name in names or catalogue()]
        library = get_backend(backend, device=device).name
    table = Table()
    table.add_column("loss", no_wrap=True)
    table.add_column("worst relative error", justify="right")
    table.add_column("by", no_wrap=True)
    table.add_column("Taylor order", justify="right")
    table.add_column("result", overflow="fold")
    wrong = 0
    checks = check_catalogue([pair.name for pair in pairs], backend=library, device=device)
    for pair, found in zip(pairs, checks, strict=True):
        if isinstance(found, GradientCheck):
            method = max(found.errors, key=lambda method: found.errors[method])
            cells = (f"{found.worst:.1e}", method, f"{found.order:.2f}", Text("right", style="green"))
        else:
            wrong += 1
            cells = ("", "", "", Text(printable(found), style="red"))
        table.add_row(pair.name, *cells)
    new_console().print(table)
    typer.echo(f"{len(pairs) - wrong} of {len(pairs)} gradients are right ({library})")
    raise typer.Exit(1 if wrong else 0)


def _check_exact(names: list[str]) -> NoReturn:
    with _needs_proof():
        from mithril_losses.checking.exact import check_catalogue_exactly
    with user_error():
        pairs = [find_loss(name) for name in names or catalogue()]
    table = Table()
    table.add_column("loss", no_wrap=True)
    table.add_column("points", justify="right")
    table.add_column("pieces", justify="right")
    table.add_column("digits", justify="right")
    table.add_column("limited by", overflow="fold")
    table.add_column("result", overflow="fold")
    right = 0
    for found in check_catalogue_exactly([pair.name for pair in pairs]):
        right += found.is_right
        digits, limits = "\n".join(map(str, found.digits.values())), "\n".join(found.digits)
        result = Text("right", style="green") if found.is_right else Text("\n".join(found.failures), style="red")
        table.add_row(found.loss, str(found.points), str(found.pieces), digits, limits, result)
    new_console().print(table)
    typer.echo(f"{right} of {len(pairs)} gradients are right (exact numbers)")
    raise typer.Exit(0 if right == len(pairs) else 1)


@contextmanager
def _needs_proof() -> Iterator[None]:
    """Say what to install if an import inside the block needs the extra `proof`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install 'mithril-losses[proof]'") from error


def _check_all(names: list[str], report: Path | None) -> NoReturn:
    with _needs_proof():
        from mithril_losses.checking import trust
    if report is not None:
        require_writable(report)
    with user_error():
        pairs = [find_loss(name) for name in names or catalogue()]
    console, found = new_console(), []
    for evidence in trust.examine([pair.name for pair in pairs]):
        found.append(evidence)
        run, passed = sum(evidence.run.values()), sum(evidence.passed.values())
        facts = [evidence.symbols, evidence.exact, f"{passed} of {run} edge cases"]
        worst = max(evidence.roundings, key=lambda rounding: rounding.units, default=None)
        facts += (
            [] if worst is None else [f"{worst.units:.1f} units in the last place ({worst.dtype}, {worst.library})"]
        )
        console.print(Text(f"{evidence.loss}: " + "; ".join(fact for fact in facts if fact)))
        for name, faults in evidence.failed.items():
            for fault in faults:
                console.print(Text(f"    {name}: {printable(fault)}", style="red"))
    if report is not None:
        report.write_text(trust.page(found), encoding="utf-8")
    right = sum(evidence.is_right for evidence in found)
    typer.echo(f"{right} of {len(found)} losses are right ({', '.join(trust.BACKENDS)})")
    raise typer.Exit(0 if right == len(found) else 1)


app.command()(bench)
