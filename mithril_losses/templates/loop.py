"""What a template hands over for large arrays on the host: a loop over rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class FusedRows(NamedTuple):
    """A loop over rows that is ready to run.

    Attributes:
        shape: of the unreduced loss.
        mass: what each row counts in the divisor, None for 1.
        run: `run(weights, factor, values, gradients, threads)` fills the gradients (and the values, where they are no
            None) and returns the sum of the weighted losses. It may compile.
        blocked: the same for when nothing may be compiled; by default blocks of rows through the plain functions.
    """

    shape: tuple[int, ...]
    mass: Any
    run: Callable[..., float]
    blocked: Callable[..., float] | None = None
