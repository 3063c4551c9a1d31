"""The rounding errors of floating-point results, in units in the last place: one law for every loss.

The true value and gradient are computed in exact numbers, from arguments that are already rounded. A unit is the
machine epsilon times a sum: the largest element of the true result, plus the largest change of the result when each
argument changes by its own size. This is the effect of one rounding of result and arguments, so the condition of the
problem does not count against a loss. Constants of the code in double precision (1/n², a root of n) are taken as true:
their error is at most half a unit in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from mithril_losses.catalogue import Pair
from mithril_losses.checking.exact.arrays import ExactArray, exact
from mithril_losses.checking.exact.points import Point, points
from mithril_losses.checking.exact.scalars import CONTEXT, Number
from mithril_losses.checking.gradients import double_precision, to_numpy
from mithril_losses.numerics.trees import leaves, map_leaves

DTYPES = ("float32", "float64")
MOST = 8.0  # the largest accepted error in units: losses have few roundings in a row


@dataclass(frozen=True)
class Rounding:
    """The error of a result.

    Attributes:
        point: the point at which it was computed.
        library: the library of the arrays.
        dtype: the dtype of arguments and result.
        result: "value", or the path of the argument whose gradient it is.
        units: the largest error of an element, in units in the last place.
    """

    point: Point
    library: str
    dtype: str
    result: str
    units: float

    def __str__(self) -> str:
        result = "value" if self.result == "value" else f"gradient wrt {self.result}"
        loss, where = self.point.pair.name, f"{self.library}, {self.dtype}"
        return f"{result} of {loss} ({where}; {self.point.name}): {self.units:.1f} units in the last place"


class Truth:
    """The true value and gradient of a loss at a point whose arguments are rounded to a dtype."""

    def __init__(self, point: Point, dtype: str) -> None:
        self.point, self.dtype = point, dtype
        self._given = {name: map_leaves(_rounded_to(dtype), x, name) for name, x in _given(point).items()}
        exactly = {name: map_leaves(_moving_by_itself, x, name) for name, x in self._given.items()}
        self._results = _results(point, exactly)

    def roundings(self, library: str, convert: Callable[[Any], Any]) -> Iterator[Rounding]:
        """Yield the errors of the results of an array library.

        Args:
            library: the name of the library.
            convert: converts a NumPy array to an array of the library, in the same dtype.
        """
        with double_precision([convert(np.zeros(1, np.float32))]):
            given = {name: map_leaves(_converted_by(convert), x, name) for name, x in self._given.items()}
            found = _results(self.point, given)
        for result, true in self._results.items():
            units = _units(to_numpy(found[result]), true, float(np.finfo(self.dtype).eps))
            yield Rounding(self.point, library, self.dtype, result, units)


def first_points(pair: Pair, count: int) -> list[Point]:
    """Return the first points of a loss that need its gradient only."""
    return [replace(point, wrt=()) for point in islice(points(pair), count)]


def _given(point: Point) -> dict[str, Any]:
    return point.arrays | point.options


def _rounded_to(dtype: str) -> Callable[[str, Any], Any]:
    return lambda _, x: x.astype(dtype) if _is_floating(x) else x


def _converted_by(convert: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    return lambda _, x: convert(x) if isinstance(x, np.ndarray | np.generic) else x


def _is_floating(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic) and x.dtype.kind == "f"


def _moving_by_itself(path: str, x: Any) -> Any:
    """Return an exact array whose elements have their own size, with either sign, as rate of change."""
    if not _is_floating(x):
        return exact(x) if isinstance(x, np.ndarray | np.generic) else x
    return exact(x, x * np.random.default_rng(list(path.encode())).choice([-1.0, 1.0], x.shape))


def _results(point: Point, given: dict[str, Any]) -> dict[str, Any]:
    """Return the value and the arrays of the gradient, by name."""
    arrays, options = [given[name] for name in point.arrays], {name: given[name] for name in point.options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = point.pair.total_of(point.pair.value(*arrays, **options))
        gradient = point.pair.gradient(*arrays, **options)
    by_argument = gradient if len(point.pair.wrt) > 1 else {point.pair.wrt[0]: gradient}
    return {"value": value} | {path: x for name, tree in by_argument.items() for path, x in leaves(tree, name)}


def _units(found: Any, true: ExactArray, eps: float) -> float:
    """Return the largest error of an element, in units in the last place."""
    if true.size == 0:
        return 0.0
    error = max(abs(CONTEXT.mpf(float(x)) - y) for x, y in zip(found.flat, true.values.flat, strict=True))
    size = _largest(true.values) + (0 if true.rates is None else _largest(true.rates))
    return 0.0 if error == 0 else float(error / (eps * size)) if size > 0 else float("inf")


def _largest(values: Any) -> Number:
    return max(abs(x) for x in values.flat)
