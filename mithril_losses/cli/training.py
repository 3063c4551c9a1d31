"""The commands `train`, `evaluate` and `predict`."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mithril_losses.cli.completion import backends
from mithril_losses.cli.console import Interrupted, Json, Quiet, print_json
from mithril_losses.training.config import TrainingConfig, read_config
from mithril_losses.training.errors import UserError, printable, require_writable, user_error

Backend = Annotated[
    str | None, typer.Option("--backend", help="numpy, jax or torch", show_default=False, autocompletion=backends)
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="a model from elsewhere: FILE.py:NAME, PACKAGE.MODULE:NAME, or a program (.bin of JAX, .pt2 of PyTorch). "
        "This runs its code.",
        show_default=False,
    ),
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="say what the run consists of, and where an error was raised")
]
Run = Annotated[Path, typer.Argument(help="the folder of a run", show_default=False)]


def train(
    config: Annotated[
        Path | None, typer.Argument(help="the TOML file of the run; - reads it from stdin", show_default=False)
    ] = None,
    config_of: Annotated[
        Path | None,
        typer.Option("--config-of", metavar="RUN", help="the configuration of an earlier run, in a folder of its own"),
    ] = None,
    model: Model = None,
    backend: Backend = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change a key of the file, e.g. optimizer.learning_rate=0.01"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the checkpoint in the output folder")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a run in the output folder")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a compiled model by feeding the gradients of an objective to its outputs.

    Exit code 1: the run diverged. 2: the input is wrong. 130: it was interrupted.
    """
    settings = _settings(config, config_of, changes or [], backend, model)
    if config_of is not None and not _sets_output(changes):
        output = config_of if resume or overwrite else _numbered(config_of)
        settings = settings.model_copy(update={"run": settings.run.model_copy(update={"output": str(output)})})
    from mithril_losses.training.printing import PrintedProgress
    from mithril_losses.training.run import train as run  # its libraries take a second to import

    progress = PrintedProgress(table=sys.stderr if as_json else sys.stdout)
    epochs = 0

    def on_epoch(record: dict[str, float]) -> None:
        nonlocal epochs
        epochs = int(record["epoch"])
        if not quiet:
            progress.record(record)

    def on_start(trainer: Any) -> None:
        for line in trainer.facts() if verbose else ():
            typer.echo(printable(line), err=True)

    try:
        with _explained(verbose):
            result = run(
                settings, model=model, resume=resume, overwrite=overwrite, on_start=on_start,
                on_batch=None if quiet else progress.batch, on_epoch=on_epoch,
            )  # fmt: skip
    except KeyboardInterrupt as error:
        kept = f"epoch {epochs} is kept in {printable(settings.run.output)}; --resume continues from there"
        raise Interrupted(kept if epochs else "no epoch was complete") from error
    _report(settings, result, as_json, quiet)


def _settings(
    config: Path | None, config_of: Path | None, changes: list[str], backend: str | None, model: str | None
) -> TrainingConfig:
    if (config is None) == (config_of is None):
        kinds = "a file, - for stdin, or the run of --config-of"
        raise UserError(f"name one configuration, which is {kinds}; see mithril-losses train --help")
    from_stdin = config == Path("-")
    with user_error("stdin"):
        text = sys.stdin.read() if from_stdin else None
    path = config_of / "config.toml" if config_of is not None else Path("stdin") if from_stdin else config
    assert path is not None
    return read_config(path, changes, backend, text=text, own_model=model is not None)


def _sets_output(changes: list[str] | None) -> bool:
    return any(change.partition("=")[0].strip() in ("run.output", "run") for change in changes or ())


def _numbered(folder: Path) -> Path:
    """Return the first folder `NAME-2`, `NAME-3`, … that does not exist."""
    folder = Path(os.path.normpath(folder))
    return next(
        path for path in (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2)) if not path.exists()
    )


def _report(settings: TrainingConfig, result: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        files = [str(path) for path in result.files]
        facts = {"output": settings.run.output, "files": files, "stopped": result.stopped, "test": result.test}
        print_json(facts | {"history": result.history})
        return
    for output, accuracy in result.accuracy.items():
        typer.echo(f"test accuracy ({printable(output)}): {100.0 * accuracy:.2f} %")
    if not quiet:
        if result.stopped == "patience":
            typer.echo(f"ended after epoch {len(result.history)}: no better one for {settings.run.patience}")
        typer.echo("written: " + ", ".join(map(printable, result.files)))


@contextmanager
def _explained(verbose: bool) -> Iterator[None]:
    """Print the traceback of an error that the user sees as one line."""
    try:
        yield
    except UserError as error:
        if verbose and error.__cause__ is not None:
            lines = traceback.format_exception(error.__cause__)
            typer.echo("\n".join(printable(line) for line in "".join(lines).splitlines()), err=True)
        raise


def evaluate(
    run: Run,
    file: Annotated[
        str | None, typer.Argument(help="examples with targets; by default the test set of the run", show_default=False)
    ] = None,
    model: Model = None,
    backend: Backend = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Evaluate the saved parameters of a run: losses and accuracies on its test set, or on a file.

    A run with --model needs the same --model.
    """
    from mithril_losses.training.finished import FinishedRun

    with _explained(verbose), _named_file(file) as path:
        found = FinishedRun(run, model, backend).evaluate(path)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        _, is_accuracy, output = name.partition("accuracy_")
        typer.echo(f"accuracy ({printable(output)}): {100 * value:.2f} %" if is_accuracy else f"{name}: {value:.6g}")


def predict(
    run: Run,
    file: Annotated[str, typer.Argument(help="examples, without targets; - is CSV on stdin", show_default=False)],
    to: Annotated[
        Path, typer.Option("--to", help="a .csv file, an .npz file of the outputs, or - for CSV on stdout")
    ] = Path("-"),
    model: Model = None,
    backend: Backend = None,
    verbose: Verbose = False,
) -> None:
    """Predict with the saved parameters of a run: a line of CSV for each example of a file.

    An output that scores classes becomes the class of the largest score, in a column with the name of the target.
    """
    from mithril_losses.training import finished

    if to.suffix not in ("", ".csv", ".npz") or (to.suffix == "" and to != Path("-")):
        raise UserError(f"--to {to}: name a .csv or an .npz file, or -")
    if to != Path("-"):
        require_writable(to)
    with _explained(verbose), _named_file(file) as path:
        saved = finished.FinishedRun(run, model, backend)
        outputs = saved.predict(str(path))
    if to == Path("-"):
        finished.write_columns(saved.columns(outputs), sys.stdout)
        return
    with user_error(f"--to {to}", OSError):
        if to.suffix == ".npz":
            finished.write_outputs(outputs, to)
        else:
            columns = saved.columns(outputs)
            with to.open("w", encoding="utf-8", newline="") as opened:
                finished.write_columns(columns, opened)


@contextmanager
def _named_file(file: str | None) -> Iterator[str | None]:
    """Yield the file, or one with what comes from stdin."""
    with tempfile.TemporaryDirectory() if file == "-" else nullcontext() as folder:
        if folder is None:
            yield file
            return
        path = Path(folder) / "stdin.csv"
        with path.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        yield str(path)
