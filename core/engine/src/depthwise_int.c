/* depthwise_int.c: convolutions of bytes with one input channel a group (part of kind CONV).

   How to think
   - 16 channels (BLOCK) and some lines of output at a time. A line of X, less its zero point and with zeros for padding, is widened once into a ring of lines as words of two 16-bit numbers: pixel i and the
     next one of a channel. So a product of pairs does two taps, and no pixel is at an edge.
   - WIDTH output pixels of a line keep their sums in registers: image sizes are 7 · 2ⁿ more often than not. Those beyond the end of a line are computed and thrown away.
   - Differences of bytes have 9 bits, so products of pairs are exact. What is not taken (transposed, dilated along a line, large kernels) goes pixel by pixel.
   Measured in V8 on one core of a Zen 4 (under load): all seventeen of MobileNetV2 2.0 ms of 12.8, of which 1.0 is widening; four channels and pixels at a time without the ring took 4.0 of 16.6. */
#include "conv_int.h"

enum { BLOCK = 16, WIDTH = 7, KERNEL = 8, RING = 16 }; /* channels, pixels, the widest kernel, lines of X kept */

typedef struct {
    const sx_conv *v;
    sx_requant q;
    int64_t lines, groups, blocks; /* of a tile; tiles below and beside one another */
    int64_t out, in, pairs, ring;  /* pixels computed of a line; pairs of a line of X and of kernel; lines of the ring */
    int32_t zero;
} job;

static int is_fast(const sx_conv *v) {
    return !v->transposed && v->m == v->c && v->d[2] == 1 && v->s[2] <= 2 && v->k[2] <= KERNEL && (v->k[1] - 1) * v->d[1] < RING && v->k[0] == 1 && v->in[0] == 1 && v->out[0] == 1;
}

static job job_of(const sx_conv *v) {
    job j = {.v = v, .out = sx_round_up(v->out[2], WIDTH), .pairs = sx_ceil_div(v->k[2], 2), .ring = (v->k[1] - 1) * v->d[1] + 1, .blocks = sx_ceil_div(v->m, BLOCK)};
    j.in = (j.out - 1) * v->s[2] + 2 * j.pairs - 1;
    int64_t work = v->out[2] * BLOCK * v->taps, wanted = sx_ceil_div(8, sx_max64(1, v->n * j.blocks)); /* groups of lines for enough tiles */
    j.lines = sx_max64(1, sx_min64((1 << 18) / sx_max64(1, work), sx_ceil_div(v->out[1], wanted)));
    j.groups = sx_ceil_div(v->out[1], j.lines);
    return j;
}

typedef struct { sx_i word[BLOCK / SX_GW]; } pixel; /* of 16 channels: numbers of 16 bits, in the low half of a lane or as they lie */
SX_INLINE pixel widened(const uint8_t *x, int is_signed, sx_i zero) {
    pixel p;
#if SX_GW == 4
    typedef uint8_t b8 __attribute__((vector_size(8)));
    typedef int8_t s8 __attribute__((vector_size(8)));
    typedef uint8_t b8_any __attribute__((vector_size(8), aligned(1), may_alias));
    SX_UNROLL for (int i = 0; i < 2; i++) {
        b8 v = *(const b8_any *)(x + 8 * i);
        p.word[i] = (sx_i)((is_signed ? __builtin_convertvector((s8)v, sx_h) : __builtin_convertvector(v, sx_h)) - (sx_h)zero);
    }
#else
    (void)zero;
    SX_UNROLL for (int i = 0; i < BLOCK / SX_GW; i++) p.word[i] = sx_widen_bytes(x + i * SX_GW, is_signed) - (zero >> 16);
#endif
    return p;
}
SX_INLINE void store_pairs(pixel a, pixel b, int32_t *to) {
#if SX_GW == 4
    SX_UNROLL for (int i = 0; i < 2; i++) {
        sx_h x = (sx_h)a.word[i], y = (sx_h)b.word[i];
        sx_istore(to + 8 * i, (sx_i)__builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11));
        sx_istore(to + 8 * i + 4, (sx_i)__builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15));
    }
#else
    SX_UNROLL for (int i = 0; i < BLOCK / SX_GW; i++) sx_istore(to + i * SX_GW, (a.word[i] & 0xffff) | b.word[i] << 16);
#endif
}

/* A line of X from channel c on, n of them. */
static void widen_line(const job *j, const uint8_t *x, int n, int32_t *to) {
    const sx_conv *v = j->v;
    uint8_t some[BLOCK] = {0};
    sx_i zero = sx_isplat(j->zero & 0xffff) | sx_isplat(j->zero << 16);
    pixel none, next;
    for (int i = 0; i < BLOCK / SX_GW; i++) none.word[i] = sx_isplat(0);
    next = none;
    for (int64_t i = j->in; i >= 0; i--) {
        int64_t at = i - v->p[2];
        pixel now = none;
        if (at >= 0 && at < v->in[2]) {
            const uint8_t *from = x + at * v->xs[2];
            if (n < BLOCK) {
                for (int c = 0; c < n; c++) some[c] = from[c];
                from = some;
            }
            now = v->xv->dtype == SX_INT8 ? widened(from, 1, zero) : widened(from, 0, zero);
        }
        if (i < j->in) store_pairs(now, next, to + i * BLOCK);
        next = now;
    }
}

/* A line of output from the `rows` lines of pairs at x, weights at w. */
SX_INLINE void sum_line(const int S, const job *j, int rows, const int32_t *const *x, const int32_t *const *w, int32_t *out) {
    for (int64_t at = 0; at < j->out; at += WIDTH)
        for (int c = 0; c < BLOCK; c += SX_GW) {
            sx_i acc[WIDTH];
            SX_UNROLL for (int i = 0; i < WIDTH; i++) acc[i] = sx_isplat(0);
            for (int r = 0; r < rows; r++) {
                const int32_t *from = x[r] + at * S * BLOCK + c, *tap = w[r] + c;
                for (int64_t q = 0; q < j->pairs; q++, from += 2 * BLOCK, tap += BLOCK) {
                    sx_i t = sx_iload(tap);
                    SX_UNROLL for (int i = 0; i < WIDTH; i++) acc[i] = sx_dot16(acc[i], sx_iload(from + i * S * BLOCK), t);
                }
            }
            SX_UNROLL for (int i = 0; i < WIDTH; i++) sx_istore(out + (at + i) * BLOCK + c, acc[i]);
        }
}

/* Weights less their zero points: bytes of one tap, channels [c, c + n), as numbers. */
static void taps_of(const sx_conv *v, int64_t tap, int64_t c, int n, int32_t *to) {
    const sx_view *zw = sx_conv_zero(v, 1), *plain = v->wv;
    const uint8_t *from = (const uint8_t *)plain->data, *zero = zw ? (const uint8_t *)zw->data : 0;
    int64_t step = sx_conv_zero_step(zw);
    int is_signed = plain->dtype == SX_INT8;
    for (int i = 0; i < n; i++) to[i] = sx_byte_at(from, is_signed, plain->packing ? tap * v->m + c + i : sx_weight_at(v, c + i, 0, tap)) - sx_zero_at(zero, step, is_signed, c + i);
}

static void fast_tile(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    int64_t c = index % j->blocks * BLOCK, first = index / j->blocks % j->groups * j->lines, image = index / j->blocks / j->groups, start[SX_RANK] = {0, c}, held[RING];
    int n = (int)sx_min64(BLOCK, v->m - c);
    int32_t *w = (int32_t *)(v->call->scratch + worker * v->call->scratch_bytes), *ring = w + v->k[1] * j->pairs * BLOCK, *block = ring + j->ring * j->in * BLOCK;
    char *room = (char *)(block + j->out * BLOCK + SX_STRIP);
    const uint8_t *x = (const uint8_t *)v->xv->data + image * v->xn + c;
    for (int64_t t = 0; t < v->k[1]; t++)
        for (int64_t q = 0; q < j->pairs; q++) {
            int32_t tap[2][BLOCK] = {0};
            for (int64_t u = 0; u < sx_min64(2, v->k[2] - 2 * q); u++) taps_of(v, t * v->k[2] + 2 * q + u, c, n, tap[u]);
            for (int i = 0; i < BLOCK; i++) w[(t * j->pairs + q) * BLOCK + i] = (tap[0][i] & 0xffff) | (int32_t)((uint32_t)tap[1][i] << 16);
        }
    for (int i = 0; i < RING; i++) held[i] = -1;
    int prepared = SX_NAME(sx_requant_prepare)(v->call, &j->q, block, n, start, v->spatial + 1, 1, room);
    for (int64_t oh = first; oh < sx_min64(first + j->lines, v->out[1]); oh++) {
        const int32_t *lines[RING], *taps[RING];
        int rows = 0;
        for (int64_t t = 0; t < v->k[1]; t++) {
            int64_t ih = sx_conv_at(v, 1, oh, t);
            if (ih < 0) continue;
            int32_t *line = ring + ih % j->ring * j->in * BLOCK;
            if (held[ih % j->ring] != ih) widen_line(j, x + ih * v->xs[1], n, line), held[ih % j->ring] = ih;
            lines[rows] = line, taps[rows++] = w + t * j->pairs * BLOCK;
        }
        if (v->s[2] == 1) sum_line(1, j, rows, lines, taps, block);
        else sum_line(2, j, rows, lines, taps, block);
        SX_NAME(sx_conv_int_finish)(v, &j->q, prepared, block, (image * v->out[1] + oh) * v->out[2], v->out[2], c, n, BLOCK, room);
    }
}

/* ---- pixel by pixel ---- */
/* One pixel, anything goes: first which taps lie inside, then all registers of features over those. */
static void slow(const sx_conv *v, const uint8_t *image, int32_t zero, int64_t od, int64_t oh, int64_t ow, const int32_t *w, int32_t *out) {
    enum { LISTED = 64 };
    struct { const uint8_t *x; const int32_t *w; } inside[LISTED];
    int is_signed = v->xv->dtype == SX_INT8, add = 0, n = 0;
    sx_i z = sx_isplat(zero);
    for (int64_t tap = 0, t0 = 0, t1 = 0, t2 = 0; tap <= v->taps; tap++) {
        if (n == LISTED || tap == v->taps) {
            for (int64_t m = 0; m < v->m; m += SX_GW) {
                if (v->m == v->c && m + SX_GW <= v->m) {
                    sx_i acc = add ? sx_iload(out + m) : sx_isplat(0);
                    for (int i = 0; i < n; i++) acc = sx_dot16(acc, sx_widen_bytes(inside[i].x + m, is_signed) - z, sx_iload(inside[i].w + m));
                    sx_istore(out + m, acc);
                } else
                    for (int64_t j = m; j < sx_min64(m + SX_GW, v->m); j++) {
                        int32_t acc = add ? out[j] : 0;
                        for (int i = 0; i < n; i++) acc += (sx_byte_at(inside[i].x, is_signed, j / v->mg) - zero) * (int16_t)inside[i].w[j];
                        out[j] = acc;
                    }
            }
            n = 0, add = 1;
        }
        if (tap == v->taps) break;
        int64_t id = sx_conv_at(v, 0, od, t0), ih = sx_conv_at(v, 1, oh, t1), iw = sx_conv_at(v, 2, ow, t2);
        if (id >= 0 && ih >= 0 && iw >= 0) inside[n].x = image + id * v->xs[0] + ih * v->xs[1] + iw * v->xs[2], inside[n++].w = w + tap * v->m;
        if (++t2 == v->k[2]) t2 = 0, t1++;
        if (t1 == v->k[1]) t1 = 0, t0++;
    }
}

static int64_t span_of(const sx_conv *v) { return sx_max64(1, sx_min64(v->out[2], 8192 / v->m)); } /* pixels whose sums a worker keeps */
static int64_t weight_words(const sx_conv *v) { return sx_round_up(v->taps * v->m, 16) + 16; }

static void slow_tile(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    int32_t *w = (int32_t *)(v->call->scratch + worker * v->call->scratch_bytes), *block = w + weight_words(v);
    char *room = (char *)(block + sx_round_up(span_of(v) * v->m, 16) + SX_STRIP);
    int64_t start[SX_RANK] = {0}, total = v->n * v->out[0] * v->out[1];
    for (int64_t tap = 0; tap < v->taps; tap++) {
        taps_of(v, tap, 0, (int)v->m, w + tap * v->m);
        for (int64_t m = 0; m < v->m; m++) w[tap * v->m + m] &= 0xffff;
    }
    int prepared = SX_NAME(sx_requant_prepare)(v->call, &j->q, block, v->m, start, v->spatial + 1, 1, room);
    for (int64_t at = index * j->lines; at < sx_min64((index + 1) * j->lines, total); at++) {
        int64_t image = at / v->out[1] / v->out[0], od = at / v->out[1] % v->out[0], oh = at % v->out[1];
        for (int64_t ow = 0; ow < v->out[2]; ow += span_of(v)) {
            int64_t count = sx_min64(span_of(v), v->out[2] - ow);
            for (int64_t i = 0; i < count; i++) slow(v, (const uint8_t *)v->xv->data + image * v->xn, j->zero, od, oh, ow + i, w, block + i * v->m);
            SX_NAME(sx_conv_int_finish)(v, &j->q, prepared, block, at * v->out[2] + ow, count, 0, v->m, v->m, room);
        }
    }
}

int64_t SX_NAME(sx_depthwise_int_scratch)(const sx_conv *v) {
    job j = job_of(v);
    if (is_fast(v)) return sx_max64(SX_NAME(sx_depthwise_vnni_scratch)(v), 4 * ((v->k[1] * j.pairs + j.ring * j.in + j.out) * BLOCK + SX_STRIP) + sx_requant_scratch(BLOCK));
    return 4 * (weight_words(v) + sx_round_up(span_of(v) * v->m, 16) + SX_STRIP) + sx_requant_scratch(v->m);
}

int SX_NAME(sx_depthwise_int)(const sx_conv *v) {
    const sx_view *zx = sx_conv_zero(v, 0);
    job j = job_of(v);
    j.q = SX_NAME(sx_conv_int_requant)(v), j.zero = zx ? sx_byte_at((const uint8_t *)zx->data, v->xv->dtype == SX_INT8, 0) : 0;
    if (SX_NAME(sx_depthwise_vnni)(v, &j.q)) return SX_OK;
    if (is_fast(v)) sx_tiles(v->call, v->n * j.groups * j.blocks, fast_tile, &j);
    else {
        int64_t lines = v->n * v->out[0] * v->out[1], work = v->out[2] * v->m * v->taps;
        j.lines = sx_max64(1, sx_min64((1 << 19) / sx_max64(1, work), sx_ceil_div(lines, 4)));
        sx_tiles(v->call, sx_ceil_div(lines, j.lines), slow_tile, &j);
    }
    return SX_OK;
}
