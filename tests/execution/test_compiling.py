"""What is compiled, for how long it is kept, and who does the work where no thread can be started."""

import gc
import threading
import unittest
import weakref
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from typing import Any
from unittest import mock

import numpy as np
import pytest
from parameterized import parameterized

import mithril_losses as ml
from mithril_losses import value_and_gradient
from mithril_losses.backends import threads
from mithril_losses.loops import compiling

pytest.importorskip("numba")


class Versions(unittest.TestCase):
    """Older versions of numba would end the process."""

    @parameterized.expand([("0.61.2", False), ("0.62.0", True), ("0.68.1", True), ("1.0", True), ("0.62.0rc1", True)])
    def test_numba_is_used_from_the_first_version_that_can(self, version: str, expected: bool) -> None:
        with mock.patch("importlib.metadata.version", return_value=version):
            self.assertIs(compiling.has_numba.__wrapped__(), expected)

    def test_a_copy_without_metadata_is_used(self) -> None:
        with mock.patch("importlib.metadata.version", side_effect=PackageNotFoundError("numba")):
            self.assertTrue(compiling.has_numba.__wrapped__())

    def test_without_numba_nothing_is_compiled(self) -> None:
        with mock.patch.object(compiling, "find_spec", return_value=None):
            self.assertFalse(compiling.has_numba.__wrapped__())


TEXT = "from numba import njit\n\n@njit\ndef kernel(x):\n    for i in range(x.size):\n        x[i] = x[i] + NUMBER\n"


def owner(number: int) -> Any:
    """Return a function whose loop adds the number."""

    def terms() -> int:
        return number

    return terms


class Once(unittest.TestCase):
    def setUp(self) -> None:
        self.texts: list[int] = []

        def source(terms: Any) -> str:
            self.texts.append(terms())
            return TEXT.replace("NUMBER", str(terms()))

        self.compiled = compiling.CompiledOnce(source)

    def call(self, terms: Any, x: Any) -> None:
        loop = self.compiled(terms, (), compiling.types_of(x), lambda kernel: kernel(x[:0]))
        loop(x)

    def test_types_of_arrays_are_compiled_for_when_they_are_met(self) -> None:
        terms, x, y = owner(2), np.zeros(3, np.float32), np.zeros(3)
        for _ in range(2):
            self.call(terms, x)
            self.call(terms, y)
        self.assertEqual([*x, *y], [4.0] * 6)
        self.assertEqual(self.texts, [2, 2])

    def test_threads_that_call_at_the_same_time_compile_once(self) -> None:
        terms = owner(3)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: self.call(terms, np.zeros(2)), range(8)))
        self.assertEqual(self.texts, [3])

    def test_what_belongs_to_a_function_is_forgotten_with_it(self) -> None:
        held = np.zeros(3)
        terms = owner(4)
        terms.__dict__["held"] = held
        self.call(terms, np.zeros(2))
        gone = weakref.ref(held)
        del terms, held
        gc.collect()
        self.assertIsNone(gone())

    def test_what_cannot_be_compiled_is_refused_every_time_and_tried_once(self) -> None:
        def source(terms: Any) -> str:
            self.texts.append(1)
            return TEXT.replace("NUMBER", "'text'")

        compiled = compiling.CompiledOnce(source)
        for _ in range(2):
            with self.assertRaisesRegex(compiling.NotFusable, "owner cannot be compiled"):
                compiled(owner, (), (), lambda kernel: kernel(np.zeros(2)))
        self.assertEqual(self.texts, [1])

    def test_an_error_of_the_work_reaches_the_caller(self) -> None:
        def source(terms: Any) -> str:
            raise ZeroDivisionError("of the source")

        with self.assertRaisesRegex(ZeroDivisionError, "of the source"):
            compiling.CompiledOnce(source)(owner, (), (), lambda kernel: None)


class Definitions(unittest.TestCase):
    def test_terms_that_are_edited_again_and_again_are_not_compiled_forever(self) -> None:
        compiled = compiling.CompiledOnce(lambda terms: TEXT.replace("NUMBER", str(terms())))
        refused = []
        for number in range(compiling.DEFINITIONS + 2):
            for terms in owner(number), owner(number):  # the same text again is no other definition
                try:
                    compiled(terms, (), (), lambda kernel: None)
                    refused.append(False)
                except compiling.NotFusable:
                    refused.append(True)
        self.assertEqual(refused, [False] * 2 * compiling.DEFINITIONS + [True] * 4)


class WithoutThreads(unittest.TestCase):
    """At a limit of the system, or at the end of the interpreter, the caller does all of the work."""

    def setUp(self) -> None:
        threads.forget_pool()
        self.addCleanup(threads.forget_pool)

    def test_a_loss_answers(self) -> None:
        p = np.linspace(-2, 2, 1 << 20).astype(np.float32)
        both = value_and_gradient(ml.huber_loss, threads=2)
        expected = both(p, 0 * p)
        threads.forget_pool()
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            found = both(p, 0 * p)
        self.assertEqual(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])

    def test_nothing_waits_for_a_thread_that_never_comes(self) -> None:
        held = np.zeros(3)
        gone = weakref.ref(held)
        done: list[Any] = []
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            threads.share(3, lambda part, held=held: done.append(part), 2)
        self.assertEqual(done, [0, 1, 2])
        del held
        gc.collect()
        self.assertIsNone(gone())

    def test_threads_are_used_again_once_they_can_be_started(self) -> None:
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            threads.share(3, lambda part: None, 2)
        barrier = threading.Barrier(2, timeout=60)
        threads.share(2, lambda part: barrier.wait() and None, 2)

    def test_an_error_of_a_part_reaches_the_caller(self) -> None:
        def fail(part: int) -> None:
            raise ZeroDivisionError(part)

        with (
            mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")),
            self.assertRaises(ZeroDivisionError),
        ):
            threads.share(3, fail, 2)
