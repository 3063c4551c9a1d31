"""The code blocks of the page "VAE Loss Function" (seed document 003), in its order.

Each test is named after the block's heading and holds the block as it stands there. Adapted are the imports (the
functional losses, and in place of a definition the loss of that name) and what the page leaves out: model and data. The
definitions that the page gives are kept, and what is imported must agree with them.
"""

# ruff: noqa: B007, RET505  (the code is the page's)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from seeds import unit_interval

import mithril_losses as ml
from mithril_losses.backends import Backend

GENERATOR = torch.Generator().manual_seed(3)
ARRAYS = (
    0.05 + 0.9 * torch.rand(16, 10, generator=GENERATOR),
    torch.rand(16, 10, generator=GENERATOR),
    torch.randn(16, 4, generator=GENERATOR),
    torch.randn(16, 4, generator=GENERATOR),
)


def assert_agrees(ours: Any, pages: Any, **options: Any) -> None:
    """Both functions give the same three numbers, and the same gradients through `backward` and by hand."""
    values = ours(*ARRAYS, **options)
    leaves = [x.clone().requires_grad_() for x in ARRAYS]
    expected = pages(*leaves, **options)
    torch.testing.assert_close(values, tuple(x.detach() for x in expected), rtol=1e-5, atol=0.0)
    expected[0].backward()
    for name, leaf in zip(("recon_x", "x", "mu", "logvar"), leaves, strict=True):
        if name != "x":
            gradients = ml.find_loss(ours).gradient(*ARRAYS, **options)
            torch.testing.assert_close(gradients[name], leaf.grad, rtol=1e-4, atol=1e-6)


# --- Reconstruction Loss Options --------------------------------------------------------------------------------


def test_binary_cross_entropy(backend: Backend) -> None:
    import mithril_losses as F  # noqa: N812

    def bce_reconstruction(recon_x, x):
        """BCE for binary/normalized data."""
        return F.binary_cross_entropy(recon_x, x, reduction="sum")

    recon_x, x = unit_interval(backend, 4, 6), backend.rand(4, 6)
    p, t = (backend.to_numpy(a).astype(np.float64) for a in (recon_x, x))
    expected = -np.sum(t * np.log(p) + (1 - t) * np.log(1 - p))
    np.testing.assert_allclose(float(bce_reconstruction(recon_x, x)), expected, rtol=1e-5)


def test_mean_squared_error(backend: Backend) -> None:
    import mithril_losses as F  # noqa: N812

    def mse_reconstruction(recon_x, x):
        """MSE for continuous data."""
        return F.mse_loss(recon_x, x, reduction="sum")

    recon_x, x = backend.randn(4, 6), backend.randn(4, 6)
    expected = np.sum((backend.to_numpy(recon_x).astype(np.float64) - backend.to_numpy(x)) ** 2)
    np.testing.assert_allclose(float(mse_reconstruction(recon_x, x)), expected, rtol=1e-5)


# --- KL Divergence (Closed Form) --------------------------------------------------------------------------------


def test_implementation() -> None:
    def kl_divergence(mu, logvar):
        """
        KL divergence from q(z|x) = N(mu, exp(logvar)) to p(z) = N(0, I).

        Args:
            mu: Mean [batch_size, latent_dim]
            logvar: Log variance [batch_size, latent_dim]

        Returns:
            KL divergence summed over batch and latent dimensions
        """
        # -0.5 * sum(1 + log(σ²) - μ² - σ²)
        return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    found = ml.gaussian_kl_divergence(*ARRAYS[2:], reduction="sum")
    torch.testing.assert_close(found, kl_divergence(*ARRAYS[2:]), rtol=1e-5, atol=0.0)


# --- Complete Loss Implementation -------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["torch", "mithril_losses"])
def test_standard_vae_loss(library: str) -> None:
    F: Any = torch.nn.functional if library == "torch" else ml

    def vae_loss(recon_x, x, mu, logvar, reduction="sum"):
        """
        Standard VAE loss = Reconstruction + KL Divergence.

        Args:
            recon_x: Reconstructed data [batch_size, data_dim]
            x: Original data [batch_size, data_dim]
            mu: Encoder mean [batch_size, latent_dim]
            logvar: Encoder log-variance [batch_size, latent_dim]
            reduction: 'sum' or 'mean'

        Returns:
            total_loss, recon_loss, kl_loss
        """
        # Reconstruction loss (BCE for MNIST-like data)
        recon_loss = F.binary_cross_entropy(recon_x, x, reduction=reduction)

        # KL divergence
        kl_loss = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        if reduction == "mean":
            kl_loss = kl_loss / mu.size(0)

        total_loss = recon_loss + kl_loss

        return total_loss, recon_loss, kl_loss

    for reduction in ("sum", "mean"):
        assert_agrees(ml.vae_loss, vae_loss, reduction=reduction)


def test_beta_vae_loss() -> None:
    import torch.nn.functional as F  # noqa: N812

    def beta_vae_loss(recon_x, x, mu, logvar, beta=4.0):
        """
        β-VAE loss with weighted KL term.

        Higher beta encourages more disentangled representations
        at the cost of reconstruction quality.

        Args:
            beta: Weight for KL term (β > 1 for disentanglement)

        Returns:
            total_loss, recon_loss, kl_loss
        """
        recon_loss = F.binary_cross_entropy(recon_x, x, reduction="sum")
        kl_loss = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

        total_loss = recon_loss + beta * kl_loss

        return total_loss, recon_loss, kl_loss

    assert_agrees(ml.beta_vae_loss, beta_vae_loss)
    assert_agrees(ml.beta_vae_loss, beta_vae_loss, beta=0.5)


# --- Loss Modifications -----------------------------------------------------------------------------------------


def test_kl_annealing(backend: Backend) -> None:
    from mithril_losses import get_kl_weight, vae_loss

    def own_get_kl_weight(epoch, warmup_epochs=10, max_weight=1.0):
        """Linear KL annealing schedule."""
        if epoch < warmup_epochs:
            return max_weight * epoch / warmup_epochs
        return max_weight

    _, recon_loss, kl_loss = vae_loss(*(backend.array(x.numpy()) for x in ARRAYS))
    for epoch in range(14):
        # In training loop
        kl_weight = get_kl_weight(epoch)
        loss = recon_loss + kl_weight * kl_loss

        np.testing.assert_allclose(float(loss), float(recon_loss) + min(epoch / 10, 1.0) * float(kl_loss), rtol=1e-6)
        assert kl_weight == pytest.approx(own_get_kl_weight(epoch), rel=1e-15)
        assert get_kl_weight(epoch, 5, 2.0) == pytest.approx(own_get_kl_weight(epoch, 5, 2.0), rel=1e-15)
        assert get_kl_weight(epoch, 0, 2.0) == own_get_kl_weight(epoch, 0, 2.0)


def test_cyclical_annealing() -> None:
    def cyclical_kl_weight(step, cycle_length=10000, ratio=0.5):
        """Cyclical annealing (Fu et al., 2019)."""
        cycle_position = step % cycle_length
        if cycle_position < cycle_length * ratio:
            return cycle_position / (cycle_length * ratio)
        return 1.0

    for step in (0, 1, 4999, 5000, 9999, 10000, 12345):
        assert ml.cyclical_kl_weight(step) == cyclical_kl_weight(step)
        assert ml.cyclical_kl_weight(step, 700, 0.3) == cyclical_kl_weight(step, 700, 0.3)


def test_free_bits() -> None:
    import torch.nn.functional as F  # noqa: N812

    def vae_loss_free_bits(recon_x, x, mu, logvar, free_bits=0.1):
        """VAE loss with free bits constraint."""
        recon_loss = F.binary_cross_entropy(recon_x, x, reduction="sum")

        # KL per dimension
        kl_per_dim = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())

        # Apply free bits: each dimension contributes at least 'free_bits'
        kl_per_dim = torch.clamp(kl_per_dim, min=free_bits)
        kl_loss = kl_per_dim.sum()

        return recon_loss + kl_loss, recon_loss, kl_loss

    assert_agrees(ml.vae_loss_free_bits, vae_loss_free_bits)
    assert_agrees(ml.vae_loss_free_bits, vae_loss_free_bits, free_bits=0.8)


# --- Flexible Loss Class ----------------------------------------------------------------------------------------


class PagesVAELoss(torch.nn.Module):
    """
    Flexible VAE loss with configurable options.
    """

    def __init__(self, reconstruction_type="bce", beta=1.0, free_bits=None, reduction="sum"):
        super().__init__()
        self.reconstruction_type = reconstruction_type
        self.beta = beta
        self.free_bits = free_bits
        self.reduction = reduction

    def reconstruction_loss(self, recon_x, x):
        """Compute reconstruction loss based on type."""
        F = torch.nn.functional
        if self.reconstruction_type == "bce":
            return F.binary_cross_entropy(recon_x, x, reduction=self.reduction)
        elif self.reconstruction_type == "mse":
            return F.mse_loss(recon_x, x, reduction=self.reduction)
        else:
            raise ValueError(f"Unknown reconstruction type: {self.reconstruction_type}")

    def kl_loss(self, mu, logvar):
        """Compute KL divergence with optional free bits."""
        kl_per_dim = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())

        if self.free_bits is not None:
            kl_per_dim = torch.clamp(kl_per_dim, min=self.free_bits)

        if self.reduction == "sum":
            return kl_per_dim.sum()
        else:
            return kl_per_dim.mean()

    def forward(self, recon_x, x, mu, logvar):
        """
        Compute total VAE loss.

        Returns:
            total_loss, recon_loss, kl_loss
        """
        recon = self.reconstruction_loss(recon_x, x)
        kl = self.kl_loss(mu, logvar)
        total = recon + self.beta * kl

        return total, recon, kl


@pytest.mark.parametrize("reconstruction_type", ["bce", "mse"])
@pytest.mark.parametrize("free_bits", [None, 0.3])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_flexible_loss_class(reconstruction_type: Any, free_bits: Any, reduction: Any) -> None:
    options = {"reconstruction_type": reconstruction_type, "beta": 2.0, "free_bits": free_bits, "reduction": reduction}
    ours, pages = ml.VAELoss(**options), PagesVAELoss(**options)
    assert_agrees(ours, pages)
    for part in ("reconstruction_loss", "kl_loss"):
        arrays = ARRAYS[:2] if part == "reconstruction_loss" else ARRAYS[2:]
        torch.testing.assert_close(getattr(ours, part)(*arrays), getattr(pages, part)(*arrays), rtol=1e-5, atol=0.0)


def test_usage(backend: Backend) -> None:
    from mithril_losses import VAELoss

    recon_x, x, mu, logvar = (backend.array(a.numpy()) for a in ARRAYS)

    # Usage
    loss_fn = VAELoss(reconstruction_type="bce", beta=4.0, free_bits=0.1)
    total_loss, recon_loss, kl_loss = loss_fn(recon_x, x, mu, logvar)

    expected = PagesVAELoss(reconstruction_type="bce", beta=4.0, free_bits=0.1)(*ARRAYS)
    np.testing.assert_allclose([float(x) for x in (total_loss, recon_loss, kl_loss)], expected, rtol=1e-5)


def test_an_unknown_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="l1"):
        ml.VAELoss(reconstruction_type="l1")  # type: ignore[arg-type]


# --- Training Loop Example --------------------------------------------------------------------------------------


class Autoencoder(torch.nn.Module):
    """What the page leaves out: an encoder and a decoder of one layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(784, 8)
        self.decoder = torch.nn.Linear(4, 784)

    def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mu, logvar = self.encoder(data).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return torch.sigmoid(self.decoder(z)), mu, logvar


def train_epoch(model, dataloader, optimizer, loss_fn, device):
    """Train VAE for one epoch."""
    model.train()
    total_loss = 0
    total_recon = 0
    total_kl = 0

    for batch_idx, (data, _) in enumerate(dataloader):
        data = data.view(-1, 784).to(device)

        optimizer.zero_grad()

        # Forward pass
        recon_batch, mu, logvar = model(data)

        # Compute loss
        loss, recon, kl = loss_fn(recon_batch, data, mu, logvar)

        # Backward pass
        loss.backward()

        # Optional: gradient clipping
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)

        optimizer.step()

        total_loss += loss.item()
        total_recon += recon.item()
        total_kl += kl.item()

    n_samples = len(dataloader.dataset)
    return {"loss": total_loss / n_samples, "recon": total_recon / n_samples, "kl": total_kl / n_samples}


def test_training_loop() -> None:
    histories = []
    for loss_fn in (ml.VAELoss(beta=0.5, free_bits=0.1), PagesVAELoss(beta=0.5, free_bits=0.1), ml.vae_loss):
        torch.manual_seed(0)
        # pictures of one bright row each
        images = torch.zeros(64, 28, 28)
        images[torch.arange(64), torch.randint(0, 28, (64,))] = 1.0
        dataset = torch.utils.data.TensorDataset(images, torch.zeros(64))
        model = Autoencoder()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        dataloader = torch.utils.data.DataLoader(dataset, batch_size=16)
        histories.append([train_epoch(model, dataloader, optimizer, loss_fn, "cpu") for _ in range(5)])
    for history in histories:
        assert history[-1]["loss"] < 0.8 * history[0]["loss"]
        assert set(history[0]) == {"loss", "recon", "kl"}
    for ours, pages in zip(histories[0], histories[1], strict=True):
        # the two cross-entropies round differently, which five epochs of Adam enlarge
        assert ours == pytest.approx(pages, rel=1e-3)
