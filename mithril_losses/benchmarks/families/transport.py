"""Optimal transport between sets of points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape
from mithril_losses.templates.transport import assignment_on_host, drawn_directions

_ITERATIONS = 60  # iterations of the peers, which do not check convergence


def _two_point_sets(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return random.random((1, *shape), dtype=np.float32), random.random((1, *shape), dtype=np.float32) + np.float32(0.3)


def _earth_mover_torch(torch: Any, x: Any, y: Any) -> Any:
    from mithril_losses.templates.transport.torch import assignment

    partners = assignment(x.detach(), y.detach())
    return (x - y.gather(1, partners[..., None].expand_as(y))).norm(dim=-1).mean()


def _earth_mover_jax(jax: Any, x: Any, y: Any) -> Any:
    jnp, shape = jax.numpy, jax.ShapeDtypeStruct(x.shape[:-1], "int32")
    partners = jax.pure_callback(
        lambda x, y: assignment_on_host(np.asarray(x), np.asarray(y)).astype("int32"),
        shape,
        *jax.lax.stop_gradient((x, y)),
    )
    return jnp.mean(jnp.linalg.norm(x - jnp.take_along_axis(y, partners[..., None], axis=1), axis=-1))


def _sinkhorn_torch(torch: Any, x: Any, y: Any, epsilon: float) -> Any:
    def distances(x: Any, y: Any) -> Any:
        return torch.cdist(x[0], y[0], compute_mode="donot_use_mm_for_euclid_dist")

    return _sinkhorn(distances, torch.logsumexp, x, y, epsilon)


def _sinkhorn_jax(jax: Any, x: Any, y: Any, epsilon: float) -> Any:
    def distances(x: Any, y: Any) -> Any:
        squared = ((x[0][:, None] - y[0][None]) ** 2).sum(-1)
        apart = squared > 0.0  # the derivative of a root at 0 is infinite
        return jax.numpy.where(apart, jax.numpy.sqrt(jax.numpy.where(apart, squared, 1.0)), 0.0)

    return _sinkhorn(distances, jax.nn.logsumexp, x, y, epsilon)


def _sinkhorn(distances: Any, logsumexp: Any, x: Any, y: Any, epsilon: float) -> Any:
    """The textbook's loop with logarithms, through which automatic differentiation goes back."""

    def cost(x: Any, y: Any) -> Any:
        scores, n, m = distances(x, y) / -epsilon, x.shape[1], y.shape[1]
        f, g = 0.0 * scores[:, 0], 0.0 * scores[0]
        for _ in range(_ITERATIONS):
            g = math.log(n) - logsumexp(scores + f[:, None], 0)
            f = math.log(m) - logsumexp(scores + g[None], 1)
        return epsilon * (f.mean() + g.mean())

    return cost(x, y) - 0.5 * cost(x, x) - 0.5 * cost(y, y)


def _sliced_torch(torch: Any, x: Any, y: Any, projection_count: int) -> Any:
    directions = torch.tensor(drawn_directions(projection_count, x.shape[-1], 0), dtype=x.dtype, device=x.device)
    along = [torch.sort(points[0] @ directions.T, dim=0).values for points in (x, y)]
    return ((along[0] - along[1]) ** 2).mean() ** 0.5


def _sliced_jax(jax: Any, x: Any, y: Any, projection_count: int) -> Any:
    directions = jax.numpy.asarray(drawn_directions(projection_count, x.shape[-1], 0), x.dtype)
    along = [jax.numpy.sort(points[0] @ directions.T, axis=0) for points in (x, y)]
    return ((along[0] - along[1]) ** 2).mean() ** 0.5


PROBLEMS = [
    Problem(
        loss="earth_mover_distance",
        draw=_two_point_sets,
        shapes={"large": ((500, 3),)},
        torch=_earth_mover_torch,
        jax=_earth_mover_jax,
        streams=False,
    ),
    Problem(
        loss="sinkhorn_divergence",
        draw=_two_point_sets,
        shapes={"large": ((1_000, 3),)},
        torch=_sinkhorn_torch,
        jax=_sinkhorn_jax,
        options={"epsilon": 0.1},
        streams=False,
        ours_alone=((8_000, 3),),
    ),
    Problem(
        loss="sliced_wasserstein_distance",
        draw=_two_point_sets,
        shapes={"large": ((20_000, 3),)},
        torch=_sliced_torch,
        jax=_sliced_jax,
        options={"projection_count": 64},
        streams=False,
    ),
]
