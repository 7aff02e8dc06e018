"""The Graph: the one graph of the project. Nodes are standard ONNX operators, all at one canonical opset (`OPSETS`).

How to think
- A `Value` is one edge: it is a graph input, a node's output, or a constant (`value.const`). A node input that is absent is None.
- A `Node` is an operator with its attributes; nested graphs (If, Loop, Scan) are attributes of type `Graph` and use outer Values directly:
  there are no names to resolve, a capture is simply a Value of an enclosing graph.
- Uses are kept for you: `node.set_input`, `value.replace_by` and `graph.remove` maintain `value.uses`. A pass rewrites freely, calls
  `graph.sort()` if it added nodes, and `graph.verify()` holds after it.
- Every node keeps `origin`: the names of the model's nodes it came from. A rewrite gives its new nodes the union of the old ones' origins
  (`merge_origins`), so errors, profiles and `explain()` speak of the model the user knows.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import InvalidGraph
from .narrow import asarray
from .types import DType, TensorType, ValueType

#: The canonical opset: what every imported model is upgraded to and what every rule downstream may assume.
OPSETS = {"": 28, "ai.onnx.ml": 5, "ai.onnx.preview": 1, "ai.onnx.preview.training": 1, "com.microsoft": 1}


class Tensor:
    """A constant: dtype, shape and data that may still lie in the file.

    `array`: the elements, for STRING an object array of str. `load`: called by `numpy()` each time where the elements are not at hand in plain form (packed
    storage, splat, a mapped file). `storage` is the file's own record of where and how they lie; executors that take packed data read that.
    """

    __slots__ = ("dtype", "shape", "storage", "_array", "_load")

    def __init__(self, array: np.ndarray | None = None, *, dtype: DType | None = None, shape: tuple[int, ...] | None = None,
                 load: Callable[[], np.ndarray] | None = None, storage: Any = None) -> None:
        self._array, self._load, self.storage = array, load, storage
        if array is not None:
            self.dtype = DType.of(array) if dtype is None else dtype
            self.shape = tuple(array.shape)
        else:
            assert dtype is not None and shape is not None and load is not None
            self.dtype, self.shape = dtype, shape

    @classmethod
    def splat(cls, value: Any, dtype: DType, shape: tuple[int, ...]) -> Tensor:
        """Every element equal to `value`; takes one element of memory whatever the shape."""
        return cls(np.broadcast_to(asarray(value, dtype), shape), dtype=dtype)

    @property
    def is_splat(self) -> bool:
        """True where the elements are known to be one repeated value (zero strides); a plain array is not searched."""
        return self._array is not None and self._array.size > 1 and not any(s for s, n in zip(self._array.strides, self.shape, strict=True) if n > 1)

    @property
    def size(self) -> int:
        """The number of elements."""
        count = 1
        for d in self.shape:
            count *= d
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of the plain form in a file (0 for strings)."""
        return self.dtype.nbytes(self.size)

    def numpy(self) -> np.ndarray:
        """The elements in plain form; do not write to it."""
        if self._array is not None:
            return self._array
        assert self._load is not None
        return self._load()

    def __repr__(self) -> str:
        return f"Tensor({TensorType(self.dtype, self.shape).describe()}{', splat' if self.is_splat else ''})"


class Value:
    """One edge of a graph. `uses` holds a (node, input index) pair for each use as a node input; graph outputs are not in it."""

    __slots__ = ("name", "type", "const", "producer", "uses", "doc")

    def __init__(self, name: str, type: ValueType | None = None, const: Tensor | None = None) -> None:
        self.name, self.type, self.const = name, type, const
        self.producer: Node | None = None
        self.uses: dict[tuple[Node, int], None] = {}  # a dict, for its order
        self.doc = ""
        if const is not None and type is None:
            self.type = TensorType(const.dtype, const.shape)

    @property
    def dtype(self) -> DType | None:
        return self.type.dtype if isinstance(self.type, TensorType) else None

    @property
    def shape(self) -> Any:
        """The shape of a tensor as a tuple of Dims, or None."""
        return self.type.shape if isinstance(self.type, TensorType) else None

    def replace_by(self, other: Value) -> None:
        """Make every node that uses this value use `other` instead. Graph outputs are replaced by `graph.replace_output`."""
        for node, index in list(self.uses):
            node.set_input(index, other)

    def __repr__(self) -> str:
        return f"Value({self.name!r}: {self.type.describe() if isinstance(self.type, TensorType) else self.type})"


AttributeValue = Any  # int | float | str | bytes | Tensor | Graph | ValueType | a list of one of these


class Node:
    """An operator applied to values. `inputs` may hold None for an absent optional input; `outputs` holds None for one nobody asked for."""

    __slots__ = ("op_type", "domain", "attributes", "name", "origin", "_inputs", "outputs")

    def __init__(self, op_type: str, inputs: Iterable[Value | None], outputs: Iterable[Value | None], attributes: dict[str, AttributeValue] | None = None, *,
                 domain: str = "", name: str = "", origin: tuple[str, ...] = ()) -> None:
        self.op_type, self.domain, self.name = op_type, domain, name
        self.attributes: dict[str, AttributeValue] = attributes or {}
        self.origin = origin or ((name,) if name else ())
        self._inputs = list(inputs)
        self.outputs = list(outputs)
        for i, value in enumerate(self._inputs):
            if value is not None:
                value.uses[(self, i)] = None
        for out in self.outputs:
            if out is not None:
                out.producer = self

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        return tuple(self._inputs)

    def set_input(self, index: int, value: Value | None) -> None:
        """Replace one input; appends where `index` equals the number of inputs."""
        if index == len(self._inputs):
            self._inputs.append(None)
        old = self._inputs[index]
        if old is not None:
            old.uses.pop((self, index), None)
        self._inputs[index] = value
        if value is not None:
            value.uses[(self, index)] = None

    def set_inputs(self, values: Iterable[Value | None]) -> None:
        """Replace all inputs."""
        self.detach()
        self._inputs = []
        for i, value in enumerate(values):
            self.set_input(i, value)

    def detach(self) -> None:
        """Stop using the inputs (done by `graph.remove`)."""
        for i in range(len(self._inputs)):
            self.set_input(i, None)

    def subgraphs(self) -> Iterator[Graph]:
        """The graphs among the attributes. Every look at a model asks every node, and hardly one has any."""
        found: list[Graph] = []
        for value in self.attributes.values():
            kind = type(value)
            if kind is Graph:
                found.append(value)
            elif kind is list and value and type(value[0]) is Graph:  # lists are of one kind, and may be as long as an ensemble has nodes
                found += value
        return iter(found)

    @property
    def operator(self) -> str:
        """`Conv`, or `com.microsoft.FusedConv`: the operator with its domain where that is not ai.onnx."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type

    @property
    def label(self) -> str:
        """`Conv 'conv1'`: the operator and the model's name(s), for messages."""
        names = [n for n in self.origin if n] or [v.name for v in self.outputs if v is not None][:1]
        return f"{self.operator} '{' + '.join(names[:3])}{' …' if len(names) > 3 else ''}'"

    def __repr__(self) -> str:
        def text(values: Iterable[Value | None]) -> str:
            return ", ".join("_" if v is None else v.name for v in values)
        return f"{text(self.outputs)} = {self.operator}({text(self.inputs)})"


class Graph:
    """Inputs, outputs and nodes in an order in which every value is made before it is used."""

    def __init__(self, name: str = "", inputs: Iterable[Value] = (), outputs: Iterable[Value] = (), nodes: Iterable[Node] = ()) -> None:
        self.name = name
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.nodes = list(nodes)
        self.doc = ""

    # -- building ------------------------------------------------------------------------------------------------------------------------
    def constant(self, data: Any, name: str = "", dtype: DType | None = None) -> Value:
        """A constant Value of an array (or anything NumPy makes one of)."""
        array = data if isinstance(data, np.ndarray) else np.asarray(data) if dtype is None else asarray(data, dtype)
        return Value(name or self.unique_name("const"), None, Tensor(array, dtype=dtype))

    def node(self, op_type: str, inputs: Iterable[Value | None], outputs: int | Iterable[Value | None] = 1, *, domain: str = "", name: str = "",
             origin: tuple[str, ...] = (), before: Node | None = None, **attributes: AttributeValue) -> Node:
        """Add a node (at the end, or before another one) and make its output Values where `outputs` is a count."""
        if isinstance(outputs, int):
            base = name or self.unique_name(op_type.lower())
            outputs = [Value(base if i == 0 else f"{base}:{i}") for i in range(outputs)]
        node = Node(op_type, inputs, outputs, attributes, domain=domain, name=name, origin=origin)
        if before is None:
            self.nodes.append(node)
        else:
            self.nodes.insert(self.nodes.index(before), node)
        return node

    def unique_name(self, base: str) -> str:
        """A name no value or node of this graph was given by this method before."""
        counters = self.__dict__.setdefault("_counters", {})
        if not counters:
            for node in self.walk():
                for out in node.outputs:
                    if out is not None:
                        counters.setdefault(out.name, 0)
            for value in self.inputs:
                counters.setdefault(value.name, 0)
        while True:
            counters[base] = number = counters.get(base, -1) + 1
            name = base if number == 0 else f"{base}_{number}"
            if name == base or name not in counters:
                counters.setdefault(name, 0)
                return name

    # -- rewriting -------------------------------------------------------------------------------------------------------------------------
    def remove(self, *nodes: Node) -> None:
        """Take nodes out of the graph; their outputs must have no uses left that matter to the caller."""
        gone = set(nodes)
        for node in nodes:
            node.detach()
            release_captures(node)
        self.nodes = [n for n in self.nodes if n not in gone]

    def replace_output(self, old: Value, new: Value) -> None:
        """Where `old` is a graph output, make `new` the output. The caller keeps the interface's name by giving it to `new`."""
        self.outputs = [new if v is old else v for v in self.outputs]

    def replace_value(self, old: Value, new: Value) -> None:
        """`old` is `new` from now on, in nodes of this and nested graphs and in this graph's outputs. An output keeps its name: `new` takes it,
        or, where `new` is itself an input, constant or output, an Identity carries the name."""
        old.replace_by(new)
        for graph in self.graphs():
            if not any(v is old for v in graph.outputs):
                continue
            if graph is self and (new.producer is None or new in graph.outputs or new.producer not in set(graph.nodes)):
                carrier = Value(old.name, old.type or new.type)
                graph.nodes.append(Node("Identity", [new], [carrier], origin=old.producer.origin if old.producer else ()))
                old.name = f"{old.name}:replaced"
                graph.replace_output(old, carrier)
            else:
                if graph is self:
                    old.name, new.name = f"{old.name}:replaced", old.name
                graph.replace_output(old, new)

    def sort(self) -> None:
        """Order the nodes topologically, keeping the present order where it is possible; a cycle raises InvalidGraph."""
        here = {node: i for i, node in enumerate(self.nodes)}
        state: dict[Node, int] = {}
        order: list[Node] = []
        for root in self.nodes:
            stack = [(root, iter(self._needs(root, here)))] if root not in state else []
            if stack:
                state[root] = 1
            while stack:
                node, needs = stack[-1]
                for need in needs:
                    if state.get(need) == 1:
                        raise InvalidGraph(f"graph '{self.name}' has a cycle through {need.label}; a model's nodes must form a directed acyclic graph")
                    if need not in state:
                        state[need] = 1
                        stack.append((need, iter(self._needs(need, here))))
                        break
                else:
                    stack.pop()
                    state[node] = 2
                    order.append(node)
        self.nodes = order

    def _needs(self, node: Node, here: dict[Node, int]) -> list[Node]:
        values = [v for v in node.inputs if v is not None] + [v for g in node.subgraphs() for v in g.captures()]
        return sorted({v.producer for v in values if v.producer in here}, key=lambda n: here[n])

    # -- looking ----------------------------------------------------------------------------------------------------------------------------
    def walk(self) -> Iterator[Node]:
        """All nodes, nested ones after the node that holds them."""
        for node in self.nodes:
            yield node
            for graph in node.subgraphs():
                yield from graph.walk()

    def graphs(self) -> Iterator[Graph]:
        """This graph and all nested ones."""
        yield self
        for node in self.nodes:
            for graph in node.subgraphs():
                yield from graph.graphs()

    def constants(self) -> list[Value]:
        """The constants this graph's own nodes, outputs and inputs (defaults) use, each once, in order of use."""
        found: dict[Value, None] = {}
        for node in self.nodes:
            found.update((v, None) for v in node.inputs if v is not None and v.const is not None)
        found.update((v, None) for v in [*self.outputs, *self.inputs] if v.const is not None)
        return list(found)

    def captures(self) -> list[Value]:
        """Values of enclosing graphs (inputs or node outputs, not constants) that this graph or one nested in it uses."""
        own: set[Value] = set(self.inputs)
        found: dict[Value, None] = {}
        for node in self.nodes:
            found.update((v, None) for v in node.inputs if v is not None and v.const is None and v not in own)
            for graph in node.subgraphs():
                found.update((v, None) for v in graph.captures() if v not in own)
            own.update(v for v in node.outputs if v is not None)
        found.update((v, None) for v in self.outputs if v.const is None and v not in own)
        return list(found)

    def verify(self, outer: set[Value] | None = None) -> None:
        """Raise InvalidGraph unless every value is defined once and before its use, and uses are recorded."""
        known: set[Value] = set(outer or ())
        for value in self.inputs:
            if value in known:
                raise InvalidGraph(f"graph '{self.name}': input '{value.name}' appears twice")
            known.add(value)
        for node in self.nodes:
            for i, used in enumerate(node.inputs):
                if used is None:
                    continue
                if used.const is None and used not in known:
                    raise InvalidGraph(f"{node.label}: input {i} '{used.name}' is not made before it is used (graph '{self.name}')")
                if (node, i) not in used.uses:
                    raise InvalidGraph(f"{node.label}: the use of '{used.name}' is not recorded; rewrite with set_input")
            for graph in node.subgraphs():
                graph.verify(known)
            for made in node.outputs:
                if made is None:
                    continue
                if made in known or made.producer is not node:
                    raise InvalidGraph(f"{node.label}: output '{made.name}' is made twice")
                known.add(made)
        for result in self.outputs:
            if result.const is None and result not in known:
                raise InvalidGraph(f"graph '{self.name}': output '{result.name}' is never made")

    def __str__(self) -> str:
        return "\n".join([f"graph {self.name}({', '.join(map(repr, self.inputs))})"] + [f"  {n!r}" for n in self.nodes]
                         + [f"  return {', '.join(v.name for v in self.outputs)}"])


def release_captures(node: Node) -> None:
    """Detach the nodes nested in a removed node, so that outer values forget those uses."""
    for graph in node.subgraphs():
        for inner in graph.walk():
            inner.detach()


def merge_origins(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The origins of several nodes as one tuple, each name once, in order."""
    return tuple(dict.fromkeys(name for node in nodes for name in node.origin))


@dataclass
class Model:
    """A graph with what the file says about it.

    `opsets`: the opset imports of the file it was read from (for `inspect`; the graph itself is at `OPSETS`). `symbols`: ranges of named sizes
    {name: (lower, upper or None)}. `path`: where it was read, for messages and external data. `optimized`: a conversion has run its passes or was told not to; sessions run none.
    """

    graph: Graph
    opsets: dict[str, int] = field(default_factory=lambda: dict(OPSETS))
    metadata: dict[str, str] = field(default_factory=dict)
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc: str = ""
    ir_version: int = 14
    symbols: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    path: str = ""
    optimized: bool = False

    @property
    def interface(self) -> tuple[list[Value], list[Value]]:
        """The graph's inputs and outputs."""
        return self.graph.inputs, self.graph.outputs
