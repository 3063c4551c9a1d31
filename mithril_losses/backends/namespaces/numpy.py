"""NumPy as an array API namespace for element-wise terms: NumPy's, with replacements for what is slow on large arrays.

NumPy's own `where` branches at every element. If the processor cannot predict the mask, a branch costs ten times as
much as an exponential. Here the mask selects the bits of both arrays without branches. NumPy's maximum and minimum are
three times slower with a number than with an array filled with it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

TWO_NUMBERS = (  # PyTorch makes float32 of them, and NumPy float64
    "xp.where of two numbers does not know the dtype of the other arrays: give one of the numbers as an array, such as "
    "xp.where(condition, xp.ones_like(x), 0.0)"
)


def __getattr__(name: str) -> Any:
    """Return the attribute of NumPy, looked up once; a star import would load all of NumPy's submodules."""
    if name.startswith("_"):
        raise AttributeError(name)
    found = globals()[name] = getattr(np, name)
    return found


def for_elements(xp: Any) -> Any:
    """Return the namespace for element-wise formulas: this module for NumPy, any other namespace unchanged."""
    return sys.modules[__name__] if xp is np else xp


class Quiet:
    """A context without NumPy's warnings about infinities and NaNs: `np.errstate(all="ignore")` at half the cost.

    A small call notices the difference. An object serves one `with` block.

    Example:
        >>> with Quiet():
        ...     print(np.float64(1.0) / np.float64(0.0))
        inf
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _handling.set(_IGNORED)

    def __exit__(self, *_: object) -> None:
        _handling.reset(self._before)


try:
    from numpy._core.umath import _extobj_contextvar as _handling
    from numpy._core.umath import _make_extobj

    _IGNORED = _make_extobj(all="ignore")
except ImportError:  # a version of NumPy that keeps it elsewhere
    quiet: Any = functools.partial(np.errstate, all="ignore")
else:
    quiet = Quiet


_FROM = 1 << 12  # elements below which one slow call is cheaper than several fast ones
_NUMBERS = (float, int)
_BITS = {np.dtype(f"float{8 * size}"): np.dtype(f"int{8 * size}") for size in (2, 4, 8)}


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return `x` where the condition holds and `y` elsewhere; one of the two may be a number."""
    if type(x) in _NUMBERS and type(y) in _NUMBERS:
        raise TypeError(TWO_NUMBERS)
    if condition.size < _FROM:
        return np.where(condition, x, y)
    like = x if isinstance(x, np.ndarray) else y
    bits = _BITS.get(like.dtype) if isinstance(like, np.ndarray) else None
    if bits is None or like.shape != np.shape(condition):
        return np.where(condition, x, y)
    chosen, other = (_bits(branch, like, bits) for branch in (x, y))
    if chosen is None or other is None:
        return np.where(condition, x, y)
    mask = condition.astype(bits)
    if chosen.ndim == 0 and not chosen:
        mask -= 1  # all bits where the condition does not hold
        mask &= other
        return mask.view(like.dtype)
    np.negative(mask, out=mask)  # all bits where the condition holds
    if other.ndim == 0 and not other:
        mask &= chosen
        return mask.view(like.dtype)
    mixed = np.bitwise_xor(chosen, other)
    mixed &= mask
    mixed ^= other
    return mixed.view(like.dtype)


def _bits(branch: Any, like: Any, bits: Any) -> Any:
    """Return the bits of a branch, an array like `like` or a number, in the dtype of `like`; None for anything else."""
    if isinstance(branch, np.ndarray):
        return branch.view(bits) if branch.shape == like.shape and branch.dtype == like.dtype else None
    return like.dtype.type(branch).view(bits) if type(branch) in _NUMBERS else None


def maximum(x: Any, y: Any) -> Any:
    """Return the larger of two arrays, or of an array and a number."""
    return _extreme(np.maximum, x, y)


def minimum(x: Any, y: Any) -> Any:
    """Return the smaller of two arrays, or of an array and a number."""
    return _extreme(np.minimum, x, y)


def _extreme(function: Any, x: Any, y: Any) -> Any:
    if type(y) is not float or not isinstance(x, np.ndarray) or x.size < _FROM:
        return function(x, y)
    bound = np.full_like(x, y)
    return function(x, bound, out=bound)
