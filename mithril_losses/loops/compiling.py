"""Loops written as text and compiled by numba: once for a process, and once for all processes where they can be kept.

A text is executed as it was generated and never read from a file. Its functions marked `@kept` find their machine code
in the `kernel_cache`: one file holds one function for one signature, so that processes that compile at the same time
write the same under one name.
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

DEFINITIONS = 8  # of one function that are compiled: numba never gives back the memory of a loop, some 4 MB

# what loops are compiled for: no foreign byte order, nothing wider or narrower
COMPILED = frozenset(map(np.dtype, ("float32", "float64", "bool", *"bhilqBHILQ")))

_NUMBA = (0, 62)  # the first with a compiler that has the operations of the scalar functions


class NotFusable(Exception):  # noqa: N818  (an answer, not a failure)
    """These terms cannot be compiled: they are not in the language of terms, or numba refuses them."""


@functools.cache
def has_numba() -> bool:
    """Whether there is a numba that can compile the loops; older ones would end the process."""
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
    """Return the text of a module of `loops/kernels`, which is written for float32, for the dtype of this name.

    Example:
        >>> "T = np.float64" in kernel_text("stencil", "float64")
        True
    """
    from importlib.resources import files  # here, as few processes compile anything

    text = files(__package__).joinpath("kernels", f"{name}.py").read_text(encoding="utf-8")
    return text.replace("float32", dtype)


def filled(text: str, hole: str, filling: str) -> str:
    """Return the text of a module with another text in place of its function of a name.

    Example:
        >>> filled("T = float\\n\\ndef terms(x):\\n    return x\\n", "terms", "terms = abs")
        'T = float\\n\\nterms = abs\\n'
    """
    (function,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == hole)
    lines = text.splitlines()
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return "\n".join([*lines[: first - 1], filling, *lines[function.end_lineno :], ""])


class CompiledOnce:
    """Functions compiled for an owner, a key and types of arrays: made once, and forgotten together with the owner.

    Args:
        source: `source(owner, *key)` returns the text of a module.
    """

    def __init__(self, source: Callable[..., str]) -> None:
        self._source = source
        self._found: WeakKeyDictionary[Callable[..., Any], dict[Hashable, Any]] = WeakKeyDictionary()
        self._texts: dict[Hashable, set[int]] = {}  # of functions of a name: each may be another definition

    def __call__(
        self, owner: Callable[..., Any], key: tuple[Hashable, ...], types: Types, first: First, entry: str = "kernel"
    ) -> Any:
        """Return the module's function `entry`, compiled for arrays of these types by `first(function)`.

        Raises:
            NotFusable: it cannot be compiled.
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
        """Return the function, or the reason why there is none."""
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
    """Return what numba compiles anew for, beside the number of axes, in arrays of C order."""
    return tuple([(x.dtype, x.flags.aligned, x.flags.writeable) for x in arrays])


# --- machine code that is kept --------------------------------------------------------------------------------------


def kept(function: Any) -> Any:
    """Mark a compiled function, so that its machine code is kept for the next process."""
    function._cache = _kept_code()(function.py_func)
    return function


@functools.cache
def _kept_code() -> Any:
    """Return the class that numba asks for machine code of a function: one entry of the cache per signature."""
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
            except Exception:  # whatever it was, it can be compiled
                return None

        def save_overload(self, sig: Any, data: Any) -> None:
            with contextlib.suppress(Exception):  # what cannot be kept is compiled again
                users_cache().write(self._name(sig, data.codegen), serialize.dumps(data._reduce()))

        def enable(self) -> None: ...

        def disable(self) -> None: ...

        def flush(self) -> None: ...

    return KeptCode


@functools.cache
def _dependencies() -> str:
    """Return what machine code depends on beside its text: the scalar functions, and the versions below them."""
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
    """Return what `work` returns. No Ctrl-C reaches it: one that is pressed meanwhile leaves it to go on.

    Half an import of numba, which imports more of itself when it compiles, would never be completed by Python. Signals
    are the main thread's, so the work is another's.
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
