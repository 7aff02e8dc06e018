"""Clean-up of what only moves or relabels data: Transpose, Reshape and its kin, Cast, Expand."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sardonyx.graph import Graph, Model, Node, Tensor, Value, merge_origins
from sardonyx.types import DType

from .base import Pass, is_op, producer

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
#: Operators that work element by element on inputs that broadcast, all inputs being data.
ELEMENTWISE = frozenset((
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"))
#: Bits of magnitude an integer type holds, and whole numbers a float type holds exactly.
_INTEGER_BITS = {DType.BOOL: (0, 1), DType.UINT8: (0, 8), DType.INT8: (1, 7), DType.UINT16: (0, 16), DType.INT16: (1, 15), DType.UINT32: (0, 32), DType.INT32: (1, 31),
                 DType.UINT64: (0, 64), DType.INT64: (1, 63)}
_FLOAT_BITS = {DType.FLOAT16: 11, DType.BFLOAT16: 8, DType.FLOAT: 24, DType.DOUBLE: 53}
_WIDER = {DType.FLOAT16: (DType.FLOAT, DType.DOUBLE), DType.BFLOAT16: (DType.FLOAT, DType.DOUBLE), DType.FLOAT: (DType.DOUBLE,)}


class CleanMoves(Pass):
    """Fewer moves, the same numbers.

    1. Transpose of a Transpose is one, or none.  2. Where all uses of a region of elementwise operators are equal Transposes, and all its inputs constants or the inverse
    Transposes (one at least): both sides vanish.  3. Chains of Reshape, Flatten, Squeeze and Unsqueeze are one Reshape, or none; a shape that is computed and has a constant form
    (0 for a size copied, -1 for one that is inferred) becomes that constant, so that the computation dies.  4. Cast of a Cast that lost nothing.
    5. Expand into an operator that broadcasts anyway.  6. Transpose of a matrix into Gemm is its transA or transB.  (Transposes of constants die by folding.)
    """

    name = "cast, transpose and reshape clean-up"

    def run(self, model: Model) -> int:
        count = 0
        for graph in model.graph.graphs():
            self._constants: dict[tuple[Value, tuple[int, ...]], Value] = {}
            for node in list(graph.nodes):
                count += self._clean(graph, node)
        return count

    def _clean(self, graph: Graph, node: Node) -> int:
        if node.domain or not node.outputs or node.outputs[0] is None or not (node.outputs[0].uses or node.outputs[0] in self.outputs):
            return 0
        if node.op_type == "Transpose":
            return int(self._transpose(graph, node))                                                                                        # 1, 2
        if node.op_type in _RESHAPES:
            return int(self._reshape(graph, node))                                                                                          # 3
        if node.op_type == "Cast":
            return int(self._cast(graph, node))                                                                                                    # 4
        if node.op_type == "Gemm":
            return self._gemm(graph, node)                                                                                                         # 6
        return self._expanded(graph, node) if node.op_type in ELEMENTWISE else 0                                                                   # 5

    # -- 1, 2 ------------------------------------------------------------------------------------------------------------------------------
    def _transpose(self, graph: Graph, node: Node) -> bool:
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None and result is not None
        rank = len(self.shape(source) or ())
        order = _order(node, rank)
        inner = producer(source, "Transpose")
        if inner is not None and inner.inputs[0] is not None:
            both = [_order(inner, rank)[axis] for axis in order]
            origin = merge_origins([inner, node])
            if both == list(range(rank)):
                if inner.inputs[0] in graph.inputs and result in self.outputs:
                    return False  # an Identity would stand there instead
                self.replace(graph, result, inner.inputs[0])
                self.prune(graph, node)
                return True
            node.set_input(0, inner.inputs[0])
            node.attributes["perm"], node.origin = both, origin
            self.prune(graph, inner)
            return True
        region = self._region(source, order) if rank > 1 else []
        if not region:
            return False
        moved: dict[Value, Value] = {}
        for inside in region:
            self._move_node(graph, inside, order, moved)
        twins = [n for inside in region for n, _ in inside.outputs[0].uses if is_op(n, "Transpose") and n not in region]  # type: ignore[union-attr]
        for twin in dict.fromkeys(twins):
            self.replace(graph, twin.outputs[0], moved[twin.inputs[0]])  # type: ignore[arg-type, index]
        self.prune(graph, *twins)
        return True

    def _region(self, value: Value, order: Sequence[int]) -> list[Node]:
        """The elementwise nodes between the Transpose of `value` by `order` and its inverses, producers first; empty where it is not so."""
        seen: set[Node] = set()
        region: dict[Node, None] = {}
        inverses = 0
        stack = [value.producer]
        while stack:
            node = stack[-1]
            if node is None or len(seen) > 64 or not is_op(node, *ELEMENTWISE) or len(node.outputs) != 1:
                return []
            if node in seen:  # its producers are in
                region[stack.pop()] = None  # type: ignore[index]
                continue
            seen.add(node)
            for given in _data_inputs(node):
                if given.const is not None:
                    continue
                if len(self.shape(given) or ()) != len(order):
                    return []
                inverse = producer(given, "Transpose")
                if inverse is not None and [_order(inverse, len(order))[axis] for axis in order] == list(range(len(order))):
                    inverses += 1
                elif given.producer not in seen:
                    stack.append(given.producer)
        return list(region) if inverses and all(self._stays_inside(n, region, order) for n in region) else []

    def _stays_inside(self, node: Node, region: dict[Node, None], order: Sequence[int]) -> bool:
        """Whether only the region and Transposes by `order` use what the node makes."""
        made = node.outputs[0]
        return made is not None and made not in self.outputs and all(n in region or (is_op(n, "Transpose") and _order(n, len(order)) == list(order)) for n, _ in made.uses)

    def _move_node(self, graph: Graph, node: Node, order: Sequence[int], moved: dict[Value, Value]) -> None:
        """The node on permuted inputs; `moved` gets its output."""
        data = _data_inputs(node)

        def permuted(value: Value | None) -> Value | None:
            if value is None or value not in data:
                return value
            if value.const is not None:
                return self._moved_constant(graph, value, order)
            return moved[value] if value in moved else value.producer.inputs[0]  # type: ignore[union-attr]
        moved[node.outputs[0]] = self.add(graph, node.op_type, map(permuted, node.inputs), node, node.origin, **node.attributes)  # type: ignore[index]

    def _moved_constant(self, graph: Graph, value: Value, order: Sequence[int]) -> Value:
        assert value.const is not None
        array = value.const.numpy()
        if array.size == 1 and array.ndim <= len(order):
            return value
        key = (value, tuple(order))
        if key not in self._constants:
            full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
            self._constants[key] = Value(graph.unique_name(value.name), None, Tensor(full.transpose(order), dtype=value.const.dtype))
        return self._constants[key]

    # -- 3 ---------------------------------------------------------------------------------------------------------------------------------
    def _reshape(self, graph: Graph, node: Node) -> bool:
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None and result is not None
        first, origin = source, [node]
        while (inner := producer(first, *_RESHAPES)) is not None and inner.inputs[0] is not None:
            first = inner.inputs[0]
            origin.insert(0, inner)
        given, made = self.shape(first), self.shape(result)
        if given is None or made is None:
            return False
        if first is not source and given == made:
            if result in self.outputs and first.producer not in graph.nodes:
                return False
            self.replace(graph, result, first)
            self.prune(graph, node)
            return True
        known = node.op_type == "Reshape" and node.inputs[1] is not None and node.inputs[1].const is not None
        if first is source and (known or node.op_type != "Reshape"):
            return False
        spec = self.spec(node.inputs[1]) if node.op_type == "Reshape" and node.inputs[1] is not None else None
        target = _constant_target(given, made, inferred=spec is not None and spec.ints is not None and -1 in spec.ints)
        if target is None:
            return False
        shape = graph.constant(np.array(target, np.int64), graph.unique_name(f"{result.name}_shape"))
        used = [v.producer for v in node.inputs if v is not None]
        node.op_type, node.attributes, node.origin = "Reshape", {}, merge_origins(origin)
        node.set_inputs([first, shape])
        self.prune(graph, *used)
        return True

    # -- 4 ---------------------------------------------------------------------------------------------------------------------------------
    def _cast(self, graph: Graph, node: Node) -> bool:
        source = node.inputs[0]
        inner = producer(source, "Cast")
        if source is None or inner is None or inner.inputs[0] is None:
            return False
        first, between, last = self.dtype(inner.inputs[0]), self.dtype(source), DType(node.attributes["to"])
        if first is None or between is None or not _skips(first, between, last):
            return False
        node.set_input(0, inner.inputs[0])
        node.origin = merge_origins([inner, node])
        self.prune(graph, inner)
        return True

    # -- 5 ---------------------------------------------------------------------------------------------------------------------------------
    def _expanded(self, graph: Graph, node: Node) -> int:
        count = 0
        for index, value in enumerate(node.inputs):
            expand = producer(value, "Expand")
            if value is None or expand is None or expand.inputs[0] is None or (node.op_type == "Clip" and index):
                continue
            data = _data_inputs(node)
            shapes = [self.shape(expand.inputs[0] if v is value else v) for v in data]
            if node.outputs[0] is not None and _broadcast_is(self.shape(node.outputs[0]), shapes):
                node.set_input(index, expand.inputs[0])
                node.origin = merge_origins([expand, node])
                self.prune(graph, expand)
                count += 1
        return count

    # -- 6 ---------------------------------------------------------------------------------------------------------------------------------
    def _gemm(self, graph: Graph, node: Node) -> int:
        count = 0
        for index, name in enumerate(("transA", "transB")):
            inner = producer(node.inputs[index], "Transpose")
            if inner is not None and inner.inputs[0] is not None and len(self.shape(inner.inputs[0]) or ()) == 2 and _order(inner, 2) == [1, 0]:
                node.set_input(index, inner.inputs[0])
                node.attributes[name] = 1 - int(node.attributes.get(name, 0))
                node.origin = merge_origins([inner, node])
                self.prune(graph, inner)
                count += 1
        return count


def _order(node: Node, rank: int) -> list[int]:
    perm = node.attributes.get("perm")
    return [int(a) for a in perm] if perm is not None else list(range(rank))[::-1]


def _data_inputs(node: Node) -> list[Value]:
    """The inputs that run along with the output: all but Clip's bounds."""
    return [v for v in (node.inputs[:1] if is_op(node, "Clip") else node.inputs) if v is not None]


def _constant_target(given: Sequence[Any], made: Sequence[Any], inferred: bool) -> list[int] | None:
    """A constant `shape` input by which Reshape makes `made` of `given`: 0 copies a size that is unknown now, -1 stands for one that nothing copies.

    Both at once can not reshape a tensor without elements: only where the original has a -1 too (`inferred`).
    """
    target = [d if isinstance(d, int) else 0 if i < len(given) and given[i] == d else -1 for i, d in enumerate(made)]
    if any(isinstance(d, int) and d == 0 for d in made) or target.count(-1) > 1 or (-1 in target and 0 in target and not inferred):
        return None
    return target


def _skips(first: DType, between: DType, last: DType) -> bool:
    """Whether Cast(Cast(x: first, between), last) is Cast(x, last)."""
    if DType.STRING in (first, between, last) or not _lossless(first, between):
        return False
    if last == first or first.is_float or not between.is_float:
        return True
    return last.is_float or last is DType.BOOL  # out of range, integers wrap and floats saturate


def _lossless(first: DType, second: DType) -> bool:
    if first == second:
        return True
    if first in _INTEGER_BITS and second in _INTEGER_BITS:
        (signed, bits), (room_sign, room) = _INTEGER_BITS[first], _INTEGER_BITS[second]
        return second is not DType.BOOL and bits <= room and signed <= room_sign
    if first in _INTEGER_BITS and second in _FLOAT_BITS:
        return _INTEGER_BITS[first][1] <= _FLOAT_BITS[second]
    return second in _WIDER.get(first, ())


def _broadcast_is(made: Any, shapes: Sequence[Any]) -> bool:
    """Whether the shapes certainly broadcast to `made`."""
    if made is None or any(s is None or len(s) > len(made) for s in shapes) or max(map(len, shapes)) != len(made):
        return False
    for axis in range(-len(made), 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis and s[axis] != 1} or {1}
        if sizes != {made[axis]}:
            return False
    return True

