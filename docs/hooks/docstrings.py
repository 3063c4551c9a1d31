"""What mkdocstrings is told about the docstrings of this package before it renders them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import griffe

from mithril_losses import catalogue


class Docstrings(griffe.Extension):
    """Let a section "Example:" hold doctests, add the declared properties of a loss, and link the common keywords."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Adjust a docstring as soon as it has been read."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text.replace(
                "see `reduce_loss`", "see [`reduce_loss`][mithril_losses.numerics.reduction.reduce_loss]"
            )

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Adjust a loss's docstring, and a signature, as soon as they have been read."""
        pair = catalogue().get(func.name)
        if pair is not None and func.docstring is not None:
            func.docstring.value = with_properties(func.docstring.value, map(str, pair.properties.values()))
        loss = catalogue().get(func.name.removesuffix("_gradient"))
        if loss is not None and loss.name != func.name and func.docstring is not None:
            func.docstring.value = with_arguments_of(loss.value, func.docstring.value)
        for parameter in func.parameters:
            if parameter.kind is griffe.ParameterKind.var_keyword:
                parameter.annotation = parameter.default = None


def with_arguments_of(loss: Callable[..., Any], docstring: str) -> str:
    """Return the docstring of a gradient, which after its formula says where its arguments and errors are told."""
    link = f"[`{loss.__name__}`][{loss.__module__}.{loss.__name__}]"
    formula, _, rest = docstring.partition("\n\n")
    told = (
        f"Arguments and errors are those of {link}; `upstream` is the gradient that flows into the loss. A gradient is "
        "a new array of the shape and dtype of its argument. Of several arguments it is a dict by their names."
    )
    return f"{formula}\n\n{told}\n\n{rest}"


def with_properties(docstring: str, properties: Iterable[str]) -> str:
    """Return the docstring of a loss with a section of what the loss declares of itself, before its source."""
    lines = "".join(f"\n    * {text}" for text in properties)
    head, source, tail = docstring.partition("\nSource:\n")
    return f"{head}\nProperties:{lines}\n{source}{tail}" if lines else docstring
