"""Element-wise losses: one small function of terms, (value, slope), evaluated on any array library."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from mithril_losses._reduction import GradientReduction, Reduction, collect, spread
from mithril_losses._validation import as_dtype, compute_dtype, quiet, require_same_shape
from mithril_losses.backends._namespace import Array, array_namespace, require_library
from mithril_losses.domains import ArrayDomain, ClipWidth, Interval, Labels

Terms = Callable[..., tuple[Array, Array]]


class Elementwise:
    """The terms of an element-wise loss together with the domains of their arguments.

    The terms are a function `(xp, *arrays, *options) → (value, slope)` in plain array notation: the unreduced loss
    and its derivative wrt the first array. `xp` is the namespace of the arrays.
    """

    def __init__(self, terms: Terms, domain: Mapping[str, Any], kinks: Callable[..., tuple[Any, ...]] | None) -> None:
        self.terms = terms
        self.domain = dict(domain)
        self.kinks = kinks
        names = list(inspect.signature(terms).parameters)[1:]
        if names != list(domain):
            raise TypeError(f"{terms.__name__} takes {names}, but domains are declared for {list(domain)}")
        self.array_names = [name for name in names if isinstance(domain[name], ArrayDomain)]
        self.option_names = names[len(self.array_names) :]

    def value(self, *arguments: Any, **reduction: Unpack[Reduction]) -> Array:
        """Return the reduced loss of arrays and options given in the order of the terms."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            value, _ = self.terms(xp, *arrays, *options)
            return collect(value, like=arguments[0], **reduction)

    def gradient(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> Array:
        """Return the gradient of `value` wrt the first array."""
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            _, slope = self.terms(xp, *arrays, *options)
            return spread(slope, like=arguments[0], **reduction)

    def prepare(self, arguments: tuple[Any, ...]) -> tuple[Any, list[Array], list[Any]]:
        """Return the namespace, the arrays in the dtype to compute in, and the options, all of them checked."""
        count = len(self.array_names)
        named = dict(zip(self.array_names, arguments[:count], strict=True))
        xp = array_namespace(**named)
        require_same_shape(**named)
        predictions = arguments[0]
        dtype = compute_dtype(xp, predictions.dtype, self.array_names[0])
        arrays = [self._array(xp, name, x, dtype) for name, x in named.items()]
        options = [
            self._option(xp, name, option, predictions, dtype)
            for name, option in zip(self.option_names, arguments[count:], strict=True)
        ]
        return xp, arrays, options

    def _array(self, xp: Any, name: str, x: Array, dtype: Any) -> Array:
        domain = self.domain[name]
        if isinstance(domain, Labels):
            domain.check(name, x)
            return domain.or_nan(xp, as_dtype(xp, x, dtype))
        return as_dtype(xp, x, dtype)

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
    *, kinks: Callable[..., tuple[Any, ...]] | None = None, **domain: Any
) -> Callable[[Terms], Elementwise]:
    """Declare what the arguments of element-wise terms may be, arrays first, and where their kinks are.

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
    return lambda terms: Elementwise(terms, domain, kinks)
