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
from mithril_losses.catalogue import Pair
from mithril_losses.checking import draw_arguments, drawing
from mithril_losses.checking.drawing import variants
from mithril_losses.domains import Axes, Choice, Flag, Predicate
from mithril_losses.numerics.trees import leaves, map_leaves
from mithril_losses.templates.apart import Apart

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


def cases() -> list[Case]:
    """Every loss as drawn from its domain, and its variants."""
    found = []
    for pair in catalogue().values():
        drawn = _drawn(pair, seed=sum(map(ord, pair.name)))
        found.append(drawn)
        found += [Case(pair, name, arrays, options) for name, arrays, options in variants(pair, drawn.arrays)]
    return found


CASES = cases()
DRAWN = [case for case in CASES if case.name == "drawn"]
ONE_OF_EACH_TEMPLATE = list({type(case.pair.terms): case for case in reversed(DRAWN)}.values())
REDUCED = [case for case in CASES if case.pair.takes_reduction]
REDUCED_DRAWN = [case for case in REDUCED if case.name == "drawn"]


def reductions(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the reductions of a case with a name: every one, plain, weighted, over an axis, normalized."""
    yield from drawing.reductions(case.pair, case.rows if case.pair.takes_reduction else ())


def label(function: Callable[..., Any], _: Any, parameters: Any) -> str:
    """Name a parameterized test after its parameters."""
    text = "_".join(str(p[0] if isinstance(p, tuple) else p) for p in parameters.args)
    return f"{function.__name__}_{text}".replace(" ", "_")


# --- every option --------------------------------------------------------------------------------------------------


def with_every_option(pair: Pair, seed: int, shape: tuple[int, ...] = (4, 3), **settled: Any) -> Case:
    """Draw arrays and *every* option: numbers, flags, names, axes, masks and weights, and the reduction.

    Options in `settled` have the values given there, one of them where that is a tuple, drawn where it is a domain.
    """
    generator = np.random.default_rng(seed)
    arrays, options = draw_arguments(pair, generator, shape)
    settled = {name: _settle(generator, values) for name, values in settled.items()}
    for name in pair.options:
        options[name] = settled[name] if name in settled else _option(pair, name, options.get(name), arrays, generator)
    arrays = _to_layout(pair, arrays, options, generator)
    if "pool_batch" in options and "class_axis" in options:
        _fit_masks(arrays, options, generator)
    for name in ("targets", "tokens"):
        if options.get("ignore_index") is not None and name in arrays:
            labels = arrays[name]
            arrays[name] = np.where(generator.random(labels.shape) < 0.3, options["ignore_index"], labels)
    case = Case(pair, f"every option, seed {seed}", arrays, options)
    if not pair.takes_reduction:
        return case
    common: dict[str, Any] = {"reduction": str(generator.choice(["mean", "sum", "weighted_mean", "batch_sum"]))}
    if isinstance(pair.terms, Apart) and len(arrays) == 2:  # two batches, which need not have one size
        second = list(arrays)[1]
        arrays[second] = arrays[second][int(generator.integers(2)) :]
        case = Case(pair, case.name, arrays, options)
    if generator.random() < 0.5:
        common["weights"] = (
            {name: generator.integers(0, 4, x.shape) / 2.0 for name, x in arrays.items()}
            if isinstance(pair.terms, Apart) and len(arrays) == 2
            else generator.integers(0, 4, case.rows) / 2.0
        )
    if generator.random() < 0.3 and common["reduction"] != "sum":
        common["normalizer"] = float(generator.uniform(0.5, 9.0))
    chosen = {name: settled[name] for name in ("reduction", "weights", "normalizer") if name in settled}
    return Case(pair, case.name, arrays, {**options, **common, **chosen})


def _fit_masks(arrays: dict[str, Any], options: dict[str, Any], generator: np.random.Generator) -> None:
    """Make class indices of some masks, and of those of a softmax in which pixels are ignored; fit options to them."""
    scores, axis = next(iter(arrays.values())), options["class_axis"]
    if axis is None:
        options["class_weights"] = None
        return
    needs_indices = options.get("multilabel") is False and options["ignore_index"] is not None
    if arrays["targets"].ndim == scores.ndim and (needs_indices or generator.random() < 0.5):
        classes, shape = scores.shape[axis], np.delete(scores.shape, axis)
        arrays["targets"] = generator.integers(0, classes, shape)


def _settle(generator: np.random.Generator, values: Any) -> Any:
    if isinstance(values, tuple):
        return values[generator.integers(len(values))]
    return values.sample(generator) if hasattr(values, "sample") else values


def _option(pair: Pair, name: str, drawn: Any, arrays: dict[str, Any], generator: np.random.Generator) -> Any:
    """Draw one option: from its domain, or by the arrays that it fits."""
    domain = pair.domain[name]
    if isinstance(domain, Flag):
        return bool(generator.integers(2))
    if isinstance(domain, Choice):
        return str(generator.choice(domain.names))
    if isinstance(domain, Predicate):
        return generator.choice([None, lambda path, w: "weight" in path, lambda path, w: len(w.shape) == 1])
    if isinstance(domain, Axes):
        return int(generator.choice([-1, 0]))
    if drawn is not None:
        return drawn
    return pair.parameters[name].default if generator.random() < 0.4 else domain.sample_for(generator, arrays)


def _to_layout(pair: Pair, arrays: dict[str, Any], options: dict[str, Any], generator: np.random.Generator) -> Any:
    """Return the arrays as the options say that they are: channels or classes first, rates, class probabilities."""
    arrays = dict(arrays)
    if options.get("channels_first"):
        for name in arrays:
            arrays[name] = map_leaves(lambda _, x: np.moveaxis(x, -1, -3), arrays[name])
    if options.get("log_input") is False:
        arrays["predictions"] = np.exp(arrays["predictions"])
    scores = next(iter(arrays))
    if pair.name.startswith("cross_entropy") and options["ignore_index"] is None and generator.random() < 0.5:
        arrays["targets"] = generator.uniform(0.1, 1.0, arrays[scores].shape)
    if options.get("class_axis") == 1:
        for name in arrays:
            if arrays[name].ndim == arrays[scores].ndim:
                arrays[name] = np.moveaxis(arrays[name], -1, 1)
    return arrays


# losses that libraries of second-order methods have no matrices of, with what their targets are, and options
WITHOUT_A_FACTOR: list[tuple[str, str, dict[str, Any]]] = [
    ("huber_loss", "real", {"delta": 0.7}),
    ("log_cosh_loss", "real", {}),
    ("pseudo_huber_loss", "real", {"delta": 0.5}),
    ("fair_loss", "real", {}),
    ("charbonnier_loss", "real", {"epsilon": 0.3}),
    ("expectile_loss", "real", {"expectile": 0.8}),
    ("smooth_l1_loss", "real", {}),
    ("mspe_loss", "positive", {}),
    ("squared_hinge_loss", "sign", {}),
    ("logistic_loss", "sign", {}),
    ("exponential_loss", "sign", {}),
    ("poisson_negative_log_likelihood", "positive", {}),
    ("gamma_negative_log_likelihood", "positive", {}),
    ("tweedie_negative_log_likelihood", "positive", {}),
]
