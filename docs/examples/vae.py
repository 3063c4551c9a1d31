"""A variational autoencoder on scikit-learn's digits: what it makes of them, and where in the plane it puts them."""

from pathlib import Path

import numpy as np
import typer
from common import dense, dense_learner, panels, show_tiles
from scipy.special import expit, ndtri
from sklearn.datasets import load_digits

from mithril_losses import Objective, Term, get_backend

WIDTHS = {"encoder": (64, 128), "mean": (128, 2), "logvar": (128, 2), "decoder": (2, 128), "logits": (128, 64)}


def network(xp, params, data):
    """Encode images as Gaussians in the plane, draw a code from each, and decode it."""
    hidden = xp.tanh(dense(xp, params, "encoder", data["image"]))
    mean, logvar = dense(xp, params, "mean", hidden), dense(xp, params, "logvar", hidden)
    code = mean + xp.exp(0.5 * logvar) * data["noise"]
    return {"mean": mean, "logvar": logvar, "logits": decode(xp, params, code)}


def decode(xp, params, code):
    """Return the logits of the pixels."""
    return dense(xp, params, "logits", xp.tanh(dense(xp, params, "decoder", code)))


def negative_elbo(beta=1.0):
    """Return −ELBO in nats per image, with its divergence at weight β: a number or a function of the step."""
    per_image = {"reduction": "batch_sum"}  # pixels are summed, images averaged
    pixels = Term("reconstruction", "binary_cross_entropy_with_logits", "logits", "image", options=per_image)
    code = Term("kl", "gaussian_kl_divergence", outputs={"mean": "mean", "logvar": "logvar"}, weight=beta)
    return Objective([pixels, code])


def train(backend="numpy", steps=3000, beta=1.0, seed=0):
    """Return what has learnt, the test images with their labels, and the objective's result on them at β = 1."""
    backend, digits = get_backend(backend, seed=seed), load_digits()
    images, test_images = digits.data[360:] / 16.0, digits.data[:360] / 16.0
    learner, objective = dense_learner(network, WIDTHS, backend), negative_elbo(beta)

    def batch(images):
        return {"image": backend.array(images), "noise": backend.randn(len(images), 2)}

    for step in range(steps):
        data = batch(images[backend.generator.integers(len(images), size=100)])
        result = objective.evaluate(learner.outputs(data), data, step=step)
        learner.learn(data, result.output_gradients)
    data = batch(test_images)
    return learner, data, digits.target[:360], negative_elbo().evaluate(learner.outputs(data), data, gradients=False)


def main(backend: str = "numpy", steps: int = 3000, picture: Path = Path("vae.png")) -> None:
    learner, data, labels, result = train(backend, steps)
    print(f"-ELBO: {float(result.loss):.2f} nats per test image, {float(result.components['kl']):.2f} for the code")
    outputs = {name: learner.backend.to_numpy(x) for name, x in learner.outputs(data).items()}
    figure, (left, middle, right) = panels(3)
    pairs = np.stack([learner.backend.to_numpy(data["image"]), expit(outputs["logits"])], axis=1)[:40]
    pairs = pairs.reshape(4, 10, 2, 8, 8).swapaxes(1, 2).reshape(8, 10, 8, 8)
    show_tiles(left, pairs, "test images, and below each its reconstruction")
    points = middle.scatter(*outputs["mean"].T, c=labels, cmap="tab10", s=12)
    middle.legend(*points.legend_elements(num=10), fontsize="small", loc="upper right")
    middle.set(title="codes of the test images, by digit", aspect="equal", xlim=(-3, 3.6), ylim=(-3.3, 3.3))
    grid = ndtri((np.arange(15) + 0.5) / 15)  # equal steps of probability under the prior
    decoded = expit(decode(np, learner.numpy_params(), np.stack(np.meshgrid(grid, -grid), axis=-1)))
    show_tiles(right, decoded.reshape(15, 15, 8, 8), "decoded codes, evenly spread over the prior")
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
