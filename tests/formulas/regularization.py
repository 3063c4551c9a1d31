"""Regularization of nestings of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = Any


def _leaves(params: Any, path: str = "params") -> Iterator[tuple[str, Array]]:
    if isinstance(params, dict | list | tuple):
        for key, part in params.items() if isinstance(params, dict) else enumerate(params):
            yield from _leaves(part, f"{path}[{key!r}]")
    else:
        yield path, params


def _mapped(function: Callable[[str, Array], Array], params: Any, path: str = "params") -> Any:
    if isinstance(params, dict):
        return {name: _mapped(function, part, f"{path}[{name!r}]") for name, part in params.items()}
    if isinstance(params, list | tuple):
        return [_mapped(function, part, f"{path}[{i}]") for i, part in enumerate(params)]
    return function(path, params)


def _counts(select: Any, path: str, w: Array) -> bool:
    return select is None or select(path, w)


def l1_regularization(params: Any, lambda_reg: float, select: Any) -> float:
    return lambda_reg * sum(np.abs(w).sum() for path, w in _leaves(params) if _counts(select, path, w))


def l1_regularization_gradient(params: Any, lambda_reg: float, select: Any) -> dict[str, Any]:
    return {"params": _mapped(lambda path, w: lambda_reg * np.sign(w) * _counts(select, path, w), params)}


def l2_regularization(params: Any, lambda_reg: float, select: Any) -> float:
    return 0.5 * lambda_reg * sum((w**2).sum() for path, w in _leaves(params) if _counts(select, path, w))


def l2_regularization_gradient(params: Any, lambda_reg: float, select: Any) -> dict[str, Any]:
    return {"params": _mapped(lambda path, w: lambda_reg * w * _counts(select, path, w), params)}


def _matrix(w: Array, output_axis: int) -> Array:
    w = np.moveaxis(w, output_axis, 0)
    return w.reshape(len(w), -1)


def _back(g: Array, w: Array, output_axis: int) -> Array:
    return np.moveaxis(g.reshape(np.moveaxis(w, output_axis, 0).shape), 0, output_axis)


def orthogonal_regularization(params: Any, lambda_reg: float, output_axis: int) -> float:
    def of_matrix(w: Array) -> float:
        product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        return float(((product - np.eye(len(product))) ** 2).sum())

    return lambda_reg * sum(of_matrix(_matrix(w, output_axis)) for _, w in _leaves(params))


def orthogonal_regularization_gradient(params: Any, lambda_reg: float, output_axis: int) -> dict[str, Any]:
    def slope(path: str, array: Array) -> Array:
        w = _matrix(array, output_axis)
        return _back(4.0 * lambda_reg * (w @ w.T - np.eye(len(w))) @ w, array, output_axis)

    return {"params": _mapped(slope, params)}


def spectral_norm_regularization(params: Any, lambda_reg: float, output_axis: int) -> float:
    return 0.5 * lambda_reg * sum(np.linalg.svd(_matrix(w, output_axis))[1][0] ** 2 for _, w in _leaves(params))


def spectral_norm_regularization_gradient(params: Any, lambda_reg: float, output_axis: int) -> dict[str, Any]:
    def slope(path: str, array: Array) -> Array:
        u, sigma, v = np.linalg.svd(_matrix(array, output_axis))
        return _back(lambda_reg * sigma[0] * np.outer(u[:, 0], v[0]), array, output_axis)

    return {"params": _mapped(slope, params)}
