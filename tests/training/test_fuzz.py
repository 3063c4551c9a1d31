"""Generated configurations run or are refused; and the fuzz target sees what it is there to see."""

import random
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import fuzz
import fuzz_numbers
import kinds
import numpy as np
import pytest
from parameterized import parameterized

from mithril_losses.objectives import config
from mithril_losses.training import printing, run


class TestFuzzOfNumbers(unittest.TestCase):
    @parameterized.expand([(kind,) for kind in fuzz_numbers.KINDS])
    @pytest.mark.exhaustive  # by default, `tests/laws` try the same kinds on every loss
    def test_no_case_fails(self, kind: str) -> None:
        self.assertEqual(fuzz_numbers.failures(kind, range(12)), [])

    @parameterized.expand([(kind,) for kind in fuzz_numbers.KINDS])
    def test_numbers_that_are_made_up_are_failures(self, kind: str) -> None:
        made_up = np.zeros(()), {"gradient": np.zeros(1)}
        with mock.patch.object(kinds, "evaluate", return_value=made_up):
            found = fuzz_numbers.failures(kind, range(12))
        self.assertGreater(len(found), 3)
        self.assertRegex(found[0][1], "Error: ")


class TestFuzz(unittest.TestCase):
    @parameterized.expand([("numpy", 120), ("torch", 20)])
    @pytest.mark.exhaustive  # by default, `test_a_few_files`
    def test_every_file_runs_or_is_refused(self, backend: str, count: int) -> None:
        tally = fuzz.fuzz(iter(range(count)), backend)
        self.assertEqual(tally.tried, count)
        self.assertTrue(0 < tally.ran < count, tally)  # neither refused for one and the same reason, nor all right

    def test_a_few_files_run_or_are_refused(self) -> None:
        tally = fuzz.fuzz(iter(range(20)), "numpy")
        self.assertEqual(tally.tried, 20)
        self.assertTrue(0 < tally.ran < 20, tally)

    def test_a_seed_makes_the_same_file_every_time(self) -> None:
        made = [fuzz.make(5, Path("data.npz"), Path("run")) for _ in range(2)]
        self.assertEqual(made[0], made[1])
        self.assertNotEqual(made[0], fuzz.make(6, Path("data.npz"), Path("run")))

    def test_an_exception_is_a_failure(self) -> None:
        broken = mock.patch.object(run, "train", side_effect=IndexError("out of range"))
        with broken, self.assertRaisesRegex(fuzz.Failure, "IndexError: out of range"):
            fuzz.fuzz(iter(range(100)))

    def test_what_a_terminal_obeys_is_a_failure(self) -> None:
        broken = mock.patch.object(printing, "printable", str)
        with broken, self.assertRaisesRegex(fuzz.Failure, "a terminal would obey"):
            self._run_with(lambda table: table["objective"]["terms"][0].update(name="\x9b2J"))

    def test_an_ignored_key_is_a_failure(self) -> None:
        broken = mock.patch.object(config, "check_keys")
        with broken, self.assertRaisesRegex(fuzz.Failure, "the run ignored .*typo"):
            self._run_with(lambda table: table["run"].update(typo=1))

    def test_a_dropped_value_is_a_failure(self) -> None:
        broken = mock.patch.object(fuzz, "read_config", return_value=mock.Mock(model_dump=lambda **_: {}))
        with broken, self.assertRaisesRegex(fuzz.Failure, "the run ignored"):
            self._run_with(lambda table: None)

    def _run_with(self, change: Callable[[fuzz.Table], None]) -> None:
        with tempfile.TemporaryDirectory() as base:
            data, output = fuzz.write_data(Path(base)), Path(base) / "run"
            table = fuzz.valid_table(random.Random(0), data, output)
            table["objective"] = {"terms": [{"name": "a", "loss": "mse_loss", "output": "a", "target": "real"}]}
            table["model"]["outputs"] = {"a": {"size": fuzz.SIZE}}
            change(table)
            text = "\n".join(f"{key} = {fuzz.to_toml(value)}" for key, value in table.items())
            with mock.patch.object(fuzz, "make", return_value=text.encode()):
                fuzz.run(0, Path(base), data, "numpy")
