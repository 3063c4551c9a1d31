"""The catalogue: which gradient belongs to which loss, and what a loss declares about itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from mithril_losses.domains import checked
from mithril_losses.elsewhere import no_such_name
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.signatures import PassedOn, keywords_of, show_signature, signature_of
from mithril_losses.numerics.validation import did_you_mean
from mithril_losses.templates.base import Functions, Template
from mithril_losses.templates.composed import Composed

F = TypeVar("F", bound=Callable[..., Any])
G = TypeVar("G")
P = ParamSpec("P")

# What a loss may declare about itself. A property holds up to rounding for all options, masks and reductions, if the
# weights and the normalizer are not negative. Arrays of the kind of the first argument are those with the same domain.
PROPERTIES = {
    "convex": "jointly convex in the arguments that its gradient is taken with respect to by default",
    "constant_curvature": "with a Hessian that does not depend on the arguments its gradient is taken with respect to",
    "non_negative": "never negative",
    "psd": "with no negative eigenvalue of its Hessian, wherever that exists: so is every convex loss",
    "scale_invariant": "unchanged when all arrays of the kind of its first argument are scaled by one positive number",
    "symmetric": "unchanged when its first two arguments are exchanged",
    "translation_invariant": "unchanged when one number is added to all arrays of the kind of its first argument",
    "zero_at_equality": "0 where its first two arguments are equal",
    "zero_curvature": "with a Hessian that is 0 at almost every point",
}


@dataclass(frozen=True)
class Given:
    """A property of a loss, and the condition under which the loss has it.

    Attributes:
        name: which of `PROPERTIES`.
        options: the options and keywords that matter, each with the values that it may have: a tuple, or a domain.
        where: what else must be true, in words.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    def allows(self, options: Mapping[str, Any]) -> bool:
        """Whether options meet the condition, apart from what must be true of the arguments."""
        return all(_is_one_of(values, options.get(name)) for name, values in self.options.items())

    def __str__(self) -> str:
        conditions = [_condition(name, values) for name, values in self.options.items()]
        conditions += [f"where {self.where}"] * bool(self.where)
        return PROPERTIES[self.name] + (f" ({', '.join(conditions)})" if conditions else "")


def given(name: str, where: str = "", **options: Any) -> Given:
    """Declare that a loss has a property under a condition.

    Args:
        name: which of `PROPERTIES`.
        where: what must be true of the arguments, in words.
        **options: the options and keywords that matter, each with the one value that it must have, a tuple of values,
            or a domain.

    Example:
        >>> print(given("non_negative", unbiased=False))
        never negative (unbiased=False)
        >>> print(given("zero_at_equality", "the boxes have an area", reduction=("mean", "sum")))
        0 where its first two arguments are equal (reduction='mean' or 'sum', where the boxes have an area)
    """
    choices = {n: v if isinstance(v, tuple) or hasattr(v, "sample") else (v,) for n, v in options.items()}
    return Given(name, choices, where)


def _is_one_of(values: Any, value: Any) -> bool:
    if isinstance(values, tuple):
        return value in values
    try:
        values.check("option", value)
    except (TypeError, ValueError):
        return False
    return True


def _condition(name: str, values: Any) -> str:
    return f"{name}={' or '.join(map(repr, values))}" if isinstance(values, tuple) else f"{name} {values}"


# what a gradient takes in addition to the arguments of its loss
GRADIENT_KEYWORDS = frozenset({"upstream", "wrt"})


@dataclass(frozen=True, eq=False)  # compared by identity and hashable, as `jax.jit` demands
class Pair:
    """A pair: a loss, its gradient, and the facts that cannot be read off their code.

    Attributes:
        name: the loss's name in the catalogue.
        value: the loss.
        gradient: its gradient.
        both: a public function that returns both, where there is one.
        terms: the template of the loss, which knows how the loss and its gradient are computed.
        wrt: the arguments that the gradient is taken with respect to; an optional one only if it is given.
        on_request: further arguments that `wrt=` accepts.
        domain: what each argument may be.
        kinks: a function of the loss's arguments that returns arrays whose zeros are the points without a derivative.
        properties: which of `PROPERTIES` the loss has, by name, each with its condition.
        returns: if the loss returns a tuple, the names of its entries: the first is the loss, to which the gradient
            belongs; the others are for information. Empty if the loss returns one number or array.
        prepared: what other modules have compiled or computed for this loss; it is dropped together with the loss.
    """

    name: str
    value: Callable[..., Any]
    gradient: Callable[..., Any]
    both: Callable[..., tuple[Any, Any]] | None = None
    terms: Template = field(default_factory=Functions)
    wrt: tuple[str, ...] = ("predictions",)
    on_request: tuple[str, ...] = ()
    domain: Mapping[str, Any] = field(default_factory=dict)
    kinks: Callable[..., tuple[Any, ...]] | None = None
    properties: Mapping[str, Given] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    prepared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __repr__(self) -> str:
        return f"Pair({self.name!r}, wrt={', '.join(self.wrt)!r})"

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Return the loss: an entry of the catalogue is accepted wherever a loss is."""
        return self.value(*arguments, **options)

    @functools.cached_property
    def plain(self) -> Callable[..., tuple[Any, Any]]:
        """A function that returns value and gradient by the plain functions, and computes shared work once."""
        if self.both is not None:
            return self.both
        if self.terms.both is None:
            return _one_after_the_other(self.value, self.gradient)
        return _through_terms(self)

    def total_of(self, returned: Any) -> Any:
        """Return the loss from the result of the value function."""
        return returned[0] if self.returns else returned

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the loss, without the reduction keywords that it may pass on."""
        return {
            name: parameter
            for name, parameter in self._signature.parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and not isinstance(parameter, PassedOn)
        }

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return signature_of(self.value)

    @functools.cached_property
    def signature_of_both(self) -> inspect.Signature:
        """The signature of a function that returns value and gradient."""
        found = signature_of(self.gradient)
        returned = found.return_annotation
        return found.replace(return_annotation=f"tuple[Array, {'Any' if returned is found.empty else returned}]")

    @functools.cached_property
    def passes_reduction_on(self) -> bool:
        """Whether the loss takes the common reduction keywords without naming them."""
        return any(p.kind is p.VAR_KEYWORD or isinstance(p, PassedOn) for p in self._signature.parameters.values())

    @functools.cached_property
    def array_arguments(self) -> tuple[str, ...]:
        """The names of the arguments that have no default and go by position: the arrays."""
        return tuple(n for n, p in self.parameters.items() if p.default is p.empty and p.kind is not p.KEYWORD_ONLY)

    @functools.cached_property
    def options(self) -> tuple[str, ...]:
        """The names of the other arguments."""
        arrays = self.array_arguments
        return tuple(name for name in self.parameters if name not in arrays)

    @functools.cached_property
    def takes_reduction(self) -> bool:
        """Whether the loss takes the common reduction keywords."""
        return self.passes_reduction_on or self._signature.parameters.keys() >= Reduction.__annotations__.keys()

    @functools.cached_property
    def takes_upstream(self) -> bool:
        """Whether the gradient takes `upstream`."""
        parameters = signature_of(self.gradient).parameters.values()
        return any(p.kind is p.VAR_KEYWORD or p.name == "upstream" for p in parameters)

    def kinks_at(self, arrays: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the arrays whose zeros are the points without a derivative, for arguments of the loss."""
        if self.kinks is None:
            return ()
        accepted = {*self.domain, *inspect.signature(self.kinks).parameters}
        own = {name: self.parameters[name].default for name in self.options if name in accepted}
        given = {name: option for name, option in options.items() if name in own}
        return self.kinks(*arrays, **own | checked(self.domain, given))

    @property
    def takes_axis(self) -> bool:
        """Whether `axis` is the common keyword of reductions, and not an option of the loss itself."""
        return self.takes_reduction and "axis" not in self.options

    @property
    def formula(self) -> str:
        """The formula of the loss: the first line of its docstring."""
        return _first_line(self.value)

    @property
    def gradient_formula(self) -> str:
        """The formula of the gradient: the first line of its docstring."""
        return _first_line(self.gradient)

    @property
    def family(self) -> str:
        """The module of the loss, without its package."""
        return self.value.__module__.rpartition(".")[2]

    @property
    def source(self) -> str:
        """Where the loss comes from: the section "Source" of its docstring."""
        _, _, section = (inspect.getdoc(self.value) or "").partition("\nSource:\n")
        return " ".join(line.strip() for line in section.partition("\n\n")[0].splitlines())


_PAIRS: dict[str, Pair] = {}


def catalogue() -> Mapping[str, Pair]:
    """Return all registered pairs by name, in the order of registration: a read-only view."""
    return MappingProxyType(_PAIRS)


def gradient_of(
    loss: Callable[..., Any],
    *,
    terms: Template | None = None,
    wrt: str | tuple[str, ...] | None = None,
    on_request: tuple[str, ...] = (),
    domain: Mapping[str, Any] | None = None,
    kinks: Callable[..., tuple[Any, ...]] | None = None,
    properties: tuple[str | Given, ...] = (),
    returns: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Record the decorated function as the hand-derived gradient of `loss`, and return it.

    `inspect.signature` and `help` then show the keywords that both take by `**reduction: Unpack[…]` by name; nothing
    else of the two functions changes.

    Args:
        loss: the value. Its name becomes the pair's name in the catalogue.
        terms: the terms of the loss (a template), from which `wrt`, `on_request`, `domain` and `kinks` are then read.
            Two functions without terms whose rows depend on each other need `Functions(separable=False)` here.
        wrt: the argument or arguments that the gradient is taken with respect to; by default those of the terms, or
            the first one. An argument that may be None (a bias) is in the gradient only if it is given.
        on_request: further arguments that the gradient accepts as `wrt=`.
        domain: what each argument may be, by name; checks and tests draw arguments from it.
        kinks: a function of the loss's arguments that returns a tuple of arrays whose zeros are the points where
            the derivative does not exist.
        properties: which of `PROPERTIES` the loss has: names, or `given(name, …)` for a property that holds under a
            condition. Tests verify them.
        returns: if the loss returns a tuple, the names of its entries: the first is the loss.

    Raises:
        TypeError: the two signatures differ in a name, a kind or a default, or `loss` has no name.
        ValueError: another loss has this name already, `wrt` names no argument of the loss, or there is no such
            property, or no such option of its condition.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import value_and_gradient
        >>> def half_squared_error(predictions, targets):
        ...     return 0.5 * np.sum((predictions - targets) ** 2)
        >>> @gradient_of(half_squared_error)
        ... def half_squared_error_gradient(predictions, targets):
        ...     return predictions - targets
        >>> value, gradient = value_and_gradient(half_squared_error)(np.array([3.0]), np.array([1.0]))
        >>> float(value), gradient.tolist()
        (2.0, [2.0])
        >>> unregister("half_squared_error")
    """

    template = Functions() if terms is None else terms
    if not hasattr(loss, "__name__"):
        raise TypeError(f"a loss is a function with a name of its own, for the catalogue; got {loss!r}")

    def record(gradient: F) -> F:
        _require_same_signature(loss, gradient)
        pair = Pair(
            name=loss.__name__,
            value=loss,
            gradient=gradient,
            terms=template,
            domain=dict(domain or template.domain),
            kinks=kinks or template.kinks,
            on_request=on_request or template.on_request,
            properties={declared.name: declared for declared in map(_as_given, properties)},
            returns=returns,
        )
        names = (wrt,) if isinstance(wrt, str) else wrt or template.wrt or pair.array_arguments[:1]
        optional = [name for name in pair.options if pair.parameters[name].default is None]
        for declared in pair.properties.values():
            if declared.name not in PROPERTIES:
                raise ValueError(f"unknown property {declared.name!r}{did_you_mean(declared.name, PROPERTIES)}")
            known_options = (*pair.options, *(Reduction.__annotations__ if pair.takes_reduction else ()))
            for name in declared.options:
                if name not in known_options:
                    raise ValueError(
                        f"{name!r} is not an option of {loss.__name__}, so no property can depend on it"
                        f"{did_you_mean(name, known_options)}"
                    )
        for name in (*names, *pair.on_request):
            if name not in (*pair.array_arguments, *optional):
                raise ValueError(
                    f"wrt={name!r} names no array argument of {loss.__name__}{did_you_mean(name, pair.array_arguments)}"
                )
        known = _PAIRS.get(pair.name)
        if known is not None and not _is_redefinition(known.value, loss):
            raise ValueError(f"a loss named {pair.name!r} is registered already, from {known.value.__module__}")
        _PAIRS[pair.name] = replace(pair, wrt=tuple(names))
        template.name, template.options, template.on_request = pair.name, pair.options, pair.on_request
        template.passed_on = _show_keywords(loss, template, Reduction)
        template.passed_on_by_gradient = _show_keywords(gradient, template, GradientReduction)
        return gradient

    return record


def _show_keywords(function: Callable[..., Any], template: Template, known: Any) -> tuple[str, ...]:
    """Show the keywords that a function passes on to the reduction in its signature, and return their names."""
    found = signature_of(function)
    if any(p.kind is p.VAR_KEYWORD for p in found.parameters.values()):  # of a user, without `Unpack`
        return keywords_of(known)
    if inspect.isfunction(function):
        show_signature(function, found)
    return tuple(name for name in keywords_of(known) if name in found.parameters and name not in template.options)


def _as_given(declared: str | Given) -> Given:
    return declared if isinstance(declared, Given) else Given(declared)


def value_and_gradient_of(loss: Callable[..., Any]) -> Callable[[F], F]:
    """Record the decorated function as the fused value and gradient of a registered `loss`; return it untouched.

    Raises:
        TypeError: its signature differs from the loss's.
        ValueError: `loss` has no gradient yet.
    """

    def record(both: F) -> F:
        pair = find_loss(loss)
        _require_same_signature(loss, both)
        _PAIRS[pair.name] = replace(pair, both=both)
        return both

    return record


def both_of(gradient: Callable[P, G]) -> Callable[P, tuple[Any, G]]:
    """Return a function that computes a loss together with its registered gradient, with the arguments of the gradient.

    The function is recorded as the public function that returns both.

    Raises:
        ValueError: no loss with terms has this gradient.
    """
    pair = find_loss(gradient)
    if pair.gradient is not gradient or pair.terms.both is None:
        raise ValueError(f"{getattr(gradient, '__name__', gradient)!r} is the gradient of no registered terms")
    both = functools.wraps(gradient)(_through_terms(pair))
    both.__name__ = f"{pair.name}_value_and_gradient"
    both.__qualname__ = both.__name__
    both.__annotations__ = {**gradient.__annotations__, "return": pair.signature_of_both.return_annotation}
    show_signature(both, pair.signature_of_both)
    both.__doc__ = f"""`{pair.name}` and its gradient; shared work is done once.

    Args and errors are those of `{pair.name}_gradient`. Returns the value and the gradient.
    """
    _PAIRS[pair.name] = replace(pair, both=both)
    return both


# takes functions and not the pair: a pair that refers to itself is only freed by the garbage collector
def _one_after_the_other(value: Callable[..., Any], gradient: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        own = {name: option for name, option in keywords.items() if name not in GRADIENT_KEYWORDS}
        return value(*arguments, **own), gradient(*arguments, **keywords)

    return both


def _through_terms(pair: Pair) -> Callable[..., tuple[Any, Any]]:
    """Return value and gradient from one evaluation of the terms."""
    terms, arrays, takes_reduction = pair.terms, pair.array_arguments, pair.takes_reduction
    names = (*arrays, *(name for name in terms.domain if name not in arrays))
    defaults = [(name, pair.parameters[name].default) for name in names]
    usual = tuple(default for _, default in defaults[len(arrays) :])
    by_position = sum(p.kind is not p.KEYWORD_ONLY for p in pair.parameters.values())
    takes_wrt = terms.takes_wrt
    known = frozenset(signature_of(pair.gradient).parameters)
    evaluate: Callable[..., tuple[Any, Any]] = terms.both
    gradient = pair.gradient
    one_after_the_other = _one_after_the_other(pair.value, gradient)

    def both(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        count = len(arguments)
        if not keywords and count == len(arrays):
            return evaluate(*arguments, *usual)
        complete = count == len(arrays) or (count <= by_position and keywords.keys() >= set(arrays[count:]))
        understood = takes_reduction or keywords.keys() <= known
        if not (complete and understood) or (not takes_wrt and "wrt" in keywords):
            require_call(gradient, terms, arguments, keywords)
            return one_after_the_other(*arguments, **keywords)  # which raises if an argument is wrong
        others = [keywords.pop(name, default) for name, default in defaults[count:]]
        return evaluate(*arguments, *others, **keywords)

    return both


def find_loss(loss: str | Callable[..., Any]) -> Pair:
    """Return the pair of a loss, given as its name, as the function itself, or as its gradient.

    An entry of the catalogue is its own pair. A `functools.partial` of a loss is the loss with some options fixed. An
    object with a method `gradient` is a loss, too. It may have a method `value_and_gradient`, and attributes `name`,
    `wrt` and `returns`, with the meaning of these arguments of `gradient_of`; or its `Pair` as the attribute `pair`.

    Raises:
        ValueError: the catalogue has no such loss; the message names the nearest one.
    """
    if isinstance(loss, Pair):
        return loss
    if isinstance(loss, str):
        if loss not in _PAIRS:
            raise ValueError(
                f"unknown loss {loss!r} (`mithril-losses list` shows them all){no_such_name(loss, _PAIRS)}"
            )
        return _PAIRS[loss]
    name = getattr(loss, "__name__", "")
    pair = _PAIRS.get(name) or _PAIRS.get(name.removesuffix("_gradient"))
    if pair is not None and (pair.value is loss or pair.gradient is loss):
        return pair
    if isinstance(loss, functools.partial) and not loss.args:
        return _settled(loss)
    if isinstance(getattr(loss, "pair", None), Pair):
        return loss.pair  # type: ignore[attr-defined,no-any-return]
    if callable(getattr(loss, "gradient", None)):
        parts = (
            loss,
            loss.gradient,  # type: ignore[attr-defined]
            getattr(loss, "value_and_gradient", None),
            str(getattr(loss, "name", type(loss).__name__)),
            tuple(getattr(loss, "wrt", ())),
            tuple(getattr(loss, "returns", ())),
        )
        try:
            return _of_object(*parts)
        except TypeError:  # not hashable
            return _of_object.__wrapped__(*parts)
    for pair in _PAIRS.values():  # a gradient may have any name
        if pair.gradient is loss:
            return pair
    raise ValueError(
        f"{name or loss!r} has no registered gradient: decorate the gradient with @gradient_of({name or 'loss'})"
    )


@functools.lru_cache(maxsize=8)  # few entries, because each keeps its object alive
def _of_object(loss: Any, gradient: Any, both: Any, name: str, wrt: tuple[str, ...], returns: tuple[str, ...]) -> Pair:
    terms = Functions(separable=False)  # nothing is known about its rows
    pair = Pair(name, loss, gradient, both, terms, returns=returns)
    return replace(pair, wrt=wrt or pair.array_arguments[:1] or pair.wrt)


def _settled(loss: functools.partial[Any]) -> Pair:
    pair, options = find_loss(loss.func), loss.keywords
    own = {name: option for name, option in options.items() if name not in GRADIENT_KEYWORDS}
    terms = Composed(
        lambda fast: functools.partial(fast(loss.func), **options),
        pair.terms.separable,
        takes_out=True,
        curved=pair.terms.curved,
    )
    terms.name, terms.options = pair.terms.name, pair.terms.options
    terms.passed_on, terms.passed_on_by_gradient = pair.terms.passed_on, pair.terms.passed_on_by_gradient
    return replace(
        pair,
        value=functools.partial(pair.value, **own) if loss.func is pair.gradient else loss,
        gradient=functools.partial(pair.gradient, **options),
        both=None,
        terms=terms,
    )


def require_call(
    gradient: Callable[..., Any], terms: Template, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> None:
    """Raise a TypeError if a call of a gradient has too many or too few arguments, or one that it does not know."""
    parameters = signature_of(gradient).parameters
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values()):
        return  # the function itself knows
    for name in keywords:
        if name not in parameters:
            raise TypeError(terms.refusal(name, terms.passed_on_by_gradient))
    by_position = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    call = f"{terms.name}({', '.join(by_position)})"
    if len(arguments) > len(by_position):
        by_name = ", ".join(name for name in parameters if name not in by_position)
        raise TypeError(f"{call} got {len(arguments)} arguments by position; the others go by name: {by_name}")
    given = {*by_position[: len(arguments)], *keywords}
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in given]
    if missing:
        raise TypeError(f"{call} was called without {' and '.join(missing)}")


def unregister(name: str) -> None:
    """Remove a loss from the catalogue.

    Raises:
        ValueError: the catalogue has no loss of this name.
    """
    del _PAIRS[find_loss(name).name]


def _require_same_signature(loss: Callable[..., Any], other: Callable[..., Any]) -> None:
    def shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        found = [p for name, p in signature_of(function).parameters.items() if name not in GRADIENT_KEYWORDS]
        return [("" if p.kind is p.VAR_KEYWORD else p.name, p.kind, p.default) for p in found]

    if shape(loss) != shape(other):
        raise TypeError(
            f"{getattr(other, '__name__', other)}{inspect.signature(other)} does not take the arguments of its loss, "
            f"{loss.__name__}{inspect.signature(loss)}"
        )


def _is_redefinition(known: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether `new` is the same definition, executed again, as in a notebook cell."""
    return (known.__module__, known.__qualname__) == (new.__module__, new.__qualname__)


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].strip()
