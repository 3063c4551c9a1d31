"""Two kinds of fault over the whole catalogue: special numbers that get lost, and digits lost to an offset or a scale.

Laws and fuzzing share what stands here: cases, the ways to evaluate them, and what must hold.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from cases import Case, flat, to_numpy

from mithril_losses import catalogue, find_loss, value_and_gradient
from mithril_losses.catalogue import Pair
from mithril_losses.checking import draw_arguments
from mithril_losses.domains import ClassIndices, ClassTargets, LabelMaps, Labels, PointSets
from mithril_losses.numerics.trees import leaves, map_leaves

SHAPES = {"small": (6, 5), "large": (2400, 5)}  # the latter of more elements than XLA fuses in one piece
FEWER = {("sinkhorn_divergence", "large"): (60, 5)}  # its iterations run for each set of a batch alone
WAYS = ("numpy", "numpy in blocks", "torch", "jax", "jax.jit", "jax compiled")

Results = tuple[np.ndarray, dict[str, np.ndarray]]


@functools.cache
def drawn(name: str, size: str) -> Case:
    """Return a case of a loss, with arrays that no one may change."""
    pair = catalogue()[name]
    shape = FEWER.get((name, size), SHAPES[size])
    arrays, options = draw_arguments(pair, np.random.default_rng(sum(map(ord, name))), shape)
    options.pop("max_samples", None)  # what is not sampled may hold anything
    return Case(pair, size, arrays, options)


@functools.cache
def _called(name: str, way: str, size: str) -> Callable[..., Any]:
    """Return what evaluates value and gradient of a loss; compiled once for all cases of a size."""
    case = drawn(name, size)
    pair, options = case.pair, case.options
    if way in ("numpy in blocks", "jax compiled"):
        both = value_and_gradient(pair.value, compile=False)
        return lambda *arguments: both(*arguments, **options)

    def plain(*arguments: Any) -> Any:
        return pair.value(*arguments, **options), pair.gradient(*arguments, **options)

    return jax.jit(plain) if way == "jax.jit" else plain


def _narrow(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int32) if x.dtype == np.int64 else x


def evaluate(case: Case, way: str, dtype: str = "float32") -> Results:
    """Return the value and the arrays of the gradient."""
    library = way.partition(" ")[0].partition(".")[0]
    if library == "jax":  # in 32 bits, and so without the integers of 64
        case = Case(case.pair, case.name, map_leaves(lambda _, x: _narrow(x), case.arrays), case.options)
    value, gradient = _called(case.pair.name, way, case.name)(*case.arguments(library, dtype))
    value = to_numpy(case.pair.total_of(value))
    return value, {path: to_numpy(x) for path, x in flat(gradient)}


# a soft cap makes a finite logit of an infinite feature, and its slope, 0, meets that feature in a product
CAPPED = {"linear_cross_entropy"}
# the position of each sample that may hold anything: the last has nothing left to predict, the first token is predicted
# by nothing
UNSEEN = {("next_token_cross_entropy", "logits"): 3, ("next_token_cross_entropy", "tokens"): 0}

# --- special numbers --------------------------------------------------------------------------------------------------


def poisoned(case: Case, argument: str, number: float, at: int) -> Case:
    """Return the case with a number in place of one element of an argument, of one that the loss sees."""
    arrays = dict(case.arrays)
    place = iter([at])

    def put(_: str, x: np.ndarray) -> np.ndarray:
        index = next(place, None)  # into the first array of a nesting
        if index is None:
            return x
        x, position = x.copy(), list(np.unravel_index(index % x.size, x.shape))
        if UNSEEN.get((case.pair.name, argument)) in position[1:2]:
            position[1] = 1
        x[tuple(position)] = number
        return x

    arrays[argument] = map_leaves(put, arrays[argument])
    return Case(case.pair, case.name, arrays, case.options)


def real_arguments(pair: Pair) -> list[str]:
    """Return the arguments that hold real numbers, and not labels."""
    labels = Labels | ClassTargets | ClassIndices | LabelMaps
    arrays = drawn(pair.name, "small").arrays
    return [
        name
        for name, x in arrays.items()
        if not isinstance(pair.domain[name], labels) and all(leaf.dtype.kind == "f" for _, leaf in leaves(x))
    ]


def illegal_labels(pair: Pair) -> Iterator[tuple[str, float]]:
    """Yield arguments that hold labels, each with one that is none."""
    for name, domain in pair.domain.items():
        if isinstance(domain, Labels):
            yield name, 0.5
        elif isinstance(domain, ClassTargets | ClassIndices | LabelMaps):
            yield name, 1000
            yield name, -1


def check_nan(case: Case, argument: str, at: int, way: str) -> None:
    """A NaN in an argument is NaN in the loss, and in the same elements of the gradient as the definition has it."""
    bad = poisoned(case, argument, math.nan, at)
    value, gradient = evaluate(bad, way)
    assert np.isnan(value).all(), f"the loss is {value}"
    _, expected = evaluate(bad, "numpy")
    for path, x in gradient.items():
        np.testing.assert_array_equal(np.isnan(x), np.isnan(expected[path]), err_msg=path)


def check_infinity(case: Case, argument: str, number: float, at: int, way: str) -> None:
    """An infinity gives what the definition gives; a NaN of the definition is none of the finite numbers elsewhere.

    If the domain of the argument excludes it, it is refused, or makes the loss NaN where its value cannot be seen.
    """
    bad = poisoned(case, argument, number, at)
    try:
        expected, slopes = evaluate(bad, "numpy")
    except ValueError as error:
        told = str(error)
        with contextlib.suppress(ValueError):
            value, gradient = evaluate(bad, way)
            assert np.isnan(value).all(), f"the loss is {value}"
        assert f"{number:g}" in told
        return
    value, gradient = evaluate(bad, way)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    finite = bool(np.isfinite(expected).all()) and case.pair.name not in CAPPED
    for path, x in gradient.items():
        assert not finite or np.isfinite(x).all(), f"the loss is finite, {path} is not"
        lost = np.isnan(slopes[path]).any() and np.isfinite(x).all()
        assert not lost, f"{path} has lost a NaN"


def check_illegal_label(case: Case, argument: str, label: float, at: int) -> None:
    """A label that is none makes the loss NaN, and a part of the gradient, where its value cannot be seen."""
    value, gradient = evaluate(poisoned(case, argument, label, at), "jax.jit")
    assert np.isnan(value).all(), f"the loss is {value}"
    assert all(np.isnan(x).any() for x in gradient.values()), "a gradient has no NaN"


# --- offsets and scales -----------------------------------------------------------------------------------------------

INVARIANT = [
    (pair, name)
    for pair in catalogue().values()
    for name in ("translation_invariant", "scale_invariant")
    if name in pair.properties
]
# a difference of two means, each of which is rounded to the dtype before they meet
APART = {"wasserstein_discriminator_loss"}


def moved(case: Case, invariance: str, amount: float) -> Case:
    """Return the case with all arrays of one kind moved or scaled, and rounded to what float32 holds."""
    first, *_ = (case.pair.domain[name] for name in case.arrays)

    def change(x: np.ndarray) -> np.ndarray:
        x = x + amount if invariance == "translation_invariant" else x * amount
        return x.astype(np.float32).astype(np.float64)

    arrays = {
        name: map_leaves(lambda _, leaf: change(leaf), x)
        if (domain := case.pair.domain[name]) == first or type(domain) is type(first) is PointSets
        else x
        for name, x in case.arrays.items()
    }
    return Case(case.pair, case.name, arrays, case.options)


def check_digits(case: Case, invariance: str, amount: float, way: str) -> None:
    """In float32 a loss and its gradient keep their digits, whatever all arrays of one kind are moved or scaled by."""
    at = moved(case, invariance, amount)
    value, gradient = evaluate(at, way)
    expected, slopes = at.pair.total_of(at.value()), dict(flat(at.gradient()))
    rounding = 6e-8 * abs(amount) if case.pair.name in APART else 0.0
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-6 + 4.0 * rounding)
    for path, x in gradient.items():
        # 1e-4 of the largest: of sums over a set whose terms cancel
        np.testing.assert_allclose(x, slopes[path], rtol=1e-4, atol=1e-4 * np.abs(slopes[path]).max(), err_msg=path)


# --- random cases -----------------------------------------------------------------------------------------------------


def random_special_number(generator: np.random.Generator) -> tuple[str, Callable[[], None]]:
    """Return a description and a check: a random loss, argument, place, number and way."""
    name = str(generator.choice(sorted(catalogue())))
    size, way = str(generator.choice(list(SHAPES))), str(generator.choice(WAYS[1:]))
    case, at = drawn(name, size), int(generator.integers(1 << 16))
    pair = find_loss(name)
    labels = list(illegal_labels(pair))
    if labels and generator.random() < 0.25:
        argument, label = labels[int(generator.integers(len(labels)))]
        return f"{name} {size} {argument}[{at}] = {label}", lambda: check_illegal_label(case, argument, label, at)
    argument = str(generator.choice(real_arguments(pair)))
    number = float(generator.choice([math.nan, math.nan, math.inf, -math.inf]))
    said = f"{name} {size} {argument}[{at}] = {number} by {way}"
    if math.isnan(number):
        return said, lambda: check_nan(case, argument, at, way)
    return said, lambda: check_infinity(case, argument, number, at, way)


def random_offset(generator: np.random.Generator) -> tuple[str, Callable[[], None]]:
    """Return a description and a check: a random invariant loss, amount and way."""
    pair, invariance = INVARIANT[int(generator.integers(len(INVARIANT)))]
    amount = float(10.0 ** generator.uniform(0.0, 5.0))
    if invariance == "scale_invariant" and generator.random() < 0.5:
        amount = 1.0 / amount
    elif generator.random() < 0.5 and invariance == "translation_invariant":
        amount = -amount
    way = str(generator.choice(WAYS))
    case = drawn(pair.name, "small")
    return f"{pair.name} {invariance} {amount:g} by {way}", lambda: check_digits(case, invariance, amount, way)
