"""Pool: one invocation an output element, over the taps of its window."""
from __future__ import annotations

from contextlib import ExitStack

from ...dim import product
from ...kernels import Kernel
from ...lowering import CannotLower
from ..wgsl.expression import Value, real, whole
from ..wgsl.shader import Built, Context, Shader, each, groups
from ..wgsl.space import Space
from ..wgsl.storage import interval
from .base import Step, compute_rep, kernel, most, offsets_in

MAX, AVERAGE, LP = range(3)


@kernel(Kernel.POOL)
def pool(step: Step, context: Context) -> list[Built]:
    """See the POOL record."""
    x, out, op, spatial = step.there(0), step.output(), step.whole("op"), step.whole("spatial")
    indices = step.outputs[1] if len(step.outputs) > 1 else None
    operands = [out, *([indices] if indices is not None else []), x]
    moved = set(range(2, out.rank))
    strides = [o.strides for o in operands[:-1]] + [tuple(0 if a in moved else s for a, s in enumerate(x.strides))]
    keep = moved | ({0, 1} if indices is not None else set())
    space = Space.of(out.dims, strides, keep)
    s = Shader(context)
    at = s.coordinates(space, each(s, space.count))
    places = offsets_in(s, space, operands, at)
    where = [at[w] if (w := space.where[a]) is not None else "0" for a in range(out.rank)]
    rep = compute_rep(x)
    if op != MAX and rep != "f32":
        raise CannotLower("an average of integers")
    first = x.low if x.low != float("-inf") else 0
    s.add(f"var total: {rep} = {'sx_bits(0xff800000u)' if rep == 'f32' and op == MAX else '0.0' if rep == 'f32' else int(first) if first > -(1 << 31) else '-2147483647 - 1'};")
    s.add("var count: f32 = 0.0;")
    s.add("var place: i32 = -1;")
    power = s.real(step.params["p"]) if op == LP else ""
    windows = ExitStack()
    offset, plane, inside, within = places[-1], "0", [], []
    for i in range(spatial):
        k = f"k{i}"
        windows.enter_context(s.block(f"for (var {k} = 0; {k} < {s.param(step.params['kernel'][i])}; {k} += 1)"))
        size, pad = s.size(x.dims[2 + i]), s.size(step.params["pads"][i])
        position = s.let(f"{where[2 + i]} * {s.size(step.params['strides'][i])} - {pad} + {k} * {s.size(step.params['dilations'][i])}")
        inside.append(f"({position} >= 0) & ({position} < {size})")
        within.append(f"{position} < {size} + {s.size(step.params['pads_end'][i])}")
        offset = s.let(f"{offset} + {position} * {s.size(x.strides[2 + i])}")
        plane = s.let(f"{plane} * {size} + {position}") if not step.whole("storage_order") else s.let(f"{plane} + {position} * {s.size(product(x.dims[2:2 + i]))}")
    if op == AVERAGE and step.whole("count_include_pad"):
        s.add(f"if ({' && '.join(within)}) {{ count += 1.0; }}")
    with s.block(f"if ({' & '.join(inside)})"):
        v = s.load(x, offset)
        text = v.text if v.rep == rep else f"bitcast<{rep}>({v.text})"
        if op == MAX:
            if not v.exact or v.rep != rep:
                raise CannotLower("a maximum of integers that do not fit 32 bits")
            better = f"place < 0 || {text} > total" + (f" || (sx_isnan({text}) && !sx_isnan(total))" if rep == "f32" else "")
            s.add(f"if ({better}) {{ total = {text}; place = {plane}; }}")
        else:
            s.add(f"total += {text if op == AVERAGE else f'sx_pow(abs({text}), {power})'};")
            if op == AVERAGE and not step.whole("count_include_pad"):
                s.add("count += 1.0;")
    windows.close()
    if op == MAX:
        s.write(out, places[0], real("total") if rep == "f32" else Value("total", rep, max(interval(x.dtype)[0], x.low), min(interval(x.dtype)[1], x.high)))
        if indices is not None:
            image = s.size(product(x.dims[2:]))
            total = s.let(f"({where[0]} * {s.size(x.dims[1])} + {where[1]}) * {image} + place")
            bound = 1.0
            for d in x.dims:
                bound *= most(context, d)
            if bound > (1 << 31) - 1:
                raise CannotLower("indices of a tensor without an upper bound below 2^31")
            s.write(indices, places[1], whole(total, -1, int(bound)))
    else:
        s.write(out, places[0], real("total / count" if op == AVERAGE else f"sx_pow(total, 1.0 / {power})"))
    return [s.dispatch(groups(s, space.count))]
