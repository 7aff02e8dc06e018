/* sx_vec.h: vectors of the ISA a file is compiled for, by the compiler's own vector types; loops that need a fixed order of additions use them (a plain loop over floats is not vectorised). */
#ifndef SX_VEC_H
#define SX_VEC_H
#include <stdint.h>

#if defined(__AVX512F__)
#define SX_VECTOR 64
#elif defined(__AVX__)
#define SX_VECTOR 32
#else
#define SX_VECTOR 16
#endif

#define SX_LANES32 (SX_VECTOR / 4)
#define SX_LANES64 (SX_VECTOR / 8)

typedef float sx_v32 __attribute__((vector_size(SX_VECTOR)));
typedef double sx_v64 __attribute__((vector_size(SX_VECTOR)));
typedef int32_t sx_m32 __attribute__((vector_size(SX_VECTOR)));
typedef int64_t sx_m64 __attribute__((vector_size(SX_VECTOR)));
typedef float sx_v32_any __attribute__((vector_size(SX_VECTOR), aligned(4), may_alias));
typedef double sx_v64_any __attribute__((vector_size(SX_VECTOR), aligned(8), may_alias));

/* v bounded by `least` from below, by `most` from above (neither NaN); a NaN in v stays. The machine's own instruction, with the operand it returns for NaN second. */
#if defined(__AVX512F__)
#include <immintrin.h>
static inline sx_v32 sx_vat_least(sx_v32 v, sx_v32 least) { return (sx_v32)_mm512_max_ps((__m512)least, (__m512)v); }
static inline sx_v32 sx_vat_most(sx_v32 v, sx_v32 most) { return (sx_v32)_mm512_min_ps((__m512)most, (__m512)v); }
#elif defined(__AVX__)
#include <immintrin.h>
static inline sx_v32 sx_vat_least(sx_v32 v, sx_v32 least) { return (sx_v32)_mm256_max_ps((__m256)least, (__m256)v); }
static inline sx_v32 sx_vat_most(sx_v32 v, sx_v32 most) { return (sx_v32)_mm256_min_ps((__m256)most, (__m256)v); }
#elif defined(__SSE__)
#include <immintrin.h>
static inline sx_v32 sx_vat_least(sx_v32 v, sx_v32 least) { return (sx_v32)_mm_max_ps((__m128)least, (__m128)v); }
static inline sx_v32 sx_vat_most(sx_v32 v, sx_v32 most) { return (sx_v32)_mm_min_ps((__m128)most, (__m128)v); }
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
static inline sx_v32 sx_vat_least(sx_v32 v, sx_v32 least) { return (sx_v32)wasm_f32x4_pmax((v128_t)v, (v128_t)least); }
static inline sx_v32 sx_vat_most(sx_v32 v, sx_v32 most) { return (sx_v32)wasm_f32x4_pmin((v128_t)v, (v128_t)most); }
#else
static inline sx_v32 sx_vat_least(sx_v32 v, sx_v32 least) { sx_m32 below = (sx_m32)(v < least); return (sx_v32)(((sx_m32)least & below) | ((sx_m32)v & ~below)); }
static inline sx_v32 sx_vat_most(sx_v32 v, sx_v32 most) { sx_m32 above = (sx_m32)(v > most); return (sx_v32)(((sx_m32)most & above) | ((sx_m32)v & ~above)); }
#endif

/* Sum, extremes and sum of squared differences of n dense numbers. Four running vectors, then halves: the order depends on n only. NaN goes through. */
#define SX_REDUCTIONS(T, V, M, ANY, LANES, S) \
    static inline T sx_fold_sum_##S(V a) { T s = 0; for (int i = 0; i < LANES; i++) s += a[i]; return s; } \
    static inline V sx_vmax_##S(V a, V b) { M first = (M)(a > b) | (M)(a != a); return (V)(((M)a & first) | ((M)b & ~first)); } \
    static inline V sx_vmin_##S(V a, V b) { M first = (M)(a < b) | (M)(a != a); return (V)(((M)a & first) | ((M)b & ~first)); } \
    static inline T sx_sum_##S(const T *x, int64_t n) { \
        V a = {0}, b = {0}, c = {0}, d = {0}; \
        int64_t i = 0; \
        for (; i + 4 * LANES <= n; i += 4 * LANES) { \
            a += *(const ANY *)(x + i), b += *(const ANY *)(x + i + LANES), c += *(const ANY *)(x + i + 2 * LANES), d += *(const ANY *)(x + i + 3 * LANES); } \
        for (; i + LANES <= n; i += LANES) a += *(const ANY *)(x + i); \
        T s = sx_fold_sum_##S((a + b) + (c + d)); \
        for (; i < n; i++) s += x[i]; \
        return s; } \
    static inline T sx_squares_##S(const T *x, T mean, int64_t n) { \
        V a = {0}, b = {0}; \
        int64_t i = 0; \
        for (; i + 2 * LANES <= n; i += 2 * LANES) { \
            V p = *(const ANY *)(x + i) - mean, q = *(const ANY *)(x + i + LANES) - mean; \
            a += p * p, b += q * q; } \
        T s = sx_fold_sum_##S(a + b); \
        for (; i < n; i++) s += (x[i] - mean) * (x[i] - mean); \
        return s; } \
    SX_EXTREME(T, V, ANY, LANES, S, max, >) \
    SX_EXTREME(T, V, ANY, LANES, S, min, <)

/* The extreme of n ≥ 1 numbers. */
#define SX_EXTREME(T, V, ANY, LANES, S, NAME, BEATS) \
    static inline T sx_##NAME##_##S(const T *x, int64_t n) { \
        T m = x[0]; \
        int64_t i = 0; \
        if (n >= 2 * LANES) { \
            V a = *(const ANY *)x, b = *(const ANY *)(x + LANES); \
            for (i = 2 * LANES; i + 2 * LANES <= n; i += 2 * LANES) a = sx_v##NAME##_##S(a, *(const ANY *)(x + i)), b = sx_v##NAME##_##S(b, *(const ANY *)(x + i + LANES)); \
            a = sx_v##NAME##_##S(a, b); \
            m = a[0]; \
            for (int k = 1; k < LANES; k++) m = m BEATS a[k] || m != m ? m : a[k]; } \
        for (; i < n; i++) m = m BEATS x[i] || m != m ? m : x[i]; \
        return m; }

SX_REDUCTIONS(double, sx_v64, sx_m64, sx_v64_any, SX_LANES64, f64)
#ifdef __wasm__ /* the extreme itself one instruction, NaN noticed beside it: what waits for what is short */
#undef SX_EXTREME
#define SX_EXTREME(T, V, ANY, LANES, S, NAME, BEATS) \
    static __attribute__((noinline, unused)) T sx_##NAME##_##S(const T *x, int64_t n) { \
        T m = x[0]; \
        int64_t i = 0; \
        if (n >= 4 * LANES) { \
            sx_v32 a[4], odd = {0}; \
            for (int u = 0; u < 4; u++) a[u] = *(const ANY *)(x + u * LANES); \
            for (; i + 4 * LANES <= n; i += 4 * LANES) \
                _Pragma("clang loop unroll(full)") for (int u = 0; u < 4; u++) { \
                    const sx_v32 v = *(const ANY *)(x + i + u * LANES); \
                    odd = (sx_v32)((sx_m32)odd | (sx_m32)(v != v)); \
                    a[u] = (sx_v32)wasm_f32x4_p##NAME((v128_t)a[u], (v128_t)v); } \
            if (wasm_v128_any_true((v128_t)odd)) i = 0; \
            else for (int k = 0; k < 4 * LANES; k++) m = m BEATS a[k / LANES][k % LANES] ? m : a[k / LANES][k % LANES]; } \
        for (; i < n; i++) m = m BEATS x[i] || m != m ? m : x[i]; \
        return m; }
#endif
SX_REDUCTIONS(float, sx_v32, sx_m32, sx_v32_any, SX_LANES32, f32)
#endif
