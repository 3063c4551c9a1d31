"""Every value of an argument outside of its domain is refused where it can be seen, and NaN where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from calling import arguments_of, faces, told
from cases import DRAWN, Case, flat

from mithril_losses import find_loss, limits, value_and_gradient
from mithril_losses.domains import Boxes, ClassTargets, Distributions, Elements, Labels


class Outside(NamedTuple):
    """An argument of a case that leaves its domain in one place of its last row.

    Attributes:
        case: the case, with this argument.
        name: of the argument.
        told: what a message says that the argument must be, that was given, and where.
    """

    case: Case
    name: str
    told: str

    def __str__(self) -> str:
        return f"{self.case.pair.name}-{self.name}-{self.told.partition(', got ')[2].replace(' ', '_')}"


def outside(case: Case) -> Iterator[Outside]:
    for name, domain in case.pair.domain.items():
        if name not in case.arrays:
            continue
        x = np.array(case.arrays[name])
        last = tuple(n - 1 for n in x.shape)
        index = f" at index {last}"
        legal = f"{name} must be {domain}, got "
        if isinstance(domain, ClassTargets):
            masses = np.full(case.arrays[case.pair.wrt[0]].shape, 0.2)
            last = tuple(n - 1 for n in masses.shape)
            yield _with(case, name, masses, last, -0.5, f"{name} must be ≥ 0, got -0.5 at index {last}")
        elif isinstance(domain, Labels):
            yield _with(case, name, x, last, 3.0, f"{legal}3{index}" if x.dtype.kind in "iu" else f"{legal}3.0{index}")
        elif isinstance(domain, Distributions):
            row = last[:-1]
            yield _with(case, name, x, last, -0.5, f"{legal}-0.5{index}")
            yield _with(case, name, x, row, 0.5, f"{legal}a row with the sum 2.5 at index {row}")
        elif isinstance(domain, Boxes):
            yield _with(case, name, x, last[:-1], (3.0, 1.0, 2.0, 5.0), f"{legal}(3, 1, 2, 5) at index {last[:-1]}")
        elif isinstance(domain, Elements) and domain.is_bounded:
            yield _with(case, name, x, last, -0.5, f"{legal}-0.5{index}")
            if domain.high < np.inf:
                yield _with(case, name, x, last, 7.0, f"{legal}7{index}")


def _with(case: Case, name: str, x: Any, at: tuple[int, ...], value: Any, message: str) -> Outside:
    changed = np.array(x)
    changed[at] = value
    return Outside(Case(case.pair, case.name, {**case.arrays, name: changed}, case.options), name, message)


OUTSIDE = [found for case in DRAWN for found in outside(case)]
IDS = [str(x) for x in OUTSIDE]
# to a compiler, all losses of a template are alike that have a domain of the same kind
FIRST = {(type(x.case.pair.terms), type(x.case.pair.domain[x.name])): x for x in reversed(OUTSIDE)}.values()
IN_TRACES = [pytest.param(x, id=str(x), marks=[] if x in FIRST else [pytest.mark.exhaustive]) for x in OUTSIDE]


def test_every_bounded_domain_is_among_them() -> None:
    assert len({(x.case.pair.name, x.name) for x in OUTSIDE}) > 45


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
@pytest.mark.parametrize("found", OUTSIDE, ids=IDS)
def test_a_value_that_can_be_seen_is_refused(found: Outside, library: str) -> None:
    case = found.case
    arguments, options = arguments_of(case, library), case.keywords(library, "float32")
    for face, function in faces(case).items():
        if library != "jax" or face in ("value", "both"):
            message = told(ValueError, function, *arguments, **options)
            assert message.startswith(found.told), message


@pytest.mark.parametrize("compile", [True, False], ids=["in loops", "in blocks"])
@pytest.mark.parametrize("found", OUTSIDE, ids=IDS)
def test_a_value_in_a_large_array_is_refused(found: Outside, compile: bool) -> None:
    case = found.case
    both = value_and_gradient(case.pair.value, compile=None if compile else False)
    for library in ("numpy", "torch"):
        with limits.changed(large=1, block=8, group=1, row_group=1, vector_group=1, shared_blocks=1):
            message = told(ValueError, both, *arguments_of(case, library), **case.keywords(library, "float32"))
        assert message.startswith(found.told), message


@pytest.mark.parametrize("found", IN_TRACES)
def test_a_value_inside_a_trace_makes_value_and_gradient_nan(found: Outside) -> None:
    case = found.case
    arguments, options = arguments_of(case, "jax"), case.keywords("jax", "float32")
    value, gradient = jax.jit(lambda *x: value_and_gradient(case.pair.value)(*x, **options))(*arguments)
    assert np.isnan(case.pair.total_of(value))
    assert any(np.isnan(x).any() for _, x in flat(gradient))

    options = case.keywords("torch", "float32")
    both = torch.vmap(lambda *x: case.pair.total_of(case.pair.value(*x, **options)))
    assert both(*(torch.stack([x] * 2) for x in arguments_of(case, "torch"))).isnan().all()


@pytest.mark.parametrize("name", ["kl_divergence", "js_divergence"])
@pytest.mark.parametrize("n", [2, 200_000])
def test_a_negative_entry_is_seen_though_the_row_sums_to_one(name: str, n: int) -> None:
    both = value_and_gradient(find_loss(name).value)
    targets = np.full((n, 2), 0.5, np.float32)
    predictions = targets.copy()
    predictions[-1] = -0.25, 1.25
    for arguments, argument in (((predictions, targets), "predictions"), ((targets, predictions), "targets")):
        with pytest.raises(ValueError, match=rf"{argument} must be distributions.* got -0.25 at index \({n - 1}, 0\)"):
            both(*arguments)
        value, gradient = jax.jit(both)(*map(jax.numpy.asarray, arguments))
        assert np.isnan(value)
        np.testing.assert_array_equal(np.isnan(gradient).any(axis=1), np.arange(n) == n - 1)
        assert np.isnan(gradient[-1]).all()
        value = torch.vmap(find_loss(name).value)(*(torch.from_numpy(x[None]) for x in arguments))
        assert value.isnan().all()
