"""WGSL functions that shaders call by name; `used` gives those a text needs, each once, callees first.

Why not the built-ins: WGSL lets exp be off by 3 + 2|x| ulp, sin by 2^-11, log by 2^-21 near 1, makes no promise about NaN, and software adapters use all of that freedom (FACTS.md: tanh(±100)
is NaN, max(NaN, 0) is 0, NaN != NaN is false). These are within a few ulp of f64 on every adapter, and NaN goes through. Subnormal numbers may be flushed to 0 by any device, at any step.
Polynomials: minimax fits of this project (Lawson's iteration on Chebyshev nodes), relative error below 5e-8 on their intervals.
"""
from __future__ import annotations

import re
from functools import cache

#: What every device runs, and what those run that have WGSL's packed_4x8_integer_dot_product: the device puts the second in the first one's place (wasm/js/gpu-device.js does the same).
DOT4 = """fn sx_dot4(a: u32, b: u32) -> i32 {
    let x = vec4<i32>(vec4<u32>(a << 24u, a << 16u, a << 8u, a)) >> vec4<u32>(24u);
    let y = vec4<i32>(vec4<u32>(b << 24u, b << 16u, b << 8u, b)) >> vec4<u32>(24u);
    return dot(x, y);
}"""
DOT4_NATIVE = "fn sx_dot4(a: u32, b: u32) -> i32 { return dot4I8Packed(a, b); }"

_SOURCE = """
fn sx_bits(x: u32) -> f32 { return bitcast<f32>(x); }
fn sx_isnan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn sx_isinf(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }
fn sx_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }
fn sx_copysign(x: f32, s: f32) -> f32 { return bitcast<f32>((bitcast<u32>(x) & 0x7fffffffu) | (bitcast<u32>(s) & 0x80000000u)); }
fn sx_min(a: f32, b: f32) -> f32 { return select(select(select(b, a, a < b), b, sx_isnan(b)), a, sx_isnan(a)); }
fn sx_max(a: f32, b: f32) -> f32 { return select(select(select(b, a, a > b), b, sx_isnan(b)), a, sx_isnan(a)); }
fn sx_eq(a: f32, b: f32) -> bool { return (a == b) & !sx_isnan(a) & !sx_isnan(b); }
fn sx_sign(x: f32) -> f32 { return select(sign(x), x, sx_isnan(x)); }
fn sx_exp(x: f32) -> f32 {
    let v = clamp(x, -104.0, 89.5);
    let n = round(v * 1.44269504);
    let r = (v - n * 0.693359375) - n * -2.12194440e-4;
    var p = fma(r, 0.0013836842262, 0.0083748158067);
    p = fma(p, r, 0.0416682250798);
    p = fma(p, r, 0.166664198041);
    p = fma(p, r, 0.499999910593);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    let k = i32(n);
    let h = k / 2;
    let y = p * bitcast<f32>((h + 127) << 23u) * bitcast<f32>((k - h + 127) << 23u);
    return select(select(y, sx_bits(0x7f800000u), x > 88.8), x, sx_isnan(x));
}
fn sx_log(x: f32) -> f32 {
    let tiny = x < 1.17549435e-38;
    let u = bitcast<i32>(select(x, x * 8388608.0, tiny));
    let t = u - 0x3f3504f3;
    let e = f32(t >> 23u) - select(0.0, 23.0, tiny);
    let f = bitcast<f32>((t & 0x007fffff) + 0x3f3504f3) - 1.0;
    var p = fma(f, -0.077779375017, 0.127772837877);
    p = fma(p, f, -0.131140515208);
    p = fma(p, f, 0.141961544752);
    p = fma(p, f, -0.166270926595);
    p = fma(p, f, 0.200016364455);
    p = fma(p, f, -0.250007778406);
    p = fma(p, f, 0.33333325386);
    p = fma(p, f, -0.49999997018);
    let y = fma(e, 0.693359375, fma(e, -2.12194440e-4, fma(p, f * f, f)));
    let special = select(select(sx_bits(0x7fc00000u), sx_bits(0xff800000u), x == 0.0), x, sx_isnan(x) || x > 3.4028234e38);
    return select(special, y, (x > 0.0) & (x <= 3.4028234e38));
}
fn sx_log1p(x: f32) -> f32 {
    if (x > -0.3 && x < 0.42) {
        var p = fma(x, 0.06847666204, -0.118725948036);
        p = fma(p, x, 0.119550600648);
        p = fma(p, x, -0.123775199056);
        p = fma(p, x, 0.142055720091);
        p = fma(p, x, -0.166690304875);
        p = fma(p, x, 0.200029641390);
        p = fma(p, x, -0.250000089407);
        p = fma(p, x, 0.333332955837);
        p = fma(p, x, -0.5);
        return fma(p, x * x, x);
    }
    return sx_log(1.0 + x);
}
fn sx_tanh(x: f32) -> f32 {
    let t = x * x;
    var p = fma(t, -0.005602736026, 0.020539933816);
    p = fma(p, t, -0.053705319762);
    p = fma(p, t, 0.133309319615);
    p = fma(p, t, -0.333332508802);
    let far = sx_copysign(1.0 - 2.0 / (sx_exp(2.0 * min(abs(x), 15.0)) + 1.0), x);
    return select(select(far, fma(p, t * x, x), t < 0.4), x, sx_isnan(x));
}
fn sx_sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + sx_exp(-x)); }
fn sx_sinh(x: f32) -> f32 {
    let t = x * x;
    var p = fma(t, 2.818523853e-6, 1.98358131e-4);
    p = fma(p, t, 0.008333352394);
    p = fma(p, t, 0.166666671634);
    let e = sx_exp(abs(x) - 0.69314718);
    return select(select(sx_copysign(e - 0.25 / e, x), fma(p, t * x, x), t < 1.0), x, sx_isnan(x));
}
fn sx_cosh(x: f32) -> f32 { let e = sx_exp(abs(x) - 0.69314718); return e + 0.25 / e; }
fn sx_asinh(x: f32) -> f32 {
    let a = min(abs(x), 1e18);
    let small = sx_log1p(a + a * a / (1.0 + sqrt(1.0 + a * a)));
    return select(sx_copysign(select(small, sx_log(abs(x)) + 0.69314718, abs(x) > 1e9), x), x, sx_isnan(x));
}
fn sx_acosh(x: f32) -> f32 {
    let d = x - 1.0;
    let near = sx_log1p(d + sqrt(max(d * 2.0 + d * d, 0.0)));
    let y = select(near, sx_log(x) + 0.69314718, x > 1e9);
    return select(y, sx_bits(0x7fc00000u), x < 1.0 || sx_isnan(x));
}
fn sx_atanh(x: f32) -> f32 {
    let a = abs(x);
    let y = sx_copysign(0.5 * sx_log1p(2.0 * a / (1.0 - a)), x);
    return select(select(y, sx_copysign(sx_bits(0x7f800000u), x), a == 1.0), sx_bits(0x7fc00000u), a > 1.0 || sx_isnan(x));
}
fn sx_erf(x: f32) -> f32 {
    let a = min(abs(x), 4.0);
    let t = a * a;
    var p = fma(t, 7.853857824e-5, -8.01019254e-4);
    p = fma(p, t, 0.005188327748);
    p = fma(p, t, -0.026853810996);
    p = fma(p, t, 0.112835854292);
    p = fma(p, t, -0.376126259565);
    p = fma(p, t, 1.128379106522);
    var q = fma(a, -5.555587279e-8, 2.86496151602e-6);
    q = fma(q, a, -5.78272738493e-5);
    q = fma(q, a, 6.60916557536e-4);
    q = fma(q, a, -0.004977939650);
    q = fma(q, a, 0.026902496815);
    q = fma(q, a, -0.110766075552);
    q = fma(q, a, -0.631217300892);
    q = fma(q, a, -1.130538463593);
    q = fma(q, a, 3.858984855e-4);
    return select(sx_copysign(select(1.0 - sx_exp(q), a * p, a < 1.0), x), x, sx_isnan(x));
}
fn sx_reduce_angle(x: f32, n: f32) -> f32 { return ((x - n * 1.5703125) - n * 4.837512969970703e-4) - n * 7.549789954891882e-8; }
fn sx_sin_near(x: f32) -> f32 {
    let t = x * x;
    return fma(fma(fma(t, -1.950182195e-4, 0.008332016878), t, -0.166666507721), t * x, x);
}
fn sx_cos_near(x: f32) -> f32 {
    let t = x * x;
    return fma(fma(fma(fma(t, 2.43726790388e-5, -0.001388652949), t, 0.041666612029), t, -0.5), t, 1.0);
}
fn sx_quarter(x: f32, turn: i32) -> f32 {
    let n = round(x * 0.6366197723675814);
    let r = sx_reduce_angle(x, n);
    let q = (i32(clamp(n, -1e9, 1e9)) + turn) & 3;
    let y = select(sx_sin_near(r), sx_cos_near(r), (q & 1) == 1);
    return select(sx_bits(0x7fc00000u), select(y, -y, q >= 2), sx_finite(x));
}
fn sx_sin(x: f32) -> f32 { return sx_quarter(x, 0); }
fn sx_cos(x: f32) -> f32 { return sx_quarter(x, 1); }
fn sx_tan(x: f32) -> f32 { return sx_quarter(x, 0) / sx_quarter(x, 1); }
fn sx_atan(x: f32) -> f32 {
    let a = abs(x);
    let big = a > 2.414213562;
    let mid = (a > 0.414213562) & !big;
    let v = select(select(a, (a - 1.0) / (a + 1.0), mid), -1.0 / max(a, 1.0), big);
    let t = v * v;
    var p = fma(t, 0.079867318273, -0.138520866632);
    p = fma(p, t, 0.199744701385);
    p = fma(p, t, -0.333327978849);
    let y = fma(p, t * v, v) + select(select(0.0, 0.7853981634, mid), 1.5707963268, big);
    return select(sx_copysign(y, x), x, sx_isnan(x));
}
fn sx_asin_near(v: f32) -> f32 {
    let t = v * v;
    var p = fma(t, 0.042635567486, 0.023858215660);
    p = fma(p, t, 0.045550175011);
    p = fma(p, t, 0.074944347143);
    p = fma(p, t, 0.166667908430);
    return fma(p, t * v, v);
}
fn sx_asin(x: f32) -> f32 {
    let a = abs(x);
    let far = 1.5707963268 - 2.0 * sx_asin_near(sqrt(max(0.5 - 0.5 * a, 0.0)));
    let y = sx_copysign(select(far, sx_asin_near(a), a < 0.5), x);
    return select(y, sx_bits(0x7fc00000u), a > 1.0 || sx_isnan(x));
}
fn sx_acos(x: f32) -> f32 {
    let a = abs(x);
    let far = 2.0 * sx_asin_near(sqrt(max(0.5 - 0.5 * a, 0.0)));
    let y = select(select(far, 3.1415926536 - far, x < 0.0), 1.5707963268 - sx_asin_near(x), a < 0.5);
    return select(y, sx_bits(0x7fc00000u), a > 1.0 || sx_isnan(x));
}
fn sx_pow(x: f32, y: f32) -> f32 {
    let whole = (abs(y) < 1e9) & (trunc(y) == y);
    if (y == 0.0 || x == 1.0) { return 1.0; }
    if (sx_isnan(x)) { return x; }
    if (sx_isnan(y)) { return y; }
    if (whole && abs(y) <= 64.0) {
        var n = i32(abs(y));
        var base = x;
        var z = 1.0;
        while (n > 0) {
            if ((n & 1) == 1) { z *= base; }
            base *= base;
            n >>= 1u;
        }
        return select(z, 1.0 / z, y < 0.0);
    }
    let odd = whole & ((i32(y) & 1) == 1);
    let a = abs(x);
    var z = sx_exp(y * sx_log(a));
    if (sx_isinf(y)) { z = select(select(0.0, sx_bits(0x7f800000u), (a > 1.0) == (y > 0.0)), 1.0, a == 1.0); }
    if (x < 0.0 && !whole && abs(y) < 1e9 && !sx_isinf(x)) { return sx_bits(0x7fc00000u); }
    return select(z, -z, odd & ((bitcast<u32>(x) >> 31u) == 1u));
}
fn sx_fmod(a: f32, b: f32) -> f32 {
    let y = abs(b);
    var r = abs(a);
    if (!sx_finite(a) || sx_isnan(b) || b == 0.0) { return sx_bits(0x7fc00000u); }
    if (sx_isinf(b)) { return a; }
    while (r >= y) {
        var t = y;
        while (t <= r * 0.5) { t *= 2.0; }
        r -= t;
    }
    return sx_copysign(r, a);
}
fn sx_mod(a: f32, b: f32) -> f32 {
    let r = sx_fmod(a, b);
    return select(select(r, r + b, (r < 0.0) != (b < 0.0)), sx_copysign(0.0, b), r == 0.0);
}
fn sx_modi(a: i32, b: i32) -> i32 { let r = a % b; return select(r, r + b, r != 0 && (r < 0) != (b < 0)); }
fn sx_powi(x: i32, y: i32) -> i32 {
    var n = max(y, 0);
    var base = x;
    var z = 1;
    while (n > 0) {
        if ((n & 1) == 1) { z *= base; }
        base *= base;
        n >>= 1u;
    }
    return select(z, select(0, select(1, select(-1, 1, (y & 1) == 0), x == -1), x == 1 || x == -1), y < 0);
}
fn sx_to_i32(x: f32) -> i32 {
    let v = select(select(i32(clamp(x, -2147483648.0, 2147483520.0)), 2147483647, x >= 2147483648.0), 0, sx_isnan(x));
    return v;
}
fn sx_to_u32(x: f32) -> u32 { return select(select(u32(clamp(x, 0.0, 4294967040.0)), 4294967295u, x >= 4294967296.0), 0u, sx_isnan(x)); }
fn sx_f16(x: f32) -> f32 {
    let u = bitcast<u32>(x);
    let a = bitcast<f32>(u & 0x7fffffffu);
    let near = bitcast<f32>((u + 0xfffu + ((u >> 13u) & 1u)) & 0xffffe000u);
    let tiny = sx_copysign(round(a * 16777216.0) * 5.9604644775390625e-8, x);
    let y = select(select(near, tiny, a < 6.103515625e-5), sx_copysign(sx_bits(0x7f800000u), x), a >= 65520.0);
    return select(y, x, sx_isnan(x));
}
fn sx_dot4v(a: u32, b: vec4<u32>) -> vec4<i32> { return vec4<i32>(sx_dot4(a, b.x), sx_dot4(a, b.y), sx_dot4(a, b.z), sx_dot4(a, b.w)); }
fn sx_s8x4(w: u32) -> vec4<i32> { return vec4<i32>(vec4<u32>(w << 24u, w << 16u, w << 8u, w)) >> vec4<u32>(24u); }
fn sx_u8x4(w: u32) -> vec4<i32> { return vec4<i32>(vec4<u32>(w, w >> 8u, w >> 16u, w >> 24u) & vec4<u32>(255u)); }
fn sx_u4x4(w: u32) -> vec4<i32> { return vec4<i32>(vec4<u32>(w, w >> 4u, w >> 8u, w >> 12u) & vec4<u32>(15u)); }
fn sx_until(v: vec4<f32>, count: i32) -> vec4<f32> { return select(vec4<f32>(), v, vec4<i32>(0, 1, 2, 3) < vec4<i32>(count)); }
fn sx_half(x: f32) -> f32 { return select(x, clamp(x, -65504.0, 65504.0), sx_finite(x)); }
fn sx_bf16(x: f32) -> f32 {
    let u = bitcast<u32>(x);
    return select(bitcast<f32>((u + 0x7fffu + ((u >> 16u) & 1u)) & 0xffff0000u), x, !sx_finite(x));
}
"""


@cache
def _functions() -> dict[str, str]:
    parts = re.split(r"\n(?=fn )", f"{DOT4}\n{_SOURCE.strip()}")
    return {re.match(r"fn (\w+)", part).group(1): part for part in parts}  # type: ignore[union-attr]


def used(text: str) -> str:
    """The functions a shader's text calls, and those they call, in the order of this module."""
    known = _functions()
    wanted: set[str] = set()
    todo = [text]
    while todo:
        for name in re.findall(r"\bsx_\w+", todo.pop()):
            if name in known and name not in wanted:
                wanted.add(name)
                todo.append(known[name])
    return "\n".join(source for name, source in known.items() if name in wanted)


def native(text: str) -> str:
    """The shader with what the language offers beyond every device's: for devices that have it."""
    return text.replace(DOT4, DOT4_NATIVE)


def naga(text: str) -> str:
    """The shader in the dialect of wgpu-native, whose WGSL has subgroups without being told and refuses to be told."""
    return text.replace("enable subgroups;\n", "")
