"""The first line of each loss and gradient, written once more in plain NumPy, against the code under every option."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, flat, reductions, with_every_option
from formulas.notation import Massed

from mithril_losses import catalogue
from mithril_losses._pairs import Pair
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
