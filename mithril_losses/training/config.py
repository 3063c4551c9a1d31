"""The configuration of a training run: a TOML file, checked before anything runs."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mithril_losses.backends.toml import parse_toml, require_shallow
from mithril_losses.numerics.validation import unknown
from mithril_losses.objectives.config import Name, ObjectiveConfig, Section, check_keys, error_lines, problem, read_toml
from mithril_losses.training.errors import UserError, user_error
from mithril_losses.training.optimizers import Adam, Optimizer, Sgd
from mithril_losses.training.perceptron import Perceptron

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
OutputName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


class DataConfig(Section):
    """The source of the examples: scikit-learn's handwritten digits, or an `.npz` file with one array per name.

    Attributes:
        file: an `.npz` file; None is the bundled digits, with the arrays `image` (1797 × 64, in [0, 1]) and `label`.
        input: the array that is the input of the model, examples × features.
        image_shape: the rows and columns of one input, if inputs are images.
        test_fraction: the fraction of the examples that is held out.
        examples: the number of examples to use, drawn at random; all by default.
    """

    file: Name | None = None
    input: Name = "image"
    image_shape: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    examples: Annotated[int, Field(ge=2)] | None = None


class HeadConfig(Section):
    """One output of the model: its size, and the widths of its own hidden layers."""

    size: Count
    hidden: list[Count] = Field(default=[])


class ModelConfig(Section):
    """A perceptron with several outputs: the widths of the shared hidden layers, and the outputs by name."""

    hidden: list[Count] = Field(default=[])
    outputs: Annotated[dict[OutputName, HeadConfig], Field(min_length=1)]

    def build(self) -> Perceptron:
        """Return the network."""
        return Perceptron(
            hidden=tuple(self.hidden),
            outputs={name: (*head.hidden, head.size) for name, head in self.outputs.items()},
        )

    @model_validator(mode="after")
    def _check_names(self) -> ModelConfig:
        try:
            self.build()
        except ValueError as error:
            raise problem(str(error), "outputs") from error
        return self


_OPTIMIZERS: dict[str, type[Adam] | type[Sgd]] = {"adam": Adam, "sgd": Sgd}


class OptimizerConfig(Section):
    """The kind of optimizer and its own options."""

    kind: Literal["adam", "sgd"]
    learning_rate: Positive
    momentum: Decay = Sgd.momentum
    beta1: Decay = Adam.beta1
    beta2: Decay = Adam.beta2
    epsilon: Positive = Adam.epsilon

    @model_validator(mode="after")
    def _check_options(self) -> OptimizerConfig:
        own = [field.name for field in fields(_OPTIMIZERS[self.kind])]
        check_keys(sorted(self.model_fields_set), ["kind", *own])
        return self

    def build(self) -> Optimizer:
        """Return the optimizer."""
        return _OPTIMIZERS[self.kind](**self.model_dump(include=self.model_fields_set - {"kind"}))


class RunConfig(Section):
    """How long to train, and the folder into which everything is written."""

    epochs: Count = 20
    batch_size: Count = 64
    output: Name
    picture: bool = True


class TrainingConfig(Section):
    """A training run. `backend = None` leaves the choice to `get_backend()`."""

    seed: Annotated[int, Field(ge=0)] = 0
    backend: Name | None = None
    dtype: Literal["float32", "float64"] = "float32"
    data: DataConfig = DataConfig()
    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    run: RunConfig

    @model_validator(mode="after")
    def _check_outputs(self) -> TrainingConfig:
        known = self.model.outputs
        for index, term in enumerate(self.objective.terms):
            for output in term.build().output_of.values():
                if output not in known:
                    raise problem(unknown("output", output, known), f"objective.terms[{index}]")
        names = [term.name for term in self.objective.terms] + [part.name for part in self.objective.regularizers]
        if "loss" in names:
            raise problem("'loss' is the name of the total, so no term can have it", "objective")
        return self


def read_config(
    path: str | os.PathLike[str], changes: Sequence[str] = (), backend: str | None = None
) -> TrainingConfig:
    """Return the configuration in a TOML file.

    Args:
        path: the file.
        changes: `key=value` for keys of the file (`"objective.terms.0.weight=2.0"`): dots separate the keys of nested
            tables, numbers select entries of lists, values are TOML. A value that is not TOML is taken as text.
        backend: the name of the backend. It has precedence over the environment variable `MITHRIL_LOSSES_BACKEND`,
            which has precedence over the file.

    Raises:
        UserError: the file cannot be read, is not TOML or is beyond the limits of `read_toml`; or a line for each key
            that is unknown or missing, or whose value is illegal.
    """
    with user_error():
        table = read_toml(Path(path))
    for change in changes:
        with user_error(f"--set {change[:200]}"):
            apply_change(table, change)
            require_shallow(table)
    try:
        config = TrainingConfig.model_validate(table)
    except ValidationError as error:
        raise UserError(*(f"{path}: {line}" for line in error_lines(error))) from error
    if backend is None and os.environ.get("MITHRIL_LOSSES_BACKEND"):
        return config.model_copy(update={"backend": None})  # get_backend() reads the variable and names it in errors
    return config if backend is None else config.model_copy(update={"backend": backend})


def apply_change(table: dict[str, Any], change: str) -> None:
    """Set one `key=value` in the tables of a configuration.

    Raises:
        ValueError: there is no "=", or a part of the key is neither in a table nor in a list.

    Example:
        >>> table = {"optimizer": {"learning_rate": 0.1}, "hidden": [64, 32]}
        >>> apply_change(table, "optimizer.learning_rate=0.5")
        >>> apply_change(table, "hidden.0=128")
        >>> table
        {'optimizer': {'learning_rate': 0.5}, 'hidden': [128, 32]}
    """
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise ValueError("write it as key=value, for example optimizer.learning_rate=0.01")
    *path, last = key.strip().replace("[", ".").replace("]", "").split(".")
    place: Any = table
    for part in path:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[_index(part, place)]
    place[last if isinstance(place, dict) else _index(last, place)] = _value(text.strip())


def _index(part: str, place: Any) -> int:
    if not isinstance(place, list):
        raise ValueError(f"{part!r} is a key inside {place!r}, which is not a table")
    if not part.isdecimal() or int(part) >= len(place):
        raise ValueError(f"{part!r} is not an index into a list of {len(place)} (the first is 0)")
    return int(part)


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables and lists by dotted key.

    Example:
        >>> flatten({"seed": 0, "terms": [{"weight": 1.0}]})
        {'seed': 0, 'terms.0.weight': 1.0}
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
