"""Points at which a loss is checked: small arguments from its whole domain, with every option, reduction and `wrt`.

Options are numbers of few binary digits, so that floating-point results like 1 − ε and ½ δ² are exact.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from mithril_losses.catalogue import Pair
from mithril_losses.checking.drawing import Arrays, Options, Variant, draw_arguments, reductions, variants
from mithril_losses.domains import Choice, Flag, Interval

_SHAPE, _VARIANT_SHAPE = (3, 4), (6, 5)
_ITERATED_SHAPE = (2, 4)  # for losses that are solved by iterations, where each step costs as much as another loss
_REDUCTIONS = 13  # points of a loss that takes reductions: one for each
_LEAST = 4  # points of a loss that does not
_BITS = 7  # binary digits of an option

# the values of options whose domain does not say enough: among exponents, some are powers of two and some are not
_IN_TURN: dict[str, tuple[Any, ...]] = {
    "p": (2.0, 1.0, 4.0, 3.0),
    "reduction": ("sum", "mean", "batch_sum"),
}
# until the masses of a plan are right to fifty digits
_SOLVED = {"mass_tolerance": 1e-50, "max_iterations": 1_000_000}
_WIDTHS = (2.0, 4.0, 1.0)  # widths at which this takes a few hundred iterations

# losses with eˣ − 1 − x of a logarithm of variances
OF_VARIANCES = (
    "gaussian_kl_divergence",
    "gaussian_kl_divergence_between",
    "vae_loss",
    "beta_vae_loss",
    "vae_loss_free_bits",
)


@dataclass(frozen=True)
class Point:
    """A point at which a loss is checked: arguments, options and `wrt`.

    Attributes:
        pair: the loss.
        name: the name of the point.
        arrays: the array arguments, as NumPy arrays.
        options: the options, with NumPy arrays, and the keywords of the reduction.
        wrt: the argument `wrt=` of the gradient, one name or several; empty for the default.
    """

    pair: Pair
    name: str
    arrays: Arrays
    options: Options
    wrt: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}, wrt={self.wrt}" if self.wrt else self.name


def points(pair: Pair) -> Iterator[Point]:
    """Yield the points of a loss: enough for each reduction, each `wrt` and each choice of an option.

    Raises:
        ValueError: the loss declares no domain for one of its arrays.
    """
    requests = _requests(pair)
    for k, (name, arrays, options) in enumerate(_settings(pair)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ways = list(reductions(pair, _rows(pair, arrays, options)))
        reduction, keywords = ways[k % len(ways)]
        yield Point(pair, f"{name}, {reduction}", arrays, {**options, **keywords}, requests[k % len(requests)])


def _requests(pair: Pair) -> list[tuple[str, ...]]:
    if not pair.on_request:
        return [()]
    everything = tuple(name for name in pair.array_arguments if name in (*pair.wrt, *pair.on_request))
    return [(), *((name,) for name in everything), everything, everything[::-1]]


def _rows(pair: Pair, arrays: Arrays, options: Options) -> tuple[int, ...]:
    """Return the shape of the unreduced loss."""
    if not pair.takes_reduction:
        return ()
    loose = {name: x for name, x in options.items() if name not in _SOLVED}
    return np.shape(pair.value(*arrays.values(), **loose, reduction="none"))


def _settings(pair: Pair) -> Iterator[Variant]:
    choices = {name: cycle(values) for name, values in _choices(pair).items()}
    is_iterated = any(name in pair.options for name in _SOLVED)
    shape, variant_shape = (_ITERATED_SHAPE, _ITERATED_SHAPE) if is_iterated else (_SHAPE, _VARIANT_SHAPE)
    if is_iterated:
        choices["epsilon"] = cycle(_WIDTHS)
    for seed in range(max(_REDUCTIONS if pair.takes_reduction else _LEAST, len(_requests(pair)))):
        arrays, options = draw_arguments(pair, np.random.default_rng(seed), shape)
        chosen = {name: next(values) for name, values in choices.items()}
        yield f"drawn {seed}", arrays, _settled(pair, {**options, **chosen})
    arrays, options = draw_arguments(pair, np.random.default_rng(0), variant_shape)
    for name, others, more in (*variants(pair, arrays), *_further(pair, arrays)):
        yield name, others, _settled(pair, {**options, **more})


def _choices(pair: Pair) -> dict[str, tuple[Any, ...]]:
    """Return the values of each option that is not a free number."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in pair.options:
        domain = pair.domain.get(name)
        if isinstance(domain, Flag) and name not in _BY_HAND:
            found[name] = (False, True)
        elif isinstance(domain, Choice):
            found[name] = domain.names
        elif name in _IN_TURN and isinstance(domain, Interval) and domain.high == math.inf:
            found[name] = _IN_TURN[name]
    return found


# flags that need other arrays
_BY_HAND = frozenset({"channels_first", "log_input"})


def _settled(pair: Pair, options: Options) -> Options:
    """Return options as numbers of few digits, with settings under which iterations converge."""
    solved = {name: x for name, x in _SOLVED.items() if name in pair.options}
    return {name: _short(pair.domain.get(name), x) for name, x in options.items()} | solved


def _short(domain: Any, x: Any) -> Any:
    """Return a value of few binary digits near x, inside the domain of an option."""
    if isinstance(x, tuple) and all(isinstance(part, float) for part in x):
        return tuple(_short(Interval(), part) for part in x)
    if type(x) is not float or not math.isfinite(x) or x == 0.0:
        return x
    unit = 2.0 ** (math.frexp(x)[1] - _BITS)
    near = round(x / unit) * unit
    return near if not isinstance(domain, Interval) or domain.check("option", near) == near else x


# --- beyond the variants ----------------------------------------------------------------------------------------------


def _further(pair: Pair, arrays: Arrays) -> Iterator[Variant]:
    """Yield the variants that only the exact check uses: the remaining options."""
    generator = np.random.default_rng(11)
    for names, make in _FURTHER.items():
        if pair.name in names:
            yield from make(pair, arrays, generator)


def _wide_variances(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    """Logarithms of variances, or of their ratios, between ±0.8 and ±3, where no approximation is used."""
    shape = arrays["logvar"].shape
    for reduction in _IN_TURN["reduction"]:
        wide = generator.choice([-1.0, 1.0], shape) * generator.uniform(0.8, 3.0, shape)
        options = {} if pair.takes_reduction else {"reduction": reduction}
        yield "wide variances", {**arrays, "logvar": wide + arrays.get("other_logvar", 0.0)}, options


def _weighted_points(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    """Weights and masks of points."""
    shapes = {side: np.shape(arrays[f"{side}_points"])[:-1] for side in ("pred", "target")}
    masks = {f"{side}_mask": np.arange(shape[-1]) % 3 != 1 for side, shape in shapes.items()}
    masks = {name: np.broadcast_to(mask, shapes[name[:-5]]) for name, mask in masks.items() if name in pair.options}
    weights = {f"{side}_weights": generator.uniform(0.25, 2.0, shape) for side, shape in shapes.items()}
    weights = {name: x for name, x in weights.items() if name in pair.options}
    if weights:
        yield "weighted points", arrays, weights
    if masks:
        yield "masked points", arrays, masks
    if weights and masks:
        yield "weighted and masked points", arrays, {**weights, **masks}


def _planes(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    planes = {name: np.moveaxis(x, -1, -3) for name, x in arrays.items()}
    yield "channels first", planes, {"channels_first": True, "window_size": 3}
    larger = {name: generator.standard_normal((2, 6, 6, 1)) for name in arrays}
    one_scale = {"scale_weights": (0.75,)} if "scale_weights" in pair.options else {}
    yield "a wide window", larger, {"window_size": 5, **one_scale}


def _class_axes(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    masks = {name: generator.uniform(0.05, 0.95, (3, 2, 4)) for name in arrays}
    yield "classes on axis 1", masks, {"class_axis": 1}
    labels = {**masks, "targets": generator.integers(0, 2, (3, 4))}
    yield "labels", labels, {"class_axis": 1, "class_weights": np.array([0.5, 2.0]), "ignore_index": 1}


def _layer_weights(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    yield "weights of layers", arrays, {"weights": {"fine": 0.5, "coarse": 2.0}}


def _selected(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    yield "without vectors", arrays, {"select": lambda path, w: len(w.shape) > 1}


def _other_axes(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    yield "along axis 0", arrays, {next(name for name in ("axis", "output_axis") if name in pair.options): 0}


def _own_projections(pair: Pair, arrays: Arrays, generator: np.random.Generator) -> Iterator[Variant]:
    directions = np.array([[1.0, 0.0], [0.0, -1.0], [0.6, 0.8]])
    pad = ((0, 0), (0, np.shape(arrays["pred_points"])[-1] - 2))
    yield "own projections", arrays, {"projections": np.pad(directions, pad)}


_FURTHER: Mapping[tuple[str, ...], Callable[..., Iterator[Variant]]] = {
    OF_VARIANCES: _wide_variances,
    ("chamfer_distance", "hausdorff_distance", "sinkhorn_divergence"): _weighted_points,
    ("ssim_loss", "multi_scale_ssim_loss"): _planes,
    ("jaccard_loss", "tversky_loss", "generalized_dice_loss"): _class_axes,
    ("feature_reconstruction_loss",): _layer_weights,
    ("l1_regularization", "l2_regularization"): _selected,
    ("wasserstein_distance", "psnr_loss", "orthogonal_regularization", "spectral_norm_regularization"): _other_axes,
    ("sliced_wasserstein_distance",): _own_projections,
}
