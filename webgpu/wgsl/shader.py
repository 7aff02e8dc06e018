"""A shader module being written: bindings, uniforms, statements.

How to think: ask for a `size` (a Dim becomes a uniform, 0 and 1 stay as they are), `read` and `write` elements of operands, `let` values, open blocks with `with`, and `dispatch` at the end.
The text depends on types, ranks and which strides are 0 or 1, never on sizes or on which memory is bound, so equal kernels share one pipeline. Nor does it depend on which sizes happen to be
equal: while it is written, every use of a size is a uniform of its own (`size_7`), and `share` merges those that are equal in all dispatches with the same text.
Conditions that only choose a value are joined by `&`, not `&&`: each of the latter is a branch, and compilers take long over graphs of them (SwiftShader over a 3-D transposed convolution's 36 in a
loop: minutes and gigabytes; with `&` 0.3 s).
"""
from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ...dim import Dim, Expr, bounds
from ...lowering import CannotLower
from ...types import DType
from ..device.base import Limits
from .expression import Value, real, stored
from .functions import used
from .space import Operand, Pooled, Space
from .storage import PACKED, interval, read_packed, word
from .turns import LOOPS, Turns

#: What the status word says besides the step: status = step * FAULTS + fault.
FAULTS = 4
TURNS, INDEX, DIVISION, SINGULAR = range(FAULTS)
STATUS = "status"


#: Why a kernel is refused on drivers that count turns, and a bound of them that says nothing.
ENDS, FAR = f"llvmpipe ends a shader's loops after {LOOPS:,} turns", 1 << 31


class TooManyBindings(CannotLower):
    """A shader binds more memory than the device allows in one dispatch."""


@dataclass
class Built:
    """A dispatch before there is a device: the source (see `share`), what it binds in order (key, written), the sizes its uniforms hold, how many workgroups it needs. `tile`: what the choice
    of its tile went by (kernels/tiles.py), "" where there is none. `shader`: what it was made of; `moved`: (source, target) where it does nothing but copy one to the other, place by place.
    `turns`: of an invocation's loops, where only the run knows whether they are too many for the driver (`Context.counted`)."""

    source: str
    bindings: list[tuple[Any, bool]]
    params: list[Dim]
    groups: Dim
    label: str
    tile: str = ""
    shader: Shader | None = None
    moved: tuple[Operand, Operand] | None = None
    turns: Dim | None = None


@dataclass
class Context:
    """What kernels are built for, and what is known so far. `ranges`: where the integers of each buffer lie; `step`: the number a fault reports."""

    limits: Limits
    cpu: bool
    ranges: dict[Any, tuple[float, float]] = field(default_factory=dict)
    uppers: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    step: int = 0
    label: str = ""
    tiles: Mapping[str, Any] = field(default_factory=dict)   # measured choices, see kernels/tiles.py
    refused: set[Any] = field(default_factory=set)   # packed memory that a kernel can only write element by element: recording.py gives it words and builds again
    half: Collection[Any] = ()       # memory of f16 (wgsl/storage.py)
    features: frozenset[str] = frozenset()   # what WGSL has here beyond every device's: "shader-f16", "subgroups"
    decoding: bool = False    # of a decoder's step: its rows may be many, or one
    several: bool = False     # dispatches for several ranges of sizes, of which a run takes those that its sizes are in (kernels/tiles.py): no size compiles anything, and each has its tile
    caps: Mapping[Dim, int] = field(default_factory=dict)    # sizes that are at most this where the dispatch that is built has workgroups
    counted: bool = False     # the driver ends an invocation's loops after LOOPS turns of all of them together, and says nothing (llvmpipe)
    planning: bool = False    # only asked whether there is a kernel: how constants will lie is not known yet


class Shader:
    """One compute shader."""

    def __init__(self, context: Context, invocations: int = 64) -> None:
        self.context, self.invocations = context, invocations
        self.params: list[Dim] = []
        self.bindings: dict[tuple[Any, str], tuple[str, bool]] = {}
        self.functions: list[str] = []
        self.globals: list[str] = []
        self.lines: list[str] = []
        self.written: list[Operand] = []
        self.loaded: set[Any] = set()    # memory it reads elements of
        self.subgroups = False   # whether it works with subgroups
        self.numbered = False    # and with `sub`, an invocation's number in its own
        self.turns = Turns(self.params, invocations) if context.counted else None
        self._depth = 1
        self._count = 0

    # -- statements --------------------------------------------------------------------------------------------------------------------------
    def add(self, line: str, turns: Dim | None = None) -> None:
        """A statement. `turns`: of its loop, see `block`."""
        if self.turns is not None:
            self.turns.line(line, turns)
        self.lines.append("    " * self._depth + line)

    def name(self, prefix: str = "v") -> str:
        """A fresh name."""
        self._count += 1
        return f"{prefix}{self._count}"

    def let(self, text: str, rep: str = "i32") -> str:
        """A named value."""
        name = self.name()
        self.add(f"let {name}: {rep} = {text};")
        return name

    @contextmanager
    def block(self, head: str, tail: str = "}", turns: Dim | None = None) -> Iterator[None]:
        """`head {` … `}`. `turns`: at most how many a loop takes, where its head does not say it (wgsl/turns.py)."""
        around = self.turns.line(f"{head} {{", turns) if self.turns is not None else 0
        self.lines.append("    " * self._depth + f"{head} {{")
        self._depth += 1
        yield
        self._depth -= 1
        self.lines.append("    " * self._depth + tail)
        if self.turns is not None:
            self.turns.end(around)

    @contextmanager
    def function(self, head: str) -> Iterator[None]:
        """A function of its own; statements inside the block belong to it."""
        outer, self.lines, depth, self._depth = self.lines, [], self._depth, 1
        if self.turns is not None:
            self.turns.enter()
        yield
        if self.turns is not None:
            self.turns.leave(head[:head.index("(")])
        self.functions.append("\n".join([f"fn {head} {{", *self.lines, "}"]))
        self.lines, self._depth = outer, depth

    def declare(self, line: str) -> None:
        """A module-scope declaration."""
        if line not in self.globals:
            self.globals.append(line)

    # -- sizes -------------------------------------------------------------------------------------------------------------------------------
    def size(self, value: Dim) -> str:
        """A size as i32 text."""
        return str(value) if not isinstance(value, Expr) and value in (0, 1) else self.param(value)

    def param(self, value: Dim) -> str:
        """A size as a uniform, whatever it is."""
        self.params.append(value)
        return f"size_{len(self.params) - 1}"

    def start(self, operand: Operand) -> str:
        """Where an operand begins. A constant's place is a uniform also where it is 0: it is that of no kernel's doing."""
        return self.param(operand.start) if operand.constant else self.size(operand.start)

    def real(self, value: float) -> str:
        """A float parameter as a uniform."""
        return f"bitcast<f32>({self.param(int(np.float32(value).view(np.int32)))})"

    # -- positions ---------------------------------------------------------------------------------------------------------------------------
    def coordinates(self, space: Space, index: str) -> list[str]:
        """The coordinates of position number `index` of a space."""
        out: list[str] = []
        rest = index
        for axis in range(len(space.dims) - 1, 0, -1):
            size = self.size(space.dims[axis])
            out.insert(0, self.let(f"{rest} % {size}"))
            rest = self.let(f"{rest} / {size}")
        return [rest, *out] if space.dims else []

    def offset(self, space: Space, operand: int, at: Sequence[str], base: str = "0") -> str:
        """Where the operand's element at these coordinates lies, from `base`."""
        terms = [] if base == "0" else [base]
        for coordinate, stride in zip(at, space.strides[operand], strict=True):
            if not isinstance(stride, Expr) and stride == 0:
                continue
            terms.append(coordinate if not isinstance(stride, Expr) and stride == 1 else f"{coordinate} * {self.size(stride)}")
        return " + ".join(terms) or "0"

    # -- memory ------------------------------------------------------------------------------------------------------------------------------
    def binding(self, key: Any, element: str, write: bool = False) -> str:
        """The name of a bound array of `element`s."""
        if "f16" not in element and key in self.context.half:
            self.context.refused.add(key)
        name, written = self.bindings.get((key, element), (f"b{len(self.bindings)}", False))
        self.bindings[key, element] = (name, written or write)
        return name

    def read(self, operand: Operand, at: str) -> Value:
        """An element, as text that reads it; `at` is an i32 name or literal."""
        self.loaded.add(operand.buffer)
        element = word(operand.dtype)
        if operand.half:
            text = f"f32({self.binding(operand.buffer, 'f16')}[{at}])"
        elif operand.packed and operand.dtype in PACKED:
            text = read_packed(self.binding(operand.buffer, "u32"), operand.dtype, at if at.isidentifier() or at.isdigit() else f"({at})")
        else:
            text = f"{self.binding(operand.buffer, element)}[{at}]"
        if element == "f32":
            return real(text)
        low, high = interval(operand.dtype)
        return Value(text, element, max(low, operand.low), min(high, operand.high))

    def load(self, operand: Operand, at: str) -> Value:
        """An element in a named value."""
        value = self.read(operand, at)
        return Value(self.let(value.text, value.rep), value.rep, value.low, value.high)

    def write(self, operand: Operand, at: str, value: Value) -> None:
        """Store an element; what integers it may hold is remembered for the readers of the buffer."""
        if operand.packed:
            self.context.refused.add(operand.buffer)
        self.written.append(operand)
        text, element = self.element(operand, value), word(operand.dtype)
        if operand.half:
            text, element = f"f16({text if operand.dtype is DType.FLOAT16 else f'sx_half({text})'})", "f16"
        self.add(f"{self.binding(operand.buffer, element, True)}[{at}] = {text};")

    def write_word(self, operand: Operand, at: str, text: str) -> None:
        """Store four bytes (of what `element` gave) as the word of packed memory that element `at` begins."""
        self.written.append(operand)
        self.add(f"{self.binding(operand.buffer, 'u32', True)}[({at}) >> 2u] = {text};")

    def element(self, operand: Operand, value: Value) -> str:
        """The word that stores a value there; what integers it may hold is remembered for the readers of the buffer."""
        text, (low, high) = stored(value, operand.dtype)
        if not operand.dtype.is_float:
            before = self.context.ranges.get(operand.buffer)
            self.context.ranges[operand.buffer] = (low, high) if before is None else (min(low, before[0]), max(high, before[1]))
        return text

    def fault(self, condition: str, kind: int = DIVISION) -> None:
        """Report a run-time error where the condition holds; the run goes on and its results are thrown away."""
        name = self.binding(STATUS, "atomic<u32>", True)
        self.add(f"if ({condition}) {{ atomicMin(&{name}[0], u32({self.param(self.context.step * FAULTS + kind)})); }}")

    def index(self, operand: Operand, at: str, size: Dim) -> str:
        """A checked index from memory: negative ones count from the end, outside is a fault (and 0)."""
        value = self.load(operand, at)
        text = value.text if value.rep == "i32" else self.let(f"bitcast<i32>(min({value.text}, 2147483647u))")
        n = self.size(size)
        wrapped = self.let(f"select({text}, {text} + {n}, {text} < 0)") if value.low < 0 else text
        self.fault(f"{wrapped} < 0 || {wrapped} >= {n}", INDEX)
        return self.let(f"clamp({wrapped}, 0, {n} - 1)")

    # -- the end -----------------------------------------------------------------------------------------------------------------------------
    def dispatch(self, groups: Dim, label: str = "") -> Built:
        """The finished shader. TooManyBindings where the device does not allow as many."""
        self._probe()
        if len(self.bindings) > self.context.limits.storage_buffers:
            self._pool()
        written = {key for (key, _), (_, write) in self.bindings.items() if write}
        both = [key for key, _ in self.bindings if key in written and sum(k == key for k, _ in self.bindings) > 1]
        if both:
            raise CannotLower("one dispatch would read and write the same memory as two types")
        if len(self.bindings) > self.context.limits.storage_buffers:
            raise TooManyBindings(f"a kernel would bind {len(self.bindings)} buffers; the device allows {self.context.limits.storage_buffers} in a dispatch")
        turns = self._judged()
        if len(set(self.params)) * 4 > self.context.limits.uniform_bytes:
            raise CannotLower("a kernel takes more sizes than a uniform buffer holds")
        head = ["@group(0) @binding(0) var<uniform> p: array<vec4<i32>, size_count>;"]
        bindings: list[tuple[Any, bool]] = []
        for (key, element), (name, write) in self.bindings.items():
            bindings.append((key, write))
            head.append(f"@group(0) @binding({len(bindings)}) var<storage, {'read_write' if write else 'read'}> {name}: array<{element}>;")
        body = "\n".join([*head, *self.globals, *self.functions,
                          f"@compute @workgroup_size({self.invocations})",
                          "fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) g: vec3<u32>, @builtin(local_invocation_index) l: u32"
                          f"{', @builtin(subgroup_invocation_id) sub: u32' if self.numbered else ''}) {{",
                          "    let group = i32(w.x + w.y * g.x);", "    let lane = i32(l);", *self.lines, "}", ""])
        library = used(body)
        enabled = [f"enable {name};" for name, wanted in (("f16", any("f16" in element for _, element in self.bindings)), ("subgroups", self.subgroups)) if wanted]
        return Built("\n".join([*enabled, *([library] if library else []), body]), bindings, list(self.params), groups, label or self.context.label, shader=self, turns=turns)

    def _probe(self) -> None:
        """Where only data know how often loops turn, a last loop, which has no turns left where the driver has ended one before (a fault). Not where there is no room for the status word."""
        text = "".join((*self.lines, *self.functions)) if self.turns is not None else ""
        guessed = self.turns is not None and (self.turns.guessed or any(f"{name}(" in text for name in ("sx_mod", "sx_fmod")) or (self.turns.total != 0 and "sx_pow" in text))
        if guessed and ((STATUS, "atomic<u32>") in self.bindings or len(self.bindings) < self.context.limits.storage_buffers):
            self.add("var probe = 0;")
            self.add(f"for (var turn_left = 0; turn_left < {self.param(2)}; turn_left += 1) {{ probe += 1; }}")
            self.fault("probe < 2", TURNS)

    def _judged(self) -> Dim | None:
        """The turns of an invocation's loops, if only the run knows whether the driver makes all of them; CannotLower where it does not, or not for all sizes of a range."""
        turns = self.turns.total if self.turns is not None else 0
        low, high = bounds(turns, self.context.uppers)
        if low is not None and low > LOOPS:
            raise CannotLower(f"{ENDS}, and this one takes {'' if low == high else 'at least '}{int(low):,}")
        if high is not None and LOOPS < high < FAR:
            raise CannotLower(f"{ENDS}, and this one takes up to {int(high):,}")
        return turns if high is None or high > LOOPS else None

    def _pool(self) -> None:
        """Small constants of one pool as one binding, where the device does not allow one each."""
        merged: dict[tuple[Any, str], tuple[str, bool]] = {}
        names: dict[str, str] = {}
        for (key, element), (name, write) in self.bindings.items():
            names[name] = merged.setdefault((key.pool if isinstance(key, Pooled) else key, element), (name, write))[0]
        self.bindings = merged
        rename = partial(re.sub, r"\bb\d+\b", lambda found: names.get(found[0], found[0]))
        self.lines, self.functions = [rename(line) for line in self.lines], [rename(text) for text in self.functions]


def share(built: Sequence[Built]) -> list[tuple[str, list[Dim]]]:
    """(source, sizes of its uniforms) of each. Dispatches whose texts differ in nothing but which sizes are equal become one text: uses of sizes are one uniform where they are equal in all."""
    alike: dict[tuple[str, tuple[bool, ...]], list[int]] = {}
    for i, one in enumerate(built):
        alike.setdefault((one.source, tuple(w for _, w in one.bindings)), []).append(i)
    out: list[tuple[str, list[Dim]]] = [("", [])] * len(built)
    for (source, _), numbers in alike.items():
        places: dict[tuple[Dim, ...], int] = {}
        uses = [places.setdefault(values, len(places)) for values in zip(*(built[i].params for i in numbers), strict=True)]
        text = re.sub(r"\bsize_(\d+)\b", lambda found: f"p[{uses[int(found[1])] // 4}].{'xyzw'[uses[int(found[1])] % 4]}", source)  # noqa: B023  used at once
        text = text.replace("size_count", str(max(1, -(-len(places) // 4))))
        for at, i in enumerate(numbers):
            out[i] = text, [values[at] for values in places]
    return out


def each(shader: Shader, count: Dim) -> str:
    """Statements of a kernel with one invocation an item: the item's number. Give `groups(shader, count)` to dispatch."""
    name = shader.let(f"group * {shader.invocations} + lane")
    shader.add(f"if ({name} >= {shader.param(count)}) {{ return; }}")
    if shader.turns is not None:
        shader.turns.bound(name, 0, count - 1)
    return name


def groups(shader: Shader, count: Dim) -> Dim:
    """Workgroups for one invocation an item."""
    return (count + (shader.invocations - 1)) // shader.invocations
