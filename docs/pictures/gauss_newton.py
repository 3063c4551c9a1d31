"""The Gauss–Newton matrix of a small network with a robust loss, and its Kronecker factors: writes a picture.

python docs/pictures/gauss_newton.py [--picture FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from curvlinops import FisherType, GGNLinearOperator

from mithril_losses.optimize.curvlinops import KFACOperator, TorchLoss


def dense(operator: Any) -> np.ndarray:
    """Return the matrix of a linear operator."""
    return np.stack([(operator @ unit).numpy() for unit in torch.eye(operator.shape[1])], axis=1)


def main(picture: Path) -> tuple[np.ndarray, np.ndarray]:
    """Draw both matrices, and return them."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    x, targets = torch.randn(200, 3), torch.randn(200, 2)
    arguments: tuple[Any, ...] = (
        model,
        TorchLoss("pseudo_huber_loss", delta=0.5),
        list(model.parameters()),
        [(x, targets)],
    )
    exact = dense(GGNLinearOperator(*arguments, check_deterministic=False))
    factors = dense(KFACOperator(*arguments, fisher_type=FisherType.TYPE2, check_deterministic=False))
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.8), layout="constrained")
    for ax, matrix, title in zip(axes, (exact, factors), ("Gauss–Newton", "Kronecker factors"), strict=True):
        ax.imshow(np.log10(np.abs(matrix) + 1e-5), cmap="magma")
        ax.set(title=title, xticks=[], yticks=[])
    figure.savefig(picture, dpi=100)
    plt.close(figure)
    return exact, factors


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
    exact, factors = main(parser.parse_args().picture)
    print(np.linalg.norm(exact - factors) / np.linalg.norm(exact))
