"""A newcomer with a table: init, train, interrupted, resumed, evaluate, predict, in a folder of their own."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mithril_losses.cli.commands import app

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def write_table(path: Path, rows: int = 1000) -> list[dict[str, str]]:
    """Write penguins that do not exist: numbers, texts, and a name that no model can learn from."""
    draw = random.Random(0)
    found = []
    for index in range(rows):
        species = draw.randrange(3)
        found.append(
            {
                "name": f"penguin {index}",
                "bill": f"{40 + 5 * species + draw.gauss(0, 1.5):.1f}",
                "mass": str(round(3500 + 600 * (species == 2) + draw.gauss(0, 200))),
                "island": draw.choice([["Torgersen", "Biscoe"], ["Dream"], ["Biscoe"]][species]),
                "species": ["Adélie", "Chinstrap", "Gentoo"][species],
            }
        )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, found[0])
        writer.writeheader()
        writer.writerows(found)
    return found


def command(python_path: str, folder: Path) -> Run:
    """Return the function that runs `mithril-losses` in a folder, with the package on this path alone."""
    environment = {**os.environ, "PYTHONPATH": python_path, "PYTHONIOENCODING": "utf-8"}
    environment.pop("COLUMNS", None)

    def run(*arguments: str, interrupt_after: Path | None = None) -> subprocess.CompletedProcess[str]:
        program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        program += "from mithril_losses.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        deadline = time.monotonic() + 120.0
        while interrupt_after is not None and not interrupt_after.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if interrupt_after is not None:
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    return run


def succeeds(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def play(run: Run, folder: Path) -> None:
    """Do what a newcomer does, and check what they see."""
    rows = write_table(folder / "penguins.csv")
    assert "train with: mithril-losses train penguins.toml" in succeeds(run("init", "penguins.csv"))
    assert "'name' has 1000 different texts" in (folder / "penguins.toml").read_text("utf-8")

    long = ("--set", "run.epochs=100000", "--set", "run.patience=100000")
    checkpoint = folder / "runs" / "penguins" / "checkpoint.npz"
    interrupted = run("train", "penguins.toml", *long, interrupt_after=checkpoint)
    assert interrupted.returncode == 130
    assert re.fullmatch(
        r"interrupted: epoch \d+ is kept in runs/penguins; --resume continues from there\n", interrupted.stderr
    )
    done = len((checkpoint.parent / "history.csv").read_text("utf-8").splitlines()) - 1
    again = run("train", "penguins.toml", *long)
    assert (again.returncode, again.stdout) == (2, "")
    assert "holds a run already" in again.stderr

    enough = ("--set", f"run.epochs={done + 30}", "--set", "run.patience=100000")
    output = succeeds(run("train", "penguins.toml", *enough, "--resume"))
    assert float(re.findall(r"test accuracy \(species\): ([\d.]+) %", output)[0]) > 90.0
    succeeds(run("train", "penguins.toml", *enough, "--set", "run.output=whole"))
    for name in ("history.csv", "parameters.npz"):  # as if it had not been interrupted
        assert (folder / "whole" / name).read_bytes() == (checkpoint.parent / name).read_bytes()

    evaluated = json.loads(succeeds(run("evaluate", "runs/penguins", "--json")))
    assert f"test accuracy (species): {100 * evaluated['accuracy_species']:.2f} %" in output
    succeeds(run("predict", "runs/penguins", "penguins.csv", "--to", "predictions.csv"))
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predicted = [row["species"] for row in csv.DictReader(file)]
    right = sum(one == row["species"] for one, row in zip(predicted, rows, strict=True))
    assert right > 900


@pytest.mark.exhaustive  # for six seconds, through commands that have tests of their own
def test_a_newcomer_with_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    in_a_process = command(os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), tmp_path)

    def run(*arguments: str, interrupt_after: Path | None = None) -> subprocess.CompletedProcess[str]:
        if interrupt_after is not None:
            return in_a_process(*arguments, interrupt_after=interrupt_after)
        done = CliRunner().invoke(app, arguments, prog_name="mithril-losses")
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    play(run, tmp_path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the wheel into a folder, and return the path on which it is found before the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    [file] = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(file)], check=True, capture_output=True
    )
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    return os.pathsep.join([str(folder / "site"), *others])


@pytest.mark.exhaustive
def test_a_newcomer_with_a_wheel(wheel: str, tmp_path: Path) -> None:
    play(command(wheel, tmp_path), tmp_path)


PAGE = (ROOT / "docs" / "own-models.md").read_text("utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.exhaustive
def test_the_scripts_of_the_page_are_short_and_run_from_a_wheel(wheel: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": wheel}
    assert [script.partition("\n")[0] for script in SCRIPTS] == ["import functools", "import equinox as eqx"]
    assert all(len(script.strip().splitlines()) < 30 for script in SCRIPTS)
    imports = "from mithril_losses import Objective, Term, fit\nimport mithril_losses\nprint(mithril_losses.__file__)\n"
    for script in SCRIPTS:
        for _ in range(2):  # the second time they resume
            done = subprocess.run(
                [sys.executable, "-c", imports + script], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(wheel.split(os.pathsep)[0])
