/* gemm_int.h: the product of byte matrices inside MatMul and Conv. C[i, j] = Σ over K of (A[i, k] - za[i]) · (B[k, j] - zb[j]), exact 32-bit integers that wrap.

   How to think
   - As gemm.h, in words (sx_int_isa.h) instead of floats: A lies as rows of words, B as panels of 16 columns × words. Packed B (core/model/packing.py) is that already where words are bytes;
     elsewhere a K block of a panel is widened to 16 bits, less its zero points, and A is widened while it is copied.
   - Where words are bytes the sum is Σ a·b, corrected: - za Σ b - zb Σ a + K za zb. The usual case, one za and no zb, costs nothing: accumulators start at -za Σ b.
   - In WebAssembly large products are Strassen's (sx_int_strassen.h).
   - With AMX (sx_amx.h) tiles of 16 × 16 sums take 64 steps of K at once. Integers being exact, whether a machine has it changes no result.
   - One call computes a rectangle of C over all of K, a *strip* of some columns at a time; each finished strip is handed on while it is hot. */
#ifndef SX_GEMM_INT_H
#define SX_GEMM_INT_H
#include "gemm.h"
#include "sx_int_isa.h"

#define SX_STRIP 64 /* columns handed on at once */

typedef struct {
    int64_t m, n, k;
    /* A: bytes a_row, a_col apart, or, with `rows`, whatever it writes: to[i * ld + j] = A[row + i, j] for i < rows, j < k. */
    const uint8_t *a;
    int64_t a_row, a_col;
    void (*rows)(const void *source, int64_t row, int64_t rows, uint8_t *to, int64_t ld);
    const void *rows_source;
    /* B: packed panels [⌈N/16⌉][⌈K/4⌉][16][4], or bytes b_row, b_col apart, or, with `panel`, whatever it writes: to[k / 4 * 64 + j * 4 + k % 4] = B[k, column + j] into zeros. */
    const uint8_t *b;
    int64_t b_row, b_col;
    void (*panel)(const void *source, int64_t column, int64_t columns, uint8_t *to);
    const void *panel_source;
    int32_t a_signed, b_signed, b_packed;
    /* Zero points, of A's and B's type; NULL: 0. Step 0: one for all. */
    const uint8_t *za, *zb;
    int64_t za_step, zb_step;
    const int32_t *sums; /* of packed B's columns; NULL: they are made where they are needed */
    /* Finished strips: rows × columns at `block`, ld apart; or, without `sink`, they are left in c. */
    void (*sink)(const void *arg, const int32_t *block, int64_t row, int64_t rows, int64_t column, int64_t columns, int64_t ld, char *scratch);
    const void *sink_arg;
    int64_t sink_scratch;
    int32_t *c;
    int64_t ldc;
    /* What a worker's scratch holds of A, so that rectangles beside one another copy it once: of these rows (key, not 0) where *held is that. NULL: nothing. */
    int64_t *held, key;
} sx_igemm;

typedef struct { int64_t mc, nc, across, down; } sx_igemm_cut;
sx_igemm_cut SX_NAME(sx_igemm_cut_for)(const sx_igemm *g, int64_t batch);
int64_t SX_NAME(sx_igemm_scratch)(const sx_igemm *g, int64_t mc, int64_t nc);
/* Rows [m0, m0 + mc), columns [n0, n0 + nc); n0 is a multiple of SX_STRIP or the only rectangle's 0. */
void SX_NAME(sx_igemm_run)(const sx_igemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, char *scratch);

/* C = A · B of words as they multiply: 16 columns of B, words × 16; rows of A as sx_words_store wrote them (winograd_int.c; where words are pairs). */
void SX_NAME(sx_iwords)(const uint8_t *a, int64_t rs, int64_t rows, const int32_t *b, int64_t words, int32_t *c, int64_t ldc);

/* Column sums of packed B are made when a program is first bound (sx_call's `sums`): which operand of a call they are wanted of, -1: none; Σ over K of B[k, j] for every column of its panels. */
int SX_NAME(sx_igemm_summed)(const sx_call *call);
void SX_NAME(sx_igemm_sums)(const sx_view *b, int32_t *to);

static inline int32_t sx_byte_at(const uint8_t *p, int is_signed, int64_t at) { return is_signed ? (int8_t)p[at] : p[at]; }
static inline int32_t sx_zero_at(const uint8_t *zero, int64_t step, int is_signed, int64_t at) { return zero ? sx_byte_at(zero, is_signed, at * step) : 0; }

#define SX_REQUANT_MOST 64 /* instructions looked at */
/* Epilogues of integer sums (requant.c). Instructions are given by their number, -1: none. */
typedef struct {
    int32_t plain;                             /* of none of the forms: goes through sx_finish */
    int32_t rounds, simple, real, added;       /* to bytes; nothing else than that; and from those to floats; or bytes are added and nothing is unusual */
    int32_t dtype, divides, bias, factor, offset, zero;
    int32_t other, other_first, real_offset;   /* the operand that is added: bytes after rounding, or floats, before real_offset or after */
    float low, high;
    float own, theirs, constant, last_zero, last_low, last_high;
    float real_zero, real_scale, real_low, real_high;
    int32_t prefix;                            /* such floats are what the rest of the expression, `rest` with its own words, begins with */
    sx_code rest;
    int32_t words[SX_REQUANT_MOST * 6];
} sx_requant;
sx_requant SX_NAME(sx_requant_of)(const sx_call *call, const int *row_axes, int n_axes);
static inline int64_t sx_requant_scratch(int64_t cols) { return 20 * sx_round_up(cols, 16); }
/* Evaluate for `cols` columns from position `start` what does not depend on rows, into `room` (sx_requant_scratch bytes). 0: not of that form after all;
   SX_REQUANT_SMALL: and the zeros are small whole numbers. `block`: any `cols` integers. */
#define SX_REQUANT_SMALL 2
int SX_NAME(sx_requant_prepare)(const sx_call *call, const sx_requant *q, const int32_t *block, int64_t cols, const int64_t *start, int row_axis, int col_axis, char *room);
/* Finish rows × cols sums at the positions start + (row along row_axis) + (col along col_axis); `prepared` is what sx_requant_prepare gave for these columns. A block is read 64
   columns at a time: it is that wide, or as many follow its last row. */
void SX_NAME(sx_requant_finish)(const sx_call *call, const sx_requant *q, int prepared, const int32_t *block, int64_t rows, int64_t cols, int64_t ld, const int64_t *start, int row_axis, int col_axis, const char *room);

int SX_NAME(sx_matmul_int)(const sx_call *call);
int64_t SX_NAME(sx_matmul_int_scratch)(const sx_call *call);
/* gemm_nbits.c: MATMUL with `bits`. */
int SX_NAME(sx_matmul_nbits)(const sx_call *call);
int64_t SX_NAME(sx_nbits_scratch)(const sx_call *call);
#endif
