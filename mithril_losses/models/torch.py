"""A compiled model from a torch module, or from a function of torch tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import functional_call
from torch.utils._pytree import tree_unflatten

from mithril_losses.backends.namespaces import Array, fresh
from mithril_losses.models.adapter import ModelAdapter, Pullback, substitute, variables_of
from mithril_losses.models.checks import check_output_gradients, check_outputs
from mithril_losses.numerics.validation import unknown


class TorchModel(ModelAdapter):
    """A compiled model from a torch module, or from a function `function(params, data) -> {output name: tensor}`.

    The caller passes the parameters of a module: `params` holds every name of `module.named_parameters()`, and the
    module's own parameters are never read or changed. Each argument of the module's `forward` is taken from `data` by
    its name.

    Buffers belong to the module. An evaluation without output gradients does not change them. An evaluation with output
    gradients is a training step: it updates running statistics as torch does, once per step. Dropout draws a new mask
    in each evaluation: to use one mask in both evaluations of a step, seed torch before each of them.

    Args:
        module: returns a dict of tensors by name, or a tensor or tuple that `output_names` names; or a function
            that takes `params` and `data`.
        output_names: the names of the outputs, in order, if the module returns a tensor or a tuple of tensors.

    Attributes:
        input_names: the arguments that the `forward` of a module needs, or None.

    Raises:
        ValueError: (from `evaluate`) besides an adapter's usual errors, an unknown or missing parameter or input, or
            names that do not fit the outputs.

    Example:
        >>> import torch
        >>> module = torch.nn.Linear(1, 1, bias=False)
        >>> model = TorchModel(module, output_names=["y"])
        >>> params, data = {"weight": torch.tensor([[2.0]])}, {"input": torch.tensor([[1.0], [3.0]])}
        >>> model.evaluate(params, data)["y"].tolist()
        [[2.0], [6.0]]
        >>> outputs, gradients = model.evaluate(params, data, output_gradients={"y": torch.ones(2, 1)})
        >>> gradients["weight"].tolist()
        [[4.0]]
    """

    def __init__(
        self, module: torch.nn.Module | Callable[[Any, Any], Any], output_names: Sequence[str] | None = None
    ) -> None:
        self._module = module if isinstance(module, torch.nn.Module) else None
        self._function: Callable[[Any, Any], Any]
        self._function = _Functional(module) if isinstance(module, torch.nn.Module) else module
        self._output_names = output_names
        self.input_names = self._function.input_names if isinstance(self._function, _Functional) else None

    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        with torch.no_grad():
            outputs = self._run(params, data)
        return {name: fresh(output) for name, output in outputs.items()}

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
        """Return the outputs, and the function from their gradients to those of the parameters, or those of `wrt`.

        Both come from one forward pass, so dropout has one mask, and running statistics are updated once.
        """
        leaves = {name: x.detach().requires_grad_() for name, x in variables_of(params, data, wrt).items()}
        with torch.enable_grad():
            outputs = self._run(*substitute(params, data, wrt, leaves))

        def pullback(output_gradients: Mapping[str, Array]) -> dict[str, Any]:
            check_output_gradients(outputs, output_gradients)
            reached = [name for name in output_gradients if outputs[name].requires_grad]
            if reached:
                gradients = torch.autograd.grad(
                    outputs=[outputs[name] for name in reached],
                    inputs=list(leaves.values()),
                    grad_outputs=[output_gradients[name] for name in reached],
                    materialize_grads=True,
                )
            else:  # none of these outputs depends on a variable
                gradients = tuple(torch.zeros_like(leaf) for leaf in leaves.values())
            return {name: fresh(gradient) for name, gradient in zip(leaves, gradients, strict=True)}

        return {name: fresh(output) for name, output in outputs.items()}, pullback

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Set `module.train(training)` for all parts of the module inside the block."""
        parts = list(self._module.modules()) if self._module is not None else []
        before = [part.training for part in parts]
        try:
            for part in parts:
                part.training = training
            yield
        finally:
            for part, was in zip(parts, before, strict=True):
                part.training = was

    def parameters(self) -> dict[str, Array]:
        """Return the parameters that the module holds, by name: values to start from, in no graph."""
        return {} if self._module is None else {name: x.detach() for name, x in self._module.named_parameters()}

    def state(self) -> dict[str, Array]:
        """Return the buffers of the module themselves, by name."""
        return {} if self._module is None else dict(self._module.named_buffers())

    def jvp(
        self, params: Mapping[str, Any], data: Mapping[str, Any], directions: Mapping[str, Any]
    ) -> dict[str, Array]:
        """As in `ModelAdapter`: the derivative of the vjp, which is linear, by the gradients that it takes."""
        leaves = {name: x.detach().requires_grad_() for name, x in params.items()}
        with torch.enable_grad():
            outputs = {name: x for name, x in self._run(leaves, data).items() if x.requires_grad}
            ones = {name: torch.zeros_like(x, requires_grad=True) for name, x in outputs.items()}
            gradients = torch.autograd.grad(
                list(outputs.values()), list(leaves.values()), list(ones.values()), create_graph=True,
                materialize_grads=True,
            )  # fmt: skip
            found = torch.autograd.grad(
                gradients, list(ones.values()), [directions[name] for name in leaves], materialize_grads=True
            )
        return {name: fresh(x) for name, x in zip(outputs, found, strict=True)}

    def _run(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        outputs = self._function(params, data)
        if not isinstance(outputs, Mapping):
            outputs = self._named(outputs)
        check_outputs(outputs)
        return dict(outputs)

    def _named(self, outputs: Any) -> dict[str, Any]:
        values = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        names = self._output_names
        if names is None or len(names) != len(values):
            raise ValueError(
                f"the module returns {len(values)} outputs without names; output_names must name each, got {names}"
            )
        return dict(zip(names, values, strict=True))


class _Functional:
    """A module as a function of parameters and inputs by name; if no gradient is recorded, buffers stay the same."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self._parameter_names = {name for name, _ in module.named_parameters()}
        self._arguments = inspect.signature(module.forward).parameters.values()
        self.input_names = [argument.name for argument in self._arguments if argument.default is argument.empty]

    def __call__(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        for name in params:
            if name not in self._parameter_names:
                raise ValueError(unknown("parameter", name, self._parameter_names))
        missing = sorted(self._parameter_names - params.keys())
        if missing:
            raise ValueError(f"params lacks {missing}, which the module has")
        buffers = {}
        if not torch.is_grad_enabled():
            buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        positional, keywords = self._inputs(data)
        return functional_call(self.module, {**params, **buffers}, positional, kwargs=keywords)

    def _inputs(self, data: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        missing = [
            argument.name
            for argument in self._arguments
            if argument.name not in data and argument.default is argument.empty
        ]
        if missing:
            raise ValueError(f"data lacks {missing}, which the module's forward takes; it holds {sorted(data)}")
        return (), {argument.name: data[argument.name] for argument in self._arguments if argument.name in data}


class _FunctionalProgram(_Functional):
    """An exported program as a function of parameters and inputs by name: it wants its inputs as they were given."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__(program.module())
        self.input_names = [str(name) for name in program.graph_signature.user_inputs]
        self._structure = program.call_spec.in_spec

    def _inputs(self, data: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        missing = [name for name in self.input_names if name not in data]
        if missing:
            raise ValueError(f"data lacks {missing}, which the program takes; it holds {sorted(data)}")
        found: tuple[tuple[Any, ...], dict[str, Any]] = tree_unflatten(
            [data[name] for name in self.input_names], self._structure
        )
        return found


class ExportedTorchModel(TorchModel):
    """A compiled model from a program of `torch.export`, such as `torch.export.load` returns.

    Args:
        program: returns a dict of tensors by name, or a tensor or tuple that `output_names` names.
        output_names: as in `TorchModel`.

    Attributes:
        input_names: the names of the inputs, which `data` must hold.

    Example:
        >>> import torch
        >>> module = torch.nn.Linear(1, 1, bias=False)
        >>> model = ExportedTorchModel(torch.export.export(module, (torch.ones(2, 1),)), output_names=["y"])
        >>> model.input_names
        ['input']
        >>> params, data = {"weight": torch.tensor([[2.0]])}, {"input": torch.tensor([[1.0], [3.0]])}
        >>> outputs, gradients = model.evaluate(params, data, output_gradients={"y": torch.ones(2, 1)})
        >>> gradients["weight"].tolist()
        [[4.0]]
    """

    def __init__(self, program: torch.export.ExportedProgram, output_names: Sequence[str] | None = None) -> None:
        function = _FunctionalProgram(program)
        self._function = function
        self._module = function.module
        self._output_names = output_names
        self.input_names = function.input_names
