"""Files and terminals: damaged and made-up files end in one line, names obey no terminal, a kill leaves one state."""

import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from commandline import CommandLineTestCase
from parameterized import parameterized
from rich.console import Console

from mithril_losses.backends import get_backend
from mithril_losses.backends.toml import DEEPEST, LARGEST_FILE, parse_toml
from mithril_losses.benchmarks.candidates import CANDIDATES
from mithril_losses.benchmarks.families import all_cases
from mithril_losses.benchmarks.results import Results, Row
from mithril_losses.benchmarks.tables import tables
from mithril_losses.checking.trust import Evidence
from mithril_losses.cli import bench as command
from mithril_losses.training import arrays, files
from mithril_losses.training.checkpoints import Checkpoint, load_checkpoint
from mithril_losses.training.config import read_config
from mithril_losses.training.errors import UserError, require_writable
from mithril_losses.training.files import owned, write_atomically
from mithril_losses.training.plotting import draw_training
from mithril_losses.training.run import FILES, RunFolder, Trainer, train

# Starts an operating system command, a new line, a control sequence in one byte, and text from right to left.
NASTY = "a\x1b]0;x\x07\n\x9b2J\u202eb"
SHOWN = r"a\x1b]0;x\x07\n\x9b2J\u202eb"

CONFIG = """
data = { file = "%s", input = "x", test_fraction = 0.25 }
model = { outputs = { y = { size = 1 } } }
optimizer = { kind = "sgd", learning_rate = 0.1, momentum = 0.5 }
run = { epochs = 2, picture = false, output = "%s" }

[[objective.terms]]
name = "error"
loss = "mse_loss"
output = "y"
target = "y"
"""


class FilesTestCase(CommandLineTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = self.folder / "data.npz"
        self.checkpoint = self.output / "checkpoint.npz"
        draw = np.random.default_rng(0)
        self.arrays = {"x": draw.standard_normal((12, 2)), "y": draw.standard_normal((12, 1))}
        np.savez(self.data, **self.arrays)
        self.file.write_text(CONFIG % (self.data.as_posix(), self.output.as_posix()), encoding="utf-8")

    def text(self, name: str = "config.toml") -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.iterdir()}

    def assert_trains(self, *changes: str, **keywords: Any) -> Any:
        result = self.train(*changes, **keywords)
        self.assertEqual((result.exit_code, result.stderr), (0, ""), result.output)
        return result


# --- terminals ------------------------------------------------------------------------------------------------------


class TestControlCharactersStayInNames(FilesTestCase):
    def assert_shown(self, result: Any, code: int) -> None:
        """Assert that the name was shown, as text that no terminal obeys."""
        self.assertEqual(result.exit_code, code, result.output)
        self.assertIn(SHOWN.replace(r"\n", " "), result.output.replace(r"\n", " "))  # some errors are put in one line
        strange = {each for each in result.output if not each.isprintable()} - {"\n"}
        self.assertEqual(strange, set())

    def test_of_an_array(self) -> None:
        np.savez(self.data, **{NASTY: self.arrays["x"]})
        self.assert_shown(self.train(), 2)

    @parameterized.expand([("key", f"{json.dumps(NASTY)} = 1\n"), ("table", f"[{json.dumps(NASTY)}]\nx = 1\n")])
    def test_of_a_key_of_the_configuration(self, case: str, text: str) -> None:
        self.file.write_text(text, encoding="utf-8")
        self.assert_shown(self.train(), 2)

    def test_of_the_configuration(self) -> None:
        path = self.folder / NASTY
        self.assert_shown(self.run_app("train", path), 2)
        path.write_text("seed = -1", encoding="utf-8")
        self.assert_shown(self.run_app("train", path), 2)

    def test_of_a_key_of_the_fingerprint(self) -> None:
        self.train()
        with np.load(self.checkpoint) as found:
            whole = dict(found)
        about = json.loads(str(whole["about"]))
        about["fingerprint"][NASTY] = 1
        np.savez(self.checkpoint, **(whole | {"about": np.array(json.dumps(about))}))
        self.assert_shown(self.train(resume=True), 2)

    def test_of_the_output_folder(self) -> None:
        output = (self.folder / NASTY).as_posix()
        self.file.write_text(self.text().replace(json.dumps(self.output.as_posix()), json.dumps(output)), "utf-8")
        self.assert_shown(self.train(), 0)
        with mock.patch("mithril_losses.training.sources.batches", side_effect=[[np.arange(4)], KeyboardInterrupt]):
            self.assert_shown(self.train(overwrite=True), 130)

    def test_of_a_term(self) -> None:
        self.file.write_text(self.text().replace('"error"', json.dumps(NASTY)), "utf-8")
        self.assert_shown(self.train(), 0)

    def test_of_a_term_in_the_picture(self) -> None:
        record = {"epoch": 1, "train_loss": 1.0, "test_loss": 1.0, f"train_{NASTY}": 1.0, f"test_{NASTY}": 1.0}
        record[f"accuracy_{NASTY}"] = 0.5
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            draw_training([record]).savefig(io.BytesIO())
        self.assertEqual([str(each.message) for each in caught], [])

    def test_of_a_command_and_of_an_option(self) -> None:
        self.assert_shown(self.run_app("list", "--family", NASTY), 2)
        for arguments in ([NASTY.replace("\n", "")], ["list", "--" + NASTY.replace("\n", "")]):
            result = self.run_app(*arguments)
            self.assertIn(SHOWN.replace("\\n", ""), result.output)
            self.assertTrue(result.output[:-1].isprintable())

    def test_of_what_a_benchmark_writes(self) -> None:
        path = self.folder / NASTY
        with mock.patch.object(command, "_measure", return_value=False):
            self.assert_shown(self.run_app("bench", "--loss", "mse_loss", "--report", path), 0)
        with mock.patch.object(command, "_measure", return_value=True):
            self.assert_shown(self.run_app("bench", "--loss", "mse_loss", "--csv", path), 130)

    def test_of_what_a_benchmark_notes(self) -> None:
        row = Row(next(iter(all_cases())), CANDIDATES[0], note=NASTY)
        console = Console(file=io.StringIO(), width=1000)
        for table in tables(Results([row])):
            console.print(table)
        self.assertIn(SHOWN, console.file.getvalue())

    def test_of_what_a_check_finds(self) -> None:
        with mock.patch("mithril_losses.checking.check_catalogue", return_value=[ValueError(NASTY)]):
            self.assert_shown(self.run_app("check", "mse_loss"), 1)
        evidence = Evidence(
            "mse_loss", "60 digits", "identity", run={"numpy": 1}, passed={"numpy": 0}, failed={"numpy": [NASTY]}
        )
        with mock.patch("mithril_losses.checking.trust.examine", return_value=[evidence]):
            self.assert_shown(self.run_app("check", "mse_loss", "--all"), 1)

    def test_of_a_header_that_python_warns_about(self) -> None:
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), '\\\x1b': 0}"  # the escape is unknown
        with zipfile.ZipFile(self.data, "w") as archive:
            archive.writestr("x.npy", npy(header))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.assert_fails(self.train(), "array 'x' is truncated or damaged")
        self.assertEqual([str(each.message) for each in caught], [])

    def test_a_path_is_printed_as_it_is(self) -> None:
        output = (self.folder / "[bold] :smile: ü").as_posix()
        self.assertIn(output, self.assert_trains(f"run.output={json.dumps(output)}").stdout)

    def test_every_line_of_an_error_is_printable(self) -> None:
        error = UserError(f"one {NASTY}", "two")
        self.assertEqual(str(error), f"one {SHOWN}\ntwo")


# --- damaged and made-up files --------------------------------------------------------------------------------------


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return an array file with this header."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text + content


def header(shape: Any = (12, 2), descr: Any = "<f8") -> str:
    return repr({"descr": descr, "fortran_order": False, "shape": shape})


class TestDamagedCheckpoints(FilesTestCase):
    def change(self, **arrays: Any) -> None:
        """Replace some arrays of a checkpoint of two epochs; None takes them out."""
        self.train()
        with np.load(self.checkpoint) as found:
            whole = {**found, **arrays}
        np.savez(self.checkpoint, **{name: array for name, array in whole.items() if array is not None})

    @parameterized.expand(
        [
            ("text", {"history": "ab"}),
            ("records without a key", {"history": [{}, {}]}),
            ("records of text", {"history": [{"epoch": "x"}, {"epoch": "y"}]}),
            ("one number", {"history": 2}),
            ("no records", {"history": [1, 2]}),
            ("a fraction of an epoch", {"epoch": 2.0}),
            ("no epoch", {"epoch": 0, "history": []}),
            ("a truth for an epoch", {"epoch": True, "history": [{}]}),
            ("a fingerprint that is a list", {"fingerprint": [1]}),
            ("a fingerprint of lists", {"fingerprint": {"seed": [[[]]]}}),
        ]
    )
    def test_contents_of_the_wrong_shape(self, case: str, change: dict[str, Any]) -> None:
        self.train()
        with np.load(self.checkpoint) as found:
            about = json.loads(str(found["about"])) | change
        self.change(about=np.array(json.dumps(about)))
        self.assert_fails(self.train(resume=True), f"{self.checkpoint}: this is not a checkpoint of a training run")

    @parameterized.expand(
        [
            ("text", lambda record: record | {"test_loss": "1.0"}),
            ("not finite", lambda record: record | {"test_loss": float("nan")}),
            ("too large", lambda record: record | {"test_loss": 10**400}),
            ("another key", lambda record: record | {"test_other": 1.0}),
            ("a key less", lambda record: {"epoch": record["epoch"], "train_loss": 1.0}),
            ("another order", lambda record: {"epoch": 2} | dict(reversed(record.items()))),
            ("another epoch", lambda record: record | {"epoch": 1}),
            ("a fraction of an epoch", lambda record: record | {"epoch": 2.0}),
        ]
    )
    def test_records_of_another_kind(self, case: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.train()
        with np.load(self.checkpoint) as found:
            about = json.loads(str(found["about"]))
        about["history"][1] = change(about["history"][1])
        self.change(about=np.array(json.dumps(about)))
        self.assert_fails(self.train(resume=True), f"{self.checkpoint}: this is not a checkpoint of a training run")

    @parameterized.expand(
        [
            ("deep nesting", np.array("[" * 100_000)),
            ("numbers", np.ones(3)),
            ("bytes", np.array(b"{}")),
            ("no characters", np.array(2**31 - 1, dtype=np.uint32).view("<U1")),
            ("nothing", None),
        ]
    )
    def test_no_description(self, case: str, about: Any) -> None:
        self.change(about=about)
        self.assert_fails(self.train("run.epochs=3", resume=True), str(self.checkpoint))

    @parameterized.expand(
        [
            ("text", np.array([["a"], ["b"]]), "is str32 of shape (2, 1) there, but float32 of shape (2, 1)"),
            ("complex", np.ones((2, 1), "c8"), "is complex64 of shape (2, 1) there"),
            ("integers", np.ones((2, 1), int), "is int64 of shape (2, 1) there"),
            ("another precision", np.ones((2, 1)), "is float64 of shape (2, 1) there"),
            ("another shape", np.ones((1, 2), "f4"), "is float32 of shape (1, 2) there"),
            ("structured", np.ones((2, 1), [("a", "f4")]), "is void32 of shape (2, 1) there"),
            ("missing", None, "is only in this run"),
        ]
    )
    def test_arrays_of_another_kind(self, case: str, array: Any, message: str) -> None:
        self.change(**{"parameters/y_1_weight": array})
        self.assert_fails(self.train(resume=True), f"parameters/y_1_weight {message}")

    def test_arrays_that_the_run_does_not_know(self) -> None:
        self.change(**{"parameters/other": np.ones(3)})
        self.assert_fails(self.train(resume=True), "parameters/other is only in the checkpoint")

    @parameterized.expand(
        [
            ("encrypted", 0x8, b"\x01\x00"),
            ("a compression that does not exist", 0xA, b"\x2a\x00"),
            ("a version of the far future", 0x6, b"\xff\x00"),
        ]
    )
    def test_archives_of_another_kind(self, case: str, offset: int, value: bytes) -> None:
        self.train()
        whole = bytearray(self.checkpoint.read_bytes())
        directory = whole.index(b"PK\x01\x02")
        whole[directory + offset : directory + offset + 2] = value
        self.checkpoint.write_bytes(whole)
        self.assert_fails(self.train(resume=True), f"{self.checkpoint}: ", "truncated or damaged")

    def test_a_folder_in_place_of_the_checkpoint(self) -> None:
        self.train()
        self.checkpoint.unlink()
        self.checkpoint.mkdir()
        self.assert_fails(self.train(resume=True), str(self.checkpoint), "directory")


class TestFlippedBits(unittest.TestCase):
    """Whatever single bit of a checkpoint flips: it is refused in one line, or reads as before."""

    ARRAYS: Mapping[str, Any] = {"parameters/w": np.arange(6.0).reshape(2, 3), "velocity/w": np.full(3, 0.5, "f4")}
    COLUMNS = ("epoch", "train_loss", "test_loss")
    RECORD: Mapping[str, float] = {"epoch": 1, "train_loss": 0.5, "test_loss": 0.25}

    def flip(self, savez: Callable[..., None], choose: Callable[[range], Any]) -> None:
        written = io.BytesIO()
        with mock.patch.object(np, "savez", savez):
            Checkpoint(1, self.ARRAYS, [dict(self.RECORD)], {"seed": 0}).write(written)
        whole = written.getvalue()
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "checkpoint.npz"
        refused = 0
        for bit in choose(range(8 * len(whole))):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                found = load_checkpoint(path, {"seed": 0}, self.ARRAYS, self.COLUMNS)
            except UserError as error:
                refused += 1
                self.assertRegex(str(error), rf"\A{path}: [^\n]+\Z")
                continue
            self.assertEqual((found.epoch, found.history, found.fingerprint), (1, [self.RECORD], {"seed": 0}), bit)
            for name, expected in self.ARRAYS.items():
                np.testing.assert_array_equal(found.arrays[name], expected, f"bit {bit}")
        self.assertGreater(refused, 0)

    @parameterized.expand([("stored", np.savez), ("compressed", np.savez_compressed)])
    def test_some(self, case: str, savez: Callable[..., None]) -> None:
        self.flip(savez, lambda bits: random.Random(0).sample(bits, 400))

    @parameterized.expand([("stored", np.savez), ("compressed", np.savez_compressed)])
    @pytest.mark.exhaustive
    def test_each(self, case: str, savez: Callable[..., None]) -> None:
        self.flip(savez, lambda bits: bits)


class TestDamagedData(FilesTestCase):
    def write(self, **members: bytes) -> None:
        """Write an `.npz` file member by member."""
        with zipfile.ZipFile(self.data, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name.replace("_", "."), content)

    @parameterized.expand(
        [
            ("no array", b"just text"),
            ("empty", b""),
            ("no header", b"\x93NUMPY\x01\x00"),
            ("no end of a bracket", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (12, 2")),
            ("no end of a text", npy("{'descr': '<f8")),
            ("brackets within brackets", npy("(" * 9_000)),
            ("signs before signs", npy("-" * 9_000 + "1")),
            ("a long header", npy(" " * 60_000 + header())),
            ("a later version", npy(header(), bytes(192), b"\x09\x00")),
            ("for structured arrays", npy(header(), bytes(192), b"\x03\x00")),
            ("no dtype", npy(header(descr="<q9"), bytes(192))),
            ("a dtype within a dtype", npy(header(descr=[("a", [("b", ("<f8", (2**40,)))])]), bytes(192))),
            ("a negative shape", npy(header((-12, -2)), bytes(192))),
            ("a shape of truths", npy(header((True, 24.0)), bytes(192))),
            ("cut", npy(header(), bytes(100))),
            ("too long", npy(header(), bytes(300))),
            ("256 TiB", npy(header((2**45, 1)), bytes(192))),
            ("more than there are numbers", npy(header((2**200, 2)), bytes(192))),
        ]
    )
    def test_members_that_are_no_arrays(self, case: str, content: bytes) -> None:
        self.write(x_npy=content)
        self.assert_fails(self.train(), f"{self.data}: array 'x'")

    def test_durations_are_no_numbers(self) -> None:
        np.savez(self.data, x=self.arrays["x"], y=np.ones((12, 1), "m8[s]"))
        self.assert_fails(self.train(), "array 'y' must hold one number or row of numbers per example, got timedelta64")

    def test_what_is_not_asked_for_is_not_read(self) -> None:
        broken = {"large": npy(header((2**45, 1))), "objects": npy(header((), "|O"), b"cos\nsystem\n"), "text": b"x"}
        self.write(**{f"{name}_npy": content for name, content in broken.items()})
        with zipfile.ZipFile(self.data, "a") as archive:
            for name, array in self.arrays.items():
                content = io.BytesIO()
                np.save(content, array)
                archive.writestr(f"{name}.npy", content.getvalue())
        self.assert_trains()

    def test_a_file_may_not_unpack_beyond_the_limit(self) -> None:
        large = {"x": np.zeros((2000, 2)), "y": np.zeros((2000, 1))}  # 48 kB, packed into less than 1 kB
        np.savez_compressed(self.data, **large)
        with mock.patch.object(arrays, "LARGEST_UNPACKED", 48_000):
            self.assert_trains()
        with mock.patch.object(arrays, "LARGEST_UNPACKED", 47_999):
            self.assert_fails(
                self.train(overwrite=True), "array 'y': it unpacks to 16,000 bytes", "47,999 bytes", "numpy.savez"
            )
            np.savez(self.data, **large)  # a file of its own size has no limit
            self.assert_trains(overwrite=True)

    def test_no_memory_is_taken_for_an_array_beyond_the_limit(self) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", npy(header((2**14, 2**7)), bytes(2**24)))
        self.data.write_bytes(packed.getvalue())
        read = mock.patch.object(np.lib.format, "read_array", side_effect=AssertionError)
        with mock.patch.object(arrays, "LARGEST_UNPACKED", 2**24 - 1), read:
            self.assert_fails(self.train(), "array 'x': it unpacks to 16,777,216 bytes")

    def test_fortran_order_and_old_headers_are_read(self) -> None:
        content = io.BytesIO()
        np.lib.format.write_array(content, np.asfortranarray(self.arrays["x"]), version=(2, 0))
        with zipfile.ZipFile(self.data, "w") as archive:
            archive.writestr("x.npy", content.getvalue())
            archive.writestr("no suffix", npy(header((1,)), bytes(8)))
        with arrays.open_arrays(self.data) as found:
            self.assertEqual(list(found), ["x", "no suffix"])
            np.testing.assert_array_equal(found["x"], self.arrays["x"])
            np.testing.assert_array_equal(found["no suffix"], [0.0])

    def test_a_path_that_is_none(self) -> None:
        self.file.write_text(self.text().replace(self.data.as_posix(), "a\\u0000b"), encoding="utf-8")
        self.assert_fails(self.train(), r"a\x00b: embedded null byte")


class TestDamagedConfiguration(FilesTestCase):
    def test_an_output_folder_that_is_no_path(self) -> None:
        self.file.write_text(self.text().replace(self.output.as_posix(), "o\\u0000x"), encoding="utf-8")
        self.assert_fails(self.train(), r"run.output: cannot write into o\x00x: embedded null byte")
        self.assert_fails(self.train(resume=True), r"o\x00x/checkpoint.npz: there is no checkpoint to resume from")

    @parameterized.expand(
        [
            ("brackets", "a = " + "[" * 100_000),
            ("brackets that end", "a = " + "[" * 200 + "]" * 200),
            ("tables", "a = " + "{a=" * 100_000),
            ("losses", "a = " + "{losses = [" * 300 + "]}" * 300),
            ("parts of a key", "a." * 50_000 + "b = 1"),
            ("parts in quotes", '"a b" . ' * 50_000 + "b = 1"),
            ("parts of a header", "[" + "'a' ." * 50_000 + "b]"),
        ]
    )
    def test_deep_nesting(self, case: str, text: str) -> None:
        self.file.write_text(text, encoding="utf-8")
        start = time.perf_counter()
        self.assert_fails(self.train(), f"{self.file}: nested more than {DEEPEST} levels deep")
        self.assertLess(time.perf_counter() - start, 5.0)

    def test_deep_nesting_on_the_command_line(self) -> None:
        for change in ("a=" + "[" * 10_000, "." * 10_000 + "=1", "objective.terms.0.options" + ".x" * 1_000 + "=1"):
            self.assert_fails(self.train(change), f"--set {change[:20]}", f"nested more than {DEEPEST} levels deep")

    def test_the_deepest_losses_are_computed(self) -> None:
        losses = '{ loss = "mse_loss" }'
        for _ in range(DEEPEST // 2 - 3):
            losses = f"{{ losses = [{losses}] }}"
        self.file.write_text(self.text().replace('loss = "mse_loss"', f"losses = [{losses}]"), encoding="utf-8")
        self.assert_trains()

    def test_dots_that_separate_no_keys(self) -> None:
        for text in ("# " + "a." * 99, f"a = [{'1.5, ' * 99}]", f'a = "{"." * 99}"', f"a = '{'a.' * 99}'"):
            self.assertEqual(parse_toml(text), tomllib.loads(text))

    def test_a_large_file(self) -> None:
        text = self.text()
        self.file.write_text(text + "#" * (LARGEST_FILE - len(text)), encoding="utf-8")
        self.assert_trains()
        self.file.write_text(text + "#" * (LARGEST_FILE - len(text) + 1), encoding="utf-8")
        self.assert_fails(self.train(), f"{self.file}: the file is larger than 1,000,000 bytes")

    def test_a_large_file_that_names_the_backend(self) -> None:
        self.enterContext(mock.patch("mithril_losses.backends._CONFIGURATION_FILE", str(self.folder / "large.toml")))
        for text, message in (("#" * (LARGEST_FILE + 1), "larger than"), ("a = " + "[" * 100_000, "nested more than")):
            (self.folder / "large.toml").write_text(text, encoding="utf-8")
            with self.assertRaisesRegex(ValueError, rf"large\.toml: .*{message}"):
                get_backend()

    def test_a_report_that_may_not_be_replaced(self) -> None:
        report = self.folder / "report.md"
        report.touch()
        refuse = mock.patch("os.access", lambda path, mode: path != report)
        with refuse, self.assertRaisesRegex(UserError, "report.md cannot be written"):
            require_writable(report)
        require_writable(report)


# --- a run that is killed -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """End the process at a call that changes files: neither this call nor a later one does anything."""
    calls = itertools.count()

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(calls) >= step:
                raise Killed
            return function(*arguments, **keywords)

        return call

    places = [(os, "replace"), (os, "unlink"), (os, "fsync"), (Path, "open")]
    patches = [mock.patch.object(owner, name, mortal(getattr(owner, name))) for owner, name in places]
    try:
        with patches[0], patches[1], patches[2], patches[3]:
            yield
    except Killed:
        return
    raise LookupError(f"there are fewer than {step + 1} calls")


WRITTEN = ("checkpoint.npz", "parameters.npz", "history.csv", "config.toml", "preparation.json")  # without a picture


def read_checkpoint(path: Path) -> Checkpoint:
    with np.load(path, allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        contents = {name: found[name] for name in found.files if name != "about"}
    return Checkpoint(about["epoch"], contents, about["history"], about["fingerprint"], about["steps"])


class KilledTestCase(FilesTestCase):
    def assert_one_state(self) -> int:
        """Assert that all files of a run are of one epoch, and return which."""
        found = read_checkpoint(self.checkpoint)
        names = {path.name for path in self.output.iterdir()}
        if "parameters.npz" in names:
            with np.load(self.output / "parameters.npz", allow_pickle=False) as parameters:
                self.assertEqual(
                    set(parameters.files), {name.partition("/")[2] for name in found.arrays if "parameters/" in name}
                )
                for name in parameters.files:
                    np.testing.assert_array_equal(parameters[name], found.arrays[f"parameters/{name}"])
        if "history.csv" in names:
            rows = (self.output / "history.csv").read_text().splitlines()[1:]
            self.assertEqual([int(row.split(",")[0]) for row in rows], list(range(1, found.epoch + 1)))
        return found.epoch


class TestKilledWhileWriting(KilledTestCase):
    def test_at_each_call_leaves_one_state_that_goes_on(self) -> None:
        self.train("run.epochs=3")
        expected = self.contents()
        third = read_checkpoint(self.checkpoint)
        best = {name: third.arrays[f"parameters/{name}"] for name in ("y_1_weight", "y_1_bias")}
        self.train("run.picture=true", overwrite=True)
        before = self.contents()
        folder = RunFolder(self.output, Trainer(read_config(self.file)))
        seen = []
        with self.assertRaisesRegex(LookupError, "fewer than"):
            for step in itertools.count():
                shutil.rmtree(self.output)
                self.output.mkdir()
                for name, content in before.items():
                    (self.output / name).write_bytes(content)
                with killed_at(step):
                    folder.save(third, best)
                seen.append(self.assert_one_state())
                if (self.output / "training.png").exists():
                    self.assertEqual(seen[-1], 2)
                self.assert_trains("run.epochs=3", resume=True)
                self.assertEqual(self.contents(), expected)
        self.assertEqual(seen, sorted(seen))  # first the old epoch, from one call on the new one
        self.assertEqual(set(seen), {2, 3})

    def test_in_the_first_epoch_leaves_what_was_there(self) -> None:
        self.train()
        before = self.contents()
        with mock.patch("mithril_losses.training.sources.batches", side_effect=Killed), self.assertRaises(Killed):
            train(read_config(self.file), overwrite=True)
        self.assertEqual(self.contents(), before)

    def test_files_and_folder_are_synced_before_they_take_their_place(self) -> None:
        self.output.mkdir()
        calls: list[Any] = []

        def record(name: str) -> Any:
            real = getattr(os, name)

            def call(target: Any, *rest: Any) -> Any:
                is_file = isinstance(target, int) and os.path.isfile(f"/dev/fd/{target}")
                calls.append((name, "file" if is_file else "folder") if name == "fsync" else (name, Path(target).name))
                return real(target, *rest)

            return mock.patch.object(os, name, call)

        with record("fsync"), record("replace"):
            write_atomically({self.output / name: lambda file: file.write(b"x") for name in ("one", "two")})
        self.assertEqual(
            calls,
            [
                ("fsync", "file"),
                ("fsync", "file"),
                ("fsync", "folder"),
                ("replace", ".one.partial"),
                ("fsync", "folder"),
                ("replace", ".two.partial"),
                ("fsync", "folder"),
            ],
        )

    def test_a_folder_that_cannot_be_synced_is_written_nevertheless(self) -> None:
        real = os.fsync

        def fsync(descriptor: int) -> None:
            if os.path.isdir(f"/dev/fd/{descriptor}"):
                raise OSError(errno.EINVAL, "Invalid argument")
            real(descriptor)

        with mock.patch.object(os, "fsync", fsync):
            self.assert_trains()

    def test_a_file_that_cannot_be_synced_is_an_error(self) -> None:
        self.train()
        before = self.contents()
        with mock.patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            self.assert_fails(self.train(overwrite=True), "cannot write into", "No space left on device")
        self.assertEqual(self.contents(), before)


class TestKilledProcesses(KilledTestCase):
    def start(self) -> subprocess.Popen[bytes]:
        """Start a run of minutes, and return when it has written a checkpoint."""
        command = [sys.executable, "-m", "mithril_losses", "train", str(self.file), "--set", "run.epochs=30000"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 120.0
        while not self.checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return process

    def test_a_second_run_is_refused_until_the_first_is_gone(self) -> None:
        process = self.start()
        self.assert_fails(self.train(), f"run.output: another run is writing into {self.output}")
        self.assert_fails(self.train(resume=True), "another run")
        self.assertIsNone(process.poll())
        process.kill()
        process.wait()
        self.assertTrue((self.output / ".lock").exists())
        epoch = self.assert_one_state()
        self.assert_trains(f"run.epochs={epoch + 1}", resume=True)
        self.assertEqual(sorted(self.contents()), sorted(WRITTEN))

    @pytest.mark.exhaustive  # each process takes seconds to start
    def test_at_random_moments(self) -> None:
        draw = random.Random(0)
        for _ in range(10):
            shutil.rmtree(self.output, ignore_errors=True)
            process = self.start()
            time.sleep(draw.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            end = self.assert_one_state() + 2
            self.assert_trains(f"run.epochs={end}", resume=True)
            resumed = self.contents()
            self.assertEqual(sorted(resumed), sorted(WRITTEN))
            self.assert_trains(f"run.epochs={end}", overwrite=True)
            self.assertEqual(self.contents(), resumed)


class TestOneRunOwnsAFolder(FilesTestCase):
    def test_within_one_process(self) -> None:
        with owned(self.output, FILES):
            self.assert_fails(self.train(), "another run is writing into")
            self.assertEqual(list(self.contents()), [".lock"])
        self.assertEqual(self.contents(), {})
        self.assert_trains()

    def test_after_a_run_that_fails(self) -> None:
        self.assert_fails(self.train("optimizer.learning_rate=1e300"), "diverged", code=1)
        self.assertEqual(self.contents(), {})

    def test_when_the_owner_leaves_between_opening_and_locking(self) -> None:
        lock, tries = files._lock, []

        def leave(descriptor: int) -> bool:
            if not tries:
                (self.output / ".lock").unlink()
            tries.append(descriptor)
            return lock(descriptor)

        with mock.patch.object(files, "_lock", leave), owned(self.output, FILES):
            self.assertEqual(len(tries), 2)
            self.assertTrue((self.output / ".lock").exists())
            with self.assertRaisesRegex(UserError, "another run"), owned(self.output, FILES):
                pass

    def test_the_lock_of_another_run_stays_when_the_folder_was_replaced(self) -> None:
        with owned(self.output, FILES):
            shutil.rmtree(self.output)
            with owned(self.output, FILES):
                pass
            other = owned(self.output, FILES)
            other.__enter__()
        self.assertTrue((self.output / ".lock").exists())
        other.__exit__(None, None, None)

    def test_a_folder_that_is_gone_is_no_error_of_its_own(self) -> None:
        with owned(self.output, FILES):
            shutil.rmtree(self.output)
        with owned(self.output, FILES):
            shutil.rmtree(self.output)
            self.output.write_text("something else", encoding="utf-8")

    @unittest.skipIf(sys.platform == "win32", "the lock is another one there")
    def test_a_file_system_without_locks_refuses_nobody(self) -> None:
        with mock.patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, "No locks available")):
            self.assert_trains()

    def test_partial_files_of_a_killed_run_are_removed(self) -> None:
        self.output.mkdir()
        for name in FILES:
            (self.output / f".{name}.partial").write_bytes(b"half")
        (self.output / ".history.csv.swp").write_bytes(b"of an editor")
        self.assert_trains()
        self.assertEqual(sorted(self.contents())[:2], [".history.csv.swp", "checkpoint.npz"])

    def test_links_are_not_followed(self) -> None:
        victim = self.folder / "victim"
        victim.write_bytes(b"as it was")
        self.output.mkdir()
        for name in (*FILES, ".checkpoint.npz.partial"):
            (self.output / name).symlink_to(victim)
        self.assert_trains(overwrite=True)
        (self.output / ".lock").symlink_to(victim)
        self.assert_fails(self.train(), "run.output: cannot write into")
        self.assertEqual(victim.read_bytes(), b"as it was")
