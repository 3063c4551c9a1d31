"""Laws that hold for every registered loss: one test each, over the whole catalogue."""

from __future__ import annotations

import inspect
import re
import unittest
from itertools import product
from typing import Any, TypeVar, get_type_hints

import jax
import numpy as np
import pytest
import torch
from cases import (
    CASES,
    DRAWN,
    DTYPES,
    LIBRARIES,
    ONE_OF_EACH_TEMPLATE,
    REDUCED,
    REDUCED_DRAWN,
    Case,
    convert,
    double_precision,
    flat,
    label,
    matched,
    reductions,
    to_numpy,
)
from parameterized import parameterized

from mithril_losses import catalogue, value_and_gradient
from mithril_losses.backends.namespaces import ArrayT
from mithril_losses.catalogue import GRADIENT_KEYWORDS
from mithril_losses.checking import check_gradient
from mithril_losses.domains import Edges, Flag, Images, Interval, Samples
from mithril_losses.numerics.signatures import PassedOn
from mithril_losses.numerics.trees import map_leaves
from mithril_losses.templates.apart import Apart

PAIRS = list(catalogue().values())
# eager JAX compiles each operation by itself, for seconds a case: `test_jax_jit` has the variants
BY_LIBRARY = [(x, library) for x in CASES for library in LIBRARIES if library != "jax" or x in DRAWN]


class Proof(unittest.TestCase):
    """The gradient is the derivative of the value: by autodiff, central differences and the Taylor remainder."""

    @parameterized.expand([(case,) for case in CASES], name_func=label)
    @pytest.mark.exhaustive_for(variants=True)  # exact numbers take every option
    def test_gradient_by_central_differences(self, case: Case) -> None:
        check = check_gradient(case.pair.value, *case.arguments("numpy"), **case.options)
        self.assertGreater(check.compared, 0.8 * (check.compared + check.left_out))

    @parameterized.expand([(case,) for case in CASES], name_func=label)
    @pytest.mark.exhaustive_for(variants=True)  # exact numbers take every option
    def test_gradient_by_autodiff(self, case: Case) -> None:
        for name, reduction in list(reductions(case))[:: 1 if case.name == "drawn" else 6]:
            with self.subTest(name):
                keywords = case.keywords("torch", **reduction)
                given = case.arguments("torch")
                check = check_gradient(case.pair.value, *given, tolerance=1e-8, differences=False, **keywords)
                self.assertLess(check.errors["torch.autograd"], 1e-12)

    @parameterized.expand([(pair.name, name) for pair in PAIRS for name in pair.on_request])
    def test_gradient_on_request(self, loss: str, argument: str) -> None:
        case = next(case for case in DRAWN if case.pair.name == loss)
        summed = {"reduction": "sum"} if case.pair.takes_reduction else {}
        check_gradient(loss, *case.arguments("torch"), wrt=argument, **summed, **case.options)
        both = case.gradient(wrt=(argument, *case.pair.wrt))
        for path, found, expected in matched(both[argument], case.gradient(wrt=argument)):
            np.testing.assert_array_equal(found, expected, err_msg=path)
        for path, found, expected in matched({name: both[name] for name in case.pair.wrt}, case.by_argument()):
            np.testing.assert_array_equal(found, expected, err_msg=path)
        _, gradient = value_and_gradient(case.pair.value)(*case.arguments("numpy"), wrt=argument, **case.options)
        for path, found, expected in matched(gradient, both[argument]):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15, err_msg=path)


class Pairing(unittest.TestCase):
    """A value and its gradient belong together."""

    @parameterized.expand([(pair.name,) for pair in PAIRS])
    def test_signatures_are_equal(self, loss: str) -> None:
        pair = catalogue()[loss]
        functions = [pair.gradient] + ([pair.both] if pair.both else [])
        expected = [p for p in inspect.signature(pair.value).parameters.values() if p.kind is not p.VAR_KEYWORD]
        for function in functions:
            found = [
                p
                for p in inspect.signature(function).parameters.values()
                if p.kind is not p.VAR_KEYWORD and p.name not in GRADIENT_KEYWORDS
            ]
            self.assertEqual(
                [(p.name, p.kind, p.default) for p in found], [(p.name, p.kind, p.default) for p in expected]
            )
            hints, value_hints = get_type_hints(function), get_type_hints(pair.value)
            # what decides the type of the result, an array or a nesting, is a variable, which it need not be in both
            own = [p.name for p in found if not isinstance(p, PassedOn)]
            named = [n for n in own if not (_is_variable(hints[n]) or _is_variable(value_hints[n]))]
            self.assertEqual({n: hints[n] for n in named}, {n: value_hints[n] for n in named})

    @parameterized.expand([(pair.name,) for pair in PAIRS])
    def test_docstrings_are_complete(self, loss: str) -> None:
        pair = catalogue()[loss]
        self.assertRegex(pair.formula, r"[=·Σ|½²λ−]", "the first line is no formula")
        self.assertRegex(pair.gradient_formula, r"[/·Σ|λ]", "the first line is no formula")
        text, of_gradient = (inspect.getdoc(function) or "" for function in (pair.value, pair.gradient))
        for section in ("Args:", "Returns:", "Raises:", "Example:", ">>> "):
            self.assertIn(section, text)
        self.assertIn("Example:\n", of_gradient)
        # of the arguments only what the loss does not have, and of errors none: the page says where both are told
        told = re.findall(r"^    (\w+): ", of_gradient.partition("\nArgs:\n")[2].partition("\n\n")[0], re.MULTILINE)
        self.assertLessEqual(set(told), {"wrt"})
        self.assertNotIn("Raises:", of_gradient)
        self.assertRegex(pair.source, r"\b(1[789]|20)\d\d\b", "the source has no year")
        self.assertEqual(set(pair.domain), set(pair.parameters), "every argument has a domain")

    @parameterized.expand(BY_LIBRARY, name_func=label)
    @pytest.mark.exhaustive_for(named="jax")  # where `test_one_function_compiled_by_jax` compares compiled numbers
    def test_value_and_gradient_equals_the_two(self, case: Case, library: str) -> None:
        more = {"weights": case.weights, "normalizer": 3.0} if case.pair.takes_reduction else {}
        with double_precision(library):
            arguments, keywords = case.arguments(library), case.keywords(library, **more)
            value, gradient = value_and_gradient(case.pair.value)(*arguments, **keywords, upstream=0.5)
            # NumPy's two stand for JAX's, which `test_one_function_compiled_by_jax` compares with them
            plain = "numpy" if library == "jax" else library
            for _, found, expected in matched(value, case.value(plain, **more)):
                np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=1e-12)
            for path, found, expected in matched(gradient, case.gradient(plain, upstream=0.5, **more)):
                np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=1e-12, atol=1e-15, err_msg=path)


class Reductions(unittest.TestCase):
    """The reduced losses are literal sums of the unreduced ones; the gradient is linear."""

    @parameterized.expand([(case,) for case in REDUCED_DRAWN], name_func=label)
    def test_values_are_literal_sums(self, case: Case) -> None:
        losses = case.value(reduction="none")
        weights = np.random.default_rng(5).uniform(0.2, 2.0, losses.shape)
        pairs = list(zip(losses.ravel().tolist(), weights.ravel().tolist(), strict=True))
        weighted = sum(loss * weight for loss, weight in pairs)
        expected = {
            "sum": weighted,
            "mean": weighted / len(pairs),
            "weighted_mean": weighted / sum(weight for _, weight in pairs),
            "batch_sum": weighted / len(losses),
        }
        for reduction, literal in expected.items():
            self.assertAlmostEqual(float(case.value(reduction=reduction, weights=weights)), literal, 12)
        self.assertAlmostEqual(float(case.value()), sum(loss for loss, _ in pairs) / len(pairs), 12)
        self.assertAlmostEqual(float(case.value(normalizer=3.0)), sum(loss for loss, _ in pairs) / 3.0, 12)
        np.testing.assert_allclose(case.value(reduction="none", weights=weights), losses * weights, rtol=1e-14)
        if case.pair.takes_axis:
            columns = losses.T.tolist() if losses.ndim > 1 else losses.tolist()
            expected = np.sum(columns, axis=-1) / len(losses)
            np.testing.assert_allclose(case.value(axis=0), expected, rtol=1e-12)

    @parameterized.expand([(case,) for case in REDUCED], name_func=label)
    def test_gradient_is_linear_in_upstream(self, case: Case) -> None:
        generator = np.random.default_rng(1)
        for reduction in ({"reduction": "none"}, {"reduction": "sum", **({"axis": 0} if case.pair.takes_axis else {})}):
            shape = np.shape(case.value(**reduction))
            first, second = generator.standard_normal(shape), generator.standard_normal(shape)
            first.flat[0] = 0.0
            sums = case.gradient(**reduction, upstream=2.0 * first - 3.0 * second)
            parts = [dict(flat(case.gradient(**reduction, upstream=part))) for part in (first, second)]
            for path, total in flat(sums):
                expected = 2.0 * parts[0][path] - 3.0 * parts[1][path]
                np.testing.assert_allclose(total, expected, rtol=1e-10, atol=1e-14, err_msg=path)
        for path, scaled, plain in matched(case.gradient(upstream=-2.5), case.gradient()):
            np.testing.assert_allclose(scaled, -2.5 * plain, rtol=1e-12, atol=1e-15, err_msg=path)
        with self.assertRaisesRegex(ValueError, "upstream"):
            case.gradient(upstream=np.ones((1, 1, 1, 99)))

    @parameterized.expand([(case,) for case in REDUCED], name_func=label)
    def test_micro_batches_add_up(self, case: Case) -> None:
        count = float(np.prod(case.rows))
        for (path, whole), *parts in zip(
            flat(case.gradient(normalizer=count)),
            *[flat(part.gradient(normalizer=count)) for part in _halves(case)],
            strict=True,
        ):
            # what all rows share, such as the weight of a layer, gets something from each
            is_shared = any(x.shape == whole.shape for _, x in parts)
            joined = sum(x for _, x in parts) if is_shared else np.concatenate([x for _, x in parts])
            np.testing.assert_allclose(whole, joined, rtol=1e-12, atol=1e-15, err_msg=path)
        total = sum(float(part.value(normalizer=count)) for part in _halves(case))
        self.assertAlmostEqual(total, float(case.value(normalizer=count)), 12)

    @parameterized.expand([(case, library) for case in REDUCED_DRAWN for library in LIBRARIES], name_func=label)
    @pytest.mark.exhaustive_for(named="jax")  # compiled, it is a part of `test_one_function_compiled_by_jax`
    def test_nothing_left_is_zero(self, case: Case, library: str) -> None:
        with double_precision(library):
            nothing = np.zeros(case.rows)
            for reduction in ("mean", "sum", "weighted_mean", "batch_sum"):
                keywords = {"reduction": reduction, "weights": nothing}
                self.assertEqual(float(case.value(library, **keywords)), 0.0)
                for _, gradient in flat(case.gradient(library, **keywords)):
                    self.assertFalse(np.any(to_numpy(gradient)))
            empty = case.cut(slice(0, 0))
            for reduction in ("mean", "sum", "weighted_mean", "batch_sum"):
                self.assertEqual(float(empty.value(library, reduction=reduction)), 0.0)
            for (_, gradient), (_, whole) in zip(flat(empty.gradient(library)), flat(case.gradient()), strict=True):
                self.assertIn(gradient.shape[:1], ((0,), whole.shape[:1]))
                self.assertFalse(np.any(to_numpy(gradient)))

    @parameterized.expand([(case, library) for case in REDUCED_DRAWN for library in LIBRARIES], name_func=label)
    @pytest.mark.exhaustive_for(named="jax")  # compiled, it is a part of `test_one_function_compiled_by_jax`
    def test_weight_zero_removes_nan(self, case: Case, library: str) -> None:
        weights = np.ones(case.rows)
        weights[0] = 0.0
        bad = _poisoned(case)
        with double_precision(library):
            np.testing.assert_allclose(
                float(bad.value(library, weights=weights)), float(case.value(library, weights=weights)), rtol=1e-12
            )
            for path, found, expected in matched(
                bad.gradient(library, weights=weights), case.gradient(library, weights=weights)
            ):
                np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=1e-12, err_msg=path)
                if found.shape[:1] == weights.shape[:1]:
                    self.assertFalse(np.any(to_numpy(found)[0]))


def _poisoned(case: Case) -> Case:
    """Return the case with NaN in the first row of what is differentiated."""
    poisoned = {name: x.copy() for name, x in case.arrays.items()}
    for name in set(case.pair.wrt) & set(case.batch):
        poisoned[name][0] = np.nan
    return Case(case.pair, "poisoned", poisoned, case.options)


def _with_batches_of_one_image(case: Case) -> Case:
    """Return a case whose rows are batches, where an image by itself could be a batch of images without channels."""
    arrays = {name: x[:, None] if isinstance(case.pair.domain[name], Images) else x for name, x in case.arrays.items()}
    return Case(case.pair, case.name, arrays, case.options)


def _halves(case: Case) -> list[Case]:
    middle = case.rows[0] // 2
    return [case.cut(slice(None, middle)), case.cut(slice(middle, None))]


class Contract(unittest.TestCase):
    """The gradient contract: shape, dtype, fresh and writable results, arguments untouched, libraries agree."""

    @parameterized.expand(BY_LIBRARY, name_func=label)
    @pytest.mark.exhaustive_for(named="jax")  # by default JAX is compiled: see `test_one_function_compiled_by_jax`
    def test_shape_dtype_and_library_are_kept(self, case: Case, library: str) -> None:
        for dtype in DTYPES[library]:
            if (library, dtype) != ("jax", "float64"):  # compiled, it is that of `test_one_function_compiled_by_jax`
                with self.subTest(dtype):
                    self._assert_kept(case, library, dtype)

    def _assert_kept(self, case: Case, library: str, dtype: str) -> None:
        with double_precision(library):
            arguments = case.arguments(library, dtype)
            keywords = case.keywords(library, dtype)
            value = case.pair.value(*arguments, **keywords)
            gradient = case.pair.gradient(*arguments, **keywords)
            named = dict(zip(case.arrays, arguments, strict=True)) | keywords
            wrt = [name for name in case.pair.wrt if name in named]  # those with a default may not be given
            expected = flat({name: named[name] for name in wrt} if len(wrt) > 1 else named[wrt[0]])
            for _, entry in flat(value):
                self.assertEqual(str(entry.dtype), str(expected[0][1].dtype))
            for (path, g), (_, x) in zip(flat(gradient), expected, strict=True):
                self.assertIs(type(g), type(x), path)
                self.assertEqual(tuple(g.shape), tuple(x.shape), path)
                self.assertEqual(g.dtype, x.dtype, path)
                self.assertEqual(str(getattr(g, "device", "")), str(getattr(x, "device", "")), path)
            exact, exact_gradient = case.value(), case.gradient()
            tolerance = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}[dtype]
            for _, entry, x in matched(value, exact):
                np.testing.assert_allclose(to_numpy(entry), to_numpy(x), rtol=tolerance)
            for path, g, x in matched(gradient, exact_gradient):
                # elements near a kink may fall on its other side when the arguments are rounded to half precision
                off = ~np.isclose(to_numpy(g), to_numpy(x), rtol=tolerance, atol=tolerance * np.abs(to_numpy(x)).max())
                self.assertLessEqual(off.mean(), 0.2 if dtype in ("float16", "bfloat16") else 0.0, path)

    @parameterized.expand(list(product(CASES, ("numpy", "torch"))), name_func=label)
    def test_results_are_fresh_and_arguments_untouched(self, case: Case, library: str) -> None:
        arguments = case.arguments(library)
        keywords = case.keywords(library, **({"weights": np.ones(case.rows)} if case.pair.takes_reduction else {}))
        before = [to_numpy(x).copy() for _, x in flat(arguments)]
        inputs = [x for _, x in flat([*arguments, *(k for k in keywords.values() if hasattr(k, "shape"))])]
        first = case.pair.gradient(*arguments, **keywords)
        second = case.pair.gradient(*arguments, **keywords)
        value_and_gradient(case.pair.value)(*arguments, **keywords)
        results = [x for _, x in flat([first, second])]
        for i, result in enumerate(results):
            for other in [*inputs, *results[i + 1 :]]:
                self.assertFalse(np.shares_memory(_memory(result), _memory(other)))
        for path, a, b in matched(first, second):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b), err_msg=path)
            a += 1.0  # some compiled models add into the gradients they are handed
        for x, copy in zip([x for _, x in flat(arguments)], before, strict=True):
            np.testing.assert_array_equal(to_numpy(x), copy)

    @parameterized.expand([(case,) for case in CASES], name_func=label)
    def test_read_only_strided_and_byte_swapped_arrays(self, case: Case) -> None:
        def strided(x: np.ndarray) -> np.ndarray:
            spaced = np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x.copy()
            spaced.flags.writeable = False
            return spaced

        def reversed_(x: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(x[..., ::-1])[..., ::-1] if x.ndim else x

        for awkward in (strided, reversed_, lambda x: x.astype(x.dtype.newbyteorder("S"))):
            arguments = [_map(awkward, convert(x, "numpy")) for x in case.arrays.values()]
            for _, found, expected in matched(case.pair.value(*arguments, **case.options), case.value()):
                np.testing.assert_allclose(found, expected, rtol=1e-12)
            for path, g, expected in matched(case.pair.gradient(*arguments, **case.options), case.gradient()):
                np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-16, err_msg=path)
                self.assertTrue(g.flags.writeable)

    @parameterized.expand([(case,) for case in REDUCED_DRAWN if len(case.arrays) > 1], name_func=label)
    def test_shapes_are_never_broadcast(self, case: Case) -> None:
        names = list(case.arrays)
        changes = [lambda x: x[..., None], lambda x: x[None]]
        domain = case.pair.domain[names[1]]
        if not isinstance(domain, Edges):  # fewer edges are edges, too
            changes.append(lambda x: x[:1])
        if not isinstance(domain, Samples):  # and fewer samples are samples
            changes.append(lambda x: x[..., :-1])
        for change in changes:
            arrays = {**case.arrays, names[1]: change(case.arrays[names[1]])}
            # arrays that are reduced apart may differ, but what is left of them is not broadcast
            self._refused(
                case, ValueError, arrays, {} if not isinstance(case.pair.terms, Apart) else {"reduction": "none"}
            )

    @parameterized.expand([(case,) for case in DRAWN], name_func=label)
    def test_bad_arguments_are_refused_alike(self, case: Case) -> None:
        first = next(iter(case.arrays))
        self._refused(case, TypeError, {**case.arrays, first: None}, {})
        self._refused(
            case, TypeError, {**case.arrays, first: _map(lambda x: x.astype(np.int64), case.arrays[first])}, {}
        )
        self._refused(
            case, TypeError, {**case.arrays, first: _map(lambda x: x.astype(np.longdouble), case.arrays[first])}, {}
        )
        for name, x in case.arrays.items():
            for change in (lambda x: x + 0j, lambda x: x.astype(object), np.ma.masked_array):
                self._refused(case, TypeError, {**case.arrays, name: _map(change, x)}, {})
        for name, domain in case.pair.domain.items():
            if name in case.options:
                self._refused(case, TypeError, case.arrays, {name: "1"})
                self._refused(case, TypeError, case.arrays, {name: True})
            if name in case.options and isinstance(domain, Interval):
                self._refused(case, ValueError, case.arrays, {name: float("nan")})
                self._refused(case, ValueError, case.arrays, {name: domain.low - 0.5})
            if isinstance(domain, Flag):
                self._refused(case, TypeError, case.arrays, {name: "no"})
                self._refused(case, TypeError, case.arrays, {name: 1})
        if case.pair.takes_reduction:
            for keywords in (
                {"reduction": "average"},
                {"axis": 9},
                {"reduction": "sum", "normalizer": 2.0},
                {"normalizer": -1.0},
                {"weights": np.ones((9, 9, 9, 9))},
                *([{"axis": (0, 0)}, {"reduction": "none", "axis": 0}] if case.pair.takes_axis else []),
            ):
                self._refused(case, ValueError, case.arrays, keywords)
            negative = np.ones(case.rows)
            negative.flat[0] = -1.0
            self._refused(case, ValueError, case.arrays, {"weights": negative, "reduction": "weighted_mean"})
            self._refused(case, TypeError, case.arrays, {"weights": torch.ones(case.rows)})
            self._refused(case, TypeError, case.arrays, {"axis": 0.5})
        if len(case.arrays) > 1:
            second = list(case.arrays)[1]
            self._refused(case, TypeError, {**case.arrays, second: convert(case.arrays[second], "torch")}, {})

    def _refused(self, case: Case, error: type[Exception], arrays: dict[str, Any], more: dict[str, Any]) -> None:
        messages = []
        for function in (case.pair.value, case.pair.gradient, value_and_gradient(case.pair.value)):
            with self.assertRaises(error) as caught:
                function(*arrays.values(), **{**case.options, **more})
            messages.append(str(caught.exception))
        self.assertEqual(len(set(messages)), 1, messages)


class Transforms(unittest.TestCase):
    """jit, vmap and compile see the same functions."""

    @parameterized.expand([(case,) for case in DRAWN], name_func=label)
    def test_one_function_compiled_by_jax(self, case: Case) -> None:
        """One compiled function of arrays, options and weights gives NumPy's numbers, and differentiates to them."""
        pair = case.pair
        traced = {name: x for name, x in case.options.items() if not pair.domain[name].static}
        fixed = {name: x for name, x in case.options.items() if name not in traced}

        @jax.jit
        def every(arrays: list[Any], rest: dict[str, Any]) -> tuple[Any, Any, Any]:
            given = dict(zip(case.arrays, arrays, strict=True)) | rest
            wrt = {name: given[name] for name in pair.wrt if name in given}

            def loss(at: dict[str, Any]) -> Any:
                named = given | at
                return pair.total_of(pair.value(*[named.pop(name) for name in case.arrays], **named, **fixed))

            found = pair.gradient(*arrays, **rest, **fixed)
            by_argument = found if len(pair.wrt) > 1 else {pair.wrt[0]: found}
            return loss({}), by_argument, jax.grad(loss)(wrt)

        def compiled(case: Case, weights: np.ndarray | None) -> tuple[Any, Any, Any]:
            more = {} if weights is None else {"weights": weights}
            with double_precision("jax"):
                found = every(case.arguments("jax"), {name: convert(x, "jax") for name, x in (traced | more).items()})
            return tuple(map_leaves(lambda _, x: np.asarray(x), x) for x in found)

        if not pair.takes_reduction:
            value, gradient, derivative = compiled(case, None)
            self._assert_equal((value, gradient), (pair.total_of(case.value()), case.by_argument()))
            self._assert_is_derivative(case, gradient, derivative)
            return
        weights = case.weights
        value, gradient, derivative = compiled(case, weights)
        self._assert_equal((value, gradient), (case.value(weights=weights), case.by_argument(weights=weights)))
        self._assert_is_derivative(case, gradient, derivative)
        with self.subTest("a weight of zero removes NaN"):
            self._assert_equal(compiled(_poisoned(case), weights)[:2], (value, gradient))
        # arrays of no rows are compiled once more, and what is compiled is the code of the template
        without_rows = [("no rows", case.cut(slice(0, 0)))] if case in ONE_OF_EACH_TEMPLATE else []
        for name, nothing in (("all weights are zero", case), *without_rows):
            with self.subTest(name):
                value, gradient, _ = compiled(nothing, np.zeros(nothing.rows))
                self.assertEqual(value, 0.0)
                for path, g in flat(gradient):
                    self.assertFalse(np.any(g), path)

    def _assert_equal(self, found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        for path, a, b in matched(found[1], expected[1]):
            self.assertEqual((a.dtype, a.shape), (b.dtype, b.shape), path)
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15, err_msg=path)

    def _assert_is_derivative(self, case: Case, gradient: Any, derivative: Any) -> None:
        near = [np.abs(to_numpy(x)) < 1e-2 for x in case.pair.kinks_at(list(case.arrays.values()), case.options)]
        for path, a, b in matched(gradient, derivative):
            smooth = np.ones(a.shape, dtype=bool)
            for x in near:
                if x.shape == a.shape[: x.ndim]:
                    smooth[x] = False
            np.testing.assert_allclose(a[smooth], b[smooth], rtol=1e-12, atol=1e-12 * np.abs(b).max(), err_msg=path)

    @parameterized.expand([(case,) for case in CASES], name_func=label)
    @pytest.mark.exhaustive  # with options settled, as eager JAX has them; traced, they are in the test above
    def test_jax_jit(self, case: Case) -> None:
        with double_precision("jax"):
            arguments, keywords = case.arguments("jax"), case.keywords("jax")
            both = jax.jit(lambda *a: (case.pair.value(*a, **keywords), case.pair.gradient(*a, **keywords)))
            for found, expected in zip(both(*arguments), (case.value(), case.gradient()), strict=True):
                for path, a, b in matched(found, expected):
                    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15, err_msg=path)

    @parameterized.expand([(case,) for case in REDUCED_DRAWN if case in ONE_OF_EACH_TEMPLATE], name_func=label)
    def test_jax_vmap(self, case: Case) -> None:
        self._vectorize_by_jax(case)

    @parameterized.expand([(case,) for case in REDUCED_DRAWN if case not in ONE_OF_EACH_TEMPLATE], name_func=label)
    @pytest.mark.exhaustive  # JAX batches the operations that are compiled above, one by one
    def test_jax_vmap_others(self, case: Case) -> None:
        self._vectorize_by_jax(case)

    def _vectorize_by_jax(self, case: Case) -> None:
        case = _with_batches_of_one_image(case)
        rows, axes = self._rows_and_axes(case)
        with double_precision("jax"):
            each = jax.vmap(
                lambda *a: (case.pair.value(*a, **case.options), case.pair.gradient(*a, **case.options)), axes
            )
            values, gradients = jax.jit(each)(*case.arguments("jax"))  # eagerly, each operation is compiled by itself
        np.testing.assert_allclose(values, [row.value() for row in rows], rtol=1e-12)
        for i, row in enumerate(rows):
            for path, a, b in matched(gradients, row.gradient()):
                np.testing.assert_allclose(a[i], b, rtol=1e-12, atol=1e-15, err_msg=path)

    @parameterized.expand([(case,) for case in REDUCED_DRAWN], name_func=label)
    def test_torch_vmap(self, case: Case) -> None:
        case = _with_batches_of_one_image(case)
        rows, axes = self._rows_and_axes(case)
        values = torch.func.vmap(lambda *a: case.pair.value(*a, **case.options), axes)(*case.arguments("torch"))
        np.testing.assert_allclose(values, [row.value() for row in rows], rtol=1e-12)

    def _rows_and_axes(self, case: Case) -> tuple[list[Case], tuple[int | None, ...]]:
        axes = tuple(0 if name in case.batch else None for name in case.arrays)
        return [case.cut(i) for i in range(case.rows[0])], axes

    @parameterized.expand([(case,) for case in DRAWN], name_func=label)
    def test_torch_func_grad(self, case: Case) -> None:
        first, *constants = case.arguments("torch")
        found = torch.func.grad(lambda x: case.pair.total_of(case.pair.value(x, *constants, **case.options)))(first)
        expected = case.gradient()
        for path, a, b in matched(found, expected[case.pair.wrt[0]] if len(case.pair.wrt) > 1 else expected):
            np.testing.assert_allclose(to_numpy(a), b, rtol=1e-12, atol=1e-15, err_msg=path)

    @parameterized.expand([(case,) for case in DRAWN], name_func=label)
    @pytest.mark.exhaustive  # by default, test_differentiable.py compiles some
    def test_torch_compile(self, case: Case) -> None:
        torch._dynamo.reset()
        pair, arguments, keywords = case.pair, case.arguments("torch"), case.keywords("torch")

        @torch.compile(fullgraph=True, backend="eager")
        def both(*arguments: Any) -> tuple[Any, Any]:
            return pair.value(*arguments, **keywords), pair.gradient(*arguments, **keywords)

        for found, expected in zip(both(*arguments), (case.value(), case.gradient()), strict=True):
            for path, a, b in matched(found, expected):
                np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=1e-12, atol=1e-15, err_msg=path)


def _is_variable(hint: Any) -> bool:
    return isinstance(hint, TypeVar) or hint == ArrayT | None


def _map(function: Any, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _map(function, branch) for key, branch in tree.items()}
    return [_map(function, branch) for branch in tree] if isinstance(tree, list) else function(tree)


def _memory(x: Any) -> np.ndarray:
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
