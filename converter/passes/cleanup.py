"""Passes that remove work without changing a number: dead code, no-ops, common subexpressions, duplicate constants."""
from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from sardonyx.graph import Graph, Model, Node, Tensor, Value, merge_origins, release_captures
from sardonyx.ops import lookup
from sardonyx.ops.registry import Spec
from sardonyx.plan.shapes import rule_specs
from sardonyx.types import DType

from .base import Pass, constant_of, input_of

#: Outputs a node may do without, by operator: the indices of the optional ones.
OPTIONAL_OUTPUTS = {"Attention": (1, 2, 3), "BatchNormalization": (1, 2), "Dropout": (1,), "GRU": (0, 1), "LSTM": (0, 1, 2), "LayerNormalization": (1, 2), "MaxPool": (1,),
                    "RNN": (0, 1), "SoftmaxCrossEntropyLoss": (1,), "Unique": (1, 2, 3)}


class DeadCode(Pass):
    """1. A node none of whose outputs is used is removed. 2. An unused optional output becomes absent."""

    name = "dead code"

    def run(self, model: Model) -> int:
        count = 0
        for graph in reversed(list(model.graph.graphs())):
            dead = []
            for node in reversed(graph.nodes):
                used = [v is not None and (bool(v.uses) or v in self.outputs) for v in node.outputs]
                if not any(used):
                    node.detach()
                    release_captures(node)
                    dead.append(node)
                elif not all(used):
                    count += _trim(node, used)
            if dead:
                graph.remove(*dead)
            count += len(dead)
        return count


def _trim(node: Node, used: list[bool]) -> int:
    optional = OPTIONAL_OUTPUTS.get(node.op_type, ()) if not node.domain else ()
    idle = [i for i in optional if i < len(used) and not used[i] and node.outputs[i] is not None]
    for i in idle:
        node.outputs[i] = None
    while node.outputs[-1] is None:
        node.outputs.pop()
    return len(idle)


_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
_MAYBE_NEUTRAL = {"Cast", "Concat", "Expand", "Flatten", "Pad", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze", *_NEUTRAL}


class NoOps(Pass):
    """Nodes that give their input back.

    1. Identity, and Dropout outside training.  2. Cast to the type the input has.  3. Reshape, Expand, Tile, Flatten, Squeeze, Unsqueeze, Pad, Slice, Concat
    of one, Transpose whose output provably has the input's shape and order.  4. Add/Sub 0, Mul/Div 1 by a constant, where broadcasting adds nothing
    (x + 0 keeps NaN and infinities; it turns -0 into +0, which compares equal).

    Shapes are those the operators' rules derive: a shape that the file only declares for an output is not relied on.
    """

    name = "no-ops"

    def run(self, model: Model) -> int:
        return sum(self._remove(graph, node) for graph in model.graph.graphs() for node in list(graph.nodes))

    def _remove(self, graph: Graph, node: Node) -> int:
        source = self._source(node)
        result = node.outputs[0] if node.outputs else None
        if source is None or result is None or any(v is not None and (v.uses or v in self.outputs) for v in node.outputs[1:]):
            return 0
        # An output keeps its name only if `source` may take it: then its producer is in this graph and `source` is no output itself.
        if result in self.outputs and (source.producer is None or source in self.outputs or source.producer not in graph.nodes or result not in graph.outputs):
            return 0
        if source.producer is not None and node.origin:
            source.producer.origin = merge_origins([source.producer, node])
        self.replace(graph, result, source)
        graph.remove(node)
        return 1

    def _source(self, node: Node) -> Value | None:
        if node.domain or not node.inputs or node.inputs[0] is None:
            return None
        first = node.inputs[0]
        if node.op_type == "Identity":                                                                                      # 1
            return first
        if node.op_type == "Dropout":
            mode = input_of(node, 2)
            return first if mode is None or (mode.const is not None and not mode.const.numpy().any()) else None
        if node.op_type not in _MAYBE_NEUTRAL:
            return None
        given, made = self.spec(first), rule_specs(node, self.specs)[0]
        if given.dtype is None or given.dtype != made.dtype:
            return None
        if node.op_type == "Cast":                                                                                          # 2
            return first
        if node.op_type in _NEUTRAL:                                                                                        # 4
            return self._neutral(node, made)
        if given.shape is None or given.shape != made.shape:
            return None
        return first if self._keeps(node, given.shape) else None                                                            # 3

    def _keeps(self, node: Node, shape: tuple[Any, ...]) -> bool:
        """Whether a move that keeps the shape keeps the order of the elements too."""
        if node.op_type == "Concat":
            return len(node.inputs) == 1
        if node.op_type == "Transpose":
            order = node.attributes.get("perm", list(range(len(shape)))[::-1])
            moved = [axis for axis in order if shape[axis] != 1]
            return moved == sorted(moved)
        if node.op_type == "Slice":
            steps = input_of(node, 4)
            known = self.spec(steps).ints if steps is not None else [1]
            return known is not None and all(s == 1 for s in known)
        if node.op_type == "Pad":
            pads = constant_of(node.inputs[1])
            return pads is not None and not pads.any()
        return True

    def _neutral(self, node: Node, made: Spec) -> Value | None:
        for keep, other in [(0, 1)] if node.op_type in ("Sub", "Div") else [(0, 1), (1, 0)]:
            value, kept = node.inputs[other], node.inputs[keep]
            if value is None or kept is None or value.const is None or value.const.size == 0 or made.shape is None or self.shape(kept) != made.shape:
                continue
            if _all_equal(value.const, _NEUTRAL[node.op_type]):
                return kept
        return None


def _all_equal(tensor: Tensor, number: int) -> bool:
    """Whether every element is the number; one look suffices for a splat and for most others."""
    array = tensor.numpy()
    return bool(array[(0,) * array.ndim] == number) and (tensor.is_splat or bool((array == number).all()))


class CommonSubexpressions(Pass):
    """1. Of two nodes with the same operator, attributes and inputs the second is removed (never random operators, nor nodes with nested graphs)."""

    name = "common subexpressions"

    def run(self, model: Model) -> int:
        return sum(self._share(graph) for graph in model.graph.graphs())

    def _share(self, graph: Graph) -> int:
        seen: dict[Any, list[Node]] = {}
        keys: dict[Node, Any] = {}
        same: list[Node] = []

        def attributes(node: Node) -> Any:
            if node not in keys:
                keys[node] = tuple(sorted((k, _attribute_key(v)) for k, v in node.attributes.items()))
            return keys[node]
        for node in graph.nodes:
            if lookup(node.domain, node.op_type).random or any(True for _ in node.subgraphs()):
                continue
            alike = seen.setdefault((node.domain, node.op_type, node.inputs, tuple(v is None for v in node.outputs)), [])
            first = next((other for other in alike if attributes(other) == attributes(node)), None)  # long attributes are read where there is something to compare with
            if first is None:
                alike.append(node)
                continue
            if any(v in self.outputs for v in node.outputs):
                continue
            for old, new in zip(node.outputs, first.outputs, strict=True):
                if old is not None and new is not None:
                    self.replace(graph, old, new)
            first.origin = merge_origins([first, node])
            same.append(node)
        graph.remove(*same)
        return len(same)


def _attribute_key(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tensor_key(value)}"
    return f"{type(value).__name__} {value!r}" if not isinstance(value, list) else f"list {[_attribute_key(v) for v in value]}"


def tensor_key(tensor: Tensor) -> tuple[Any, ...]:
    """A key that equal constants share: dtype, shape and a hash of the bytes (of one element for a splat)."""
    array = tensor.numpy()
    if tensor.is_splat:
        array = array[(slice(0, 1),) * array.ndim]
    data = repr(array.ravel().tolist()).encode() if tensor.dtype is DType.STRING else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return int(tensor.dtype), tensor.shape, tensor.is_splat, hashlib.sha256(data).digest()


class DuplicateConstants(Pass):
    """1. Equal constants of at most `largest` elements become one. Only tensors equal in type, shape and a sample of their elements are hashed: most weights are not read.

    Before other passes only small ones are shared: a weight that two operators use can not take up what follows one of them.
    """

    name = "duplicate constants"

    def __init__(self, largest: int | None = None) -> None:
        super().__init__()
        self.largest = largest

    def run(self, model: Model) -> int:
        groups: dict[Any, dict[Value, None]] = {}
        for graph in model.graph.graphs():
            for value in graph.constants():
                if value.const is not None and value not in self.outputs and (self.largest is None or value.const.size <= self.largest):
                    groups.setdefault(_sample(value.const), {})[value] = None
        return sum(self._merge(list(members)) for members in groups.values() if len(members) > 1)

    def _merge(self, members: list[Value]) -> int:
        count = 0
        first: dict[Any, Value] = {}
        for value in members:
            assert value.const is not None
            same = first.setdefault(tensor_key(value.const), value)
            if same is not value:
                value.replace_by(same)
                count += 1
        return count


def _sample(tensor: Tensor) -> tuple[Any, ...]:
    """What equal tensors certainly share and others mostly do not; cheap."""
    array = tensor.numpy()
    corners = [array[(i,) * array.ndim] for i in (0, -1)] if array.size else []
    return int(tensor.dtype), tensor.shape, *(str(c) for c in corners)
