"""The parts of an objective: terms on model outputs, regularizers on parameters."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

from mithril_losses.backends.namespaces import Array, fresh, namespace_of
from mithril_losses.catalogue import Pair, find_loss
from mithril_losses.domains import Choice
from mithril_losses.execution import value_and_gradient
from mithril_losses.execution.curvature import hessian_vector_product
from mithril_losses.models.checks import check_library, check_output_gradients
from mithril_losses.numerics.reduction import REDUCTIONS, Reduction
from mithril_losses.numerics.trees import leaves, map_leaves
from mithril_losses.numerics.validation import as_dtype, is_number, unknown
from mithril_losses.objectives.schedules import Schedule
from mithril_losses.templates.second_order import Kind

Loss = str | Callable[..., Any]

_TERM_REDUCTION = Choice(tuple(name for name in REDUCTIONS if name != "none"))  # a term is one number


class _ObjectivePart:
    """The base of terms and regularizers: a loss with its options, and a weight that may follow a schedule."""

    name: str
    loss: Loss
    weight: float | Schedule
    options: Mapping[str, Any]

    def _check(self) -> None:
        check_weight(self.weight)
        require_mapping("options", self.options)
        for option, value in self.options.items():
            check_option(self.pair, option, value)

    @cached_property
    def pair(self) -> Pair:
        """The loss with its gradient."""
        return find_loss(self.loss)

    @cached_property
    def _naming(self) -> Naming:
        return Naming(f"{type(self).__name__.lower()} {self.name!r}")

    @cached_property
    def _is_built_in(self) -> bool:
        return is_built_in(self.pair)

    @cached_property
    def _weighted(self) -> Callable[..., tuple[Array, Any]]:
        return weighted(self.pair, value_and_gradient(self.pair.value))

    @cached_property
    def _takes_step(self) -> bool:
        return "step" in self.pair.options

    def weight_at(self, step: Any) -> Any:
        """Return the weight at `step`: a number, or traced where the step or the weight is."""
        if not callable(self.weight):
            return self.weight
        with self._naming:
            return scheduled_weight(self.weight, step)

    def _keywords(self, step: int) -> dict[str, Any]:
        return ({"step": step} if self._takes_step else {}) | dict(self.options)


@dataclass(frozen=True)
class Term(_ObjectivePart):
    """One weighted loss on one or several outputs of a model.

    Args:
        name: the term's name among the components of the objective.
        loss: a registered loss, as its name or as the function itself.
        outputs: the output that the loss differentiates. For a loss of several differentiable arguments, a mapping from
            argument to output, which may name arguments that the loss differentiates on request. If arguments share an
            output, their gradients are summed.
        targets: the data entry that is the target of the loss, or a mapping from argument (or option, such as
            `weights`) to data entry. None for a loss without a target.
        weight: a finite number, or a schedule: a function of the step.
        options: keyword options of the loss.
        output: the same as `outputs`, where one output is meant.
        target: the same as `targets`, where one entry is meant.

    Raises:
        ValueError: an unknown loss, argument or option (the message names the nearest one), an argument without an
            output or data entry, a weight that is not finite, or both of `output` and `outputs`.
        TypeError: `outputs` or `targets` is neither a name nor a mapping, or the loss refuses the type of an option.

    Example:
        >>> Term("size", "mse_loss", output="size", target="true_size", weight=0.5).output_of
        {'predictions': 'size'}
    """

    name: str
    loss: Loss
    outputs: str | Mapping[str, str] | None = None
    targets: str | Mapping[str, str] | None = None
    weight: float | Schedule = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    output: InitVar[str | None] = None
    target: InitVar[str | None] = None

    def __post_init__(self, output: str | None, target: str | None) -> None:
        with self._naming:
            self._take("outputs", "output", output)
            self._take("targets", "target", target)
            self._check()
            self._check_wiring()

    def _take(self, several: str, one: str, given: str | None) -> None:
        """Keep what is given by the other word."""
        if given is None:
            return
        if getattr(self, several) is not None:
            raise ValueError(f"give either {one} or {several}, not both")
        if not isinstance(given, str):
            raise TypeError(f"{one} must be a name, got {given!r}; {several} may be a dict of names by argument")
        object.__setattr__(self, several, given)

    @cached_property
    def _positional(self) -> tuple[str, ...]:
        return self.pair.array_arguments  # cached, because reading a signature takes longer than a small loss

    @cached_property
    def _asked(self) -> dict[str, Any]:
        """The keywords that ask for the gradients of all outputs, where the loss does not give them by itself."""
        return {} if set(self.output_of) <= set(self.pair.wrt) else {"wrt": tuple(self.output_of)}

    @cached_property
    def output_of(self) -> dict[str, str]:
        """The output that feeds each differentiable argument."""
        return self._by_argument("outputs", self.outputs, self.pair.wrt)

    @cached_property
    def entry_of(self) -> dict[str, str]:
        """The data entry that feeds each other argument."""
        fixed = [name for name in self.pair.array_arguments if name not in (*self.pair.wrt, *self.output_of)]
        return {} if self.targets is None else self._by_argument("targets", self.targets, fixed)

    def _by_argument(self, kind: str, given: Any, arguments: Sequence[str]) -> dict[str, str]:
        if not isinstance(given, str):
            require_mapping(kind, given, "a name, or a dict of names by argument")
            return dict(given)
        if len(arguments) != 1:
            raise ValueError(
                f"{kind} must be a mapping from arguments to names, because {self.pair.name} takes "
                f"{', '.join(arguments) or 'none'}; got {given!r}"
            )
        return {arguments[0]: given}

    def _check_wiring(self) -> None:
        differentiable = (*self.pair.wrt, *self.pair.on_request)
        for argument in self.output_of:
            if argument not in differentiable:
                raise ValueError(unknown(f"differentiable argument of {self.pair.name}", argument, differentiable))
            if argument in self.options:
                raise ValueError(f"{argument!r} is given twice: as an output and as an option")
        others = [name for name in self.pair.array_arguments if name not in self.pair.wrt] + option_names(self.pair)
        for argument in self.entry_of:
            if argument not in others:
                raise ValueError(unknown(f"argument of {self.pair.name}", argument, others))
            for kind, given in (("option", self.options), ("output", self.output_of)):
                if argument in given:
                    raise ValueError(f"{argument!r} is given twice: as a target and as an {kind}")
        missing = [name for name in self.pair.array_arguments if name not in self.output_of | self.entry_of]
        if missing:
            raise ValueError(f"{self.pair.name} gets no {' and no '.join(missing)}: name an output or a target for it")

    def value(self, outputs: Mapping[str, Array], data: Mapping[str, Any], step: int = 0, across: Any = None) -> Array:
        """Return the unweighted loss; of all shards, if outputs and data are split across some."""
        with self._naming:
            positional, keywords = self._arguments(outputs, data, step, across)
            return one_number(self.pair.total_of(self.pair.value(*positional, **keywords)))

    def value_and_gradients(
        self,
        outputs: Mapping[str, Array],
        data: Mapping[str, Any],
        weight: float,
        step: int = 0,
        across: Any = None,
    ) -> tuple[Array, list[tuple[str, Array]]]:
        """Return the unweighted loss, and (output name, weighted gradient) for each differentiable argument."""
        with self._naming:
            positional, keywords = self._arguments(outputs, data, step, across)
            returned, gradient = self._weighted(weight, *positional, **keywords, **self._asked)
            value = self.pair.total_of(returned)
            wrt = self._asked.get("wrt", self.pair.wrt)
            by_argument = gradient if self._asked or len(wrt) > 1 else {wrt[0]: gradient}
            known, fed = set(wrt), set(self.output_of)  # an optional argument may be in neither
            if not isinstance(by_argument, Mapping) or not fed <= by_argument.keys() <= known:
                raise ValueError(f"the gradient must be a dict of {', '.join(wrt)}, got {by_argument!r}")
            found = [(output, by_argument[argument]) for argument, output in self.output_of.items()]
            if not self._is_built_in:
                found = [(output, _fit_output(output, part, outputs[output])) for output, part in found]
            return one_number(value), found

    def hessian_products(
        self,
        outputs: Mapping[str, Array],
        data: Mapping[str, Any],
        directions: Mapping[str, Array],
        kind: Kind,
        weight: float,
        step: int = 0,
        across: Any = None,
    ) -> list[tuple[str, Array]]:
        """Return (output name, weighted ∇²L v) for each differentiable argument, with v by output."""
        with self._naming:
            if set(self.output_of) != set(self.pair.wrt):
                raise ValueError(
                    f"second derivatives are wrt {', '.join(self.pair.wrt)}, not {', '.join(self.output_of)}"
                )
            vectors = {argument: directions[output] for argument, output in self.output_of.items()}
            vector = vectors if len(vectors) > 1 else next(iter(vectors.values()))
            product = hessian_vector_product(self.pair.value, curvature=kind)
            found = self.of_arguments(product, outputs, data, step, across, vector=vector, upstream=weight)
            by_argument = found if len(vectors) > 1 else {next(iter(vectors)): found}
            return [(output, by_argument[argument]) for argument, output in self.output_of.items()]

    def of_arguments(
        self,
        function: Callable[..., Any],
        outputs: Mapping[str, Array],
        data: Mapping[str, Any],
        step: int = 0,
        across: Any = None,
        **more: Any,
    ) -> Any:
        """Return the result of a function that takes the arguments of the loss, and more keywords."""
        positional, keywords = self._arguments(outputs, data, step, across)
        return function(*positional, **keywords, **more)

    def _arguments(
        self, outputs: Mapping[str, Array], data: Mapping[str, Any], step: int, across: Any = None
    ) -> tuple[list[Array], dict[str, Any]]:
        values = self._keywords(step)
        if across is not None:
            if "across" not in option_names(self.pair):
                raise ValueError(f"{self.pair.name} takes no across=, so its arguments cannot be split")
            values.setdefault("across", across)
        for argument, output in self.output_of.items():
            if output not in outputs:
                raise ValueError(unknown("output", output, outputs))
            values[argument] = outputs[output]
        for argument, entry in self.entry_of.items():
            if entry not in data:
                raise ValueError(unknown("data entry", entry, data))
            values[argument] = data[entry]
        return [values.pop(name) for name in self._positional], values


@dataclass(frozen=True)
class Regularizer(_ObjectivePart):
    """One weighted loss on parameters of a model.

    Args:
        loss: a registered loss of parameters alone, as its name or as the function itself.
        parameters: glob patterns that select parameters by name (`"*weight*"`); all by default. Nested parameters are
            selected by their outermost name.
        weight: a finite number, or a schedule: a function of the step.
        options: keyword options of the loss.
        name: the name among the components of the objective; by default the name of the loss.

    Raises:
        ValueError: an unknown loss or option, a loss that needs more than parameters, no pattern, or a weight that is
            not finite.

    Example:
        >>> import numpy as np
        >>> regularizer = Regularizer("l2_regularization", parameters=["*.weight"], options={"lambda_reg": 1.0})
        >>> params = {"out.weight": np.array([1.0, 2.0]), "out.bias": np.array([5.0])}
        >>> float(regularizer.value(params))
        2.5
    """

    loss: Loss
    parameters: Sequence[str] = ("*",)
    weight: float | Schedule = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.pair.name)
        with self._naming:
            self._check()
            if len(self.pair.array_arguments) != 1:
                raise ValueError(f"{self.pair.name} takes {', '.join(self.pair.array_arguments)}, not parameters alone")
            if isinstance(self.parameters, str) or not self.parameters:
                raise ValueError(f"parameters must be a list of one pattern or more, got {self.parameters!r}")

    def value(self, params: Mapping[str, Any], step: int = 0) -> Array:
        """Return the unweighted loss."""
        with self._naming:
            return one_number(self.pair.total_of(self.pair.value(self._select(params), **self._keywords(step))))

    def value_and_gradients(
        self, params: Mapping[str, Any], weight: float, step: int = 0
    ) -> tuple[Array, dict[str, Any]]:
        """Return the unweighted loss, and the weighted gradient of each selected parameter."""
        with self._naming:
            selected = self._select(params)
            returned, gradients = self._weighted(weight, selected, **self._keywords(step))
            value = self.pair.total_of(returned)
            if not self._is_built_in:
                gradients = _fit_parameters(gradients, selected)
            return one_number(value), gradients

    def hessian_products(
        self, params: Mapping[str, Any], directions: Mapping[str, Any], kind: Kind, weight: float, step: int = 0
    ) -> dict[str, Any]:
        """Return the weighted ∇²L v of each selected parameter, with v by parameter."""
        with self._naming:
            product = hessian_vector_product(self.pair.value, curvature=kind)
            vector, keywords = self._select(directions), self._keywords(step)
            found: dict[str, Any] = product(self._select(params), vector=vector, upstream=weight, **keywords)
            return found

    def _select(self, params: Mapping[str, Any]) -> dict[str, Any]:
        for pattern in self.parameters:
            if not any(fnmatchcase(name, pattern) for name in params):
                raise ValueError(f"the pattern {pattern!r} matches no parameter (known: {', '.join(sorted(params))})")
        return {
            name: param
            for name, param in params.items()
            if any(fnmatchcase(name, pattern) for pattern in self.parameters)
        }


def _fit_output(name: str, gradient: Array, output: Array) -> Array:
    """Return a copy of a gradient in its output's dtype, after a check that it fits the output otherwise."""
    xp = namespace_of(output)
    check_library(name, gradient, xp)
    gradient = as_dtype(xp, fresh(gradient), output.dtype)
    check_output_gradients({name: output}, {name: gradient})
    return gradient


def _fit_parameters(gradients: Any, params: Mapping[str, Any]) -> Any:
    """Return a copy of the gradients, after a check that they have the structure and shapes of the parameters."""
    found, expected = ({path: tuple(array.shape) for path, array in leaves(tree)} for tree in (gradients, params))
    if found != expected:
        raise ValueError(f"the gradients have the shapes {found}, the parameters {expected}")
    return map_leaves(lambda path, gradient: fresh(gradient), gradients)


def weighted(pair: Pair, both: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Return `both`, a pair's value and gradient, as `(weight, *arguments, **options) → (value, weight · gradient)`."""

    def through_upstream(weight: float, *arguments: Any, **options: Any) -> tuple[Array, Any]:
        return both(*arguments, upstream=weight, **options)

    def by_multiplication(weight: float, *arguments: Any, **options: Any) -> tuple[Array, Any]:
        if tuple(getattr(weight, "shape", ())) != ():
            raise TypeError(f"the gradient of {pair.name} takes no upstream, so it can be scaled by a number only")
        value, gradient = both(*arguments, **options)
        return value, map_leaves(lambda path, array: weight * array, gradient)

    return through_upstream if pair.takes_upstream else by_multiplication


def require_distinct_names(parts: Sequence[Term | Regularizer]) -> None:
    """Raise a ValueError if two names are equal."""
    for name, count in Counter(part.name for part in parts).items():
        if count > 1:
            raise ValueError(f"names of terms and regularizers must differ, but {name!r} is taken twice")


def scheduled_weight(schedule: Schedule, step: Any) -> Any:
    """Return the weight that a schedule gives at `step`.

    Raises:
        ValueError: the weight is not finite.
        TypeError: the schedule does not return one number.
    """
    weight: Any = schedule(step)
    if is_number(weight):
        if not math.isfinite(weight):
            raise ValueError(f"the schedule gives the weight {weight} at step {step}")
    elif namespace_of(weight) is None or tuple(weight.shape) != ():
        raise TypeError(f"the schedule must give one number, got {weight!r} at step {step}")
    return weight


def require_mapping(name: str, value: Any, kind: str = "a dict by name") -> None:
    """Raise a TypeError unless `value`, which is called `name`, is a mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be {kind}, got {reprlib.repr(value)}")


def check_weight(weight: Any, schedules: bool = True) -> None:
    """Raise a ValueError unless `weight` is a finite number or, with `schedules`, a schedule."""
    if not ((schedules and callable(weight)) or (is_number(weight) and math.isfinite(weight))):
        kinds = "a finite number or a function of the step" if schedules else "a finite number"
        raise ValueError(f"weight must be {kinds}, got {weight!r}")


def option_names(pair: Pair) -> list[str]:
    """Return the names of the options that a loss takes, the reduction keywords included."""
    return [*pair.options, *(Reduction.__annotations__ if pair.passes_reduction_on else ())]


def check_option(pair: Pair, option: str, value: Any) -> None:
    """Raise a ValueError or TypeError unless the loss takes the option, with this value."""
    known = option_names(pair)
    if option not in known:
        raise ValueError(unknown(f"option of {pair.name}", option, known))
    check = getattr(pair.domain.get(option, _TERM_REDUCTION if option == "reduction" else None), "check", None)
    if check is not None:
        check(option, value)


def is_built_in(pair: Pair) -> bool:
    """Return whether a pair belongs to this package, whose gradients need no check of shape, dtype and memory."""
    value = pair.value.func if isinstance(pair.value, partial) else pair.value
    return value.__module__.startswith("mithril_losses.")


def one_number(value: Array) -> Array:
    """Return `value`; raise a ValueError unless it is a single number."""
    if tuple(getattr(value, "shape", ())) != ():
        raise ValueError(f"the loss must be one number, got shape {tuple(value.shape)}; choose another reduction")
    return value


class Naming:
    """A context that puts the name of a part before the message of an error: a class, which costs less per call."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, TypeError | ValueError):
            raise named(self._part, error) from error


def named(part: str, error: TypeError | ValueError) -> TypeError | ValueError:
    """Return the error with the name of the part that failed before its message."""
    return (TypeError if isinstance(error, TypeError) else ValueError)(f"{part}: {error}")
