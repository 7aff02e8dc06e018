"""`load_model`: every input kind, every tensor storage, external data, functions, nested graphs, and files that are broken in every way."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx import ops
from sardonyx.converter.onnx import load_model
from sardonyx.converter.onnx.external import ExternalData
from sardonyx.converter.onnx.proto import AttributeProto as WireAttribute
from sardonyx.converter.onnx.proto import TensorProto as WireTensor
from sardonyx.converter.onnx.tensors import read_tensor
from sardonyx.converter.onnx.wire import read, varints
from sardonyx.dim import symbol
from sardonyx.errors import InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, NotImplemented
from sardonyx.graph import Model, Tensor
from sardonyx.types import DType, MapType, OptionalType, SequenceType, TensorType

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def info(name: str, dtype: int = FLOAT, shape: object = (2,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(
    nodes: list, inputs: list | None = None, outputs: list | None = None, *, opset: int = 21, opsets: list | None = None, ir: int = 10, **graph: object
) -> onnx.ModelProto:
    functions = graph.pop("functions", [])
    made = helper.make_graph(nodes, "g", inputs if inputs is not None else [info("x")], outputs if outputs is not None else [info("y")], **graph)
    return helper.make_model(made, opset_imports=opsets or [helper.make_opsetid("", opset)], ir_version=ir, functions=functions)


def relu_model() -> onnx.ModelProto:
    return model_of(
        [helper.make_node("Add", ["x", "w"], ["h"], name="add"), helper.make_node("Relu", ["h"], ["y"], name="relu")],
        initializer=[numpy_helper.from_array(np.array([1, 2], np.float32), "w")],
    )


@pytest.fixture(autouse=True)
def known_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's tests do not depend on which operators exist."""
    index = dict.fromkeys(
        [("", n) for n in ("Add", "Relu", "Identity", "If", "Loop", "Mul", "Neg", "Dropout", "Split", "Resize", "Sub", "LeakyRelu", "Cast")], "elementwise"
    )
    monkeypatch.setattr(ops, "INDEX", {**index, **ops.INDEX})


# -- where a model comes from --------------------------------------------------------------------------------------------------------------------
def sources(tmp_path: Path) -> dict[str, object]:
    proto = relu_model()
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    data = path.read_bytes()
    return {
        "str": str(path),
        "PathLike": path,
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "strided view": memoryview(bytes(b for pair in zip(data, data, strict=True) for b in pair))[::2],
        "BytesIO": io.BytesIO(data),
        "file": open(path, "rb"),
        "ModelProto": proto,
    }


@pytest.mark.parametrize("kind", ["str", "PathLike", "bytes", "bytearray", "memoryview", "strided view", "BytesIO", "file", "ModelProto"])
def test_sources(kind: str, tmp_path: Path) -> None:
    model = load_model(sources(tmp_path)[kind])
    assert isinstance(model, Model)
    assert [repr(n) for n in model.graph.nodes] == ["h = Add(x, w)", "y = Relu(h)"]
    assert model.graph.nodes[0].origin == ("add",)
    np.testing.assert_array_equal(model.graph.nodes[0].inputs[1].const.numpy(), [1, 2])


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("/nowhere/model.onnx", NoSuchFile, "does not exist"),
        ("/tmp", InvalidArgument, "is a folder"),
        (12, InvalidArgument, "not int"),
        (io.StringIO("x"), InvalidArgument, "binary mode"),
        (b"", InvalidProtobuf, "empty"),
        (b"<!DOCTYPE html><html>", InvalidProtobuf, "HTML"),
        (b"PK\x03\x04" + b"\0" * 60, InvalidProtobuf, "zip"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 60, InvalidProtobuf, "TensorFlow Lite"),
        (b"version https://git-lfs.github.com/spec/v1\noid", InvalidProtobuf, "Git LFS"),
        (b"ir_version: 8\nproducer_name: 'x'\n", InvalidProtobuf, "text form"),
        (b'<\n  ir_version: 8,\n opset_import: ["" : 17]\n>', InvalidProtobuf, "text form"),
        (b"\x80\x02}q\0." * 9, InvalidProtobuf, "pickle"),
        (b"\x89HDF\r\n\x1a\n", InvalidProtobuf, "HDF5"),
        (b"\x08\x08", InvalidProtobuf, "no graph"),
        (b"just some words here", InvalidProtobuf, "text"),
    ],
)
def test_not_a_model(source: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        load_model(source)


def test_weights_are_used_in_place(tmp_path: Path) -> None:
    weights = np.arange(1 << 20, dtype=np.float32)
    path = tmp_path / "big.onnx"
    onnx.save(model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[numpy_helper.from_array(weights, "w")]), path)
    array = load_model(path).graph.nodes[0].inputs[1].const.numpy()
    assert not array.flags.owndata and not array.flags.writeable
    np.testing.assert_array_equal(array, weights)


def test_model_fields() -> None:
    proto = relu_model()
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version, proto.doc_string = "maker", "1.2", "org", 7, "about"
    helper.set_model_props(proto, {"k": "v"})
    model = load_model(proto)
    assert (model.producer_name, model.producer_version, model.domain, model.model_version, model.doc) == ("maker", "1.2", "org", 7, "about")
    assert model.metadata == {"k": "v"} and model.ir_version == 10 and model.opsets == {"": 21}


# -- tensors -------------------------------------------------------------------------------------------------------------------------------------
CODES = [dtype for dtype in DType if dtype is not DType.STRING]


def numbers(dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    values = (
        np.arange(count) % 2
        if dtype in (DType.BOOL, DType.UINT2)
        else np.arange(count) % 5 - (0 if dtype.is_unsigned_integer or dtype is DType.FLOAT8E8M0 else 2)
    )
    if dtype in (DType.INT2,):
        values = np.arange(count) % 4 - 2
    if dtype is DType.FLOAT8E8M0:
        values = 2.0 ** (np.arange(count) % 5)
    return values.astype(dtype.numpy).reshape(shape)


def check_tensor(proto: TensorProto) -> None:
    made = read_tensor(read(WireTensor, proto.SerializeToString()), ExternalData())
    expected = numpy_helper.to_array(proto)
    assert made.shape == expected.shape
    got = made.numpy()
    assert got.dtype == expected.dtype
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 3), (1,), (7,)])
@pytest.mark.parametrize("dtype", CODES, ids=lambda d: d.text)
def test_raw_data(dtype: DType, shape: tuple[int, ...]) -> None:
    check_tensor(numpy_helper.from_array(numbers(dtype, shape), "t"))


@pytest.mark.parametrize("shape", [(3, 5), (), (0,), (400, 3)])
@pytest.mark.parametrize("dtype", CODES, ids=lambda d: d.text)
def test_typed_data(dtype: DType, shape: tuple[int, ...]) -> None:
    values = numbers(dtype, shape)
    check_tensor(helper.make_tensor("t", int(dtype), shape, values.ravel().tolist() if dtype.is_complex or dtype in (DType.BOOL,) else values.ravel()))


def test_string_data() -> None:
    made = read_tensor(read(WireTensor, numpy_helper.from_array(np.array([["a", "ü"], ["", "日本"]], object), "t").SerializeToString()), ExternalData())
    assert made.dtype is DType.STRING and made.numpy().tolist() == [["a", "ü"], ["", "日本"]]


def test_long_lists_of_integers() -> None:
    """Attributes write each integer with a tag of its own: runs of them, with numbers of every width, between other fields."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 31, 32, 33, 64, 1000, 5000):
        wide = (rng.integers(-2**63, 2**63 - 1, count) >> rng.integers(0, 63, count)).tolist()
        small = rng.integers(0, 128, count).tolist()
        for values in (wide, small, [8] * count, [0x4040] * count, [-1] * count):   # 8 and 0x40 look like tags
            made = helper.make_attribute("a", values)
            assert list(read(WireAttribute, made.SerializeToString()).ints) == values
            half = made.SerializeToString()
            for stop in (len(half) - 1, len(half) // 2):  # cut short
                try:
                    assert len(read(WireAttribute, half[:stop]).ints) < count or stop == len(half) - 1
                except InvalidProtobuf:
                    continue


def test_unpacked_numbers() -> None:
    """proto2 files of old writers repeat the tag before every number."""
    floats = b"".join(b"\x25" + np.float32(v).tobytes() for v in range(50))
    ints = b"".join(b"\x38" + bytes([v]) for v in range(50))
    made = read(WireTensor, floats + ints + b"\x25" + np.float32(7).tobytes())
    assert np.frombuffer(made.float_data, np.float32).tolist() == [*range(50), 7]
    assert varints(made.int64_data, np.dtype(np.int64)).tolist() == list(range(50))


@pytest.mark.parametrize("values", [[0], [127, 128, 300, 2**31, 2**63 - 1], [-1, -(2**63), 5], list(range(100000))])
def test_varints(values: list[int]) -> None:
    proto = TensorProto(int64_data=values)
    made = read(WireTensor, proto.SerializeToString())
    assert varints(made.int64_data, np.dtype(np.int64)).tolist() == values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(raw_data=b"\0" * 7), "needs 8 bytes, but the file holds 7"),
        (dict(dims=[1 << 40, 1 << 40]), "needs"),
        (dict(dims=[-1]), "negative"),
        (dict(data_type=99), "element type 99"),
        (dict(data_type=0), "no element type"),
        (dict(raw_data=None, float_data=[1.0]), "needs 8 bytes"),
        (dict(raw_data=None, data_type=INT64, int64_data=[1]), "needs 2 stored numbers"),
        (dict(raw_data=None, data_type=TensorProto.STRING, string_data=[b"a"]), "needs 2 strings"),
        (dict(dims=[1] * 70), "rank 70"),
        (dict(dims=[0, 1 << 62, 1 << 62]), "not possible|holds 8"),
    ],
)
def test_wrong_tensors(change: dict, words: str) -> None:
    fields = {"name": "w", "dims": [2], "data_type": FLOAT, "raw_data": b"\0" * 8, **change}
    proto = TensorProto(**{k: v for k, v in fields.items() if v is not None})
    with pytest.raises((InvalidGraph, InvalidProtobuf), match=words) as caught:
        load_model(model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[proto]))
    assert "'w'" in str(caught.value) or "not possible" in str(caught.value)


def sparse(values: np.ndarray, indices: np.ndarray, dims: list[int], name: str = "w") -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(numpy_helper.from_array(values, name), numpy_helper.from_array(indices, "i"), dims)


@pytest.mark.parametrize("indices", [np.array([1, 5]), np.array([[0, 1], [1, 2]])])
def test_sparse(indices: np.ndarray) -> None:
    made = sparse(np.array([3, 4], np.float32), indices, [2, 3])
    initializer = load_model(model_of([helper.make_node("Add", ["x", "w"], ["y"])], sparse_initializer=[made]))
    constant = load_model(model_of([helper.make_node("Constant", [], ["w"], sparse_value=made), helper.make_node("Add", ["x", "w"], ["y"])]))
    for model in (initializer, constant):
        assert model.graph.nodes[0].inputs[1].const.numpy().tolist() == [[0, 3, 0], [0, 0, 4]]


@pytest.mark.parametrize(
    ("indices", "dims", "words"),
    [
        (np.array([1, 6]), [2, 3], "outside"),
        (np.array([-1, 2]), [2, 3], "outside"),
        (np.array([[0, 3], [1, 2]]), [2, 3], "outside"),
        (np.array([1, 2, 3]), [2, 3], "need int64 indices"),
        (np.array([1, 2]), [1 << 20, 1 << 20], "too sparse"),
    ],
)
def test_wrong_sparse(indices: np.ndarray, dims: list[int], words: str) -> None:
    with pytest.raises(InvalidGraph, match=words):
        load_model(model_of([helper.make_node("Add", ["x", "w"], ["y"])], sparse_initializer=[sparse(np.array([3, 4], np.float32), indices, dims)]))


# -- external data ---------------------------------------------------------------------------------------------------------------------------------
def external_model(folder: Path, location: str, *, offset: int | None = 8, length: int | None = 8, content: bytes | None = None) -> Path:
    tensor = TensorProto(name="w", dims=[2], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[tensor]).SerializeToString())
    if content is not None:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(content)
    return path


CONTENT = np.array([0, 0, 1, 2], np.float32).tobytes()


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin"])
def test_external(location: str, tmp_path: Path) -> None:
    path = external_model(tmp_path / "a", location, content=CONTENT)
    for model in (load_model(path), load_model(path.read_bytes(), base_dir=path.parent)):
        array = model.graph.nodes[0].inputs[1].const.numpy()
        assert array.tolist() == [1, 2] and not array.flags.owndata


def test_external_without_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="'w'.*base_dir"):
        load_model(external_model(tmp_path, "w.bin", content=CONTENT).read_bytes())


def test_external_missing(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile, match=r"'w'.*gone\.bin' does not exist; put"):
        load_model(external_model(tmp_path, "gone.bin"))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w.bin", "..\\w.bin", "", "\\\\host\\share"])
def test_external_outside(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(CONTENT)
    with pytest.raises(InvalidGraph, match="'w'.*refused"):
        load_model(external_model(tmp_path / "a", location))


def test_external_links(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(CONTENT)
    path = external_model(tmp_path / "a", "w.bin")
    (tmp_path / "a" / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InvalidGraph, match="'w'.*leads out of the model's folder"):
        load_model(path)
    snapshot = tmp_path / "snapshot"  # the Hugging Face cache: model and data are links into one folder of blobs
    snapshot.mkdir()
    external_model(tmp_path / "blobs", "w.bin", content=CONTENT)
    for name in ("m.onnx", "w.bin"):
        (snapshot / name).symlink_to(tmp_path / "blobs" / name)
    assert load_model(snapshot / "m.onnx").graph.nodes[0].inputs[1].const.numpy().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(offset=12), "only 16 bytes"),
        (dict(offset=1 << 60), "only 16 bytes"),
        (dict(length=7), "has 7 bytes"),
        (dict(offset="x"), "must be a number"),
        (dict(offset=-4), "must be a number"),
    ],
)
def test_external_wrong(fields: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidGraph, match=words):
        load_model(external_model(tmp_path, "w.bin", content=CONTENT, **fields))


def test_onnx_external_files(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto = model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[numpy_helper.from_array(weights, "w")])
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    np.testing.assert_array_equal(load_model(tmp_path / "m.onnx").graph.nodes[0].inputs[1].const.numpy(), weights)


# -- graphs ------------------------------------------------------------------------------------------------------------------------------------------
def test_types_and_dims() -> None:
    tensor = helper.make_tensor_type_proto(FLOAT, ["batch", None, 3, -1, "floor(h/2)"])
    inputs = [
        helper.make_value_info("x", tensor),
        helper.make_value_info("s", helper.make_sequence_type_proto(tensor)),
        helper.make_value_info("o", helper.make_optional_type_proto(tensor)),
        helper.make_value_info("m", helper.make_map_type_proto(TensorProto.STRING, tensor)),
        info("r", FLOAT, None),
    ]
    graph = load_model(model_of([helper.make_node("Relu", ["x"], ["y"])], inputs)).graph
    x, s, o, m, r = graph.inputs
    assert x.type == TensorType(DType.FLOAT, (symbol("batch"), symbol("?x_1"), 3, symbol("?x_3"), symbol("floor(h/2)")))
    assert isinstance(s.type, SequenceType) and isinstance(o.type, OptionalType) and isinstance(m.type, MapType) and m.type.key is DType.STRING
    assert r.type == TensorType(DType.FLOAT, None)


def test_value_info_and_docs() -> None:
    proto = relu_model()
    proto.graph.value_info.append(info("h", FLOAT, ("n",)))
    proto.graph.input[0].doc_string = "what goes in"
    graph = load_model(proto).graph
    assert graph.nodes[0].outputs[0].shape == (symbol("n"),) and graph.inputs[0].doc == "what goes in"


@pytest.mark.parametrize(("ir", "inputs"), [(3, ["x"]), (10, ["x", "w"])])
def test_initializer_inputs(ir: int, inputs: list[str]) -> None:
    """From IR version 4 on an input with an initializer can be overridden; before, every initializer had to be listed."""
    proto = model_of(
        [helper.make_node("Add", ["x", "w"], ["y"])], [info("x"), info("w")], initializer=[numpy_helper.from_array(np.ones(2, np.float32), "w")], ir=ir
    )
    graph = load_model(proto).graph
    assert [v.name for v in graph.inputs] == inputs
    assert graph.nodes[0].inputs[1].const is not None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("value_int", 5, np.int64(5)),
        ("value_ints", [1, 2], np.array([1, 2])),
        ("value_float", 0.5, np.float32(0.5)),
        ("value_floats", [0.5], np.array([0.5], np.float32)),
        ("value_string", "a", np.array("a", object)),
        ("value_strings", ["a", "b"], np.array(["a", "b"], object)),
        ("value", numpy_helper.from_array(np.int8([1]), "t"), np.int8([1])),
    ],
)
def test_constant_nodes(name: str, value: object, expected: np.ndarray) -> None:
    graph = load_model(model_of([helper.make_node("Constant", [], ["c"], **{name: value}), helper.make_node("Identity", ["c"], ["y"])])).graph
    made = graph.nodes[0].inputs[0].const.numpy()
    assert made.dtype == np.asarray(expected).dtype and made.shape == np.asarray(expected).shape and (made == expected).all()


def test_attributes() -> None:
    node = helper.make_node(
        "Relu", ["x"], ["y"], i=-3, f=0.5, s="text", ints=[1, -2], floats=[0.5, 2.0], strings=["a", "b"], t=numpy_helper.from_array(np.int64([4]))
    )
    node.attribute.append(helper.make_attribute("empty", [], attr_type=onnx.AttributeProto.INTS))
    node.attribute.append(helper.make_attribute("tp", helper.make_tensor_type_proto(FLOAT, [2])))
    made = load_model(model_of([node]), upgrade=False).graph.nodes[0].attributes
    assert isinstance(made.pop("t"), Tensor)
    assert made == {
        "i": -3,
        "f": 0.5,
        "s": "text",
        "ints": [1, -2],
        "floats": [0.5, 2.0],
        "strings": ["a", "b"],
        "empty": [],
        "tp": TensorType(DType.FLOAT, (2,)),
    }


def branch(name: str, captured: str, op: str) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node(op, [captured], ["b"])], name, [], [info("b")])


def test_nested_captures() -> None:
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("then", "h", "Relu"), else_branch=branch("else", "w", "Neg"))
    proto = model_of(
        [node, helper.make_node("Neg", ["x"], ["h"])],
        [info("c", TensorProto.BOOL, ()), info("x")],
        initializer=[numpy_helper.from_array(np.ones(2, np.float32), "w")],
    )
    graph = load_model(proto).graph  # the If comes first in the file: nodes are sorted by what they capture, too
    assert [n.op_type for n in graph.nodes] == ["Neg", "If"]
    then, other = graph.nodes[1].attributes["then_branch"], graph.nodes[1].attributes["else_branch"]
    assert then.nodes[0].inputs[0] is graph.nodes[0].outputs[0]
    assert then.captures() == [graph.nodes[0].outputs[0]] and other.nodes[0].inputs[0].const is not None


def test_unsorted_nodes() -> None:
    proto = relu_model()
    proto.graph.node.reverse()
    assert [n.op_type for n in load_model(proto).graph.nodes] == ["Add", "Relu"]


node = helper.make_node


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Relu", ["hh"], ["h"], name="r"), node("Relu", ["h"], ["y"])], "Relu 'r': input 0 'hh' is not an input.*did the model mean 'h'"),
        ([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"], name="n")], "Neg 'n': output 'y' is made twice"),
        ([node("Relu", ["x"], ["x"])], "output 'x' is made twice"),
        ([node("Relu", ["x"], ["z"])], "output 'y' is never made"),
        ([node("Add", ["x", "b"], ["a"], name="one"), node("Relu", ["a"], ["b"]), node("Relu", ["a"], ["y"])], "cycle"),
        ([node("Relu", ["y"], ["y"])], "cycle"),
        ([node("", ["x"], ["y"])], "no operator type"),
        ([node("Constant", [], ["y"])], "exactly one attribute"),
        ([node("Constant", [], ["y"], value_int="a")], "can not be made"),
    ],
)
def test_wrong_graphs(nodes: list, words: str) -> None:
    with pytest.raises(InvalidGraph, match=words):
        load_model(model_of(nodes))


def test_duplicate_initializers() -> None:
    w = numpy_helper.from_array(np.ones(2, np.float32), "w")
    with pytest.raises(InvalidGraph, match="two initializers are called 'w'"):
        load_model(model_of([node("Add", ["x", "w"], ["y"])], initializer=[w, w]))


def test_unknown_operators() -> None:
    with pytest.raises(NotImplemented, match="Reluu 'a' and 1 more nodes.*did you mean.*Relu.*Foo 'y'"):
        load_model(model_of([node("Reluu", ["x"], ["h"], name="a"), node("Reluu", ["x"], ["i"], name="b"), node("Foo", ["h"], ["y"])]))


@pytest.mark.parametrize(
    ("opsets", "error", "words"),
    [
        ([("", 29)], NotImplemented, "opset 29 of domain 'ai.onnx'; supported are ai.onnx 1 to 28"),
        ([("", 0)], InvalidGraph, "which version"),
        ([("ai.onnx.ml", 3)], InvalidGraph, "which version"),
        ([("", 21), ("other", 1)], None, ""),
        ([("ai.onnx", 21)], None, ""),
    ],
)
def test_opsets(opsets: list, error: type | None, words: str) -> None:
    proto = model_of([node("Relu", ["x"], ["y"])], opsets=[helper.make_opsetid(*o) for o in opsets])
    if error is None:
        load_model(proto)
    else:
        with pytest.raises(error, match=words):
            load_model(proto)


def test_unknown_domain() -> None:
    with pytest.raises(NotImplemented, match="domain 'acme', which is not supported"):
        load_model(model_of([node("Relu", ["x"], ["y"], domain="acme")], opsets=[helper.make_opsetid("", 21), helper.make_opsetid("acme", 1)]))
