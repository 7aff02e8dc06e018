/* sx_amx.h: 16 × 16 tiles of sums, 64 bytes of K at a time (Intel AMX), where the machine has them. A tile of B is 16 words of a packed panel as it lies. */
#ifndef SX_AMX_H
#define SX_AMX_H
#include "sx_kernel.h"
#include "sx_int_isa.h"

typedef struct {
    const uint8_t *a;      /* rows of bytes */
    int64_t rs;
    const uint8_t *tails;  /* the last K % 64 of each row, padded to 64 with zeros; NULL: rows may be read to the end of the last 64 */
    const uint8_t *edge;   /* the rows beyond the last whole 16, room for 16 of them, edge_rs apart; NULL: none */
    int64_t edge_rs;
    const uint8_t *b;      /* panels, ps bytes apart */
    int64_t ps;
    const int32_t *base;   /* where sums start; NULL: 0 */
    int32_t *c;
    int64_t ldc, mc, cols, k;
    int exact;             /* C may not be written beyond mc rows and cols columns */
    int32_t *sums;         /* where sums of K blocks gather, if they may not in C: as many rows of 16 as there are, 64 columns */
    int a_signed, b_signed;
} sx_amx_job;

#if defined(__AVX512VNNI__) && defined(__x86_64__)
static inline int sx_amx(void) { return sx_host_amx(); }

#define SX_AMX __attribute__((target("amx-tile,amx-int8")))

SX_AMX static inline void sx_amx_begin(void) {
    static const struct { uint8_t palette, start, rest[14]; uint16_t width[16]; uint8_t rows[16]; } tiles = {
        1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&tiles);
}
SX_AMX static inline void sx_amx_end(void) { _tile_release(); }

#define SX_AMX_K 768 /* the longest K block: two panels of B stay in the first-level cache */
static inline int64_t sx_amx_blocks(int64_t k) { return sx_ceil_div(k, SX_AMX_K); }

/* 16 I rows × 16 J columns over K from `at` to `end`. Tiles 0 … 3 sums, 4 and 5 rows, 6 and 7 columns. */
#define SX_AMX_BLOCK(NAME, DOT) \
    SX_AMX static inline __attribute__((always_inline)) void NAME(const int I, const int J, const uint8_t *a, int64_t rs, const uint8_t *tail, const uint8_t *b, int64_t ps, const uint8_t *last, \
                                                                 int64_t at, int64_t k, int64_t end, const int32_t *base, int64_t base_rs, int32_t *c, int64_t ldc) { \
        if (base) { \
            _tile_loadd(0, base, base_rs * 4); \
            if (J > 1) _tile_loadd(1, base + 16, base_rs * 4); \
            if (I > 1) _tile_loadd(2, base + 16 * base_rs, base_rs * 4); \
            if (I > 1 && J > 1) _tile_loadd(3, base + 16 * base_rs + 16, base_rs * 4); \
        } else { \
            _tile_zero(0); \
            if (J > 1) _tile_zero(1); \
            if (I > 1) _tile_zero(2); \
            if (I > 1 && J > 1) _tile_zero(3); \
        } \
        for (; at < end; at += 64) { \
            if (at + 64 > k) { \
                if (tail) a = tail - at, rs = 64; \
                b = last - at * 16, ps = 1024; \
            } \
            _tile_loadd(6, b + at * 16, 64); \
            _tile_loadd(4, a + at, rs); \
            if (J > 1) _tile_loadd(7, b + ps + at * 16, 64); \
            if (I > 1) _tile_loadd(5, a + 16 * rs + at, rs); \
            DOT(0, 4, 6); \
            if (J > 1) DOT(1, 4, 7); \
            if (I > 1) DOT(2, 5, 6); \
            if (I > 1 && J > 1) DOT(3, 5, 7); \
        } \
        _tile_stored(0, c, ldc * 4); \
        if (J > 1) _tile_stored(1, c + 16, ldc * 4); \
        if (I > 1) _tile_stored(2, c + 16 * ldc, ldc * 4); \
        if (I > 1 && J > 1) _tile_stored(3, c + 16 * ldc + 16, ldc * 4); \
    } \
    SX_AMX static void NAME##_any(int tall, int wide, const uint8_t *a, int64_t rs, const uint8_t *tail, const uint8_t *b, int64_t ps, const uint8_t *last, int64_t at, int64_t k, int64_t end, \
                                  const int32_t *base, int64_t base_rs, int32_t *c, int64_t ldc) { \
        if (tall && wide) NAME(2, 2, a, rs, tail, b, ps, last, at, k, end, base, base_rs, c, ldc); \
        else if (wide) NAME(1, 2, a, rs, tail, b, ps, last, at, k, end, base, base_rs, c, ldc); \
        else if (tall) NAME(2, 1, a, rs, tail, b, ps, last, at, k, end, base, base_rs, c, ldc); \
        else NAME(1, 1, a, rs, tail, b, ps, last, at, k, end, base, base_rs, c, ldc); \
    }
SX_AMX_BLOCK(sx_amx_uu, _tile_dpbuud)
SX_AMX_BLOCK(sx_amx_us, _tile_dpbusd)
SX_AMX_BLOCK(sx_amx_su, _tile_dpbsud)
SX_AMX_BLOCK(sx_amx_ss, _tile_dpbssd)

/* Columns [0, cols) of all rows. */
SX_AMX static void sx_amx_strip(const sx_amx_job *w) {
    uint8_t last[2 * 1024] __attribute__((aligned(64)));
    int32_t small[32 * 32] __attribute__((aligned(64)));
    int64_t whole = w->k / 64, rest = (w->k - whole * 64 + 3) / 4 * 64; /* bytes of a panel's last, partial tile */
    int64_t step = sx_round_up(sx_ceil_div(w->k, sx_amx_blocks(w->k)), 64);
    for (int64_t j = 0; j < w->cols; j += 32) {
        const uint8_t *b = w->b + j / 16 * w->ps;
        int wide = w->cols - j > 16;
        int64_t cols = sx_min64(32, w->cols - j);
        if (rest)
            for (int p = 0; p <= wide; p++)
                for (int64_t i = 0; i < 1024; i += 64) sx_istore(last + p * 1024 + i, i < rest ? sx_iload(b + p * w->ps + whole * 1024 + i) : sx_isplat(0));
        for (int64_t at = 0; at < w->k; at += step)
            for (int64_t i = 0; i < w->mc;) {
                int edge = w->mc - i < 16, rows = w->mc - i >= 32 ? 32 : 16, done = at + step >= w->k, in_place = !w->exact || (!edge && cols >= (wide ? 32 : 16));
                const uint8_t *a = edge ? w->edge : w->a + i * w->rs, *tail = edge || !w->tails ? 0 : w->tails + i * 64;
                int32_t *gather = w->sums ? w->sums + i * 64 + j : w->c + i * w->ldc + j, *to = w->c + i * w->ldc + j, *c = !done ? gather : in_place ? to : small;
                int64_t rs = edge ? w->edge_rs : w->rs, gather_rs = w->sums ? 64 : w->ldc, ldc = !done ? gather_rs : in_place ? w->ldc : 32;
                const int32_t *base = at ? gather : w->base ? w->base + j : 0;
                int64_t base_rs = at ? gather_rs : 0, end = done ? w->k : at + step;
                if (w->a_signed && w->b_signed) sx_amx_ss_any(rows == 32, wide, a, rs, tail, b, w->ps, last, at, w->k, end, base, base_rs, c, ldc);
                else if (w->a_signed) sx_amx_su_any(rows == 32, wide, a, rs, tail, b, w->ps, last, at, w->k, end, base, base_rs, c, ldc);
                else if (w->b_signed) sx_amx_us_any(rows == 32, wide, a, rs, tail, b, w->ps, last, at, w->k, end, base, base_rs, c, ldc);
                else sx_amx_uu_any(rows == 32, wide, a, rs, tail, b, w->ps, last, at, w->k, end, base, base_rs, c, ldc);
                if (c == small)
                    for (int64_t x = 0; x < sx_min64(rows, w->mc - i); x++)
                        for (int64_t y = 0; y < cols; y++) to[x * w->ldc + y] = small[x * 32 + y];
                i += rows;
            }
    }
}
#else
static inline int sx_amx(void) { return 0; }
static inline int64_t sx_amx_blocks(int64_t k) { return (void)k, 1; }
static inline void sx_amx_begin(void) {}
static inline void sx_amx_end(void) {}
static inline void sx_amx_strip(const sx_amx_job *w) { (void)w; }
#endif
#endif
