"""What other libraries call losses and options, and their names here.

One table for each: messages read them, and a test holds the page "Coming from other libraries" to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from mithril_losses.numerics.validation import did_you_mean, nearest_name

# The losses of other libraries by their names there, and what to write here. A name that both sides have, such as
# `huber_loss`, is not listed: it is found here.
LOSSES: Mapping[str, str] = MappingProxyType(
    {
        name: here
        for names, here in (
            # PyTorch
            ("l1_loss L1Loss", "mae_loss"),
            ("MSELoss", "mse_loss"),
            ("HuberLoss", "huber_loss"),
            ("SmoothL1Loss", "smooth_l1_loss"),
            (
                "cross_entropy CrossEntropyLoss",
                "cross_entropy_with_logits; weight= is class_weights=, and classes on axis 1 need class_axis=1",
            ),
            (
                "nll_loss NLLLoss",
                "cross_entropy_with_logits: log-probabilities are logits; or cross_entropy_loss of probabilities",
            ),
            ("BCELoss", "binary_cross_entropy"),
            ("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"),
            ("soft_margin_loss SoftMarginLoss", "logistic_loss"),
            (
                "kl_div KLDivLoss",
                "reverse_kl_divergence(exp(log_predictions), targets), which takes probabilities, not their logarithms",
            ),
            ("triplet_margin_loss TripletMarginLoss", "triplet_loss"),
            ("CosineEmbeddingLoss", "cosine_embedding_loss"),
            ("poisson_nll_loss PoissonNLLLoss", "poisson_negative_log_likelihood"),
            ("gaussian_nll_loss GaussianNLLLoss", "gaussian_negative_log_likelihood(mean, log(variance), targets)"),
            # torchvision
            ("generalized_box_iou_loss", "generalized_iou_loss"),
            ("distance_box_iou_loss", "distance_iou_loss"),
            ("complete_box_iou_loss", "complete_iou_loss"),
            # optax
            ("squared_error", 'mse_loss(predictions, targets, reduction="none")'),
            ("l2_loss", '0.5 * mse_loss(predictions, targets, reduction="none")'),
            ("log_cosh", "log_cosh_loss"),
            ("sigmoid_binary_cross_entropy", "binary_cross_entropy_with_logits"),
            (
                "softmax_cross_entropy softmax_cross_entropy_with_integer_labels safe_softmax_cross_entropy",
                "cross_entropy_with_logits",
            ),
            ("sigmoid_focal_loss", "focal_loss_with_logits"),
            # Keras and TensorFlow, where the targets come first
            ("MeanSquaredError", "mse_loss(predictions, targets)"),
            ("MeanAbsoluteError", "mae_loss(predictions, targets)"),
            ("Huber", "huber_loss(predictions, targets)"),
            ("LogCosh", "log_cosh_loss(predictions, targets)"),
            (
                "BinaryCrossentropy binary_crossentropy",
                "binary_cross_entropy_with_logits(logits, targets), or binary_cross_entropy of probabilities",
            ),
            (
                "CategoricalCrossentropy categorical_crossentropy "
                "SparseCategoricalCrossentropy sparse_categorical_crossentropy",
                "cross_entropy_with_logits(logits, targets), or cross_entropy_loss of probabilities",
            ),
            ("BinaryFocalCrossentropy", "focal_loss_with_logits(logits, targets), or focal_loss of probabilities"),
            ("KLDivergence", "reverse_kl_divergence(predictions, targets)"),
            ("Hinge", "hinge_loss(predictions, targets), with targets −1 and +1"),
            ("Poisson", "poisson_negative_log_likelihood(predictions, targets, log_input=False)"),
            ("Dice", "dice_loss(predictions, targets)"),
            ("Tversky", "tversky_loss(predictions, targets)"),
            (
                "softmax_cross_entropy_with_logits sparse_softmax_cross_entropy_with_logits",
                "cross_entropy_with_logits(logits, targets)",
            ),
            ("sigmoid_cross_entropy_with_logits", "binary_cross_entropy_with_logits(logits, targets)"),
            (
                "weighted_cross_entropy_with_logits",
                "binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)",
            ),
            # scikit-learn, SciPy and scikit-image
            ("mean_squared_error", "mse_loss(predictions, targets)"),
            ("mean_pinball_loss", "pinball_loss(predictions, targets, quantile=alpha)"),
            ("mean_absolute_percentage_error MeanAbsolutePercentageError", "mape_loss(predictions, targets)"),
            ("mean_squared_log_error MeanSquaredLogarithmicError", "msle_loss(predictions, targets)"),
            ("mean_gamma_deviance", "2 * gamma_negative_log_likelihood of log-means, up to a constant"),
            ("pseudo_huber", "pseudo_huber_loss(predictions, targets)"),
            ("mean_absolute_error", "mae_loss(predictions, targets)"),
            ("log_loss", "cross_entropy_loss(predictions, targets), or cross_entropy_with_logits of logits"),
            ("entropy", "kl_divergence"),
            ("jensenshannon", "js_divergence, which is the square"),
            ("directed_hausdorff", "hausdorff_distance, which is of both directions"),
            ("structural_similarity", "ssim_loss, which is 1 − the similarity"),
        )
        for name in names.split()
    }
)

# The keywords of other libraries, and what may be meant by them here: the first that the loss takes is.
KEYWORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "beta": ("delta",),
        "weight": ("class_weights", "weights"),
        "class_weight": ("class_weights", "pos_weight"),
        "sample_weight": ("weights",),
        "sample_weights": ("weights",),
        "mask": ("weights",),
        "where": ("weights",),
        "size_average": ("reduction",),
        "reduce": ("reduction",),
        "dim": ("class_axis", "axis"),
        "label_smoothing_factor": ("label_smoothing",),
        "smoothing": ("label_smoothing", "smooth"),
        "ignore_class": ("ignore_index",),
        "ignore_label": ("ignore_index",),
        "positive_weight": ("pos_weight",),
        "eps": ("epsilon",),
        "smooth_eps": ("smooth",),
        "temp": ("temperature",),
        "tau": ("temperature",),
        "sigma": ("kernel_bandwidth",),
        "bandwidth": ("kernel_bandwidth",),
        "data_range": ("max_value",),
        "max_val": ("max_value",),
    }
)

# The losses of logits that belong to losses of probabilities.
ON_LOGITS: Mapping[str, str] = MappingProxyType(
    {
        "cross_entropy_loss": "cross_entropy_with_logits",
        "binary_cross_entropy": "binary_cross_entropy_with_logits",
        "focal_loss": "focal_loss_with_logits",
        "dice_loss": "dice_loss_with_logits",
        "generalized_dice_loss": "generalized_dice_loss_with_logits",
        "jaccard_loss": "jaccard_loss_with_logits",
        "tversky_loss": "tversky_loss_with_logits",
        "focal_tversky_loss": "focal_tversky_loss_with_logits",
        "lovasz_softmax_loss": "lovasz_softmax_loss_with_logits",
        "vanilla_generator_loss": "non_saturating_generator_loss",
        "vanilla_discriminator_loss": "non_saturating_discriminator_loss",
    }
)


def no_such_name(name: str, known: Iterable[str]) -> str:
    """Return the words after "there is no `name`": what it is called here, the nearest loss on logits first.

    Example:
        >>> no_such_name("L1Loss", [])
        ': here it is mae_loss'
        >>> no_such_name("crossentropy", ["cross_entropy_loss", "cross_entropy_with_logits"])
        "; did you mean 'cross_entropy_with_logits', or 'cross_entropy_loss' of probabilities?"
    """
    if name in LOSSES:
        return f": here it is {LOSSES[name]}"
    known = list(known)
    nearest = nearest_name(name, known) or nearest_name(_in_words(name), known)
    on_logits = ON_LOGITS.get(nearest or "")
    if on_logits in known:
        return f"; did you mean {on_logits!r}, or {nearest!r} of probabilities?"
    return f"; did you mean {nearest!r}?" if nearest else ""


def _in_words(name: str) -> str:
    """Return a name in camel case as words with underscores.

    Example:
        >>> _in_words("DiceLoss")
        'dice_loss'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def no_such_option(loss: str, option: str, options: Iterable[str]) -> str:
    """Return the message that a loss has no such option: what is meant, and which options there are.

    Example:
        >>> no_such_option("huber_loss", "beta", ["delta", "reduction"])
        "huber_loss has no option 'beta'; did you mean 'delta'? (options: delta, reduction)"
        >>> no_such_option("focal_loss", "from_logits", ["gamma"])
        "focal_loss has no option 'from_logits': it takes probabilities; for logits there is focal_loss_with_logits"
    """
    options = list(dict.fromkeys(options))
    told = f"{loss} has no option {option!r}"
    if option == "from_logits" and loss in ON_LOGITS:
        return f"{told}: it takes probabilities; for logits there is {ON_LOGITS[loss]}"
    if option == "from_logits" and loss in ON_LOGITS.values():
        return f"{told}: it takes logits"
    meant = next((name for name in KEYWORDS.get(option, ()) if name in options), None)
    hint = f"; did you mean {meant!r}?" if meant else did_you_mean(option, options)
    return f"{told}{hint} (options: {', '.join(options)})" if options else f"{told}: it has no options"
