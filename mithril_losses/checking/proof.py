"""Proof of element-wise gradients: the terms of a loss are evaluated on symbols, and their derivatives are its slopes.

A condition (`where`, `minimum`, `maximum`, `abs`, `sign`) is decided at a rational point. So around this point, on the
piece of the domain where every condition keeps its truth, the loss is one smooth expression.
"""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np
import sympy
from scipy.special import gammaln

from mithril_losses.catalogue import find_loss
from mithril_losses.domains import ClipWidth, Elements, Flag, Interval, Labels
from mithril_losses.templates.elements import Elementwise
from mithril_losses.terms.second_order import as_tuple

__all__ = ["KINDS", "Piece", "ProofError", "parts", "prove", "prove_curvature"]

KINDS = ("identity", "end of a piece", "exact points")  # from the strongest on

_POINTS = 200  # points that are drawn for each choice of settled arguments, to find the pieces
_EXACT_POINTS = 3
_DENOMINATOR = 512  # the denominator of the points, so that they are exact floating-point numbers

_SYMBOLS = {
    "predictions": "p",
    "targets": "t",
    "logits": "z",
    "real_scores": "r",
    "fake_scores": "f",
    "mean": "mu",
    "logvar": "v",
    "other_mean": "m",
    "other_logvar": "s",
    "location": "mu",
    "log_scale": "b",
    "label_smoothing": "a",
    "pos_weight": "w",
    "free_bits": "lambda",
    "scale": "c",
    "target_real": "y",
    "target_fake": "y",
    "epsilon": "varepsilon",
}


class ProofError(AssertionError):
    """A slope is not the derivative of the value."""


@dataclass(frozen=True)
class Piece:
    """A part of the domain on which the terms of a loss are one smooth expression.

    Attributes:
        settled: the arguments that are fixed numbers, by name: labels, flags, options at an end of their interval.
        conditions: the conditions that hold on the piece.
        value: the loss of an element.
        slopes: its derivatives, by argument.
        point: the point at which the conditions were decided, by argument.
        kind: how the slopes were proved. "identity": the derivative of the value minus the slope is 0 identically.
            "exact points": it is 0 in exact arithmetic at rational points. "end of a piece": outside [ε, 1 − ε] the
            value is constant, and the slope is by definition that of the neighbouring piece at its end.
    """

    settled: Mapping[str, Any]
    conditions: tuple[Any, ...]
    value: Any
    slopes: Mapping[str, Any]
    point: Mapping[str, Any]
    kind: str = ""


def parts(loss: str | Callable[..., Any]) -> Mapping[str, Elementwise]:
    """Return the terms of an element-wise loss, by array if arrays are reduced separately; empty for other losses."""
    return find_loss(loss).terms.elements


def prove(loss: str | Callable[..., Any]) -> list[Piece]:
    """Prove that the slopes of an element-wise loss are the derivatives of its value, on every piece of its domain.

    Returns:
        The pieces of all its parts; none for a loss that is not element-wise.

    Raises:
        ProofError: a slope is not the derivative. The message names the piece and both expressions.

    Example:
        >>> for piece in prove("mae_loss"):
        ...     print(piece.conditions, piece.value, piece.slopes["predictions"], piece.kind)
        (p - t > 0,) p - t 1 identity
        (p - t < 0,) -p + t -1 identity
    """
    return [piece for terms in parts(loss).values() for piece in _prove(find_loss(loss).name, terms)]


def prove_curvature(loss: str | Callable[..., Any]) -> list[Piece]:
    """Prove that the second derivatives of an element-wise loss are the derivatives of its slopes, as `prove` does.

    Returns:
        The pieces of all its parts, with the second derivatives after the slopes under names such as "mean, logvar";
        none for a loss that is not element-wise, or has no curvature.

    Raises:
        ProofError: a second derivative is wrong. The message names the piece and both expressions.

    Example:
        >>> pieces = prove_curvature("huber_loss")
        >>> sorted({(str(piece.slopes["predictions, predictions"]), piece.kind) for piece in pieces})
        [('0', 'identity'), ('1', 'identity')]
    """
    name = find_loss(loss).name
    return [piece for terms in parts(loss).values() if terms.curvatures for piece in _prove_curvature(name, terms)]


def _prove_curvature(loss: str, terms: Elementwise) -> list[Piece]:
    pairs = list(combinations_with_replacement(terms.wrt, 2))
    names = [*terms.wrt, *(_SECOND.join(pair) for pair in pairs)]
    pieces = list(_pieces(terms, functools.partial(_with_curvature, terms), names))
    found = []
    for piece in pieces:
        kinds = []
        for first, second in pairs:
            h = piece.slopes[_SECOND.join((first, second))]
            for slope, by in {(first, second), (second, first)}:
                derivative = sympy.diff(piece.slopes[slope], symbol(by, terms.domain[by]))
                what = f"second derivative wrt {first} and {second}", "slope", piece.slopes[slope]
                kinds.append(_kind_of(loss, terms, piece, pieces, derivative, h, by, what))
        found.append(replace(piece, kind=max(kinds, key=KINDS.index)))
    return found


_SECOND = ", "


def _with_curvature(terms: Elementwise, xp: Any, *operands: Any) -> tuple[Any, Any]:
    """Return the value, and the slopes followed by the second derivatives."""
    value, slopes = _on_definitions(terms.terms)(xp, *operands)
    curvature = terms.curvatures["exact"]
    second = _on_definitions(curvature)(xp, *operands) if callable(curvature) else curvature
    return value, (*as_tuple(slopes), *as_tuple(second))


def symbol(name: str, domain: Any) -> sympy.Symbol:
    """Return the symbol of an argument, with the sign that its domain implies."""
    is_positive = getattr(domain, "low", 0.0) >= 0.0
    return sympy.Symbol(_SYMBOLS.get(name, name), real=True, positive=True if is_positive else None)


def vanishes(expression: Any) -> bool:
    """Whether SymPy can show that an expression is 0 identically."""
    if expression == 0:
        return True
    numerator = sympy.numer(sympy.together(sympy.expand_log(sympy.powdenest(expression.rewrite(sympy.exp)))))
    return bool(sympy.expand(numerator) == 0 or sympy.simplify(expression) == 0)


def _prove(loss: str, terms: Elementwise) -> list[Piece]:
    pieces = list(_pieces(terms, _on_definitions(terms.terms), terms.wrt))
    return [replace(piece, kind=_kind(loss, terms, piece, pieces)) for piece in pieces]


def _kind(loss: str, terms: Elementwise, piece: Piece, pieces: list[Piece]) -> str:
    kinds = []
    for name, slope in piece.slopes.items():
        derivative = sympy.diff(piece.value, symbol(name, terms.domain[name]))
        what = f"slope wrt {name}", "value", piece.value
        kinds.append(_kind_of(loss, terms, piece, pieces, derivative, slope, name, what))
    return max(kinds, key=KINDS.index)


def _kind_of(
    loss: str,
    terms: Elementwise,
    piece: Piece,
    pieces: list[Piece],
    derivative: Any,
    claimed: Any,
    name: str,
    what: tuple[str, str, Any],
) -> str:
    """Return how an expression was shown to be a derivative by an argument.

    Raises:
        ProofError: it is not.
    """
    if vanishes(derivative - claimed):
        return "identity"
    if _is_end_of_neighbour(terms, piece, pieces, name):
        return "end of a piece"
    if (points := _exact_points(terms, piece)) and all(vanishes((derivative - claimed).subs(at)) for at in points):
        return "exact points"
    facts = [*map(str, piece.conditions), *(f"{name} = {x}" for name, x in piece.settled.items())]
    raise ProofError(
        f"{loss}: the {what[0]} is {claimed}, but the derivative of the {what[1]} {what[2]} is {derivative}, where "
        f"{' and '.join(facts) or 'anything holds'}"
    )


def _is_end_of_neighbour(terms: Elementwise, piece: Piece, pieces: list[Piece], name: str) -> bool:
    """Whether value and slope, which do not depend on x, equal those of a neighbouring piece at x = ε or x = 1 − ε."""
    widths = [symbol(option, domain) for option, domain in terms.domain.items() if isinstance(domain, ClipWidth)]
    x = symbol(name, terms.domain[name])
    if piece.value.has(x) or any(slope.has(x) for slope in piece.slopes.values()):
        return False
    return any(
        vanishes(other.value.subs(x, end) - piece.value)
        and all(vanishes(other.slopes[each].subs(x, end) - slope) for each, slope in piece.slopes.items())
        for other in pieces
        if other.settled == piece.settled and other.value.has(x)
        for epsilon in widths
        for end in (epsilon, 1 - epsilon)
    )


# --- the pieces -----------------------------------------------------------------------------------------------------


def _pieces(terms: Elementwise, function: Callable[..., Any], names: Sequence[str]) -> Iterator[Piece]:
    """Yield the pieces that contain points drawn from the domain.

    Args:
        terms: the terms of the loss.
        function: what they return, or more, computed with the definitions of primitives.
        names: of what it returns after the value.

    Raises:
        ProofError: the expression of a piece differs from what the terms compute at its point.
    """
    constants = [Fraction(c.value(np, np.float64, np.float64)) for c in terms.constants]
    for settled in _settlements(terms):
        generator, found = random.Random(0), set()
        for _ in range(_POINTS):
            point = {
                name: settled.get(name, _draw(domain, generator, _DENOMINATOR)) for name, domain in terms.domain.items()
            }
            numbers = [x if isinstance(x, bool) else np.float64(x) for x in (*point.values(), *constants)]
            deciding = _Deciding()
            with np.errstate(all="ignore"):
                loss, _ = function(deciding, *numbers)
            path = tuple(deciding.path)
            if path in found or np.isnan(loss):  # NaN: the logarithm of a negative rate
                continue
            found.add(path)
            symbols = [settled.get(name, symbol(name, domain)) for name, domain in terms.domain.items()]
            replaying = _Replaying(path)
            value, slopes = function(
                replaying, *(x if isinstance(x, bool) else sympy.sympify(x) for x in (*symbols, *constants))
            )
            if replaying.is_on_boundary:
                continue
            piece = Piece(
                settled,
                tuple(dict.fromkeys(condition for c in replaying.conditions if (condition := _exact(c)) != True)),  # noqa: E712  (SymPy's own)
                _exact(value),
                dict(zip(names, map(_exact, as_tuple(slopes)), strict=True)),
                point,
            )
            _require_what_is_computed(terms, piece, numbers, with_curvature=len(names) > len(terms.wrt))
            yield piece


def _settlements(terms: Elementwise) -> Iterator[dict[str, Any]]:
    """Yield every choice of labels and flags, with each option inside its interval or at one of its ends."""
    choices: dict[str, list[Any]] = {}
    for name, domain in terms.domain.items():
        if isinstance(domain, Labels):
            choices[name] = list(map(Fraction, domain.values))
        elif isinstance(domain, Flag):
            choices[name] = [False, True]
        elif isinstance(domain, Interval) and (domain.closed or domain.closed_above):
            ends = (domain.low, domain.high) if domain.closed else (domain.high,)
            choices[name] = [None, *(Fraction(end) for end in ends if abs(end) < np.inf)]
    for chosen in product(*choices.values()):
        yield {name: x for name, x in zip(choices, chosen, strict=True) if x is not None}


def _draw(domain: Any, generator: random.Random, denominator: int) -> Fraction:
    """Return a rational number inside a domain, between −5 and 5 if the domain is not bounded."""
    ends = (domain.low, domain.high) if isinstance(domain, Elements | Interval) else (0.0, 1.0)
    low, high = Fraction(max(ends[0], -5.0)), Fraction(min(ends[1], 5.0))
    return low + (high - low) * Fraction(generator.randrange(1, denominator), denominator)


def _exact_points(terms: Elementwise, piece: Piece) -> list[dict[sympy.Symbol, Any]]:
    """Return rational points of a piece, as numbers by symbol; few if the piece is small."""
    generator = random.Random(1)
    found: list[dict[sympy.Symbol, Any]] = []
    free = {symbol(name, domain): domain for name, domain in terms.domain.items() if name not in piece.settled}
    for _ in range(100 * _EXACT_POINTS):
        at = {x: sympy.Rational(_draw(domain, generator, 8)) for x, domain in free.items()}
        if len(found) < _EXACT_POINTS and at not in found and all(c.subs(at) == True for c in piece.conditions):  # noqa: E712  (likewise)
            found.append(at)
    return found


def _require_what_is_computed(terms: Elementwise, piece: Piece, numbers: list[Any], with_curvature: bool) -> None:
    with np.errstate(all="ignore"):
        value, slopes = terms.terms(np, *numbers)
        computed = [value, *as_tuple(slopes)]
        if with_curvature:
            curvature = terms.curvatures["exact"]
            computed += as_tuple(curvature(np, *numbers) if callable(curvature) else curvature)
    at = {
        symbol(name, domain): sympy.Rational(piece.point[name])
        for name, domain in terms.domain.items()
        if name not in piece.settled
    }
    for number, expression in zip(computed, (piece.value, *piece.slopes.values()), strict=True):
        expected = float(expression.subs(at))
        if abs(number - expected) > 1e-12 * max(abs(expected), 1.0):
            raise ProofError(f"{terms.terms.__name__} gives {number} at {piece.point}, but {expression} is {expected}")


def _exact(expression: Any) -> Any:
    """Return an expression with its floating-point numbers replaced by equal rational numbers."""
    expression = sympy.sympify(expression)
    return expression.xreplace({x: sympy.Rational(Fraction(float(x))) for x in expression.atoms(sympy.Float)})


# --- the namespaces on which the terms are evaluated ------------------------------------------------------------------


class _Deciding:
    """Numbers: every condition is decided, and the decisions are recorded in order."""

    exp: Any = np.exp
    log: Any = np.log
    log1p: Any = np.log1p
    expm1: Any = np.expm1
    sqrt: Any = np.sqrt
    tanh: Any = np.tanh
    log_gamma: Any = gammaln

    def __init__(self) -> None:
        self.path: list[int] = []

    def decide(self, condition: Any) -> int:
        """Return the truth of a condition."""
        self.path.append(int(condition))
        return self.path[-1]

    def sign(self, x: Any) -> Any:
        self.path.append(int(np.sign(x)))
        return np.sign(x)

    def zeros_like(self, x: Any) -> Any:
        return 0.0

    def ones_like(self, x: Any) -> Any:
        return 1.0

    def where(self, condition: Any, first: Any, second: Any) -> Any:
        return first if self.decide(condition) else second

    def abs(self, x: Any) -> Any:
        return self.sign(x) * x

    def maximum(self, first: Any, second: Any) -> Any:
        return first if self.sign(first - second) >= 0 else second

    def minimum(self, first: Any, second: Any) -> Any:
        return second if self.sign(first - second) >= 0 else first


class _Replaying(_Deciding):
    """Symbols: every condition is decided as it was for numbers, and recorded."""

    exp, log, tanh, log_gamma = sympy.exp, sympy.log, sympy.tanh, sympy.loggamma
    sqrt = staticmethod(sympy.sqrt)
    log1p = staticmethod(lambda x: sympy.log(1 + x))
    expm1 = staticmethod(lambda x: sympy.exp(x) - 1)

    def __init__(self, path: tuple[int, ...]) -> None:
        self.decisions = iter(path)
        self.conditions: list[Any] = []
        self.is_on_boundary = False

    def decide(self, condition: Any) -> int:
        decision = next(self.decisions)
        self.conditions.append(sympy.sympify(condition) if decision else sympy.Not(condition))
        return decision

    def sign(self, x: Any) -> Any:
        decision = next(self.decisions)
        if decision == 0:
            self.is_on_boundary |= not vanishes(_exact(x))
        else:
            self.conditions.append(x > 0 if decision > 0 else x < 0)
        return sympy.Integer(decision)


# definitions of primitives that are computed by approximations or by a function of a library
_DEFINITIONS: dict[str, Callable[..., Any]] = {
    "exponential_remainder": lambda xp, x: xp.expm1(x) - x,
    "small_exponential_remainder": lambda xp, x: xp.expm1(x) - x,
    "log_gamma": lambda xp, x: xp.log_gamma(x),
}


def _on_definitions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of this package that uses, also in the functions it calls, the definitions of primitives."""
    names = function.__code__.co_names
    called = {name: function.__globals__[name] for name in names if name in function.__globals__}
    own = {
        name: _DEFINITIONS.get(name) or _on_definitions(value)
        for name, value in called.items()
        if isinstance(value, types.FunctionType) and value.__module__.startswith("mithril_losses.")
    }
    code = types.FunctionType(function.__code__, {**function.__globals__, **own}, function.__name__)
    return functools.wraps(function)(code)
