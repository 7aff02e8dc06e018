"""What an adapter works with: the node, places for new nodes around it, and what is known about its values."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sardonyx.errors import SardonyxError
from sardonyx.graph import Node, Tensor, Value
from sardonyx.narrow import asarray
from sardonyx.ops import Spec
from sardonyx.plan.shapes import infer_node, spec_of
from sardonyx.types import DType

Adapter = Callable[["Site"], None]

#: (domain, operator) → [(version, adapter)], ascending.
ADAPTERS: dict[tuple[str, str], list[tuple[int, Adapter]]] = {}


def adapter(version: int, *operators: str, domain: str = "") -> Callable[[Adapter], Adapter]:
    """Decorator: the function brings nodes of these operators from below `version` to `version`."""
    def register(function: Adapter) -> Adapter:
        for operator in operators:
            entries = ADAPTERS.setdefault((domain, operator), [])
            entries.append((version, function))
            entries.sort(key=lambda entry: entry[0])
        return function
    return register


class Knowledge:
    """Specs of values, inferred on demand from their producers, which are already at the canonical opset."""

    def __init__(self) -> None:
        self._specs: dict[Value, Spec] = {}
        self._seen: set[Node] = set()

    def spec(self, value: Value) -> Spec:
        """What is known of a value; where a producer can not be inferred (its turn to be reported comes later) the declared type is all there is."""
        stack = [value.producer] if value.producer is not None and value not in self._specs else []
        while stack:
            node = stack[-1]
            missing = [p for p in _producers(node) if p not in self._seen]
            if node in self._seen:
                stack.pop()
            elif missing:
                stack += missing
            else:
                self._seen.add(node)
                self._infer(node)
        return spec_of(value, self._specs)

    def _infer(self, node: Node) -> None:
        declared = {v: v.type for v in node.outputs if v is not None}
        try:
            infer_node(node, self._specs)
        except SardonyxError:
            for value, type_ in declared.items():
                value.type = type_


def _producers(node: Node) -> list[Node]:
    captured = [v for graph in node.subgraphs() for v in graph.captures()]
    return [v.producer for v in (*node.inputs, *captured) if v is not None and v.producer is not None]


class Site:
    """One node being upgraded. `before` and `after` collect the nodes to stand around it, in order."""

    def __init__(self, node: Node, knowledge: Knowledge) -> None:
        self.node, self.knowledge = node, knowledge
        self.before: list[Node] = []
        self.after: list[Node] = []
        self._base = next((v.name for v in node.outputs if v is not None), node.name or node.op_type)
        self._count = self._at = 0

    def begin(self) -> None:
        """Called before each adapter: what it puts after the node comes before what earlier ones put there, whose inputs it now makes."""
        self._at = 0

    # -- the node ---------------------------------------------------------------------------------------------------------------------------
    def input(self, index: int) -> Value | None:
        """Input `index`, None where it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def output(self, index: int) -> Value | None:
        """Output `index`, None where nobody asked for it."""
        return self.node.outputs[index] if index < len(self.node.outputs) else None

    def data(self) -> Value:
        """Input 0, which must be there."""
        value = self.node.inputs[0]
        if value is None:
            raise KeyError("input 0")
        return value

    def take(self, name: str, default: Any = None) -> Any:
        """Remove an attribute and return it."""
        return self.node.attributes.pop(name, default)

    def set_input(self, index: int, value: Value | None) -> None:
        """Set input `index`, absent ones before it where there are none yet."""
        while len(self.node.inputs) < index:
            self.node.set_input(len(self.node.inputs), None)
        self.node.set_input(index, value)

    # -- new values and nodes -----------------------------------------------------------------------------------------------------------------
    def name(self, hint: str) -> str:
        """A new value name, derived from the node's first output."""
        self._count += 1
        return f"{self._base}:{hint}{self._count}"

    def constant(self, data: Any, dtype: DType) -> Value:
        """A constant of the given type."""
        with np.errstate(over="ignore"):  # an old float attribute may be infinite in float16
            return Value(self.name("const"), None, Tensor(asarray(data, dtype), dtype=dtype))

    def ints(self, data: Any) -> Value:
        """An int64 constant: sizes, axes."""
        return self.constant(data, DType.INT64)

    def add(self, op_type: str, inputs: Sequence[Value | None], **attributes: Any) -> Value:
        """A new node before this one; its output."""
        made = Value(self.name(op_type.lower()))
        self.before.append(Node(op_type, inputs, [made], attributes, origin=self.node.origin))
        return made

    def divert(self, index: int = 0) -> tuple[Value, Value]:
        """Give output `index` of the node a fresh value: (fresh, the old one, which `finish` must make)."""
        old = self.node.outputs[index]
        assert old is not None
        fresh = self.node.outputs[index] = Value(self.name("raw"))
        fresh.producer = self.node
        return fresh, old

    def finish(self, op_type: str, inputs: Sequence[Value | None], outputs: Value | Sequence[Value | None], **attributes: Any) -> None:
        """A new node after this one (before those of earlier adapters) that makes `outputs`."""
        made = [outputs] if isinstance(outputs, Value) else outputs
        self.after.insert(self._at, Node(op_type, inputs, made, attributes, origin=self.node.origin))
        self._at += 1

    def then(self, op_type: str, inputs: Sequence[Value | None], **attributes: Any) -> Value:
        """As `finish`, with a new output, which is returned."""
        made = Value(self.name(op_type.lower()))
        self.finish(op_type, inputs, made, **attributes)
        return made

    # -- what is known ------------------------------------------------------------------------------------------------------------------------
    def spec(self, value: Value) -> Spec:
        """See `Knowledge.spec`."""
        return self.knowledge.spec(value)

    def rank(self, value: Value) -> int | None:
        """The rank where it is known."""
        return self.spec(value).rank

    def known(self, value: Value | None) -> np.ndarray | None:
        """The numbers of a value known before the run."""
        return None if value is None else value.const.numpy() if value.const is not None else self.spec(value).constant

    def rank_value(self, value: Value) -> Value:
        """The rank as an int64 tensor of shape [1]: a constant, or Shape(Shape(value))."""
        rank = self.rank(value)
        return self.ints([rank]) if rank is not None else self.add("Shape", [self.add("Shape", [value])])

    def scalar_like(self, number: float | list[float], value: Value) -> Value:
        """A scalar (or list) of the element type of `value`: a constant, or CastLike where the type is not known."""
        dtype = self.spec(value).dtype
        if dtype is not None:
            return self.constant(number, dtype)
        return self.add("CastLike", [self.constant(number, DType.FLOAT), value])
