"""Stage 3b, ranges: 64-bit integers are computed in 32 bits where that changes nothing. Vectors hold twice as many, and a GPU has no others.

Rules
1. Every buffer has an interval its integers lie in: of a constant its least and greatest; of a Map's, its expression's; of what only moves elements (Copy, an alias, Gather), its source's;
   else that of its element type. A buffer that several calls write has the union. Inputs of a program may hold anything.
2. A coordinate lies in [0, n - 1] where the planned sizes bound n.
3. In a Map's expression, a sum, difference, product, minimum, maximum, negation, absolute value or choice of I64 in which every part's interval is within 32 bits is computed in I32 and
   widened afterwards. So are the sides of comparisons. No part can overflow, so results are the same.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..dim import bounds
from ..expr import Compute, E, Op, cast, const
from ..kernels import Kernel
from ..lowering import Buffer, KernelCall, View, root
from ..types import DType
from .fold import nodes
from .lower import Lowered

Interval = tuple[int, int]
INT32: Interval = (-(1 << 31), (1 << 31) - 1)
INT64: Interval = (-(1 << 63), (1 << 63) - 1)
#: Constants up to so many elements are looked at.
MOST = 1 << 16
MOVES = frozenset({Kernel.COPY, Kernel.GATHER})
_ARITHMETIC = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX, Op.NEG, Op.ABS, Op.SELECT})
_COMPARE = frozenset({Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE})


def narrow(lowered: Lowered, ranges: Mapping[str, tuple[int, int | None]]) -> None:
    """Rewrite the Maps of a program in place."""
    if not any(n.type is Compute.I64 and n.op in _ARITHMETIC | _COMPARE or any(a.type is Compute.I64 for a in n.args)
               for c in lowered.calls if c.kind is Kernel.MAP for e in c.epilogue for n in nodes(e)):
        return
    known: dict[Buffer, Interval] = {}
    for call in lowered.calls:
        work = _Map(call, known, ranges) if call.kind is Kernel.MAP else None
        for i, view in enumerate(call.outputs):
            if call.kind is None or call.kind in MOVES:
                made = _of(call.inputs[0], known)
                if call.kind is Kernel.COPY and call.params.get("mode") == 1:
                    made = _union(made, (0, 0) if len(call.inputs) < 2 or call.inputs[1] is None else _of(call.inputs[1], known))
            else:
                made = _type(view.dtype) if work is None or view.dtype.is_float else _meet(work.interval(call.epilogue[i]), _type(view.dtype))
            base = root(view.buffer)
            known[base] = _union(known[base], made) if base in known else made
        if work is not None:
            call.epilogue = [work.narrowed(e) for e in call.epilogue]


def _union(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _meet(a: Interval, b: Interval) -> Interval:
    """Storing wraps: an interval beyond the type's says nothing."""
    return a if b[0] <= a[0] and a[1] <= b[1] else b


def _type(dtype: DType) -> Interval:
    if dtype is DType.BOOL:
        return 0, 1
    if not dtype.is_integer:
        return INT64
    signed = not dtype.text.startswith("uint")
    return (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1) if signed else (0, (1 << dtype.bits) - 1)


def _of(view: View | None, known: dict[Buffer, Interval]) -> Interval:                                    # 1
    if view is None:
        return INT64
    base = root(view.buffer)
    if base not in known:
        tensor = base.tensor
        if tensor is None or not 0 < tensor.size <= MOST or not tensor.dtype.is_integer or base.dtype is not view.dtype:
            return _type(view.dtype)
        array: np.ndarray[Any, Any] = tensor.numpy()
        known[base] = int(array.min()), int(array.max())
    return known[base] if base.dtype is view.dtype else _type(view.dtype)


class _Map:
    """One Map: intervals of the nodes of its expressions."""

    def __init__(self, call: KernelCall, known: dict[Buffer, Interval], ranges: Mapping[str, tuple[int, int | None]]) -> None:
        self.call, self.known, self.ranges = call, known, ranges
        self.found: dict[int, tuple[E, Interval]] = {}
        self.made: dict[int, tuple[E, E]] = {}

    def interval(self, node: E) -> Interval:
        """What an integer node lies in."""
        if id(node) not in self.found:
            self.found[id(node)] = node, self._interval(node)
        return self.found[id(node)][1]

    def _interval(self, node: E) -> Interval:
        if node.type.is_float or node.type is Compute.U64:
            return INT64
        whole = INT32 if node.type is Compute.I32 else INT64
        if node.op is Op.CONST:
            return node.data, node.data
        if node.op is Op.LEAF:
            return _meet(_of(self.call.inputs[self.call.first_leaf + node.data], self.known), whole)
        if node.op is Op.COORD:                                                                           # 2
            high = bounds(self.call.outputs[0].shape[node.data], self.ranges)[1]
            return whole if high is None else (0, max(int(high) - 1, 0))
        if node.op in _COMPARE:
            return 0, 1
        parts = [self.interval(a) for a in node.args]
        if node.op is Op.CAST:
            return whole if node.args[0].type.is_float or node.args[0].type is Compute.U64 else _meet(parts[0], whole)
        if node.op is Op.SELECT:
            return _union(parts[1], parts[2])
        if node.op not in _ARITHMETIC:
            return whole
        a = parts[0]
        if node.op in (Op.NEG, Op.ABS):
            made = (-a[1], -a[0]) if node.op is Op.NEG else (max(a[0], -a[1], 0), max(abs(a[0]), abs(a[1])))
        else:
            b = parts[1]
            products = [x * y for x in a for y in b]
            made = {Op.ADD: (a[0] + b[0], a[1] + b[1]), Op.SUB: (a[0] - b[1], a[1] - b[0]), Op.MUL: (min(products), max(products)),
                    Op.MIN: (min(a[0], b[0]), min(a[1], b[1])), Op.MAX: (max(a[0], b[0]), max(a[1], b[1]))}[node.op]
        return _meet(made, whole)

    def small(self, node: E) -> bool:
        """Whether an I64 node and all it is computed from fit I32."""
        low, high = self.interval(node)
        if not (INT32[0] <= low and high <= INT32[1]):
            return False
        if node.op in (Op.LEAF, Op.CONST, Op.COORD) or (node.op is Op.CAST and node.args[0].type is Compute.I32):
            return True
        return node.op in _ARITHMETIC and all(self.small(a) for a in (node.args[1:] if node.op is Op.SELECT else node.args))

    def short(self, node: E) -> E:
        """A small I64 node in I32."""
        if node.op is Op.CONST:
            return const(node.data, Compute.I32)
        if node.op is Op.CAST:
            return self.narrowed(node.args[0])
        if node.op not in _ARITHMETIC:
            return cast(node, Compute.I32)
        if node.op is Op.SELECT:
            return E(Op.SELECT, Compute.I32, (self.narrowed(node.args[0]), self.short(node.args[1]), self.short(node.args[2])))
        return E(node.op, Compute.I32, tuple(self.short(a) for a in node.args))

    def narrowed(self, node: E) -> E:                                                                     # 3
        """The node with its small parts in I32, of the same type."""
        if id(node) not in self.made:
            self.made[id(node)] = node, self._narrowed(node)
        return self.made[id(node)][1]

    def _narrowed(self, node: E) -> E:
        wide = [a for a in node.args if a.type is Compute.I64]
        if node.op in _COMPARE and len(wide) == 2 and all(self.small(a) for a in wide):
            return E(node.op, node.type, tuple(self.short(a) for a in node.args), node.data)
        if node.op is Op.CAST and wide and self.small(wide[0]):
            return cast(self.short(wide[0]), node.type)
        if node.type is Compute.I64 and node.op in _ARITHMETIC and self.small(node):
            return cast(self.short(node), Compute.I64)
        args = tuple(self.narrowed(a) for a in node.args)
        return node if all(a is b for a, b in zip(args, node.args, strict=True)) else E(node.op, node.type, args, node.data)
