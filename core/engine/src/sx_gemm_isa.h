/* sx_gemm_isa.h: the register a matrix product accumulates in, by ISA, and the few primitives the float kernels need of it.

   GW: lanes of a register. A micro-tile is MR rows × NV registers of columns; MR · NV accumulators, NV for the right-hand side and one broadcast fit the register file.
   NV · GW either divides 16 (the panel of packed weights) or is a multiple of it. */
#ifndef SX_GEMM_ISA_H
#define SX_GEMM_ISA_H
#include <stdint.h>

#pragma clang fp contract(fast) /* a * b + c is one instruction where the machine has it */

#if defined(__AVX512F__)
#include <immintrin.h>
#define SX_BF16 /* where the machine has AVX512_BF16 and a session asks for it: gemm_bf16.c */
#define SX_GW 16
#define SX_MR 12
#define SX_NV 2
#elif defined(__AVX2__)
#include <immintrin.h>
#define SX_GW 8
#define SX_MR 6
#define SX_NV 2
#elif defined(__aarch64__)
#define SX_GW 4
#define SX_MR 6
#define SX_NV 4
#elif defined(__wasm__) /* 15 registers are V8's to give: 6 × 8 is the most where a product and a sum are one instruction, 4 × 8 where the product needs a register */
#include <wasm_simd128.h>
#define SX_GW 4
#define SX_NV 2
#ifdef __wasm_relaxed_simd__
#define SX_MR 6
#else
#define SX_MR 4
#endif
#else
#define SX_GW 4
#define SX_MR 5
#define SX_NV 2
#endif
#define SX_PANEL 16               /* core/model/packing.py */
#define SX_NR (SX_NV * SX_GW)     /* columns of a micro-tile */
#define SX_WIDE (SX_NR > SX_PANEL ? SX_NR : SX_PANEL) /* whole panels a micro-tile needs */

#define SX_INLINE static inline __attribute__((always_inline))
/* What happens at edges only: a call in a module for the web, where it would otherwise be a good part of the bytes. */
#ifdef __wasm__
#define SX_EDGE static __attribute__((noinline, minsize, unused))
#else
#define SX_EDGE SX_INLINE
#endif
#define SX_UNROLL _Pragma("clang loop unroll(full)")
/* One address walks along X, the weights or the results: what V8 would make of base + i · step is an addition and more for each access, and LLVM would load all at once (3 × 3: 20 → 27 GFLOP/s). */
#ifdef __wasm__
#define SX_WALK(pointer, step) \
    do { \
        (pointer) += (step); \
        __asm__("" : "+r"(pointer)); \
    } while (0)
#else
#define SX_WALK(pointer, step) ((pointer) += (step))
#endif
/* The outer loop over a square of vectors: unrolled where registers hold it. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define SX_SQUARE SX_UNROLL
#else
#define SX_SQUARE _Pragma("clang loop unroll(disable)")
#endif

typedef float sx_f __attribute__((vector_size(4 * SX_GW)));
typedef int32_t sx_fi __attribute__((vector_size(4 * SX_GW)));
typedef uint32_t sx_fu __attribute__((vector_size(4 * SX_GW)));
typedef uint16_t sx_fh __attribute__((vector_size(2 * SX_GW)));
typedef float sx_f_any __attribute__((vector_size(4 * SX_GW), aligned(4), may_alias));
typedef uint16_t sx_fh_any __attribute__((vector_size(2 * SX_GW), aligned(2), may_alias));

SX_INLINE sx_f sx_fload(const float *p) { return *(const sx_f_any *)p; }
SX_INLINE void sx_fstore(float *p, sx_f v) { *(sx_f_any *)p = v; }
SX_INLINE sx_f sx_fsplat(float x) {
#if SX_GW == 16
    return (sx_f){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif SX_GW == 8
    return (sx_f){x, x, x, x, x, x, x, x};
#else
    return (sx_f){x, x, x, x};
#endif
}
/* The first n lanes, 0 < n < GW; a load gives zeros beyond and touches nothing there. */
SX_EDGE sx_f sx_fload_part(const float *p, int n) {
#if defined(__AVX512F__)
    return (sx_f)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    sx_f v = sx_fsplat(0);
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
}
SX_EDGE void sx_fstore_part(float *p, sx_f v, int n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    float lanes[SX_GW];
    sx_fstore(lanes, v);
    for (int i = 0; i < n; i++) p[i] = lanes[i];
#endif
}
/* Fewer than GW floats. */
SX_EDGE void sx_copy_part(float *to, const float *from, int n) {
#if defined(__AVX512F__)
    __mmask16 mask = (__mmask16)((1u << n) - 1);
    _mm512_mask_storeu_ps(to, mask, _mm512_maskz_loadu_ps(mask, from));
#else
    for (int i = 0; i < n; i++) to[i] = from[i];
#endif
}
SX_INLINE sx_f sx_fselect(sx_fi mask, sx_f a, sx_f b) { return (sx_f)(((sx_fi)a & mask) | ((sx_fi)b & ~mask)); }
/* NaN if either is NaN. */
SX_INLINE sx_f sx_fmax(sx_f a, sx_f b) {
    sx_f larger = sx_fselect(a > b, a, b);
    return sx_fselect(a != a, a, larger);
}
/* v bounded by `least` from below, by `most` from above (neither NaN); a NaN in v stays. */
#if defined(__AVX512F__)
SX_INLINE sx_f sx_fat_least(sx_f v, sx_f least) { return (sx_f)_mm512_max_ps((__m512)least, (__m512)v); }
SX_INLINE sx_f sx_fat_most(sx_f v, sx_f most) { return (sx_f)_mm512_min_ps((__m512)most, (__m512)v); }
#elif defined(__AVX2__)
SX_INLINE sx_f sx_fat_least(sx_f v, sx_f least) { return (sx_f)_mm256_max_ps((__m256)least, (__m256)v); }
SX_INLINE sx_f sx_fat_most(sx_f v, sx_f most) { return (sx_f)_mm256_min_ps((__m256)most, (__m256)v); }
#elif defined(__wasm_simd128__)
SX_INLINE sx_f sx_fat_least(sx_f v, sx_f least) { return (sx_f)wasm_f32x4_pmax((v128_t)v, (v128_t)least); }
SX_INLINE sx_f sx_fat_most(sx_f v, sx_f most) { return (sx_f)wasm_f32x4_pmin((v128_t)v, (v128_t)most); }
#else
SX_INLINE sx_f sx_fat_least(sx_f v, sx_f least) { return sx_fselect(v < least, least, v); }
SX_INLINE sx_f sx_fat_most(sx_f v, sx_f most) { return sx_fselect(v > most, most, v); }
#endif
/* The largest of n > 0 floats; NaN if there is one. */
static inline float sx_fmax_of(const float *x, int64_t n) {
    sx_f a = sx_fsplat(x[0]), b = a;
    int64_t i = 0;
    for (; i + 2 * SX_GW <= n; i += 2 * SX_GW) a = sx_fmax(a, sx_fload(x + i)), b = sx_fmax(b, sx_fload(x + i + SX_GW));
    a = sx_fmax(a, b);
    float best = a[0];
    for (int l = 1; l < SX_GW; l++) best = best > a[l] || best != best ? best : a[l];
    for (; i < n; i++) best = best > x[i] || best != best ? best : x[i];
    return best;
}

/* A 4 × 4 square: to[i * to_ld + j] = from[j * from_ld + i]. */
typedef float sx_f4 __attribute__((vector_size(16)));
typedef float sx_f4_any __attribute__((vector_size(16), aligned(4), may_alias));
SX_INLINE void sx_ftranspose4(const float *from, int64_t from_ld, float *to, int64_t to_ld) {
    sx_f4 a = *(const sx_f4_any *)from, b = *(const sx_f4_any *)(from + from_ld), c = *(const sx_f4_any *)(from + 2 * from_ld), d = *(const sx_f4_any *)(from + 3 * from_ld);
    sx_f4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    sx_f4 ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(sx_f4_any *)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    *(sx_f4_any *)(to + to_ld) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *(sx_f4_any *)(to + 2 * to_ld) = __builtin_shufflevector(ef, gh, 0, 1, 4, 5);
    *(sx_f4_any *)(to + 3 * to_ld) = __builtin_shufflevector(ef, gh, 2, 3, 6, 7);
}

SX_INLINE float sx_fsum(sx_f v) {
    float s[SX_GW];
    sx_fstore(s, v);
    for (int half = SX_GW / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}

/* The sums of four registers. Quarters are added first, the same lanes of each, then quarter to quarter. */
SX_INLINE sx_f4 sx_fsum4(sx_f a, sx_f b, sx_f c, sx_f d) {
#if SX_GW == 16
    sx_f ab = __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) + __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    sx_f cd = __builtin_shufflevector(c, d, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) + __builtin_shufflevector(c, d, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    sx_f s = __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) + __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    return (__builtin_shufflevector(s, s, 0, 1, 2, 3) + __builtin_shufflevector(s, s, 4, 5, 6, 7)) + (__builtin_shufflevector(s, s, 8, 9, 10, 11) + __builtin_shufflevector(s, s, 12, 13, 14, 15));
#elif SX_GW == 8
    sx_f ab = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    sx_f cd = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13) + __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    sx_f s = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) + __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(s, s, 0, 1, 2, 3) + __builtin_shufflevector(s, s, 4, 5, 6, 7);
#else
    sx_f ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
#endif
}

/* Half precision → float, exact. The bits of the exponent and mantissa move into place and 2^112 rights the bias, denormals included. */
SX_INLINE sx_f sx_fwiden_f16(const uint16_t *p) {
#if defined(__AVX512F__)
    return (sx_f)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    return (sx_f)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    sx_fu h = __builtin_convertvector(*(const sx_fh_any *)p, sx_fu);
    sx_fu magnitude = (h & 0x7fff) << 13;
    sx_f value = (sx_f)magnitude * sx_fsplat(0x1p112f);
    sx_fu special = (sx_fu)(magnitude >= 0x0f800000u) & 0x7f800000u; /* inf and NaN keep a full exponent */
    return (sx_f)((sx_fu)value | special | (h & 0x8000) << 16);
#endif
}
SX_INLINE sx_f sx_fwiden_bf16(const uint16_t *p) {
    return (sx_f)(__builtin_convertvector(*(const sx_fh_any *)p, sx_fu) << 16);
}
SX_INLINE float sx_widen_f16(uint16_t h) {
    union { uint32_t u; float f; } v = {(uint32_t)(h & 0x7fff) << 13};
    int special = v.u >= 0x0f800000u;
    v.f *= 0x1p112f;
    v.u |= (special ? 0x7f800000u : 0) | (uint32_t)(h & 0x8000) << 16;
    return v.f;
}
SX_INLINE float sx_widen_bf16(uint16_t h) {
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}

#endif
