"""Training data: arrays by name, split into a training and a test set, and cut into batches."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from mithril_losses._validation import did_you_mean
from mithril_losses.backends._namespace import Array
from mithril_losses.config import DataConfig, UserError, user_error

DIGITS = "scikit-learn's digits"
DIGITS_SHAPE = (8, 8)

# The streams of random numbers that a run draws from. Each has its own generator, so that none shifts another.
SPLIT, PARAMETERS, BATCHES = range(3)


@dataclass(frozen=True)
class Dataset:
    """Examples by array name, split; `digest` identifies the data."""

    train: dict[str, Array]
    test: dict[str, Array]
    digest: str


def load_dataset(config: DataConfig, entries: Collection[str], seed: int, dtype: str) -> Dataset:
    """Return the model's input and the arrays that `entries` names, shuffled and split; none is beyond `dtype`.

    Raises:
        UserError: the file cannot be read, lacks an array, or holds one that is not numeric, not finite or of another
            length than the input.
    """
    names = sorted({config.input, *entries})
    origin = config.file or DIGITS
    arrays = _digits() if config.file is None else read_arrays(config.file)
    for name in names:
        if name not in arrays:
            raise UserError(
                f"{origin}: unknown data entry {name!r}{did_you_mean(name, arrays)} (known: {', '.join(arrays)})"
            )
        _check_numbers(f"{origin}: array {name!r}", arrays[name], dtype)
    arrays = {name: arrays[name] for name in names}
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
    if array.ndim == 0 or not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise UserError(
            f"{where} must hold one number or row of numbers per example, got {array.dtype} of shape {array.shape}"
        )
    usable = abs(array) <= np.finfo(dtype).max
    if not usable.all():
        place = tuple(int(index) for index in np.argwhere(~usable)[0])
        raise UserError(
            f"{where} holds {array[place]} at {place}, which is no finite {dtype}; it is the first of {(~usable).sum()}"
        )


def _digits() -> dict[str, Array]:
    """Return the 1797 handwritten digits: 8 × 8 pixels in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"image": digits.data / 16.0, "label": digits.target}


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Return the arrays of an `.npz` file by name.

    Raises:
        UserError: the file cannot be read, is damaged, is no `.npz` file or holds pickled objects.
    """
    with user_error(str(path)):
        try:
            with open(path, "rb") as file:
                if file.read(2) not in (b"PK", b""):
                    raise ValueError("this is no .npz file of arrays by name")
                file.seek(0)
                found = np.load(file, allow_pickle=False)
                return {name: found[name] for name in found.files}
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"the file is truncated or damaged ({error})") from error


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Return the generator of one stream of random numbers: the same one for the same arguments, wherever it runs."""
    return np.random.default_rng([seed, *stream])


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Array]:
    """Return the row numbers of each batch of an epoch: every row once, in an order that epoch and seed decide.

    Example:
        >>> [batch.tolist() for batch in batches(count=5, batch_size=2, seed=0, epoch=1)]
        [[1, 4], [2, 0], [3]]
    """
    order = generator(seed, BATCHES, epoch).permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]
