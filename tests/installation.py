"""The wheel in a new environment and a foreign folder: it installs, and what the pages say runs.

    python tests/installation.py                 builds the wheel; on every supported Python that this machine has
    python tests/installation.py dist/NAME.whl   that wheel, on the Python that runs this script

Everything is downloaded and built by pip, except that building on its own needs the package `build`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUPPORTED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
NEEDED = {"array-api-compat", "mithril-losses", "numpy", "scipy"}  # what the README says of a bare installation
MADE_HERE = (".git", ".venv*", "build", "dist", "site", "runs", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")


def supported_pythons() -> dict[str, Path]:
    """Return the supported Pythons that are on the path, or installed beside the one that runs this, by version."""
    found: dict[str, Path] = {}
    for version in SUPPORTED:
        on_path = shutil.which(f"python{version}")
        beside = sorted(Path(sys.base_prefix).parent.glob(f"*/bin/python{version}"))
        for python in [*([Path(on_path)] if on_path else []), *beside]:
            works = subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
            if works and version not in found:  # a launcher may be on the path without its Python
                found[version] = python
    return found


def is_running(version: str) -> bool:
    """Whether this is the version of the Python that runs this script."""
    return version == f"{sys.version_info.major}.{sys.version_info.minor}"


def copy_of_repository(folder: Path) -> Path:
    """Copy the repository without what was made in it, which a build would take up again."""
    return Path(shutil.copytree(ROOT, folder / "repository", symlinks=True, ignore=shutil.ignore_patterns(*MADE_HERE)))


def build(folder: Path) -> tuple[Path, Path]:
    """Build as the release workflow does, the wheel from the source distribution; return `(wheel, source)`."""
    repository = copy_of_repository(folder)
    package = (repository / "mithril_losses/__init__.py").read_text("utf-8")
    [version] = re.findall(r'^__version__ = "(.+)"$', package, re.MULTILINE)
    run(repository, sys.executable, ".github/prepare_release.py", f"v{version}", "https://example.org/losses")
    run(repository, sys.executable, "-m", "build", "--outdir", str(folder / "dist"))
    [wheel], [source] = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, source


class Environment:
    """A new virtual environment, whose commands run in one folder."""

    def __init__(self, python: str | Path, where: Path, folder: Path) -> None:
        run(folder, str(python), "-m", "venv", str(where))
        self._bin = where / "bin"
        self._folder = folder

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command of the environment, and return what it prints; raise an AssertionError unless it `fails` so."""
        return run(self._folder, *command, fails=fails, path=self._bin)

    def installed(self) -> set[str]:
        """Return the names of the installed distributions, without pip and what comes with it."""
        lines = self.run("pip", "list", "--format", "freeze", "--exclude", "pip", "--exclude", "setuptools")
        return {line.partition("==")[0].replace("_", "-") for line in lines.splitlines() if "==" in line}


def run(folder: Path, *command: str, fails: bool = False, path: Path | None = None) -> str:
    """Run a command that sees no other copy of the package and no other environment; return what it prints.

    Raises:
        AssertionError: the exit code is not 0, or is 0 although the command `fails`.
    """
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if path is not None:
        known["PATH"] = os.pathsep.join([str(path), known["PATH"]])
        command = (shutil.which(command[0], path=known["PATH"]) or command[0], *command[1:])
    done = subprocess.run(
        command, cwd=folder, env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False
    )
    require((done.returncode != 0) == fails, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def require(holds: bool, message: str) -> None:
    """Raise an AssertionError with this message if it does not hold, under `python -O` too."""
    if not holds:
        raise AssertionError(message)


def blocks(page: str, language: str, title: str = "") -> list[str]:
    """Return the code of one language on a page, of one section if there is a title."""
    text = (ROOT / page).read_text("utf-8")
    if title:
        text = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    require(bool(found), f"{page} has no {language} under {title!r}")
    return found


def examples(*, loops: bool) -> str:
    """Return the Python of the README, with or without its training loops, which need JAX and PyTorch."""
    in_loops = blocks("README.md", "python", "In a training loop")
    return "".join(block for block in blocks("README.md", "python") if loops or block not in in_loops)


def installs(message: str, wheel: Path) -> list[str]:
    """Return the command with which an error says what to install from a wheel."""
    found = re.search(r"pip install '[^']+' in a clone, or 'FILE\.whl(\[\w+\])'", message)
    require(found is not None, f"no command in: {message}")
    return ["pip", "install", "--quiet", f"{wheel.resolve()}{found[1]}"]


def check_wheel(wheel: Path, python: str | Path, folder: Path, *, with_frameworks: bool) -> None:
    """Install the wheel alone, then what the errors ask for; at each step, run what the pages say.

    Args:
        wheel: the file.
        python: which Python makes the environment.
        folder: an empty one, for the environment and for a folder in which the examples run.
        with_frameworks: whether to install JAX and PyTorch at the end, which takes minutes, and to run what needs them.
    """
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "readme.py").write_text(examples(loops=False), "utf-8")
    (elsewhere / "with_loops.py").write_text(examples(loops=True), "utf-8")
    environment = Environment(python, folder / "environment", elsewhere)

    environment.run("pip", "install", "--quiet", str(wheel.resolve()))
    require(environment.installed() == NEEDED, f"installed are {environment.installed()}")
    imported = environment.run("python", "-c", "import mithril_losses; print(mithril_losses.__file__)")
    require(str(folder / "environment") in imported, f"imported from {imported}")

    environment.run(*installs(environment.run("python", "readme.py", fails=True), wheel))
    require(environment.installed() == {*NEEDED, "autograd"}, f"installed are {environment.installed()}")
    environment.run("python", "readme.py")

    environment.run(*installs(environment.run("mithril-losses", "list", fails=True), wheel))
    checked = environment.run("mithril-losses", "check")
    require(re.search(r"\b(\d+) of \1 gradients are right", checked) is not None, checked)
    [first_run] = blocks("docs/command-line.md", "sh", "A first run")
    environment.run("bash", "-e", "-c", first_run)
    require((elsewhere / "runs/digits/training.png").exists(), "the first run has no picture")

    if with_frameworks:
        pins = str(ROOT / "constraints.txt")
        environment.run("pip", "install", "--quiet", "-c", pins, f"{wheel.resolve()}[jax,torch]")
        environment.run("python", "with_loops.py")
        for backend in ("jax", "torch"):
            environment.run(
                "mithril-losses", "train", "digits.toml", "--backend", backend, "--overwrite", "--set", "run.epochs=1"
            )


def check_installation_from_clone(folder: Path, *, with_frameworks: bool) -> None:
    """Run what the README says of a clone: both ways to install, then `make demo` and the commands after it.

    Args:
        folder: an empty one, for a copy of the repository and the environments.
        with_frameworks: whether to run the commands that install JAX and PyTorch and use them, too.
    """
    repository = copy_of_repository(folder)
    for way, block in enumerate(blocks("README.md", "sh", "Install")):
        environment = Environment(sys.executable, folder / f"environment {way}", repository)
        environment.run("bash", "-e", "-c", block)
        require(environment.installed() == {*NEEDED, "autograd"}, f"installed are {environment.installed()}")
    run(repository, "make", "demo", f"PYTHON={sys.executable}")
    commands, of_frameworks = blocks("README.md", "sh", "From the command line")
    run(repository, "bash", "-e", "-c", commands + of_frameworks * with_frameworks)


def main() -> None:
    """Check one wheel on this Python, or a new wheel on all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sys.argv[1:]:
            check_wheel(Path(sys.argv[1]), sys.executable, folder, with_frameworks=True)
            return
        wheel, _ = build(folder)
        for version, python in supported_pythons().items():
            (folder / version).mkdir()
            check_wheel(wheel, python, folder / version, with_frameworks=is_running(version))
            print(f"Python {version}: the wheel installs, and the README runs")
        (folder / "clone").mkdir()
        check_installation_from_clone(folder / "clone", with_frameworks=True)


if __name__ == "__main__":
    main()
