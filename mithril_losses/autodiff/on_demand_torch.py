"""Gradients that are in PyTorch's autograd graph but computed outside it; their derivatives are computed on demand.

A gradient over all pairs of two sets is computed in tiles, fastest by NumPy. Inside the graph, every pair would be
kept. So the graph gets a single step, which computes the gradient again, inside the graph, if its derivative is wanted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mithril_losses.numerics.trees import leaves, map_leaves


def on_demand(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Return the result of the function, computed outside the graph if its arguments are in a graph."""
    given = [*arguments, *keywords.values()]
    places = [i for i, x in enumerate(given) if isinstance(x, torch.Tensor)]
    if not torch.is_grad_enabled() or _is_traced() or not any(given[i].requires_grad for i in places):
        return function(*arguments, **keywords)
    structure: list[Any] = []

    def evaluate(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        called = list(given)
        for i, x in zip(places, tensors, strict=True):
            called[i] = x
        found = function(*called[: len(arguments)], **dict(zip(keywords, called[len(arguments) :], strict=True)))
        structure[:] = [found]
        return tuple(x for _, x in leaves(found))

    results = iter(_OnDemand.apply(evaluate, *(given[i] for i in places)))
    return map_leaves(lambda _, __: next(results), structure[0])


def _is_traced() -> bool:
    """Whether a transform or a compiler is tracing, which differentiates the function itself."""
    if torch.compiler.is_compiling():
        return True
    transformed: bool = torch._C._functorch.peek_interpreter_stack() is not None
    return transformed or torch.autograd.forward_ad._current_level >= 0


class _OnDemand(torch.autograd.Function):  # type: ignore[misc]  # PyTorch has no types here
    """A function of tensors that is computed outside the graph, and for its derivative once more inside it."""

    @staticmethod
    def forward(ctx: Any, evaluate: Callable[[tuple[Any, ...]], tuple[Any, ...]], *tensors: Any) -> tuple[Any, ...]:
        ctx.evaluate = evaluate
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return evaluate(tuple(x.detach() for x in tensors))

    @staticmethod
    def backward(ctx: Any, *flowing: Any) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            # views, because one argument may be computed from another
            tensors = tuple(x.view_as(x) for x in ctx.saved_tensors)
            found = [(x, by) for x, by in zip(ctx.evaluate(tensors), flowing, strict=True) if by is not None]
            found = [(x, by) for x, by in found if x.requires_grad]
        wanted = [x for x, needs in zip(tensors, needed, strict=True) if needs]
        if not found:
            return None, *(None for _ in tensors)
        outputs, by_outputs = zip(*found, strict=True)
        slopes = iter(
            torch.autograd.grad(outputs, wanted, by_outputs, create_graph=torch.is_grad_enabled(), allow_unused=True)
        )
        return None, *(next(slopes) if needs else None for needs in needed)
