"""Second derivatives of every loss that has them: whole matrices on NumPy, products against JAX's, every path alike."""

from __future__ import annotations

import unittest
from itertools import product
from typing import Any

import jax
import numpy as np
import pytest
import torch
from cases import Case, convert, double_precision, flat, label, to_numpy, with_every_option
from parameterized import parameterized
from scipy.special import gammaln

import mithril_losses as ml
from mithril_losses import catalogue, limits
from mithril_losses.autodiff import plain_functions
from mithril_losses.catalogue import Pair
from mithril_losses.checking import draw_arguments
from mithril_losses.checking.exact import check_exact_curvature
from mithril_losses.numerics.trees import map_leaves

CURVED = [pair for pair in catalogue().values() if ml.has_curvature(pair)]
SEEDS = (0, 1)


def case_of(pair: Pair, seed: int, shape: tuple[int, ...] = (4, 3)) -> Case:
    return with_every_option(pair, seed, shape)


def keywords(case: Case, library: str, dtype: str = "float64") -> dict[str, Any]:
    """Return the options, also those that are dicts of arrays, in a library."""

    def is_of_arrays(x: Any) -> bool:
        return isinstance(x, np.ndarray | np.generic) or (
            isinstance(x, dict) and isinstance(next(iter(x.values())), np.ndarray)
        )

    return {name: convert(x, library, dtype) if is_of_arrays(x) else x for name, x in case.options.items()}


def along(pair: Pair, arrays: dict[str, Any], make: Any) -> Any:
    """Return `make(x)` for each array that the loss is differentiated by, as `vector=` takes it."""
    made = {name: map_leaves(lambda _, x: make(x), arrays[name]) for name in pair.wrt}
    return made if len(pair.wrt) > 1 else made[pair.wrt[0]]


def vector_of(pair: Pair, arrays: dict[str, Any], seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    return along(pair, arrays, lambda x: generator.standard_normal(np.shape(x)))


def joined(result: Any) -> np.ndarray:
    """Return all arrays of a gradient as one vector; JAX sorts the keys of a dict."""
    return np.concatenate([to_numpy(x).reshape(-1) for _, x in sorted(flat(result), key=lambda item: item[0])])


def parted(vector: np.ndarray, like: Any) -> Any:
    """Return the inverse of `joined`."""
    parts, start = {}, 0
    for path, x in sorted(flat(like), key=lambda item: item[0]):
        parts[path] = vector[start : start + x.size].reshape(x.shape)
        start += x.size
    return map_leaves(lambda path, _: parts[path], like, "gradient")


def matrix_of(times: Any, case: Case) -> np.ndarray:
    """Return the matrix of a linear function of `vector=`, column by column."""
    like = along(case.pair, case.arrays, lambda x: x)
    size = joined(like).size
    columns = []
    for unit in np.eye(size):
        columns.append(joined(times(*case.arguments("numpy"), **case.keywords("numpy"), vector=parted(unit, like))))
    return np.stack(columns, axis=-1)


def is_positive(matrix: np.ndarray) -> bool:
    size = max(1.0, float(np.abs(matrix).max(initial=0.0)))
    return bool(np.linalg.eigvalsh((matrix + matrix.T) / 2.0).min(initial=0.0) >= -1e-9 * size)


class Matrices(unittest.TestCase):
    """All that is returned belongs to one symmetric matrix."""

    @parameterized.expand([(pair.name, seed) for pair in CURVED for seed in SEEDS], name_func=label)
    def test_of(self, name: str, seed: int) -> None:
        pair = catalogue()[name]
        case = case_of(pair, seed)
        arguments, options = case.arguments("numpy"), case.keywords("numpy")
        hessian = matrix_of(ml.hessian_vector_product(pair), case)
        close = {"rtol": 1e-9, "atol": 1e-12 * max(1.0, float(np.abs(hessian).max()))}
        np.testing.assert_allclose(hessian, hessian.T, **close)
        diagonal = ml.hessian_diagonal(pair)(*arguments, **options)
        np.testing.assert_allclose(joined(diagonal), np.diag(hessian), **close)
        value, gradient, again = ml.value_gradient_and_hessian(pair)(*arguments, **options)
        np.testing.assert_allclose(joined(again), np.diag(hessian), **close)
        np.testing.assert_allclose(joined(gradient), joined(case.gradient()), **close)
        np.testing.assert_allclose(pair.total_of(value), pair.total_of(case.value()), **close)
        self._check_bound(pair, case, hessian)
        self._check_factor(pair, case, hessian, close)

    def _check_bound(self, pair: Pair, case: Case, hessian: np.ndarray) -> None:
        try:
            bound = ml.hessian_diagonal(pair, curvature="bound")
            found = joined(bound(*case.arguments("numpy"), **case.keywords("numpy")))
        except ValueError as error:
            self.assertIn("no bound", str(error))
            return
        assert (found >= 0.0).all()
        assert is_positive(np.diag(found) - hessian)
        by_product = matrix_of(ml.hessian_vector_product(pair, curvature="bound"), case)
        np.testing.assert_allclose(by_product, np.diag(found), rtol=1e-12)

    def _check_factor(self, pair: Pair, case: Case, hessian: np.ndarray, close: Any) -> None:
        try:
            fisher = matrix_of(ml.hessian_vector_product(pair, curvature="fisher"), case)
            factor = matrix_of(ml.hessian_factor_product(pair), case)
        except ValueError as error:
            self.assertRegex(str(error), "no Fisher information|no factor")
            return
        transposed = matrix_of(ml.hessian_factor_transpose_product(pair), case)
        np.testing.assert_allclose(transposed, factor.T, **close)
        np.testing.assert_allclose(factor @ factor.T, fisher, **close)


# one loss of each kind: one slope, two, steep ones with flags, sums of rows, two batches, softmax
COMPILED = (
    "huber_loss",
    "gaussian_negative_log_likelihood",
    "poisson_negative_log_likelihood",
    "reverse_kl_divergence",
    "hinge_discriminator_loss",
    "cross_entropy_with_logits",
)
# with those of `COMPILED`, one loss of each kind that is not element-wise
STRUCTURED = (
    "dice_loss",
    "l2_regularization",
    "next_token_cross_entropy",
    "psnr_loss",
    "relativistic_average_discriminator_loss",
    "total_variation_loss",
    "vae_loss",
)


class Libraries(unittest.TestCase):
    """Products by PyTorch, and by JAX against its derivative of the gradient of the plain functions."""

    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    def test_torch(self, name: str) -> None:
        pair, case = catalogue()[name], case_of(catalogue()[name], 1)
        vector = vector_of(pair, case.arrays)
        times = ml.hessian_vector_product(pair)
        found = times(*case.arguments("torch"), **keywords(case, "torch"), vector=convert(vector, "torch"))
        for path, x in flat(found):
            self.assertIsInstance(x, torch.Tensor, path)
        self._compare(found, times(*case.arguments("numpy"), **case.keywords("numpy"), vector=vector))

    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    def test_types(self, name: str) -> None:
        """A product has the type of its argument, and the standard's functions are all that it takes."""
        pair, case = catalogue()[name], case_of(catalogue()[name], 1)
        vector, times = vector_of(pair, case.arrays), ml.hessian_vector_product(pair)
        expected = joined(times(*case.arguments("numpy"), **case.keywords("numpy"), vector=vector))
        for library, dtype in (("array_api_strict", "float64"), ("numpy", "float16"), ("torch", "bfloat16")):
            options = keywords(case, library, dtype)
            found = times(*case.arguments(library, dtype), **options, vector=convert(vector, library, dtype))
            for path, x in flat(found):
                self.assertIn(dtype, str(x.dtype), path)
            error = np.abs(joined(found) - expected).max() / max(np.abs(expected).max(), 1e-3)
            self.assertLess(error, {"float64": 1e-9, "float16": 0.1, "bfloat16": 0.4}[dtype], (library, dtype))

    @parameterized.expand([(name,) for name in (*COMPILED, *STRUCTURED)], name_func=label)
    def test_jax(self, name: str) -> None:
        self._check_by_jax(catalogue()[name])

    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    @pytest.mark.exhaustive
    def test_jax_for_every_loss(self, name: str) -> None:
        self._check_by_jax(catalogue()[name])

    def _check_by_jax(self, pair: Pair) -> None:
        case = case_of(pair, 0)
        vector = vector_of(pair, case.arrays)
        found = ml.hessian_vector_product(pair)(*case.arguments("numpy"), **case.keywords("numpy"), vector=vector)
        with double_precision("jax"):
            expected, by_jax = self._by_jax(case, vector)
        self._compare(found, expected)
        self._compare(by_jax, found)

    def _compare(self, found: Any, expected: Any) -> None:
        scale = max(1.0, float(np.abs(joined(expected)).max()))
        np.testing.assert_allclose(joined(found), joined(expected), rtol=1e-9, atol=1e-12 * scale)

    def _by_jax(self, case: Case, vector: Any) -> tuple[Any, Any]:
        pair, arguments, options = case.pair, case.arguments("jax"), keywords(case, "jax")
        at = [list(case.arrays).index(name) for name in pair.wrt]
        vectors = convert(vector, "jax")

        def gradient(*moved: Any) -> Any:
            own = list(arguments)
            for i, x in zip(at, moved, strict=True):
                own[i] = x
            return pair.gradient(*own, **options)

        tangents = tuple(vectors[name] for name in pair.wrt) if len(pair.wrt) > 1 else (vectors,)
        with plain_functions():
            _, expected = jax.jit(lambda xs: jax.jvp(gradient, xs, tangents))(tuple(arguments[i] for i in at))
        return expected, ml.hessian_vector_product(pair)(*arguments, **options, vector=vectors)


LARGE = {"float32": 2e-4, "float64": 1e-9}  # relative to the largest element


class LargeArrays(unittest.TestCase):
    """Loops, blocks and compiled functions against the plain functions."""

    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    def test_in_blocks(self, name: str) -> None:
        self._check(catalogue()[name], "float32", compile=False)

    @parameterized.expand([("gaussian_negative_log_likelihood",), ("cross_entropy_with_logits",)], name_func=label)
    def test_compiled(self, name: str) -> None:
        self._check(catalogue()[name], "float32", compile=None)

    @parameterized.expand([(pair.name, dtype) for pair in CURVED for dtype in LARGE], name_func=label)
    @pytest.mark.exhaustive
    def test_every_loss_compiled(self, name: str, dtype: str) -> None:
        self._check(catalogue()[name], dtype, compile=None)

    def _check(self, pair: Pair, dtype: str, compile: bool | None) -> None:
        arrays, options = draw_arguments(pair, np.random.default_rng(0), (40, 7))
        case = Case(pair, "large", arrays, options)
        ways: list[dict[str, Any]] = [{}]
        if pair.takes_reduction:
            ways.append({"reduction": "none", "weights": case.weights})
        moved = {"vector": convert(vector_of(pair, arrays), "numpy", dtype)}
        transforms = {ml.hessian_vector_product: moved, ml.value_gradient_and_hessian: {}}
        for (transform, more), reduction in product(transforms.items(), ways):
            with self.subTest(transform=transform.__name__, reduction=list(reduction)):
                self._compare(transform(pair, compile=compile), case, dtype, {**reduction, **more})

    def _compare(self, transformed: Any, case: Case, dtype: str, more: dict[str, Any]) -> None:
        arguments, keywords = case.arguments("numpy", dtype), case.keywords("numpy", dtype) | more
        keywords = {name: x.astype(dtype) if name == "weights" else x for name, x in keywords.items()}
        plain = transformed(*arguments, **keywords)
        with limits.changed(large=1, block=16, shared_blocks=1):
            found = transformed(*arguments, **keywords)
        for (path, x), (_, y) in zip(flat(found), flat(plain), strict=True):
            self.assertEqual(x.dtype, y.dtype, path)
            size = float(np.abs(y).max(initial=0.0))
            np.testing.assert_allclose(x, y, rtol=LARGE[dtype], atol=LARGE[dtype] * size, err_msg=path)

    @parameterized.expand([(300, "float32"), (1500, "float64")], name_func=label)
    def test_rows_of_many_classes(self, classes: int, dtype: str) -> None:
        """From 256 classes on, the loop over softmax rows is another; from 1024 on, its sums have parts."""
        generator = np.random.default_rng(0)
        logits, vector = generator.standard_normal((2, 5, classes)).astype(dtype)
        labels, weights = generator.integers(0, classes, 5), np.array([1.0, 0.0, 2.0, 0.5, 3.0], dtype)
        logits[1] = np.nan
        for transform, more in ((ml.hessian_vector_product, {"vector": vector}), (ml.hessian_diagonal, {})):
            call = transform(ml.cross_entropy_with_logits)
            plain = call(logits, labels, weights=weights, **more)
            with limits.changed(large=1):
                found = call(logits, labels, weights=weights, **more)
            np.testing.assert_allclose(found, plain, rtol=LARGE[dtype], atol=LARGE[dtype] * np.abs(plain).max())
            self.assertFalse(found[1].any())


class ExactNumbers(unittest.TestCase):
    @parameterized.expand([(pair.name,) for pair in CURVED], name_func=label)
    def test_agree(self, name: str) -> None:
        check = check_exact_curvature(name)
        self.assertEqual(check.failures, [])


class Masks(unittest.TestCase):
    @parameterized.expand([(pair.name,) for pair in CURVED if pair.takes_reduction], name_func=label)
    def test_a_weight_of_0_removes_nan(self, name: str) -> None:
        pair = catalogue()[name]
        arrays, options = draw_arguments(pair, np.random.default_rng(0), (4, 3))
        case = Case(pair, "masked", arrays, options)
        if not pair.terms.separable or not case.rows:
            self.skipTest("rows depend on each other")
        weights, vector = case.weights, vector_of(pair, arrays)
        times = ml.hessian_vector_product(pair)
        clean = times(*case.arguments("numpy"), **options, vector=vector, weights=weights)
        for wrt in pair.wrt:
            if wrt in case.batch:
                arrays[wrt][0] = np.nan
        found = times(*case.arguments("numpy"), **options, vector=vector, weights=weights)
        for (_, x), (_, y) in zip(flat(found), flat(clean), strict=True):
            np.testing.assert_array_equal(x, y)
            self.assertFalse(x[0].any())


class Derivatives(unittest.TestCase):
    """PyTorch's and JAX's derivatives of a loss, up to the third order, against those of the plain functions."""

    @parameterized.expand([(name,) for name in COMPILED], name_func=label)
    def test_of_the_square_by_torch_of(self, name: str) -> None:
        self._check(name, "torch", self._by_torch)

    @parameterized.expand([(name,) for name in COMPILED], name_func=label)
    @pytest.mark.exhaustive
    def test_of_the_square_by_jax_of(self, name: str) -> None:
        self._check(name, "jax", self._by_jax)

    def _check(self, name: str, library: str, by: Any) -> None:
        pair = catalogue()[name]
        arrays, options = draw_arguments(pair, np.random.default_rng(0), (3, 2))
        case = Case(pair, "drawn", arrays, options)
        with double_precision(library):
            found = by(case)
            with plain_functions():
                expected = by(case)
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12 * max(1.0, float(np.abs(y).max())))

    def _by_torch(self, case: Case) -> list[np.ndarray]:
        arguments = case.arguments("torch")
        at = [x.requires_grad_(True) for name, x in zip(case.arrays, arguments, strict=True) if name in case.pair.wrt]
        total = case.pair.value(*arguments, **keywords(case, "torch")) ** 2  # so that a gradient flows in
        found: list[Any] = []
        for _ in range(3):
            slopes = torch.autograd.grad(total, at, create_graph=True, allow_unused=True)
            found += slopes
            total = sum((x * x).sum() for x in slopes if x is not None and x.requires_grad)
        return [np.zeros(1) if x is None else to_numpy(x) for x in found]

    def _by_jax(self, case: Case) -> list[np.ndarray]:
        arguments = case.arguments("jax")
        at = tuple(i for i, name in enumerate(case.arrays) if name in case.pair.wrt)

        def squared(*moved: Any) -> Any:
            own = list(arguments)
            for i, x in zip(at, moved, strict=True):
                own[i] = x
            return case.pair.value(*own, **keywords(case, "jax")) ** 2

        def lengths(function: Any) -> Any:
            return lambda *xs: sum((g * g).sum() for g in jax.grad(function, tuple(range(len(at))))(*xs))

        xs = [arguments[i] for i in at]
        orders = (squared, lengths(squared), lengths(lengths(squared)))
        found = [jax.jit(jax.grad(each, tuple(range(len(at)))))(*xs) for each in orders]
        return [to_numpy(x) for gradients in found for x in gradients]

    def test_a_hessian_by_jax_is_made_of_products_by_hand(self) -> None:
        logits, targets = np.random.default_rng(0).normal(size=(2, 3)), np.array([0, 2])
        with double_precision("jax"):
            hessian = jax.hessian(lambda z: ml.cross_entropy_with_logits(z, jax.numpy.asarray(targets)))(
                jax.numpy.asarray(logits)
            )
        case = Case(catalogue()["cross_entropy_with_logits"], "", {"logits": logits, "targets": targets})
        by_hand = matrix_of(ml.hessian_vector_product(ml.cross_entropy_with_logits), case)
        np.testing.assert_allclose(to_numpy(hessian).reshape(6, 6), by_hand, atol=1e-15)


class Samples(unittest.TestCase):
    """Gradients at drawn targets: their mean is 0, and the mean of their squares is the Fisher information."""

    @parameterized.expand(
        [(p.name, library) for p in CURVED if p.terms.sampled for library in ("numpy", "torch")], name_func=label
    )
    def test_of(self, name: str, library: str) -> None:
        self._check(name, library)

    @parameterized.expand([(p.name,) for p in CURVED if p.terms.sampled], name_func=label)
    @pytest.mark.exhaustive
    def test_by_jax_of(self, name: str) -> None:
        self._check(name, "jax")

    def _check(self, name: str, library: str) -> None:
        pair, count = catalogue()[name], 4000
        arrays, options = draw_arguments(pair, np.random.default_rng(0), (1, 3))
        options = {
            key: x for key, x in options.items() if key not in ("class_weights", "label_smoothing", "pos_weight")
        }
        many = Case(pair, "many", {key: np.repeat(x, count, axis=0) for key, x in arrays.items()}, options)
        key = jax.random.key(1) if library == "jax" else 1
        with double_precision(library):
            found = ml.sample_gradient(pair)(
                *many.arguments(library), **many.keywords(library), reduction="sum", key=key
            )
            found = found if isinstance(found, dict) else {pair.wrt[0]: found}
        fisher = ml.hessian_diagonal(pair, curvature="fisher")(*arrays.values(), **options, reduction="sum")
        fisher = fisher if isinstance(fisher, dict) else {pair.wrt[0]: fisher}
        for argument, gradient in found.items():
            information = to_numpy(fisher[argument])
            known = information > 0.0  # the last position has no next token
            drawn = to_numpy(gradient) / np.sqrt(np.where(known, information, 1.0))
            # five standard errors of the mean of a number of variance 1, and of its square if its kurtosis is below 40
            np.testing.assert_allclose(drawn.mean(axis=0), 0.0, atol=5.0 / count**0.5)
            np.testing.assert_allclose((drawn**2).mean(axis=0), np.squeeze(known, 0), atol=30.0 / count**0.5)

    def test_a_key_of_another_kind_is_refused(self) -> None:
        with self.assertRaisesRegex(TypeError, "key must be a Generator or a seed"):
            ml.sample_gradient(ml.mse_loss)(np.ones(2), np.ones(2), key="seed")

    def test_no_likelihood(self) -> None:
        with self.assertRaisesRegex(ValueError, "^hinge_loss is no likelihood of its targets; losses that are: .*mse"):
            ml.sample_gradient(ml.hinge_loss)
        with self.assertRaisesRegex(ValueError, "only without pos_weight"):
            ml.sample_gradient(ml.binary_cross_entropy_with_logits)(np.ones(2), np.ones(2), pos_weight=2.0, key=0)


X = np.array([0.3, 0.6, 0.9])
NORMAL = np.polynomial.hermite_e.hermegauss(8)
LAPLACE = np.polynomial.laguerre.laggauss(8)
COUNTS = np.arange(80.0)


def poisson_probabilities(rate: np.ndarray) -> np.ndarray:
    return np.exp(COUNTS[:, None] * np.log(rate) - rate - gammaln(COUNTS[:, None] + 1.0))


def ends(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes of Laplace's distribution from those of the exponential one."""
    return np.concatenate([nodes, -nodes]), 0.5 * np.concatenate([weights, weights])


# (loss, arrays but the targets, options, targets as rows, their probabilities as rows)
LIKELIHOODS: dict[str, tuple[str, dict[str, np.ndarray], dict[str, Any], np.ndarray, np.ndarray]] = {
    "probabilities": (
        "binary_cross_entropy",
        {"predictions": X},
        {},
        np.ones((2, 3)) * [[0], [1]],
        np.stack([1 - X, X]),
    ),
    "logits": (
        "binary_cross_entropy_with_logits",
        {"logits": np.log(X / (1 - X))},
        {},
        np.ones((2, 3)) * [[0], [1]],
        np.stack([1 - X, X]),
    ),
    "squares": (
        "mse_loss",
        {"predictions": X},
        {},
        X + NORMAL[0][:, None] * 0.5**0.5,
        np.ones(3) * NORMAL[1][:, None] / (2.0 * np.pi) ** 0.5,
    ),
    "normal": (
        "gaussian_negative_log_likelihood",
        {"mean": X, "logvar": X - 0.5},
        {},
        X + NORMAL[0][:, None] * np.exp(0.5 * (X - 0.5)),
        np.ones(3) * NORMAL[1][:, None] / (2.0 * np.pi) ** 0.5,
    ),
    "logarithms of rates": (
        "poisson_negative_log_likelihood",
        {"predictions": X},
        {},
        np.ones(3) * COUNTS[:, None],
        poisson_probabilities(np.exp(X)),
    ),
    "rates": (
        "poisson_negative_log_likelihood",
        {"predictions": X},
        {"log_input": False},
        np.ones(3) * COUNTS[:, None],
        poisson_probabilities(X),
    ),
}


class Information(unittest.TestCase):
    """The Fisher information is the mean of the squares of the slopes over the targets, by a quadrature."""

    @parameterized.expand(LIKELIHOODS, name_func=label)
    def test_of(self, name: str) -> None:
        loss, arrays, options, targets, probabilities = LIKELIHOODS[name]
        self._check(catalogue()[loss], arrays, options, targets, probabilities)

    def test_of_laplace(self) -> None:
        nodes, weights = ends(*LAPLACE)
        arrays = {"location": X, "log_scale": X - 0.5}
        targets, shares = X + nodes[:, None] * np.exp(X - 0.5), np.ones(3) * weights[:, None]
        self._check(catalogue()["laplace_negative_log_likelihood"], arrays, {}, targets, shares)

    @parameterized.expand(
        [
            ("gamma_negative_log_likelihood", np.exp),
            ("inverse_gaussian_negative_log_likelihood", np.exp),
            ("tweedie_negative_log_likelihood", np.exp),
            ("msle_loss", np.positive),
        ],
        name_func=label,
    )
    def test_at_the_mean_of(self, name: str, mean: Any) -> None:
        """A Hessian that is linear in the targets, or in a residual, is its own mean where the targets are theirs."""
        pair = catalogue()[name]
        fisher = ml.hessian_diagonal(pair, curvature="fisher")(X, 0.5 * X, reduction="sum")
        np.testing.assert_allclose(fisher, ml.hessian_diagonal(pair)(X, mean(X), reduction="sum"), rtol=1e-12)

    def _check(self, pair: Pair, arrays: Any, options: Any, targets: np.ndarray, probabilities: np.ndarray) -> None:
        fisher = ml.hessian_diagonal(pair, curvature="fisher")(*arrays.values(), targets[0], **options, reduction="sum")
        repeated = [np.broadcast_to(x, targets.shape).copy() for x in arrays.values()]
        slopes = pair.gradient(*repeated, targets, **options, reduction="sum")
        for found, slope in zip(
            fisher.values() if isinstance(fisher, dict) else [fisher],
            slopes.values() if isinstance(slopes, dict) else [slopes],
            strict=True,
        ):
            np.testing.assert_allclose(found, (probabilities * slope**2).sum(axis=0), rtol=1e-10)


class Bounds(unittest.TestCase):
    """The declared bounds: the curvature of a quadratic that touches the loss and is never below it; 1 / scale."""

    @parameterized.expand([("cauchy_loss",), ("tukey_biweight_loss",), ("general_robust_loss",)], name_func=label)
    def test_of_a_robust_loss(self, name: str) -> None:
        pair, targets = catalogue()[name], np.array([0.0, 0.1, 2.0])
        bound = ml.hessian_diagonal(pair, curvature="bound")(X, targets, reduction="sum")
        np.testing.assert_allclose(bound, pair.gradient(X, targets, reduction="sum") / (X - targets), rtol=1e-12)

    def test_of_a_negative_curvature(self) -> None:
        exact, bound = (
            ml.hessian_diagonal(ml.charbonnier_loss, curvature=kind)(X, np.zeros(3), alpha=0.5)
            for kind in ("exact", "bound")
        )
        self.assertTrue((exact < 0.0).all())
        self.assertEqual(bound.tolist(), [0.0] * 3)

    def test_of_scales(self) -> None:
        ones = np.ones(3)
        scaled = ml.hessian_diagonal(ml.smooth_l1_loss, curvature="bound")(X, ones, beta=4.0, reduction="sum")
        self.assertEqual(scaled.tolist(), [0.25] * 3)
        shares = ml.hessian_diagonal(ml.mape_loss, curvature="bound")(X, 4.0 * ones, reduction="sum")
        self.assertEqual(shares.tolist(), [0.25] * 3)
        for loss in (ml.mae_loss, ml.huber_loss, ml.pinball_loss, ml.hinge_loss):
            one = ml.hessian_diagonal(loss, curvature="bound")(X, ones, reduction="sum")
            self.assertEqual(one.tolist(), [1.0] * 3, loss.__name__)


class Extremes(unittest.TestCase):
    """Where a second derivative is infinite although the loss is finite, it is the largest finite number."""

    @parameterized.expand([("blocks", False), ("compiled", None)], name_func=label)
    def test_of_a_probability_of_0(self, way: str, compile: bool | None) -> None:
        p, q = np.array([[0.0, 1.0]] * 3, np.float32), np.array([[0.5, 0.5]] * 3, np.float32)
        with limits.changed(large=1 if compile is None else 1 << 20):
            for loss in (ml.reverse_kl_divergence, ml.kl_divergence, ml.js_divergence):
                diagonal = ml.hessian_diagonal(loss, compile=compile)(p, q, reduction="sum")
                self.assertTrue(np.isfinite(diagonal).all(), loss.__name__)
                self.assertGreater(diagonal[0, 0], 1e35)
            self.assertEqual(
                ml.hessian_diagonal(ml.reverse_kl_divergence, compile=compile)(p, q, reduction="sum")[0, 0],
                np.finfo(np.float32).max,
            )
            times = ml.hessian_vector_product(ml.reverse_kl_divergence, compile=compile)
            self.assertEqual(times(p, q, reduction="sum", vector=np.zeros_like(p)).tolist(), np.zeros((3, 2)).tolist())

    def test_of_infinite_logits(self) -> None:
        logits = np.array([np.inf, -np.inf, 0.0])
        for loss in (ml.binary_cross_entropy_with_logits, ml.focal_loss_with_logits):
            self.assertEqual(ml.hessian_diagonal(loss)(logits, np.array([1.0, 0.0, 1.0]))[:2].tolist(), [0.0, 0.0])
        row = ml.hessian_diagonal(ml.cross_entropy_with_logits)(np.array([[np.inf, 0.0, -np.inf]]), np.array([0]))
        self.assertEqual(row.tolist(), [[0.0, 0.0, 0.0]])


class Refusals(unittest.TestCase):
    def test_a_loss_without_curvature(self) -> None:
        with self.assertRaisesRegex(
            ValueError, r"^earth_mover_distance has no curvature; losses that have it are \w+, "
        ):
            ml.hessian_diagonal(ml.earth_mover_distance)
        self.assertFalse(ml.has_curvature(ml.earth_mover_distance))

    def test_an_unknown_kind(self) -> None:
        with self.assertRaisesRegex(ValueError, "curvature must be one of 'exact', 'fisher', 'bound'"):
            ml.hessian_diagonal(ml.mse_loss, curvature="fishy")  # type: ignore[arg-type]

    def test_a_hessian_that_may_be_negative_is_no_fisher_information(self) -> None:
        with self.assertRaisesRegex(ValueError, "^focal_loss_with_logits has no Fisher information"):
            ml.hessian_factor_product(ml.focal_loss_with_logits)
        ones = np.ones(2)
        factor = ml.hessian_factor_product(ml.charbonnier_loss)
        with self.assertRaisesRegex(ValueError, "with these options"):
            factor(ones, 0.0 * ones, alpha=0.5, vector=ones)
        self.assertTrue(np.isfinite(factor(ones, 0.0 * ones, alpha=1.5, vector=ones)).all())

    def test_negative_weights_of_a_factor(self) -> None:
        ones = np.ones(2)
        with self.assertRaisesRegex(ValueError, "weights that are not negative, got -1"):
            ml.hessian_factor_product(ml.mse_loss)(ones, ones, weights=-ones, vector=ones)

    def test_vectors_that_do_not_fit(self) -> None:
        ones = np.ones((2, 3))
        for loss, targets in ((ml.mse_loss, ones), (ml.cross_entropy_with_logits, np.array([0, 1]))):
            times = ml.hessian_vector_product(loss)
            with self.assertRaisesRegex(ValueError, "vector.*shape"):
                times(ones, targets, vector=np.ones(3))
            with self.assertRaisesRegex(TypeError, "vector"):
                times(ones, targets)
        two = ml.hessian_vector_product(ml.gaussian_kl_divergence)
        with self.assertRaisesRegex(TypeError, "vector must be a dict by argument, mean, logvar, got ndarray"):
            two(ones, ones, vector=ones)
        with self.assertRaisesRegex(ValueError, "vector must have the keys mean, logvar, got mean"):
            two(ones, ones, vector={"mean": ones})
