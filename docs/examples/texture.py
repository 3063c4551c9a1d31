"""The texture of one photograph on another, by the statistics of random convolutions: no network was ever trained."""

from pathlib import Path

import numpy as np
import typer
from common import Learner, panels
from sklearn.datasets import load_sample_image

from mithril_losses import PerceptualLoss, get_backend
from mithril_losses.models import compile_model

REACH, FEATURES, SCALES = 5, 32, 3


def extractor(xp, params, data):
    """Return features of the images at three scales: random filters, their results cut off at 0."""
    images, features = data["images"], {}
    for scale in range(SCALES):
        rows, columns = images.shape[1:3]
        wide = xp.concatenate([images, images[:, : REACH - 1]], axis=1)  # an image goes on at its other end
        wide = xp.concatenate([wide, wide[:, :, : REACH - 1]], axis=2)
        shifted = [wide[:, i : i + rows, j : j + columns] for i in range(REACH) for j in range(REACH)]
        found = xp.matmul(xp.concatenate(shifted, axis=-1), params["filters"])
        features[f"scale_{scale}"] = xp.where(found > 0.0, found, 0.0)
        a, b, c, d = (images[:, i::2, j::2] for i in range(2) for j in range(2))
        images = 0.25 * (a + b + c + d)
    return features


def network(xp, params, data):
    """The image is a parameter itself."""
    return {"image": 1.0 * params["image"]}


def photographs():
    """Return parts of two photographs, (1, 96, 96, 3), from −1 to 1: a pagoda, and petals."""
    pagoda, petals = (
        load_sample_image("china.jpg")[4:388:4, 100:484:4],
        load_sample_image("flower.jpg")[150:246, 200:296],
    )
    return tuple(image[None, ...] / 127.5 - 1.0 for image in (pagoda, petals))


def transfer(content, texture, backend="numpy", steps=120, seed=0):
    """Return the content in the texture, and the loss at each step."""
    backend = get_backend(backend, seed=seed)
    filters = backend.generator.standard_normal((REACH * REACH * 3, FEATURES)) / np.sqrt(REACH * REACH * 3)
    params, model = {"filters": backend.array(filters)}, compile_model(extractor, backend.name)
    parts = []  # the loss of the features, and the features that it wants
    for image, weights in ((content, (0.1, 0.0)), (texture, (0.0, 1e5))):
        loss = PerceptualLoss(model, content_weight=weights[0], style_weight=weights[1], extractor_params=params)
        parts.append((loss, model.evaluate(params, {"images": backend.array(image)})))
    learner = Learner(compile_model(network, backend.name), {"image": content}, backend, learning_rate=0.03)
    losses = []
    for _ in range(steps):
        image = learner.outputs({})["image"]
        found = [loss.value_and_gradient(image, features_target=features) for loss, features in parts]
        losses.append(sum(float(value) for value, _ in found))
        learner.learn({}, {"image": sum(gradient for _, gradient in found)})
    return learner.numpy_params()["image"], losses


def main(backend: str = "numpy", steps: int = 120, picture: Path = Path("texture.png")) -> None:
    content, texture = photographs()
    both, losses = transfer(content, texture, backend, steps)
    print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    figure, axes = panels(3)
    for axis, (name, image) in zip(axes, {"content": content, "texture": texture, "both": both}.items(), strict=True):
        axis.imshow(np.clip(0.5 + 0.5 * image[0], 0.0, 1.0))
        axis.set(xticks=[], yticks=[], title=name)
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
