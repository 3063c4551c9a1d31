"""A network with several outputs, written once and compiled by the adapter of any backend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array


@dataclass(frozen=True)
class Perceptron:
    """Hidden tanh layers that all outputs share; for each output its own tanh layers and one linear layer.

    Args:
        hidden: the widths of the shared layers.
        outputs: for each output the widths of its own layers, of which the last one is the output itself.

    Raises:
        ValueError: an output has the name "hidden", which is that of the shared layers.

    Example:
        >>> network = Perceptron(hidden=(3,), outputs={"class": (2,), "copy": (5, 4)})
        >>> params = network.initial_parameters(4, np.random.default_rng(0))
        >>> {name: w.shape for name, w in params.items() if name.endswith("weight")}
        {'hidden_1_weight': (4, 3), 'class_1_weight': (3, 2), 'copy_1_weight': (3, 5), 'copy_2_weight': (5, 4)}
        >>> {name: y.shape for name, y in network(np, params, np.ones((7, 4))).items()}
        {'class': (7, 2), 'copy': (7, 4)}
    """

    hidden: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if "hidden" in self.outputs:
            raise ValueError("no output can be called 'hidden': that is the name of the shared layers")

    def initial_parameters(self, inputs: int, generator: np.random.Generator) -> dict[str, Array]:
        """Return weights of variance 1 / fan-in, which preserves the scale of tanh layers, and biases of zero."""
        params: dict[str, Array] = {}
        for layer, fan_in, fan_out in self._layers(inputs):
            params[f"{layer}_weight"] = generator.standard_normal((fan_in, fan_out)) / math.sqrt(fan_in)
            params[f"{layer}_bias"] = np.zeros(fan_out)
        return params

    def _layers(self, inputs: int) -> Iterator[tuple[str, int, int]]:
        """Yield name, fan-in and fan-out of every layer."""
        shared = (inputs, *self.hidden)
        branches = {"hidden": shared} | {name: (shared[-1], *widths) for name, widths in self.outputs.items()}
        for name, widths in branches.items():
            for depth, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
                yield f"{name}_{depth}", fan_in, fan_out

    def __call__(self, xp: Any, params: Mapping[str, Array], x: Array) -> dict[str, Array]:
        """Return the outputs for `x`, examples × features, in the array namespace `xp`."""

        def linear(layer: str, x: Array) -> Array:
            return xp.matmul(x, params[f"{layer}_weight"]) + params[f"{layer}_bias"]

        for depth in range(1, len(self.hidden) + 1):
            x = xp.tanh(linear(f"hidden_{depth}", x))
        outputs = {}
        for name, widths in self.outputs.items():
            y = x
            for depth in range(1, len(widths)):
                y = xp.tanh(linear(f"{name}_{depth}", y))
            outputs[name] = linear(f"{name}_{len(widths)}", y)
        return outputs
