"""Stage 8, encode: kernel calls become a Program. Strides appear here, from each buffer's order.

Rules
1. Symbols are bound by the inputs' dims, or by elements of inputs (`Lowered.elements`); a size an input fixes becomes a guard, as does each end of the planned range, and that an alias
   has as many elements as what it re-reads, where that is not the same expression.
2. A packed constant's view has its packing id and logical dims; its strides mean nothing.
3. Places without constant offsets lie behind the constant part of the arena; their offsets are sizes that bind computes.
4. Parameters follow the kind's record; unused positions of a counted parameter are 1 (kernel, strides, dilations) or 0.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..dim import Dim, Symbol, product, symbols
from ..expr import encode as encode_expression
from ..graph import Tensor
from ..kernels import FLOATS, RECORDS, Kernel
from ..lowering import Buffer, KernelCall, View, root
from ..program import Guard, Home, PortRecord, Program, SizeOp, StepRecord, ViewRecord
from .lower import Lowered
from .memory import ALIGN, Placed, Stacked


def encode(lowered: Lowered, placed: Placed, ranges: Mapping[str, tuple[int, int | None]]) -> tuple[Program, list[Tensor]]:
    """The program, and its constants in the order DATA buffers number them."""
    program = Program()
    work = _Encoder(program, placed)
    for i, view in enumerate(lowered.inputs):                                                             # 1
        dims = []
        for axis, size in enumerate(view.shape):
            names = symbols(size)
            if len(names) == 1 and str(size) == next(iter(names)).name:
                program.bind_symbol(str(size), i, axis)
            dims.append(size)
        program.inputs.append(PortRecord(program.string(lowered.input_names[i]), view.dtype, -1, tuple(0 for _ in dims)))
    for name, (port, element) in lowered.elements.items():
        program.bind_element(name, port, element)
    _guard_ranges(program, lowered, ranges)
    program.inputs = [work.port(name, view, Home.INPUT, i) for i, (name, view) in enumerate(zip(lowered.input_names, lowered.inputs, strict=True))]
    program.outputs = [work.port(name, view, Home.OUTPUT, i) for i, (name, view) in enumerate(zip(lowered.output_names, lowered.outputs, strict=True))]
    program.arena = work.stack()
    for call in lowered.calls:
        if call.kind is not None:
            work.step(call)
    return program, work.constants


def _guard_ranges(program: Program, lowered: Lowered, ranges: Mapping[str, tuple[int, int | None]]) -> None:
    for name, row in program.symbols.items():
        if name in lowered.elements:
            continue
        known: Symbol | None = next((s for v in lowered.inputs for d in v.shape for s in symbols(d) if s.name == name), None)
        low, high = ranges.get(name, ((known.lower or 0) if known else 0, None))
        program.guards.append((int(Guard.AT_LEAST), row, program.size(low)))
        if high is not None:
            program.guards.append((int(Guard.AT_MOST), row, program.size(high)))


class _Encoder:
    def __init__(self, program: Program, placed: Placed) -> None:
        self.program, self.placed = program, placed
        self.constants: list[Tensor] = []
        self.buffers: dict[Buffer, int] = {}
        self.places: dict[Stacked, int] = {}   # size indices of their offsets and ends
        self.ends: dict[Stacked, int] = {}
        self.aliases: set[Buffer] = set()
        self.layouts: dict[Buffer, tuple[list[Dim], int]] = {}

    def port(self, name: str, view: View, home: Home, number: int) -> PortRecord:
        dims = tuple(self.program.size(d) for d in view.shape)
        return PortRecord(self.program.string(name), view.dtype, self.view(view), dims)

    def stack(self) -> int:                                                                               # 3
        """Lay the places without constant offsets; the size of the arena."""
        program = self.program
        least = end = program.size(self.placed.arena)
        align = program.size(ALIGN)

        def largest(rows: list[int]) -> int:
            return rows[0] if len(rows) == 1 else program.op(SizeOp.MAX, largest(rows[:-1]), rows[-1])
        for place in self.placed.stacked:
            at = self.places[place] = largest([self.ends[p] for p in place.below]) if place.below else least
            length = program.op(SizeOp.MUL, program.op(SizeOp.CEILDIV, largest([program.size(s) for s in place.sizes]), align), align)
            self.ends[place] = program.op(SizeOp.ADD, at, length)
        above = {p for place in self.placed.stacked for p in place.below}
        return largest([end, *dict.fromkeys(self.ends[p] for p in self.placed.stacked if p not in above)])

    def buffer(self, buffer: Buffer) -> int:
        base = root(buffer)
        if base not in self.buffers:
            nbytes: Dim = product(base.shape) * base.dtype.numpy.itemsize
            if base.tensor is not None:
                at, home = len(self.constants), Home.DATA
                self.constants.append(base.tensor)
            elif base.port is not None:
                at, home = base.port[1], Home.INPUT if base.port[0] == "input" else Home.OUTPUT
            else:
                place = self.placed.offsets[base]
                at, home = self.places[place] if isinstance(place, Stacked) else self.program.size(place), Home.ARENA
            self.buffers[base] = len(self.program.buffers)
            self.program.buffers.append((int(home), at, self.program.size(nbytes)))
        return self.buffers[base]

    def same_count(self, buffer: Buffer) -> None:                                                         # 1
        source, target = product(root(buffer).shape), product(buffer.shape)
        if source != target:
            self.program.guards.append((int(Guard.EQUAL), self.program.size(source), self.program.size(target)))

    def layout(self, buffer: Buffer) -> tuple[list[Dim], int]:
        """A buffer's strides, and the size index of its elements' number."""
        found = self.layouts.get(buffer)
        if found is None:
            found = self.layouts[buffer] = strides(buffer), self.program.size(product(buffer.shape))
        return found

    def view(self, view: View | None) -> int:
        if view is None:
            return -1
        if view.buffer.alias is not None and view.buffer not in self.aliases:
            self.aliases.add(view.buffer)
            self.same_count(view.buffer)
        known, extent = self.layout(view.buffer)
        start, steps = view.places(known)
        size = self.program.size
        record = ViewRecord(self.buffer(view.buffer), view.dtype, tuple(map(size, view.shape)), tuple(map(size, steps)), size(start), extent, view.buffer.packing)
        return self.program.view(record)

    def step(self, call: KernelCall) -> None:
        assert call.kind is not None
        params = self.parameters(call.kind, call.params)                                                  # 4
        prologue = self.code([call.prologue], call.first_leaf) if call.prologue is not None else -1
        epilogue = self.code(call.epilogue, call.first_leaf) if call.epilogue else -1
        self.program.steps.append(StepRecord(call.kind, self.program.string("+".join(call.origin)), tuple(self.view(v) for v in call.inputs), tuple(self.view(v) for v in call.outputs),
                                             tuple(params), prologue, epilogue))

    def code(self, expressions: list[Any], first_leaf: int) -> int:
        return self.program._intern(self.program.codes, (encode_expression(expressions), first_leaf))

    def parameters(self, kind: Kernel, given: Mapping[str, Any]) -> list[int]:
        out = []
        for name in RECORDS[kind].params:
            base, _, count = name.rstrip("]").partition("[")
            if base in FLOATS:
                numbers = list(given.get(base, ())) if count else [given.get(base, 0.0)]
                out += [self.program.number(float(v)) for v in numbers + [0.0] * (int(count or 1) - len(numbers))]
            elif count:
                filler = 1 if base in ("kernel", "strides", "dilations") else 0
                values = list(given.get(base, ()))
                out += [self.program.size(v) for v in values + [filler] * (int(count) - len(values))]
            else:
                out.append(self.program.size(given.get(base, 0)))
        return out


def strides(buffer: Buffer) -> list[Dim]:
    """The stride of each dim in elements."""
    order = buffer.order or tuple(range(len(buffer.shape)))
    out: list[Dim] = [1] * len(buffer.shape)
    step: Dim = 1
    for dim in reversed(order):
        out[dim] = step
        step = step * buffer.shape[dim]
    return out
