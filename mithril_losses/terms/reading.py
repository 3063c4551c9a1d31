"""Functions of terms, `(xp, *arrays, *options) → (value, slopes)`, read from their source as small trees.

A tree is complete: no name in it is looked up in Python. So a printer that knows the functions of the vocabulary can
print the tree in another language, for one number at a time.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MappingProxyType
from typing import Any, TypeGuard

from mithril_losses.terms.fission import Stage, function_of, stages_of

VOCABULARY = frozenset(
    {"abs", "atan2", "exp", "expm1", "log", "log1p", "log_gamma", "maximum", "minimum"}
    | {"ones_like", "positive_power", "sign", "sqrt", "tanh", "where", "zeros_like"}
)
# each takes as long as a dozen operations
EXPENSIVE = frozenset({"exp", "expm1", "log", "log1p", "positive_power", "tanh"})

# in the vocabulary, but called as functions with the namespace as argument
_PRIMITIVES = ("log_gamma", "positive_power")
_NODES = (
    *(ast.Assign, ast.AugAssign, ast.Return, ast.If),
    *(ast.Name, ast.Constant, ast.Tuple, ast.Subscript, ast.Attribute, ast.Call, ast.IfExp),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitAnd, ast.BitOr, ast.BitXor),
    *(ast.UnaryOp, ast.USub, ast.UAdd, ast.Invert),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    *(ast.Load, ast.Store),
)


class UnreadableTerms(Exception):  # noqa: N818  (an answer, not a failure)
    """A function is not in the language of terms: its source cannot be read, or it uses more than the vocabulary."""


@dataclass(frozen=True)
class Terms:
    """A function of terms and the functions that it calls, as trees that printers copy and never change.

    In the trees `xp.exp(x)` calls a function of the vocabulary and `terms_product(mass, x)` calls a helper, without the
    namespace and with all arguments by position. There are no flags and no branches.

    Attributes:
        definition: the function, under the name `terms`.
        helpers: the functions that are called, each after the functions that it calls itself.
    """

    definition: ast.FunctionDef
    helpers: tuple[ast.FunctionDef, ...]

    @property
    def arguments(self) -> list[str]:
        """The names of the arrays and options."""
        return [argument.arg for argument in self.definition.args.args]

    @functools.cached_property
    def stages(self) -> list[Stage]:
        """The function cut into parts for separate loops, where an expensive function needs the result of another."""
        expensive = {f"xp.{word}" for word in EXPENSIVE}
        for helper in self.helpers:
            if _called_in(helper) & expensive:
                expensive.add(helper.name)
        return stages_of(self.definition, frozenset(expensive))

    def calls_any(self, *words: str) -> bool:
        """Whether the function or one of its helpers calls one of these functions of the vocabulary."""
        return any(f"xp.{word}" in _called_in(part) for word in words for part in (self.definition, *self.helpers))


def read_terms(function: Callable[..., Any], flags: Mapping[int, bool] = MappingProxyType({})) -> Terms:
    """Return a function of terms as a tree.

    Args:
        function: `(xp, *arguments)`, without a closure.
        flags: the values of the arguments that are flags, by their position after the namespace. Branches on flags are
            decided here.

    Raises:
        UnreadableTerms: the function is not in the language.

    Example:
        >>> from mithril_losses.numerics.stable import product
        >>> print(ast.unparse(read_terms(product).definition))
        def terms(mass, x):
            return xp.where(mass == 0, 0.0, mass * x)
    """
    reader = _Reader(function, "terms", flags)
    return Terms(reader.definition, tuple(reader.helpers.values()))


def _called_in(function: ast.FunctionDef) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}


def _parsed(function: Callable[..., Any]) -> ast.FunctionDef:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError) as error:
        raise UnreadableTerms(f"the source of {function.__name__} cannot be read") from error
    if not isinstance(definition, ast.FunctionDef) or function.__closure__ or not definition.args.args:
        raise UnreadableTerms(f"{function.__name__} is not a plain function")
    if ast.get_docstring(definition, clean=False) is not None:
        del definition.body[0]
    return definition


class _Reader(ast.NodeTransformer):
    """Makes the tree of one function from its source, and the trees of its helpers."""

    def __init__(self, function: Callable[..., Any], name: str, flags: Mapping[int, bool]) -> None:
        source = _parsed(function)
        self._function = function
        self._name = name
        self._namespace, *arguments = [argument.arg for argument in source.args.args]
        self._flags = {arguments[i]: flag for i, flag in flags.items()}
        names = [node for node in ast.walk(source) if isinstance(node, ast.Name)]
        self._bound = {*arguments, *(node.id for node in names if isinstance(node.ctx, ast.Store))}
        self.helpers: dict[str, ast.FunctionDef] = {}
        self.definition = function_of(name, [x for x in arguments if x not in self._flags], self._body(source.body))

    def _body(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Return the statements that are reached."""
        found: list[ast.stmt] = []
        for statement in statements:
            read = self.visit(statement)
            found += read if isinstance(read, list) else [read]
            if found and isinstance(found[-1], ast.Return):
                break
        return found

    def visit(self, node: ast.AST) -> Any:
        if not isinstance(node, _NODES):
            raise self._refusal(ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else type(node).__name__)
        return super().visit(node)

    def visit_If(self, node: ast.If) -> list[ast.stmt]:
        return self._body(node.body if self._holds(node.test) else node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self.visit(node.body if self._holds(node.test) else node.orelse)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        value = ast.BinOp(ast.parse(ast.unparse(node.target), mode="eval").body, node.op, node.value)
        return self.visit(ast.Assign([node.target], value))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self._flags:
            return ast.Constant(self._flags[node.id])
        if node.id not in self._bound:
            raise self._refusal(repr(node.id))
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, int | float):
            raise self._refusal(repr(node.value))
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        match node:
            case ast.Attribute(value=ast.Name(id=self._namespace), attr=word) if word in VOCABULARY:
                return _word(word)
        raise self._refusal(node.attr)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not isinstance(node.func, ast.Name):
            return self.generic_visit(node)
        name = node.func.id
        helper = None if name in self._bound else self._function.__globals__.get(name)
        if not isinstance(helper, FunctionType):
            raise self._refusal(repr(name))
        match node.args:
            case [ast.Name(id=self._namespace), *_]:
                given = [self.visit(x) for x in _by_position(helper, node)]
                return ast.Call(self._helper(helper, name, given), [x for x in given if not _is_flag(x)], [])
        raise UnreadableTerms(f"{name} does not take the array namespace first")

    def _helper(self, helper: FunctionType, name: str, given: list[ast.expr]) -> ast.expr:
        """Read a helper, and return its name in the tree; each choice of its flags has another name."""
        if name in _PRIMITIVES:
            return _word(name)
        flags = {i: bool(x.value) for i, x in enumerate(given) if _is_flag(x)}
        full = "_".join([self._name, name, *(f"{i}_{flag}" for i, flag in flags.items())])
        if full not in self.helpers:
            below = _Reader(helper, full, flags)
            self.helpers |= below.helpers | {full: below.definition}
        return ast.Name(full, ast.Load())

    def _holds(self, test: ast.expr) -> bool:
        names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
        if not names <= self._flags.keys():
            raise self._refusal(f"a branch on {ast.unparse(test)}")
        return bool(eval(compile(ast.Expression(test), "<flags>", "eval"), {}, self._flags))

    def _refusal(self, what: str) -> UnreadableTerms:
        return UnreadableTerms(f"{self._function.__name__} uses {what}, which is not in the vocabulary of terms")


def _word(word: str) -> ast.expr:
    return ast.Attribute(ast.Name("xp", ast.Load()), word, ast.Load())


def _is_flag(node: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _by_position(helper: FunctionType, call: ast.Call) -> list[ast.expr]:
    """Return the arguments of a call after the namespace, in the order of the helper's parameters, with defaults."""
    bound = inspect.signature(helper).bind(*call.args, **{str(x.arg): x.value for x in call.keywords})
    bound.apply_defaults()
    return [x if isinstance(x, ast.expr) else ast.Constant(x) for x in bound.args[1:]]
