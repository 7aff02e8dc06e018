"""Compact: results whose number data decide. Y has room for all; `count` says how many there are, and what lies beyond is not written.

- NonZero: one workgroup. Each of 256 invocations counts its stretch, a running sum in workgroup memory says where its results begin, then it writes them. Also on software adapters: there are
  nine barriers in all.
- Unique: every row looks for the first one like it, then counts the distinct ones before it. Quadratic, in three dispatches, without sorting.
- NonMaxSuppression: a workgroup a (batch, class): the best box left is found together, then every invocation drops those of its own that overlap it; a second dispatch puts the classes together.
"""
from __future__ import annotations

from dataclasses import replace

from ...dim import ceildiv, dim_max, floordiv, product
from ...kernels import Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.expression import Value, whole
from ..wgsl.shader import INDEX, Built, Context, Shader, each, groups
from ..wgsl.space import Operand, Space, Temporary
from .base import LARGEST, Step, kernel, most

LANES = 256


@kernel(Kernel.COMPACT)
def compact(step: Step, context: Context) -> list[Built]:
    """See the COMPACT record."""
    return (_nonzero, _unique, _suppress)[step.whole("op")](step, context)


def _scalar(s: Shader, operand: Operand) -> str:
    return s.let(s.size(operand.start))


def _size(context: Context, operand: Operand) -> int:
    return int(min(most(context, product(operand.dims)), LARGEST))


def _nonzero(step: Step, context: Context) -> list[Built]:
    x, out, count = step.there(0), step.outputs[0], step.outputs[1]
    space = Space.of(x.dims, [x.strides], set(range(x.rank)), ordered=True)
    s = Shader(context, LANES)
    s.add("if (group >= 1) { return; }")
    s.declare(f"var<workgroup> sums: array<i32, {LANES}>;")
    n = s.param(space.count)
    s.add(f"let each = ({n} + {LANES - 1}) / {LANES};")
    s.add(f"let first = min(lane * each, {n});")
    s.add(f"let end = min(first + each, {n});")

    def test(at: list[str]) -> str:
        v = s.load(x, s.let(s.offset(space, 0, at, s.size(x.start))))
        # Of the bits: comparisons say nothing of NaN, and denormals are no zeros.
        return f"((bitcast<u32>({v.text}) & 0x7fffffffu) != 0u)" if v.rep == "f32" else f"({v.text} != {'0u' if v.rep == 'u32' else '0'})"
    s.add("var found = 0;")
    with s.block("for (var e = first; e < end; e += 1)", turns=ceildiv(space.count, LANES)):
        s.add(f"if {test(s.coordinates(space, 'e'))} {{ found += 1; }}")
    s.add("sums[lane] = found;")
    s.add("workgroupBarrier();")
    for reach in (1, 2, 4, 8, 16, 32, 64, 128):
        s.add(f"let before{reach} = select(0, sums[max(lane - {reach}, 0)], lane >= {reach});")
        s.add("workgroupBarrier();")
        s.add(f"sums[lane] += before{reach};")
        s.add("workgroupBarrier();")
    s.add("var row = sums[lane] - found;")
    if count is not None:
        with s.block(f"if (lane == {LANES - 1})"):
            s.write(count, _scalar(s, count), whole(f"sums[{LANES - 1}]", 0, _size(context, x)))
    if out is not None and x.rank:
        with s.block("for (var e = first; e < end; e += 1)", turns=ceildiv(space.count, LANES)):
            at = s.coordinates(space, "e")
            with s.block(f"if {test(at)}"):
                for a in range(x.rank):
                    where = space.where[a]
                    text = "0" if where is None else at[where]
                    s.write(out, s.let(f"{s.size(out.start)} + row * {s.size(out.strides[0])} + {s.size(a * out.strides[1])}"), whole(text, 0, int(max(most(context, x.dims[a]) - 1, 0))))
                s.add("row += 1;")
    return [s.dispatch(1)]


def _compare(s: Shader, x: Operand, inner: Space) -> None:
    """compare(i, j): -1, 0 or 1 as row i comes before, equals or comes after row j. NaN is last, and equal to itself."""
    with s.function("compare(i: i32, j: i32) -> i32"):
        a, b = (s.let(f"{s.size(x.start)} + {r} * {s.size(x.strides[0])}") for r in "ij")
        with s.block(f"for (var e = 0; e < {s.param(inner.count)}; e += 1)"):
            at = s.coordinates(inner, "e")
            v, w = (s.load(x, s.let(s.offset(inner, 0, at, base))) for base in (a, b))
            if not v.exact:
                raise CannotLower("the order of integers that do not fit 32 bits")
            if v.rep == "f32":
                s.add(f"if (sx_isnan({v.text}) || sx_isnan({w.text})) {{")
                s.add(f"    if (sx_isnan({v.text}) && sx_isnan({w.text})) {{ continue; }}")
                s.add(f"    return select(-1, 1, sx_isnan({v.text}));")
                s.add("}")
            s.add(f"if ({v.text} < {w.text}) {{ return -1; }}")
            s.add(f"if ({v.text} > {w.text}) {{ return 1; }}")
        s.add("return 0;")


def _unique(step: Step, context: Context) -> list[Built]:
    x, in_order = step.there(0), step.whole("sorted")
    out, count, inverse, counts = (step.outputs[i] if i < len(step.outputs) else None for i in range(4))
    n, most_rows = x.dims[0], int(most(context, x.dims[0]))
    inner = Space.of(x.dims[1:], [x.strides[1:]], ordered=True)
    first, rank = (Temporary.operand(DType.INT32, (n,)) for _ in range(2))
    built = []
    s = Shader(context)
    _compare(s, x, inner)
    i = each(s, n)
    s.add(f"var j = 0; while (j < {i} && compare({i}, j) != 0) {{ j += 1; }}", turns=n)
    s.write(first, i, whole("j", 0, most_rows))
    built.append(s.dispatch(groups(s, n)))
    s = Shader(context)
    if in_order:
        _compare(s, x, inner)
    i = each(s, n)
    s.add(f"if ({s.load(first, i).text} != {i}) {{ return; }}")
    s.add("var place = 0;")
    s.add("var times = 0;")
    with s.block(f"for (var j = 0; j < {s.param(n)}; j += 1)"):
        like = s.load(first, "j").text
        s.add(f"if ({like} == {i}) {{ times += 1; }}")
        before = f"compare(j, {i}) < 0" if in_order else f"j < {i}"
        with s.block(f"if ({like} == j && j != {i})"):
            s.add(f"if ({before}) {{ place += 1; }}")
    s.write(rank, i, whole("place", 0, most_rows))
    for operand, text in ((out, i), (counts, "times")):
        if operand is not None:
            s.write(operand, s.let(f"{s.size(operand.start)} + place * {s.size(operand.strides[0])}"), whole(text, 0, most_rows))
    built.append(s.dispatch(groups(s, n)))
    s = Shader(context)
    i = each(s, n + 1)
    with s.block(f"if ({i} == {s.param(n)})"):
        s.add("var total = 0;")
        with s.block(f"for (var j = 0; j < {s.param(n)}; j += 1)"):
            s.add(f"if ({s.load(first, 'j').text} == j) {{ total += 1; }}")
        if count is not None:
            s.write(count, _scalar(s, count), whole("total", 0, most_rows))
        s.add("return;")
    if inverse is not None:
        s.write(inverse, s.let(f"{s.size(inverse.start)} + {i} * {s.size(inverse.strides[0])}"), replace_range(s.load(rank, s.load(first, i).text), most_rows))
    built.append(s.dispatch(groups(s, n + 1)))
    return built


def replace_range(value: Value, high: int) -> Value:
    """An i32 known to lie in [0, high]."""
    return replace(value, low=0, high=high)


def _suppress(step: Step, context: Context) -> list[Built]:
    boxes, scores, out, count = step.there(0), step.there(1), step.output(0), step.output(1)
    limit, iou, threshold = (step.input(i) for i in (2, 3, 4))
    batch, classes, n = scores.dims
    room = floordiv(out.dims[0], dim_max(batch * classes, 1))
    alive = Temporary.operand(DType.INT32, (batch, classes, n))
    kept = Temporary.operand(DType.INT32, (batch, classes, room + 1))       # how many, then which
    lanes = 64
    s = Shader(context, lanes)
    total = batch * classes
    s.add(f"if (group >= {s.param(total)}) {{ return; }}")
    c, b = s.let(f"group % {s.param(classes)}"), s.let(f"group / {s.param(classes)}")
    s.declare("struct Box { low: vec2<f32>, high: vec2<f32> }")
    with s.function("box(b: i32, i: i32) -> Box"):
        base = s.let(f"{s.size(boxes.start)} + b * {s.size(boxes.strides[0])} + i * {s.size(boxes.strides[1])}")
        corners = [s.load(boxes, s.let(f"{base} + {s.size(k * boxes.strides[2])}")).text for k in range(4)]
        s.add(f"let a = vec2<f32>({corners[0]}, {corners[1]}); let z = vec2<f32>({corners[2]}, {corners[3]});")
        s.add("return Box(a - z / 2.0, a + z / 2.0);" if step.whole("center") else "return Box(min(a, z), max(a, z));")
    for name, rep in (("best_score", "f32"), ("best_at", "i32")):
        s.declare(f"var<workgroup> {name}: array<{rep}, {lanes}>;")
    asked = s.load(limit, _scalar(s, limit)).text if limit is not None else "0"
    overlap = s.load(iou, _scalar(s, iou)).text if iou is not None else "0.0"
    s.fault(f"!({overlap} >= 0.0 && {overlap} <= 1.0) || min({asked}, {s.param(n)}) > {s.param(room)}", INDEX)
    row, line = s.let(f"group * {s.param(n)}"), s.let(f"group * {s.param(room + 1)}")
    start = s.let(f"{s.size(scores.start)} + {b} * {s.size(scores.strides[0])} + {c} * {s.size(scores.strides[1])}")
    with s.block(f"for (var i = lane; i < {s.param(n)}; i += {lanes})"):
        v = s.load(scores, s.let(f"{start} + i * {s.size(scores.strides[2])}")).text
        over = f"{v} > {s.load(threshold, _scalar(s, threshold)).text}" if threshold is not None else "true"
        s.write(alive, s.let(f"{row} + i"), whole(f"select(0, 1, {over})", 0, 1))
    s.add("var found = 0;")
    with s.block(f"for (var turn = 0; turn < min({asked}, min({s.param(n)}, {s.param(room)})); turn += 1)"):
        s.add("var top = 0.0;")
        s.add("var at = -1;")
        with s.block(f"for (var i = lane; i < {s.param(n)}; i += {lanes})"):
            v = s.load(scores, s.let(f"{start} + i * {s.size(scores.strides[2])}")).text
            there = s.load(alive, s.let(f"{row} + i")).text
            # Of equal scores the lower box is first; NaN is last.
            s.add(f"if ({there} != 0 && (at < 0 || {v} > top || (sx_isnan(top) && !sx_isnan({v})))) {{ top = {v}; at = i; }}")
        s.add("best_score[lane] = top;")
        s.add("best_at[lane] = at;")
        s.add("workgroupBarrier();")
        with s.block(f"for (var j = 0; j < {lanes}; j += 1)"):
            s.add("let other = best_at[j];")
            s.add("let score = best_score[j];")
            s.add("let better = at < 0 || score > top || (sx_isnan(top) && !sx_isnan(score)) || ((score == top || (sx_isnan(score) && sx_isnan(top))) && other < at);")
            s.add("if (other >= 0 && better) { top = score; at = other; }")
        with s.block("if (at >= 0)"):
            with s.block("if (lane == 0)"):
                s.write(kept, s.let(f"{line} + 1 + turn"), whole("at"))
            s.add("found = turn + 1;")
            s.add(f"let best = box({b}, at);")
            s.add("let size = (best.high.x - best.low.x) * (best.high.y - best.low.y);")
            with s.block(f"for (var i = lane; i < {s.param(n)}; i += {lanes})"):
                s.add(f"let one = box({b}, i);")
                s.add("let sides = min(one.high, best.high) - max(one.low, best.low);")
                s.add("let both = select(0.0, sides.x * sides.y, sides.x > 0.0 && sides.y > 0.0);")
                s.add("let area = (one.high.x - one.low.x) * (one.high.y - one.low.y);")
                s.add("let union_ = area + size - both;")
                with s.block(f"if (i == at || (both > 0.0 && area > 0.0 && size > 0.0 && union_ > 0.0 && both / union_ > {overlap}))"):
                    s.write(alive, s.let(f"{row} + i"), whole("0", 0, 0))
        s.add("workgroupBarrier();")
    with s.block("if (lane == 0)"):
        s.write(kept, line, whole("found"))
    built = [s.dispatch(total)]
    s = Shader(context)
    item = each(s, total + 1)
    line = s.let(f"{item} * {s.param(room + 1)}")
    s.add("var before = 0;")
    with s.block(f"for (var j = 0; j < {item}; j += 1)"):
        s.add(f"before += {s.load(kept, s.let(f'j * {s.param(room + 1)}')).text};")
    with s.block(f"if ({item} == {s.param(total)})"):
        s.write(count, _scalar(s, count), whole("before", 0, LARGEST))
        s.add("return;")
    with s.block(f"for (var i = 0; i < {s.load(kept, line).text}; i += 1)", turns=room):
        place = s.let(f"{s.size(out.start)} + (before + i) * {s.size(out.strides[0])}")
        for k, text in enumerate((f"{item} / {s.param(classes)}", f"{item} % {s.param(classes)}", s.load(kept, s.let(f"{line} + 1 + i")).text)):
            s.write(out, s.let(f"{place} + {s.size(k * out.strides[1])}"), whole(text, 0, LARGEST))
    return [*built, s.dispatch(groups(s, total + 1))]
