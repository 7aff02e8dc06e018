/* gemm.h: the float matrix product inside MatMul, Conv and Attention. C[M, N] = A[M, K] · B[K, N], one rectangle of C at a time.

   How to think (after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008, with a twist)
   - A micro-tile of SX_MR × SX_NR accumulators lives in registers. It walks K with B in panels of 16 columns, in order, and with the SX_MR rows of A as they lie, one broadcast each: rows of A
     are not interleaved, so an A that is contiguous along K is used in place, and a gathered one (convolution) is copied row by row.
   - K is cut into blocks so that the panels of a micro-tile stay in the first-level cache for all rows of the rectangle. Later blocks add to C.
   - One call computes a rectangle over all of K. Who cuts C into rectangles (by shape only) decides what runs in parallel; every element's sum has one order. */
#ifndef SX_GEMM_H
#define SX_GEMM_H
#include "sx_kernel.h"
#include "sx_gemm_isa.h"

typedef struct sx_gemm sx_gemm;
struct sx_gemm {
    int64_t m, n, k;
    /* A: strided elements of a_dtype, or, with `rows`, whatever it writes: to[i * ld + j] = A[row + i, at + j] for i < rows, j < count. */
    const char *a;
    int64_t a_row, a_col;
    void (*rows)(const void *source, int64_t row, int64_t rows, int64_t at, int64_t count, float *to, int64_t ld);
    const void *rows_source;
    /* B: packed panels [N/16][K][16] of b_dtype, or strided elements, or, with `panel`, whatever it writes: to[k * 16 + j] = B[at + k, column + j] for k < count, j < columns ≤ 16. */
    const char *b;
    int64_t b_row, b_col;
    void (*panel)(const void *source, int64_t column, int64_t columns, int64_t at, int64_t count, float *to);
    const void *panel_source;
    int32_t a_dtype, b_dtype;
    int32_t b_packed;
    int32_t add; /* C += */
};

/* Sizes of the rectangles C is cut into: a pure function of the problem. `batch` problems run side by side. */
typedef struct { int64_t mc, nc, across, down; } sx_gemm_cut;
sx_gemm_cut SX_NAME(sx_gemm_cut_for)(const sx_gemm *g, int64_t batch);

/* Bytes of scratch one call of sx_gemm_block needs for an mc × nc rectangle. */
int64_t SX_NAME(sx_gemm_scratch)(const sx_gemm *g, int64_t mc, int64_t nc);

/* c[i * ldc + j] = (A · B)[m0 + i, n0 + j], i < mc, j < nc; n0 is a multiple of 16. */
void SX_NAME(sx_gemm_block)(const sx_gemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc, char *scratch);

static inline int64_t sx_min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t sx_max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t sx_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t sx_round_up(int64_t a, int64_t b) { return sx_ceil_div(a, b) * b; }
static inline int sx_is_float(int dtype) { return dtype == SX_FLOAT || dtype == SX_FLOAT16 || dtype == SX_BFLOAT16; }
static inline int64_t sx_size_of(int dtype) { return dtype == SX_FLOAT ? 4 : dtype == SX_DOUBLE ? 8 : 2; } /* of the float types */

/* Element `at` of float storage, widened. */
SX_INLINE float sx_element(const char *p, int dtype, int64_t at) {
    if (dtype == SX_FLOAT) return ((const float *)p)[at];
    return dtype == SX_FLOAT16 ? sx_widen_f16(((const uint16_t *)p)[at]) : sx_widen_bf16(((const uint16_t *)p)[at]);
}

/* to[i] = widened p[i * stride], i < n. */
SX_INLINE void sx_widen_row(const char *p, int dtype, int64_t stride, int64_t n, float *to) {
    int64_t i = 0;
    if (stride == 1) {
        if (dtype == SX_FLOAT) {
            for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fload((const float *)p + i));
            sx_copy_part(to + i, (const float *)p + i, (int)(n - i));
            return;
        }
        if (dtype == SX_FLOAT16) for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fwiden_f16((const uint16_t *)p + i));
        else for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fwiden_bf16((const uint16_t *)p + i));
    }
    for (; i < n; i++) to[i] = sx_element(p, dtype, i * stride);
}

SX_INLINE void sx_zero_row(float *to, int64_t n) {
    int64_t i = 0;
    for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fsplat(0));
    for (; i < n; i++) to[i] = 0;
}

#endif
