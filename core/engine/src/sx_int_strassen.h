/* sx_int_strassen.h: integer products by 49/64 of the multiplications: Strassen's method (Gaussian elimination is not optimal, 1969) in Winograd's form, with the
   fewest sums, twice. Part of gemm_int.c, where words are pairs of 16 bits and tiles of A follow one another (WebAssembly).

   Of 2 × 2 quarters of A, B and C seven products of sums of quarters make what eight products of quarters do; and again of each. Bytes less zero points have 9 bits, sums of sixteen 13: 16 hold them, and
   the products' sums wrap as all do here, so every bit is what the plain way gives.
   - A's 49 sums are made of the rows of words, four tiles at a time, once for all columns of a rectangle (and of those beside it); B's, a strip of 64 columns at a time, from its widened panels: the seven of the first
     level, then for each the seven of the second, which stay in the first-level cache while rows come.
   - Seven products of the second level lie side by side until they become one of the first; seven of those become C.
   - K is cut into blocks that can be halved twice; rows beyond a multiple of 16 and strips of fewer columns take the plain way.
   Measured in V8 on one core of a Zen 4, on a busy machine: 128 × 768 × 768 in 1.52 ms, 99 GOP/s as if all were multiplied, 352 × 256 × 1024 in 2.0 (92); the plain way's 80 to 82; with
   Strassen's own sums, five of each for four, 1.02. */
#ifndef SX_INT_STRASSEN_H
#define SX_INT_STRASSEN_H

enum { CUT = 16 /* rows, and steps of K, that can be halved twice: tiles of rows and packed words of B stay whole */, GAP = 32 /* numbers between sums, or they lie in the same cache sets */ };
enum { MADE = 4, FIRST = 4, BELOW = 5 }; /* sums that are not a quarter as it is; of B's quarters the first, the one below it, then the last */
static const uint8_t PARTNER[7] = {0, 1, 2, 6, FIRST, BELOW, 3}; /* B's sum for each of A's, both in the order of `spread` */

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
/* For panels and the sums of both levels, their products and those of the first; and for A's first sums. */
static int64_t split_room(int64_t rows, int64_t k) { return aligned64(2 * (SX_STRIP * (k + 2) + MADE * (SX_STRIP * k / 4 + SX_STRIP * k / 16 + 2 * GAP) + 7 * (rows * SX_STRIP / 2 + rows * SX_STRIP / 8 + 2 * GAP))); }
static int64_t split_bytes(const sx_igemm *g, int64_t mc) {
    int64_t k = split_k(g, mc), rows = split_rows(mc);
    return k ? aligned64(2 * a_sums(rows, k) * (g->k / k)) + split_room(rows, k) : 0;
}

/* Of `count` pieces of 2 n numbers, `step` apart, and as many further on, quarters: halves of pieces, and pieces here and there. Their sums, `apart` from one another; B's quarters themselves are not among them. */
static void spread(const int16_t *from, int step, int count, int n, int of_b, int16_t *to, int apart) {
    int second = of_b ? count * step : n, third = of_b ? n : count * step;
    for (int i = 0; i < count; i++, from += step - n)
        for (int x = 0; x < n; x += 8, from += 8, to += 8) {
            sx_h a = (sx_h)sx_iload(from), b = (sx_h)sx_iload(from + second), c = (sx_h)sx_iload(from + third), d = (sx_h)sx_iload(from + second + third);
            sx_h first = of_b ? b - a : c + d, next = of_b ? d - first : first - a;
            sx_istore(to, (sx_i)first), sx_istore(to + apart, (sx_i)next), sx_istore(to + 2 * apart, (sx_i)(of_b ? d - b : a - c)), sx_istore(to + 3 * apart, (sx_i)(of_b ? next - c : b - next));
            if (!of_b) sx_istore(to + 4 * apart, (sx_i)a), sx_istore(to + 5 * apart, (sx_i)b), sx_istore(to + 6 * apart, (sx_i)d);
        }
}

/* C (+)= what seven products, `apart` from one another, say of its quarters, of `rows` rows of `cols` sums each. */
static void join(const int32_t *from, int apart, int rows, int cols, int32_t *to, int64_t ld, int add) {
    int32_t *low = to + rows * ld;
    for (int i = 0; i < rows; i++, to += ld - cols, low += ld - cols)
        for (int x = 0; x < cols; x += SX_GW, from += SX_GW, to += SX_GW, low += SX_GW) {
            sx_i p0 = sx_iload(from), p4 = sx_iload(from + 4 * apart), two = p4 + sx_iload(from + apart), three = two + sx_iload(from + 2 * apart);
            sx_i c0 = p4 + sx_iload(from + 5 * apart), c1 = two + p0 + sx_iload(from + 3 * apart), c2 = three - sx_iload(from + 6 * apart), c3 = three + p0;
            if (add) c0 += sx_iload(to), c1 += sx_iload(to + cols), c2 += sx_iload(low), c3 += sx_iload(low + cols);
            sx_istore(to, c0), sx_istore(to + cols, c1), sx_istore(low, c2), sx_istore(low + cols, c3);
        }
}

/* C (+)= A · B: `rows` × SX_STRIP columns of k steps. a: its sums; b: panels. */
static void split_product(const int16_t *a, int rows, const int16_t *b, int k, int32_t *c, int64_t ldc, int add, int16_t *room) {
    enum { HALF = SX_STRIP / 2 };
    const int size = HALF * k / 2 + GAP, part = SX_PANEL * k / 4 + GAP, wide = SX_PANEL * (k + 2), product = rows / 2 * HALF + GAP / 2, tile = rows / 4 * SX_PANEL + GAP / 2;
    int16_t *parts = room + MADE * size;
    int32_t *products = (int32_t *)(void *)(parts + MADE * part), *tiles = products + 7 * product;
    spread(b, wide, 2, SX_PANEL * k / 2, 1, room, size);
    for (int r = 0; r < 7; r++) {
        const int s = PARTNER[r], step = s < MADE ? SX_PANEL * k / 2 : wide;
        const int16_t *from = s < MADE ? room + s * size : s == FIRST ? b : b + (s == BELOW ? 0 : 2 * wide) + SX_PANEL * k / 2;
        spread(from, step, 1, SX_PANEL * k / 4, 1, parts, part);
        for (int q = 0; q < 7; q++, a += rows * k / 16 + GAP) {
            const int t = PARTNER[q];
            const int16_t *panel = t < MADE ? parts + t * part : t == FIRST ? from : from + (t == BELOW ? 0 : step) + SX_PANEL * k / 4;
            for (int x = 0; x < SX_PANEL; x += NR) column(0, (const uint8_t *)a, k / 2, rows / 4, (const int32_t *)(const void *)panel + x, 0, k / 8, NR, tiles + q * tile + x, SX_PANEL, 0, 0);
        }
        join(tiles, tile, rows / 4, SX_PANEL, products + r * product, HALF, 0);
    }
    join(products, product, rows / 2, HALF, c, ldc, add);
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
    for (int64_t at = 0; at < g->k; at += k, a += a_sums(rows, k)) {
        for (int64_t j = 0; j < SX_STRIP / SX_PANEL; j++) widen_panel(g, panel + j * ps, n + j * SX_PANEL, at / 2, k / 2, wide + j * step);
        split_product(a, (int)rows, wide, (int)k, c, ldc, at > 0, wide + SX_STRIP / SX_PANEL * step);
        for (int64_t j = 0; rows < mc && j < SX_STRIP; j += NR)
            column(0, w->a + rows * w->rs + at * 2 * MR, w->rs, mc - rows, (const int32_t *)(const void *)(wide + j / SX_PANEL * step) + j % SX_PANEL, 0, k / 2, NR, c + rows * ldc + j, ldc, 0, at > 0);
    }
    return 1;
}
#endif
