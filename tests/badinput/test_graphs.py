"""Models that are whole as files and wrong as graphs; and odd ones that are right."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import helper
from sardonyx import ops
from sardonyx.errors import InvalidGraph, NotImplemented

from .tools import BOOL, FLOAT, INT64, STRING, F, model, node, one, refused, session, vi

X = np.arange(3, dtype=F)


def graph(nodes: list[Any], *, inputs: Any = (("x", FLOAT, [3]),), outputs: Any = (("y", FLOAT, None),), constants: dict[str, np.ndarray] | None = None) -> bytes:
    return model(nodes, [vi(*i) for i in inputs], [vi(*o) for o in outputs], constants, opset=20)


NEG = [node("Neg", ["x"], ["y"])]
BRANCH = helper.make_graph([node("Identity", ["x"], ["b"])], "branch", [], [vi("b", FLOAT, None)])


@pytest.mark.parametrize(("nodes", "words"), [
    ([node("Reluu", ["x"], ["y"], name="n")], ["Reluu 'n'", "ai.onnx", "did you mean", "Relu", "sardonyx inspect --operators"]),
    ([node("Frobnicate", ["x"], ["y"])], ["Frobnicate 'y'", "is not supported"]),
    ([node("Relu", ["x"], ["y"], domain="acme")], ["domain 'acme'", "does not define as functions", "ai.onnx 1 to 28", "com.microsoft 1"]),
    ([node("FusedFoo", ["x"], ["y"], domain="com.microsoft")], ["FusedFoo", "com.microsoft"]),
])
def test_unknown_operators_and_domains(nodes: list[Any], words: list[str]) -> None:
    with refused(NotImplemented, *words):
        session(graph(nodes))


@pytest.mark.parametrize(("domain", "version", "kind", "words"), [
    ("", 29, NotImplemented, ["opset 29", "ai.onnx 1 to 28"]), ("", 2**31, NotImplemented, ["opset 2147483648"]), ("", -1, NotImplemented, ["opset -1"]),
    ("", 0, InvalidGraph, ["which version"]),
    ("ai.onnx.ml", 6, NotImplemented, ["opset 6", "ai.onnx.ml", "1 to 5"]), ("com.microsoft", 2, NotImplemented, ["opset 2", "com.microsoft"])])
def test_unknown_opsets(domain: str, version: int, kind: type, words: list[str]) -> None:
    op_type = {"": "Relu", "ai.onnx.ml": "Scaler", "com.microsoft": "QuickGelu"}[domain]
    made = helper.make_graph([node(op_type, ["x"], ["y"], domain=domain)], "g", [vi("x", FLOAT, [3])], [vi("y", FLOAT, None)])
    imports = [helper.make_opsetid(domain, version), *([helper.make_opsetid("", 18)] if domain else [])]
    with refused(kind, *words):
        session(helper.make_model(made, opset_imports=imports, ir_version=8).SerializeToString())


def test_a_newer_ir_version() -> None:
    made = helper.make_model(helper.make_graph(NEG, "g", [vi("x", FLOAT, [3])], [vi("y", FLOAT, None)]), ir_version=99)
    with refused(NotImplemented, "IR version 99", "up to 14", "newer sardonyx"):
        session(made.SerializeToString())


@pytest.mark.parametrize(("nodes", "words"), [
    ([node("Add", ["x", "h"], ["y"], name="n"), node("Relu", ["hh"], ["h"], name="r")], ["Relu 'r'", "input 0 'hh'", "did the model mean 'h'"]),
    ([node("Add", ["x", "zzz"], ["y"], name="n")], ["Add 'n'", "input 1 'zzz'", "the model is incomplete"]),
    ([node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["y"])], ["cycle", "Add", "acyclic"]),
    ([node("Neg", ["y"], ["y"])], ["cycle", "Neg 'y'"]),
    ([node("Neg", ["x"], ["z"])], ["output 'y' is never made"]),
    ([*NEG, node("Abs", ["x"], ["y"], name="n")], ["Abs 'n'", "'y' is made twice"]),
    ([node("Neg", ["x"], ["x"])], ["'x' is made twice"]),
    ([node("", ["x"], ["y"])], ["no operator type"]),
    ([node("Add", ["x"], ["y"])], ["Add 'y'", "has 1 inputs", "A, B"]),
    ([node("Neg", ["x", "x"], ["y"])], ["Neg 'y'", "has 2 inputs"]),
    ([node("Add", ["", "x"], ["y"])], ["Add 'y'", "required input 'A' is missing"]),
    ([node("Neg", ["x"], ["y", "z"])], ["Neg 'y'", "has 2 outputs; Neg makes 1"]),
    ([node("TopK", ["x", "k"], ["y", "a", "b"])], ["TopK 'y'", "has 3 outputs; TopK makes 2"]),
    ([node("Split", ["x"], ["y", "z"], num_outputs=3)], ["Split 'y'", "num_outputs is 3", "2 outputs"]),
    ([node("Add", ["x", "i"], ["y"], name="n")], ["Add 'n'", "one element type", "float[3]", "int64[1]"]),
    ([node("Add", ["x", "w"], ["y"], name="n")], ["Add 'n'", "do not broadcast", "[3]", "[4]"]),
    ([node("MatMul", ["x", "w"], ["y"], name="n")], ["MatMul 'n'", "float[3]", "float[4]"]),
])
def test_wrong_graphs(nodes: list[Any], words: list[str]) -> None:
    with refused(InvalidGraph, *words):
        session(graph(nodes, constants={"k": np.array([1]), "i": np.array([1]), "w": np.ones(4, F)}))


def attributed(op_type: str, count: int = 1, **attributes: Any) -> bytes:
    made = node(op_type, ["x"] * count, ["y"], name="n")
    made.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return graph([made], inputs=[("x", FLOAT, [1, 2, 4, 4])])


@pytest.mark.parametrize(("data", "words"), [
    (attributed("Softmax", axis=1.0), ["Softmax 'n'", "'axis' must be an int, not a float"]),
    (attributed("Softmax", axis="a"), ["'axis' must be an int, not a string"]),
    (attributed("Softmax", axis=[1, 2]), ["'axis' must be an int, not a list of ints"]),
    (attributed("Softmax", axis=BRANCH), ["'axis' must be an int, not a graph"]),
    (attributed("Softmax", axis=helper.make_tensor("t", 7, [], [1])), ["'axis' must be an int, not a tensor"]),
    (attributed("LeakyRelu", alpha="x"), ["'alpha' must be a float, not a string"]),
    (attributed("Transpose", perm=1), ["'perm' must be a list of ints, not an int"]),
    (attributed("Transpose", perm=[0.0, 1.0]), ["'perm' must be a list of ints, not a list of floats"]),
    (attributed("Conv", 2, pads=1), ["Conv 'n'", "'pads' must be a list of ints, not an int"]),
    (attributed("MaxPool", kernel_shape="2"), ["'kernel_shape' must be a list of ints, not a string"]),
    (attributed("Gelu", approximate=1), ["'approximate' must be a string, not an int"]),
    (attributed("If", then_branch=1, else_branch=BRANCH), ["'then_branch' must be a graph, not an int"]),
    (attributed("Loop", 2, body=5), ["'body' must be a graph, not an int"]),
    (attributed("ConstantOfShape", value=3), ["'value' must be a tensor, not an int"]),
    (attributed("If", else_branch=BRANCH), ["required attribute 'then_branch' is missing"]),
    (attributed("Cast"), ["required attribute 'to' is missing"]),
    (attributed("Cast", to=99), ["to=99"]),
    (attributed("Relu", alpha=1.0), ["unknown attribute 'alpha'; Relu has: none"]),
    (attributed("Softmax", axis=7), ["axis 7 is out of range for rank 4", "[-4, 3]"]),
    (attributed("Conv", 2, auto_pad="FOO"), ["'FOO'", "SAME_UPPER"]),
])
def test_wrong_attributes(data: bytes, words: list[str]) -> None:
    with refused(InvalidGraph, *words):
        session(data)


def test_an_int_may_stand_for_a_float() -> None:
    assert session(attributed("LeakyRelu", alpha=1)).run(None, {"x": -np.ones((1, 2, 4, 4), F)})[0].max() == -1


@pytest.mark.parametrize(("inputs", "words"), [
    ([("x", FLOAT, [3]), ("x", FLOAT, [3])], ["input 'x' appears twice"]), ([("x", FLOAT, [3]), ("w", FLOAT, [5])], ["'w'", "float[5]", "float[4]"]),
    ([("x", FLOAT, [3]), ("w", FLOAT, [1, 4])], ["'w'", "[1, 4]"]),
    ([("x", FLOAT, [3]), ("w", INT64, [4])], ["'w'", "int64", "float"]), ([("x", 0, [3])], ["input 'x' has no element type"]),
    ([("x", 99, [3])], ["'x'", "element type 99", "1 to 28"]),
    ([("", FLOAT, [3]), ("x", FLOAT, [3])], ["an input has no name"])])
def test_wrong_inputs(inputs: Any, words: list[str]) -> None:
    with refused(InvalidGraph, *words):
        session(graph(NEG, inputs=inputs, constants={"w": np.ones(4, F)}))


def test_an_input_without_a_type() -> None:
    made = helper.make_graph(NEG, "g", [helper.make_empty_tensor_value_info("x")], [vi("y", FLOAT, None)])
    with refused(InvalidGraph, "input 'x' has no element type"):
        session(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString())


def test_a_declared_output_of_another_type() -> None:
    with refused(InvalidGraph, "Neg 'y'", "declared int64", "float[3]"):
        session(graph(NEG, outputs=[("y", INT64, [3])]))


# -- odd and right -----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("nodes", "inputs", "outputs", "feed", "expected"), [
    ([], [("x", FLOAT, [3])], ["x"], {"x": X}, [[0, 1, 2]]),                               # an output that is an input
    ([], [("x", FLOAT, [3])], ["w"], {"x": X}, [[5, 5]]),                                  # … a constant, and an unused input
    ([], [], ["w", "w"], {}, [[5, 5], [5, 5]]),
    (NEG, [("x", FLOAT, [3])], ["y", "x", "w", "y"], {"x": X}, [[0, -1, -2], [0, 1, 2], [5, 5], [0, -1, -2]]),  # one value twice among the outputs
    (NEG, [("x", FLOAT, [3])], [], {"x": X}, []),
    ([*NEG, node("Neg", ["x"], [])], [("x", FLOAT, [3])], ["y"], {"x": X}, [[0, -1, -2]]),
    ([node("Neg", ["x"], ["h"], name="n"), node("Neg", ["h"], ["y"], name="n")], [("x", FLOAT, [3])], ["y"], {"x": X}, [[0, 1, 2]]),  # two nodes of one name
    ([node("Neg", ["h"], ["y"]), node("Neg", ["x"], ["h"])], [("x", FLOAT, [3])], ["y"], {"x": X}, [[0, 1, 2]]),  # not in order
    (NEG, [("x", FLOAT, [-5])], ["y"], {"x": X}, [[0, -1, -2]]),                           # a size that says nothing
    (NEG, [("x", FLOAT, [])], ["y"], {"x": np.array(2, F)}, [-2]),
])
def test_odd_graphs_run(nodes: list[Any], inputs: Any, outputs: list[str], feed: Any, expected: Any) -> None:
    made = session(graph(nodes, inputs=inputs, outputs=[(o, FLOAT, None) for o in outputs], constants={"w": np.full(2, 5, F)}))
    results = made.run(None, feed)
    assert [r.tolist() for r in results] == expected
    assert [o.name for o in made.get_outputs()] == outputs
    assert [v.numpy().tolist() for v in made.run_with_ort_values(None, {k: sardonyx.OrtValue.ortvalue_from_numpy(v) for k, v in feed.items()})] == expected
    for i, result in enumerate(results):  # they share no memory
        result[...] = 9
        assert all((r == 9).all() == (j <= i) for j, r in enumerate(results))


@pytest.mark.parametrize("name", [" ", "ü/ñ:0", "日本", "a\nb", "a\0b", "x" * 5000, "../../etc/passwd", "\"'", "%s{}{0}", "\u202e", "?x", "0", "\\", "😀"])
def test_weird_names(name: str) -> None:
    made = session(model([node("Neg", [name], [name + "y"], name=name)], [vi(name, FLOAT, [name])], [vi(name + "y", FLOAT, None)]))
    assert [a.name for a in made.get_inputs()] == [name]
    assert made.run([name + "y"], {name: X})[0].tolist() == [0, -1, -2]
    with refused(ValueError, name):
        made.run(None, {name: X.astype(np.float64)})


def test_a_name_that_is_not_utf8() -> None:
    made = session(model([node("Neg", ["x"], ["AAAA"])], [vi("x", FLOAT, [3])], [vi("AAAA", FLOAT, [3])]).replace(b"AAAA", b"\xff\xfe\xc3\x28"))
    assert made.run([made.get_outputs()[0].name], {"x": X})[0].tolist() == [0, -1, -2]


# -- strings where numbers must be ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("op_type", ["Neg", "Add", "MatMul", "Softmax", "ReduceSum", "Conv", "Less", "Not"])
def test_numeric_operators_refuse_strings(op_type: str) -> None:
    count = 2 if op_type in ("Add", "MatMul", "Conv", "Less") else 1
    with refused(InvalidGraph, f"{op_type} 'y'", "string[3]", "takes no strings", "Cast"):
        session(graph([node(op_type, ["x"] * count, ["y"])], inputs=[("x", STRING, [3])], outputs=[("y", STRING, None)]))


def test_which_operators_take_strings_is_the_specifications_word() -> None:
    from onnx import defs
    for domain, op_type in ops.names():
        if domain not in ("", "ai.onnx.ml") or ops.lookup(domain, op_type).host_only or not defs.has(op_type, domain):
            continue
        schema = defs.get_schema(op_type, domain=domain)
        allowed = {t.type_param_str: t.allowed_type_strs for t in schema.type_constraints}
        expected = any("string" in text for i in schema.inputs for text in allowed.get(i.type_str, [i.type_str]))
        assert ops.lookup(domain, op_type).takes_strings == expected, (domain, op_type)


@pytest.mark.parametrize(("data", "feed", "words"), [
    (one("Cast", inputs={"x": (STRING, [1])}, to=1), {"x": np.array(["a"], object)}, ["Cast 'y'", "'a' is not a number"]),
    (one("If", inputs={"x": (BOOL, None)}, then_branch=helper.make_graph([node("Constant", [], ["a"], value_float=1.0)], "t", [], [vi("a", FLOAT, None)]),
         else_branch=helper.make_graph([node("Constant", [], ["b"], value_float=2.0)], "e", [], [vi("b", FLOAT, None)])), {"x": np.ones(2, bool)},
         ["If 'y'", "one element", "[2]"]),
])
def test_what_only_the_run_can_tell(data: bytes, feed: Any, words: list[str]) -> None:
    with refused(RuntimeError, *words):
        session(data).run(None, feed)
