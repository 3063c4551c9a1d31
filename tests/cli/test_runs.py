"""Runs of the command line: none is lost, none is misread; evaluation and prediction; JSON, pipes and completion."""

import contextlib
import csv
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from commandline import CommandLineTestCase
from parameterized import parameterized
from rich.cells import cell_len
from typer.testing import CliRunner

from mithril_losses import catalogue
from mithril_losses.cli.commands import app
from mithril_losses.training.config import read_config
from mithril_losses.training.printing import PrintedProgress


class TestNoRunIsLost(CommandLineTestCase):
    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.iterdir()}

    def test_a_run_is_overwritten_only_when_asked(self) -> None:
        self.train()
        before = self.contents()
        self.assert_fails(self.train("seed=1"), "holds a run already", "--resume", "--overwrite", "--set run.output=")
        self.assertEqual(self.contents(), before)
        self.assertEqual(self.train("seed=1", overwrite=True).exit_code, 0)
        self.assertNotEqual(self.contents()["parameters.npz"], before["parameters.npz"])

    def test_a_run_that_fails_leaves_the_one_that_it_would_overwrite(self) -> None:
        self.train()
        before = self.contents()
        self.assert_fails(self.train("optimizer.learning_rate=1e300", overwrite=True), "diverged", code=1)
        self.assertEqual(self.contents(), before)

    def test_a_configuration_repeats_its_run_in_a_folder_of_its_own(self) -> None:
        self.train("seed=3", "optimizer.learning_rate=0.2")
        for number in (2, 3):
            result = self.run_app("train", "--config-of", self.output)
            self.assertEqual(result.exit_code, 0, result.output)
            repeated = self.output.with_name(f"run-{number}")
            self.assertEqual((repeated / "parameters.npz").read_bytes(), self.contents()["parameters.npz"])
            self.assertEqual((repeated / "history.csv").read_bytes(), self.contents()["history.csv"])

    def test_a_configuration_of_a_run_can_be_changed_and_resumed(self) -> None:
        self.train("run.epochs=1")
        result = self.run_app("train", "--config-of", self.output, "--resume", "--set", "run.epochs=2")
        self.assertEqual(result.exit_code, 0, result.output)
        self.train("run.epochs=2", f"run.output={self.folder.as_posix()}/whole")
        self.assertEqual(self.contents()["history.csv"], (self.folder / "whole" / "history.csv").read_bytes())
        elsewhere = (self.folder / "elsewhere").as_posix()
        self.run_app("train", "--config-of", self.output, "--set", f"run.output={elsewhere}")
        self.assertTrue(Path(elsewhere, "checkpoint.npz").exists())
        self.assert_fails(self.run_app("train", "--config-of", self.folder / "none"), "No such file")

    def test_a_folder_that_was_moved_is_resumed_where_it_is(self) -> None:
        self.train("run.epochs=1")
        moved = self.output.rename(self.folder / "moved")
        result = self.run_app("train", "--config-of", moved, "--resume", "--set", "run.epochs=2")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(len((moved / "history.csv").read_text().splitlines()), 3)
        self.assertFalse(self.output.exists())

    def test_the_resolved_configuration_is_written(self) -> None:
        self.train("optimizer.kind=adam", "optimizer.learning_rate=0.01", "data.examples=200", backend="torch")
        text = self.contents()["config.toml"].decode()
        table = tomllib.loads(text)
        self.assertTrue(text.startswith("# written by mithril-losses train\n"))
        self.assertEqual((table["backend"], table["data"]["examples"], table["seed"]), ("torch", 200, 0))
        self.assertEqual((table["optimizer"]["beta1"], table["run"]["batch_size"]), (0.9, 64))
        self.assertNotIn("momentum", table["optimizer"])
        read_config(self.output / "config.toml")

    def test_one_configuration_must_be_named(self) -> None:
        self.assert_fails(self.run_app("train"), "name one configuration", "see mithril-losses train --help")
        self.assert_fails(self.run_app("train", self.file, "--config-of", self.output), "name one configuration")


class TestNoNumberIsMisread(CommandLineTestCase):
    @parameterized.expand([("nan", "1e300", "is (nan|inf)"), ("finite", "1e7", r"is [\d.e+]+ in epoch 1, and was ")])
    def test_divergence_is_one_line_and_exit_code_1(self, case: str, rate: str, words: str) -> None:
        result = self.train(f"optimizer.learning_rate={rate}", "optimizer.momentum=0.9")
        self.assert_fails(result, "training diverged", "try a smaller learning rate", code=1)
        self.assertRegex(result.stderr, words)
        self.assertFalse((self.output / "checkpoint.npz").exists())

    RECORD = {  # noqa: RUF012
        "epoch": 12, "train_loss": 3.6736e30, "train_classification": -1.2346e-105, "train_pixels": 0.5,
        "test_loss": 1.2345e308, "test_classification": 1.0, "test_pixels": 1.0, "test_accuracy_digit": 0.25,
    }  # fmt: skip

    @parameterized.expand([(columns,) for columns in (1, 20, 35, 60, 80, 200)])
    def test_an_exponent_is_never_wrapped_or_cut(self, columns: int) -> None:
        with mock.patch.dict(os.environ, COLUMNS=str(columns)):
            table = io.StringIO()
            PrintedProgress(table).record(self.RECORD)
        header, row = table.getvalue().splitlines()
        self.assertEqual(row.split()[:2], ["12", "3.6736e+30"])
        shown = {f"{value:.5g}" for value in self.RECORD.values()}
        self.assertLessEqual(set(row.split()), shown)
        self.assertEqual(header.endswith("…"), columns < 100)
        if columns >= 80:
            self.assertIn("1.2345e+308", row)

    def test_without_a_width_everything_is_shown(self) -> None:
        table = io.StringIO()
        PrintedProgress(table).record(self.RECORD)
        header, row = table.getvalue().splitlines()
        self.assertNotIn("…", header)
        self.assertEqual(len(row.split()), 6)  # the components of the test set are in history.csv

    def test_nothing_is_printed_beside_the_columns_of_a_terminal(self) -> None:
        names = "a_long_name_of_a_component"
        result = CliRunner().invoke(
            app, ["train", str(self.file), "--set", f"objective.terms.0.name={names}"], env={"COLUMNS": "40"}
        )
        header, row, *_ = result.stdout.splitlines()
        self.assertLessEqual(max(len(header), len(row)), 40)
        self.assertNotIn(names, header)


class TestInterruptions(CommandLineTestCase):
    def test_before_anything_is_read_is_one_line(self) -> None:
        for place in ("mithril_losses.training.run.load_dataset", "mithril_losses.cli.training.read_config"):
            with mock.patch(place, side_effect=KeyboardInterrupt):
                result = self.train()
            self.assertEqual(result.exit_code, 130)
            self.assertRegex(result.stderr, r"\Ainterrupted[^\n]*\n\Z")

    def test_of_another_command_is_one_line(self) -> None:
        with mock.patch("mithril_losses.cli.catalogue.find_loss", side_effect=KeyboardInterrupt):
            result = self.run_app("show", "mse_loss")
        self.assertEqual((result.exit_code, result.stderr), (130, "interrupted\n"))

    def test_of_a_process_whose_libraries_load_is_one_line(self) -> None:
        program = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from mithril_losses import cli; run = cli.run; "
            "cli.run = lambda: (print('ready', flush=True), run()); cli.main()"
        )
        command = [sys.executable, "-c", program, "train", str(self.file), "--set", "run.epochs=1000000"]
        for pause in (0.0, 0.1, 0.4):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130, errors)
            self.assertRegex(errors, r"\Ainterrupted[^\n]*\n\Z")

    def test_while_the_package_is_imported_is_one_line(self) -> None:
        slow = self.folder / "mithril_losses"
        slow.mkdir()
        (slow / "__init__.py").write_text("raise KeyboardInterrupt")  # what Ctrl-C raises at this moment
        path = os.pathsep.join([str(self.folder), str(Path(__file__).parents[2])])
        program = "from mithril_losses_command import main; main()"
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((found.returncode, found.stderr), (130, "interrupted\n"))

    def test_what_is_kept_is_said(self) -> None:
        parts = [[np.arange(9)], KeyboardInterrupt]
        with mock.patch("mithril_losses.training.sources.batches", side_effect=parts):
            result = self.train()
        self.assertEqual(result.exit_code, 130)
        self.assertIn(f"interrupted: epoch 1 is kept in {self.output.as_posix()}; --resume continues", result.stderr)


class TestOutput(CommandLineTestCase):
    def test_quiet_prints_the_result_alone(self) -> None:
        result = self.train(quiet=True)
        self.assertRegex(result.stdout, r"\Atest accuracy \(digit\): [\d.]+ %\n\Z")
        self.assertEqual(result.stderr, "")

    def test_verbose_says_what_the_run_consists_of(self) -> None:
        lines = self.train(verbose=True, backend="torch").stderr.splitlines()
        self.assertEqual(lines[0], "backend: torch, torch.float32")
        self.assertEqual(lines[1], "examples: 20 test, 80 train")
        self.assertIn("image (64,)", lines[2])
        self.assertRegex(lines[3], r"model: perceptron, 610 parameters in 4 arrays")

    def test_verbose_shows_where_an_error_was_raised(self) -> None:
        plain, verbose = (self.train("data.file=nowhere.npz", **options) for options in ({}, {"verbose": True}))
        self.assertEqual(plain.stderr.count("\n"), 1)
        self.assertIn("FileNotFoundError", verbose.stderr)
        self.assertTrue(verbose.stderr.endswith(plain.stderr))

    def test_the_result_as_json(self) -> None:
        result = self.train(json=True)
        found = json.loads(result.stdout)
        self.assertEqual([record["epoch"] for record in found["history"]], [1, 2])
        self.assertEqual(set(found["test"]), {"loss", "classes", "accuracy_digit"})
        self.assertEqual((found["output"], found["stopped"]), (self.output.as_posix(), "epochs"))
        self.assertTrue(all(Path(path).exists() for path in found["files"]))
        self.assertEqual(len(result.stderr.splitlines()), 3)  # the table

    def test_stdin_is_a_dash(self) -> None:
        text = self.file.read_text(encoding="utf-8")
        result = CliRunner().invoke(app, ["train", "-"], input=text, prog_name="mithril-losses")
        self.assertEqual(result.exit_code, 0, result.output)
        broken = CliRunner().invoke(app, ["train", "-"], input="seed = = 3", prog_name="mithril-losses")
        self.assert_fails(broken, "not TOML")
        wrong = CliRunner().invoke(app, ["train", "-"], input=text + "\nseeds = 3\n", prog_name="mithril-losses")
        self.assert_fails(wrong, "stdin: ", "unknown key")

    @parameterized.expand([("list",), ("show", "mse_loss"), ("check", "mse_loss"), ("bench", "--dry-run")])
    def test_a_pipe_gets_aligned_text(self, *arguments: str) -> None:
        text = self.run_app(*arguments).stdout
        self.assertFalse({"│", "─", "━", "┃"} & set(text))
        self.assertTrue(all(line == line.rstrip() for line in text.splitlines()))

    def test_a_pipe_has_the_columns_that_the_environment_says(self) -> None:
        text = CliRunner().invoke(app, ["list"], env={"COLUMNS": "120"}).stdout
        self.assertLessEqual(max(map(cell_len, text.splitlines())), 120)  # of combined characters one column
        for name in catalogue():
            self.assertIn(name[:20], text)

    def test_lists_and_checks_as_json(self) -> None:
        losses = json.loads(self.run_app("list", "--json").stdout)
        self.assertEqual([each["name"] for each in losses], list(catalogue()))
        shown = json.loads(self.run_app("show", "huber_loss", "--json").stdout)
        self.assertEqual(shown["formula"], catalogue()["huber_loss"].formula)
        self.assertEqual([each["argument"] for each in shown["arguments"]][:2], ["predictions", "targets"])
        checked = json.loads(self.run_app("check", "mse_loss", "triplet_loss", "--json").stdout)
        self.assertEqual(
            [(each["loss"], each["right"]) for each in checked], [("mse_loss", True), ("triplet_loss", True)]
        )
        self.assertLess(checked[0]["worst"], 1e-6)
        exact = json.loads(self.run_app("check", "--exact", "mse_loss", "--json").stdout)
        self.assertEqual(exact[0]["right"], True)
        self.assertGreaterEqual(min(exact[0]["digits"]), 50)

    def test_a_benchmark_as_json(self) -> None:
        planned = json.loads(self.run_app("bench", "--dry-run", "--loss", "mse_loss", "--json").stdout)
        self.assertTrue(all(each["case"].startswith("mse_loss") for each in planned))
        with mock.patch("mithril_losses.cli.bench._measure", return_value=False):
            self.assertEqual(json.loads(self.run_app("bench", "--loss", "mse_loss", "--json").stdout), [])

    def test_check_takes_a_family(self) -> None:
        result = self.run_app("check", "--family", "boxes", "--quiet")
        self.assertEqual(result.stdout, "4 of 4 gradients are right (numpy)\n")
        both = self.run_app("check", "mse_loss", "--family", "boxes").stdout
        self.assertIn("5 of 5", both)
        self.assert_fails(self.run_app("check", "--family", "box"), "did you mean 'boxes'?")

    @parameterized.expand(
        [
            ("a command", "tra", "train"),
            ("a loss", "show huber", "huber_loss"),
            ("a loss to check", "check mse", "mse_loss"),
            ("a family", "list --family reg", "regularization"),
            ("a backend", "train x.toml --backend to", "torch"),
        ]
    )
    def test_a_shell_completes(self, case: str, typed: str, expected: str) -> None:
        words = f"mithril-losses {typed}"
        environment = {
            "_MITHRIL_LOSSES_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
        }  # fmt: skip
        result = CliRunner().invoke(app, [], env=environment, prog_name="mithril-losses")
        self.assertIn(expected, result.stdout.split())

    def test_the_script_of_a_shell_is_shown(self) -> None:
        result = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="mithril-losses")
        environment = {**os.environ, "_MITHRIL_LOSSES_COMPLETE": "source_bash"}
        script = CliRunner().invoke(app, [], env=environment, prog_name="mithril-losses")
        self.assertIn("complete", result.stdout + script.stdout)


def rows_of_a_table() -> list[dict[str, str]]:
    draw = np.random.default_rng(0)
    return [
        {"width": f"{kind + draw.normal(0, 0.1):.4f}", "color": "rg"[kind % 2], "kind": "abc"[kind]}
        for kind in draw.integers(0, 3, 90)
    ]


@functools.cache
def trained() -> dict[str, bytes]:
    """Return the files of a run on the table, which is trained once, and its result as JSON."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        write_table(Path("table.csv"), rows_of_a_table())
        run = CliRunner().invoke
        run(app, ["init", "table.csv"])
        options = [part for change in ("run.picture=false", "run.epochs=25") for part in ("--set", change)]
        result = run(app, ["train", "table.toml", *options, "--json", "--quiet"])
        assert result.exit_code == 0, result.output
        return {path.name: path.read_bytes() for path in Path("runs/table").iterdir()} | {"": result.stdout.encode()}


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


class TestFinishedRuns(CommandLineTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(contextlib.chdir(self.folder))
        self.table = Path("table.csv")
        self.rows = rows_of_a_table()
        write_table(self.table, self.rows)
        files = dict(trained())
        self.result = json.loads(files.pop(""))
        self.output.mkdir()
        for name, content in files.items():
            (self.output / name).write_bytes(content)

    def test_evaluation_repeats_the_result(self) -> None:
        found = json.loads(self.run_app("evaluate", self.output, "--json").stdout)
        self.assertEqual(found, self.result["test"])
        self.assertGreater(found["accuracy_kind"], 0.9)
        lines = self.run_app("evaluate", self.output).stdout.splitlines()
        self.assertEqual(lines[-1], f"accuracy (kind): {100 * found['accuracy_kind']:.2f} %")
        whole = json.loads(self.run_app("evaluate", self.output, self.table, "--json").stdout)
        self.assertGreater(whole["accuracy_kind"], 0.9)
        self.assertNotEqual(whole["loss"], found["loss"])

    def test_evaluation_does_not_guess_a_test_set(self) -> None:
        write_table(self.table, self.rows[:80])
        self.assert_fails(self.run_app("evaluate", self.output), "the data have changed since the run", "name a file")
        self.assertEqual(self.run_app("evaluate", self.output, self.table).exit_code, 0)

    def test_predictions_are_classes_by_name(self) -> None:
        others = self.folder / "others.csv"
        write_table(others, [{"width": row["width"], "color": row["color"]} for row in self.rows])
        text = self.run_app("predict", self.output, others).stdout
        found = [row["kind"] for row in csv.DictReader(io.StringIO(text))]
        right = sum(one == row["kind"] for one, row in zip(found, self.rows, strict=True))
        self.assertGreater(right, 80)
        piped = CliRunner().invoke(app, ["predict", str(self.output), "-"], input=others.read_text(encoding="utf-8"))
        self.assertEqual(piped.stdout, text)
        self.run_app("predict", self.output, others, "--to", self.folder / "found.csv")
        self.assertEqual((self.folder / "found.csv").read_text(encoding="utf-8"), text)
        self.run_app("predict", self.output, others, "--to", self.folder / "found.npz")
        with np.load(self.folder / "found.npz") as outputs:
            self.assertEqual([outputs.files, outputs["kind"].shape], [["kind"], (90, 3)])
            self.assertEqual(["abc"[each] for each in outputs["kind"].argmax(axis=1)], found)

    def test_predictions_on_another_backend(self) -> None:
        one, other = (
            self.run_app("predict", self.output, self.table, *more).stdout for more in ((), ("--backend", "torch"))
        )
        self.assertEqual(one, other)

    @parameterized.expand(
        [
            ("no run", ["evaluate", "none"], ["none", "No such file"]),
            ("no file", ["predict", "run", "none.csv"], ["none.csv", "No such file"]),
            ("no target", ["predict", "run", "table.csv", "--to", "found.txt"], ["name a .csv or an .npz file"]),
            ("no folder", ["predict", "run", "table.csv", "--to", "none/found.csv"], ["cannot be written"]),
            ("a column is missing", ["predict", "run", "narrow.csv"], ["narrow.csv: unknown column 'width'"]),
            ("another text", ["predict", "run", "blue.csv"], ["column 'color': unknown value 'b'"]),
            ("text for a number", ["predict", "run", "text.csv"], ["column 'width' must hold numbers"]),
            ("a number is missing", ["predict", "run", "gap.csv"], ["column 'width' has no value in row 1"]),
            ("no label", ["evaluate", "run", "blank.csv"], ["unknown column 'kind'"]),
        ]
    )
    def test_what_does_not_fit_is_one_line(self, case: str, arguments: list[str], words: list[str]) -> None:
        good = [{"width": row["width"], "color": row["color"]} for row in self.rows]
        write_table(self.folder / "blank.csv", good)
        write_table(self.folder / "narrow.csv", [{"color": row["color"]} for row in good])
        write_table(self.folder / "blue.csv", [row | {"color": "b"} for row in good])
        write_table(self.folder / "text.csv", [row | {"width": "wide"} for row in good])
        write_table(self.folder / "gap.csv", [good[0], good[1] | {"width": ""}, *good[2:]])
        place = {"run": self.output, "none": self.folder / "none"}
        paths = [place.get(each, self.folder / each if "." in each or "/" in each else each) for each in arguments[1:]]
        self.assert_fails(self.run_app(arguments[0], *paths), *words)

    @parameterized.expand(
        [("config.toml", "not TOML"), ("preparation.json", "not the preparation"), ("parameters.npz", "")]
    )
    def test_damaged_files_of_a_run_are_one_line(self, name: str, words: str) -> None:
        (self.output / name).write_bytes(b"{\xff")
        self.assert_fails(self.run_app("evaluate", self.output), name, words)
        (self.output / name).unlink()
        self.assert_fails(self.run_app("predict", self.output, self.table), name, "No such file")

    def test_parameters_of_another_model_are_refused(self) -> None:
        path = self.output / "parameters.npz"
        with np.load(path) as found:
            whole = dict(found)
        name = "hidden_1_weight"
        for change, words in (
            ({name: np.ones(3)}, "has the shape (3, 32)"),
            ({"w": np.ones(3)}, "'w' is only in the file"),
        ):
            np.savez(path, **(whole | change))
            self.assert_fails(self.run_app("evaluate", self.output), str(path), words)


class TestInit(CommandLineTestCase):
    def start(self, name: str, *options: str) -> Any:
        return self.run_app("init", self.folder / name, "--to", self.folder / "new.toml", *options)

    def test_a_table(self) -> None:
        path = self.folder / "a b.csv"
        lines = [f"{i},{i / 7},{'xy'[i % 2]},name {i},{i % 3}" for i in range(60)]
        path.write_text("\n".join(["n,real,text,name,class", *lines]), encoding="utf-8")
        self.assertEqual(self.start("a b.csv").exit_code, 0)
        text = (self.folder / "new.toml").read_text(encoding="utf-8")
        config = read_config(self.folder / "new.toml")
        self.assertEqual(config.data.features, ["n", "real", "text"])
        self.assertIn("# left out: column 'name' has 60 different texts", text)
        self.assertEqual(config.objective.terms[0].loss, "cross_entropy_with_logits")
        self.assertEqual((config.model.outputs or {})["class"].size, 3)
        self.assert_fails(self.start("a b.csv"), "is there already")

    @parameterized.expand(
        [
            ("n", "mse_loss", 1),
            ("real", "mse_loss", 1),
            ("text", "cross_entropy_with_logits", 2),
        ]
    )
    def test_a_target_decides_the_loss(self, target: str, loss: str, size: int) -> None:
        lines = [f"{i},{i / 7},{'xy'[i % 2]}" for i in range(60)]
        (self.folder / "t.csv").write_text("\n".join(["n,real,text", *lines]), encoding="utf-8")
        result = self.run_app("init", self.folder / "t.csv", "--target", target, "--to", "-")
        config = read_config("new", text=result.stdout)
        self.assertEqual((config.objective.terms[0].loss, (config.model.outputs or {})[target].size), (loss, size))
        self.file.write_text(result.stdout, encoding="utf-8")
        trained = self.train("run.epochs=1", f"run.output={self.output.as_posix()}", "run.picture=false")
        self.assertEqual(trained.exit_code, 0, trained.output)

    def test_arrays(self) -> None:
        draw = np.random.default_rng(0)
        np.savez(self.folder / "d.npz", x=draw.standard_normal((40, 3)), y=draw.standard_normal((40, 2)))
        self.start("d.npz")
        config = read_config(self.folder / "new.toml")
        self.assertEqual((config.data.input, (config.model.outputs or {})["y"].size), ("x", 2))

    @parameterized.expand(
        [
            ("nothing", "none.csv", (), ["none.csv", "No such file"]),
            ("no such target", "t.csv", ("--target", "z"), ["unknown column or array 'z'", "known: a, b"]),
            ("gaps in the target", "gap.csv", (), ["column 'b' has no value in row 1"]),
            ("one column", "one.csv", (), ["no column is left"]),
            ("empty", "empty.csv", (), ["empty.csv"]),
            ("no rows", "rows.csv", (), ["there is no row"]),
            ("broken", "broken.csv", (), ["broken.csv", "damaged"]),
            ("not a parquet", "bad.parquet", (), ["bad.parquet", "damaged"]),
        ]
    )
    def test_bad_files_are_one_line(self, case: str, name: str, options: tuple[str, ...], words: list[str]) -> None:
        texts = {"t": "a,b\n1,2\n", "gap": "a,b\n1,2\n2,\n", "one": "a\n1\n", "empty": "", "rows": "a,b\n"}
        files = {f"{name}.csv": text for name, text in texts.items()}
        for file, text in (files | {"broken.csv": "a,b\n1,2\n1,2,3\n", "bad.parquet": "PAR1 no"}).items():
            (self.folder / file).write_text(text, encoding="utf-8")
        self.assert_fails(self.start(name, *options), *words)
        self.assertFalse((self.folder / "new.toml").exists())
