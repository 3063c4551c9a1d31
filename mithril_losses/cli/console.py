"""The console on which commands print."""

from __future__ import annotations

from rich.console import Console


def new_console() -> Console:
    """Return a console for stdout: as wide as the terminal, or, if stdout is not a terminal, as wide as needed."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)
