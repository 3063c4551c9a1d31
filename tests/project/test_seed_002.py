"""The code block of the page "GAI_loss" (seed document 002), and the losses of its summary, on every backend.

Adapted is the import of the functional losses. What follows the block checks that it did what the page says.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from seeds import assert_is_derivative, unit_interval

from mithril_losses.backends import Backend


def test_vae_loss_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    import mithril_losses as F  # noqa: N812

    def vae_loss_function(reconstructed_x, x, mu, logvar):
        # Reconstruction loss (binary cross-entropy)
        BCE = F.binary_cross_entropy(reconstructed_x, x, reduction="sum")

        # KL Divergence loss
        KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

        return BCE + KLD

    # Example usage
    # Assume we have a batch of data x, reconstructed_x from the decoder,
    # and mu and logvar from the encoder
    x = torch.randn(64, 784)  # Example input batch (batch_size=64, input_dim=784)
    reconstructed_x = torch.randn(64, 784)  # Example reconstructed batch
    mu = torch.randn(64, 20)  # Example mu from encoder (latent_dim=20)
    logvar = torch.randn(64, 20)  # Example logvar from encoder

    # the page's numbers are no probabilities: torch's own cross-entropy refuses them, and so does ours
    for cross_entropy in (torch.nn.functional.binary_cross_entropy, F.binary_cross_entropy):
        with pytest.raises((RuntimeError, ValueError), match=r"between 0 and 1|in \[0, 1\], got"):
            cross_entropy(reconstructed_x, x)
    x, reconstructed_x = torch.rand(64, 784), torch.sigmoid(reconstructed_x)  # as its decoder ends

    loss = vae_loss_function(reconstructed_x, x, mu, logvar)
    print("VAE Loss:", loss.item())

    assert capsys.readouterr().out.startswith("VAE Loss: ")
    assert math.isfinite(loss.item())
    total, _, _ = F.vae_loss(reconstructed_x, x, mu, logvar)
    torch.testing.assert_close(vae_loss_function(reconstructed_x, x, mu, logvar), total, rtol=1e-5, atol=0.0)
    expected = torch.nn.functional.binary_cross_entropy(reconstructed_x, x, reduction="sum")
    torch.testing.assert_close(F.vae_loss(reconstructed_x, x, mu, logvar)[1], expected, rtol=1e-5, atol=0.0)


def test_variational_autoencoders(backend: Backend) -> None:
    from mithril_losses import vae_loss, vae_loss_gradient

    reconstructed_x, x = unit_interval(backend, 6, 5), backend.rand(6, 5)
    mu, logvar = backend.randn(6, 3), backend.randn(6, 3)
    gradients = vae_loss_gradient(reconstructed_x, x, mu, logvar)
    arguments = {"recon_x": reconstructed_x, "x": x, "mu": mu, "logvar": logvar}
    for argnum, name in enumerate(arguments):
        if name != "x":
            assert_is_derivative(
                backend, gradients[name], lambda *arrays: vae_loss(*arrays)[0], *arguments.values(), argnum=argnum
            )


def test_generative_adversarial_networks(backend: Backend) -> None:
    from mithril_losses import vanilla_discriminator_loss, vanilla_generator_loss

    real, fake = unit_interval(backend, 4), unit_interval(backend, 6)
    d, g = (backend.to_numpy(x).astype(float) for x in (real, fake))
    # max E log D(x) + E log(1 − D(G(z))), which the discriminator minimises with the other sign
    expected = -np.mean(np.log(d)) - np.mean(np.log(1.0 - g))
    assert float(vanilla_discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-5)
    assert float(vanilla_generator_loss(fake)) == pytest.approx(-np.mean(np.log(g)), rel=1e-5)


def test_autoregressive_models(backend: Backend) -> None:
    from mithril_losses import next_token_cross_entropy, next_token_cross_entropy_gradient

    logits, tokens = backend.randn(2, 5, 7), backend.array(backend.generator.integers(0, 7, (2, 5)))
    z, x = backend.to_numpy(logits).astype(float), backend.to_numpy(tokens)
    log_p = z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))
    expected = -np.mean([log_p[b, t, x[b, t + 1]] for b in range(2) for t in range(4)])
    assert float(next_token_cross_entropy(logits, tokens)) == pytest.approx(expected, rel=1e-5)
    gradient = next_token_cross_entropy_gradient(logits, tokens)
    assert_is_derivative(backend, gradient, next_token_cross_entropy, logits, tokens)


def test_flow_based_models(backend: Backend) -> None:
    from mithril_losses import flow_negative_log_likelihood, flow_negative_log_likelihood_gradient

    # z = (x − 1) / 2: x is normal around 1 with twice the spread
    x = backend.randn(6, 3)
    z, log_det = (x - 1.0) / 2.0, backend.zeros(6) - 3.0 * math.log(2.0)
    expected = -scipy.stats.norm(1.0, 2.0).logpdf(backend.to_numpy(x)).sum(axis=1).mean()
    assert float(flow_negative_log_likelihood(z, log_det)) == pytest.approx(expected, rel=1e-5)
    gradients = flow_negative_log_likelihood_gradient(z, log_det)
    for argnum, name in enumerate(("z", "log_det")):
        assert_is_derivative(backend, gradients[name], flow_negative_log_likelihood, z, log_det, argnum=argnum)
