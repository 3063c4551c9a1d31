"""Training data: arrays by name, split into a training and a test set, and cut into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.arrays import open_arrays
from mithril_losses.training.config import DataConfig
from mithril_losses.training.errors import UserError
from mithril_losses.training.sources import SPLIT, generator

DIGITS = "scikit-learn's digits"
DIGITS_SHAPE = (8, 8)


@dataclass(frozen=True)
class Dataset:
    """Examples by array name, split; `digest` identifies the data."""

    train: dict[str, Array]
    test: dict[str, Array]
    digest: str


def load_dataset(config: DataConfig, entries: Collection[str], seed: int, dtype: str) -> Dataset:
    """Return the model's input and the arrays that `entries` names, shuffled and split; all are finite in `dtype`.

    Raises:
        UserError: the file cannot be read or lacks an array, or an array is not numeric, not finite or has another
            length than the input.
    """
    origin = config.file or DIGITS
    arrays: dict[str, Array] = {}
    source: AbstractContextManager[Mapping[str, Array]]
    source = nullcontext(_digits()) if config.file is None else open_arrays(config.file)
    with source as found:
        for name in sorted({config.input, *entries}):
            if name not in found:
                raise UserError(f"{origin}: {unknown('data entry', name, found)}")
            arrays[name] = found[name]
            _check_numbers(f"{origin}: array {name!r}", arrays[name], dtype)
    inputs = arrays[config.input]
    if inputs.ndim != 2 or not np.issubdtype(inputs.dtype, np.floating):
        raise UserError(
            f"{origin}: the input {config.input!r} must be floating point with the shape (examples, features), "
            f"got {inputs.dtype} with the shape {inputs.shape}"
        )
    for name, array in arrays.items():
        if len(array) != len(inputs):
            raise UserError(
                f"{origin}: {name!r} has {len(array)} rows, but the input {config.input!r} has {len(inputs)}"
            )
    if config.image_shape is not None and np.prod(config.image_shape) != inputs.shape[1]:
        raise UserError(
            f"data.image_shape: {config.image_shape} does not fit the {inputs.shape[1]} features of {config.input!r}"
        )
    return _split(arrays, config, seed)


def _split(arrays: Mapping[str, Array], config: DataConfig, seed: int) -> Dataset:
    available = len(arrays[config.input])
    count = config.examples or available
    held_out = round(config.test_fraction * count)
    if count > available:
        raise UserError(f"data.examples: {count} examples are asked for, but there are {available}")
    if not 0 < held_out < count:
        raise UserError(f"data.test_fraction: {config.test_fraction} of {count} examples leaves one of the sets empty")
    order = generator(seed, SPLIT).permutation(available)[:count]
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return Dataset(
        train={name: array[order[held_out:]] for name, array in arrays.items()},
        test={name: array[order[:held_out]] for name, array in arrays.items()},
        digest=digest.hexdigest()[:16],
    )


def _check_numbers(where: str, array: Array, dtype: str) -> None:
    if array.ndim == 0 or array.dtype.kind not in "fiu":
        raise UserError(
            f"{where} must hold one number or row of numbers per example, got {array.dtype} of shape {array.shape}"
        )
    usable = abs(array) <= np.finfo(dtype).max
    if not usable.all():
        place = tuple(int(index) for index in np.argwhere(~usable)[0])
        raise UserError(
            f"{where} holds {array[place]} at {place}, not a finite {dtype}; it is the first of {(~usable).sum()}"
        )


def _digits() -> dict[str, Array]:
    """Return the 1797 handwritten digits: 8 × 8 pixels in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"image": digits.data / 16.0, "label": digits.target}
