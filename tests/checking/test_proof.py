"""The gradients of element-wise losses are proved on symbols, and the proof refuses what is no derivative."""

from __future__ import annotations

import re
import unittest
from collections import Counter
from typing import Any
from unittest import mock

import pytest
from parameterized import parameterized

from mithril_losses import catalogue, elementwise
from mithril_losses.catalogue import Pair
from mithril_losses.checking import proof
from mithril_losses.checking.proof import ProofError, parts, prove
from mithril_losses.domains import BINARY, CLIP_WIDTH, NON_NEGATIVE, POSITIVE, PROBABILITY, REAL
from mithril_losses.numerics.stable import exponential_remainder

ELEMENTWISE = [(name,) for name in catalogue() if parts(name)]


def prove_terms(terms: Any) -> list[proof.Piece]:
    pair = Pair(name="loss", value=lambda x: x, gradient=lambda x: x, terms=terms, wrt=terms.wrt)
    return prove(pair)


class Catalogue(unittest.TestCase):
    @parameterized.expand(ELEMENTWISE)
    @pytest.mark.exhaustive  # by default, exact numbers see every wrong slope, and proofs of wrong terms fail below
    def test_slopes_are_derivatives_identically(self, loss: str) -> None:
        pieces = prove(loss)
        self.assertTrue(pieces)
        self.assertLessEqual({piece.kind for piece in pieces}, {"identity", "end of a piece"})
        # the slope that a constant value may have, by definition, is for probabilities that are clipped alone
        if "epsilon" not in catalogue()[loss].domain:
            self.assertEqual({piece.kind for piece in pieces}, {"identity"})
        wrt = {name for piece in pieces for name in piece.slopes}
        self.assertEqual(wrt, set(catalogue()[loss].wrt))

    def test_losses_that_are_not_elementwise_have_no_pieces(self) -> None:
        self.assertEqual(prove("triplet_loss"), [])

    @parameterized.expand(
        [
            ("mse_loss", 1, 0),
            ("mae_loss", 2, 0),
            ("huber_loss", 3, 0),
            ("charbonnier_loss", 4, 0),  # |e| ≷ ε, either sign
            ("binary_cross_entropy", 1, 2),
            ("hinge_loss", 4, 0),  # two labels, two sides of the corner
            ("laplace_negative_log_likelihood", 4, 0),  # with and without its constant
            ("gaussian_kl_divergence", 3, 0),  # λ = 0 clamps nothing
        ]
    )
    def test_every_piece_is_found(self, loss: str, identities: int, ends: int) -> None:
        kinds = Counter(piece.kind for piece in prove(loss))
        self.assertEqual((kinds["identity"], kinds["end of a piece"]), (identities, ends))

    def test_flat_pieces_of_focal_loss_are_settled_by_their_labels(self) -> None:
        for piece in prove("focal_loss"):
            if piece.kind == "identity" and piece.value == 0:
                label, alpha = piece.settled["targets"], piece.settled["alpha"]
                self.assertEqual(alpha, 1 - label)  # no weight on this label


class Refusals(unittest.TestCase):
    def refused(self, terms: Any, *texts: str) -> None:
        with self.assertRaises(ProofError) as caught:
            prove_terms(terms)
        for text in texts:
            self.assertIn(text, str(caught.exception))

    def test_factor(self) -> None:
        @elementwise(x=REAL)
        def terms(xp: Any, x: Any) -> Any:
            return x * x, 2.0000000001 * x

        self.refused(terms, "loss: the slope wrt x", "derivative of the value x**2 is 2*x", "where anything holds")

    def test_sign_on_one_piece_alone(self) -> None:
        @elementwise(x=REAL, delta=POSITIVE)
        def terms(xp: Any, x: Any, delta: Any) -> Any:
            return xp.abs(x), xp.where(x > delta, -1.0, xp.sign(x))

        self.refused(terms, "the slope wrt x is -1", "the derivative of the value x is 1", "x > delta")

    def test_threshold(self) -> None:
        @elementwise(x=REAL)
        def terms(xp: Any, x: Any) -> Any:
            return xp.maximum(1.0 - x, 0.0), xp.where(x < 1.5, -1.0, 0.0)

        self.refused(terms, "slope wrt x is -1", "the derivative of the value 0 is 0")

    def test_label_alone(self) -> None:
        @elementwise(x=REAL, targets=BINARY)
        def terms(xp: Any, x: Any, targets: Any) -> Any:
            return targets * xp.exp(x), xp.exp(x)

        self.refused(terms, "targets = 0")

    def test_end_of_an_option_alone(self) -> None:
        @elementwise(x=REAL, lift=NON_NEGATIVE)
        def terms(xp: Any, x: Any, lift: Any) -> Any:
            return (1.0 + lift) * x, xp.where(lift == 0.0, 2.0, 1.0 + lift)

        self.refused(terms, "the slope wrt x is 2", "lift = 0")

    def test_second_of_two_slopes(self) -> None:
        @elementwise(x=REAL, y=REAL, slopes=2)
        def terms(xp: Any, x: Any, y: Any) -> Any:
            return x * xp.exp(y), (xp.exp(y), xp.exp(y))

        self.refused(terms, "the slope wrt y is exp(y)")

    def test_constant_value_has_only_the_slope_of_its_own_end(self) -> None:
        @elementwise(x=PROBABILITY, epsilon=CLIP_WIDTH)
        def terms(xp: Any, x: Any, epsilon: Any) -> Any:
            p = xp.minimum(xp.maximum(x, epsilon), 1.0 - epsilon)
            return -xp.log(p), xp.where(x < epsilon, -2.0 / p, -1.0 / p)

        self.refused(terms, "x < epsilon".replace("epsilon", "varepsilon"))

    def test_definition_that_is_not_what_is_computed(self) -> None:
        @elementwise(x=REAL)
        def terms(xp: Any, x: Any) -> Any:
            return exponential_remainder(xp, x), xp.expm1(x)

        self.assertEqual([piece.kind for piece in prove_terms(terms)], ["identity"])
        with mock.patch.dict(proof._DEFINITIONS, exponential_remainder=lambda xp, x: xp.expm1(x) + 1.0):
            self.refused(terms, "terms gives")


class Kinds(unittest.TestCase):
    def test_exact_points_where_no_identity_is_shown(self) -> None:
        @elementwise(x=REAL)
        def terms(xp: Any, x: Any) -> Any:
            return xp.log(xp.exp(x) + xp.exp(-x)), xp.tanh(x)

        self.assertEqual([piece.kind for piece in prove_terms(terms)], ["identity"])
        vanishes = proof.vanishes
        with mock.patch.object(
            proof, "vanishes", lambda expression: not expression.free_symbols and vanishes(expression)
        ):
            self.assertEqual([piece.kind for piece in prove_terms(terms)], ["exact points"])

    def test_exact_points_lie_on_their_piece(self) -> None:
        terms = parts("huber_loss")["predictions"]
        for piece in prove("huber_loss"):
            points = proof._exact_points(terms, piece)
            self.assertEqual(len(points), proof._EXACT_POINTS)
            self.assertEqual(len({tuple(point.values()) for point in points}), proof._EXACT_POINTS)
            for point in points:
                p, t, delta = (float(x) for x in point.values())
                expected = min(max(p - t, -delta), delta)
                self.assertAlmostEqual(float(piece.slopes["predictions"].subs(point)), expected, 12)

    def test_conditions_are_printed(self) -> None:
        [upper, lower] = prove("mae_loss")
        self.assertRegex(str(upper.conditions + lower.conditions), re.escape("(p - t > 0, p - t < 0)"))
