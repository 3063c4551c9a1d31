"""A starting configuration for a file of data: which columns are the input, which one is predicted, with which loss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.config import literal
from mithril_losses.training.data import opened
from mithril_losses.training.errors import UserError, printable
from mithril_losses.training.tables import Table

DIGITS = resources.files("mithril_losses.training").joinpath("digits.toml")  # the configuration of the demonstration

# An integer column of few small values is taken as labels; a text of more than these values as a name.
_MOST_LABELS, _LARGEST_LABEL, _MOST_TEXTS = 10, 20, 50


class _Goal(NamedTuple):
    """What is predicted: the target, the size of the output, and the loss."""

    target: str
    size: int
    loss: str


def starting_configuration(path: str, target: str | None = None) -> str:
    """Return the text of a configuration for a file.

    Args:
        path: a table, an `.npz` file or a folder of `.npy` files.
        target: the column or array that is predicted; by default the last one.

    Raises:
        UserError: the file cannot be read, there is no such target, or nothing is left as an input.
    """
    with opened(path) as found:
        names = list(found)
        target = target or (names[-1] if names else "")
        if target not in found:
            raise UserError(f"{path}: {unknown('column or array', target, names)}")
        goal = _goal(path, target, found[target])
        data = _of_table(found, goal) if isinstance(found, Table) else _of_arrays(path, found, goal)
    return _text(path, goal, data)


def _goal(path: str, name: str, values: Array) -> _Goal:
    if values.ndim == 1 and values.dtype.kind == "U":
        return _Goal(name, len(np.unique(values)), "cross_entropy_with_logits")
    if values.ndim == 1 and values.dtype.kind in "iu":
        few = len(np.unique(values)) <= _MOST_LABELS and values.min() >= 0 and values.max() <= _LARGEST_LABEL
        return _Goal(name, int(values.max()) + 1, "cross_entropy_with_logits") if few else _Goal(name, 1, "mse_loss")
    if values.dtype.kind == "f" and values.ndim in (1, 2):
        return _Goal(name, 1 if values.ndim == 1 else values.shape[1], "mse_loss")
    raise UserError(f"{path}: {name!r} is {values.dtype} of shape {values.shape}; name another target")


def _of_table(table: Table, goal: _Goal) -> list[str]:
    """Return the lines that say which columns are the input; those that cannot be are named with the reason."""
    features, left = [], []
    for name in table:
        if name == goal.target:
            continue
        try:
            values = table[name]
        except UserError as error:
            left.append(f"# left out: {error}")
            continue
        if values.dtype.kind == "U" and len(np.unique(values)) > _MOST_TEXTS:
            left.append(f"# left out: column {printable(repr(name))} has {len(np.unique(values))} different texts")
        else:
            features.append(name)
    if not features:
        raise UserError("no column is left that could be the input", *(line.removeprefix("# ") for line in left))
    lines = [f"features = {literal(features)}  # of a text, each value becomes a column of 0 and 1", *left]
    return [*lines, *_scaled(goal)]


def _of_arrays(path: str, arrays: Mapping[str, Array], goal: _Goal) -> list[str]:
    for name in arrays:
        array = arrays[name] if name != goal.target else None
        if array is not None and array.ndim == 2 and array.dtype.kind == "f":
            return [f"input = {literal(name)}  # examples × features", *_scaled(goal)]
    raise UserError(f"{path}: no array is floating point of shape examples × features, so that it could be the input")


def _scaled(goal: _Goal) -> list[str]:
    lines = ['scale = "standard"  # each feature minus its mean, divided by its deviation, both of the training set']
    return lines + [f"stratify = {literal(goal.target)}"] * (goal.loss != "mse_loss")


def _text(path: str, goal: _Goal, data: list[str]) -> str:
    stem = Path(path).stem
    output = re.sub(r"\W", "_", goal.target, flags=re.ASCII)
    output = output if re.match(r"[A-Za-z]", output) and output != "hidden" else f"output_{output}"
    measured = (
        "" if goal.size == 1 or goal.loss == "mse_loss" else f"  # the number of classes of {printable(goal.target)}"
    )
    lines = "\n".join(data)
    return f"""\
# Predicts {printable(goal.target)} from the other data of {printable(path)}.
# mithril-losses train FILE runs it; the page "Command line" of the documentation lists all keys.

seed = 0
backend = "numpy"  # or "jax", "torch"

[data]
file = {literal(path)}
{lines}
validation_fraction = 0.1  # evaluated after each epoch
test_fraction = 0.2  # evaluated at the end

[model]  # tanh layers
hidden = [32, 32]

[model.outputs.{output}]
size = {goal.size}{measured}

[[objective.terms]]
name = {literal(output)}
loss = "{goal.loss}"
output = "{output}"
target = {literal(goal.target)}

[optimizer]
kind = "adamw"
learning_rate = 0.003

[run]
epochs = 50
batch_size = 32
patience = 10  # epochs without a better validation loss
keep = "best"  # of all epochs
output = {literal(f"runs/{stem}")}
"""
