"""A compiled model from one function over an array namespace, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from mithril_losses.backends.extras import missing
from mithril_losses.backends.namespaces import Array
from mithril_losses.models.adapter import ModelAdapter


def compile_model(function: Callable[[Any, Any, Any], Mapping[str, Array]], backend: str) -> ModelAdapter:
    """Return the compiled model of `function(xp, params, data) -> {output name: array}` on a backend.

    Args:
        function: the forward pass. It uses the operators of arrays, and functions that the namespaces `xp` of all three
            libraries have: `xp.matmul`, `xp.tanh`, `xp.exp`, `xp.sum(x, axis=…)`, `xp.concatenate`, `xp.where`, …
            It must not write into arrays.
        backend: "numpy", "jax" or "torch".

    Raises:
        ValueError: there is no adapter for this backend.
        ModuleNotFoundError: the adapter's library is not installed.

    Example:
        >>> import numpy as np
        >>> model = compile_model(lambda xp, params, data: {"y": xp.tanh(params["w"] * data["x"])}, "numpy")
        >>> print(model.evaluate({"w": np.array(0.0)}, {"x": np.array([1.0, 3.0])})["y"])
        [0. 0.]
    """
    if backend == "numpy":
        model = adapter_named("NumpyModel")  # if autograd is missing, the error names the extra to install
        import autograd.numpy as namespace
    elif backend == "jax":
        model = adapter_named("JaxModel")
        import jax.numpy as namespace
    elif backend == "torch":
        model = adapter_named("TorchModel")
        from mithril_losses.backends.namespaces import torch as namespace
    else:
        raise ValueError(f"models are compiled for numpy, jax and torch, not for {backend!r}")
    compiled: ModelAdapter = model(lambda params, data: function(namespace, params, data))
    return compiled


ADAPTERS = {  # adapter: (its module, the extra that installs its library)
    "ExportedJaxModel": ("jax", "jax"),
    "ExportedTorchModel": ("torch", "torch"),
    "JaxModel": ("jax", "jax"),
    "NumpyModel": ("numpy", "numpy"),
    "TorchModel": ("torch", "torch"),
}


def adapter_named(name: str) -> Any:
    """Return the adapter of this name, and import its library now.

    Raises:
        ModuleNotFoundError: the library is not installed.
    """
    module, extra = ADAPTERS[name]
    try:
        return getattr(import_module(f"mithril_losses.models.{module}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing(name, error.name, extra), name=error.name) from error
