"""Break the library on purpose, one small mistake at a time, and see that the tests notice every one.

    .venv/bin/python tests/mutants.py [TEXT] [--jobs N] [--sample N] [--report FILE [--new]]

A mutant is a copy of the repository with one mistake in it; the working tree is never touched. It is killed by the
first test of `make test` that fails on it and passes on an unchanged copy. Some mutants are made for every loss of the
catalogue, so that a new loss is covered the moment it is registered; the others are written by hand, in
`substitutions.py`. A survivor is a test that is missing, and makes the exit code 1.

What is found is kept in `.mutants.jsonl` as soon as it is found, and holds until a file of the package or of the tests
changes: a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import itertools
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from substitutions import SUBSTITUTIONS, Substitution

from mithril_losses import catalogue
from mithril_losses.catalogue import Pair

ROOT = Path(__file__).parent.parent
PACKAGE = "mithril_losses"
LAWS = ("tests/laws/test_laws.py", "tests/laws/test_extremes.py")
DEFAULT_TIER = ["-m", "not exhaustive and not optimized_xla"]
OPTIMIZED_XLA = ["-m", "not exhaustive and optimized_xla"]
# as in the Makefile
UNOPTIMIZED_XLA = (
    "--xla_cpu_parallel_codegen_split_count=1 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
# what is about this run, and about files that are not copied
EVERYTHING = ["--ignore=tests/project/test_mutants.py", "--ignore=tests/project/test_project.py"]
RESULTS = ROOT / ".mutants.jsonl"
NOT_COPIED = (".*", "__pycache__", "*.egg-info", "build", "dist", "site", "runs")

FACTOR = 1.001  # a test that sees this sees any factor that anyone gets wrong
TIME_LIMIT = 1800.0  # seconds for one run of the tests

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

    from mithril_losses.numerics.trees import map_leaves

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


@functools.cache
def _functions(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def decorated(source: str, decorators: dict[str, str]) -> str:
    """Return `source` with a decorator on each of the named functions, and with `wrong_factor` above the first."""
    lines, functions = source.splitlines(keepends=True), _functions(source)
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
    gradient = pair.gradient.__name__
    both = getattr(pair.both, "__name__", None)
    if f"def {both}(" not in (ROOT / file).read_text("utf-8"):  # what `both_of` returns has no text of its own
        both = None
    of_loss = ["--loss", pair.name]
    for argument in (*pair.wrt, *pair.on_request):
        wrong = f"wrong_factor({FACTOR}, {argument!r}, {default!r}"
        yield Mutant(
            f"{pair.name}: gradient wrt {argument} × {FACTOR}",
            file,
            partial(decorated, decorators={gradient: f"{wrong})"}),
            [[*LAWS, *of_loss, "-k", "central_differences or on_request"], of_loss, EVERYTHING],
        )
        if both:
            yield Mutant(
                f"{both}: gradient wrt {argument} × {FACTOR}",
                file,
                partial(decorated, decorators={both: f"{wrong}, fused=True)"}),
                [[*LAWS, *of_loss, "-k", "value_and_gradient"], of_loss, EVERYTHING],
            )
    functions = [pair.value.__name__, gradient] + ([both] if both else [])
    yield Mutant(
        f"{pair.name}: value and gradient × {FACTOR}",
        file,
        partial(decorated, decorators=dict.fromkeys(functions, f"wrong_factor({FACTOR})")),
        [[file, "-k", pair.name], of_loss, EVERYTHING],
    )


def wrong_curvatures(pair: Pair) -> Iterator[Mutant]:
    """Yield a wrong factor, and a wrong summand where a factor would change nothing, in each function of curvature."""
    for terms in pair.terms.elements.values():
        for function in filter(callable, terms.curvatures.values()):
            file = function.__module__.replace(".", "/") + ".py"
            yield Mutant(
                f"{pair.name}: {function.__name__} × {FACTOR} + {FACTOR - 1.0:.6f}",
                file,
                partial(with_other_results, name=function.__name__),
                [["tests/laws/test_curvature.py", "-k", f"{pair.name} or Information or Bounds"], EVERYTHING],
            )


def with_other_results(source: str, name: str) -> str:
    """Return `source` with each number that a function returns times a wrong factor, plus a wrong summand."""
    (function,) = (n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
    lines = source.splitlines(keepends=True)
    for node in reversed([node for node in ast.walk(function) if isinstance(node, ast.Return)]):
        assert node.value is not None
        assert node.end_lineno is not None
        results = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        wrong = ", ".join(f"{FACTOR} * ({ast.unparse(x)}) + {FACTOR - 1.0:.6f}" for x in results)
        lines[node.lineno - 1 : node.end_lineno] = [f"{' ' * node.col_offset}return {wrong}\n"]
    return "".join(lines)


def by_hand(substitution: Substitution) -> Mutant:
    """Return the mutant of a substitution."""
    file = f"{PACKAGE}/{substitution.file}"
    laws = [[*LAWS, "-k", substitution.laws]] if substitution.laws else []
    families = sorted({f"tests/losses/test_{pair.family}.py" for pair in catalogue().values()})
    named = [named_after(substitution.tests)] if substitution.tests else []
    if substitution.select:
        named.insert(0, [*named[0], "-k", substitution.select])
    description = f"{substitution.file}: {substitution.description}"
    optimized = [*OPTIMIZED_XLA, *with_optimized_xla()]
    stages = [tests_of(file), *named, *laws, families, optimized, EVERYTHING]
    return Mutant(description, file, substitution.apply, stages)


def tests_of(file: str) -> list[str]:
    """Return the doctests of a module and, where there is one, the file of tests named after it."""
    path = Path(file)
    return [file, *named_after(path.parent.name if path.stem == "__init__" else path.stem)]


@functools.cache
def named_after(name: str) -> list[str]:
    """Return the file of tests with this name, if there is one."""
    return [str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob(f"test_{name}.py")]


@functools.cache
def with_optimized_xla() -> list[str]:
    """Return the files with tests that `make test` runs with XLA's optimisations."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "mark.optimized_xla" in file.read_text("utf-8")]


# --- the run ----------------------------------------------------------------------------------------------------


@functools.cache
def all_mutants() -> list[Mutant]:
    """Return every mutant: those of the registered losses, then those written by hand."""
    pairs = list(catalogue().values())
    generated = [mutant for pair in pairs for mutant in (*wrong_factors(pair), *wrong_curvatures(pair))]
    return generated + [by_hand(substitution) for substitution in SUBSTITUTIONS]


def copy_repository(source: Path, destination: Path) -> Path:
    """Copy what tests need, without compiled files: they are told from fresh ones by their seconds and size only."""
    return Path(shutil.copytree(source, destination, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED)))


class Run(NamedTuple):
    """What became of a run of pytest: its exit code (None if it took too long), the tests that failed, its output."""

    code: int | None
    failed: list[str]
    output: str


class Workshop:
    """A copy of the repository in which one mutant after the other is made and tested, in forks of one process."""

    def __init__(self, original: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.tree = copy_repository(original, Path(self._folder.name) / "tree")
        self._times = itertools.count(1)
        self._caches = itertools.count(1)
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", Path(__file__).with_name("forks.py")],
            env={**os.environ, **single},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.terminate()  # with what it runs
        self._server.communicate()
        self._folder.cleanup()

    def run_tests(self, arguments: list[str], cache: str = "kernels") -> Run:
        """Run pytest in the copy; loops are compiled into a cache of this name."""
        flags = "" if arguments[:3] == ["-x", *OPTIMIZED_XLA] else UNOPTIMIZED_XLA
        request = {
            "tree": str(self.tree),
            "arguments": arguments,
            "environment": {"MITHRIL_LOSSES_CACHE": str(Path(self._folder.name) / cache), "XLA_FLAGS": flags},
            "seconds": TIME_LIMIT,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Run(**json.loads(self._server.stdout.readline()))

    def kill(self, mutant: Mutant) -> Outcome:
        """Run the stages of a mutant until a test fails.

        Raises:
            LookupError: the text that the mutant replaces is no longer there, or not only once.
        """
        source = self.tree / mutant.file
        right, times = source.read_text(), source.stat()
        source.write_text(mutant.mutate(right))
        os.utime(source, (next(self._times),) * 2)  # compiled files know their source by this time
        # a loop's name is made of its terms; what compiles it is a part of the name only as a version
        own_cache = mutant.file.startswith(f"{PACKAGE}/backends/")
        cache = f"kernels of mutant {next(self._caches)}" if own_cache else "kernels"
        try:
            return self._killed(mutant, cache)
        finally:
            source.write_text(right)
            os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _killed(self, mutant: Mutant, cache: str) -> Outcome:
        for stage in mutant.stages:
            marks = [] if "-m" in stage else DEFAULT_TIER
            code, failed, output = self.run_tests(["-x", *marks, *stage], cache)
            if code is None:
                return Outcome(mutant, error=f"the tests took more than {TIME_LIMIT:g} s")
            if failed:
                return Outcome(mutant, killer=failed[0])
            if code not in (PASSED, NOTHING_COLLECTED):
                return Outcome(mutant, error=f"pytest ended with exit code {code}:\n{output[-2000:]}")
        return Outcome(mutant)


def require_copy_is_tested(workshop: Workshop) -> None:
    """Raise a RuntimeError unless tests that run in a copy import the copy."""
    package = workshop.tree / PACKAGE / "__init__.py"
    right = package.read_text()
    package.write_text("raise RuntimeError('this is the copy')\n")
    try:
        run = workshop.run_tests([f"{PACKAGE}/regression.py"])
    finally:
        package.write_text(right)
    if "this is the copy" not in run.output:
        raise RuntimeError(f"the tests do not import the copy of {PACKAGE}:\n{run.output}")


def confirmed(outcomes: list[Outcome], workshop: Workshop) -> list[Outcome]:
    """Return the outcomes; a test that fails without the mutant, too, has killed nothing."""
    killers = sorted({outcome.killer for outcome in outcomes} - {""})
    if not killers:
        return outcomes
    code, failed, output = workshop.run_tests(killers)
    if code not in (PASSED, FAILED) or (code == FAILED and not failed):
        raise RuntimeError(f"the tests do not run on the unchanged copy:\n{output}")
    return [
        Outcome(outcome.mutant, error=f"{outcome.killer} fails without the mutant, too")
        if outcome.killer in failed
        else outcome
        for outcome in outcomes
    ]


def digest(tree: Path) -> str:
    """Return a digest of what mutants are made of and tested by."""
    files = [tree / "conftest.py", *sorted((tree / PACKAGE).rglob("*.py")), *sorted((tree / "tests").rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def known_outcomes(mutants: Iterable[Mutant], state: str, results: Path) -> list[Outcome]:
    """Return what earlier runs found out about these mutants in this state of the repository."""
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    found = {entry["mutant"]: entry["killer"] for entry in map(json.loads, lines) if entry["state"] == state}
    return [Outcome(mutant, killer=found[mutant.description]) for mutant in mutants if mutant.description in found]


def keep(outcome: Outcome, state: str, results: Path) -> None:
    """Add what was found to the file of results; what ended in an error is tried again."""
    if outcome.killer:
        entry = {"state": state, "mutant": outcome.mutant.description, "killer": outcome.killer}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def fates_on(page: str) -> dict[str, str]:
    """Return what a page says of each mutant, by its description there."""
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.MULTILINE))


def not_on(page: str, mutants: Iterable[Mutant]) -> list[Mutant]:
    """Return the mutants that a page does not have."""
    known = fates_on(page)
    return [mutant for mutant in mutants if _cell(mutant.description) not in known]


def page(outcomes: list[Outcome], before: str = "") -> str:
    """Return a page in Markdown with what became of each mutant, those not run this time as they are in `before`."""
    fates = fates_on(before) | {_cell(outcome.mutant.description): _fate(outcome) for outcome in outcomes}
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
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many, drawn at random.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with every mutant and its killer here.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Only mutants that the report does not have yet.")] = False,
) -> None:
    """Break the library on purpose, one small mistake at a time, and see that the tests notice every one."""
    if new and report is None:
        raise typer.BadParameter("--new needs --report")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    started = time.monotonic()
    before = report.read_text("utf-8") if report is not None and report.exists() else ""
    mutants = [mutant for mutant in all_mutants() if text in mutant.description]
    if new:
        mutants = not_on(before, mutants)
    if sample is not None:
        mutants = random.Random(0).sample(mutants, min(sample, len(mutants)))
    with ExitStack() as stack:
        original = copy_repository(ROOT, Path(stack.enter_context(tempfile.TemporaryDirectory())) / "original")
        for mutant in mutants:
            mutant.mutate((original / mutant.file).read_text())  # text that is gone is found now, not after minutes
        state = digest(original)
        outcomes = known_outcomes(mutants, state, RESULTS)
        if outcomes:
            console.print(f"{len(outcomes)} are known from an earlier run")
        done = {outcome.mutant.description for outcome in outcomes}
        workshops = [stack.enter_context(Workshop(original)) for _ in range(jobs)]
        require_copy_is_tested(workshops[0])
        free: queue.SimpleQueue[Workshop] = queue.SimpleQueue()
        for workshop in workshops:
            free.put(workshop)

        def kill(mutant: Mutant) -> Outcome:
            workshop = free.get()
            try:
                return workshop.kill(mutant)
            finally:
                free.put(workshop)

        threads = stack.enter_context(ThreadPoolExecutor(jobs))
        runs = [threads.submit(kill, mutant) for mutant in mutants if mutant.description not in done]
        for outcome in (run.result() for run in as_completed(runs)):
            outcomes.append(outcome)
            keep(outcome, state, RESULTS)
            fate = f"killed by {outcome.killer}" if outcome.killer else outcome.error or "SURVIVED"
            console.print(f"{outcome.mutant.description}\n    {fate}", style="" if outcome.killer else "bold red")
        outcomes = confirmed(outcomes, workshops[0])
    survivors = [outcome for outcome in outcomes if not outcome.killer]
    if report is not None:
        report.write_text(page(outcomes, before), "utf-8")
    console.print(
        f"\n{len(outcomes) - len(survivors)} of {len(outcomes)} mutants killed in {time.monotonic() - started:.0f} s"
    )
    for outcome in survivors:
        console.print(f"{outcome.mutant.description}: {outcome.error or 'SURVIVED'}", style="bold red")
    raise typer.Exit(1 if survivors else 0)


if __name__ == "__main__":
    typer.run(main)
