"""The catalogue: a user's own pairs in it, what is refused, and what the package itself lists."""

from __future__ import annotations

import functools
import inspect
import sys
import unittest
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from parameterized import parameterized

import mithril_losses
from mithril_losses import (
    Objective,
    Term,
    catalogue,
    check_gradient,
    elementwise,
    find_loss,
    gradient_of,
    mse_loss,
    mse_loss_gradient,
    triplet_loss,
    unregister,
    value_and_gradient,
    value_and_gradient_of,
)
from mithril_losses.catalogue import both_of
from mithril_losses.checking import draw_arguments
from mithril_losses.domains import POSITIVE, REAL
from mithril_losses.templates.unreduced import Losses, unreduced

FAMILIES = [sys.modules[name] for name in {p.value.__module__: None for p in catalogue().values()}]
NO_LOSSES = {  # but what gives losses by name, makes their arguments, or reports on them
    "create_gan_loss_suite",
    "face_normals",
    "face_normals_gradient",
    "sinkhorn_convergence",
    "unique_edges",
    "vertex_normals",
    "vertex_normals_gradient",
}
X, Y = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, 3.0])


def scaled_error(predictions: Any, targets: Any, *, scale: float = 2.0) -> Any:
    """scale · Σ e²."""
    return scale * ((predictions - targets) ** 2).sum()


def scaled_error_gradient(predictions: Any, targets: Any, *, scale: float = 2.0) -> Any:
    """2 scale · e."""
    return 2.0 * scale * (predictions - targets)


def forget(test: unittest.TestCase, name: str) -> None:
    """Take a loss that the test registers out of the catalogue when the test ends."""
    test.addCleanup(lambda: unregister(name) if name in catalogue() else None)


class OwnPairs(unittest.TestCase):
    """A user's own functions take part in everything."""

    def test_numpy_functions_with_an_option(self) -> None:
        forget(self, "scaled_error")
        self.assertIs(gradient_of(scaled_error)(scaled_error_gradient), scaled_error_gradient)
        pair = catalogue()["scaled_error"]
        self.assertIs(pair.value, scaled_error)
        self.assertIs(pair.gradient, scaled_error_gradient)
        self.assertEqual(pair.wrt, ("predictions",))
        self.assertEqual((pair.array_arguments, pair.options), (("predictions", "targets"), ("scale",)))
        self.assertEqual((pair.formula, pair.gradient_formula), ("scale · Σ e².", "2 scale · e."))
        self.assertEqual(pair.family, "test_catalogue")
        self.assertFalse(pair.takes_reduction)
        # e = (0.5, -3, -2.5): Σ e² = 15.5
        value, gradient = value_and_gradient(scaled_error)(X, Y, scale=10.0)
        self.assertEqual(float(value), 155.0)
        np.testing.assert_array_equal(gradient, [10.0, -60.0, -50.0])
        check_gradient("scaled_error", X, Y, scale=0.5)

    def test_jax_functions(self) -> None:
        def log_cosh(predictions: Any, targets: Any) -> Any:
            return jnp.sum(jnp.log(jnp.cosh(predictions - targets)))

        forget(self, "log_cosh")

        @gradient_of(log_cosh)
        def log_cosh_gradient(predictions: Any, targets: Any) -> Any:
            return jnp.tanh(predictions - targets)

        both = jax.jit(value_and_gradient(log_cosh))
        value, gradient = both(jnp.asarray(X), jnp.asarray(Y))
        np.testing.assert_allclose(value, np.log(np.cosh(X - Y)).sum(), rtol=1e-6)
        np.testing.assert_allclose(gradient, np.tanh(X - Y), rtol=1e-6)
        self.assertIn("jax.grad", check_gradient(log_cosh, jnp.asarray(X), jnp.asarray(Y)).errors)

    def test_two_differentiable_arguments(self) -> None:
        def product_loss(left: Any, right: Any) -> Any:
            return (left * right).sum()

        forget(self, "product_loss")

        @gradient_of(product_loss, wrt=("left", "right"))
        def product_loss_gradient(left: Any, right: Any) -> Any:
            return {"left": +right, "right": +left}

        self.assertEqual(check_gradient(product_loss, torch.tensor(X), torch.tensor(Y)).compared, 6)

    def test_gradient_wrt_another_argument(self) -> None:
        def distance(targets: Any, scores: Any) -> Any:
            return ((targets - scores) ** 2).sum()

        forget(self, "distance")
        gradient_of(distance, wrt="scores")(lambda targets, scores: 2.0 * (scores - targets))
        self.assertEqual(catalogue()["distance"].wrt, ("scores",))
        check_gradient("distance", X, Y)

    def test_fused_value_and_gradient(self) -> None:
        forget(self, "scaled_error")
        gradient_of(scaled_error)(scaled_error_gradient)

        @value_and_gradient_of(scaled_error)
        def both(predictions: Any, targets: Any, *, scale: float = 2.0) -> Any:
            error = predictions - targets
            return scale * (error @ error), 2.0 * scale * error

        self.assertIs(find_loss(scaled_error).both, both)
        # e = (0.5, -3, -2.5): Σ e² = 15.5
        value, gradient = value_and_gradient(scaled_error)(X, Y, scale=1.0)
        self.assertEqual((float(value), gradient.tolist()), (15.5, [1.0, -6.0, -5.0]))
        with self.assertRaisesRegex(TypeError, "does not take the arguments of its loss"):
            value_and_gradient_of(scaled_error)(lambda predictions, targets: None)

    def test_both_of_evaluates_once_however_arguments_are_given(self) -> None:
        calls = []

        @unreduced(predictions=REAL, targets=REAL, scale=POSITIVE)
        def _rows(predictions: Any, targets: Any, scale: float, wanted: Any) -> Losses:
            calls.append(wanted)
            return Losses(scale * (predictions * targets).sum(axis=-1), lambda: {"predictions": scale * targets})

        def row_products(predictions: Any, targets: Any, scale: float = 1.0, **reduction: Any) -> Any:
            return _rows.value(predictions, targets, scale, **reduction)

        forget(self, "row_products")

        @gradient_of(row_products, terms=_rows)
        def row_products_gradient(predictions: Any, targets: Any, scale: float = 1.0, **reduction: Any) -> Any:
            return _rows.gradient(predictions, targets, scale, **reduction)

        both = both_of(row_products_gradient)
        for arguments, keywords in (
            ((X, Y, 2.0), {}),
            ((X, Y), {"scale": 2.0}),
            ((X,), {"targets": Y, "scale": 2.0}),
            ((), {"predictions": X, "targets": Y, "scale": 2.0}),
        ):
            value, gradient = both(*arguments, **keywords)
            self.assertEqual((float(value), gradient.tolist()), (2.0 * float(X @ Y), (2.0 * Y).tolist()))
        self.assertEqual(calls, [("predictions",)] * 4)
        for function in (row_products_gradient, both, value_and_gradient(row_products)):
            with self.assertRaisesRegex(TypeError, "row_products has no option 'wrt': the gradient is wrt predictions"):
                function(X, Y, wrt="predictions")
        with self.assertRaisesRegex(TypeError, "missing 1 required positional argument: 'targets'"):
            both(X)

    def test_a_loss_without_reduction_takes_none_with_its_gradient_either(self) -> None:
        with self.assertRaisesRegex(TypeError, "^relativistic_average_generator_loss has no option 'reduction'"):
            value_and_gradient(catalogue()["relativistic_average_generator_loss"])(X, Y, reduction="none")

    def test_an_elementwise_loss_of_ones_own(self) -> None:
        @elementwise(predictions=REAL, targets=REAL, scale=POSITIVE)
        def _log_cosh(xp: Any, predictions: Any, targets: Any, scale: float) -> Any:
            error = (predictions - targets) / scale
            return xp.log((xp.exp(error) + xp.exp(-error)) / 2.0), xp.tanh(error) / scale

        def log_cosh(predictions: Any, targets: Any, *, scale: float = 1.0, **reduction: Any) -> Any:
            return _log_cosh.value(predictions, targets, scale, **reduction)

        forget(self, "log_cosh")

        @gradient_of(log_cosh, terms=_log_cosh)
        def log_cosh_gradient(predictions: Any, targets: Any, *, scale: float = 1.0, **reduction: Any) -> Any:
            return _log_cosh.gradient(predictions, targets, scale, **reduction)

        for convert in (np.asarray, jnp.asarray, torch.tensor):
            for keywords in ({}, {"scale": 0.5}, {"reduction": "none", "upstream": convert(Y)}):
                check_gradient(log_cosh, convert(X), convert(Y), **keywords)
        # log cosh 1 and tanh 1
        value, gradient = value_and_gradient(log_cosh)(np.array([1.0]), np.array([0.0]))
        np.testing.assert_allclose([value, gradient[0]], [0.43378083048302906, 0.7615941559557649], rtol=1e-14)
        with self.assertRaisesRegex(ValueError, "predictions and targets must have the same shape"):
            log_cosh(X, Y[:2])
        with self.assertRaisesRegex(ValueError, "scale must be > 0, got 0.0"):
            log_cosh_gradient(X, Y, scale=0.0)

    def test_terms_must_declare_their_arguments(self) -> None:
        with self.assertRaisesRegex(TypeError, r"takes \['predictions', 'targets'\], but .* for \['predictions'\]"):

            @elementwise(predictions=REAL)
            def terms(xp: Any, predictions: Any, targets: Any) -> Any:
                return predictions, targets


class Refusals(unittest.TestCase):
    def test_no_loss_takes_what_is_for_its_gradient(self) -> None:
        for name, pair in catalogue().items():
            arrays, options = draw_arguments(pair, np.random.default_rng(1))
            with self.subTest(name), self.assertRaisesRegex(TypeError, "upstream"):
                pair.value(*arrays.values(), **options, upstream=2.0)

    """What is no pair is refused when it is registered."""

    @parameterized.expand(
        [
            ("other name", lambda predictions, labels, *, scale=2.0: None),
            ("other order", lambda targets, predictions, *, scale=2.0: None),
            ("other default", lambda predictions, targets, *, scale=3.0: None),
            ("no default", lambda predictions, targets, *, scale: None),
            ("option by position", lambda predictions, targets, scale=2.0: None),
            ("option missing", lambda predictions, targets: None),
            ("option too many", lambda predictions, targets, *, scale=2.0, power=2: None),
            ("keywords too many", lambda predictions, targets, *, scale=2.0, **keywords: None),
        ]
    )
    def test_signatures_differ(self, name: str, gradient: Any) -> None:
        message = r"^<lambda>\(.*\) does not take the arguments of its loss, scaled_error\(predictions"
        with self.assertRaisesRegex(TypeError, message):
            gradient_of(scaled_error)(gradient)
        self.assertNotIn("scaled_error", catalogue())

    def test_upstream_and_wrt_may_be_added(self) -> None:
        forget(self, "scaled_error")
        gradient_of(scaled_error)(lambda predictions, targets, *, scale=2.0, upstream=1.0, wrt="predictions": None)
        self.assertIn("scaled_error", catalogue())

    def test_wrt_names_no_argument(self) -> None:
        for wrt in ("prediction", ("predictions", "target"), "scale"):
            with self.assertRaisesRegex(ValueError, "names no array argument of scaled_error"):
                gradient_of(scaled_error, wrt=wrt)(scaled_error_gradient)
        with self.assertRaisesRegex(ValueError, "did you mean 'predictions'"):
            gradient_of(scaled_error, wrt="prediction")(scaled_error_gradient)
        with self.assertRaisesRegex(ValueError, "wrt='target' .* did you mean 'targets'"):
            gradient_of(scaled_error, on_request=("target",))(scaled_error_gradient)

    def test_a_name_that_is_taken(self) -> None:
        def mse_loss(predictions: Any, targets: Any) -> Any:
            return None

        with self.assertRaisesRegex(ValueError, "'mse_loss' is registered already, from mithril_losses.losses"):
            gradient_of(mse_loss)(lambda predictions, targets: None)
        self.assertIs(catalogue()["mse_loss"].value, mithril_losses.mse_loss)

    def test_fused_without_a_pair(self) -> None:
        with self.assertRaisesRegex(ValueError, "'scaled_error' has no registered gradient"):
            value_and_gradient_of(scaled_error)(lambda *a: None)


class Catalogue(unittest.TestCase):
    """Finding, redefining, forgetting."""

    def test_redefinition_as_in_a_notebook(self) -> None:
        def define(factor: float) -> Any:
            def cell_loss(predictions: Any) -> Any:
                return factor * predictions.sum()

            @gradient_of(cell_loss)
            def cell_loss_gradient(predictions: Any) -> Any:
                return factor + 0.0 * predictions

            return cell_loss

        forget(self, "cell_loss")
        first, second = define(1.0), define(2.0)
        self.assertIs(find_loss("cell_loss").value, second)
        np.testing.assert_array_equal(value_and_gradient(second)(X)[1], [2.0, 2.0, 2.0])
        with self.assertRaisesRegex(ValueError, "'cell_loss' has no registered gradient"):
            value_and_gradient(first)

    def test_a_redefinition_forgets_the_fused_function(self) -> None:
        forget(self, "scaled_error")
        gradient_of(scaled_error)(scaled_error_gradient)
        value_and_gradient_of(scaled_error)(lambda predictions, targets, *, scale=2.0: "old")
        gradient_of(scaled_error)(scaled_error_gradient)
        self.assertIsNone(find_loss(scaled_error).both)

    def test_unregister(self) -> None:
        gradient_of(scaled_error)(scaled_error_gradient)
        unregister("scaled_error")
        self.assertNotIn("scaled_error", catalogue())
        with self.assertRaisesRegex(ValueError, "unknown loss 'scaled_error'"):
            unregister("scaled_error")

    def test_the_catalogue_is_read_only(self) -> None:
        with self.assertRaises(TypeError):
            catalogue()["mse_loss"] = None  # type: ignore[index]
        with self.assertRaises(AttributeError):
            find_loss("mse_loss").name = "other"  # type: ignore[misc]

    def test_the_catalogue_is_a_view(self) -> None:
        before = catalogue()
        forget(self, "scaled_error")
        gradient_of(scaled_error)(scaled_error_gradient)
        self.assertEqual(list(before)[-1], "scaled_error")

    @parameterized.expand(
        [
            ("mse_los", "; did you mean 'mse_loss'?"),
            ("crossentropy", "; did you mean 'cross_entropy_with_logits', or 'cross_entropy_loss' of probabilities?"),
            ("cross_entropy", ": here it is cross_entropy_with_logits; weight= is class_weights="),
            ("L1Loss", ": here it is mae_loss"),
            ("DiceLoss", "; did you mean 'dice_loss_with_logits', or 'dice_loss' of probabilities?"),
            ("Huber_loss", "; did you mean 'huber_loss'?"),
            ("triplet", "; did you mean 'triplet_loss'?"),
            ("nothing like it at all", "at all' (`mithril-losses list` shows them all)"),
        ]
    )
    def test_the_nearest_name(self, name: str, hint: str) -> None:
        with self.assertRaises(ValueError) as caught:
            find_loss(name)
        self.assertIn(hint, str(caught.exception))

    @parameterized.expand([(scaled_error_gradient,), (np.mean,), (3,), (None,)])
    def test_what_is_no_loss(self, loss: Any) -> None:
        with self.assertRaisesRegex(ValueError, "has no registered gradient: decorate the gradient with"):
            find_loss(loss)

    def test_either_half_of_a_pair_finds_it(self) -> None:
        self.assertIs(find_loss(mse_loss_gradient), catalogue()["mse_loss"])
        forget(self, "scaled_error")

        def slope(predictions: Any, targets: Any, *, scale: float = 2.0) -> Any:
            return scaled_error_gradient(predictions, targets, scale=scale)

        gradient_of(scaled_error)(slope)
        self.assertIs(find_loss(slope), catalogue()["scaled_error"])
        check_gradient(slope, X, Y)
        halved = functools.partial(mse_loss_gradient, upstream=0.5)
        for gradient, keywords in ((mse_loss_gradient, {"upstream": 0.5}), (halved, {})):
            value, found = value_and_gradient(gradient)(X, Y, reduction="sum", **keywords)
            # e = (0.5, -3, -2.5): Σ e² = 15.5, and e is half of its slope
            self.assertEqual((float(value), found.tolist()), (15.5, [0.5, -3.0, -2.5]))

    def test_a_loss_that_carries_its_gradient(self) -> None:
        class Scaled:
            def __call__(self, scores: Any, truth: Any) -> Any:
                return 2.0 * mse_loss(scores, truth)

            def gradient(self, scores: Any, truth: Any, *, upstream: float = 1.0) -> Any:
                return 2.0 * mse_loss_gradient(scores, truth, upstream=upstream)

        loss = Scaled()
        pair = find_loss(loss)
        self.assertEqual((pair.name, pair.wrt, pair.array_arguments), ("Scaled", ("scores",), ("scores", "truth")))
        self.assertNotIn("Scaled", catalogue())
        # e = (0.5, -3, -2.5): 2 Σ e² / 3 and 4 e / 3
        value, gradient = value_and_gradient(loss)(X, Y, upstream=3.0)
        self.assertAlmostEqual(float(value), 31.0 / 3.0)
        np.testing.assert_allclose(gradient, [2.0, -12.0, -10.0])

    @parameterized.expand([("function",), ("object",)])
    def test_the_loss_is_the_first_of_what_is_returned(self, kind: str) -> None:
        def halves(left: Any, right: Any) -> Any:
            fit, size = (left * right).sum(), (right**2).sum()
            return fit + 2.0 * size, fit, size

        def halves_gradient(left: Any, right: Any, *, upstream: float = 1.0) -> Any:
            return {"left": upstream * right, "right": upstream * (left + 4.0 * right)}

        class Halves:
            returns = ("total", "fit", "size")
            wrt = ("left", "right")

            def __call__(self, left: Any, right: Any) -> Any:
                return halves(left, right)

            def gradient(self, left: Any, right: Any, *, upstream: float = 1.0) -> Any:
                return halves_gradient(left, right, upstream=upstream)

        forget(self, "halves")
        loss: Any = Halves()
        if kind == "function":
            gradient_of(halves, wrt=Halves.wrt, returns=Halves.returns)(halves_gradient)
            loss = halves
        # X·Y = -1 and Y·Y = 10.25
        for convert in (np.asarray, torch.tensor, jnp.asarray):
            values, gradients = value_and_gradient(loss)(convert(X), convert(Y), upstream=3.0)
            self.assertEqual([float(value) for value in values], [float(X @ Y + 2 * Y @ Y), float(X @ Y), float(Y @ Y)])
            np.testing.assert_allclose(gradients["right"], 3.0 * (X + 4.0 * Y), rtol=1e-6)
            check_gradient(loss, convert(X), convert(Y))
        objective = Objective([Term("halves", loss, outputs={"left": "x", "right": "y"}, weight=2.0)])
        for gradients in (True, False):
            found = objective.evaluate({"x": X, "y": Y}, {}, gradients=gradients)
            self.assertEqual(found.components, {"halves": X @ Y + 2 * Y @ Y})
        np.testing.assert_allclose(
            objective.evaluate({"x": X, "y": Y}, {}).output_gradients["y"], 2.0 * (X + 4.0 * Y), rtol=1e-15
        )

    def test_upstream_scales_the_gradient_alone(self) -> None:
        for loss, arguments in ((mse_loss, (X, Y)), (triplet_loss, (X, Y, -Y))):
            value, _ = value_and_gradient(loss)(*arguments, upstream=5.0)
            self.assertEqual(float(value), float(loss(*arguments)))

    def test_value_and_gradient_keeps_the_name_and_the_docstring(self) -> None:
        both = value_and_gradient(mse_loss)
        self.assertEqual((both.__name__, both.__doc__), ("mse_loss", mse_loss.__doc__))


class Names(unittest.TestCase):
    """`__all__` is what a module defines, and every loss has both of its functions."""

    @parameterized.expand([(family.__name__, family) for family in FAMILIES])
    def test_a_family_exports_what_it_defines(self, name: str, family: ModuleType) -> None:
        defined = [
            key
            for key, x in vars(family).items()
            if (inspect.isfunction(x) or inspect.isclass(x)) and x.__module__ == name and not key.startswith("_")
        ]
        self.assertEqual(sorted(defined), sorted(family.__all__))
        self.assertEqual(sorted(family.__all__), list(family.__all__))

    def test_the_package_exports_the_families(self) -> None:
        public = mithril_losses.__all__
        self.assertEqual(len(public), len(set(public)))
        for name in public:
            self.assertTrue(hasattr(mithril_losses, name), name)
        for family in FAMILIES:
            for name in family.__all__:
                self.assertIs(getattr(mithril_losses, name), getattr(family, name))
                self.assertIn(name, public)
        modules = {name for name, x in vars(mithril_losses).items() if inspect.ismodule(x)}
        functions = {name for name in vars(mithril_losses) if not name.startswith("_")} - modules
        self.assertEqual(functions, set(public))

    def test_every_public_function_of_a_family_is_in_the_catalogue(self) -> None:
        pairs = [pair for pair in catalogue().values() if pair.value.__module__.startswith("mithril_losses.")]
        listed = {f.__name__ for pair in pairs for f in (pair.value, pair.gradient, pair.both) if f is not None}
        public = {name for name in listed if not name.startswith("_")}
        exported = {name for family in FAMILIES for name in family.__all__}
        functions = {name for name in exported if inspect.isfunction(getattr(mithril_losses, name))}
        self.assertEqual(public, functions - NO_LOSSES)
        for pair in pairs:
            self.assertEqual(pair.gradient.__name__, f"{pair.name}_gradient")
            self.assertEqual(pair.name, pair.value.__name__)
