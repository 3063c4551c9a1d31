"""One call of a template, in which other arrays can be put in the place of the caller's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import namespace_of
from mithril_losses.numerics.trees import leaves, map_leaves


class Differentiable(Protocol):
    """What a template must answer; `plain_value`, `gradient` and `both` take the arguments in the order of `domain`."""

    domain: Mapping[str, Any]
    curved: bool
    wrt: tuple[str, ...]
    on_request: tuple[str, ...]
    has_loop: bool
    plain_value: Callable[..., Any]
    gradient: Callable[..., Any]
    both: Callable[..., Any]

    def in_chunks(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any], returns: str) -> Any:
        """Return the "value", the "gradient" or "both" for arrays of Dask, in which nothing is computed yet."""

    def require_known(self, keywords: Mapping[str, Any], gradient: bool = True) -> None:
        """Raise a TypeError for a keyword that neither the loss takes nor, where that is asked for, its gradient."""


Both = Callable[..., tuple[Any, Any]]
_ways: list[Callable[[Any], Both]] = [lambda template: template.both]


def compute_by(way: Callable[[Any], Both]) -> None:
    """Let `way(template)` return what computes value and gradient at once, in place of the template's own `both`.

    Faster ways live above this room and know templates by their losses.
    """
    _ways[0] = way


def fastest(template: Differentiable) -> Both:
    """Return the fastest function of the template's arguments and keywords that returns value and gradient."""
    return _ways[0](template)


def value_on_host(template: Differentiable, arguments: tuple[Any, ...], reduction: Mapping[str, Any]) -> Any:
    """Return the reduced loss of NumPy arrays.

    The loop over large arrays writes a gradient, too. It takes less time than the plain function, which writes an array
    at each of its steps.
    """
    first: Any = arguments[0]  # an array, or a nesting of arrays
    if type(first) is np.ndarray and takes_loop(template, first.size, reduction) and is_reduced_to_a_number(reduction):
        template.require_known(reduction, gradient=False)
        return fastest(template)(*arguments, **reduction)[0]
    return template.plain_value(*arguments, **reduction)


def takes_loop(template: Differentiable, size: int, reduction: Mapping[str, Any]) -> bool:
    """Whether a value alone, or a gradient alone, of arrays on the host comes from the loop that computes both."""
    if size < limits.current.large:  # first, because small calls notice the cost
        return False
    return template.has_loop and reduction.get("across") is None and not is_plain.get()


# (template, whether it is differentiated in turn) → a function of the arguments by name, the vectors by the argument
# that they belong to, and the reduction, which returns H v by argument
Products = Callable[[Any, bool], Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]]
_products: list[Products] = []


def multiply_by(products: Products) -> None:
    """Let `products(template, is_recorded)` return what multiplies the Hessian of a curved template with vectors.

    If that is recorded, because it is differentiated in turn, it is computed by plain array code.
    """
    _products[:] = [products]


# (template, arguments in the order of `domain`, keywords, "value", "gradient" or "both", the name of a part) → arrays
ByChunks = Callable[[Any, tuple[Any, ...], Mapping[str, Any], str, str], Any]
_by_chunks: list[ByChunks] = []


def compute_chunks_by(way: ByChunks) -> None:
    """Let `way` return what a call of a template returns for arrays of Dask, in which nothing is computed yet."""
    _by_chunks[:] = [way]


def by_chunks(
    template: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], returns: str, part: str = ""
) -> Any:
    """Return the value, the gradient or both of a template for arrays of Dask, in which nothing is computed yet.

    Args:
        template: of the loss.
        arguments: in the order of `domain`.
        keywords: of the reduction, and `wrt`.
        returns: "value", "gradient" or "both".
        part: the name in the catalogue of the loss that adds up several templates, of which this is one.
    """
    return _by_chunks[0](template, arguments, keywords, returns, part)


_PLACE: Any = object()
is_plain: ContextVar[bool] = ContextVar("is_plain", default=False)


@contextlib.contextmanager
def plain_functions() -> Iterator[None]:
    """Let the frameworks differentiate the plain functions themselves, inside a `with` block.

    This is for those who compare a hand-derived gradient with one that does not come from it.

    Example:
        >>> import torch
        >>> from mithril_losses import mae_loss
        >>> x = torch.tensor([3.0, 1.0], requires_grad=True)
        >>> with plain_functions():
        ...     loss = mae_loss(x, torch.tensor([1.0, 1.0]))
        >>> type(loss.grad_fn).__name__
        'DivBackward0'
    """
    before = is_plain.set(True)
    try:
        yield
    finally:
        is_plain.reset(before)


class Layout(NamedTuple):
    """Where the arrays of a framework are in the calls of one kind, with the arguments before the keywords.

    Attributes:
        places: of the arrays.
        names: of the argument, or of the keyword, at each place.
        is_mixed: whether there are arrays of other libraries.
        is_nested: whether there are nestings, whose content differs from call to call.
    """

    places: tuple[int, ...]
    names: tuple[str, ...]
    is_mixed: bool
    is_nested: bool

    @staticmethod
    def of(names: tuple[str, ...], given: Sequence[Any], kind: type) -> Layout:
        """Return the layout of a call; calls with arguments of the same names and types share one."""
        key = kind, names, *map(type, given)
        found = _layouts.get(key)
        if found is None:
            if len(_layouts) >= _LAYOUTS:
                _layouts.clear()
            found = _layouts[key] = Layout.read(names, given, kind)
        return found

    @staticmethod
    def read(names: tuple[str, ...], given: Sequence[Any], kind: type) -> Layout:
        """Return the layout of a call without a look at others, such as inside a trace of a compiler."""
        places = tuple(i for i, x in enumerate(given) if isinstance(x, kind))
        others = [x for name, x in zip(names, given, strict=True) if not isinstance(x, kind) and name != "across"]
        is_nested = any(isinstance(x, (Mapping, list, tuple)) for x in others)
        is_mixed = any(x is not None and type(x) is not float and namespace_of(x) is not None for x in others)
        return Layout(places, tuple(names[i] for i in places), is_mixed, is_nested)


_LAYOUTS = 1024  # how many are remembered
_layouts: dict[Any, Layout] = {}


class Call:
    """The arguments of one call with a place for each array of a framework, at any depth of the arguments.

    Only `arrays` refers to the arrays themselves: whoever keeps the call may empty it.

    Attributes:
        template: of the loss.
        arrays: the framework's arrays.
        names: the name of the argument, or of the keyword, that each of them belongs to.
        is_mixed: whether there are arrays of other libraries among the arguments.
    """

    def __init__(
        self,
        template: Differentiable,
        arguments: tuple[Any, ...],
        reduction: Mapping[str, Any],
        kind: type,
        is_traced: bool = False,
    ) -> None:
        self.template = template
        self._keywords = tuple(reduction)
        self._is_split = reduction.get("across") is not None
        names = (*template.domain, *reduction)
        self._given = [*arguments, *reduction.values()]
        layout = (Layout.read if is_traced else Layout.of)(names, self._given, kind)
        self.names: Sequence[str] = layout.names
        self.is_mixed, self._is_flat, self._places = layout.is_mixed, True, layout.places
        if layout.is_nested:
            self._read_nestings(names, kind)
            return
        self.arrays = [self._given[i] for i in layout.places]
        for i in layout.places:
            self._given[i] = _PLACE

    def _read_nestings(self, names: tuple[str, ...], kind: type) -> None:
        self.arrays, of_arrays = [], []
        for i, (name, x) in enumerate(zip(names, self._given, strict=True)):
            if name == "across":  # no array, whatever it is
                continue
            found = [leaf for _, leaf in leaves(x) if isinstance(leaf, kind)]
            self._is_flat = self._is_flat and (not found or isinstance(x, kind))
            self.arrays += found
            of_arrays += [name] * len(found)
            self._given[i] = map_leaves(lambda _, leaf: _PLACE if isinstance(leaf, kind) else leaf, x)
        self.names = of_arrays

    def put(self, arrays: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments and the keywords of the reduction, with these arrays in their places."""
        if self._is_flat:
            given = self._given.copy()
            for i, x in zip(self._places, arrays, strict=True):
                given[i] = x
        else:
            remaining = iter(arrays)
            given = [
                map_leaves(lambda _, leaf: next(remaining) if leaf is _PLACE else leaf, x)
                if x is _PLACE or isinstance(x, (Mapping, list, tuple))
                else x
                for x in self._given
            ]
        if not self._keywords:
            return tuple(given), {}
        count = len(given) - len(self._keywords)
        return tuple(given[:count]), dict(zip(self._keywords, given[count:], strict=True))

    def has_products(self, names: Iterable[str]) -> bool:
        """Whether the second derivatives wrt all these arguments are known."""
        is_known = self.template.curved and not self._is_split and bool(_products)
        return is_known and all(name in self.template.wrt for name in names)

    def times_hessian(self, arrays: Iterable[Any], vectors: Iterable[Any], upstream: Any, recorded: bool) -> list[Any]:
        """Return H v by array, None for arrays that the gradient is not taken with respect to.

        Args:
            arrays: in the places of the caller's.
            vectors: one for each array; those of arrays without a gradient do not matter.
            upstream: the gradient that flows into the loss.
            recorded: whether the product is differentiated in turn.
        """
        template = self.template
        arguments, reduction = self.put(arrays)
        moved = dict(zip(template.domain, self.put(vectors)[0], strict=True))
        product = _products[0](template, recorded)
        by_name = product(
            dict(zip(template.domain, arguments, strict=True)),
            {name: moved[name] for name in template.wrt},
            {**reduction, "upstream": upstream},
        )
        return self.by_array(by_name if len(template.wrt) > 1 else by_name[template.wrt[0]], {})

    def covers(self, names: Iterable[str]) -> bool:
        """Whether the hand-derived gradient is one with respect to all these arguments."""
        template = self.template
        return all(name in template.wrt or name in template.on_request for name in names)

    def wrt(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the keyword that asks for the gradients wrt these arguments: none if they are the usual ones."""
        wanted = dict.fromkeys(names)
        return {} if all(name in self.template.wrt for name in wanted) else {"wrt": tuple(wanted)}

    def by_array(self, gradient: Any, wrt: Mapping[str, Any]) -> list[Any]:
        """Return the gradient with respect to each array, None where there is none, from what the template returned."""
        first, *others = self.template.wrt
        is_single = not wrt and not others
        if is_single and self._is_flat:
            return [gradient if name == first else None for name in self.names]
        by_name = {first: gradient} if is_single else gradient
        if self._is_flat:
            return [by_name.get(name) for name in self.names]
        remaining = {name: iter([leaf for _, leaf in leaves(by_name[name])]) for name in by_name}
        return [next(remaining[name]) if name in remaining else None for name in self.names]


def is_reduced_to_a_number(reduction: Mapping[str, Any]) -> bool:
    """Whether the keywords leave one number, whatever the arguments are."""
    return reduction.get("reduction") != "none" and reduction.get("axis") is None
