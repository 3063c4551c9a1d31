"""A photograph without its noise: of little total variation, and close to the noisy one in one of two ways."""

from pathlib import Path

import numpy as np
import typer
from common import Learner, panels
from sklearn.datasets import load_sample_image

from mithril_losses import Objective, Term, get_backend, psnr_loss, ssim_loss
from mithril_losses.models import compile_model

NOISE = 0.1
ALIKE = {
    "k1": 0.1,
    "k2": 0.3,
}  # what varies by less than this is no structure: c₂ = 0.3² lies above the noise's variance
CLOSE = {  # the term that keeps the image close to the noisy one, and the weight of its variation
    "squared error": (Term("close", "mse_loss", "image", "noisy"), 0.13),
    "structural similarity": (Term("close", "ssim_loss", "image", "noisy", options=ALIKE), 1.2),
}


def network(xp, params, data):
    """The image is a parameter itself."""
    return {"image": 1.0 * params["image"]}


def photograph():
    """Return a photograph of a flower, (1, 160, 160, 3), from 0 to 1."""
    return load_sample_image("flower.jpg")[None, 60:380:2, 160:480:2] / 255.0


def denoise(noisy, closeness, backend="numpy", steps=120):
    """Return the image that is close to a noisy one and varies little."""
    close, weight = CLOSE[closeness]
    isotropic = {"norm_type": "isotropic"}
    varied = Term("variation", "total_variation_loss", "image", weight=weight / noisy.size, options=isotropic)
    backend, objective = get_backend(backend), Objective([close, varied])
    learner = Learner(compile_model(network, backend.name), {"image": noisy}, backend, learning_rate=0.01)
    data = {"noisy": backend.array(noisy)}
    for _ in range(steps):
        learner.learn(data, objective.evaluate(learner.outputs(data), data).output_gradients)
    return learner.numpy_params()["image"].astype(noisy.dtype)


def main(backend: str = "numpy", steps: int = 120, picture: Path = Path("denoising.png")) -> None:
    truth = photograph()
    noisy = truth + NOISE * np.random.default_rng(0).standard_normal(truth.shape)
    images = {"noisy": noisy} | {name: denoise(noisy, name, backend, steps) for name in CLOSE}
    figure, axes = panels(2 + len(CLOSE), height=3.2)
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        quality = f"{name}\n{-psnr_loss(image, truth):.1f} dB, similarity {1.0 - ssim_loss(image, truth):.2f}"
        print(quality.replace("\n", ": "))
        axis.set(title=quality)
        axis.imshow(np.clip(image[0], 0.0, 1.0))
    axes[-1].set(title="the photograph\n")
    axes[-1].imshow(truth[0])
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
