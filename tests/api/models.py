"""Small models the API tests share, as `.onnx` bytes."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
vi = helper.make_tensor_value_info
node = helper.make_node


def model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: dict[str, np.ndarray] | None = None, opset: int = 18) -> bytes:
    """A serialised ModelProto with metadata."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=tensors, doc_string="what the graph does")
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8, producer_name="tests",
                             producer_version="1", domain="example.org", model_version=7, doc_string="what the model does")
    helper.set_model_props(made, {"labels": "a,b"})
    return bytes(made.SerializeToString())


def add_mul() -> bytes:
    """z = x + y; q = z * w, where w is an initializer a caller may override."""
    return model([node("Add", ["x", "y"], ["z"], name="adder"), node("Mul", ["z", "w"], ["q"], name="scaler")],
                 [vi("x", FLOAT, ["batch", 3]), vi("y", FLOAT, [None, 3]), vi("w", FLOAT, [1])], [vi("z", FLOAT, ["batch", 3]), vi("q", FLOAT, ["batch", 3])],
                 {"w": np.array([2], np.float32)})


def scaled() -> bytes:
    """q = x * w, w a plain initializer."""
    return model([node("Mul", ["x", "w"], ["q"])], [vi("x", FLOAT, [3])], [vi("q", FLOAT, [3])], {"w": np.array([2], np.float32)})


def identity(dtype: int = FLOAT, shape: Any = None) -> bytes:
    """y = x."""
    return model([node("Identity", ["x"], ["y"])], [vi("x", dtype, shape)], [vi("y", dtype, shape)])


def sequences() -> bytes:
    """y = s[i]; t = s."""
    info = helper.make_tensor_sequence_value_info
    return model([node("SequenceAt", ["s", "i"], ["y"]), node("Identity", ["s"], ["t"])], [info("s", FLOAT, None), vi("i", INT64, [])], [vi("y", FLOAT, None), info("t", FLOAT, None)])


def zipmap() -> bytes:
    """A list of {label: score}."""
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [])))
    return model([node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[1, 2])], [vi("x", FLOAT, [None, 2])], [helper.make_value_info("y", kind)])


def vectorizer() -> bytes:
    """{1: a, 2: b} → [[a, b]]."""
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    return model([node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", int64_vocabulary=[1, 2])], [helper.make_value_info("x", kind)], [vi("y", FLOAT, [1, 2])])


def optional() -> bytes:
    """Whether an optional tensor is there."""
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))
    return model([node("OptionalHasElement", ["x"], ["y"])], [helper.make_value_info("x", kind)], [vi("y", BOOL, [])])


def branches() -> bytes:
    """q = z if c else -z, with z = x + y: a nested graph that captures."""
    then = helper.make_graph([node("Identity", ["z"], ["a"], name="keep")], "then", [], [vi("a", FLOAT, None)])
    other = helper.make_graph([node("Neg", ["z"], ["b"], name="negate")], "else", [], [vi("b", FLOAT, None)])
    return model([node("Add", ["x", "y"], ["z"], name="adder"), node("If", ["c"], ["q"], name="choose", then_branch=then, else_branch=other)],
                 [vi("x", FLOAT, ["batch", 3]), vi("y", FLOAT, ["batch", 3]), vi("c", BOOL, [])], [vi("q", FLOAT, None)])


def endless() -> bytes:
    """A loop of 2**40 iterations: something to terminate."""
    body = helper.make_graph([node("Add", ["v", "one"], ["w"]), node("Identity", ["c"], ["d"])], "body", [vi("i", INT64, []), vi("c", BOOL, []), vi("v", FLOAT, [1])],
                             [vi("d", BOOL, []), vi("w", FLOAT, [1])])
    return model([node("Loop", ["n", "t", "x"], ["y"], body=body)], [vi("x", FLOAT, [1])], [vi("y", FLOAT, [1])],
                 {"n": np.array(2**40), "t": np.array(True), "one": np.ones(1, np.float32)})


def constant_output() -> bytes:
    """An output that is an initializer, and one that is an input."""
    return model([node("Identity", ["x"], ["y"]), node("Identity", ["w"], ["v"])], [vi("x", FLOAT, [3])], [vi("y", FLOAT, [3]), vi("v", FLOAT, [3])], {"w": np.ones(3, np.float32)})


def noise() -> bytes:
    """Four random numbers."""
    return model([node("RandomNormal", [], ["y"], shape=[4])], [], [vi("y", FLOAT, [4])])
