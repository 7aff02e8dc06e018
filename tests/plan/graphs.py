"""Random graphs of tensor operators, and their inputs. Values are small multiples of 1/4 and stay small, so that every order of summation gives the same floats."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sardonyx.dim import symbol
from sardonyx.graph import Graph, Model, Value
from sardonyx.types import DType, TensorType

#: Sizes a symbolic graph is declared with; its inputs get these numbers.
SYMBOLS = {"n": 3, "m": 5}


class Builder:
    """A graph that grows node by node; `shapes`: the sizes each value will have."""

    def __init__(self, seed: int, symbolic: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.symbolic = symbolic
        self.graph = Graph(f"random{seed}")
        self.shapes: dict[Value, tuple[int, ...]] = {}
        self.values: list[Value] = []

    def input(self, shape: tuple[str | int, ...]) -> None:
        """A float input; strings are symbols."""
        value = Value(f"x{len(self.values)}", TensorType(DType.FLOAT, tuple(symbol(d) if isinstance(d, str) and self.symbolic else SYMBOLS.get(str(d), d) for d in shape)))
        self.graph.inputs.append(value)
        self.keep(value, tuple(SYMBOLS[d] if isinstance(d, str) else d for d in shape))

    def keep(self, value: Value, shape: tuple[int, ...]) -> None:
        self.shapes[value] = shape
        self.values.append(value)

    def pick(self, fits: Callable[[tuple[int, ...]], bool] = lambda shape: True) -> Value | None:
        """A value made before whose shape fits."""
        found = [v for v in self.values if fits(self.shapes[v])]
        return found[int(self.random.integers(len(found)))] if found else None

    def add(self, kind: str, inputs: list[Value | None], shape: tuple[int, ...], **attributes: object) -> None:
        """A node with one output."""
        self.keep(self.graph.node(kind, inputs, **attributes).outputs[0], shape)

    def ints(self, *values: int) -> Value:
        """An int64 constant."""
        return self.graph.constant(np.array(values, np.int64))


def _unary(b: Builder) -> None:
    x = b.pick()
    assert x is not None
    b.add(str(b.random.choice(["Relu", "Neg", "Abs", "Floor", "Identity"])), [x], b.shapes[x])


def _binary(b: Builder) -> None:
    x = b.pick()
    assert x is not None
    y = b.pick(lambda s: s == b.shapes[x] or s in ((), (1,)) or s == b.shapes[x][-1:])
    b.add(str(b.random.choice(["Add", "Sub", "Max", "Min"])), [x, y], np.broadcast_shapes(b.shapes[x], b.shapes[y]))


def _transpose(b: Builder) -> None:
    x = b.pick(lambda s: len(s) > 1)
    if x is not None:
        perm = [int(i) for i in b.random.permutation(len(b.shapes[x]))]
        b.add("Transpose", [x], tuple(b.shapes[x][i] for i in perm), perm=perm)


def _merge(b: Builder) -> None:
    x = b.pick(lambda s: len(s) > 2)
    if x is not None:
        s = b.shapes[x]
        b.add("Reshape", [x, b.ints(0, 0, -1)], (*s[:2], int(np.prod(s[2:]))))


def _flat(b: Builder) -> None:
    x = b.pick(lambda s: len(s) > 1)
    if x is not None:
        b.add("Reshape", [x, b.ints(-1)], (int(np.prod(b.shapes[x])),))


def _slice(b: Builder) -> None:
    x = b.pick(lambda s: len(s) > 0 and s[-1] > 2 and s[-1] not in SYMBOLS.values())
    if x is not None:
        s, back = b.shapes[x], bool(b.random.integers(2))
        size = len(range(s[-1])[::-2] if back else range(s[-1])[1:])
        b.add("Slice", [x, b.ints(-1 if back else 1), b.ints(-2**63 if back else 2**31 - 1), b.ints(-1), b.ints(-2 if back else 1)], (*s[:-1], size))


def _concat(b: Builder) -> None:
    x = b.pick(lambda s: len(s) > 0)
    if x is not None:
        y = b.pick(lambda s: s == b.shapes[x])
        s = b.shapes[x]
        b.add("Concat", [x, y], (*s[:-1], 2 * s[-1]), axis=-1)


def _reduce(b: Builder) -> None:
    x = b.pick(lambda s: len(s) > 1)
    if x is not None:
        keep = int(b.random.integers(2))
        s = b.shapes[x]
        b.add(str(b.random.choice(["ReduceMax", "ReduceMin", "ReduceSum"])), [x, b.ints(-1)], (*s[:-1], 1) if keep else s[:-1], keepdims=keep)


def _matmul(b: Builder) -> None:
    x = b.pick(lambda s: len(s) > 1)
    if x is not None:
        k, n = b.shapes[x][-1], int(b.random.integers(1, 6))
        # A signed selection of columns: products and sums stay exact.
        weights = np.zeros((k, n), np.float32)
        weights[b.random.integers(0, k, n), np.arange(n)] = b.random.choice([-1.0, 1.0], n)
        if k not in SYMBOLS.values():
            b.add("MatMul", [x, b.graph.constant(weights)], (*b.shapes[x][:-1], n))


def _unsqueeze(b: Builder) -> None:
    x = b.pick(lambda s: len(s) < 5)
    if x is not None:
        b.add("Unsqueeze", [x, b.ints(0)], (1, *b.shapes[x]))


def _pool(b: Builder) -> None:
    x = b.pick(lambda s: len(s) == 4 and min(s[2:]) > 1)
    if x is not None:
        n, c, h, w = b.shapes[x]
        b.add("MaxPool", [x], (n, c, h - 1, w - 1), kernel_shape=[2, 2])


STEPS = (_unary, _binary, _binary, _transpose, _merge, _flat, _slice, _concat, _reduce, _matmul, _unsqueeze, _pool)


def random_model(seed: int, symbolic: bool, nodes: int = 14) -> tuple[Model, list[np.ndarray]]:
    """A model and inputs for it; the same graph, sizes and numbers whether symbolic or not."""
    b = Builder(seed, symbolic)
    for shape in (("n", 4, "m"), ("n", 4, 6), ("m",), ("n", 2, 4, 6)):
        b.input(shape)
    for _ in range(nodes):
        STEPS[int(b.random.integers(len(STEPS)))](b)
    used = {v for node in b.graph.nodes for v in node.inputs}
    b.graph.outputs = [v for node in b.graph.nodes for v in node.outputs if v is not None and v not in used] or [b.graph.nodes[-1].outputs[0]]
    numbers = np.random.default_rng(seed)
    return Model(b.graph), [numbers.integers(-8, 9, b.shapes[v]).astype(np.float32) / 4 for v in b.graph.inputs]
