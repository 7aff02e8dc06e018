"""Models in QuantizeLinear-DequantizeLinear form: the patterns that exporters write become kernels on bytes, bit for bit what the interpreter computes on every instruction set and number of
threads, and within one step of the operators' NumPy bodies in floats."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sardonyx.converter.options import ConvertOptions
from sardonyx.converter.pipeline import prepare
from sardonyx.engine.binding import EngineProgram, isas
from sardonyx.graph import Model, Value
from sardonyx.kernels import Kernel
from sardonyx.ops import lookup
from sardonyx.plan.planner import Plan, plan
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType

from .models import Build

Array = np.ndarray


class Quantised:
    """A graph in the making on quantised values. `q`: the type of activations."""

    def __init__(self, rng: np.random.Generator, q: Any = np.uint8, symmetric: bool = False) -> None:
        self.rng, self.b, self.q, self.symmetric = rng, Build(), q, symmetric

    def zero(self) -> Array:
        info = np.iinfo(self.q)
        return np.array(0 if self.symmetric and self.q is np.int8 else self.rng.integers(info.min, info.max + 1), self.q)

    def pair(self, x: Value, scale: float, zero: Array | None = None) -> Value:
        """DQ(Q(x))."""
        s, z = np.float32(scale * self.rng.uniform(0.7, 1.3)), self.zero() if zero is None else zero
        return self.b.DequantizeLinear(self.b.QuantizeLinear(x, s, z), s, z)

    def weight(self, shape: tuple[int, ...], axis: int | None, scale: float = 0.01) -> tuple[Value, Array]:
        """DQ of constant int8 weights, and their scale."""
        s = (scale * self.rng.uniform(0.5, 1.5, shape[axis] if axis is not None else ())).astype(np.float32)
        values = self.rng.integers(-127, 128, shape).astype(np.int8)
        return self.b.DequantizeLinear(values, s, np.zeros(s.shape, np.int8), axis=axis or 0), s

    def bias(self, n: int, scale: Array) -> Value:
        """DQ of an int32 bias."""
        s = np.broadcast_to(scale, (n,)).astype(np.float32) if scale.ndim else scale
        return self.b.DequantizeLinear(self.rng.integers(-3000, 3000, n).astype(np.int32), s, np.zeros(s.shape, np.int32), axis=0)


def scale_of(x: Value) -> Array:
    """The scale of a DQ's result."""
    assert x.producer is not None and x.producer.inputs[1] is not None and x.producer.inputs[1].const is not None
    return x.producer.inputs[1].const.numpy()


def conv(g: Quantised, x: Value, m: int, kernel: int, cg: int, per_channel: bool = True, bias: bool = True, **attributes: Any) -> Value:
    """Conv of a DQ, not yet quantised."""
    w, s = g.weight((m, cg, kernel, kernel), 0 if per_channel else None)
    inputs = [x, w] + ([g.bias(m, scale_of(x) * s)] if bias else [])
    return g.b.Conv(*inputs, **attributes)


def convolutions(g: Quantised) -> list[Value]:
    """Stem, residual block with a depthwise convolution, an activation of each sort, a strided one, a head of floats."""
    x = g.pair(g.b.input("x", (2, 3, 11, 10)), 0.03)
    y = g.pair(g.b.Relu(conv(g, x, 24, 3, 3, pads=[1, 1, 1, 1], strides=[2, 2])), 0.1)
    z = g.pair(g.b.Clip(conv(g, y, 40, 1, 24, per_channel=False), np.float32(0), np.float32(6)), 0.1)
    z = g.pair(g.b.Clip(conv(g, z, 40, 3, 1, group=40, pads=[1, 1, 1, 1]), np.float32(-1), np.float32(1.5)), 0.02)
    z = g.pair(conv(g, z, 24, 1, 40, bias=False), 0.1)
    y = g.pair(g.b.Add(z, y), 0.15)
    z = g.pair(g.b.LeakyRelu(conv(g, y, 32, 3, 12, group=2, pads=[0, 1, 1, 0]), alpha=0.1), 0.2)
    return [g.b.Sigmoid(conv(g, z, 7, 1, 32))]


def products(g: Quantised) -> list[Value]:
    """Gemm, MatMul with constants and of activations, Add of a bias, Softmax between."""
    b = g.b
    x = g.pair(b.input("x", (3, 5, 20)), 0.02)
    heads = []
    for _ in range(2):
        w, s = g.weight((20, 16), 1)
        y = b.Add(b.MatMul(x, w), g.bias(16, scale_of(x) * s))
        heads.append(g.pair(y, 0.1))
    scores = g.pair(b.MatMul(heads[0], b.Transpose(heads[1], perm=[0, 2, 1])), 0.5)
    weights = g.pair(b.Softmax(b.Mul(scores, np.float32(0.25)), axis=-1), 1 / 256)
    y = g.pair(b.MatMul(weights, heads[0]), 0.1)
    w, s = g.weight((9, 80), 0)
    flat = b.Reshape(y, np.array([3, 80]))
    return [g.pair(b.Gemm(flat, w, g.bias(9, np.asarray(scale_of(y) * s)), transB=1), 0.3), b.Gemm(flat, g.weight((80, 4), None)[0])]


def elementwise(g: Quantised) -> list[Value]:
    """Values read several times, sums and products of bytes, functions of one byte, pools, a mean, a Concat, a Resize."""
    b = g.b
    x = g.pair(b.input("x", (1, 6, 8, 8)), 0.03)
    y = g.pair(b.input("y", (1, 6, 8, 8)), 0.05)
    a = g.pair(b.Add(x, y), 0.06)
    m = g.pair(b.Mul(a, x), 0.05)
    s = g.pair(b.Mul(m, g.pair(b.Sigmoid(m), 1 / 256)), 0.03)
    p = g.pair(b.AveragePool(s, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]), 0.03)
    q = g.pair(b.MaxPool(a, kernel_shape=[2, 2], strides=[2, 2]), 0.06)
    c = g.pair(b.Concat(p, q, axis=1), 0.06)
    r = g.pair(b.Resize(c, None, np.array([1, 1, 2, 2], np.float32), mode="nearest"), 0.06)
    mean = g.pair(b.GlobalAveragePool(r), 0.05)
    channel = g.pair(b.HardSigmoid(mean), 1 / 256)
    return [g.pair(b.Mul(r, channel), 0.05), g.pair(b.Tanh(c), 1 / 128), b.Flatten(mean)]


def made(build: Callable[[Quantised], list[Value]], seed: int) -> tuple[Model, Quantised]:
    g = Quantised(np.random.default_rng(seed), (np.uint8, np.int8)[seed % 2], seed % 3 == 0)
    return g.b.model(*build(g)), g


def floats(model: Model, feed: list[Array]) -> Iterator[Array]:
    """The outputs by the operators' NumPy bodies."""
    values: dict[Value, Any] = dict(zip(model.graph.inputs, feed, strict=True))
    for node in model.graph.nodes:
        given = [None if v is None else v.const.numpy() if v.const is not None else values[v] for v in node.inputs]
        result = lookup(node.domain, node.op_type)(*given, **node.attributes)
        values.update(zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=True))  # type: ignore[arg-type]
    return (values[v] for v in model.graph.outputs)


@pytest.mark.parametrize("build", [convolutions, products, elementwise], ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(6))
def test_patterns(build: Callable[[Quantised], list[Value]], seed: int) -> None:
    model, g = made(build, seed)
    feed = [g.rng.standard_normal([int(d) for d in v.shape]).astype(np.float32) for v in model.graph.inputs]  # type: ignore[arg-type, union-attr]
    steps = [float(scale_of(v)) if v.producer is not None and v.producer.op_type == "DequantizeLinear" else 0.0 for v in model.graph.outputs]
    want = list(floats(model, feed))
    prepare(model, ConvertOptions())
    planned = plan(model)
    check_bytes(planned, build)
    exact = Interpreter(planned.program, planned.constants).run(feed)
    for found, expected, step in zip(exact, want, steps, strict=True):
        # One value rounded to the next step moves what follows it: most are equal, none is far.
        spread = float(np.abs(expected).max())
        assert np.abs(found - expected).max() <= max(3 * step, 0.05 * spread)
        assert np.abs(found - expected).mean() <= max(0.25 * step, 0.01 * spread)
    for isa in isas():
        for threads in (1, 2):
            for found, expected in zip(EngineProgram(planned.program, planned.constants, isa=isa, threads=threads).run(feed), exact, strict=True):
                if expected.dtype.kind == "f":
                    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
                else:
                    np.testing.assert_array_equal(found, expected)


def check_bytes(planned: Plan, build: Callable[[Quantised], list[Value]]) -> None:
    """No convolution or product takes floats."""
    program = planned.program
    for step in program.steps:
        if step.kind in (Kernel.CONV, Kernel.MATMUL):
            assert program.views[step.inputs[0]].dtype in (DType.INT8, DType.UINT8), program.strings[step.origin]
            assert program.views[step.inputs[1]].dtype is DType.INT8 or build is products
