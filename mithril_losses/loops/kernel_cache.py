"""A private folder of machine code, so that the next process need not compile it again; entries are verified when read.

Machine code must be trusted like any program. So an entry is only used if nobody but the user can have written it, and
if no bit has changed since. Any other entry is ignored, and the caller compiles. If an entry cannot be written, nothing
is kept. No state of the folder leads to an exception.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import stat
import tempfile
import time
from pathlib import Path

VARIABLE = "MITHRIL_LOSSES_CACHE"

_SUFFIX = ".code"
_PARTIAL = ".partial"
_LEFT_OVER = 3600.0  # seconds after which no process is still writing a partial file
_DIGEST = hashlib.sha256().digest_size
_log = logging.getLogger("mithril_losses")


class KernelCache:
    """Entries by name in the user's folder below `base`, which other users may share; without a base, no entries.

    Args:
        base: the folder in which each user has a subfolder.
        entries: how many entries are kept, of about 70 kB each: the most recently used ones.
    """

    def __init__(self, base: Path | None, entries: int = 1000) -> None:
        self._base = base
        self._entries = entries
        self._has_warned = False

    @property
    def folder(self) -> Path | None:
        """The folder of the user's entries, if there is a base."""
        user = f"user-{os.geteuid()}" if hasattr(os, "geteuid") else "user"
        return None if self._base is None else self._base / user

    def read(self, name: str) -> bytes | None:
        """Return what was written under this name, or None if there is nothing, or nothing that can be trusted."""
        folder = self.folder
        if folder is None or not self._is_trusted(folder):
            return None
        path = folder / f"{name}{_SUFFIX}"
        try:
            with open(path, "rb") as file:
                if not _is_private(os.fstat(file.fileno())):
                    return None
                content = file.read()
            os.utime(path)  # marks the entry as used last
        except OSError:
            return None
        digest, payload = content[:_DIGEST], content[_DIGEST:]
        return payload if digest == _digest(name, payload) else None

    def write(self, name: str, payload: bytes) -> None:
        """Keep the payload under this name, if possible. A reader sees all of it or nothing."""
        folder = self.folder
        if folder is None:
            return
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if self._is_trusted(folder):
                _write(folder / f"{name}{_SUFFIX}", _digest(name, payload) + payload)
                self._forget_the_oldest(folder)
        except OSError as error:
            _log.info("compiled loops are not kept: %s", error)

    def _is_trusted(self, folder: Path) -> bool:
        try:
            found = os.lstat(folder)
        except OSError:
            return False
        if stat.S_ISDIR(found.st_mode) and _is_private(found):
            return True
        if not self._has_warned:
            self._has_warned = True
            _warn_of(folder)
        return False

    def _forget_the_oldest(self, folder: Path) -> None:
        entries, now = [], time.time()
        for file in os.scandir(folder):
            with contextlib.suppress(OSError):  # another process may have removed it
                used = file.stat(follow_symlinks=False).st_mtime
                if file.name.endswith(_SUFFIX):
                    entries.append((used, file.path))
                elif file.name.endswith(_PARTIAL) and now - used > _LEFT_OVER:  # left by a killed process
                    os.unlink(file.path)
        for _, path in sorted(entries)[: max(len(entries) - self._entries, 0)]:
            with contextlib.suppress(OSError):
                os.unlink(path)


@functools.cache
def users_cache() -> KernelCache:
    """Return the cache in the folder that MITHRIL_LOSSES_CACHE names, or else in the user's folder for caches.

    The folder is determined once per process. A home folder that belongs to somebody else, as `sudo` may leave it, is
    not used.
    """
    try:
        if given := os.environ.get(VARIABLE):
            return KernelCache(Path(given).expanduser().absolute())
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
        nearest = next(path for path in (home, *home.parents) if path.exists())
        if not hasattr(os, "geteuid") or nearest.stat().st_uid in (0, os.geteuid()):
            return KernelCache(home / "mithril_losses")
        _warn_of(nearest)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        _log.info("compiled loops are not kept: %s", error)
    return KernelCache(None)


def _digest(name: str, payload: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + payload).digest()


def _write(path: Path, content: bytes) -> None:
    partial = tempfile.NamedTemporaryFile(dir=path.parent, suffix=_PARTIAL, delete=False)  # noqa: SIM115  # see below
    try:
        with partial:
            partial.write(content)
            partial.flush()
            os.fsync(partial.fileno())
        os.replace(partial.name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial.name)
        raise


def _is_private(found: os.stat_result) -> bool:
    """Whether the file or folder belongs to the user and nobody else may write to it, as far as the system says."""
    if not hasattr(os, "geteuid"):
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _warn_of(folder: Path) -> None:
    _log.warning(
        "%s belongs to somebody else, or others may write to it: compiled loops are neither read from there nor kept. "
        "%s may name another folder",
        folder,
        VARIABLE,
    )
