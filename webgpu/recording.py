"""What a run of a planned Program on a GPU is, as data: `record(program, constants, limits, cpu)` needs no device. `executor.py` plays it on the desktop, wasm/js/gpu-program.js in a page.

A recording is shaders, buffers and dispatches. Whatever depends on sizes is a row of the size table (core/program.py), which recording extends: bind evaluates it (in Python or C), and a player
only reads: uniforms, workgroup counts, bytes.

Memory (disjoint slabs, because one buffer may not be bound for reading and for writing in a dispatch)
- Every intermediate lies in a *slab*, a GPU buffer of its own, shared by intermediates whose lifetimes do not meet. The Program's arena offsets are not used: elements have other sizes
  here (`wgsl/storage.py`), and what a dispatch reads and writes then always lies in different buffers. The price: no in-place Maps.
- Inputs and outputs have a slab each. Constants above `POOLED` bytes have buffers of their own; the small ones lie together, one buffer a WGSL type, so that a dispatch with many of them can bind one.
- Buffers are numbered: slabs first, then constants, then the status word.
- Where all that reads an input is one copy of the whole of it to an output (a cache that a step adds to: `Same`), both may be one buffer: the player then leaves that dispatch out.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..dim import Dim, Expr, bounds, product, substitute, symbols
from ..graph import Tensor
from ..kernels import Kernel
from ..lowering import CannotLower
from ..model.packing import Packing, pack, packed_shape
from ..program import Home, Program, SizeOp, ViewRecord
from ..types import DType
from .device.base import Limits
from .kernels import build
from .kernels.merge import merge
from .kernels.tiles import Tile
from .kernels.together import MOST, together
from .steps import REACH, ProgramSteps, Sizes, assumed, constant_interval
from .wgsl.shader import STATUS, Built, Context, share
from .wgsl.space import Operand, Part, Pooled, Temporary, dense
from .wgsl.storage import PACKED, interval, upload, word, word_bytes

#: Constants of at most this many bytes lie together.
POOLED = 1 << 16
LARGEST_HALF = np.float32(65504)
#: The operand of attention that is its past.
PAST = 4
#: Bytes at which constants of a pool begin.
PART = 16


@dataclass(frozen=True)
class Form:
    """How a constant lies: plain, or packed for `group` groups (core/model/packing.py); `half`: floats as f16, finite ones at most its largest."""

    packing: Packing = Packing.NONE
    group: int = 1
    half: bool = False

    def bytes(self, tensor: Tensor) -> np.ndarray:
        """What is uploaded. Where the file has it in this form, it is the mapped file itself."""
        if self.packing is Packing.NONE:
            array = tensor.numpy()
        else:
            stored = tensor.storage
            there = stored is not None and (stored.packing, stored.group) == (self.packing, self.group)
            bits = stored.data if there else pack(np.ascontiguousarray(tensor.numpy()), self.packing, self.group)
            array = bits.view(np.uint8 if self.packing is Packing.NIBBLES else tensor.dtype.numpy)
        if self.half and tensor.dtype is DType.FLOAT:
            return upload(np.where(np.isfinite(array), np.clip(array, -LARGEST_HALF, LARGEST_HALF), array).astype(np.float16), DType.FLOAT16)
        return upload(array, tensor.dtype)

    def element_bytes(self, tensor: Tensor) -> int:
        """Bytes an element takes."""
        return 2 if self.half else word_bytes(tensor.dtype, True)

    def count(self, tensor: Tensor) -> int:
        """Elements of that."""
        if self.packing is Packing.NONE:
            return tensor.size
        return math.prod(packed_shape(self.packing, tensor.dtype.numpy.itemsize, tensor.shape, self.group)) * (4 if self.packing is Packing.NIBBLES else 1)


@dataclass(frozen=True)
class Constant:
    """A buffer that is filled once: one tensor in a form (of one too large for a binding, `count` elements from `first`), or a pool of small ones, each at a multiple of PART bytes."""

    parts: tuple[tuple[Tensor, Form], ...]
    pooled: bool
    first: int = 0
    count: int = 0

    @property
    def key(self) -> Any:
        """What equal buffers of a session have in common."""
        return (self.first, self.count, *((id(tensor), form) for tensor, form in self.parts))

    def bytes(self) -> np.ndarray:
        """What is uploaded."""
        if not self.pooled:
            tensor, form = self.parts[0]
            data = form.bytes(tensor)
            each = form.element_bytes(tensor)
            return data if not self.count else data.view(np.uint8).reshape(-1)[self.first * each:(self.first + self.count) * each]
        pieces = [form.bytes(tensor).view(np.uint8).reshape(-1) for tensor, form in self.parts]
        return np.concatenate([np.concatenate([p, np.zeros(-p.size % PART, np.uint8)]) for p in pieces])


@dataclass
class Slab:
    """Memory of a run: (row, bytes each) of everything that lies there in turn; `most`: bytes it will ever take, infinity where no size is bounded."""

    most: float
    tenants: list[tuple[int, int]] = field(default_factory=list)

    def bytes(self, table: Any) -> int:
        """What it takes at these sizes."""
        return max(int(table[row]) * each for row, each in self.tenants)


@dataclass(frozen=True)
class Shader:
    """A WGSL module with the entry point `main`; binding 0 is its uniform block, `writes[i]` says whether storage binding i + 1 is written."""

    source: str
    writes: tuple[bool, ...]


@dataclass(frozen=True)
class Dispatch:
    """One dispatch: the size rows of its uniforms, the row of how many workgroups it takes, the buffers it binds in order, the number of the program's step it
    belongs to, what its tile was chosen by, and the row of its loops' turns where a run may have too many for the driver (-1: no)."""

    shader: int
    uniforms: tuple[int, ...]
    groups: int
    buffers: tuple[int, ...]
    label: str
    step: int = 0
    tile: str = ""
    turns: int = -1


@dataclass(frozen=True)
class Input:
    """An input: its slab (-1: it only decides sizes) and the numbers it may hold (None: any)."""

    slab: int
    dtype: DType
    allowed: tuple[int, int] | None


@dataclass(frozen=True)
class Output:
    """An output: its slab, and the rows of its dims."""

    slab: int
    dtype: DType
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Same:
    """An input and an output that may be one buffer when their sizes are equal; the dispatch that copies the one to the other is then left out."""

    input: int
    output: int
    dispatch: int


@dataclass
class Recording:
    """See the head of this module. `steps`: the nodes of each step, which the status word names."""

    shaders: list[Shader] = field(default_factory=list)
    slabs: list[Slab] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    same: list[Same] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The number of the status word's buffer."""
        return len(self.slabs) + len(self.constants)


def record(program: Program, constants: Sequence[Tensor], limits: Limits, cpu: bool, sizes: Sizes | None = None, tiles: Mapping[str, Tile] | None = None, features: frozenset[str] = frozenset(),
           precision: str = "f32", several: bool = False, counted: bool = False) -> tuple[Recording, Sizes]:
    """The recording for devices with these limits (`cpu`: a software adapter: kernels without barriers; `tiles`: choices that were measured; `features`: of `Context`; `precision` "f16", which takes
    shader-f16: how float32 lies; `several`, `counted`: of `Context`), and the program's sizes with the rows it needs. CannotLower says why there is none."""
    sizes = sizes or Sizes(program)
    narrow = _narrow(program, constants, features, precision)
    decoding = any(step.kind is Kernel.ATTENTION and len(step.inputs) > PAST and step.inputs[PAST] >= 0 for step in program.steps)
    while True:
        context = Context(limits, cpu, uppers=sizes.ranges, tiles={} if tiles is None else tiles, half=narrow.half, features=features, decoding=decoding, several=several, counted=counted)
        reach, built = _build(program, constants, sizes, context, narrow)
        if not context.refused:
            copies = _whole_copies(program, built)
            if not cpu and not getattr(tiles, "measuring", False):
                built = merge(built, context, {id(b) for _, _, b in copies})
            return _Recorder(program, constants, sizes, reach, built, copies, narrow).recording, sizes
        narrow = Narrow(narrow.bytes - context.refused, narrow.half - context.refused)


class _Recorder:
    def __init__(self, program: Program, constants: Sequence[Tensor], sizes: Sizes, reach: int, steps: list[list[Built]], copies: list[tuple[int, int, Built]],
                 narrow: Narrow) -> None:
        self.program, self.sizes, self.narrow = program, sizes, narrow
        self.built = [b for step in steps for b in step]
        self.recording = made = Recording(steps=[program.strings[s.origin] for s in program.steps])
        homes = [Home(b[0]) for b in program.buffers]
        outputs = [program.views[p.view].buffer for p in program.outputs]
        numbers = self._place(homes, outputs)
        for key, constant in self._constants(constants).items():
            numbers[key] = len(made.slabs) + len(made.constants)
            made.constants.append(constant)
        numbers[STATUS] = made.status
        shaders: dict[Shader, int] = {}
        for (number, b), (source, params) in zip(((n, b) for n, step in enumerate(steps) for b in step), share(self.built), strict=True):
            shader = Shader(source, tuple(w for _, w in b.bindings))
            buffers = tuple(numbers[key.pool if isinstance(key, Pooled) else key] for key, _ in b.bindings)
            made.dispatches.append(Dispatch(shaders.setdefault(shader, len(shaders)), tuple(sizes.row(d) for d in params), sizes.row(b.groups), buffers, b.label, number, b.tile,
                                            -1 if b.turns is None else sizes.row(b.turns)))
        made.shaders = list(shaders)
        ports = {at: row for row, (home, at, _) in enumerate(program.buffers) if home == Home.INPUT}
        for i, port in enumerate(program.inputs):
            wide = port.dtype in (DType.INT64, DType.UINT64)
            made.inputs.append(Input(numbers.get(ports.get(i), -1), port.dtype, assumed(port.dtype, reach) if wide else None))
        made.outputs = [Output(numbers[row], port.dtype, port.dims) for row, port in zip(outputs, program.outputs, strict=True)]
        at = {id(b): i for i, b in enumerate(self.built)}
        rows = {row: i for i, row in enumerate(outputs)}
        made.same = [Same(source, rows[target], at[id(b)]) for source, target, b in copies]

    def _place(self, homes: list[Home], outputs: Sequence[int]) -> dict[Any, int]:
        """Lifetimes, then slabs: shared objects by size or in the order of first use (Pisarchyk & Lee, 2020), whichever takes less. Returns buffer → slab."""
        types: dict[int, DType] = {}
        for view in self.program.views:
            types.setdefault(view.buffer, view.dtype)
        lives: dict[Any, list[int]] = {}
        for i, b in enumerate(self.built):
            for key, _ in b.bindings:
                if isinstance(key, Temporary) or (isinstance(key, int) and homes[key] is not Home.DATA):
                    lives.setdefault(key, [i, i])[1] = i
        for row in outputs:
            lives.setdefault(row, [0, 0])
        slots = {key: self._slot(key, types, homes) for key in lives}
        estimates = {key: _estimate(count) * each for key, (count, each, _) in slots.items()}
        orders = (sorted(slots, key=lambda k: -estimates[k]), sorted(slots, key=lambda k: (lives[k][0], -estimates[k])))
        placed = min((_share(order, estimates, lives, {k for k in slots if slots[k][2]}, tight) for order in orders for tight in (True, False)), key=lambda found: found[1])[0]
        self.recording.slabs += [Slab(0.0) for _ in range(len(set(placed.values())))]
        for key, number in placed.items():
            count, each, _ = slots[key]
            slab, high = self.recording.slabs[number], bounds(count, self.sizes.ranges)[1]
            slab.most = max(slab.most, math.inf if high is None else float(int(high) * each))
            if (tenant := (self.sizes.row(count), each)) not in slab.tenants:
                slab.tenants.append(tenant)
        return placed

    def _slot(self, key: Any, types: dict[int, DType], homes: list[Home]) -> tuple[Dim, int, bool]:
        """(elements, bytes each, whether nothing else may lie there) of memory."""
        if isinstance(key, Temporary):
            return key.count, 4, False
        count = self.sizes.dims[self.program.buffers[key][2]] // types[key].numpy.itemsize
        return count, 2 if key in self.narrow.half else word_bytes(types[key], homes[key] is Home.INPUT or key in self.narrow.bytes), homes[key] in (Home.INPUT, Home.OUTPUT)

    def _constants(self, constants: Sequence[Tensor]) -> dict[Any, Constant]:
        """The constants that are bound."""
        used = dict.fromkeys(key.pool if isinstance(key, Pooled) else key for b in self.built for key, _ in b.bindings)
        forms = _forms(self.program, self.narrow)
        made: dict[Any, Constant] = {}
        pools: dict[str, list[tuple[Tensor, Form]]] = {}
        for row, (home, at, _) in enumerate(self.program.buffers):
            if home != Home.DATA:
                continue
            form = forms.get(row, Form())
            pool = pool_of(constants[at], form)
            if pool is None:
                whole = ((constants[at], form),)
                made |= {key: Constant(whole, False, *((key.first, key.count) if isinstance(key, Part) else ())) for key in used if (key.whole if isinstance(key, Part) else key) == row}
            elif pool is not None and pool in used:
                pools.setdefault(pool, []).append((constants[at], form))
        return {**made, **{pool: Constant(tuple(parts), True) for pool, parts in pools.items()}}


def _whole_copies(program: Program, steps: Sequence[Sequence[Built]]) -> list[tuple[int, int, Built]]:
    """(input, buffer row of the output, dispatch) of the copies that `Same` is about."""
    inputs, outputs = ({row: at for row, (home, at, _) in enumerate(program.buffers) if home == wanted} for wanted in (Home.INPUT, Home.OUTPUT))
    built = [b for step in steps for b in step]
    found = []
    for i, b in enumerate(built):
        if b.moved is None or b.moved[0].buffer not in inputs or b.moved[1].buffer not in outputs or b.moved[0].element_bytes != b.moved[1].element_bytes:
            continue
        source, target = (o.buffer for o in b.moved)
        alike = (b.moved[0].dims, b.moved[0].strides) == (b.moved[1].dims, b.moved[1].strides) or all(o.is_dense for o in b.moved)
        whole = alike and all(o.start == 0 and o.extent == product(o.dims) for o in b.moved)
        if whole and inputs[source] not in {port for port, _ in program.elements} and all(source not in _keys(o) and (target not in _keys(o) or j > i) for j, o in enumerate(built) if j != i):
            found.append((inputs[source], target, b))
    return found


def _keys(built: Built) -> set[Any]:
    return {key for key, _ in built.bindings}


def _share(order: Sequence[Any], estimates: dict[Any, float], lives: dict[Any, list[int]], own: set[Any], tight: bool) -> tuple[dict[Any, int], float]:
    """Each memory in turn into the slab whose tenants' lives do not meet its own and whose size fits best (not `tight`: that came first), or a new one; (memory → slab, bytes of all slabs)."""
    tenants: list[list[Any]] = []
    bytes_of: list[float] = []
    placed: dict[Any, int] = {}
    for key in order:
        (first, last), size = lives[key], estimates[key]
        free = [] if key in own else [i for i, held in enumerate(tenants) if not any(o in own or (lives[o][0] <= last and first <= lives[o][1]) for o in held)]
        best = min(free, key=lambda i: (max(size - bytes_of[i], 0.0), abs(size - bytes_of[i]) if tight else i), default=-1)
        if best < 0:
            best = len(tenants)
            tenants.append([])
            bytes_of.append(0.0)
        tenants[best].append(key)
        bytes_of[best] = max(bytes_of[best], size)
        placed[key] = best
    return placed, sum(bytes_of)


def _estimate(size: Dim) -> float:
    """A number to order memory by; only how well it is shared depends on it."""
    return float(substitute(size, {s.name: 64 for s in symbols(size)})) if isinstance(size, Expr) else float(size)


def pool_of(tensor: Tensor, form: Form) -> str | None:
    """The pool a small constant lies in; None for a large one."""
    if form.half or form.count(tensor) * word_bytes(tensor.dtype, True) > POOLED:
        return None
    return f"pool {'u32 packed' if tensor.dtype in PACKED else word(tensor.dtype)}"


def _forms(program: Program, narrow: Narrow) -> dict[int, Form]:
    """The forms of constants that are not plain, by buffer row."""
    found = {row: Form(half=True) for row in narrow.half}
    for step in program.steps:
        for number in step.inputs:
            view = program.views[number] if number >= 0 else None
            if view is not None and view.packing:
                group = program.sizes[step.params[1]][1] if view.packing == Packing.CONV else program.sizes[view.dims[0]][1] if view.packing == Packing.SCALES else 1
                found[view.buffer] = Form(Packing(view.packing), group, view.buffer in narrow.half)
    for row in _recurrent(program):
        found[row] = Form(Packing.MATRICES_T, 1, row in narrow.half)
    return found


def _recurrent(program: Program) -> set[int]:
    """Constants of float32 that are nothing but the R of recurrences, whole: neighbouring units, which neighbouring invocations own, lie side by side in panels."""
    found: set[int] = set()
    others: set[int] = set()
    for step in program.steps:
        for i, number in enumerate(step.inputs):
            view = program.views[number] if number >= 0 else None
            if view is None or program.buffers[view.buffer][0] != Home.DATA:
                continue
            recurrent = step.kind is Kernel.RNN and i == 2 and view.dtype is DType.FLOAT and not view.packing and _as_it_lies(program, view)
            (found if recurrent else others).add(view.buffer)
    return found - others


def _as_it_lies(program: Program, view: ViewRecord) -> bool:
    """Whether three axes of known sizes are shown from the first element on, row-major."""
    sizes = [program.sizes[row] for row in (*view.dims, *view.strides, view.start)]
    if len(view.dims) != 3 or any(op != SizeOp.CONST for op, *_ in sizes):
        return False
    _, rows, columns, *strides, start = (value for _, value, *_ in sizes)
    return start == 0 and tuple(strides) == dense((1, rows, columns))


@dataclass(frozen=True)
class Narrow:
    """Buffer rows that lie narrower than a word an element (wgsl/storage.py), as far as their kernels can do it: `bytes` intermediates of 8-bit integers, `half` f16."""

    bytes: frozenset[int]
    half: frozenset[int]


def _narrow(program: Program, constants: Sequence[Tensor], features: frozenset[str], precision: str) -> Narrow:
    """What may lie so."""
    types: dict[int, set[DType]] = {}
    for view in program.views:
        types.setdefault(view.buffer, set()).add(view.dtype)
    floats = [{DType.FLOAT16}, *([{DType.FLOAT}] if precision == "f16" else [])] if "shader-f16" in features else []

    def is_half(row: int) -> bool:
        home, at, _ = program.buffers[row]
        large = home == Home.DATA and constants[at].size * constants[at].dtype.bits // 8 > POOLED
        return types[row] in floats and (home == Home.ARENA or large or (home == Home.INPUT and types[row] == {DType.FLOAT16}))
    arena = (row for row in types if program.buffers[row][0] == Home.ARENA)
    return Narrow(frozenset(row for row in arena if types[row] in ({DType.INT8}, {DType.UINT8})), frozenset(row for row in types if is_half(row)))


def _build(program: Program, constants: Sequence[Tensor], sizes: Sizes, context: Context, narrow: Narrow) -> tuple[int, list[list[Built]]]:
    """Dispatches of every step, with the largest reach of 64-bit inputs for which everything fits. Where `context.refused` is not empty, what was built is not to be used."""
    wide = any(p.dtype in (DType.INT64, DType.UINT64) for p in program.inputs)
    for reach in REACH if wide else REACH[:1]:
        context.ranges = {}
        for row, (home, at, _) in enumerate(program.buffers):
            if home == Home.INPUT:
                dtype = program.inputs[at].dtype
                context.ranges[row] = assumed(dtype, reach) if dtype in (DType.INT64, DType.UINT64) else interval(dtype)
        steps = ProgramSteps(program, sizes, _homes(program, constants, narrow), context.ranges, narrow.bytes, narrow.half)
        try:
            built: list[list[Built]] = []
            while (number := len(built)) < len(program.steps):
                context.step = number
                count, made = together([steps.step(record) for record in program.steps[number:number + MOST]], context) if program.steps[number].kind is Kernel.REDUCE else (0, [])
                built += [made, *([] for _ in range(count - 1))] if count else [_labelled(build, steps, program.steps[number], context)]
            return reach, built
        except CannotLower:
            if not wide or reach == REACH[-1]:
                raise
    raise AssertionError("unreachable")


def _labelled(make: Any, steps: ProgramSteps, record: Any, context: Context) -> list[Built]:
    step = steps.step(record)
    try:
        made: list[Built] = make(step, context)
        return made
    except CannotLower as reason:
        raise CannotLower(f"{step.label}: {reason}") from None


def _homes(program: Program, constants: Sequence[Tensor], narrow: Narrow) -> dict[int, Operand]:
    """Constants as operands of whole buffers: where they lie, and between which numbers."""
    homes: dict[int, Operand] = {}
    offsets: dict[str, int] = {}
    forms = _forms(program, narrow)
    for row, (home, at, _) in enumerate(program.buffers):
        if home != Home.DATA:
            continue
        tensor = constants[at]
        low, high = constant_interval(tensor)
        form = forms.get(row, Form())
        pool = pool_of(tensor, form)
        each = word_bytes(tensor.dtype, True)
        start = offsets.get(pool, 0) // each if pool is not None else 0
        homes[row] = Operand(Pooled(pool, row) if pool is not None else row, tensor.dtype, (), (), start, 0, True, low, high, int(form.packing))
        if pool is not None:
            offsets[pool] = offsets.get(pool, 0) + -(-form.count(tensor) * each // PART) * PART
    return homes
