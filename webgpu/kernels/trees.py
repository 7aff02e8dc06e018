"""Trees: one invocation a row, tree after tree, so that weights are added in the order every executor adds them. Nodes of int32 only: those of int64 compare in double, which WGSL has not.

A node is two words, (the bits of a float, feature << shift | child); see the TREES record. Rows of different trees part ways at once, so there is nothing invocations could share."""
from __future__ import annotations

from ...kernels import LEAF_BITS, Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.expression import real, whole
from ..wgsl.shader import Built, Context, Shader, each, groups
from .base import Step, kernel

AVERAGE, SUM, MIN, MAX = range(4)


@kernel(Kernel.TREES)
def trees(step: Step, context: Context) -> list[Built]:
    """See the TREES record. Y is initialised, then combined in place: its row is this invocation's alone."""
    x, nodes, roots, features, weights = (step.there(i) for i in range(5))
    out, has = step.output(), step.outputs[1] if len(step.outputs) > 1 else None
    if nodes.dtype is not DType.INT32 or weights.dtype is not DType.FLOAT or out.dtype is not DType.FLOAT:
        raise CannotLower("decision trees that compare or add in double")
    aggregate, general = step.whole("aggregate"), step.whole("general")
    if aggregate in (MIN, MAX) and has is None and step.input(5) is not None:
        raise CannotLower("extremes of leaves without a note of which targets were spoken for")
    s = Shader(context)
    row = each(s, x.dims[0])
    shift, used = s.param(step.params["shift"]), s.param(features.dims[0])
    count = s.param(out.dims[1])
    base = s.let(f"{s.size(x.start)} + {row} * {s.size(x.strides[0])}")
    to = s.let(f"{s.size(out.start)} + {row} * {s.size(out.strides[0])}")
    flag = s.let(f"{s.size(has.start)} + {row} * {s.size(has.strides[0])}") if has is not None else ""
    start = {MIN: "sx_bits(0x7f800000u)", MAX: "sx_bits(0xff800000u)"}.get(aggregate, "0.0")
    with s.block(f"for (var k = 0; k < {count}; k += 1)"):
        s.write(out, s.let(f"{to} + k * {s.size(out.strides[1])}"), real(start))
        if has is not None:
            s.write(has, s.let(f"{flag} + k * {s.size(has.strides[1])}"), whole("0", 0, 0))
    with s.block(f"for (var t = 0; t < {s.param(roots.dims[0])}; t += 1)"):
        s.add(f"var node = {s.load(roots, s.let(f'{s.size(roots.start)} + t * {s.size(roots.strides[0])}')).text};")
        s.add("var bits = 0;")
        with s.block("loop"):
            place = s.let(f"{s.size(nodes.start)} + node * {s.size(nodes.strides[0])}")
            s.add(f"bits = {s.load(nodes, place).text};")
            word = s.let(f"bitcast<u32>({s.load(nodes, s.let(f'{place} + {s.size(nodes.strides[1])}')).text})", "u32")
            feature = s.let(f"i32(({word}{' & 0x7fffffffu' if general else ''}) >> u32({shift}))")
            s.add(f"if ({feature} >= {used}) {{ break; }}")
            column = s.load(features, s.let(f"{s.size(features.start)} + {feature} * {s.size(features.strides[0])}"))
            v = s.load(x, s.let(f"{base} + {column.text if column.rep == 'i32' else f'i32({column.text})'} * {s.size(x.strides[1])}"))
            seen = v.text if v.rep == "f32" else s.let(f"f32({v.text})", "f32")
            nan = f"({word} >> 31u) == 1u" if general else "false"
            passed = s.let(f"select({seen} <= bitcast<f32>(bits), {nan}, sx_isnan({seen}))", "bool")
            s.add(f"node = i32({word} & ((1u << u32({shift})) - 1u)) + select(1, 0, {passed});")
        s.add(f"var leaf = bits - {LEAF_BITS[0]};")
        _gather(s, step, to, flag, aggregate, count)
    if has is not None or aggregate == AVERAGE:
        _finish(s, step, to, flag, aggregate, count)
    return [s.dispatch(groups(s, x.dims[0]))]


def _gather(s: Shader, step: Step, to: str, flag: str, aggregate: int, count: str) -> None:
    """The weights of one leaf."""
    weights, targets, out, has = step.there(4), step.input(5), step.output(), step.outputs[1] if len(step.outputs) > 1 else None

    def combine(k: str, weight: str) -> None:
        place = s.let(f"{to} + {k} * {s.size(out.strides[1])}")
        old = s.load(out, place).text
        s.write(out, place, real(s.let({MIN: f"sx_min({old}, {weight})", MAX: f"sx_max({old}, {weight})"}.get(aggregate, f"{old} + {weight}"), "f32")))
        if has is not None:
            s.write(has, s.let(f"{flag} + {k} * {s.size(has.strides[1])}"), whole("1", 1, 1))
    if targets is None:
        with s.block(f"for (var k = 0; k < {count}; k += 1)"):
            combine("k", s.load(weights, s.let(f"{s.size(weights.start)} + leaf * {s.size(weights.strides[0])} + k * {s.size(weights.strides[1])}")).text)
        return
    s.add("var more = true;")
    with s.block("while (more)"):
        word = s.load(targets, s.let(f"{s.size(targets.start)} + leaf * {s.size(targets.strides[0])}")).text
        s.add(f"more = {word} >= 0;")
        target = s.let(f"select(~{word}, {word}, {word} >= 0)")
        weight = s.load(weights, s.let(f"{s.size(weights.start)} + leaf * {s.size(weights.strides[0])}")).text
        with s.block(f"if ({target} < {count})"):
            combine(target, weight)
        s.add("leaf += 1;")


def _finish(s: Shader, step: Step, to: str, flag: str, aggregate: int, count: str) -> None:
    """Averages; targets no leaf spoke for are 0."""
    out, has = step.output(), step.outputs[1] if len(step.outputs) > 1 else None
    with s.block(f"for (var k = 0; k < {count}; k += 1)"):
        place = s.let(f"{to} + k * {s.size(out.strides[1])}")
        value = s.load(out, place).text
        if aggregate == AVERAGE:
            value = s.let(f"{value} / f32({s.param(step.there(2).dims[0])})", "f32")
        if has is not None:
            told = s.load(has, s.let(f"{flag} + k * {s.size(has.strides[1])}")).text
            value = s.let(f"select(0.0, {value}, {told} != 0)", "f32")
        s.write(out, place, real(value))
