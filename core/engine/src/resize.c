/* resize.c: X sampled on another grid, axis by axis. Formulas and their order are those of core/ops/resize.py.

   How to think
   - Every resized axis becomes a table once for a call: for each output position its taps, source position and weight (nearest: one position).
   - A task makes one line of Y along the last resized axis, for a block of the densest axis inside it that is not resized (channels where they lie last). The source line is first put together
     from the taps of the other resized axes, in the order of the axes; then the last axis is applied.
   - Floats are computed in float; integers and double in double, with products rounded before they are added, so that ties of integers fall where the reference's fall.
   - A weight of zero takes no part: it must not turn an infinity into NaN. */
#include "sx_expr.h"

#define ROOM 16384   /* elements of a line and its block that should stay in the cache */
#define WORK 8192
#define MOST ((int64_t)1 << 46)

enum { HALF_PIXEL, SYMMETRIC, PYTORCH, ALIGN_CORNERS, ASYMMETRIC, CROP };
enum { NEAREST, LINEAR, CUBIC };

/* A resized axis. index and weight are [taps][out]; weight in the type computed in. */
typedef struct {
    int axis;
    int64_t in, out, taps, twice; /* twice: nearest takes every element two times */
    double scale, start, end;
    int32_t *index;
    char *weight;
    uint8_t *outside;
} line;

typedef struct {
    const sx_call *call;
    int mode, coordinates, rounding, antialias, exclude, crop, doubles, lines, inner;  /* inner: the axis of the block, -1: none */
    line line[SX_RANK];
    double a, extrapolation;
    int64_t item, wide, block, blocks, tasks, per, longest, tables;                    /* tables: bytes */
} plan;

/* ---- tables. Volatile: every operation rounds, none is fused ---- */

#define ORIGINS(T) \
    static T origin_##T(const plan *p, const line *l, int64_t at) { \
        volatile T x = (T)at, scale = (T)l->scale, length = (T)l->in, count = (T)l->out, start = (T)l->start, end = (T)l->end; \
        volatile T exact = scale * length, a, b, half = (T)0.5; \
        switch (p->coordinates) { \
        case SYMMETRIC: \
            a = count / exact, a = 1 - a, b = (T)((double)l->in / 2), a = b * a; \
            b = x + half, b = b / scale, a = a + b; \
            return a - half; \
        case PYTORCH: if (l->out <= 1) return 0; /* fallthrough */ \
        case HALF_PIXEL: a = x + half, a = a / scale; return a - half; \
        case ASYMMETRIC: return x / scale; \
        case ALIGN_CORNERS: \
            if (l->out <= 1) return 0; \
            b = (T)(l->in - 1), a = x * b, b = exact - 1; \
            return a / b; \
        default: \
            length = (T)(l->in - 1); \
            if (l->out <= 1) { a = start + end, a = half * a; return a * length; } \
            b = end - start, b = x * b, b = b * length, a = exact - 1, b = b / a, a = start * length; \
            return a + b; } }
ORIGINS(float)
ORIGINS(double)

/* A float as NumPy converts it: what int64 does not hold is its least number. */
static int64_t whole(double x) { return x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN; }

static int64_t clip(int64_t i, int64_t n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

static double weight_of(const plan *p, double distance) {
    volatile double t = distance < 0 ? -distance : distance, a = p->a, u, v;
    if (p->mode == LINEAR) return t > 1 ? 0 : 1 - t;
    if (t <= 1) {
        u = a + 2, u = u * t, v = a + 3, u = u - v, u = u * t, u = u * t;
        return u + 1;
    }
    if (!(t < 2)) return 0;
    u = a * t, v = 5 * a, u = u - v, u = u * t, v = 8 * a, u = u + v, u = u * t, v = 4 * a;
    return u - v;
}

static void put_weight(const plan *p, const line *l, int64_t at, double w) {
    if (p->doubles) ((double *)l->weight)[at] = w;
    else ((float *)l->weight)[at] = (float)w;
}

static void fill_nearest(const plan *p, line *l) {
    l->twice = l->out == 2 * l->in;
    for (int64_t o = 0; o < l->out; o++) {
        volatile float x = origin_float(p, l, o), half = 0.5f, moved;
        moved = p->rounding == 0 ? x - half : p->rounding == 1 ? x + half : x;
        double rounded = p->rounding == 0 || p->rounding == 3 ? __builtin_ceil((double)moved) : __builtin_floor((double)moved);
        l->index[o] = (int32_t)clip(whole(rounded), l->in);
        l->twice &= l->index[o] == o / 2;
        if (p->crop) l->outside[o] = x < 0 || x > (float)(l->in - 1);
    }
}

static void fill_taps(const plan *p, const line *l) {
    double stretch = p->antialias && l->scale < 1 ? l->scale : 1;
    int64_t reach = l->taps / 2;
    for (int64_t o = 0; o < l->out; o++) {
        double x = origin_double(p, l, o), total = 0;
        int64_t first = whole(__builtin_floor(x)) + 1 - reach;
        for (int pass = 0; pass < 2; pass++) { /* the sum of the weights first */
            if (pass == 0 && !p->exclude && !p->antialias) continue;
            for (int64_t k = 0; k < l->taps; k++) {
                int64_t index = first + k;
                volatile double away = (double)index - x;
                double w = p->exclude && (index < 0 || index >= l->in) ? 0 : weight_of(p, away * stretch);
                if (pass == 0) total += w;
                else {
                    l->index[k * l->out + o] = (int32_t)clip(index, l->in);
                    put_weight(p, l, k * l->out + o, p->exclude || p->antialias ? w / (total == 0 ? 1 : total) : w);
                }
            }
        }
        if (p->crop) l->outside[o] = x < 0 || x > (double)(l->in - 1);
    }
}

/* ---- planning ---- */

static int64_t times(int64_t a, int64_t b) {
    int64_t made;
    return __builtin_mul_overflow(a, b, &made) || made > MOST ? MOST : made;
}

static void *take(int64_t *at, char *base, int64_t bytes) {
    char *here = base + *at;
    *at = sx_min64(MOST, *at + sx_ceil_div(bytes, 64) * 64);
    return here;
}

static void find_lines(plan *p) {
    const sx_view *x = p->call->in, *y = p->call->out;
    const int64_t *scales = p->call->param + 5, *roi = p->call->param + 13;
    for (int d = 0; d < x->rank; d++) {
        line l = {.axis = d, .in = x->dim[d], .out = y->dim[d], .scale = sx_param_float(scales[d]), .end = 1, .taps = 1};
        if (l.scale == 0) l.scale = l.in ? (double)l.out / (double)l.in : 1;
        if (p->crop) l.start = sx_param_float(roi[d]), l.end = sx_param_float(roi[d + x->rank]);
        if (l.scale == 1 && l.in == l.out && l.start == 0 && l.end == 1) continue;
        double stretch = p->antialias && l.scale < 1 ? l.scale : 1;
        if (p->mode != NEAREST) l.taps = 2 * (int64_t)__builtin_ceil((p->mode == LINEAR ? 1 : 2) / stretch);
        p->line[p->lines++] = l;
    }
}

static plan plan_of(const sx_call *call) {
    const sx_view *x = call->in, *y = call->out;
    const int64_t *v = call->param;
    plan p = {.call = call, .mode = (int)v[0], .coordinates = (int)v[1], .rounding = (int)v[2], .antialias = v[3] != 0, .exclude = v[4] != 0, .crop = v[1] == CROP, .inner = -1,
              .a = sx_param_float(v[29]), .extrapolation = sx_param_float(v[30]), .item = sx_element_bytes(x->dtype), .tasks = 1};
    p.doubles = x->dtype != SX_FLOAT && x->dtype != SX_FLOAT16 && x->dtype != SX_BFLOAT16;
    p.wide = p.doubles ? 8 : 4;
    find_lines(&p);
    if (!p.lines) return p;
    const line *last = p.line + p.lines - 1;
    for (int d = 0; d < y->rank; d++) {
        int resized = 0;
        for (int i = 0; i < p.lines; i++) resized |= p.line[i].axis == d;
        if (!resized && y->dim[d] > 1 && sx_magnitude(y->stride[d]) < sx_magnitude(y->stride[last->axis]) && (p.inner < 0 || sx_magnitude(y->stride[d]) < sx_magnitude(y->stride[p.inner]))) p.inner = d;
        if (d != last->axis) p.tasks = times(p.tasks, y->dim[d]);
    }
    int64_t n = p.inner < 0 ? 1 : y->dim[p.inner];
    p.longest = sx_max64(last->in, last->out);
    p.block = sx_min64(n, sx_max64(16, ROOM / sx_max64(1, p.longest)));
    p.blocks = sx_ceil_div(n, sx_max64(1, p.block));
    if (n) p.tasks = p.tasks / n * p.blocks;
    p.per = sx_max64(1, WORK / sx_max64(1, times(p.longest, p.block)));
    for (int i = 0; i < p.lines; i++) {
        line *l = p.line + i;
        l->index = take(&p.tables, call->scratch, times(times(4, l->taps), l->out));
        l->weight = take(&p.tables, call->scratch, p.mode == NEAREST ? 0 : times(times(p.wide, l->taps), l->out));
        l->outside = take(&p.tables, call->scratch, p.crop ? l->out : 0);
    }
    return p;
}

/* ---- lines, computed ---- */

/* to += w from, and of the last axis: to[o] += weight[o] from[index[o]], `block` elements each. */
#define LINES(T) \
    static void add_##T(T *restrict to, T *restrict from, T w, int64_t n) { \
        if (sizeof(T) == 4) for (int64_t i = 0; i < n; i++) to[i] += w * from[i]; \
        else { \
            for (int64_t i = 0; i < n; i++) from[i] *= w; \
            for (int64_t i = 0; i < n; i++) to[i] += from[i]; } } \
    static void apply_##T(const line *l, int64_t tap, T *restrict to, const T *restrict from, T *restrict product, int64_t block) { \
        const T *w = (const T *)l->weight + tap * l->out; \
        const int32_t *index = l->index + tap * l->out; \
        if (block == 1) { \
            for (int64_t o = 0; o < l->out; o++) product[o] = w[o] == 0 ? (T)0 : w[o] * from[index[o]]; \
            for (int64_t o = 0; o < l->out; o++) to[o] += product[o]; \
            return; } \
        for (int64_t o = 0; o < l->out; o++) { \
            const T *x = from + index[o] * block; \
            T *restrict y = to + o * block; \
            if (w[o] == 0) continue; \
            if (sizeof(T) == 4) for (int64_t i = 0; i < block; i++) y[i] += w[o] * x[i]; \
            else { \
                for (int64_t i = 0; i < block; i++) product[i] = w[o] * x[i]; \
                for (int64_t i = 0; i < block; i++) y[i] += product[i]; } } }
LINES(float)
LINES(double)

static double widest(int dtype, const char *at) {
    return dtype == SX_UINT64 ? (double)*(const uint64_t *)at : dtype == SX_INT64 ? (double)*(const int64_t *)at : (double)*(const uint32_t *)at;
}

/* n elements as the type computed in. */
static void load(const plan *p, const char *from, int64_t stride, int64_t n, char *to) {
    int dtype = p->call->in->dtype;
    if (!p->doubles) sx_load_row(dtype, SX_F32, to, from, stride, n);
    else if (dtype == SX_DOUBLE) sx_load_row(dtype, SX_F64, to, from, stride, n);
    else if (dtype == SX_INT64 || dtype == SX_UINT64 || dtype == SX_UINT32) for (int64_t i = 0; i < n; i++) ((double *)to)[i] = widest(dtype, from + i * stride * p->item);
    else {
        int32_t part[256];
        for (int64_t done = 0; done < n; done += 256) {
            int64_t m = sx_min64(256, n - done);
            sx_load_row(dtype, SX_I32, part, from + done * stride * p->item, stride, m);
            for (int64_t i = 0; i < m; i++) ((double *)to)[done + i] = part[i];
        }
    }
}

/* Rounded half to even, kept inside the type. */
#define ROUND(T, LOW, HIGH) { \
    T *to = (T *)to_; \
    for (int64_t i = 0; i < n; i++) { double v = __builtin_rint(from[i]); to[i * stride] = v > (double)LOW && v < (double)HIGH ? (T)v : v <= (double)LOW ? LOW : HIGH; } \
    return; }

static void store_whole(int dtype, char *to_, int64_t stride, const double *from, int64_t n) {
    switch (dtype) {
    case SX_UINT8: ROUND(uint8_t, 0, UINT8_MAX)
    case SX_INT8: ROUND(int8_t, INT8_MIN, INT8_MAX)
    case SX_UINT16: ROUND(uint16_t, 0, UINT16_MAX)
    case SX_INT16: ROUND(int16_t, INT16_MIN, INT16_MAX)
    case SX_UINT32: ROUND(uint32_t, 0, UINT32_MAX)
    case SX_INT32: ROUND(int32_t, INT32_MIN, INT32_MAX)
    case SX_UINT64: ROUND(uint64_t, 0, UINT64_MAX)
    case SX_INT64: ROUND(int64_t, INT64_MIN, INT64_MAX)
    default: for (int64_t i = 0; i < n; i++) ((uint8_t *)to_)[i * stride] = from[i] != 0;
    }
}

static void store(const plan *p, char *to, int64_t stride, const char *from, int64_t n) {
    int dtype = p->call->out->dtype;
    if (!p->doubles) sx_store_row(dtype, SX_F32, to, stride, from, n);
    else if (dtype == SX_DOUBLE) sx_store_row(dtype, SX_F64, to, stride, from, n);
    else store_whole(dtype, to, stride, (const double *)from, n);
}

static void zero(char *to, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 4) *(uint32_t *)(to + i) = 0;
}

/* The source line at output position at[] of the first `depth` resized axes, into rooms[depth]; x: its start. */
static void source_line(const plan *p, int depth, const int64_t *at, const char *x, int64_t n, char *const *rooms) {
    const sx_view *v = p->call->in;
    const line *last = p->line + p->lines - 1;
    if (!depth) {
        int64_t along = v->stride[last->axis];
        if (p->inner < 0) load(p, x, along, last->in, rooms[0]);
        else for (int64_t i = 0; i < last->in; i++) load(p, x + i * along * p->item, v->stride[p->inner], n, rooms[0] + i * n * p->wide);
        return;
    }
    const line *l = p->line + depth - 1;
    zero(rooms[depth], last->in * n * p->wide);
    for (int64_t k = 0; k < l->taps; k++) {
        int64_t place = k * l->out + at[depth - 1];
        double w = p->doubles ? ((const double *)l->weight)[place] : (double)((const float *)l->weight)[place];
        if (w == 0) continue;
        source_line(p, depth - 1, at, x + l->index[place] * v->stride[l->axis] * p->item, n, rooms);
        if (p->doubles) add_double((double *)rooms[depth], (double *)rooms[depth - 1], w, last->in * n);
        else add_float((float *)rooms[depth], (float *)rooms[depth - 1], (float)w, last->in * n);
    }
}

/* ---- lines, copied ---- */

#define MOVE(T) for (int64_t i = 0; i < n; i++) ((T *)to)[i * ts] = ((const T *)from)[i * fs]; return;
static void move(char *to, int64_t ts, const char *from, int64_t fs, int64_t n, int64_t item) {
    switch (item) {
    case 1: MOVE(uint8_t)
    case 2: MOVE(uint16_t)
    case 4: MOVE(uint32_t)
    case 8: MOVE(uint64_t)
    default: for (int64_t i = 0; i < n; i++) __builtin_memcpy(to + i * ts * item, from + i * fs * item, (uint64_t)item);
    }
}
#define PICK(T) { \
    T *t = (T *)to; \
    const T *f = (const T *)from; \
    if (l->twice && fs == 1 && ts == 1) for (int64_t i = 0; i < l->in; i++) t[2 * i] = t[2 * i + 1] = f[i]; \
    else for (int64_t o = 0; o < l->out; o++) t[o * ts] = f[l->index[o] * fs]; \
    return; }
static void pick(const line *l, char *restrict to, int64_t ts, const char *restrict from, int64_t fs, int64_t item) {
    switch (item) {
    case 1: PICK(uint8_t)
    case 2: PICK(uint16_t)
    case 4: PICK(uint32_t)
    case 8: PICK(uint64_t)
    default: for (int64_t o = 0; o < l->out; o++) __builtin_memcpy(to + o * ts * item, from + l->index[o] * fs * item, (uint64_t)item);
    }
}

/* The extrapolation value as an element. Nearest converts it as it is; the others round it like a result. */
static void extrapolated(const plan *p, char *to) {
    int dtype = p->call->out->dtype;
    float narrow = (float)p->extrapolation;
    if (dtype == SX_DOUBLE) sx_store_row(dtype, SX_F64, to, 1, &p->extrapolation, 1);
    else if (!p->doubles) sx_store_row(dtype, SX_F32, to, 1, &narrow, 1);
    else if (p->mode != NEAREST) store_whole(dtype, to, 1, &p->extrapolation, 1);
    else {
        double cut = __builtin_trunc(p->extrapolation);
        store_whole(dtype, to, 1, dtype == SX_BOOL ? &p->extrapolation : &cut, 1);
    }
}

/* ---- tasks ---- */

/* `before`: source and target of the line made last, which nearest repeats where it has the same source. */
static void one_line(const plan *p, int64_t number, char *const *rooms, const char **before) {
    const sx_view *x = p->call->in, *y = p->call->out;
    const line *last = p->line + p->lines - 1;
    int64_t first = number % p->blocks * p->block, rest = number / p->blocks, xat = 0, yat = 0, at[SX_RANK] = {0}, n = 1, k = p->lines - 1;
    int outside = 0;
    for (int d = y->rank - 1; d >= 0; d--) {
        if (d == last->axis || d == p->inner) continue;
        int64_t i = rest % y->dim[d], from = i;
        rest /= y->dim[d];
        if (k > 0 && p->line[k - 1].axis == d) {
            k--, at[k] = i, from = p->mode == NEAREST ? p->line[k].index[i] : 0;
            if (p->crop) outside |= p->line[k].outside[i];
        }
        xat += from * x->stride[d], yat += i * y->stride[d];
    }
    int64_t xs = 0, ys = 0, xl = x->stride[last->axis], yl = y->stride[last->axis];
    if (p->inner >= 0) {
        n = sx_min64(p->block, y->dim[p->inner] - first), xs = x->stride[p->inner], ys = y->stride[p->inner];
        xat += first * xs, yat += first * ys;
    }
    const char *from = x->data + xat * p->item;
    char *to = y->data + yat * p->item;
    if (outside) ; /* filled below */
    else if (p->mode == NEAREST) {
        if (p->inner < 0 && yl == 1 && from == before[0]) __builtin_memcpy(to, before[1], (uint64_t)(last->out * p->item));
        else if (p->inner < 0) pick(last, to, yl, from, xl, p->item);
        else for (int64_t o = 0; o < last->out; o++) move(to + o * yl * p->item, ys, from + last->index[o] * xl * p->item, xs, n, p->item);
        before[0] = p->crop ? NULL : from, before[1] = to;
    } else {
        char *made = rooms[p->lines], *product = rooms[p->lines + 1];
        source_line(p, p->lines - 1, at, from, n, rooms);
        zero(made, last->out * n * p->wide);
        for (int64_t t = 0; t < last->taps; t++) {
            if (p->doubles) apply_double(last, t, (double *)made, (const double *)rooms[p->lines - 1], (double *)product, n);
            else apply_float(last, t, (float *)made, (const float *)rooms[p->lines - 1], (float *)product, n);
        }
        if (p->inner < 0) store(p, to, yl, made, last->out);
        else for (int64_t o = 0; o < last->out; o++) store(p, to + o * yl * p->item, ys, made + o * n * p->wide, n);
    }
    if (!p->crop) return;
    char value[16];
    extrapolated(p, value);
    for (int64_t o = 0; o < last->out; o++) if (outside || last->outside[o]) move(to + o * yl * p->item, ys, value, 0, n, p->item);
}

static void task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    char *rooms[SX_RANK + 2], *at = p->call->scratch + worker * p->call->scratch_bytes + p->tables;
    const char *before[2] = {NULL, NULL};
    int64_t end = sx_min64(p->tasks, (number + 1) * p->per);
    for (int i = 0; i < p->lines + 2; i++) rooms[i] = at + i * sx_ceil_div(p->longest * p->block * p->wide, 64) * 64;
    for (int64_t i = number * p->per; i < end; i++) one_line(p, i, rooms, before);
}

int64_t SX_NAME(sx_scratch_resize)(const sx_call *call) {
    plan p = plan_of(call);
    if (!p.lines) return 0;
    return sx_min64(MOST, p.tables + (p.mode == NEAREST ? 0 : (p.lines + 2) * sx_min64(MOST / 16, sx_ceil_div(times(times(p.longest, p.block), p.wide), 64) * 64)));
}

int SX_NAME(sx_k_copy)(const sx_call *call);

int SX_NAME(sx_k_resize)(const sx_call *call) {
    plan p = plan_of(call);
    for (int d = 0; d < call->out->rank; d++) if (!call->out->dim[d]) return SX_OK;
    if (!p.lines) {
        static const int64_t plain[1 + SX_RANK];
        sx_call copy = *call;
        copy.kind = SX_COPY, copy.n_param = 1 + SX_RANK, copy.param = plain;
        return SX_NAME(sx_k_copy)(&copy);
    }
    for (int i = 0; i < p.lines; i++) {
        if (p.mode == NEAREST) fill_nearest(&p, p.line + i);
        else fill_taps(&p, p.line + i);
    }
    sx_tiles(call, sx_ceil_div(p.tasks, p.per), task, &p);
    return SX_OK;
}
