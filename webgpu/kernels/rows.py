"""Reduce, Softmax and Norm: many positions become one (or a row of as many).

Positions are two spaces: the *rows* (axes that stay) and the *run* (axes reduced). Two variants: one invocation a row, no barriers (software adapters, and short runs); or one workgroup
a row, whose invocations take every 64th element and meet in workgroup memory: by halves, six barriers; or, where WGSL has subgroups (tiles.py), each subgroup by itself and then all of them over
what the subgroups left, two barriers. Which invocations make a subgroup is the device's business: each counts its own, and no order of them is taken for granted.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ...dim import Dim
from ...expr import Compute, compute_type
from ...kernels import Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.expression import Value, fit, real, whole
from ..wgsl.shader import Built, Context, Shader, groups
from ..wgsl.space import Operand, Space, broadcast
from ..wgsl.storage import INT32
from .base import Step, coordinates_used, elements, emitter, kernel, least, most, repeated
from .tiles import with_subgroups

#: Runs at most this long are one invocation's work on any adapter.
SHORT = 32
LANES = 64


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

    @classmethod
    def begin(cls, context: Context, dims: Sequence[Dim], reduced: Sequence[int], operands: Sequence[Operand], strides: Sequence[Sequence[Dim]], *, serial: bool = False,
              keep: set[int] | frozenset[int] = frozenset()) -> Rows:
        """Over `dims`, of which `reduced` are the run. `strides[i]`: operand i's, for every axis."""
        kept = [a for a in range(len(dims)) if a not in reduced]
        rows = Space.of([dims[a] for a in kept], [[s[a] for a in kept] for s in strides], {kept.index(a) for a in keep if a in kept})
        run = Space.of([dims[a] for a in reduced], [[s[a] for a in reduced] for s in strides], {list(reduced).index(a) for a in keep if a in reduced})
        wide = not (context.cpu or serial or most(context, run.count) <= SHORT)
        shader = Shader(context, LANES)
        shader.subgroups = wide and with_subgroups(context)
        row = shader.let("group" if wide else f"group * {LANES} + lane")
        shader.add(f"if ({row} >= {shader.param(rows.count)}) {{ return; }}")
        at = shader.coordinates(rows, row)
        bases = [shader.let(shader.offset(rows, i, at, shader.size(o.start))) for i, o in enumerate(operands)]
        return cls(shader, list(operands), rows, run, wide, bases, row, at)

    @contextmanager
    def loop(self, numbers: Sequence[int]) -> Iterator[tuple[dict[int, str], list[str]]]:
        """A loop over the run; gives the offsets of the numbered operands, and the coordinates."""
        s = self.shader
        r = s.name("r")
        first, step = ("lane", str(LANES)) if self.wide else ("0", "1")
        with s.block(f"for (var {r} = {first}; {r} < {s.param(self.run.count)}; {r} += {step})"):
            at = s.coordinates(self.run, r)
            yield {i: s.let(s.offset(self.run, i, at, self.bases[i])) for i in numbers}, at

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
        rank, left, i = s.let("i32(subgroupExclusiveAdd(1u))"), s.name("a"), s.name("i")
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
        return self.shader.dispatch(self.rows.count if self.wide else groups(self.shader, self.rows.count))


# -- Reduce ---------------------------------------------------------------------------------------------------------------------------------------

SUM, PRODUCT, MIN, MAX, ARG_MIN, ARG_MAX, MEAN = range(7)


@kernel(Kernel.REDUCE)
def reduce(step: Step, context: Context) -> list[Built]:
    """See the REDUCE record."""
    x, out, op = step.there(0), step.output(), step.whole("op")
    mask = step.whole("axes")
    reduced = [a for a in range(x.rank) if mask >> a & 1]
    before = [step.prologue] if step.prologue is not None else []
    first = step.first if before else 0
    by_position, loaded = elements(step.inputs, before, first)
    if loaded:
        raise CannotLower("a reduction that loads by index")
    inside = by_position if before else [0]
    after = elements(step.inputs, step.epilogue, step.first)[0]
    numbers = list(dict.fromkeys([*inside, *after]))
    operands = [out, *(step.there(i) for i in numbers)]
    strides = [broadcast(out, x.dims), *(broadcast(step.there(i), x.dims) for i in numbers)]
    axes = coordinates_used(before)
    rows = Rows.begin(context, x.dims, reduced, operands, strides, serial=op in (ARG_MIN, ARG_MAX), keep=axes)
    kept = [a for a in range(x.rank) if a not in reduced]
    place = {n: i + 1 for i, n in enumerate(numbers)}

    def value(offsets: dict[int, str], at: list[str]) -> Value:
        def coordinate(axis: int) -> str:
            space, order, found = (rows.run, reduced, at) if axis in reduced else (rows.rows, kept, rows.at)
            where = space.where[order.index(axis)]
            return "0" if where is None else found[where]
        offsets = {n: offsets[place[n]] for n in inside}
        if before:
            return emitter(rows.shader, step, offsets, coordinate, x.dims, first=first).emit(before[0])
        return rows.shader.load(x, offsets[0])
    kind = before[0].type if before else compute_type(x.dtype)
    total = _accumulate(rows, op, kind, [place[n] for n in inside], value, bool(step.whole("last")), context)
    with rows.once():
        if step.epilogue:
            offsets = {n: rows.bases[place[n]] for n in after}
            total = emitter(rows.shader, step, offsets, lambda axis: "0", out.dims, total).emit(step.epilogue[0])
        rows.shader.write(out, rows.bases[0], total)
    return [rows.dispatch()]


def _accumulate(rows: Rows, op: int, kind: Compute, inside: list[int], value: Callable[[dict[int, str], list[str]], Value], last: bool, context: Context) -> Value:
    s = rows.shader
    if op in (ARG_MIN, ARG_MAX):
        return _arg(rows, op, inside, value, last)
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
        return real(s.let(f"{total} / f32({s.param(rows.run.count)})", "f32")) if op == MEAN else real(total)
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


def _arg(rows: Rows, op: int, inside: list[int], value: Callable[[dict[int, str], list[str]], Value], last: bool) -> Value:
    """The position of the least or greatest; NaN counts as both."""
    s = rows.shader
    mark = len(s.lines)
    s.add("")
    place, best = rows.var("i32", "0"), s.name("a")
    with rows.loop(inside) as (offsets, at):
        v = value(offsets, at)
        sign = ("<" if op == ARG_MIN else ">") + ("=" if last else "")
        better = f"{v.text} {sign} {best}"
        if v.rep == "f32":
            better = f"(({better}) && !sx_isnan({best})) || (sx_isnan({v.text}) && {'true' if last else f'!sx_isnan({best})'})"
        position = at[0] if at else "0"
        with s.block(f"if ({position} == 0 || {better})"):
            s.add(f"{best} = {v.text};")
            s.add(f"{place} = {position};")
    if not v.exact:
        raise CannotLower("the place of an extreme of integers that do not fit 32 bits")
    s.lines[mark] = f"    var {best}: {v.rep};"
    return whole(place, 0, min(max(most(s.context, rows.run.count) - 1, 0), INT32[1]))


# -- Softmax --------------------------------------------------------------------------------------------------------------------------------------

@kernel(Kernel.SOFTMAX)
def softmax(step: Step, context: Context) -> list[Built]:
    """See the SOFTMAX record. Types narrower than f32 round after every step, as the specification's function body does."""
    x, mask, out, mode, axis = step.there(0), step.input(1), step.output(), step.whole("mode"), step.whole("axis")
    operands = [out, x, *([mask] if mask is not None else [])]
    rows = Rows.begin(context, x.dims, [axis], operands, [broadcast(o, x.dims) for o in operands], serial=mode == 2)
    s = rows.shader
    numbers = list(range(1, len(operands)))
    factor = s.real(step.params["scale"])
    narrow = "" if x.dtype is DType.FLOAT or mode != 0 else "sx_f16" if x.dtype is DType.FLOAT16 else "sx_bf16"

    def element(offsets: dict[int, str]) -> str:
        v = s.load(x, offsets[1]).text
        if mask is None:
            return s.let(f"{v} * {factor}", "f32")
        return s.let(f"{v} * {factor} + {s.load(mask, offsets[2]).text}", "f32")
    if mode == 2:
        return [_hardmax(rows, element, numbers, out)]
    top = rows.var("f32", identity(MAX, "f32"))
    with rows.loop(numbers) as (offsets, _):
        s.add(f"{top} = sx_max({top}, {element(offsets)});")
    top = rows.join(top, "f32", MAX)
    total = rows.var("f32", "0.0")

    def power(offsets: dict[int, str]) -> str:
        return s.let(f"{narrow}(sx_exp({narrow}({element(offsets)} - {top})))", "f32")
    with rows.loop(numbers) as (offsets, _):
        s.add(f"{total} += {power(offsets)};")
    total = rows.sum(total)
    total = s.let(f"{narrow}({total})" if mode == 0 else f"sx_log({total})", "f32")
    with rows.loop([0, *numbers]) as (offsets, _):
        s.write(out, offsets[0], real(f"{power(offsets)} / {total}" if mode == 0 else f"{element(offsets)} - {top} - {total}"))
    return [rows.dispatch()]


def _hardmax(rows: Rows, element: Callable[[dict[int, str]], str], numbers: list[int], out: Operand) -> Built:
    s = rows.shader
    place = _arg(rows, ARG_MAX, numbers, lambda offsets, _: real(element(offsets)), False)
    with rows.loop([0]) as (offsets, at):
        s.write(out, offsets[0], real(f"select(0.0, 1.0, {at[0] if at else '0'} == {place.text})"))
    return rows.dispatch()


# -- Norm -----------------------------------------------------------------------------------------------------------------------------------------

@kernel(Kernel.NORM)
def norm(step: Step, context: Context) -> list[Built]:
    """See the NORM record: two passes for the mean and the variance around it, one to write."""
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
    rows = Rows.begin(context, dims, reduced, [views[n] for n in names], [broadcast(views[n], dims) for n in names])
    s = rows.shader
    at = {name: i for i, name in enumerate(names)}
    inside = [at[n] for n in ("x", "skip") if n in at]
    length = s.let(f"f32({s.param(rows.run.count)})", "f32")

    def element(offsets: dict[int, str]) -> str:
        v = s.load(views["x"], offsets[at["x"]]).text
        return v if "skip" not in at else s.let(f"{v} + {s.load(views['skip'], offsets[at['skip']]).text}", "f32")
    mean = "0.0"
    if mode != 1 or "mean" in at:
        acc = rows.var("f32", "0.0")
        with rows.loop(inside) as (offsets, _):
            s.add(f"{acc} += {element(offsets)};")
        mean = s.let(f"{rows.sum(acc)} / {length}", "f32")
    centre = "0.0" if mode == 1 else mean
    acc = rows.var("f32", "0.0")
    with rows.loop(inside) as (offsets, _):
        d = s.let(f"{element(offsets)} - {centre}", "f32")
        s.add(f"{acc} += {d} * {d};")
    inverse = s.let(f"1.0 / sqrt({rows.sum(acc)} / {length} + {s.real(step.params['epsilon'])})", "f32")
    with rows.loop(list(at.values())) as (offsets, _):
        v = element(offsets)
        if "sum" in at:
            s.write(views["sum"], offsets[at["sum"]], real(v))
        y = f"({v} - {centre}) * {inverse}"
        for name, sign in (("scale", "*"), ("bias", "+")):
            if name in at:
                y = s.let(f"{y} {sign} {s.load(views[name], offsets[at[name]]).text}", "f32")
        s.write(views["y"], offsets[0], real(s.let(y, "f32")))
    with rows.once():
        for name, text in (("mean", mean), ("inverse", inverse)):
            if name in at:
                s.write(views[name], rows.bases[at[name]], real(text))
    return [rows.dispatch()]


def _grouped(operand: Operand, x: Operand, count: Dim) -> Operand:
    """Axis 1 (channels) as groups and channels of a group; operands that broadcast to x keep doing so."""
    channels = x.dims[1]
    axis = operand.rank - x.rank + 1
    return operand.split(axis, count, channels // count) if axis >= 0 else operand
