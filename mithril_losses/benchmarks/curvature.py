"""Hessian-vector products against what other libraries offer: the time of a product over that of the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mithril_losses.benchmarks.candidates import Arrays, Call, Candidate, Setting, own_loss
from mithril_losses.benchmarks.families import all_cases
from mithril_losses.benchmarks.measuring import Timing, time_candidates
from mithril_losses.benchmarks.problems import Case
from mithril_losses.catalogue import find_loss
from mithril_losses.execution import value_and_gradient
from mithril_losses.execution.curvature import has_curvature, hessian_vector_product

Times = dict[str, Timing | str]

_PAGE = """# Hessian-vector products

Written by `mithril-losses bench --curvature --report docs/benchmarks-curvature.md`, with {threads} threads.

Times of one product with a vector, in milliseconds, and in brackets over the time of our own value and gradient of the
same loss. Arrays are float32. A candidate counts only where its product agrees with ours.

* `gradient`: `value_and_gradient` of the same arrays, fused; it reads one array less than a product.
* `ours-numpy-fused`, `ours-numpy-blocked`: `hessian_vector_product` with the extra `fast`, and without it.
* `ours-torch-backward`: `torch.autograd.grad` twice of our loss, with `create_graph=True`.
* `ours-jax-jit`: `jax.jit` of `jax.jvp(jax.grad(loss))` of our loss.
* `torch-double-backward`, `jax-forward-over-reverse`: the same two of the loss in `torch.nn.functional`, or of the
  textbook expression.

| case | {names} |
|---|{right}|
{rows}
{reasons}"""


def cases() -> list[Case]:
    """Return the cases of medium size of all losses of one array that have a curvature, and large softmax losses."""
    return [
        case
        for case in all_cases()
        if case.wrt == (0,)
        and has_curvature(find_loss(case.problem.loss))
        and (case.size == "medium" or (case.size == "large" and case.problem.loss == "cross_entropy_with_logits"))
    ]


def measure(setting: Setting, seconds: float) -> Iterator[tuple[Case, Times]]:
    """Yield each case with the times of all candidates, or the reasons why there are none."""
    for case in cases():
        found: Times = {c.name: f"{c.missing} is not installed" for c in CANDIDATES if c.missing}
        yield case, found | time_candidates(case, [c for c in CANDIDATES if not c.missing], setting, seconds)


def page(found: list[tuple[Case, Times]], setting: Setting) -> str:
    """Return the page in Markdown."""
    names = [candidate.name for candidate in CANDIDATES]
    rows, reasons = [], []
    for case, times in found:
        unit = times["gradient"]
        cells = []
        for name in names:
            time = times[name]
            if isinstance(time, str):
                cells.append("–")
                reasons.append(f"* {case.name}, `{name}`: {time}")
            else:
                ratio = f" ({time.median / unit.median:.2f})" if isinstance(unit, Timing) and name != "gradient" else ""
                cells.append(f"{1e3 * time.median:.3g}{ratio}")
        rows.append(" | ".join([f"| {case.name}", *cells]) + " |")
    return _PAGE.format(
        threads=setting.threads,
        names=" | ".join(names),
        right="|".join(["---:"] * len(names)),
        rows="\n".join(rows),
        reasons="\n".join(["", "Not measured:", "", *reasons, ""]) if reasons else "",
    )


# --- candidates -------------------------------------------------------------------------------------------------------


def _vector(arrays: Arrays) -> Any:
    return np.random.default_rng(1).standard_normal(arrays[0].shape, dtype=np.float32)


def _gradient(case: Case, arrays: Arrays, setting: Setting) -> Call:
    both: Any = value_and_gradient(find_loss(case.problem.loss), threads=setting.threads)
    return functools.partial(both, *arrays, **case.problem.options)


def _ours(case: Case, arrays: Arrays, setting: Setting, *, compile: bool | None = None) -> Call:
    product = hessian_vector_product(find_loss(case.problem.loss), threads=setting.threads, compile=compile)
    vector = _vector(arrays)
    return lambda: (0.0, product(*arrays, vector=vector, **case.problem.options))


def _torch(case: Case, arrays: Arrays, setting: Setting, *, loss: Callable[[Case], Callable[..., Any]]) -> Call:
    import torch

    torch.set_num_threads(setting.threads)
    mean, vector = loss(case), torch.from_numpy(_vector(arrays))
    first, *others = (torch.from_numpy(x) for x in arrays)
    first.requires_grad_()

    def call() -> tuple[Any, Any]:
        (gradient,) = torch.autograd.grad(mean(first, *others), first, create_graph=True)
        (product,) = torch.autograd.grad(gradient, first, vector)
        return 0.0, product

    return call


def _jax(case: Case, arrays: Arrays, setting: Setting, *, loss: Callable[[Case], Callable[..., Any]]) -> Call:
    import jax

    mean, vector = loss(case), jax.numpy.asarray(_vector(arrays))
    given = [jax.numpy.asarray(x) for x in arrays]

    def product(first: Any, vector: Any, *others: Any) -> Any:
        return jax.jvp(lambda x: jax.grad(mean)(x, *others), (first,), (vector,))[1]

    compiled = jax.jit(product)
    return lambda: (0.0, jax.block_until_ready(compiled(given[0], vector, *given[1:])))


def _of_torch(case: Case) -> Callable[..., Any]:
    import torch

    return functools.partial(case.problem.torch, torch, **case.problem.options)


def _of_jax(case: Case) -> Callable[..., Any]:
    import jax

    return functools.partial(case.problem.jax, jax, **case.problem.options)


_TORCH = Candidate("torch-double-backward", "peer", functools.partial(_torch, loss=_of_torch), needs=("torch",))
_JAX = Candidate("jax-forward-over-reverse", "peer", functools.partial(_jax, loss=_of_jax), needs=("jax",))
CANDIDATES = (
    Candidate("gradient", "bound", _gradient),
    Candidate("ours-numpy-fused", "ours", _ours, needs=("numba",)),
    Candidate("ours-numpy-blocked", "ours", functools.partial(_ours, compile=False)),
    replace(_TORCH, name="ours-torch-backward", kind="ours", prepare=functools.partial(_torch, loss=own_loss)),
    replace(_JAX, name="ours-jax-jit", kind="ours", prepare=functools.partial(_jax, loss=own_loss)),
    _TORCH,
    _JAX,
)
