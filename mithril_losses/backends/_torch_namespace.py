"""PyTorch as an array API namespace: array-api-compat's, with minimum and maximum that take Python scalars cheaply.

array-api-compat turns the scalar into a tensor first, which costs 5 µs a call and which `torch.compile` cannot trace.
"""

from typing import Any

import torch
from array_api_compat.torch import *  # noqa: F403


def maximum(x: Any, y: Any) -> Any:
    """Return the larger of two tensors, or of a tensor and a number."""
    return torch.clamp(x, min=y) if not isinstance(y, torch.Tensor) else torch.maximum(x, y)


def minimum(x: Any, y: Any) -> Any:
    """Return the smaller of two tensors, or of a tensor and a number."""
    return torch.clamp(x, max=y) if not isinstance(y, torch.Tensor) else torch.minimum(x, y)
