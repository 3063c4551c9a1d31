"""How far floating-point results lie from the true ones, in units in the last place: one law for every loss.

The true value and gradient are computed in exact numbers, from arguments that are rounded already. A unit is the
machine epsilon times the largest element of the true result plus that of its change when each argument moves by its own
size: what one rounding of result and arguments may do. So a loss is not charged for the condition of its problem. What
the code has for constants in double precision (1/n², a root of n) is taken for true: half a unit in float64 at most.
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
MOST = 8.0  # units that a result may be off: the losses take few roundings in a row


@dataclass(frozen=True)
class Rounding:
    """How far a result lies from the true one.

    Attributes:
        point: where.
        library: whose arrays were computed with.
        dtype: of arguments and result.
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
        """Yield how far the results of an array library lie from the true ones.

        Args:
            library: its name.
            convert: makes an array of the library of a NumPy array, in the dtype of the latter.
        """
        with double_precision([convert(np.zeros(1))]):
            given = {name: map_leaves(_converted_by(convert), x, name) for name, x in self._given.items()}
            found = _results(self.point, given)
        for result, true in self._results.items():
            units = _units(to_numpy(found[result]), true, float(np.finfo(self.dtype).eps))
            yield Rounding(self.point, library, self.dtype, result, units)


def first_points(pair: Pair, count: int) -> list[Point]:
    """Return so many points of a loss that ask for its gradient alone."""
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
    """Return an exact array of which each element moves by its own size, one way or the other."""
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
