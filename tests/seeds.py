"""What the tests of the guides' code blocks (`test_seed_*.py`) share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mithril_losses.backends import Backend, JaxBackend, NumpyBackend, TorchBackend

BACKENDS = {"numpy": NumpyBackend, "jax": JaxBackend, "torch": TorchBackend}


def probabilities(backend: Backend, *shape: int) -> Any:
    """Rows of the last axis that sum to one."""
    return backend.array(backend.generator.dirichlet(np.ones(shape[-1]), shape[:-1]))


def unit_interval(backend: Backend, *shape: int) -> Any:
    return 0.05 + 0.9 * backend.rand(*shape)


def choice(backend: Backend, values: tuple[float, ...], *shape: int) -> Any:
    return backend.array(backend.generator.choice(values, shape))


def assert_is_derivative(
    backend: Backend, gradient: Any, loss: Callable[..., Any], *arguments: Any, argnum: int = 0
) -> None:
    """The gradient wrt one argument equals jax.grad's, torch autograd's or central differences'."""
    assert tuple(gradient.shape) == tuple(arguments[argnum].shape)
    if backend.name == "numpy":  # differences of float32 numbers would be noise
        arguments = tuple(x.astype(np.float64) if x.dtype == np.float32 else x for x in arguments)
    traced = jax.jit(loss) if backend.name == "jax" else loss  # one compilation, not one for each operation
    expected = backend.to_numpy(backend.gradient(traced, *arguments, argnum=argnum))
    atol = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(backend.to_numpy(gradient), expected, rtol=1e-4, atol=atol)


def assert_moved_downhill(before: Any, after: Any) -> None:
    assert float(after) < float(before)
