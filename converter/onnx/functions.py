"""Model-local functions: every call is replaced by the function's body, at every depth.

A body is built anew for each call (attributes differ), upgraded from the function's own opsets, and spliced in place of the call: the body's
last values become the call's outputs. Origins are the call's plus the inner node's. Recursion and runaway expansion are errors.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sardonyx.errors import InvalidGraph
from sardonyx.graph import Graph, Node, Value, release_captures

from .build import CALL, Builder, FunctionKey, Scope, declared_types
from .proto import FunctionProto, NodeProto

#: Inlining may make this many nodes, or this many times the nodes in the file.
MAX_NODES, MAX_GROWTH = 20_000, 64
#: Functions may call functions this deep.
MAX_CALLS = 50

Upgrade = Callable[[Graph, dict[str, int]], None]


class Inliner:
    """Replaces the calls in one model. `opsets_of` gives a function's checked opsets."""

    def __init__(self, builder: Builder, upgrade: Upgrade, opsets_of: Callable[[FunctionProto], dict[str, int]], model: Graph) -> None:
        self.builder, self.upgrade, self.opsets_of = builder, upgrade, opsets_of
        values = [v for graph in model.graphs() for v in [*graph.inputs, *graph.constants(), *(v for node in graph.nodes for v in node.outputs if v is not None)]]
        self.owner: dict[str, Value] = {v.name: v for v in values}
        self.numbers: dict[str, int] = {}  # the last number a name was made unique with
        self.room = MAX_NODES + MAX_GROWTH * sum(1 for _ in model.walk())

    def run(self, graph: Graph, chain: tuple[FunctionKey, ...] = ()) -> None:
        """Replace every call in `graph` and the graphs nested in it."""
        for inner in list(graph.graphs()):
            if any(node.domain.startswith(CALL) for node in inner.nodes):
                inner.nodes = [made for node in inner.nodes for made in (self._body(node, chain) if node.domain.startswith(CALL) else (node,))]

    def _body(self, call: Node, chain: tuple[FunctionKey, ...]) -> list[Node]:
        key = key_of(call)
        if key in chain or len(chain) >= MAX_CALLS:
            path = " → ".join(name for _, name, _ in (*chain, key))
            raise InvalidGraph(f"function call '{call.name or key[1]}': functions call each other in a circle or too deeply ({path[:300]})")
        function = self.builder.functions[key]
        graph = self._build(call, function)
        self.room -= 1 + sum(1 for _ in graph.walk())
        if self.room < 0:
            raise InvalidGraph(f"inlining the model's functions makes too many nodes (at function '{key[1]}'); more than {MAX_GROWTH} times the nodes in the file")
        if not self.builder.in_order:
            sort_all(graph)
        self.upgrade(graph, self.opsets_of(function))
        self.run(graph, (*chain, key))
        nodes = _splice(call, graph)
        self._make_unique(nodes)
        return nodes

    def _build(self, call: Node, function: FunctionProto) -> Graph:
        title = f"function '{function.domain}.{function.name}'"
        what = f"call '{call.origin[-1] if call.origin else call.name}' of {title}"
        if len(call.inputs) > len(function.input) or len(call.outputs) > len(function.output):
            raise InvalidGraph(f"{what}: has {len(call.inputs)} inputs and {len(call.outputs)} outputs; the function has {len(function.input)} and {len(function.output)}")
        prefix = f"{call.name or (call.origin[-1] if call.origin else function.name)}/"
        scope = Scope(title, attributes=self._attributes(call, function, what, prefix), prefix=prefix, origin=call.origin)
        for i, name in enumerate(function.input):
            value = call.inputs[i] if i < len(call.inputs) else None
            if value is None:
                scope.absent.add(name)
            elif name not in scope.values:
                scope.values[name] = value
            else:
                raise InvalidGraph(f"{title}: input '{name}' appears twice")
        graph = Graph(function.name)
        graph.nodes = self.builder.nodes(function.node, scope, declared_types(function.value_info))
        for name in function.output[:len(call.outputs)]:
            found = scope.find(name)
            if found is None:
                raise InvalidGraph(f"{what}: output '{name}' is never made" + (", because the optional input of that name is absent" if name in scope.absent else ""))
            graph.outputs.append(found)
        return graph

    def _attributes(self, call: Node, function: FunctionProto, what: str, prefix: str) -> Mapping[str, Any]:
        """The call's attributes over the function's defaults."""
        defaults = Scope(what, attributes={}, prefix=prefix)
        known = {a.name: a for a in function.attribute_proto}
        for name in call.attributes:
            if name not in known and name not in function.attribute:
                raise InvalidGraph(f"{what}: unknown attribute '{name}'; the function has: {', '.join([*function.attribute, *known]) or 'none'}")
        owner = NodeProto()
        owner.op_type, owner.domain, owner.name = function.name, function.domain, call.name
        given = {name: self.builder.attribute(proto, owner, defaults) for name, proto in known.items() if name not in call.attributes}
        return {**given, **call.attributes}

    def _make_unique(self, nodes: list[Node]) -> None:
        """Give values made by this body names nobody has (two calls without names give one prefix, passes inside a body count for themselves)."""
        for node in Graph("", nodes=nodes).walk():
            for value in node.outputs:
                if value is not None:
                    self._claim(value)

    def _claim(self, value: Value) -> None:
        base = value.name
        while self.owner.setdefault(value.name, value) is not value:
            self.numbers[base] = number = self.numbers.get(base, 0) + 1
            value.name = f"{base}_{number}"


def sort_all(graph: Graph) -> None:
    """Order the nodes of the graph and of those nested in it, inner ones first."""
    for inner in reversed(list(graph.graphs())):
        inner.sort()


def key_of(call: Node) -> FunctionKey:
    """The function a call node stands for."""
    domain, _, overload = call.domain.removeprefix(CALL).partition("\n")
    return domain, call.op_type, overload


def _splice(call: Node, body: Graph) -> list[Node]:
    """The body's nodes, its outputs being the call's output Values (so nothing outside changes). An output that the body does not make, or makes
    only once for two, comes through an Identity."""
    own = set(body.nodes)
    renamed: dict[Value, Value] = {}
    for old, new in zip(call.outputs, body.outputs, strict=True):
        if old is None:
            continue
        producer = new.producer
        if producer is not None and producer in own and new not in renamed:
            renamed[new] = old
            producer.outputs[producer.outputs.index(new)] = old
            old.producer, old.type = producer, old.type or new.type
            new.replace_by(old)
        else:
            body.nodes.append(Node("Identity", [renamed.get(new, new)], [old], origin=call.origin))
    for graph in body.graphs():
        if graph is not body:
            graph.outputs = [renamed.get(v, v) for v in graph.outputs]
    call.detach()
    release_captures(call)
    return body.nodes
