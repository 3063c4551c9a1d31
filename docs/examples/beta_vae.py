"""How the weight of the divergence shapes a variational autoencoder: β from 0.1 to 10, and three ways to β = 1."""

from pathlib import Path

import numpy as np
import typer
from common import panels
from vae import train

from mithril_losses.objectives import cyclical, linear_warmup

BETAS = (0.1, 1.0, 4.0, 10.0)


def sweep(backend, steps):
    """Return reconstruction, divergence, codes and labels of the test images for each β."""
    found = {}
    for beta in BETAS:
        learner, data, labels, result = train(backend, steps, beta)
        reconstruction, kl = (float(result.components[name]) for name in ("reconstruction", "kl"))
        found[beta] = reconstruction, kl, learner.backend.to_numpy(learner.outputs(data)["mean"]), labels
        print(f"β = {beta:4}: reconstruction {reconstruction:.2f}, kl {kl:.2f} nats per test image")
    return found


def compare_schedules(backend, steps, seeds):
    """Return −ELBO and reconstruction on the test images, a row for each seed, by schedule."""
    schedules = {"none": 1.0, "linear": linear_warmup(steps // 2), "cyclical": cyclical(steps // 4)}
    found = {}
    for name, beta in schedules.items():
        results = [train(backend, steps, beta, seed)[-1] for seed in range(seeds)]
        found[name] = np.array([[float(r.loss), float(r.components["reconstruction"])] for r in results])
        print(f"{name:>8} annealing: -ELBO {found[name][:, 0].mean():.2f} nats per test image, mean of {seeds} seeds")
    return found


def main(backend: str = "numpy", steps: int = 1500, seeds: int = 3, picture: Path = Path("beta_vae.png")) -> None:
    swept, annealed = sweep(backend, steps), compare_schedules(backend, steps, seeds)
    figure, (left, *maps, right) = panels(2 + len(BETAS), height=3.6)
    left.plot(BETAS, [swept[beta][0] for beta in BETAS], marker="o", color="C0", label="reconstruction")
    left.plot(BETAS, [swept[beta][1] for beta in BETAS], marker="s", color="C1", label="divergence of the codes")
    left.set(xscale="log", xlabel="β", ylabel="nats per test image", title="what β costs and buys")
    left.legend()
    for axes, beta in zip(maps, BETAS, strict=True):
        axes.scatter(*swept[beta][2].T, c=swept[beta][3], cmap="tab10", s=5)
        axes.set(title=f"codes at β = {beta:g}", xlim=(-3.8, 3.8), ylim=(-3.8, 3.8))
    for column, values in enumerate(annealed.values()):
        right.plot([column] * len(values), values[:, 0], "o", color="C2", label="-ELBO" if column == 0 else None)
        right.plot(
            [column] * len(values), values[:, 1], "o", color="C0", label="reconstruction" if column == 0 else None
        )
    right.set(xticks=range(3), xticklabels=annealed, xlim=(-0.5, 2.5), title="annealing β to 1")
    right.legend(loc="center right")
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
