"""Losses composed of other losses: weighted, scheduled, summed. Each is itself a loss, with its gradient."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from inspect import Parameter
from typing import Any

import numpy as np

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, fresh, namespace_of
from mithril_losses.catalogue import Pair, find_loss
from mithril_losses.domains import Matrices, Parameters
from mithril_losses.execution import value_and_gradient
from mithril_losses.numerics.trees import add_into, leaves, map_leaves
from mithril_losses.numerics.validation import as_dtype, did_you_mean, is_number, quiet
from mithril_losses.objectives.schedules import Schedule
from mithril_losses.objectives.terms import (
    Loss,
    check_weight,
    is_built_in,
    named,
    option_names,
    scheduled_weight,
    weighted,
)
from mithril_losses.templates.composed import Composed

__all__ = ["CompositeLoss", "ScheduledLoss", "WeightedLoss"]

# a function (*arrays, **options) → (value, gradient); the value is None if it is not wanted
Both = Callable[..., tuple[Any, Any]]


class _OwnDefault:
    def __repr__(self) -> str:
        return "<each loss's own>"


_OWN: Any = _OwnDefault()  # stands for the default of an option whose defaults differ between the losses of a sum


class _Part:
    """One loss of a sum: its name among the components, and the numbers, arrays and schedules that multiply it."""

    def __init__(self, name: str, pair: Pair, factors: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.pair = pair
        self.factors = factors
        self.arrays = pair.array_arguments
        self.options = frozenset(option_names(pair))
        self.wrt = frozenset(pair.wrt)
        self.is_built_in = is_built_in(pair)

    @classmethod
    def of(cls, loss: Loss) -> _Part:
        if isinstance(loss, WeightedLoss | ScheduledLoss):
            return loss._parts[0]
        pair = find_loss(loss)
        if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(pair.value).parameters.values()):
            raise TypeError(f"{pair.name} takes *arguments; only losses whose arguments have names can be composed")
        return cls(pair.name, pair)

    def times(self, factor: Any, name: str | None) -> _Part:
        return _Part(name or self.name, self.pair, (*self.factors, factor))

    def weight(self, step: Any, xp: Any) -> Any:
        """Return the product of the factors: a float, or an array of the library `xp`."""
        weight: Any = 1.0
        for factor in self.factors:
            now = factor
            if callable(factor):
                try:
                    now = scheduled_weight(factor, step)
                except (TypeError, ValueError) as error:  # `torch.compile` understands this, and no `Naming`
                    raise named(self.name, error) from error
            weight = weight * (float(now) if is_number(now) or namespace_of(now) is not xp or xp is np else now)
        return weight

    def arguments(self, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return those arguments that this loss takes, by position and by name."""
        options = {name: x for name, x in given.items() if name in self.options and x is not _OWN}
        return [given[name] for name in self.arrays], options

    def require_split(self) -> None:
        """Raise a ValueError if arguments that are split would reach a loss that cannot tell; parameters are not."""
        kinds = [self.pair.domain.get(name) for name in self.arrays]
        if "across" not in self.options and not all(isinstance(kind, Parameters | Matrices) for kind in kinds):
            raise ValueError(f"{self.name} takes no across=, so its arguments cannot be split")

    def asked(self, wrt: Sequence[str]) -> dict[str, Any] | None:
        """Return the keywords that ask the gradient for those of `wrt` that this loss takes; None if it takes none."""
        names = tuple(name for name in wrt if name in self.arrays or name in self.options)
        if not names:
            return None
        return {} if self.wrt.issuperset(names) else {"wrt": names}

    def by_argument(self, gradient: Any, asked: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the gradient as a dict of new arrays by argument."""
        found = gradient if asked or len(self.pair.wrt) > 1 else {self.pair.wrt[0]: gradient}
        if self.is_built_in:
            return found
        expected = asked.get("wrt") or [name for name in self.pair.wrt if given.get(name) is not None]
        if not isinstance(found, Mapping) or found.keys() != set(expected):
            raise ValueError(f"{self.name}: the gradient must be a dict of {', '.join(expected)}, got {found!r}")
        return {name: self._fit(name, x, given) for name, x in found.items()}

    def _fit(self, name: str, gradient: Any, given: Mapping[str, Any]) -> Any:
        """Return a copy of a gradient in its argument's dtype, checked to have its structure and shape."""
        arrays = dict(leaves(given[name]))
        found, expected = ({path: tuple(x.shape) for path, x in tree} for tree in (leaves(gradient), arrays.items()))
        if found != expected:
            raise ValueError(f"{self.name}: the gradient wrt {name} has the shapes {found}, the argument {expected}")
        return map_leaves(lambda path, x: as_dtype(namespace_of(x), fresh(x), arrays[path].dtype), gradient)


class _Sum:
    """The base of composed losses: Σ wᵢ Lᵢ with its gradient, callable like any loss.

    Everything that depends only on the losses is computed once at the start, so that calls and traces are fast.
    """

    name: str
    pair: Pair
    _parts: tuple[_Part, ...]
    _positional: list[str]
    _required: set[str]
    _accepted: set[str]
    _gradients: list[Both]
    _both: Both

    def _settle(self, name: str, parts: Sequence[_Part], returns: tuple[str, ...] = ()) -> None:
        signature = _signature(parts)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        wrt = tuple(dict.fromkeys(argument for part in parts for argument in part.pair.wrt))
        for part in parts:
            fixed = {*part.arrays, *part.options} - {*part.pair.wrt, *part.pair.on_request}
            if fixed & set(wrt):
                raise ValueError(f"{part.name} has no gradient wrt {(fixed & set(wrt)).pop()}, but another loss has")
        facts = {
            "name": name,
            "_parts": tuple(parts),
            "_positional": [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD],
            "_required": {p.name for p in parameters if p.default is p.empty},
            "_accepted": {p.name for p in parameters}.union(*(part.options for part in parts)),
            "__signature__": signature,
        }
        for key, fact in facts.items():
            object.__setattr__(self, key, fact)  # the losses are frozen for their users
        pair = Pair(
            name=name,
            value=self,
            gradient=self.gradient,
            wrt=wrt,
            on_request=_on_request(parts, wrt),
            domain=_domain(parts),
            kinks=self._kinks,
            returns=returns,
            terms=Composed(self._compose, separable=False),
        )
        object.__setattr__(self, "pair", pair)
        object.__setattr__(self, "_gradients", [weighted(part.pair, _gradient_alone(part.pair)) for part in parts])
        object.__setattr__(self, "_both", self._compose(value_and_gradient))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Return the value; each loss gets the arguments that it takes."""
        given = self._given(arguments, options)
        return self._total([self._value(part, given) for part in self._parts], self._weights(given))

    def gradient(self, *arguments: Any, upstream: float | Array = 1.0, wrt: Any = None, **options: Any) -> Any:
        """Return the gradient: an array, or a dict by argument if several arguments are differentiable.

        Args:
            *arguments: as in the call.
            upstream: the gradient that flows into the loss.
            wrt: the argument, or tuple of arguments, to differentiate by; by default those of each loss.
            **options: as in the call.
        """
        given = self._given(arguments, options)
        return self._run(self._gradients, given, self._weights(given), upstream, wrt)[1]

    def value_and_gradient(self, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        """Return the results of the call and of `gradient`, from one evaluation of each loss, on its fast path."""
        return self._both(*arguments, **options)

    def _compose(self, fast: Callable[..., Both]) -> Both:
        if len(self._parts) > 1:
            fast = partial(fast, donate=False)  # the other losses need the memory still
        functions = [weighted(part.pair, fast(part.pair.value)) for part in self._parts]

        def both(*arguments: Any, upstream: float | Array = 1.0, wrt: Any = None, **options: Any) -> tuple[Any, Any]:
            given = self._given(arguments, options)
            weights = self._weights(given)
            values, gradient = self._run(functions, given, weights, upstream, wrt)
            return self._total(values, weights), gradient

        return both

    # --- the arguments ------------------------------------------------------------------------------------------------

    def _given(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
        """Return all arguments by name, or raise a TypeError as a function would."""
        if len(arguments) > len(self._positional):
            raise TypeError(f"{self.name} takes {', '.join(self._positional)} by position, got {len(arguments)}")
        given = dict(zip(self._positional, arguments, strict=False))
        for name, option in options.items():
            if name not in self._accepted:
                raise TypeError(f"{self.name} takes no argument {name!r}{did_you_mean(name, self._accepted)}")
            if name in given:
                raise TypeError(f"{self.name} got {name!r} twice")
            given[name] = option
        if given.get("across") is not None:
            for part in self._parts:
                part.require_split()
        missing = [name for name in self._required if name not in given]
        if missing:
            raise TypeError(f"{self.name} needs {', '.join(sorted(missing))}")
        return given

    def _weights(self, given: Mapping[str, Any]) -> list[Any]:
        arrays = (x for argument in given.values() for _, x in leaves(argument))  # the first argument may be left out
        xp = next((xp for xp in map(namespace_of, arrays) if xp is not None), None)
        return [part.weight(given.get("step"), xp) for part in self._parts]

    # --- the sums -----------------------------------------------------------------------------------------------------

    def _value(self, part: _Part, given: Mapping[str, Any]) -> Any:
        arrays, options = part.arguments(given)
        return part.pair.value(*arrays, **options)

    def _total(self, values: Sequence[Any], weights: Sequence[Any]) -> Any:
        """Return Σ wᵢ Lᵢ, where a loss that returns its parts as well counts with its total."""
        losses = [part.pair.total_of(value) for part, value in zip(self._parts, values, strict=True)]
        shapes = {part.name: tuple(getattr(x, "shape", ())) for part, x in zip(self._parts, losses, strict=True)}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"losses of one sum must have one shape, got {shapes}")
        with quiet(namespace_of(losses[0]) or np):
            return reduce(operator.add, map(_product, weights, losses))

    def _run(
        self, functions: Sequence[Both], given: Mapping[str, Any], weights: Sequence[Any], upstream: Any, wrt: Any
    ) -> tuple[list[Any], Any]:
        """Return the values of the losses, and the sum of their weighted gradients."""
        wanted = self.pair.wrt if wrt is None else (wrt,) if isinstance(wrt, str) else tuple(wrt)
        for name in wanted:
            if name not in self.pair.wrt and name not in self.pair.on_request:
                known = (*self.pair.wrt, *self.pair.on_request)
                raise ValueError(f"wrt must be one of {', '.join(map(repr, known))}, got {name!r}")
        values: list[Any] = []
        total: NamedArrays[Any] = NamedArrays()
        for part, function, weight in zip(self._parts, functions, weights, strict=True):
            asked = part.asked(wanted)
            if asked is None:
                values.append(self._value(part, given))
                continue
            arrays, options = part.arguments(given)
            value, gradient = function(weight * upstream, *arrays, **options, **asked)
            values.append(value)
            for name, found in part.by_argument(gradient, asked, given).items():
                if name in wanted:
                    total[name] = add_into(total[name], found) if name in total else found
        several = len(wanted) > 1 if wrt is None else not isinstance(wrt, str)
        return values, total if several else total[wanted[0]]

    def _kinks(self, *arrays: Any, **options: Any) -> tuple[Any, ...]:
        given = dict(zip(self._positional, arrays, strict=True)) | options
        return tuple(distance for part in self._parts for distance in part.pair.kinks_at(*part.arguments(given)))


# --- the public losses ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WeightedLoss(_Sum):
    """w · L: a loss with a fixed weight.

    Args:
        loss_fn: a registered loss, as the function or its name; a `functools.partial` of one, which fixes some of its
            options; or any object with a method `gradient`, composed losses included.
        weight: w, a finite number, or a scalar array, such as one that JAX traces or PyTorch trains.
        name: the name among the components of a `CompositeLoss`; by default the name of the loss.

    Raises:
        ValueError: the loss has no gradient, or the weight is neither a finite number nor a scalar array.
        TypeError: the loss takes `*arguments`, which have no names.

    Example:
        2 · (1² + 3²)/2 = 10.

        >>> import numpy as np
        >>> from mithril_losses import mse_loss
        >>> loss = WeightedLoss(mse_loss, weight=2.0)
        >>> predictions, targets = np.array([1.0, 3.0]), np.array([0.0, 0.0])
        >>> float(loss(predictions, targets)), loss.gradient(predictions, targets).tolist()
        (10.0, [2.0, 6.0])
    """

    loss_fn: Loss
    weight: float | Array = 1.0
    name: str | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        shape = tuple(getattr(self.weight, "shape", ()))
        if namespace_of(self.weight) is None or is_number(self.weight):
            check_weight(self.weight, schedules=False)
        elif shape != ():
            raise ValueError(f"weight must be one number, got an array of shape {shape}")
        part = _Part.of(self.loss_fn).times(self.weight, self.name)
        self._settle(part.name, [part])


@dataclass(frozen=True, eq=False)
class ScheduledLoss(_Sum):
    """w(step) · L: a loss whose weight follows a schedule. Call it with `step=`.

    Args:
        loss_fn: as in `WeightedLoss`.
        schedule_fn: w, a function of the step that returns a number or a scalar array, such as
            `linear_warmup(1000)`. If the step is traced, w must be traceable.
        name: its name among the components of a `CompositeLoss`; the loss's own name by default.

    Raises:
        ValueError: the loss has no gradient; or, from a call, the schedule gives a number that is not finite.
        TypeError: the loss takes `*arguments`, or the schedule is not a function; or, from a call, `step` is missing.

    Example:
        At step 5 of 10 the weight is ½: ½ · (1² + 3²)/2 = 2.5.

        >>> import numpy as np
        >>> from mithril_losses import mse_loss
        >>> from mithril_losses.objectives import linear_warmup
        >>> loss = ScheduledLoss(mse_loss, linear_warmup(steps=10))
        >>> predictions, targets = np.array([1.0, 3.0]), np.array([0.0, 0.0])
        >>> float(loss(predictions, targets, step=5)), loss.gradient(predictions, targets, step=5).tolist()
        (2.5, [0.5, 1.5])
    """

    loss_fn: Loss
    schedule_fn: Schedule
    name: str | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not callable(self.schedule_fn):
            raise TypeError(f"schedule_fn must be a function of the step, got {self.schedule_fn!r}")
        part = _Part.of(self.loss_fn).times(self.schedule_fn, self.name)
        self._settle(part.name, [part])


@dataclass(frozen=True, eq=False)
class CompositeLoss(_Sum):
    """Σ wᵢ Lᵢ: several losses as one.

    A call takes the arguments of all its losses, by name, or by position in the order in which the losses first name
    them. Each loss gets the arguments that it takes. An argument of several losses goes to all of them, so that
    `predictions` is the same array for each. The gradient has an entry for each argument that a loss differentiates:
    the sum over the losses. It is an array if there is one such argument, a dict by argument if there are several.

    Args:
        losses: losses as in `WeightedLoss`; `WeightedLoss` and `ScheduledLoss` give a loss a weight and a name.
        return_components: whether a call returns `(total, components)`, with the **unweighted** value of each loss by
            name, instead of the total alone.

    Raises:
        ValueError: there is no loss, a loss has no gradient, two losses have the same name, or an argument that one
            loss differentiates is a fixed target of another.
        TypeError: `losses` is no list, or a loss takes `*arguments`.

    Example:
        (1² + 3²)/2 = 5 and (|1| + |3|)/2 = 2, the second at weight ½: 6.

        >>> import numpy as np
        >>> from mithril_losses import mae_loss, mse_loss
        >>> loss = CompositeLoss([mse_loss, WeightedLoss(mae_loss, weight=0.5, name="l1")], return_components=True)
        >>> predictions, targets = np.array([1.0, 3.0]), np.array([0.0, 0.0])
        >>> total, components = loss(predictions, targets)
        >>> float(total), {name: float(value) for name, value in components.items()}
        (6.0, {'mse_loss': 5.0, 'l1': 2.0})
        >>> loss.gradient(predictions, targets).tolist()
        [1.25, 3.25]
    """

    losses: Sequence[Loss]
    return_components: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.losses, str) or not isinstance(self.losses, Iterable):
            raise TypeError(f"losses must be a list of losses, got {self.losses!r}")
        parts = [_Part.of(loss) for loss in self.losses]
        names = [part.name for part in parts]
        if not parts:
            raise ValueError("a composite needs at least one loss")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"losses of a composite need different names, but {name!r} is taken twice")
        self._settle(" + ".join(names), parts, ("total", "components") if self.return_components else ())

    def _total(self, values: Sequence[Any], weights: Sequence[Any]) -> Any:
        total = super()._total(values, weights)
        if not self.return_components:
            return total
        return total, {part.name: part.pair.total_of(value) for part, value in zip(self._parts, values, strict=True)}


# --- what the arguments of a sum are ----------------------------------------------------------------------------------


def _signature(parts: Sequence[_Part]) -> inspect.Signature:
    """Return the parameters of all losses: arrays by position, options by name (those of a single loss unchanged)."""
    merged: dict[str, Parameter] = {}
    for part in parts:
        for name, parameter in part.pair.parameters.items():
            merged[name] = _merged(merged[name], parameter) if name in merged else parameter
    ordered = []
    for parameter in merged.values():
        by_name = parameter.kind is parameter.KEYWORD_ONLY or (len(parts) > 1 and parameter.default is not _EMPTY)
        ordered.append(parameter.replace(kind=Parameter.KEYWORD_ONLY if by_name else Parameter.POSITIONAL_OR_KEYWORD))
    if "step" not in merged and any(callable(factor) for part in parts for factor in part.factors):
        ordered.append(Parameter("step", Parameter.KEYWORD_ONLY))
    if any(part.pair.passes_reduction_on for part in parts):
        ordered.append(Parameter("keywords", Parameter.VAR_KEYWORD))
    return inspect.Signature(sorted(ordered, key=lambda p: (p.kind, p.default is not _EMPTY)))


_EMPTY = Parameter.empty


def _merged(one: Parameter, other: Parameter) -> Parameter:
    """Return the common parameter of two losses: required if one loss requires it, with the default that they share."""
    if _EMPTY in (one.default, other.default):
        return one if one.default is _EMPTY else other
    return one if one.default is other.default or one.default == other.default else one.replace(default=_OWN)


def _on_request(parts: Sequence[_Part], wrt: Sequence[str]) -> tuple[str, ...]:
    """Return the further arguments by which all losses that take them can be differentiated."""
    names = dict.fromkeys(name for part in parts for name in part.pair.on_request if name not in wrt)
    takers = {name: [part for part in parts if name in part.arrays or name in part.options] for name in names}
    return tuple(name for name in names if all(name in part.pair.on_request for part in takers[name]))


def _domain(parts: Sequence[_Part]) -> dict[str, Any]:
    domain: dict[str, Any] = {}
    for part in parts:
        for name, own in part.pair.domain.items():
            domain[name] = own if domain.get(name, own) == own else "as each loss takes it"
    return domain


def _gradient_alone(pair: Pair) -> Both:
    return lambda *arguments, **options: (None, pair.gradient(*arguments, **options))


def _product(weight: Any, loss: Any) -> Any:
    """Return w · L in the dtype of L."""
    product, xp = loss * weight, namespace_of(loss)
    return product if xp is None else as_dtype(xp, product, loss.dtype)
