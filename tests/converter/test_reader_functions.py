"""Model-local functions are inlined; broken files are refused with typed errors, whatever is wrong with them."""
from __future__ import annotations

import random
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx.converter.onnx import load_model
from sardonyx.errors import InvalidGraph, InvalidProtobuf, SardonyxError

from .test_reader import FLOAT, INT64, branch, info, known_operators, model_of, relu_model, sparse

node = helper.make_node
__all__ = ["known_operators"]


# -- functions -----------------------------------------------------------------------------------------------------------------------------------------
def function(
    name: str, inputs: list[str], outputs: list[str], nodes: list, *, attributes: tuple = (), defaults: tuple = (), opset: int = 21, overload: str = ""
) -> onnx.FunctionProto:
    made = helper.make_function(
        "local", name, inputs, outputs, nodes, [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)], list(attributes), list(defaults)
    )
    made.overload = overload
    return made


def with_functions(nodes: list, functions: list, **rest: object) -> onnx.ModelProto:
    return model_of(nodes, opsets=[helper.make_opsetid("", 21), helper.make_opsetid("local", 1)], functions=functions, **rest)


def reference(attribute: str, name: str, kind: int) -> onnx.AttributeProto:
    return onnx.AttributeProto(name=attribute, ref_attr_name=name, type=kind)


def test_functions_are_inlined() -> None:
    leaky = node("LeakyRelu", ["a"], ["t"], name="leak")
    leaky.attribute.append(reference("alpha", "slope", onnx.AttributeProto.FLOAT))
    inner = function(
        "Inner",
        ["a", "b"],
        ["c", "d"],
        [leaky, node("Add", ["t", "b"], ["c"]), node("Identity", ["t"], ["d"])],
        defaults=(helper.make_attribute("slope", 0.25),),
    )
    outer = function("Outer", ["p"], ["q"], [node("Inner", ["p", "p"], ["q"], domain="local", name="call", slope=0.5)])
    proto = with_functions(
        [node("Outer", ["x"], ["h"], domain="local", name="first"), node("Inner", ["h", "x"], ["y", "z"], domain="local", name="second")],
        [inner, outer],
        outputs=[info("y"), info("z")],
    )
    graph = load_model(proto).graph
    assert [n.op_type for n in graph.nodes] == ["LeakyRelu", "Add", "Identity", "LeakyRelu", "Add", "Identity"]
    assert graph.nodes[0].origin == ("first", "call", "leak")
    assert [n.attributes["alpha"] for n in (graph.nodes[0], graph.nodes[3])] == [0.5, 0.25]
    assert [v.name for v in graph.outputs] == ["y", "z"]
    names = [v.name for n in graph.nodes for v in n.outputs]
    assert len(set(names)) == len(names)


def test_function_edges() -> None:
    """Outputs that are inputs, two outputs that are one value, absent optional inputs, overloads, older opsets, captures."""
    twice = function("Twice", ["a"], ["b", "c", "d"], [node("Neg", ["a"], ["n"])])
    twice.output[:] = ["n", "n", "a"]
    optional = function("Opt", ["a", "b"], ["c"], [node("Dropout", ["a", "b"], ["c"])])
    loaded = function("Opt", ["a"], ["c"], [node("Relu", ["a"], ["c"])], overload="v2")
    call = node("Opt", ["d"], ["e"], domain="local")
    call.overload = "v2"
    proto = with_functions(
        [node("Twice", ["x"], ["b", "c", "d"], domain="local"), call, node("Opt", ["e"], ["y"], domain="local")],
        [twice, optional, loaded],
        outputs=[info("b"), info("c"), info("y")],
    )
    graph = load_model(proto).graph
    assert [n.op_type for n in graph.nodes] == ["Neg", "Identity", "Identity", "Relu", "Dropout"]
    assert [v.name for v in graph.outputs] == ["b", "c", "y"] and len(graph.nodes[-1].inputs) == 1


def test_function_in_branch() -> None:
    body = function("F", ["a"], ["b"], [node("Neg", ["a"], ["b"])])
    branches = {name: helper.make_graph([node("F", ["x"], ["b"], domain="local")], name, [], [info("b")]) for name in ("then_branch", "else_branch")}
    graph = load_model(with_functions([node("If", ["c"], ["y"], **branches)], [body], inputs=[info("c", TensorProto.BOOL, ()), info("x")])).graph
    assert [n.op_type for n in graph.walk()] == ["If", "Neg", "Neg"]


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ([("F", [node("G", ["a"], ["b"], domain="local")]), ("G", [node("F", ["a"], ["b"], domain="local")])], "circle.*F → G → F"),
        ([("F", [node("Relu", ["q"], ["b"])])], "input 0 'q' is not an input"),
        ([("F", [node("Relu", ["a"], ["c"])])], "output 'b' is never made"),
        (
            [("F", [node("F1", ["a"], ["b"], domain="local")])]
            + [
                (f"F{i}", [node(f"F{i + 1}", ["a" if k == 0 else f"t{k}"], [f"t{k + 1}" if k < 3 else "b"], domain="local") for k in range(4)])
                for i in range(1, 30)
            ]
            + [("F30", [node("Relu", ["a"], ["b"])])],
            "too many nodes",
        ),
    ],
)
def test_wrong_functions(functions: list, words: str) -> None:
    made = [function(name, ["a"], ["b"], nodes) for name, nodes in functions]
    with pytest.raises(InvalidGraph, match=words):
        load_model(with_functions([node("F", ["x"], ["y"], domain="local")], made))


def test_unknown_function_attribute() -> None:
    with pytest.raises(InvalidGraph, match="unknown attribute 'k'; the function has: none"):
        load_model(with_functions([node("F", ["x"], ["y"], domain="local", k=1)], [function("F", ["a"], ["b"], [node("Relu", ["a"], ["b"])])]))


# -- broken files --------------------------------------------------------------------------------------------------------------------------------------
def rich_model() -> bytes:
    """A small model with one of everything the reader knows."""
    node_if = node("If", ["c"], ["i"], then_branch=branch("then", "x", "Relu"), else_branch=branch("else", "w", "Neg"))
    call = node("F", ["i"], ["f"], domain="local", slope=0.5)
    inits = [
        numpy_helper.from_array(np.ones(2, np.float32), "w"),
        helper.make_tensor("v", FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("k", INT64, [2], [1, 300]),
        numpy_helper.from_array(np.array(["a", "b"], object), "s"),
        helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]),
    ]
    nodes = [node_if, call, node("Add", ["f", "v"], ["y"], name="add"), node("Constant", [], ["q"], value_ints=[1, 2])]
    proto = with_functions(
        nodes,
        [function("F", ["a"], ["b"], [node("LeakyRelu", ["a"], ["b"])], attributes=("slope",))],
        inputs=[info("c", TensorProto.BOOL, ()), info("x", FLOAT, ("n",))],
        initializer=inits,
        sparse_initializer=[sparse(np.array([3], np.float32), np.array([1]), [2], "z")],
        value_info=[info("i", FLOAT, ("n",))],
    )
    helper.set_model_props(proto, {"key": "value"})
    return proto.SerializeToString()


def load_or_refuse(data: bytes) -> bool:
    start = time.process_time()
    try:
        load_model(data)
        return True
    except SardonyxError as error:
        assert str(error)
        return False
    finally:
        assert time.process_time() - start < 2, "the reader took too long"


def test_truncated_everywhere() -> None:
    data = rich_model()
    assert load_or_refuse(data)
    for size in range(len(data)):
        load_or_refuse(data[:size])


def test_mutations() -> None:
    data, rng = rich_model(), random.Random(1)
    for _ in range(2000):
        mutated = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            kind, at = rng.randrange(4), rng.randrange(len(mutated))
            if kind == 0:
                mutated[at] = rng.randrange(256)
            elif kind == 1:
                mutated[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                del mutated[at : at + rng.randrange(1, 8)]
            else:
                mutated[at:at] = rng.choice((b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x10", data[at : at + rng.randrange(40)]))
        load_or_refuse(bytes(mutated))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x08", "ModelProto.ir_version at byte 1"),
        (b"\x08" + b"\xff" * 12, "more than 10 bytes"),
        (b"\x12\x7fabc", "ModelProto.producer_name at byte 0: says it has 127 bytes, but 3 are left"),
        (b"\x0d\0\0\0\0", "ModelProto.ir_version at byte 0: is a 32-bit field"),
        (b"\x3b", "group"),
        (b"\x07", "wire type 7"),
        (b"\x3a\x03\x0a\x05\x00", "GraphProto.node at byte 2"),
    ],
)
def test_wire_errors(data: bytes, words: str) -> None:
    with pytest.raises(InvalidProtobuf, match=words):
        load_model(data)


def test_deep_nesting() -> None:
    """seq(seq(seq(… as the type of an input."""
    data = b""
    for _ in range(400):
        for tag in (b"\x0a", b"\x22"):  # ElementTypeProto.elem_type, TypeProto.sequence_type
            data = tag + _length(len(data)) + data
    for tag in (b"\x12", b"\x5a", b"\x3a"):  # ValueInfoProto.type, GraphProto.input, ModelProto.graph
        data = tag + _length(len(data)) + data
    with pytest.raises(InvalidProtobuf, match="nested more than 100 deep"):
        load_model(data)


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size])


def test_unknown_fields_are_skipped() -> None:
    extra = b"\xa2\x1f\x03abc" + b"\xa8\x1f\x05" + b"\xad\x1f\0\0\0\0" + b"\xa9\x1f" + b"\0" * 8
    assert len(load_model(relu_model().SerializeToString() + extra).graph.nodes) == 2
