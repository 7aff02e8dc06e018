/* winograd_int.c: 3×3 convolutions of bytes with stride 1 by 4/9 of the multiplications, exactly (part of kind CONV), where words are pairs of 16 bits: byte products (VNNI and its kin) are faster as they are.

   How to think (winograd.c has the method, F(2×2, 3×3))
   - An input less its zero point has 9 bits, transformed 11. Weights are transformed with twice the usual matrix on either side, so that they stay whole numbers, of 13 bits at most; what comes out is four
     times the sums. Everything is added modulo 2³²; four times a sum fits 32 bits for up to CHANNELS channels, so a quarter of it is exact: the same bits as conv_int.c gives.
   - Weights are transformed when a program is first bound, to [16][M/16][C/2][16][2] numbers of 16 bits (3.6 times the stored bytes), less no zero point: weights that have one are left alone.
   - A tile is some rows of 2×2 squares, all across the image: about SQUARES. Its 16 matrices [squares, C] are made once, then features are done 16 at a time: 16 products, the transform back, the epilogue.
   Measured in V8 on one core of a Zen 4: ResNet-50 QDQ, whose last 3×3 layers (16 squares) stay direct, 106 ms of processor time, 125 without; the transforms are 5 % of it. */
#include "conv_int.h"

#if SX_DEPTH == 2
enum { SQUARES = 56, CHANNELS = 896, LEAST = 8 /* tiles wanted */, WORDS = SX_PACK_WINOGRAD + 32 /* the packing */ };

typedef struct {
    const sx_conv *v;
    sx_requant q;
    int64_t across, down, rows, blocks; /* squares of an image; rows of them in a tile, tiles below one another */
    int64_t features, groups;           /* of a tile; tiles beside one another */
    int64_t squares, plane, rs;         /* of a tile; bytes of a matrix, of its rows */
    uint8_t zero;
} job;

static job job_of(const sx_conv *v) {
    job j = {.v = v, .across = sx_ceil_div(v->out[2], 2), .down = sx_ceil_div(v->out[1], 2), .rs = 2 * v->c + 64};
    j.rows = sx_max64(1, sx_min64(j.down, SQUARES / j.across));
    j.blocks = sx_ceil_div(j.down, j.rows), j.rows = sx_ceil_div(j.down, j.blocks);
    j.features = sx_round_up(sx_max64(64, v->m / sx_ceil_div(LEAST, v->n * j.blocks)), SX_PANEL), j.groups = sx_ceil_div(v->m, j.features);
    j.squares = j.rows * j.across, j.plane = sx_round_up(j.squares, 4) * j.rs;
    return j;
}

/* ---- weights ---- */
int SX_NAME(sx_conv_int_derives)(const sx_call *call) {
    sx_conv v = sx_conv_of(call);
    const sx_view *zw = sx_conv_zero(&v, 1);
    if (v.spatial != 2 || v.transposed || v.group != 1 || v.wv->packing != SX_PACK_CONV || v.c % 16 || v.c < 32 || v.c > CHANNELS || v.m < 32) return 0;
    for (int i = 1; i < 3; i++)
        if (v.k[i] != 3 || v.s[i] != 1 || v.d[i] != 1) return 0;
    if (zw && !zw->data) return 0; /* no constant */
    for (int64_t i = 0; zw && i < (sx_conv_zero_step(zw) ? zw->dim[0] : 1); i++) if (zw->data[i * sx_conv_zero_step(zw)]) return 0;
    return v.n * sx_ceil_div(v.out[1], 2) * sx_ceil_div(v.out[2], 2) >= 36 ? WORDS : 0;
}

int64_t SX_NAME(sx_conv_int_derived_bytes)(const sx_call *call) { return 32 * sx_round_up(call->in[1].dim[0], SX_PANEL) * call->in[1].dim[1]; }

SX_EDGE void side(const int32_t *g, int step, int32_t *u) { u[0] = 2 * g[0], u[1] = g[0] + g[step] + g[2 * step], u[2] = g[0] - g[step] + g[2 * step], u[3] = 2 * g[2 * step]; }

void SX_NAME(sx_conv_int_derive)(const sx_call *call, void *derived) {
    const sx_view *w = &call->in[1];
    int64_t c = w->dim[1], panels = sx_ceil_div(w->dim[0], SX_PANEL);
    for (int64_t p = 0; p < panels; p++)
        for (int64_t k = 0; k < c; k++)
            for (int64_t l = 0; l < SX_PANEL; l++) {
                int32_t g[9], half[4][3], u[4];
                for (int64_t tap = 0; tap < 9; tap++) g[tap] = sx_byte_at((const uint8_t *)w->data, w->dtype == SX_INT8, (p * 9 * c + (tap * c + k) / 4 * 4) * SX_PANEL + l * 4 + k % 4);
                for (int b = 0; b < 3; b++) {
                    side(g + b, 3, u);
                    for (int i = 0; i < 4; i++) half[i][b] = u[i];
                }
                for (int i = 0; i < 4; i++) {
                    side(half[i], 1, u);
                    for (int b = 0; b < 4; b++) ((int16_t *)derived)[(((i * 4 + b) * panels + p) * c + k / 2 * 2) * SX_PANEL + 2 * l + k % 2] = (int16_t)u[b];
                }
            }
}

/* ---- activations ---- */
typedef uint8_t bytes2 __attribute__((vector_size(2 * SX_GW)));
typedef int8_t signed2 __attribute__((vector_size(2 * SX_GW)));
typedef uint8_t bytes2_any __attribute__((vector_size(2 * SX_GW), aligned(1), may_alias));
SX_INLINE sx_h channels(const uint8_t *x, int is_signed, sx_h zero) {
    bytes2 b = *(const bytes2_any *)x;
    return (is_signed ? __builtin_convertvector((signed2)b, sx_h) : __builtin_convertvector(b, sx_h)) - zero;
}

SX_INLINE void forward(const sx_h *d, int step, sx_h *t) { t[0] = d[0] - d[2 * step], t[step] = d[step] + d[2 * step], t[2 * step] = d[2 * step] - d[step], t[3 * step] = d[3 * step] - d[step]; }

/* Matrices of the 4×4 pixels `from`, channels from c on. */
SX_INLINE void square(const uint8_t *const *from, int64_t c, int is_signed, sx_h zero, sx_h *t) {
    sx_h d[16];
    SX_UNROLL for (int i = 0; i < 16; i++) d[i] = channels(from[i] + c, is_signed, zero);
    SX_UNROLL for (int i = 0; i < 4; i++) forward(d + i, 4, t + i);
    SX_UNROLL for (int i = 0; i < 4; i++) {
        sx_h made[4];
        forward(t + 4 * i, 1, made);
        SX_UNROLL for (int b = 0; b < 4; b++) t[4 * i + b] = made[b];
    }
}

/* The matrices of tile rows [row, row + rows); `none` is a pixel of the zero point. */
static void transform(const job *j, int64_t image, int64_t row, int64_t rows, const uint8_t *none, uint8_t *to) {
    const sx_conv *v = j->v;
    int is_signed = v->xv->dtype == SX_INT8;
    sx_h zero = (sx_h){0} + (int16_t)sx_byte_at(&j->zero, is_signed, 0), made[4][16];
    for (int64_t s = 0, total = rows * j->across; s < total; s += 4) {
        const uint8_t *from[4][16];
        for (int64_t i = 0; i < 4; i++) { /* beyond the last: that again, unread */
            int64_t at = sx_min64(s + i, total - 1), h = (row + at / j->across) * 2 - v->p[1], w = at % j->across * 2 - v->p[2];
            for (int64_t p = 0; p < 16; p++) {
                int64_t y = h + p / 4, x = w + p % 4;
                int inside = y >= 0 && x >= 0 && y < v->in[1] && x < v->in[2];
                from[i][p] = inside ? (const uint8_t *)v->xv->data + image * v->xn + y * v->xs[1] + x * v->xs[2] : none;
            }
        }
        for (int64_t c = 0; c < v->c; c += 2 * SX_GW) {
            for (int i = 0; i < 4; i++) {
                if (is_signed) square(from[i], c, 1, zero, made[i]);
                else square(from[i], c, 0, zero, made[i]);
            }
            for (int a = 0; a < 16; a++) {
                sx_h four[4] = {made[0][a], made[1][a], made[2][a], made[3][a]};
                sx_words_store(four, c, to + a * j->plane + s * j->rs, j->rs);
            }
        }
    }
}

SX_INLINE void backward(const sx_i *m, int step, sx_i *y) { y[0] = m[0] + m[step] + m[2 * step], y[step] = m[step] - m[2 * step] + m[3 * step]; }

/* 16 features of all squares: from 16 matrices of sums to lines of pixels, `width` of them. */
static void restore(const job *j, int64_t rows, const int32_t *sums, int64_t plane, int32_t *to) {
    for (int64_t s = 0; s < rows * j->across; s++, sums += SX_PANEL) {
        int32_t *out = to + (s / j->across * 4 * j->across + s % j->across * 2) * SX_PANEL;
        for (int m = 0; m < SX_PANEL; m += SX_GW) {
            sx_i t[16], y[4];
            SX_UNROLL for (int i = 0; i < 4; i++) {
                sx_i d[4];
                SX_UNROLL for (int b = 0; b < 4; b++) d[b] = sx_iload(sums + (4 * b + i) * plane + m);
                backward(d, 1, y), t[i] = y[0], t[4 + i] = y[1];
            }
            SX_UNROLL for (int i = 0; i < 2; i++) {
                backward(t + 4 * i, 1, y);
                SX_UNROLL for (int b = 0; b < 2; b++) sx_istore(out + (i * 2 * j->across + b) * SX_PANEL + m, y[b] >> 2);
            }
        }
    }
}

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    int64_t first = index % j->groups * j->features, row = index / j->groups % j->blocks * j->rows, image = index / j->groups / j->blocks, panels = sx_ceil_div(v->m, SX_PANEL);
    int64_t rows = sx_min64(j->rows, j->down - row), count = rows * j->across, plane = j->squares * SX_PANEL, start[SX_RANK] = {image, 0};
    uint8_t *matrices = (uint8_t *)v->call->scratch + worker * v->call->scratch_bytes, *none = matrices + 16 * j->plane;
    int32_t *sums = (int32_t *)(void *)(none + sx_round_up(v->c, 64)), *block = sums + 16 * plane;
    char *room = (char *)(block + 4 * plane + SX_STRIP);
    for (int64_t i = 0; i < v->c; i++) none[i] = j->zero;
    transform(j, image, row, rows, none, matrices);
    for (int64_t m = first; m < sx_min64(first + j->features, v->m); m += SX_PANEL) {
        int64_t cols = sx_min64(SX_PANEL, v->m - m);
        for (int a = 0; a < 16; a++)
            SX_NAME(sx_iwords)(matrices + a * j->plane, j->rs, count, (const int32_t *)(const void *)v->wv->data + (a * panels + m / SX_PANEL) * v->c / 2 * SX_PANEL, v->c / 2, sums + a * plane, SX_PANEL);
        restore(j, rows, sums, plane, block);
        start[1] = m;
        int prepared = SX_NAME(sx_requant_prepare)(v->call, &j->q, block, cols, start, v->spatial + 1, 1, room);
        for (int64_t oh = 2 * row; oh < sx_min64(2 * (row + rows), v->out[1]); oh++)
            SX_NAME(sx_conv_int_finish)(v, &j->q, prepared, block + (oh - 2 * row) * 2 * j->across * SX_PANEL, (image * v->out[1] + oh) * v->out[2], v->out[2], m, cols, SX_PANEL, room);
    }
}

int64_t SX_NAME(sx_winograd_int_scratch)(const sx_conv *v) {
    job j = job_of(v);
    return 16 * j.plane + sx_round_up(v->c, 64) + 4 * (20 * j.squares * SX_PANEL + SX_STRIP) + sx_requant_scratch(SX_PANEL);
}

int SX_NAME(sx_winograd_int)(const sx_conv *v) {
    const sx_view *zx = sx_conv_zero(v, 0);
    job j = job_of(v);
    j.q = SX_NAME(sx_conv_int_requant)(v), j.zero = zx ? *(const uint8_t *)zx->data : 0;
    sx_tiles(v->call, v->n * j.blocks * j.groups, tile_of, &j);
    return SX_OK;
}
#endif
