"""Stage 2b, fold: what needs no run is done now.

Rules
1. A call whose results nobody reads goes.
2. A Map over constants alone is computed.
3. In an expression, what depends on constants alone becomes one constant, a scalar or a small vector: a scale times a scale over a scale, a zero point as a number.
Only arithmetic that IEEE rounds exactly is done here, so results do not change.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..dim import product
from ..expr import E, Op, evaluate, leaf, substitute
from ..graph import Tensor
from ..kernels import Kernel
from ..lowering import Axis, Buffer, KernelCall, View
from ..narrow import astype
from .lower import Lowered

EXACT = frozenset({Op.CONST, Op.LEAF, Op.CAST, Op.SATURATE, Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX, Op.NEG, Op.ROUND, Op.RECIPROCAL, Op.SQRT})
MOST = 1 << 16  # elements of a constant that rule 3 makes


def fold(lowered: Lowered) -> None:
    """Rules 1 and 2, on `lowered.calls` in place."""
    prune(lowered)
    writers: dict[Buffer, int] = {}
    for call in lowered.calls:
        for view in call.outputs:
            writers[view.buffer] = writers.get(view.buffer, 0) + 1
    outputs = {v.buffer for v in lowered.outputs}
    lowered.calls = [c for c in lowered.calls if not (c.kind is Kernel.MAP and writers[c.outputs[0].buffer] == 1 and c.outputs[0].buffer not in outputs and _compute(c))]
    prune(lowered)


def prune(lowered: Lowered) -> None:                                                                      # 1
    """Drop calls whose results nobody reads."""
    wanted = {v.buffer for v in lowered.outputs}
    kept = []
    for call in reversed(lowered.calls):
        if any(v.buffer in wanted or v.buffer.port is not None for v in call.outputs):
            wanted.update(v.buffer for v in call.inputs if v is not None)
            kept.append(call)
    lowered.calls = kept[::-1]


def source_of(buffer: Buffer) -> Tensor | None:
    """The constant a buffer holds or re-reads."""
    while buffer.alias is not None:
        buffer = buffer.alias
    return buffer.tensor


def constant_array(view: View) -> np.ndarray | None:
    """The elements of a constant's view, of size 1 along axes that repeat; None where it is no constant of known sizes."""
    tensor = source_of(view.buffer)
    if tensor is None or not all(isinstance(d, int) for d in view.buffer.shape) or not all(isinstance(x, int) for a in view.axes if a.dim is not None for x in (a.size, a.start, a.step)):
        return None
    array = tensor.numpy().reshape(view.buffer.shape)  # type: ignore[arg-type]
    if array.size == 0:
        return None
    at = [0] * array.ndim
    for dim, position in view.fixed:
        at[dim] += position
    for axis in view.axes:
        if axis.dim is not None:
            at[axis.dim] += axis.start
    shape = [1 if a.dim is None else a.size for a in view.axes]
    steps = [0 if a.dim is None else a.step * array.strides[a.dim] for a in view.axes]
    raw = array[tuple(slice(i, None) for i in at)].view(f"V{array.itemsize}")  # as bytes: NumPy strides no array of a type it knows from ml_dtypes alone
    return np.lib.stride_tricks.as_strided(raw, shape, steps, writeable=False).view(array.dtype)  # type: ignore[arg-type]


def _compute(call: KernelCall) -> bool:                                                                   # 2
    target = call.outputs[0].buffer
    if len(call.outputs) != 1 or not call.inputs or not call.outputs[0].is_whole or target.port is not None or not all(v is not None and source_of(v.buffer) is not None for v in call.inputs):
        return False
    if any(node.op not in EXACT for node in nodes(call.epilogue[0])) or not all(isinstance(d, int) for d in target.shape) or not product(target.shape):
        return False
    operands = [constant_array(v) for v in call.inputs if v is not None]
    if any(a is None for a in operands):
        return False
    made = evaluate(call.epilogue[0], operands, target.shape)  # type: ignore[arg-type]
    target.tensor = Tensor(np.ascontiguousarray(astype(made, target.dtype)), dtype=target.dtype)
    return True


def fold_expressions(lowered: Lowered) -> None:
    """Rule 3, in Maps and in the epilogues of products."""
    for call in lowered.calls:
        if call.kind in (Kernel.MAP, Kernel.MATMUL, Kernel.CONV) and call.epilogue and len(call.inputs) > call.first_leaf and call.settled != (call.epilogue, call.inputs):
            fold_call(call)
            call.settled = (list(call.epilogue), list(call.inputs))


def fold_call(call: KernelCall) -> None:                                                                  # 3
    """Constant parts of a call's expressions become constants."""
    arrays: dict[int, np.ndarray | None] = {}
    first = call.first_leaf

    def array(number: int) -> np.ndarray | None:
        if number not in arrays:
            view = call.inputs[first + number]
            arrays[number] = None if view is None or source_of(view.buffer) is None or product(view.buffer.shape) > MOST else constant_array(view)
        return arrays[number]
    constant = _constancy(call.epilogue, lambda n: array(n) is not None)
    made: dict[int, E] = {}

    def put(node: E) -> E | None:
        if id(node) not in constant or node.op in (Op.LEAF, Op.CONST) or not any(x.op is Op.LEAF for x in nodes(node)):
            return None
        if id(node) not in made:
            view = _constant_view(call, node, array)
            if view is None:
                return None
            call.inputs.append(view)
            made[id(node)] = leaf(len(call.inputs) - 1 - first, view.dtype)
        return made[id(node)]
    call.epilogue = [substitute(e, put) for e in call.epilogue]
    if made:
        drop_unread(call)


def _constancy(roots: Sequence[E], is_constant: Callable[[int], bool]) -> set[int]:
    """Nodes (by id) that depend on constants alone and are exact."""
    known: dict[int, bool] = {}

    def walk(node: E) -> bool:
        if id(node) not in known:
            below = [walk(a) for a in node.args]
            known[id(node)] = node.op in EXACT and all(below) and (node.op is not Op.LEAF or is_constant(node.data))
        return known[id(node)]
    for root in roots:
        walk(root)
    return {i for i, yes in known.items() if yes}


_STORED = {"f4": "float32", "f8": "float64", "i4": "int32", "i8": "int64"}


def _constant_view(call: KernelCall, node: E, array: Callable[[int], np.ndarray | None]) -> View | None:
    numbers = {x.data for x in nodes(node) if x.op is Op.LEAF}
    found = {n: array(n) for n in numbers}
    shape = np.broadcast_shapes(*(a.shape for a in found.values() if a is not None))
    if np.prod(shape) > MOST or f"{node.type.numpy.kind}{node.type.numpy.itemsize}" not in _STORED:
        return None
    made = evaluate(node, [found.get(n) for n in range(max(numbers) + 1)], shape)
    for i, size in enumerate(shape):
        first = made.take([0], i)
        if size > 1 and np.array_equal(np.broadcast_to(first, made.shape), made):
            made = first
    shape = made.shape
    kept = tuple(i for i, d in enumerate(shape) if d != 1)
    tensor = Tensor(made.reshape([shape[i] for i in kept]))
    buffer = Buffer(f"{call.outputs[0].buffer.name}.k{len(call.inputs)}", tensor.dtype, tensor.shape, tensor=tensor)
    sizes = call.outputs[0].shape
    return View(buffer, tuple(Axis(size, kept.index(i) if i in kept else None) for i, size in enumerate(sizes)))


def drop_unread(call: KernelCall) -> None:
    """Leaves no expression reads go; the others are numbered anew."""
    first = call.first_leaf
    read = {node.data for e in call.epilogue for node in nodes(e) if node.op in (Op.LEAF, Op.LOAD)}
    kept = [n for n in range(len(call.inputs) - first) if n in read]
    number = {n: i for i, n in enumerate(kept)}

    def renumber(node: E) -> E | None:
        if node.op is Op.LEAF:
            return replace(node, data=number[node.data])
        if node.op is Op.LOAD:
            return replace(node, args=tuple(substitute(a, renumber) for a in node.args), data=number[node.data])
        return None
    call.epilogue = [substitute(e, renumber) for e in call.epilogue]
    call.inputs = call.inputs[:first] + [call.inputs[first + n] for n in kept]


def nodes(root: E) -> list[E]:
    """The nodes of an expression, each once."""
    seen: dict[int, E] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            stack += node.args
    return list(seen.values())
