"""Schedules: weights that change with the training step. Each function returns a function of the step.

`get_kl_weight` and `cyclical_kl_weight` take the step themselves and return the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "cyclical",
    "cyclical_kl_weight",
    "exponential_warmup",
    "get_kl_weight",
    "linear_warmup",
]

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """w(t) = value.

    Args:
        value: the weight at every step.

    Example:
        >>> constant(0.5)(100)
        0.5
    """
    return lambda step: value


def linear_warmup(steps: float, maximum: float = 1.0) -> Schedule:
    """w(t) = maximum · min(t / steps, 1).

    Args:
        steps: the step at which the maximum is reached, positive.
        maximum: the weight from then on.

    Raises:
        ValueError: `steps` is not positive.

    Example:
        >>> [linear_warmup(10, maximum=2.0)(step) for step in (0, 5, 10, 20)]
        [0.0, 1.0, 2.0, 2.0]
    """
    _require_positive(steps)
    return lambda step: maximum * min(step / steps, 1.0)


def exponential_warmup(steps: float, maximum: float = 1.0) -> Schedule:
    """w(t) = maximum · (1 − exp(−t / steps)).

    Args:
        steps: the time constant: after this number of steps, 63 % of the maximum is reached.
        maximum: the weight that the schedule approaches.

    Raises:
        ValueError: `steps` is not positive.

    Example:
        >>> [round(exponential_warmup(10)(step), 4) for step in (0, 10, 100)]
        [0.0, 0.6321, 1.0]
    """
    _require_positive(steps)
    return lambda step: maximum * (0.0 - math.expm1(-step / steps))


def cosine(steps: int, maximum: float = 1.0, minimum: float = 0.0) -> Schedule:
    """w(t) = minimum + ½ (maximum − minimum) (1 + cos(π min(t / steps, 1))).

    Args:
        steps: the step at which the minimum is reached, positive.
        maximum: the weight at step 0.
        minimum: the weight from `steps` on.

    Raises:
        ValueError: `steps` is not positive.

    Example:
        >>> [round(cosine(10)(step), 4) for step in (0, 5, 10, 20)]
        [1.0, 0.5, 0.0, 0.0]
    """
    _require_positive(steps)
    return lambda step: minimum + 0.5 * (maximum - minimum) * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def cyclical(cycle_length: int, ratio: float = 0.5, maximum: float = 1.0) -> Schedule:
    """w(t) = maximum · min(s / (ratio · cycle_length), 1), s = t mod cycle_length.

    Args:
        cycle_length: the number of steps after which the weight starts from 0 again, positive.
        ratio: the part of a cycle in which the weight rises, in (0, 1].
        maximum: the weight in the rest of a cycle.

    Raises:
        ValueError: `cycle_length` is not positive, or `ratio` lies outside (0, 1].

    Example:
        >>> [cyclical(10, ratio=0.4)(step) for step in (0, 2, 4, 9, 10, 13)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.75]

    Source:
        H. Fu et al., Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing, 2019.
        https://doi.org/10.18653/v1/N19-1021
    """
    _require_positive(cycle_length, "cycle_length")
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio must lie in (0, 1], got {ratio}")
    return lambda step: maximum * min((step % cycle_length) / (cycle_length * ratio), 1.0)


def get_kl_weight(epoch: int, warmup_epochs: float = 10, max_weight: float = 1.0) -> float:
    """Return max_weight · min(epoch / warmup_epochs, 1): `linear_warmup` at one epoch.

    Args:
        epoch: the epoch.
        warmup_epochs: the epoch at which the maximum is reached; 0 for the maximum from the start.
        max_weight: the weight from then on.

    Raises:
        ValueError: `warmup_epochs` is negative.

    Example:
        >>> [get_kl_weight(epoch) for epoch in (0, 5, 10, 20)]
        [0.0, 0.5, 1.0, 1.0]
    """
    return max_weight if warmup_epochs == 0 else linear_warmup(warmup_epochs, max_weight)(epoch)


def cyclical_kl_weight(step: int, cycle_length: int = 10000, ratio: float = 0.5) -> float:
    """Return min(s / (ratio · cycle_length), 1), s = step mod cycle_length: `cyclical` at one step.

    Args:
        step: the step.
        cycle_length: the number of steps of a cycle, positive.
        ratio: the part of a cycle in which the weight rises, in (0, 1].

    Raises:
        ValueError: `cycle_length` is not positive, or `ratio` lies outside (0, 1].

    Example:
        >>> [cyclical_kl_weight(step) for step in (0, 2500, 5000, 9999, 10000)]
        [0.0, 0.5, 1.0, 1.0, 0.0]
    """
    return cyclical(cycle_length, ratio)(step)


def _require_positive(steps: float, name: str = "steps") -> None:
    if not steps > 0:
        raise ValueError(f"{name} must be positive, got {steps}")
