"""Divergences between distributions: of rows of probabilities (in nats), of Gaussians, of sets of samples."""

from __future__ import annotations

import math
import sys
from typing import Any, Literal, Unpack

import numpy as np

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, ArrayT, array_namespace, namespace_of
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import (
    FLAG,
    NON_NEGATIVE,
    POSITIVE,
    REAL,
    SAMPLES,
    Axis,
    Choice,
    Count,
    Distributions,
    Interval,
    PointSets,
    SmallestNormal,
)
from mithril_losses.numerics.flattening import Flattening
from mithril_losses.numerics.reduction import (
    GradientReduction,
    GradientRowReduction,
    Reduction,
    RowReduction,
    reduce_loss,
)
from mithril_losses.numerics.stable import (
    bounded,
    exponential_remainder,
    never_negative,
    norm_and_unit,
    product,
    put_back,
    stable_order,
    take_in_order,
)
from mithril_losses.numerics.validation import as_dtype, normalize_axis, widest_dtype
from mithril_losses.templates.elements import elementwise
from mithril_losses.templates.points import Kernel, Sets, distance_kernel, product_kernel, two_sample_sums
from mithril_losses.templates.transport import matching
from mithril_losses.templates.unreduced import Losses, Wanted, unreduced

__all__ = [
    "energy_distance",
    "energy_distance_gradient",
    "energy_distance_value_and_gradient",
    "gaussian_kl_divergence",
    "gaussian_kl_divergence_between",
    "gaussian_kl_divergence_between_gradient",
    "gaussian_kl_divergence_gradient",
    "js_divergence",
    "js_divergence_gradient",
    "kl_divergence",
    "kl_divergence_gradient",
    "maximum_mean_discrepancy",
    "maximum_mean_discrepancy_gradient",
    "maximum_mean_discrepancy_value_and_gradient",
    "reverse_kl_divergence",
    "reverse_kl_divergence_gradient",
    "wasserstein_distance",
    "wasserstein_distance_gradient",
    "wasserstein_distance_value_and_gradient",
]

Argument = Literal["predictions", "targets"]
GaussianArgument = Literal["mean", "logvar", "other_mean", "other_logvar"]


_ROWS = Distributions("take the softmax of logits, and the exponential of log-probabilities")
_ROWS_OF_KL = _ROWS.suggesting(f"{_ROWS.instead}; what torch and optax call KL is reverse_kl_divergence")


@elementwise(
    predictions=_ROWS_OF_KL,
    targets=_ROWS,
    log_smallest=SmallestNormal(logarithm=True),
    rows=-1,
    never_negative=True,
)
def _kl(xp: Any, predictions: Array, targets: Array, log_smallest: float) -> tuple[Array, Array]:
    log_p, log_q = xp.log(predictions), xp.log(targets)
    value = xp.where(predictions == 0.0, 0.0, predictions * (log_p - log_q))
    return value, xp.maximum(log_p, log_smallest) - xp.maximum(log_q, log_smallest) + 1.0


@_kl.curvature
def _kl_curvature(xp: Any, predictions: Array, targets: Array, log_smallest: float) -> Array:
    steepest = xp.exp(-log_smallest * xp.ones_like(predictions))
    return xp.minimum(1.0 / xp.abs(predictions), steepest)  # abs: 1 / −0 is −∞


@elementwise(predictions=_ROWS, targets=_ROWS, smallest=SmallestNormal(), rows=-1, never_negative=True)
def _reverse_kl(xp: Any, predictions: Array, targets: Array, smallest: float) -> tuple[Array, Array]:
    value = xp.where(targets == 0.0, 0.0, targets * (xp.log(targets) - xp.log(predictions)))
    return value, -targets / xp.maximum(predictions, smallest)


@_reverse_kl.curvature(steep=True)
def _reverse_kl_curvature(xp: Any, predictions: Array, targets: Array, smallest: float) -> Array:
    p = xp.maximum(predictions, smallest)
    return targets / p / p


_SWAPPED = {"predictions": "targets", "targets": "predictions"}
_kl_by_both = _kl.completed_by(_reverse_kl.named(**_SWAPPED))
_reverse_kl_by_both = _reverse_kl.completed_by(_kl.named(**_SWAPPED))


def kl_divergence(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over rows of KL(p‖q) = Σ p log(p/q), p = predictions, q = targets; `torch` and `optax` have KL(q‖p).

    The order of the arguments is that of the mathematical notation. PyTorch's `kl_div`, Keras and optax compute the
    divergence of the targets from the predictions: that is `reverse_kl_divergence(predictions, targets)` here.

    Args:
        predictions: p, probabilities over the last axis; or a distribution object with a method `kl_divergence`
            (distrax), or a torch distribution; type checkers accept arrays only.
        targets: q, the same shape; or a distribution of the same kind.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one divergence per row for reduction="none"). 0 log 0 counts as 0; p > 0 against q = 0 is +inf.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        ½ log(½ / ¼) + ½ log(½ / ¾) = ½ log(4/3) = 0.143841…

        >>> import numpy as np
        >>> round(float(kl_divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75]))), 6)
        0.143841

    Source:
        S. Kullback and R. A. Leibler, On Information and Sufficiency, 1951. https://doi.org/10.1214/aoms/1177729694
    """
    if namespace_of(predictions) is None and (values := _between_distributions(predictions, targets)) is not None:
        return reduce_loss(values, **reduction)
    return _kl_by_both.value(predictions, targets, **reduction)


def _between_distributions(p: Any, q: Any) -> Array | None:
    """Return KL(p‖q) of two distribution objects, or None for any other arguments."""
    if callable(getattr(p, "kl_divergence", None)):
        return p.kl_divergence(q)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(p, torch.distributions.Distribution):
        return torch.distributions.kl_divergence(p, q)
    return None


@gradient_of(
    kl_divergence,
    terms=_kl_by_both,
    properties=("convex", "non_negative", "zero_at_equality"),
)
def kl_divergence_gradient(
    predictions: Array,
    targets: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(log(p/q) + 1) / B; wrt targets −(p/q) / B.

    At p = 0 the one-sided derivative is −inf: there p counts as the smallest normal number of its dtype; so does q = 0.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Example:
        >>> import numpy as np
        >>> kl_divergence_gradient(np.array([0.5, 0.5]), np.array([0.5, 0.5])).tolist()
        [1.0, 1.0]
        >>> kl_divergence_gradient(np.array([0.25, 0.75]), np.array([0.5, 0.5]), wrt="targets").tolist()
        [-0.5, -1.5]
    """
    return _kl_by_both.gradient(predictions, targets, wrt=wrt, **reduction)


def reverse_kl_divergence(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over rows of KL(q‖p) = Σ q log(q/p), p = predictions, q = targets: as `torch`, keras and optax have it.

    `torch.nn.functional.kl_div(log(p), q, reduction="batchmean")` is the same number.

    Args:
        predictions: p, probabilities over the last axis; or a distribution object with a method `kl_divergence`
            (distrax), or a torch distribution.
        targets: q, the same shape; or a distribution of the same kind.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one divergence per row for reduction="none"). 0 log 0 counts as 0; q > 0 against p = 0 is +inf.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        ½ log(½ / ¼) + ½ log(½ / ¾) = ½ log(4/3) = 0.143841…

        >>> import numpy as np
        >>> round(float(reverse_kl_divergence(np.array([0.25, 0.75]), np.array([0.5, 0.5]))), 6)
        0.143841

    Source:
        S. Kullback and R. A. Leibler, On Information and Sufficiency, 1951. https://doi.org/10.1214/aoms/1177729694
    """
    if namespace_of(predictions) is None and (values := _between_distributions(targets, predictions)) is not None:
        return reduce_loss(values, **reduction)
    return _reverse_kl_by_both.value(predictions, targets, **reduction)


@gradient_of(
    reverse_kl_divergence,
    terms=_reverse_kl_by_both,
    properties=("convex", "non_negative", "zero_at_equality"),
)
def reverse_kl_divergence_gradient(
    predictions: Array,
    targets: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """−(q/p) / B; wrt targets (log(q/p) + 1) / B.

    At q = 0 the one-sided derivative wrt targets is −inf: there q counts as the smallest normal number of its dtype.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Example:
        >>> import numpy as np
        >>> reverse_kl_divergence_gradient(np.array([0.5, 0.5]), np.array([0.25, 0.75])).tolist()
        [-0.5, -1.5]
    """
    return _reverse_kl_by_both.gradient(predictions, targets, wrt=wrt, **reduction)


@elementwise(
    predictions=_ROWS,
    targets=_ROWS,
    smallest=SmallestNormal(computed=True),
    rows=-1,
    never_negative=True,
    written_out=True,
)
def _js(xp: Any, predictions: Array, targets: Array, smallest: float) -> tuple[Array, Array]:
    total, smaller = predictions + targets, xp.minimum(predictions, targets)
    apart = xp.abs(predictions - targets)
    # the logarithm of larger / smaller
    ratio = xp.log1p(apart / xp.maximum(smaller, smallest * xp.maximum(xp.maximum(predictions, targets), 1.0)))
    mean_twice = xp.maximum(total, smallest)
    d = apart / mean_twice  # the two are m (1 ± d), with m their mean
    over_mean = xp.log1p(d)  # the logarithm of larger / m
    # (1 + d) log(1 + d) + (1 − d) log(1 − d), in the form that does not cancel
    far = 2.0 * (over_mean - smaller / mean_twice * ratio)
    near = xp.minimum(d, 0.5)
    near = xp.log1p(-near * near) + d * ratio
    value = 0.25 * total * xp.where(d < 0.5, near, far)
    return value, 0.5 * (over_mean - xp.where(predictions < targets, ratio, 0.0))


@_js.curvature
def _js_curvature(xp: Any, predictions: Array, targets: Array, smallest: float) -> Array:
    p = xp.maximum(predictions, smallest)
    return 0.5 * (targets / (p + targets)) / p


_js_by_both = _js.completed_by(_js.named(**_SWAPPED))


def js_divergence(predictions: ArrayT, targets: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over rows of JS(p, q) = ½ KL(p‖m) + ½ KL(q‖m), m = ½ (p + q), p = predictions, q = targets; in nats.

    The divergence is symmetric and lies between 0 and log 2. Its square root is a metric.

    Args:
        predictions: p, probabilities over the last axis.
        targets: q, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one divergence per row for reduction="none"). 0 log 0 counts as 0.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        m = (¾, ¼): ½ log(1 / ¾) + ½ (½ log(½ / ¾) + ½ log(½ / ¼)) = 0.215761…

        >>> import numpy as np
        >>> round(float(js_divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5]))), 6)
        0.215762

    Source:
        J. Lin, Divergence Measures Based on the Shannon Entropy, 1991. https://doi.org/10.1109/18.61115. The metric: D.
        M. Endres and J. E. Schindelin, A New Metric for Probability Distributions, 2003.
        https://doi.org/10.1109/TIT.2003.813506
    """
    return _js_by_both.value(predictions, targets, **reduction)


@gradient_of(
    js_divergence,
    terms=_js_by_both,
    properties=("convex", "non_negative", "symmetric", "zero_at_equality"),
)
def js_divergence_gradient(
    predictions: Array,
    targets: Array,
    *,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """½ log(p/m) / B, m = ½ (p + q); wrt targets ½ log(q/m) / B.

    At p = 0 the one-sided derivative is −inf: there p counts as the smallest normal number of its dtype; so does q = 0.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Example:
        ½ log(½ / ¾) = −0.202732… and ½ log(½ / ¼) = ½ log 2.

        >>> import numpy as np
        >>> js_divergence_gradient(np.array([0.5, 0.5]), np.array([1.0, 0.0])).round(6).tolist()
        [-0.202733, 0.346574]
    """
    return _js_by_both.gradient(predictions, targets, wrt=wrt, **reduction)


# --- between two Gaussians --------------------------------------------------------------------------------------------


@elementwise(
    mean=REAL,
    logvar=REAL,
    free_bits=NON_NEGATIVE,
    slopes=2,
    rows=1,
    kinks=lambda mean, logvar, free_bits: (
        0.5 * (mean * mean + exponential_remainder(namespace_of(mean), logvar)) - free_bits,
    ),
)
def _gaussian_kl(xp: Any, mean: Array, logvar: Array, free_bits: float) -> tuple[Array, Any]:
    value = 0.5 * (mean * mean + exponential_remainder(xp, logvar))
    clamped = value < free_bits
    slopes = xp.where(clamped, 0.0, mean), xp.where(clamped, 0.0, 0.5 * xp.expm1(logvar))
    return xp.maximum(value, free_bits), slopes


@_gaussian_kl.curvature
def _gaussian_kl_curvature(xp: Any, mean: Array, logvar: Array, free_bits: float) -> tuple[Any, Any, Any]:
    clamped = 0.5 * (mean * mean + exponential_remainder(xp, logvar)) < free_bits
    return xp.where(clamped, 0.0, xp.ones_like(mean)), 0.0, xp.where(clamped, 0.0, 0.5 * xp.exp(logvar))


def gaussian_kl_divergence(
    mean: ArrayT, logvar: ArrayT, *, free_bits: float = 0.0, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean over samples of KL(N(μ, e^ℓ) ‖ N(0, 1)) = Σ ½ (μ² + e^ℓ − 1 − ℓ), μ = mean, ℓ = logvar.

    The terms are summed over all axes but the first. Each has full relative precision, also near μ = ℓ = 0, where the
    form 1 + ℓ − μ² − e^ℓ would consist of rounding errors.

    Args:
        mean: μ, first axis = samples.
        logvar: ℓ = log σ², the same shape.
        free_bits: λ ≥ 0, in nats: each dimension of each sample costs max(λ, KL). So a dimension that is already close
            to the standard normal is not pushed closer.
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar (one divergence per sample for reduction="none").

    Raises:
        ValueError: the shapes differ, free_bits is negative, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        ½ (1² + 1 − 1 − 0) + ½ (0 + 2 − 1 − log 2) = 1 − ½ log 2 = 0.653426…

        >>> import numpy as np
        >>> round(float(gaussian_kl_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, np.log(2.0)]]))), 6)
        0.653426

    Source:
        D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, 2014, appendix B. https://arxiv.org/abs/1312.6114
        Free bits: D. P. Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016, which
        has the maximum of λ and the mean over the minibatch, where here each sample has its own.
        https://arxiv.org/abs/1606.04934
    """
    return _gaussian_kl.value(mean, logvar, free_bits, **reduction)


@gradient_of(gaussian_kl_divergence, terms=_gaussian_kl, properties=("convex", "non_negative"))
def gaussian_kl_divergence_gradient(
    mean: ArrayT, logvar: ArrayT, *, free_bits: float = 0.0, **reduction: Unpack[GradientReduction]
) -> NamedArrays[ArrayT]:
    """μ / B and ½ (e^ℓ − 1) / B; 0 where the divergence lies below `free_bits`, not at the tie.

    Example:
        >>> import numpy as np
        >>> gradients = gaussian_kl_divergence_gradient(np.array([[1.0], [3.0]]), np.array([[0.0], [np.log(3.0)]]))
        >>> {name: gradient.round(12).tolist() for name, gradient in gradients.items()}
        {'mean': [[0.5], [1.5]], 'logvar': [[0.0], [0.5]]}
    """
    return _gaussian_kl.gradient(mean, logvar, free_bits, **reduction)


def _between_gaussians(xp: Any, mean: Array, logvar: Array, other_mean: Array, other_logvar: Array) -> Any:
    """Return KL(N(mean, e^logvar) ‖ N(other_mean, e^other_logvar)) and its derivatives wrt the first two and last."""
    precision = xp.exp(-0.5 * other_logvar)  # its root: squares of both factors overflow sooner than the product
    ratio = logvar - other_logvar
    score = product(xp, mean - other_mean, precision)
    by_mean = product(xp, score, precision)
    excess = xp.expm1(ratio)
    value = 0.5 * (score * score + exponential_remainder(xp, ratio))
    return value, by_mean, 0.5 * excess, -0.5 * (score * score + excess)


@elementwise(mean=REAL, logvar=REAL, other_mean=REAL, other_logvar=REAL, slopes=2, rows=1, steep=True)
def _from_gaussian(
    xp: Any, mean: Array, logvar: Array, other_mean: Array, other_logvar: Array
) -> tuple[Array, tuple[Array, Array]]:
    value, by_mean, by_logvar, _ = _between_gaussians(xp, mean, logvar, other_mean, other_logvar)
    return value, (by_mean, by_logvar)


@_from_gaussian.curvature
def _from_gaussian_curvature(
    xp: Any, mean: Array, logvar: Array, other_mean: Array, other_logvar: Array
) -> tuple[Any, Any, Any]:
    return xp.exp(-other_logvar), 0.0, 0.5 * xp.exp(logvar - other_logvar)


@elementwise(other_mean=REAL, other_logvar=REAL, mean=REAL, logvar=REAL, slopes=2, rows=1, steep=True)
def _to_gaussian(
    xp: Any, other_mean: Array, other_logvar: Array, mean: Array, logvar: Array
) -> tuple[Array, tuple[Array, Array]]:
    value, by_mean, _, by_other_logvar = _between_gaussians(xp, mean, logvar, other_mean, other_logvar)
    return value, (-by_mean, by_other_logvar)


_between = _from_gaussian.completed_by(_to_gaussian)


def gaussian_kl_divergence_between(
    mean: ArrayT, logvar: Array, other_mean: Array, other_logvar: Array, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean over samples of KL(N(μ, e^ℓ) ‖ N(m, e^s)) = Σ ½ ((μ − m)² e^(−s) + e^(ℓ − s) − 1 − (ℓ − s)).

    The terms are summed over all axes but the first.

    Args:
        mean: μ, first axis = samples.
        logvar: ℓ, the logarithm of the variance, the same shape.
        other_mean: m, the mean of the second distribution, the same shape.
        other_logvar: s, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per sample.

    Returns:
        A scalar (one divergence per sample for reduction="none").

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        ½ (2² / 4 + 1/4 − 1 − log(1/4)) = ⅛ + log 2 = 0.818147…

        >>> import numpy as np
        >>> mean, logvar, other_mean, other_logvar = np.array([[[3.0]], [[0.0]], [[1.0]], [[np.log(4.0)]]])
        >>> round(float(gaussian_kl_divergence_between(mean, logvar, other_mean, other_logvar)), 6)
        0.818147

    Source:
        S. Kullback, Information Theory and Statistics, 1959, chapter 9.
    """
    return _between.value(mean, logvar, other_mean, other_logvar, **reduction)


@gradient_of(
    gaussian_kl_divergence_between,
    terms=_between,
    properties=("convex", "non_negative"),
)
def gaussian_kl_divergence_between_gradient(
    mean: Array,
    logvar: Array,
    other_mean: Array,
    other_logvar: Array,
    *,
    wrt: GaussianArgument | tuple[GaussianArgument, ...] = ("mean", "logvar"),
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(μ − m) e^(−s) / B and ½ (e^(ℓ − s) − 1) / B; wrt m and s their negatives, less ½ (μ − m)² e^(−s) / B for s.

    Args:
        wrt: one of the four arguments, or a tuple of some.

    Returns:
        New arrays by name, each with its argument's shape and dtype; or one array if `wrt` is no tuple.

    Example:
        (3 − 1) / 4 = ½ and ½ (¼ − 1) = −⅜.

        >>> import numpy as np
        >>> gaussians = np.array([[[3.0]], [[0.0]], [[1.0]], [[np.log(4.0)]]])
        >>> gradients = gaussian_kl_divergence_between_gradient(*gaussians)
        >>> {name: gradient.round(12).tolist() for name, gradient in gradients.items()}
        {'mean': [[0.5]], 'logvar': [[-0.375]]}
        >>> gaussian_kl_divergence_between_gradient(*gaussians, wrt="other_logvar").round(12).tolist()
        [[-0.125]]
    """
    return _between.gradient(mean, logvar, other_mean, other_logvar, wrt=wrt, **reduction)


# --- between two sets of numbers --------------------------------------------------------------------------------------

_POWER = Interval(1.0, closed=True, static=True)


def _distances(
    predictions: Array, targets: Array, p: float, axis: int, slopes: bool
) -> tuple[Array, Array | None, tuple[int, ...]]:
    """Return the distance of each row, its slopes wrt predictions if wanted, and the axis of the samples."""
    xp = array_namespace(predictions=predictions, targets=targets)
    dtype = widest_dtype(xp, predictions=predictions, targets=targets)
    shapes = tuple(predictions.shape), tuple(targets.shape)
    axis = normalize_axis("axis", axis, len(shapes[0]))
    others = [(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes]
    if others[0] != others[1]:
        raise ValueError(
            f"predictions and targets must have the same shape but along axis {axis}, got {shapes[0]} and {shapes[1]}"
        )
    n, m = shapes[0][axis], shapes[1][axis]
    if min(n, m) < 1:
        raise ValueError(f"the distance needs at least one sample on either side, got {n} and {m}")
    rows = Flattening.along(axis, shapes[0])
    x = rows.of(xp, as_dtype(xp, predictions, dtype))
    y = xp.sort(Flattening.along(axis, shapes[1]).of(xp, as_dtype(xp, targets, dtype)), axis=-1)
    order = stable_order(xp, x) if slopes else None
    x = xp.sort(x, axis=-1) if order is None else take_in_order(xp, x, order)
    if n == m:
        share: Any = n ** (-1.0 / p)
        steps = share * (x - y)
    else:
        found, shared = matching(xp, n, m, x)
        share = shared ** (1.0 / p)
        matched = xp.reshape(xp.take(y, xp.reshape(found, (-1,)), axis=-1), (*x.shape, found.shape[1]))
        steps = share * (xp.expand_dims(x, axis=-1) - matched)
        steps = xp.reshape(steps, (*x.shape[:-1], math.prod(found.shape)))
    values, unit = norm_and_unit(xp, steps, p)
    if order is None:
        return values, None, rows.flattened
    pulled = share * unit if n == m else xp.sum(share * xp.reshape(unit, (*x.shape, found.shape[1])), axis=-1)
    return values, rows.back(xp, put_back(xp, pulled, order)), rows.flattened


def _wasserstein_kinks(predictions: Array, targets: Array, axis: int, **_: Any) -> tuple[Array, ...]:
    """Return what vanishes where two samples of a row are equal, whether in one set or in both."""
    xp = array_namespace(predictions=predictions)
    samples = xp.sort(xp.concat([predictions, targets], axis=axis), axis=axis)
    rows = Flattening.along(axis, tuple(samples.shape)).of(xp, samples)
    return (xp.min(rows[..., 1:] - rows[..., :-1], axis=-1),)


@unreduced(
    by_numpy=True,
    on_request=("targets",),
    kinks=_wasserstein_kinks,
    predictions=SAMPLES,
    targets=SAMPLES,
    p=_POWER,
    axis=Axis(),
)
def _wasserstein(predictions: Array, targets: Array, p: float, axis: int, wanted: Wanted) -> Losses:
    sides = {"predictions": (predictions, targets), "targets": (targets, predictions)}
    found = {name: _distances(*sides[name], p, axis, slopes=True) for name in wanted}
    # sets of different sizes are rounded differently in the two directions; the predictions' direction gives the value
    side = "predictions" if wanted.value or not wanted else wanted[0]
    values, _, summed = found.get(side) or _distances(predictions, targets, p, axis, slopes=False)
    return Losses(values, lambda: {name: slopes for name, (_, slopes, _) in found.items()}, summed)


def wasserstein_distance(
    predictions: ArrayT, targets: Array, *, p: float = 1.0, axis: int = -1, **reduction: Unpack[RowReduction]
) -> ArrayT:
    """Mean over rows of W_p = (∫₀¹ |F⁻¹(u) − G⁻¹(u)|^p du)^(1/p), F and G the distributions of two sets of numbers.

    In one dimension the best transport keeps the order. For sets of equal size W_p = (mean |x₍ᵢ₎ − y₍ᵢ₎|^p)^(1/p) with
    sorted samples. Otherwise the mass of a sample is divided among the samples of the other set at the same quantiles.

    Args:
        predictions: samples x, any shape.
        targets: samples y, the same shape but along `axis`: their number may differ.
        p: p ≥ 1, the power of the distance by which a sample is moved.
        axis: the axis of the samples of one row; the other axes count rows.
        **reduction: see `reduce_loss`; the unreduced losses are one per row.

    Returns:
        A scalar (one distance per row for reduction="none").

    Raises:
        ValueError: the shapes do not fit, axis is out of range, a row has no sample, p is less than 1, or a reduction
            keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        Sorted, 1 goes to 2 and 3 to 7: (1 + 4) / 2 = 2.5. Of three samples, 0, 0 and 3 against 0 and 3, the second goes
        half way to 3: W₁ = 3/6.

        >>> import numpy as np
        >>> float(wasserstein_distance(np.array([3.0, 1.0]), np.array([2.0, 7.0])))
        2.5
        >>> float(wasserstein_distance(np.array([0.0, 0.0, 3.0]), np.array([0.0, 3.0])))
        0.5

    Source:
        For p = 1: S. S. Vallender, Calculation of the Wasserstein Distance Between Probability Distributions on the
        Line, 1974. https://doi.org/10.1137/1118101. For all p: G. Peyré and M. Cuturi, Computational Optimal Transport:
        With Applications to Data Science, 2019, remark 2.30. https://doi.org/10.1561/2200000073
    """
    return _wasserstein.value(predictions, targets, p, axis, **reduction)


@gradient_of(
    wasserstein_distance,
    terms=_wasserstein,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def wasserstein_distance_gradient(
    predictions: Array,
    targets: Array,
    *,
    p: float = 1.0,
    axis: int = -1,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientRowReduction],
) -> Any:
    """|d|^(p−1) sign(d) W^(1−p) / n / B for sample x₍ᵢ₎ and d = x₍ᵢ₎ − y₍ᵢ₎; 0 where W = 0.

    If the mass of a sample is divided, its slope is the mean over the parts. Equal samples keep their order.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Example:
        >>> import numpy as np
        >>> wasserstein_distance_gradient(np.array([3.0, 1.0]), np.array([2.0, 7.0])).tolist()
        [-0.5, -0.5]
        >>> wasserstein_distance_gradient(np.array([5.0, 1.0]), np.array([1.0, 2.0]), p=2.0).round(6).tolist()
        [0.707107, 0.0]
    """
    return _wasserstein.gradient(predictions, targets, p, axis, wrt=wrt, **reduction)


wasserstein_distance_value_and_gradient = both_of(wasserstein_distance_gradient)


# --- between two sets of samples --------------------------------------------------------------------------------------

KernelName = Literal["rbf", "linear", "polynomial"]
_KERNEL = Choice(("rbf", "linear", "polynomial"))
_DEGREE = Count()
_ORDER = Interval(0.0, 2.0, closed_above=True, static=True)
_SAMPLES: dict[str, Any] = {"predictions": PointSets(3, 5), "targets": PointSets(4, 5)}


def _rbf(xp: Any, squared: Array, rate: Any) -> tuple[Array, Array]:
    """k = exp(−½ (d/σ)²) and σ² ∂k/∂d², with the rate 1/σ, whose square may overflow or vanish."""
    value = xp.exp(-0.5 * (squared * rate * rate))
    return value, -0.5 * value


def _polynomial(xp: Any, products: Array, degree: int, coef0: Any) -> tuple[Array, Array]:
    """k = (x·y + c)^p and ∂k/∂(x·y)."""
    base = products + coef0
    power = base ** (degree - 1)
    return base * power, degree * power


def _distance(xp: Any, squared: Array) -> tuple[Array, Array]:
    """d and ∂d/∂d² = 1/2d, both 0 at coincident points."""
    positive = xp.where(squared == 0.0, 1.0, squared)
    value = squared / xp.sqrt(positive)
    return value, 0.5 * value / positive


def _power(xp: Any, squared: Array, beta: float) -> tuple[Array, Array]:
    """d^β and ∂d^β/∂d², both 0 at coincident points."""
    positive = xp.where(squared == 0.0, 1.0, squared)
    value = squared * positive ** (0.5 * beta - 1.0)
    return value, (0.5 * beta) * value / positive


_RBF = distance_kernel(_rbf, fusable=True)
_DISTANCE = distance_kernel(_distance, fusable=True)


def _require_samples(sets: Sets, least: int, estimator: str) -> None:
    n, m = sets.x.shape[-2], sets.y.shape[-2]
    if min(n, m) < least:
        raise ValueError(f"{estimator} needs at least {least} samples on either side, got {n} and {m}")


def _never_negative(sets: Sets, parts: tuple[Array, Array, Array]) -> Array:
    """Return the sum of the parts, which is never negative in exact arithmetic."""
    xp, x, y = sets.xp, sets.x, sets.y
    total, scale = (as_dtype(xp, sum(f(part) for part in parts), x.dtype) for f in (lambda part: part, xp.abs))
    return never_negative(xp, total, terms=x.shape[-2] + y.shape[-2], scale=scale)


def _of_equal_sets(sets: Sets, values: Array | None, slopes: dict[str, Array]) -> Losses:
    """Return losses that are exactly 0 for equal sets, where the sums differ only by rounding.

    A slope that overflowed is 0 there, too, because the distance of equal sets is a minimum.
    """
    xp, x, y = sets.xp, sets.x, sets.y
    if tuple(x.shape) == tuple(y.shape):
        if values is not None:
            values = xp.where(xp.all(x == y, axis=(1, 2)), 0.0, values)
        if not (xp is np and all(np.isfinite(slope).all() for slope in slopes.values())):
            equal = xp.all(x == y, axis=(1, 2), keepdims=True)
            slopes = {name: xp.where(equal & ~xp.isfinite(slope), 0.0, slope) for name, slope in slopes.items()}
    return sets.losses(values, slopes)


def _rate(sets: Sets, bandwidth: Any) -> Any:
    """Return 1/σ, or the largest finite number if it overflows."""
    largest = float(sets.xp.finfo(sets.x.dtype).max)
    return min(1.0 / bandwidth, largest) if isinstance(bandwidth, float) else sets.xp.minimum(1.0 / bandwidth, largest)


def _linear_mmd(sets: Sets, unbiased: bool) -> tuple[Array, dict[str, Array]]:
    """‖x̄ − ȳ‖², for the unbiased estimator minus s²/n + s²/m; no pairs are computed."""
    xp, n, m = sets.xp, sets.x.shape[-2], sets.y.shape[-2]
    origin = sets.y[:, :1, :]
    x, y = sets.x - origin, sets.y - origin  # so that samples far from 0 lose no digits in their means
    x_mean, y_mean = xp.mean(x, axis=-2, keepdims=True), xp.mean(y, axis=-2, keepdims=True)
    difference = x_mean - y_mean
    values = xp.sum(difference * difference, axis=(-2, -1))
    by_x = xp.broadcast_to(difference / (0.5 * n), tuple(x.shape))
    by_y = xp.broadcast_to(difference / (-0.5 * m), tuple(y.shape))
    if unbiased:
        x, y = x - x_mean, y - y_mean
        x_pairs, y_pairs = float(n * (n - 1)), float(m * (m - 1))
        values = values - xp.sum(x * x, axis=(-2, -1)) / x_pairs - xp.sum(y * y, axis=(-2, -1)) / y_pairs
        by_x, by_y = by_x - x / (0.5 * x_pairs), by_y - y / (0.5 * y_pairs)
    return values, {"predictions": by_x, "targets": by_y}


def _kernel_mmd(
    sets: Sets, kernel: Kernel, parameters: tuple[Any, ...], unbiased: bool, wanted: Wanted
) -> tuple[Any, dict[str, Any]]:
    """a Σ k(x, x′) + b Σ k(y, y′) + c Σ k(x, y), without the diagonals for the unbiased estimator."""
    xp, n, m = sets.xp, sets.x.shape[-2], sets.y.shape[-2]
    shares = (1.0 / (n * (n - unbiased)), 1.0 / (m * (m - unbiased)), -2.0 / (n * m))
    asked = ("predictions" in wanted, "targets" in wanted)
    parts, slopes = two_sample_sums(sets, kernel, parameters, shares, value=wanted.value, slopes=asked)
    if not unbiased:
        return None if parts is None else _never_negative(sets, parts), dict(zip(_SAMPLES, slopes, strict=True))
    values, corrected = None if parts is None else sum(parts), {}
    for name, x, share, slope in zip(_SAMPLES, (sets.x, sets.y), shares, slopes, strict=False):
        diagonal, by_x = kernel.diagonal(xp, x, parameters)
        values = None if values is None else values - share * xp.sum(diagonal, axis=-1)
        corrected[name] = None if slope is None else slope - share * by_x
    return values, corrected


@unreduced(
    separable=False,  # batch elements are independent, but the tiles already fit the cache
    by_numpy=True,
    on_request=("targets",),
    pairwise=True,
    **_SAMPLES,
    kernel_type=_KERNEL,
    kernel_bandwidth=POSITIVE,
    unbiased=FLAG,
    degree=_DEGREE,
    coef0=NON_NEGATIVE,
)
def _mmd(
    predictions: Array,
    targets: Array,
    kernel_type: str,
    kernel_bandwidth: Any,
    unbiased: bool,
    degree: int,
    coef0: Any,
    wanted: Wanted,
) -> Losses:
    sets = Sets.of(numbers=(kernel_bandwidth, coef0), predictions=predictions, targets=targets)
    bandwidth = sets.bring(POSITIVE.one_number("kernel_bandwidth", kernel_bandwidth))
    coef0 = sets.bring(NON_NEGATIVE.one_number("coef0", coef0))
    _require_samples(sets, 2 if unbiased else 1, "the unbiased estimator" if unbiased else "the discrepancy")
    if kernel_type == "linear":
        values, slopes = _linear_mmd(sets, unbiased)
    elif kernel_type == "rbf":
        rate = _rate(sets, bandwidth)
        values, slopes = _kernel_mmd(sets, _RBF, (rate,), unbiased, wanted)
        slopes = {name: None if x is None else bounded(sets.xp, x * rate * rate, x.dtype) for name, x in slopes.items()}
    else:
        values, slopes = _kernel_mmd(sets, product_kernel(_polynomial, degree), (coef0,), unbiased, wanted)
    slopes = {name: slopes[name] for name in wanted}
    return sets.losses(values, slopes) if unbiased else _of_equal_sets(sets, values, slopes)


def maximum_mean_discrepancy(
    predictions: ArrayT,
    targets: Array,
    *,
    kernel_type: KernelName = "rbf",
    kernel_bandwidth: float = 1.0,
    unbiased: bool = False,
    degree: int = 2,
    coef0: float = 1.0,
    **reduction: Unpack[Reduction],
) -> ArrayT:
    """Mean over the batch of MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y), x = predictions, y = targets.

    This is the squared discrepancy; E is the mean over all pairs of samples. Pairs are computed in tiles: memory grows
    with the number of samples, not with its square.

    Args:
        predictions: samples x, (…, n, features); any leading axes are the batch.
        targets: samples y, (…, m, features) with the same leading axes; m may differ from n.
        kernel_type: "rbf", k = exp(−‖x − y‖² / 2σ²); "linear", k = x·y, which compares the means only;
            or "polynomial", k = (x·y + c)^p.
        kernel_bandwidth: σ > 0 of "rbf", in the unit of the samples.
        unbiased: leave out the pairs of a sample with itself, so that the expected value is the discrepancy of the
            distributions. With these pairs (the default) the loss is never negative, and 0 for equal sets.
        degree: p of "polynomial", a whole number ≥ 1.
        coef0: c ≥ 0 of "polynomial".
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one discrepancy per batch element for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a set has no sample (fewer than two if unbiased), an option lies outside
            its domain, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        The means are 1 and 3: (1 − 3)² = 4.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0], [2.0]]]), np.array([[[3.0], [2.0], [4.0]]])
        >>> float(maximum_mean_discrepancy(x, y, kernel_type="linear"))
        4.0

    Source:
        A. Gretton et al., A Kernel Two-Sample Test, 2012. https://jmlr.org/papers/v13/gretton12a.html
    """
    options = (kernel_type, kernel_bandwidth, unbiased, degree, coef0)
    return _mmd.value(predictions, targets, *options, **reduction)


@gradient_of(
    maximum_mean_discrepancy,
    terms=_mmd,
    properties=(
        given("non_negative", unbiased=False),
        "symmetric",
        given("translation_invariant", kernel_type=("rbf", "linear")),
        given("zero_at_equality", unbiased=False),
    ),
)
def maximum_mean_discrepancy_gradient(
    predictions: Array,
    targets: Array,
    *,
    kernel_type: KernelName = "rbf",
    kernel_bandwidth: float = 1.0,
    unbiased: bool = False,
    degree: int = 2,
    coef0: float = 1.0,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(2/n² Σⱼ ∂₁k(xᵢ, xⱼ) − 2/nm Σⱼ ∂₁k(xᵢ, yⱼ)) / B, with ∂₁k the slope of k by its first argument.

    ∂₁k(x, y) is −k (x − y) / σ² for "rbf", y for "linear" and p (x·y + c)^(p − 1) y for "polynomial". If unbiased, the
    first sum leaves j = i out and has 2/n(n − 1) in place of 2/n². The gradient wrt the targets is the same with x and
    y exchanged.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Example:
        Moving one of two samples moves their mean by half as much: 2 · (1 − 3) / 2.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0], [2.0]]]), np.array([[[3.0], [2.0], [4.0]]])
        >>> maximum_mean_discrepancy_gradient(x, y, kernel_type="linear").tolist()
        [[[-2.0], [-2.0]]]
    """
    options = (kernel_type, kernel_bandwidth, unbiased, degree, coef0)
    return _mmd.gradient(predictions, targets, *options, wrt=wrt, **reduction)


maximum_mean_discrepancy_value_and_gradient = both_of(maximum_mean_discrepancy_gradient)


def _coincidences(predictions: Array, targets: Array, **_: Any) -> tuple[Array, ...]:
    """Return what vanishes where two samples of a batch element coincide."""
    xp = array_namespace(predictions=predictions, targets=targets)
    samples = xp.concat([predictions, targets], axis=-2)
    squared = xp.sum((xp.expand_dims(samples, axis=-2) - xp.expand_dims(samples, axis=-3)) ** 2, axis=-1)
    # every sample has distance 0 to itself
    others = xp.sort(squared, axis=-1)[..., 1:]
    return (xp.sqrt(xp.min(others, axis=(-2, -1))),)


@unreduced(
    separable=False,  # batch elements are independent, but the tiles already fit the cache
    by_numpy=True,
    on_request=("targets",),
    kinks=_coincidences,
    pairwise=True,
    **_SAMPLES,
    beta=_ORDER,
)
def _energy(predictions: Array, targets: Array, beta: float, wanted: Wanted) -> Losses:
    sets = Sets.of(predictions=predictions, targets=targets)
    kernel = _DISTANCE if beta == 1.0 else distance_kernel(_power, beta)
    _require_samples(sets, 1, "the distance")
    n, m = sets.x.shape[-2], sets.y.shape[-2]
    shares = (-1.0 / n**2, -1.0 / m**2, 2.0 / (n * m))
    asked = ("predictions" in wanted, "targets" in wanted)
    parts, slopes = two_sample_sums(sets, kernel, (), shares, value=wanted.value, slopes=asked)
    found = {name: slope for name, slope in zip(sets.given, slopes, strict=True) if name in wanted}
    return _of_equal_sets(sets, None if parts is None else _never_negative(sets, parts), found)


def energy_distance(
    predictions: ArrayT, targets: Array, *, beta: float = 1.0, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean over the batch of 2 E‖x − y‖^β − E‖x − x′‖^β − E‖y − y′‖^β, x = predictions, y = targets.

    E is the mean over all pairs of samples (the V-statistic), so the distance is never negative, and 0 for equal sets.
    For β = 1 in one dimension it is the square of `scipy.stats.energy_distance`. Pairs are computed in tiles: memory
    grows with the number of samples, not with its square.

    Args:
        predictions: samples x, (…, n, features); any leading axes are the batch.
        targets: samples y, (…, m, features) with the same leading axes; m may differ from n.
        beta: β in (0, 2]. For β = 2 only the means are compared: the distance is 2‖x̄ − ȳ‖².
        **reduction: see `reduce_loss`; the unreduced losses are one per batch element.

    Returns:
        A scalar (one distance per batch element for reduction="none").

    Raises:
        ValueError: the shapes do not fit, a set has no sample, beta lies outside its domain, or a reduction keyword
            does not fit.
        TypeError: an argument is not an array, or predictions are not floating point.

    Example:
        2 · (3 + 1) / 2 − (0 + 2 + 2 + 0) / 4 − 0 = 3.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0], [2.0]]]), np.array([[[3.0]]])
        >>> float(energy_distance(x, y))
        3.0

    Source:
        G. J. Székely and M. L. Rizzo, Energy Statistics: A Class of Statistics Based on Distances, 2013.
        https://doi.org/10.1016/j.jspi.2013.03.018
    """
    return _energy.value(predictions, targets, beta, **reduction)


@gradient_of(
    energy_distance,
    terms=_energy,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def energy_distance_gradient(
    predictions: Array,
    targets: Array,
    *,
    beta: float = 1.0,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    **reduction: Unpack[GradientReduction],
) -> Any:
    """(2/nm Σⱼ u(xᵢ − yⱼ) − 2/n² Σⱼ u(xᵢ − xⱼ)) / B, with u(e) = β ‖e‖^(β−2) e and u(0) = 0.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Example:
        (2 · −1) / 2 − 2 · −1 / 4 = −½ for the first sample, (2 · −1) / 2 − 2 · 1 / 4 = −1½ for the second.

        >>> import numpy as np
        >>> x, y = np.array([[[0.0], [2.0]]]), np.array([[[3.0]]])
        >>> energy_distance_gradient(x, y).tolist()
        [[[-0.5], [-1.5]]]
    """
    return _energy.gradient(predictions, targets, beta, wrt=wrt, **reduction)


energy_distance_value_and_gradient = both_of(energy_distance_gradient)
