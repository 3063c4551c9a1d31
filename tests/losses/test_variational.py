"""What no law says about variational losses: the meanings of "mean", torch's numbers, free bits, the ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from modes import MODES, evaluate, evaluate_pair
from seeds import BACKENDS

from mithril_losses import (
    Objective,
    Term,
    VAELoss,
    beta_vae_loss,
    beta_vae_loss_gradient,
    binary_cross_entropy,
    check_gradient,
    gaussian_kl_divergence,
    mse_loss,
    vae_loss,
    vae_loss_free_bits,
    vae_loss_gradient,
    value_and_gradient,
)
from mithril_losses.objectives import CompositeLoss, linear_warmup

GENERATOR = np.random.default_rng(3)
SAMPLES, PIXELS, LATENTS = 6, 5, 4
X, RECONSTRUCTION = GENERATOR.uniform(0.05, 0.95, (2, SAMPLES, PIXELS))
MU, LOGVAR = GENERATOR.standard_normal((2, SAMPLES, LATENTS))
ARRAYS = (RECONSTRUCTION, X, MU, LOGVAR)
WRT = ("recon_x", "mu", "logvar")

# the two sums, written out
CROSS_ENTROPY = -np.sum(X * np.log(RECONSTRUCTION) + (1.0 - X) * np.log(1.0 - RECONSTRUCTION))
SQUARES = np.sum((RECONSTRUCTION - X) ** 2)
KL_TERMS = -0.5 * (1.0 + LOGVAR - MU**2 - np.exp(LOGVAR))
KL = np.sum(KL_TERMS)
ELEMENTS = SAMPLES * PIXELS


# --- what the reductions mean -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "reduction", "by_elements", "by_latents"),
    [
        (vae_loss, "sum", 1, 1),
        (vae_loss, "mean", ELEMENTS, SAMPLES),
        (vae_loss, "batch_sum", SAMPLES, SAMPLES),
        (VAELoss, "sum", 1, 1),
        (VAELoss, "mean", ELEMENTS, SAMPLES * LATENTS),
        (VAELoss, "batch_sum", SAMPLES, SAMPLES),
    ],
)
def test_the_divisors(loss: Any, reduction: Any, by_elements: int, by_latents: int) -> None:
    is_class = loss is VAELoss
    function = VAELoss(reduction=reduction) if is_class else lambda *arrays: vae_loss(*arrays, reduction)
    total, reconstruction, kl = function(*ARRAYS)
    np.testing.assert_allclose(reconstruction, CROSS_ENTROPY / by_elements, rtol=1e-13)
    np.testing.assert_allclose(kl, KL / by_latents, rtol=1e-13)
    np.testing.assert_allclose(total, CROSS_ENTROPY / by_elements + KL / by_latents, rtol=1e-13)
    gradients = function.gradient(*ARRAYS) if is_class else vae_loss_gradient(*ARRAYS, reduction)
    np.testing.assert_allclose(gradients["mu"], MU / by_latents, rtol=1e-13)
    np.testing.assert_allclose(gradients["logvar"], 0.5 * (np.exp(LOGVAR) - 1.0) / by_latents, rtol=1e-12)
    slopes = (RECONSTRUCTION - X) / (RECONSTRUCTION * (1.0 - RECONSTRUCTION)) / by_elements
    np.testing.assert_allclose(gradients["recon_x"], slopes, rtol=1e-12)


def test_squared_errors() -> None:
    for reduction, divisor in (("sum", 1), ("mean", ELEMENTS), ("batch_sum", SAMPLES)):
        loss = VAELoss("mse", beta=0.5, reduction=reduction)
        np.testing.assert_allclose(loss.reconstruction_loss(RECONSTRUCTION, X), SQUARES / divisor, rtol=1e-13)
        assert loss(*ARRAYS)[1] == loss.reconstruction_loss(RECONSTRUCTION, X)
        assert loss(*ARRAYS)[2] == loss.kl_loss(MU, LOGVAR)
        slopes = 2.0 * (RECONSTRUCTION - X) / divisor
        np.testing.assert_allclose(loss.gradient(*ARRAYS)["recon_x"], slopes, rtol=1e-13)


def test_the_total_weighs_the_divergence() -> None:
    total, reconstruction, kl = beta_vae_loss(*ARRAYS, beta=2.5)
    np.testing.assert_allclose((total, reconstruction, kl), (CROSS_ENTROPY + 2.5 * KL, CROSS_ENTROPY, KL), rtol=1e-13)
    once, default = beta_vae_loss_gradient(*ARRAYS, beta=1.0), beta_vae_loss_gradient(*ARRAYS)
    np.testing.assert_allclose(default["mu"], 4.0 * once["mu"], rtol=1e-15)
    np.testing.assert_array_equal(default["recon_x"], once["recon_x"])


@pytest.mark.parametrize("mode", MODES)
def test_free_bits_clamp_each_dimension_of_each_sample(mode: str) -> None:
    expected = np.sum(np.maximum(KL_TERMS, 0.7))
    assert 0.2 < np.mean(KL_TERMS < 0.7) < 0.8
    (total, _, kl), gradients = evaluate_pair(mode, vae_loss_free_bits, *ARRAYS, free_bits=0.7)
    np.testing.assert_allclose((kl, total), (expected, CROSS_ENTROPY + expected), rtol=1e-12)
    np.testing.assert_allclose(gradients["mu"], np.where(KL_TERMS < 0.7, 0.0, MU), rtol=1e-12)
    loss = VAELoss(free_bits=0.7, reduction="mean")
    np.testing.assert_allclose(evaluate(mode, loss.kl_loss, MU, LOGVAR), expected / MU.size, rtol=1e-12)


def test_the_tie_of_free_bits_is_torchs() -> None:
    # ½ μ² = λ exactly
    mu, logvar = (torch.tensor([[x]], dtype=torch.float64, requires_grad=True) for x in (1.0, 0.0))
    kl = torch.clamp(-0.5 * (1 + logvar - mu.pow(2) - logvar.exp()), min=0.5).sum()
    expected = torch.autograd.grad(kl, (mu, logvar))
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    found = VAELoss(free_bits=0.5).gradient(half, half, mu.detach(), logvar.detach())
    assert (found["mu"].item(), found["logvar"].item()) == tuple(x.item() for x in expected) == (1.0, 0.0)


# --- other people's numbers ---------------------------------------------------------------------------------------


def test_torch() -> None:
    arrays = [torch.tensor(x, requires_grad=i != 1) for i, x in enumerate(ARRAYS)]
    recon_x, x, mu, logvar = arrays
    reconstruction = F.binary_cross_entropy(recon_x, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    expected = torch.autograd.grad(reconstruction + 3.0 * kl, (recon_x, mu, logvar))
    values, gradients = value_and_gradient(beta_vae_loss)(*(a.detach() for a in arrays), beta=3.0)
    for found, value in zip(values, (reconstruction + 3.0 * kl, reconstruction, kl), strict=True):
        torch.testing.assert_close(found, value.detach(), rtol=1e-12, atol=0.0)
    for name, slope in zip(WRT, expected, strict=True):
        torch.testing.assert_close(gradients[name], slope, rtol=1e-11, atol=1e-13)
    total, _, _ = beta_vae_loss(*arrays, beta=3.0)
    for found, slope in zip(torch.autograd.grad(total, (recon_x, mu, logvar)), expected, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-11, atol=1e-13)


def test_explicit_arithmetic_and_a_composite_say_the_same() -> None:
    reconstruction = binary_cross_entropy(RECONSTRUCTION, X, reduction="batch_sum")
    kl = gaussian_kl_divergence(MU, LOGVAR)
    assert vae_loss(*ARRAYS, "batch_sum") == (reconstruction + kl, reconstruction, kl)
    composite = CompositeLoss([vae_loss, mse_loss], return_components=True)
    _, components = composite(*ARRAYS, predictions=X, targets=RECONSTRUCTION, reduction="mean")
    np.testing.assert_allclose(components["vae_loss"], CROSS_ENTROPY / ELEMENTS + KL / SAMPLES, rtol=1e-13)


# --- the ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_confidently_wrong_pixels_keep_a_gradient(mode: str, dtype: str) -> None:
    recon_x, x = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    (total, _, _), gradients = evaluate_pair(
        mode, vae_loss, recon_x, x, np.zeros((1, 1)), np.zeros((1, 1)), dtype=dtype
    )
    assert math.isfinite(total)
    assert gradients["recon_x"][0, 0] < -1e6
    assert gradients["recon_x"][0, 1] > 1e6


@pytest.mark.parametrize("mode", MODES)
def test_a_collapsed_and_an_exploding_encoder(mode: str) -> None:
    half = np.full((3, 1), 0.5)
    mu, logvar = np.array([[0.0], [1e4], [0.0]]), np.array([[-1e3], [0.0], [1e3]])
    (_, _, kl), gradients = evaluate_pair(mode, vae_loss, half, half, mu, logvar, dtype="float64")
    assert kl == math.inf
    np.testing.assert_allclose(gradients["logvar"][:, 0], [-0.5, 0.0, math.inf])
    np.testing.assert_array_equal(gradients["mu"], mu)


def test_each_gradient_has_its_own_dtype() -> None:
    arrays = (RECONSTRUCTION.astype(np.float32), X, MU.astype(np.float16), LOGVAR)
    (total, _, _), gradients = value_and_gradient(vae_loss)(*arrays)
    assert total.dtype == np.float32
    assert [gradients[name].dtype for name in WRT] == [np.float32, np.float16, np.float64]


def test_nothing_at_all_is_zero() -> None:
    empty = (np.zeros((0, 5)), np.zeros((0, 5)), np.zeros((0, 4)), np.zeros((0, 4)))
    for reduction in ("sum", "mean", "batch_sum"):
        assert vae_loss(*empty, reduction) == (0.0, 0.0, 0.0)
        assert VAELoss(reduction=reduction)(*empty) == (0.0, 0.0, 0.0)


# --- where the losses take part -----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", list(BACKENDS))
def test_the_class_is_a_loss_like_any_other(library: str) -> None:
    backend = BACKENDS[library]()
    arrays = [backend.array(x) for x in ARRAYS]
    loss = VAELoss("mse", beta=0.5, free_bits=0.2, reduction="mean")
    check_gradient(loss, *arrays)
    for both in (loss.value_and_gradient, value_and_gradient(loss)):
        values, gradients = both(*arrays, upstream=2.0)
        np.testing.assert_allclose(values, [float(x) for x in loss(*arrays)], rtol=1e-6)
        for name, expected in loss.gradient(*arrays, upstream=2.0).items():
            np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-8)
    outputs = {"image": arrays[0], "mean": arrays[2], "spread": arrays[3]}
    wiring = {"recon_x": "image", "mu": "mean", "logvar": "spread"}
    result = Objective([Term("bound", loss, outputs=wiring, targets="pixels", weight=3.0)]).evaluate(
        outputs, {"pixels": arrays[1]}
    )
    np.testing.assert_allclose(float(result.loss), 3.0 * float(loss(*arrays)[0]), rtol=1e-6)
    expected = loss.gradient(*arrays, upstream=3.0)["mu"]
    np.testing.assert_allclose(result.output_gradients["mean"], expected, rtol=1e-5, atol=1e-8)


def test_a_schedule_sets_beta() -> None:
    loss, schedule = VAELoss(), linear_warmup(4)
    for epoch in range(6):
        loss.beta = schedule(epoch)
        np.testing.assert_allclose(loss(*ARRAYS)[0], CROSS_ENTROPY + min(epoch / 4, 1.0) * KL, rtol=1e-13)


def test_from_toml() -> None:
    objective = Objective.from_toml("""
        [[terms]]
        name = "bound"
        loss = "beta_vae_loss"
        outputs = { recon_x = "image", mu = "mu", logvar = "logvar" }
        target = "pixels"
        options = { beta = 2.0, reduction = "batch_sum" }
    """)
    result = objective.evaluate({"image": RECONSTRUCTION, "mu": MU, "logvar": LOGVAR}, {"pixels": X})
    np.testing.assert_allclose(result.loss, (CROSS_ENTROPY + 2.0 * KL) / SAMPLES, rtol=1e-13)
    with pytest.raises(ValueError, match="reduction must be one of 'sum', 'mean', 'batch_sum', got 'none'"):
        Term("bound", vae_loss, {"recon_x": "a", "mu": "b", "logvar": "c"}, "d", options={"reduction": "none"})


def test_large_arrays_take_the_fast_path_of_each_part() -> None:
    arrays = [np.tile(x, (3000, 1)).astype(np.float32) for x in ARRAYS]
    for options in ({}, {"compile": False}, {"threads": 1}):
        (total, _, _), gradients = value_and_gradient(vae_loss, **options)(*arrays, "mean")
        np.testing.assert_allclose(total, CROSS_ENTROPY / ELEMENTS + KL / SAMPLES, rtol=1e-5)
        for name, expected in vae_loss_gradient(*arrays, "mean").items():
            np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-12)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((X, X[:, :2], MU, LOGVAR), {}, "must have the same shape"),
        ((X, X, MU, LOGVAR[:2]), {}, "must have the same shape"),
        ((X[:4], X[:4], MU, LOGVAR), {}, r"recon_x and mu must hold as many samples, got shapes \(4, 5\) and \(6, 4\)"),
        (ARRAYS, {"reduction": "average"}, "reduction must be one of 'sum', 'mean', 'batch_sum', got 'average'"),
        (ARRAYS, {"beta": -1.0}, "beta must be ≥ 0"),
        (ARRAYS, {"beta": np.ones(6)}, r"beta must be one number, got an array of shape \(6,\)"),
        (ARRAYS, {"beta": torch.tensor(1.0)}, "all arrays must come from one library: beta is from torch"),
    ],
)
def test_what_is_refused(arrays: Any, options: Any, message: str) -> None:
    for function in (beta_vae_loss, beta_vae_loss_gradient, value_and_gradient(beta_vae_loss)):
        with pytest.raises((TypeError, ValueError), match=message):
            function(*arrays, **options)


def test_options_of_the_class_are_checked_when_it_is_made() -> None:
    for options, message in (
        ({"reconstruction_type": "l1"}, "reconstruction_type must be one of 'bce', 'mse', got 'l1'"),
        ({"reduction": "none"}, "reduction must be one of"),
        ({"beta": -0.1}, "beta must be ≥ 0"),
        ({"free_bits": -0.1}, "free_bits must be ≥ 0"),
    ):
        with pytest.raises(ValueError, match=message):
            VAELoss(**options)  # type: ignore[arg-type]
    loss = VAELoss()
    loss.reconstruction_type = "l1"  # type: ignore[assignment]
    for function in (loss, loss.gradient, loss.value_and_gradient):
        with pytest.raises(ValueError, match="reconstruction_type must be one of"):
            function(*ARRAYS)
