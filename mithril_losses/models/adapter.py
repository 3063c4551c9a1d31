"""The protocol of compiled models, and the base class that the adapters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, overload, runtime_checkable

from mithril_losses.backends.namespaces import Array, namespace_of
from mithril_losses.models.checks import is_differentiable
from mithril_losses.numerics.validation import unknown


@runtime_checkable
class CompiledModel(Protocol):
    """A model that was compiled elsewhere: it returns outputs and takes the gradients of these outputs.

    Mithril's compiled models already satisfy this protocol; the adapters of `mithril_losses.models` make other models
    satisfy it.
    """

    @overload
    def evaluate(self, params: Any, data: Any, /) -> dict[str, Array]: ...
    @overload
    def evaluate(
        self, params: Any, data: Any, /, *, output_gradients: Any
    ) -> tuple[dict[str, Array], dict[str, Any]]: ...


Pullback = Callable[[Mapping[str, Array]], dict[str, Any]]  # from output gradients to the gradients of the parameters


class ModelAdapter(ABC):
    """The base of all adapters: one `evaluate` over a forward pass and a forward-and-backward pass."""

    def outputs_and_pullback(self, params: Any, data: Mapping[str, Any]) -> tuple[dict[str, Array], Pullback]:
        """Return the outputs, and the function from their gradients to those of all parameters, to be called once.

        A training step needs both. An adapter that records its forward pass does not repeat it.
        """
        return self._outputs(params, data), lambda given: self._outputs_and_gradients(params, data, given, None)[1]

    def mode(self, training: bool) -> AbstractContextManager[None]:
        """Compute inside the block as in training or as in evaluation, where the model makes a difference."""
        return nullcontext()

    def state(self) -> dict[str, Array]:
        """Return the arrays that training changes besides the parameters, such as running means."""
        return {}

    @overload
    def evaluate(
        self, params: Mapping[str, Any], data: Mapping[str, Any], output_gradients: None = None
    ) -> dict[str, Array]: ...
    @overload
    def evaluate(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array],
        wrt: Sequence[str] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]: ...
    def evaluate(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array] | None = None,
        wrt: Sequence[str] | None = None,
    ) -> dict[str, Array] | tuple[dict[str, Array], dict[str, Any]]:
        """Return the outputs; with `output_gradients`, also the gradients of the parameters.

        Args:
            params: parameters by name.
            data: inputs by name; entries that the model does not use are ignored.
            output_gradients: for some or all outputs, the gradient of the loss: an array of exactly the output's
                shape, dtype, library and device, which is never written to. An output that is left out has the
                gradient 0.
            wrt: the names of the parameters and inputs whose gradients are wanted, all parameters by default. The
                gradient wrt an input trains the model that produced this input, such as a generator.

        Returns:
            The outputs by name or, with `output_gradients`, `(outputs, gradients by name)`. The arrays are new: they
            share no memory with the arguments, and are in no autodiff graph.

        Raises:
            ValueError: an unknown output name, or a gradient of another shape or on another device; a name in `wrt`
                that belongs to no parameter or input, or to one of each.
            TypeError: a gradient of another dtype or library, or a gradient wrt an input of integers.
        """
        if output_gradients is None:
            if wrt is not None:
                raise ValueError("wrt says which gradients are wanted, so it needs output_gradients")
            return self._outputs(params, data)
        if wrt is not None:
            _check_names(wrt, params, data)
        return self._outputs_and_gradients(params, data, output_gradients, wrt)

    def jvp(
        self, params: Mapping[str, Any], data: Mapping[str, Any], directions: Mapping[str, Any]
    ) -> dict[str, Array]:
        """Return the derivative of each output along a direction of the parameters, by name.

        Args:
            params: parameters by name.
            data: inputs by name.
            directions: an array for each array of the parameters, in their structure and shapes.

        Raises:
            TypeError: the model cannot be differentiated in this way.
        """
        raise TypeError(f"{type(self).__name__} has no jvp")

    @abstractmethod
    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]: ...

    @abstractmethod
    def _outputs_and_gradients(
        self,
        params: Mapping[str, Any],
        data: Mapping[str, Any],
        output_gradients: Mapping[str, Array],
        wrt: Sequence[str] | None,
    ) -> tuple[dict[str, Array], dict[str, Any]]: ...


def variables_of(params: Any, data: Mapping[str, Any], wrt: Sequence[str] | None) -> Any:
    """Return the variables to differentiate by: the parameters, or a dict of those that `wrt` names."""
    return params if wrt is None else {name: params[name] if name in params else data[name] for name in wrt}


def substitute(params: Any, data: Mapping[str, Any], wrt: Sequence[str] | None, variables: Any) -> tuple[Any, Any]:
    """Return parameters and data with the variables put in."""
    if wrt is None:
        return variables, data
    params, data = (
        {name: variables[name] if name in wrt else x for name, x in group.items()} for group in (params, data)
    )
    return params, data


def _check_names(wrt: Sequence[str], params: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    for name in wrt:
        if name not in params and name not in data:
            raise ValueError(unknown("parameter or input", name, {**params, **data}))
        if name in params and name in data:
            raise ValueError(f"{name!r} is the name of a parameter and of an input; wrt cannot tell them apart")
        x = params[name] if name in params else data[name]
        if namespace_of(x) is not None and not is_differentiable(x):
            raise TypeError(f"{name!r} has dtype {x.dtype} and therefore no gradient")
