"""The examples of the documentation run on every library, and learn the same there."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
LIBRARIES = ["numpy", "jax", "torch"]
FEW: dict[str, dict[str, Any]] = {  # options that make a run short
    "vae": {"steps": 2},
    "beta_vae": {"steps": 4, "seeds": 1},
    "flow": {"steps": 2},
    "gan": {"steps": 2},
    "language": {"steps": 2, "written": 2},
    "metric_embedding": {"steps": 2},
    "point_cloud": {"steps": 2},
    "mesh_smoothing": {"steps": 2},
    "denoising": {"steps": 1},
    "texture": {"steps": 2},
}
SPLIT = ("split_processes", "split_devices")  # which compare two runs, and draw nothing
SHORTER = {"beta_vae": {"BETAS": (4.0,)}, "gan": {"TYPES": ("standard", "wgan")}, "texture": {"REACH": 2, "SCALES": 2}}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name: str) -> ModuleType:
        module = importlib.import_module(name)
        for constant, value in SHORTER.get(name, {}).items():
            monkeypatch.setattr(module, constant, value)
        return module

    return load


@pytest.mark.exhaustive  # the autoencoder below stands for all: the examples differ in their losses alone
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", FEW)
def test_every_example_runs_on_every_library(load: Any, tmp_path: Path, name: str, library: str) -> None:
    picture = tmp_path / "picture.png"
    load(name).main(library, picture=picture, **FEW[name])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_example_is_short_and_tested_and_on_the_page_with_its_picture() -> None:
    scripts = {path.stem: path for path in EXAMPLES.glob("*.py") if path.stem != "common"}
    assert scripts.keys() == {*FEW, *SPLIT}
    page = (EXAMPLES / "index.md").read_text(encoding="utf-8")
    for name, path in scripts.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80
        assert f"]({name}.py)" in page
        assert name in SPLIT or (f"]({name}.png)" in page and (EXAMPLES / f"{name}.png").exists())


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SPLIT)
def test_a_model_that_is_split_is_that_of_one_process(name: str) -> None:
    """The scripts fail if weights or losses differ by more than 1e-6 after twenty steps."""
    path = os.pathsep.join([str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH", "")])
    given = {"env": os.environ | {"PYTHONPATH": path}, "capture_output": True, "text": True, "timeout": 500}
    done = subprocess.run([sys.executable, str(EXAMPLES / f"{name}.py")], check=False, **given)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) <= 1e-6


@pytest.mark.exhaustive
def test_the_autoencoder_reaches_the_same_bound_on_every_library(load: Any) -> None:
    train = load("vae").train
    bounds = {library: float(train(library, 100)[-1].loss) for library in LIBRARIES}
    start = float(train("numpy", 0)[-1].loss)
    for bound in bounds.values():
        assert bound < 0.8 * start
        assert bound == pytest.approx(bounds["numpy"], rel=0.01)


def test_the_flow_is_inverted_by_its_inverse(load: Any) -> None:
    flow = load("flow")
    learner, _ = flow.train("numpy", steps=5)
    points = np.random.default_rng(0).standard_normal((7, 2))
    z = learner.outputs({"x": points})["z"]
    np.testing.assert_allclose(flow.inverse(learner.numpy_params(), z), points, rtol=1e-10, atol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("loss", ["supervised contrastive", "ArcFace"])
def test_neighbours_on_the_sphere_have_one_digit(load: Any, loss: str) -> None:
    example = load("metric_embedding")
    right = {}
    for steps in (0, 500):
        known, digits, asked, truth = example.train(loss, steps=steps)
        right[steps] = np.mean(example.nearest_neighbour(known, digits, asked) == truth)
    assert right[0] < 0.4
    assert right[500] > 0.85


@pytest.mark.exhaustive
def test_the_earth_mover_takes_points_where_the_chamfer_distance_does_not(load: Any) -> None:
    _, _, off = load("point_cloud").train(steps=150, count=100)
    assert off["earth mover"] < 0.5 * off["chamfer"] < 0.5 * off["start"]


@pytest.mark.exhaustive
def test_smoothing_brings_vertices_and_normals_closer_to_the_truth(load: Any) -> None:
    example = load("mesh_smoothing")
    truth, faces = example.torus(24, 12)
    noisy = truth + 0.03 * np.random.default_rng(0).standard_normal(truth.shape)
    smoothed = example.smooth(noisy, faces, steps=50, laplacian_weight=0.5)
    assert np.mean((smoothed - truth) ** 2) < 0.6 * np.mean((noisy - truth) ** 2)
    assert example.roughness(smoothed, truth, faces) < 0.4 * example.roughness(noisy, truth, faces)


@pytest.mark.exhaustive
@pytest.mark.parametrize("closeness", ["squared error", "structural similarity"])
def test_denoising_brings_the_photograph_closer_to_the_truth(load: Any, closeness: str) -> None:
    example = load("denoising")
    truth = example.photograph()[:, :64, :64]
    noisy = truth + example.NOISE * np.random.default_rng(0).standard_normal(truth.shape)
    found = example.denoise(noisy, closeness, steps=40)
    assert np.mean((found - truth) ** 2) < 0.5 * np.mean((noisy - truth) ** 2)


@pytest.mark.exhaustive
def test_the_texture_is_approached_on_libraries_alike(load: Any) -> None:
    example = load("texture")
    content, texture = (image[:, :32, :32] for image in example.photographs())
    losses = {library: example.transfer(content, texture, library, steps=20)[1] for library in ("numpy", "torch")}
    for found in losses.values():
        assert found[-1] < 0.3 * found[0]
        np.testing.assert_allclose(found[:3], losses["numpy"][:3], rtol=1e-3)  # float32, weighted by 1e5


def test_the_slope_of_the_critic_is_the_gradient_of_its_score(load: Any) -> None:
    """The penalty's gradient flows into an output that the example derives by hand."""
    gan, common = load("gan"), load("common")
    from mithril_losses import get_backend

    critic = common.dense_learner(
        gan.discriminator, gan.WIDTHS | {"out": (64, 1)}, get_backend("numpy", dtype="float64")
    )
    data = {"between": np.random.default_rng(0).standard_normal((5, 2))}
    ones = {"between_scores": np.ones(5)}
    outputs, gradients = critic.model.evaluate(critic.params, data, output_gradients=ones, wrt=["between"])
    np.testing.assert_allclose(outputs["slope"], gradients["between"], rtol=1e-12, atol=1e-15)
