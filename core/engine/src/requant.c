/* requant.c: epilogues of integer sums (gemm_int.h), recognised by the shape of their instructions (core/plan/requantise.py brings them into it).

   How to think
   - First the sum: v = (acc + bias) · factor + offset, what does not depend on rows evaluated once a strip. To bytes: v = round(v) + zero within bounds.
   - Then perhaps other bytes are added (a residual): v = round(v · own + x · theirs + constant) + zero within bounds; the numbers are one for all columns.
   - An expression that only begins with such floats (an activation follows) has them made in place, and the interpreter does the rest.
   - Bytes may be dequantised at once, (v - zero) · scale, plus a bias; and sums may stay floats. To either a residual of floats may be added. Products and sums are rounded one by one, as the interpreter does. */
#include "gemm_int.h"
#include "sx_expr.h"
#include "sx_vec.h"

#define MOST SX_REQUANT_MOST
#ifdef __wasm_simd128__
#define SX_ONE_ZERO 1 /* what SX_REQUANT_SMALL means here: one number for all columns */
#else
#define SX_ONE_ZERO 0
#endif

typedef struct {
    const sx_call *call;
    const sx_code *code;
    int source[MOST][3];  /* the instruction each operand comes from */
    char summed[MOST];    /* depends on acc */
    char varies[MOST];    /* depends on acc or on rows */
} graph;

static int read_graph(graph *g, const sx_call *call, const int *row_axes, int n_axes) {
    int made[SX_MAX_REGISTERS];
    g->call = call, g->code = call->epilogue;
    if (!g->code || g->code->count > MOST || g->code->n_results != 1) return 0;
    for (int i = 0; i < g->code->count; i++) {
        const int32_t *w = g->code->words + i * SX_WORDS;
        if (w[0] == SX_OP_COORD || w[0] == SX_OP_LOAD) return 0;
        g->summed[i] = g->varies[i] = w[0] == SX_OP_ACC;
        if (w[0] == SX_OP_LEAF)
            for (int x = 0; x < n_axes; x++) {
                const sx_view *v = call->in + g->code->first_leaf + w[3];
                if (v->stride[row_axes[x]] && v->dim[row_axes[x]] > 1) g->varies[i] = 1;
            }
        for (int x = 0; x < sx_op_args(w[0]); x++) {
            int from = made[w[3 + x]];
            g->source[i][x] = from, g->summed[i] |= g->summed[from], g->varies[i] |= g->varies[from];
        }
        made[w[2]] = i;
    }
    return 1;
}

static const int32_t *word(const graph *g, int i) { return g->code->words + i * SX_WORDS; }
static int is_op(const graph *g, int i, int op) { return word(g, i)[0] == op; }
static int is_float_op(const graph *g, int i, int op) { return is_op(g, i, op) && word(g, i)[1] == SX_F32; }

/* Of an instruction with two operands: the one that depends on acc is returned, the other, which must not, is put in *other. -1: not so. */
static int split(const graph *g, int i, int *other) {
    int a = g->source[i][0], b = g->source[i][1];
    if (!g->summed[a] == !g->summed[b]) return -1;
    *other = g->summed[a] ? b : a;
    return g->summed[a] ? a : b;
}

/* A number that is one for all positions. */
static int number(const graph *g, int i, float *x) {
    const int32_t *w = word(g, i);
    if (w[0] == SX_OP_CAST) return number(g, g->source[i][0], x);
    if (w[0] == SX_OP_CONST && w[1] == SX_F32) { __builtin_memcpy(x, w + 3, 4); return 1; }
    if (w[0] == SX_OP_CONST && w[1] == SX_I32) { *x = (float)w[3]; return 1; }
    if (w[0] != SX_OP_LEAF) return 0;
    const sx_view *v = g->call->in + g->code->first_leaf + w[3];
    for (int d = 0; d < g->call->out->rank; d++) if (v->stride[d] && v->dim[d] > 1) return 0;
    if (v->dtype == SX_FLOAT) *x = *(const float *)(const void *)v->data;
    else if (v->dtype == SX_INT32) *x = (float)*(const int32_t *)(const void *)v->data;
    else if (v->dtype == SX_INT8 || v->dtype == SX_UINT8) *x = (float)sx_byte_at((const uint8_t *)v->data, v->dtype == SX_INT8, 0);
    else return 0;
    return *x - *x == 0;
}

/* saturate(bounds(round(…) + zero)): the instruction that is rounded, or -1. */
static int rounded(const graph *g, int at, int *zero, float *low, float *high) {
    const int32_t *w = word(g, at);
    float bound;
    if (w[0] != SX_OP_SATURATE || w[5] != SX_F32 || (w[4] != SX_UINT8 && w[4] != SX_INT8)) return -1;
    *low = w[4] == SX_INT8 ? -128 : 0, *high = w[4] == SX_INT8 ? 127 : 255, *zero = -1;
    for (at = g->source[at][0]; is_float_op(g, at, SX_OP_MIN) || is_float_op(g, at, SX_OP_MAX);) {
        int is_low = is_op(g, at, SX_OP_MAX), other;
        if ((at = split(g, at, &other)) < 0 || !number(g, other, &bound)) return -1;
        if (is_low && bound > *low) *low = bound < *high ? bound : *high;
        if (!is_low && bound < *high) *high = bound > *low ? bound : *low;
    }
    if (is_float_op(g, at, SX_OP_ADD)) {
        if ((at = split(g, at, zero)) < 0 || g->varies[*zero]) return -1;
    }
    return is_float_op(g, at, SX_OP_ROUND) ? g->source[at][0] : -1;
}

/* (acc + bias) · factor + offset, or divided by factor. */
static int sum_of(const graph *g, int at, sx_requant *q) {
    if (is_float_op(g, at, SX_OP_ADD) && ((at = split(g, at, &q->offset)) < 0 || g->varies[q->offset])) return 0;
    q->divides = is_float_op(g, at, SX_OP_DIV);
    if ((!q->divides && !is_float_op(g, at, SX_OP_MUL)) || (q->divides && !g->summed[g->source[at][0]])) return 0;
    if ((at = split(g, at, &q->factor)) < 0 || g->varies[q->factor]) return 0;
    if (!is_op(g, at, SX_OP_CAST) || word(g, at)[4] != SX_I32) return 0;
    at = g->source[at][0];
    if (is_op(g, at, SX_OP_ADD) && ((at = split(g, at, &q->bias)) < 0 || g->varies[q->bias])) return 0;
    return is_op(g, at, SX_OP_ACC);
}

/* v · x with a number x, or v: v is returned. */
static int scaled_by(const graph *g, int at, float *x) {
    *x = 1;
    if (!is_float_op(g, at, SX_OP_MUL)) return at;
    int a = g->source[at][0], b = g->source[at][1];
    if (g->varies[a] == g->varies[b]) return -1;
    return number(g, g->varies[a] ? b : a, x) ? (g->varies[a] ? a : b) : -1;
}

static int leaf_of(const graph *g, int at) { return is_op(g, at, SX_OP_LEAF) ? g->code->first_leaf + word(g, at)[3] : -1; }

/* What is rounded is a requantised sum plus other bytes: the instruction that saturates the sum, or -1. */
static int with_bytes(const graph *g, int at, sx_requant *q) {
    int own, other;
    q->constant = 0;
    if (is_float_op(g, at, SX_OP_ADD) && g->varies[g->source[at][0]] != g->varies[g->source[at][1]]) {
        int a = g->source[at][0], b = g->source[at][1];
        if (!number(g, g->varies[a] ? b : a, &q->constant)) return -1;
        at = g->varies[a] ? a : b;
    }
    if (!is_float_op(g, at, SX_OP_ADD) || (own = split(g, at, &other)) < 0 || (own = scaled_by(g, own, &q->own)) < 0 || (other = scaled_by(g, other, &q->theirs)) < 0) return -1;
    if (!is_op(g, own, SX_OP_CAST) || !is_op(g, other, SX_OP_CAST) || word(g, own)[4] != SX_I32 || word(g, other)[4] != SX_I32) return -1;
    q->other = leaf_of(g, g->source[other][0]);
    if (q->other < 0 || (g->call->in[q->other].dtype != SX_INT8 && g->call->in[q->other].dtype != SX_UINT8)) return -1;
    return g->source[own][0];
}

static int bytes_of(const graph *g, int at, sx_requant *q) {
    int zero, inner = rounded(g, at, &zero, &q->low, &q->high);
    if (inner < 0) return 0;
    q->rounds = 1, q->zero = zero;
    if (sum_of(g, inner, q)) return 1;
    q->bias = q->factor = q->offset = -1;
    at = with_bytes(g, inner, q);
    q->last_zero = 0, q->last_low = q->low, q->last_high = q->high;
    if (at < 0 || (zero >= 0 && !number(g, zero, &q->last_zero))) return 0;
    inner = rounded(g, at, &q->zero, &q->low, &q->high);
    return inner >= 0 && sum_of(g, inner, q) && !q->divides;
}

/* (saturated bytes - zero) · scale. */
static int dequantised(const graph *g, int at, sx_requant *q) {
    int v = scaled_by(g, at, &q->real_scale);
    if (v < 0 || !is_op(g, v, SX_OP_CAST) || word(g, v)[4] != SX_I32) return 0;
    int bytes = g->source[v][0];
    q->real_zero = 0;
    if (is_op(g, bytes, SX_OP_SUB)) {
        if (!number(g, g->source[bytes][1], &q->real_zero)) return 0;
        bytes = g->source[bytes][0];
    }
    return is_op(g, bytes, SX_OP_SATURATE) && bytes_of(g, bytes, q) && q->other < 0;
}

/* Floats: a sum or dequantised bytes, with perhaps what all rows share and a leaf of floats added, within bounds. */
static int floats_of(const graph *g, int at, sx_requant *q) {
    float x;
    q->real_low = -__builtin_inff(), q->real_high = __builtin_inff();
    while (is_float_op(g, at, SX_OP_MIN) || is_float_op(g, at, SX_OP_MAX)) {
        int is_low = is_op(g, at, SX_OP_MAX), other;
        if ((at = split(g, at, &other)) < 0 || !number(g, other, &x)) return 0;
        if (is_low ? q->real_low != -__builtin_inff() : q->real_high != __builtin_inff()) return 0;
        *(is_low ? &q->real_low : &q->real_high) = x;
    }
    if (q->real_low > q->real_high) return 0;
    int shared = -1, leaf = -1, first = 0;
    for (int left = 2; left > 0 && is_float_op(g, at, SX_OP_ADD); left--) { /* from the last addition to the first */
        int other, inner = split(g, at, &other);
        if (inner < 0 || (g->varies[other] ? leaf : shared) >= 0) return 0;
        if (g->varies[other]) {
            if ((leaf = leaf_of(g, other)) < 0 || g->call->in[leaf].dtype != SX_FLOAT) return 0;
            first = shared >= 0;
        } else shared = other;
        at = inner;
    }
    sx_requant bytes = *q;
    if (dequantised(g, at, &bytes)) *q = bytes, q->real = 1;
    else if (!sum_of(g, at, q) || q->divides || q->offset >= 0) return 0;
    q->real_offset = shared, q->other = leaf, q->other_first = first;
    return 1;
}

/* The last instruction that is such floats and all there is of acc for those after it: theirs is then the rest of the code. */
static int prefix_of(const graph *g, const sx_requant *plain, sx_requant *q) {
    for (int i = g->code->count - 2; i >= 0; i--) {
        int alone = g->summed[i] && word(g, i)[1] == SX_F32;
        for (int k = i + 1; k < g->code->count && alone; k++)
            for (int x = 0; x < sx_op_args(word(g, k)[0]); x++) alone &= !g->summed[g->source[k][x]] || g->source[k][x] >= i;
        if (!alone) continue;
        *q = *plain;
        if (!floats_of(g, i, q)) continue;
        q->rest = *g->code, q->rest.count = 0;
        for (int k = 0; k < g->code->count; k++) {
            if (k < i && g->summed[k]) continue;
            int32_t *to = q->words + q->rest.count++ * SX_WORDS;
            for (int x = 0; x < SX_WORDS; x++) to[x] = word(g, k)[x];
            if (k == i) to[0] = SX_OP_ACC, to[3] = to[4] = to[5] = 0;
        }
        return q->prefix = 1;
    }
    return 0;
}

static int whole(float x) { return x >= -255 && x <= 255 && x == (float)(int)x; }

sx_requant SX_NAME(sx_requant_of)(const sx_call *call, const int *row_axes, int n_axes) {
    graph g = {0};
    sx_requant plain = {.plain = 1, .bias = -1, .factor = -1, .offset = -1, .zero = -1, .real_offset = -1, .other = -1, .dtype = call->out->dtype}, q = plain;
    int bytes = call->out->dtype == SX_UINT8 || call->out->dtype == SX_INT8;
    if (!read_graph(&g, call, row_axes, n_axes)) return plain;
    int last = g.code->count - 1, ends = word(&g, last)[2] == g.code->results[0];
    if (bytes && ends && word(&g, last)[4] == call->out->dtype && bytes_of(&g, last, &q)) q.plain = 0;
    else if (q = plain, call->out->dtype == SX_FLOAT && ends && floats_of(&g, last, &q)) q.plain = 0;
    else if (prefix_of(&g, &plain, &q)) q.plain = 0;
    else return plain;
    q.added = SX_ONE_ZERO && bytes && !q.prefix && q.other >= 0 && q.offset < 0 && whole(q.last_zero) && whole(q.last_low) && whole(q.last_high);
    q.simple = bytes && !q.prefix && q.other < 0 && q.offset < 0 && whole(q.low) && whole(q.high);
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

/* Numbers that keep NaN out of the loops below. */
static int tame(const float *factor, const float *offset, const float *zero, int64_t n, int divides) {
    for (int64_t j = 0; j < n; j++)
        if (factor[j] - factor[j] != 0 || offset[j] - offset[j] != 0 || zero[j] - zero[j] != 0 || (divides && factor[j] == 0)) return 0;
    return 1;
}

/* What instruction i makes for all columns: 0, or where it is none `none`. */
static void column_values(const sx_call *call, int i, const int64_t *start, int row_axis, int col_axis, int64_t cols, int64_t width, const int32_t *block, int32_t none, int32_t *to) {
    int64_t at[SX_RANK];
    for (int64_t j = 0; j < width; j++) to[j] = none;
    if (i < 0) return;
    const int32_t *w = call->epilogue->words + i * SX_WORDS;
    if (w[0] == SX_OP_LEAF) { /* the usual case: a vector of the right type */
        const sx_view *v = call->in + call->epilogue->first_leaf + w[3];
        int64_t from = 0;
        for (int d = 0; d < call->out->rank; d++) from += start[d] * v->stride[d];
        if (v->dtype == (w[1] == SX_F32 ? SX_FLOAT : SX_INT32)) {
            const int32_t *x = (const int32_t *)(const void *)v->data + from;
            for (int64_t j = 0, step = v->stride[col_axis]; j < cols; j++) to[j] = x[j * step];
            return;
        }
    }
    for (int d = 0; d < call->out->rank; d++) at[d] = start[d];
    for (int64_t j = 0; j < cols; j += 64, at[col_axis] += 64) evaluate(call, i, at, row_axis, col_axis, sx_min64(64, cols - j), block, to + j); /* no tile is shorter */
}

int SX_NAME(sx_requant_prepare)(const sx_call *call, const sx_requant *q, const int32_t *block, int64_t cols, const int64_t *start, int row_axis, int col_axis, char *room) {
    int64_t width = sx_round_up(cols, 16);
    int32_t *bias = (int32_t *)room;
    float *factor = (float *)(bias + width), *zero = factor + width, *offset = zero + width;
    if (q->plain || (!q->prefix && call->out->stride[col_axis] != 1 && cols > 1)) return 0;
    if (q->other >= 0 && call->in[q->other].stride[col_axis] != 1 && cols > 1) return 0;
    column_values(call, q->bias, start, row_axis, col_axis, cols, width, block, 0, bias);
    column_values(call, q->factor, start, row_axis, col_axis, cols, width, block, 0x3f800000, (int32_t *)factor);
    column_values(call, q->zero, start, row_axis, col_axis, cols, width, block, 0, (int32_t *)zero);
    column_values(call, q->offset, start, row_axis, col_axis, cols, width, block, 0, (int32_t *)offset);
    column_values(call, q->real_offset, start, row_axis, col_axis, cols, width, block, 0, (int32_t *)(offset + width));
    if (!q->rounds) return 1;
    if (!tame(factor, offset, zero, width, q->divides)) return 0;
    for (int64_t j = 0; j < width; j++) if (!(zero[j] >= -255 && zero[j] <= 255 && zero[j] == (float)(int)zero[j]) || (SX_ONE_ZERO && j < cols && zero[j] != zero[0])) return 1;
    return q->simple || q->added ? SX_REQUANT_SMALL : 1;
}

/* ---- any of the forms ---- */
SX_INLINE sx_f within(sx_f x, float low, float high) {
    sx_f l = sx_fsplat(low), h = sx_fsplat(high);
#if defined(__AVX512F__)
    return (sx_f)_mm512_min_ps(_mm512_max_ps((__m512)x, (__m512)l), (__m512)h);
#elif defined(__wasm_simd128__)
    return (sx_f)wasm_f32x4_pmin((v128_t)h, wasm_f32x4_pmax((v128_t)l, (v128_t)x));
#else
    x = sx_fselect(x > l, x, l);
    return sx_fselect(x < h, x, h);
#endif
}

SX_INLINE void store_bytes(uint8_t *to, sx_f x, int n) {
    sx_b made = __builtin_convertvector(sx_whole(x), sx_b);
    if (n >= SX_GW) *(sx_b_any *)to = made;
    else sx_bstore_some(to, made, n);
}

SX_INLINE sx_f load_bytes(const uint8_t *p, int is_signed, int n) {
    if (n >= SX_GW) return __builtin_convertvector(sx_widen_bytes(p, is_signed), sx_f);
    return __builtin_convertvector(sx_widen_some(p, is_signed, n), sx_f);
}

typedef struct { const int32_t *bias; const float *factor, *zero, *offset, *real_offset; } columns;

SX_INLINE sx_f summed(const sx_requant *q, const columns *k, const int32_t *from, int64_t j) {
    sx_f x = __builtin_convertvector(sx_iload(from + j) + sx_iload(k->bias + j), sx_f);
    x = q->divides ? x / sx_fload(k->factor + j) : x * sx_fload(k->factor + j);
    SX_APART(x);
    return q->offset >= 0 ? x + sx_fload(k->offset + j) : x;
}

/* The bytes, still as floats, of the sums from column j on, n of them. OTHER: -1, or whether the added bytes are signed. */
SX_INLINE sx_f rounded_sums(const int OTHER, const sx_requant *q, const columns *k, const int32_t *from, const uint8_t *other, int64_t j, int n) {
    sx_f x = within(__builtin_elementwise_roundeven(summed(q, k, from, j)) + sx_fload(k->zero + j), q->low, q->high);
    if (OTHER < 0) return x;
    sx_f own = x * sx_fsplat(q->own), theirs = load_bytes(other + j, OTHER, n) * sx_fsplat(q->theirs);
    SX_APART(own);
    SX_APART(theirs);
    return within(__builtin_elementwise_roundeven(own + theirs + sx_fsplat(q->constant)) + sx_fsplat(q->last_zero), q->last_low, q->last_high);
}

/* One row of sums that become bytes. */
SX_INLINE void byte_line(const int OTHER, const sx_requant *q, const columns *k, const int32_t *from, const uint8_t *other, int64_t cols, uint8_t *to) {
    int64_t j = 0;
#if defined(__wasm_simd128__) /* 16 at once: narrowing four vectors takes no more than narrowing one */
    for (; j + 16 <= cols; j += 16) {
        v128_t x[4], low = wasm_i32x4_splat(255);
        SX_UNROLL for (int v = 0; v < 4; v++) x[v] = wasm_v128_and((v128_t)sx_whole(rounded_sums(OTHER, q, k, from, other, j + 4 * v, 4)), low);
        wasm_v128_store(to + j, wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(x[0], x[1]), wasm_i16x8_narrow_i32x4(x[2], x[3])));
    }
#endif
    for (; j < cols; j += SX_GW) {
        int n = (int)sx_min64(SX_GW, cols - j);
        store_bytes(to + j, rounded_sums(OTHER, q, k, from, other, j, n), n);
    }
}

SX_INLINE sx_f load_floats(const float *p, int n) { return n >= SX_GW ? sx_fload(p) : sx_fload_part(p, n); }

/* One row of sums that stay floats, or become bytes and floats again (REAL; only those divide or have an offset before). OTHER: floats are added, first or last. What does not change is kept where no
   store can reach it. */
SX_INLINE void float_line(const int OTHER, const int REAL, const sx_requant *q, const columns *k, const int32_t *from, const float *other, int64_t cols, float *to) {
    const sx_f low = sx_fsplat(q->real_low), high = sx_fsplat(q->real_high);
    const columns c = *k;
    const int other_first = q->other_first, shared = q->real_offset >= 0;
    for (int64_t j = 0; j < cols; j += SX_GW) {
        int n = (int)sx_min64(SX_GW, cols - j);
        sx_f x;
        if (REAL) {
            x = within(__builtin_elementwise_roundeven(summed(q, k, from, j)) + sx_fload(c.zero + j), q->low, q->high);
            x = (x - sx_fsplat(q->real_zero)) * sx_fsplat(q->real_scale);
        } else x = __builtin_convertvector(sx_iload(from + j) + sx_iload(c.bias + j), sx_f) * sx_fload(c.factor + j);
        SX_APART(x);
        if (OTHER && other_first) x += load_floats(other + j, n);
        if (shared) x += sx_fload(c.real_offset + j);
        if (OTHER && !other_first) x += load_floats(other + j, n);
        x = (sx_f)sx_vat_most(sx_vat_least((sx_v32)x, (sx_v32)low), (sx_v32)high);
        if (n == SX_GW) sx_fstore(to + j, x);
        else sx_fstore_part(to + j, x, n);
    }
}

#if defined(__AVX512BW__)
SX_INLINE __m512i order(void) { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); } /* of packed words of 4 bytes: back to columns */

SX_INLINE void wide_rows(const int divides, const int is_signed, __m512i low, __m512i high, const int32_t *block, const __m512i *bias, const __m512 *factor, const __m512i *zero, int64_t rows, __mmask64 mask, int64_t ld, uint8_t *to, int64_t step) {
    for (int64_t r = 0; r < rows; r++) {
        __m512i made[4];
        SX_UNROLL for (int q = 0; q < 4; q++) {
            __m512 x = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(block + r * ld + 16 * q), bias[q]));
            made[q] = sx_round_to_int(divides ? _mm512_div_ps(x, factor[q]) : _mm512_mul_ps(x, factor[q]));
        }
        __m512i packed = sx_pack_bytes(made, zero, is_signed);
        packed = is_signed ? _mm512_min_epi8(_mm512_max_epi8(packed, low), high) : _mm512_min_epu8(_mm512_max_epu8(packed, low), high);
        _mm512_mask_storeu_epi8(to + r * step, mask, _mm512_permutexvar_epi32(order(), packed));
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
    __m512i low = _mm512_set1_epi8((char)(int)q->low), high = _mm512_set1_epi8((char)(int)q->high); /* whole numbers, as rounded() made them */
    if (q->divides && q->dtype == SX_INT8) wide_rows(1, 1, low, high, block, b, f, small, rows, mask, ld, to, step);
    else if (q->divides) wide_rows(1, 0, low, high, block, b, f, small, rows, mask, ld, to, step);
    else if (q->dtype == SX_INT8) wide_rows(0, 1, low, high, block, b, f, small, rows, mask, ld, to, step);
    else wide_rows(0, 0, low, high, block, b, f, small, rows, mask, ld, to, step);
}
#endif

#if defined(__wasm_simd128__)
SX_INLINE void store_some(uint8_t *to, v128_t v, int n) {
    if (n >= 16) wasm_v128_store(to, v);
    else {
        if (n & 8) wasm_v128_store64_lane(to, v, 0), to += 8, v = wasm_i64x2_shuffle(v, v, 1, 1);
        if (n & 4) wasm_v128_store32_lane(to, v, 0), to += 4, v = wasm_u64x2_shr(v, 32);
        for (int i = 0; i < (n & 3); i++, v = wasm_u64x2_shr(v, 8)) wasm_v128_store8_lane(to + i, v, 0);
    }
}

/* 16 columns, all rows: what they share stays in registers. Bounds less the zero point come first; then adding 1.5 · 2²³ rounds, and taking that away from the bits gives the integer and adds the zero. */
SX_INLINE void wide(const int DIVIDES, const int32_t *block, const columns *k, int64_t j, const sx_requant *q, int64_t rows, int n, int64_t ld, uint8_t *to, int64_t step) {
    float zero = k->zero[0];
    sx_i bias[4], back = sx_isplat(0x4b400000 - (int32_t)zero);
    sx_f factor[4], low = sx_fsplat(q->low - zero), high = sx_fsplat(q->high - zero), magic = sx_fsplat(0x1.8p23f);
    SX_UNROLL for (int v = 0; v < 4; v++) bias[v] = sx_iload(k->bias + j + 4 * v), factor[v] = sx_fload(k->factor + j + 4 * v);
    for (int64_t r = 0; r < rows; r++, block += ld, to += step) {
        v128_t x[4];
        SX_UNROLL for (int v = 0; v < 4; v++) {
            sx_f y = __builtin_convertvector(sx_iload(block + j + 4 * v) + bias[v], sx_f);
            y = DIVIDES ? y / factor[v] : y * factor[v];
            y = (sx_f)wasm_f32x4_pmin((v128_t)high, wasm_f32x4_pmax((v128_t)low, (v128_t)y));
            x[v] = (v128_t)((sx_i)(y + magic) - back);
        }
        v128_t a = wasm_i16x8_narrow_i32x4(x[0], x[1]), b = wasm_i16x8_narrow_i32x4(x[2], x[3]);
        store_some(to + j, q->dtype == SX_INT8 ? wasm_i8x16_narrow_i16x8(a, b) : wasm_u8x16_narrow_i16x8(a, b), n);
    }
}

/* The same with other bytes added, for whole vectors. */
SX_INLINE void wide_added(const int OTHER, const int32_t *block, const columns *k, int64_t j, const sx_requant *q, int64_t rows, int64_t ld, const uint8_t *other, int64_t other_step, uint8_t *to, int64_t step) {
    sx_i bias[4], back = sx_isplat(0x4b400000 - (int32_t)q->last_zero);
    sx_f factor[4], zero = sx_fsplat(k->zero[0]), low = sx_fsplat(q->last_low - q->last_zero), high = sx_fsplat(q->last_high - q->last_zero);
    SX_UNROLL for (int v = 0; v < 4; v++) bias[v] = sx_iload(k->bias + j + 4 * v), factor[v] = sx_fload(k->factor + j + 4 * v);
    for (int64_t r = 0; r < rows; r++, block += ld, other += other_step, to += step) {
        v128_t x[4];
        SX_UNROLL for (int v = 0; v < 4; v++) {
            sx_f y = __builtin_convertvector(sx_iload(block + j + 4 * v) + bias[v], sx_f), theirs = __builtin_convertvector(sx_widen_bytes(other + j + 4 * v, OTHER), sx_f) * sx_fsplat(q->theirs);
            y = q->divides ? y / factor[v] : y * factor[v];
            SX_APART(y);
            y = within(__builtin_elementwise_roundeven(y) + zero, q->low, q->high) * sx_fsplat(q->own);
            SX_APART(y);
            SX_APART(theirs);
            y = y + theirs + sx_fsplat(q->constant);
            y = (sx_f)wasm_f32x4_pmin((v128_t)high, wasm_f32x4_pmax((v128_t)low, (v128_t)y));
            x[v] = (v128_t)((sx_i)(y + sx_fsplat(0x1.8p23f)) - back);
        }
        v128_t a = wasm_i16x8_narrow_i32x4(x[0], x[1]), b = wasm_i16x8_narrow_i32x4(x[2], x[3]);
        wasm_v128_store(to + j, q->dtype == SX_INT8 ? wasm_i8x16_narrow_i16x8(a, b) : wasm_u8x16_narrow_i16x8(a, b));
    }
}
#endif

void SX_NAME(sx_requant_finish)(const sx_call *call, const sx_requant *q, int prepared, const int32_t *block, int64_t rows, int64_t cols, int64_t ld, const int64_t *start, int row_axis, int col_axis, const char *room) {
    if (!prepared) {
        sx_finish(call, block, SX_I32, rows, cols, ld, start, row_axis, col_axis);
        return;
    }
    const sx_view *y = call->out, *o = q->other >= 0 ? call->in + q->other : 0;
    int64_t at = 0, from = 0, step = y->stride[row_axis], width = sx_round_up(cols, 16);
    columns k = {.bias = (const int32_t *)room};
    k.factor = (const float *)(k.bias + width), k.zero = k.factor + width, k.offset = k.zero + width, k.real_offset = k.offset + width;
    for (int d = 0; d < y->rank; d++) at += start[d] * y->stride[d], from += o ? start[d] * o->stride[d] : 0;
    int64_t other_step = o ? o->stride[row_axis] : 0;
    if (y->dtype == SX_FLOAT || q->prefix) {
        float *to = q->prefix ? (float *)(uintptr_t)block : (float *)(void *)y->data + at;
        sx_call after = *call;
        sx_code rest = q->rest;
        rest.words = q->words, after.epilogue = &rest;
        if (q->prefix) step = ld;
        const float *other = o ? (const float *)(const void *)o->data + from : 0;
        for (int64_t r = 0; r < rows; r++, to += step, other += other_step, block += ld) {
            if (o && q->real) float_line(1, 1, q, &k, block, other, cols, to);
            else if (o) float_line(1, 0, q, &k, block, other, cols, to);
            else if (q->real) float_line(0, 1, q, &k, block, 0, cols, to);
            else float_line(0, 0, q, &k, block, 0, cols, to);
        }
        if (q->prefix) sx_finish(&after, to - rows * step, SX_F32, rows, cols, ld, start, row_axis, col_axis);
        return;
    }
    uint8_t *to = (uint8_t *)y->data + at;
    const uint8_t *other = o ? (const uint8_t *)o->data + from : 0;
#if defined(__AVX512BW__)
    if (prepared == SX_REQUANT_SMALL) {
        for (int64_t j = 0; j < cols; j += 64) wide(block + j, k.bias + j, k.factor + j, k.zero + j, q, rows, sx_min64(64, cols - j), ld, to + j, step);
        return;
    }
#elif defined(__wasm_simd128__)
    if (prepared == SX_REQUANT_SMALL && (!o || cols % 16 == 0)) {
        for (int64_t j = 0; j < cols; j += 16) {
            if (o && o->dtype == SX_INT8) wide_added(1, block, &k, j, q, rows, ld, other, other_step, to, step);
            else if (o) wide_added(0, block, &k, j, q, rows, ld, other, other_step, to, step);
            else if (q->divides) wide(1, block, &k, j, q, rows, (int)sx_min64(16, cols - j), ld, to, step);
            else wide(0, block, &k, j, q, rows, (int)sx_min64(16, cols - j), ld, to, step);
        }
        return;
    }
#endif
    for (int64_t r = 0; r < rows; r++, to += step, other += other_step, block += ld) {
        if (!o) byte_line(-1, q, &k, block, 0, cols, to);
        else if (o->dtype == SX_INT8) byte_line(1, q, &k, block, other, cols, to);
        else byte_line(0, q, &k, block, other, cols, to);
    }
}
