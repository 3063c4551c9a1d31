"""Adversarial losses: a discriminator tells real data from generated data, and a generator learns to mislead it.

The loss of a generator takes the scores of generated data. The loss of a discriminator takes two batches of scores, of
real and of generated data, which may differ in size and shape. Each batch is reduced by itself, the two results are
added, and the gradient is a dict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Unpack

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace
from mithril_losses.catalogue import Pair, both_of, find_loss, given, gradient_of
from mithril_losses.domains import (
    CLIP_WIDTH,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    REAL,
    Choice,
    Interval,
)
from mithril_losses.numerics.flattening import Flattening
from mithril_losses.numerics.reduction import GradientReduction, NoOthers, Reduction
from mithril_losses.numerics.stable import logistic_density, norm_and_unit
from mithril_losses.numerics.validation import as_dtype, compute_dtype, require_one_number, widest_dtype
from mithril_losses.templates.apart import Apart
from mithril_losses.templates.elements import elementwise
from mithril_losses.templates.unreduced import Curvature, Losses, Named, Wanted, diagonal_curvature, unreduced

__all__ = [
    "create_gan_loss_suite",
    "gradient_penalty",
    "gradient_penalty_gradient",
    "gradient_penalty_value_and_gradient",
    "hinge_discriminator_loss",
    "hinge_discriminator_loss_gradient",
    "hinge_generator_loss",
    "hinge_generator_loss_gradient",
    "least_squares_discriminator_loss",
    "least_squares_discriminator_loss_gradient",
    "least_squares_generator_loss",
    "least_squares_generator_loss_gradient",
    "non_saturating_discriminator_loss",
    "non_saturating_discriminator_loss_gradient",
    "non_saturating_generator_loss",
    "non_saturating_generator_loss_gradient",
    "relativistic_average_discriminator_loss",
    "relativistic_average_discriminator_loss_gradient",
    "relativistic_average_generator_loss",
    "relativistic_average_generator_loss_gradient",
    "relativistic_average_least_squares_discriminator_loss",
    "relativistic_average_least_squares_discriminator_loss_gradient",
    "relativistic_average_least_squares_generator_loss",
    "relativistic_average_least_squares_generator_loss_gradient",
    "vanilla_discriminator_loss",
    "vanilla_discriminator_loss_gradient",
    "vanilla_generator_loss",
    "vanilla_generator_loss_gradient",
    "wasserstein_discriminator_loss",
    "wasserstein_discriminator_loss_gradient",
    "wasserstein_generator_loss",
    "wasserstein_generator_loss_gradient",
]

_NUMBER = Interval()


# --- vanilla: probabilities ---------------------------------------------------------------------------------------


_OF_GENERATOR = PROBABILITY.suggesting("for logits there is non_saturating_generator_loss")
_OF_DISCRIMINATOR = PROBABILITY.suggesting("for logits there is non_saturating_discriminator_loss")


@elementwise(fake_scores=_OF_GENERATOR, epsilon=CLIP_WIDTH)
def _vanilla_generator(xp: Any, fake_scores: Array, epsilon: float) -> tuple[Array, Array]:
    p = xp.minimum(xp.maximum(fake_scores, epsilon), 1.0 - epsilon)
    return -xp.log(p), -1.0 / p


@_vanilla_generator.curvature
def _vanilla_generator_curvature(xp: Any, fake_scores: Array, epsilon: float) -> Array:
    p = xp.minimum(xp.maximum(fake_scores, epsilon), 1.0 - epsilon)
    return 1.0 / (p * p)


@elementwise(real_scores=_OF_DISCRIMINATOR, epsilon=CLIP_WIDTH, label_smoothing=FRACTION)
def _vanilla_real(xp: Any, real_scores: Array, epsilon: float, label_smoothing: float) -> tuple[Array, Array]:
    p = xp.minimum(xp.maximum(real_scores, epsilon), 1.0 - epsilon)
    value = (label_smoothing - 1.0) * xp.log(p) - label_smoothing * xp.log1p(-p)
    return value, (label_smoothing - 1.0) / p + label_smoothing / (1.0 - p)


@_vanilla_real.curvature
def _vanilla_real_curvature(xp: Any, real_scores: Array, epsilon: float, label_smoothing: float) -> Array:
    p = xp.minimum(xp.maximum(real_scores, epsilon), 1.0 - epsilon)
    q = 1.0 - p
    return (1.0 - label_smoothing) / (p * p) + label_smoothing / (q * q)


@elementwise(fake_scores=_OF_DISCRIMINATOR, epsilon=CLIP_WIDTH)
def _vanilla_fake(xp: Any, fake_scores: Array, epsilon: float) -> tuple[Array, Array]:
    p = xp.minimum(xp.maximum(fake_scores, epsilon), 1.0 - epsilon)
    return -xp.log1p(-p), 1.0 / (1.0 - p)


@_vanilla_fake.curvature
def _vanilla_fake_curvature(xp: Any, fake_scores: Array, epsilon: float) -> Array:
    q = 1.0 - xp.minimum(xp.maximum(fake_scores, epsilon), 1.0 - epsilon)
    return 1.0 / (q * q)


_vanilla_discriminator = Apart(real_scores=_vanilla_real, fake_scores=_vanilla_fake)


def vanilla_generator_loss(fake_scores: ArrayT, *, epsilon: float = 1e-7, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of −log p̂, p̂ = clip(D(G(z)), ε, 1 − ε).

    Prefer `non_saturating_generator_loss` where the discriminator can return logits: it needs no clipping.

    Args:
        fake_scores: D(G(z)), the probabilities that generated data are real, any shape.
        epsilon: ε in (0, 0.5). If 1 − ε rounds to 1 in the scores' dtype, ε is raised to its resolution.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `fake_scores` for reduction="none").

    Raises:
        ValueError: epsilon lies outside its domain, or a reduction keyword does not fit.
        TypeError: fake_scores are not an array, or not floating point.

    Example:
        (−log ½ − log ¼) / 2 = 3/2 log 2 = 1.039720…

        >>> import numpy as np
        >>> round(float(vanilla_generator_loss(np.array([0.5, 0.25]))), 6)
        1.039721

    Source:
        I. Goodfellow et al., Generative Adversarial Nets, 2014, §3. https://doi.org/10.48550/arXiv.1406.2661
    """
    return _vanilla_generator.value(fake_scores, epsilon, **reduction)


@gradient_of(
    vanilla_generator_loss,
    terms=_vanilla_generator,
    properties=(given("convex", "no probability is clipped"), "non_negative", "psd"),
)
def vanilla_generator_loss_gradient(
    fake_scores: ArrayT, *, epsilon: float = 1e-7, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """−1 / p̂ / n; taken at p̂ also where the score was clipped.

    So a generator whose data are all rejected keeps a finite gradient of the right sign. The derivative of the clip
    would be 0.

    Example:
        >>> import numpy as np
        >>> vanilla_generator_loss_gradient(np.array([0.5, 0.25])).tolist()
        [-1.0, -2.0]
    """
    return _vanilla_generator.gradient(fake_scores, epsilon, **reduction)


def vanilla_discriminator_loss(
    real_scores: ArrayT,
    fake_scores: ArrayT,
    *,
    epsilon: float = 1e-7,
    label_smoothing: float = 0.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of −(1 − s) log p̂ − s log(1 − p̂) over real data plus mean of −log(1 − p̂) over generated ones.

    p̂ = clip(D, ε, 1 − ε). Prefer `non_saturating_discriminator_loss` where the discriminator can return logits.

    Args:
        real_scores: D(x), the probabilities that real data are real, any shape.
        fake_scores: D(G(z)), those of generated data, any shape.
        epsilon: ε in (0, 0.5). If 1 − ε rounds to 1 in the scores' dtype, ε is raised to its resolution.
        label_smoothing: s in [0, 1], one-sided: the target of real data is 1 − s, that of generated data stays 0.
        **reduction: see `reduce_loss`; each batch is reduced, and the two results are added. `weights` and `normalizer`
            apply to both batches, or are mappings such as {"real_scores": …, "fake_scores": …}.

    Returns:
        A scalar. If both batches have the same shape, they can also be added unreduced (reduction="none").

    Raises:
        ValueError: an option lies outside its domain, a reduction keyword does not fit, or the two results cannot be
            added.
        TypeError: an argument is not an array, or not floating point.

    Example:
        −log ½ for real data, (−log ½ − log ¼) / 2 for generated ones: 5/2 log 2 = 1.732867…

        >>> import numpy as np
        >>> round(float(vanilla_discriminator_loss(np.array([0.5]), np.array([0.5, 0.75]))), 6)
        1.732868

    Source:
        I. Goodfellow et al., Generative Adversarial Nets, 2014. https://doi.org/10.48550/arXiv.1406.2661. Smoothing: T.
        Salimans et al., Improved Techniques for Training GANs, 2016, §3.4. https://doi.org/10.48550/arXiv.1606.03498
    """
    return _vanilla_discriminator.value(real_scores, fake_scores, epsilon, label_smoothing, **reduction)


@gradient_of(
    vanilla_discriminator_loss,
    terms=_vanilla_discriminator,
    properties=(given("convex", "no probability is clipped"), "non_negative", "psd"),
)
def vanilla_discriminator_loss_gradient(
    real_scores: ArrayT,
    fake_scores: ArrayT,
    *,
    epsilon: float = 1e-7,
    label_smoothing: float = 0.0,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """real_scores: (−(1 − s) / p̂ + s / (1 − p̂)) / n, fake_scores: 1 / (1 − p̂) / m; at p̂ also where clipped.

    Example:
        >>> import numpy as np
        >>> gradients = vanilla_discriminator_loss_gradient(np.array([0.5]), np.array([0.5, 0.75]))
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'real_scores': [-2.0], 'fake_scores': [1.0, 2.0]}
    """
    return _vanilla_discriminator.gradient(real_scores, fake_scores, epsilon, label_smoothing, **reduction)


# --- non-saturating: logits ---------------------------------------------------------------------------------------


@elementwise(fake_scores=REAL, written_out=True)
def _non_saturating_generator(xp: Any, fake_scores: Array) -> tuple[Array, Array]:
    tail = xp.exp(-xp.abs(fake_scores))
    # σ(−x) = t / (1 + t) for x ≥ 0 and 1 / (1 + t) for x < 0, t = e^(−|x|)
    slope = -xp.where(fake_scores < 0.0, 1.0, tail) / (1.0 + tail)
    return xp.maximum(-fake_scores, 0.0) + xp.log1p(tail), slope


@_non_saturating_generator.curvature
def _non_saturating_generator_curvature(xp: Any, fake_scores: Array) -> Array:
    return logistic_density(xp, fake_scores)


@elementwise(real_scores=REAL, label_smoothing=FRACTION, written_out=True)
def _non_saturating_real(xp: Any, real_scores: Array, label_smoothing: float) -> tuple[Array, Array]:
    tail = xp.exp(-xp.abs(real_scores))
    # (1 − s) softplus(−x) + s softplus(x) = softplus(−x) + s x
    smoothed = label_smoothing * real_scores
    smoothed = xp.where(smoothed == smoothed, smoothed, 0.0)  # 0 · ∞ = 0; the other term carries NaN
    slope = label_smoothing - xp.where(real_scores < 0.0, 1.0, tail) / (1.0 + tail)
    return xp.maximum(-real_scores, 0.0) + xp.log1p(tail) + smoothed, slope


@_non_saturating_real.curvature
def _non_saturating_real_curvature(xp: Any, real_scores: Array, label_smoothing: float) -> Array:
    return logistic_density(xp, real_scores)


@elementwise(fake_scores=REAL, written_out=True)
def _non_saturating_fake(xp: Any, fake_scores: Array) -> tuple[Array, Array]:
    tail = xp.exp(-xp.abs(fake_scores))
    slope = xp.where(fake_scores > 0.0, 1.0, tail) / (1.0 + tail)
    return xp.maximum(fake_scores, 0.0) + xp.log1p(tail), slope


@_non_saturating_fake.curvature
def _non_saturating_fake_curvature(xp: Any, fake_scores: Array) -> Array:
    return logistic_density(xp, fake_scores)


_non_saturating_discriminator = Apart(real_scores=_non_saturating_real, fake_scores=_non_saturating_fake)


def non_saturating_generator_loss(fake_scores: ArrayT, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of softplus(−x) = −log σ(x), x = fake_scores.

    Args:
        fake_scores: x, logits of the discriminator for generated data, any shape.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `fake_scores` for reduction="none").

    Raises:
        ValueError: a reduction keyword does not fit.
        TypeError: fake_scores are not an array, or not floating point.

    Example:
        σ(log 3) = ¾: −log ¾ = 0.287682…

        >>> import numpy as np
        >>> round(float(non_saturating_generator_loss(np.log(np.array([3.0])))), 6)
        0.287682

    Source:
        I. Goodfellow et al., Generative Adversarial Nets, 2014, §3. https://doi.org/10.48550/arXiv.1406.2661
    """
    return _non_saturating_generator.value(fake_scores, **reduction)


@gradient_of(non_saturating_generator_loss, terms=_non_saturating_generator, properties=("convex", "non_negative"))
def non_saturating_generator_loss_gradient(fake_scores: ArrayT, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−σ(−x) / n.

    Example:
        >>> import numpy as np
        >>> non_saturating_generator_loss_gradient(np.array([0.0, -1e4])).tolist()
        [-0.25, -0.5]
    """
    return _non_saturating_generator.gradient(fake_scores, **reduction)


def non_saturating_discriminator_loss(
    real_scores: ArrayT, fake_scores: ArrayT, *, label_smoothing: float = 0.0, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of softplus(−x) + s x over real data plus mean of softplus(x) over generated ones, x the scores.

    Args:
        real_scores: logits of the discriminator for real data, any shape.
        fake_scores: logits for generated data, any shape.
        label_smoothing: s in [0, 1], one-sided: the target of real data is 1 − s, that of generated data stays 0.
        **reduction: see `reduce_loss`; each batch is reduced, and the two results are added. `weights` and `normalizer`
            apply to both batches, or are mappings such as {"real_scores": …, "fake_scores": …}.

    Returns:
        A scalar. If both batches have the same shape, they can also be added unreduced (reduction="none").

    Raises:
        ValueError: an option lies outside its domain, a reduction keyword does not fit, or the two results cannot be
            added.
        TypeError: an argument is not an array, or not floating point.

    Example:
        −log σ(log 3) − log(1 − σ(0)) = −log ¾ + log 2 = 0.980829…

        >>> import numpy as np
        >>> round(float(non_saturating_discriminator_loss(np.log(np.array([3.0])), np.array([0.0, 0.0]))), 6)
        0.980829

    Source:
        I. Goodfellow et al., Generative Adversarial Nets, 2014. https://doi.org/10.48550/arXiv.1406.2661. Smoothing: T.
        Salimans et al., Improved Techniques for Training GANs, 2016, §3.4. https://doi.org/10.48550/arXiv.1606.03498
    """
    return _non_saturating_discriminator.value(real_scores, fake_scores, label_smoothing, **reduction)


@gradient_of(
    non_saturating_discriminator_loss, terms=_non_saturating_discriminator, properties=("convex", "non_negative")
)
def non_saturating_discriminator_loss_gradient(
    real_scores: ArrayT, fake_scores: ArrayT, *, label_smoothing: float = 0.0, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """real_scores: (s − σ(−x)) / n, fake_scores: σ(x) / m.

    Example:
        >>> import numpy as np
        >>> gradients = non_saturating_discriminator_loss_gradient(np.array([0.0]), np.array([0.0, 1e4]))
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'real_scores': [-0.5], 'fake_scores': [0.25, 0.5]}
    """
    return _non_saturating_discriminator.gradient(real_scores, fake_scores, label_smoothing, **reduction)


# --- least squares --------------------------------------------------------------------------------------------------


@elementwise(scores=REAL, target=_NUMBER, scale=POSITIVE)
def _squared(xp: Any, scores: Array, target: float, scale: float) -> tuple[Array, Array]:
    error = scores - target
    return scale * error * error, 2.0 * scale * error


@_squared.curvature
def _squared_curvature(xp: Any, scores: Array, target: float, scale: float) -> float:
    return 2.0 * scale


_least_squares_generator = _squared.named(scores="fake_scores", target="target_real")
_least_squares_discriminator = Apart(
    real_scores=_squared.named(scores="real_scores", target="target_real"),
    fake_scores=_squared.named(scores="fake_scores", target="target_fake"),
)


def least_squares_generator_loss(
    fake_scores: ArrayT, *, target_real: float = 1.0, scale: float = 1.0, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean of k (x − c)², x = fake_scores, c = target_real, k = scale.

    Args:
        fake_scores: x, scores of generated data, any shape.
        target_real: c, the score that the discriminator should give: a number, or an array that broadcasts to the
            scores.
        scale: k > 0; the paper has ½.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `fake_scores` for reduction="none").

    Raises:
        ValueError: an option lies outside its domain, or a reduction keyword does not fit.
        TypeError: fake_scores are not an array, or not floating point.

    Example:
        ((0 − 1)² + (3 − 1)²) / 2 = 2.5.

        >>> import numpy as np
        >>> float(least_squares_generator_loss(np.array([0.0, 3.0])))
        2.5

    Source:
        X. Mao et al., Least Squares Generative Adversarial Networks, 2017. https://doi.org/10.1109/ICCV.2017.304
    """
    return _least_squares_generator.value(fake_scores, target_real, scale, **reduction)


@gradient_of(
    least_squares_generator_loss,
    terms=_least_squares_generator,
    properties=("convex", "non_negative", "constant_curvature"),
)
def least_squares_generator_loss_gradient(
    fake_scores: ArrayT, *, target_real: float = 1.0, scale: float = 1.0, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """2 k (x − c) / n.

    Example:
        >>> import numpy as np
        >>> least_squares_generator_loss_gradient(np.array([0.0, 3.0])).tolist()
        [-1.0, 2.0]
    """
    return _least_squares_generator.gradient(fake_scores, target_real, scale, **reduction)


def least_squares_discriminator_loss(
    real_scores: ArrayT,
    fake_scores: ArrayT,
    *,
    target_real: float = 1.0,
    target_fake: float = 0.0,
    scale: float = 1.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean of k (x − b)² over real data plus mean of k (x − a)² over generated ones, b = target_real, a = target_fake.

    Args:
        real_scores: scores x of real data, any shape.
        fake_scores: scores x of generated data, any shape.
        target_real: b, the score of real data: a number, or an array that broadcasts to the scores.
        target_fake: a, the score of generated data, likewise.
        scale: k = scale > 0; the paper has ½.
        **reduction: see `reduce_loss`; it acts on each batch, and the two are added. `weights` and `normalizer` hold
            for both, or are mappings such as {"real_scores": …, "fake_scores": …}.

    Returns:
        A scalar. If both batches have the same shape, they can also be added unreduced (reduction="none").

    Raises:
        ValueError: an option lies outside its domain, a reduction keyword does not fit, or the two results cannot be
            added.
        TypeError: an argument is not an array, or not floating point.

    Example:
        (3 − 1)² + ((1 − 0)² + (2 − 0)²) / 2 = 6.5.

        >>> import numpy as np
        >>> float(least_squares_discriminator_loss(np.array([3.0]), np.array([1.0, 2.0])))
        6.5

    Source:
        X. Mao et al., Least Squares Generative Adversarial Networks, 2017. https://doi.org/10.1109/ICCV.2017.304
    """
    return _least_squares_discriminator.value(real_scores, fake_scores, target_real, scale, target_fake, **reduction)


@gradient_of(
    least_squares_discriminator_loss,
    terms=_least_squares_discriminator,
    properties=("convex", "non_negative", "constant_curvature"),
)
def least_squares_discriminator_loss_gradient(
    real_scores: ArrayT,
    fake_scores: ArrayT,
    *,
    target_real: float = 1.0,
    target_fake: float = 0.0,
    scale: float = 1.0,
    **reduction: Unpack[GradientReduction],
) -> NamedArrays[ArrayT]:
    """real_scores: 2 k (x − b) / n, fake_scores: 2 k (x − a) / m.

    Example:
        >>> import numpy as np
        >>> gradients = least_squares_discriminator_loss_gradient(np.array([3.0]), np.array([1.0, 2.0]))
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'real_scores': [4.0], 'fake_scores': [1.0, 2.0]}
    """
    return _least_squares_discriminator.gradient(real_scores, fake_scores, target_real, scale, target_fake, **reduction)


# --- Wasserstein and hinge: scores without a scale ----------------------------------------------------------------


@elementwise(scores=REAL)
def _negated(xp: Any, scores: Array) -> tuple[Array, Array]:
    return -scores, xp.where(scores == scores, -1.0, scores)  # NaN stays NaN


@_negated.curvature
def _negated_curvature(xp: Any, scores: Array) -> float:
    return 0.0


@elementwise(scores=REAL)
def _itself(xp: Any, scores: Array) -> tuple[Array, Array]:
    return scores, xp.where(scores == scores, 1.0, scores)


@_itself.curvature
def _itself_curvature(xp: Any, scores: Array) -> float:
    return 0.0


@elementwise(real_scores=REAL, kinks=lambda real_scores: (1.0 - real_scores,))
def _hinge_real(xp: Any, real_scores: Array) -> tuple[Array, Array]:
    violation = xp.maximum(1.0 - real_scores, 0.0)
    return violation, 0.0 - xp.sign(violation)  # 0 at the corner, not −0


@_hinge_real.curvature(bound=1.0)
def _hinge_real_curvature(xp: Any, real_scores: Array) -> float:
    return 0.0


@elementwise(fake_scores=REAL, kinks=lambda fake_scores: (1.0 + fake_scores,))
def _hinge_fake(xp: Any, fake_scores: Array) -> tuple[Array, Array]:
    violation = xp.maximum(1.0 + fake_scores, 0.0)
    return violation, xp.sign(violation)


@_hinge_fake.curvature(bound=1.0)
def _hinge_fake_curvature(xp: Any, fake_scores: Array) -> float:
    return 0.0


_wasserstein_generator = _negated.named(scores="fake_scores")
_wasserstein_discriminator = Apart(
    real_scores=_negated.named(scores="real_scores"), fake_scores=_itself.named(scores="fake_scores")
)
_hinge_discriminator = Apart(real_scores=_hinge_real, fake_scores=_hinge_fake)


def wasserstein_generator_loss(fake_scores: ArrayT, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of −x, x = fake_scores.

    The function is the same as `hinge_generator_loss`; only the losses of the discriminators differ. Use this one with
    `wasserstein_discriminator_loss`, whose critic must be kept Lipschitz.

    Args:
        fake_scores: x, scores of the critic for generated data, any shape.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `fake_scores` for reduction="none").

    Raises:
        ValueError: a reduction keyword does not fit.
        TypeError: fake_scores are not an array, or not floating point.

    Example:
        −(1 + 4) / 2 = −2.5.

        >>> import numpy as np
        >>> float(wasserstein_generator_loss(np.array([1.0, 4.0])))
        -2.5

    Source:
        M. Arjovsky et al., Wasserstein GAN, 2017. https://doi.org/10.48550/arXiv.1701.07875
    """
    return _wasserstein_generator.value(fake_scores, **reduction)


@gradient_of(
    wasserstein_generator_loss,
    terms=_wasserstein_generator,
    properties=("convex", "constant_curvature", "zero_curvature"),
)
def wasserstein_generator_loss_gradient(fake_scores: ArrayT, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−1 / n.

    Example:
        >>> import numpy as np
        >>> wasserstein_generator_loss_gradient(np.array([1.0, 4.0])).tolist()
        [-0.5, -0.5]
    """
    return _wasserstein_generator.gradient(fake_scores, **reduction)


def wasserstein_discriminator_loss(real_scores: ArrayT, fake_scores: ArrayT, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of x over generated data − mean of x over real ones, x the scores.

    This is the negative of a lower bound of the Wasserstein distance times the critic's Lipschitz constant. To bound
    that constant, add `gradient_penalty`, or clip or normalize the critic's weights.

    Args:
        real_scores: scores of the critic for real data, any shape.
        fake_scores: scores for generated data, any shape.
        **reduction: see `reduce_loss`; it acts on each batch, and the two are added. `weights` and `normalizer` hold
            for both, or are mappings such as {"real_scores": …, "fake_scores": …}.

    Returns:
        A scalar. If both batches have the same shape, they can also be added unreduced (reduction="none").

    Raises:
        ValueError: a reduction keyword does not fit, or the two results cannot be added.
        TypeError: an argument is not an array, or not floating point.

    Example:
        (1 + 2) / 2 − 3 = −1.5.

        >>> import numpy as np
        >>> float(wasserstein_discriminator_loss(np.array([3.0]), np.array([1.0, 2.0])))
        -1.5

    Source:
        M. Arjovsky et al., Wasserstein GAN, 2017. https://doi.org/10.48550/arXiv.1701.07875
    """
    return _wasserstein_discriminator.value(real_scores, fake_scores, **reduction)


@gradient_of(
    wasserstein_discriminator_loss,
    terms=_wasserstein_discriminator,
    properties=(
        "convex",
        given("translation_invariant", reduction=("mean", "weighted_mean"), weights=None, normalizer=None),
        "constant_curvature",
        "zero_curvature",
    ),
)
def wasserstein_discriminator_loss_gradient(
    real_scores: ArrayT, fake_scores: ArrayT, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """real_scores: −1 / n, fake_scores: 1 / m.

    Example:
        >>> import numpy as np
        >>> gradients = wasserstein_discriminator_loss_gradient(np.array([3.0]), np.array([1.0, 2.0]))
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'real_scores': [-1.0], 'fake_scores': [0.5, 0.5]}
    """
    return _wasserstein_discriminator.gradient(real_scores, fake_scores, **reduction)


_hinge_generator = _negated.named(scores="fake_scores")


def hinge_generator_loss(fake_scores: ArrayT, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of −x, x = fake_scores.

    The function is the same as `wasserstein_generator_loss`; only the losses of the discriminators differ. Use this one
    with `hinge_discriminator_loss`, whose critic needs no Lipschitz bound: its slope is 0 for scores beyond ±1.

    Args:
        fake_scores: x, scores of generated data, any shape.
        **reduction: see `reduce_loss`.

    Returns:
        A scalar (the shape of `fake_scores` for reduction="none").

    Raises:
        ValueError: a reduction keyword does not fit.
        TypeError: fake_scores are not an array, or not floating point.

    Example:
        −(1 + 4) / 2 = −2.5.

        >>> import numpy as np
        >>> float(hinge_generator_loss(np.array([1.0, 4.0])))
        -2.5

    Source:
        J. H. Lim and J. C. Ye, Geometric GAN, 2017. https://doi.org/10.48550/arXiv.1705.02894
    """
    return _hinge_generator.value(fake_scores, **reduction)


@gradient_of(
    hinge_generator_loss, terms=_hinge_generator, properties=("convex", "constant_curvature", "zero_curvature")
)
def hinge_generator_loss_gradient(fake_scores: ArrayT, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """−1 / n.

    Example:
        >>> import numpy as np
        >>> hinge_generator_loss_gradient(np.array([1.0, 4.0])).tolist()
        [-0.5, -0.5]
    """
    return _hinge_generator.gradient(fake_scores, **reduction)


def hinge_discriminator_loss(real_scores: ArrayT, fake_scores: ArrayT, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean of max(0, 1 − x) over real data plus mean of max(0, 1 + x) over generated ones, x the scores.

    Args:
        real_scores: scores of real data, any shape.
        fake_scores: scores of generated data, any shape.
        **reduction: see `reduce_loss`; it acts on each batch, and the two are added. `weights` and `normalizer` hold
            for both, or are mappings such as {"real_scores": …, "fake_scores": …}.

    Returns:
        A scalar. If both batches have the same shape, they can also be added unreduced (reduction="none").

    Raises:
        ValueError: a reduction keyword does not fit, or the two results cannot be added.
        TypeError: an argument is not an array, or not floating point.

    Example:
        max(0, 1 − ½) + (max(0, 1 + 1) + max(0, 1 − 3)) / 2 = 1.5.

        >>> import numpy as np
        >>> float(hinge_discriminator_loss(np.array([0.5]), np.array([1.0, -3.0])))
        1.5

    Source:
        J. H. Lim and J. C. Ye, Geometric GAN, 2017. https://doi.org/10.48550/arXiv.1705.02894
    """
    return _hinge_discriminator.value(real_scores, fake_scores, **reduction)


@gradient_of(
    hinge_discriminator_loss,
    terms=_hinge_discriminator,
    properties=("convex", "non_negative", "constant_curvature", "zero_curvature"),
)
def hinge_discriminator_loss_gradient(
    real_scores: ArrayT, fake_scores: ArrayT, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """real_scores: −1 / n where x < 1, fake_scores: 1 / m where x > −1; 0 elsewhere, the corners included.

    Example:
        >>> import numpy as np
        >>> gradients = hinge_discriminator_loss_gradient(np.array([0.5]), np.array([1.0, -3.0]))
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'real_scores': [-1.0], 'fake_scores': [0.5, 0.0]}
    """
    return _hinge_discriminator.gradient(real_scores, fake_scores, **reduction)


# --- relativistic average: is the real more real than the generated, on average? ------------------------------------

Argument = Literal["fake_scores", "real_scores"]


def _relative(xp: Any, real: Array, fake: Array) -> tuple[Array, Array, Array, Array]:
    """softplus(−x) and softplus(y), with their slopes."""
    real_value, real_slope = _non_saturating_real.terms(xp, real, 0.0)
    fake_value, fake_slope = _non_saturating_fake.terms(xp, fake)
    return real_value, fake_value, real_slope, fake_slope


def _relative_squared(xp: Any, real: Array, fake: Array) -> tuple[Array, Array, Array, Array]:
    """(x − 1)² and (y + 1)², with their slopes."""
    real_value, real_slope = _squared.terms(xp, real, 1.0, 1.0)
    fake_value, fake_slope = _squared.terms(xp, fake, -1.0, 1.0)
    return real_value, fake_value, real_slope, fake_slope


def _relative_curvature(xp: Any, real: Array, fake: Array) -> tuple[Array, Array]:
    """The second derivatives of softplus(−x) and softplus(y)."""
    return logistic_density(xp, real), logistic_density(xp, fake)


def _relative_squared_curvature(xp: Any, real: Array, fake: Array) -> tuple[Array, Array]:
    """The second derivatives of (x − 1)² and (y + 1)²."""
    return 2.0 * xp.ones_like(real), 2.0 * xp.ones_like(fake)


def _relativistic(terms: Any, second: Any, wanted: Wanted, **scores: Array) -> Losses:
    """Return E f(x) + E g(y), where x and y are the scores minus the mean of the other batch.

    `terms` are f of the first batch and g of the second batch, which should have the lower scores.
    """
    xp = array_namespace(**scores)
    dtype = widest_dtype(xp, **scores)
    if any(0 in x.shape for x in scores.values()):
        raise ValueError("a relativistic average needs at least one real and one fake score")
    first, other = (as_dtype(xp, x, dtype) for x in scores.values())
    origin = xp.reshape(first, (-1,))[0]  # only differences matter; means of scores far from 0 would lose digits
    first, other = first - origin, other - origin
    relative = first - xp.mean(other), other - xp.mean(first)
    upper, lower, upper_slope, lower_slope = terms(xp, *relative)

    def slopes() -> dict[str, Array]:
        # each batch contributes once directly, and once through its mean
        by_score = (
            (upper_slope - xp.mean(lower_slope)) / float(math.prod(first.shape)),
            (lower_slope - xp.mean(upper_slope)) / float(math.prod(other.shape)),
        )
        return {name: slope for name, slope in zip(scores, by_score, strict=True) if name in wanted}

    def curvature() -> Curvature:
        return _relativistic_curvature(xp, second(xp, *relative), [name for name in scores if name in wanted])

    return Losses(xp.mean(upper) + xp.mean(lower), slopes, curvature=curvature)


def _relativistic_curvature(xp: Any, seconds: tuple[Array, Array], names: list[str]) -> Curvature:
    """H = Jᵀ diag(f″ / n, g″ / m) J, where J v = (a − mean b, b − mean a) for the vectors a and b of the two batches.

    The gradient is taken with respect to both batches, or to the first one alone: then b is 0.
    """
    counts = [float(math.prod(x.shape)) for x in seconds]
    own, other = (x / count for x, count in zip(seconds, counts, strict=True))

    def moved(vectors: Named) -> tuple[Any, Any]:
        a, b = vectors[names[0]], vectors[names[1]] if len(names) > 1 else xp.zeros_like(other)
        return a - xp.mean(b), b - xp.mean(a)

    def collected(x: Array, y: Array) -> dict[str, Array]:
        results = (x - xp.sum(y) / counts[0], y - xp.sum(x) / counts[1])
        return dict(zip(names, results, strict=False))

    def product(vectors: Named) -> dict[str, Array]:
        x, y = moved(vectors)
        return collected(own * x, other * y)

    def diagonal() -> dict[str, Array]:
        results = (own + xp.sum(other) / counts[0] ** 2, other + xp.sum(own) / counts[1] ** 2)
        return dict(zip(names, results, strict=False))

    def bound() -> dict[str, Array]:
        """The sums of the rows of |H|."""
        both = 2.0 if len(names) > 1 else 1.0
        results = (both * (own + xp.sum(other) / counts[0]), both * (other + xp.sum(own) / counts[1]))
        return dict(zip(names, results, strict=False))

    def factor(vectors: Named) -> dict[str, Array]:
        return collected(xp.sqrt(own) * vectors[names[0]], xp.sqrt(other) * vectors[names[1]])

    def transposed(vectors: Named) -> dict[str, Array]:
        x, y = moved(vectors)
        return {names[0]: xp.sqrt(own) * x, names[1]: xp.sqrt(other) * y}

    is_square = len(names) > 1
    return Curvature(product, diagonal, bound, factor if is_square else None, transposed if is_square else None)


@unreduced(curved=True, separable=False, wrt=("real_scores", "fake_scores"), real_scores=REAL, fake_scores=REAL)
def _relativistic_discriminator(real_scores: Array, fake_scores: Array, wanted: Wanted) -> Losses:
    return _relativistic(_relative, _relative_curvature, wanted, real_scores=real_scores, fake_scores=fake_scores)


def relativistic_average_discriminator_loss(
    real_scores: ArrayT, fake_scores: ArrayT, **others: Unpack[NoOthers]
) -> ArrayT:
    """E softplus(−(x − ȳ)) + E softplus(y − x̄), x = real_scores, y = fake_scores; x̄ and ȳ are their means.

    The discriminator estimates how much more real the real data are than the generated data on average. Every score is
    compared with the mean of the other batch, so there are no unreduced losses, and no reduction keywords.

    Args:
        real_scores: logits x for real data, any shape.
        fake_scores: logits y for generated data, any shape.

    Returns:
        A scalar.

    Raises:
        ValueError: a batch is empty.
        TypeError: an argument is not an array, or not floating point.

    Example:
        x − ȳ = log 3 and y − x̄ = −log 3 twice: 2 · −log ¾ = 0.575364…

        >>> import numpy as np
        >>> x, y = np.log(np.array([9.0])), np.log(np.array([3.0, 3.0]))
        >>> round(float(relativistic_average_discriminator_loss(x, y)), 6)
        0.575364

    Source:
        A. Jolicoeur-Martineau, The Relativistic Discriminator: A Key Element Missing from Standard GAN,
        2019. https://doi.org/10.48550/arXiv.1807.00734
    """
    return _relativistic_discriminator.value(real_scores, fake_scores, **others)


@gradient_of(
    relativistic_average_discriminator_loss,
    terms=_relativistic_discriminator,
    properties=("convex", "non_negative", "translation_invariant"),
)
def relativistic_average_discriminator_loss_gradient(
    real_scores: ArrayT, fake_scores: ArrayT, *, upstream: float | Array = 1.0, **others: Unpack[NoOthers]
) -> NamedArrays[ArrayT]:
    """real_scores: −(σ(ȳ − x) + E σ(y − x̄)) / n, fake_scores: (σ(y − x̄) + E σ(ȳ − x)) / m.

    Example:
        σ(−log 3) = ¼ throughout.

        >>> import numpy as np
        >>> x, y = np.log(np.array([9.0])), np.log(np.array([3.0, 3.0]))
        >>> gradients = relativistic_average_discriminator_loss_gradient(x, y)
        >>> {name: gradient.round(12).tolist() for name, gradient in gradients.items()}
        {'real_scores': [-0.5], 'fake_scores': [0.25, 0.25]}
    """
    return _relativistic_discriminator.gradient(real_scores, fake_scores, upstream=upstream, **others)


@unreduced(curved=True, separable=False, on_request=("real_scores",), fake_scores=REAL, real_scores=REAL)
def _relativistic_generator(fake_scores: Array, real_scores: Array, wanted: Wanted) -> Losses:
    return _relativistic(_relative, _relative_curvature, wanted, fake_scores=fake_scores, real_scores=real_scores)


def relativistic_average_generator_loss(fake_scores: ArrayT, real_scores: Array, **others: Unpack[NoOthers]) -> ArrayT:
    """E softplus(−(y − x̄)) + E softplus(x − ȳ), x = real_scores, y = fake_scores; x̄ and ȳ are their means.

    This is the loss of the discriminator with the two batches exchanged: generated data should look more real.

    Args:
        fake_scores: logits y for generated data, any shape.
        real_scores: logits x for real data, any shape.

    Returns:
        A scalar.

    Raises:
        ValueError: a batch is empty.
        TypeError: an argument is not an array, or not floating point.

    Example:
        y − x̄ = −log 3 and x − ȳ = log 3: 2 · −log ¼ = 2.772588…

        >>> import numpy as np
        >>> x, y = np.log(np.array([9.0])), np.log(np.array([3.0, 3.0]))
        >>> round(float(relativistic_average_generator_loss(y, x)), 6)
        2.772589

    Source:
        A. Jolicoeur-Martineau, The Relativistic Discriminator: A Key Element Missing from Standard GAN,
        2019. https://doi.org/10.48550/arXiv.1807.00734
    """
    return _relativistic_generator.value(fake_scores, real_scores, **others)


@gradient_of(
    relativistic_average_generator_loss,
    terms=_relativistic_generator,
    properties=("convex", "non_negative", "translation_invariant"),
)
def relativistic_average_generator_loss_gradient(
    fake_scores: Array,
    real_scores: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "fake_scores",
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> Any:
    """−(σ(x̄ − y) + E σ(x − ȳ)) / m; wrt real_scores (σ(x − ȳ) + E σ(x̄ − y)) / n.

    Args:
        wrt: "fake_scores", "real_scores", or a tuple of both.

    Example:
        σ(log 3) = ¾ throughout.

        >>> import numpy as np
        >>> x, y = np.log(np.array([9.0])), np.log(np.array([3.0, 3.0]))
        >>> relativistic_average_generator_loss_gradient(y, x).round(12).tolist()
        [-0.75, -0.75]
    """
    return _relativistic_generator.gradient(fake_scores, real_scores, wrt=wrt, upstream=upstream, **others)


@unreduced(curved=True, separable=False, wrt=("real_scores", "fake_scores"), real_scores=REAL, fake_scores=REAL)
def _relativistic_least_squares_discriminator(real_scores: Array, fake_scores: Array, wanted: Wanted) -> Losses:
    return _relativistic(
        _relative_squared, _relative_squared_curvature, wanted, real_scores=real_scores, fake_scores=fake_scores
    )


def relativistic_average_least_squares_discriminator_loss(
    real_scores: ArrayT, fake_scores: ArrayT, **others: Unpack[NoOthers]
) -> ArrayT:
    """E (x − ȳ − 1)² + E (y − x̄ + 1)², x = real_scores, y = fake_scores; x̄ and ȳ are their means.

    Args:
        real_scores: scores x of real data, any shape.
        fake_scores: scores y of generated data, any shape.

    Returns:
        A scalar.

    Raises:
        ValueError: a batch is empty.
        TypeError: an argument is not an array, or not floating point.

    Example:
        (3 − 1 − 1)² + ((0 − 3 + 1)² + (2 − 3 + 1)²) / 2 = 3.

        >>> import numpy as np
        >>> float(relativistic_average_least_squares_discriminator_loss(np.array([3.0]), np.array([0.0, 2.0])))
        3.0

    Source:
        A. Jolicoeur-Martineau, The Relativistic Discriminator: A Key Element Missing from Standard GAN,
        2019. https://doi.org/10.48550/arXiv.1807.00734
    """
    return _relativistic_least_squares_discriminator.value(real_scores, fake_scores, **others)


@gradient_of(
    relativistic_average_least_squares_discriminator_loss,
    terms=_relativistic_least_squares_discriminator,
    properties=("convex", "non_negative", "translation_invariant", "constant_curvature"),
)
def relativistic_average_least_squares_discriminator_loss_gradient(
    real_scores: ArrayT, fake_scores: ArrayT, *, upstream: float | Array = 1.0, **others: Unpack[NoOthers]
) -> NamedArrays[ArrayT]:
    """real_scores: 2 (x − x̄ − 2 + 2 (x̄ − ȳ)) / n, fake_scores: 2 (y − ȳ + 2 − 2 (x̄ − ȳ)) / m.

    Example:
        x̄ − ȳ = 2: 2 (0 − 2 + 4) for the real score, 2 (∓1 + 2 − 4) / 2 for the generated ones.

        >>> import numpy as np
        >>> x, y = np.array([3.0]), np.array([0.0, 2.0])
        >>> gradients = relativistic_average_least_squares_discriminator_loss_gradient(x, y)
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'real_scores': [4.0], 'fake_scores': [-3.0, -1.0]}
    """
    return _relativistic_least_squares_discriminator.gradient(real_scores, fake_scores, upstream=upstream, **others)


@unreduced(curved=True, separable=False, on_request=("real_scores",), fake_scores=REAL, real_scores=REAL)
def _relativistic_least_squares_generator(fake_scores: Array, real_scores: Array, wanted: Wanted) -> Losses:
    return _relativistic(
        _relative_squared, _relative_squared_curvature, wanted, fake_scores=fake_scores, real_scores=real_scores
    )


def relativistic_average_least_squares_generator_loss(
    fake_scores: ArrayT, real_scores: Array, **others: Unpack[NoOthers]
) -> ArrayT:
    """E (y − x̄ − 1)² + E (x − ȳ + 1)², x = real_scores, y = fake_scores; x̄ and ȳ are their means.

    This is the loss of the discriminator with the two batches exchanged.

    Args:
        fake_scores: scores y of generated data, any shape.
        real_scores: scores x of real data, any shape.

    Returns:
        A scalar.

    Raises:
        ValueError: a batch is empty.
        TypeError: an argument is not an array, or not floating point.

    Example:
        ((0 − 3 − 1)² + (2 − 3 − 1)²) / 2 + (3 − 1 + 1)² = 19.

        >>> import numpy as np
        >>> float(relativistic_average_least_squares_generator_loss(np.array([0.0, 2.0]), np.array([3.0])))
        19.0

    Source:
        A. Jolicoeur-Martineau, The Relativistic Discriminator: A Key Element Missing from Standard GAN,
        2019. https://doi.org/10.48550/arXiv.1807.00734
    """
    return _relativistic_least_squares_generator.value(fake_scores, real_scores, **others)


@gradient_of(
    relativistic_average_least_squares_generator_loss,
    terms=_relativistic_least_squares_generator,
    properties=("convex", "non_negative", "translation_invariant", "constant_curvature"),
)
def relativistic_average_least_squares_generator_loss_gradient(
    fake_scores: Array,
    real_scores: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "fake_scores",
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> Any:
    """2 (y − ȳ − 2 − 2 (x̄ − ȳ)) / m; wrt real_scores 2 (x − x̄ + 2 + 2 (x̄ − ȳ)) / n.

    Args:
        wrt: "fake_scores", "real_scores", or a tuple of both.

    Example:
        x̄ − ȳ = 2: 2 (∓1 − 2 − 4) / 2.

        >>> import numpy as np
        >>> x, y = np.array([3.0]), np.array([0.0, 2.0])
        >>> relativistic_average_least_squares_generator_loss_gradient(y, x).tolist()
        [-7.0, -5.0]
    """
    return _relativistic_least_squares_generator.gradient(
        fake_scores, real_scores, wrt=wrt, upstream=upstream, **others
    )


# --- the critic's gradient ------------------------------------------------------------------------------------------


def _penalty_kinks(input_gradients: Array, target_norm: float) -> tuple[Array, ...]:
    xp = array_namespace(input_gradients=input_gradients)
    examples = Flattening.along(tuple(range(1, len(input_gradients.shape))), tuple(input_gradients.shape))
    return (xp.max(abs(examples.of(xp, input_gradients)), axis=-1),)


@unreduced(curved=True, has_fisher=True, kinks=_penalty_kinks, input_gradients=REAL, target_norm=NON_NEGATIVE)
def _penalty(input_gradients: Array, target_norm: float, wanted: Wanted) -> Losses:
    xp = array_namespace(input_gradients=input_gradients)
    dtype = compute_dtype(xp, input_gradients.dtype, "input_gradients")
    target_norm = require_one_number(xp, "target_norm", target_norm, dtype)
    if len(input_gradients.shape) == 0:
        raise ValueError("input_gradients need a batch axis, got a scalar")
    examples = Flattening.along(tuple(range(1, len(input_gradients.shape))), tuple(input_gradients.shape))
    g = examples.of(xp, as_dtype(xp, input_gradients, dtype))
    if examples.length == 0:  # the norm of an empty array is 0
        values = xp.zeros_like(xp.sum(g, axis=-1)) + target_norm * target_norm
        nothing = {"input_gradients": examples.back(xp, g)}
        return Losses(values, lambda: nothing, curvature=lambda: diagonal_curvature(xp, lambda: nothing))
    norm, unit = norm_and_unit(xp, g, 2.0)
    excess = norm - target_norm

    def back(x: Array) -> dict[str, Array]:
        return {"input_gradients": examples.back(xp, x)}

    return Losses(
        excess * excess,
        lambda: back(2.0 * xp.expand_dims(excess, axis=-1) * unit),
        curvature=lambda: _penalty_curvature(xp, norm, unit, target_norm, lambda v: examples.of(xp, v), back),
    )


def _penalty_curvature(
    xp: Any, norm: Array, unit: Array, target_norm: Any, of: Callable[[Array], Array], back: Callable[[Array], Any]
) -> Curvature:
    """H = 2 (u uᵀ + (1 − k / ‖g‖) (I − u uᵀ)), u = g / ‖g‖; its Gauss–Newton matrix is 2 u uᵀ.

    For g = 0 and k > 0 the loss has a kink, and H counts as 0.
    """
    at_zero = norm == 0.0
    across = xp.where(at_zero, 0.0, 1.0 - target_norm / xp.where(at_zero, 1.0, norm))
    across = xp.expand_dims(xp.where(at_zero & (target_norm == 0.0), 1.0, across), axis=-1)

    def along(vectors: Named) -> Array:
        return unit * xp.sum(unit * of(vectors["input_gradients"]), axis=-1, keepdims=True)

    def product(vectors: Named) -> Any:
        part = along(vectors)
        return back(2.0 * (part + across * (of(vectors["input_gradients"]) - part)))

    def factor(vectors: Named) -> Any:
        return back(math.sqrt(2.0) * along(vectors))

    squares = unit * unit
    gauss_newton = Curvature(
        lambda vectors: back(2.0 * along(vectors)), lambda: back(2.0 * squares), None, factor, factor
    )
    return Curvature(
        product,
        lambda: back(2.0 * (squares + across * (1.0 - squares))),
        lambda: back(2.0 * xp.ones_like(unit)),
        fisher=gauss_newton,
    )


def gradient_penalty(input_gradients: ArrayT, *, target_norm: float = 1.0, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over the batch of (‖g‖ − k)², g = input_gradients.

    The penalty keeps the slope of the critic of a Wasserstein GAN close to k. The paper adds it with the weight 10, at
    points drawn between real and generated data. For k = 0 it is the mean of ‖g‖², the zero-centred penalty.

    Args:
        input_gradients: g, the gradient of each example's score wrt the example, (batch, …); the norm is taken over
            all axes but the first.
        target_norm: k ≥ 0.
        **reduction: see `reduce_loss`; the unreduced losses are one per example.

    Returns:
        A scalar (one penalty per example for reduction="none").

    Raises:
        ValueError: there is no batch axis, target_norm is negative, or a reduction keyword does not fit.
        TypeError: input_gradients are not an array, or not floating point.

    Example:
        ‖(3, 4)‖ = 5 and ‖(0.3, 0.4)‖ = ½: (4² + ½²) / 2 = 8.125.

        >>> import numpy as np
        >>> float(gradient_penalty(np.array([[3.0, 4.0], [0.3, 0.4]])))
        8.125

    Source:
        I. Gulrajani et al., Improved Training of Wasserstein GANs, 2017. https://doi.org/10.48550/arXiv.1704.00028
    """
    return _penalty.value(input_gradients, target_norm, **reduction)


@gradient_of(
    gradient_penalty,
    terms=_penalty,
    properties=(given("convex", target_norm=0.0), "non_negative", given("constant_curvature", target_norm=0.0)),
)
def gradient_penalty_gradient(
    input_gradients: ArrayT, *, target_norm: float = 1.0, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """2 (‖g‖ − k) g / ‖g‖ / B; 0 at g = 0.

    This is the gradient wrt the critic's input gradients. The model must supply the derivative of these wrt the
    critic's parameters.

    Example:
        2 · 4 · (0.6, 0.8) / 2 and 2 · −½ · (0.6, 0.8) / 2.

        >>> import numpy as np
        >>> gradient_penalty_gradient(np.array([[3.0, 4.0], [0.3, 0.4]])).round(12).tolist()
        [[2.4, 3.2], [-0.3, -0.4]]
    """
    return _penalty.gradient(input_gradients, target_norm, **reduction)


gradient_penalty_value_and_gradient = both_of(gradient_penalty_gradient)


# --- both losses by name ----------------------------------------------------------------------------------------------

_SUITES: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "standard": (vanilla_generator_loss, vanilla_discriminator_loss),
    "vanilla": (vanilla_generator_loss, vanilla_discriminator_loss),
    "non_saturating": (non_saturating_generator_loss, non_saturating_discriminator_loss),
    "lsgan": (least_squares_generator_loss, least_squares_discriminator_loss),
    "wgan": (wasserstein_generator_loss, wasserstein_discriminator_loss),
    "hinge": (hinge_generator_loss, hinge_discriminator_loss),
}
_SUITE = Choice(tuple(_SUITES))


def create_gan_loss_suite(generator_loss_type: str, discriminator_loss_type: str) -> tuple[Pair, Pair]:
    """Return a generator's and a discriminator's loss, each with its gradient, by the names of their types.

    Args:
        generator_loss_type: "standard" or "vanilla" (two names of one loss; scores are probabilities), "non_saturating"
            (scores are logits), "lsgan", "wgan" or "hinge".
        discriminator_loss_type: likewise; the two may differ. "wgan" does not include a gradient penalty.

    Returns:
        Two entries of the catalogue. An entry is called like its loss, and `gradient` is its gradient. Entries are
        accepted wherever losses are: by `value_and_gradient`, `check_gradient`, objectives and composed losses.

    Raises:
        ValueError: a type is unknown; the message lists all of them, and names the nearest.

    Example:
        >>> import numpy as np
        >>> generator_loss, discriminator_loss = create_gan_loss_suite("lsgan", "lsgan")
        >>> float(generator_loss(np.array([0.0, 3.0]))), generator_loss.gradient(np.array([0.0, 3.0])).tolist()
        (2.5, [-1.0, 2.0])
    """
    generator, _ = _SUITES[_SUITE.check("generator_loss_type", generator_loss_type)]
    _, discriminator = _SUITES[_SUITE.check("discriminator_loss_type", discriminator_loss_type)]
    return find_loss(generator), find_loss(discriminator)
