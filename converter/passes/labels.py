"""Class labels that are strings."""
from __future__ import annotations

from sardonyx.graph import Graph, Model, Node, Value
from sardonyx.ops import Spec
from sardonyx.plan.shapes import infer_node
from sardonyx.types import DType, TensorType

from .base import Pass

ML = "ai.onnx.ml"
#: Classifier → its attribute for integer labels.
CLASSIFIERS = {"TreeEnsembleClassifier": "classlabels_int64s", "LinearClassifier": "classlabels_ints", "SVMClassifier": "classlabels_ints"}


class NumberLabels(Pass):
    """1. A classifier with several string labels gives their numbers, and a LabelEncoder the strings: only that stays on the host, the model itself has kernels."""

    name = "number labels"

    def run(self, model: Model) -> int:
        return sum(self._number(graph, node) for graph in model.graph.graphs() for node in list(graph.nodes))

    def _number(self, graph: Graph, node: Node) -> int:
        integers = CLASSIFIERS.get(node.op_type) if node.domain == ML else None
        labels = node.attributes.get("classlabels_strings")
        if integers is None or not isinstance(labels, list) or len(labels) < 2 or node.attributes.get(integers):
            return 0
        del node.attributes["classlabels_strings"]
        places: list[int] = list(range(len(labels)))
        node.attributes[integers] = places
        label = node.outputs[0]
        if label is None:
            return 1
        number = Value(graph.unique_name(f"{label.name}_number"), TensorType(DType.INT64, label.shape))
        number.producer, node.outputs[0] = node, number
        encoder = Node("LabelEncoder", [number], [label], {"keys_int64s": list(places), "values_strings": list(labels)}, domain=ML, origin=node.origin)
        graph.nodes.insert(graph.nodes.index(node) + 1, encoder)
        self.specs[number] = Spec(DType.INT64, label.shape)
        infer_node(node, self.specs)
        infer_node(encoder, self.specs)
        return 1
