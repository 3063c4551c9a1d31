"""`check_gradient` finds what is wrong, says where, and stays off kinks."""

from __future__ import annotations

import inspect
import math
import unittest
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from parameterized import parameterized

from mithril_losses import (
    catalogue,
    check_gradient,
    gradient_of,
    l2_regularization,
    l2_regularization_gradient,
    mae_loss,
    mse_loss,
    mse_loss_gradient,
    triplet_loss,
    triplet_loss_gradient,
    unregister,
)
from mithril_losses.checking import GradientMismatchError, check_catalogue, draw_arguments

PREDICTIONS = np.array([[1.0, 2.0, -0.5], [0.25, -3.0, 4.0], [0.5, 1.5, -1.0]])
TARGETS = np.array([[0.5, -1.0, 0.0], [1.0, -2.0, 6.0], [-0.5, 0.0, 1.5]])
LIBRARIES = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.tensor}


def cubed_error(predictions: Any, targets: Any) -> Any:
    return ((predictions - targets) ** 3).sum()


def cubed_error_gradient(predictions: Any, targets: Any) -> Any:
    return 3 * (predictions - targets) ** 2


def one_element_wrong(predictions: Any, targets: Any) -> Any:
    mask = np.zeros((3, 3))
    mask[2, 1] = 0.001
    return cubed_error_gradient(predictions, targets) + type_of(predictions)(mask)


def type_of(x: Any) -> Callable[[np.ndarray], Any]:
    return next(convert for convert in LIBRARIES.values() if isinstance(x, type(convert(np.zeros(1)))))


class Mistakes(unittest.TestCase):
    """Each of these gradients is wrong in one way."""

    @parameterized.expand(
        [
            # e = (0.5, 3, -0.5; …), so that 3 e² = 0.75 at (0, 0) and 6.75 at (2, 1), the largest being 27
            ("factor", lambda p, t: 1.1 * cubed_error_gradient(p, t), r"element \(0, 1\), is 29.7 .*, but (27|26.99)"),
            ("sign", lambda p, t: -cubed_error_gradient(p, t), r"element \(0, 1\), is -27 .*, but (27|26.99)"),
            ("element", one_element_wrong, r"element \(2, 1\), is 6.751 .*, but 6.7(5|49)"),
            ("transposed", lambda p, t: cubed_error_gradient(p, t).T, r"element \((0, 1|1, 0|0, 2|2, 0)\), is (27|1)"),
            ("not a number", lambda p, t: cubed_error_gradient(p, t) * math.nan, r"element \(0, 0\), is nan"),
            ("shape", lambda p, t: cubed_error_gradient(p, t)[:2], r"has shape \(2, 3\), the argument \(3, 3\)"),
            ("mean of squares", lambda p, t: cubed_error_gradient(p, t) / 9, r"element \(0, 1\), is 3 "),
        ]
    )
    def test_is_found(self, name: str, gradient: Callable[..., Any], message: str) -> None:
        for library, convert in LIBRARIES.items():
            with self.subTest(library):
                method = {"jax": "jax.grad", "torch": "torch.autograd"}.get(library, "central differences")
                with self.assertRaises(GradientMismatchError) as caught:
                    check_gradient(cubed_error, convert(PREDICTIONS), convert(TARGETS), gradient=gradient)
                self.assertRegex(str(caught.exception), f"^cubed_error: gradient wrt predictions,? {message}")
                if name != "shape":
                    self.assertIn(f"by {method}", str(caught.exception))

    def test_the_right_one_passes(self) -> None:
        for convert in LIBRARIES.values():
            check = check_gradient(cubed_error, convert(PREDICTIONS), convert(TARGETS), gradient=cubed_error_gradient)
            self.assertLess(check.worst, 1e-9)
            self.assertEqual((check.compared, check.left_out), (9, 0))

    def test_a_mistake_within_the_tolerance_is_none(self) -> None:
        check = check_gradient(cubed_error, PREDICTIONS, TARGETS, gradient=one_element_wrong, tolerance=1e-3)
        self.assertAlmostEqual(check.worst, 0.001 / 27.0, 9)

    def test_swapped_keys(self) -> None:
        def swapped(anchor: Any, positive: Any, negative: Any) -> dict[str, Any]:
            gradients = triplet_loss_gradient(anchor, positive, negative)
            return {**gradients, "positive": gradients["negative"], "negative": gradients["positive"]}

        embeddings = np.random.default_rng(0).standard_normal((3, 4, 2))
        with self.assertRaisesRegex(GradientMismatchError, r"gradient wrt (positive|negative), element \(\d, \d\)"):
            check_gradient(lambda anchor, positive, negative: triplet_loss(anchor, positive, negative),
                           *embeddings, gradient=swapped)  # fmt: skip

    def test_keys_that_are_no_arguments(self) -> None:
        message = r"the gradient has the keys \['scores'\], but the arguments are \['predictions', 'targets'\]"
        with self.assertRaisesRegex(GradientMismatchError, message):
            check_gradient(cubed_error, PREDICTIONS, TARGETS, gradient=lambda predictions, targets: {"scores": 1.0})

    def test_no_array_at_all(self) -> None:
        with self.assertRaisesRegex(GradientMismatchError, "gradient wrt predictions is not an array but None"):
            check_gradient(cubed_error, PREDICTIONS, TARGETS, gradient=lambda predictions, targets: None)

    def test_a_leaf_of_a_nesting(self) -> None:
        params = {"layer": [np.array([1.0, 2.0]), np.array([3.0])]}

        def wrong(params: Any) -> Any:
            first, second = l2_regularization_gradient(params)["layer"]
            return {"layer": [first, 2.0 * second]}

        message = r"gradient wrt params\['layer'\]\[1\], element \(0,\), is 0.06 .*, but 0.0(3|29)"
        with self.assertRaisesRegex(GradientMismatchError, message):
            check_gradient(l2_regularization, params, gradient=wrong)
        with self.assertRaisesRegex(GradientMismatchError, r"has the arrays \[.*\[0\]\"\], the argument \[.*\[1\]\"\]"):
            check_gradient(l2_regularization, params, gradient=lambda params: {"layer": params["layer"][:1]})

    def test_a_forgotten_option(self) -> None:
        def scaled(predictions: Any, targets: Any, scale: float = 1.0) -> Any:
            return scale * cubed_error(predictions, targets)

        def forgetful(predictions: Any, targets: Any, scale: float = 1.0) -> Any:
            return cubed_error_gradient(predictions, targets)

        check_gradient(scaled, PREDICTIONS, TARGETS, gradient=forgetful)
        with self.assertRaisesRegex(GradientMismatchError, "is 27 by the gradient function, but (54|53.99)"):
            check_gradient(scaled, PREDICTIONS, TARGETS, gradient=forgetful, scale=2.0)

    def test_a_forgotten_upstream(self) -> None:
        def deaf(predictions: Any, targets: Any, upstream: float = 1.0) -> Any:
            return cubed_error_gradient(predictions, targets)

        with self.assertRaises(GradientMismatchError):
            check_gradient(cubed_error, PREDICTIONS, TARGETS, gradient=deaf, upstream=3.0)

    def test_the_catalogue_goes_on_after_a_mistake(self) -> None:
        def drawn_loss(predictions: Any, targets: Any) -> Any:
            return cubed_error(predictions, targets)

        domain = catalogue()["mse_loss"].domain
        gradient_of(drawn_loss, domain=domain)(lambda predictions, targets: predictions)
        self.addCleanup(unregister, "drawn_loss")
        for backend in ("numpy", "torch"):
            wrong, right = check_catalogue(["drawn_loss", "mse_loss"], backend=backend)
            self.assertIsInstance(wrong, GradientMismatchError)
            self.assertLess(right.worst, 1e-6)


class Kinks(unittest.TestCase):
    """No derivative, no comparison."""

    def test_elements_near_a_kink_are_left_out(self) -> None:
        predictions, targets = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0 + 1e-6, 5.0, 4.5])
        check = check_gradient(mae_loss, predictions, targets)
        self.assertEqual((check.compared, check.left_out), (2, 2))

    def test_rows_near_a_kink_are_left_out(self) -> None:
        anchor = np.array([[0.0, 0.0], [0.0, 0.0]])
        positive, negative = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 1.5], [0.0, 1.0]])
        check = check_gradient(triplet_loss, anchor, positive, negative)
        self.assertEqual((check.compared, check.left_out), (6, 6))

    def test_nothing_but_kinks(self) -> None:
        with self.assertRaisesRegex(ValueError, "^mae_loss: every element lies on a kink"):
            check_gradient(mae_loss, TARGETS, TARGETS)

    def test_nothing_at_all(self) -> None:
        with self.assertRaisesRegex(ValueError, "^mse_loss: the arguments have no elements"):
            check_gradient(mse_loss, TARGETS[:0], TARGETS[:0])

    def test_an_undeclared_kink_is_a_mismatch(self) -> None:
        with self.assertRaisesRegex(GradientMismatchError, r"element \(0,\), is 1 .*, but 0 by central"):
            check_gradient(
                lambda predictions: abs(predictions).sum(), np.zeros(1), gradient=lambda predictions: predictions + 1.0
            )

    def test_kinks_may_depend_on_options(self) -> None:
        def dead_zone(predictions: Any, width: float = 1.0, reduction: str = "sum") -> Any:
            return np.sum(np.maximum(np.abs(predictions) - width, 0.0))

        def dead_zone_gradient(predictions: Any, width: float = 1.0, reduction: str = "sum") -> Any:
            return np.where(np.abs(predictions) > width, np.sign(predictions), 0.0)

        gradient_of(dead_zone, kinks=lambda predictions, width: (abs(predictions) - width,))(dead_zone_gradient)
        self.addCleanup(unregister, "dead_zone")
        predictions = np.array([0.5, 1.0, 2.0, -3.0])
        self.assertEqual(check_gradient(dead_zone, predictions).left_out, 1)
        self.assertEqual(check_gradient(dead_zone, predictions, width=2.0, reduction="sum").left_out, 1)
        self.assertEqual(check_gradient(dead_zone, predictions, width=1.5).left_out, 0)


class Evidence(unittest.TestCase):
    """What the check compares with, and in which precision."""

    def test_order_of_the_taylor_remainder(self) -> None:
        found = check_gradient(cubed_error, PREDICTIONS, TARGETS, gradient=cubed_error_gradient)
        self.assertAlmostEqual(found.order, 2.0, 1)
        linear = check_gradient(lambda x: (2.0 * x).sum(), PREDICTIONS, gradient=lambda x: 2.0 + 0.0 * x)
        self.assertEqual(linear.order, math.inf)

    def test_the_taylor_remainder_sees_what_a_wide_tolerance_lets_through(self) -> None:
        with self.assertRaisesRegex(GradientMismatchError, "order (0.9|1.0)[0-9], not 2: .* at step 0.001"):
            check_gradient(
                cubed_error, PREDICTIONS, TARGETS, tolerance=0.5, gradient=lambda p, t: 1.1 * cubed_error_gradient(p, t)
            )

    @parameterized.expand([("numpy", set()), ("jax", {"jax.grad"}), ("torch", {"torch.autograd"})])
    def test_methods(self, library: str, autodiff: set[str]) -> None:
        arguments = LIBRARIES[library](PREDICTIONS), LIBRARIES[library](TARGETS)
        check = check_gradient(mse_loss, *arguments)
        self.assertEqual(set(check.errors), autodiff | {"central differences"})
        check = check_gradient(mse_loss, *arguments, differences=False)
        self.assertEqual(set(check.errors), autodiff)
        self.assertGreaterEqual(check.worst, 0.0)
        with self.assertRaisesRegex(GradientMismatchError, "Taylor remainder" if library == "numpy" else "grad"):
            check_gradient(
                cubed_error, *arguments, gradient=lambda p, t: 1.5 * cubed_error_gradient(p, t), differences=False
            )

    @parameterized.expand(
        [
            ("numpy float32", lambda x: x.astype(np.float32)),
            ("numpy float16", lambda x: x.astype(np.float16)),
            ("jax float32", lambda x: jnp.asarray(x, dtype=jnp.float32)),
            ("jax bfloat16", lambda x: jnp.asarray(x, dtype=jnp.bfloat16)),
            ("torch float32", lambda x: torch.tensor(x, dtype=torch.float32)),
            ("torch bfloat16", lambda x: torch.tensor(x, dtype=torch.bfloat16)),
            ("torch, in a graph", lambda x: torch.tensor(x, requires_grad=True)),
        ]
    )
    def test_narrow_arguments_are_checked_in_float64(self, name: str, convert: Callable[..., Any]) -> None:
        check = check_gradient(mse_loss, convert(PREDICTIONS), convert(TARGETS))
        self.assertLess(check.worst, 1e-10)

    def test_arguments_are_left_as_they_are(self) -> None:
        predictions, targets = PREDICTIONS.copy(), TARGETS.copy()
        check_gradient(mse_loss, predictions, targets)
        np.testing.assert_array_equal(predictions, PREDICTIONS)
        np.testing.assert_array_equal(targets, TARGETS)
        tensor = torch.tensor(PREDICTIONS, requires_grad=True)
        check_gradient(mse_loss, tensor, torch.tensor(TARGETS))
        self.assertIsNone(tensor.grad)
        with jax.enable_x64(False):
            check_gradient(mse_loss, jnp.asarray(PREDICTIONS), jnp.asarray(TARGETS))
            self.assertEqual(jnp.asarray(1.5).dtype, jnp.float32)  # x64 was on for the check alone

    def test_scalars(self) -> None:
        check_gradient(mse_loss, np.array(3.0), np.array(1.0))
        check_gradient(lambda x: x * x, np.float64(3.0), gradient=lambda x: np.array(2.0 * x))

    def test_every_reduction_and_upstream(self) -> None:
        for keywords in (
            {"reduction": "none"},
            {"reduction": "none", "upstream": TARGETS},
            {"reduction": "sum", "upstream": -2.0},
            {"axis": 0, "weights": np.abs(TARGETS), "upstream": np.array([1.0, 0.0, 3.0])},
        ):
            self.assertLess(check_gradient(mse_loss, PREDICTIONS, TARGETS, **keywords).worst, 1e-9)


class Forms(unittest.TestCase):
    """What may be checked."""

    def test_by_name(self) -> None:
        self.assertEqual(check_gradient("mse_loss", PREDICTIONS, TARGETS).loss, "mse_loss")
        with self.assertRaisesRegex(ValueError, "unknown loss 'mse_los' .*; did you mean 'mse_loss'"):
            check_gradient("mse_los", PREDICTIONS, TARGETS)

    def test_arrays_by_name(self) -> None:
        check_gradient("mse_loss", predictions=PREDICTIONS, targets=TARGETS)
        check_gradient("mse_loss", PREDICTIONS, targets=TARGETS)

    def test_a_loss_without_gradient(self) -> None:
        with self.assertRaisesRegex(ValueError, "'cubed_error' has no registered gradient: decorate"):
            check_gradient(cubed_error, PREDICTIONS, TARGETS)

    def test_a_partial(self) -> None:
        gradient = partial(mse_loss_gradient, reduction="sum")
        check_gradient(partial(mse_loss, reduction="sum"), PREDICTIONS, TARGETS, gradient=gradient)

    def test_an_object_with_a_gradient(self) -> None:
        class Scaled:
            name = "scaled"

            def __call__(self, scores: Any, truth: Any) -> Any:
                return 2.0 * cubed_error(scores, truth)

            def gradient(self, scores: Any, truth: Any) -> Any:
                return 2.0 * cubed_error_gradient(scores, truth)

        self.assertEqual(check_gradient(Scaled(), PREDICTIONS, TARGETS).loss, "scaled")

    def test_an_object_that_passes_everything_on(self) -> None:
        class Half:
            def __init__(self, factor: float) -> None:
                self.factor = factor

            def __call__(self, *arguments: Any, **keywords: Any) -> Any:
                return 0.5 * mse_loss(*arguments, **keywords)

            def gradient(self, *arguments: Any, **keywords: Any) -> Any:
                return self.factor * mse_loss_gradient(*arguments, **keywords)

        check_gradient(Half(0.5), PREDICTIONS, TARGETS, reduction="sum")
        with self.assertRaisesRegex(GradientMismatchError, "Half: gradient wrt argument 0, element"):
            check_gradient(Half(1.0), PREDICTIONS, TARGETS)

    def test_a_value_that_is_a_python_number(self) -> None:
        check_gradient(lambda x: float((x * x).sum()), PREDICTIONS, gradient=lambda x: 2.0 * x)

    def test_a_nesting(self) -> None:
        params = {"weight": PREDICTIONS, "scales": [TARGETS[0]]}
        self.assertEqual(check_gradient(l2_regularization, params).compared, 12)
        self.assertEqual(check_gradient(l2_regularization, params, gradient=l2_regularization_gradient).compared, 12)

    def test_no_loss_has_an_option_that_the_checker_keeps_for_itself(self) -> None:
        own = {name for name, p in inspect.signature(check_gradient).parameters.items() if p.kind is p.KEYWORD_ONLY}
        self.assertIn("seed", own)
        for pair in catalogue().values():
            self.assertTrue(own.isdisjoint(pair.parameters), pair.name)

    def test_arguments_without_a_domain_cannot_be_drawn(self) -> None:
        gradient_of(cubed_error)(cubed_error_gradient)
        self.addCleanup(unregister, "cubed_error")
        with self.assertRaisesRegex(ValueError, "cubed_error declares no domain for predictions, targets"):
            draw_arguments(catalogue()["cubed_error"], np.random.default_rng(0))
