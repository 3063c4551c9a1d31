"""What each argument of a loss may be: declared once, checked in every call, and drawn at random by tests."""

from __future__ import annotations

import contextlib
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import Array, host_values, is_dtype, namespace_of
from mithril_losses.numerics.stable import smallest_number
from mithril_losses.numerics.validation import did_you_mean, is_number, require_integer


@dataclass(frozen=True)
class _Fixed:
    """A domain with nothing to set: any two of one class are equal. To make a data class of each takes its time.

    `instead` is what messages say about other values, such as which loss takes them.
    """

    instead: str = field(default="", compare=False)


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


@dataclass(frozen=True)
class LargestNumber:
    """The largest finite number of the dtype computed in: like `SmallestNormal`, an argument that no caller passes."""

    def value(self, xp: Any, dtype: Any, own_dtype: Any) -> float:
        """Return the constant for a loss computed in `dtype`."""
        return float(xp.finfo(dtype).max)


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

_is_enforced: ContextVar[bool] = ContextVar("is_enforced", default=True)


class Rounding(NamedTuple):
    """How far an array may leave its domain, because its numbers were rounded.

    Attributes:
        element: how far an element may lie beyond its bounds: 10⁻⁶, which allows for numbers that were computed in
            float32, or four units in the last place of 1 if that is more: 0.004 in float16, 0.03 in bfloat16.
        total: how far the sum of a row may be from 1: 0.004, which allows for rows that were computed in bfloat16, or
            the root of a unit in the last place of 1 if that is more: 0.03 in float16, 0.09 in bfloat16.
    """

    element: float
    total: float

    @staticmethod
    def of(dtype: Any) -> Rounding:
        """Return the bounds for a dtype of any library."""
        return _HALVES.get(str(dtype).rpartition(".")[2], _USUAL)


_USUAL = Rounding(1e-6, 2.0**-8)
_HALVES = {"float16": Rounding(2.0**-8, 2.0**-5), "bfloat16": Rounding(2.0**-5, 2.0**-3.5)}


@contextlib.contextmanager
def unenforced() -> Iterator[None]:
    """Let arrays leave their domains: finite differences are taken beside a point, where rows do not sum to 1."""
    token = _is_enforced.set(False)
    try:
        yield
    finally:
        _is_enforced.reset(token)


class Enforced(ABC):
    """A domain of an array that every call is held to.

    A value that lies outside by more than rounding raises where it can be seen. Where it cannot (inside a trace, on an
    accelerator) it becomes NaN, and so do the loss and the gradient of its row. NaN itself is in every domain.
    """

    instead: str
    held_by_loss: ClassVar[bool] = False  # the loss knows what an array means, and checks it by itself

    @property
    def is_bounded(self) -> bool:
        """Whether any numbers are outside."""
        return True

    def suggesting(self, instead: str) -> Any:
        """Return the domain with what to do with other values, for messages."""
        return replace(self, instead=instead)  # type: ignore[type-var]  # every subclass is a data class

    @abstractmethod
    def check(self, name: str, x: Array) -> None:
        """Raise a ValueError that names the value and where it is, if it can be seen to lie outside."""

    @abstractmethod
    def or_nan(self, xp: Any, x: Array, given: Array) -> Array:
        """Return `x`, which is `given` in the dtype to compute in, with NaN in place of what lies outside unseen."""

    def are_legal(self, columns: Sequence[np.ndarray[Any, Any]]) -> bool:
        """Whether an array, given by the columns of its last axis, is seen to lie inside, at the least cost."""
        return False

    def refuse(self, name: str, what: str, index: tuple[Any, ...]) -> None:
        """Raise the ValueError, unless nothing is enforced at present."""
        if _is_enforced.get():
            where = f" at index {tuple(map(int, index))}" if index else ""
            raise ValueError(f"{name} must be {self}, got {what}{where}{'; ' * bool(self.instead)}{self.instead}")

    def refuse_first(self, name: str, x: np.ndarray[Any, Any], outside: np.ndarray[Any, Any]) -> None:
        """Refuse the first element that lies outside, if there is one."""
        if outside.any():
            index = np.unravel_index(int(outside.argmax()), outside.shape)
            self.refuse(name, f"{float(x[index]):.6g}", index)


def enforced(domain: Mapping[str, Any]) -> dict[str, Enforced]:
    """Return the domains that the template of a loss holds calls to, by the name of the array."""
    held = {name: x for name, x in domain.items() if isinstance(x, Enforced) and x.is_bounded}
    return {name: x for name, x in held.items() if not x.held_by_loss}


_FEW_LABELS = 1000  # so many are compared as bytes in less time than as numbers
_FEW_ROWS = 200  # so many are added one by one in the time that it takes to turn off warnings

# as unsigned integers of the same bits, numbers that are not negative keep their order, and all others are larger
_BITS: dict[Any, Any] = {np.dtype(np.float32): np.dtype(np.uint32), np.dtype(np.float64): np.dtype(np.uint64)}


class _Bits(NamedTuple):
    """The largest number of a domain from 0 on, as an unsigned integer of the same bits."""

    dtype: Any
    largest: int


@functools.cache
def _bits_of(number: float) -> dict[Any, _Bits]:
    return {dtype: _Bits(bits, int(np.asarray(number, dtype).view(bits))) for dtype, bits in _BITS.items()}


@dataclass(frozen=True)
class Elements(Enforced):
    """Real elements between `low` and `high`.

    If `per_sample` is given, an array has this number of elements for each entry of the first axis, independent of the
    shapes of the other arguments.
    """

    low: float = -math.inf
    high: float = math.inf
    per_sample: tuple[int, ...] | None = None
    instead: str = field(default="", compare=False)

    @property
    def is_bounded(self) -> bool:
        """As in `Enforced`."""
        return self.low > -math.inf or self.high < math.inf

    @functools.cached_property
    def _largest_bits(self) -> dict[Any, Any]:
        return _bits_of(self.high) if self.low == 0.0 else {}

    def bounds(self, dtype: Any) -> tuple[float, float]:
        """Return the lowest and the highest number that rounding explains."""
        rounding = Rounding.of(dtype).element
        return self.low - rounding, self.high + rounding

    def check(self, name: str, x: Array) -> None:
        """As in `Enforced`."""
        if type(x) is np.ndarray and (known := self._largest_bits.get(x.dtype)) is not None and x.size:
            bits = x.view(known[0])  # one pass, at a fifth of the cost of a minimum and a maximum
            if bits.item(bits.argmax()) <= known[1]:
                return
        seen = host_values(x)
        if seen is None or seen.dtype == np.bool_:
            return
        low, high = self.bounds(x.dtype)
        self.refuse_first(name, seen, (seen < low) | (seen > high))

    def or_nan(self, xp: Any, x: Array, given: Array) -> Array:
        """As in `Enforced`."""
        if host_values(given) is not None:
            return x
        low, high = self.bounds(given.dtype)
        return xp.where((x >= low) & (x <= high), x, math.nan)

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
    instead: str = field(default="", compare=False)

    def suggesting(self, instead: str) -> Labels:
        """Return the labels with what to do with other values, for messages."""
        return replace(self, instead=instead)

    def __str__(self) -> str:
        return "in {" + ", ".join(f"{v:+d}" if min(self.values) < 0 else str(v) for v in self.values) + "}"

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw labels, as floating-point numbers."""
        return generator.choice(self.values, shape[:-1] if self.per_row else shape).astype(np.float64)

    def check(self, name: str, labels: Array) -> None:
        """Raise a ValueError if a label is illegal and its value can be read (not inside a trace)."""
        if type(labels) is np.ndarray and labels.size <= _FEW_LABELS and self._are_nearest(labels):
            return
        seen = host_values(labels)
        if seen is None or not seen.size or self._all_legal(seen):
            return
        index = tuple(map(int, np.unravel_index(int(self._legal(seen).argmin()), seen.shape)))
        where, instead = f" at index {index}" if index else "", "; " * bool(self.instead) + self.instead
        raise ValueError(f"{name} must be {self}, got {seen[index]}{where}{instead}")

    def or_nan(self, xp: Any, labels: Array, given: Array | None = None) -> Array:
        """Return the labels with NaN in place of illegal ones, for traces, where values cannot be read."""
        return xp.where(self._legal(labels), labels, math.nan) if host_values(labels) is None else labels

    def _are_nearest(self, labels: np.ndarray[Any, Any]) -> bool:
        """Whether few labels are seen to be legal, because each has the bits of the legal value nearest to it."""
        if labels.dtype not in _BITS:
            return False
        if self.values == (-1, 1):
            nearest = np.copysign(_one(labels.dtype), labels)
        elif self.values == (0, 1):
            nearest = labels.astype(np.bool_).astype(labels.dtype)
        else:
            return False
        return bool(nearest.tobytes() == labels.tobytes())

    def _all_legal(self, labels: np.ndarray[Any, Any]) -> bool:
        """Whether all labels are legal. Many are compared in blocks: temporary arrays stay in the cache."""
        step = limits.current.block
        if labels.size <= step or not labels.flags.c_contiguous:
            return _holds(self._legal(labels))
        flat = labels.reshape(-1)
        return all(_holds(self._legal(flat[i : i + step])) for i in range(0, len(flat), step))

    def _legal(self, labels: Array) -> Array:
        if self.values == (-1, 1):
            return abs(labels) == 1  # one comparison in place of two
        legal = labels == self.values[0]
        for value in self.values[1:]:
            legal = legal | (labels == value)
        return legal


def _holds(conditions: Array) -> bool:
    """Whether all conditions hold, at half the cost of `all` for a few."""
    return bool(conditions.item(int(conditions.argmin())))


class Distributions(_Fixed, Enforced):
    """Rows of probabilities over the last axis. A row of zeros, such as padding, is accepted.

    Attributes:
        near: how far the sum of a row in float32 or float64 may be from 1.
    """

    near = _USUAL.total

    def __str__(self) -> str:
        return "distributions over the last axis"

    def check(self, name: str, x: Array) -> None:
        """As in `Enforced`."""
        self.check_along(name, x, -1)

    def or_nan(self, xp: Any, x: Array, given: Array) -> Array:
        """As in `Enforced`."""
        return self.or_nan_along(xp, x, given, -1)

    def check_along(self, name: str, x: Array, axis: int) -> None:
        """As `check`, of rows along any axis."""
        if type(x) is np.ndarray and (known := _bits_of(1.0).get(x.dtype)) is not None and x.size and x.ndim:
            bits = x.view(known[0])
            on_last = axis == -1 or axis == x.ndim - 1
            if bits.item(bits.argmax()) <= known[1] and on_last and self.sums_are_legal(x):
                return
        seen = host_values(x)
        if seen is None or not seen.shape:
            return
        rounding = Rounding.of(x.dtype)
        self.refuse_first(name, seen, (seen < -rounding.element) | (seen > 1.0 + rounding.total))
        totals = np.add.reduce(seen, axis=axis, dtype=np.float64)
        wrong = (abs(totals - 1.0) > rounding.total) & (totals != 0.0)
        if wrong.any():
            index = np.unravel_index(int(wrong.argmax()), wrong.shape)
            self.refuse(name, f"a row with the sum {float(totals[index]):.6g}", index)

    def sums_are_legal(self, x: np.ndarray[Any, Any]) -> bool:
        """Whether all sums over the last axis are seen to be 1, up to rounding, at the least cost."""
        rows, ones = x if x.ndim == 2 else x.reshape(-1, x.shape[-1]), _ones(x.shape[-1], x.dtype)
        if len(rows) <= _FEW_ROWS:
            off = np.vecdot(rows, ones)
        else:  # with few columns, some BLAS compute with numbers beside the rows, too, and drop the results
            with np.errstate(invalid="ignore"):
                off = rows.dot(ones)
        off -= _one(x.dtype)
        # no number is larger than the root of the sum of all squares, which costs half as much as the largest number
        return bool(off.dot(off) <= _USUAL.total**2 or np.maximum.reduce(abs(off)) <= _USUAL.total)

    def or_nan_along(self, xp: Any, x: Array, given: Array, axis: int) -> Array:
        """As `or_nan`, of rows along any axis: the whole row becomes NaN."""
        if host_values(given) is not None:
            return x
        rounding = Rounding.of(given.dtype)
        totals = xp.sum(x, axis=axis, keepdims=True)
        wrong = (abs(totals - 1.0) > rounding.total) & (totals != 0.0)  # NaN is not wrong, and stays where it is
        wrong = wrong | (smallest_number(xp, x, axis) < -rounding.element)
        return xp.where(wrong, math.nan, x)

    def sample(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw strictly positive rows that sum to one."""
        rows: Array = generator.uniform(0.1, 1.0, shape)
        return rows / rows.sum(axis=-1, keepdims=True)


class ClassDistributions(Distributions):
    """Rows of probabilities over the axis of the classes."""

    held_by_loss = True

    def __str__(self) -> str:
        return "distributions over the axis of the classes"


@functools.cache
def _one(dtype: Any) -> np.ndarray[Any, Any]:
    return np.ones((), dtype)


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: Any) -> np.ndarray[Any, Any]:
    return np.ones(n, dtype)


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


class Boxes(_Fixed, Enforced):
    """Boxes by two corners: (…, 4), the lower corner first."""

    def __str__(self) -> str:
        return "boxes (…, 4): x₁ ≤ x₂ and y₁ ≤ y₂ of x₁, y₁, x₂, y₂"

    def check(self, name: str, x: Array) -> None:
        """As in `Enforced`."""
        seen = host_values(x)
        if seen is not None and seen.size and not self.are_legal([seen[..., k] for k in range(4)]):
            with np.errstate(all="ignore"):
                inverted = self._inverted(np, seen, x.dtype)
            if inverted.any():
                index = np.unravel_index(int(inverted.argmax()), inverted.shape)
                box = ", ".join(f"{float(number):.6g}" for number in seen[index])
                self.refuse(name, f"({box})", index)

    def are_legal(self, columns: Sequence[np.ndarray[Any, Any]]) -> bool:
        """As in `Enforced`: whether the corners are in order, without rounding."""
        for low, high in zip(columns[:2], columns[2:], strict=True):
            inverted = np.less(high, low)
            if inverted.size and inverted.item(inverted.argmax()):
                return False
        return True

    def or_nan(self, xp: Any, x: Array, given: Array) -> Array:
        """As in `Enforced`; all corners of a box become NaN."""
        if host_values(given) is not None:
            return x
        return xp.where(xp.expand_dims(self._inverted(xp, x, given.dtype), axis=-1), math.nan, x)

    def _inverted(self, xp: Any, x: Array, dtype: Any) -> Array:
        """Return which boxes have corners in the wrong order, by more than rounding of their coordinates."""
        low, high = x[..., :2], x[..., 2:]
        rounding = Rounding.of(dtype).element
        return xp.any(low > high + (rounding * xp.abs(low) + rounding * xp.abs(high)), axis=-1)

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


@dataclass(frozen=True)
class ProbabilityMaps(Elements):
    """Class probabilities of every pixel: (batch, …, classes)."""

    low: float = 0.0
    high: float = 1.0

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


class MaskTargets(Elements):
    """Masks, or class indices of every pixel; some labels may be ignored."""

    held_by_loss = True


class TargetMaps(ProbabilityMaps):
    """Class probabilities of every pixel, or class indices; some labels may be ignored."""

    held_by_loss = True

    def __str__(self) -> str:
        return Elements.__str__(self)


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
CLASS_DISTRIBUTION = ClassDistributions()
MASK_TARGETS = MaskTargets(0.0, 1.0, instead="masks hold 0 and 1, and class indices need class_axis")
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
