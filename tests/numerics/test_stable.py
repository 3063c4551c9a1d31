"""Norms of vectors: the same in NumPy, PyTorch, and JAX inside and outside of a trace, which takes another way."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest
from modes import MODES, evaluate

from mithril_losses.backends.namespaces import namespace_of
from mithril_losses.numerics.stable import norm_and_unit, sum_of_few
from mithril_losses.numerics.validation import quiet

INF, NAN = math.inf, math.nan
LARGE, SMALL = 1e30, 1e-30  # whose squares overflow, and vanish, in single precision


def norms(x: Any, p: float, axis: int) -> Any:
    xp = namespace_of(x)
    with quiet(xp):
        return norm_and_unit(xp, x, p, axis=axis)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, INF])
@pytest.mark.parametrize("coordinates", [1, 2, 3, 8, 9])
def test_norms_along_either_axis(mode: str, p: float, coordinates: int) -> None:
    x = np.random.default_rng(2).standard_normal((7, coordinates)).astype(np.float32)
    x[:4] *= np.array([LARGE, SMALL, 0.0, 1.0], np.float32)[:, None]
    expected = np.linalg.norm(x.astype(np.float64), ord=p, axis=1)
    for axis, given in ((-1, x), (0, x.T.copy())):
        norm, unit = evaluate(mode, lambda x, axis=axis: norms(x, p, axis), given)
        np.testing.assert_allclose(norm, expected, rtol=1e-6)
        along = np.sum((unit if axis else unit.T).astype(np.float64) * x, axis=1)
        np.testing.assert_allclose(along, expected, rtol=1e-6)  # the derivative of a norm in its own direction


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("p", [2.0, 3.0, INF])
def test_norms_of_nan_and_infinity(mode: str, p: float) -> None:
    x = np.array([[INF, 1.0, 0.0], [NAN, 1.0, 2.0], [NAN, -INF, 2.0], [-INF, INF, 0.0]], np.float32)
    for axis, given in ((-1, x), (0, x.T.copy())):
        norm, unit = evaluate(mode, lambda x, axis=axis: norms(x, p, axis), given)
        np.testing.assert_array_equal(norm, [INF, NAN, NAN, INF])
        unit = unit if axis else unit.T
        assert np.isfinite(unit[[0, 3]]).all()
        if p != INF:
            assert np.isnan(unit[1:3]).any(axis=1).all()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_few_entries_are_summed_in_a_trace_as_outside(axis: int) -> None:
    x = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    found = jax.jit(lambda x: sum_of_few(namespace_of(x), x, axis))(x)
    np.testing.assert_array_equal(found, x.sum(axis=axis, keepdims=True))
    np.testing.assert_array_equal(sum_of_few(np, x, axis), found)
