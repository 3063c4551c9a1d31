"""Render the formulas of the documentation as MathML when the site is built, so that reading it takes no JavaScript.

Arithmatex leaves each formula as LaTeX inside an element of class "arithmatex"; this hook replaces the LaTeX.
"""

from __future__ import annotations

import html
import re
from itertools import zip_longest
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<latex>.*?)\\[)\]]\s*</(?P=tag)>', re.DOTALL)

_MATHML = "http://www.w3.org/1998/Math/MathML"
_OPERATOR, _IDENTIFIER = f"{{{_MATHML}}}mo", f"{{{_MATHML}}}mi"
_THIN = "0.167em"  # TeX's space around the names of functions
ElementTree.register_namespace("", _MATHML)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Replace every formula on a page; mkdocs calls this once the page is HTML."""

    def render(match: re.Match[str]) -> str:
        tag, latex = match["tag"], html.unescape(match["latex"]).strip()
        try:
            mathml = to_mathml(latex, display="block" if tag == "div" else "inline")
        except ValueError as error:
            raise PluginError(f"{page.file.src_uri}: {error}") from error
        return f'<{tag} class="formula">{mathml}</{tag}>'

    return _FORMULA.sub(render, content)


def to_mathml(latex: str, display: str) -> str:
    """Convert LaTeX to MathML.

    Raises:
        ValueError: some part of the formula was not understood.
    """
    try:
        formula = ElementTree.fromstring(convert(latex, display=display))
    except Exception as error:  # the converter's errors share no base class of their own
        raise ValueError(f"no MathML for {latex!r}: {type(error).__name__} {error}") from error
    for element in formula.iter():
        # the converter passes on as text what it does not know, and browsers do not know mathvariant
        if "\\" in (element.text or "") or "mathvariant" in element.attrib:
            raise ValueError(f"no MathML for {element.text!r} in {latex!r}")
    if len(re.findall(r"(?<!\\){", latex)) != len(re.findall(r"(?<!\\)}", latex)):
        raise ValueError(f"braces do not match in {latex!r}")
    _space_as_tex_does(formula)
    return ElementTree.tostring(formula, encoding="unicode")


def _space_as_tex_does(formula: ElementTree.Element) -> None:
    """Tell the browser which operators are names, fences, signs or plain symbols, and how much space they take."""
    for row in formula.iter():
        before = None
        for element, after in zip_longest(list(row), list(row)[1:]):
            text = element.text or ""
            if element.tag in {_OPERATOR, _IDENTIFIER} and len(text) > 1 and text.isalpha() and text.isascii():
                element.tag = _OPERATOR  # a function's name
                element.attrib |= {
                    "form": "prefix",
                    "lspace": "0" if before is None or _opens(before) else _THIN,
                    "rspace": "0" if after is not None and after.text == "(" else _THIN,
                }
            elif element.tag == _OPERATOR and text in {"∂", "∞"}:
                element.tag = _IDENTIFIER
            elif element.tag == _OPERATOR and text in {"|", "‖", "/"}:
                element.attrib = {"lspace": "0", "rspace": "0", "stretchy": "false"} | element.attrib
            elif element.tag == _OPERATOR and text in {"−", "+"} and before is not None and _opens(before):
                element.attrib["form"] = "prefix"
            before = element


def _opens(element: ElementTree.Element) -> bool:
    """Whether what follows `element` begins anew: it is an operator that closes nothing."""
    return element.tag == _OPERATOR and element.text not in {")", "]", "}", "|", "‖"}
