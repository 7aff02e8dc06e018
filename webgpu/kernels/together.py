"""Steps that follow each other and become one dispatch: the least and the greatest of a tensor, in one pass over it, and the Maps of single numbers after them (DynamicQuantizeLinear's scale and
zero point). What these write, the same invocation reads again. A large tensor is read in parts by a dispatch before (rows.py)."""
from __future__ import annotations

from collections.abc import Sequence

from ...dim import Dim, product
from ...kernels import Kernel
from ..wgsl.expression import real
from ..wgsl.shader import Built, Context, TooManyBindings
from ..wgsl.space import Operand, broadcast
from .base import Step, coordinates_used, elements, emitter
from .rows import MAX, MIN, Pairs, Rows, combined, identity, parts_of

#: Steps looked at.
MOST = 6


def together(steps: Sequence[Step], context: Context) -> tuple[int, list[Built]]:
    """(how many of the steps, from the first, these dispatches are); (0, []) where the first one is by itself."""
    if len(steps) < 2 or not all(_is_extreme(s) for s in steps[:2]) or steps[0].there(0) != steps[1].there(0):
        return 0, []
    context.label = f"extremes of {steps[0].label}"
    count = 2
    while count < len(steps) and _is_single(steps[count]):
        count += 1
    ranges = dict(context.ranges)
    try:
        return count, _extremes(steps[:2], steps[2:count], context)
    except TooManyBindings:
        context.ranges.clear()
        context.ranges.update(ranges)
        return 0, []


def _is_extreme(step: Step) -> bool:
    """Whether it is the least or greatest of a whole tensor of floats."""
    if step.kind is not Kernel.REDUCE or step.prologue is not None or step.whole("op") not in (MIN, MAX):
        return False
    x = step.there(0)
    return x.dtype.is_float and step.whole("axes") == (1 << x.rank) - 1 and elements(step.inputs, step.epilogue, step.first) == ([], [])


def _is_single(step: Step) -> bool:
    """Whether it is a Map of single numbers."""
    if step.kind is not Kernel.MAP or coordinates_used(step.epilogue) or elements(step.inputs, step.epilogue, step.first)[1]:
        return False
    return all(o is None or (product(o.dims) == 1 and not o.packed) for o in (*step.inputs, *step.outputs))


def _extremes(pair: Sequence[Step], maps: Sequence[Step], context: Context) -> list[Built]:
    x = pair[0].there(0)
    ops = [step.whole("op") for step in pair]
    parts = parts_of(context, x.dims, range(x.rank))
    built = []
    if parts is not None:
        rows, (least, greatest) = _pair(x, ops, context, parts)
        pairs = Pairs(1, parts)
        pairs.write(rows, least, greatest)
        built.append(rows.dispatch())
        rows = Rows.begin(context, x.dims, range(x.rank), [x], [broadcast(x, x.dims)])
        names = [rows.var("f32", identity(op, "f32")) for op in ops]
        with pairs.walk(rows) as (_, *found):
            _add(rows, ops, names, found)
        totals = [rows.join(name, "f32", op) for op, name in zip(ops, names, strict=True)]
    else:
        rows, totals = _pair(x, ops, context, None)
    s = rows.shader
    with rows.once():
        for step, total in zip(pair, totals, strict=True):
            out = step.output()
            made = emitter(s, step, {}, lambda axis: "0", out.dims, real(total)).emit(step.epilogue[0]) if step.epilogue else real(total)
            s.write(out, s.let(s.size(out.start)), made)
        for step in maps:
            places = {i: s.let(s.size(step.there(i).start)) for i in elements(step.inputs, step.epilogue, step.first)[0]}
            expressions = emitter(s, step, places, lambda axis: "0", step.output().dims)
            for root, target in zip(step.epilogue, step.outputs, strict=True):
                if target is not None:
                    s.write(target, s.let(s.size(target.start)), expressions.emit(root))
    return [*built, rows.dispatch()]


def _pair(x: Operand, ops: Sequence[int], context: Context, parts: Dim | None) -> tuple[Rows, list[str]]:
    """A shader, and the two extremes of a tensor (of its part) in it."""
    rows = Rows.begin(context, x.dims, range(x.rank), [x], [broadcast(x, x.dims)], parts=parts)
    names = [rows.var("f32", identity(op, "f32")) for op in ops]
    with rows.loop([0]) as (offsets, _):
        _add(rows, ops, names, [rows.shader.load(x, offsets[0]).text] * 2)
    return rows, [rows.join(name, "f32", op) for op, name in zip(ops, names, strict=True)]


def _add(rows: Rows, ops: Sequence[int], names: Sequence[str], values: Sequence[str]) -> None:
    for op, name, value in zip(ops, names, values, strict=True):
        rows.shader.add(f"{name} = {combined(op, 'f32')(name, value)};")
