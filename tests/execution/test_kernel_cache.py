"""The folder of machine code: what is damaged, of somebody else or cannot be written is as if it were not there."""

import errno
import logging
import os
import shutil
import stat
import time
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from parameterized import parameterized

from mithril_losses.loops.kernel_cache import KernelCache, users_cache

STRANGER = 54321
needs_users = unittest.skipUnless(hasattr(os, "geteuid"), "this system has no owners and modes of files")


class InAFolder(unittest.TestCase):
    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.base = Path(directory.name) / "base"
        self.cache = KernelCache(self.base)

    def entry(self, name: str = "a") -> Path:
        return self.cache.folder / f"{name}.code"


class Entries(InAFolder):
    def test_what_was_written_is_read_by_its_name_alone(self) -> None:
        self.cache.write("a", b"code")
        self.assertEqual(self.cache.read("a"), b"code")
        self.assertIsNone(self.cache.read("b"))
        self.assertEqual(KernelCache(self.base).read("a"), b"code")

    def test_an_entry_under_the_name_of_another_is_not_read(self) -> None:
        self.cache.write("a", b"code")
        shutil.copy(self.entry("a"), self.entry("b"))
        self.assertIsNone(self.cache.read("b"))

    def test_no_flipped_bit_is_read(self) -> None:
        self.cache.write("a", np.random.default_rng(0).bytes(100))
        whole = self.entry().read_bytes()
        for place in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            self.entry().write_bytes(damaged)
            self.assertIsNone(self.cache.read("a"), place)

    @parameterized.expand([("nothing", 0), ("a part", 20), ("all but one byte", -1)])
    def test_an_entry_that_was_cut_is_not_read(self, name: str, length: int) -> None:
        self.cache.write("a", b"code" * 100)
        self.entry().write_bytes(self.entry().read_bytes()[:length])
        self.assertIsNone(self.cache.read("a"))

    def test_what_is_no_file_is_not_read_and_makes_no_error(self) -> None:
        self.cache.write("b", b"code")
        for name, make in (("folder", Path.mkdir), ("link", lambda path: path.symlink_to("nowhere"))):
            with self.subTest(name):
                make(self.entry(name))
                self.assertIsNone(self.cache.read(name))
                self.cache.write(name, b"code")

    def test_the_entries_that_were_used_last_are_kept(self) -> None:
        cache = KernelCache(self.base, entries=3)
        for i, name in enumerate("abcd"):
            cache.write(name, b"code")
            if cache.read("a") is not None:  # as if each entry were written a minute after the last
                times = time.time() - 1000 + 60 * i
                os.utime(self.entry(name), (times, times))
                os.utime(self.entry("a"), (times + 1, times + 1))
        self.assertEqual([name for name in "abcd" if cache.read(name)], ["a", "c", "d"])

    def test_partial_files_of_killed_processes_are_removed(self) -> None:
        self.cache.write("a", b"code")
        old, new = (self.cache.folder / f"{name}.partial" for name in ("old", "new"))
        for path in (old, new):
            path.touch()
        os.utime(old, (0, 0))
        self.cache.write("b", b"code")
        self.assertEqual([old.exists(), new.exists()], [False, True])


class Circumstances(InAFolder):
    def test_a_folder_that_was_removed_is_made_again(self) -> None:
        self.cache.write("a", b"code")
        shutil.rmtree(self.base)
        self.assertIsNone(self.cache.read("a"))
        self.cache.write("a", b"code")
        self.assertEqual(self.cache.read("a"), b"code")

    @parameterized.expand(["os.fsync", "os.replace"])
    def test_a_full_disk_leaves_nothing_and_makes_no_error(self, function: str) -> None:
        with mock.patch(function, side_effect=OSError(errno.ENOSPC, "No space left on device")):
            self.cache.write("a", b"code")
        self.assertIsNone(self.cache.read("a"))
        self.assertEqual(list(self.cache.folder.iterdir()), [])

    def test_a_base_that_is_no_folder_makes_no_error(self) -> None:
        self.base.write_text("a file")
        self.cache.write("a", b"code")
        self.assertIsNone(self.cache.read("a"))

    def test_without_a_base_nothing_is_kept(self) -> None:
        cache = KernelCache(None)
        cache.write("a", b"code")
        self.assertIsNone(cache.read("a"))


@needs_users
class Owner(InAFolder):
    def test_nobody_else_may_write_whatever_the_umask(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.cache.write("a", b"code")
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (self.base, self.cache.folder, self.entry())]
        self.assertEqual(modes, [0o700, 0o700, 0o600])

    @parameterized.expand([0o620, 0o602, 0o666])
    def test_an_entry_that_others_may_write_is_not_read(self, mode: int) -> None:
        self.cache.write("a", b"code")
        self.entry().chmod(mode)
        self.assertIsNone(self.cache.read("a"))

    def test_a_folder_that_others_may_write_to_is_not_used_and_one_line_says_so(self) -> None:
        self.cache.write("a", b"code")
        self.cache.folder.chmod(0o777)
        with self.assertLogs("mithril_losses", logging.WARNING) as log:
            self.assertIsNone(self.cache.read("a"))
            self.cache.write("b", b"code")
        self.assertEqual(len(log.output), 1)
        self.assertIn("others may write to it", log.output[0])
        self.assertFalse(self.entry("b").exists())

    def test_a_folder_of_somebody_else_is_not_used(self) -> None:
        with mock.patch("os.geteuid", return_value=STRANGER):  # whose folder the first user has made
            self.cache.folder.mkdir(parents=True)
            with self.assertLogs("mithril_losses", logging.WARNING):
                self.assertIsNone(self.cache.read("a"))
                self.cache.write("a", b"code")
        self.assertEqual(list((self.base / f"user-{STRANGER}").iterdir()), [])

    def test_a_link_to_a_folder_is_not_used(self) -> None:
        elsewhere = self.base.parent / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        self.base.mkdir()
        self.cache.folder.symlink_to(elsewhere)
        with self.assertLogs("mithril_losses", logging.WARNING):
            self.cache.write("a", b"code")
        self.assertEqual(list(elsewhere.iterdir()), [])

    def test_an_entry_of_somebody_else_is_not_read(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("only the superuser can give files away")
        self.cache.write("a", b"code")
        os.chown(self.entry(), STRANGER, STRANGER)
        self.assertIsNone(self.cache.read("a"))

    def test_users_share_a_base(self) -> None:
        self.base.mkdir()
        self.base.chmod(0o1777)
        self.cache.write("a", b"code")
        self.assertEqual(self.cache.read("a"), b"code")
        self.assertEqual(stat.S_IMODE(self.base.stat().st_mode), 0o1777)


class Environment(InAFolder):
    """Where the user's cache is."""

    def folder(self, **variables: str) -> Path | None:
        kept = {name: value for name, value in os.environ.items() if "CACHE" not in name} | variables
        with mock.patch.dict(os.environ, kept, clear=True):
            return users_cache.__wrapped__().folder

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_a_relative_path_stays_where_it_was(self) -> None:
        here = Path.cwd()
        folder = self.folder(MITHRIL_LOSSES_CACHE="relative")
        self.assertEqual(folder.parent, here / "relative")

    def test_the_home_is_expanded(self) -> None:
        folder = self.folder(MITHRIL_LOSSES_CACHE="~/x", HOME=str(self.base))
        self.assertEqual(folder.parent, self.base / "x")

    def test_the_cache_of_the_user_is_the_default(self) -> None:
        self.assertEqual(self.folder(HOME=str(self.base)).parent, self.base / ".cache/mithril_losses")
        self.assertEqual(self.folder(XDG_CACHE_HOME=str(self.base)).parent, self.base / "mithril_losses")

    def test_without_a_home_there_is_none(self) -> None:
        with mock.patch.object(Path, "expanduser", side_effect=RuntimeError("Could not determine home directory.")):
            self.assertIsNone(self.folder())

    @needs_users
    def test_the_home_of_somebody_else_is_not_used(self) -> None:
        self.base.mkdir()
        user = os.geteuid()
        if user == 0:  # what belongs to the superuser is trusted by everybody
            os.chown(self.base, STRANGER, STRANGER)
        with (
            mock.patch("os.geteuid", return_value=user and STRANGER),
            self.assertLogs("mithril_losses", logging.WARNING) as log,
        ):
            self.assertIsNone(self.folder(HOME=str(self.base)))
        self.assertIn("belongs to somebody else", log.output[0])
