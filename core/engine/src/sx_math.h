/* sx_math.h: elementary functions, one element at a time, without branches where a loop over them should become vector code.

   How to think
   - `name_f32` are native in float: exp, log, tanh, erf, sigmoid. The others compute in double and round once: within 0.51 ulp of float.
   - `name_f64` are within 4 ulp of double (tests/engine/test_math.py measures all of them; f32 ones are within 2 ulp).
   - Arguments are reduced so that a short polynomial is left. The polynomials are Chebyshev fits made with mpmath at 60 digits: the comment beside each says of what function, where, and with what error.
   - NaN goes through, infinities, zeros and denormals give what IEEE 754 and C's annex F say. Selects, not branches; compiled without trapping math. */
#ifndef SX_MATH_H
#define SX_MATH_H
#include <stdint.h>

#define SX_HORNER _Pragma("clang loop unroll(full)")
#define SX_FN static inline __attribute__((always_inline))
/* In double. A module for the web has them once, as calls: inlined into every loop that may need one they would be a fifth of its bytes. */
#ifdef __wasm__
#define SX_FN64 static __attribute__((noinline, minsize, unused))
#define SX_LONG64 SX_FN64
#else
#define SX_FN64 SX_FN
#define SX_LONG64 static inline /* with branches */
#endif

SX_FN uint32_t sx_bits32(float x) { uint32_t u; __builtin_memcpy(&u, &x, 4); return u; }
SX_FN float sx_float32(uint32_t u) { float x; __builtin_memcpy(&x, &u, 4); return x; }
SX_FN uint64_t sx_bits64(double x) { uint64_t u; __builtin_memcpy(&u, &x, 8); return u; }
SX_FN double sx_float64(uint64_t u) { double x; __builtin_memcpy(&x, &u, 8); return x; }

#define SX_INF32 (__builtin_inff())
#define SX_NAN32 (__builtin_nanf(""))
#define SX_INF64 (__builtin_inf())
#define SX_NAN64 (__builtin_nan(""))

/* A polynomial's numbers. V8 makes a constant anew in each turn of a loop, four instructions for a vector of one: there they are loaded, one instruction. Weak, or the compiler would see them again. */
#ifdef __wasm__
#define SX_NUMBERS __attribute__((weak, visibility("hidden"))) const float
#else
#define SX_NUMBERS static const float
#endif

/* -- float --------------------------------------------------------------------------------------------------------------------------------------- */

/* log2(e), the number whose sum's last bits are k, ln2 in two parts; (expm1(r) - r) / r², error 1.4e-9; the bounds */
SX_NUMBERS sx_exp_k[] = {0x1.715476p+0f, 0x1.8p23f, 0x1.62e4p-1f, 0x1.7f7d1cp-20f, 0x1.a12670p-13f, 0x1.6d44d2p-10f, 0x1.1110e0p-7f, 0x1.5554e8p-5f, 0x1.555556p-3f, 0x1p-1f, 89.0f, -104.0f};
/* x = k ln2 + r, |r| ≤ ln2/2. Returns expm1(r); 2^k is *scale · *scale2 (two factors, so that denormal results come out). */
SX_FN float sx_exp_parts_f32(float x, float *scale, float *scale2) {
    const float *c = sx_exp_k;
    x = x > c[10] ? c[10] : x;
    x = x < c[11] ? c[11] : x;
    float t = x * c[0] + c[1];
    int32_t k = (int32_t)(sx_bits32(t) - 0x4b400000u);
    float kf = t - c[1];
    float r = (x - kf * c[2]) - kf * c[3];
    float p = c[4];
    SX_HORNER for (int i = 5; i < 10; i++) p = p * r + c[i];
    int32_t half = k >> 1;
    *scale = sx_float32((uint32_t)(half + 127) << 23);
    *scale2 = sx_float32((uint32_t)(k - half + 127) << 23);
    return r + r * r * p;
}

SX_FN float sx_exp_f32(float x) {
    float a, b, q = sx_exp_parts_f32(x, &a, &b);
    return (a + a * q) * b;
}

/* (log1p(f) - f + f²/2) / f³, error 2.9e-8; ln2 in two parts */
SX_NUMBERS sx_log_k[] = {0x1.1d8ea6p-4f, -0x1.d635bcp-4f, 0x1.dea282p-4f, -0x1.fcf4c6p-4f, 0x1.23d21ap-3f, -0x1.555b4ap-3f, 0x1.999d5ap-3f, -0x1.fffffcp-3f, 0x1.555554p-2f, 0x1.7f7d1cp-20f, 0x1.62e4p-1f};
SX_FN float sx_log_f32(float x) {
    const float *c = sx_log_k;
    int tiny = x < 0x1p-126f;
    float y = tiny ? x * 0x1p23f : x;
    int32_t u = (int32_t)sx_bits32(y), k = (u - 0x3f3504f3) >> 23; /* y = 2^k m, m in [√½, √2) */
    float f = sx_float32((uint32_t)u - ((uint32_t)k << 23)) - 1.0f;
    float kf = (float)k - (tiny ? 23.0f : 0.0f), p = c[0];
    SX_HORNER for (int i = 1; i < 9; i++) p = p * f + c[i];
    float z = f * f, low = kf * c[9] + (z * f * p - 0.5f * z);
    float made = kf * c[10] + (f + low);
    made = x == SX_INF32 ? SX_INF32 : made;
    made = x == 0.0f ? -SX_INF32 : made;
    return x < 0.0f || x != x ? SX_NAN32 : made;
}

/* (tanh(x) - x) / x³ of x², |x| < 0.65, error 2.5e-9; where that ends, and where tanh is 1 */
SX_NUMBERS sx_tanh_k[] = {0x1.224fcep-9f, -0x1.0f1266p-7f, 0x1.644a1ep-6f, -0x1.ba02aap-5f, 0x1.1110d8p-3f, -0x1.555556p-2f, 0.625f, 10.0f, 1.0f, 2.0f};
SX_FN float sx_tanh_f32(float x) {
    const float *c = sx_tanh_k;
    float a = __builtin_fabsf(x), z = x * x, p = c[0];
    SX_HORNER for (int i = 1; i < 6; i++) p = p * z + c[i];
    float small = x + x * z * p;
    float big = c[8] - c[9] / (sx_exp_f32(c[9] * (a > c[7] ? c[7] : a)) + c[8]);
    big = sx_float32(sx_bits32(big) | (sx_bits32(x) & 0x80000000u));
    return a < c[6] ? small : x != x ? x : big;
}

SX_NUMBERS sx_erf_k[] = {
    /* erf(x) / x - 1 of x², |x| < 0.93, error 4.9e-10 */
    0x1.5cd5d0p-14f, -0x1.aa44fcp-11f, 0x1.54c958p-8f, -0x1.b80eccp-6f, 0x1.ce2e0ep-4f, -0x1.812742p-2f, 0x1.06eba8p-3f,
    /* -log(erfc(a)), 0.92 < a < 3.93 where erf is 1 in float; error 1.4e-8 */
    -0x1.bf7874p-20f, 0x1.86fe84p-15f, -0x1.3b2b06p-11f, 0x1.3926a6p-8f, -0x1.b1adbep-6f, 0x1.c33400p-4f, 0x1.437534p-1f, 0x1.215964p+0f, -0x1.57bb96p-12f,
    /* (expm1(r) - r) / r², |r| < 0.3466, error 6.8e-8 */
    0x1.6d1106p-10f, 0x1.120b6cp-7f, 0x1.55551ap-5f, 0x1.5554dcp-3f, 0x1.000000p-1f,
    3.93f, 0.92f, -0x1.715476p+0f, 0x1.8p23f, 0x1.62e430p-1f, 1.0f};
SX_FN float sx_erf_f32(float x) {
    const float *c = sx_erf_k;
    float a = __builtin_fabsf(x), z = x * x, p = c[0];
    SX_HORNER for (int i = 1; i < 7; i++) p = p * z + c[i];
    float small = x + x * p;
    float t = a > c[21] ? c[21] : a, q = c[7];
    SX_HORNER for (int i = 8; i < 16; i++) q = q * t + c[i];
    /* e^-q = 2^k e^r: less than 0.2, so that the rounding of r and e does not matter; q < 15.6 needs no bounds. NaN goes through. */
    float u = q * c[23] + c[24], r = (c[24] - u) * c[25] - q;
    float scale = sx_float32((sx_bits32(u) - 0x4b400000u + 127) << 23);
    float e = c[16];
    SX_HORNER for (int i = 17; i < 21; i++) e = e * r + c[i];
    e = r + r * r * e;
    float big = (c[26] - scale) - scale * e;
    big = sx_float32(sx_bits32(big) | (sx_bits32(x) & 0x80000000u));
    return a < c[22] ? small : big;
}

SX_FN float sx_sigmoid_f32(float x) {
    float a, b, q = sx_exp_parts_f32(-__builtin_fabsf(x), &a, &b);
    float z = (a + a * q) * b; /* e^-|x| ≤ 1: nothing overflows, and small results keep their digits */
    return (x >= 0.0f ? 1.0f : z) / (1.0f + z);
}

/* -- double ---------------------------------------------------------------------------------------------------------------------------------------- */

/* As sx_exp_parts_f32. */
SX_FN double sx_exp_parts_f64(double x, double *scale, double *scale2) {
    x = x > 710.0 ? 710.0 : x;
    x = x < -746.0 ? -746.0 : x;
    double t = x * 0x1.71547652b82fep+0 + 0x1.8p52;
    int64_t k = (int64_t)(sx_bits64(t) - 0x4338000000000000u);
    double kf = t - 0x1.8p52;
    double r = (x - kf * 0x1.62e42feep-1) - kf * 0x1.a39ef35793c76p-33;
    /* (expm1(r) - r) / r², error 1.7e-20 */
    double p = 0x1.61bfa26897079p-33;
    p = p * r + 0x1.1f7f20380f743p-29;
    p = p * r + 0x1.ae642c871071fp-26;
    p = p * r + 0x1.27e4d41d518c8p-22;
    p = p * r + 0x1.71de3a5aa6f3ap-19;
    p = p * r + 0x1.a01a01a9e81b0p-16;
    p = p * r + 0x1.a01a01a0196aep-13;
    p = p * r + 0x1.6c16c16c15a6cp-10;
    p = p * r + 0x1.1111111111111p-7;
    p = p * r + 0x1.5555555555557p-5;
    p = p * r + 0x1.5555555555555p-3;
    p = p * r + 0x1p-1;
    int64_t half = k >> 1;
    *scale = sx_float64((uint64_t)(half + 1023) << 52);
    *scale2 = sx_float64((uint64_t)(k - half + 1023) << 52);
    return r + r * r * p;
}

SX_FN64 double sx_exp_f64(double x) {
    double a, b, q = sx_exp_parts_f64(x, &a, &b);
    return (a + a * q) * b;
}

/* e^x - 1 without loss near 0; |x| moderate (callers clamp). */
SX_FN64 double sx_expm1_f64(double x) {
    double a, b, q = sx_exp_parts_f64(x, &a, &b), s = a * b;
    return s * q + (s - 1.0);
}

/* x > 0 finite = 2^k m, m in [√½, √2); returns m - 1. */
SX_FN double sx_split_f64(double x, double *k) {
    int tiny = x < 0x1p-1022;
    double y = tiny ? x * 0x1p54 : x;
    int64_t u = (int64_t)sx_bits64(y), e = (u - 0x3fe6a09e667f3bcd) >> 52;
    *k = (sx_float64(0x4338000000000000u + (uint64_t)e) - 0x1.8p52) - (tiny ? 54.0 : 0.0);
    return sx_float64((uint64_t)u - ((uint64_t)e << 52)) - 1.0;
}

SX_FN double sx_log_special_f64(double x, double made) {
    made = x == SX_INF64 ? SX_INF64 : made;
    made = x == 0.0 ? -SX_INF64 : made;
    return x < 0.0 || x != x ? SX_NAN64 : made;
}

/* log(1 + f) = 2 atanh(s), s = f / (2 + f): 2 s = f - s f */
SX_FN64 double sx_log_f64(double x) {
    double k, f = sx_split_f64(x, &k), s = f / (2.0 + f), z = s * s;
    /* (2 atanh(s) - 2 s) / s³ of s², error 2.1e-18 */
    double p = 0x1.0c044ccf380aap-3;
    p = p * z + 0x1.0fbe84f5caccap-3;
    p = p * z + 0x1.3b1c35fbecd93p-3;
    p = p * z + 0x1.745cf90196560p-3;
    p = p * z + 0x1.c71c720160332p-3;
    p = p * z + 0x1.2492492476c8bp-2;
    p = p * z + 0x1.9999999999a38p-2;
    p = p * z + 0x1.5555555555555p-1;
    double h = 0.5 * f * f; /* f - s f = f - h + s h: the large terms are exact, the small ones carry the rounding */
    double low = s * (h + z * p) + k * 0x1.a39ef35793c76p-33;
    return sx_log_special_f64(x, k * 0x1.62e42feep-1 + (f - (h - low)));
}

SX_FN64 double sx_log1p_f64(double x) {
    double u = 1.0 + x, made = sx_log_f64(u) + (x - (u - 1.0)) / u; /* the second term puts back what 1 + x lost */
    made = u == 0.0 ? -SX_INF64 : made;
    return x == SX_INF64 ? x : made;
}

SX_FN64 double sx_tanh_f64(double x) {
    double a = __builtin_fabs(x), e = sx_expm1_f64(2.0 * (a > 25.0 ? 25.0 : a));
    return x != x ? x : __builtin_copysign(e / (e + 2.0), x);
}

SX_FN64 double sx_sinh_f64(double x) {
    double a = __builtin_fabs(x), z = x * x, e = sx_exp_f64(0.5 * a);
    /* (sinh(x) - x) / x³ of x², |x| < 1, error 2.5e-22 */
    double p = 0x1.99f0806c2628dp-49;
    p = p * z + 0x1.ae777c36fd5b6p-41;
    p = p * z + 0x1.612467ccb2260p-33;
    p = p * z + 0x1.ae6456792a77fp-26;
    p = p * z + 0x1.71de3a556f96cp-19;
    p = p * z + 0x1.a01a01a01a001p-13;
    p = p * z + 0x1.1111111111111p-7;
    p = p * z + 0x1.5555555555555p-3;
    double big = (0.5 * e) * e - 0.5 / (e * e);
    return a < 1.0 ? x + x * z * p : __builtin_copysign(big, x);
}

SX_FN64 double sx_cosh_f64(double x) {
    double e = sx_exp_f64(0.5 * __builtin_fabs(x));
    return (0.5 * e) * e + 0.5 / (e * e);
}

SX_FN64 double sx_asinh_f64(double x) {
    double a = __builtin_fabs(x), z = a * a;
    double near = sx_log1p_f64(a + z / (1.0 + __builtin_sqrt(1.0 + z))), far = sx_log_f64(a) + 0x1.62e42fefa39efp-1;
    return x != x ? x : __builtin_copysign(a < 0x1p28 ? near : far, x);
}

SX_FN64 double sx_acosh_f64(double x) {
    double t = x - 1.0, near = sx_log1p_f64(t + __builtin_sqrt(2.0 * t + t * t)), far = sx_log_f64(x) + 0x1.62e42fefa39efp-1;
    return x < 1.0 ? SX_NAN64 : x < 0x1p28 ? near : far;
}

SX_FN64 double sx_atanh_f64(double x) {
    double a = __builtin_fabs(x), made = 0.5 * sx_log1p_f64(2.0 * a / (1.0 - a));
    return a > 1.0 ? SX_NAN64 : __builtin_copysign(made, x);
}

/* -- angles ------------------------------------------------------------------------------------------------------------------------------------------- */

#define SX_REDUCED 1000000.0 /* larger arguments take sx_reduce_far */

/* x = q π/2 + r, |r| ≤ π/4, for |x| ≤ SX_REDUCED. π/2 in three parts of 33 bits and a rest: q times a part is exact. */
SX_FN double sx_reduce_near(double x, int64_t *q) {
    double t = x * 0x1.45f306dc9c883p-1 + 0x1.8p52, n = t - 0x1.8p52;
    *q = (int64_t)sx_bits64(t);
    double a = x - n * 0x1.921fb544p+0, w = n * 0x1.0b4611a6p-34, b = a - w, lost = (a - b) - w;
    double v = n * 0x1.3198a2ep-69, c = b - v, lost2 = (b - c) - v;
    return c + (lost + (lost2 - n * 0x1.b839a252049c1p-104));
}

SX_FN double sx_sin_poly(double r) {
    double z = r * r;
    /* (sin(r) - r) / r³ of r², error 1.2e-20 */
    double p = -0x1.ab17bdcbd3414p-41;
    p = p * z + 0x1.61217ee5cca1bp-33;
    p = p * z + -0x1.ae64541295cdfp-26;
    p = p * z + 0x1.71de3a54607a5p-19;
    p = p * z + -0x1.a01a01a019937p-13;
    p = p * z + 0x1.1111111111110p-7;
    p = p * z + -0x1.5555555555555p-3;
    return r + r * z * p;
}

SX_FN double sx_cos_poly(double r) {
    double z = r * r;
    /* (cos(r) - 1 + r²/2) / r⁴ of r², error 6.4e-22 */
    double p = 0x1.ab78473be59d7p-45;
    p = p * z + -0x1.9394b9eb4d56dp-37;
    p = p * z + 0x1.1eed8deb82809p-29;
    p = p * z + -0x1.27e4fb7712ca2p-22;
    p = p * z + 0x1.a01a01a019d0ap-16;
    p = p * z + -0x1.6c16c16c16c16p-10;
    p = p * z + 0x1.5555555555555p-5;
    double h = 0.5 * z, w = 1.0 - h;
    return w + (((1.0 - w) - h) + z * z * p);
}

/* which: 0 sine, 1 cosine, 2 tangent of q π/2 + r */
SX_FN double sx_angle(int which, double r, int64_t q) {
    double s = sx_sin_poly(r), c = sx_cos_poly(r);
    int odd = (int)(q & 1);
    if (which == 2) return odd ? -c / s : s / c;
    q += which;
    double made = q & 1 ? c : s;
    return q & 2 ? -made : made;
}

/* The first 1344 bits of 2/π behind a word of zeros. */
static const uint64_t SX_TWO_OVER_PI[] = {
    0, 0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041, 0xfe5163abdebbc561, 0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e, 0xe88235f52ebb4484, 0xe99c7026b45f7e41,
    0x3991d639835339f4, 0x9c845f8bbdf9283b, 0x1ff897ffde05980f, 0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7, 0x4f463f669e5fea2d, 0x7527bac7ebe5f17b, 0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08,
    0x56033046fc7b6bab, 0xf0cfbc209af4361d, 0,
};

/* The same for any finite x (Payne and Hanek, "Radian reduction for trigonometric functions", 1983): multiply the mantissa by the 192 bits of 2/π that matter modulo 4. */
static inline double sx_reduce_far(double x, int64_t *q) {
    uint64_t u = sx_bits64(x), m = (u & 0xfffffffffffffu) | 0x10000000000000u;
    int at = (int)(u >> 52 & 0x7ff) - 1075 - 2 + 64, word = at >> 6, shift = at & 63; /* the first bit that matters; x = m 2^(e - 1075) */
    uint64_t w[3];
    for (int i = 0; i < 3; i++) w[i] = shift ? SX_TWO_OVER_PI[word + i] << shift | SX_TWO_OVER_PI[word + i + 1] >> (64 - shift) : SX_TWO_OVER_PI[word + i];
    unsigned __int128 low = (unsigned __int128)m * w[2], mid = (unsigned __int128)m * w[1] + (uint64_t)(low >> 64);
    uint64_t high = m * w[0] + (uint64_t)(mid >> 64), next = (uint64_t)mid; /* m · w modulo 2^192: 2 bits of q, then the fraction */
    int64_t n = (int64_t)(high >> 62);
    unsigned __int128 f = ((unsigned __int128)high << 64 | next) << 2 | (uint64_t)low >> 62;
    int negative = (int)(f >> 127); /* a fraction of ½ or more: one quarter turn on, and back */
    n += negative;
    f = negative ? -f : f;
    double r = ((double)(uint64_t)(f >> 64) * 0x1p-64 + (double)(uint64_t)f * 0x1p-128) * 0x1.921fb54442d18p+0;
    r = negative ? -r : r;
    *q = u >> 63 ? -n : n;
    return u >> 63 ? -r : r;
}

SX_FN64 double sx_angle_near_f64(int which, double x) {
    int64_t q;
    double r = sx_reduce_near(x, &q);
    return sx_angle(which, r, q) + (x - x); /* NaN of an infinity */
}

SX_LONG64 double sx_angle_far_f64(int which, double x) {
    int64_t q;
    if (!(__builtin_fabs(x) < SX_INF64)) return SX_NAN64;
    double r = sx_reduce_far(x, &q);
    return sx_angle(which, r, q);
}

/* One angle of any size. */
static inline double sx_angle_f64(int which, double x) { return __builtin_fabs(x) <= SX_REDUCED ? sx_angle_near_f64(which, x) : sx_angle_far_f64(which, x); }
static inline double sx_sin_f64(double x) { return sx_angle_f64(0, x); }
static inline double sx_cos_f64(double x) { return sx_angle_f64(1, x); }

SX_FN double sx_asin_small(double x) {
    double z = x * x;
    /* (asin(x) - x) / x³ of x², |x| ≤ ½, error 4.2e-21 */
    double p = 0x1.06fcd949c1e78p-5;
    p = p * z + -0x1.e0b879df5f284p-6;
    p = p * z + 0x1.b2bd99109a205p-6;
    p = p * z + -0x1.66ca5d75ad4acp-9;
    p = p * z + 0x1.1ea468002e24fp-7;
    p = p * z + 0x1.c219ebbec4475p-8;
    p = p * z + 0x1.14f9d59122682p-7;
    p = p * z + 0x1.3fa8f6a7b6773p-7;
    p = p * z + 0x1.7a8b785f94c23p-7;
    p = p * z + 0x1.c99964a6c4b60p-7;
    p = p * z + 0x1.1c4ec5e133245p-6;
    p = p * z + 0x1.6e8ba2e2ef9c4p-6;
    p = p * z + 0x1.f1c71c71dc425p-6;
    p = p * z + 0x1.6db6db6db6c73p-5;
    p = p * z + 0x1.3333333333334p-4;
    p = p * z + 0x1.5555555555555p-3;
    return x + x * z * p;
}

/* asin(x) = π/2 - 2 asin(√((1 - x) / 2)) above ½ */
SX_FN64 double sx_asin_f64(double x) {
    double a = __builtin_fabs(x), h = __builtin_sqrt(0.5 * (1.0 - a)), made = sx_asin_small(a <= 0.5 ? a : h);
    made = a <= 0.5 ? made : 0x1.921fb54442d18p+0 - (2.0 * made - 0x1.1a62633145c07p-54);
    return a > 1.0 || x != x ? SX_NAN64 : __builtin_copysign(made, x);
}

SX_FN64 double sx_acos_f64(double x) {
    double a = __builtin_fabs(x), h = __builtin_sqrt(0.5 * (1.0 - a)), made = sx_asin_small(a <= 0.5 ? x : h);
    double big = x > 0.0 ? 2.0 * made : 0x1.921fb54442d18p+1 - (2.0 * made - 0x1.1a62633145c07p-53);
    made = a <= 0.5 ? 0x1.921fb54442d18p+0 - (made - 0x1.1a62633145c07p-54) : big;
    return a > 1.0 || x != x ? SX_NAN64 : made;
}

/* atan(a) = π/2 - atan(1/a) above 1; = π/4 + atan((a - 1) / (a + 1)) above tan(π/8) */
SX_FN64 double sx_atan_f64(double x) {
    double a = __builtin_fabs(x);
    int over = a > 1.0;
    double b = over ? 1.0 / a : a;
    int mid = b > 0x1.a827999fcef32p-2;
    double c = mid ? (over ? (1.0 - a) / (1.0 + a) : (a - 1.0) / (a + 1.0)) : b, z = c * c;
    c = a == SX_INF64 ? 0.0 : c;
    mid = a == SX_INF64 ? 0 : mid;
    /* (atan(c) - c) / c³ of c², error 4.3e-20 */
    double p = -0x1.c7c2a937ca6fep-7;
    p = p * z + 0x1.f5c7f627c1866p-6;
    p = p * z + -0x1.5033bdf344ecap-5;
    p = p * z + 0x1.829ac6ea2558cp-5;
    p = p * z + -0x1.aebccb05d29e8p-5;
    p = p * z + 0x1.e1d8e103c7a90p-5;
    p = p * z + -0x1.1110ce9b3f808p-4;
    p = p * z + 0x1.3b13aea671ef0p-4;
    p = p * z + -0x1.745d17354bd3ep-4;
    p = p * z + 0x1.c71c71c6dd538p-4;
    p = p * z + -0x1.24924924920a6p-3;
    p = p * z + 0x1.9999999999997p-3;
    p = p * z + -0x1.5555555555555p-2;
    z = a == SX_INF64 ? 0.0 : z;
    double made = mid ? 0x1.921fb54442d18p-1 + (c + (c * z * p + 0x1.1a62633145c07p-55)) : c + c * z * p;
    made = over ? 0x1.921fb54442d18p+0 - (made - 0x1.1a62633145c07p-54) : made;
    return x != x ? x : __builtin_copysign(made, x);
}

/* -- erf in double: scalar, rarely met ----------------------------------------------------------------------------------------------------------------- */

static inline double sx_horner(const double *c, int n, double t) {
    double p = c[n - 1];
    for (int i = n - 2; i >= 0; i--) p = p * t + c[i];
    return p;
}

SX_LONG64 double sx_erf_f64(double x) {
    /* erf(x) / x of x², |x| < 1, error 3.3e-23 */
    static const double near[] = {0x1.20dd750429b6dp+0, -0x1.812746b0379e7p-2, 0x1.ce2f21a042be2p-4, -0x1.b82ce31288b47p-6, 0x1.565bcd0e6a2eep-8, -0x1.c02db40035f1ep-11, 0x1.f9a326f7ac5b1p-14,
        -0x1.f4d25bf9af03ap-17, 0x1.b9e6c38e5cf3dp-20, -0x1.5f73c3bf14b91p-23, 0x1.fcbb312b48443p-27, -0x1.517ce02f1265fp-30, 0x1.9a0fcb5e22c5bp-34, -0x1.b40e7abf9f000p-38, 0x1.3c01fd3a74542p-42};
    /* e^(a²) erfc(a) about 1.5 on [1, 2] (3.0e-20), about 2.75 on [2, 3.5] (2.6e-18), about 4.75 on [3.5, 6] (2.3e-17) */
    static const double one[] = {0x1.494daffa2ad68p-2, -0x1.4f1988444caf7p-3, 0x1.37ea271bc54bcp-4, -0x1.0dc51d2941e6cp-5, 0x1.b65944f34fbb6p-7, -0x1.513ed7600d3c7p-8, 0x1.ee705e7311a51p-10,
        -0x1.5b0abfe6309ffp-11, 0x1.d4509d425f248p-13, -0x1.30c0ec8eebc29p-14, 0x1.7f99660093fdap-16, -0x1.d4155e4da48d2p-18, 0x1.15709ea561233p-19, -0x1.40090078056f8p-21, 0x1.66d11225ee11dp-23,
        -0x1.89dc72c25d886p-25, 0x1.c8ee5d35f0fe6p-27, -0x1.ddfe13df3446dp-29};
    static const double two[] = {0x1.8c9eb68ff27d7p-3, -0x1.0305781330095p-4, 0x1.43b98bac83820p-6, -0x1.84e9ab30e7d97p-8, 0x1.c2c72fd72862cp-10, -0x1.f99e41eadb01dp-12, 0x1.131bb1605f58ep-13,
        -0x1.2312b2fd05ab4p-15, 0x1.2bfb5b98b7037p-17, -0x1.2da2ed60d2934p-19, 0x1.2856c7c23201dp-21, -0x1.1cdc394369dbcp-23, 0x1.0c20a45da3a28p-25, -0x1.ebc9e63604badp-28, 0x1.bd80ed135ad53p-30,
        -0x1.be0b7fa1543f8p-32, 0x1.846f065667fc6p-34};
    static const double far[] = {0x1.dc603a3e77e9bp-4, -0x1.81149bc4a1004p-6, 0x1.317c144f8b3ebp-8, -0x1.dc1af883b462dp-11, 0x1.6cc10c163048ep-13, -0x1.12f174322ff1ap-15, 0x1.9818c0958ea9ep-18,
        -0x1.2a625eef97bc2p-20, 0x1.ae1fb2eb3ceb9p-23, -0x1.31c29a2aff2f4p-25, 0x1.acf8701d8e4fcp-28, -0x1.2944ada325fa6p-30, 0x1.96a157e13816dp-33, -0x1.0e7d0d4f8ade4p-35, 0x1.699a3d753c0edp-38,
        -0x1.214c4f0485134p-40, 0x1.788e670ba4c58p-43};
    double a = __builtin_fabs(x), made;
    if (x != x) return x;
    if (a < 1.0) return x * sx_horner(near, 15, x * x);
    if (a >= 6.0) made = 1.0;
    else made = 1.0 - sx_exp_f64(-a * a) * (a < 2.0 ? sx_horner(one, 18, a - 1.5) : a < 3.5 ? sx_horner(two, 17, a - 2.75) : sx_horner(far, 17, a - 4.75));
    return __builtin_copysign(made, x);
}

SX_FN64 double sx_sigmoid_f64(double x) {
    double z = sx_exp_f64(-__builtin_fabs(x));
    return (x >= 0.0 ? 1.0 : z) / (1.0 + z);
}

/* -- remainders and powers ------------------------------------------------------------------------------------------------------------------------------- */

/* C's fmod, exact: the quotient 11 bits at a time. */
SX_LONG64 double sx_fmod_f64(double x, double y) {
    uint64_t ux = sx_bits64(x) & ~((uint64_t)1 << 63), uy = sx_bits64(y) & ~((uint64_t)1 << 63);
    if (y != y || x != x || ux >= 0x7ff0000000000000u || !uy) return SX_NAN64;
    if (ux < uy) return x;
    int ex = (int)(ux >> 52), ey = (int)(uy >> 52);
    uint64_t mx = ex ? (ux & 0xfffffffffffffu) | 0x10000000000000u : ux, my = ey ? (uy & 0xfffffffffffffu) | 0x10000000000000u : uy;
    int shift = (ex ? ex : 1) - (ey ? ey : 1), e = ey ? ey : 1;
    for (mx %= my; shift > 0 && mx; ) {
        int step = shift < 11 ? shift : 11;
        mx = (mx << step) % my;
        shift -= step;
    }
    if (!mx) return __builtin_copysign(0.0, x);
    while (mx < 0x10000000000000u && e > 1) mx <<= 1, e--;
    uint64_t made = mx >= 0x10000000000000u ? (mx & 0xfffffffffffffu) | (uint64_t)e << 52 : mx;
    return __builtin_copysign(sx_float64(made), x);
}

/* The sign of y, as Python's %. */
SX_LONG64 double sx_mod_f64(double x, double y) {
    double r = sx_fmod_f64(x, y);
    if (r == 0.0) return __builtin_copysign(0.0, y);
    return (r < 0.0) != (y < 0.0) ? r + y : r;
}

/* What pow is where the plain formula does not say. `made`: |x|^y. */
SX_FN double sx_pow_special(double x, double y, double made) {
    double whole = __builtin_trunc(y), half = 0.5 * y;
    int integer = whole == y, odd = integer && __builtin_trunc(half) != half && __builtin_fabs(y) < 0x1p53;
    made = __builtin_fabs(x) == 1.0 ? 1.0 : made;
    int negative = sx_bits64(x) >> 63 != 0;
    made = negative && odd ? -made : made;
    made = x < 0.0 && x > -SX_INF64 && !integer && __builtin_fabs(y) < SX_INF64 ? SX_NAN64 : made;
    made = x != x || y != y ? SX_NAN64 : made;
    return y == 0.0 || x == 1.0 ? 1.0 : made;
}

SX_FN64 float sx_pow_f32(float x, float y) {
    return (float)sx_pow_special(x, y, sx_exp_f64((double)y * sx_log_f64(__builtin_fabs((double)x))));
}

/* a · b exactly as a sum of two doubles. */
SX_FN double sx_two_product(double a, double b, double *low) {
    double p = a * b;
#if defined(__FMA__) || defined(__aarch64__)
    *low = __builtin_fma(a, b, -p);
#else /* Dekker's halves of 26 bits, cut by their bits so that nothing can be contracted */
    double ah = sx_float64(sx_bits64(a) & ~(uint64_t)0x7ffffff), al = a - ah, bh = sx_float64(sx_bits64(b) & ~(uint64_t)0x7ffffff), bl = b - bh;
    *low = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
#endif
    return p;
}

/* |x|^y = e^(y log|x|) with the logarithm as a sum of two doubles, since its error is multiplied by up to 745. */
SX_LONG64 double sx_pow_f64(double x, double y) {
    double k, a = __builtin_fabs(x), f = sx_split_f64(a, &k);
    if (!(a > 0.0 && a < SX_INF64) || __builtin_fabs(y) > 0x1p70 || y != y) {
        double l = sx_log_f64(a);
        return sx_pow_special(x, y, sx_exp_f64(y * l));
    }
    double t = 2.0 + f, t_low = f - (t - 2.0), s = f / t, p_low, p = sx_two_product(s, t, &p_low), s_low = ((f - p) - p_low - s * t_low) / t;
    double z_low, z = sx_two_product(s, s, &z_low), c_low, c = sx_two_product(z, s, &c_low); /* s³ */
    c_low += z_low * s + 3.0 * z * s_low;
    /* (2 atanh(s) - 2 s - ⅔ s³) / s⁵ of s², error 2.8e-16 */
    double q = 0x1.0878816aa2ffap-3;
    q = q * z + 0x1.1018af16a6335p-3;
    q = q * z + 0x1.3b18b8e7bb15fp-3;
    q = q * z + 0x1.745d09f085360p-3;
    q = q * z + 0x1.c71c71d7e7d70p-3;
    q = q * z + 0x1.249249248e532p-2;
    q = q * z + 0x1.999999999999ep-2;
    double third_low, third = sx_two_product(c, 0x1.5555555555555p-1, &third_low); /* ⅔ s³ */
    third_low += c * 0x1.5555555555555p-55 + c_low * 0x1.5555555555555p-1;
    double high = k * 0x1.62e42fefa38p-1, two_s = 2.0 * s;                         /* exact: 42 bits times 11 */
    double a1 = high + two_s, b1 = two_s - (a1 - high);
    if (k == 0.0) a1 = two_s, b1 = 0.0;
    double a2 = a1 + third, b2 = third - (a2 - a1);
    double low = b1 + b2 + 2.0 * s_low + third_low + c * z * q + k * 0x1.ef35793c7673p-45;
    double log_high = a2 + low, log_low = low - (log_high - a2);
    double e_low, e = sx_two_product(y, log_high, &e_low);
    e_low += y * log_low;
    if (e > 720.0 || e < -760.0) return sx_pow_special(x, y, e > 0.0 ? SX_INF64 : 0.0);
    double g, h, m = sx_exp_parts_f64(e, &g, &h);
    return sx_pow_special(x, y, (g + g * (m + e_low + m * e_low)) * h);
}
#endif
