/* depthwise.c: convolutions with one input channel a group (part of kind CONV). W packed [taps][M] or plain; M is a multiple of C.

   Channels are the lanes. A tile is a few lines of the output; along a line SPAN pixels at once keep their sums in registers, so that an input is loaded once for all taps that read it. All
   channels of a SPAN are done before the next one: what they read stays in the first-level cache. */
#include "conv.h"

#define SPAN 8
#define HALF 4
#define BLOCK 16384 /* floats of finished values a worker keeps */

typedef struct {
    const sx_conv *v;
    const float *w;          /* [taps][M] in float, or NULL: each tile copies its own */
    int64_t lines, span;     /* output lines a tile takes; pixels finished at once */
    int in_place;
} job;

/* KW taps of stride S over P output pixels, one register of channels, one kernel line; x at the first tap of the first pixel. */
SX_INLINE void line(const int KW, const int S, const int P, const float *x, int64_t xs, const float *w, int64_t m, sx_f *acc) {
    sx_f tap[KW];
    SX_UNROLL for (int t = 0; t < KW; t++) tap[t] = sx_fload(w + t * m);
    SX_UNROLL for (int i = 0; i < (P - 1) * S + KW; i++) {
        sx_f value = sx_fload(x + i * xs);
        SX_UNROLL for (int t = 0; t < KW; t++)
            if (i >= t && (i - t) % S == 0 && (i - t) / S < P) acc[(i - t) / S] += value * tap[t];
    }
}

/* P pixels, taps of every column inside the input: lines outside it are left out. */
#define FAST(KW, S, P) \
    static void fast_##KW##_##S##_##P(const sx_conv *v, const char *image, int64_t od, int64_t oh, int64_t ow, const float *w, int64_t c, float *out, int64_t ld) { \
        sx_f acc[P]; \
        SX_UNROLL for (int i = 0; i < P; i++) acc[i] = sx_fsplat(0); \
        for (int64_t t0 = 0; t0 < v->k[0]; t0++) { \
            int64_t id = sx_conv_at(v, 0, od, t0); \
            for (int64_t t1 = 0; t1 < v->k[1] && id >= 0; t1++) { \
                int64_t ih = sx_conv_at(v, 1, oh, t1); \
                if (ih < 0) continue; \
                const float *x = (const float *)image + id * v->xs[0] + ih * v->xs[1] + (ow * S - v->p[2]) * v->xs[2] + c; \
                line(KW, S, P, x, v->xs[2], w + (t0 * v->k[1] + t1) * KW * v->m + c, v->m, acc); \
            } \
        } \
        SX_UNROLL for (int i = 0; i < P; i++) sx_fstore(out + i * ld + c, acc[i]); \
    }
#define BOTH(KW, S) FAST(KW, S, 8) FAST(KW, S, 4) /* SPAN and HALF */
BOTH(3, 1) BOTH(3, 2) BOTH(5, 1) BOTH(5, 2) BOTH(7, 1)
typedef void (*fast_fn)(const sx_conv *v, const char *image, int64_t od, int64_t oh, int64_t ow, const float *w, int64_t c, float *out, int64_t ld);
typedef struct { fast_fn span, half; } fast_pair;

static fast_pair fast_for(const sx_conv *v) {
    static const struct { int width, stride; fast_pair pair; } known[] = {
        {3, 1, {fast_3_1_8, fast_3_1_4}}, {3, 2, {fast_3_2_8, fast_3_2_4}}, {5, 1, {fast_5_1_8, fast_5_1_4}}, {5, 2, {fast_5_2_8, fast_5_2_4}}, {7, 1, {fast_7_1_8, fast_7_1_4}}};
    if (!v->transposed && v->d[2] == 1 && v->xv->dtype == SX_FLOAT && v->m == v->c)
        for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
            if (v->k[2] == known[i].width && v->s[2] == known[i].stride) return known[i].pair;
    return (fast_pair){0, 0};
}

/* One pixel, features from `from` on, anything goes: first which taps lie inside, then all registers of features over those. */
static void slow(const sx_conv *v, const char *image, int64_t od, int64_t oh, int64_t ow, const float *w, int64_t from, float *out) {
    enum { LISTED = 64 };
    struct { int64_t at; const float *w; } inside[LISTED];
    int dtype = v->xv->dtype, plain = v->m == v->c && dtype == SX_FLOAT, add = 0, n = 0;
    for (int64_t tap = 0, t0 = 0, t1 = 0, t2 = 0; tap <= v->taps; tap++) {
        if (n == LISTED || tap == v->taps) {
            for (int64_t m = from; m < v->m; m += SX_GW) {
                int count = (int)sx_min64(SX_GW, v->m - m), full = count == SX_GW;
                sx_f acc = !add ? sx_fsplat(0) : full ? sx_fload(out + m) : sx_fload_part(out + m, count);
                for (int i = 0; i < n; i++) {
                    const float *x = (const float *)image + inside[i].at + m;
                    sx_f value = sx_fsplat(0);
                    if (plain) value = full ? sx_fload(x) : sx_fload_part(x, count);
                    else for (int j = 0; j < count; j++) value[j] = sx_element(image, dtype, inside[i].at + (m + j) / v->mg);
                    acc += value * (full ? sx_fload(inside[i].w + m) : sx_fload_part(inside[i].w + m, count));
                }
                if (full) sx_fstore(out + m, acc);
                else sx_fstore_part(out + m, acc, count);
            }
            n = 0, add = 1;
        }
        if (tap == v->taps) break;
        int64_t id = sx_conv_at(v, 0, od, t0), ih = sx_conv_at(v, 1, oh, t1), iw = sx_conv_at(v, 2, ow, t2);
        if (id >= 0 && ih >= 0 && iw >= 0) inside[n].at = id * v->xs[0] + ih * v->xs[1] + iw * v->xs[2], inside[n++].w = w + tap * v->m;
        if (++t2 == v->k[2]) t2 = 0, t1++;
        if (t1 == v->k[1]) t1 = 0, t0++;
    }
}

/* Output pixels [ow, ow + count) of a line, all features. The last span of those inside overlaps the one before: the same values are written again. */
static void pixels(const sx_conv *v, const float *w, int64_t image, int64_t od, int64_t oh, int64_t ow, int64_t count, float *out, int64_t ld) {
    fast_pair fast = fast_for(v);
    const char *x = v->xv->data + image * v->xn * sx_size_of(v->xv->dtype);
    int64_t whole = v->m / SX_GW * SX_GW;
    int64_t low = sx_max64(sx_ceil_div(v->p[2], v->s[2]) - ow, 0), high = sx_min64((v->in[2] - v->k[2] + v->p[2]) / v->s[2] + 1 - ow, count); /* pixels whose columns are all inside */
    if (!fast.span || v->in[2] + v->p[2] < v->k[2] || high - low < HALF) low = high = count;
    int64_t width = high - low < SPAN ? HALF : SPAN;
    for (int64_t i = 0; i < count;) {
        if (i >= low && i < high) {
            int64_t at = sx_min64(i, high - width);
            for (int64_t m = 0; m < whole; m += SX_GW) (width == SPAN ? fast.span : fast.half)(v, x, od, oh, ow + at, w, m, out + at * ld, ld);
            i = at + width;
            continue;
        }
        slow(v, x, od, oh, ow + i, w, 0, out + i * ld);
        i++;
    }
    for (int64_t i = low; i < high && whole < v->m; i++) slow(v, x, od, oh, ow + i, w, whole, out + i * ld);
}

static int64_t copied_weights(const sx_conv *v) { return v->wv->packing && v->wv->dtype == SX_FLOAT ? 0 : sx_round_up(v->taps * v->m, 16); }

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    float *scratch = (float *)(v->call->scratch + worker * v->call->scratch_bytes), *block = scratch + copied_weights(v);
    const float *w = j->w;
    if (!w) {
        const sx_view *plain = v->wv;
        for (int64_t tap = 0; tap < v->taps; tap++)
            if (plain->packing) sx_widen_row(plain->data + tap * v->m * sx_size_of(plain->dtype), plain->dtype, 1, v->m, scratch + tap * v->m);
            else
                for (int64_t m = 0; m < v->m; m++) scratch[tap * v->m + m] = sx_element(plain->data, plain->dtype, sx_weight_at(v, m, 0, tap));
        w = scratch;
    }
    int64_t total = v->n * v->out[0] * v->out[1];
    for (int64_t at = index * j->lines; at < sx_min64((index + 1) * j->lines, total); at++) {
        int64_t image = at / v->out[1] / v->out[0], od = at / v->out[1] % v->out[0], oh = at % v->out[1];
        for (int64_t ow = 0; ow < v->out[2]; ow += j->span) {
            int64_t count = sx_min64(j->span, v->out[2] - ow);
            if (j->in_place) {
                pixels(v, w, image, od, oh, ow, count, (float *)v->yv->data + image * v->yn + od * v->ys[0] + oh * v->ys[1] + ow * v->ys[2], v->ys[2]);
                continue;
            }
            pixels(v, w, image, od, oh, ow, count, block, v->m);
            sx_conv_finish(v, block, at * v->out[2] + ow, count, 0, v->m, v->m);
        }
    }
}

static int64_t span_of(const sx_conv *v) { return sx_max64(SPAN, sx_min64(v->out[2], BLOCK / v->m / SPAN * SPAN)); }

int64_t SX_NAME(sx_depthwise_scratch)(const sx_conv *v) { return 4 * (copied_weights(v) + (sx_conv_in_place(v) ? 0 : sx_round_up(span_of(v) * v->m, 16))); }

int SX_NAME(sx_depthwise)(const sx_conv *v) {
    job j = {.v = v, .w = copied_weights(v) ? 0 : (const float *)v->wv->data, .in_place = sx_conv_in_place(v)};
    int64_t lines = v->n * v->out[0] * v->out[1], work = v->out[2] * v->m * v->taps;
    j.lines = sx_max64(1, sx_min64((1 << 19) / sx_max64(1, work), lines / 16));
    j.span = j.in_place ? v->out[2] : span_of(v);
    sx_for(v->call, sx_ceil_div(lines, j.lines), tile_of, &j);
    return SX_OK;
}
