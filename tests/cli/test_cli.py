"""The command line: what each command prints, and one clear line with exit code 2 for every kind of bad input."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from commandline import CommandLineTestCase
from parameterized import parameterized

from mithril_losses import catalogue, gradient_of, unregister
from mithril_losses.backends import BackendNotInstalledError
from mithril_losses.backends.namespaces import array_namespace
from mithril_losses.domains import REAL
from mithril_losses.training.checkpoints import CheckpointFile
from mithril_losses.training.config import read_config
from mithril_losses.training.errors import UserError


class TestTrain(CommandLineTestCase):
    def test_prints_a_line_per_epoch_and_writes_files(self) -> None:
        result = self.train()
        self.assertEqual(result.exit_code, 0, result.output)
        header, *lines = result.stdout.splitlines()
        self.assertEqual(header.split(), ["epoch", "loss", "classes", "test", "loss", "test", "accuracy_digit"])
        self.assertEqual([line.split()[0] for line in lines], ["1", "2", "test", "written:"])
        self.assertRegex(lines[2], r"^test accuracy \(digit\): \d+\.\d\d %$")
        names = ["checkpoint.npz", "config.toml", "history.csv", "parameters.npz", "preparation.json"]
        self.assertEqual(sorted(path.name for path in self.output.iterdir()), names)
        for name in names:
            self.assertIn(str(self.output / name), lines[3])

    def test_resumes(self) -> None:
        self.train("run.epochs=1")
        result = self.train("run.epochs=3", resume=True)
        self.assertEqual([line.split()[0] for line in result.stdout.splitlines()[1:4]], ["1", "2", "3"])
        resumed = (self.output / "parameters.npz").read_bytes()
        self.train("run.epochs=3", overwrite=True)
        self.assertEqual((self.output / "parameters.npz").read_bytes(), resumed)

    def test_long_names_are_not_cut(self) -> None:
        name = "a_component_with_quite_a_long_name_" * 3
        self.assertIn(name, self.train(f"objective.terms.0.name={name}").stdout)

    @parameterized.expand([(1, "no epoch was complete"), (7, "epoch 2 is kept")])
    def test_an_interruption_is_one_line(self, batch: int, message: str) -> None:
        def interrupted(rows: int, batch_size: int, seed: int, epoch: int) -> list[Any]:
            found = [np.arange(20) for _ in range(3)]
            if epoch == 3 or batch == 1:
                raise KeyboardInterrupt
            return found

        with mock.patch("mithril_losses.training.sources.batches", interrupted):
            result = self.train("run.epochs=5")
        self.assertEqual(result.exit_code, 130)
        self.assertRegex(result.stderr, rf"\Ainterrupted: {message}[^\n]*\n\Z")
        self.assertEqual((self.output / "checkpoint.npz").exists(), batch != 1)

    def let_interruptions_through(self) -> None:
        """A shell lets what it runs in the background ignore interruptions, and that is inherited."""
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

    def test_an_interruption_while_files_are_written_waits(self) -> None:
        self.let_interruptions_through()
        save = CheckpointFile.save

        def interrupted(*arguments: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            save(*arguments)

        with mock.patch.object(CheckpointFile, "save", interrupted):
            result = self.train("run.epochs=5")
        self.assertEqual(result.exit_code, 130)
        self.assertRegex(result.stderr, r"\Ainterrupted: epoch 1 is kept in [^\n]+\n\Z")
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_a_second_interruption_does_not_wait(self) -> None:
        self.let_interruptions_through()

        def interrupted(*_: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        with mock.patch.object(CheckpointFile, "save", interrupted):
            result = self.train("run.epochs=5")
        self.assertEqual((result.exit_code, result.stderr), (130, "interrupted: no epoch was complete\n"))

    def test_a_real_interruption_keeps_the_checkpoint(self) -> None:
        # as in `let_interruptions_through`; a function that runs before the program would fork this process
        program = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from mithril_losses.cli import main; main()"
        )
        command = [sys.executable, "-c", program, "train", str(self.file), "--set", "run.epochs=1000000"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60.0
        while not (self.output / "checkpoint.npz").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, errors)
        self.assertRegex(errors, r"\Ainterrupted: epoch \d+ is kept in [^\n]+\n\Z")
        with np.load(self.output / "checkpoint.npz", allow_pickle=False) as checkpoint:
            self.assertIn("parameters/digit_1_weight", checkpoint.files)

    def test_a_defect_keeps_its_traceback(self) -> None:
        with mock.patch("mithril_losses.training.loop.weighted_means", side_effect=ValueError("a bug")):
            result = self.train()
        self.assertEqual(str(result.exception), "a bug")


class TestBackendChoice(CommandLineTestCase):
    @parameterized.expand(
        [
            ("option", "torch", "jax", "numpy", "torch"),
            ("environment", None, "jax", "numpy", None),  # None: get_backend reads the variable
            ("file", None, None, "numpy", "numpy"),
            ("empty variable", None, "", "numpy", "numpy"),
            ("nothing", None, None, None, None),
        ]
    )
    def test_precedence(
        self, case: str, option: str | None, variable: str | None, file: str | None, expected: str | None
    ) -> None:
        if variable is not None:
            os.environ["MITHRIL_LOSSES_BACKEND"] = variable
        changes = [f"backend={file}"] if file else []
        self.assertEqual(read_config(self.file, changes, option).backend, expected)

    def test_the_environment_variable_is_named_when_it_is_wrong(self) -> None:
        os.environ["MITHRIL_LOSSES_BACKEND"] = "jaxx"
        self.assert_fails(self.train(), "'jaxx'", "MITHRIL_LOSSES_BACKEND", "did you mean 'jax'?")

    def test_a_name_that_is_empty_is_no_name(self) -> None:
        self.assert_fails(self.train(backend=""), "unknown backend ''")

    def test_a_backend_that_is_not_installed(self) -> None:
        with mock.patch(
            "mithril_losses.training.experiment.get_backend", side_effect=BackendNotInstalledError("torch")
        ):
            self.assert_fails(self.train(backend="torch"), "pip install '.[torch]'")


class TestBadConfiguration(CommandLineTestCase):
    @parameterized.expand(
        [
            ("unknown backend", "backend=nunpy", ["'nunpy'", "did you mean 'numpy'?"]),
            ("unknown loss", "objective.terms.0.loss=mse_los", ["objective.terms[0].loss", "did you mean 'mse_loss'?"]),
            ("unknown output", "objective.terms.0.output=digits", ["objective.terms[0]", "did you mean 'digit'?"]),
            ("unknown target", "objective.terms.0.target=labels", ["did you mean 'label'?", "image, label"]),
            ("unknown input", "data.input=imag", ["did you mean 'image'?"]),
            ("unknown key", "run.epoch=3", ["run.epoch: unknown key", "did you mean 'epochs'?"]),
            ("unknown table", "optimiser.kind=sgd", ["optimiser: unknown key", "did you mean 'optimizer'?"]),
            ("unknown option", "objective.terms.0.options.smoothing=1", ["options.smoothing", "label_smoothing"]),
            ("unknown optimizer", "optimizer.kind=adma", ["optimizer.kind", "'adam', 'adamw' or 'sgd'", "'adma'"]),
            ("option of the other optimizer", "optimizer.beta1=0.5", ["optimizer.beta1", "momentum"]),
            ("text for a number", "optimizer.learning_rate=fast", ["optimizer.learning_rate", "number", "'fast'"]),
            ("text in quotes for a number", "run.epochs='2'", ["run.epochs", "integer"]),
            ("fraction for a count", "run.epochs=2.5", ["run.epochs", "integer", "2.5"]),
            ("truth for a count", "run.batch_size=true", ["run.batch_size", "integer"]),
            ("zero epochs", "run.epochs=0", ["run.epochs", "greater than or equal to 1"]),
            ("negative rate", "optimizer.learning_rate=-1", ["optimizer.learning_rate", "greater than 0"]),
            ("infinite rate", "optimizer.learning_rate=inf", ["optimizer.learning_rate", "finite"]),
            ("fraction out of range", "data.test_fraction=1.0", ["data.test_fraction", "less than 1"]),
            ("negative seed", "seed=-1", ["seed", "greater than or equal to 0"]),
            ("unknown dtype", "dtype=float16", ["dtype", "'float32' or 'float64'"]),
            ("bad output name", "model.outputs.a-b.size=3", ["model.outputs.a-b"]),
            ("reserved output name", "model.outputs.hidden.size=3", ["no output can be called 'hidden'"]),
            ("reserved term name", "objective.terms.0.name=loss", ["'loss' is the name of the total"]),
            ("weight that is not finite", "objective.terms.0.weight=nan", ["objective.terms[0].weight", "finite"]),
            ("no table", "run=3", ["run: Input should be a table, got 3"]),
            ("index out of range", "objective.terms.4.weight=1", ["--set objective.terms.4.weight=1", "list of 1"]),
            ("index into a number", "optimizer.kind.0=1", ["--set optimizer.kind.0=1", "not a table"]),
            ("no value", "seed", ["--set seed", "key=value"]),
            ("too many examples", "data.examples=5000", ["data.examples", "5000", "1797"]),
            ("empty test set", "data.test_fraction=0.001", ["data.test_fraction", "empty"]),
            ("wrong image shape", "data.image_shape=[7, 9]", ["data.image_shape", "64"]),
            ("no match", "objective.regularizers=[{loss='l2_regularization', parameters=['w*']}]", ["pattern 'w*'"]),
            ("shapes that differ", "objective.terms.0.target=image", ["term 'classes'", "(20, 10)", "(20, 64)"]),
            ("labels out of range", "model.outputs.digit.size=7", ["term 'classes'", "outside the 7 classes"]),
        ]
    )  # fmt: skip
    def test_is_one_clear_line(self, case: str, change: str, words: list[str]) -> None:
        self.output.mkdir()
        (self.output / "parameters.npz").write_bytes(b"of an earlier run")
        self.assert_fails(self.train(change), *words)
        self.assertEqual([path.read_bytes() for path in self.output.iterdir()], [b"of an earlier run"])

    @parameterized.expand(
        [
            ("malformed", "seed = 0\n\nrun = = 3\n", ["config.toml", "line 3"]),
            ("cut off", "seed = 0\n[run", ["config.toml", "end of document"]),
            ("twice the same key", "seed = 0\nseed = 1\n", ["config.toml", "line 2"]),
            ("not text", b"\xff\xfe\x00", ["config.toml", "not TOML"]),
        ]
    )
    def test_malformed_toml_names_the_line(self, case: str, text: str | bytes, words: list[str]) -> None:
        self.file.write_bytes(text.encode() if isinstance(text, str) else text)
        self.assert_fails(self.train(), *words)

    def test_every_wrong_key_gets_its_line(self) -> None:
        result = self.train("run.epochs=0", "seed=-1")
        self.assertEqual(result.exit_code, 2)
        self.assertEqual([line.split(": ")[2] for line in result.stderr.splitlines()], ["seed", "run.epochs"])

    def test_an_empty_file_names_what_is_missing(self) -> None:
        self.file.write_text("", encoding="utf-8")
        result = self.train()
        self.assertEqual(result.exit_code, 2)
        for key in ("model", "objective", "optimizer", "run"):
            self.assertIn(f"{key}: Field required", result.stderr)

    @parameterized.expand(
        [
            ("missing file", ["train", "nowhere.toml"], ["nowhere.toml", "No such file"]),
            ("folder for a file", ["train", "."], ["directory"]),
            ("unknown command", ["trian"], ["'trian'", "train"]),
            ("unknown option", ["list", "--famly", "x"], ["--famly"]),
            ("missing argument", ["train"], ["see mithril-losses train --help"]),
            ("part of a name", ["show", "mse"], ["did you mean 'mse_loss'?"]),
            ("unknown loss to show", ["show", "hubber_loss"], ["did you mean 'huber_loss'?"]),
            ("unknown loss to check", ["check", "mse"], ["'mse'"]),
            ("unknown family", ["list", "--family", "regresion"], ["did you mean 'regression'?", "divergence"]),
            ("unknown backend to check with", ["check", "--backend", "touch"], ["did you mean 'torch'?"]),
        ]
    )
    def test_bad_command_lines(self, case: str, arguments: list[str], words: list[str]) -> None:
        self.assert_fails(self.run_app(*arguments), *words)


class TestBadFiles(CommandLineTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = self.folder / "data.npz"

    def train_on(self, **arrays: Any) -> Any:
        draw = np.random.default_rng(0)
        np.savez(self.data, **{"image": draw.random((120, 4)), "label": draw.integers(0, 10, 120), **arrays})
        return self.train(f"data.file={self.data.as_posix()}")

    def test_good_data_are_taken(self) -> None:
        result = self.train_on(names=np.array(["not", "used"]))
        self.assertEqual(result.exit_code, 0, result.output)

    @parameterized.expand(
        [
            ("nan", {"image": np.where(np.arange(480) == 9, np.nan, 1.0).reshape(120, 4)}, ["holds nan at (2, 1)"]),
            ("infinity", {"image": np.full((120, 4), np.inf)}, ["'image'", "inf", "480"]),
            ("objects", {"label": np.array([{}] * 120)}, ["data.npz", "allow_pickle"]),
            ("text", {"label": np.array(["a"] * 120)}, ["'label'", "<U1"]),
            ("another length", {"label": np.zeros(119, dtype=int)}, ["'label' has 119 rows", "120"]),
            ("no features", {"image": np.ones(120)}, ["'image'", "(80,)"]),
            ("integers", {"image": np.ones((120, 4), dtype=int)}, ["'image'", "int64"]),
            ("negative labels", {"label": np.full(120, -1)}, ["label -1"]),
            ("too large", {"image": np.full((120, 4), 1e39)}, ["holds 1e+39 at (0, 0)", "float32"]),
            ("one number", {"image": np.array(1.0)}, ["float64 of shape ()"]),
        ]
    )  # fmt: skip
    def test_bad_arrays_are_named(self, case: str, arrays: dict[str, Any], words: list[str]) -> None:
        self.assert_fails(self.train_on(**arrays), *words)
        self.assertFalse(self.output.exists())

    def test_labels_are_never_wrapped_round(self) -> None:
        label = np.arange(120) % 2 + 2**32
        self.train_on()
        with np.load(self.data) as found:
            np.savez(self.data, **{**found, "label": label})
        for backend in ("numpy", "jax"):
            changes = (f"data.file={self.data.as_posix()}", "data.input=image")
            self.assert_fails(self.train(*changes, backend=backend, overwrite=True), str(2**32)[:8])

    def test_foreign_byte_order(self) -> None:
        result = self.train_on(image=np.ones((120, 4), dtype=">f8"), label=np.zeros(120, dtype=">i2"))
        self.assertEqual(result.exit_code, 0, result.output)
        for backend in ("jax", "torch"):
            result = self.train(f"data.file={self.data.as_posix()}", backend=backend, overwrite=True)
            self.assertEqual(result.exit_code, 0, result.output)

    @parameterized.expand(["empty", "cut", "text", "one array", "missing"])
    def test_files_that_are_no_npz(self, kind: str) -> None:
        self.train_on()
        whole = self.data.read_bytes()
        if kind == "missing":
            self.data.unlink()
        elif kind == "one array":
            with self.data.open("wb") as file:
                np.save(file, np.ones(3))
        else:
            self.data.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"a,b\n1,2\n"}[kind])
        self.assert_fails(self.train(f"data.file={self.data.as_posix()}", overwrite=True), str(self.data))

    def test_an_output_that_is_no_folder(self) -> None:
        self.output.write_text("something else", encoding="utf-8")
        self.assert_fails(self.train(), "run.output", str(self.output))
        self.assert_fails(self.train(f"run.output={(self.output / 'below').as_posix()}"), "run.output")
        self.assertEqual(self.output.read_text(encoding="utf-8"), "something else")

    def test_an_output_that_cannot_be_written_into(self) -> None:
        with mock.patch("mithril_losses.training.files.os.open", side_effect=PermissionError(13, "Permission denied")):
            self.assert_fails(self.train(), "run.output", "Permission denied")

    def test_a_full_disk(self) -> None:
        with mock.patch(
            "mithril_losses.training.checkpoints.np.savez", side_effect=OSError(28, "No space left on device")
        ):
            result = self.train()
        self.assert_fails(result, "cannot write into", "No space left on device")
        self.assertEqual(list(self.output.iterdir()), [])

    def test_a_truncated_checkpoint(self) -> None:
        self.train()
        path = self.output / "checkpoint.npz"
        path.write_bytes(path.read_bytes()[:-50])
        self.assert_fails(self.train(resume=True), "checkpoint.npz", "truncated or damaged")

    def test_no_checkpoint(self) -> None:
        self.assert_fails(self.train(resume=True), "no checkpoint to resume from")
        self.assertFalse(self.output.exists())

    def test_another_configuration(self) -> None:
        self.train()
        self.assert_fails(self.train("optimizer.learning_rate=0.2", resume=True), "optimizer.learning_rate")


class TestCatalogue(CommandLineTestCase):
    def test_list_shows_every_loss_whole(self) -> None:
        text = self.run_app("list").stdout
        for name, pair in catalogue().items():
            line = next(line for line in text.splitlines() if line.split()[1] == name)
            self.assertIn(pair.formula, line)
            self.assertIn(pair.family, line)
            for argument in pair.array_arguments:
                self.assertIn(f"{argument} {pair.domain[argument]}", line)

    def test_list_shows_one_family(self) -> None:
        text = self.run_app("list", "--family", "divergence").stdout
        self.assertIn("kl_divergence", text)
        self.assertNotIn("mse_loss", text)

    @parameterized.expand(sorted(catalogue()))
    def test_show_tells_what_a_loss_is(self, name: str) -> None:
        pair, text = catalogue()[name], self.run_app("show", name).stdout
        for fact in (pair.formula, pair.gradient_formula, pair.source, ">>> "):
            self.assertIn(fact, text)
        for argument, parameter in pair.parameters.items():
            default = "" if parameter.default is parameter.empty else repr(parameter.default)
            table = text[text.index("\nargument") :].splitlines()
            line = next(line for line in table if line.startswith(f"{argument} "))
            self.assertTrue(line.endswith(f" {default}".rstrip()), line)

    def test_show_tells_when_a_property_holds(self) -> None:
        text = " ".join(self.run_app("show", "maximum_mean_discrepancy").stdout.split())
        self.assertIn("never negative (unbiased=False)", text)
        self.assertIn("(kernel_type='rbf' or 'linear')", text)

    def test_show_ends_with_the_example(self) -> None:
        lines = self.run_app("show", "mse_loss").stdout.rstrip().splitlines()
        self.assertEqual(lines[-2:], [">>> round(float(loss), 12)", "0.02"])

    def test_check_passes(self) -> None:
        result = self.run_app("check", "mse_loss", "triplet_loss")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("2 of 2 gradients are right (numpy)", result.stdout)
        self.assertIn("triplet_loss", result.stdout)

    @parameterized.expand([("jax", "jax"), ("torch", "torch")])
    def test_check_uses_the_backend(self, case: str, backend: str) -> None:
        self.assertIn(f"({backend})", self.run_app("check", "huber_loss", "--backend", backend).stdout)

    def test_check_on_a_device(self) -> None:
        self.assertEqual(self.run_app("check", "huber_loss", "--backend", "torch", "--device", "cpu").exit_code, 0)
        result = self.run_app("check", "huber_loss", "--backend", "torch", "--device", "nowhere")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("nowhere", result.stderr)

    def test_a_report_that_cannot_be_written_is_said_at_once(self) -> None:
        for options in (
            ["--all", "--report", "nowhere/trust.md"],
            ["--report", "trust.md"],
            ["--all", "--device", "cpu"],
        ):
            result = self.run_app("check", "mse_loss", *options)
            self.assertEqual((result.exit_code, result.stdout), (2, ""))
            self.assertRegex(result.stderr, r"^error: .*(cannot be written|needs --all|on the host)")

    def test_check_fails_for_a_wrong_gradient(self) -> None:
        def wrong_loss(predictions: Any, targets: Any) -> Any:
            return ((predictions - targets) ** 2).sum()

        @gradient_of(wrong_loss, domain={"predictions": REAL, "targets": REAL})
        def wrong_loss_gradient(predictions: Any, targets: Any) -> Any:
            return predictions - targets

        self.addCleanup(unregister, "wrong_loss")
        result = self.run_app("check", "wrong_loss", "mse_loss")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("gradient wrt predictions", result.stdout)
        self.assertIn("1 of 2 gradients are right", result.stdout)

    def test_check_in_exact_numbers(self) -> None:
        result = self.run_app("check", "--exact", "mse_loss", "triplet_loss")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertRegex(result.stdout, r"mse_loss +13 +\d+ +(59|60)  the arithmetic +right")
        self.assertRegex(result.stdout, r" +1[5-8]  the exponent 1/p, a double")
        self.assertIn("2 of 2 gradients are right (exact numbers)", result.stdout)

    def test_check_in_exact_numbers_fails_for_a_gradient_wrong_in_the_tenth_digit(self) -> None:
        def wrong_loss(predictions: Any, targets: Any) -> Any:
            xp = array_namespace(predictions=predictions)
            return xp.sum((predictions - targets) ** 2)

        @gradient_of(wrong_loss, domain={"predictions": REAL, "targets": REAL})
        def wrong_loss_gradient(predictions: Any, targets: Any) -> Any:
            return (2.0 + 1e-10) * (predictions - targets)

        self.addCleanup(unregister, "wrong_loss")
        result = self.run_app("check", "--exact", "wrong_loss", "mse_loss")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("gradient · direction = ", result.stdout)
        self.assertIn("1 of 2 gradients are right (exact numbers)", result.stdout)

    def test_check_in_exact_numbers_says_what_it_needs(self) -> None:
        with mock.patch.dict(sys.modules, {"mpmath": None}):
            for name in [name for name in sys.modules if name.startswith("mithril_losses.checking.exact")]:
                del sys.modules[name]
            result = self.run_app("check", "--exact", "mse_loss")
        self.assertEqual((result.exit_code, result.stdout), (2, ""))
        self.assertRegex(
            result.stderr,
            r"^error: this check needs mpmath, [^\n]*pip install '\.\[proof\]'[^\n]*\n$",
        )
        for options, message in (
            (["--exact", "--backend", "jax"], "arrays of its own"),
            (["--exact", "--all"], "leave .* out"),
            (["--exact", "no_loss"], "unknown loss"),
        ):
            result = self.run_app("check", *options)
            self.assertEqual((result.exit_code, result.stdout), (2, ""))
            self.assertRegex(result.stderr, f"^error: .*{message}")

    def test_help_and_version(self) -> None:
        bare, asked, told = self.run_app(), self.run_app("--help"), self.run_app("--version")
        self.assertEqual((bare.exit_code, asked.exit_code, told.exit_code), (0, 0, 0))
        self.assertEqual(bare.stdout, asked.stdout)
        for command in ("train", "list", "show", "check"):
            self.assertIn(f"\n  {command} ", bare.stdout)
        self.assertRegex(told.stdout, r"^mithril-losses \d+\.\d+\.\d+\n$")


class TestProcess(unittest.TestCase):
    def start(self, *arguments: str, missing: str = "", **environment: str) -> Any:
        """Run the command line in a new process, in which a library may be missing."""
        hide = f"sys.modules[{missing!r}] = None; " if missing else ""
        script = f"import sys; {hide}from mithril_losses.cli import main; main()"
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **environment})

    @parameterized.expand(["typer", "rich", "pydantic"])
    def test_a_missing_library_of_the_command_line(self, missing: str) -> None:
        result = self.start("list", missing=missing)
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertRegex(result.stderr, r"\A[^\n]*pip install '\.\[cli\]'[^\n]*\n\Z")
        self.assertIn(missing, result.stderr)

    def test_a_missing_backend(self) -> None:
        demo = Path(__file__).parents[2] / "docs" / "examples" / "digits.toml"
        with tempfile.TemporaryDirectory() as folder:  # and not that of the demonstration, which may hold a run
            output = f"run.output={folder}/run"
            result = self.start("train", str(demo), "--backend", "torch", "--set", output, missing="torch")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertRegex(result.stderr, r"\Aerror: [^\n]*pip install '\.\[torch\]'[^\n]*\n\Z")

    def test_a_pipe_without_greek(self) -> None:
        result = self.start("show", "huber_loss", PYTHONIOENCODING="ascii")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("huber_loss", result.stdout)


class TestReadConfig(CommandLineTestCase):
    def test_changes_are_toml_or_text(self) -> None:
        config = read_config(
            self.file,
            ["objective.terms[0].weight=2.5", "run.output='a b'", "model.hidden=[3, 4]", "data.file=some/file.npz"],
        )
        self.assertEqual(config.objective.terms[0].weight, 2.5)
        self.assertEqual((config.run.output, config.data.file), ("a b", "some/file.npz"))
        self.assertEqual(config.model.hidden, [3, 4])

    def test_later_changes_win(self) -> None:
        self.assertEqual(read_config(self.file, ["seed=1", "seed=2"]).seed, 2)

    def test_errors_name_the_file(self) -> None:
        with self.assertRaisesRegex(UserError, r"config\.toml: seed: "):
            read_config(self.file, ["seed=one"])
