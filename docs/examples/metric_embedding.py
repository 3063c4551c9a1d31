"""Scikit-learn's digits on a sphere: an embedding that brings the images of one digit together, by two losses."""

from pathlib import Path

import numpy as np
import typer
from common import dense, dense_learner, panels
from sklearn.datasets import load_digits

from mithril_losses import Objective, Term, get_backend

WIDTHS = {"first": (64, 128), "second": (128, 3)}
LOSSES = {
    "supervised contrastive": Term("loss", "supervised_contrastive_loss", "embeddings", "digit"),
    "ArcFace": Term(
        "loss",
        "arcface_loss",
        outputs={"embeddings": "embeddings", "weight": "classes"},
        targets="digit",
        options={"margin": 0.3, "scale": 10.0},
    ),
}


def network(xp, params, data):
    """Return embeddings of the images, and the directions that stand for the classes."""
    hidden = xp.tanh(dense(xp, params, "first", data["image"]))
    return {"embeddings": dense(xp, params, "second", hidden), "classes": params["classes_weight"]}


def train(loss, backend="numpy", steps=1500, seed=0):
    """Return the training images' and the test images' embeddings, of length one, and both their digits."""
    backend, digits = get_backend(backend, seed=seed), load_digits()
    images, labels = digits.data / 16.0, digits.target
    learner, objective = dense_learner(network, WIDTHS | {"classes": (10, 3)}, backend), Objective([LOSSES[loss]])

    def batch(at):
        return {"image": backend.array(images[at]), "digit": backend.array(labels[at])}

    for step in range(steps):
        data = batch(backend.generator.integers(360, len(images), size=200))
        result = objective.evaluate(learner.outputs(data), data, step=step)
        learner.learn(data, result.output_gradients)
    found = []
    for at in (slice(360, None), slice(0, 360)):
        x = backend.to_numpy(learner.outputs(batch(at))["embeddings"])
        found += [x / np.linalg.norm(x, axis=1, keepdims=True), labels[at]]
    return found


def nearest_neighbour(known, digits, asked):
    """Return the digit of the known embedding at the smallest angle, for each that is asked for."""
    return digits[np.argmax(asked @ known.T, axis=1)]


def main(backend: str = "numpy", steps: int = 1500, picture: Path = Path("metric_embedding.png")) -> None:
    figure, axes = panels(len(LOSSES), height=5.0)
    drawn = []
    for axis, name in zip(axes, LOSSES, strict=True):
        known, digits, asked, truth = train(name, backend, steps)
        right = np.mean(nearest_neighbour(known, digits, asked) == truth)
        print(f"{name}: the nearest neighbour has the right digit for {right:.1%} of the test images")
        # the sphere as a map: longitude, and height, which keeps areas
        drawn.append(axis.scatter(np.arctan2(asked[:, 1], asked[:, 0]), asked[:, 2], c=truth, cmap="tab10", s=12))
        axis.set(title=f"{name}: {right:.1%} of neighbours are right", xlabel="longitude", ylabel="height")
    axes[-1].legend(*drawn[-1].legend_elements(num=10), fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
