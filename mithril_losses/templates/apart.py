"""Losses that are sums of element-wise losses of one array each."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from mithril_losses.autodiff import by_chunks, large_gradient
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import Array, array_namespace, is_dask
from mithril_losses.numerics.reduction import GradientReduction, Reduction, plan
from mithril_losses.numerics.validation import as_dtype, did_you_mean, quiet
from mithril_losses.templates.base import Template
from mithril_losses.templates.elements import Elementwise
from mithril_losses.templates.loop import Call


class Apart(Template):
    """Element-wise losses of one array each, which are reduced separately and then added: L = Σₖ R(ℓₖ(xₖ)).

    The arrays may differ in shape if the reduction R leaves equal shapes, such as numbers. `weights` and `normalizer`
    apply to every array, or are mappings by the names of the arrays.
    """

    has_loop = True
    splits_classes = True

    def __init__(self, **parts: Elementwise) -> None:
        self._parts = parts
        self.curved = all(part.curved for part in parts.values())
        self.wrt = tuple(parts)
        self.domain = {name: part.domain[name] for name, part in parts.items()}
        for part in parts.values():
            self.domain |= {name: part.domain[name] for name in part.array_names}
        for part in parts.values():
            self.domain |= part.domain

    @property
    def elements(self) -> Mapping[str, Elementwise]:
        """The terms of each array, by its name."""
        return self._parts

    def kinks(self, *arrays: Array, **options: Any) -> tuple[Any, ...]:
        """Return the arrays whose zeros are the points without a derivative."""
        return tuple(
            distance
            for part, x in zip(self._parts.values(), arrays, strict=True)
            if part.kinks is not None
            for distance in part.kinks(x, *(options[name] for name in part.option_names))
        )

    def plain_value(self, *arguments: Any, **reduction: Unpack[Reduction]) -> Array:
        """Return the loss of arrays and options given in the order of `domain`."""
        return self._close(arguments, reduction, value=True, slopes=False)[0]

    def gradient(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> NamedArrays[Array]:
        """Return the gradients of `value` wrt every array, by name."""
        if is_dask(arguments[0]):
            found: NamedArrays[Array] = self.in_chunks(arguments, reduction, "gradient")
            return found
        found = large_gradient(self, arguments, reduction)
        return self._close(arguments, reduction, value=False, slopes=True)[1] if found is None else found

    def both(self, *arguments: Any, **reduction: Unpack[GradientReduction]) -> tuple[Array, NamedArrays[Array]]:
        """Return `value` and `gradient` from one evaluation of the terms."""
        if is_dask(arguments[0]):
            found: tuple[Array, NamedArrays[Array]] = self.in_chunks(arguments, reduction, "both")
            return found
        return self._close(arguments, reduction, value=True, slopes=True)

    def in_chunks(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any], returns: str) -> Any:
        """As in `Template`; each array has chunks of its own."""
        self.require_known(keywords, gradient=returns != "value")
        given = dict(zip(self.domain, arguments, strict=True))
        values: list[Array] = []
        gradients: NamedArrays[Array] = NamedArrays()
        for name, part, own in self.split(keywords):
            of_part = tuple(given[argument] for argument in (*part.array_names, *part.option_names))
            found = by_chunks(part, of_part, own, returns, self.name)
            values += [] if returns == "gradient" else [found if returns == "value" else found[0]]
            gradients[name] = None if returns == "value" else found if returns == "gradient" else found[1]
        if returns == "gradient":
            return gradients
        self.require_addable({name: tuple(x.shape) for name, x in zip(self._parts, values, strict=True)})
        total = functools.reduce(operator.add, values)
        return total if returns == "value" else (total, gradients)

    def _close(
        self, arguments: tuple[Any, ...], reduction: Any, value: bool, slopes: bool
    ) -> tuple[Any, NamedArrays[Array]]:
        self.require_known(reduction, gradient=slopes)
        given = dict(zip(self.domain, arguments, strict=True))
        xp = array_namespace(**{name: given[name] for name in self._parts})
        gradients: NamedArrays[Array] = NamedArrays()
        total, left = None, {}
        with quiet(xp):
            for name, part, own in self.split(reduction):
                arguments_of_part = tuple(given[argument] for argument in (*part.array_names, *part.option_names))
                _, (x, *others), options = part.prepare(arguments_of_part)
                closing = plan(xp, tuple(x.shape), x.dtype, **own)
                left[name] = closing.shape(tuple(x.shape))
                self.require_addable(left)
                values, found = part.evaluate(xp, x, *others, *options)
                if value and part.has_value:
                    reduced = closing.collect(xp, values, values)
                    total = reduced if total is None else total + reduced
                if slopes:
                    closing = closing.root(xp) if part.is_factor else closing
                    by_part = part.spread(xp, closing, found, arguments_of_part)
                    gradients |= by_part if isinstance(by_part, dict) else {name: by_part}
        return total if total is None else as_dtype(xp, total, arguments[0].dtype), gradients

    def parts(self, call: Call) -> Sequence[tuple[Template, Call]] | None:
        """As in `Template`; None if the reduced losses are arrays, or in half precision."""
        if call.reduction.get("axis") is not None or any(x.dtype == np.float16 for x in call.arrays.values()):
            return None
        if call.reduction.get("reduction") == "none":
            self.require_addable({name: call.arrays[name].shape for name in self._parts})
        return [
            (
                part,
                Call(
                    {n: call.arrays[n] for n in part.array_names},
                    {n: call.options[n] for n in part.option_names},
                    reduction,
                ),
            )
            for name, part, reduction in self.split(call.reduction)
        ]

    def split(self, reduction: Mapping[str, Any]) -> Iterator[tuple[str, Elementwise, dict[str, Any]]]:
        """Yield the name of each array, its terms, and its own reduction keywords.

        Raises:
            ValueError: a mapping has a key that is not the name of an array.
        """
        for keyword in ("weights", "normalizer"):
            given = reduction.get(keyword)
            for name in given if isinstance(given, Mapping) else ():
                if name not in self._parts:
                    raise ValueError(
                        f"{keyword} has the key {name!r}, which is none of {', '.join(self._parts)}"
                        f"{did_you_mean(str(name), self._parts)}"
                    )
        for name, part in self._parts.items():
            yield name, part, {k: x.get(name) if isinstance(x, Mapping) else x for k, x in reduction.items()}

    def require_addable(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise a ValueError unless all reduced losses have the same shape: nothing is broadcast silently."""
        if len(set(shapes.values())) > 1:
            left = " and ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
            raise ValueError(f"the reduced losses are added, but the reduction leaves {left}; reduce them to numbers")
