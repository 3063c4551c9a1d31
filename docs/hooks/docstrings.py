"""What mkdocstrings is told about the docstrings of this package before it renders them."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Let a section "Example:" hold doctests, and keep the type of the common keywords out of every function."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Adjust a docstring as soon as it has been read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Adjust a signature as soon as it has been read."""
        for parameter in func.parameters:
            if parameter.kind is griffe.ParameterKind.var_keyword:
                parameter.annotation = parameter.default = None
