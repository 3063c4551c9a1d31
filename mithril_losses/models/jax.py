"""Compiled models from JAX: a function of parameters and data, or an exported program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.backends.namespaces import jax as xp
from mithril_losses.models.adapter import ModelAdapter, substitute, variables_of
from mithril_losses.models.checks import (
    check_library,
    check_output_gradients,
    check_outputs,
    is_differentiable,
)


class JaxModel(ModelAdapter):
    """A compiled model from a JAX function `function(params, data) -> {output name: array}`.

    The forward pass, and the forward pass with its `jax.vjp`, are each compiled once for every combination of shapes.
    `params` may be any nesting of dicts and lists; the gradients have the same structure.

    Args:
        function: a pure, traceable function that returns a dict of arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> model = JaxModel(lambda params, data: {"y": params["slope"] * data["x"]})
        >>> params, data = {"slope": jnp.array(2.0)}, {"x": jnp.array([1.0, 3.0])}
        >>> print(model.evaluate(params, data)["y"])
        [2. 6.]
        >>> outputs, gradients = model.evaluate(params, data, output_gradients={"y": jnp.array([1.0, 1.0])})
        >>> print(gradients["slope"])
        4.0
    """

    def __init__(self, function: Callable[[Any, Any], Mapping[str, Array]]) -> None:
        def outputs_of(params: Any, data: Any) -> dict[str, Array]:
            outputs = function(params, data)
            check_outputs(outputs)
            return dict(outputs)

        def outputs_and_gradients(params: Any, data: Any, output_gradients: Any, wrt: tuple[str, ...] | None) -> Any:
            variables = variables_of(params, data, wrt)
            outputs, pullback = jax.vjp(lambda x: outputs_of(*substitute(params, data, wrt, x)), variables)
            check_output_gradients(outputs, output_gradients)  # while tracing: later calls pay nothing for it
            cotangents = {name: _cotangent(output, output_gradients.get(name)) for name, output in outputs.items()}
            (gradients,) = pullback(cotangents)
            return outputs, gradients

        def derivatives(params: Any, data: Any, directions: Any) -> dict[str, Array]:
            found: dict[str, Array] = jax.jvp(lambda x: outputs_of(x, data), (params,), (directions,))[1]
            return found

        self._forward = jax.jit(outputs_of)
        self._derivatives = jax.jit(derivatives)
        self._forward_and_backward = jax.jit(outputs_and_gradients, static_argnums=3)

    def jvp(
        self, params: Mapping[str, Any], data: Mapping[str, Any], directions: Mapping[str, Any]
    ) -> dict[str, Array]:
        """As in `ModelAdapter`."""
        found: dict[str, Array] = self._derivatives(params, data, directions)
        return found

    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        outputs: dict[str, Array] = self._forward(params, data)
        return outputs

    def _outputs_and_gradients(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array],
        wrt: Sequence[str] | None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        for name, gradient in output_gradients.items():
            check_library(name, gradient, xp)  # before the trace, which would accept NumPy arrays
        names = None if wrt is None else tuple(wrt)
        outputs, gradients = self._forward_and_backward(params, data, dict(output_gradients), names)
        return outputs, gradients


class ExportedJaxModel(JaxModel):
    """A compiled model from a JAX program that was exported with `jax.export`, together with its vjp.

    Args:
        exported: a program of `(params, data)` that returns a dict of arrays, exported by this process or read back
            with `jax.export.deserialize`.
        output_names: the names of the outputs, in order, if the program returns an array, a tuple or a list.

    Attributes:
        input_names: the names of the inputs, which `data` must hold.

    Raises:
        ValueError: the program does not take parameters and a dict of inputs, or it was serialised without its vjp:
            use `exported.serialize(vjp_order=1)`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jax import export
        >>> params, data = {"slope": jnp.array(2.0)}, {"x": jnp.array([1.0, 3.0])}
        >>> line = jax.jit(lambda params, data: {"y": params["slope"] * data["x"]})
        >>> model = ExportedJaxModel(export.export(line)(params, data))
        >>> outputs, gradients = model.evaluate(params, data, output_gradients={"y": jnp.array([1.0, 1.0])})
        >>> print(gradients["slope"])
        4.0
    """

    def __init__(self, exported: jax.export.Exported, output_names: Sequence[str] | None = None) -> None:
        if not exported.has_vjp():
            raise ValueError(
                f"the exported program {exported.fun_name!r} carries no vjp; serialise it with "
                "exported.serialize(vjp_order=1)"
            )
        (_, inputs), _ = _arguments_of(exported)
        self.input_names = list(inputs)

        def call(params: Any, data: Any) -> Any:
            outputs = exported.call(params, data)
            return outputs if isinstance(outputs, Mapping) else _named(outputs, output_names)

        super().__init__(call)

    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        return super()._outputs(params, self._inputs(data))

    def _outputs_and_gradients(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array],
        wrt: Sequence[str] | None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        return super()._outputs_and_gradients(params, self._inputs(data), output_gradients, wrt)

    def _inputs(self, data: Mapping[str, Any]) -> dict[str, Any]:
        missing = [name for name in self.input_names if name not in data]
        if missing:
            raise ValueError(f"data lacks {missing}, which the program takes; it holds {sorted(data)}")
        return {name: data[name] for name in self.input_names}


def _arguments_of(exported: jax.export.Exported) -> Any:
    arguments = jax.tree_util.tree_unflatten(exported.in_tree, exported.in_avals)
    positional, keywords = arguments
    if len(positional) != 2 or keywords or not isinstance(positional[1], Mapping):
        raise ValueError(f"the program {exported.fun_name!r} must take (params, data), where data is a dict of inputs")
    return arguments


def _named(outputs: Any, names: Sequence[str] | None) -> dict[str, Any]:
    values = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    if names is None or len(names) != len(values):
        raise ValueError(
            f"the program returns {len(values)} outputs without names; output_names must name each, got {names}"
        )
    return dict(zip(names, values, strict=True))

    def jvp(
        self, params: Mapping[str, Any], data: Mapping[str, Any], directions: Mapping[str, Any]
    ) -> dict[str, Array]:
        """Raise a TypeError: an exported program carries its vjp only."""
        raise TypeError("an exported program has no jvp: it carries its vjp only")


def _cotangent(output: Array, gradient: Array | None) -> Any:
    if not is_differentiable(output):
        return np.zeros(output.shape, jax.dtypes.float0)  # what JAX calls the gradient of an integer
    return jnp.zeros_like(output) if gradient is None else gradient
