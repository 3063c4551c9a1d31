"""What PyTorch and JAX differentiate a loss to is its hand-derived gradient, and can be differentiated in turn."""

from __future__ import annotations

import functools
import re
import tracemalloc
import unittest
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from cases import DRAWN, ONE_OF_EACH_TEMPLATE, Case, convert, double_precision, flat, label, matched
from parameterized import parameterized
from torch._subclasses.fake_tensor import FakeTensorMode

import mithril_losses as ml
from mithril_losses import check_gradient, find_loss, gradient_of, unregister, value_and_gradient
from mithril_losses.autodiff import plain_functions
from mithril_losses.backends.memory import release_kept_memory
from mithril_losses.checking import GradientMismatchError
from mithril_losses.domains import REAL
from mithril_losses.numerics.trees import map_leaves
from mithril_losses.templates.elements import elementwise

# their gradient is refused a derivative, in so many words
IMPLICIT = {"sinkhorn_divergence"}
NAMED = [(case,) for case in DRAWN]
# one of each template, and of each way to tiles
FEW = {
    "complete_iou_loss",
    "cross_entropy_with_logits",
    "huber_loss",
    "info_nce_loss",
    "kl_divergence",
    "mesh_edge_loss",
    "non_saturating_discriminator_loss",
}
QUICK = {"cross_entropy_with_logits", "huber_loss", "kl_divergence", "non_saturating_discriminator_loss"}
SOME = [(case,) for case in DRAWN if case.pair.name in FEW]
REST = [(case,) for case in DRAWN if case.pair.name not in FEW]
# one of each form of terms for which XLA would otherwise write several arrays
WRITTEN_ONCE = (
    "huber_loss",
    "smooth_l1_loss",
    "modified_huber_loss",
    "logistic_loss",
    "gamma_negative_log_likelihood",
    "fair_loss",
    "cauchy_loss",
    "charbonnier_loss",
)
SMOOTH = [(case,) for case in DRAWN if case.pair.name not in IMPLICIT]


def in_graph(case: Case, dtype: str = "float64") -> tuple[Callable[..., Any], list[torch.Tensor]]:
    """Return the loss as a function without arguments, and its leaves in the graph."""
    arguments, at = case.arguments("torch", dtype), []
    for name, x in zip(case.arrays, arguments, strict=True):
        at += [leaf.requires_grad_(True) for _, leaf in flat(x)] if name in case.pair.wrt else []
    keywords = case.keywords("torch", dtype)
    return lambda **more: case.pair.total_of(case.pair.value(*arguments, **keywords, **more)), at


def by_jax(case: Case) -> tuple[Callable[[dict[str, Any]], Any], dict[str, Any]]:
    """Return the loss as a function of the arguments that it is differentiated by, and these arguments."""
    given = dict(zip(case.arrays, case.arguments("jax"), strict=True))
    keywords = case.keywords("jax")

    def loss(at: dict[str, Any]) -> Any:
        named = given | keywords | at
        return case.pair.total_of(case.pair.value(*[named.pop(name) for name in case.arrays], **named))

    return loss, {name: given[name] for name in case.pair.wrt if name in given}


def by_argument(case: Case, gradient: Any) -> dict[str, Any]:
    return gradient if len(case.pair.wrt) > 1 else {case.pair.wrt[0]: gradient}


class Torch(unittest.TestCase):
    @parameterized.expand(NAMED, name_func=label)
    def test_backward_gives_the_gradient(self, case: Case) -> None:
        """For each reduction; twice, by another gradient that flows in, and with half precision."""
        reductions: list[dict[str, Any]] = [{}]
        if case.pair.takes_reduction:
            reductions += [{"reduction": "none"}, {"reduction": "sum", "weights": convert(case.weights, "torch")}]
        for reduction in reductions:
            with self.subTest(reduction=reduction.get("reduction")):
                loss, at = in_graph(case)
                value = loss(**reduction)
                flowing = torch.full_like(value, -1.5)
                once = torch.autograd.grad(value, at, flowing, retain_graph=True)
                again = torch.autograd.grad(value, at, flowing)
                found = case.gradient("torch", **reduction, **({"upstream": flowing} if reduction else {}))
                factor = 1.0 if reduction else -1.5
                for one, other, (path, expected) in zip(once, again, flat(found), strict=True):
                    torch.testing.assert_close(one, factor * expected, rtol=1e-12, atol=1e-14, msg=path)
                    torch.testing.assert_close(other, factor * expected, rtol=1e-12, atol=1e-14, msg=path)

    @parameterized.expand(SMOOTH, name_func=label)
    def test_second_derivatives_are_those_of_the_plain_function(self, case: Case) -> None:
        loss, at = in_graph(case)
        try:
            with plain_functions():
                expected = _second(loss(), at)
        except NotImplementedError:  # PyTorch does not know the second derivative of a distance
            expected = _second(loss(reduction="none").sum() / case.value(reduction="none").size, at)
        for one, other in zip(_second(loss(), at), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def _second(value: torch.Tensor, at: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the derivative of the gradient along a fixed direction."""
    slopes = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
    slopes = [x for x in slopes if x is not None and x.requires_grad]
    along = [torch.tensor(np.random.default_rng(5).standard_normal(tuple(x.shape))) for x in slopes]
    second = torch.autograd.grad(slopes, at, along, allow_unused=True) if slopes else [None for _ in at]
    return [torch.zeros_like(x) if by is None else by for x, by in zip(at, second, strict=True)]


class Jax(unittest.TestCase):
    @parameterized.expand(SOME, name_func=label)  # `test_one_function_compiled_by_jax` differentiates every loss
    def test_grad_gives_the_gradient(self, case: Case) -> None:
        with double_precision("jax"):
            loss, at = by_jax(case)
            gradient = by_argument(case, case.gradient())
            for path, found, expected in matched(jax.jit(jax.grad(loss))(at), gradient):
                np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13, err_msg=path)

    @parameterized.expand([(case,) for (case,) in NAMED if case.pair.name in QUICK], name_func=label)
    def test_transforms(self, case: Case) -> None:
        self.check(case)

    @parameterized.expand([(case,) for (case,) in NAMED if case.pair.name not in QUICK], name_func=label)
    @pytest.mark.exhaustive
    def test_transforms_of_the_rest(self, case: Case) -> None:
        self.check(case)

    def check(self, case: Case) -> None:
        """Forward mode, second derivatives, batches of problems, a scan and recomputation, compiled together."""
        generator = np.random.default_rng(1)

        with double_precision("jax"):
            loss, at = by_jax(case)
            along = jax.tree.map(lambda x: jnp.asarray(generator.standard_normal(x.shape)), at)
            several = jax.tree.map(lambda x: jnp.stack([x, jnp.flip(x, 0) if x.ndim else x]), at)

            def every(loss: Callable[..., Any]) -> dict[str, Any]:
                slope = jax.grad(loss)
                return {
                    "value": loss(at),
                    "forward mode": jax.jvp(loss, (at,), (along,))[1],
                    "second": jax.jvp(slope, (at,), (along,))[1] if case.pair.name not in IMPLICIT else 0.0,
                    "batch": jax.vmap(slope)(several),
                    "scan": jax.lax.scan(lambda _, x: (None, slope(x)), None, several)[1],
                    "recomputed": jax.grad(jax.checkpoint(loss))(at),
                    "linearized": jax.linearize(loss, at)[1](along),
                }

            found = jax.jit(lambda: every(loss))()
            with plain_functions():
                expected = jax.jit(lambda: every(loss))()
            for path, one, other in matched(found, expected):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10, err_msg=path)

    @parameterized.expand(SOME, name_func=label)
    def test_losses_that_are_not_summed(self, case: Case) -> None:
        self.check_unreduced(case)

    @parameterized.expand(REST, name_func=label)
    @pytest.mark.exhaustive
    def test_losses_that_are_not_summed_of_the_rest(self, case: Case) -> None:
        self.check_unreduced(case)

    def test_an_option_that_is_learned_keeps_its_derivative(self) -> None:
        with double_precision("jax"):
            queries, keys = (jnp.asarray(np.random.default_rng(i).standard_normal((6, 4))) for i in range(2))

            def loss(queries: Any, temperature: Any) -> Any:
                return ml.info_nce_loss(queries, keys, temperature=temperature)

            found = jax.jit(jax.grad(loss, (0, 1)))(queries, 0.5)
            with plain_functions():
                expected = jax.jit(jax.grad(lambda *x: loss(*x), (0, 1)))(queries, 0.5)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-10)

    def test_a_number_that_jax_knows_is_an_argument(self) -> None:
        found = jax.value_and_grad(lambda w: ml.mse_loss(w, jnp.asarray(1.0)))(3.0)
        self.assertEqual([float(x) for x in found], [4.0, 4.0])

    def check_unreduced(self, case: Case) -> None:
        if not case.pair.takes_reduction:
            self.skipTest("the loss has no unreduced losses")
        generator = np.random.default_rng(1)
        with double_precision("jax"):
            loss, at = by_jax(case)
            along = jax.tree.map(lambda x: jnp.asarray(generator.standard_normal(x.shape)), at)
            weights = jnp.asarray(case.weights)

            def every(given: dict[str, Any]) -> Any:
                def value(at: dict[str, Any]) -> Any:
                    return loss(at | given)

                found, pull = jax.vjp(value, at)
                return jax.jvp(value, (at,), (along,)), pull(jnp.cos(found))

            keywords = {"reduction": "none", "weights": weights}
            found = jax.jit(lambda weights: every(keywords | {"weights": weights}))(weights)
            with plain_functions():
                expected = jax.jit(lambda weights: every(keywords | {"weights": weights}))(weights)
            for path, one, other in matched(found, expected):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11, err_msg=path)


@elementwise(predictions=REAL, targets=REAL)
def _wrong(xp: Any, predictions: Any, targets: Any) -> tuple[Any, Any]:
    error = predictions - targets
    return error * error, 2.5 * error


def _wrong_loss(predictions: Any, targets: Any, **reduction: Any) -> Any:
    return _wrong.value(predictions, targets, **reduction)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_wrong_gradient_is_what_autodiff_gives_and_the_check_rejects(library: str) -> None:
    @gradient_of(_wrong_loss, terms=_wrong)
    def _wrong_loss_gradient(predictions: Any, targets: Any, **reduction: Any) -> Any:
        return _wrong.gradient(predictions, targets, **reduction)

    try:
        x, y = (convert(np.array([x, 1.0]), library, "float32") for x in (3.0, 1.0))
        if library == "torch":
            _wrong_loss(x.requires_grad_(), y).backward()
            found = x.grad
        else:
            found = jax.grad(_wrong_loss)(x, y)
        assert found.tolist() == [2.5, 0.0]
        with (
            double_precision(library),
            pytest.raises(GradientMismatchError, match=r"2\.5 by the gradient .*, but 2 by"),
        ):
            check_gradient("_wrong_loss", x, y, differences=False)
    finally:
        unregister("_wrong_loss")


@pytest.mark.parametrize("name", WRITTEN_ONCE)
@pytest.mark.optimized_xla
def test_a_compiled_gradient_holds_one_array_of_values(name: str) -> None:
    x = jax.ShapeDtypeStruct((1_000_000,), "float32")
    compiled = jax.jit(jax.value_and_grad(find_loss(name).value)).lower(x, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.1 * 4 * x.size


@pytest.mark.parametrize(("alpha", "has_power"), [(1.0, False), (0.5, True)])
def test_a_power_of_zero_is_compiled_away(alpha: float, has_power: bool) -> None:
    x = jax.ShapeDtypeStruct((1_000_000,), "float32")
    loss = functools.partial(ml.charbonnier_loss, alpha=alpha)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(x, x).compile().as_text()
    assert bool(re.search(r"(power|exponential)\(", compiled)) == has_power


class InTheGraph(unittest.TestCase):
    """How a loss behaves in PyTorch's graph, on small arrays and on those of the fused loops."""

    def setUp(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.small, self.large = (
            (torch.randn(n, 10, generator=generator), torch.randint(0, 10, (n,), generator=generator))
            for n in (32, 4000)
        )

    def problems(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for logits, labels in (self.small, self.large):
            with self.subTest(rows=len(labels)):
                yield logits.clone().requires_grad_(), labels

    def test_a_leaf_takes_the_gradient_over(self) -> None:
        for logits, labels in self.problems():
            loss = ml.cross_entropy_with_logits(logits, labels)
            made = []
            hook = logits.register_hook(lambda g, made=made: made.append(g.data_ptr()))
            loss.backward()
            hook.remove()
            self.assertEqual([logits.grad.data_ptr()], made)

    def test_the_gradient_is_the_only_memory(self) -> None:
        predictions, targets = torch.zeros(1_000_000, requires_grad=True), torch.ones(1_000_000)
        ml.huber_loss(predictions, targets).backward()  # compiles
        predictions.grad = None
        release_kept_memory()
        tracemalloc.start()
        ml.huber_loss(predictions, targets).backward()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(peak, 1.15 * predictions.nbytes)

    def test_gradients_accumulate(self) -> None:
        for logits, labels in self.problems():
            for part in (slice(0, 8), slice(8, None)):
                loss = ml.cross_entropy_with_logits(logits[part], labels[part], normalizer=len(labels))
                loss.backward()
            expected = ml.cross_entropy_with_logits_gradient(logits.detach(), labels)
            torch.testing.assert_close(logits.grad, expected)

    def test_another_pass_computes_the_gradient_again(self) -> None:
        for logits, labels in self.problems():
            loss = ml.cross_entropy_with_logits(logits, labels)
            loss.backward(retain_graph=True)
            once = logits.grad.clone()
            (3.0 * loss).backward()
            torch.testing.assert_close(logits.grad, 4.0 * once)
            with self.assertRaisesRegex(RuntimeError, "backward through the graph a second time"):
                loss.backward()

    def test_an_argument_that_changed_is_seen(self) -> None:
        for logits, labels in self.problems():
            hidden = logits * 1.0
            loss = ml.cross_entropy_with_logits(hidden, labels)
            hidden.mul_(2.0)
            with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
                loss.backward(create_graph=True)

    def test_no_graph_is_recorded_that_nobody_asked_for(self) -> None:
        for logits, labels in self.problems():
            with torch.no_grad():
                self.assertFalse(ml.cross_entropy_with_logits(logits, labels).requires_grad)
            with torch.inference_mode():
                self.assertFalse(ml.cross_entropy_with_logits(logits, labels).requires_grad)
            self.assertFalse(ml.cross_entropy_with_logits(logits.detach(), labels).requires_grad)

    def test_value_and_gradient_are_in_no_graph(self) -> None:
        for logits, labels in self.problems():
            plain = value_and_gradient(ml.cross_entropy_with_logits)(logits.detach(), labels)
            for mode in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
                with mode:
                    found = value_and_gradient(ml.cross_entropy_with_logits)(logits, labels)
                for one, other in zip(found, plain, strict=True):
                    self.assertFalse(one.requires_grad)
                    torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)

    def test_value_and_gradient_of_nestings_are_in_no_graph(self) -> None:
        logits, _ = self.small
        for loss, arguments in (
            (ml.l2_regularization, ({"a": logits.clone().requires_grad_()},)),
            (ml.feature_reconstruction_loss, ([logits.clone().requires_grad_()], [logits])),
        ):
            value, gradient = value_and_gradient(loss)(*arguments)
            for path, x in flat([value, gradient]):
                self.assertFalse(x.requires_grad, path)

    def test_a_loss_keeps_nothing_alive_after_its_backward_pass(self) -> None:
        for logits, labels in self.problems():
            hidden = logits * 1.0
            kept = weakref.ref(hidden)
            loss = ml.cross_entropy_with_logits(hidden, labels)
            value_and_gradient(ml.cross_entropy_with_logits)(hidden, labels)
            loss.backward()
            del hidden  # and not the loss, which users collect
            self.assertIsNone(kept())

    def test_half_precision_is_scaled_before_it_is_rounded(self) -> None:
        for dtype, tolerance in ((torch.float16, 5e-4), (torch.bfloat16, 4e-3)):
            with self.subTest(dtype=dtype):
                predictions = torch.full((40_000,), 0.5, dtype=dtype, requires_grad=True)
                scale = 2.0**15  # without it, the gradient of 1 / 40,000 has lost its last digits in float16
                loss = ml.mse_loss(predictions, torch.zeros(40_000, dtype=dtype))
                (loss.float() * scale).backward()
                self.assertEqual(predictions.grad.dtype, dtype)
                expected = torch.full((40_000,), scale / 40_000)
                torch.testing.assert_close(predictions.grad.float(), expected, rtol=tolerance, atol=0.0)

    def test_an_infinite_gradient_that_flows_in_leaves_masked_elements_alone(self) -> None:
        for logits, labels in self.problems():
            weights = torch.ones(len(labels))
            weights[1] = 0.0
            (ml.cross_entropy_with_logits(logits, labels, weights=weights) * torch.inf).backward()
            self.assertTrue((logits.grad[1] == 0.0).all())
            self.assertFalse(logits.grad[0].isfinite().any())

    def test_an_option_that_is_learned_keeps_its_derivative(self) -> None:
        for logits, _ in self.problems():
            keys = logits.detach()[:, :10].roll(1, 0)[: min(len(logits), 64)]
            queries = logits[: len(keys)]
            temperature = torch.tensor(0.5, requires_grad=True)
            ml.info_nce_loss(queries, keys, temperature=temperature).backward()
            step = 1e-3
            above, below = (ml.info_nce_loss(queries.detach(), keys, temperature=0.5 + h) for h in (step, -step))
            torch.testing.assert_close(temperature.grad, (above - below) / (2 * step), rtol=1e-2, atol=0.0)
            self.assertIsNotNone(logits.grad)

    def test_weights_that_are_learned_keep_their_derivative(self) -> None:
        for logits, labels in self.problems():
            weights = torch.ones(len(labels), requires_grad=True)
            ml.cross_entropy_with_logits(logits, labels, weights=weights, reduction="sum").backward()
            expected = ml.cross_entropy_with_logits(logits.detach(), labels, reduction="none")
            torch.testing.assert_close(weights.grad, expected)

    def test_gradients_on_request(self) -> None:
        """At a probability of 0, where a plain function has the derivative NaN."""
        p, q = (torch.rand(6, 5, dtype=torch.float64) for _ in range(2))
        p[0, 0] = q[0, 0] = 0.0
        p, q = (x / x.sum(-1, keepdim=True) for x in (p, q))
        for loss in (ml.kl_divergence, ml.reverse_kl_divergence, ml.js_divergence):
            with self.subTest(loss=loss.__name__):
                at = [x.clone().requires_grad_() for x in (p, q)]
                loss(*at).backward()
                expected = find_loss(loss).gradient(p, q, wrt=("predictions", "targets"))
                torch.testing.assert_close([x.grad for x in at], [*expected.values()])
                self.assertTrue(all(x.grad.isfinite().all() for x in at))

    def test_an_upstream_gradient_is_refused_as_it_is_elsewhere(self) -> None:
        for logits, labels in self.problems():
            for given in (logits, logits.detach()):
                with self.assertRaisesRegex(TypeError, "takes no upstream"):
                    ml.cross_entropy_with_logits(given, labels, upstream=2.0)

    def test_several_gradients_flow_in_at_once(self) -> None:
        for logits, labels in self.problems():
            for reduction in ("mean", "none"):
                loss = ml.cross_entropy_with_logits(logits, labels, reduction=reduction)
                flowing = torch.randn(3, *loss.shape)
                (found,) = torch.autograd.grad(loss, logits, flowing, is_grads_batched=True, retain_graph=True)
                one = functools.partial(torch.autograd.grad, loss, logits, retain_graph=True)
                expected = torch.stack([one(v)[0] for v in flowing])
                torch.testing.assert_close(found, expected)
                torch.testing.assert_close(torch.func.vmap(one)(flowing)[0], expected)

    def test_losses_that_are_not_reduced_compute_no_gradient_before_it_is_asked_for(self) -> None:
        predictions, targets = torch.zeros(1_000_000, requires_grad=True), torch.ones(1_000_000)
        release_kept_memory()
        tracemalloc.start()
        ml.huber_loss(predictions, targets, reduction="none")
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(kept, 0.1 * predictions.nbytes)

    def test_tensors_without_values(self) -> None:
        for mode in (torch.device("meta"), FakeTensorMode()):
            with mode:
                logits = torch.zeros(32, 10, requires_grad=True)
                loss = ml.mse_loss(logits * 1.0, torch.zeros(32, 10))
                loss.backward()
                self.assertEqual((loss.shape, logits.grad.shape), ((), (32, 10)))

    def test_recomputed_activations(self) -> None:
        for logits, labels in self.problems():
            for reentrant in (True, False):
                logits.grad = None
                loss = torch.utils.checkpoint.checkpoint(
                    lambda z, labels=labels: ml.cross_entropy_with_logits(2.0 * z, labels),
                    logits,
                    use_reentrant=reentrant,
                )
                loss.backward()
                expected = 2.0 * ml.cross_entropy_with_logits_gradient(2.0 * logits.detach(), labels)
                torch.testing.assert_close(logits.grad, expected)

    def test_autocast_gives_half_precision_its_own_gradient(self) -> None:
        for logits, labels in self.problems():
            weight = torch.eye(10, requires_grad=True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = torch.nn.functional.linear(logits, weight)
                loss = ml.cross_entropy_with_logits(hidden, labels)
            seen = []
            hidden.register_hook(lambda g, seen=seen: seen.append(g.dtype))
            loss.backward()
            self.assertEqual((hidden.dtype, loss.dtype, seen), (torch.bfloat16, torch.float32, [torch.bfloat16]))
            expected = ml.cross_entropy_with_logits_gradient(logits.detach(), labels)
            torch.testing.assert_close(logits.grad, expected, rtol=2e-2, atol=2e-2 / len(labels))

    def test_a_module_s_parameters_are_leaves(self) -> None:
        parameter = torch.nn.Parameter(torch.ones(40_000))
        ml.l2_regularization(parameter, lambda_reg=0.5).backward()
        torch.testing.assert_close(parameter.grad, torch.full((40_000,), 0.5))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by PyTorch's compiler itself
class Compiled(unittest.TestCase):
    @parameterized.expand([(case,) for (case,) in SOME if case.pair.name in QUICK], name_func=label)
    def test_torch_compile(self, case: Case) -> None:
        self.check(case)

    @parameterized.expand([(x,) for x in ONE_OF_EACH_TEMPLATE if x.pair.name not in QUICK], name_func=label)
    @pytest.mark.exhaustive  # what differs between the losses of a template is compiled by the laws
    def test_torch_compile_of_other_templates(self, case: Case) -> None:
        self.check(case)

    def check(self, case: Case) -> None:
        torch._dynamo.reset()
        loss, at = in_graph(case)
        compiled = torch.compile(lambda: loss(), fullgraph=True, backend="aot_eager")
        for one, (path, expected) in zip(
            torch.autograd.grad(compiled(), at), flat(case.gradient("torch")), strict=True
        ):
            torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-12, msg=path)

    @pytest.mark.filterwarnings("ignore:.*should not be instantiated")
    def test_torch_export(self) -> None:
        class Objective(torch.nn.Module):
            def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
                return ml.cross_entropy_with_logits(logits, labels)

        logits, labels = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.arange(6) % 5
        for strict in (False, True):
            program = torch.export.export(Objective(), (logits, labels), strict=strict).module()
            (found,) = torch.autograd.grad(program(logits, labels), logits)
            expected = ml.cross_entropy_with_logits_gradient(logits.detach(), labels)
            torch.testing.assert_close(found, expected)


class Transforms(unittest.TestCase):
    """`torch.func` and forward mode."""

    @parameterized.expand(SOME, name_func=label)
    def test_every_transform(self, case: Case) -> None:
        names = [name for name in case.arrays if name in case.pair.wrt]
        at = {name: x for name, x in zip(case.arrays, case.arguments("torch"), strict=True) if name in names}
        given, keywords = dict(zip(case.arrays, case.arguments("torch"), strict=True)), case.keywords("torch")

        def loss(at: dict[str, Any]) -> Any:
            named = given | at
            return case.pair.total_of(case.pair.value(*named.values(), **keywords))

        generator = np.random.default_rng(2)
        along = map_leaves(lambda _, x: torch.tensor(generator.standard_normal(tuple(x.shape))), at)
        several = map_leaves(lambda _, x: torch.stack([x, x.flip(0)]), at)
        first = names[0]

        def every() -> dict[str, Any]:
            return {
                "grad": torch.func.grad(loss)(at),
                "forward mode": torch.func.jvp(loss, (at,), (along,))[1],
                "forward over reverse": torch.func.jvp(torch.func.grad(loss), (at,), (along,))[1],
                "batch of gradients": torch.func.vmap(torch.func.grad(loss))(several),
                "gradient of a batch": torch.func.grad(lambda x: torch.func.vmap(loss)(x).sum())(several),
                "jacrev": torch.func.jacrev(lambda x: loss(at | {first: x}))(at[first]),
            }

        found = every()
        with plain_functions():
            expected = every()
        for path, one, other in matched(found, expected):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=path)

    def test_an_option_that_is_learned_in_a_batch(self) -> None:
        """A level of a transform below another one sees the derivative that a level above it will ask for."""
        keys = torch.randn(2, 6, 4, dtype=torch.float64)

        def total(temperature: torch.Tensor) -> torch.Tensor:
            each = torch.func.vmap(lambda k: ml.info_nce_loss(k, k.roll(1, 0), temperature=temperature))(keys)
            return each.sum()

        found = torch.func.grad(total)(torch.tensor(0.7, dtype=torch.float64))
        with plain_functions():
            expected = torch.func.grad(total)(torch.tensor(0.7, dtype=torch.float64))
        torch.testing.assert_close(found, expected)

    def test_the_slope_at_a_kink_is_ours_in_a_batch_too(self) -> None:
        scores, signs = torch.tensor([[1.0, 0.5], [2.0, 1.0]]), torch.ones(2)

        def total(scores: torch.Tensor) -> torch.Tensor:
            return torch.func.vmap(lambda row: ml.hinge_loss(row, signs, reduction="sum"))(scores).sum()

        self.assertEqual(torch.func.grad(total)(scores).tolist(), [[0.0, -1.0], [0.0, 0.0]])
        with plain_functions():
            self.assertNotEqual(torch.func.grad(total)(scores)[0, 0].item(), 0.0)  # what PyTorch itself would say

    def test_second_derivatives_are_derivatives(self) -> None:
        z = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([0, 1, 2, 3])
        for loss in (ml.cross_entropy_with_logits, ml.focal_loss_with_logits):
            targets = labels if loss is ml.cross_entropy_with_logits else (z.detach() > 0).double()
            self.assertTrue(torch.autograd.gradgradcheck(lambda z, loss=loss, t=targets: loss(z, t), (z,)))
            self.assertTrue(
                torch.autograd.gradcheck(lambda z, loss=loss, t=targets: loss(z, t), (z,), check_forward_ad=True)
            )
