"""Sample: GridSample, RoiAlign and MaxRoiPool, one invocation an output element. Formulas: core/ops/sample.py and core/ops/pool.py."""
from __future__ import annotations

from contextlib import ExitStack

from ...kernels import Kernel
from ...lowering import CannotLower
from ..wgsl.expression import Value, real
from ..wgsl.shader import INDEX, Built, Context, Shader, each, groups
from ..wgsl.space import Operand, Space
from .base import Step, kernel, offsets_in

LINEAR, NEAREST, CUBIC = range(3)
ZEROS, BORDER, REFLECTION = range(3)

#: Pixels a region may reach to.
LARGEST_REGION = "16777216.0"

#: A place folded back at both borders (low, high); a place as an index of an axis; how much a tap (-1, 0, 1, 2 from the floor) counts at fraction t (Keys, a = -0.75).
HELPERS = """fn reflected(x: f32, low: f32, high: f32) -> f32 {
    let span = high - low;
    if (span <= 0.0) { return low; }
    let away = sx_mod(abs(x - low), 2.0 * span);
    return low + select(away, 2.0 * span - away, away > span);
}
fn index_of(x: f32, size: i32) -> i32 { return i32(clamp(select(x, 0.0, sx_isnan(x)), 0.0, f32(size - 1))); }
fn keys(tap: i32, t: f32) -> f32 {
    let d = abs(f32(tap) - t);
    let near = (1.25 * d - 2.25) * d * d + 1.0;
    let far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0;
    return select(far, near, tap == 0 || tap == 1);
}"""


@kernel(Kernel.SAMPLE)
def sample(step: Step, context: Context) -> list[Built]:
    """See the SAMPLE record."""
    return [(_grid, _roi_align, _roi_pool)[step.whole("op")](step, context)]


def _grid(step: Step, context: Context) -> Built:
    x, grid, out, mode, padding = step.there(0), step.there(1), step.output(), step.whole("mode"), step.whole("padding")
    if mode != NEAREST and not x.dtype.is_float:
        raise CannotLower("interpolation between integers")
    r = x.rank - 2
    space = Space.of(out.dims, [out.strides, [*x.strides[:2], *[0] * r], [grid.strides[0], 0, *grid.strides[1:-1]]])
    s = Shader(context)
    s.declare(HELPERS)
    at = s.coordinates(space, each(s, space.count))
    to, source, point = offsets_in(s, space, [out, x, grid], at)
    places, sizes = [], []
    for i in range(r):
        size = s.param(x.dims[2 + i])
        sizes.append(size)
        n = s.load(grid, s.let(f"{point} + {s.size((r - 1 - i) * grid.strides[-1])}")).text
        text = f"({n} + 1.0) / 2.0 * f32({size} - 1)" if step.whole("align_corners") else f"(({n} + 1.0) * f32({size}) - 1.0) / 2.0"
        place = s.let(f"round({text})" if mode == NEAREST else text, "f32")
        if padding == BORDER and mode != CUBIC:
            place = s.let(f"sx_min(sx_max({place}, 0.0), f32({size} - 1))", "f32")
        elif padding == REFLECTION:
            place = s.let(f"reflected({place}, {_borders(step, size)})", "f32")
        places.append(place)
    if mode == NEAREST:
        inside = []
        for i, size in enumerate(sizes):
            k, there = _place(s, step, f"trunc({places[i]})", size)
            inside.append(there)
            source = s.let(f"{source} + {k} * {s.size(x.strides[2 + i])}")
        v = s.load(x, source)
        s.write(out, to, Value(s.let(f"select({v.rep}(0), {v.text}, {' & '.join(inside)})", v.rep), v.rep, min(v.low, 0), max(v.high, 0)))
        return s.dispatch(groups(s, space.count))
    s.add("var sum = 0.0;")
    loops = ExitStack()
    weight, offset, conditions = "1.0", source, []
    for i, size in enumerate(sizes):
        floor, fraction = s.let(f"floor({places[i]})", "f32"), s.let(f"{places[i]} - floor({places[i]})", "f32")
        k = s.name("k")
        loops.enter_context(s.block(f"for (var {k} = {-1 if mode == CUBIC else 0}; {k} <= {2 if mode == CUBIC else 1}; {k} += 1)"))
        w = s.let(f"keys({k}, {fraction})" if mode == CUBIC else f"select({fraction}, 1.0 - {fraction}, {k} == 0)", "f32")
        weight = w if weight == "1.0" else s.let(f"{weight} * {w}", "f32")
        index, there = _place(s, step, f"{floor} + f32({k})", size)
        conditions.append(there)
        offset = s.let(f"{offset} + {index} * {s.size(x.strides[2 + i])}")
    s.add(f"sum = fma(select(0.0, {weight}, {' & '.join(conditions)}), {s.load(x, offset).text}, sum);")
    loops.close()
    s.write(out, to, real("sum"))
    return s.dispatch(groups(s, space.count))


def _borders(step: Step, size: str) -> str:
    return f"0.0, f32({size} - 1)" if step.whole("align_corners") else f"-0.5, f32({size}) - 0.5"


def _place(s: Shader, step: Step, text: str, size: str) -> tuple[str, str]:
    """A whole-number place as an index, and whether it counts."""
    place = s.let(text, "f32")
    if step.whole("padding") == REFLECTION:
        place = s.let(f"trunc(reflected({place}, {_borders(step, size)}))", "f32")
    inside = s.let(f"({place} >= 0.0) & ({place} < f32({size}))", "bool") if step.whole("padding") == ZEROS else "true"
    return s.let(f"index_of({place}, {size})"), inside


def _region(step: Step, context: Context) -> tuple[Shader, Space, str, str, list[str]]:
    """Of regions: shader, space, the output's place, the region's number, the coordinates (region, channel, row, column)."""
    out = step.output()
    space = Space.of(out.dims, [out.strides], {0, 1, 2, 3})
    s = Shader(context)
    at = s.coordinates(space, each(s, space.count))
    to, = offsets_in(s, space, [out], at)
    found = [at[w] if (w := space.where[a]) is not None else "0" for a in range(4)]
    return s, space, to, found[0], found


def _corner(s: Shader, rois: Operand, r: str, number: int) -> str:
    return s.load(rois, s.let(f"{s.size(rois.start)} + {r} * {s.size(rois.strides[0])} + {s.size(number * rois.strides[1])}")).text


def _roi_align(step: Step, context: Context) -> Built:
    x, rois, images, out = step.there(0), step.there(1), step.there(2), step.output()
    if not x.dtype.is_float:
        raise CannotLower("regions of integers")
    s, space, to, r, at = _region(step, context)
    image = s.load(images, s.let(f"{s.size(images.start)} + {r} * {s.size(images.strides[0])}")).text
    s.fault(f"{image} < 0 || {image} >= {s.param(x.dims[0])}", INDEX)
    base = s.let(f"{s.size(x.start)} + clamp({image}, 0, {s.param(x.dims[0])} - 1) * {s.size(x.strides[0])} + {at[1]} * {s.size(x.strides[1])}")
    half, ratio = step.whole("coordinates") == 0, step.whole("sampling_ratio")
    scale = s.real(step.params["spatial_scale"])
    lines = []
    for axis, (first, last) in enumerate(((1, 3), (0, 2))):
        start, end = (s.let(f"{_corner(s, rois, r, c)} * {scale}{' - 0.5' if half else ''}", "f32") for c in (first, last))
        extent = s.let(f"{end} - {start}" if half else f"max({end} - {start}, 1.0)", "f32")
        step_ = s.let(f"{extent} / f32({s.param(out.dims[2 + axis])})", "f32")
        # As many samples as pixels a bin covers: a region that is no number, or larger than any image, would have no end.
        s.fault(f"!(abs({start}) < {LARGEST_REGION} && abs({end}) < {LARGEST_REGION})", INDEX)
        grid = s.param(ratio) if ratio > 0 else s.let(f"i32(clamp(ceil({step_}), 0.0, {LARGEST_REGION}))")
        lines.append((start, step_, grid, s.param(x.dims[2 + axis]), at[2 + axis]))
    maximum = step.whole("mode") == 1
    s.add(f"var total = {'sx_bits(0xff800000u)' if maximum else '0.0'};")
    loops = ExitStack()
    axes = []
    for start, step_, grid, size, bin_ in lines:
        k = s.name("k")
        loops.enter_context(s.block(f"for (var {k} = 0; {k} < {grid}; {k} += 1)"))
        y = s.let(f"{start} + f32({bin_}) * {step_} + (f32({k}) + 0.5) * {step_} / f32(max({grid}, 1))", "f32")
        counts = s.let(f"({y} >= -1.0) & ({y} <= f32({size}))", "bool")
        held = s.let(f"clamp({y}, 0.0, f32({size} - 1))", "f32")
        low = s.let(f"min(i32({held}), {size} - 1)")
        high = s.let(f"min({low} + 1, {size} - 1)")
        fraction = s.let(f"{held} - f32({low})", "f32")
        axes.append(((low, s.let(f"select(0.0, 1.0 - {fraction}, {counts})", "f32")), (high, s.let(f"select(0.0, {fraction}, {counts})", "f32"))))
    for row, wy in axes[0]:
        for column, wx in axes[1]:
            v = s.load(x, s.let(f"{base} + {row} * {s.size(x.strides[2])} + {column} * {s.size(x.strides[3])}")).text
            s.add(f"total = sx_max(total, {v} * ({wy} * {wx}));" if maximum else f"total += {v} * ({wy} * {wx});")
    loops.close()
    count = f"({lines[0][2]} * {lines[1][2]})"
    s.write(out, to, real(s.let(f"select(total, 0.0, {count} <= 0)" if maximum else f"total / f32(max({count}, 1))", "f32")))
    return s.dispatch(groups(s, space.count))


def _roi_pool(step: Step, context: Context) -> Built:
    x, rois, out = step.there(0), step.there(1), step.output()
    if not x.dtype.is_float:
        raise CannotLower("regions of integers")
    s, space, to, r, at = _region(step, context)
    s.declare("fn away(x: f32) -> i32 { return i32(sx_copysign(floor(abs(x) + 0.5), x)); }")
    image = s.let(f"i32({_corner(s, rois, r, 0)})")
    s.fault(f"{image} < 0 || {image} >= {s.param(x.dims[0])}", INDEX)
    base = s.let(f"{s.size(x.start)} + clamp({image}, 0, {s.param(x.dims[0])} - 1) * {s.size(x.strides[0])} + {at[1]} * {s.size(x.strides[1])}")
    scale = s.real(step.params["spatial_scale"])
    bounds = []
    for axis, (first, last) in enumerate(((2, 4), (1, 3))):
        start, stop = (s.let(f"away({_corner(s, rois, r, c)} * {scale})") for c in (first, last))
        width = s.let(f"f32(max({stop} - {start} + 1, 1)) / f32({s.param(out.dims[2 + axis])})", "f32")
        size, bin_ = s.param(x.dims[2 + axis]), at[2 + axis]
        bounds.append([s.let(f"clamp(i32({text}) + {start}, 0, {size})") for text in (f"floor(f32({bin_}) * {width})", f"ceil(f32({bin_} + 1) * {width})")])
    s.add("var top = sx_bits(0xff800000u);")
    (top, bottom), (left, right) = bounds
    with s.block(f"for (var i = {top}; i < {bottom}; i += 1)"), s.block(f"for (var j = {left}; j < {right}; j += 1)"):
        s.add(f"top = sx_max(top, {s.load(x, s.let(f'{base} + i * {s.size(x.strides[2])} + j * {s.size(x.strides[3])}')).text});")
    s.write(out, to, real(s.let(f"select(top, 0.0, {top} >= {bottom} || {left} >= {right})", "f32")))
    return s.dispatch(groups(s, space.count))
