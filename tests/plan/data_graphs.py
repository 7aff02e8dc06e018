"""Random graphs whose sizes data decide, with control flow in them. The builder computes every value as it goes, on the reference, and drops a node the reference refuses;
so the grammar is free to propose. Floats are small multiples of 1/4: every order of summation gives the same ones."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sardonyx.dim import symbol
from sardonyx.errors import SardonyxError
from sardonyx.graph import Graph, Model, Value
from sardonyx.plan.shapes import infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.types import DType, TensorType

#: Elements a value may have.
MOST = 4000


class Builder:
    """A graph with the number of every value for one set of inputs; nested builders see the values around them."""

    def __init__(self, random: np.random.Generator, outer: Builder | None = None) -> None:
        self.random, self.outer = random, outer
        self.graph = Graph("nested" if outer else "data")
        self.known: dict[Value, np.ndarray] = {}
        self.depth = 0 if outer is None else outer.depth + 1
        self.count = outer.count if outer else [0]

    def name(self, kind: str) -> str:
        """A name no other value has."""
        self.count[0] += 1
        return f"{kind}{self.count[0]}"

    def input(self, shape: Sequence[Any], dtype: DType, value: np.ndarray) -> Value:
        """A graph input."""
        made = Value(self.name("in"), TensorType(dtype, tuple(symbol(d) if isinstance(d, str) else d for d in shape)))
        self.graph.inputs.append(made)
        self.known[made] = value
        return made

    def all(self) -> dict[Value, np.ndarray]:
        """Every value in reach."""
        return {**(self.outer.all() if self.outer else {}), **self.known}

    def pick(self, fits: Callable[[np.ndarray], bool]) -> Value | None:
        """A value in reach that fits."""
        found = [v for v, x in self.all().items() if fits(x)]
        return found[int(self.random.integers(len(found)))] if found else None

    def float(self, rank: int | None = None) -> Value | None:
        """A float value."""
        return self.pick(lambda x: x.dtype == np.float32 and (rank is None or x.ndim == rank) and 0 < x.ndim)

    def vector(self) -> Value | None:
        """An int64 vector of one element."""
        return self.pick(lambda x: x.dtype == np.int64 and x.shape == (1,))

    def ints(self, *values: int) -> Value:
        """An int64 constant."""
        return self.graph.constant(np.array(values, np.int64))

    def add(self, kind: str, inputs: list[Value | None], count: int = 1, **attributes: Any) -> list[Value]:
        """A node, if the reference takes it; its outputs."""
        if any(v is None for v in inputs):
            return []
        node = self.graph.node(kind, inputs, [Value(self.name(kind.lower())) for _ in range(count)], **attributes)
        try:
            made = self.evaluate(node)
            assert all(x.size <= MOST and (x.dtype == bool or x.size == 0 or np.abs(x).max() < 1 << 12) for x in made)
        except (SardonyxError, AssertionError):
            self.graph.nodes.remove(node)
            node.detach()
            return []
        outputs = [v for v in node.outputs if v is not None]
        self.known.update(zip(outputs, made, strict=True))
        return outputs

    def evaluate(self, node: Any) -> list[np.ndarray]:
        """The numbers of a node's outputs."""
        captured = [c for g in node.subgraphs() for c in g.captures()]
        given = [v for v in dict.fromkeys([*node.inputs, *captured]) if v is not None and v.const is None]
        known = self.all()
        alone = Graph("one", given, [v for v in node.outputs if v is not None], [node])
        return ReferenceExecutor(Model(alone)).run([known[v] for v in given], range(len(alone.outputs)), RunContext())


def _unary(b: Builder) -> None:
    b.add(str(b.random.choice(["Relu", "Neg", "Abs", "Identity"])), [b.float()])


def _binary(b: Builder) -> None:
    b.add(str(b.random.choice(["Add", "Sub", "Max", "Min"])), [b.float(), b.float()])


def _whole(b: Builder) -> None:
    b.add(str(b.random.choice(["Add", "Sub", "Max", "Min"])), [b.vector(), b.vector() if b.random.random() < 0.7 else b.ints(int(b.random.integers(-2, 4)))])


def _size(b: Builder) -> None:
    x = b.float()
    if x is not None and b.add("Shape", [x]):
        shape = list(b.known)[-1]
        b.add("Slice", [shape, b.ints(0), b.ints(1)])


def _count(b: Builder) -> None:
    x = b.float()
    for most in b.add("ReduceMax", [x], keepdims=0):
        for made in b.add("Max", [most, b.graph.constant(np.float32(-9))]):   # -inf of nothing is no size
            for whole in b.add("Cast", [made], to=int(DType.INT64)):
                b.add("Reshape", [whole, b.ints(1)])


def _slice(b: Builder) -> None:
    x = b.float()
    if x is not None:
        axis = int(b.random.integers(b.all()[x].ndim))
        b.add("Slice", [x, b.vector(), b.vector() if b.random.random() < 0.5 else b.ints(1 << 40), b.ints(axis), b.ints(int(b.random.choice([1, 1, 2, -1])))])


def _reshape(b: Builder) -> None:
    for shape in b.add("Concat", [b.vector(), b.ints(-1)], axis=0):
        b.add("Reshape", [b.float(), shape])


def _expand(b: Builder) -> None:
    for shape in b.add("Concat", [b.vector(), b.ints(1)], axis=0):
        b.add("Expand", [b.float(2), shape])


def _range(b: Builder) -> None:
    for limit in b.add("Squeeze", [b.vector()]):
        for made in b.add("Range", [b.graph.constant(np.int64(0)), limit, b.graph.constant(np.int64(1))]):
            b.add("Cast", [made], to=int(DType.FLOAT))
            b.known.pop(made)  # as what gives sizes its own size must be known


def _steps(b: Builder) -> None:
    for most in b.add("ReduceMax", [b.float()], keepdims=0):
        for limit in b.add("Max", [most, b.graph.constant(np.float32(-9))]):
            b.add("Range", [b.graph.constant(np.float32(-1)), limit, b.graph.constant(np.float32(b.random.choice([0.5, 0.75, -0.5])))])


def _places(b: Builder) -> None:
    for made in b.add("NonZero", [b.float()]):
        b.add("Cast", [made], to=int(DType.FLOAT))
        b.known.pop(made)


def _chosen(b: Builder) -> None:
    x = b.float()
    if x is not None:
        for flat in b.add("Reshape", [x, b.ints(-1)]):
            for kept in b.add("Greater", [flat, b.graph.constant(np.float32(0.25))]):
                b.add("Compress", [flat, kept], axis=0)


def _pad(b: Builder) -> None:
    for pads in b.add("Concat", [b.ints(0), b.vector()], axis=0):
        b.add("Pad", [b.float(1), pads])


def _tile(b: Builder) -> None:
    for repeats in b.add("Concat", [b.ints(1), b.vector()], axis=0):
        b.add("Tile", [b.float(2), repeats])


def _top(b: Builder) -> None:
    for k in b.add("Abs", [b.vector()]):
        for made in b.add("TopK", [b.float(), k], 2)[1:]:
            b.known.pop(made)


def _filled(b: Builder) -> None:
    b.add("ConstantOfShape", [b.vector()], value=np.array([0.25], np.float32))


def _concat(b: Builder) -> None:
    x = b.float()
    if x is not None:
        b.add("Concat", [x, x if b.random.random() < 0.5 else b.float()], axis=int(b.random.integers(b.all()[x].ndim)))


def _transpose(b: Builder) -> None:
    b.add("Transpose", [b.float(2)], perm=[1, 0])


def _reduce(b: Builder) -> None:
    b.add(str(b.random.choice(["ReduceSum", "ReduceMax"])), [b.float(), b.ints(0)], keepdims=int(b.random.integers(2)))


def _condition(b: Builder) -> Value | None:
    made = b.add("Greater", [b.vector(), b.ints(int(b.random.integers(-1, 3)))])
    return made[0] if made else None


def _if(b: Builder) -> None:
    cond = _condition(b)
    if cond is None or b.depth > 1:
        return
    branches = []
    for _ in range(2):
        inner = Builder(b.random, b)
        grow(inner, 3)
        result = inner.float(2)
        if result is None:
            return
        inner.graph.outputs = [inner.graph.node("Identity", [result], [Value(b.name("then"))]).outputs[0]]
        branches.append(inner.graph)
    b.add("If", [cond], then_branch=branches[0], else_branch=branches[1])


def _loop(b: Builder) -> None:
    start, trips = b.float(), b.vector()
    if start is None or trips is None or b.depth > 1:
        return
    inner = Builder(b.random, b)
    inner.input((), DType.INT64, np.array(1))
    going = inner.input((), DType.BOOL, np.array(True))
    state = inner.input((), DType.FLOAT, b.all()[start])
    state.type = TensorType(DType.FLOAT, None)
    inner.known.pop(going)
    grow(inner, 2)
    grows = b.random.random() < 0.3
    step = inner.add("Concat", [state, state], axis=0) if grows else inner.add("Relu", [state])
    if not step:
        return
    results = [inner.graph.node("Identity", [v], [Value(b.name("loop"))]).outputs[0] for v in (going, step[0], *([] if grows else step))]
    inner.graph.outputs = results
    for limit in b.add("Min", [trips, b.ints(3)]):
        b.add("Loop", [limit, b.graph.constant(np.array(True)), start], len(results) - 1, body=inner.graph)


def _scan(b: Builder) -> None:
    x = b.float(2)
    if x is None or b.depth > 1:
        return
    known = b.all()[x]
    inner = Builder(b.random, b)
    row = inner.input((), DType.FLOAT, known[0] if len(known) else np.zeros(known.shape[1:], np.float32))
    row.type = TensorType(DType.FLOAT, None)
    grow(inner, 2)
    made = inner.add("Neg", [row])
    if made:
        inner.graph.outputs = [inner.graph.node("Identity", [made[0]], [Value(b.name("scan"))]).outputs[0]]
        b.add("Scan", [x], body=inner.graph, num_scan_inputs=1, scan_output_directions=[int(b.random.integers(2))], scan_output_axes=[int(b.random.integers(2))])


RULES = (_unary, _binary, _whole, _whole, _size, _count, _slice, _slice, _reshape, _expand, _range, _steps, _places, _chosen, _pad, _tile,
         _top, _filled, _concat, _transpose, _reduce, _if, _if, _loop, _scan)


def grow(b: Builder, steps: int) -> None:
    """Propose nodes."""
    for _ in range(steps):
        RULES[int(b.random.integers(len(RULES)))](b)


def feeds(random: np.random.Generator, n: int, m: int) -> list[np.ndarray]:
    """Numbers of the inputs."""
    return [(random.integers(-8, 9, shape) / 4).astype(np.float32) for shape in ((n, m), (m,), (n, 2))] + [random.integers(-3, 6, (1,)) for _ in range(3)]


def data_model(seed: int) -> Model:
    """A model of some 10 to 30 nodes whose sizes are n, m and what data decide."""
    random = np.random.default_rng(seed)
    b = Builder(random)
    given = feeds(random, 3, 4)
    for shape, value in zip((("n", "m"), ("m",), ("n", 2)), given, strict=False):
        b.input(shape, DType.FLOAT, value)
    for value in given[3:]:
        b.input((1,), DType.INT64, value)
    while len(b.graph.nodes) < 8:
        grow(b, 12)
    made = [v for node in b.graph.nodes for v in node.outputs if v is not None]
    ends = [v for v in made if not v.uses]
    b.graph.outputs = ends[-6:] or made[-1:]
    model = Model(b.graph)
    infer_shapes(model)
    return model
