"""Composed losses: against the same sums written out, by autodiff and by hand; and everything they refuse."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import convert, double_precision, flat, to_numpy
from modes import MODES, TRACED, evaluate

from mithril_losses import (
    CompositeLoss,
    ScheduledLoss,
    WeightedLoss,
    check_gradient,
    cross_entropy_with_logits,
    gradient_of,
    huber_loss,
    kl_divergence,
    l2_regularization,
    mae_loss,
    mae_loss_gradient,
    mse_loss,
    mse_loss_gradient,
    triplet_loss,
    unregister,
    value_and_gradient,
)
from mithril_losses.objectives import Objective, Regularizer, Term, linear_warmup

RNG = np.random.default_rng(11)
PREDICTIONS, TARGETS = RNG.standard_normal((2, 6, 5))
MEAN, LOGVAR = RNG.standard_normal((2, 6, 3))
PAIR = (PREDICTIONS, TARGETS)
ERROR = PREDICTIONS - TARGETS

RECONSTRUCTION = CompositeLoss(
    [
        WeightedLoss(mse_loss, weight=2.0, name="squared"),
        ScheduledLoss(mae_loss, linear_warmup(steps=10), name="absolute"),
        functools.partial(huber_loss, delta=0.5),
    ]
)
# the same at step 5, and its derivative
SQUARED, ABSOLUTE = np.mean(ERROR**2), np.mean(np.abs(ERROR))
HUBER = np.mean(np.where(np.abs(ERROR) <= 0.5, 0.5 * ERROR**2, 0.5 * (np.abs(ERROR) - 0.25)))
TOTAL = 2.0 * SQUARED + 0.5 * ABSOLUTE + HUBER
SLOPE = (4.0 * ERROR + 0.5 * np.sign(ERROR) + np.clip(ERROR, -0.5, 0.5)) / ERROR.size


def latent_loss(mean: Any, logvar: Any) -> Any:
    """½ Σ (μ² + e^ℓ − 1 − ℓ), on any library."""
    exp = {np.ndarray: np.exp, torch.Tensor: torch.exp}.get(type(mean), jnp.exp)
    return 0.5 * (mean * mean + exp(logvar) - 1.0 - logvar).sum()


def latent_loss_gradient(mean: Any, logvar: Any) -> dict[str, Any]:
    """μ, ½ (e^ℓ − 1)."""
    exp = {np.ndarray: np.exp, torch.Tensor: torch.exp}.get(type(mean), jnp.exp)
    return {"mean": mean, "logvar": 0.5 * (exp(logvar) - 1.0)}


@pytest.fixture
def elbo() -> Iterator[CompositeLoss]:
    """A reconstruction and a user's pair of two other arguments, whose gradient returns an argument itself."""
    gradient_of(latent_loss, wrt=("mean", "logvar"))(latent_loss_gradient)
    yield CompositeLoss([mse_loss, WeightedLoss(latent_loss, weight=4.0, name="kl")], return_components=True)
    unregister("latent_loss")


# --- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [*MODES, "torch.compile"])
def test_value_and_gradient_are_those_of_the_sum_written_out(mode: str) -> None:
    loss = CompositeLoss(RECONSTRUCTION.losses)  # one that no call has warmed up before it is traced

    def every(predictions: Any, targets: Any) -> list[Any]:
        arguments = (predictions, targets)
        return [
            loss(*arguments, step=5),
            loss.gradient(*arguments, step=5),
            *loss.value_and_gradient(*arguments, step=5),
        ]

    value, gradient, same_value, same_gradient = evaluate(mode, every, *PAIR)
    np.testing.assert_allclose([value, same_value], TOTAL, rtol=1e-14)
    np.testing.assert_allclose(gradient, SLOPE, rtol=1e-13, atol=1e-17)
    np.testing.assert_allclose(same_gradient, SLOPE, rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_gradients_pass_the_checker(library: str) -> None:
    predictions = PREDICTIONS.copy()
    predictions[0, 0] = TARGETS[0, 0]  # on the kink of one loss
    predictions[2, 3] = TARGETS[2, 3] + 0.5  # and of another, where its settled option puts it
    with double_precision(library):
        arguments = [convert(x, library) for x in (predictions, TARGETS)]
        check = check_gradient(RECONSTRUCTION, *arguments, step=3, reduction="sum")
    assert (check.compared, check.left_out) == (28, 2)


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_each_loss_gets_the_arguments_that_it_takes(elbo: CompositeLoss, library: str) -> None:
    with double_precision(library):
        arguments = [convert(x, library) for x in (*PAIR, MEAN, LOGVAR)]
        assert str(inspect.signature(elbo)).startswith("(predictions")
        (total, components), gradient = value_and_gradient(elbo)(*arguments, reduction="sum")
        kl = 0.5 * np.sum(MEAN**2 + np.exp(LOGVAR) - 1.0 - LOGVAR)
        np.testing.assert_allclose(to_numpy(total), np.sum(ERROR**2) + 4.0 * kl, rtol=1e-13)
        assert list(components) == ["mse_loss", "kl"]  # unweighted
        np.testing.assert_allclose(to_numpy(components["kl"]), kl, rtol=1e-13)
        assert set(gradient) == {"predictions", "mean", "logvar"}  # the targets are fixed
        np.testing.assert_allclose(to_numpy(gradient["predictions"]), 2.0 * ERROR, rtol=1e-13)
        np.testing.assert_allclose(to_numpy(gradient["mean"]), 4.0 * MEAN, rtol=1e-13)
        np.testing.assert_allclose(to_numpy(gradient["logvar"]), 2.0 * np.expm1(LOGVAR), rtol=1e-13)
        by_name = dict(zip(("predictions", "targets", "mean", "logvar"), arguments, strict=True))
        assert float(elbo(**by_name)[0]) == float(elbo(*arguments)[0])
        check_gradient(elbo, *arguments)


def test_gradients_wrt_one_argument_are_summed_and_those_of_nestings_too() -> None:
    params = {"layer": [RNG.standard_normal(3), RNG.standard_normal((2, 2))]}
    distances = CompositeLoss([triplet_loss, WeightedLoss(functools.partial(mse_loss, targets=MEAN), 0.5)])
    anchor, positive, negative = RNG.standard_normal((3, 6, 3))
    gradient = distances.gradient(anchor, positive, negative, predictions=anchor)
    assert list(gradient) == ["anchor", "positive", "negative", "predictions"]

    elastic = CompositeLoss(["l1_regularization", WeightedLoss(l2_regularization, 3.0)])
    gradient = elastic.gradient(params, lambda_reg=0.1)
    for (_, found), (_, w) in zip(flat(gradient), flat(params), strict=True):
        np.testing.assert_allclose(found, 0.1 * np.sign(w) + 0.3 * w, rtol=1e-14)


def test_compositions_nest() -> None:
    inner = CompositeLoss([WeightedLoss(mse_loss, 2.0, name="squared"), mae_loss], return_components=True)
    loss = CompositeLoss(
        [
            WeightedLoss(WeightedLoss(ScheduledLoss(mse_loss, lambda step: step), 3.0), 0.5, name="plain"),
            WeightedLoss(inner, weight=0.25, name="both"),
        ],
        return_components=True,
    )
    (total, components), gradient = value_and_gradient(loss)(*PAIR, step=4)
    both = 2.0 * SQUARED + ABSOLUTE
    np.testing.assert_allclose(total, 6.0 * SQUARED + 0.25 * both, rtol=1e-14)
    assert list(components) == ["plain", "both"]
    np.testing.assert_allclose([components["plain"], components["both"]], [SQUARED, both], rtol=1e-14)
    np.testing.assert_allclose(gradient, (13.0 * ERROR + 0.25 * np.sign(ERROR)) / ERROR.size, rtol=1e-12)
    check_gradient(loss, *PAIR, step=4)
    assert CompositeLoss([mse_loss, mae_loss]).name == "mse_loss + mae_loss"


def test_it_reads_like_explicit_arithmetic_and_equals_it() -> None:
    loss = CompositeLoss([mse_loss, WeightedLoss(mae_loss, weight=0.5)])
    assert loss(*PAIR) == mse_loss(*PAIR) + 0.5 * mae_loss(*PAIR)
    expected = mse_loss_gradient(*PAIR) + 0.5 * mae_loss_gradient(*PAIR)
    np.testing.assert_allclose(loss.gradient(*PAIR), expected, rtol=1e-14)


# --- keywords --------------------------------------------------------------------------------------------------------


def test_keywords_go_to_every_loss_that_takes_them() -> None:
    weights = RNG.uniform(0.5, 2.0, (6, 1))
    loss = CompositeLoss([mse_loss, WeightedLoss(huber_loss, 0.5)])
    absolute = np.abs(ERROR)
    value = loss(*PAIR, delta=0.25, weights=weights, reduction="sum", axis=1)
    unreduced = ERROR**2 + 0.5 * np.where(absolute <= 0.25, 0.5 * ERROR**2, 0.25 * (absolute - 0.125))
    np.testing.assert_allclose(value, np.sum(weights * unreduced, axis=1), rtol=1e-13)
    upstream = RNG.standard_normal(6)
    gradient = loss.gradient(*PAIR, delta=0.25, weights=weights, reduction="sum", axis=1, upstream=upstream)
    slope = (2.0 * ERROR + 0.5 * np.clip(ERROR, -0.25, 0.25)) * weights * upstream[:, None]
    np.testing.assert_allclose(gradient, slope, rtol=1e-13)
    check_gradient(loss, *PAIR, delta=0.25, weights=weights, reduction="none")


def test_an_option_that_is_not_given_keeps_the_default_of_each_loss() -> None:
    loss = CompositeLoss([functools.partial(huber_loss, delta=0.5), WeightedLoss(huber_loss, name="wide")])
    assert loss(*PAIR) == huber_loss(*PAIR, delta=0.5) + huber_loss(*PAIR)
    assert loss(*PAIR, delta=0.1) == 2.0 * huber_loss(*PAIR, delta=0.1)
    assert "each loss's own" in str(inspect.signature(loss))
    check_gradient(loss, *PAIR)


def test_gradients_on_request_need_every_loss_to_give_them() -> None:
    p, q = RNG.dirichlet(np.ones(4), (2, 6))
    loss = CompositeLoss([kl_divergence, WeightedLoss("reverse_kl_divergence", 0.5)])
    check_gradient(loss, p, q, wrt=("targets", "predictions"))
    gradient = loss.gradient(p, q, wrt="targets")
    np.testing.assert_allclose(gradient, (-p / q + 0.5 * (np.log(q / p) + 1.0)) / 6.0, rtol=1e-12)
    with pytest.raises(ValueError, match="wrt must be one of 'predictions', got 'targets'"):
        CompositeLoss([kl_divergence, mse_loss]).gradient(p, q, wrt="targets")


def test_what_one_loss_differentiates_is_no_fixed_target_of_another() -> None:
    def prior(targets: Any) -> Any:
        return np.sum(targets)

    gradient_of(prior)(lambda targets: np.ones_like(targets))
    try:
        with pytest.raises(ValueError, match="mse_loss has no gradient wrt targets, but another loss has"):
            CompositeLoss([mse_loss, prior])
        p, q = RNG.dirichlet(np.ones(4), (2, 6))
        loss = CompositeLoss([kl_divergence, prior])  # which gives it on request, and is asked
        np.testing.assert_allclose(loss.gradient(p, q)["targets"], 1.0 - p / q / 6.0, rtol=1e-13)
        check_gradient(loss, p, q)
    finally:
        unregister("prior")


# --- weights ---------------------------------------------------------------------------------------------------------


def test_a_weight_may_be_traced_and_differentiated() -> None:
    def loss(weight: Any) -> Any:
        return WeightedLoss(mse_loss, weight)(*PAIR)

    slope = jax.jit(jax.grad(lambda w: WeightedLoss(mse_loss, w)(jnp.asarray(PREDICTIONS), jnp.asarray(TARGETS))))
    np.testing.assert_allclose(slope(0.7), SQUARED, rtol=1e-6)
    assert loss(np.float32(0.5)) == loss(jnp.asarray(0.5)) == 0.5 * SQUARED  # of another library, but a number
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    learnt = WeightedLoss(mse_loss, weight)(*(torch.tensor(x) for x in PAIR))
    learnt.backward()
    np.testing.assert_allclose(weight.grad, SQUARED, rtol=1e-14)


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtypes_are_kept_whatever_the_weight_is(library: str, dtype: str) -> None:
    weight = {"numpy": np.float64(0.5), "jax": jnp.asarray(0.5), "torch": torch.tensor(0.5, dtype=torch.float64)}
    loss = CompositeLoss([mse_loss, WeightedLoss(mae_loss, weight[library])])
    predictions, targets = (convert(x, library, dtype) for x in PAIR)
    value, gradient = value_and_gradient(loss)(predictions, targets)
    assert value.dtype == gradient.dtype == predictions.dtype
    tolerance = {"float16": 2e-3, "float32": 1e-6}[dtype]
    np.testing.assert_allclose(to_numpy(value), SQUARED + 0.5 * ABSOLUTE, rtol=tolerance)


def test_another_step_compiles_nothing_in_jax() -> None:
    traces = []

    def counted(predictions: Any, targets: Any) -> Any:
        traces.append("value")
        return jnp.sum((predictions - targets) ** 2)

    def counted_gradient(predictions: Any, targets: Any, upstream: Any = 1.0) -> Any:
        return 2.0 * upstream * (predictions - targets)

    gradient_of(counted)(counted_gradient)
    try:
        both = value_and_gradient(ScheduledLoss(counted, linear_warmup(10)))
        gradients = [both(jnp.ones(3), jnp.zeros(3), step=step)[1] for step in range(4)]
    finally:
        unregister("counted")
    np.testing.assert_allclose(np.stack(gradients), 0.2 * np.arange(4)[:, None] * np.ones(3), rtol=1e-6)
    assert len(traces) == 1


def test_a_schedule_takes_a_traced_step() -> None:
    loss = ScheduledLoss(mse_loss, lambda step: jnp.minimum(1.0, step / 10))
    gradient = jax.jit(lambda p, t, step: loss.gradient(p, t, step=step))(PREDICTIONS, TARGETS, 5)
    np.testing.assert_allclose(gradient, ERROR / ERROR.size, rtol=1e-5)
    for weight in (None, "0.5", True, np.ones(2)):
        scheduled = ScheduledLoss(mse_loss, lambda step, weight=weight: weight)
        for function in (scheduled, scheduled.gradient, value_and_gradient(scheduled)):
            with pytest.raises(TypeError, match=r"^mse_loss: the schedule must give one number, got"):
                function(*PAIR, step=3)
    with pytest.raises(ValueError, match=r"^mse_loss: the schedule gives the weight nan at step 3"):
        ScheduledLoss(mse_loss, lambda step: float("nan"))(*PAIR, step=3)


def test_batches_are_mapped_over() -> None:
    loss = CompositeLoss([mse_loss, WeightedLoss(mae_loss, 0.5)], return_components=True)
    totals, components = jax.vmap(loss)(PREDICTIONS, TARGETS)
    np.testing.assert_allclose(totals, np.mean(ERROR**2 + 0.5 * np.abs(ERROR), axis=1), rtol=1e-5)
    assert components["mae_loss"].shape == (6,)


# --- a user's own pairs ----------------------------------------------------------------------------------------------


def test_gradients_are_new_even_where_a_users_gradient_is_an_argument(elbo: CompositeLoss) -> None:
    loss = CompositeLoss([latent_loss, mse_loss])  # unweighted, so that nothing is multiplied
    mean = MEAN.copy()
    for gradient in (loss.gradient(mean, LOGVAR, *PAIR), loss.value_and_gradient(mean, LOGVAR, *PAIR)[1]):
        for _, x in flat(gradient):
            assert not any(np.shares_memory(x, argument) for argument in (mean, LOGVAR, *PAIR))
            x += 1.0
    np.testing.assert_array_equal(mean, MEAN)
    single = loss.gradient(mean.astype(np.float32), LOGVAR, *PAIR)["mean"]
    assert single.dtype == np.float32


def test_each_loss_is_evaluated_once() -> None:
    calls = []

    class Own:
        """A loss that carries its gradient, and takes no reduction."""

        name = "own"

        def __call__(self, predictions: Any) -> Any:
            calls.append("value")
            return np.sum(predictions**2)

        def gradient(self, predictions: Any) -> Any:
            calls.append("gradient")
            return 2.0 * predictions

    loss = CompositeLoss([WeightedLoss(Own(), 3.0), mse_loss])
    value, gradient = value_and_gradient(loss)(*PAIR, reduction="sum")
    assert calls == ["value", "gradient"]
    np.testing.assert_allclose(value, 3.0 * np.sum(PREDICTIONS**2) + np.sum(ERROR**2), rtol=1e-14)
    np.testing.assert_allclose(gradient, 6.0 * PREDICTIONS + 2.0 * ERROR, rtol=1e-13)
    np.testing.assert_allclose(WeightedLoss(Own(), 3.0).gradient(PREDICTIONS, upstream=0.5), 3.0 * PREDICTIONS)
    with pytest.raises(TypeError, match="own takes no upstream, so it can be scaled by a number only"):
        WeightedLoss(Own()).gradient(PREDICTIONS, upstream=np.ones(6))


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (lambda mean, logvar: {"mean": mean}, "must be a dict of mean, logvar"),
        (lambda mean, logvar: {"mean": mean[:2], "logvar": logvar}, "wrt mean has the shapes"),
    ],
)
def test_a_users_gradient_that_does_not_fit_is_refused(gradient: Any, message: str) -> None:
    def own(mean: Any, logvar: Any) -> Any:
        return np.sum(mean + logvar)

    gradient_of(own, wrt=("mean", "logvar"))(gradient)
    try:
        with pytest.raises(ValueError, match=message):
            CompositeLoss([own, mse_loss]).gradient(MEAN, LOGVAR, *PAIR)
    finally:
        unregister("own")


# --- in torch's graph, on threads, in objectives ---------------------------------------------------------------------


def test_values_stay_in_torchs_graph() -> None:
    predictions = torch.tensor(PREDICTIONS, requires_grad=True)
    total = RECONSTRUCTION(predictions, torch.tensor(TARGETS), step=5)
    total.backward()
    np.testing.assert_allclose(predictions.grad, SLOPE, rtol=1e-12)
    RECONSTRUCTION.gradient(predictions, torch.tensor(TARGETS), step=5).sum().backward()  # and gradients as well


def test_execution_options_reach_the_losses() -> None:
    large = RNG.standard_normal((2, 1 << 16))
    expected = RECONSTRUCTION.gradient(*large, step=5)
    value, gradient = value_and_gradient(RECONSTRUCTION, threads=2, compile=False)(*large, step=5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)
    np.testing.assert_allclose(value, RECONSTRUCTION(*large, step=5), rtol=1e-12)
    with pytest.raises(ValueError, match="threads"):
        value_and_gradient(RECONSTRUCTION, threads=0)(*large, step=5)
    predictions, targets = jnp.asarray(large[0]), jnp.asarray(large[1])
    value_and_gradient(RECONSTRUCTION, donate=True)(predictions, targets, step=5)
    assert not predictions.is_deleted()  # the second loss needs what the first one has used


def test_a_partial_of_a_loss_is_a_loss() -> None:
    narrow = functools.partial(huber_loss, delta=0.5)
    value, gradient = value_and_gradient(narrow)(*PAIR)
    np.testing.assert_allclose(value, HUBER, rtol=1e-14)
    np.testing.assert_allclose(gradient, np.clip(ERROR, -0.5, 0.5) / ERROR.size, rtol=1e-14)
    check_gradient(narrow, *PAIR)
    assert Term("size", narrow, "size", "size").pair.options == ("delta",)


def test_terms_and_regularizers_take_composed_losses_and_hand_them_the_step(elbo: CompositeLoss) -> None:
    objective = Objective(
        [
            Term("image", RECONSTRUCTION, outputs="image", targets="image", weight=0.5),
            Term("elbo", elbo, {"predictions": "image", "mean": "mean", "logvar": "logvar"}, {"targets": "image"}),
        ],
        [Regularizer(ScheduledLoss(l2_regularization, linear_warmup(10), name="decay"), options={"lambda_reg": 1.0})],
    )
    outputs, data = {"image": PREDICTIONS, "mean": MEAN, "logvar": LOGVAR}, {"image": TARGETS}
    result = objective.evaluate(outputs, data, {"w": MEAN}, step=5)
    kl = 0.5 * np.sum(MEAN**2 + np.exp(LOGVAR) - 1.0 - LOGVAR)
    expected = {"image": TOTAL, "elbo": SQUARED + 4.0 * kl, "decay": 0.25 * np.sum(MEAN**2)}
    assert {name: pytest.approx(float(x), rel=1e-13) for name, x in result.components.items()} == expected
    assert objective.evaluate(outputs, data, {"w": MEAN}, step=5, gradients=False).components == result.components
    np.testing.assert_allclose(result.output_gradients["image"], 0.5 * SLOPE + 2.0 * ERROR / ERROR.size, rtol=1e-12)
    np.testing.assert_allclose(result.output_gradients["mean"], 4.0 * MEAN, rtol=1e-13)
    np.testing.assert_allclose(result.parameter_gradients["w"], 0.5 * MEAN, rtol=1e-13)


def test_a_term_of_several_losses_in_toml() -> None:
    objective = Objective.from_toml("""
        [[terms]]
        name = "image"
        output = "image"
        target = "image"
        losses = [
            { loss = "mse_loss", weight = 2.0, name = "squared" },
            { loss = "mae_loss", schedule = { kind = "linear_warmup", steps = 10 } },
            { loss = "huber_loss", options = { delta = 0.5 } },
        ]

        [[regularizers]]
        name = "elastic"
        losses = [{ loss = "l1_regularization", weight = 0.5 }, { loss = "l2_regularization" }]
        options = { lambda_reg = 1.0 }
    """)
    result = objective.evaluate({"image": PREDICTIONS}, {"image": TARGETS}, {"w": MEAN}, step=5)
    np.testing.assert_allclose(result.components["image"], TOTAL, rtol=1e-14)
    np.testing.assert_allclose(result.output_gradients["image"], SLOPE, rtol=1e-12)
    np.testing.assert_allclose(result.parameter_gradients["w"], 0.5 * np.sign(MEAN) + MEAN, rtol=1e-13)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", r"^terms\[0\]\.loss: give the name of a loss, or several losses to add up$"),
        ('loss = "mse_loss"\nlosses = [{loss = "mae_loss"}]', r"^terms\[0\]\.losses: give either loss or losses"),
        ('losses = [{loss = "mse_los"}]', r"^terms\[0\]\.losses\[0\]\.loss: unknown loss 'mse_los'"),
        ('losses = [{loss = "mse_loss"}, {loss = "mse_loss"}]', r"^terms\[0\]\.losses: .* 'mse_loss' is taken twice"),
        ('losses = [{loss = "huber_loss", options = {delta = -1}}]', r"\.losses\[0\]\.options\.delta: delta must be"),
        ('losses = [{loss = "mse_loss", wieght = 2}]', r"\.losses\[0\]\.wieght: unknown key; did you mean 'weight'"),
    ],
)
def test_a_bad_sum_in_toml_is_refused_with_its_key(lines: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective.from_toml(f'[[terms]]\nname = "a"\noutput = "x"\ntarget = "y"\n{lines}')


# --- what is refused -------------------------------------------------------------------------------------------------


def _positional(*arguments: Any) -> Any:
    return sum(arguments)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CompositeLoss([]), ValueError, "at least one loss"),
        (lambda: CompositeLoss([mse_loss, mse_loss]), ValueError, "'mse_loss' is taken twice"),
        (lambda: CompositeLoss("mse_loss"), TypeError, "losses must be a list of losses, got 'mse_loss'"),
        (lambda: CompositeLoss(mse_loss), TypeError, "losses must be a list of losses, got <function mse_loss"),
        (lambda: CompositeLoss([abs]), ValueError, "'abs' has no registered gradient"),
        (lambda: CompositeLoss(["mse_los"]), ValueError, "did you mean 'mse_loss'"),
        (lambda: WeightedLoss(mse_loss, float("inf")), ValueError, "weight must be a finite number, got inf"),
        (lambda: WeightedLoss(mse_loss, linear_warmup(3)), ValueError, "weight must be a finite number"),
        (lambda: WeightedLoss(mse_loss, np.ones(2)), ValueError, r"one number, got an array of shape \(2,\)"),
        (lambda: ScheduledLoss(mse_loss, 0.5), TypeError, "schedule_fn must be a function of the step, got 0.5"),
    ],
)
def test_what_cannot_be_composed_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_loss_of_nameless_arguments_is_refused() -> None:
    gradient_of(_positional)(_positional)
    try:
        with pytest.raises(TypeError, match=r"_positional takes \*arguments"):
            WeightedLoss(_positional)
    finally:
        unregister("_positional")


LOSS = CompositeLoss([mse_loss, ScheduledLoss(huber_loss, linear_warmup(10))])


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        (PAIR, {}, TypeError, "needs step"),
        (PAIR[:1], {"step": 1}, TypeError, "needs targets"),
        ((*PAIR, 1.0), {"step": 1}, TypeError, "takes predictions, targets by position, got 3"),
        (PAIR, {"step": 1, "targets": TARGETS}, TypeError, "got 'targets' twice"),
        (PAIR, {"step": 1, "detla": 1.0}, TypeError, "takes no argument 'detla'; did you mean 'delta'"),
        (PAIR, {"step": 1, "delta": -1.0}, ValueError, "delta must be"),
        ((PREDICTIONS, TARGETS[:, :1]), {"step": 1}, ValueError, "must have the same shape"),
        (PAIR, {"step": 1, "reduction": "average"}, ValueError, "reduction must be one of"),
    ],
)
def test_value_and_gradient_refuse_the_same(
    arguments: Any, keywords: Any, error: type[Exception], message: str
) -> None:
    for function in (LOSS, LOSS.gradient, LOSS.value_and_gradient):
        with pytest.raises(error, match=message):
            function(*arguments, **keywords)


def test_unreduced_losses_of_different_shapes_do_not_add_up() -> None:
    p, q = RNG.dirichlet(np.ones(4), (2, 6))
    loss = CompositeLoss([mse_loss, kl_divergence])
    np.testing.assert_allclose(loss(p, q, reduction="sum"), np.sum((p - q) ** 2 + p * np.log(p / q)), rtol=1e-13)
    with pytest.raises(ValueError, match=r"must have one shape, got {'mse_loss': \(6, 4\), 'kl_divergence': \(6,\)}"):
        loss(p, q, reduction="none")


def test_an_illegal_label_in_a_trace_is_nan() -> None:
    loss = WeightedLoss(cross_entropy_with_logits, 0.5)
    for mode in TRACED:
        value = evaluate(mode, lambda x, y: loss(x, y, reduction="none"), PREDICTIONS, np.array([0, 1, 9, 3, 4, 0]))
        assert np.isnan(value).tolist() == [False, False, True, False, False, False]


def test_infinite_losses_are_values_and_no_accidents() -> None:
    infinite = np.array([np.inf]), np.array([0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(CompositeLoss([WeightedLoss(mse_loss, weight=0.0), mae_loss])(*infinite))
