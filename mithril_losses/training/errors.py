"""Errors of a run that are the user's to see: one line each, in which no name is obeyed by a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def printable(text: object) -> str:
    r"""Return the text with control characters, which a terminal would obey, in the notation of Python's strings.

    Names in files may come from other people: each name passes through this function before it is printed.

    Example:
        >>> print(printable("a\x1b[2Jb"), printable("Größe"))
        a\x1b[2Jb Größe
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(text))


class UserError(Exception):
    """The user's input cannot be used. The message says why, and is all that the user needs to see.

    Args:
        lines: the message. Names in it may contain anything, because the lines are made `printable` here.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(printable, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


def require_writable(path: Path) -> None:
    """Raise a `UserError` unless a file can be written at `path`, before minutes of work are spent on its content."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written")


@contextmanager
def user_error(origin: str = "", *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that occur while user input is read into a `UserError` of one line that begins with `origin`.

    `kinds` are the exceptions that are turned, by default those that this package and the libraries raise.

    Use such a block only around code that reads or first uses the user's input: an exception from any other code is a
    defect of this package and keeps its traceback.
    """
    kinds = kinds or (ValueError, TypeError, OSError, ImportError)
    try:
        yield
    except kinds as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror if origin else f"{error.filename}: {error.strerror}"
        raise UserError(": ".join(filter(None, [origin, " ".join(reason.split())]))) from error


class DivergedError(UserError):
    """A run whose loss is no longer finite, or has grown out of all proportion."""
