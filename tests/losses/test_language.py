"""Linear cross-entropy: the cross-entropy of the explicit product, whatever the options, the library and the chunks."""

from __future__ import annotations

import tracemalloc
import unittest
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from cases import LIBRARIES, convert, double_precision, to_numpy
from modes import MODES, TRACED, evaluate_pair
from parameterized import parameterized

from mithril_losses import (
    Objective,
    Term,
    check_gradient,
    cross_entropy_with_logits,
    cross_entropy_with_logits_gradient,
    linear_cross_entropy,
    linear_cross_entropy_gradient,
    next_token_cross_entropy,
    next_token_cross_entropy_gradient,
    value_and_gradient,
)

ROWS, CLASSES, FEATURES, IGNORED = (3, 4), 7, 5, -100


def drawn(library: str = "numpy", dtype: str = "float64", seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    arrays = {
        "hidden": generator.standard_normal((*ROWS, FEATURES)),
        "weight": generator.standard_normal((CLASSES, FEATURES)),
        "targets": generator.integers(0, CLASSES, ROWS, dtype=np.int32),
    }
    return {name: convert(x, library, dtype) for name, x in arrays.items()}


BIAS = np.random.default_rng(1).standard_normal(CLASSES)
CLASS_WEIGHTS = np.array([0.5, 1.0, 2.0, 0.0, 0.25, 1.5, 3.0])
WEIGHTS = np.random.default_rng(2).uniform(0.0, 2.0, ROWS) * (np.arange(12).reshape(ROWS) % 5 > 0)
OPTIONS = [
    {
        name: value
        for name, value in zip(("bias", "class_weights", "label_smoothing", "ignore_index"), values, strict=True)
        if value is not None
    }
    for values in product((None, BIAS), (None, CLASS_WEIGHTS), (None, 0.2), (None, IGNORED))
]
REDUCTIONS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum", "weights": WEIGHTS},
    {"reduction": "weighted_mean", "weights": WEIGHTS},
    {"reduction": "none", "weights": WEIGHTS},
    {"axis": 0},
    {"normalizer": 5.0},
]


def named(function: Any, number: str, parameters: Any) -> str:
    options, *rest = parameters.args
    return "_".join([function.__name__, number, *options, *map(str, rest)])


def by_the_product(
    arrays: dict[str, Any], options: dict[str, Any], reduction: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The value and all gradients of cross_entropy_with_logits at the explicit logits, by the chain rule in NumPy."""
    hidden, weight, targets = arrays["hidden"], arrays["weight"], arrays["targets"]
    bias = options.get("bias")
    logits = hidden @ weight.T + (0.0 if bias is None else bias)
    own = {name: value for name, value in options.items() if name != "bias"}
    value = cross_entropy_with_logits(logits, targets, **own, **reduction)
    upstream = np.random.default_rng(3).standard_normal(np.shape(value))
    slopes = cross_entropy_with_logits_gradient(logits, targets, **own, **reduction, upstream=upstream)
    flat = slopes.reshape(-1, CLASSES)
    gradients = {"hidden": slopes @ weight, "weight": flat.T @ hidden.reshape(-1, FEATURES)}
    return value, upstream, gradients if bias is None else gradients | {"bias": flat.sum(axis=0)}


def assert_same_gradients(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        scale = np.abs(to_numpy(expected[name])).max()
        np.testing.assert_allclose(
            to_numpy(found[name]), to_numpy(expected[name]), rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


class Definition(unittest.TestCase):
    """The cross-entropy with logits of `hidden @ weight.T + bias`, and its chain rule."""

    @parameterized.expand(list(product(OPTIONS, LIBRARIES)), name_func=named)
    def test_equals_the_explicit_product(self, options: dict[str, Any], library: str) -> None:
        arrays = drawn()
        if "ignore_index" in options:
            arrays["targets"][1, :3] = IGNORED
        # every option with every reduction on NumPy; each library has each of both
        chosen = slice(None) if library == "numpy" else slice(sum(map(len, options)) % 3, None, 3)
        for i, reduction in list(enumerate(REDUCTIONS))[chosen]:
            value, upstream, gradients = by_the_product(arrays, options, reduction)
            with self.subTest(**reduction), double_precision(library):
                given = [convert(x, library) for x in arrays.values()]
                keywords = {
                    name: convert(x, library) if isinstance(x, np.ndarray) else x
                    for name, x in {**options, **reduction, "chunk_rows": (None, 5, 4)[i % 3]}.items()
                }
                flow = convert(upstream, library)
                found, found_gradients = value_and_gradient(linear_cross_entropy)(*given, **keywords, upstream=flow)
                np.testing.assert_allclose(to_numpy(found), value, rtol=1e-12)
                assert_same_gradients(found_gradients, gradients)

    @parameterized.expand(["mean", "sum", "none"])
    def test_equals_torch(self, reduction: str) -> None:
        arrays = drawn("torch")
        arrays["targets"][0, 1] = IGNORED
        variables = {name: arrays[name].requires_grad_() for name in ("hidden", "weight")}
        variables["bias"] = convert(BIAS, "torch").requires_grad_()
        for smoothing, weights in ((0.0, None), (0.2, None), (0.0, convert(CLASS_WEIGHTS, "torch"))):
            logits = F.linear(arrays["hidden"], arrays["weight"], variables["bias"]).reshape(-1, CLASSES)
            expected = F.cross_entropy(
                logits, arrays["targets"].long().reshape(-1), weights, label_smoothing=smoothing, reduction=reduction
            )
            gradients = torch.autograd.grad(expected.sum(), list(variables.values()))
            keywords = {
                "class_weights": weights,
                "label_smoothing": smoothing,
                "ignore_index": IGNORED,
                "reduction": reduction,
            }
            value, found = value_and_gradient(linear_cross_entropy)(*arrays.values(), variables["bias"], **keywords)
            np.testing.assert_allclose(to_numpy(value).reshape(-1), to_numpy(expected).reshape(-1), rtol=1e-12)
            assert_same_gradients(found, dict(zip(variables, gradients, strict=True)))

    def test_z_loss_and_soft_cap_by_hand(self) -> None:
        # the logits 0 and log 3 = 2 artanh ½ are capped to 0 and 2 · ½ = 1
        hidden, weight = np.array([[1.0]]), np.array([[0.0], [np.log(3.0)]])
        normalizer = np.log(1.0 + np.e)
        value = linear_cross_entropy(hidden, weight, np.array([1]), soft_cap=2.0, z_loss=0.5)
        self.assertAlmostEqual(float(value), normalizer - 1.0 + 0.5 * normalizer**2, 14)

    @parameterized.expand(["numpy", "jax", "torch"])
    def test_z_loss_and_soft_cap_by_autodiff(self, library: str) -> None:
        arrays = drawn()
        for options in (
            {"z_loss": 0.3},
            {"soft_cap": 1.5},
            {
                "z_loss": 0.3,
                "soft_cap": 1.5,
                "label_smoothing": 0.1,
                "class_weights": CLASS_WEIGHTS,
                "weights": WEIGHTS,
            },
        ):
            with self.subTest(**options), double_precision(library):
                given = [convert(x, library) for x in arrays.values()]
                keywords = {
                    name: convert(x, library) if isinstance(x, np.ndarray) else x
                    for name, x in {**options, "bias": BIAS}.items()
                }
                check = check_gradient(linear_cross_entropy, *given, chunk_rows=5, **keywords)
                self.assertEqual(check.compared, 12 * FEATURES + CLASSES * FEATURES + CLASSES)
                for method, error in check.errors.items():
                    self.assertLess(error, 1e-6 if method == "central differences" else 1e-12)

    def test_z_loss_ignores_class_weights_and_ignored_rows(self) -> None:
        arrays = drawn()
        arrays["targets"][0] = IGNORED
        lse = np.log(np.exp(arrays["hidden"] @ arrays["weight"].T).sum(axis=-1))
        options = {"class_weights": CLASS_WEIGHTS, "ignore_index": IGNORED, "reduction": "none"}
        with_z = linear_cross_entropy(*arrays.values(), z_loss=0.1, **options)
        extra = with_z - linear_cross_entropy(*arrays.values(), **options)
        np.testing.assert_allclose(extra, np.where(arrays["targets"] == IGNORED, 0.0, 0.1 * lse**2), rtol=1e-12)


class Chunks(unittest.TestCase):
    """The rows of a chunk are a matter of memory alone."""

    @parameterized.expand(list(product(("numpy", "jax", "torch"), (1, 2, 5, 7, 11, 12, 100))))
    def test_result_does_not_depend_on_chunk_rows(self, library: str, chunk: int) -> None:
        arrays = drawn()
        arrays["targets"][2, 1:] = IGNORED
        with double_precision(library):
            given = [convert(x, library) for x in (*arrays.values(), BIAS)]
            options = {"ignore_index": IGNORED, "label_smoothing": 0.1, "z_loss": 0.01, "soft_cap": 3.0}
            value, gradients = value_and_gradient(linear_cross_entropy)(*given, **options)
            found, found_gradients = value_and_gradient(linear_cross_entropy)(*given, chunk_rows=chunk, **options)
            np.testing.assert_allclose(float(found), float(value), rtol=1e-14)
            assert_same_gradients(found_gradients, gradients, 1e-14)

    @parameterized.expand([(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)])
    def test_chunk_rows_is_a_positive_integer(self, chunk: Any, error: type[Exception]) -> None:
        for function in (linear_cross_entropy, linear_cross_entropy_gradient):
            with self.assertRaisesRegex(error, "chunk_rows"):
                function(*drawn().values(), chunk_rows=chunk)

    @parameterized.expand([({},), ({"ignore_index": IGNORED},), ({"label_smoothing": 0.1, "soft_cap": 9.0},)])
    def test_logits_are_never_all_in_memory(self, options: dict[str, Any]) -> None:
        rows, classes, features = 4096, 16_000, 8
        generator = np.random.default_rng(0)
        hidden = generator.standard_normal((rows, features), dtype=np.float32)
        weight = generator.standard_normal((classes, features), dtype=np.float32)
        targets = generator.integers(0, classes, rows)
        targets[::3] = options.get("ignore_index", 0)
        linear_cross_entropy_gradient(hidden[:2], weight, targets[1:3], **options)
        tracemalloc.start()
        try:
            _, gradients = value_and_gradient(linear_cross_entropy)(hidden, weight, targets, **options)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        extra = peak - sum(x.nbytes for x in gradients.values())
        self.assertLess(extra, rows * classes * 4 / 8)

    def test_graph_of_jax_keeps_no_logits(self) -> None:
        rows, classes = 64, 50
        hidden, weight, targets = jnp.ones((rows, 3)), jnp.ones((classes, 3)), jnp.zeros(rows, dtype=int)
        graph = jax.make_jaxpr(jax.grad(lambda h, w: linear_cross_entropy(h, w, targets, chunk_rows=8), (0, 1)))
        self.assertNotRegex(str(graph(hidden, weight)), r"f32\[(8,8|64),50\]")


class Rows(unittest.TestCase):
    """Rows that do not count, and labels that are none."""

    @parameterized.expand([(library, chunk) for library in LIBRARIES for chunk in (None, 5)])
    def test_ignored_rows_count_nowhere(self, library: str, chunk: int | None) -> None:
        arrays = drawn()
        ignored = np.zeros(ROWS, dtype=bool)
        ignored[0, 1:3] = ignored[2] = True
        arrays["targets"][ignored] = IGNORED
        poisoned = {**arrays, "hidden": np.where(ignored[..., None], np.nan, arrays["hidden"])}
        kept = {name: arrays[name][~ignored] for name in ("hidden", "targets")} | {"weight": arrays["weight"]}
        expected, gradients = value_and_gradient(linear_cross_entropy)(**kept)
        with double_precision(library):
            given = {name: convert(x, library) for name, x in poisoned.items()}
            value, found = value_and_gradient(linear_cross_entropy)(**given, ignore_index=IGNORED, chunk_rows=chunk)
        self.assertAlmostEqual(float(value), float(expected), 14)
        np.testing.assert_allclose(to_numpy(found["weight"]), gradients["weight"], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(to_numpy(found["hidden"])[~ignored], gradients["hidden"], rtol=1e-12, atol=1e-15)
        self.assertFalse(np.any(to_numpy(found["hidden"])[ignored]))

    @parameterized.expand(LIBRARIES)
    def test_all_rows_ignored(self, library: str) -> None:
        given = drawn(library, "float32")
        given["targets"] = convert(np.full(ROWS, IGNORED, dtype=np.int32), library)
        value, gradients = value_and_gradient(linear_cross_entropy)(**given, ignore_index=IGNORED)
        self.assertEqual(float(value), 0.0)
        self.assertFalse(any(np.any(to_numpy(x)) for x in gradients.values()))

    def test_autodiff_passes_by_rows_that_do_not_count(self) -> None:
        arrays = drawn()
        arrays["hidden"][0] = np.nan
        arrays["targets"][0, :2] = IGNORED
        weights = np.ones(ROWS)
        weights[0, 2:] = 0.0
        keywords = {"ignore_index": IGNORED, "chunk_rows": 5}
        expected = linear_cross_entropy_gradient(*arrays.values(), **keywords, weights=weights)
        with double_precision("jax"):
            hidden, weight, targets = (convert(x, "jax") for x in arrays.values())
            by_jax = jax.grad(linear_cross_entropy, (0, 1))(
                hidden, weight, targets, **keywords, weights=jnp.asarray(weights)
            )
        hidden, weight, targets = (convert(x, "torch") for x in arrays.values())
        variables = hidden.requires_grad_(), weight.requires_grad_()
        value = linear_cross_entropy(*variables, targets, **keywords, weights=torch.tensor(weights))
        by_torch = torch.autograd.grad(value, variables)
        for found in (by_jax, by_torch):
            assert_same_gradients(dict(zip(("hidden", "weight"), found, strict=True)), expected)

    @parameterized.expand([(label, library) for label in (-1, CLASSES, 2**31 - 1) for library in LIBRARIES])
    def test_label_outside_the_classes_is_an_error(self, label: int, library: str) -> None:
        given = drawn(library, "float32")
        targets = np.zeros(ROWS, dtype=np.int32)
        targets[1, 2] = label
        given["targets"] = convert(targets, library)
        for function in (linear_cross_entropy, linear_cross_entropy_gradient, value_and_gradient(linear_cross_entropy)):
            with self.assertRaisesRegex(ValueError, f"label {label} is outside the 7 classes"):
                function(**given, ignore_index=IGNORED)

    @parameterized.expand([(mode, chunk) for mode in TRACED for chunk in (None, 5)])
    def test_label_that_cannot_be_seen_gives_nan_for_its_row(self, mode: str, chunk: int | None) -> None:
        library = mode.partition(".")[0]
        arrays = drawn()
        arrays["targets"][1, 2], arrays["targets"][0, 0] = CLASSES, IGNORED
        options = {"reduction": "none", "ignore_index": IGNORED, "chunk_rows": chunk, "class_weights": CLASS_WEIGHTS}

        def both(hidden: Any, weight: Any, targets: Any, weights: Any) -> Any:
            own = {**options, "class_weights": weights}
            return (
                linear_cross_entropy(hidden, weight, targets, **own),
                linear_cross_entropy_gradient(hidden, weight, targets, **own)["hidden"],
            )

        torch._dynamo.reset()
        transform = jax.jit if mode == "jax.jit" else lambda f: torch.compile(f, fullgraph=True, backend="eager")
        given = [convert(x, library, "float32") for x in (*arrays.values(), CLASS_WEIGHTS)]
        losses, gradient = map(to_numpy, transform(both)(*given))
        wrong = arrays["targets"] == CLASSES
        np.testing.assert_array_equal(np.isnan(losses), wrong)
        np.testing.assert_array_equal(np.isnan(gradient), np.broadcast_to(wrong[..., None], gradient.shape))

    @parameterized.expand(["numpy", "torch", "jax"])
    def test_infinite_logits_are_those_of_the_definition(self, library: str) -> None:
        arrays = drawn()
        arrays["targets"] %= 3
        for infinity, options in ((-np.inf, {}), (np.inf, {}), (-np.inf, {"z_loss": 0.1})):
            bias = BIAS.copy()
            bias[4] = infinity
            # a number in its place that is far enough
            far = np.where(np.isinf(bias), np.sign(bias) * 1e4, bias)
            with double_precision(library):
                given = [convert(x, library) for x in arrays.values()]
                found = linear_cross_entropy_gradient(*given, convert(bias, library), **options)
            assert_same_gradients(found, linear_cross_entropy_gradient(*arrays.values(), far, **options))


class Precision(unittest.TestCase):
    """Half precision is computed in float32, also the sums over chunks."""

    @parameterized.expand(
        [("numpy", "float16"), ("jax", "float16"), ("jax", "bfloat16"), ("torch", "float16"), ("torch", "bfloat16")]
    )
    def test_half_precision_sums_in_float32(self, library: str, dtype: str) -> None:
        # 4,096 equal rows: added one by one in half precision, the sum would stall at 2,048 (or 256) of them
        rows = 4096
        hidden = np.ones((rows, 2))
        weight = np.array([[0.5, 0.25], [0.25, 0.5], [-0.5, 1.0]])
        given = [convert(x, library, dtype) for x in (hidden, weight)]
        targets = convert(np.zeros(rows, dtype=np.int32), library)
        value, gradients = value_and_gradient(linear_cross_entropy)(*given, targets, chunk_rows=1024, reduction="sum")
        exact, exact_gradients = value_and_gradient(linear_cross_entropy)(
            hidden, weight, np.zeros(rows, dtype=int), reduction="sum"
        )
        self.assertEqual((str(value.dtype), str(gradients["weight"].dtype)), (str(given[0].dtype),) * 2)
        rounding = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
        np.testing.assert_allclose(to_numpy(value), exact, rtol=rounding)
        assert_same_gradients(gradients, exact_gradients, rounding)

    @parameterized.expand(["numpy", "jax", "torch"])
    def test_each_gradient_has_the_dtype_of_its_own_argument(self, library: str) -> None:
        arrays = drawn(library, "float32")
        arrays["hidden"] = convert(to_numpy(arrays["hidden"]), library, "float16")
        value, gradients = value_and_gradient(linear_cross_entropy)(**arrays)
        self.assertEqual(value.dtype, arrays["hidden"].dtype)
        for name, gradient in gradients.items():
            self.assertEqual(gradient.dtype, arrays[name].dtype)


class Arguments(unittest.TestCase):
    """What is refused, and what torch's graph sees."""

    @parameterized.expand(
        [
            ({"hidden": np.ones((3, 4, 6))}, "features"),
            ({"hidden": np.ones((3, 5))}, "features"),
            ({"weight": np.ones(5)}, "features"),
            ({"weight": np.ones((0, 5))}, "features"),
            ({"targets": np.zeros((3, 4, 1), dtype=int)}, "features"),
            ({"bias": np.ones((7, 1))}, "bias"),
            ({"bias": np.ones(1)}, "bias"),
            ({"class_weights": np.ones(6)}, "class_weights"),
            ({"class_weights": -np.ones(7)}, "class_weights"),
            ({"z_loss": -0.1}, "z_loss"),
            ({"z_loss": np.ones(2)}, "z_loss"),
            ({"soft_cap": 0.0}, "soft_cap"),
            ({"label_smoothing": 1.5}, "label_smoothing"),
        ]
    )
    def test_refused_alike(self, change: dict[str, Any], message: str) -> None:
        for function in (linear_cross_entropy, linear_cross_entropy_gradient, value_and_gradient(linear_cross_entropy)):
            with self.assertRaisesRegex(ValueError, message):
                function(**{**drawn(), **change})

    @parameterized.expand(
        [({"targets": np.zeros(ROWS)},), ({"bias": np.ones(7, dtype=int)},), ({"bias": torch.ones(7)},)]
    )
    def test_wrong_types(self, change: dict[str, Any]) -> None:
        for function in (linear_cross_entropy, linear_cross_entropy_gradient):
            with self.assertRaises(TypeError):
                function(**{**drawn(), **change})

    def test_bias_by_position(self) -> None:
        by_position = linear_cross_entropy_gradient(*drawn().values(), BIAS)
        assert_same_gradients(by_position, linear_cross_entropy_gradient(**drawn(), bias=BIAS))
        check_gradient(linear_cross_entropy, *drawn().values(), BIAS)

    def test_gradients_in_a_graph_are_the_same(self) -> None:
        arrays = drawn("torch")
        expected = linear_cross_entropy_gradient(**arrays)
        parameter = torch.nn.Parameter(arrays["weight"])
        found = linear_cross_entropy_gradient(**{**arrays, "weight": parameter})
        assert_same_gradients({name: x.detach() for name, x in found.items()}, expected, 1e-14)
        self.assertTrue(all(x.requires_grad for x in found.values()))
        self.assertTrue(linear_cross_entropy(**{**arrays, "weight": parameter}).requires_grad)

    def test_term_of_an_objective(self) -> None:
        outputs = {"states": drawn()["hidden"], "head": drawn()["weight"], "offset": BIAS}
        data = {"next": drawn()["targets"]}
        expected = linear_cross_entropy_gradient(*drawn().values(), BIAS)
        for fed in ("output", "option"):
            wiring = {"hidden": "states", "weight": "head"} | ({"bias": "offset"} if fed == "output" else {})
            options = {} if fed == "output" else {"bias": BIAS}
            objective = Objective([Term("next", linear_cross_entropy, wiring, "next", options=options)])
            found = objective.evaluate(outputs, data).output_gradients
            by_argument = {argument: found[output] for argument, output in wiring.items()}
            assert_same_gradients(by_argument, {argument: expected[argument] for argument in wiring})


class NextTokens(unittest.TestCase):
    """The logits at a position predict the token after it: torch's cross-entropy of the shifted arrays."""

    LOGITS = np.random.default_rng(1).standard_normal((3, 6, 5))
    TOKENS = np.random.default_rng(2).integers(0, 5, (3, 6))

    def expected(self, tokens: np.ndarray, **options: Any) -> tuple[Any, np.ndarray]:
        logits = torch.tensor(self.LOGITS, requires_grad=True)
        losses = F.cross_entropy(logits[:, :-1].reshape(-1, 5), torch.tensor(tokens)[:, 1:].reshape(-1), **options)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        return losses.detach().numpy(), gradient.numpy()

    @parameterized.expand([(mode,) for mode in MODES])
    def test_torch(self, mode: str) -> None:
        value, gradient = evaluate_pair(mode, next_token_cross_entropy, self.LOGITS, self.TOKENS)
        expected, slopes = self.expected(self.TOKENS)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-11, atol=1e-15)
        self.assertFalse(gradient[:, -1].any())

    @parameterized.expand([(mode,) for mode in MODES])
    def test_padding(self, mode: str) -> None:
        tokens = self.TOKENS.copy()
        tokens[0, 3:] = -100
        tokens[1, :2] = -100  # the first one is predicted by nothing in any case
        value, gradient = evaluate_pair(mode, next_token_cross_entropy, self.LOGITS, tokens, ignore_index=-100)
        expected, slopes = self.expected(tokens, ignore_index=-100)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-11, atol=1e-15)
        self.assertFalse(gradient[0, 2:].any())

    def test_every_keyword_has_an_entry_for_each_prediction(self) -> None:
        losses, _ = self.expected(self.TOKENS, reduction="none")
        losses = losses.reshape(3, 5)
        generator = np.random.default_rng(3)
        for weights in (generator.random((3, 5)), generator.random((3, 1)), generator.random(5)):
            both = value_and_gradient(next_token_cross_entropy)
            arrays = (self.LOGITS, self.TOKENS)
            value, gradient = both(*arrays, reduction="none", weights=weights, upstream=generator.random((3, 5)))
            np.testing.assert_allclose(value, losses * weights, rtol=1e-12)
            self.assertEqual(gradient.shape, self.LOGITS.shape)
            full = np.broadcast_to(weights, (3, 5))
            value, _ = both(*arrays, reduction="weighted_mean", weights=weights)
            np.testing.assert_allclose(value, np.average(losses, weights=full), rtol=1e-12)
            value, _ = both(*arrays, axis=0, weights=weights, normalizer=np.arange(1.0, 6.0), upstream=np.ones(5))
            np.testing.assert_allclose(value, (losses * full).sum(0) / np.arange(1.0, 6.0), rtol=1e-12)
            value, _ = both(*arrays, axis=-1)
            np.testing.assert_allclose(value, losses.mean(1), rtol=1e-12)
        check_gradient(
            next_token_cross_entropy, *arrays, reduction="sum", axis=0, weights=weights, upstream=generator.random(5)
        )

    def test_a_batch_of_one_sequences_positions(self) -> None:
        logits, tokens = self.LOGITS[0], self.TOKENS[0]
        for options in ({}, {"weights": np.arange(5.0)}, {"normalizer": 3.0}):
            expected = (cross_entropy_with_logits, logits[:-1], tokens[1:])
            expected = value_and_gradient(expected[0])(*expected[1:], reduction="batch_sum", **options)
            found = value_and_gradient(next_token_cross_entropy)(logits, tokens, reduction="batch_sum", **options)
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-14)
            np.testing.assert_allclose(found[1][:-1], expected[1], rtol=1e-13)

    def test_one_token_leaves_nothing_to_predict(self) -> None:
        arrays = self.LOGITS[:, :1], self.TOKENS[:, :1]
        self.assertEqual(next_token_cross_entropy(*arrays), 0.0)
        self.assertFalse(next_token_cross_entropy_gradient(*arrays).any())
        self.assertEqual(next_token_cross_entropy(*arrays, reduction="none", weights=np.ones((3, 0))).shape, (3, 0))

    def test_narrow_tokens(self) -> None:
        expected = next_token_cross_entropy(self.LOGITS, self.TOKENS)
        for dtype in (np.uint8, np.int8, np.uint64, np.int32):
            self.assertEqual(next_token_cross_entropy(self.LOGITS, self.TOKENS.astype(dtype)), expected)
        padded = np.where(self.TOKENS == 4, 255, self.TOKENS).astype(np.uint8)
        found = next_token_cross_entropy(self.LOGITS, padded, ignore_index=255)
        reference = np.where(self.TOKENS == 4, -100, self.TOKENS)
        np.testing.assert_allclose(found, self.expected(reference, ignore_index=-100)[0], rtol=1e-12)

    def test_large_arrays(self) -> None:
        logits = np.random.default_rng(4).standard_normal((8, 128, 64)).astype(np.float32)
        tokens = np.random.default_rng(5).integers(0, 64, (8, 128))
        value, gradient = value_and_gradient(next_token_cross_entropy)(logits, tokens)
        np.testing.assert_allclose(value, next_token_cross_entropy(logits.astype(np.float64), tokens), rtol=1e-6)
        expected = next_token_cross_entropy_gradient(logits.astype(np.float64), tokens)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-9)

    @parameterized.expand(
        [
            ("tokens", (LOGITS, TOKENS[:, :-1]), {}, ValueError, "logits must have shape"),
            ("no axis", (LOGITS[0, 0], TOKENS[0, 0]), {}, ValueError, "logits must have shape"),
            ("no token", (LOGITS[:, :0], TOKENS[:, :0]), {}, ValueError, "of one token at least"),
            ("class", (LOGITS, TOKENS + 1), {}, ValueError, "label 5 is outside the 5 classes"),
            ("floats", (LOGITS, TOKENS + 0.0), {}, TypeError, "tokens must be integers, got float64"),
            ("weights", (LOGITS, TOKENS), {"weights": np.ones((3, 6))}, ValueError, "does not fit the losses of 5 po"),
        ]
    )
    def test_refused(self, name: str, arrays: Any, options: Any, error: type[Exception], message: str) -> None:
        both = value_and_gradient(next_token_cross_entropy)
        for function in (next_token_cross_entropy, next_token_cross_entropy_gradient, both):
            with self.assertRaisesRegex(error, message):
                function(*arrays, **options)
