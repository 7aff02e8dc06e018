"""Packages: what a planned model is. Programs, and the *blocks* that connect them: which program runs when, on which tensors, on which device.

How to think
- A `Block` is straight-line: numbered *slots* hold tensors (element type, dims as numbers, memory), `segments` run one after the other, each reads slots and fills slots, each slot is
  filled once. Inputs come in slots, outputs are read from slots. Nothing in a block needs a graph, a planner or Python: the C engine runs blocks (engine/src/package.c), so does JavaScript
  (through the C engine), and providers/blocks.py on any runner of programs.
- A segment is one program (DO.PROGRAM), or control flow over other blocks (DO.IF, DO.LOOP). Where data decides a size, a segment ends: the next program *binds* the size, either as a dim of
  one of its inputs (SizeOp.DIM) or as an element of a small integer input (SizeOp.ELEMENT: starts of a Slice, the limit of a Range, the count of a NonZero).
- `device` says who runs a program segment. A session hands segments of other devices to its host (NumPy, WebGPU) and goes on when their outputs are there.
- A package has one root block per *variant* (ranges of sizes it was planned for); a run takes the first whose ranges hold. Variants share programs' constants.
- Constants are numbered in the package; a program's DATA buffer n is the package's constant `programs[p].constants[n]`. In a `.sdx` a constant is a range of the tensor data section.

Packed bytes are little-endian int64 words in tables, verified once when opened: every index, every slot written before it is read and of one element type and rank, blocks nested at most
MAX_DEPTH deep and without circles.

    header    magic, ABI (core/program.py), then (count, offset in words) of each table
    programs  (offset in words into `code`, words, constants, n): n numbers of constants begin at `constants` in `lists`
    blocks    (slots, inputs, n, outputs, n, segments, n)
    segments  (do, device, program, inputs, n, outputs, n, blocks, n, params, n, origin): spans of `lists`; a string
    lists     numbers
    variants  (block, ranges): the place in `lists` of (least, most or -1) of every symbol
    constants (offset or -1, bytes, item): where in the tensor data; -1: the host lends it. item > 0: `bytes` bytes, all repeating the one element of `item` bytes that lies there
    inputs, outputs   (name, dtype, rank, dim × 8): dim ≥ 0 a number, -1 without a name, -2 - k symbol k
    symbols   strings
    kinds     (kind, version) of every kernel in use
    packings  (id, version) of every packing in use (model/packing.py)
    strings   offsets, then UTF-8
    code      the packed programs, one after the other
"""
from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .dim import Expr
from .errors import InvalidArgument, InvalidModelFile, NotPlanned
from .graph import Tensor
from .kernels import VERSIONS
from .program import ABI, RANK, Home, Program, SizeOp, Tables
from .types import DType

MAGIC = int.from_bytes(b"SDXPACK1", "little")
MAX_DEPTH = 16
TABLES = 14
#: Version of the packings in use, model/packing.py (floor 4; a test compares).
PACKING_VERSION = 1


class Device(enum.IntEnum):
    """Who runs a program segment."""

    ENGINE = 0
    WEBGPU = 1
    HOST = 2      # NumPy bodies; never stored


class Do(enum.IntEnum):
    """What a segment does."""

    PROGRAM = 0   # `program` on inputs → outputs
    IF = 1        # inputs: (cond, captured…); blocks: (then, else), both take the captured ones; outputs: the taken block's
    LOOP = 2      # see Segment.params


@dataclass(frozen=True)
class Segment:
    """One step of a block. `inputs` (-1: absent, only LOOP's trip and cond) and `outputs` (-1: not wanted) are slots.

    LOOP: inputs (trip, cond, carried × n, scanned × m, captured…), outputs (carried × n, stacked × k), blocks (body,), params (flags, n, m, k, then axis and direction (0 forward 1 reverse) of
    each scanned input and of each stacked output). flags bit 0: the body takes (iteration: int64, cond: bool, both of rank 0) first and gives cond first (Loop); without it neither
    (Scan: as many rounds as the scanned inputs are long; trip and cond are absent). With it, stacks have axis 0 and go forward.
    Body inputs: (iteration, cond)?, carried, one slice of each scanned (its axis gone), captured; body outputs: cond?, carried, one slice of each stacked. A loop with no rounds gives empty
    stacks whose other sizes are the body's where they are numbers, else 0.
    """

    do: Do
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    device: Device = Device.ENGINE
    program: int = -1
    blocks: tuple[int, ...] = ()
    params: tuple[int, ...] = ()
    origin: str = ""            # the nodes it came from, for messages of control flow (programs name their steps themselves)


@dataclass
class Block:
    """Segments over `slots` slots."""

    slots: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    segments: list[Segment] = field(default_factory=list)


@dataclass
class Placed:
    """A program of a package, with which of the package's constants its DATA buffers are."""

    program: Program
    constants: tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of the model. A dim is a number, the name of a size, or "" where the model gave none."""

    name: str
    dtype: DType
    dims: tuple[int | str, ...]

    @classmethod
    def of(cls, name: str, dtype: DType, shape: Sequence[Any]) -> Port:
        """From a shape of Dims."""
        return cls(name, dtype, tuple((lambda text: "" if text.startswith("?") else text)(str(d)) if isinstance(d, Expr) else int(d) for d in shape))


@dataclass(frozen=True)
class Variant:
    """A root block and the sizes it was planned for: least and most (None: any) of each named size of the inputs; a size that is not listed may be any."""

    block: int
    ranges: tuple[tuple[str, int, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a constant lies in the tensor data: `item` > 0: the one element of `item` bytes there, repeated."""

    offset: int
    nbytes: int
    item: int = 0


@dataclass
class Package:
    """Everything a session needs to run a model."""

    programs: list[Placed] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)

    # -- use ---------------------------------------------------------------------------------------------------------------------------------
    def variant(self, shapes: Sequence[Sequence[int]]) -> Variant:
        """The variant for inputs of these shapes; NotPlanned says which sizes there are plans for."""
        if len(shapes) != len(self.inputs) or any(len(s) != len(p.dims) for s, p in zip(shapes, self.inputs, strict=True)):
            raise InvalidArgument(f"the model takes inputs of ranks {[len(p.dims) for p in self.inputs]}, given are shapes {[tuple(s) for s in shapes]}")
        sizes = {d: n for shape, port in reversed(list(zip(shapes, self.inputs, strict=True))) for d, n in reversed(list(zip(port.dims, shape, strict=True))) if isinstance(d, str)}
        for variant in self.variants:
            if all(n not in sizes or (low <= sizes[n] and (high is None or sizes[n] <= high)) for n, low, high in variant.ranges):
                return variant
        planned = "; ".join(", ".join(f"{n}={low}..{'' if high is None else high}" for n, low, high in v.ranges) for v in self.variants)
        raise NotPlanned(f"no plan covers {', '.join(f'{n}={s}' for n, s in sizes.items())}: planned for {planned or 'nothing'}; plan for it: sardonyx convert --plan")

    def forms(self) -> list[tuple[int, int]]:
        """(packing, group) of every constant (Program.form): one for all its uses, so a tensor that is read in two forms is two constants."""
        found: dict[int, tuple[int, int]] = {}
        for placed in self.programs:
            for number, c in enumerate(placed.constants):
                form = placed.program.form(number)
                if found.setdefault(c, form) != form:
                    raise InvalidModelFile(f"package: constant {c} is read in different forms")
        return [found.get(c, (0, 1)) for c in range(len(self.constants))]

    # -- bytes -------------------------------------------------------------------------------------------------------------------------------
    def pack(self, places: Sequence[Place | None] | None = None) -> bytes:
        """The package as bytes; equal packages give equal bytes. `places`: where each constant lies in the tensor data (None: its host lends it)."""
        self.verify()
        lists: list[int] = []
        strings: dict[str, int] = {}

        def span(values: Sequence[int]) -> list[int]:
            lists.extend(values)
            return [len(lists) - len(values), len(values)]

        def text(value: str) -> int:
            return strings.setdefault(value, len(strings))
        names = sorted({d for p in (*self.inputs, *self.outputs) for d in p.dims if isinstance(d, str) and d} | {n for v in self.variants for n, _, _ in v.ranges})
        number = {n: -2 - i for i, n in enumerate(names)}
        programs, code, at = [], [], 0
        for placed in self.programs:
            data = placed.program.pack()
            programs += [at, len(data) // 8, *span(placed.constants)]
            code.append(data)
            at += len(data) // 8
        blocks: list[int] = []
        segments: list[int] = []
        for block in self.blocks:
            blocks += [block.slots, *span(block.inputs), *span(block.outputs), len(segments) // 12, len(block.segments)]
            for s in block.segments:
                if s.device is Device.HOST:
                    raise InvalidArgument(f"a package with segments on the host ({s.origin}) is not stored")
                segments += [int(s.do), int(s.device), s.program, *span(s.inputs), *span(s.outputs), *span(s.blocks), *span(s.params), text(s.origin)]
        variants = []
        for v in self.variants:
            ranges = {n: (low, -1 if high is None else high) for n, low, high in v.ranges}
            variants += [v.block, span([w for n in names for w in ranges.get(n, (0, -1))])[0]]
        stated = places if places is not None else [None] * len(self.constants)
        constants = [w for c, place in zip(self.constants, stated, strict=True) for w in ((-1, c.nbytes, 0) if place is None else (place.offset, place.nbytes, place.item))]
        ports = [[w for p in part for w in (text(p.name), int(p.dtype), len(p.dims), *[d if isinstance(d, int) else number.get(d, -1) for d in p.dims], *[0] * (RANK - len(p.dims)))]
                 for part in (self.inputs, self.outputs)]
        kinds = sorted({step.kind for placed in self.programs for step in placed.program.steps})
        packings = sorted({v.packing for placed in self.programs for v in placed.program.views if v.packing})
        symbols = [text(n) for n in names]
        raw = [s.encode("utf-8", "surrogateescape") for s in strings]
        joined = b"".join(raw)
        tables = [(len(self.programs), _words(programs)), (len(self.blocks), _words(blocks)), (len(segments) // 12, _words(segments)), (len(lists), _words(lists)),
                  (len(self.variants), _words(variants)), (len(self.constants), _words(constants)), (len(self.inputs), _words(ports[0])), (len(self.outputs), _words(ports[1])),
                  (len(symbols), _words(symbols)), (len(kinds), _words([w for k in kinds for w in (int(k), VERSIONS[k])])),
                  (len(packings), _words([w for p in packings for w in (p, PACKING_VERSION)])),
                  (len(raw) + 1, _words(np.cumsum([0, *map(len, raw)]).tolist())), (len(joined), joined + bytes(-len(joined) % 8)), (at, b"".join(code))]
        header, at, body = [MAGIC, ABI[0] << 32 | ABI[1]], 2 + 2 * TABLES, b""
        for count, data in tables:
            header += [count, at + len(body) // 8]
            body += data
        return _words(header) + body

    @classmethod
    def unpack(cls, data: bytes | memoryview, constants: Sequence[Tensor] | None = None) -> Package:
        """The package in bytes, verified; InvalidModelFile names the table and row. `constants`: the tensors, for what needs their values."""
        from_bytes = Reader(memoryview(data))
        package = cls(constants=list(constants or ()))
        lists = [r[0] for r in from_bytes.rows(3, 1)]
        left = [len(lists)]

        def span(at: int, n: int) -> tuple[int, ...]:
            left[0] -= max(n, 0)  # lists have nothing in common: what is made of them is no larger than the file
            if not (0 <= at and 0 <= n and at + n <= len(lists)) or left[0] < 0:
                raise InvalidModelFile("package: a list lies outside its table")
            return tuple(lists[at:at + n])
        for at, n, first, many in from_bytes.rows(0, 4):
            package.programs.append(Placed(Program.unpack(from_bytes.code(at, n)), span(first, many)))
        segments = [Segment(_known(Do, do), span(r[0], r[1]), span(r[2], r[3]), _known(Device, device), program, span(r[4], r[5]), span(r[6], r[7]), from_bytes.text(origin))
                    for do, device, program, *r, origin in from_bytes.rows(2, 12)]
        if any(s.device is Device.HOST or (s.device is not Device.ENGINE and s.do is not Do.PROGRAM) for s in segments):
            raise InvalidModelFile("package: a stored segment runs on the engine, or a program on WebGPU")
        held = 0
        for slots, *r, first, many in from_bytes.rows(1, 7):
            held += max(many, 0)
            if not (0 <= first and 0 <= many and first + many <= len(segments)) or held > len(segments):
                raise InvalidModelFile("package: a block's segments lie outside their table")
            package.blocks.append(Block(slots, span(r[0], r[1]), span(r[2], r[3]), segments[first:first + many]))
        names = from_bytes.symbols
        for block, at in from_bytes.rows(4, 2):
            ranges = span(at, 2 * len(names))
            package.variants.append(Variant(block, tuple((n, low, None if high < 0 else high) for n, low, high in zip(names, ranges[::2], ranges[1::2], strict=True) if (low, high) != (0, -1))))
        if constants is None:
            package.constants = [Tensor(np.zeros(0, np.uint8)) for _ in from_bytes.places]
        package.inputs, package.outputs = from_bytes.ports(6), from_bytes.ports(7)
        package.verify()
        return package

    # -- verification --------------------------------------------------------------------------------------------------------------------------
    def verify(self) -> None:
        """Check every index, every block's slots and types; what holds here, running relies on."""
        for i, placed in enumerate(self.programs):
            wanted = 1 + max((at for home, at, _ in placed.program.buffers if home == Home.DATA), default=-1)
            if wanted > len(placed.constants) or any(not 0 <= c < len(self.constants) for c in placed.constants):
                raise InvalidModelFile(f"package: program {i} refers to constants that are not there")
        types = SlotTypes(self)
        given = [(p.dtype, len(p.dims)) for p in self.inputs]
        if not self.variants:
            raise InvalidModelFile("package: no variants")
        for v in self.variants:
            made = types.block(v.block, given, 0)
            if len(made) != len(self.outputs) or any(t[:2] != (p.dtype, len(p.dims)) and t[0] is not None for t, p in zip(made, self.outputs, strict=True)):
                raise InvalidModelFile(f"package: block {v.block} does not give the outputs of the model")

    # -- printing ------------------------------------------------------------------------------------------------------------------------------
    def __str__(self) -> str:
        lines = [f"package: {len(self.programs)} programs, {len(self.blocks)} blocks, {len(self.constants)} constants"]
        lines += [f"  {what} {p.name}: {p.dtype.text}[{', '.join(str(d) if d != '' else '?' for d in p.dims)}]" for what, part in (("input", self.inputs), ("output", self.outputs)) for p in part]
        lines += [f"  variant {', '.join(f'{n}={low}..{chr(0x221e) if high is None else high}' for n, low, high in v.ranges) or 'all'}: block {v.block}" for v in self.variants]
        for i, block in enumerate(self.blocks):
            lines.append(f"block {i} ({', '.join(f's{s}' for s in block.inputs)}) → {', '.join(f's{s}' for s in block.outputs)}")
            for s in block.segments:
                what = f"program {s.program}" if s.do is Do.PROGRAM else f"{s.do.name.lower()} {', '.join(f'block {b}' for b in s.blocks)}{f' {list(s.params)}' if s.params else ''}"
                where = "" if s.device is Device.ENGINE else f" on {s.device.name.lower()}"
                names = [f"s{n}" if n >= 0 else "_" for n in (*s.outputs, *s.inputs)]
                lines.append(f"  {', '.join(names[:len(s.outputs)])} = {what}({', '.join(names[len(s.outputs):])}){where}" + (f"  # {s.origin}" if s.origin else ""))
        lines += [f"{i}: {str(placed.program)}" for i, placed in enumerate(self.programs)]
        return "\n".join(lines)


#: Element type and rank of a slot with its dims where they are numbers (-1: not known); (None, -1, ()) where a host segment makes it and nothing is known.
SlotType = tuple[DType | None, int, tuple[int, ...]]


class SlotTypes:
    """Types of all slots of the blocks that are reached; InvalidModelFile where a block is not well formed. A block's inputs have one type wherever it is used."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.given: dict[int, list[Any]] = {}
        self.slots: dict[int, list[SlotType | None]] = {}
        self.open: set[int] = set()
        self.height: dict[int, int] = {}

    def block(self, index: int, given: Sequence[tuple[DType | None, int]], depth: int) -> list[SlotType]:
        """The types of a block's outputs."""
        if not 0 <= index < len(self.package.blocks) or depth + self.height.get(index, 0) > MAX_DEPTH or index in self.open:
            raise InvalidModelFile(f"package: block {index} is not there, nested deeper than {MAX_DEPTH} or within itself")
        block = self.package.blocks[index]
        if self.given.setdefault(index, list(given)) != list(given):
            raise InvalidModelFile(f"package: block {index} is used with inputs of different types")
        if index not in self.slots:
            self.open.add(index)
            if len(given) != len(block.inputs) or not 0 <= block.slots <= len(block.inputs) + sum(len(s.outputs) for s in block.segments):
                raise InvalidModelFile(f"package: block {index} takes {len(block.inputs)} inputs in {block.slots} slots, given are {len(given)}")
            slots: list[SlotType | None] = [None] * block.slots
            for slot, (dtype, rank) in zip(block.inputs, given, strict=True):
                self._fill(slots, slot, (dtype, rank, (-1,) * max(rank, 0)), index)
            for number, segment in enumerate(block.segments):
                try:
                    made = self._segment(segment, [self._read(slots, s, segment.do is Do.LOOP and i < 2) for i, s in enumerate(segment.inputs)], depth)
                except (InvalidModelFile, IndexError, ValueError) as error:
                    raise InvalidModelFile(f"package: segment {number} of block {index} is not valid: {str(error).removeprefix('package: ')}") from None
                if len(made) != len(segment.outputs):
                    raise InvalidModelFile(f"package: segment {number} of block {index} has {len(segment.outputs)} outputs where {len(made)} are made")
                for slot, kind in zip(segment.outputs, made, strict=True):
                    if slot != -1:
                        self._fill(slots, slot, kind, index)
            self.slots[index] = slots
            self.height[index] = max((1 + self.height[b] for s in block.segments if s.do is not Do.PROGRAM for b in s.blocks), default=0)
            self.open.discard(index)
        return [self._read(self.slots[index], s, False) for s in block.outputs]  # type: ignore[misc]

    @staticmethod
    def _fill(slots: list[SlotType | None], slot: int, kind: SlotType, block: int) -> None:
        if not 0 <= slot < len(slots) or slots[slot] is not None:
            raise InvalidModelFile(f"package: slot {slot} of block {block} is not there, or filled twice")
        slots[slot] = kind

    @staticmethod
    def _read(slots: list[SlotType | None], slot: int, optional: bool) -> SlotType | None:
        if slot == -1 and optional:
            return None
        kind = slots[slot] if 0 <= slot < len(slots) else None
        if kind is None:
            raise InvalidModelFile(f"package: slot {slot} is read before it is filled")
        return kind

    def _segment(self, s: Segment, inputs: list[SlotType | None], depth: int) -> list[SlotType]:
        if s.do is Do.PROGRAM:
            if s.device is Device.HOST:
                return [(None, -1, ())] * len(s.outputs)
            return self._program(s, inputs)
        if s.do is Do.IF:
            then, other = (self.block(b, [(t[0], t[1]) for t in inputs[1:] if t is not None], depth + 1) for b in _pair(s.blocks))
            if not _scalar(inputs[0], DType.BOOL) or len(then) != len(other) or any(not _alike(a, b) for a, b in zip(then, other, strict=True)):
                raise InvalidModelFile("the branches differ, or the condition is no bool")
            return [a if a == b else (a[0], a[1], tuple(m if m == n else -1 for m, n in zip(a[2], b[2], strict=True))) if a[0] is not None else b for a, b in zip(then, other, strict=True)]
        return self._loop(s, inputs, depth)

    def _program(self, s: Segment, inputs: list[SlotType | None]) -> list[SlotType]:
        if not 0 <= s.program < len(self.package.programs):
            raise InvalidModelFile(f"program {s.program} is not there")
        program = self.package.programs[s.program].program
        if len(inputs) != len(program.inputs) or any(t is None or not _alike(t, (p.dtype, len(p.dims), ())) for t, p in zip(inputs, program.inputs, strict=True)):
            raise InvalidModelFile(f"program {s.program} takes other inputs")
        return [(p.dtype, len(p.dims), tuple(program.sizes[d][1] if program.sizes[d][0] == SizeOp.CONST else -1 for d in p.dims)) for p in program.outputs]

    def _loop(self, s: Segment, inputs: list[SlotType | None], depth: int) -> list[SlotType]:
        loop = LoopParams.of(s)
        if any(t is None for t in inputs[2:]) or (loop.counts and not (_scalar(inputs[0], DType.INT64, True) and _scalar(inputs[1], DType.BOOL, True))):
            raise InvalidModelFile("trip count or condition are not int64 and bool")
        carried, scanned, captured = inputs[2:2 + loop.carried], inputs[2 + loop.carried:2 + loop.carried + loop.scanned], inputs[2 + loop.carried + loop.scanned:]
        given: list[tuple[DType | None, int]] = [(DType.INT64, 0), (DType.BOOL, 0)] if loop.counts else []
        given += [(t[0], t[1]) for t in carried if t is not None]
        for t, (axis, _) in zip(scanned, loop.scans, strict=True):
            assert t is not None
            if t[0] is not None and not 0 <= axis < t[1]:
                raise InvalidModelFile(f"axis {axis} of a scanned input of rank {t[1]}")
            given.append((t[0], t[1] - 1))
        body = self.block(s.blocks[0] if len(s.blocks) == 1 else -1, [*given, *[(t[0], t[1]) for t in captured if t is not None]], depth + 1)
        if loop.counts:
            if not body or not _scalar(body[0], DType.BOOL):
                raise InvalidModelFile("the body's condition is no bool")
            body = body[1:]
        if len(body) != loop.carried + loop.stacked or any(t is None or not _alike(t, b) for t, b in zip(carried, body[:loop.carried], strict=True)):
            raise InvalidModelFile("the body does not give what it is given")
        made: list[SlotType] = [(t[0], t[1], (-1,) * max(t[1], 0)) for t in carried if t is not None]
        for b, (axis, _) in zip(body[loop.carried:], loop.stacks, strict=True):
            if b[0] is not None and not (0 <= axis <= b[1] < RANK):
                raise InvalidModelFile(f"axis {axis} of a stack of rank {b[1] + 1}")
            made.append((b[0], b[1] + 1, (*b[2][:axis], -1, *b[2][axis:])) if b[0] is not None else b)
        return made


@dataclass(frozen=True)
class LoopParams:
    """The parameters of a LOOP segment by name; scans and stacks are (axis, direction)."""

    counts: bool
    carried: int
    scanned: int
    stacked: int
    scans: tuple[tuple[int, int], ...]
    stacks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, s: Segment) -> LoopParams:
        """Checked against the segment's inputs and outputs."""
        p = s.params
        if len(p) < 4 or p[0] not in (0, 1) or min(p[1:4]) < 0 or len(p) != 4 + 2 * (p[2] + p[3]) or len(s.inputs) < 2 + p[1] + p[2] or len(s.outputs) != p[1] + p[3] or len(s.blocks) != 1:
            raise InvalidModelFile("the parameters do not fit the inputs and outputs")
        pairs = tuple(zip(p[4::2], p[5::2], strict=True))
        made = cls(bool(p[0]), p[1], p[2], p[3], pairs[:p[2]], pairs[p[2]:])
        rounds = s.inputs[0] >= 0 or s.inputs[1] >= 0
        if any(d not in (0, 1) for _, d in pairs) or (made.counts and any(pair != (0, 0) for pair in made.stacks)) or (not made.counts and (rounds or not made.scanned)):
            raise InvalidModelFile("an axis or direction is not valid, or nothing says how many rounds")
        return made


def _pair(blocks: tuple[int, ...]) -> tuple[int, int]:
    if len(blocks) != 2:
        raise InvalidModelFile("If has two blocks")
    return blocks[0], blocks[1]


def _scalar(t: SlotType | None, dtype: DType, absent: bool = False) -> bool:
    return absent if t is None else t[0] is None or (t[0] is dtype and t[1] <= 1)


def _alike(a: SlotType, b: SlotType) -> bool:
    return a[0] is None or b[0] is None or a[:2] == b[:2]


def _known(kind: Any, value: int) -> Any:
    if value not in kind._value2member_map_:
        raise InvalidModelFile(f"package: {kind.__name__.lower()} {value} is not known")
    return kind(value)


def _words(values: Sequence[int]) -> bytes:
    return np.array(values, np.int64).astype("<i8").tobytes()


class Reader(Tables):
    """Access to a package's bytes that opens in no time: ports, kinds and places of constants without the programs."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data, "package", MAGIC, ABI[0], TABLES)

    def code(self, at: int, n: int) -> memoryview:
        """A program's bytes."""
        count, start = self.spans[13]
        if not (0 <= at and 0 <= n and at + n <= count and 0 <= start and (start + count) * 8 <= len(self.data)):
            raise InvalidModelFile("package: a program lies outside its table")
        return self.data[(start + at) * 8:(start + at + n) * 8]

    def text(self, index: int) -> str:
        """A string."""
        if not hasattr(self, "_strings"):
            self._strings = self.strings(11, 12, "surrogateescape")
        if not 0 <= index < len(self._strings):
            raise InvalidModelFile(f"package: string {index} is not there")
        return self._strings[index]

    @property
    def symbols(self) -> list[str]:
        """Names of sizes."""
        return [self.text(r[0]) for r in self.rows(8, 1)]

    def ports(self, table: int) -> list[Port]:
        """The inputs (table 6) or outputs (7)."""
        names, found = self.symbols, []
        for name, dtype, rank, *dims in self.rows(table, 3 + RANK):
            if not 0 <= rank <= RANK or dtype not in DType._value2member_map_ or any(-2 - d >= len(names) for d in dims[:rank]):
                raise InvalidModelFile(f"package: an input or output of rank {rank} and element type {dtype}")
            found.append(Port(self.text(name), DType(dtype), tuple(d if d >= 0 else "" if d == -1 else names[-2 - d] for d in dims[:rank])))
        return found

    @property
    def places(self) -> list[Place | None]:
        """Where the constants lie."""
        return [None if at < 0 else Place(at, n, item) for at, n, item in self.rows(5, 3)]

    def stale(self) -> str:
        """Why kernels or packings are not those of this version, or ""."""
        kinds = {int(k): v for k, v in VERSIONS.items()}
        for kind, version in self.rows(9, 2):
            if kinds.get(kind) != version:
                return f"kernel kind {kind} version {version} is not known to this version of sardonyx"
        other = next((r for r in self.rows(10, 2) if r[1] != PACKING_VERSION), None)
        return f"packing {other[0]} version {other[1]} is not known to this version of sardonyx" if other else ""


def merged(packages: Sequence[tuple[Package, Mapping[str, tuple[int, int | None]]]]) -> Package:
    """One package of several planned for different ranges of the same model's sizes; equal constants exist once."""
    out = Package(inputs=packages[0][0].inputs, outputs=packages[0][0].outputs)
    known: dict[Any, int] = {}
    for package, ranges in packages:
        numbers = []
        for tensor, form in zip(package.constants, package.forms(), strict=True):
            key = (id(tensor), form)
            if key not in known:
                known[key] = len(out.constants)
                out.constants.append(tensor)
            numbers.append(known[key])
        programs, blocks = len(out.programs), len(out.blocks)
        out.programs += [Placed(p.program, tuple(numbers[c] for c in p.constants)) for p in package.programs]
        for block in package.blocks:
            moved = [Segment(s.do, s.inputs, s.outputs, s.device, s.program + programs if s.program >= 0 else -1, tuple(b + blocks for b in s.blocks), s.params, s.origin) for s in block.segments]
            out.blocks.append(Block(block.slots, block.inputs, block.outputs, moved))
        stated = tuple((n, low, high) for n, (low, high) in sorted(ranges.items()))
        out.variants += [Variant(v.block + blocks, v.ranges or stated) for v in package.variants]
    return out
