"""`load_model`: an ONNX model from a path, bytes, a file or a ModelProto → Model at canonical opsets, with its weights in place.

Stages: map → read the wire → check opsets → build the graph → upgrade → inline functions → sort, check operators, verify.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from sardonyx import ops
from sardonyx.errors import InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.graph import OPSETS, Graph, Model

from .build import CALL, Builder, canonical
from .external import ExternalData, map_file
from .foreign import foreign
from .functions import Inliner, key_of, sort_all
from .proto import FunctionProto, ModelProto, NodeProto, OperatorSetIdProto
from .wire import read

#: The newest IR version there is (onnx 1.23); a newer file may say things this reader would miss.
MAX_IR_VERSION = 14


def load_model(source: Any, *, base_dir: str | os.PathLike[str] | None = None, upgrade: bool = True) -> Model:
    """The Model of an `.onnx` file.

    source: a path, bytes (bytes, bytearray, memoryview), a binary file object, or an onnx ModelProto. base_dir: where external data lies if not beside
    the model (needed for bytes). upgrade: rewrite every node to the canonical opsets; False leaves them as the file has them (for inspection only).
    Raises NoSuchFile, InvalidProtobuf (not an ONNX file), InvalidGraph (wrong as a graph), NotImplemented (an operator, opset or type not supported).
    """
    data, path = _open(source)
    proto = _read(data, path)
    external = ExternalData(path, None if base_dir is None else os.fspath(base_dir))
    return _import(proto, external, path, upgrade)


def _open(source: Any) -> tuple[Any, str]:
    """The bytes of a source and its path, where it has one."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if not isinstance(path, str):
            path = os.fsdecode(path)
        if "\0" in path or not os.path.exists(path):
            raise NoSuchFile(f"model file '{path[:300]}' does not exist")
        if os.path.isdir(path):
            raise InvalidArgument(f"'{path}' is a folder; give the path of the .onnx file in it")
        try:
            return map_file(path), path
        except OSError as error:
            raise NoSuchFile(f"model file '{path}' can not be read: {error}") from None
    if isinstance(source, (bytes, bytearray, memoryview)):
        view = memoryview(source)
        return view.cast("B") if view.contiguous else view.tobytes(), ""
    if callable(getattr(source, "SerializeToString", None)):
        return source.SerializeToString(), ""
    if callable(getattr(source, "read", None)):
        data = source.read()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidArgument("the file object gives text; open the model in binary mode ('rb')")
        return data, ""
    raise InvalidArgument(f"a model is given as a path, bytes, a binary file object or an onnx ModelProto, not {type(source).__name__}")


def _read(data: Any, path: str) -> ModelProto:
    name = f"'{path}'" if path else "the model"
    if len(data) == 0:
        raise InvalidProtobuf(f"{name} is empty (0 bytes); it is not an ONNX file")
    try:
        proto = read(ModelProto, data)
        if proto.graph is None:
            raise InvalidProtobuf("there is no graph in it")
    except InvalidProtobuf as error:
        guess = foreign(data)
        raise InvalidProtobuf(f"{name} is not an ONNX file{f': it looks like {guess}' if guess else ''} ({error})") from None
    return proto


def _import(proto: ModelProto, external: ExternalData, path: str, upgrade: bool) -> Model:
    graph_proto = proto.graph
    assert graph_proto is not None
    if proto.ir_version > MAX_IR_VERSION:
        raise NotImplementedHere(f"the model has IR version {proto.ir_version}; up to {MAX_IR_VERSION} is supported: save it with an older onnx package, or get a newer sardonyx")
    functions = {(canonical(f.domain), f.name, f.overload): f for f in proto.functions}
    if len(functions) < len(proto.functions):
        raise InvalidGraph("the model defines a function twice (same domain, name and overload)")
    used = {canonical(n.domain) for n in all_nodes(graph_proto.node)} - {key[0] for key in functions if key[0] not in OPSETS}
    opsets = _opsets(proto.opset_import, used, {"": 1} if 0 < proto.ir_version < 3 else {}, "the model")
    builder = Builder(functions, external, proto.ir_version or MAX_IR_VERSION)
    graph = builder.graph(graph_proto)
    if not builder.in_order:
        sort_all(graph)
    if upgrade:
        from sardonyx.converter.upgrade import upgrade_graph
        upgrade_graph(graph, opsets)
        if functions:
            _inline(graph, builder, upgrade_graph, opsets)
    if upgrade:
        _check_operators(graph)
    else:
        for node in graph.walk():
            if node.domain.startswith(CALL):
                node.domain = key_of(node)[0]
    graph.verify()
    return Model(graph, opsets, {e.key: e.value for e in proto.metadata_props}, proto.producer_name, proto.producer_version, proto.domain, proto.model_version,
                 proto.doc_string, proto.ir_version, path=path)


def _inline(graph: Graph, builder: Builder, upgrade: Any, opsets: Mapping[str, int]) -> None:
    def opsets_of(function: FunctionProto) -> dict[str, int]:
        own = {key[0] for key in builder.functions if key[0] not in OPSETS}
        used = {canonical(n.domain) for n in all_nodes(function.node)} - own
        return _opsets(function.opset_import, used, opsets, f"function '{function.domain}.{function.name}'")
    Inliner(builder, upgrade, opsets_of, graph).run(graph)


def _opsets(imports: Iterable[OperatorSetIdProto], used: set[str], default: Mapping[str, int], what: str) -> dict[str, int]:
    """The checked opset imports {domain: version}. Domains nobody uses are not checked; of the contributed ones a missing import means the only version."""
    found = {canonical(entry.domain): entry.version for entry in imports}
    for domain in sorted(used):
        version = found.setdefault(domain, default.get(domain, OPSETS.get(domain, 0) if domain else 0))
        name = domain or "ai.onnx"
        if domain not in OPSETS:
            raise NotImplementedHere(f"{what} uses operators of domain '{name}', which is not supported and which it does not define as functions; supported are {_supported()}")
        if version == 0 and not domain:
            raise InvalidGraph(f"{what} does not say which version of the ai.onnx operators it uses (no opset_import)")
        if not 1 <= version <= OPSETS[domain]:
            raise NotImplementedHere(f"{what} uses opset {version} of domain '{name}'; supported are {_supported()}")
    return found


def _supported() -> str:
    return ", ".join(f"{domain or 'ai.onnx'} {'1' if newest == 1 else f'1 to {newest}'}" for domain, newest in OPSETS.items())


def all_nodes(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """The nodes and those of their nested graphs."""
    found = list(nodes)
    for node in found:  # grows while it is walked
        for attribute in node.attribute:
            for graph in ((attribute.g,) if attribute.g is not None else attribute.graphs):
                found.extend(graph.node)
    return found


def _check_operators(graph: Graph) -> None:
    """One NotImplemented naming every operator that does not exist, with the nodes that use it."""
    unknown: dict[tuple[str, str], list[str]] = {}
    for node in graph.walk():
        if not ops.exists(node.domain, node.op_type):
            unknown.setdefault((node.domain, node.op_type), []).append(node.label)
    problems = []
    for (domain, op_type), labels in list(unknown.items())[:10]:
        try:
            ops.lookup(domain, op_type)
        except NotImplementedHere as error:
            problems.append(f"{labels[0]}{f' and {len(labels) - 1} more nodes' if len(labels) > 1 else ''}: {error}")
    if problems:
        more = f"; and {len(unknown) - 10} more operators" if len(unknown) > 10 else ""
        raise NotImplementedHere("; ".join(problems) + more)
