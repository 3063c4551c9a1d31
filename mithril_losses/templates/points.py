"""Work over all pairs of points of two sets, one tile of rows at a time, so that N × M numbers are never in memory.

Points are arrays (batch, n, d). Three drivers run the same tiles: loops over NumPy for CPU arrays (PyTorch's through
zero-copy views), `lax.scan` for JAX, and loops over the array's own library for everything else (accelerators,
`torch.compile`, autograd).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import (
    Array,
    array_namespace,
    host_values,
    in_c_order,
    is_dtype,
    library_name,
    placement,
    require_library,
)
from mithril_losses.backends.threads import thread_count
from mithril_losses.loops.compiling import has_numba
from mithril_losses.numerics.trees import leaves, map_leaves
from mithril_losses.numerics.validation import as_dtype, widest_dtype
from mithril_losses.templates.unreduced import Losses, Wanted

_PIECE = 96 * 1024  # bytes of a piece of a tile: temporary arrays fit the cache, and malloc maps no new pages
_FEW_COORDINATES = 4  # up to so many coordinates, differences are cheaper than a product
_CANCELS = 1.0 / 64.0  # below this part of ‖x‖² + ‖y‖², a squared distance from a product has lost too many digits
_TREE_DIMENSIONS = 8
_TILE_BYTES = 8 * 2**20  # of the logits of some rows with all columns


# --- the arguments ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sets:
    """Two batches of sets of points, ready to compute with.

    Attributes:
        xp: the namespace to compute in: NumPy for every array on the CPU that is not traced.
        x: (batch, n, d).
        y: (batch, m, d).
        shape: the leading axes that were flattened into the batch axis.
        given: the original arrays, by name.
    """

    xp: Any
    x: Array
    y: Array
    shape: tuple[int, ...]
    given: Mapping[str, Array]

    @staticmethod
    def of(*, numbers: tuple[Any, ...] = (), dtype: Any = None, **arrays: Array) -> Sets:
        """Check two arrays (…, n, d) and (…, m, d), given by name, and return their sets; one array is used twice.

        Args:
            numbers: options that may be in PyTorch's autograd graph, like the sets.
            dtype: the dtype to compute in; by default the widest dtype of the arrays.
            **arrays: the two arrays, or the one.

        Raises:
            ValueError: an array is not a set of points, or the two differ in more than the number of points.
            TypeError: they are not arrays of one library, or not floating point.
        """
        xp = array_namespace(**arrays)
        (first, x), *others = arrays.items()
        if not others and len(x.shape) < 2:
            raise ValueError(f"{first} must have shape (…, n, d), got {tuple(x.shape)}")
        second, y = others[0] if others else (first, x)
        shapes = tuple(x.shape), tuple(y.shape)
        if len(shapes[0]) < 2 or (shapes[0][:-2], shapes[0][-1]) != (shapes[1][:-2], shapes[1][-1]):
            raise ValueError(
                f"{first} and {second} must have shapes (…, n, d) and (…, m, d) with the same leading axes and the "
                f"same d, got {shapes[0]} and {shapes[1]}"
            )
        if shapes[0][-1] == 0:
            raise ValueError(f"points need at least one coordinate, got {first} of shape {shapes[0]}")
        dtype = widest_dtype(xp, **arrays) if dtype is None else dtype
        given = (x, y) if others else (x,)
        points = [xp.reshape(as_dtype(xp, p, dtype), (math.prod(p.shape[:-2]), *p.shape[-2:])) for p in given]
        if _is_on_host(xp, *points, *numbers):
            xp, points = np, [_to_host(p) for p in points]
        return Sets(xp, points[0], points[-1], shapes[0][:-2], arrays)

    def bring(self, option: Any) -> Any:
        """Return an option, a number or an array, to compute with: on the host if the points are there."""
        if self.xp is not np or option is None or isinstance(option, (bool, int, float)):
            return option
        values = _to_host(option)
        return float(values) if values.ndim == 0 else values

    def values(self, values: Array, like: Array, shape: tuple[int, ...] | None = None) -> Array:
        """Return values (batch, …) in the library of `like`, in the given shape or with the leading axes restored."""
        return self._return(values, like, (*self.shape, *values.shape[1:]) if shape is None else shape)

    def gradients(self, gradients: dict[str, Array], like: dict[str, Array]) -> dict[str, Array]:
        """Return finished gradients in the library, shape and dtype of the arguments in `like`."""
        xp = array_namespace(**like)
        shaped = {name: self._return(x, like[name], tuple(like[name].shape)) for name, x in gradients.items()}
        typed = {name: as_dtype(xp, x, like[name].dtype) for name, x in shaped.items()}
        # NumPy's scalars are not writable
        return {name: np.asarray(x) if xp is np and not x.shape else in_c_order(x) for name, x in typed.items()}

    def losses(self, values: Array | None, slopes: Mapping[str, Array]) -> Losses:
        """Return losses (batch,) and their slopes (batch, n, d) in the library and the shapes of the arguments.

        If `values` is None, they are not wanted, and zeros are returned in their place.
        """
        given = self.given
        values = self.xp.zeros_like(self.x[:, 0, 0]) if values is None else values
        return Losses(
            self._return(values, next(iter(given.values())), self.shape),
            lambda: {name: self.back(name, x) for name, x in slopes.items()},
        )

    def back(self, name: str, x: Array) -> Array:
        """Return numbers for each coordinate of a set in the library and the shape of the argument."""
        return self._return(x, self.given[name], tuple(self.given[name].shape))

    def nothing(self, wanted: Wanted) -> Losses:
        """Return the losses of empty sets: 0."""
        zeros = dict(zip(self.given, map(self.xp.zeros_like, (self.x, self.y)), strict=True))
        return self.losses(self.xp.sum(self.x, axis=(1, 2)) * 0.0, {name: zeros[name] for name in wanted})

    def _return(self, x: Array, like: Array, shape: tuple[int, ...]) -> Array:
        xp = array_namespace(like=like)
        return xp.reshape(_from_host(x) if self.xp is np and xp is not np else x, shape)


def per_point(sets: Sets, name: str, option: Array | None, points: Array, kind: str) -> Array | None:
    """Check an option with one element per point, and return it in the shape of the sets."""
    if option is None:
        return None
    xp = array_namespace(points=points)
    require_library(xp, name, option)
    if tuple(option.shape) != tuple(points.shape[:-1]):
        raise ValueError(
            f"{name} must have one element per point, shape {tuple(points.shape[:-1])}, got {tuple(option.shape)}"
        )
    if not is_dtype(xp, option.dtype, kind):
        raise TypeError(f"{name} must be of type {kind}, got {option.dtype}")
    flat = xp.reshape(option, (sets.x.shape[0], points.shape[-2]))
    return sets.bring(flat if kind == "bool" else as_dtype(xp, flat, getattr(xp, str(sets.x.dtype).split(".")[-1])))


def blanked(xp: Any, points: Array, mask: Array | None) -> Array:
    """Return the points with 0 in place of padding, which may hold anything."""
    return points if mask is None else xp.where(xp.expand_dims(mask, axis=-1), points, 0.0)


def shares(xp: Any, points: Array, weights: Array | None, mask: Array | None, other_mask: Array | None) -> Array:
    """Return the weight of each point in the mean over its set; 0 if the other set is empty."""
    shares = xp.ones_like(points[..., 0]) if weights is None else weights
    if mask is not None:
        shares = xp.where(mask, shares, 0.0)
    if other_mask is not None:
        shares = xp.where(xp.any(other_mask, axis=-1, keepdims=True), shares, 0.0)
    total = xp.sum(shares, axis=-1, keepdims=True)
    return shares / xp.where(total == 0, 1.0, total)


def is_transformed(x: Array) -> bool:
    """Whether a tensor is inside a transform of `torch.func`, such as `vmap` or `grad`."""
    import torch

    return not torch.compiler.is_compiling() and bool(torch._C._functorch.is_functorch_wrapped_tensor(x))


def _is_on_host(xp: Any, *arrays: Any) -> bool:
    if xp is np:
        return True
    if library_name(xp) != "torch":
        return False
    import torch

    return all(
        host_values(x) is not None and not (x.requires_grad and torch.is_grad_enabled())
        for x in arrays
        if isinstance(x, torch.Tensor)
    )


def _to_host(x: Any) -> Any:
    return x if isinstance(x, (np.ndarray, np.generic)) else x.detach().numpy()


def _from_host(x: np.ndarray[Any, Any]) -> Array:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


# --- kernels ------------------------------------------------------------------------------------------------------


class Points(NamedTuple):
    """Points, and the same points in a frame in which sums over pairs lose no digits to a common offset."""

    at: Array  # (…, n, d)
    frame: Array  # (…, n, d + 2): the points minus a centre, 1, and their squared norm

    def rows(self, start: int, stop: int | None = None) -> Points:
        """Return some of the points."""
        return Points(self.at[..., start:stop, :], self.frame[..., start:stop, :])


def framed(xp: Any, *sets: Array) -> tuple[Points, ...]:
    """Return sets of points (…, n, d) in one frame, centred between their means.

    The first point is subtracted before the means are taken. XLA computes a mean again in every loop that needs it, and
    rounds it differently each time; so no mean may be as large as a common offset.
    """
    origin = sets[0][..., :1, :]
    moved = [x - origin for x in sets]
    centre = sum(xp.mean(x, axis=-2, keepdims=True) for x in moved) / float(len(sets))
    return tuple(_framed(xp, x, at - centre) for x, at in zip(sets, moved, strict=True))


def _framed(xp: Any, x: Array, centred: Array) -> Points:
    squares = xp.sum(centred * centred, axis=-1, keepdims=True)
    return Points(x, xp.concat([centred, xp.ones_like(squares), squares], axis=-1))


class Kernel(NamedTuple):
    """A function k(x, y) of one number per pair of points, such as their distance.

    Attributes:
        measure: (xp, x, y, out) → one number per pair (…, n, m), in `out` if that is an array.
        pull: (xp, slopes, x, y) → Σⱼ slopeᵢⱼ ∂measureᵢⱼ/∂xᵢ.
        terms: (xp, measured, *static, *parameters) → the kernel and its derivative by the measured number.
        static: parameters that decide which code runs.
        fusable: whether the terms use only the vocabulary of element-wise terms, so that they can be compiled.
    """

    measure: Callable[[Any, Points, Points, Array | None], Array]
    pull: Callable[[Any, Array, Points, Points], Array]
    terms: Callable[..., tuple[Array, Array]]
    static: tuple[Any, ...] = ()
    fusable: bool = False

    def at(self, xp: Any, measured: Array, parameters: tuple[Any, ...]) -> tuple[Array, Array]:
        """Return the kernel of the measured numbers, and its slope."""
        return self.terms(xp, measured, *self.static, *parameters)

    def diagonal(self, xp: Any, x: Array, parameters: tuple[Any, ...]) -> tuple[Array, Array]:
        """Return k(xᵢ, xᵢ) and its derivative wrt xᵢ."""
        if self.measure is measure_distances:
            value, _ = self.at(xp, xp.zeros_like(x[..., 0]), parameters)
            return value, xp.zeros_like(x)
        value, slope = self.at(xp, xp.sum(x * x, axis=-1), parameters)
        return value, 2.0 * xp.expand_dims(slope, axis=-1) * x


def distance_kernel(terms: Callable[..., tuple[Array, Array]], *static: Any, fusable: bool = False) -> Kernel:
    """Return a kernel of the squared distance ‖x − y‖²."""
    return Kernel(measure_distances, _pull_distances, terms, static, fusable)


def product_kernel(terms: Callable[..., tuple[Array, Array]], *static: Any) -> Kernel:
    """Return a kernel of the inner product x·y."""
    return Kernel(_measure_products, _pull_products, terms, static)


def _measure_products(xp: Any, x: Points, y: Points, out: Array | None) -> Array:
    transposed = xp.matrix_transpose(y.at)
    return x.at @ transposed if out is None else np.matmul(x.at, transposed, out=out)


def _pull_products(xp: Any, slopes: Array, x: Points, y: Points) -> Array:
    return slopes @ y.at


def measure_distances(xp: Any, x: Points, y: Points, out: Array | None) -> Array:
    """Return the squared distances of all points of x from all points of y; NumPy may get `out` for them."""
    if xp is np and x.at.shape[-1] > _FEW_COORDINATES:
        return _distances_by_products(x, y, out)
    return squared_distances(xp, x.at, y.at, out)


def _pull_distances(xp: Any, slopes: Array, x: Points, y: Points) -> Array:
    """2 Σⱼ slopeᵢⱼ (xᵢ − yⱼ), with Σⱼ slopeᵢⱼ yⱼ and Σⱼ slopeᵢⱼ from one product."""
    d = x.at.shape[-1]
    moments = slopes @ y.frame[..., : d + 1]
    return 2.0 * (x.frame[..., :d] * moments[..., d:] - moments[..., :d])


def squared_distances(xp: Any, x: Array, y: Array, out: Array | None = None) -> Array:
    """Return ‖xᵢ − yⱼ‖² (…, n, m) from the differences: exact, and exactly 0 for points that coincide."""
    match library_name(xp):
        case "numpy":
            return _distances_by_coordinates(
                x, y, np.empty((*x.shape[:-1], y.shape[-2]), x.dtype) if out is None else out
            )
        case "torch" if not (is_transformed(x) or is_transformed(y)):  # vmap of cdist's backward is wrong
            distances = xp.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
            return distances * distances
        case "jax":
            return _distances_by_scan(x, y)
    squared = xp.zeros((*x.shape[:-1], y.shape[-2]), dtype=x.dtype, **placement(x))
    for k in range(x.shape[-1]):
        difference = xp.expand_dims(x[..., k], axis=-1) - xp.expand_dims(y[..., k], axis=-2)
        squared = squared + difference * difference
    return squared


def _distances_by_coordinates(x: Array, y: Array, squared: Array) -> Array:
    columns = [np.ascontiguousarray(y[..., None, :, k]) for k in range(y.shape[-1])]
    for start, stop in pieces(squared):
        total = squared[..., start:stop, :]
        total[...] = 0.0
        for k, column in enumerate(columns):
            difference = x[..., start:stop, k, None] - column
            difference *= difference
            total += difference
    return squared


def pieces(tile: Array) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows of a tile (…, n, m), one range per piece."""
    count = tile.shape[-2]
    step = max(1, _PIECE * count // max(tile.nbytes, 1))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def _distances_by_scan(x: Array, y: Array) -> Array:
    import jax

    from mithril_losses.shards.axes import varying_as

    def add(squared: Array, coordinate: tuple[Array, Array]) -> tuple[Array, None]:
        difference = coordinate[0][..., :, None] - coordinate[1][..., None, :]
        return squared + difference * difference, None

    start = varying_as(jax.numpy.zeros((*x.shape[:-1], y.shape[-2]), x.dtype), x, y)
    coordinates = jax.numpy.moveaxis(x, -1, 0), jax.numpy.moveaxis(y, -1, 0)
    return jax.lax.scan(add, start, coordinates, unroll=8)[0]


def _distances_by_products(x: Points, y: Points, out: Array | None) -> Array:
    """‖x‖² + ‖y‖² − 2 x·y in one product of NumPy arrays; where this cancels, from the differences."""
    d = x.at.shape[-1]
    left = np.concatenate([-2.0 * x.frame[..., :d], x.frame[..., d + 1 :], x.frame[..., d : d + 1]], axis=-1)
    squared = np.matmul(left, np.matrix_transpose(y.frame), out=out)
    x_limits, y_limits = _CANCELS * x.frame[..., :, d + 1 :], _CANCELS * y.frame[..., None, :, d + 1]
    cancelled, room = [], min(_PIECE, squared.size) // d
    for start, stop in pieces(squared):
        near = squared[..., start:stop, :] < x_limits[..., start:stop, :] + y_limits
        found = np.flatnonzero(near)
        if found.size:
            room -= found.size
            if room < 0:
                return squared_distances(np, x.at, y.at, squared)
            batch, i, j = np.unravel_index(found, near.shape)
            cancelled.append((batch, i + start, j))
    if cancelled:
        batch, i, j = map(np.concatenate, zip(*cancelled, strict=True))
        difference = x.at[batch, i] - y.at[batch, j]
        squared[batch, i, j] = np.vecdot(difference, difference)
    return squared


# --- sums over pairs ------------------------------------------------------------------------------------------------


def pair_sums(
    xp: Any,
    x: Array,
    y: Array,
    kernel: Kernel,
    parameters: tuple[Any, ...] = (),
    slopes: tuple[bool, bool] = (False, False),
) -> tuple[Array, Any, Any]:
    """Return Σᵢⱼ k(xᵢ, yⱼ) per batch element, and its derivatives wrt x and y if `slopes` is set."""
    if library_name(xp) == "jax":
        return compiled_scan("sums")(x, y, parameters, kernel=kernel, slopes=slopes)  # type: ignore[no-any-return]
    parts = []
    for part in batches(xp, x.shape[0], x.shape[-2] * y.shape[-2]):
        rows, columns = framed(xp, x[part, ...], y[part, ...])
        parts.append(_sums(xp, rows, columns, kernel, parameters, slopes))
    total, by_x, by_y = zip(*parts, strict=True)
    return joined(xp, total), joined(xp, by_x), joined(xp, by_y)


def self_sums(
    xp: Any, x: Array, kernel: Kernel, parameters: tuple[Any, ...] = (), slopes: bool = False
) -> tuple[Array, Any]:
    """Return Σᵢⱼ k(xᵢ, xⱼ) per batch element, over all i and j, and its derivative; every pair is computed once."""
    if library_name(xp) == "jax":
        total, by_x, _ = pair_sums(xp, x, x, kernel, parameters, (slopes, False))
        return total, 2.0 * by_x if slopes else None
    parts = []
    for part in batches(xp, x.shape[0], x.shape[-2] ** 2):
        (points,) = framed(xp, x[part, ...])
        parts.append(_half_sums(xp, points, kernel, parameters, slopes))
    total, by_x = zip(*parts, strict=True)
    return joined(xp, total), joined(xp, by_x)


def _sums(
    xp: Any, x: Points, y: Points, kernel: Kernel, parameters: tuple[Any, ...], slopes: tuple[bool, bool]
) -> tuple[Array, Any, Any]:
    total: Any = 0.0
    by_x: list[Any] = []
    by_y: Any = 0.0
    tile = _Tile(xp, kernel, parameters, any(slopes))
    for start, stop in row_blocks(xp, x.at, y.at.shape[-2]):
        rows = x.rows(start, stop)
        value, _, slope = tile(rows, y)
        total = total + value
        by_x.append(kernel.pull(xp, slope, rows, y) if slopes[0] else None)
        by_y = by_y + kernel.pull(xp, xp.matrix_transpose(slope), y, rows) if slopes[1] else None
    return total, joined(xp, by_x, axis=-2), by_y


def _half_sums(xp: Any, x: Points, kernel: Kernel, parameters: tuple[Any, ...], slopes: bool) -> tuple[Array, Any]:
    total: Any = 0.0
    gradient = xp.zeros_like(x.at) if slopes else None
    tile = _Tile(xp, kernel, parameters, slopes)
    for start, stop in row_blocks(xp, x.at, x.at.shape[-2]):
        rows, columns, own = x.rows(start, stop), x.rows(start), stop - start
        value, diagonal, slope = tile(rows, columns, own)
        # the block on the diagonal contains its pairs in both orders; all other pairs count twice
        total = total + 2.0 * value - diagonal
        if gradient is not None:
            gradient[:, start:stop, :] += kernel.pull(xp, slope, rows, columns)
            mirrored = xp.matrix_transpose(slope[..., own:])
            gradient[:, stop:, :] += kernel.pull(xp, mirrored, columns.rows(own), rows)
    return total, None if gradient is None else 2.0 * gradient


class _Tile:
    """Kernels of a tile of pairs; in NumPy one buffer serves all tiles."""

    def __init__(self, xp: Any, kernel: Kernel, parameters: tuple[Any, ...], slopes: bool) -> None:
        self._xp, self._kernel, self._parameters, self._slopes = xp, kernel, parameters, slopes
        self._buffers: dict[str, Any] = {}

    def __call__(self, x: Points, y: Points, own: int = 0) -> tuple[Array, Array, Array]:
        """Return the sum of the kernel over all pairs and over the first `own` columns, and its slopes."""
        xp = self._xp
        if xp is not np:
            values, slope = self._kernel.at(xp, self._kernel.measure(xp, x, y, None), self._parameters)
            return _total(xp, values), _total(xp, values[..., :own]), slope
        shape = (*x.at.shape[:-1], y.at.shape[-2])
        measured = self._kernel.measure(np, x, y, self._buffer("measured", shape, x.at.dtype))
        if self._kernel.fusable and shape[0] == 1 and may_be_compiled(measured.size):
            part, _ = self._fused(np.ascontiguousarray(measured[..., :own])) if own else (np.zeros(1), None)
            total, slope = self._fused(measured)
            return total, part, slope
        return self._in_pieces(measured, own)

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size, dtype)
        return self._buffers[name][:size].reshape(shape)

    def _fused(self, measured: Array) -> tuple[Array, Array]:
        from mithril_losses.loops import elements as fused

        slope = self._buffer("slope", measured.shape, measured.dtype)
        options, now = [*self._kernel.static, *self._parameters], limits.current
        total, _ = fused.run(
            self._kernel.terms,
            [measured],
            [None],
            options,
            None,
            1.0,
            values=None,
            gradients=[slope],
            threads=thread_count() if measured.size >= now.shared else 1,
            group=now.group,
        )
        return np.array([total]), slope

    def _in_pieces(self, measured: Array, own: int) -> tuple[Array, Array, Array]:
        """Work on pieces that stay in the cache; slopes overwrite the measured numbers."""
        total, part = np.zeros(measured.shape[:-2]), np.zeros(measured.shape[:-2])
        for start, stop in pieces(measured):
            values, slope = self._kernel.at(np, measured[..., start:stop, :], self._parameters)
            total += _total(np, values)
            part += _total(np, values[..., :own])
            if self._slopes:
                measured[..., start:stop, :] = slope
        return total, part, measured


def may_be_compiled(pairs: int) -> bool:
    """Whether a compiled loop over a tile of so many pairs is possible, and faster."""
    return pairs >= limits.current.compiled_pairs and limits.current.compiled and has_numba()


def _total(xp: Any, values: Array) -> Array:
    """Sum over rows, then over columns; in NumPy, the second sum is in float64."""
    rows = xp.sum(values, axis=-1)
    return np.sum(rows, axis=-1, dtype=np.float64) if xp is np else xp.sum(rows, axis=-1)


def batches(xp: Any, batch: int, pairs: int) -> Iterator[slice]:
    """Yield slices of as many batch elements as fit a tile, at least one; an empty batch is one slice."""
    size = max(1, _tile_size(xp) // max(pairs, 1))
    for start in range(0, max(batch, 1), size):
        yield slice(start, min(start + size, batch))


def row_blocks(xp: Any, x: Array, columns: int) -> Iterator[tuple[int, int]]:
    """Yield blocks of rows of x whose pairs with so many columns fill a tile."""
    count = x.shape[-2]
    step = max(1, _tile_size(xp) // max(1, math.prod(x.shape[:-2]) * columns))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def _tile_size(xp: Any) -> int:
    return limits.current.tile if xp is np else limits.current.wide_tile


def joined(xp: Any, parts: Any, axis: int = 0) -> Any:
    """Return parts as one array, or None if the parts are None."""
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    return xp.concat(list(parts), axis=axis)


def two_sample_sums(
    sets: Sets,
    kernel: Kernel,
    parameters: tuple[Any, ...],
    shares: tuple[float, float, float],
    *,
    value: bool,
    slopes: tuple[bool, bool],
) -> tuple[tuple[Array, Array, Array] | None, tuple[Any, Any]]:
    """Return the parts of a Σ k(x, x′) + b Σ k(y, y′) + c Σ k(x, y), (a, b, c) = `shares`, and its derivatives.

    Only what is wanted is computed: the parts are None unless `value` is set.
    """
    xp, x, y = sets.xp, sets.x, sets.y
    a, b, c = shares
    across, across_x, across_y = pair_sums(xp, x, y, kernel, parameters, slopes)
    own_x: tuple[Any, Any] = self_sums(xp, x, kernel, parameters, slopes[0]) if value or slopes[0] else (0.0, None)
    own_y: tuple[Any, Any] = self_sums(xp, y, kernel, parameters, slopes[1]) if value or slopes[1] else (0.0, None)
    by_x: Any = a * own_x[1] + c * across_x if slopes[0] else None
    by_y: Any = b * own_y[1] + c * across_y if slopes[1] else None
    return (a * own_x[0], b * own_y[0], c * across) if value else None, (by_x, by_y)


# --- nearest neighbours ---------------------------------------------------------------------------------------------


def nearest(xp: Any, x: Array, y: Array, candidates: Array | None = None) -> Array:
    """Return, for every point of x, the index of the nearest point of y; at a tie, of the first one.

    Args:
        xp: the namespace of the arrays.
        x: (batch, n, d).
        y: (batch, m, d), m ≥ 1.
        candidates: (batch, m), which points of y are allowed; all by default.
    """
    if library_name(xp) == "jax":
        return compiled_scan("nearest")(x, y, candidates)
    pairs = x.shape[-2] * y.shape[-2]
    if xp is np and _tree_is_faster(pairs, x.shape[-1]) and _has_moderate_squares(x) and _has_moderate_squares(y):
        allowed = [None] * len(x) if candidates is None else candidates
        return np.stack([_nearest_by_tree(*element) for element in zip(x, y, allowed, strict=True)])
    parts = []
    for part in batches(xp, x.shape[0], pairs):
        columns, allowed, blocks = y[part, ...], None if candidates is None else candidates[part, ...], []
        for start, stop in row_blocks(xp, x[part, ...], y.shape[-2]):
            squared = squared_distances(xp, x[part, start:stop, :], columns)
            blocks.append(xp.argmin(squared if allowed is None else _only(xp, allowed, squared), axis=-1))
        parts.append(joined(xp, blocks, axis=-1))
    return joined(xp, parts)


def _only(xp: Any, candidates: Array, squared: Array) -> Array:
    """Return the squared distances, with infinity for points that are not candidates."""
    return xp.where(xp.expand_dims(candidates, axis=-2), squared, math.inf)


def _tree_is_faster(pairs: int, dimensions: int) -> bool:
    return dimensions <= _TREE_DIMENSIONS and pairs >= limits.current.tree


def _has_moderate_squares(x: np.ndarray[Any, Any]) -> bool:
    """Whether squared distances neither overflow nor are NaN: a tree would treat these differently from the tiles."""
    return x.size > 0 and bool(np.abs(x).max() < math.sqrt(float(np.finfo(x.dtype).max) / (4.0 * x.shape[-1])))


def _nearest_by_tree(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], candidates: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any]:
    """Return the same indices as the tiles, also at ties and with rounding: the tree only selects candidates.

    A point is a candidate unless it is further away than the nearest point by more than rounding. If the last of the
    requested neighbours is still a candidate, more neighbours are requested; if there are very many, the tiles decide.
    """
    from scipy.spatial import cKDTree

    if candidates is not None:
        kept = np.flatnonzero(candidates)
        return kept[_nearest_by_tree(x, y[kept], None)] if kept.size else np.zeros(len(x), dtype=np.intp)
    info = np.finfo(x.dtype)
    reach = 1.0 + (x.shape[-1] + 2) * float(info.eps)
    underflow = 4.0 * math.sqrt(float(info.smallest_normal))
    tree = cKDTree(y, balanced_tree=False)  # a balanced tree costs more than it saves
    found = np.empty(len(x), dtype=np.intp)
    open_rows, asked = np.arange(len(x)), 2
    while open_rows.size and asked <= 32:
        distances, indices = tree.query(x[open_rows], k=range(1, min(asked, len(y)) + 1), workers=thread_count())
        settled = (distances[:, -1] > reach * distances[:, 0] + underflow) | (asked >= len(y))
        indices = np.sort(indices[settled], axis=-1)
        rows = open_rows[settled]
        squared = squared_distances(np, x[rows, None, :], y[indices])[:, 0, :]
        found[rows] = indices[np.arange(len(rows)), np.argmin(squared, axis=-1)]
        open_rows, asked = open_rows[~settled], 4 * asked
    for start, stop in row_blocks(np, x[open_rows], len(y)):
        rows = open_rows[start:stop]
        found[rows] = np.argmin(squared_distances(np, x[rows], y), axis=-1)
    return found


def take(xp: Any, y: Array, indices: Array) -> Array:
    """Return the points y[b, indices[b, i]]."""
    return xp.take_along_axis(y, xp.expand_dims(indices, axis=-1), axis=-2)


def add_at(xp: Any, indices: Array, values: Array, count: int) -> Array:
    """Return (batch, count, d) with values[b, i] added at indices[b, i]: the transpose of `take`."""
    batch, _, d = values.shape
    match library_name(xp):
        case "jax":
            return xp.zeros((batch, count, d), values.dtype).at[xp.arange(batch)[:, None], indices].add(values)
        case "torch":
            places = xp.broadcast_to(xp.expand_dims(indices, axis=-1), values.shape)
            return xp.zeros((batch, count, d), dtype=values.dtype, device=values.device).scatter_add(1, places, values)
        case "numpy":
            flat = (indices + count * np.arange(batch)[:, None]).ravel()
            columns = values.reshape(-1, d).T
            sums = [np.bincount(flat, weights=column, minlength=batch * count) for column in columns]
            added = np.stack(sums, axis=-1).reshape(batch, count, d) if d else np.zeros((batch, count, d))
            return added.astype(values.dtype)
    # the array API standard has no function for this
    added = xp.zeros((batch, count, d), dtype=values.dtype, **placement(values))
    places = xp.reshape(xp.arange(count, dtype=indices.dtype, **placement(values)), (count, 1, 1))
    for start, stop in row_blocks(xp, values, count * d):
        chosen = indices[:, None, start:stop, None] == places
        added = added + xp.sum(xp.where(chosen, values[:, None, start:stop, :], 0.0), axis=-2)
    return added


# --- JAX --------------------------------------------------------------------------------------------------------------


@functools.cache
def compiled_scan(name: str) -> Any:
    """Return a function that is jitted once, so that a second call with the same shapes compiles nothing."""
    import jax

    if name == "sums":
        return jax.jit(_scanned_sums, static_argnames=("kernel", "slopes"))
    return jax.jit(_scanned_nearest)


def _scanned_sums(
    x: Array, y: Array, parameters: tuple[Any, ...], kernel: Kernel, slopes: tuple[bool, bool]
) -> tuple[Array, Any, Any]:
    from mithril_losses.backends.namespaces import jax as jnp

    def one(element: tuple[Array, Array]) -> tuple[Array, Any, Any]:
        x, y = element
        points, columns = framed(jnp, x, y)

        def step(by_y: Array | None, rows: Points) -> tuple[Array | None, tuple[Array, Array | None]]:
            values, slope = kernel.at(jnp, kernel.measure(jnp, rows, columns, None), parameters)
            by_x = kernel.pull(jnp, slope, rows, columns) if slopes[0] else None
            if by_y is not None:
                by_y = by_y + kernel.pull(jnp, slope.mT, columns, rows)
            return by_y, (jnp.sum(values, axis=-1), by_x)

        by_y, (totals, by_x) = scan_rows(step, jnp.zeros_like(y) if slopes[1] else None, points, y)
        return jnp.sum(totals), by_x, by_y

    return map_batch(one, (x, y), x.shape[-2] * y.shape[-2])  # type: ignore[no-any-return]


def _scanned_nearest(x: Array, y: Array, candidates: Array | None) -> Array:
    import jax

    from mithril_losses.backends.namespaces import jax as jnp

    def one(element: tuple[Array, Array, Array | None]) -> Array:
        x, y, candidates = element
        places = jnp.arange(len(y), dtype=jnp.int32)

        def step(_: None, rows: Array) -> tuple[None, Array]:
            squared = jax.lax.stop_gradient(squared_distances(jnp, rows, y))
            squared = squared if candidates is None else _only(jnp, candidates, squared)
            least = jnp.min(squared, axis=-1, keepdims=True)
            # XLA's argmin is ten times slower than this on the CPU
            return None, jnp.min(jnp.where((squared == least) | jnp.isnan(squared), places, len(y)), axis=-1)

        return scan_rows(step, None, x, y)[1]

    return map_batch(one, (x, y, candidates), x.shape[-2] * y.shape[-2])


def map_batch(function: Callable[..., Any], arrays: tuple[Any, ...], pairs: int) -> Any:
    """Map the function over the batch, with as many elements at a time as fit a tile."""
    import jax

    size = max(1, limits.current.wide_tile // pairs)
    if arrays[0].shape[0] <= size:
        return jax.vmap(lambda *element: function(element))(*arrays)
    return jax.lax.map(function, arrays, batch_size=size)


def scan_rows(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, rows: Any, columns: Array) -> tuple[Any, Any]:
    """Run `step` over blocks of rows: the full blocks in one scan, then the remaining rows."""
    import jax

    from mithril_losses.shards.axes import varying_as

    carry = varying_as(carry, rows, columns)
    step = jax.checkpoint(step)  # autodiff computes a tile again in the backward pass instead of keeping it
    count = jax.tree.leaves(rows)[0].shape[0]
    size = max(1, min(count, limits.current.wide_tile // (columns.shape[0] * max(1, columns.shape[1] // 64))))
    full = count // size * size
    blocks = jax.tree.map(lambda x: x[:full].reshape(-1, size, *x.shape[1:]), rows)
    carry, results = jax.lax.scan(step, carry, blocks)
    results = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)
    if full < count:
        carry, rest = step(carry, jax.tree.map(lambda x: x[full:], rows))
        results = jax.tree.map(lambda *parts: jax.numpy.concatenate(parts), results, rest)
    return carry, results


# --- tiles in any library ---------------------------------------------------------------------------------------------


def over_tiles(
    xp: Any,
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    rows: Any,
    columns: Array,
    empty: Any,
    most: int | None = None,
) -> tuple[Any, Any]:
    """Run `step` over tiles of rows, and return what it carries, and its results joined.

    Args:
        xp: the namespace of the arrays.
        step: a function of the carry and of some rows that returns the carry and the results of these rows.
        carry: what it starts with.
        rows: a nesting of tuples of arrays with an entry for each row.
        columns: with which each row has a logit.
        empty: the results if there are no rows, or no columns.
        most: the number of columns that decides how many rows a tile has, if it must be the same on several shards.
    """
    arrays = [x for _, x in leaves(rows) if x is not None]
    count = arrays[0].shape[0]
    if count == 0 or columns.shape[0] == 0:
        return carry, empty
    if library_name(xp) == "jax":
        return scan_rows(step, carry, rows, columns)
    size = max(1, _TILE_BYTES // ((most or columns.shape[0]) * (xp.finfo(columns.dtype).bits // 8)))
    results = []
    for start in range(0, count, size):
        at = slice(start, start + size)
        carry, found = step(carry, map_leaves(lambda _, x, at=at: None if x is None else x[at], rows))  # type: ignore[misc]
        results.append(found)
    if not isinstance(results[0], tuple):
        return carry, xp.concat(results, axis=0)
    return carry, map_tuple(results[0], [xp.concat(parts, axis=0) for parts in zip(*results, strict=True)])


def map_tuple(like: Any, parts: list[Any]) -> Any:
    """Return the parts as a tuple like another, with names if that has them."""
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
