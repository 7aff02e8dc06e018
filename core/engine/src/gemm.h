/* gemm.h: the float matrix product inside MatMul, Conv and Attention. C[M, N] = A[M, K] · B[K, N], one rectangle of C at a time.

   How to think (after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008, with a twist)
   - A micro-tile of SX_MR × SX_NR accumulators lives in registers. It walks K with B in panels of 16 columns, in order, and with the SX_MR rows of A as they lie, one broadcast each: rows of A
     are not interleaved, so an A that is contiguous along K is used in place, and a gathered one (convolution) is copied row by row.
   - K is cut into blocks so that a tile's rows of A stay in the first-level cache while it passes over the panels of B, which stay in the second-level cache for all rows. Later blocks add to C.
   - What follows the product (bias, residual, bounds: sx_sum.h) is done to the registers before the last store.
   - One call computes a rectangle over all of K. Who cuts C into rectangles (by shape only) decides what runs in parallel; every element's sum has one order. */
#ifndef SX_GEMM_H
#define SX_GEMM_H
#include "sx_kernel.h"
#include "sx_gemm_isa.h"
#include "sx_sum.h"

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
    int32_t add;       /* C += */
    const sx_end *end; /* what becomes of the finished rectangle, placed for its first element; NULL: nothing */
    sx_coming *coming; /* what to ask for meanwhile; NULL: nothing */
#ifdef SX_BF16
    int32_t bf16;      /* not 0: factors are rounded to bfloat16; SX_BF16_WORDS: and B lies so */
#endif
};

/* Rows of A and C in lines: row i of line l is `a + l * a_line + i * a_row`, contiguous along K, or in runs of `run` elements of which the t-th begins at runs[t] (at most SX_GEMM_RUNS; NULL: one). */
#define SX_GEMM_RUNS 64
typedef struct {
    int64_t lines, width;
    const float *a;
    int64_t a_line, a_row;
    const int64_t *runs;
    int64_t run;
    float *c;
    int64_t c_line, c_row;
    const sx_end *end; /* placed for the first element of C */
} sx_gemm_rows;

/* Sizes of the rectangles C is cut into: a pure function of the problem. `batch` problems run side by side. */
typedef struct { int64_t mc, nc, across, down; } sx_gemm_cut;
sx_gemm_cut SX_NAME(sx_gemm_cut_for)(const sx_gemm *g, int64_t batch);

/* Bytes of scratch one call of sx_gemm_block needs for an mc × nc rectangle. */
int64_t SX_NAME(sx_gemm_scratch)(const sx_gemm *g, int64_t mc, int64_t nc);

/* c[i * ldc + j] = (A · B)[m0 + i, n0 + j], i < mc, j < nc; n0 is a multiple of 16. */
void SX_NAME(sx_gemm_block)(const sx_gemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc, char *scratch);

/* The same for rows in lines; of g only k, n, B and add are used. The scratch is sx_gemm_scratch's of a product without copied rows. */
void SX_NAME(sx_gemm_lines)(const sx_gemm *g, const sx_gemm_rows *r, int64_t n0, int64_t nc, char *scratch);

/* to[i * to_ld + j] = from[j * from_ld + i], i < count, j < cols. */
void SX_NAME(sx_gemm_transpose)(const float *from, int64_t from_ld, int64_t cols, int64_t count, float *to, int64_t to_ld);

/* gemm_bf16.c: the same products with factors rounded to bfloat16. SX_PACK_WORDS: [N/16][K/2][16][2] of a group, derived when a program is first bound and never stored. */
enum { SX_BF16_ROUNDED = 1, SX_BF16_WORDS = 2, SX_PACK_WORDS = 48, SX_BF16_ROWS = 4 };
#ifdef SX_BF16
int64_t SX_NAME(sx_bf16_scratch)(const sx_gemm *g, int64_t nc);
void SX_NAME(sx_bf16_block)(const sx_gemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc, char *scratch);
void SX_NAME(sx_bf16_lines)(const sx_gemm *g, const sx_gemm_rows *r, int64_t n0, int64_t nc, char *scratch);
/* How it reads its operands: as gemm.c does. */
void SX_NAME(sx_gemm_copy_rows)(const sx_gemm *g, int64_t row, int64_t rows, int64_t at, int64_t count, float *to, int64_t ld);
void SX_NAME(sx_gemm_copy_panel)(const sx_gemm *g, int64_t n, int64_t at, int64_t count, float *to);
/* Whether a call multiplies so (g->bf16, also returned), and the size of its product. SX_BF16_WORDS also where its constant could lie so. */
int SX_NAME(sx_matmul_bf16)(const sx_call *call, sx_gemm *g);
int SX_NAME(sx_conv_bf16)(const sx_call *call, sx_gemm *g);

/* `constant`: B is packed weights. Few rows of another B stay float: reading it is all the time there is. */
static inline int sx_bf16_of(const sx_call *call, const sx_gemm *g, int constant) {
    if (!call->bf16 || g->a_dtype != SX_FLOAT || g->b_dtype != SX_FLOAT || (g->m <= SX_BF16_ROWS && !g->b_packed)) return 0;
    return constant ? SX_BF16_WORDS : SX_BF16_ROUNDED;
}
#endif

static inline int sx_is_float(int dtype) { return dtype == SX_FLOAT || dtype == SX_FLOAT16 || dtype == SX_BFLOAT16; }
static inline int64_t sx_size_of(int dtype) { return dtype == SX_FLOAT ? 4 : dtype == SX_DOUBLE ? 8 : 2; } /* of the float types */

/* Bytes of one group's packed B. */
static inline int64_t sx_packed_group(const sx_gemm *g) {
#ifdef SX_BF16
    if (g->bf16 == SX_BF16_WORDS) return 2 * sx_round_up(g->n, SX_PANEL) * sx_round_up(g->k, 2);
#endif
    return sx_round_up(g->n, SX_PANEL) * g->k * sx_size_of(g->b_dtype);
}

/* Element `at` of float storage, widened. */
SX_INLINE float sx_element(const char *p, int dtype, int64_t at) {
    if (dtype == SX_FLOAT) return ((const float *)p)[at];
    return dtype == SX_FLOAT16 ? sx_widen_f16(((const uint16_t *)p)[at]) : sx_widen_bf16(((const uint16_t *)p)[at]);
}

/* to[i] = widened p[i * stride], i < n. */
SX_EDGE void sx_widen_other(const char *p, int dtype, int64_t stride, int64_t n, float *to) {
    int64_t i = 0;
    if (stride == 1) {
        if (dtype == SX_FLOAT16) for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fwiden_f16((const uint16_t *)p + i));
        else if (dtype == SX_BFLOAT16) for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fwiden_bf16((const uint16_t *)p + i));
    }
    for (; i < n; i++) to[i] = sx_element(p, dtype, i * stride);
}
SX_INLINE void sx_widen_row(const char *p, int dtype, int64_t stride, int64_t n, float *to) {
    int64_t i = 0;
    if (dtype != SX_FLOAT || stride != 1) {
        sx_widen_other(p, dtype, stride, n, to);
        return;
    }
    for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fload((const float *)p + i));
    sx_copy_part(to + i, (const float *)p + i, (int)(n - i));
}

SX_INLINE void sx_zero_row(float *to, int64_t n) {
    int64_t i = 0;
    for (; i + SX_GW <= n; i += SX_GW) sx_fstore(to + i, sx_fsplat(0));
    for (; i < n; i++) to[i] = 0;
}

/* One register of finished sums; the end's operands lie at p and q; the first n lanes count. */
SX_INLINE sx_f sx_ended(const sx_end *e, sx_f x, const float *p, const float *q, int n) {
    if (n == SX_GW) x = x + sx_fload(p) + sx_fload(q);
    else x = x + sx_fload_part(p, n) + sx_fload_part(q, n);
    return sx_fat_most(sx_fat_least(x, sx_fsplat(e->lo)), sx_fsplat(e->hi));
}

/* The end of one line of finished sums, in place. */
static inline void sx_end_rows(const sx_end *e, int64_t line, float *c, int64_t ldc, int64_t rows, int64_t cols) {
    const float *p = e->data[0] + line * e->line[0], *q = e->data[1] + line * e->line[1];
    for (int64_t i = 0; i < rows; i++, c += ldc, p += e->row[0], q += e->row[1])
        for (int64_t j = 0; j < cols; j += SX_GW) {
            int n = (int)sx_min64(SX_GW, cols - j);
            const float *x = p + j * e->col[0], *y = q + j * e->col[1];
            if (n == SX_GW) sx_fstore(c + j, sx_ended(e, sx_fload(c + j), x, y, n));
            else sx_fstore_part(c + j, sx_ended(e, sx_fload_part(c + j, n), x, y, n), n);
        }
}

#endif
