"""The functions of the vocabulary that are the same for every floating-point type."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from mithril_losses.loops.scalar.compile import Scalar, inlined


@inlined
def abs(x: Scalar) -> Scalar:
    """|x|."""
    return math.fabs(x)


@inlined
def sqrt(x: Scalar) -> Scalar:
    """√x, NaN for x < 0."""
    return math.sqrt(x)


@inlined
def log_gamma(x: Scalar) -> Scalar:
    """log |Γ(x)|, one call of the C library for each number."""
    return math.lgamma(x)


@inlined
def atan2(y: Scalar, x: Scalar) -> Scalar:
    """The angle of (x, y), one call of the C library for each number."""
    return math.atan2(y, x)


@inlined
def where(condition: Any, x: Scalar, y: Scalar) -> Scalar:
    """Return x where the condition holds, y elsewhere."""
    return x if condition else y


def _operation(name: str, *flags: str) -> Any:
    # LLVM's own operation: with a constant it is one instruction, while comparisons and choices take four
    def operation(typing_context: Any, x: Any, y: Any) -> Any:
        result = typing_context.unify_types(x, y)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, y = (context.cast(builder, a, t, result) for a, t in zip(arguments, signature.args, strict=True))
            function = ir.FunctionType(x.type, [x.type, x.type])
            return builder.call(builder.module.declare_intrinsic(name, [x.type], function), [x, y], fastmath=flags)

        return result(x, y), generate

    return intrinsic(operation)


# nsz: min(0, −0) may be either zero, as in NumPy; distinguishing them would triple the instructions
minimum = _operation("llvm.minimum", "nsz")
maximum = _operation("llvm.maximum", "nsz")
# a maximum that ignores NaN, at a third of the cost in a loop for the largest number
larger = _operation("llvm.maxnum", "nsz", "nnan")
