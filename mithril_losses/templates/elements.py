"""Element-wise losses: one small function of terms, (value, slopes), evaluated on any array library."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from mithril_losses.backends.namespaces import Array, array_namespace, namespace_of, require_library
from mithril_losses.backends.namespaces.numpy import for_elements
from mithril_losses.domains import ArrayDomain, ClipWidth, Interval, Labels, SmallestNormal
from mithril_losses.numerics.reduction import GradientReduction, Plan, Reduction, collect, plan, refuse_upstream
from mithril_losses.numerics.stable import first_axis, never_negative
from mithril_losses.numerics.validation import (
    as_dtype,
    compute_dtype,
    did_you_mean,
    quiet,
    require_same_shape,
    widest_dtype,
)

Terms = Callable[..., tuple[Array, Any]]


class Elementwise:
    """The terms of an element-wise loss together with the domains of their arguments.

    The terms are a function `(xp, *arrays, *options) → (value, slope)` in plain array notation: the loss of each
    element and its derivative wrt the first array, or a tuple of derivatives wrt the first few. `xp` is the namespace
    of the arrays.
    """

    def __init__(
        self,
        terms: Terms,
        domain: Mapping[str, Any],
        kinks: Callable[..., tuple[Any, ...]] | None = None,
        slopes: int = 1,
        rows: int | None = None,
        row_mass: str | None = None,
        steep: bool = False,
    ) -> None:
        self.terms = terms
        self.kinks = kinks
        self.rows = rows
        self.row_mass = row_mass
        self.steep = steep
        names = list(inspect.signature(terms).parameters)[1:]
        if names != list(domain):
            raise TypeError(f"{terms.__name__} takes {names}, but domains are declared for {list(domain)}")
        self.constants = [d for d in domain.values() if isinstance(d, SmallestNormal)]
        self.domain = {name: d for name, d in domain.items() if not isinstance(d, SmallestNormal)}
        self.array_names = [name for name, d in self.domain.items() if isinstance(d, ArrayDomain)]
        self.option_names = list(self.domain)[len(self.array_names) :]
        self.wrt = tuple(self.array_names[:slopes])
        self._has_labels = any(isinstance(d, Labels) for d in self.domain.values())
        self._remember_settled()

    def named(self, **names: str) -> Elementwise:
        """Return the same terms with some of their arguments under other names."""
        renamed = copy.copy(self)
        renamed.domain = {names.get(name, name): domain for name, domain in self.domain.items()}
        renamed.array_names = [names.get(name, name) for name in self.array_names]
        renamed.option_names = [names.get(name, name) for name in self.option_names]
        renamed.wrt = tuple(renamed.array_names[: len(self.wrt)])
        renamed._remember_settled()
        return renamed

    def _remember_settled(self) -> None:
        """Have `_settled` return what `settle` returns for plain numbers and NumPy arrays of a dtype, at once."""
        self._settled = functools.lru_cache(maxsize=64)(
            lambda dtype, options: self.settle(np, options, np.empty(0, dtype), dtype)
        )

    def value(self, *arguments: Any, **reduction: Unpack[Reduction]) -> Array:
        """Return the reduced loss of arrays and options given in the order of the terms."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            value, _ = self.evaluate(xp, *arrays, *options)
            return collect(self._unreduced(xp, value, arrays), like=arguments[0], **reduction)

    def gradient(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> Any:
        """Return the gradient of `value` wrt the first array, or a dict of gradients wrt the first few by name."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            _, slopes = self.evaluate(xp, *arrays, *options)
            closing = plan(xp, self.shape(arrays[0]), arrays[0].dtype, **reduction)
            return self._spread(xp, closing, slopes, arguments)

    def gradients(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> dict[str, Array]:
        """Return `gradient` of terms with several slopes, by name."""
        found: dict[str, Array] = self.gradient(*arguments, **reduction)
        return found

    def both(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> tuple[Array, Any]:
        """Return `value` and `gradient` from one evaluation of the terms."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            value, slopes = self.evaluate(xp, *arrays, *options)
            value = self._unreduced(xp, value, arrays)
            closing = plan(xp, tuple(value.shape), value.dtype, **reduction)
            return closing.collect(xp, value, arguments[0]), self._spread(xp, closing, slopes, arguments)

    def evaluate(self, xp: Any, *operands: Any) -> tuple[Array, Any]:
        """Return the value and the slopes of each element, from arrays and options as `prepare` returns them."""
        return self.terms(for_elements(xp), *operands)

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape of the unreduced losses of arrays like `x`."""
        return tuple(x.shape)[: self.rows]

    def _unreduced(self, xp: Any, value: Array, arrays: list[Array]) -> Array:
        summed = self._summed(value)
        if not summed:
            return value
        total = xp.sum(value, axis=summed)
        if self.row_mass is None:
            return total
        mass = xp.sum(arrays[self.array_names.index(self.row_mass)], axis=summed)
        return never_negative(xp, total, terms=value.shape[-1], scale=mass)

    def _spread(self, xp: Any, closing: Plan, slopes: Any, arguments: tuple[Any, ...]) -> Any:
        if len(self.wrt) == 1:
            return closing.spread(xp, slopes, arguments[0], self._summed(slopes), self.steep)
        return {
            name: closing.spread(xp, slope, like, self._summed(slope), self.steep)
            for name, slope, like in zip(self.wrt, slopes, arguments, strict=False)
        }

    def _summed(self, x: Array) -> tuple[int, ...]:
        """Return the axes that the terms are summed over."""
        return () if self.rows is None else tuple(range(len(x.shape)))[self.rows :]

    def prepare(self, arguments: tuple[Any, ...]) -> tuple[Any, list[Array], list[Any]]:
        """Return the namespace, the arrays in the dtype to compute in, and the options, all of them checked."""
        count = len(self.array_names)
        given, options = arguments[:count], arguments[count:]
        if self._is_usual(given, options):
            return np, [*given], self._settled(given[0].dtype, options)
        arrays = dict(zip(self.array_names, given, strict=True))
        dtype, checked = self.door(arrays, dict(zip(self.option_names, options, strict=True)))
        return namespace_of(given[0]), self.convert(arrays, dtype), checked

    def _is_usual(self, arrays: tuple[Any, ...], options: tuple[Any, ...]) -> bool:
        """Whether all is right with NumPy arrays and options that were seen before, at a third of the cost."""
        first = arrays[0]
        if self._has_labels or type(first) is not np.ndarray or first.dtype not in _USUAL or not first.ndim:
            return False
        for x in arrays:
            if type(x) is not np.ndarray or x.dtype is not first.dtype or x.shape != first.shape:
                return False
        return not options or {*map(type, options)} <= _PLAIN

    def door(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """Return the dtype to compute in and the options in the order of the terms, having checked all but labels."""
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
        """Return the options as the terms take them, having checked them, and the constants after them."""
        checked = [self._option(xp, n, x, predictions, dtype) for n, x in zip(self.option_names, options, strict=True)]
        return checked + [constant.value(xp, dtype, predictions.dtype) for constant in self.constants]

    def convert(self, arrays: Mapping[str, Array], dtype: Any) -> list[Array]:
        """Return the arrays in the dtype to compute in; an illegal label is an error, or NaN if it is out of sight."""
        self.check_labels(arrays)
        xp = namespace_of(arrays[self.array_names[0]])
        found = [as_dtype(xp, x, dtype, name) for name, x in arrays.items()]
        if not self._has_labels:
            return found
        domains = [self.domain[name] for name in arrays]
        return [d.or_nan(xp, x) if isinstance(d, Labels) else x for d, x in zip(domains, found, strict=True)]

    def check_labels(self, arrays: Mapping[str, Array]) -> None:
        """Raise a ValueError if a label that can be seen is illegal."""
        for name, x in arrays.items() if self._has_labels else ():
            domain = self.domain[name]
            if isinstance(domain, Labels):
                domain.check(name, x)

    def _option(self, xp: Any, name: str, option: Any, predictions: Array, dtype: Any) -> Any:
        domain: Interval = self.domain[name]
        option = domain.check(name, option)
        if isinstance(domain, ClipWidth):
            option = domain.for_dtype(option, xp, predictions.dtype)
        if isinstance(option, (float, bool)):  # older versions of torch.compile do not know `float | bool`
            return option
        require_library(xp, name, option)
        shape, full = tuple(option.shape), tuple(predictions.shape)
        if len(shape) > len(full) or any(n not in (1, m) for n, m in zip(shape[::-1], full[::-1], strict=False)):
            raise ValueError(f"{name} of shape {shape} does not broadcast to predictions of shape {full}")
        return as_dtype(xp, option, dtype, name)


_PLAIN = {float, type(None)}
_USUAL = (np.dtype(np.float32), np.dtype(np.float64))


def elementwise(
    *,
    kinks: Callable[..., tuple[Any, ...]] | None = None,
    slopes: int = 1,
    rows: int | None = None,
    row_mass: str | None = None,
    steep: bool = False,
    **domain: Any,
) -> Callable[[Terms], Elementwise]:
    """Declare what the arguments of element-wise terms may be, arrays first, and where their kinks are.

    Args:
        kinks: a function of the arguments that returns arrays whose zeros are the points without a derivative.
        slopes: how many of the arrays, from the first on, the terms are differentiated by. With several the terms
            return a tuple of slopes, and the gradient is a dict by argument name.
        rows: the unreduced losses have the shape `shape[:rows]`, because the terms are summed over the axes after
            it: -1 for rows along the last axis, 1 for one loss per entry of the first axis. None sums nothing.
        row_mass: the array that scales the rounding of a sum of terms that cannot be negative: what is negative by
            the rounding of a row that sums to m in this array is 0.
        steep: a slope may lie beyond the largest finite number where the loss is finite. That number then stands in
            its place.
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
    return lambda terms: Elementwise(terms, domain, kinks, slopes, rows, row_mass, steep)


class Apart:
    """Element-wise losses of one array each, which are reduced apart and then added: L = Σₖ R(ℓₖ(xₖ)).

    The arrays may differ in shape wherever R leaves shapes that can be added, such as numbers. `weights` and
    `normalizer` hold for every array, or are mappings from the name of an array to its own.
    """

    def __init__(self, **parts: Elementwise) -> None:
        self.parts = parts
        self.wrt = tuple(parts)
        self.domain = {name: part.domain[name] for name, part in parts.items()}
        for part in parts.values():
            self.domain |= part.domain

    def kinks(self, *arrays: Array, **options: Any) -> tuple[Any, ...]:
        """Return the arrays whose zeros are the points without a derivative."""
        return tuple(
            distance
            for part, x in zip(self.parts.values(), arrays, strict=True)
            if part.kinks is not None
            for distance in part.kinks(x, *(options[name] for name in part.option_names))
        )

    def value(self, *arguments: Any, **reduction: Unpack[Reduction]) -> Array:
        """Return the loss of arrays and options given in the order of `domain`."""
        refuse_upstream(reduction)
        return self._close(arguments, reduction, value=True, slopes=False)[0]

    def gradient(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> dict[str, Array]:
        """Return the gradients of `value` wrt every array, by name."""
        return self._close(arguments, reduction, value=False, slopes=True)[1]

    def both(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> tuple[Array, dict[str, Array]]:
        """Return `value` and `gradient` from one evaluation of the terms."""
        return self._close(arguments, reduction, value=True, slopes=True)

    def _close(
        self, arguments: tuple[Any, ...], reduction: Any, value: bool, slopes: bool
    ) -> tuple[Any, dict[str, Array]]:
        given = dict(zip(self.domain, arguments, strict=True))
        xp = array_namespace(**{name: given[name] for name in self.parts})
        total, gradients, left = None, {}, {}
        with quiet(xp):
            for name, part, own in self.split(reduction):
                _, (x,), options = part.prepare((given[name], *(given[option] for option in part.option_names)))
                closing = plan(xp, tuple(x.shape), x.dtype, **own)
                left[name] = closing.shape(tuple(x.shape))
                self.require_addable(left)
                values, slope = part.evaluate(xp, x, *options)
                if value:
                    reduced = closing.collect(xp, values, values)
                    total = reduced if total is None else total + reduced
                if slopes:
                    gradients[name] = closing.spread(xp, slope, given[name])
        return total if total is None else as_dtype(xp, total, arguments[0].dtype), gradients

    def split(self, reduction: Mapping[str, Any]) -> Iterator[tuple[str, Elementwise, dict[str, Any]]]:
        """Yield the name of each array, its terms, and its own reduction keywords.

        Raises:
            ValueError: a mapping has a key that is no array's name.
        """
        for keyword in ("weights", "normalizer"):
            given = reduction.get(keyword)
            for name in given if isinstance(given, Mapping) else ():
                if name not in self.parts:
                    raise ValueError(
                        f"{keyword} has the key {name!r}, which is none of {', '.join(self.parts)}"
                        f"{did_you_mean(str(name), self.parts)}"
                    )
        for name, part in self.parts.items():
            yield name, part, {k: x.get(name) if isinstance(x, Mapping) else x for k, x in reduction.items()}

    def require_addable(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise a ValueError unless what is left of the arrays has one shape: nothing is broadcast silently."""
        if len(set(shapes.values())) > 1:
            left = " and ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
            raise ValueError(f"the reduced losses are added, but the reduction leaves {left}; reduce them to numbers")


class ByColumn:
    """Element-wise terms of the columns of arrays (…, n): one loss per row, with a slope for every column of the first.

    The terms take the columns of one array after those of the other.
    """

    def __init__(self, terms: Elementwise, columns: str, **domain: Any) -> None:
        self.terms = terms
        self.domain = domain
        self.wrt = tuple(domain)[:1]
        self.kinks = None
        self._meaning = columns
        self._count = len(terms.wrt)

    def value(self, *arrays: Array, **reduction: Unpack[Reduction]) -> Array:
        """Return the reduced loss."""
        return self.terms.value(*self.split(arrays).values(), **reduction)

    def gradient(self, *arrays: Array, **reduction: Unpack[GradientReduction]) -> Array:
        """Return the gradient of `value` wrt the first array."""
        return self.join(self.terms.gradient(*self.split(arrays).values(), **reduction))

    def both(self, *arrays: Array, **reduction: Unpack[GradientReduction]) -> tuple[Array, Array]:
        """Return `value` and `gradient` from one evaluation of the terms."""
        value, gradients = self.terms.both(*self.split(arrays).values(), **reduction)
        return value, self.join(gradients)

    def split(self, arrays: Iterable[Array]) -> dict[str, Array]:
        """Return the columns by the names that the terms have for them.

        Raises:
            ValueError: the arrays differ in shape, or do not have that many columns.
        """
        named = dict(zip(self.domain, arrays, strict=True))
        xp = array_namespace(**named)
        require_same_shape(**named)
        shape = tuple(next(iter(named.values())).shape)
        if not shape or shape[-1] != self._count:
            raise ValueError(f"{self._meaning} on the last axis, got shape {shape}")
        columns = [column for x in named.values() for column in _columns(first_axis(xp, x))]
        return dict(zip(self.terms.array_names, columns, strict=True))

    def join(self, gradients: Mapping[str, Array]) -> Array:
        """Return the gradients wrt the columns as one array."""
        xp: Any = namespace_of(next(iter(gradients.values())))
        joined: Array = xp.stack([gradients[name] for name in self.terms.wrt], axis=-1)
        return joined


def _columns(x: Array) -> list[Array]:
    return [x[k, ...] for k in range(x.shape[0])]
