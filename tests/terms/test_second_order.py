"""Terms of second derivatives: what is combined of them, on numbers and in the tree that a printer prints."""

from __future__ import annotations

import ast
import unittest
from typing import Any, get_args

import numpy as np
from parameterized import parameterized

from mithril_losses.terms.second_order import Order, SecondOrder, combined

H = [4.0, 2.0, 5.0]  # B = ((2, 0), (1, 2))


def _terms(xp: Any, x: Any, y: Any, scale: Any) -> Any:
    value = scale * x * x * y
    return value, (2.0 * scale * x * y, scale * x * x)


def _curvature(xp: Any, x: Any, y: Any, scale: Any) -> Any:
    value = 2.0 * scale  # a name that the terms have, too
    return value * y, value * x, 0.0


class Combined(unittest.TestCase):
    def test_factor(self) -> None:
        numbers = [np.array(h) for h in H]
        self.assertEqual([float(x) for x in combined(np, "factor", numbers, [1.0, 1.0])], [2.0, 3.0])
        self.assertEqual([float(x) for x in combined(np, "transposed", numbers, [1.0, 1.0])], [3.0, 2.0])

    def test_product_and_diagonal(self) -> None:
        self.assertEqual(combined(np, "product", H, [1.0, 10.0]), [24.0, 52.0])
        self.assertEqual(combined(np, "diagonal", H, []), [4.0, 5.0])

    def test_more_slopes_have_no_factor(self) -> None:
        with self.assertRaisesRegex(TypeError, "has 3 slopes: a factor is known for one or two"):
            SecondOrder(_terms, _curvature, "factor", 3, 3)


class Tree(unittest.TestCase):
    """What the tree computes for numbers is what the function computes."""

    @parameterized.expand([(order, is_bound) for order in get_args(Order) for is_bound in (False, True)])
    def test_of(self, order: Order, is_bound: bool) -> None:
        function = SecondOrder(_terms, _curvature, order, 2, 2, is_bound, is_steep=True)
        vectors = [np.array(3.0), np.array(-1.0)] if function.vectors else []
        given = [np.array(1.5), np.array(2.5), *vectors, np.array(0.5), 1e300]
        tree = function.read()
        text = "\n".join(map(ast.unparse, [*tree.helpers, tree.definition]))
        scope: dict[str, Any] = {"xp": np}
        exec(text, scope)
        with np.errstate(all="ignore"):
            (value, found), (expected_value, expected) = scope["terms"](*given), function(np, *given)
        self.assertEqual(float(value), float(expected_value))
        np.testing.assert_array_equal(found, expected)

    def test_of_a_number(self) -> None:
        tree = SecondOrder(_terms, 2.0, "product", 1, 2).read()
        self.assertEqual(ast.unparse(tree.definition).splitlines()[-1].strip(), "return (0.0, h_0 * vector_0)")
