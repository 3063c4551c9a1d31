"""Parameters as a model wants them (a nesting of arrays), and as files and optimizers want them (arrays by name)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mithril_losses.backends import Backend, get_backend
from mithril_losses.backends.conversion import library_of
from mithril_losses.backends.namespaces import Array, is_dtype, namespace_of
from mithril_losses.numerics.trees import map_leaves


class Tree:
    """A nesting of arrays of one library, of which copies with other values are made.

    Args:
        tree: nested dicts, lists and tuples; with JAX any pytree, such as an equinox module.

    Attributes:
        library: "numpy", "jax" or "torch".
        backend: makes arrays of the library, with the dtype and on the device of the first floating-point array.

    Raises:
        TypeError: there is no array, or arrays of several libraries.
        ValueError: two arrays have the same name.

    Example:
        >>> tree = Tree({"layer": {"w": np.ones(2)}, "b": np.zeros(1)})
        >>> names = tree.named({"layer": {"w": np.ones(2)}, "b": np.zeros(1)})
        >>> sorted(names)
        ['b', 'layer/w']
        >>> tree.nested(names)["layer"]["w"]
        array([1., 1.])
    """

    def __init__(self, tree: Any) -> None:
        self._like = tree
        arrays = list(_with_paths(tree))
        libraries = sorted({str(library_of(x)) for _, x in arrays})
        if len(libraries) != 1 or libraries[0] not in ("numpy", "jax", "torch"):
            raise TypeError(f"params must be arrays of one library (NumPy, JAX or PyTorch), got {libraries or 'none'}")
        self.library = libraries[0]
        self.names = [name for name, _ in arrays]
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"two arrays of params have the name {twice!r}")
        self.backend = _backend(self.library, [x for _, x in arrays])

    def named(self, tree: Any) -> dict[str, Array]:
        """Return the arrays of a nesting of this structure by name.

        Raises:
            ValueError: it has another structure.
        """
        found = dict(tree) if _is_flat(tree) and _is_flat(self._like) else dict(_with_paths(tree))
        if found.keys() != set(self.names):
            raise ValueError(f"the gradients belong to {sorted(found)}, the parameters are {sorted(self.names)}")
        return {name: found[name] for name in self.names}

    def nested(self, arrays: Mapping[str, Array]) -> Any:
        """Return the nesting with these arrays."""
        if _is_flat(self._like):
            return dict(arrays)
        return _replaced(self._like, [arrays[name] for name in self.names])


def _is_flat(tree: Any) -> bool:
    return type(tree) is dict and all(namespace_of(x) is not None for x in tree.values())


def _with_paths(tree: Any) -> list[tuple[str, Array]]:
    if _has_jax(tree):
        import jax

        found = jax.tree_util.tree_flatten_with_path(tree)[0]
        return [("/".join(_part(key) for key in path), x) for path, x in found]
    names: list[tuple[str, Array]] = []
    _walk(tree, "", names)
    return names


def _walk(tree: Any, path: str, names: list[tuple[str, Array]]) -> None:
    if isinstance(tree, (Mapping, list, tuple)):
        for key, branch in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            _walk(branch, f"{path}/{key}" if path else str(key), names)
    else:
        names.append((path, tree))


def _has_jax(tree: Any) -> bool:
    """Return whether JAX has to walk the tree: it holds JAX arrays, or nodes that only JAX knows."""
    if "jax" not in sys.modules:
        return False
    names: list[tuple[str, Any]] = []
    _walk(tree, "", names)
    return any(library_of(x) in ("jax", None) for _, x in names)


def _part(key: Any) -> str:
    """Return what a key of a path in a pytree of JAX holds: the key of a dict, an index, the name of a field."""
    return str(next((getattr(key, field) for field in ("key", "idx", "name") if hasattr(key, field)), key))


def _replaced(like: Any, arrays: list[Array]) -> Any:
    if _has_jax(like):
        import jax

        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), arrays)
    remaining = iter(arrays)
    return map_leaves(lambda path, x: next(remaining), like)


def _backend(library: str, arrays: list[Array]) -> Backend:
    first = next((x for x in arrays if is_dtype(namespace_of(x), x.dtype, "real floating")), None)
    name = "float32" if first is None else str(first.dtype).removeprefix("torch.")
    if library == "torch":
        return get_backend(library, dtype=name, device=str(arrays[0].device))
    if library == "jax":
        # its backend for float64 switches 64 bits on; for other dtypes it leaves JAX as it is
        return get_backend(library, dtype=name)
    return get_backend(library, dtype=name if name in ("float16", "float32", "float64") else "float64")


def like_array(values: Array, like: Array, backend: Backend) -> Array:
    """Return NumPy values as an array of the dtype, library and device of `like`."""
    if backend.name == "numpy":
        return np.array(values, dtype=like.dtype)
    made = backend.from_numpy(np.asarray(values))
    if backend.name == "torch":
        return made.to(device=like.device, dtype=like.dtype)
    import jax

    return jax.device_put(made.astype(like.dtype), like.sharding)
