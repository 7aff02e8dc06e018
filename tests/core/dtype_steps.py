"""One small step of every kind for an element type, to ask an executor whether it takes it."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sardonyx.expr import compute_type, leaf
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from tests.engine.one_step import OneStep

Step = Callable[[OneStep, DType], OneStep]
RNG = np.random.default_rng


def data(dtype: DType, *shape: int) -> np.ndarray:
    """Small positive numbers that every type holds."""
    x = RNG(1).integers(1, 2, shape) if dtype is DType.FLOAT8E8M0 else RNG(1).integers(0, 2, shape)
    return x.astype(np.float32).astype(dtype.numpy) if not dtype.is_complex else x.astype(dtype.numpy)


def _products(dtype: DType) -> DType:
    """What a product's sums are stored as without an epilogue."""
    return dtype if dtype.is_float else {"I32": DType.INT32, "I64": DType.INT64, "U64": DType.UINT64}.get(compute_type(dtype).name, dtype) if not dtype.is_complex else dtype


def _map(one: OneStep, t: DType) -> OneStep:
    return one.step(Kernel.MAP, [one.operand(data(t, 4))], [one.result((4,), t)], epilogue=[leaf(0, t)])


def _like(kind: Kernel, shape: tuple[int, ...], made: tuple[int, ...] | None = None, **params: object) -> Step:
    def build(one: OneStep, t: DType) -> OneStep:
        inputs = [one.operand(data(t, *shape), broadcast=False, dense=True)]
        return one.step(kind, inputs, [one.result(shape if made is None else made, t, dense=True)], dict(params))
    return build


def _matmul(one: OneStep, t: DType) -> OneStep:
    a, b = (one.operand(data(t, *s), broadcast=False) for s in ((2, 3), (3, 2)))
    return one.step(Kernel.MATMUL, [a, b], [one.result((2, 2), _products(t))], {"zero_a": -1, "zero_b": -1})


def _attention(one: OneStep, t: DType) -> OneStep:
    q, k, v = (one.operand(data(t, 1, 1, 2, 4), broadcast=False, dense=True) for _ in range(3))
    return one.step(Kernel.ATTENTION, [q, k, v, -1], [one.result((1, 1, 2, 4), t, dense=True)], {"scale": 0.5})


def _conv(one: OneStep, t: DType) -> OneStep:
    x, w = one.operand(data(t, 1, 1, 3, 3), broadcast=False, dense=True), one.operand(data(t, 1, 1, 1, 1), broadcast=False, dense=True)
    params = {"spatial": 2, "group": 1, "kernel": [1, 1, 1], "strides": [1, 1, 1], "dilations": [1, 1, 1], "zero_x": -1, "zero_w": -1}
    return one.step(Kernel.CONV, [x, w], [one.result((1, 1, 3, 3), _products(t), dense=True)], params)


def _rnn(one: OneStep, t: DType) -> OneStep:
    x, w, r = (one.operand(data(t, *s), broadcast=False, dense=True) for s in ((2, 1, 3), (1, 2, 3), (1, 2, 2)))
    return one.step(Kernel.RNN, [x, w, r], [one.result((2, 1, 1, 2), t, dense=True)], {"cell": 2, "activations": [1] * 6})


def _gather(one: OneStep, t: DType) -> OneStep:
    return one.step(Kernel.GATHER, [one.operand(data(t, 4), broadcast=False), one.operand(np.array([1, 3]), broadcast=False)], [one.result((2,), t)], {"axis": 0})


def _scatter(reduction: int) -> Step:
    def build(one: OneStep, t: DType) -> OneStep:
        inputs = [one.operand(data(t, 4), broadcast=False), one.operand(np.array([1, 3]), broadcast=False), one.operand(data(t, 2), broadcast=False)]
        return one.step(Kernel.SCATTER, inputs, [one.result((4,), t)], {"axis": 0, "reduction": reduction})
    return build


def _sample(one: OneStep, t: DType) -> OneStep:
    return one.step(Kernel.SAMPLE, [one.operand(data(t, 1, 1, 3, 3), broadcast=False), one.operand(np.zeros((1, 2, 2, 2), np.float32), broadcast=False)], [one.result((1, 1, 2, 2), t)])


def _sort(one: OneStep, t: DType) -> OneStep:
    return one.step(Kernel.SORT, [one.operand(data(t, 5), broadcast=False)], [one.result((3,), t), one.result((3,), DType.INT64)], {"axis": 0, "largest": 1})


def _compact(one: OneStep, t: DType) -> OneStep:
    return one.step(Kernel.COMPACT, [one.operand(np.ones(4).astype(np.float32).astype(t.numpy), broadcast=False)], [one.result((4, 1), DType.INT64), one.result((), DType.INT64)], {"op": 0})


def _random(one: OneStep, t: DType) -> OneStep:
    return one.step(Kernel.RANDOM, [one.operand(np.array([1, 2]), broadcast=False)], [one.result((5,), t)], {"op": 0, "beta": 1.0})


def _trees(one: OneStep, t: DType) -> OneStep:
    wide = t is DType.DOUBLE
    bits = np.array([0.5], np.float64 if wide else np.float32).view(np.int64 if wide else np.int32)[0]
    leaf_at, kind = (1 << 61 if wide else 1 << 29), np.int64 if wide else np.int32
    place = 36 if wide else 4
    nodes = np.array([[bits, 1], [leaf_at, 1 << place | 1], [leaf_at + 1, 1 << place | 2]], kind)
    tables = [nodes, np.array([[0, 1]], np.int32), np.array([0], np.int32), np.array([[1.5], [2.5]], np.float32)]
    return one.step(Kernel.TREES, [one.operand(data(t, 3, 1), broadcast=False), *map(one.constant, tables)], [one.result((3, 1), DType.FLOAT)], {"aggregate": 1, "shift": 0 if wide else place})


_POOL = {"spatial": 1, "kernel": [2, 1, 1], "strides": [1, 1, 1], "dilations": [1, 1, 1]}
#: (kind, what it does) → the step.
STEPS: dict[tuple[Kernel, str], Step] = {
    (Kernel.MAP, ""): _map, (Kernel.REDUCE, ""): _like(Kernel.REDUCE, (2, 3), (2, 1), op=3, axes=2), (Kernel.SCAN, "sums, products"): _like(Kernel.SCAN, (5,)),
    (Kernel.MATMUL, ""): _matmul, (Kernel.CONV, ""): _conv, (Kernel.POOL, "maximum"): _like(Kernel.POOL, (1, 1, 4), (1, 1, 3), **_POOL),
    (Kernel.POOL, "average"): _like(Kernel.POOL, (1, 1, 4), (1, 1, 3), **_POOL, op=1),
    (Kernel.SOFTMAX, ""): _like(Kernel.SOFTMAX, (2, 3), axis=1, scale=1.0), (Kernel.NORM, ""): _like(Kernel.NORM, (2, 3), axis=1, epsilon=0.1), (Kernel.ATTENTION, ""): _attention,
    (Kernel.RNN, ""): _rnn, (Kernel.GATHER, ""): _gather, (Kernel.SCATTER, "none"): _scatter(0), (Kernel.SCATTER, "with a reduction"): _scatter(1), (Kernel.COPY, ""): _like(Kernel.COPY, (4,)),
    (Kernel.RESIZE, "nearest"): _like(Kernel.RESIZE, (4,), (6,), mode=0), (Kernel.RESIZE, "linear, cubic"): _like(Kernel.RESIZE, (4,), (6,), mode=1), (Kernel.SAMPLE, ""): _sample,
    (Kernel.SORT, ""): _sort, (Kernel.COMPACT, ""): _compact, (Kernel.RANDOM, ""): _random, (Kernel.FFT, ""): _like(Kernel.FFT, (1, 4, 1), (1, 4, 2), axis=1, length=4),
    (Kernel.LINALG, ""): _like(Kernel.LINALG, (2, 2), (), op=0), (Kernel.TREES, ""): _trees,
}
