"""A torus of triangles whose vertices are noisy, smoothed by the Laplacian of the mesh."""

from pathlib import Path

import numpy as np
import typer
from common import Learner
from matplotlib.figure import Figure

from mithril_losses import MeshLoss, get_backend, mesh_normal_loss, vertex_normals
from mithril_losses.models import compile_model


def network(xp, params, data):
    """The vertices are parameters themselves."""
    return {"vertices": 1.0 * params["vertices"]}


def torus(rows=48, columns=24):
    """Return the vertices and the faces of a torus."""
    around, across = np.meshgrid(*(np.arange(n) * 2 * np.pi / n for n in (rows, columns)), indexing="ij")
    out = 1.0 + 0.4 * np.cos(across)
    vertices = np.stack([out * np.cos(around), out * np.sin(around), 0.4 * np.sin(across)], axis=-1)
    corner = np.arange(rows * columns).reshape(rows, columns)
    right, down = np.roll(corner, -1, axis=1), np.roll(corner, -1, axis=0)
    far = np.roll(right, -1, axis=0)
    faces = [np.stack(corners, axis=-1).reshape(-1, 3) for corners in ((corner, down, right), (right, down, far))]
    return vertices.reshape(-1, 3), np.concatenate(faces)


def smooth(noisy, faces, backend="numpy", steps=200, laplacian_weight=5.0):
    """Return vertices that are close to noisy ones, each of them close to the mean of its neighbours."""
    backend = get_backend(backend)
    learner = Learner(compile_model(network, backend.name), {"vertices": noisy}, backend, learning_rate=3e-3)
    mesh_loss = MeshLoss(normal_weight=0.0, edge_weight=0.0, laplacian_weight=laplacian_weight)
    faces = backend.array(faces)
    for _ in range(steps):
        vertices = learner.outputs({})["vertices"]
        output_gradients = mesh_loss.gradient((vertices, faces, None), (backend.array(noisy), faces, None))
        learner.learn({}, output_gradients)
    return learner.numpy_params()["vertices"]


def roughness(vertices, truth, faces):
    """Return how far the normals point elsewhere than those of the true mesh: the mean of 1 − cos."""
    return float(mesh_normal_loss(*(vertex_normals(points.astype(truth.dtype), faces) for points in (vertices, truth))))


def main(backend: str = "numpy", steps: int = 200, picture: Path = Path("mesh_smoothing.png")) -> None:
    truth, faces = torus()
    noisy = truth + 0.03 * np.random.default_rng(0).standard_normal(truth.shape)
    meshes = {"noisy": noisy, "smoothed": smooth(noisy, faces, backend, steps), "true": truth}
    figure = Figure(figsize=(13.5, 4.0), layout="constrained")
    for column, (name, vertices) in enumerate(meshes.items(), start=1):
        off, rough = np.sqrt(np.mean((vertices - truth) ** 2)), roughness(vertices, truth, faces)
        title = name if vertices is truth else f"{name}: vertices {off:.4f} off, normals {rough:.4f}"
        print(title)
        axis = figure.add_subplot(1, 3, column, projection="3d")
        axis.plot_trisurf(*vertices.T, triangles=faces, color="steelblue", linewidth=0)
        axis.set(title=title, xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), zlim=(-0.42, 0.42))
        axis.set_box_aspect((1, 1, 0.3), zoom=1.25)
        axis.set_axis_off()
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
