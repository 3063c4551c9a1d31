"""Losses as one function that knows nothing of reductions: it returns unreduced losses, and a function of their slopes.

`Elementwise` is for losses whose elements are independent; `Unreduced` is for all others. Both are reduced in the same
way. `Reduced` is for losses that do their own reduction.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from mithril_losses.autodiff import large_gradient
from mithril_losses.autodiff.on_demand import differentiable_on_demand
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, host_values, is_dtype, library_name, namespace_of
from mithril_losses.backends.namespaces.numpy import quiet as without_warnings
from mithril_losses.domains import ClassNumbers, PerClass, PointSets, array_names, checked, enforced
from mithril_losses.numerics.reduction import Plan, plan
from mithril_losses.numerics.trees import first_array, leaves, map_leaves
from mithril_losses.numerics.validation import as_dtype, quiet
from mithril_losses.shards import resolve
from mithril_losses.templates.base import Template
from mithril_losses.templates.loop import Loop


class Wanted(tuple[str, ...]):
    """The names of the arguments whose slopes are wanted: none if only the value is.

    Attributes:
        value: whether the values are wanted, too. If not, only their shape and dtype matter.
    """

    value = True


class SlopesAlone(Wanted):
    """The same without the values."""

    value = False


_NOTHING = Wanted()
_NUMBERS = ("real floating", "integral", "bool")
_PLAIN = {bool, float, int, str, type(None)}  # of options that never change


Named = Mapping[str, Any]  # arrays by the names of the arguments


class Curvature(NamedTuple):
    """The second derivatives of unreduced losses: H of each loss, with the rows of its arguments as `slopes` have them.

    Attributes:
        product: returns H v, by the name of the argument, for vectors v by name.
        diagonal: returns the diagonal of H.
        bound: returns the diagonal matrix D ≥ 0 for which D − H has no negative eigenvalue; None if none is known.
        factor: returns B w for a matrix with B Bᵀ = H; None if H has negative eigenvalues.
        transposed: returns Bᵀ v.
        fisher: the same for the Fisher information, if it differs from H.
        pull: takes the vectors and weighted products back to the argument, if not as slopes are.
        diagonal_pull: takes a weighted diagonal back to the argument, whose losses share elements.
        stacked: whether the products and the diagonal have one more axis, the last one, for their pull.
    """

    product: Callable[[Named], Named]
    diagonal: Callable[[], Named]
    bound: Callable[[], Named] | None = None
    factor: Callable[[Named], Named] | None = None
    transposed: Callable[[Named], Named] | None = None
    fisher: Curvature | None = None
    pull: Callable[[Named, Array], Array] | None = None
    diagonal_pull: Callable[[Array], Array] | None = None
    stacked: bool = False

    def closing(self, found: Losses, vectors: Named) -> Losses:
        """Return the losses, with what turns the second derivatives back into those of the argument."""
        pull = self.diagonal_pull
        if vectors:
            pull = None if self.pull is None else functools.partial(self.pull, vectors)
        axes = (*(found.summed or ()), -1) if self.stacked else found.summed
        return found._replace(pull=pull or found.pull, summed=axes)


class Losses(NamedTuple):
    """The unreduced losses of one call.

    Attributes:
        values: ℓ, in the dtype to compute in.
        slopes: returns ∂ℓ/∂x, by the name of x, for each wanted argument; called only for a gradient.
        summed: the axes of x over which a loss is summed, in order; by default all axes that the losses do not have.
        mass: what each loss contributes to the divisor of a mean; 1 by default.
        scaled: returns the slopes times a number, in new arrays, if this needs no additional pass over them.
        pull: if slopes are wrt something computed from an argument (the edges of a mesh), turns weighted slopes into
            slopes wrt the argument. By default slopes are already wrt the argument.
        curvature: returns the second derivatives, wrt the arguments that the gradient is taken with respect to by
            default; called only for them.
    """

    values: Array
    slopes: Callable[[], Mapping[str, Any]]
    summed: tuple[int, ...] | None = None
    mass: Array | None = None
    scaled: Callable[[float], Mapping[str, Any]] | None = None
    pull: Callable[[Array], Array] | None = None
    curvature: Callable[[], Curvature] | None = None


def diagonal_curvature(xp: Any, diagonal: Callable[[], Named], bound: Callable[[], Named] | None = None) -> Curvature:
    """Return the second derivatives of losses whose Hessian is diagonal."""

    def times(vectors: Named) -> Named:
        return {name: _products(h, vectors[name]) for name, h in diagonal().items()}

    def times_root(vectors: Named) -> Named:
        return {
            name: _products(map_leaves(lambda _, x: xp.sqrt(x), h), vectors[name]) for name, h in diagonal().items()
        }

    return Curvature(times, diagonal, bound or diagonal, times_root, times_root)


def _products(x: Any, y: Any) -> Any:
    """Return the products of the arrays of two nestings."""
    others = dict(leaves(y))
    return map_leaves(lambda path, leaf: leaf * others[path], x)


def no_curvature(xp: Any, likes: Named) -> Curvature:
    """Return the second derivatives of losses that are linear around almost every point: 0."""
    return diagonal_curvature(xp, lambda: {name: xp.zeros_like(x) for name, x in likes.items()})


Closed = tuple[Array, dict[str, Array]]  # a reduced loss, and its gradients by name


class Unreduced(Template):
    """A function `(*arrays, *options, wanted) → Losses` as a loss, its gradient, and both at once."""

    takes_wrt = True
    _further: tuple[str, ...] = ("wanted",)  # what the function takes in addition to the arguments of the loss

    def __init__(
        self,
        losses: Callable[..., Any],
        domain: Mapping[str, Any],
        wrt: str | tuple[str, ...] | None,
        on_request: tuple[str, ...],
        kinks: Callable[..., tuple[Any, ...]] | None,
        pairwise: bool,
        curved: bool = False,
        has_fisher: bool = False,
        second_loop: Callable[..., Any] | None = None,
        **how: Any,
    ) -> None:
        super().__init__(**how)
        self.curved, self.has_fisher, self.second_loop = curved, has_fisher, second_loop
        names = list(inspect.signature(losses).parameters)
        self.splits_classes = "shards" in names
        if [name for name in names if name != "shards"] != [*domain, *self._further]:
            raise TypeError(f"{losses.__name__} takes {names}, but domains are declared for {list(domain)}")
        self.losses = losses
        self.domain = dict(domain)
        self._default = names[0] if wrt is None else wrt
        self.wrt = (self._default,) if isinstance(self._default, str) else self._default
        self.on_request = on_request
        self.kinks = kinks
        self._at = {name: position for position, name in enumerate(domain)}
        self._all = Wanted(self.wrt)
        self._arrays = len(array_names(losses.__name__, domain))
        self._options = dict(list(domain.items())[self._arrays :])
        self._held = [(self._at[name], name, domain) for name, domain in enforced(domain).items()]
        self._settled: tuple[Any, ...] = (object(),)  # the checked options of a call, if they never change
        if pairwise:  # replaces the method of this one object, which mypy does not expect
            self.gradient = differentiable_on_demand(self.gradient)  # type: ignore[method-assign]
            self.both = differentiable_on_demand(self.both)  # type: ignore[method-assign]

    def plain_value(self, *arguments: Any, **reduction: Any) -> Array:
        """Return the reduced loss; arrays and options are given in the order of `domain`."""
        if reduction:
            self.require_known(reduction, gradient=False)
        around = None if type(arguments[0]) is np.ndarray else self._around(arguments)
        found: Array = (
            self._value(arguments, reduction) if around is None else around(self.plain_value, reduction, "value")
        )
        return found

    def gradient(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> Any:
        """Return the gradient of `value` wrt one argument, or a dict of gradients by name for a tuple of arguments."""
        if reduction:
            self.require_known(reduction)
        around = None if type(arguments[0]) is np.ndarray else self._around(arguments)
        if around is not None:
            return around(functools.partial(self.gradient, wrt=wrt), reduction, "gradient")
        found = large_gradient(self, arguments, reduction) if wrt is None else None
        return self._gradient(arguments, wrt, reduction) if found is None else found

    def both(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> tuple[Array, Any]:
        """Return `value` and `gradient` from one evaluation."""
        if reduction:
            self.require_known(reduction)
        around = None if type(arguments[0]) is np.ndarray else self._around(arguments)
        if around is None:
            return self._both(arguments, wrt, reduction)
        found: tuple[Array, Any] = around(functools.partial(self.both, wrt=wrt), reduction, "both")
        return found

    def _value(self, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Array:
        first = first_array(arguments[0])
        with quiet_for(first):
            losses, reduction = self.over_shards(arguments, reduction)
            found = losses(*self.checked(arguments), wanted=_NOTHING)
            xp: Any = namespace_of(found.values)
            return plan_of(xp, found, reduction).collect(xp, found.values, first)

    def _gradient(self, arguments: tuple[Any, ...], wrt: Any, reduction: Mapping[str, Any]) -> Any:
        with quiet_for(arguments[0]):
            losses, reduction = self.over_shards(arguments, reduction)
            found = losses(*self.checked(arguments), wanted=SlopesAlone(self.requested(wrt)))
            xp: Any = namespace_of(found.values)
            return self._spread(xp, found, plan_of(xp, found, reduction), arguments, wrt)

    def _both(self, arguments: tuple[Any, ...], wrt: Any, reduction: Mapping[str, Any]) -> tuple[Array, Any]:
        first = first_array(arguments[0])
        with quiet_for(first):
            wanted = self._all if wrt is None else Wanted(self.requested(wrt))
            losses, reduction = self.over_shards(arguments, reduction)
            found = losses(*self.checked(arguments), wanted=wanted)
            xp: Any = namespace_of(found.values)
            closing = plan_of(xp, found, reduction)
            value = closing.collect(xp, found.values, first)
            return value, self._spread(xp, found, closing, arguments, wrt)

    def _around(self, arguments: tuple[Any, ...]) -> Callable[[Callable[..., Any], Mapping[str, Any], str], Any] | None:
        """Return what calls a method of this template for arrays that say themselves how they are sharded, or None.

        It takes the method, the keywords of the reduction, and what the method returns.
        """
        xp = namespace_of(first_array(arguments[0]))
        library = "" if xp is None else library_name(xp)
        if library == "dask":
            return lambda method, reduction, returns: self.in_chunks(
                arguments, {**reduction, **getattr(method, "keywords", {})}, returns
            )
        if library == "jax":
            from mithril_losses.shards.explicit import are_explicit, on_automatic_axes

            if are_explicit(arguments):
                return lambda method, reduction, _: on_automatic_axes(method, tuple(self.domain), arguments, reduction)
        if library == "torch" and self._takes_parts and any(type(x).__name__ == "DTensor" for x in arguments):
            from mithril_losses.shards.distributed_tensors import on_local_parts

            given = dict(zip(self.domain, arguments, strict=True))
            per_class = {n for n, x in self.domain.items() if isinstance(x, (PerClass, ClassNumbers))}
            axis = given.get("class_axis", -1)
            return lambda method, reduction, returns: on_local_parts(method, given, reduction, per_class, axis, returns)
        return None

    @property
    def _takes_parts(self) -> bool:
        """Whether distributed tensors are computed by their local parts: PyTorch cannot gather labels by itself."""
        return self.splits_classes

    @property
    def splits_rows(self) -> bool:
        """As in `Template`; also if rows are sets of points, each with a loss of its own."""
        return self.separable or isinstance(next(iter(self.domain.values())), PointSets)

    @property
    def array_names(self) -> list[str]:
        """The names of the arrays."""
        return list(self.domain)[: self._arrays]

    def checked(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments, in the order of `domain`, with the options as their domains return them.

        A value of an array outside of its domain is NaN where it cannot be read.

        Raises:
            TypeError: an option is of a wrong type.
            ValueError: an option lies outside of its domain, or a value of an array is seen to.
        """
        if self._held:
            arguments = self._within_domains(arguments)
        options = arguments[self._arrays :]
        is_usual = type(arguments[0]) is np.ndarray
        if not options or (is_usual and all(map(is_, options, self._settled))):
            return arguments  # with the very options of another call, at a fifth of the cost
        found = tuple(checked(self._options, dict(zip(self._options, options, strict=True))).values())
        if is_usual and _PLAIN.issuperset(map(type, found)):  # in a trace, this would be a side effect
            self._settled = found
        return (*arguments[: self._arrays], *found)

    def over_shards(
        self, arguments: tuple[Any, ...], reduction: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """Return the function of unreduced losses, for the shards of the classes, and the keywords for their rows."""
        if not reduction or reduction.get("across") is None:
            return self.losses, reduction
        if (at := self._at.get("pool_batch")) is not None and arguments[at]:
            raise ValueError(f"{self.name} with pool_batch=True cannot be split: each mask is one mask of all rows")
        if not self.splits_classes:
            return self.losses, reduction
        split = resolve(namespace_of(first_array(arguments[0])), reduction["across"])
        return functools.partial(self.losses, shards=split.classes), {**reduction, "across": split.rows}

    def _within_domains(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments with NaN for unseen values outside their domains; the loss refuses what is no array."""
        found = list(arguments)
        for position, name, domain in self._held:
            x = arguments[position]
            if type(x) is np.ndarray and x.dtype.kind in "fiub":
                domain.check(name, x)
            elif (xp := namespace_of(x)) is not None and is_dtype(xp, x.dtype, _NUMBERS):
                domain.check(name, x)
                if host_values(x) is None:  # an integer cannot be NaN
                    x = x if is_dtype(xp, x.dtype, "real floating") else as_dtype(xp, x, arguments[0].dtype)
                    found[position] = domain.or_nan(xp, x, arguments[position])
        return tuple(found)

    def _spread(self, xp: Any, found: Losses, closing: Plan, arguments: tuple[Any, ...], wrt: Any) -> Any:
        """Return the gradients of what was found: an array, or a dict of them where several are asked for."""
        if found.scaled is not None and closing.is_a_number:
            slopes, close = found.scaled(closing.factor), functools.partial(closing.finish, xp)
        else:
            slopes, close = found.slopes(), functools.partial(spread, xp, closing, found)
        asked = self._default if wrt is None else wrt
        if isinstance(asked, str):
            return by_array(close, slopes[asked], arguments[self._at[asked]])
        return NamedArrays((name, by_array(close, slope, arguments[self._at[name]])) for name, slope in slopes.items())

    def _asked(self, gradients: dict[str, Any], wrt: Any) -> Any:
        asked = self._default if wrt is None else wrt
        return NamedArrays(gradients) if isinstance(asked, tuple) else gradients[asked]


class Reduced(Unreduced):
    """A function `(*arrays, *options, reduction, wanted) → (value, gradients by name)` as a loss and its gradient.

    It is for losses that all depend on the same arrays: their slopes are summed while they are computed, so the weight
    of each loss must be known before.
    """

    _further = ("reduction", "wanted")
    _splits: tuple[str, ...] = ()

    @property
    def splits_rows(self) -> bool:
        """As in `Template`."""
        return "rows" in self._splits

    def declare_splits(self, splits: tuple[str, ...]) -> None:
        """Say whether the function takes shards of "rows", and of "classes"."""
        self._splits, self.splits_classes = splits, "classes" in splits

    @property
    def _takes_parts(self) -> bool:
        return bool(self._splits)

    def _value(self, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Array:
        value: Array = self._evaluate(arguments, reduction, _NOTHING)[0]
        return value

    def _gradient(self, arguments: tuple[Any, ...], wrt: Any, reduction: Mapping[str, Any]) -> Any:
        return self._asked(self._evaluate(arguments, reduction, SlopesAlone(self.requested(wrt)))[1], wrt)

    def _both(self, arguments: tuple[Any, ...], wrt: Any, reduction: Mapping[str, Any]) -> tuple[Array, Any]:
        value, gradients = self._evaluate(arguments, reduction, Wanted(self.requested(wrt)))
        return value, self._asked(gradients, wrt)

    def _evaluate(self, arguments: tuple[Any, ...], reduction: Mapping[str, Any], wanted: Wanted) -> Any:
        with quiet_for(arguments[0]):
            return self.losses(*self.checked(arguments), reduction=reduction, wanted=wanted)


def plan_of(xp: Any, found: Losses, reduction: Mapping[str, Any]) -> Plan:
    """Return the reduction of unreduced losses."""
    return plan(xp, tuple(found.values.shape), found.values.dtype, mass=found.mass, **reduction)


def spread(xp: Any, closing: Plan, found: Losses, slope: Array, like: Array) -> Array:
    """Return the gradient from the slope wrt one array."""
    summed = found.summed
    if summed is None:
        summed = tuple(range(len(found.values.shape), len(slope.shape)))
    if found.pull is None:
        return closing.spread(xp, slope, like, summed)
    return closing.finish(xp, found.pull(closing.spread(xp, slope, slope, summed)), like)


def by_array(close: Callable[[Array, Array], Array], slope: Any, like: Any) -> Any:
    """Return the gradient from a slope, which is an array or a nesting of arrays like its argument."""
    if hasattr(slope, "shape"):
        return close(slope, like)
    likes = dict(leaves(like))
    return map_leaves(lambda path, x: close(x, likes[path]), slope)


def quiet_for(x: Any) -> Any:
    """Return a context without warnings for the library of an array, or of the first array of a nesting."""
    if type(x) is np.ndarray:  # the usual case
        return without_warnings()
    return quiet(namespace_of(first_array(x)) or np)  # the loss refuses an object that is not an array, by its name


def unreduced(
    *,
    wrt: str | tuple[str, ...] | None = None,
    on_request: tuple[str, ...] = (),
    kinks: Callable[..., tuple[Any, ...]] | None = None,
    pairwise: bool = False,
    separable: bool = True,
    jitted: bool = True,
    by_numpy: bool = False,
    loop: Callable[..., Loop | None] | None = None,
    second_loop: Callable[..., Any] | None = None,
    curved: bool = False,
    has_fisher: bool = False,
    check: Callable[..., Any] | None = None,
    mass: Callable[..., Any] | None = None,
    **domain: Any,
) -> Callable[[Callable[..., Losses]], Unreduced]:
    """Declare the domains of the arguments of a function of unreduced losses, arrays first.

    Args:
        wrt: the argument that the gradient is taken with respect to, by default the first one; or a tuple of arguments,
            for which the gradient is a dict by name.
        on_request: further arguments that `wrt=` accepts.
        kinks: a function of the arguments that returns arrays whose zeros are the points without a derivative.
        pairwise: whether slopes are computed from all pairs of two sets, or all logits of a layer, which PyTorch's
            graph should not keep.
        separable: whether the unreduced losses of different rows share nothing, so that rows may be computed apart.
        jitted: whether `value_and_gradient` compiles the pair for JAX.
        by_numpy: whether in `value_and_gradient` NumPy computes large JAX arrays in the memory of the host.
        loop: a function of the loss's arguments (NumPy arrays) that returns a `Loop` over their rows, or None if none
            fits them.
        second_loop: `second_loop(order, kind)` returns the same for second derivatives, with vectors after the arrays;
            or None.
        curved: whether the losses come with their second derivatives, `Losses.curvature`.
        has_fisher: whether these have a Fisher information of their own.
        check: a function of the loss's arguments that raises for values which a trace cannot see.
        mass: a function of the loss's arguments that returns what each row contributes to the divisor, if not 1.
        **domain: what each argument may be, in their order.

    Example:
        The sum of squares of each row:

        >>> import numpy as np
        >>> from mithril_losses.domains import REAL
        >>> @unreduced(predictions=REAL)
        ... def _squares(predictions, wanted):
        ...     return Losses((predictions**2).sum(axis=-1), lambda: {"predictions": 2.0 * predictions})
        >>> value, gradient = _squares.both(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> float(value), gradient.tolist()
        (15.0, [[1.0, 2.0], [3.0, 4.0]])
    """
    how: dict[str, Any] = {
        "separable": separable,
        "jitted": jitted,
        "by_numpy": by_numpy,
        "loop": loop,
        "check": check,
        "mass": mass,
    }
    how |= {"curved": curved, "has_fisher": has_fisher, "second_loop": second_loop}
    return lambda losses: Unreduced(losses, domain, wrt, on_request, kinks, pairwise, **how)


def reduced(
    *,
    wrt: str | tuple[str, ...] | None = None,
    kinks: Callable[..., tuple[Any, ...]] | None = None,
    pairwise: bool = False,
    by_numpy: bool = False,
    check: Callable[..., Any] | None = None,
    mass: Callable[..., Any] | None = None,
    splits: tuple[str, ...] = (),
    **domain: Any,
) -> Callable[[Callable[..., Closed]], Reduced]:
    """Declare, like `unreduced`, the domains of the arguments of a function that reduces its losses by itself.

    `splits` says whether the function takes shards of "rows" and of "classes".
    """
    how: dict[str, Any] = {"separable": False, "by_numpy": by_numpy, "check": check, "mass": mass}

    def declare(losses: Callable[..., Closed]) -> Reduced:
        template = Reduced(losses, domain, wrt, (), kinks, pairwise, **how)
        template.declare_splits(splits)
        return template

    return declare
