"""Second derivatives of losses as templates: what is written in the place of the gradient is a diagonal or a product.

A reduction is linear in the unreduced losses, so it is linear in their Hessians, too: with L = Σ α ℓ, the slopes of a
gradient are replaced by ∂²ℓ, or by ∂²ℓ · v, and everything else stays as it is: weights, divisors, loops and blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any, Literal, Unpack, get_args

from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, is_dask, namespace_of, require_library
from mithril_losses.domains import REAL, FeatureMaps, LargestNumber, Matrices, Parameters
from mithril_losses.numerics.reduction import GradientReduction, plan
from mithril_losses.numerics.trees import first_array, leaves, map_leaves
from mithril_losses.numerics.validation import as_dtype, quiet
from mithril_losses.shards import splits_classes
from mithril_losses.templates.apart import Apart
from mithril_losses.templates.base import Template
from mithril_losses.templates.elements import Elementwise
from mithril_losses.templates.unreduced import (
    Curvature,
    Losses,
    Named,
    SlopesAlone,
    Unreduced,
    Wanted,
    by_array,
    diagonal_curvature,
    plan_of,
    quiet_for,
    spread,
)
from mithril_losses.terms.second_order import Order, SecondOrder

Kind = Literal["exact", "fisher", "bound"]
KINDS: tuple[str, ...] = get_args(Kind)

HESSIAN = "{}_hessian"  # the name of a diagonal beside a gradient


def vector_names(wrt: tuple[str, ...]) -> dict[str, str]:
    """Return the argument that takes the vector for each differentiable argument."""
    return {name: "vector" if len(wrt) == 1 else f"{name}_vector" for name in wrt}


@singledispatch
def second_order(template: Template, order: Order, kind: Kind) -> Template:
    """Return the template of the second derivatives of a loss that is `curved`.

    It has the arguments of the loss, and a vector for each differentiable argument after its arrays if the order needs
    them; its gradient is what the order asks for, by the names in `outputs` if there are several.
    """
    raise TypeError(f"{template.name} is computed by {type(template).__name__}, which has no second derivatives")


def _outputs(wrt: tuple[str, ...], order: Order) -> dict[str, str]:
    diagonals = {HESSIAN.format(name): name for name in wrt} if order == "all" else {}
    return {name: name for name in wrt} | diagonals


class ElementwiseSecond(Elementwise):
    """Second derivatives of element-wise terms."""

    def __init__(self, base: Elementwise, order: Order, kind: Kind, vectors: Mapping[str, str]) -> None:
        vars(self).update(vars(base))
        curvature = base.curvatures.get(kind, base.curvatures["exact"])
        is_bound = kind == "bound" and "bound" not in base.curvatures
        is_steep = base.steep or base.steep_curvature
        self.terms = SecondOrder(base.terms, curvature, order, len(base.wrt), len(base.array_names), is_bound, is_steep)
        # the second derivatives are bounded, and not their products, which must be linear in the vectors
        self.constants = [*base.constants, LargestNumber()] if is_steep else base.constants
        self.array_names = [*base.array_names, *(vectors[name] for name in base.wrt if self.terms.vectors)]
        arrays = {name: base.domain.get(name, REAL) for name in self.array_names}
        self.domain = arrays | {name: base.domain[name] for name in base.option_names}
        self.outputs = _outputs(base.wrt, order)
        self.is_factor = order in ("factor", "transposed")
        self.on_request = ()
        self.has_value = order == "all"
        self.steep = base.steep and self.has_value
        self.never_negative = base.never_negative and self.has_value
        self._remember()

    def gradient(self, *arguments: Any, wrt: Any = None, **reduction: Unpack[GradientReduction]) -> Any:
        """Return what the order asks for."""
        return self.both(*arguments, wrt=wrt, **reduction)[1]

    def both(self, *arguments: Any, wrt: Any = None, **reduction: Unpack[GradientReduction]) -> tuple[Any, Any]:
        """Return the value, or 0 if the order needs none, and what the order asks for."""
        self.require_known(reduction if wrt is None else {"wrt": wrt})
        _refuse_chunks(self.name, arguments)
        if self.rows is not None:
            _refuse_classes(self.name, reduction)
        if self.has_value:
            return super().both(*arguments, **reduction)
        xp, arrays, options = self.prepare(arguments)
        with quiet(xp):
            _, found = self.evaluate(xp, *arrays, *options)
            closing = plan(xp, self.shape(arrays[0]), arrays[0].dtype, **reduction)
            return 0.0, self.spread(xp, closing.root(xp) if self.is_factor else closing, found, arguments)


@second_order.register
def _(template: Elementwise, order: Order, kind: Kind) -> Template:
    return ElementwiseSecond(template, order, kind, vector_names(template.wrt))


class ApartSecond(Apart):
    """Second derivatives of element-wise losses of one array each: those of two arrays are 0."""

    def __init__(self, base: Apart, order: Order, kind: Kind) -> None:
        vectors = vector_names(base.wrt)
        super().__init__(**{n: ElementwiseSecond(part, order, kind, vectors) for n, part in base.elements.items()})
        self.name = base.name
        self.outputs = _outputs(base.wrt, order)
        self.has_value = order == "all"

    def both(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> tuple[Any, NamedArrays[Array]]:
        """Return the value, or 0 if the order needs none, and what the order asks for."""
        value, found = super().both(*arguments, **reduction)
        return value if self.has_value else 0.0, NamedArrays((name, found[name]) for name in self.outputs)


@second_order.register
def _(template: Apart, order: Order, kind: Kind) -> Template:
    return ApartSecond(template, order, kind)


class UnreducedSecond(Unreduced):
    """Second derivatives of losses that are not element-wise, as their function returns them."""

    def __init__(self, base: Unreduced, order: Order, kind: Kind) -> None:
        vars(self).update(vars(base))
        for name in ("gradient", "both"):  # of losses over pairs, which replace these methods
            vars(self).pop(name, None)
        self._base, self._order, self._kind = base, order, kind
        self.vectors = {} if order in ("diagonal", "all") else vector_names(base.wrt)
        arrays = base.array_names
        self.domain = {name: base.domain[name] for name in arrays}
        nested = (FeatureMaps, Matrices, Parameters)  # a vector is of any numbers, in the structure of its argument
        of_vectors = {name: base.domain[name] if isinstance(base.domain[name], nested) else REAL for name in self.wrt}
        self.domain |= {vector: of_vectors[name] for name, vector in self.vectors.items()}
        self.domain |= base.domain
        self.outputs = _outputs(base.wrt, order)
        self.has_value, self.is_factor = order == "all", order in ("factor", "transposed")
        self.on_request = ()
        self.check, self.mass = (_of_own(f, len(arrays), len(self.vectors)) for f in (base.check, base.mass))
        self._loop = None if base.second_loop is None else base.second_loop(order, kind)
        self.has_loop = self._loop is not None

    def gradient(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> Any:
        """Return what the order asks for."""
        return self.both(*arguments, wrt=wrt, **reduction)[1]

    def both(self, *arguments: Any, wrt: Any = None, **reduction: Any) -> tuple[Any, Any]:
        """Return the value, or 0 if the order needs none, and what the order asks for."""
        self.require_known(reduction if wrt is None else {"wrt": wrt})
        _refuse_chunks(self.name, arguments)
        _refuse_classes(self.name, reduction)
        base, given = self._base, dict(zip(self.domain, arguments, strict=True))
        likes = {name: given[name] for name in self.wrt}
        first = first_array(next(iter(likes.values())))
        with quiet_for(first):
            own = base.checked(tuple(given[name] for name in base.domain))
            losses, of_rows = base.over_shards(own, reduction)
            found = losses(*own, wanted=(Wanted if self.has_value else SlopesAlone)(self.wrt))
            xp: Any = namespace_of(found.values)
            closing = plan_of(xp, found, of_rows)
            vectors = {
                name: _vector(vector, given[vector], likes[name], found.values.dtype)
                for name, vector in self.vectors.items()
            }
            curvature = self._curvature(found)
            second = curvature.closing(found, vectors)
            close = functools.partial(spread, xp, closing.root(xp) if self.is_factor else closing)
            slopes = {name: (second, x) for name, x in self._slopes(curvature, vectors).items()}
            if self.has_value:
                slopes = {HESSIAN.format(name): x for name, x in slopes.items()}
                slopes |= {name: (found, x) for name, x in found.slopes().items()}
            results: NamedArrays[Array] = NamedArrays(
                (name, by_array(functools.partial(close, slopes[name][0]), slopes[name][1], likes[like]))
                for name, like in self.outputs.items()
            )
            value = closing.collect(xp, found.values, first) if self.has_value else 0.0
        return value, results if len(self.outputs) > 1 else results.popitem()[1]

    def _curvature(self, found: Losses) -> Curvature:
        """Return the second derivatives of the kind that is asked for."""
        if found.curvature is None:
            raise ValueError(f"{self.name} has no curvature with these options")
        curvature = found.curvature()
        if self._kind == "fisher" and curvature.fisher is not None:
            curvature = curvature.fisher
        if self._kind == "bound":
            if curvature.bound is None:
                raise ValueError(f"no bound is known for the Hessian of {self.name}")
            xp = namespace_of(found.values)
            curvature = diagonal_curvature(xp, curvature.bound)
        return curvature

    def _slopes(self, curvature: Curvature, vectors: Named) -> Named:
        """Return what the order asks for of each unreduced loss."""
        match self._order:
            case "product":
                return curvature.product(vectors)
            case "factor" | "transposed":
                by = curvature.factor if self._order == "factor" else curvature.transposed
                if by is None:
                    raise ValueError(
                        f"the Hessian of {self.name} has no factor, because it may have negative eigenvalues"
                    )
                return by(vectors)
        return curvature.diagonal()


def _of_own(function: Callable[..., Any] | None, arrays: int, vectors: int) -> Callable[..., Any] | None:
    """Return a function of the arguments of a loss that is also given vectors after the arrays."""
    if function is None:
        return None
    return lambda *given, **options: function(*given[:arrays], *given[arrays + vectors :], **options)


def _refuse_chunks(name: str, arguments: tuple[Any, ...]) -> None:
    if any(map(is_dask, arguments)):
        raise ValueError(f"second derivatives of {name} are not computed by chunks of Dask arrays")


def _refuse_classes(name: str, reduction: Mapping[str, Any]) -> None:
    if splits_classes(reduction):
        raise ValueError(f"second derivatives of {name} take no Split(classes=…): only rows may be split, with across=")


def _vector(name: str, vector: Any, like: Any, dtype: Any) -> Any:
    """Return a vector, an array or a nesting of arrays like its argument, in the dtype to compute in.

    Raises:
        ValueError: it has another shape or structure than its argument.
        TypeError: an array is of another library.
    """
    if hasattr(vector, "shape") and hasattr(like, "shape"):
        xp: Any = namespace_of(like)
        require_library(xp, name, vector)
        if vector.shape != like.shape:
            raise ValueError(
                f"{name} must have the shape {tuple(like.shape)} of its argument, got {tuple(vector.shape)}"
            )
        return as_dtype(xp, vector, dtype, name)
    wanted = dict(leaves(like, name))
    given = dict(leaves(vector, name))
    if wanted.keys() != given.keys():
        raise ValueError(f"{name} must have the structure of its argument, {', '.join(wanted)}, got {', '.join(given)}")
    return map_leaves(lambda path, x: _vector(path, x, wanted[path], dtype), vector, name)


@second_order.register
def _(template: Unreduced, order: Order, kind: Kind) -> Template:
    return UnreducedSecond(template, order, kind)
