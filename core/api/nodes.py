"""What a session says about its model: NodeArg, ModelMetadata, and which node went where."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..dim import Expr, Symbol
from ..graph import Model, Value
from ..types import OptionalType, SparseTensorType, TensorType, ValueType


@dataclass(frozen=True)
class NodeArg:
    """An input, output or overridable initializer. `type`: `tensor(float)` …; `shape`: ints, names of symbolic sizes, None for an unnamed one.

    As in onnxruntime the shape is [] for a scalar and also where it is unknown or the value is no tensor.
    """

    name: str
    type: str
    shape: list[int | str | None]


@dataclass(frozen=True)
class ModelMetadata:
    """What the model's file says about the model."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OrtEpAssignedNode:
    """A node by its names."""

    name: str
    op_type: str
    domain: str


class OrtEpAssignedSubgraph:
    """The nodes one provider runs."""

    def __init__(self, ep_name: str, nodes: Sequence[OrtEpAssignedNode]) -> None:
        self.ep_name, self._nodes = ep_name, list(nodes)

    def get_nodes(self) -> list[OrtEpAssignedNode]:
        """The nodes, in the order of the graph."""
        return list(self._nodes)


def metadata(model: Model) -> ModelMetadata:
    """The metadata of a model."""
    return ModelMetadata(model.producer_name, model.graph.name, model.domain, model.doc, model.graph.doc, model.model_version, dict(model.metadata))


def node_arg(value: Value, declared: ValueType | None = None) -> NodeArg:
    """The NodeArg of a value. `declared`: the type the file gave it; its names of sizes win over inferred expressions, inferred numbers win over names."""
    kind = value.type if value.type is not None else declared
    return NodeArg(value.name, str(kind), _shape(kind, declared))


def _shape(kind: Any, declared: Any) -> list[int | str | None]:
    if isinstance(kind, OptionalType):
        return _shape(kind.element, getattr(declared, "element", None))
    if not isinstance(kind, (TensorType, SparseTensorType)) or kind.shape is None:
        return []
    known = [_size(d) for d in kind.shape]
    hints = getattr(declared, "shape", None)
    if hints is None or len(hints) != len(known):
        return known
    return [inferred if isinstance(inferred, int) else _size(hint) or inferred for inferred, hint in zip(known, hints, strict=True)]


def _size(size: Any) -> int | str | None:
    """An int, the name of one symbol, or None for anonymous sizes and expressions (which onnxruntime does not know either)."""
    if not isinstance(size, Expr):
        return int(size)
    if len(size.terms) == 1:
        monomial, factor = size.terms[0]
        if factor == 1 and len(monomial) == 1 and isinstance(monomial[0], Symbol) and not monomial[0].name.startswith("?"):
            return monomial[0].name
    return None
