"""One canonical form of quantised models written with QuantizeLinear (Q) and DequantizeLinear (DQ)."""
from __future__ import annotations

import numpy as np
from sardonyx.graph import Graph, Model, Node, Value, merge_origins
from sardonyx.ops.registry import Spec
from sardonyx.types import DType

from .base import Pass, constant_of, input_of, is_op, producer, tensor_of

#: Operators whose first input's values they only move or copy: f(DQ(q)) = DQ(f(q)).
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "Tile", "Gather", "DepthToSpace", "SpaceToDepth", "MaxPool")
#: Those that leave nothing out, so that a Q above them does no more work than below.
_KEEPS_ALL = tuple(name for name in _MOVES if name not in ("Slice", "Gather"))
_BYTES = (DType.INT8, DType.UINT8)


class NormalizeQDQ(Pass):
    """Canonical form: Q and DQ stand directly at the operators that compute, and always have a zero point, of the scale's shape and the quantised type.

    1. An absent zero point becomes explicit zeros; the attribute that gave the type (`output_dtype`) goes where the zero point gives it.
    2. DQ moves down through operators that only move values (Reshape and its kin, Transpose, Slice, Gather, …, and MaxPool on bytes, which keeps order).
    3. Q moves up through them, Slice and Gather apart; and through a Concat that joins dequantised tensors: bytes are joined.
    4. Q of a DQ with equal constant parameters cancels (types of at most 16 bits: the round trip is exact for every finite normal scale).
    5. Relu or Clip before a Q goes where Q makes of its bounds the lowest and the highest value of its type: Q saturates there.

    Per-tensor scales go anywhere; a per-axis scale follows its axis through Transpose. Constant Q is folded to integers by FoldConstants; constant DQ stays, as does the int32 DQ of a
    bias. Every rewrite is exact. Several consumers may share a DQ.
    """

    name = "QDQ normalisation"

    def run(self, model: Model) -> int:
        count = 0
        for graph in model.graph.graphs():
            count += sum(self._explicit_zero(graph, node) for node in graph.nodes if is_op(node, "QuantizeLinear", "DequantizeLinear"))             # 1
            for node in list(graph.nodes):
                count += self._down(graph, node) if is_op(node, *_MOVES) else 0                                                              # 2
            waiting = [n for n in graph.nodes if is_op(n, "QuantizeLinear")]
            while waiting:                                                                                                                   # 3, 5
                node = waiting.pop()
                while self._up(graph, node) or self._clipped(graph, node):
                    count += 1
                parts = self._into_concat(graph, node)
                count += bool(parts)
                waiting += parts
            for node in list(graph.nodes):
                count += self._cancel(graph, node) if is_op(node, "QuantizeLinear") else 0                                                   # 4
        return count

    # -- 1 ---------------------------------------------------------------------------------------------------------------------------------
    def _explicit_zero(self, graph: Graph, node: Node) -> int:
        result, scale = node.outputs[0], node.inputs[1]
        given = node.inputs[0] if node.op_type == "DequantizeLinear" else result
        assert given is not None and scale is not None
        dtype, shape = self.dtype(given), self.shape(scale)
        if input_of(node, 2) is not None or dtype is None or shape is None or not all(isinstance(d, int) for d in shape):
            return 0
        zero = Value(graph.unique_name(f"{scale.name}_zero"), None, tensor_of(np.zeros(1), dtype, shape))
        node.set_input(2, zero)
        if node.op_type == "QuantizeLinear":
            node.attributes.pop("output_dtype", None)
        return 1

    # -- 2 ---------------------------------------------------------------------------------------------------------------------------------
    def _down(self, graph: Graph, node: Node) -> int:
        dequantize, result = producer(node.inputs[0], "DequantizeLinear"), node.outputs[0]
        if dequantize is None or dequantize.inputs[0] is None or result is None or not (result.uses or result in self.outputs) or not self.only_use(dequantize.outputs[0]):  # type: ignore[arg-type]
            return 0
        quantized = dequantize.inputs[0]
        attributes = self._through(node, dequantize, self.dtype(quantized))
        if attributes is None:
            return 0
        moved = self.add(graph, node.op_type, [quantized, *node.inputs[1:]], node, node.origin, **node.attributes)
        made = self.add(graph, "DequantizeLinear", [moved, *dequantize.inputs[1:]], node, dequantize.origin, **attributes)
        self.replace(graph, result, made)
        self.prune(graph, node)
        return 1

    def _through(self, move: Node, node: Node, dtype: DType | None) -> dict[str, object] | None:
        """The attributes of the Q or DQ `node` on the other side of `move` (downwards), None where it can not pass."""
        if move.op_type == "MaxPool" and (dtype not in _BYTES or len(move.outputs) > 1):
            return None
        if int(node.attributes.get("block_size", 0)):
            return None
        scale = node.inputs[1]
        assert scale is not None
        if self.shape(scale) in ((), (1,)):
            return dict(node.attributes)
        given = self.shape(move.inputs[0])  # type: ignore[arg-type]
        if move.op_type != "Transpose" or given is None:
            return None
        order = move.attributes.get("perm", list(range(len(given)))[::-1])
        return {**node.attributes, "axis": list(order).index(int(node.attributes.get("axis", 1)) % len(given))}

    # -- 3 ---------------------------------------------------------------------------------------------------------------------------------
    def _up(self, graph: Graph, quantize: Node) -> bool:
        source, result = quantize.inputs[0], quantize.outputs[0]
        move = producer(source, *_KEEPS_ALL)
        if source is None or result is None or move is None or move.inputs[0] is None or not self.only_use(source) or move not in graph.nodes:
            return False
        if self.shape(quantize.inputs[1]) not in ((), (1,)) or self._through(move, quantize, self.dtype(result)) is None:  # type: ignore[arg-type]
            return False
        above, *others = move.inputs
        # In place, so that the walk can go on with the same Q: its output becomes the move's input and the move makes what Q made.
        quantized = Value(graph.unique_name(f"{above.name}_quantized"))  # type: ignore[union-attr]
        quantize.set_input(0, above)
        quantize.outputs, quantized.producer = [quantized], quantize
        move.set_inputs([quantized, *others])
        move.outputs, result.producer = [result], move
        self.specs[quantized] = Spec(self.dtype(result), self.shape(above))  # type: ignore[arg-type]
        graph.nodes.remove(quantize)
        graph.nodes.insert(graph.nodes.index(move), quantize)
        return True

    def _into_concat(self, graph: Graph, quantize: Node) -> list[Node]:
        """The Qs of a Concat's inputs that take the place of the Q of its result."""
        source, result = quantize.inputs[0], quantize.outputs[0]
        concat = producer(source, "Concat")
        if source is None or result is None or concat is None or not self.only_use(source) or not any(producer(v, "DequantizeLinear") for v in concat.inputs):
            return []
        if self.shape(quantize.inputs[1]) not in ((), (1,)) or int(quantize.attributes.get("block_size", 0)):  # type: ignore[arg-type]
            return []
        parts = [self.add(graph, "QuantizeLinear", [v, *quantize.inputs[1:]], concat, quantize.origin, **quantize.attributes) for v in concat.inputs]
        made = self.add(graph, "Concat", parts, concat, concat.origin, **concat.attributes)
        self.replace(graph, result, made)
        self.prune(graph, quantize)
        return [v.producer for v in parts if v.producer is not None]

    # -- 4 ---------------------------------------------------------------------------------------------------------------------------------
    def _cancel(self, graph: Graph, quantize: Node) -> int:
        dequantize, result = producer(quantize.inputs[0], "DequantizeLinear"), quantize.outputs[0]
        if dequantize is None or dequantize.inputs[0] is None or result is None or not (result.uses or result in self.outputs):
            return 0
        quantized, scale = dequantize.inputs[0], constant_of(quantize.inputs[1])
        dtype = self.dtype(quantized)
        if dtype != self.dtype(result) or dtype is None or not dtype.is_integer or dtype.bits > 16 or scale is None:
            return 0
        if scale.dtype != np.float32 or not (np.isfinite(scale) & (np.abs(scale) > 1e-30) & (np.abs(scale) < 1e30)).all() or quantize.attributes.get("precision", 0):
            return 0
        if not self._same_parameters(quantize, dequantize, scale.size == 1) or (result in self.outputs and quantized.producer not in graph.nodes):
            return 0
        self.replace(graph, result, quantized)
        self.prune(graph, quantize)
        return 1

    def _same_parameters(self, a: Node, b: Node, per_tensor: bool) -> bool:
        for index in (1, 2):
            x, y = constant_of(input_of(a, index)), constant_of(input_of(b, index))
            if x is None or y is None or x.dtype != y.dtype or x.size != y.size or not np.array_equal(x.ravel(), y.ravel()):
                return False
        rank = len(self.shape(a.inputs[0]) or (0, 0))  # type: ignore[arg-type]
        same_axis = per_tensor or int(a.attributes.get("axis", 1)) % rank == int(b.attributes.get("axis", 1)) % rank
        return same_axis and a.attributes.get("block_size", 0) == b.attributes.get("block_size", 0)

    # -- 5 ---------------------------------------------------------------------------------------------------------------------------------
    def _clipped(self, graph: Graph, quantize: Node) -> bool:
        source, zero, scale = quantize.inputs[0], constant_of(input_of(quantize, 2)), constant_of(quantize.inputs[1])
        clip = producer(source, "Relu", "Clip")
        if source is None or clip is None or clip.inputs[0] is None or not self.only_use(source) or zero is None or scale is None or zero.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
            return False
        info = np.iinfo(zero.dtype)
        bounds: list[np.ndarray | None] = [np.zeros((), np.float32), None]
        if clip.op_type == "Clip":
            found = [constant_of(input_of(clip, 1 + i)) for i in range(2)]
            if any(input_of(clip, 1 + i) is not None and (x is None or x.size != 1) for i, x in enumerate(found)):
                return False
            bounds = [None if x is None else x.reshape(()).astype(np.float32) for x in found]
        low, high = (None if x is None else np.rint(x / scale) + zero.astype(np.float32) for x in bounds)
        if not (scale > 0).all() or (low is not None and not (low <= info.min).all()) or (high is not None and not (high >= info.max).all()):
            return False
        quantize.set_input(0, clip.inputs[0])
        quantize.origin = merge_origins([clip, quantize])
        self.prune(graph, clip)
        return True
