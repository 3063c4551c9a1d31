"""Put on the page of a family what its element-wise losses compute: formulas printed from the code, as it was proved.

A line `<!-- pieces -->` is replaced by the value and the slopes of each loss of the page, piece by piece.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import sympy

from mithril_losses import catalogue
from mithril_losses.checking.proof import Piece, parts, prove, symbol

MARK = "<!-- pieces -->"

_INTRODUCTION = """\
Printed from the code: the terms of each loss, evaluated on symbols, on every piece of the domain. The derivative of
each value minus the slope that the code returns is 0 identically; where it is not, this page is not built.
Probabilities outside $[\\varepsilon, 1 - \\varepsilon]$ have value and slope of the end of the interval that is
nearest."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the mark; mkdocs calls this before the page becomes HTML."""
    if MARK not in markdown:
        return markdown
    return markdown.replace(MARK, pieces_of(PurePosixPath(page.file.src_uri).stem))


def pieces_of(family: str) -> str:
    """Return the formulas of a family's element-wise losses in Markdown.

    Raises:
        LookupError: the family has none.
    """
    losses = [pair.name for pair in catalogue().values() if pair.family == family and parts(pair.value)]
    if not losses:
        raise LookupError(f"the family {family!r} has no element-wise losses, so its page needs no {MARK}")
    return "\n\n".join([_INTRODUCTION, *map(_formulas, losses)])


def _formulas(loss: str) -> str:
    names = dict.fromkeys(name for terms in parts(loss).values() for name in terms.domain)
    domains = {name: domain for terms in parts(loss).values() for name, domain in terms.domain.items()}
    meanings = ", ".join(f"${sympy.latex(symbol(n, domains[n]))}$ = {n}" for n in names if _is_symbol(domains[n]))
    lines = list(dict.fromkeys(map(_line, filter(_is_shown, prove(loss)))))
    return "\n\n".join([f"**`{loss}`**, with {meanings}:", *(f"$$\n{line}\n$$" for line in lines)])


def _is_symbol(domain: Any) -> bool:
    return type(domain).__name__ != "Flag"


def _is_shown(piece: Piece) -> bool:
    """Leave out what is said in a word: constants, options at an end of an interval, probabilities that are clipped."""
    is_choice = all(name == "targets" or isinstance(x, bool) for name, x in piece.settled.items())
    return piece.kind != "end of a piece" and is_choice and not piece.settled.get("full", False)


def _line(piece: Piece) -> str:
    slopes = [
        rf"\frac{{\partial \ell}}{{\partial {sympy.latex(symbol(name, None))}}} = {_latex(slope)}"
        for name, slope in piece.slopes.items()
    ]
    conditions = [f"{_name(name)} = {_number(x)}" for name, x in piece.settled.items() if name != "full"]
    facts = dict.fromkeys(c.canonical for c in piece.conditions if c.rel_op in "<>" and not _is_bound_of_the_dtype(c))
    conditions += map(sympy.latex, facts)
    where = r" \qquad (" + r", \; ".join(conditions) + ")" if conditions else ""
    return rf"\ell = {_latex(piece.value)}, \qquad " + r", \quad ".join(slopes) + where


def _latex(expression: Any) -> str:
    """Return an expression as the code has it, or what SymPy makes of it where that is much shorter."""
    simple = sympy.simplify(expression)
    is_shorter = sympy.count_ops(simple) < 0.7 * sympy.count_ops(expression) and not simple.has(sympy.Abs)
    return sympy.latex(simple if is_shorter else expression).replace("operatorname{loggamma}", "log \\Gamma")


def _is_bound_of_the_dtype(condition: Any) -> bool:
    return any(abs(x) >= 700 or 0 < abs(x) < 1e-30 for x in condition.atoms(sympy.Number))


def _name(name: str) -> str:
    return sympy.latex(symbol(name, None)) if name == "targets" else rf"\text{{{name.replace('_', ' ')}}}"


def _number(x: Any) -> str:
    return str(x).lower() if isinstance(x, bool) else str(x)
