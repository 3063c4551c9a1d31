"""The entry point of the command line, which says what to install if a library is missing."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NoReturn

from mithril_losses.backends.extras import missing
from mithril_losses.training.interruption import interruptions

_INTERRUPTED = 130  # the exit code of what Ctrl-C has ended


def main() -> None:
    """Run the command line."""
    try:
        with interruptions():
            run()
    except KeyboardInterrupt:  # before a command began
        print("interrupted", file=sys.stderr)
        _leave_at_once()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _leave_at_once()
        raise
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "mithril_losses":
            raise
        print(f"error: {missing('the command line', error.name, 'cli')}", file=sys.stderr)
        sys.exit(2)


def _leave_at_once() -> NoReturn:
    """End the process: a library that was interrupted while it was loading may crash where Python ends as usual."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(_INTERRUPTED)


def run() -> None:
    """Load the libraries of the command line, and run the command that was typed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # pipes and terminals may not support Greek letters in formulas
    from mithril_losses.cli.commands import app

    app(prog_name="mithril-losses")
