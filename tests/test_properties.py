"""What a loss declares of itself, and what all have in common, at arguments that hypothesis looks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import Case, flat
from hypothesis import given, settings
from hypothesis import strategies as st

import mithril_losses as ml
from mithril_losses import catalogue, gradient_of
from mithril_losses._pairs import PROPERTIES, Pair, unregister
from mithril_losses._tree import map_leaves
from mithril_losses.checking import draw_arguments
from mithril_losses.domains import REAL, Edges, Labels, PointSets

EPSILON = 1e-11  # relative: float64, and sums of some dozens of terms

DECLARED = [(pair, name) for pair in catalogue().values() for name in pair.properties]
REDUCED = [pair for pair in catalogue().values() if pair.takes_reduction and pair.separable]
WIDER = [pair for pair in REDUCED if not any(isinstance(d, Edges) for d in pair.domain.values())]

seeds = st.integers(0, 2**32 - 1)
rows, columns = st.integers(2, 5), st.integers(2, 4)
few = settings(max_examples=8, deadline=None, derandomize=True, database=None, report_multiple_bugs=False)


def ids(value: Any) -> str:
    return value.name if isinstance(value, Pair) else str(value)


def drawn(pair: Pair, seed: int, shape: tuple[int, int] = (4, 3)) -> Case:
    arrays, options = draw_arguments(pair, np.random.default_rng(seed), shape)
    return Case(pair, "drawn", arrays, options)


def with_arrays(case: Case, **arrays: Any) -> Case:
    return Case(case.pair, case.name, {**case.arrays, **arrays}, case.options)


def of_one_kind(case: Case) -> list[str]:
    """Return the names of the arrays that may be what the first may be; sets of points may differ in their number."""
    first, *_ = (case.pair.domain[name] for name in case.arrays)
    return [
        name
        for name in case.arrays
        if (domain := case.pair.domain[name]) == first or type(domain) is type(first) is PointSets
    ]


def loss(case: Case) -> float:
    return float(case.pair.loss(case.value()))


def assert_close(one: float, other: float, scale: float = 0.0) -> None:
    assert abs(one - other) <= EPSILON * max(abs(one), abs(other), scale, 1.0), (one, other)


# --- one check for each property --------------------------------------------------------------------------------------


def check_non_negative(case: Case, seed: int) -> None:
    assert loss(case) >= 0.0
    for name in of_one_kind(case)[1:]:  # where rounding might do it
        near = map_leaves(lambda _, x: x.copy(), next(iter(case.arrays.values())))
        assert loss(with_arrays(case, **{name: near})) >= 0.0


def check_zero_at_equality(case: Case, seed: int) -> None:
    first, second = list(case.arrays)[:2]
    assert abs(loss(with_arrays(case, **{second: case.arrays[first]}))) <= 1e-12


def check_symmetric(case: Case, seed: int) -> None:
    first, second = list(case.arrays)[:2]
    swapped = {first: case.arrays[second], second: case.arrays[first]}
    assert_close(loss(case), loss(with_arrays(case, **swapped)))


def check_translation_invariant(case: Case, seed: int) -> None:
    step = float(np.random.default_rng(seed).integers(-8, 9)) / 4.0  # exact in binary
    moved = {name: map_leaves(lambda _, x: x + step, case.arrays[name]) for name in of_one_kind(case)}
    assert_close(loss(case), loss(with_arrays(case, **moved)), scale=10.0)


def check_scale_invariant(case: Case, seed: int) -> None:
    factor = 2.0 ** int(np.random.default_rng(seed).integers(-3, 4))
    scaled = {name: map_leaves(lambda _, x: factor * x, case.arrays[name]) for name in of_one_kind(case)}
    assert_close(loss(case), loss(with_arrays(case, **scaled)))


def check_convex(case: Case, seed: int) -> None:
    """L(y) ≥ L(x) + g(x)·(y − x): the tangent lies below, which takes the right gradient, too."""
    other = drawn(case.pair, seed + 1, shape=(4, 3))
    target = with_arrays(case, **{name: other.arrays[name] for name in case.pair.wrt})
    slope = 0.0
    gradients = dict(flat(case.by_argument()))
    for path, x in flat({name: case.arrays[name] for name in case.pair.wrt}):
        y = dict(flat({name: other.arrays[name] for name in case.pair.wrt}))[path]
        slope += float(np.sum(gradients[path] * (y - x)))
    start, end = loss(case), loss(target)
    assert end >= start + slope - EPSILON * max(abs(start), abs(end), abs(slope), 1.0)


CHECKS: dict[str, Callable[[Case, int], None]] = {name: globals()[f"check_{name}"] for name in PROPERTIES}


@pytest.mark.parametrize(("pair", "name"), DECLARED, ids=ids)
@few
@given(seed=seeds)
def test_declared_properties_hold(pair: Pair, name: str, seed: int) -> None:
    CHECKS[name](drawn(pair, seed), seed)


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_false_declaration_fails(name: str) -> None:
    def skewed(predictions: Any, targets: Any) -> Any:
        return np.sum(np.sin(predictions) - 2.0 * targets * np.abs(targets))

    domain = {"predictions": REAL, "targets": REAL}
    gradient_of(skewed, domain=domain, properties=(name,))(lambda predictions, targets: np.cos(predictions))
    try:
        pair = catalogue()["skewed"]

        @few
        @given(seed=seeds)
        def holds(seed: int) -> None:
            CHECKS[name](drawn(pair, seed), seed)

        with pytest.raises(AssertionError):
            holds()
    finally:
        unregister("skewed")


def test_an_unknown_property_is_refused() -> None:
    def odd(predictions: Any) -> Any:
        return predictions

    with pytest.raises(ValueError, match="'convexe' is no property of a loss; did you mean 'convex'"):
        gradient_of(odd, properties=("convexe",))(lambda predictions: predictions)


# --- what all losses have in common -----------------------------------------------------------------------------------


@pytest.mark.exhaustive  # a law holds at drawn arguments
@pytest.mark.parametrize("pair", WIDER, ids=ids)
@few
@given(seed=seeds, rows=rows, columns=columns, weighted=st.booleans())
def test_rows_take_their_gradients_along(pair: Pair, seed: int, rows: int, columns: int, weighted: bool) -> None:
    case = drawn(pair, seed, (rows, max(columns, 3)))
    if np.shape(case.value(reduction="none"))[:1] != (rows,):
        return  # the first axis is that of one sample
    generator = np.random.default_rng(seed)
    order = generator.permutation(rows)
    weights = generator.integers(0, 3, case.rows).astype(float)
    options, permuted = ({"weights": w} if weighted else {} for w in (weights, weights[order]))
    moved = case.cut(order)
    assert_close(float(case.value(**options)), float(moved.value(**permuted)))
    found = dict(flat(moved.gradient(**permuted)))
    for path, g in flat(case.gradient(**options)):
        expected = g[order] if any(part in path for part in case.batch) or len(pair.wrt) == 1 else g
        scale = max(float(np.abs(g).max(initial=0.0)), 1e-300)
        np.testing.assert_allclose(found[path], expected, rtol=1e-9, atol=1e-13 * scale, err_msg=path)


@pytest.mark.exhaustive  # a law holds at drawn arguments
@pytest.mark.parametrize("pair", REDUCED, ids=ids)
@few
@given(seed=seeds, first=st.floats(-4.0, 4.0), second=st.floats(-4.0, 4.0))
def test_gradients_are_linear_in_upstream(pair: Pair, seed: int, first: float, second: float) -> None:
    case = drawn(pair, seed)
    plain = dict(flat(case.gradient()))
    for upstream in (first, second, first + second):
        for path, g in flat(case.gradient(upstream=upstream)):
            scale = max(float(np.abs(plain[path]).max(initial=0.0)), 1e-300)
            np.testing.assert_allclose(g, upstream * plain[path], rtol=1e-12, atol=1e-14 * scale, err_msg=path)


@pytest.mark.exhaustive  # a law holds at drawn arguments
@pytest.mark.parametrize("pair", REDUCED, ids=ids)
@few
@given(seed=seeds, cut=st.integers(1, 3))
def test_micro_batches_of_any_size_add_up(pair: Pair, seed: int, cut: int) -> None:
    case = drawn(pair, seed, (4, 3))
    if np.shape(case.value(reduction="none"))[:1] != (4,):
        return  # the first axis is that of one sample
    count = float(np.prod(case.rows))
    parts = [case.cut(slice(None, cut)), case.cut(slice(cut, None))]
    total = sum(float(part.value(normalizer=count)) for part in parts)
    assert_close(total, float(case.value(normalizer=count)))


@few
@given(
    seed=seeds,
    rows=st.integers(1, 6),
    classes=st.integers(1, 6),
    smoothing=st.floats(0.0, 0.9),
    weighted=st.booleans(),
)
def test_an_index_is_a_distribution_with_all_its_mass_there(
    seed: int, rows: int, classes: int, smoothing: float, weighted: bool
) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(rows, classes)) * 4.0, generator.integers(0, classes, rows)
    options = {"label_smoothing": smoothing} | (
        {"class_weights": generator.uniform(0.1, 2.0, classes)} if weighted else {}
    )
    one_hot = np.eye(classes)[labels]
    for pair in (catalogue()["cross_entropy_with_logits"], catalogue()["cross_entropy_loss"]):
        scores = logits if "logits" in pair.name else np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        for reduction in ("none", "sum"):
            np.testing.assert_allclose(
                pair.value(scores, labels, reduction=reduction, **options),
                pair.value(scores, one_hot, reduction=reduction, **options),
                rtol=1e-11,
                atol=1e-13,
            )
        np.testing.assert_allclose(
            pair.gradient(scores, labels, reduction="sum", **options),
            pair.gradient(scores, one_hot, reduction="sum", **options),
            rtol=1e-9,
            atol=1e-12,
        )


@few
@given(seed=seeds, offset=st.floats(-1e3, 1e3))
def test_a_constant_added_to_all_logits_changes_nothing(seed: int, offset: float) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(4, 5)), generator.integers(0, 5, 4)
    assert_close(
        float(ml.cross_entropy_with_logits(logits, labels)),
        float(ml.cross_entropy_with_logits(logits + offset, labels)),
        scale=abs(offset),
    )


def test_every_property_is_declared_by_some_loss() -> None:
    assert {name for _, name in DECLARED} == set(PROPERTIES)
    assert not any(isinstance(pair.domain[name], Labels) for pair, p in DECLARED if p == "convex" for name in pair.wrt)
