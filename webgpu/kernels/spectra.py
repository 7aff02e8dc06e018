"""LINALG, RANDOM, and linear attention, which is a SCAN.

- LINALG: one invocation a matrix, elimination with partial pivoting in memory of its own.
- RANDOM: Philox4x32-10 (core/philox.py), one invocation an element, its block of four words made from the element's number alone.
"""
from __future__ import annotations

from ...kernels import Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.expression import real
from ..wgsl.shader import SINGULAR, Built, Context, Shader, each, groups
from ..wgsl.space import Operand, Space, Temporary
from .base import Step, kernel, offsets_in


@kernel(Kernel.LINALG)
def linalg(step: Step, context: Context) -> list[Built]:
    """See the LINALG record."""
    x, out, inverse = step.there(0), step.output(), step.whole("op") == 1
    lead, n = x.dims[:-2], x.dims[-1]
    work = Temporary.operand(DType.FLOAT, (*lead, n, n))
    space = Space.of(lead, [out.strides[:len(lead)], x.strides[:-2], work.strides[:-2]])
    s = Shader(context)
    at = s.coordinates(space, each(s, space.count))
    to, source, base = offsets_in(s, space, [out, x, work], at)
    size = s.param(n)

    def element(i: str, j: str) -> str:
        return s.let(f"{base} + ({i}) * {size} + {j}")

    def result(i: str, j: str) -> str:
        return s.let(f"{to} + ({i}) * {s.size(out.strides[-2])} + ({j}) * {s.size(out.strides[-1])}")

    def swap(operand: Operand, first: str, second: str) -> None:
        a, b = s.load(operand, first).text, s.load(operand, second).text
        s.write(operand, first, real(b))
        s.write(operand, second, real(a))
    with s.block(f"for (var i = 0; i < {size}; i += 1)"), s.block(f"for (var j = 0; j < {size}; j += 1)"):
        s.write(work, element("i", "j"), s.load(x, s.let(f"{source} + i * {s.size(x.strides[-2])} + j * {s.size(x.strides[-1])}")))
        if inverse:
            s.write(out, result("i", "j"), real("select(0.0, 1.0, i == j)"))
    s.add("var det = 1.0;")
    with s.block(f"for (var k = 0; k < {size}; k += 1)"):
        s.add("var pivot = k;")
        s.add(f"var top = abs({s.load(work, element('k', 'k')).text});")
        with s.block(f"for (var i = k + 1; i < {size}; i += 1)"):
            v = s.let(f"abs({s.load(work, element('i', 'k')).text})", "f32")
            s.add(f"if ({v} > top) {{ top = {v}; pivot = i; }}")
        with s.block("if (pivot != k)"):
            s.add("det = -det;")
            with s.block(f"for (var j = 0; j < {size}; j += 1)"):
                swap(work, element("k", "j"), element("pivot", "j"))
                if inverse:
                    swap(out, result("k", "j"), result("pivot", "j"))
        p = s.load(work, element("k", "k")).text
        s.add(f"det *= {p};")
        if inverse:
            s.fault(f"{p} == 0.0", SINGULAR)
            with s.block(f"for (var j = 0; j < {size}; j += 1)"):
                for operand, place in ((work, element("k", "j")), (out, result("k", "j"))):
                    s.write(operand, place, real(s.let(f"{s.load(operand, place).text} / {p}", "f32")))
        with s.block(f"for (var i = {'0' if inverse else 'k + 1'}; i < {size}; i += 1)"):
            if inverse:
                s.add("if (i == k) { continue; }")
            v = s.load(work, element("i", "k")).text
            factor = v if inverse else s.let(f"select({v} / {p}, 0.0, {p} == 0.0)", "f32")
            with s.block(f"for (var j = {'0' if inverse else 'k'}; j < {size}; j += 1)"):
                s.write(work, element("i", "j"), real(s.let(f"fma(-{factor}, {s.load(work, element('k', 'j')).text}, {s.load(work, element('i', 'j')).text})", "f32")))
                if inverse:
                    s.write(out, result("i", "j"), real(s.let(f"fma(-{factor}, {s.load(out, result('k', 'j')).text}, {s.load(out, result('i', 'j')).text})", "f32")))
    if not inverse:
        s.write(out, to, real("det"))
    return [s.dispatch(groups(s, space.count))]


#: (high, low) words of a product; ten rounds.
PHILOX = """fn high(a: u32, b: u32) -> u32 {
    let x = a & 0xffffu; let y = a >> 16u; let z = b & 0xffffu; let w = b >> 16u;
    let m = y * z + ((x * z) >> 16u);
    return y * w + (m >> 16u) + ((x * w + (m & 0xffffu)) >> 16u);
}
fn philox(block: u32, key: vec2<u32>, stream: vec2<u32>) -> vec4<u32> {
    var c = vec4<u32>(block, 0u, stream.x, stream.y);
    var k = key;
    for (var i = 0; i < 10; i += 1) {
        c = vec4<u32>(high(0xcd9e8d57u, c.z) ^ c.y ^ k.x, 0xcd9e8d57u * c.z, high(0xd2511f53u, c.x) ^ c.w ^ k.y, 0xd2511f53u * c.x);
        k = vec2<u32>(k.x + 0x9e3779b9u, k.y + 0xbb67ae85u);
    }
    return c;
}"""


@kernel(Kernel.RANDOM)
def random(step: Step, context: Context) -> list[Built]:
    """See the RANDOM record. Seeds are constants here: those of a run have 64 bits."""
    seed, out, normal = step.there(0), step.output(), step.whole("op") == 1
    if not out.dtype.is_float:
        raise CannotLower(f"random {out.dtype.text}")
    if not seed.constant:
        raise CannotLower("a seed that only the run knows has 64 bits, WGSL's integers 32")
    space = Space.of(out.dims, [out.strides], ordered=True)
    s = Shader(context)
    s.declare(PHILOX)
    i = each(s, space.count)
    to, = offsets_in(s, space, [out], s.coordinates(space, i))
    halves = []
    for which in range(2):
        v = s.load(seed, s.let(f"{s.size(seed.start)} + {s.size(which * seed.strides[0])}")).text
        halves.append(f"vec2<u32>(bitcast<u32>({v}), select(0u, 4294967295u, {v} < 0))")
    if normal:
        word = s.let(f"{i} / 2 * 2")
        s.add(f"let c = philox(u32({word}) / 4u, {halves[0]}, {halves[1]});")
        u, a = (s.let(f"c[(u32({word}) + {k}u) & 3u]", "u32") for k in range(2))
        share = s.let(f"f32({u}) * 2.3283064e-10", "f32")
        radius = s.let(f"sqrt(max(-2.0 * select(sx_log(f32(0u - {u}) * 2.3283064e-10), sx_log1p(-{share}), {share} < 0.5), 0.0))", "f32")
        angle = s.let(f"6.2831853 * (f32({a}) * 2.3283064e-10)", "f32")
        draw = s.let(f"{radius} * select(sx_cos({angle}), sx_sin({angle}), ({i} & 1) == 1)", "f32")
    else:
        s.add(f"let c = philox(u32({i}) / 4u, {halves[0]}, {halves[1]});")
        draw = s.let(f"f32(c[u32({i}) & 3u] >> 8u) * 5.9604645e-8", "f32")
    s.write(out, to, real(s.let(f"fma({s.real(step.params['beta'])}, {draw}, {s.real(step.params['alpha'])})", "f32")))
    return [s.dispatch(groups(s, space.count))]


def linear_attention(step: Step, context: Context) -> list[Built]:
    """SCAN's op 2: one invocation a column of a head's state, which lies in memory of its own; columns do not meet."""
    q, k, v, out = step.there(0), step.there(1), step.there(2), step.output()
    state, decay, beta = (step.input(i) for i in (3, 4, 5))
    last = step.outputs[1] if len(step.outputs) > 1 else None
    batch, heads, steps, depth = k.dims
    width = v.dims[3]
    memory = last if last is not None and last.dtype is DType.FLOAT else Temporary.operand(DType.FLOAT, (batch, heads, depth, width))
    s = Shader(context)
    count = batch * heads * width
    item = each(s, count)
    column, rest = s.let(f"{item} % {s.param(width)}"), s.let(f"{item} / {s.param(width)}")
    h, b = s.let(f"{rest} % {s.param(heads)}"), s.let(f"{rest} / {s.param(heads)}")

    def at(operand: Operand, *where: str) -> str:
        terms = "".join(f" + {w} * {s.size(0 if d == 1 and operand is not out else t)}" for w, d, t in zip(where, operand.dims, operand.strides, strict=True) if w != "0")
        return s.let(s.size(operand.start) + terms)
    rows = s.param(depth)
    with s.block(f"for (var i = 0; i < {rows}; i += 1)"):
        s.write(memory, at(memory, b, h, "i", column), real("0.0") if state is None else s.load(state, at(state, b, h, "i", column)))
    with s.block(f"for (var t = 0; t < {s.param(steps)}; t += 1)"):
        s.add("var seen = 0.0;")
        with s.block(f"for (var i = 0; i < {rows}; i += 1)"):
            place = at(memory, b, h, "i", column)
            old = s.load(memory, place).text
            if decay is not None:
                old = s.let(f"{old} * sx_exp({s.load(decay, at(decay, b, h, 't', 'i')).text})", "f32")
                s.write(memory, place, real(old))
            if beta is not None:
                s.add(f"seen = fma({s.load(k, at(k, b, h, 't', 'i')).text}, {old}, seen);")
        new = s.load(v, at(v, b, h, "t", column)).text
        if beta is not None:
            new = s.let(f"{s.load(beta, at(beta, b, h, 't', '0')).text} * ({new} - seen)", "f32")
        with s.block(f"for (var i = 0; i < {rows}; i += 1)"):
            place = at(memory, b, h, "i", column)
            s.write(memory, place, real(s.let(f"fma({s.load(k, at(k, b, h, 't', 'i')).text}, {new}, {s.load(memory, place).text})", "f32")))
        with s.block(f"for (var g = 0; g < {s.param(q.dims[1] // heads)}; g += 1)"):
            head = s.let(f"{h} * {s.param(q.dims[1] // heads)} + g")
            s.add("var sum = 0.0;")
            with s.block(f"for (var i = 0; i < {rows}; i += 1)"):
                s.add(f"sum = fma({s.load(q, at(q, b, head, 't', 'i')).text}, {s.load(memory, at(memory, b, h, 'i', column)).text}, sum);")
            s.write(out, at(out, b, head, "t", column), real(s.let(f"sum * {s.real(step.params['scale'])}", "f32")))
    if last is not None and last is not memory:
        with s.block(f"for (var i = 0; i < {rows}; i += 1)"):
            s.write(last, at(last, b, h, "i", column), s.load(memory, at(memory, b, h, "i", column)))
    return [s.dispatch(groups(s, count))]
