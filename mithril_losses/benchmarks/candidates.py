"""The candidates: each prepares what it needs, which is not measured, and returns value and gradient per call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np

from mithril_losses.autodiff import plain_functions
from mithril_losses.backends.namespaces import Array
from mithril_losses.backends.threads import share
from mithril_losses.benchmarks.problems import Case
from mithril_losses.catalogue import find_loss
from mithril_losses.execution import value_and_gradient

Device = Literal["cpu", "cuda"]
Memory = Literal["fresh", "warm", "huge"]
Arrays = Sequence[Array]
Call = Callable[[], tuple[Any, Any]]


class Setting(NamedTuple):
    """The setting of all candidates.

    Attributes:
        threads: how many there are on the CPU.
        device: where the arrays are.
        memory: what results are written into: "fresh" pages from the system; "warm" memory that an earlier result had,
            where a candidate can keep it; or fresh pages with an allocator that asks for "huge" ones.
    """

    threads: int
    device: Device = "cpu"
    memory: Memory = "fresh"


@dataclass(frozen=True)
class Candidate:
    """One way to compute a value and its gradient.

    Attributes:
        name: the name in tables and in `--candidate`.
        kind: "ours", "peer" (what a user would pick instead), "plain" (our functions one after the other) or "bound".
        prepare: for a case, its arrays and the setting, returns the call that is measured.
        needs: the libraries without which it is left out.
        devices: the devices on which it runs.
        applies: whether it can compute a case.
    """

    name: str
    kind: Literal["ours", "peer", "plain", "bound"]
    prepare: Callable[[Case, Arrays, Setting], Call]
    needs: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ("cpu",)
    applies: Callable[[Case], bool] = lambda case: True

    @property
    def missing(self) -> str:
        """The first library that is needed and not installed, or nothing."""
        return next((library for library in self.needs if find_spec(library) is None), "")


def candidates_for(case: Case, device: Device) -> list[Candidate]:
    """Return the candidates of a case, installed or not."""
    return [
        candidate
        for candidate in CANDIDATES
        if device in candidate.devices and candidate.applies(case) and (candidate.kind == "ours" or not case.ours_alone)
    ]


def to_numpy(result: tuple[Any, Any]) -> tuple[float, list[Array]]:
    """Return the value and the gradients that a call gave, of whatever library, as NumPy arrays."""
    value, gradient = result
    value = value[0] if isinstance(value, tuple) else value  # the total and its parts
    if isinstance(gradient, Mapping):
        gradient = list(gradient.values())
    gradients = gradient if isinstance(gradient, (list, tuple)) else [gradient]
    return float(value), [np.asarray(g.cpu() if hasattr(g, "cpu") else g) for g in gradients]


# --- ours -------------------------------------------------------------------------------------------------------------


def _ours(case: Case, arrays: Arrays, setting: Setting, *, compile: bool | None = None) -> Call:
    both: Any = value_and_gradient(find_loss(case.problem.loss).value, threads=setting.threads, compile=compile)
    return functools.partial(both, *arrays, **case.problem.options)


def _ours_torch(case: Case, arrays: Arrays, setting: Setting, *, compile: bool | None = None) -> Call:
    return _ours(case, _tensors(arrays, setting), setting, compile=compile)


def _ours_jax(case: Case, arrays: Arrays, setting: Setting) -> Call:
    pair = find_loss(case.problem.loss)
    both: Any = value_and_gradient(pair.value)
    call = _finished(functools.partial(both, *_jax_arrays(arrays), **case.problem.options))
    if len(case.wrt) < 2:
        return call

    def in_order() -> tuple[Any, Any]:
        value, gradients = call()
        return value, {name: gradients[name] for name in pair.wrt if name in gradients}  # JAX sorts them

    return in_order


def _ours_backward(case: Case, arrays: Arrays, setting: Setting) -> Call:
    return _backward(own_loss(case), case, arrays, setting)


def _ours_jax_grad(case: Case, arrays: Arrays, setting: Setting) -> Call:
    return _jax_grad(own_loss(case), case, arrays)


def own_loss(case: Case) -> Callable[..., Any]:
    """Return the public function, as a framework differentiates it."""
    pair = find_loss(case.problem.loss)
    return lambda *arrays: pair.total_of(pair.value(*arrays, **case.problem.options))


def _numpy_plain(case: Case, arrays: Arrays, setting: Setting) -> Call:
    pair, options = find_loss(case.problem.loss), case.problem.options

    def call() -> tuple[Any, Any]:
        with plain_functions():
            return pair.value(*arrays, **options), pair.gradient(*arrays, **options)

    return call


# --- peers ------------------------------------------------------------------------------------------------------------


def _torch_eager(case: Case, arrays: Arrays, setting: Setting) -> Call:
    import torch

    return _backward(functools.partial(case.problem.torch, torch, **case.problem.options), case, arrays, setting)


def _torch_compile(case: Case, arrays: Arrays, setting: Setting) -> Call:
    import torch

    mean = functools.partial(case.problem.torch_compile or case.problem.torch, torch, **case.problem.options)
    # one graph of both: faster than a compiled loss whose backward pass is compiled separately
    both = torch.compile(torch.func.grad_and_value(mean, argnums=case.wrt))
    tensors = _tensors(arrays, setting)

    def call() -> tuple[Any, Any]:
        gradients, value = both(*tensors)
        return value, gradients

    return call


def _jax_jit(case: Case, arrays: Arrays, setting: Setting, *, library: str = "jax") -> Call:
    import importlib

    expression: Any = getattr(case.problem, library)
    mean = functools.partial(expression, importlib.import_module(library), **case.problem.options)
    return _jax_grad(mean, case, arrays)


def _scikit_learn(case: Case, arrays: Arrays, setting: Setting) -> Call:
    from sklearn._loss import loss as losses

    assert case.problem.scikit_learn is not None
    loss, factor = case.problem.scikit_learn(losses, *arrays)
    predictions, targets = arrays
    scores = predictions if loss.is_multiclass else predictions.reshape(-1)
    truth = targets.reshape(-1).astype(np.float32)
    share = np.float32(factor / truth.size)
    into: dict[str, Any] = {}
    if setting.memory == "warm":
        into = {"loss_out": np.empty_like(truth), "gradient_out": np.empty_like(scores)}

    def call() -> tuple[Any, Any]:
        values, gradient = loss.loss_gradient(truth, scores, n_threads=setting.threads, **into)
        gradient *= share
        return values.mean() * factor, gradient.reshape(predictions.shape)

    return call


# --- the bound --------------------------------------------------------------------------------------------------------


def _copy(case: Case, arrays: Arrays, setting: Setting) -> Call:
    """Read every input of the gradient's shape once, and write as many bytes as the gradients have."""
    first, *others = [x for x in arrays if x.shape == arrays[0].shape]
    count = sum(arrays[i].shape == first.shape for i in case.wrt)
    if setting.device == "cuda":
        return _copy_on_device(_tensors([first, *others], setting), count)
    flat = [x.reshape(-1) for x in (first, *others)]
    step = -(-first.size // setting.threads)
    kept = [np.zeros_like(first) for _ in range(count)] if setting.memory == "warm" else None

    def call() -> tuple[Any, Any]:
        outputs = kept or [np.empty_like(first) for _ in range(count)]

        def part(i: int) -> None:
            here = slice(i * step, (i + 1) * step)
            _sum_into(outputs[0].reshape(-1)[here], [x[here] for x in flat])
            for out in outputs[1:]:
                out.reshape(-1)[here] = 0.0

        share(setting.threads, part, setting.threads)
        return 0.0, outputs

    return call


def _sum_into(out: Array, arrays: Arrays) -> None:
    if len(arrays) == 1:
        np.copyto(out, arrays[0])
    else:
        np.add(arrays[0], arrays[1], out=out)
        for other in arrays[2:]:
            np.max(other)  # only read


def _copy_on_device(tensors: Arrays, count: int) -> Call:
    first, *others = tensors
    return lambda: (0.0, [first + others[0] if others else first.clone(), *(x.clone() for x in others[1:count])])


# --- shared -----------------------------------------------------------------------------------------------------------


def _tensors(arrays: Arrays, setting: Setting) -> list[Any]:
    import torch

    torch.set_num_threads(setting.threads)
    return [torch.from_numpy(x).to(setting.device) for x in arrays]


def _jax_arrays(arrays: Arrays) -> list[Any]:
    import jax

    return [jax.numpy.asarray(x) for x in arrays]


def _backward(mean: Callable[..., Any], case: Case, arrays: Arrays, setting: Setting) -> Call:
    """Return the call that a training loop makes: `backward()` puts the gradients of a loss into leaves of its graph.

    The gradients are taken away from the leaves, so that no call finds one to add to; they are freed like all results.
    """
    tensors = _tensors(arrays, setting)
    leaves = [tensors[i].requires_grad_() for i in case.wrt]

    def call() -> tuple[Any, Any]:
        value = mean(*tensors)
        value.backward()
        gradients = [x.grad for x in leaves]
        for x in leaves:
            x.grad = None
        return value.detach(), gradients

    return call


def _jax_grad(mean: Callable[..., Any], case: Case, arrays: Arrays) -> Call:
    import jax

    return _finished(functools.partial(jax.jit(jax.value_and_grad(mean, argnums=case.wrt)), *_jax_arrays(arrays)))


def _finished(call: Call) -> Call:
    """Return the call that waits for its results, which JAX computes asynchronously."""
    import jax

    return lambda: jax.block_until_ready(call())


def _in_tiers(case: Case) -> bool:
    return case.problem.streams and case.size != "small"


CANDIDATES = (
    Candidate("copy", "bound", _copy, devices=("cpu", "cuda"), applies=_in_tiers),
    Candidate("ours-numpy-fused", "ours", _ours, needs=("numba",), applies=_in_tiers),
    Candidate("ours-numpy-blocked", "ours", functools.partial(_ours, compile=False), applies=_in_tiers),
    Candidate("ours-numpy", "ours", _ours, applies=lambda case: not _in_tiers(case)),
    Candidate("ours-torch", "ours", _ours_torch, needs=("torch",), devices=("cpu", "cuda")),
    Candidate(
        "ours-torch-eager",
        "ours",
        functools.partial(_ours_torch, compile=False),
        needs=("torch",),
        devices=("cuda",),
    ),
    Candidate("ours-backward", "ours", _ours_backward, needs=("torch",), devices=("cpu", "cuda")),
    Candidate("ours-jax", "ours", _ours_jax, needs=("jax",)),
    Candidate("ours-jax-grad", "ours", _ours_jax_grad, needs=("jax",)),
    Candidate("numpy-plain", "plain", _numpy_plain),
    Candidate("torch-eager", "peer", _torch_eager, needs=("torch",), devices=("cpu", "cuda")),
    Candidate(
        "torch-compile",
        "peer",
        _torch_compile,
        needs=("torch",),
        devices=("cpu", "cuda"),
        applies=lambda case: (
            not case.problem.drawn
        ),  # PyTorch's compiler would be given our gradient, not the plain loss
    ),
    Candidate("jax-jit", "peer", _jax_jit, needs=("jax",)),
    Candidate(
        "jax-jit-optax",
        "peer",
        functools.partial(_jax_jit, library="optax"),
        needs=("jax", "optax"),
        applies=lambda case: case.problem.optax is not None,
    ),
    Candidate(
        "scikit-learn",
        "peer",
        _scikit_learn,
        needs=("sklearn",),
        applies=lambda case: case.problem.scikit_learn is not None,
    ),
)
