/* gemm.c: the float matrix product of gemm.h. */
#include "gemm.h"

#define KC 256      /* K block: SX_NR · KC floats of B are what a micro-tile re-reads */
#define MC 192      /* rows of a rectangle */
#define NC 1024     /* columns of a rectangle */
#define SKEW 16     /* copied rows of A do not lie a power of two apart: they would fall into the same cache sets */
#define GEMV_ROWS 4 /* up to here B is read once and memory is the limit */

/* ---- micro-tile: R rows, V registers of columns, `last` lanes of the last one stored. B: row k at b + k · bs; registers of one panel lie side by side, panels ps apart. ---- */
#define B_AT(v) ((v) * SX_GW / SX_PANEL * ps + (v) * SX_GW % SX_PANEL)
SX_INLINE void micro(const int R, const int V, const float *a, int64_t rs, const float *b, int64_t ps, int64_t bs, int64_t k, float *c, int64_t ldc, int add, int last, float *keep, int64_t keep_ps) {
    sx_f acc[SX_MR][SX_NV];
    const float *group[(SX_MR + 2) / 3]; /* three rows share a pointer: x86 addresses p, p + rs and p + 2 rs */
    SX_UNROLL for (int g = 0; g < (R + 2) / 3; g++) {
        group[g] = a + 3 * g * rs;
        __asm__("" : "+r"(group[g])); /* or the compiler keeps one pointer a row and runs out of registers */
    }
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] = sx_fsplat(0);
    _Pragma("clang loop unroll(disable)") for (int64_t at = 0; at < k; at++) {
        sx_f bv[SX_NV];
        SX_UNROLL for (int v = 0; v < V; v++) bv[v] = sx_fload(b + B_AT(v));
        SX_UNROLL for (int v = 0; v < V; v += SX_PANEL / SX_GW) __builtin_prefetch(b + B_AT(v) + 8 * bs);
        if (keep) { /* B as it lies becomes the panels the next rows use: stores are free here, a copy before would not be */
            SX_UNROLL for (int v = 0; v < V; v++) sx_fstore(keep + v * SX_GW / SX_PANEL * keep_ps + v * SX_GW % SX_PANEL, bv[v]);
            keep += SX_PANEL;
        }
        b += bs;
        SX_UNROLL for (int i = 0; i < R; i++) {
            sx_f x = sx_fsplat(group[i / 3][i % 3 * rs + at]);
            SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] += x * bv[v];
        }
    }
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < V; v++) {
            float *to = c + i * ldc + v * SX_GW;
            if (v == V - 1 && last != SX_GW) sx_fstore_part(to, add ? sx_fload_part(to, last) + acc[i][v] : acc[i][v], last);
            else sx_fstore(to, add ? sx_fload(to) + acc[i][v] : acc[i][v]);
        }
}

typedef void (*micro_fn)(const float *a, int64_t rs, const float *b, int64_t ps, int64_t bs, int64_t k, float *c, int64_t ldc, int add, int last);
#define MICRO(R, V) \
    static void micro_##R##_##V(const float *a, int64_t rs, const float *b, int64_t ps, int64_t bs, int64_t k, float *c, int64_t ldc, int add, int last) { micro(R, V, a, rs, b, ps, bs, k, c, ldc, add, last, (float *)0, 0); }
#if SX_NV == 4
#define MICROS(R) MICRO(R, 1) MICRO(R, 2) MICRO(R, 3) MICRO(R, 4)
#define ROW(R) {micro_##R##_1, micro_##R##_2, micro_##R##_3, micro_##R##_4}
#else
#define MICROS(R) MICRO(R, 1) MICRO(R, 2)
#define ROW(R) {micro_##R##_1, micro_##R##_2}
#endif
MICROS(1) MICROS(2) MICROS(3) MICROS(4)
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
    ROW(1), ROW(2), ROW(3), ROW(4),
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

static void micro_keep(const float *a, int64_t rs, const float *b, int64_t bs, int64_t k, float *c, int64_t ldc, int add, float *keep, int64_t keep_ps) {
    micro(SX_MR, SX_NV, a, rs, b, SX_PANEL, bs, k, c, ldc, add, SX_GW, keep, keep_ps);
}

/* All rows of one K block for `cols` ≤ SX_NR columns, in micro-tiles of nearly the same height. */
static void column(const float *a, int64_t rs, int64_t rows, const float *b, int64_t ps, int64_t bs, int64_t k, int64_t cols, float *c, int64_t ldc, int add) {
    int v = (int)sx_ceil_div(cols, SX_GW), last = (int)cols - (v - 1) * SX_GW;
    for (int64_t i = 0, tiles = sx_ceil_div(rows, SX_MR); tiles > 0; tiles--) {
        int64_t r = sx_ceil_div(rows - i, tiles);
        MICRO_OF[r - 1][v - 1](a + i * rs, rs, b, ps, bs, k, c + i * ldc, ldc, add, last);
        i += r;
    }
}

/* ---- few rows: every element of B is used R times, so what counts is reading B in order ---- */
SX_INLINE sx_f widened(const char *p, int dtype, int64_t at) {
    if (dtype == SX_FLOAT) return sx_fload((const float *)p + at);
    return dtype == SX_FLOAT16 ? sx_fwiden_f16((const uint16_t *)p + at) : sx_fwiden_bf16((const uint16_t *)p + at);
}

/* One packed panel; U steps of K at once, each with its own accumulators, hide the latency of the additions. */
#define GEMV_V (SX_PANEL / SX_GW)
SX_INLINE void gemv_panel(const int R, const int U, const int dtype, const float *a, int64_t rs, const char *b, int64_t k, float *c, int64_t ldc) {
    sx_f acc[GEMV_ROWS][8][GEMV_V];
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int u = 0; u < U; u++)
            SX_UNROLL for (int v = 0; v < GEMV_V; v++) acc[i][u][v] = sx_fsplat(0);
    int64_t at = 0;
    for (; at + U <= k; at += U) {
        SX_UNROLL for (int u = 0; u < U; u++) {
            __builtin_prefetch(b + ((at + u) * SX_PANEL + 512) * (dtype == SX_FLOAT ? 4 : 2));
            SX_UNROLL for (int v = 0; v < GEMV_V; v++) {
                sx_f bv = widened(b, dtype, (at + u) * SX_PANEL + v * SX_GW);
                SX_UNROLL for (int i = 0; i < R; i++) acc[i][u][v] += sx_fsplat(a[i * rs + at + u]) * bv;
            }
        }
    }
    for (; at < k; at++)
        SX_UNROLL for (int v = 0; v < GEMV_V; v++) {
            sx_f bv = widened(b, dtype, at * SX_PANEL + v * SX_GW);
            SX_UNROLL for (int i = 0; i < R; i++) acc[i][0][v] += sx_fsplat(a[i * rs + at]) * bv;
        }
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < GEMV_V; v++) {
            sx_f sum = acc[i][0][v];
            SX_UNROLL for (int u = 1; u < U; u++) sum += acc[i][u][v];
            sx_fstore(c + i * ldc + v * SX_GW, sum);
        }
}

#define STEPS(R) (8 / (R * GEMV_V) > 0 ? 8 / (R * GEMV_V) : 1)
#define GEMV(R, dtype) gemv_panel(R, STEPS(R), dtype, a, rs, b, k, c, ldc)
#define GEMV_ANY(R) (dtype == SX_FLOAT ? GEMV(R, SX_FLOAT) : dtype == SX_FLOAT16 ? GEMV(R, SX_FLOAT16) : GEMV(R, SX_BFLOAT16))
static void gemv_one(int rows, int dtype, const float *a, int64_t rs, const char *b, int64_t k, float *c, int64_t ldc) {
    if (rows == 1) GEMV_ANY(1);
    else if (rows == 2) GEMV_ANY(2);
    else if (rows == 3) GEMV_ANY(3);
    else GEMV_ANY(4);
}

static void gemv_packed(const sx_gemm *g, const float *a, int64_t rs, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc) {
    int64_t panel = g->k * SX_PANEL * sx_size_of(g->b_dtype);
    for (int64_t j = 0; j < nc; j += SX_PANEL) {
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

/* A is used where it lies if it is contiguous along K and its rows do not all fall into the same cache sets. */
static int direct(const sx_gemm *g, int64_t mc) {
    if (g->rows || g->a_dtype != SX_FLOAT || (g->a_col != 1 && g->k > 1)) return 0;
    return mc <= GEMV_ROWS || g->a_row % 1024 != 0 || g->k < 64;
}

/* to[i * to_ld + j] = from[j * from_ld + i], i < count, j < cols. */
static void transpose(const float *from, int64_t from_ld, int64_t cols, int64_t count, float *to, int64_t to_ld) {
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
        transpose((const float *)g->a + row + at * g->a_col, g->a_col, count, rows, to, ld);
    } else if (g->a_row == 1 && g->a_col != 1) { /* transposed: read along rows, 16 at a time so that what is written stays near */
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
    else if (plain_columns(g)) transpose((const float *)g->b + at + n * g->b_col, g->b_col, cols, count, to, SX_PANEL);
    else if (cols == SX_PANEL && g->b_col == 1)
        for (int64_t i = 0; i < count; i++) sx_widen_row(g->b + ((at + i) * g->b_row + n) * size, g->b_dtype, 1, SX_PANEL, to + i * SX_PANEL);
    else
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = 0; j < cols; j++) to[i * SX_PANEL + j] = sx_element(g->b, g->b_dtype, (at + i) * g->b_row + (n + j) * g->b_col);
}

/* ---- rectangles ---- */
static int64_t k_block(int64_t k) {
    int64_t blocks = sx_max64(1, sx_ceil_div(k, KC + KC / 4));
    return sx_min64(k, sx_round_up(sx_ceil_div(k, blocks), 16));
}

sx_gemm_cut SX_NAME(sx_gemm_cut_for)(const sx_gemm *g, int64_t batch) {
    enum { WANTED = 16, LEAST = 1 << 20 }; /* rectangles for a large product, multiplications for any */
    sx_gemm_cut cut = {sx_min64(g->m, MC), sx_min64(g->n, NC), 1, 1};
    if (g->m == 0 || g->n == 0) return cut;
    int64_t least_m = sx_min64(cut.mc, 3 * SX_MR), least_n = sx_min64(cut.nc, few_rows(g, g->m) && plain_rows(g) ? 1024 : 4 * SX_PANEL);
    int64_t least = few_rows(g, g->m) ? 1 << 16 : LEAST;
    for (;;) { /* a packed B costs little to read again, so rows are cut unless few; a plain one is packed for each rectangle, so columns are */
        cut.mc = sx_min64(cut.mc, sx_round_up(sx_ceil_div(g->m, sx_ceil_div(g->m, cut.mc)), SX_MR));
        cut.nc = sx_min64(cut.nc, sx_round_up(sx_ceil_div(g->n, sx_ceil_div(g->n, cut.nc)), SX_WIDE));
        int64_t rectangles = batch * sx_ceil_div(g->m, cut.mc) * sx_ceil_div(g->n, cut.nc);
        if (rectangles >= WANTED || cut.mc * cut.nc * sx_max64(g->k, 1) < 2 * least) break;
        int rows_can = cut.mc >= 2 * least_m, columns_can = cut.nc >= 2 * least_n, rows_first = g->b_packed && cut.mc >= cut.nc / 4;
        if (columns_can && !(rows_first && rows_can)) cut.nc /= 2;
        else if (rows_can) cut.mc /= 2;
        else break;
    }
    if (cut.nc < g->n) cut.nc = sx_round_up(cut.nc, SX_PANEL);
    cut.down = sx_ceil_div(g->m, cut.mc);
    cut.across = sx_ceil_div(g->n, cut.nc);
    return cut;
}

static int64_t copied_rows(const sx_gemm *g, int64_t mc) { return direct(g, mc) ? 0 : mc * ((few_rows(g, mc) ? g->k : k_block(g->k)) + SKEW); }

int64_t SX_NAME(sx_gemm_scratch)(const sx_gemm *g, int64_t mc, int64_t nc) {
    (void)nc;
    int64_t a = sx_max64(copied_rows(g, mc), copied_rows(g, sx_min64(mc, GEMV_ROWS))); /* the last rectangle may have few rows */
    return 4 * sx_round_up(a + SX_WIDE * k_block(g->k), 16);
}

void SX_NAME(sx_gemm_block)(const sx_gemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc, char *scratch) {
    float *panels = (float *)scratch; /* of B, this K block */
    int64_t kc = k_block(g->k);
    float *copied = panels + SX_WIDE * kc;
    const float *a = (const float *)g->a + m0 * g->a_row;
    int64_t rs = g->a_row;
    int in_place = direct(g, mc);
    if (g->k == 0) {
        for (int64_t i = 0; i < mc && !g->add; i++)
            for (int64_t j = 0; j < nc; j++) c[i * ldc + j] = 0;
        return;
    }
    if (few_rows(g, mc)) {
        if (!in_place) copy_rows(g, m0, mc, 0, g->k, copied, rs = g->k + SKEW), a = copied;
        if (g->b_packed) gemv_packed(g, a, rs, mc, n0, nc, c, ldc);
        else if (plain_rows(g)) gemv_rows(g, a, rs, mc, n0, nc, c, ldc);
        else gemv_dots(g, a, rs, mc, n0, nc, c, ldc);
        return;
    }
    for (int64_t at = 0; at < g->k; at += kc) {
        int64_t count = sx_min64(kc, g->k - at);
        const float *rows = a + at;
        int add = g->add || at > 0;
        if (!in_place) copy_rows(g, m0, mc, at, count, copied, rs = kc + SKEW), rows = copied;
        for (int64_t j = 0; j < nc; j += SX_WIDE) {
            int64_t cols = sx_min64(SX_WIDE, nc - j), ps = g->k * SX_PANEL, bs = SX_PANEL, done = 0;
            const float *b = panels;
            if (g->b_packed && g->b_dtype == SX_FLOAT) {
                b = (const float *)g->b + ((n0 + j) / SX_PANEL * g->k + at) * SX_PANEL;
            } else if (plain_rows(g) && cols == SX_WIDE) {
                b = (const float *)g->b + at * g->b_row + n0 + j, ps = SX_PANEL, bs = g->b_row;
                if (mc > 2 * SX_MR) {
                    ps = count * SX_PANEL;
                    for (int64_t x = 0; x < cols; x += SX_NR) micro_keep(rows, rs, b + x, bs, count, c + j + x, ldc, add, panels + x / SX_PANEL * ps + x % SX_PANEL, ps);
                    b = panels, bs = SX_PANEL, done = SX_MR;
                }
            } else {
                ps = count * SX_PANEL;
                for (int64_t p = 0; p < cols; p += SX_PANEL) copy_panel(g, n0 + j + p, at, count, panels + p * count);
            }
            for (int64_t x = 0; x < cols; x += SX_NR)
                column(rows + done * rs, rs, mc - done, b + x / SX_PANEL * ps + x % SX_PANEL, ps, bs, count, sx_min64(SX_NR, cols - x), c + done * ldc + j + x, ldc, add);
        }
    }
}
