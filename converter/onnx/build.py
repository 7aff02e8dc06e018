"""GraphProto → Graph: names become Values, attributes become Python values, Constant nodes become constants. No upgrading, no inlining here.

Names are declared before they are used: a first walk over the nodes makes a Value for every output, a second one makes the Nodes. So nodes may
come in any order, and a nested graph finds the outer Value itself. A call of a model-local function becomes a Node of domain `CALL + domain`,
with the overload after a line break, which the inliner (`functions`) replaces.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from sardonyx.dim import symbol
from sardonyx.errors import InvalidGraph
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.graph import Graph, Node, Tensor, Value
from sardonyx.types import MapType, OptionalType, SequenceType, SparseTensorType, TensorType, ValueType

from .external import ExternalData
from .proto import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorTypeProto, TypeProto, ValueInfoProto
from .tensors import dtype_of, read_sparse, read_tensor, text

#: Prefix of the domain of a Node that stands for the call of a model-local function until it is inlined.
CALL = "function "
FunctionKey = tuple[str, str, str]  # domain, name, overload

FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS, TENSORS, GRAPHS, SPARSE_TENSOR, SPARSE_TENSORS, TYPE_PROTO, TYPE_PROTOS = range(1, 15)
#: For files before attribute types were written (IR version 1): the first field that is present says the type.
_FIELD_TYPES = {"f": FLOAT, "i": INT, "s": STRING, "t": TENSOR, "g": GRAPH, "floats": FLOATS, "ints": INTS, "strings": STRINGS, "tensors": TENSORS,
                "graphs": GRAPHS, "sparse_tensor": SPARSE_TENSOR, "sparse_tensors": SPARSE_TENSORS, "tp": TYPE_PROTO, "type_protos": TYPE_PROTOS}
_MISSING = object()
#: Longer names are not compared with each other for suggestions.
MAX_NAME = 100


def canonical(domain: str) -> str:
    """`ai.onnx` is written both ways."""
    return "" if domain == "ai.onnx" else domain


class Scope:
    """The names of one graph; a name it lacks is looked up in the enclosing one. In a function body: `attributes` is what `ref_attr_name` finds, `absent` are
    the optional inputs the call leaves out, `prefix` goes before the names made, `origin` is the call's. `tag` keeps unnamed sizes of nested graphs apart."""

    __slots__ = ("values", "outer", "attributes", "absent", "prefix", "origin", "tag", "title")

    def __init__(self, title: str, outer: Scope | None = None, *, attributes: Mapping[str, Any] | None = None, prefix: str = "",
                 origin: tuple[str, ...] = (), tag: str = "") -> None:
        self.values: dict[str, Value] = {}
        self.title, self.outer = title, outer
        self.absent: set[str] = set() if outer is None else outer.absent
        self.attributes: Mapping[str, Any] | None = attributes if outer is None else outer.attributes
        self.prefix: str = prefix if outer is None else outer.prefix
        self.origin: tuple[str, ...] = origin if outer is None else outer.origin
        self.tag = tag

    def find(self, name: str) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            found = scope.values.get(name)
            if found is not None:
                return found
            scope = scope.outer
        return None

    def names(self) -> list[str]:
        """Every visible name, for suggestions."""
        return [*self.values, *(self.outer.names() if self.outer else ())]


class Builder:
    """What all graphs of one model share."""

    def __init__(self, functions: Mapping[FunctionKey, FunctionProto], external: ExternalData, ir_version: int) -> None:
        self.functions, self.external, self.ir_version = functions, external, ir_version
        self.scopes = 0
        self.inputs: set[Value] = set()
        #: Whether every node seen so far comes after the nodes whose outputs it uses.
        self.in_order = True

    # -- graphs ------------------------------------------------------------------------------------------------------------------------------
    def graph(self, proto: GraphProto, outer: Scope | None = None) -> Graph:
        """The Graph of a GraphProto; names it does not define come from `outer`."""
        self.scopes += 1
        scope = Scope(f"graph '{proto.name}'", outer, tag=f"@{self.scopes}" if outer is not None else "")
        graph = Graph(proto.name)
        graph.doc = proto.doc_string
        self._initializers(proto, scope)
        for info in proto.input:
            value = self._input(info, scope)
            if value is not None:
                graph.inputs.append(value)
        graph.nodes = self.nodes(proto.node, scope, declared_types(proto.value_info, proto.output))
        graph.outputs = [self._output(info, scope) for info in proto.output]
        return graph

    def _initializers(self, proto: GraphProto, scope: Scope) -> None:
        for tensor in proto.initializer:
            self._constant(tensor.name, read_tensor(tensor, self.external, f"an initializer at byte {tensor.at}"), scope)
        for sparse in proto.sparse_initializer:
            self._constant(sparse.values.name if sparse.values else "", read_sparse(sparse, self.external, f"a sparse initializer at byte {sparse.at}"), scope)

    def _constant(self, name: str, tensor: Tensor, scope: Scope) -> None:
        if not name:
            raise InvalidGraph(f"{scope.title}: an initializer {tensor!r} has no name")
        if name in scope.values:
            raise InvalidGraph(f"{scope.title}: two initializers are called '{name}'")
        scope.values[name] = Value(scope.prefix + name, None, tensor)

    def _input(self, info: ValueInfoProto, scope: Scope) -> Value | None:
        """The graph input; None where it only repeats an initializer, which files before IR version 4 must do."""
        declared = self.value_type(info.type, info.name, scope)
        value = scope.values.get(info.name)
        if not info.name:
            raise InvalidGraph(f"{scope.title}: an input has no name")
        if value is None:
            value = scope.values[info.name] = Value(scope.prefix + info.name, declared)
            self.inputs.add(value)
        elif value.const is None:
            raise InvalidGraph(f"{scope.title}: input '{info.name}' appears twice")
        elif isinstance(declared, TensorType) and (declared.dtype not in (None, value.const.dtype) or not _may_be(declared.shape, value.const.shape)):
            raise InvalidGraph(f"{scope.title}: input '{info.name}' is declared {declared.describe()}, but its initializer is {value.const!r}")
        elif self.ir_version < 4:
            return None
        elif isinstance(declared, TensorType) and declared.dtype is not None:
            value.type = declared
        value.doc = info.doc_string
        return value

    def _output(self, info: ValueInfoProto, scope: Scope) -> Value:
        value = scope.find(info.name)
        if value is None:
            raise InvalidGraph(f"{scope.title}: output '{info.name}' is never made{_near(info.name, scope)}")
        if value.type is None:
            value.type = self.value_type(info.type, info.name, scope)
        value.doc = value.doc or info.doc_string
        return value

    # -- nodes -------------------------------------------------------------------------------------------------------------------------------
    def nodes(self, protos: Sequence[NodeProto], scope: Scope, types: Mapping[str, TypeProto | None]) -> list[Node]:
        """The Nodes of a graph or function body, in the file's order; Constant nodes become constants in `scope`."""
        work: list[tuple[NodeProto, list[Value | None]]] = []
        for proto in protos:
            if proto.op_type == "Constant" and canonical(proto.domain) == "":
                self._constant_node(proto, scope)
            else:
                work.append((proto, [self._declare(name, proto, scope, types) if name else None for name in proto.output]))
        return [self._node(proto, outputs, scope) for proto, outputs in work]

    def _declare(self, name: str, proto: NodeProto, scope: Scope, types: Mapping[str, TypeProto | None]) -> Value:
        if name in scope.values:
            raise InvalidGraph(f"{_label(proto)}: output '{name}' is made twice in {scope.title}; every value must have one name of its own")
        made = scope.values[name] = Value(scope.prefix + name, self.value_type(types.get(name), name, scope))
        return made

    def _node(self, proto: NodeProto, outputs: list[Value | None], scope: Scope) -> Node:
        inputs: list[Value | None] = []
        for i, name in enumerate(proto.input):
            value = scope.find(name) if name else None
            if value is None and name and name not in scope.absent:
                raise InvalidGraph(f"{_label(proto)}: input {i} '{name}' is not an input, initializer or node output of {scope.title}{_near(name, scope)}")
            elif value is not None and value.producer is None and value.const is None and value not in self.inputs:
                self.in_order = False
            inputs.append(value)
        while inputs and inputs[-1] is None:
            inputs.pop()
        if not proto.op_type:
            raise InvalidGraph(f"a node at byte {proto.at} of {scope.title} has no operator type")
        domain = canonical(proto.domain)
        key = (domain, proto.op_type, proto.overload)
        if key in self.functions:
            domain = f"{CALL}{domain}\n{proto.overload}"
        attributes = {name: value for name, value in ((a.name, self.attribute(a, proto, scope)) for a in proto.attribute) if value is not _MISSING}
        if len(attributes) < len(proto.attribute) and len({a.name for a in proto.attribute}) < len(proto.attribute):
            raise InvalidGraph(f"{_label(proto)}: an attribute is given twice")
        name = proto.name or next((n for n in proto.output if n), "")
        origin = (*scope.origin, name) if name else scope.origin
        return Node(proto.op_type, inputs, outputs, attributes, domain=domain, name=scope.prefix + proto.name if proto.name else "", origin=origin)

    def _constant_node(self, proto: NodeProto, scope: Scope) -> None:
        """Make a Constant node a constant."""
        if len(proto.attribute) != 1 or len(proto.output) != 1 or not proto.output[0] or proto.input:
            raise InvalidGraph(f"{_label(proto)}: a Constant has no input, one output and exactly one attribute, not {[a.name for a in proto.attribute]}")
        attribute = proto.attribute[0]
        made = self.attribute(attribute, proto, scope)
        if made is _MISSING:
            raise InvalidGraph(f"{_label(proto)}: needs the function attribute '{attribute.ref_attr_name}', which the call does not give")
        try:
            tensor = _constant_tensor(attribute.name, made)
        except (TypeError, ValueError, OverflowError, UnicodeError):
            tensor = None
        if tensor is None:
            raise InvalidGraph(f"{_label(proto)}: a Constant can not be made of attribute '{attribute.name}' ({type(made).__name__}); it takes value, sparse_value, "
                               "value_int(s), value_float(s) or value_string(s)")
        name = proto.output[0]
        self._declare(name, proto, scope, {})
        scope.values[name] = Value(scope.prefix + name, None, tensor)

    # -- attributes ----------------------------------------------------------------------------------------------------------------------------
    def attribute(self, proto: AttributeProto, node: NodeProto, scope: Scope) -> Any:
        """The Python value of an attribute; `_MISSING` where it refers to an optional function attribute that is not given."""
        if proto.ref_attr_name:
            if scope.attributes is None:
                raise InvalidGraph(f"{_label(node)}: attribute '{proto.name}' refers to '{proto.ref_attr_name}' outside a function")
            return scope.attributes.get(proto.ref_attr_name, _MISSING)
        kind = proto.type or next((t for field, t in _FIELD_TYPES.items() if field in proto.__dict__), 0)
        if kind == INT:
            return proto.i
        if kind == INTS:
            return list(proto.ints)
        if kind == FLOAT:
            return proto.f
        if kind == STRING:
            return text(proto.s)
        if kind == TENSOR and proto.t is not None:
            return read_tensor(proto.t, self.external, f"attribute '{proto.name}' of {_label(node)}")
        if kind == GRAPH and proto.g is not None:
            return self.graph(proto.g, scope)
        return self._rare_attribute(kind, proto, node, scope)

    def _rare_attribute(self, kind: int, proto: AttributeProto, node: NodeProto, scope: Scope) -> Any:
        what = f"attribute '{proto.name}' of {_label(node)}"
        if kind == FLOATS:
            return np.frombuffer(proto.floats, np.float32).tolist() if len(proto.floats) % 4 == 0 and len(proto.floats) else []
        if kind == STRINGS:
            return [text(s) for s in proto.strings]
        if kind == TENSORS:
            return [read_tensor(t, self.external, what) for t in proto.tensors]
        if kind == GRAPHS:
            return [self.graph(g, scope) for g in proto.graphs]
        if kind == SPARSE_TENSOR and proto.sparse_tensor is not None:
            return read_sparse(proto.sparse_tensor, self.external, what)
        if kind == SPARSE_TENSORS:
            return [read_sparse(s, self.external, what) for s in proto.sparse_tensors]
        if kind == TYPE_PROTO and proto.tp is not None:
            return self.value_type(proto.tp, proto.name, scope)
        if kind == TYPE_PROTOS:
            return [self.value_type(t, proto.name, scope) for t in proto.type_protos]
        raise InvalidGraph(f"{what}: has no value of a type ONNX knows (type {kind})")

    # -- types ---------------------------------------------------------------------------------------------------------------------------------
    def value_type(self, proto: TypeProto | None, name: str, scope: Scope) -> ValueType | None:
        """The ValueType of a TypeProto, None where it says nothing. `name` is the value's, for messages and unnamed sizes."""
        if proto is None:
            return None
        what = f"value '{name}'"
        if proto.tensor_type is not None:
            inner = proto.tensor_type
            return TensorType(dtype_of(inner.elem_type, what) if inner.elem_type else None, self._shape(inner, name, scope))
        if proto.sequence_type is not None:
            return SequenceType(self._element(proto.sequence_type.elem_type, name, scope))
        if proto.optional_type is not None:
            return OptionalType(self._element(proto.optional_type.elem_type, name, scope))
        if proto.map_type is not None:
            return MapType(dtype_of(proto.map_type.key_type, what), self._element(proto.map_type.value_type, name, scope))
        if proto.sparse_tensor_type is not None:
            return SparseTensorType(dtype_of(proto.sparse_tensor_type.elem_type, what), self._shape(proto.sparse_tensor_type, name, scope))
        if proto.opaque_type is not None:
            raise NotImplementedHere(f"{what}: has the opaque type {proto.opaque_type.domain}.{proto.opaque_type.name}; supported are tensors, sparse tensors, "
                                     "sequences, optionals and maps")
        return None

    def _element(self, proto: TypeProto | None, name: str, scope: Scope) -> ValueType:
        return self.value_type(proto, name, scope) or TensorType(None)

    def _shape(self, proto: TensorTypeProto, name: str, scope: Scope) -> Any:
        if proto.shape is None:
            return None
        dims: list[Any] = []
        for axis, dim in enumerate(proto.shape.dim):
            if dim.dim_value is not None and dim.dim_value >= 0:
                dims.append(dim.dim_value)
            elif dim.dim_param and dim.dim_value is None and not dim.dim_param.startswith("?"):
                dims.append(symbol(dim.dim_param))
            else:
                dims.append(symbol(f"?{scope.prefix}{name}{scope.tag}_{axis}"))
        return tuple(dims)


def declared_types(*groups: Iterable[ValueInfoProto]) -> dict[str, TypeProto | None]:
    """Name → declared type."""
    return {info.name: info.type for group in groups for info in group}


def _may_be(declared: Any, shape: tuple[int, ...]) -> bool:
    """Whether a declared shape (symbolic sizes and unknown ranks included) allows this one."""
    return declared is None or (len(declared) == len(shape) and all(d == n or not isinstance(d, int) for d, n in zip(declared, shape, strict=True)))


def _constant_tensor(name: str, made: Any) -> Tensor | None:
    """The Tensor of a Constant's attribute; None where name and value do not go together."""
    if name in ("value", "sparse_value"):
        return made if isinstance(made, Tensor) else None
    if name == "value_int":
        return Tensor(np.array(made, np.int64))
    if name == "value_ints":
        return Tensor(np.array(made, np.int64))
    if name in ("value_float", "value_floats"):
        return Tensor(np.array(made, np.float32))
    if name in ("value_string", "value_strings"):
        return Tensor(np.array(made, object))
    return None


def _label(proto: NodeProto) -> str:
    domain = canonical(proto.domain)
    name = proto.name or next((n for n in proto.output if n), f"at byte {proto.at}")
    return f"{domain + '.' if domain else ''}{proto.op_type} '{name}'"


def _near(name: str, scope: Scope) -> str:
    near = get_close_matches(name, [n for n in scope.names()[:2000] if len(n) <= MAX_NAME], 2) if len(name) <= MAX_NAME else []  # comparing long names takes long
    return f"; did the model mean {' or '.join(repr(n) for n in near)}?" if near else "; the model is incomplete"
