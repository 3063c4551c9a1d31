"""Element-wise terms compiled into one loop: each input read once, each output written once, the rest in registers.

`printing` prints the terms; this module writes a small module around them, which numba compiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any, Literal, NamedTuple

import numpy as np

from mithril_losses.loops.chunks import CHUNK, Chunks
from mithril_losses.loops.compiling import CompiledOnce, types_of
from mithril_losses.loops.printing import staged_source
from mithril_losses.terms.fission import Stage
from mithril_losses.terms.second_order import terms_of

STRIP = 1024  # elements: few enough for a float32 sum of equal terms to keep its digits; all other sums are float64
_KEPT = 2048  # numbers that are kept between two stages: few enough to stay in the first-level cache with the arrays

Kind = Literal["scalar", "full", "periodic"]


class Between(NamedTuple):
    """The numbers from `low` to `high`, and NaN."""

    low: float
    high: float


class Rows(NamedTuple):
    """Rows along the last axis of numbers from `low` to `high`, whose sum differs from 1 by no more than `near`."""

    low: float
    high: float
    near: float


Legal = tuple[float, ...] | Between | Rows | None  # labels, an interval, rows of probabilities, or any number

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
    legal: list[Legal],
    options: list[Any],
    weights: np.ndarray[Any, Any] | None,
    factor: Any,
    *,
    values: np.ndarray[Any, Any] | None,
    gradients: list[np.ndarray[Any, Any]],
    threads: int,
    group: int,
    bounded: tuple[bool, bool] = (False, False),
) -> tuple[float, bool]:
    """Fill `gradients` with slope · weight · factor, and return Σ weight · value and whether all elements were legal.

    Args:
        terms: `(xp, *arrays, *options) → (value, slopes)`.
        arrays: C-contiguous, of one shape; the gradients are taken wrt the first of them.
        legal: for each array the legal labels or the legal interval, or None if every value is legal.
        options: numbers, arrays that broadcast to the arrays' shape, or booleans: a loop is compiled for each.
        weights: broadcast to that shape.
        factor: a number, or an array that broadcasts to that shape.
        values: where to write weight · value, if at all.
        gradients: where to write the gradients: C-contiguous, in the dtype to compute in.
        threads: how many threads share the work.
        group: how many elements a thread takes at a time.
        bounded: whether the slopes and the gradients are bounded by the largest finite number.

    Raises:
        NotFusable: the terms cannot be compiled.
    """
    like = gradients[0]
    loop = Prepared(terms, legal, options, weights, factor, like, len(gradients), values is not None, group, bounded)
    return loop.run(arrays, values, gradients, threads)


class Prepared:
    """A loop for arrays of one shape and of the same types; all that is missing are the arrays.

    Its arguments are those of `run`, with an array `like` the gradients in the place of arrays.
    """

    def __init__(
        self,
        terms: Callable[..., Any],
        legal: list[Legal],
        options: list[Any],
        weights: np.ndarray[Any, Any] | None,
        factor: Any,
        like: np.ndarray[Any, Any],
        slopes: int,
        keeps_values: bool,
        group: int,
        bounded: tuple[bool, bool],
    ) -> None:
        dtype, self._size = like.dtype, like.size
        self._width = like.shape[-1] if like.ndim else 1
        given = [*options, factor, *(() if weights is None else (weights,))]
        operands = [Operand.of(x, like.shape, dtype) for x in given if not isinstance(x, bool)]
        of_operands = (o.kind for o in operands)
        kinds = tuple(str(x) if isinstance(x, bool) else next(of_operands) for x in given)
        self._terms = terms
        self._key = (tuple(legal), kinds, slopes, weights is not None, keeps_values, dtype.type.__name__, bounded)
        self._chunks = Chunks.of(self._size, 1, group)
        self._varying = [o.values for o in operands if o.kind != "scalar"]
        inner = [o.inner for o in operands if o.kind == "periodic"]
        self._operands = (*[o.values for o in operands], *inner)
        self._kernel: Any = None

    def run(
        self,
        arrays: Sequence[np.ndarray[Any, Any]],
        values: np.ndarray[Any, Any] | None,
        gradients: Sequence[np.ndarray[Any, Any]],
        threads: int,
    ) -> tuple[float, bool]:
        """Fill the gradients, and return the sum and whether all elements were legal, as `run` of this module does."""
        partials = np.zeros((2, self._chunks.number))  # of the losses, and of the illegal elements
        fixed = (
            self._size,
            self._width,
            *[x.reshape(-1) for x in arrays],
            *self._operands,
            *[x.reshape(-1) for x in gradients],
            *(() if values is None else (values.reshape(-1),)),
            *partials,
        )
        kernel = self._kernel
        if kernel is None:
            types = types_of(*arrays, *self._varying)
            kernel = self._kernel = _kernels(self._terms, self._key, types, lambda kernel: kernel(0, 0, *fixed))
        if threads == 1:
            kernel(0, self._chunks.number, *fixed)
        else:
            self._chunks.share(lambda first, last: kernel(first, last, *fixed), threads)
        total, illegal = np.add.reduce(partials, axis=1).tolist()
        return total, not illegal


# --- writing and compiling the module -------------------------------------------------------------------------------

_MODULE = Template("""
import numpy as np
from numba import njit

from mithril_losses.loops.compiling import kept
from mithril_losses.loops.scalar import $dtype as xp

T = np.$dtype
LARGEST = np.finfo(T).max
CHUNK = $chunk
STRIP = $strip
# infinities and NaNs keep their meaning; only the sums may be taken in another order
EXACT = {'contract', 'nsz', 'arcp'}
FAST = EXACT | {'reassoc'}


$terms

@njit(nogil=True, error_model='numpy', fastmath=FAST)
def fill(buffer, entries, inner, start, stop):
    entry, left = (start // inner) % entries.size, inner - start % inner
    i = 0
    while i < stop - start:
        end = min(i + left, stop - start)
        buffer[i:end] = entries[entry]
        i, left, entry = end, inner, (entry + 1) % entries.size


@njit(nogil=True, error_model='numpy', fastmath=FAST)
def strip_of($operands, $outputs, kept):
    total, illegal = $zero, T(0)
$stages
    for i in range(gradient0.size):
$labels
        value, $slopes = $call
$weight
$gradients
$values
        total += value
    return total, illegal


@njit(nogil=True, error_model='numpy', fastmath=FAST)
def wrong_sums(x, start, stop, width, near):
    first, last = (start + width - 1) // width, (stop + width - 1) // width  # the rows that begin in this part
    rows = x[first * width : last * width].reshape(last - first, width)  # as one array, they are added in vectors
    total, wrong = T(0), T(0)
    for row in range(rows.shape[0]):
        off = T(-1)
        for i in range(rows.shape[1]):
            off += T(rows[row, i])
        total += off * off
    if not total <= near * near:  # usually no sum is farther than all together
        for row in range(rows.shape[0]):
            off = T(-1)
            for i in range(rows.shape[1]):
                off += T(rows[row, i])
            wrong += T(1) if abs(off) > near else T(0)
    return wrong


@kept
@njit(nogil=True, error_model='numpy', fastmath=FAST)
def kernel(first, last, size, width, $operands, $inner$outputs, partials, illegal):
    kept = np.empty($between * STRIP, T)
$buffers
    for chunk in range(first, last):
        total, wrong = 0.0, T(0)
$rows
        for start in range(chunk * CHUNK, min((chunk + 1) * CHUNK, size), STRIP):
            stop = min(start + STRIP, size)
$fills
            found = strip_of($strips, kept)
            total, wrong = total + found[0], wrong + found[1]
        partials[chunk], illegal[chunk] = total, wrong
""")


def _source(
    function: Callable[..., Any],
    legal: tuple[Legal, ...],
    kinds: tuple[str, ...],
    slopes: int,
    weighted: bool,
    keeps_values: bool,
    dtype: str,
    bounded: tuple[bool, bool],
) -> str:
    """Return the module that computes these terms; `kinds` has the kind of each operand, or the value of a flag."""
    terms = terms_of(function, {len(legal) + i: _FLAGS[kind] for i, kind in enumerate(kinds) if kind in _FLAGS})
    labels = {f"a{i}": values for i, values in enumerate(legal)}
    options = [f"o{i}" for i in range(len(terms.arguments) - len(labels))]
    operands = [*options, "factor", *["weight"] * weighted]
    kind = dict(zip(operands, (kind for kind in kinds if kind not in _FLAGS), strict=True))
    names, outputs = [*labels, *operands], [*(f"gradient{i}" for i in range(slopes)), *["values"] * keeps_values]
    periodic = [name for name in operands if kind[name] == "periodic"]
    between = [name for stage in terms.stages for name in stage.outputs]
    element = {name: name if kind[name] == "scalar" else f"{name}[i]" for name in operands}
    arguments = [*(f"T({name}[i])" for name in labels), *(element[name] for name in options)]
    places = dict(zip(terms.arguments, arguments, strict=True))
    places |= {name: f"kept[{k} * STRIP + i]" for k, name in enumerate(between)}
    *stages, last = terms.stages
    return _MODULE.substitute(
        dtype=dtype,
        chunk=CHUNK,
        strip=min(STRIP, 1 << (_KEPT // max(len(between), 1)).bit_length() - 1),
        terms=staged_source(terms),
        operands=", ".join(names),
        outputs=", ".join(outputs),
        # a vector of partial sums keeps the digits of a strip; a loop that calls the C library has a single sum
        zero="0.0" if terms.calls_any("atan2", "log_gamma") else "T(0)",
        stages=_stages(stages, places),
        labels=_labels(labels),
        slopes=_slopes(slopes),
        call=_call(last, places),
        weight=_weight(element.get("weight")),
        gradients=_gradients(slopes, element["factor"], weighted, bounded),
        values="        values[i] = value" if keeps_values else "",
        inner="".join(f"{name}_inner, " for name in periodic),
        between=len(between),
        buffers="\n".join(f"    {name}_buffer = np.empty(STRIP, T)" for name in periodic),
        rows="\n".join(_rows(labels)),
        fills="\n".join(f"            fill({x}_buffer, {x}, {x}_inner, start, stop)" for x in periodic),
        strips=", ".join(_strip(name, kind.get(name, "full")) for name in [*names, *outputs]),
    )


def _strip(name: str, kind: str) -> str:
    """Return the part of an operand in a strip.

    Example:
        >>> _strip("a0", "full"), _strip("o0", "scalar"), _strip("o1", "periodic")
        ('a0[start:stop]', 'o0', 'o1_buffer[: stop - start]')
    """
    return {"scalar": name, "full": f"{name}[start:stop]", "periodic": f"{name}_buffer[: stop - start]"}[kind]


def _call(stage: Stage, places: Mapping[str, str]) -> str:
    """Return the call of a stage, given the places of its inputs.

    Example:
        >>> from mithril_losses.terms.fission import function_of
        >>> _call(Stage(("x", "e"), (), function_of("terms_1", ["x", "e"], [])), {"x": "T(a0[i])", "e": "kept[i]"})
        'terms_1(T(a0[i]), kept[i])'
    """
    return f"{stage.definition.name}({', '.join(places[name] for name in stage.inputs)})"


def _stages(stages: list[Stage], places: Mapping[str, str]) -> str:
    """Return the loops of all stages but the last.

    Example:
        >>> from mithril_losses.terms.fission import function_of
        >>> stage = Stage(("x",), ("e",), function_of("terms_0", ["x"], []))
        >>> print(_stages([stage], {"x": "T(a0[i])", "e": "kept[i]"}))
            for i in range(gradient0.size):
                kept[i] = terms_0(T(a0[i]))
    """
    loop = "    for i in range(gradient0.size):\n        "
    return "\n".join(
        f"{loop}{', '.join(places[x] for x in stage.outputs)} = {_call(stage, places)}" for stage in stages
    )


def _labels(legal: Mapping[str, Legal]) -> str:
    """Return the lines that count illegal elements, in a number of the arrays' width, so that they are vectorized.

    Example:
        >>> print(_labels({"a0": None, "a1": (0.0, 1.0)}))
                illegal += T(0) if (T(a1[i]) == T(0.0)) | (T(a1[i]) == T(1.0)) else T(1)
        >>> print(_labels({"a0": Between(0.0, 1.0), "a1": Between(0.0, math.inf)}))
                illegal += T(1) if (T(a0[i]) < T(0.0)) | (T(a0[i]) > T(1.0)) else T(0)
                illegal += T(1) if (T(a1[i]) < T(0.0)) else T(0)
    """
    lines = []
    for name, labels in legal.items():
        if isinstance(labels, (Between, Rows)):
            sides = [
                f"(T({name}[i]) {sign} T({x!r}))" for sign, x in zip("<>", labels[:2], strict=True) if abs(x) < math.inf
            ]
            lines.append(f"        illegal += T(1) if {' | '.join(sides)} else T(0)")
        elif labels is not None:
            tests = " | ".join(f"(T({name}[i]) == T({label!r}))" for label in labels)
            lines.append(f"        illegal += T(0) if {tests} else T(1)")
    return "\n".join(lines)


def _rows(legal: Mapping[str, Legal]) -> Iterator[str]:
    """Yield the lines that count rows with a wrong sum, while they stay in the cache.

    Example:
        >>> print(*_rows({"a0": None, "a1": Rows(0.0, 1.0, 0.5)}))
                wrong += wrong_sums(a1, chunk * CHUNK, min((chunk + 1) * CHUNK, size), width, T(0.5))
    """
    for name, rows in legal.items():
        if isinstance(rows, Rows):
            part = "chunk * CHUNK, min((chunk + 1) * CHUNK, size), width"
            yield f"        wrong += wrong_sums({name}, {part}, T({rows.near!r}))"


def _slopes(count: int) -> str:
    """Return the names of the slopes, in the form in which terms return them.

    Example:
        >>> _slopes(1), _slopes(2)
        ('slope0', '(slope0, slope1)')
    """
    found = ", ".join(f"slope{i}" for i in range(count))
    return found if count == 1 else f"({found})"


def _weight(weight: str | None) -> str:
    """Return the lines that multiply the value by its weight; a weight of 0 removes even NaN.

    Example:
        >>> print(_weight("weight[i]").splitlines()[0])
                w = weight[i]
    """
    return "" if weight is None else f"        w = {weight}\n        value = T(0) if w == T(0) else value * w"


def _gradients(slopes: int, factor: str, weighted: bool, bounded: tuple[bool, bool]) -> str:
    """Return the lines that write the gradients; slopes and gradients may be bounded.

    Example:
        >>> print(_gradients(2, "factor", False, (False, False)))
                gradient0[i] = slope0 * factor
                gradient1[i] = slope1 * factor
    """
    of_slope, of_gradient = ("xp.minimum(xp.maximum({}, -LARGEST), LARGEST)" if yes else "{}" for yes in bounded)
    lines = []
    for i in range(slopes):
        scaled = f"{of_slope.format(f'slope{i}')} * {factor}"
        scaled = f"T(0) if w == T(0) else {scaled} * w" if weighted else scaled
        lines.append(f"        gradient{i}[i] = {of_gradient.format(scaled)}")
    return "\n".join(lines)


_kernels = CompiledOnce(_source)
