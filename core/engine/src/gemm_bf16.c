/* gemm_bf16.c: the product of gemm.h with factors rounded to bfloat16 and sums in float (AVX512_BF16's vdpbf16ps), where a session asks for it.

   - Factors are rounded to nearest even; what is below 2^-126 counts as 0, and so do such sums (the instruction's rule). Two neighbours along K make a word, which is multiplied and added at once.
   - B is panels of 16 columns of such words. A constant is put so when a program is first bound (half the float's bytes), anything else a group of columns at a time, which then stays in
     the second-level cache for all rows. A is rounded a tile's rows and a K block at a time, however it lies, into KC · SX_MR words of the first-level cache: no runs, no strides in the inner loop.
   - Tiles of 12 × 32 sums, as in gemm.c; an element's sum has one order (K blocks of shape alone, words in turn), whatever tile it falls into.
   - Zen 4, one core: 1024³ at 209 GFLOP/s of 234 (1.97 times gemm.c's speed), 128 × 768 × 768 at 195, a BERT layer 1.84 times, ResNet-50 1.6 times, a row of 4096 × 4096 2.1 times as fast. */
#include "conv.h"

#ifdef SX_BF16
#define KC 768     /* elements of K in a block, at most: SX_MR rows of them are 18 KB */
#define L2 163840  /* elements of B a group of columns reads for all rows */
#define AHEAD 32   /* words of K that B is asked for early */

#pragma clang attribute push(__attribute__((target("avx512bf16"))), apply_to = function)

typedef int32_t word_any __attribute__((aligned(2), may_alias));

/* ---- micro-tile: R rows, V registers of columns ---- */

/* What all tiles of one K block share. B: panels ps elements apart, `words` pairs of K. */
typedef struct {
    int64_t words, ps, ldc;
    int add;           /* C is added to */
    const sx_end *end; /* what happens to finished sums; NULL: nothing, or they are not finished */
    sx_coming *coming;
} part;

SX_INLINE void micro(const int R, const int V, const part *t, const uint16_t *a, const uint16_t *b, float *c, int last, const float *const *op, const char *next, int64_t stride) {
    __m512 acc[SX_MR][SX_NV];
    const ptrdiff_t ps = (ptrdiff_t)t->ps, ldc = (ptrdiff_t)t->ldc;
    const sx_end *e = t->end;
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < V; v++) {
            if (!t->add) acc[i][v] = _mm512_setzero_ps(), __builtin_prefetch(c + i * ldc + v * SX_GW, 1);
            else acc[i][v] = (__m512)(v == V - 1 && last != SX_GW ? sx_fload_part(c + i * ldc + v * SX_GW, last) : sx_fload(c + i * ldc + v * SX_GW));
            if (e && e->row[1]) __builtin_prefetch(op[1] + i * e->row[1] + v * SX_GW);
        }
    _Pragma("clang loop unroll(disable)") for (const uint16_t *stop = a + 2 * t->words; a != stop; a += 2) {
        __m512bh bv[SX_NV];
        SX_UNROLL for (int v = 0; v < V; v++) bv[v] = (__m512bh)_mm512_loadu_si512(b + v * ps), __builtin_prefetch(b + v * ps + AHEAD * 32);
        __builtin_prefetch(next, 0, 2), next += stride;
        b += 32;
        SX_UNROLL for (int i = 0; i < R; i++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32(*(const word_any *)(a + i * KC));
            SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], x, bv[v]);
        }
    }
    const float *p = op[0], *q = op[1];
    SX_UNROLL for (int i = 0; i < R; i++, c += ldc) {
        SX_UNROLL for (int v = 0; v < V; v++) {
            const int n = v == V - 1 ? last : SX_GW;
            const sx_f sum = e ? sx_ended(e, (sx_f)acc[i][v], p + v * SX_GW, q + v * SX_GW, n) : (sx_f)acc[i][v];
            if (v == V - 1 && last != SX_GW) sx_fstore_part(c + v * SX_GW, sum, last);
            else sx_fstore(c + v * SX_GW, sum);
        }
        if (e) p += e->row[0], q += e->row[1];
    }
}

typedef void (*micro_fn)(const part *t, const uint16_t *a, const uint16_t *b, float *c, int last, const float *const *op, const char *next, int64_t stride);
#define MICRO(R, V) \
    static void micro_##R##_##V(const part *t, const uint16_t *a, const uint16_t *b, float *c, int last, const float *const *op, const char *next, int64_t stride) { \
        micro(R, V, t, a, b, c, last, op, next, stride); \
    }
#define MICROS(R) MICRO(R, 1) MICRO(R, 2)
#define ROW(R) {micro_##R##_1, micro_##R##_2}
MICROS(1) MICROS(2) MICROS(3) MICROS(4) MICROS(5) MICROS(6) MICROS(7) MICROS(8) MICROS(9) MICROS(10) MICROS(11) MICROS(12)
static const micro_fn MICRO_OF[SX_MR][SX_NV] = {ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7), ROW(8), ROW(9), ROW(10), ROW(11), ROW(12)};

/* ---- rounding ---- */

static void round_row(const float *from, int64_t n, uint16_t *to) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i)));
    if (i == n) return;
    const uint32_t mask = (1u << (n - i)) - 1;
    _mm512_mask_storeu_epi16(to + i, mask, (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps((__mmask16)(mask >> 16), from + i + 16), _mm512_maskz_loadu_ps((__mmask16)mask, from + i)));
}

/* A panel: `count` rows of 16 floats, `stride` apart, as words; an odd last one beside zeros. */
static void round_panel(const float *from, int64_t stride, int64_t count, uint16_t *to) {
    static const _Alignas(64) uint16_t TURNS[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i turns = _mm512_load_si512(TURNS);
    for (int64_t i = 0; i < count; i += 2, from += 2 * stride, to += 32) {
        const __m512 second = i + 1 < count ? _mm512_loadu_ps(from + stride) : _mm512_setzero_ps();
        _mm512_storeu_si512(to, _mm512_permutexvar_epi16(turns, (__m512i)_mm512_cvtne2ps_pbh(second, _mm512_loadu_ps(from))));
    }
}

/* ---- operands ---- */
typedef struct {
    const sx_gemm *g;
    const sx_gemm_rows *r;
    int64_t row;   /* the rectangle's first, where rows are asked for */
    int asked;     /* rows come through sx_gemm_copy_rows */
    float *spare;  /* room for SX_MR rows, or a panel, of a K block */
} source;

/* Rows [i, i + rows) of a line, elements [at, at + count) of each, KC apart. */
static void take_rows(const source *s, int64_t line, int64_t i, int64_t rows, int64_t at, int64_t count, uint16_t *to) {
    const sx_gemm_rows *r = s->r;
    if (s->asked) SX_NAME(sx_gemm_copy_rows)(s->g, s->row + i, rows, at, count, s->spare, KC);
    for (int64_t y = 0; y < rows; y++, to += KC) {
        const float *from = r->a + line * r->a_line + (i + y) * r->a_row;
        if (s->asked) round_row(s->spare + y * KC, count, to);
        else if (!r->runs) round_row(from + at, count, to);
        else
            for (int64_t done = 0, n, x = at; done < count; done += n, x += n) {
                n = sx_min64(count - done, r->run - x % r->run);
                round_row(from + r->runs[x / r->run] + x % r->run, n, to + done);
            }
        if (count % 2) to[count] = 0;
    }
}

/* Columns [n, n + 16) of a K block as a panel of words. */
static void take_panel(const source *s, int64_t n, int64_t at, int64_t count, uint16_t *to) {
    const sx_gemm *g = s->g;
    if (g->b_packed) round_panel((const float *)g->b + (n / SX_PANEL * g->k + at) * SX_PANEL, SX_PANEL, count, to);
    else if (!g->panel && g->b_col == 1 && n + SX_PANEL <= g->n) round_panel((const float *)g->b + at * g->b_row + n, g->b_row, count, to);
    else {
        SX_NAME(sx_gemm_copy_panel)(g, n, at, count, s->spare);
        round_panel(s->spare, SX_PANEL, count, to);
    }
}

/* ---- rectangles ---- */
static int64_t k_block(int64_t k) { return sx_round_up(sx_ceil_div(k, sx_max64(1, sx_ceil_div(k, KC))), 32); }
static int64_t columns(int64_t nc, int64_t count) { return sx_round_up(sx_ceil_div(nc, sx_ceil_div(nc * count, L2)), SX_NR); }

int64_t SX_NAME(sx_bf16_scratch)(const sx_gemm *g, int64_t nc) {
    int64_t block = k_block(g->k), panels = g->bf16 == SX_BF16_WORDS ? 0 : sx_min64(sx_round_up(nc, SX_NR) * block, L2 + SX_NR * KC);
    return 2 * SX_MR * KC + 4 * sx_max64(SX_MR * KC, SX_PANEL * block) + 2 * panels;
}

/* Columns [from, to) of the rectangle, which begins at n0 of B. */
static void product(const source *s, int64_t n0, int64_t from, int64_t to, char *scratch) {
    const sx_gemm *g = s->g;
    const sx_gemm_rows *r = s->r;
    int64_t block = k_block(g->k), count;
    uint16_t *rows = (uint16_t *)(scratch + 4 * sx_max64(SX_MR * KC, SX_PANEL * block)), *panels = rows + SX_MR * KC;
    for (int64_t at = 0; at < g->k; at += count) {
        count = sx_min64(block, g->k - at);
        part t = {.words = (count + 1) / 2, .ps = sx_round_up(count, 2) * SX_PANEL, .ldc = r->c_row, .add = g->add || at > 0, .end = at + count >= g->k ? r->end : 0};
        const int64_t wide = columns(to - from, count);
        for (int64_t j = from; j < to; j += wide) {
            const int64_t cols = sx_min64(wide, to - j);
            const uint16_t *b = panels;
            if (g->bf16 == SX_BF16_WORDS) t.ps = sx_round_up(g->k, 2) * SX_PANEL, b = (const uint16_t *)g->b + (n0 + j) / SX_PANEL * t.ps + at * SX_PANEL;
            else
                for (int64_t p = 0; p < cols; p += SX_PANEL) take_panel(s, n0 + j + p, at, count, panels + p / SX_PANEL * t.ps);
            for (int64_t line = 0; line < r->lines; line++)
                for (int64_t i = 0, high, tiles = sx_ceil_div(r->width, SX_MR); tiles > 0; tiles--, i += high) {
                    high = sx_ceil_div(r->width - i, tiles);
                    take_rows(s, line, i, high, at, count, rows);
                    for (int64_t x = 0; x < cols; x += SX_NR) {
                        const int64_t here = sx_min64(SX_NR, cols - x), v = sx_ceil_div(here, SX_GW);
                        const float *op[SX_SUM_OPERANDS] = {0, 0};
                        for (int o = 0; o < SX_SUM_OPERANDS && t.end; o++) op[o] = t.end->data[o] + line * t.end->line[o] + i * t.end->row[o] + (j + x) * t.end->col[o];
                        const char *next = (const char *)rows;
                        int64_t stride = 0;
                        if (g->coming && g->coming->at < g->coming->end) next = g->coming->at, stride = 64, g->coming->at += 64 * t.words;
                        MICRO_OF[high - 1][v - 1](&t, rows, b + x / SX_PANEL * t.ps, r->c + line * r->c_line + i * r->c_row + j + x, (int)(here - (v - 1) * SX_GW), op, next, stride);
                    }
                }
        }
    }
}

void SX_NAME(sx_bf16_lines)(const sx_gemm *g, const sx_gemm_rows *r, int64_t n0, int64_t nc, char *scratch) {
    source s = {g, r, 0, 0, (float *)scratch};
    product(&s, n0, 0, nc, scratch);
}

void SX_NAME(sx_bf16_block)(const sx_gemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float *c, int64_t ldc, char *scratch) {
    sx_gemm_rows r = {.lines = 1, .width = mc, .a = (const float *)g->a + m0 * g->a_row, .a_row = g->a_row, .c = c, .c_row = ldc, .end = g->end};
    source s = {g, &r, m0, g->rows || (g->a_col != 1 && g->k > 1), (float *)scratch};
    const int64_t wide = mc <= SX_BF16_ROWS ? SX_NR : nc; /* few rows: reading B in order is all the time there is */
    for (int64_t j = 0; j < nc; j += wide) product(&s, n0, j, sx_min64(nc, j + wide), scratch);
}

/* ---- constants ---- */
static int product_of(const sx_call *call, sx_gemm *g) { return call->kind == SX_MATMUL ? SX_NAME(sx_matmul_bf16)(call, g) : call->kind == SX_CONV ? SX_NAME(sx_conv_bf16)(call, g) : 0; }

int SX_NAME(sx_bf16_used)(const sx_call *call) {
    sx_gemm g;
    return product_of(call, &g) != 0;
}

int SX_NAME(sx_bf16_wanted)(const sx_call *call) {
    sx_gemm g;
    return product_of(call, &g) == SX_BF16_WORDS && call->in[1].packing != SX_PACK_WORDS ? SX_PACK_WORDS : 0;
}

static int64_t groups(const sx_call *call) { return call->kind == SX_CONV ? call->param[1] : 1; }

int64_t SX_NAME(sx_bf16_bytes)(const sx_call *call, int packing) {
    sx_gemm g;
    (void)packing, product_of(call, &g);
    return 2 * groups(call) * sx_round_up(g.n, SX_PANEL) * sx_round_up(g.k, 2);
}

void SX_NAME(sx_bf16_derive)(const sx_call *call, int packing, void *derived) {
    sx_gemm g;
    (void)packing, product_of(call, &g);
    const float *from = (const float *)call->in[1].data;
    uint16_t *to = derived;
    for (int64_t panel = 0; panel < groups(call) * sx_ceil_div(g.n, SX_PANEL); panel++, from += g.k * SX_PANEL, to += sx_round_up(g.k, 2) * SX_PANEL) round_panel(from, SX_PANEL, g.k, to);
}
#pragma clang attribute pop
#else
typedef int sx_nothing_here; /* other instruction sets have no such products */
#endif
