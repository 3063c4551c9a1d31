"""Meshes: loops over edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from formulas.notation import norm, unit

Array = Any


def mesh_normal_loss(pred_normals: Array, target_normals: Array) -> Array:
    return 1.0 - (unit(pred_normals) * unit(target_normals)).sum(axis=-1)


def mesh_normal_loss_gradient(pred_normals: Array, target_normals: Array, s: Array) -> dict[str, Array]:
    n, target = unit(pred_normals), unit(target_normals)
    cosine = (n * target).sum(axis=-1, keepdims=True)
    return {"pred_normals": -(target - cosine * n) / norm(pred_normals) * s[..., None]}


def _lengths(v: Array, edges: Array) -> Array:
    return np.stack([norm(v[..., i, :] - v[..., j, :])[..., 0] for i, j in edges], axis=-1)


def mesh_edge_loss(pred_vertices: Array, target_vertices: Array, edges: Array) -> Array:
    return (_lengths(pred_vertices, edges) - _lengths(target_vertices, edges)) ** 2


def mesh_edge_loss_gradient(pred_vertices: Array, target_vertices: Array, edges: Array, s: Array) -> dict[str, Array]:
    v, g = pred_vertices, np.zeros_like(pred_vertices)
    lengths, targets = _lengths(v, edges), _lengths(target_vertices, edges)
    for k, (i, j) in enumerate(edges):
        pull = 2.0 * (lengths - targets)[..., k, None] * unit(v[..., i, :] - v[..., j, :]) * s[..., k, None]
        g[..., i, :] += pull
        g[..., j, :] -= pull
    return {"pred_vertices": g}


def _neighbours(count: int, edges: Array) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(count)]
    for i, j in edges:
        if i != j:
            found[i].append(int(j))
            found[j].append(int(i))
    return found


def _laplacian(v: Array, neighbours: list[list[int]]) -> Array:
    rows = [v[..., js, :].mean(axis=-2) - v[..., i, :] if js else 0.0 * v[..., i, :] for i, js in enumerate(neighbours)]
    return np.stack(rows, axis=-2)


def mesh_laplacian_loss(vertices: Array, edges: Array) -> Array:
    return (_laplacian(vertices, _neighbours(vertices.shape[-2], edges)) ** 2).sum(axis=-1)


def mesh_laplacian_loss_gradient(vertices: Array, edges: Array, s: Array) -> dict[str, Array]:
    neighbours = _neighbours(vertices.shape[-2], edges)
    y, g = _laplacian(vertices, neighbours) * s[..., None], np.zeros_like(vertices)
    for i, js in enumerate(neighbours):
        if js:
            g[..., i, :] = 2.0 * (sum(y[..., j, :] / len(neighbours[j]) for j in js) - y[..., i, :])
    return {"vertices": g}
