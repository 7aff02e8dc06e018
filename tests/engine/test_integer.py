"""MATMUL and CONV of integers against the interpreter, bit for bit: signs, zero points, ragged, strided, packed, batched, grouped, depthwise, dilated, transposed, empty; on every
instruction set, with one and two threads."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sardonyx.expr import Compute, E, Op, acc, cast, leaf, saturate, unary
from sardonyx.graph import Tensor
from sardonyx.kernels import Kernel
from sardonyx.model.packing import Packing
from sardonyx.program import Home, ViewRecord
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType

from .one_step import OneStep

BYTES = (np.uint8, np.int8)


class Step(OneStep):
    """A one-step program whose right-hand side may be a packed constant."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.constants: list[Tensor] = []

    def constant(self, values: np.ndarray, packing: int) -> int:
        """A view index of a constant, packed in the engine."""
        p = self.program
        p.buffers.append((int(Home.DATA), len(self.constants), p.size(values.nbytes)))
        self.constants.append(Tensor(values))
        strides = [s // values.itemsize for s in np.ascontiguousarray(values).strides]
        return p.view(ViewRecord(len(p.buffers) - 1, DType.of(values), tuple(map(p.size, values.shape)), tuple(map(p.size, strides)), p.size(0), p.size(values.size), packing))

    def expected(self) -> list[np.ndarray]:
        made = Interpreter(self.program, self.constants).run(self.arrays)
        return [r.window(y).copy() for r, y in zip(self.results, made, strict=True)]


def some(rng: np.random.Generator, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Bytes over the whole range; often only its ends, where saturating arithmetic would show."""
    info = np.iinfo(dtype)
    if rng.random() < 0.25:
        return rng.choice(np.array([info.min, info.max], dtype), tuple(shape))
    return rng.integers(info.min, info.max + 1, tuple(shape)).astype(dtype)


def requantised(dtype: DType, form: int, n: int, rng: np.random.Generator) -> tuple[list[E], list[np.ndarray]]:
    """An epilogue and its leaves' values per column: as QLinearMatMul (0), with a bias (1), dividing (2), to float (3)."""
    per = (n,) if rng.random() < 0.6 else (1,)
    scale = rng.uniform(1e-4, 2e-2, per).astype(np.float32)
    if rng.random() < 0.1 and scale.size:
        scale.reshape(-1)[0] = rng.choice([0.0, np.inf, np.nan, 1e30])
    zero = some(rng, (1,), dtype.numpy)
    bias = rng.integers(-5000, 5000, per).astype(np.int32)
    total = acc(DType.INT32)
    if form == 3:
        return [cast(total, Compute.F32) * leaf(0, DType.FLOAT)], [scale]
    if form == 1:
        total = total + leaf(2, DType.INT32)
    real = cast(total, Compute.F32)
    scaled = real / (leaf(0, DType.FLOAT) * 100.0) if form == 2 else real * (leaf(0, DType.FLOAT) * 3.0)
    return [saturate(unary(Op.ROUND, scaled) + cast(leaf(1, dtype), Compute.F32), dtype)], [scale, zero, bias][:3 if form == 1 else 2]


def matmul(rng: np.random.Generator, size: tuple[int, int, int] | None = None) -> Step:
    """A random integer product; `size`: its rows, columns and steps, if they are given."""
    m, n, k = (int(rng.choice([1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 48, 64, 65, 97, 130])) for _ in range(3))
    if rng.random() < 0.15:
        k = int(rng.choice([0, 300, 1024, 1500, 2051]))
        m, n = min(m, 40), min(n, 70)
    if rng.random() < 0.04:
        m, n = (0, n) if rng.random() < 0.5 else (m, 0)
    m, n, k = size or (m, n, k)
    batch = tuple(int(x) for x in rng.choice([1, 2, 3], int(rng.integers(0, 3)))) if m * n * k < 100000 else ()
    a, b = rng.choice(BYTES), rng.choice(BYTES)
    s = Step(rng)
    packed = rng.random() < 0.5 and n * k > 0
    operands = [s.operand(some(rng, (*batch, m, k), a), dense=rng.random() < 0.5)]
    operands.append(s.constant(some(rng, (k, n), b), Packing.MATRIX) if packed else s.operand(some(rng, (*batch, k, n) if rng.random() < 0.5 else (k, n), b), dense=rng.random() < 0.5))
    zeros = []
    for dtype, size in ((a, m), (b, n)):
        shape = ((), (1,), (size,), None)[int(rng.integers(4))]
        zeros.append(-1 if shape is None else len(operands))
        if shape is not None:
            operands.append(s.operand(some(rng, shape, dtype), broadcast=False))
    return finished(s, rng, operands, (*batch, m, n), -1, Kernel.MATMUL, {"zero_a": zeros[0], "zero_b": zeros[1]})


def finished(s: Step, rng: np.random.Generator, operands: list[int], shape: tuple[int, ...], axis: int, kind: Kernel, params: dict[str, Any], last: bool = False) -> Step:
    """Add an output (INT32, or requantised by a random epilogue) and the step. `axis`: the columns'."""
    form = int(rng.integers(-2, 4))
    if form < 0:
        out = channels_last(s, shape) if last else s.result(shape, DType.INT32, dense=rng.random() < 0.5)
        return s.step(kind, operands, [out], params)  # type: ignore[return-value]
    dtype = DType.FLOAT if form == 3 else DType(int(rng.choice([DType.UINT8, DType.INT8])))
    epilogue, leaves = requantised(dtype if form < 3 else DType.INT8, form, shape[axis], rng)
    first = len(operands)
    for values in leaves:
        at = [1] * len(shape)
        at[axis] = -1
        whole = np.broadcast_to(values.reshape(at), shape)
        operands.append(s.operand(np.ascontiguousarray(whole), broadcast=False) if rng.random() < 0.2 else spread(s, values, shape, axis))
    out = channels_last(s, shape, dtype) if last else s.result(shape, dtype, dense=rng.random() < 0.5)
    return s.step(kind, operands, [out], params, epilogue, None, first)  # type: ignore[return-value]


def spread(s: Step, values: np.ndarray, shape: tuple[int, ...], axis: int) -> int:
    """A vector repeated over all axes but one: strides of 0."""
    p, dtype = s.program, DType.of(values)
    number = len(p.inputs)
    s.operand(values, broadcast=False, dense=True)
    strides = [0] * len(shape)
    strides[axis] = 1 if values.size > 1 else 0
    assert len(p.inputs) == number + 1
    return p.view(ViewRecord(len(p.buffers) - 1, dtype, tuple(map(p.size, shape)), tuple(map(p.size, strides)), p.size(0), p.size(values.size)))


def channels_last(s: Step, shape: tuple[int, ...], dtype: DType = DType.INT32) -> int:
    """A dense output whose axis 1 is the innermost."""
    return last_view(s, shape, dtype, None)


def last_view(s: Step, shape: tuple[int, ...], dtype: DType, values: np.ndarray | None) -> int:
    """An input (with values) or output of these logical dims in memory with axis 1 last."""
    moved = (shape[0], *shape[2:], shape[1])
    if values is not None:
        s.operand(np.ascontiguousarray(np.moveaxis(values, 1, -1)), broadcast=False, dense=True)
    else:
        s.result(moved, dtype, dense=True)
    p = s.program
    strides = [int(np.prod(moved[i + 1:])) for i in range(len(moved))]
    logical = [strides[0], strides[-1], *strides[1:-1]]
    made = p.view(ViewRecord(len(p.buffers) - 1, dtype, tuple(map(p.size, shape)), tuple(map(p.size, logical)), p.size(0), p.size(int(np.prod(moved)))))
    if values is None:
        s.results[-1].dims, s.results[-1].strides = shape, tuple(logical)
    return made


def three(values: Sequence[int], fill: int) -> list[int]:
    return [*map(int, values), *[fill] * (3 - len(values))]


def conv(rng: np.random.Generator) -> Step:
    """A random integer convolution."""
    spatial = int(rng.integers(1, 4))
    depthwise, transposed = rng.random() < 0.4, rng.random() < 0.12
    group = int(rng.choice([2, 3, 16, 17, 33, 64])) if depthwise else int(rng.choice([1, 1, 1, 2, 3]))
    cg, mg = (1, int(rng.choice([1, 1, 1, 2]))) if depthwise else (int(rng.choice([1, 3, 4, 16, 20, 64])), int(rng.choice([1, 5, 16, 17, 40, 70])))
    c, m = group * cg, group * mg
    kernel = rng.integers(1, 6 if spatial < 3 else 3, spatial)
    space = rng.integers(1, 20 if spatial < 3 else 6, spatial)
    strides, dilations, pads, ends = (rng.integers(low, high, spatial) for low, high in ((1, 3), (1, 3), (0, 3), (0, 3)))
    if rng.random() < 0.5:
        dilations[:] = 1
    reach = dilations * (kernel - 1) + 1
    out = (space - 1) * strides + reach - pads - ends if transposed else (space + pads + ends - reach) // strides + 1
    out = np.maximum(out, 0)
    x, w = rng.choice(BYTES), rng.choice(BYTES)
    n = int(rng.choice([0, 1, 1, 2]))
    s = Step(rng)
    operands = [last_view(s, (n, c, *map(int, space)), DType.of(np.zeros(0, x)), some(rng, (n, c, *space), x))]
    weights = some(rng, (c, mg, *kernel) if transposed else (m, cg, *kernel), w)
    if transposed or rng.random() < 0.3:
        operands.append(s.operand(weights))
    else:
        operands.append(s.constant(weights, Packing.DEPTHWISE if cg == 1 and group > 1 else Packing.CONV))
    zeros = []
    for dtype, shape in ((x, rng.choice([0, 1, 2])), (w, rng.choice([0, 1, 2, 3]))):
        if shape == 3 and transposed:
            shape = 0
        zeros.append(-1 if shape == 2 else len(operands))
        if shape != 2:
            operands.append(s.operand(some(rng, ((), (1,), (), (m,))[shape], dtype), broadcast=False))
    params = {"spatial": spatial, "group": group, "kernel": three(kernel, 1), "strides": three(strides, 1), "dilations": three(dilations, 1), "pads": three(pads, 0), "transposed": int(transposed),
              "zero_x": zeros[0], "zero_w": zeros[1]}
    return finished(s, rng, operands, (n, m, *map(int, out)), 1, Kernel.CONV, params, rng.random() < 0.7)


def square(rng: np.random.Generator, c: int, m: int, space: tuple[int, int], pad: int, zeros: bool, most: bool, stride: int = 1) -> Step:
    """A 3×3 convolution with constant weights; those of stride 1: winograd_int.c. `zeros`: with zero points, the weights' a constant 0; `most`: the largest sums there are."""
    x, w = (np.uint8, np.int8) if most else rng.choice(BYTES, 2)
    s, (h, width) = Step(rng), space
    values = np.full((2, c, h, width), 255, x) if most else some(rng, (2, c, h, width), x)
    operands = [last_view(s, values.shape, DType.of(np.zeros(0, x)), values), s.constant(np.full((m, c, 3, 3), -128, w) if most else some(rng, (m, c, 3, 3), w), Packing.CONV)]
    if zeros:
        operands += [s.operand(some(rng, (), x), broadcast=False), s.constant(np.zeros(int(rng.integers(1, 3)) // 2 * m or 1, w), Packing.NONE)]
    params = {"spatial": 2, "group": 1, "kernel": [3, 3, 1], "strides": [stride, stride, 1], "dilations": [1, 1, 1], "pads": [pad, pad, 0], "transposed": 0}
    params |= {"zero_x": 2 if zeros else -1, "zero_w": 3 if zeros else -1}
    return finished(s, rng, operands, (2, m, (h + 2 * pad - 3) // stride + 1, (width + 2 * pad - 3) // stride + 1), 1, Kernel.CONV, params, bool(rng.random() < 0.7))


def sweep(first: int, count: int, kind: str) -> None:
    """Random cases of consecutive seeds."""
    for seed in range(first, first + count):
        (matmul if kind == "matmul" else conv)(np.random.default_rng(seed)).check(rtol=1e-6)


@pytest.mark.parametrize("part", range(4))
def test_matmul(part: int) -> None:
    sweep(1000 * part, 60, "matmul")


#: Products that Strassen's method takes in WebAssembly, all of them or not, and that are cut into rectangles everywhere.
LARGE = ((64, 256, 192), (70, 330, 768), (131, 300, 1040), (128, 770, 2048), (450, 270, 208), (128, 320, 384), (80, 100, 200))


@pytest.mark.parametrize("size", LARGE)
def test_large_products(size: tuple[int, int, int]) -> None:
    for seed in range(4):
        matmul(np.random.default_rng(seed), size).check(rtol=1e-6)


@pytest.mark.parametrize("part", range(4))
def test_conv(part: int) -> None:
    sweep(5000 + 1000 * part, 60, "conv")


def byte_depthwise(rng: np.random.Generator) -> Step:
    """A 3×3 depthwise convolution from bytes to bytes, as quantised networks have it."""
    c, stride = int(rng.choice([1, 8, 32, 63, 64, 65, 96, 144, 200])), int(rng.integers(1, 3))
    h, wide = (int(x) for x in rng.integers(1, 24, 2))
    pads, ends = rng.integers(0, 3, 2), rng.integers(0, 3, 2)
    out = [(s + p + e - 3) // stride + 1 for s, p, e in zip((h, wide), pads, ends, strict=True)]
    if min(out) < 1 or c == 1:
        return byte_depthwise(rng)
    x, w, y = (rng.choice(BYTES) for _ in range(3))
    n = int(rng.choice([1, 2]))
    s = Step(rng)
    operands = [last_view(s, (n, c, h, wide), DType.of(np.zeros(0, x)), some(rng, (n, c, h, wide), x)), s.constant(some(rng, (c, 1, 3, 3), w), Packing.DEPTHWISE)]
    zero = np.full((c,) if rng.random() < 0.5 else (), 128 if w is np.uint8 else 0, w) if rng.random() < 0.8 else some(rng, (c,), w)
    operands += [s.operand(some(rng, (), x), broadcast=False), s.operand(np.asarray(zero), broadcast=False, dense=True)]
    dtype = DType.of(np.zeros(0, y))
    epilogue, leaves = requantised(dtype, int(rng.integers(0, 3)), c, rng)
    first, shape = len(operands), (n, c, *map(int, out))
    operands += [spread(s, values, shape, 1) for values in leaves]
    params = {"spatial": 2, "group": c, "kernel": [3, 3, 1], "strides": [stride, stride, 1], "dilations": [1, 1, 1], "pads": three(pads, 0), "transposed": 0, "zero_x": 2, "zero_w": 3}
    return s.step(Kernel.CONV, operands, [last_view(s, shape, dtype, None)], params, epilogue, None, first)  # type: ignore[return-value]


@pytest.mark.parametrize("part", range(2))
def test_depthwise_bytes(part: int) -> None:
    for seed in range(60 * part, 60 * part + 60):
        byte_depthwise(np.random.default_rng(70000 + seed)).check()


def test_without_tiles() -> None:
    """The byte kernels of a machine without AMX, where this one has it."""
    code = "from tests.engine.test_integer import sweep; sweep(20000, 80, 'matmul'); sweep(30000, 80, 'conv')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "SARDONYX_AMX": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.int64, np.uint32, np.uint64])
def test_other_integers(dtype: Any) -> None:
    """Any integers multiply exactly and wrap."""
    rng = np.random.default_rng(3)
    for m, n, k in ((1, 1, 1), (9, 300, 5), (3, 7, 0), (2, 5, 17)):
        s = Step(rng)
        info = np.iinfo(dtype)
        a, b = (rng.integers(info.min, info.max, shape, dtype, endpoint=True) for shape in ((2, m, k), (2, k, n)))
        made = DType.of(a) if info.bits > 16 else DType.INT32
        s.step(Kernel.MATMUL, [s.operand(a), s.operand(b)], [s.result((2, m, n), made)], {"zero_a": -1, "zero_b": -1}).check()


def test_zero_points_of_other_types_are_refused() -> None:
    """A zero point has its operand's type and one element, or one for each row or column."""
    for zero in (np.zeros((), np.int8), np.zeros(3, np.uint8), np.zeros((1, 1), np.uint8)):
        s = Step(np.random.default_rng(0))
        operands = [s.operand(np.ones((2, 4), np.uint8)), s.operand(np.ones((4, 5), np.int8)), s.operand(zero, broadcast=False)]
        s.step(Kernel.MATMUL, operands, [s.result((2, 5), DType.INT32)], {"zero_a": 2, "zero_b": -1})
        with pytest.raises(Exception, match="parameter"):
            s.run()


@pytest.mark.parametrize("c,m,space,pad", [(32, 32, (14, 14), 1), (48, 33, (13, 9), 0), (64, 70, (5, 60), 1), (32, 200, (20, 7), 2), (112, 40, (11, 12), 1), (896, 32, (8, 9), 1)])
def test_squares(c: int, m: int, space: tuple[int, int], pad: int) -> None:
    for seed in range(4):
        square(np.random.default_rng(c + seed), c, m, space, pad, seed % 2 == 1, False).check(rtol=1e-6)
    square(np.random.default_rng(c), c, m, space, pad, False, True).check(rtol=1e-6)
