"""Every kernel kind against the NumPy interpreter: random, ragged and empty shapes, special values, barrier-free and workgroup variants."""
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sardonyx.errors import RuntimeException
from sardonyx.expr import Compute, E, Op, acc, binary, cast, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.lowering import CannotLower, Lowering, View
from sardonyx.types import DType
from sardonyx.webgpu.executor import WebGpuProgram

from .programs import agree, both, planned

RNG = np.random.default_rng(7)


def f(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def out(k: Lowering, dtype: DType, *shape: Any) -> View:
    return k.buffer(dtype, shape).whole()


# -- Map and Copy ---------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 1, 4, 3), (0, 4), (1000,), (2, 3, 1, 2, 2, 3)])
def test_map_over_views(device: Any, shape: tuple[int, ...]) -> None:
    rank = len(shape)
    turned = list(range(rank))[::-1]
    agree(device, lambda k, x, y: k.map(lambda a, b: a * b + a, x, y.permute(turned), dtype=DType.FLOAT), f(*shape), f(*shape[::-1]))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_every_type_is_moved(device: Any, dtype: str) -> None:
    x = (RNG.integers(0, 2, (5, 7)) if dtype == "bool" else RNG.integers(0, 100, (5, 7))).astype(dtype)

    def rule(k: Lowering, v: View) -> list[View]:
        joined = out(k, DType.of(x), 10, 7)
        k.move(v, joined.slice(0, 0, 5))
        k.move(v.slice(1, 6, 7, -1), joined.slice(0, 5, 5))
        return [joined, k.move(v.permute((1, 0)), out(k, DType.of(x), 7, 5))]
    agree(device, rule, x)


@pytest.mark.parametrize(("mode", "begin"), [(mode, begin) for mode in (1, 2, 3, 4) for begin in ((1, 2), (0, 3), (-1, 1)) if mode != 2 or min(begin) >= 0])
def test_pads(device: Any, mode: int, begin: tuple[int, int]) -> None:
    x, value = f(5, 6), np.array(2.5, np.float32)
    agree(device, lambda k, v, c: k.move(v, out(k, DType.FLOAT, 8, 10), mode, begin, c if mode == 1 else None), x, value)


# -- rows -----------------------------------------------------------------------------------------------------------------------------------------

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((7,), (0,)), ((3, 5, 4), (1,)), ((3, 5, 4), (0, 2)), ((2, 900), (1,)), ((300, 3), (0,)), ((3, 0, 2), (1,)), ((0, 4), (1,))]


@pytest.mark.parametrize(("op", "shape", "axes"), [(op, shape, axes) for op in range(7) for shape, axes in SHAPES if op not in (4, 5) or (len(axes) == 1 and 0 not in shape)])
def test_reduce(lanes: Any, op: int, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = f(*shape)
    if op == 1:
        x = np.abs(x) * 0.1 + 0.95
    rounding = 2.0**-24 * float(np.abs(x).sum(axis=axes).max(initial=0))    # of one addition at the end: a sum may be near 0 whose terms are not
    agree(lanes, lambda k, v: k.reduce(op, v, axes, DType.INT64 if op in (4, 5) else DType.FLOAT), x, rtol=1e-4, atol=max(1e-6, rounding))


@pytest.mark.parametrize("op", [2, 3, 4, 5])
@pytest.mark.parametrize("last", [0, 1])
def test_extremes_of_nan_and_equal_values(lanes: Any, op: int, last: int) -> None:
    x = RNG.integers(0, 3, (20, 50)).astype(np.float32)
    x[::3, 17] = np.nan
    x[::5, 30] = np.inf
    axes = (1,)
    if op < 4:
        agree(lanes, lambda k, v: k.reduce(op, v, axes, DType.FLOAT), x)
    else:
        agree(lanes, lambda k, v: k.reduce(op, v, axes, DType.INT64, last=last), np.nan_to_num(x, nan=1.0) if last else x)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float16", "bool"])
def test_reduce_of_other_types(lanes: Any, dtype: str) -> None:
    x = RNG.integers(0, 2 if dtype == "bool" else 100, (4, 60)).astype(dtype)
    kind = DType.of(x)
    agree(lanes, lambda k, v: [k.reduce(op, v, (1,), kind) for op in (2, 3)], x)
    if dtype not in ("bool", "float16"):
        agree(lanes, lambda k, v: k.reduce(0, v, (1,), kind), x)


def test_prologue_and_epilogue(lanes: Any) -> None:
    x, y, z = f(6, 80), f(80), f(6, 1)
    agree(lanes, lambda k, a, b, c: k.reduce(0, a, (1,), DType.FLOAT, lambda p, q: unary(Op.EXP, p * q * 0.3), lambda total, r: total * 0.1 + r, [b], [c]), x, y, z, rtol=1e-4)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize(("shape", "axis"), [((3, 5), 1), ((4, 7, 3), 1), ((2, 500), 1), ((70, 2), 0), ((2, 0), 1), ((1, 1), 1)])
def test_softmax(lanes: Any, mode: int, shape: tuple[int, ...], axis: int) -> None:
    def rule(k: Lowering, x: View, mask: View) -> View:
        y = out(k, DType.FLOAT, *shape)
        k.call(Kernel.SOFTMAX, [x, mask.expand(shape)], [y], axis=axis, mode=mode, scale=0.7)
        return y
    agree(lanes, rule, f(*shape) * 5, f(*shape[1:]), rtol=1e-4)


def test_softmax_of_infinities(lanes: Any) -> None:
    x = f(4, 40)
    x[0, 3], x[1, :], x[2, 5], x[3, 1:] = np.inf, -np.inf, np.nan, -np.inf
    agree(lanes, lambda k, v: _softmax(k, v), x)
    agree(lanes, lambda k, v: _softmax(k, v), f(3, 50).astype(np.float16), rtol=2e-3, atol=1e-4)


def _softmax(k: Lowering, x: View) -> View:
    y = k.buffer(x.dtype, x.shape).whole()
    k.call(Kernel.SOFTMAX, [x, None], [y], axis=1, mode=0, scale=1.0)
    return y


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((3, 5), 1), ((2, 3, 40), 1), ((4, 300), 1), ((2, 3, 4, 5), 2)])
def test_norm(lanes: Any, mode: int, shape: tuple[int, ...], axis: int) -> None:
    def rule(k: Lowering, x: View, scale: View, bias: View, skip: View) -> list[View]:
        kept = [*shape[:axis], *[1] * (len(shape) - axis)]
        made = [out(k, DType.FLOAT, *shape), out(k, DType.FLOAT, *kept), out(k, DType.FLOAT, *kept), out(k, DType.FLOAT, *shape)]
        k.call(Kernel.NORM, [x, scale.expand(shape), bias.expand(shape), skip], made, mode=mode, axis=axis, groups=0, epsilon=1e-5)
        return made
    agree(lanes, rule, f(*shape), f(*shape[axis:]), f(*shape[axis:]), f(*shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(lanes: Any, groups: int) -> None:
    def rule(k: Lowering, x: View, scale: View) -> View:
        y = out(k, DType.FLOAT, 2, 6, 5, 7)
        k.call(Kernel.NORM, [x, scale.unsqueeze(1).unsqueeze(2).expand((2, 6, 5, 7)), None, None], [y], mode=2, axis=1, groups=groups, epsilon=1e-5)
        return y
    agree(lanes, rule, f(2, 6, 5, 7), f(6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (5, 7), (3, 900), (0, 4)])
@pytest.mark.parametrize("special", [0.0, np.nan, np.inf])
def test_extremes_and_what_follows_are_one_dispatch(lanes: Any, shape: tuple[int, ...], special: float) -> None:
    """As DynamicQuantizeLinear has them: the least and greatest in one pass, scale and zero point after them, then the Map of all elements."""
    x = f(*shape)
    if x.size > 1 and special:
        x.reshape(-1)[x.size // 2] = special

    def rule(k: Lowering, v: View) -> list[View]:
        low = k.reduce(2, v, range(v.rank), DType.FLOAT, None, lambda a: binary(Op.MIN, a, 0.0))
        high = k.reduce(3, v, range(v.rank), DType.FLOAT, None, lambda a: binary(Op.MAX, a, 0.0))
        scale = k.reshape(k.map(lambda a, b: (b - a) / 255.0 + 1.0, low, high, dtype=DType.FLOAT), ())
        zero = k.map(lambda a, s: a / s, k.reshape(low, ()), scale, dtype=DType.FLOAT)
        return [k.map(lambda a, s, z: a / s + z, v, scale, zero, dtype=DType.FLOAT), scale, low]
    agree(lanes, rule, x)
    program, constants = planned(lambda k, v: rule(k, v)[0], [(DType.FLOAT, shape)])
    runner = WebGpuProgram(lanes, program, constants)
    runner.close()
    assert len(runner.recording.dispatches) == 2 and runner.recording.dispatches[0].label == "extremes of the node"


def test_rows_work_with_subgroups(lanes: Any) -> None:
    """That the variant is the one meant."""
    x = f(3, 200)
    program, constants = planned(lambda k, v: _softmax(k, v), [(DType.FLOAT, x.shape)])
    runner = WebGpuProgram(lanes, program, constants)
    runner.close()
    source = runner.recording.shaders[0].source
    assert ("subgroupMax" in source and "enable subgroups;" in source) == ("subgroups" in lanes.features and not lanes.adapter.is_cpu)


# -- products -------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 7, 3), (1, 65, 33), (33, 20, 66), (130, 40, 150), (4, 0, 5), (0, 3, 4), (37, 100, 2)])
@pytest.mark.parametrize("constant", [False, True])
def test_matmul(variant: Any, m: int, k: int, n: int, constant: bool) -> None:
    weights = f(k, n)

    def rule(lowering: Lowering, a: View, b: View, bias: View) -> View:
        right = lowering.constant(weights) if constant and weights.size else b
        return lowering.matmul(a, right, DType.FLOAT, (m, n), lambda total, c: unary(Op.TANH, total * 0.1 + c), [bias])
    agree(variant, rule, f(m, k), weights, f(n), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_batched_and_broadcast_matmul(variant: Any, transposed: bool) -> None:
    def rule(k: Lowering, a: View, b: View) -> View:
        return k.matmul(a, b.permute((0, 2, 1)) if transposed else b, DType.FLOAT, (2, 3, 17, 40))
    agree(variant, rule, f(2, 3, 17, 9), f(3, 40, 9) if transposed else f(3, 9, 40), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zeros", ["none", "scalars", "lines"])
@pytest.mark.parametrize("signed", [False, True])
def test_integer_matmul(player: Any, zeros: str, signed: bool) -> None:
    dtype = np.int8 if signed else np.uint8
    a, b = RNG.integers(0, 127, (9, 33)).astype(np.uint8), RNG.integers(0, 127, (33, 21)).astype(dtype)
    zero_a, zero_b = (np.array(3, np.uint8), np.array(5, dtype)) if zeros != "lines" else (RNG.integers(0, 9, 9).astype(np.uint8), RNG.integers(0, 9, 21).astype(dtype))

    def rule(k: Lowering, x: View, y: View, zx: View, zy: View) -> View:
        made = out(k, DType.INT32, 9, 21)
        inputs = [x, y] if zeros == "none" else [x, y, zx, zy]
        k.call(Kernel.MATMUL, inputs, [made], first_leaf=len(inputs), zero_a=-1 if zeros == "none" else 2, zero_b=-1 if zeros == "none" else 3)
        return made
    agree(player, rule, a, b, zero_a, zero_b)


def test_narrow_floats_multiply_in_f32(variant: Any) -> None:
    a, b = f(20, 30).astype(np.float16), f(30, 40).astype(np.float16)
    agree(variant, lambda k, x, y: k.matmul(x, y, DType.FLOAT16, (20, 40)), a, b, rtol=2e-3, atol=2e-3)
    agree(variant, lambda k, x: k.matmul(x, k.constant(b), DType.FLOAT16, (20, 40)), a, rtol=2e-3, atol=2e-3)


def test_an_epilogue_of_many_operands_is_cut(variant: Any) -> None:
    leaves = [f(6, 8) for _ in range(8)]

    def rule(k: Lowering, a: View, b: View, *more: View) -> View:
        def body(total: E, *rest: E) -> E:
            for x in rest:
                total = total * 0.5 + x
            return total
        return k.matmul(a, b, DType.FLOAT, (6, 8), body, more)
    agree(variant, rule, f(6, 5), f(5, 8), *leaves, rtol=1e-4, atol=1e-5)


CONVS = [
    # x, w, group, strides, dilations, pads, transposed
    ((1, 3, 8, 8), (4, 3, 3, 3), 1, (1, 1), (1, 1), (1, 1), 0), ((2, 4, 9, 7), (6, 4, 3, 2), 1, (2, 1), (1, 2), (1, 0), 0), ((2, 4, 6, 6), (8, 2, 3, 3), 2, (1, 1), (1, 1), (0, 0), 0),
    ((2, 8, 10, 10), (8, 1, 3, 3), 8, (2, 2), (1, 1), (1, 1), 0), ((1, 5, 12), (7, 5, 3), 1, (2,), (1,), (1,), 0), ((1, 2, 5, 5, 5), (3, 2, 2, 2, 2), 1, (1, 1, 1), (1, 1, 1), (0, 0, 0), 0),
    ((1, 16, 20, 20), (40, 16, 1, 1), 1, (1, 1), (1, 1), (0, 0), 0), ((1, 3, 5, 5), (3, 4, 3, 3), 1, (2, 2), (1, 1), (1, 1), 1), ((2, 4, 5, 4), (4, 3, 2, 3), 2, (1, 2), (2, 1), (0, 1), 1),
    ((2, 8, 5, 4), (20, 8, 3, 2), 1, (2, 1), (1, 1), (1, 0), 0), ((1, 3, 6, 5), (18, 3, 3, 3), 1, (1, 1), (1, 2), (1, 1), 0),
]


@pytest.mark.parametrize(("x", "w", "group", "strides", "dilations", "pads", "transposed"), CONVS)
@pytest.mark.parametrize("constant", [False, True])
def test_conv(player: Any, x: Any, w: Any, group: int, strides: Any, dilations: Any, pads: Any, transposed: int, constant: bool) -> None:
    weights, n = f(*w), len(x) - 2
    kernel = w[2:]
    if transposed:
        spatial = [(x[2 + i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - 2 * pads[i] for i in range(n)]
        channels = w[1] * group
    else:
        spatial = [(x[2 + i] + 2 * pads[i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(n)]
        channels = w[0]

    def rule(k: Lowering, a: View, b: View, bias: View) -> View:
        shape = (x[0], channels, *spatial)
        made = out(k, DType.FLOAT, *shape)
        leafs = bias
        for _ in spatial:
            leafs = leafs.unsqueeze(leafs.rank)
        k.call(Kernel.CONV, [a, k.constant(weights) if constant else b, leafs.expand(shape)], [made], epilogue=[binary(Op.MAX, acc(DType.FLOAT) + leaf(0, DType.FLOAT), 0.0)], first_leaf=2,
               spatial=n, group=group, kernel=list(kernel), strides=list(strides), dilations=list(dilations), pads=list(pads), transposed=transposed, zero_x=-1, zero_w=-1)
        return k.map(lambda v: v * 2.0, made, dtype=DType.FLOAT)
    agree(player, rule, f(*x), weights, f(channels), rtol=1e-4, atol=1e-5)


def test_integer_conv(player: Any) -> None:
    x, w = RNG.integers(0, 255, (1, 3, 6, 6)).astype(np.uint8), RNG.integers(-128, 127, (5, 3, 3, 3)).astype(np.int8)

    def rule(k: Lowering, a: View, b: View, zx: View, zw: View) -> View:
        made = out(k, DType.INT32, 1, 5, 6, 6)
        k.call(Kernel.CONV, [a, b, zx, zw], [made], first_leaf=4, spatial=2, group=1, kernel=[3, 3], strides=[1, 1], dilations=[1, 1], pads=[1, 1], transposed=0, zero_x=2, zero_w=3)
        return made
    agree(player, rule, x, w, np.array(7, np.uint8), RNG.integers(-5, 5, 5).astype(np.int8))


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention(variant: Any, causal: int, mask: str) -> None:
    masks = {"bool": RNG.random((2, 1, 5, 9)) > 0.3, "float": f(5, 9), "none": f(1)}
    if mask == "bool":
        masks["bool"][0, 0, 2] = False

    def rule(k: Lowering, q: View, key: View, v: View, m: View) -> View:
        made = out(k, DType.FLOAT, 2, 4, 5, 6)
        k.call(Kernel.ATTENTION, [q, key, v, None if mask == "none" else m.expand((2, 4, 5, 9))], [made], scale=0.3, softcap=2.0 if mask == "float" else 0.0, causal=causal, offset=4)
        return made
    agree(variant, rule, f(2, 4, 5, 8), f(2, 2, 9, 8), f(2, 2, 9, 6), masks[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("queries", "keys", "width", "values"), [(37, 45, 40, 64), (16, 16, 100, 72), (1, 70, 64, 100), (2, 130, 10, 3), (5, 20, 140, 150), (3, 0, 4, 4), (0, 3, 4, 4)])
def test_attention_of_any_size(variant: Any, queries: int, keys: int, width: int, values: int) -> None:
    def rule(k: Lowering, q: View, key: View, v: View, m: View) -> View:
        made = out(k, DType.FLOAT, 1, 4, queries, values)
        k.call(Kernel.ATTENTION, [q, key, v, m], [made], scale=0.3, softcap=0.0, causal=1, offset=keys - queries)
        return made
    agree(variant, rule, f(1, 4, queries, width), f(1, 2, keys, width), f(1, 2, keys, values), f(1, 1, keys), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_attention_of_infinities(variant: Any, value: float) -> None:
    def rule(k: Lowering, q: View, key: View, v: View, m: View) -> View:
        made = out(k, DType.FLOAT, 1, 1, 3, 4)
        k.call(Kernel.ATTENTION, [q, key, v, m], [made], scale=1.0, softcap=0.0, causal=0, offset=0)
        return made
    mask = np.zeros((3, 5), np.float32)
    mask[1, 2] = value
    agree(variant, rule, f(1, 1, 3, 4), f(1, 1, 5, 4), f(1, 1, 5, 4), mask, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [False, True])
def test_attention_in_pieces(variant: Any, kept: bool) -> None:
    def rule(k: Lowering, q: View, key: View, v: View, past_key: View, past_value: View) -> list[View]:
        made = [out(k, DType.FLOAT, 2, 4, 3, 6), *([out(k, DType.FLOAT, 2, 2, 9, 8), out(k, DType.FLOAT, 2, 2, 9, 6)] if kept else [])]
        k.call(Kernel.ATTENTION, [q, key.permute((0, 2, 1, 3)), v, None, past_key, past_value], made, scale=0.3, softcap=0.0, causal=1, offset=6)
        return made
    agree(variant, rule, f(2, 4, 3, 8), f(2, 3, 2, 8), f(2, 2, 3, 6), f(2, 2, 6, 8), f(2, 2, 6, 6), rtol=1e-4, atol=1e-5)


# -- windows, indices, order ------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("op", [0, 1, 2])
@pytest.mark.parametrize(("x", "kernel", "strides", "dilations", "pads", "ends"), [
    ((2, 3, 8, 8), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)), ((1, 2, 9), (4,), (3,), (2,), (1,), (0,)), ((1, 2, 5, 6, 4), (2, 3, 2), (1, 2, 1), (1, 1, 1), (0, 1, 1), (1, 1, 0)),
])
@pytest.mark.parametrize("include", [0, 1])
def test_pool(device: Any, op: int, x: Any, kernel: Any, strides: Any, dilations: Any, pads: Any, ends: Any, include: int) -> None:
    n = len(kernel)
    spatial = [(x[2 + i] + pads[i] + ends[i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(n)]

    def rule(k: Lowering, a: View) -> list[View]:
        made = [out(k, DType.FLOAT, *x[:2], *spatial), *([out(k, DType.INT64, *x[:2], *spatial)] if op == 0 else [])]
        k.call(Kernel.POOL, [a], made, spatial=n, op=op, kernel=list(kernel), strides=list(strides), dilations=list(dilations), pads=list(pads), pads_end=list(ends), count_include_pad=include, p=3.0,
               storage_order=include if op == 0 else 0)
        return made
    given = f(*x)
    if op == 0:
        given.reshape(-1)[5] = np.nan
    agree(device, rule, given, rtol=1e-4)


def test_pool_of_bytes(device: Any) -> None:
    def rule(k: Lowering, a: View) -> View:
        made = out(k, DType.INT8, 1, 3, 3, 3)
        k.call(Kernel.POOL, [a], [made], spatial=2, op=0, kernel=[2, 2], strides=[2, 2], dilations=[1, 1], pads=[0, 0], pads_end=[0, 0], count_include_pad=0, p=2.0, storage_order=0)
        return made
    agree(device, rule, RNG.integers(-128, 127, (1, 3, 6, 6)).astype(np.int8))


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_gather(device: Any, kind: str) -> None:
    x = f(4, 5, 6)

    def call(k: Lowering, x: View, i: View, axis: int, mode: int, *shape: int) -> View:
        made = k.buffer(x.dtype, shape).whole()
        k.call(Kernel.GATHER, [x, i], [made], axis=axis, mode=mode)
        return made
    agree(device, lambda k, a, i: [call(k, a, i, 0, 0, 2, 3, 5, 6), call(k, a.slice(0, 0, 3), i.slice(0, 0, 1), 1, 0, 3, 1, 3, 6)], x, RNG.integers(-4, 4, (2, 3)).astype(kind))
    agree(device, lambda k, a, i: call(k, a, i, 1, 1, 4, 3, 6), x, RNG.integers(-5, 5, (4, 3, 6)).astype(kind))
    agree(device, lambda k, a, i: call(k, a, i, 0, 2, 7, 6), x, RNG.integers(-4, 4, (7, 2)).astype(kind))
    agree(device, lambda k, a, i: call(k, a, i, 1, 2, 4, 6), x, RNG.integers(-5, 5, (4, 1)).astype(kind))
    agree(device, lambda k, a, i: call(k, a, i, 0, 0, 0, 5, 6), x, np.zeros(0, kind))
    with pytest.raises(RuntimeException, match="gather of the node: an index is outside the tensor; the same run on CPUExecutionProvider says which"):
        both(device, lambda k, a, i: call(k, a, i, 0, 0, 2, 5, 6), x, np.array([0, 4], kind))


@pytest.mark.parametrize("reduction", range(5))
def test_scatter_walks_updates_in_order(device: Any, reduction: int) -> None:
    def call(k: Lowering, x: View, i: View, u: View, axis: int, mode: int) -> View:
        made = k.buffer(x.dtype, x.shape).whole()
        k.call(Kernel.SCATTER, [x, i, u], [made], axis=axis, mode=mode, reduction=reduction)
        return made
    agree(device, lambda k, x, i, u: call(k, x, i, u, 1, 0), f(4, 5), RNG.integers(-5, 5, (3, 9)), f(3, 9), rtol=1e-4)
    agree(device, lambda k, x, i, u: call(k, x, i, u, 0, 1), f(4, 5, 2), RNG.integers(0, 2, (11, 2)), f(11, 2), rtol=1e-4)
    with pytest.raises(RuntimeException, match="an index is outside"):
        both(device, lambda k, x, i, u: call(k, x, i, u, 0, 0), f(4), np.array([1, 9]), f(2))


@pytest.mark.parametrize("op", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_scan(device: Any, op: int, exclusive: int, reverse: int) -> None:
    def rule(k: Lowering, x: View) -> View:
        made = k.buffer(x.dtype, x.shape).whole()
        k.call(Kernel.SCAN, [x], [made], axis=1, exclusive=exclusive, reverse=reverse, op=op, scale=0.0)
        return made
    agree(device, rule, f(3, 9, 4), rtol=1e-4)
    agree(device, rule, RNG.integers(1, 4, (3, 9)).astype(np.int32))


@pytest.mark.parametrize("largest", [0, 1])
def test_sort(device: Any, largest: int) -> None:
    def rule(k: Lowering, x: View) -> list[View]:
        made = [k.buffer(x.dtype, (3, 7)).whole(), k.buffer(DType.INT64, (3, 7)).whole()]
        k.call(Kernel.SORT, [x], made, axis=1, largest=largest)
        return made
    x = RNG.integers(-4, 4, (3, 20)).astype(np.float32)
    x[1, 3] = np.nan
    agree(device, rule, x)
    agree(device, rule, x[:, :].round().astype(np.float32).astype(np.int32) if not np.isnan(x).any() else np.nan_to_num(x).astype(np.int32))


def test_cast_of_an_accumulator(device: Any) -> None:
    agree(device, lambda k, a, b: k.matmul(a, b, DType.FLOAT, (3, 4), lambda total: cast(cast(total, Compute.I32), Compute.F32)), f(3, 5) * 9, f(5, 4))


@pytest.mark.parametrize("op", [0, 1])
@pytest.mark.parametrize("shape", [(), (1,), (5, 7, 3), (1025,), (2, 0)])
def test_random_numbers_are_those_of_every_executor(device: Any, op: int, shape: tuple[int, ...]) -> None:
    def rule(k: Lowering, x: View) -> View:
        made = out(k, DType.FLOAT, *shape)
        k.call(Kernel.RANDOM, [k.constant(np.array([12345, 7], np.int64))], [made], op=op, alpha=0.25, beta=1.5)
        return made
    agree(device, rule, f(1), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("left", "right"), [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")])
@pytest.mark.parametrize("depth", [1, 4, 7, 64])
def test_products_of_bytes_with_packed_weights(player: Any, left: str, right: str, depth: int) -> None:
    a, b = RNG.integers(0, 100, (5, depth)).astype(left), RNG.integers(-100 if right == "int8" else 0, 100, (depth, 37)).astype(right)
    zero = RNG.integers(0, 9, 37).astype(right)

    def rule(k: Lowering, x: View) -> View:
        made = out(k, DType.INT32, 5, 37)
        k.call(Kernel.MATMUL, [x, k.constant(b), k.constant(np.array(3, left)), k.constant(zero)], [made], first_leaf=4, zero_a=2, zero_b=3)
        return made
    assert agree(player, rule, a)[0].tolist() == ((a.astype(np.int64) - 3) @ (b.astype(np.int64) - zero)).tolist()


@pytest.mark.parametrize("depth", [1024, 1027, 3000])
@pytest.mark.parametrize(("left", "right"), [("uint8", "int8"), ("int8", "uint8"), ("int8", "int8")])
def test_long_sums_of_extreme_bytes_are_exact(player: Any, left: str, right: str, depth: int) -> None:
    """All products -128 · -128 (bytes as kernels move them), as far as a sum of floats is exact and further; and the other extremes. The same of zero points: 255 · 255 and 255 · -255."""
    a, b = (np.full(shape, np.iinfo(t).min, t) for shape, t in (((5, depth), left), ((depth, 18), right)))
    a[1:3], b[:, 9:] = np.iinfo(left).max, np.iinfo(right).max
    a[2, ::2], b[1::2, 17] = np.iinfo(left).min, np.iinfo(right).min
    zero, far = np.arange(18).astype(right), np.full(18, np.iinfo(right).max, right)

    def rule(k: Lowering, x: View, z: View, low: View) -> list[View]:
        made = [out(k, DType.INT32, 5, 18) for _ in range(4)]
        k.call(Kernel.MATMUL, [x, k.constant(b)], [made[0]], first_leaf=2, zero_a=-1, zero_b=-1)
        k.call(Kernel.MATMUL, [x, k.constant(b), z, k.constant(zero)], [made[1]], first_leaf=4, zero_a=2, zero_b=3)
        k.call(Kernel.MATMUL, [x, k.constant(b), low, k.constant(far)], [made[2]], first_leaf=4, zero_a=2, zero_b=3)
        k.call(Kernel.MATMUL, [x, k.constant(b), low], [made[3]], first_leaf=3, zero_a=2, zero_b=-1)
        return made
    low = np.array(np.iinfo(left).min, left)
    got, x, y = agree(player, rule, a, np.array(7, left), low), a.astype(np.int64), b.astype(np.int64)
    assert [g.tolist() for g in got] == [w.tolist() for w in (x @ y, (x - 7) @ (y - zero), (x - low) @ (y - far), (x - low) @ y)]


@pytest.mark.parametrize(("left", "right", "dot4"), [("uint8", "int8", False), ("int8", "uint8", True), pytest.param("uint8", "int8", True, marks=pytest.mark.slow),
                                                     pytest.param("int8", "uint8", False, marks=pytest.mark.slow)])
def test_products_of_bytes_with_and_without_the_language_feature(player: Any, monkeypatch: pytest.MonkeyPatch, left: str, right: str, dot4: bool) -> None:
    """Whole words and tails, zero points known, unknown and one a line, extremes of both types."""
    if dot4 and not player.dot4:
        pytest.skip(f"{player.adapter.name} has no packed_4x8_integer_dot_product")
    monkeypatch.setattr(player, "dot4", dot4)
    monkeypatch.setattr(player, "_pipelines", {})
    a, b = (RNG.integers(np.iinfo(t).min, np.iinfo(t).max + 1, (6, n)).astype(t) for t, n in ((left, 12), (right, 7)))
    b = np.resize(b, (12, 19))
    a[0], b[:, 0] = np.iinfo(left).max, np.iinfo(right).min
    lines, one = RNG.integers(0, 100, 6).astype(left), np.array(128 if left == "uint8" else 0, left)

    def product(k: Lowering, x: View, y: View, *zeros: View | None) -> View:
        made = out(k, DType.INT32, 6, 19)
        there = [z for z in zeros if z is not None]
        places = iter(range(2, 4))
        at = [-1 if z is None else next(places) for z in zeros]
        k.call(Kernel.MATMUL, [x, y, *there], [made], first_leaf=2 + len(there), zero_a=at[0], zero_b=at[1])
        return made

    def rule(k: Lowering, x: View, y: View, za: View) -> list[View]:
        packed, tail = k.constant(b), k.constant(np.ascontiguousarray(b[:11]))
        zb = k.constant(RNG.integers(0, 100, 19).astype(right))
        return [product(k, x, packed, None, None), product(k, x, packed, k.constant(one), None), product(k, x, packed, za, zb), product(k, x.slice(1, 0, 11), tail, za, zb), product(k, x, y, za, zb)]
    got = agree(player, rule, a, b, lines)
    assert got[0].tolist() == (a.astype(np.int64) @ b).tolist()


@pytest.mark.parametrize("left", ["uint8", "int8"])
def test_convolution_of_words_of_bytes(player: Any, left: str) -> None:
    """Channels that are whole words, in both layouts, with padding (which stands for the zero point)."""
    x, w = RNG.integers(0, 128, (2, 8, 5, 4)).astype(left), RNG.integers(-128, 128, (18, 4, 3, 2)).astype(np.int8)

    def rule(k: Lowering, view: View, z: View) -> View:
        made = out(k, DType.INT32, 2, 18, 3, 4)
        k.call(Kernel.CONV, [view, k.constant(w), z], [made], first_leaf=3, spatial=2, group=2, kernel=[3, 2], strides=[2, 1], dilations=[1, 1], pads=[1, 0], transposed=0, zero_x=2, zero_w=-1)
        return made
    agree(player, rule, x, np.array(9, left))
    agree(player, lambda k, a, z: rule(k, a.permute((0, 3, 1, 2)), z), np.ascontiguousarray(x.transpose(0, 2, 3, 1)), np.array(9, left))


def bytes_between(k: Lowering, x: View, b: np.ndarray, c: np.ndarray) -> list[View]:
    """Products, Maps and moves with bytes between them."""
    m, n = x.shape[0], b.shape[1]
    small = k.matmul(x, k.constant(b), DType.INT8, (m, n), lambda total: binary(Op.SHR, total, 6))
    doubled = k.map(lambda v: v * 3 + 1, small, dtype=DType.UINT8)
    made = k.move(doubled.permute((1, 0)), out(k, DType.UINT8, n, m))
    return [*(k.matmul(v, k.constant(c), DType.INT32, (m, 4)) for v in (small, doubled)), k.map(lambda v: v + 1, made, dtype=DType.INT32), k.map(lambda v: v - 1, doubled, dtype=DType.INT32)]


@pytest.mark.parametrize("n", [8, 20, 7])
@pytest.mark.parametrize("m", [1, 9])
def test_intermediates_of_bytes(player: Any, m: int, n: int) -> None:
    """Whole words are written where rows are such, words an element where they are not (n = 7)."""
    a, b, c = RNG.integers(0, 255, (m, 12)).astype(np.uint8), RNG.integers(-128, 127, (12, n)).astype(np.int8), RNG.integers(-128, 127, (n, 4)).astype(np.int8)
    agree(player, lambda k, x: bytes_between(k, x, b, c), a)


@pytest.mark.parametrize("m", [1, 3, 20])
@pytest.mark.parametrize(("bits", "depth", "zeros"), [(4, 64, ""), (4, 61, "uint8"), (8, 64, "float32"), (8, 61, "")])
def test_packed_weights_in_blocks(variant: Any, m: int, bits: int, depth: int, zeros: str) -> None:
    """Words of weights, the last of which may hold more than the sum takes: what is there must not matter, nor may what lies behind a row."""
    n, block = 37, 16
    blocks = -(-depth // block)
    b, scales = RNG.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8), f(n, blocks)
    points = f(n, blocks) if zeros == "float32" else RNG.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    x = f(m, depth)
    if m > 2:
        x[1, 0], x[2, depth - 1] = np.inf, np.nan

    def rule(k: Lowering, a: View) -> View:
        operands = [a, k.constant(b), k.constant(scales), *([k.constant(points)] if zeros else [])]
        made = out(k, DType.FLOAT, m, n)
        k.call(Kernel.MATMUL, operands, [made], first_leaf=len(operands), zero_a=-1, zero_b=-1, bits=bits, block=block, block_scales=2, block_zeros=3 if zeros else 0, level=0)
        return made
    agree(variant, rule, x, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("channels", [8, 6])
@pytest.mark.parametrize(("left", "right"), [("uint8", "int8"), ("int8", "uint8")])
def test_depthwise_convolution_of_bytes(variant: Any, channels: int, left: str, right: str) -> None:
    """Channels last and whole words (8), or not (6), with padding; the second reads the first one's intermediate of bytes."""
    (x, w, v), zero = ((RNG.integers(np.iinfo(t).min, np.iinfo(t).max + 1, shape).astype(t) for t, shape in
                        ((left, (2, 5, 6, channels)), (right, (channels, 1, 3, 2)), (right, (channels, 1, 2, 2))))), np.array(11, left)

    def conv(k: Lowering, a: View, weights: np.ndarray, made: View, zero: View, low: View, epilogue: Any) -> View:
        n = weights.shape[2:]
        k.call(Kernel.CONV, [a, k.constant(weights), zero, low], [made], epilogue=[epilogue], first_leaf=4, spatial=2, group=channels, kernel=list(n), strides=[1, 1], dilations=[1, 1], pads=[1, 0],
               transposed=0, zero_x=2, zero_w=3)
        return made

    def rule(k: Lowering, a: View, z: View) -> View:
        low, total = k.constant(np.array(3, right)), acc(DType.INT32)
        first = conv(k, a.permute((0, 3, 1, 2)), w, out(k, DType.of(x), 2, 5, 5, channels).permute((0, 3, 1, 2)), z, low, binary(Op.SHR, total, 9))
        return conv(k, first, v, out(k, DType.INT32, 2, 6, 4, channels).permute((0, 3, 1, 2)), z, low, total * 3)
    agree(variant, rule, x, zero)


@pytest.mark.parametrize("group", [1, 2])
def test_convolution_of_bytes_with_packed_weights(player: Any, group: int) -> None:
    """Taps that are no whole words, with and without a zero point, with the largest sums."""
    x, w = RNG.integers(0, 256, (1, 6, 5, 5)).astype(np.uint8), RNG.integers(-128, 128, (20, 6 // group, 3, 3)).astype(np.int8)
    x[:, :, :3], w[:3] = 255, -128

    def rule(k: Lowering, x: View, z: View) -> list[View]:
        made = [out(k, DType.INT32, 1, 20, 5, 5) for _ in range(2)]
        for y, zero in zip(made, ([], [z]), strict=True):
            k.call(Kernel.CONV, [x, k.constant(w), *zero], [y], first_leaf=2 + len(zero), spatial=2, group=group, kernel=[3, 3], strides=[1, 1], dilations=[1, 1], pads=[1, 1], transposed=0,
                   zero_x=2 if zero else -1, zero_w=-1)
        return made
    agree(player, rule, x, np.array(200, np.uint8))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_pointwise_convolution(player: Any, group: int, dtype: Any) -> None:
    """Kernels of one position: a product of matrices where positions lie evenly; not of images by channels, or of a part of each row."""
    x, w = RNG.integers(0, 200, (2, 6, 7, 8)).astype(dtype), RNG.integers(-99, 99, (18, 8 // group, 1, 1)).astype(np.float32 if dtype is np.float32 else np.int8)
    to = DType.FLOAT if dtype is np.float32 else DType.INT32

    def convolved(k: Lowering, view: View, z: View) -> View:
        made = out(k, to, 2, 18, *view.shape[2:])
        zero = [] if to is DType.FLOAT else [z]
        k.call(Kernel.CONV, [view, k.constant(w), *zero], [made], epilogue=[acc(to) + 1], first_leaf=2 + len(zero), spatial=2, group=group, kernel=[1, 1], strides=[1, 1], dilations=[1, 1],
               pads=[0, 0], transposed=0, zero_x=2 if zero else -1, zero_w=-1)
        return made

    def rule(k: Lowering, a: View, z: View) -> list[View]:
        last = a.permute((0, 3, 1, 2))
        return [convolved(k, last, z), convolved(k, last.slice(3, 1, 5), z), convolved(k, k.reshape(a, (2, 8, 6, 7)), z)]
    agree(player, rule, x, np.array(7, dtype), rtol=1e-5, atol=1e-3)


def test_constants_larger_than_a_binding(variant: Any) -> None:
    """Matrices and tables in parts: the limit is lowered instead of the constants made large."""
    before = variant.limits
    variant.limits = dataclasses.replace(before, binding_bytes=1 << 16)
    w, table, bias = f(70, 600), f(700, 64), f(600)
    try:
        def rule(k: Lowering, x: View, i: View) -> list[View]:
            made = k.buffer(DType.FLOAT, (9, 64)).whole()
            k.call(Kernel.GATHER, [k.constant(table), i], [made], axis=0, mode=0)
            y = k.matmul(x, k.constant(w), DType.FLOAT, (3, 600))
            return [k.map(lambda a, b: a + b, y, k.constant(bias), dtype=DType.FLOAT), made]
        agree(variant, rule, f(3, 70), RNG.integers(-700, 700, 9), rtol=1e-4, atol=1e-5)
        with pytest.raises(CannotLower, match="one binding takes 65,536"):
            agree(variant, lambda k, x: k.matmul(x, k.constant(f(2000, 20)), DType.FLOAT, (3, 20)), f(3, 2000))
    finally:
        variant.limits = before
