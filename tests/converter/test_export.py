"""Export to ONNX: load → export → check → load again gives the same graph, and the same numbers here and in onnxruntime."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx.converter.export import save_onnx, to_onnx
from sardonyx.converter.onnx import load_model
from sardonyx.dim import symbol
from sardonyx.errors import InvalidArgument, InvalidGraph
from sardonyx.graph import Graph, Model, Tensor, Value
from sardonyx.providers.base import RunContext
from sardonyx.providers.reference import ReferenceProvider
from sardonyx.types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
FLOAT = TensorProto.FLOAT
node = helper.make_node


def run(model: Model, feeds: list[Any]) -> list[Any]:
    return ReferenceProvider().compile(model, {}).run(feeds, range(len(model.graph.outputs)), RunContext())


def text(graph: Graph) -> str:
    """The graph with those nested in it, and its constants' sizes."""
    return "\n".join(f"{inner}\n{[(v.name, v.const.dtype, v.const.shape) for v in inner.constants()]}" for inner in graph.graphs())


def round_trip(model: Model) -> tuple[onnx.ModelProto, Model]:
    proto = to_onnx(model)
    onnx.checker.check_model(proto)
    return proto, load_model(proto)


def info(name: str, dtype: int = FLOAT, shape: object = (2,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def source(nodes: list, inputs: list, outputs: list, opset: int = 21, **rest: Any) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, **rest), opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def branches(op: str = "Neg") -> dict[str, onnx.GraphProto]:
    """Then and else with the same names inside; `w` is a constant of the outer graph, `k` one of the branches'."""
    return {
        f"{name}_branch": helper.make_graph(
            [node("Constant", [], ["k"], value_floats=[1.0, 2.0]), node(inner, ["x"], ["t"]), node("Add", ["t", "k"], ["u"]), node("Mul", ["u", "w"], ["b"])],
            name,
            [],
            [info("b")],
        )
        for name, inner in (("then", op), ("else", "Identity"))
    }


def loop() -> onnx.GraphProto:
    return helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Add", ["a", "w"], ["n"])],
        "body",
        [info("i", TensorProto.INT64, ()), info("c", TensorProto.BOOL, ()), info("a")],
        [info("d", TensorProto.BOOL, ()), info("n"), info("a2")][:2],
    )


W = numpy_helper.from_array(np.array([3, 4], np.float32), "w")
X = np.array([0.5, -2], np.float32)
MODELS = {
    "plain": (
        source(
            [node("Add", ["x", "w"], ["h"], name="first"), node("LeakyRelu", ["h"], ["y"], alpha=0.25)],
            [info("x", FLOAT, ("n",))],
            [info("y", FLOAT, ("n",))],
            initializer=[W],
        ),
        [X],
    ),
    "if": (source([node("If", ["c"], ["y"], **branches())], [info("c", TensorProto.BOOL, ()), info("x")], [info("y")], initializer=[W]), [np.array(True), X]),
    "loop": (
        source([node("Loop", ["m", "", "x"], ["y"], body=loop())], [info("m", TensorProto.INT64, ()), info("x")], [info("y")], initializer=[W]),
        [np.array(3), X],
    ),
    "constant output": (source([node("Neg", ["x"], ["y"])], [info("x")], [info("y"), info("w")], initializer=[W]), [X]),
    "optional input": (source([node("Clip", ["x", "", "top"], ["y"])], [info("x"), info("top", FLOAT, ())], [info("y")]), [X, np.array(0.25, np.float32)]),
    "old opset": (
        source([node("Squeeze", ["x"], ["s"], axes=[0]), node("Softmax", ["s"], ["y"], axis=0)], [info("x", FLOAT, (1, 2))], [info("y")], opset=9),
        [X.reshape(1, 2)],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str) -> None:
    original, feeds = MODELS[name]
    model = load_model(original)
    proto, again = round_trip(model)
    assert text(again.graph) == text(model.graph)
    expected = run(model, feeds)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for got in (run(again, feeds), session.run(None, dict(zip([v.name for v in model.graph.inputs], feeds, strict=True)))):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("name", ["light_squeezenet", "light_resnet50", "light_shufflenet"])
def test_light_models(name: str) -> None:
    model = load_model(LIGHT / f"{name}.onnx")
    proto, again = round_trip(model)
    assert text(again.graph) == text(model.graph)
    onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def test_between_named_values() -> None:
    original = source(
        [node("Neg", ["x"], ["a"]), node("Abs", ["a"], ["b"]), node("Add", ["b", "w"], ["c"]), node("Relu", ["c"], ["y"])],
        [info("x", FLOAT, ("n",))],
        [info("y", FLOAT, None)],
        initializer=[W],
    )
    model = load_model(original)
    before = text(model.graph)
    proto = to_onnx(model, inputs=["a"], outputs=["c"])
    onnx.checker.check_model(proto)
    assert [n.op_type for n in proto.graph.node] == ["Abs", "Add"] and [i.name for i in proto.graph.input] == ["a"]
    np.testing.assert_array_equal(run(load_model(proto), [X])[0], np.abs(X) + [3, 4])
    assert [n.op_type for n in to_onnx(model, outputs=["b"]).graph.node] == ["Neg", "Abs"]
    assert text(model.graph).splitlines()[1:] == before.splitlines()[1:]
    with pytest.raises(InvalidArgument, match="no value 'bb'"):
        to_onnx(model, outputs=["bb"])
    with pytest.raises(InvalidArgument, match="also depend on 'x'; add it to inputs"):
        to_onnx(model, inputs=["b"], outputs=["a"])


def test_types_and_metadata() -> None:
    tensor = TensorType(DType.FLOAT, (symbol("n") * 2 + 1, symbol("?anonymous"), 3))
    types = [
        tensor,
        TensorType(DType.INT4, None),
        SequenceType(tensor),
        OptionalType(tensor),
        MapType(DType.STRING, tensor),
        SparseTensorType(DType.FLOAT, (3,)),
    ]
    values = [Value(f"v{i}", t) for i, t in enumerate(types)]
    model = Model(Graph("g", values, [values[0]]), metadata={"k": "v"}, producer_name="p", producer_version="2", domain="d", model_version=3, doc="text")
    again = load_model(to_onnx(model))
    assert [str(v.type) for v in again.graph.inputs] == [str(t) for t in types]
    assert again.graph.inputs[0].shape == (symbol("2*n + 1"), symbol("?v0_1"), 3)
    assert (again.metadata, again.producer_name, again.producer_version, again.domain, again.model_version, again.doc) == ({"k": "v"}, "p", "2", "d", 3, "text")


def test_attributes() -> None:
    """The schema decides between int and float and what an empty list is; without one, the values do."""
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT, (2,)))])
    leaky = graph.node("LeakyRelu", [graph.inputs[0]], alpha=1)
    custom = graph.node("FusedConv", [leaky.outputs[0]], domain="com.microsoft", a=1, b=0.5, c="s", d=[1, 2], e=[1, 0.5], f=["s"], g=[], h=Tensor(np.int8([1])))
    graph.node("Scan", [leaky.outputs[0]], num_scan_inputs=1, scan_input_axes=[], body=Graph("b"))
    graph.outputs = [custom.outputs[0]]
    custom.outputs[0].type = TensorType(DType.FLOAT, (2,))
    made = {a.name: a for n in to_onnx(graph).graph.node for a in n.attribute}
    kinds = onnx.AttributeProto
    assert (made["alpha"].type, made["alpha"].f) == (kinds.FLOAT, 1.0)
    assert made["scan_input_axes"].type == kinds.INTS and made["body"].type == kinds.GRAPH
    assert [made[k].type for k in "abcdefgh"] == [kinds.INT, kinds.FLOAT, kinds.STRING, kinds.INTS, kinds.FLOATS, kinds.STRINGS, kinds.INTS, kinds.TENSOR]
    leaky.attributes["alpha"] = "steep"
    with pytest.raises(InvalidGraph, match="LeakyRelu.*attribute 'alpha'.*'steep'"):
        to_onnx(graph)


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.text)
def test_tensors(dtype: DType) -> None:
    values = np.array(["a", "ü", "c"], object) if dtype is DType.STRING else np.array([1, 0, 1]).astype(dtype.numpy)
    constant = Value("w", None, Tensor(values, dtype=dtype))
    graph = Graph("g", [], [])
    graph.outputs = [graph.node("Identity", [constant]).outputs[0]]
    graph.outputs[0].type = TensorType(dtype, (3,))
    made = load_model(to_onnx(graph)).graph.nodes[0].inputs[0].const
    assert made.dtype is dtype and (made.numpy().tolist() == values.tolist() or made.numpy().tobytes() == values.tobytes())


def test_opsets_of_an_export() -> None:
    model = load_model(MODELS["old opset"][0])
    assert [i.version for i in to_onnx(model).opset_import] == [28]
    lowest = to_onnx(model, lowest=True)
    onnx.checker.check_model(lowest)
    assert lowest.opset_import[0].version == 21 and text(load_model(lowest).graph) == text(model.graph)
    for dtype, version in ((DType.FLOAT, 21), (DType.UINT2, 25)):  # Identity has 2-bit types since 25
        copy = Graph("g", [Value("x", TensorType(dtype, (2,)))])
        copy.outputs = copy.node("Identity", copy.inputs).outputs
        assert to_onnx(copy, lowest=True).opset_import[0].version == version
    trees = Graph("g", [Value("x", TensorType(DType.FLOAT, (2, 2)))])
    made = trees.node("TreeEnsembleRegressor", trees.inputs, domain="ai.onnx.ml", n_targets=1)
    made.outputs[0].type = TensorType(DType.FLOAT, (2, 1))
    trees.outputs = made.outputs
    assert {i.domain: i.version for i in to_onnx(trees).opset_import} == {"": 28, "ai.onnx.ml": 4}
    trees.node("TreeEnsemble", trees.inputs, domain="ai.onnx.ml")
    with pytest.raises(InvalidGraph, match="TreeEnsembleRegressor ended at 4, others began at 5"):
        to_onnx(trees)


def test_names_are_made_unique() -> None:
    x = Value("x", TensorType(DType.FLOAT, (2,)))
    a, b = Value("same"), Value("same")
    graph = Graph("g", [x], [])
    graph.node("Neg", [x], [a])
    graph.node("Add", [a, Value("same", None, Tensor(np.ones(2, np.float32)))], [b])
    graph.outputs = [b, b]
    proto = to_onnx(graph)
    onnx.checker.check_model(proto)
    np.testing.assert_array_equal(run(load_model(proto), [X]), [1 - X, 1 - X])


def test_external_data(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((2, 4096)).astype(np.float32)
    original = source(
        [node("Add", ["x", "big"], ["h"]), node("Add", ["h", "small"], ["y"])],
        [info("x", FLOAT, (1, 4096))],
        [info("y", FLOAT, (2, 4096))],
        initializer=[numpy_helper.from_array(weights, "big"), numpy_helper.from_array(np.ones(1, np.float32), "small")],
    )
    path = tmp_path / "m.onnx"
    save_onnx(load_model(original), path, external_data=True)
    onnx.checker.check_model(path)
    assert path.stat().st_size < 2000 and (tmp_path / "m.onnx.data").stat().st_size == weights.nbytes
    feed = np.zeros((1, 4096), np.float32)
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": feed})[0]
    np.testing.assert_array_equal(run(load_model(path), [feed])[0], expected)
    save_onnx(load_model(path), tmp_path / "one.onnx")
    assert (tmp_path / "one.onnx").stat().st_size > weights.nbytes


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sardonyx.converter.export.MAX_FILE_BYTES", 7)
    with pytest.raises(InvalidArgument, match="save_onnx"):
        to_onnx(load_model(MODELS["plain"][0]))


def test_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnx":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'sardonyx\[convert\]'"):
        to_onnx(Graph("g"))
