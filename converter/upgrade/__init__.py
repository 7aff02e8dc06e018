"""Opset upgrading: rewrites a graph written for any opset to the canonical one (`core/graph.py` OPSETS); nothing downstream knows versions.

An adapter is a small function registered for (operator, version): it turns a node that is valid just below `version` into one (or several) valid
at it. Most versions of most operators only widen the set of element types; those need no adapter. The sources are the schemas and documents
of https://github.com/onnx/onnx/blob/main/docs/Changelog.md.
"""
from __future__ import annotations

from collections.abc import Mapping

from sardonyx.errors import InvalidGraph, SardonyxError
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.graph import OPSETS, Graph, Node

from . import arithmetic, experimental, learned, normalization, recurrent, reduction, sampling, shaping
from .site import ADAPTERS, Knowledge, Site

__all__ = ["ADAPTERS", "check_opsets", "upgrade_graph"]

#: Operators that were retired, and the last opset that had them. In a newer model, which is invalid but exists, they are read as that version.
RETIRED = {("", "Scatter"): 10, ("", "Upsample"): 9}

FAMILIES = (arithmetic, experimental, learned, normalization, recurrent, reduction, sampling, shaping)  # importing a family registers its adapters


def upgrade_graph(graph: Graph, opsets: Mapping[str, int]) -> None:
    """Rewrite, in place, every node (nested graphs included) from the imported `opsets` {domain: version} to the canonical ones.

    Nodes should be in topological order: more is known then, so that results are simpler.
    Raises NotImplemented for a version newer than the canonical one, InvalidGraph for attributes no version allows.
    """
    versions = check_opsets(opsets)
    _upgrade(graph, versions, Knowledge())


def check_opsets(opsets: Mapping[str, int]) -> dict[str, int]:
    """The imported versions of the known domains (`ai.onnx` under its short name ""); an unknown version raises NotImplemented."""
    versions = {"" if domain == "ai.onnx" else domain: version for domain, version in opsets.items()}
    for domain, version in versions.items():
        if domain in OPSETS and not 1 <= version <= OPSETS[domain]:
            raise NotImplementedHere(f"the model imports opset {version} of '{domain or 'ai.onnx'}'; this version of sardonyx has 1 to {OPSETS[domain]}: "
                                 "convert the model with onnx.version_converter or upgrade sardonyx")
    return {domain: version for domain, version in versions.items() if domain in OPSETS}


def _upgrade(graph: Graph, versions: Mapping[str, int], knowledge: Knowledge) -> None:
    nodes: list[Node] = []
    for node in graph.nodes:
        for nested in node.subgraphs():
            _upgrade(nested, versions, knowledge)
        nodes += _upgrade_node(node, versions.get(node.domain), knowledge)
    graph.nodes = nodes


def _upgrade_node(node: Node, version: int | None, knowledge: Knowledge) -> list[Node]:
    """The nodes that stand for `node` at the canonical opset; applies every adapter above `version`, in order, also those of what it has become."""
    if version is None or (node.domain, node.op_type) not in ADAPTERS:
        return [node]
    site = Site(node, knowledge)
    version = min(version, RETIRED.get((node.domain, node.op_type), version))
    while True:
        todo = [(v, f) for v, f in ADAPTERS.get((node.domain, node.op_type), []) if v > version]
        if not todo:
            return [*site.before, node, *site.after]
        version = todo[0][0]
        try:
            for adapt in [f for v, f in todo if v == version]:
                site.begin()
                adapt(site)
        except SardonyxError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidGraph(f"{node.label}: inputs or attributes are not valid for {node.operator} below opset {version} ({type(error).__name__}: {error})") from error
