"""What the checks of shards compare: the call on whole arrays with the call on their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cases import REDUCED_DRAWN, Case, matched

# losses of which every row depends on all others, or on a layer that all of them share
RINGS = ("info_nce_loss", "n_pair_loss", "nt_xent_loss", "supervised_contrastive_loss", "clip_loss", "siglip_loss")
LAYERS = ("linear_cross_entropy", "arcface_loss", "cosface_loss")

EVERY = {case.pair.name: case for case in REDUCED_DRAWN}
ROWS = {case.pair.name: case for case in REDUCED_DRAWN if case.pair.name not in (*RINGS, *LAYERS)}

REDUCTIONS: Mapping[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "batch_sum": {"reduction": "batch_sum"},
    "weighted_mean": {"reduction": "weighted_mean"},
    "normalized": {"normalizer": 3.0},
    "upstream": {"upstream": 0.5},
    "none": {"reduction": "none"},
}


def batched(case: Case, rows: int) -> Case:
    """Return the case with so many rows: its own, one after the other."""

    def repeated(x: Any) -> np.ndarray:
        return np.take(x, np.arange(rows) % len(x), axis=0)

    arrays = {name: repeated(x) if name in case.batch else x for name, x in case.arrays.items()}
    return Case(case.pair, f"{rows} rows", arrays, case.options)


def of_classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return logits (6, 8), labels, of which some are to be ignored, probabilities, and class weights."""
    generator = np.random.default_rng(seed)
    logits = 3.0 * generator.standard_normal((6, 8))
    labels = np.array([0, 7, -100, 3, 4, -100])
    probabilities = generator.dirichlet(np.ones(8), 6)
    return logits, labels, probabilities, generator.uniform(0.5, 2.0, 8)


# options of cross-entropy, some of which are arrays with an entry per class
CLASS_OPTIONS: Mapping[str, dict[str, Any]] = {
    "labels": {"ignore_index": -100},
    "labels smoothed": {"ignore_index": -100, "label_smoothing": 0.1},
    "labels weighted": {"ignore_index": -100, "class_weights": True},
    "labels smoothed and weighted": {"ignore_index": -100, "label_smoothing": 0.25, "class_weights": True},
    "labels without mean": {"ignore_index": -100, "reduction": "none"},
    "probabilities": {},
    "probabilities smoothed": {"label_smoothing": 0.1},
    "probabilities smoothed and weighted": {"label_smoothing": 0.25, "class_weights": True},
}


def of_pairs(name: str) -> dict[str, Any]:
    """Return the arguments of a contrastive loss of 8 rows."""
    generator = np.random.default_rng(11)
    first, second = generator.standard_normal((2, 8, 3))
    scale, bias = np.array(1.5), np.array(-0.5)
    if name == "supervised_contrastive_loss":
        return {"embeddings": first, "labels": np.array([3, 1, 3, 7, 1, 3, 3, 1])}
    if name in ("clip_loss", "siglip_loss"):
        numbers = {"logit_scale": scale} | ({"logit_bias": bias} if name == "siglip_loss" else {})
        return {"image_embeddings": first, "text_embeddings": second} | numbers
    names = {"info_nce_loss": ("queries", "keys"), "n_pair_loss": ("anchor", "positive")}
    return dict(zip(names.get(name, ("embedding1", "embedding2")), (first, second), strict=True))


def of_training() -> dict[str, np.ndarray]:
    """Return inputs and labels of 16 rows, the weight of a hidden layer, and that of 12 classes."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 12, 16)
    labels[[2, 3, 9]] = -100
    return {
        "inputs": generator.standard_normal((16, 5)),
        "labels": labels,
        "hidden": generator.standard_normal((5, 4)),
        "classes": generator.standard_normal((12, 4)),
    }


def of_layer() -> dict[str, np.ndarray]:
    """Return the arrays of a layer of 8 classes over 3 features, and labels of 6 rows."""
    generator = np.random.default_rng(7)
    return {
        "hidden": generator.standard_normal((6, 3)),
        "weight": generator.standard_normal((8, 3)),
        "targets": np.array([0, 7, -100, 3, 4, -100]),
        "bias": generator.standard_normal(8),
        "class_weights": generator.uniform(0.5, 2.0, 8),
    }


LAYER_OPTIONS: Mapping[str, dict[str, Any]] = {
    "plain": {"bias": None, "class_weights": None},
    "in chunks": {"class_weights": None, "chunk_rows": 2},
    "all": {"label_smoothing": 0.1, "z_loss": 0.01, "soft_cap": 4.0, "chunk_rows": 2},
    "added": {"reduction": "sum", "z_loss": 0.1},
}


def same(found: Any, expected: Any, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    """Raise an AssertionError unless two values, or two gradients, agree."""
    for path, own, other in matched(found, expected):
        np.testing.assert_allclose(np.asarray(own), np.asarray(other), rtol=rtol, atol=atol, err_msg=path)


def refuses(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    """Raise an AssertionError unless a call raises an error of one line with these words."""
    try:
        call()
    except kind as error:
        message = str(error)
        assert words in message, message
        assert "\n" not in message, message
    else:
        raise AssertionError(f"nothing was raised, not {words!r}")
