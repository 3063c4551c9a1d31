"""Quantiles by gradient boosting, with an objective of this package: writes a picture.

    python docs/pictures/boosting.py [--picture FILE]

The targets are a sine with noise that grows to the right. XGBoost's trees predict three quantiles at once, from the
gradient of the pinball loss.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xgboost

from mithril_losses import pinball_loss
from mithril_losses.boosting import initial_score, objective

LEVELS = np.array([0.1, 0.5, 0.9])


def main(picture: Path, rounds: int = 200) -> np.ndarray:
    """Draw the data and the quantiles, and return the share of targets below each quantile."""
    generator = np.random.default_rng(0)
    x = np.sort(generator.uniform(0.0, 6.0, 1000))
    y = np.sin(x) + (0.1 + 0.1 * x) * generator.standard_normal(1000)
    data = xgboost.DMatrix(x[:, None], label=np.repeat(y[:, None], 3, axis=1))
    start = initial_score(pinball_loss, y, outputs=3, quantile=LEVELS)
    data.set_base_margin(np.tile(start, (len(y), 1)))
    own = objective(pinball_loss, library="xgboost", quantile=LEVELS)
    parameters = {"eta": 0.1, "max_depth": 3, "min_child_weight": 20, "disable_default_eval_metric": True}
    found = xgboost.train(parameters, data, rounds, obj=own).predict(data)
    figure, axes = plt.subplots(figsize=(7.0, 3.4))
    axes.plot(x, y, ".", markersize=2, color="0.6")
    for level, quantile in zip(LEVELS, found.T, strict=True):
        axes.plot(x, quantile, label=f"quantile {level:g}")
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=100, bbox_inches="tight")
    plt.close(figure)
    return (found > y[:, None]).mean(axis=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
    print(main(parser.parse_args().picture).round(3))
