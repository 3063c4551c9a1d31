"""How scalar functions are compiled so that LLVM vectorizes the loop around them.

* `forceinline` inlines the body into the caller's loop in LLVM, after each function was compiled by itself. So each
  function keeps its own fast-math flags and error model. numba's `inline="always"` merges Python bodies instead, and
  the flags of the outermost function apply to all; its `reassoc` then turns (x − n·high) − n·low into
  x − n·(high + low), and breaks every two-part subtraction.
* `error_model="numpy"`: a division that may raise needs a branch, and the loop would stay scalar.
* Scalar functions allow only `contract`: fused multiply-adds where the processor has them, and every other operation as
  written. `nnan` and `ninf` are never allowed, so NaN and infinity behave as in array code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Scalar = Any  # np.float32 or np.float64 inside compiled code
Function = TypeVar("Function", bound=Callable[..., Any])


def inlined(function: Function) -> Function:
    """Compile a scalar function that is inlined into its caller and computed exactly as written."""
    compiled: Function = numba.njit(forceinline=True, error_model="numpy", fastmath={"contract"})(function)
    return compiled
