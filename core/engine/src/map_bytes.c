/* map_bytes.c: Maps whose bytes have loops of their own (part of kind MAP; map.c asks for each call). Results are those of the interpreter, bit for bit.

   Forms, recognised by their instructions; "number": the same at all positions
   - TABLE: one operand of bytes and numbers: what the expression makes of each of the 256 is computed once, then looked up. Any function of a quantised value.
   - QUANTISE: saturate(round(x · or / numbers) + number) of floats.
   - SUM: saturate(round(a · number + b · number + number) + number) of two operands of bytes (core/plan/requantise.py), within bounds. */
#include "gemm_int.h"
#include "map_bytes.h"

#define MOST 24 /* instructions looked at */

static int is_byte(int dtype) { return dtype == SX_UINT8 || dtype == SX_INT8; }

typedef struct { const sx_call *call; const sx_code *code; int source[MOST][3]; char varies[MOST]; } graph;

static const int32_t *word(const graph *g, int i) { return g->code->words + i * SX_WORDS; }
static int is_op(const graph *g, int i, int op) { return word(g, i)[0] == op && word(g, i)[1] == SX_F32; }
static const sx_view *leaf_at(const graph *g, int i) { return word(g, i)[0] == SX_OP_LEAF ? g->call->in + g->code->first_leaf + word(g, i)[3] : 0; }

static int read_graph(graph *g, const sx_call *call) {
    int made[SX_MAX_REGISTERS];
    g->call = call, g->code = call->epilogue;
    if (g->code->count > MOST || g->code->n_results != 1) return 0;
    for (int i = 0; i < g->code->count; i++) {
        const int32_t *w = word(g, i);
        if (w[0] == SX_OP_COORD || w[0] == SX_OP_LOAD) return 0;
        const sx_view *v = leaf_at(g, i);
        g->varies[i] = 0;
        for (int d = 0; v && d < call->out->rank; d++) if (v->stride[d] && v->dim[d] > 1) g->varies[i] = 1;
        for (int x = 0; x < sx_op_args(w[0]); x++) g->source[i][x] = made[w[3 + x]], g->varies[i] |= g->varies[made[w[3 + x]]];
        made[w[2]] = i;
    }
    return word(g, g->code->count - 1)[2] == g->code->results[0];
}

/* The one operand of `i` that varies; -1 where none or both do. The other is put in *number. */
static int split(const graph *g, int i, int *number) {
    int a = g->source[i][0], b = g->source[i][1];
    if (g->varies[a] == g->varies[b]) return -1;
    *number = g->varies[a] ? b : a;
    return g->varies[a] ? a : b;
}

/* What instructions that do not vary make. */
static float number(const graph *g, int last) {
    sx_code code = *g->code;
    float made[1] = {0};
    sx_tile t;
    code.count = last + 1, code.results[0] = word(g, last)[2];
    t.call = g->call, t.code = &code, t.row_axis = t.col_axis = -1, t.rows = t.cols = 1, t.acc.data = 0;
    for (int i = 0; i <= last; i++) {
        const sx_view *v = leaf_at(g, i);
        if (v) t.leaf[v - g->call->in] = (sx_leaf){v->data, 0, 0, v->dtype};
    }
    sx_eval_tile(&t, made);
    return made[0];
}

/* saturate(bounds(round(…) + zero)) to bytes: the instruction that is rounded, or -1. */
static int rounded(const graph *g, int at, sx_bytes_form *f) {
    int other;
    const int32_t *w = word(g, at);
    if (w[0] != SX_OP_SATURATE || w[5] != SX_F32 || !is_byte(w[4])) return -1;
    f->low = w[4] == SX_INT8 ? -128 : 0, f->high = w[4] == SX_INT8 ? 127 : 255, f->zero = 0;
    for (at = g->source[at][0]; is_op(g, at, SX_OP_MIN) || is_op(g, at, SX_OP_MAX);) {
        int is_low = is_op(g, at, SX_OP_MAX);
        if ((at = split(g, at, &other)) < 0) return -1;
        float bound = number(g, other);
        if (bound != bound) return -1;
        if (is_low) f->low = bound < f->low ? f->low : bound > f->high ? f->high : bound;
        else f->high = bound > f->high ? f->high : bound < f->low ? f->low : bound;
    }
    if (is_op(g, at, SX_OP_ADD)) {
        if ((at = split(g, at, &other)) < 0) return -1;
        f->zero = number(g, other);
    }
    return is_op(g, at, SX_OP_ROUND) && f->zero - f->zero == 0 ? g->source[at][0] : -1;
}

static int quantise_form(const graph *g, sx_bytes_form *f) {
    int at = rounded(g, g->code->count - 1, f), other;
    f->steps = 0;
    for (int n = SX_BYTES_STEPS; at >= 0 && n > 0 && (is_op(g, at, SX_OP_MUL) || is_op(g, at, SX_OP_DIV)); n--) { /* from the last step to the first */
        f->divides[n - 1] = is_op(g, at, SX_OP_DIV);
        int inner = split(g, at, &other);
        if (inner < 0 || (f->divides[n - 1] && inner != g->source[at][0])) return 0;
        f->by[n - 1] = number(g, other), at = inner, f->steps++;
    }
    if (at < 0 || !leaf_at(g, at) || leaf_at(g, at)->dtype != SX_FLOAT) return 0;
    for (int i = 0; i < f->steps; i++) f->divides[i] = f->divides[i + SX_BYTES_STEPS - f->steps], f->by[i] = f->by[i + SX_BYTES_STEPS - f->steps];
    f->leaf[0] = (int)(leaf_at(g, at) - g->call->in);
    return 1;
}

/* bytes as floats · number: the operand, or -1. */
static int scaled_bytes(const graph *g, int at, float *by) {
    int other;
    *by = 1;
    if (is_op(g, at, SX_OP_MUL)) {
        if ((at = split(g, at, &other)) < 0) return -1;
        *by = number(g, other);
    }
    if (!is_op(g, at, SX_OP_CAST) || word(g, at)[4] != SX_I32) return -1;
    const sx_view *v = leaf_at(g, g->source[at][0]);
    return v && is_byte(v->dtype) && *by - *by == 0 ? (int)(v - g->call->in) : -1;
}

static int sum_form(const graph *g, sx_bytes_form *f) {
    int at = rounded(g, g->code->count - 1, f), other;
    f->constant = 0;
    if (at < 0 || !is_op(g, at, SX_OP_ADD)) return 0;
    int inner = split(g, at, &other);
    if (inner >= 0) f->constant = number(g, other), at = inner;
    if (!is_op(g, at, SX_OP_ADD) || f->constant - f->constant != 0) return 0;
    for (int x = 0; x < 2; x++) if ((f->leaf[x] = scaled_bytes(g, g->source[at][x], f->by + x)) < 0) return 0;
    return 1;
}

static int table_form(const graph *g, sx_bytes_form *f) {
    const sx_view *y = g->call->out, *x = 0;
    int64_t count = 1;
    for (int d = 0; d < y->rank; d++) count *= y->dim[d];
    if (count < 1024 || (!is_byte(y->dtype) && y->dtype != SX_FLOAT) || g->code->count < 4) return 0;
    for (int i = 0; i < g->code->count; i++) {
        const int32_t *w = word(g, i);
        if ((w[0] == SX_OP_DIV || w[0] == SX_OP_MOD || w[0] == SX_OP_FMOD) && w[1] != SX_F32 && w[1] != SX_F64) return 0; /* by zero it is a fault, also where no element is zero */
        const sx_view *v = g->varies[i] ? leaf_at(g, i) : 0;
        if (v && ((x && v != x) || !is_byte(v->dtype))) return 0;
        if (v) x = v;
    }
    if (!x) return 0;
    uint8_t all[256];
    for (int i = 0; i < 256; i++) all[i] = (uint8_t)i;
    for (int at = 0; at < 256; at += 64) {
        sx_tile t;
        t.call = g->call, t.code = g->code, t.row_axis = t.col_axis = -1, t.rows = 1, t.cols = 64, t.acc.data = 0;
        for (int i = 0; i < g->code->count; i++) {
            const sx_view *v = leaf_at(g, i);
            if (v) t.leaf[v - g->call->in] = v == x ? (sx_leaf){(const char *)all + at, 0, 1, x->dtype} : (sx_leaf){v->data, 0, 0, v->dtype};
        }
        t.out[0] = (sx_leaf){y->dtype == SX_FLOAT ? (char *)(f->floats + at) : (char *)(f->bytes + at), 0, 1, y->dtype};
        sx_run_tile(&t);
    }
    f->leaf[0] = (int)(x - g->call->in);
    return 1;
}

int SX_NAME(sx_bytes_form_of)(const sx_call *call, sx_bytes_form *f) {
    graph g;
    f->form = SX_BYTES_NONE;
    const sx_view *y = call->out;
    if (call->n_out != 1 || (!is_byte(y->dtype) && y->dtype != SX_FLOAT) || !read_graph(&g, call)) return 0;
    if (is_byte(y->dtype) && word(&g, g.code->count - 1)[4] == y->dtype && quantise_form(&g, f)) f->form = SX_BYTES_QUANTISE;
    else if (is_byte(y->dtype) && word(&g, g.code->count - 1)[4] == y->dtype && sum_form(&g, f)) f->form = SX_BYTES_SUM;
    else if (table_form(&g, f)) f->form = SX_BYTES_TABLE;
    return f->form;
}

/* ---- loops ---- */
#ifdef __wasm__ /* whose conversions saturate, in eight instructions */
SX_INLINE v128_t to_whole(sx_f x, float low, float high) { /* NaN → 0 */
    v128_t v = wasm_f32x4_pmin(wasm_f32x4_splat(high), wasm_f32x4_pmax(wasm_f32x4_splat(low), (v128_t)x));
    return (v128_t)sx_whole((sx_f)wasm_f32x4_trunc(wasm_v128_and(v, (v128_t)(x == x))));
}
/* Whole numbers, -128 to 255, as bytes. */
SX_INLINE v128_t narrow(v128_t a, v128_t b, v128_t c, v128_t d) {
    const v128_t low = wasm_i16x8_splat(255);
    return wasm_u8x16_narrow_i16x8(wasm_v128_and(wasm_i16x8_narrow_i32x4(a, b), low), wasm_v128_and(wasm_i16x8_narrow_i32x4(c, d), low));
}
SX_INLINE sx_b to_bytes(sx_f x, float low, float high) {
    v128_t v = to_whole(x, low, high), w = narrow(v, v, v, v);
    return (sx_b)wasm_i32x4_extract_lane(w, 0);
}
#else
SX_INLINE sx_b to_bytes(sx_f x, float low, float high) { /* NaN → 0 */
    sx_fi good = x == x;
#if defined(__AVX512F__)
    sx_f v = (sx_f)_mm512_min_ps(_mm512_max_ps((__m512)x, _mm512_set1_ps(low)), _mm512_set1_ps(high));
#else
    sx_f l = sx_fsplat(low), h = sx_fsplat(high), v = sx_fselect(x > l, x, l);
    v = sx_fselect(v < h, v, h);
#endif
    return __builtin_convertvector(__builtin_convertvector((sx_f)((sx_fi)v & good), sx_i), sx_b);
}
#endif

SX_INLINE void put(uint8_t *to, sx_b x, int n) {
    if (n >= SX_GW) *(sx_b_any *)to = x;
    else sx_bstore_some(to, x, n);
}

static void quantise_row(const sx_bytes_form *f, const float *x, uint8_t *y, int64_t n) {
    int64_t j = 0;
#ifdef __wasm__
    const sx_f by = sx_fsplat(f->by[0]), zero = sx_fsplat(f->zero);
    const float low = f->low, high = f->high;
    const int divides = f->divides[0];
    if (f->steps == 1)
        for (; j + 16 <= n; j += 16) {
            v128_t whole[4];
            SX_UNROLL for (int i = 0; i < 4; i++) {
                sx_f v = sx_fload(x + j + 4 * i);
                whole[i] = to_whole(__builtin_elementwise_roundeven(divides ? v / by : v * by) + zero, low, high);
            }
            sx_istore(y + j, (sx_i)narrow(whole[0], whole[1], whole[2], whole[3]));
        }
#endif
    for (; j < n; j += SX_GW) {
        int some = (int)sx_min64(SX_GW, n - j);
        sx_f v = some == SX_GW ? sx_fload(x + j) : sx_fload_part(x + j, some);
        for (int s = 0; s < f->steps; s++) v = f->divides[s] ? v / sx_fsplat(f->by[s]) : v * sx_fsplat(f->by[s]);
        put(y + j, to_bytes(__builtin_elementwise_roundeven(v) + sx_fsplat(f->zero), f->low, f->high), some);
    }
}

SX_INLINE sx_f bytes_at(const uint8_t *p, int is_signed, int n) {
    if (n >= SX_GW) return __builtin_convertvector(sx_widen_bytes(p, is_signed), sx_f);
    return __builtin_convertvector(sx_widen_some(p, is_signed, n), sx_f);
}

SX_INLINE void sum_row(const int A, const int B, const sx_bytes_form *f, const uint8_t *a, const uint8_t *b, uint8_t *y, int64_t n) {
    for (int64_t j = 0; j < n; j += SX_GW) {
        int some = (int)sx_min64(SX_GW, n - j);
        sx_f v = bytes_at(a + j, A, some) * sx_fsplat(f->by[0]), w = bytes_at(b + j, B, some) * sx_fsplat(f->by[1]);
        SX_APART(v);
        SX_APART(w);
        put(y + j, to_bytes(__builtin_elementwise_roundeven(v + w + sx_fsplat(f->constant)) + sx_fsplat(f->zero), f->low, f->high), some);
    }
}

int SX_NAME(sx_bytes_tile)(const sx_bytes_form *f, const sx_tile *t) {
    const sx_leaf *y = t->out, *a = t->leaf + f->leaf[0], *b = f->form == SX_BYTES_SUM ? t->leaf + f->leaf[1] : a;
    if ((f->form != SX_BYTES_TABLE && (a->col != 1 || b->col != 1 || y->col != 1)) || (f->form == SX_BYTES_TABLE && y->dtype == SX_FLOAT && y->col != 1)) return 0;
    for (int64_t r = 0; r < t->rows; r++) {
        char *to = (char *)(uintptr_t)y->data + r * y->row * (y->dtype == SX_FLOAT ? 4 : 1);
        const uint8_t *x = (const uint8_t *)a->data + r * a->row, *z = (const uint8_t *)b->data + r * b->row;
        if (f->form == SX_BYTES_QUANTISE) quantise_row(f, (const float *)(const void *)a->data + r * a->row, (uint8_t *)to, t->cols);
        else if (f->form == SX_BYTES_TABLE && y->dtype == SX_FLOAT) for (int64_t j = 0; j < t->cols; j++) ((float *)(void *)to)[j] = f->floats[x[j * a->col]];
        else if (f->form == SX_BYTES_TABLE) for (int64_t j = 0; j < t->cols; j++) ((uint8_t *)to)[j * y->col] = f->bytes[x[j * a->col]];
#ifdef __wasm__ /* fewer variants: in a module for the web bytes count */
        else sum_row(a->dtype == SX_INT8, b->dtype == SX_INT8, f, x, z, (uint8_t *)to, t->cols);
#else
        else if (a->dtype == SX_INT8 && b->dtype == SX_INT8) sum_row(1, 1, f, x, z, (uint8_t *)to, t->cols);
        else if (a->dtype == SX_INT8) sum_row(1, 0, f, x, z, (uint8_t *)to, t->cols);
        else if (b->dtype == SX_INT8) sum_row(0, 1, f, x, z, (uint8_t *)to, t->cols);
        else sum_row(0, 0, f, x, z, (uint8_t *)to, t->cols);
#endif
    }
    return 1;
}
