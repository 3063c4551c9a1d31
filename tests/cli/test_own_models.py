"""`train --model`: the same losses whatever a model is written in, and one line for what is wrong with it."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from commandline import CommandLineTestCase
from parameterized import parameterized

CONFIG = """
dtype = "float64"
data = { file = "%s", features = ["length", "weight", "color"], scale = "standard", stratify = "kind" }
optimizer = { kind = "adamw", learning_rate = 0.02 }
run = { epochs = 3, picture = false, output = "%s" }
%s

[[objective.terms]]
name = "kind"
loss = "cross_entropy_with_logits"
output = "scores"
target = "kind"

[[objective.terms]]
name = "weight"
loss = "huber_loss"
output = "heavy"
target = "mass"
weight = 0.5
"""

# A network on all libraries, and the same one for each of them; all of them start from the same numbers.
MODELS = '''
import numpy as np

DRAW = np.random.default_rng(7)
PARAMS = {
    "hidden": 0.5 * DRAW.standard_normal((4, 5)), "scores": DRAW.standard_normal((5, 3)),
    "heavy": DRAW.standard_normal((5, 1)),
}


def network(xp, params, data):
    hidden = xp.tanh(xp.matmul(data["features"], params["hidden"]))
    return {name: xp.matmul(hidden, params[name]) for name in ("scores", "heavy")}


def portable():
    return network, PARAMS


def by_hand():
    from mithril_losses.models import CallableModel

    def vjp(params, data, gradients):
        hidden = np.tanh(data["features"] @ params["hidden"])
        back = sum(gradients[name] @ params[name].T for name in ("scores", "heavy"))
        found = {name: hidden.T @ gradients[name] for name in ("scores", "heavy")}
        return {"hidden": data["features"].T @ (back * (1.0 - hidden**2)), **found}

    return CallableModel(lambda params, data: network(np, params, data), vjp), PARAMS


def jax_function():
    import jax.numpy as jnp

    return lambda params, data: network(jnp, params, data), PARAMS


def torch_module():
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, array in PARAMS.items():
                setattr(self, name, torch.nn.Parameter(torch.tensor(array)))

        def forward(self, features):
            hidden = torch.tanh(features @ self.hidden)
            return {"scores": hidden @ self.scores, "heavy": hidden @ self.heavy}

    return Network()


class Mithril:
    """What a compiled model of Mithril looks like: `evaluate`, and starting parameters of its own."""

    def __init__(self):
        self._model, self._params = by_hand()

    def evaluate(self, params, data, output_gradients=None):
        return self._model.evaluate(params, data, output_gradients)

    def randomize_params(self):
        return self._params


def returns_other_names():
    return (lambda xp, params, data: {"other": data["features"]}), PARAMS


def returns_no_dict():
    return (lambda xp, params, data: data["features"]), PARAMS


def raises():
    def network(xp, params, data):
        return {}["missing"]

    return network, PARAMS


def wants_another_input():
    return (lambda xp, params, data: {"scores": data["image"]}), PARAMS


def no_parameters():
    return lambda xp, params, data: {}


def strange_parameters():
    return network, {"w": [1, 2]}


def fails():
    raise RuntimeError("no \\x1b[31mlicence")


NUMBER = 3
'''

EXPORTS = """
import jax, numpy as np, sys, torch
from jax import export
import models

kind, folder = sys.argv[1:]
if kind == "jax":
    jax.config.update("jax_enable_x64", True)
    function = jax.jit(models.jax_function()[0])
    (n,) = export.symbolic_shape("n")
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in models.PARAMS.items()}
    program = export.export(function)(shapes, {"features": jax.ShapeDtypeStruct((n, 4), "float64")})
    open(f"{folder}/program.bin", "wb").write(program.serialize(vjp_order=1))
    open(f"{folder}/flat.bin", "wb").write(program.serialize())
    np.savez(f"{folder}/params.npz", **models.PARAMS)
else:
    dynamic = {"features": {0: torch.export.Dim("n", min=1)}}
    module, example = models.torch_module(), (torch.ones((6, 4), dtype=torch.float64),)
    torch.export.save(torch.export.export(module, example, dynamic_shapes=dynamic), f"{folder}/program.pt2")
"""


class OwnModelTestCase(CommandLineTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(jax.config.update, "jax_enable_x64", jax.config.jax_enable_x64)
        self.models = self.folder / "models.py"
        self.models.write_text(MODELS, encoding="utf-8")
        self.addCleanup(sys.modules.pop, "models", None)
        self.data = self.folder / "data.csv"
        draw = np.random.default_rng(0)
        with self.data.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["length", "weight", "color", "mass", "kind"])
            for kind in draw.integers(0, 3, self.rows):
                length, weight = kind + draw.normal(0, 0.5), draw.normal(50, 9)
                writer.writerow([length, weight, "rg"[kind % 2], weight / 50 + length, ["a", "b", "c"][kind]])
        self.configure()

    rows = 120

    def configure(self, more: str = "") -> None:
        texts = (self.data.as_posix(), self.output.as_posix(), more)
        self.file.write_text(CONFIG % texts, encoding="utf-8")

    def losses(self, model: str, *changes: str, **options: Any) -> list[list[float]]:
        """Return the history of a run."""
        result = self.train(*changes, model=model, json=True, overwrite=True, **options)
        self.assertEqual(result.exit_code, 0, result.output)
        return [list(record.values()) for record in json.loads(result.stdout)["history"]]

    def export(self, kind: str) -> None:
        """Write a program in another process."""
        script = self.folder / "export.py"
        script.write_text(EXPORTS, encoding="utf-8")
        subprocess.run([sys.executable, script, kind, self.folder], check=True, capture_output=True, timeout=300)

    def named(self, name: str) -> str:
        return f"{self.models.as_posix()}:{name}"


class TestTheSameLosses(OwnModelTestCase):
    def assert_the_same(self, history: list[list[float]]) -> None:
        expected = self.losses(self.named("by_hand"))
        self.assertEqual(len(expected), 3)
        np.testing.assert_allclose(history, expected, rtol=1e-6)
        self.assertLess(expected[-1][1], expected[0][1])

    @parameterized.expand(["numpy", "jax", "torch"])
    def test_with_a_function_on_every_backend(self, backend: str) -> None:
        self.assert_the_same(self.losses(self.named("portable"), backend=backend))

    @parameterized.expand([("jax_function", "jax"), ("torch_module", None), ("Mithril", None)])
    def test_with_a_model_of_one_library(self, name: str, backend: str | None) -> None:
        self.assert_the_same(self.losses(self.named(name), **({"backend": backend} if backend else {})))

    def test_with_a_module_on_the_path(self) -> None:
        sys.path.insert(0, str(self.folder))
        self.addCleanup(sys.path.remove, str(self.folder))
        self.assert_the_same(self.losses("models:portable"))

    def test_with_an_exported_program_of_jax(self) -> None:
        self.export("jax")
        self.configure(f"model = {{ parameters = '{(self.folder / 'params.npz').as_posix()}' }}")
        history = self.losses((self.folder / "program.bin").as_posix())
        self.assert_fails(
            self.train(model=(self.folder / "flat.bin").as_posix(), overwrite=True), "carries no vjp", "vjp_order=1"
        )
        self.assert_fails(
            self.train("model={}", model=(self.folder / "program.bin").as_posix(), overwrite=True),
            "holds no parameters", "model.parameters",
        )  # fmt: skip
        self.configure()
        self.assert_the_same(history)

    @pytest.mark.exhaustive
    def test_with_an_exported_program_of_torch(self) -> None:
        self.export("torch")
        self.assert_the_same(self.losses((self.folder / "program.pt2").as_posix()))

    def test_a_run_is_resumed_evaluated_and_predicts(self) -> None:
        model = self.named("torch_module")
        whole = self.losses(model)
        self.losses(model, "run.epochs=1")
        resumed = self.train(model=model, json=True, resume=True)
        self.assertEqual([list(record.values()) for record in json.loads(resumed.stdout)["history"]], whole)
        test = json.loads(resumed.stdout)["test"]
        found = json.loads(self.run_app("evaluate", self.output, "--model", model, "--json").stdout)
        self.assertEqual(found, test)
        lines = self.run_app("predict", self.output, self.data, "--model", model).stdout.splitlines()
        self.assertEqual((lines[0], len(lines)), ("kind,heavy", self.rows + 1))
        self.assertIn(f"# written by mithril-losses train --model {model}", (self.output / "config.toml").read_text())

    def test_a_changed_file_is_another_run(self) -> None:
        model = self.named("portable")
        self.losses(model, "run.epochs=1")
        self.models.write_text(MODELS + "\n# changed\n", encoding="utf-8")
        self.assert_fails(self.train(model=model, resume=True), "the run was started with --model = 'portable ")

    def test_inputs_and_parameters_are_named_in_the_file(self) -> None:
        rest = "def columns(xp, params, data):\n    x = xp.stack([data['l'], data['w']], axis=1) @ params['w']\n"
        self.models.write_text(rest + "    return {'scores': x, 'heavy': x[:, :1]}\n", encoding="utf-8")
        np.savez(self.folder / "start.npz", w=np.ones((2, 3)))
        start = (self.folder / "start.npz").as_posix()
        self.configure(f"model = {{ inputs = {{ l = 'length', w = 'weight' }}, parameters = '{start}' }}")
        result = self.train("data.scale=none", model=self.named("columns"), json=True)
        self.assertEqual(result.exit_code, 0, result.output)

    @parameterized.expand([("portable", 3), ("torch_module", 3)])
    @pytest.mark.exhaustive
    def test_with_more_rows(self, name: str, times: int) -> None:
        self.rows = 1000
        self.setUp()
        self.assert_the_same(self.losses(self.named(name)))


class TestMessages(OwnModelTestCase):
    @parameterized.expand(
        [
            ("no name", "models.py", ["write FILE.py:NAME"]),
            ("no such name", "models.py:netwrok", ["unknown name 'netwrok'", "did you mean 'network'"]),
            ("no such file", "none.py:network", ["No such file"]),
            ("no such module", "nowhere.models:network", ["No module named 'nowhere'"]),
            ("no such program", "none.pt2", ["none.pt2", "No such file"]),
            ("a number", "models.py:NUMBER", ["it must be a model", "got int"]),
            ("no parameters", "models.py:no_parameters", ["there are no starting parameters"]),
            ("strange parameters", "models.py:strange_parameters", ["parameters: ", "arrays of one library"]),
            ("what it raises", "models.py:fails", [r"RuntimeError: no \x1b[31mlicence (models.py, line "]),
            (
                "other outputs",
                "models.py:returns_other_names",
                ["term 'kind'", "unknown output 'scores'", "known: other"],
            ),
            ("no dict", "models.py:returns_no_dict", ["must return a dict of outputs by name, got ndarray"]),
            ("what its network raises", "models.py:raises", ["KeyError: 'missing' (models.py, line "]),
            ("another input", "models.py:wants_another_input", ["KeyError: 'image' (models.py, line "]),
        ]
    )
    def test_are_one_line(self, case: str, model: str, words: list[str]) -> None:
        path = model if "nowhere" in model else (self.folder / model).as_posix()
        self.assert_fails(self.train(model=path), "--model" if "output 'scores'" not in str(words) else "", *words)
        self.assertFalse(self.output.exists())

    @parameterized.expand(
        [("x.bin", b"not a program"), ("x.bin", b""), ("x.pt2", b"not a program"), ("x.pt2", b"PK\x03\x04")]
    )
    def test_files_that_are_no_programs(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        np.savez(self.folder / "params.npz", w=np.ones(2))
        self.configure(f"model = {{ parameters = '{(self.folder / 'params.npz').as_posix()}' }}")
        library = "JAX" if name.endswith("bin") else "torch.export"
        self.assert_fails(self.train(model=(self.folder / name).as_posix()), name, f"no program of {library}")

    def test_the_library_that_reads_programs_of_jax_is_missing(self) -> None:
        (self.folder / "x.bin").write_bytes(b"program")
        with mock.patch("jax.export.deserialize", side_effect=ImportError("Please install 'flatbuffers'")):
            self.assert_fails(self.train(model=(self.folder / "x.bin").as_posix()), "Please install 'flatbuffers'")

    def test_a_syntax_error(self) -> None:
        self.models.write_text("def network(:\n", encoding="utf-8")
        self.assert_fails(self.train(model=self.named("network")), "SyntaxError")

    def test_a_backend_that_the_model_has_not(self) -> None:
        self.assert_fails(self.train(model=self.named("torch_module"), backend="jax"), "a model of torch", "jax")

    def test_parameters_of_another_shape(self) -> None:
        np.savez(self.folder / "params.npz", hidden=np.ones((4, 5)), scores=np.ones(2), heavy=np.ones((5, 1)))
        self.configure(f"model = {{ parameters = '{(self.folder / 'params.npz').as_posix()}' }}")
        self.assert_fails(
            self.train(model=self.named("portable")), "parameter 'scores'", "the shape (5, 3) in the model"
        )

    def test_a_model_in_the_file_and_on_the_command_line(self) -> None:
        self.configure("model = { outputs = { scores = { size = 3 }, heavy = { size = 1 } } }")
        self.assert_fails(self.train(model=self.named("portable")), "--model names another model", "--set model={}")
        self.assertEqual(self.train("model={}", model=self.named("portable")).exit_code, 0)

    def test_a_file_cannot_name_a_model(self) -> None:
        marker = self.folder / "marker"
        self.models.write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
        for text in (f"model = '{self.named('x')}'", f"model = {{ program = '{self.named('x')}' }}", ""):
            self.configure(text)
            self.assertEqual(self.train().exit_code, 2)
        self.assertFalse(marker.exists())


def test_the_exports_are_what_the_page_shows() -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-models.md").read_text("utf-8")
    for line in ('export.symbolic_shape("n")', "serialize(vjp_order=1)", "torch.export.save("):
        assert line in page
        assert line in EXPORTS
