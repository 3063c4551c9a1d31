"""A compiled model from a NumPy function, differentiated by HIPS autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import autograd.builtins
import numpy as np
from autograd import make_vjp
from autograd.differential_operators import make_jvp_reversemode

from mithril_losses.backends.namespaces import Array
from mithril_losses.models.adapter import ModelAdapter, Pullback, substitute, variables_of
from mithril_losses.models.checks import check_mapping, check_output_gradients, check_outputs


class NumpyModel(ModelAdapter):
    """A compiled model from a NumPy function `function(params, data) -> {output name: array}`.

    Args:
        function: a function written with `autograd.numpy` in place of `numpy`. It must not write into arrays. `params`
            is a flat dict.

    Example:
        >>> import numpy as np
        >>> model = NumpyModel(lambda params, data: {"y": params["slope"] * data["x"]})
        >>> params, data = {"slope": np.array(2.0)}, {"x": np.array([1.0, 3.0])}
        >>> print(model.evaluate(params, data)["y"])
        [2. 6.]
        >>> outputs, gradients = model.evaluate(params, data, output_gradients={"y": np.array([1.0, 1.0])})
        >>> print(gradients["slope"])
        4.0
    """

    def __init__(self, function: Callable[[Any, Any], Mapping[str, Array]]) -> None:
        self._function = function

    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        outputs = self._function(params, data)
        check_outputs(outputs)
        return {name: np.array(output) for name, output in outputs.items()}

    def jvp(
        self, params: Mapping[str, Any], data: Mapping[str, Any], directions: Mapping[str, Any]
    ) -> dict[str, Array]:
        """As in `ModelAdapter`."""
        along = make_jvp_reversemode(lambda x: autograd.builtins.dict(self._function(x, data)))
        found: dict[str, Array] = along(dict(params))(dict(directions))
        return found

    def _outputs_and_gradients(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array],
        wrt: Sequence[str] | None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        outputs, pullback = self.outputs_and_pullback(params, data, wrt)
        return outputs, pullback(output_gradients)

    def outputs_and_pullback(
        self, params: Mapping[str, Any], data: Mapping[str, Any], wrt: Sequence[str] | None = None
    ) -> tuple[dict[str, Array], Pullback]:
        """Return the outputs, and the function from their gradients to those of the parameters, or those of `wrt`."""

        def traced(variables: Any) -> Any:
            outputs = self._function(*substitute(params, data, wrt, variables))
            check_mapping(outputs)
            return autograd.builtins.dict(outputs)

        vjp, outputs = make_vjp(traced)(dict(variables_of(params, data, wrt)))
        check_outputs(outputs)

        def pullback(output_gradients: Mapping[str, Array]) -> dict[str, Any]:
            check_output_gradients(outputs, output_gradients)
            zeros = {name: np.zeros_like(output) for name, output in outputs.items()}
            gradients: dict[str, Any] = vjp(zeros | dict(output_gradients))  # new, in the dtypes of the variables
            return gradients

        return {name: np.array(output) for name, output in outputs.items()}, pullback
