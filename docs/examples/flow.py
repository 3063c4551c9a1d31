"""A normalizing flow on two moons: affine couplings that turn the data into noise, and noise into data."""

from pathlib import Path

import numpy as np
import typer
from common import dense, dense_learner, panels
from sklearn.datasets import make_moons

from mithril_losses import Objective, Term, flow_negative_log_likelihood, get_backend

COUPLINGS = [f"coupling_{number}" for number in range(1, 7)]
WIDTHS = {f"{coupling}_hidden": (1, 32) for coupling in COUPLINGS} | {f"{c}_out": (32, 2) for c in COUPLINGS}
AREA = {"xlim": (-1.6, 2.6), "ylim": (-1.3, 1.8)}


def scale_and_shift(xp, params, coupling, kept):
    """Return log-scale and shift of one coordinate, functions of the other."""
    out = dense(xp, params, f"{coupling}_out", xp.tanh(dense(xp, params, f"{coupling}_hidden", kept)))
    return xp.tanh(out[:, :1]), out[:, 1:]


def network(xp, params, data):
    """Return z, what the couplings make of x, and the logarithm of the determinant |∂z/∂x|."""
    kept, moved, log_det = data["x"][:, :1], data["x"][:, 1:], 0.0
    for coupling in COUPLINGS:
        log_scale, shift = scale_and_shift(xp, params, coupling, kept)
        kept, moved = moved * xp.exp(log_scale) + shift, kept
        log_det = log_det + log_scale[:, 0]
    return {"z": xp.concatenate([kept, moved], axis=1), "log_det": log_det}


def inverse(params, z):
    """Return the x that the couplings turn into z."""
    kept, moved = z[:, :1], z[:, 1:]
    for coupling in reversed(COUPLINGS):
        log_scale, shift = scale_and_shift(np, params, coupling, moved)
        kept, moved = moved, (kept - shift) * np.exp(-log_scale)
    return np.concatenate([kept, moved], axis=1)


def train(backend="numpy", steps=2500, seed=0):
    """Return what has learnt, and the negative log-likelihood in nats at each step."""
    backend = get_backend(backend, seed=seed)
    learner = dense_learner(network, WIDTHS, backend)
    likelihood = Term("nll", "flow_negative_log_likelihood", outputs={"z": "z", "log_det": "log_det"})
    objective, losses = Objective([likelihood]), []
    for step in range(steps):
        data = {"x": backend.array(make_moons(256, noise=0.06, random_state=step)[0])}
        result = objective.evaluate(learner.outputs(data), data)
        learner.learn(data, result.output_gradients)
        losses.append(float(result.loss))
    return learner, losses


def main(backend: str = "numpy", steps: int = 2500, picture: Path = Path("flow.png")) -> None:
    learner, losses = train(backend, steps)
    print(f"negative log-likelihood: {np.mean(losses[-100:]):.3f} nats per point")
    figure, (left, middle, right) = panels(3)
    left.scatter(*make_moons(2000, noise=0.06, random_state=0)[0].T, s=3)
    left.set(title="data", **AREA)
    middle.scatter(*inverse(learner.numpy_params(), np.random.default_rng(0).standard_normal((2000, 2))).T, s=3)
    middle.set(title="noise, through the inverse of the flow", **AREA)
    x, y = np.meshgrid(np.linspace(*AREA["xlim"], 200), np.linspace(*AREA["ylim"], 200))
    outputs = learner.outputs({"x": learner.backend.array(np.stack([x.ravel(), y.ravel()], axis=1))})
    likelihood = -learner.backend.to_numpy(flow_negative_log_likelihood(**outputs, reduction="none"))
    right.pcolormesh(x, y, np.exp(likelihood).reshape(x.shape))
    right.set(title="the density that the flow has learnt")
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
