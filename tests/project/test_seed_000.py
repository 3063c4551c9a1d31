"""The code blocks of the guide "Loss Functions for Generative Models" (seed document 000), in its order.

Each test is named after the block's heading and holds the block as it stands there. Adapted are the imports, `jnp` to
the backend where a block creates arrays with it, and what the guide leaves out: the arrays. What follows each block
checks that it did what the guide says.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeds import assert_is_derivative, assert_moved_downhill, probabilities, unit_interval

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


# --- 2. Weighted Losses -----------------------------------------------------------------------------------------


def test_weighted_losses(backend: Backend) -> None:
    predictions, targets = backend.randn(4, 3), backend.randn(4, 3)

    from mithril_losses import WeightedLoss, mse_loss

    # Create weighted loss
    weighted_mse = WeightedLoss(
        loss_fn=mse_loss,
        weight=2.0,
        name="weighted_reconstruction",
    )

    # Compute weighted loss
    loss_value = weighted_mse(predictions, targets)

    assert float(loss_value) == 2.0 * float(mse_loss(predictions, targets))
    assert_is_derivative(backend, weighted_mse.gradient(predictions, targets), weighted_mse, predictions, targets)


# --- 3. Composite Losses ----------------------------------------------------------------------------------------


def test_composite_losses(backend: Backend) -> None:
    predictions, targets = backend.randn(4, 3), backend.randn(4, 3)

    from mithril_losses import CompositeLoss, WeightedLoss, mae_loss, mse_loss

    composite = CompositeLoss(
        [
            WeightedLoss(mse_loss, weight=1.0, name="reconstruction"),
            WeightedLoss(mae_loss, weight=0.5, name="l1_penalty"),
        ],
        return_components=True,
    )

    # Get total loss and components
    total_loss, components = composite(predictions, targets)
    # components = {"reconstruction": 0.15, "l1_penalty": 0.08}

    squared, absolute = float(mse_loss(predictions, targets)), float(mae_loss(predictions, targets))
    assert {name: float(value) for name, value in components.items()} == {
        "reconstruction": squared,
        "l1_penalty": absolute,
    }
    np.testing.assert_allclose(float(total_loss), squared + 0.5 * absolute, rtol=1e-6)
    gradient = composite.gradient(predictions, targets)
    assert_is_derivative(backend, gradient, lambda p, t: composite(p, t)[0], predictions, targets)


# --- 4. VAE Losses ----------------------------------------------------------------------------------------------


def test_vae_losses(backend: Backend) -> None:
    from mithril_losses import VAELoss, mse_loss

    def vae_loss(reconstruction, targets, mean, logvar, beta=1.0):
        # Reconstruction loss
        recon_loss = mse_loss(reconstruction, targets)

        # KL divergence (assuming standard normal prior)
        kl_loss = -0.5 * backend.sum(1 + logvar - mean**2 - backend.exp(logvar))
        kl_loss = kl_loss / targets.shape[0]  # Normalize by batch size

        # Total VAE loss
        return recon_loss + beta * kl_loss

    reconstruction, targets = backend.randn(6, 5), backend.randn(6, 5)
    mean, logvar = backend.randn(6, 3), backend.randn(6, 3)
    found = vae_loss(reconstruction, targets, mean, logvar, beta=4.0)

    # "mean" of the class divides the divergence by the latent dimensions as well
    expected, _, _ = VAELoss("mse", beta=12.0, reduction="mean")(reconstruction, targets, mean, logvar)
    np.testing.assert_allclose(float(found), float(expected), rtol=1e-5)
    gradients = VAELoss("mse", beta=12.0, reduction="mean").gradient(reconstruction, targets, mean, logvar)
    arguments = (reconstruction, targets, mean, logvar)
    for argnum, name in ((0, "recon_x"), (2, "mu"), (3, "logvar")):
        assert_is_derivative(
            backend, gradients[name], lambda *arrays: vae_loss(*arrays, beta=4.0), *arguments, argnum=argnum
        )


# --- 5. GAN Losses ----------------------------------------------------------------------------------------------


def test_gan_losses(backend: Backend) -> None:
    from mithril_losses import create_gan_loss_suite

    fake_scores, real_scores = backend.randn(6), backend.randn(4)

    # Create GAN losses
    gen_loss, disc_loss = create_gan_loss_suite(
        generator_loss_type="lsgan",
        discriminator_loss_type="lsgan",
    )

    # Generator loss (want discriminator to output 1 for fake)
    g_loss = gen_loss(fake_scores)

    # Discriminator loss (real→1, fake→0)
    d_loss = disc_loss(real_scores, fake_scores)

    real, fake = (backend.to_numpy(x).astype(np.float64) for x in (real_scores, fake_scores))
    np.testing.assert_allclose(float(g_loss), np.mean((fake - 1) ** 2), rtol=1e-6)
    np.testing.assert_allclose(float(d_loss), np.mean((real - 1) ** 2) + np.mean(fake**2), rtol=1e-6)
    assert_is_derivative(backend, gen_loss.gradient(fake_scores), gen_loss, fake_scores)
    gradients = disc_loss.gradient(real_scores, fake_scores)
    for argnum, name in enumerate(("real_scores", "fake_scores")):
        assert_is_derivative(backend, gradients[name], disc_loss, real_scores, fake_scores, argnum=argnum)


@pytest.mark.parametrize("kind", ["standard", "lsgan", "wgan"])
def test_available_gan_loss_types(backend: Backend, kind: str) -> None:
    from mithril_losses import create_gan_loss_suite

    gen_loss, disc_loss = create_gan_loss_suite(kind, kind)
    real, fake = unit_interval(backend, 4), unit_interval(backend, 6)
    better = fake - 1e-3 * gen_loss.gradient(fake)
    assert float(backend.mean(better)) > float(backend.mean(fake))
    assert float(gen_loss(better)) < float(gen_loss(fake))
    gradients = disc_loss.gradient(real, fake)
    told_apart = disc_loss(real - 1e-3 * gradients["real_scores"], fake - 1e-3 * gradients["fake_scores"])
    assert float(told_apart) < float(disc_loss(real, fake))


# --- 6. Scheduled Losses ----------------------------------------------------------------------------------------


def test_scheduled_losses(backend: Backend) -> None:
    predictions, targets = backend.randn(4, 3), backend.randn(4, 3)

    from mithril_losses import ScheduledLoss
    from mithril_losses import mse_loss as perceptual_loss  # any loss

    # Define schedule function
    def warmup_schedule(step):
        """Linear warmup from 0 to 1 over 1000 steps."""
        return jnp.minimum(1.0, step / 1000.0)

    # Create scheduled loss
    scheduled_loss = ScheduledLoss(
        loss_fn=perceptual_loss,
        schedule_fn=warmup_schedule,
        name="scheduled_perceptual",
    )

    # Loss weight increases with training steps
    loss_value = scheduled_loss(predictions, targets, step=500)  # weight = 0.5

    assert float(loss_value) == 0.5 * float(perceptual_loss(predictions, targets))
    gradient = scheduled_loss.gradient(predictions, targets, step=500)
    assert_is_derivative(backend, gradient, lambda p, t: scheduled_loss(p, t, step=500), predictions, targets)


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


def test_mesh_loss(backend: Backend) -> None:
    vertices_pred, vertices_target = backend.randn(4, 3), backend.randn(4, 3)
    normals_pred, normals_target = backend.randn(4, 3), backend.randn(4, 3)
    faces = backend.from_numpy(np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]))

    from mithril_losses import MeshLoss

    mesh_loss = MeshLoss(
        vertex_weight=1.0,  # Vertex position accuracy
        normal_weight=0.1,  # Surface normal consistency
        edge_weight=0.1,  # Edge length preservation
        laplacian_weight=0.01,  # Smoothness regularization
    )

    # Mesh format: (vertices, faces, normals)
    pred_mesh = (vertices_pred, faces, normals_pred)
    target_mesh = (vertices_target, faces, normals_target)

    loss = mesh_loss(pred_mesh, target_mesh)

    v, target, n, m = (
        backend.to_numpy(x).astype(np.float64) for x in (vertices_pred, vertices_target, normals_pred, normals_target)
    )
    lengths = [np.linalg.norm(x[i] - x[j]) for x in (v, target) for i in range(4) for j in range(i)]
    cosines = np.sum(n * m, axis=1) / np.linalg.norm(n, axis=1) / np.linalg.norm(m, axis=1)
    from_middle = [np.delete(v, i, axis=0).mean(axis=0) - v[i] for i in range(4)]  # everybody is a neighbour
    expected = np.mean((v - target) ** 2) + 0.1 * np.mean(1 - cosines)
    expected += 0.1 * np.mean((np.array(lengths[:6]) - lengths[6:]) ** 2) + 0.01 * np.mean(
        np.sum(np.square(from_middle), 1)
    )
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)

    gradients = mesh_loss.gradient(pred_mesh, target_mesh)
    moved = (vertices_pred - 1e-2 * gradients["vertices"], faces, normals_pred - 1e-2 * gradients["normals"])
    assert_moved_downhill(loss, mesh_loss(moved, target_mesh))


# --- 8. Perceptual Loss -----------------------------------------------------------------------------------------


def test_perceptual_loss(backend: Backend) -> None:
    generated_images, real_images = backend.rand(2, 8, 8, 3), backend.rand(2, 8, 8, 3)
    extracted_features_pred = {"relu1": backend.randn(2, 8, 8, 4), "relu2": backend.randn(2, 4, 4, 6)}
    extracted_features_target = {"relu1": backend.randn(2, 8, 8, 4), "relu2": backend.randn(2, 4, 4, 6)}

    from mithril_losses import (
        PerceptualLoss,
        feature_reconstruction_loss,
        feature_reconstruction_loss_gradient,
        style_loss,
        style_loss_gradient,
    )

    perceptual = PerceptualLoss(
        content_weight=1.0,
        style_weight=0.01,
    )

    # Requires feature extraction from images
    loss = perceptual(
        pred_images=generated_images,
        target_images=real_images,
        features_pred=extracted_features_pred,
        features_target=extracted_features_target,
    )

    features = extracted_features_pred, extracted_features_target
    expected = float(feature_reconstruction_loss(*features)) + 0.01 * float(style_loss(*features))
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)
    assert float(loss) > 3.0  # two layers of independent normal numbers differ by 2 each

    gradient = perceptual.gradient(features_pred=features[0], features_target=features[1])
    content, style = feature_reconstruction_loss_gradient(*features), style_loss_gradient(*features)
    for name in features[0]:
        parts = [backend.to_numpy(part[name]) for part in (content, style)]
        np.testing.assert_allclose(backend.to_numpy(gradient[name]), parts[0] + 0.01 * parts[1], rtol=1e-5, atol=1e-8)


# --- 9. Total Variation Loss ------------------------------------------------------------------------------------


def test_total_variation_loss(backend: Backend) -> None:
    generated_images = backend.rand(2, 6, 5, 3)
    reconstruction_loss = 0.25

    from mithril_losses import total_variation_loss, total_variation_loss_gradient

    # Encourages spatial smoothness
    tv_loss = total_variation_loss(generated_images)

    # Often combined with other losses
    total_loss = reconstruction_loss + 0.001 * tv_loss

    x = backend.to_numpy(generated_images).astype(np.float64)
    expected = np.abs(np.diff(x, axis=1)).sum() / 2 + np.abs(np.diff(x, axis=2)).sum() / 2
    np.testing.assert_allclose(float(tv_loss), expected, rtol=1e-6)
    np.testing.assert_allclose(float(total_loss), 0.25 + 0.001 * expected, rtol=1e-6)
    gradient = total_variation_loss_gradient(generated_images)
    stepped = total_variation_loss(generated_images - 1e-3 * gradient)
    assert float(stepped) < float(tv_loss)


# --- Experiments to Try -----------------------------------------------------------------------------------------


def test_adjust_loss_weights(backend: Backend) -> None:
    predictions, targets = probabilities(backend, 4, 3), probabilities(backend, 4, 3)

    from mithril_losses import CompositeLoss, WeightedLoss
    from mithril_losses import kl_divergence as kl_loss
    from mithril_losses import mse_loss as recon_loss

    # Try different β values for VAE
    composite = CompositeLoss(
        [
            WeightedLoss(recon_loss, weight=1.0, name="recon"),
            WeightedLoss(kl_loss, weight=4.0, name="kl"),  # β = 4.0
        ]
    )

    expected = float(recon_loss(predictions, targets)) + 4.0 * float(kl_loss(predictions, targets))
    np.testing.assert_allclose(float(composite(predictions, targets)), expected, rtol=1e-6)
    assert_is_derivative(backend, composite.gradient(predictions, targets), composite, predictions, targets)


def test_compare_gan_loss_types(backend: Backend) -> None:
    from mithril_losses import create_gan_loss_suite

    # Standard GAN
    gen_loss, disc_loss = create_gan_loss_suite("standard", "standard")

    # a discriminator that knows nothing: −log ½, and twice that
    know_nothing = backend.full((5,), 0.5)
    np.testing.assert_allclose(float(gen_loss(know_nothing)), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(float(disc_loss(know_nothing, know_nothing)), 2 * np.log(2), rtol=1e-6)

    # LS-GAN (often more stable)
    gen_loss, disc_loss = create_gan_loss_suite("lsgan", "lsgan")

    assert float(gen_loss(know_nothing)) == 0.25
    assert float(disc_loss(know_nothing, know_nothing)) == 0.5


def test_custom_schedule_functions() -> None:
    total_steps = 1000

    # Exponential warmup
    def exp_schedule(step):
        return 1.0 - jnp.exp(-step / 1000.0)

    # Cosine annealing
    def cosine_schedule(step):
        return 0.5 * (1 + jnp.cos(jnp.pi * step / total_steps))

    from mithril_losses import ScheduledLoss, mae_loss
    from mithril_losses.objectives import cosine, exponential_warmup

    ones, zeros = jnp.ones(3), jnp.zeros(3)
    for theirs, ours in ((exp_schedule, exponential_warmup(1000)), (cosine_schedule, cosine(total_steps))):
        for step in (0, 300, 1000):
            values = [float(ScheduledLoss(mae_loss, schedule)(ones, zeros, step=step)) for schedule in (theirs, ours)]
            np.testing.assert_allclose(values[0], values[1], rtol=1e-6, atol=1e-7)
    traced = jax.jit(lambda step: ScheduledLoss(mae_loss, cosine_schedule)(ones, zeros, step=step))
    np.testing.assert_allclose(traced(500), 0.5, rtol=1e-6)


def test_geometric_loss_weights(backend: Backend) -> None:
    from mithril_losses import MeshLoss

    # Adjust mesh loss components
    mesh_loss = MeshLoss(
        vertex_weight=2.0,  # Emphasize position accuracy
        normal_weight=0.5,  # More weight on normals
        edge_weight=0.1,
        laplacian_weight=0.01,
    )

    # a flat triangle that was moved: twice the mean square, and the Laplacian of a triangle with sides 1, 1 and √2
    vertices, faces = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([[0, 1, 2]])
    target_mesh = (backend.array(vertices), backend.from_numpy(faces), None)
    pred_mesh = (backend.array(vertices + 3.0), target_mesh[1], None)
    expected = 2.0 * 9.0 + 0.01 * (0.5 + 1.25 + 1.25) / 3
    np.testing.assert_allclose(float(mesh_loss(pred_mesh, target_mesh)), expected, rtol=1e-6)


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


def test_nan_in_kl_divergence(backend: Backend) -> None:
    from mithril_losses import gaussian_kl_divergence

    mean, logvar = backend.randn(4, 3), backend.array([[-200.0, 200.0, 0.5]] * 4)

    logvar = backend.clip(logvar, -10.0, 10.0)
    kl_loss = -0.5 * backend.sum(1 + logvar - mean**2 - backend.exp(logvar))

    assert np.isfinite(float(kl_loss))
    np.testing.assert_allclose(float(gaussian_kl_divergence(mean, logvar, reduction="sum")), float(kl_loss), rtol=1e-6)


def test_gan_loss_not_converging(backend: Backend) -> None:
    from mithril_losses import create_gan_loss_suite

    # LS-GAN is often more stable
    gen_loss, disc_loss = create_gan_loss_suite("lsgan", "lsgan")

    # where a discriminator is sure of itself, least squares pull with full strength
    assert float(gen_loss.gradient(backend.zeros(1))[0]) == -2.0
    assert float(disc_loss.gradient(backend.zeros(1), backend.ones(1))["fake_scores"][0]) == 2.0


def test_composite_loss_component_mismatch(backend: Backend) -> None:
    pred, target = backend.randn(4, 3), backend.randn(4, 3)

    from mithril_losses import CompositeLoss, mae_loss, mse_loss

    composite = CompositeLoss([mse_loss, mae_loss], return_components=True)
    total, components = composite(pred, target)  # Returns tuple

    np.testing.assert_allclose(float(total), float(components["mse_loss"]) + float(components["mae_loss"]), rtol=1e-6)
