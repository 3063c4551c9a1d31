"""Arguments at which losses are checked: drawn from their domains, and variants that no domain can draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mithril_losses.catalogue import Pair
from mithril_losses.domains import ArrayDomain, Axes, Interval, ScaleWeights

Arrays = dict[str, Any]
Options = dict[str, Any]
Variant = tuple[str, Arrays, Options]


def draw_arguments(
    pair: Pair, generator: np.random.Generator, shape: tuple[int, ...] = (6, 5)
) -> tuple[Arrays, Options]:
    """Draw array arguments of `shape` and options of numbers from a loss's declared domain.

    Raises:
        ValueError: the loss declares no domain for one of its arrays.
    """
    missing = [name for name in pair.array_arguments if not isinstance(pair.domain.get(name), ArrayDomain)]
    if missing:
        raise ValueError(f"{pair.name} declares no domain for {', '.join(missing)}")
    arrays = {name: pair.domain[name].sample(generator, shape) for name in pair.array_arguments}
    options = {
        name: domain.sample(generator)
        for name, domain in pair.domain.items()
        if name in pair.options and isinstance(domain, Interval | Axes | ScaleWeights)
    }
    return arrays, options


def reductions(pair: Pair, rows: tuple[int, ...]) -> Iterator[tuple[str, Options]]:
    """Yield the reductions of unreduced losses of a shape: each one plain, weighted, over an axis, normalized."""
    if not pair.takes_reduction:
        yield "plain", {}
        return
    weights = np.asarray(np.random.default_rng(3).uniform(0.2, 2.0, rows))
    if weights.size > 1:
        weights.flat[1] = 0.0
    for reduction in ("mean", "sum", "none", "weighted_mean", "batch_sum"):
        yield reduction, {"reduction": reduction}
        yield f"{reduction}, weighted", {"reduction": reduction, "weights": weights}
    yield "mean, normalized", {"normalizer": 7.0, "weights": weights}
    if pair.takes_axis and rows:
        yield "weighted mean over an axis", {"reduction": "weighted_mean", "axis": -1, "weights": weights[:1]}
        yield "sum over an axis", {"reduction": "sum", "axis": (0,)}


def variants(pair: Pair, arrays: Arrays) -> Iterator[Variant]:
    """Yield name, arrays and options of variants that cannot be drawn from the domain: options that are not numbers.

    Args:
        pair: the loss.
        arrays: arguments as `draw_arguments` returns them for the shape (6, 5).
    """
    family = _FAMILIES.get(pair.family)
    if family is not None:
        yield from family(pair, arrays, np.random.default_rng(7))


# --- variants by family -----------------------------------------------------------------------------------------------


def _classification(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name.startswith("cross_entropy"):
        yield from _cross_entropy(pair, arrays, generator)
    elif pair.name == "binary_cross_entropy_with_logits":
        yield "weighted positives", arrays, {"pos_weight": 3.0}
        yield "weights per class", arrays, {"pos_weight": np.array([0.5, 1.0, 2.0, 3.0, 0.0])}
        yield "hard targets", {**arrays, "targets": np.round(arrays["targets"])}, {}
    elif pair.name.startswith("focal_loss"):
        for gamma in (0.0, 0.5, 1.0):
            yield f"gamma {gamma}", arrays, {"gamma": gamma}


def _cross_entropy(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    scores, weights = pair.wrt[0], np.array([0.5, 1.0, 2.0, 0.25, 1.5])
    probabilities = generator.uniform(0.1, 1.0, (6, 5))
    mixed = {scores: arrays[scores], "targets": probabilities / probabilities.sum(axis=1, keepdims=True)}
    images = {
        scores: np.moveaxis(generator.dirichlet(np.ones(3), (2, 4, 2)), -1, 1),
        "targets": generator.integers(0, 3, (2, 4, 2)),
    }
    ignoring = {**arrays, "targets": np.array([1, 4, -1, 0, -1, 2])}
    ignoring_a_class = {**arrays, "targets": np.array([1, 4, 3, 0, 3, 2])}
    yield "weighted classes", arrays, {"class_weights": weights}
    yield "smoothed", arrays, {"label_smoothing": 0.2}
    yield "weighted and smoothed", arrays, {"label_smoothing": 0.2, "class_weights": weights}
    yield "ignoring", ignoring, {"ignore_index": -1}
    everything = {"ignore_index": 3, "class_weights": weights, "label_smoothing": 0.1}
    yield "ignoring, weighted", ignoring_a_class, everything
    yield "probabilities", mixed, {}
    yield "probabilities, weighted", mixed, {"class_weights": weights, "label_smoothing": 0.3}
    yield "unnormalized masses", {**mixed, "targets": 3.0 * probabilities}, {}
    yield "class axis", images, {"class_axis": 1}


def _language(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name == "next_token_cross_entropy":
        tokens = np.where(arrays["tokens"] == 2, -7, arrays["tokens"])
        yield "ignoring", {**arrays, "tokens": tokens}, {"ignore_index": -7}
    else:
        weights, bias = generator.uniform(0.2, 2.0, 7), generator.standard_normal(7)
        ignoring = {**arrays, "targets": np.array([6, 4, -1, 0, -1, 2])}
        options = {"ignore_index": -1, "label_smoothing": 0.1, "z_loss": 0.2, "soft_cap": 2.0, "chunk_rows": 4}
        yield "plain", arrays, {}
        yield "chunked", arrays, {"chunk_rows": 4, "bias": bias}
        yield "ignoring, chunked", ignoring, {"chunk_rows": 2, "ignore_index": -1}
        yield "everything", ignoring, {"bias": bias, "class_weights": weights, **options}


def _likelihood(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if "full" in pair.options:
        yield "full", arrays, {"full": True}
    if pair.name == "poisson_negative_log_likelihood":
        yield "rates", {**arrays, "predictions": np.exp(arrays["predictions"])}, {"log_input": False}
    if pair.name == "flow_negative_log_likelihood":
        yield "logistic", arrays, {"prior": "logistic"}


def _divergence(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name == "gaussian_kl_divergence":
        yield "without free bits", arrays, {}
    elif pair.name == "wasserstein_distance":
        yield "unequal counts", {**arrays, "targets": generator.standard_normal((6, 7))}, {"p": 2.0}
    elif pair.name == "maximum_mean_discrepancy":
        yield "unbiased", arrays, {"unbiased": True, "kernel_bandwidth": 2.0}
        yield "linear", arrays, {"kernel_type": "linear", "unbiased": True}
        yield "polynomial", arrays, {"kernel_type": "polynomial", "degree": 3, "unbiased": True, "coef0": 0.5}


def _geometric(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name == "chamfer_distance":
        yield "unsquared", arrays, {"squared": False}


def _transport(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name == "sinkhorn_divergence":
        for p, epsilon in ((1.0, 0.5), (2.0, 4.0)):
            options = {"p": p, "epsilon": epsilon, "mass_tolerance": 1e-9, "max_iterations": 5000}
            yield f"p {p}", arrays, options


def _perceptual(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if "channels_first" in pair.options:
        generator = np.random.default_rng(14)
        first = [generator.standard_normal((2, 3, rows, 4)) for rows in (3, 2)]
        second = [generator.standard_normal((2, 3, 2, columns)) for columns in (3, 5)]
        more = {"max_samples": 6, "band_width": 2.0} if pair.name == "contextual_loss" else {}
        options = {"channels_first": True, "weights": [0.5, 2.0], **more}
        yield "lists, channels first, other sizes", {"predictions": first, "targets": second}, options


def _image(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name == "total_variation_loss":
        planes = {"images": np.moveaxis(arrays["images"], -1, -3)}
        yield "isotropic", arrays, {"norm_type": "isotropic"}
        yield "squared, channels first", planes, {"norm_type": "l2_squared", "channels_first": True}


def _segmentation(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name in ("dice_loss", "focal_tversky_loss"):
        masks = {name: generator.uniform(0.05, 0.95, (3, 2, 4)) for name in arrays}
        yield "per class", masks, {"class_axis": 1, "smooth": 0.0}
        labels = {**masks, "targets": generator.choice([0, 1, 255], (3, 4))}
        yield "labels", labels, {"class_axis": 1, "class_weights": np.array([0.5, 2.0]), "ignore_index": 255}
    elif pair.name == "lovasz_softmax_loss":
        yield "all classes", arrays, {"classes": "all", "class_weights": np.array([0.5, 2.0, 1.0])}
        classes_first = {**arrays, "predictions": np.moveaxis(arrays["predictions"], -1, 1)}
        yield "classes first, ignoring", classes_first, {"class_axis": 1, "ignore_index": 0}
    elif pair.name == "lovasz_hinge_loss":
        void = generator.random(np.shape(arrays["targets"])) < 0.3
        yield "ignoring", {**arrays, "targets": np.where(void, 255.0, arrays["targets"])}, {"ignore_index": 255}


def _segmentation_logits(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    weights = np.array([0.5, 2.0, 1.0])
    images = {"logits": generator.standard_normal((2, 3, 4, 2)), "targets": generator.integers(0, 3, (2, 4, 2))}
    options = {"class_axis": 1, "class_weights": weights, "ignore_index": 2}
    yield "labels, classes first, weighted, ignoring", images, options
    if pair.name != "lovasz_softmax_loss_with_logits":
        masks = {**images, "targets": generator.uniform(0.05, 0.95, (2, 3, 4, 2))}
        yield "probabilities, weighted", masks, {"class_axis": 1, "class_weights": weights}
        yield "several labels", masks, {"class_axis": 1, "class_weights": weights, "multilabel": True}
    if pair.name.startswith("dice_") and pair.name != "dice_loss_with_logits":
        foreground = {"logits": generator.standard_normal((3, 4)), "targets": generator.integers(0, 2, (3, 4))}
        yield "one foreground", foreground, {"class_axis": None}


def _metric_learning(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    if pair.name == "triplet_loss":
        for p in (1.0, 3.0, np.inf):
            yield f"p {p}", arrays, {"p": p}
        yield "squared", arrays, {"squared": True}
        yield "swapped", arrays, {"swap": True}
        yield "no margin", arrays, {"margin": 0.0, "squared": True, "swap": True}


def _variational(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    yield "mean", arrays, {"reduction": "mean"}
    yield "batch sum", arrays, {"reduction": "batch_sum"}


_FAMILIES = {
    "classification": _classification,
    "language": _language,
    "likelihood": _likelihood,
    "divergence": _divergence,
    "geometric": _geometric,
    "transport": _transport,
    "perceptual": _perceptual,
    "image": _image,
    "segmentation": _segmentation,
    "segmentation_logits": _segmentation_logits,
    "metric_learning": _metric_learning,
    "variational": _variational,
}
