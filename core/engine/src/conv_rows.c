/* conv_rows.c: convolutions of channels-first images (part of kind CONV), where the planner would otherwise copy to channels-last and back: depthwise of stride 1, and pointwise. f32, two spatial axes
   at most, X and Y with columns side by side.

   - Depthwise: a plane at a time, copied with its padding; lanes run along columns, LINES_3 or LINES_5 output lines share what they load (3 × 3 in V8, 96 planes of 112²: six lines take 6 % less than four).
   - Pointwise: Y[features, pixels] = W · X[channels, pixels], a product whose right-hand side is the image as it lies. */
#include "conv.h"

#ifdef __wasm__
#define LINES_3 6 /* of a strip of 3 × 3 taps */
#else
#define LINES_3 4
#endif
#define LINES_5 4

typedef struct {
    const sx_conv *v;
    sx_gemm gemm;
    sx_gemm_cut cut;
    sx_sum sum;
    int plain;              /* the epilogue is a sum of at most one number a plane and bounds, applied here */
    int64_t lines, pieces;  /* output lines of a task, tasks of a plane */
    int64_t high, broad;    /* the copied plane */
} job;

static int is_depthwise(const sx_conv *v) { return v->wv->packing == SX_PACK_DEPTHWISE && v->m == v->c; }

int SX_NAME(sx_conv_by_rows)(const sx_conv *v) {
    if (v->c < 2 || v->xv->stride[1] == 1 || v->xs[2] != 1 || v->ys[2] != 1 || v->in[0] != 1 || v->transposed || v->xv->dtype != SX_FLOAT || v->wv->dtype != SX_FLOAT || v->yv->dtype != SX_FLOAT) return 0;
    int point = 1;
    for (int i = 0; i < 3; i++) {
        if (v->s[i] != 1 || v->d[i] != 1) return 0;
        point &= v->k[i] == 1 && v->p[i] == 0 && v->in[i] == v->out[i];
    }
    if (is_depthwise(v)) return 1;
    int planes = (v->in[1] == 1 || v->xs[1] == v->in[2]) && (v->out[1] == 1 || v->ys[1] == v->out[2]); /* whose lines follow one another */
    return point && v->wv->packing == SX_PACK_CONV && v->group == 1 && planes;
}

/* Whether the operand is one number a feature. */
static int by_feature(const sx_conv *v, const sx_view *o) {
    for (int d = 0; d < o->rank; d++)
        if (d != 1 && v->yv->dim[d] != 1 && o->stride[d]) return 0;
    return o->dtype == SX_FLOAT && !o->packing;
}

static float bias_of(const job *j, int64_t feature) {
    const sx_view *o = j->v->call->in + j->sum.operand[0];
    return j->sum.n ? ((const float *)o->data)[feature * o->stride[1]] : -0.0f;
}

/* ---- depthwise ---- */

/* L lines of columns [at, at + GW) of one plane, square kernels; x: the copied plane at the first line's first tap. What is loaded of an input line serves all outputs that read it. */
SX_INLINE void lines_of(const int L, const int K, const float *x, int64_t broad, const sx_f *tap, sx_f *acc) {
    SX_UNROLL for (int y = 0; y < K + L - 1; y++, x += broad)
        SX_UNROLL for (int t = 0; t < K; t++) {
            sx_f value = sx_fload(x + t);
            SX_UNROLL for (int l = 0; l < L; l++)
                if (y >= l && y - l < K) acc[l] += value * tap[(y - l) * K + t];
        }
}

#define STRIP(L, K) \
    static __attribute__((noinline)) void strip_##L##_##K(const float *x, int64_t broad, const float *w, int64_t cols, float bias, float lo, float hi, float *y, int64_t ld) { \
        sx_f tap[K * K]; \
        SX_UNROLL for (int t = 0; t < K * K; t++) tap[t] = sx_fsplat(w[t]); \
        for (int64_t at = 0; at < cols; at += SX_GW) { \
            sx_f acc[L]; \
            int n = (int)sx_min64(SX_GW, cols - at); \
            SX_UNROLL for (int l = 0; l < L; l++) acc[l] = sx_fsplat(0); \
            lines_of(L, K, x + at, broad, tap, acc); \
            SX_UNROLL for (int l = 0; l < L; l++) { \
                sx_f value = sx_fat_most(sx_fat_least(acc[l] + sx_fsplat(bias), sx_fsplat(lo)), sx_fsplat(hi)); \
                if (n == SX_GW) sx_fstore(y + l * ld + at, value); \
                else sx_fstore_part(y + l * ld + at, value, n); \
            } \
        } \
    }
#ifdef __wasm__
STRIP(6, 3)
#else
STRIP(4, 3)
#endif
STRIP(1, 3) STRIP(4, 5) STRIP(1, 5)
#define STRIP_NAME(L, K) strip_##L##_##K
#define STRIP_OF(L, K) STRIP_NAME(L, K)
typedef void (*strip_fn)(const float *x, int64_t broad, const float *w, int64_t cols, float bias, float lo, float hi, float *y, int64_t ld);

/* Any width of kernel, one line. */
static void strip_any(const float *x, int64_t broad, int64_t kh, int64_t kw, const float *w, int64_t cols, float bias, float lo, float hi, float *y) {
    for (int64_t at = 0; at < cols; at += SX_GW) {
        int n = (int)sx_min64(SX_GW, cols - at);
        sx_f acc = sx_fsplat(0);
        for (int64_t a = 0; a < kh; a++)
            for (int64_t b = 0; b < kw; b++) acc += sx_fload(x + a * broad + b + at) * sx_fsplat(w[a * kw + b]);
        acc = sx_fat_most(sx_fat_least(acc + sx_fsplat(bias), sx_fsplat(lo)), sx_fsplat(hi));
        if (n == SX_GW) sx_fstore(y + at, acc);
        else sx_fstore_part(y + at, acc, n);
    }
}

static void plane_task(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    int64_t plane = index / j->pieces, line = index % j->pieces * j->lines, lines = sx_min64(j->lines, v->out[1] - line), image = plane / v->c, c = plane % v->c;
    float *copied = (float *)(v->call->scratch + worker * v->call->scratch_bytes), *w = copied + j->high * j->broad, *block = w + sx_round_up(v->taps, 16);
    const float *x = (const float *)v->xv->data + image * v->xn + c * v->xv->stride[1], *weights = (const float *)v->wv->data;
    int64_t high = lines + v->k[1] - 1, low = sx_min64(v->p[2], j->broad), have = sx_min64(v->in[2], j->broad - low);
    for (int64_t t = 0; t < v->taps; t++) w[t] = weights[t * v->m + c];
    for (int64_t i = 0; i < high; i++) {
        float *to = copied + i * j->broad;
        int64_t ih = line - v->p[1] + i;
        if (ih < 0 || ih >= v->in[1]) {
            sx_zero_row(to, j->broad);
            continue;
        }
        sx_zero_row(to, low);
        sx_widen_row((const char *)(x + ih * v->xs[1]), SX_FLOAT, 1, have, to + low);
        sx_zero_row(to + low + have, j->broad - low - have);
    }
    int64_t start[SX_RANK] = {image, c}, ld = j->plain ? v->ys[1] : v->out[2];
    int last = v->spatial + 1;
    if (v->spatial > 1) start[last - 1] = line;
    float *y = j->plain ? (float *)v->yv->data + image * v->yn + c * v->yv->stride[1] + line * v->ys[1] : block;
    float bias = j->plain ? bias_of(j, c) : -0.0f, lo = j->plain ? j->sum.lo : -__builtin_inff(), hi = j->plain ? j->sum.hi : __builtin_inff();
    int side = v->k[1] == v->k[2] ? (int)v->k[2] : 0;
    strip_fn several = side == 3 ? STRIP_OF(LINES_3, 3) : side == 5 ? STRIP_OF(LINES_5, 5) : 0, one = side == 3 ? strip_1_3 : side == 5 ? strip_1_5 : 0;
    int64_t together = !several ? 1 : side == 3 ? LINES_3 : LINES_5;
    if (together > lines) together = 1;
    for (int64_t next = 0; next < lines; next += together) {
        int64_t l = sx_min64(next, lines - together); /* the last strip writes some of the one before again: the same */
        if (one) (together > 1 ? several : one)(copied + l * j->broad, j->broad, w, v->out[2], bias, lo, hi, y + l * ld, ld);
        else strip_any(copied + l * j->broad, j->broad, v->k[1], v->k[2], w, v->out[2], bias, lo, hi, y + l * ld);
    }
    if (!j->plain) sx_finish(v->call, block, 0, lines, v->out[2], v->out[2], start, v->spatial > 1 ? last - 1 : -1, last);
}

/* ---- pointwise ---- */
static void weight_rows(const void *source, int64_t row, int64_t rows, int64_t at, int64_t count, float *to, int64_t ld) {
    const sx_conv *v = source;
    for (int64_t i = 0, n; i < rows; i += n) {
        n = sx_min64(rows - i, SX_PANEL - (row + i) % SX_PANEL);
        SX_NAME(sx_gemm_transpose)((const float *)v->wv->data + ((row + i) / SX_PANEL * v->c + at) * SX_PANEL + (row + i) % SX_PANEL, SX_PANEL, count, n, to + i * ld, ld);
    }
}

static void product_task(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    char *scratch = v->call->scratch + worker * v->call->scratch_bytes;
    int64_t across = index % j->cut.across, down = index / j->cut.across % j->cut.down, image = index / j->cut.across / j->cut.down;
    int64_t m = down * j->cut.mc, mc = sx_min64(j->cut.mc, v->m - m), n = across * j->cut.nc, nc = sx_min64(j->cut.nc, v->pixels - n);
    sx_gemm g = j->gemm;
    g.b = (const char *)((const float *)v->xv->data + image * v->xn);
    if (j->plain) {
        float *y = (float *)v->yv->data + image * v->yn + m * v->yv->stride[1] + n;
        sx_sum bounds = {.n = 0, .lo = j->sum.lo, .hi = j->sum.hi};
        int64_t start[SX_RANK] = {0};
        sx_end end = sx_place_sum(v->call, &bounds, start, -1, -1);
        for (int64_t i = 0; i < mc && j->sum.n; i++) {
            const sx_f bias = sx_fsplat(bias_of(j, m + i));
            float *to = y + i * v->yv->stride[1];
            int64_t at = 0;
            for (; at + SX_GW <= nc; at += SX_GW) sx_fstore(to + at, bias);
            for (; at < nc; at++) to[at] = bias[0];
        }
        g.add = j->sum.n > 0, g.end = sx_sum_is_nothing(&bounds) ? 0 : &end;
        SX_NAME(sx_gemm_block)(&g, m, mc, n, nc, y, v->yv->stride[1], scratch);
        return;
    }
    float *block = (float *)scratch;
    int64_t start[SX_RANK] = {image, m};
    int last = v->spatial + 1;
    SX_NAME(sx_gemm_block)(&g, m, mc, n, nc, block, nc, scratch + sx_round_up(4 * j->cut.mc * j->cut.nc, 64));
    for (int64_t at = 0; at < nc;) { /* a line of Y at a time */
        int64_t w = (n + at) % v->out[2], cols = sx_min64(nc - at, v->out[2] - w);
        start[last] = w;
        if (v->spatial > 1) start[last - 1] = (n + at) / v->out[2];
        sx_finish(v->call, block + at, 0, mc, cols, nc, start, 1, last);
        at += cols;
    }
}

SX_SMALL static job job_of(const sx_conv *v) {
    enum { WANTED = 16 };
    job j = {.v = v};
    j.plain = sx_sum_of(v->call, -1, &j.sum) && (!j.sum.n || (j.sum.n == 1 && by_feature(v, v->call->in + j.sum.operand[0])));
    if (is_depthwise(v)) {
        j.pieces = sx_min64(v->out[1], sx_ceil_div(WANTED, sx_max64(1, v->n * v->c)));
        j.lines = sx_ceil_div(v->out[1], j.pieces), j.pieces = sx_ceil_div(v->out[1], j.lines);
        j.high = j.lines + v->k[1] - 1, j.broad = sx_round_up(v->out[2], SX_GW) + sx_round_up(v->k[2] - 1, SX_GW);
        return j;
    }
    j.gemm = (sx_gemm){.m = v->m, .n = v->pixels, .k = v->c, .a_dtype = SX_FLOAT, .b_dtype = SX_FLOAT, .b_row = v->xv->stride[1], .b_col = 1, .rows = weight_rows, .rows_source = v};
#ifdef SX_BF16
    j.gemm.bf16 = sx_bf16_of(v->call, &j.gemm, 0);
#endif
    j.cut = SX_NAME(sx_gemm_cut_for)(&j.gemm, v->n);
    return j;
}

#ifdef SX_BF16
int SX_NAME(sx_conv_rows_bf16)(const sx_conv *v) { return is_depthwise(v) ? 0 : job_of(v).gemm.bf16; }
#endif

int64_t SX_NAME(sx_conv_rows_scratch)(const sx_conv *v) {
    job j = job_of(v);
    if (is_depthwise(v)) return 4 * (j.high * j.broad + sx_round_up(v->taps, 16) + (j.plain ? 0 : j.lines * v->out[2]));
    return SX_NAME(sx_gemm_scratch)(&j.gemm, j.cut.mc, j.cut.nc) + (j.plain ? 0 : sx_round_up(4 * j.cut.mc * j.cut.nc, 64));
}

void SX_NAME(sx_conv_rows)(const sx_conv *v) {
    job j = job_of(v);
    if (is_depthwise(v)) sx_tiles(v->call, v->n * v->c * j.pieces, plane_task, &j);
    else {
        j.gemm.rows_source = v;
        sx_tiles(v->call, v->n * j.cut.down * j.cut.across, product_task, &j);
    }
}
