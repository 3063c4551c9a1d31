"""Nestings of dicts, lists and tuples, such as the parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array


def map_leaves(function: Callable[[str, Array], Any], tree: Any, path: str = "params") -> Any:
    """Return the nesting with each array replaced by `function(path, array)`."""
    if isinstance(tree, Mapping):
        mapped = {key: map_leaves(function, branch, f"{path}[{key!r}]") for key, branch in tree.items()}
        return NamedArrays(mapped) if type(tree) is NamedArrays else mapped
    if isinstance(tree, (list, tuple)):
        branches = [map_leaves(function, branch, f"{path}[{i}]") for i, branch in enumerate(tree)]
        if hasattr(tree, "_fields"):
            return type(tree)(*branches)
        return type(tree)(branches)
    return function(path, tree)


def add_into(total: Any, addend: Any) -> Any:
    """Return the sum of two nestings of one structure; arrays of the first are overwritten, unless in a graph."""
    added = dict(leaves(addend))
    return map_leaves(lambda path, x: _add_array(x, added[path]), total)


def _add_array(total: Array, addend: Array) -> Array:
    if getattr(total, "requires_grad", False):
        return total + addend  # PyTorch's backward pass may need the old value
    total += addend
    return total


def first_array(x: Any) -> Any:
    """Return the first array of a nesting; an object that is no nesting, as it is."""
    return x if hasattr(x, "shape") else next((leaf for _, leaf in leaves(x)), x)


def leaves(tree: Any, path: str = "params") -> Iterator[tuple[str, Array]]:
    """Yield each array of the nesting with its path, depth first."""
    found: list[tuple[str, Array]] = []
    map_leaves(lambda path, leaf: found.append((path, leaf)), tree, path)
    yield from found
