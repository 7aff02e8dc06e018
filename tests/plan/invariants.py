"""What must hold after each stage of the planner. The checks are written from the stages' docstrings, not from their code."""
from __future__ import annotations

from collections.abc import Callable, Mapping

from sardonyx.dim import Expr, product, substitute, symbols
from sardonyx.graph import Model
from sardonyx.kernels import RECORDS, Kernel
from sardonyx.lowering import Buffer, KernelCall, View, loaded, root
from sardonyx.package import Device, Do
from sardonyx.plan.cut import Cut, cut
from sardonyx.plan.encode import encode
from sardonyx.plan.layout import SPATIAL, choose_layout
from sardonyx.plan.lower import Lowered, lower
from sardonyx.plan.memory import ALIGN, Placed, place
from sardonyx.plan.planner import given_inputs, own_outputs, stages
from sardonyx.plan.shapes import Specs
from sardonyx.program import Program

Sizes = Mapping[str, int]
Ranges = Mapping[str, tuple[int, int | None]]


def checked_package(model: Model, specs: Specs, ranges: Ranges, sizes: Sizes) -> int:
    """`plan_package` with every invariant asserted in between; `sizes`: numbers of symbols to try the views with. How many programs there are."""
    graph = model.graph
    lowered = lower(given_inputs(graph), graph.nodes, graph.outputs, specs, host=True)
    made = cut(lowered)
    for part in made.programs:
        check_calls(part, sizes)
        for stage in stages(ranges):
            stage(part)
            check_calls(part, sizes)
            if stage is not own_outputs:
                check_outputs(part)
            if stage is choose_layout:
                check_layout(part)
        placed = place(part, ranges)
        check_memory(part, placed, ranges, sizes)
        program, _ = encode(part, placed, ranges)
        program.verify()
        assert Program.unpack(program.pack()).pack() == program.pack()
    check_blocks(made)
    return len(made.programs)


def check_blocks(made: Cut) -> None:
    """Slots are filled once and before they are read; segments give programs, graphs and blocks as many tensors as they take, of their types."""
    taken: dict[int, int] = {}
    for block in made.blocks:
        filled = set(block.inputs)
        assert len(filled) == len(block.inputs)
        for segment in block.segments:
            assert {s for s in segment.inputs if s >= 0} <= filled, f"{segment} reads a slot before it is filled"
            outputs = [s for s in segment.outputs if s >= 0]
            assert not filled & set(outputs) and len(set(outputs)) == len(outputs), f"{segment} fills a slot again"
            filled |= set(outputs)
            for inner in segment.blocks:
                assert inner not in taken, "a block stands in two places"
                taken[inner] = 1
            if segment.do is Do.PROGRAM:
                assert -1 not in segment.inputs
                if segment.device is Device.HOST:
                    graph = made.hosted[segment.program]
                    assert (len(graph.inputs), len(graph.outputs)) == (len(segment.inputs), len(segment.outputs))
                else:
                    part = made.programs[segment.program]
                    assert (len(part.inputs), len(part.outputs)) == (len(segment.inputs), len(segment.outputs))
                    bound = {str(d) for v in part.inputs for d in v.shape} | set(part.elements)
                    used = {s.name for c in part.calls for v in (*c.inputs, *c.outputs) if v is not None for d in (*v.shape, *v.buffer.shape) for s in symbols(d)}
                    assert used <= bound, f"sizes {used - bound} are bound by no input"
                    for port, element in part.elements.values():
                        assert part.inputs[port].dtype.is_integer and 0 <= element
            elif segment.do is Do.IF:
                for inner in segment.blocks:
                    body = made.blocks[inner]
                    assert (len(body.inputs), len(body.outputs)) == (len(segment.inputs) - 1, len(segment.outputs))
            else:
                flags, n, m, k, *_ = segment.params
                body = made.blocks[segment.blocks[0]]
                assert len(body.inputs) == len(segment.inputs) - 2 + 2 * (flags & 1) and len(body.outputs) == n + k + (flags & 1) and len(segment.outputs) == n + k
                assert len(segment.params) == 4 + 2 * (m + k)
        assert set(block.outputs) <= filled and max(filled, default=-1) < block.slots


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
    if any(s.name not in sizes for d in (*view.buffer.shape, *(x for a in view.axes for x in (a.size, a.start, a.step)), *(at for _, at in view.fixed)) for s in symbols(d)):
        return  # a size that data decide
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


def check_memory(lowered: Lowered, placed: Placed, ranges: Ranges, sizes: Sizes) -> None:
    """Buffers alive in one call do not overlap, but for a Map's or Scatter's output that takes the place of an operand which dies there."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, call in enumerate(lowered.calls):
        for view in (*call.inputs, *call.outputs):
            if view is not None and root(view.buffer) in placed.offsets:
                first.setdefault(root(view.buffer), i)
                last[root(view.buffer)] = i

    for other in (1, 7, 1000):   # sizes that nobody bounds or that data decide
        _check_spans(lowered, placed, first, last, lambda size, other=other: number(size, {s.name: sizes.get(s.name, other) for s in symbols(size)}))


def _check_spans(lowered: Lowered, placed: Placed, first: Mapping[Buffer, int], last: Mapping[Buffer, int], numbers: Callable[[object], int]) -> None:
    offsets, arena = placed.at(numbers)
    spans = {}
    for buffer in first:
        spans[buffer] = offsets[buffer], offsets[buffer] + numbers(product(buffer.shape) * buffer.dtype.numpy.itemsize)
        assert offsets[buffer] % ALIGN == 0 and 0 <= offsets[buffer] <= spans[buffer][1] <= arena, f"{buffer} lies outside the arena"
    for i, call in enumerate(lowered.calls):
        alive = [b for b in first if first[b] <= i <= last[b]]
        written = {root(v.buffer) for v in call.outputs}
        for n, a in enumerate(alive):
            for b in alive[n + 1:]:
                if spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]:
                    old, new = (a, b) if b in written else (b, a)
                    assert call.kind in (Kernel.MAP, Kernel.SCATTER) and new in written and last[old] == i and first[new] == i and spans[a][0] == spans[b][0], \
                        f"{a} and {b} overlap while both are alive in {call}"
