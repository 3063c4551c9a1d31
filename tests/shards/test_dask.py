"""Losses of Dask arrays: value and gradient are those of the call on whole arrays, and nothing is computed early."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import REDUCED_DRAWN, with_every_option
from problems import (
    CLASS_OPTIONS,
    EVERY,
    LAYER_OPTIONS,
    REDUCTIONS,
    RINGS,
    batched,
    of_classes,
    of_layer,
    of_pairs,
    same,
)

import mithril_losses as ml
from mithril_losses.domains import REAL

UNEVEN = (4, 1, 2)
P = np.random.default_rng(0).standard_normal((8, 3))
X = da.from_array(P, chunks=(3, 3))
INDEPENDENT = [name for name in EVERY if name not in RINGS]


@pytest.fixture(autouse=True)
def _in_this_thread() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


def lazy(x: Any, rows: tuple[int, ...] | int = UNEVEN, others: int = -1) -> Any:
    return da.from_array(x, chunks=(rows, *(others,) * (x.ndim - 1)))


def both(loss: Any, *arguments: Any, **options: Any) -> Any:
    """Return value and gradient, computed; the gradient has the chunks of its argument."""
    value, gradient = ml.value_and_gradient(loss)(*arguments, **options)
    gradients = gradient.values() if isinstance(gradient, dict) else [gradient]
    assert all(isinstance(x, da.Array) for x in (value, *gradients))
    if not isinstance(gradient, dict):
        assert gradient.chunks == arguments[0].chunks
    found = dask.compute(value, gradient)
    assert found[0].shape == value.shape
    assert found[0].dtype == value.dtype == arguments[0].dtype
    return found


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDEPENDENT)
def test_every_loss_of_independent_rows(name: str) -> None:
    whole = batched(EVERY[name], 7)
    arrays = [lazy(x) if n in whole.batch else x for n, x in whole.arrays.items()]
    expected = ml.value_and_gradient(whole.pair)(*whole.arrays.values(), **whole.options)
    same(both(whole.pair, *arrays, **whole.options), expected)


@pytest.mark.parametrize("name", ["huber_loss", "iou_loss", "hinge_discriminator_loss", "dice_loss", "arcface_loss"])
def test_value_and_gradient_apart(name: str) -> None:
    """One loss of each template."""
    whole = batched(EVERY[name], 7)
    arrays = [lazy(x) if n in whole.batch else x for n, x in whole.arrays.items()]
    value, gradient = whole.pair.value(*arrays, **whole.options), whole.pair.gradient(*arrays, **whole.options)
    expected = ml.value_and_gradient(whole.pair)(*whole.arrays.values(), **whole.options)
    same(dask.compute(value, gradient), expected)


@pytest.mark.parametrize("name", CLASS_OPTIONS)
def test_cross_entropy_whose_classes_are_cut_too(name: str) -> None:
    logits, labels, probabilities, weights = of_classes()
    labels[4:] = -100  # all of the last chunk
    logits[0, 5] = logits[1, :4] = -np.inf
    targets = labels if name.startswith("labels") else probabilities
    options = {n: weights if n == "class_weights" else x for n, x in CLASS_OPTIONS[name].items()}
    expected = ml.value_and_gradient(ml.cross_entropy_with_logits)(logits, targets, **options)
    cut = da.from_array(logits, chunks=((3, 1, 2), (1, 4, 3)))
    same(both(ml.cross_entropy_with_logits, cut, lazy(targets, 2, 5), **options), expected)


def test_classes_are_joined_in_chunks_no_larger_than_those_dask_is_told_to_make() -> None:
    logits, labels, *_ = of_classes()
    expected = ml.value_and_gradient(ml.cross_entropy_with_logits)(logits, labels, ignore_index=-100)
    with dask.config.set({"array.chunk-size": f"{2 * logits[0].nbytes}B"}):
        value, gradient = ml.value_and_gradient(ml.cross_entropy_with_logits)(
            lazy(logits, 6, 4), lazy(labels, 6), ignore_index=-100
        )
    tasks = [key for key in value.__dask_graph__() if str(key[0]).startswith("task-")]
    assert len(tasks) == 3
    same(dask.compute(value, gradient), expected)


@pytest.mark.parametrize("name", LAYER_OPTIONS)
def test_a_layer(name: str) -> None:
    arrays, options = of_layer(), {"ignore_index": -100} | LAYER_OPTIONS[name]
    arrays = {n: x for n, x in arrays.items() if options.get(n, 0) is not None}
    options = {n: x for n, x in options.items() if x is not None}
    expected = ml.value_and_gradient(ml.linear_cross_entropy)(**arrays, **options)
    cut = arrays | {n: lazy(arrays[n], (3, 1, 2)) for n in ("hidden", "targets")}
    value, gradient = ml.value_and_gradient(ml.linear_cross_entropy)(**cut, **options)
    same(dask.compute(value, gradient), expected)


@pytest.mark.parametrize("name", [*REDUCTIONS, "rows", "columns"])
def test_reductions(name: str) -> None:
    given = {**REDUCTIONS, "rows": {"axis": 0}, "columns": {"axis": (1,), "reduction": "weighted_mean"}}[name]
    p, t = batched(EVERY["huber_loss"], 7).arrays.values()
    weights = np.random.default_rng(5).integers(0, 3, (7, 1)) / 2.0
    expected = ml.value_and_gradient(ml.huber_loss)(p, t, weights=weights, **given)
    cut = lazy(p, UNEVEN, 2), lazy(t, 7, 3)
    for w in (weights, lazy(weights, 3)):
        same(both(ml.huber_loss, *cut, weights=w, **given), expected)


def test_numbers_and_arrays_of_the_shape_of_the_loss_may_be_lazy() -> None:
    p, t = batched(EVERY["huber_loss"], 7).arrays.values()
    upstream, divisor = np.arange(7.0), np.arange(1.0, 8.0)
    given = {"axis": 1, "normalizer": divisor, "upstream": upstream}
    expected = ml.value_and_gradient(ml.huber_loss)(p, t, **given)
    cut = {"axis": 1, "normalizer": lazy(divisor), "upstream": lazy(upstream, 3)}
    same(both(ml.huber_loss, lazy(p), lazy(t), **cut), expected)
    expected = ml.value_and_gradient(ml.huber_loss)(p, t, normalizer=float(abs(t).sum()), delta=t[0] ** 2)
    found = both(ml.huber_loss, lazy(p), lazy(t), normalizer=abs(lazy(t)).sum(), delta=lazy(t)[0] ** 2)
    same(found, expected)


def test_next_tokens_beside_arrays_of_numpy() -> None:
    generator = np.random.default_rng(0)
    logits, tokens = generator.standard_normal((7, 4, 3)), generator.integers(0, 3, (7, 4))
    given = {"ignore_index": 1, "weights": generator.random((7, 3)), "reduction": "weighted_mean"}
    expected = ml.value_and_gradient(ml.next_token_cross_entropy)(logits, tokens, **given)
    same(both(ml.next_token_cross_entropy, lazy(logits, UNEVEN, 2), tokens, **given), expected)


def test_a_gradient_on_request() -> None:
    *_, p, _ = of_classes(1)
    *_, q, _ = of_classes(2)
    wrt = ("predictions", "targets")
    found = ml.kl_divergence_gradient(lazy(p, 2), lazy(q, 2), wrt=wrt)
    same(dask.compute(found)[0], ml.kl_divergence_gradient(p, q, wrt=wrt))
    same(ml.kl_divergence_gradient(lazy(p, 2), q, wrt="targets").compute(), ml.kl_divergence_gradient(p, q, wrt=wrt[1]))


def test_half_precision_is_added_up_in_double() -> None:
    p = np.full((400, 2), 0.1, np.float16)
    value = ml.mse_loss(lazy(p, 2), lazy(np.zeros_like(p), 2))
    assert value.dtype == np.float16
    np.testing.assert_allclose(value.compute(), 0.01, rtol=2e-3)


@pytest.mark.parametrize("name", RINGS)
def test_losses_over_pairs_need_one_chunk(name: str) -> None:
    arguments = of_pairs(name)
    expected = ml.value_and_gradient(ml.find_loss(name))(**arguments)
    one = {n: da.from_array(x) for n, x in arguments.items()}
    same(dask.compute(*ml.value_and_gradient(ml.find_loss(name))(**one)), expected)
    with pytest.raises(ValueError, match=r"not computed by chunks.*rechunk\(-1\)"):
        ml.value_and_gradient(ml.find_loss(name))(**{n: x.rechunk(3) if x.ndim else x for n, x in one.items()})


# --- what is computed, and when ---------------------------------------------------------------------------------------


def counted(x: np.ndarray, rows: int, calls: list[int]) -> Any:
    """Return an array in chunks of rows, each of which notes that it is computed."""

    def part(start: int) -> np.ndarray:
        calls.append(start)
        return x[start : start + rows]

    parts = [
        da.from_delayed(dask.delayed(part)(start), (min(rows, len(x) - start), *x.shape[1:]), x.dtype)
        for start in range(0, len(x), rows)
    ]
    return da.concatenate(parts)


def test_nothing_is_computed_early_and_each_chunk_once() -> None:
    logits, labels, *_ = of_classes()
    of_logits: list[int] = []
    of_labels: list[int] = []
    given = counted(logits, 2, of_logits), counted(labels, 2, of_labels)
    found = ml.value_and_gradient(ml.cross_entropy_with_logits)(*given, ignore_index=-100)
    assert (of_logits, of_labels) == ([], [])
    dask.compute(*found)
    assert (sorted(of_logits), sorted(of_labels)) == ([0, 2, 4], [0, 2, 4])


def test_labels_to_ignore_are_counted_before_logits_are_read() -> None:
    logits, labels, *_ = of_classes()
    order: list[int] = []
    given = counted(logits, 2, order), counted(labels, 2, of_labels := [])
    blocks = ml.cross_entropy_with_logits_gradient(*given, ignore_index=-100).blocks
    blocks[0].compute()
    assert order == [0]
    assert sorted(of_labels) == [0, 2, 4]
    ml.cross_entropy_with_logits_gradient(*given).blocks[0].compute()  # nothing to count
    assert sorted(of_labels) == [0, 0, 2, 4]


def test_every_task_can_go_to_another_process() -> None:
    logits, labels, _, weights = of_classes()
    value, gradient = ml.value_and_gradient(ml.cross_entropy_with_logits)(
        lazy(logits, 2), lazy(labels, 2), ignore_index=-100, class_weights=weights
    )
    sent = pickle.loads(pickle.dumps((value, gradient)))
    same(dask.compute(*sent), dask.compute(value, gradient))


def test_a_process_may_not_know_a_loss() -> None:
    terms = ml.elementwise(predictions=REAL, targets=REAL)(lambda xp, predictions, targets: (predictions, predictions))

    def nobodys_loss(predictions: Any, targets: Any, **reduction: Any) -> Any:
        return terms.value(predictions, targets, **reduction)

    @ml.gradient_of(nobodys_loss, terms=terms)
    def nobodys_loss_gradient(predictions: Any, targets: Any, **reduction: Any) -> Any:
        return terms.gradient(predictions, targets, **reduction)

    value = nobodys_loss(X, X)
    np.testing.assert_allclose(value.compute(), P.mean())
    ml.unregister("nobodys_loss")
    with pytest.raises(ValueError, match="this process of Dask does not know nobodys_loss: import the module"):
        value.compute()
    with pytest.raises(ValueError, match="only values and gradients of registered losses are computed"):
        nobodys_loss(X, X)


# --- refusals ---------------------------------------------------------------------------------------------------------

OTHER = da.concatenate([X, da.from_delayed(dask.delayed(lambda: P.astype(np.float32))(), P.shape, P.dtype)])
SHORT = da.concatenate([X, da.from_delayed(dask.delayed(lambda: P[:5])(), P.shape, P.dtype)])
REFUSALS: dict[str, tuple[Any, type[Exception], str]] = {
    "across": (lambda: ml.mse_loss(X, X, across="data"), ValueError, "a Dask array says itself how it is split"),
    "unknown sizes": (lambda: ml.mse_loss(X[X[:, 0] > 0], X), ValueError, "compute_chunk_sizes"),
    "NumPy before Dask": (lambda: ml.mse_loss_gradient(P, X), TypeError, "targets is from dask, those before it from"),
    "shapes": (lambda: ml.mse_loss(X, X[:7]), ValueError, r"must have the same shape, got \(8, 3\) and \(7, 3\)"),
    "rows": (lambda: ml.cross_entropy_with_logits(X, da.zeros(7, dtype=int)), ValueError, "the same first axis"),
    "classes": (lambda: ml.cross_entropy_with_logits(X, X[:, :2]), ValueError, r"of shape \(8,\) or .* got \(8, 2\)"),
    "weights": (lambda: ml.mse_loss(X, X, weights=np.ones(5)), ValueError, "do not broadcast to the unreduced loss"),
    "normalizer": (lambda: ml.mse_loss(X, X, normalizer=X[0]), ValueError, r"shape \(\) of the loss, got \(3,\)"),
    "an option": (lambda: ml.huber_loss(X, X, delta=-1.0), ValueError, "delta must be > 0, got -1"),
    "integers": (lambda: ml.mse_loss(X.astype(int), X), TypeError, "must have a real floating dtype, got int64"),
    "a keyword": (lambda: ml.mse_loss(X, X, wieghts=1), TypeError, "did you mean 'weights'"),
    "a class axis of rows": (
        lambda: ml.cross_entropy_with_logits(X, da.zeros(3, dtype=int), class_axis=0),
        ValueError,
        r"for each entry of axis 0 that depends on no other, .* rechunk\(-1\)",
    ),
    "no reduction": (lambda: ml.l1_regularization(X), ValueError, "not computed by chunks"),
    "a nesting": (lambda: ml.l1_regularization({"w": X}), TypeError, "params must be an array of Dask, got dict"),
    "second derivatives": (lambda: ml.hessian_diagonal(ml.mse_loss)(X, X), ValueError, "not computed by chunks"),
    "out": (lambda: ml.value_and_gradient(ml.mse_loss)(X, X, out=P), TypeError, "nothing can be written into"),
    "a chunk of another dtype": (
        lambda: ml.mse_loss(OTHER, OTHER).compute(),
        TypeError,
        "^rows 8 … 15: a chunk of predictions is float32, but the Dask array says float64$",
    ),
    "a chunk of another shape": (
        lambda: ml.mse_loss(SHORT, SHORT).compute(),
        ValueError,
        "^rows 8 … 15: a chunk of predictions has 5 rows, but the Dask array says 8$",
    ),
    "a value": (
        lambda: ml.cross_entropy_with_logits(X, da.arange(8, chunks=3) // 2).compute(),
        ValueError,
        r"^rows 6 … 7: label 3 is outside the 3 classes 0 … 2 \(index \(0,\)\)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    call, kind, words = REFUSALS[name]
    with pytest.raises(kind, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


# --- in full ----------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [case.pair.name for case in REDUCED_DRAWN if case.pair.name not in RINGS])
def test_every_option(name: str) -> None:
    for seed in range(12):
        case = with_every_option(ml.catalogue()[name], seed)
        weights = case.options.get("weights")
        options = case.options | ({"weights": lazy(weights, 3)} if isinstance(weights, np.ndarray) else {})
        arrays = [lazy(x, (1, len(x) - 1), 2) if n in case.batch else x for n, x in case.arrays.items()]
        try:
            found = ml.value_and_gradient(case.pair)(*arrays, **options)
        except ValueError as error:
            if "not computed by chunks" not in str(error):
                raise
            continue  # such as one image without a batch
        expected = ml.value_and_gradient(case.pair)(*case.arrays.values(), **case.options)
        same(dask.compute(*found), expected, rtol=1e-11, atol=1e-12)  # sums of a few terms in another order


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # of the processes that end
def test_on_processes() -> None:
    distributed = pytest.importorskip("distributed")
    logits, labels, _, weights = of_classes()
    options = {"ignore_index": -100, "class_weights": weights, "label_smoothing": 0.1}
    expected = ml.value_and_gradient(ml.cross_entropy_with_logits)(logits, labels, **options)
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster), dask.config.set(scheduler=None):
        found = ml.value_and_gradient(ml.cross_entropy_with_logits)(lazy(logits, 2, 3), lazy(labels, 2), **options)
        same(dask.compute(*found), expected)
        with pytest.raises(ValueError, match=r"rows 6 … 7: label 3 is outside") as raised:
            REFUSALS["a value"][0]()
        assert "\n" not in str(raised.value)


@pytest.mark.exhaustive
def test_four_gigabytes_of_logits_in_one_of_memory() -> None:
    found = {}
    for way in ("dask", "streamed"):
        command = [sys.executable, str(Path(__file__).with_name("larger_than_memory.py")), way]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    assert found["dask"]["peak_gigabytes"] < 1.0
    assert found["dask"]["last"] == found["streamed"]["last"]
    assert found["dask"]["loss"] == pytest.approx(found["streamed"]["loss"], rel=1e-6)  # one is rounded to float32
