"""The code blocks of the guide "Loss Functions for Generative Models" (seed document 000), in its order.

Each test is named after the block's heading and holds the block as it stands there. Adapted are the imports, `jnp` to
the backend where a block creates arrays with it, and what the guide leaves out: the arrays. What follows each block
checks that it did what the guide says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from seeds import assert_is_derivative

from mithril_losses.backends import Backend

# --- 1. Functional Losses ---------------------------------------------------------------------------------------


def test_functional_losses(backend: Backend) -> None:
    predictions, targets = backend.randn(4, 3), backend.randn(4, 3)

    from mithril_losses import mae_loss, mae_loss_gradient, mse_loss, mse_loss_gradient

    # Mean Squared Error
    loss = mse_loss(predictions, targets, reduction="mean")

    e = backend.to_numpy(predictions).astype(np.float64) - backend.to_numpy(targets)
    np.testing.assert_allclose(float(loss), np.mean(e**2), rtol=1e-6)
    assert_is_derivative(backend, mse_loss_gradient(predictions, targets), mse_loss, predictions, targets)

    # Mean Absolute Error
    loss = mae_loss(predictions, targets, reduction="sum")

    np.testing.assert_allclose(float(loss), np.sum(np.abs(e)), rtol=1e-6)

    def total(predictions: Any, targets: Any) -> Any:
        return mae_loss(predictions, targets, reduction="sum")

    gradient = mae_loss_gradient(predictions, targets, reduction="sum")
    assert_is_derivative(backend, gradient, total, predictions, targets)

    # "none": return per-element losses
    np.testing.assert_allclose(mse_loss(predictions, targets, reduction="none"), e**2, rtol=1e-5)


# --- 7. Geometric Losses ----------------------------------------------------------------------------------------


def test_chamfer_distance(backend: Backend) -> None:
    from mithril_losses import chamfer_distance

    # Point clouds: (batch, num_points, 3)
    pred_points = backend.randn(4, 1000, 3)
    target_points = backend.randn(4, 1000, 3)

    loss = chamfer_distance(pred_points, target_points)

    x, y = backend.to_numpy(pred_points[:1]), backend.to_numpy(target_points[:1])
    squared = ((x[0, :, None].astype(np.float64) - y[0, None]) ** 2).sum(-1)
    expected = squared.min(1).mean() + squared.min(0).mean()
    np.testing.assert_allclose(float(chamfer_distance(pred_points, target_points, reduction="none")[0]), expected, 1e-5)
    assert 0.5 * expected < float(loss) < 2.0 * expected


# --- Troubleshooting --------------------------------------------------------------------------------------------


def test_shape_mismatch_errors(backend: Backend, capsys: Any) -> None:
    from mithril_losses import mse_loss

    predictions, targets = backend.randn(12), backend.randn(4, 3)

    print(f"Predictions: {predictions.shape}")
    print(f"Targets: {targets.shape}")

    # Reshape if needed
    predictions = predictions.reshape(targets.shape)

    assert capsys.readouterr().out.count("12") == 1
    assert float(mse_loss(predictions, targets)) > 0.0
