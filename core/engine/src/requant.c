/* requant.c: epilogues of integer sums (gemm_int.h). saturate(round((acc + bias) · factor) + zero), or divided by the factor, is recognised by the shape of its instructions. */
#include "gemm_int.h"
#include "sx_expr.h"

#define MOST 64 /* instructions looked at */

typedef struct {
    const sx_code *code;
    int source[MOST][3];  /* the instruction each operand comes from */
    char summed[MOST];    /* depends on acc */
} graph;

static int read_graph(graph *g, const sx_call *call, const int *row_axes, int n_axes) {
    int made[SX_MAX_REGISTERS];
    if (!g->code || g->code->count > MOST || g->code->n_results != 1) return 0;
    for (int i = 0; i < g->code->count; i++) {
        const int32_t *w = g->code->words + i * SX_WORDS;
        if (w[0] == SX_OP_COORD || w[0] == SX_OP_LOAD) return 0;
        if (w[0] == SX_OP_LEAF)
            for (int x = 0; x < n_axes; x++) {
                const sx_view *v = call->in + g->code->first_leaf + w[3];
                if (v->stride[row_axes[x]] && v->dim[row_axes[x]] > 1) return 0;
            }
        g->summed[i] = w[0] == SX_OP_ACC;
        for (int x = 0; x < sx_op_args(w[0]); x++) g->source[i][x] = made[w[3 + x]], g->summed[i] |= g->summed[made[w[3 + x]]];
        made[w[2]] = i;
    }
    return 1;
}

static const int32_t *word(const graph *g, int i) { return g->code->words + i * SX_WORDS; }

/* Of an instruction with two operands: the one that depends on acc is returned, the other, which must not, is put in *other. -1: not so. */
static int split(const graph *g, int i, int *other) {
    int a = g->source[i][0], b = g->source[i][1];
    if (!g->summed[a] == !g->summed[b]) return -1;
    *other = g->summed[a] ? b : a;
    return g->summed[a] ? a : b;
}

sx_requant SX_NAME(sx_requant_of)(const sx_call *call, const int *row_axes, int n_axes) {
    graph g = {.code = call->epilogue};
    sx_requant q = {.plain = 1, .bias = -1, .factor = -1, .zero = -1}, plain = q;
    const sx_view *y = call->out;
    if ((y->dtype != SX_UINT8 && y->dtype != SX_INT8) || !read_graph(&g, call, row_axes, n_axes)) return plain;
    int at = g.code->count - 1;
    if (word(&g, at)[0] != SX_OP_SATURATE || word(&g, at)[2] != g.code->results[0] || word(&g, at)[4] != y->dtype || word(&g, at)[5] != SX_F32) return plain;
    at = g.source[at][0];
    if (word(&g, at)[0] == SX_OP_ADD && (at = split(&g, at, &q.zero)) < 0) return plain;
    if (word(&g, at)[0] == SX_OP_ROUND) at = g.source[at][0];
    else if (q.zero >= 0) return plain;
    q.divides = word(&g, at)[0] == SX_OP_DIV;
    if ((!q.divides && word(&g, at)[0] != SX_OP_MUL) || word(&g, at)[1] != SX_F32) return plain;
    if (q.divides && !g.summed[g.source[at][0]]) return plain;
    if ((at = split(&g, at, &q.factor)) < 0) return plain;
    if (word(&g, at)[0] != SX_OP_CAST || word(&g, at)[4] != SX_I32) return plain;
    at = g.source[at][0];
    if (word(&g, at)[0] == SX_OP_ADD && (at = split(&g, at, &q.bias)) < 0) return plain;
    if (word(&g, at)[0] != SX_OP_ACC) return plain;
    q.plain = 0, q.dtype = y->dtype;
    return q;
}

/* What instruction `last` makes, for one row of columns. */
static void evaluate(const sx_call *call, int last, const int64_t *start, int row_axis, int col_axis, int64_t cols, const int32_t *block, void *to) {
    const sx_code *whole = call->epilogue;
    sx_code code = *whole;
    code.count = last + 1, code.results[0] = whole->words[last * SX_WORDS + 2];
    sx_tile t;
    t.call = call, t.code = &code, t.row_axis = row_axis, t.col_axis = col_axis, t.rows = 1, t.cols = cols;
    t.acc = (sx_leaf){(const char *)block, 0, 1, SX_INT32};
    for (int i = 0; i <= last; i++) {
        const int32_t *w = whole->words + i * SX_WORDS;
        if (w[0] != SX_OP_LEAF) continue;
        const sx_view *v = call->in + whole->first_leaf + w[3];
        int64_t at = 0;
        for (int d = 0; d < call->out->rank; d++) at += start[d] * v->stride[d];
        t.leaf[whole->first_leaf + w[3]] = (sx_leaf){v->data + at * sx_element_bytes(v->dtype), 0, v->stride[col_axis], v->dtype};
    }
    sx_eval_tile(&t, to);
}

/* Numbers that keep NaN out of the loop below. */
static int tame(const float *factor, const float *zero, int64_t n, int divides) {
    for (int64_t j = 0; j < n; j++)
        if (factor[j] - factor[j] != 0 || zero[j] - zero[j] != 0 || (divides && factor[j] == 0)) return 0;
    return 1;
}

SX_INLINE sx_f clamp(sx_f x, float low, float high) {
#if defined(__AVX512F__)
    return (sx_f)_mm512_min_ps(_mm512_max_ps((__m512)x, _mm512_set1_ps(low)), _mm512_set1_ps(high));
#else
    sx_f l = sx_fsplat(low), h = sx_fsplat(high);
    x = sx_fselect(x > l, x, l);
    return sx_fselect(x < h, x, h);
#endif
}

SX_INLINE void line(const int32_t *from, const int32_t *bias, const float *factor, const float *zero, int divides, float low, float high, int64_t cols, uint8_t *to) {
    for (int64_t j = 0; j < cols; j += SX_GW) {
        sx_f x = __builtin_convertvector(sx_iload(from + j) + sx_iload(bias + j), sx_f);
        x = divides ? x / sx_fload(factor + j) : x * sx_fload(factor + j);
        x = clamp(__builtin_elementwise_roundeven(x) + sx_fload(zero + j), low, high);
        sx_b made = __builtin_convertvector(__builtin_convertvector(x, sx_i), sx_b);
        if (j + SX_GW <= cols) *(sx_b_any *)(to + j) = made;
        else for (int64_t i = j; i < cols; i++) to[i] = made[i - j];
    }
}

int SX_NAME(sx_requant_prepare)(const sx_call *call, const sx_requant *q, const int32_t *block, int64_t cols, const int64_t *start, int row_axis, int col_axis, char *room) {
    int64_t width = sx_round_up(cols, SX_GW), at[SX_RANK];
    int32_t *bias = (int32_t *)room;
    float *factor = (float *)(bias + width), *zero = factor + width;
    if (q->plain || (call->out->stride[col_axis] != 1 && cols > 1)) return 0;
    for (int64_t j = 0; j < width; j++) bias[j] = 0, factor[j] = 1, zero[j] = 0;
    for (int d = 0; d < call->out->rank; d++) at[d] = start[d];
    for (int64_t j = 0; j < cols; j += 64, at[col_axis] += 64) { /* no tile is shorter */
        int64_t n = sx_min64(64, cols - j);
        if (q->bias >= 0) evaluate(call, q->bias, at, row_axis, col_axis, n, block, bias + j);
        if (q->zero >= 0) evaluate(call, q->zero, at, row_axis, col_axis, n, block, zero + j);
        evaluate(call, q->factor, at, row_axis, col_axis, n, block, factor + j);
    }
    if (!tame(factor, zero, width, q->divides)) return 0;
    for (int64_t j = 0; j < width; j++) if (!(zero[j] >= -255 && zero[j] <= 255 && zero[j] == (float)(int)zero[j])) return 1;
    return SX_REQUANT_SMALL;
}

#if defined(__AVX512BW__)
SX_INLINE __m512i order(void) { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); } /* of packed words of 4 bytes: back to columns */

SX_INLINE void wide_rows(const int divides, const int is_signed, const int32_t *block, const __m512i *bias, const __m512 *factor, const __m512i *zero, int64_t rows, __mmask64 mask, int64_t ld, uint8_t *to, int64_t step) {
    for (int64_t r = 0; r < rows; r++) {
        __m512i made[4];
        SX_UNROLL for (int q = 0; q < 4; q++) {
            __m512 x = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(block + r * ld + 16 * q), bias[q]));
            made[q] = sx_round_to_int(divides ? _mm512_div_ps(x, factor[q]) : _mm512_mul_ps(x, factor[q]));
        }
        _mm512_mask_storeu_epi8(to + r * step, mask, _mm512_permutexvar_epi32(order(), sx_pack_bytes(made, zero, is_signed)));
    }
}

/* Up to 64 columns, all rows: what they share stays in registers. The block may be read 64 columns wide. */
static void wide(const int32_t *block, const int32_t *bias, const float *factor, const float *zero, const sx_requant *q, int64_t rows, int64_t cols, int64_t ld, uint8_t *to, int64_t step) {
    __m512i b[4], z[4], small[2];
    __m512 f[4];
    __mmask64 mask = cols == 64 ? ~(__mmask64)0 : ((__mmask64)1 << cols) - 1;
    for (int i = 0; i < 4; i++) {
        __mmask16 part = (__mmask16)(mask >> 16 * i);
        b[i] = _mm512_maskz_loadu_epi32(part, bias + 16 * i), f[i] = _mm512_mask_loadu_ps(_mm512_set1_ps(1), part, factor + 16 * i);
        z[i] = _mm512_cvtps_epi32(_mm512_maskz_loadu_ps(part, zero + 16 * i));
    }
    small[0] = _mm512_packs_epi32(z[0], z[1]), small[1] = _mm512_packs_epi32(z[2], z[3]);
    if (q->divides && q->dtype == SX_INT8) wide_rows(1, 1, block, b, f, small, rows, mask, ld, to, step);
    else if (q->divides) wide_rows(1, 0, block, b, f, small, rows, mask, ld, to, step);
    else if (q->dtype == SX_INT8) wide_rows(0, 1, block, b, f, small, rows, mask, ld, to, step);
    else wide_rows(0, 0, block, b, f, small, rows, mask, ld, to, step);
}
#endif

void SX_NAME(sx_requant_finish)(const sx_call *call, const sx_requant *q, int prepared, const int32_t *block, int64_t rows, int64_t cols, int64_t ld, const int64_t *start, int row_axis, int col_axis, const char *room) {
    if (!prepared) {
        sx_finish(call, block, SX_I32, rows, cols, ld, start, row_axis, col_axis);
        return;
    }
    const sx_view *y = call->out;
    int64_t at = 0, step = y->stride[row_axis], width = sx_round_up(cols, SX_GW);
    const int32_t *bias = (const int32_t *)room;
    const float *factor = (const float *)(bias + width), *zero = factor + width;
    for (int d = 0; d < y->rank; d++) at += start[d] * y->stride[d];
    uint8_t *to = (uint8_t *)y->data + at;
    float low = q->dtype == SX_INT8 ? -128 : 0, high = q->dtype == SX_INT8 ? 127 : 255;
    int64_t j = 0;
#if defined(__AVX512BW__)
    if (prepared == SX_REQUANT_SMALL) {
        for (; j < cols; j += 64) wide(block + j, bias + j, factor + j, zero + j, q, rows, sx_min64(64, cols - j), ld, to + j, step);
        return;
    }
#endif
    for (int64_t r = 0; r < rows; r++) {
        if (q->divides) line(block + r * ld, bias, factor, zero, 1, low, high, cols, to + r * step);
        else line(block + r * ld, bias, factor, zero, 0, low, high, cols, to + r * step);
    }
}
