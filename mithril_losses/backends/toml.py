"""TOML from other people, read within limits: for some small texts the parser takes minutes and gigabytes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

LARGEST_FILE = 1_000_000  # bytes
DEEPEST = 32  # levels of tables and lists, and parts of one dotted key

# Memory and time of tomllib grow with the square of the number of parts of a dotted key. Each token is consumed whole,
# so that the time of the search for such keys is proportional to the length of the text.
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]++|\\.)*+"?|'[^'\n]*+'?)"""
_DOT = r"[ \t]*+\.[ \t]*+"
_TOKEN = re.compile(rf"#.*|(?P<too_long>(?:{_PART}{_DOT}){{{DEEPEST}}})|(?:{_PART}{_DOT})++|{_PART}")


def read_toml_file(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ValueError: the file is larger than 1 MB, is not UTF-8 or not TOML, or is nested too deeply.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"the file is larger than {LARGEST_FILE:,} bytes")
    return parse_toml(content.decode("utf-8"))


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        ValueError: the text is not TOML, or is nested too deeply.

    Example:
        >>> parse_toml("run.epochs = 3")
        {'run': {'epochs': 3}}
        >>> parse_toml("a." * 50_000 + "b = 1")
        Traceback (most recent call last):
        ValueError: nested more than 32 levels deep
    """
    if any(token.lastgroup for token in _TOKEN.finditer(text)):
        raise ValueError(f"nested more than {DEEPEST} levels deep")
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from error
    require_shallow(table)
    return table


def require_shallow(table: dict[str, Any]) -> None:
    """Raise a ValueError if tables and lists are nested too deeply for recursive functions."""
    level: list[Any] = [table]
    for _ in range(DEEPEST):
        inside = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
        level = [item for item in inside if isinstance(item, (dict, list))]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} levels deep")
