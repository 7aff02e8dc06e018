"""Stage 2, cut: the calls of a graph become blocks of segments (core/package.py): programs, and between them what no program does.

Rules
1. Calls that lead to no output, to no size that is used and to no other needed call are dropped.
2. Every call has a level. A kernel call may stand in one program with the calls that write what it reads; a call outside of programs (control flow, a node of the host) may not, and
   neither may a call that uses a symbol with the call that writes the element which decides it: those stand at least a level later. Nodes of the host that feed each other stay together.
3. Calls that write parts of one buffer stand at one level. Aliases stand wherever a reader of theirs stands.
4. The kernel calls of a level are one program (those that only the engine beside the device takes another one); so are, as one segment, the host's nodes of a level; each If, Loop and
   Scan is a segment.
5. What crosses from one segment to another, and what a block gives, is a whole buffer in a slot. A block's output that is none takes a Copy; one that is an input of a nested block is
   that input's slot.
6. A program gets, besides what it reads, a tensor for each symbol it uses that no dim of its inputs is: one with such a dim, or the one whose element decides it.
7. Bodies of control flow are blocks whose inputs are the body's, then what it captures: buffers of the blocks around it, and what binds the symbols it uses.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..dim import Expr, Shape, Symbol, symbols
from ..errors import InvalidGraph
from ..graph import Graph, Node
from ..kernels import Kernel
from ..lowering import Body, Buffer, KernelCall, Opaque, Outside, View, is_alias, root
from ..package import Block, Device, Do, Segment
from ..types import DType
from .lower import Lowered


@dataclass(frozen=True)
class Source:
    """What binds a symbol: a dim (`element` False) or an element of a buffer."""

    buffer: Buffer
    number: int
    element: bool


@dataclass
class Cut:
    """Blocks, the programs their segments run, the graphs of the host's nodes (numbered by `program` of a HOST segment), and what each block's outputs are."""

    blocks: list[Block] = field(default_factory=list)
    programs: list[Lowered] = field(default_factory=list)
    hosted: list[Graph] = field(default_factory=list)
    types: list[list[tuple[DType, Shape]]] = field(default_factory=list)
    root: int = -1
    device: Device = Device.ENGINE


def cut(lowered: Lowered, device: Device = Device.ENGINE) -> Cut:
    """The blocks of a whole graph, its programs for `device`."""
    made = Cut(device=device)
    inputs = [v.buffer for v in lowered.inputs]
    calls = list(lowered.calls)
    for buffer in inputs:
        buffer.port = None  # the ports of programs are given anew
    made.root = _Cutter(made, lowered.decided).block(Body(inputs, calls, lowered.outputs), {}, {}, inputs, lowered.output_names)
    if [s.device is not Device.HOST for s in made.blocks[made.root].segments] == [True] and len(made.blocks) == 1:
        _as_graph(made, lowered)
    return made


def _as_graph(made: Cut, lowered: Lowered) -> None:
    """A graph that is one program: that takes all inputs and gives the outputs as the graph does."""
    block, program = made.blocks[0], made.programs[0]
    segment = block.segments[0]
    views = dict(zip(segment.inputs, program.inputs, strict=True))
    results = dict(zip(segment.outputs, program.outputs, strict=True))
    numbers = {port: slot for slot, port in zip(segment.inputs, range(len(segment.inputs)), strict=True)}
    program.elements = {name: (numbers[port], element) for name, (port, element) in program.elements.items()}
    program.inputs = [views[slot] if slot in views else Buffer(view.buffer.name, view.dtype, view.shape).whole() for slot, view in enumerate(lowered.inputs)]
    for i, view in enumerate(program.inputs):
        view.buffer.port = ("input", i)
    program.outputs = [results[slot] for slot in block.outputs]
    program.input_names, program.output_names = lowered.input_names, lowered.output_names
    block.segments[0] = replace(segment, inputs=block.inputs, outputs=block.outputs)


Aliases = Mapping[Buffer, KernelCall]
Sources = Mapping[str, Source]


@dataclass
class _Unit:
    """What is placed as one: a kernel call or a call outside of programs, with the buffers that must be there first."""

    call: KernelCall
    kind: int
    reads: set[Buffer]                     # buffers whose content it needs
    asks: set[Buffer]                      # buffers that bind symbols it uses
    names: set[str]                        # those symbols
    level: int = 0


#: Kinds of units, in the order those of a level run.
PLANNED, BESIDE, HOST, CONTROL = range(4)


class _Cutter:
    def __init__(self, made: Cut, decided: Mapping[str, tuple[View, int]]) -> None:
        self.made, self.decided = made, decided
        self.names_of: dict[Any, frozenset[str]] = {}

    # -- what calls use ------------------------------------------------------------------------------------------------------------------------
    def speaks(self, size: Any) -> frozenset[str]:
        """Names of the symbols in a size."""
        found = self.names_of.get(size)
        if found is None:
            found = self.names_of[size] = frozenset(s.name for s in symbols(size))
        return found

    def symbols_of_view(self, view: View, found: set[str]) -> None:
        for size in view.buffer.shape:
            if isinstance(size, Expr):
                found |= self.speaks(size)
        for axis in view.axes:
            for size in (axis.size, axis.start, axis.step):
                if isinstance(size, Expr):
                    found |= self.speaks(size)
        for _, at in view.fixed:
            if isinstance(at, Expr):
                found |= self.speaks(at)

    def symbols_of(self, call: KernelCall) -> set[str]:
        """Names of the symbols a kernel call uses."""
        found: set[str] = set()
        for view in (*call.inputs, *call.outputs):
            if view is not None:
                self.symbols_of_view(view, found)
        for value in call.params.values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, Expr):
                    found |= self.speaks(item)
        return found

    def free(self, body: Body, aliases: Aliases, outer: Sources) -> tuple[dict[Buffer, None], set[str]]:     # 7
        """The buffers a body reads that it does not make, and the symbols it uses that `outer` binds and none of its inputs does."""
        aliases = {**aliases, **{c.outputs[0].buffer: c for c in body.calls if is_alias(c)}}
        own = set(body.inputs) | {v.buffer for c in body.calls for v in c.outputs}
        read: dict[Buffer, None] = {}
        used: set[str] = set()
        sources = self.sources(body, outer)

        def reads(view: View) -> None:
            self.symbols_of_view(view, used)
            at = view.buffer
            while at not in own and at in aliases:
                used.update(self.symbols_of(aliases[at]))
                at = aliases[at].inputs[0].buffer  # type: ignore[union-attr]
            if at not in own and root(at).tensor is None:
                read[at] = None
        for call in body.calls:
            if isinstance(call, Outside):
                for inner in call.bodies:
                    more, names = self.free(inner, aliases, sources)
                    for buffer in more:
                        reads(View(buffer, ()))
                    used |= names
            else:
                used |= self.symbols_of(call)
            for view in call.inputs:
                if view is not None:
                    reads(view)
        for view in body.outputs:
            reads(view)
        return read, {name for name in used if name in outer and sources[name] is outer[name]}

    def sources(self, body: Body, outer: Sources) -> dict[str, Source]:
        """What binds symbols in a body: dims of its inputs; what binds them around it; elements, and dims of what control flow and the host make."""
        found: dict[str, Source] = {}
        own = set(body.inputs)
        for call in body.calls:
            own.update(v.buffer for v in call.outputs)
        for buffer in body.inputs:
            _dims(buffer, found)
        found = {**outer, **found}
        for name, (view, element) in self.decided.items():
            if root(view.buffer) in own:
                found.setdefault(name, Source(root(view.buffer), element, True))
        for call in body.calls:
            if isinstance(call, Outside):
                for view in call.outputs:
                    _dims(view.buffer, found)
        return found

    # -- blocks -----------------------------------------------------------------------------------------------------------------------------------
    def block(self, body: Body, outer: Sources, aliases: Aliases, inputs: Sequence[Buffer], names: Sequence[str] | None = None) -> int:
        """Cut one body into a block whose inputs are `inputs` (the body's, then captured ones); its number. `names`: of the outputs, for the outermost block."""
        outputs = self.own_outputs(body, set(inputs), names)                                              # 5
        sources = self.sources(Body(list(inputs), body.calls, []), outer)
        aliases = {**aliases, **{c.outputs[0].buffer: c for c in body.calls if is_alias(c)}}
        units = self.units(body, outputs, sources, aliases)
        levels(units)
        block = Block(0, tuple(range(len(inputs))), ())
        number = len(self.made.blocks)
        self.made.blocks.append(block)
        self.made.types.append([(v.dtype, v.shape) for v in outputs])
        scope = _Scope(sources, aliases, {b: i for i, b in enumerate(inputs)}, _crossing(units) | {v.buffer for v in outputs})
        groups: dict[tuple[int, int], list[_Unit]] = {}
        for unit in units:
            groups.setdefault((unit.level, unit.kind), []).append(unit)
        for (_, kind), members in sorted(groups.items(), key=lambda item: item[0]):                       # 4
            if kind in (PLANNED, BESIDE):
                block.segments.append(self.program(members, scope, self.made.device if kind == PLANNED else Device.ENGINE))
            elif kind == HOST:
                block.segments.append(self.host(members, scope))
            else:
                block.segments += [self.control(unit, scope) for unit in members]
        block.slots = len(scope.slots)
        block.outputs = tuple(scope.slots[v.buffer] for v in outputs)
        return number

    def own_outputs(self, body: Body, given: set[Buffer], names: Sequence[str] | None) -> list[View]:
        """The body's outputs as buffers of slots: of the outermost block each one's own, so that nothing given or returned is shared."""
        made: list[View] = []
        taken: set[Buffer] = set()
        written = {v.buffer for c in body.calls if not is_alias(c) for v in c.outputs}
        for i, view in enumerate(body.outputs):
            buffer = view.buffer
            there = buffer in written or (buffer in given and names is None)
            if isinstance(buffer, Opaque) or (view.is_whole and there and (names is None or buffer not in taken)):
                made.append(view)
            else:
                own = Buffer(names[i] if names is not None else buffer.name, view.dtype, view.shape)
                body.calls.append(KernelCall(Kernel.COPY, [view, None], [own.whole()], {"mode": 0, "begin": [0] * view.rank}))
                made.append(own.whole())
            taken.add(buffer)
        return made

    def units(self, body: Body, outputs: Sequence[View], sources: Sources, aliases: Aliases) -> list[_Unit]:                          # 1
        """The needed calls, in order, with what each needs first."""
        needed = {v.buffer for v in outputs}
        kept: list[_Unit] = []

        def base(buffer: Buffer, names: set[str]) -> Buffer:
            while buffer in aliases:
                names |= self.symbols_of(aliases[buffer])
                buffer = aliases[buffer].inputs[0].buffer  # type: ignore[union-attr]
            return buffer
        for view in outputs:
            needed |= {_source(name, sources, view).buffer for d in view.shape if isinstance(d, Expr) for name in self.speaks(d)}
        for call in reversed(body.calls):
            if is_alias(call) or not any(v.buffer in needed for v in call.outputs):
                continue
            names: set[str] = set()
            reads = {base(v.buffer, names) for v in call.inputs if v is not None}
            if isinstance(call, Outside):
                for inner in call.bodies:
                    more, used = self.free(inner, aliases, sources)
                    reads |= {base(b, names) for b in more}
                    names |= used
            else:
                names |= self.symbols_of(call)
            reads = {b for b in reads if b.tensor is None}
            asks = {_source(name, sources, call).buffer for name in names}
            kept.append(_Unit(call, (CONTROL if call.bodies else HOST) if isinstance(call, Outside) else BESIDE if call.beside else PLANNED, reads, asks, names))
            needed |= reads | asks
        return kept[::-1]

    # -- segments -------------------------------------------------------------------------------------------------------------------------------
    def program(self, members: Sequence[_Unit], scope: _Scope, device: Device) -> Segment:
        """The kernel calls of a level as one program."""
        work = _Program({v.buffer for u in members for v in u.call.outputs}, scope.aliases)
        for unit in members:
            call = unit.call
            call.inputs = [None if v is None else work.view(v) for v in call.inputs]
            work.calls.append(call)
        used = {name for unit in members for name in unit.names}
        elements: dict[str, Buffer] = {}
        seen = 0
        bound: set[str] = set()
        while True:                                                                                       # 6
            for buffer in list(work.ports)[seen:]:
                used |= {name for size in buffer.shape if isinstance(size, Expr) for name in self.speaks(size)}
                bound |= {str(size) for size in buffer.shape if _is_symbol(size)}
            seen = len(work.ports)
            missing = min(used - bound, default=None)
            if missing is None:
                break
            source = _source(missing, scope.sources, work.calls[-1])
            if source.element:
                elements[missing] = source.buffer
            bound.add(missing)
            work.buffer(source.buffer)
        ports = list(work.ports)
        for i, buffer in enumerate(ports):
            work.ports[buffer].port = ("input", i)
        outputs = [b for b in dict.fromkeys(v.buffer for u in members for v in u.call.outputs) if b in scope.crossing]
        self.made.programs.append(Lowered(
            work.calls, [work.ports[b].whole() for b in ports], [b.whole() for b in outputs], [b.name for b in ports], [b.name for b in outputs],
            elements={name: (ports.index(b), scope.sources[name].number) for name, b in elements.items()}))
        return Segment(Do.PROGRAM, tuple(scope.slots[b] for b in ports), scope.fill(outputs), device, len(self.made.programs) - 1)

    def host(self, members: Sequence[_Unit], scope: _Scope) -> Segment:
        """The host's nodes of a level as one graph."""
        nodes: list[Node] = []
        given: dict[Any, int] = {}
        made: dict[Any, Buffer] = {}
        for unit in members:
            call = unit.call
            assert isinstance(call, Outside)
            for value, view in zip(call.values, call.inputs, strict=True):
                if value not in made:
                    given[value] = scope.slots[view.buffer]  # type: ignore[union-attr]
            made.update(zip([v for v in call.node.outputs if v is not None], [v.buffer for v in call.outputs], strict=True))
            nodes.append(call.node)
        outputs = {value: buffer for value, buffer in made.items() if buffer in scope.crossing}
        self.made.hosted.append(Graph(nodes[0].label, list(given), list(outputs), nodes))
        return Segment(Do.PROGRAM, tuple(given.values()), scope.fill(outputs.values()), Device.HOST, len(self.made.hosted) - 1, origin="+".join(o for n in nodes for o in n.origin))

    def control(self, unit: _Unit, scope: _Scope) -> Segment:                                             # 7
        """An If, Loop or Scan with the blocks of its bodies."""
        call = unit.call
        assert isinstance(call, Outside)
        captured: dict[Buffer, None] = {}
        for body in call.bodies:
            reads, names = self.free(body, scope.aliases, scope.sources)
            captured.update(reads)
            captured.update(dict.fromkeys(_source(name, scope.sources, call).buffer for name in sorted(names)))
        blocks = tuple(self.block(body, scope.sources, scope.aliases, [*body.inputs, *captured]) for body in call.bodies)
        inputs = [-1 if v is None else scope.slots[v.buffer] for v in call.inputs] + [scope.slots[b] for b in captured]
        # An output nobody reads has no slot.
        outputs = tuple(scope.fill([v.buffer])[0] if v.buffer in scope.crossing else -1 for v in call.outputs)
        return Segment(Do.IF if call.kind is Kernel.IF else Do.LOOP, tuple(inputs), outputs, blocks=blocks, params=call.flags, origin="+".join(call.origin))


@dataclass
class _Scope:
    """What the segments of a block share: what binds symbols, aliases, buffer → slot, and the buffers that cross from a segment to another or out."""

    sources: Sources
    aliases: Aliases
    slots: dict[Buffer, int]
    crossing: set[Buffer]

    def fill(self, buffers: Iterable[Buffer]) -> tuple[int, ...]:
        """New slots for buffers a segment makes."""
        made = []
        for buffer in buffers:
            made.append(self.slots.setdefault(buffer, len(self.slots)))
        return tuple(made)


class _Program:
    """The buffers of one program: its own for what comes from elsewhere (`ports`: the block's → its own), and aliases, made where they are first read."""

    def __init__(self, written: set[Buffer], aliases: Aliases) -> None:
        self.written, self.aliases = written, aliases
        self.calls: list[KernelCall] = []
        self.ports: dict[Buffer, Buffer] = {}
        self.made: dict[Buffer, Buffer] = {}

    def buffer(self, buffer: Buffer) -> Buffer:
        """The program's own buffer for one of the block's."""
        if buffer in self.written or buffer.tensor is not None and buffer not in self.aliases:
            return buffer
        found = self.made.get(buffer)
        if found is not None:
            return found
        alias = self.aliases.get(buffer)
        if alias is not None:
            source = alias.inputs[0]
            assert source is not None
            own = self.buffer(source.buffer)
            found = Buffer(buffer.name, buffer.dtype, buffer.shape, alias=own)
            self.calls.append(KernelCall(None, [replace(source, buffer=own)], [found.whole()], origin=alias.origin))
        else:
            found = self.ports[buffer] = Buffer(buffer.name, buffer.dtype, buffer.shape)
        self.made[buffer] = found
        return found

    def view(self, view: View) -> View:
        """A view on the program's own buffer."""
        own = self.buffer(view.buffer)
        return view if own is view.buffer else replace(view, buffer=own)


def levels(units: Sequence[_Unit]) -> None:                                                               # 2
    """Set every unit's level."""
    together: dict[Buffer, int] = {}
    changed = True
    while changed:                                                                                        # 3: until the writers of each buffer agree
        changed = False
        at: dict[Buffer, tuple[int, int]] = {}   # buffer → (level, kind) of what makes it
        for unit in units:
            level = max((together.get(v.buffer, 0) for v in unit.call.outputs), default=0)
            for buffer in unit.reads:
                if buffer in at:
                    made, by = at[buffer]
                    level = max(level, made if by == unit.kind != CONTROL else made + 1)
            unit.level = level = max([level, *(at[b][0] + 1 for b in unit.asks if b in at)])
            for view in unit.call.outputs:
                buffer = view.buffer
                if buffer in at and at[buffer][0] != level:
                    changed = True
                together[buffer] = max(level, together.get(buffer, 0))
                at[buffer] = (together[buffer], unit.kind)


def _crossing(units: Sequence[_Unit]) -> set[Buffer]:
    """Buffers made in one segment and needed in another."""
    home = {v.buffer: (u.level, u.kind) for u in units for v in u.call.outputs}
    found: set[Buffer] = set()
    for unit in units:
        found |= unit.asks
        found |= {b for b in unit.reads if home.get(b) != (unit.level, unit.kind) or unit.kind == CONTROL}
    return found


def _source(name: str, sources: Sources, user: object) -> Source:
    found = sources.get(name)
    if found is None:
        raise InvalidGraph(f"{user}: size '{name}' is neither a size of an input nor decided by a tensor")
    return found


def _is_symbol(size: object) -> bool:
    """Whether a size is nothing but one symbol."""
    return isinstance(size, Expr) and len(size.terms) == 1 and size.terms[0][1] == 1 and len(size.terms[0][0]) == 1 and isinstance(size.terms[0][0][0], Symbol)


def _dims(buffer: Buffer, found: dict[str, Source]) -> None:
    for axis, size in enumerate(buffer.shape):
        if _is_symbol(size):
            found.setdefault(str(size), Source(buffer, axis, False))
