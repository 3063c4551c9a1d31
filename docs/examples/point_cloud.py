"""A network that turns noise into a cloud of points: fitted by the chamfer distance, then by the earth mover's."""

from pathlib import Path

import numpy as np
import typer
from common import dense, dense_learner, panels

from mithril_losses import Objective, Term, earth_mover_distance, get_backend

WIDTHS = {"first": (2, 64), "second": (64, 64), "points": (64, 2)}
PHASES = {"chamfer": "chamfer_distance", "earth mover": "earth_mover_distance"}


def network(xp, params, data):
    """Move every point of the noise to a place of its own."""
    hidden = xp.tanh(dense(xp, params, "first", data["noise"]))
    return {"points": dense(xp, params, "points", xp.tanh(dense(xp, params, "second", hidden)))}


def clover(count):
    """Return points on a curve of three leaves, half of them on the leaf to the right."""
    generator = np.random.default_rng(0)
    leaf = np.where(np.arange(count) % 2 == 0, 0, generator.integers(1, 3, count))
    angle = (leaf / 3 + generator.uniform(-1, 1, count) / 12) * 2 * np.pi
    points = np.cos(3 * angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points + 0.02 * generator.standard_normal(points.shape)


def train(backend="numpy", steps=500, count=300, seed=0):
    """Return the cloud, the points at the start and after each phase, and how far the points are off, by name."""
    backend = get_backend(backend, seed=seed)
    learner = dense_learner(network, WIDTHS, backend, learning_rate=5e-3)
    data = {"noise": backend.randn(count, 2), "cloud": backend.array(clover(count))}
    found = {"start": learner.outputs(data)["points"]}
    for phase, loss in PHASES.items():
        objective = Objective([Term(phase, loss, "points", "cloud")])
        for _ in range(steps):
            learner.learn(data, objective.evaluate(learner.outputs(data), data).output_gradients)
        found[phase] = learner.outputs(data)["points"]
    off = {name: float(earth_mover_distance(points, data["cloud"])) for name, points in found.items()}
    return data["cloud"], found, off


def main(backend: str = "numpy", steps: int = 500, picture: Path = Path("point_cloud.png")) -> None:
    cloud, found, off = train(backend, steps)
    to_numpy = get_backend(backend).to_numpy
    figure, axes = panels(1 + len(found), height=4.0)
    for axis, (name, points) in zip(axes, {"the cloud": cloud, **found}.items(), strict=True):
        distance = f": {off[name]:.3f} off" if name in off else ""
        print(f"{name}{distance}")
        axis.scatter(*to_numpy(points).T, s=5)
        axis.set(title=name + distance, aspect="equal", xlim=(-1.1, 1.3), ylim=(-1.2, 1.2))
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
