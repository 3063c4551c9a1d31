"""Training data: arrays by name, prepared and split into a training set and sets to evaluate on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mithril_losses.backends.namespaces import Array
from mithril_losses.numerics.validation import unknown
from mithril_losses.training.arrays import open_arrays
from mithril_losses.training.config import TABLES, DataConfig
from mithril_losses.training.errors import UserError, user_error
from mithril_losses.training.sources import SPLIT, generator
from mithril_losses.training.tables import Folder, Rows, Table, changed, chunks, read_table

DIGITS = "scikit-learn's digits"
DIGITS_SHAPE = (8, 8)
MOST_CATEGORIES = 1000  # a column of more texts is a name rather than a feature

Arrays = dict[str, Any]  # arrays or `Rows` by name


@dataclass(frozen=True)
class Preparation:
    """How columns became the arrays of the run, learnt from the training set.

    Attributes:
        digest: identifies the data.
        width: the number of columns of the input; 0 if nothing uses it.
        features: the columns that are the input, in order; None if the input is one array.
        categories: for each feature that is text, its values; each becomes a column of zeros and ones.
        classes: for each other column that is text, its values; their positions are the labels.
        mean: the mean of each feature, if the input is scaled.
        deviation: the standard deviation of each feature; 1 where it is 0.
    """

    digest: str
    width: int = 0
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
        with user_error(str(path), OSError):
            content = path.read_bytes()
        try:
            found = TypeAdapter(cls).validate_json(content, strict=True)
        except ValidationError as error:
            raise UserError(f"{path}: this is not the preparation of a run") from error
        return found


@dataclass(frozen=True)
class Dataset:
    """Examples by the name of the set and of the array.

    Attributes:
        sets: "train", "test" and perhaps "validation".
        preparation: how columns became arrays.
    """

    sets: dict[str, Arrays]
    preparation: Preparation


def load_dataset(config: DataConfig, entries: Collection[str] | None, seed: int, dtype: str) -> Dataset:
    """Return the arrays that `entries` names, shuffled and split; all are finite in `dtype`. None is all arrays.

    Raises:
        UserError: a file cannot be read or lacks an array, or an array is not numeric, not finite or has another
            length than the others.
    """
    raw, features = _read(config, config.file, entries, None, dtype)
    digest = hashlib.sha256()
    _hash(raw, digest)
    sets = _split(raw, config, seed)
    for name, path in (("validation", config.validation_file), ("test", config.test_file)):
        if path is not None:
            other, _ = _read(config, path, entries, features, dtype)
            _hash(other, digest)
            sets[name] = {key: Rows(array, np.arange(len(array))) for key, array in other.items()}
    preparation = _learn(config, raw, sets["train"], features, digest.hexdigest()[:16])
    prepared = {name: _prepare(config, rows, preparation) for name, rows in sets.items()}
    if config.input_name in prepared["train"]:
        shape = prepared["train"][config.input_name].shape
        preparation = replace(preparation, width=shape[1] if len(shape) == 2 else 0)
    _check_image_shape(config, preparation.width)
    if not isinstance(raw, _Lazy):
        prepared = {name: {key: array[:] for key, array in rows.items()} for name, rows in prepared.items()}
    return Dataset(prepared, preparation)


def load_examples(
    config: DataConfig, path: str, entries: Collection[str] | None, preparation: Preparation, dtype: str
) -> Arrays:
    """Return the arrays of another file, prepared as those of the run were.

    Raises:
        UserError: as in `load_dataset`, or a text that the data of the run do not have.
    """
    config = config.model_copy(update={"stratify": None})
    raw, _ = _read(config, path, entries, preparation.features, dtype)
    rows = {key: Rows(array, np.arange(len(array))) for key, array in raw.items()}
    prepared = _prepare(config, rows, preparation)
    return prepared if isinstance(raw, _Lazy) else {key: array[:] for key, array in prepared.items()}


# --- reading --------------------------------------------------------------------------------------------------------


class _Lazy(dict[str, Array]):
    """Arrays that stay in their files."""


def _read(
    config: DataConfig, path: str | None, entries: Collection[str] | None, features: list[str] | None, dtype: str
) -> tuple[dict[str, Array], list[str] | None]:
    """Return the arrays of a file that are wanted, and the columns of a table that are the features."""
    origin = path or DIGITS
    with opened(path) as found:
        wanted = set(found if entries is None else entries) | ({config.stratify} if config.stratify else set())
        is_table = isinstance(found, Table)
        if is_table and config.stratify == config.input_name:
            raise UserError(f"data.stratify: {config.stratify!r} stands for all features together; name a column")
        if is_table and config.input_name in wanted:
            wanted.remove(config.input_name)
            features = features or config.features or [name for name in found if name not in wanted]
            _check_features(origin, features, (wanted - {config.stratify}) & set(entries or ()))
            wanted |= set(features)
        arrays: dict[str, Array] = _Lazy() if isinstance(found, Folder) else {}
        for name in sorted(wanted):
            if name not in found:
                raise UserError(f"{origin}: {unknown('column' if is_table else 'data entry', name, found)}")
            arrays[name] = found[name]
            if not (is_table and arrays[name].dtype.kind == "U"):
                _check_numbers(f"{origin}: {'column' if is_table else 'array'} {name!r}", arrays[name], dtype)
    if not arrays:
        raise UserError(f"{origin}: the run uses no {'column' if is_table else 'array'} of it")
    first = config.input_name if config.input_name in arrays else next(iter(arrays))
    for name, array in arrays.items():
        if len(array) != len(arrays[first]):
            raise UserError(f"{origin}: {name!r} has {len(array)} rows, but {first!r} has {len(arrays[first])}")
    return arrays, features


def _check_features(origin: str, features: list[str], targets: Collection[str]) -> None:
    if not features:
        raise UserError(f"{origin}: no column is left that could be the input")
    for name in features:
        if name in targets:
            raise UserError(f"data.features: {name!r} is also a target of the objective, so it cannot be an input")


@contextmanager
def opened(path: str | None) -> Iterator[Mapping[str, Array]]:
    """Open what a configuration may name as data; None is the digits. An array is read when it is accessed."""
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
        raise UserError(f"{where} holds {first[0]} at {first[1]}, not a finite {dtype}; there are {count} such values")


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
    config: DataConfig,
    raw: Mapping[str, Array],
    train: Mapping[str, Rows],
    features: list[str] | None,
    digest: str,
) -> Preparation:
    """Return how columns become arrays: texts from all rows, so that no set has one that is new; scales from some."""
    texts = {name: np.unique(array).tolist() for name, array in raw.items() if array.dtype.kind == "U"}
    for name in features or ():
        if len(texts.get(name, ())) > MOST_CATEGORIES:
            raise UserError(
                f"{config.file}: column {name!r} has {len(texts[name]):,} different texts, each of which would be a "
                "column of the input; choose others in data.features"
            )
    preparation = Preparation(
        digest,
        features=features,
        categories={name: values for name, values in texts.items() if name in (features or ())},
        classes={name: values for name, values in texts.items() if name not in (features or ())},
    )
    if config.scale == "none":
        return preparation
    prepared = _prepare(config, train, preparation)
    if config.input_name not in prepared:
        raise UserError(f"data.scale: the run does not use the input {config.input_name!r}, so nothing can be scaled")
    inputs = prepared[config.input_name]
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in chunks(inputs)) / len(inputs)
    variance = sum(((part - mean) ** 2).sum(axis=0) for part in chunks(inputs)) / len(inputs)
    deviation = np.where(variance > 0.0, np.sqrt(variance), 1.0)
    return replace(preparation, mean=mean.ravel().tolist(), deviation=deviation.ravel().tolist())


def _prepare(config: DataConfig, rows: Mapping[str, Rows], preparation: Preparation) -> Arrays:
    """Return the arrays that the run uses: features in one array, labels for classes, scaled inputs."""
    features = preparation.features or []
    found: Arrays = {name: rows[name] for name in rows if name not in features}
    for name, classes in preparation.classes.items():
        if name in found:
            found[name] = _labels(name, rows[name][:], classes)
    if features:
        columns = [_columns(name, rows[name][:], preparation.categories.get(name)) for name in features]
        found[config.input_name] = np.concatenate(columns, axis=1)
    if preparation.mean is not None:
        shape = found[config.input_name].shape[1:]
        if math.prod(shape) != len(preparation.mean):
            raise UserError(
                f"the input {config.input_name!r} has {math.prod(shape)} columns, and {len(preparation.mean)} in the "
                "training set"
            )
        mean, deviation = np.reshape(preparation.mean, shape), np.reshape(preparation.deviation or (), shape)
        found[config.input_name] = changed(found[config.input_name], lambda x: (x - mean) / deviation)
    return found


def _labels(name: str, texts: Array, classes: list[str]) -> Array:
    """Return the position of each text among the classes."""
    positions = {value: index for index, value in enumerate(classes)}
    for text in texts:
        if str(text) not in positions:
            raise UserError(
                f"column {name!r}: {unknown('value', str(text), classes)}; the data of the run have no such row"
            )
    return np.array([positions[str(text)] for text in texts])


def _columns(name: str, values: Array, categories: list[str] | None) -> Array:
    """Return the columns of a feature: itself, or zeros and ones for each of its categories."""
    if categories is None:
        if values.dtype.kind == "U":
            raise UserError(f"column {name!r} must hold numbers, as in the training set")
        return values[:, None].astype(np.float64)
    return np.eye(len(categories))[_labels(name, values.astype(str), categories)]


def require_rows(config: DataConfig, inputs: Any) -> None:
    """Raise a `UserError` unless a perceptron can take these inputs."""
    if len(inputs.shape) != 2 or inputs.dtype.kind != "f":
        raise UserError(
            f"{config.file or DIGITS}: the input {config.input_name!r} must be floating point with the shape "
            f"(examples, features), got {inputs.dtype} with the shape {tuple(inputs.shape)}"
        )


def _check_image_shape(config: DataConfig, width: int) -> None:
    if config.image_shape is not None and math.prod(config.image_shape) != width:
        raise UserError(
            f"data.image_shape: {config.image_shape} does not fit the {width} features of {config.input_name!r}"
        )
