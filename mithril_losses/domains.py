"""What each argument of a loss may be: declared once, checked in every call, and drawn at random by tests."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mithril_losses.backends.namespaces import Array, host_values, is_dtype, namespace_of
from mithril_losses.numerics.validation import did_you_mean, is_number, require_integer


@dataclass(frozen=True)
class _Fixed:
    """A domain with nothing to set: any two of one class are equal. To make a data class of each takes its time."""


# --- options ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """The numbers that an option may be, and arrays of such numbers that broadcast to the predictions.

    A `static` option decides which code runs: it is a plain number, never an array or a tracer. If `drawn_from` is
    given, tests draw the option from it.
    """

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    closed_above: bool = False
    infinite: bool = False
    static: bool = False
    for_none: float | None = None
    drawn_from: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.high == math.inf:
            text = f"{'≥' if self.closed else '>'} {self.low:g}" if self.low > -math.inf else "any number"
        else:
            above = "]" if self.closed or self.closed_above else ")"
            text = f"in {'[' if self.closed else '('}{self.low:g}, {self.high:g}{above}"
        return text if self.for_none is None else f"{text} or None"

    def check(self, name: str, value: Any) -> Any:
        """Return `value` as a float (an array unchanged, None as the number it stands for), or raise.

        Raises:
            TypeError: `value` is neither a number nor an array.
            ValueError: `value` lies outside the interval.
        """
        if value is None and self.for_none is not None:
            return self.for_none
        seen: Any
        if is_number(value):
            seen = value = float(value)
            legal = bool(self._contains(value))
        elif namespace_of(value) is not None and not self.static:
            if not is_dtype(namespace_of(value), value.dtype, ("real floating", "integral", "bool")):
                raise TypeError(f"{name} must be a number {self}, got an array of {value.dtype}")
            seen = host_values(value)
            legal = seen is None or bool(np.all(self._contains(seen)))
        else:
            raise TypeError(f"{name} must be a number {self}, got {value!r}")
        if not legal:
            is_endless = self.high == math.inf and not self.infinite and np.any(np.isinf(seen))
            raise ValueError(f"{name} must be {self}{', and finite' if is_endless else ''}, got {value!r}")
        return value

    def one_number(self, name: str, value: Any) -> Any:
        """Return the result of `check`, or raise a ValueError for an array of several numbers."""
        value = self.check(name, value)
        if len(getattr(value, "shape", ())) > 0:
            raise ValueError(f"{name} must be one number, got an array of shape {tuple(value.shape)}")
        return value

    def _contains(self, value: Any) -> Any:
        if self.closed:
            return (value >= self.low) & (value <= self.high) & ((abs(value) < math.inf) | self.infinite)
        return (value > self.low) & ((value < self.high) | (self.closed_above & (value == self.high)))

    def sample(self, generator: np.random.Generator) -> float:
        """Draw a number well inside the interval."""
        if self.drawn_from is not None:
            return float(generator.uniform(*self.drawn_from))
        low = self.low if self.low > -math.inf else -3.0
        high = self.high if self.high < math.inf else low + 3.0
        return float(generator.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low)))


@dataclass(frozen=True)
class ClipWidth(Interval):
    """The distance ε that probabilities keep from 0 and 1; if 1 − ε rounds to 1, ε is raised."""

    low: float = 0.0
    high: float = 0.5

    def sample(self, generator: np.random.Generator) -> float:
        """Draw a width that clips few probabilities."""
        return float(10.0 ** generator.uniform(-7.0, -3.0))

    def for_dtype(self, epsilon: Any, xp: Any, dtype: Any) -> Any:
        """Return ε, raised to the resolution of `dtype` if 1 − ε rounds to 1 in `dtype`."""
        resolution = float(xp.finfo(dtype).eps)
        if isinstance(epsilon, float):
            return epsilon if epsilon > resolution / 4 else resolution
        return xp.where(epsilon > resolution / 4, epsilon, resolution)


@dataclass(frozen=True)
class Scale(Interval):
    """A positive number that elements are divided by; if it is below the normal numbers of a dtype, it is raised."""

    low: float = 0.0

    def for_dtype(self, scale: Any, xp: Any, dtype: Any) -> Any:
        """Return the scale, a number or an array of `dtype`, raised to the smallest normal number of `dtype`."""
        smallest = float(xp.finfo(dtype).smallest_normal)
        return max(scale, smallest) if isinstance(scale, float) else xp.maximum(scale, smallest)


@dataclass(frozen=True)
class Count(Interval):
    """Integers from `low` on: they decide which code runs."""

    low: float = 1.0
    closed: bool = True
    static: bool = True

    def __str__(self) -> str:
        return f"a whole number ≥ {self.low:g}"

    def check(self, name: str, value: Any) -> int:
        """Return `value` as an int, or raise.

        Raises:
            TypeError: `value` is not a number.
            ValueError: `value` is not an integer, or too small.
        """
        number = super().check(name, value)
        if number != int(number):
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return int(number)

    def sample(self, generator: np.random.Generator) -> int:
        """Draw one of the three smallest numbers."""
        if self.drawn_from is not None:
            return int(super().sample(generator))
        return int(self.low) + int(generator.integers(3))


class Odd(Count):
    """Odd integers: sizes of windows with a middle."""

    def __str__(self) -> str:
        return f"an odd number ≥ {self.low:g}"

    def check(self, name: str, value: Any) -> int:
        """Return `value` as an int, or raise.

        Raises:
            TypeError: `value` is no number.
            ValueError: `value` is even, not an integer, or too small.
        """
        number = super().check(name, value)
        if number % 2 == 0:
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return number

    def sample(self, generator: np.random.Generator) -> int:
        """Draw 3, the smallest size of a window with neighbours."""
        return 3


@dataclass(frozen=True)
class ScaleWeights:
    """Positive numbers, one for each scale of an image: their count decides which code runs."""

    static: bool = True

    def __str__(self) -> str:
        return "positive numbers, one per scale"

    def check(self, name: str, value: Any) -> tuple[float, ...]:
        """Return `value` as a tuple of floats, or raise.

        Raises:
            TypeError: `value` is not a tuple or list of numbers.
            ValueError: `value` is empty, or one of the numbers is not positive.
        """
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{name} must be {self}, got {value!r}")
        if not value:
            raise ValueError(f"{name} must be {self}, got none")
        return tuple(Interval(0.0, static=True).check(name, weight) for weight in value)

    def sample(self, generator: np.random.Generator) -> tuple[float, ...]:
        """Draw weights for two scales."""
        return tuple(map(float, generator.uniform(0.2, 0.8, 2)))


@dataclass(frozen=True)
class Choice:
    """The names that an option may be."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.names))

    def check(self, name: str, value: Any) -> str:
        """Return `value`, or raise a ValueError that lists the valid names."""
        if value not in self.names:
            raise ValueError(f"{name} must be {self}, got {value!r}{did_you_mean(str(value), self.names)}")
        return str(value)


class Axes(_Fixed):
    """The axes of an array over which one unreduced loss is computed; the other axes count rows."""

    static = True

    def __str__(self) -> str:
        return "an axis, a tuple of axes or None"

    def sample(self, generator: np.random.Generator) -> int:
        """Return the last axis, which every array has."""
        return -1


class Axis(Axes):
    """One axis of an array."""

    def __str__(self) -> str:
        return "an axis"


class Flag(_Fixed):
    """True or False. It decides which code runs: terms may branch on it."""

    def __str__(self) -> str:
        return "boolean"

    def check(self, name: str, value: Any) -> bool:
        """Return `value`, or raise a TypeError unless it is a bool."""
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
        return value


class Predicate(_Fixed):
    """A function of the path of an array and of the array, which says whether the array is used; None uses all."""

    def __str__(self) -> str:
        return "a function (path, array) → bool, or None"

    def check(self, name: str, value: Any) -> Any:
        """Return `value`, or raise a TypeError unless it can be called."""
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be {self}, got {value!r}")
        return value


@dataclass(frozen=True)
class Fitted(ABC):
    """An option that fits the arrays of a call, or is None; it decides which code runs."""

    static: ClassVar[bool] = True

    @abstractmethod
    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> Any:
        """Draw a value that fits the arrays, which are given by name in the order of the loss."""


@dataclass(frozen=True)
class Integer(Fitted):
    """An integer, at least `low` if that is given, or None. Tests draw `example`."""

    low: int | None = None
    example: int = -1

    def __str__(self) -> str:
        return "an integer or None" if self.low is None else f"an integer ≥ {self.low} or None"

    def check(self, name: str, value: Any) -> int | None:
        """Return `value` as an int or None, or raise.

        Raises:
            TypeError: `value` is not an integer.
            ValueError: `value` is too small.
        """
        if value is None:
            return None
        number = require_integer(name, value)
        if self.low is not None and number < self.low:
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return number

    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> int:
        """Return the example."""
        return self.example


@dataclass(frozen=True)
class ClassAxis(Fitted):
    """The axis of the classes; with `or_none` it may be None."""

    or_none: bool = False

    def __str__(self) -> str:
        return "an axis or None" if self.or_none else "an axis"

    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> int:
        """Return the axis after the batch."""
        return 1


@dataclass(frozen=True)
class ClassNumbers(Fitted):
    """One number per class, as an array, or None."""

    low: float = -math.inf

    def __str__(self) -> str:
        return f"{Elements(self.low)}, one per class, or None"

    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> Array:
        """Draw a number for each row of `weight`, or for each entry of the first array's last axis."""
        classes = len(arrays["weight"]) if "weight" in arrays else next(iter(arrays.values())).shape[-1]
        if self.low == -math.inf:
            return generator.standard_normal(classes)
        return generator.uniform(self.low + 0.2, self.low + 2.0, classes)


@dataclass(frozen=True)
class PointWeights(Fitted):
    """One number ≥ 0 for each point of the array `points`, or None."""

    points: str

    def __str__(self) -> str:
        return "one number ≥ 0 per point, or None"

    def check(self, name: str, value: Any) -> Any:
        """Return `value`, or raise: a TypeError unless it is an array or None, a ValueError if one is negative."""
        if value is not None and namespace_of(value) is None:
            raise TypeError(f"{name} must be an array, {self}, got {type(value).__name__}")
        return value if value is None else NON_NEGATIVE.check(name, value)

    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> Array:
        """Draw multiples of ½, some of them 0, but not the weight of the first point."""
        weights: Array = generator.integers(0, 4, arrays[self.points].shape[:-1]) / 2.0
        weights[..., 0] = 1.0
        return weights


@dataclass(frozen=True)
class PointMask(Fitted):
    """One boolean for each point of the array `points`, or None."""

    points: str

    def __str__(self) -> str:
        return "one boolean per point, or None"

    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> Array:
        """Draw a mask that leaves out a third of the points."""
        return generator.random(arrays[self.points].shape[:-1]) < 0.7


class LayerWeights(Fitted):
    """One number ≥ 0 for each layer of the first array, or None."""

    def __str__(self) -> str:
        return "one number ≥ 0 per layer, or None"

    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> dict[str, float]:
        """Draw a weight for each layer."""
        return {layer: float(generator.uniform(0.0, 2.0)) for layer in next(iter(arrays.values()))}


class Directions(Fitted):
    """Unit vectors (count, d) in the space of the points, or None."""

    def __str__(self) -> str:
        return "unit vectors (count, d), or None"

    def sample_for(self, generator: np.random.Generator, arrays: Mapping[str, Any]) -> Array:
        """Draw three directions."""
        directions = generator.standard_normal((3, next(iter(arrays.values())).shape[-1]))
        return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


@dataclass(frozen=True)
class SmallestNormal:
    """The smallest normal number of the gradient's dtype, or of the dtype computed in, or the logarithm of the latter.

    Terms take this number as an argument, because their source is the same for every dtype. Callers never pass it.
    """

    logarithm: bool = False
    computed: bool = False

    def value(self, xp: Any, dtype: Any, own_dtype: Any) -> float:
        """Return the constant for a loss computed in `dtype` whose gradient has `own_dtype`."""
        smallest = float(xp.finfo(dtype if self.computed or self.logarithm else own_dtype).smallest_normal)
        return math.log(smallest) if self.logarithm else smallest


def array_names(function: str, domain: Mapping[str, Any]) -> list[str]:
    """Return the names of the arrays among the arguments of a function, raising a TypeError unless they come first."""
    names = [name for name, d in domain.items() if isinstance(d, ArrayDomain)]
    if list(domain)[: len(names)] != names:
        raise TypeError(f"{function} must take its arrays ({', '.join(names)}) before its options")
    return names


def checked(domain: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name as their domains return them; raise for the first that lies outside of its domain."""
    found = {}
    for name, option in options.items():
        check = getattr(domain.get(name), "check", None)
        found[name] = option if check is None else check(name, option)
    return found


POSITIVE = Interval(0.0)
NON_NEGATIVE = Interval(0.0, closed=True)
FRACTION = Interval(0.0, 1.0, closed=True)
CLIP_WIDTH = ClipWidth()
SCALE = Scale()
FLAG = Flag()


# --- arrays -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elements:
    """Real elements between `low` and `high`.

    If `per_sample` is given, an array has this number of elements for each entry of the first axis, independent of the
    shapes of the other arguments.
    """

    low: float = -math.inf
    high: float = math.inf
    per_sample: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.high == math.inf:
            return "real" if self.low == -math.inf else f"≥ {self.low:g}"
        return f"in [{self.low:g}, {self.high:g}]"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw elements well inside the domain."""
        if self.per_sample is not None:
            shape = (*shape[:1], *self.per_sample)
        if self.low == -math.inf:
            return 1.5 * generator.standard_normal(shape)
        if self.high == math.inf:
            return self.low + 0.1 + 2.0 * generator.standard_exponential(shape)
        width = self.high - self.low
        return generator.uniform(self.low + 0.05 * width, self.high - 0.05 * width, shape)


class Samples(Elements):
    """Real samples along an axis, whose length may differ between the arrays."""

    def __str__(self) -> str:
        return "real samples"


@dataclass(frozen=True)
class Labels:
    """Labels, one per element or one per row, of which only the listed values are legal."""

    values: tuple[int, ...]
    per_row: bool = False

    def __str__(self) -> str:
        return "in {" + ", ".join(f"{v:+d}" if min(self.values) < 0 else str(v) for v in self.values) + "}"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw labels, as floating-point numbers."""
        return generator.choice(self.values, shape[:-1] if self.per_row else shape).astype(np.float64)

    def check(self, name: str, labels: Array) -> None:
        """Raise a ValueError if a label is illegal and its value can be read (not inside a trace)."""
        seen = host_values(labels)
        if seen is not None and not (legal := self._legal(seen)).all():
            raise ValueError(f"{name} must be {self}, got {seen[~legal][0]}")

    def or_nan(self, xp: Any, labels: Array) -> Array:
        """Return the labels with NaN in place of illegal ones, for traces, where values cannot be read."""
        return xp.where(self._legal(labels), labels, math.nan) if host_values(labels) is None else labels

    def _legal(self, labels: Array) -> Array:
        legal = labels == self.values[0]
        for value in self.values[1:]:
            legal = legal | (labels == value)
        return legal


class Distributions(_Fixed):
    """Rows of probabilities over the last axis."""

    def __str__(self) -> str:
        return "distributions over the last axis"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw strictly positive rows that sum to one."""
        rows: Array = generator.uniform(0.1, 1.0, shape)
        return rows / rows.sum(axis=-1, keepdims=True)


class ClassTargets(_Fixed):
    """Class indices (integers, without the class axis), or class probabilities (with it)."""

    def __str__(self) -> str:
        return "class indices or class probabilities"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw class indices."""
        return generator.integers(0, shape[-1], shape[:-1])


@dataclass(frozen=True)
class PointSets:
    """Sets of points: (…, points, coordinates)."""

    points: int
    coordinates: int

    def __str__(self) -> str:
        return "sets of points (…, points, coordinates)"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw a small set of points for every row of `shape`."""
        return generator.standard_normal((*shape[:-1], self.points, self.coordinates))


@dataclass(frozen=True)
class Edges:
    """Edges between vertices, pairs of integers, that all meshes of a batch share."""

    shared: ClassVar[bool] = True
    vertices: int

    def __str__(self) -> str:
        return "edges (n, 2), each one once"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw a ring through all vertices, in any order."""
        ring = generator.permutation(self.vertices)
        return np.sort(np.stack([ring, np.roll(ring, 1)], axis=-1), axis=-1)


class Boxes(_Fixed):
    """Boxes by two corners: (…, 4), the lower corner first."""

    def __str__(self) -> str:
        return "boxes (…, 4): x₁, y₁, x₂, y₂"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw a box for every row of `shape`, all near each other."""
        low = generator.uniform(0.0, 1.0, (*shape[:-1], 2))
        return np.concatenate([low, low + generator.uniform(0.4, 1.4, low.shape)], axis=-1)


@dataclass(frozen=True)
class Images:
    """Real images (…, rows, columns, channels), or (…, channels, rows, columns) for channels first."""

    rows: int
    columns: int
    channels: int

    def __str__(self) -> str:
        return "images (…, rows, columns, channels)"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw a small image for every row of `shape`."""
        return generator.standard_normal((*shape[:-1], self.rows, self.columns, self.channels))


class ProbabilityMaps(_Fixed):
    """Class probabilities of every pixel: (batch, …, classes)."""

    def __str__(self) -> str:
        return "class probabilities of every pixel"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw a map of five pixels and three classes for every row of `shape`."""
        return generator.dirichlet(np.full(3, 2.0), (*shape[:-1], 5))


class ScoreMaps(Elements):
    """Scores of the classes of every pixel: (batch, …, classes)."""

    def __str__(self) -> str:
        return "scores of the classes of every pixel"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw a map of five pixels and three classes for every row of `shape`."""
        return 1.5 * generator.standard_normal((*shape[:-1], 5, 3))


class LabelMaps(_Fixed):
    """Class indices of every pixel: (batch, …)."""

    def __str__(self) -> str:
        return "class indices of every pixel"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw labels that fit a sample of `ProbabilityMaps` or `ScoreMaps`."""
        return generator.integers(0, 3, (*shape[:-1], 5))


@dataclass(frozen=True)
class ClassIndices:
    """Class indices: one integer for each row, or a given number of them for each entry of the first axis."""

    per_sample: tuple[int, ...] | None = None
    classes: int = 0

    def __str__(self) -> str:
        return "class indices"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw an index for each row; by default there are as many classes as a row has elements."""
        if self.per_sample is not None:
            return generator.integers(0, self.classes, (*shape[:1], *self.per_sample))
        return generator.integers(0, shape[-1], shape[:-1])


@dataclass(frozen=True)
class PointLabels:
    """The class of each point of a set, an integer."""

    points: int
    classes: int = 2

    def __str__(self) -> str:
        return "integers, one per point (…, points)"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw the classes of a small set for every row of `shape`."""
        return generator.integers(0, self.classes, (*shape[:-1], self.points))


@dataclass(frozen=True)
class PerClass:
    """A row of real features for each class: parameters that all rows of a batch share."""

    shared: ClassVar[bool] = True

    def __str__(self) -> str:
        return "real, one row per class"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw rows for two more classes than a row has elements."""
        return generator.standard_normal((shape[-1] + 2, shape[-1]))


@dataclass(frozen=True)
class OneNumber:
    """A real number, as an array without axes: a parameter that all rows of a batch share."""

    shared: ClassVar[bool] = True

    def __str__(self) -> str:
        return "real, one number"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw a number."""
        return np.asarray(generator.standard_normal())


class FeatureMaps(_Fixed):
    """Feature maps (…, rows, columns, channels): an array, or a dict, list or tuple of arrays, one per layer."""

    def __str__(self) -> str:
        return "feature maps (…, rows, columns, channels), an array or a dict or list of arrays"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
        """Draw two small layers with an image for every row of `shape`."""
        batch = shape[:-1]
        return {
            "fine": generator.standard_normal((*batch, 3, 3, 2)),
            "coarse": generator.standard_normal((*batch, 2, 1, 3)),
        }


class Parameters(_Fixed):
    """An array, or a dict, list or nesting of arrays."""

    def __str__(self) -> str:
        return "array, or nesting of dicts and lists of arrays"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
        """Draw a nesting with a matrix of `shape` and vectors of its rows' length."""
        layer = {"weight": generator.standard_normal(shape), "bias": generator.standard_normal(shape[-1:])}
        return {"layer": layer, "scales": [generator.standard_normal(shape[-1:])]}


class Matrices(_Fixed):
    """A matrix, an array of more axes, or a nesting of them."""

    def __str__(self) -> str:
        return "array of two axes or more, or nesting of dicts and lists of such arrays"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
        """Draw a nesting of a tall matrix of `shape`, a wide one, and a kernel of a convolution."""
        layers = [generator.standard_normal(shape), generator.standard_normal((2, shape[-1]))]
        return {"layers": layers, "kernel": generator.standard_normal((3, 2, 1, 2))}


REAL = Elements()
SAMPLES = Samples()
NON_NEGATIVE_REAL = Elements(0.0)
PROBABILITY = Elements(0.0, 1.0)
BINARY = Labels((0, 1))
SIGN = Labels((-1, 1))

ArrayDomain = (
    Elements
    | Labels
    | Distributions
    | ClassTargets
    | PointSets
    | Edges
    | Boxes
    | ProbabilityMaps
    | LabelMaps
    | Images
    | FeatureMaps
    | ClassIndices
    | PerClass
    | PointLabels
    | OneNumber
    | Parameters
    | Matrices
)
