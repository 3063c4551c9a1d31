"""The protocol of compiled models, and the base class that the adapters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, overload, runtime_checkable

from mithril_losses.backends._namespace import Array


@runtime_checkable
class CompiledModel(Protocol):
    """A model that was compiled elsewhere: it hands out outputs and takes their gradients back.

    Mithril's compiled models satisfy this protocol as they are; the adapters of `mithril_losses.models` make other
    models satisfy it.
    """

    @overload
    def evaluate(self, params: Any, data: Any, /) -> dict[str, Array]: ...
    @overload
    def evaluate(
        self, params: Any, data: Any, /, *, output_gradients: Any
    ) -> tuple[dict[str, Array], dict[str, Any]]: ...


class ModelAdapter(ABC):
    """What every adapter has in common: one `evaluate` over a forward pass and a forward-and-backward pass."""

    @overload
    def evaluate(
        self, params: Mapping[str, Any], data: Mapping[str, Any], output_gradients: None = None
    ) -> dict[str, Array]: ...
    @overload
    def evaluate(
        self, params: Mapping[str, Any], data: Mapping[str, Any], output_gradients: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Any]]: ...
    def evaluate(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array] | None = None,
    ) -> dict[str, Array] | tuple[dict[str, Array], dict[str, Any]]:
        """Return the outputs; with `output_gradients`, also the gradients of the parameters.

        Args:
            params: parameters by name.
            data: inputs by name; entries the model does not use are ignored.
            output_gradients: for some or all outputs, the gradient of the loss: an array of exactly the output's
                shape, dtype, library and device. An output that is left out counts as zero. It is never written to.

        Returns:
            The outputs by name or, with `output_gradients`, `(outputs, parameter gradients by name)`. The arrays are
            new: they share memory with nothing that was handed in, and hang on no autodiff graph.

        Raises:
            ValueError: an unknown output name, or a gradient of another shape or on another device.
            TypeError: a gradient of another dtype or library.
        """
        if output_gradients is None:
            return self._outputs(params, data)
        return self._outputs_and_gradients(params, data, output_gradients)

    @abstractmethod
    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]: ...

    @abstractmethod
    def _outputs_and_gradients(
        self, params: Mapping[str, Any], data: Mapping[str, Any], output_gradients: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Any]]: ...
