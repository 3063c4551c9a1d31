"""Checks that every adapter makes: outputs are named arrays, and output gradients fit them exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mithril_losses.backends.namespaces import Array, is_dtype, library_name, namespace_of, placement
from mithril_losses.numerics.validation import unknown


def check_outputs(outputs: Any) -> None:
    """Raise a TypeError unless `outputs` is a mapping from names to arrays."""
    check_mapping(outputs)
    for name, output in outputs.items():
        if namespace_of(output) is None:
            raise TypeError(f"output {name!r} must be an array, got {type(output).__name__}")


def check_mapping(outputs: Any) -> None:
    """Raise a TypeError unless `outputs` is a mapping."""
    if not isinstance(outputs, Mapping):
        raise TypeError(f"a model must return a dict of outputs by name, got {type(outputs).__name__}")


def check_output_gradients(outputs: Mapping[str, Array], output_gradients: Mapping[str, Array]) -> None:
    """Raise unless every output gradient belongs to an output and has its library, dtype, shape and device."""
    for name, gradient in output_gradients.items():
        if name not in outputs:
            raise ValueError(unknown("output", name, outputs))
        output = outputs[name]
        xp = namespace_of(output)
        check_library(name, gradient, xp)
        if not is_differentiable(output):
            raise TypeError(f"output {name!r} has dtype {output.dtype} and therefore takes no gradient")
        if gradient.dtype != output.dtype:
            raise TypeError(
                f"the gradient of output {name!r} must be {output.dtype} like the output, got {gradient.dtype}"
            )
        if tuple(gradient.shape) != tuple(output.shape):
            raise ValueError(
                f"the gradient of output {name!r} must have the output's shape {tuple(output.shape)}, "
                f"got {tuple(gradient.shape)}"
            )
        if placement(gradient) != placement(output):
            raise ValueError(
                f"the gradient of output {name!r} must be on {output.device} like the output, got {gradient.device}"
            )


def check_library(name: str, gradient: Any, xp: Any) -> None:
    """Raise a TypeError unless the gradient of output `name` is an array of the library `xp`."""
    found = namespace_of(gradient)
    if found is not xp:
        kind = type(gradient).__name__ if found is None else f"a {library_name(found)} array"
        raise TypeError(f"the gradient of output {name!r} must be a {library_name(xp)} array, got {kind}")


def check_gradients(variables: Mapping[str, Array], gradients: Any) -> None:
    """Raise a ValueError unless `gradients` has an array of the right shape for each variable."""
    if not isinstance(gradients, Mapping) or not gradients.keys() >= variables.keys():
        found = sorted(gradients) if isinstance(gradients, Mapping) else type(gradients).__name__
        raise ValueError(f"vjp must return one gradient for each of {sorted(variables)}, got {found}")
    for name, variable in variables.items():
        if tuple(gradients[name].shape) != tuple(variable.shape):
            raise ValueError(
                f"vjp returned a gradient of shape {tuple(gradients[name].shape)} for {name!r} "
                f"of shape {tuple(variable.shape)}"
            )


def is_differentiable(output: Array) -> bool:
    """Return whether `output` has a floating dtype, so that a gradient can flow into it."""
    xp: Any = namespace_of(output)
    return is_dtype(xp, output.dtype, ("real floating", "complex floating"))
