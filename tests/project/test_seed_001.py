"""The code blocks of the page "Loss Functions" of an API reference (seed document 001), in its order.

Each test is named after the block's heading and holds the block as it stands there. Adapted are the imports, `jnp` to
the backend where a block creates arrays with it, and what the page leaves out: the arrays. What follows each block
checks that it did what the page says.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from seeds import assert_is_derivative, unit_interval

from mithril_losses import find_loss
from mithril_losses.backends import Backend
from mithril_losses.models import compile_model


@pytest.fixture
def predictions(backend: Backend) -> Any:
    return backend.array([1.0, 2.0, 3.0])


@pytest.fixture
def targets(backend: Backend) -> Any:
    return backend.array([1.1, 1.9, 3.2])


# --- Reconstruction Losses --------------------------------------------------------------------------------------


def test_mse_loss(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    from mithril_losses import mse_loss

    predictions = backend.array([1.0, 2.0, 3.0])
    targets = backend.array([1.1, 1.9, 3.2])

    loss = mse_loss(predictions, targets, reduction="mean")
    print(f"MSE Loss: {loss}")

    # the page says 0.0233..., but (0.01 + 0.01 + 0.04) / 3 is 0.02
    assert capsys.readouterr().out.startswith("MSE Loss: 0.0")
    assert float(loss) == pytest.approx(0.02, rel=1e-6)


def test_mae_loss(predictions: Any, targets: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from mithril_losses import mae_loss

    loss = mae_loss(predictions, targets, reduction="mean")
    print(f"MAE Loss: {loss}")  # 0.133...

    assert capsys.readouterr().out.startswith("MAE Loss: 0.133")


def test_huber_loss(predictions: Any, targets: Any) -> None:
    from mithril_losses import huber_loss

    # Delta controls the transition point
    loss = huber_loss(predictions, targets, delta=1.0, reduction="mean")

    assert float(loss) == pytest.approx(0.01, rel=1e-6)  # half the squares, all errors being small


def test_charbonnier_loss(backend: Backend, predictions: Any, targets: Any) -> None:
    from mithril_losses import charbonnier_loss, charbonnier_loss_gradient

    loss = charbonnier_loss(
        predictions,
        targets,
        epsilon=1e-3,  # Smoothing constant
        alpha=1.0,  # Exponent
        reduction="mean",
    )

    assert float(loss) == pytest.approx((2 * np.sqrt(0.01 + 1e-6) + np.sqrt(0.04 + 1e-6)) / 3, rel=1e-5)
    gradient = charbonnier_loss_gradient(predictions, targets)
    assert_is_derivative(backend, gradient, charbonnier_loss, predictions, targets)


def test_psnr_loss(backend: Backend) -> None:
    from mithril_losses import psnr_loss, psnr_loss_gradient

    pred_images, target_images = backend.rand(2, 4, 4, 3), backend.rand(2, 4, 4, 3)

    # For normalized images (0-1)
    loss = psnr_loss(pred_images, target_images, max_value=1.0)

    mse = np.mean((backend.to_numpy(pred_images).astype(np.float64) - backend.to_numpy(target_images)) ** 2)
    assert float(loss) == pytest.approx(10 * np.log10(mse), rel=1e-5)
    gradient = psnr_loss_gradient(pred_images, target_images)
    assert_is_derivative(backend, gradient, psnr_loss, pred_images, target_images)

    # For images in range [0, 255]
    loss = psnr_loss(pred_images, target_images, max_value=255.0)

    assert float(loss) == pytest.approx(10 * np.log10(mse / 255**2), rel=1e-5)


# --- Adversarial Losses -----------------------------------------------------------------------------------------


def test_vanilla_gan_losses(backend: Backend) -> None:
    fake_scores, real_scores = unit_interval(backend, 6), unit_interval(backend, 4)

    from mithril_losses import vanilla_discriminator_loss, vanilla_generator_loss

    # Generator loss: -log(D(G(z)))
    g_loss = vanilla_generator_loss(fake_scores)

    # Discriminator loss: -log(D(x)) - log(1 - D(G(z)))
    d_loss = vanilla_discriminator_loss(real_scores, fake_scores)

    real, fake = (backend.to_numpy(x).astype(np.float64) for x in (real_scores, fake_scores))
    assert float(g_loss) == pytest.approx(-np.log(fake).mean(), rel=1e-5)
    assert float(d_loss) == pytest.approx(-np.log(real).mean() - np.log(1 - fake).mean(), rel=1e-5)
    assert_are_derivatives(backend, vanilla_generator_loss, vanilla_discriminator_loss, real_scores, fake_scores)


def test_lsgan_losses(backend: Backend) -> None:
    fake_scores, real_scores = backend.randn(6), backend.randn(4)

    from mithril_losses import least_squares_discriminator_loss, least_squares_generator_loss

    # Generator: minimize (D(G(z)) - 1)^2
    g_loss = least_squares_generator_loss(fake_scores, target_real=1.0)

    # Discriminator: minimize (D(x) - 1)^2 + (D(G(z)) - 0)^2
    d_loss = least_squares_discriminator_loss(real_scores, fake_scores, target_real=1.0, target_fake=0.0)

    real, fake = (backend.to_numpy(x).astype(np.float64) for x in (real_scores, fake_scores))
    assert float(g_loss) == pytest.approx(((fake - 1) ** 2).mean(), rel=1e-5)
    assert float(d_loss) == pytest.approx(((real - 1) ** 2).mean() + (fake**2).mean(), rel=1e-5)
    losses = least_squares_generator_loss, least_squares_discriminator_loss
    assert_are_derivatives(backend, *losses, real_scores, fake_scores)


def test_wasserstein_gan_losses(backend: Backend) -> None:
    fake_scores, real_scores = backend.randn(6), backend.randn(4)

    from mithril_losses import wasserstein_discriminator_loss, wasserstein_generator_loss

    # Generator: minimize -D(G(z))
    g_loss = wasserstein_generator_loss(fake_scores)

    # Critic: minimize D(G(z)) - D(x)
    d_loss = wasserstein_discriminator_loss(real_scores, fake_scores)

    # Note: Requires gradient penalty or weight clipping

    real, fake = (backend.to_numpy(x).astype(np.float64) for x in (real_scores, fake_scores))
    assert float(g_loss) == pytest.approx(-fake.mean(), rel=1e-5)
    assert float(d_loss) == pytest.approx(fake.mean() - real.mean(), rel=1e-5)
    losses = wasserstein_generator_loss, wasserstein_discriminator_loss
    assert_are_derivatives(backend, *losses, real_scores, fake_scores)

    from mithril_losses import gradient_penalty, gradient_penalty_gradient

    input_gradients = backend.randn(4, 3)
    gradient = gradient_penalty_gradient(input_gradients, target_norm=1.0)
    assert_is_derivative(backend, gradient, gradient_penalty, input_gradients)


def test_hinge_losses(backend: Backend) -> None:
    fake_scores, real_scores = backend.randn(6), backend.randn(4)

    from mithril_losses import hinge_discriminator_loss, hinge_generator_loss

    # Generator: -D(G(z))
    g_loss = hinge_generator_loss(fake_scores)

    # Discriminator: max(0, 1 - D(x)) + max(0, 1 + D(G(z)))
    d_loss = hinge_discriminator_loss(real_scores, fake_scores)

    real, fake = (backend.to_numpy(x).astype(np.float64) for x in (real_scores, fake_scores))
    assert float(g_loss) == pytest.approx(-fake.mean(), rel=1e-5)
    assert float(d_loss) == pytest.approx(np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), rel=1e-5)
    assert_are_derivatives(backend, hinge_generator_loss, hinge_discriminator_loss, real_scores, fake_scores)


def assert_are_derivatives(
    backend: Backend, generator_loss: Any, discriminator_loss: Any, real: Any, fake: Any
) -> None:
    gradient = find_loss(generator_loss).gradient(fake)
    assert_is_derivative(backend, gradient, generator_loss, fake)
    gradients = find_loss(discriminator_loss).gradient(real, fake)
    for argnum, name in enumerate(("real_scores", "fake_scores")):
        assert_is_derivative(backend, gradients[name], discriminator_loss, real, fake, argnum=argnum)


# --- Divergence Losses ------------------------------------------------------------------------------------------


def test_kl_divergence_of_distribution_objects() -> None:
    from torch.distributions import Normal

    from mithril_losses import kl_divergence

    # With distribution objects
    p = Normal(loc=0.0, scale=1.0)
    q = Normal(loc=0.5, scale=1.5)
    kl = kl_divergence(p, q)

    # log(σ₂/σ₁) + (σ₁² + (μ₁ − μ₂)²) / 2σ₂² − ½
    assert float(kl) == pytest.approx(np.log(1.5) + 1.25 / 4.5 - 0.5, rel=1e-6)


def test_kl_divergence(backend: Backend) -> None:
    from mithril_losses import kl_divergence, kl_divergence_gradient

    # With probability arrays
    p_probs = backend.array([0.2, 0.5, 0.3])
    q_probs = backend.array([0.3, 0.4, 0.3])
    kl = kl_divergence(p_probs, q_probs, reduction="sum")

    assert float(kl) == pytest.approx(0.2 * np.log(2 / 3) + 0.5 * np.log(5 / 4), rel=1e-5)
    gradient = kl_divergence_gradient(p_probs, q_probs, reduction="sum")
    assert_is_derivative(backend, gradient, lambda p, q: kl_divergence(p, q, reduction="sum"), p_probs, q_probs)


def test_js_divergence(backend: Backend) -> None:
    from mithril_losses import js_divergence, js_divergence_gradient

    p = backend.array([0.2, 0.5, 0.3])
    q = backend.array([0.1, 0.7, 0.2])
    js = js_divergence(p, q)

    m = np.array([0.15, 0.6, 0.25])
    halves = [np.sum(x * np.log(x / m)) for x in (np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.7, 0.2]))]
    assert float(js) == pytest.approx(0.5 * sum(halves), rel=1e-5)
    assert float(js) == float(js_divergence(q, p))  # symmetric
    assert_is_derivative(backend, js_divergence_gradient(p, q), js_divergence, p, q)


def test_wasserstein_distance(backend: Backend) -> None:
    from mithril_losses import wasserstein_distance, wasserstein_distance_gradient

    # 1D samples
    p_samples = backend.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    q_samples = backend.array([[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]])

    # W1 distance
    w1 = wasserstein_distance(p_samples, q_samples, p=1, axis=1)

    # W2 distance
    w2 = wasserstein_distance(p_samples, q_samples, p=2, axis=1)

    assert float(w1) == 0.5  # every sample is shifted by ½
    assert float(w2) == pytest.approx(0.5, rel=1e-6)
    gradient = wasserstein_distance_gradient(p_samples, q_samples, p=2, axis=1)
    assert_is_derivative(backend, gradient, lambda p, q: wasserstein_distance(p, q, p=2, axis=1), p_samples, q_samples)


def test_maximum_mean_discrepancy() -> None:
    from mithril_losses import maximum_mean_discrepancy

    # Generate samples
    key = jax.random.key(0)
    pred_samples = jax.random.normal(key, (2, 100, 5))
    target_samples = jax.random.normal(key, (2, 100, 5))

    # Compute MMD with RBF kernel
    mmd = maximum_mean_discrepancy(pred_samples, target_samples, kernel_type="rbf", kernel_bandwidth=1.0)

    assert float(mmd) == 0.0  # both sets are drawn with one key
    other = jax.random.normal(jax.random.key(1), (2, 100, 5))
    assert float(maximum_mean_discrepancy(pred_samples, other)) > 0.0


def test_energy_distance(backend: Backend) -> None:
    pred_samples, target_samples = backend.randn(2, 100, 5), backend.randn(2, 100, 5)

    from mithril_losses import energy_distance

    energy = energy_distance(
        pred_samples,
        target_samples,
        beta=1.0,  # Power parameter (0 < beta <= 2)
    )

    assert float(energy) > 0.0
    # "Metric": the square root satisfies the triangle inequality
    third = backend.randn(2, 100, 5)
    a, b, c = (
        np.sqrt(backend.to_numpy(energy_distance(x, y, reduction="none")))
        for x, y in ((pred_samples, target_samples), (pred_samples, third), (third, target_samples))
    )
    assert (a <= b + c).all()


# --- Perceptual Losses ------------------------------------------------------------------------------------------


def test_feature_reconstruction_loss() -> None:
    from mithril_losses import feature_reconstruction_loss, feature_reconstruction_loss_gradient

    # Dictionary of features (e.g., from VGG)
    features_real = {
        "conv1": jnp.ones((2, 64, 64, 64)),
        "conv2": jnp.ones((2, 32, 32, 128)),
        "conv3": jnp.ones((2, 16, 16, 256)),
    }

    features_fake = {
        "conv1": jnp.zeros((2, 64, 64, 64)),
        "conv2": jnp.zeros((2, 32, 32, 128)),
        "conv3": jnp.zeros((2, 16, 16, 256)),
    }

    # Weighted feature loss
    loss = feature_reconstruction_loss(
        features_real,
        features_fake,
        weights={"conv1": 1.0, "conv2": 0.5, "conv3": 0.25},
    )

    assert float(loss) == 1.75
    gradient = feature_reconstruction_loss_gradient(features_real, features_fake)
    assert {name: x.shape for name, x in gradient.items()} == {name: x.shape for name, x in features_real.items()}


def test_style_loss(backend: Backend) -> None:
    features_real = {
        "conv1": backend.ones(2, 8, 8, 4),
        "conv2": backend.ones(2, 4, 4, 8),
        "conv3": backend.ones(2, 2, 2, 16),
    }
    features_fake = {name: 0.0 * x for name, x in features_real.items()}

    from mithril_losses import style_loss

    # Captures texture/style information
    loss = style_loss(
        features_real,
        features_fake,
        weights={"conv1": 1.0, "conv2": 1.0, "conv3": 1.0},
    )

    # every entry of a Gram matrix of ones is H W / (H W C)
    np.testing.assert_allclose(float(loss), 1 / 4**2 + 1 / 8**2 + 1 / 16**2, rtol=1e-6)


def test_contextual_loss() -> None:
    from mithril_losses import contextual_loss, contextual_loss_gradient

    # Single-layer features
    feat_real = jnp.ones((2, 32, 32, 128))
    feat_fake = jnp.zeros((2, 32, 32, 128))

    loss = contextual_loss(
        feat_real,
        feat_fake,
        band_width=0.1,
        max_samples=512,  # Memory-efficient
    )

    # all are equally far: each of the 512 targets is met with a share of 1/512
    np.testing.assert_allclose(float(loss), np.log(512.0), rtol=1e-6)
    assert np.isfinite(contextual_loss_gradient(feat_real, feat_fake, max_samples=512)).all()


def test_perceptual_loss_module(backend: Backend) -> None:
    weights = {name: backend.randn(3, 5) for name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")}

    def features(xp: Any, params: Any, data: Any) -> dict[str, Any]:
        return {name: xp.tanh(xp.matmul(data["images"], kernel)) for name, kernel in params.items()}

    vgg_model = compile_model(features, backend.name)
    pred_images, target_images = backend.rand(1, 5, 4, 3), backend.rand(1, 5, 4, 3)

    from mithril_losses import PerceptualLoss

    # Create perceptual loss module
    perceptual = PerceptualLoss(
        feature_extractor=vgg_model,  # Pre-trained VGG
        layer_weights={
            "conv1_2": 1.0,
            "conv2_2": 1.0,
            "conv3_3": 1.0,
            "conv4_3": 1.0,
        },
        content_weight=1.0,
        style_weight=10.0,
        contextual_weight=0.1,
        extractor_params=weights,
    )

    # Compute combined loss
    loss = perceptual(pred_images, target_images)

    assert float(loss) > 0.0
    value, gradient = perceptual.value_and_gradient(pred_images, target_images)
    assert float(value) == float(loss)
    assert tuple(gradient.shape) == (1, 5, 4, 3)
    assert float(perceptual(pred_images - 1e-2 * gradient, target_images)) < float(loss)


# --- Explicit Loss Composition ----------------------------------------------------------------------------------


def test_explicit_loss_composition(predictions: Any, targets: Any) -> None:
    from mithril_losses import mae_loss, mse_loss

    reconstruction_loss = mse_loss(predictions, targets)
    l1_penalty = mae_loss(predictions, targets)
    total_loss = reconstruction_loss + 0.5 * l1_penalty

    loss_dict = {
        "total_loss": total_loss,
        "reconstruction_loss": reconstruction_loss,
        "l1_penalty": l1_penalty,
    }

    assert float(loss_dict["total_loss"]) == pytest.approx(0.02 + 0.5 * 0.4 / 3, rel=1e-6)


def test_explicit_schedule_weights(predictions: Any, targets: Any) -> None:
    from mithril_losses import ScheduledLoss, WeightedLoss, mae_loss, mse_loss
    from mithril_losses import mse_loss as perceptual_loss  # any loss

    reconstruction_loss, step = mae_loss(predictions, targets), 250

    def warmup_schedule(step: int) -> float:
        return min(1.0, step / 1000.0)

    perceptual_term = perceptual_loss(predictions, targets)
    scheduled_perceptual = warmup_schedule(step) * perceptual_term
    total_loss = reconstruction_loss + 0.1 * scheduled_perceptual

    assert float(total_loss) == pytest.approx(0.4 / 3 + 0.1 * 0.25 * 0.02, rel=1e-6)
    composed = WeightedLoss(ScheduledLoss(mse_loss, warmup_schedule), weight=0.1)  # the same as one loss
    assert float(composed(predictions, targets, step=step)) == pytest.approx(0.1 * 0.25 * 0.02, rel=1e-5)


# --- Base Utilities ---------------------------------------------------------------------------------------------


def test_reduce_loss(backend: Backend) -> None:
    from mithril_losses import reduce_loss

    predictions, targets = backend.array([[1.0, 2.0], [3.0, 4.0]]), backend.array([[0.0, 0.0], [0.0, 0.0]])
    per_pixel_loss = backend.square(predictions - targets)

    mean_loss = reduce_loss(per_pixel_loss, reduction="mean")
    sum_loss = reduce_loss(per_pixel_loss, reduction="sum")
    vae_loss = reduce_loss(per_pixel_loss, reduction="batch_sum")

    assert (float(mean_loss), float(sum_loss), float(vae_loss)) == (7.5, 30.0, 15.0)


# --- Common Patterns --------------------------------------------------------------------------------------------


def test_pattern_1_vae_loss(backend: Backend) -> None:
    from mithril_losses import beta_vae_loss_gradient, gaussian_kl_divergence, mse_loss

    def vae_loss(x, reconstruction, mean, logvar):
        """Complete VAE loss."""
        # Canonical ELBO terms use VAE-style batch_sum reduction.
        recon_loss = mse_loss(reconstruction, x, reduction="batch_sum")
        kl_loss = gaussian_kl_divergence(mean, logvar, reduction="batch_sum")

        # Total loss
        total_loss = recon_loss + 0.5 * kl_loss

        return {
            "total_loss": total_loss,
            "reconstruction_loss": recon_loss,
            "kl_loss": kl_loss,
        }

    x, reconstruction = unit_interval(backend, 6, 5), unit_interval(backend, 6, 5)
    mean, logvar = backend.randn(6, 3), backend.randn(6, 3)
    found = {name: float(value) for name, value in vae_loss(x, reconstruction, mean, logvar).items()}

    e, m, s = (backend.to_numpy(array).astype(np.float64) for array in (reconstruction - x, mean, logvar))
    assert found["reconstruction_loss"] == pytest.approx(np.sum(e**2) / 6, rel=1e-6)
    assert found["kl_loss"] == pytest.approx(0.5 * np.sum(m**2 + np.exp(s) - 1.0 - s) / 6, rel=1e-6)
    assert found["total_loss"] == pytest.approx(found["reconstruction_loss"] + 0.5 * found["kl_loss"], rel=1e-6)
    gradients = beta_vae_loss_gradient(reconstruction, x, mean, logvar, beta=0.5, reduction="batch_sum")
    for argnum, name in ((2, "mu"), (3, "logvar")):
        assert_is_derivative(
            backend,
            gradients[name],
            lambda *a: vae_loss(*a)["total_loss"],
            x,
            reconstruction,
            mean,
            logvar,
            argnum=argnum,
        )


def test_pattern_2_gan_with_multiple_losses(backend: Backend) -> None:
    kernel = {"conv": backend.randn(3, 5)}
    vgg = compile_model(
        lambda xp, params, data: {"conv": xp.tanh(xp.matmul(data["images"], params["conv"]))}, backend.name
    )

    from mithril_losses import PerceptualLoss, feature_reconstruction_loss, hinge_generator_loss, style_loss

    # Perceptual loss for generator
    perceptual_loss = PerceptualLoss(
        feature_extractor=vgg,
        content_weight=1.0,
        style_weight=10.0,
        extractor_params=kernel,
    )

    def generator_loss(fake_images, real_images, fake_scores):
        """Complete generator loss."""
        # Adversarial loss
        adv_loss = hinge_generator_loss(fake_scores)

        # Perceptual loss
        perc_loss = perceptual_loss(fake_images, real_images)

        # Total loss
        total = adv_loss + 0.1 * perc_loss

        return {
            "total_loss": total,
            "adversarial": adv_loss,
            "perceptual": perc_loss,
        }

    fake_images, real_images, fake_scores = backend.rand(2, 5, 4, 3), backend.rand(2, 5, 4, 3), backend.randn(2)
    found = {name: float(x) for name, x in generator_loss(fake_images, real_images, fake_scores).items()}

    fake, real = (vgg.evaluate(kernel, {"images": images})["conv"] for images in (fake_images, real_images))
    perceptual = float(feature_reconstruction_loss(fake, real)) + 10.0 * float(style_loss(fake, real))
    assert found["adversarial"] == pytest.approx(-float(backend.mean(fake_scores)), rel=1e-6)
    assert found["perceptual"] == pytest.approx(perceptual, rel=1e-5)
    assert found["total_loss"] == pytest.approx(found["adversarial"] + 0.1 * perceptual, rel=1e-5)


def test_explicit_multi_loss_system(predictions: Any, targets: Any) -> None:
    from mithril_losses import mae_loss as perceptual_fn  # any loss
    from mithril_losses import mse_loss

    recon_loss = mse_loss(predictions, targets)
    perc_loss = perceptual_fn(predictions, targets)
    total_loss = recon_loss + 0.1 * perc_loss

    components = {
        "reconstruction_loss": recon_loss,
        "perceptual_loss": perc_loss,
    }

    assert [float(x) for x in components.values()] == pytest.approx([0.02, 0.4 / 3], rel=1e-6)
    assert float(total_loss) == pytest.approx(0.02 + 0.1 * 0.4 / 3, rel=1e-6)


# --- Performance Tips -------------------------------------------------------------------------------------------


def test_memory_efficient_perceptual_loss(backend: Backend) -> None:
    from mithril_losses import PerceptualLoss, contextual_loss

    # Use lower resolution or fewer samples
    perceptual = PerceptualLoss(
        max_contextual_samples=256,  # Reduce memory usage
        content_weight=0.0,
        contextual_weight=1.0,
    )

    features_real, features_fake = backend.randn(1, 20, 20, 4), backend.randn(1, 20, 20, 4)
    found = perceptual(features_pred=features_real, features_target=features_fake)

    # and under Troubleshooting
    expected = contextual_loss(
        features_real,
        features_fake,
        max_samples=256,  # Reduce from default 1024
    )
    np.testing.assert_allclose(float(found), float(expected), rtol=1e-6)


def test_vectorized_loss_computation() -> None:
    from mithril_losses import mse_loss

    predictions, targets = jnp.arange(6.0).reshape(3, 2), jnp.zeros((3, 2))

    # Use JAX's vmap for batched loss computation
    @jax.jit
    def batch_loss(predictions, targets):
        return jax.vmap(mse_loss)(predictions, targets)

    np.testing.assert_allclose(batch_loss(predictions, targets), [0.5, 6.5, 20.5], rtol=1e-6)

    # the same in PyTorch
    found = torch.func.vmap(mse_loss)(torch.arange(6.0).reshape(3, 2), torch.zeros(3, 2))
    np.testing.assert_allclose(found, [0.5, 6.5, 20.5], rtol=1e-6)


def test_gradient_accumulation_for_large_losses() -> None:
    from mithril_losses import mse_loss

    rows, targets = jnp.arange(12.0).reshape(6, 2) / 10.0, jnp.ones((6, 3))
    params = jnp.ones((2, 3)) / 4.0

    # For very large composite losses
    @jax.jit
    @jax.grad
    def loss_with_accumulation(params, batch):
        # Compute losses in chunks
        chunks = zip(jnp.split(batch[0], 3), jnp.split(batch[1], 3), strict=True)
        return sum(mse_loss(rows @ params, targets, normalizer=targets.size * 3.0) for rows, targets in chunks)

    expected = jax.grad(lambda params: mse_loss(rows @ params, targets))(params)
    np.testing.assert_allclose(loss_with_accumulation(params, (rows, targets)), expected, rtol=1e-6)


# --- Troubleshooting --------------------------------------------------------------------------------------------


def test_loss_values_differ_greatly_in_magnitude() -> None:
    from mithril_losses import CompositeLoss, WeightedLoss

    recon_loss, kl_loss = 100.0, 0.01

    # Bad: losses differ by orders of magnitude
    total = recon_loss + kl_loss  # e.g., 100.0 + 0.01

    assert total == pytest.approx(100.01)

    # Good: scale to similar magnitudes
    total = recon_loss + 10.0 * kl_loss  # e.g., 100.0 + 0.1

    assert total == pytest.approx(100.1)
    mean, logvar = np.array([[0.1]]), np.array([[0.0]])
    composed = CompositeLoss([WeightedLoss("gaussian_kl_divergence", 10.0)])
    assert float(composed(mean, logvar)) == pytest.approx(10.0 * 0.005)
