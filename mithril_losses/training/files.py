"""The folder of a run: one run at a time owns it, and its files always belong to the same epoch."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mithril_losses.training.errors import UserError, user_error

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Write = Callable[[BinaryIO], Any]  # fills a file


# --- one run at a time ----------------------------------------------------------------------------------------------


@contextmanager
def owned(folder: Path, names: Collection[str], lock: str = ".lock", key: str = "") -> Iterator[None]:
    """Own the output folder inside the block: create it, keep other runs out, and remove files that a killed run left.

    The operating system locks a hidden file, so that the lock ends with the process that holds it.

    Args:
        folder: the folder, which is created if it is missing.
        names: the files that are written into it inside the block.
        lock: the name of the hidden file.
        key: the beginning of messages.

    Raises:
        UserError: another run owns the folder, or no file can be written into it.
    """
    path = folder / lock
    with user_error(f"{key}cannot write into {folder}", OSError, ValueError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    if descriptor is None:
        raise UserError(f"{key}another run is writing into {folder}; wait until it ends or choose another folder")
    try:
        with user_error(f"{key}cannot write into {folder}", OSError):
            for name in names:
                _partial(folder / name).unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps an open file; and the file may be gone already
            if _is_at(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """Return the descriptor of the file at `path`, locked, or None if another run has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        taken = not _lock(descriptor)
        if not taken and _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)
        if taken:
            return None
        # the previous run removed the file after this run opened it and before this run locked it: open a new file


def _lock(descriptor: int) -> bool:
    """Lock an open file, and return whether that succeeded. On a file system without locks it always succeeds."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # raised by POSIX and Windows for a locked file
        return False
    except OSError:
        pass
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the open file is the file at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# --- files that belong together -------------------------------------------------------------------------------------


def write_atomically(files: Mapping[Path, Write], outdated: Collection[Path] = ()) -> None:
    """Replace the files of one folder, so that old and new files never exist side by side.

    The first file is replaced in one step. The other files, and those of `outdated`, are removed before this step, and
    the new files are renamed after it. So after a kill or a power loss the first file is complete, old or new, and the
    other files that exist belong to it.

    Raises:
        OSError: a file cannot be written. If this happens while the new files are filled, nothing has changed.
    """
    first, *others = files
    try:
        for path, write in files.items():
            with _partial(path).open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for path in (*others, *outdated):
            path.unlink(missing_ok=True)
        _sync(first.parent)
        _partial(first).replace(first)
        _sync(first.parent)
        for path in others:
            _partial(path).replace(path)
        _sync(first.parent)
    finally:
        for path in files:
            _partial(path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    """Return the path at which the new file for `path` is filled."""
    return path.with_name(f".{path.name}.partial")


def _sync(folder: Path) -> None:
    """Write the names of a folder to the disk before any later change to them."""
    with contextlib.suppress(OSError):  # Windows cannot open a folder, and some network file systems cannot sync one
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
