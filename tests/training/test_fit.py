"""`fit`: the same histories as loops that are written by hand, resumed runs, and what ends a run."""

import functools
import io
import itertools
import signal
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from parameterized import parameterized
from torch.utils.data import DataLoader, TensorDataset

from mithril_losses import Objective, Regularizer, Term, fit, mse_loss
from mithril_losses.models import CallableModel, JaxModel, TorchModel
from mithril_losses.objectives import cosine, linear_warmup
from mithril_losses.training import Adam, AdamW, DivergedError, Epoch, FitInterrupted, FitResult, Sgd, UserError
from mithril_losses.training.printing import PrintedProgress

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((20, 3))
Y = X @ np.array([[1.0], [-2.0], [0.5]]) + 0.1 * DRAW.standard_normal((20, 1))
OTHERS = {"x": X[:7] + 0.3, "y": Y[:7]}
OBJECTIVE = Objective([Term("error", "mse_loss", output="y", target="y")])
LINE = CallableModel(
    forward=lambda params, data: {"y": data["x"] @ params["w"]},
    vjp=lambda params, data, gradients: {"w": data["x"].T @ gradients["y"]},
)


def line(**changes: Any) -> FitResult:
    """Fit a line through the data, with NumPy."""
    arguments: dict[str, Any] = {
        "model": LINE, "objective": OBJECTIVE, "params": {"w": np.zeros((3, 1))}, "data": {"x": X, "y": Y},
        "optimizer": Sgd(0.1, momentum=0.5), "epochs": 4, "batch_size": 6, "evaluate_on": {"validation": OTHERS},
    }  # fmt: skip
    return fit(**(arguments | changes))


class FolderTestCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.folder / "run.npz"

    def assert_same_history(self, found: Any, expected: Any, rtol: float = 0.0) -> None:
        self.assertEqual(len(found), len(expected))
        for one, other in zip(found, expected, strict=True):
            self.assertEqual(list(one), list(other))
            np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=rtol)


# --- loops that are written by hand ---------------------------------------------------------------------------------


def torch_network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ).double()


def loader() -> DataLoader[Any]:
    data = TensorDataset(torch.tensor(X), torch.tensor(Y))
    return DataLoader(data, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(7))


class TestTorch(FolderTestCase):
    def fit(self, epochs: int = 4, **options: Any) -> FitResult:
        module = torch_network()
        torch.manual_seed(11)
        model = TorchModel(module, output_names=["y"])
        return fit(
            model, OBJECTIVE, model.parameters(), loader(), batch_names=("input", "y"), epochs=epochs,
            optimizer=functools.partial(torch.optim.AdamW, lr=0.02), evaluate_on={"test": {"input": X[:5], "y": Y[:5]}},
            **options,
        )  # fmt: skip

    def by_hand(self, epochs: int = 4) -> tuple[list[dict[str, float]], torch.nn.Module]:
        module = torch_network()
        torch.manual_seed(11)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)
        history, batches = [], loader()
        for epoch in range(1, epochs + 1):
            module.train()
            total = 0.0
            for x, y in batches:
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(module(x), y)
                loss.backward()
                optimizer.step()
                total += len(x) * loss.item()
            module.eval()
            with torch.no_grad():
                test = torch.nn.functional.mse_loss(module(torch.tensor(X[:5])), torch.tensor(Y[:5])).item()
            mean = total / len(X)
            history.append(
                {"epoch": epoch, "train_loss": mean, "train_error": mean, "test_loss": test, "test_error": test}
            )
        return history, module

    def test_a_module_and_a_data_loader(self) -> None:
        result, (history, module) = self.fit(), self.by_hand()
        self.assert_same_history(result.history, history, rtol=1e-12)
        for name, w in module.named_parameters():
            torch.testing.assert_close(result.params[name], w.detach(), rtol=1e-12, atol=0.0)

    def test_a_resumed_run_draws_the_same_masks_and_batches(self) -> None:
        whole = self.fit()
        self.fit(epochs=2, checkpoint=self.file)
        torch.rand(5)  # what else draws in between
        resumed = self.fit(checkpoint=self.file, resume=True)
        self.assert_same_history(resumed.history, whole.history)
        for name, w in whole.params.items():
            torch.testing.assert_close(resumed.params[name], w, rtol=0.0, atol=0.0)
        self.assertEqual((resumed.best_epoch, resumed.steps), (whole.best_epoch, whole.steps))

    def test_the_module_is_neither_moved_nor_left_in_another_mode(self) -> None:
        module = torch_network()
        before = [w.detach().clone() for w in module.parameters()]
        model = TorchModel(module, output_names=["y"])
        optimizer = functools.partial(torch.optim.SGD, lr=0.1)
        fit(
            model, OBJECTIVE, model.parameters(), loader(), batch_names=("input", "y"), epochs=1, optimizer=optimizer,
        )  # fmt: skip
        for w, old in zip(module.parameters(), before, strict=True):
            torch.testing.assert_close(w.detach(), old, rtol=0.0, atol=0.0)
        self.assertTrue(module.training)

    def test_running_means_are_resumed(self) -> None:
        def run(epochs: int, **options: Any) -> dict[str, torch.Tensor]:
            torch.manual_seed(0)
            module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)).double()
            model = TorchModel(module, output_names=["y"])
            fit(
                model, OBJECTIVE, model.parameters(), {"input": X, "y": Y}, optimizer=Sgd(0.01), epochs=epochs,
                batch_size=10, **options,
            )  # fmt: skip
            return {name: buffer.clone() for name, buffer in module.named_buffers()}

        whole = run(3)
        run(1, checkpoint=self.file)
        for name, buffer in run(3, checkpoint=self.file, resume=True).items():
            torch.testing.assert_close(buffer, whole[name], rtol=0.0, atol=0.0)


class TestJax(FolderTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(jax.config.update, "jax_enable_x64", jax.config.jax_enable_x64)
        jax.config.update("jax_enable_x64", True)

    def fit(self, params: Any, function: Any, **options: Any) -> FitResult:
        arguments: dict[str, Any] = {"epochs": 3, "batch_size": None, "optimizer": optax.adam(0.05)}
        return fit(JaxModel(function), OBJECTIVE, params, {"x": X, "y": Y}, **(arguments | options))

    def assert_as_by_hand(self, params: Any, predict: Any, result: FitResult) -> None:
        """Compare with a loop in optax."""

        def loss(params: Any) -> Any:
            return jnp.mean((predict(params, jnp.array(X)) - Y) ** 2)

        optimizer = optax.adam(0.05)
        state, losses = optimizer.init(params), []
        for _ in range(3):
            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(float(value))
        np.testing.assert_allclose([record["train_loss"] for record in result.history], losses, rtol=1e-12)
        for found, expected in zip(jax.tree.leaves(result.params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10)

    @pytest.mark.exhaustive  # importing equinox and tracing its model takes seconds
    def test_an_equinox_model(self) -> None:
        import equinox as eqx

        network = eqx.nn.MLP(3, 1, 8, 2, key=jax.random.key(0))
        params, static = eqx.partition(network, eqx.is_array)

        def predict(params: Any, x: Any) -> Any:
            return jax.vmap(eqx.combine(params, static))(x)

        function = lambda params, data: {"y": predict(params, data["x"])}  # noqa: E731
        result = self.fit(params, function)
        self.assertIs(type(result.params), type(network))
        self.assert_as_by_hand(params, predict, result)
        self.fit(params, function, epochs=1, checkpoint=self.file)
        resumed = self.fit(params, function, checkpoint=self.file, resume=True)
        self.assert_same_history(resumed.history, result.history)

    def test_nested_parameters(self) -> None:
        draw = np.random.default_rng(1)
        params = {"layers": [{"w": jnp.array(draw.standard_normal((3, 4)))}, {"w": jnp.array(draw.random((4, 1)))}]}

        def predict(params: Any, x: Any) -> Any:
            return jnp.tanh(x @ params["layers"][0]["w"]) @ params["layers"][1]["w"]

        result = self.fit(params, lambda params, data: {"y": predict(params, data["x"])})
        self.assert_as_by_hand(params, predict, result)

    def test_a_schedule_of_optax_is_resumed(self) -> None:
        rate = optax.exponential_decay(0.1, transition_steps=1, decay_rate=0.5)
        options = {"optimizer": optax.sgd(rate, momentum=0.9), "batch_size": 7}
        params, function = {"w": jnp.zeros((3, 1))}, lambda params, data: {"y": data["x"] @ params["w"]}
        whole = self.fit(params, function, **options)
        self.fit(params, function, **options, epochs=1, checkpoint=self.file)
        resumed = self.fit(params, function, **options, checkpoint=self.file, resume=True)
        self.assert_same_history(resumed.history, whole.history)


class TestNumpy(FolderTestCase):
    def test_a_loop_by_hand(self) -> None:
        from mithril_losses import mse_loss_gradient
        from mithril_losses.training.sources import batches

        w, v, history = np.zeros((3, 1)), np.zeros((3, 1)), []
        for epoch in range(1, 5):
            losses = []
            for rows in batches(20, 6, seed=0, epoch=epoch):
                x, y = X[rows], Y[rows]
                losses += [float(mse_loss(x @ w, y))] * len(rows)
                v = 0.5 * v + x.T @ mse_loss_gradient(x @ w, y)
                w = w - 0.1 * v
            mean, validation = float(np.mean(losses)), float(mse_loss(OTHERS["x"] @ w, OTHERS["y"]))
            names = ("epoch", "train_loss", "train_error", "validation_loss", "validation_error")
            history.append(dict(zip(names, (epoch, mean, mean, validation, validation), strict=True)))
        result = line()
        self.assert_same_history(result.history, history, rtol=1e-12)
        np.testing.assert_allclose(result.params["w"], w, rtol=1e-12)

    @parameterized.expand([("sgd", Sgd(0.1)), ("adam", Adam(0.1)), ("adamw", AdamW(0.1, weight_decay=0.3))])
    def test_every_library_gives_the_same_history(self, case: str, optimizer: Any) -> None:
        self.addCleanup(jax.config.update, "jax_enable_x64", jax.config.jax_enable_x64)
        expected = line(optimizer=optimizer).history
        for model, array in (
            (JaxModel(lambda params, data: {"y": data["x"] @ params["w"]}), lambda x: jnp.asarray(x, "float64")),
            (TorchModel(lambda params, data: {"y": data["x"] @ params["w"]}), torch.tensor),
        ):
            jax.config.update("jax_enable_x64", True)
            params = {"w": array(np.zeros((3, 1)))}
            self.assert_same_history(line(optimizer=optimizer, model=model, params=params).history, expected, 1e-9)

    def test_regularizers_move_the_parameters(self) -> None:
        objective = Objective(OBJECTIVE.terms, [Regularizer("l2_regularization", weight=50.0)])
        strong, free = line(objective=objective), line()
        self.assertLess(np.abs(strong.params["w"]).sum(), 0.8 * np.abs(free.params["w"]).sum())
        self.assertIn("train_l2_regularization", strong.history[0])


# --- the options ----------------------------------------------------------------------------------------------------


class TestOptions(FolderTestCase):
    def test_the_best_epoch_is_kept(self) -> None:
        result = line(optimizer=Sgd(0.1, momentum=0.9), epochs=12)
        losses = [record["validation_loss"] for record in result.history]
        self.assertEqual(result.best_epoch, int(np.argmin(losses)) + 1)
        self.assertLess(result.best_epoch, 12)
        np.testing.assert_allclose(mse_loss(OTHERS["x"] @ result.best_params["w"], OTHERS["y"]), min(losses))

    def test_a_result_is_shown_without_its_parameters(self) -> None:
        shown = repr(line(epochs=2, evaluate_on={}))
        self.assertRegex(shown, r"\AFitResult\(epoch 2, train_loss \d.*best epoch 2, 8 steps, stopped by epochs\)\Z")

    def test_the_first_is_the_best_of_equal_epochs(self) -> None:
        result = line(optimizer=Sgd(0.1), schedule=lambda step: 0.0)
        self.assertEqual((result.best_epoch, len(result.history)), (1, 4))
        np.testing.assert_array_equal(result.best_params["w"], np.zeros((3, 1)))

    def test_the_decay_of_weights_follows_the_schedule(self) -> None:
        start, still = {"w": np.ones((3, 1))}, {"x": np.zeros((20, 3)), "y": np.zeros((20, 1))}
        options: dict[str, Any] = {"params": start, "data": still, "batch_size": None, "epochs": 1}
        half = line(optimizer=AdamW(0.1, weight_decay=0.5), schedule=lambda step: 0.5, **options)
        np.testing.assert_allclose(half.params["w"], 1.0 - 0.1 * 0.5 * 0.5)

    def test_patience_ends_a_run_and_a_resumed_one(self) -> None:
        wild: dict[str, Any] = {"optimizer": Sgd(0.1, momentum=0.9), "epochs": 60, "patience": 3}
        whole = line(**wild)
        self.assertEqual((whole.stopped, len(whole.history)), ("patience", whole.best_epoch + 3))
        line(**{**wild, "epochs": whole.best_epoch + 1, "checkpoint": self.file})
        resumed = line(**wild, checkpoint=self.file, resume=True)
        self.assertEqual((resumed.stopped, resumed.history), (whole.stopped, whole.history))
        np.testing.assert_array_equal(resumed.best_params["w"], whole.best_params["w"])
        again = line(**wild, checkpoint=self.file, resume=True)
        self.assertEqual((again.stopped, again.history), (whole.stopped, whole.history))

    def test_a_metric_is_monitored(self) -> None:
        metrics = {"negative": lambda outputs, batch: -float(mse_loss(outputs["y"], batch["y"]))}
        result = line(metrics=metrics, monitor="validation_negative", maximize=True)
        values = [record["validation_negative"] for record in result.history]
        np.testing.assert_allclose(values, [-record["validation_loss"] for record in result.history])
        self.assertEqual(result.best_epoch, int(np.argmax(values)) + 1)

    def test_gradients_are_clipped_and_rates_scheduled(self) -> None:
        one: dict[str, Any] = {"batch_size": None, "epochs": 1, "optimizer": Sgd(1.0)}
        self.assertAlmostEqual(float(np.linalg.norm(line(**one, clip_norm=0.01).params["w"])), 0.01)
        whole = line(**one).params["w"]
        np.testing.assert_array_equal(line(**one, clip_norm=1e9).params["w"], whole)
        np.testing.assert_allclose(line(**one, schedule=lambda step: 0.25 if step == 0 else 1.0).params["w"], whole / 4)
        np.testing.assert_array_equal(line(**one, schedule=linear_warmup(steps=10)).params["w"], np.zeros((3, 1)))
        np.testing.assert_array_equal(line(**one, schedule=cosine(steps=10)).params["w"], whole)

    def test_callbacks_get_each_epoch_and_may_end_the_run(self) -> None:
        seen: list[Epoch] = []

        def callback(epoch: Epoch) -> bool:
            seen.append(epoch)
            return len(seen) == 2

        result = line(callbacks=[callback])
        self.assertEqual((result.stopped, len(result.history)), ("callback", 2))
        self.assertEqual([epoch.record for epoch in seen], result.history)
        np.testing.assert_array_equal(seen[-1].params["w"], result.params["w"])
        self.assertEqual([epoch.is_best for epoch in seen].count(True), 2)

    @parameterized.expand(["list", "function", "steps"])
    def test_batches_of_many_kinds(self, kind: str) -> None:
        whole = {"x": X, "y": Y}
        parts = [{name: array[start : start + 5] for name, array in whole.items()} for start in range(0, 20, 5)]
        expected = line(data=whole, shuffle=False, batch_size=5)
        data: Any = {"list": parts, "function": lambda epoch: iter(parts), "steps": itertools.cycle(parts)}[kind]
        options = {"steps_per_epoch": 4} if kind == "steps" else {}
        self.assertEqual(line(data=data, **options).history, expected.history)

    def test_an_iterator_is_passed_over_when_a_run_is_resumed(self) -> None:
        def stream() -> Any:
            draw = np.random.default_rng(5)
            while True:
                x = draw.standard_normal((4, 3))
                yield x, x[:, :1]

        options: dict[str, Any] = {"batch_names": ("x", "y"), "steps_per_epoch": 3}
        whole = line(data=stream(), **options)
        line(data=stream(), **options, epochs=2, checkpoint=self.file)
        resumed = line(data=stream(), **options, checkpoint=self.file, resume=True)
        self.assertEqual(resumed.history, whole.history)

    def test_inputs_are_taken_by_name(self) -> None:
        data = {"features": X, "y": Y}
        result = line(data=data, inputs={"x": "features"}, evaluate_on={})
        self.assertEqual(result.history, line(evaluate_on={}).history)

    def test_progress_is_a_table(self) -> None:
        with mock.patch("sys.stderr", io.StringIO()) as stderr:
            line(progress=True, epochs=2)
        header, *rows = stderr.getvalue().splitlines()
        self.assertEqual(header.split("  ")[-1].strip(), "validation loss")
        self.assertEqual([row.split()[0] for row in rows], ["1", "2"])

    def test_a_terminal_counts_batches(self) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        table, counter = io.StringIO(), Terminal()
        with mock.patch("mithril_losses.training.printing._PAUSE", -1.0):
            progress = PrintedProgress(table, counter)
            line(on_batch=progress.batch, callbacks=[lambda epoch: progress.record(epoch.record)], epochs=2)
        self.assertRegex(counter.getvalue(), r"\rbatch 2 of 8, \d+ s left")
        self.assertNotIn("batch", table.getvalue())


class TestCheckpoints(FolderTestCase):
    def test_a_run_is_never_overwritten_unasked(self) -> None:
        line(checkpoint=self.file)
        before = self.file.read_bytes()
        with self.assertRaisesRegex(UserError, "holds a run already: resume it, or overwrite it"):
            line(checkpoint=self.file, epochs=2)
        self.assertEqual(self.file.read_bytes(), before)
        self.assertEqual(len(line(checkpoint=self.file, epochs=2, overwrite=True).history), 2)

    def test_another_run_is_not_resumed(self) -> None:
        line(checkpoint=self.file)
        for change, message in (
            ({"seed": 1}, "seed = 0, and cannot continue with 1"),
            ({"epochs": 3}, "4 epochs are done already, but 3 are asked for"),
            ({"optimizer": Adam(0.1)}, "optimizer/.* is only in"),
            ({"params": {"w": np.zeros((3, 1), "f4")}}, "float64 of shape"),
            ({"evaluate_on": {}}, "not a checkpoint of a training run"),
        ):
            with self.assertRaisesRegex(UserError, message):
                line(**{"checkpoint": self.file, "resume": True} | change)

    @parameterized.expand([(2, None), (7, 1)])
    def test_ctrl_c_keeps_the_last_epoch(self, batch: int, epochs: int | None) -> None:
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, previous)

        def interrupt(progress: Any) -> None:
            if progress.done == batch:
                signal.raise_signal(signal.SIGINT)

        with self.assertRaises(FitInterrupted) as caught:
            line(checkpoint=self.file, on_batch=interrupt)
        found = caught.exception.result
        self.assertEqual(None if found is None else len(found.history), epochs)
        self.assertEqual(line(checkpoint=self.file, resume=True).history, line().history)
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_a_diverged_run_is_an_error_and_keeps_the_epochs_before(self) -> None:
        with self.assertRaisesRegex(DivergedError, r"train_loss is [\d.]+e\+0\d in epoch \d+, and was .* at the start"):
            line(optimizer=Sgd(1.0), epochs=50, checkpoint=self.file)
        with self.assertRaisesRegex(DivergedError, "is (nan|inf) in epoch 1"):
            line(optimizer=Sgd(1e300))
        self.assertTrue(self.file.exists())


class TestErrors(unittest.TestCase):
    @parameterized.expand(
        [
            ("no epochs", {"epochs": 0}, ValueError, "epochs must be a positive number, got 0"),
            ("a fraction", {"batch_size": 2.5}, ValueError, "batch_size must be a positive number, got 2.5"),
            ("clipping to nothing", {"clip_norm": 0.0}, ValueError, "clip_norm must be positive"),
            ("a column", {"monitor": "train_los"}, ValueError, "did you mean 'train_loss'"),
            ("an optimizer", {"optimizer": "adam"}, TypeError, "optimizer must be Sgd, Adam or AdamW"),
            ("optax", {"optimizer": optax.adam(0.1)}, TypeError, "moves parameters of JAX, not of numpy"),
            ("parameters", {"params": {"w": [1.0]}}, TypeError, "params must be arrays of one library"),
            ("lengths", {"data": {"x": X, "y": Y[:3]}}, ValueError, "the same number of rows"),
            ("data", {"data": 3}, TypeError, "data must be a dict of arrays, an iterable of batches or a function"),
            ("names", {"data": [(X, Y)]}, ValueError, "a batch has 2 entries, and batch_names names"),
            ("used up", {"data": iter([{"x": X, "y": Y}])}, ValueError, "no batch in epoch 2; an iterator is used up"),
            ("a short epoch", {"data": [{"x": X, "y": Y}], "steps_per_epoch": 3}, ValueError, "asks for 3 batches"),
            ("an entry", {"inputs": {"x": "z"}}, ValueError, "unknown data entry 'z'"),
            ("a checkpoint", {"checkpoint": "/proc/none/run.npz"}, UserError, "cannot write into"),
        ]
    )
    def test_are_clear(self, case: str, change: dict[str, Any], kind: type[Exception], message: str) -> None:
        with self.assertRaisesRegex(kind, message):
            line(**change)
