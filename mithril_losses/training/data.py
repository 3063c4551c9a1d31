"""Training data: arrays by name, prepared and split into a training set and sets to evaluate on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.arrays import open_arrays
from mithril_losses.training.config import TABLES, DataConfig
from mithril_losses.training.errors import UserError
from mithril_losses.training.sources import SPLIT, generator
from mithril_losses.training.tables import Folder, Rows, changed, chunks, read_table

DIGITS = "scikit-learn's digits"
DIGITS_SHAPE = (8, 8)

Arrays = dict[str, Any]  # arrays or `Rows` by name


@dataclass(frozen=True)
class Preparation:
    """How columns became the arrays of the run, learnt from the training set.

    Attributes:
        features: the columns that are the input, in order; None if the input is one array.
        categories: for each feature that is text, its values; each becomes a column of zeros and ones.
        classes: for each other column that is text, its values; their positions are the labels.
        mean: the mean of each feature, if the input is scaled.
        deviation: the standard deviation of each feature; 1 where it is 0.
    """

    features: list[str] | None = None
    categories: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    mean: list[float] | None = None
    deviation: list[float] | None = None

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, path: Path) -> Preparation:
        """Return what `to_json` wrote into a file.

        Raises:
            UserError: it is no such file.
        """
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: this is not the preparation of a run ({error})") from error
        return found


@dataclass(frozen=True)
class Dataset:
    """Examples by the name of the set and of the array.

    Attributes:
        sets: "train", "test" and perhaps "validation".
        digest: identifies the data.
        preparation: how columns became arrays.
    """

    sets: dict[str, Arrays]
    digest: str
    preparation: Preparation


def load_dataset(config: DataConfig, entries: Collection[str], seed: int, dtype: str) -> Dataset:
    """Return the model's inputs and the arrays that `entries` names, shuffled and split; all are finite in `dtype`.

    Raises:
        UserError: a file cannot be read or lacks an array, or an array is not numeric, not finite or has another
            length than the input.
    """
    wanted = {config.input_name, *entries} | ({config.stratify} if config.stratify else set())
    raw, features = _read(config, config.file, wanted, None, dtype)
    digest = hashlib.sha256()
    _hash(raw, digest)
    sets = _split(raw, config, seed)
    for name, path in (("validation", config.validation_file), ("test", config.test_file)):
        if path is not None:
            other, _ = _read(config, path, wanted, features, dtype)
            _hash(other, digest)
            sets[name] = {key: Rows(array, np.arange(len(array))) for key, array in other.items()}
    preparation = _learn(config, sets["train"], features, entries)
    prepared = {name: _prepare(config, rows, preparation, entries) for name, rows in sets.items()}
    _check_inputs(config, prepared["train"][config.input_name])
    if not isinstance(raw, _Lazy):
        prepared = {name: {key: array[:] for key, array in rows.items()} for name, rows in prepared.items()}
    return Dataset(prepared, digest.hexdigest()[:16], preparation)


def load_examples(
    config: DataConfig, path: str, entries: Collection[str], preparation: Preparation, dtype: str
) -> Arrays:
    """Return the arrays of another file, prepared as those of the run were.

    Raises:
        UserError: as in `load_dataset`, or a text that the training set does not have.
    """
    raw, _ = _read(config, path, {config.input_name, *entries}, preparation.features, dtype)
    rows = {key: Rows(array, np.arange(len(array))) for key, array in raw.items()}
    prepared = _prepare(config, rows, preparation, entries)
    return prepared if isinstance(raw, _Lazy) else {key: array[:] for key, array in prepared.items()}


# --- reading --------------------------------------------------------------------------------------------------------


class _Lazy(dict[str, Array]):
    """Arrays that stay in their files."""


def _read(
    config: DataConfig, path: str | None, wanted: Collection[str], features: list[str] | None, dtype: str
) -> tuple[dict[str, Array], list[str] | None]:
    """Return the arrays of a file that are wanted, and the columns of a table that are the features."""
    origin = path or DIGITS
    with _opened(path) as found:
        is_table = path is not None and path.lower().endswith(TABLES)
        others = {name for name in wanted if not is_table or name != config.input_name}
        if is_table:
            features = features or config.features or [name for name in found if name not in others]
            others |= set(features)
        arrays: dict[str, Array] = _Lazy() if isinstance(found, Folder) else {}
        for name in sorted(others):
            if name not in found:
                raise UserError(f"{origin}: {unknown('column' if is_table else 'data entry', name, found)}")
            arrays[name] = found[name]
            if not (is_table and arrays[name].dtype.kind == "U"):
                _check_numbers(f"{origin}: {'column' if is_table else 'array'} {name!r}", arrays[name], dtype)
    count = len(arrays[config.input_name if not is_table else next(iter(arrays))])
    for name, array in arrays.items():
        if len(array) != count:
            raise UserError(
                f"{origin}: {name!r} has {len(array)} rows, but the input {config.input_name!r} has {count}"
            )
    return arrays, features


@contextmanager
def _opened(path: str | None) -> Iterator[Mapping[str, Array]]:
    if path is None:
        yield _digits()
    elif path.lower().endswith(TABLES):
        yield read_table(path)
    elif Path(path).is_dir():
        yield Folder(path)
    else:
        with open_arrays(path) as found:
            yield found


def _digits() -> dict[str, Array]:
    """Return the 1797 handwritten digits: 8 × 8 pixels in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"image": digits.data / 16.0, "label": digits.target}


def _check_numbers(where: str, array: Array, dtype: str) -> None:
    if array.ndim == 0 or array.dtype.kind not in "fiu":
        raise UserError(
            f"{where} must hold one number or row of numbers per example, got {array.dtype} of shape {array.shape}"
        )
    start, first, count = 0, None, 0
    for part in chunks(array):
        broken = ~(abs(part) <= np.finfo(dtype).max)
        if broken.any() and first is None:
            place = tuple(int(index) for index in np.argwhere(broken)[0])
            first = (part[place], (start + place[0], *place[1:]))
        start, count = start + len(part), count + int(broken.sum())
    if first is not None:
        raise UserError(f"{where} holds {first[0]} at {first[1]}, not a finite {dtype}; it is the first of {count}")


def _hash(arrays: Mapping[str, Array], digest: Any) -> None:
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        for part in chunks(array):
            digest.update(part.tobytes())


# --- splitting ------------------------------------------------------------------------------------------------------


def _split(arrays: Mapping[str, Array], config: DataConfig, seed: int) -> dict[str, dict[str, Rows]]:
    """Return the rows of each set, in random order."""
    available = len(next(iter(arrays.values())))
    count = config.examples or available
    if count > available:
        raise UserError(f"data.examples: {count} examples are asked for, but there are {available}")
    order = generator(seed, SPLIT).permutation(available)[:count]
    fractions = {"test": 0.0 if config.test_file else config.test_fraction, "validation": config.validation_fraction}
    groups = [np.arange(count)]
    if config.stratify:
        labels = arrays[config.stratify]
        if labels.ndim != 1:
            raise UserError(f"data.stratify: {config.stratify!r} must hold one label per example")
        _, kinds = np.unique(np.asarray(labels)[order], return_inverse=True)
        groups = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max()) + 1)]
    rows: dict[str, list[Array]] = {"test": [], "validation": [], "train": []}
    for group in groups:
        start = 0
        for name, fraction in fractions.items():
            end = start + round(fraction * len(group))
            rows[name].append(group[start:end])
            start = end
        rows["train"].append(group[start:])
    places = {name: np.sort(np.concatenate(parts)) for name, parts in rows.items()}
    for name in ("train", *(name for name, fraction in fractions.items() if fraction)):
        if not len(places[name]):
            key = "validation" if name == "validation" else "test"
            raise UserError(f"data.{key}_fraction: {fractions[key]} of {count} examples leaves one of the sets empty")
    return {
        name: {key: Rows(array, order[where]) for key, array in arrays.items()}
        for name, where in places.items()
        if len(where)
    }


# --- preparing ------------------------------------------------------------------------------------------------------


def _learn(
    config: DataConfig, train: Mapping[str, Rows], features: list[str] | None, entries: Collection[str]
) -> Preparation:
    """Return how columns become arrays, from the rows of the training set."""
    texts = {name: np.unique(rows[:]).tolist() for name, rows in train.items() if rows.dtype.kind == "U"}
    preparation = Preparation(
        features,
        categories={name: values for name, values in texts.items() if name in (features or ())},
        classes={name: values for name, values in texts.items() if name in entries},
    )
    if config.scale == "none":
        return preparation
    inputs = _prepare(config, train, preparation, entries)[config.input_name]
    _check_inputs(config, inputs)
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in chunks(inputs)) / len(inputs)
    variance = sum(((part - mean) ** 2).sum(axis=0) for part in chunks(inputs)) / len(inputs)
    deviation = np.where(variance > 0.0, np.sqrt(variance), 1.0)
    return replace(preparation, mean=mean.tolist(), deviation=deviation.tolist())


def _prepare(
    config: DataConfig, rows: Mapping[str, Rows], preparation: Preparation, entries: Collection[str]
) -> Arrays:
    """Return the arrays that the run uses: features in one array, labels for classes, scaled inputs."""
    found: Arrays = {name: rows[name] for name in rows if name in {*entries, config.input_name}}
    for name, classes in preparation.classes.items():
        if name in found:
            found[name] = _labels(name, rows[name][:], classes)
    if preparation.features is not None:
        columns = [_columns(name, rows[name][:], preparation.categories.get(name)) for name in preparation.features]
        found[config.input_name] = np.concatenate(columns, axis=1)
    if preparation.mean is not None:
        mean, deviation = np.array(preparation.mean), np.array(preparation.deviation)
        found[config.input_name] = changed(found[config.input_name], lambda x: (x - mean) / deviation)
    return found


def _labels(name: str, texts: Array, classes: list[str]) -> Array:
    """Return the position of each text among the classes."""
    positions = {value: index for index, value in enumerate(classes)}
    for text in texts:
        if str(text) not in positions:
            raise UserError(
                f"column {name!r}: {unknown('value', str(text), classes)}; the training set has no such row"
            )
    return np.array([positions[str(text)] for text in texts])


def _columns(name: str, values: Array, categories: list[str] | None) -> Array:
    """Return the columns of a feature: itself, or zeros and ones for each of its categories."""
    if categories is None:
        if values.ndim != 1 or values.dtype.kind == "U":
            raise UserError(f"column {name!r} must hold numbers, as in the training set")
        return values[:, None].astype(np.float64)
    return np.eye(len(categories))[_labels(name, values.astype(str), categories)]


def _check_inputs(config: DataConfig, inputs: Any) -> None:
    if inputs.ndim != 2 or not np.issubdtype(inputs.dtype, np.floating):
        raise UserError(
            f"{config.file or DIGITS}: the input {config.input_name!r} must be floating point with the shape "
            f"(examples, features), got {inputs.dtype} with the shape {inputs.shape}"
        )
    if config.image_shape is not None and np.prod(config.image_shape) != inputs.shape[1]:
        raise UserError(
            f"data.image_shape: {config.image_shape} does not fit the {inputs.shape[1]} features of "
            f"{config.input_name!r}"
        )
