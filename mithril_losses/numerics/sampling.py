"""Random numbers of the array library that computes, from a key of that library."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from mithril_losses.backends.namespaces import Array, library_name


class Draw:
    """A source of random arrays that are like others: of one library, shape, dtype and device.

    Args:
        xp: the namespace of the arrays.
        key: NumPy: a `Generator`, or a seed; JAX: a key; PyTorch: a `Generator`, or a seed.

    Raises:
        TypeError: the key is none of these, or the library has no random numbers.
    """

    def __init__(self, xp: Any, key: Any) -> None:
        self.xp, self._library = xp, library_name(xp)
        is_seed = isinstance(key, int) and not isinstance(key, bool)
        if self._library == "numpy":
            key = np.random.default_rng(key) if is_seed else key
            is_right = isinstance(key, np.random.Generator)
        elif self._library == "torch":
            torch = sys.modules["torch"]
            key = torch.Generator().manual_seed(key) if is_seed else key
            is_right = isinstance(key, torch.Generator)
        else:
            is_right = self._library == "jax" and hasattr(key, "shape")
        if not is_right:
            raise TypeError(
                f"key must be a Generator or a seed for NumPy and PyTorch, and a key for JAX; got {key!r} for "
                f"{self._library}"
            )
        self._key = key

    def normal(self, like: Array) -> Array:
        """Return standard normal numbers."""
        if self._library == "numpy":
            return self._key.standard_normal(like.shape).astype(like.dtype)
        if self._library == "torch":
            return self._filled(like, "normal_")
        return sys.modules["jax"].random.normal(self._next(), like.shape, like.dtype)

    def uniform(self, like: Array) -> Array:
        """Return numbers in [0, 1)."""
        if self._library == "numpy":
            return self._key.random(like.shape).astype(like.dtype)
        if self._library == "torch":
            return self._filled(like, "uniform_")
        return sys.modules["jax"].random.uniform(self._next(), like.shape, like.dtype)

    def poisson(self, rate: Array) -> Array:
        """Return counts with these rates, in their dtype."""
        if self._library == "numpy":
            return self._key.poisson(rate).astype(rate.dtype)
        if self._library == "torch":
            torch = sys.modules["torch"]
            return torch.poisson(rate.cpu(), generator=self._key).to(rate)
        return sys.modules["jax"].random.poisson(self._next(), rate).astype(rate.dtype)

    def gamma(self, shape: Array) -> Array:
        """Return numbers of the gamma distributions with these shapes and the scale 1."""
        if self._library == "numpy":
            return self._key.standard_gamma(shape).astype(shape.dtype)
        if self._library == "torch":
            torch = sys.modules["torch"]
            return torch._standard_gamma(shape.cpu(), generator=self._key).to(shape)
        return sys.modules["jax"].random.gamma(self._next(), shape)

    def bernoulli(self, probability: Array) -> Array:
        """Return 1 with these probabilities and else 0, in their dtype."""
        return self.xp.astype(self.uniform(probability) < probability, probability.dtype)

    def classes(self, log_probability: Array, axis: int) -> Array:
        """Return a class for each row, drawn by its probability, as an integer: Gumbel's maximum."""
        xp = self.xp
        exponential = -xp.log1p(-self.uniform(log_probability))  # of a number in (0, 1]
        return xp.argmin(xp.log(exponential) - log_probability, axis=axis)

    def _filled(self, like: Any, method: str) -> Any:
        # a generator on the host draws the same numbers for every device
        drawn = sys.modules["torch"].empty(like.shape, dtype=like.dtype, device=self._key.device)
        return getattr(drawn, method)(generator=self._key).to(like.device)

    def _next(self) -> Any:
        self._key, key = sys.modules["jax"].random.split(self._key)
        return key
