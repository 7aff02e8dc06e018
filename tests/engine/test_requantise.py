"""Epilogues of integer products in all their forms (requant.c), and Maps of bytes (map_bytes.c): bit for bit the interpreter's results, on every instruction set, ragged, strided, with one and two
threads."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.expr import Compute, E, Op, acc, binary, cast, leaf, saturate, select, unary
from sardonyx.kernels import Kernel
from sardonyx.model.packing import Packing
from sardonyx.types import DType

from .test_integer import Step, channels_last, last_view, some, spread, three

F32, FLOAT = Compute.F32, DType.FLOAT
FORMS = ("bytes", "residual", "dequantised", "floats", "rest", "rest to bytes")


class Leaves:
    """Operands behind the kernel's own, as they are asked for."""

    def __init__(self, s: Step, rng: np.random.Generator, operands: list[int], shape: tuple[int, ...], axis: int, last: bool) -> None:
        self.s, self.rng, self.operands, self.shape, self.axis, self.last, self.first = s, rng, operands, shape, axis, last, len(operands)

    def number(self, values: np.ndarray | float, dtype: DType = FLOAT) -> E:
        """One for all, or one a column."""
        array = np.asarray(values, dtype.numpy).reshape(-1)
        self.operands.append(spread(self.s, array, self.shape, self.axis))
        return leaf(len(self.operands) - 1 - self.first, dtype)

    def column(self, low: float, high: float, dtype: DType = FLOAT) -> E:
        per = self.shape[self.axis] if self.rng.random() < 0.7 else 1
        return self.number(self.rng.uniform(low, high, per) if dtype is FLOAT else self.rng.integers(int(low), int(high), per), dtype)

    def matrix(self, values: np.ndarray) -> E:
        """One at each position, lying as the output does or in some other way."""
        if self.last and self.rng.random() < 0.7:
            self.operands.append(last_view(self.s, self.shape, DType.of(values), values))
        else:
            self.operands.append(self.s.operand(values, broadcast=False, dense=self.rng.random() < 0.6))
        return leaf(len(self.operands) - 1 - self.first, DType.of(values))


def bounded(rng: np.random.Generator, value: E, k: Leaves, low: float, high: float) -> E:
    if rng.random() < 0.4:
        value = binary(Op.MAX, value, k.number(low) if rng.random() < 0.5 else low)
    if rng.random() < 0.4:
        value = binary(Op.MIN, value, k.number(high) if rng.random() < 0.5 else high)
    return value


def to_bytes(rng: np.random.Generator, k: Leaves, value: E, dtype: DType) -> E:
    info = np.iinfo(dtype.numpy)
    zero = float(rng.integers(info.min, info.max + 1))
    made = unary(Op.ROUND, value) + (k.number(zero) if rng.random() < 0.6 else cast(k.number(zero, dtype), F32))
    low, high = sorted(float(x) for x in rng.integers(info.min - 20, info.max + 20, 2))
    return saturate(bounded(rng, made, k, low, high), dtype)


def summed(rng: np.random.Generator, k: Leaves, offset: bool = True) -> E:
    """(acc + bias) · factor + offset."""
    total = acc(DType.INT32)
    if rng.random() < 0.7:
        total = total + k.column(-4000, 4000, DType.INT32)
    made = cast(total, F32) * k.column(1e-4, 2e-2)
    return made + k.column(-30, 30) if offset and rng.random() < 0.3 else made


def epilogue(form: str, rng: np.random.Generator, k: Leaves) -> tuple[E, DType]:
    """An expression of this form, and the type it makes."""
    own = (DType.UINT8, DType.INT8)[int(rng.integers(2))]
    if form == "bytes":
        return to_bytes(rng, k, summed(rng, k), own), own
    if form == "floats":
        value = summed(rng, k, offset=False)
    else:
        first = to_bytes(rng, k, summed(rng, k), own)
        if form == "residual":
            other = k.matrix(some(rng, k.shape, (np.uint8, np.int8)[int(rng.integers(2))]))
            value = cast(first, F32) * k.number(rng.uniform(0.2, 1.5)) + cast(other, F32) * k.number(rng.uniform(0.2, 1.5))
            value = value + k.number(rng.uniform(-90, 90)) if rng.random() < 0.8 else value
            return to_bytes(rng, k, value, own), own
        zero = k.number(float(rng.integers(0, 100)), DType.INT32)
        value = cast(first - zero if rng.random() < 0.7 else first, F32) * k.number(rng.uniform(0.01, 0.1))
    for what in rng.permutation(["shared", "matrix"])[:int(rng.integers(3))]:
        value = value + (k.column(-3, 3) if what == "shared" else k.matrix(rng.standard_normal(k.shape).astype(np.float32)))
    if form in ("dequantised", "floats"):
        return bounded(rng, value, k, -1.0, 2.0), FLOAT
    value = value * select(binary(Op.LT, value, 0), k.number(0.25), unary(Op.SQRT, unary(Op.ABS, value)))
    return (value, FLOAT) if form == "rest" else (to_bytes(rng, k, value / k.number(0.03), own), own)


def product(form: str, rng: np.random.Generator) -> Step:
    m, n, k = (int(rng.choice([1, 3, 8, 15, 16, 17, 40, 64, 65, 97, 130])) for _ in range(3))
    s = Step(rng)
    operands = [s.operand(some(rng, (m, k), np.uint8), broadcast=False, dense=True), s.constant(some(rng, (k, n), np.int8), Packing.MATRIX), s.operand(some(rng, (), np.uint8), broadcast=False)]
    leaves = Leaves(s, rng, operands, (m, n), 1, False)
    made, dtype = epilogue(form, rng, leaves)
    out = s.result((m, n), dtype, dense=rng.random() < 0.7)
    return s.step(Kernel.MATMUL, operands, [out], {"zero_a": 2, "zero_b": -1}, [made], None, leaves.first)  # type: ignore[return-value]


def convolution(form: str, rng: np.random.Generator) -> Step:
    depthwise, n = rng.random() < 0.3, int(rng.choice([1, 2]))
    c = int(rng.choice([3, 16, 70]))
    m, h, w, kernel = c if depthwise else int(rng.choice([5, 16, 33, 70])), *map(int, rng.integers(3, 9, 2)), int(rng.choice([1, 3]))
    s, x = Step(rng), (np.uint8, np.int8)[int(rng.integers(2))]
    weights = some(rng, (m, 1 if depthwise else c, kernel, kernel), np.int8)
    operands = [last_view(s, (n, c, h, w), DType.of(np.zeros(0, x)), some(rng, (n, c, h, w), x)), s.constant(weights, Packing.DEPTHWISE if depthwise else Packing.CONV),
                s.operand(some(rng, (), x), broadcast=False)]
    shape, last = (n, m, h, w), rng.random() < 0.7
    leaves = Leaves(s, rng, operands, shape, 1, last)
    made, dtype = epilogue(form, rng, leaves)
    params = {"spatial": 2, "group": c if depthwise else 1, "kernel": three([kernel] * 2, 1), "strides": three([1, 1], 1), "dilations": three([1, 1], 1), "pads": three([kernel // 2] * 2, 0),
              "transposed": 0, "zero_x": 2, "zero_w": -1}
    out = channels_last(s, shape, dtype) if last else s.result(shape, dtype)
    return s.step(Kernel.CONV, operands, [out], params, [made], None, leaves.first)  # type: ignore[return-value]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("build", [product, convolution], ids=lambda f: f.__name__)
def test_epilogues(build: Any, form: str) -> None:
    for seed in range(25):
        build(form, np.random.default_rng(seed)).check()


# -- Maps ----------------------------------------------------------------------------------------------------------------------------------------


def a_map(kind: str, rng: np.random.Generator) -> Step:
    shape = ((3, 7, 65), (40, 33), (2, 3, 5, 64), (1, 2000), (5, 300))[int(rng.integers(5))]
    s, dense = Step(rng), rng.random() < 0.6
    k = Leaves(s, rng, [], shape, len(shape) - 1, False)
    out = (DType.UINT8, DType.INT8)[int(rng.integers(2))]
    byte = [(np.uint8, np.int8)[int(rng.integers(2))] for _ in range(2)]
    one = np.zeros(1)

    def number(low: float, high: float) -> E:
        return k.number(one + rng.uniform(low, high))
    if kind == "quantise":
        x = (rng.standard_normal(shape) * 40).astype(np.float32)
        x.reshape(-1)[rng.integers(0, x.size, 5)] = [np.nan, np.inf, -np.inf, 1e30, -0.0]
        value = k.matrix(x)
        for _ in range(int(rng.integers(1, 4))):
            value = value / number(0.3, 2) if rng.random() < 0.6 else value * number(0.3, 2)
        made = to_bytes(rng, k, value, out)
    elif kind == "sum":
        value = cast(k.matrix(some(rng, shape, byte[0])), F32) * number(0.1, 1.2) + cast(k.matrix(some(rng, shape, byte[1])), F32) * number(0.1, 1.2)
        made = to_bytes(rng, k, value + number(-50, 50) if rng.random() < 0.7 else value, out)
    else:
        x = k.matrix(some(rng, shape, byte[0]))
        value = cast(x - k.number(7.0, DType.INT32), F32) * number(0.01, 0.2)
        made = unary(Op.SQRT, unary(Op.ABS, value)) + value
        made = to_bytes(rng, k, made / number(0.01, 0.1), out) if kind == "table" else made
    dtype = FLOAT if kind == "dequantise" else out
    return s.step(Kernel.MAP, k.operands, [s.result(shape, dtype, dense=dense)], None, [made])  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["quantise", "sum", "table", "dequantise"])
def test_maps(kind: str) -> None:
    for seed in range(40):
        a_map(kind, np.random.default_rng(seed)).check()


def test_table_does_not_divide_by_what_is_not_there() -> None:
    """A function of a byte that fails for a byte no element has."""
    rng = np.random.default_rng(0)
    s = Step(rng)
    x = s.operand(rng.integers(1, 256, (3, 700)).astype(np.uint8), broadcast=False, dense=True)
    seven = E(Op.CONST, Compute.I32, data=1000)
    s.step(Kernel.MAP, [x], [s.result((3, 700), DType.UINT8, dense=True)], None, [saturate(binary(Op.DIV, seven, leaf(0, DType.UINT8)) + leaf(0, DType.UINT8), DType.UINT8)])
    s.check()
