/* sx_int_strassen.h: integer products by 49/64 of the multiplications: Strassen's method (Gaussian elimination is not optimal, 1969), twice. Part of gemm_int.c, where words are pairs of 16 bits and
   tiles of A follow one another (WebAssembly).

   Of 2 × 2 quarters of A, B and C seven products of sums of quarters make what eight products of quarters do; and again of each. Bytes less zero points have 9 bits, sums of four 11: 16 hold them, and
   the products' sums wrap as all do here, so every bit is what the plain way gives.
   - A's 49 sums are made of the rows of words, four tiles at a time, once for all columns of a rectangle (and of those beside it); B's, a strip of 64 columns at a time, from its widened panels: the seven of the first
     level, then for each the seven of the second, which stay in the first-level cache while rows come.
   - A product of the second level goes from registers to its one or two quarters of one of the first, which then goes to C.
   - K is cut into blocks that can be halved twice; rows beyond a multiple of 16 and strips of fewer columns take the plain way.
   Measured in V8 on one core of a Zen 4, on a busy machine, against the plain way: 128 × 768 × 768 0.87 of the time, 352 × 512 × 1024 0.85; 96 GOP/s for the plain way's 80 to 82. */
#ifndef SX_INT_STRASSEN_H
#define SX_INT_STRASSEN_H

enum { CUT = 16 /* rows, and steps of K, that can be halved twice: tiles of rows and packed words of B stay whole */, GAP = 32 /* numbers between sums, or they lie in the same cache sets */ };
static const uint8_t PARTNER[7] = {0, 2, 6, 5, 3, 4, 1}; /* B's sum for each of A's, both in the order of `spread` */
/* To which of C's quarters each product goes, and how; and to which other. */
static const int8_t GOES[7][4] = {{0, SET, 3, SET}, {2, SET, 3, LESS}, {1, SET, 3, MORE}, {0, MORE, 2, MORE}, {0, LESS, 1, MORE}, {3, MORE, 0, NONE}, {0, MORE, 0, NONE}};

/* Steps of K that are multiplied so at once; 0: they are not. */
static int64_t split_k(const sx_igemm *g, int64_t mc) {
    enum { MOST = 1024, SHORT = 192, LOW = 64, NARROW = 256 /* columns, or A's sums are not worth their making */ };
    if (mc < LOW || g->n < NARROW) return 0;
    for (int64_t blocks = sx_ceil_div(g->k, MOST); g->k / blocks >= SHORT; blocks++)
        if (g->k % (CUT * blocks) == 0) return g->k / blocks;
    return 0;
}
static int64_t split_rows(int64_t mc) { return mc / CUT * CUT; }
static int64_t a_sums(int64_t rows, int64_t k) { return 49 * (rows * k / 16 + GAP); } /* numbers: of the products' left sides, of one block of K */
static int64_t split_room(int64_t rows, int64_t k) { return aligned64(2 * (SX_STRIP * (k + 2) + 7 * (SX_STRIP * k / 4 + GAP) + rows * SX_STRIP / 2 + 7 * (SX_STRIP * k / 16 + GAP))); } /* for A's first sums, too */
static int64_t split_bytes(const sx_igemm *g, int64_t mc) {
    int64_t k = split_k(g, mc), rows = split_rows(mc);
    return k ? aligned64(2 * a_sums(rows, k) * (g->k / k)) + split_room(rows, k) + (g->sink ? 0 : mc * SX_STRIP * 4) : 0;
}

/* Of `count` pieces of 2 n numbers, `step` apart, and as many further on, quarters: halves of pieces, and pieces here and there. Their seven sums, `apart` from one another. */
static void spread(const int16_t *from, int step, int count, int n, int of_b, int16_t *to, int apart) {
    int second = of_b ? count * step : n, third = of_b ? n : count * step;
    for (int i = 0; i < count; i++, from += step - n)
        for (int x = 0; x < n; x += 8, from += 8, to += 8) {
            sx_h a = (sx_h)sx_iload(from), b = (sx_h)sx_iload(from + second), c = (sx_h)sx_iload(from + third), d = (sx_h)sx_iload(from + second + third);
            sx_istore(to, (sx_i)(a + d)), sx_istore(to + apart, (sx_i)(c + d)), sx_istore(to + 2 * apart, (sx_i)a), sx_istore(to + 3 * apart, (sx_i)d);
            sx_istore(to + 4 * apart, (sx_i)(a + b)), sx_istore(to + 5 * apart, (sx_i)(c - a)), sx_istore(to + 6 * apart, (sx_i)(b - d));
        }
}

/* `rows` lines of 32 sums. */
static void put(const int32_t *from, int rows, int32_t *to, int ldc, int how) {
    sx_i less = sx_isplat(-(how == LESS)), keep = sx_isplat(-(how != SET));
    for (int i = 0; i < rows; i++, from += SX_STRIP / 2, to += ldc)
        for (int x = 0; x < SX_STRIP / 2; x += SX_GW) sx_istore(to + x, (sx_iload(to + x) & keep) + ((sx_iload(from + x) ^ less) - less));
}

/* C (+)= A · B: `rows` × SX_STRIP columns of k steps. a: its sums; b: panels. */
static void split_product(const int16_t *a, int rows, const int16_t *b, int k, int32_t *c, int ldc, int add, int16_t *room) {
    enum { HALF = SX_STRIP / 2 };
    const int size = HALF * k / 2 + GAP, part = SX_PANEL * k / 4 + GAP, below = rows / 4 * HALF;
    int32_t *made = (int32_t *)(void *)(room + 7 * size);
    int16_t *parts = (int16_t *)(void *)(made + 2 * below);
    spread(b, SX_PANEL * (k + 2), 2, SX_PANEL * k / 2, 1, room, size);
    for (int r = 0; r < 7; r++) {
        spread(room + PARTNER[r] * size, SX_PANEL * k / 2, 1, SX_PANEL * k / 4, 1, parts, part);
        for (int q = 0; q < 7; q++, a += rows * k / 16 + GAP)
            for (int x = 0; x < SX_PANEL; x += NR) {
                const int8_t *goes = GOES[q];
                column(0, (const uint8_t *)a, k / 2, rows / 4, (const int32_t *)(const void *)(parts + PARTNER[q] * part) + x, 0, k / 8, NR, made + goes[0] / 2 * below + goes[0] % 2 * SX_PANEL + x, HALF, 0, goes[1],
                       made + goes[2] / 2 * below + goes[2] % 2 * SX_PANEL + x, goes[3]);
            }
        for (int q = 0; q < 4; q += 2) {
            int how = GOES[r][q + 1], at = GOES[r][q];
            if (how != NONE) put(made, rows / 2, c + at / 2 * (rows / 2) * ldc + at % 2 * HALF, ldc, how == SET && add ? MORE : how);
        }
    }
}

/* The sums of A, from rows of words: of four tiles at a time, whose first sums stay in a cache. */
static void split_a(const sx_igemm *g, const uint8_t *rows, int64_t mc, int16_t *to) {
    int k = (int)split_k(g, mc), count = (int)split_rows(mc) / CUT, tile = MR * (int)row_bytes(g) / 2, n = k / 2 * MR, part = count * n / 2 + GAP;
    int16_t *room = to + a_sums(split_rows(mc), k) * (g->k / k);
    for (int64_t at = 0; at < g->k; at += k, to += 49 * part)
        for (int t = 0; t < count; t++) {
            spread((const int16_t *)(const void *)rows + at * MR + t * tile, count * tile, 2, n, 0, room, 2 * n + GAP);
            for (int r = 0; r < 7; r++) spread(room + r * (2 * n + GAP), n, 1, n / 2, 0, to + 7 * r * part + t * n / 2, part);
        }
}

/* As vector_strip, whose arguments these are; 0 where the plain way is to be taken. */
static int split_strip(const work *w, int64_t mc, int64_t n, int64_t cols, const uint8_t *panel, int64_t ps, int32_t *c, int64_t ldc) {
    const sx_igemm *g = w->g;
    int64_t k = split_k(g, mc), rows = split_rows(mc), step = SX_PANEL * (k + 2);
    if (!k || cols != SX_STRIP) return 0;
    const int16_t *a = w->split;
    int16_t *wide = w->split + a_sums(rows, k) * (g->k / k);
    int32_t *final = c;
    int64_t final_ld = ldc;
    if (!g->sink) c = (int32_t *)(void *)((char *)w->split + split_bytes(g, mc)) - mc * SX_STRIP, ldc = SX_STRIP; /* sums are added to more than once, which far lines of the same cache sets are too slow for */
    for (int64_t at = 0; at < g->k; at += k, a += a_sums(rows, k)) {
        for (int64_t j = 0; j < SX_STRIP / SX_PANEL; j++) widen_panel(g, panel + j * ps, n + j * SX_PANEL, at / 2, k / 2, wide + j * step);
        split_product(a, (int)rows, wide, (int)k, c, (int)ldc, at > 0, wide + SX_STRIP / SX_PANEL * step);
        for (int64_t j = 0; rows < mc && j < SX_STRIP; j += NR)
            column(0, w->a + rows * w->rs + at * 2 * MR, w->rs, mc - rows, (const int32_t *)(const void *)(wide + j / SX_PANEL * step) + j % SX_PANEL, 0, k / 2, NR, c + rows * ldc + j, ldc, 0, at > 0 ALONE);
    }
    for (int64_t i = 0; c != final && i < mc; i++)
        for (int64_t j = 0; j < SX_STRIP; j += SX_GW) sx_istore(final + i * final_ld + j, sx_iload(c + i * SX_STRIP + j));
    return 1;
}
#endif
