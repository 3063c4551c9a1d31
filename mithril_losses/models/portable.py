"""A compiled model from one function over an array namespace, on the backend of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mithril_losses.backends.namespaces import Array
from mithril_losses.models._adapter import ModelAdapter


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
    from mithril_losses import models  # whose adapters are imported when they are named

    if backend == "numpy":
        adapter: Any = models.NumpyModel  # names the extra to install where autograd is missing
        import autograd.numpy as namespace
    elif backend == "jax":
        adapter = models.JaxModel
        import jax.numpy as namespace
    elif backend == "torch":
        adapter = models.TorchModel
        from mithril_losses.backends.namespaces import torch as namespace
    else:
        raise ValueError(f"models are compiled for numpy, jax and torch, not for {backend!r}")
    compiled: ModelAdapter = adapter(lambda params, data: function(namespace, params, data))
    return compiled
