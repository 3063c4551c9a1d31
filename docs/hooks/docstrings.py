"""What mkdocstrings is told about the docstrings of this package before it renders them."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Let a section "Example:" hold doctests, and keep the type of the common keywords out of every function."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Adjust one function as soon as it has been read."""
        if func.docstring is not None:
            func.docstring.value = re.sub(r"^Example:$", "Examples:", func.docstring.value, flags=re.MULTILINE)
        for parameter in func.parameters:
            if parameter.kind is griffe.ParameterKind.var_keyword:
                parameter.annotation = parameter.default = None
