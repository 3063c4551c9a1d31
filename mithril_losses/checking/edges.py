"""Edge cases of every loss, made from its declared domain: whether the gradient contract holds at its ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mithril_losses.catalogue import Pair
from mithril_losses.checking.drawing import draw_arguments
from mithril_losses.checking.gradients import as_double, double_precision, to_numpy
from mithril_losses.domains import (
    ClassIndices,
    ClassTargets,
    Distributions,
    Elements,
    Interval,
    LabelMaps,
    Labels,
    enforced,
)
from mithril_losses.numerics.trees import leaves, map_leaves

__all__ = ["Edge", "edges", "failures"]

# losses that may be negative by definition: scores, log-densities, logarithms of errors
SIGNED = frozenset(
    {
        "flow_negative_log_likelihood",
        "gamma_negative_log_likelihood",
        "gaussian_negative_log_likelihood",
        "inverse_gaussian_negative_log_likelihood",
        "laplace_negative_log_likelihood",
        "poisson_negative_log_likelihood",
        "psnr_loss",
        "wasserstein_discriminator_loss",
        "wasserstein_generator_loss",
        "hinge_generator_loss",
    }
)

_STRESS = (0.0, -0.0, 2.0**-1022, -(2.0**-1022), 1e-30, -1e-30, 1.0, -1.0, 1e4, -1e4)
_LARGEST = float(np.finfo(np.float64).max)  # squares overflow here, and a difference of overflows is NaN
_OPTIONS = (1e-30, 0.5, 1.0, 2.0, 1e4)
_INTEGERS = ("int32", "int64", "uint8")


@dataclass(frozen=True)
class Edge:
    """One edge case: if it fails, `run` raises an AssertionError that says what does not hold."""

    name: str
    run: Callable[[], None]


def failures(pair: Pair, backend: Any) -> Iterator[tuple[str, str]]:
    """Run the edge cases of a loss on the arrays of a backend; yield the name of each, and what failed or ""."""
    for edge in edges(pair, backend):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                edge.run()
        except Exception as error:
            yield edge.name, f"{type(error).__name__}: {error}"
        else:
            yield edge.name, ""


def edges(pair: Pair, backend: Any) -> Iterator[Edge]:
    """Yield the edge cases of a loss: stress, identical arguments, options, masks, empty batches, labels."""
    drawn = draw_arguments(pair, np.random.default_rng(0))
    arrays, options = drawn
    call = _Call(pair, backend)
    for name, domain in pair.domain.items():
        if name in arrays and isinstance(domain, Elements):
            for x in (*_STRESS, _LARGEST, -_LARGEST):
                if domain.low <= x <= domain.high:
                    stressed = {**arrays, name: np.full_like(arrays[name], x)}
                    yield Edge(f"{name} = {x:g}", partial(call.finite, stressed, options, abs(x) < 1e30))
        if name in arrays and isinstance(domain, Distributions):
            one_hot = {**arrays, name: np.eye(arrays[name].shape[-1])[np.arange(arrays[name].shape[0]) % 2]}
            yield Edge(f"{name} one-hot", partial(call.finite, one_hot, options, True))
        if name in options and isinstance(domain, Interval) and not domain.static:
            for x in (*_OPTIONS, domain.low, domain.high):
                if _is_inside(domain, x):
                    yield Edge(f"{name} = {x:g}", partial(call.finite, arrays, {**options, name: x}, True))
        if name in arrays and isinstance(domain, Labels):
            yield from _sign_labels(call, name, domain, arrays, options)
        if name in arrays and isinstance(domain, ClassTargets | ClassIndices | LabelMaps):
            yield from _class_labels(call, name, arrays, options)
    yield from _identical(call, arrays, options)
    if pair.takes_reduction:
        yield from _masks(call, arrays, options)
    if pair.takes_upstream and pair.takes_reduction:
        yield Edge("upstream = 0", partial(call.zero, arrays, {**options, "upstream": 0.0}))


class _Call:
    """A loss that is called with NumPy arrays, which are converted to another library for the call."""

    def __init__(self, pair: Pair, backend: Any) -> None:
        self.pair = pair
        self.backend = backend
        self.unreduced = {"reduction": "none"} if pair.takes_reduction else {}

    def both(self, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return value and gradient, converted to NumPy arrays."""
        with double_precision([self.backend.from_numpy(np.zeros(1))]):
            arguments = [map_leaves(lambda _, x: self._there(x), x) for x in arrays.values()]
            keywords = {k: self._there(x) if isinstance(x, np.ndarray) else x for k, x in options.items()}
            upstream = keywords.pop("upstream", None)
            value = self.pair.total_of(self.pair.value(*arguments, **keywords))
            keywords |= {} if upstream is None else {"upstream": upstream}
            gradient = self.pair.gradient(*arguments, **keywords)
            return to_numpy(value), map_leaves(lambda _, x: to_numpy(x), gradient)

    def _there(self, x: np.ndarray) -> Any:
        if x.dtype.kind == "f":
            return as_double(self.backend.from_numpy(np.asarray(x, dtype=np.float64)))
        return self.backend.from_numpy(x)

    def finite(self, arrays: Mapping[str, Any], options: Mapping[str, Any], is_moderate: bool) -> None:
        """A finite loss has a finite gradient, and no loss is NaN, or negative although it cannot be."""
        value, gradient = self.both(arrays, {**options, **self.unreduced})
        if is_moderate:
            assert not np.isnan(value).any(), f"the loss is NaN: {value}"
        if self.pair.name not in SIGNED:
            assert not (value < 0.0).any(), f"the loss is negative: {value.min()}"
        is_finite = np.isfinite(value)
        for path, x in leaves(gradient, "gradient"):
            by_row = x.shape[: is_finite.ndim] == is_finite.shape
            known = x[is_finite] if by_row else x[np.full(x.shape, is_finite.all())]
            assert np.isfinite(known).all(), f"the loss is finite, {path} is not: {known[~np.isfinite(known)][0]}"

    def zero(self, arrays: Mapping[str, Any], options: Mapping[str, Any], value_too: bool = False) -> None:
        """The gradient is exactly 0, and, if `value_too` is set, so is the value."""
        value, gradient = self.both(arrays, options)
        assert not value_too or value == 0.0, f"the loss is {value}, not 0"
        for path, x in leaves(gradient, "gradient"):
            assert not np.any(x), f"{path} is not 0: {x[x != 0].flat[0]}"

    def equal(self, arrays: Mapping[str, Any], others: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Two calls return the same bits."""
        (value, gradient), (value2, gradient2) = self.both(arrays, options), self.both(others, options)
        np.testing.assert_array_equal(value, value2)
        for (path, x), (_, y) in zip(leaves(gradient, "gradient"), leaves(gradient2, "gradient"), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=path)

    def refused(self, arrays: Mapping[str, Any], options: Mapping[str, Any], kind: type[Exception]) -> None:
        """Value and gradient raise the same error."""
        arguments = [map_leaves(lambda _, x: self._there(x), x) for x in arrays.values()]
        messages = set()
        for function in (self.pair.value, self.pair.gradient):
            try:
                function(*arguments, **options)
            except kind as error:
                messages.add(str(error))
            else:
                raise AssertionError(f"{function.__name__} raised no {kind.__name__}")
        assert len(messages) == 1, f"value and gradient say different things: {messages}"


def _is_inside(domain: Interval, x: float) -> bool:
    try:
        domain.check("option", x)
    except ValueError:
        return False
    return True


def _identical(call: _Call, arrays: dict[str, Any], options: dict[str, Any]) -> Iterator[Edge]:
    """Predictions equal to the targets: coincident points, identical vectors, a perfect fit."""
    first, *others = call.pair.array_arguments
    for other in others:
        if call.pair.domain[other] == call.pair.domain[first] and not isinstance(arrays[first], dict):
            same = {**arrays, other: arrays[first].copy()}
            yield Edge(f"{other} = {first}", partial(call.finite, same, options, True))


def _masks(call: _Call, arrays: dict[str, Any], options: dict[str, Any]) -> Iterator[Edge]:
    """Weights of 0 over NaN and infinities, nothing left to average, an empty batch."""
    pair = call.pair
    batch = [name for name in arrays if not getattr(pair.domain[name], "shared", False)]
    rows = np.shape(call.both(arrays, {**options, **call.unreduced})[0])
    if not rows or any(isinstance(arrays[name], dict | list) for name in batch):
        return
    for reduction in ("mean", "sum", "weighted_mean", "batch_sum"):
        nothing = {**options, "reduction": reduction, "weights": np.zeros(rows)}
        yield Edge(f"{reduction} of nothing", partial(call.zero, arrays, nothing, value_too=True))
        empty = {name: x[:0] if name in batch else x for name, x in arrays.items()}
        kept = {**options, "reduction": reduction}
        yield Edge(f"{reduction} of an empty batch", partial(call.zero, empty, kept, value_too=True))
    weights = np.ones(rows)
    weights[0] = 0.0
    poisoned_domains = [pair.domain[name] for name in pair.wrt if name in batch]
    may_be_infinite = not any(isinstance(x, Distributions) or enforced({"": x}) for x in poisoned_domains)
    for poison in (np.nan, np.inf, -np.inf) if may_be_infinite else (np.nan,):
        poisoned = {name: x.copy() for name, x in arrays.items()}
        for name in set(pair.wrt) & set(batch):
            poisoned[name][0] = poison
        yield Edge(f"weight 0 over {poison}", partial(call.equal, poisoned, arrays, {**options, "weights": weights}))


def _class_labels(call: _Call, name: str, arrays: dict[str, Any], options: dict[str, Any]) -> Iterator[Edge]:
    """Class indices outside the classes, and of other types."""
    labels = arrays[name]
    for bad in (-1, -100, 1000, 2**31):
        wrong = labels.copy()
        wrong.flat[-1] = bad  # the first token of a text is never a target
        yield Edge(f"{name} = {bad}", partial(call.refused, {**arrays, name: wrong}, options, ValueError))
    for dtype in _INTEGERS:
        typed = {**arrays, name: labels.astype(dtype)}
        yield Edge(f"{name} {dtype}", partial(call.equal, typed, arrays, options))
    of_shape = {**arrays, name: labels.astype(np.complex128)}
    yield Edge(f"{name} complex", partial(call.refused, of_shape, options, TypeError))


def _sign_labels(
    call: _Call, name: str, domain: Labels, arrays: dict[str, Any], options: dict[str, Any]
) -> Iterator[Edge]:
    """Labels other than the two that are legal, and integers for floating-point labels."""
    for bad in {-1.0, 0.0, 0.5, 2.0, -100.0} - set(map(float, domain.values)):
        wrong = arrays[name].copy()
        wrong.flat[-1] = bad  # the first token of a text is never a target
        yield Edge(f"{name} = {bad:g}", partial(call.refused, {**arrays, name: wrong}, options, ValueError))
    for dtype in _INTEGERS[: 3 if min(domain.values) >= 0 else 2]:
        typed = {**arrays, name: arrays[name].astype(dtype)}
        yield Edge(f"{name} {dtype}", partial(call.equal, typed, arrays, options))
