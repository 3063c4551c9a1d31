"""What no law says about meshes: grids, explicit matrices, degenerate edges and normals, and the sum of the parts."""

from __future__ import annotations

import math
import unittest
from itertools import product
from typing import Any

import jax
import numpy as np
import pytest
import torch
from cases import convert, double_precision, to_numpy
from modes import EAGER, MODES, TRACED, evaluate, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    MeshLoss,
    check_gradient,
    face_normals,
    face_normals_gradient,
    limits,
    mesh_edge_loss,
    mesh_laplacian_loss,
    mesh_laplacian_loss_gradient,
    mesh_normal_loss,
    mse_loss,
    unique_edges,
    value_and_gradient,
    vertex_normals,
    vertex_normals_gradient,
)

TETRAHEDRON = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
TETRAHEDRON_FACES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A flat square of side × side vertices, every cell of it two triangles."""
    x, y = np.meshgrid(np.arange(side, dtype=float), np.arange(side, dtype=float), indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(side * side)], axis=-1)
    corner = np.arange(side * side).reshape(side, side)
    a, b, c, d = (corner[i : side - 1 + i, j : side - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    return vertices, np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])


class UniqueEdges(unittest.TestCase):
    @parameterized.expand(list(product(EAGER, ("int64", "int32", "uint8"))))
    def test_each_edge_once(self, library: str, dtype: str) -> None:
        _, faces = grid(5)
        expected = sorted({tuple(sorted((int(f[i]), int(f[i - 1])))) for f in faces for i in range(3)})
        with double_precision(library):
            found = unique_edges(convert(faces.astype(dtype), library))
            self.assertIn(dtype, str(found.dtype))
        self.assertEqual(to_numpy(found).tolist(), [list(edge) for edge in expected])

    @parameterized.expand([(mode,) for mode in TRACED])
    def test_out_of_sight_repetitions_become_padding(self, mode: str) -> None:
        _, faces = grid(4)
        faces = np.concatenate([faces, [[3, 3, 7]]])  # without an area, and with an edge that is none
        found = evaluate(mode, unique_edges, faces)
        self.assertEqual(found.shape, (3 * len(faces), 2))
        real = found[found[:, 0] != found[:, 1]]
        np.testing.assert_array_equal(real, unique_edges(faces))

    def test_nothing(self) -> None:
        self.assertEqual(unique_edges(np.zeros((0, 3), dtype=int)).shape, (0, 2))

    def test_what_is_no_triangle(self) -> None:
        with self.assertRaisesRegex(ValueError, r"faces must have shape \(n, 3\), got \(2, 4\)"):
            unique_edges(np.zeros((2, 4), dtype=int))
        with self.assertRaisesRegex(TypeError, "faces must be integers"):
            unique_edges(np.zeros((2, 3)))


class Normals(unittest.TestCase):
    @parameterized.expand([(library,) for library in EAGER])
    def test_tetrahedron_points_outwards(self, library: str) -> None:
        at_vertices = evaluate(library, vertex_normals, TETRAHEDRON, TETRAHEDRON_FACES)
        np.testing.assert_allclose(at_vertices, TETRAHEDRON / math.sqrt(3), rtol=1e-14, atol=1e-15)
        at_faces = evaluate(library, face_normals, TETRAHEDRON[None], TETRAHEDRON_FACES)
        opposite = [6 - sum(face) for face in TETRAHEDRON_FACES.tolist()]  # the vertex that a face lacks
        np.testing.assert_allclose(at_faces[0], -TETRAHEDRON[opposite] / math.sqrt(3), rtol=1e-14, atol=1e-15)

    @parameterized.expand(
        list(product(EAGER, ((face_normals, face_normals_gradient), (vertex_normals, vertex_normals_gradient))))
    )
    def test_pulled_back_to_vertices(self, library: str, functions: Any) -> None:
        normals, gradient = functions
        generator = np.random.default_rng(2)
        vertices, faces = generator.standard_normal((2, 4, 3)), TETRAHEDRON_FACES[:3]
        shape = normals(vertices, faces).shape
        upstream = generator.standard_normal(shape)
        with double_precision(library):
            weights, triangles = convert(upstream, library), convert(faces, library)
            check = check_gradient(
                lambda vertices: (normals(vertices, triangles) * weights).sum(),
                convert(vertices, library),
                gradient=lambda vertices: gradient(vertices, triangles, upstream=weights),
            )
        self.assertLess(check.worst, 1e-6)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_faces_without_an_area(self, mode: str) -> None:
        vertices = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        faces = np.array([[0, 1, 2], [0, 0, 3]])
        for normals, gradient in ((face_normals, face_normals_gradient), (vertex_normals, vertex_normals_gradient)):
            found = evaluate(mode, normals, vertices, faces)
            self.assertFalse(np.any(found))
            pulled = evaluate(mode, gradient, vertices, faces, upstream=np.ones(found.shape))
            self.assertFalse(np.any(pulled))

    @parameterized.expand([(mode,) for mode in MODES])
    def test_zero_normals(self, mode: str) -> None:
        zero, up = [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]
        value, gradient = evaluate_pair(
            mode, mesh_normal_loss, np.array([zero, up, zero]), np.array([up, zero, zero]), reduction="none"
        )
        np.testing.assert_array_equal(value, 1.0)
        self.assertFalse(np.any(gradient))

    def test_small_angles_keep_their_digits(self) -> None:
        angle = 1e-6
        tilted, up = np.array([[math.sin(angle), 0.0, math.cos(angle)]]), np.array([[0.0, 0.0, 1.0]])
        value, gradient = value_and_gradient(mesh_normal_loss)(tilted, up)
        self.assertAlmostEqual(float(value) / (angle**2 / 2), 1.0, 9)
        self.assertAlmostEqual(gradient[0, 0] / angle, 1.0, 9)

    @parameterized.expand(list(product(EAGER, ("float64", "float32", "float16"))))
    def test_length_does_not_matter_to_the_value(self, library: str, dtype: str) -> None:
        n, target = np.array([[1.0, 2.0, 2.0]]), np.array([[0.0, 0.0, 5.0]])
        for length in (2.0**-14, 1.0, 2.0**10):
            value, gradient = evaluate_pair(library, mesh_normal_loss, length * n, target, dtype=dtype)
            np.testing.assert_allclose(value, 1 / 3, rtol=1e-3 if dtype == "float16" else 1e-6)
            self.assertTrue(np.all(np.isfinite(gradient)))


class Edges(unittest.TestCase):
    @parameterized.expand([(library,) for library in EAGER])
    def test_explicit_loop(self, library: str) -> None:
        generator = np.random.default_rng(3)
        v, target = generator.standard_normal((2, 3, 4, 3))
        edges = unique_edges(TETRAHEDRON_FACES)
        expected = [
            sum((math.dist(a[i], a[j]) - math.dist(b[i], b[j])) ** 2 for i, j in edges.tolist()) / 6
            for a, b in zip(v.tolist(), target.tolist(), strict=True)
        ]
        value, _ = evaluate_pair(library, mesh_edge_loss, v, target, edges, axis=-1)
        np.testing.assert_allclose(value, expected, rtol=1e-13)

    def test_turned_and_moved_meshes_have_the_same_edges(self) -> None:
        turn, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))
        moved = TETRAHEDRON @ turn + 5.0
        self.assertAlmostEqual(float(mesh_edge_loss(moved, TETRAHEDRON, unique_edges(TETRAHEDRON_FACES))), 0.0, 14)

    @parameterized.expand([(mode,) for mode in MODES])
    def test_degenerate_edges(self, mode: str) -> None:
        v = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
        target = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        value, gradient = evaluate_pair(mode, mesh_edge_loss, v, target, np.array([[0, 1], [1, 2]]), reduction="sum")
        self.assertEqual(float(value), 1.0 + 9.0)
        np.testing.assert_array_equal(gradient, [[0.0, 0.0, 0.0], [-6.0, 0.0, 0.0], [6.0, 0.0, 0.0]])

    @parameterized.expand([(mode,) for mode in MODES])
    def test_padding_counts_nowhere(self, mode: str) -> None:
        generator = np.random.default_rng(5)
        v, target = generator.standard_normal((2, 4, 3))
        edges = unique_edges(TETRAHEDRON_FACES)
        padded = np.concatenate([edges[:2], [[0, 0]], edges[2:], [[3, 3]]])
        for loss, arrays in ((mesh_edge_loss, (v, target)), (mesh_laplacian_loss, (v,))):
            value, gradient = evaluate_pair(mode, loss, *arrays, padded)
            expected, slopes = value_and_gradient(loss)(*arrays, edges)
            np.testing.assert_allclose(value, expected, rtol=1e-13)
            np.testing.assert_allclose(gradient, slopes, rtol=1e-13, atol=1e-15)

    @parameterized.expand([(mode,) for mode in TRACED])
    def test_edges_that_point_nowhere(self, mode: str) -> None:
        for edge in ([0, 4], [-1, 0]):
            edges = np.array([[0, 1], edge])
            for loss, arrays in ((mesh_edge_loss, (TETRAHEDRON, TETRAHEDRON)), (mesh_laplacian_loss, (TETRAHEDRON,))):
                with self.assertRaisesRegex(ValueError, "but there are 4"):
                    loss(*arrays, edges)
                value, gradient = evaluate_pair(mode, loss, *arrays, edges)
                self.assertTrue(np.isnan(value))
                self.assertTrue(np.isnan(gradient).any())
        self.assertTrue(np.isnan(evaluate(mode, face_normals, TETRAHEDRON, np.array([[0, 1, 4]]))).all())


class Laplacian(unittest.TestCase):
    @parameterized.expand([(library,) for library in EAGER])
    def test_flat_regular_grid_is_zero_inside(self, library: str) -> None:
        vertices, faces = grid(6)
        edges = unique_edges(faces)
        values = evaluate(library, mesh_laplacian_loss, vertices, edges, reduction="none").reshape(6, 6)
        self.assertFalse(np.any(values[1:-1, 1:-1]))
        border = np.ones((6, 6), dtype=bool)
        border[1:-1, 1:-1] = False
        self.assertTrue(np.all(values[border] > 0.0))

    @parameterized.expand([(library,) for library in EAGER])
    def test_explicit_matrix(self, library: str) -> None:
        vertices, faces = grid(4)
        vertices = np.random.default_rng(6).standard_normal((2, *vertices.shape))
        edges = unique_edges(faces)
        edges = edges[edges[:, 0] != 0]  # a vertex without neighbours
        count = vertices.shape[-2]
        neighbours = np.zeros((count, count))
        for i, j in edges:
            neighbours[i, j] = neighbours[j, i] = 1.0
        degrees = neighbours.sum(axis=1, keepdims=True)
        matrix = neighbours / np.maximum(degrees, 1.0) - np.diag((degrees[:, 0] > 0).astype(float))
        self.assertEqual(int((degrees == 0).sum()), 1)
        value, gradient = evaluate_pair(library, mesh_laplacian_loss, vertices, edges, reduction="sum")
        np.testing.assert_allclose(value, np.sum((matrix @ vertices) ** 2), rtol=1e-13)
        np.testing.assert_allclose(gradient, 2 * matrix.T @ matrix @ vertices, rtol=1e-12, atol=1e-13)

    def test_descent_smooths(self) -> None:
        vertices, faces = grid(8)
        noisy, edges = vertices + 0.3 * np.random.default_rng(7).standard_normal(vertices.shape), unique_edges(faces)
        before = float(mesh_laplacian_loss(noisy, edges))
        for _ in range(50):
            noisy = noisy - 5.0 * mesh_laplacian_loss_gradient(noisy, edges)
        self.assertLess(float(mesh_laplacian_loss(noisy, edges)), 0.15 * before)


class ManyEdges(unittest.TestCase):
    @parameterized.expand(
        list(product((mesh_edge_loss, mesh_laplacian_loss), ("float64", "float32"), ("int64", "uint8")))
    )
    def test_sparse_products_are_sums_over_edges(self, loss: Any, dtype: str, index: str) -> None:
        random = np.random.default_rng(8)
        edges = np.concatenate([unique_edges(grid(4)[1]), [[0, 0], [5, 5]]]).astype(index)
        meshes = [
            random.standard_normal((2, 3, 17, 3)).astype(dtype) for _ in range(1 if loss is mesh_laplacian_loss else 2)
        ]
        both, tolerance = value_and_gradient(loss), 1e-12 if dtype == "float64" else 1e-5
        for options in ({"reduction": "none"}, {"upstream": 0.5}):
            found = []
            for many in (1, 1000):
                with limits.changed(sparse_edges=many):
                    found.append(both(*meshes, edges, **options))
            for x, y in zip(*found, strict=True):
                self.assertEqual((x.dtype, x.shape, x.flags.c_contiguous), (y.dtype, y.shape, True))
                np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


class Together(unittest.TestCase):
    """MeshLoss: the sum of its parts, with one gradient."""

    def setUp(self) -> None:
        generator = np.random.default_rng(8)
        self.v, self.target = TETRAHEDRON + 0.3 * generator.standard_normal((2, 4, 3))
        self.n, self.m = generator.standard_normal((2, 4, 3))
        self.faces = TETRAHEDRON_FACES

    def _parts(self, normals: Any, target_normals: Any) -> list[float]:
        edges = unique_edges(self.faces)
        return [
            float(mse_loss(self.v, self.target)),
            float(mesh_normal_loss(normals, target_normals)),
            float(mesh_edge_loss(self.v, self.target, edges)),
            float(mesh_laplacian_loss(self.v, edges)),
        ]

    @parameterized.expand(list(product(EAGER, (True, False))))
    def test_sum_and_derivative(self, library: str, given: bool) -> None:
        normals = (
            (self.n, self.m) if given else (vertex_normals(self.v, self.faces), vertex_normals(self.target, self.faces))
        )
        expected = float(np.dot([1.0, 0.1, 0.1, 0.01], self._parts(*normals)))
        loss = MeshLoss()
        with double_precision(library):
            v, n, faces, target, m = (convert(x, library) for x in (self.v, self.n, self.faces, self.target, self.m))
            target_mesh = (target, faces, m if given else None)

            def value(arguments: dict[str, Any]) -> Any:
                return loss((arguments["vertices"], faces, arguments["normals"] if given else None), target_mesh)

            def gradient(arguments: dict[str, Any]) -> dict[str, Any]:
                mesh = (arguments["vertices"], faces, arguments["normals"] if given else None)
                found, slopes = loss.value_and_gradient(mesh, target_mesh)
                np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-12)
                return slopes

            arguments = {"vertices": v, "normals": n} if given else {"vertices": v}
            np.testing.assert_allclose(to_numpy(value(arguments)), expected, rtol=1e-13)
            check_gradient(value, arguments, gradient=gradient)
            doubled = loss.gradient((v, faces, n if given else None), target_mesh, upstream=2.0)
            np.testing.assert_allclose(
                to_numpy(doubled["vertices"]), 2 * to_numpy(gradient(arguments)["vertices"]), rtol=1e-13
            )

    @pytest.mark.exhaustive  # each loss of the sum is traced by the laws
    def test_traced_with_its_faces(self) -> None:
        expected = MeshLoss().value_and_gradient((self.v, self.faces, self.n), (self.target, self.faces, self.m))
        with double_precision("jax"):
            meshes = [
                tuple(convert(x, "jax") for x in (v, self.faces, n))
                for v, n in ((self.v, self.n), (self.target, self.m))
            ]
            value, gradients = jax.jit(MeshLoss().value_and_gradient)(*meshes)
        np.testing.assert_allclose(value, expected[0], rtol=1e-13)
        for name in ("vertices", "normals"):
            np.testing.assert_allclose(gradients[name], expected[1][name], rtol=1e-12, atol=1e-15)
        torch._dynamo.reset()
        meshes = [
            tuple(convert(x, "torch") for x in (v, self.faces, n)) for v, n in ((self.v, self.n), (self.target, self.m))
        ]
        value, gradients = torch.compile(MeshLoss().value_and_gradient, fullgraph=True, backend="eager")(*meshes)
        np.testing.assert_allclose(value, expected[0], rtol=1e-13)
        np.testing.assert_allclose(gradients["vertices"], expected[1]["vertices"], rtol=1e-12, atol=1e-15)

    @parameterized.expand([(given,) for given in (True, False)])
    def test_mesh_against_itself(self, given: bool) -> None:
        mesh = (self.v, self.faces, self.n if given else None)
        value, gradients = MeshLoss(laplacian_weight=0.0).value_and_gradient(mesh, mesh)
        self.assertLess(float(value), 1e-30)
        for name, gradient in gradients.items():
            self.assertLess(np.abs(gradient).max(), 1e-15, name)
            self.assertTrue(gradient.flags.writeable)

    def test_parts_without_a_weight(self) -> None:
        mesh, target = (self.v, self.faces, self.n), (self.target, self.faces, self.m)
        nothing = MeshLoss(0.0, 0.0, 0.0, 0.0)
        value, gradients = nothing.value_and_gradient(mesh, target)
        self.assertEqual(float(value), 0.0)
        self.assertEqual(
            {name: (g.shape, bool(g.any())) for name, g in gradients.items()},
            {"vertices": ((4, 3), False), "normals": ((4, 3), False)},
        )
        for i, part in enumerate(self._parts(self.n, self.m)):
            self.assertAlmostEqual(float(MeshLoss(*np.eye(4)[i].tolist())(mesh, target)), part, 14)

    def test_what_does_not_fit(self) -> None:
        mesh = (self.v, self.faces, self.n)
        for other, message in (
            ((self.v, self.faces[::-1].copy(), self.n), "same faces"),
            ((self.v, self.faces, None), "either both meshes"),
            ((self.v, self.faces), "vertices, faces, normals"),
            (self.v, "vertices, faces, normals"),
            ((self.v[:3], self.faces, self.n), "same shape"),
        ):
            for function in (MeshLoss(), MeshLoss().gradient, MeshLoss().value_and_gradient):
                with self.assertRaisesRegex(ValueError, message):
                    function(mesh, other)
        with self.assertRaisesRegex(ValueError, "edge_weight"):
            MeshLoss(edge_weight=-1.0)
