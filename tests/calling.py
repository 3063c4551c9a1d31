"""The ways to call a loss, and what a call that is refused says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import Case

from mithril_losses import value_and_gradient


def faces(case: Case) -> dict[str, Callable[..., Any]]:
    """Return the functions by which a loss is called."""
    pair = case.pair
    found = {"value": pair.value, "gradient": pair.gradient, "both": value_and_gradient(pair.value)}
    return found if pair.both is None else {**found, "public both": pair.both}


def arguments_of(case: Case, library: str) -> list[Any]:
    """Return the arrays in 32 bits."""
    narrow = {n: x.astype(np.int32) if getattr(x, "dtype", None) == np.int64 else x for n, x in case.arrays.items()}
    return Case(case.pair, case.name, narrow).arguments(library, "float32")


def told(error: type[Exception], function: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(error) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert message.count("\n") < 2, message
    words = message.replace("(", " ").split()
    assert not any(word.startswith(("_", "<lambda>")) or "<locals>" in word for word in words), message
    assert not any(path in message for path in ("plan()", "Traceback", 'File "')), message
    return message
