"""Expressions in WGSL against the NumPy evaluation: every operation, special values, wrapping, saturation, and the intervals of 64-bit integers."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.errors import RuntimeException
from sardonyx.expr import Compute, E, Op, binary, cast, const, coord, load, saturate, select, unary
from sardonyx.lowering import CannotLower
from sardonyx.types import DType

from .programs import agree, both

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, 0.5, -0.5, 2.5, 3.5, -2.5, 100.0, -100.0, 1e-30, 1e30, -1e30, 7.0, 0.1], np.float32)
FLOAT1 = [Op.NEG, Op.ABS, Op.SIGN, Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC, Op.SQRT, Op.RECIPROCAL, Op.EXP, Op.LOG, Op.SIN, Op.COS, Op.TAN, Op.ASIN, Op.ACOS, Op.ATAN, Op.SINH, Op.COSH, Op.TANH,
          Op.ASINH, Op.ACOSH, Op.ATANH, Op.ERF, Op.SIGMOID, Op.LOG1P]
FLOAT2 = [Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MOD, Op.FMOD, Op.MIN, Op.MAX, Op.POW, Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE]


@pytest.mark.parametrize("op", FLOAT1, ids=lambda op: op.name.lower())
def test_one_argument(device: Any, op: Op) -> None:
    x = np.concatenate([SPECIAL, np.random.default_rng(0).normal(size=500).astype(np.float32) * 3, np.linspace(-1, 1, 101, dtype=np.float32)])
    if op in (Op.SIN, Op.COS, Op.TAN):
        x = x[~(np.abs(x) > 1e4)]  # beyond, a float's neighbours are further apart than a turn
    agree(device, lambda k, v: k.map(lambda a: unary(op, a), v, dtype=DType.FLOAT), x, rtol=4e-6, atol=2e-7)


@pytest.mark.parametrize("op", FLOAT2, ids=lambda op: op.name.lower())
def test_two_arguments(device: Any, op: Op) -> None:
    a, b = (x.ravel().copy() for x in np.meshgrid(SPECIAL, SPECIAL))
    if op in (Op.MOD, Op.FMOD):
        keep = ~(np.abs(a) > 1e20) & ~(np.abs(b) < 1e-10) & np.isfinite(b)
        a, b = a[keep], b[keep]
    compares = op >= Op.EQ
    agree(device, lambda k, x, y: k.map(lambda p, q: binary(op, p, q), x, y, dtype=DType.BOOL if compares else DType.FLOAT), a, b, rtol=1e-5)


def test_nan_and_infinity_questions(device: Any) -> None:
    agree(device, lambda k, x: [k.map(lambda a, op=op: unary(op, a), x, dtype=DType.BOOL) for op in (Op.ISNAN, Op.ISINF)], SPECIAL)


def test_constants_that_wgsl_can_not_write(device: Any) -> None:
    for value in (float("inf"), float("-inf"), float("nan"), -0.0, 1e-40):
        mine, _ = both(device, lambda k, x, v=value: k.map(lambda a: select(binary(Op.GT, a, 0.0), const(v, Compute.F32), a), x, dtype=DType.FLOAT), np.array([1, -1], np.float32))
        assert np.array_equal(mine[0], np.array([value, -1], np.float32), equal_nan=True) or (abs(value) == 1e-40 and mine[0][0] in (0, np.float32(value)))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("op", [Op.ADD, Op.SUB, Op.MUL, Op.AND, Op.OR, Op.XOR, Op.MIN, Op.MAX, Op.DIV, Op.MOD, Op.FMOD, Op.SHL, Op.SHR], ids=lambda op: op.name.lower())
def test_integers_wrap_where_they_are_stored(device: Any, dtype: str, op: Op) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(1)
    a = rng.integers(info.min, info.max, 200, dtype, endpoint=True)
    b = rng.integers(0, info.bits, 200).astype(dtype) if op in (Op.SHL, Op.SHR) else rng.integers(info.min, info.max, 200, dtype, endpoint=True)
    if op in (Op.DIV, Op.MOD, Op.FMOD):
        b[b == 0] = 3
        b[(b == np.array(-1).astype(dtype)) & (a == info.min)] = 5
    agree(device, lambda k, x, y: k.map(lambda p, q: binary(op, p, q), x, y, dtype=DType.of(a)), a, b)


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32])
def test_saturation(device: Any, dtype: DType) -> None:
    x = np.concatenate([SPECIAL[~np.isnan(SPECIAL)], np.array([127.5, 128.5, -128.5, 254.5, 255.5, 3e9, -3e9, 65535.5], np.float32)])
    agree(device, lambda k, v: k.map(lambda a: saturate(a, dtype), v, dtype=dtype), x)
    agree(device, lambda k, v: k.map(lambda a: cast(a, Compute.I32), v, dtype=DType.INT32), SPECIAL)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_narrow_floats_round_to_even(device: Any, dtype: DType) -> None:
    pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(2)
    x = np.concatenate([SPECIAL, (rng.normal(size=3000) * 10.0 ** rng.integers(-9, 5, 3000)).astype(np.float32), np.array([65519, 65520, 6e-8, 2.9e-8, 2049, 2051], np.float32)])
    agree(device, lambda k, v: k.map(lambda a: a, v, dtype=dtype), x, rtol=0, atol=0)
    agree(device, lambda k, v: k.map(lambda a: a, v, dtype=DType.FLOAT), x.astype(dtype.numpy), rtol=0, atol=0)  # read packed


def test_int64_is_proved_or_refused(device: Any) -> None:
    x = np.arange(-50, 50, dtype=np.int64)
    agree(device, lambda k, v: k.map(lambda a: a * a + a, v, dtype=DType.INT64), x)
    agree(device, lambda k, v: k.map(lambda a: a * 1000003 * 1000003, v, dtype=DType.INT32), x)  # modulo 2^32 all the way
    agree(device, lambda k, v: k.map(lambda a: binary(Op.AND, a * 1000003 * 1000003, 0xFFFF), v, dtype=DType.INT64), x)
    with pytest.raises(CannotLower, match="do not fit 32 bits"):
        both(device, lambda k, v: k.map(lambda a: a * a * a, v, dtype=DType.INT64), x)
    with pytest.raises(CannotLower, match="double"):
        both(device, lambda k, v: k.map(lambda a: a + 1.0, v, dtype=DType.DOUBLE), x.astype(np.float64))
    with pytest.raises(CannotLower, match="do not fit 32 bits"):
        both(device, lambda k, v: k.map(lambda a: cast(a, Compute.I64), v, dtype=DType.INT64), x.astype(np.float32))
    agree(device, lambda k, v: k.map(lambda a: cast(binary(Op.MIN, binary(Op.MAX, a, -9.0), 9.0), Compute.I64), v, dtype=DType.INT64), x.astype(np.float32))


def test_int64_inputs_are_checked_when_uploaded(device: Any) -> None:
    def plus(k: Any, v: Any) -> Any:
        return k.map(lambda a: a + 1, v, dtype=DType.INT64)
    agree(device, plus, np.array([2**30, -2**30], np.int64))
    with pytest.raises(RuntimeException, match="input 'x0' holds 4294967296.*CPUExecutionProvider"):
        both(device, plus, np.array([1, 2**32], np.int64))


def test_uint32_is_computed_modulo_2_32(device: Any) -> None:
    x = np.array([0, 1, 2**31, 2**32 - 1, 12345], np.uint32)
    agree(device, lambda k, v: k.map(lambda a: a * a - a * 7, v, dtype=DType.UINT32), x)
    agree(device, lambda k, v: k.map(lambda a: binary(Op.GT, a, 5), v, dtype=DType.BOOL), x)
    agree(device, lambda k, v: k.map(lambda a: cast(a, Compute.F32), v, dtype=DType.FLOAT), x)


def test_coordinates_and_loads(device: Any) -> None:
    table = np.random.default_rng(3).normal(size=12).astype(np.float32)
    x = np.zeros((3, 4), np.float32)
    agree(device, lambda k, v, t: k.map(lambda a: a + load(1, coord(1) * 3 + coord(0), DType.FLOAT), v, dtype=DType.FLOAT, tables=[t]), x, table)
    with pytest.raises(RuntimeException, match="the node: an index is outside"):
        both(device, lambda k, v, t: k.map(lambda a: a + load(1, coord(1) + coord(0) * 4, DType.FLOAT), v, dtype=DType.FLOAT, tables=[t]), x, table[:5])


def test_division_by_zero_is_reported_and_forgotten(device: Any) -> None:
    from sardonyx.webgpu.executor import WebGpuProgram

    from .programs import planned
    program, constants = planned(lambda k, a, b: k.map(lambda x, y: x / y, a, b, dtype=DType.INT32), [(DType.INT32, (3,))] * 2)
    runner = WebGpuProgram(device, program, constants)
    with pytest.raises(RuntimeException, match="the node: an integer is divided by zero"):
        runner.run([np.array([1, 2, 3], np.int32), np.array([1, 0, 1], np.int32)])
    assert runner.run([np.array([7, -7, 3], np.int32), np.array([2, 2, 1], np.int32)])[0].tolist() == [3, -3, 3]


def test_a_map_of_many_operands_is_cut(device: Any) -> None:
    rng = np.random.default_rng(4)
    inputs = [rng.normal(size=(5, 6)).astype(np.float32) for _ in range(12)]

    def total(k: Any, *views: Any) -> Any:
        def body(*leaves: E) -> E:
            found = leaves[0]
            for x in leaves[1:]:
                found = found * 0.5 + x
            return found
        return k.map(body, *views, dtype=DType.FLOAT)
    agree(device, total, *inputs)
