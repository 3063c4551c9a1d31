"""What is said about a call with an argument too many, too few, or of another library: for every loss, in one line."""

from __future__ import annotations

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from calling import arguments_of, faces, told
from cases import DRAWN, Case, convert

import mithril_losses as ml
from mithril_losses import value_and_gradient
from mithril_losses.elsewhere import KEYWORDS


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_an_unknown_option_is_refused_with_those_that_there_are(case: Case) -> None:
    name = case.pair.name
    for library in ("numpy", "jax", "torch"):
        arguments, options = arguments_of(case, library), case.keywords(library, "float32")
        for function in faces(case).values() if library == "numpy" else (value_and_gradient(case.pair.value),):
            taken = [*inspect.signature(function).parameters]
            known = [name for name in taken if name not in (*case.pair.array_arguments, "out")]
            for option in ("bogus", *KEYWORDS) if function is case.pair.value else ("bogus", "weight"):
                if option in taken:
                    continue
                message = told(TypeError, function, *arguments, **options, **{option: 1.0})
                assert message.startswith(f"{name} has no option {option!r}")
                meant = [x for x in KEYWORDS.get(option, ()) if x in known]
                assert not meant or f"; did you mean {meant[0]!r}?" in message
                listed = re.findall(r" \(options: (.*)\)$", message)
                assert {*"".join(listed).split(", ")} == {*known} if known else message.endswith(": it has no options")


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_a_missing_and_a_surplus_argument_are_named(case: Case) -> None:
    for library in ("numpy", "jax", "torch"):
        arguments = arguments_of(case, library)
        for function in faces(case).values():
            message = told(TypeError, function, *arguments[:-1])
            assert message.startswith(case.pair.name)
            assert list(case.arrays)[-1] in message
            assert told(TypeError, function, *arguments * 5).startswith(case.pair.name)


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_every_keyword_is_in_the_signature(case: Case) -> None:
    for face, function in faces(case).items():
        parameters = inspect.signature(function).parameters
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        assert not case.pair.takes_reduction or parameters.keys() >= {"reduction", "weights", "normalizer"}
        assert ("upstream" in parameters) == (face != "value")


def test_inside_a_trace_and_under_a_compiler() -> None:
    both = value_and_gradient(ml.huber_loss, compile=True)
    x = torch.ones(3, requires_grad=True)
    for function, arguments in (
        (jax.jit(lambda p, t: value_and_gradient(ml.huber_loss)(p, t, beta=1.0)), (jnp.ones(3), jnp.ones(3))),
        (jax.grad(lambda p, t: ml.huber_loss(p, t, beta=1.0)), (jnp.ones(3), jnp.ones(3))),
        (lambda p, t: both(p, t, beta=1.0), (x, x)),
    ):
        assert told(TypeError, function, *arguments).startswith(
            "huber_loss has no option 'beta'; did you mean 'delta'?"
        )


def test_composed_and_settled_losses_name_themselves() -> None:
    x = np.full(3, 0.5)
    for loss in (ml.bernoulli_negative_log_likelihood, "bernoulli_negative_log_likelihood"):
        for function in (ml.find_loss(loss).value, ml.find_loss(loss).gradient, value_and_gradient(ml.find_loss(loss))):
            message = told(TypeError, function, x, x, pos_weight=2.0)
            assert message.startswith("bernoulli_negative_log_likelihood has no option 'pos_weight'")


@pytest.mark.parametrize(
    ("targets", "options"),
    [((2, 6, 7), {}), ((2, 6, 7), {"class_weights": np.ones(5)}), ((2, 6, 7), {"class_weights": [1.0] * 5})],
)
def test_classes_on_axis_1_are_noticed(targets: tuple[int, ...], options: dict[str, Any]) -> None:
    scores, labels = np.full((2, 5, 6, 7), 0.2), np.zeros(targets, int)
    for loss in (ml.cross_entropy_with_logits, ml.cross_entropy_loss):
        for library in ("numpy", "jax", "torch"):
            given = convert(scores, library, "float32"), convert(labels.astype(np.int32), library)
            own = {n: convert(x, library, "float32") if isinstance(x, np.ndarray) else x for n, x in options.items()}
            for function in (loss, ml.find_loss(loss).gradient, value_and_gradient(loss)):
                assert told(ValueError, function, *given, **own).endswith(
                    "; for 5 classes on axis 1, pass class_axis=1"
                )
                function(*given, class_axis=1, **own)


def test_a_reduction_of_another_library() -> None:
    x = np.ones((2, 2))
    assert told(ValueError, ml.mse_loss, x, x, reduction="batchmean").endswith("; did you mean 'batch_sum'?")
    assert told(ValueError, ml.mse_loss, x, x, reduction="sum_over_batch_size").endswith("; did you mean 'mean'?")


def test_from_logits_names_the_loss_of_logits() -> None:
    x = np.full(3, 0.5)
    message = told(TypeError, ml.binary_cross_entropy, x, x, from_logits=True)
    assert message.endswith("it takes probabilities; for logits there is binary_cross_entropy_with_logits")
    message = told(TypeError, ml.binary_cross_entropy_with_logits, x, x, from_logits=True)
    assert message.endswith("it takes logits")
