"""A compiled model from a torch module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call

from mithril_losses.backends._namespace import Array
from mithril_losses.models._adapter import ModelAdapter
from mithril_losses.models._checks import check_output_gradients, check_outputs, fresh, unknown


class TorchModel(ModelAdapter):
    """A compiled model from a torch module, whose parameters come from the caller by the module's own names.

    `params` holds every name of `module.named_parameters()`; the module's own parameters are never read or changed.
    Each argument of the module's `forward` is taken from `data` by its name.

    Buffers are the module's own. An evaluation without output gradients leaves them as they were; one with output
    gradients is a training step and moves running statistics as torch does, once per step. Dropout draws anew at
    each evaluation: seed torch before each of the two if they are to share one mask.

    Args:
        module: returns a dict of tensors by name, or a tensor or tuple that `output_names` names.
        output_names: the names of the outputs, in order, where the module returns a tensor or a tuple of them.

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

    def __init__(self, module: torch.nn.Module, output_names: Sequence[str] | None = None) -> None:
        self._module = module
        self._output_names = output_names
        self._parameter_names = {name for name, _ in module.named_parameters()}
        self._arguments = inspect.signature(module.forward).parameters.values()

    def _outputs(self, params: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        self._check_parameters(params)
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        with torch.no_grad():
            outputs = self._run({**params, **buffers}, data)
        return {name: fresh(output) for name, output in outputs.items()}

    def _outputs_and_gradients(
        self, params: Mapping[str, Any], data: Mapping[str, Any], output_gradients: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        self._check_parameters(params)
        leaves = {name: param.detach().requires_grad_() for name, param in params.items()}
        with torch.enable_grad():
            outputs = self._run(leaves, data)
        check_output_gradients(outputs, output_gradients)
        reached = [name for name in output_gradients if outputs[name].requires_grad]
        if reached:
            gradients = torch.autograd.grad(
                outputs=[outputs[name] for name in reached],
                inputs=list(leaves.values()),
                grad_outputs=[output_gradients[name] for name in reached],
                materialize_grads=True,
            )
        else:  # no output given here depends on a parameter
            gradients = tuple(torch.zeros_like(leaf) for leaf in leaves.values())
        return (
            {name: fresh(output) for name, output in outputs.items()},
            {name: fresh(gradient) for name, gradient in zip(leaves, gradients, strict=True)},
        )

    def _run(self, parameters_and_buffers: dict[str, Array], data: Mapping[str, Any]) -> dict[str, Array]:
        outputs = functional_call(self._module, parameters_and_buffers, kwargs=self._inputs(data))
        if not isinstance(outputs, Mapping):
            outputs = self._named(outputs)
        check_outputs(outputs)
        return dict(outputs)

    def _inputs(self, data: Mapping[str, Any]) -> dict[str, Any]:
        missing = [
            argument.name
            for argument in self._arguments
            if argument.name not in data and argument.default is argument.empty
        ]
        if missing:
            raise ValueError(f"data lacks {missing}, which the module's forward takes; it holds {sorted(data)}")
        return {argument.name: data[argument.name] for argument in self._arguments if argument.name in data}

    def _named(self, outputs: Any) -> dict[str, Any]:
        values = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        names = self._output_names
        if names is None or len(names) != len(values):
            raise ValueError(
                f"the module returns {len(values)} outputs without names; output_names must name each, got {names}"
            )
        return dict(zip(names, values, strict=True))

    def _check_parameters(self, params: Mapping[str, Any]) -> None:
        for name in params:
            if name not in self._parameter_names:
                raise ValueError(unknown("parameter", name, self._parameter_names))
        missing = sorted(self._parameter_names - params.keys())
        if missing:
            raise ValueError(f"params lacks {missing}, which the module has")
