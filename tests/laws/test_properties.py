"""What a loss declares of itself, and what all have in common, at arguments that hypothesis looks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import Case, flat, with_every_option
from hypothesis import given, settings
from hypothesis import strategies as st

import mithril_losses as ml
from mithril_losses import catalogue, gradient_of
from mithril_losses.catalogue import PROPERTIES, Pair, unregister
from mithril_losses.checking import draw_arguments
from mithril_losses.domains import (
    PROBABILITY,
    REAL,
    ClassTargets,
    Distributions,
    Edges,
    Elements,
    FeatureMaps,
    Images,
    Labels,
    Matrices,
    Parameters,
    PointSets,
    ProbabilityMaps,
    unenforced,
)
from mithril_losses.numerics.trees import map_leaves

EPSILON = 1e-11  # relative: float64, and sums of some dozens of terms

DECLARED = [(pair, name) for pair in catalogue().values() for name in pair.properties]
CONDITIONAL = [(pair, name) for pair, name in DECLARED if pair.properties[name].options]
REDUCED = [pair for pair in catalogue().values() if pair.takes_reduction and pair.terms.separable]
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


def under(pair: Pair, name: str, seed: int) -> Case:
    """Draw arrays and every option, those of a property's condition as it demands."""
    return anywhere(pair, seed, **pair.properties[name].options)


def anywhere(pair: Pair, seed: int, **settled: Any) -> Case:
    """Draw arrays and every option, in two shapes, arrays of numbers at several scales, sets of points in one size."""
    case = with_every_option(pair, seed, (4, 3) if seed % 3 else (2, 2, 3), **settled)
    generator = np.random.default_rng(seed)
    arrays, options = dict(case.arrays), dict(case.options)
    for name, x in arrays.items():
        if may_be_scaled(pair.domain[name]) and options.get("log_input") is not False:
            factor = 2.0 ** int(generator.integers(-3, 4))
            arrays[name] = map_leaves(lambda _, leaf, factor=factor: factor * leaf, x)
    count = min((x.shape[-2] for name, x in arrays.items() if isinstance(pair.domain[name], PointSets)), default=0)
    for name in [name for name in arrays if isinstance(pair.domain[name], PointSets)]:
        if not any(isinstance(domain, Edges) for domain in pair.domain.values()):
            arrays[name] = arrays[name][..., :count, :]
    for name, x in options.items():
        if name.startswith(("pred_", "target_")) and isinstance(x, np.ndarray):
            options[name] = x[..., :count]
    return Case(pair, case.name, arrays, options)


def may_be_scaled(domain: Any) -> bool:
    """Whether a domain is that of all real numbers, or of all that are not negative."""
    if isinstance(domain, Elements):
        return domain.low in (-np.inf, 0.0) and domain.high == np.inf
    return isinstance(domain, FeatureMaps | Images | Matrices | Parameters)


def are_exchangeable(case: Case) -> bool:
    first, second = list(case.arrays.values())[:2]
    return np.shape(first) == np.shape(second)


def of_one_kind(case: Case) -> list[str]:
    """Return the names of the arrays that may be what the first may be; sets of points may differ in their number."""
    first, *_ = (case.pair.domain[name] for name in case.arrays)
    return [
        name
        for name in case.arrays
        if (domain := case.pair.domain[name]) == first or type(domain) is type(first) is PointSets
    ]


def loss(case: Case) -> float:
    return float(case.pair.total_of(case.value()))


def assert_close(one: float, other: float, scale: float = 0.0) -> None:
    assert abs(one - other) <= EPSILON * max(abs(one), abs(other), scale, 1.0), (one, other)


# --- one check for each property --------------------------------------------------------------------------------------


def check_non_negative(case: Case, seed: int) -> None:
    assert loss(case) >= 0.0
    if len(case.arrays) == 1 or not are_exchangeable(case):
        return
    for name in of_one_kind(case)[1:]:  # where rounding might do it
        near = map_leaves(lambda _, x: x.copy(), next(iter(case.arrays.values())))
        assert loss(with_arrays(case, **{name: near})) >= 0.0


def check_zero_at_equality(case: Case, seed: int) -> None:
    first, second = list(case.arrays)[:2]
    if not are_exchangeable(case):
        return
    assert abs(loss(with_arrays(case, **{second: case.arrays[first]}))) <= 1e-12


def check_symmetric(case: Case, seed: int) -> None:
    if not are_exchangeable(case):
        return  # two batches of different sizes
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
    names = [name for name in case.pair.wrt if name in case.arrays]
    start_at = {name: case.arrays[name] for name in names}
    end_at = _elsewhere(start_at, np.random.default_rng(seed))
    target, slope = with_arrays(case, **end_at), 0.0
    gradients, ends = dict(flat(case.by_argument())), dict(flat(end_at))
    for path, x in flat(start_at):
        slope += float(np.sum(gradients[path] * (ends[path] - x)))
    start, end = loss(case), loss(target)
    assert end >= start + slope - EPSILON * max(abs(start), abs(end), abs(slope), 1.0)


def check_psd(case: Case, seed: int) -> None:
    """v · H v ≥ 0 for a vector v."""
    product, vectors = times_hessian(case, seed)
    terms = [float(np.sum(x * vectors[path])) for path, x in flat(product)]
    assert sum(terms) >= -EPSILON * max(sum(map(abs, terms)), 1.0)


def check_constant_curvature(case: Case, seed: int) -> None:
    """H v is the same elsewhere."""
    names = [name for name in case.pair.wrt if name in case.arrays]
    moved = _elsewhere({name: case.arrays[name] for name in names}, np.random.default_rng(seed))
    here, there = (dict(flat(times_hessian(at, seed)[0])) for at in (case, with_arrays(case, **moved)))
    for path, x in here.items():
        np.testing.assert_allclose(x, there[path], rtol=1e-10, atol=1e-12)


def check_zero_curvature(case: Case, seed: int) -> None:
    assert not any(x.any() for _, x in flat(times_hessian(case, seed)[0]))


def times_hessian(case: Case, seed: int) -> tuple[Any, dict[str, Any]]:
    """Return H v for a random vector v, and v by path."""
    assert case.pair.terms.curved, "a fact about a Hessian that is not known"
    generator = np.random.default_rng([seed, 1])  # not the numbers that the arguments were drawn from
    names = case.pair.wrt
    vectors = {name: map_leaves(lambda _, x: generator.standard_normal(x.shape), case.arrays[name]) for name in names}
    vector = vectors if len(names) > 1 else vectors[names[0]]
    product = ml.hessian_vector_product(case.pair)(*case.arguments("numpy"), **case.keywords("numpy"), vector=vector)
    return product, dict(flat(vector))


def _elsewhere(arrays: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Return other points of the same domains, whatever these are: the same numbers in another order, or scaled."""
    way = generator.choice(["all", "one", "rows"])

    def moved(_: str, x: Any) -> Any:
        if x.shape and np.allclose(x.sum(axis=-1), 1.0):
            return generator.permuted(x, axis=-1)  # distributions stay so
        if way == "rows" and x.ndim > 1:
            return generator.permutation(x, axis=-2)
        factor = 1.0 if np.all((x >= 0.0) & (x <= 1.0)) else 2.0 ** int(generator.integers(-2, 4))  # and probabilities
        if way == "one":
            other = x.copy()
            other.flat[generator.integers(x.size)] *= factor
            return other
        return factor * generator.permutation(x.reshape(-1)).reshape(x.shape)

    return map_leaves(moved, arrays)


CHECKS: dict[str, Callable[[Case, int], None]] = {name: globals()[f"check_{name}"] for name in PROPERTIES}


@pytest.fixture(autouse=True, scope="module")
def anywhere_in_space() -> Iterator[None]:
    """Properties are claims about formulas, and hold, or fail, beside a domain as well."""
    with unenforced():
        yield


@pytest.mark.parametrize(("pair", "name"), DECLARED, ids=ids)
@few
@given(seed=seeds)
def test_declared_properties_hold(pair: Pair, name: str, seed: int) -> None:
    CHECKS[name](under(pair, name, seed), seed)


def fails_somewhere(pair: Pair, name: str, seeds: int = 1000) -> bool:
    """Whether a loss lacks a property at some drawn arguments, with any options."""
    for seed in range(seeds):
        try:
            CHECKS[name](anywhere(pair, seed), seed)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize(("pair", "name"), CONDITIONAL, ids=ids)
def test_a_condition_is_needed(pair: Pair, name: str) -> None:
    assert fails_somewhere(pair, name)


FLAT = np.array([[1.0, 1.0, 1.0, 3.0]])  # a box without an area
WHERE = {"the boxes have an area": FLAT, "no normal is the zero vector": np.zeros((1, 3))}  # and what these exclude


@pytest.mark.parametrize(
    "pair", [p for p in catalogue().values() if any(g.where in WHERE for g in p.properties.values())], ids=ids
)
def test_equal_boxes_and_normals_of_no_size_have_the_loss_1(pair: Pair) -> None:
    where = pair.properties["zero_at_equality"].where
    assert pair.value(WHERE[where], WHERE[where]) == 1.0


CLIPPING = [(p, g.where) for p in catalogue().values() if (g := p.properties.get("convex")) and "clipped" in g.where]


@pytest.mark.parametrize(("pair", "where"), CLIPPING, ids=ids)
def test_clipped_losses_are_not_convex(pair: Pair, where: str) -> None:
    """The loss is level beyond ε: its tangent a little before that lies above it."""
    assert where == "no probability is clipped"
    name, case = pair.wrt[0], drawn(pair, 0)
    side = np.random.default_rng(0).random(case.arrays[name].shape) < 0.5
    start = np.where(side, 1.1e-7, 1.0 - 1.1e-7)
    case = Case(pair, "clipped", {**case.arrays, name: start}, {})
    end = np.where(side, 0.0, 1.0)
    slope = float(np.sum(case.by_argument()[name] * (end - start)))
    assert loss(with_arrays(case, **{name: end})) < loss(case) + slope - 0.1


def test_sinkhorn_is_not_symmetric_before_it_has_converged() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 5, 2))
    options = {"epsilon": 0.01, "max_iterations": 2}
    with pytest.warns(ml.losses.transport.SinkhornWarning):
        one, other = (ml.sinkhorn_divergence(*sets, **options) for sets in ((x, y), (y, x)))
    assert abs(one - other) > 1e-3


def test_negative_weights_are_beside_the_promise() -> None:
    assert ml.mse_loss(np.ones(1), np.zeros(1), weights=-np.ones(1)) == -1.0


def is_applicable(pair: Pair, name: str) -> bool:
    """Whether a property says something of a loss: some compare two arguments of one domain, others move numbers."""
    if name in ("psd", "constant_curvature", "zero_curvature"):
        convex = pair.properties.get("convex")  # which says more, unless under a condition
        is_implied = name == "psd" and convex is not None and not (convex.options or convex.where)
        return pair.terms.curved and not is_implied
    arrays = [pair.domain[array] for array in pair.array_arguments]
    if name in ("symmetric", "zero_at_equality"):
        return len(arrays) > 1 and arrays[0] == arrays[1]
    bounded = isinstance(arrays[0], ClassTargets | Distributions | Labels | ProbabilityMaps) or arrays[0] == PROBABILITY
    return not (bounded and name.endswith("invariant"))


UNDECLARED = [
    (pair, name)
    for pair in catalogue().values()
    for name in PROPERTIES
    if name not in pair.properties and is_applicable(pair, name)
]


@pytest.mark.parametrize(("pair", "name"), UNDECLARED, ids=ids)
def test_what_is_not_declared_is_not_true(pair: Pair, name: str) -> None:
    assert fails_somewhere(pair, name)


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

    with pytest.raises(ValueError, match="unknown property 'convexe'; did you mean 'convex'"):
        gradient_of(odd, properties=("convexe",))(lambda predictions: predictions)


def test_a_condition_on_an_unknown_option_is_refused() -> None:
    def odd(predictions: Any, *, flag: bool = True) -> Any:
        return predictions

    with pytest.raises(ValueError, match=r"'flags' is not an option of odd, .*did you mean 'flag'"):
        gradient_of(odd, properties=(ml.given("convex", flags=True),))(lambda predictions, *, flag=True: predictions)


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
