"""Part of stage 3, fuse: quantised values between kernels without floats in memory.

Rules
1. A Map that widens one operand (a DequantizeLinear) is cheaper to repeat than to store: each Map that reads it gets its own.
2. Of sums of integers, (sum · a) / b rounded is (sum · (a / b)) rounded, as QLinearConv defines it; bounds on the way (Relu, Clip) are bounds of the rounded number. What is left,
   saturate(round(sum · factor) + zero) within bounds, runs in registers. The quotient of scales rounds once more than the two operations: results may differ by one step.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..expr import Compute, E, Op, binary, unary
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
class _Scaled:
    """lo ≤ base · factor ≤ hi, base an integer sum as float."""

    base: E
    factor: E | None = None
    low: E | None = None
    high: E | None = None


def requantise(lowered: Lowered) -> None:                                                                 # 2
    """Bring the epilogues of integer products that make bytes into the form above."""
    for call in lowered.calls:
        if call.kind in (Kernel.MATMUL, Kernel.CONV) and call.outputs[0].dtype in BYTES and len(call.epilogue) == 1 and call.inputs[0] is not None and call.inputs[0].dtype in BYTES:
            call.epilogue = [_normal(call, call.epilogue[0])]


def _normal(call: KernelCall, root: E) -> E:
    zero: E | None = None
    inner = root.args[0] if root.op is Op.SATURATE else root
    if inner.op is Op.ADD:
        left, right = inner.args
        inner, zero = (left, right) if left.op is Op.ROUND else (right, left)
    if root.op is not Op.SATURATE or inner.op is not Op.ROUND or inner.type is not Compute.F32 or (zero is not None and _varies(zero)):
        return root
    found = _scaled(call, inner.args[0])
    if found is None or found.factor is None:
        return root
    made = unary(Op.ROUND, found.base * found.factor)
    made = made if zero is None else made + zero
    for bound, op in ((found.low, Op.MAX), (found.high, Op.MIN)):
        if bound is not None:
            limit = unary(Op.ROUND, bound)
            made = binary(op, made, limit if zero is None else limit + zero)
    return E(Op.SATURATE, root.type, (made,), root.data)


def _scaled(call: KernelCall, node: E) -> _Scaled | None:
    """A chain of products, quotients and bounds by what does not vary, down to the sum."""
    if node.op in (Op.MUL, Op.DIV):
        left, right = node.args
        if node.op is Op.MUL and _varies(right):
            left, right = right, left
        if _varies(right) or not _varies(left):
            return None
        found = _scaled(call, left)
        if found is None:
            return None

        def along(x: E | None) -> E | None:
            return None if x is None else binary(node.op, x, right)
        if (found.low is not None or found.high is not None) and not _positive(call, right):
            return None
        factor = along(found.factor) if found.factor is not None else right if node.op is Op.MUL else unary(Op.RECIPROCAL, right)
        return _Scaled(found.base, factor, along(found.low), along(found.high))
    if node.op in (Op.MAX, Op.MIN):
        left, right = node.args
        if _varies(right):
            left, right = right, left
        if _varies(right):
            return None
        found = _scaled(call, left)
        if found is None or (node.op is Op.MAX and (found.low is not None or found.high is not None)) or (node.op is Op.MIN and found.high is not None):
            return None
        return replace(found, low=right) if node.op is Op.MAX else replace(found, high=right)
    if node.op is Op.CAST and node.args[0].type is Compute.I32 and _varies(node):
        return _Scaled(node)
    return None


def _varies(node: E) -> bool:
    return any(x.op is Op.ACC for x in nodes(node))


def _positive(call: KernelCall, node: E) -> bool:
    if node.op is Op.CONST:
        return node.data > 0
    view = call.inputs[call.first_leaf + node.data] if node.op is Op.LEAF else None
    values = None if view is None else constant_array(view)
    return values is not None and bool(np.all(values > 0))
