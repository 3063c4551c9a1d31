"""A compiled model from two callables: the forward pass and its vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mithril_losses.backends.namespaces import Array, fresh, namespace_of
from mithril_losses.models.adapter import ModelAdapter, variables_of
from mithril_losses.models.checks import (
    check_gradients,
    check_output_gradients,
    check_outputs,
    is_differentiable,
)


class CallableModel(ModelAdapter):
    """A compiled model from a forward pass and its hand-written vector-Jacobian product, on any array library.

    Args:
        forward: `forward(params, data)` returns the outputs by name.
        vjp: `vjp(params, data, output_gradients)` returns the gradient of each parameter by name, and of those inputs
            that `wrt` may name. It gets a copy of each output gradient, and zeros for every output that the caller left
            out.
        jvp: `jvp(params, data, directions)` returns the derivative of each output along directions of the parameters,
            if it is known.

    Raises:
        ValueError: (from `evaluate`) besides an adapter's usual errors, a gradient of `vjp` is missing or misshaped.

    Example:
        >>> import numpy as np
        >>> model = CallableModel(
        ...     forward=lambda params, data: {"y": params["slope"] * data["x"]},
        ...     vjp=lambda params, data, gradients: {"slope": np.sum(gradients["y"] * data["x"])},
        ... )
        >>> params, data = {"slope": np.array(2.0)}, {"x": np.array([1.0, 3.0])}
        >>> print(model.evaluate(params, data)["y"])
        [2. 6.]
        >>> outputs, gradients = model.evaluate(params, data, output_gradients={"y": np.array([1.0, 1.0])})
        >>> print(gradients["slope"])
        4.0
    """

    def __init__(
        self,
        forward: Callable[[Any, Any], Mapping[str, Array]],
        vjp: Callable[[Any, Any, dict[str, Array]], Mapping[str, Array]],
        jvp: Callable[[Any, Any, Mapping[str, Any]], Mapping[str, Array]] | None = None,
    ) -> None:
        self._forward = forward
        self._vjp = vjp
        self._jvp = jvp

    def jvp(
        self, params: Mapping[str, Any], data: Mapping[str, Any], directions: Mapping[str, Any]
    ) -> dict[str, Array]:
        """As in `ModelAdapter`."""
        if self._jvp is None:
            return super().jvp(params, data, directions)
        return {name: fresh(x) for name, x in self._jvp(params, data, directions).items()}

    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        outputs = self._forward(params, data)
        check_outputs(outputs)
        return {name: fresh(output) for name, output in outputs.items()}

    def _outputs_and_gradients(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array],
        wrt: Sequence[str] | None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        outputs = self._outputs(params, data)
        check_output_gradients(outputs, output_gradients)
        zeros = {name: _zeros_like(output) for name, output in outputs.items() if is_differentiable(output)}
        given = {name: fresh(gradient) for name, gradient in output_gradients.items()}
        gradients = self._vjp(params, data, zeros | given)
        wanted = variables_of(params, data, wrt)
        check_gradients(wanted, gradients)
        return outputs, {name: fresh(gradients[name]) for name in wanted}


def _zeros_like(output: Array) -> Array:
    xp: Any = namespace_of(output)
    return xp.zeros_like(output)
