"""Loops written as text and compiled by numba: once per process, and once for all processes if they can be kept.

A text is executed as it was generated and never read from a file. Functions with the mark `@kept` find their machine
code in the `kernel_cache`: each file has one function for one signature, so if processes compile at the same time, they
write the same content under one name.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from importlib.util import find_spec
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mithril_losses.terms.reading import UnreadableTerms

Types = tuple[tuple[Any, bool, bool], ...]
First = Callable[[Any], object]

DEFINITIONS = 8  # how many definitions of one function are compiled: numba never frees the memory of a loop, about 4 MB

# the types that loops are compiled for: in native byte order, no wider or narrower ones
COMPILED = frozenset(map(np.dtype, ("float32", "float64", "bool", *"bhilqBHILQ")))

_NUMBA = (0, 62)  # the first version whose compiler has the operations of the scalar functions


class NotFusable(Exception):  # noqa: N818  (an answer, not a failure)
    """These terms cannot be compiled: they are not in the language of terms, or numba rejects them."""


@functools.cache
def has_numba() -> bool:
    """Whether a numba is installed that can compile the loops; older versions would crash the process."""
    if find_spec("numba") is None:
        return False
    with _compiling:  # a fork waits: in a child, a module that another thread was importing would stay locked
        from importlib.metadata import PackageNotFoundError, version  # here, as it would double the time to import this

        try:
            major, minor = version("numba").split(".")[:2]
        except PackageNotFoundError:  # a copy without its metadata
            return True
    return (int(major), int(minor)) >= _NUMBA


def _digest(text: str) -> str:
    with _compiling:
        import hashlib  # here and not above, because it loads OpenSSL
    return hashlib.sha256(text.encode()).hexdigest()


def load_module(text: str) -> ModuleType:
    """Return the module that a text defines, the same one for the same text; its functions compile when called."""
    import linecache

    name = f"mithril_losses_{_digest(text + _dependencies())[:32]}"
    with _compiling:
        if name not in sys.modules:
            file = f"<{name}>"
            module = ModuleType(name)
            linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # for tracebacks
            sys.modules[name] = module  # where numba looks for it
            exec(compile(text, file, "exec"), module.__dict__)
        return sys.modules[name]


def kernel_text(name: str, dtype: str) -> str:
    """Return the text of a module of `loops/kernels`, which is written for float32, for another dtype.

    Example:
        >>> "T = np.float64" in kernel_text("stencil", "float64")
        True
    """
    from importlib.resources import files  # imported here, because few processes compile anything

    text = files(__package__).joinpath("kernels", f"{name}.py").read_text(encoding="utf-8")
    return text.replace("float32", dtype)


def filled(text: str, hole: str, filling: str) -> str:
    """Return the text of a module with the function of this name replaced by another text.

    Example:
        >>> filled("T = float\\n\\ndef terms(x):\\n    return x\\n", "terms", "terms = abs")
        'T = float\\n\\nterms = abs\\n'
    """
    (function,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == hole)
    lines = text.splitlines()
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return "\n".join([*lines[: first - 1], filling, *lines[function.end_lineno :], ""])


class CompiledOnce:
    """Functions compiled for an owner, a key and types of arrays: compiled once, and dropped together with the owner.

    Args:
        source: `source(owner, *key)` returns the text of a module.
    """

    def __init__(self, source: Callable[..., str]) -> None:
        self._source = source
        self._found: WeakKeyDictionary[Callable[..., Any], dict[Hashable, Any]] = WeakKeyDictionary()
        self._texts: dict[Hashable, set[int]] = {}  # of functions with the same name

    def __call__(
        self, owner: Callable[..., Any], key: tuple[Hashable, ...], types: Types, first: First, entry: str = "kernel"
    ) -> Any:
        """Return the module's function `entry`, compiled for arrays of these types by `first(function)`.

        Raises:
            NotFusable: the function cannot be compiled.
        """
        try:
            found = self._found[owner][key, types, entry]
        except KeyError:
            found = _uninterrupted(lambda: self._make(owner, key, types, first, entry))
        if isinstance(found, str):
            raise NotFusable(found)
        return found

    def _make(self, owner: Callable[..., Any], key: Any, types: Types, first: First, entry: str) -> Any:
        with _compiling:
            of_owner = self._found.setdefault(owner, {})
            if (key, types, entry) not in of_owner:
                of_owner[key, types, entry] = self._compiled(owner, key, first, entry)
            return of_owner[key, types, entry]

    def _compiled(self, owner: Callable[..., Any], key: Any, first: First, entry: str) -> Any:
        """Return the compiled function, or the reason why there is none."""
        from numba.core.errors import NumbaError

        try:
            text = self._source(owner, *key)
            texts = self._texts.setdefault((owner.__module__, owner.__qualname__, key), set())
            texts.add(hash(text))
            if len(texts) > DEFINITIONS:
                return f"{owner.__qualname__} was redefined more than {DEFINITIONS} times"
            function = getattr(load_module(text), entry)
            first(function)
        except UnreadableTerms as error:
            return str(error)
        except NumbaError as error:
            return f"{owner.__name__} cannot be compiled: {error}"
        return function


def types_of(*arrays: np.ndarray[Any, Any]) -> Types:
    """Return the properties of C-ordered arrays for which numba compiles a new version, except the number of axes."""
    return tuple([(x.dtype, x.flags.aligned, x.flags.writeable) for x in arrays])


# --- machine code that is kept --------------------------------------------------------------------------------------


def kept(function: Any) -> Any:
    """Mark a compiled function, so that its machine code is kept for the next process."""
    function._cache = _kept_code()(function.py_func)
    return function


@functools.cache
def _kept_code() -> Any:
    """Return the class from which numba gets the machine code of a function: one cache entry per signature."""
    import pickle

    from numba.core import caching, compiler, serialize

    from mithril_losses.loops.kernel_cache import users_cache

    class KeptCode(caching._Cache):  # type: ignore[misc]  # numba is not typed
        def __init__(self, function: FunctionType) -> None:
            self._function = f"{function.__module__}.{function.__qualname__}"

        cache_path = None

        def _name(self, signature: Any, codegen: Any) -> str:
            # numba's types tell dtype, order, alignment and writeability of an array
            return _digest(f"{self._function} {signature} {codegen.magic_tuple()}")

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            target_context.refresh()
            payload = users_cache().read(self._name(sig, target_context.codegen()))
            if payload is None:
                return None
            try:
                return compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
            except Exception:  # after any error, the function is compiled
                return None

        def save_overload(self, sig: Any, data: Any) -> None:
            with contextlib.suppress(Exception):  # if the code cannot be kept, it is compiled again later
                users_cache().write(self._name(sig, data.codegen), serialize.dumps(data._reduce()))

        def enable(self) -> None: ...

        def disable(self) -> None: ...

        def flush(self) -> None: ...

    return KeptCode


@functools.cache
def _dependencies() -> str:
    """Return what machine code depends on in addition to its text: the scalar functions, and versions of libraries."""
    import llvmlite
    import numba

    from mithril_losses.loops.scalar import common as _common
    from mithril_losses.loops.scalar import compile as _compile
    from mithril_losses.loops.scalar import float32, float64
    from mithril_losses.loops.scalar import prefetch as _prefetch

    sources = map(inspect.getsource, (_common, _compile, _prefetch, float32, float64))
    return "\n".join([sys.version, numba.__version__, llvmlite.__version__, np.__version__, *sources])


# --- one thread compiles at a time, and a fork waits for it ---------------------------------------------------------

_compiling = threading.RLock()


def _uninterrupted(work: Callable[[], Any]) -> Any:
    """Return the result of `work`. Ctrl-C does not interrupt the work, which continues in the background.

    numba imports more of itself when it compiles, and Python would never complete an interrupted import. Signals go to
    the main thread, so the work runs in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    try:
        threading.Thread(target=run, name="mithril_losses_compiler").start()
    except RuntimeError:  # no thread can be started
        return work()
    return done.result()


_held: list[Any] = []


def _before_fork() -> None:
    module = sys.modules.get("numba.core.compiler_lock")
    for lock in (_compiling, getattr(module, "global_compiler_lock", None)):
        if lock is not None:
            lock.acquire()
            _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
