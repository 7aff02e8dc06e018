"""A Model as the columns of the graph section (sdx.fbs). Numbers are given in the order things are met, so the same model gives the same bytes."""
from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..dim import Expr, Shape
from ..errors import InvalidGraph
from ..graph import Graph, Model, Node, Tensor, Value
from ..types import MapType, OptionalType, SequenceType, SparseTensorType, TensorType, ValueType
from .format import COLUMNS, MAX_NESTING, MAX_RANK, NUMBERS, UNKNOWN_RANK, Kind, ValueKind
from .sizes import SizeWriter

_TYPES = (TensorType, SparseTensorType, SequenceType, OptionalType, MapType)


class Encoder:
    """Fills the columns. `constant` gives the number of a Tensor's record; the records themselves are the writer's."""

    def __init__(self, constant: Callable[[Tensor], int]) -> None:
        self._constant = constant
        self._strings: dict[str, int] = {"": 0}
        self._types: dict[ValueType, int] = {}
        self._shapes: dict[tuple[int, ...], int] = {}
        self._values: dict[Value, int] = {}
        self._graphs: dict[int, int] = {}
        self._queue: list[Graph] = []
        self._numbers = bytearray()
        self._sizes = SizeWriter(self.string)
        self._rows: dict[str, Any] = {name: [] for name in COLUMNS}

    def columns(self, model: Model, data_file: str) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """(columns without `constants`, scalars)."""
        rows = self._rows
        self._graph_number(model.graph, None)
        for graph in self._queue:  # grows while nested graphs are met, so a nested graph comes after its holder
            self._graph(graph)
        rows["opsets"] = [(self.string(d), v) for d, v in model.opsets.items()]
        rows["metadata"] = [(self.string(k), self.string(v)) for k, v in model.metadata.items()]
        rows["symbols"] = [(low, 0 if high is None else high, self.string(n), high is not None) for n, (low, high) in model.symbols.items()]
        scalars = {name: self.string(getattr(model, name)) for name in ("producer_name", "producer_version", "domain", "doc")}
        scalars |= {"data_file": self.string(data_file), "ir_version": model.ir_version, "model_version": model.model_version}
        texts = [s.encode("utf-8", "surrogateescape") for s in self._strings]
        rows["string_ends"] = np.cumsum([len(t) for t in texts])
        rows["string_bytes"] = np.frombuffer(b"".join(texts), np.uint8)
        rows["numbers"] = np.frombuffer(bytes(self._numbers), np.uint8)
        rows["size_words"], rows["size_ends"] = self._sizes.words, self._sizes.ends
        try:
            return {name: np.array(rows[name], dtype) for name, dtype in COLUMNS.items() if name != "constants"}, scalars
        except OverflowError as error:
            raise InvalidGraph(f"the model holds a number beyond the range of its field ({error}); opset versions and sizes fit 32 and 64 bits") from None

    def string(self, text: str) -> int:
        """The number of a string; bytes that are not UTF-8 travel as surrogates (`surrogateescape`)."""
        return self._strings.setdefault(text, len(self._strings))

    def shape(self, shape: Shape, name: str) -> int:
        """Where in `dims` the sizes begin; equal shapes are stored once."""
        if len(shape) > MAX_RANK:
            raise InvalidGraph(f"'{name}' has rank {len(shape)}; the highest rank is {MAX_RANK}")
        if any(not isinstance(d, Expr) and d < 0 for d in shape):
            raise InvalidGraph(f"'{name}' has a negative size: {list(shape)}")
        sizes = tuple(self._sizes.dim(d) for d in shape)
        if sizes not in self._shapes:
            self._shapes[sizes] = len(self._rows["dims"])
            self._rows["dims"] += sizes
        return self._shapes[sizes]

    def _type(self, kind: ValueType | None, name: str, depth: int = 0) -> int:
        """Number + 1 of a type; 0 for None."""
        if kind is None:
            return 0
        if depth > MAX_NESTING:
            raise InvalidGraph(f"'{name}': a type nested deeper than {MAX_NESTING}")
        if kind not in self._types:
            row = self._type_row(kind, name, depth)
            self._types[kind] = len(self._rows["types"])
            self._rows["types"].append(row)
        return self._types[kind] + 1

    def _type_row(self, kind: ValueType, name: str, depth: int) -> tuple[int, int, int, int]:
        if isinstance(kind, (TensorType, SparseTensorType)):
            which = ValueKind.TENSOR if isinstance(kind, TensorType) else ValueKind.SPARSE_TENSOR
            rank, at = (UNKNOWN_RANK, 0) if kind.shape is None else (len(kind.shape), self.shape(kind.shape, name))
            return which, kind.dtype or 0, rank, at
        if isinstance(kind, MapType):
            return ValueKind.MAP, kind.key, 0, self._type(kind.value, name, depth + 1) - 1
        return ValueKind.SEQUENCE if isinstance(kind, SequenceType) else ValueKind.OPTIONAL, 0, 0, self._type(kind.element, name, depth + 1) - 1

    def _value(self, value: Value) -> int:
        number = self._values.get(value)
        if number is None:
            number = self._values[value] = len(self._values)
            const = value.const
            implied = const is not None and value.type == TensorType(const.dtype, const.shape)
            self._rows["values"].append((self.string(value.name), 0 if implied else self._type(value.type, value.name), 0 if const is None else self._constant(const) + 1))
            if value.doc:
                self._rows["value_docs"].append((number, self.string(value.doc)))
        return number

    def _operands(self, values: Iterable[Value | None]) -> list[int]:
        return [0 if v is None else self._value(v) + 1 for v in values]

    def _graph_number(self, graph: Graph, holder: Node | None) -> int:
        if id(graph) in self._graphs:
            raise InvalidGraph(f"{holder.label if holder else graph.name}: the nested graph '{graph.name}' is held twice; give each attribute a graph of its own")
        self._queue.append(graph)
        self._graphs[id(graph)] = len(self._queue) - 1
        return len(self._queue) - 1

    def _graph(self, graph: Graph) -> None:
        rows = self._rows
        rows["graph_inputs"] += [self._value(v) for v in graph.inputs]
        for node in graph.nodes:
            self._node(node)
        rows["graph_outputs"] += [self._value(v) for v in graph.outputs]
        rows["graphs"].append((self.string(graph.name), self.string(graph.doc), len(rows["graph_inputs"]), len(rows["graph_outputs"]), len(rows["nodes"])))

    def _node(self, node: Node) -> None:
        rows = self._rows
        if node.origin != (node.name,):
            rows["origins"] += [self.string(o) for o in node.origin]
        rows["node_inputs"] += self._operands(node.inputs)
        rows["node_outputs"] += self._operands(node.outputs)
        for name, value in node.attributes.items():
            self._attribute(node, name, value)
        rows["nodes"].append((self.string(node.op_type), self.string(node.domain), self.string(node.name), len(rows["origins"]), len(rows["node_inputs"]),
                              len(rows["node_outputs"]), len(rows["attributes"])))

    def _attribute(self, node: Node, name: str, value: Any) -> None:
        is_list = isinstance(value, (list, tuple))
        items = list(value) if is_list else [value]
        where = f"{node.label}: attribute '{name}'"
        kind = _kind(items, where)
        code, data = _narrow(self._attribute_numbers(kind, items, node), kind, where)
        self._numbers += data
        self._rows["attributes"].append((self.string(name), len(items), kind, code, is_list, 0))

    def _attribute_numbers(self, kind: Kind, items: list[Any], node: Node) -> Sequence[Any]:
        number: Mapping[Kind, Callable[[Any], int]] = {
            Kind.STRING: self.string, Kind.BYTES: lambda b: self.string(bytes(b).decode("utf-8", "surrogateescape")), Kind.TENSOR: self._constant,
            Kind.GRAPH: lambda g: self._graph_number(g, node), Kind.TYPE: lambda t: self._type(t, node.label) - 1}
        return items if kind in (Kind.INT, Kind.FLOAT) else [number[kind](item) for item in items]


def _kind(items: list[Any], where: str) -> Kind:
    tests: tuple[tuple[Kind, Any], ...] = ((Kind.INT, numbers.Integral), (Kind.FLOAT, numbers.Real), (Kind.STRING, str), (Kind.BYTES, (bytes, bytearray)),
                                           (Kind.TENSOR, Tensor), (Kind.GRAPH, Graph), (Kind.TYPE, _TYPES))
    for kind, classes in tests:
        if all(isinstance(item, classes) or isinstance(item, np.bool_) and kind is Kind.INT for item in items):
            return kind
    found = ", ".join(sorted({type(i).__name__ for i in items}))
    raise InvalidGraph(f"{where} is of no kind a file can hold ({found}); use int, float, str, bytes, Tensor, Graph, ValueType or a list of one of these")


def _narrow(items: Sequence[Any], kind: Kind, where: str) -> tuple[int, bytes]:
    """The narrowest of NUMBERS that holds every item exactly, and the bytes."""
    try:
        wide = np.array(items, np.float64 if kind is Kind.FLOAT else np.int64)
    except OverflowError:
        raise InvalidGraph(f"{where} holds an integer beyond int64") from None
    for code, dtype in enumerate(NUMBERS):
        if (dtype.kind == "f") == (kind is Kind.FLOAT):
            with np.errstate(over="ignore", invalid="ignore"):
                short = wide.astype(dtype)
            if np.array_equal(short.astype(wide.dtype), wide, equal_nan=kind is Kind.FLOAT):
                return code, short.tobytes()
    raise AssertionError("the widest holds everything")
