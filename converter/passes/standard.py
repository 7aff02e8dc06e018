"""com.microsoft's operators written as the standard ones, where these say the same: so that other passes, lowerings and delegates know one form."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sardonyx.graph import Graph, Model, Node, Value
from sardonyx.types import DType

from .base import Pass, input_of, tensor_of

#: com.microsoft's operators with the names, inputs and attributes of a standard one.
_SAME = {"Gelu": "Gelu", "QuickGelu": "Swish", "Trilu": "Trilu", "GatherND": "GatherND", "QuantizeLinear": "QuantizeLinear", "DequantizeLinear": "DequantizeLinear",
         "SimplifiedLayerNormalization": "RMSNormalization"}
#: The parameters an activation fused into FusedConv takes, in the order of `activation_params`.
_PARAMETERS = {"LeakyRelu": ("alpha",), "ThresholdedRelu": ("alpha",), "Elu": ("alpha",), "Celu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma")}


class StandardForms(Pass):
    """1. com.microsoft's Gelu, QuickGelu, Trilu, GatherND, Q and DQ take the standard domain and name; SimplifiedLayerNormalization (in either domain) is RMSNormalization.
    2. FastGelu and BiasGelu become Add and Gelu.  3. SkipLayerNormalization and SkipSimplifiedLayerNormalization become Adds and the normalization.
    4. FusedMatMul (TransposeMatMul) becomes Transposes, MatMul and Mul.  5. FusedGemm and FusedConv become the operator and its activation.
    6. RotaryEmbedding with a position for each token, and 7. MultiHeadAttention of separate rank-3 q, k and v without bias, padding mask and cache, become the standard operators.

    Only where the outputs the standard operator lacks are not used. Rounding: in half precision each of the small operators rounds.
    """

    name = "standard forms"

    def run(self, model: Model) -> int:
        forms: dict[str, Callable[[Graph, Node], Value | None]] = {
            "FastGelu": self._biased_gelu, "BiasGelu": self._biased_gelu, "SkipLayerNormalization": self._skip, "SkipSimplifiedLayerNormalization": self._skip,
            "FusedMatMul": self._matmul, "TransposeMatMul": self._matmul, "FusedGemm": self._gemm, "FusedConv": self._conv, "RotaryEmbedding": self._rotary,
            "MultiHeadAttention": self._attention}
        count = 0
        for graph in model.graph.graphs():
            for node in list(graph.nodes):
                if node.domain not in ("com.microsoft", "") or (not node.domain and node.op_type != "SimplifiedLayerNormalization") or node.outputs[0] is None:
                    continue
                made = self._renamed(graph, node) if node.op_type in _SAME else forms[node.op_type](graph, node) if node.op_type in forms else None
                if made is not None:
                    self.replace(graph, node.outputs[0], made)
                    self.prune(graph, node)
                    count += 1
        return count

    def _unused(self, node: Node, *indices: int) -> bool:
        """Whether nothing uses these outputs."""
        return not any(v is not None and (v.uses or v in self.outputs) for i in indices for v in node.outputs[i:i + 1])

    # -- 1 ---------------------------------------------------------------------------------------------------------------------------------
    def _renamed(self, graph: Graph, node: Node) -> Value | None:
        if not self._unused(node, 1):
            return None
        attributes = dict(node.attributes)
        if node.op_type == "QuickGelu":
            attributes.setdefault("alpha", 1.702)
        return self.add(graph, _SAME[node.op_type], node.inputs, node, node.origin, **attributes)

    # -- 2 ---------------------------------------------------------------------------------------------------------------------------------
    def _biased_gelu(self, graph: Graph, node: Node) -> Value | None:
        x, bias = node.inputs[0], input_of(node, 1)
        total = self.add(graph, "Add", [x, bias], node, node.origin) if bias is not None else x
        return self.add(graph, "Gelu", [total], node, node.origin, **({"approximate": "tanh"} if node.op_type == "FastGelu" else {}))

    # -- 3 ---------------------------------------------------------------------------------------------------------------------------------
    def _skip(self, graph: Graph, node: Node) -> Value | None:
        simplified = node.op_type == "SkipSimplifiedLayerNormalization"
        x, skip, gamma = node.inputs[:3]
        beta, bias = (None, input_of(node, 3)) if simplified else (input_of(node, 3), input_of(node, 4))
        if x is None or not self._unused(node, 1, 2):
            return None
        total = self.add(graph, "Add", [x, skip], node, node.origin)
        if bias is not None:
            total = self.add(graph, "Add", [total, bias], node, node.origin)
        if len(node.outputs) > 3 and node.outputs[3] is not None:
            self.replace(graph, node.outputs[3], total)
        inputs = [total, gamma] + ([beta] if beta is not None else [])
        return self.add(graph, "RMSNormalization" if simplified else "LayerNormalization", inputs, node, node.origin, epsilon=float(node.attributes.get("epsilon", 1e-12)))

    # -- 4 ---------------------------------------------------------------------------------------------------------------------------------
    def _matmul(self, graph: Graph, node: Node) -> Value | None:
        operands = [v for v in node.inputs if v is not None]
        ranks = [None if self.shape(v) is None else len(self.shape(v)) for v in operands]
        flags = [[bool(node.attributes.get(f"trans{batch}{side}", 0)) for batch in ("Batch", "")] for side in "AB"]
        if any(rank is None and any(flag) for rank, flag in zip(ranks, flags, strict=True)):
            return None
        for i, (rank, (batch, matrix)) in enumerate(zip(ranks, flags, strict=True)):
            order = list(range(rank or 0))
            if batch and len(order) > 2:
                order = [*order[1:-1], 0, order[-1]]
            if matrix and len(order) > 1:
                order[-2:] = order[:-3:-1]
            if order != sorted(order):
                operands[i] = self.add(graph, "Transpose", [operands[i]], node, node.origin, perm=order)
        made = self.add(graph, "MatMul", operands, node, node.origin)
        alpha, dtype = float(node.attributes.get("alpha", 1.0)), self.dtype(operands[0])
        if alpha == 1.0:
            return made
        assert dtype is not None
        return self.add(graph, "Mul", [made, Value(graph.unique_name("alpha"), None, tensor_of(np.asarray(alpha), dtype, ()))], node, node.origin)

    # -- 5 ---------------------------------------------------------------------------------------------------------------------------------
    def _gemm(self, graph: Graph, node: Node) -> Value | None:
        plain = {k: v for k, v in node.attributes.items() if not k.startswith("activation")}
        parameters = {k: node.attributes[f"activation_{k}"] for k in ("alpha", "beta", "gamma") if f"activation_{k}" in node.attributes}
        activation = node.attributes.get("activation")
        if activation == "Clip":
            return None
        made = self.add(graph, "Gemm", node.inputs, node, node.origin, **plain)
        return made if not activation else self.add(graph, activation, [made], node, node.origin, **{k: v for k, v in parameters.items() if k in _PARAMETERS.get(activation, ())})

    def _conv(self, graph: Graph, node: Node) -> Value | None:
        plain = {k: v for k, v in node.attributes.items() if not k.startswith("activation")}
        activation, parameters = node.attributes.get("activation"), node.attributes.get("activation_params") or []
        dtype, plus = self.dtype(node.inputs[0]), input_of(node, 3)  # type: ignore[arg-type]
        if dtype is None:
            return None
        inputs = list(node.inputs[:3])
        while inputs[-1] is None:
            inputs.pop()
        made = self.add(graph, "Conv", inputs, node, node.origin, **plain)
        if plus is not None:
            made = self.add(graph, "Add", [made, plus], node, node.origin)
        if activation == "Clip":
            bounds = [Value(graph.unique_name(name), None, tensor_of(np.asarray(value), dtype, ())) for name, value in zip(("min", "max"), parameters, strict=True)]
            return self.add(graph, "Clip", [made, *bounds], node, node.origin)
        return made if not activation else self.add(graph, activation, [made], node, node.origin, **dict(zip(_PARAMETERS.get(activation, ()), parameters, strict=False)))

    # -- 6 ---------------------------------------------------------------------------------------------------------------------------------
    def _rotary(self, graph: Graph, node: Node) -> Value | None:
        x, positions, cos, sin = node.inputs
        assert x is not None and positions is not None and cos is not None
        shape, table = self.shape(x), self.shape(cos)
        if shape is None or table is None or not isinstance(table[1], int):
            return None
        if self.shape(positions) != (shape[0], shape[1] if len(shape) == 3 else shape[2]) or node.attributes.get("is_packed_batching", 0):
            return None
        turned = 2 * table[1]
        attributes: dict[str, Any] = {"interleaved": int(node.attributes.get("interleaved", 0)), "rotary_embedding_dim": int(node.attributes.get("rotary_embedding_dim", 0)) or turned}
        if len(shape) == 3:
            heads = int(node.attributes.get("num_heads", 0)) or (shape[2] // turned if isinstance(shape[2], int) else 0)
            if not heads:
                return None
            attributes["num_heads"] = heads
        return self.add(graph, "RotaryEmbedding", [x, cos, sin, positions], node, node.origin, **attributes)

    # -- 7 ---------------------------------------------------------------------------------------------------------------------------------
    def _attention(self, graph: Graph, node: Node) -> Value | None:
        q, k, v, mask = (input_of(node, i) for i in (0, 1, 2, 5))
        others = [input_of(node, i) for i in (3, 4, 6, 7, 8, 9)]
        if q is None or k is None or v is None or any(o is not None for o in others) or not self._unused(node, 1, 2, 3) or node.attributes.get("unidirectional", 0):
            return None
        shapes = [self.shape(value) for value in (q, k, v)]
        if any(s is None or len(s) != 3 for s in shapes) or self.dtype(q) not in (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16):
            return None
        if mask is not None and (len(self.shape(mask) or ()) != 4 or self.shape(mask)[3] != shapes[1][1]):
            return None
        heads, scale = int(node.attributes["num_heads"]), node.attributes.get("scale") or None
        attributes = {"q_num_heads": heads, "kv_num_heads": heads, **({"scale": float(scale)} if scale else {})}
        if scale is not None and scale <= 0:
            return None
        return self.add(graph, "Attention", [q, k, v, *([mask] if mask is not None else [])], node, node.origin, **attributes)

