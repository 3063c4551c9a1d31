"""What is measured for a loss: its arrays, and the same mean loss in other libraries.

The benchmark finds every loss by itself, draws arrays from its domains, and compares it with automatic differentiation
of its own plain function. With a `Problem` in the module of its family, in `families`, a loss is measured at several
sizes and compared with other libraries: expressions take the library, then the arrays and options, and return the mean,
which is differentiated automatically.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mithril_losses.autodiff import plain_functions
from mithril_losses.backends.namespaces import Array
from mithril_losses.catalogue import Pair, find_loss
from mithril_losses.checking import draw_arguments
from mithril_losses.domains import ArrayDomain, Matrices, Parameters

Size = Literal["small", "medium", "large"]
Shape = tuple[int, ...]

ELEMENTS: Mapping[Size, tuple[Shape, ...]] = {
    "small": ((32, 10),),
    "medium": ((1_000_000,),),
    "large": ((16_000_000,),),
}
ROWS: Mapping[Size, tuple[Shape, ...]] = {
    "small": ((32, 10),),
    "medium": ((10_000, 100),),
    "large": ((160_000, 100),),
}


@dataclass(frozen=True)
class Problem:
    """A loss, its arrays, and its mean in other libraries.

    Attributes:
        loss: the name in the catalogue.
        draw: the loss's array arguments, float32, for a generator and a shape.
        shapes: the shapes of each size.
        torch: the expression for PyTorch.
        jax: the expression for JAX.
        torch_compile: the expression for `torch.compile`, if another one than `torch` compiles to faster code.
        optax: the expression for JAX with optax, if optax has the loss.
        scikit_learn: takes the module `sklearn._loss.loss` and the arrays; returns its loss, and the factor to ours.
        options: keywords of the loss, which the expressions also get.
        streams: whether, at best, each input is read once and the gradient written once, so that a copy is the bound.
        ours_alone: further shapes, at which candidates that hold all pairs at once run out of memory.
        drawn: whether the expressions are the plain function of the loss itself.
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
    drawn: bool = False


def drawn_problem(pair: Pair) -> Problem | None:
    """Return a small problem for a loss that has no other, or None if its arguments are not arrays."""
    domains = [pair.domain.get(name) for name in pair.array_arguments]
    if not all(isinstance(x, ArrayDomain) and not isinstance(x, Parameters | Matrices) for x in domains):
        return None

    def draw(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
        arrays = draw_arguments(pair, random, shape)[0].values()
        return tuple(x.astype(np.float32) if x.dtype == np.float64 else x for x in arrays)

    return compared_with_itself(pair.name, draw, (32, 10))


def compared_with_itself(
    loss: str, draw: Callable[[np.random.Generator, Shape], tuple[Array, ...]], shape: Shape
) -> Problem:
    """Return a small problem for a loss without a textbook expression: its plain function takes the place of one."""

    def own(_: Any, *arrays: Array) -> Array:
        pair = find_loss(loss)
        with plain_functions():
            return pair.total_of(pair.value(*arrays))

    return Problem(loss, draw, {"small": (shape,)}, own, own, streams=False, drawn=True)


@dataclass(frozen=True)
class Case:
    """A problem at one shape."""

    problem: Problem
    size: Size
    shape: Shape
    ours_alone: bool = False

    @functools.cached_property
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


# --- common to several families ---------------------------------------------------------------------------------------


def normal(random: np.random.Generator, *shape: int) -> Array:
    """Return standard normal numbers."""
    return random.standard_normal(shape, dtype=np.float32)


def two_normals(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    """Return two arrays of standard normal numbers."""
    return normal(random, *shape), normal(random, *shape)


def squared_distances(x: Any, y: Any) -> Any:
    """‖x‖² + ‖y‖² − 2 x·y for all pairs: the textbook formula, for torch and JAX."""
    squares = (x * x).sum(-1)[..., :, None] + (y * y).sum(-1)[..., None, :]
    return squares - 2.0 * (x @ y.swapaxes(-1, -2))
