"""Passes that remove work without changing a number: dead code, no-ops, common subexpressions, duplicate constants."""
from __future__ import annotations

import hashlib
from typing import Any

from sardonyx.graph import Graph, Model, Node, Tensor, Value, merge_origins
from sardonyx.ops import lookup
from sardonyx.ops.registry import Spec
from sardonyx.types import DType, TensorType

from .base import Pass, all_outputs, constant_of, overridable


class DeadCode(Pass):
    """1. A node none of whose outputs is used is removed. 2. An unused optional output becomes absent."""

    name = "dead code"
    needs_shapes = False

    def run(self, model: Model) -> int:
        count = 0
        outputs = all_outputs(model.graph)
        for graph in reversed(list(model.graph.graphs())):
            dead = []
            for node in reversed(graph.nodes):
                used = [v is not None and (bool(v.uses) or v in outputs) for v in node.outputs]
                if not any(used):
                    graph_free(node)
                    dead.append(node)
                elif not all(used[i] or node.outputs[i] is None for i in range(1, len(used))):
                    count += _trim(node, used)
            if dead:
                graph.remove(*dead)
            count += len(dead)
        return count


def graph_free(node: Node) -> None:
    """Detach a node and everything nested in it, so that what it used can die too."""
    node.detach()
    for graph in node.subgraphs():
        for inner in graph.walk():
            inner.detach()


def _trim(node: Node, used: list[bool]) -> int:
    """Make unused trailing outputs absent where they are optional: the operators whose bodies and rules look at `n_outputs`."""
    if not node.outputs or node.op_type in ("Split", "If", "Loop", "Scan", "SequenceMap") or "n_outputs" not in lookup(node.domain, node.op_type).wants:
        return 0
    count = 0
    while len(node.outputs) > 1 and not used[len(node.outputs) - 1]:
        node.outputs.pop()
        count += 1
    return count


class NoOps(Pass):
    """Nodes that give their input back.

    1. Identity, and Dropout outside training.  2. Cast to the type the input has.  3. Reshape, Expand, Tile, Flatten, Squeeze, Unsqueeze, Pad, Slice, Concat
    of one, Transpose whose output provably has the input's shape and order.  4. Add/Sub 0, Mul/Div 1 by a constant, where broadcasting adds nothing
    (x + 0 keeps NaN and infinities; it turns -0 into +0, which compares equal).
    """

    name = "no-ops"

    def run(self, model: Model) -> int:
        count = 0
        for graph in model.graph.graphs():
            for node in list(graph.nodes):
                source = self._source(node)
                result = node.outputs[0] if node.outputs else None
                if source is None or result is None or any(v is not None and (v.uses or v in graph.outputs) for v in node.outputs[1:]):
                    continue
                if _pass_through(graph, node, result, source):
                    count += 1
        return count

    def _source(self, node: Node) -> Value | None:
        if node.domain or not node.inputs or node.inputs[0] is None:
            return None
        first = node.inputs[0]
        if node.op_type == "Identity":                                                                                      # 1
            return first
        if node.op_type == "Dropout":
            mode = node.inputs[2] if len(node.inputs) > 2 else None
            return first if mode is None or (mode.const is not None and not mode.const.numpy().any()) else None
        given, made = self._spec(first), self._spec(node.outputs[0])
        if given is None or made is None or given.dtype is None or given.dtype != made.dtype:
            return None
        if node.op_type == "Cast":                                                                                          # 2
            return first
        if given.shape is None or given.shape != made.shape:
            return None
        if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"):                                # 3
            return first
        if node.op_type == "Concat" and len(node.inputs) == 1:
            return first
        if node.op_type == "Transpose":
            order = node.attributes.get("perm", list(range(len(given.shape)))[::-1])
            moved = [axis for axis in order if given.shape[axis] != 1]
            return first if moved == sorted(moved) else None
        if node.op_type == "Slice":
            steps = self._spec(node.inputs[4]) if len(node.inputs) > 4 else None
            return first if len(node.inputs) < 5 or (steps is not None and steps.ints is not None and all(s == 1 for s in steps.ints)) else None
        if node.op_type == "Pad":
            pads = constant_of(node.inputs[1])
            return first if pads is not None and not pads.any() else None
        return self._neutral(node, made)                                                                                    # 4

    def _neutral(self, node: Node, made: Spec) -> Value | None:
        neutral = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}.get(node.op_type)
        if neutral is None:
            return None
        sides = [(0, 1)] if node.op_type in ("Sub", "Div") else [(0, 1), (1, 0)]
        for keep, other in sides:
            value, kept = node.inputs[other], node.inputs[keep]
            spec = self._spec(kept)
            if value is not None and value.const is not None and value.const.dtype is not DType.STRING and spec is not None and spec.shape == made.shape \
                    and (value.const.numpy() == neutral).all() and value.const.size:
                return kept
        return None

    def _spec(self, value: Value | None) -> Spec | None:
        if value is None:
            return None
        found = self.specs.get(value)
        if found is None and value.const is not None:
            return Spec(value.const.dtype, value.const.shape)
        if found is None and isinstance(value.type, TensorType):
            return Spec(value.type.dtype, value.type.shape)
        return found


def _pass_through(graph: Graph, node: Node, result: Value, source: Value) -> bool:
    """Make `source` stand for `result`. An output keeps its name only if `source` may take it: then its producer is in this graph and `source` is no output itself."""
    if result in graph.outputs:
        takes_name = source.producer is not None and source.producer in graph.nodes and source not in graph.outputs and not _output_elsewhere(graph, source)
        if not takes_name:
            return False
    source_node = source.producer
    if source_node is not None and node.origin:
        source_node.origin = merge_origins([source_node, node])
    graph.replace_value(result, source)
    graph.remove(node)
    return True


def _output_elsewhere(graph: Graph, value: Value) -> bool:
    return any(value in nested.outputs for node in graph.nodes for nested in node.subgraphs())


class CommonSubexpressions(Pass):
    """1. Of two nodes with the same operator, attributes and inputs the second is removed (never random operators, nor nodes with nested graphs)."""

    name = "common subexpressions"
    needs_shapes = False

    def run(self, model: Model) -> int:
        count = 0
        for graph in model.graph.graphs():
            seen: dict[Any, Node] = {}
            for node in list(graph.nodes):
                if lookup(node.domain, node.op_type).random or any(True for _ in node.subgraphs()):
                    continue
                key = (node.domain, node.op_type, tuple(map(id, node.inputs)), len(node.outputs), tuple(sorted((k, _attribute_key(v)) for k, v in node.attributes.items())))
                first = seen.setdefault(key, node)
                if first is node or any(v in graph.outputs for v in node.outputs) or any((a is None) != (b is None) for a, b in zip(first.outputs, node.outputs, strict=True)):
                    continue
                for old, new in zip(node.outputs, first.outputs, strict=True):
                    if old is not None and new is not None:
                        graph.replace_value(old, new)
                first.origin = merge_origins([first, node])
                graph.remove(node)
                count += 1
        return count


def _attribute_key(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tensor_key(value)}"
    return f"{type(value).__name__} {value!r}" if not isinstance(value, list) else f"list {[_attribute_key(v) for v in value]}"


def tensor_key(tensor: Tensor) -> tuple[Any, ...]:
    """A key that equal constants share: dtype, shape and a hash of the bytes (of one element for a splat)."""
    array = tensor.numpy()
    if tensor.is_splat:
        array = array[(slice(0, 1),) * array.ndim]
    data = repr(array.ravel().tolist()).encode() if tensor.dtype is DType.STRING else array.tobytes()
    return int(tensor.dtype), tensor.shape, tensor.is_splat, hashlib.sha256(data).digest()


class DuplicateConstants(Pass):
    """1. Equal constants become one. Only tensors of equal dtype, shape and size are hashed, so weights that cannot be equal are not read."""

    name = "duplicate constants"
    needs_shapes = False

    def run(self, model: Model) -> int:
        count = 0
        kept = overridable(model.graph) | all_outputs(model.graph)
        groups: dict[Any, list[Value]] = {}
        for graph in model.graph.graphs():
            for value in graph.constants():
                if value not in kept and value.const is not None:
                    members = groups.setdefault((value.const.dtype, value.const.shape), [])
                    if value not in members:
                        members.append(value)
        for members in groups.values():
            if len(members) < 2:
                continue
            first: dict[Any, Value] = {}
            for value in members:
                assert value.const is not None
                same = first.setdefault(tensor_key(value.const), value)
                if same is not value:
                    value.replace_by(same)
                    count += 1
        return count
