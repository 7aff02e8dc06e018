"""Small files that ask for much work: deep nesting, functions in functions, long chains, sizes that grow. Opened or refused in a second, with shallow stacks."""
from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from onnx import helper
from sardonyx.converter.onnx import load_model
from sardonyx.errors import InvalidGraph, InvalidModelFile, InvalidProtobuf, SardonyxError
from sardonyx.graph import Graph, Model, Value
from sardonyx.model import write_model
from sardonyx.types import DType, TensorType

from .tools import BOOL, FLOAT, INT64, F, model, node, refused, session, vi

X = {"x": np.ones(1, F)}


class within:  # noqa: N801 - reads as a statement
    """At most so many seconds of processor time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        self.begin = time.process_time()

    def __exit__(self, *_: Any) -> None:
        spent = time.process_time() - self.begin
        assert spent < self.seconds, f"took {spent:.1f} s"


def branches(depth: int) -> Any:
    """If within If …"""
    made: Any = node("Neg", ["x"], ["o0"])
    for k in range(1, depth + 1):
        then = helper.make_graph([made], "then", [], [vi(f"o{k - 1}", FLOAT, None)])
        other = helper.make_graph([node("Identity", ["x"], [f"e{k}"])], "else", [], [vi(f"e{k}", FLOAT, None)])
        made = node("If", ["c"], [f"o{k}"], then_branch=then, else_branch=other)
    return made


def loops(depth: int) -> Any:
    """Loop within Loop …, each growing what it carries."""
    made: Any = node("Add", ["x", "x"], ["o0"])
    for k in range(1, depth + 1):
        body = helper.make_graph([made, node("Identity", [f"c{k}"], [f"d{k}"]), node("Concat", [f"v{k}", f"o{k - 1}"], [f"w{k}"], axis=0)], "body",
                                 [vi(f"i{k}", INT64, []), vi(f"c{k}", BOOL, []), vi(f"v{k}", FLOAT, None)], [vi(f"d{k}", BOOL, []), vi(f"w{k}", FLOAT, None)])
        made = node("Loop", ["m", "", "x"], [f"o{k}"], body=body)
    return made


@pytest.mark.parametrize(("make", "depth", "result"), [(branches, 1, [-1]), (branches, 31, [-1]), (loops, 1, [1, 2]), (loops, 4, [1] * 4 + [2]), (loops, 31, [1] * 31 + [2])])
def test_nested_graphs(make: Any, depth: int, result: list[float]) -> None:
    data = model([make(depth)], [vi("x", FLOAT, ["n"])], [vi(f"o{depth}", FLOAT, None)], {"c": np.array(True), "m": np.array(1)})
    with within(2):
        assert session(data).run(None, X)[0].tolist() == result


def wire(number: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + body


def test_nesting_beyond_protobufs_limit() -> None:
    graph = b""
    for _ in range(500):  # GraphProto.node, NodeProto.attribute, AttributeProto.g
        graph = wire(1, wire(4, b"If") + wire(5, wire(1, b"then_branch") + wire(6, graph)))
    with within(1), refused(InvalidProtobuf, "nested more than 100 deep", "byte"):
        session(wire(7, graph))


def test_nesting_beyond_the_sdx_formats_limit() -> None:
    """A graph made by a program, not by a file: no .sdx holds it."""
    inner = Graph("0")
    x = Value("x", TensorType(DType.FLOAT, (1,)))
    for k in range(400):
        outer = Graph(str(k))
        node_ = outer.node("If", [x], 1, then_branch=inner, else_branch=Graph("e"))
        outer.outputs = [node_.outputs[0]]
        inner = outer
    inner.inputs = [x]
    with within(2), pytest.raises(SardonyxError) as caught:
        file = io.BytesIO()
        write_model(Model(inner), file)
        session(file.getvalue())
    assert not isinstance(caught.value, RecursionError) and "nested" in str(caught.value), caught.value


# -- functions -----------------------------------------------------------------------------------------------------------------------------------

IMPORTS = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]


def functional(nodes: list[Any], bodies: dict[str, list[Any]], output: str = "y") -> bytes:
    functions = [helper.make_function("f", name, ["a"], ["b"], body, IMPORTS) for name, body in bodies.items()]
    graph = helper.make_graph(nodes, "g", [vi("x", FLOAT, ["n"])], [vi(output, FLOAT, None)])
    return bytes(helper.make_model(graph, functions=functions, opset_imports=IMPORTS, ir_version=9).SerializeToString())


def call(function: str, x: str = "a", y: str = "b", **more: Any) -> Any:
    return node(function, [x], [y], domain="f", **more)


NEG = [node("Neg", ["a"], ["b"])]


@pytest.mark.parametrize(("depth", "fine"), [(10, True), (48, True), (59, False), (2000, False)])
def test_functions_calling_functions(depth: int, fine: bool) -> None:
    data = functional([call(f"F{depth}", "x", "y")], {"F0": NEG, **{f"F{k}": [call(f"F{k - 1}")] for k in range(1, depth + 1)}})
    with within(2):
        if fine:
            assert session(data).run(None, X)[0].tolist() == [-1]
        else:
            with refused(InvalidGraph, "too deeply", f"F{depth} → F{depth - 1}"):
                session(data)


@pytest.mark.parametrize("bodies", [{"F": [call("F")]}, {"F": [call("G")], "G": [call("F")]}])
def test_recursive_functions(bodies: dict[str, list[Any]]) -> None:
    with refused(InvalidGraph, "functions call each other in a circle", "F → "):
        session(functional([call("F", "x", "y")], bodies))


def test_functions_that_double() -> None:
    bodies = {"F0": NEG, **{f"F{k}": [call(f"F{k - 1}", "a", "t"), call(f"F{k - 1}", "t", "b")] for k in range(1, 40)}}
    with within(5), refused(InvalidGraph, "inlining", "too many nodes", "64 times"):
        session(functional([call("F39", "x", "y")], bodies))


def test_many_calls_of_one_name() -> None:
    count = 3000
    data = functional([call("F", "x" if i == 0 else f"v{i}", f"v{i + 1}", name="n") for i in range(count)], {"F": [node("Neg", ["a"], ["t"]), node("Neg", ["t"], ["b"])]},
        f"v{count}")
    with within(3):
        assert session(data).run(None, X)[0].tolist() == [1]


# -- long graphs -----------------------------------------------------------------------------------------------------------------------------------

def chain(count: int, make: Any, *, reverse: bool = False, opset: int = 18) -> bytes:
    nodes = [make(f"v{i}" if i else "x", f"v{i + 1}", i) for i in range(count)]
    return model(nodes[::-1] if reverse else nodes, [vi("x", FLOAT, ["n"])], [vi(f"v{count}", FLOAT, None)], {"w": np.ones(1, F), "c": np.array(True), "b": np.ones(1, bool)},
        opset)


def choice(a: str, b: str, i: int) -> Any:
    return node("If", ["c"], [b], then_branch=helper.make_graph([node("Neg", [a], [f"t{i}"])], "t", [], [vi(f"t{i}", FLOAT, None)]),
                else_branch=helper.make_graph([node("Identity", [a], [f"e{i}"])], "e", [], [vi(f"e{i}", FLOAT, None)]))


@pytest.mark.parametrize(("data", "result"), [
    (chain(10_000, lambda a, b, _: node("Neg", [a], [b])), [1]), (chain(10_000, lambda a, b, _: node("Neg", [a], [b]), reverse=True), [1]),
    (chain(10_000, lambda a, b, _: node("Mul", [a, "w"], [b])), [1]),
    (chain(10_000, lambda a, b, _: node("Mul", [a, "w"], [b], broadcast=1), opset=6), [1]), (chain(2_000, choice), [1]),
    (chain(1_000, lambda a, b, _: node("Compress", [a, "b"], [b], axis=0)), [1]),
    (chain(300, lambda a, b, _: node("Concat", [a, "x"], [b], axis=0)), [1] * 301),
], ids=["unary", "reversed", "binary", "opset 6", "If", "data-dependent", "Concat"])
def test_long_chains(data: bytes, result: list[float]) -> None:
    """10,000 nodes are sorted, inferred, compiled, run and closed without recursion and in time."""
    with within(3):
        made = session(data)
        assert made.run(None, X)[0].tolist() == result
        made.close()
    with within(3):
        file = io.BytesIO()
        write_model(load_model(data), file)
        assert session(file.getvalue()).run(None, X)[0].tolist() == result


@pytest.mark.parametrize("data", [
    model([node("Sum", ["x"] * 20_000, ["y"])], [vi("x", FLOAT, ["n"])], [vi("y", FLOAT, None)]),
    model([node("Sum", [f"x{i}" for i in range(1000)], ["y"])], [vi(f"x{i}", FLOAT, [f"n{i}"]) for i in range(1000)], [vi("y", FLOAT, None)]),
    model([node("Concat", [f"x{i}" for i in range(1000)], ["y"], axis=0)], [vi(f"x{i}", FLOAT, [f"n{i}"]) for i in range(1000)], [vi("y", FLOAT, None)]),
    model([node("Split", ["x"], [f"y{i}" for i in range(5000)], num_outputs=5000)], [vi("x", FLOAT, [5000])], [vi(f"y{i}", FLOAT, None) for i in range(5000)]),
], ids=["inputs", "sizes", "sum of sizes", "outputs"])
def test_wide_nodes(data: bytes) -> None:
    with within(2):
        session(data).close()


# -- sizes ---------------------------------------------------------------------------------------------------------------------------------------

STEPS: dict[str, Any] = {
    "x·x": lambda a, b: [node("Mul", [a, a], [b])],
    "x + x//2": lambda a, b: [node("Div", [a, "two"], [b + "h"]), node("Add", [a, b + "h"], [b])],
    "x·(x mod 3)": lambda a, b: [node("Mod", [a, "three"], [b + "h"]), node("Mul", [a, b + "h"], [b])],
    "max(x, x + 2, a)": lambda a, b: [node("Add", [a, "two"], [b + "h"]), node("Max", [a, b + "h", "s0"], [b])],
    "min(x, 2x − a, a)": lambda a, b: [node("Mul", [a, "two"], [b + "h"]), node("Sub", [b + "h", "s0"], [b + "k"]), node("Min", [a, b + "k", "s0"], [b])],
    "x + ⌊x/3⌋ in float": lambda a,
    b: [node("Cast", [a], [b + "c"], to=1), node("Mul", [b + "c", "third"], [b + "d"]), node("Floor", [b + "d"], [b + "e"]), node("Cast", [b + "e"], [b + "f"], to=7),
                                     node("Add", [b + "f", a], [b])],
    "x·2⁴⁰": lambda a, b: [node("Mul", [a, "big"], [b])],
    "x²⁴⁰": lambda a, b: [node("Pow", [a, "big"], [b])],
    "[x, x]": lambda a, b: [node("Concat", [a, a], [b], axis=0)],
    "x·a·b·c": lambda a, b: [node("Concat", [a, "s"], [b + "h"], axis=0), node("ReduceProd", [b + "h"], [b], keepdims=1)],
}


@pytest.mark.parametrize("step", STEPS)
def test_sizes_that_grow(step: str) -> None:
    """A chain of shape arithmetic whose exact result has 2^40 parts: it becomes unknown, and the model still loads."""
    nodes = [node("Shape", ["x"], ["s"]), node("Slice", ["s", "zero", "one"], ["s0"]), node("ReduceSum", ["s"], ["t0"], keepdims=1)]
    for i in range(40):
        nodes += STEPS[step](f"t{i}", f"t{i + 1}")
    data = model([*nodes, node("ConstantOfShape", ["t40"], ["y"])], [vi("x", FLOAT, ["a", "b", "c"])], [vi("y", FLOAT, None)],
                 {"two": np.array([2]), "three": np.array([3]), "big": np.array([2**40]), "third": np.array([1 / 3], F), "zero": np.array([0]), "one": np.array([1])})
    with within(1):
        try:
            session(data)
        except InvalidGraph as error:
            assert step == "[x, x]" and "the highest rank is 64" in str(error)


def test_numbers_beside_a_size_that_grow() -> None:
    """[n, 2^40] squared elementwise: the number, exact in Python, must not become 2^(40·2^40)."""
    nodes = [node("Shape", ["x"], ["s"]), node("Concat", ["s", "big"], ["t0"], axis=0)] + [node("Mul", [f"t{i}", f"t{i}"], [f"t{i + 1}"]) for i in range(40)]
    data = model([*nodes, node("ConstantOfShape", ["t40"], ["y"])], [vi("x", FLOAT, ["n"])], [vi("y", FLOAT, None)], {"big": np.array([2**40])})
    with within(1):
        session(data)


def test_carried_values_that_settle_slowly() -> None:
    """A shift register: each round of the loop's inference learns of one more carried value."""
    count = 300
    body = helper.make_graph([node("Identity", ["c"], ["d"]), node("Concat", ["v0", "v0"], ["w0"], axis=0), *(node("Neg", [f"v{i - 1}"], [f"w{i}"]) for i in range(1, count))],
        "body",
                             [vi("i", INT64, []), vi("c", BOOL, []), *(vi(f"v{i}", FLOAT, None) for i in range(count))],
                             [vi("d", BOOL, []), *(vi(f"w{i}", FLOAT, None) for i in range(count))])
    data = model([node("Loop", ["m", "", *["x"] * count], [f"o{i}" for i in range(count)], body=body)], [vi("x", FLOAT, ["n"])], [vi(f"o{count - 1}", FLOAT, None)],
        {"m": np.array(1)})
    with within(2):
        assert session(data).run(None, X)[0].tolist() == [-1]


@pytest.mark.parametrize("length", [200, 20_000])
def test_long_names_are_not_compared_for_suggestions(length: int) -> None:
    name = "ab" * length
    data = model([node("Add", [name + "z", "x"], ["y"]), *(node("Neg", ["x"], [f"{name}{i}"]) for i in range(100))], [vi("x", FLOAT, ["n"])], [vi("y", FLOAT, None)])
    with within(1), refused(InvalidGraph, "Add 'y'", "the model is incomplete"):
        session(data)


def test_a_tree_that_is_a_circle() -> None:
    data = model([node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0, 0], nodes_nodeids=[0, 1], nodes_featureids=[0, 0],
        nodes_values=[0.0, 0.0],
                       nodes_modes=["BRANCH_LEQ"] * 2, nodes_truenodeids=[1, 0], nodes_falsenodeids=[1, 0], target_treeids=[0], target_nodeids=[0], target_ids=[0],
                       target_weights=[1.0])],
                 [vi("x", FLOAT, ["n", 1])], [vi("y", FLOAT, None)])
    with within(1), refused(RuntimeError, "TreeEnsembleRegressor 'y'", "cycle"):
        session(data).run(None, {"x": np.ones((1, 1), F)})


def test_the_errors_of_files_are_the_files() -> None:
    assert issubclass(InvalidModelFile, InvalidProtobuf) and issubclass(InvalidProtobuf, SardonyxError)
