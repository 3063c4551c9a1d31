"""Losses of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array
from mithril_losses.benchmarks.problems import Problem, Shape, compared_with_itself
from mithril_losses.benchmarks.targets import BEST, BLOCKED, COMPILE, EAGER, faster, large


def _one_batch(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    return (random.random(shape, dtype=np.float32),)


def _variation(x: Any, channels_first: bool) -> Any:
    """Differences by slices, for torch and JAX alike."""
    rows, columns = (2, 3) if channels_first else (1, 2)
    later = [x[(slice(None),) * axis + (slice(1, None),)] for axis in (rows, columns)]
    earlier = [x[(slice(None),) * axis + (slice(None, -1),)] for axis in (rows, columns)]
    return sum(abs(b - a).sum() for a, b in zip(earlier, later, strict=True)) / x.shape[0]


def _two_batches(random: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
    x = random.random(shape, dtype=np.float32)
    return x, np.clip(x + np.float32(0.1) * random.standard_normal(shape, dtype=np.float32), 0, 1)


_BELL = [math.exp(-0.5 * ((i - 5) / 1.5) ** 2) for i in range(11)]
_WINDOW = [x / sum(_BELL) for x in _BELL]  # numbers, which torch.compile takes for constants


def _ssim(mean: Any, x: Any, y: Any) -> Any:
    """One minus the similarity, as the paper writes it, for torch and JAX alike."""
    c1, c2 = 0.01**2, 0.03**2
    mx, my = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    return 1 - (luminance * (2 * xy + c2) / (xx + yy + c2)).mean()


def _ssim_torch(torch: Any, x: Any, y: Any, channels_first: bool) -> Any:
    channels = x.shape[1]
    window = torch.as_tensor(_WINDOW, dtype=x.dtype, device=x.device)
    across, down = (window.reshape(shape).repeat(channels, 1, 1, 1) for shape in ((1, 1, 1, 11), (1, 1, 11, 1)))

    def mean(z: Any) -> Any:
        convolve = torch.nn.functional.conv2d
        return convolve(convolve(z, across, groups=channels), down, groups=channels)

    return _ssim(mean, x, y)


def _ssim_jax(jax: Any, x: Any, y: Any, channels_first: bool) -> Any:
    window = jax.numpy.asarray(_WINDOW, x.dtype)

    def mean(z: Any) -> Any:
        for kernel in (window.reshape(1, 1, 1, 11), window.reshape(1, 1, 11, 1)):
            planes = jax.lax.conv(z.reshape(-1, 1, *z.shape[2:]), kernel, (1, 1), "VALID")
            z = planes.reshape(*z.shape[:2], *planes.shape[2:])
        return z

    return _ssim(mean, x, y)


PROBLEMS = [
    Problem(
        loss="ssim_loss",
        draw=_two_batches,
        shapes={"small": ((2, 3, 32, 32),), "large": ((8, 3, 256, 256),)},
        torch=_ssim_torch,
        jax=_ssim_jax,
        options={"channels_first": True},
        streams=False,
    ),
    *(
        Problem(
            loss="total_variation_loss",
            draw=_one_batch,
            shapes={"small": (shape[0],), "large": (shape[1],)},
            torch=lambda torch, x, **layout: _variation(x, **layout),
            jax=lambda jax, x, **layout: _variation(x, **layout),
            options={"channels_first": channels_first},
        )
        for channels_first, shape in (
            (True, ((4, 3, 32, 32), (8, 3, 1024, 1024))),
            (False, ((4, 32, 32, 3), (8, 1024, 1024, 3))),
        )
    ),
    compared_with_itself("multi_scale_ssim_loss", _two_batches, (1, 176, 176, 1)),
]

_VARIATION = large("total variation, 8×3×1,024×1,024, channels first and last", "total_variation_loss")

TARGETS = [
    *faster(_VARIATION, "best of ours", BEST, {EAGER: 15.0, COMPILE: 4.0}),
    *faster(_VARIATION, "blocked", BLOCKED, {EAGER: 3.0}),
]
