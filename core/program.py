"""Programs: flat records that an engine runs without graph, planner or Python. This module is the format: build, pack to bytes, unpack and verify, print.

A packed program is little-endian int64 words (code words are int32 pairs inside them), in tables:

    header    magic, ABI, the arena's bytes (a size index; -1: none), then (count, offset in words) of each table
    sizes     one int64 expression per row (op, a, b, c); `bind` evaluates them in order into one flat table, overflow-checked
    guards    (kind, a, b): conditions on bound sizes under which this program may run
    buffers   (home, at, bytes): where memory lies; `bytes` is a size index, so is `at` in the arena: a constant where the planner bounds every size, else computed by bind, which checks
              that the buffer is aligned to 64 bytes and inside the arena
    views     (buffer, dtype, rank, packing, start, extent, dim × 8, stride × 8): size indices, strides and start in elements
    codes     (offset, count, registers, first leaf, results, result × 4): an expression of core/expr.py
    words     the instruction words of all codes
    steps     (kind, version, origin, inputs, outputs, params, prologue, epilogue) as offset/count into `lists`
    lists     view indices and size indices the steps refer to
    inputs, outputs   (name, dtype, rank, view, dim × 8)
    strings   UTF-8 with offsets

Everything a step refers to is an index into a table, checked once at open (`verify`), so that running needs no checks but data-dependent indices.
"""
from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from .dim import Call, Dim, Expr, Symbol
from .errors import InvalidArgument, InvalidModelFile, NotPlanned, RuntimeException
from .expr import WORDS, Code
from .kernels import VERSIONS, Kernel
from .types import DType

MAGIC = int.from_bytes(b"SDXPROG1", "little")
ABI = (2, 0)
TABLES = 12
RANK = 8
#: Packings with a group (core/model/packing.py, floor 4).
CONV, SCALES = 3, 6
ALIGN = 64


class SizeOp(enum.IntEnum):
    """Operations of the size table."""

    CONST = 0      # a
    DIM = 1        # axis b of input a
    ADD = 2
    SUB = 3
    MUL = 4
    FLOORDIV = 5
    CEILDIV = 6
    MOD = 7
    MIN = 8
    MAX = 9
    ELEMENT = 10   # the value of element b of input a, an integer or bool tensor in host memory, read when bound


#: Types whose elements may decide sizes.
ELEMENTS = frozenset({DType.INT64, DType.INT32, DType.BOOL})


class Home(enum.IntEnum):
    """Where a buffer lies. `at`: size index of the byte offset in the arena, input or output number, number of the constant."""

    ARENA = 0
    INPUT = 1
    OUTPUT = 2
    DATA = 3


class Guard(enum.IntEnum):
    """Conditions checked by bind: sizes a and b (indices)."""

    EQUAL = 0
    AT_LEAST = 1
    AT_MOST = 2


#: What it means where sizes that must be equal are not.
UNEQUAL = "inputs differ in a size that has one name, or a Reshape or Squeeze does not keep the number of elements"


@dataclass(frozen=True)
class ViewRecord:
    """One row of `views`; numbers are size indices except buffer, dtype, rank and packing."""

    buffer: int
    dtype: DType
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    extent: int
    packing: int = 0


@dataclass(frozen=True)
class StepRecord:
    """One kernel call."""

    kind: Kernel
    origin: int                     # string index: names of the model's nodes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: tuple[int, ...]         # size indices
    prologue: int = -1
    epilogue: int = -1


@dataclass(frozen=True)
class PortRecord:
    """A graph input or output: string index of its name, dtype, its view, size index of each dim (inputs: what bind checks and reads)."""

    name: int
    dtype: DType
    view: int
    dims: tuple[int, ...]


@dataclass
class Program:
    """A program in tables; `build` methods intern, so equal rows exist once."""

    sizes: list[tuple[int, int, int, int]] = field(default_factory=list)
    guards: list[tuple[int, int, int]] = field(default_factory=list)
    buffers: list[tuple[int, int, int]] = field(default_factory=list)
    views: list[ViewRecord] = field(default_factory=list)
    codes: list[tuple[Code, int]] = field(default_factory=list)   # (code, first leaf)
    steps: list[StepRecord] = field(default_factory=list)
    inputs: list[PortRecord] = field(default_factory=list)
    outputs: list[PortRecord] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    arena: int = -1                                               # size index of its bytes
    _interned: dict[Any, int] = field(default_factory=dict, repr=False)
    symbols: dict[str, int] = field(default_factory=dict, repr=False)

    # -- building ----------------------------------------------------------------------------------------------------------------------------
    def _intern(self, table: list[Any], row: Any) -> int:
        key = (id(table), row)
        if key not in self._interned:
            self._interned[key] = len(table)
            table.append(row)
        return self._interned[key]

    def string(self, text: str) -> int:
        """Index of a string."""
        return self._intern(self.strings, text)

    def view(self, record: ViewRecord) -> int:
        """Index of a view."""
        return self._intern(self.views, record)

    def bind_symbol(self, name: str, port: int, axis: int) -> None:
        """The symbol `name` is axis `axis` of input `port`; a second place that should have the same size becomes a guard."""
        self._bind(name, (int(SizeOp.DIM), port, axis, 0))

    def bind_element(self, name: str, port: int, element: int) -> None:
        """The symbol `name` is the value of an element of input `port`; a second place that should have the same value becomes a guard."""
        self._bind(name, (int(SizeOp.ELEMENT), port, element, 0))

    def _bind(self, name: str, size: tuple[int, int, int, int]) -> None:
        row = self._intern(self.sizes, size)
        if name in self.symbols:
            self.guards.append((int(Guard.EQUAL), self.symbols[name], row))
        else:
            self.symbols[name] = row

    def size(self, value: Dim) -> int:
        """Index of a size: an int or a Dim over bound symbols."""
        if isinstance(value, Expr):
            total: int | None = self._interned.get(value)
            if total is not None:
                return total
            for monomial, factor in value.terms:
                row = None
                for atom in monomial:
                    part = self._atom(atom)
                    row = part if row is None else self.op(SizeOp.MUL, row, part)
                constant = self.size(int(factor))
                row = constant if row is None else row if factor == 1 else self.op(SizeOp.MUL, row, constant)
                total = row if total is None else self.op(SizeOp.ADD, total, row)
            assert total is not None
            self._interned[value] = total
            return total
        return self._intern(self.sizes, (int(SizeOp.CONST), int(value), 0, 0))

    def number(self, value: float) -> int:
        """Index of a float parameter: the bits of a double as a constant."""
        return self.size(struct.unpack("<q", struct.pack("<d", value))[0])

    def op(self, op: SizeOp, a: int, b: int) -> int:
        """Index of an operation on two sizes."""
        return self._intern(self.sizes, (int(op), a, b, 0))

    def _atom(self, atom: Symbol | Call) -> int:
        if isinstance(atom, Symbol):
            if atom.name not in self.symbols:
                raise InvalidArgument(f"size '{atom.name}' is neither a dim nor an element of an input: a program can not bind it")
            return self.symbols[atom.name]
        op = {"floordiv": SizeOp.FLOORDIV, "mod": SizeOp.MOD, "min": SizeOp.MIN, "max": SizeOp.MAX}[atom.op]
        rows = [self.size(a) for a in atom.args]
        total = rows[0]
        for row in rows[1:]:
            total = self.op(op, total, row)
        return total

    # -- binding -----------------------------------------------------------------------------------------------------------------------------
    @cached_property
    def elements(self) -> list[tuple[int, int]]:
        """The (input, element) pairs whose values decide sizes. For a program that is built."""
        return [(a, b) for op, a, b, _ in self.sizes if op == SizeOp.ELEMENT]

    def bind(self, shapes: Sequence[Sequence[int]], inputs: Sequence[np.ndarray] | None = None) -> list[int]:
        """The flat table of sizes for inputs of these shapes (what bind does in C); `inputs` are read where elements decide sizes. Raises InvalidArgument where a guard does not hold
        (NotPlanned: of the planned range), RuntimeException where sizes overflow, are divided by 0 or an element is not there."""
        table: list[int] = []
        for row, (op, a, b, _) in enumerate(self.sizes):
            value = int(shapes[a][b]) if op == SizeOp.DIM else self._element(shapes, inputs, a, b) if op == SizeOp.ELEMENT else _SIZE[SizeOp(op)](table, a, b)
            if value is None or not -(1 << 63) <= value < 1 << 63:
                raise RuntimeException(f"sizes overflow or are divided by zero (row {row}: {SizeOp(op).name.lower()} of rows {a} and {b})")
            table.append(value)
        for port, shape in zip(self.inputs, shapes, strict=True):
            for axis, index in enumerate(port.dims):
                if table[index] != shape[axis]:
                    raise InvalidArgument(f"input '{self.strings[port.name]}' has size {shape[axis]} on axis {axis}, the program was planned for {table[index]}")
        for kind, a, b in self.guards:
            holds = {Guard.EQUAL: table[a] == table[b], Guard.AT_LEAST: table[a] >= table[b], Guard.AT_MOST: table[a] <= table[b]}[Guard(kind)]
            if not holds and kind == Guard.EQUAL:
                raise InvalidArgument(f"sizes that must be equal are {table[a]} and {table[b]}: {UNEQUAL}")
            if not holds:
                raise NotPlanned(f"the program does not cover these sizes: {table[a]} {Guard(kind).name.lower().replace('_', ' ')} {table[b]} does not hold; plan for them (convert --plan)")
        arena = table[self.arena] if self.arena >= 0 else 0
        if arena < 0:
            raise RuntimeException(f"the sizes give an arena of {arena} bytes")
        for home, at, nbytes in self.buffers:
            if home == Home.ARENA and not (0 <= table[at] and table[at] % ALIGN == 0 and 0 <= table[nbytes] <= arena - table[at]):
                raise InvalidModelFile(f"program: a buffer of {table[nbytes]} bytes at {table[at]} lies outside the arena of {arena} bytes, or is not aligned to {ALIGN} bytes")
        return table

    def _element(self, shapes: Sequence[Sequence[int]], inputs: Sequence[np.ndarray] | None, port: int, element: int) -> int:
        name = self.strings[self.inputs[port].name]
        if inputs is None:
            raise InvalidArgument(f"element {element} of input '{name}' decides sizes: bind needs the inputs")
        if element >= prod(shapes[port]):
            raise RuntimeException(f"element {element} of input '{name}' decides sizes, but the input has shape {tuple(shapes[port])}")
        return int(inputs[port].reshape(-1)[element])

    def form(self, number: int) -> tuple[int, int]:
        """(packing, group) in which the steps read constant `number` (core/model/packing.py); (0, 1): plain."""
        view = next((i for i, v in enumerate(self.views) if v.packing and self.buffers[v.buffer][:2] == (Home.DATA, number)), None)
        if view is None:
            return 0, 1
        record, group = self.views[view], 1
        if record.packing == SCALES:
            group = self.sizes[record.dims[0]][1]
        for step in self.steps:
            if step.kind is Kernel.CONV and view in step.inputs and record.packing == CONV:
                group = self.sizes[step.params[1]][1]
        return record.packing, group

    # -- bytes -------------------------------------------------------------------------------------------------------------------------------
    def pack(self) -> bytes:
        """The program as bytes; equal programs give equal bytes."""
        lists: list[int] = []
        steps: list[int] = []
        for step in self.steps:
            steps += [int(step.kind), VERSIONS[step.kind], step.origin]
            for part in (step.inputs, step.outputs, step.params):
                steps += [len(lists), len(part)]
                lists += part
            steps += [step.prologue, step.epilogue]
        words: list[int] = []
        codes: list[int] = []
        for code, first in self.codes:
            codes += [len(words), len(code.words) // WORDS, code.registers, first, len(code.results), *code.results, *[0] * (4 - len(code.results))]
            words += code.words
        raw = np.array([*words, *[0] * (len(words) % 2)], np.int32).tobytes()
        encoded = [s.encode() for s in self.strings]
        text = b"".join(encoded)
        offsets = np.cumsum([0, *map(len, encoded)]).tolist()
        tables: list[tuple[int, bytes]] = [
            (len(self.sizes), _words([w for row in self.sizes for w in row])), (len(self.guards), _words([w for row in self.guards for w in row])),
            (len(self.buffers), _words([w for row in self.buffers for w in row])), (len(self.views), _words([w for v in self.views for w in _view_words(v)])),
            (len(self.codes), _words(codes)), (len(words), raw), (len(self.steps), _words(steps)), (len(lists), _words(lists)),
            (len(self.inputs), _words([w for p in self.inputs for w in _port_words(p)])), (len(self.outputs), _words([w for p in self.outputs for w in _port_words(p)])),
            (len(offsets), _words(offsets)), (len(text), text + bytes(-len(text) % 8)),
        ]
        header = [MAGIC, ABI[0] << 32 | ABI[1], self.arena]
        at = len(header) + 2 * len(tables)
        body = b""
        for count, data in tables:
            header += [count, at + len(body) // 8]
            body += data
        return _words(header) + body

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Program:
        """The program in bytes, every index verified; InvalidModelFile names the table and row."""
        from_bytes = Tables(memoryview(data), "program", MAGIC, ABI[0], TABLES, 1)
        program = cls()
        program.arena = from_bytes.extra[0]
        program.sizes = [tuple(r) for r in from_bytes.rows(0, 4)]  # type: ignore[misc]
        program.guards = [tuple(r) for r in from_bytes.rows(1, 3)]  # type: ignore[misc]
        program.buffers = [tuple(r) for r in from_bytes.rows(2, 3)]  # type: ignore[misc]
        program.views = [_view_record(r) for r in from_bytes.rows(3, 6 + 2 * RANK)]
        words = from_bytes.int32(5)
        for offset, count, registers, first, n, *results in from_bytes.rows(4, 9):
            if not (0 <= offset and 0 <= count and offset + count * WORDS <= len(words) and 0 <= n <= 4):
                raise InvalidModelFile("program: a code lies outside the table of words")
            program.codes.append((Code(tuple(words[offset:offset + count * WORDS]), registers, tuple(results[:n])), first))
        lists = [r[0] for r in from_bytes.rows(7, 1)]
        for kind, version, origin, *spans, prologue, epilogue in from_bytes.rows(6, 11):
            parts = [tuple(_span(lists, spans[i], spans[i + 1])) for i in (0, 2, 4)]
            if kind not in Kernel._value2member_map_ or VERSIONS[Kernel(kind)] != version:
                raise InvalidModelFile(f"program: kernel kind {kind} version {version} is not known to this version of sardonyx; re-plan: sardonyx convert")
            program.steps.append(StepRecord(Kernel(kind), origin, parts[0], parts[1], parts[2], prologue, epilogue))
        program.inputs = [_port_record(r) for r in from_bytes.rows(8, 4 + RANK)]
        program.outputs = [_port_record(r) for r in from_bytes.rows(9, 4 + RANK)]
        program.strings = from_bytes.strings(10, 11)
        program.verify()
        return program

    def verify(self) -> None:
        """Check every index; what holds here, running relies on."""
        def within(index: int, table: Sequence[Any], what: str, least: int = 0) -> None:
            if not least <= index < len(table):
                raise InvalidModelFile(f"program: {what} {index} is outside its table of {len(table)}")
        for i, (op, a, b, _) in enumerate(self.sizes):
            if op not in SizeOp._value2member_map_ or (SizeOp.DIM < op < SizeOp.ELEMENT and not (0 <= a < i and 0 <= b < i)):
                raise InvalidModelFile(f"program: size {i} is not computed from earlier sizes")
            if op == SizeOp.DIM and not (0 <= a < len(self.inputs) and 0 <= b < len(self.inputs[a].dims)):
                raise InvalidModelFile(f"program: size {i} refers to an axis no input has")
            if op == SizeOp.ELEMENT and not (0 <= a < len(self.inputs) and 0 <= b and self.inputs[a].dtype in ELEMENTS):
                raise InvalidModelFile(f"program: size {i} refers to an element of no input of integers")
        for kind, a, b in self.guards:
            within(kind, Guard, "guard kind")  # type: ignore[arg-type]
            within(a, self.sizes, "guard size")
            within(b, self.sizes, "guard size")
        within(self.arena, self.sizes, "arena size", -1)
        for home, at, nbytes in self.buffers:
            within(home, Home, "buffer home")  # type: ignore[arg-type]
            within(nbytes, self.sizes, "buffer size")
            if home == Home.DATA:
                within(at, self.buffers, "constant")
            else:
                within(at, self.sizes if home == Home.ARENA else self.inputs if home == Home.INPUT else self.outputs, "offset" if home == Home.ARENA else "port")
        for view in self.views:
            within(view.buffer, self.buffers, "view buffer")
            for index in (*view.dims, *view.strides, view.start, view.extent):
                within(index, self.sizes, "view size")
        for step in self.steps:
            within(step.origin, self.strings, "origin")
            for index in (*step.inputs, *step.outputs):
                within(index, self.views, "step view", -1)
            for index in step.params:
                within(index, self.sizes, "parameter")
            for index in (step.prologue, step.epilogue):
                within(index, self.codes, "code", -1)
        for port in (*self.inputs, *self.outputs):
            within(port.name, self.strings, "port name")
            within(port.view, self.views, "port view")
            for index in port.dims:
                within(index, self.sizes, "port size")

    # -- printing ------------------------------------------------------------------------------------------------------------------------------
    def __str__(self) -> str:
        lines = [f"program: {len(self.steps)} steps, arena {self.size_text(self.arena) if self.arena >= 0 else 0} bytes"]
        lines += [f"  input {self.strings[p.name]}: {p.dtype.text}[{', '.join(self.size_text(d) for d in p.dims)}]" for p in self.inputs]
        for step in self.steps:
            outputs = ", ".join(self.view_text(v) for v in step.outputs)
            inputs = ", ".join(self.view_text(v) for v in step.inputs)
            lines.append(f"  {outputs} = {step.kind.name.lower()}({inputs})  # {self.strings[step.origin]}")
        return "\n".join(lines)

    def size_text(self, index: int) -> str:
        """A size readably."""
        op, a, b, _ = self.sizes[index]
        if op == SizeOp.CONST:
            return str(a)
        names = {row: name for name, row in self.symbols.items()}
        if op == SizeOp.DIM:
            return names.get(index, f"in{a}.{b}")
        if op == SizeOp.ELEMENT:
            return names.get(index, f"in{a}[{b}]")
        sign = {SizeOp.ADD: "+", SizeOp.SUB: "-", SizeOp.MUL: "*", SizeOp.FLOORDIV: "//", SizeOp.CEILDIV: "/^", SizeOp.MOD: "%", SizeOp.MIN: " min ", SizeOp.MAX: " max "}[SizeOp(op)]
        return f"({self.size_text(a)}{sign}{self.size_text(b)})"

    def view_text(self, index: int) -> str:
        """A view readably: buffer, dtype and dims."""
        if index < 0:
            return "_"
        view = self.views[index]
        home, at, _ = self.buffers[view.buffer]
        return f"{Home(home).name.lower()}@{self.size_text(at) if home == Home.ARENA else at}:{view.dtype.text}[{', '.join(self.size_text(d) for d in view.dims)}]"


def _divide(divide: Any) -> Any:
    """A division of sizes: divisors are positive, None where one is not."""
    return lambda t, a, b: divide(t[a], t[b]) if t[b] > 0 else None


_SIZE: Mapping[SizeOp, Any] = {
    SizeOp.CONST: lambda t, a, b: a, SizeOp.ADD: lambda t, a, b: t[a] + t[b], SizeOp.SUB: lambda t, a, b: t[a] - t[b], SizeOp.MUL: lambda t, a, b: t[a] * t[b],
    SizeOp.FLOORDIV: _divide(lambda a, b: a // b), SizeOp.CEILDIV: _divide(lambda a, b: -(-a // b)), SizeOp.MOD: _divide(lambda a, b: a % b),
    SizeOp.MIN: lambda t, a, b: min(t[a], t[b]), SizeOp.MAX: lambda t, a, b: max(t[a], t[b]),
}


def _words(values: Sequence[int]) -> bytes:
    return np.array(values, np.int64).astype("<i8").tobytes()


def _view_words(view: ViewRecord) -> list[int]:
    pad = [0] * (RANK - len(view.dims))
    return [view.buffer, int(view.dtype), len(view.dims), view.packing, view.start, view.extent, *view.dims, *pad, *view.strides, *pad]


def _view_record(row: list[int]) -> ViewRecord:
    buffer, dtype, rank, packing, start, extent, *rest = row
    if not 0 <= rank <= RANK or dtype not in DType._value2member_map_:
        raise InvalidModelFile(f"program: a view of rank {rank} and element type {dtype}")
    return ViewRecord(buffer, DType(dtype), tuple(rest[:rank]), tuple(rest[RANK:RANK + rank]), start, extent, packing)


def _port_words(port: PortRecord) -> list[int]:
    return [port.name, int(port.dtype), len(port.dims), port.view, *port.dims, *[0] * (RANK - len(port.dims))]


def _port_record(row: list[int]) -> PortRecord:
    name, dtype, rank, view, *dims = row
    if not 0 <= rank <= RANK or dtype not in DType._value2member_map_:
        raise InvalidModelFile(f"program: a port of rank {rank} and element type {dtype}")
    return PortRecord(name, DType(dtype), view, tuple(dims[:rank]))


def _span(lists: list[int], offset: int, count: int) -> list[int]:
    if not (0 <= offset and 0 <= count and offset + count <= len(lists)):
        raise InvalidModelFile("program: a step's operands lie outside their table")
    return lists[offset:offset + count]


class Tables:
    """Bounds-checked access to the tables of packed bytes: magic number, ABI, `extra` words, then (count, offset in words) of each table. `what`: what the bytes are, in messages."""

    def __init__(self, data: memoryview, what: str, magic: int, abi: int, tables: int, extra: int = 0) -> None:
        head = 2 + extra + 2 * tables
        if len(data) < head * 8:
            raise InvalidModelFile(f"{what}: too short for its header")
        self.data, self.what = data, what
        words = np.frombuffer(data, "<i8", head).tolist()
        if words[0] != magic:
            raise InvalidModelFile(f"{what}: wrong magic number")
        self.abi = (words[1] >> 32, words[1] & 0xFFFFFFFF)
        if self.abi[0] != abi:
            raise InvalidModelFile(f"{what}: ABI {self.abi[0]} is not {abi}, which this version runs; re-plan: sardonyx convert")
        self.extra = words[2:2 + extra]
        self.spans = list(zip(words[2 + extra::2], words[3 + extra::2], strict=True))

    def slice(self, table: int, nbytes: int) -> memoryview:
        """The first bytes of a table."""
        offset = self.spans[table][1] * 8
        if not (0 <= offset and 0 <= nbytes and offset + nbytes <= len(self.data)):
            raise InvalidModelFile(f"{self.what}: table {table} lies outside the {self.what}")
        return self.data[offset:offset + nbytes]

    def rows(self, table: int, width: int) -> list[list[int]]:
        """A table's rows."""
        count = self.spans[table][0]
        if not 0 <= count <= len(self.data) // 8:
            raise InvalidModelFile(f"{self.what}: table {table} claims {count} rows and lies outside the {self.what}")
        found: list[list[int]] = np.frombuffer(self.slice(table, count * width * 8), "<i8").reshape(count, width).tolist()
        return found

    def int32(self, table: int) -> list[int]:
        """A table of 32-bit words."""
        found: list[int] = np.frombuffer(self.slice(table, self.spans[table][0] * 4), "<i4").tolist()
        return found

    def strings(self, offsets: int, text: int, errors: str = "strict") -> list[str]:
        """The strings of two tables: where each begins and ends, and their bytes."""
        at = [r[0] for r in self.rows(offsets, 1)]
        raw = bytes(self.slice(text, self.spans[text][0]))
        if any(not 0 <= a <= b <= len(raw) for a, b in zip(at, at[1:], strict=False)):
            raise InvalidModelFile(f"{self.what}: string offsets are not in order")
        try:
            return [raw[a:b].decode("utf-8", errors) for a, b in zip(at, at[1:], strict=False)]
        except UnicodeDecodeError:
            raise InvalidModelFile(f"{self.what}: a string is not UTF-8") from None
