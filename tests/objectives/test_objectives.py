"""Objectives: their gradients against autodiff of the same total written by hand, and everything they refuse."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parameterized import parameterized

from mithril_losses import gradient_of, mse_loss, unregister
from mithril_losses.numerics.trees import leaves
from mithril_losses.objectives import (
    CompositeLoss,
    Objective,
    Regularizer,
    Term,
    constant,
    cosine,
    cyclical,
    cyclical_kl_weight,
    exponential_warmup,
    get_kl_weight,
    linear_warmup,
)

jax.config.update("jax_enable_x64", True)

RNG = np.random.default_rng(3)
OUTPUTS = {"digit": RNG.standard_normal((5, 3)), "size": RNG.standard_normal((5, 1)), "unused": np.ones(2)}
DATA = {"digit": np.array([0, 2, 1, 1, 0]), "size": 3.0 * RNG.standard_normal((5, 1))}
PARAMS = {"hidden.weight": RNG.standard_normal((3, 2)), "hidden.bias": RNG.standard_normal(2)}


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def in_jax(arrays):
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def in_torch(arrays):
    return {name: torch.tensor(array) for name, array in arrays.items()}


LIBRARIES = [("numpy", copies), ("jax", in_jax), ("torch", in_torch)]

# cross-entropy + ¼ · Huber at step 5, with an L2 and an L1 penalty
OBJECTIVE = Objective(
    [
        Term("digit", "cross_entropy_with_logits", outputs="digit", targets="digit"),
        Term("size", "huber_loss", "size", "size", weight=linear_warmup(10, maximum=0.5), options={"delta": 2.0}),
    ],
    [
        Regularizer("l2_regularization", parameters=["*.weight"], weight=0.1, options={"lambda_reg": 1.0}),
        Regularizer("l1_regularization", options={"lambda_reg": 0.3}),
    ],
)


def total_in_jax(outputs, params):
    digit = -jnp.mean(jax.nn.log_softmax(outputs["digit"])[jnp.arange(5), DATA["digit"]])
    error = jnp.abs(outputs["size"] - DATA["size"])
    size = jnp.mean(jnp.where(error <= 2.0, 0.5 * error**2, 2.0 * (error - 1.0)))
    l2 = 0.5 * jnp.sum(params["hidden.weight"] ** 2)
    l1 = 0.3 * sum(jnp.sum(jnp.abs(param)) for param in params.values())
    return digit + 0.25 * size + 0.1 * l2 + l1


def total_in_torch(outputs, params):
    digit = torch.nn.functional.cross_entropy(outputs["digit"], torch.tensor(DATA["digit"]))
    size = torch.nn.functional.huber_loss(outputs["size"], torch.tensor(DATA["size"]), delta=2.0)
    l2 = 0.5 * params["hidden.weight"].square().sum()
    return digit + 0.25 * size + 0.1 * l2 + 0.3 * sum(param.abs().sum() for param in params.values())


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), rtol=1e-12, atol=1e-14)


def gradients_in_torch(total, *arrays):
    """Torch's gradients of `total` wrt the arrays of several dicts, of those that it depends on."""
    leaves = [{name: torch.tensor(x, requires_grad=True) for name, x in group.items()} for group in arrays]
    total(*leaves).backward()
    return [{name: leaf.grad for name, leaf in group.items() if leaf.grad is not None} for group in leaves]


@parameterized.expand(LIBRARIES)
def test_gradients_are_those_of_autodiff_of_the_total(name, convert):
    result = OBJECTIVE.evaluate(convert(OUTPUTS), convert(DATA), convert(PARAMS), step=5)
    touched = {name: OUTPUTS[name] for name in ("digit", "size")}
    loss, (by_output, by_parameter) = jax.value_and_grad(total_in_jax, argnums=(0, 1))(in_jax(touched), in_jax(PARAMS))
    np.testing.assert_allclose(float(result.loss), float(loss), rtol=1e-13)
    assert_close(result.output_gradients, by_output)
    assert_close(result.parameter_gradients, by_parameter)
    by_output, by_parameter = gradients_in_torch(total_in_torch, touched, PARAMS)
    assert_close(result.output_gradients, by_output)
    assert_close(result.parameter_gradients, by_parameter)


@parameterized.expand(LIBRARIES)
def test_components_are_unweighted_and_add_up_to_the_loss(name, convert):
    result = OBJECTIVE.evaluate(convert(OUTPUTS), convert(DATA), convert(PARAMS), step=5)
    assert list(result.components) == ["digit", "size", "l2_regularization", "l1_regularization"]
    weights = np.array([1.0, 0.25, 0.1, 1.0])
    values = np.array([float(value) for value in result.components.values()])
    np.testing.assert_allclose(float(result.loss), weights @ values, rtol=1e-14)
    np.testing.assert_allclose(values[2], 0.5 * np.linalg.norm(PARAMS["hidden.weight"]) ** 2, rtol=1e-13)


@parameterized.expand(LIBRARIES)
def test_the_value_alone_is_the_same_value(name, convert):
    arguments = convert(OUTPUTS), convert(DATA), convert(PARAMS), 5
    value = OBJECTIVE.evaluate(*arguments, gradients=False)
    full = OBJECTIVE.evaluate(*arguments)
    np.testing.assert_allclose(float(value.loss), float(full.loss), rtol=1e-14)
    assert_close(value.components, full.components)
    assert value.output_gradients == {}
    assert value.parameter_gradients == {}


def test_an_objective_runs_inside_jit_with_a_constant_step():
    run = jax.jit(lambda outputs, data, params: OBJECTIVE.evaluate(outputs, data, params, step=5))
    found = run(in_jax(OUTPUTS), in_jax(DATA), in_jax(PARAMS))
    expected = OBJECTIVE.evaluate(in_jax(OUTPUTS), in_jax(DATA), in_jax(PARAMS), step=5)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-14)
    for part in ("components", "output_gradients", "parameter_gradients"):
        assert_close(getattr(found, part), getattr(expected, part))


def test_a_schedule_written_with_jax_takes_a_traced_step():
    objective = Objective([Term("size", mse_loss, "size", "size", weight=lambda step: jnp.minimum(1.0, step / 10))])
    run = jax.jit(lambda outputs, data, step: objective.evaluate(outputs, data, step=step))
    result = run(in_jax(OUTPUTS), in_jax(DATA), 5)
    expected = (OUTPUTS["size"] - DATA["size"]) / 5  # 2e/n at weight ½
    np.testing.assert_allclose(result.output_gradients["size"], expected, rtol=1e-12)


def test_results_are_in_no_graph_of_torch(own_pair):
    outputs, params = ({name: x.requires_grad_() for name, x in in_torch(xs).items()} for xs in (OUTPUTS, PARAMS))
    own = Term("own", own_pair(half_square, lambda x: x), "size")
    objective = Objective([*OBJECTIVE.terms, own], OBJECTIVE.regularizers)
    result = objective.evaluate(outputs, in_torch(DATA), params, step=5)
    constant = objective.evaluate(in_torch(OUTPUTS), in_torch(DATA), in_torch(PARAMS), step=5)
    for (path, found), (_, expected) in zip(leaves(tuple(result)), leaves(tuple(constant)), strict=True):
        assert not found.requires_grad, path
        torch.testing.assert_close(found, expected)


def test_a_learnt_weight_gets_its_gradient_from_the_loss_alone():
    weight = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    result = Objective([size_term(weight=lambda step: weight)]).evaluate(in_torch(OUTPUTS), in_torch(DATA))
    assert not result.output_gradients["size"].requires_grad
    result.loss.backward()
    torch.testing.assert_close(weight.grad, result.components["size"])


def test_the_gradients_are_linear_in_the_weights():
    def result(digit, size):
        terms = [
            Term("digit", "cross_entropy_with_logits", "digit", "digit", weight=digit),
            Term("size", "mse_loss", "size", "size", weight=size),
        ]
        return Objective(terms).evaluate(OUTPUTS, DATA)

    one, other, both = result(2.0, 0.0), result(0.0, -3.0), result(2.0, -3.0)
    np.testing.assert_allclose(both.loss, one.loss + other.loss, rtol=1e-14)
    for name in ("digit", "size"):
        total = one.output_gradients[name] + other.output_gradients[name]
        np.testing.assert_allclose(both.output_gradients[name], total, rtol=1e-14)
    assert not one.output_gradients["size"].any()  # a term of weight 0 still reports its output


@parameterized.expand(LIBRARIES)
def test_several_terms_on_one_output_add_up(name, convert):
    objective = Objective(
        [
            Term("squared", "mse_loss", "size", "size", weight=2.0),
            Term("absolute", "mae_loss", "size", "size", weight=0.5),
        ]
    )
    found = objective.evaluate(convert(OUTPUTS), convert(DATA)).output_gradients
    error = OUTPUTS["size"] - DATA["size"]
    assert_close(found, {"size": (4.0 * error + 0.5 * np.sign(error)) / 5})


@parameterized.expand(LIBRARIES)
def test_arguments_that_share_an_output_add_up(name, convert):
    wiring = {"anchor": "a", "positive": "a", "negative": "n"}
    objective = Objective([Term("triplet", "triplet_loss", wiring, weight=3.0, options={"margin": 9.0})])
    outputs = {"a": RNG.standard_normal((4, 2)), "n": RNG.standard_normal((4, 2))}
    found = objective.evaluate(convert(outputs), {}).output_gradients

    def total(leaves):
        return 3.0 * (9.0 - torch.linalg.vector_norm(leaves["a"] - leaves["n"], dim=-1)).mean()

    (expected,) = gradients_in_torch(total, outputs)
    assert_close(found, expected)


@parameterized.expand(LIBRARIES)
def test_several_arguments_take_several_outputs_and_a_target(name, convert):
    wiring = {"embedding1": "left", "embedding2": "right"}
    objective = Objective([Term("pairs", "contrastive_loss", wiring, targets="same", options={"margin": 5.0})])
    outputs = {"left": RNG.standard_normal((4, 2)), "right": RNG.standard_normal((4, 2))}
    data = {"same": np.array([1.0, 0.0, 0.0, 1.0])}
    found = objective.evaluate(convert(outputs), convert(data)).output_gradients

    def total(leaves):
        distance = torch.linalg.vector_norm(leaves["left"] - leaves["right"], dim=-1)
        same = torch.tensor(data["same"])
        return (same * distance**2 + (1 - same) * torch.clamp(5.0 - distance, min=0) ** 2).mean()

    (expected,) = gradients_in_torch(total, outputs)
    assert_close(found, expected)


CHAMFER = {"pred_points": "left", "target_points": "right"}


@parameterized.expand(LIBRARIES)
def test_outputs_may_feed_what_is_differentiated_on_request(name, convert):
    outputs = {"left": RNG.standard_normal((2, 4, 3)), "right": RNG.standard_normal((2, 5, 3))}
    objective = Objective([Term("apart", "chamfer_distance", CHAMFER, weight=2.0)])
    result = objective.evaluate(convert(outputs), {})

    def total(leaves):
        squares = torch.cdist(leaves["left"], leaves["right"]).square()
        return 2.0 * (squares.amin(2).mean() + squares.amin(1).mean())

    (expected,) = gradients_in_torch(total, outputs)
    assert_close(result.output_gradients, expected)
    composed = Objective([Term("apart", CompositeLoss(["chamfer_distance"]), CHAMFER, weight=2.0)])
    assert_close(composed.evaluate(convert(outputs), {}).output_gradients, expected)


def test_weights_of_single_examples_come_from_the_data():
    objective = Objective([Term("size", "mse_loss", "size", targets={"targets": "size", "weights": "keep"})])
    keep = np.array([[1.0], [0.0], [1.0], [0.0], [0.0]])
    result = objective.evaluate(OUTPUTS, {**DATA, "keep": keep})
    assert_close(result.output_gradients, {"size": keep * 2.0 * (OUTPUTS["size"] - DATA["size"]) / 5})


# --- the contract of the gradients --------------------------------------------------------------------------------


@parameterized.expand([(str(dtype.__name__), dtype) for dtype in (np.float32, np.float64, np.float16)])
def test_gradients_have_the_outputs_shape_and_dtype(name, dtype):
    outputs = {name: x.astype(dtype) for name, x in OUTPUTS.items()}
    for convert in (copies, in_jax, in_torch):
        given = convert(outputs)
        gradients = OBJECTIVE.evaluate(given, convert(DATA), convert(PARAMS)).output_gradients
        for output, gradient in gradients.items():
            assert type(gradient) is type(given[output])
            assert gradient.shape == given[output].shape
            assert gradient.dtype == given[output].dtype


def test_gradients_share_memory_with_nothing_and_nothing_is_written_to():
    outputs, data, params = copies(OUTPUTS), copies(DATA), copies(PARAMS)
    for array in (*outputs.values(), *data.values(), *params.values()):
        array.flags.writeable = False
    first = OBJECTIVE.evaluate(outputs, data, params, step=5)
    results = [*first.output_gradients.values(), *first.parameter_gradients.values()]
    for i, gradient in enumerate(results):
        others = [*results[:i], *outputs.values(), *data.values(), *params.values()]
        assert not any(np.shares_memory(gradient, other) for other in others)
        gradient += 100.0
    second = OBJECTIVE.evaluate(outputs, data, params, step=5)
    for name, gradient in second.output_gradients.items():
        np.testing.assert_allclose(first.output_gradients[name], gradient + 100.0, rtol=1e-12)


class MithrilLikeModel:
    """A NumPy model as Mithril compiles one: it adds into the gradients it is handed, and drops unknown keys."""

    def evaluate(self, params, data, *, output_gradients=None):
        outputs = {"digit": data["x"] @ params["digit"], "size": data["x"] @ params["size"]}
        if output_gradients is None:
            return outputs
        gradients = {name: np.zeros_like(output) for name, output in outputs.items()}
        for name in gradients:
            if name in output_gradients:
                output_gradients[name] += gradients[name]  # the caller's own array becomes the accumulator
                gradients[name] = output_gradients[name]
                gradients[name] += 1e-3  # and is used up by what comes after
        found = {name: data["x"].T @ gradients[name] for name in gradients}
        return outputs, found


def test_a_model_that_writes_into_its_output_gradients_gives_the_same_twice():
    model = MithrilLikeModel()
    params = {"digit": RNG.standard_normal((4, 3)), "size": RNG.standard_normal((4, 1))}
    data = {**DATA, "x": RNG.standard_normal((5, 4))}
    objective = Objective(
        [
            Term("digit", "cross_entropy_with_logits", "digit", "digit"),
            Term("size", "mse_loss", "size", "size"),
            Term("size again", "mae_loss", "size", "size"),
        ]
    )
    outputs = model.evaluate(params, data)
    before = copies(outputs)
    seen = []
    for _ in range(2):
        result = objective.evaluate(outputs, data)
        _, gradients = model.evaluate(params, data, output_gradients=result.output_gradients)
        seen.append((float(result.loss), gradients))
    assert seen[0][0] == seen[1][0]
    for name in params:
        np.testing.assert_array_equal(seen[0][1][name], seen[1][1][name])
        np.testing.assert_array_equal(outputs[name], before[name])


# --- a user's own pair --------------------------------------------------------------------------------------------


@pytest.fixture
def own_pair():
    """Record gradients for a test, and take their losses out of the catalogue again."""
    recorded = []

    def record(loss, gradient, **facts):
        gradient_of(loss, **facts)(gradient)
        recorded.append(loss.__name__)
        return loss

    yield record
    for name in recorded:
        unregister(name)


def half_square(x):
    return 0.5 * (x * x).sum()


def sum_of_two(a, b):
    return (a + b).sum()


def test_a_users_pair_without_upstream_is_weighted(own_pair):
    loss = own_pair(half_square, lambda x: x)
    for _, convert in LIBRARIES:
        found = Objective([Term("penalty", loss, "size", weight=4.0)]).evaluate(convert(OUTPUTS), {})
        assert_close(found.output_gradients, {"size": 4.0 * OUTPUTS["size"]})
        np.testing.assert_allclose(float(found.loss), 2.0 * np.sum(OUTPUTS["size"] ** 2), rtol=1e-14)


def test_a_users_gradient_takes_the_weight_as_upstream_and_is_copied_in_the_outputs_dtype(own_pair):
    upstreams = []

    def gradient(x, upstream=1.0):
        upstreams.append(upstream)
        return x if upstream == 1.0 else upstream * x.astype(np.float64)

    loss = own_pair(half_square, gradient)
    outputs = {"x": np.array([1.0, 2.0], dtype=np.float32)}
    alias = Objective([Term("penalty", loss, "x")]).evaluate(outputs, {}).output_gradients["x"]
    assert not np.shares_memory(alias, outputs["x"])
    double = Objective([Term("penalty", loss, "x", weight=3.0)]).evaluate(outputs, {}).output_gradients["x"]
    assert double.dtype == np.float32
    np.testing.assert_array_equal(double, [3.0, 6.0])
    assert upstreams == [1.0, 3.0]


def test_one_array_under_two_names_is_copied_apart(own_pair):
    def gradient(a, b, upstream=1.0):
        both = np.full_like(a, upstream)
        return {"a": both, "b": both}

    loss = own_pair(sum_of_two, gradient, wrt=("a", "b"))
    result = Objective([Term("sum", loss, {"a": "left", "b": "right"})]).evaluate(
        {"left": np.ones(3), "right": np.ones(3)}, {}
    )
    assert not np.shares_memory(result.output_gradients["left"], result.output_gradients["right"])


@parameterized.expand(
    [
        (
            "shape",
            lambda x: x[:1],
            ValueError,
            r"term 'penalty': .*'x' must have the output's shape \(2,\), got \(1,\)",
        ),
        (
            "library",
            lambda x: torch.ones(2),
            TypeError,
            "term 'penalty': .*'x' must be a numpy array, got a torch array",
        ),
        ("type", lambda x: 1.0, TypeError, "term 'penalty': .*'x' must be a numpy array, got float"),
    ]
)
def test_a_users_gradient_that_does_not_fit_is_refused(name, gradient, error, message):
    gradient_of(half_square)(gradient)
    try:
        with pytest.raises(error, match=message):
            Objective([Term("penalty", half_square, "x")]).evaluate({"x": np.ones(2)}, {})
    finally:
        unregister("half_square")


def test_a_users_gradient_that_forgets_an_argument_is_refused(own_pair):
    loss = own_pair(sum_of_two, lambda a, b: {"a": a}, wrt=("a", "b"))
    with pytest.raises(ValueError, match="term 't': the gradient must be a dict of a, b, got"):
        Objective([Term("t", loss, {"a": "x", "b": "x"})]).evaluate({"x": np.ones(2)}, {})


def sum_of_params(params):
    return sum(param.sum() for param in params.values())


def test_a_users_regularizer_is_copied_and_checked(own_pair):
    shared = np.ones(2)
    loss = own_pair(sum_of_params, lambda params, upstream=1.0: dict.fromkeys(params, shared))
    terms = [Term("size", "mse_loss", "size", "size")]
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    found = Objective(terms, [Regularizer(loss)]).evaluate(OUTPUTS, DATA, params).parameter_gradients
    assert not np.shares_memory(found["a"], found["b"])
    assert not np.shares_memory(found["a"], shared)
    with pytest.raises(ValueError, match="regularizer 'sum_of_params': the gradients have the shapes"):
        Objective(terms, [Regularizer(loss)]).evaluate(OUTPUTS, DATA, {"a": np.zeros(3)})


# --- regularisers -------------------------------------------------------------------------------------------------


def test_nested_parameters_are_selected_by_their_outermost_name():
    params = {"encoder": {"w": np.array([1.0]), "b": [np.array([2.0])]}, "decoder": {"w": np.array([3.0])}}
    objective = Objective(
        [Term("size", "mse_loss", "size", "size")],
        [
            Regularizer("l2_regularization", ["enc*"], options={"lambda_reg": 1.0}),
            Regularizer("l1_regularization", ["encoder"], options={"lambda_reg": 10.0}),
        ],
    )
    result = objective.evaluate(OUTPUTS, DATA, params)
    assert float(result.components["l2_regularization"]) == 2.5
    gradients = result.parameter_gradients
    assert gradients.keys() == {"encoder"}
    assert gradients["encoder"]["w"].tolist() == [11.0]
    assert gradients["encoder"]["b"][0].tolist() == [12.0]


# --- what is refused ----------------------------------------------------------------------------------------------


def size_term(**changes):
    return Term(**({"name": "size", "loss": "huber_loss", "outputs": "size", "targets": "size"} | changes))


BAD_TERMS = [
    ("loss", {"loss": "huber_los"}, "term 'size': unknown loss 'huber_los' .*; did you mean 'huber_loss'"),
    (
        "option",
        {"options": {"dleta": 1.0}},
        r"term 'size': unknown option of huber_loss 'dleta'; did you mean 'delta'\?",
    ),
    ("option value", {"options": {"delta": -1.0}}, "term 'size': delta must be > 0, got -1.0"),
    ("reduction", {"options": {"reduction": "none"}}, "term 'size': reduction must be one of 'sum', 'mean', "),
    ("nan weight", {"weight": float("nan")}, "term 'size': weight must be a finite number or a function of the step"),
    ("inf weight", {"weight": float("inf")}, "term 'size': weight must be a finite number"),
    ("bool weight", {"weight": True}, "term 'size': weight must be a finite number"),
    ("text weight", {"weight": "1"}, "term 'size': weight must be a finite number"),
    ("no target", {"targets": None}, "term 'size': huber_loss gets no targets"),
    (
        "argument",
        {"outputs": {"prediction": "size"}},
        r"'prediction'; did you mean 'predictions'\? \(known: predictions\)",
    ),
    (
        "target argument",
        {"targets": {"target": "size"}},
        "unknown argument of huber_loss 'target'; did you mean 'targets'",
    ),
    (
        "option twice",
        {"targets": {"targets": "size", "delta": "d"}, "options": {"delta": 1.0}},
        "term 'size': 'delta' is given twice: as a target and as an option",
    ),
    (
        "one output for three arguments",
        {"loss": "triplet_loss", "targets": None},
        "outputs must be a mapping .* triplet_loss takes anchor, positive, negative; got 'size'",
    ),
    (
        "an option as an output",
        {
            "loss": "linear_cross_entropy",
            "outputs": {"hidden": "h", "weight": "w", "bias": "b"},
            "options": {"bias": np.zeros(3)},
        },
        "term 'size': 'bias' is given twice: as an output and as an option",
    ),
    (
        "an output as a target",
        {"loss": "chamfer_distance", "outputs": CHAMFER, "targets": {"target_points": "x"}},
        "term 'size': 'target_points' is given twice: as a target and as an output",
    ),
    (
        "a target left over",
        {"loss": "chamfer_distance", "outputs": CHAMFER},
        "term 'size': targets must be a mapping .* chamfer_distance takes none; got 'size'",
    ),
    ("both outputs", {"output": "size"}, "term 'size': give either output or outputs, not both"),
    ("both targets", {"target": "size"}, "term 'size': give either target or targets, not both"),
    (
        "missing argument",
        {"loss": "triplet_loss", "outputs": {"anchor": "a", "positive": "p"}, "targets": None},
        "term 'size': triplet_loss gets no negative",
    ),
    (
        "target of a loss without",
        {"loss": "l2_regularization"},
        "targets must be a mapping .* l2_regularization takes none; got 'size'",
    ),
]


@parameterized.expand(BAD_TERMS)
def test_a_bad_term_is_refused_when_it_is_made(name, changes, message):
    with pytest.raises(ValueError, match=message):
        size_term(**changes)


@parameterized.expand(
    [
        ("list", {"outputs": ["size"]}, r"term 'size': outputs must be a name, or a dict .*, got \['size'\]$"),
        ("no output", {"outputs": None}, "term 'size': outputs must be a name, or a dict of names .*, got None$"),
        ("targets", {"targets": 3}, "term 'size': targets must be a name, or a dict of names by argument, got 3$"),
        (
            "one output",
            {"outputs": None, "output": {"x": "y"}},
            "output must be a name, got .*; outputs may be",
        ),
        ("options", {"options": ["delta"]}, r"term 'size': options must be a dict by name, got \['delta'\]$"),
        (
            "an option that is no interval",
            {"loss": "cross_entropy_with_logits", "options": {"ignore_index": "a"}},
            "term 'size': ignore_index must be an integer, got 'a'",
        ),
    ],
)
def test_what_has_another_type_than_a_term_takes_is_refused(name, changes, message):
    with pytest.raises(TypeError, match=message):
        size_term(**changes)


BAD_REGULARIZERS = [
    ("loss", {"loss": "l3_regularization"}, "unknown loss 'l3_regularization' .*; did you mean 'l[12]_regularization'"),
    (
        "option",
        {"options": {"lambda": 1.0}},
        "regularizer 'l2_regularization': unknown option .* 'lambda'; did you mean",
    ),
    ("weight", {"weight": float("nan")}, "regularizer 'l2_regularization': weight must be a finite number"),
    (
        "a loss of outputs",
        {"loss": "mse_loss"},
        "'mse_loss': mse_loss takes predictions, targets, not parameters alone",
    ),
    ("no pattern", {"parameters": []}, "parameters must be a list of one pattern or more"),
    ("text", {"parameters": "*"}, r"parameters must be a list of one pattern or more, got '\*'"),
]


@parameterized.expand(BAD_REGULARIZERS)
def test_a_bad_regularizer_is_refused_when_it_is_made(name, changes, message):
    with pytest.raises(ValueError, match=message):
        Regularizer(**({"loss": "l2_regularization"} | changes))


def test_empty_objectives_and_repeated_names_are_refused():
    with pytest.raises(ValueError, match="an objective needs at least one term"):
        Objective([])
    with pytest.raises(ValueError, match="but 'size' is taken twice"):
        Objective([size_term(), size_term(outputs="other")])
    with pytest.raises(ValueError, match="but 'size' is taken twice"):
        Objective([size_term()], [Regularizer("l2_regularization", name="size")])


@parameterized.expand(
    [
        ("one term", lambda: Objective(size_term()), r"terms must be a list of Term objects, got Term\("),
        ("text", lambda: Objective(["x"]), "terms must be a list of Term objects, got 'x'"),
        ("one text", lambda: Objective("mse"), "terms must be a list of Term objects, got 'mse'"),
        (
            "another part",
            lambda: Objective([size_term()], [size_term()]),
            "regularizers must be a list of Regularizer objects, got T",
        ),
        (
            "outputs",
            lambda: OBJECTIVE.evaluate([1], DATA, PARAMS),
            r"outputs must be a dict of arrays by name, got \[1\]",
        ),
        (
            "no outputs",
            lambda: OBJECTIVE.evaluate(None, DATA, PARAMS),
            "outputs must be a dict of arrays by name, got None",
        ),
        ("data", lambda: OBJECTIVE.evaluate(OUTPUTS, 1, PARAMS), "data must be a dict of arrays by name, got 1"),
        ("params", lambda: OBJECTIVE.evaluate(OUTPUTS, DATA, 1), "params must be a dict of arrays by name, got 1"),
        (
            "schedule",
            lambda: Objective([size_term(weight=lambda: 1.0)]).evaluate(OUTPUTS, DATA),
            r"term 'size': .*<lambda>\(\) takes 0 positional arguments",
        ),
    ]
)
def test_what_has_another_type_than_an_objective_takes_is_refused(name, call, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        call()


def test_outputs_of_several_libraries_are_refused():
    objective = Objective([Term(name, "mse_loss", name, name) for name in "ab"])
    arrays = {"a": np.ones(2), "b": torch.ones(2)}
    for gradients in (True, False):
        with pytest.raises(TypeError, match=r"one library, got 'a' from numpy, 'b' from torch$"):
            objective.evaluate(arrays, arrays, gradients=gradients)
    nested = {"a": {"layer": np.ones((1, 2, 2, 3))}, "b": torch.ones(2)}
    terms = [Term("a", "feature_reconstruction_loss", "a", "a"), Term("b", "mse_loss", "b", "b")]
    with pytest.raises(TypeError, match=r"one library, got 'a' from numpy, 'b' from torch$"):
        Objective(terms).evaluate(nested, nested)


@parameterized.expand([("with gradients", True), ("value alone", False)])
def test_what_does_not_fit_the_objective_is_refused(name, gradients):
    def evaluate(outputs, data, params=PARAMS, step=0, objective=OBJECTIVE):
        objective.evaluate(outputs, data, params, step, gradients=gradients)

    with pytest.raises(
        ValueError, match=r"term 'size': unknown output 'size'; did you mean 'sizes'\? \(known: digit, s"
    ):
        evaluate({"digit": OUTPUTS["digit"], "sizes": OUTPUTS["size"]}, DATA)
    with pytest.raises(ValueError, match=r"term 'digit': unknown data entry 'digit' \(known: size\)"):
        evaluate(OUTPUTS, {"size": DATA["size"]})
    with pytest.raises(ValueError, match=r"term 'size': .*\(5, 1\) and \(5,\)"):
        evaluate(OUTPUTS, {**DATA, "size": DATA["size"][:, 0]})
    with pytest.raises(TypeError, match=r"term 'size': .*one library"):
        evaluate(OUTPUTS, {**DATA, "size": torch.tensor(DATA["size"])})
    with pytest.raises(ValueError, match="regularizer 'l2_regularization' needs params, got None"):
        evaluate(OUTPUTS, DATA, params=None)
    message = r"'l2_regularization': the pattern '\*.weight' matches no parameter \(known: bias\)"
    with pytest.raises(ValueError, match=message):
        evaluate(OUTPUTS, DATA, params={"bias": np.ones(2)})
    with pytest.raises(ValueError, match=r"^term 'size': the schedule gives the weight inf at step 7"):
        evaluate(OUTPUTS, DATA, step=7, objective=Objective([size_term(weight=lambda step: float("inf"))]))
    per_row = Objective([size_term(options={"axis": 1})])
    with pytest.raises(ValueError, match=r"term 'size': the loss must be one number, got shape \(5,\)"):
        evaluate(OUTPUTS, DATA, objective=per_row)


@parameterized.expand(LIBRARIES)
def test_a_component_that_is_not_finite_is_refused_on_request(name, convert):
    objective = Objective([Term("digit", "cross_entropy_with_logits", "digit", "digit"), size_term()])
    outputs = convert({**OUTPUTS, "size": np.full((5, 1), np.nan)})
    assert np.isnan(float(objective.evaluate(outputs, convert(DATA)).loss))
    with pytest.raises(ValueError, match="component 'size' of the loss is nan"):
        objective.evaluate(outputs, convert(DATA), check_finite=True)
    fine = objective.evaluate(convert(OUTPUTS), convert(DATA), check_finite=True)
    assert np.isfinite(float(fine.loss))


# --- schedules ----------------------------------------------------------------------------------------------------


def test_schedules_start_and_end_where_they_should():
    assert [constant(0.3)(step) for step in (0, 10**6)] == [0.3, 0.3]
    assert [linear_warmup(4, maximum=8.0)(step) for step in (0, 1, 4, 5)] == [0.0, 2.0, 8.0, 8.0]
    assert [exponential_warmup(4, maximum=8.0)(step) for step in (0, 10**6)] == [0.0, 8.0]
    np.testing.assert_allclose(exponential_warmup(10)(10 * np.log(2.0)), 0.5, rtol=1e-15)  # one half-life
    np.testing.assert_allclose(exponential_warmup(1e12)(1), 1e-12 * (1.0 - 0.5e-12), rtol=1e-15)
    wave = cosine(6, maximum=3.0, minimum=1.0)
    np.testing.assert_allclose([wave(step) for step in (0, 2, 3, 4, 6, 9)], [3.0, 2.5, 2.0, 1.5, 1.0, 1.0], rtol=1e-15)
    sawtooth = cyclical(8, ratio=0.25, maximum=3.0)
    assert [sawtooth(step) for step in (0, 1, 2, 7, 8, 9, 17)] == [0.0, 1.5, 3.0, 3.0, 0.0, 1.5, 1.5]
    assert [cyclical(4, ratio=1.0)(step) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 0.0, 0.25]


def test_weights_of_a_kl_divergence_at_one_step():
    assert [get_kl_weight(epoch, 4, 2.0) for epoch in range(6)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert get_kl_weight(0, warmup_epochs=0, max_weight=0.3) == 0.3
    assert [cyclical_kl_weight(step, 8, 0.5) for step in range(9)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="steps must be positive, got -1"):
        get_kl_weight(3, -1)
    for ratio in (0.0, 1.5, -0.5):
        with pytest.raises(ValueError, match=r"ratio must lie in \(0, 1\], got"):
            cyclical_kl_weight(3, 8, ratio)
    with pytest.raises(ValueError, match="cycle_length must be positive, got 0"):
        cyclical_kl_weight(3, 0)


@parameterized.expand([("linear", linear_warmup), ("exponential", exponential_warmup), ("cosine", cosine)])
def test_a_schedule_without_steps_is_refused(name, schedule):
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        schedule(0)


# --- objectives from configuration --------------------------------------------------------------------------------

TOML = """
[[terms]]
name = "digit"
loss = "cross_entropy_with_logits"
output = "digit"
target = "digit"

[[terms]]
name = "size"
loss = "huber_loss"
outputs = { predictions = "size" }
targets = { targets = "size" }
schedule = { kind = "linear_warmup", steps = 10, maximum = 0.5 }
options = { delta = 2.0 }

[[regularizers]]
loss = "l2_regularization"
parameters = ["*.weight"]
weight = 0.1
options = { lambda_reg = 1.0 }

[[regularizers]]
loss = "l1_regularization"
options = { lambda_reg = 0.3 }
"""


def test_an_objective_from_toml_is_the_one_written_in_python(tmp_path):
    path = tmp_path / "objective.toml"
    path.write_text(TOML)
    expected = OBJECTIVE.evaluate(OUTPUTS, DATA, PARAMS, step=5)
    run = "seed = 3\n" + TOML.replace("[[terms]]", "[[objective.terms]]").replace("[[reg", "[[objective.reg")
    for source in (TOML, path, str(path), run):
        found = Objective.from_toml(source).evaluate(OUTPUTS, DATA, PARAMS, step=5)
        assert found.loss == expected.loss
        assert list(found.components) == list(expected.components)
        assert_close(found.output_gradients, expected.output_gradients)
        assert_close(found.parameter_gradients, expected.parameter_gradients)


def test_the_words_of_toml_and_python_are_the_same():
    one = {"name": "size", "loss": "mse_loss", "output": "size", "target": "size"}
    several = {"name": "size", "loss": "mse_loss", "outputs": "size", "targets": "size"}
    expected = Term("size", "mse_loss", "size", "size")
    assert Term(**one) == Term(**several) == expected
    for table in (one, several):
        assert Objective.from_config({"terms": [table]}).terms[0] == expected


def test_the_objective_of_a_training_file_is_read():
    path = Path(__file__).parents[2] / "docs" / "examples" / "digits.toml"
    objective = Objective.from_toml(path)
    assert [term.name for term in objective.terms] == ["classification", "reconstruction"]
    with pytest.raises(ValueError, match=r"^objective\.terms\[0\]\.name: Field required$"):
        Objective.from_toml("[[objective.terms]]\nloss = 'mse_loss'\noutput = 'x'\ntarget = 'y'")


@parameterized.expand(
    [
        ("constant", {"kind": "constant", "value": 0.25}, 0.25),
        ("linear", {"kind": "linear_warmup", "steps": 10, "maximum": 0.5}, 0.25),
        ("exponential", {"kind": "exponential_warmup", "steps": 5}, 1 - np.exp(-1.0)),
        ("cosine", {"kind": "cosine", "steps": 10, "maximum": 3.0, "minimum": 1.0}, 2.0),
        ("cyclical", {"kind": "cyclical", "cycle_length": 4, "ratio": 1.0, "maximum": 2.0}, 0.5),
    ]
)
def test_every_schedule_can_be_configured(name, schedule, weight):
    term = {"name": "size", "loss": "mse_loss", "output": "size", "target": "size", "schedule": schedule}
    result = Objective.from_config({"terms": [term]}).evaluate(OUTPUTS, DATA, step=5)
    np.testing.assert_allclose(result.loss, weight * result.components["size"], rtol=1e-14)


def test_several_axes_are_a_list_in_toml():
    term = {"name": "size", "loss": "mse_loss", "output": "size", "target": "size", "options": {"axis": [0, 1]}}
    assert float(Objective.from_config({"terms": [term]}).evaluate(OUTPUTS, DATA).loss) > 0


GOOD_TERM = {"name": "size", "loss": "huber_loss", "output": "size", "target": "size"}
GOOD_REGULARIZER = {"loss": "l2_regularization"}


def with_schedule(**schedule):
    return {"terms": [GOOD_TERM | {"schedule": schedule}]}


BAD_CONFIGURATIONS = [
    ("no terms", {}, r"^terms: Field required$"),
    ("empty terms", {"terms": []}, r"^terms: List should have at least 1 item .*, got \[\]$"),
    ("no table", {"terms": [3]}, r"^terms\[0\]: Input should be .*, got 3$"),
    (
        "key",
        {"terms": [GOOD_TERM], "regulariser": []},
        r"^regulariser: unknown key; did you mean 'regularizers'\? \(known: t",
    ),
    (
        "key of a term",
        {"terms": [GOOD_TERM | {"ouput": "x"}]},
        r"^terms\[0\]\.ouput: unknown key; did you mean 'output'\?",
    ),
    ("no name", {"terms": [{"loss": "mse_loss", "output": "x"}]}, r"^terms\[0\]\.name: Field required$"),
    ("type", {"terms": [GOOD_TERM, GOOD_TERM | {"weight": "1"}]}, r"^terms\[1\]\.weight: .* valid number, got '1'$"),
    ("nan", {"terms": [GOOD_TERM | {"weight": float("nan")}]}, r"^terms\[0\]\.weight: Input should be a finite number"),
    (
        "loss",
        {"terms": [GOOD_TERM | {"loss": "huber"}]},
        r"^terms\[0\]\.loss: unknown loss 'huber' .*; did you mean 'huber_loss'",
    ),
    (
        "option",
        {"terms": [GOOD_TERM | {"options": {"detla": 1.0}}]},
        r"^terms\[0\]\.options\.detla: unknown option of huber_loss 'detla'; did you mean 'delta'\? \(known: across,",
    ),
    (
        "value",
        {"terms": [GOOD_TERM | {"options": {"delta": -1}}]},
        r"^terms\[0\]\.options\.delta: delta must be > 0, got -1",
    ),
    (
        "option type",
        {"terms": [GOOD_TERM | {"options": {"delta": "big"}}]},
        r"^terms\[0\]\.options\.delta: delta must be a num",
    ),
    (
        "both outputs",
        {"terms": [GOOD_TERM | {"outputs": {}}]},
        r"^terms\[0\]\.outputs: give either output or outputs, not both$",
    ),
    (
        "both targets",
        {"terms": [GOOD_TERM | {"targets": {}}]},
        r"^terms\[0\]\.targets: give either target or targets, not both$",
    ),
    (
        "an output that is no name",
        {"terms": [{"name": "a", "loss": "mse_loss", "outputs": 3, "target": "y"}]},
        r"^terms\[0\]\.outputs: give a name, or a table of names by argument, got 3$",
    ),
    (
        "a target that is no name",
        {"terms": [{"name": "a", "loss": "mse_loss", "output": "x", "targets": {"targets": ""}}]},
        r"^terms\[0\]\.targets\.targets: give a name, or a table of names by argument, got ''$",
    ),
    ("no output", {"terms": [{"name": "a", "loss": "mse_loss"}]}, r"^terms\[0\]\.output: give the model's output"),
    (
        "wiring",
        {"terms": [GOOD_TERM | {"loss": "triplet_loss"}]},
        r"^terms\[0\]: term 'size': outputs must be a mapping .* anchor, positive, negative; got 'size'$",
    ),
    (
        "weight and schedule",
        {"terms": [GOOD_TERM | {"weight": 1.0, "schedule": {"kind": "constant", "value": 1.0}}]},
        r"^terms\[0\]\.schedule: give either weight or schedule, not both$",
    ),
    ("kind", with_schedule(kind="linear"), r"^terms\[0\]\.schedule\.kind: .*'linear_warmup', .* got 'linear'$"),
    (
        "steps",
        with_schedule(kind="cosine", steps=0),
        r"^terms\[0\]\.schedule\.steps: Input should be greater than 0, got 0",
    ),
    ("no steps", with_schedule(kind="cosine"), r"^terms\[0\]\.schedule\.steps: cosine needs this key$"),
    (
        "argument of another schedule",
        with_schedule(kind="linear_warmup", steps=5, minimum=0.0),
        r"^terms\[0\]\.schedule\.minimum: unknown key; did you mean 'maximum'\? \(known: kind, steps, maximum\)$",
    ),
    (
        "same names",
        {"terms": [GOOD_TERM, GOOD_TERM]},
        r"^names of terms and regularizers must differ, but 'size' is taken twice$",
    ),
    (
        "pattern",
        {"terms": [GOOD_TERM], "regularizers": [GOOD_REGULARIZER | {"parameters": "*"}]},
        r"^regularizers\[0\]\.parameters: Input should be a valid list, got '\*'$",
    ),
    (
        "regularizer",
        {"terms": [GOOD_TERM], "regularizers": [{"loss": "mse_loss"}]},
        r"^regularizers\[0\]: regularizer 'mse_loss': mse_loss takes predictions, targets, not parameters alone$",
    ),
]


@parameterized.expand(BAD_CONFIGURATIONS)
def test_a_bad_configuration_is_refused_with_the_path_of_its_key(name, config, message):
    with pytest.raises(ValueError, match=message):
        Objective.from_config(config)


def test_several_errors_are_several_lines():
    config = {"terms": [GOOD_TERM | {"weight": "1"}, GOOD_TERM | {"target": 3}]}
    with pytest.raises(ValueError, match=r"^terms\[0\]\.weight: .*\nterms\[1\]\.target: .*$"):
        Objective.from_config(config)


def test_text_that_is_not_toml_is_refused_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"the configuration is not TOML: Unclosed array .*line 2"):
        Objective.from_toml("[[terms]]\nname = [1 2]\n")
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"bad\.toml is not TOML: "):
        Objective.from_toml(path)
    with pytest.raises(FileNotFoundError):
        Objective.from_toml("absent.toml")


# --- imports ------------------------------------------------------------------------------------------------------


def test_objectives_import_neither_pydantic_nor_a_library_and_name_the_extra():
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "from mithril_losses.objectives import Objective\n"
        "print(sorted({'jax', 'torch'} & sys.modules.keys()))\n"
        "Objective.from_config({})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "[]"
    assert "needs pydantic, which is not installed: pip install '.[cli]' in a clone" in found.stderr
