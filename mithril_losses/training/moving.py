"""One interface for the optimizers of this package, of optax and of `torch.optim`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mithril_losses.backends.namespaces import Array, fresh, namespace_of
from mithril_losses.training.trees import Tree, like_array


class Mover(Protocol):
    """What moves parameters against their gradients; parameters and gradients are arrays by name."""

    def start(self, params: Mapping[str, Array]) -> Any:
        """Return the state before the first step."""

    def move(
        self, params: Mapping[str, Array], gradients: Mapping[str, Array], state: Any, step: int, factor: float
    ) -> tuple[dict[str, Array], Any]:
        """Return parameters and state after step `step`, counted from 1, at `factor` times the learning rate."""

    def arrays(self, state: Any) -> dict[str, Array]:
        """Return the arrays of a state after the first step by name."""

    def slots(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Return arrays like those that `arrays` returns."""

    def restored(self, params: Mapping[str, Array], arrays: Mapping[str, Array]) -> Any:
        """Return the state of these parameters from the values of `arrays`, in NumPy."""


def mover_of(optimizer: Any, tree: Tree, clip_norm: float | None) -> Mover:
    """Return the optimizer behind the one interface.

    Args:
        optimizer: one of `mithril_losses.training.optimizers`, on every library; with JAX, a gradient transformation of
            optax; with PyTorch, a function from tensors to an optimizer of `torch.optim`.
        tree: the parameters.
        clip_norm: gradients whose norm (over all parameters) is larger are scaled to this norm.

    Raises:
        TypeError: it is none of these, or belongs to another library than the parameters.
    """
    if hasattr(optimizer, "initial_state"):
        return _Own(optimizer, tree, clip_norm)
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        if tree.library != "jax":
            raise TypeError(f"an optimizer of optax moves parameters of JAX, not of {tree.library}")
        return _Optax(optimizer, tree, clip_norm)
    if tree.library == "torch" and callable(optimizer):
        return _Torch(optimizer, tree, clip_norm)
    raise TypeError(
        "optimizer must be Sgd, Adam or AdamW of mithril_losses.training; with JAX a gradient transformation of optax; "
        "with PyTorch a function of parameters such as functools.partial(torch.optim.AdamW, lr=1e-3); "
        f"got {optimizer!r} for parameters of {tree.library}"
    )


def compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """Return `function` compiled as one program for JAX, which would otherwise run its operations one by one."""
    if backend != "jax":
        return function
    import jax

    program: Callable[..., Any] = jax.jit(function)
    return program


def clipped(gradients: Mapping[str, Array], norm: float | None) -> dict[str, Array]:
    """Return g · min(1, norm / ‖g‖), where ‖g‖ is the Euclidean norm of all gradients together; None does not clip.

    Example:
        >>> import numpy as np
        >>> clipped({"a": np.array([3.0]), "b": np.array([4.0])}, norm=1.0)
        {'a': array([0.6]), 'b': array([0.8])}
    """
    if norm is None:
        return dict(gradients)
    first, *others = [(g * g).sum() for g in gradients.values()]
    found = sum(others, start=first) ** 0.5
    xp: Any = namespace_of(found)
    factor = xp.where(found > norm, norm / found, xp.ones_like(found))
    return {name: g * factor for name, g in gradients.items()}


class _Own:
    """An optimizer of this package: a pure function of arrays by name."""

    def __init__(self, optimizer: Any, tree: Tree, clip_norm: float | None) -> None:
        self._optimizer = optimizer
        self._backend = tree.backend

        def update(params: Any, gradients: Any, state: Any, step: Any, factor: Any) -> Any:
            return optimizer.update(params, clipped(gradients, clip_norm), state, step, factor)

        self._update = compiled(update, tree.library)

    def start(self, params: Mapping[str, Array]) -> Any:
        return self._optimizer.initial_state(params)

    def move(
        self, params: Mapping[str, Array], gradients: Mapping[str, Array], state: Any, step: int, factor: float
    ) -> tuple[dict[str, Array], Any]:
        moved: tuple[dict[str, Array], Any] = self._update(dict(params), dict(gradients), state, step, factor)
        return moved

    def arrays(self, state: Any) -> dict[str, Array]:
        return {f"{slot}/{name}": x for slot, tree in state.items() for name, x in tree.items()}

    def slots(self, params: Mapping[str, Array]) -> dict[str, Array]:
        return self.arrays(self.start(params))

    def restored(self, params: Mapping[str, Array], arrays: Mapping[str, Array]) -> Any:
        return {
            slot: {name: like_array(arrays[f"{slot}/{name}"], x, self._backend) for name, x in tree.items()}
            for slot, tree in self.start(params).items()
        }


class _Optax:
    """A gradient transformation of optax, which sees the parameters in their own nesting."""

    def __init__(self, optimizer: Any, tree: Tree, clip_norm: float | None) -> None:
        self._optimizer = optimizer
        self._tree = tree

        def update(params: Any, gradients: Any, state: Any, factor: Any) -> Any:
            nested = tree.nested(params)
            updates, state = optimizer.update(tree.nested(clipped(gradients, clip_norm)), state, nested)
            changes = tree.named(updates)
            return {name: w + (factor * changes[name]).astype(w.dtype) for name, w in params.items()}, state

        self._update = compiled(update, "jax")

    def start(self, params: Mapping[str, Array]) -> Any:
        return self._optimizer.init(self._tree.nested(params))

    def move(
        self, params: Mapping[str, Array], gradients: Mapping[str, Array], state: Any, step: int, factor: float
    ) -> tuple[dict[str, Array], Any]:
        moved: tuple[dict[str, Array], Any] = self._update(dict(params), dict(gradients), state, factor)
        return moved

    def arrays(self, state: Any) -> dict[str, Array]:
        import jax

        return {str(index): x for index, x in enumerate(jax.tree_util.tree_leaves(state))}

    def slots(self, params: Mapping[str, Array]) -> dict[str, Array]:
        return self.arrays(self.start(params))

    def restored(self, params: Mapping[str, Array], arrays: Mapping[str, Array]) -> Any:
        import jax

        found, structure = jax.tree_util.tree_flatten(self.start(params))
        values = [like_array(arrays[str(index)], x, self._tree.backend) for index, x in enumerate(found)]
        return jax.tree_util.tree_unflatten(structure, values)


class _Torch:
    """An optimizer of `torch.optim`, which moves tensors of its own in place; the state is the optimizer itself."""

    def __init__(self, factory: Callable[..., Any], tree: Tree, clip_norm: float | None) -> None:
        self._factory = factory
        self._clip_norm = clip_norm

    def start(self, params: Mapping[str, Array]) -> Any:
        leaves = {name: fresh(x).requires_grad_() for name, x in params.items()}
        optimizer = self._factory(list(leaves.values()))
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"optimizer must return an optimizer of torch.optim, got {type(optimizer).__name__}")
        return leaves, optimizer, [group["lr"] for group in optimizer.param_groups]

    def move(
        self, params: Mapping[str, Array], gradients: Mapping[str, Array], state: Any, step: int, factor: float
    ) -> tuple[dict[str, Array], Any]:
        leaves, optimizer, rates = state
        for name, gradient in clipped(gradients, self._clip_norm).items():
            leaves[name].grad = gradient.detach()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        optimizer.step()
        return {name: x.detach() for name, x in leaves.items()}, state

    def arrays(self, state: Any) -> dict[str, Array]:
        leaves, optimizer, _ = state
        slots = {name: optimizer.state.get(x, {}) for name, x in leaves.items()}
        return {
            f"{key}/{name}": x for name, slot in slots.items() for key, x in slot.items() if namespace_of(x) is not None
        }

    def slots(self, params: Mapping[str, Array]) -> dict[str, Array]:
        return self.arrays(self._after_a_step(params))

    def restored(self, params: Mapping[str, Array], arrays: Mapping[str, Array]) -> Any:
        import torch

        state = self._after_a_step(params)
        with torch.no_grad():
            for name, x in state[0].items():
                x.copy_(params[name])
            for name, slot in self.arrays(state).items():
                slot.copy_(torch.from_numpy(arrays[name]))
        return state

    def _after_a_step(self, params: Mapping[str, Array]) -> Any:
        """Return a state in which all slots exist: `torch.optim` makes them in the first step."""
        state = self.start(params)
        self.move(params, {name: 0.0 * x for name, x in state[0].items()}, state, 1, 0.0)
        return state
