"""Losses between triangle meshes that share their faces, with functions for their edges and normals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import numpy as np

from mithril_losses import limits
from mithril_losses.backends.namespaces import (
    Array,
    ArrayT,
    array_namespace,
    host_values,
    is_dtype,
    placement,
    require_library,
)
from mithril_losses.catalogue import both_of, given, gradient_of
from mithril_losses.domains import NON_NEGATIVE, REAL, Edges, PointSets
from mithril_losses.execution import value_and_gradient
from mithril_losses.losses.regression import mse_loss
from mithril_losses.numerics.reduction import GradientReduction, Reduction
from mithril_losses.numerics.stable import dot, first_axis, floored, last_axis, norm_and_unit, sum_of_few
from mithril_losses.numerics.validation import as_dtype, quiet, require_same_shape, widest_dtype
from mithril_losses.templates.points import add_at
from mithril_losses.templates.unreduced import Curvature, Losses, Named, Wanted, unreduced

__all__ = [
    "MeshLoss",
    "face_normals",
    "face_normals_gradient",
    "mesh_edge_loss",
    "mesh_edge_loss_gradient",
    "mesh_edge_loss_value_and_gradient",
    "mesh_laplacian_loss",
    "mesh_laplacian_loss_gradient",
    "mesh_laplacian_loss_value_and_gradient",
    "mesh_normal_loss",
    "mesh_normal_loss_gradient",
    "unique_edges",
    "vertex_normals",
    "vertex_normals_gradient",
]


# --- indices of vertices ------------------------------------------------------------------------------------------


class _Vertices(NamedTuple):
    """Vertices (…, n, d) in the dtype to compute in, with functions of indices of vertices."""

    xp: Any
    at: Array

    @staticmethod
    def of(**vertices: Array) -> list[_Vertices]:
        xp = array_namespace(**vertices)
        require_same_shape(**vertices)
        (name, first), *_ = vertices.items()
        if len(first.shape) < 2:
            raise ValueError(f"{name} must have shape (…, vertices, coordinates), got {tuple(first.shape)}")
        dtype = widest_dtype(xp, **vertices)
        return [_Vertices(xp, as_dtype(xp, x, dtype)) for x in vertices.values()]

    def indices(self, name: str, indices: Array, corners: int) -> tuple[list[Array], Array | None]:
        """Return the columns of an array of indices (m, corners), and whether one of the indices is out of range.

        If values can be read, an index out of range raises, and the second result is None. If they cannot be read, such
        an index is replaced by 0, and the caller makes the result NaN.
        """
        xp, count = self.xp, self.at.shape[-2]
        indices = _integers(xp, name, indices, corners)
        seen = host_values(indices)
        if seen is not None:
            if (wrong := (seen < 0) | (seen >= count)).any():
                raise ValueError(f"{name} point at vertex {seen[wrong][0]}, but there are {count}")
            nowhere = None
        else:
            wrong = (indices < 0) | (indices >= count)
            nowhere, indices = xp.any(wrong), xp.where(wrong, 0, indices)
        return [indices[:, corner] for corner in range(corners)], nowhere

    def take(self, indices: Array) -> Array:
        """Return the vertices at the indices: (…, m, d)."""
        return self.xp.take(self.at, indices, axis=-2)

    def add_at(self, indices: Array, values: Array) -> Array:
        """Return (…, n, d) with values[…, i, :] added at indices[i]: the transpose of `take`."""
        *batch, count, d = values.shape
        rows = math.prod(batch)
        places = self.xp.broadcast_to(indices[None, :], (rows, count))
        added = add_at(self.xp, places, self.xp.reshape(values, (rows, count, d)), self.at.shape[-2])
        return self.xp.reshape(added, (*batch, self.at.shape[-2], d))


def _integers(xp: Any, name: str, indices: Array, corners: int) -> Array:
    require_library(xp, name, indices)
    if not is_dtype(xp, indices.dtype, "integral"):
        raise TypeError(f"{name} must be integers, got {indices.dtype}")
    if len(indices.shape) != 2 or indices.shape[1] != corners:
        raise ValueError(f"{name} must have shape (n, {corners}), got {tuple(indices.shape)}")
    return indices if is_dtype(xp, indices.dtype, "signed integer") else xp.astype(indices, xp.int64)


def _or_nan(xp: Any, x: Array, nowhere: Array | None) -> Array:
    return x if nowhere is None else xp.where(nowhere, float("nan"), x)


def unique_edges(faces: Array) -> Array:
    """Return the edges of triangles, each one once: pairs (i, j) of vertices with i < j, in ascending order.

    Args:
        faces: (m, 3), integers: the vertices of each triangle.

    Returns:
        (number of edges, 2), of the type of the faces. Inside `jax.jit` and `torch.compile` and on accelerators, where
        values cannot be read, the shape is (3 m, 2), with (0, 0) in place of repeated edges: an edge from a vertex to
        itself, which every loss ignores.

    Raises:
        ValueError: the shape is different.
        TypeError: the faces are not an array, or not integers.

    Example:
        Two triangles that share the edge (1, 2).

        >>> import numpy as np
        >>> unique_edges(np.array([[0, 1, 2], [2, 1, 3]])).tolist()
        [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    """
    xp = array_namespace(faces=faces)
    corners = _integers(xp, "faces", faces, 3)
    starts = xp.reshape(corners, (-1,))
    ends = xp.reshape(xp.roll(corners, -1, axis=1), (-1,))
    low, high = xp.minimum(starts, ends), xp.maximum(starts, ends)
    seen = host_values(faces)
    if seen is not None:
        pairs = np.unique(np.stack([host_values(low), host_values(high)], axis=-1), axis=0)  # type: ignore[list-item]
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        return xp.asarray(pairs, dtype=faces.dtype, **placement(faces))
    order = xp.argsort(high, stable=True)
    order = xp.take(order, xp.argsort(xp.take(low, order), stable=True))
    low, high = xp.take(low, order), xp.take(high, order)
    again = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
    padding = xp.concat([low[:1] != low[:1], again]) | (low == high)
    return xp.astype(xp.stack([xp.where(padding, 0, x) for x in (low, high)], axis=-1), faces.dtype)


# --- normals --------------------------------------------------------------------------------------------------------


def _cross(xp: Any, x: Array, y: Array) -> Array:
    def turned(x: Array, by: int) -> Array:
        return xp.roll(x, -by, axis=-1)

    return turned(x, 1) * turned(y, 2) - turned(x, 2) * turned(y, 1)


class _Triangles(NamedTuple):
    """Triangles with two of their sides. The cross product of the sides is the normal; its length is twice the area."""

    vertices: _Vertices
    corners: list[Array]
    sides: tuple[Array, Array]
    normals: Array

    @staticmethod
    def of(vertices: Array, faces: Array) -> _Triangles:
        (points,) = _Vertices.of(vertices=vertices)
        if vertices.shape[-1] != 3:
            raise ValueError(f"normals need vertices with 3 coordinates, got shape {tuple(vertices.shape)}")
        corners, nowhere = points.indices("faces", faces, 3)
        a, b, c = (points.take(corner) for corner in corners)
        sides = b - a, c - a
        return _Triangles(points, corners, sides, _or_nan(points.xp, _cross(points.xp, *sides), nowhere))

    def at_vertices(self) -> Array:
        """Return the sum of the normals of the triangles that meet at each vertex."""
        first, *others = (self.vertices.add_at(corner, self.normals) for corner in self.corners)
        return first + others[0] + others[1]

    def pull(self, slope: Array) -> Array:
        """Return the derivative of Σ slope · normal wrt the vertices."""
        xp, (first, second) = self.vertices.xp, self.sides
        by_first, by_second = _cross(xp, second, slope), _cross(xp, slope, first)
        a, b, c = self.corners
        at = self.vertices.add_at
        return at(b, by_first) + at(c, by_second) - at(a, by_first + by_second)


def _pull_unit(xp: Any, x: Array, slope: Array, dtype: Any) -> Array:
    """Return the derivative of Σ slope · x / ‖x‖ wrt x, 0 where x = 0."""
    norm, unit = norm_and_unit(xp, x, 2.0)
    norm, along = xp.expand_dims(norm, axis=-1), xp.sum(slope * unit, axis=-1, keepdims=True)
    return xp.where(norm == 0, 0.0, (slope - along * unit) / floored(xp, norm, dtype))


def face_normals(vertices: Array, faces: Array) -> Array:
    """n = (b − a) × (c − a) / ‖·‖ for each triangle (a, b, c), 0 for one without an area.

    Args:
        vertices: (…, n, 3); any leading axes are the batch.
        faces: (m, 3), integers, counterclockwise as seen from outside.

    Returns:
        Unit vectors (…, m, 3), of the type of the vertices.

    Raises:
        ValueError: the shapes do not fit, or a face points at no vertex. Inside a trace, its normal is NaN.
        TypeError: an argument is not an array, the vertices are not floating point, or the faces are not integers.

    Example:
        >>> import numpy as np
        >>> face_normals(np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), np.array([[0, 1, 2]])).tolist()
        [[0.0, 0.0, 1.0]]
    """
    with quiet(array_namespace(vertices=vertices)):
        triangles = _Triangles.of(vertices, faces)
        _, units = norm_and_unit(triangles.vertices.xp, triangles.normals, 2.0)
        return as_dtype(triangles.vertices.xp, units, vertices.dtype)


def face_normals_gradient(vertices: Array, faces: Array, *, upstream: Array) -> Array:
    """∂(Σ u · n), u = upstream: ∂b = (c − a) × g, ∂c = g × (b − a), ∂a = −∂b − ∂c, with g = (u − (u · n) n) / ‖·‖.

    Example:
        Moving (2, 0, 0) up by a small step tilts the normal towards −x by half of the step.

        >>> import numpy as np
        >>> vertices = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> along_x = np.array([[1.0, 0.0, 0.0]])
        >>> face_normals_gradient(vertices, np.array([[0, 1, 2]]), upstream=along_x).tolist()
        [[0.0, 0.0, 0.5], [0.0, 0.0, -0.5], [0.0, 0.0, 0.0]]
    """
    with quiet(array_namespace(vertices=vertices)):
        triangles = _Triangles.of(vertices, faces)
        xp = triangles.vertices.xp
        slope = _pull_unit(xp, triangles.normals, _flowing_in(xp, triangles.normals, upstream), vertices.dtype)
        return as_dtype(xp, triangles.pull(slope), vertices.dtype)


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """n = Σ (b − a) × (c − a) / ‖·‖ over the triangles that meet at each vertex, 0 where that sum is.

    So each triangle has its area as weight.

    Args:
        vertices: (…, n, 3); any leading axes are the batch.
        faces: (m, 3), integers, counterclockwise as seen from outside.

    Returns:
        Unit vectors (…, n, 3), of the type of the vertices.

    Raises:
        ValueError: the shapes do not fit, or a face points at no vertex. Inside a trace, normals are NaN.
        TypeError: an argument is not an array, the vertices are not floating point, or the faces are not integers.

    Example:
        Two triangles of the same area meet at a right angle along the x axis.

        >>> import numpy as np
        >>> vertices = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> vertex_normals(vertices, np.array([[0, 1, 2], [1, 0, 3]]))[0].round(6).tolist()
        [0.0, 0.707107, 0.707107]
    """
    with quiet(array_namespace(vertices=vertices)):
        triangles = _Triangles.of(vertices, faces)
        _, units = norm_and_unit(triangles.vertices.xp, triangles.at_vertices(), 2.0)
        return as_dtype(triangles.vertices.xp, units, vertices.dtype)


def vertex_normals_gradient(vertices: Array, faces: Array, *, upstream: Array) -> Array:
    """∂(Σ u · n)/∂ vertices, u = upstream: each normal hands (u − (u · n) n) / ‖·‖ on to the triangles around it.

    Example:
        With one triangle, its normal is that of all three vertices.

        >>> import numpy as np
        >>> vertices = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> along_x = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> vertex_normals_gradient(vertices, np.array([[0, 1, 2]]), upstream=along_x).tolist()
        [[0.0, 0.0, 0.5], [0.0, 0.0, -0.5], [0.0, 0.0, 0.0]]
    """
    with quiet(array_namespace(vertices=vertices)):
        triangles = _Triangles.of(vertices, faces)
        xp, sums = triangles.vertices.xp, triangles.at_vertices()
        slopes = _Vertices(xp, _pull_unit(xp, sums, _flowing_in(xp, sums, upstream), vertices.dtype))
        a, b, c = (slopes.take(corner) for corner in triangles.corners)
        return as_dtype(xp, triangles.pull(a + b + c), vertices.dtype)


def _flowing_in(xp: Any, normals: Array, upstream: Array) -> Array:
    require_library(xp, "upstream", upstream)
    require_same_shape(normals=normals, upstream=upstream)
    return as_dtype(xp, upstream, normals.dtype)


def _lengths(vectors: Array) -> Array:
    xp = array_namespace(vectors=vectors)
    return norm_and_unit(xp, vectors, 2.0)[0]


@unreduced(
    curved=True,
    kinks=lambda pred_normals, target_normals: (_lengths(pred_normals),),
    pred_normals=REAL,
    target_normals=REAL,
)
def _normal(pred_normals: Array, target_normals: Array, wanted: Wanted) -> Losses:
    xp = array_namespace(pred_normals=pred_normals, target_normals=target_normals)
    require_same_shape(pred_normals=pred_normals, target_normals=target_normals)
    if len(pred_normals.shape) == 0:
        raise ValueError("normals need a coordinate axis, got scalars")
    dtype = widest_dtype(xp, pred_normals=pred_normals, target_normals=target_normals)
    x, t = (first_axis(xp, as_dtype(xp, n, dtype)) for n in (pred_normals, target_normals))
    (norm, unit), (target_norm, target) = norm_and_unit(xp, x, 2.0, axis=0), norm_and_unit(xp, t, 2.0, axis=0)
    difference = unit - target
    undirected = (norm == 0) | (target_norm == 0)
    values = (
        xp.where(undirected, 1.0, 0.5 * sum_of_few(xp, difference * difference, 0)[0, ...]) if wanted.value else norm
    )

    def slopes() -> dict[str, Array]:
        along = sum_of_few(xp, difference * unit, 0)
        slope = xp.where(undirected, 0.0, (difference - along * unit) / floored(xp, norm, pred_normals.dtype))
        return {"pred_normals": last_axis(xp, slope)}

    def curvature() -> Curvature:
        """H = (t uᵀ + u tᵀ + c (I − 3 u uᵀ)) / ‖n‖², with the directions u, t and their cosine c."""
        size = floored(xp, norm, pred_normals.dtype)
        cosine = xp.sum(unit * target, axis=0)

        def named(x: Array) -> Named:
            return {"pred_normals": last_axis(xp, xp.where(undirected, 0.0, x / size / size))}

        def times(vectors: Named) -> Named:
            v = first_axis(xp, vectors["pred_normals"])
            along, across = xp.sum(unit * v, axis=0), xp.sum(target * v, axis=0)
            return named(target * along + unit * across + cosine * (v - 3.0 * along * unit))

        return Curvature(times, lambda: named(2.0 * target * unit + cosine * (1.0 - 3.0 * unit * unit)))

    return Losses(values, slopes, curvature=curvature)


def mesh_normal_loss(pred_normals: ArrayT, target_normals: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over normals of 1 − cos(n, n*) = ½ ‖n/‖n‖ − n*/‖n*‖‖², n = pred_normals, n* = target_normals.

    Args:
        pred_normals: n, (…, coordinates), of any length.
        target_normals: n*, the same shape.
        **reduction: see `reduce_loss`; the unreduced losses are one per normal.

    Returns:
        A scalar between 0 and 2 (one loss per normal for reduction="none"). A zero vector has the cosine 0.

    Raises:
        ValueError: the shapes differ, or a reduction keyword does not fit.
        TypeError: an argument is not an array, or not floating point.

    Example:
        The same direction, and a right angle.

        >>> import numpy as np
        >>> n, target = np.array([[0.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
        >>> float(mesh_normal_loss(n, target))
        0.5

    Source:
        Related to N. Wang et al., Pixel2Mesh: Generating 3D Mesh Models from Single RGB Images, 2018, §3.5, which
        wants edges at right angles to the normals of the target. https://doi.org/10.1007/978-3-030-01252-6_4
    """
    return _normal.value(pred_normals, target_normals, **reduction)


@gradient_of(
    mesh_normal_loss,
    terms=_normal,
    properties=(
        "non_negative",
        "scale_invariant",
        "symmetric",
        given("zero_at_equality", "no normal is the zero vector"),
    ),
)
def mesh_normal_loss_gradient(
    pred_normals: ArrayT, target_normals: Array, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """−(n*/‖n*‖ − cos n/‖n‖) / ‖n‖ / V, V the number of normals.

    0 where a normal is the zero vector. A length below the smallest normal number of the dtype counts as that number.

    Example:
        At a right angle the cosine is 0, and a normal of length 2 turns half as far.

        >>> import numpy as np
        >>> mesh_normal_loss_gradient(np.array([[0.0, 2.0, 0.0]]), np.array([[1.0, 0.0, 0.0]])).tolist()
        [[-0.5, 0.0, 0.0]]
    """
    return _normal.gradient(pred_normals, target_normals, **reduction)


# --- edges ----------------------------------------------------------------------------------------------------------


class _Edges(NamedTuple):
    """Edges that are the same for all meshes; an edge from a vertex to itself is padding."""

    vertices: _Vertices
    starts: Array
    ends: Array
    real: Array  # 1, or 0 for padding
    nowhere: Array | None
    signs: Any = None  # for many edges in NumPy: a sparse matrix (m, n), 1 at the start and −1 at the end

    @staticmethod
    def of(vertices: _Vertices, edges: Array) -> _Edges:
        (starts, ends), nowhere = vertices.indices("edges", edges, 2)
        xp, dtype = vertices.xp, vertices.at.dtype
        signs = _signs(edges, vertices.at) if xp is np and len(edges) >= limits.current.sparse_edges else None
        return _Edges(vertices, starts, ends, as_dtype(xp, starts != ends, dtype), nowhere, signs)

    def differences(self, vertices: _Vertices) -> Array:
        if self.signs is not None:
            return _times(self.signs, vertices.at)
        return vertices.take(self.starts) - vertices.take(self.ends)

    def pull(self, slope: Array) -> Array:
        """Return the derivative of Σ slope · difference wrt the vertices."""
        if self.signs is not None:
            return _times(self.signs.T, slope)
        return self.vertices.add_at(self.starts, slope) - self.vertices.add_at(self.ends, slope)

    def pull_diagonal(self, diagonal: Array) -> Array:
        """Return the diagonal of the second derivatives wrt the vertices from that wrt the differences."""
        return self.vertices.add_at(self.starts, diagonal) + self.vertices.add_at(self.ends, diagonal)


def _signs(edges: Any, vertices: Any) -> Any:
    from scipy.sparse import csr_array

    count = len(edges)
    signs = np.tile(np.asarray([1.0, -1.0], vertices.dtype), count)
    index = np.int32 if max(2 * count, vertices.shape[-2]) < 1 << 31 else np.int64  # as scipy would convert
    entries = edges.reshape(-1).astype(index), np.arange(0, 2 * count + 1, 2, dtype=index)
    return csr_array((signs, *entries), shape=(count, vertices.shape[-2]))


def _times(matrix: Any, x: Any) -> Any:
    """Return a sparse matrix (m, n) times x (…, n, d)."""
    *batch, _, d = x.shape
    columns = np.moveaxis(x, -2, 0)
    product = matrix @ columns.reshape(len(columns), -1)
    return np.ascontiguousarray(np.moveaxis(product.reshape(-1, *batch, d), 0, -2))


def _shortest(vertices: Array, edges: Array) -> Array:
    """Return the length of the shortest edge of each mesh: a length has no derivative at 0."""
    (points,) = _Vertices.of(vertices=vertices)
    topology = _Edges.of(points, edges)
    lengths = _lengths(topology.differences(points))
    return points.xp.min(points.xp.where(topology.real == 0, float("inf"), lengths), axis=-1)


def _real_edges(pred_vertices: Array, target_vertices: Array, edges: Array) -> Array:
    """Return 1 for an edge, and 0 for padding: what the losses of the edges of each mesh count in the divisor."""
    (vertices,) = _Vertices.of(vertices=pred_vertices)
    real = _Edges.of(vertices, edges).real
    found: Array = vertices.xp.broadcast_to(real, (*vertices.at.shape[:-2], *real.shape[-1:]))
    return found


@unreduced(
    separable=False,  # the edges are shared by all meshes of a batch
    curved=True,
    has_fisher=True,
    kinks=lambda pred_vertices, target_vertices, edges: (_shortest(pred_vertices, edges),),
    mass=_real_edges,
    pred_vertices=PointSets(4, 3),
    target_vertices=PointSets(4, 3),
    edges=Edges(4),
)
def _edge(pred_vertices: Array, target_vertices: Array, edges: Array, wanted: Wanted) -> Losses:
    vertices, targets = _Vertices.of(pred_vertices=pred_vertices, target_vertices=target_vertices)
    xp, topology = vertices.xp, _Edges.of(vertices, edges)
    length, unit = norm_and_unit(xp, topology.differences(vertices), 2.0)
    error = length - norm_and_unit(xp, topology.differences(targets), 2.0)[0]
    error = _or_nan(xp, error, topology.nowhere)

    def second(ratio: Array) -> Curvature:
        """H = 2 (u uᵀ + (e / ‖d‖) (I − u uᵀ)) of the difference d = ‖d‖ u, with the error e of its length."""
        ratio = xp.expand_dims(ratio, axis=-1)

        def times(vectors: Named) -> Named:
            v = topology.differences(_Vertices(xp, vectors["pred_vertices"]))
            along = xp.sum(unit * v, axis=-1, keepdims=True) * unit
            return {"pred_vertices": 2.0 * (along + ratio * (v - along))}

        def diagonal() -> Named:
            squares = unit * unit
            return {"pred_vertices": 2.0 * (squares + ratio * (1.0 - squares))}

        return Curvature(times, diagonal, diagonal_pull=topology.pull_diagonal)

    def curvature() -> Curvature:
        ratio = xp.where(length == 0, 0.0, error / floored(xp, length, pred_vertices.dtype))
        return second(ratio)._replace(fisher=second(0.0 * ratio))

    return Losses(
        error * error,
        lambda: {"pred_vertices": 2.0 * xp.expand_dims(error, axis=-1) * unit},
        mass=xp.broadcast_to(topology.real, tuple(error.shape)),
        pull=topology.pull,
        curvature=curvature,
    )


def mesh_edge_loss(
    pred_vertices: ArrayT, target_vertices: Array, edges: Array, **reduction: Unpack[Reduction]
) -> ArrayT:
    """Mean over edges (i, j) of (‖vᵢ − vⱼ‖ − ‖v*ᵢ − v*ⱼ‖)², v = pred_vertices, v* = target_vertices.

    Args:
        pred_vertices: v, (…, n, coordinates); any leading axes are the batch.
        target_vertices: v*, the same shape.
        edges: (m, 2), integers, as from `unique_edges`: each edge once. An edge from a vertex to itself is padding.
        **reduction: see `reduce_loss`; the unreduced losses are one per edge.

    Returns:
        A scalar (one loss per edge for reduction="none").

    Raises:
        ValueError: the shapes do not fit, an edge points at no vertex, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such an edge makes the loss NaN instead.
        TypeError: an argument is not an array, the vertices are not floating point, or the edges are not integers.

    Example:
        The lengths are 3 and 4 instead of 1 and 4: (2² + 0²) / 2.

        >>> import numpy as np
        >>> v = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        >>> target = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        >>> float(mesh_edge_loss(v, target, np.array([[0, 1], [0, 2]])))
        2.0

    Source:
        Motivated by O. Sorkine and M. Alexa, As-Rigid-As-Possible Surface Modeling, 2007, whose energy fits a rotation
        to each vertex; here edges keep their lengths, which asks for less. https://doi.org/10.2312/SGP/SGP07/109-116
    """
    return _edge.value(pred_vertices, target_vertices, edges, **reduction)


@gradient_of(
    mesh_edge_loss,
    terms=_edge,
    properties=("non_negative", "symmetric", "translation_invariant", "zero_at_equality"),
)
def mesh_edge_loss_gradient(
    pred_vertices: ArrayT, target_vertices: Array, edges: Array, **reduction: Unpack[GradientReduction]
) -> ArrayT:
    """Σⱼ 2 (‖vᵢ − vⱼ‖ − ‖v*ᵢ − v*ⱼ‖) (vᵢ − vⱼ) / ‖vᵢ − vⱼ‖ / E over the edges (i, j) of vertex i.

    E counts the edges of all meshes of the batch. The unit vector is 0 where both ends of an edge coincide.

    Example:
        The only edge is too long by 2: the slope is 2 · 2 at each end, in opposite directions.

        >>> import numpy as np
        >>> v, target = np.array([[0.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 0.0]])
        >>> mesh_edge_loss_gradient(v, target, np.array([[0, 1]])).tolist()
        [[-4.0, 0.0], [4.0, 0.0]]
    """
    return _edge.gradient(pred_vertices, target_vertices, edges, **reduction)


mesh_edge_loss_value_and_gradient = both_of(mesh_edge_loss_gradient)


# --- Laplacian ------------------------------------------------------------------------------------------------------


class _Laplacian(NamedTuple):
    """L v = mean of the neighbours − v, 0 at a vertex without neighbours; L is linear, slopes need its transpose."""

    topology: _Edges
    inverse_degrees: Array  # (n, 1)

    @staticmethod
    def of(vertices: Array, edges: Array) -> _Laplacian:
        (points,) = _Vertices.of(vertices=vertices)
        xp, topology = points.xp, _Edges.of(points, edges)
        if topology.signs is not None:
            ends, real = edges.reshape(-1), np.repeat(topology.real, 2)
            counts = np.bincount(ends, weights=real, minlength=vertices.shape[-2])
            degrees = counts.astype(points.at.dtype)[:, None]
        else:
            own = xp.expand_dims(topology.real, axis=-1)
            degrees = points.add_at(topology.starts, own) + points.add_at(topology.ends, own)
        return _Laplacian(topology, xp.where(degrees == 0, 0.0, 1.0 / xp.where(degrees == 0, 1.0, degrees)))

    def apply(self, vertices: _Vertices) -> Array:
        """L v = −D⁻¹ Bᵀ B v, with the differences B v along the edges."""
        topology = self.topology
        moved = -self.inverse_degrees * topology.pull(topology.differences(vertices))
        return _or_nan(topology.vertices.xp, moved, topology.nowhere)

    def transpose(self, x: Array) -> Array:
        """Lᵀ x = −Bᵀ B D⁻¹ x."""
        topology = self.topology
        return -topology.pull(topology.differences(_Vertices(topology.vertices.xp, self.inverse_degrees * x)))

    def transpose_squares(self, x: Array) -> Array:
        """(L∘L)ᵀ x: 1 of the vertex itself, and 1 / deg² of its neighbours."""
        topology, inverse = self.topology, self.inverse_degrees
        weighted, real = _Vertices(topology.vertices.xp, inverse * inverse * x), topology.real[:, None]
        found = topology.vertices.add_at(topology.starts, real * weighted.take(topology.ends))
        found = found + topology.vertices.add_at(topology.ends, real * weighted.take(topology.starts))
        return found + topology.vertices.xp.where(inverse > 0, x, 0.0)


@unreduced(
    separable=False,  # the edges are shared by all meshes of a batch
    curved=True,
    vertices=PointSets(4, 3),
    edges=Edges(4),
)
def _laplacian(vertices: Array, edges: Array, wanted: Wanted) -> Losses:
    laplacian = _Laplacian.of(vertices, edges)
    xp, points = laplacian.topology.vertices
    moved = laplacian.apply(laplacian.topology.vertices)
    values = dot(xp, moved, moved) if wanted.value else moved[..., 0]
    curvature = Curvature(
        lambda vectors: {"vertices": 2.0 * laplacian.apply(_Vertices(xp, vectors["vertices"]))},
        lambda: {"vertices": 2.0 * xp.ones_like(points)},
        diagonal_pull=laplacian.transpose_squares,
    )
    return Losses(values, lambda: {"vertices": 2.0 * moved}, pull=laplacian.transpose, curvature=lambda: curvature)


def mesh_laplacian_loss(vertices: ArrayT, edges: Array, **reduction: Unpack[Reduction]) -> ArrayT:
    """Mean over vertices of ‖(Lv)ᵢ‖², (Lv)ᵢ = mean of the neighbours of i − vᵢ.

    L is the uniform graph Laplacian: (Lv)ᵢ is the offset from a vertex to the mean of its neighbours. The loss
    penalizes roughness; minimizing it also shrinks the mesh.

    Args:
        vertices: v, (…, n, coordinates); any leading axes are the batch.
        edges: (m, 2), integers, as from `unique_edges`: each edge once. An edge from a vertex to itself is padding.
        **reduction: see `reduce_loss`; the unreduced losses are one per vertex, 0 for one without neighbours.

    Returns:
        A scalar (one loss per vertex for reduction="none").

    Raises:
        ValueError: the shapes do not fit, an edge points at no vertex, or a reduction keyword does not fit. Inside
            `jax.jit` and `torch.compile`, where values cannot be read, such an edge makes the loss NaN instead.
        TypeError: an argument is not an array, the vertices are not floating point, or the edges are not integers.

    Example:
        The middle vertex lies 3 above the mean of its neighbours, and is the only neighbour of both: (9 + 10 + 10) / 3.

        >>> import numpy as np
        >>> v = np.array([[-1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
        >>> round(float(mesh_laplacian_loss(v, np.array([[0, 1], [1, 2]]))), 6)
        9.666667

    Source:
        G. Taubin, A Signal Processing Approach to Fair Surface Design, 1995. https://doi.org/10.1145/218380.218473
    """
    return _laplacian.value(vertices, edges, **reduction)


@gradient_of(
    mesh_laplacian_loss,
    terms=_laplacian,
    properties=("convex", "non_negative", "translation_invariant", "constant_curvature"),
)
def mesh_laplacian_loss_gradient(vertices: ArrayT, edges: Array, **reduction: Unpack[GradientReduction]) -> ArrayT:
    """2 LᵀL v / V: for vertex i, 2 (Σⱼ (Lv)ⱼ / deg j − (Lv)ᵢ) / V over its neighbours j.

    deg j is the number of neighbours of j, and V counts the vertices of all meshes of the batch. A vertex without
    neighbours has the gradient 0.

    Example:
        Each of the two vertices is the only neighbour of the other: L v = (2, −2), and moving one changes both entries.

        >>> import numpy as np
        >>> mesh_laplacian_loss_gradient(np.array([[0.0], [2.0]]), np.array([[0, 1]])).tolist()
        [[-4.0], [4.0]]
    """
    return _laplacian.gradient(vertices, edges, **reduction)


mesh_laplacian_loss_value_and_gradient = both_of(mesh_laplacian_loss_gradient)


# --- all of them ----------------------------------------------------------------------------------------------------

Mesh = Sequence[Any]
_LOSSES: tuple[Any, ...] = (mse_loss, mesh_normal_loss, mesh_edge_loss, mesh_laplacian_loss)
_BOTH = {loss: value_and_gradient(loss) for loss in _LOSSES}


@dataclass(frozen=True)
class MeshLoss:
    """w₁ mse(v, v*) + w₂ mean(1 − cos(n, n*)) + w₃ mean((‖e‖ − ‖e*‖)²) + w₄ mean ‖Lv‖² between two meshes.

    A mesh is (vertices, faces, normals): (…, n, 3), (m, 3) integers and (…, n, 3). Both meshes have the same faces.
    If the normals of both meshes are None, they are `vertex_normals`, and their slopes are added to the vertices.

    Attributes:
        vertex_weight: w₁ ≥ 0, the weight of `mse_loss` between the vertices.
        normal_weight: w₂ ≥ 0, the weight of `mesh_normal_loss`.
        edge_weight: w₃ ≥ 0, the weight of `mesh_edge_loss` over the `unique_edges` of the faces.
        laplacian_weight: w₄ ≥ 0, the weight of `mesh_laplacian_loss`. A loss of weight 0 is not computed.

    Raises:
        ValueError: a weight is negative, or the meshes do not fit each other.
        TypeError: a weight is not a number, or a part of a mesh is not an array.

    Example:
        A triangle that was moved up by 1: its vertices differ by (0, 0, 1), and nothing else differs.

        >>> import numpy as np
        >>> vertices, faces = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([[0, 1, 2]])
        >>> lifted = vertices + np.array([0.0, 0.0, 1.0])
        >>> mesh_loss = MeshLoss(vertex_weight=3.0, laplacian_weight=0.0)
        >>> float(mesh_loss((lifted, faces, None), (vertices, faces, None)))
        1.0
        >>> mesh_loss.gradient((lifted, faces, None), (vertices, faces, None))["vertices"].round(6).tolist()
        [[0.0, 0.0, 0.666667], [0.0, 0.0, 0.666667], [0.0, 0.0, 0.666667]]
    """

    vertex_weight: float = 1.0
    normal_weight: float = 0.1
    edge_weight: float = 0.1
    laplacian_weight: float = 0.01

    def __post_init__(self) -> None:
        for name in ("vertex_weight", "normal_weight", "edge_weight", "laplacian_weight"):
            NON_NEGATIVE.one_number(name, getattr(self, name))

    def __call__(self, pred_mesh: Mesh, target_mesh: Mesh) -> Array:
        """Return the loss, a scalar."""
        return self._evaluate(pred_mesh, target_mesh, None)[0]

    def gradient(self, pred_mesh: Mesh, target_mesh: Mesh, *, upstream: float | Array = 1.0) -> dict[str, Array]:
        """Return the gradient wrt the predicted mesh: new arrays under "vertices" and, if given, "normals"."""
        return self._evaluate(pred_mesh, target_mesh, upstream)[1]

    def value_and_gradient(
        self, pred_mesh: Mesh, target_mesh: Mesh, *, upstream: float | Array = 1.0
    ) -> tuple[Array, dict[str, Array]]:
        """Return the loss and the gradient; shared work is done once."""
        return self._evaluate(pred_mesh, target_mesh, upstream)

    def _evaluate(self, pred_mesh: Mesh, target_mesh: Mesh, upstream: Any) -> tuple[Array, dict[str, Array]]:
        """Return the loss and, unless `upstream` is None, its gradient."""
        vertices, faces, normals = _parts("pred_mesh", pred_mesh)
        targets, target_faces, target_normals = _parts("target_mesh", target_mesh)
        xp = array_namespace(vertices=vertices, target_vertices=targets, faces=faces, target_faces=target_faces)
        _require_same_faces(faces, target_faces)
        if (normals is None) != (target_normals is None):
            raise ValueError("either both meshes have normals or neither has")
        total = xp.zeros((), dtype=vertices.dtype, **placement(vertices))
        gradients = {"vertices": xp.zeros_like(vertices)}
        if normals is not None:
            gradients["normals"] = xp.zeros_like(normals)

        def add(weight: float, loss: Any, name: str, *arguments: Array) -> Any:
            nonlocal total
            if upstream is None:
                total = total + weight * loss(*arguments)
                return None
            value, gradient = _BOTH[loss](*arguments, upstream=weight * upstream)
            total = total + weight * value
            if name:
                gradients[name] = gradients[name] + gradient
            return gradient

        if self.vertex_weight:
            add(self.vertex_weight, mse_loss, "vertices", vertices, targets)
        if self.normal_weight and normals is not None:
            add(self.normal_weight, mesh_normal_loss, "normals", normals, target_normals)
        elif self.normal_weight:
            own, other = vertex_normals(vertices, faces), vertex_normals(targets, faces)
            slope = add(self.normal_weight, mesh_normal_loss, "", own, other)
            if slope is not None:
                gradients["vertices"] = gradients["vertices"] + vertex_normals_gradient(vertices, faces, upstream=slope)
        if self.edge_weight or self.laplacian_weight:
            edges = unique_edges(faces)
            if self.edge_weight:
                add(self.edge_weight, mesh_edge_loss, "vertices", vertices, targets, edges)
            if self.laplacian_weight:
                add(self.laplacian_weight, mesh_laplacian_loss, "vertices", vertices, edges)
        return total, gradients


def _parts(name: str, mesh: Mesh) -> tuple[Array, Array, Array | None]:
    if not isinstance(mesh, Sequence) or len(mesh) != 3:
        raise ValueError(f"{name} must be (vertices, faces, normals), got {type(mesh).__name__}")
    vertices, faces, normals = mesh
    return vertices, faces, normals


def _require_same_faces(faces: Array, target_faces: Array) -> None:
    if faces is target_faces:
        return
    require_same_shape(faces=faces, target_faces=target_faces)
    seen, target_seen = host_values(faces), host_values(target_faces)
    if seen is not None and target_seen is not None and not np.array_equal(seen, target_seen):
        raise ValueError("both meshes must have the same faces")
