"""What is released installs and runs where nothing else is: see `tests/installation.py`.

JAX and PyTorch, which are downloaded and installed for minutes, and other Pythons than the one that runs the tests are
left to that script, which a release runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.resources import files
from pathlib import Path

import pytest
from installation import (
    ROOT,
    SUPPORTED,
    build,
    check_installation_from_clone,
    check_wheel,
)

import mithril_losses
from mithril_losses.training.config import read_config

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("built"))


@pytest.mark.exhaustive
def test_the_wheel_runs_in_a_bare_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    check_wheel(built[0], sys.executable, tmp_path, with_frameworks=False)


@pytest.mark.exhaustive
def test_a_clone_installs_and_runs_as_the_readme_says(tmp_path: Path) -> None:
    check_installation_from_clone(tmp_path, with_frameworks=False)


@pytest.mark.exhaustive
def test_what_is_built_holds_the_package_and_no_tests(built: tuple[Path, Path]) -> None:
    wheel, source = built
    package = ROOT / "mithril_losses"
    expected = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    expected |= {"mithril_losses/py.typed", "mithril_losses/training/digits.toml", "mithril_losses_command.py"}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [Parser().parsestr(archive.read(n).decode()) for n in names if n.endswith("dist-info/METADATA")]
    assert {name for name in names if ".dist-info/" not in name} == expected
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    assert in_source >= expected
    assert not [name for name in in_source if "test" in name]  # they test the repository, so they need all of it

    assert set(metadata.get_all("Project-URL")) >= {"Issues, https://example.org/losses/issues"}
    links = re.findall(r"\]\((.+?)\)", metadata.get_payload())
    assert links
    assert all(link.startswith("https://example.org/losses/blob/v") for link in links)


def test_a_tag_that_is_not_the_version_is_not_released(tmp_path: Path) -> None:
    (tmp_path / "mithril_losses").mkdir()
    for name in ("pyproject.toml", "README.md", "mithril_losses/__init__.py"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    command = [sys.executable, str(ROOT / ".github/prepare_release.py"), "v99.0", "https://example.org/losses"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == f"the tag is v99.0, but the version of the package is {mithril_losses.__version__}\n"


def test_a_release_is_installed_on_every_supported_python_before_it_is_published() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    assert f"python-version: {SUPPORTED}".replace("'", '"') in text
    publish = text.partition("\n  publish:\n")[2]
    assert publish.startswith("    needs: install\n")
    assert text.count("id-token: write") == publish.count("id-token: write") == 1
    assert "secrets." not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_installs_from_an_index_what_no_index_has(page: Path) -> None:
    commands = re.findall(r"pip3? install[^`\n]*", page.read_text("utf-8"))
    for command in commands:
        assert not re.search(r"[\s'\"]mithril-losses\b", command), command
        for wheel in re.findall(r"\S+\.whl", command):
            assert Path(wheel).name == f"mithril_losses-{mithril_losses.__version__}-py3-none-any.whl"
        for extras in re.findall(r"\[(.+?)\]", command):
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_the_readme_names_every_extra_of_a_user() -> None:
    rows = re.findall(r"^\| `(.+?)`.* \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert set(rows) == PROJECT["optional-dependencies"].keys() - {"docs", "test"}


def test_the_starting_configuration_is_a_resource_of_the_package_and_the_one_in_the_examples() -> None:
    resource = files("mithril_losses.training").joinpath("digits.toml")
    assert resource.read_text("utf-8") == (ROOT / "docs/examples/digits.toml").read_text("utf-8")
    assert read_config(Path(str(resource)), [], None).model.outputs.keys() == {"digit", "reconstruction"}
