"""Optimizers: how gradients change parameters, written once in arithmetic that every array library has.

Those of libraries (optax, `torch.optim`) are adapted in `training.moving`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mithril_losses.backends.namespaces import Array

Parameters = Mapping[str, Array]
State = dict[str, dict[str, Array]]  # by slot ("velocity", "mean", …), then by parameter


class Optimizer(Protocol):
    """The protocol of an optimizer: the object is stateless, and the caller keeps its state."""

    def initial_state(self, params: Parameters) -> State:
        """Return the state before the first step."""

    def update(
        self, params: Parameters, gradients: Parameters, state: State, step: int, factor: float = 1.0
    ) -> tuple[dict[str, Array], State]:
        """Return new parameters and the new state; `step` counts from 1. No argument is written to.

        `factor` multiplies the learning rate of this step.
        """


@dataclass(frozen=True)
class Sgd:
    """Gradient descent with momentum: v ← μ v + g, w ← w − η v.

    Args:
        learning_rate: η.
        momentum: μ; 0 is plain gradient descent.

    Example:
        >>> import numpy as np
        >>> sgd, w = Sgd(learning_rate=0.1, momentum=0.5), {"w": np.array([1.0])}
        >>> w, state = sgd.update(w, {"w": np.array([1.0])}, sgd.initial_state(w), step=1)
        >>> w, state = sgd.update(w, {"w": np.array([1.0])}, state, step=2)
        >>> w["w"].round(6), state["velocity"]["w"]
        (array([0.75]), array([1.5]))
    """

    learning_rate: float
    momentum: float = 0.0

    def initial_state(self, params: Parameters) -> State:
        """Return velocities of zero."""
        return {"velocity": _zeros(params)}

    def update(
        self, params: Parameters, gradients: Parameters, state: State, step: int, factor: float = 1.0
    ) -> tuple[dict[str, Array], State]:
        """Return the parameters after one step, and the velocities."""
        rate = self.learning_rate * factor
        velocity = {name: self.momentum * v + gradients[name] for name, v in state["velocity"].items()}
        return {name: w - rate * velocity[name] for name, w in params.items()}, {"velocity": velocity}


@dataclass(frozen=True)
class Adam:
    """Adam: w ← w − η m̂ / (√ŝ + ε), with m ← β₁ m + (1 − β₁) g, s ← β₂ s + (1 − β₂) g².

    m̂ = m / (1 − β₁ᵗ) and ŝ = s / (1 − β₂ᵗ) correct the bias towards the zeros with which the means start.

    Args:
        learning_rate: η.
        beta1: β₁, the decay of the mean.
        beta2: β₂, the decay of the mean square.
        epsilon: ε.

    Example:
        The first step moves each parameter by η against the sign of its gradient.

        >>> import numpy as np
        >>> adam, w = Adam(learning_rate=0.1), {"w": np.array([1.0, 1.0])}
        >>> w, state = adam.update(w, {"w": np.array([30.0, -0.2])}, adam.initial_state(w), step=1)
        >>> w["w"].round(6)
        array([0.9, 1.1])

    Source:
        D. P. Kingma and J. Ba, Adam: A Method for Stochastic Optimization, 2015. https://arxiv.org/abs/1412.6980
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def initial_state(self, params: Parameters) -> State:
        """Return means of zero."""
        return {"mean": _zeros(params), "square": _zeros(params)}

    def update(
        self, params: Parameters, gradients: Parameters, state: State, step: int, factor: float = 1.0
    ) -> tuple[dict[str, Array], State]:
        """Return the parameters after one step, and the two running means."""
        rate = self.learning_rate * factor
        moved, mean, square = {}, {}, {}
        for name, w in params.items():
            gradient = gradients[name]
            mean[name] = self.beta1 * state["mean"][name] + (1.0 - self.beta1) * gradient
            square[name] = self.beta2 * state["square"][name] + (1.0 - self.beta2) * gradient * gradient
            unbiased_mean = mean[name] / (1.0 - self.beta1**step)
            unbiased_square = square[name] / (1.0 - self.beta2**step)
            moved[name] = w - rate * unbiased_mean / (unbiased_square**0.5 + self.epsilon)
        return moved, {"mean": mean, "square": square}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: w ← w − η λ w − η m̂ / (√ŝ + ε).

    Args:
        learning_rate: η.
        beta1: β₁, the decay of the mean.
        beta2: β₂, the decay of the mean square.
        epsilon: ε.
        weight_decay: λ.

    Example:
        Without a gradient only the decay moves a parameter: 1 − 0.1 · 0.5.

        >>> import numpy as np
        >>> adam, w = AdamW(learning_rate=0.1, weight_decay=0.5), {"w": np.array([1.0])}
        >>> w, state = adam.update(w, {"w": np.array([0.0])}, adam.initial_state(w), step=1)
        >>> w["w"]
        array([0.95])

    Source:
        I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, 2019. https://arxiv.org/abs/1711.05101
    """

    weight_decay: float = 1e-2

    def update(
        self, params: Parameters, gradients: Parameters, state: State, step: int, factor: float = 1.0
    ) -> tuple[dict[str, Array], State]:
        """Return the parameters after one step, and the two running means."""
        decay = self.learning_rate * factor * self.weight_decay
        kept = {name: w - decay * w for name, w in params.items()}
        return super().update(kept, gradients, state, step, factor)


def _zeros(params: Parameters) -> dict[str, Array]:
    return {name: 0.0 * w for name, w in params.items()}
