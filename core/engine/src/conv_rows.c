/* conv_rows.c: convolutions of channels-first images (part of kind CONV), where the planner would otherwise copy to channels-last and back: depthwise of stride 1, and pointwise. f32, two spatial axes
   at most, X and Y with columns side by side.

   - Depthwise: lanes run along columns, a plane at a time where it lies; only what padding reaches is copied first. A register of columns goes down the lines with K sums under way, so that nine
     taps, three sums and what they read fit V8's 15 registers (96 planes of 112² in Zen 4's first cache: 0.42 ms, 52 of 58 GFLOP/s; six lines at once, planes copied: 0.85 ms).
   - Pointwise: Y[features, pixels] = W · X[channels, pixels], a product whose right-hand side is the image as it lies. */
#include "conv.h"

typedef struct {
    const sx_conv *v;
    sx_gemm gemm;
    sx_gemm_cut cut;
    sx_sum sum;
    int plain;              /* the epilogue is a sum of at most one number a plane and bounds, applied here */
    int64_t lines, pieces;  /* output lines of a task, tasks of a plane */
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
    return j->sum.n ? ((const float *)o->data)[feature * o->stride[1]] : 0;
}

/* ---- depthwise ---- */

/* One plane: X and Y of it, its taps, what is added, memory for a part. */
typedef struct {
    const sx_conv *v;
    const float *x, *w;
    float *y, *copied;
    int64_t ld;
    float bias, lo, hi;
} plane;

/* `lines` lines of `cols` columns, at least a register: from x, the first one's first tap, to y; ld_x and ld floats from a line to the next. The last register of columns overlaps the one before:
   the same values are written again. */
typedef void (*down_fn)(const plane *p, const float *x, ptrdiff_t ld_x, ptrdiff_t cols, ptrdiff_t lines, float *y, ptrdiff_t ld);

#ifdef __wasm__
enum { TOGETHER = 28, WIDE = 4 * SX_GW }; /* lines of a part: what a register of columns reads and writes stays in the first-level cache for the next; columns from which planes are read where they lie */

static __attribute__((noinline)) void bound(const plane *p, ptrdiff_t cols, ptrdiff_t lines, float *y, ptrdiff_t ld) {
    if (p->lo == -__builtin_inff() && p->hi == __builtin_inff()) return;
    for (; lines > 0; lines--, y += ld)
        for (ptrdiff_t next = 0; next < cols; next += SX_GW) {
            float *at = y + (next < cols - SX_GW ? next : cols - SX_GW);
            sx_fstore(at, sx_fat_most(sx_fat_least(sx_fload(at), sx_fsplat(p->lo)), sx_fsplat(p->hi)));
        }
}

/* Square kernels: a register of columns goes down the lines with K sums under way, and what is loaded of an input line is added to all of them. */
#define DOWN(K) \
    static __attribute__((noinline)) void down_##K(const plane *p, const float *x, ptrdiff_t ld_x, ptrdiff_t cols, ptrdiff_t lines, float *y, ptrdiff_t ld) { \
        const sx_f bias = sx_fsplat(p->bias); \
        sx_f tap[K * K]; \
        SX_UNROLL for (int t = 0; t < K * K; t++) tap[t] = sx_fsplat(p->w[t]); \
        _Pragma("clang loop unroll(disable)") for (ptrdiff_t next = 0; next < cols; next += SX_GW) { \
            const ptrdiff_t at = next < cols - SX_GW ? next : cols - SX_GW; \
            const float *from = x + at; \
            float *to = y + at; \
            sx_f acc[K]; \
            SX_UNROLL for (int l = 0; l < K - 1; l++) { \
                acc[l] = bias; \
                SX_UNROLL for (int t = 0; t < K; t++) { \
                    sx_f value = sx_fload(from + t); \
                    SX_UNROLL for (int i = 0; i <= l; i++) acc[i] += value * tap[(l - i) * K + t]; \
                } \
                SX_WALK(from, ld_x); \
            } \
            _Pragma("clang loop unroll(disable)") for (ptrdiff_t l = lines; l > 0; l--) { \
                acc[K - 1] = bias; \
                SX_UNROLL for (int t = 0; t < K; t++) { \
                    sx_f value = sx_fload(from + t); \
                    SX_UNROLL for (int i = 0; i < K; i++) acc[i] += value * tap[(K - 1 - i) * K + t]; \
                } \
                sx_fstore(to, acc[0]); \
                SX_UNROLL for (int i = 0; i + 1 < K; i++) acc[i] = acc[i + 1]; \
                SX_WALK(from, ld_x); \
                SX_WALK(to, ld); \
            } \
        } \
        bound(p, cols, lines, y, ld); /* with the sums it would be a third of their time, and most have none */ \
    }
#else
enum { TOGETHER = 1 << 30, WIDE = 1 << 30, LINES = 4 }; /* planes are copied whole; lines of a strip */

/* L lines, square kernels: what is loaded of an input line serves all outputs that read it. */
#define STRIP(L, K) \
    static __attribute__((noinline)) void strip_##L##_##K(const plane *p, const float *x, ptrdiff_t ld_x, ptrdiff_t cols, float *y, ptrdiff_t ld) { \
        sx_f tap[K * K], bias = sx_fsplat(p->bias), lo = sx_fsplat(p->lo), hi = sx_fsplat(p->hi); \
        SX_UNROLL for (int t = 0; t < K * K; t++) tap[t] = sx_fsplat(p->w[t]); \
        for (ptrdiff_t next = 0; next < cols; next += SX_GW) { \
            const ptrdiff_t at = next < cols - SX_GW ? next : cols - SX_GW; \
            const float *from = x + at; \
            sx_f acc[L]; \
            SX_UNROLL for (int l = 0; l < L; l++) acc[l] = bias; \
            SX_UNROLL for (int i = 0; i < K + L - 1; i++, from += ld_x) \
                SX_UNROLL for (int t = 0; t < K; t++) { \
                    sx_f value = sx_fload(from + t); \
                    SX_UNROLL for (int l = 0; l < L; l++) \
                        if (i >= l && i - l < K) acc[l] += value * tap[(i - l) * K + t]; \
                } \
            SX_UNROLL for (int l = 0; l < L; l++) sx_fstore(y + l * ld + at, sx_fat_most(sx_fat_least(acc[l], lo), hi)); \
        } \
    }
#define DOWN(K) \
    STRIP(4, K) STRIP(1, K) \
    static void down_##K(const plane *p, const float *x, ptrdiff_t ld_x, ptrdiff_t cols, ptrdiff_t lines, float *y, ptrdiff_t ld) { \
        const ptrdiff_t together = lines < LINES ? 1 : LINES; \
        for (ptrdiff_t next = 0; next < lines; next += together) { \
            const ptrdiff_t l = next < lines - together ? next : lines - together; \
            (together > 1 ? strip_4_##K : strip_1_##K)(p, x + l * ld_x, ld_x, cols, y + l * ld, ld); \
        } \
    }
#endif
DOWN(3) DOWN(5)

/* Any kernel, one register of columns of a line at a time. */
static void down_any(const plane *p, const float *x, ptrdiff_t ld_x, ptrdiff_t cols, ptrdiff_t lines, float *y, ptrdiff_t ld) {
    const ptrdiff_t high = (ptrdiff_t)p->v->k[1], wide = (ptrdiff_t)p->v->k[2];
    for (; lines > 0; lines--, x += ld_x, y += ld)
        for (ptrdiff_t next = 0; next < cols; next += SX_GW) {
            const ptrdiff_t at = next < cols - SX_GW ? next : cols - SX_GW;
            sx_f acc = sx_fsplat(p->bias);
            for (ptrdiff_t a = 0; a < high; a++)
                for (ptrdiff_t b = 0; b < wide; b++) acc += sx_fload(x + a * ld_x + b + at) * sx_fsplat(p->w[a * wide + b]);
            sx_fstore(y + at, sx_fat_most(sx_fat_least(acc, sx_fsplat(p->lo)), sx_fsplat(p->hi)));
        }
}

/* The largest part: its copy, and its results where their columns are fewer than a register's. */
static int64_t part_floats(const sx_conv *v, int64_t lines) {
    int64_t most = sx_min64(TOGETHER, lines);
    return (most + v->k[1] - 1) * (sx_max64(v->out[2], SX_GW) + v->k[2] - 1) + (v->out[2] < SX_GW ? most * SX_GW : 0);
}

/* `lines` lines from `line` on, `cols` columns from `col` on: of X where it lies if all taps are inside, else of a copy with its padding. */
static void part_of(const plane *p, int64_t line, int64_t lines, int64_t col, int64_t cols) {
    const sx_conv *v = p->v;
    int64_t ih = line - v->p[1], iw = col - v->p[2], high = lines + v->k[1] - 1, ld = p->ld, ld_x = v->xs[1], wide = sx_max64(cols, SX_GW), broad = wide + v->k[2] - 1;
    const float *from = p->x + ih * ld_x + iw;
    float *to = p->y + line * ld + col, *narrow = p->copied + high * broad;
    if (WIDE > v->out[2] || ih < 0 || iw < 0 || ih + high > v->in[1] || iw + broad > v->in[2]) {
        int64_t low = sx_min64(sx_max64(-iw, 0), broad), have = sx_max64(0, sx_min64(broad - low, v->in[2] - iw - low));
        float *copy = p->copied;
        for (int64_t i = ih; i < ih + high; i++, from += ld_x, copy += broad) {
            int64_t n = i < 0 || i >= v->in[1] ? 0 : have;
            sx_zero_row(copy, low);
            if (n) sx_widen_row((const char *)(from + low), SX_FLOAT, 1, n, copy + low);
            sx_zero_row(copy + low + n, broad - low - n);
        }
        from = p->copied, ld_x = broad;
    }
    if (cols < SX_GW) to = narrow, ld = SX_GW;
    down_fn down = v->k[1] != v->k[2] ? down_any : v->k[2] == 3 ? down_3 : v->k[2] == 5 ? down_5 : down_any;
    down(p, from, (ptrdiff_t)ld_x, (ptrdiff_t)wide, (ptrdiff_t)lines, to, (ptrdiff_t)ld);
    for (int64_t i = 0; i < lines && cols < SX_GW; i++) sx_copy_part(p->y + (line + i) * p->ld + col, narrow + i * SX_GW, (int)cols);
}

static void plane_task(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    int64_t number = index / j->pieces, line = index % j->pieces * j->lines, lines = sx_min64(j->lines, v->out[1] - line), image = number / v->c, c = number % v->c;
    float *w = (float *)(v->call->scratch + worker * v->call->scratch_bytes), *block = w + v->taps + part_floats(v, j->lines);
    for (int64_t t = 0; t < v->taps; t++) w[t] = ((const float *)v->wv->data)[t * v->m + c];
    plane p = {.v = v, .x = (const float *)v->xv->data + image * v->xn + c * v->xv->stride[1], .w = w, .copied = w + v->taps, .lo = -__builtin_inff(), .hi = __builtin_inff()};
    if (j->plain) p.ld = v->ys[1], p.y = (float *)v->yv->data + image * v->yn + c * v->yv->stride[1], p.bias = bias_of(j, c), p.lo = j->sum.lo, p.hi = j->sum.hi;
    else p.ld = v->out[2], p.y = block - line * p.ld;
    int64_t first = v->p[1], last = v->in[1] + v->p[1] - v->k[1] + 1; /* lines [first, last) have all their taps inside */
    int wide = v->out[2] >= WIDE;
    for (int64_t at = line, n; at < line + lines; at += n) {
        n = sx_min64(TOGETHER, line + lines - at);
        if (wide && at < last) n = sx_min64(n, (at < first ? first : last) - at);
        if (!wide || at < first || at >= last) {
            part_of(&p, at, n, 0, v->out[2]);
            continue;
        }
        part_of(&p, at, n, 0, SX_GW);
        part_of(&p, at, n, SX_GW, v->out[2] - 2 * SX_GW);
        part_of(&p, at, n, v->out[2] - SX_GW, SX_GW);
    }
    int64_t start[SX_RANK] = {image, c};
    int axis = v->spatial + 1;
    if (v->spatial > 1) start[axis - 1] = line;
    if (!j->plain) sx_finish(v->call, block, 0, lines, v->out[2], v->out[2], start, v->spatial > 1 ? axis - 1 : -1, axis);
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
    if (is_depthwise(v)) return 4 * (v->taps + part_floats(v, j.lines) + (j.plain ? 0 : j.lines * v->out[2]));
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
