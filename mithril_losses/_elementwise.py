"""Element-wise losses: one small function of terms, (value, slope), evaluated on any array library."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from mithril_losses._reduction import GradientReduction, Reduction, collect, plan, spread
from mithril_losses._stable import never_negative
from mithril_losses._validation import as_dtype, compute_dtype, quiet, require_same_shape
from mithril_losses.backends._namespace import Array, array_namespace, namespace_of, require_library
from mithril_losses.domains import ArrayDomain, ClipWidth, Interval, Labels, SmallestNormal

Terms = Callable[..., tuple[Array, Array]]


class Elementwise:
    """The terms of an element-wise loss together with the domains of their arguments.

    The terms are a function `(xp, *arrays, *options) → (value, slope)` in plain array notation: the unreduced loss
    and its derivative wrt the first array. `xp` is the namespace of the arrays.
    """

    def __init__(
        self,
        terms: Terms,
        domain: Mapping[str, Any],
        kinks: Callable[..., tuple[Any, ...]] | None,
        row_mass: str | None = None,
    ) -> None:
        self.terms = terms
        self.kinks = kinks
        self.row_mass = row_mass
        names = list(inspect.signature(terms).parameters)[1:]
        if names != list(domain):
            raise TypeError(f"{terms.__name__} takes {names}, but domains are declared for {list(domain)}")
        self.constants = [d for d in domain.values() if isinstance(d, SmallestNormal)]
        self.domain = {name: d for name, d in domain.items() if not isinstance(d, SmallestNormal)}
        self.array_names = [name for name, d in self.domain.items() if isinstance(d, ArrayDomain)]
        self.option_names = list(self.domain)[len(self.array_names) :]

    def value(self, *arguments: Any, **reduction: Unpack[Reduction]) -> Array:
        """Return the reduced loss of arrays and options given in the order of the terms."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            value, _ = self.terms(xp, *arrays, *options)
            return collect(self.rows(xp, value, arrays), like=arguments[0], **reduction)

    def gradient(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> Array:
        """Return the gradient of `value` wrt the first array."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            _, slope = self.terms(xp, *arrays, *options)
            summed = None if self.row_mass is None else len(slope.shape) - 1
            return spread(slope, like=arguments[0], summed=summed, **reduction)

    def both(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> tuple[Array, Array]:
        """Return `value` and `gradient` from one evaluation of the terms."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            value, slope = self.terms(xp, *arrays, *options)
            value = self.rows(xp, value, arrays)
            summed = None if self.row_mass is None else len(slope.shape) - 1
            closing = plan(xp, tuple(value.shape), value.dtype, **reduction)
            like = arguments[0]
            return closing.collect(xp, value, like), closing.spread(xp, slope, like, summed)

    def rows(self, xp: Any, value: Array, arrays: list[Array]) -> Array:
        """Return the unreduced losses: the values, or their sums over the last axis."""
        if self.row_mass is None:
            return value
        mass = xp.sum(arrays[self.array_names.index(self.row_mass)], axis=-1)
        return never_negative(xp, xp.sum(value, axis=-1), terms=value.shape[-1], scale=mass)

    def prepare(self, arguments: tuple[Any, ...]) -> tuple[Any, list[Array], list[Any]]:
        """Return the namespace, the arrays in the dtype to compute in, and the options, all of them checked."""
        count = len(self.array_names)
        arrays = dict(zip(self.array_names, arguments[:count], strict=True))
        dtype, options = self.door(arrays, dict(zip(self.option_names, arguments[count:], strict=True)))
        return namespace_of(arguments[0]), self.convert(arrays, dtype), options

    def door(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """Return the dtype to compute in and the options in the order of the terms, having checked all but labels."""
        xp = array_namespace(**arrays)
        require_same_shape(**arrays)
        predictions = arrays[self.array_names[0]]
        dtype = compute_dtype(xp, predictions.dtype, self.array_names[0])
        if self.row_mass is not None and len(predictions.shape) == 0:
            raise ValueError(f"{self.array_names[0]} needs at least one axis, got a scalar")
        checked = [self._option(xp, name, options[name], predictions, dtype) for name in self.option_names]
        return dtype, checked + [constant.value(xp, dtype, predictions.dtype) for constant in self.constants]

    def convert(self, arrays: Mapping[str, Array], dtype: Any) -> list[Array]:
        """Return the arrays in the dtype to compute in; an illegal label is an error, or NaN if it is out of sight."""
        self.check_labels(arrays)
        xp = namespace_of(arrays[self.array_names[0]])
        return [self._convert(xp, self.domain[name], as_dtype(xp, arrays[name], dtype)) for name in self.array_names]

    def _convert(self, xp: Any, domain: Any, x: Array) -> Array:
        return domain.or_nan(xp, x) if isinstance(domain, Labels) else x

    def check_labels(self, arrays: Mapping[str, Array]) -> None:
        """Raise a ValueError if a label that can be seen is illegal."""
        for name, x in arrays.items():
            domain = self.domain[name]
            if isinstance(domain, Labels):
                domain.check(name, x)

    def _option(self, xp: Any, name: str, option: Any, predictions: Array, dtype: Any) -> Any:
        domain: Interval = self.domain[name]
        option = domain.check(name, option)
        if isinstance(domain, ClipWidth):
            option = domain.for_dtype(option, xp, predictions.dtype)
        if isinstance(option, float):
            return option
        require_library(xp, name, option)
        shape, full = tuple(option.shape), tuple(predictions.shape)
        if len(shape) > len(full) or any(n not in (1, m) for n, m in zip(shape[::-1], full[::-1], strict=False)):
            raise ValueError(f"{name} of shape {shape} does not broadcast to predictions of shape {full}")
        return as_dtype(xp, option, dtype)


def elementwise(
    *, kinks: Callable[..., tuple[Any, ...]] | None = None, row_mass: str | None = None, **domain: Any
) -> Callable[[Terms], Elementwise]:
    """Declare what the arguments of element-wise terms may be, arrays first, and where their kinks are.

    With `row_mass` the unreduced losses are the sums of the terms over the last axis, a divergence of rows that cannot
    be negative: what is negative by the rounding of a row whose `row_mass` argument sums to m is 0.

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
    return lambda terms: Elementwise(terms, domain, kinks, row_mass)
