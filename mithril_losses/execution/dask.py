"""Losses of Dask arrays: a task for each chunk, and a tree of sums. Nothing is computed before it is asked for.

    L = Σ_b L_b,    ∂L/∂x_b = ∂L_b/∂x_b,    L_b = Σᵢ∈b wᵢ ℓᵢ / D,    D of all chunks

So a chunk is an ordinary call with D as its `normalizer`. Where D depends on values, such as on labels to ignore, it is
a sum of its own over the labels and the weights, before any chunk of predictions is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.utils import parse_bytes

from mithril_losses.autodiff.call import fastest
from mithril_losses.backends.conversion import library_of
from mithril_losses.backends.named import NamedArrays
from mithril_losses.backends.namespaces import is_dask
from mithril_losses.backends.threads import asked
from mithril_losses.catalogue import catalogue
from mithril_losses.domains import ClassNumbers, Directions, Interval, PerClass, PointSets, checked, unenforced
from mithril_losses.numerics.reduction import fit_weights, reduced_axes
from mithril_losses.numerics.validation import quiet, require_same_shape, widest_dtype
from mithril_losses.templates.base import Template

_NEW = 100  # the first number for axes that the blocks of a result have, and those of the arguments do not


def by_dask(
    template: Template, arguments: tuple[Any, ...], keywords: Mapping[str, Any], returns: str, part: str = ""
) -> Any:
    """Return the value, the gradient or both, as Dask arrays; see `autodiff.by_chunks`.

    Raises:
        ValueError: the losses of the chunks are not independent, a chunk has an unknown size, or shapes do not fit.
        TypeError: an array is of another library.
    """
    template.require_known({n: x for n, x in keywords.items() if n != "wrt"}, gradient=returns != "value")
    _require_registered(template, part)
    wrt = keywords.get("wrt")
    call = _Call.of(template, arguments, {n: x for n, x in keywords.items() if x is not None}, wrt)
    blocks, axes = call.blocks(part, returns)
    value = None if returns == "gradient" else call.value(blocks, axes)
    if returns == "value":
        return value
    gradients = NamedArrays((name, call.gradient(name, blocks, axes)) for name in call.wanted)
    is_one = isinstance(wrt, str) or (wrt is None and len(template.wrt) == 1)
    gradient = next(iter(gradients.values())) if is_one else gradients
    return gradient if returns == "gradient" else (value, gradient)


def _require_registered(template: Template, part: str) -> None:
    """Raise unless another process finds the template by the name of its loss: its functions need not be picklable."""
    pair = catalogue().get(part or template.name)
    found = None if pair is None else pair.terms.elements.get(template.wrt[0]) if part else pair.terms
    if found is not template:
        raise ValueError(
            f"of Dask arrays only values and gradients of registered losses are computed, not this of {template.name}: "
            "call it for each chunk, such as by dask.array.map_blocks"
        )


class _Call(NamedTuple):
    """One call with Dask arrays.

    Attributes:
        template: of the loss.
        arrays: all arrays, by name.
        others: the options and keywords that are no arrays.
        wanted: the arguments that the gradient is taken with respect to.
        shape: that of the unreduced losses; None if they do not follow the chunks, which are then joined to one.
        axes: which of their axes are summed over.
        chunks: the chunks along each axis that is cut.
    """

    template: Template
    arrays: dict[str, Any]
    others: dict[str, Any]
    wanted: tuple[str, ...]
    shape: tuple[int, ...] | None
    axes: tuple[int, ...]
    chunks: Mapping[int, tuple[int, ...]]

    @staticmethod
    def of(template: Template, arguments: tuple[Any, ...], keywords: Mapping[str, Any], wrt: Any) -> _Call:
        """Read the arguments, and decide how they are cut."""
        if "across" in keywords:
            raise ValueError("a Dask array says itself how it is split: leave across out")
        given = {**dict(zip(template.domain, arguments, strict=True)), **keywords}
        wanted = tuple(name for name in template.requested(wrt) if given[name] is not None)
        arrays = {name: _lazy(name, x) for name, x in given.items() if _is_array(x, name in wanted)}
        others = {name: x for name, x in given.items() if name not in arrays}
        for name, x in others.items():
            if library_of(x) not in (None, "numpy"):
                raise TypeError(f"{name} is from {library_of(x)}; beside Dask arrays there may be those of NumPy only")
        first = next(iter(template.domain))
        if first not in arrays:
            raise TypeError(f"{first} must be an array of Dask, got {type(given[first]).__name__}")
        checked(template.domain, {name: x for name, x in others.items() if name in template.domain})
        widest_dtype(np, **{name: arrays[name] for name in template.wrt if name in arrays})
        shape = _unreduced_shape(template, arrays, others)
        axis = None if "axis" in template.domain else others.get("axis")  # which may be an option of the loss
        name = others.get("reduction", "mean")
        if shape is None:
            _require_one_task(template, arrays, is_number=name != "none" and axis is None)
            return _Call(template, arrays, others, wanted, None, (), {})
        axes = reduced_axes(len(shape), name, axis, arrays.get("normalizer", others.get("normalizer")))
        like = arrays[first]
        is_cut_anywhere = bool(template.elements) and shape == like.shape and axis is None
        chunks = dict(enumerate(like.chunks)) if is_cut_anywhere else {0: _whole_rows(like).chunks[0]}
        call = _Call(template, arrays, others, wanted, shape, axes, chunks)
        call.require_fit()
        return call

    @property
    def left(self) -> tuple[int, ...]:
        """The axes of the unreduced losses that the loss has, too."""
        return tuple(a for a in range(len(self.shape or ())) if a not in self.axes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of the loss."""
        return tuple((self.shape or ())[a] for a in self.left)

    @property
    def is_local(self) -> bool:
        """Whether each chunk of rows has its own losses: nothing is summed over chunks."""
        return self.shape is None or 0 not in self.axes

    def require_fit(self) -> None:
        """Raise a ValueError unless rows, weights and what is as large as the loss fit the unreduced losses."""
        shape = self.shape or ()
        if "weights" in self.arrays:
            fit_weights(np, _stand_in(self.arrays["weights"].shape, np.float64), shape, np.float64)
        for name in ("normalizer", "upstream"):
            x = self.arrays.get(name)
            if x is not None and x.shape not in ((), self.sizes):
                raise ValueError(f"{name} must be a number or have the shape {self.sizes} of the loss, got {x.shape}")

    def over(self, name: str) -> tuple[int, ...]:
        """Return the axes of the losses, or of the first argument, that those of an array belong to."""
        x, shape = self.arrays[name], self.shape or ()
        if name in ("normalizer", "upstream"):
            return self.left if x.ndim else ()
        if name == "weights" or isinstance(self.template.domain[name], Interval):  # aligned at the last axis
            rank = len(shape) if name == "weights" else next(iter(self.arrays.values())).ndim
            return tuple(range(rank - x.ndim, rank))
        return tuple(range(x.ndim))

    def cut(self, name: str) -> tuple[Any, tuple[int, ...]]:
        """Return an array in chunks that fit those of the losses, and the axes that its own belong to."""
        x, axes = self.arrays[name], self.over(name)
        is_shared = _is_shared(self.template, name)
        chunks = []
        for n, axis in zip(x.shape, axes, strict=True):
            own = () if is_shared else self.chunks.get(axis, ())
            chunks.append(own if own and sum(own) == n else (n,))
        return x.rechunk(tuple(chunks)), axes

    def blocks(self, part: str, returns: str) -> tuple[Any, tuple[int, ...]]:
        """Return a Dask array whose every chunk is the value and the gradients of a chunk, and its axes."""
        others = dict(self.others)
        cut = {name: self.cut(name) for name in self.arrays}
        divisor = self.divisor(part)
        if is_dask(divisor):
            cut["normalizer"] = divisor.rechunk(-1), self.left
        elif divisor is not None:
            others["normalizer"] = divisor
        dtypes = {name: str(x.dtype) for name, (x, _) in cut.items()}
        to_add = None if self.is_local else self.sizes
        task = _Task(part or self.template.name, self._key(part), dtypes, others, returns, to_add)
        axes = tuple(sorted({axis for _, own in cut.values() for axis in own} | {*self.chunks}))
        return _blockwise(task, axes, np.dtype(object), *cut.values(), *self._bounds()), axes

    def _key(self, part: str) -> str:
        return self.template.wrt[0] if part else ""

    def _bounds(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Return the first row and the end of each chunk of rows, as an array that is cut like the rows."""
        if 0 not in self.chunks:
            return []
        ends = np.cumsum(self.chunks[0])
        bounds = np.stack([ends - self.chunks[0], ends], axis=1).reshape(-1)
        return [(da.from_array(bounds, chunks=2), (0,))]

    def divisor(self, part: str) -> Any:
        """Return D of all chunks: a number, an array of Dask, or None if each chunk has its own, or it is given."""
        name = self.others.get("reduction", "mean")
        is_given = "normalizer" in self.arrays or "normalizer" in self.others
        if self.shape is None or self.is_local or name == "sum" or is_given:
            return None
        if name == "batch_sum":
            return float(max(self.shape[0], 1))
        share, weights = self._masses(part), self.arrays.get("weights") if name == "weighted_mean" else None
        if weights is not None:
            share = weights if share is None else weights * share
        if share is None:
            return float(max(math.prod(self.shape[a] for a in self.axes), 1))
        return da.broadcast_to(share, self.shape).sum(axis=self.axes, dtype=np.float64)

    def _masses(self, part: str) -> Any:
        """Return what the losses count in the divisor; None for 1. It depends on no differentiable argument."""
        template, shape = self.template, self.shape or ()
        if template.mass is None:
            return None
        if self.others.get("ignore_index") is None:  # otherwise the labels decide
            given = _stand_ins(template, self.arrays, self.others, 2, 0.0)
            named = dict(zip(template.domain, given, strict=True))
            if template.mass(*_of_call(template, named, "arrays"), **_of_call(template, named, "options")) is None:
                return None
        likes = {n: (self.arrays[n].shape[1:], str(self.arrays[n].dtype)) for n in template.wrt if n in self.arrays}
        likes = {name: x for name, x in likes.items() if not _is_shared(template, name)}
        cut = {n: self.cut(n) for n in self.arrays if n in template.domain and n not in likes}
        task = _Masses(part or template.name, self._key(part), tuple(cut), likes, self.others, shape[1:])
        return _blockwise(
            task, (0,), np.dtype(np.float64), *cut.values(), *self._bounds(), sizes=shape[1:], lengths=self.chunks
        )

    def value(self, blocks: Any, axes: tuple[int, ...]) -> Any:
        """Return the loss from the values and gradients of all chunks."""
        dtype, sizes = next(iter(self.arrays.values())).dtype, self.sizes
        given = (blocks, axes)
        if self.is_local:
            kept = tuple(axis for axis in self.left if axis in self.chunks)
            return _blockwise(_value, kept, dtype, given, sizes=sizes[len(kept) :])
        if sizes:
            parts = _blockwise(_Part("", sizes), (0,), dtype, given, sizes=sizes, lengths={0: 1})
            return parts.sum(axis=0, dtype=np.float64).astype(dtype)
        ones = dict.fromkeys(axes, 1)
        parts = _blockwise(_Part("", (1,) * (len(axes) - 1)), axes, dtype, given, lengths=ones)
        return parts.sum(dtype=np.float64).astype(dtype)

    def gradient(self, name: str, blocks: Any, axes: tuple[int, ...]) -> Any:
        """Return the gradient wrt an argument, in the chunks of the argument."""
        like, given = self.arrays[name], (blocks, axes)
        if self.shape is not None and _is_shared(self.template, name):
            part, sizes = _Part(name, like.shape), like.shape
            parts = _blockwise(part, (0,), like.dtype, given, sizes=sizes, lengths={0: 1})
            total = parts.sum(axis=0, dtype=np.result_type(like.dtype, np.float32))
            return total.astype(like.dtype).rechunk(like.chunks)
        kept = tuple(axis for axis in self.over(name) if axis in self.chunks)
        found = _blockwise(_Gradient(name), kept, like.dtype, given, sizes=like.shape[len(kept) :])
        return found.rechunk(like.chunks)


# --- tasks ------------------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """Value and gradients of one chunk, with the divisor of all.

    Attributes:
        loss: its name in the catalogue.
        part: the argument of the template, if the loss adds up several.
        dtypes: of the arrays, by name.
        others: the options and keywords that are no arrays.
        returns: "value", "gradient" or "both".
        to_add: the shape of the value, if it is to be added to those of other chunks.
    """

    loss: str
    part: str
    dtypes: Mapping[str, str]
    others: Mapping[str, Any]
    returns: str
    to_add: tuple[int, ...] | None

    def __call__(self, *blocks: Any) -> tuple[Any, dict[str, Any]]:
        """Return the value and the gradients by name, from the chunks of all arrays, and the bounds of the rows."""
        given = dict(zip(self.dtypes, blocks, strict=False))
        bounds = blocks[len(given)] if len(blocks) > len(given) else None
        where = "" if bounds is None else _where(bounds)
        try:
            self._require_declared(given, bounds)
            return self._evaluate(given, bounds)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{where}{error}") from None

    def _require_declared(self, given: Mapping[str, Any], bounds: Any) -> None:
        """Raise unless a chunk is what its Dask array says of it."""
        for name, x in given.items():
            if not isinstance(x, (np.ndarray, np.generic)):
                raise TypeError(f"chunks must be NumPy arrays, but one of {name} is of type {type(x).__name__}")
            if x.dtype != self.dtypes[name]:
                raise TypeError(f"a chunk of {name} is {x.dtype}, but the Dask array says {self.dtypes[name]}")
        first, x = next(iter(given.items()))
        if bounds is not None and x.shape[0] != bounds[1] - bounds[0]:
            raise ValueError(
                f"a chunk of {first} has {x.shape[0]} rows, but the Dask array says {bounds[1] - bounds[0]}"
            )

    def _evaluate(self, given: dict[str, Any], bounds: Any) -> tuple[Any, dict[str, Any]]:
        template = _template(self.loss, self.part)
        named = {**self.others, **given}
        if self.to_add is not None and bounds is not None and bounds[0] == bounds[1]:  # a chunk of no rows
            like = next(iter(given.values()))
            return np.zeros(self.to_add, like.dtype), {name: np.zeros_like(x) for name, x in given.items()}
        arguments = [named.pop(name) for name in template.domain]
        if isinstance(named.get("normalizer"), np.ndarray) and not named["normalizer"].ndim:
            named["normalizer"] = float(named["normalizer"])
        with asked(1):  # the chunks share the cores
            if self.returns == "value":
                return template.plain_value(*arguments, **named), {}
            way: Any = template.both if self.part else fastest(template)
            value, gradient = way(*arguments, **named)
        if isinstance(gradient, Mapping):
            return value, dict(gradient)
        return value, {named.get("wrt", template.wrt[0]): gradient}


class _Masses(NamedTuple):
    """What the losses of one chunk count in the divisor.

    Attributes:
        loss: as in `_Task`, like `part` and `others`.
        names: of the arrays that are given.
        likes: the shapes of a row of the differentiable arguments, on which masses do not depend, and their dtypes.
        row: the shape of the losses of a row.
    """

    loss: str
    part: str
    names: tuple[str, ...]
    likes: Mapping[str, tuple[tuple[int, ...], str]]
    others: Mapping[str, Any]
    row: tuple[int, ...]

    def __call__(self, *blocks: Any) -> Any:
        """Return the masses, from the chunks of the arrays, and the bounds of the rows."""
        *given, bounds = map(_one, blocks)
        rows = int(bounds[1] - bounds[0])
        template = _template(self.loss, self.part)
        named = {**self.others, **dict(zip(self.names, given, strict=True))}
        named |= {n: np.broadcast_to(np.zeros((), dtype), (rows, *row)) for n, (row, dtype) in self.likes.items()}
        assert template.mass is not None  # or there would be no task
        try:
            mass = template.mass(*_of_call(template, named, "arrays"), **_of_call(template, named, "options"))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{_where(bounds)}{error}") from None
        return np.asarray(np.broadcast_to(1.0 if mass is None else mass, (rows, *self.row)), np.float64)


class _Part(NamedTuple):
    """The value of a chunk, or its gradient wrt `name`, with an axis of length 1 along which the chunks are added."""

    name: str
    shape: tuple[int, ...]

    def __call__(self, block: Any) -> Any:
        value, gradients = _one(block)
        return np.reshape(gradients[self.name] if self.name else value, (1, *self.shape))


class _Gradient(NamedTuple):
    """The gradient of a chunk wrt `name`."""

    name: str

    def __call__(self, block: Any) -> Any:
        return _one(block)[1][self.name]


def _value(block: Any) -> Any:
    return np.asarray(_one(block)[0])


def _one(block: Any) -> Any:
    """Return the only block along axes that the result does not have: Dask nests these in lists."""
    while isinstance(block, list):
        (block,) = block
    return block


def _where(bounds: Any) -> str:
    return f"rows {bounds[0]} … {bounds[1] - 1}: "


def _template(loss: str, part: str) -> Template:
    pair = catalogue().get(loss)
    if pair is None:
        raise ValueError(f"this process of Dask does not know {loss}: import the module that registers it there, too")
    return pair.terms.elements[part] if part else pair.terms


# --- what the arguments are -------------------------------------------------------------------------------------------


def _is_array(x: Any, is_wanted: bool) -> bool:
    return is_dask(x) or (isinstance(x, np.ndarray) and (x.ndim > 0 or is_wanted))


def _lazy(name: str, x: Any) -> Any:
    if not is_dask(x):
        return da.from_array(x, chunks=-1)
    if any(math.isnan(n) for n in x.shape):
        raise ValueError(f"{name} has chunks of unknown sizes: call its compute_chunk_sizes() first")
    return x


def _is_shared(template: Template, name: str) -> bool:
    """Whether all rows share an argument."""
    domain = template.domain.get(name)
    return bool(getattr(domain, "shared", False)) or isinstance(domain, (ClassNumbers, Directions))


def _whole_rows(x: Any) -> Any:
    """Return the array cut along the first axis alone: where it is, and within chunks that would be too large."""
    if all(n == 1 for n in x.numblocks[1:]):
        return x
    row = max(x.dtype.itemsize * math.prod(x.shape[1:]), 1)
    most = max(_largest_chunk() // row, 1)
    rows = tuple(min(most, n - start) for n in x.chunks[0] for start in range(0, max(n, 1), most))
    return x.rechunk((rows, *((n,) for n in x.shape[1:])))


def _largest_chunk() -> int:
    """Return the number of bytes up to which Dask's settings let arrays be joined."""
    return int(parse_bytes(dask.config.get("array.chunk-size")))


def _require_one_task(template: Template, arrays: Mapping[str, Any], is_number: bool) -> None:
    """Raise a ValueError unless every array is one chunk, or may be joined to one, and the loss is a number."""
    if any(x.npartitions > 1 and x.nbytes > _largest_chunk() for x in arrays.values()):
        raise ValueError(
            f"{template.name} of these arguments does not have a loss for each entry of axis 0 that depends on no "
            "other, so it is not computed by chunks: if the arrays fit in memory, rechunk(-1) each of them"
        )
    if not is_number:
        raise ValueError(f"{template.name} of these Dask arrays is only reduced to a number")


def _unreduced_shape(
    template: Template, arrays: Mapping[str, Any], others: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """Return the shape of the unreduced losses, or None if they are not independent along the first axis."""
    first = next(iter(arrays.values()))
    if template.elements:
        require_same_shape(**{name: x for name, x in arrays.items() if _is_of_rows(template, name)})
        shape: tuple[int, ...] = template.elements[template.wrt[0]].shape(first)
        return shape
    is_set = isinstance(next(iter(template.domain.values())), PointSets)
    shares_a_layer = any(isinstance(x, PerClass) for x in template.domain.values())
    may_be_apart = template.separable or (is_set and first.ndim > 2) or shares_a_layer
    if not may_be_apart or not first.ndim or others.get("pool_batch") or "reduction" not in template.passed_on:
        return None
    one, two = (_losses_of_rows(template, arrays, others, rows) for rows in (1, 2))
    if one[:1] != (1,) or two != (2, *one[1:]):
        return None
    for name, x in arrays.items():
        if _is_of_rows(template, name) and x.shape[:1] != first.shape[:1]:
            names = f"{next(iter(arrays))} and {name}"
            raise ValueError(f"{names} must have the same first axis, got shapes {first.shape} and {x.shape}")
    return (first.shape[0], *one[1:])


def _is_of_rows(template: Template, name: str) -> bool:
    domain = template.domain.get(name)
    return domain is not None and not isinstance(domain, Interval) and not _is_shared(template, name)


def _losses_of_rows(
    template: Template, arrays: Mapping[str, Any], others: Mapping[str, Any], rows: int
) -> tuple[int, ...]:
    """Return the shape of the unreduced losses of so many rows of such arrays, in which one legal number stands.

    The message about shapes that do not fit is about all rows.
    """
    last: tuple[int | None, float] = (None, 0.0)
    for of_rows, filled in ((rows, 1.0), (rows, 0.0), last):
        try:
            with unenforced(), quiet(np):
                arguments = _stand_ins(template, arrays, others, of_rows, filled)
                return tuple(np.shape(template.plain_value(*arguments, reduction="none")))
        except ValueError:
            if of_rows is None:
                raise
    raise AssertionError("the last call returns or raises")


def _stand_ins(
    template: Template, arrays: Mapping[str, Any], others: Mapping[str, Any], rows: int | None, filled: float
) -> list[Any]:
    """Return arguments with arrays of one number, which take no memory, in the place of Dask's; None for all rows."""
    found = dict(others)
    for name, x in arrays.items():
        shape = (rows, *x.shape[1:]) if _is_of_rows(template, name) and rows is not None else x.shape
        found[name] = _stand_in(shape, x.dtype, filled)
    return [found[name] for name in template.domain]


def _stand_in(shape: tuple[int, ...], dtype: Any, filled: float = 1.0) -> Any:
    return np.broadcast_to(np.asarray(filled).astype(dtype), shape)


def _of_call(template: Template, named: Mapping[str, Any], what: str) -> Any:
    """Return the arrays of a call by position, or its options by name."""
    options = {name: named[name] for name in template.domain if name in template.options}
    return options if what == "options" else [named[name] for name in template.domain if name not in options]


def _blockwise(
    function: Any,
    axes: tuple[int, ...],
    dtype: Any,
    *arrays: tuple[Any, tuple[int, ...]],
    sizes: Sequence[int] = (),
    lengths: Mapping[int, Any] = MappingProxyType({}),
) -> Any:
    """Return the results of a function of chunks as a Dask array.

    Args:
        function: of a chunk of each array.
        axes: those of the result along which it is cut like the arrays.
        dtype: of the result.
        *arrays: each with its axes; along an axis all have as many chunks, or one.
        sizes: the lengths of further axes of the result.
        lengths: those of the chunks of the result, by axis, where they are not those of the arrays.
    """
    further = tuple(range(_NEW, _NEW + len(sizes)))
    return da.blockwise(
        function,
        (*axes, *further),
        *(x for array in arrays for x in array),
        new_axes=dict(zip(further, sizes, strict=True)),
        adjust_chunks=dict(lengths),
        align_arrays=False,
        meta=np.empty((0,) * (len(axes) + len(further)), dtype),
        token=type(function).__name__.strip("_").lower(),
    )
