"""The code block of the page "GAI_loss" (seed document 002), and the losses of its summary, on every backend.

Adapted is the import of the functional losses. What follows the block checks that it did what the page says.
"""

from __future__ import annotations

import math

import pytest
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

    loss = vae_loss_function(reconstructed_x, x, mu, logvar)
    print("VAE Loss:", loss.item())

    assert capsys.readouterr().out.startswith("VAE Loss: ")
    # the page's numbers are no probabilities, which torch's own cross-entropy refuses; ours clips them
    assert math.isfinite(loss.item())
    x, reconstructed_x = torch.rand(64, 784), torch.rand(64, 784)
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
