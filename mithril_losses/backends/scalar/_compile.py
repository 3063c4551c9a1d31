"""How scalar functions and terms are compiled so that LLVM vectorises the loop around them.

* `forceinline` puts the body into the caller's loop in LLVM, after each function was compiled by itself: it keeps its
  own fast-math flags and error model there. numba's `inline="always"` merges the Python bodies instead, and the flags
  of the outermost function rule all of them; its `reassoc` then turns (x − n·high) − n·low into x − n·(high + low) and
  undoes every two-part subtraction. A module cannot be passed through it either.
* `error_model="numpy"`: a division that may raise is a branch, and the loop stays scalar.
* Scalar functions allow `contract` alone: fused multiply-adds where the processor has them, every other operation as
  written. `nnan` and `ninf` appear nowhere, so NaN and infinity behave as they do in array code.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any, TypeVar

import numba
import numpy as np

Scalar = Any  # np.float32 or np.float64 inside compiled code
Function = TypeVar("Function", bound=Callable[..., Any])

# `arcp` shares one division between quotients with a common divisor, `nsz` makes minimum and maximum one instruction
_TERMS_FASTMATH = {"contract", "arcp", "nsz"}


def inlined(function: Function) -> Function:
    """Compile a scalar function that dissolves in its caller and computes exactly what it says."""
    compiled: Function = numba.njit(forceinline=True, error_model="numpy", fastmath={"contract"})(function)
    return compiled


def compile_terms(terms: Callable[..., Any], numpy_type: type[np.floating[Any]]) -> Any:
    """Compile terms for arguments of `numpy_type`, to be called from a numba function with a scalar namespace.

    The terms and the Python functions that they call become part of the caller's loop.

    Example:
        >>> import numba
        >>> from mithril_losses.backends.scalar import float32
        >>> def terms(xp, predictions, targets):
        ...     error = predictions - targets
        ...     return xp.abs(error), xp.sign(error)
        >>> absolute_error = compile_terms(terms, np.float32)
        >>> @numba.njit(error_model="numpy")
        ... def slopes(predictions, targets, out):
        ...     for i in range(out.size):
        ...         _, out[i] = absolute_error(float32, predictions[i], targets[i])
        >>> out = np.empty(2, dtype=np.float32)
        >>> slopes(np.array([1.0, 2.0], dtype=np.float32), np.array([3.0, 0.5], dtype=np.float32), out)
        >>> out.tolist()
        [-1.0, 1.0]
    """
    return numba.njit(forceinline=True, error_model="numpy", fastmath=_TERMS_FASTMATH)(retyped(terms, numpy_type))


def retyped(function: Callable[..., Any], numpy_type: type[np.floating[Any]]) -> FunctionType:
    """Return a copy of a Python function whose numbers are of `numpy_type`, and so all that is computed with them.

    Python numbers take the type of the array they meet; to numba they are float64 and int64 and would turn float32
    arithmetic into float64. Literals, module-level numbers and closed-over numbers are replaced; Python functions
    that the function calls are compiled likewise. An attribute such as `math.pi` is out of reach: name it first.

    Example:
        >>> def doubled(x):
        ...     return 2 * x
        >>> retyped(doubled, np.float32)(np.float64(1.5)).dtype, retyped(doubled, np.float32).__code__.co_consts[-1]
        (dtype('float64'), np.float32(2.0))
    """

    def typed(value: Any) -> Any:
        if type(value) in (int, float):
            return numpy_type(value)
        return compile_terms(value, numpy_type) if isinstance(value, FunctionType) else value

    assert isinstance(function, FunctionType)
    code = function.__code__
    names = {name: typed(function.__globals__[name]) for name in code.co_names if name in function.__globals__}
    return FunctionType(
        code.replace(co_consts=tuple(numpy_type(c) if type(c) in (int, float) else c for c in code.co_consts)),
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        tuple(CellType(typed(cell.cell_contents)) for cell in function.__closure__ or ()),
    )
