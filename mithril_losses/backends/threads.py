"""A pool of threads that share a range of work; the calling thread works, too."""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import count
from numbers import Integral
from typing import Any

VARIABLE = "MITHRIL_LOSSES_THREADS"

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_inside = threading.local()


def thread_count(threads: int | None = None) -> int:
    """Return how many threads to use: the argument, what is `asked` for, the variable, or the cores of this process.

    Raises:
        ValueError: the argument or the variable is not a positive integer.
    """
    source: str = "threads"
    given: Any = getattr(_inside, "asked", None) if threads is None else threads
    if given is None:
        source, given = VARIABLE, os.environ.get(VARIABLE, "")
        if not given:
            return _cores()
        number = int(given) if re.fullmatch("[0-9]{1,9}", given) else 0  # `isdecimal` and `int` take other digits, too
    else:
        number = 0 if isinstance(given, bool) or not isinstance(given, Integral) else int(given)
    if number < 1:
        raise ValueError(f"{source} must be a positive integer, got {given!r}")
    return number


@contextlib.contextmanager
def asked(threads: int | None) -> Iterator[None]:
    """Have `thread_count()` return a number in this thread, unless it is None, for the time of a `with` block.

    Example:
        >>> with asked(3):
        ...     thread_count()
        3
    """
    before, _inside.asked = getattr(_inside, "asked", None), threads
    try:
        yield
    finally:
        _inside.asked = before


def share(parts: int, work: Callable[[int], None], threads: int) -> None:
    """Call `work(part)` for every part from 0 on, on the calling thread and up to `threads` − 1 other threads.

    Any thread may do any part. When all threads have stopped, the first exception is raised in the caller; the pool
    remains usable. A call from inside `work` uses its own thread only. So does a call while no thread can be started:
    at the end of the interpreter, or at a limit of the system.
    """
    helpers = 0 if getattr(_inside, "active", False) else min(threads, parts) - 1
    if helpers < 1:
        for part in range(parts):
            work(part)
        return
    tickets = count()
    failed = threading.Event()

    def run() -> None:
        _inside.active = True
        try:
            while not failed.is_set() and (part := next(tickets)) < parts:
                work(part)
        except BaseException:
            failed.set()
            raise
        finally:
            _inside.active = False

    futures = _submit(run, helpers)
    try:
        run()
    finally:
        errors = [_error_of(future) for future in futures]
    for error in errors:
        if error is not None:
            raise error


def _cores() -> int:
    affinity: Any = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _submit(run: Callable[[], None], helpers: int) -> list[Future[None]]:
    futures: list[Future[None]] = []
    pool = _executor()
    try:
        for _ in range(helpers):
            futures.append(pool.submit(contextvars.copy_context().run, run))  # the caller's context variables
    except RuntimeError:
        # tasks that could not start stay in the queue of the pool and keep the caller's arrays alive: discard the pool
        _forget(pool)
        pool.shutdown(wait=False, cancel_futures=True)
    return futures


def _error_of(future: Future[None]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError:  # it never started; the calling thread has done its work
        return None


def _forget(pool: ThreadPoolExecutor) -> None:
    global _pool
    with _lock:
        if _pool is pool:
            _pool = None


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            # idle threads cost nothing, and the interpreter joins them when it exits
            _pool = ThreadPoolExecutor(max_workers=max(32, _cores()), thread_name_prefix="mithril_losses")
        return _pool


def forget_pool() -> None:
    """Forget the pool in a forked child, where the parent's threads do not exist."""
    global _pool, _lock, _inside
    _pool, _lock, _inside = None, threading.Lock(), threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_pool)
