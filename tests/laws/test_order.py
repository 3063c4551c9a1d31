"""The order of a gradient: its names are those of the arguments, in their order, and its memory is C-contiguous."""

from __future__ import annotations

import unittest
from itertools import product
from typing import Any

import numpy as np
import torch
from cases import CASES, DRAWN, Case, convert, double_precision, flat, label
from parameterized import parameterized

from mithril_losses import (
    cosine_embedding_loss,
    huber_loss,
    kl_divergence,
    limits,
    triplet_loss,
    vae_loss,
    value_and_gradient,
)
from mithril_losses.checking import draw_arguments
from mithril_losses.numerics.trees import map_leaves

SEVERAL = [case for case in DRAWN if len(case.pair.wrt) > 1]
ON_REQUEST = [case for case in DRAWN if case.pair.on_request]
BATCHES = [case for case in DRAWN if case.pair.terms.separable and case.pair.takes_reduction]


def in_fortran_order(x: Any) -> Any:
    """Return a nesting of arrays with the first axis contiguous."""
    if isinstance(x, dict | list):
        return map_leaves(lambda _, leaf: in_fortran_order(leaf), x)
    if isinstance(x, torch.Tensor):
        order = tuple(reversed(range(x.ndim)))
        return x.permute(order).contiguous().permute(order)
    return np.asfortranarray(x) if x.ndim else x


def is_contiguous(x: Any) -> bool:
    return x.is_contiguous() if isinstance(x, torch.Tensor) else x.flags.c_contiguous


class Names(unittest.TestCase):
    @parameterized.expand(list(product(SEVERAL, ("numpy", "jax", "torch"))), name_func=label)
    def test_are_in_the_order_of_the_arguments(self, case: Case, library: str) -> None:
        expected = [name for name in case.pair.parameters if name in case.pair.wrt and name in case.arrays]
        with double_precision(library):
            arguments, keywords = case.arguments(library), case.keywords(library)
            if library != "jax":  # whose own gradients are those of the others, and compile an operation at a time
                self.assertEqual(list(case.pair.gradient(*arguments, **keywords)), expected)
            self.assertEqual(list(value_and_gradient(case.pair.value)(*arguments, **keywords)[1]), expected)

    @parameterized.expand([("numpy",), ("jax",), ("torch",)])
    def test_are_in_the_order_of_the_arguments_in_a_loop(self, library: str) -> None:
        vectors = [np.random.default_rng(k).standard_normal((limits.current.large // 4, 5)) for k in range(3)]
        _, gradient = value_and_gradient(triplet_loss)(*(convert(x, library, "float32") for x in vectors))
        self.assertEqual(list(gradient), ["anchor", "positive", "negative"])

    @parameterized.expand(list(product(ON_REQUEST, ("numpy", "torch"))), name_func=label)
    def test_are_in_the_order_of_the_arguments_however_asked_for(self, case: Case, library: str) -> None:
        pair = case.pair
        expected = [name for name in pair.parameters if name in (*pair.wrt, *pair.on_request)]
        arguments, keywords = case.arguments(library), case.keywords(library)
        for both in (False, True):
            called = value_and_gradient(pair.value) if both else pair.gradient
            found = called(*arguments, **keywords, wrt=tuple(reversed(expected)))
            self.assertEqual(list(found[1] if both else found), expected)


class Memory(unittest.TestCase):
    @parameterized.expand(list(product(CASES, ("numpy", "torch"))), name_func=label)
    def test_is_contiguous(self, case: Case, library: str) -> None:
        arguments = [in_fortran_order(x) for x in case.arguments(library)]
        keywords = case.keywords(library)
        _, fused = value_and_gradient(case.pair.value)(*arguments, **keywords)
        for gradient in (case.pair.gradient(*arguments, **keywords), fused):
            for path, x in flat(gradient):
                self.assertTrue(is_contiguous(x), path)

    @parameterized.expand([(case,) for case in BATCHES], name_func=label)
    def test_is_contiguous_in_blocks(self, case: Case) -> None:
        arrays, options = draw_arguments(case.pair, np.random.default_rng(3), (limits.current.large // 4, 5))
        arguments = [in_fortran_order(x) for x in arrays.values()]
        for gradient in (
            case.pair.gradient(*arguments, **options),
            value_and_gradient(case.pair.value, compile=False)(*arguments, **options)[1],
        ):
            for path, x in flat(gradient):
                self.assertTrue(is_contiguous(x), path)

    @parameterized.expand([(huber_loss,), (kl_divergence,), (cosine_embedding_loss,), (vae_loss,)])
    def test_is_contiguous_in_a_loop(self, loss: Any) -> None:
        case = next(case for case in DRAWN if case.pair.value is loss)
        arrays, options = draw_arguments(case.pair, np.random.default_rng(3), (limits.current.large // 4, 5))
        _, gradient = value_and_gradient(loss)(*(in_fortran_order(x) for x in arrays.values()), **options)
        for path, x in flat(gradient):
            self.assertTrue(is_contiguous(x), path)
