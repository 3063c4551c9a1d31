"""What the examples share: dense layers over an array namespace, parameters that Adam moves, pictures, characters."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mithril_losses.models import compile_model
from mithril_losses.training.moving import compiled
from mithril_losses.training.optimizers import Adam


def dense(xp, params, layer, x):
    """Return x W + b."""
    return xp.matmul(x, params[f"{layer}_weight"]) + params[f"{layer}_bias"]


class Learner:
    """A compiled model, its parameters, and the optimizer that moves them against their gradients."""

    def __init__(self, model, params, backend, learning_rate, **options):
        adam = Adam(learning_rate, **options)
        self.model, self.backend, self._step = model, backend, 0
        self.params = {name: backend.array(x) for name, x in params.items()}
        self._update, self._state = compiled(adam.update, backend.name), adam.initial_state(self.params)

    def outputs(self, data):
        """Return the model's outputs by name."""
        return self.model.evaluate(self.params, data)

    def learn(self, data, output_gradients):
        """Move the parameters against the gradients that the model makes of those of its outputs."""
        _, gradients = self.model.evaluate(self.params, data, output_gradients=output_gradients)
        self._step += 1
        self.params, self._state = self._update(self.params, gradients, self._state, self._step)

    def numpy_params(self):
        """Return the parameters as NumPy arrays."""
        return {name: self.backend.to_numpy(x) for name, x in self.params.items()}


def dense_learner(network, widths, backend, learning_rate=3e-3, **options):
    """Return a learner of `network(xp, params, data)`, whose dense layers are given as name: (inputs, outputs).

    Weights begin with variance 1 / inputs, biases with zero.
    """
    params = {}
    for layer, (inputs, outputs) in widths.items():
        params[f"{layer}_weight"] = backend.generator.standard_normal((inputs, outputs)) / math.sqrt(inputs)
        params[f"{layer}_bias"] = np.zeros(outputs)
    return Learner(compile_model(network, backend.name), params, backend, learning_rate, **options)


def panels(columns, height=4.5):
    """Return a figure and its axes, side by side and square."""
    figure = Figure(figsize=(columns * height, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def show_tiles(axes, images, title):
    """Draw rows × columns of small images as one, apart from one another."""
    images = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
    rows, columns, height, width = images.shape
    whole = images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    axes.imshow(whole, cmap="gray_r", vmin=0.0, vmax=1.0)
    axes.set(xticks=[], yticks=[], title=title)


def next_characters(count=2000, context=8, width=32):
    """Return what a model of the next character is trained on, and starts from, in an even number of characters.

    These are windows of this repository's README as rows of 0 and 1, the characters that follow, and the weights of two
    layers.
    """
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")[: count + context]
    characters = sorted(set(text))
    numbers = np.array([characters.index(each) for each in text])
    windows = np.lib.stride_tricks.sliding_window_view(numbers, context + 1)
    generator, size = np.random.default_rng(0), len(characters) + len(characters) % 2
    inputs = np.eye(size)[windows[:, :-1]].reshape(count, -1)
    hidden = generator.standard_normal((context * size, width)) / math.sqrt(context)
    classes = generator.standard_normal((size, width)) / math.sqrt(width)
    return inputs, windows[:, -1].copy(), hidden, classes
