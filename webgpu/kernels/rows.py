"""Reduce, Softmax and Norm: many positions become one (or a row of as many).

Positions are two spaces: the *rows* (axes that stay) and the *run* (axes reduced). Two variants: one invocation a row, no barriers (software adapters, and short runs); or one workgroup
a row, whose invocations take every 64th element and meet in workgroup memory: by halves, six barriers; or, where WGSL has subgroups (tiles.py), each subgroup by itself and then all of them over
what the subgroups left, two barriers. Which invocations make a subgroup is the device's business: each counts its own, and no order of them is taken for granted.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from ...dim import Dim, ceildiv, product
from ...expr import Compute, compute_type
from ...kernels import Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.expression import Value, fit, real, whole
from ..wgsl.shader import Built, Context, Shader, TooManyBindings, groups
from ..wgsl.space import Operand, Space, Temporary, broadcast
from ..wgsl.storage import INT32
from .base import Step, coordinates_used, elements, emitter, kernel, least, most, repeated
from .tiles import with_subgroups

#: Runs at most this long are one invocation's work on any adapter.
SHORT = 32
LANES = 64
#: Elements of a part, the shortest run that is cut, and the number of rows from which on devices are busy without.
PART, LONG, MANY = 4096, 16384, 64


@dataclass
class Rows:
    """A kernel over rows: `bases[i]`: where operand i's row starts."""

    shader: Shader
    operands: list[Operand]
    rows: Space
    run: Space
    wide: bool
    bases: list[str]
    row: str
    at: list[str]
    parts: Dim | None = None
    part: str = "0"

    @classmethod
    def begin(cls, context: Context, dims: Sequence[Dim], reduced: Sequence[int], operands: Sequence[Operand], strides: Sequence[Sequence[Dim]], *, serial: bool = False,
              keep: set[int] | frozenset[int] = frozenset(), parts: Dim | None = None) -> Rows:
        """Over `dims`, of which `reduced` are the run. `strides[i]`: operand i's, for every axis. `parts`: how many of a run are rows of their own."""
        kept = [a for a in range(len(dims)) if a not in reduced]
        rows = Space.of([dims[a] for a in kept], [[s[a] for a in kept] for s in strides], {kept.index(a) for a in keep if a in kept})
        run = Space.of([dims[a] for a in reduced], [[s[a] for a in reduced] for s in strides], {list(reduced).index(a) for a in keep if a in reduced})
        wide = not (context.cpu or serial or most(context, run.count) <= SHORT)
        shader = Shader(context, LANES)
        shader.subgroups = wide and with_subgroups(context)
        row, part = shader.let("group" if wide else f"group * {LANES} + lane"), "0"
        shader.add(f"if ({row} >= {shader.param(rows.count if parts is None else rows.count * parts)}) {{ return; }}")
        if parts is not None:
            part, row = shader.let(f"{row} % {shader.param(parts)}"), shader.let(f"{row} / {shader.param(parts)}")
        at = shader.coordinates(rows, row)
        bases = [shader.let(shader.offset(rows, i, at, shader.size(o.start))) for i, o in enumerate(operands)]
        return cls(shader, list(operands), rows, run, wide, bases, row, at, parts, part)

    @contextmanager
    def loop(self, numbers: Sequence[int]) -> Iterator[tuple[dict[int, str], list[str]]]:
        """A loop over the run (or its part); gives the offsets of the numbered operands, and the coordinates."""
        s, end = self.shader, self.shader.param(self.run.count)
        with self.walk(f"{self.part} * {PART}", f"min({end}, {self.part} * {PART} + {PART})", PART) if self.parts is not None else self.walk("0", end) as r:
            at = s.coordinates(self.run, r)
            yield {i: s.let(s.offset(self.run, i, at, self.bases[i])) for i in numbers}, at

    @contextmanager
    def walk(self, first: str, end: str, length: int | None = None) -> Iterator[str]:
        """A loop over numbers (at most `length`), shared by the invocations of a row; gives the number."""
        s, r = self.shader, self.shader.name("r")
        begin, step = (f"{first} + lane" if first != "0" else "lane", LANES) if self.wide else (first, 1)
        with s.block(f"for (var {r} = {begin}; {r} < {end}; {r} += {step})", turns=None if length is None else ceildiv(length, step)):
            yield r

    def count(self) -> str:
        """The length of the run (or of its part)."""
        end = self.shader.param(self.run.count)
        return end if self.parts is None else self.shader.let(f"min({end} - {self.part} * {PART}, {PART})")

    def var(self, rep: str, start: str) -> str:
        """A variable."""
        name = self.shader.name("a")
        self.shader.add(f"var {name}: {rep} = {start};")
        return name

    def join(self, name: str, rep: str, op: int) -> str:
        """The variable combined over the invocations of a row by SUM, PRODUCT, MIN or MAX."""
        if not self.wide:
            return name
        s, shared, combine = self.shader, f"shared_{rep}", combined(op, rep)
        s.declare(f"var<workgroup> {shared}: array<{rep}, {LANES}>;")
        if s.subgroups:
            return self._join_subgroups(name, rep, op, shared)
        s.add(f"{shared}[lane] = {name};")
        s.add("workgroupBarrier();")
        h = s.name("h")
        with s.block(f"for (var {h} = {LANES // 2}; {h} > 0; {h} = {h} / 2)"):
            s.add(f"if (lane < {h}) {{ {shared}[lane] = {combine(f'{shared}[lane]', f'{shared}[lane + {h}]')}; }}")
            s.add("workgroupBarrier();")
        total = s.let(f"{shared}[0]", rep)
        s.add("workgroupBarrier();")
        return total

    def _join_subgroups(self, name: str, rep: str, op: int, shared: str) -> str:
        s, start = self.shader, identity(op, rep)
        rank, left, i = s.let("i32(subgroupExclusiveAdd(1u))"), s.name("a"), s.name("n")
        s.add(f"{shared}[lane] = select({start}, {self._subgroup(name, rep, op)}, {rank} == 0);")
        s.add("workgroupBarrier();")
        s.add(f"var {left}: {rep} = {start};")
        count = s.let("i32(subgroupAdd(1u))")
        s.add(f"for (var {i} = {rank}; {i} < {LANES}; {i} += {count}) {{ {left} = {combined(op, rep)(left, f'{shared}[{i}]')}; }}")
        total = self._subgroup(left, rep, op)
        s.add("workgroupBarrier();")
        return total

    def _subgroup(self, name: str, rep: str, op: int) -> str:
        """A variable combined over a subgroup. WGSL promises nothing about NaN."""
        s, call = self.shader, {SUM: "subgroupAdd", MEAN: "subgroupAdd", PRODUCT: "subgroupMul", MIN: "subgroupMin", MAX: "subgroupMax"}[op]
        if rep != "f32" or op not in (MIN, MAX):
            return s.let(f"{call}({name})", rep)
        best = s.let(f"{call}(select({name}, {identity(op, rep)}, sx_isnan({name})))", rep)
        return s.let(f"select({best}, sx_bits(0x7fc00000u), subgroupAny(sx_isnan({name})))", rep)

    def sum(self, name: str) -> str:
        """The f32 variable summed over the invocations of a row."""
        return self.join(name, "f32", SUM)

    @contextmanager
    def once(self) -> Iterator[None]:
        """Statements that one invocation of a row runs."""
        if self.wide:
            with self.shader.block("if (lane == 0)"):
                yield
        else:
            yield

    def dispatch(self) -> Built:
        """The finished shader."""
        count = self.rows.count if self.parts is None else self.rows.count * self.parts
        return self.shader.dispatch(count if self.wide else groups(self.shader, count))


def parts_of(context: Context, dims: Sequence[Dim], reduced: Sequence[int]) -> Dim | None:
    """How many parts the runs of these rows are cut into; None where they are not."""
    rows, run = (product(dims[a] for a in range(len(dims)) if (a in reduced) == inside) for inside in (False, True))
    few = most(context, rows) < MANY or (context.several and least(context, rows, one=True) < MANY and least(context, run) >= LONG)   # parts cost little where rows are many after all
    return ceildiv(run, PART) if few and most(context, run) >= LONG else None


class Pairs:
    """Two floats of every part of every row: memory between the two dispatches of softmax and norms."""

    def __init__(self, rows: Dim, parts: Dim) -> None:
        self.parts = parts
        self.memory = Temporary.operand(DType.FLOAT, (rows, parts, 2))

    def write(self, rows: Rows, a: str, b: str) -> None:
        """Those of this part."""
        s = rows.shader
        with rows.once():
            at = s.let(f"({rows.row} * {s.param(self.parts)} + {rows.part}) * 2")
            s.write(self.memory, at, real(a))
            s.write(self.memory, s.let(f"{at} + 1"), real(b))

    @contextmanager
    def walk(self, rows: Rows) -> Iterator[tuple[str, str, str]]:
        """A loop over the parts of the row; gives their length as f32, and the two."""
        s = rows.shader
        parts = s.param(self.parts)
        with rows.walk("0", parts) as i:
            at = s.let(f"({rows.row} * {parts} + {i}) * 2")
            length = s.let(f"f32(min({s.param(rows.run.count)} - {i} * {PART}, {PART}))", "f32")
            yield length, s.load(self.memory, at).text, s.load(self.memory, s.let(f"{at} + 1")).text


# -- Reduce ---------------------------------------------------------------------------------------------------------------------------------------

SUM, PRODUCT, MIN, MAX, ARG_MIN, ARG_MAX, MEAN = range(7)
#: (offsets of the operands, coordinates) → the element there.
Element = Callable[[dict[int, str], list[str]], Value]


@kernel(Kernel.REDUCE)
def reduce(step: Step, context: Context) -> list[Built]:
    """See the REDUCE record."""
    x, op, mask = step.there(0), step.whole("op"), step.whole("axes")
    reduced = [a for a in range(x.rank) if mask >> a & 1]
    parts = parts_of(context, x.dims, reduced)
    kind = step.prologue.type if step.prologue is not None else compute_type(x.dtype)
    if parts is None or kind is not Compute.F32 or 0 in elements(step.inputs, step.epilogue, step.first)[0]:
        return [_reduced(step, context, reduced)]
    # The parts are the last of the reduced axes, the others have become 1; an extreme's place is a second number of every part.
    middle = Temporary.operand(DType.FLOAT, [parts if a == reduced[-1] else 1 if a in reduced else d for a, d in enumerate(x.dims)])
    places = replace(middle, buffer=Temporary(DType.INT32, middle.dims), dtype=DType.INT32) if op in (ARG_MIN, ARG_MAX) else None
    first = replace(step, outputs=[middle], epilogue=[], params={**step.params, "op": SUM if op == MEAN else op})
    second = replace(step, inputs=[middle, *step.inputs[1:]], prologue=None)
    return [_reduced(first, context, reduced, parts, places), _reduced(second, context, reduced[-1:], None, places, product(x.dims[a] for a in reduced))]


def _reduced(step: Step, context: Context, reduced: list[int], parts: Dim | None = None, places: Operand | None = None, count: Dim | None = None) -> Built:
    """A pass. The first of two makes `parts` numbers of a run, where its output's last reduced axis has them; `places` are those of extremes in the same order. `count`: elements of a mean where they
    are not the run's."""
    x, out, op = step.there(0), step.output(), step.whole("op")
    before = [step.prologue] if step.prologue is not None else []
    first = step.first if before else 0
    by_position, loaded = elements(step.inputs, before, first)
    if loaded:
        raise CannotLower("a reduction that loads by index")
    inside = by_position if before else [0]
    after = elements(step.inputs, step.epilogue, step.first)[0]
    numbers = list(dict.fromkeys([*inside, *after]))
    read = [*(step.there(i) for i in numbers), *([places] if places is not None and parts is None else [])]
    strides = [tuple(0 if a in reduced else s for a, s in enumerate(broadcast(out, x.dims))), *(broadcast(o, x.dims) for o in read)]
    rows = Rows.begin(context, x.dims, reduced, [out, *read], strides, keep=coordinates_used(before), parts=parts)
    s, place = rows.shader, {n: i + 1 for i, n in enumerate(numbers)}
    kept = [a for a in range(x.rank) if a not in reduced]

    def value(offsets: dict[int, str], at: list[str]) -> Value:
        def coordinate(axis: int) -> str:
            space, order, found = (rows.run, reduced, at) if axis in reduced else (rows.rows, kept, rows.at)
            where = space.where[order.index(axis)]
            return "0" if where is None else found[where]
        offsets = {n: offsets[place[n]] for n in inside}
        if before:
            return emitter(s, step, offsets, coordinate, x.dims, first=first).emit(before[0])
        return s.load(x, offsets[0])

    def position(offsets: dict[int, str], at: list[str]) -> str:
        return s.load(read[-1], offsets[len(read)]).text if len(read) > len(numbers) else at[0] if at else "0"
    walked = [place[n] for n in inside] + ([len(read)] if len(read) > len(numbers) else [])
    if op in (ARG_MIN, ARG_MAX):
        best, total = _arg(rows, op, walked, value, position, bool(step.whole("last")), count)
    else:
        best = total = _accumulate(rows, op, before[0].type if before else compute_type(x.dtype), walked, value, context, count)
    with rows.once():
        to = rows.bases[0]
        if parts is not None:
            to = s.let(f"{to} + {rows.part} * {s.size(out.strides[reduced[-1]])}")
            if places is not None:
                s.write(places, to, total)
            total = best
        if step.epilogue:
            offsets = {n: rows.bases[place[n]] for n in after}
            total = emitter(s, step, offsets, lambda axis: "0", out.dims, total).emit(step.epilogue[0])
        s.write(out, to, total)
    return rows.dispatch()


def _accumulate(rows: Rows, op: int, kind: Compute, inside: list[int], value: Element, context: Context, count: Dim | None = None) -> Value:
    s = rows.shader
    longest, shortest = most(context, rows.run.count), least(context, rows.run.count)
    # The type of the elements shows only when they are emitted, after the variable is declared: declare on a line set aside.
    mark = len(s.lines)
    s.add("")
    acc = s.name("a")
    with rows.loop(inside) as (offsets, at):
        v = value(offsets, at)
        rep = v.rep if v.rep == "f32" or (op in (MIN, MAX) and v.exact) else "i32"
        text = v.text if v.rep == rep else f"bitcast<{rep}>({v.text})"
        s.add(f"{acc} = {combined(op, rep)(acc, text)};")
    start = identity(op, rep)
    s.lines[mark] = f"    var {acc}: {rep} = {start};"
    total = rows.join(acc, rep, op)
    if rep == "f32":
        return real(s.let(f"{total} / f32({s.param(rows.run.count if count is None else count)})", "f32")) if op == MEAN else real(total)
    if op == MEAN:
        raise CannotLower("a mean of integers")
    if op in (MIN, MAX):
        if not v.exact:
            raise CannotLower("the extreme of integers that do not fit 32 bits")
        if shortest < 1 and kind is not Compute.I32:
            raise CannotLower("the extreme of no 64-bit integers at all does not fit 32 bits")
        return Value(total, rep, *(INT32 if shortest < 1 else (v.low, v.high)))
    if op == SUM:
        return fit(whole(total), *repeated(v, longest), kind is not Compute.I32)
    factor = int(max(abs(v.low), abs(v.high), 1))
    bound = factor ** int(longest) if longest * factor.bit_length() < 64 else 1 << 64
    return fit(whole(total), -bound if v.low < 0 else 0, bound, kind is not Compute.I32)


def identity(op: int, rep: str) -> str:
    """What changes nothing."""
    if op in (SUM, MEAN):
        return "0.0" if rep == "f32" else "0"
    if op == PRODUCT:
        return "1.0" if rep == "f32" else "1"
    if rep == "f32":
        return f"sx_bits(0x{'7f800000' if op == MIN else 'ff800000'}u)"
    return {("i32", MIN): "2147483647", ("i32", MAX): "-2147483647 - 1", ("u32", MIN): "4294967295u", ("u32", MAX): "0u"}[rep, op]


def combined(op: int, rep: str) -> Callable[[str, str], str]:
    """Text that takes two together."""
    if op in (MIN, MAX):
        name = ("min", "max")[op - MIN]
        return lambda a, b: f"{'sx_' if rep == 'f32' else ''}{name}({a}, {b})"
    return lambda a, b: f"{a} {'*' if op == PRODUCT else '+'} {b}"


def _arg(rows: Rows, op: int, inside: list[int], value: Element, position: Callable[[dict[int, str], list[str]], str], last: bool, count: Dim | None = None) -> tuple[Value, Value]:
    """The least or greatest, and its position: the first (or last) of equal ones; NaN counts as both."""
    s = rows.shader
    mark = len(s.lines)
    s.add("")
    place, best = rows.var("i32", "-1"), s.name("a")
    with rows.loop(inside) as (offsets, at):
        v = value(offsets, at)
        where = position(offsets, at)
        s.add(f"if (better({v.text}, {where}, {best}, {place})) {{ {best} = {v.text}; {place} = {where}; }}")
    if not v.exact:
        raise CannotLower("the place of an extreme of integers that do not fit 32 bits")
    s.lines[mark] = f"    var {best}: {v.rep};"
    sign, order = "<" if op == ARG_MIN else ">", ">" if last else "<"
    with s.function(f"better(v: {v.rep}, i: i32, w: {v.rep}, j: i32) -> bool"):
        s.add("if (i < 0 || j < 0) { return i >= 0 && j < 0; }")
        if v.rep == "f32":
            s.add(f"if (sx_isnan(v) || sx_isnan(w)) {{ return sx_isnan(v) && (!sx_isnan(w) || i {order} j); }}")
        s.add(f"return v {sign} w || (v == w && i {order} j);")
    if rows.wide:
        s.declare(f"var<workgroup> values: array<{v.rep}, {LANES}>;")
        s.declare(f"var<workgroup> places: array<i32, {LANES}>;")
        s.add(f"values[lane] = {best};")
        s.add(f"places[lane] = {place};")
        s.add("workgroupBarrier();")
        h = s.name("h")
        with s.block(f"for (var {h} = {LANES // 2}; {h} > 0; {h} = {h} / 2)"):
            with s.block(f"if (lane < {h} && better(values[lane + {h}], places[lane + {h}], values[lane], places[lane]))"):
                s.add(f"values[lane] = values[lane + {h}];")
                s.add(f"places[lane] = places[lane + {h}];")
            s.add("workgroupBarrier();")
        best, place = "values[0]", "places[0]"
    length = most(s.context, rows.run.count if count is None else count)
    return replace(v, text=s.let(best, v.rep)), whole(s.let(f"max({place}, 0)"), 0, min(max(length - 1, 0), INT32[1]))


# -- Softmax --------------------------------------------------------------------------------------------------------------------------------------

@kernel(Kernel.SOFTMAX)
def softmax(step: Step, context: Context) -> list[Built]:
    """See the SOFTMAX record. Types narrower than f32 round after every step, as the specification's function body does."""
    x, mask, out, mode, axis = step.there(0), step.input(1), step.output(), step.whole("mode"), step.whole("axis")
    operands = [out, x, *([mask] if mask is not None else [])]
    narrow = "" if x.dtype is DType.FLOAT or mode != 0 else "sx_f16" if x.dtype is DType.FLOAT16 else "sx_bf16"
    parts = parts_of(context, x.dims, [axis]) if mode != 2 and not narrow else None
    numbers = list(range(1, len(operands)))

    def begin() -> tuple[Rows, Callable[[dict[int, str]], str]]:
        rows = Rows.begin(context, x.dims, [axis], operands, [broadcast(o, x.dims) for o in operands], parts=parts)
        s = rows.shader
        factor = s.real(step.params["scale"])

        def element(offsets: dict[int, str]) -> str:
            v = s.load(x, offsets[1]).text
            if mask is None:
                return s.let(f"{v} * {factor}", "f32")
            return s.let(f"{v} * {factor} + {s.load(mask, offsets[2]).text}", "f32")
        return rows, element

    def greatest(rows: Rows, element: Callable[[dict[int, str]], str]) -> str:
        top = rows.var("f32", identity(MAX, "f32"))
        with rows.loop(numbers) as (offsets, _):
            rows.shader.add(f"{top} = sx_max({top}, {element(offsets)});")
        return rows.join(top, "f32", MAX)

    def powers(rows: Rows, element: Callable[[dict[int, str]], str], top: str) -> tuple[str, Callable[[dict[int, str]], str]]:
        s, total = rows.shader, rows.var("f32", "0.0")

        def power(offsets: dict[int, str]) -> str:
            return s.let(f"{narrow}(sx_exp({narrow}({element(offsets)} - {top})))", "f32")
        with rows.loop(numbers) as (offsets, _):
            s.add(f"{total} += {power(offsets)};")
        return rows.sum(total), power
    built = []
    if parts is not None:
        # Where all is -inf the powers are taken below 0, and are 0: what counts is the other parts.
        rows, element = begin()
        pairs = Pairs(rows.rows.count, parts)
        top = greatest(rows, element)
        below = rows.shader.let(f"select({top}, 0.0, sx_isinf({top}) && {top} < 0.0)", "f32")
        pairs.write(rows, top, powers(rows, element, below)[0])
        built.append(rows.dispatch())
    rows, element = begin()
    s = rows.shader
    if mode == 2:
        return [_hardmax(rows, element, numbers, out)]
    if parts is None:
        top = greatest(rows, element)
        total, power = powers(rows, element, top)
    else:
        tops, total = rows.var("f32", identity(MAX, "f32")), rows.var("f32", "0.0")
        with pairs.walk(rows) as (_, a, _):
            s.add(f"{tops} = sx_max({tops}, {a});")
        top = rows.join(tops, "f32", MAX)
        with pairs.walk(rows) as (_, a, b):
            s.add(f"{total} += {b} * sx_exp({a} - {top});")
        total = rows.sum(total)

        def power(offsets: dict[int, str]) -> str:
            return f"sx_exp({element(offsets)} - {top})"
    total = s.let(f"{narrow}({total})" if mode == 0 else f"sx_log({total})", "f32")
    with rows.loop([0, *numbers]) as (offsets, _):
        s.write(out, offsets[0], real(f"{power(offsets)} / {total}" if mode == 0 else f"{element(offsets)} - {top} - {total}"))
    return [*built, rows.dispatch()]


def _hardmax(rows: Rows, element: Callable[[dict[int, str]], str], numbers: list[int], out: Operand) -> Built:
    s = rows.shader
    _, place = _arg(rows, ARG_MAX, numbers, lambda offsets, _: real(element(offsets)), lambda _, at: at[0] if at else "0", False)
    with rows.loop([0]) as (offsets, at):
        s.write(out, offsets[0], real(f"select(0.0, 1.0, {at[0] if at else '0'} == {place.text})"))
    return rows.dispatch()


# -- Norm -----------------------------------------------------------------------------------------------------------------------------------------

@kernel(Kernel.NORM)
def norm(step: Step, context: Context) -> list[Built]:
    """See the NORM record: two passes for the mean and the variance around it, one to write."""
    try:
        return _norm(step, context, True)
    except TooManyBindings:   # all inputs and all outputs are 8
        return _norm(step, context, False)


def _norm(step: Step, context: Context, cut: bool) -> list[Built]:
    mode, x = step.whole("mode"), step.there(0)
    given = {name: step.input(i) for i, name in enumerate(("x", "scale", "bias", "skip"))}
    wanted = {name: step.outputs[i] if i < len(step.outputs) else None for i, name in enumerate(("y", "mean", "inverse", "sum"))}
    views = {name: o for name, o in {**given, **wanted}.items() if o is not None}
    if mode == 2:
        if "mean" in views or "inverse" in views:
            raise CannotLower("group statistics as outputs")
        count = step.params["groups"]
        views = {name: _grouped(o, x, count) for name, o in views.items()}
        reduced = list(range(2, x.rank + 1))
    else:
        reduced = list(range(step.whole("axis"), x.rank))
    dims = views["x"].dims
    names = ["y", *(n for n in views if n != "y")]
    parts = parts_of(context, dims, reduced) if cut else None
    at = {name: i for i, name in enumerate(names)}
    inside = [at[n] for n in ("x", "skip") if n in at]

    def begin() -> tuple[Rows, Callable[[dict[int, str]], str]]:
        rows = Rows.begin(context, dims, reduced, [views[n] for n in names], [broadcast(views[n], dims) for n in names], parts=parts)
        s = rows.shader

        def element(offsets: dict[int, str]) -> str:
            v = s.load(views["x"], offsets[at["x"]]).text
            return v if "skip" not in at else s.let(f"{v} + {s.load(views['skip'], offsets[at['skip']]).text}", "f32")
        return rows, element

    def moments(rows: Rows, element: Callable[[dict[int, str]], str]) -> tuple[str, str]:
        """The mean, and the sum of squares around it (RMS: around 0)."""
        s, mean = rows.shader, "0.0"
        if mode != 1 or "mean" in at:
            acc = rows.var("f32", "0.0")
            with rows.loop(inside) as (offsets, _):
                s.add(f"{acc} += {element(offsets)};")
            mean = s.let(f"{rows.sum(acc)} / f32({rows.count()})", "f32")
        acc = rows.var("f32", "0.0")
        with rows.loop(inside) as (offsets, _):
            d = s.let(f"{element(offsets)} - {'0.0' if mode == 1 else mean}", "f32")
            s.add(f"{acc} += {d} * {d};")
        return mean, rows.sum(acc)
    built = []
    rows, element = begin()
    mean, squares = moments(rows, element)
    if parts is not None:
        pairs = Pairs(rows.rows.count, parts)
        pairs.write(rows, mean, squares)
        built.append(rows.dispatch())
        rows, element = begin()
        mean, squares = _joined(rows, pairs, mode == 1, "mean" in at)
    s, centre = rows.shader, "0.0" if mode == 1 else mean
    inverse = s.let(f"1.0 / sqrt({squares} / f32({s.param(rows.run.count)}) + {s.real(step.params['epsilon'])})", "f32")
    with rows.loop(list(at.values())) as (offsets, _):
        v = element(offsets)
        if "sum" in at:
            s.write(views["sum"], offsets[at["sum"]], real(v))
        y = f"({v} - {centre}) * {inverse}"
        for name, sign in (("scale", "*"), ("bias", "+")):
            if name in at:
                y = s.let(f"{y} {sign} {s.load(views[name], offsets[at[name]]).text}", "f32")
        s.write(views["y"], offsets[0], real(s.let(y, "f32")))
    with rows.once(), s.block(f"if ({rows.part} == 0)") if parts is not None else nullcontext():
        for name, text in (("mean", mean), ("inverse", inverse)):
            if name in at:
                s.write(views[name], rows.bases[at[name]], real(text))
    return [*built, rows.dispatch()]


def _joined(rows: Rows, pairs: Pairs, around_zero: bool, wanted: bool) -> tuple[str, str]:
    """The moments of a run from those of its parts: the squares around the means of parts, and of those around the mean of all."""
    s, mean = rows.shader, "0.0"
    if not around_zero or wanted:
        acc = rows.var("f32", "0.0")
        with pairs.walk(rows) as (length, a, _):
            s.add(f"{acc} += {length} * {a};")
        mean = s.let(f"{rows.sum(acc)} / f32({s.param(rows.run.count)})", "f32")
    acc = rows.var("f32", "0.0")
    with pairs.walk(rows) as (length, a, b):
        s.add(f"{acc} += {b}{'' if around_zero else f' + {length} * ({a} - {mean}) * ({a} - {mean})'};")
    return mean, rows.sum(acc)


def _grouped(operand: Operand, x: Operand, count: Dim) -> Operand:
    """Axis 1 (channels) as groups and channels of a group; operands that broadcast to x keep doing so."""
    channels = x.dims[1]
    axis = operand.rank - x.rank + 1
    return operand.split(axis, count, channels // count) if axis >= 0 else operand
