"""Training: the same run on every backend, resumed runs, and what is left when a run ends early."""

import csv
import json
import tempfile
import tomllib
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parameterized import parameterized

from mithril_losses.training.config import TrainingConfig, read_config
from mithril_losses.training.errors import DivergedError, UserError
from mithril_losses.training.files import write_atomically
from mithril_losses.training.optimizers import Adam, Sgd
from mithril_losses.training.perceptron import Perceptron
from mithril_losses.training.plotting import Examples, draw_training
from mithril_losses.training.run import Trainer, train
from mithril_losses.training.sources import batches, generator

DEMO = Path(__file__).parents[2] / "docs" / "examples" / "digits.toml"

SMALL = """
dtype = "float64"
data = { examples = 160 }
model = { hidden = [12], outputs = { digit = { size = 10 }, copy = { size = 64, hidden = [6] } } }
optimizer = { kind = "adam", learning_rate = 0.01 }
run = { epochs = 3, batch_size = 32, picture = false, output = "" }

[[objective.terms]]
name = "classes"
loss = "cross_entropy_with_logits"
output = "digit"
target = "label"

[[objective.terms]]
name = "pixels"
loss = "mse_loss"
output = "copy"
target = "image"
schedule = { kind = "linear_warmup", steps = 6, maximum = 3.0 }

[[objective.regularizers]]
name = "decay"
loss = "l2_regularization"
parameters = ["*_weight"]
options = { lambda_reg = 1e-3 }
"""


class RunTestCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def config(self, folder: str = "run", **sections: Any) -> TrainingConfig:
        """Return the small configuration with keys of its sections replaced."""
        table = tomllib.loads(SMALL)
        table["run"]["output"] = str(self.folder / folder)
        for name, section in sections.items():
            table[name] = {**table[name], **section} if isinstance(section, dict) else section
        return TrainingConfig.model_validate(table)

    def parameters(self, folder: str = "run") -> dict[str, np.ndarray]:
        with np.load(self.folder / folder / "parameters.npz", allow_pickle=False) as found:
            return dict(found)

    def assert_same_arrays(self, found: dict[str, Any], expected: dict[str, Any]) -> None:
        self.assertEqual(found.keys(), expected.keys())
        for name in expected:
            np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]), err_msg=name)


class TestBackends(RunTestCase):
    @parameterized.expand(["jax", "torch"])
    def test_a_run_is_the_same_on_every_backend(self, backend: str) -> None:
        if backend == "jax":
            import jax

            self.addCleanup(jax.config.update, "jax_enable_x64", jax.config.jax_enable_x64)
        few: dict[str, Any] = {"data": {"examples": 64, "test_fraction": 0.5}, "run": {"batch_size": 16, "epochs": 3}}
        here = Trainer(self.config(backend="numpy", **few))
        there = Trainer(self.config(backend=backend, **few))
        self.assert_same_arrays(there.program.params, here.program.params)
        self.assert_same_arrays(there.sets["train"], here.sets["train"])
        expected = train(self.config("numpy", backend="numpy", **few)).history
        history = train(self.config(backend, backend=backend, **few)).history
        self.assertEqual(len(history), 3)
        for found, record in zip(history, expected, strict=True):
            self.assertEqual(list(found), list(record))
            np.testing.assert_allclose(list(found.values()), list(record.values()), rtol=1e-6)

    @parameterized.expand(["numpy", "jax", "torch"])
    def test_a_step_keeps_the_dtype_asked_for(self, backend: str) -> None:
        few = {"examples": 32, "test_fraction": 0.5}
        config = self.config(backend=backend, dtype="float32", data=few, run={"epochs": 1})
        arrays = [*train(config).params.values(), Trainer(config).sets["train"]["image"]]
        self.assertEqual({str(x.dtype).removeprefix("torch.") for x in arrays}, {"float32"})
        with np.load(self.folder / "run" / "checkpoint.npz") as found:
            kept = [found[name] for name in found.files if name.startswith(("parameters/", "optimizer/"))]
        self.assertEqual({x.dtype.name for x in kept}, {"float32"})


class TestTrainer(RunTestCase):
    def test_a_step_follows_the_gradient_of_the_total_loss(self) -> None:
        rate = 1e-3
        whole = {"batch_size": 1000, "epochs": 1}
        config = self.config(optimizer={"kind": "sgd", "learning_rate": rate}, run=whole)
        trainer = Trainer(config)
        params, data = trainer.program.params, trainer.sets["train"]
        moved = train(config).params
        gradients = {name: (params[name] - moved[name]) / rate for name in params}
        direction = {name: generator(1, 7).standard_normal(w.shape) for name, w in params.items()}
        width = 1e-5
        ends = [
            trainer.evaluate({name: w + sign * width * direction[name] for name, w in params.items()}, data)
            for sign in (1.0, -1.0)
        ]
        slope = (ends[0]["loss"] - ends[1]["loss"]) / (2.0 * width)
        expected = sum(np.sum(gradients[name] * direction[name]) for name in params)
        np.testing.assert_allclose(slope, expected, rtol=1e-7)

    def test_the_total_weighs_the_components(self) -> None:
        trainer = Trainer(self.config())
        values = trainer.evaluate(trainer.program.params, trainer.sets["test"], step=3)
        # the warm-up of `pixels` is half way to 3 at step 3 of 6
        np.testing.assert_allclose(values["loss"], values["classes"] + 1.5 * values["pixels"] + values["decay"])

    def test_seeds_differ(self) -> None:
        one, two = (Trainer(self.config(seed=seed)).program.params["digit_1_weight"] for seed in (0, 1))
        self.assertFalse(np.any(one == two))

    def test_batches_cover_every_row_once_in_an_order_of_their_own(self) -> None:
        first, second = (np.concatenate(batches(50, 16, seed=3, epoch=epoch)) for epoch in (1, 2))
        np.testing.assert_array_equal(np.sort(first), np.arange(50))
        self.assertFalse(np.array_equal(first, second))

    def test_ignored_labels_do_not_count_as_mistakes(self) -> None:
        labels = np.arange(60) // 2 % 2
        rows = generator(0).normal(np.outer(labels - 0.5, [4.0, 0.0]), 0.1)
        labels[::2] = -1
        np.savez(self.folder / "data.npz", x=rows, y=labels)
        term = {"name": "sign", "loss": "cross_entropy_with_logits", "output": "sign", "target": "y"}
        config = self.config(
            data={"file": str(self.folder / "data.npz"), "input": "x", "examples": 60, "test_fraction": 0.5},
            model={"hidden": [], "outputs": {"sign": {"size": 2}}},
            objective={"terms": [{**term, "options": {"ignore_index": -1}}], "regularizers": []},
            optimizer={"learning_rate": 0.3},
            run={"epochs": 20},
        )
        self.assertEqual(train(config).accuracy["sign"], 1.0)


class TestDemo(RunTestCase):
    @pytest.mark.exhaustive  # it trains for six seconds; `make demo` runs the same file
    def test_the_demonstration_reads_digits(self) -> None:
        config = read_config(DEMO, [f"run.output={self.folder}"], backend="numpy")
        result = train(config)
        self.assertGreaterEqual(result.accuracy["digit"], 0.96)
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()),
            ["checkpoint.npz", "config.toml", "history.csv", "parameters.npz", "preparation.json", "training.png"],
        )
        self.assertEqual(sorted(result.files), sorted(self.folder.iterdir()))
        with (self.folder / "history.csv").open(newline="") as file:
            records = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        self.assertEqual(records, result.history)
        self.assertEqual(len(records), config.run.epochs)
        # pixels lie in [0, 1] with a variance of 0.14: the network must draw far better than their mean does
        self.assertLess(records[-1]["test_reconstruction"], 0.01)
        self.assertEqual((self.folder / "training.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")


class TestResume(RunTestCase):
    @parameterized.expand([("adam", {"kind": "adam"}), ("sgd", {"kind": "sgd", "momentum": 0.9})])
    def test_a_resumed_run_ends_where_an_uninterrupted_one_does(self, case: str, optimizer: dict[str, Any]) -> None:
        whole = train(self.config("whole", optimizer=optimizer, run={"epochs": 4}))
        train(self.config("parts", optimizer=optimizer, run={"epochs": 2}))
        seen: list[float] = []
        resumed = train(
            self.config("parts", optimizer=optimizer, run={"epochs": 4}),
            resume=True,
            on_epoch=lambda record: seen.append(record["epoch"]),
        )
        self.assert_same_arrays(self.parameters("parts"), self.parameters("whole"))
        self.assert_same_arrays(resumed.params, whole.params)
        self.assertEqual(resumed.history, whole.history)
        self.assertEqual(seen, [1, 2, 3, 4])
        for name in ("history.csv", "checkpoint.npz"):
            self.assertEqual(*((self.folder / run / name).read_bytes() for run in ("parts", "whole")), msg=name)

    def test_an_interrupted_run_leaves_its_last_epoch(self) -> None:
        def interrupt(progress: Any) -> None:
            if progress.done == 10:  # 128 training examples are 4 batches: the second batch of epoch 3
                raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            train(self.config(run={"epochs": 4}), on_batch=interrupt)
        self.assertEqual(len((self.folder / "run" / "history.csv").read_text().splitlines()), 3)
        train(self.config("whole", run={"epochs": 4}))
        train(self.config(run={"epochs": 4}), resume=True)
        self.assert_same_arrays(self.parameters(), self.parameters("whole"))

    def test_a_finished_run_can_be_resumed(self) -> None:
        train(self.config())
        before = self.parameters()
        train(self.config(run={"picture": True}), resume=True)
        self.assert_same_arrays(self.parameters(), before)
        self.assertTrue((self.folder / "run" / "training.png").exists())

    @parameterized.expand(
        [
            ({"optimizer": {"learning_rate": 0.02}}, r"optimizer\.learning_rate = 0\.01, .* 0\.02"),
            ({"seed": 1}, "seed = 0, .* 1"),
            ({"run": {"batch_size": 8}}, r"run\.batch_size = 32, .* 8"),
            ({"model": {"hidden": [12, 4]}}, r"model\.hidden\.1 = 'not set', .* 4"),
            ({"backend": "torch"}, "backend = 'numpy', .* 'torch'"),
            ({"run": {"epochs": 1}}, "3 epochs are done already, but 1 are asked for"),
        ]
    )
    def test_another_configuration_is_refused(self, change: dict[str, Any], message: str) -> None:
        train(self.config())
        before = (self.folder / "run" / "checkpoint.npz").read_bytes()
        with self.assertRaisesRegex(UserError, message):
            train(self.config(**change), resume=True)
        self.assertEqual((self.folder / "run" / "checkpoint.npz").read_bytes(), before)

    def test_other_data_are_refused(self) -> None:
        path = self.folder / "data.npz"
        rows = generator(0).random((20, 64))
        data = {"file": str(path), "examples": 20}
        np.savez(path, image=rows, label=np.arange(20) % 10)
        train(self.config(data=data))
        np.savez(path, image=rows, label=(np.arange(20) + 1) % 10)
        with self.assertRaisesRegex(UserError, "data"):
            train(self.config(data=data), resume=True)

    def test_damaged_checkpoints_are_refused(self) -> None:
        train(self.config())
        path = self.folder / "run" / "checkpoint.npz"
        whole = path.read_bytes()
        for length in range(0, len(whole), len(whole) // 7):
            path.write_bytes(whole[:length])
            with self.assertRaisesRegex(UserError, "checkpoint.npz: "):
                train(self.config(), resume=True)
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        path.write_bytes(flipped)
        with self.assertRaisesRegex(UserError, "truncated or damaged"):
            train(self.config(), resume=True)
        np.savez(path, w=np.zeros(3))
        with self.assertRaisesRegex(UserError, "not a checkpoint"):
            train(self.config(), resume=True)

    def test_checkpoints_with_other_contents_are_refused(self) -> None:
        train(self.config())
        path = self.folder / "run" / "checkpoint.npz"
        with np.load(path) as found:
            whole = dict(found)
        about = json.loads(str(whole["about"]))
        name = next(name for name in whole if name.endswith("_bias"))
        for changes, message in (
            ({name: np.zeros(3)}, rf"{name} is float64 of shape \(3,\) there, but float64 of shape \(12,\)"),
            ({"parameters/other": np.zeros(3)}, "parameters/other is only in the checkpoint"),
            ({"about": np.array("[1, 2]")}, "not a checkpoint"),
            ({"about": np.array(json.dumps(about | {"epoch": "x"}))}, "not a checkpoint"),
            ({"about": np.array(json.dumps(about | {"history": []}))}, "not a checkpoint"),
            ({"about": np.array(json.dumps(about | {"fingerprint": 3}))}, "not a checkpoint"),
        ):
            np.savez(path, **(whole | changes))
            with self.assertRaisesRegex(UserError, message):
                train(self.config(), resume=True)


class TestFiles(RunTestCase):
    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "run").iterdir()}

    def test_a_run_that_fails_in_its_first_epoch_leaves_what_was_there(self) -> None:
        train(self.config(run={"picture": True, "epochs": 1}))
        before = self.contents()
        self.assertEqual(len(before), 6)
        with self.assertRaisesRegex(DivergedError, r"training diverged: train_\w+ is (nan|inf) in epoch 1"):
            train(self.config(optimizer={"kind": "sgd", "learning_rate": 1e200}), overwrite=True)
        self.assertEqual(self.contents(), before)

    def test_the_picture_of_an_earlier_run_does_not_stay(self) -> None:
        train(self.config(run={"picture": True, "epochs": 1}))
        train(self.config(run={"epochs": 1}), overwrite=True)
        self.assertNotIn("training.png", self.contents())

    def test_a_write_that_fails_changes_nothing(self) -> None:
        path = self.folder / "file"
        path.write_bytes(b"old")

        def fail(file: Any) -> None:
            file.write(b"half of the ne")
            raise OSError(28, "No space left on device")

        with self.assertRaises(OSError):
            write_atomically({path: fail})
        self.assertEqual([(p.name, p.read_bytes()) for p in self.folder.iterdir()], [("file", b"old")])


class TestPicture(unittest.TestCase):
    HISTORY = (
        {
            "epoch": 1,
            "train_loss": 1.0,
            "train_term": 0.5,
            "test_loss": 2.0,
            "test_term": 0.7,
            "test_accuracy_digit": 0.25,
        },
        {
            "epoch": 2,
            "train_loss": 0.5,
            "train_term": 0.2,
            "test_loss": 1.5,
            "test_term": 0.6,
            "test_accuracy_digit": 0.5,
        },
    )

    def test_curves_show_the_history(self) -> None:
        losses, accuracy = draw_training(self.HISTORY).axes
        drawn = [line.get_ydata().tolist() for line in losses.lines[:4]]
        self.assertEqual(drawn, [[1.0, 0.5], [2.0, 1.5], [0.5, 0.2], [0.7, 0.6]])
        self.assertEqual(accuracy.lines[0].get_ydata().tolist(), [25.0, 50.0])
        self.assertEqual((accuracy.get_xlabel(), accuracy.get_ylabel()), ("epoch", "test accuracy / %"))

    def test_mistakes_come_first(self) -> None:
        images = generator(0).random((40, 2, 3))
        labels = np.arange(40) % 4
        predictions = labels.copy()
        predictions[[7, 9]] = 5
        figure = draw_training(self.HISTORY, Examples(images, labels, predictions, reconstructions=0.5 * images))
        tiles = figure.axes[2:]
        self.assertEqual(len(tiles), 30)
        titles = [(tile.get_title(), tile.title.get_color()) for tile in tiles[:3]]
        self.assertEqual(titles, [("5 (true: 3)", "tab:red"), ("5 (true: 1)", "tab:red"), ("0 (true: 0)", "black")])
        shown = tiles[0].images[0].get_array()
        np.testing.assert_array_equal(shown[:, :3], images[7])
        np.testing.assert_array_equal(shown[:, 4:], 0.5 * images[7])

    def test_a_name_with_dollars_is_no_formula(self) -> None:
        history = [{"epoch": 1, "train_loss": 1.0, "test_loss": 1.0, "train_$\\x$": -1.0, "test_$\\x$": 1.0}]
        draw_training(history).canvas.draw()  # would raise on the unknown symbol


class TestParts(unittest.TestCase):
    def test_the_perceptron_by_hand(self) -> None:
        network = Perceptron(hidden=(1,), outputs={"a": (1,), "b": (1, 2)})
        params = {
            "hidden_1_weight": np.array([[1.0], [2.0]]), "hidden_1_bias": np.array([0.5]),
            "a_1_weight": np.array([[3.0]]), "a_1_bias": np.array([-1.0]),
            "b_1_weight": np.array([[2.0]]), "b_1_bias": np.array([0.0]),
            "b_2_weight": np.array([[1.0, -1.0]]), "b_2_bias": np.array([0.0, 10.0]),
        }  # fmt: skip
        outputs = network(np, params, np.array([[0.1, 0.2]]))
        code = np.tanh(1.0)  # 0.1 + 2 · 0.2 + 0.5
        np.testing.assert_allclose(outputs["a"], [[3.0 * code - 1.0]])
        np.testing.assert_allclose(outputs["b"], [[np.tanh(2.0 * code), 10.0 - np.tanh(2.0 * code)]])

    @parameterized.expand(
        [
            ("adam", Adam(0.1, beta1=0.8, beta2=0.9, epsilon=1e-3), "Adam", {"betas": (0.8, 0.9), "eps": 1e-3}),
            ("sgd", Sgd(0.1, momentum=0.7), "SGD", {"momentum": 0.7}),
        ]
    )
    def test_optimizers_move_as_those_of_torch(self, case: str, ours: Any, name: str, options: dict[str, Any]) -> None:
        import torch

        draw = generator(2)
        params = {"w": draw.standard_normal((2, 3)), "b": draw.standard_normal(3)}
        theirs = {key: torch.tensor(w) for key, w in params.items()}
        optimizer = getattr(torch.optim, name)(list(theirs.values()), lr=0.1, **options)
        state = ours.initial_state(params)
        for step in range(1, 6):
            gradients = {key: draw.standard_normal(w.shape) for key, w in params.items()}
            for key, w in theirs.items():
                w.grad = torch.tensor(gradients[key])
            optimizer.step()
            params, state = ours.update(params, gradients, state, step)
        for key, w in params.items():
            np.testing.assert_allclose(w, theirs[key].numpy(), rtol=1e-12)
