"""curvlinops' matrices: equal to its own for the losses that it knows, and exact for losses that it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from cases import WITHOUT_A_FACTOR

import mithril_losses as ml

curvlinops = pytest.importorskip("curvlinops", reason="the extra curvlinops is not installed")
from mithril_losses.optimize.curvlinops import KFACOperator, TorchLoss  # noqa: E402  # it cannot be imported without

# by PyTorch's forward mode itself

SAMPLES, OUTPUTS = 6, 3


def data(kind: str, samples: int = SAMPLES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    shape = (samples, OUTPUTS)
    targets = {
        "real": lambda: torch.randn(shape, generator=generator, dtype=torch.float64),
        "positive": lambda: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5,
        "binary": lambda: torch.randint(0, 2, shape, generator=generator).to(torch.float64),
        "sign": lambda: 2.0 * torch.randint(0, 2, shape, generator=generator).to(torch.float64) - 1.0,
        "class": lambda: torch.randint(0, OUTPUTS, (samples,), generator=generator),
    }
    return x, targets[kind]()


def network(*layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    parts: list[torch.nn.Module] = []
    for inner, outer in itertools.pairwise(layers):
        parts += [torch.nn.Linear(inner, outer, dtype=torch.float64), torch.nn.Tanh()]
    return torch.nn.Sequential(*parts[:-1])


def matrix(operator: Any) -> np.ndarray:
    size = operator.shape[1]
    return np.stack([(operator @ torch.eye(size, dtype=torch.float64)[i]).numpy() for i in range(size)], axis=1)


KNOWN = [
    ("mse_loss", torch.nn.MSELoss, "real"),
    ("binary_cross_entropy_with_logits", torch.nn.BCEWithLogitsLoss, "binary"),
    ("cross_entropy_with_logits", torch.nn.CrossEntropyLoss, "class"),
]


@pytest.mark.parametrize("reduction", ["mean", pytest.param("sum", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("loss", "theirs", "kind"), KNOWN, ids=[name for name, *_ in KNOWN])
def test_matrices_of_losses_that_it_knows(loss: str, theirs: Any, kind: str, reduction: Any) -> None:
    model, given = network(4, 5, OUTPUTS), data(kind)
    arguments = list(model.parameters()), [given]
    own = TorchLoss(loss, reduction=reduction)
    for operator, expected, options in (
        (KFACOperator, curvlinops.KFACLinearOperator, {"fisher_type": curvlinops.FisherType.TYPE2}),
        (curvlinops.GGNLinearOperator, curvlinops.GGNLinearOperator, {}),
    ):
        ours = matrix(operator(model, own, *arguments, check_deterministic=False, **options))
        reference = matrix(
            expected(model, theirs(reduction=reduction), *arguments, check_deterministic=False, **options)
        )
        np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("loss", "kind", "options"), WITHOUT_A_FACTOR, ids=[name for name, *_ in WITHOUT_A_FACTOR])
def test_factors_of_losses_that_it_refuses_are_exact_for_one_layer_and_sample(
    loss: str, kind: str, options: Any
) -> None:
    """Of one sample, the Kronecker product of a linear layer is its Gauss–Newton matrix."""
    model, (x, targets) = network(4, OUTPUTS), data(kind, 1)
    parameters = list(model.parameters())
    with pytest.raises(ValueError, match="Invalid loss"):
        curvlinops.KFACLinearOperator(model, TorchLoss(loss, **options), parameters, [(x, targets)])
    own = TorchLoss(loss, reduction="sum", **options)
    arguments = (model, own, parameters, [(x, targets)])
    options_of = {"fisher_type": curvlinops.FisherType.TYPE2, "separate_weight_and_bias": False}
    found = matrix(KFACOperator(*arguments, check_deterministic=False, **options_of))
    hessian = ml.hessian_diagonal(loss, curvature="fisher")(model(x).detach(), targets, reduction="sum", **options)
    # the outputs are W x + b, with W row by row before b
    unit = torch.eye(OUTPUTS, dtype=torch.float64)
    jacobian = torch.cat([torch.kron(unit, x), unit], dim=1).numpy()
    np.testing.assert_allclose(found, jacobian.T @ (hessian.numpy().ravel()[:, None] * jacobian), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("loss", "kind", "options"), WITHOUT_A_FACTOR[:4], ids=[name for name, *_ in WITHOUT_A_FACTOR[:4]]
)
def test_gauss_newton_matrix_is_made_of_our_second_derivatives(loss: str, kind: str, options: Any) -> None:
    model, (x, targets) = network(4, OUTPUTS), data(kind)
    arguments = (model, TorchLoss(loss, **options), list(model.parameters()), [(x, targets)])
    found = matrix(curvlinops.GGNLinearOperator(*arguments, check_deterministic=False))
    hessian = ml.hessian_diagonal(loss)(model(x).detach(), targets, **options).numpy()
    unit, expected = np.eye(OUTPUTS), np.zeros_like(found)
    for row, h in zip(x.numpy(), hessian, strict=True):
        jacobian = np.concatenate([np.kron(unit, row[None]), unit], axis=1)
        expected += jacobian.T @ (h[:, None] * jacobian)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum'"):
        TorchLoss("mse_loss", reduction="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cauchy_loss"):
        TorchLoss("cauchy_loss")(torch.ones(2), torch.ones(2))
