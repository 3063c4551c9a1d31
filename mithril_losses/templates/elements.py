"""Element-wise losses: one small function of terms, (value, slopes), evaluated on any array library."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload

import numpy as np

from mithril_losses import limits
from mithril_losses.autodiff import large_gradient
from mithril_losses.backends.memory import empty
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import (
    Array,
    array_namespace,
    is_dask,
    library_name,
    namespace_of,
    require_library,
)
from mithril_losses.backends.namespaces.numpy import for_elements
from mithril_losses.backends.namespaces.numpy import quiet as without_warnings
from mithril_losses.backends.threads import thread_count
from mithril_losses.domains import (
    PROBABILITY,
    ClipWidth,
    Distributions,
    Elements,
    Interval,
    Labels,
    Scale,
    SmallestNormal,
    array_names,
    enforced,
)
from mithril_losses.loops.compiling import NotFusable, has_numba
from mithril_losses.numerics.reduction import GradientReduction, Plan, Reduction, plan
from mithril_losses.numerics.stable import bounded, never_negative
from mithril_losses.numerics.validation import (
    as_dtype,
    compute_dtype,
    is_number,
    quiet,
    require_same_shape,
    widest_dtype,
)
from mithril_losses.shards import Shards, resolve, splits_classes
from mithril_losses.templates.base import Template
from mithril_losses.templates.loop import Arrays, Call, Loop, Repeated, over_blocks, rows_of

Terms = Callable[..., tuple[Array, Any]]
F = TypeVar("F", bound=Callable[..., Any])


class Elementwise(Template):
    """The terms of an element-wise loss together with the domains of their arguments.

    The terms are a function `(xp, *arrays, *options) → (value, slope)` in plain array notation: the loss of each
    element and its derivative wrt the first array, or a tuple of derivatives wrt the first few arrays. `xp` is the
    namespace of the arrays.
    """

    has_loop = True
    splits_classes = True

    def __init__(
        self,
        terms: Terms,
        domain: Mapping[str, Any],
        kinks: Callable[..., tuple[Any, ...]] | None = None,
        slopes: int = 1,
        rows: int | None = None,
        never_negative: bool = False,
        steep: bool = False,
        written_out: bool = False,
    ) -> None:
        self.terms = terms
        self.kinks = kinks
        self.rows = rows
        self.never_negative = never_negative
        self.steep = steep
        self.written_out = written_out
        names = list(inspect.signature(terms).parameters)[1:]
        if names != list(domain):
            raise TypeError(f"{terms.__name__} takes {names}, but domains are declared for {list(domain)}")
        self.constants: list[Any] = [d for d in domain.values() if isinstance(d, SmallestNormal)]
        self.domain = {name: d for name, d in domain.items() if not isinstance(d, SmallestNormal)}
        self.array_names = array_names(terms.__name__, self.domain)
        self.option_names = list(self.domain)[len(self.array_names) :]
        self.wrt = tuple(self.array_names[:slopes])
        self.outputs = {name: name for name in self.wrt}
        self.curvatures: dict[str, Callable[..., Any] | float] = {}
        self.steep_curvature = False
        self._others: tuple[Elementwise, ...] = ()
        self._narrowing: tuple[str, bool, dict[str, Any]] | None = None
        self._has_labels = any(isinstance(d, Labels) for d in self.domain.values())
        self._remember()

    def named(self, **names: str) -> Elementwise:
        """Return the same terms with other names for some of their arguments."""
        renamed = copy.copy(self)
        renamed.domain = {names.get(name, name): domain for name, domain in self.domain.items()}
        renamed.array_names = [names.get(name, name) for name in self.array_names]
        renamed.option_names = [names.get(name, name) for name in self.option_names]
        renamed.wrt = tuple(renamed.array_names[: len(self.wrt)])
        renamed.outputs = {name: name for name in renamed.wrt}
        renamed._remember()
        return renamed

    def completed_by(self, *others: Elementwise) -> Elementwise:
        """Return the same terms, whose gradient with respect to further arguments other terms give on request.

        The other terms have the same value, and arguments of the same names in any order.
        """
        completed = copy.copy(self)
        completed._others = others
        completed.on_request = tuple(name for terms in others for name in terms.wrt)
        completed.takes_wrt = True
        completed._remember()
        return completed

    def narrow(self, flag: str, value: bool, **domain: Any) -> None:
        """Declare what arrays may be if a flag has this value, where that is less than they may be otherwise."""
        self._narrowing = flag, value, domain
        self.check = self._check_narrow

    def _check_narrow(self, *arrays: Any, **options: Any) -> None:
        if self._narrowing is not None and options[self._narrowing[0]] is self._narrowing[1]:
            self._narrow.check_arrays(dict(zip(self.array_names, arrays, strict=False)))

    @functools.cached_property
    def _narrow(self) -> Elementwise:
        """The same terms for calls with the flag that narrows the domains."""
        narrow = copy.copy(self)
        narrow.domain = {**self.domain, **(self._narrowing or ("", True, {}))[2]}
        narrow._narrowing = None
        narrow._remember()
        return narrow

    def _remember(self) -> None:
        """Keep the domains that calls are held to, and the results of `settle` for numbers and a dtype of NumPy."""
        for name in ("_of_parts", "_narrow"):
            self.__dict__.pop(name, None)
        self._enforced = enforced({name: self.domain[name] for name in self.array_names})
        labels = {name: self.domain[name] for name in self.array_names if isinstance(self.domain[name], Labels)}
        held = (self._enforced | labels).items()
        self._held = [(self.array_names.index(name), name, domain.check) for name, domain in held]
        self._settled = functools.lru_cache(maxsize=64)(
            lambda dtype, options: self.settle(np, options, np.empty(0, dtype), dtype)
        )
        self._is_plain = self.rows is None and len(self.outputs) == 1 and not self.steep
        self._known: dict[Any, tuple[list[Any], Plan]] = {}

    @overload
    def curvature(self, function: F) -> F: ...
    @overload
    def curvature(
        self,
        *,
        fisher: Callable[..., Any] | float | None = None,
        bound: Callable[..., Any] | float | None = None,
        steep: bool = False,
    ) -> Callable[[F], F]: ...
    def curvature(
        self,
        function: Any = None,
        *,
        fisher: Callable[..., Any] | float | None = None,
        bound: Callable[..., Any] | float | None = None,
        steep: bool = False,
    ) -> Any:
        """Declare the second derivatives of the terms: decorates a function of their arguments, in their language.

        It returns the derivative of the slope. Of several slopes it returns the tuple of the distinct second
        derivatives, the upper triangle row by row: (h_00, h_01, h_11) of two.

        Args:
            function: `(xp, *arrays, *options) → h`, or a tuple; a constant may be a plain number.
            fisher: the same for the Fisher information, if the loss is a likelihood whose second derivatives depend on
                the targets; by default these.
            bound: the same for a diagonal matrix D ≥ 0 for which D − H has no negative eigenvalue, or one number. By
                default Gershgorin's: for one slope max(0, h).
            steep: whether h may overflow although the loss is finite. It then becomes the largest finite number.

        Example:
            >>> import numpy as np
            >>> from mithril_losses.domains import REAL
            >>> @elementwise(predictions=REAL, targets=REAL)
            ... def _quartic(xp, predictions, targets):
            ...     error = predictions - targets
            ...     return error**4, 4.0 * error**3
            >>> @_quartic.curvature
            ... def _quartic_curvature(xp, predictions, targets):
            ...     return 12.0 * (predictions - targets) ** 2
        """

        def declare(exact: Callable[..., Any]) -> Callable[..., Any]:
            given = {"exact": exact, "fisher": fisher, "bound": bound}
            self.curvatures.update({name: x for name, x in given.items() if x is not None})
            self.curved, self.steep_curvature, self.has_fisher = True, steep, fisher is not None
            return exact

        return declare if function is None else declare(function)

    @property
    def elements(self) -> Mapping[str, Elementwise]:
        """These terms, by the argument of their first slope."""
        return {self.wrt[0]: self}

    def loop(self, call: Call) -> Loop | None:
        """As in `Template`; None if each row has its own value."""
        if self._narrowing is not None and call.options[self._narrowing[0]] is self._narrowing[1]:
            return self._narrow.loop(call)
        dtype, options = self.dtype_and_options(call.arrays, call.options)
        if self.rows is not None and call.reduction.get("reduction") == "none":
            return None
        loop = _ElementLoop(self, call, options, dtype)
        shape = self.shape(loop.like)
        if not loop.can_be_compiled:
            return Loop(shape, None, None, loop.blocked, dtype)
        return Loop(shape, None, loop.compiled, loop.blocked, dtype, loop.repeated)

    def in_one_pass(self, x: Any, factor: float) -> tuple[Any, np.ndarray[Any, Any]] | None:
        """Return the sum of the terms of one array, and the slopes times a number; None if no loop takes the array."""
        if type(x) is not np.ndarray or x.size < limits.current.large or not x.flags.c_contiguous:
            return None
        loop = _ElementLoop(self, Call({self.array_names[0]: x}, {}, {}), [], x.dtype)
        gradient = empty(x.shape, x.dtype)
        given = (None, factor, None, [gradient], thread_count())
        if limits.current.compiled and has_numba():
            with contextlib.suppress(NotFusable):
                return x.dtype.type(loop.compiled(*given)), gradient
        return x.dtype.type(loop.blocked(*given)), gradient

    def plain_value(self, *arguments: Any, **reduction: Unpack[Reduction]) -> Array:
        """Return the reduced loss; arrays and options are given in the order of the terms."""
        if reduction:
            self.require_known(reduction, gradient=False)
            if splits_classes(reduction) and self._has_rows:
                return self._of_parts.plain_value(*arguments, **reduction)
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            columns, reduction = self._columns(xp, reduction)
            value = self._unreduced(xp, self.evaluate(xp, *arrays, *options)[0], columns)
            return plan(xp, tuple(value.shape), value.dtype, **reduction).collect(xp, value, arguments[0])

    def gradient(self, *arguments: Any, wrt: Any = None, **reduction: Unpack[GradientReduction]) -> Any:
        """Return the gradient of `value` wrt the first array, or a dict of gradients wrt the first few arrays."""
        if is_dask(arguments[0]):
            return self.in_chunks(arguments, {**reduction, "wrt": wrt}, "gradient")
        if wrt is not None:
            return self._on_request(arguments, wrt, reduction)
        if reduction:
            self.require_known(reduction)
            if splits_classes(reduction) and self._has_rows:
                return self._of_parts.gradient(*arguments, **reduction)
        found = large_gradient(self, arguments, reduction)
        if found is not None:
            return found
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            _, slopes = self.evaluate(xp, *arrays, *options)
            _, reduction = self._columns(xp, reduction)
            closing = plan(xp, self.shape(arrays[0]), arrays[0].dtype, **reduction)
            return self.spread(xp, closing, slopes, arguments)

    def both(self, *arguments: Any, wrt: Any = None, **reduction: Unpack[GradientReduction]) -> tuple[Array, Any]:
        """Return `value` and `gradient` from one evaluation of the terms."""
        if is_dask(arguments[0]):
            found: tuple[Array, Any] = self.in_chunks(arguments, {**reduction, "wrt": wrt}, "both")
            return found
        if wrt is not None:
            own: Any = {name: x for name, x in reduction.items() if name in Reduction.__annotations__}
            return self.plain_value(*arguments, **own), self._on_request(arguments, wrt, reduction)
        if reduction:
            self.require_known(reduction)
            if splits_classes(reduction) and self._has_rows:
                return self._of_parts.both(*arguments, **reduction)
        elif self._is_plain and (known := self._known_of(arguments)) is not None:
            with without_warnings():
                value, slopes = self.terms(_NUMPY, *arguments[: len(self.array_names)], *known[0])
                if type(slopes) is not tuple:
                    return known[1].close(value, slopes, arguments[0])
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            value, slopes = self.evaluate(xp, *arrays, *options)
            columns, reduction = self._columns(xp, reduction)
            value = self._unreduced(xp, value, columns)
            closing = plan(xp, tuple(value.shape), value.dtype, **reduction)
            return closing.collect(xp, value, arguments[0]), self.spread(xp, closing, slopes, arguments)

    def _on_request(self, arguments: tuple[Any, ...], wrt: Any, reduction: GradientReduction) -> Any:
        """Return the gradient wrt the named argument, or a dict of gradients for a tuple of names."""
        wanted = self.requested(wrt)
        by_name = dict(zip(self.domain, arguments, strict=True))
        found: NamedArrays[Array] = NamedArrays()
        for terms in (self, *self._others):
            if not set(wanted).isdisjoint(terms.wrt):
                gradient = terms.gradient(*(by_name[name] for name in terms.domain), **reduction)
                found.update(gradient if len(terms.wrt) > 1 else {terms.wrt[0]: gradient})
        return NamedArrays((name, found[name]) for name in wanted) if isinstance(wrt, tuple) else found[wrt]

    def evaluate(self, xp: Any, *operands: Any) -> tuple[Array, Any]:
        """Return the value and the slopes of each element, from arrays and options as `prepare` returns them."""
        value, slopes = self.terms(for_elements(xp), *operands)
        return xp.written_out(value) if self.written_out and library_name(xp) == "jax" else value, slopes

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape of the unreduced losses of arrays like `x`."""
        return tuple(x.shape)[: self.rows]

    @property
    def _has_rows(self) -> bool:
        return any(isinstance(domain, Distributions) for domain in self.domain.values())

    @functools.cached_property
    def _of_parts(self) -> Elementwise:
        """The same terms for parts of rows, which do not sum to 1."""
        parts = copy.copy(self)
        parts.domain = {n: PROBABILITY if isinstance(x, Distributions) else x for n, x in self.domain.items()}
        parts._remember()
        return parts

    def _columns(self, xp: Any, reduction: Any) -> tuple[Shards | None, Any]:
        """Return the shards over which the terms of a loss are summed, and the keywords of the reduction of losses."""
        if self.rows is None or reduction.get("across") is None:
            return None, reduction
        split = resolve(xp, reduction["across"])
        return split.classes, reduction | {"across": split.rows}

    def _unreduced(self, xp: Any, value: Array, columns: Shards | None) -> Array:
        summed = self._summed(value)
        if not summed:
            return value
        total, terms = xp.sum(value, axis=summed), value.shape[-1]
        if columns is not None:
            terms = sum(columns.lengths(terms, f"{total.dtype} losses of shape {tuple(total.shape)}"))
            total = columns.sum(total)
        return never_negative(xp, total, terms=terms, scale=1.0) if self.never_negative else total

    def not_negative(self, total: float, shape: tuple[int, ...], dtype: Any) -> float:
        """Return the sum of the losses of NumPy arrays, with 0 in place of a negative sum that rounding explains."""
        if not self.never_negative or not total < 0.0:
            return total
        *rows, terms = shape
        return float(never_negative(np, np.asarray(total, dtype), terms=terms, scale=float(math.prod(rows))))

    def spread(self, xp: Any, closing: Plan, slopes: Any, arguments: tuple[Any, ...]) -> Any:
        """Return the gradient from the slopes, or a dict of gradients."""
        if len(self.outputs) == 1 and type(slopes) is not tuple:
            return closing.spread(xp, slopes, arguments[0], self._summed(slopes), self.steep)
        self.require_slopes(slopes)
        return NamedArrays(
            (name, closing.spread(xp, slope, arguments[self.array_names.index(like)], self._summed(slope), self.steep))
            for (name, like), slope in zip(self.outputs.items(), slopes, strict=True)
        )

    def require_slopes(self, slopes: Any) -> None:
        """Raise a TypeError unless the terms returned what they are declared to return."""
        count, several = len(self.outputs), isinstance(slopes, (tuple, list))
        if several != (count > 1) or (several and len(slopes) != count):
            wanted = f"a tuple of {count} slopes" if count > 1 else "one slope"
            got = f"{len(slopes)} slopes" if several else type(slopes).__name__
            raise TypeError(
                f"{self.terms.__name__} must return {wanted} (wrt {', '.join(self.outputs)}) after the loss, got {got}"
            )

    def _summed(self, x: Array) -> tuple[int, ...]:
        """Return the axes that the terms are summed over."""
        return () if self.rows is None else tuple(range(len(x.shape)))[self.rows :]

    def prepare(self, arguments: tuple[Any, ...]) -> tuple[Any, list[Array], list[Any]]:
        """Check all arguments, and return the namespace, the arrays in the dtype to compute in, and the options."""
        count = len(self.array_names)
        given, options = arguments[:count], arguments[count:]
        if self._narrowing is not None:
            flag, value, _ = self._narrowing
            if options[self.option_names.index(flag)] is value:
                return self._narrow.prepare(arguments)
        if self._is_usual(given, options):
            for position, name, check in self._held:
                check(name, given[position])
            return np, [*given], self._settled(given[0].dtype, options)
        arrays = dict(zip(self.array_names, given, strict=True))
        dtype, checked = self.dtype_and_options(arrays, dict(zip(self.option_names, options, strict=True)))
        return namespace_of(given[0]), self.convert(arrays, dtype), checked

    def _known_of(self, arguments: tuple[Any, ...]) -> tuple[list[Any], Plan] | None:
        """Return the options and the plan of a usual call; they are remembered for NumPy arrays of one kind.

        All that is left to check are values.
        """
        count = len(self.array_names)
        first, options = arguments[0], arguments[count:]
        if not self._is_usual(arguments[:count], options) or self._narrowing is not None:
            return None
        for position, name, check in self._held:
            check(name, arguments[position])
        key = first.dtype, first.shape, options
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _KINDS:
                self._known.clear()
            known = self._known[key] = self._settled(first.dtype, options), plan(np, first.shape, first.dtype)
        return known

    def _is_usual(self, arrays: tuple[Any, ...], options: tuple[Any, ...]) -> bool:
        """Whether NumPy arrays and options are legal because they were checked before, at a third of the cost."""
        first = arrays[0]
        if type(first) is not np.ndarray or first.dtype not in _USUAL:
            return False
        dtype, shape = first.dtype, first.shape
        for x in arrays[1:]:
            if type(x) is not np.ndarray or x.dtype is not dtype or x.shape != shape:
                return False
        if not shape:
            return False
        return not options or {*map(type, options)} <= _PLAIN

    def dtype_and_options(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """Check everything but labels; return the dtype to compute in, and the options in the order of the terms."""
        xp = array_namespace(**arrays)
        require_same_shape(**arrays)
        predictions = arrays[self.array_names[0]]
        if len(self.wrt) == 1:
            dtype = compute_dtype(xp, predictions.dtype, self.array_names[0])
        else:
            dtype = widest_dtype(xp, **{name: arrays[name] for name in self.wrt})
        if self.rows is not None and self.rows < 0 and len(predictions.shape) == 0:
            raise ValueError(f"{self.array_names[0]} needs at least one axis, got a scalar")
        return dtype, self.settle(xp, [options[name] for name in self.option_names], predictions, dtype)

    def settle(self, xp: Any, options: Sequence[Any], predictions: Array, dtype: Any) -> list[Any]:
        """Check the options, and return them as the terms take them, followed by the constants."""
        checked = [self._option(xp, n, x, predictions, dtype) for n, x in zip(self.option_names, options, strict=True)]
        return checked + [constant.value(xp, dtype, predictions.dtype) for constant in self.constants]

    def convert(self, arrays: Mapping[str, Array], dtype: Any) -> list[Array]:
        """Return the arrays in the dtype to compute in. What lies outside its domain raises, or becomes NaN unseen."""
        self.check_arrays(arrays)
        xp = namespace_of(arrays[self.array_names[0]])
        found = {name: as_dtype(xp, x, dtype, name) for name, x in arrays.items()}
        for name, domain in self._enforced.items():
            found[name] = domain.or_nan(xp, found[name], arrays[name])
        if self._has_labels:
            labels = {name: domain for name, domain in self.domain.items() if isinstance(domain, Labels)}
            found |= {name: domain.or_nan(xp, found[name]) for name, domain in labels.items()}
        return list(found.values())

    def _option(self, xp: Any, name: str, option: Any, predictions: Array, dtype: Any) -> Any:
        domain: Interval = self.domain[name]
        option = domain.check(name, option)
        if isinstance(domain, ClipWidth):
            option = domain.for_dtype(option, xp, predictions.dtype)
        if isinstance(option, (float, bool)):  # older versions of torch.compile do not know `float | bool`
            return domain.for_dtype(option, xp, dtype) if isinstance(domain, Scale) else option
        require_library(xp, name, option)
        shape, full = tuple(option.shape), tuple(predictions.shape)
        if len(shape) > len(full) or any(n not in (1, m) for n, m in zip(shape[::-1], full[::-1], strict=False)):
            first = self.array_names[0]
            raise ValueError(f"{name} of shape {shape} does not broadcast to {first} of shape {full}")
        option = as_dtype(xp, option, dtype, name)
        return domain.for_dtype(option, xp, dtype) if isinstance(domain, Scale) else option


_PLAIN = {float, type(None)}
_KINDS = 256  # of calls, that are remembered
_NUMPY = for_elements(np)
_USUAL = (np.dtype(np.float32), np.dtype(np.float64))


def elementwise(
    *,
    kinks: Callable[..., tuple[Any, ...]] | None = None,
    slopes: int = 1,
    rows: int | None = None,
    never_negative: bool = False,
    steep: bool = False,
    written_out: bool = False,
    **domain: Any,
) -> Callable[[Terms], Elementwise]:
    """Declare the domains of the arguments of element-wise terms, arrays first, and their kinks.

    Args:
        kinks: a function of the arguments that returns arrays whose zeros are the points without a derivative.
        slopes: the number of arrays, from the first on, by which the terms are differentiated. If there are several,
            the terms return a tuple of slopes, and the gradient is a dict by argument name.
        rows: the unreduced losses have the shape `shape[:rows]`, because the terms are summed over all later axes:
            -1 for rows along the last axis, 1 for one loss per entry of the first axis. None sums nothing.
        never_negative: whether the loss of a row of probabilities cannot be negative. If it is negative by no more than
            rounding, it becomes 0.
        steep: whether a slope may overflow although the loss is finite. Such a slope becomes the largest finite number.
        written_out: whether a program of XLA is to write the values out before it adds them up. If the value is a
            product of results that XLA would write out otherwise, this may take less time. Measure both.
        **domain: what each argument of the terms may be, in their order.

    Example:
        >>> import numpy as np
        >>> from mithril_losses.domains import POSITIVE, REAL
        >>> @elementwise(predictions=REAL, targets=REAL, scale=POSITIVE)
        ... def _scaled(xp, predictions, targets, scale):
        ...     error = predictions - targets
        ...     return scale * error * error, 2 * scale * error
        >>> float(_scaled.value(np.array([3.0]), np.array([1.0]), 0.5))
        2.0
    """
    return lambda terms: Elementwise(terms, domain, kinks, slopes, rows, never_negative, steep, written_out)


def _legal(domain: Any, dtype: Any) -> Any:
    """Return what the elements of an array of a dtype may be, for the compiled loop."""
    from mithril_losses.loops.elements import Between, Rows

    if isinstance(domain, Labels):
        return tuple(map(float, domain.values))
    if isinstance(domain, Elements) and domain.is_bounded:
        return Between(*domain.bounds(dtype))
    if isinstance(domain, Distributions):
        return Rows(PROBABILITY.bounds(dtype)[0], math.inf, domain.near)  # the sum of a row bounds them from above
    return None


class _ElementLoop:
    """Computes element-wise terms of large NumPy arrays: in one compiled loop, or in blocks."""

    def __init__(self, template: Elementwise, call: Call, options: list[Any], dtype: Any) -> None:
        self._template, self._options, self._dtype = template, options, dtype
        self._call, self._arrays = call, list(call.arrays.values())
        self.like = self._arrays[0]

    @property
    def can_be_compiled(self) -> bool:
        """Whether a loop can take these layouts and dtypes."""
        differentiable = self._arrays[: len(self._template.wrt)]
        return all(x.flags.c_contiguous for x in self._arrays) and all(x.dtype == self._dtype for x in differentiable)

    @functools.cached_property
    def _is_scaled(self) -> bool:
        """Whether the upstream gradient may differ from 1."""
        upstream = self._call.reduction.get("upstream", 1.0)
        return not (is_number(upstream) and upstream == 1.0)

    def compiled(self, weights: Any, factor: Any, values: Any, gradients: list[Any], threads: int) -> float:
        """As in `Loop`."""
        return self._prepared(weights, factor, values is not None)(self._arrays, values, gradients, threads)

    def repeated(self, factor: float) -> Repeated:
        """As in `Loop`."""
        run = self._prepared(None, factor, False)
        return lambda arrays, gradients, threads: run(arrays, None, gradients, threads)

    def _prepared(self, weights: Any, factor: Any, keeps_values: bool) -> Callable[..., float]:
        """Return the loop as a function of arrays like those of this call, values, gradients and threads."""
        from mithril_losses.loops.elements import Prepared

        terms, like, dtype = self._template, self.like, self._dtype
        loop = Prepared(
            terms.terms,
            [_legal(terms.domain[n], x.dtype) for n, x in zip(terms.array_names, self._arrays, strict=True)],
            self._options,
            self._over_terms(weights),
            self._over_terms(factor),
            like,
            len(terms.outputs),
            keeps_values,
            limits.current.group,
            (terms.steep, terms.steep and not self._is_scaled),
        )
        is_shared = like.size >= limits.current.shared

        def run(arrays: Arrays, values: Any, gradients: Arrays, threads: int) -> float:
            total, are_legal = loop.run(arrays, values, gradients, threads if is_shared else 1)
            if not are_legal:
                terms.check_arrays(dict(zip(terms.array_names, arrays, strict=True)))
            return terms.not_negative(total, like.shape, dtype)

        return run

    def blocked(self, weights: Any, factor: Any, values: Any, gradients: list[Any], threads: int) -> float:
        """As in `Loop`."""
        terms, shape, arrays = self._template, self.like.shape, self._arrays
        terms.check_arrays(self._call.arrays)  # before they are cut: a block may be half a row
        operands = [*self._options, self._over_terms(factor), self._over_terms(weights)]
        flat = all(x.flags.c_contiguous for x in arrays) and all(
            not isinstance(x, np.ndarray) or x.size == 1 or (x.shape == shape and x.flags.c_contiguous)
            for x in operands
        )
        if flat:
            shape = (self.like.size,)
            arrays = [x.reshape(-1) for x in arrays]
            operands = [x.reshape(-1 if x.size > 1 else ()) if isinstance(x, np.ndarray) else x for x in operands]
        outs, kept = [x.reshape(shape) for x in gradients], None if values is None else values.reshape(shape)

        def work(rows: slice) -> float:
            *own, factor, weights = (rows_of(x, shape, rows) for x in operands)
            block = [as_dtype(np, x[rows], self._dtype) for x in arrays]
            with quiet(np):
                value, slopes = terms.evaluate(np, *block, *own)
                terms.require_slopes(slopes)
                for out, slope in zip(outs, slopes if len(outs) > 1 else (slopes,), strict=True):
                    self._write(out[rows], slope, factor, weights)
                if weights is not None:
                    value = np.where(weights == 0, 0.0, value * weights)
                if kept is not None:
                    kept[rows] = value
                return float(np.sum(value))

        return terms.not_negative(over_blocks(shape, work, threads), self.like.shape, self._dtype)

    def _write(self, out: Any, slope: Any, factor: Any, weights: Any) -> None:
        """Write slope · factor · weight."""
        steep = self._template.steep
        is_bounded = not self._is_scaled and (steep or out.dtype != self._dtype)
        slope = bounded(np, slope, self._dtype) if steep else slope
        if weights is None and not is_bounded:
            np.multiply(slope, factor, out=out)
            return
        slope = slope * factor
        if weights is not None:
            slope = np.where(weights == 0, 0.0, slope * weights)
        out[...] = bounded(np, slope, out.dtype) if is_bounded else slope

    def _over_terms(self, x: Any) -> Any:
        """Return an array with one entry per loss in a shape that broadcasts to the terms that are summed to losses."""
        if self._template.rows is None or not isinstance(x, np.ndarray):
            return x
        return x.reshape(x.shape + (1,) * (self.like.ndim - len(self._template.shape(self.like))))
