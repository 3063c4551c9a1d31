"""What no law says about likelihoods: the densities of SciPy and PyTorch, the best parameters, and the ends."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from modes import MODES, TRACED, evaluate, evaluate_pair
from sklearn.metrics import mean_tweedie_deviance

from mithril_losses import (
    bernoulli_negative_log_likelihood,
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_gradient,
    find_loss,
    flow_negative_log_likelihood,
    flow_negative_log_likelihood_gradient,
    gamma_negative_log_likelihood,
    gaussian_negative_log_likelihood,
    gaussian_negative_log_likelihood_gradient,
    hessian_diagonal,
    inverse_gaussian_negative_log_likelihood,
    laplace_negative_log_likelihood,
    laplace_negative_log_likelihood_gradient,
    limits,
    poisson_negative_log_likelihood,
    poisson_negative_log_likelihood_gradient,
    tweedie_negative_log_likelihood,
    value_and_gradient,
)

GENERATOR = np.random.default_rng(5)
A, B, X = GENERATOR.standard_normal((3, 7, 4))
COUNTS = GENERATOR.integers(0, 40, (7, 4)).astype(float)
INF = math.inf


# --- densities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "arguments", "expected"),
    [
        (gaussian_negative_log_likelihood, (A, B, X), -scipy.stats.norm(A, np.exp(B / 2)).logpdf(X)),
        (laplace_negative_log_likelihood, (A, B, X), -scipy.stats.laplace(A, np.exp(B)).logpdf(X)),
        (poisson_negative_log_likelihood, (A, COUNTS), -scipy.stats.poisson(np.exp(A)).logpmf(COUNTS)),
    ],
)
def test_scipy(loss: Any, arguments: Any, expected: np.ndarray) -> None:
    for mode in MODES:
        found = evaluate(mode, loss, *arguments, full=True, reduction="none")
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


SIZES = GENERATOR.gamma(2.0, size=(7, 4))


@pytest.mark.parametrize(
    ("loss", "density", "options"),
    [
        (gamma_negative_log_likelihood, lambda mean: scipy.stats.gamma(3.0, scale=mean / 3.0).logpdf(SIZES) / 3.0, {}),
        (
            inverse_gaussian_negative_log_likelihood,
            lambda mean: scipy.stats.invgauss(mean / 3.0, scale=3.0).logpdf(SIZES) / 3.0,
            {},
        ),
        (tweedie_negative_log_likelihood, lambda mean: -0.5 * _deviances(mean, power=1.7), {"power": 1.7}),
    ],
)
def test_differ_from_densities_by_what_does_not_depend_on_the_mean(loss: Any, density: Any, options: Any) -> None:
    for mode in MODES:
        one, other = (evaluate(mode, loss, log_mean, SIZES, reduction="none", **options) for log_mean in (A, B))
        np.testing.assert_allclose(one - other, density(np.exp(B)) - density(np.exp(A)), rtol=1e-10, atol=1e-12)


def _deviances(mean: np.ndarray, power: float) -> np.ndarray:
    pairs = zip(SIZES.ravel(), mean.ravel(), strict=True)
    return np.reshape([mean_tweedie_deviance([x], [m], power=power) for x, m in pairs], SIZES.shape)


@pytest.mark.parametrize("mode", MODES)
def test_a_size_of_0_and_a_mean_of_0(mode: str) -> None:
    log_mean, sizes = np.array([-INF, 0.0, -INF, 1e3]), np.array([0.0, 0.0, 2.0, 2.0])
    value, slope = evaluate_pair(mode, gamma_negative_log_likelihood, log_mean, sizes, reduction="none")
    np.testing.assert_array_equal(value, [-INF, 0.0, INF, 1e3])
    np.testing.assert_array_equal(slope, [1.0, 1.0, -INF, 1.0])
    value, slope = evaluate_pair(mode, tweedie_negative_log_likelihood, log_mean[:3], sizes[:3], reduction="none")
    np.testing.assert_array_equal(value, [0.0, 2.0, INF])
    np.testing.assert_array_equal(slope, [0.0, 1.0, -INF])
    value = evaluate(mode, inverse_gaussian_negative_log_likelihood, log_mean, sizes, reduction="none")
    np.testing.assert_array_equal(value, [-INF, -1.0, INF, 0.0])


@pytest.mark.parametrize(
    ("loss", "parameters", "distribution", "targets", "full"),
    [
        (
            gaussian_negative_log_likelihood,
            {"mean": A, "logvar": B},
            lambda mean, logvar: torch.distributions.Normal(mean, torch.exp(0.5 * logvar)),
            X,
            {"full": True},
        ),
        (
            laplace_negative_log_likelihood,
            {"location": A, "log_scale": B},
            lambda location, log_scale: torch.distributions.Laplace(location, torch.exp(log_scale)),
            X,
            {"full": True},
        ),
        (
            poisson_negative_log_likelihood,
            {"predictions": A},
            lambda z: torch.distributions.Poisson(torch.exp(z)),
            COUNTS,
            {"full": True},
        ),
        (
            poisson_negative_log_likelihood,
            {"predictions": np.exp(A)},
            lambda rate: torch.distributions.Poisson(rate),
            COUNTS,
            {"full": True, "log_input": False},
        ),
        (
            bernoulli_negative_log_likelihood,
            {"logits": A},
            lambda z: torch.distributions.Bernoulli(logits=z),
            (X > 0).astype(float),
            {},
        ),
    ],
)
def test_torch_distributions(loss: Any, parameters: Any, distribution: Any, targets: Any, full: Any) -> None:
    leaves = [torch.tensor(x, requires_grad=True) for x in parameters.values()]
    expected = -distribution(*leaves).log_prob(torch.tensor(targets)).mean()
    slopes = torch.autograd.grad(expected, leaves)
    value, gradient = value_and_gradient(loss)(*(x.detach() for x in leaves), torch.tensor(targets), **full)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0.0)
    gradients = gradient if isinstance(gradient, dict) else {next(iter(parameters)): gradient}
    for name, slope in zip(parameters, slopes, strict=True):
        torch.testing.assert_close(gradients[name], slope, rtol=1e-11, atol=1e-14)


def test_torchs_functions_without_constants() -> None:
    mean, logvar, targets, counts = (torch.tensor(x) for x in (A, B, X, COUNTS))
    expected = torch.nn.functional.gaussian_nll_loss(mean, targets, torch.exp(logvar), eps=0.0)
    torch.testing.assert_close(gaussian_negative_log_likelihood(mean, logvar, targets), expected, rtol=1e-13, atol=0.0)
    expected = torch.nn.functional.poisson_nll_loss(mean, counts)
    torch.testing.assert_close(poisson_negative_log_likelihood(mean, counts), expected, rtol=1e-13, atol=0.0)
    rate = torch.exp(mean)
    expected = torch.nn.functional.poisson_nll_loss(rate, counts, log_input=False, eps=0.0)
    found = poisson_negative_log_likelihood(rate, counts, log_input=False)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0.0)


def test_bernoulli_is_binary_cross_entropy() -> None:
    targets = GENERATOR.uniform(0.0, 1.0, A.shape)
    value, gradient = value_and_gradient(bernoulli_negative_log_likelihood)(A, targets)
    assert value == binary_cross_entropy_with_logits(A, targets)
    np.testing.assert_array_equal(gradient, binary_cross_entropy_with_logits_gradient(A, targets))


@pytest.mark.parametrize("compile", [None, False])
def test_large_arrays_with_and_without_constants(compile: bool | None) -> None:
    # each flag is a loop of its own
    arrays = [np.tile(x, (2000, 1)).astype(np.float32) for x in (A, B, X, COUNTS)]
    for loss, arguments in (
        (gaussian_negative_log_likelihood, arrays[:3]),
        (laplace_negative_log_likelihood, arrays[:3]),
        (poisson_negative_log_likelihood, [arrays[0], arrays[3]]),
    ):
        values = []
        for full in (False, True):
            value, gradient = value_and_gradient(loss, compile=compile)(*arguments, full=full)
            exact = [x.astype(np.float64) for x in arguments]
            np.testing.assert_allclose(value, loss(*exact, full=full), rtol=1e-6)
            expected = find_loss(loss).gradient(*exact, full=full)
            for name, slope in gradient.items() if isinstance(gradient, dict) else [("", gradient)]:
                np.testing.assert_allclose(slope, expected[name] if name else expected, rtol=2e-4, atol=1e-9)
            values.append(float(value))
        assert values[0] != values[1]


# --- where the gradient vanishes ----------------------------------------------------------------------------------


def test_the_gradient_vanishes_at_the_best_parameters() -> None:
    x = GENERATOR.standard_normal(101)
    ones = np.ones(101)
    gradients = gaussian_negative_log_likelihood_gradient(x.mean() * ones, math.log(x.var()) * ones, x)
    assert abs(gradients["mean"].sum()) < 1e-15
    assert abs(gradients["logvar"].sum()) < 1e-15
    scale = np.abs(x - np.median(x)).mean()
    gradients = laplace_negative_log_likelihood_gradient(np.median(x) * ones, math.log(scale) * ones, x)
    assert abs(gradients["location"].sum()) < 1e-15
    assert abs(gradients["log_scale"].sum()) < 1e-14
    counts = COUNTS.reshape(-1)
    gradient = poisson_negative_log_likelihood_gradient(np.full(counts.shape, math.log(counts.mean())), counts)
    assert abs(gradient.sum()) < 1e-13


# --- kinks and ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [*MODES, *TRACED[1:]])
def test_a_perfect_fit_of_zero_width(mode: str) -> None:
    one, narrow = np.ones(3), np.array([-1e3, -2e3, 0.0])
    value, gradient = evaluate_pair(mode, gaussian_negative_log_likelihood, one, narrow, one, reduction="none")
    np.testing.assert_array_equal(value, narrow / 2)
    np.testing.assert_array_equal(gradient["mean"], np.zeros(3))
    np.testing.assert_array_equal(gradient["logvar"], np.full(3, 0.5))
    value, gradient = evaluate_pair(mode, laplace_negative_log_likelihood, one, narrow, one, reduction="none")
    np.testing.assert_array_equal(value, narrow)
    np.testing.assert_array_equal(gradient["location"], np.zeros(3))
    np.testing.assert_array_equal(gradient["log_scale"], np.ones(3))


@pytest.mark.parametrize("mode", [*MODES, *TRACED[1:]])
@pytest.mark.parametrize(
    ("loss", "arrays", "options", "name", "expected"),
    [
        # ½ (10⁻³ e⁵⁰)² = 1.3e37 is a number of float32, and 10⁻³ e¹⁰⁰ = 2.7e40 is none
        (gaussian_negative_log_likelihood, ([1e-3, -1e-3], [-100.0] * 2, [0.0] * 2), {}, "mean", [1.0, -1.0]),
        # 10⁻⁶ e⁸⁸ · 2 = 3.3e32, and 2 e⁸⁸ = 3.3e38 times the weight
        (laplace_negative_log_likelihood, ([1e-6, -1e-6], [-88.0] * 2, [0.0] * 2), {}, "location", [1.0, -1.0]),
        # 10⁻³⁷ − 5000 log 10⁻³⁷, and 5000 / 10⁻³⁷
        (poisson_negative_log_likelihood, ([1e-37, 1e-37], [5e3, 5e3]), {"log_input": False}, "", [-1.0, -1.0]),
    ],
)
def test_slopes_beyond_the_range_are_the_largest_number(
    mode: str, loss: Any, arrays: Any, options: Any, name: str, expected: Any
) -> None:
    options = {"reduction": "none", "weights": np.full(2, 3.0), **options}
    value, gradient = evaluate_pair(mode, loss, *map(np.array, arrays), dtype="float32", **options)
    assert np.isfinite(value).all()
    slopes = gradient[name] if name else gradient
    largest = float(np.finfo(np.float32).max)
    np.testing.assert_array_equal(slopes, largest * np.array(expected))
    # nothing flows in, nothing comes out
    found = evaluate(mode, find_loss(loss).gradient, *map(np.array, arrays), dtype="float32", **options, upstream=0.0)
    np.testing.assert_array_equal(found[name] if name else found, [0.0, 0.0])


@pytest.mark.parametrize("compile", [None, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_arrays_of_slopes_beyond_the_range(compile: bool | None, dtype: str) -> None:
    logvar = {"float32": -100.0, "float16": -18.0}[dtype]
    mean, logvar, targets = (np.full(50_000, x, dtype) for x in (1e-3, logvar, 0.0))
    both = value_and_gradient(gaussian_negative_log_likelihood, compile=compile)
    for weights in (None, np.full(50_000, 3.0, dtype)):
        value, gradients = both(mean, logvar, targets, reduction="none", weights=weights)
        plain = gaussian_negative_log_likelihood_gradient(mean, logvar, targets, reduction="none", weights=weights)
        assert np.isfinite(value).all()
        assert gradients["mean"].dtype == dtype
        np.testing.assert_array_equal(gradients["mean"], np.finfo(dtype).max)
        for name, slope in plain.items():
            np.testing.assert_allclose(gradients[name], slope, rtol=2e-3 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ends_of_poissons_rate(mode: str, dtype: str) -> None:
    # a rate of 0 is right for 0 and infinitely wrong for 1
    for log_input, zero, infinite in ((True, -INF, INF), (False, 0.0, INF)):
        predictions, counts = np.array([zero, zero, infinite]), np.array([0.0, 1.0, 1.0])
        value, gradient = evaluate_pair(
            mode,
            poisson_negative_log_likelihood,
            predictions[:2] if not log_input else predictions,
            counts[:2] if not log_input else counts,
            dtype=dtype,
            log_input=log_input,
            full=True,
            reduction="none",
        )
        # JAX's log Γ(1) is 5e-7 in float32
        np.testing.assert_allclose(value, [0.0, INF, INF][: len(value)], atol=1e-6 if dtype == "float32" else 0.0)
        np.testing.assert_array_equal(gradient[0], 0.0 if log_input else 1.0)
        assert gradient[1] < 0.0


@pytest.mark.parametrize("mode", MODES)
def test_probabilities_are_never_above_one(mode: str) -> None:
    counts = np.arange(200.0)
    value = evaluate(
        mode, poisson_negative_log_likelihood, counts, counts, log_input=False, full=True, reduction="none"
    )
    # Stirling: ½ log 2πx and a little more
    np.testing.assert_allclose(value[20:], 0.5 * np.log(2 * np.pi * counts[20:]), rtol=2e-3)
    assert value[0] == 0.0
    assert (value[1:] > 0.0).all()
    for counts in 10.0 ** np.arange(6.0, 12.0), 3.0 ** np.arange(12.0, 24.0):
        for log_input in (False, True):
            keywords = {"log_input": log_input, "full": True, "reduction": "none", "dtype": "float32"}
            rates = np.log(counts) if log_input else counts
            assert (evaluate(mode, poisson_negative_log_likelihood, rates, counts, **keywords) >= 0.0).all()


@pytest.mark.parametrize("mode", MODES)
def test_infinite_logits(mode: str) -> None:
    logits, targets = np.array([INF, -INF, INF, -INF]), np.array([1.0, 0.0, 0.0, 1.0])
    value, gradient = evaluate_pair(mode, bernoulli_negative_log_likelihood, logits, targets, reduction="none")
    np.testing.assert_array_equal(value, [0.0, 0.0, INF, INF])
    np.testing.assert_array_equal(gradient, [0.0, 0.0, 1.0, -1.0])


def test_a_flag_is_a_bool() -> None:
    for function in (gaussian_negative_log_likelihood, gaussian_negative_log_likelihood_gradient):
        for flag in (1, 1.0, "yes", None):
            with pytest.raises(TypeError, match="full must be True or False, got"):
                function(A, B, X, full=flag)  # type: ignore[arg-type]


# --- flows --------------------------------------------------------------------------------------------------------


def test_densities_of_the_priors() -> None:
    z, log_det = GENERATOR.standard_normal((6, 3, 4)), GENERATOR.standard_normal(6)
    for prior, distribution in (("normal", scipy.stats.norm()), ("logistic", scipy.stats.logistic())):
        expected = -distribution.logpdf(z).sum((1, 2)) - log_det
        found = flow_negative_log_likelihood(z, log_det, prior, reduction="none")
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_an_affine_flow_has_the_likelihood_of_its_gaussian() -> None:
    # z = (x − μ) / σ, log |det| = −Σ log σ
    mean, scale = GENERATOR.standard_normal(4), GENERATOR.uniform(0.5, 2.0, 4)
    x = GENERATOR.standard_normal((6, 4))
    expected = -scipy.stats.norm(mean, scale).logpdf(x).sum(1).mean()
    found = flow_negative_log_likelihood((x - mean) / scale, np.full(6, -np.log(scale).sum()))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_a_flow(mode: str) -> None:
    z, log_det = GENERATOR.standard_normal((6, 3)), GENERATOR.standard_normal(6)
    _, gradients = evaluate_pair(mode, flow_negative_log_likelihood, z, log_det)
    np.testing.assert_allclose(gradients["z"], z / 6, rtol=1e-14)
    np.testing.assert_allclose(gradients["log_det"], np.full(6, -1 / 6), rtol=1e-15)
    _, gradients = evaluate_pair(mode, flow_negative_log_likelihood, z, log_det, prior="logistic", reduction="sum")
    np.testing.assert_allclose(gradients["z"], 2.0 / (1.0 + np.exp(-z)) - 1.0, rtol=1e-12)


def test_a_logistic_prior_is_finite_far_out() -> None:
    z = np.array([[1e4], [-1e4]])
    values = flow_negative_log_likelihood(z, np.zeros(2), "logistic", reduction="none")
    np.testing.assert_array_equal(values, [1e4, 1e4])
    gradients = flow_negative_log_likelihood_gradient(z, np.zeros(2), "logistic", reduction="sum")
    np.testing.assert_array_equal(gradients["z"], [[1.0], [-1.0]])


@pytest.mark.parametrize(
    ("z", "log_det", "options", "message"),
    [
        (A, A[:, :1], {}, "log_det must hold one number for each sample of z"),
        (A, A[:3, 0], {}, "log_det must hold one number for each sample of z"),
        (A, A[:, 0], {"prior": "gaussian"}, "prior must be one of 'normal', 'logistic', got 'gaussian'"),
    ],
)
def test_what_a_flow_refuses(z: Any, log_det: Any, options: Any, message: str) -> None:
    both = value_and_gradient(flow_negative_log_likelihood)
    for function in (flow_negative_log_likelihood, flow_negative_log_likelihood_gradient, both):
        with pytest.raises(ValueError, match=message):
            function(z, log_det, **options)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, torch.tensor], ids=["numpy", "jax", "torch"])
def test_a_negative_rate_is_refused_and_a_negative_logarithm_is_not(convert: Any) -> None:
    rates, counts = np.ones((5, 3)), np.ones((5, 3))
    rates[4, 1] = -2.0
    loss, gradient = poisson_negative_log_likelihood, poisson_negative_log_likelihood_gradient
    message = r"predictions must be ≥ 0, got -2 at index \(4, 1\); for the logarithms of rates, leave log_input=True"
    faces = loss, gradient, value_and_gradient(loss), value_and_gradient(loss, compile=False), hessian_diagonal(loss)
    for large in (1, 1 << 20):
        with limits.changed(large=large):
            for face in faces:
                with pytest.raises(ValueError, match=message):
                    face(convert(rates), convert(counts), log_input=False)
                face(convert(rates), convert(counts))


def test_a_negative_rate_in_a_trace_is_nan() -> None:
    rates, counts = jnp.asarray([1.0, -2.0]), jnp.asarray([1.0, 0.0])
    both = jax.jit(lambda *x: value_and_gradient(poisson_negative_log_likelihood)(*x, log_input=False))
    value, gradient = both(rates, counts)
    assert np.isnan(value)
    np.testing.assert_array_equal(np.isnan(gradient), [False, True])
