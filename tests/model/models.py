"""Models built by hand and a strict comparison, for the tests of the .sdx file."""
from __future__ import annotations

from typing import Any

import numpy as np
from sardonyx.dim import dim_floor, dim_max, dim_min, mod, symbol
from sardonyx.graph import Graph, Model, Tensor, Value
from sardonyx.types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType

n, h = symbol("n", 1), symbol("height", 0, symbol("limit") * 2)
#: One of each shape of expression.
SIZES = (n, 3 * n + 1, n * h - 2, (n + 3) // 4, dim_floor(n * 0.5), mod(n * h, 7), dim_min(n, h), dim_max(n * n, h, 8), (n * h + 5) // (n + 1), n * h * ((n + 1) // 2))


def rich_model() -> Model:
    """A model that uses every part of the format: all attribute kinds, nested graphs with captures, all value types, sizes, strings, docs."""
    graph = Graph("rich")
    graph.doc = "every part of the format"
    x = Value("x", TensorType(DType.FLOAT, SIZES))
    x.doc = "the input"
    odd = [Value("seq", SequenceType(TensorType(DType.INT64))), Value("opt", OptionalType(SequenceType(TensorType(None, (n, 2))))),
           Value("map", MapType(DType.STRING, TensorType(DType.FLOAT, ()))), Value("sparse", SparseTensorType(DType.DOUBLE, (4, 4))), Value("unknown", None)]
    default = Value("default", TensorType(DType.FLOAT, (2,)), Tensor(np.array([1, np.nan], np.float32)))
    graph.inputs = [x, *odd, default]
    condition = graph.node("Identity", [graph.constant(np.array(True))], name="condition").outputs[0]
    weights = graph.constant(np.arange(40 * 33, dtype=np.float32).reshape(40, 33), "weights")
    graph.node("MatMul", [x, weights], [Value("product", TensorType(DType.FLOAT))], name="mm", origin=("a", "b"))
    then, other = Graph("then"), Graph("else")
    inner = then.node("Add", [x, default], name="add")
    then.outputs = [inner.outputs[0]]
    deep = Graph("deep")
    deep.outputs = [x]
    nested = other.node("If", [condition], name="again", then_branch=deep, else_branch=_constant_branch(graph))
    other.outputs = [nested.outputs[0]]
    result = graph.node("If", [condition], [Value("result")], name="choose", then_branch=then, else_branch=other)
    graph.node("Kinds", [None, x, None, weights], [None, Value("k")], domain="test.domain", i=-(1 << 62), f=0.1, f32=0.5, s="täxt", b=b"\xff\x00", t=Tensor(np.eye(3)),
               ints=[1, -2, 300], big=[1 << 40], floats=[0.5, 1e300], nan=[float("nan"), -0.0], strings=["", "a", "\udcff"], raw=[b"\x80", b""],
               tensors=[Tensor(np.zeros((0, 3), np.int8))], type=SequenceType(TensorType(DType.INT8)), types=[TensorType(DType.FLOAT, (n,))], empty=[], flag=True)
    words = graph.constant(np.array([["one", "zwei"], ["", "\U0001f600"]], object), "words")
    graph.node("Identity", [words], [Value("texts")])
    graph.outputs = [graph.nodes[1].outputs[0], result.outputs[0], graph.nodes[-1].outputs[0], words]
    return Model(graph, opsets={"": 17, "ai.onnx.ml": 3}, metadata={"author": "nobody", "empty": ""}, producer_name="test", producer_version="1", domain="d", model_version=-5,
                 doc="doc", ir_version=9, symbols={"n": (1, 64), "height": (0, None)})


def _constant_branch(outer: Graph) -> Graph:
    graph = Graph("constant")
    graph.outputs = [Value("c", None, Tensor.splat(7, DType.FLOAT, (1000, 1000)))]
    return graph


def assert_same_model(a: Model, b: Model) -> None:
    """Everything a Model holds is equal, weights bit for bit."""
    for name in ("opsets", "metadata", "producer_name", "producer_version", "domain", "model_version", "doc", "ir_version", "symbols"):
        assert getattr(a, name) == getattr(b, name), name
    assert_same_graph(a.graph, b.graph, {})


def assert_same_graph(a: Graph, b: Graph, pairs: dict[Value, Value]) -> None:
    assert (a.name, a.doc) == (b.name, b.doc)
    _same_values(a.inputs, b.inputs, pairs)
    assert len(a.nodes) == len(b.nodes)
    for x, y in zip(a.nodes, b.nodes, strict=True):
        assert (x.op_type, x.domain, x.name, x.origin) == (y.op_type, y.domain, y.name, y.origin)
        _same_values(x.inputs, y.inputs, pairs)
        _same_values(x.outputs, y.outputs, pairs)
        assert list(x.attributes) == list(y.attributes)
        for key in x.attributes:
            _same_attribute(x.attributes[key], y.attributes[key], pairs)
    _same_values(a.outputs, b.outputs, pairs)


def _same_values(a: Any, b: Any, pairs: dict[Value, Value]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert pairs.setdefault(x, y) is y
            assert (x.name, x.type, x.doc) == (y.name, y.type, y.doc)
            assert str(x.type.shape if isinstance(x.type, TensorType) else x.type) == str(y.type.shape if isinstance(y.type, TensorType) else y.type)
            assert (x.const is None) == (y.const is None)
            if x.const is not None:
                same_tensor(x.const, y.const)


def same_tensor(a: Tensor, b: Tensor) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    x, y = a.numpy(), b.numpy()
    assert x.dtype == y.dtype and x.shape == y.shape
    if x.dtype == object:
        assert (x == y).all()
    elif x.size and not any(x.strides) and x.size > 1:
        assert not any(s for s, d in zip(y.strides, y.shape, strict=True) if d > 1) and x.flat[0] == y.flat[0]
    else:
        assert np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes()


def _same_attribute(a: Any, b: Any, pairs: dict[Value, Value]) -> None:
    if isinstance(a, Graph):
        assert_same_graph(a, b, pairs)
    elif isinstance(a, Tensor):
        same_tensor(a, b)
    elif isinstance(a, list):
        assert isinstance(b, list) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same_attribute(x, y, pairs)
    else:
        assert a == b or (a != a and b != b)
        assert type(a) is type(b) or (isinstance(a, bool) and isinstance(b, int))


def packed_model() -> Model:
    """Right-hand sides of every packing, sizes that do and do not fill panels."""
    rng = np.random.default_rng(5)
    graph = Graph("packed")
    x = Value("x", TensorType(DType.FLOAT, (2, 20)))
    image = Value("image", TensorType(DType.FLOAT, (1, 4, 6, 6)))
    tokens = Value("tokens", TensorType(DType.INT64, (3,)))
    graph.inputs = [x, image, tokens]

    def constant(name: str, *shape: int, dtype: str = "float32") -> Value:
        return graph.constant(rng.integers(-100, 100, shape).astype(dtype), name)
    hidden = graph.node("MatMul", [x, constant("matrix", 20, 24)], name="matmul").outputs[0]
    hidden = graph.node("Gemm", [hidden, constant("matrix_t", 17, 24)], name="gemm", transB=1).outputs[0]
    maps = graph.node("Conv", [image, constant("conv", 16, 4, 3, 3)], name="conv").outputs[0]
    maps = graph.node("Conv", [maps, constant("groups", 32, 8, 1, 1)], name="grouped", group=2).outputs[0]
    maps = graph.node("Conv", [maps, constant("depthwise", 32, 1, 2, 2)], name="depthwise", group=32).outputs[0]
    table = constant("table", 17, 16)
    rows = graph.node("Gather", [table, tokens], name="embed").outputs[0]
    logits = graph.node("Gemm", [rows, table], name="tied", transB=1).outputs[0]
    quantized = graph.node("DynamicQuantizeLinear", [x], 3, name="quantize").outputs
    product = graph.node("MatMulInteger", [quantized[0], constant("int8", 20, 16, dtype="int8"), quantized[2]], name="integer").outputs[0]
    weights = graph.node("DequantizeLinear", [constant("dq", 20, 18, dtype="int8"), graph.constant(np.float32(0.5).reshape(()))], name="dequantize").outputs[0]
    plain = graph.node("MatMul", [x, weights], name="dequantized").outputs[0]
    blocks = graph.constant(rng.integers(0, 256, (32, 2, 16)).astype(np.uint8), "nibbles")
    wide = graph.node("Concat", [x, x], name="wide", axis=1).outputs[0]
    wide = graph.node("Pad", [wide, graph.constant(np.array([0, 0, 0, 24]))], name="pad").outputs[0]
    four = graph.node("MatMulNBits", [wide, blocks, constant("scales", 64)], domain="com.microsoft", name="four", K=64, N=32, bits=4, block_size=32).outputs[0]
    graph.outputs = [hidden, maps, logits, product, plain, four]
    return Model(graph)
