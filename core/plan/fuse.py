"""Stage 3, fuse: fewer passes over memory. Works on kernel calls.

Rules
1. Map into Map: a Map whose one output is read once, by a Map over the same positions, moves into the reader's expression.
2. Epilogue: a Map that is the only reader of a MatMul, Conv, Pool, Norm, Softmax, Reduce or Attention result, over the same positions, becomes that call's epilogue
   (again and again: bias, activation, residual add).
3. Written in place: where a whole result is read only by a Copy, its kernel writes where the Copy would (a part of a Concat, a transposed graph output), and the Copy goes. Axes may change
   places for Maps, Copies and Reduces; for other kinds the last must stay the last, and a Conv's or Pool's all, because they write runs of it.
4. Attention that is spelled out becomes one call (attention.py), which reads a cache and what is added to it where they lie (past.py).
A result that is a graph output is never fused away, nor one whose element type is narrower than it is computed in (storing rounds, and fusion must not
change results), unless it is saturated to that type: then storing changes nothing. An expression stays below MAX_REGISTERS and MAX_NODES, a call below MAX_OPERANDS.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..expr import MAX_REGISTERS, E, Op, acc, cast, compute_type, encode, leaf, substitute
from ..kernels import Kernel
from ..lowering import Axis, Buffer, KernelCall, View
from ..types import DType
from .affine import scale_weights
from .attention import recognise_attention, share_heads
from .fold import fold_expressions, nodes
from .layout import SPATIAL
from .lower import Lowered
from .past import join_past
from .requantise import repeat_widening, requantise

#: Kinds that run an epilogue on a finished block.
WITH_EPILOGUE = frozenset({Kernel.MATMUL, Kernel.CONV})
MAX_OPERANDS = 14
MAX_NODES = 96


def fuse(lowered: Lowered) -> None:
    """Rewrite `lowered.calls` in place until nothing changes."""
    repeat_widening(lowered)
    fold_expressions(lowered)
    for epilogues in (False, True):
        while _sweep(lowered, epilogues):
            pass
        fold_expressions(lowered)
        requantise(lowered)
        scale_weights(lowered)
        fold_expressions(lowered)
    recognise_attention(lowered)                                                                          # 4
    share_heads(lowered)
    join_past(lowered)


def _sweep(lowered: Lowered, epilogues: bool) -> bool:
    """One pass over the calls; rule 2 only once rule 1 has nothing to do, so that both operands of a residual sum are ready. Who reads and writes what is found once; a buffer that a
    rewrite touched is left alone until the next pass, so a chain of n calls takes log n passes."""
    outputs = {v.buffer for v in lowered.outputs}
    readers = _readers(lowered.calls)
    aliased = {c.outputs[0].buffer.alias for c in lowered.calls if c.kind is None}
    writers = {v.buffer: c for c in lowered.calls for v in c.outputs}
    position = {id(c): i for i, c in enumerate(lowered.calls)}
    touched: set[Buffer] = set()

    def free(call: KernelCall) -> bool:
        return not any(v is not None and v.buffer in touched for v in (*call.inputs, *call.outputs))

    for call in list(lowered.calls):
        if not free(call):
            continue
        if call.kind is Kernel.COPY and not touched and _into_copy(lowered, call, readers, aliased, outputs):
            return True
        if call.kind is not Kernel.MAP or len(call.outputs) != 1:
            continue
        for i, view in enumerate(call.inputs):
            source = writers.get(view.buffer) if view is not None else None
            if view is None or source is None or view.buffer in outputs or view.buffer in aliased or len(readers[view.buffer]) != 1 or len(source.outputs) != 1:
                continue
            if not free(source) or not _same_positions(view, source.outputs[0], call.outputs[0]) or (_rounds(view.dtype) and not (epilogues and _saturated(source))):
                continue
            both = (*source.inputs, *source.outputs, *call.inputs, *call.outputs)
            if source.kind is Kernel.MAP and _map_into_map(source, call, i):
                lowered.calls.remove(source)
            elif not epilogues or source.kind not in WITH_EPILOGUE or not _into_epilogue(lowered, source, call, i, writers, position):
                continue
            touched.update(v.buffer for v in both if v is not None and v.buffer.tensor is None)
            break
    return bool(touched)


def _into_copy(lowered: Lowered, copy: KernelCall, readers: dict[Buffer, list[tuple[KernelCall, int]]], aliased: set[Buffer | None], outputs: set[Buffer]) -> bool:   # 3
    view, target = copy.inputs[0], copy.outputs[0]
    assert view is not None
    buffer = view.buffer
    if copy.params.get("mode") or buffer.alias is not None or buffer.port is not None or buffer.tensor is not None or buffer in aliased or buffer in outputs or len(readers[buffer]) != 1:
        return False
    place = {axis.dim: i for i, axis in enumerate(view.axes) if axis.dim is not None}
    if not _covers(view, place):
        return False
    writers = [(c, i) for c in lowered.calls for i, v in enumerate(c.outputs) if v.buffer is buffer]
    others = [c for c in lowered.calls if c is not copy and any(v.buffer is target.buffer and v.is_whole for v in c.outputs)]
    if len(writers) != 1 or others:
        return False
    source, number = writers[0]
    if source.kind is None or not source.outputs[number].is_whole or not _may_write(source.kind, list(place[d] for d in sorted(place))):
        return False
    axes = tuple(target.axes[place[d]] if d in place else Axis(1, None) for d in range(len(buffer.shape)))
    source.outputs[number] = replace(target, axes=axes)._fix([axis for axis, read in zip(target.axes, view.axes, strict=True) if read.dim is None])
    source.origin = tuple(dict.fromkeys((*source.origin, *copy.origin)))
    lowered.calls.remove(copy)
    return True


def _covers(view: View, place: dict[int, int]) -> bool:
    """Whether the view is all of its buffer, its axes in any order, axes of size 1 put in or left out; `place`: dim → axis."""
    shape = view.buffer.shape
    whole = all(a.start == 0 and a.step == 1 and a.size == shape[a.dim] if a.dim is not None else a.size == 1 for a in view.axes)
    return whole and not view.fixed and len(place) == sum(a.dim is not None for a in view.axes) and all(d in place or size == 1 for d, size in enumerate(shape))


def _may_write(kind: Kernel, order: list[int]) -> bool:
    if kind in (Kernel.MAP, Kernel.COPY, Kernel.REDUCE) or order == sorted(order):
        return True
    return kind not in SPATIAL and order[-1] == max(order)


def _readers(calls: list[KernelCall]) -> dict[Buffer, list[tuple[KernelCall, int]]]:
    found: dict[Buffer, list[tuple[KernelCall, int]]] = {}
    for call in calls:
        for i, view in enumerate(call.inputs):
            if view is not None:
                found.setdefault(view.buffer, []).append((call, i))
    return found


def _same_positions(view: View, written: View, target: View) -> bool:
    """Whether `view` reads exactly what `written` wrote, position by position, over the target's iteration space."""
    return written.is_whole and view.is_whole and view.buffer is written.buffer and view.shape == target.shape


def _rounds(dtype: DType) -> bool:
    """Whether storing this type changes what its compute type held."""
    return compute_type(dtype).numpy.itemsize * 8 != dtype.bits


def _saturated(source: KernelCall) -> bool:
    """Whether a result has been brought into the range of the type it is stored as."""
    return bool(source.epilogue) and source.epilogue[0].op is Op.SATURATE and source.epilogue[0].data is source.outputs[0].dtype


def _renumber(shift: Callable[[int], int]) -> Callable[[E], E | None]:
    def replace_leaf(node: E) -> E | None:
        if node.op is Op.LEAF:
            return E(Op.LEAF, node.type, data=shift(node.data))
        if node.op is Op.LOAD:
            return E(Op.LOAD, node.type, tuple(substitute(a, replace_leaf) for a in node.args), shift(node.data))
        return None
    return replace_leaf


def _merge_inputs(call: KernelCall, index: int, extra: list[View | None]) -> list[View | None]:
    """The reader's operands without `index`, then the extra ones."""
    return [v for j, v in enumerate(call.inputs) if j != index] + extra


def _fits(expression: E, operands: int) -> bool:
    if operands > MAX_OPERANDS or len(nodes(expression)) > MAX_NODES:
        return False
    return encode([expression]).registers <= MAX_REGISTERS - 4


def _map_into_map(source: KernelCall, call: KernelCall, index: int) -> bool:                              # 1
    others = len(call.inputs) - 1
    inner = substitute(source.epilogue[0], _renumber(lambda n: others + n))

    def put(node: E) -> E | None:
        if node.op is Op.LEAF:
            return cast(inner, node.type) if node.data == index else E(Op.LEAF, node.type, data=node.data - (node.data > index))
        if node.op is Op.LOAD:
            return E(Op.LOAD, node.type, tuple(substitute(a, put) for a in node.args), node.data - (node.data > index)) if node.data != index else node
        return None
    if any(node.op is Op.LOAD and node.data == index for node in nodes(call.epilogue[0])):
        return False
    expression = substitute(call.epilogue[0], put)
    inputs = _merge_inputs(call, index, source.inputs)
    if not _fits(expression, len(inputs)):
        return False
    call.epilogue, call.inputs = [expression], inputs
    call.origin = tuple(dict.fromkeys((*source.origin, *call.origin)))
    return True


def _into_epilogue(lowered: Lowered, source: KernelCall, call: KernelCall, index: int, writers: dict[Buffer, KernelCall],
                   position: dict[int, int]) -> bool:                                                     # 2
    # Everything else the Map reads must be there when the source runs.
    for j, view in enumerate(call.inputs):
        if j == index or view is None:
            continue
        base: Buffer | None = view.buffer
        while base is not None:
            writer = writers.get(base)
            if writer is not None and position[id(writer)] > position[id(source)]:
                return False
            base = base.alias
    if any(v is not None and v.dtype.is_narrow_float for v in (*call.inputs, *call.outputs)):  # only Maps convert them
        return False
    dtype = source.outputs[0].dtype
    present = len(source.inputs) - source.first_leaf
    before = source.epilogue[0] if source.epilogue else acc(dtype)

    def put(node: E) -> E | None:
        if node.op is Op.LEAF:
            return cast(before, node.type) if node.data == index else E(Op.LEAF, node.type, data=present + node.data - (node.data > index))
        return None
    if any(node.op in (Op.LOAD, Op.COORD) for node in nodes(call.epilogue[0])):
        return False
    expression = substitute(call.epilogue[0], put)
    inputs = source.inputs + _merge_inputs(call, index, [])
    if not _fits(expression, len(inputs)) or any(v is not None and v.buffer is source.outputs[0].buffer for v in inputs):
        return False
    source.epilogue, source.inputs, source.outputs = [expression], inputs, call.outputs
    source.origin = tuple(dict.fromkeys((*source.origin, *call.origin)))
    lowered.calls.remove(call)
    return True


def leaf_views(call: KernelCall) -> list[View | None]:
    """The views an epilogue's leaves mean."""
    return call.inputs[call.first_leaf:]


__all__ = ["fuse", "leaf", "leaf_views"]
