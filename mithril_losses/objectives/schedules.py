"""Schedules: weights that change with the training step. Each function returns a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "exponential_warmup", "linear_warmup"]

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


def linear_warmup(steps: int, maximum: float = 1.0) -> Schedule:
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
        steps: the time constant: after so many steps, 63 % of the maximum is reached.
        maximum: the weight that is approached.

    Raises:
        ValueError: `steps` is not positive.

    Example:
        >>> [round(exponential_warmup(10)(step), 4) for step in (0, 10, 100)]
        [0.0, 0.6321, 1.0]
    """
    _require_positive(steps)
    return lambda step: maximum * (1.0 - math.exp(-step / steps))


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


def _require_positive(steps: float) -> None:
    if not steps > 0:
        raise ValueError(f"steps must be positive, got {steps}")
