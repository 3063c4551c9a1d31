"""Losses for curvlinops, whose linear operators are curvature matrices of PyTorch models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from curvlinops import FisherType, KFACLinearOperator

from mithril_losses.catalogue import find_loss
from mithril_losses.domains import Choice
from mithril_losses.execution.curvature import hessian_factor_product
from mithril_losses.templates.second_order import Kind

_REDUCTION = Choice(("mean", "sum"))


class TorchLoss(torch.nn.Module):  # type: ignore[misc]
    """A loss as a module of PyTorch, for `GGNLinearOperator`, `HessianLinearOperator` and `KFACOperator`.

    Args:
        loss: a registered loss of outputs and targets, its name or its gradient.
        reduction: "mean" or "sum".
        curvature: the second derivatives that `KFACOperator` takes, see `hessian_factor_product`.
        options: the options of the loss.

    Example:
        >>> import torch
        >>> float(TorchLoss("huber_loss", delta=0.5)(torch.tensor([0.25, 3.0]), torch.zeros(2)))
        0.703125
    """

    def __init__(
        self,
        loss: str | Callable[..., Any],
        *,
        reduction: Literal["mean", "sum"] = "mean",
        curvature: Kind = "fisher",
        **options: Any,
    ) -> None:
        super().__init__()
        self.pair = find_loss(loss)
        self.reduction = _REDUCTION.check("reduction", reduction)
        self.options = options
        self._factor = hessian_factor_product(self.pair.value, curvature=curvature)

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss, one number."""
        found: torch.Tensor = self.pair.value(outputs, targets, reduction=self.reduction, **self.options)
        return found

    def factor_column(self, outputs: torch.Tensor, targets: torch.Tensor, column: int) -> torch.Tensor:
        """Return a column of B of every sample, where B Bᵀ is the Hessian of the reduced loss."""
        unit = torch.zeros_like(outputs)
        unit[:, column] = 1.0
        found: torch.Tensor = self._factor(outputs, targets, vector=unit, reduction=self.reduction, **self.options)
        return found


class KFACOperator(KFACLinearOperator):  # type: ignore[misc]
    """curvlinops' `KFACLinearOperator`, which knows three losses, for every `TorchLoss`.

    The arguments are those of `KFACLinearOperator`, with a `TorchLoss` as `loss_func`. The factors of a layer are made
    of the columns of B by hand, one product for all samples at once. `fisher_type` is `FisherType.TYPE2`.
    """

    _SUPPORTED_LOSSES = (TorchLoss,)
    _SUPPORTED_FISHER_TYPE = (FisherType.TYPE2,)

    def _set_num_per_example_loss_terms(self, num_per_example_loss_terms: int | None) -> None:
        super()._set_num_per_example_loss_terms(num_per_example_loss_terms or 1)

    def _rearrange_for_larger_than_2d_output(self, output: Any, y: Any) -> tuple[Any, Any]:
        if output.ndim != 2:
            raise ValueError(f"outputs must be (samples, outputs), got shape {tuple(output.shape)}")
        return output, y

    def _compute_loss_and_backward(self, output: Any, y: Any) -> None:
        samples, outputs = output.shape
        # the sum of squares of what flows back is multiplied by the number of samples
        scale = {"sum": 1.0, "mean": 1.0 / math.sqrt(samples)}[self._loss_func.reduction]
        for column in range(outputs):
            back = scale * self._loss_func.factor_column(output.detach(), y, column)
            torch.autograd.grad((output * back).sum(), self._params, retain_graph=column < outputs - 1)
