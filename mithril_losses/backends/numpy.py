"""Arrays of NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from mithril_losses.backends.base import Backend, one_number
from mithril_losses.backends.conversion import host_array
from mithril_losses.backends.namespaces import Array


class NumpyBackend(Backend):
    """NumPy: the default, always available.

    Example:
        >>> backend = NumpyBackend()
        >>> backend.mean(backend.square(backend.array([1.0, 3.0])))
        np.float32(5.0)
        >>> backend.gradient(lambda x: backend.sum(x * x), backend.array([1.0, -2.0])).round(6)
        array([ 2., -4.])
    """

    name: ClassVar[str] = "numpy"
    namespace: ClassVar[Any] = np

    def gradient(self, function: Callable[..., Any], *arguments: Any, argnum: int = 0) -> Array:
        """Return the derivative by central differences, in float64; see `Backend.gradient`."""
        evaluate = one_number(function)
        point = np.array(arguments[argnum], dtype=np.float64)
        result = np.empty_like(point)
        for index in np.ndindex(point.shape):
            # ∛ε balances the truncation error, O(step²), against rounding, O(ε/step)
            step = np.cbrt(np.finfo(np.float64).eps) * max(1.0, abs(point[index]))
            values, ends = [], []
            for shift in (step, -step):
                moved = point.copy()
                moved[index] += shift
                shifted = list(arguments)
                shifted[argnum] = moved
                values.append(evaluate(*shifted))
                ends.append(moved[index])
            result[index] = (values[0] - values[1]) / (ends[0] - ends[1])
        return result

    def _adopt(self, data: Any) -> Array:
        return np.array(host_array(data))

    def _native_dtype(self, name: str) -> Any:
        return np.dtype(name)
