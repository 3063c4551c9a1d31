"""What the files around the package promise: continuous integration runs only what is named by its contents."""

import re
import unittest
from pathlib import Path

from parameterized import parameterized

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


class Workflows(unittest.TestCase):
    @parameterized.expand([(path.stem, path) for path in WORKFLOWS])
    def test_actions_are_pinned_by_commit(self, name: str, path: Path) -> None:
        used = re.findall(r"uses: *(.+)", path.read_text())
        self.assertTrue(used)
        for action in used:  # whoever owns an action can move its tag, and with it what runs here
            self.assertRegex(action, r"^[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

    @parameterized.expand([(path.stem, path) for path in WORKFLOWS])
    def test_no_step_can_read_the_token_of_the_checkout(self, name: str, path: Path) -> None:
        text = path.read_text()
        checkouts = text.count("uses: actions/checkout@")
        kept_out = re.findall(r"uses: actions/checkout@.*\n +with:\n +persist-credentials: false\n", text)
        self.assertEqual(len(kept_out), checkouts)
        self.assertIn("permissions:\n  contents: read\n", text)
