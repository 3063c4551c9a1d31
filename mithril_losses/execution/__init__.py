"""`value_and_gradient`: both halves of a pair in one call, as fast as the arrays at hand allow.

The plain functions are the definition. What runs here instead is chosen by the arrays: one fused loop or cache-sized
blocks for large arrays in the memory of the host, a compiled pair for JAX, the plain functions for everything else. A
loss declares what it is made of (`Pair.terms`, `Pair.separable`); nothing here knows a loss by name.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import library_name, namespace_of
from mithril_losses.backends.threads import share, thread_count
from mithril_losses.catalogue import Pair, find_loss
from mithril_losses.domains import Interval, Labels
from mithril_losses.loops.compiling import NotFusable, has_numba
from mithril_losses.numerics.reduction import Plan, plan, require_shares
from mithril_losses.numerics.stable import bounded, never_negative
from mithril_losses.numerics.trees import map_leaves
from mithril_losses.numerics.validation import as_dtype, is_number, quiet, widest_dtype
from mithril_losses.templates.elements import Apart, ByColumn, Elementwise

# what loops are compiled for: no foreign byte order, nothing wider or narrower
_COMPILED = frozenset(map(np.dtype, ("float32", "float64", "bool", *"bhilqBHILQ")))

P = ParamSpec("P")
V = TypeVar("V")

# bytes that the temporary arrays of a block stay below
_KEPT = 1 << 24
# bytes of a cache line
_LINE = 64


def value_and_gradient(
    loss: Callable[P, V],
    *,
    threads: int | None = None,
    compile: bool | None = None,
    donate: bool = False,
) -> Callable[P, tuple[V, Any]]:
    """Return a function with the loss's own arguments that gives its value and its gradient in one call.

    It takes everything that the gradient takes: `upstream` (which scales the gradient alone) and, where the loss has
    it, `wrt`. The gradient is an array, or a dict of arrays by argument name where the loss has several
    differentiable arguments.

    Large arrays on the CPU, of any of the three libraries, are computed in one fused loop (with the extra `fast`).
    Without it, those of NumPy and PyTorch are computed in blocks that fit the cache. Threads share the work, and the
    result does not depend on how many. Where a loss sorts, searches or sums over pairs, NumPy may do it for JAX, too.
    All other JAX arrays go through one compiled function per loss and set of options; inside a trace of the caller's
    the plain functions are inlined.

    Args:
        loss: a registered loss, or any function with a method `gradient`.
        threads: how many threads share a large call on the CPU; by default the environment variable
            MITHRIL_LOSSES_THREADS, then the cores at hand.
        compile: None compiles loops for large arrays on the CPU, with the extra `fast`. False does not: blocks are
            computed instead, and JAX compiles what is JAX's. True also sends tensors on an accelerator, or in a graph,
            through `torch.compile`.
        donate: whether JAX may reuse the memory of the differentiable arguments, which are gone after the call: JAX
            computes it then.

    Raises:
        ValueError: `loss` has no registered gradient, or `threads` is no positive integer.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import mse_loss
        >>> value, gradient = value_and_gradient(mse_loss)(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        >>> float(value), gradient.tolist()
        (2.0, [0.0, -2.0])
    """
    pair = find_loss(loss)
    thread_count(threads)
    if pair.compose is not None:  # each of its losses on the fast path of its own
        return pair.compose(functools.partial(value_and_gradient, threads=threads, compile=compile, donate=donate))
    prepared = _prepared(pair)
    plain = prepared.plain
    on_host = _OnHost(pair, prepared, threads, compile)
    on_jax = _OnJax(pair, prepared, donate)

    @functools.wraps(pair.value)
    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        first: Any = arguments[0] if arguments else keywords.get(pair.wrt[0])
        if type(first) is np.ndarray:
            is_small = first.size < limits.current.large
            return plain(*arguments, **keywords) if is_small else on_host(*arguments, **keywords)
        xp = namespace_of(first)
        library = None if xp is None else library_name(xp)
        if library == "jax":
            views = _jax_views(arguments, keywords) if not donate and first.size >= on_host.jax_from else None
            found = None if views is None else on_host.for_jax(*views[0], **views[1])
            return on_jax(*arguments, **keywords) if found is None else _as_jax(found, first)
        if library == "torch":
            views = _numpy_views(arguments, keywords)
            if views is not None:  # NumPy's functions cost less per call, and its buffers less per page
                return _as_tensors((plain if first.numel() < limits.current.large else on_host)(*views[0], **views[1]))
            if compile:
                compiled: tuple[Any, Any] = prepared.compiled_by_torch(*arguments, **keywords)
                return compiled
        return plain(*arguments, **keywords)

    return both


class _Prepared:
    """What is prepared for a loss at its first call, and forgotten together with it.

    Attributes:
        plain: calls the plain functions: the fused third, the terms once for both, or one after the other.
        jitted: `jitted(static, donate)` returns `plain` compiled by JAX for options that it has to know.
        row_shapes: the shape of one row's losses, by what it depends on.
    """

    def __init__(self, pair: Pair) -> None:
        self.plain = pair.plain
        self.jitted = functools.lru_cache(maxsize=_JITTED)(functools.partial(_jitted, self.plain))
        self.row_shapes: dict[Any, tuple[int, ...]] = {}

    @functools.cached_property
    def compiled_by_torch(self) -> Any:
        import torch

        return torch.compile(self.plain, fullgraph=True)


# sets of options that a loss is kept compiled for by JAX, at some 2 MB each
_JITTED = 64


def _prepared(pair: Pair) -> _Prepared:
    found = pair.prepared.get(_Prepared)
    if found is None:
        found = pair.prepared.setdefault(_Prepared, _Prepared(pair))
    return found  # type: ignore[no-any-return]


# --- large arrays in the memory of the host ---------------------------------------------------------------------------


class _Call(NamedTuple):
    """One call with its arguments by name."""

    arrays: dict[str, np.ndarray[Any, Any]]
    options: dict[str, Any]
    reduction: dict[str, Any]


class _OnHost:
    """Value and gradient of large arrays that NumPy can see."""

    def __init__(self, pair: Pair, prepared: _Prepared, threads: int | None, compile: bool | None) -> None:
        self._pair = pair
        self._plain = prepared.plain
        self._row_shapes = prepared.row_shapes
        self._threads = threads
        self._may_fuse = compile is not False and has_numba()
        self._arrays = pair.array_arguments
        self._applies = pair.takes_reduction and pair.separable
        self._defaults = {name: pair.parameters[name].default for name in pair.options}

        has_loop = isinstance(pair.terms, Elementwise | Apart | ByColumn) or pair.fused_rows is not None
        is_compiled = self._applies and self._may_fuse and has_loop
        # elements from which JAX arrays are better off here, and what computes them
        by_numpy = pair.by_numpy and compile is not False
        self.jax_from = limits.current.large if is_compiled else limits.current.by_numpy if by_numpy else math.inf
        self.for_jax = self.attempt if is_compiled else self

    @property
    def _thread_count(self) -> int:
        return thread_count(self._threads)

    def __call__(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        found = self.attempt(*arguments, **keywords)
        return self._plain(*arguments, **keywords) if found is None else found

    def attempt(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any] | None:
        """Return value and gradient, or None where the plain functions should answer, if only with an error."""
        keep_freed_memory()
        call = self._call(arguments, keywords) if self._applies else None
        if call is None:
            return None
        match self._pair.terms:
            case Elementwise() as terms:
                return self._elementwise(terms, call)
            case ByColumn() as columns:
                return self._by_column(columns, call)
            case Apart() as parts:
                return self._apart(parts, call)
        return self._rows(call)

    def _call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> _Call | None:
        """Return the call, or None where its arguments are not those of a fast path."""
        given = dict(zip(self._arrays, arguments, strict=False)) | dict(keywords)
        if len(given) < len(arguments) + len(keywords) or "wrt" in given:
            return None  # an argument too many, or twice
        if any(type(given.get(name)) is not np.ndarray for name in self._arrays):
            return None
        arrays = {name: given.pop(name) for name in self._arrays}
        options = {name: given.pop(name, default) for name, default in self._defaults.items()}
        return _Call(arrays, options, given)

    def _may_compile_for(self, arrays: list[Any]) -> bool:
        return self._may_fuse and all(x.dtype in _COMPILED for x in arrays)

    # --- element-wise terms: one loop, or blocks of elements ---

    def _apart(self, apart: Apart, call: _Call) -> tuple[Any, Any] | None:
        if call.reduction.get("axis") is not None or any(x.dtype == np.float16 for x in call.arrays.values()):
            return None
        if call.reduction.get("reduction") == "none":
            apart.require_addable({name: x.shape for name, x in call.arrays.items()})
        total, gradients = None, {}
        for name, terms, reduction in apart.split(call.reduction):
            options = {option: call.options[option] for option in terms.option_names}
            found = self._elementwise(terms, _Call({name: call.arrays[name]}, options, reduction))
            if found is None:
                return None
            total = found[0] if total is None else total + found[0]
            gradients[name] = found[1]
        return as_dtype(np, total, call.arrays[apart.wrt[0]].dtype), gradients

    def _by_column(self, by_column: ByColumn, call: _Call) -> tuple[Any, Any] | None:
        found = self._elementwise(
            by_column.terms, _Call(by_column.split(call.arrays.values()), call.options, call.reduction)
        )
        return None if found is None else (found[0], by_column.join(found[1]))

    def _elementwise(self, terms: Elementwise, call: _Call) -> tuple[Any, Any] | None:
        dtype, options = terms.door(call.arrays, call.options)
        arrays = list(call.arrays.values())
        like = arrays[0]
        shape = terms.shape(like)
        reduction = plan(np, shape, dtype, **call.reduction)
        keeps_values = call.reduction.get("reduction") == "none"
        if terms.rows is not None:
            if keeps_values:
                return self._rows(call)
            reduction = reduction.over_terms(like.ndim - len(shape))
        if not keeps_values and len(reduction.axes) < len(shape):
            return None
        values = _empty(like.shape, like.dtype) if keeps_values else None
        gradients = {name: _empty(like.shape, call.arrays[name].dtype) for name in terms.wrt}
        fusable = self._may_compile_for(arrays) and all(x.flags.c_contiguous for x in arrays)
        fusable = fusable and all(x.dtype == dtype for x in gradients.values())
        outputs = list(gradients.values())
        total = self._fused(terms, arrays, options, reduction, values, outputs) if fusable else None
        if total is None:
            total = self._blocked(terms, arrays, options, dtype, reduction, values, outputs)
        if terms.row_mass is not None and total < 0.0:
            mass = np.sum(call.arrays[terms.row_mass])
            total = float(never_negative(np, np.asarray(total, dtype), terms=like.shape[-1], scale=mass))
        value = reduction.divide(np, np.dtype(dtype).type(total), like) if values is None else values
        return value, gradients if len(outputs) > 1 else outputs[0]

    def _fused(
        self,
        terms: Elementwise,
        arrays: list[Any],
        options: list[Any],
        reduction: Plan,
        values: Any,
        gradients: list[Any],
    ) -> float | None:
        from mithril_losses.loops import elements as fused

        now = limits.current
        labels = [d.values if isinstance(d := terms.domain[name], Labels) else None for name in terms.array_names]
        try:
            total, legal = fused.run(
                terms.terms,
                arrays,
                [None if v is None else tuple(map(float, v)) for v in labels],
                options,
                reduction.weights,
                reduction.factor,
                values=values,
                gradients=gradients,
                threads=self._thread_count if gradients[0].size >= now.shared else 1,
                group=now.group,
                bounded=(terms.steep, terms.steep and not reduction.scaled),
            )
        except NotFusable:
            return None
        if not legal:
            terms.check_labels(dict(zip(terms.array_names, arrays, strict=True)))
        return total

    def _blocked(
        self,
        terms: Elementwise,
        arrays: list[Any],
        options: list[Any],
        dtype: Any,
        reduction: Plan,
        values: Any,
        gradients: list[Any],
    ) -> float:
        shape = gradients[0].shape
        operands = [*options, reduction.factor, reduction.weights]
        flat = all(x.flags.c_contiguous for x in arrays) and all(
            not isinstance(x, np.ndarray) or x.size == 1 or (x.shape == shape and x.flags.c_contiguous)
            for x in operands
        )
        if flat:
            shape = (gradients[0].size,)
            arrays = [x.reshape(-1) for x in arrays]
            operands = [x.reshape(-1 if x.size > 1 else ()) if isinstance(x, np.ndarray) else x for x in operands]
        outs, kept = [x.reshape(shape) for x in gradients], None if values is None else values.reshape(shape)

        def work(rows: slice) -> float:
            *own, factor, weights = (_rows_of(x, shape, rows) for x in operands)
            block = terms.convert({n: x[rows] for n, x in zip(terms.array_names, arrays, strict=True)}, dtype)
            with quiet(np):
                value, slopes = terms.evaluate(np, *block, *own)
                for out, slope in zip(outs, slopes if len(outs) > 1 else (slopes,), strict=True):
                    is_bounded = not reduction.scaled and (terms.steep or out.dtype != dtype)
                    slope = bounded(np, slope, dtype) if terms.steep else slope
                    if weights is None and not is_bounded:
                        np.multiply(slope, factor, out=out[rows])
                        continue
                    slope = slope * factor
                    if weights is not None:
                        slope = np.where(weights == 0, 0.0, slope * weights)
                    out[rows] = bounded(np, slope, out.dtype) if is_bounded else slope
                if weights is not None:
                    value = np.where(weights == 0, 0.0, value * weights)
                if kept is not None:
                    kept[rows] = value
                return float(np.sum(value))

        return self._over_blocks(shape, work)

    # --- rows: blocks of the first axis through the loss's own functions ---

    def _rows(self, call: _Call) -> tuple[Any, Any] | None:
        pair, arrays = self._pair, list(call.arrays.values())
        like = call.arrays[pair.wrt[0]]
        fused = None if pair.fused_rows is None else pair.fused_rows(*arrays, **call.options)
        run = None if fused is None else fused.run if self._may_compile_for(arrays) else fused.blocked
        if fused is not None:
            shape, mass = fused.shape, fused.mass
            if not shape:
                return None
        else:
            batch = arrays[0].shape[0] if arrays[0].ndim else 0
            if batch < 2 or any(x.ndim == 0 or x.shape[0] != batch for x in arrays):
                return None
            if pair.check_values is not None:
                pair.check_values(*arrays, **call.options)
            row = _row_shape(pair, self._row_shapes, arrays, call.options)
            if row is None:
                return None
            shape = (batch, *row)
            mass = None if pair.mass is None else pair.mass(*arrays, **call.options)
        wrt = {name: x for name, x in call.arrays.items() if name in pair.wrt}
        dtype = widest_dtype(np, **wrt)
        if any(x.dtype != dtype for x in wrt.values()):
            return None  # the sum of a block would be rounded to half precision
        reduction = plan(np, shape, dtype, mass=mass, **call.reduction)
        keeps_values = call.reduction.get("reduction") == "none"
        if not keeps_values and len(reduction.axes) < len(shape):
            return None
        values = _empty(shape, like.dtype) if keeps_values else None
        gradients = {name: _empty(x.shape, x.dtype) for name, x in wrt.items()}
        several = len(pair.wrt) > 1
        if run is not None:
            total = run(reduction.weights, reduction.factor, values, list(gradients.values()), self._thread_count)
        else:
            total = self._rows_blocked(call, reduction, shape, values, gradients)
        value = reduction.divide(np, np.dtype(dtype).type(total), like) if values is None else values
        return value, gradients if several else gradients[pair.wrt[0]]

    def _rows_blocked(
        self, call: _Call, reduction: Plan, shape: tuple[int, ...], values: Any, gradients: dict[str, Any]
    ) -> float:
        arrays = list(call.arrays.values())
        operands = [reduction.weights, reduction.factor]
        keeps_values, several = values is not None, len(gradients) > 1
        is_large = arrays[0].size > limits.current.block * shape[0]  # a batch element, more than a block
        if is_large and _rows_can_merge(self._pair, arrays, call.options, shape):  # all rows in one axis
            arrays = [_merged(x, shape) for x in arrays]
            operands = [x if np.ndim(x) == 0 else _in_one_axis(x, shape) for x in operands]
            gradients = {name: _merged(x, shape) for name, x in gradients.items()}
            values = values if values is None else values.reshape(-1)
            shape = (math.prod(shape),)

        def work(rows: slice) -> float:
            weights, factor = (_rows_of(x, shape, rows) for x in operands)
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

        return self._over_blocks(gradients[self._pair.wrt[0]].shape, work)

    def _over_blocks(self, shape: tuple[int, ...], work: Callable[[slice], float]) -> float:
        """Return the sum of `work` over blocks of rows, in the order of the rows whichever thread did them."""
        size = int(np.prod(shape))
        step = max(1, limits.current.block * shape[0] // max(size, 1))
        blocks = -(-shape[0] // step)
        partials = [0.0] * blocks

        def one(block: int) -> None:
            partials[block] = work(slice(block * step, min((block + 1) * step, shape[0])))

        share(blocks, one, self._thread_count if size >= limits.current.shared_blocks else 1)
        return sum(partials)


@functools.cache
def keep_freed_memory() -> None:
    """Have the allocator keep what is freed for the next array: page faults would cost more than the arithmetic.

    glibc returns large pieces to the system at once, until the process has freed one as large as this, untouched.
    """
    np.empty(_KEPT, np.uint8)


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array without values that begins on a cache line, so that JAX can take it over as it is."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    array: np.ndarray[Any, Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array


def _row_shape(
    pair: Pair, known: dict[Any, tuple[int, ...]], arrays: list[Any], options: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """Return the shape of one row's losses, or None where the first axis is no batch: a class axis, features."""
    settled = all(x is None or isinstance(x, (bool, int, float, str)) for x in options.values())
    key = (*((x.shape[1:], x.dtype) for x in arrays), *options.items()) if settled else None
    if key in known:  # a row can be large
        return known[key]
    try:
        one, two = (pair.value(*(x[:n] for x in arrays), **options, reduction="none").shape for n in (1, 2))
    except ValueError:  # arguments that do not fit: the plain functions say which, or know what they mean
        return None
    row: tuple[int, ...] = one[1:]
    if one != (1, *row) or two != (2, *row):
        return None
    if key is not None and len(known) < 1024:
        known[key] = row
    return row


def _rows_can_merge(pair: Pair, arrays: list[Any], options: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether the axes of the unreduced losses come first in all arrays, and the loss would see them as one."""
    rank = len(shape)
    if rank < 2 or not all(x.shape[:rank] == shape and x.flags.c_contiguous for x in arrays):
        return False
    corner = [x[(slice(2),) * rank] for x in arrays]
    try:
        apart = pair.value(*corner, **options, reduction="none")
        merged = pair.value(*(_merged(x, apart.shape) for x in corner), **options, reduction="none")
    except ValueError:  # an axis that the options count from the front
        return False
    return merged.shape == (apart.size,) and np.array_equal(merged, apart.ravel(), equal_nan=True)


def _in_one_axis(x: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return an operand that broadcasts to `shape` for losses in one axis: one element stays one."""
    return x.reshape(()) if x.size == 1 else np.broadcast_to(x, shape).ravel()


def _merged(x: Any, shape: tuple[int, ...]) -> Any:
    """Return an array with its first axes, which have this shape, in one."""
    return x.reshape(math.prod(shape), *x.shape[len(shape) :])


def _numpy_views(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments with NumPy views in place of tensors, None if one is in a graph, traced or not in reach."""
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling():
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0:
        return None  # torch.func takes derivatives, or torch does in forward mode
    views, named = list(arguments), dict(keywords)
    for values, items in ((views, enumerate(arguments)), (named, keywords.items())):
        for key, x in items:
            if type(x) is torch.Tensor:
                if x.requires_grad or not x.is_cpu or x.dtype is torch.bfloat16:
                    return None
                values[key] = x.numpy(force=True)  # type: ignore[index]
            elif isinstance(x, Mapping) or (namespace_of(x) is not None and not isinstance(x, np.generic)):
                return None  # of another library or kind: the plain functions have the word
    return views, named


def _as_tensors(found: tuple[Any, Any]) -> tuple[Any, Any]:
    from_numpy = sys.modules["torch"].from_numpy
    value, gradient = found
    if type(gradient) is np.ndarray and not isinstance(value, tuple):  # the usual case, at half the cost
        return from_numpy(np.asarray(value)), from_numpy(gradient)
    value, gradient = (map_leaves(lambda _, x: from_numpy(np.asarray(x)), part) for part in found)
    return value, gradient


def _jax_views(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments with NumPy views in place of JAX arrays, None if one is traced or not on this CPU."""
    jax = sys.modules["jax"]
    given = [*arguments, *keywords.values()]
    arrays = [x for x in given if isinstance(x, jax.Array)]
    if any(isinstance(x, jax.core.Tracer) or x.dtype not in _COMPILED for x in arrays):
        return None
    devices = set().union(*(x.devices() for x in arrays))
    if len(devices) != 1 or any(device.platform != "cpu" for device in devices):
        return None
    for x in given:
        if isinstance(x, Mapping) or not (isinstance(x, (jax.Array, np.generic)) or namespace_of(x) is None):
            return None  # of another library or kind: the plain functions have the word

    def view(x: Any) -> Any:
        return np.asarray(x) if isinstance(x, jax.Array) else x

    return [view(x) for x in arguments], {name: view(x) for name, x in keywords.items()}


def _as_jax(found: tuple[Any, Any], like: Any) -> tuple[Any, Any]:
    """Return NumPy's results as JAX arrays, without a copy, on the device of `like`: the default one if they can be."""
    jax = sys.modules["jax"]
    value, gradient = found
    put = functools.partial(jax.device_put, may_alias=True)
    value = put(np.asarray(value))
    if value.devices() != like.devices():
        put = functools.partial(put, device=next(iter(like.devices())))
        value = put(value)
    return value, map_leaves(lambda _, x: put(x), gradient)


def _rows_of(x: Any, shape: tuple[int, ...], rows: slice) -> Any:
    """Return what belongs to some rows of an operand that broadcasts to `shape`."""
    if isinstance(x, np.ndarray) and x.ndim == len(shape) and x.shape[0] > 1:
        return x[rows]
    return x


def _upstream(factor: Any, keeps_values: bool) -> Any:
    """Return the factor as an upstream gradient: of the block's losses, or of their sum."""
    return factor if keeps_values or isinstance(factor, float) else np.reshape(factor, ())


# --- JAX and torch: compilers of their own ----------------------------------------------------------------------------


class _OnJax:
    """Value and gradient of JAX arrays in one compiled call; inside a trace, the plain functions."""

    def __init__(self, pair: Pair, prepared: _Prepared, donate: bool) -> None:
        self._pair = pair
        self._plain = prepared.plain
        self._jitted = prepared.jitted
        self._donate = donate
        # numbers that a compiled function takes as they come; all others are settled in it
        intervals = {name: x for name, x in pair.domain.items() if isinstance(x, Interval) and not x.static}
        self._numbers: dict[str, Interval | None] = intervals | {"upstream": None, "normalizer": None}
        self._labels = {name: x for name, x in pair.domain.items() if isinstance(x, Labels)}

    def __call__(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        pair = self._pair
        given = dict(zip(pair.array_arguments, arguments, strict=False)) | keywords
        concrete = _concrete_jax_array()
        wrt: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        static: dict[str, Any] = {}
        for name, x in given.items():
            if type(x) is concrete:
                (wrt if name in pair.wrt else rest)[name] = x
            elif name in self._numbers and is_number(x):
                if (domain := self._numbers[name]) is not None:
                    domain.check(name, x)
                rest[name] = float(x)
            else:
                static[name] = x
        fits = len(given) == len(arguments) + len(keywords) and all(n in wrt or n in rest for n in pair.array_arguments)
        if not fits or not pair.jitted or any(namespace_of(x) is not None for x in static.values()):
            return self._plain(*arguments, **keywords)
        normalizer = rest.get("normalizer")
        if type(normalizer) is float and not normalizer >= 0.0:
            return self._plain(*arguments, **keywords)  # which refuses it
        try:
            # with their types: 1 and True are equal, but no option takes both
            jitted = self._jitted(tuple((name, x, type(x)) for name, x in static.items()), self._donate)
        except TypeError:  # an option that cannot be hashed
            return self._plain(*arguments, **keywords)
        if self._donate:  # a mistake must not cost the caller his arrays
            self._check_values(given)
        found: tuple[Any, Any] = jitted(wrt, rest)
        if not self._donate:  # JAX goes on computing while the values are looked at
            self._check_values(given)
        value, gradient = found
        if type(gradient) is dict:  # `jax.jit` sorts the names
            gradient = {name: gradient[name] for name in pair.parameters if name in gradient}
        return value, gradient

    def _check_values(self, given: Mapping[str, Any]) -> None:
        """Raise for values that a trace cannot see."""
        pair = self._pair
        for name, domain in self._labels.items():
            domain.check(name, given[name])
        if given.get("reduction") == "weighted_mean" and pair.takes_reduction:
            require_shares(given.get("weights"))
        if pair.check_values is not None:
            options = {name: given.get(name, pair.parameters[name].default) for name in pair.options}
            pair.check_values(*(given[name] for name in pair.array_arguments), **options)


@functools.cache
def _concrete_jax_array() -> type:
    """Return the type of JAX's arrays that have values."""
    import jax

    with jax.ensure_compile_time_eval():  # the first call may come from within a trace
        return type(jax.numpy.zeros(()))


def _jitted(plain: Callable[..., Any], static: tuple[tuple[str, Any, type], ...], donate: bool) -> Any:
    import jax

    options = {name: x for name, x, _ in static}

    def both(wrt: dict[str, Any], rest: dict[str, Any]) -> Any:
        return plain(**wrt, **rest, **options)

    return jax.jit(both, donate_argnums=(0,) if donate else ())
