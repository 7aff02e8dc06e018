/* depthwise.c: convolutions with one input channel a group (part of kind CONV). W packed [taps][M] or plain; M is a multiple of C.

   Channels are the lanes. A tile is a few lines of the output; along a line SPAN pixels at once keep their sums in registers, so that an input is loaded once for all taps that read it, and what
   follows (bias, bounds: sx_sum.h) is done before they are stored. All channels of a SPAN are done before the next one: what they read stays in the first-level cache. */
#include "conv.h"

#ifdef __wasm__ /* of 16 registers; 12 pixels, or 54, are whole spans: images of 14 and 56 without their borders */
#define SPAN 6
#else
#define SPAN 8
#endif
#define HALF 4
#define BLOCK 16384 /* floats of finished values a worker keeps */

typedef struct {
    const sx_conv *v;
    const float *w;          /* [taps][M] in float, or NULL: each tile copies its own */
    int64_t lines, span;     /* output lines a tile takes; pixels finished at once */
    sx_sum sum;
    int in_place;            /* results go where they belong, with the sum applied */
} job;

/* A line of taps inside the input: X where the first tap of output column 0 would lie, the taps' weights. */
typedef struct { const float *x, *w; } source;
#define LINES 64

#ifdef __wasm__
/* Pixels with a number of their own to add: a residual. */
static __attribute__((noinline)) void ended_each(int pixels, const sx_f *acc, const sx_end *e, const float *p, const float *q, float *to, ptrdiff_t ld) {
    for (int i = 0; i < pixels; i++, to += ld, p += (ptrdiff_t)e->row[0], q += (ptrdiff_t)e->row[1]) sx_fstore(to, sx_ended(e, acc[i], p, q, SX_GW));
}

/* P finished pixels, features from c on. */
SX_INLINE void ended_pixels(const int P, const sx_f *acc, ptrdiff_t c, const sx_end *e, float *out, ptrdiff_t ld) {
    float *to = out + c;
    if (!e) {
        SX_UNROLL for (int i = 0; i < P; i++) {
            sx_fstore(to, acc[i]);
            SX_WALK(to, ld);
        }
        return;
    }
    const float *p = e->data[0] + c * e->col[0], *q = e->data[1] + c * e->col[1];
    if (e->row[0] | e->row[1]) {
        sx_f sums[P];
        SX_UNROLL for (int i = 0; i < P; i++) sums[i] = acc[i];
        ended_each(P, sums, e, p, q, to, ld);
        return;
    }
    const sx_f bias = sx_fload(p), other = sx_fload(q), lo = sx_fsplat(e->lo), hi = sx_fsplat(e->hi);
    SX_UNROLL for (int i = 0; i < P; i++) {
        sx_fstore(to, sx_fat_most(sx_fat_least(acc[i] + bias + other, lo), hi));
        SX_WALK(to, ld);
    }
}

/* P pixels from column `at` on, columns of all taps inside the input, the n listed lines of taps, all features. The last register of features overlaps the one before. */
#define FAST(KW, S, P) \
    static void fast_##KW##_##S##_##P(const source *lines, int n, ptrdiff_t xs, ptrdiff_t at, ptrdiff_t m, const sx_end *e, float *out, ptrdiff_t ld) { \
        for (ptrdiff_t next = 0; next < m; next += SX_GW) { \
            const ptrdiff_t c = next < m - SX_GW ? next : m - SX_GW; \
            sx_f acc[P], tap[KW]; \
            SX_UNROLL for (int i = 0; i < P; i++) acc[i] = sx_fsplat(0); \
            _Pragma("clang loop unroll(disable)") for (int l = 0; l < n; l++) { \
                const float *x = lines[l].x + at * S * xs + c, *w = lines[l].w + c; \
                SX_UNROLL for (int t = 0; t < KW; t++) tap[t] = sx_fload(w + t * m); \
                SX_UNROLL for (int i = 0; i < (P - 1) * S + KW; i++) { \
                    sx_f value = sx_fload(x); \
                    SX_WALK(x, xs); \
                    SX_UNROLL for (int t = 0; t < KW; t++) \
                        if (i >= t && (i - t) % S == 0 && (i - t) / S < P) acc[(i - t) / S] += value * tap[t]; \
                } \
            } \
            ended_pixels(P, acc, c, e, out, ld); \
        } \
    }

/* One pixel, `taps` of a line's taps inside: the first of them at lines[].x + x and at lines[].w + w. */
static void border(const source *lines, int n, ptrdiff_t x, ptrdiff_t w, int taps, ptrdiff_t xs, ptrdiff_t m, const sx_end *e, float *out) {
    for (ptrdiff_t next = 0; next < m; next += SX_GW) {
        const ptrdiff_t c = next < m - SX_GW ? next : m - SX_GW;
        sx_f acc = sx_fsplat(0);
        for (int l = 0; l < n; l++) {
            const float *from = lines[l].x + x + c, *by = lines[l].w + w + c;
            for (int t = 0; t < taps; t++, from += xs, by += m) acc += sx_fload(from) * sx_fload(by);
        }
        ended_pixels(1, &acc, c, e, out, 0);
    }
}
#else
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

/* P pixels from column `at` on, columns of all taps inside the input, the n listed lines of taps, all features. The last register of features overlaps the one before. */
#define FAST(KW, S, P) \
    static void fast_##KW##_##S##_##P(const source *lines, int n, ptrdiff_t xs, ptrdiff_t at, ptrdiff_t m, const sx_end *e, float *out, ptrdiff_t ld) { \
        for (int64_t next = 0; next < m; next += SX_GW) { \
            int64_t c = sx_min64(next, m - SX_GW); \
            sx_f acc[P]; \
            SX_UNROLL for (int i = 0; i < P; i++) acc[i] = sx_fsplat(0); \
            for (int l = 0; l < n; l++) line(KW, S, P, lines[l].x + at * S * xs + c, xs, lines[l].w + c, m, acc); \
            if (!e) { \
                SX_UNROLL for (int i = 0; i < P; i++) sx_fstore(out + i * ld + c, acc[i]); \
                continue; \
            } \
            const float *p = e->data[0] + c * e->col[0], *q = e->data[1] + c * e->col[1]; \
            SX_UNROLL for (int i = 0; i < P; i++) sx_fstore(out + i * ld + c, sx_ended(e, acc[i], p + i * e->row[0], q + i * e->row[1], SX_GW)); \
        } \
    }
#endif
#ifdef __wasm__ /* wider kernels in one form, for the bytes' sake */
FAST(3, 1, 6) FAST(3, 1, 4) FAST(3, 2, 6) FAST(3, 2, 4) FAST(5, 1, 4) FAST(5, 2, 4) FAST(7, 1, 4)
#define PAIR(KW, S) {fast_##KW##_##S##_4, fast_##KW##_##S##_4, HALF}
#define PAIR_3(S) {fast_3_##S##_6, fast_3_##S##_4, 6}
#else
#define BOTH(KW, S) FAST(KW, S, 8) FAST(KW, S, 4)
#define PAIR(KW, S) {fast_##KW##_##S##_8, fast_##KW##_##S##_4, SPAN}
#define PAIR_3(S) PAIR(3, S)
BOTH(3, 1) BOTH(3, 2) BOTH(5, 1) BOTH(5, 2) BOTH(7, 1)
#endif
typedef void (*fast_fn)(const source *lines, int n, ptrdiff_t xs, ptrdiff_t at, ptrdiff_t m, const sx_end *e, float *out, ptrdiff_t ld);
typedef struct { fast_fn span, half; int width; } fast_pair; /* width: pixels of span; of half HALF */

static fast_pair fast_for(const sx_conv *v) {
    static const struct { int width, stride; fast_pair pair; } known[] = {
        {3, 1, PAIR_3(1)}, {3, 2, PAIR_3(2)}, {5, 1, PAIR(5, 1)}, {5, 2, PAIR(5, 2)}, {7, 1, PAIR(7, 1)}};
    if (!v->transposed && v->d[2] == 1 && v->xv->dtype == SX_FLOAT && v->m == v->c && v->m >= SX_GW && v->k[0] * v->k[1] <= LINES)
        for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
            if (v->k[2] == known[i].width && v->s[2] == known[i].stride) return known[i].pair;
    return (fast_pair){0, 0, 0};
}

/* One pixel, anything goes: first which taps lie inside, then all registers of features over those. */
static void slow(const sx_conv *v, const char *image, int64_t od, int64_t oh, int64_t ow, const float *w, float *out) {
    enum { LISTED = 64 };
    struct { int64_t at; const float *w; } inside[LISTED];
    int dtype = v->xv->dtype, plain = v->m == v->c && dtype == SX_FLOAT, add = 0, n = 0;
    for (int64_t tap = 0, t0 = 0, t1 = 0, t2 = 0; tap <= v->taps; tap++) {
        if (n == LISTED || tap == v->taps) {
            for (int64_t m = 0; m < v->m; m += SX_GW) {
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

/* The lines of taps of an output line that lie inside X; their number. */
static int list(const sx_conv *v, const float *image, const float *w, int64_t od, int64_t oh, source *to) {
    int n = 0;
    for (int64_t t0 = 0; t0 < v->k[0]; t0++)
        for (int64_t t1 = 0; t1 < v->k[1]; t1++) {
            int64_t id = sx_conv_at(v, 0, od, t0), ih = sx_conv_at(v, 1, oh, t1);
            if (id >= 0 && ih >= 0) to[n++] = (source){image + id * v->xs[0] + ih * v->xs[1] - v->p[2] * v->xs[2], w + (t0 * v->k[1] + t1) * v->k[2] * v->m};
        }
    return n;
}

/* The end as pixel i of those it was placed for sees it. */
static sx_end moved(const sx_end *e, int64_t i) {
    sx_end to = *e;
    for (int o = 0; o < SX_SUM_OPERANDS; o++) to.data[o] += i * e->row[o];
    return to;
}

/* Pixels [iw, iw + count) of lines [ih, ih + lines) of X come into the second-level cache: the next line of outputs reads them first. */
SX_INLINE void ask(const sx_conv *v, const char *image, int64_t ih, int64_t lines, int64_t iw, int64_t count) {
    int64_t width = sx_min64(count, v->in[2] - iw);
    for (int64_t l = sx_max64(ih, 0); v->spatial == 2 && l < sx_min64(ih + lines, v->in[1]); l++)
        for (int64_t at = 0; at < width * v->xs[2]; at += 16) __builtin_prefetch((const float *)image + l * v->xs[1] + iw * v->xs[2] + at, 0, 2);
}

/* Output pixels [ow, ow + count) of a line, all features; e: the end of the first. The last span of those inside, and the last register of features, overlap the ones before: the same values are
   written again. */
static void pixels(const sx_conv *v, const float *w, int64_t image, int64_t od, int64_t oh, int64_t ow, int64_t count, const sx_end *e, float *out, int64_t ld) {
    fast_pair fast = fast_for(v);
    const char *x = v->xv->data + image * v->xn * sx_size_of(v->xv->dtype);
    int64_t low = sx_max64(sx_ceil_div(v->p[2], v->s[2]) - ow, 0), high = sx_min64((v->in[2] - v->k[2] + v->p[2]) / v->s[2] + 1 - ow, count); /* pixels whose columns are all inside */
    if (!fast.span || v->in[2] + v->p[2] < v->k[2] || high - low < HALF) low = high = count;
    int64_t width = high - low < fast.width ? HALF : fast.width, next = oh * v->s[1] - v->p[1] + (v->k[1] - 1) * v->d[1] + 1; /* the first line of X the next line of outputs adds */
    source lines[LINES];
    int n = low < high ? list(v, (const float *)x, w, od, oh, lines) : 0;
#ifdef __wasm__
    const ptrdiff_t xs = (ptrdiff_t)v->xs[2], m = (ptrdiff_t)v->m;
#endif
    for (int64_t i = 0; i < count;) {
        if (i >= low && i < high) {
            int64_t at = sx_min64(i, high - width);
            sx_end here;
            if (e) here = moved(e, at);
            ask(v, x, next, v->s[1], (ow + at) * v->s[2], width * v->s[2]);
            (width == fast.width ? fast.span : fast.half)(lines, n, (ptrdiff_t)v->xs[2], (ptrdiff_t)(ow + at), (ptrdiff_t)v->m, e ? &here : 0, out + at * ld, (ptrdiff_t)ld);
            i = at + width;
            continue;
        }
#ifdef __wasm__
        if (low < high) {
            const int first = (int)((ow + i) * v->s[2] - v->p[2]), from = first < 0 ? -first : 0, to = (int)sx_min64(v->k[2], v->in[2] - first);
            sx_end here;
            if (e) here = moved(e, i);
            border(lines, n, ((ptrdiff_t)(ow + i) * (ptrdiff_t)v->s[2] + from) * xs, from * m, to - from, xs, m, e ? &here : 0, out + i * ld);
            i++;
            continue;
        }
#endif
        slow(v, x, od, oh, ow + i, w, out + i * ld);
        if (e) {
            sx_end here = moved(e, i);
            sx_end_rows(&here, 0, out + i * ld, ld, 1, v->m);
        }
        i++;
    }
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
            int64_t count = sx_min64(j->span, v->out[2] - ow), start[SX_RANK] = {image};
            if (j->in_place) {
                int last = v->spatial + 1;
                start[last] = ow;
                if (v->spatial > 1) start[last - 1] = oh;
                if (v->spatial > 2) start[last - 2] = od;
                sx_end end = sx_place_sum(v->call, &j->sum, start, last, -1);
                pixels(v, w, image, od, oh, ow, count, sx_sum_is_nothing(&j->sum) ? 0 : &end, (float *)v->yv->data + image * v->yn + od * v->ys[0] + oh * v->ys[1] + ow * v->ys[2], v->ys[2]);
                continue;
            }
            pixels(v, w, image, od, oh, ow, count, 0, block, v->m);
            sx_conv_finish(v, block, at * v->out[2] + ow, count, 0, v->m, v->m);
        }
    }
}

static int64_t span_of(const sx_conv *v) { return sx_max64(SPAN, sx_min64(v->out[2], BLOCK / v->m / SPAN * SPAN)); }

int64_t SX_NAME(sx_depthwise_scratch)(const sx_conv *v) {
    sx_sum sum;
    return 4 * (copied_weights(v) + (sx_sum_of(v->call, 1, &sum) ? 0 : sx_round_up(span_of(v) * v->m, 16)));
}

int SX_NAME(sx_depthwise)(const sx_conv *v) {
    job j = {.v = v, .w = copied_weights(v) ? 0 : (const float *)v->wv->data};
    int64_t lines = v->n * v->out[0] * v->out[1], work = v->out[2] * v->m * v->taps;
    j.in_place = sx_sum_of(v->call, 1, &j.sum);
    j.lines = sx_max64(1, sx_min64((1 << 19) / sx_max64(1, work), lines / 16));
    j.span = j.in_place ? v->out[2] : span_of(v);
    sx_tiles(v->call, sx_ceil_div(lines, j.lines), tile_of, &j);
    return SX_OK;
}
