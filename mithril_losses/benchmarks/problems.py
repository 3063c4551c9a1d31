"""What is measured: losses, the arrays that they get, and the same mean loss as other libraries write it.

A loss joins the benchmark with one `Problem` in `PROBLEMS`. Expressions take the library, then the loss's arrays and
options, and return the mean; automatic differentiation does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mithril_losses._pairs import find_loss
from mithril_losses.backends._namespace import Array

Size = Literal["small", "medium", "large"]
Shape = tuple[int, ...]

_ELEMENTS: Mapping[Size, tuple[Shape, ...]] = {
    "small": ((32, 10),),
    "medium": ((1_000_000,),),
    "large": ((16_000_000,),),
}
_ROWS: Mapping[Size, tuple[Shape, ...]] = {
    "small": ((32, 10),),
    "medium": ((10_000, 100),),
    "large": ((160_000, 100),),
}


@dataclass(frozen=True)
class Problem:
    """A loss, its arrays, and its mean as other libraries write it.

    Attributes:
        loss: the name in the catalogue.
        draw: the loss's array arguments, float32, for a generator and a shape.
        shapes: the shapes of each size.
        torch: the expression for PyTorch.
        jax: the expression for JAX.
        torch_compile: the expression for `torch.compile`, where another one compiles to something faster.
        optax: the expression for JAX with optax, where it has the loss.
        scikit_learn: for the module `sklearn._loss.loss` and the arrays, its loss and the factor that makes it ours.
        options: keywords of the loss, which the expressions get as well.
        streams: at best each input is read once and the gradient written once: a copy of as many bytes is the bound.
        ours_alone: further shapes, at which whatever holds all pairs at once runs out of memory.
    """

    loss: str
    draw: Callable[[np.random.Generator, Shape], tuple[Array, ...]]
    shapes: Mapping[Size, tuple[Shape, ...]]
    torch: Callable[..., Any]
    jax: Callable[..., Any]
    torch_compile: Callable[..., Any] | None = None
    optax: Callable[..., Any] | None = None
    scikit_learn: Callable[..., tuple[Any, float]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    streams: bool = True
    ours_alone: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Case:
    """A problem at one shape."""

    problem: Problem
    size: Size
    shape: Shape
    ours_alone: bool = False

    @property
    def name(self) -> str:
        """The loss and the shape."""
        return f"{self.problem.loss} {'×'.join(f'{n:,}' for n in self.shape)}"

    @property
    def wrt(self) -> tuple[int, ...]:
        """The positions of the arrays that the gradient is taken with respect to."""
        pair = find_loss(self.problem.loss)
        return tuple(pair.array_arguments.index(name) for name in pair.wrt if name in pair.array_arguments)

    def draw(self) -> tuple[Array, ...]:
        """Return the arrays, the same ones every time."""
        return self.problem.draw(np.random.default_rng(0), self.shape)


def all_cases() -> Iterator[Case]:
    """Yield every case, the small ones first."""
    for size in ("small", "medium", "large"):
        for problem in PROBLEMS:
            for shape in problem.shapes.get(size, ()):
                yield Case(problem, size, shape)
    for problem in PROBLEMS:
        for shape in problem.ours_alone:
            yield Case(problem, "large", shape, ours_alone=True)


# --- arrays -----------------------------------------------------------------------------------------------------------


def _normal(random: np.random.Generator, *shape: int) -> Array:
    return random.standard_normal(shape, dtype=np.float32)


def _two_normals(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return _normal(random, *shape), _normal(random, *shape)


def _logits_and_binary_labels(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return 3.0 * _normal(random, *shape), random.integers(0, 2, shape).astype(np.float32)


def _two_distributions(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    masses = [random.standard_exponential(shape, dtype=np.float32) + np.float32(1e-3) for _ in range(2)]
    return tuple(mass / mass.sum(axis=-1, keepdims=True) for mass in masses)


def _logits_and_classes(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return 3.0 * _normal(random, *shape), random.integers(0, shape[-1], shape[:-1])


def _two_point_sets(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return random.random((1, *shape), dtype=np.float32), random.random((1, *shape), dtype=np.float32)


def _two_samples(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return _normal(random, 1, *shape), _normal(random, 1, *shape) + np.float32(0.5)


def _layer(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    rows, features, classes = shape
    weight = _normal(random, classes, features) / np.float32(features**0.5)
    return _normal(random, rows, features), weight, random.integers(0, classes, rows)


# --- expressions of more than a line ----------------------------------------------------------------------------------


def _focal_torch(torch: Any, logits: Any, targets: Any) -> Any:
    p = torch.sigmoid(logits)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = 0.25 * targets + 0.75 * (1 - targets)
    return (alpha_t * (1 - p_t) ** 2.0 * cross_entropy).mean()


def _binary_cross_entropy_jax(jax: Any, logits: Any, targets: Any) -> Any:
    jnp = jax.numpy
    return jnp.mean(jnp.maximum(logits, 0.0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits))))


def _focal_jax(jax: Any, logits: Any, targets: Any) -> Any:
    p = jax.nn.sigmoid(logits)
    cross_entropy = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = 0.25 * targets + 0.75 * (1 - targets)
    return jax.numpy.mean(alpha_t * (1 - p_t) ** 2 * cross_entropy)


def _huber_jax(jax: Any, predictions: Any, targets: Any) -> Any:
    jnp = jax.numpy
    error = jnp.abs(predictions - targets)
    return jnp.mean(jnp.where(error <= 1.0, 0.5 * error * error, error - 0.5))


def _cross_entropy_jax(jax: Any, logits: Any, targets: Any) -> Any:
    jnp = jax.numpy
    own = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - own)


def _cross_entropy_optax(optax: Any, logits: Any, targets: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def _kl_optax(optax: Any, p: Any, q: Any) -> Any:
    import jax.numpy as jnp

    return optax.kl_divergence(jnp.log(q), p).mean()


def _linear_cross_entropy_torch(torch: Any, hidden: Any, weight: Any, targets: Any) -> Any:
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight), targets)


def _squared_distances(x: Any, y: Any) -> Any:
    """‖x‖² + ‖y‖² − 2 x·y for all pairs: as every textbook writes it, for torch and JAX alike."""
    squares = (x * x).sum(-1)[..., :, None] + (y * y).sum(-1)[..., None, :]
    return squares - 2.0 * (x @ y.swapaxes(-1, -2))


def _chamfer_torch(torch: Any, x: Any, y: Any) -> Any:
    # the default, by products, is faster and mistakes one nearest neighbour in a hundred or so
    squared = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return (squared.min(2).values.mean(1) + squared.min(1).values.mean(1)).mean()


def _chamfer_torch_compile(torch: Any, x: Any, y: Any) -> Any:
    squared = ((x[:, :, None] - y[:, None, :]) ** 2).sum(-1)
    return (squared.amin(2).mean(1) + squared.amin(1).mean(1)).mean()


def _chamfer_jax(jax: Any, x: Any, y: Any) -> Any:
    squared = ((x[:, :, None] - y[:, None, :]) ** 2).sum(-1)
    return (squared.min(2).mean(1) + squared.min(1).mean(1)).mean()


def _discrepancy(exp: Any, x: Any, y: Any, kernel_bandwidth: float) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        return exp(_squared_distances(a, b) / (-2.0 * kernel_bandwidth**2)).mean((1, 2))

    return (kernel(x, x) + kernel(y, y) - 2.0 * kernel(x, y)).mean()


def _energy_torch(torch: Any, x: Any, y: Any) -> Any:
    return _energy(lambda a, b: torch.cdist(a, b).mean((1, 2)), x, y)


def _energy_compiled(xp: Any, x: Any, y: Any) -> Any:
    def mean_distance(a: Any, b: Any) -> Any:
        squared = _squared_distances(a, b)
        apart = squared > 0.0  # the derivative of a root at 0 is infinite
        return xp.where(apart, xp.sqrt(xp.where(apart, squared, 1.0)), 0.0).mean((1, 2))

    return _energy(mean_distance, x, y)


def _energy(mean_distance: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    return (2.0 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)).mean()


# --- the problems: one block per loss ---------------------------------------------------------------------------------

PROBLEMS = (
    Problem(
        loss="mse_loss",
        draw=_two_normals,
        shapes=_ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.mse_loss(p, t),
        jax=lambda jax, p, t: jax.numpy.mean((p - t) ** 2),
        optax=lambda optax, p, t: optax.squared_error(p, t).mean(),
        scikit_learn=lambda loss, p, t: (loss.HalfSquaredError(), 2.0),
    ),
    Problem(
        loss="mae_loss",
        draw=_two_normals,
        shapes=_ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.l1_loss(p, t),
        jax=lambda jax, p, t: jax.numpy.mean(jax.numpy.abs(p - t)),
        scikit_learn=lambda loss, p, t: (loss.AbsoluteError(), 1.0),
    ),
    Problem(
        loss="huber_loss",
        draw=_two_normals,
        shapes=_ELEMENTS,
        torch=lambda torch, p, t: torch.nn.functional.huber_loss(p, t),
        jax=_huber_jax,
        optax=lambda optax, p, t: optax.huber_loss(p, t).mean(),
        scikit_learn=lambda loss, p, t: (loss.HuberLoss(delta=1.0), 1.0),
    ),
    Problem(
        loss="binary_cross_entropy_with_logits",
        draw=_logits_and_binary_labels,
        shapes=_ELEMENTS,
        torch=lambda torch, z, t: torch.nn.functional.binary_cross_entropy_with_logits(z, t),
        jax=_binary_cross_entropy_jax,
        optax=lambda optax, z, t: optax.sigmoid_binary_cross_entropy(z, t).mean(),
        scikit_learn=lambda loss, z, t: (loss.HalfBinomialLoss(), 1.0),
    ),
    Problem(
        loss="focal_loss_with_logits",
        draw=_logits_and_binary_labels,
        shapes=_ELEMENTS,
        torch=_focal_torch,
        jax=_focal_jax,
        optax=lambda optax, z, t: optax.sigmoid_focal_loss(z, t, alpha=0.25, gamma=2.0).mean(),
    ),
    Problem(
        loss="kl_divergence",
        draw=_two_distributions,
        shapes=_ROWS,
        torch=lambda torch, p, q: torch.nn.functional.kl_div(q.log(), p, reduction="batchmean"),
        jax=lambda jax, p, q: jax.numpy.mean((p * (jax.numpy.log(p) - jax.numpy.log(q))).sum(-1)),
        optax=_kl_optax,
    ),
    Problem(
        loss="cross_entropy_with_logits",
        draw=_logits_and_classes,
        shapes={**_ROWS, "large": ((512, 32_000), (65_536, 100))},
        torch=lambda torch, z, labels: torch.nn.functional.cross_entropy(z, labels),
        jax=_cross_entropy_jax,
        optax=_cross_entropy_optax,
        scikit_learn=lambda loss, z, labels: (loss.HalfMultinomialLoss(n_classes=z.shape[1]), 1.0),
    ),
    Problem(
        loss="chamfer_distance",
        draw=_two_point_sets,
        shapes={"large": ((8_000, 3),)},
        torch=_chamfer_torch,
        torch_compile=_chamfer_torch_compile,
        jax=_chamfer_jax,
        streams=False,
        ours_alone=((20_000, 3),),
    ),
    Problem(
        loss="maximum_mean_discrepancy",
        draw=_two_samples,
        shapes={"large": ((2_000, 64),)},
        torch=lambda torch, x, y, **bandwidth: _discrepancy(torch.exp, x, y, **bandwidth),
        jax=lambda jax, x, y, **bandwidth: _discrepancy(jax.numpy.exp, x, y, **bandwidth),
        options={"kernel_bandwidth": 8.0},  # about the distance of two samples
        streams=False,
        ours_alone=((20_000, 64),),
    ),
    Problem(
        loss="energy_distance",
        draw=_two_samples,
        shapes={"large": ((2_000, 16),)},
        torch=_energy_torch,
        torch_compile=_energy_compiled,
        jax=lambda jax, x, y: _energy_compiled(jax.numpy, x, y),
        streams=False,
        ours_alone=((20_000, 16),),
    ),
    Problem(
        loss="linear_cross_entropy",
        draw=_layer,
        shapes={"large": ((2_048, 512, 32_000),)},
        torch=_linear_cross_entropy_torch,
        jax=lambda jax, hidden, weight, labels: _cross_entropy_jax(jax, hidden @ weight.T, labels),
        optax=lambda optax, hidden, weight, labels: _cross_entropy_optax(optax, hidden @ weight.T, labels),
        streams=False,
    ),
)
