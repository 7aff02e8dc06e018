/* pool.c: maximum (with indices), average and Lp pooling of 1 to 3 spatial axes (kind POOL). X has channel stride 1; Y and the indices any strides.

   Channels are the lanes. For a pixel the taps that lie inside the input are listed once, then each register of channels runs over them. Float types are folded in float (NaN wins a maximum);
   maxima of bytes run over vectors of bytes; with indices, or with an epilogue, one value at a time. */
#include "conv.h"
#include "sx_math.h"

#define BLOCK 8192 /* values a worker keeps before they are finished */
#define LISTED 64  /* taps of one pass over the channels */

enum { MAXIMUM, AVERAGE, LP };

typedef struct {
    sx_conv v;
    int op, in_place, include_pad, column_major;
    float p;
    int64_t ends[3], lines, span; /* padding that counts behind the input; output lines a tile takes; pixels of a block */
} job;

typedef struct { int64_t at, place; } tap;

/* Taps of a pixel inside the input, from tap number *next on, and how many the average counts. Returns how many were listed. */
static int list(const job *j, const int64_t *o, int64_t *next, tap *inside, int64_t *counted) {
    const sx_conv *v = &j->v;
    int64_t t[3] = {*next / v->k[2] / v->k[1], *next / v->k[2] % v->k[1], *next % v->k[2]}, at[3];
    int n = 0;
    for (; *next < v->taps && n < LISTED; ++*next) {
        int in = 1, counts = 1;
        for (int i = 0; i < 3; i++) {
            at[i] = o[i] * v->s[i] - v->p[i] + t[i] * v->d[i];
            in &= at[i] >= 0 && at[i] < v->in[i];
            counts &= at[i] >= -v->p[i] && at[i] < v->in[i] + j->ends[i];
        }
        if (++t[2] == v->k[2]) t[2] = 0, t[1]++;
        if (t[1] == v->k[1]) t[1] = 0, t[0]++;
        *counted += j->include_pad ? counts : in;
        if (!in) continue;
        inside[n].place = j->column_major ? (at[2] * v->in[1] + at[1]) * v->in[0] + at[0] : (at[0] * v->in[1] + at[1]) * v->in[2] + at[2];
        inside[n++].at = at[0] * v->xs[0] + at[1] * v->xs[1] + at[2] * v->xs[2];
    }
    return n;
}

/* Whether the whole window of a pixel lies in the input. */
static int interior(const sx_conv *v, const int64_t *o) {
    for (int i = 0; i < 3; i++) {
        int64_t first = o[i] * v->s[i] - v->p[i];
        if (first < 0 || first + (v->k[i] - 1) * v->d[i] >= v->in[i]) return 0;
    }
    return 1;
}

SX_INLINE sx_f power(sx_f x, float p) {
    sx_f a = sx_fselect(x < 0, -x, x);
    if (p == 1) return a;
    if (p == 2) return a * a;
    for (int i = 0; i < SX_GW; i++) a[i] = sx_pow_f32(a[i], p);
    return a;
}

/* `count` channels from c over the listed taps, added to acc. */
SX_INLINE sx_f fold(const int op, const char *x, int dtype, const tap *inside, int n, float p, sx_f acc, int64_t c, int count) {
    if (dtype == SX_FLOAT && count == SX_GW) {
        for (int i = 0; i < n; i++) {
            sx_f value = sx_fload((const float *)x + inside[i].at + c);
            acc = op == MAXIMUM ? sx_fmax(acc, value) : acc + (op == LP ? power(value, p) : value);
        }
        return acc;
    }
    for (int i = 0; i < n; i++) {
        sx_f value = sx_fsplat(0);
        for (int l = 0; l < count; l++) value[l] = sx_element(x, dtype, inside[i].at + c + l);
        acc = op == MAXIMUM ? sx_fmax(acc, value) : acc + (op == LP ? power(value, p) : value);
    }
    return acc;
}

static sx_f finished(const job *j, sx_f acc, int64_t counted) {
    if (j->op == AVERAGE) return acc / sx_fsplat((float)counted);
    if (j->op == MAXIMUM || j->p == 1) return acc;
    for (int i = 0; i < SX_GW; i++) acc[i] = j->p == 2 ? __builtin_sqrtf(acc[i]) : sx_pow_f32(acc[i], 1 / j->p);
    return acc;
}

/* One pixel; `window`: the taps of one that lies inside, from its first element on. */
static void pixel(const job *j, const char *x, const int64_t *o, const tap *window, float *out) {
    const sx_conv *v = &j->v;
    tap listed[LISTED];
    int64_t next = 0, counted = 0;
    for (int add = 0; add == 0 || next < v->taps; add = 1) {
        const tap *inside = listed;
        const char *from = x;
        int n;
        if (v->taps <= LISTED && interior(v, o)) {
            n = (int)v->taps, next = counted = n, inside = window;
            for (int i = 0; i < 3; i++) from += (o[i] * v->s[i] - v->p[i]) * v->xs[i] * sx_size_of(v->xv->dtype);
        } else {
            n = list(j, o, &next, listed, &counted);
        }
        for (int64_t next_c = 0; next_c < v->c; next_c += SX_GW) { /* the last register of channels overlaps the one before, where one pass does all taps */
            int64_t c = v->c >= SX_GW && v->taps <= LISTED ? sx_min64(next_c, v->c - SX_GW) : next_c;
            int count = (int)sx_min64(SX_GW, v->c - c), whole = count == SX_GW;
            sx_f acc = sx_fsplat(j->op == MAXIMUM ? -SX_INF32 : 0);
            if (add) acc = whole ? sx_fload(out + c) : sx_fload_part(out + c, count);
            if (j->op == MAXIMUM) acc = fold(MAXIMUM, from, v->xv->dtype, inside, n, j->p, acc, c, count);
            else if (j->op == AVERAGE) acc = fold(AVERAGE, from, v->xv->dtype, inside, n, j->p, acc, c, count);
            else acc = fold(LP, from, v->xv->dtype, inside, n, j->p, acc, c, count);
            if (next >= v->taps) acc = finished(j, acc, counted);
            if (whole) sx_fstore(out + c, acc);
            else sx_fstore_part(out + c, acc, count);
        }
    }
}

/* ---- maxima with indices, and of integers: one value at a time. The first of equals is taken, the first NaN, and padding never (index -1). ---- */
static int is_integer(const job *j) { return j->v.xv->dtype == SX_INT8 || j->v.xv->dtype == SX_UINT8; }

static void plain_pixel(const job *j, const char *x, const int64_t *o, int64_t image, int64_t *index, int64_t index_stride, char *out) {
    const sx_conv *v = &j->v;
    int dtype = v->xv->dtype;
    for (int64_t c = 0; c < v->c; c++) {
        tap inside[LISTED];
        int64_t next = 0, counted = 0, place = -1, least = dtype == SX_INT8 ? -128 : 0, largest = least;
        float best = -SX_INF32;
        while (next < v->taps) {
            int n = list(j, o, &next, inside, &counted);
            for (int i = 0; i < n; i++) {
                if (is_integer(j)) {
                    int64_t value = dtype == SX_INT8 ? ((const int8_t *)x)[inside[i].at + c] : ((const uint8_t *)x)[inside[i].at + c];
                    if (place < 0 || value > largest) largest = value, place = inside[i].place;
                } else {
                    float value = sx_element(x, dtype, inside[i].at + c);
                    if (place < 0 || value > best || (value != value && best == best)) best = value, place = inside[i].place;
                }
            }
        }
        if (is_integer(j)) ((int32_t *)out)[c] = (int32_t)largest;
        else ((float *)out)[c] = best;
        if (index) index[c * index_stride] = place < 0 ? -1 : place + (image * v->c + c) * v->in[0] * v->in[1] * v->in[2];
    }
}

/* Maxima of bytes without indices, stored where they belong. */
typedef uint8_t bytes __attribute__((vector_size(4 * SX_GW)));
typedef int8_t signed_bytes __attribute__((vector_size(4 * SX_GW)));
typedef uint8_t bytes_any __attribute__((vector_size(4 * SX_GW), aligned(1), may_alias));
typedef uint8_t few_bytes __attribute__((vector_size(16)));
typedef int8_t few_signed __attribute__((vector_size(16)));
typedef uint8_t few_any __attribute__((vector_size(16), aligned(1), may_alias));

#define LARGER(SIGNED, S, a, b) ((SIGNED) ? (__typeof__(a))__builtin_elementwise_max((S)(a), (S)(b)) : __builtin_elementwise_max(a, b))

/* One pixel over n taps; `fresh`: they are the first, else the largest so far are in `to`. */
SX_INLINE void largest_bytes(const int SIGNED, const uint8_t *x, const tap *inside, int n, int fresh, int64_t channels, uint8_t *to) {
    int64_t c = 0, width = 4 * SX_GW;
    uint8_t least = SIGNED ? 128 : 0;
    for (; c + width <= channels; c += width) {
        bytes most = fresh ? (bytes){0} + least : (bytes)*(const bytes_any *)(to + c);
        for (int i = 0; i < n; i++) most = LARGER(SIGNED, signed_bytes, most, (bytes)*(const bytes_any *)(x + inside[i].at + c));
        *(bytes_any *)(to + c) = most;
    }
    for (; c + 16 <= channels; c += 16) {
        few_bytes most = fresh ? (few_bytes){0} + least : (few_bytes)*(const few_any *)(to + c);
        for (int i = 0; i < n; i++) most = LARGER(SIGNED, few_signed, most, (few_bytes)*(const few_any *)(x + inside[i].at + c));
        *(few_any *)(to + c) = most;
    }
    for (; c < channels; c++) {
        uint8_t most = fresh ? least : to[c];
        for (int i = 0; i < n; i++) {
            uint8_t value = x[inside[i].at + c];
            most = SIGNED ? ((int8_t)value > (int8_t)most ? value : most) : value > most ? value : most;
        }
        to[c] = most;
    }
}

static void bytes_of(void *arg, int64_t at, int worker) {
    (void)worker;
    const job *j = arg;
    const sx_conv *v = &j->v;
    for (int64_t line = at * j->lines; line < sx_min64((at + 1) * j->lines, v->n * v->out[0] * v->out[1]); line++) {
        int64_t image = line / v->out[1] / v->out[0], o[3] = {line / v->out[1] % v->out[0], line % v->out[1], 0}, counted = 0;
        const uint8_t *x = (const uint8_t *)v->xv->data + image * v->xn;
        uint8_t *y = (uint8_t *)v->yv->data + image * v->yn + o[0] * v->ys[0] + o[1] * v->ys[1];
        for (; o[2] < v->out[2]; o[2]++, y += v->ys[2]) {
            tap inside[LISTED];
            int64_t next = 0;
            for (int fresh = 1; fresh || next < v->taps; fresh = 0) {
                int n = list(j, o, &next, inside, &counted);
                if (v->xv->dtype == SX_INT8) largest_bytes(1, x, inside, n, fresh, v->c, y);
                else largest_bytes(0, x, inside, n, fresh, v->c, y);
            }
        }
    }
}

static void tile_of(void *arg, int64_t at, int worker) {
    const job *j = arg;
    const sx_conv *v = &j->v;
    const sx_call *call = v->call;
    char *block = call->scratch + worker * call->scratch_bytes;
    int64_t total = v->n * v->out[0] * v->out[1];
    tap window[LISTED];
    for (int64_t t = 0; t < v->taps && v->taps <= LISTED; t++)
        window[t].at = t / v->k[2] / v->k[1] * v->d[0] * v->xs[0] + t / v->k[2] % v->k[1] * v->d[1] * v->xs[1] + t % v->k[2] * v->d[2] * v->xs[2];
    int indexed = call->n_out > 1 && call->out[1].data, plain = indexed || is_integer(j);
    for (int64_t line = at * j->lines; line < sx_min64((at + 1) * j->lines, total); line++) {
        int64_t image = line / v->out[1] / v->out[0], o[3] = {line / v->out[1] % v->out[0], line % v->out[1], 0}, start[SX_RANK] = {image};
        const char *x = v->xv->data + image * v->xn * (is_integer(j) ? 1 : sx_size_of(v->xv->dtype));
        float *y = (float *)v->yv->data + image * v->yn + o[0] * v->ys[0] + o[1] * v->ys[1];
        int last = v->spatial + 1;
        if (v->spatial > 1) start[last - 1] = o[1];
        if (v->spatial > 2) start[last - 2] = o[0];
        for (int64_t ow = 0; ow < v->out[2]; ow += j->span) {
            int64_t count = sx_min64(j->span, v->out[2] - ow);
            for (int64_t i = 0; i < count; i++) {
                o[2] = ow + i;
                int64_t *index = 0;
                if (indexed) {
                    const sx_view *places = &call->out[1];
                    index = (int64_t *)places->data + image * places->stride[0] + o[2] * places->stride[last];
                    if (v->spatial > 1) index += o[1] * places->stride[last - 1];
                    if (v->spatial > 2) index += o[0] * places->stride[last - 2];
                }
                if (plain) plain_pixel(j, x, o, image, index, indexed ? call->out[1].stride[1] : 0, block + 4 * i * v->c);
                else pixel(j, x, o, window, j->in_place ? y + o[2] * v->ys[2] : (float *)block + i * v->c);
            }
            start[last] = ow;
            if (plain || !j->in_place) sx_finish(call, block, is_integer(j) ? 2 : 0, count, v->c, v->c, start, last, 1);
        }
    }
}

static job job_of(const sx_call *call) {
    enum { OP = 1, PADS_END = 14, INCLUDE = 17, POWER, ORDER };
    job j = {.v = sx_window_of(call), .op = (int)call->param[OP], .include_pad = call->param[INCLUDE] != 0, .p = (float)sx_param_float(call->param[POWER]), .column_major = call->param[ORDER] != 0};
    for (int i = 0; i < 3; i++) j.ends[i] = i < 3 - j.v.spatial ? 0 : call->param[PADS_END + i - (3 - j.v.spatial)];
    j.in_place = sx_conv_in_place(&j.v);
    j.span = sx_max64(1, sx_min64(j.v.out[2], BLOCK / sx_max64(1, j.v.c)));
    int64_t lines = j.v.n * j.v.out[0] * j.v.out[1], work = j.v.out[2] * j.v.c * j.v.taps;
    j.lines = sx_max64(1, sx_min64((1 << 18) / sx_max64(1, work), lines / 16));
    return j;
}

int64_t SX_NAME(sx_scratch_pool)(const sx_call *call) {
    job j = job_of(call);
    return 4 * j.span * j.v.c;
}

int SX_NAME(sx_k_pool)(const sx_call *call) {
    job j = job_of(call);
    if (j.v.rows == 0 || j.v.c == 0) return SX_OK;
    if (j.v.c > 1 && j.v.xv->stride[1] != 1) return sx_fail(call, SX_E_UNSUPPORTED, 0, j.v.xv->stride[1], 1);
    if (!sx_is_float(j.v.xv->dtype) && !(is_integer(&j) && j.op == MAXIMUM)) return sx_fail(call, SX_E_DTYPE, 0, j.v.xv->dtype, j.op);
    int indexed = call->n_out > 1 && call->out[1].data, alone = is_integer(&j) && !indexed && !call->epilogue && j.v.yv->dtype == j.v.xv->dtype && (j.v.c == 1 || j.v.yv->stride[1] == 1);
    sx_tiles(call, sx_ceil_div(j.v.n * j.v.out[0] * j.v.out[1], j.lines), alone ? bytes_of : tile_of, &j);
    return SX_OK;
}
