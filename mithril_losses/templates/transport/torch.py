"""The solvers of `transport` as operators of PyTorch, so that each is one step for `torch.compile` and `vmap`."""

import math
from typing import Any

import torch

from mithril_losses.backends.namespaces import torch as xp
from mithril_losses.templates.points import is_transformed
from mithril_losses.templates.transport.solver import (
    Settings,
    Solution,
    assignment_on_host,
    drawn_directions,
    slopes_eagerly,
    solve_eagerly,
)

Pair = tuple[torch.Tensor, torch.Tensor]
Eight = tuple[  # PyTorch reads the signature of an operator: one type for each result
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]


def _batched(info: Any, in_dims: tuple[int | None, ...], arguments: tuple[Any, ...]) -> list[Any]:
    """Return the arguments with the mapped axis of tensors in front, and everything else unchanged."""
    dims = zip(arguments, in_dims, strict=True)
    return [
        x if not isinstance(x, torch.Tensor) else x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
        for x, d in dims
    ]


def _folded(info: Any, operator: Any, in_dims: tuple[int | None, ...], arguments: tuple[Any, ...]) -> Any:
    """Return the result of an operator with the mapped axis merged into the batch axis, and split off again."""
    batched = _batched(info, in_dims, arguments)
    batch = batched[0].shape[:2]
    folded = [x.reshape(math.prod(batch), *x.shape[2:]) if isinstance(x, torch.Tensor) else x for x in batched]
    found = operator(*folded)
    return tuple(x.reshape(*batch, *x.shape[1:]) for x in found), (0,) * len(found)


# --- assignment -------------------------------------------------------------------------------------------------------


def _assignment(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the partners of the points of x among those of y; from an accelerator, points are copied to the host."""
    return torch.from_numpy(assignment_on_host(x.cpu().numpy(), y.cpu().numpy())).to(x.device)


assignment: Any = torch.library.custom_op("mithril_losses::assignment", _assignment, mutates_args=())
assignment.register_fake(lambda x, y: x.new_empty(x.shape[:-1], dtype=torch.int64))
assignment.register_vmap(lambda info, in_dims, *points: (assignment(*_batched(info, in_dims, points)), 0))


# --- Sinkhorn ---------------------------------------------------------------------------------------------------------


def _eagerly(function: Any, arrays: tuple[torch.Tensor, ...], settings: Settings) -> tuple[torch.Tensor, ...]:
    """Run a solver: in NumPy for tensors on the host, in PyTorch for tensors on an accelerator."""
    if arrays[0].device.type != "cpu":
        return tuple(function(xp, *arrays, settings))
    import numpy as np

    found = function(np, *(x.detach().numpy() for x in arrays), settings)
    return tuple(torch.from_numpy(np.array(x)) for x in found)


def _solve(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    epsilon: float,
    power: float,
    tolerance: float,
    max_iterations: int,
) -> Eight:
    settings = Settings(epsilon, power, tolerance, max_iterations)
    return _eagerly(solve_eagerly, (x, y, a, b), settings)


def _solve_shapes(x: Any, y: Any, a: Any, b: Any, *_: Any) -> Any:
    number = x.new_empty(x.shape[:1])
    potentials = (torch.empty_like(masses) for masses in (a, b, a, b))
    return (number, *potentials, number.clone(), number.clone(), number.to(torch.int64))


_solve_operator: Any = torch.library.custom_op("mithril_losses::sinkhorn", _solve, mutates_args=())
_solve_operator.register_fake(_solve_shapes)
_solve_operator.register_vmap(lambda info, dims, *arguments: _folded(info, _solve_operator, dims, arguments))


def _slopes(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    across_y: torch.Tensor,
    own_x: torch.Tensor,
    own_y: torch.Tensor,
    epsilon: float,
    power: float,
) -> Pair:
    def function(xp: Any, x: Any, y: Any, a: Any, b: Any, *rest: Any) -> Any:
        *potentials, settings = rest
        return slopes_eagerly(xp, x, y, a, b, tuple(potentials), settings)

    arrays = (x, y, a, b, across_y, own_x, own_y)
    return _eagerly(function, arrays, Settings(epsilon, power, 0.0, 0))


_slopes_operator: Any = torch.library.custom_op("mithril_losses::sinkhorn_slopes", _slopes, mutates_args=())
_slopes_operator.register_fake(lambda x, y, *_: (torch.empty_like(x), torch.empty_like(y)))
_slopes_operator.register_vmap(lambda info, dims, *arguments: _folded(info, _slopes_operator, dims, arguments))


def solve(x: Any, y: Any, a: Any, b: Any, settings: Settings) -> Solution:
    """`transport.solve`, outside the graph."""
    return Solution(*_solve_operator(x.detach(), y.detach(), a.detach(), b.detach(), *settings))


def slopes(x: Any, y: Any, a: Any, b: Any, potentials: tuple[Any, Any, Any], settings: Settings) -> Any:
    """`transport.slopes`, which have no derivative of their own."""
    arguments = (x, y, a, b, *potentials, settings.epsilon, settings.power)
    is_in_graph = any(array.requires_grad and not is_transformed(array) for array in (x, y, a, b))
    if is_in_graph and not torch.compiler.is_compiling():  # the compiler knows no derivative inside a derivative
        return _Slopes.apply(*arguments)
    return _slopes_operator(*(array.detach() for array in arguments[:4]), *arguments[4:])


def divergence(x: Any, y: Any, a: Any, b: Any, settings: Settings) -> tuple[Any, Any, Any]:
    """`transport.divergence`."""
    if not any((array.requires_grad and torch.is_grad_enabled()) or is_transformed(array) for array in (x, y, a, b)):
        found = solve(x, y, a, b, settings)
        return found.values, found.error, found.limit
    values, *_, error, limit, _ = _Divergence.apply(x, y, a, b, *settings)
    return values, error, limit


class _Slopes(torch.autograd.Function):  # type: ignore[misc]  # PyTorch has no types here
    """The operator of the slopes, which has no derivative of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return _slopes_operator(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("sinkhorn_divergence has no second derivative in PyTorch")


class _Divergence(torch.autograd.Function):  # type: ignore[misc]  # nor here
    """The operator with its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return _solve_operator(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, a, b, epsilon, power, *_ = inputs
        _, *potentials, error, limit, iterations = output
        ctx.save_for_backward(x, y, a, b, *potentials)
        ctx.settings = epsilon, power
        ctx.mark_non_differentiable(*potentials, error, limit, iterations)

    @staticmethod
    def backward(ctx: Any, by_values: Any, *_: Any) -> Any:
        x, y, a, b, across_x, across_y, own_x, own_y = ctx.saved_tensors
        by_x, by_y = _Slopes.apply(x, y, a, b, across_y, own_x, own_y, *ctx.settings)
        flowing, rows = by_values[:, None, None], by_values[:, None]
        return flowing * by_x, flowing * by_y, rows * (across_x - own_x), rows * (across_y - own_y), *[None] * 4


# --- along random directions ------------------------------------------------------------------------------------------


def _directions(like: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    return torch.tensor(drawn_directions(count, like.shape[-1], seed), dtype=like.dtype, device=like.device)


directions: Any = torch.library.custom_op("mithril_losses::directions", _directions, mutates_args=())
directions.register_fake(lambda like, count, seed: like.new_empty((count, like.shape[-1])))
directions.register_vmap(lambda info, dims, like, *rest: (directions(like.movedim(dims[0], 0), *rest), None))
