"""Adversarial losses, of the discriminator: two batches of scores."""

from __future__ import annotations

from typing import Any

from mithril_losses.benchmarks.problems import ELEMENTS, Problem, two_normals


def _non_saturating(softplus: Any, real: Any, fake: Any) -> Any:
    return softplus(-real).mean() + softplus(fake).mean()


def _hinge(relu: Any, real: Any, fake: Any) -> Any:
    return relu(1.0 - real).mean() + relu(1.0 + fake).mean()


PROBLEMS = [
    Problem(
        loss="non_saturating_discriminator_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=lambda torch, real, fake: _non_saturating(torch.nn.functional.softplus, real, fake),
        jax=lambda jax, real, fake: _non_saturating(jax.nn.softplus, real, fake),
    ),
    Problem(
        loss="hinge_discriminator_loss",
        draw=two_normals,
        shapes=ELEMENTS,
        torch=lambda torch, real, fake: _hinge(torch.relu, real, fake),
        jax=lambda jax, real, fake: _hinge(jax.nn.relu, real, fake),
    ),
]
