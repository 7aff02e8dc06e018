/* sx_int_isa.h: integer products, by ISA.

   How to think
   - A *word* is what one 32-bit lane holds of the sum's direction K: four bytes where the machine multiplies bytes (VNNI, dotprod, i8mm), two 16-bit integers everywhere else (pmaddwd and its kin).
     A lane of the accumulator gets the dot product of two words. SX_DEPTH: elements of a word.
   - VNNI multiplies an unsigned byte by a signed one, dotprod bytes that both are signed or both are not, i8mm an unsigned one by any. Panels of B are never changed; A is, while it is copied, so
     that its sign is what the machine wants beside B's (SX_A_SIGNED; gemm_int.c).
   - Nothing saturates: 16-bit products are added in 32 bits, which wrap. pmaddubsw, which does saturate, is not used. */
#ifndef SX_INT_ISA_H
#define SX_INT_ISA_H
#include "sx_gemm_isa.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#elif !defined(__AVX2__) && defined(__SSE2__)
#include <tmmintrin.h>
#endif

#if defined(__AVX512VNNI__)
#define SX_DEPTH 4
#define SX_A_SIGNED(b_signed) (!(b_signed))
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define SX_DEPTH 4
#define SX_A_SIGNED(b_signed) 0
#elif defined(__ARM_FEATURE_DOTPROD)
#define SX_DEPTH 4
#define SX_A_SIGNED(b_signed) (b_signed)
#else
#define SX_DEPTH 2
#define SX_A_SIGNED(b_signed) 1
#endif

typedef sx_fi sx_i;
typedef int32_t sx_i_any __attribute__((vector_size(4 * SX_GW), aligned(1), may_alias));
typedef int16_t sx_h __attribute__((vector_size(4 * SX_GW)));
typedef int32_t sx_word __attribute__((aligned(1), may_alias));
typedef uint8_t sx_b __attribute__((vector_size(SX_GW)));
typedef uint8_t sx_b_any __attribute__((vector_size(SX_GW), aligned(1), may_alias));
typedef int8_t sx_sb __attribute__((vector_size(SX_GW)));

SX_INLINE sx_i sx_iload(const void *p) { return *(const sx_i_any *)p; }
SX_INLINE void sx_istore(void *p, sx_i v) { *(sx_i_any *)p = v; }
SX_INLINE sx_i sx_isplat(int32_t x) { return x - (sx_i){0}; }
/* The word at p in every lane. */
SX_INLINE sx_i sx_word_splat(const void *p) {
#if defined(__wasm_simd128__)
    return (sx_i)wasm_v128_load32_splat(p);
#else
    return sx_isplat(*(const sx_word *)p);
#endif
}
SX_INLINE void sx_istore_part(int32_t *p, sx_i v, int n) { sx_fstore_part((float *)p, (sx_f)v, n); }
SX_INLINE sx_i sx_iload_part(const int32_t *p, int n) { return (sx_i)sx_fload_part((const float *)p, n); }

/* Whole numbers below 2^22 in magnitude as integers. A conversion that saturates, as WebAssembly's does, takes eight instructions. */
SX_INLINE sx_i sx_whole(sx_f x) {
#if defined(__wasm_simd128__)
    return (sx_i)(x + sx_fsplat(0x1.8p23f)) - 0x4b400000;
#else
    return __builtin_convertvector(x, sx_i);
#endif
}

/* SX_GW bytes as 32-bit numbers. */
SX_INLINE sx_i sx_widen_bytes(const uint8_t *p, int is_signed) {
    sx_b v = *(const sx_b_any *)p;
    return is_signed ? __builtin_convertvector((sx_sb)v, sx_i) : __builtin_convertvector(v, sx_i);
}

/* The first n < SX_GW bytes as 32-bit numbers, zeros after; and back. Nothing else is touched. */
SX_INLINE sx_i sx_widen_some(const uint8_t *p, int is_signed, int n) {
#if defined(__AVX512VL__)
    __m128i v = _mm_maskz_loadu_epi8((__mmask16)((1 << n) - 1), p);
    return (sx_i)(is_signed ? _mm512_cvtepi8_epi32(v) : _mm512_cvtepu8_epi32(v));
#else
    uint8_t room[SX_GW] = {0};
    for (int i = 0; i < n; i++) room[i] = p[i];
    return sx_widen_bytes(room, is_signed);
#endif
}
SX_INLINE void sx_bstore_some(uint8_t *p, sx_b v, int n) {
#if defined(__AVX512VL__)
    _mm_mask_storeu_epi8(p, (__mmask16)((1 << n) - 1), (__m128i)v);
#else
    for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

/* acc + the dot product of two 16-bit pairs, lane by lane. */
SX_INLINE sx_i sx_dot16(sx_i acc, sx_i a, sx_i b) {
#if defined(__AVX512VNNI__)
    return (sx_i)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return acc + (sx_i)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return acc + (sx_i)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__wasm_simd128__)
    return acc + (sx_i)wasm_i32x4_dot_i16x8((v128_t)a, (v128_t)b);
#elif defined(__aarch64__)
    int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
    return acc + (sx_i)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
#else
    return acc + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

/* acc + the dot product of a word of A and a word of B. Where words are bytes `b_signed` tells B's sign, and A's is SX_A_SIGNED. */
SX_INLINE sx_i sx_dot(sx_i acc, sx_i a, sx_i b, const int b_signed) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return b_signed ? (sx_i)vusdotq_s32((int32x4_t)acc, (uint8x16_t)a, (int8x16_t)b) : (sx_i)vdotq_u32((uint32x4_t)acc, (uint8x16_t)a, (uint8x16_t)b);
#elif defined(__ARM_FEATURE_DOTPROD)
    return b_signed ? (sx_i)vdotq_s32((int32x4_t)acc, (int8x16_t)a, (int8x16_t)b) : (sx_i)vdotq_u32((uint32x4_t)acc, (uint8x16_t)a, (uint8x16_t)b);
#elif SX_DEPTH == 4
    return (sx_i)(b_signed ? _mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b) : _mm512_dpbusd_epi32((__m512i)acc, (__m512i)b, (__m512i)a));
#else
    (void)b_signed;
    return sx_dot16(acc, a, b);
#endif
}

#if SX_DEPTH == 2
#ifdef __wasm__
/* Four words each of four rows to four words one after the other, the next four `step` 16-bit numbers on. */
SX_INLINE void sx_words_spread(const sx_h *x, int16_t *to, int step) {
    sx_i a = __builtin_shufflevector((sx_i)x[0], (sx_i)x[1], 0, 4, 1, 5), b = __builtin_shufflevector((sx_i)x[2], (sx_i)x[3], 0, 4, 1, 5);
    sx_i c = __builtin_shufflevector((sx_i)x[0], (sx_i)x[1], 2, 6, 3, 7), d = __builtin_shufflevector((sx_i)x[2], (sx_i)x[3], 2, 6, 3, 7);
    sx_istore(to, __builtin_shufflevector(a, b, 0, 1, 4, 5)), sx_istore(to + step, __builtin_shufflevector(a, b, 2, 3, 6, 7));
    sx_istore(to + 2 * step, __builtin_shufflevector(c, d, 0, 1, 4, 5)), sx_istore(to + 3 * step, __builtin_shufflevector(c, d, 2, 3, 6, 7));
}
#endif
/* Numbers of 16 bits from k on of four rows, where the product of words (gemm_int.c) looks for them. */
SX_INLINE void sx_words_store(const sx_h *x, int64_t k, uint8_t *to, int64_t rs) {
#ifdef __wasm__
    (void)rs;
    sx_words_spread(x, (int16_t *)(void *)to + 4 * k, 8);
#else
    for (int r = 0; r < 4; r++) sx_istore(to + r * rs + 2 * k, (sx_i)x[r]);
#endif
}
#endif

/* A product must not become part of a fused multiply-add: results would differ between instruction sets. */
#if defined(__AVX512F__)
#define SX_APART(v) __asm__("" : "+v"(v))
#elif defined(__SSE2__)
#define SX_APART(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define SX_APART(v) __asm__("" : "+w"(v))
#elif defined(__wasm_relaxed_simd__)
#define SX_APART(v) __asm__("" : "+r"(v))
#else
#define SX_APART(v) (void)(v)
#endif

#if defined(__AVX512BW__)
/* Nearest integers, ties to even; what is too large becomes large (a conversion alone would give the least integer). */
SX_INLINE __m512i sx_round_to_int(__m512 x) { return _mm512_cvtps_epi32(_mm512_min_ps(x, _mm512_set1_ps(0x1p30f))); }
/* 4 × 16 integers plus 16-bit numbers, saturated to bytes: 128-bit lane L holds lane L of the four vectors. `zero` is in the order of the first packing. */
SX_INLINE __m512i sx_pack_bytes(const __m512i *v, const __m512i *zero, int is_signed) {
    __m512i a = _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), zero[0]), b = _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), zero[1]);
    return is_signed ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
}
#endif
#endif
