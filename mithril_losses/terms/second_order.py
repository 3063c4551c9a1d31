"""Terms of the second derivatives of a loss, made of its terms and of the function of its curvature.

A function of curvature, `(xp, *arrays, *options) → h`, takes the arguments of the terms. If the terms have one slope,
h is its derivative; if they have several, h is the tuple of the distinct second derivatives: the upper triangle of the
symmetric matrix, row by row, (h_00, h_01, h_11) for two.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

from mithril_losses.terms.fission import function_of
from mithril_losses.terms.reading import Terms, read_terms

Order = Literal["diagonal", "all", "product", "factor", "transposed"]


class SecondOrder:
    """A function of terms whose slopes are second derivatives, or products with them.

    It takes the namespace, the arrays of the terms, a vector for each slope if the order needs them, and the options.
    It returns 0 and what the order asks for: the diagonal, H v, B w or Bᵀ v for a factor B of H = B Bᵀ. Only "all"
    evaluates the terms: it returns the value, and the slopes followed by the diagonal.

    Args:
        terms: `(xp, *arrays, *options) → (value, slopes)`.
        curvature: `(xp, *arrays, *options) → h`, or one number.
        order: what is asked for.
        slopes: the number of slopes.
        arrays: the number of arrays.
        is_steep: whether a further argument, the last one, bounds the absolute values of the second derivatives.
        is_bound: whether H is replaced by a diagonal matrix that is above it and above 0; see `bound_of`.

    Raises:
        TypeError: a factor of more than two slopes is asked for.
    """

    def __init__(
        self,
        terms: Callable[..., Any],
        curvature: Callable[..., Any] | float,
        order: Order,
        slopes: int,
        arrays: int,
        is_bound: bool = False,
        is_steep: bool = False,
    ) -> None:
        self.terms, self.order, self.is_bound, self.is_steep = terms, order, is_bound, is_steep
        self.curvature = curvature
        self._slopes, self._arrays = slopes, arrays
        self.vectors = 0 if order in ("diagonal", "all") else slopes
        if order in ("factor", "transposed") and slopes > 2:
            raise TypeError(f"{terms.__name__} has {slopes} slopes: a factor is known for one or two")
        self._is_one_product = slopes == 1 and order == "product" and not is_bound and not is_steep
        kind = f"{getattr(curvature, '__name__', curvature)}{' bound' * is_bound}"
        self.__module__, self.__qualname__ = terms.__module__, f"{terms.__qualname__} {kind} {order}"
        self.__name__ = self.__qualname__

    def __call__(self, xp: Any, *operands: Any) -> tuple[Any, Any]:
        """Return what the order asks for, from arrays, vectors and options."""
        largest = operands[-1] if self.is_steep else None
        operands = operands[:-1] if self.is_steep else operands
        first, last = self._arrays, self._arrays + self.vectors
        own, vectors = (*operands[:first], *operands[last:]), operands[first:last]
        found = self.curvature(xp, *own) if callable(self.curvature) else self.curvature
        if self._is_one_product:  # the usual case, at half the cost of a small call
            return 0.0, found * vectors[0]
        h = list(as_tuple(found))
        if self.order != "product" or self.is_bound or self.is_steep:  # a product takes numbers as they are
            shape = operands[0].shape
            h = [x if getattr(x, "shape", None) == shape else x + xp.zeros_like(operands[0]) for x in h]
        found = combined(xp, self.order, self._settled(xp, h, largest), vectors)
        if self.order != "all":
            return 0.0, _single(found)
        value, slopes = self.terms(xp, *own)
        return value, (*as_tuple(slopes), *found)

    def _settled(self, xp: Any, h: list[Any], largest: Any) -> list[Any]:
        """Return the second derivatives, or their bound, bounded by the largest number."""
        h = bound_of(xp, h) if self.is_bound else h
        return [xp.minimum(xp.maximum(x, -largest), largest) for x in h] if self.is_steep else h

    def read(self, flags: Mapping[int, bool] = MappingProxyType({})) -> Terms:
        """Return the tree, for the values of the flags by their position; see `read_terms`.

        Raises:
            UnreadableTerms: one of the two functions is not in the language of terms.
        """
        own = {place - self.vectors: flag for place, flag in flags.items()}
        first = read_terms(self.terms, own)
        second = read_terms(self.curvature, own) if callable(self.curvature) else first
        arguments, helpers = second.arguments, {helper.name: helper for helper in second.helpers}
        h = [f"h_{i}" for i in range(math.comb(self._slopes + 1, 2))]
        if callable(self.curvature):
            body = _assigned(second.definition, _targets(h), "second_")
        else:
            body = [ast.Assign([_targets(h)], ast.Constant(self.curvature))]
        vectors = [f"vector_{i}" for i in range(self.vectors)]
        entries = self._settled(_TEXT, list(map(_Text, h)), _Text("largest"))
        value, results = "0.0", combined(_TEXT, self.order, entries, list(map(_Text, vectors)))
        if self.order == "all":
            helpers = {helper.name: helper for helper in first.helpers} | helpers
            slopes = [f"slope_{i}" for i in range(self._slopes)]
            targets = ast.Tuple([ast.Name("value", ast.Store()), _targets(slopes)], ast.Store())
            names = dict(zip(first.arguments, arguments, strict=True))
            body = [*_assigned(first.definition, targets, "first_", names), *body]
            value, results = "value", [*slopes, *results]
        own_names = [*arguments[: self._arrays], *vectors, *arguments[self._arrays :], *["largest"] * self.is_steep]
        returned = ast.parse(f"{value}, ({', '.join(map(str, results))})", mode="eval").body
        return Terms(function_of("terms", own_names, [*body, ast.Return(returned)]), tuple(helpers.values()))


def terms_of(function: Callable[..., Any], flags: Mapping[int, bool] = MappingProxyType({})) -> Terms:
    """Return the tree of a function of terms, or of `SecondOrder`; see `read_terms`."""
    return function.read(flags) if isinstance(function, SecondOrder) else read_terms(function, flags)


def combined(xp: Any, order: Order, h: Sequence[Any], vectors: Sequence[Any]) -> list[Any]:
    """Return the diagonal, H v, B w or Bᵀ v, from the upper triangle h of H; B is lower triangular.

    Example:
        >>> combined(None, "product", [2.0, 1.0, 3.0], [1.0, 10.0])
        [12.0, 31.0]
    """
    if order in ("factor", "transposed"):
        return _by_factor(xp, order == "transposed", h, vectors)
    size = math.isqrt(2 * len(h))
    at = dict(zip(combinations_with_replacement(range(size), 2), h, strict=True))
    if order == "product":
        rows = [[at[min(i, j), max(i, j)] * vectors[j] for j in range(size)] for i in range(size)]
        return [_sum(row) for row in rows]
    return [at[i, i] for i in range(size)]


def bound_of(xp: Any, h: Sequence[Any]) -> list[Any]:
    """Return, as an upper triangle, the diagonal matrix D ≥ 0 for which D − H has no negative eigenvalue.

    It is Gershgorin's: d_i = max(0, h_ii + Σ_j |h_ij|), which dominates each row. For one slope it is max(0, h).
    """
    size = math.isqrt(2 * len(h))
    pairs = list(combinations_with_replacement(range(size), 2))
    at = dict(zip(pairs, h, strict=True))
    rows = [_sum([at[i, i], *(xp.abs(at[min(i, j), max(i, j)]) for j in range(size) if j != i)]) for i in range(size)]
    return [xp.maximum(rows[i], 0.0) if i == j else xp.zeros_like(at[i, j]) for i, j in pairs]


def as_tuple(x: Any) -> tuple[Any, ...]:
    """Return what terms return for their slopes as a tuple: one array becomes a tuple of one."""
    return x if isinstance(x, tuple) else (x,)


def _sum(terms: list[Any]) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _by_factor(xp: Any, is_transposed: bool, h: Sequence[Any], vectors: Sequence[Any]) -> list[Any]:
    """Return B w, or Bᵀ v, with B that of Cholesky."""
    root = xp.sqrt(h[0])
    if len(h) == 1:
        return [root * vectors[0]]
    below = xp.where(root == 0.0, 0.0, h[1] / root)  # where h_00 is 0, so is h_01
    last = xp.sqrt(xp.maximum(h[2] - below * below, 0.0))  # rounding may make it negative
    if is_transposed:
        return [root * vectors[0] + below * vectors[1], last * vectors[1]]
    return [root * vectors[0], below * vectors[0] + last * vectors[1]]


def _single(found: Sequence[Any]) -> Any:
    """Return one result as it is, several as a tuple."""
    return found[0] if len(found) == 1 else tuple(found)


# --- the tree ---------------------------------------------------------------------------------------------------------


class _Text(str):
    """An expression of the language of terms, as text: what `combined` makes of it is text, too."""

    def __add__(self, other: Any) -> _Text:
        return _Text(f"({self} + {other})")

    def __sub__(self, other: Any) -> _Text:
        return _Text(f"({self} - {other})")

    def __mul__(self, other: Any) -> _Text:
        return _Text(f"({self} * {other})")

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> _Text:
        return _Text(f"({self} / {other})")

    def __neg__(self) -> _Text:
        return _Text(f"(-{self})")

    def __eq__(self, other: object) -> Any:
        return _Text(f"({self} == {other})")

    __hash__ = str.__hash__


def _called(name: str) -> Callable[..., _Text]:
    return lambda *given: _Text(f"xp.{name}({', '.join(map(str, given))})")


_TEXT = SimpleNamespace(
    **{name: _called(name) for name in ("abs", "maximum", "minimum", "sqrt", "where", "zeros_like")}
)


def _targets(names: Sequence[str]) -> ast.expr:
    targets: list[ast.expr] = [ast.Name(name, ast.Store()) for name in names]
    return targets[0] if len(targets) == 1 else ast.Tuple(targets, ast.Store())


def _assigned(
    definition: ast.FunctionDef, targets: ast.expr, prefix: str, arguments: Mapping[str, str] = MappingProxyType({})
) -> list[ast.stmt]:
    """Return the statements of a function, which assign to `targets` what it returns.

    Its own names get a prefix, so that they can stand beside those of another function; its arguments other names.
    """
    own = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names = {**arguments, **{name: prefix + name for name in own}}
    *body, last = (_Renamed(names).visit(copy.deepcopy(statement)) for statement in definition.body)
    return [*body, *_split(targets, last.value)]


class _Renamed(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._names.get(node.id, node.id), node.ctx)


def _split(target: ast.expr, value: ast.expr) -> list[ast.stmt]:
    """Return one assignment for each name where a tuple is written out, because stages are cut between assignments."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return [s for one, x in zip(target.elts, value.elts, strict=True) for s in _split(one, x)]
    return [ast.Assign([target], value)]
