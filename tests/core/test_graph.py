"""The Graph's own invariants: uses, order, captures, replacement of outputs."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.errors import InvalidGraph
from sardonyx.graph import Graph, Node, Tensor, Value, merge_origins
from sardonyx.types import DType, TensorType

FLOAT = TensorType(DType.FLOAT, (2,))


def chain() -> tuple[Graph, Node, Node]:
    graph = Graph("g", [Value("x", FLOAT)])
    first = graph.node("Relu", [graph.inputs[0]], name="first")
    second = graph.node("Add", [first.outputs[0], graph.constant(np.ones(2, np.float32))], name="second")
    graph.outputs = [second.outputs[0]]
    return graph, first, second


def test_uses_follow_rewrites() -> None:
    graph, first, second = chain()
    x, middle = graph.inputs[0], first.outputs[0]
    assert list(middle.uses) == [(second, 0)]
    middle.replace_by(x)
    assert not middle.uses and (second, 0) in x.uses
    graph.remove(first)
    assert (first, 0) not in x.uses
    graph.verify()


def test_sort_orders_and_refuses_cycles() -> None:
    graph, first, second = chain()
    graph.nodes.reverse()
    graph.sort()
    assert graph.nodes == [first, second]
    first.set_input(0, second.outputs[0])
    with pytest.raises(InvalidGraph, match="cycle"):
        graph.sort()


def test_verify_names_what_is_wrong() -> None:
    graph, first, second = chain()
    graph.nodes = [second, first]
    with pytest.raises(InvalidGraph, match="before it is used"):
        graph.verify()
    graph.nodes = [first]
    with pytest.raises(InvalidGraph, match="never made"):
        graph.verify()


def test_captures_of_nested_graphs() -> None:
    graph, first, second = chain()
    inner = Graph("body")
    node = inner.node("Mul", [first.outputs[0], first.outputs[0]])
    inner.outputs = [node.outputs[0]]
    assert inner.captures() == [first.outputs[0]]
    holder = graph.node("If", [second.outputs[0]], then_branch=inner, else_branch=inner)
    assert [n.op_type for n in graph.walk()] == ["Relu", "Add", "If", "Mul", "Mul"]
    graph.remove(holder)
    assert all(user is not node for user, _ in first.outputs[0].uses)


@pytest.mark.parametrize("kind", ["node", "input", "constant"])
def test_replacing_an_output_keeps_its_name(kind: str) -> None:
    graph, first, second = chain()
    name = second.outputs[0].name
    new = {"node": first.outputs[0], "input": graph.inputs[0], "constant": graph.constant(np.zeros(2, np.float32))}[kind]
    graph.replace_value(second.outputs[0], new)
    graph.remove(second)
    assert [v.name for v in graph.outputs] == [name]
    assert graph.inputs[0].name == "x"
    graph.sort()
    graph.verify()


def test_splat_takes_one_element() -> None:
    tensor = Tensor.splat(1.5, DType.FLOAT, (1000, 1000))
    assert tensor.is_splat and tensor.nbytes == 4_000_000 and tensor.numpy().strides == (0, 0)
    assert not Tensor(np.ones((2, 2), np.float32)).is_splat


def test_origins_merge_in_order_once() -> None:
    a, b = Node("A", [], [], name="a"), Node("B", [], [], origin=("b", "a"))
    assert merge_origins([a, b]) == ("a", "b")
