"""The configuration of a training run: a TOML file, checked before anything runs."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mithril_losses.backends.toml import parse_toml, require_shallow
from mithril_losses.numerics.validation import unknown
from mithril_losses.objectives.config import (
    Name,
    ObjectiveConfig,
    ScheduleConfig,
    Section,
    check_keys,
    error_lines,
    problem,
    problems,
    read_toml,
)
from mithril_losses.training.errors import UserError, user_error
from mithril_losses.training.optimizers import Adam, AdamW, Optimizer, Sgd
from mithril_losses.training.perceptron import Perceptron

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
TABLES = (".csv", ".parquet")  # the files that are tables
OutputName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


class DataConfig(Section):
    """The source of the examples: scikit-learn's handwritten digits, arrays by name, or a table.

    Attributes:
        file: a table (`.csv`, `.parquet`), an `.npz` file, or a folder of `.npy` files, which are read as they are
            needed; None is the bundled digits, with the arrays `image` (1797 × 64, in [0, 1]) and `label`.
        validation_file: examples on which each epoch is evaluated, in place of a part of `file`.
        test_file: examples on which the run is evaluated, in place of a part of `file`.
        features: the columns of a table that are the input of the model; by default all that are no target.
        input: the array that is the input of the model, examples × features; for a table, the name of its features.
        scale: "standard" subtracts the mean of each feature and divides by its deviation, both of the training set.
        image_shape: the rows and columns of one input, if inputs are images.
        validation_fraction: the fraction of the examples on which each epoch is evaluated.
        test_fraction: the fraction of the examples that is held out.
        stratify: labels (a column or array) whose frequencies are the same in all parts of `file`.
        examples: the number of examples to use, drawn at random; all by default.
    """

    file: Name | None = None
    validation_file: Name | None = None
    test_file: Name | None = None
    features: Annotated[list[Name], Field(min_length=1)] | None = None
    input: Name | None = None
    scale: Literal["none", "standard"] = "none"
    image_shape: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    stratify: Name | None = None
    examples: Annotated[int, Field(ge=2)] | None = None

    @property
    def is_table(self) -> bool:
        """Whether the file is a table."""
        return self.file is not None and self.file.lower().endswith(TABLES)

    @property
    def input_name(self) -> str:
        """The entry of a batch that is the input of the model."""
        return self.input or ("features" if self.is_table else "image")

    @model_validator(mode="after")
    def _check_sources(self) -> DataConfig:
        if self.features is not None and not self.is_table:
            raise problem("only a table has columns to choose from", "features")
        for one, other in (("validation_file", "validation_fraction"), ("test_file", "test_fraction")):
            if {one, other} <= self.model_fields_set:
                raise problem(f"give either {one} or {other}, not both", other)
        for key in ("validation_file", "test_file"):
            if getattr(self, key) is not None and self.file is None:
                raise problem("the digits have no other files; give a file to train on, too", key)
        return self


class HeadConfig(Section):
    """One output of the model: its size, and the widths of its own hidden layers."""

    size: Count
    hidden: list[Count] = Field(default=[])


class ModelConfig(Section):
    """A perceptron with several outputs; or what a model from elsewhere is called by.

    Attributes:
        hidden: the widths of the shared hidden layers of a perceptron.
        outputs: the outputs of a perceptron by name.
        inputs: (model from elsewhere) for each of its inputs the entry of the data.
        output_names: (model from elsewhere) names for its outputs, in order, if they have none.
        parameters: (model from elsewhere) an `.npz` file of starting parameters.
    """

    hidden: list[Count] = Field(default=[])
    outputs: Annotated[dict[OutputName, HeadConfig], Field(min_length=1)] | None = None
    inputs: dict[str, Name] | None = None
    output_names: list[Name] | None = None
    parameters: Name | None = None

    def build(self) -> Perceptron:
        """Return the network."""
        return Perceptron(
            hidden=tuple(self.hidden),
            outputs={name: (*head.hidden, head.size) for name, head in (self.outputs or {}).items()},
        )

    @model_validator(mode="after")
    def _check_names(self) -> ModelConfig:
        for key in ("inputs", "output_names", "parameters") if self.outputs else ("hidden",):
            if key in self.model_fields_set:
                whose = "a model from elsewhere (--model)" if self.outputs else "a perceptron, which needs outputs"
                raise problem(f"this key belongs to {whose}", key)
        with problems("outputs"):
            self.build()
        return self


_OPTIMIZERS: dict[str, type[Adam] | type[AdamW] | type[Sgd]] = {"adam": Adam, "adamw": AdamW, "sgd": Sgd}


class OptimizerConfig(Section):
    """The kind of optimizer and its own options, a schedule of the learning rate, and the largest norm of gradients."""

    kind: Literal["adam", "adamw", "sgd"]
    learning_rate: Positive
    momentum: Decay = Sgd.momentum
    beta1: Decay = Adam.beta1
    beta2: Decay = Adam.beta2
    epsilon: Positive = Adam.epsilon
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = AdamW.weight_decay
    schedule: ScheduleConfig | None = None
    clip_norm: Positive | None = None

    @model_validator(mode="after")
    def _check_options(self) -> OptimizerConfig:
        own = [field.name for field in fields(_OPTIMIZERS[self.kind])]
        check_keys(sorted(self.model_fields_set), ["kind", *own, "schedule", "clip_norm"])
        return self

    def build(self) -> Optimizer:
        """Return the optimizer."""
        options = self.model_dump(include=self.model_fields_set - {"kind", "schedule", "clip_norm"})
        return _OPTIMIZERS[self.kind](**options)


class RunConfig(Section):
    """How long to train, and the folder into which everything is written.

    Attributes:
        epochs: the largest number of epochs.
        batch_size: the examples of a batch.
        evaluation_batch_size: the examples that are evaluated at once; all by default.
        monitor: the column of the history that says which epoch is best; by default the loss on held-out examples.
        maximize: whether larger values of this column are better.
        patience: the run ends after so many epochs without a better one.
        keep: "last" or "best": the epoch whose parameters are written.
        output: the folder.
        picture: whether to draw the curves.
    """

    epochs: Count = 20
    batch_size: Count = 64
    evaluation_batch_size: Count | None = None
    monitor: Name | None = None
    maximize: bool = False
    patience: Count | None = None
    keep: Literal["last", "best"] = "last"
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
                if known is not None and output not in known:
                    raise problem(unknown("output", output, known), f"objective.terms[{index}]")
        names = [term.name for term in self.objective.terms] + [part.name for part in self.objective.regularizers]
        if "loss" in names:
            raise problem("'loss' is the name of the total, so no term can have it", "objective")
        return self


def read_config(
    path: str | os.PathLike[str],
    changes: Sequence[str] = (),
    backend: str | None = None,
    text: str | None = None,
    own_model: bool = False,
) -> TrainingConfig:
    """Return the configuration in a TOML file.

    Args:
        path: the file; only its name in messages, if its text is given.
        changes: `key=value` for keys of the file (`"objective.terms.0.weight=2.0"`): dots separate the keys of nested
            tables, numbers select entries of lists, values are TOML. A value that is not TOML is taken as text.
        backend: the name of the backend. It has precedence over the environment variable `MITHRIL_LOSSES_BACKEND`,
            which has precedence over the file.
        text: the content of the file, such as that of stdin.
        own_model: whether the model comes from elsewhere, so that the table `model` may be missing.

    Raises:
        UserError: the file cannot be read, is not TOML or is beyond the limits of `read_toml`; or a line for each key
            that is unknown or missing, or whose value is illegal.
    """
    with user_error():
        table = read_toml(Path(path)) if text is None else read_toml(text + "\n")
    for change in changes:
        with user_error(f"--set {change[:200]}"):
            change.encode()  # bytes of the command line that are no text can be in no file
            apply_change(table, change)
            require_shallow(table)
    if own_model:
        table.setdefault("model", {})
    try:
        config = TrainingConfig.model_validate(table)
    except ValidationError as error:
        raise UserError(*(f"{path}: {line}" for line in error_lines(error))) from error
    if own_model and config.model.outputs:
        raise UserError(
            f"{path}: model.outputs: this key describes a perceptron, but --model names another model; take the table "
            "out of the file, or add --set model={}"
        )
    if not own_model and not config.model.outputs:
        raise UserError(f"{path}: model.outputs: Field required, unless --model names a model")
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


def resolved(config: TrainingConfig) -> dict[str, Any]:
    """Return the table of a configuration with its defaults written out, which `read_config` reads as the same run."""
    table = config.model_dump(exclude_unset=True)
    for name, section in (("data", config.data), ("optimizer", config.optimizer), ("run", config.run)):
        table[name] = section.model_dump(exclude={"schedule"}) | table.get(name, {})
    for one, other in (("validation_file", "validation_fraction"), ("test_file", "test_fraction")):
        if table["data"][one] is not None:
            del table["data"][other]
    own = {field.name for field in fields(_OPTIMIZERS[config.optimizer.kind])} | {"kind", "clip_norm", "schedule"}
    table["optimizer"] = {key: value for key, value in table["optimizer"].items() if key in own}
    order = [key for key in TrainingConfig.model_fields if key in {*table, "seed", "dtype"}]
    return {key: table.get(key, getattr(config, key)) for key in order}


def to_toml(table: Mapping[str, Any]) -> str:
    """Return a table as the text of a TOML file; keys whose value is None are left out.

    Example:
        >>> table = {"seed": 0, "data": {"file": "a.csv", "input": None}, "objective": {"terms": [{"weight": 1.0}]}}
        >>> print(to_toml(table))
        seed = 0
        <BLANKLINE>
        [data]
        file = "a.csv"
        <BLANKLINE>
        [[objective.terms]]
        weight = 1.0
        <BLANKLINE>
    """
    flat = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    parts = [_lines(flat)] if flat else []
    for name, section in table.items():
        if not isinstance(section, Mapping):
            continue
        lists = {key: value for key, value in section.items() if _is_list_of_tables(value)}
        own = {key: value for key, value in section.items() if key not in lists}
        if own or not lists:
            parts.append(f"[{_key(name)}]\n{_lines(own)}")
        for key, entries in lists.items():
            parts += [f"[[{_key(name)}.{_key(key)}]]\n{_lines(entry)}" for entry in entries]
    return "\n".join(parts)


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {literal(value)}\n" for key, value in table.items() if value is not None)


def literal(value: Any) -> str:
    """Return a value as it is written in a TOML file."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {literal(x)}" for key, x in value.items() if x is not None) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return value.isoformat() if isinstance(value, (date, time)) else repr(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else literal(key)


# Keys that may change when a run is resumed: none of them changes what a finished epoch computed.
FREE_KEYS = ("run.epochs", "run.output", "run.picture", "run.patience", "run.keep")


def fingerprint(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must not change between the parts of one run: the configuration by dotted key, and further facts."""
    return {key: value for key, value in flatten(config).items() if key not in FREE_KEYS} | dict(facts)
