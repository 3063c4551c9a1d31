"""The hand-derived gradient of a loss as its derivative, wherever PyTorch or JAX differentiates the loss.

A template computes a loss by `plain_value`, which is plain array code. `value`, which a public loss calls, gives arrays
that an autodiff framework may differentiate to `differentiable`: value and gradient are then computed together by the
fastest way, and the framework keeps the gradient instead of the steps that led to the loss.

An argument that no hand-derived gradient covers, such as `weights` or an option that is learned, keeps its derivative:
the framework then differentiates the plain function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mithril_losses.autodiff.call import (
    Differentiable,
    by_chunks,
    compute_by,
    compute_chunks_by,
    fastest,
    multiply_by,
    plain_functions,
    takes_loop,
    value_on_host,
)
from mithril_losses.backends.namespaces import library_name, namespace_of
from mithril_losses.numerics.trees import first_array

__all__ = [
    "Differentiable",
    "by_chunks",
    "compute_by",
    "compute_chunks_by",
    "differentiable",
    "large_gradient",
    "multiply_by",
    "plain_functions",
    "value_on_host",
]


def differentiable(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    """Return the reduced loss; a framework that differentiates it gets the hand-derived gradient."""
    if reduction:
        template.require_known(reduction, gradient=False)
    first: Any = type(arguments[0])
    by = _BY_TYPE[first] if first in _BY_TYPE else _framework_of(arguments[0])
    return template.plain_value(*arguments, **reduction) if by is None else by(template, arguments, reduction)


def large_gradient(template: Any, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    """Return the usual gradient of large arrays on the host from the loop of value and gradient; None for others."""
    first: Any = arguments[0]
    if type(first) is np.ndarray:
        found = takes_loop(template, first.size, reduction)
        return fastest(template)(*arguments, **reduction)[1] if found else None
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(first, torch.Tensor) or torch.compiler.is_compiling():
        return None
    from mithril_losses.autodiff.torch import gradient

    return gradient(template, arguments, reduction) if takes_loop(template, first.numel(), reduction) else None


def _framework_of(x: Any) -> Callable[..., Any] | None:
    """Return what computes losses of arrays like this one, or of a nesting of such; None for the plain function."""
    xp = namespace_of(first_array(x))
    return None if xp is None else _FRAMEWORKS.get(library_name(xp))


def _by_torch(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    from mithril_losses.autodiff.torch import value

    _FRAMEWORKS["torch"] = value
    _BY_TYPE[sys.modules["torch"].Tensor] = value
    return value(template, arguments, reduction)


def _by_jax(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    from mithril_losses.autodiff.jax import value

    _FRAMEWORKS["jax"] = value
    return value(template, arguments, reduction)


def _by_dask(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    return template.in_chunks(arguments, reduction, "value")


# a framework is imported when the first of its arrays has come
_FRAMEWORKS: dict[str, Callable[..., Any]] = {"torch": _by_torch, "jax": _by_jax, "dask": _by_dask}
_BY_TYPE: dict[type, Callable[..., Any]] = {}  # the usual type of arrays, at a fifth of the cost
