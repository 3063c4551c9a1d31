"""A robust fit of a curve by Levenberg and Marquardt's method: writes a picture.

    python docs/pictures/optimize.py [--picture FILE]

The step solves (G + λ I) s = −∇L by conjugate gradients. Only products with the Gauss–Newton matrix G = Jᵀ H J are
needed: J by the model, H by the loss. λ falls after a step that lowers the loss, and grows after one that does not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from mithril_losses import Objective, Term
from mithril_losses.models import compile_model
from mithril_losses.optimize import ScipyObjective, scipy_objective

START = {"size": np.array(1.0), "rate": np.array(1.0), "level": np.array(0.0)}


def decay(xp: Any, params: Any, data: Any) -> dict[str, Any]:
    return {"y": params["size"] * xp.exp(-params["rate"] * data["t"]) + params["level"]}


def levenberg_marquardt(problem: ScipyObjective, steps: int = 20) -> tuple[np.ndarray, list[float]]:
    """Return the parameters, and the loss before each step and at the end."""
    x, damping = problem.x0, 1e-3
    loss, gradient = problem.fun(x)
    losses = [loss]
    for _ in range(steps):
        damped = LinearOperator((x.size, x.size), lambda v, x=x, d=damping: problem.hessp(x, v) + d * v)
        step, _ = cg(damped, -gradient, rtol=1e-10)
        if problem.fun(x + step)[0] <= loss:
            x, damping = x + step, 0.3 * damping
            loss, gradient = problem.fun(x)
        else:
            damping *= 10.0
        losses.append(loss)
    return x, losses


def main(picture: Path) -> dict[str, np.ndarray]:
    """Draw the data and the fits with two losses, and return the parameters of each."""
    generator = np.random.default_rng(2)
    t = np.linspace(0.0, 3.0, 60)
    y = 2.0 * np.exp(-1.3 * t) + 0.5 + 0.05 * generator.standard_normal(60)
    y[5::9] += 2.0
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    left.plot(t, y, ".", color="0.5")
    found = {}
    for loss, options in (("mse_loss", {}), ("cauchy_loss", {"scale": 0.1})):
        fit = Objective([Term("fit", loss, outputs="y", targets="y", options=options)])
        # "bound" is never negative, also where the loss is not convex
        problem = scipy_objective(compile_model(decay, "numpy"), fit, {"t": t, "y": y}, START, curvature="bound")
        found[loss], losses = levenberg_marquardt(problem)
        left.plot(t, decay(np, dict(zip(START, found[loss], strict=True)), {"t": t})["y"], label=loss)
        right.semilogy(np.maximum(np.array(losses) - losses[-1], 1e-17), label=loss)
    left.legend(frameon=False)
    right.set(xlabel="step", ylabel="loss above the optimum")
    figure.savefig(picture, dpi=100, bbox_inches="tight")
    plt.close(figure)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
    print(main(parser.parse_args().picture))
