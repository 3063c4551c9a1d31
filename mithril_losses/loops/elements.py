"""Element-wise terms compiled into one loop: each input read once, each output written once, the rest in registers.

From the source of terms `(xp, *arrays, *options) → (value, slopes)` a small module is written, with the constants in
the dtype of the arrays and with the scalar functions in place of the array namespace, and numba compiles it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MappingProxyType
from typing import Any, Literal

import numpy as np

from mithril_losses.backends.threads import share
from mithril_losses.loops.compiling import CompiledOnce, NotFusable, require_few_definitions, types_of
from mithril_losses.terms.fission import stages_of

CHUNK = 8192  # elements: in the first-level cache
STRIP = 1024  # elements: few enough for a float32 sum of equal terms to keep its digits; all other sums are float64
_KEPT = 2048  # numbers that are kept between two stages: few enough to stay in that cache beside the arrays
_GROUP = 64  # chunks that a thread takes at a time
_SHARED_FROM = 1 << 18  # elements from which a second thread gains more than waking it costs

Kind = Literal["scalar", "full", "periodic"]
_FLAGS = {"True": True, "False": False}


@dataclass(frozen=True)
class Operand:
    """A number, an array with one entry per element, or a flat one of which element i has entry (i // inner) % size."""

    values: Any
    inner: int = 1
    kind: Kind = "scalar"

    @staticmethod
    def of(x: Any, shape: tuple[int, ...], dtype: Any) -> Operand:
        """Return the operand for a number, or for an array that broadcasts to `shape`."""
        if not isinstance(x, np.ndarray) or x.size == 1:
            return Operand(np.dtype(dtype).type(x if not isinstance(x, np.ndarray) else x.reshape(())))
        if x.shape == shape and x.flags.c_contiguous:
            return Operand(x.reshape(-1), 1, "full")
        padded = (1,) * (len(shape) - x.ndim) + x.shape
        varying = [axis for axis, n in enumerate(padded) if n > 1]
        low, high = varying[0], varying[-1] + 1
        entries = np.ascontiguousarray(
            np.broadcast_to(
                x.reshape(padded)[(slice(None),) * len(shape)],
                tuple(shape[a] if low <= a < high else padded[a] for a in range(len(shape))),
            ),
            dtype=dtype,
        )
        return Operand(entries.reshape(-1), int(np.prod(shape[high:], dtype=np.int64)), "periodic")


def run(
    terms: Callable[..., Any],
    arrays: list[np.ndarray[Any, Any]],
    legal: list[tuple[float, ...] | None],
    options: list[Any],
    weights: np.ndarray[Any, Any] | None,
    factor: Any,
    *,
    values: np.ndarray[Any, Any] | None,
    gradients: list[np.ndarray[Any, Any]],
    threads: int,
    bounded: tuple[bool, bool] = (False, False),
) -> tuple[float, bool]:
    """Fill `gradients` with slope · weight · factor, and return Σ weight · value and whether all labels were legal.

    Args:
        terms: the terms, which must not have been seen to be unfusable.
        arrays: C-contiguous, of one shape; the gradients are taken wrt the first ones.
        legal: for each array the labels that are legal, None where every value is.
        options: numbers, arrays that broadcast to the arrays' shape, or booleans: a loop is compiled for each.
        weights: broadcast to that shape.
        factor: a number, or an array that broadcasts to that shape.
        values: where to write weight · value, if at all.
        gradients: where to write the gradients: C-contiguous, in the dtype to compute in.
        threads: how many threads share the work.
        bounded: whether the slopes and the gradients are bounded by the largest finite number.

    Raises:
        NotFusable: the terms cannot be compiled.
    """
    shape, dtype, size = gradients[0].shape, gradients[0].dtype, gradients[0].size
    given = [*options, factor, *(() if weights is None else (weights,))]
    operands = [Operand.of(x, shape, dtype) for x in given if not isinstance(x, bool)]
    of_operands = (o.kind for o in operands)
    kinds = tuple(str(x) if isinstance(x, bool) else next(of_operands) for x in given)
    key = (tuple(legal), kinds, len(gradients), weights is not None, values is not None, dtype.type.__name__, bounded)
    chunks = -(-size // CHUNK)
    groups = -(-chunks // _GROUP)
    partials = np.zeros(chunks, dtype=np.float64)
    illegal = np.zeros(chunks)
    fixed = (
        size,
        *(x.reshape(-1) for x in arrays),
        *(o.values for o in operands),
        *(o.inner for o in operands if o.kind == "periodic"),
        *(x.reshape(-1) for x in gradients),
        *(() if values is None else (values.reshape(-1),)),
        partials,
        illegal,
    )
    given_arrays = types_of(*arrays, *(o.values for o in operands if o.kind != "scalar"))
    kernel = _kernels(terms, key, given_arrays, lambda kernel: kernel(0, 0, *fixed))
    share(
        groups,
        lambda group: kernel(group * _GROUP, min((group + 1) * _GROUP, chunks), *fixed),
        threads if size >= _SHARED_FROM else 1,
    )
    # one chunk after the other, whichever thread did it: the sum does not depend on the thread count
    return float(np.add.reduce(partials)), not illegal.any()


# --- writing and compiling the module -------------------------------------------------------------------------------


def _source(
    terms: Callable[..., Any],
    legal: tuple[tuple[float, ...] | None, ...],
    kinds: tuple[str, ...],
    slopes: int,
    weighted: bool,
    keeps_values: bool,
    dtype: str,
    bounded: tuple[bool, bool] = (False, False),
) -> str:
    """Return the module that computes these terms; `kinds` has the kind of each operand, or a flag itself."""
    arrays = [f"a{i}" for i in range(len(legal))]
    flags = {len(arrays) + i: _FLAGS[kind] for i, kind in enumerate(kinds) if kind in _FLAGS}
    kinds = tuple(kind for kind in kinds if kind not in _FLAGS)
    options = [f"o{i}" for i in range(len(kinds) - 1 - weighted)]
    operands = [*options, "factor", *(["weight"] if weighted else [])]
    kind = dict(zip(operands, kinds, strict=True))
    periodic = [name for name in operands if kind[name] == "periodic"]
    gradients = [f"gradient{i}" for i in range(slopes)]
    outputs = [*gradients, *(["values"] if keeps_values else [])]

    def sliced(name: str) -> str:
        if name in periodic:
            return f"{name}_buffer[: stop - start]"
        return name if kind.get(name) == "scalar" else f"{name}[start:stop]"

    def element(name: str) -> str:
        return name if kind.get(name) == "scalar" else f"{name}[i]"

    helpers, definition = _scalar(terms, "terms", flags)
    # a vector of sums keeps the digits of a strip; a loop that calls into the C library has one sum alone
    sources = [ast.unparse(definition), *helpers.values()]
    zero = "0.0" if any(f"xp.{name}(" in source for name in (*_NATIVE, "atan2") for source in sources) else "T(0)"
    stages = stages_of(definition, _expensive(helpers))
    arguments = [*(f"T({name}[i])" for name in arrays), *map(element, options)]
    elements = dict(zip((argument.arg for argument in definition.args.args), arguments, strict=True))
    between = [name for stage in stages for name in stage.outputs]
    elements |= {name: f"kept[{k} * STRIP + i]" for k, name in enumerate(between)}
    calls = [f"terms_{k}({', '.join(elements[name] for name in stage.inputs)})" for k, stage in enumerate(stages)]
    loops = []
    for stage, call in zip(stages[:-1], calls[:-1], strict=True):
        kept = ", ".join(elements[name] for name in stage.outputs)
        loops += ["    for i in range(gradient0.size):", f"        {kept} = {call}"]
    loops.append("    for i in range(gradient0.size):")
    for name, labels in zip(arrays, legal, strict=True):
        if labels is not None:
            tests = " | ".join(f"(T({name}[i]) == T({label!r}))" for label in labels)
            loops += [f"        illegal += T(0) if {tests} else T(1)"]  # of the arrays' width, so that it vectorises
    of_slope, of_gradient = ("xp.minimum(xp.maximum({}, -LARGEST), LARGEST)" if yes else "{}" for yes in bounded)
    found = ", ".join(f"slope{i}" for i in range(slopes))
    loops += [f"        value, {found if slopes == 1 else f'({found})'} = {calls[-1]}"]
    loops += [f"        w = {element('weight')}", "        value = T(0) if w == T(0) else value * w"] * weighted
    for i in range(slopes):
        scaled = f"{of_slope.format(f'slope{i}')} * {element('factor')}"
        scaled = f"T(0) if w == T(0) else {scaled} * w" if weighted else scaled
        loops += [f"        gradient{i}[i] = {of_gradient.format(scaled)}"]
    loops += ["        values[i] = value"] * keeps_values
    names = ", ".join([*arrays, *operands])
    lines = [
        "import numpy as np",
        "from numba import njit",
        "",
        "from mithril_losses.loops.compiling import kept",
        f"from mithril_losses.loops.scalar import {dtype} as xp",
        "",
        f"T = np.{dtype}",
        "LARGEST = np.finfo(T).max",
        f"CHUNK = {CHUNK}",
        f"STRIP = {min(STRIP, 1 << (_KEPT // max(len(between), 1)).bit_length() - 1)}",
        "# infinities and NaNs keep their meaning; only the sums may be taken in another order",
        "EXACT = {'contract', 'nsz', 'arcp'}",
        "FAST = EXACT | {'reassoc'}",
        "",
        *(f"{_COMPILED}\n{source}\n" for source in [*helpers.values(), *(stage.source for stage in stages)]),
        "@njit(nogil=True, error_model='numpy', fastmath=FAST)",
        "def fill(buffer, entries, inner, start, stop):",
        "    entry, left = (start // inner) % entries.size, inner - start % inner",
        "    i = 0",
        "    while i < stop - start:",
        "        end = min(i + left, stop - start)",
        "        buffer[i:end] = entries[entry]",
        "        i, left, entry = end, inner, (entry + 1) % entries.size",
        "",
        "@njit(nogil=True, error_model='numpy', fastmath=FAST)",
        f"def strip_of({names}, {', '.join(outputs)}, kept):",
        f"    total, illegal = {zero}, T(0)",
        *loops,
        "        total += value",
        "    return total, illegal",
        "",
        "@kept",
        "@njit(nogil=True, error_model='numpy', fastmath=FAST)",
        f"def kernel(first, last, size, {names}, {''.join(f'{n}_inner, ' for n in periodic)}{', '.join(outputs)}, "
        "partials, illegal):",
        f"    kept = np.empty({len(between)} * STRIP, T)",
        *(f"    {name}_buffer = np.empty(STRIP, T)" for name in periodic),
        "    for chunk in range(first, last):",
        "        total, wrong = 0.0, T(0)",
        "        for start in range(chunk * CHUNK, min((chunk + 1) * CHUNK, size), STRIP):",
        "            stop = min(start + STRIP, size)",
        *(f"            fill({name}_buffer, {name}, {name}_inner, start, stop)" for name in periodic),
        f"            found = strip_of({', '.join(map(sliced, [*arrays, *operands, *outputs]))}, kept)",
        "            total, wrong = total + found[0], wrong + found[1]",
        "        partials[chunk], illegal[chunk] = total, wrong",
        "",
    ]
    return "\n".join(lines)


_kernels = CompiledOnce(_source)


def scalar_source(terms: Callable[..., Any], flags: Mapping[int, bool] = MappingProxyType({})) -> str:
    """Return the terms, named `terms`, after the functions that they call: compiled functions of scalars of type T.

    Branches on flags, which are arguments by their position after the namespace, are taken here and now.
    """
    helpers, definition = _scalar(terms, "terms", flags)
    return "\n\n".join(f"{_COMPILED}\n{source}" for source in (*helpers.values(), ast.unparse(definition)))


def _scalar(
    function: Callable[..., Any], name: str, flags: Mapping[int, bool] = MappingProxyType({})
) -> tuple[dict[str, str], ast.FunctionDef]:
    """Return a function by the name it is to have, and the sources of those that it calls by theirs, lowest first.

    Branches on flags, which are arguments by their position after the namespace, are taken here and now.
    """
    from mithril_losses.loops.scalar import float32

    try:
        source = textwrap.dedent(inspect.getsource(function))
        (definition,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError) as error:
        raise NotFusable(f"the source of {function.__name__} is out of reach") from error
    if not isinstance(definition, ast.FunctionDef) or function.__closure__ or not definition.args.args:
        raise NotFusable(f"{function.__name__} is no plain function")
    require_few_definitions(function, source)
    namespace, *arguments = definition.args.args
    definition.name, definition.decorator_list, definition.returns = name, [], None
    _Settled({arguments[i].arg: flag for i, flag in flags.items()}).visit(definition)
    definition.args.args = arguments = [argument for i, argument in enumerate(arguments) if i not in flags]
    for argument in arguments:
        argument.annotation = None
    if isinstance(definition.body[0], ast.Expr) and isinstance(definition.body[0].value, ast.Constant):
        definition.body = definition.body[1:]  # the docstring
    names = [node for node in ast.walk(definition) if isinstance(node, ast.Name)]
    bound = {argument.arg for argument in arguments} | {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in ast.walk(definition):
        match node:
            case ast.Attribute(value=ast.Name(id=namespace.arg), attr=word) if word not in float32.__all__:
                raise NotFusable(f"{function.__name__} uses {word}, which is not in the vocabulary of terms")
    called: dict[str, Callable[..., Any]] = {}
    for node in names:
        if node.id not in bound and node.id not in (namespace.arg, *_NATIVE):
            known = function.__globals__.get(node.id)
            if not isinstance(known, FunctionType):
                raise NotFusable(f"{function.__name__} uses {node.id!r}, which is not in the vocabulary of terms")
            called[node.id] = known
    renamed = {known: f"xp.{known}" for known in _NATIVE} | {known: f"{name}_{known}" for known in called}
    _Scalar(namespace.arg, renamed).visit(definition)
    helpers: dict[str, str] = {}
    for known, other in called.items():
        below, helper = _scalar(other, f"{name}_{known}")
        helpers |= below | {helper.name: ast.unparse(helper)}
    return helpers, ast.fix_missing_locations(definition)


def _expensive(helpers: dict[str, str]) -> frozenset[str]:
    """Return the names of functions that take as long as a dozen of operations, as terms call them."""
    found = [f"xp.{name}" for name in ("exp", "expm1", "log", "log1p", "tanh")]
    for name, source in helpers.items():
        if any(f"{other}(" in source for other in found):
            found.append(name)
    return frozenset(found)


_NATIVE = ("log_gamma",)  # functions that each array library has elsewhere, and the scalar namespaces among their own
_COMPILED = "@njit(forceinline=True, error_model='numpy', fastmath=EXACT)"


class _Settled(ast.NodeTransformer):
    """Put the branch that a flag chooses in place of the choice, and the flag itself wherever it is handed on."""

    def __init__(self, flags: Mapping[str, bool]) -> None:
        self._flags = flags

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        match node.test:
            case ast.Name(id=name) if name in self._flags:
                return node.body if self._flags[name] else node.orelse
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(self._flags[node.id]) if node.id in self._flags else node


class _Scalar(ast.NodeTransformer):
    """Give numbers the type of the arrays, and functions that are handed the namespace new names without it.

    Integer exponents stay integers, because x² is a product; and so do places in tuples.
    """

    def __init__(self, namespace: str, called: dict[str, str]) -> None:
        self._namespace = namespace
        self._called = called

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name("xp", node.ctx) if node.id == self._namespace else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in self._called:
            if not node.args or not isinstance(node.args[0], ast.Name) or node.args[0].id != self._namespace:
                raise NotFusable(f"{node.func.id} is not handed the array namespace first")
            node.func, node.args = ast.Name(self._called[node.func.id], ast.Load()), node.args[1:]
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        node.left = self.visit(node.left)
        if not (isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant)):
            node.right = self.visit(node.right)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        node.value = self.visit(node.value)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return ast.Call(ast.Name("T", ast.Load()), [node], [])
        return node
