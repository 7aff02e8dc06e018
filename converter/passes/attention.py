"""Recognition of attention and of rotary position embedding that exporters spell out in small operators."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sardonyx.graph import Graph, Node, Tensor, Value
from sardonyx.types import DType

from .base import constant_of, input_of, is_op, producer, scalar_of
from .match import Constant, Input, Match, Number, OneOf, Op, Pattern, Recogniser, Rule

_FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE)


def _scaled(of: Pattern, name: str) -> Pattern:
    """`of`, or `of` times or divided by a constant bound to the name (with "/" before it: the divisor)."""
    return OneOf(Op("Mul", of, Number(name=name)), Op("Div", of, Number(name=f"/{name}")), of)


def _minus_infinity(node: Node, index: int) -> bool:
    return scalar_of(input_of(node, index)) == -math.inf


class RecogniseAttention(Recogniser):
    """1. MatMul(Softmax(MatMul(q, kᵀ) · scale + mask), v) becomes Attention, for q, k, v of rank 4 [batch, heads, length, size] or rank 3 [batch·heads, length, size].
    2. The scale may be a Mul or Div on the scores, on q, on k or on both.  3. The mask: a tensor added to the scaled scores, or Where(mask, scores, −inf) and
    Where(mask, −inf, scores), if its last axis is as long as the keys and its other axes are 1 or those of the scores.  4. Where(IsNaN(w), 0, w) on the weights is part of it.

    kᵀ must be made by a Transpose, or be a constant: its inverse cancels in CleanMoves. Batch and heads of q, k and v must be equal, with nothing broadcast.
    Rounding: Attention scales q and k by √scale each. Where a mask hides every key of a query, the spelled form without 4 gives NaN and Attention 0.
    """

    name = "recognise Attention"

    def rules(self) -> list[Rule]:
        raw = Op("MatMul", _scaled(Input("q"), "on_q"), _scaled(Input("kt"), "on_k"))
        scores = _scaled(raw, "scale")
        hidden = OneOf(Op("Where", Input("seen"), scores, Constant("fill"), where=lambda n: _minus_infinity(n, 2)),
                       Op("Where", Input("unseen"), Constant("fill"), scores, where=lambda n: _minus_infinity(n, 1)))
        weights = Op("Softmax", OneOf(Op("Add", scores, Input("mask")), hidden, scores), name="softmax")
        guarded = Op("Where", Op("IsNaN", weights), Number(0.0), weights)
        return [Rule(Op("MatMul", OneOf(guarded, weights), Input("v")), self._build)]

    def _build(self, graph: Graph, root: Node, match: Match) -> Value | None:
        q, kt, v = match["q"], match["kt"], match["v"]
        scale = _factor(match, "on_q") * _factor(match, "on_k") * _factor(match, "scale")
        assert root.outputs[0] is not None
        if not self._shapes_fit(q, kt, v, match["softmax"]) or self.shape(root.outputs[0]) != (*self.shape(q)[:-1], self.shape(v)[-1]):
            return None
        if not (math.isfinite(scale) and scale > 0) or (kt.const is None and producer(kt, "Transpose") is None):
            return None
        rank = len(self.shape(q))
        shape = (*self.shape(q)[:-1], self.shape(kt)[-1])
        mask = match.get("mask") or match.get("seen") or match.get("unseen")
        if mask is not None and not self._mask_fits(mask, shape, self.dtype(q) if match.get("mask") else DType.BOOL):
            return None
        origin = self.origin(match)

        def lifted(value: Value) -> Value:
            """Rank 3 as one batch of that many heads."""
            if rank == 4 or len(self.shape(value)) < 3:
                return value
            return self.add(graph, "Unsqueeze", [value, graph.constant(np.array([0], np.int64))], root, origin)
        if match.get("unseen"):
            mask = self.add(graph, "Not", [mask], root, origin)
        k = self.add(graph, "Transpose", [kt], root, origin, perm=[0, 2, 1] if rank == 3 else [0, 1, 3, 2])
        inputs = [lifted(q), lifted(k), lifted(v)] + ([lifted(mask)] if mask is not None else [])
        made = self.add(graph, "Attention", inputs, root, origin, scale=scale)
        return made if rank == 4 else self.add(graph, "Squeeze", [made, graph.constant(np.array([0], np.int64))], root, origin)

    def _shapes_fit(self, q: Value, kt: Value, v: Value, softmax: Node) -> bool:
        shapes = [self.shape(t) for t in (q, kt, v)]
        if any(s is None or len(s) not in (3, 4) or len(s) != len(shapes[0]) for s in shapes) or self.dtype(q) not in _FLOATS:
            return False
        rank = len(shapes[0])
        return shapes[0][:-2] == shapes[1][:-2] == shapes[2][:-2] and shapes[0][-1] == shapes[1][-2] and shapes[1][-1] == shapes[2][-2] \
            and len({self.dtype(t) for t in (q, kt, v)}) == 1 and int(softmax.attributes.get("axis", -1)) in (-1, rank - 1)

    def _mask_fits(self, mask: Value, scores: Sequence[Any], dtype: DType | None) -> bool:
        shape = self.shape(mask)
        if shape is None or not 2 <= len(shape) <= len(scores) or self.dtype(mask) != dtype or shape[-1] != scores[-1]:
            return False
        return all(d in (1, s) for d, s in zip(shape[::-1], scores[::-1], strict=False))


def _factor(match: Match, name: str) -> float:
    divisor = match.get(f"/{name}")
    return float(match.get(name) if match.get(name) is not None else 1.0) / (1.0 if divisor is None else divisor or math.nan)


class RecogniseRotaryEmbedding(Recogniser):
    """1. x·cos + rotate_half(x)·sin becomes RotaryEmbedding, for x of rank 4 [batch, heads, length, size], rotate_half(x) = Concat(−x₂, x₁) of x's halves along the last axis (two
    Slices, or a Split), where both halves of cos and of sin are provably equal: they come from Concat(f, f) through elementwise operators, Unsqueeze and Gather of other axes, or are
    constants with equal halves, and are of shape [batch or 1, 1, length, size], or without the leading axes of size 1.

    The work on cos and sin is redone on f, once for all nodes that share it. The result is computed as before, with the same roundings (in half precision with fewer).
    """

    name = "recognise RotaryEmbedding"

    def rules(self) -> list[Rule]:
        x = Input("x")
        slices = Op("Concat", Op("Neg", Op("Slice", x, Constant("start2"), Constant("end2"), Constant("axes2"), name="upper")),
                    Op("Slice", x, Constant("start1"), Constant("end1"), Constant("axes1"), name="lower"), name="concat")
        stepped = Op("Concat", Op("Neg", Op("Slice", x, Constant("start2"), Constant("end2"), Constant("axes2"), Number(1.0), name="upper")),
                     Op("Slice", x, Constant("start1"), Constant("end1"), Constant("axes1"), Number(1.0), name="lower"), name="concat")
        split = Op("Concat", Op("Neg", _Part(x, 1)), _Part(x, 0), name="concat")
        rotated = OneOf(slices, stepped, split)
        self._halves: dict[Any, Value] = {}  # by graph and value
        self._caches: dict[Any, Value] = {}
        return [Rule(Op("Add", Op("Mul", x, Input("cos")), Op("Mul", rotated, Input("sin"))), self._build)]

    def _build(self, graph: Graph, root: Node, match: Match) -> Value | None:
        x, cos, sin = match["x"], match["cos"], match["sin"]
        spec = self.spec(x)
        assert root.outputs[0] is not None
        if spec.shape is None or len(spec.shape) != 4 or not isinstance(spec.shape[3], int) or spec.shape[3] % 2 or not self.same_kind(x, root.outputs[0]):
            return None
        if not self._rotates(match, spec.shape[3]) or not all(self._table_fits(t, spec.shape) and self._doubled(t, 0) for t in (cos, sin)):
            return None
        origin = self.origin(match)
        caches = [self._cache(graph, t, x, root, origin) for t in (cos, sin)]
        return self.add(graph, "RotaryEmbedding", [x, *caches], root, origin)

    def _rotates(self, match: Match, size: int) -> bool:
        """Whether the Concat is (−upper half, lower half) along the last axis."""
        if int(match["concat"].attributes["axis"]) not in (-1, 3):
            return False
        if match.get("upper") is None:
            return True  # _Part saw to it
        ends = [[int(constant_of(match[f"{name}{i}"]).reshape(-1)[0]) for name in ("start", "end", "axes")] for i in (1, 2)]  # type: ignore[union-attr]
        (low, middle, axis1), (start, end, axis2) = ends
        return axis1 in (-1, 3) and axis2 in (-1, 3) and low == 0 and middle in (size // 2, -(size // 2)) and start in (size // 2, -(size // 2)) and end >= size

    def _table_fits(self, table: Value, shape: Sequence[Any]) -> bool:
        given = self.shape(table)
        if given is None or not 2 <= len(given) <= 4 or self.dtype(table) not in _FLOATS:
            return False
        full = (1,) * (4 - len(given)) + tuple(given)
        return full[0] in (1, shape[0]) and full[1] == 1 and full[2] == shape[2] and full[3] == shape[3]

    # -- tables whose two halves along the last axis are equal -----------------------------------------------------------------------------
    def _doubled(self, value: Value, depth: int) -> bool:
        node, shape = value.producer, self.shape(value)
        if value.const is not None:
            array = value.const.numpy()
            half = array.shape[-1] // 2
            return array.shape[-1] % 2 == 0 and np.array_equal(array[..., :half], array[..., half:])
        if node is None or shape is None or depth > 16 or node.domain:
            return False
        if node.op_type == "Concat":
            return len(node.inputs) == 2 and node.inputs[0] is node.inputs[1] and int(node.attributes["axis"]) % len(shape) == len(shape) - 1
        source = node.inputs[0] if node.inputs else None
        if source is None or not self._keeps_halves(node, len(shape)):
            return False
        if node.op_type in ("Mul", "Div"):
            source = node.inputs[0] if node.inputs[0].const is None else node.inputs[1]  # type: ignore[union-attr]
        return source is not None and self._doubled(source, depth + 1)

    def _keeps_halves(self, node: Node, rank: int) -> bool:
        if is_op(node, "Cos", "Sin", "Cast"):
            return True
        if is_op(node, "Mul", "Div"):
            return scalar_of(node.inputs[1]) is not None or (node.op_type == "Mul" and scalar_of(node.inputs[0]) is not None)
        if is_op(node, "Unsqueeze"):
            axes = constant_of(node.inputs[1])
            return axes is not None and all(int(a) % rank != rank - 1 for a in axes.ravel())
        return is_op(node, "Gather") and int(node.attributes.get("axis", 0)) == 0 and len(self.shape(node.inputs[0]) or ()) > 1  # type: ignore[arg-type]

    def _half(self, graph: Graph, value: Value, before: Node) -> Value:
        """The first half of a doubled value along its last axis, computed from what was doubled."""
        key = (id(graph), value)
        if key not in self._halves:
            self._halves[key] = self._make_half(graph, value, before)
        return self._halves[key]

    def _make_half(self, graph: Graph, value: Value, before: Node) -> Value:
        if value.const is not None:
            array = value.const.numpy()
            return Value(graph.unique_name(f"{value.name}_half"), None, Tensor(np.ascontiguousarray(array[..., :array.shape[-1] // 2]), dtype=value.const.dtype))
        node = value.producer
        assert node is not None
        if node.op_type == "Concat":
            assert node.inputs[0] is not None
            return node.inputs[0]
        doubled = 1 if is_op(node, "Mul") and scalar_of(node.inputs[0]) is not None else 0
        inputs = [self._half(graph, v, node) if i == doubled and v is not None else v for i, v in enumerate(node.inputs)]
        return self.add(graph, node.op_type, inputs, node if node in graph.nodes else before, node.origin, **node.attributes)

    def _cache(self, graph: Graph, table: Value, x: Value, root: Node, origin: tuple[str, ...]) -> Value:
        """The table as [batch, length, size / 2] of x's type."""
        batch = self.shape(x)[0]
        key = (id(graph), table, batch)
        if key not in self._caches:
            half = self._half(graph, table, root)
            rank = len(self.shape(half))
            axes = {2: ("Unsqueeze", [0]), 4: ("Squeeze", [1])}.get(rank)
            if axes is not None:
                half = self.add(graph, axes[0], [half, graph.constant(np.array(axes[1], np.int64))], root, origin)
            if self.shape(half)[0] != batch:
                sizes = self.add(graph, "Shape", [x], root, origin, start=0, end=1)
                shape = self.add(graph, "Concat", [sizes, graph.constant(np.ones(2, np.int64))], root, origin, axis=0)
                half = self.add(graph, "Expand", [half, shape], root, origin)
            self._caches[key] = half
        return self._caches[key]


class _Part(Pattern):
    """Output `index` of a Split of the value into two equal parts along its last axis."""

    def __init__(self, of: Pattern, index: int) -> None:
        self.of, self.index = of, index

    def find(self, value: Value, match: Match) -> Any:
        node = value.producer
        if node is None or not is_op(node, "Split") or len(node.outputs) != 2 or node.outputs[self.index] is not value or node.inputs[0] is None:
            return
        parts = constant_of(input_of(node, 1))
        if int(node.attributes.get("axis", 0)) in (-1, 3) and (parts is None or parts[0] == parts[1]):
            yield from self.of.find(node.inputs[0], match.holding(node))

