"""Losses as one function that knows nothing of reductions: unreduced losses, and a way to their slopes.

`Elementwise` is for losses whose elements stand alone; `Unreduced` is for all others. Both close in the same way.
`Reduced` is for losses that close by themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mithril_losses._graph import differentiable_on_demand
from mithril_losses._reduction import Plan, plan, refuse_upstream
from mithril_losses._validation import quiet
from mithril_losses.backends._namespace import Array, in_c_order, namespace_of
from mithril_losses.domains import Choice

Wanted = tuple[str, ...]  # names of the arguments whose slopes are asked for; none where the value alone is


class Losses(NamedTuple):
    """The unreduced losses of one call.

    Attributes:
        values: ℓ, in the dtype to compute in.
        slopes: returns ∂ℓ/∂x, by the name of x, for each argument that is wanted; called only for a gradient.
        summed: the axes of x that a loss is summed over, in order; by default all that the losses do not have.
        mass: what each loss counts in the divisor of a mean; 1 by default.
        scaled: returns the slopes times a number, new arrays, where that costs no pass over them of its own.
    """

    values: Array
    slopes: Callable[[], Mapping[str, Array]]
    summed: tuple[int, ...] | None = None
    mass: Array | None = None
    scaled: Callable[[float], Mapping[str, Array]] | None = None


class Unreduced:
    """A function `(*arrays, *options, wanted) → Losses` as a loss, its gradient, and both at once.

    Attributes:
        domain: what each argument may be, arrays first.
        wrt: the arguments that the gradient is taken with respect to by default.
        on_request: the further ones that `wrt=` accepts.
        kinks: a function of the arguments that returns arrays whose zeros are the points without a derivative.
    """

    _further: tuple[str, ...] = ("wanted",)  # what the function takes beside the arguments of the loss

    def __init__(
        self,
        losses: Callable[..., Any],
        domain: Mapping[str, Any],
        wrt: str | tuple[str, ...],
        on_request: tuple[str, ...],
        kinks: Callable[..., tuple[Any, ...]] | None,
        pairwise: bool,
    ) -> None:
        names = list(inspect.signature(losses).parameters)
        if names != [*domain, *self._further]:
            raise TypeError(f"{losses.__name__} takes {names}, but domains are declared for {list(domain)}")
        self.losses = losses
        self.domain = dict(domain)
        self.wrt = (wrt,) if isinstance(wrt, str) else wrt
        self.on_request = on_request
        self.kinks = kinks
        self._default = wrt
        self._at = {name: position for position, name in enumerate(domain)}
        self._choice = Choice(tuple(name for name in domain if name in (*self.wrt, *on_request)))
        if pairwise:
            self.gradient = differentiable_on_demand(self.gradient)  # type: ignore[method-assign]
            self.both = differentiable_on_demand(self.both)  # type: ignore[method-assign]

    def value(self, *arguments: Any, **reduction: Any) -> Array:
        """Return the reduced loss of arrays and options given in the order of `domain`."""
        refuse_upstream(reduction)
        with quiet(namespace_of(arguments[0]) or np):  # what is no array, the losses refuse by its name
            found = self.losses(*arguments, wanted=())
            return self._plan(found, reduction).collect(namespace_of(found.values), found.values, arguments[0])

    def gradient(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> Any:
        """Return the gradient of `value` wrt one argument, or a dict of gradients by name for a tuple of arguments."""
        with quiet(namespace_of(arguments[0]) or np):
            found = self.losses(*arguments, wanted=self._wanted(wrt))
            return self._spread(found, self._plan(found, reduction), arguments, wrt)

    def both(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> tuple[Array, Any]:
        """Return `value` and `gradient` from one evaluation."""
        with quiet(namespace_of(arguments[0]) or np):
            found = self.losses(*arguments, wanted=self._wanted(wrt))
            closing = self._plan(found, reduction)
            value = closing.collect(namespace_of(found.values), found.values, arguments[0])
            return value, self._spread(found, closing, arguments, wrt)

    def _wanted(self, wrt: Any) -> tuple[str, ...]:
        """Return the names in `wrt`, checked, in the order of the arguments."""
        if wrt is None:
            return self.wrt
        if not self.on_request:
            raise TypeError(f"unexpected keyword argument 'wrt': the gradient is wrt {', '.join(self.wrt)}")
        names = {self._choice.check("wrt", name) for name in (wrt if isinstance(wrt, tuple) else (wrt,))}
        return tuple(name for name in self._choice.names if name in names)

    @staticmethod
    def _plan(found: Losses, reduction: Mapping[str, Any]) -> Plan:
        xp = namespace_of(found.values)
        return plan(xp, tuple(found.values.shape), found.values.dtype, mass=found.mass, **reduction)

    def _spread(self, found: Losses, closing: Plan, arguments: tuple[Any, ...], wrt: Any) -> Any:
        asked = self._default if wrt is None else wrt
        at, dtype = self._at, found.values.dtype
        if (
            found.scaled is not None
            and closing.is_a_number
            and all(arguments[at[name]].dtype == dtype for name in self.wrt)
        ):
            gradients = {name: in_c_order(x) for name, x in found.scaled(closing.factor).items()}
        else:
            gradients = {name: _spread(found, closing, x, arguments[at[name]]) for name, x in found.slopes().items()}
        return gradients if isinstance(asked, tuple) else gradients[asked]


class Reduced(Unreduced):
    """A function `(*arrays, *options, reduction, wanted) → (value, gradients by name)` as a loss and its gradient.

    Where every loss hangs on the same arrays as all others, the slopes of one do not stand apart: what each loss counts
    has to be known before they are computed, and they are added up on the way.
    """

    _further = ("reduction", "wanted")

    def value(self, *arguments: Any, **reduction: Any) -> Array:
        """As in `Unreduced`."""
        refuse_upstream(reduction)
        return self._evaluate(arguments, reduction, ())[0]

    def gradient(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> Any:
        """As in `Unreduced`."""
        return self.both(*arguments, wrt=wrt, **reduction)[1]

    def both(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> tuple[Array, Any]:
        """As in `Unreduced`."""
        value, gradients = self._evaluate(arguments, reduction, self._wanted(wrt))
        asked = self._default if wrt is None else wrt
        return value, gradients if isinstance(asked, tuple) else gradients[asked]

    def _evaluate(self, arguments: tuple[Any, ...], reduction: Mapping[str, Any], wanted: Wanted) -> Any:
        with quiet(namespace_of(arguments[0]) or np):
            return self.losses(*arguments, reduction=reduction, wanted=wanted)


def _spread(found: Losses, closing: Plan, slope: Any, like: Any) -> Any:
    """Return the gradient of a slope, an array or a nesting of them."""
    if hasattr(slope, "shape"):
        summed = found.summed
        if summed is None:
            summed = tuple(range(len(found.values.shape), len(slope.shape)))
        return closing.spread(namespace_of(found.values), slope, like, summed)
    if isinstance(slope, Mapping):
        return {name: _spread(found, closing, x, like[name]) for name, x in slope.items()}
    return type(slope)([_spread(found, closing, x, y) for x, y in zip(slope, like, strict=True)])


def unreduced(
    *,
    wrt: str | tuple[str, ...] | None = None,
    on_request: tuple[str, ...] = (),
    kinks: Callable[..., tuple[Any, ...]] | None = None,
    pairwise: bool = False,
    **domain: Any,
) -> Callable[[Callable[..., Losses]], Unreduced]:
    """Declare what the arguments of a function of unreduced losses may be, arrays first.

    Args:
        wrt: the argument that the gradient is taken with respect to, or a tuple of arguments, for which the gradient
            is a dict by name; the first by default.
        on_request: further arguments that `wrt=` accepts.
        kinks: a function of the arguments that returns arrays whose zeros are the points without a derivative.
        pairwise: whether slopes are computed from all pairs of two sets, none of which PyTorch's graph should keep.
        **domain: what each argument may be, in their order.

    Example:
        The sum of squares of each row:

        >>> import numpy as np
        >>> from mithril_losses.domains import REAL
        >>> @unreduced(predictions=REAL)
        ... def _squares(predictions, wanted):
        ...     return Losses((predictions**2).sum(axis=-1), lambda: {"predictions": 2.0 * predictions})
        >>> value, gradient = _squares.both(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> float(value), gradient.tolist()
        (15.0, [[1.0, 2.0], [3.0, 4.0]])
    """
    return lambda losses: Unreduced(losses, domain, _default(domain, wrt), on_request, kinks, pairwise)


def reduced(
    *,
    wrt: str | tuple[str, ...] | None = None,
    on_request: tuple[str, ...] = (),
    kinks: Callable[..., tuple[Any, ...]] | None = None,
    pairwise: bool = False,
    **domain: Any,
) -> Callable[[Callable[..., tuple[Array, dict[str, Array]]]], Reduced]:
    """Declare, as `unreduced` does, what the arguments of a function may be that closes its losses by itself."""
    return lambda losses: Reduced(losses, domain, _default(domain, wrt), on_request, kinks, pairwise)


def _default(domain: Mapping[str, Any], wrt: str | tuple[str, ...] | None) -> str | tuple[str, ...]:
    return next(iter(domain)) if wrt is None else wrt
