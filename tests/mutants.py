"""Break the library on purpose, one small mistake at a time, and see that the tests notice every one.

    .venv/bin/python tests/mutants.py [TEXT] [--jobs N]

A mutant is a copy of the repository with one mistake in it; the working tree is never touched. It is killed by the
first test that fails on it and passes on an unchanged copy. Some mutants are made for every loss of the catalogue, so
that a new loss is covered the moment it is registered; the others are written by hand, in `substitutions.py`. A
survivor is a test that is missing, and makes the exit code 1.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from substitutions import SUBSTITUTIONS, Substitution

from mithril_losses import catalogue
from mithril_losses._pairs import Pair

ROOT = Path(__file__).parent.parent
PACKAGE = "mithril_losses"
LAWS = ("tests/test_laws.py", "tests/test_extremes.py")
EVERYTHING = ["--ignore=tests/test_mutants.py"]
NOT_COPIED = (".*", "__pycache__", "*.egg-info", "build", "dist", "site", "runs")

FACTOR = 1.001  # a test that sees this sees any factor that anyone gets wrong
TIME_LIMIT = 1200.0  # seconds for one run of the tests

PASSED, FAILED, NOTHING_COLLECTED = 0, 1, 5  # exit codes of pytest


@dataclass(frozen=True)
class Mutant:
    """One mistake: `mutate` turns the source of `file` into a wrong one; `stages` are the tests to try in turn."""

    description: str
    file: str
    mutate: Callable[[str], str]
    stages: list[list[str]]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: the test that killed it, or why the run says nothing, or neither if it survived."""

    mutant: Mutant
    killer: str = ""
    error: str = ""


# --- mutants of every registered loss -------------------------------------------------------------------------------


def wrong_factor(factor: float, argument: str = "", wrt: Any = "", fused: bool = False) -> Any:
    """Decorate a function to return `factor` times too much: everywhere, or in the gradient wrt one argument only.

    Its source is pasted into the mutant. `wrt` is what the gradient is taken with respect to unless the caller says.
    """
    import functools

    from mithril_losses._tree import map_leaves

    def off(gradient: Any, wanted: Any) -> Any:
        if isinstance(wanted, tuple) and argument in wanted and argument in gradient:
            return {**gradient, argument: off(gradient[argument], argument)}
        return map_leaves(lambda _, x: factor * x, gradient) if wanted == argument else gradient

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrong(*arguments: Any, **keywords: Any) -> Any:
            result, wanted = function(*arguments, **keywords), keywords.get("wrt", wrt)
            return (result[0], off(result[1], wanted)) if fused else off(result, wanted)

        return wrong

    return decorate


def decorated(source: str, decorators: dict[str, str]) -> str:
    """Return `source` with a decorator on each of the named functions, and with `wrong_factor` above the first."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    lines = source.splitlines(keepends=True)
    places = sorted((functions[name].lineno - 1, f"@{text}\n") for name, text in decorators.items())
    for line, text in reversed(places):
        lines.insert(line, text)
    first = min((functions[name] for name in decorators), key=lambda node: node.lineno)
    above = min([first.lineno, *(decorator.lineno for decorator in first.decorator_list)]) - 1
    lines.insert(above, inspect.getsource(wrong_factor) + "\n\n")
    return "".join(lines)


def wrong_factors(pair: Pair) -> Iterator[Mutant]:
    """Yield a wrong factor in the gradient wrt each argument, in the fused pair, and in value and gradient alike."""
    file = pair.gradient.__module__.replace(".", "/") + ".py"
    default = pair.wrt if len(pair.wrt) > 1 else pair.wrt[0]
    gradient, both = pair.gradient.__name__, getattr(pair.both, "__name__", None)
    for argument in (*pair.wrt, *pair.on_request):
        wrong = f"wrong_factor({FACTOR}, {argument!r}, {default!r}"
        yield Mutant(
            f"{pair.name}: gradient wrt {argument} × {FACTOR}",
            file,
            partial(decorated, decorators={gradient: f"{wrong})"}),
            [[*LAWS, "-k", f"{pair.name} and (central_differences or on_request)"], EVERYTHING],
        )
        if both:
            yield Mutant(
                f"{both}: gradient wrt {argument} × {FACTOR}",
                file,
                partial(decorated, decorators={both: f"{wrong}, fused=True)"}),
                [[*LAWS, "-k", f"{pair.name} and value_and_gradient"], EVERYTHING],
            )
    functions = [pair.value.__name__, gradient] + ([both] if both else [])
    yield Mutant(
        f"{pair.name}: value and gradient × {FACTOR}",
        file,
        partial(decorated, decorators=dict.fromkeys(functions, f"wrong_factor({FACTOR})")),
        [[*tests_of(file), "-k", pair.name], EVERYTHING],
    )


def by_hand(substitution: Substitution) -> Mutant:
    """Return the mutant of a substitution."""
    file = f"{PACKAGE}/{substitution.file}"
    laws = [[*LAWS, "-k", substitution.laws]] if substitution.laws else []
    families = sorted({f"tests/test_{pair.family}.py" for pair in catalogue().values()})
    description = f"{substitution.file}: {substitution.description}"
    return Mutant(description, file, substitution.apply, [tests_of(file), *laws, existing(families), EVERYTHING])


def tests_of(file: str) -> list[str]:
    """Return the doctests of a module and, where there is one, the file of tests named after it."""
    return existing([file, f"tests/test_{Path(file).stem.strip('_')}.py"])


def existing(files: list[str]) -> list[str]:
    return [file for file in files if (ROOT / file).exists()]


# --- the run ----------------------------------------------------------------------------------------------------


def all_mutants() -> list[Mutant]:
    """Return every mutant: those of the registered losses, then those written by hand."""
    generated = [mutant for pair in catalogue().values() for mutant in wrong_factors(pair)]
    return generated + [by_hand(substitution) for substitution in SUBSTITUTIONS]


def copy_repository(source: Path, destination: Path) -> Path:
    """Copy what tests need, without compiled files: they are told from fresh ones by their seconds and size only."""
    return Path(shutil.copytree(source, destination, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED)))


def run_tests(tree: Path, arguments: list[str]) -> tuple[int, str]:
    """Run pytest in a copy of the repository, where Python finds the copy of the package before any installed one."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
    )
    return finished.returncode, finished.stdout


def failures(output: str) -> list[str]:
    """Return the ids of the tests that failed, from pytest's summary."""
    return re.findall(r"^(?:SUB)?FAILED(?:\[.*?\]|\(.*?\))* (\S+::.+?)(?: - .*)?$", output, re.MULTILINE)


def require_copy_is_tested(original: Path) -> None:
    """Raise a RuntimeError unless tests that run in a copy import the copy."""
    with tempfile.TemporaryDirectory() as directory:
        tree = copy_repository(original, Path(directory) / "tree")
        (tree / PACKAGE / "__init__.py").write_text("raise RuntimeError('this is the copy')\n")
        _, output = run_tests(tree, [f"{PACKAGE}/regression.py"])
        if "this is the copy" not in output:
            raise RuntimeError(f"the tests do not import the copy of {PACKAGE}:\n{output}")


def kill(mutant: Mutant, original: Path) -> Outcome:
    """Run the stages of a mutant until a test fails.

    Raises:
        LookupError: the text that the mutant replaces is no longer there, or not only once.
    """
    with tempfile.TemporaryDirectory() as directory:
        tree = copy_repository(original, Path(directory) / "tree")
        source = tree / mutant.file
        source.write_text(mutant.mutate(source.read_text()))
        for stage in mutant.stages:
            try:
                code, output = run_tests(tree, ["-x", *stage])
            except subprocess.TimeoutExpired:
                return Outcome(mutant, error=f"the tests took more than {TIME_LIMIT:g} s")
            if code == FAILED and (failed := failures(output)):
                return Outcome(mutant, killer=failed[0])
            if code not in (PASSED, NOTHING_COLLECTED):
                return Outcome(mutant, error=f"pytest ended with exit code {code}:\n{output[-2000:]}")
    return Outcome(mutant)


def confirmed(outcomes: list[Outcome], original: Path) -> list[Outcome]:
    """Return the outcomes; a test that fails without the mutant, too, has killed nothing."""
    killers = sorted({outcome.killer for outcome in outcomes} - {""})
    if not killers:
        return outcomes
    code, output = run_tests(original, killers)
    failed = set(failures(output))
    if code not in (PASSED, FAILED) or (code == FAILED and not failed):
        raise RuntimeError(f"the tests do not run on the unchanged copy:\n{output}")
    return [
        Outcome(outcome.mutant, error=f"{outcome.killer} fails without the mutant, too")
        if outcome.killer in failed
        else outcome
        for outcome in outcomes
    ]


def page(outcomes: list[Outcome], before: str = "") -> str:
    """Return a page in Markdown with what became of each mutant, those not run this time as they are in `before`."""
    fates = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", before, re.MULTILINE))
    fates |= {_cell(outcome.mutant.description): _fate(outcome) for outcome in outcomes}
    known = [_cell(mutant.description) for mutant in all_mutants()]
    rows = [f"| {name} | {fates[name]} |" for name in known if name in fates]
    killed = sum("::" in fates[name] for name in known if name in fates)
    return f"""\
# Mutants

A mutant is a copy of the library with one mistake in it: a factor, a sign, a threshold, a term left out, arguments
swapped, an argument written to. It is killed by the first test that fails on it and passes on an unchanged copy.
`make mutants` makes them, runs the tests and writes this page.

There are {len(known)} mutants; {len(rows)} were run, and {killed} of these were killed.

| mutant | killed by |
|---|---|
{chr(10).join(rows)}
"""


def _cell(text: str) -> str:
    return text.replace("|", "&#124;")


def _fate(outcome: Outcome) -> str:
    if outcome.killer:
        return f"`{_cell(outcome.killer)}`"
    return "**nothing: the run ended in an error**" if outcome.error else "**nothing: it survived**"


def main(
    text: Annotated[str, typer.Argument(help="Only mutants whose description contains this.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="How many mutants run at a time.")] = os.cpu_count() or 1,
    report: Annotated[Path | None, typer.Option(help="Write a page with every mutant and its killer here.")] = None,
) -> None:
    """Break the library on purpose, one small mistake at a time, and see that the tests notice every one."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    started = time.monotonic()
    mutants = [mutant for mutant in all_mutants() if text in mutant.description]
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(jobs) as workers:
        original = copy_repository(ROOT, Path(directory) / "original")
        for mutant in mutants:
            mutant.mutate((original / mutant.file).read_text())  # text that is gone is found now, not after minutes
        require_copy_is_tested(original)
        outcomes = []
        for outcome in workers.map(partial(kill, original=original), mutants):
            outcomes.append(outcome)
            fate = f"killed by {outcome.killer}" if outcome.killer else outcome.error or "SURVIVED"
            console.print(f"{outcome.mutant.description}\n    {fate}", style="" if outcome.killer else "bold red")
        outcomes = confirmed(outcomes, original)
    survivors = [outcome for outcome in outcomes if not outcome.killer]
    if report is not None:
        report.write_text(page(outcomes, report.read_text("utf-8") if report.exists() else ""), "utf-8")
    console.print(
        f"\n{len(outcomes) - len(survivors)} of {len(outcomes)} mutants killed in {time.monotonic() - started:.0f} s"
    )
    for outcome in survivors:
        console.print(f"{outcome.mutant.description}: {outcome.error or 'SURVIVED'}", style="bold red")
    raise typer.Exit(1 if survivors else 0)


if __name__ == "__main__":
    typer.run(main)
