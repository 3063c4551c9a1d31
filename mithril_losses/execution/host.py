"""Large arrays in the memory of the host: they run in the loop of the loss's template, or in blocks of rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.memory import empty
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.threads import thread_count
from mithril_losses.catalogue import Pair
from mithril_losses.domains import checked
from mithril_losses.loops.compiling import COMPILED, NotFusable, has_numba
from mithril_losses.numerics.reduction import GradientReduction, Plan, plan
from mithril_losses.numerics.validation import as_dtype, widest_dtype
from mithril_losses.shards import splits_classes
from mithril_losses.templates.base import Template
from mithril_losses.templates.loop import Call, Loop, Repeated, over_blocks, rows_of

# the most bytes of the temporary arrays of a block
_KEPT = 1 << 24
# how many kinds of rows have their shape remembered for a loss
_ROW_SHAPES = 1024


# how many kinds of calls are remembered
_KINDS = 256
_PLAIN = {bool, float, int, str, type(None)}


class _Known(NamedTuple):
    """What is known of the calls of one kind, which differ only in the values of their arrays.

    Attributes:
        run: fills the gradients and returns the sum of the losses.
        reduction: of these.
        dtype: the dtype to compute in.
        likes: the name of each gradient, with the position of the argument like it.
        is_shared: whether threads may share the loop.
        under: the limits under which this was found.
    """

    run: Repeated
    reduction: Plan
    dtype: np.dtype[Any]
    likes: tuple[tuple[str, int], ...]
    is_shared: bool
    under: limits.Limits


class OnHost:
    """Value and gradient of large arrays in the memory of the host.

    Attributes:
        jax_from: the number of elements from which JAX arrays are computed faster here.
        for_jax: the function that computes such JAX arrays, or returns None.
    """

    def __init__(self, pair: Pair, threads: int | None, compile: bool | None, plain: Callable[..., Any]) -> None:
        self._pair = pair
        self._plain = plain
        self._row_shapes: dict[Any, tuple[int, ...]] = pair.prepared.setdefault("row shapes", {})
        self._known: dict[Any, _Known] = {}
        self._threads = threads
        self._compile = compile is not False
        self._arrays = pair.array_arguments
        self._outputs = pair.terms.outputs or {name: name for name in pair.wrt}
        self._applies = pair.takes_reduction and pair.terms.separable
        self._defaults = {name: pair.parameters[name].default for name in pair.options}

    @functools.cached_property
    def _may_compile(self) -> bool:  # a first call asks, because to look for numba takes as long as to import all this
        return self._compile and has_numba()

    @functools.cached_property
    def _is_compiled(self) -> bool:
        return self._applies and self._pair.terms.has_loop and self._may_compile

    @functools.cached_property
    def jax_from(self) -> float:
        """The number of elements from which JAX arrays are better off here."""
        if self._is_compiled:
            return limits.current.large
        return limits.current.by_numpy if self._compile and self._pair.terms.by_numpy else math.inf

    def for_jax(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any] | None:
        """Return value and gradient of JAX arrays, or None where JAX should answer."""
        return (self.attempt if self._is_compiled else self)(*arguments, **keywords)

    def __call__(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        """Return value and gradient, from the plain functions if there is no faster way."""
        found = self.attempt(*arguments, **keywords)
        return self._plain(*arguments, **keywords) if found is None else found

    def attempt(
        self, *arguments: Any, buffers: Mapping[str, Any] = MappingProxyType({}), **keywords: Any
    ) -> tuple[Any, Any] | None:
        """Return value and gradient, or None if the plain functions must compute them or raise an error.

        Args:
            *arguments: of the loss.
            buffers: where to write the gradients, by argument; new arrays otherwise.
            **keywords: of the gradient.
        """
        kind = self._kind(arguments, keywords)
        known = self._known.get(kind)
        if known is not None and known.under is limits.current:
            return self._again(known, arguments, buffers)
        keep_freed_memory()
        call = self._call(arguments, keywords) if self._applies else None
        parts = None if call is None else self._pair.terms.parts(call)
        if call is None or parts is None:
            return None
        total: Any = None
        gradients: NamedArrays[Any] = NamedArrays()
        for template, part in parts:
            found = self._part(template, part, buffers, kind)
            if found is None:
                return None
            total = found[0] if total is None else total + found[0]
            gradients.update(found[1])
        value = as_dtype(np, total, call.arrays[self._pair.wrt[0]].dtype)
        return value, gradients if len(self._outputs) > 1 else gradients[next(iter(self._outputs))]

    def _kind(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Return what the steps before a loop depend on, for a call with usual keywords; None for any other call."""
        if len(arguments) != len(self._arrays):
            return None
        found: list[Any] = []
        for x in arguments:
            if type(x) is not np.ndarray:
                return None
            found += x.dtype, x.shape, x.flags.num
        for name, option in keywords.items():
            if type(option) not in _PLAIN or not (name in self._defaults or name == "reduction"):
                return None
            found += name, type(option), option
        return tuple(found)

    def _again(self, known: _Known, arguments: tuple[Any, ...], buffers: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return value and gradient of a call of a known kind."""
        gradients: NamedArrays[Any] = NamedArrays()
        for name, position in known.likes:
            x = arguments[position]
            gradients[name] = buffers[name] if name in buffers else empty(x.shape, x.dtype)
        threads = thread_count(self._threads) if known.is_shared else 1
        total = known.run(arguments, [*gradients.values()], threads)
        first = arguments[0]
        value = as_dtype(np, known.reduction.divide(np, known.dtype.type(total), first), first.dtype)
        return value, gradients if len(gradients) > 1 else gradients[name]

    def _call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Call | None:
        """Return the call, or None if no fast path takes its arguments."""
        given = dict(zip(self._arrays, arguments, strict=False)) | dict(keywords)
        if len(given) < len(arguments) + len(keywords):
            return None  # one argument too many, or one given twice
        arrays = {name: given.pop(name, None) for name in self._arrays}
        if {*map(type, arrays.values())} != {np.ndarray}:
            return None
        options = {name: given.pop(name) for name in self._defaults if name in given}
        if not given.keys() <= GradientReduction.__annotations__.keys():
            return None  # `wrt`, or what the loss does not take
        if given.get("across") is not None and not self._takes_shards(given, options):
            return None
        return Call(arrays, self._defaults | checked(self._pair.domain, options), given)

    def _takes_shards(self, reduction: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """Whether a loop makes the same calls to the other shards, in the same order, as the plain functions do.

        These may be what the other shards run: whether arrays are large is no matter of all.
        """
        terms = self._pair.terms
        terms.require_known(reduction)
        is_one_loop = terms.has_loop and len(terms.elements) < 2 and terms.has_value  # or there is no sum to make
        return is_one_loop and not splits_classes(reduction) and not options.get("pool_batch")

    def _part(
        self, template: Template, call: Call, buffers: Mapping[str, Any], kind: Any
    ) -> tuple[Any, dict[str, Any]] | None:
        """Return the value of one reduced loss and its gradients by name, or None if the plain functions must run."""
        loop = template.loop(call) or self._rows(call)
        if loop is None:
            return None
        wrt = {name: call.arrays[like] for name, like in self._outputs.items() if like in call.arrays}
        dtype = loop.dtype
        if dtype is None:
            dtype = widest_dtype(np, **wrt)
            if any(x.dtype != dtype for x in wrt.values()):
                return None  # the sum of each block would be rounded to half precision
        keeps_values = call.reduction.get("reduction") == "none"
        if not keeps_values and not _reduces_all(loop.shape, call.reduction.get("axis")):
            return None
        reduction = plan(np, loop.shape, dtype, mass=loop.mass, **call.reduction)
        like = next(iter(wrt.values()))
        values = empty(loop.shape, like.dtype) if keeps_values else None
        gradients = {n: buffers[n] if n in buffers else empty(x.shape, x.dtype) for n, x in wrt.items()}
        is_repeated = kind is not None and template is self._pair.terms and not template.is_factor
        remember = functools.partial(self._remember, kind, reduction, np.dtype(dtype)) if is_repeated else None
        total = self._run(loop, call, reduction, values, gradients, template.is_factor, remember)
        value = reduction.divide(np, np.dtype(dtype).type(total), like) if values is None else values
        return value, gradients

    def _remember(self, kind: Any, reduction: Plan, dtype: np.dtype[Any], loop: Loop) -> None:
        """Keep what was found for calls of this kind, if its loop and its reduction depend on nothing else."""
        if loop.repeated is None or loop.mass is not None or type(reduction.factor) is not float:
            return
        if len(self._known) >= _KINDS:
            self._known.clear()
        likes = tuple((name, self._arrays.index(like)) for name, like in self._outputs.items())
        is_shared = math.prod(kind[1]) >= min(limits.current.shared, limits.current.shared_rows)
        self._known[kind] = _Known(loop.repeated(reduction.factor), reduction, dtype, likes, is_shared, limits.current)

    def _run(
        self,
        loop: Loop,
        call: Call,
        reduction: Plan,
        values: Any,
        gradients: dict[str, Any],
        is_factor: bool,
        remember: Callable[[Loop], None] | None,
    ) -> float:
        """Fill values and gradients, and return the sum of the weighted losses."""
        threads = thread_count(self._threads)
        closing = reduction.root(np) if is_factor else reduction
        given = (closing.weights, closing.factor, values, list(gradients.values()), threads)
        may_compile = self._may_compile and all(x.dtype in COMPILED for x in call.arrays.values())
        if loop.compiled is not None and may_compile:
            try:
                total = loop.compiled(*given)
            except NotFusable:
                pass
            else:
                if remember is not None and values is None:
                    remember(loop)
                return total
        if loop.blocked is not None:
            return loop.blocked(*given)
        try:
            return self._in_blocks(call, reduction, loop.shape, values, gradients, threads)
        except ValueError:  # about a block: the whole arrays tell where the value is
            self._check(call)
            raise

    def _check(self, call: Call) -> None:
        terms = self._pair.terms
        terms.check_arrays(call.arrays)
        if terms.check is not None:
            terms.check(*call.arrays.values(), **call.options)

    def _rows(self, call: Call) -> Loop | None:
        """Return the description of rows for the plain functions, or None if the call has no independent rows."""
        terms, arrays = self._pair.terms, list(call.arrays.values())
        batch = arrays[0].shape[0] if arrays[0].ndim else 0
        if batch < 2 or any(x.ndim == 0 or x.shape[0] != batch for x in arrays):
            return None
        row = _row_shape(self._pair, self._row_shapes, arrays, call.options)
        if row is None:
            return None
        return Loop((batch, *row), None if terms.mass is None else terms.mass(*arrays, **call.options))

    def _in_blocks(
        self, call: Call, reduction: Plan, shape: tuple[int, ...], values: Any, gradients: dict[str, Any], threads: int
    ) -> float:
        """Fill values and gradients with the plain functions, one block of rows at a time."""
        arrays = list(call.arrays.values())
        operands = [reduction.weights, reduction.factor]
        keeps_values, several = values is not None, len(gradients) > 1
        is_large = arrays[0].size > limits.current.block * shape[0]  # one batch element is larger than a block
        if is_large and _rows_can_merge(self._pair, arrays, call.options, shape):  # flatten all rows into one axis
            arrays = [_merged(x, shape) for x in arrays]
            operands = [x if np.ndim(x) == 0 else _in_one_axis(x, shape) for x in operands]
            gradients = {name: _merged(x, shape) for name, x in gradients.items()}
            values = values if values is None else values.reshape(-1)
            shape = (math.prod(shape),)

        def work(rows: slice) -> float:
            weights, factor = (rows_of(x, shape, rows) for x in operands)
            value, found = self._plain(
                *(x[rows] for x in arrays),
                **call.options,
                reduction="none" if keeps_values else "sum",
                weights=weights,
                upstream=_upstream(factor, keeps_values),
            )
            for name, out in gradients.items():
                out[rows] = found[name] if several else found
            if values is not None:
                values[rows] = value
                return 0.0
            return float(value)

        return over_blocks(next(iter(gradients.values())).shape, work, threads)


def _reduces_all(shape: tuple[int, ...], axis: Any) -> bool:
    """Whether a reduction over these axes, which may still be refused, leaves one number."""
    return axis is None or (isinstance(axis, tuple) and len(axis) >= len(shape)) or len(shape) < 2


@functools.cache
def keep_freed_memory() -> None:
    """Make the allocator keep freed memory for the next array: page faults would cost more than the arithmetic.

    glibc returns large pieces to the system at once, until the process has freed one untouched piece as large as this.
    """
    np.empty(_KEPT, np.uint8)


def _row_shape(
    pair: Pair, known: dict[Any, tuple[int, ...]], arrays: list[Any], options: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """Return the shape of the losses of one row, or None if the first axis is not a batch (but classes, features)."""
    settled = all(x is None or isinstance(x, (bool, int, float, str)) for x in options.values())
    key = (*((x.shape[1:], x.dtype) for x in arrays), *options.items()) if settled else None
    if key in known:  # remembered, because a row can be large
        return known[key]
    try:
        one, two = (pair.value(*(x[:n] for x in arrays), **options, reduction="none").shape for n in (1, 2))
    except ValueError:  # arguments that do not fit, or not in parts: the plain functions decide
        return None
    row: tuple[int, ...] = one[1:]
    if one != (1, *row) or two != (2, *row):
        return None
    if key is not None and len(known) < _ROW_SHAPES:
        known[key] = row
    return row


def _rows_can_merge(pair: Pair, arrays: list[Any], options: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether the axes of the unreduced losses come first in all arrays, and flattening them changes no loss."""
    rank = len(shape)
    if rank < 2 or not all(x.shape[:rank] == shape and x.flags.c_contiguous for x in arrays):
        return False
    corner = [x[(slice(2),) * rank] for x in arrays]
    try:
        apart = pair.value(*corner, **options, reduction="none")
        merged = pair.value(*(_merged(x, apart.shape) for x in corner), **options, reduction="none")
    except ValueError:  # an option counts an axis from the front
        return False
    return merged.shape == (apart.size,) and np.array_equal(merged, apart.ravel(), equal_nan=True)


def _in_one_axis(x: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return an operand that broadcasts to `shape` for losses flattened into one axis; one element stays one."""
    return x.reshape(()) if x.size == 1 else np.broadcast_to(x, shape).ravel()


def _merged(x: Any, shape: tuple[int, ...]) -> Any:
    """Return an array with its first axes, which have this shape, flattened into one."""
    return x.reshape(math.prod(shape), *x.shape[len(shape) :])


def _upstream(factor: Any, keeps_values: bool) -> Any:
    """Return the factor as the upstream gradient of the block's losses, or of their sum."""
    return factor if keeps_values or isinstance(factor, float) else np.reshape(factor, ())
