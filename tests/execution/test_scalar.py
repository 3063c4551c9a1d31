"""The scalar functions that element-wise terms are compiled with: accuracy, special values, and the loops they make."""

import math
import re

import mpmath
import numpy as np
import pytest
from parameterized import parameterized

from mithril_losses.losses import classification, regression

numba = pytest.importorskip("numba")

from mithril_losses.loops import elements  # noqa: E402
from mithril_losses.loops.compiling import load_module  # noqa: E402
from mithril_losses.loops.scalar import float32, float64  # noqa: E402
from mithril_losses.terms.reading import VOCABULARY  # noqa: E402

INF, NAN = np.inf, np.nan
TRANSCENDENTAL = ["exp", "expm1", "log", "log1p", "tanh"]
# the flags of a caller that sums its values: they must not reach into the scalar functions
CALLER = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}


def looped(function, arguments=1):
    """Return a compiled loop that applies the scalar function to every element."""
    if arguments == 1:

        def loop(x, out):
            for i in range(out.size):
                out[i] = function(x[i])
    else:

        def loop(x, y, out):
            for i in range(out.size):
                out[i] = function(x[i], y[i])

    return numba.njit(**CALLER)(loop)


def applied(function, *arrays):
    out = np.empty_like(arrays[0])
    looped(function, len(arrays))(*arrays, out)
    return out


def all_exponents(per_exponent):
    """Return random float32 of every exponent and sign, the subnormal ones and the smallest of each included."""
    rng = np.random.default_rng(0)
    mantissas = np.append(0, rng.integers(0, 1 << 23, per_exponent - 1))
    signs_and_exponents = np.arange(512)[np.arange(512) % 256 != 255]  # 255: infinities and NaN
    return (signs_and_exponents[:, None] << 23 | mantissas).astype(np.uint32).view(np.float32).reshape(-1)


def exact(name, x):
    """Return the true values, rounded to float64 only."""
    function = {"log": mpmath.log}.get(name) or getattr(mpmath, name)
    with mpmath.workprec(80):
        return np.array([float(function(mpmath.mpf(float(v)))) for v in x])


def units_in_the_last_place(found, expected):
    _, exponent = np.frexp(expected)
    unit = np.ldexp(1.0, np.maximum(exponent - 24, -149))
    return np.abs(found.astype(np.float64) - expected) / unit


class TestFloat32:
    @parameterized.expand(TRANSCENDENTAL)
    def test_within_two_units_of_the_true_value(self, name):
        rng = np.random.default_rng(1)
        x = np.concatenate([all_exponents(10), rng.normal(0, 1, 4000), rng.uniform(-104, 89, 4000)]).astype(np.float32)
        x = x[x > {"log": 0.0, "log1p": -1.0}.get(name, -INF)]
        expected = exact(name, x)
        with np.errstate(over="ignore"):
            overflows = np.isinf(expected.astype(np.float32))
        found = applied(getattr(float32, name), x)
        assert units_in_the_last_place(found[~overflows], expected[~overflows]).max() < 2
        assert np.all(found[overflows] == INF)

    @parameterized.expand(
        [
            ("exp", [INF, -INF, NAN, 0.0, -0.0], [INF, 0.0, NAN, 1.0, 1.0]),
            ("expm1", [INF, -INF, NAN, 0.0, 1e-45, -1e-45], [INF, -1.0, NAN, 0.0, 1e-45, -1e-45]),
            ("log", [INF, -INF, NAN, 0.0, -0.0, 1.0, -1.0, -1e-45], [INF, NAN, NAN, -INF, -INF, 0.0, NAN, NAN]),
            ("log1p", [INF, -INF, NAN, 0.0, -1.0, -1.5, 1e-45], [INF, NAN, NAN, 0.0, -INF, NAN, 1e-45]),
            ("tanh", [INF, -INF, NAN, 0.0, 1e-45, 20.0], [1.0, -1.0, NAN, 0.0, 1e-45, 1.0]),
            ("sqrt", [INF, -INF, NAN, 0.0, -1.0, 4.0], [INF, NAN, NAN, 0.0, NAN, 2.0]),
            ("sign", [INF, -INF, NAN, 0.0, 3.0, -1e-45], [1.0, -1.0, NAN, 0.0, 1.0, -1.0]),
            ("abs", [INF, -INF, NAN, 0.0, -3.0], [INF, INF, NAN, 0.0, 3.0]),
        ]
    )
    def test_special_values(self, name, x, expected):
        found = applied(getattr(float32, name), np.array(x, dtype=np.float32))
        np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))

    @parameterized.expand(
        [
            ("exp", math.log(2.0**128 * (1 - 2.0**-25)), np.float32(3.4028235e38), INF),
            ("exp", -150 * math.log(2.0), 0.0, np.float32(1e-45)),
        ]
    )
    def test_thresholds(self, name, threshold, one_side, other_side):
        # the float32 on either side of where the rounded result overflows, or becomes zero
        nearest = np.float32(threshold)
        x = np.array([np.nextafter(nearest, -np.float32(INF)), np.nextafter(nearest, np.float32(INF))])
        low, high = applied(getattr(float32, name), x)
        assert np.isfinite(low)
        assert high == other_side
        np.testing.assert_allclose(low, one_side, rtol=1e-5)

    @parameterized.expand(["exp", "expm1", "log", "log1p", "tanh", "abs", "sqrt", "sign"])
    def test_loop_is_vectorised_in_32_bits(self, name):
        loop = looped(getattr(float32, name))
        x = np.ones(64, dtype=np.float32)
        loop(x, np.empty_like(x))
        (code,) = loop.inspect_llvm().values()
        assert re.search(r"store <\d+ x float>", code)
        assert not re.search(r"x double>", code)  # the wrapper returns the sum as a Python float
        assert not re.search(r"@(expf?|expm1f?|logf?|log1pf?|tanhf?)\b", code)


class TestBothTypes:
    SPECIAL = np.array([NAN, INF, -INF, 0.0, 1.0, -1.0, 2.5, 1e-45])

    @parameterized.expand([(m.__name__[-7:], m, name) for m in (float32, float64) for name in ("minimum", "maximum")])
    def test_minimum_and_maximum_propagate_nan(self, dtype, module, name):
        x, y = (a.reshape(-1).astype(dtype) for a in np.meshgrid(self.SPECIAL, self.SPECIAL))
        np.testing.assert_array_equal(applied(getattr(module, name), x, y), getattr(np, name)(x, y))

    @parameterized.expand([("float32", float32), ("float64", float64)])
    def test_minimum_with_a_constant_propagates_nan(self, dtype, module):
        # a constant leads LLVM to a shorter form
        minimum, bound = module.minimum, np.dtype(dtype).type(1.0)
        clipped = numba.njit(**CALLER)(lambda x: minimum(bound, x))
        x = self.SPECIAL.astype(dtype)
        np.testing.assert_array_equal(applied(clipped, x), np.minimum(bound, x))

    @parameterized.expand([("float32", float32), ("float64", float64)])
    def test_where_ignores_the_other_branch(self, dtype, module):
        where = module.where
        chosen = numba.njit(**CALLER)(lambda x, y: where(x > 0, y, x))
        x, y = (a.reshape(-1).astype(dtype) for a in np.meshgrid(self.SPECIAL, self.SPECIAL))
        np.testing.assert_array_equal(applied(chosen, x, y), np.where(x > 0, y, x))

    @parameterized.expand([*TRANSCENDENTAL, "abs", "sign", "sqrt"])
    def test_float64_agrees_with_numpy(self, name):
        x = np.append(np.random.default_rng(2).normal(0, 3, 1000), self.SPECIAL)
        with np.errstate(all="ignore"):
            expected = getattr(np, name)(x)
        np.testing.assert_allclose(applied(getattr(float64, name), x), expected, rtol=1e-15)


@pytest.mark.parametrize("xp", [float32, float64])
def test_powers_of_positive_numbers(xp):
    power, dtype = xp.positive_power, np.dtype(xp.__name__[-7:])
    rng = np.random.default_rng(3)
    bases, exponents = (x.astype(dtype) for x in (np.exp(rng.normal(0.0, 5.0, 1000)), rng.uniform(-2.0, 2.0, 1000)))
    exponents[:3] = 0.0, 1.0, -1.0
    expected = bases.astype(np.float64) ** exponents.astype(np.float64)
    # the exponential multiplies the rounding of its argument
    rounding = np.finfo(dtype).eps * (2.0 + abs(np.log(expected)))
    assert np.all(abs(applied(power, bases, exponents) - expected) <= 2.0 * rounding * expected)
    assert applied(power, bases, exponents)[0] == 1.0


@pytest.mark.parametrize("xp", [float32, float64])
def test_the_vocabulary_of_terms_is_complete(xp):
    assert xp.__all__ == sorted(VOCABULARY)


class TestTerms:
    """The terms of losses, compiled from the source that array code runs."""

    @parameterized.expand(
        [
            # the exponent γ log q of focal loss multiplies the rounding of the logarithm
            ("huber", regression._huber, (0.7,), [0.0, 0.5, 1.0], 5e-7, 1),
            ("bce", classification._binary_cross_entropy_with_logits, (1.5,), [0.0, 1.0], 1e-6, 2),
            ("focal", classification._focal_with_logits, (2.0, 0.25), [0.0, 1.0], 5e-6, 3),
        ]
    )
    def test_every_loop_is_vectorised_and_equals_array_code(self, name, loss, options, targets, rtol, loops):
        rng = np.random.default_rng(3)
        special = np.repeat([NAN, INF, -INF, 0.0, -0.0, 1e-45, 1e-30, 88.0, -88.0, 104.0, -104.0, 1e30], 3)
        x = np.concatenate([special, rng.normal(0, 5, 4000)]).astype(np.float32)
        y = np.resize(np.array(targets, dtype=np.float32), x.shape)
        with np.errstate(all="ignore"):
            expected = loss.terms(np, x.astype(np.float64), y.astype(np.float64), *options)
        kinds = ("scalar",) * (len(options) + 1)  # the options and the factor of the gradient
        text = elements._source(loss.terms, (None, None), kinds, 1, False, True, "float32", (False, False))
        module = load_module(text)
        value, slope = (np.empty_like(x) for _ in range(2))
        options = map(np.float32, (*options, 1.0))
        # the function as Python: machine code from the cache would leave nothing to look at
        module.kernel.py_func(0, 1, x.size, 1, x, y, *options, slope, value, np.empty(1), np.empty(1))
        # subnormal results keep fewer digits
        np.testing.assert_allclose(value, expected[0].astype(np.float32), rtol=rtol, atol=1e-44)
        np.testing.assert_allclose(slope, expected[1].astype(np.float32), rtol=rtol, atol=1e-44)
        (code,) = module.strip_of.inspect_llvm().values()
        assert len(re.findall(r"^vector\.body\w*:", code, re.MULTILINE)) == loops
        assert re.search(r"store <\d+ x float>", code)
        assert not re.search(r"x double>", code)  # the wrapper returns the sum as a Python float
