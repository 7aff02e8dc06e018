/* sx_gemm_wasm.h: gemm.c's micro-tile in WebAssembly, SX_MR × 8 (SX_MR: 6 relaxed, 4 else).

   V8 folds a load's constant offset and little else: rows have a pointer each, pointers are 32 bits. Unrolling over K halves the speed, for LLVM mixes the steps and V8 spills. Every access to C that
   is not of a whole register is edge()'s, so that the micro-tiles are small. All tiles of a product add in one order: along K, to C's element where it is added to, then the end. */

/* One tile: rows of A at `a`, whole registers of C at `c`, the end's operands at p and q unless e is NULL. keep: where B's steps go too, as a panel. */
SX_INLINE void micro(const int R, const part *t, const float *a, const float *b, float *c, ptrdiff_t ldc, const sx_end *e, const float *p, const float *q, float *keep) {
    sx_f acc[SX_MR][SX_NV];
    const ptrdiff_t rs = (ptrdiff_t)t->rs, bs = (ptrdiff_t)t->bs;
    const float *row[SX_MR];
    SX_UNROLL for (int i = 0; i < R; i++) {
        row[i] = a + i * rs;
        __asm__("" : "+r"(row[i])); /* or the compiler keeps one pointer and adds */
    }
    if (t->add) {
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < SX_NV; v++) acc[i][v] = sx_fload(c + i * ldc + v * SX_GW);
    } else {
        SX_UNROLL for (int i = 0; i < R; i++)
            SX_UNROLL for (int v = 0; v < SX_NV; v++) acc[i][v] = sx_fsplat(0);
    }
    for (int done = 0;;) {
        _Pragma("clang loop unroll(disable)") for (const float *stop = row[0] + (ptrdiff_t)t->run; row[0] != stop;) {
            sx_f bv[SX_NV];
            SX_UNROLL for (int v = 0; v < SX_NV; v++) bv[v] = sx_fload(b + v * SX_GW);
            if (keep) {
                SX_UNROLL for (int v = 0; v < SX_NV; v++) sx_fstore(keep + v * SX_GW, bv[v]);
                keep += SX_PANEL;
            }
            b += bs;
            SX_UNROLL for (int i = 0; i < R; i++) {
                sx_f x = sx_fsplat(*row[i]++);
                SX_UNROLL for (int v = 0; v < SX_NV; v++) acc[i][v] += x * bv[v];
            }
        }
        if (++done == (int)t->runs) break;
        SX_UNROLL for (int i = 0; i < R; i++) row[i] += (ptrdiff_t)t->jump[done - 1];
    }
    if (e) {
        SX_UNROLL for (int i = 0; i < R; i++, p += (ptrdiff_t)e->row[0], q += (ptrdiff_t)e->row[1])
            SX_UNROLL for (int v = 0; v < SX_NV; v++) acc[i][v] = sx_ended(e, acc[i][v], p + v * SX_GW, q + v * SX_GW, SX_GW);
    }
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < SX_NV; v++) sx_fstore(c + i * ldc + v * SX_GW, acc[i][v]);
}

/* `tiles` tiles of R rows, one below the other: the loop is here because a call costs some of 64 steps' time. */
typedef void (*micro_fn)(const part *t, const float *a, const float *b, float *c, ptrdiff_t ldc, const sx_end *e, const float *const *op, int tiles);
#define MICRO(R) \
    static void micro_##R(const part *t, const float *a, const float *b, float *c, ptrdiff_t ldc, const sx_end *e, const float *const *op, int tiles) { \
        const float *p = op[0], *q = op[1]; \
        const ptrdiff_t down = R * (ptrdiff_t)t->rs, down_p = e ? R * (ptrdiff_t)e->row[0] : 0, down_q = e ? R * (ptrdiff_t)e->row[1] : 0; \
        _Pragma("clang loop unroll(disable)") for (; tiles > 0; tiles--, a += down, c += R * ldc, p += down_p, q += down_q) micro(R, t, a, b, c, ldc, e, p, q, (float *)0); \
    }
MICRO(1) MICRO(2) MICRO(3) MICRO(4)
#if SX_MR == 6
MICRO(5) MICRO(6)
static const micro_fn MICRO_OF[] = {micro_1, micro_2, micro_3, micro_4, micro_5, micro_6};
#else
static const micro_fn MICRO_OF[] = {micro_1, micro_2, micro_3, micro_4};
#endif

static void micro_keep(const part *t, const float *a, const float *b, float *c, const float *const *op, float *keep, int64_t keep_ps) {
    (void)keep_ps;
    micro(SX_MR, t, a, b, c, (ptrdiff_t)t->ldc, t->end, op[0], op[1], keep);
}

/* The end's operands for row i and column j, given those of row 0 and column 0. */
SX_INLINE void move(const part *t, const float *const *op, int64_t i, int64_t j, const float **to) {
    for (int o = 0; o < SX_SUM_OPERANDS && t->end; o++) to[o] = op[o] + (ptrdiff_t)i * (ptrdiff_t)t->end->row[o] + (ptrdiff_t)j * t->end->col[o];
}

/* A tile of fewer than SX_NR columns, through memory of its own. B's panels have zeros there. */
SX_EDGE void edge(const part *t, const float *a, int r, const float *b, int cols, float *c, const float *const *op) {
    float block[SX_MR * SX_NR];
    const ptrdiff_t ldc = (ptrdiff_t)t->ldc;
    for (int i = 0; i < r && t->add; i++)
        for (int j = 0; j < cols; j++) block[i * SX_NR + j] = c[i * ldc + j];
    MICRO_OF[r - 1](t, a, b, block, SX_NR, (const sx_end *)0, op, 1);
    for (int i = 0; i < r; i++)
        for (int j = 0; j < cols; j++) {
            float x = block[i * SX_NR + j];
            if (t->end) {
                const sx_end *e = t->end;
                x = x + op[0][i * (ptrdiff_t)e->row[0] + j * e->col[0]] + op[1][i * (ptrdiff_t)e->row[1] + j * e->col[1]];
                x = x < e->lo ? e->lo : x, x = x > e->hi ? e->hi : x;
            }
            c[i * ldc + j] = x;
        }
}

/* Rows `from` to `rows` of one line in micro-tiles of nearly the same height, columns outermost: half a panel of B stays in the first-level cache and rows come. op: where the end's operands lie for
   the line's first element. */
static void cover(const part *t, const float *a, int64_t from, int64_t rows, const float *b, int64_t cols, float *c, const float *const *op) {
    const ptrdiff_t rs = (ptrdiff_t)t->rs, ldc = (ptrdiff_t)t->ldc;
    const int height = (int)(rows - from), wide = (int)cols, tiles = (height + SX_MR - 1) / SX_MR, low = tiles ? height / tiles : 0, more = height - low * tiles; /* `more` tiles have a row more than `low` */
    for (int x = 0; x < wide; x += SX_NR) {
        const float *panel = b + (x / SX_PANEL * (ptrdiff_t)t->ps + x % SX_PANEL), *at[SX_SUM_OPERANDS] = {0, 0};
        ptrdiff_t row = (ptrdiff_t)from;
        for (int r = low + 1, left = more; r >= low && r > 0; r--, left = tiles - more) {
            int together = wide - x >= SX_NR ? left : 1;
            for (; left > 0; left -= together, row += together * r) {
                move(t, op, row, x, at);
                if (wide - x >= SX_NR) MICRO_OF[r - 1](t, a + row * rs, panel, c + row * ldc + x, ldc, t->end, at, together);
                else edge(t, a + row * rs, r, panel, wide - x, c + row * ldc + x, at);
            }
        }
    }
}
