"""The part of a configuration file that describes an objective: data only, checked by pydantic."""

from __future__ import annotations

import inspect
import os
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from mithril_losses.backends.toml import parse_toml, read_toml_file
from mithril_losses.catalogue import find_loss
from mithril_losses.numerics.validation import did_you_mean
from mithril_losses.objectives import schedules
from mithril_losses.objectives.composition import CompositeLoss, ScheduledLoss, WeightedLoss
from mithril_losses.objectives.schedules import Schedule
from mithril_losses.objectives.terms import Loss, Regularizer, Term, check_option, require_distinct_names

# --- what every table of a configuration file has in common -------------------------------------------------------


class Section(BaseModel):
    """A table of a configuration file: every key must be known, and every value must have the right type."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, table: Any) -> Any:
        if isinstance(table, Mapping):
            check_keys(table, cls.model_fields)
        return table


def problem(message: str, *at: str) -> PydanticCustomError:
    """Return the error to raise in a validator; `at` is the path of the key, below the table being validated."""
    return PydanticCustomError("problem", "{message}", {"message": message, "at": at})


@contextmanager
def problems(*at: str) -> Iterator[None]:
    """Turn a TypeError or ValueError raised inside the block into the error of a validator."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise problem(str(error), *at) from error


def check_keys(keys: Iterable[str], known: Iterable[str]) -> None:
    """Raise the error of the first key that is not known."""
    known = list(known)
    for key in keys:
        if key not in known:
            raise problem(f"unknown key{did_you_mean(key, known)} (known: {', '.join(known)})", key)


def error_lines(error: ValidationError) -> list[str]:
    """Return one line for each error: the path of the key, what it should be, and what it is."""
    lines = []
    for found in error.errors():
        path = _dotted((*found["loc"], *found.get("ctx", {}).get("at", ())))
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] == "model_type":
            message = "Input should be a table"
        if found["type"] not in ("missing", "problem", "value_error"):
            message += f", got {reprlib.repr(found['input'])}"
        lines.append(f"{path}: {message}" if path else message)
    return lines


def _dotted(path: Iterable[str | int]) -> str:
    """Return a path such as `terms[0].options.delta`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def read_toml(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tables of a TOML file: the path of a file that ends in `.toml`, or the text itself.

    Raises:
        ValueError: the text is not TOML (the message names the line), a file is larger than 1 MB, or tables and lists
            are nested more than 32 levels deep.
        OSError: the file cannot be read.
    """
    text = os.fspath(source)
    is_file = isinstance(source, os.PathLike) or (text.endswith(".toml") and "\n" not in text)
    origin = text if is_file else "the configuration"
    try:
        return read_toml_file(Path(text)) if is_file else parse_toml(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{origin} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


# --- the tables of an objective -----------------------------------------------------------------------------------


def _registered(loss: str) -> str:
    find_loss(loss)
    return loss


LossName = Annotated[str, AfterValidator(_registered)]
Name = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]

_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": schedules.constant,
    "linear_warmup": schedules.linear_warmup,
    "exponential_warmup": schedules.exponential_warmup,
    "cosine": schedules.cosine,
    "cyclical": schedules.cyclical,
}


class ScheduleConfig(Section):
    """A weight that changes with the step: the kind of schedule and its arguments."""

    kind: Literal["constant", "linear_warmup", "exponential_warmup", "cosine", "cyclical"]
    value: Number = 1.0
    steps: Annotated[Number, Field(gt=0)] = 1.0
    maximum: Number = 1.0
    minimum: Number = 0.0
    cycle_length: Annotated[Number, Field(gt=0)] = 1.0
    ratio: Annotated[Number, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _check_arguments(self) -> ScheduleConfig:
        parameters = inspect.signature(_SCHEDULES[self.kind]).parameters
        check_keys(sorted(self.model_fields_set), ["kind", *parameters])
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in self.model_fields_set:
                raise problem(f"{self.kind} needs this key", name)
        return self

    def build(self) -> Schedule:
        """Return the schedule."""
        return _SCHEDULES[self.kind](**self.model_dump(include=self.model_fields_set - {"kind"}))


class _Part(Section):
    """The common keys of terms, regularizers and losses of a sum: one loss or several, options, weight or schedule."""

    loss: LossName | None = None
    losses: list[ComponentConfig] = []
    weight: Number = 1.0
    schedule: ScheduleConfig | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> _Part:
        self._at_most_one("loss", "losses")
        self._at_most_one("weight", "schedule")
        if not self.loss and not self.losses:
            raise problem("give the name of a loss, or several losses to add up", "loss")
        with problems("losses"):
            pair = find_loss(self._loss())
        for option, value in self._options().items():
            with problems("options", option):
                check_option(pair, option, value)
        return self

    def _loss(self) -> Loss:
        return self.loss or CompositeLoss([loss.build() for loss in self.losses])

    def _at_most_one(self, one: str, other: str) -> None:
        if {one, other} <= self.model_fields_set:
            raise problem(f"give either {one} or {other}, not both", other)

    def _weight(self) -> float | Schedule:
        return self.weight if self.schedule is None else self.schedule.build()

    def _options(self) -> dict[str, Any]:
        # several axes are a tuple in Python, a list in TOML
        return {name: tuple(value) if isinstance(value, list) else value for name, value in self.options.items()}


class ComponentConfig(_Part):
    """One entry of `losses`: one loss of a sum."""

    name: Name | None = None

    def build(self) -> Loss:
        """Return the weighted or scheduled loss."""
        loss = self._loss()
        if self.options:
            loss = partial(find_loss(loss).value, **self._options())
        weight = self._weight()
        return ScheduledLoss(loss, weight, self.name) if callable(weight) else WeightedLoss(loss, weight, self.name)


def _check_wiring(value: Any) -> Any:
    """Check by hand what is a name or a table of names: pydantic would report an error for each of the two."""
    for key, name in value.items() if isinstance(value, dict) else [("", value)]:
        if not isinstance(name, str) or not name:
            raise problem(
                f"give a name, or a table of names by argument, got {reprlib.repr(name)}", *filter(None, [key])
            )
    return value


Wiring = Annotated[Any, BeforeValidator(_check_wiring)]  # a name, or names by argument


class TermConfig(_Part):
    """One entry of `terms`."""

    name: Name
    output: Name | None = None
    outputs: Wiring = None
    target: Name | None = None
    targets: Wiring = None

    @model_validator(mode="after")
    def _check_term(self) -> TermConfig:
        self._at_most_one("output", "outputs")
        self._at_most_one("target", "targets")
        if not self.output and not self.outputs:
            raise problem("give the model's output (or outputs) that the loss takes", "output")
        with problems():
            self.build()
        return self

    def build(self) -> Term:
        """Return the term."""
        return Term(
            name=self.name,
            loss=self._loss(),
            outputs=self.output or self.outputs,
            targets=self.target or self.targets or None,
            weight=self._weight(),
            options=self._options(),
        )


class RegularizerConfig(_Part):
    """One entry of `regularizers`."""

    name: str = ""
    parameters: Annotated[list[Name], Field(min_length=1)] = ["*"]

    @model_validator(mode="after")
    def _check_regularizer(self) -> RegularizerConfig:
        with problems():
            self.build()
        return self

    def build(self) -> Regularizer:
        """Return the regularizer."""
        return Regularizer(
            loss=self._loss(),
            parameters=self.parameters,
            weight=self._weight(),
            options=self._options(),
            name=self.name,
        )


class ObjectiveConfig(Section):
    """The objective: what `Objective.from_toml` reads, and the key `objective` of a run's configuration."""

    terms: Annotated[list[TermConfig], Field(min_length=1)]
    regularizers: list[RegularizerConfig] = []

    @model_validator(mode="after")
    def _check_names(self) -> ObjectiveConfig:
        require_distinct_names([part for parts in self.build() for part in parts])
        return self

    def build(self) -> tuple[list[Term], list[Regularizer]]:
        """Return the terms and regularizers of the objective."""
        return [term.build() for term in self.terms], [regularizer.build() for regularizer in self.regularizers]


def read_objective(config: Mapping[str, Any]) -> ObjectiveConfig:
    """Return the validated configuration of an objective, or of the objective in the configuration of a run.

    Raises:
        ValueError: one line for each key that is unknown or missing, or whose value is illegal.
    """
    of_a_run = isinstance(config, Mapping) and "objective" in config and "terms" not in config
    try:
        return ObjectiveConfig.model_validate(config["objective"] if of_a_run else config)
    except ValidationError as error:
        prefix = "objective." if of_a_run else ""
        raise ValueError("\n".join(prefix + line for line in error_lines(error))) from error
