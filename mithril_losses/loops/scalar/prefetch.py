"""A hint to the processor, for loops that alternate between waiting for memory and computing."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_READ, _WRITE, _SECOND_LEVEL, _DATA = 0, 1, 2, 1


def _prefetch(mode: int) -> Any:
    def hint(typing_context: Any, x: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            address, number = builder.gep(array.data, [arguments[1]]), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [address, number(mode), number(_SECOND_LEVEL), number(_DATA)])
            return context.get_dummy_value()

        return types.void(x, types.intp), generate

    return intrinsic(hint)


# ask for the cache line of x[place]
prefetch_to_read = _prefetch(_READ)
prefetch_to_write = _prefetch(_WRITE)
