"""PyTorch: the hand-derived gradient as the derivative of a loss in autograd's graph."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from mithril_losses import limits
from mithril_losses.autodiff.call import Call, Differentiable, fastest, is_plain, is_reduced_to_a_number, value_on_host
from mithril_losses.numerics.torch_views import as_tensor, as_tensors, numpy_views
from mithril_losses.numerics.trees import first_array


def value(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    """Return the loss of tensors: one step in the graph if they are in one."""
    if torch._C._is_any_autocast_enabled() and _is_under_autocast(_device_of(arguments[0])):
        return _without_autocast(template, arguments, reduction)
    step, is_traced = _step(reduction)
    if step is not None:
        call = _TorchCall(template, arguments, reduction, is_traced)
        if not call.wanted or not (is_traced or torch.is_grad_enabled()):
            return call.value()
        if call.is_usual or call.covers(call.wanted):
            arrays, call.arrays = call.arrays, []  # the graph frees its own references after a backward pass
            return step(call, *arrays)
    return template.plain_value(*arguments, **reduction)


def gradient(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    """Return the gradient of large tensors on the host, or None where it belongs into a graph or a trace."""
    tensors = [x for x in (*arguments, *reduction.values()) if isinstance(x, torch.Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return None
    views = None if any(map(_is_batched, tensors)) else numpy_views(arguments, reduction)
    return None if views is None else as_tensors(fastest(template)(*views[0], **views[1]))[1]


def _device_of(x: Any) -> str:
    name: str = first_array(x).device.type
    return name


def _is_under_autocast(device: str) -> bool:
    return bool(torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device))


def _without_autocast(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    """Return the loss in float32, as autocast has PyTorch's own losses; the gradient is in the type of its argument."""
    call = _TorchCall(template, arguments, reduction, is_traced=True)
    wide = [x.float() if x.is_floating_point() and x.dtype.itemsize <= 2 else x for x in call.arrays]
    own, keywords = call.put(wide)
    with torch.autocast(_device_of(own[0]), enabled=False):
        return value(template, own, keywords)


def _step(reduction: Mapping[str, Any]) -> tuple[Callable[..., Any] | None, bool]:
    """Return what takes a loss into the graph, None for the plain function; and whether a transform traces it."""
    if torch.compiler.is_compiling():  # first, because the compiler does not know the other questions
        # an exported program has no place for a derivative of its own
        return None if torch.compiler.is_exporting() else HandDerived.apply, True
    if is_plain.get() or torch._C._is_tracing():
        return None, False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        # in forward mode, every loss of an array would need a gradient of its own
        is_forward = forward_ad._current_level >= 0 and not is_reduced_to_a_number(reduction)
        return None if is_forward else _Transformed.apply, True
    return _apply, False


class _TorchCall(Call):
    """A call whose arguments are tensors.

    Attributes:
        wanted: the names of the arguments that are in a graph.
        is_usual: whether the gradient is taken with respect to all these by default.
        ready: the gradients that were computed together with the value, until a backward pass takes them.
    """

    def __init__(
        self, template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any], is_traced: bool
    ) -> None:
        super().__init__(template, arguments, reduction, torch.Tensor, is_traced)
        self._is_traced = is_traced
        self.wanted, self.is_usual, usual = [], True, template.wrt
        is_wide, on_host = True, not self.is_mixed
        for name, x in zip(self.names, self.arrays, strict=True):  # one loop, because small calls notice its cost
            if x.requires_grad or (is_traced and _is_in_graph(x)):
                self.wanted.append(name)
                self.is_usual = self.is_usual and name in usual
            if x.dtype not in _WIDE and x.is_floating_point():
                is_wide, on_host = False, on_host and x.dtype is not torch.bfloat16
            on_host = on_host and x.is_cpu and type(x) in _OWN_MEMORY
        self._keeps_gradient = is_wide and not is_traced and is_reduced_to_a_number(reduction)
        self._on_host = on_host and not is_traced
        self.ready: list[list[Any]] = []

    def value(self) -> Any:
        """Return the loss alone, which is in no graph."""
        if self._on_host and self.template.has_loop:
            arguments, reduction = self.put([x.numpy(force=True) for x in self.arrays])
            with contextlib.suppress(TypeError, ValueError):  # the plain function tells an error in PyTorch's words
                return as_tensor(value_on_host(self.template, arguments, reduction))
        arguments, reduction = self.put(self.arrays)
        return self.template.plain_value(*arguments, **reduction)

    def evaluate(self, tensors: Sequence[Any]) -> Any:
        """Return the loss, and keep the gradient if it can be scaled later by the gradient that flows in."""
        if self._keeps_gradient:
            wrt = {} if self.is_usual else self.wrt(self.wanted)
            found, gradient = self._both(tensors, wrt)
            self.ready.append(self.by_array(gradient, wrt))
            return found
        arguments, reduction = self.put(tensors)
        return self.template.plain_value(*arguments, **reduction)

    def gradients(self, tensors: Sequence[Any], upstream: Any, needed: Sequence[bool]) -> list[Any]:
        """Return the gradient with respect to each tensor; in a graph where one is recorded."""
        keywords = self.wrt(name for name, needs in zip(self.names, needed, strict=True) if needs)
        if self._is_traced or torch.is_grad_enabled() or _is_batched(upstream):
            arguments, reduction = self.put(tensors)
            gradient = self.template.gradient(*arguments, **reduction, **keywords, upstream=upstream)
        else:
            factor = upstream.item() if upstream.ndim == 0 and _is_on_host(upstream) else upstream
            _, gradient = self._both(tensors, keywords | {"upstream": factor})
        return self.by_array(gradient, keywords)

    def can_be_multiplied(self, tensors: Sequence[Any], upstream: Any, needed: Sequence[bool]) -> bool:
        """Whether the derivative of the gradient is a product with a Hessian that is known."""
        return (
            not self._is_traced
            and (upstream.ndim == 0 or not upstream.requires_grad)
            and all(x.dtype in _WIDE for x, needs in zip(tensors, needed, strict=True) if needs)
            and self.has_products(name for name, needs in zip(self.names, needed, strict=True) if needs)
        )

    def _both(self, tensors: Sequence[Any], keywords: dict[str, Any]) -> tuple[Any, Any]:
        """Return value and gradient, which are in no graph."""
        if not self._on_host:
            arguments, reduction = self.put(tensors)
            found: tuple[Any, Any] = fastest(self.template)(*arguments, **reduction, **keywords)
            return found
        # NumPy's calls are cheaper, and so is its memory
        views = [x.numpy(force=True) for x in tensors]
        arguments, reduction = self.put(views)
        both = self.template.both if views[0].size < limits.current.large else fastest(self.template)
        if isinstance(keywords.get("upstream"), torch.Tensor):
            keywords = keywords | {"upstream": keywords["upstream"].numpy()}
        return as_tensors(both(*arguments, **reduction, **keywords))


_OWN_MEMORY = (torch.Tensor, torch.nn.Parameter)  # other kinds of tensors may have none


def _is_on_host(x: torch.Tensor) -> bool:
    """Whether the values of a tensor can be read without waiting for a device."""
    return x.is_cpu and type(x) in _OWN_MEMORY


def _is_batched(upstream: torch.Tensor) -> bool:
    """Whether a backward pass is given several gradients at once, whose values nobody can read."""
    functorch = torch._C._functorch
    return bool(functorch.is_legacy_batchedtensor(upstream) or functorch.is_batchedtensor(upstream))


# in half precision, a gradient is rounded and capped when it is returned: it cannot be scaled after that
_WIDE = (torch.float32, torch.float64)


def _is_in_graph(x: torch.Tensor) -> bool:
    """Whether a tensor without a graph of its own is in one of an outer level of PyTorch's transforms."""
    if torch.compiler.is_compiling():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_gradtrackingtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return bool(x.requires_grad) or forward_ad.unpack_dual(x).tangent is not None


class HandDerived(torch.autograd.Function):  # type: ignore[misc]  # PyTorch has no types here
    """A loss, whose derivative is its hand-derived gradient.

    The first backward pass gives the gradient away, so that a leaf of the graph takes it over without a copy. Another
    pass computes it again; so does one that may be differentiated in turn.
    """

    @staticmethod
    def forward(ctx: Any, call: _TorchCall, *tensors: Any) -> Any:
        """Return the loss. Keep the call, and the arguments as long as the graph keeps them."""
        ctx.call = call
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return call.evaluate(tensors)

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> tuple[Any, ...]:
        """Return the gradient with respect to each tensor that is in the graph."""
        call, (_, *needed) = ctx.call, ctx.needs_input_grad
        if upstream is None:
            return None, *(None for _ in needed)
        is_ready = call.ready and not torch.is_grad_enabled() and not _is_batched(upstream)
        found = _scaled(call.ready.pop(), upstream) if is_ready else None
        if found is None and torch.is_grad_enabled() and call.can_be_multiplied(ctx.saved_tensors, upstream, needed):
            given = iter(_Gradient.apply(call, needed, upstream, *ctx.saved_tensors))
            found = [next(given) if needs else None for needs in needed]
        if found is None:
            found = call.gradients(ctx.saved_tensors, upstream, needed)
        return None, *[x if needs else None for x, needs in zip(found, needed, strict=True)]


class _Gradient(torch.autograd.Function):  # type: ignore[misc]  # likewise
    """The gradient of a loss, whose derivative is the product of the Hessian with what flows in."""

    @staticmethod
    def forward(call: _TorchCall, needed: Sequence[bool], upstream: Any, *tensors: Any) -> tuple[Any, ...]:
        """Return the gradients with respect to the tensors that need one."""
        found = call.gradients(tensors, upstream, needed)
        return tuple(x for x, needs in zip(found, needed, strict=True) if needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the call and its arguments."""
        ctx.call, ctx.needed, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *flowing: Any) -> tuple[Any, ...]:
        """Return the derivative by the gradient that flowed into the loss, and by each tensor."""
        call, needed, (upstream, *tensors) = ctx.call, ctx.needed, ctx.saved_tensors
        if all(v is None for v in flowing):
            return (None,) * (3 + len(tensors))
        given = iter(flowing)
        vectors = [next(given) if needs else None for needs in needed]
        vectors = [torch.zeros_like(x) if v is None else v for v, x in zip(vectors, tensors, strict=True)]
        recorded = torch.is_grad_enabled()
        by_upstream = None
        if ctx.needs_input_grad[2]:
            unit = torch.ones_like(upstream)
            gradients = _Gradient.apply(call, needed, unit, *tensors) if recorded else None
            if gradients is None:
                found = call.gradients(tensors, unit, needed)
                gradients = [x for x, needs in zip(found, needed, strict=True) if needs]
            by_upstream = sum((g * v).sum() for g, v in zip(gradients, flowing, strict=True) if v is not None)
        products = call.times_hessian(tensors, vectors, upstream, recorded)
        return None, None, by_upstream, *(x if needs else None for x, needs in zip(products, needed, strict=True))


class _Transformed(HandDerived):
    """The same for `torch.func` and for forward mode, which PyTorch's compiler does not know."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: _TorchCall, *tensors: Any) -> Any:  # type: ignore[override]  # what `setup_context` asks for
        return call.evaluate(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Any) -> Any:
        tensors, moved = ctx.saved_tensors, [t is not None for t in tangents]
        gradients = ctx.call.gradients(tensors, tensors[0].new_ones(()), moved)
        return sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True) if t is not None)


# what `apply` ends in outside of transforms; it first looks for the defaults of `forward`, which takes longer
_apply = super(torch.autograd.Function, HandDerived).apply


def _scaled(gradients: list[Any], upstream: Any) -> list[Any] | None:
    """Return the gradients times the gradient that flows in, in their own memory; None for an infinite factor.

    An infinite factor would turn the 0 of an element of weight 0 into NaN.
    """
    if not _is_on_host(upstream):
        return [x if x is None else x.mul_(upstream) for x in gradients]
    factor = upstream.item()
    if factor == 1.0:
        return gradients
    return [x if x is None else x.mul_(factor) for x in gradients] if math.isfinite(factor) else None
