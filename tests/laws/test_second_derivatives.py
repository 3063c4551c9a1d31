"""The gradient of a tensor in a graph is in the graph: its own derivative is right, or is refused, and never lost."""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import torch
from cases import CASES, Case, flat, label
from parameterized import parameterized

from mithril_losses import info_nce_loss_gradient, mse_loss_gradient, sinkhorn_divergence_gradient
from mithril_losses.numerics.trees import map_leaves

# gradients that do not change with the arguments: away from their kinks, the second derivative is 0
CONSTANT = {"hinge_loss", "lovasz_hinge_loss"}
# refused in so many words
IMPLICIT = {"sinkhorn_divergence"}
# whose first case says it all, since all of their options lead through the same tiles
SMOOTH = [case for case in CASES if case.pair.name not in CONSTANT | IMPLICIT]


def _in_graph(case: Case) -> tuple[list[Any], list[torch.Tensor]]:
    """Return the arguments as tensors, and those of the tensors that the loss is differentiated by."""
    arguments, leaves = case.arguments("torch"), []
    for name, x in zip(case.arrays, arguments, strict=True):
        if name in case.pair.wrt:
            leaves += [leaf.requires_grad_(True) for _, leaf in flat(x)]
    return arguments, leaves


class SecondDerivatives(unittest.TestCase):
    @parameterized.expand([(case,) for case in SMOOTH], name_func=label)
    def test_by_central_differences(self, case: Case) -> None:
        arguments, at = _in_graph(case)
        generator = np.random.default_rng(0)
        gradients = [x for _, x in flat(case.pair.gradient(*arguments, **case.keywords("torch")))]
        along = [generator.standard_normal(tuple(x.shape)) for x in gradients]
        steps = [generator.standard_normal(tuple(x.shape)) for x in at]
        flowing = [(x, torch.tensor(by)) for x, by in zip(gradients, along, strict=True) if x.requires_grad]
        found = torch.autograd.grad([x for x, _ in flowing], at, [by for _, by in flowing], allow_unused=True)
        second = sum(float((x * torch.tensor(d)).sum()) for x, d in zip(found, steps, strict=True) if x is not None)

        def moved(t: float) -> float:
            rest = iter(steps)
            arrays = [
                map_leaves(lambda _, x: x + t * next(rest), x) if name in case.pair.wrt else x
                for name, x in zip(case.arrays, case.arguments("numpy"), strict=True)
            ]
            gradient = flat(case.pair.gradient(*arrays, **case.keywords("numpy")))
            return sum(float(np.sum(x * by)) for (_, x), by in zip(gradient, along, strict=True))

        h = 1e-5
        expected = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h)
        np.testing.assert_allclose(second, expected, rtol=1e-6, atol=1e-6)

    def test_of_one_argument_that_is_made_of_another(self) -> None:
        """The derivative of a step takes each of its arguments by itself."""
        points = torch.tensor(np.random.default_rng(1).standard_normal((5, 3)), requires_grad=True)
        keys = 2.0 * points + 1.0

        def total(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
            return (info_nce_loss_gradient(queries, keys)["queries"] ** 2).sum()

        (found,) = torch.autograd.grad(total(points, keys), points)
        apart = points.detach().requires_grad_(True), keys.detach().requires_grad_(True)
        by_queries, by_keys = torch.autograd.grad(total(*apart), apart)
        torch.testing.assert_close(found, by_queries + 2.0 * by_keys)

    def test_of_third_order(self) -> None:
        points = torch.tensor(np.random.default_rng(1).standard_normal((4, 2)))
        keys = torch.tensor(np.random.default_rng(2).standard_normal((4, 2)))
        self.assertTrue(
            torch.autograd.gradgradcheck(
                lambda x: info_nce_loss_gradient(x, keys)["queries"], points.requires_grad_(True)
            )
        )

    def test_is_refused_where_it_is_not_known(self) -> None:
        points = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]], requires_grad=True)
        gradient = sinkhorn_divergence_gradient(points, points.detach() + 1.0)
        with self.assertRaisesRegex(RuntimeError, "sinkhorn_divergence has no second derivative"):
            torch.autograd.grad((gradient**2).sum(), points)

    def test_nothing_is_recorded_that_nobody_asked_for(self) -> None:
        points = torch.zeros(4, 2, requires_grad=True)
        with torch.no_grad():
            self.assertFalse(info_nce_loss_gradient(points, points)["queries"].requires_grad)
        self.assertFalse(info_nce_loss_gradient(points.detach(), points.detach())["queries"].requires_grad)
        self.assertTrue(mse_loss_gradient(points, points.detach()).requires_grad)
