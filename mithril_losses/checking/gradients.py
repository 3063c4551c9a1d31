"""Checks of hand-derived gradients, for the catalogue and for a user's own pairs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mithril_losses.autodiff import plain_functions
from mithril_losses.backends.namespaces import Array, is_dtype, library_name, namespace_of, placement
from mithril_losses.catalogue import Pair, catalogue, find_loss
from mithril_losses.checking.drawing import draw_arguments
from mithril_losses.domains import unenforced
from mithril_losses.numerics.trees import leaves, map_leaves

__all__ = ["GradientCheck", "GradientMismatchError", "check_catalogue", "check_gradient"]

# in units of the expression of a kink: nearer elements are left out of the comparison
_KINK_DISTANCE = 1e-2
_STEPS = (1e-3, 5e-4, 2.5e-4)


class GradientMismatchError(AssertionError):
    """A hand-derived gradient is not the derivative of its loss."""


@dataclass(frozen=True)
class GradientCheck:
    """The result of `check_gradient`.

    Attributes:
        loss: the name of the loss.
        errors: the largest error of any element, by method ("jax.grad", "torch.autograd", "central differences"),
            relative to the largest element of the gradient.
        order: the order in which the Taylor remainder vanishes; 2 for a right gradient (infinite if it is 0).
        compared: the number of elements that were compared.
        left_out: the number of elements that are too near a kink.
    """

    loss: str
    errors: dict[str, float]
    order: float
    compared: int
    left_out: int

    @property
    def worst(self) -> float:
        """The largest error of any method."""
        return max(self.errors.values(), default=0.0)


def check_gradient(
    loss: str | Callable[..., Any],
    *arguments: Any,
    gradient: Callable[..., Any] | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
    differences: bool = True,
    **options: Any,
) -> GradientCheck:
    """Check the gradient of a loss at the given arguments, in float64, away from the loss's declared kinks.

    The gradient is compared with the library's autodiff of the plain function if it has one (`jax.grad`,
    `torch.autograd`), and element by element with central differences. The Taylor remainder
    |L(x + h d) − L(x) − h g·d| along a random direction d must vanish like h².

    Args:
        loss: a registered loss, its name, or, with `gradient=`, any function.
        *arguments: the array arguments of the loss, of any library and any floating type; by position or by name.
        gradient: the gradient, if the loss is not registered. It is taken wrt the first argument, or wrt the arguments
            that its dict names.
        tolerance: the largest accepted error of an element, relative to the largest element of the gradient.
        seed: the seed of the random direction.
        differences: whether to compute central differences, which cost four evaluations of the loss for each element.
        **options: passed to the loss and to its gradient: options of the loss, reduction, weights, …

    Returns:
        The measured errors, all of them within `tolerance`.

    Raises:
        GradientMismatchError: the gradient is wrong. The message names the argument, the element and both numbers.
        ValueError: the loss has no gradient, or every element lies on a kink.

    Example:
        >>> import numpy as np
        >>> from mithril_losses import huber_loss
        >>> check = check_gradient(huber_loss, np.array([0.3, -2.0]), np.array([0.1, 0.5]), delta=0.7)
        >>> check.worst < 1e-8
        True
        >>> check_gradient(
        ...     lambda predictions, targets: ((predictions - targets) ** 2).sum(),
        ...     np.array([3.0]),
        ...     np.array([1.0]),
        ...     gradient=lambda predictions, targets: predictions - targets,
        ... )
        Traceback (most recent call last):
        ...
        mithril_losses.checking.gradients.GradientMismatchError: <lambda>: gradient wrt predictions, element (0,), is \
2 by the gradient function, but 4 by central differences
    """
    pair = (
        Pair(name=getattr(loss, "__name__", "loss"), value=loss, gradient=gradient, wrt=())  # type: ignore[arg-type]
        if gradient is not None
        else find_loss(loss)
    )
    by_name = [name for name in pair.array_arguments[len(arguments) :] if name in options]
    arguments += tuple(options.pop(name) for name in by_name)
    with double_precision(arguments):
        problem = _Problem.of(pair, arguments, options)
        return _check(problem, tolerance, seed, differences)


def check_catalogue(
    names: Iterable[str] = (),
    *,
    backend: str = "numpy",
    device: str | None = None,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> Iterator[GradientCheck | Exception]:
    """Check registered losses at arguments drawn from their domains: yields a check, or the error, for each loss.

    Args:
        names: the names of the losses; all by default.
        backend: "numpy", "jax" or "torch": the library of the arrays, and so of the autodiff.
        device: the device of the arrays, such as "cuda"; by default that of the library.
        seed: the seed of the arguments.
        tolerance: as in `check_gradient`.

    Raises:
        ValueError: there is no such loss, or no such device.
    """
    from mithril_losses.backends import get_backend

    library = get_backend(backend, dtype="float64", device=device)
    for pair in [find_loss(name) for name in names] or list(catalogue().values()):
        arrays, options = draw_arguments(pair, np.random.default_rng(seed))
        arguments = [map_leaves(lambda _, x: library.from_numpy(x), x) for x in arrays.values()]
        try:
            yield check_gradient(pair.value, *arguments, tolerance=tolerance, seed=seed, **options)
        except Exception as error:
            yield error


# --- the problem: a scalar function of some arguments, in float64 --------------------------------------------------


@dataclass
class _Problem:
    name: str
    value: Callable[[dict[str, Any]], Any]  # arguments by name → a scalar of the library
    arguments: dict[str, Any]
    gradients: dict[str, Any]  # by path of the leaf
    masks: dict[str, np.ndarray] = field(default_factory=dict)  # by path: which elements are not near a kink

    @staticmethod
    def of(pair: Pair, arguments: Sequence[Any], options: dict[str, Any]) -> _Problem:
        positional = [name for name, p in pair.parameters.items() if p.kind is not p.KEYWORD_ONLY]
        names = positional[: len(arguments)]
        names += [f"argument {i}" for i in range(len(names), len(arguments))]  # of a loss that takes *arguments
        named = {name: map_leaves(lambda _, x: as_double(x), x) for name, x in zip(names, arguments, strict=True)}
        optional = [name for name in pair.wrt if name in pair.options and options.get(name) is not None]
        named |= {name: as_double(options.pop(name)) for name in optional}
        upstream = options.pop("upstream", None)
        wanted = options.get("wrt")
        plain = {name: option for name, option in options.items() if name != "wrt"}

        def value(at: dict[str, Any]) -> Any:
            returned = pair.value(*[at[name] for name in names], **{name: at[name] for name in optional}, **plain)
            result = pair.total_of(returned)
            if upstream is not None:
                result = result * upstream
            xp = namespace_of(result)
            return result if xp is None or result.ndim == 0 else xp.sum(result)

        by_name = {name: named[name] for name in optional} | ({} if upstream is None else {"upstream": upstream})
        found = pair.gradient(*[named[name] for name in names], **by_name, **options)
        by_argument = _by_argument(pair, found, named, wanted)
        problem = _Problem(pair.name, value, named, {})
        if not by_argument.keys() <= named.keys():
            raise GradientMismatchError(
                f"{pair.name}: the gradient has the keys {list(by_argument)}, but the arguments are {names}"
            )
        for name, gradient in by_argument.items():
            expected, given = dict(leaves(named[name], name)), dict(leaves(gradient, name))
            if expected.keys() != given.keys():
                raise GradientMismatchError(
                    f"{pair.name}: gradient wrt {name} has the arrays {list(given)}, the argument {list(expected)}"
                )
            for path, x in expected.items():
                g = given[path]
                if namespace_of(g) is None:
                    raise GradientMismatchError(f"{pair.name}: gradient wrt {path} is not an array but {g!r}")
                if tuple(x.shape) != tuple(g.shape):
                    raise GradientMismatchError(
                        f"{pair.name}: gradient wrt {path} has shape {tuple(g.shape)}, the argument {tuple(x.shape)}"
                    )
                problem.gradients[path] = to_numpy(g)
                problem.masks[path] = np.ones(tuple(x.shape), dtype=bool)
        on_host = map_leaves(lambda _, x: _on_host(x), {"arrays": [named[name] for name in names], "options": plain})
        problem._mask_kinks(pair.kinks_at(on_host["arrays"], on_host["options"]))
        return problem

    def _mask_kinks(self, distances: Iterable[Any]) -> None:
        """Leave out the elements, or whole rows, at which the expression of a kink nearly vanishes."""
        for distance in map(to_numpy, distances):
            near = np.abs(distance) < _KINK_DISTANCE
            for mask in self.masks.values():
                if near.shape == mask.shape[: near.ndim]:
                    mask[near] = False

    def leaf(self, path: str) -> Any:
        return dict(self._leaves())[path]

    def replaced(self, leaves_by_path: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with some of their leaves replaced."""
        return {
            name: map_leaves(lambda path, x: leaves_by_path.get(path, x), x, name) for name, x in self.arguments.items()
        }

    def moved(self, path: str, delta: np.ndarray) -> float:
        """Return the loss with one leaf moved by `delta`."""
        x = self.leaf(path)
        with unenforced():
            return float(self.value(self.replaced({path: x + _like(delta, x)})))

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        for name, x in self.arguments.items():
            yield from leaves(x, name)


def _by_argument(pair: Pair, found: Any, named: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
    names = list(named)
    # a dict is by argument, unless the first argument is itself a dict
    by_name = isinstance(found, Mapping) and not isinstance(named[names[0]], Mapping)
    if isinstance(wanted, str):
        return {wanted: found}
    if isinstance(wanted, tuple) or len(pair.wrt) > 1 or (not pair.wrt and by_name):
        return dict(found)
    return {pair.wrt[0] if pair.wrt and pair.wrt[0] in names else names[0]: found}


# --- the three kinds of evidence ------------------------------------------------------------------------------------


def _check(problem: _Problem, tolerance: float, seed: int, differences: bool) -> GradientCheck:
    compared = sum(int(mask.sum()) for mask in problem.masks.values())
    total = sum(mask.size for mask in problem.masks.values())
    if total == 0:
        raise ValueError(f"{problem.name}: the arguments have no elements")
    if compared == 0:
        raise ValueError(f"{problem.name}: every element lies on a kink, so there is no derivative to compare with")
    errors = {}
    by_differences = [("central differences", _central_differences(problem))] if differences else []
    for method, derivative in (*_autodiff(problem), *by_differences):
        errors[method] = max(_compare(problem, path, method, derivative[path], tolerance) for path in derivative)
    return GradientCheck(problem.name, errors, _taylor_order(problem, seed), compared, total - compared)


def _compare(problem: _Problem, path: str, method: str, expected: np.ndarray, tolerance: float) -> float:
    gradient, mask = problem.gradients[path], problem.masks[path]
    if not mask.any():
        return 0.0
    scale = max(float(np.abs(expected[mask]).max()), float(np.abs(gradient[mask]).max()), 1e-30)
    # central differences cannot be more accurate than the rounding of the loss
    with np.errstate(invalid="ignore"):
        errors = np.where(mask & (gradient != expected), np.abs(gradient - expected) / scale, 0.0)
    errors = np.where(np.isnan(errors), math.inf, errors)
    worst = np.unravel_index(int(np.argmax(errors)), errors.shape)
    if errors[worst] > tolerance:
        raise GradientMismatchError(
            f"{problem.name}: gradient wrt {path}, element {tuple(map(int, worst))}, is {gradient[worst]:.10g} by the "
            f"gradient function, but {expected[worst]:.10g} by {method}"
        )
    return float(errors[worst])


def _autodiff(problem: _Problem) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return what the library's autodiff makes of the plain function; it is given the gradient of the public one."""
    with plain_functions():
        return list(_derivatives(problem))


def _derivatives(problem: _Problem) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    paths = list(problem.gradients)
    variables = {path: problem.leaf(path) for path in paths}
    library = library_name(namespace_of(variables[paths[0]]))
    if library == "jax":
        jax = sys.modules["jax"]
        derivative = jax.grad(lambda at: problem.value(problem.replaced(at)))(variables)
        yield "jax.grad", {path: to_numpy(derivative[path]) for path in paths}
    elif library == "torch":
        torch = sys.modules["torch"]
        at = {path: x.detach().clone().requires_grad_(True) for path, x in variables.items()}
        value = problem.value(problem.replaced(at))
        derivatives = torch.autograd.grad(value, list(at.values()), allow_unused=True, materialize_grads=True)
        yield "torch.autograd", {path: to_numpy(g) for path, g in zip(paths, derivatives, strict=True)}


def _central_differences(problem: _Problem) -> dict[str, np.ndarray]:
    derivatives = {}
    for path, mask in problem.masks.items():
        x = to_numpy(problem.leaf(path))
        derivative = np.zeros(mask.shape)
        for index in zip(*np.nonzero(mask), strict=True) if mask.ndim else [()]:
            step = np.zeros(mask.shape)
            step[index] = 1e-5 * max(1.0, abs(float(x[index])))
            # Richardson's extrapolation of two central differences is exact to the fourth order
            near = (problem.moved(path, step) - problem.moved(path, -step)) / (2.0 * step[index])
            far = (problem.moved(path, 2.0 * step) - problem.moved(path, -2.0 * step)) / (4.0 * step[index])
            derivative[index] = (4.0 * near - far) / 3.0
        derivatives[path] = derivative
    return derivatives


def _taylor_order(problem: _Problem, seed: int) -> float:
    """Return the order in which the Taylor remainder vanishes along a random direction.

    Raises:
        GradientMismatchError: the remainder vanishes no faster than the step.
    """
    generator = np.random.default_rng(seed)
    directions, slope = {}, 0.0
    for path, mask in problem.masks.items():
        directions[path] = np.where(mask, generator.uniform(-1.0, 1.0, mask.shape), 0.0)
        slope += float(np.sum(np.where(mask, problem.gradients[path], 0.0) * directions[path]))
    start = float(problem.value(problem.arguments))
    remainders, rounding = [], 1e-12 * max(abs(start), 1e-3)
    for step in _STEPS:
        moved = {path: problem.leaf(path) + _like(step * d, problem.leaf(path)) for path, d in directions.items()}
        with unenforced():
            remainders.append(abs(float(problem.value(problem.replaced(moved))) - start - step * slope))
    if remainders[0] <= rounding or remainders[-1] <= rounding:
        return math.inf
    order = math.log(remainders[0] / remainders[-1]) / math.log(_STEPS[0] / _STEPS[-1])
    if order < 1.5:
        raise GradientMismatchError(
            f"{problem.name}: the Taylor remainder along a random direction vanishes with order {order:.2f}, not 2: "
            f"{', '.join(f'{r:.3g} at step {h:g}' for r, h in zip(remainders, _STEPS, strict=True))}"
        )
    return order


# --- arrays ---------------------------------------------------------------------------------------------------------


def as_double(x: Any) -> Any:
    """Return floating arrays in float64, and everything else unchanged."""
    xp = namespace_of(x)
    if xp is None or not is_dtype(xp, x.dtype, "real floating"):
        return x
    return xp.astype(x.detach() if library_name(xp) == "torch" else x, xp.float64)


def to_numpy(x: Any) -> np.ndarray:
    return np.array(x.detach().cpu().numpy() if hasattr(x, "detach") else x, dtype=np.float64)


def _on_host(x: Any) -> Any:
    """Return arrays of an accelerator in the memory of the host, and everything else unchanged."""
    xp = namespace_of(x)
    match None if xp is None else library_name(xp):
        case "torch":
            return x.cpu()
        case "jax":
            jax = sys.modules["jax"]
            return jax.device_put(x, jax.devices("cpu")[0])
    return x


def _like(values: np.ndarray, x: Array) -> Array:
    xp = namespace_of(x)
    return values if xp is np else xp.asarray(values, dtype=x.dtype, **placement(x))  # type: ignore[union-attr]


def double_precision(arguments: Sequence[Any]) -> Any:
    """Return a context in which JAX computes in float64, if the arguments are JAX arrays."""
    import contextlib

    first = next((leaf for x in arguments for _, leaf in leaves(x)), None)
    if first is not None and (xp := namespace_of(first)) is not None and library_name(xp) == "jax":
        return sys.modules["jax"].enable_x64(True)
    return contextlib.nullcontext()
