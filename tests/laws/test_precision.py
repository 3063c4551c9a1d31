"""Element-wise losses in floating point against the same definitions in sixty digits, from tiny numbers to large ones.

That the definitions are right, others prove; here it is what is left of them in float32 and float64. An error is
measured in units of rounding of what the result must answer for: itself, what one rounding of each argument makes of
it, and, where probabilities are clipped, what the rounding of 1 − ε does.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

from mithril_losses import catalogue
from mithril_losses.checking.proof import _Deciding, _on_definitions, parts
from mithril_losses.domains import ClipWidth, Elements, Flag, Interval, Labels
from mithril_losses.templates.elements import Elementwise

UNITS = 24.0  # of rounding: the longest terms take about as many operations
POINTS = 120
# log Γ(t + 1) of the full Poisson likelihood takes the rounding of t + 1, which is no more than that
ABSOLUTE = {"poisson_negative_log_likelihood": 1.0}
CASES = [(name, argument, terms) for name in catalogue() for argument, terms in parts(name).items()]


class Digits(_Deciding):
    """mpmath's functions, with conditions that are decided as they come."""

    exp = staticmethod(mpmath.exp)
    log = staticmethod(mpmath.log)
    log1p = staticmethod(mpmath.log1p)
    expm1 = staticmethod(mpmath.expm1)
    sqrt = staticmethod(mpmath.sqrt)
    tanh = staticmethod(mpmath.tanh)
    log_gamma = staticmethod(mpmath.loggamma)

    def sign(self, x: Any) -> Any:
        return mpmath.sign(x)


def drawn(domain: Any, generator: np.random.Generator, dtype: str) -> np.ndarray:
    """Return numbers of every magnitude that a domain has, also near its ends."""
    if isinstance(domain, Labels):
        return generator.choice(domain.values, POINTS).astype(dtype)
    if isinstance(domain, Elements) and domain.high <= 1.0:
        tiny = 10.0 ** generator.uniform(-9.0, 0.0, POINTS)
        return np.where(generator.random(POINTS) < 0.5, tiny, 1.0 - tiny).astype(dtype)
    if not isinstance(domain, Elements):  # probabilities in rows
        return (10.0 ** generator.uniform(-9.0, 0.0, POINTS)).astype(dtype)
    magnitude = 10.0 ** generator.uniform(-6.0, 1.5, POINTS)
    signs = generator.choice([-1.0, 1.0] if domain.low < 0.0 else [1.0], POINTS)
    return (magnitude * signs).astype(dtype)


def settings_of(terms: Elementwise, generator: np.random.Generator) -> list[Any]:
    """Return an option of each, in the order of the terms."""
    options = []
    for name in terms.option_names:
        domain = terms.domain[name]
        if isinstance(domain, Flag):
            options.append(bool(generator.integers(2)))
        else:
            assert isinstance(domain, Interval)
            options.append(float(domain.sample(generator)))
    return options


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "argument", "terms"), CASES, ids=[f"{name}-{part}" for name, part, _ in CASES])
def test_terms_keep_their_digits(loss: str, argument: str, terms: Elementwise, dtype: str) -> None:
    generator = np.random.default_rng(5)
    arrays = [drawn(terms.domain[name], generator, dtype) for name in terms.array_names]
    options = settings_of(terms, generator)
    constants = [constant.value(np, np.dtype(dtype), np.dtype(dtype)) for constant in terms.constants]
    with np.errstate(all="ignore"):
        value, slopes = terms.evaluate(np, *arrays, *options, *constants)
    found = [value, *(slopes if isinstance(slopes, tuple) else (slopes,))]
    exact = _on_definitions(terms.terms)
    fixed = [x if isinstance(x, bool) else mpmath.mpf(float(x)) for x in (*options, *constants)]
    eps = float(np.finfo(dtype).eps)
    smallest = float(np.finfo(dtype).smallest_normal)
    with mpmath.workdps(60):

        def all_of(point: list[Any], options: list[Any] = fixed) -> list[Any]:
            value, slopes = exact(Digits(), *point, *options)
            return [value, *(slopes if isinstance(slopes, tuple) else (slopes,))]

        clips = [isinstance(terms.domain[name], ClipWidth) for name in terms.option_names]
        shifted = [x + eps if clip else x for x, clip in zip(fixed, clips + [False] * len(constants), strict=True)]

        for i in range(POINTS):
            point = [mpmath.mpf(float(x[i])) for x in arrays]
            expected = all_of(point)
            moved = [
                all_of([x * (1 + mpmath.mpf(eps)) if k == j else x for k, x in enumerate(point)])
                for j in range(len(point))
            ]
            if any(clips):
                moved.append(all_of(point, shifted))
            for which, (computed, true) in enumerate(zip(found, expected, strict=True)):
                if not mpmath.isfinite(true) or mpmath.im(true):
                    continue
                unit = eps * (abs(true) + ABSOLUTE.get(loss, 0.0)) + sum(abs(others[which] - true) for others in moved)
                error = abs(mpmath.mpf(float(computed[i] if np.ndim(computed) else computed)) - true)
                assert error <= UNITS * unit + smallest, (
                    f"{'value' if which == 0 else f'slope {which}'} at {[float(x[i]) for x in arrays]}, {options}: "
                    f"{float(computed[i] if np.ndim(computed) else computed)!r}, not {mpmath.nstr(true, 17)}, "
                    f"{mpmath.nstr(error / unit, 3)} units"
                )
