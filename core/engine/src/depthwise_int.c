/* depthwise_int.c: convolutions of bytes with one input channel a group (part of kind CONV). As depthwise.c: channels are the lanes, several pixels of a line keep their sums in registers.

   A lane is a 16-bit pair (x - zx, anything) times a pair (w - zw, 0): both differences have 9 bits, so a product of pairs is exact. */
#include "conv_int.h"

#ifdef __wasm__ /* 16 registers, of which V8 uses 12 well */
#define SPAN 4
#else
#define SPAN 8
#endif
#define HALF 4
#define BLOCK 8192 /* sums a worker keeps */

typedef struct {
    const sx_conv *v;
    sx_requant q;
    int64_t lines, span;
    int32_t zero;
} job;

SX_INLINE void line(const int KW, const int S, const int P, const int is_signed, const uint8_t *x, int64_t xs, sx_i zero, const int32_t *w, int64_t m, sx_i *acc) {
    sx_i tap[KW];
    SX_UNROLL for (int t = 0; t < KW; t++) tap[t] = sx_iload(w + t * m);
    SX_UNROLL for (int i = 0; i < (P - 1) * S + KW; i++) {
        sx_i value = sx_widen_bytes(x + i * xs, is_signed) - zero;
        SX_UNROLL for (int t = 0; t < KW; t++)
            if (i >= t && (i - t) % S == 0 && (i - t) / S < P) acc[(i - t) / S] = sx_dot16(acc[(i - t) / S], value, tap[t]);
    }
}

/* P pixels, taps of every column inside the input: lines outside it are left out. */
#define FAST(KW, S, P) \
    static void fast_##KW##_##S##_##P(const sx_conv *v, const uint8_t *image, int32_t zero, int64_t od, int64_t oh, int64_t ow, const int32_t *w, int64_t c, int32_t *out, int64_t ld) { \
        sx_i acc[P], z = sx_isplat(zero); \
        SX_UNROLL for (int i = 0; i < P; i++) acc[i] = sx_isplat(0); \
        for (int64_t t0 = 0; t0 < v->k[0]; t0++) { \
            int64_t id = sx_conv_at(v, 0, od, t0); \
            for (int64_t t1 = 0; t1 < v->k[1] && id >= 0; t1++) { \
                int64_t ih = sx_conv_at(v, 1, oh, t1); \
                if (ih < 0) continue; \
                const uint8_t *x = image + id * v->xs[0] + ih * v->xs[1] + (ow * S - v->p[2]) * v->xs[2] + c; \
                const int32_t *tap = w + (t0 * v->k[1] + t1) * KW * v->m + c; \
                if (v->xv->dtype == SX_INT8) line(KW, S, P, 1, x, v->xs[2], z, tap, v->m, acc); \
                else line(KW, S, P, 0, x, v->xs[2], z, tap, v->m, acc); \
            } \
        } \
        SX_UNROLL for (int i = 0; i < P; i++) sx_istore(out + i * ld + c, acc[i]); \
    }
#if SPAN == HALF
#define BOTH(KW, S) FAST(KW, S, 4)
#define PAIR(KW, S) {fast_##KW##_##S##_4, fast_##KW##_##S##_4}
#else
#define BOTH(KW, S) FAST(KW, S, 8) FAST(KW, S, 4)
#define PAIR(KW, S) {fast_##KW##_##S##_8, fast_##KW##_##S##_4}
#endif
BOTH(3, 1) BOTH(3, 2) BOTH(5, 1) BOTH(5, 2)
typedef void (*fast_fn)(const sx_conv *v, const uint8_t *image, int32_t zero, int64_t od, int64_t oh, int64_t ow, const int32_t *w, int64_t c, int32_t *out, int64_t ld);
typedef struct { fast_fn span, half; } fast_pair;

static fast_pair fast_for(const sx_conv *v) {
    static const struct { int width, stride; fast_pair pair; } known[] = {
        {3, 1, PAIR(3, 1)}, {3, 2, PAIR(3, 2)}, {5, 1, PAIR(5, 1)}, {5, 2, PAIR(5, 2)}};
    if (!v->transposed && v->d[2] == 1 && v->m == v->c)
        for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
            if (v->k[2] == known[i].width && v->s[2] == known[i].stride) return known[i].pair;
    return (fast_pair){0, 0};
}

/* One pixel, features from `from` on, anything goes: first which taps lie inside, then all registers of features over those. */
static void slow(const sx_conv *v, const uint8_t *image, int32_t zero, int64_t od, int64_t oh, int64_t ow, const int32_t *w, int64_t from, int32_t *out) {
    enum { LISTED = 64 };
    struct { const uint8_t *x; const int32_t *w; } inside[LISTED];
    int is_signed = v->xv->dtype == SX_INT8, add = 0, n = 0;
    sx_i z = sx_isplat(zero);
    for (int64_t tap = 0, t0 = 0, t1 = 0, t2 = 0; tap <= v->taps; tap++) {
        if (n == LISTED || tap == v->taps) {
            for (int64_t m = from; m < v->m; m += SX_GW) {
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

/* Output pixels [ow, ow + count) of a line, all features. The last span of those inside overlaps the one before. */
static void pixels(const job *j, const int32_t *w, int64_t image, int64_t od, int64_t oh, int64_t ow, int64_t count, int32_t *out, int64_t ld) {
    const sx_conv *v = j->v;
    fast_pair fast = fast_for(v);
    const uint8_t *x = (const uint8_t *)v->xv->data + image * v->xn;
    int64_t whole = v->m / SX_GW * SX_GW;
    int64_t low = sx_max64(sx_ceil_div(v->p[2], v->s[2]) - ow, 0), high = sx_min64((v->in[2] - v->k[2] + v->p[2]) / v->s[2] + 1 - ow, count); /* pixels whose columns are all inside */
    if (!fast.span || v->in[2] + v->p[2] < v->k[2] || high - low < HALF) low = high = count;
    int64_t width = high - low < SPAN ? HALF : SPAN;
    for (int64_t i = 0; i < count;) {
        if (i >= low && i < high) {
            int64_t at = sx_min64(i, high - width);
            for (int64_t m = 0; m < whole; m += SX_GW) (width == SPAN ? fast.span : fast.half)(v, x, j->zero, od, oh, ow + at, w, m, out + at * ld, ld);
            i = at + width;
            continue;
        }
        slow(v, x, j->zero, od, oh, ow + i, w, 0, out + i * ld);
        i++;
    }
    for (int64_t i = low; i < high && whole < v->m; i++) slow(v, x, j->zero, od, oh, ow + i, w, whole, out + i * ld);
}

static int64_t span_of(const sx_conv *v) { return sx_max64(SPAN, sx_min64(v->out[2], BLOCK / v->m / SPAN * SPAN)); }
static int64_t weight_words(const sx_conv *v) { return sx_round_up(v->taps * v->m, 16) + 16; }

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    const sx_view *zw = sx_conv_zero(v, 1), *plain = v->wv;
    int32_t *w = (int32_t *)(v->call->scratch + worker * v->call->scratch_bytes), *block = w + weight_words(v);
    char *room = (char *)(block + sx_round_up(span_of(v) * v->m, 16) + SX_STRIP);
    int is_signed = plain->dtype == SX_INT8;
    const uint8_t *from = (const uint8_t *)plain->data, *zero = zw ? (const uint8_t *)zw->data : 0;
    int64_t step = sx_conv_zero_step(zw), start[SX_RANK] = {0}, total = v->n * v->out[0] * v->out[1];
    for (int64_t tap = 0; tap < v->taps; tap++) {
        int64_t m = 0;
        sx_i all = sx_isplat(sx_zero_at(zero, 0, is_signed, 0));
        if (plain->packing && step < 2 && step >= 0)
            for (; m + SX_GW <= v->m; m += SX_GW) sx_istore(w + tap * v->m + m, (sx_widen_bytes(from + tap * v->m + m, is_signed) - (step ? sx_widen_bytes(zero + m, is_signed) : all)) & 0xffff);
        for (; m < v->m; m++)
            w[tap * v->m + m] = (sx_byte_at(from, is_signed, plain->packing ? tap * v->m + m : sx_weight_at(v, m, 0, tap)) - sx_zero_at(zero, step, is_signed, m)) & 0xffff;
    }
    int prepared = SX_NAME(sx_requant_prepare)(v->call, &j->q, block, v->m, start, v->spatial + 1, 1, room);
    for (int64_t at = index * j->lines; at < sx_min64((index + 1) * j->lines, total); at++) {
        int64_t image = at / v->out[1] / v->out[0], od = at / v->out[1] % v->out[0], oh = at % v->out[1];
        for (int64_t ow = 0; ow < v->out[2]; ow += j->span) {
            int64_t count = sx_min64(j->span, v->out[2] - ow);
            pixels(j, w, image, od, oh, ow, count, block, v->m);
            SX_NAME(sx_conv_int_finish)(v, &j->q, prepared, block, at * v->out[2] + ow, count, 0, v->m, v->m, room);
        }
    }
}

int64_t SX_NAME(sx_depthwise_int_scratch)(const sx_conv *v) { return 4 * (weight_words(v) + sx_round_up(span_of(v) * v->m, 16) + SX_STRIP) + sx_requant_scratch(v->m); }

int SX_NAME(sx_depthwise_int)(const sx_conv *v) {
    const sx_view *zx = sx_conv_zero(v, 0);
    job j = {.v = v, .q = SX_NAME(sx_conv_int_requant)(v), .span = span_of(v), .zero = zx ? sx_byte_at((const uint8_t *)zx->data, v->xv->dtype == SX_INT8, 0) : 0};
    if (SX_NAME(sx_depthwise_vnni)(v, &j.q)) return SX_OK;
    int64_t lines = v->n * v->out[0] * v->out[1], work = v->out[2] * v->m * v->taps;
    j.lines = sx_max64(1, sx_min64((1 << 19) / sx_max64(1, work), sx_ceil_div(lines, 4)));
    sx_tiles(v->call, sx_ceil_div(lines, j.lines), tile_of, &j);
    return SX_OK;
}
