"""`sardonyx inspect`: what is in a model file, as it lies there. `describe` is the whole of it as plain data (`--json`), the tables are views of that."""
from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sardonyx import ops
from sardonyx.converter.onnx import load_model
from sardonyx.errors import InvalidArgument
from sardonyx.graph import OPSETS, Graph, Model, Node, Tensor, Value
from sardonyx.model import read_model
from sardonyx.model.format import Header, StorageKind
from sardonyx.model.packing import Packing
from sardonyx.types import MapType, OptionalType, SequenceType, SparseTensorType, TensorType

from . import show
from .inputs import is_sdx_file

EPILOG = """\b
Examples:
  sardonyx inspect model.onnx
  sardonyx inspect model.sdx --nodes --weights
  sardonyx inspect model.onnx --json | jq '.nodes[].op_type'
  sardonyx inspect --operators                             what sardonyx supports"""
#: Weights listed without --weights, and elements of a tensor attribute written out in JSON.
BIGGEST, MAX_VALUES = 8, 64


def inspect(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="An .onnx or .sdx file.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, machine-readable: values, nodes, attributes.")] = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every node.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="List every weight, biggest first.")] = False,
    operators: Annotated[bool, typer.Option("--operators", help="List the operators sardonyx supports.")] = False,
) -> None:
    """Show what is in a model: inputs, outputs, operators, weights, sizes, metadata."""
    if operators:
        _supported(as_json)
        return
    if model is None:
        raise InvalidArgument("inspect: name a model file, or ask for --operators")
    found = describe(model)
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    _overview(found)
    _interface(found)
    _operator_table(found)
    _storage_table(found)
    _weight_table(found, None if weights else BIGGEST)
    if nodes:
        _node_table(found)


# -- the model as plain data ------------------------------------------------------------------------------------------------------------------

def describe(path: Path) -> dict[str, Any]:
    """A model file as JSON data. An .onnx is shown as it is written, before upgrading; unknown operators do not stop it."""
    sdx = is_sdx_file(path)
    model = read_model(path) if sdx else load_model(path, upgrade=False)
    counts = Counter(node.operator for node in model.graph.walk())
    found: dict[str, Any] = {"path": str(path), "kind": "sdx" if sdx else "onnx", "bytes": os.path.getsize(path)}
    if sdx:
        found |= _sdx_parts(path)
    found |= {
        "ir_version": model.ir_version, "opsets": {domain or "ai.onnx": version for domain, version in model.opsets.items()},
        "producer_name": model.producer_name, "producer_version": model.producer_version, "domain": model.domain, "model_version": model.model_version,
        "doc": model.doc, "graph_name": model.graph.name, "graph_doc": model.graph.doc, "metadata": model.metadata,
        "symbols": {name: {"lower": lower, "upper": upper} for name, (lower, upper) in model.symbols.items()},
        "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), "unsupported": _unsupported(model),
        "parameters": 0, "weights": _weights(model)}
    found["parameters"] = sum(weight["elements"] for weight in found["weights"])
    return found | _graph(model.graph)


def _sdx_parts(path: Path) -> dict[str, Any]:
    """What only a .sdx has: its version, its id and its sections."""
    header = Header.unpack(memoryview(np.memmap(path, np.uint8, "r")))  # type: ignore[arg-type]
    places = {"graph": header.graph, "programs": header.programs, "data": header.data} | ({"webgpu": header.webgpu} if header.webgpu[1] else {})
    sections = {name: {"offset": offset, "bytes": length} for name, (offset, length) in places.items()}
    return {"format": ".".join(map(str, header.version)), "id": header.id.hex(), "external_data": header.external, "sections": sections}


def _unsupported(model: Model) -> dict[str, int]:
    """Operators that sardonyx does not have, with the number of their nodes."""
    return dict(Counter(node.operator for node in model.graph.walk() if node.domain in OPSETS and not ops.exists(node.domain, node.op_type)))


def _weights(model: Model) -> list[dict[str, Any]]:
    """Constants, each once, biggest first. `bytes`: what they take in the file, 0 where they share another one's."""
    seen: set[int] = set()
    places: set[int] = set()
    found = []
    for value in (v for graph in model.graph.graphs() for v in graph.constants()):
        const = value.const
        if const is None or id(const) in seen:
            continue
        seen.add(id(const))
        stored, packing, size = "plain", None, const.nbytes
        if const.storage is not None:
            stored = StorageKind(const.storage.kind).name.lower()
            packing = Packing(const.storage.packing).name.lower() if const.storage.packing else None
            size = 0 if const.storage.offset in places else int(const.storage.data.size)
            places.add(const.storage.offset)
        found.append({"name": value.name, "dtype": const.dtype.text, "shape": list(const.shape), "elements": const.size, "bytes": size, "storage": stored, "packing": packing})
    return sorted(found, key=lambda weight: -weight["bytes"])


def _graph(graph: Graph) -> dict[str, Any]:
    return {"inputs": [_value(v) for v in graph.inputs], "outputs": [_value(v) for v in graph.outputs],
            "values": [_value(v) for node in graph.nodes for v in node.outputs if v is not None], "nodes": [_node(node) for node in graph.nodes]}


def _value(value: Value) -> dict[str, Any]:
    found: dict[str, Any] = {"name": value.name, "type": _type(value.type)}
    if value.const is not None:
        found["default"] = True
    if value.doc:
        found["doc"] = value.doc
    return found


def _type(kind: Any) -> dict[str, Any] | None:
    """A type as data; symbolic sizes are text, sizes without a name null, a shape of unknown rank is null."""
    if isinstance(kind, (TensorType, SparseTensorType)):
        shape = None if kind.shape is None else [show.dim(size) for size in kind.shape]
        return {"kind": "tensor" if isinstance(kind, TensorType) else "sparse_tensor", "dtype": kind.dtype.text if kind.dtype else None, "shape": shape}
    if isinstance(kind, SequenceType):
        return {"kind": "sequence", "element": _type(kind.element)}
    if isinstance(kind, OptionalType):
        return {"kind": "optional", "element": _type(kind.element)}
    if isinstance(kind, MapType):
        return {"kind": "map", "key": kind.key.text, "value": _type(kind.value)}
    return None


def _node(node: Node) -> dict[str, Any]:
    return {"op_type": node.op_type, "domain": node.domain, "name": node.name, "origin": list(node.origin), "inputs": [None if v is None else v.name for v in node.inputs],
            "outputs": [None if v is None else v.name for v in node.outputs], "attributes": {name: _attribute(value) for name, value in node.attributes.items()}}


def _attribute(value: Any) -> Any:
    if isinstance(value, list):
        return [_attribute(item) for item in value]
    if isinstance(value, Graph):
        return {"graph": value.name} | _graph(value)
    if isinstance(value, Tensor):
        values = {"values": _attribute(value.numpy().tolist())} if value.size <= MAX_VALUES else {}
        return {"tensor": {"dtype": value.dtype.text, "shape": list(value.shape)} | values}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (int, str)) else _type(value) or str(value)


# -- tables -----------------------------------------------------------------------------------------------------------------------------------

def _overview(found: dict[str, Any]) -> None:
    kind = f"sardonyx .sdx, format {found['format']}" if found["kind"] == "sdx" else f"ONNX, IR version {found['ir_version']}"
    opsets = ", ".join(f"{domain} {version}" for domain, version in found["opsets"].items())
    show.say(found["path"], "bold")
    sections = ", ".join(f"{name} {show.size(part['bytes'])}" for name, part in found.get("sections", {}).items() if part["bytes"])
    show.fields([
        ("file", f"{kind}, {show.size(found['bytes'])}"), ("sections", sections + (" (weights in a data file)" if found.get("external_data") else "")),
        ("opsets", opsets + (" (of the model it was made from)" if found["kind"] == "sdx" else "")),
        ("producer", f"{found['producer_name']} {found['producer_version']}".strip()), ("graph", found["graph_name"]), ("domain", found["domain"]),
        ("model version", found["model_version"] or ""), ("parameters", f"{found['parameters']:,}"),
        ("nodes", f"{sum(found['operators'].values()):,}"), ("description", _clip(found["doc"])),
        *((f"metadata {name}", _clip(value)) for name, value in found["metadata"].items())])


def _clip(text: str, width: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[:width]}… ({len(text)} characters)"


def _interface(found: dict[str, Any]) -> None:
    for title, values in (("Inputs", found["inputs"]), ("Outputs", found["outputs"])):
        show.heading(title, "" if values else "none")
        if values:
            show.table(["name", "type", ""], [(v["name"], _type_text(v["type"]), "has a default" if v.get("default") else _clip(v.get("doc", ""), 60)) for v in values])
    if found["symbols"]:
        show.fields((f"size {name}", f"from {limits['lower']}" + (f" to {limits['upper']}" if limits["upper"] is not None else "")) for name, limits in found["symbols"].items())


def _type_text(kind: dict[str, Any] | None) -> str:
    if kind is None:
        return "?"
    if "dtype" in kind:
        shape = "[...]" if kind["shape"] is None else "[" + ", ".join("?" if d is None else str(d) for d in kind["shape"]) + "]"
        return f"{'sparse ' if kind['kind'] == 'sparse_tensor' else ''}{kind['dtype'] or '?'}{shape}"
    if kind["kind"] == "map":
        return f"map({kind['key']}, {_type_text(kind['value'])})"
    return f"{kind['kind']}({_type_text(kind['element'])})"


def _operator_table(found: dict[str, Any]) -> None:
    show.heading("Operators", "" if found["operators"] else "none")
    if found["operators"]:
        show.columns(f"{count:>5} {name}" for name, count in found["operators"].items())
    if found["unsupported"]:
        show.note(f"not supported: {', '.join(f'{name} ({count})' for name, count in found['unsupported'].items())}")


def _storage_table(found: dict[str, Any]) -> None:
    groups: dict[tuple[str, str, str], list[int]] = {}
    for weight in found["weights"]:
        group = groups.setdefault((weight["dtype"], weight["storage"], weight["packing"] or ""), [0, 0, 0])
        for i, number in enumerate((1, weight["elements"], weight["bytes"])):
            group[i] += number
    if groups:
        show.heading("Weights by type and storage")
        show.table(["type", "storage", "packing", ">tensors", ">elements", ">size"],
                   [(*key, count, f"{elements:,}", show.size(size)) for key, (count, elements, size) in sorted(groups.items(), key=lambda item: -item[1][2])])


def _weight_table(found: dict[str, Any], limit: int | None) -> None:
    chosen = found["weights"][:limit]
    if chosen:
        show.heading("Biggest weights" if limit is not None and limit < len(found["weights"]) else "Weights",
                     f"{len(chosen)} of {len(found['weights'])}; --weights lists all" if len(chosen) < len(found["weights"]) else "")
        show.table(["name", "type", "storage", ">size"],
                   [(w["name"], f"{w['dtype']}{w['shape']}", f"{w['storage']} {w['packing'] or ''}".strip(), show.size(w["bytes"])) for w in chosen])


def _node_table(found: dict[str, Any]) -> None:
    show.heading("Nodes")
    rows: list[tuple[str, ...]] = []
    _node_rows(found, "", rows)
    show.table([">#", "operator", "name", "inputs", "outputs"], rows)


def _node_rows(graph: dict[str, Any], prefix: str, rows: list[tuple[str, ...]]) -> None:
    """Nested graphs follow their node, numbered 3.then.1."""
    types = {value["name"]: value["type"] for value in graph["values"]}
    for number, node in enumerate(graph["nodes"]):
        operator = f"{node['domain']}.{node['op_type']}" if node["domain"] else node["op_type"]
        outputs = [f"{name} {_type_text(types[name])}" if types.get(name) else name for name in node["outputs"] if name is not None]
        rows.append((f"{prefix}{number}", operator, node["name"] or " + ".join(node["origin"]), ", ".join(name or "–" for name in node["inputs"]), ", ".join(outputs)))
        for name, value in node["attributes"].items():
            for i, nested in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(nested, dict) and "graph" in nested:
                    _node_rows(nested, f"{prefix}{number}.{name}{i if isinstance(value, list) else ''}.", rows)


# -- what is supported ------------------------------------------------------------------------------------------------------------------------

def _supported(as_json: bool) -> None:
    found = {domain: [name for _, name in ops.names(domain)] for domain in OPSETS}
    if as_json:
        print(json.dumps({"operators": {domain or "ai.onnx": names for domain, names in found.items()}, "opsets": {domain or "ai.onnx": newest for domain, newest in OPSETS.items()}}, indent=1))
        return
    for domain, names in found.items():
        newest = OPSETS[domain]
        show.heading(domain or "ai.onnx", f"{show.plural(len(names), 'operator')}, {'opset 1' if newest == 1 else f'opsets 1 to {newest}'}")
        show.columns(names)
