"""The first line of each loss and gradient, written once more in plain NumPy, against the code under every option."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, flat, reductions, with_every_option
from formulas import image
from formulas.notation import Massed

from mithril_losses import catalogue
from mithril_losses.catalogue import Pair
from mithril_losses.domains import Choice, Flag

TOLERANCE = 1e-11  # of the largest number of a result: float64, and formulas that are not made to be stable
SEEDS = range(16)  # of draws of all options

# what the formulas need: Sinkhorn's iterations have to come to an end, as a formula knows no tolerance
EXACT = {"sinkhorn_divergence": {"mass_tolerance": 1e-14, "max_iterations": 2000}}
LOOSER = {"sinkhorn_divergence": 1e-9}  # where rounding ends them


def formula(pair: Pair, suffix: str = "") -> Callable[..., Any]:
    return getattr(importlib.import_module(f"formulas.{pair.family}"), pair.name + suffix)


def options_of(case: Case) -> dict[str, Any]:
    """All options of a case, those that are not given with their defaults."""
    defaults = {name: case.pair.parameters[name].default for name in case.pair.options}
    return {**defaults, **case.options}


# --- the reductions, literally ----------------------------------------------------------------------------------------


def reduced(losses: Any, mass: Any, reduction: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return L = Σ w ℓ / D, and s = ∂L/∂ℓ = w / D: the table in docs/conventions.md."""
    name, normalizer = reduction.get("reduction", "mean"), reduction.get("normalizer")
    weights = np.broadcast_to(1.0 if reduction.get("weights") is None else reduction["weights"], losses.shape)
    axis = reduction.get("axis")
    axes = tuple(range(losses.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if name == "none":
        return weights * losses, weights
    divisor = {
        "sum": np.asarray(1.0),
        "mean": np.sum(mass, axis=axes, keepdims=True),
        "weighted_mean": np.sum(weights * mass, axis=axes, keepdims=True),
        "batch_sum": np.asarray(float(losses.shape[0] if losses.ndim else 1)),
    }[name]
    divisor = np.asarray(divisor if normalizer is None else normalizer)
    shares = np.where(divisor == 0.0, 0.0, weights / np.where(divisor == 0.0, 1.0, divisor))
    return np.sum(np.where(shares == 0.0, 0.0, shares * losses), axis=axes), shares


def own(name: str, reduction: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that hold for one of two batches."""
    return {key: x.get(name) if isinstance(x, Mapping) else x for key, x in reduction.items()}


def expected(case: Case, reduction: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return value and gradient by argument as the formulas have them."""
    pair, options = case.pair, options_of(case)
    value, gradient = formula(pair), formula(pair, "_gradient")
    found = value(**case.arrays, **options)
    if not pair.takes_reduction:
        return found, gradient(**case.arrays, **options)
    if isinstance(found, dict):  # two batches
        each = {name: reduced(losses, np.ones(losses.shape), own(name, reduction)) for name, losses in found.items()}
        s: Any = {name: shares for name, (_, shares) in each.items()}
        total: Any = sum(part for part, _ in each.values())
    else:
        losses, mass = found if isinstance(found, Massed) else (np.asarray(found), np.ones(np.shape(found)))
        total, s = reduced(losses, mass, reduction)
    return total, gradient(**case.arrays, **options, s=s)


# --- the law ----------------------------------------------------------------------------------------------------------


def compare(case: Case, reduction: Mapping[str, Any]) -> None:
    pair = case.pair
    case = Case(pair, case.name, case.arrays, {**case.options, **EXACT.get(pair.name, {})})
    tolerance = LOOSER.get(pair.name, TOLERANCE)
    value, gradient = expected(case, reduction)
    assert_close(case.value(**reduction), value, tolerance, f"{case}: value")
    wrt = {"wrt": (*pair.wrt, *pair.on_request)} if pair.on_request else {}
    found = case.gradient(**reduction, **wrt)
    if not wrt and len(pair.wrt) == 1:
        found = {pair.wrt[0]: found}
    paths, documented = dict(flat(found)), dict(flat(gradient))
    assert paths.keys() == documented.keys()
    for path, x in paths.items():
        assert_close(x, documented[path], tolerance, f"{case}: {path}")


def assert_close(found: Any, documented: Any, tolerance: float, where: str) -> None:
    found, documented = np.asarray(found), np.asarray(documented)
    assert found.shape == documented.shape, where
    scale = max(float(np.abs(documented).max(initial=0.0)), 1e-3)
    np.testing.assert_allclose(found, documented, rtol=tolerance, atol=tolerance * scale, err_msg=where)


@pytest.mark.parametrize("name", catalogue())
def test_every_loss_has_its_formulas_with_its_own_arguments(name: str) -> None:
    pair = catalogue()[name]
    taken = set(pair.parameters)
    for suffix, more in (("", set()), ("_gradient", {"s"} if pair.takes_reduction else set())):
        parameters = inspect.signature(formula(pair, suffix)).parameters
        passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        assert named <= taken | more
        assert passes_on or named == taken | more


@pytest.mark.exhaustive_for(variants=True)  # the test below takes every option
@pytest.mark.parametrize("case", CASES, ids=str)
def test_formulas_as_written_under_every_reduction(case: Case) -> None:
    for _, reduction in reductions(case):
        compare(case, reduction)


@pytest.mark.parametrize("name", catalogue())
def test_formulas_as_written_under_every_option(name: str) -> None:
    pair = catalogue()[name]
    for seed in SEEDS:
        case = with_every_option(pair, seed, (4, 3) if seed % 3 else (2, 3, 3))
        common = {key: case.options.pop(key) for key in ("reduction", "weights", "normalizer") if is_common(case, key)}
        compare(case, common)


@pytest.mark.parametrize("name", catalogue())
def test_draws_reach_every_flag_every_name_and_every_option(name: str) -> None:
    pair = catalogue()[name]
    drawn = [with_every_option(pair, seed, (4, 3)).options for seed in SEEDS]
    for option in pair.options:
        domain, values = pair.domain[option], [options[option] for options in drawn]
        if isinstance(domain, Flag):
            assert set(values) == {False, True}
        elif isinstance(domain, Choice):
            assert set(values) == set(domain.names)
        else:
            assert any(value is not pair.parameters[option].default for value in values)


def is_common(case: Case, name: str) -> bool:
    return name in case.options and name not in case.pair.options


# --- derivations on pages that no first line holds --------------------------------------------------------------------


def test_slopes_of_moved_images_are_those_of_the_page_on_images() -> None:
    """∂b/∂μ_x and the last term are taken of the moved images, ∂a/∂μ_x and m of the images as they are."""
    x, y = np.random.default_rng(0).normal(size=(2, 7, 7)) + 0.7
    level = (x.mean() + y.mean()) / 2.0
    plain, moved = (
        image.Similarity(x - shift, y - shift, max_value=1.0, window_size=3, sigma=1.5, k1=0.01, k2=0.03)
        for shift in (0.0, level)
    )
    d, delta, v = x - y, plain.mu_x - plain.mu_y, moved.v
    a = delta**2 / plain.m
    b = (image.window_mean(d * d, moved.window) - delta**2) / v
    by_mean = (1.0 - b) * 2.0 * (delta - a * plain.mu_x) / plain.m + (1.0 - a) * 2.0 * (b * moved.mu_x - delta) / v
    maps = (by_mean, (1.0 - a) / v, -(1.0 - a) * b / v)
    first, second, third = (image.transposed(slopes, moved.window, x.shape) for slopes in maps)
    gradient = (first + 2.0 * d * second + 2.0 * moved.x * third) / a.size
    found = catalogue()["ssim_loss"].gradient(x[..., None], y[..., None], window_size=3)[..., 0]
    np.testing.assert_allclose(found, gradient, rtol=1e-12, atol=1e-14)


def test_arcface_steps_down_below_a_margin_of_two_and_a_third() -> None:
    """At π − m the own logit steps from −1 to −cos m − m sin m."""
    for margin, goes_down in ((0.5, True), (2.33, True), (2.34, False), (3.1, False)):
        step = -np.cos(margin) - margin * np.sin(margin) + 1.0
        assert (step < 0.0) == goes_down
        at = np.pi - margin + np.array([-1e-6, 1e-6])
        x = np.stack([np.cos(at), np.sin(at)], axis=-1)
        losses = catalogue()["arcface_loss"].value(
            x, np.array([[1.0, 0.0], [0.0, 0.0]]), np.zeros(2, int), margin=margin, scale=1.0, reduction="none"
        )
        logits = -np.log(np.expm1(losses))  # of the own class against 0
        np.testing.assert_allclose(logits[1] - logits[0], step, atol=1e-4)


def test_the_complete_loss_of_boxes_stays_below_two_and_a_half() -> None:
    far, thin = 1e6, 1e-9
    a, b = np.array([[0.0, 0.0, 1.0, thin]]), np.array([[far, far, far + thin, far + 1.0]])
    assert 2.4999 < catalogue()["complete_iou_loss"].value(a, b) < 2.5


def test_class_weights_of_one_change_the_divisor_of_unnormalized_targets() -> None:
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(size=(5, 4)), generator.uniform(0.0, 3.0, (5, 4))
    loss = catalogue()["cross_entropy_with_logits"].value
    ratio = loss(logits, targets) / loss(logits, targets, class_weights=np.ones(4))
    np.testing.assert_allclose(ratio, targets.sum() / 5.0, rtol=1e-12)


def test_gradients_of_isotropic_variation_see_six_neighbours() -> None:
    images = np.random.default_rng(0).normal(size=(1, 5, 5, 1))
    for norm_type, neighbours in (("l1", 0), ("l2_squared", 4), ("isotropic", 6)):
        gradient = catalogue()["total_variation_loss"].gradient
        before, seen = gradient(images, norm_type=norm_type)[0, 2, 2, 0], 0
        for place in np.ndindex(5, 5):
            moved = images.copy()
            moved[0][place] += 1e-3
            seen += place != (2, 2) and gradient(moved, norm_type=norm_type)[0, 2, 2, 0] != before
        assert seen == neighbours  # the sign of a difference changes at no neighbour
