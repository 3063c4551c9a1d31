"""How scalar functions are compiled so that LLVM vectorises the loop around them.

* `forceinline` puts the body into the caller's loop in LLVM, after each function was compiled by itself: it keeps its
  own fast-math flags and error model there. numba's `inline="always"` merges the Python bodies instead, and the flags
  of the outermost function rule all of them; its `reassoc` then turns (x − n·high) − n·low into x − n·(high + low) and
  undoes every two-part subtraction.
* `error_model="numpy"`: a division that may raise is a branch, and the loop stays scalar.
* Scalar functions allow `contract` alone: fused multiply-adds where the processor has them, every other operation as
  written. `nnan` and `ninf` appear nowhere, so NaN and infinity behave as they do in array code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Scalar = Any  # np.float32 or np.float64 inside compiled code
Function = TypeVar("Function", bound=Callable[..., Any])


def inlined(function: Function) -> Function:
    """Compile a scalar function that dissolves in its caller and computes exactly what it says."""
    compiled: Function = numba.njit(forceinline=True, error_model="numpy", fastmath={"contract"})(function)
    return compiled
