"""Products of one tensor become one product."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sardonyx.graph import Graph, Model, Node, Tensor, Value, merge_origins
from sardonyx.types import DType

from .base import Pass, input_of, is_op

#: What may read a product that is merged: moves, which read a part of it where it lies. What computes would have been the product's own epilogue.
_READERS = ("Attention", "Reshape", "RotaryEmbedding", "Transpose")


class MergeProducts(Pass):
    """1. MatMul(x, W₁) + b₁, MatMul(x, W₂) + b₂, … with constant matrices and vectors, an encoder's queries, keys and values, become Split(MatMul(x, [W₁ W₂ …]) + [b₁ b₂ …]),
    2. where nothing but moves and attention reads the sums: x is brought into the kernel's order once, and the parts are read where they lie.

    Not without biases: those are decoders' products, mostly of one row, which gain nothing, and their weights would be copied.
    Measured: a BERT layer of 128 × 768 takes 2.3 % less, MiniLM 0 to 1 %; Llama's queries, keys, values and gates between 0.9 % more and 0.6 % less, hence left alone.
    Rounding: none; a column is summed as before.
    """

    name = "merge products"

    def run(self, model: Model) -> int:
        return sum(self._merge(graph, nodes) for graph in model.graph.graphs() for nodes in self._groups(graph) if len(nodes) > 1)

    def _groups(self, graph: Graph) -> list[list[tuple[Node, Node]]]:
        """The (product, sum) pairs that may become one, of each input."""
        groups: dict[tuple[Value, DType, int], list[tuple[Node, Node]]] = {}
        for node in graph.nodes:
            x, weight = (input_of(node, i) for i in range(2)) if is_op(node, "MatMul") else (None, None)
            if x is None or weight is None or x.const is not None or weight.const is None or len(weight.const.shape) != 2 or len(weight.uses) > 1:
                continue
            if len(self.shape(x) or ()) < 2:
                continue
            total = self._sum(node, weight.const)
            if total is not None:
                groups.setdefault((x, weight.const.dtype, weight.const.shape[0]), []).append((node, total))
        return list(groups.values())

    def _sum(self, node: Node, weight: Tensor) -> Node | None:                                            # 1
        """The Add of a constant vector that alone reads the product, if moves alone read that."""
        made = node.outputs[0]
        total = next(iter(made.uses))[0] if made is not None and self.only_use(made) else None
        if total is None or not is_op(total, "Add") or weight.dtype not in (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16) or weight.is_splat or not weight.size:
            return None
        bias = next((v for v in total.inputs if v is not made), None)
        result = total.outputs[0]
        if bias is None or bias.const is None or bias.const.shape != weight.shape[1:] or result is None or result in self.outputs:
            return None
        return total if result.uses and all(is_op(reader, *_READERS) for reader, _ in result.uses) else None       # 2

    def _merge(self, graph: Graph, nodes: Sequence[tuple[Node, Node]]) -> int:
        first, origin = nodes[0][0], merge_origins([n for pair in nodes for n in pair])
        before = min((n for pair in nodes for n in pair), key=graph.nodes.index)
        weights = [n.inputs[1].const for n, _ in nodes if n.inputs[1] is not None]
        biases = [next(v.const for v in t.inputs if v is not n.outputs[0] and v is not None) for n, t in nodes]
        sizes = np.array([w.shape[1] for w in weights if w is not None], np.int64)
        both = [Value(graph.unique_name(name), None, _beside(parts)) for name, parts in (("merged_weights", weights), ("merged_biases", biases))]
        product = self.add(graph, "MatMul", [first.inputs[0], both[0]], before, origin)
        total = self.add(graph, "Add", [product, both[1]], before, origin)
        made = graph.node("Split", [total, graph.constant(sizes)], outputs=len(nodes), origin=origin, before=before, axis=-1)
        for (_, old), part in zip(nodes, made.outputs, strict=True):
            assert old.outputs[0] is not None and part is not None
            self.replace(graph, old.outputs[0], part)
            self.prune(graph, old)
        return len(nodes)


def _beside(parts: Sequence[Tensor | None]) -> Tensor:
    """Constants one beside the other along their last axis."""
    known = [p for p in parts if p is not None]
    return Tensor(np.concatenate([p.numpy() for p in known], -1), dtype=known[0].dtype)
