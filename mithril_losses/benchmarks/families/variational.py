"""The evidence bound of variational autoencoders: pictures of 784 pixels, 20 latent dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape, normal
from mithril_losses.benchmarks.targets import EAGER, FUSED, JAX, faster, large

_LATENTS = 20


def _draw(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    recon_x = np.float32(0.02) + np.float32(0.96) * random.random(shape, dtype=np.float32)
    x = random.integers(0, 2, shape).astype(np.float32)
    return recon_x, x, normal(random, shape[0], _LATENTS), normal(random, shape[0], _LATENTS)


def _torch(torch: Any, recon_x: Any, x: Any, mu: Any, logvar: Any) -> Any:
    reconstruction = torch.nn.functional.binary_cross_entropy(recon_x, x, reduction="sum")
    return reconstruction - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def _jax(jax: Any, recon_x: Any, x: Any, mu: Any, logvar: Any) -> Any:
    jnp = jax.numpy
    reconstruction = -jnp.sum(x * jnp.log(recon_x) + (1 - x) * jnp.log1p(-recon_x))
    return reconstruction - 0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))


PROBLEMS = [
    Problem(
        loss="vae_loss",
        draw=_draw,
        shapes={"small": ((32, 784),), "medium": ((1_280, 784),), "large": ((20_480, 784),)},
        torch=_torch,
        jax=_jax,
    ),
]

# its memory is a target of every separable loss
TARGETS = faster(large("evidence bound, 20,480×784", "vae_loss"), "fused", FUSED, {EAGER: 10.0, JAX: 8.0})
