"""Two inner loops of small networks that compilers do not find in plain code.

A *tile* is the sums of one convolution for a few neighbouring positions and the channels of two
vectors, held in registers from the first product to the last. Each sum runs over taps and then
input channels, in that order, whatever else is computed beside it: so a row's result does not
depend on its neighbours in a batch, to the last bit.

Written in LLVM's own instructions, which it fits to any machine. All arrays are flat float32;
places in them count elements.
"""
# numba and llvmlite are untyped.
# pyright: reportUntypedFunctionDecorator=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tskd_ray.compiled import inlined
from tskd_ray.llvm import elements, load, spread

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
WIDTH = 16 if _WIDE else 8
"""Channels of a vector."""
BLOCK = 2 * WIDTH
"""Channels of a tile; networks pad theirs to a multiple."""
_LARGEST = 8 if _WIDE else 4
"""Positions of the largest tile that fits the registers."""

_INT = ir.IntType(64)
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, WIDTH)
_WHOLE = ir.VectorType(ir.IntType(32), WIDTH)
_intrinsic: Any = intrinsic
_load, _all = partial(load, kind=_VECTOR), partial(spread, kind=_VECTOR)


def _tile(positions: int) -> Any:
    """The intrinsic for tiles of so many positions."""

    @_intrinsic
    def tile(
        typing: Any,
        given: Any,
        at: Any,
        step: Any,
        tap_step: Any,
        taps: Any,
        channels: Any,
        weights: Any,
        weights_at: Any,
        bias_at: Any,
        out: Any,
        out_at: Any,
        out_step: Any,
        add: Any,
    ) -> Any:
        """Convolve at `positions` places.

        Args:
            typing: numba's own.
            given: Input; channel c of tap k at position p is element
                at + p·step + k·tap_step + c.
            at: Where the first position's first tap begins.
            step: From a position to the next.
            tap_step: From a tap to the next.
            taps: Of the kernel.
            channels: Of the input.
            weights: Those of tap k and input channel c are `BLOCK` elements from
                weights_at + (k·channels + c)·BLOCK on.
            weights_at: Where they begin.
            bias_at: Where the `BLOCK` biases begin, in `weights`.
            out: Output; position p is `BLOCK` elements from out_at + p·out_step on.
            out_at: Where it begins.
            out_step: From a position to the next.
            add: Not 0: add to what is there.
        """

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            data = [elements(context, builder, signature, values, which) for which in (0, 6, 9)]
            source, kernel, target = data
            _, at, step, tap_step, taps, channels, _, weights_at, bias_at = values[:9]
            _, out_at, out_step, add = values[9:]
            places = [
                builder.add(out_at, builder.mul(out_step, _int(p))) for p in range(positions)
            ]
            biases = [_load(builder, kernel, _plus(builder, bias_at, v)) for v in (0, WIDTH)]
            flag = builder.icmp_signed("!=", add, _int(0))
            start = []
            for place in places:
                for v, bias in enumerate(biases):
                    # What is not asked for is not added: it may be no number.
                    there = _load(builder, target, _plus(builder, place, v * WIDTH))
                    start.append(builder.select(flag, builder.fadd(bias, there), bias))
            multiply_add = _function(builder, "llvm.fmuladd", 3)

            def channel(tap: Any) -> Callable[[Any, Sequence[Any]], list[Any]]:
                first = builder.add(at, builder.mul(tap, tap_step))
                row = builder.mul(tap, channels)

                def body(c: Any, sums: Sequence[Any]) -> list[Any]:
                    here = builder.add(
                        weights_at, builder.mul(builder.add(row, c), _int(BLOCK))
                    )
                    w = [_load(builder, kernel, _plus(builder, here, v)) for v in (0, WIDTH)]
                    following = []
                    for p in range(positions):
                        place = builder.add(first, builder.mul(step, _int(p)))
                        x = builder.load(builder.gep(source, [builder.add(place, c)]))
                        x = _all(builder, x)
                        following += [
                            builder.call(multiply_add, [x, w[v], sums[2 * p + v]])
                            for v in (0, 1)
                        ]
                    return following

                return body

            sums = _loop(
                builder,
                taps,
                start,
                lambda tap, carried: _loop(builder, channels, carried, channel(tap)),
            )
            for p, place in enumerate(places):
                for v in (0, 1):
                    there = builder.gep(target, [_plus(builder, place, v * WIDTH)])
                    pointer = builder.bitcast(there, _VECTOR.as_pointer())
                    builder.store(sums[2 * p + v], pointer, align=4)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(
            given, whole, whole, whole, whole, whole, weights, whole, whole, out, whole, whole,
            whole,
        ), emit  # fmt: skip

    return tile


tile_8, tile_4, tile_2, tile_1 = (_tile(positions) for positions in (8, 4, 2, 1))


@inlined
def tiles(
    given: Any,
    at: int,
    step: int,
    tap_step: int,
    taps: int,
    channels: int,
    weights: Any,
    weights_at: int,
    out: Any,
    out_at: int,
    out_step: int,
    add: int,
    count: int,
) -> None:
    """Convolve at `count` places in the largest tiles that there are; else see `_tile`.

    The `BLOCK` biases follow the weights.
    """
    bias = weights_at + taps * channels * BLOCK
    p = 0
    if _LARGEST == 8:
        while p + 8 <= count:
            tile_8(
                given, at + p * step, step, tap_step, taps, channels,
                weights, weights_at, bias, out, out_at + p * out_step, out_step, add,
            )  # fmt: skip
            p += 8
    while p + 4 <= count:
        tile_4(
            given, at + p * step, step, tap_step, taps, channels,
            weights, weights_at, bias, out, out_at + p * out_step, out_step, add,
        )  # fmt: skip
        p += 4
    if p + 2 <= count:
        tile_2(
            given, at + p * step, step, tap_step, taps, channels,
            weights, weights_at, bias, out, out_at + p * out_step, out_step, add,
        )  # fmt: skip
        p += 2
    if p < count:
        tile_1(
            given, at + p * step, step, tap_step, taps, channels,
            weights, weights_at, bias, out, out_at + p * out_step, out_step, add,
        )  # fmt: skip


@_intrinsic
def scaled_mish(
    typing: Any,
    given: Any,
    at: Any,
    scale: Any,
    shift: Any,
    of: Any,
    extra: Any,
    extra_at: Any,
    out: Any,
    out_at: Any,
) -> Any:
    """One vector of mish(x·scale + shift) + extra.

    mish(x) = x·tanh(log(1 + eˣ)) = x·n / (n + 2) with n = eˣ(eˣ + 2), to 2 ulp of float32.

    Args:
        typing: numba's own.
        given: x, `WIDTH` elements from `at` on.
        at: Where they begin.
        scale: `WIDTH` elements from `of` on.
        shift: Likewise.
        of: Where those begin.
        extra: What is added, `WIDTH` elements from `extra_at` on.
        extra_at: Where it begins.
        out: Gets the result.
        out_at: Where.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = {
            which: elements(context, builder, signature, values, which)
            for which in (0, 2, 3, 5, 7)
        }
        x, a, b = (
            _load(builder, data[which], values[place])
            for which, place in ((0, 1), (2, 4), (3, 4))
        )
        x = builder.call(_function(builder, "llvm.fmuladd", 3), [x, a, b])
        y = _mish(builder, x)
        y = builder.fadd(y, _load(builder, data[5], values[6]))
        pointer = builder.bitcast(builder.gep(data[7], [values[8]]), _VECTOR.as_pointer())
        builder.store(y, pointer, align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(given, whole, scale, shift, whole, extra, whole, out, whole), emit


_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = (
    0.693359375,
    -2.12194440e-4,
)  # their sum is ln 2; n times the first is exact
_EXP = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)  # Taylor: |r| < 0.35
_LARGE, _SMALL = 20.0, -87.0  # beyond, mish is x and 0 in float32


def _mish(builder: Any, x: Any) -> Any:
    multiply_add = _function(builder, "llvm.fmuladd", 3)
    small = builder.select(builder.fcmp_ordered("<", x, _floats(_LARGE)), x, _floats(_LARGE))
    small = builder.select(
        builder.fcmp_ordered(">", small, _floats(_SMALL)), small, _floats(_SMALL)
    )
    n = builder.call(
        _function(builder, "llvm.rint", 1), [builder.fmul(small, _floats(_LOG2_E))]
    )
    r = builder.call(multiply_add, [n, _floats(-_LN2_HIGH), small])
    r = builder.call(multiply_add, [n, _floats(-_LN2_LOW), r])
    power = _floats(_EXP[0])
    for coefficient in _EXP[1:]:
        power = builder.call(multiply_add, [power, r, _floats(coefficient)])
    exponent = builder.add(builder.fptosi(n, _WHOLE), ir.Constant(_WHOLE, [127] * WIDTH))
    exponent = builder.shl(exponent, ir.Constant(_WHOLE, [23] * WIDTH))
    e = builder.fmul(power, builder.bitcast(exponent, _VECTOR))
    top = builder.fmul(e, builder.fadd(e, _floats(2.0)))
    y = builder.fmul(x, builder.fdiv(top, builder.fadd(top, _floats(2.0))))
    # "ordered": NaN stays NaN, and beyond the limit the quotient would be 1 anyway
    return builder.select(builder.fcmp_ordered(">", x, _floats(_LARGE)), x, y)


def _loop(
    builder: Any,
    count: Any,
    start: Sequence[Any],
    body: Callable[[Any, Sequence[Any]], list[Any]],
) -> list[Any]:
    """What `body(k, carried)` makes of `start` for k = 0 … count − 1, kept in registers."""
    before = builder.block
    test, inside, done = (
        builder.append_basic_block(f"tile.{name}") for name in ("test", "inside", "done")
    )
    builder.branch(test)
    builder.position_at_end(test)
    k = builder.phi(_INT)
    carried = [builder.phi(value.type) for value in start]
    builder.cbranch(builder.icmp_signed("<", k, count), inside, done)
    builder.position_at_end(inside)
    following = body(k, carried)
    after = builder.add(k, _int(1))
    k.add_incoming(_int(0), before)
    k.add_incoming(after, builder.block)
    for value, first, later in zip(carried, start, following, strict=True):
        value.add_incoming(first, before)
        value.add_incoming(later, builder.block)
    builder.branch(test)
    builder.position_at_end(done)
    return carried


def _function(builder: Any, name: str, arguments: int) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * arguments)
    return builder.module.declare_intrinsic(f"{name}.v{WIDTH}f32", (), kind)


def _int(number: int) -> Any:
    return ir.Constant(_INT, number)


def _plus(builder: Any, place: Any, number: int) -> Any:
    return builder.add(place, _int(number))


def _floats(number: float) -> Any:
    return ir.Constant(_VECTOR, [number] * WIDTH)
