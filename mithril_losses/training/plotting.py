"""The picture of a training run: its curves, and predictions for some test examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mithril_losses.backends.namespaces import Array
from mithril_losses.training.errors import printable

_COLUMNS, _ROWS = 5, 6
_RIGHT, _WRONG = "black", "tab:red"


@dataclass(frozen=True)
class Examples:
    """Test examples of a model whose inputs are images.

    Attributes:
        images: the inputs, examples × rows × columns.
        labels: the true classes, or None if there are none.
        predictions: the predicted classes, or None.
        reconstructions: the images as the model reconstructs them, or None.
    """

    images: Array
    labels: Array | None = None
    predictions: Array | None = None
    reconstructions: Array | None = None

    @property
    def mistakes(self) -> Array:
        """The indices of the examples that the model classifies wrongly."""
        return np.flatnonzero(self._wrong)

    @property
    def _wrong(self) -> Array:
        if self.labels is None or self.predictions is None:
            return np.zeros(len(self.images), dtype=bool)
        return self.labels != self.predictions

    def choose(self, count: int, mistakes: int) -> Array:
        """Return the indices of `count` examples: the first mistakes, at most `mistakes`, then the first others."""
        wrong = self.mistakes[:mistakes]
        return np.concatenate([wrong, np.flatnonzero(~self._wrong)])[:count]


@matplotlib.rc_context({"text.parse_math": False})  # names come from the user, and may contain dollar signs
def draw_training(history: Sequence[Mapping[str, float]], examples: Examples | None = None) -> Figure:
    """Return a figure of the losses (and accuracies, if there are any) per epoch, with examples beside them."""
    figure = Figure(figsize=(15.0 if examples else 7.5, 7.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    if examples is None:
        _draw_curves(figure, history)
    else:
        halves: Any = figure.subfigures(1, 2, width_ratios=[1.0, 1.15], wspace=0.03)
        _draw_curves(halves[0], history)
        _draw_examples(halves[1], examples)
    return figure


def _draw_curves(figure: Any, history: Sequence[Mapping[str, float]]) -> None:
    epochs = [int(record["epoch"]) for record in history]
    held_out = "validation" if "validation_loss" in history[0] else "test"
    accuracies = [key for key in history[0] if key.startswith(f"{held_out}_accuracy_")]
    axes = figure.subplots(
        2 if accuracies else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1] if accuracies else [1]
    )[:, 0]
    marker = "o" if len(history) == 1 else None  # a single epoch has no line
    components = [key.removeprefix("train_") for key in history[0] if key.startswith("train_")]
    for index, name in enumerate(components):
        color, width = ("black", 2.2) if name == "loss" else (f"C{index - 1}", 1.6)
        # Matplotlib warns of a character that its font lacks, and the warning holds the character.
        label = "total loss (weighted)" if name == "loss" else printable(name)
        train, test = ([record[f"{part}_{name}"] for record in history] for part in ("train", held_out))
        axes[0].plot(epochs, train, color=color, linewidth=width, marker=marker, label=label)
        axes[0].plot(epochs, test, color=color, linewidth=width, marker=marker, linestyle="--")
    axes[0].plot([], [], color="gray", label="training (mean over the epoch)")
    axes[0].plot([], [], color="gray", linestyle="--", label=f"{held_out} (end of the epoch)")
    values = [record[f"{part}_{name}"] for record in history for part in ("train", held_out) for name in components]
    if min(values) > 0.0:
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].set_ylabel("loss" + (" (log scale)" if min(values) > 0.0 else ""))
    axes[0].set_title("Components of the objective, unweighted, and their weighted total")
    axes[0].legend(fontsize="small", framealpha=0.9)
    for key in accuracies:
        output = key.removeprefix(f"{held_out}_accuracy_")
        percent = [100.0 * record[key] for record in history]
        label = f"{printable(output)}: {percent[-1]:.1f} % in the end"
        axes[1].plot(epochs, percent, marker=marker, label=label)
        axes[1].set_ylabel(f"{held_out} accuracy / %")
        axes[1].legend(fontsize="small", loc="lower right")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        axis.grid(alpha=0.3)


def _draw_examples(figure: Any, examples: Examples) -> None:
    grid = figure.subplots(_ROWS, _COLUMNS, squeeze=False).ravel()
    for axis in grid[len(examples.images) :]:
        axis.set_axis_off()
    darkest = float(np.max(examples.images))
    chosen = examples.choose(len(grid), mistakes=_COLUMNS)
    for axis, index in zip(grid, chosen, strict=False):
        picture = examples.images[index]
        if examples.reconstructions is not None:
            gap = np.full((len(picture), 1), np.nan)  # drawn in white
            picture = np.hstack([picture, gap, examples.reconstructions[index]])
        axis.imshow(picture, cmap="gray_r", vmin=0.0, vmax=darkest, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("lightgray")
        if examples.labels is not None and examples.predictions is not None:
            true, predicted = examples.labels[index], examples.predictions[index]
            color = _RIGHT if predicted == true else _WRONG
            axis.set_title(f"{predicted} (true: {true})", color=color, fontsize="medium", pad=3)
    parts = "input" if examples.reconstructions is None else "input (left) and reconstruction (right)"
    title = f"{len(chosen)} of {len(examples.images)} test examples: {parts}"
    if examples.predictions is not None:
        count, shown = len(examples.mistakes), min(len(examples.mistakes), _COLUMNS)
        mistakes = f"{shown} of the {count} mistakes first, in red" if shown else "no mistakes"
        title += f"\npredicted (and true) class above each; {mistakes}"
    figure.suptitle(title)
