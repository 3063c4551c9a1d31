"""Which room of the package may import which: down only, in no circle, and nothing private."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "mithril_losses"
ROOT = Path(__file__).parents[2]

# from the top of the house to its foundations: each may import those after it
ROOMS = (
    "__main__",
    "cli",
    "benchmarks",
    "training",
    "boosting",
    "optimize",
    "objectives",
    "losses",
    "checking",
    "execution",
    "catalogue",
    "templates",
    "models",
    "domains",
    "elsewhere",
    "autodiff",
    "limits",
    "loops",
    "terms",
    "numerics",
    "backends",
)
ARRAYS = {"namespaces", "named"}
# mathematics knows nothing of how it is compiled, or of who trains with it; of backends it knows arrays alone
SEEN_BY_LOSSES = {"losses", "execution", "catalogue", "templates", "domains", "limits", "numerics"}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for file in sorted((ROOT / PACKAGE).rglob("*.py"))}


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Yield the module of the package, and the name in it, of each import: "" for a module as a whole."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "") if inner in MODULES else (str(node.module), alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == PACKAGE)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} == {"", *ROOMS}


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module)])
def test_imports_point_down(module: str) -> None:
    own = room_of(module)
    below = ROOMS[ROOMS.index(own) :]
    for imported, name in imports(module):
        assert room_of(imported) in below, f"{module} imports {imported}"
        hidden = is_private(name) or (room_of(imported) != own and any(map(is_private, imported.split("."))))
        assert not hidden or module == imported, f"{module} imports {imported} {name}: one of them is private"
        if own == "losses":
            seen = room_of(imported) in SEEN_BY_LOSSES or imported.removeprefix(f"{PACKAGE}.backends.") in ARRAYS
            assert seen, f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_no_private_attribute_of_another_module_is_used(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    aliases = [(f"{node.module}.{alias.name}", alias.asname or alias.name) for node in nodes for alias in node.names]
    modules = {name for module, name in aliases if module in MODULES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert not is_private(node.attr), f"{module} uses {node.value.id}.{node.attr}"


def test_there_is_no_circle() -> None:
    TopologicalSorter({module: {imported for imported, _ in imports(module)} for module in MODULES}).prepare()


def test_the_root_holds_little() -> None:
    files = {file.name for file in (ROOT / PACKAGE).glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "catalogue.py", "domains.py", "elsewhere.py", "limits.py"}
