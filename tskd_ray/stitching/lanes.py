"""Vector operations that numba has no words for: W = 16 squared distances at a time.

d dims. Written in LLVM's own instructions, which it fits to any machine: compilers do not find
these loops in plain code, 10 times slower as measured. For pruning only, never for a decision:
products and sums may be fused, so that last bits depend on the machine.
"""
# numba and llvmlite are untyped.
# pyright: reportUntypedFunctionDecorator=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tskd_ray.llvm import elements, load, spread
from tskd_ray.stitching.cells import LANES

_INT, _BIT = ir.IntType(64), ir.IntType(1)
_BYTES = ir.IntType(8).as_pointer()
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * LANES)
_vectorised: Any = intrinsic
_load, _all = partial(load, kind=_VECTOR), partial(spread, kind=_VECTOR)


@_vectorised
def near_members(
    typing: Any, inner: Any, first: Any, queries: Any, at: Any, d: Any, limit: Any
) -> Any:
    """Bit j is set unless the squared distance of lane j of W to a query is above `limit`.

    Args:
        typing: numba's own.
        inner: float32; coordinate k of lane j is element first + k·W + j in memory.
        first: Where to begin.
        queries: float32; coordinate k is element at + k.
        at: Where the query begins.
        d: How many dimensions to look at.
        limit: float32.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = builder.gep(elements(context, builder, signature, values, 0), [values[1]])
        point = builder.gep(elements(context, builder, signature, values, 2), [values[3]])

        def difference(k: Any) -> Any:
            x = _load(builder, start, builder.mul(k, ir.Constant(_INT, LANES)))
            return builder.fsub(x, _all(builder, builder.load(builder.gep(point, [k]))))

        return _not_above(builder, difference, values[4], values[5])

    whole = types.int64
    return whole(inner, whole, queries, whole, whole, types.float32), emit


@_vectorised
def likely_members(
    typing: Any,
    given: Any,
    first: Any,
    mean: Any,
    precision: Any,
    at: Any,
    d: Any,
    limit: Any,
) -> Any:
    """Bit j is set unless Σ_k ((x_k − mean_k)·precision_k)² of lane j of W is above `limit`.

    Args:
        typing: numba's own.
        given: float32; coordinate k of lane j is element first + k·W + j in memory.
        first: Where to begin.
        mean: float32; coordinate k is element at + k.
        precision: Likewise.
        at: Where those begin.
        d: How many dimensions.
        limit: float32.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = builder.gep(elements(context, builder, signature, values, 0), [values[1]])
        centre = builder.gep(elements(context, builder, signature, values, 2), [values[4]])
        scale = builder.gep(elements(context, builder, signature, values, 3), [values[4]])

        def difference(k: Any) -> Any:
            x = _load(builder, start, builder.mul(k, ir.Constant(_INT, LANES)))
            gap = builder.fsub(x, _all(builder, builder.load(builder.gep(centre, [k]))))
            return builder.fmul(gap, _all(builder, builder.load(builder.gep(scale, [k]))))

        return _not_above(builder, difference, values[5], values[6])

    whole = types.int64
    return whole(given, whole, mean, precision, whole, whole, types.float32), emit


@_vectorised
def likely_boxes(
    typing: Any,
    boxes: Any,
    first: Any,
    mean: Any,
    precision: Any,
    at: Any,
    d: Any,
    limit: Any,
) -> Any:
    """Bit j is set unless `likely_members` would clear that of any point in box j of W.

    Args:
        typing: numba's own.
        boxes: float32; the least coordinate k of box j is element first + 2·k·W + j in
            memory, the greatest W further.
        first: Where to begin.
        mean: float32; coordinate k is element at + k.
        precision: Likewise.
        at: Where those begin.
        d: How many dimensions.
        limit: float32.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = builder.gep(elements(context, builder, signature, values, 0), [values[1]])
        centre = builder.gep(elements(context, builder, signature, values, 2), [values[4]])
        scale = builder.gep(elements(context, builder, signature, values, 3), [values[4]])

        def difference(k: Any) -> Any:
            gap = _box_gap(builder, start, centre, centre, k)
            return builder.fmul(gap, _all(builder, builder.load(builder.gep(scale, [k]))))

        return _not_above(builder, difference, values[5], values[6])

    whole = types.int64
    return whole(boxes, whole, mean, precision, whole, whole, types.float32), emit


@_vectorised
def near_boxes(
    typing: Any, boxes: Any, first: Any, low: Any, high: Any, at: Any, d: Any, limit: Any
) -> Any:
    """Bit j is set unless box j of W is farther from the box low … high than √limit.

    Args:
        typing: numba's own.
        boxes: float32; the least coordinate k of box j is element first + 2·k·W + j in
            memory, the greatest W further.
        first: Where to begin.
        low: float32; coordinate k is element at + k.
        high: Likewise; `low` itself for a point.
        at: Where those begin.
        d: How many dimensions.
        limit: float32.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = builder.gep(elements(context, builder, signature, values, 0), [values[1]])
        least = builder.gep(elements(context, builder, signature, values, 2), [values[4]])
        most = builder.gep(elements(context, builder, signature, values, 3), [values[4]])

        def difference(k: Any) -> Any:
            return _box_gap(builder, start, least, most, k)

        return _not_above(builder, difference, values[5], values[6])

    whole = types.int64
    return whole(boxes, whole, low, high, whole, whole, types.float32), emit


@_vectorised
def lowest_bit(typing: Any, bits: Any) -> Any:
    """Number of the lowest bit set in an int64 that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(_BIT, 1))

    return types.int64(types.int64), emit


@_vectorised
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Have the memory around element `at` of a flat or nested array brought into the cache.

    Changes nothing but time: where the next places to look at are known and far apart, their
    way from memory takes longer than the work on them.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.gep(elements(context, builder, signature, values, 0), [values[1]])
        name, flag = "llvm.prefetch", ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, flag, flag, flag])
        hint = builder.module.declare_intrinsic(name, [_BYTES], kind)
        read, keep, data = (ir.Constant(flag, number) for number in (0, 3, 1))
        builder.call(hint, [builder.bitcast(place, _BYTES), read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _box_gap(builder: Any, start: Any, least: Any, most: Any, k: Any) -> Any:
    """How far W boxes are from the box least … most in dimension k; 0 where they meet."""
    at = builder.mul(k, ir.Constant(_INT, 2 * LANES))
    box_low = _load(builder, start, at)
    box_high = _load(builder, start, builder.add(at, ir.Constant(_INT, LANES)))
    above = _all(builder, builder.load(builder.gep(most, [k])))
    below = _all(builder, builder.load(builder.gep(least, [k])))
    gap = _larger(builder, builder.fsub(box_low, above), builder.fsub(below, box_high))
    return _larger(builder, gap, _ZEROS)


def _not_above(builder: Any, difference: Callable[[Any], Any], d: Any, limit: Any) -> Any:
    """Lanes whose sum over k < d of difference(k)² is not above the limit, as bits."""
    before = builder.block
    test, body, done = (
        builder.append_basic_block(f"lanes.{name}") for name in ("test", "body", "done")
    )
    builder.branch(test)
    builder.position_at_end(test)
    k, total = builder.phi(_INT), builder.phi(_VECTOR)
    builder.cbranch(builder.icmp_signed("<", k, d), body, done)
    builder.position_at_end(body)
    gap = difference(k)
    square = builder.fmul(gap, gap, flags=("contract",))
    following = builder.add(k, ir.Constant(_INT, 1))
    k.add_incoming(ir.Constant(_INT, 0), before)
    k.add_incoming(following, body)
    total.add_incoming(_ZEROS, before)
    total.add_incoming(builder.fadd(total, square, flags=("contract",)), body)
    builder.branch(test)
    builder.position_at_end(done)
    # "unordered": where numbers overflowed to NaN, nothing may be ruled out
    near = builder.fcmp_unordered("<=", total, _all(builder, limit))
    return builder.zext(builder.bitcast(near, ir.IntType(LANES)), _INT)
