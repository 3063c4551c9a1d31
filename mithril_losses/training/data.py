"""Training data: arrays by name, split into a training and a test set, and cut into batches."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.config import DataConfig, UserError, user_error

# The arrays that are read from one file may together be as large as the file, or as this number of bytes if that is
# larger: a compressed file can unpack to 1,000 times its size.
LARGEST_UNPACKED = 2**30

DIGITS = "scikit-learn's digits"
DIGITS_SHAPE = (8, 8)

# The streams of random numbers of a run. Each has its own generator, so that they do not influence each other.
SPLIT, PARAMETERS, BATCHES = range(3)


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


class ArrayFile(Mapping[str, Array]):
    """The arrays of an open `.npz` file by name; an array is read when it is accessed. See `open_arrays`."""

    def __init__(self, path: str | os.PathLike[str], archive: zipfile.ZipFile, largest: int) -> None:
        self._path = path
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self._left = self._largest = largest

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members  # the default of Mapping would read the array

    def __getitem__(self, name: str) -> Array:
        """Return an array.

        Raises:
            UserError: the array is damaged, is not an array, holds Python objects or is too large.
        """
        info = self._members[name]
        with _reading(self._path, name), self._archive.open(info) as member:
            shape, dtype = _read_header(member)
            unpacked = info.file_size - member.tell()
        with user_error(f"{self._path}: array {name!r}"):
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which are not read (allow_pickle is False)")
            if math.prod(shape) * dtype.itemsize != unpacked:
                raise ValueError(f"it holds {unpacked} bytes, which are not {dtype} of shape {shape}")
            self._left -= unpacked
            if self._left < 0:
                raise ValueError(
                    f"it unpacks to {unpacked:,} bytes, but the arrays that are read of this file may have "
                    f"{self._largest:,} bytes together; save them uncompressed (numpy.savez)"
                )
        with _reading(self._path, name), self._archive.open(info) as member:
            array: Array = np.lib.format.read_array(member, allow_pickle=False)
            member.read()  # the checksum is compared at the end
            return array


def _read_header(member: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is for structured arrays")
    try:
        shape, _, dtype = readers[version](member)
    except MemoryError as error:  # a header is short: the stack of the parser overflowed
        raise ValueError("the header is nested too deeply") from error
    return shape, dtype


@contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[ArrayFile]:
    """Open an `.npz` file, of which only those arrays are read that are accessed.

    Together these may have as many bytes as the file, or `LARGEST_UNPACKED` if that is larger.

    Raises:
        UserError: the file cannot be read, is damaged or is not an `.npz` file; or as in `ArrayFile`.
    """
    with ExitStack() as stack:
        with user_error(str(path)):
            file = stack.enter_context(open(path, "rb"))
            if file.read(2) not in (b"PK", b""):
                raise ValueError("this is not an .npz file of arrays by name")
        with _reading(path):
            largest = max(os.fstat(file.fileno()).st_size, LARGEST_UNPACKED)
            found = ArrayFile(path, zipfile.ZipFile(file), largest)
        yield found


@contextmanager
def _reading(path: str | os.PathLike[str], name: str = "") -> Iterator[None]:
    """Turn every exception that a library raises for the bytes of a file into one line.

    Damaged bytes may reach any line of the parsers of ZIP, deflate, Python literals and dtypes, which then raise
    exceptions of any kind, and warnings.
    """
    with user_error(str(path)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (OSError, MemoryError):
            raise
        except Exception as error:
            where = f"array {name!r} is" if name else "the file is"
            raise ValueError(f"{where} truncated or damaged ({type(error).__name__}: {error})") from error


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Return the generator of one stream of random numbers: the same arguments give the same numbers everywhere."""
    return np.random.default_rng([seed, *stream])


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Array]:
    """Return the row numbers of each batch of an epoch: every row once, in an order that epoch and seed decide.

    Example:
        >>> [batch.tolist() for batch in batches(count=5, batch_size=2, seed=0, epoch=1)]
        [[1, 4], [2, 0], [3]]
    """
    order = generator(seed, BATCHES, epoch).permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]
