/* gemm.c: the float matrix product of gemm.h. AVX-512 tiles are 12 × 32 (6 × 24 for the last 24 columns), AVX2 6 × 16. */
#include "gemm.h"

#ifdef __wasm__
#define KC 1024     /* K block: C is read and written once for so many steps (4 % between 384 and 768). Panels, SX_PANEL · KC floats, and rows come from the second-level cache without a pause */
#define SAME_SETS 4096 /* floats between rows that lie in the same cache sets */
#else
#define SAME_SETS 1024
#define KC 384      /* K block: SX_MR · KC floats of A stay in the first-level cache */
#endif
#define L2 81920    /* floats of B a group of columns reads for all rows: they stay in the second-level cache */
#define SKEW 16     /* copied rows of A do not lie a power of two apart: they would fall into the same cache sets */
#define GEMV_ROWS 4 /* up to here B is read once and memory is the limit */

/* ---- micro-tile: R rows, V registers of columns, `last` lanes of the last one stored ---- */

/* What all tiles of one K block share. A's K block is `runs` runs of `run` elements; after one, A moves on by `jump` (NULL where there is one run). B: row k at b + k · bs; registers of one panel
   lie side by side, panels ps apart. add: C is added to. */
typedef struct {
    int64_t rs, run, runs, ps, bs, ldc;
    const int64_t *jump;
    int add, ahead;    /* ahead: rows of A follow one another, so the next tile's can be asked for */
    const sx_end *end; /* what happens to finished sums; NULL: nothing, or they are not finished */
    sx_coming *coming;
} part;

#ifdef __wasm__
#include "sx_gemm_wasm.h"
#else
#if SX_NR <= SX_PANEL
#define B_AT(v, ps) ((v) * SX_GW)
#else
#define B_AT(v, ps) ((v) * SX_GW / SX_PANEL * (ps) + (v) * SX_GW % SX_PANEL)
#endif
#if defined(__AVX512F__) || defined(__AVX2__)
#define AHEAD 28 /* steps of K that B is asked for early */
#else
#define AHEAD 8
#endif

#define SHARING 3 /* rows share a pointer: x86 addresses p, p + rs and p + 2 rs */

/* op: where the end's operands lie for the first element. next: what will be needed soon, `stride` bytes a step of K. */
SX_INLINE void micro(const int R, const int V, const part *t, const float *a, const float *b, float *c, int last, const float *const *op, const char *next, int64_t stride, float *keep, int64_t keep_ps) {
    sx_f acc[SX_MR][SX_NV];
    const ptrdiff_t rs = (ptrdiff_t)t->rs, bs = (ptrdiff_t)t->bs, ldc = (ptrdiff_t)t->ldc;
#if SX_NR > SX_PANEL
    const ptrdiff_t ps = (ptrdiff_t)t->ps;
#endif
    const float *group[(SX_MR + SHARING - 1) / SHARING];
    SX_UNROLL for (int g = 0; g < (R + SHARING - 1) / SHARING; g++) {
        group[g] = a + SHARING * g * rs;
        __asm__("" : "+r"(group[g])); /* or the compiler keeps one pointer a row and runs out of registers */
    }
    if (!t->add) {
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] = sx_fsplat(0);
    } else {
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] = v == V - 1 && last != SX_GW ? sx_fload_part(c + i * ldc + v * SX_GW, last) : sx_fload(c + i * ldc + v * SX_GW);
    }
    if (t->end && t->end->row[1]) { /* a residual: it comes from far */
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < V; v++) __builtin_prefetch(op[1] + i * t->end->row[1] + v * SX_GW);
    }
    if (!t->add) { /* C is written whole, but its lines are fetched first */
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < V; v++) __builtin_prefetch(c + i * ldc + v * SX_GW, 1);
    }
    for (int64_t done = 0;;) {
        _Pragma("clang loop unroll(disable)") for (const float *stop = group[0] + t->run; group[0] != stop;) {
            sx_f bv[SX_NV];
            SX_UNROLL for (int v = 0; v < V; v++) bv[v] = sx_fload(b + B_AT(v, ps));
            SX_UNROLL for (int v = 0; v < V; v += SX_PANEL / SX_GW > 0 ? SX_PANEL / SX_GW : 1) __builtin_prefetch(b + B_AT(v, ps) + AHEAD * bs);
            if (keep) { /* B as it lies becomes the panels the next rows use: stores are free here, a copy before would not be */
                SX_UNROLL for (int v = 0; v < V; v++) sx_fstore(keep + B_AT(v, keep_ps), bv[v]);
                keep += SX_PANEL;
            }
            __builtin_prefetch(next, 0, 2), next += stride;
            b += bs;
            SX_UNROLL for (int i = 0; i < R; i++) {
                sx_f x = sx_fsplat(group[i / SHARING][i % SHARING * rs]);
                SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] += x * bv[v];
            }
            SX_UNROLL for (int g = 0; g < (R + SHARING - 1) / SHARING; g++) group[g]++;
        }
        if (++done == t->runs) break;
        SX_UNROLL for (int g = 0; g < (R + SHARING - 1) / SHARING; g++) group[g] += t->jump[done - 1];
    }
    if (!t->end) {
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < V; v++) {
                if (v == V - 1 && last != SX_GW) sx_fstore_part(c + i * ldc + v * SX_GW, acc[i][v], last);
                else sx_fstore(c + i * ldc + v * SX_GW, acc[i][v]);
            }
        return;
    }
    const sx_end *e = t->end;
    const float *p = op[0], *q = op[1];
    SX_UNROLL for (int i = 0; i < R; i++, p += e->row[0], q += e->row[1], c += ldc)
        SX_UNROLL for (int v = 0; v < V; v++) {
            if (v == V - 1 && last != SX_GW) sx_fstore_part(c + v * SX_GW, sx_ended(e, acc[i][v], p + v * SX_GW, q + v * SX_GW, last), last);
            else sx_fstore(c + v * SX_GW, sx_ended(e, acc[i][v], p + v * SX_GW, q + v * SX_GW, SX_GW));
        }
}

typedef void (*micro_fn)(const part *t, const float *a, const float *b, float *c, int last, const float *const *op, const char *next, int64_t stride);
#define MICRO(R, V) \
    static void micro_##R##_##V(const part *t, const float *a, const float *b, float *c, int last, const float *const *op, const char *next, int64_t stride) { \
        micro(R, V, t, a, b, c, last, op, next, stride, (float *)0, 0); \
    }
#if SX_NV == 4
#define MICROS(R) MICRO(R, 1) MICRO(R, 2) MICRO(R, 3) MICRO(R, 4)
#define ROW(R) {micro_##R##_1, micro_##R##_2, micro_##R##_3, micro_##R##_4}
#else
#define MICROS(R) MICRO(R, 1) MICRO(R, 2)
#define ROW(R) {micro_##R##_1, micro_##R##_2}
#endif
MICROS(1) MICROS(2)
#if SX_MR >= 4
MICROS(3) MICROS(4)
#endif
#if SX_MR >= 5
MICROS(5)
#endif
#if SX_MR >= 6
MICROS(6)
#endif
#if SX_MR >= 12
MICROS(7) MICROS(8) MICROS(9) MICROS(10) MICROS(11) MICROS(12)
#endif
static const micro_fn MICRO_OF[SX_MR][SX_NV] = {
    ROW(1), ROW(2),
#if SX_MR >= 4
    ROW(3), ROW(4),
#endif
#if SX_MR >= 5
    ROW(5),
#endif
#if SX_MR >= 6
    ROW(6),
#endif
#if SX_MR >= 12
    ROW(7), ROW(8), ROW(9), ROW(10), ROW(11), ROW(12),
#endif
};

#if defined(__AVX512VL__)
/* 17 to 24 columns: three half registers, because the empty half of a whole one takes its time too. R ≤ SX_MR / 2 rows; `last` lanes of the third count. */
#define HALVES 3
typedef float half_f __attribute__((vector_size(32)));
typedef float half_any __attribute__((vector_size(32), aligned(4), may_alias));
#define HALF_AT(v) ((v) < 2 ? (v) * 8 : (ptrdiff_t)t->ps)

SX_INLINE half_f half_load(const float *p, int v, int last) { return v < 2 || last == 8 ? (half_f) * (const half_any *)p : (half_f)_mm256_maskz_loadu_ps((__mmask8)((1u << last) - 1), p); }

SX_INLINE void micro_halves(const int R, const part *t, const float *a, const float *b, float *c, int last, const float *const *op) {
    half_f acc[SX_MR / 2][HALVES];
    const ptrdiff_t rs = (ptrdiff_t)t->rs, bs = (ptrdiff_t)t->bs, ldc = (ptrdiff_t)t->ldc;
    const float *group[2] = {a, a + SHARING * rs};
    const sx_end *e = t->end;
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < HALVES; v++) acc[i][v] = t->add ? half_load(c + i * ldc + v * 8, v, last) : (half_f){0};
    if (e && e->row[1])
        SX_UNROLL for (int i = 0; i < R; i++) __builtin_prefetch(op[1] + i * e->row[1]), __builtin_prefetch(op[1] + i * e->row[1] + 16);
    for (int64_t done = 0;;) {
        _Pragma("clang loop unroll(disable)") for (ptrdiff_t at = (ptrdiff_t)t->run; at > 0; at--) {
            half_f bv[HALVES];
            SX_UNROLL for (int v = 0; v < HALVES; v++) bv[v] = *(const half_any *)(b + HALF_AT(v));
            __builtin_prefetch(b + AHEAD * bs), __builtin_prefetch(b + t->ps + AHEAD * bs);
            b += bs;
            SX_UNROLL for (int i = 0; i < R; i++) {
                float x = group[i / SHARING][i % SHARING * rs];
                SX_UNROLL for (int v = 0; v < HALVES; v++) acc[i][v] += x * bv[v];
            }
            group[0]++, group[1]++;
        }
        if (++done == t->runs) break;
        group[0] += t->jump[done - 1], group[1] += t->jump[done - 1];
    }
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < HALVES; v++) {
            half_f x = acc[i][v];
            if (e) {
                x = x + half_load(op[0] + i * e->row[0] + v * 8, v, last) + half_load(op[1] + i * e->row[1] + v * 8, v, last);
                x = (half_f)_mm256_min_ps((__m256)((half_f){0} + e->hi), _mm256_max_ps((__m256)((half_f){0} + e->lo), (__m256)x));
            }
            if (v < 2 || last == 8) *(half_any *)(c + i * ldc + v * 8) = x;
            else _mm256_mask_storeu_ps(c + i * ldc + v * 8, (__mmask8)((1u << last) - 1), (__m256)x);
        }
}

#define MICRO_HALVES(R) static void halves_##R(const part *t, const float *a, const float *b, float *c, int last, const float *const *op) { micro_halves(R, t, a, b, c, last, op); }
MICRO_HALVES(1) MICRO_HALVES(2) MICRO_HALVES(3) MICRO_HALVES(4) MICRO_HALVES(5) MICRO_HALVES(6)
static void (*const HALVES_OF[SX_MR / 2])(const part *, const float *, const float *, float *, int, const float *const *) = {halves_1, halves_2, halves_3, halves_4, halves_5, halves_6};
#endif

static void micro_keep(const part *t, const float *a, const float *b, float *c, const float *const *op, float *keep, int64_t keep_ps) {
    micro(SX_MR, SX_NV, t, a, b, c, SX_GW, op, (const char *)a, 0, keep, keep_ps);
}

/* The end's operands for row i and column j, given those of row 0 and column 0. */
SX_INLINE void move(const part *t, const float *const *op, int64_t i, int64_t j, const float **to) {
    for (int o = 0; o < SX_SUM_OPERANDS && t->end; o++) to[o] = op[o] + i * t->end->row[o] + j * t->end->col[o];
}

/* Rows [i, i + r) of the columns from x on; `ahead`: the next tile's rows of A are asked for. */
SX_INLINE void tile(const part *t, const float *a, int64_t i, int64_t r, const float *b, int64_t x, int64_t cols, float *c, const float *const *op, int ahead) {
    int v = (int)sx_ceil_div(sx_min64(SX_NR, cols - x), SX_GW), last = (int)(sx_min64(SX_NR, cols - x)) - (v - 1) * SX_GW;
    const float *at[SX_SUM_OPERANDS] = {0, 0}, *rows = a + i * t->rs;
    move(t, op, i, x, at);
#if defined(__AVX512VL__)
    if (v == 2 && last <= 8) {
        for (int64_t from = 0, n; from < r; from += n) {
            n = from ? r - from : (r + 1) / 2;
            const float *here[SX_SUM_OPERANDS] = {0, 0};
            move(t, at, from, 0, here);
            HALVES_OF[n - 1](t, rows + from * t->rs, b + x / SX_PANEL * t->ps + x % SX_PANEL, c + (i + from) * t->ldc + x, last, here);
        }
        return;
    }
#endif
    const char *next = (const char *)(rows + (ahead ? r * t->rs : 0));
    int64_t stride = ahead ? 64 : 0;
    if (!ahead && t->coming && t->coming->at < t->coming->end) next = t->coming->at, stride = 64, t->coming->at += 64 * t->run * t->runs;
    MICRO_OF[r - 1][v - 1](t, rows, b + x / SX_PANEL * t->ps + x % SX_PANEL, c + i * t->ldc + x, last, at, next, stride);
}

/* Rows `from` to `rows` of one line in micro-tiles of nearly the same height. op: where the end's operands lie for the line's first element.
   Columns innermost: a tile's rows of A stay in the first-level cache while the panels of B come from the second. */
static void cover(const part *t, const float *a, int64_t from, int64_t rows, const float *b, int64_t cols, float *c, const float *const *op) {
    for (int64_t i = from, tiles = sx_ceil_div(rows - from, SX_MR); tiles > 0; tiles--) {
        int64_t r = sx_ceil_div(rows - i, tiles);
        for (int64_t x = 0; x < cols; x += SX_NR) tile(t, a, i, r, b, x, cols, c, op, t->ahead && x + SX_NR >= cols);
        i += r;
    }
}
#endif

/* ---- few rows: every element of B is used R times, so what counts is reading B in order ---- */
SX_INLINE sx_f widened(const char *p, int dtype, int64_t at) {
    if (dtype == SX_FLOAT) return sx_fload((const float *)p + at);
    return dtype == SX_FLOAT16 ? sx_fwiden_f16((const uint16_t *)p + at) : sx_fwiden_bf16((const uint16_t *)p + at);
}

/* P packed panels, `next` bytes apart; U steps of K at once, each with its own accumulators, hide the latency of the additions. All panels of a product must take the same U:
   columns summed in another order would differ in the last bits, which a softmax of large values shows. onto: C has the sums of earlier steps of K (one row, U of 1). */
#define GEMV_V (SX_PANEL / SX_GW)
SX_INLINE void gemv_panel(const int P, const int R, const int U, const int dtype, const float *a, int64_t rs, const char *b, int64_t next, int64_t k, float *c, int64_t ldc, const int onto) {
    sx_f acc[2][GEMV_ROWS][8][GEMV_V];
    SX_UNROLL for (int p = 0; p < P; p++)
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int u = 0; u < U; u++)
                SX_UNROLL for (int v = 0; v < GEMV_V; v++) acc[p][i][u][v] = onto ? sx_fload(c + p * SX_PANEL + v * SX_GW) : sx_fsplat(0);
    int64_t at = 0;
    for (; at + U <= k; at += U) {
        SX_UNROLL for (int u = 0; u < U; u++) {
            SX_UNROLL for (int p = 0; p < P; p++)
                SX_UNROLL for (int v = 0; v < GEMV_V; v++) {
                    sx_f bv = widened(b + p * next, dtype, (at + u) * SX_PANEL + v * SX_GW);
                    SX_UNROLL for (int i = 0; i < R; i++) acc[p][i][u][v] += sx_fsplat(a[i * rs + at + u]) * bv;
                }
        }
    }
    for (; at < k; at++)
        SX_UNROLL for (int p = 0; p < P; p++)
            SX_UNROLL for (int v = 0; v < GEMV_V; v++) {
                sx_f bv = widened(b + p * next, dtype, at * SX_PANEL + v * SX_GW);
                SX_UNROLL for (int i = 0; i < R; i++) acc[p][i][0][v] += sx_fsplat(a[i * rs + at]) * bv;
            }
    SX_UNROLL for (int p = 0; p < P; p++)
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < GEMV_V; v++) {
                sx_f sum = acc[p][i][0][v];
                SX_UNROLL for (int u = 1; u < U; u++) sum += acc[p][i][u][v];
                sx_fstore(c + i * ldc + p * SX_PANEL + v * SX_GW, sum);
            }
}

#define GEMV(R, dtype) gemv_panel(1, R, STEPS(R), dtype, a, rs, b, 0, k, c, ldc, 0)
#ifdef __wasm__ /* one row goes through two panels at once (gemv_packed), which is as many chains; narrow B takes one row at a time, or its variants would be most of this file's bytes */
#define STEPS(R) 1
#define GEMV_ANY(R) GEMV(R, SX_FLOAT)
static void gemv_narrow(int rows, int dtype, const float *a, int64_t rs, const char *b, int64_t k, float *c, int64_t ldc) {
    for (; rows; rows--, a += rs, c += ldc)
        if (dtype == SX_FLOAT16) GEMV(1, SX_FLOAT16);
        else GEMV(1, SX_BFLOAT16);
}
#else
#define STEPS(R) (8 / (R * GEMV_V) > 0 ? 8 / (R * GEMV_V) : 1)
#define GEMV_ANY(R) (dtype == SX_FLOAT ? GEMV(R, SX_FLOAT) : dtype == SX_FLOAT16 ? GEMV(R, SX_FLOAT16) : GEMV(R, SX_BFLOAT16))
#endif
static void gemv_one(int rows, int dtype, const float *a, int64_t rs, const char *b, int64_t k, float *c, int64_t ldc) {
#ifdef __wasm__
    if (dtype != SX_FLOAT) {
        gemv_narrow(rows, dtype, a, rs, b, k, c, ldc);
        return;
    }
#endif
    if (rows == 1) GEMV_ANY(1);
    else if (rows == 2) GEMV_ANY(2);
    else if (rows == 3) GEMV_ANY(3);
    else GEMV_ANY(4);
}

#ifdef __wasm__
/* One row through AT_ONCE panels, BLOCK steps of K of two of them and then of the next two. There is no prefetch instruction and pages have 4 KB, at whose ends the processor's own prefetcher starts
   anew: it runs ahead in one pair while the other is read (4096²: 22 → 29 GB/s of 30). Returns the columns done, pairs of panels. */
static int64_t gemv_streams(const char *b, ptrdiff_t panel, const float *a, ptrdiff_t k, int64_t columns, float *c) {
    enum { AT_ONCE = 4, BLOCK = 32 };
    ptrdiff_t left = (ptrdiff_t)(columns / (2 * SX_PANEL)) * 2;
    for (ptrdiff_t n; left > 0; left -= n, b += n * panel, c += n * SX_PANEL) {
        n = left < AT_ONCE ? left : AT_ONCE;
        sx_zero_row(c, n * SX_PANEL);
        for (ptrdiff_t at = 0; at < k; at += BLOCK)
            for (ptrdiff_t p = 0; p < n; p += 2)
                gemv_panel(2, 1, 1, SX_FLOAT, a + at, 0, b + p * panel + at * SX_PANEL * 4, panel, k - at < BLOCK ? k - at : BLOCK, c + p * SX_PANEL, 0, 1);
    }
    return columns / (2 * SX_PANEL) * 2 * SX_PANEL;
}
#endif

static void gemv_packed(const sx_gemm *g, const float *a, int64_t rs, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc) {
    int64_t panel = g->k * SX_PANEL * sx_size_of(g->b_dtype);
    int64_t j = 0;
#ifdef __wasm__
    if (mc == 1 && g->b_dtype == SX_FLOAT && !g->add) j = gemv_streams(g->b + n0 / SX_PANEL * panel, (ptrdiff_t)panel, a, (ptrdiff_t)g->k, nc, c);
#endif
    for (; j < nc; j += SX_PANEL) {
        float sums[GEMV_ROWS * SX_PANEL];
        gemv_one((int)mc, g->b_dtype, a, rs, g->b + (n0 + j) / SX_PANEL * panel, g->k, sums, SX_PANEL);
        int64_t cols = sx_min64(SX_PANEL, nc - j);
        for (int64_t i = 0; i < mc; i++)
            for (int64_t x = 0; x < cols; x++) c[i * ldc + j + x] = g->add ? c[i * ldc + j + x] + sums[i * SX_PANEL + x] : sums[i * SX_PANEL + x];
    }
}

/* B as rows: four of them are added to the sums, which stay in the first-level cache, so B streams in as it lies. */
#define ROWS_AT_ONCE 4
static void gemv_rows(const sx_gemm *g, const float *a, int64_t rs, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc) {
    const float *b = (const float *)g->b + n0;
    if (!g->add)
        for (int64_t i = 0; i < mc; i++)
            for (int64_t j = 0; j < nc; j++) c[i * ldc + j] = 0;
    for (int64_t at = 0; at < g->k; at += ROWS_AT_ONCE) {
        int64_t count = sx_min64(ROWS_AT_ONCE, g->k - at);
        const float *row[ROWS_AT_ONCE];
        for (int u = 0; u < ROWS_AT_ONCE; u++) row[u] = b + (at + (u < count ? u : 0)) * g->b_row;
        for (int64_t i = 0; i < mc; i++) {
            float *to = c + i * ldc;
            const float *x = a + i * rs + at;
            int64_t j = 0;
            if (count == ROWS_AT_ONCE) {
                sx_f x0 = sx_fsplat(x[0]), x1 = sx_fsplat(x[1]), x2 = sx_fsplat(x[2]), x3 = sx_fsplat(x[3]);
                for (; j + SX_GW <= nc; j += SX_GW) {
                    if (i == 0 && j % SX_PANEL == 0) /* the next four rows: no hardware prefetcher follows such strides */
                        for (int u = 0; u < ROWS_AT_ONCE; u++) __builtin_prefetch(row[u] + ROWS_AT_ONCE * g->b_row + j);
                    sx_fstore(to + j, sx_fload(to + j) + (x0 * sx_fload(row[0] + j) + x1 * sx_fload(row[1] + j)) + (x2 * sx_fload(row[2] + j) + x3 * sx_fload(row[3] + j)));
                }
            }
            for (; j < nc; j++)
                for (int64_t u = 0; u < count; u++) to[j] += x[u] * row[u][j];
        }
    }
}

/* B contiguous along K: dot products, four columns at once. */
SX_INLINE void dots(const int J, const float *a, const float *b, int64_t b_col, int64_t k, float *to, int add) {
    sx_f acc[4][2];
    SX_UNROLL for (int j = 0; j < J; j++) acc[j][0] = acc[j][1] = sx_fsplat(0);
    int64_t at = 0;
    for (; at + 2 * SX_GW <= k; at += 2 * SX_GW) {
        sx_f x0 = sx_fload(a + at), x1 = sx_fload(a + at + SX_GW);
        SX_UNROLL for (int j = 0; j < J; j++) {
            acc[j][0] += x0 * sx_fload(b + j * b_col + at);
            acc[j][1] += x1 * sx_fload(b + j * b_col + at + SX_GW);
        }
    }
    SX_UNROLL for (int j = 0; j < J; j++) {
        float sum = sx_fsum(acc[j][0] + acc[j][1]);
        for (int64_t i = at; i < k; i++) sum += a[i] * b[j * b_col + i];
        to[j] = add ? to[j] + sum : sum;
    }
}

static void gemv_dots(const sx_gemm *g, const float *a, int64_t rs, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc) {
    const float *b = (const float *)g->b + n0 * g->b_col;
    int64_t j = 0;
    for (; j + 4 <= nc; j += 4)
        for (int64_t i = 0; i < mc; i++) dots(4, a + i * rs, b + j * g->b_col, g->b_col, g->k, c + i * ldc + j, g->add);
    for (; j < nc; j++)
        for (int64_t i = 0; i < mc; i++) dots(1, a + i * rs, b + j * g->b_col, g->b_col, g->k, c + i * ldc + j, g->add);
}

/* ---- operands ---- */
static int plain_rows(const sx_gemm *g) { return !g->b_packed && !g->panel && g->b_dtype == SX_FLOAT && g->b_col == 1; }
static int plain_columns(const sx_gemm *g) { return !g->b_packed && !g->panel && g->b_dtype == SX_FLOAT && g->b_row == 1; }
static int few_rows(const sx_gemm *g, int64_t mc) { return mc <= GEMV_ROWS && (g->b_packed || plain_rows(g) || plain_columns(g)); }

/* A is used where it lies if it is contiguous along K and its rows do not all fall into the same cache sets: those of few rows (a tile's in WebAssembly) may fall into some. */
static int direct(const sx_gemm *g, int64_t mc) {
    if (g->rows || g->a_dtype != SX_FLOAT || (g->a_col != 1 && g->k > 1)) return 0;
    return mc <= GEMV_ROWS || g->a_row % SAME_SETS != 0 || g->k < 64;
}

void SX_NAME(sx_gemm_transpose)(const float *from, int64_t from_ld, int64_t cols, int64_t count, float *to, int64_t to_ld) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        int64_t j = 0;
        for (; j + 4 <= cols; j += 4) sx_ftranspose4(from + j * from_ld + i, from_ld, to + i * to_ld + j, to_ld);
        for (; j < cols; j++)
            for (int u = 0; u < 4; u++) to[(i + u) * to_ld + j] = from[j * from_ld + i + u];
    }
    for (; i < count; i++)
        for (int64_t j = 0; j < cols; j++) to[i * to_ld + j] = from[j * from_ld + i];
}

static void copy_rows(const sx_gemm *g, int64_t row, int64_t rows, int64_t at, int64_t count, float *to, int64_t ld) {
    int64_t size = sx_size_of(g->a_dtype);
    if (g->rows) {
        g->rows(g->rows_source, row, rows, at, count, to, ld);
    } else if (g->a_row == 1 && g->a_dtype == SX_FLOAT) {
        SX_NAME(sx_gemm_transpose)((const float *)g->a + row + at * g->a_col, g->a_col, count, rows, to, ld);
    } else if (SX_GW > 4 && g->a_row == 1 && g->a_col != 1) { /* transposed: read along rows, 16 at a time so that what is written stays near */
        for (int64_t i = 0; i < rows; i += 16)
            for (int64_t k = 0; k < count; k++) {
                const char *from = g->a + (row + i + (at + k) * g->a_col) * size;
                for (int64_t y = 0; y < sx_min64(16, rows - i); y++) to[(i + y) * ld + k] = sx_element(from, g->a_dtype, y);
            }
    } else {
        for (int64_t i = 0; i < rows; i++) sx_widen_row(g->a + ((row + i) * g->a_row + at * g->a_col) * size, g->a_dtype, g->a_col, count, to + i * ld);
    }
}

/* One panel of B in float: K block [at, at + count) of 16 columns from n, zeros beyond N. */
static void copy_panel(const sx_gemm *g, int64_t n, int64_t at, int64_t count, float *to) {
    int64_t cols = sx_min64(SX_PANEL, g->n - n), size = sx_size_of(g->b_dtype);
    if (g->b_packed) {
        sx_widen_row(g->b + (n / SX_PANEL * g->k + at) * SX_PANEL * size, g->b_dtype, 1, count * SX_PANEL, to);
        return;
    }
    if (cols < SX_PANEL)
        for (int64_t i = 0; i < count * SX_PANEL; i++) to[i] = 0;
    if (g->panel) g->panel(g->panel_source, n, cols, at, count, to);
    else if (plain_columns(g)) SX_NAME(sx_gemm_transpose)((const float *)g->b + at + n * g->b_col, g->b_col, cols, count, to, SX_PANEL);
    else if (cols == SX_PANEL && g->b_col == 1)
        for (int64_t i = 0; i < count; i++) sx_widen_row(g->b + ((at + i) * g->b_row + n) * size, g->b_dtype, 1, SX_PANEL, to + i * SX_PANEL);
    else
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = 0; j < cols; j++) to[i * SX_PANEL + j] = sx_element(g->b, g->b_dtype, (at + i) * g->b_row + (n + j) * g->b_col);
}

#ifdef SX_BF16
void SX_NAME(sx_gemm_copy_rows)(const sx_gemm *g, int64_t row, int64_t rows, int64_t at, int64_t count, float *to, int64_t ld) { copy_rows(g, row, rows, at, count, to, ld); }
void SX_NAME(sx_gemm_copy_panel)(const sx_gemm *g, int64_t n, int64_t at, int64_t count, float *to) { copy_panel(g, n, at, count, to); }
#endif

/* ---- rectangles ---- */

/* K elements of the block at `at`. Runs longer than a block are cut; shorter ones are taken whole. */
static int64_t k_block(int64_t k, int64_t run) {
    int64_t length = run > 0 && run < k ? run : k;
    if (length < k && length < KC) {
        int64_t runs = k / length, most = KC / length;
        return sx_ceil_div(runs, sx_ceil_div(runs, most)) * length;
    }
    int64_t pieces = sx_max64(1, sx_ceil_div(length, KC));
    return sx_min64(length, sx_round_up(sx_ceil_div(length, pieces), 16));
}

SX_SMALL sx_gemm_cut SX_NAME(sx_gemm_cut_for)(const sx_gemm *g, int64_t batch) {
    enum { WANTED = 16, LEAST = SX_GW > 4 ? 1 << 20 : 1 << 18, MC = 480, NC = 1024, MOST = 1 << 28 }; /* rectangles for a large product, multiplications for any; the largest rectangle, and its multiplications: 5 ms */
    sx_gemm_cut cut = {g->m, g->n, 1, 1};
    if (g->m == 0 || g->n == 0) return cut;
    int few = few_rows(g, g->m);
    int64_t least_m = sx_min64(g->m, 3 * SX_MR), least_n = sx_min64(g->n, few && plain_rows(g) ? 1024 : 4 * SX_PANEL), least = few ? 1 << 16 : LEAST;
    int a_lies = g->rows || direct(g, g->m), b_lies = g->b_packed && g->b_dtype == SX_FLOAT;
    int64_t a_cost = g->m * (a_lies ? 1 : 8), b_cost = g->n * (b_lies ? 1 : 8); /* of reading, or copying, A and B once more */
    for (;;) { /* cut where the halves cost less to read */
        cut.mc = sx_min64(cut.mc, sx_round_up(sx_ceil_div(g->m, sx_ceil_div(g->m, cut.mc)), SX_MR));
        cut.nc = sx_min64(cut.nc, sx_round_up(sx_ceil_div(g->n, sx_ceil_div(g->n, cut.nc)), SX_PANEL));
        int64_t down = sx_ceil_div(g->m, cut.mc), across = sx_ceil_div(g->n, cut.nc), large = (cut.mc > MC && !few) || cut.nc > NC || cut.mc * cut.nc * sx_max64(g->k, 1) > MOST;
        if (!large && (batch * down * across >= WANTED || cut.mc * cut.nc * sx_max64(g->k, 1) < 2 * least)) break;
        int rows_can = cut.mc >= 2 * least_m && !few, columns_can = cut.nc >= 2 * least_n;
        if (rows_can && (!columns_can || down * b_cost <= across * a_cost)) cut.mc = sx_ceil_div(cut.mc, 2);
        else if (columns_can) cut.nc = sx_ceil_div(cut.nc, 2);
        else break;
    }
    if (cut.nc < g->n) cut.nc = sx_round_up(cut.nc, SX_PANEL);
    cut.down = sx_ceil_div(g->m, cut.mc);
    cut.across = sx_ceil_div(g->n, cut.nc);
    return cut;
}

static int64_t copied_rows(const sx_gemm *g, int64_t mc) { return direct(g, mc) ? 0 : mc * ((few_rows(g, mc) ? g->k : k_block(g->k, 0)) + SKEW); }

int64_t SX_NAME(sx_gemm_scratch)(const sx_gemm *g, int64_t mc, int64_t nc) {
#ifdef SX_BF16
    if (g->bf16) return SX_NAME(sx_bf16_scratch)(g, nc);
#endif
    (void)nc;
    int64_t a = sx_max64(copied_rows(g, mc), copied_rows(g, sx_min64(mc, GEMV_ROWS))); /* the last rectangle may have few rows */
    return 4 * sx_round_up(a + SX_WIDE * KC, 16);
}

/* One K block of all lines. r: A and C of the rectangle, A at the block's first element. panels: room for SX_WIDE columns of B. */
static void k_part(const sx_gemm *g, const sx_gemm_rows *r, part *t, int64_t at, int64_t count, int64_t n0, int64_t nc, float *panels) {
    int packed = g->b_packed && g->b_dtype == SX_FLOAT;
    int64_t wide = packed ? sx_max64(SX_WIDE, sx_round_up(sx_ceil_div(nc, sx_ceil_div(nc * count, L2)), SX_WIDE)) : SX_WIDE;
    for (int64_t j = 0; j < nc; j += wide) {
        int64_t cols = sx_min64(wide, nc - j), done = 0;
        const float *b = panels, *first[SX_SUM_OPERANDS] = {0, 0}, *op[SX_SUM_OPERANDS] = {0, 0};
        if (t->end) move(t, t->end->data, 0, j, first);
        t->ps = g->k * SX_PANEL, t->bs = SX_PANEL;
        if (packed) {
            b = (const float *)g->b + ((n0 + j) / SX_PANEL * g->k + at) * SX_PANEL;
        } else if (plain_rows(g) && cols == SX_WIDE) {
            b = (const float *)g->b + at * g->b_row + n0 + j, t->ps = SX_PANEL, t->bs = g->b_row;
            if (r->lines == 1 && r->width > 2 * SX_MR) {
                int64_t ps = count * SX_PANEL;
                for (int64_t x = 0; x < cols; x += SX_NR) {
                    move(t, first, 0, x, op);
                    micro_keep(t, r->a, b + x, r->c + j + x, op, panels + x / SX_PANEL * ps + x % SX_PANEL, ps);
                }
                b = panels, t->ps = ps, t->bs = SX_PANEL, done = SX_MR;
            }
        } else {
            t->ps = count * SX_PANEL;
            for (int64_t p = 0; p < cols; p += SX_PANEL) copy_panel(g, n0 + j + p, at, count, panels + p * count);
        }
        for (int64_t line = 0; line < r->lines; line++) {
            for (int o = 0; o < SX_SUM_OPERANDS && t->end; o++) op[o] = first[o] + line * t->end->line[o];
            cover(t, r->a + line * r->a_line, done, r->width, b, cols, r->c + line * r->c_line + j, op);
        }
    }
}

/* K is 0: nothing is added. */
static void nothing(const sx_gemm *g, const sx_gemm_rows *r, int64_t nc) {
    for (int64_t line = 0; line < r->lines; line++) {
        float *c = r->c + line * r->c_line;
        for (int64_t i = 0; i < r->width && !g->add; i++) sx_zero_row(c + i * r->c_row, nc);
        if (r->end) sx_end_rows(r->end, line, c, r->c_row, r->width, nc);
    }
}

void SX_NAME(sx_gemm_lines)(const sx_gemm *g, const sx_gemm_rows *r, int64_t n0, int64_t nc, char *scratch) {
    int64_t block = k_block(g->k, r->run), run = r->run ? r->run : g->k, jump[SX_GEMM_RUNS], count;
    sx_gemm_rows here = *r;
    if (g->k == 0) nothing(g, r, nc);
#ifdef SX_BF16
    if (g->k && g->bf16) {
        SX_NAME(sx_bf16_lines)(g, r, n0, nc, scratch);
        return;
    }
#endif
    for (int64_t at = 0; at < g->k; at += count) {
        int64_t first = at / run;
        count = sx_min64(block, g->k - at);
        if (block < run) count = sx_min64(count, run - at % run); /* a block lies in one run */
        part t = {.rs = r->a_row, .run = sx_min64(run, count), .runs = sx_max64(1, count / run), .ldc = r->c_row, .jump = jump, .add = g->add || at > 0, .ahead = r->a_row == g->k && count == g->k,
                  .end = at + count >= g->k ? r->end : 0, .coming = g->coming};
        for (int64_t i = 0; i + 1 < t.runs; i++) jump[i] = r->runs[first + i + 1] - r->runs[first + i] - run;
        here.a = r->a + (r->runs ? r->runs[first] : 0) + at % run;
        k_part(g, &here, &t, at, count, n0, nc, (float *)scratch);
    }
}

void SX_NAME(sx_gemm_block)(const sx_gemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc, char *scratch) {
#ifdef SX_BF16
    if (g->k && g->bf16) {
        SX_NAME(sx_bf16_block)(g, m0, mc, n0, nc, c, ldc, scratch);
        return;
    }
#endif
    float *copied = (float *)scratch + SX_WIDE * KC; /* behind B's panels */
    sx_gemm_rows r = {.lines = 1, .width = mc, .a = (const float *)g->a + m0 * g->a_row, .a_row = g->a_row, .c = c, .c_row = ldc, .end = g->end};
    int in_place = direct(g, mc);
    if (few_rows(g, mc) && g->k) {
        if (!in_place) copy_rows(g, m0, mc, 0, g->k, copied, r.a_row = g->k + SKEW), r.a = copied;
        if (g->b_packed) gemv_packed(g, r.a, r.a_row, mc, n0, nc, c, ldc);
        else if (plain_rows(g)) gemv_rows(g, r.a, r.a_row, mc, n0, nc, c, ldc);
        else gemv_dots(g, r.a, r.a_row, mc, n0, nc, c, ldc);
        if (g->end) sx_end_rows(g->end, 0, c, ldc, mc, nc);
        return;
    }
    if (in_place || !g->k) {
        SX_NAME(sx_gemm_lines)(g, &r, n0, nc, scratch);
        return;
    }
    int64_t kc = k_block(g->k, 0);
    r.a = copied;
    for (int64_t at = 0; at < g->k; at += kc) {
        int64_t count = sx_min64(kc, g->k - at);
        part t = {.rs = kc + SKEW, .run = count, .runs = 1, .ldc = ldc, .add = g->add || at > 0, .end = at + count >= g->k ? g->end : 0, .coming = g->coming};
        copy_rows(g, m0, mc, at, count, copied, kc + SKEW);
        k_part(g, &r, &t, at, count, n0, nc, (float *)scratch);
    }
}
