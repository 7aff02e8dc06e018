"""Scan and Sort: one invocation a line."""
from __future__ import annotations

from ...expr import Compute, compute_type
from ...kernels import Kernel
from ...lowering import CannotLower
from ..wgsl.expression import fit, real, whole
from ..wgsl.shader import Built, Context
from .base import Step, kernel, most, repeated
from .rows import Rows
from .spectra import linear_attention


@kernel(Kernel.SCAN)
def scan(step: Step, context: Context) -> list[Built]:
    """Running sums and products; see the SCAN record."""
    x, out, axis, op = step.there(0), step.output(), step.whole("axis"), step.whole("op")
    if op == 2:
        return linear_attention(step, context)
    exclusive, reverse = step.whole("exclusive"), step.whole("reverse")
    rows = Rows.begin(context, out.dims, [axis], [out, x], [out.strides, x.strides], serial=True, keep={axis})
    s = rows.shader
    float_ = x.dtype.is_float
    n = s.param(rows.run.count)
    acc = rows.var("f32" if float_ else "i32", ("0.0", "1.0")[op] if float_ else str(op))
    with s.block(f"for (var r = 0; r < {n}; r += 1)"):
        k = s.let(f"{n} - 1 - r") if reverse else "r"
        to, source = (s.let(f"{rows.bases[i]} + {k} * {s.size(o.strides[axis])}") for i, o in enumerate((out, x)))
        v = s.load(x, source)
        text = v.text if v.rep != "u32" else f"bitcast<i32>({v.text})"
        update = f"{acc} = {acc} {'+*'[op]} {text};"
        if not exclusive:
            s.add(update)
        if float_:
            value = real(acc)
        else:
            wide = compute_type(x.dtype) is not Compute.I32
            if op == 1 and wide:
                raise CannotLower("running products of 64-bit integers")
            count = most(context, rows.run.count)
            value = fit(whole(acc), *repeated(v, count), wide) if op == 0 else whole(acc)
        s.write(out, to, value)
        if exclusive:
            s.add(update)
    return [rows.dispatch()]


@kernel(Kernel.SORT)
def sort(step: Step, context: Context) -> list[Built]:
    """The first k by selection: each step finds the best element after the one before, so that no memory is needed. Equal ones keep their order."""
    x, out, indices, axis, largest = step.there(0), step.outputs[0], step.outputs[1], step.whole("axis"), step.whole("largest")
    wanted = [o for o in (out, indices) if o is not None]
    operands = [x, *wanted]
    rows = Rows.begin(context, x.dims, [axis], operands, [o.strides for o in operands], serial=True, keep={axis})
    s = rows.shader
    n, k = s.param(x.dims[axis]), s.param(wanted[0].dims[axis])
    rep = s.read(x, "0").rep
    s.add(f"var last: {rep};")
    s.add("var last_at = -1;")
    with s.block(f"for (var r = 0; r < {k}; r += 1)"):
        s.add(f"var best: {rep};")
        s.add("var best_at = -1;")
        with s.block(f"for (var j = 0; j < {n}; j += 1)"):
            v = s.load(x, s.let(f"{rows.bases[0]} + j * {s.size(x.strides[axis])}"))
            if not v.exact:
                raise CannotLower("the order of integers that do not fit 32 bits")
            s.add(f"let after = last_at < 0 || {_before('last', v.text, rep, largest)} || (!{_before(v.text, 'last', rep, largest)} && j > last_at);")
            s.add(f"if (after && (best_at < 0 || {_before(v.text, 'best', rep, largest)})) {{ best = {v.text}; best_at = j; }}")
        s.add("last = best;")
        s.add("last_at = best_at;")
        for i, o in enumerate(wanted):
            place = s.let(f"{rows.bases[1 + i]} + r * {s.size(o.strides[axis])}")
            value = whole("best_at", -1, min(max(most(context, x.dims[axis]) - 1, 0), (1 << 31) - 1)) if o is indices else real("best") if rep == "f32" else type(v)("best", rep, v.low, v.high)
            s.write(o, place, value)
    return [rows.dispatch()]


def _before(a: str, b: str, rep: str, largest: int) -> str:
    """Whether a comes strictly before b; NaN counts as largest."""
    if rep != "f32":
        return f"({a} {'>' if largest else '<'} {b})"
    if largest:
        return f"({a} > {b} || (sx_isnan({a}) && !sx_isnan({b})))"
    return f"({a} < {b} || (sx_isnan({b}) && !sx_isnan({a})))"
