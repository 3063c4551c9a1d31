"""Losses between meshes: a grid of triangles, its vertices displaced."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape


def _edges(shape: Shape) -> Array:
    corner = np.arange(shape[0] * shape[1]).reshape(shape)
    pairs = ((corner[:-1], corner[1:]), (corner[:, :-1], corner[:, 1:]), (corner[:-1, :-1], corner[1:, 1:]))
    return np.concatenate([np.stack([a.ravel(), b.ravel()], axis=-1) for a, b in pairs])


def _vertices(random: np.random.Generator, shape: Shape) -> Array:
    return random.standard_normal((shape[0] * shape[1], 3), dtype=np.float32)


def _lengths_torch(v: Any, edges: Any) -> Any:
    return (v[edges[:, 0]] - v[edges[:, 1]]).norm(dim=-1)


def _lengths_jax(jax: Any, v: Any, edges: Any) -> Any:
    return jax.numpy.linalg.norm(v[edges[:, 0]] - v[edges[:, 1]], axis=-1)


def _laplacian_torch(torch: Any, v: Any, edges: Any) -> Any:
    i, j = edges[:, 0], edges[:, 1]
    ones = torch.ones_like(v[i, :1])
    degrees = torch.zeros_like(v[:, :1]).index_add(0, i, ones).index_add(0, j, ones)
    sums = torch.zeros_like(v).index_add(0, i, v[j]).index_add(0, j, v[i])
    return ((sums / degrees - v) ** 2).sum(-1).mean()


def _laplacian_jax(jax: Any, v: Any, edges: Any) -> Any:
    i, j, jnp = edges[:, 0], edges[:, 1], jax.numpy
    degrees = jnp.zeros_like(v[:, :1]).at[i].add(1.0).at[j].add(1.0)
    sums = jnp.zeros_like(v).at[i].add(v[j]).at[j].add(v[i])
    return jnp.mean(jnp.sum((sums / degrees - v) ** 2, axis=-1))


def _cosine_jax(jax: Any, n: Any, m: Any) -> Any:
    lengths = jax.numpy.linalg.norm(n, axis=-1) * jax.numpy.linalg.norm(m, axis=-1)
    return jax.numpy.mean(1.0 - jax.numpy.sum(n * m, axis=-1) / lengths)


PROBLEMS = [
    Problem(
        loss="mesh_normal_loss",
        draw=lambda random, shape: (_vertices(random, shape), _vertices(random, shape)),
        shapes={"large": ((300, 300),)},
        torch=lambda torch, n, m: (1.0 - torch.nn.functional.cosine_similarity(n, m, dim=-1)).mean(),
        jax=_cosine_jax,
        streams=False,
    ),
    Problem(
        loss="mesh_edge_loss",
        draw=lambda random, shape: (_vertices(random, shape), _vertices(random, shape), _edges(shape)),
        shapes={"large": ((300, 300),)},
        torch=lambda torch, v, target, edges: ((_lengths_torch(v, edges) - _lengths_torch(target, edges)) ** 2).mean(),
        jax=lambda jax, v, target, edges: (
            (_lengths_jax(jax, v, edges) - _lengths_jax(jax, target, edges)) ** 2
        ).mean(),
        streams=False,
    ),
    Problem(
        loss="mesh_laplacian_loss",
        draw=lambda random, shape: (_vertices(random, shape), _edges(shape)),
        shapes={"large": ((300, 300),)},
        torch=_laplacian_torch,
        jax=_laplacian_jax,
        streams=False,
    ),
]
