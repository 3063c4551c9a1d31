"""One function evaluated on every library and in every mode, with NumPy arrays in and out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from cases import convert, double_precision, matched, to_numpy

from mithril_losses import find_loss, value_and_gradient
from mithril_losses.numerics.trees import map_leaves

MODES = ("numpy", "jax", "jax.jit", "torch")
EAGER = ("numpy", "jax", "torch")
TRACED = ("jax.jit", "torch.compile")  # values cannot be seen here


def evaluate(mode: str, function: Callable[..., Any], *arrays: Any, dtype: str = "float64", **keywords: Any) -> Any:
    """Return what `function` gives for arrays (floating ones in `dtype`) and keywords, as NumPy's float64."""
    library = mode.partition(".")[0]
    with double_precision(library):
        arguments = [convert(x, library, dtype) for x in arrays]
        options = {name: convert(x, library, dtype) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
        called = partial(function, **options)
        if mode == "jax.jit":
            called = jax.jit(called)
        if mode == "torch.compile":
            torch._dynamo.reset()
            called = torch.compile(called, fullgraph=True, backend="eager")
        return map_leaves(lambda _, x: to_numpy(x), called(*arguments))


def evaluate_pair(mode: str, loss: Callable[..., Any], *arrays: Any, dtype: str = "float64", **keywords: Any) -> Any:
    """Return a loss's value and gradient, having compared them with what `value_and_gradient` gives."""
    gradient, both = find_loss(loss).gradient, value_and_gradient(loss)

    def every(*arguments: Any, **options: Any) -> Any:
        own = {name: option for name, option in options.items() if name != "upstream"}
        return [loss(*arguments, **own), gradient(*arguments, **options), *both(*arguments, **options)]

    value, slopes, fused_value, fused_slopes = evaluate(mode, every, *arrays, dtype=dtype, **keywords)
    rounding = {"float64": 1e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(fused_value, value, rtol=rounding, atol=rounding / 10)
    for path, found, expected in matched(fused_slopes, slopes):
        np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding / 10, err_msg=path)
    return value, slopes
