"""Element-wise terms of the columns of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from mithril_losses.autodiff import large_gradient
from mithril_losses.backends.memory import empty
from mithril_losses.backends.namespaces import Array, array_namespace, host_values, is_dask, namespace_of
from mithril_losses.domains import enforced
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import first_axis
from mithril_losses.numerics.validation import require_same_shape
from mithril_losses.templates.base import Template
from mithril_losses.templates.elements import Elementwise
from mithril_losses.templates.loop import Call, Loop


class ByColumn(Template):
    """Element-wise terms of the columns of arrays (…, n): one loss per row, with a slope for every column of the first.

    The terms take first the columns of the first array, then those of the second.
    """

    has_loop = True

    def __init__(self, terms: Elementwise, columns: str, **domain: Any) -> None:
        self.terms = terms
        self.domain = domain
        self.wrt = tuple(domain)[:1]
        self._meaning = columns
        self._count = len(terms.wrt)
        self._enforced = enforced(domain)

    def plain_value(self, *arrays: Array, **reduction: Unpack[Reduction]) -> Array:
        """Return the reduced loss."""
        self.require_known(reduction, gradient=False)
        return self.terms.plain_value(*self.split(arrays).values(), **reduction)

    def gradient(self, *arrays: Array, **reduction: Unpack[GradientReduction]) -> Array:
        """Return the gradient of `value` wrt the first array."""
        if is_dask(arrays[0]):
            return self.in_chunks(arrays, reduction, "gradient")
        self.require_known(reduction)
        found: Array | None = large_gradient(self, arrays, reduction)
        if found is not None:
            return found
        return self.join(self.terms.gradient(*self.split(arrays).values(), **reduction))

    def both(self, *arrays: Array, **reduction: Unpack[GradientReduction]) -> tuple[Array, Array]:
        """Return `value` and `gradient` from one evaluation of the terms."""
        if is_dask(arrays[0]):
            both: tuple[Array, Array] = self.in_chunks(arrays, reduction, "both")
            return both
        self.require_known(reduction)
        value, gradients = self.terms.both(*self.split(arrays).values(), **reduction)
        return value, self.join(gradients)

    def loop(self, call: Call) -> Loop | None:
        """Return the loop over the columns; after the loop their gradients are joined."""
        columns = self.split(call.arrays.values())
        found = self.terms.loop(Call(columns, call.options, call.reduction))
        if found is None:
            return None
        own = [empty(columns[name].shape, columns[name].dtype) for name in self.terms.wrt]
        joined = [_joining(run, own) for run in (found.compiled, found.blocked)]
        return found._replace(compiled=joined[0], blocked=joined[1], repeated=None)

    def split(self, arrays: Iterable[Array]) -> dict[str, Array]:
        """Return the columns by the names of the arguments of the terms.

        Raises:
            ValueError: the arrays differ in shape, or have a wrong number of columns.
        """
        named = dict(zip(self.domain, arrays, strict=True))
        xp = array_namespace(**named)
        require_same_shape(**named)
        shape = tuple(next(iter(named.values())).shape)
        if not shape or shape[-1] != self._count:
            raise ValueError(f"{self._meaning} on the last axis, got shape {shape}")
        columns: list[Array] = []
        for name, x in named.items():
            own, domain = _columns(first_axis(xp, x)), self._enforced.get(name)
            # NumPy compares columns at a fraction of the cost of parts of rows
            if domain is not None and not (xp is np and domain.are_legal(own)):
                domain.check(name, x)
                if host_values(x) is None:
                    own = _columns(first_axis(xp, domain.or_nan(xp, x, x)))
            columns += own
        return dict(zip(self.terms.array_names, columns, strict=True))

    def join(self, gradients: Mapping[str, Array]) -> Array:
        """Return the gradients wrt the columns as one array."""
        xp: Any = namespace_of(next(iter(gradients.values())))
        joined: Array = xp.stack([gradients[name] for name in self.terms.wrt], axis=-1)
        return joined


def _joining(run: Callable[..., float] | None, own: list[Any]) -> Callable[..., float] | None:
    """Return a loop that fills the gradients wrt the columns, and joins them."""
    if run is None:
        return None

    def joined(weights: Any, factor: Any, values: Any, gradients: Sequence[Any], threads: int) -> float:
        total = run(weights, factor, values, own, threads)
        np.stack(own, axis=-1, out=gradients[0])
        return total

    return joined


def _columns(x: Array) -> list[Array]:
    return [x[k, ...] for k in range(x.shape[0])]
