"""What the laws run over: every registered loss, with arguments drawn from its domain, on every library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import torch

from mithril_losses import catalogue
from mithril_losses._pairs import Pair
from mithril_losses._tree import leaves, map_leaves
from mithril_losses.checking import draw_arguments

DTYPES = {  # the floating types that each library has
    "numpy": ("float64", "float32", "float16"),
    "jax": ("float64", "float32", "float16", "bfloat16"),
    "torch": ("float64", "float32", "float16", "bfloat16"),
    "array_api_strict": ("float64", "float32"),
}
LIBRARIES = tuple(DTYPES)


@dataclass(frozen=True, eq=False)
class Case:
    """A loss with array arguments (NumPy, float64) and options."""

    pair: Pair
    name: str
    arrays: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.pair.name}-{self.name}"

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        return np.shape(self.value(reduction="none"))

    @property
    def weights(self) -> np.ndarray:
        """A weight for each unreduced loss; those of the first row are zero."""
        weights = np.random.default_rng(3).uniform(0.2, 2.0, self.rows)
        weights[0] = 0.0
        return weights

    @property
    def batch(self) -> tuple[str, ...]:
        """The arrays with an entry for each row; the others (the parameters of a layer) are shared by all rows."""
        return tuple(name for name in self.arrays if not getattr(self.pair.domain.get(name), "shared", False))

    def cut(self, at: Any, name: str = "part") -> Case:
        """Return the case with some of its rows."""
        arrays = {key: x[at] if key in self.batch else x for key, x in self.arrays.items()}
        return Case(self.pair, name, arrays, self.options)

    def arguments(self, library: str, dtype: str = "float64") -> list[Any]:
        """Return the array arguments in a library; floating ones in `dtype`."""
        return [convert(x, library, dtype) for x in self.arrays.values()]

    def keywords(self, library: str, dtype: str = "float64", **more: Any) -> dict[str, Any]:
        """Return the options and further keywords, their arrays in a library."""
        return {
            name: convert(x, library, dtype) if isinstance(x, np.ndarray) else x
            for name, x in {**self.options, **more}.items()
        }

    def value(self, library: str = "numpy", dtype: str = "float64", **more: Any) -> Any:
        return self.pair.value(*self.arguments(library, dtype), **self.keywords(library, dtype, **more))

    def by_argument(self, **more: Any) -> dict[str, Any]:
        """Return the gradient as a dict by argument."""
        gradient = self.gradient(**more)
        return gradient if len(self.pair.wrt) > 1 else {self.pair.wrt[0]: gradient}

    def gradient(self, library: str = "numpy", dtype: str = "float64", **more: Any) -> Any:
        return self.pair.gradient(*self.arguments(library, dtype), **self.keywords(library, dtype, **more))


def convert(x: Any, library: str, dtype: str = "float64") -> Any:
    """Return a NumPy array, or a nesting of them, in another library: a copy, floating arrays in `dtype`."""
    if isinstance(x, (dict, list)):
        return map_leaves(lambda _, leaf: convert(leaf, library, dtype), x)
    x = np.asarray(x)
    is_floating = np.issubdtype(x.dtype, np.floating)
    if library == "numpy":
        return np.array(x, dtype=dtype if is_floating else x.dtype)
    if library == "jax":
        return jnp.array(x, dtype=dtype if is_floating else x.dtype)
    if library == "torch":
        return torch.tensor(x, dtype=getattr(torch, dtype) if is_floating else None)
    return array_api_strict.asarray(x.astype(dtype) if is_floating else x, copy=True)


def to_numpy(x: Any) -> np.ndarray:
    """Return any array as NumPy's, in float64."""
    if isinstance(x, torch.Tensor):
        return x.detach().to(torch.float64).numpy()
    return np.asarray(x, dtype=np.float64)


def flat(result: Any) -> list[tuple[str, Any]]:
    """Return the arrays of a gradient with their paths, whatever its structure."""
    return list(leaves(result, "gradient"))


def matched(found: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, found and expected for every array of two gradients; `jax.jit` sorts the keys of a dict."""
    found, expected = dict(flat(found)), dict(flat(expected))
    assert found.keys() == expected.keys()
    for path in found:
        yield path, found[path], expected[path]


def double_precision(library: str) -> AbstractContextManager[Any]:
    return jax.enable_x64(True) if library == "jax" else nullcontext()


def _drawn(pair: Pair, seed: int, shape: tuple[int, ...] = (6, 5)) -> Case:
    arrays, options = draw_arguments(pair, np.random.default_rng(seed), shape)
    return Case(pair, "drawn", arrays, options)


def _variants(pair: Pair, arrays: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield name, arrays and options of what cannot be drawn from the domain: options that are no numbers."""
    generator = np.random.default_rng(7)
    if pair.name.startswith("cross_entropy"):
        scores = pair.wrt[0]
        weights = np.array([0.5, 1.0, 2.0, 0.25, 1.5])
        probabilities = generator.uniform(0.1, 1.0, (6, 5))
        mixed = {scores: arrays[scores], "targets": probabilities / probabilities.sum(axis=1, keepdims=True)}
        images = {
            scores: np.moveaxis(generator.dirichlet(np.ones(3), (2, 4, 2)), -1, 1),
            "targets": generator.integers(0, 3, (2, 4, 2)),
        }
        yield "weighted classes", arrays, {"class_weights": weights}
        yield "smoothed", arrays, {"label_smoothing": 0.2}
        yield "weighted and smoothed", arrays, {"label_smoothing": 0.2, "class_weights": weights}
        yield "ignoring", {**arrays, "targets": np.array([1, 4, -1, 0, -1, 2])}, {"ignore_index": -1}
        yield (
            "ignoring, weighted",
            {**arrays, "targets": np.array([1, 4, 3, 0, 3, 2])},
            {"ignore_index": 3, "class_weights": weights, "label_smoothing": 0.1},
        )
        yield "probabilities", mixed, {}
        yield "probabilities, weighted", mixed, {"class_weights": weights, "label_smoothing": 0.3}
        yield "unnormalized masses", {**mixed, "targets": 3.0 * probabilities}, {}
        yield "class axis", images, {"class_axis": 1}
    if pair.name == "linear_cross_entropy":
        weights, bias = generator.uniform(0.2, 2.0, 7), generator.standard_normal(7)
        ignoring = {**arrays, "targets": np.array([6, 4, -1, 0, -1, 2])}
        yield "plain", arrays, {}
        yield "chunked", arrays, {"chunk_rows": 4, "bias": bias}
        yield "ignoring, chunked", ignoring, {"chunk_rows": 2, "ignore_index": -1}
        yield (
            "everything",
            ignoring,
            {
                "bias": bias,
                "class_weights": weights,
                "ignore_index": -1,
                "label_smoothing": 0.1,
                "z_loss": 0.2,
                "soft_cap": 2.0,
                "chunk_rows": 4,
            },
        )
    if pair.name == "binary_cross_entropy_with_logits":
        yield "weighted positives", arrays, {"pos_weight": 3.0}
        yield "weights per class", arrays, {"pos_weight": np.array([0.5, 1.0, 2.0, 3.0, 0.0])}
        yield "hard targets", {**arrays, "targets": np.round(arrays["targets"])}, {}
    if pair.name.startswith("focal_loss"):
        for gamma in (0.0, 0.5, 1.0):
            yield f"gamma {gamma}", arrays, {"gamma": gamma}
    if pair.family == "variational":
        yield "mean", arrays, {"reduction": "mean"}
        yield "batch sum", arrays, {"reduction": "batch_sum"}
    if pair.name == "next_token_cross_entropy":
        yield (
            "ignoring",
            {**arrays, "tokens": np.where(arrays["tokens"] == 2, -7, arrays["tokens"])},
            {"ignore_index": -7},
        )
    if "full" in pair.options:
        yield "full", arrays, {"full": True}
    if pair.name == "poisson_negative_log_likelihood":
        yield "rates", {**arrays, "predictions": np.exp(arrays["predictions"])}, {"log_input": False}
    if pair.name == "flow_negative_log_likelihood":
        yield "logistic", arrays, {"prior": "logistic"}
    if pair.name == "gaussian_kl_divergence":
        yield "without free bits", arrays, {}
    if pair.name == "wasserstein_distance":
        yield "unequal counts", {**arrays, "targets": generator.standard_normal((6, 7))}, {"p": 2.0}
    if pair.name == "maximum_mean_discrepancy":
        yield "unbiased", arrays, {"unbiased": True, "kernel_bandwidth": 2.0}
        yield "linear", arrays, {"kernel_type": "linear", "unbiased": True}
        yield "polynomial", arrays, {"kernel_type": "polynomial", "degree": 3, "unbiased": True, "coef0": 0.5}
    if pair.name == "chamfer_distance":
        yield "unsquared", arrays, {"squared": False}
    if pair.name in ("style_loss", "contextual_loss"):
        generator = np.random.default_rng(14)
        first = [generator.standard_normal((2, 3, rows, 4)) for rows in (3, 2)]
        second = [generator.standard_normal((2, 3, 2, columns)) for columns in (3, 5)]
        more = {"max_samples": 6, "band_width": 2.0} if pair.name == "contextual_loss" else {}
        options = {"channels_first": True, "weights": [0.5, 2.0], **more}
        yield "lists, channels first, other sizes", {"predictions": first, "targets": second}, options
    if pair.name == "sinkhorn_divergence":
        for p, epsilon in ((1.0, 0.5), (2.0, 4.0)):
            options = {"p": p, "epsilon": epsilon, "mass_tolerance": 1e-9, "max_iterations": 5000}
            yield f"p {p}", arrays, options
    if pair.name == "total_variation_loss":
        planes = {"images": np.moveaxis(arrays["images"], -1, -3)}
        yield "isotropic", arrays, {"norm_type": "isotropic"}
        yield "squared, channels first", planes, {"norm_type": "l2_squared", "channels_first": True}
    if pair.name in ("dice_loss", "focal_tversky_loss"):
        masks = {name: generator.uniform(0.05, 0.95, (3, 2, 4)) for name in arrays}
        yield "per class", masks, {"class_axis": 1, "smooth": 0.0}
    if pair.name == "lovasz_softmax_loss":
        yield "all classes", arrays, {"classes": "all"}
        classes_first = {"predictions": np.moveaxis(arrays["predictions"], -1, 1), "targets": arrays["targets"]}
        yield "classes first, ignoring", classes_first, {"class_axis": 1, "ignore_index": 0}
    if pair.name == "triplet_loss":
        for p in (1.0, 3.0, np.inf):
            yield f"p {p}", arrays, {"p": p}
        yield "squared", arrays, {"squared": True}
        yield "swapped", arrays, {"swap": True}
        yield "no margin", arrays, {"margin": 0.0, "squared": True, "swap": True}


def cases() -> list[Case]:
    """Every loss as drawn from its domain, and its variants."""
    found = []
    for pair in catalogue().values():
        drawn = _drawn(pair, seed=sum(map(ord, pair.name)))
        found.append(drawn)
        found += [Case(pair, name, arrays, options) for name, arrays, options in _variants(pair, drawn.arrays)]
    return found


CASES = cases()
DRAWN = [case for case in CASES if case.name == "drawn"]
REDUCED = [case for case in CASES if case.pair.takes_reduction]
REDUCED_DRAWN = [case for case in REDUCED if case.name == "drawn"]


def reductions(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the reductions of a case with a name: every one, plain, weighted, over an axis, normalized."""
    if not case.pair.takes_reduction:
        yield "plain", {}
        return
    weights = np.random.default_rng(3).uniform(0.2, 2.0, case.rows)
    weights.flat[1] = 0.0
    for reduction in ("mean", "sum", "none", "weighted_mean", "batch_sum"):
        yield reduction, {"reduction": reduction}
        yield f"{reduction}, weighted", {"reduction": reduction, "weights": weights}
    yield "mean, normalized", {"normalizer": 7.0, "weights": weights}
    if case.pair.takes_axis:
        yield "weighted mean over an axis", {"reduction": "weighted_mean", "axis": -1, "weights": weights[:1]}
        yield "sum over an axis", {"reduction": "sum", "axis": (0,)}


def label(function: Callable[..., Any], _: Any, parameters: Any) -> str:
    """Name a parameterized test after its parameters."""
    text = "_".join(str(p[0] if isinstance(p, tuple) else p) for p in parameters.args)
    return f"{function.__name__}_{text}".replace(" ", "_")
