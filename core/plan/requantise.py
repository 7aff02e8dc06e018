"""Part of stage 3, fuse: quantised values between kernels without floats in memory.

Rules
1. A Map that widens one operand (a DequantizeLinear) is cheaper to repeat than to store: each Map that reads it gets its own.
2. Of sums of integers, (sum · a) / b rounded is (sum · (a / b)) rounded, as QLinearConv defines it; bounds on the way (Relu, Clip) are bounds of the rounded number. What is left,
   saturate(round(sum · factor) + zero) within bounds, runs in registers. The quotient of scales rounds once more than the two operations: results may differ by one step.
3. So is a sum of two quantised values, (a - z) · s + (b - y) · t rounded in units of u: a · (s/u) + b · (t/u) - (z · s/u + y · t/u). One of them may be requantised sums (a residual).
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..expr import Compute, E, Op, binary, const, substitute, unary
from ..kernels import Kernel
from ..lowering import Buffer, KernelCall
from ..types import DType
from .fold import constant_array, nodes
from .lower import Lowered

BYTES = (DType.INT8, DType.UINT8)


def repeat_widening(lowered: Lowered) -> None:                                                            # 1
    """Give every Map that reads a widened copy of one operand its own."""
    outputs = {v.buffer for v in lowered.outputs}
    written: dict[Buffer, int] = {}
    readers: dict[Buffer, int] = {}
    for call in lowered.calls:
        for out in call.outputs:
            written[out.buffer] = written.get(out.buffer, 0) + 1
        for view in call.inputs:
            if view is not None:
                readers[view.buffer] = readers.get(view.buffer, 0) + 1
    widening = {c.outputs[0].buffer: c for c in lowered.calls if _widens(c) and written[c.outputs[0].buffer] == 1 and c.outputs[0].buffer not in outputs and readers.get(c.outputs[0].buffer, 0) > 1}
    made: list[KernelCall] = []
    for call in lowered.calls:
        if call.kind is Kernel.MAP:
            for i, view in enumerate(call.inputs):
                source = widening.get(view.buffer) if view is not None else None
                if source is not None and view is not None and view.is_whole and view.shape == call.outputs[0].shape and readers[view.buffer] > 1:
                    readers[view.buffer] -= 1
                    own = Buffer(f"{view.buffer.name}.{i}", view.dtype, view.buffer.shape)
                    made.append(replace(source, inputs=list(source.inputs), outputs=[own.whole()], epilogue=list(source.epilogue)))
                    call.inputs[i] = own.whole()
        made.append(call)
    lowered.calls = made


def _widens(call: KernelCall) -> bool:
    if call.kind is not Kernel.MAP or len(call.outputs) != 1 or not call.outputs[0].is_whole or call.outputs[0].dtype is not DType.FLOAT:
        return False
    large = [v for v in call.inputs if v is not None and v.is_whole and v.shape == call.outputs[0].shape and v.buffer.tensor is None]
    small = [v for v in call.inputs if v is None or v not in large]
    return len(large) == 1 and large[0].dtype in BYTES and all(v is not None and len(v.buffer.shape) <= 1 for v in small) and len(nodes(call.epilogue[0])) < 12


@dataclass
class _Linear:
    """low ≤ Σ term · factor + offset ≤ high. Terms are integers as floats; a factor of None is 1."""

    terms: list[tuple[E, E | None]]
    offset: E | None = None
    low: E | None = None
    high: E | None = None

    @property
    def bounded(self) -> bool:
        return self.low is not None or self.high is not None


def requantise(lowered: Lowered) -> None:                                                                 # 2, 3
    """Bring what is saturated in the epilogues of integer products, and Maps of bytes, into the forms above."""
    for call in lowered.calls:
        product = call.kind in (Kernel.MATMUL, Kernel.CONV) and call.inputs[0] is not None and call.inputs[0].dtype in BYTES
        if len(call.epilogue) == 1 and (product or (call.kind is Kernel.MAP and call.outputs[0].dtype in BYTES)):
            call.epilogue = [_everywhere(call, call.epilogue[0])]


def _everywhere(call: KernelCall, root: E) -> E:
    """The outermost saturated values that have a form, in it."""
    def put(node: E) -> E | None:
        made = _normal(call, node) if node.op is Op.SATURATE else node
        return made if made is not node else None
    return substitute(root, put)


def _normal(call: KernelCall, root: E) -> E:
    zero: E | None = None
    inner = root.args[0] if root.op is Op.SATURATE else root
    if inner.op is Op.ADD:
        left, right = inner.args
        inner, zero = (left, right) if left.op is Op.ROUND else (right, left)
    if root.op is not Op.SATURATE or inner.op is not Op.ROUND or inner.type is not Compute.F32 or (zero is not None and _varies(call, zero)):
        return root
    found = _linear(call, inner.args[0])
    if found is None or (call.kind is Kernel.MAP and len(found.terms) < 2):
        return root
    terms = [(_inside(call, base), factor) for base, factor in found.terms]
    if len(terms) == 2 and _sums(terms[1][0]):
        terms.reverse()
    total: E | None = None
    for base, factor in terms:
        term = base if factor is None else base * factor
        total = term if total is None else total + term
    assert total is not None
    made = unary(Op.ROUND, total if found.offset is None else total + found.offset)
    made = made if zero is None else made + zero
    for bound, op in ((found.low, Op.MAX), (found.high, Op.MIN)):
        if bound is not None:
            limit = unary(Op.ROUND, bound)
            made = binary(op, made, limit if zero is None else limit + zero)
    return E(Op.SATURATE, root.type, (made,), root.data)


def _inside(call: KernelCall, base: E) -> E:
    """A term whose integers are themselves requantised sums, those in the form above."""
    value = base.args[0]
    return E(Op.CAST, base.type, (_normal(call, value),)) if value.op is Op.SATURATE else base


def _linear(call: KernelCall, node: E) -> _Linear | None:
    """A tree of sums, of products, quotients and bounds by what does not vary, down to integers."""
    if node.op is Op.CAST and node.type is Compute.F32 and node.args[0].type is Compute.I32 and _varies(call, node):
        value = node.args[0]
        if value.op is Op.SUB and not _varies(call, value.args[1]):
            return _Linear([(E(Op.CAST, Compute.F32, (value.args[0],)), None)], unary(Op.NEG, E(Op.CAST, Compute.F32, (value.args[1],))))
        return _Linear([(node, None)])
    if node.op not in (Op.MUL, Op.DIV, Op.ADD, Op.SUB, Op.MAX, Op.MIN):
        return None
    left, right = node.args
    if node.op not in (Op.DIV, Op.SUB) and not _varies(call, left):
        left, right = right, left
    found = _linear(call, left) if _varies(call, left) else None
    if found is None:
        return None
    if _varies(call, right):
        other = _linear(call, right) if node.op in (Op.ADD, Op.SUB) else None
        if other is None or found.bounded or other.bounded:
            return None
        terms: list[tuple[E, E | None]] = other.terms if node.op is Op.ADD else [(base, unary(Op.NEG, factor) if factor is not None else const(-1, Compute.F32)) for base, factor in other.terms]
        return _Linear(found.terms + terms, _plus(node.op, found.offset, other.offset))
    if node.op in (Op.MUL, Op.DIV):
        if found.bounded and not _positive(call, right):
            return None

        def along(x: E | None) -> E | None:
            return None if x is None else binary(node.op, x, right)
        first = right if node.op is Op.MUL else unary(Op.RECIPROCAL, right)
        return _Linear([(base, along(factor) or first) for base, factor in found.terms], along(found.offset), along(found.low), along(found.high))
    if node.op in (Op.ADD, Op.SUB):
        return None if found.bounded else replace(found, offset=_plus(node.op, found.offset, right))
    if found.high is not None or (node.op is Op.MAX and found.low is not None):
        return None
    return replace(found, low=right) if node.op is Op.MAX else replace(found, high=right)


def _plus(op: Op, a: E | None, b: E | None) -> E | None:
    if a is None or b is None:
        return a if b is None else b if op is Op.ADD else unary(Op.NEG, b)
    return binary(op, a, b)


def _sums(node: E) -> bool:
    return any(x.op is Op.ACC for x in nodes(node))


def _varies(call: KernelCall, node: E) -> bool:
    """Whether a part differs between the positions of a feature: it has the sum, or an operand that is no constant."""
    return any(x.op in (Op.ACC, Op.COORD, Op.LOAD) or (x.op is Op.LEAF and not _fixed(call, x.data)) for x in nodes(node))


def _fixed(call: KernelCall, number: int) -> bool:
    view = call.inputs[call.first_leaf + number]
    return view is not None and all(a.dim is None or a.size == 1 for i, a in enumerate(view.axes) if i != _columns(call, len(view.axes)))


def _columns(call: KernelCall, rank: int) -> int:
    """The axis of features."""
    return 1 if call.kind is Kernel.CONV else rank - 1 if call.kind is Kernel.MATMUL else -1


def _positive(call: KernelCall, node: E) -> bool:
    if node.op is Op.CONST:
        return node.data > 0
    view = call.inputs[call.first_leaf + node.data] if node.op is Op.LEAF else None
    values = None if view is None else constant_array(view)
    return values is not None and bool(np.all(values > 0))
