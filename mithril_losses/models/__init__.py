"""Compiled models, which return outputs and take the gradients of these outputs.

A compiled model is any object with Mithril's `evaluate` (see `CompiledModel`). The adapters here make one out of a JAX
function, a torch module or function, an exported program of either, a NumPy function or a pair of callables;
`compile_model` chooses the adapter for a function that is written for all three libraries. The library of an adapter is
imported when the adapter is first named, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mithril_losses.models.adapter import CompiledModel
from mithril_losses.models.callables import CallableModel
from mithril_losses.models.portable import ADAPTERS, adapter_named, compile_model

if TYPE_CHECKING:
    from mithril_losses.models.jax import ExportedJaxModel, JaxModel
    from mithril_losses.models.numpy import NumpyModel
    from mithril_losses.models.torch import ExportedTorchModel, TorchModel

__all__ = [
    "CallableModel",
    "CompiledModel",
    "ExportedJaxModel",
    "ExportedTorchModel",
    "JaxModel",
    "NumpyModel",
    "TorchModel",
    "compile_model",
]


def __getattr__(name: str) -> Any:
    if name not in ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return adapter_named(name)


def __dir__() -> list[str]:
    return __all__
