"""Map against the interpreter: every operation and type, strides, broadcasting, coordinates, indexed loads, several results, faults."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.errors import RuntimeException
from sardonyx.expr import Compute, E, Op, binary, cast, compute_type, const, coord, leaf, load, saturate, select, unary
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from tests.engine.one_step import OneStep, dims, numbers

STORAGE = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64, DType.UINT64, DType.BOOL]
NATIVE = {Compute.F32: DType.FLOAT, Compute.F64: DType.DOUBLE, Compute.I32: DType.INT32, Compute.I64: DType.INT64, Compute.U64: DType.UINT64}
UNARY = [op for op in Op if (Op.NEG <= op <= Op.LOG1P) or op in (Op.ISNAN, Op.ISINF)]
BINARY = [op for op in Op if Op.ADD <= op <= Op.POW or Op.EQ <= op <= Op.GE]
BITS = [Op.AND, Op.OR, Op.XOR, Op.SHL, Op.SHR]
#: Bounds against NumPy's float functions (which have errors of their own); test_math.py has the true ones.
LOOSE = {Compute.F32: 1e-6, Compute.F64: 4e-15}


def stored(value: E) -> DType:
    """The storage type that holds a compute type as it is."""
    return NATIVE[value.type]


def one_map(rng: np.random.Generator, values: list[np.ndarray], result: E, out: DType | None = None, broadcast: bool = True) -> OneStep:
    made = OneStep(rng)
    out = out or stored(result)
    views = [made.operand(v, broadcast=broadcast) for v in values]
    return made.step(Kernel.MAP, views, [made.result(values[0].shape, out)], epilogue=[cast(result, compute_type(out))])


@pytest.mark.parametrize("kind", list(Compute), ids=lambda k: k.name)
def test_unary_operations(kind: Compute) -> None:
    rng = np.random.default_rng(1)
    for op in UNARY:
        if not kind.is_float and (Op.FLOOR <= op <= Op.LOG1P):
            continue
        x = numbers(rng, dims(rng, 3), NATIVE[kind])
        one_map(rng, [x], unary(op, leaf(0, NATIVE[kind]))).check(*((LOOSE[kind], 1e-300) if kind.is_float else ()))


@pytest.mark.parametrize("kind", list(Compute), ids=lambda k: k.name)
def test_binary_operations(kind: Compute) -> None:
    rng = np.random.default_rng(2)
    for op in BINARY + ([] if kind.is_float else BITS):
        for swap in range(3):
            shape = dims(rng, 3)
            x, y = numbers(rng, shape, NATIVE[kind]), numbers(rng, shape, NATIVE[kind])
            if op in (Op.DIV, Op.MOD, Op.FMOD) and not kind.is_float:
                y = np.where(y == 0, 3, y).astype(y.dtype)
            if op is Op.POW and not kind.is_float:
                y = np.abs(y) % 7
            if op in (Op.SHL, Op.SHR):
                y = (np.abs(y) % 70).astype(y.dtype) if kind is not Compute.I32 else (np.abs(y) % 40).astype(y.dtype)
            a, b = leaf(0, NATIVE[kind]), leaf(1, NATIVE[kind])
            three = const(3, kind)
            result = binary(op, *((a, b), (a, three), (three, b))[swap if op not in (Op.DIV, Op.MOD, Op.FMOD) or kind.is_float else min(swap, 1)])
            one_map(rng, [x, y], result).check(*((LOOSE[kind], 1e-300) if kind.is_float else ()))


def test_storage_types_load_and_store() -> None:
    rng = np.random.default_rng(3)
    for source in STORAGE:
        for target in STORAGE:
            if compute_type(source) is compute_type(target):
                one_map(rng, [numbers(rng, dims(rng, 3), source)], leaf(0, source), target).check()


def test_casts_and_saturation() -> None:
    rng = np.random.default_rng(4)
    for source in STORAGE:
        x = numbers(rng, dims(rng, 3), source, low=-1e5, high=1e5)
        for target in Compute:
            if not (compute_type(source).is_float and target is Compute.U64):  # the interpreter leaves negative → unsigned to NumPy
                one_map(rng, [x], cast(leaf(0, source), target)).check()
        for target in (DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.BOOL):
            one_map(rng, [x], saturate(leaf(0, source), target), target).check()


def test_float_to_integer_ends() -> None:
    rng = np.random.default_rng(5)
    x = np.array([np.nan, np.inf, -np.inf, 2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 1e30, -1e30, 0.9, -0.9, 2147483520.0], np.float32)
    for source in (DType.FLOAT, DType.DOUBLE):
        for target in (Compute.I32, Compute.I64):
            one_map(rng, [x.astype(source.numpy)], cast(leaf(0, source), target)).check()


def test_select_and_fma_with_uniform_operands() -> None:
    rng = np.random.default_rng(6)
    for kind in Compute:
        dtype = NATIVE[kind]
        for case in range(6):
            shape = dims(rng, 3)
            x, y, z = (numbers(rng, shape, dtype, special=False) for _ in range(3))
            a, b, c = (leaf(i, dtype) for i in range(3))
            two = const(2, kind)
            results = [select(binary(Op.LT, a, b), a, two), select(binary(Op.LT, a, b), two, c), select(binary(Op.LT, a, b), two, const(5, kind)), E(Op.FMA, kind, (a, b, c)),
                       E(Op.FMA, kind, (a, two, c)), E(Op.FMA, kind, (two, b, const(5, kind)))]
            one_map(rng, [x, y, z], results[case]).check(1e-6 if kind.is_float else 0, 1e-5 if kind.is_float else 0)


def test_random_expressions() -> None:
    """Deep expressions over mixed types with shared parts and many registers."""
    for seed in range(40):
        rng = np.random.default_rng(100 + seed)
        shape = dims(rng, 4)
        types = [STORAGE[int(rng.integers(len(STORAGE)))] for _ in range(int(rng.integers(1, 5)))]
        pool = [leaf(i, t) for i, t in enumerate(types)] + ([coord(int(rng.integers(len(shape))))] if shape else [])
        for _ in range(int(rng.integers(1, 25))):
            a, b = (pool[int(rng.integers(len(pool)))] for _ in range(2))
            op = [Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX, Op.LT, Op.EQ][int(rng.integers(7))]
            made = binary(op, a, cast(b, a.type)) if not b.type.is_float or a.type.is_float else binary(op, cast(a, b.type), b)
            pool.append(select(binary(Op.GT, a, const(0, a.type)), made, cast(pool[int(rng.integers(len(pool)))], made.type)) if rng.random() < 0.2 and made.type.is_float else made)
        result = pool[-1]
        values = [numbers(rng, shape, t, special=False) for t in types]
        if not result.type.is_float:
            one_map(rng, values, result).check()
        else:
            one_map(rng, values, result).check(2e-5, 1e-3 * max(1.0, float(np.nanmax(np.abs(one_map(rng, values, result).expected()[0]), initial=0))))


def test_coordinates() -> None:
    for seed in range(20):
        rng = np.random.default_rng(200 + seed)
        shape = dims(rng, 4)
        if shape:
            x = numbers(rng, shape, DType.INT64)
            total = leaf(0, DType.INT64)
            for axis in range(len(shape)):
                total = total + coord(axis) * (axis * 10 + 1)
            one_map(rng, [x], total).check()


def test_indexed_load() -> None:
    for seed in range(20):
        rng = np.random.default_rng(300 + seed)
        shape, dtype = dims(rng, 3), STORAGE[seed % len(STORAGE)]
        table = numbers(rng, tuple(max(d, 1) for d in dims(rng, 3, zero=False)) or (4,), dtype)
        index = rng.integers(0, table.size, shape)
        made = OneStep(rng)
        views = [made.operand(index), made.operand(table, broadcast=False)]
        made.step(Kernel.MAP, views, [made.result(shape, dtype)], epilogue=[load(1, leaf(0, DType.INT64), dtype)]).check()


@pytest.mark.parametrize("bad", [-1, 12, 1 << 40, -(1 << 62)])
def test_indexed_load_outside(bad: int) -> None:
    rng = np.random.default_rng(7)
    made = OneStep(rng)
    index = np.array([0, 3, bad, 1])
    views = [made.operand(index, broadcast=False), made.operand(np.arange(12, dtype=np.float32), broadcast=False)]
    made.step(Kernel.MAP, views, [made.result((4,), DType.FLOAT)], epilogue=[load(1, leaf(0, DType.INT64), DType.FLOAT)])
    with pytest.raises(RuntimeException, match=f"map_under_test.*index {bad} is out of range: the size is 12"):
        made.run()


def test_integer_division_by_zero() -> None:
    rng = np.random.default_rng(8)
    for kind in (Compute.I32, Compute.I64, Compute.U64):
        for op in (Op.DIV, Op.MOD, Op.FMOD):
            x = np.ones(3000, NATIVE[kind].numpy)
            y = x.copy()
            y[2777] = 0
            with pytest.raises(RuntimeException, match="division by zero"):
                one_map(rng, [x, y], binary(op, leaf(0, NATIVE[kind]), leaf(1, NATIVE[kind])), broadcast=False).run(threads=2)


def test_several_results() -> None:
    rng = np.random.default_rng(9)
    for _ in range(10):
        shape = dims(rng, 4)
        x, y = numbers(rng, shape, DType.FLOAT, special=False), numbers(rng, shape, DType.INT32)
        made = OneStep(rng)
        views = [made.operand(x), made.operand(y)]
        a, b = leaf(0, DType.FLOAT), leaf(1, DType.INT32)
        results = [a + 1, a * cast(b, Compute.F32), binary(Op.LT, a, 0), b + b]
        outputs = [made.result(shape, t) for t in (DType.FLOAT, DType.FLOAT, DType.BOOL, DType.INT32)]
        made.step(Kernel.MAP, views, outputs, epilogue=results).check(1e-6)
