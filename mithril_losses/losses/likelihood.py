"""Negative log-likelihoods of distributions, whose parameters the model returns, and of normalizing flows.

Parameters are unbounded, as a model returns them: log-variances, logarithms of scales and rates, logits. `full=True`
adds the terms that do not depend on the parameters; these terms do not change the gradient.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Unpack

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import (
    FLAG,
    NON_NEGATIVE_REAL,
    PROBABILITY,
    REAL,
    Choice,
    Elements,
    Interval,
    SmallestNormal,
)
from mithril_losses.losses.classification import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_gradient,
)
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.sampling import Draw
from mithril_losses.numerics.stable import log_gamma, logistic_density, product
from mithril_losses.numerics.validation import as_dtype, widest_dtype
from mithril_losses.templates.composed import Composed
from mithril_losses.templates.elements import elementwise
from mithril_losses.templates.unreduced import Losses, Wanted, diagonal_curvature, unreduced

__all__ = [
    "bernoulli_negative_log_likelihood",
    "bernoulli_negative_log_likelihood_gradient",
    "flow_negative_log_likelihood",
    "flow_negative_log_likelihood_gradient",
    "flow_negative_log_likelihood_value_and_gradient",
    "gamma_negative_log_likelihood",
    "gamma_negative_log_likelihood_gradient",
    "gaussian_negative_log_likelihood",
    "gaussian_negative_log_likelihood_gradient",
    "inverse_gaussian_negative_log_likelihood",
    "inverse_gaussian_negative_log_likelihood_gradient",
    "laplace_negative_log_likelihood",
    "laplace_negative_log_likelihood_gradient",
    "poisson_negative_log_likelihood",
    "poisson_negative_log_likelihood_gradient",
    "tweedie_negative_log_likelihood",
    "tweedie_negative_log_likelihood_gradient",
]


@elementwise(mean=REAL, logvar=REAL, targets=REAL, full=FLAG, slopes=2, steep=True, written_out=True)
def _gaussian(xp: Any, mean: Array, logvar: Array, targets: Array, full: bool) -> tuple[Array, Any]:
    root = xp.exp(-0.5 * logvar)  # of the precision: squares of both factors would overflow sooner than their product
    score = product(xp, mean - targets, root)
    squared = score * score
    value = 0.5 * (squared + logvar)
    if full:
        value = value + 0.9189385332046727  # ½ log 2π
    return value, (product(xp, score, root), 0.5 * (1.0 - squared))


def _gaussian_information(xp: Any, mean: Array, logvar: Array, targets: Array, full: bool) -> tuple[Any, Any, Any]:
    return xp.exp(-logvar), 0.0, 0.5


@_gaussian.curvature(fisher=_gaussian_information)
def _gaussian_curvature(xp: Any, mean: Array, logvar: Array, targets: Array, full: bool) -> tuple[Any, Any, Any]:
    root = xp.exp(-0.5 * logvar)
    score = product(xp, mean - targets, root)
    return root * root, -product(xp, score, root), 0.5 * (score * score)


@_gaussian.likelihood
def _gaussian_targets(draw: Draw, mean: Array, logvar: Array, **others: Any) -> Array:
    return mean + draw.xp.exp(0.5 * logvar) * draw.normal(mean)


def gaussian_negative_log_likelihood(
    mean: ArrayT, logvar: ArrayT, targets: Array, *, full: bool = False, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of ½ ((x − μ)² e^(−ℓ) + ℓ), x = targets, μ = mean, ℓ = logvar; plus ½ log 2π if full.

    Args:
        mean: μ, any shape.
        logvar: ℓ = log σ², the same shape.
        targets: x, the same shape.
        full: whether to add the constant, so that the value is −log of the density.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `mean` for reduction="none"). Negative where the density is above 1.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, mean or logvar are not floating point, or full is not a bool.

    Example:
        ½ ((3 − 1)² / 4 + log 4) = ½ + log 2 = 1.193147…

        >>> import numpy as np
        >>> mean, logvar, targets = np.array([[1.0], [np.log(4.0)], [3.0]])
        >>> round(float(gaussian_negative_log_likelihood(mean, logvar, targets)), 6)
        1.193147

    Source:
        D. A. Nix and A. S. Weigend, Estimating the Mean and Variance of the Target Probability Distribution, 1994.
        https://doi.org/10.1109/ICNN.1994.374138
    """
    return _gaussian.value(mean, logvar, targets, full, **reduction)


@gradient_of(gaussian_negative_log_likelihood, terms=_gaussian)
def gaussian_negative_log_likelihood_gradient(
    mean: ArrayT, logvar: ArrayT, targets: Array, *, full: bool = False, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """(μ − x) e^(−ℓ) / n and ½ (1 − (x − μ)² e^(−ℓ)) / n.

    Example:
        (1 − 3) / 4 = −½ and ½ (1 − 4 / 4) = 0.

        >>> import numpy as np
        >>> mean, logvar, targets = np.array([[1.0], [np.log(4.0)], [3.0]])
        >>> gradients = gaussian_negative_log_likelihood_gradient(mean, logvar, targets)
        >>> {name: abs(gradient.round(12)).tolist() for name, gradient in gradients.items()}
        {'mean': [0.5], 'logvar': [0.0]}
    """
    return _gaussian.gradient(mean, logvar, targets, full, **reduction)


@elementwise(
    location=REAL,
    log_scale=REAL,
    targets=REAL,
    full=FLAG,
    slopes=2,
    steep=True,
    kinks=lambda location, log_scale, targets, full: (location - targets,),
)
def _laplace(xp: Any, location: Array, log_scale: Array, targets: Array, full: bool) -> tuple[Array, Any]:
    rate = xp.exp(-log_scale)
    error = location - targets
    scaled = product(xp, xp.abs(error), rate)
    value = scaled + log_scale
    if full:
        value = value + 0.6931471805599453  # log 2
    return value, (product(xp, xp.sign(error), rate), 1.0 - scaled)


def _laplace_information(
    xp: Any, location: Array, log_scale: Array, targets: Array, full: bool
) -> tuple[Any, Any, Any]:
    return xp.exp(-2.0 * log_scale), 0.0, 1.0


@_laplace.curvature(fisher=_laplace_information)
def _laplace_curvature(xp: Any, location: Array, log_scale: Array, targets: Array, full: bool) -> tuple[Any, Any, Any]:
    rate = xp.exp(-log_scale)
    error = location - targets
    return 0.0, -product(xp, xp.sign(error), rate), product(xp, xp.abs(error), rate)


@_laplace.likelihood
def _laplace_targets(draw: Draw, location: Array, log_scale: Array, **others: Any) -> Array:
    centred = draw.uniform(location) - 0.5
    return location - draw.xp.exp(log_scale) * draw.xp.sign(centred) * draw.xp.log1p(-2.0 * draw.xp.abs(centred))


def laplace_negative_log_likelihood(
    location: ArrayT, log_scale: ArrayT, targets: Array, *, full: bool = False, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of |x − μ| e^(−s) + s, x = targets, μ = location, s = log_scale; plus log 2 if full.

    Args:
        location: μ, any shape.
        log_scale: s, the logarithm of the scale, the same shape.
        targets: x, the same shape.
        full: whether to add the constant, so that the value is −log of the density.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `location` for reduction="none"). Negative where the density is above 1.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, location or log_scale are not floating point, or full is not a bool.

    Example:
        |3 − 1| / 2 + log 2 = 1.693147…

        >>> import numpy as np
        >>> location, log_scale, targets = np.array([[1.0], [np.log(2.0)], [3.0]])
        >>> round(float(laplace_negative_log_likelihood(location, log_scale, targets)), 6)
        1.693147

    Source:
        P.-S. Laplace, Mémoire sur la probabilité des causes par les évènements, 1774.
    """
    return _laplace.value(location, log_scale, targets, full, **reduction)


@gradient_of(laplace_negative_log_likelihood, terms=_laplace)
def laplace_negative_log_likelihood_gradient(
    location: ArrayT, log_scale: ArrayT, targets: Array, *, full: bool = False, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """sign(μ − x) e^(−s) / n, with sign(0) = 0, and (1 − |x − μ| e^(−s)) / n.

    Example:
        >>> import numpy as np
        >>> location, log_scale, targets = np.array([[1.0], [np.log(2.0)], [5.0]])
        >>> gradients = laplace_negative_log_likelihood_gradient(location, log_scale, targets)
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'location': [-0.5], 'log_scale': [-1.0]}
    """
    return _laplace.gradient(location, log_scale, targets, full, **reduction)


_COUNTS = NON_NEGATIVE_REAL.suggesting("for any real numbers there are gaussian_negative_log_likelihood and mse_loss")


@elementwise(
    predictions=REAL,
    targets=_COUNTS,
    log_input=FLAG,
    full=FLAG,
    smallest=SmallestNormal(),
    steep=True,
    written_out=True,
)
def _poisson(
    xp: Any, predictions: Array, targets: Array, log_input: bool, full: bool, smallest: float
) -> tuple[Array, Array]:
    if log_input:
        rate = xp.exp(predictions)
        # where the rate overflows (in any case beyond 1000) its infinity is the loss: nothing is subtracted
        value, slope = rate - product(xp, targets, xp.minimum(predictions, 1000.0)), rate - targets
    else:
        value = predictions - product(xp, targets, xp.log(predictions))
        slope = 1.0 - targets / xp.maximum(predictions, smallest)
    if full:
        value = value + log_gamma(xp, targets + 1.0)
        value = xp.where(value < 0.0, 0.0, value)  # negative only because of rounding
    return value, slope


_poisson.narrow(
    "log_input", False, predictions=NON_NEGATIVE_REAL.suggesting("for the logarithms of rates, leave log_input=True")
)


def _poisson_information(
    xp: Any, predictions: Array, targets: Array, log_input: bool, full: bool, smallest: float
) -> Array:
    if log_input:
        return xp.exp(predictions)
    return 1.0 / xp.maximum(predictions, smallest)


@_poisson.curvature(fisher=_poisson_information)
def _poisson_curvature(
    xp: Any, predictions: Array, targets: Array, log_input: bool, full: bool, smallest: float
) -> Array:
    if log_input:
        return xp.exp(predictions)
    rate = xp.maximum(predictions, smallest)
    return targets / rate / rate


@_poisson.likelihood
def _poisson_targets(draw: Draw, predictions: Array, log_input: bool = True, **others: Any) -> Array:
    return draw.poisson(draw.xp.exp(predictions) if log_input else predictions)


def poisson_negative_log_likelihood(
    predictions: ArrayT,
    targets: Array,
    *,
    log_input: bool = True,
    full: bool = False,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of λ − x log λ, x = targets, log λ = predictions; plus log x! if full.

    Args:
        predictions: log λ, or λ itself if `log_input` is False, any shape.
        targets: counts x ≥ 0, the same shape.
        log_input: whether the predictions are log λ (any number) or λ (≥ 0).
        full: whether to add log x! = log Γ(x + 1), so that the value is −log of the probability, never negative.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `predictions` for reduction="none"). A rate of 0 costs nothing for x = 0, and
        infinitely much for any other x.

    Raises:
        ValueError: the shapes differ, a rate is negative, or a reduction keyword does not fit.
        TypeError: an argument is not an array, predictions are not floating point, or a flag is not a bool.

    Example:
        2 − 3 log 2 = −0.079441…, and with log 3! = 1.791759…: 1.712318.

        >>> import numpy as np
        >>> rate, count = np.array([2.0]), np.array([3.0])
        >>> round(float(poisson_negative_log_likelihood(np.log(rate), count)), 6)
        -0.079442
        >>> round(float(poisson_negative_log_likelihood(rate, count, log_input=False, full=True)), 6)
        1.712318

    Source:
        P. McCullagh and J. A. Nelder, Generalized Linear Models, 1989, chapter 6.
    """
    return _poisson.value(predictions, targets, log_input, full, **reduction)


@gradient_of(poisson_negative_log_likelihood, terms=_poisson, properties=("convex",))
def poisson_negative_log_likelihood_gradient(
    predictions: ArrayT,
    targets: Array,
    *,
    log_input: bool = True,
    full: bool = False,
    **reduction: Unpack[GradientReduction],
) -> ArrayT:
    """(λ − x) / n wrt log λ; (1 − x / λ) / n wrt λ.

    Example:
        >>> import numpy as np
        >>> poisson_negative_log_likelihood_gradient(np.array([0.0]), np.array([3.0])).tolist()
        [-2.0]
        >>> poisson_negative_log_likelihood_gradient(np.array([2.0]), np.array([3.0]), log_input=False).tolist()
        [-0.5]
    """
    return _poisson.gradient(predictions, targets, log_input, full, **reduction)


# --- positive numbers, by the logarithm of their mean -----------------------------------------------------------------


@elementwise(log_mean=REAL, targets=NON_NEGATIVE_REAL, written_out=True)
def _gamma(xp: Any, log_mean: Array, targets: Array) -> tuple[Array, Array]:
    ratio = product(xp, targets, xp.exp(-log_mean))
    # where the ratio overflows (in any case below −1000) its infinity is the loss: nothing is added
    value = ratio + xp.where(ratio > 0.0, xp.maximum(log_mean, -1000.0), log_mean)
    return value, 1.0 - ratio


@_gamma.curvature(fisher=1.0)
def _gamma_curvature(xp: Any, log_mean: Array, targets: Array) -> Array:
    return product(xp, targets, xp.exp(-log_mean))


@_gamma.likelihood
def _exponential_targets(draw: Draw, log_mean: Array, **others: Any) -> Array:
    return -draw.xp.exp(log_mean) * draw.xp.log1p(-draw.uniform(log_mean))


def gamma_negative_log_likelihood(log_mean: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of log μ + x/μ, x = targets, log μ = log_mean.

    Up to a constant, this is −log of the density of a gamma distribution of mean μ, divided by its shape, and half of
    its deviance. For the shape 1 (an exponential distribution) it is −log of the density itself. To give a shape, or
    one for each element, use `weights`.

    Args:
        log_mean: log μ, any shape.
        targets: x > 0, the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `log_mean` for reduction="none"). It may be negative, and is least at μ = x.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or log_mean is not floating point.

    Example:
        log 2 + 3/2 = 2.193147…

        >>> import numpy as np
        >>> round(float(gamma_negative_log_likelihood(np.log(np.array([2.0])), np.array([3.0]))), 6)
        2.193147

    Source:
        P. McCullagh and J. A. Nelder, Generalized Linear Models, 1989, chapter 8.
    """
    return _gamma.value(log_mean, targets, **reduction)


@gradient_of(gamma_negative_log_likelihood, terms=_gamma, properties=("convex",))
def gamma_negative_log_likelihood_gradient(
    log_mean: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(1 − x/μ) / n.

    Example:
        >>> import numpy as np
        >>> gamma_negative_log_likelihood_gradient(np.log(np.array([2.0])), np.array([3.0])).round(12).tolist()
        [-0.5]
    """
    return _gamma.gradient(log_mean, targets, **reduction)


@elementwise(log_mean=REAL, targets=NON_NEGATIVE_REAL, steep=True, written_out=True)
def _inverse_gaussian(xp: Any, log_mean: Array, targets: Array) -> tuple[Array, Array]:
    rate = xp.exp(-log_mean)
    ratio = product(xp, targets, rate)
    return rate * (0.5 * ratio - 1.0), rate * (1.0 - ratio)


def _inverse_gaussian_information(xp: Any, log_mean: Array, targets: Array) -> Array:
    return xp.exp(-log_mean)


@_inverse_gaussian.curvature(fisher=_inverse_gaussian_information)
def _inverse_gaussian_curvature(xp: Any, log_mean: Array, targets: Array) -> Array:
    rate = xp.exp(-log_mean)
    return rate * (2.0 * product(xp, targets, rate) - 1.0)


@_inverse_gaussian.likelihood
def _inverse_gaussian_targets(draw: Draw, log_mean: Array, **others: Any) -> Array:
    """Return a root of the equation of J. R. Michael, W. R. Schucany and R. W. Haas, 1976, for the shape 1."""
    mean = draw.xp.exp(log_mean)
    half = 0.5 * mean * draw.normal(log_mean) ** 2
    root = 1.0 / (1.0 + half + draw.xp.sqrt(half * (2.0 + half)))  # the product of both is 1: nothing cancels
    is_smaller = draw.uniform(log_mean) * (1.0 + root) < 1.0
    return mean * draw.xp.where(is_smaller, root, 1.0 / root)


def inverse_gaussian_negative_log_likelihood(
    log_mean: ArrayT, targets: Array, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of x/(2μ²) − 1/μ, x = targets, log μ = log_mean.

    Up to a constant, this is −log of the density of an inverse Gaussian distribution of mean μ, divided by its shape,
    and half of its deviance. To give a shape λ, or one for each element, use `weights`.

    Args:
        log_mean: log μ, any shape.
        targets: x > 0, the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `log_mean` for reduction="none"). It may be negative, and is least at μ = x.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or log_mean is not floating point.

    Example:
        3/8 − 1/2 = −⅛.

        >>> import numpy as np
        >>> round(float(inverse_gaussian_negative_log_likelihood(np.log(np.array([2.0])), np.array([3.0]))), 12)
        -0.125

    Source:
        M. C. K. Tweedie, Statistical Properties of Inverse Gaussian Distributions, 1957.
        https://doi.org/10.1214/aoms/1177706964
    """
    return _inverse_gaussian.value(log_mean, targets, **reduction)


@gradient_of(inverse_gaussian_negative_log_likelihood, terms=_inverse_gaussian)
def inverse_gaussian_negative_log_likelihood_gradient(
    log_mean: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(1/μ − x/μ²) / n.

    Example:
        1/2 − 3/4.

        >>> import numpy as np
        >>> log_mean, targets = np.log(np.array([2.0])), np.array([3.0])
        >>> inverse_gaussian_negative_log_likelihood_gradient(log_mean, targets).round(12).tolist()
        [-0.25]
    """
    return _inverse_gaussian.gradient(log_mean, targets, **reduction)


@elementwise(log_mean=REAL, targets=NON_NEGATIVE_REAL, power=Interval(1.0, 2.0))
def _tweedie(xp: Any, log_mean: Array, targets: Array, power: float) -> tuple[Array, Array]:
    below = product(xp, targets, xp.exp((1.0 - power) * log_mean))
    above = xp.exp((2.0 - power) * log_mean)
    return below / (power - 1.0) + above / (2.0 - power), above - below


def _tweedie_information(xp: Any, log_mean: Array, targets: Array, power: float) -> Array:
    return xp.exp((2.0 - power) * log_mean)


@_tweedie.curvature(fisher=_tweedie_information)
def _tweedie_curvature(xp: Any, log_mean: Array, targets: Array, power: float) -> Array:
    below = product(xp, targets, xp.exp((1.0 - power) * log_mean))
    return (power - 1.0) * below + (2.0 - power) * xp.exp((2.0 - power) * log_mean)


@_tweedie.likelihood
def _tweedie_targets(draw: Draw, log_mean: Array, power: float = 1.5, **others: Any) -> Array:
    """Return the sums of a Poisson number of gamma variables."""
    xp = draw.xp
    count = draw.poisson(xp.exp((2.0 - power) * log_mean) / (2.0 - power))
    scale = (power - 1.0) * xp.exp((power - 1.0) * log_mean)
    total = draw.gamma(xp.maximum(count, 1.0) * ((2.0 - power) / (power - 1.0)))
    return xp.where(count > 0.0, scale * total, 0.0)


def tweedie_negative_log_likelihood(
    log_mean: ArrayT, targets: Array, *, power: float = 1.5, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of x μ^(1 − p)/(p − 1) + μ^(2 − p)/(2 − p), x = targets, log μ = log_mean, p = power.

    Up to a constant, this is −log of the density of a Tweedie distribution of mean μ and variance μ^p, and half of its
    deviance. A number of this distribution is the sum of a Poisson number of gamma variables, and may be exactly 0. For
    a variance φ μ^p give the weights 1/φ.

    Args:
        log_mean: log μ, any shape.
        targets: x ≥ 0, the same shape.
        power: p in (1, 2): near 1 the distribution is like a Poisson distribution, near 2 like a gamma distribution.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `log_mean` for reduction="none"), least at μ = x.

    Raises:
        ValueError: the shapes differ, power lies outside (1, 2), or a reduction keyword does not fit.
        TypeError: an argument is not an array, or log_mean is not floating point.

    Example:
        μ = 4, x = 3 and p = 3/2: 3 · ½ · 2 + 2 · 2 = 7.

        >>> import numpy as np
        >>> round(float(tweedie_negative_log_likelihood(np.log(np.array([4.0])), np.array([3.0]))), 12)
        7.0

    Source:
        B. Jørgensen, Exponential Dispersion Models, 1987. https://doi.org/10.1111/j.2517-6161.1987.tb01685.x
    """
    return _tweedie.value(log_mean, targets, power, **reduction)


@gradient_of(tweedie_negative_log_likelihood, terms=_tweedie, properties=("convex", "non_negative"))
def tweedie_negative_log_likelihood_gradient(
    log_mean: ArrayT, targets: Array, *, power: float = 1.5, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(μ^(2 − p) − x μ^(1 − p)) / n.

    Example:
        2 − 3 · ½ = ½.

        >>> import numpy as np
        >>> tweedie_negative_log_likelihood_gradient(np.log(np.array([4.0])), np.array([3.0])).round(12).tolist()
        [0.5]
    """
    return _tweedie.gradient(log_mean, targets, power, **reduction)


_BERNOULLI = Composed(lambda fast: fast(binary_cross_entropy_with_logits), curved=True)


@_BERNOULLI.likelihood
def _bernoulli_targets(draw: Draw, logits: Array, **others: Any) -> Array:
    return draw.bernoulli(1.0 / (1.0 + draw.xp.exp(-logits)))


def bernoulli_negative_log_likelihood(logits: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of softplus(z) − x z, x = targets, z = logits: binary cross-entropy with logits by another name.

    An infinite logit that agrees with its target contributes exactly 0.

    Args:
        logits: z = log(p / (1 − p)), any shape.
        targets: x, 0 or 1, or a probability in between, the same shape.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `logits` for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or logits are not floating point.

    Example:
        p = ¾: −log ¾ = 0.287682…

        >>> import numpy as np
        >>> round(float(bernoulli_negative_log_likelihood(np.log(np.array([3.0])), np.array([1.0]))), 6)
        0.287682

    Source:
        D. R. Cox, The Regression Analysis of Binary Sequences, 1958.
        https://doi.org/10.1111/j.2517-6161.1958.tb00292.x
    """
    _BERNOULLI.require_known(reduction, gradient=False)
    return binary_cross_entropy_with_logits(logits, targets, **reduction)


@gradient_of(
    bernoulli_negative_log_likelihood,
    domain={"logits": REAL, "targets": PROBABILITY},
    terms=_BERNOULLI,
    properties=("convex", "non_negative"),
)
def bernoulli_negative_log_likelihood_gradient(
    logits: ArrayT, targets: Array, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """(σ(z) − x) / n.

    Example:
        >>> import numpy as np
        >>> bernoulli_negative_log_likelihood_gradient(np.array([0.0, 0.0]), np.array([1.0, 0.0])).tolist()
        [-0.25, 0.25]
    """
    _BERNOULLI.require_known(reduction)
    return binary_cross_entropy_with_logits_gradient(logits, targets, **reduction)


# --- normalizing flows ------------------------------------------------------------------------------------------------

PriorName = Literal["normal", "logistic"]
_PRIOR = Choice(("normal", "logistic"))


@unreduced(curved=True, wrt=("z", "log_det"), z=REAL, log_det=Elements(per_sample=()), prior=_PRIOR)
def _flow(z: Array, log_det: Array, prior: str, wanted: Wanted) -> Losses:
    xp = array_namespace(z=z, log_det=log_det)
    dtype = widest_dtype(xp, z=z, log_det=log_det)
    if tuple(z.shape)[: len(log_det.shape)] != tuple(log_det.shape):
        raise ValueError(
            f"log_det must hold one number for each sample of z, got shapes {tuple(log_det.shape)} and {tuple(z.shape)}"
        )
    z, log_det = as_dtype(xp, z, dtype), as_dtype(xp, log_det, dtype)
    samples = xp.reshape(z, (*log_det.shape, math.prod(z.shape[len(log_det.shape) :])))
    if prior == "normal":
        values = 0.5 * xp.vecdot(samples, samples) + 0.5 * math.log(2.0 * math.pi) * samples.shape[-1]
    else:
        magnitude = xp.abs(samples)
        values = xp.sum(magnitude + 2.0 * xp.log1p(xp.exp(-magnitude)), axis=-1)

    def diagonal() -> dict[str, Array]:
        of_z = xp.ones_like(z) if prior == "normal" else 2.0 * logistic_density(xp, z)
        return {"z": of_z, "log_det": xp.zeros_like(values)}

    return Losses(
        values - log_det,
        lambda: {"z": z if prior == "normal" else xp.tanh(0.5 * z), "log_det": -xp.ones_like(values)},
        curvature=lambda: diagonal_curvature(xp, diagonal),
    )


def flow_negative_log_likelihood(
    z: ArrayT, log_det: ArrayT, prior: PriorName = "normal", **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean over samples of −Σ log p(z) − log |det ∂z/∂x|, p standard normal or standard logistic.

    Args:
        z: the output of the flow for the data, first axes = samples.
        log_det: log |det ∂z/∂x| of each sample, the shape of the samples.
        prior: the density of each dimension of z: "normal", ½ z² + ½ log 2π, or "logistic", z + 2 softplus(−z).
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar (one loss per sample for reduction="none"), in nats per sample.

    Raises:
        ValueError: the shapes do not fit, the prior is unknown, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        ½ · 2² + log 2π − 1 = 2.837877…

        >>> import numpy as np
        >>> round(float(flow_negative_log_likelihood(np.array([[2.0, 0.0]]), np.array([1.0]))), 6)
        2.837877

    Source:
        L. Dinh et al., NICE: Non-linear Independent Components Estimation, 2014. https://arxiv.org/abs/1410.8516
        D. J. Rezende and S. Mohamed, Variational Inference with Normalizing Flows, 2015.
        https://arxiv.org/abs/1505.05770
    """
    return _flow.value(z, log_det, prior, **reduction)


@gradient_of(
    flow_negative_log_likelihood, terms=_flow, properties=("convex", given("constant_curvature", prior="normal"))
)
def flow_negative_log_likelihood_gradient(
    z: ArrayT, log_det: ArrayT, prior: PriorName = "normal", **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """z / B (normal) or tanh(½ z) / B (logistic), and −1 / B.

    Example:
        >>> import numpy as np
        >>> gradients = flow_negative_log_likelihood_gradient(np.array([[2.0, 0.0], [1.0, 3.0]]), np.array([1.0, 0.0]))
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'z': [[1.0, 0.0], [0.5, 1.5]], 'log_det': [-0.5, -0.5]}
    """
    return _flow.gradient(z, log_det, prior, **reduction)


flow_negative_log_likelihood_value_and_gradient = both_of(flow_negative_log_likelihood_gradient)
