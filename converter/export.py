"""Graph → ONNX ModelProto, whole or cut out between named values (extra `convert`: needs the onnx package).

Delegates take the part they run in this form, and every conversion can be looked at with ONNX tools. The graph is at the canonical opsets, and so is
the export; importing it again gives the same graph.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from sardonyx.dim import Expr, symbols
from sardonyx.errors import InvalidArgument, InvalidGraph
from sardonyx.graph import OPSETS, Graph, Model, Node, Tensor, Value
from sardonyx.plan.shapes import infer_shapes
from sardonyx.types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType, ValueType

if TYPE_CHECKING:
    import onnx

#: A protobuf file can not reach 2 GB: above this the weights go to a file beside it.
MAX_FILE_BYTES = 2_000_000_000
#: Tensors smaller than this stay in the model file; larger external ones start at multiples of `ALIGNMENT`, so that they can be mapped.
MIN_EXTERNAL_BYTES, ALIGNMENT = 1024, 4096
#: The IR version of exports is at least this one, the first with 4-bit types.
MIN_IR_VERSION = 10
#: `lowest` goes no lower for the sake of an operator's newest version: later versions changed no operator's meaning but by its attributes.
LOWEST_OPSET = 21


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise ImportError("exporting to ONNX needs the onnx package; `pip install 'sardonyx[convert]'` adds it") from None
    return onnx


def to_onnx(model: Model | Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, lowest: bool = False) -> onnx.ModelProto:
    """The ModelProto of a model or graph, or of the part that computes the values called `outputs` from those called `inputs`.

    It is stamped with the canonical opsets; lowest: with the lowest ones at which all its nodes mean the same, for consumers that know fewer.
    Raises InvalidArgument where a name does not exist, the inputs do not suffice, or the weights exceed what one protobuf can hold (`save_onnx` can).
    """
    whole = _as_model(model)
    size = sum(v.const.nbytes for v in _all_constants(whole.graph) if v.const is not None)
    if size > MAX_FILE_BYTES:
        raise InvalidArgument(f"the weights take {size} bytes and an ONNX file holds less than 2 GB; use save_onnx, which puts them in a file beside it")
    return _Exporter(_make_tensor, lowest).model(whole, inputs, outputs)


def save_onnx(model: Model | Graph, path: str | os.PathLike[str], *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None,
              lowest: bool = False, external_data: bool | None = None) -> None:
    """Write `to_onnx(…)` to `path`. external_data: put the weights into `<path>.data`, one after another; None does so where they need it (2 GB)."""
    whole, path = _as_model(model), os.fspath(path)
    if external_data is None:
        external_data = sum(v.const.nbytes for v in _all_constants(whole.graph) if v.const is not None) > MAX_FILE_BYTES
    if not external_data:
        proto = to_onnx(whole, inputs=inputs, outputs=outputs, lowest=lowest)
    else:
        location = os.path.basename(path) + ".data"
        with open(path + ".data", "wb") as file:
            proto = _Exporter(lambda tensor, name: _external_tensor(tensor, name, file, location), lowest).model(whole, inputs, outputs)
    with open(path, "wb") as file:
        file.write(proto.SerializeToString(deterministic=True))


def _as_model(model: Model | Graph) -> Model:
    return model if isinstance(model, Model) else Model(model)


def _all_constants(graph: Graph) -> Iterator[Value]:
    seen: set[Value] = set()
    for inner in graph.graphs():
        for value in inner.constants():
            if value not in seen:
                seen.add(value)
                yield value


def _make_tensor(tensor: Tensor, name: str) -> Any:
    onnx = _onnx()
    array = tensor.numpy()
    if tensor.dtype is DType.STRING:
        strings = [s.encode("utf-8", "surrogateescape") for s in array.ravel().tolist()]
        return onnx.TensorProto(name=name, data_type=int(DType.STRING), dims=tensor.shape, string_data=strings)
    proto = onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    proto.data_type = int(tensor.dtype)
    return proto


def _external_tensor(tensor: Tensor, name: str, file: Any, location: str) -> Any:
    onnx = _onnx()
    proto = _make_tensor(tensor, name)
    if tensor.dtype is DType.STRING or len(proto.raw_data) < MIN_EXTERNAL_BYTES:
        return proto
    data = proto.raw_data
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    proto.ClearField("raw_data")
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", file.tell()), ("length", len(data))):
        proto.external_data.add(key=key, value=str(value))
    file.write(data)
    return proto


def _cut(graph: Graph, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> tuple[list[Value], list[Node], list[Value]]:
    """Inputs, nodes and outputs of the wanted part; the graph itself is not changed."""
    if inputs is None and outputs is None:
        return graph.inputs, graph.nodes, graph.outputs
    known = {v.name: v for v in [*graph.constants(), *graph.inputs, *(v for node in graph.nodes for v in node.outputs if v is not None)]}
    starts = graph.inputs if inputs is None else [_named(known, name) for name in inputs]
    ends = graph.outputs if outputs is None else [_named(known, name) for name in outputs]
    given, needed, nodes = set(starts), {v for v in ends if v.const is None}, []
    for node in reversed(graph.nodes):
        if any(v in needed and v not in given for v in node.outputs if v is not None):
            nodes.append(node)
            needed.update(v for v in node.inputs if v is not None and v.const is None)
            needed.update(v for inner in node.subgraphs() for v in inner.captures())
    made = {v for node in nodes for v in node.outputs}
    missing = [v.name for v in needed if v not in given and v not in made]
    if missing:
        raise InvalidArgument(f"outputs {[v.name for v in ends][:5]} also depend on {', '.join(map(repr, missing[:5]))}; add {'it' if len(missing) == 1 else 'them'} to inputs")
    return starts, nodes[::-1], ends


def _named(known: dict[str, Value], name: str) -> Value:
    if name not in known:
        near = get_close_matches(name, known, 3)
        raise InvalidArgument(f"the graph has no value '{name}'" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return known[name]


class _Names:
    """Names of Values in one graph: unique in it and in those around it; sibling graphs may use the same ones."""

    def __init__(self, outer: _Names | None = None) -> None:
        self.of: dict[Value, str] = dict(outer.of) if outer is not None else {}
        self.taken: set[str] = set(outer.taken) if outer is not None else set()

    def claim(self, value: Value) -> str:
        """The value's name, made unique the first time it is asked for."""
        found = self.of.get(value)
        if found is None:
            found = self.of[value] = self.unique(value.name or "value")
        return found

    def unique(self, base: str) -> str:
        """`base`, with a number where it is taken."""
        name, number = base, 0
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name


class _Exporter:
    """One export. `tensor` makes the TensorProto of a constant and decides where its bytes go."""

    def __init__(self, tensor: Callable[[Tensor, str], Any], lowest: bool) -> None:
        self.onnx, self.tensor, self.lowest = _onnx(), tensor, lowest
        self.homes: dict[Value, Graph] = {}  # constant → the graph whose initializer it becomes
        self.node_names = _Names()  # onnxruntime refuses two nodes of one name

    def model(self, model: Model, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> Any:
        graph = model.graph
        starts, nodes, ends = _cut(graph, inputs, outputs)
        if any(_unknown(v.type) for v in [*starts, *ends]):
            infer_shapes(graph)
        part = graph if nodes is graph.nodes else Graph(graph.name, starts, ends, nodes)
        self._find_homes(part)
        helper = self.onnx.helper
        imports = self._opsets(part)
        proto = helper.make_model(self._graph(part, _Names()), opset_imports=imports, producer_name=model.producer_name,
                                  producer_version=model.producer_version, domain=model.domain, model_version=model.model_version, doc_string=model.doc)
        proto.ir_version = max(MIN_IR_VERSION, helper.find_min_ir_version_for(imports, ignore_unknown=True))
        if model.metadata:
            helper.set_model_props(proto, model.metadata)
        return proto

    def _opsets(self, graph: Graph) -> list[Any]:
        """The opset imports: canonical, or the lowest. An operator that the canonical one has deprecated (ai.onnx.ml 5 the old tree ensembles) needs an older."""
        used: dict[str, dict[str, list[Node]]] = {"": {"Identity": []}}
        for node in graph.walk():
            used.setdefault(node.domain, {}).setdefault(node.op_type, []).append(node)
        unknown = sorted(used.keys() - OPSETS.keys())
        if unknown:
            raise InvalidGraph(f"the graph has nodes of domain '{unknown[0]}', which has no canonical opset; it has not been upgraded and inlined")
        return [self.onnx.helper.make_opsetid(domain, self._version(domain, operators)) for domain, operators in sorted(used.items())]

    def _version(self, domain: str, operators: dict[str, list[Node]]) -> int:
        defs, needed, limit = self.onnx.defs, 1, OPSETS[domain]
        schemas = [defs.get_schema(name, limit, domain) for name in sorted(operators) if defs.has(name, domain)]
        for schema in schemas:
            if schema.deprecated:
                limit = min(limit, schema.since_version - 1)
                schema = defs.get_schema(schema.name, schema.since_version - 1, domain)
            needed = max(needed, self._oldest(schema, operators[schema.name]) if self.lowest else schema.since_version)
        if needed > limit:
            raise InvalidGraph(f"no version of domain '{domain}' has all the operators of the graph: {', '.join(s.name for s in schemas if s.deprecated)} ended at {limit}, others began at {needed}")
        return needed if self.lowest else limit

    def _oldest(self, schema: Any, nodes: list[Node]) -> int:
        """The version these nodes need: a newer one that only admits more element types is not needed by nodes that do not have those."""
        while schema.since_version > LOWEST_OPSET and not schema.domain:
            if not self.onnx.defs.has(schema.name, schema.since_version - 1, schema.domain):
                break
            older = self.onnx.defs.get_schema(schema.name, schema.since_version - 1, schema.domain)
            if _parameters(older) != _parameters(schema) or not all(_admits(older, node) for node in nodes):
                break
            schema = older
        return int(schema.since_version)

    def _find_homes(self, root: Graph) -> None:
        """A constant belongs to the graph that uses it, or to the outermost where several do."""
        for graph in root.graphs():
            for value in graph.constants():
                self.homes[value] = graph if value not in self.homes else root

    # -- graphs and nodes ------------------------------------------------------------------------------------------------------------------------
    def _graph(self, graph: Graph, names: _Names) -> Any:
        """The GraphProto; `names` are the graph's own."""
        for value in graph.inputs:
            names.claim(value)
        outputs, carriers = self._outputs(graph, names)
        constants = [value for value, home in self.homes.items() if home is graph]
        for value in [*constants, *(v for node in graph.nodes for v in node.outputs if v is not None)]:
            names.claim(value)
        nodes = [self._node(node, names) for node in graph.nodes] + [self.onnx.helper.make_node("Identity", [names.claim(v)], [name]) for v, name in carriers]
        proto = self.onnx.GraphProto(name=graph.name or "graph", doc_string=graph.doc)
        proto.node.extend(nodes)
        proto.input.extend(self._info(names.claim(v), v) for v in graph.inputs)
        proto.output.extend(self._info(name, v) for name, v in outputs)
        proto.initializer.extend(self.tensor(v.const, names.claim(v)) for v in constants if v.const is not None)
        shown = {*graph.inputs, *graph.outputs}
        made = (v for node in graph.nodes for v in node.outputs if v is not None and v not in shown and not _unknown(v.type))
        proto.value_info.extend(self._info(names.claim(v), v) for v in made)
        return proto

    def _outputs(self, graph: Graph, names: _Names) -> tuple[list[tuple[str, Value]], list[tuple[Value, str]]]:
        """(name, value) of each output, and the (value, name) pairs that need an Identity: a value that is an output twice, and in a
        nested graph a value of an enclosing one, which ONNX does not take as an output."""
        local = {v for node in graph.nodes for v in node.outputs if v is not None} | set(graph.inputs)
        outputs: list[tuple[str, Value]] = []
        carriers: list[tuple[Value, str]] = []
        seen: set[Value] = set()
        for value in graph.outputs:
            if value in seen or (value not in local and self.homes.get(value) is not graph):
                name = names.unique(f"{value.name}:out")
                carriers.append((value, name))
            else:
                name = names.claim(value)
            seen.add(value)
            outputs.append((name, value))
        return outputs, carriers

    def _node(self, node: Node, names: _Names) -> Any:
        name = node.name or "+".join(node.origin)
        proto = self.onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=self.node_names.unique(name) if name else "")
        proto.input.extend("" if v is None else names.claim(v) for v in node.inputs)
        proto.output.extend("" if v is None else names.claim(v) for v in node.outputs)
        types = self._attribute_types(node)
        for key, value in node.attributes.items():
            proto.attribute.append(self._attribute(node, key, value, types.get(key, 0), names))
        return proto

    # -- attributes ------------------------------------------------------------------------------------------------------------------------------
    def _attribute_types(self, node: Node) -> dict[str, int]:
        """Attribute name → type, from the operator's schema; com.microsoft has none here, there the values decide."""
        schema = self.onnx.defs
        if not schema.has(node.op_type, node.domain):
            return {}
        found = schema.get_schema(node.op_type, OPSETS[node.domain], node.domain)
        if found.deprecated:
            found = schema.get_schema(node.op_type, found.since_version - 1, node.domain)
        return {name: int(attribute.type.value) for name, attribute in found.attributes.items()}

    def _attribute(self, node: Node, name: str, value: Any, kind: int, names: _Names) -> Any:
        types = self.onnx.AttributeProto
        proto = types(name=name, type=kind or _guess(value, types))
        kind = proto.type
        try:
            if kind == types.FLOAT:
                proto.f = float(value)
            elif kind == types.INT:
                proto.i = int(value)
            elif kind == types.STRING:
                proto.s = _bytes(value)
            elif kind == types.FLOATS:
                proto.floats.extend(map(float, value))
            elif kind == types.INTS:
                proto.ints.extend(map(int, value))
            elif kind == types.STRINGS:
                proto.strings.extend(map(_bytes, value))
            elif kind == types.TENSOR:
                proto.t.CopyFrom(_make_tensor(value, name))
            elif kind == types.TENSORS:
                proto.tensors.extend(_make_tensor(t, name) for t in value)
            elif kind == types.GRAPH:
                proto.g.CopyFrom(self._graph(value, _Names(names)))
            elif kind == types.GRAPHS:
                proto.graphs.extend(self._graph(g, _Names(names)) for g in value)
            elif kind == types.TYPE_PROTO:
                proto.tp.CopyFrom(self._type(value))
            else:
                proto.type_protos.extend(map(self._type, value))
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidGraph(f"{node.label}: attribute '{name}' has the value {value!r:.80}, which is not {types.AttributeType.Name(kind)} ({error})") from error
        return proto

    # -- types -----------------------------------------------------------------------------------------------------------------------------------
    def _info(self, name: str, value: Value) -> Any:
        proto = self.onnx.ValueInfoProto(name=name, doc_string=value.doc)
        if value.type is not None:
            proto.type.CopyFrom(self._type(value.type))
        return proto

    def _type(self, type_: ValueType) -> Any:
        proto = self.onnx.TypeProto()
        if isinstance(type_, (TensorType, SparseTensorType)):
            inner = proto.tensor_type if isinstance(type_, TensorType) else proto.sparse_tensor_type
            inner.elem_type = int(type_.dtype or 0)
            if type_.shape is not None:
                inner.shape.SetInParent()
                for size in type_.shape:
                    dim = inner.shape.dim.add()
                    if isinstance(size, int):
                        dim.dim_value = size
                    elif isinstance(size, Expr) and not any(s.name.startswith("?") for s in symbols(size)):
                        dim.dim_param = str(size)
        elif isinstance(type_, SequenceType):
            proto.sequence_type.elem_type.CopyFrom(self._type(type_.element))
        elif isinstance(type_, OptionalType):
            proto.optional_type.elem_type.CopyFrom(self._type(type_.element))
        elif isinstance(type_, MapType):
            proto.map_type.key_type = int(type_.key)
            proto.map_type.value_type.CopyFrom(self._type(type_.value))
        return proto


def _parameters(schema: Any) -> Any:
    """Attributes with their defaults, inputs and outputs: where they are equal, versions since `LOWEST_OPSET` differ in element types only."""
    attributes = sorted((name, a.required, a.default_value.SerializeToString(deterministic=True)) for name, a in schema.attributes.items())
    return attributes, [(p.name, p.option) for p in schema.inputs], [(p.name, p.option) for p in schema.outputs]


def _admits(schema: Any, node: Node) -> bool:
    """Whether the schema allows the types of the node's inputs and outputs; not where one is unknown."""
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for parameters, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
        for i, value in enumerate(values):
            text = parameters[min(i, len(parameters) - 1)].type_str  # a variadic one is the last
            if value is not None and str(value.type) not in allowed.get(text, {text}):
                return False
    return True


def _unknown(type_: ValueType | None) -> bool:
    return type_ is None or (isinstance(type_, TensorType) and type_.dtype is None)


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _guess(value: Any, types: Any) -> int:
    """The attribute type a value without a schema has; an empty list counts as ints."""
    kinds: tuple[tuple[Any, int, int], ...] = (((int, np.integer), types.INT, types.INTS), ((float, np.floating), types.FLOAT, types.FLOATS), ((str, bytes), types.STRING, types.STRINGS),
                                               (Tensor, types.TENSOR, types.TENSORS), (Graph, types.GRAPH, types.GRAPHS))
    items: Iterable[Any] = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(item, (float, np.floating)) for item in items) and all(isinstance(item, (int, float, np.number)) for item in items):
        return types.FLOATS if isinstance(value, (list, tuple)) else types.FLOAT
    for python, single, several in kinds:
        if all(isinstance(item, python) for item in items):
            return several if isinstance(value, (list, tuple)) else single
    return types.TYPE_PROTOS if isinstance(value, (list, tuple)) else types.TYPE_PROTO
