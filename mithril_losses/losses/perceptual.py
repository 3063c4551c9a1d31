"""Losses of feature maps: images are compared by the features of a network, at the same position or at any."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import Array, array_namespace, library_name, placement
from mithril_losses.catalogue import both_of, gradient_of
from mithril_losses.domains import FLAG, POSITIVE, Count, FeatureMaps, Interval, LayerWeights
from mithril_losses.numerics.reduction import NoOthers
from mithril_losses.numerics.stable import log_softmax, norm_and_unit, take_at
from mithril_losses.numerics.validation import (
    as_dtype,
    did_you_mean,
    require_one_number,
    require_same_shape,
    widest_dtype,
)
from mithril_losses.templates.images import image_axes, require_maps
from mithril_losses.templates.unreduced import Curvature, Losses, Named, Wanted, diagonal_curvature, unreduced

__all__ = [
    "PerceptualLoss",
    "contextual_loss",
    "contextual_loss_gradient",
    "contextual_loss_value_and_gradient",
    "feature_reconstruction_loss",
    "feature_reconstruction_loss_gradient",
    "feature_reconstruction_loss_value_and_gradient",
    "style_loss",
    "style_loss_gradient",
    "style_loss_value_and_gradient",
]

Features = Any  # an array, or a dict, list or tuple of arrays
Weights = Mapping[str, float] | list[float] | tuple[float, ...] | float | None
Argument = Literal["predictions", "targets"]

_WEIGHT = Interval(0.0, closed=True, static=True)
_DOMAIN: dict[str, Any] = {
    "predictions": FeatureMaps(),
    "targets": FeatureMaps(),
    "weights": LayerWeights(),
}

# --- layers -----------------------------------------------------------------------------------------------------------

# (namespace, predictions, targets, names of the wanted arguments) → the loss of a layer and its slopes by argument
LayerLoss = Callable[[Any, Array, Array, tuple[str, ...]], tuple[Array, dict[str, Array]]]


class _LayerSecond(NamedTuple):
    """The second derivatives of the loss of a layer wrt its predictions: products with a vector, and the diagonal."""

    product: Callable[[Array], Array]
    diagonal: Callable[[], Array]
    is_diagonal: bool = False


# (namespace, predictions, targets) → the second derivatives of the loss of a layer
SecondOfLayer = Callable[[Any, Array, Array], _LayerSecond]


class _Layer(NamedTuple):
    """The feature maps of one layer, by argument, and its weight."""

    key: Any
    maps: dict[str, Array]
    weight: float


def _by_key(features: Features) -> dict[Any, Array]:
    """Return feature maps by the name or the index of their layer; one array is one layer without a name."""
    if isinstance(features, Mapping):
        return dict(features)
    if isinstance(features, (list, tuple)):
        return dict(enumerate(features))
    return {None: features}


def _kind(features: Features) -> str:
    if isinstance(features, Mapping):
        return "a dict"
    return "a list" if isinstance(features, (list, tuple)) else "one array"


def _rebuilt(features: Features, by_key: Mapping[Any, Array]) -> Features:
    """Return the arrays of `by_key` in the structure of the features."""
    if isinstance(features, Mapping):
        return {key: by_key[key] for key in features}
    if isinstance(features, (list, tuple)):
        return type(features)(by_key[i] for i in range(len(features)))
    return by_key[None]


def _layers(predictions: Features, targets: Features, weights: Weights) -> Iterator[_Layer]:
    """Yield the layers, which must be the same in all three arguments."""
    kinds = [_kind(features) for features in (predictions, targets)]
    if kinds[0] != kinds[1]:
        raise TypeError(f"predictions and targets must be of one structure, got {kinds[0]} and {kinds[1]}")
    of_predictions, of_targets = _by_key(predictions), _by_key(targets)
    if not of_predictions:
        raise ValueError("predictions hold no feature map")
    _require_same_layers("targets", of_targets, "predictions", of_predictions)
    counts = dict.fromkeys(of_predictions, 1.0) if weights is None else _by_key(weights)
    _require_same_layers("weights", counts, "predictions", of_predictions)
    for key, x in of_predictions.items():
        weight = _WEIGHT.check("weights" if key is None else f"weights[{key!r}]", counts[key])
        yield _Layer(key, {"predictions": x, "targets": of_targets[key]}, weight)


def _require_same_layers(name: str, layers: Mapping[Any, Any], other: str, others: Mapping[Any, Any]) -> None:
    _require_layers(name, layers, other, others)
    _require_layers(other, others, name, layers)


def _require_layers(name: str, layers: Mapping[Any, Any], other: str, others: Mapping[Any, Any]) -> None:
    """Raise a KeyError unless the first collection has all layers of the second."""
    for key in others:
        if key not in layers:
            known = [str(name) for name in layers]
            raise KeyError(
                f"{name} lack the layer {key!r}, which {other} have{did_you_mean(str(key), known)}; {name} have "
                f"{', '.join(known)}"
            )


def _over_layers(
    layer_loss: LayerLoss,
    predictions: Features,
    targets: Features,
    weights: Weights,
    wanted: Wanted,
    second: SecondOfLayer | None = None,
) -> Losses:
    """Return Σ_l w_l ℓ_l. A layer of weight 0 is not computed."""
    layers = list(_layers(predictions, targets, weights))
    xp = array_namespace(**{f"{name}[{layer.key!r}]": x for layer in layers for name, x in layer.maps.items()})
    slopes: dict[str, dict[Any, Array]] = {name: {} for name in wanted}
    values, found = [], {}
    for layer in layers:
        dtype = widest_dtype(xp, **layer.maps)
        maps = {name: as_dtype(xp, x, dtype) for name, x in layer.maps.items()}
        if layer.weight == 0.0:
            found = {name: xp.zeros_like(maps[name]) for name in wanted}
        else:
            value, found = layer_loss(xp, maps["predictions"], maps["targets"], wanted)
            values.append(layer.weight * value)
        for name in wanted:
            slopes[name][layer.key] = found[name]
    counts = {layer.key: layer.weight for layer in layers}
    total = values[0] if values else xp.zeros((), dtype=dtype, **placement(layers[0].maps["predictions"]))
    for value in values[1:]:
        total = total + value
    structures = {"predictions": predictions, "targets": targets}

    def scaled(factor: float) -> dict[str, Features]:
        return {
            name: _rebuilt(structures[name], {key: x * (counts[key] * factor) for key, x in by_key.items()})
            for name, by_key in slopes.items()
        }

    curvature = None if second is None else functools.partial(_curvature, xp, second, layers, predictions)
    return Losses(total, lambda: scaled(1.0), scaled=scaled, curvature=curvature)


def _curvature(xp: Any, second: SecondOfLayer, layers: list[_Layer], predictions: Features) -> Curvature:
    """Return the second derivatives of Σ_l w_l ℓ_l; those of two layers are 0."""

    def of_layers(part: Callable[[_LayerSecond, Any], Array]) -> dict[str, Features]:
        found = {}
        for layer in layers:
            dtype = widest_dtype(xp, **layer.maps)
            x, y = (as_dtype(xp, layer.maps[name], dtype) for name in ("predictions", "targets"))
            # a layer of weight 0 is not computed
            found[layer.key] = layer.weight * part(second(xp, x, y), layer.key) if layer.weight else xp.zeros_like(x)
        return {"predictions": _rebuilt(predictions, found)}

    def product(vectors: Named) -> dict[str, Features]:
        by_key = _by_key(vectors["predictions"])
        return of_layers(lambda of_layer, key: of_layer.product(by_key[key]))

    def diagonal() -> dict[str, Features]:
        return of_layers(lambda of_layer, _: of_layer.diagonal())

    first = layers[0].maps
    if second(xp, first["predictions"], first["targets"]).is_diagonal:
        return diagonal_curvature(xp, diagonal)
    return Curvature(product, diagonal)


def _shared_axes(predictions: Array, targets: Array, channels_first: bool) -> None:
    """Raise a ValueError unless two feature maps agree in all axes but rows and columns."""
    shapes = []
    for name, x in (("predictions", predictions), ("targets", targets)):
        require_maps(name, x, channels_first)
        shapes.append((tuple(x.shape[:-3]), x.shape[image_axes(channels_first)[2]]))
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"predictions and targets must agree in all axes but rows and columns, got {tuple(predictions.shape)} and "
            f"{tuple(targets.shape)}"
        )


# --- feature reconstruction -------------------------------------------------------------------------------------------


def _reconstruction_layer(xp: Any, x: Array, y: Array, wanted: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
    require_same_shape(predictions=x, targets=y)
    error, count = x - y, max(math.prod(x.shape), 1)
    slope = error / (0.5 * count)
    return xp.sum(error * error) / count, {name: slope if name == "predictions" else -slope for name in wanted}


def _reconstruction_second(xp: Any, x: Array, y: Array) -> _LayerSecond:
    half = 0.5 * max(math.prod(x.shape), 1)
    return _LayerSecond(lambda v: v / half, lambda: xp.ones_like(x) / half, is_diagonal=True)


@unreduced(curved=True, on_request=("targets",), **_DOMAIN)
def _feature_reconstruction(predictions: Features, targets: Features, weights: Weights, wanted: Wanted) -> Losses:
    return _over_layers(_reconstruction_layer, predictions, targets, weights, wanted, _reconstruction_second)


def feature_reconstruction_loss(
    predictions: Features, targets: Features, *, weights: Weights = None, **others: Unpack[NoOthers]
) -> Array:
    """Σ_l w_l · mean (F_l − F*_l)² over the layers l, with F = predictions and F* = targets.

    The mean runs over all elements of a layer, images included.

    Args:
        predictions: F, a feature map of any shape, or a dict, list or tuple of them, one per layer.
        targets: F*, the same layers in the same shapes.
        weights: w_l ≥ 0, by name or in the order of the layers. They are not normalized, and 1 by default.

    Returns:
        A scalar.

    Raises:
        KeyError: predictions, targets and weights do not have the same layers.
        ValueError: two feature maps differ in shape, a weight is negative, or there is no layer.
        TypeError: something is not an array, or not floating point.

    Example:
        1 · (1 + 9) / 2 + ½ · 4 = 7.

        >>> import numpy as np
        >>> predictions = {"fine": np.array([1.0, 3.0]), "coarse": np.array([2.0])}
        >>> targets = {"fine": np.array([0.0, 0.0]), "coarse": np.array([0.0])}
        >>> float(feature_reconstruction_loss(predictions, targets, weights={"fine": 1.0, "coarse": 0.5}))
        7.0

    Source:
        J. Johnson, A. Alahi and L. Fei-Fei, Perceptual Losses for Real-Time Style Transfer and Super-Resolution, 2016.
        https://doi.org/10.1007/978-3-319-46475-6_43
    """
    return _feature_reconstruction.value(predictions, targets, weights, **others)


@gradient_of(
    feature_reconstruction_loss,
    terms=_feature_reconstruction,
    properties=(
        "convex",
        "non_negative",
        "symmetric",
        "translation_invariant",
        "zero_at_equality",
        "constant_curvature",
    ),
)
def feature_reconstruction_loss_gradient(
    predictions: Features,
    targets: Features,
    *,
    weights: Weights = None,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> Any:
    """2 w_l (F_l − F*_l) / n_l, with n_l the number of elements of the layer.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Returns:
        New arrays in the structure of the argument, each with its array's shape and dtype; a dict of such structures by
        argument if `wrt` is a tuple.

    Example:
        >>> import numpy as np
        >>> feature_reconstruction_loss_gradient([np.array([1.0, 3.0])], [np.array([0.0, 0.0])], weights=[0.5])
        [array([0.5, 1.5])]
    """
    return _feature_reconstruction.gradient(predictions, targets, weights, wrt=wrt, upstream=upstream, **others)


feature_reconstruction_loss_value_and_gradient = both_of(feature_reconstruction_loss_gradient)


# --- style ------------------------------------------------------------------------------------------------------------


def _style_layer(channels_first: bool) -> LayerLoss:
    def layer(xp: Any, x: Array, y: Array, wanted: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
        _shared_axes(x, y, channels_first)
        shapes = {"predictions": tuple(x.shape), "targets": tuple(y.shape)}
        features = {name: _positions(xp, z, channels_first) for name, z in zip(shapes, (x, y), strict=True)}
        sizes = {name: max(math.prod(shape[-3:]), 1) for name, shape in shapes.items()}
        grams = [_gram(xp, z, channels_first) / sizes[name] for name, z in features.items()]
        error = grams[0] - grams[1]
        count = max(math.prod(error.shape), 1)
        slopes = {}
        for name in wanted:
            divisor = (0.25 if name == "predictions" else -0.25) * count * sizes[name]
            z = features[name]
            slope = (error @ z if channels_first else z @ error) / divisor
            slopes[name] = xp.reshape(slope, shapes[name])
        return xp.sum(error * error) / count, slopes

    return layer


def _style_second(channels_first: bool) -> SecondOfLayer:
    """With F of positions × channels, E = G − G* and S = H W C: H V = c (V E + F (Vᵀ F + Fᵀ V) / S), c = 4 / (n S)."""

    def second(xp: Any, x: Array, y: Array) -> _LayerSecond:
        features, others = (_positions(xp, z, channels_first) for z in (x, y))
        size = max(math.prod(x.shape[-3:]), 1)
        error = _gram(xp, features, channels_first) / size
        error = error - _gram(xp, others, channels_first) / max(math.prod(y.shape[-3:]), 1)
        divisor = 0.25 * max(math.prod(error.shape), 1) * size
        turn = xp.matrix_transpose

        def product(v: Array) -> Array:
            moved = _positions(xp, v, channels_first)
            change = moved @ turn(features) if channels_first else turn(moved) @ features
            change = error, (change + turn(change)) / size
            if channels_first:
                return xp.reshape((change[0] @ moved + change[1] @ features) / divisor, tuple(x.shape))
            return xp.reshape((moved @ change[0] + features @ change[1]) / divisor, tuple(x.shape))

        def diagonal() -> Array:
            channels = -2 if channels_first else -1
            squares = features * features
            own = xp.sum(error * xp.eye(error.shape[-1], dtype=x.dtype, **placement(x)), axis=-1)
            own = xp.expand_dims(own, axis=-1 if channels_first else -2)
            return xp.reshape(
                (own + (squares + xp.sum(squares, axis=channels, keepdims=True)) / size) / divisor, tuple(x.shape)
            )

        return _LayerSecond(product, diagonal)

    return second


def _positions(xp: Any, x: Array, channels_first: bool) -> Array:
    """Return feature maps with rows and columns flattened into one axis."""
    if channels_first:
        return xp.reshape(x, (*x.shape[:-2], math.prod(x.shape[-2:])))
    return xp.reshape(x, (*x.shape[:-3], math.prod(x.shape[-3:-1]), x.shape[-1]))


def _gram(xp: Any, x: Array, channels_first: bool) -> Array:
    """Return the products of all pairs of channels, summed over positions."""
    transposed = xp.matrix_transpose(x)
    return x @ transposed if channels_first else transposed @ x


@unreduced(curved=True, on_request=("targets",), **_DOMAIN, channels_first=FLAG)
def _style(predictions: Features, targets: Features, weights: Weights, channels_first: bool, wanted: Wanted) -> Losses:
    layer, second = _style_layer(channels_first), _style_second(channels_first)
    return _over_layers(layer, predictions, targets, weights, wanted, second)


def style_loss(
    predictions: Features,
    targets: Features,
    *,
    weights: Weights = None,
    channels_first: bool = False,
    **others: Unpack[NoOthers],
) -> Array:
    """Σ_l w_l · mean (G_l − G*_l)², with the Gram matrix of the channels G = Fᵀ F / (H W C) of each image.

    F has a row for each of the H W positions and a column for each of the C channels: the loss does not change when
    positions are shuffled. The mean runs over the entries of the Gram matrices, and over the images.

    Args:
        predictions: feature maps (…, rows, columns, channels), or a dict, list or tuple of them, one per layer.
        targets: the same layers; rows and columns may differ in number.
        weights: w_l ≥ 0, by name or in the order of the layers. They are not normalized, and 1 by default.
        channels_first: whether the layout is (…, channels, rows, columns) instead.

    Returns:
        A scalar.

    Raises:
        KeyError: predictions, targets and weights do not have the same layers.
        ValueError: two feature maps differ in channels or in leading axes, a weight is negative, or there is no layer.
        TypeError: something is not an array, or not floating point.

    Example:
        One position with two channels, (2, 4): G = (4, 8; 8, 16) / 2, against 0: (4 + 16 + 16 + 64) / 4 = 25.

        >>> import numpy as np
        >>> predictions, targets = np.array([[[[2.0, 4.0]]]]), np.zeros((1, 1, 1, 2))
        >>> float(style_loss(predictions, targets))
        25.0

    Source:
        L. A. Gatys, A. S. Ecker and M. Bethge, Image Style Transfer Using Convolutional Neural Networks, 2016.
        https://doi.org/10.1109/CVPR.2016.265. The Gram matrix over H W C: J. Johnson, A. Alahi and L. Fei-Fei,
        Perceptual Losses for Real-Time Style Transfer and Super-Resolution, 2016.
        https://doi.org/10.1007/978-3-319-46475-6_43. Neither paper takes the mean over its entries: both add the
        squares of the entries.
    """
    return _style.value(predictions, targets, weights, channels_first, **others)


@gradient_of(style_loss, terms=_style, properties=("non_negative", "symmetric", "zero_at_equality"))
def style_loss_gradient(
    predictions: Features,
    targets: Features,
    *,
    weights: Weights = None,
    channels_first: bool = False,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> Any:
    """4 w_l F_l (G_l − G*_l) / (B C² · H W C), for each image of the batch of B.

    Args:
        wrt: "predictions", "targets", or a tuple of both.

    Returns:
        New arrays in the structure of the argument, each with its array's shape and dtype; a dict of such structures by
        argument if `wrt` is a tuple.

    Example:
        F = (2, 4) and G = (2, 4; 4, 8): 4 (2 · 2 + 4 · 4, 2 · 4 + 4 · 8) / (4 · 2) = (10, 20).

        >>> import numpy as np
        >>> predictions, targets = np.array([[[[2.0, 4.0]]]]), np.zeros((1, 1, 1, 2))
        >>> style_loss_gradient(predictions, targets).tolist()
        [[[[10.0, 20.0]]]]
    """
    return _style.gradient(predictions, targets, weights, channels_first, wrt=wrt, upstream=upstream, **others)


style_loss_value_and_gradient = both_of(style_loss_gradient)


# --- contextual -------------------------------------------------------------------------------------------------------

_MAX_SAMPLES = Count()
_EPSILON = 1e-5  # as in the paper: added to the smallest distance before the others are divided by it


class _Affinity(NamedTuple):
    """The similarity of each position x_i of one image to each position y_j of another, with intermediate results."""

    distances: Array  # d_ij = 1 − cos(x_i − ȳ, y_j − ȳ)
    nearest: Array  # argmin_k d_ik
    scale: Array  # min_k d_ik + ε
    shares: Array  # CX_ij
    x_unit: Array
    y_unit: Array
    x_inverse: Array  # 1 / ‖x_i − ȳ‖, and 0 for the zero vector
    y_inverse: Array


def _affinity(xp: Any, x: Array, y: Array, band_width: Any) -> _Affinity:
    origin = y[..., :1, :]  # subtracted before the mean is taken: a common offset would cost the mean digits
    x, y = x - origin, y - origin
    centre = xp.mean(y, axis=-2, keepdims=True)
    x_unit, x_inverse = _unit(xp, x - centre)
    y_unit, y_inverse = _unit(xp, y - centre)
    distances = xp.maximum(1.0 - x_unit @ xp.matrix_transpose(y_unit), 0.0)
    # at an index: XLA's derivative of a least number searches for an equal one, and may find none, 0 / 0
    nearest_at = xp.argmin(distances, axis=-1)
    nearest = xp.expand_dims(take_at(xp, distances, nearest_at, -1), axis=-1)
    scale = nearest + _EPSILON
    # (1 − d / scale) / h minus its largest entry, which does not change a softmax
    weights = xp.exp((nearest - distances) / (scale * band_width))
    shares = weights / xp.sum(weights, axis=-1, keepdims=True)
    return _Affinity(distances, nearest_at, scale, shares, x_unit, y_unit, x_inverse, y_inverse)


def _unit(xp: Any, x: Array) -> tuple[Array, Array]:
    """Return x / ‖x‖ and 1 / ‖x‖ over the last axis; both are 0 for a vector whose derivative would overflow."""
    norm, unit = norm_and_unit(xp, x, 2.0)
    norm = xp.expand_dims(norm, axis=-1)
    vanishes = norm <= math.sqrt(float(xp.finfo(x.dtype).smallest_normal))
    return xp.where(vanishes, 0.0, unit), xp.where(vanishes, 0.0, 1.0 / xp.where(vanishes, 1.0, norm))


def _contextual_images(
    xp: Any, x: Array, y: Array, band_width: Any, wanted: tuple[str, ...]
) -> tuple[Array, dict[str, Array]]:
    """Return the losses of images given as positions × channels, and their slopes."""
    at = _affinity(xp, x, y, band_width)
    best_at = xp.argmax(at.shares, axis=-2)
    total = xp.sum(take_at(xp, at.shares, best_at, -2), axis=-1)
    losses = xp.maximum(-xp.log(total / y.shape[-2]), 0.0)
    if not wanted:
        return losses, {}
    best = xp.expand_dims(best_at, axis=-2)
    rows = xp.reshape(xp.arange(x.shape[-2], dtype=best.dtype, **placement(best)), (-1, 1))
    by_share = xp.where(best == rows, -at.shares / xp.reshape(total, (*total.shape, 1, 1)), 0.0)
    by_logit = by_share - at.shares * xp.sum(by_share, axis=-1, keepdims=True)
    by_relative = -by_logit / band_width  # wrt d_ij / scale_i
    by_scale = -xp.sum(by_relative * at.distances, axis=-1, keepdims=True) / at.scale**2
    nearest = xp.expand_dims(at.nearest, axis=-1)
    columns = xp.arange(y.shape[-2], dtype=nearest.dtype, **placement(nearest))
    by_distance = by_relative / at.scale + xp.where(nearest == columns, by_scale, 0.0)
    by_x = _through_unit(xp, -(by_distance @ at.y_unit), at.x_unit, at.x_inverse)
    slopes = {"predictions": by_x}
    if "targets" in wanted:
        by_y = _through_unit(xp, -(xp.matrix_transpose(by_distance) @ at.x_unit), at.y_unit, at.y_inverse)
        moved = xp.sum(by_x, axis=-2, keepdims=True) + xp.sum(by_y, axis=-2, keepdims=True)
        slopes["targets"] = by_y - moved / y.shape[-2]  # x and y are centred with the mean of y
    return losses, slopes


def _through_unit(xp: Any, slope: Array, unit: Array, inverse: Array) -> Array:
    """Return the derivative wrt x of a function whose derivative wrt x / ‖x‖ is `slope`."""
    return inverse * (slope - unit * xp.sum(unit * slope, axis=-1, keepdims=True))


def _contextual_layer(band_width: Any, max_samples: Any, channels_first: bool) -> LayerLoss:
    def layer(xp: Any, x: Array, y: Array, wanted: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
        _shared_axes(x, y, channels_first)
        width = require_one_number(xp, "band_width", band_width, x.dtype)
        given = {"predictions": x, "targets": y}
        images = math.prod(x.shape[:-3])
        if 0 in (images, *x.shape[-3:], *y.shape[-3:]):
            return xp.zeros((), dtype=x.dtype, **placement(x)), {name: xp.zeros_like(given[name]) for name in wanted}
        flat = {}
        for name, z in given.items():
            positions = _sampled(xp, _positions(xp, z, channels_first), max_samples, -1 if channels_first else -2)
            positions = xp.matrix_transpose(positions) if channels_first else positions
            flat[name] = xp.reshape(positions, (images, *positions.shape[-2:]))
        losses, slopes = _by_some_images(xp, flat["predictions"], flat["targets"], width, wanted)
        spread_out = {}
        for name in wanted:
            slope = xp.reshape(slopes[name] / images, (*x.shape[:-3], *flat[name].shape[-2:]))
            slope = xp.matrix_transpose(slope) if channels_first else slope
            rows, columns, _ = image_axes(channels_first)
            count = given[name].shape[rows] * given[name].shape[columns]
            slope = _unsampled(xp, slope, count, max_samples, -1 if channels_first else -2)
            spread_out[name] = xp.reshape(slope, tuple(given[name].shape))
        return xp.sum(losses) / images, spread_out

    return layer


def _by_some_images(
    xp: Any, x: Array, y: Array, band_width: Any, wanted: tuple[str, ...]
) -> tuple[Array, dict[str, Array]]:
    """Compute as many images at a time as the memory limit allows."""
    some = max(1, limits.current.positions // (x.shape[-2] * y.shape[-2]))
    if some >= x.shape[0]:
        return _contextual_images(xp, x, y, band_width, wanted)
    if library_name(xp) == "jax":
        import jax

        found: tuple[Array, dict[str, Array]] = jax.lax.map(
            lambda pair: _contextual_images(xp, pair[0], pair[1], band_width, wanted), (x, y), batch_size=some
        )
        return found
    parts = [
        _contextual_images(xp, x[i : i + some, ...], y[i : i + some, ...], band_width, wanted)
        for i in range(0, x.shape[0], some)
    ]
    slopes = {name: xp.concat([slopes[name] for _, slopes in parts], axis=0) for name in parts[0][1]}
    return xp.concat([losses for losses, _ in parts], axis=0), slopes


def _sampled(xp: Any, x: Array, most: int, axis: int) -> Array:
    """Return all n positions, or `most` of them in even steps: the k-th one has the index ⌊k n / most⌋."""
    count = x.shape[axis]
    if count <= most:
        return x
    return xp.take(x, xp.asarray(_places(count, most), **placement(x)), axis=axis)


def _unsampled(xp: Any, slope: Array, count: int, most: int, axis: int) -> Array:
    """Return the slopes at their indices among `count` positions, 0 elsewhere: the transpose of `_sampled`."""
    if count <= most:
        return slope
    source = np.full(count, most)  # a row of zeros beyond the samples
    source[_places(count, most)] = np.arange(most)
    nothing = xp.zeros_like(slope[..., :1] if axis == -1 else slope[..., :1, :])
    return xp.take(xp.concat([slope, nothing], axis=axis), xp.asarray(source, **placement(slope)), axis=axis)


def _places(count: int, most: int) -> Any:
    return np.arange(most) * count // most


def _contextual_kinks(
    predictions: Features,
    targets: Features,
    weights: Weights,
    band_width: Any,
    max_samples: int,
    channels_first: bool,
) -> tuple[Array, ...]:
    """Return, for each image, what vanishes where two positions are equally near, or equally good matches."""
    kinks: tuple[Array, ...] = ()
    for layer in _layers(predictions, targets, weights):
        xp = array_namespace(**layer.maps)
        x, y = (
            _sampled(xp, _positions(xp, z, channels_first), max_samples, -1 if channels_first else -2)
            for z in layer.maps.values()
        )
        if channels_first:
            x, y = xp.matrix_transpose(x), xp.matrix_transpose(y)
        at = _affinity(xp, x, y, band_width)
        relative = at.distances / at.scale
        log_shares, _ = log_softmax(xp, -relative / band_width, -1)
        for values, axis in ((relative, -1), (log_shares, -2)):
            if values.shape[axis] > 1:
                ordered = xp.sort(values, axis=axis)
                ends = (0, 1) if axis == -1 else (-2, -1)
                first, second = (ordered[..., i] if axis == -1 else ordered[..., i, :] for i in ends)
                kinks += (xp.min(second - first, axis=-1),)
    return kinks


@unreduced(
    on_request=("targets",),
    kinks=_contextual_kinks,
    **_DOMAIN,
    band_width=POSITIVE,
    max_samples=_MAX_SAMPLES,
    channels_first=FLAG,
)
def _contextual(
    predictions: Features,
    targets: Features,
    weights: Weights,
    band_width: Any,
    max_samples: int,
    channels_first: bool,
    wanted: Wanted,
) -> Losses:
    layer_loss = _contextual_layer(band_width, max_samples, channels_first)
    return _over_layers(layer_loss, predictions, targets, weights, wanted)


def contextual_loss(
    predictions: Features,
    targets: Features,
    *,
    weights: Weights = None,
    band_width: float = 0.1,
    max_samples: int = 1024,
    channels_first: bool = False,
    **others: Unpack[NoOthers],
) -> Array:
    """Σ_l w_l · mean over images of −log (Σ_j max_i CX_ij / m), with CX_ij the softmax over j of (1 − d̃_ij) / h.

    d̃_ij = d_ij / (min_k d_ik + 10⁻⁵), and d_ij = 1 − cos(x_i − ȳ, y_j − ȳ): the cosine distance of position i of the
    predictions and position j of the m positions of the targets, both minus the mean ȳ of the targets. The loss tells
    how well every target is matched by any position. A zero vector has the distance 1 to all others.

    Args:
        predictions: feature maps (…, rows, columns, channels), or a dict, list or tuple of them, one per layer.
        targets: the same layers; rows and columns may differ in number.
        weights: w_l ≥ 0, by name or in the order of the layers. They are not normalized, and 1 by default.
        band_width: h > 0. The smaller h, the more the nearest position dominates.
        max_samples: the most positions of an image that are used; memory grows with its square. If n > max_samples,
            the positions ⌊k n / max_samples⌋, k = 0, 1, …, are used, counted by rows. The others have the gradient 0.
        channels_first: whether the layout is (…, channels, rows, columns) instead.

    Returns:
        A scalar between 0 and log m. It is near 0 if every target is matched by a different position and h is small; it
        need not be 0 for equal feature maps.

    Raises:
        KeyError: predictions, targets and weights do not have the same layers.
        ValueError: two feature maps differ in channels or in leading axes, or an option lies outside its domain.
        TypeError: something is not an array, or not floating point.

    Example:
        The targets are 1 and −1; a prediction of 2 has the direction of the first: d = (0, 2) and CX = (1, 0). Nothing
        matches the second target: −log ((1 + 0) / 2) = log 2.

        >>> import numpy as np
        >>> predictions, targets = np.array([[[2.0]]]), np.array([[[1.0], [-1.0]]])
        >>> round(float(contextual_loss(predictions, targets)), 12)
        0.69314718056

    Source:
        R. Mechrez, I. Talmi and L. Zelnik-Manor, The Contextual Loss for Image Transformation with Non-Aligned Data,
        2018. https://arxiv.org/abs/1803.02077
    """
    return _contextual.value(predictions, targets, weights, band_width, max_samples, channels_first, **others)


@gradient_of(
    contextual_loss, terms=_contextual, properties=("non_negative", "scale_invariant", "translation_invariant")
)
def contextual_loss_gradient(
    predictions: Features,
    targets: Features,
    *,
    weights: Weights = None,
    band_width: float = 0.1,
    max_samples: int = 1024,
    channels_first: bool = False,
    wrt: Argument | tuple[Argument, ...] = "predictions",
    upstream: float | Array = 1.0,
    **others: Unpack[NoOthers],
) -> Any:
    """−Σ_j (u_ij − x̂_i (x̂_i · u_ij)) / ‖x_i − ȳ‖ · w_l / B, with u_ij = ŷ_j ∂ℓ/∂d_ij and x̂, ŷ the unit vectors.

    ∂ℓ/∂d_ij = −g_ij / (h s_i) + [j is the nearest to i] Σ_k d_ik g_ik / (h s_i²), with s_i = min_k d_ik + 10⁻⁵ and g_ij
    = CX_ij (c_ij − Σ_k CX_ik c_ik), where c_ij = −1 / Σ_k max_a CX_ak if i is the best for j, else 0. If several
    positions are nearest or best, the first one is used. The gradient is 0 for a position equal to ȳ, and for positions
    that `max_samples` leaves out.

    Args:
        wrt: "predictions", "targets" (which also move ȳ), or a tuple of both.

    Returns:
        New arrays in the structure of the argument, each with its array's shape and dtype; a dict of such structures by
        argument if `wrt` is a tuple.

    Example:
        Targets (1, 0) and (−1, 0). The first prediction has the distances (0.4, 1.6), the second (1, 1); with e^(−3/h)
        = ⅓ CX is (¾, ¼; ½, ½) and Σ max = 5/4. Hence g = (−0.15, 0.15; 0.2, −0.2) and h ∂ℓ/∂d = (1.5, −0.375; −0.2,
        0.2). So descent moves the first prediction to the first target, and the second to the second.

        >>> import numpy as np
        >>> predictions, targets = np.array([[[3.0, 4.0], [0.0, 1.0]]]), np.array([[[1.0, 0.0], [-1.0, 0.0]]])
        >>> h = 3.0 / np.log(3.0)
        >>> (h * contextual_loss_gradient(predictions, targets, band_width=h) + 0.0).round(3).tolist()
        [[[-0.24, 0.18], [0.4, 0.0]]]
    """
    options = (weights, band_width, max_samples, channels_first)
    return _contextual.gradient(predictions, targets, *options, wrt=wrt, upstream=upstream, **others)


contextual_loss_value_and_gradient = both_of(contextual_loss_gradient)


# --- all of them in one -----------------------------------------------------------------------------------------------


class PerceptualLoss:
    """a · feature reconstruction + b · style + c · contextual loss of two batches of images or of their features.

    Called with images, the object computes their features with the extractor; called with features, it needs no
    extractor. The gradient is wrt the predictions that were given, images or features. Wrt images the extractor must be
    a compiled model, which gets the gradients of the features as its output gradients.

    Args:
        feature_extractor: a compiled model (an adapter of `mithril_losses.models`, or any object with its `evaluate`)
            whose outputs are feature maps; or a function from images to features, which gives values only. A model
            whose `evaluate` takes no `wrt` gets the images as a parameter, and its own parameters as data.
        layer_weights: the weight of each layer, ≥ 0, by name. Layers that are not named have the weight 0. By default
            all layers have the weight 1.
        content_weight: a ≥ 0, the weight of `feature_reconstruction_loss`.
        style_weight: b ≥ 0, the weight of `style_loss`.
        contextual_weight: c ≥ 0, the weight of `contextual_loss`.
        max_contextual_samples: `max_samples` of `contextual_loss`.
        band_width: of `contextual_loss`.
        channels_first: whether the layout of feature maps is (…, channels, rows, columns).
        extractor_params: the parameters of a compiled extractor, by name; none by default.
        image_name: the name under which a compiled extractor takes images.

    Raises:
        ValueError: a weight is negative.
        TypeError: a weight is not a number.

    Example:
        Features 3 and 1: content (3 − 1)² = 4, style (3² − 1²)² = 64, 4 + 0.5 · 64 = 36.

        >>> import numpy as np
        >>> perceptual = PerceptualLoss(content_weight=1.0, style_weight=0.5)
        >>> pred, target = {"conv1": np.full((1, 1, 1, 1), 3.0)}, {"conv1": np.ones((1, 1, 1, 1))}
        >>> float(perceptual(features_pred=pred, features_target=target))
        36.0

        An extractor with one feature, twice the image, as a compiled model: the gradient is wrt the image.

        >>> from mithril_losses.models import CallableModel
        >>> twice = CallableModel(
        ...     forward=lambda params, data: {"twice": 2.0 * data["images"]},
        ...     vjp=lambda params, data, gradients: {"images": 2.0 * gradients["twice"]},
        ... )
        >>> value, gradient = PerceptualLoss(twice).value_and_gradient(np.array([[[[3.0]]]]), np.array([[[[1.0]]]]))
        >>> float(value), gradient.item()
        (16.0, 16.0)
    """

    name = "perceptual_loss"
    wrt = ("pred_images",)

    def __init__(
        self,
        feature_extractor: Any = None,
        layer_weights: Mapping[str, float] | None = None,
        content_weight: float = 1.0,
        style_weight: float = 0.0,
        contextual_weight: float = 0.0,
        max_contextual_samples: int = 512,
        *,
        band_width: float = 0.1,
        channels_first: bool = False,
        extractor_params: Mapping[str, Array] | None = None,
        image_name: str = "images",
    ) -> None:
        self._extractor = feature_extractor
        self._layer_weights = layer_weights
        self._parts: list[tuple[float, LayerLoss]] = [
            (_WEIGHT.check("content_weight", content_weight), _reconstruction_layer),
            (_WEIGHT.check("style_weight", style_weight), _style_layer(FLAG.check("channels_first", channels_first))),
            (
                _WEIGHT.check("contextual_weight", contextual_weight),
                _contextual_layer(
                    POSITIVE.check("band_width", band_width),
                    _MAX_SAMPLES.check("max_contextual_samples", max_contextual_samples),
                    channels_first,
                ),
            ),
        ]
        self._params = {} if extractor_params is None else extractor_params
        self._image_name = image_name
        self._terms = unreduced(on_request=("targets",), **_DOMAIN)(self._losses)

    def __call__(
        self,
        pred_images: Array | None = None,
        target_images: Array | None = None,
        *,
        features_pred: Features = None,
        features_target: Features = None,
    ) -> Array:
        """Return the loss of images or, where they are given, of features.

        Raises:
            KeyError: a layer is missing.
            ValueError: the features do not fit, or there are neither features nor images.
        """
        predictions = self._features("pred", pred_images, features_pred)
        targets = self._features("target", target_images, features_target)
        return self._terms.value(*self._used(predictions, targets))

    def gradient(
        self,
        pred_images: Array | None = None,
        target_images: Array | None = None,
        *,
        features_pred: Features = None,
        features_target: Features = None,
        upstream: float | Array = 1.0,
    ) -> Any:
        """Return the gradient wrt `features_pred`, in their structure, or, if they are not given, wrt `pred_images`.

        Raises:
            KeyError: a layer is missing.
            ValueError: the features do not fit, or there are neither features nor images.
            TypeError: the gradient wrt images is wanted, but the extractor is not a compiled model.
        """
        _, gradient = self.value_and_gradient(
            pred_images,
            target_images,
            features_pred=features_pred,
            features_target=features_target,
            upstream=upstream,
        )
        return gradient

    def value_and_gradient(
        self,
        pred_images: Array | None = None,
        target_images: Array | None = None,
        *,
        features_pred: Features = None,
        features_target: Features = None,
        upstream: float | Array = 1.0,
    ) -> tuple[Array, Any]:
        """Return the loss and its gradient."""
        through_extractor = features_pred is None
        if through_extractor and self._extractor is not None and not self._is_compiled:
            raise TypeError(
                "the gradient wrt images needs an extractor that is a compiled model (an adapter of "
                f"mithril_losses.models makes one), got {type(self._extractor).__name__}"
            )
        predictions = self._features("pred", pred_images, features_pred)
        targets = self._features("target", target_images, features_target)
        value, gradient = self._terms.both(*self._used(predictions, targets), upstream=upstream)
        if through_extractor:
            _, gradients = self._run(pred_images, output_gradients=gradient)
            return value, gradients[self._image_name]
        if self._layer_weights is None:
            return value, gradient
        given = _by_key(predictions)
        xp = array_namespace(**{str(key): x for key, x in given.items()})
        others = {key: xp.zeros_like(x) for key, x in given.items() if key not in self._layer_weights}
        return value, _rebuilt(predictions, {**gradient, **others})

    @property
    def _is_compiled(self) -> bool:
        return callable(getattr(self._extractor, "evaluate", None))

    def _features(self, side: str, images: Array | None, features: Features) -> Features:
        if features is not None:
            return features
        if images is None:
            raise ValueError(f"{self.name} needs {side}_images or features_{side}")
        if self._extractor is None:
            raise ValueError(f"{self.name} without a feature_extractor needs features_{side}")
        return self._run(images) if self._is_compiled else self._extractor(images)

    def _run(self, images: Array, **gradients: Any) -> Any:
        """Evaluate the compiled extractor; with `output_gradients`, also differentiate it wrt the images."""
        model: Any = self._extractor
        given = {self._image_name: images}
        if "wrt" not in inspect.signature(model.evaluate).parameters:
            return model.evaluate(given, self._params, **gradients)
        return model.evaluate(self._params, given, **gradients, **({"wrt": [self._image_name]} if gradients else {}))

    def _used(self, predictions: Features, targets: Features) -> tuple[Features, Features, Weights]:
        """Return the layers whose weight is not 0, and their weights."""
        named = self._layer_weights
        if named is None:
            return predictions, targets, None
        found = [_by_key(features) for features in (predictions, targets)]
        for name, layers in zip(("predictions", "targets"), found, strict=True):
            _require_layers(name, layers, "layer_weights", named)
        used_predictions, used_targets = ({key: layers[key] for key in named} for layers in found)
        return used_predictions, used_targets, named

    def _losses(self, predictions: Features, targets: Features, weights: Weights, wanted: Wanted) -> Losses:
        return _over_layers(self._layer, predictions, targets, weights, wanted)

    def _layer(self, xp: Any, x: Array, y: Array, wanted: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
        """Return the weighted sum of the losses of one layer, and its slopes."""
        total = xp.zeros((), dtype=x.dtype, **placement(x))
        slopes = {name: xp.zeros_like(x if name == "predictions" else y) for name in wanted}
        for weight, part in self._parts:
            if weight > 0.0:
                value, found = part(xp, x, y, wanted)
                total = total + weight * value
                slopes = {name: slopes[name] + weight * found[name] for name in wanted}
        return total, slopes
