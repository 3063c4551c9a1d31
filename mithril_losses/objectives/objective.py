"""The objective of a model with several outputs, which turns outputs into `output_gradients`."""

from __future__ import annotations

import functools
import math
import operator
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.backends.extras import missing
from mithril_losses.backends.namespaces import Array, host_values, library_name, namespace_of
from mithril_losses.numerics.trees import add_into, leaves, map_leaves
from mithril_losses.objectives.terms import Regularizer, Term, require_distinct_names, require_mapping
from mithril_losses.templates.second_order import Kind


class ObjectiveResult(NamedTuple):
    """The result of an objective at one step: a named tuple, so that it can be returned from `jax.jit`.

    Its arrays are in no graph of PyTorch, even if the outputs are. Only a weight that is a tensor in a graph keeps the
    loss in this graph.

    Attributes:
        loss: the weighted total.
        components: the unweighted value of each term and regularizer, by name.
        output_gradients: the gradient of the total wrt each output that a term uses. It has exactly the shape, dtype
            and device of the output, is new and writable, and shares memory with no other gradient.
        parameter_gradients: the gradient of the regularizers wrt each parameter that one of them selects.
    """

    loss: Array
    components: dict[str, Array]
    output_gradients: dict[str, Array]
    parameter_gradients: dict[str, Any]

    def __repr__(self) -> str:
        """Return the numbers, and the shapes of the gradients, in place of all their elements."""
        numbers = ", ".join(f"{name}: {_brief(value)}" for name, value in self.components.items())
        gradients = ", ".join(
            f"{field}={map_leaves(lambda _, x: _Shape(x), getattr(self, field))}"
            for field in ("output_gradients", "parameter_gradients")
        )
        return f"ObjectiveResult(loss={_brief(self.loss)}, components={{{numbers}}}, {gradients})"


class _Shape:
    """The dtype and the shape of an array, for `repr`."""

    def __init__(self, x: Any) -> None:
        self._text = f"{str(x.dtype).rpartition('.')[2]}{list(x.shape)}"

    def __repr__(self) -> str:
        return self._text


def _brief(x: Any) -> str:
    """Return a number with a few digits, or the dtype and shape of an array whose values cannot be read."""
    seen = host_values(x) if namespace_of(x) is not None else np.asarray(x)
    return repr(_Shape(x)) if seen is None or seen.size != 1 else f"{float(seen.reshape(())):.6g}"


@dataclass(frozen=True)
class Objective:
    """L = Σ weight · loss over named terms on model outputs and regularizers on parameters.

    Args:
        terms: at least one term; all names of terms and regularizers must differ.
        regularizers: losses on parameters.

    Raises:
        ValueError: there is no term, or two names are equal.
        TypeError: `terms` or `regularizers` is no list, or holds something else.

    Example:
        (1² + 3²)/2 = 5 and (|2| + |−4|)/2 = 3, the second at weight ½: 6.5.

        >>> import numpy as np
        >>> objective = Objective(
        ...     [
        ...         Term("height", "mse_loss", outputs="height", targets="true_height"),
        ...         Term("width", "mae_loss", outputs="width", targets="true_width", weight=0.5),
        ...     ]
        ... )
        >>> result = objective.evaluate(
        ...     outputs={"height": np.array([1.0, 3.0]), "width": np.array([2.0, -4.0])},
        ...     data={"true_height": np.array([0.0, 0.0]), "true_width": np.array([0.0, 0.0])},
        ... )
        >>> float(result.loss), {name: float(value) for name, value in result.components.items()}
        (6.5, {'height': 5.0, 'width': 3.0})
        >>> {name: gradient.tolist() for name, gradient in result.output_gradients.items()}
        {'height': [1.0, 3.0], 'width': [0.25, -0.25]}
    """

    terms: Sequence[Term]
    regularizers: Sequence[Regularizer] = ()

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an objective needs at least one term")
        _require_list("terms", self.terms, Term)
        _require_list("regularizers", self.regularizers, Regularizer)
        require_distinct_names(self._parts)

    @functools.cached_property
    def _output_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for term in self.terms for name in term.output_of.values()))

    @property
    def _parts(self) -> list[Term | Regularizer]:
        return [*self.terms, *self.regularizers]

    def evaluate(
        self,
        outputs: Mapping[str, Array],
        data: Mapping[str, Any],
        params: Mapping[str, Any] | None = None,
        step: int = 0,
        *,
        gradients: bool = True,
        check_finite: bool = False,
        across: Any = None,
    ) -> ObjectiveResult:
        """Return the loss, its components, and the gradients to hand to the model.

        Args:
            outputs: the outputs of the model, by name. They are never written to.
            data: targets, and all other entries that the terms name.
            params: the parameters by name, needed only for regularizers.
            step: the training step, for schedules.
            gradients: False computes the values only, and leaves both dicts of gradients empty.
            check_finite: whether a component that is NaN or infinite raises. The check reads values, so it waits for
                an accelerator and does not work inside `jax.jit`.
            across: if outputs and data are parts of larger arrays, the devices or processes that hold the parts, as in
                `reduce_loss`. Every term is then the loss of all parts. Parameters are not split: regularizers are the
                same on all of them.

        Raises:
            ValueError: an unknown output, a missing data entry, shapes that do not fit, regularizers without `params`
                or with a pattern that matches nothing, or a weight or component that is not finite.
            TypeError: outputs of several libraries, data of another one than the outputs, or outputs that are not
                floating point.
        """
        if params is None:
            if self.regularizers:
                raise ValueError(f"regularizer {self.regularizers[0].name!r} needs params, got None")
            params = {}
        for name, arrays in (("outputs", outputs), ("data", data), ("params", params)):
            if type(arrays) is not dict:  # which costs less to ask
                require_mapping(name, arrays, "a dict of arrays by name")
        self._require_one_library(outputs)
        weights = {part.name: part.weight_at(step) for part in self._parts}
        components: dict[str, Array] = {}
        output_gradients: dict[str, Array] = {}
        parameter_gradients: dict[str, Any] = {}
        for term in self.terms:
            if gradients:
                components[term.name], found = term.value_and_gradients(outputs, data, weights[term.name], step, across)
                for output, gradient in found:
                    _add(output_gradients, output, gradient)
            else:
                components[term.name] = term.value(outputs, data, step, across)
        for regularizer in self.regularizers:
            name = regularizer.name
            if gradients:
                components[name], by_parameter = regularizer.value_and_gradients(params, weights[name], step)
                for parameter, gradient in by_parameter.items():
                    _add(parameter_gradients, parameter, gradient)
            else:
                components[name] = regularizer.value(params, step)
        if check_finite:
            _require_finite(components)
        return ObjectiveResult(_total(weights, components), components, output_gradients, parameter_gradients)

    def hessian_products(
        self,
        outputs: Mapping[str, Array],
        data: Mapping[str, Any],
        directions: Mapping[str, Array],
        params: Mapping[str, Any] | None = None,
        parameter_directions: Mapping[str, Any] | None = None,
        curvature: Kind = "exact",
        step: int = 0,
        across: Any = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return ∇²L v of the outputs, and of the parameters that a regularizer selects, by name.

        Args:
            outputs: as in `evaluate`.
            data: as in `evaluate`.
            directions: v by output, of the outputs' shapes.
            params: as in `evaluate`.
            parameter_directions: v by parameter, needed only for regularizers.
            curvature: see `hessian_diagonal`.
            step: as in `evaluate`.
            across: as in `evaluate`; the products are those of the own rows.

        Raises:
            ValueError: a loss has no such curvature; or as in `evaluate`.

        Example:
            >>> import numpy as np
            >>> objective = Objective([Term("height", "mse_loss", outputs="height", targets="true_height")])
            >>> arrays = {"height": np.zeros(2)}, {"true_height": np.ones(2)}
            >>> objective.hessian_products(*arrays, {"height": np.array([1.0, 3.0])})[0]["height"].tolist()
            [1.0, 3.0]
        """
        by_output: dict[str, Array] = {}
        by_parameter: dict[str, Any] = {}
        for term in self.terms:
            weight = term.weight_at(step)
            products = term.hessian_products(outputs, data, directions, curvature, weight, step, across)
            for output, product in products:
                _add(by_output, output, product)
        for regularizer in self.regularizers:
            weight = regularizer.weight_at(step)
            found = regularizer.hessian_products(params or {}, parameter_directions or {}, curvature, weight, step)
            for parameter, product in found.items():
                _add(by_parameter, parameter, product)
        return by_output, by_parameter

    def _require_one_library(self, outputs: Mapping[str, Any]) -> None:
        if len(self._output_names) == 1:
            return
        found = {name: _library(outputs[name]) for name in self._output_names if name in outputs}
        if len(set(found.values()) - {None}) > 1:
            libraries = ", ".join(f"{name!r} from {library_name(xp)}" for name, xp in found.items() if xp)
            raise TypeError(f"all outputs must come from one library, got {libraries}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Objective:
        """Return the objective that a nesting of dicts and lists describes, such as parsed TOML or JSON.

        It has the keys `terms` and `regularizers`, or is the configuration of a run, whose table `objective` has them.

        Raises:
            ValueError: one line for each key that is unknown, missing or has an impossible value.
            ModuleNotFoundError: pydantic is not installed.

        Example:
            >>> term = {"name": "size", "loss": "mse_loss", "output": "size", "target": "true_size", "weight": 0.5}
            >>> Objective.from_config({"terms": [term]}).terms[0].weight
            0.5
        """
        return cls(*_config().read_objective(config).build())

    @classmethod
    def from_toml(cls, source: str | os.PathLike[str]) -> Objective:
        """Return the objective that a TOML file describes: arrays of tables `terms` and `regularizers`.

        In the configuration of a training run they are in the table `objective`; such a file is read, too.

        Args:
            source: the path of a file that ends in `.toml`, or the text itself.

        Raises:
            ValueError: the text is not TOML, or as in `from_config`.
            OSError: the file cannot be read.
            ModuleNotFoundError: pydantic is not installed.

        Example:
            >>> objective = Objective.from_toml('''
            ... [[terms]]
            ... name = "size"
            ... loss = "huber_loss"
            ... output = "size"
            ... target = "true_size"
            ... schedule = { kind = "linear_warmup", steps = 100 }
            ... options = { delta = 0.5 }
            ... ''')
            >>> objective.terms[0].options
            {'delta': 0.5}
        """
        return cls.from_config(_config().read_toml(source))


def _config() -> Any:
    try:
        from mithril_losses.objectives import config
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            missing("an objective from a configuration", error.name, "cli"), name=error.name
        ) from error
    return config


def _require_list(name: str, parts: Any, kind: type) -> None:
    """Raise a TypeError unless `parts` is a list of objects of this kind."""
    is_list = isinstance(parts, Sequence) and not isinstance(parts, str)
    for part in parts if is_list else [parts]:
        if not is_list or not isinstance(part, kind):
            raise TypeError(f"{name} must be a list of {kind.__name__} objects, got {reprlib.repr(part)}")


def _library(tree: Any) -> Any | None:
    """Return the namespace of an array, or of the first array in a nesting; None where there is no array."""
    return namespace_of(tree) or next((namespace_of(x) for _, x in leaves(tree)), None)


def _add(gradients: dict[str, Any], name: str, gradient: Any) -> None:
    """Add to the gradient under `name`, which is the objective's own."""
    gradients[name] = add_into(gradients[name], gradient) if name in gradients else gradient


def _total(weights: Mapping[str, Any], components: Mapping[str, Array]) -> Array:
    """Return Σ weight · component, a new array, in few operations: in eager JAX each costs as much as a small loss."""
    first, *others = components
    if not others:
        return weights[first] * components[first]
    parts = (x if type(w := weights[name]) is float and w == 1.0 else w * x for name, x in components.items())
    return functools.reduce(operator.add, parts)


def _require_finite(components: Mapping[str, Array]) -> None:
    for name, value in components.items():
        if not math.isfinite(value):
            raise ValueError(f"component {name!r} of the loss is {float(value)}")
