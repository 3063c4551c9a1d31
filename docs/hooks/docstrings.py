"""What mkdocstrings is told about the docstrings of this package before it renders them."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Let a section "Example:" hold doctests, and say of the common keywords only where they are explained."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Adjust a docstring as soon as it has been read."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text.replace(
                "see `reduce_loss`", "see [`reduce_loss`][mithril_losses._reduction.reduce_loss]"
            )

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Adjust a signature as soon as it has been read."""
        for parameter in func.parameters:
            if parameter.kind is griffe.ParameterKind.var_keyword:
                parameter.annotation = parameter.default = None
