"""Where steps come from: a planned `Program` (its size table back as Dims, its views as Operands), or single kernel calls before they are planned (to ask whether a node can run here)."""
from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..dim import Dim, Undecidable, ceildiv, dim_max, dim_min, floordiv, mod, symbol
from ..graph import Tensor
from ..kernels import FLOATS, RECORDS, Kernel
from ..lowering import Buffer, CannotLower, KernelCall, View
from ..plan.encode import strides
from ..plan.memory import root
from ..program import Guard, Home, Program, SizeOp, StepRecord
from ..providers.interpreter.call import decode
from ..types import DType
from .kernels import Step
from .wgsl.space import Operand
from .wgsl.storage import INT32, PLAIN, UINT32, extent, interval, word

#: How far from 0 the 64-bit integers of a program's inputs may lie, as a power of two: the first with which everything is proved to fit 32 bits is checked when inputs are uploaded.
#: Elements of constants of narrow integers whose extent is looked at: zero points are often all the same.
SMALL, NARROW = 4096, (DType.INT8, DType.UINT8)
REACH = (31, 30, 28, 24, 20, 15)


def assumed(dtype: DType, reach: int) -> tuple[int, int]:
    """The interval inputs of a 64-bit type are taken to lie in."""
    if reach >= 31:
        return INT32 if dtype is DType.INT64 else UINT32
    return (-(1 << reach) if dtype is DType.INT64 else 0), 1 << reach


def constant_interval(tensor: Tensor) -> tuple[float, float]:
    """Where the integers of a constant lie; CannotLower where they do not fit 32 bits."""
    if tensor.dtype.is_float or (tensor.dtype.bits < 32 and not (tensor.dtype in NARROW and 0 < tensor.size <= SMALL)):
        return interval(tensor.dtype)
    low, high = extent(tensor.numpy())
    if not (INT32[0] <= low and high <= INT32[1]) and not (low >= 0 and high <= UINT32[1] and tensor.dtype in (DType.UINT32, DType.UINT64)):
        raise CannotLower(f"a constant holds {low if low < INT32[0] else high}, which does not fit 32 bits")
    return low, high


class Sizes:
    """A program's size table, which kernels may extend: rows ↔ Dims. A row becomes a Dim when it is asked for: where memory lies in the engine's arena (long chains of maxima) never is."""

    def __init__(self, program: Program) -> None:
        self.table = Program(sizes=list(program.sizes), guards=program.guards, inputs=program.inputs, strings=program.strings)
        self.ranges: dict[str, tuple[int, int | None]] = {}
        self.dims = _Dims(self)
        for row, (op, _, _, _) in enumerate(program.sizes):
            if op in (SizeOp.DIM, SizeOp.ELEMENT):
                self.table.symbols[f"s{row}"] = row
                self.ranges[f"s{row}"] = (0 if op == SizeOp.DIM else -(1 << 63), None)
        for kind, a, b in program.guards:
            name, bound = f"s{a}", self.dims[b] if f"s{a}" in self.ranges else None
            if isinstance(bound, int):
                low, high = self.ranges[name]
                self.ranges[name] = (max(low, bound), high) if kind == Guard.AT_LEAST else (low, bound if high is None else min(high, bound)) if kind == Guard.AT_MOST else (low, high)

    def row(self, dim: Dim) -> int:
        """The table row of a Dim."""
        return self.table.size(dim)


class _Dims:
    """Row → Dim, as they are asked for. What is too long to be understood is a symbol: a number of the table."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes, self._rows = sizes, list(sizes.table.sizes)
        self._made: dict[int, Dim] = {}

    def __getitem__(self, row: int) -> Dim:
        if row not in self._made:
            op, a, b, _ = self._rows[row]
            try:
                self._made[row] = symbol(f"s{row}", 0 if op == SizeOp.DIM else -(1 << 63)) if op in (SizeOp.DIM, SizeOp.ELEMENT) else _OPERATIONS[SizeOp(op)](self, a, b)
            except Undecidable:
                self._sizes.table.symbols[f"s{row}"], self._sizes.ranges[f"s{row}"] = row, (-(1 << 63), None)
                self._made[row] = symbol(f"s{row}", None)
        return self._made[row]


_OPERATIONS: Mapping[SizeOp, Any] = {
    SizeOp.CONST: lambda t, a, b: a, SizeOp.ADD: lambda t, a, b: t[a] + t[b], SizeOp.SUB: lambda t, a, b: t[a] - t[b], SizeOp.MUL: lambda t, a, b: t[a] * t[b],
    SizeOp.FLOORDIV: lambda t, a, b: floordiv(t[a], t[b]), SizeOp.CEILDIV: lambda t, a, b: ceildiv(t[a], t[b]), SizeOp.MOD: lambda t, a, b: mod(t[a], t[b]),
    SizeOp.MIN: lambda t, a, b: dim_min(t[a], t[b]), SizeOp.MAX: lambda t, a, b: dim_max(t[a], t[b]),
}


class ProgramSteps:
    """The steps of a program. `constants[i]` may be replaced by an operand that lies elsewhere (`homes`); `packed`: intermediates that are bytes, not words; `half`: buffers of f16."""

    def __init__(self, program: Program, sizes: Sizes, homes: Mapping[int, Operand], ranges: dict[Any, tuple[float, float]], packed: Collection[int] = (), half: Collection[int] = ()) -> None:
        self.program, self.sizes, self.homes, self.ranges, self.packed, self.half = program, sizes, homes, ranges, packed, half
        self._check_types()

    def _check_types(self) -> None:
        """Memory that is read as several types must hold the same bits for all of them."""
        types: dict[int, set[DType]] = {}
        for view in self.program.views:
            types.setdefault(view.buffer, set()).add(view.dtype)
        for found in types.values():
            if len(found) > 1 and not found <= PLAIN:
                raise CannotLower(f"memory is read as {' and as '.join(sorted(t.text for t in found))}")

    def step(self, record: StepRecord) -> Step:
        """One step with its operands."""
        program = self.program
        prologue = decode(program.codes[record.prologue][0])[0] if record.prologue >= 0 else None
        epilogue = decode(program.codes[record.epilogue][0]) if record.epilogue >= 0 else []
        first = program.codes[record.epilogue if record.epilogue >= 0 else record.prologue][1] if max(record.epilogue, record.prologue) >= 0 else 0
        return Step(record.kind, [self.operand(v) for v in record.inputs], [self.operand(v) for v in record.outputs], self.params(record), prologue, epilogue, first, program.strings[record.origin])

    def operand(self, index: int) -> Operand | None:
        """A view as an operand."""
        if index < 0:
            return None
        view, d = self.program.views[index], self.sizes.dims
        home = self.homes.get(view.buffer)
        low, high = (home.low, home.high) if home is not None else self.ranges.get(view.buffer, interval(view.dtype))
        packing = view.packing or (home.packing if home is not None else 0)
        return Operand(view.buffer if home is None else home.buffer, view.dtype, tuple(d[i] for i in view.dims), tuple(d[i] for i in view.strides), d[view.start] + (home.start if home else 0),
                       d[view.extent], Home(self.program.buffers[view.buffer][0]) in (Home.INPUT, Home.DATA) or view.buffer in self.packed, low, high, packing, home is not None,
                       view.buffer in self.half)

    def params(self, record: StepRecord) -> dict[str, Any]:
        """Parameters by name."""
        values = [self.sizes.dims[p] for p in record.params]
        out: dict[str, Any] = {}
        at = 0
        for name in RECORDS[record.kind].params:
            base, _, count = name.rstrip("]").partition("[")
            n = int(count) if count else 1
            part = [struct.unpack("<d", struct.pack("<q", v))[0] for v in values[at:at + n]] if base in FLOATS else values[at:at + n]
            out[base] = part if count else part[0]
            at += n
        return out


class CallSteps:
    """Kernel calls before planning. `ranges` is what is known of the integers of every buffer so far; 64-bit inputs are taken to lie within the least reach."""

    def __init__(self, ranges: dict[Any, tuple[float, float]]) -> None:
        self.ranges = ranges

    def step(self, call: KernelCall) -> Step:
        """One call as a step."""
        assert call.kind is not None
        return Step(call.kind, [self.operand(v) for v in call.inputs], [self.operand(v) for v in call.outputs], _params(call.kind, call.params), call.prologue, call.epilogue, call.first_leaf,
                    "+".join(call.origin))

    def operand(self, view: View | None) -> Operand | None:
        """A view as an operand, row-major."""
        if view is None:
            return None
        base = root(view.buffer)
        word(base.dtype)
        if base.dtype != view.dtype and not {base.dtype, view.dtype} <= PLAIN:
            raise CannotLower(f"memory is read as {base.dtype.text} and as {view.dtype.text}")
        start, steps = view.places(strides(view.buffer))
        low, high = self._interval(base)
        outside = base.tensor is not None or (base.port is not None and base.port[0] == "input")
        return Operand(base, view.dtype, view.shape, steps, start, 0, outside, low, high, constant=base.tensor is not None)

    def _interval(self, base: Buffer) -> tuple[float, float]:
        if base not in self.ranges and base.tensor is not None:
            self.ranges[base] = constant_interval(base.tensor)
        if base in self.ranges:
            return self.ranges[base]
        return assumed(base.dtype, REACH[-1]) if base.dtype in (DType.INT64, DType.UINT64) and base.port is not None else interval(base.dtype)


def _params(kind: Kernel, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the fillers `plan.encode` gives them."""
    out: dict[str, Any] = {}
    for name in RECORDS[kind].params:
        base, _, count = name.rstrip("]").partition("[")
        if count:
            values: Sequence[Any] = list(given.get(base, ()))
            out[base] = [*values, *[1 if base in ("kernel", "strides", "dilations") else 0] * (int(count) - len(values))]
        else:
            out[base] = given.get(base, 0)
    return out
