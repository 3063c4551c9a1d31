"""Commands run in a folder of their own."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

from mithril_losses.cli.commands import app

CONFIG = """
data = { examples = 100 }
model = { hidden = [8], outputs = { digit = { size = 10 } } }
optimizer = { kind = "sgd", learning_rate = 0.1 }
run = { epochs = 2, picture = false, output = "%s" }

[[objective.terms]]
name = "classes"
loss = "cross_entropy_with_logits"
output = "digit"
target = "label"
"""


class CommandLineTestCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.output = self.folder / "run"
        self.file = self.folder / "config.toml"
        self.file.write_text(CONFIG % self.output.as_posix(), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "MITHRIL_LOSSES_BACKEND"}
        patch = mock.patch.dict(os.environ, environment, clear=True)
        patch.start()
        self.addCleanup(patch.stop)

    def run_app(self, *arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="mithril-losses")

    def train(self, *changes: str, **keywords: Any) -> Any:
        """Run `train` on the configuration with some keys changed."""
        options = [part for change in changes for part in ("--set", change)]
        options += [part for name, value in keywords.items() for part in (f"--{name}", value) if part is not True]
        return self.run_app("train", self.file, *options)

    def assert_fails(self, result: Any, *words: str, code: int = 2) -> None:
        """Assert that a command ended with one line on stderr, which holds the words, and an exit code."""
        self.assertEqual((result.exit_code, result.stdout), (code, ""), result.output)
        self.assertIsInstance(result.exception, SystemExit)
        self.assertRegex(result.stderr, r"\Aerror: [^\n]+\n\Z")
        for word in words:
            self.assertIn(word, result.stderr)
