"""What must hold after each stage of the planner. The checks are written from the stages' docstrings, not from their code."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from sardonyx.dim import Expr, substitute, symbols
from sardonyx.graph import Node, Value
from sardonyx.kernels import RECORDS, Kernel
from sardonyx.lowering import Buffer, KernelCall, View, loaded
from sardonyx.plan.encode import encode
from sardonyx.plan.fuse import fuse
from sardonyx.plan.layout import SPATIAL, choose_layout
from sardonyx.plan.lower import Lowered, lower
from sardonyx.plan.memory import Placed, place, root, upper_bytes
from sardonyx.plan.planner import Plan, own_outputs
from sardonyx.plan.shapes import Specs
from sardonyx.program import Program

Sizes = Mapping[str, int]
Ranges = Mapping[str, tuple[int, int | None]]


def checked_plan(inputs: Sequence[Value], nodes: Sequence[Node], outputs: Sequence[Value], specs: Specs, ranges: Ranges, sizes: Sizes) -> Plan:
    """`plan_nodes` with every invariant asserted in between; `sizes`: numbers of the symbols to try the views with."""
    lowered = lower(inputs, nodes, outputs, specs)
    check_calls(lowered, sizes)
    own_outputs(lowered)
    check_calls(lowered, sizes)
    check_outputs(lowered)
    fuse(lowered)
    check_calls(lowered, sizes)
    check_outputs(lowered)
    choose_layout(lowered)
    check_calls(lowered, sizes)
    check_layout(lowered)
    placed = place(lowered, ranges)
    check_memory(lowered, placed, ranges)
    program, constants = encode(lowered, placed, ranges)
    program.verify()
    assert Program.unpack(program.pack()).pack() == program.pack()
    return Plan(program, constants, placed)


def check_calls(lowered: Lowered, sizes: Sizes) -> None:
    """Every buffer is written before it is read; every view lies inside its buffer; operands, outputs and parameters are those of the kind's record."""
    there = {v.buffer for v in lowered.inputs}
    for call in lowered.calls:
        for view in call.inputs:
            if view is not None:
                assert there & {view.buffer, root(view.buffer)} or root(view.buffer).tensor is not None, f"{call} reads {view.buffer} before it is written"
                check_view(view, sizes)
        for view in call.outputs:
            base = root(view.buffer)
            assert call.kind is None or base.tensor is None and base.port != ("input", 0), f"{call} writes into a constant or an input"
            check_view(view, sizes)
            there.add(view.buffer)
        if call.kind is not None:
            check_record(call)
    for view in lowered.outputs:
        assert view.buffer in there or root(view.buffer).tensor is not None, f"output {view.buffer} is never written"


def check_view(view: View, sizes: Sizes) -> None:
    """All positions of the view are inside the buffer's dims."""
    shape = [number(d, sizes) for d in view.buffer.shape]
    if not all(number(a.size, sizes) for a in view.axes):
        return
    reach = {dim: [number(at, sizes), number(at, sizes)] for dim, at in view.fixed}
    for axis in view.axes:
        if axis.dim is None:
            continue
        span = (number(axis.size, sizes) - 1) * number(axis.step, sizes)
        low, high = reach.setdefault(axis.dim, [0, 0])
        start = number(axis.start, sizes)
        reach[axis.dim] = [low + start + min(span, 0), high + start + max(span, 0)]
    for dim, (low, high) in reach.items():
        assert 0 <= low <= high < shape[dim], f"a view of {view.buffer} reaches {low} … {high} of dim {dim}, {shape[dim]} long: {view}"


def number(size: object, sizes: Sizes) -> int:
    """A Dim with the symbols' numbers put in."""
    found = substitute(size, sizes)
    assert not isinstance(found, Expr), f"{size} has symbols {symbols(size)} that no size is given for"
    return int(found)


def check_record(call: KernelCall) -> None:
    """The record of core/kernels.py."""
    assert call.kind is not None
    record = RECORDS[call.kind]
    unbounded = bool(record.inputs) and record.inputs[-1].endswith("*")
    required = sum(not r.endswith(("?", "*")) for r in record.inputs)
    assert len(call.inputs) >= required and all(v is not None for v in call.inputs[:required]), f"{call} lacks operands"
    assert unbounded or len(call.inputs) <= len(record.inputs) or call.first_leaf, f"{call} has too many operands"
    assert 1 <= len(call.outputs) <= len(record.outputs) or call.kind is Kernel.MAP
    assert set(call.params) <= {p.partition("[")[0] for p in record.params}, f"{call} has parameters {set(call.params)}"
    assert call.kind is not Kernel.MAP or len(call.epilogue) == len(call.outputs)


def check_outputs(lowered: Lowered) -> None:
    """Every graph output is a whole buffer of its own."""
    buffers = [v.buffer for v in lowered.outputs]
    assert len(set(buffers)) == len(buffers)
    for i, view in enumerate(lowered.outputs):
        assert view.is_whole and view.buffer.port == ("output", i) and view.buffer.alias is None


def check_layout(lowered: Lowered) -> None:
    """Conv and Pool see their channels one after the other; an alias and what is loaded by index are row-major."""
    for call in lowered.calls:
        if call.kind in SPATIAL:
            for view in (call.inputs[0], *call.outputs):
                assert view is not None
                assert view.axes[1].size == 1 or innermost(view.buffer) == view.axes[1].dim, f"{call}: channels of {view.buffer} are not innermost"
        for i in loaded(call) if call.kind is Kernel.MAP else ():
            view = call.inputs[i]
            assert view is not None and view.is_whole and row_major(view.buffer)
        if call.kind is None:
            assert call.inputs[0] is not None and row_major(call.outputs[0].buffer) and row_major(root(call.outputs[0].buffer))


def innermost(buffer: Buffer) -> int | None:
    """The dim whose stride is 1: the last in memory that is not of size 1."""
    order = [d for d in buffer.order or range(len(buffer.shape)) if buffer.shape[d] != 1]
    return order[-1] if order else None


def row_major(buffer: Buffer) -> bool:
    """Whether memory order is the dims' order."""
    order = [d for d in buffer.order or () if buffer.shape[d] != 1]
    return order == sorted(order)


def check_memory(lowered: Lowered, placed: Placed, ranges: Ranges) -> None:
    """Buffers alive in one call do not overlap, but for a Map's or Scatter's output that takes the place of an operand which dies there."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, call in enumerate(lowered.calls):
        for view in (*call.inputs, *call.outputs):
            if view is not None and root(view.buffer) in placed.offsets:
                first.setdefault(root(view.buffer), i)
                last[root(view.buffer)] = i
    spans = {b: (placed.offsets[b], placed.offsets[b] + upper_bytes(b, ranges)) for b in first}
    for low, high in spans.values():
        assert 0 <= low <= high <= placed.arena
    for i, call in enumerate(lowered.calls):
        alive = [b for b in first if first[b] <= i <= last[b]]
        written = {root(v.buffer) for v in call.outputs}
        for n, a in enumerate(alive):
            for b in alive[n + 1:]:
                if spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]:
                    old, new = (a, b) if b in written else (b, a)
                    assert call.kind in (Kernel.MAP, Kernel.SCATTER) and new in written and last[old] == i and first[new] == i and spans[a][0] == spans[b][0], \
                        f"{a} and {b} overlap while both are alive in {call}"
