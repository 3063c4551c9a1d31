"""The vocabulary of element-wise terms for one number at a time, from which numba builds fused, vectorised loops.

`float32` and `float64` take the place of an array library as the `xp` of the terms. They need the extra `fast`.
"""

from mithril_losses.loops.scalar import float32, float64

__all__ = ["float32", "float64"]
