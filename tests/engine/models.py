"""Small graphs for engine tests, planned into programs."""
from __future__ import annotations

from typing import Any

import numpy as np
from sardonyx.dim import symbol
from sardonyx.graph import OPSETS, Graph, Model, Node, Value
from sardonyx.plan.planner import Plan, plan
from sardonyx.types import DType, TensorType


class Build:
    """A graph in the making: `b.Op(x, y, attribute=…)` adds a node and returns its value."""

    def __init__(self) -> None:
        self.graph = Graph("test")

    def input(self, name: str, shape: tuple[Any, ...], dtype: DType = DType.FLOAT) -> Value:
        value = Value(name, TensorType(dtype, shape))
        self.graph.inputs.append(value)
        return value

    def __getattr__(self, op: str) -> Any:
        def add(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            values = [v if isinstance(v, Value) or v is None else self.graph.constant(np.asarray(v)) for v in inputs]
            made = [Value(f"{op.lower()}{len(self.graph.nodes)}_{i}") for i in range(outputs)]
            self.graph.nodes.append(Node(op, values, made, attributes, name=f"{op.lower()}{len(self.graph.nodes)}"))
            return made[0] if outputs == 1 else made
        return add

    def model(self, *outputs: Value) -> Model:
        self.graph.outputs = list(outputs)
        return Model(self.graph, OPSETS)


def mlp() -> Model:
    """Two dense layers with a symbolic batch."""
    rng, b = np.random.default_rng(0), Build()
    x = b.input("x", (symbol("batch"), 12))
    h = b.Relu(b.Add(b.MatMul(x, rng.standard_normal((12, 20)).astype("f4")), rng.standard_normal(20).astype("f4")))
    return b.model(b.Softmax(b.Gemm(h, rng.standard_normal((20, 7)).astype("f4"), rng.standard_normal(7).astype("f4")), axis=-1))


def network() -> Model:
    """Convolution, pooling, a residual, a mean over space, a dense head."""
    rng, b = np.random.default_rng(1), Build()
    x = b.input("x", (symbol("n"), 3, 12, 12))
    y = b.Relu(b.Conv(x, rng.standard_normal((8, 3, 3, 3)).astype("f4"), rng.standard_normal(8).astype("f4"), pads=[1, 1, 1, 1]))
    y = b.Add(b.Conv(y, rng.standard_normal((8, 1, 3, 3)).astype("f4"), pads=[1, 1, 1, 1], group=8), y)
    y = b.Flatten(b.GlobalAveragePool(b.MaxPool(y, kernel_shape=[2, 2], strides=[2, 2])))
    return b.model(b.Gemm(y, rng.standard_normal((8, 5)).astype("f4"), rng.standard_normal(5).astype("f4")))


def encoder() -> Model:
    """A transformer layer of width 16 with two heads over a symbolic sequence, with an embedding in front."""
    rng, b = np.random.default_rng(2), Build()

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype("f4")
    ids = b.input("ids", (symbol("batch"), symbol("seq")), DType.INT64)
    mask = b.input("mask", (symbol("batch"), symbol("seq")))
    x = b.LayerNormalization(b.Gather(weight(50, 16), ids), weight(16), weight(16), axis=-1)
    keep = b.Mul(b.Sub(np.float32(1), b.Unsqueeze(mask, np.array([1, 2]))), np.float32(-10000))

    def heads(v: Value) -> Value:
        return b.Transpose(b.Reshape(v, np.array([0, 0, 2, 8])), perm=[0, 2, 1, 3])
    q, k, v = (heads(b.Add(b.MatMul(x, weight(16, 16)), weight(16))) for _ in range(3))
    scores = b.Softmax(b.Add(b.Mul(b.MatMul(q, b.Transpose(k, perm=[0, 1, 3, 2])), np.float32(0.35)), keep), axis=-1)
    joined = b.Reshape(b.Transpose(b.MatMul(scores, v), perm=[0, 2, 1, 3]), np.array([0, 0, 16]))
    x = b.LayerNormalization(b.Add(b.MatMul(joined, weight(16, 16)), x), weight(16), weight(16), axis=-1)
    h = b.MatMul(b.Gelu(b.Add(b.MatMul(x, weight(16, 32)), weight(32))), weight(32, 16))
    return b.model(b.LayerNormalization(b.Add(h, x), weight(16), weight(16), axis=-1), b.ReduceMean(x, np.array([1]), keepdims=0))


def shuffles() -> Model:
    """Data movement and integers: pad, slice, concat, transpose, cumulative comparisons, casts."""
    b = Build()
    x = b.input("x", (4, symbol("n", 1)))
    y = b.Concat(b.Transpose(x, perm=[1, 0]), b.Transpose(b.Mul(x, np.float32(2)), perm=[1, 0]), axis=1)
    y = b.Pad(y, np.array([1, 0, 2, 1]), np.float32(7))
    z = b.Cast(b.Where(b.Greater(y, np.float32(1)), y, b.Neg(y)), to=int(DType.INT32))
    return b.model(b.Add(z, z), b.ArgMax(y, axis=1), b.ReduceSum(z, np.array([0])))


MODELS = {"mlp": (mlp, {"batch": (0, 9)}), "network": (network, {"n": (1, 3)}), "encoder": (encoder, {"batch": (1, 2), "seq": (1, 9)}), "shuffles": (shuffles, {"n": (1, 30)})}


def planned(name: str) -> Plan:
    """The program of one of MODELS."""
    build, ranges = MODELS[name]
    return plan(build(), ranges)


def feeds(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Random inputs within the planned ranges."""
    build, ranges = MODELS[name]
    sizes = {k: int(rng.integers(low, high + 1)) for k, (low, high) in ranges.items()}
    made = []
    for value in build().graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in value.shape]
        made.append(rng.integers(0, 50, shape) if value.dtype is DType.INT64 else (rng.random(shape) < 0.8).astype("f4") if value.name == "mask" else rng.standard_normal(shape).astype("f4"))
    return made
