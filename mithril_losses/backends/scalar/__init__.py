"""The vocabulary of element-wise terms for one number at a time, from which numba builds fused, vectorised loops.

`float32` and `float64` stand in for an array library as the `xp` of the terms; `compile_terms` makes terms
callable from compiled code. Importing this package needs numba (extra `fast`).
"""

from mithril_losses.backends.scalar import float32, float64
from mithril_losses.backends.scalar._compile import compile_terms, retyped

__all__ = ["compile_terms", "float32", "float64", "retyped"]
