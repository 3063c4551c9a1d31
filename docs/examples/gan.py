"""Generative adversarial networks on a mixture of eight Gaussians: the types of the suite side by side."""

from pathlib import Path

import numpy as np
import typer
from common import dense, dense_learner, panels

from mithril_losses import create_gan_loss_suite, get_backend, gradient_penalty_gradient

WIDTHS = {"first": (2, 64), "second": (64, 64)}
TYPES = ("standard", "lsgan", "wgan", "hinge")


def generator(xp, params, data):
    """Turn noise into points of the plane."""
    hidden = xp.tanh(dense(xp, params, "first", data["noise"]))
    return {"points": dense(xp, params, "out", xp.tanh(dense(xp, params, "second", hidden)))}


def discriminator(xp, params, data):
    """Score the points that there are; of those between real and fake ones, return how steep the score is."""
    outputs = {}
    for name, points in data.items():
        first = xp.tanh(dense(xp, params, "first", points))
        second = xp.tanh(dense(xp, params, "second", first))
        outputs[f"{name}_scores"] = dense(xp, params, "out", second)[:, 0]
        if name == "between":  # the chain rule through both layers, as another output
            slope = xp.matmul((1.0 - second * second) * params["out_weight"][:, 0], params["second_weight"].T)
            outputs["slope"] = xp.matmul((1.0 - first * first) * slope, params["first_weight"].T)
    return outputs


def probabilities(xp, params, data):
    """Score points by the probability that they are real."""
    return {name: 0.5 + 0.5 * xp.tanh(0.5 * x) for name, x in discriminator(xp, params, data).items()}


def mixture(random, count):
    """Draw from eight narrow Gaussians on a circle."""
    centres = 2.0 * np.exp(0.25j * np.pi * random.integers(8, size=(count, 1)))
    return np.hstack([centres.real, centres.imag]) + 0.1 * random.standard_normal((count, 2))


def train(kind, backend, steps, batch=128):
    """Return the points that the generator makes of 1000 draws of noise in the end."""
    backend = get_backend(backend, seed=0)
    faker = dense_learner(generator, WIDTHS | {"out": (64, 2)}, backend, 2e-3, beta1=0.5)
    judge = probabilities if kind == "standard" else discriminator
    critic = dense_learner(judge, WIDTHS | {"out": (64, 1)}, backend, 2e-3, beta1=0.5)
    generator_loss, discriminator_loss = create_gan_loss_suite(kind, kind)
    for _ in range(steps):
        noise = {"noise": backend.randn(batch, 2)}
        points = {"real": backend.array(mixture(backend.generator, batch)), "fake": faker.outputs(noise)["points"]}
        if kind == "wgan":
            points["between"] = points["fake"] + backend.rand(batch, 1) * (points["real"] - points["fake"])
        outputs = critic.outputs(points)
        gradients = discriminator_loss.gradient(outputs["real_scores"], outputs["fake_scores"])
        if kind == "wgan":
            gradients["slope"] = gradient_penalty_gradient(outputs["slope"], upstream=0.1)  # 10 for images
        critic.learn(points, gradients)
        gradients = {"fake_scores": generator_loss.gradient(critic.outputs(points)["fake_scores"])}
        _, into = critic.model.evaluate(critic.params, points, output_gradients=gradients, wrt=["fake"])
        faker.learn(noise, {"points": into["fake"]})
    return backend.to_numpy(faker.outputs({"noise": backend.randn(1000, 2)})["points"])


def main(backend: str = "numpy", steps: int = 2000, picture: Path = Path("gan.png")) -> None:
    drawn = {"data": mixture(np.random.default_rng(0), 1000)} | {kind: train(kind, backend, steps) for kind in TYPES}
    figure, row = panels(len(drawn), height=3.6)
    for axes, name in zip(row, drawn, strict=True):
        axes.scatter(*drawn[name].T, s=3)
        axes.set(title=name, xlim=(-3, 3), ylim=(-3, 3))
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
