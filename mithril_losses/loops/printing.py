"""Terms as text that numba compiles: functions of single numbers, in the dtype that the text around them calls T.

The text around them also imports the scalar functions as `xp`, and defines in `EXACT` the allowed fast-math flags.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mithril_losses.terms.reading import Terms, read_terms

_COMPILED = "@njit(forceinline=True, error_model='numpy', fastmath=EXACT)"


def scalar_source(function: Callable[..., Any], flags: Mapping[int, bool] = MappingProxyType({})) -> str:
    """Return the text of a function of terms, under the name `terms`, after the text of the helpers that it calls.

    Args:
        function: `(xp, *arguments)`.
        flags: the arguments that are flags, by their position after the namespace.

    Raises:
        UnreadableTerms: the function is not in the language of terms.
    """
    terms = read_terms(function, flags)
    return printed(*terms.helpers, terms.definition)


def staged_source(terms: Terms) -> str:
    """Return the text of the stages of terms, under the names `terms_0`, `terms_1`, …, after the text of helpers."""
    return printed(*terms.helpers, *(stage.definition for stage in terms.stages))


def printed(*definitions: ast.FunctionDef) -> str:
    """Return the text of functions of a tree.

    Example:
        >>> (square,) = ast.parse("def square(x): return 0.5 * x**2").body
        >>> print(printed(square))
        @njit(forceinline=True, error_model='numpy', fastmath=EXACT)
        def square(x):
            return T(0.5) * x ** 2
        <BLANKLINE>
    """
    return "\n\n".join(f"{_COMPILED}\n{ast.unparse(_Typed().visit(copy.deepcopy(x)))}\n" for x in definitions)


class _Typed(ast.NodeTransformer):
    """Give numbers the type of the arrays. An exponent stays an integer, because x² is a product; so does an index."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        node.left = self.visit(node.left)
        if not (isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant)):
            node.right = self.visit(node.right)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        node.value = self.visit(node.value)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return node if isinstance(node.value, bool) else ast.Call(ast.Name("T", ast.Load()), [node], [])
