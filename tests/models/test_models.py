"""The adapters: one small network with two outputs, written for each library, against autodiff and one another."""

import dataclasses
import subprocess
import sys

import autograd.numpy as anp
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parameterized import parameterized

from mithril_losses.models import (
    CallableModel,
    CompiledModel,
    ExportedJaxModel,
    JaxModel,
    NumpyModel,
    TorchModel,
    compile_model,
)

jax.config.update("jax_enable_x64", True)

RNG = np.random.default_rng(7)
PARAMS = {
    "hidden": RNG.standard_normal((4, 5)),
    "scores": RNG.standard_normal((5, 3)),
    "size": RNG.standard_normal((5, 1)),
}
DATA = {"x": RNG.standard_normal((6, 4)), "unused": RNG.standard_normal(6)}
SEEDS = {"scores": RNG.standard_normal((6, 3)), "size": RNG.standard_normal((6, 1))}


def network(xp):
    """The network as a function: two outputs from one hidden layer, and one integer output without a gradient."""

    def function(params, data):
        hidden = xp.tanh(data["x"] @ params["hidden"])
        scores = hidden @ params["scores"]
        return {"scores": scores, "size": hidden @ params["size"], "label": xp.argmax(scores, axis=-1)}

    return function


def network_vjp(params, data, gradients):
    """The same network's vector-Jacobian product by hand, of its parameters and its input."""
    hidden = np.tanh(data["x"] @ params["hidden"])
    into_hidden = gradients["scores"] @ params["scores"].T + gradients["size"] @ params["size"].T
    return {
        "hidden": data["x"].T @ (into_hidden * (1 - hidden**2)),
        "scores": hidden.T @ gradients["scores"],
        "size": hidden.T @ gradients["size"],
        "x": (into_hidden * (1 - hidden**2)) @ params["hidden"].T,
    }


def parameters_by_hand(seeds):
    gradients = network_vjp(PARAMS, DATA, seeds)
    return {name: gradients[name] for name in PARAMS}


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, value in PARAMS.items():
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(value.shape, dtype=torch.float64)))

    def forward(self, x):
        hidden = torch.tanh(x @ self.hidden)
        scores = hidden @ self.scores
        return scores, hidden @ self.size, torch.argmax(scores, dim=-1)


def in_jax(arrays):
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def in_torch(arrays):
    return {name: torch.tensor(array) for name, array in arrays.items()}


def exported():
    program = jax.jit(network(jnp))
    return ExportedJaxModel(jax.export.export(program)(in_jax(PARAMS), in_jax(DATA)))


MODELS = [
    ("jax", JaxModel(network(jnp)), in_jax),
    ("exported_jax", exported(), in_jax),
    ("torch", TorchModel(Network(), output_names=["scores", "size", "label"]), in_torch),
    ("numpy", NumpyModel(network(anp)), lambda arrays: {name: array.copy() for name, array in arrays.items()}),
    ("callables", CallableModel(network(np), network_vjp), lambda arrays: {n: a.copy() for n, a in arrays.items()}),
    ("torch_function", TorchModel(network(torch)), in_torch),
]


def to_numpy(arrays):
    return {name: np.asarray(array) for name, array in arrays.items()}


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), rtol=1e-12, atol=1e-13)


def composed_loss(outputs, xp):
    """A loss whose gradients wrt the outputs are `scores` and `exp(size)`."""
    return 0.5 * (outputs["scores"] ** 2).sum() + xp.exp(outputs["size"]).sum()


@parameterized.expand(MODELS)
def test_gradients_are_those_of_jax_through_the_composed_loss(name, model, convert):
    params, data = convert(PARAMS), convert(DATA)
    outputs = to_numpy(model.evaluate(params, data))
    seeds = convert({"scores": outputs["scores"], "size": np.exp(outputs["size"])})
    _, gradients = model.evaluate(params, data, output_gradients=seeds)
    reference = jax.grad(lambda params: composed_loss(network(jnp)(params, in_jax(DATA)), jnp))(in_jax(PARAMS))
    assert_close(gradients, reference)


def test_gradients_are_those_of_torch_through_the_composed_loss():
    module = Network()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.tensor(PARAMS[name]))
    scores, size, _ = module(torch.tensor(DATA["x"]))
    composed_loss({"scores": scores, "size": size}, torch).backward()
    seeds = {"scores": scores.detach(), "size": size.detach().exp()}
    model = TorchModel(Network(), output_names=["scores", "size", "label"])
    _, gradients = model.evaluate(in_torch(PARAMS), in_torch(DATA), output_gradients=seeds)
    assert_close(gradients, {name: parameter.grad for name, parameter in module.named_parameters()})


@parameterized.expand(MODELS)
def test_the_gradients_that_are_asked_for_may_be_of_inputs(name, model, convert):
    params, data = convert(PARAMS), convert(DATA)
    outputs, every = model.evaluate(params, data, output_gradients=convert(SEEDS))
    same, found = model.evaluate(params, data, output_gradients=convert(SEEDS), wrt=["x", "size"])
    assert_close(same, outputs)
    _, pullback = jax.vjp(lambda x: network(jnp)(in_jax(PARAMS), {"x": x}), jnp.asarray(DATA["x"]))
    (by_x,) = pullback({**in_jax(SEEDS), "label": np.zeros(6, jax.dtypes.float0)})
    assert_close(found, {"x": by_x, "size": every["size"]})


@parameterized.expand(MODELS)
def test_a_gradient_of_what_has_none_is_refused(name, model, convert):
    params, data, seeds = convert(PARAMS), convert(DATA), convert(SEEDS)
    with pytest.raises(ValueError, match=r"unknown parameter or input 'xs'; did you mean 'x'"):
        model.evaluate(params, data, output_gradients=seeds, wrt=["xs"])
    with pytest.raises(ValueError, match="'size' is the name of a parameter and of an input"):
        model.evaluate(params, {**data, "size": data["x"]}, output_gradients=seeds, wrt=["size"])
    with pytest.raises(TypeError, match=r"'unused' has dtype .*int.* and therefore no gradient"):
        model.evaluate(params, {**data, **convert({"unused": np.arange(6)})}, output_gradients=seeds, wrt=["unused"])
    with pytest.raises(ValueError, match="needs output_gradients"):
        model.evaluate(params, data, wrt=["x"])


@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_one_function_is_compiled_for_every_backend(backend):
    model = compile_model(lambda xp, params, data: network(xp)(params, data), backend)
    convert = {"numpy": lambda arrays: dict(arrays), "jax": in_jax, "torch": in_torch}[backend]
    outputs, gradients = model.evaluate(convert(PARAMS), convert(DATA), output_gradients=convert(SEEDS))
    assert_close(outputs, network(np)(PARAMS, DATA))
    assert_close(gradients, parameters_by_hand(SEEDS))


def test_a_backend_without_adapter_is_refused():
    with pytest.raises(ValueError, match="numpy, jax and torch, not for 'cupy'"):
        compile_model(lambda xp, params, data: {}, "cupy")


@parameterized.expand(MODELS)
def test_an_output_left_out_counts_as_zero(name, model, convert):
    params, data = convert(PARAMS), convert(DATA)
    _, partial = model.evaluate(params, data, output_gradients=convert({"size": SEEDS["size"]}))
    _, full = model.evaluate(
        params, data, output_gradients=convert({"size": SEEDS["size"], "scores": np.zeros((6, 3))})
    )
    assert_close(partial, full)
    assert not np.asarray(partial["scores"]).any()
    assert np.asarray(partial["hidden"]).any()
    _, nothing = model.evaluate(params, data, output_gradients={})
    assert_close(nothing, {name: np.zeros_like(param) for name, param in PARAMS.items()})


@parameterized.expand(MODELS)
def test_outputs_come_with_the_gradients_and_twice_running_is_equal(name, model, convert):
    params, data, seeds = convert(PARAMS), convert(DATA), convert(SEEDS)
    forward = model.evaluate(params, data)
    first_outputs, first = model.evaluate(params, data, output_gradients=seeds)
    second_outputs, second = model.evaluate(params, data, output_gradients=seeds)
    assert isinstance(model, CompiledModel)
    assert_close(forward, network(np)(PARAMS, DATA))
    assert_close(first_outputs, forward)
    for name in first_outputs:
        np.testing.assert_array_equal(np.asarray(first_outputs[name]), np.asarray(second_outputs[name]))
    for name in PARAMS:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]))


@parameterized.expand(MODELS)
def test_nothing_handed_in_is_written_to(name, model, convert):
    params, data, seeds = convert(PARAMS), convert(DATA), convert(SEEDS)
    if convert is not in_jax and convert is not in_torch:
        for array in (*params.values(), *data.values(), *seeds.values()):
            array.flags.writeable = False
    model.evaluate(params, data, output_gradients=seeds)
    for given, original in ((params, PARAMS), (data, DATA), (seeds, SEEDS)):
        assert given.keys() == original.keys()
        for name, array in given.items():
            np.testing.assert_array_equal(np.asarray(array), original[name])


@parameterized.expand(MODELS)
def test_an_unknown_output_is_refused_with_the_nearest_name(name, model, convert):
    message = r"unknown output 'score'; did you mean 'scores'\? \(known: label, scores, size\)"
    with pytest.raises(ValueError, match=message):
        model.evaluate(convert(PARAMS), convert(DATA), output_gradients=convert({"score": SEEDS["scores"]}))


@parameterized.expand(MODELS)
def test_a_wrong_shape_is_refused_with_both_shapes(name, model, convert):
    message = r"gradient of output 'size' must have the output's shape \(6, 1\), got \(6,\)"
    with pytest.raises(ValueError, match=message):
        model.evaluate(convert(PARAMS), convert(DATA), output_gradients=convert({"size": np.ones(6)}))


@parameterized.expand(MODELS)
def test_a_wrong_dtype_is_refused(name, model, convert):
    seeds = convert({"size": SEEDS["size"].astype(np.float32)})
    with pytest.raises(TypeError, match=r"output 'size' must be .*float64 like the output, got .*float32"):
        model.evaluate(convert(PARAMS), convert(DATA), output_gradients=seeds)


@parameterized.expand(MODELS)
def test_an_integer_output_takes_no_gradient(name, model, convert):
    with pytest.raises(TypeError, match=r"output 'label' has dtype .*int64 and therefore takes no gradient"):
        model.evaluate(convert(PARAMS), convert(DATA), output_gradients=convert({"label": np.ones(6)}))


@parameterized.expand(MODELS)
def test_an_array_of_another_library_is_refused(name, model, convert):
    foreign, library = (in_jax, "jax") if convert is in_torch else (in_torch, "torch")
    with pytest.raises(TypeError, match=rf"output 'size' must be a \w+ array, got a {library} array"):
        model.evaluate(convert(PARAMS), convert(DATA), output_gradients=foreign({"size": SEEDS["size"]}))
    with pytest.raises(TypeError, match=r"output 'size' must be a \w+ array, got list"):
        model.evaluate(convert(PARAMS), convert(DATA), output_gradients={"size": [[1.0]] * 6})


def test_a_gradient_on_another_device_is_refused():
    model = TorchModel(Network(), output_names=["scores", "size", "label"])
    seeds = {"size": torch.ones(6, 1, dtype=torch.float64, device="meta")}
    with pytest.raises(ValueError, match=r"output 'size' must be on cpu like the output, got meta"):
        model.evaluate(in_torch(PARAMS), in_torch(DATA), output_gradients=seeds)


@parameterized.expand(
    [
        ("jax", JaxModel(lambda params, data: data["x"])),
        ("numpy", NumpyModel(lambda params, data: data["x"])),
        ("callables", CallableModel(lambda params, data: data["x"], network_vjp)),
    ]
)
def test_a_model_without_output_names_is_refused(name, model):
    data = in_jax(DATA) if isinstance(model, JaxModel) else DATA
    for arguments in ({}, {"output_gradients": {}}):
        with pytest.raises(TypeError, match="a model must return a dict of outputs by name, got"):
            model.evaluate({}, data, **arguments)


def test_an_output_that_is_no_array_is_refused():
    with pytest.raises(TypeError, match="output 'loss' must be an array, got float"):
        JaxModel(lambda params, data: {"loss": 0.5}).evaluate({}, {})


# --- JAX ----------------------------------------------------------------------------------------------------------


def test_a_jax_function_is_traced_once_for_many_calls():
    traces = []

    def function(params, data):
        traces.append(1)
        return {"y": params["w"] * data["x"]}

    model = JaxModel(function)
    params, data = {"w": jnp.ones(3)}, {"x": jnp.ones(3)}
    for _ in range(3):
        model.evaluate(params, data)
        model.evaluate(params, data, output_gradients={"y": jnp.ones(3)})
    assert len(traces) == 2  # once for the outputs, once for the outputs with gradients


def test_nested_jax_parameters_give_nested_gradients():
    model = JaxModel(lambda params, data: {"y": params["layer"]["w"] * data["x"] + params["biases"][0]})
    params = {"layer": {"w": jnp.array(2.0)}, "biases": [jnp.array(0.5)]}
    _, gradients = model.evaluate(params, {"x": jnp.array([1.0, 3.0])}, output_gradients={"y": jnp.ones(2)})
    assert jax.tree.map(float, gradients) == {"layer": {"w": 4.0}, "biases": [2.0]}


def test_a_jax_model_runs_inside_the_callers_own_jit():
    model = JaxModel(network(jnp))
    step = jax.jit(lambda params, data, seeds: model.evaluate(params, data, output_gradients=seeds)[1])
    gradients = step(in_jax(PARAMS), in_jax(DATA), in_jax(SEEDS))
    assert_close(gradients, parameters_by_hand(SEEDS))


def test_an_exported_program_without_its_vjp_is_refused():
    line = jax.jit(lambda params, data: {"y": params["w"] * data["x"]})
    program = jax.export.export(line)({"w": jnp.ones(2)}, {"x": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"carries no vjp; serialise it with exported.serialize\(vjp_order=1\)"):
        ExportedJaxModel(dataclasses.replace(program, _get_vjp=None))  # as `serialize()` leaves it by default


def test_an_exported_program_is_read_back_from_its_bytes():
    params, data, seeds = in_jax(PARAMS), in_jax(DATA), in_jax(SEEDS)
    written = jax.export.export(jax.jit(network(jnp)))(params, data).serialize(vjp_order=1)
    model = ExportedJaxModel(jax.export.deserialize(written))
    assert_close(model.evaluate(params, data, output_gradients=seeds)[1], parameters_by_hand(SEEDS))


# --- torch --------------------------------------------------------------------------------------------------------


def test_torch_results_are_detached_and_share_memory_with_nothing():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.zeros(3))
            self.b = torch.nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return {"sum": self.a + self.b, "x": x}

    params = {"a": torch.ones(3), "b": torch.ones(3)}
    data, seeds = {"x": torch.ones(3)}, {"sum": torch.ones(3)}
    outputs, gradients = TorchModel(Sum()).evaluate(params, data, output_gradients=seeds)
    results = [*outputs.values(), *gradients.values()]
    everything = [*results, *params.values(), *data.values(), *seeds.values()]
    assert len({tensor.data_ptr() for tensor in everything}) == len(everything)
    assert not any(tensor.requires_grad for tensor in everything)


def test_torch_gradients_flow_where_the_caller_has_switched_them_off():
    model = TorchModel(Network(), output_names=["scores", "size", "label"])
    with torch.no_grad():
        _, gradients = model.evaluate(in_torch(PARAMS), in_torch(DATA), output_gradients=in_torch(SEEDS))
    assert_close(gradients, parameters_by_hand(SEEDS))


def test_a_torch_module_keeps_its_parameters_and_moves_running_statistics_once_per_step():
    module = torch.nn.BatchNorm1d(2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = TorchModel(module, output_names=["y"])
    params = {"weight": torch.full((2,), 3.0), "bias": torch.zeros(2)}
    data = {"input": torch.tensor([[1.0, 2.0], [3.0, 6.0]])}
    model.evaluate(params, data)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    model.evaluate(params, data, output_gradients={"y": torch.ones(2, 2)})
    torch.testing.assert_close(module.running_mean, torch.tensor([0.2, 0.4]))  # a tenth of the batch means (2, 4)
    torch.testing.assert_close(module.weight.detach(), before["weight"])


def test_tied_torch_parameters_have_one_name_and_one_gradient():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(2, 2, bias=False)
            self.decoder = torch.nn.Linear(2, 2, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, x):
            return self.decoder(self.encoder(x))

    w, x = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True), torch.tensor([[1.0, -1.0]])
    (x @ w.T @ w.T).sum().backward()
    model = TorchModel(Tied(), output_names=["y"])
    _, gradients = model.evaluate({"encoder.weight": w.detach()}, {"x": x}, output_gradients={"y": torch.ones(1, 2)})
    assert_close(gradients, {"encoder.weight": w.grad})


def test_wrong_torch_parameters_inputs_and_output_names_are_refused():
    model = TorchModel(Network(), output_names=["scores", "size", "label"])
    params, data = in_torch(PARAMS), in_torch(DATA)
    with pytest.raises(ValueError, match=r"unknown parameter 'hiden'; did you mean 'hidden'\?"):
        model.evaluate({**params, "hiden": params["hidden"]}, data)
    with pytest.raises(ValueError, match=r"params lacks \['hidden'\], which the module has"):
        model.evaluate({"scores": params["scores"], "size": params["size"]}, data)
    with pytest.raises(ValueError, match=r"data lacks \['x'\], which .* forward takes; it holds \['unused'\]"):
        model.evaluate(params, {"unused": data["unused"]})
    with pytest.raises(ValueError, match=r"returns 3 outputs without names; output_names must name each, got None"):
        TorchModel(Network()).evaluate(params, data)
    with pytest.raises(ValueError, match=r"returns 3 outputs without names; output_names must name each, got \['a'\]"):
        TorchModel(Network(), output_names=["a"]).evaluate(params, data)


# --- callables and NumPy ------------------------------------------------------------------------------------------


def alias_everything(params, data):
    return {"w": params["w"], "x": data["x"]}


@parameterized.expand(
    [
        ("numpy", NumpyModel(alias_everything)),
        ("callables", CallableModel(alias_everything, lambda params, data, gradients: {"w": gradients["w"]})),
    ]
)
def test_numpy_results_share_memory_with_nothing(name, model):
    params, data, seeds = {"w": np.ones(3)}, {"x": np.ones(3)}, {"w": np.ones(3)}
    outputs, gradients = model.evaluate(params, data, output_gradients=seeds)
    results = [*outputs.values(), *gradients.values()]
    for i, result in enumerate(results):
        assert result.flags.writeable
        others = [*results[:i], *params.values(), *data.values(), *seeds.values()]
        assert not any(np.shares_memory(result, other) for other in others)


def test_numpy_gradients_have_the_dtype_of_their_parameters():
    params = {name: array.astype(np.float32) for name, array in PARAMS.items()}
    outputs, gradients = NumpyModel(network(anp)).evaluate(params, DATA, output_gradients=SEEDS)
    assert outputs["size"].dtype == np.float64
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(np.float32)}


def test_a_vjp_that_writes_into_its_gradients_does_not_reach_the_callers():
    def greedy_vjp(params, data, gradients):
        gradients["y"] += 1.0
        return {"w": gradients["y"]}

    model = CallableModel(lambda params, data: {"y": params["w"]}, greedy_vjp)
    seeds = {"y": np.ones(2)}
    model.evaluate({"w": np.ones(2)}, {}, output_gradients=seeds)
    np.testing.assert_array_equal(seeds["y"], [1.0, 1.0])


def test_a_vjp_that_forgets_or_misshapes_a_gradient_is_refused():
    def forward(params, data):
        return {"y": params["w"]}

    params, seeds = {"w": np.ones(2)}, {"y": np.ones(2)}
    with pytest.raises(ValueError, match=r"one gradient for each of \['w'\], got \['v'\]"):
        CallableModel(forward, lambda *_: {"v": np.ones(2)}).evaluate(params, {}, output_gradients=seeds)
    with pytest.raises(ValueError, match=r"one gradient for each of \['w'\], got ndarray"):
        CallableModel(forward, lambda *_: np.ones(2)).evaluate(params, {}, output_gradients=seeds)
    with pytest.raises(ValueError, match=r"gradient of shape \(3,\) for 'w' of shape \(2,\)"):
        CallableModel(forward, lambda *_: {"w": np.ones(3)}).evaluate(params, {}, output_gradients=seeds)


def test_callables_work_on_torch_tensors_and_jax_arrays():
    for convert in (in_jax, in_torch):
        model = CallableModel(
            lambda params, data: {"y": params["w"] * data["x"]},
            lambda params, data, gradients: {"w": gradients["y"] * data["x"]},
        )
        params, data = convert({"w": np.array([2.0])}), convert({"x": np.array([3.0])})
        outputs, gradients = model.evaluate(params, data, output_gradients=convert({"y": np.array([5.0])}))
        assert (float(outputs["y"][0]), float(gradients["w"][0])) == (6.0, 15.0)
        _, gradients = model.evaluate(params, data, output_gradients={})
        assert float(gradients["w"][0]) == 0.0


# --- derivatives along a direction --------------------------------------------------------------------------------


def network_jvp(params, data, directions):
    hidden = np.tanh(data["x"] @ params["hidden"])
    moved = (1.0 - hidden**2) * (data["x"] @ directions["hidden"])
    return {name: moved @ params[name] + hidden @ directions[name] for name in ("scores", "size")}


@pytest.mark.parametrize(
    ("model", "convert"),
    [
        (NumpyModel(network(anp)), dict),
        (JaxModel(network(jnp)), in_jax),
        (TorchModel(network(torch)), in_torch),
        (TorchModel(Network(), output_names=["scores", "size", "label"]), in_torch),
        (CallableModel(network(np), network_vjp, network_jvp), dict),
    ],
    ids=["numpy", "jax", "torch", "torch module", "callables"],
)
def test_derivatives_of_outputs_along_a_direction(model, convert):
    directions = {name: np.random.default_rng(3).standard_normal(x.shape) for name, x in PARAMS.items()}
    found = model.jvp(convert(PARAMS), convert(DATA), convert(directions))
    expected = network_jvp(PARAMS, DATA, directions)
    assert found.keys() == expected.keys()  # the label is an integer
    for name, x in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), x, rtol=1e-12, atol=1e-14)


def test_models_without_derivatives_along_a_direction_say_so():
    with pytest.raises(TypeError, match="an exported program has no jvp"):
        exported().jvp(in_jax(PARAMS), in_jax(DATA), in_jax(PARAMS))
    with pytest.raises(TypeError, match="CallableModel has no jvp"):
        CallableModel(network(np), network_vjp).jvp(PARAMS, DATA, PARAMS)


# --- imports ------------------------------------------------------------------------------------------------------


def test_the_package_of_models_imports_neither_jax_nor_torch_nor_autograd():
    code = "import sys, mithril_losses.models; print(sorted({'jax', 'torch', 'autograd'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@parameterized.expand(
    [("JaxModel", "jax", "jax"), ("TorchModel", "torch", "torch"), ("NumpyModel", "autograd", "numpy")]
)
def test_a_missing_library_names_the_extra_to_install(adapter, library, extra):
    code = f"import sys; sys.modules[{library!r}] = None\nfrom mithril_losses.models import {adapter}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{adapter} needs {library}" in found.stderr
    assert f"pip install '.[{extra}]'" in found.stderr


def test_an_unknown_adapter_is_an_attribute_error():
    import mithril_losses.models

    with pytest.raises(AttributeError, match="has no attribute 'KerasModel'"):
        mithril_losses.models.KerasModel  # noqa: B018
