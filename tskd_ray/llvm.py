"""Words for LLVM's instructions that our kernels share: what to load, and how to spread it."""
# llvmlite is untyped.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from llvmlite import ir


def elements(context: Any, builder: Any, signature: Any, values: Any, which: int) -> Any:
    """Pointer to the first element of an array argument of an intrinsic."""
    return context.make_array(signature.args[which])(context, builder, values[which]).data


def load(builder: Any, start: Any, at: Any, kind: Any) -> Any:
    """A vector of type `kind` from element `at` on, wherever in memory that is."""
    pointer = builder.bitcast(builder.gep(start, [at]), kind.as_pointer())
    return builder.load(pointer, align=4)


def spread(builder: Any, number: Any, kind: Any) -> Any:
    """A number in all lanes of a vector of type `kind`."""
    empty = ir.Constant(kind, ir.Undefined)
    lanes = ir.VectorType(ir.IntType(32), kind.count)
    one = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, empty, ir.Constant(lanes, [0] * kind.count))
