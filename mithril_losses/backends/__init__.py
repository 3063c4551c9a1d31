"""Arrays of NumPy, JAX and PyTorch with one interface; nothing here knows about losses.

JAX and PyTorch are imported when their backend is first asked for.
"""

from __future__ import annotations

import difflib
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithril_losses.backends.base import Backend
from mithril_losses.backends.conversion import BackendNotInstalledError
from mithril_losses.backends.numpy import NumpyBackend

if TYPE_CHECKING:
    from mithril_losses.backends.jax import JaxBackend
    from mithril_losses.backends.torch import TorchBackend

__all__ = ["Backend", "BackendNotInstalledError", "JaxBackend", "NumpyBackend", "TorchBackend", "get_backend"]

_ENVIRONMENT_VARIABLE = "MITHRIL_LOSSES_BACKEND"
_CONFIGURATION_FILE = "mithril_losses.toml"
_GROUP = "mithril_losses.backends"
_BUILT_IN = {
    "numpy": "mithril_losses.backends.numpy:NumpyBackend",
    "jax": "mithril_losses.backends.jax:JaxBackend",
    "torch": "mithril_losses.backends.torch:TorchBackend",
}
_LAZY = {"JaxBackend": "mithril_losses.backends.jax", "TorchBackend": "mithril_losses.backends.torch"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def get_backend(
    name: str | Backend | None = None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    seed: int = 0,
) -> Backend:
    """Return the backend of this name, by default the configured one.

    Without a name, the environment variable `MITHRIL_LOSSES_BACKEND` decides, then the key `backend` of the file
    `mithril_losses.toml` in the current directory. If neither is set, the backend is "numpy".

    Args:
        name: "numpy", "jax", "torch" or one that another package registered in the entry-point group
            `mithril_losses.backends`; a backend object is returned unchanged.
        dtype: floating-point type of the arrays that the backend makes, by default "float32".
        device: the device of the arrays, by default that of the library.
        seed: the seed of the random numbers.

    Raises:
        ValueError: there is no such backend, dtype or device, the configuration file is malformed, or a dtype or
            device is given for a backend object.
        BackendNotInstalledError: the library of the backend is not installed.

    Example:
        >>> get_backend("numpy", seed=1).randn(2, 3).shape
        (2, 3)
    """
    if isinstance(name, Backend):
        if dtype is not None or device is not None:
            raise ValueError(f"dtype and device of {name!r} are settled: pass a name to choose them")
        return name

    from importlib.metadata import EntryPoint, entry_points  # here, as it would double the time to import this package

    if name is None:
        name, origin = _configured_name()
    else:
        origin = ""
    # the three are found without package metadata, too: a copy of this package inside another project has none
    known = [EntryPoint(name, target, _GROUP) for name, target in _BUILT_IN.items()]
    registered = {entry.name: entry for entry in (*known, *entry_points(group=_GROUP))}
    if name not in registered:
        nearest = difflib.get_close_matches(name.lower(), registered, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown backend {name!r}{origin}: {hint}available: {', '.join(sorted(registered))}")
    backend: Backend = registered[name].load()(dtype=dtype or "float32", device=device, seed=seed)
    return backend


def _configured_name() -> tuple[str, str]:
    """Return the configured name and, for messages, where it was found."""
    if name := os.environ.get(_ENVIRONMENT_VARIABLE):
        return name, f" (from the environment variable {_ENVIRONMENT_VARIABLE})"
    path = Path(_CONFIGURATION_FILE)
    if not path.is_file():
        return "numpy", ""

    from mithril_losses.backends.toml import read_toml_file

    try:
        name = read_toml_file(path).get("backend", "numpy")
    except ValueError as error:  # wrong syntax, encoding or size
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(name, str):
        raise ValueError(f"{path}: backend must be a name such as 'numpy', got {name!r}")
    return name, f" (from {path})"
